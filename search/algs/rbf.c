/* SPDX-License-Identifier: GPL-3.0-or-later
 * rbf.c: see rbf.h. */
#include "search/algs/rbf.h"

#include <gsl/gsl_linalg.h>
#include <math.h>

#include "base/mem.h"

static double distance3(const double *a, const double *b, size_t d)
{
    double sum = 0;
    for (size_t u = 0; u < d; u++) sum += (a[u] - b[u]) * (a[u] - b[u]);
    return sum * sqrt(sum);
}

double bb_rbf_at(const double *z, size_t n, size_t d, const double *weights, const double *at)
{
    double value = weights[n + d];
    for (size_t i = 0; i < n; i++) value += weights[i] * distance3(at, z + i * d, d);
    for (size_t u = 0; u < d; u++) value += weights[n + u] * at[u];
    return value;
}

bb_status bb_rbf_fit(const double *z, size_t n, size_t d, double *weights, bb_err *err)
{
    bb_status    status = BB_NOMEM;
    const size_t m = n + d + 1;
    double      *A = BB_NEW0(m * m, double, err);
    size_t      *pivot = BB_NEW(m, size_t, err);
    int          sign;
    if (!A || !pivot) goto done;
    for (size_t i = 0; i < n; i++) {
        const double *zi = z + i * d;
        for (size_t j = 0; j < n; j++) A[i * m + j] = distance3(zi, z + j * d, d);
        A[i * m + i] += 1e-3;
        for (size_t u = 0; u < d; u++) A[i * m + n + u] = A[(n + u) * m + i] = zi[u];
        A[i * m + m - 1] = A[(m - 1) * m + i] = 1;
    }
    for (size_t k = n; k < m; k++) {
        A[k * m + k] = -1e-6;
        weights[k] = 0;
    }
    gsl_matrix_view M = gsl_matrix_view_array(A, m, m);
    gsl_vector_view b = gsl_vector_view_array(weights, m);
    gsl_permutation p = { m, pivot };
    gsl_permutation_init(&p);
    status = BB_OK;
    if (gsl_linalg_LU_decomp(&M.matrix, &p, &sign) || gsl_linalg_LU_svx(&M.matrix, &p, &b.vector))
        status = BB_FAIL(err, BB_NUMERIC, "the interpolation of %zu plans is singular", n);
done:
    bb_free(A);
    bb_free(pivot);
    return status;
}
