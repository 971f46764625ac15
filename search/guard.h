/* SPDX-License-Identifier: GPL-3.0-or-later
 * guard.h: never worse: at one size the best searched plan stands beside the simpler plans, all finished alike and scored on the same windows.
 *
 * Whatever a proxy, a low level or a surrogate said before counts nothing here. The searched plan is kept when its KL is lower than that of the
 * best simpler plan and the paired test over the windows gives p <= alpha; otherwise the simpler plan is the answer. Of several plans of a kind
 * the lowest KL counts, ties go to the earlier row. Plain numbers: who made the plans, and how they were scored, is the caller's business.
 */
#ifndef BB_SEARCH_GUARD_H
#define BB_SEARCH_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define BB_GUARD_ALPHA 0.1587 /* default: one standard error, one-sided */
#define BB_GUARD_NONE SIZE_MAX

typedef struct bb_guard_row {
    const char   *name; /* borrowed; in messages */
    int64_t       size_bytes;
    const double *window_kl; /* [n_windows] mean KL of each window, nats a token; borrowed */
    bool          is_simple;
} bb_guard_row;

typedef struct bb_guard_verdict {
    size_t winner;           /* the answer: index of a row, as the next two */
    size_t searched, simple; /* the best of each kind within the size; BB_GUARD_NONE: there is none with finite scores */
    double margin, se;       /* paired: KL of `simple` minus KL of `searched`, nats a token; NaN when one is missing */
    double p;                /* one-sided: that `searched` is not better than `simple`; NaN likewise */
} bb_guard_verdict;

/* Judges the rows of at most `budget` bytes. alpha 0: BB_GUARD_ALPHA. BB_GUARD when no row that fits has finite scores. */
bb_status bb_guard(const bb_guard_row *rows, size_t n, size_t n_windows, int64_t budget, double alpha, bb_guard_verdict *out, bb_err *err);

/* Which of n plans, ascending in bytes, belong on the front: those that are the winner at some size (winners[n_winners], indices) and that no smaller or
 * equally large one of them makes needless by a KL that is no higher. */
void bb_guard_front(const double *kl, size_t n, const size_t *winners, size_t n_winners, bool *on_front);

/* Mean of the windows; NaN or infinite when one of them is. */
double bb_guard_kl(const bb_guard_row *row, size_t n_windows);

#endif
