/* SPDX-License-Identifier: GPL-3.0-or-later
 * floor.h: the noise floor of the reference: the KL of a copy of the model in F16. Differences of plans below it mean nothing, since the model's own
 * files differ as much from one 16-bit type to the other. 0 for a model that is stored in F16.
 */
#ifndef BB_EVAL_FLOOR_H
#define BB_EVAL_FLOOR_H

#include "eval/evaluator.h"

/* Scores an F16 copy of every matrix at a level; memory: that copy, for the call. */
bb_status bb_noise_floor(const bb_model *model, bb_net_evaluator *e, uint32_t level, bb_evaluation *out, bb_err *err);

#endif
