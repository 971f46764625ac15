/* SPDX-License-Identifier: GPL-3.0-or-later
 * algorithm.h: what every ask/tell algorithm looks like: ask for candidates, tell their scores.
 *
 * An algorithm never calls the evaluator: search/driver.c owns the loop, and with it budgets, ledger, interruption and stop rules. It keeps no
 * state on disk either: with the same configuration and scores it asks the same questions, so a killed run is resumed by replaying it from the
 * ledger, which costs no evaluation. Every candidate asked is loadable and within the largest budget.
 *
 * To add one: a file here with a bb_algorithm and its row, a bb_search_method whose run is bb_method_drive (method.h).
 */
#ifndef BB_SEARCH_ALGS_ALGORITHM_H
#define BB_SEARCH_ALGS_ALGORITHM_H

#include "search/method.h"

typedef struct bb_algorithm_config {
    const bb_space *space;   /* borrowed */
    const int64_t  *budgets; /* [n_budgets] ascending; algorithms for one budget use the last */
    size_t          n_budgets;
    uint64_t        seed;
    uint32_t        n_levels;   /* of the evaluator */
    uint32_t        level;      /* at which single-level algorithms score */
    uint32_t        population; /* offspring or population a generation; 0: the algorithm's default */
    uint64_t        horizon;    /* evaluations that are planned: sets cooling and the size of initial designs; 0: 1000 */
    const uint16_t *starts; /* [n_starts][n_units] plans within the largest budget to start from, the best first; none: where the algorithm begins by itself */
    size_t          n_starts;
} bb_algorithm_config;

typedef struct bb_algorithm {
    /* BB_INFEASIBLE when no candidate within the budget was found. */
    bb_status (*create)(const bb_algorithm_config *c, void **state, bb_err *err);
    /* Writes up to max candidates to x[max][n_units] and the level at which they are wanted; returns their number, 0: nothing more to ask. */
    size_t (*ask)(void *state, uint16_t *x, size_t max, uint32_t *level);
    /* The scores of the n candidates of the last ask, in its order. */
    bb_status (*tell)(void *state, const bb_score *scores, size_t n, bb_err *err);
    void (*destroy)(void *state);
} bb_algorithm;

#endif
