/* SPDX-License-Identifier: GPL-3.0-or-later
 * rank.h: how well a score ranks plans: Kendall's tau-b [1], Spearman's rho, bootstrap intervals of tau.
 *
 * [1] Kendall. The treatment of ties in ranking problems. Biometrika 1945.
 */
#ifndef BB_EVAL_RANK_H
#define BB_EVAL_RANK_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Both in -1 .. 1; NaN when either side has no two different values. O(n^2) and O(n log n). */
double    bb_kendall(const double *a, const double *b, size_t n);
bb_status bb_spearman(const double *a, const double *b, size_t n, double *rho, bb_err *err);

/* Percentile interval (0.025, 0.975) of tau over `samples` resamples of the n pairs; the same for any number of threads. */
bb_status bb_kendall_interval(const double *a, const double *b, size_t n, uint32_t samples, uint64_t seed, double *lo, double *hi, bb_err *err);

/* b at the least a, less the least b: what is lost by trusting a. Ties in a: the first. */
double bb_regret(const double *a, const double *b, size_t n);

#endif
