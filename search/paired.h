/* SPDX-License-Identifier: GPL-3.0-or-later
 * paired.h: comparison of two plans on the same windows: most of the noise of a KL estimate is common to both and cancels. */
#ifndef BB_SEARCH_PAIRED_H
#define BB_SEARCH_PAIRED_H

#include <stddef.h>

/* mean of a[i] - b[i] and its standard error (sample standard deviation / sqrt n; 0 when n < 2). NaN in any window gives NaN. */
void bb_paired_difference(const double *a, const double *b, size_t n, double *mean, double *se);
/* One-sided p value of "the true mean difference is not negative": P(T_{n-1} <= mean/se). se 0: 0, 0.5 or 1 by the sign of the mean. NaN: 1. */
double bb_paired_p_better(double mean, double se, size_t n);

#endif
