/* SPDX-License-Identifier: GPL-3.0-or-later
 * driver.h: runs an algorithm: asks, scores through the ledger, tells, until a stop rule holds; then scores the best plans at the top level.
 *
 * Everything asked is checked (loadable, within the largest budget) before it is evaluated; a violation is a BB_ASSERT. Deterministic;
 * an interrupted run is resumed by running it again with the same store.
 */
#ifndef BB_SEARCH_DRIVER_H
#define BB_SEARCH_DRIVER_H

#include "search/algs/algorithm.h"
#include "search/archive.h"
#include "search/ledger.h"

typedef enum bb_drive_stop { BB_DRIVE_EVALUATIONS, BB_DRIVE_TOKENS, BB_DRIVE_STALL, BB_DRIVE_DONE } bb_drive_stop;

typedef struct bb_drive_options {
    uint64_t max_evaluations;  /* distinct (plan, level) asked for; 0: no limit */
    double   max_tokens;       /* for the search; the final scores come on top; 0: no limit */
    uint32_t stall;            /* candidates in a row without a new one; 0: 2000 */
    uint32_t finalists;        /* plans a budget scored at the top level; 0: 3 */
    void   (*progress)(void *self, uint64_t evaluations, double tokens, double best_kl, uint32_t level); /* after each tell; may be NULL */
    void    *progress_self;
} bb_drive_options;

/* out: initialised with n_units; receives every plan scored at the evaluator's top level. */
bb_status bb_drive(const bb_algorithm *a, const bb_algorithm_config *c, bb_ledger *ledger, const bb_drive_options *o, bb_archive *out,
                   bb_drive_stop *why, bb_err *err);

#endif
