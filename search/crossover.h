/* SPDX-License-Identifier: GPL-3.0-or-later
 * crossover.h: up to which size pruning pays: the best plan with pruning against the best without, budget by budget, at the top level.
 *
 * A plan prunes when some controller is not at its widest option. Both kinds are taken from what was asked of the ledger in this session, so the comparison is as good as the
 * search of either kind was: refine the problem with its controllers pinned (bb_variant_pin to bb_space_widest) with the same ledger first.
 */
#ifndef BB_SEARCH_CROSSOVER_H
#define BB_SEARCH_CROSSOVER_H

#include "search/ledger.h"

typedef struct bb_crossover_row {
    int64_t budget_bytes;
    double  kl_pruned, kl_plain;             /* best within the budget; NaN when there is none */
    double  difference, se;                  /* paired, pruned minus plain; NaN when either is missing */
    char    hash_pruned[17], hash_plain[17]; /* "" when there is none */
} bb_crossover_row;

typedef struct bb_crossover {
    int64_t bytes;     /* largest budget at which pruning has the lower KL; -1: none */
    int64_t low, high; /* pruning is better by z standard errors up to low (-1: nowhere), and worse by z from high on (-1: nowhere) */
} bb_crossover;

/* rows [n], budget_bytes given by the caller in ascending order, the rest filled. Evaluates nothing. z: e.g. 1. */
bb_status bb_crossover_find(const bb_problem *p, bb_ledger *ledger, double z, bb_crossover_row *rows, size_t n, bb_crossover *out, bb_err *err);

#endif
