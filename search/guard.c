/* SPDX-License-Identifier: GPL-3.0-or-later
 * guard.c: the best row of either kind, one paired test, one decision. */
#include "search/guard.h"

#include <math.h>

#include "search/paired.h"

double bb_guard_kl(const bb_guard_row *row, size_t n_windows)
{
    double sum = 0;
    for (size_t i = 0; i < n_windows; i++) sum += row->window_kl[i];
    return n_windows ? sum / (double)n_windows : (double)NAN;
}

/* Lowest KL among the rows of one kind that fit. */
static size_t best_of(const bb_guard_row *rows, size_t n, size_t n_windows, int64_t budget, bool is_simple)
{
    size_t best = BB_GUARD_NONE;
    double least = HUGE_VAL;
    for (size_t i = 0; i < n; i++) {
        if (rows[i].is_simple != is_simple || rows[i].size_bytes > budget) continue;
        const double kl = bb_guard_kl(&rows[i], n_windows);
        if (!isfinite(kl) || !(kl < least)) continue;
        least = kl;
        best = i;
    }
    return best;
}

bb_status bb_guard(const bb_guard_row *rows, size_t n, size_t n_windows, int64_t budget, double alpha, bb_guard_verdict *out, bb_err *err)
{
    bb_guard_verdict v = { .margin = (double)NAN, .se = (double)NAN, .p = (double)NAN };
    v.searched = best_of(rows, n, n_windows, budget, false);
    v.simple = best_of(rows, n, n_windows, budget, true);
    v.winner = v.simple;
    if (v.searched == BB_GUARD_NONE && v.simple == BB_GUARD_NONE)
        return BB_FAIL(err, BB_GUARD, "of %zu plans none has at most %lld bytes and a finite score", n, (long long)budget);
    if (v.simple == BB_GUARD_NONE) v.winner = v.searched;
    if (v.searched != BB_GUARD_NONE && v.simple != BB_GUARD_NONE) {
        bb_paired_difference(rows[v.simple].window_kl, rows[v.searched].window_kl, n_windows, &v.margin, &v.se);
        v.p = bb_paired_p_better(-v.margin, v.se, n_windows);
        if (v.margin > 0 && v.p <= (alpha > 0 ? alpha : BB_GUARD_ALPHA)) v.winner = v.searched;
    }
    *out = v;
    return BB_OK;
}

void bb_guard_front(const double *kl, size_t n, const size_t *winners, size_t n_winners, bool *on_front)
{
    double least = HUGE_VAL;
    for (size_t i = 0; i < n; i++) {
        on_front[i] = false;
        for (size_t k = 0; k < n_winners; k++) on_front[i] |= winners[k] == i && kl[i] < least;
        if (on_front[i]) least = kl[i];
    }
}
