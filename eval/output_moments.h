/* SPDX-License-Identifier: GPL-3.0-or-later
 * output_moments.h: measures the second moments of the gradients at the outputs of every linear (model/compress/output_moments.h): of the log-likelihoods of labels that are
 * drawn from full precision's own predictions, through all that is behind it (gradient.h). */
#ifndef BB_EVAL_OUTPUT_MOMENTS_H
#define BB_EVAL_OUTPUT_MOMENTS_H

#include "eval/evaluator.h"
#include "model/compress/database.h"

typedef struct bb_output_moments_options {
    const bb_windows *windows; /* calibration windows, */
    uint32_t          n;      /* of which so many, evenly spaced, are taken: all at once, or in rounds as large as bb_gradient_count allows, whose mean it is */
    uint32_t          labels; /* passes of drawn labels, at least 1 */
    uint64_t          seed;   /* of the labels */
    uint32_t          most;   /* windows of a round, at most; 0: no other limit than that */
} bb_output_moments_options;

/* From a file in the database's folder that is named by all that they depend on, or measured and written there, a round after the other: interrupted, the same call goes on
 * behind the last whole one. */
bb_status bb_output_moments_measure(const bb_model *m, const bb_backend *backend, const bb_database *db, const bb_output_moments_options *o,
                                    bb_output_moments *out, bb_err *err);

#endif
