/* SPDX-License-Identifier: GPL-3.0-or-later
 * paired.c: two-pass mean and variance in double; Student's t from GSL. */
#include "search/paired.h"

#include <gsl/gsl_cdf.h>
#include <math.h>

void bb_paired_difference(const double *a, const double *b, size_t n, double *mean, double *se)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] - b[i];
    *mean = n ? sum / (double)n : (double)NAN;
    *se = 0;
    if (n < 2) return;
    for (size_t i = 0; i < n; i++) {
        const double d = a[i] - b[i] - *mean;
        squares += d * d;
    }
    *se = sqrt(squares / (double)(n - 1) / (double)n);
}

double bb_paired_p_better(double mean, double se, size_t n)
{
    if (isnan(mean) || isnan(se)) return 1;
    if (se > 0 && n >= 2) return gsl_cdf_tdist_P(mean / se, (double)(n - 1));
    return mean < 0 ? 0 : mean > 0 ? 1 : 0.5;
}
