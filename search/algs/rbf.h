/* SPDX-License-Identifier: GPL-3.0-or-later
 * rbf.h: interpolation by cubic radial basis functions with a linear tail,
 *     s(z) = sum_i w_i |z - z_i|^3 + a'z + b,   sum_i w_i (z_i, 1) = 0,
 * slightly regularised because values are noisy. In one dimension it is the natural cubic spline. */
#ifndef BB_SEARCH_ALGS_RBF_H
#define BB_SEARCH_ALGS_RBF_H

#include <stddef.h>

#include "base/status.h"

/* z: [n][d] points; weights: [n + d + 1], on entry the n values, on return w, a, b. BB_NUMERIC: the system is singular. */
bb_status bb_rbf_fit(const double *z, size_t n, size_t d, double *weights, bb_err *err);
double    bb_rbf_at(const double *z, size_t n, size_t d, const double *weights, const double *at);

#endif
