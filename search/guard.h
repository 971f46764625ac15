/* SPDX-License-Identifier: GPL-3.0-or-later
 * guard.h: never worse: the winner of a search stands beside simpler plans of the same budget at the top fidelity level.
 *
 * Whatever a proxy, a low level or a surrogate said before counts nothing here. The winner is kept when its KL is lower than that of the best
 * simpler plan and the paired test over the windows gives p <= alpha; otherwise the simpler plan is the answer. Among simpler plans the lowest
 * KL wins, ties go to the earlier one, so list the simplest first.
 */
#ifndef BB_SEARCH_GUARD_H
#define BB_SEARCH_GUARD_H

#include "search/ledger.h"

typedef struct bb_guard_plan { const char *name; const uint16_t *x; } bb_guard_plan; /* borrowed */

typedef struct bb_guard_row {
    const char *name;          /* of the plan; the last row is the winner of the search */
    bool        fits;          /* within the budget and loadable; the others are not scored */
    int64_t     size_bytes;
    bb_score    score;
    double      margin, se;    /* paired: KL of this plan minus KL of the search's winner; NaN when not scored */
    double      p;             /* one-sided: that the winner is not better than this plan */
} bb_guard_row;

#define BB_GUARD_ALPHA 0.1587  /* default: one standard error, one-sided */

typedef struct bb_guard_input {
    int64_t              budget_bytes;
    bb_guard_plan        winner;    /* of the search */
    const bb_guard_plan *simple;    /* [n_simple] uniform, quantization alone, pruning alone, the separable plan, ...; simplest first */
    size_t               n_simple;
    double               alpha;     /* 0: BB_GUARD_ALPHA */
} bb_guard_input;

/* rows: [n_simple + 1]. *chosen: index into rows; n_simple when the search's winner is kept. BB_GUARD when nothing that fits has a finite
 * score; BB_USAGE when the winner itself exceeds the budget. */
bb_status bb_guard(const bb_problem *p, bb_ledger *ledger, const bb_guard_input *in, bb_guard_row *rows, size_t *chosen, bb_err *err);

#endif
