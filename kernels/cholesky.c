/* SPDX-License-Identifier: GPL-3.0-or-later
 * cholesky.c: see blas.h. A row-major lower triangle is a column-major upper one, so that LAPACK works in place without LAPACKE's transposed copies.
 *
 * Large matrices are worked on in tiles of TILE columns, in place, right-looking as LAPACK's blocked routines are (dpotrf; dtrtri and dlauum for the inverse), and threads
 * share the tiles of a step. What a tile is and in which order its sums run does not depend on the threads. LAPACK's own bits are kept for the small ones, of which
 * many are worked on side by side.
 */
#include <cblas.h>
#include <lapacke.h>
#include <limits.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"

enum { TILE = 256 };

static int dim(size_t n)
{
    BB_ASSERT(n <= INT_MAX);
    return (int)n;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* LAPACKE's answer about the tile that begins at column `at` of n, as a status; a negative info here can only be its NaN check on the matrix. */
static bb_status lapack_status(lapack_int info, const char *what, size_t at, size_t n, bb_err *err)
{
    if (info == 0) return BB_OK;
    if (info > 0) return BB_FAIL(err, BB_NUMERIC, "%s of a %zu x %zu matrix: pivot %zu is not positive; more damping is needed", what, n, n, at + (size_t)info);
    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return BB_FAIL(err, BB_NOMEM, "out of memory in the %s of a %zu x %zu matrix", what, n, n);
    return BB_FAIL(err, BB_NUMERIC, "%s of a %zu x %zu matrix: it holds a NaN", what, n, n);
}

/* Columns at .. of A (n,n), whose tile on the diagonal is m wide: the factor's, and their product taken off the columns behind them. */
static bb_status factor_tile(double *a, size_t n, size_t at, size_t m, bb_err *err)
{
    const size_t    end = at + m;
    double         *own = a + at * n + at;
    const bb_status status = lapack_status(LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', dim(m), own, dim(n)), "Cholesky factorisation", at, n, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(dynamic)
    for (size_t i = end; i < n; i += TILE)
        cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, dim(least(TILE, n - i)), dim(m), 1, own, dim(n), a + i * n + at, dim(n));
#pragma omp parallel for schedule(dynamic)
    for (size_t back = end; back < n; back += TILE) { /* the longest rows first */
        const size_t i = end + (n - 1 - back) / TILE * TILE, rows = least(TILE, n - i);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, dim(rows), dim(i + rows - end), dim(m), -1, a + i * n + at, dim(n), a + end * n + at, dim(n), 1,
                    a + i * n + end, dim(n));
    }
    return BB_OK;
}

bb_status bb_cholesky(double *a, size_t n, bb_err *err)
{
    const size_t tile = n > BB_CHOLESKY_WHOLE ? TILE : n;
    bb_status    status = BB_OK;
    for (size_t at = 0; at < n; at += tile) BB_TRY(factor_tile(a, n, at, least(tile, n - at), err));
    for (size_t i = 0; i < n; i++) memset(a + i * n + i + 1, 0, (n - i - 1) * sizeof *a);
done:
    return status;
}

bb_status bb_cholesky_solve(const double *l, size_t n, double *b, size_t n_rhs, bb_err *err)
{
    const size_t piece = n > BB_CHOLESKY_WHOLE ? TILE : n_rhs;
    if (n == 0 || n_rhs == 0) return BB_OK;
    for (size_t i = 0; i < n; i++)
        if (!(l[i * n + i] > 0))
            return BB_FAIL(err, BB_NUMERIC, "triangular solve with a %zu x %zu factor: diagonal %zu is %g, not positive", n, n, i + 1, l[i * n + i]);
#pragma omp parallel for schedule(dynamic) if (piece < n_rhs)
    for (size_t j = 0; j < n_rhs; j += piece) {
        const int m = dim(least(piece, n_rhs - j));
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, dim(n), m, 1, l, dim(n), b + j, dim(n_rhs));
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, dim(n), m, 1, l, dim(n), b + j, dim(n_rhs));
    }
    return BB_OK;
}

void bb_lower_solve(const double *l, size_t n, double *b, size_t n_rhs)
{
    if (n == 0 || n_rhs == 0) return;
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, dim(n), dim(n_rhs), 1, l, dim(n), b, dim(n_rhs));
}

static const char inverse[] = "inverse from the Cholesky factor";

/* L := L^-1, the last columns first: those behind a tile are inverted when it is, and its own rows below the diagonal are -X L with X behind it, then times its own inverse.
 * copy: room for n * TILE. */
static bb_status invert_factor(double *l, size_t n, double *copy, bb_err *err)
{
    for (size_t end = n, m; end > 0; end -= m) {
        m = least(TILE, end);
        const size_t    at = end - m;
        double         *own = l + at * n + at;
        const bb_status status = lapack_status(LAPACKE_dtrtri(LAPACK_COL_MAJOR, 'U', 'N', dim(m), own, dim(n)), inverse, at, n, err);
        if (status != BB_OK) return status;
        for (size_t i = end; i < n; i++) memcpy(copy + (i - end) * m, l + i * n + at, m * sizeof *copy);
#pragma omp parallel for schedule(dynamic)
        for (size_t back = end; back < n; back += TILE) {
            const size_t i = end + (n - 1 - back) / TILE * TILE, rows = least(TILE, n - i);
            double      *to = l + i * n + at;
            cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, dim(rows), dim(m), dim(i + rows - end), -1, l + i * n + end, dim(n), copy, dim(m), 0, to,
                        dim(n)); /* above the diagonal there are zeros */
            cblas_dtrmm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, dim(rows), dim(m), 1, own, dim(n), to, dim(n));
        }
    }
    return BB_OK;
}

/* X := X'X, the lower triangle, from the first rows on: what a tile of rows becomes needs it and the rows below it. copy: room for TILE * TILE. */
static void square_inverse(double *x, size_t n, double *copy)
{
    for (size_t at = 0; at < n; at += TILE) {
        const size_t m = least(TILE, n - at), end = at + m;
        for (size_t i = 0; i < m; i++) memcpy(copy + i * m, x + (at + i) * n + at, m * sizeof *copy);
#pragma omp parallel for schedule(dynamic)
        for (size_t j = 0; j < end; j += TILE) {
            const size_t cols = least(TILE, end - j);
            double      *to = x + at * n + j;
            cblas_dtrmm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, dim(m), dim(cols), 1, copy, dim(m), to, dim(n));
            if (end < n)
                cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, dim(m), dim(cols), dim(n - end), 1, x + end * n + at, dim(n), x + end * n + j, dim(n), 1,
                            to, dim(n));
        }
    }
}

static bb_status inverse_by_tiles(double *l, size_t n, bb_err *err)
{
    double *copy = BB_NEW(n * TILE, double, err);
    if (!copy) return BB_NOMEM;
    const bb_status status = invert_factor(l, n, copy, err);
    if (status == BB_OK) square_inverse(l, n, copy);
    bb_free(copy);
    return status;
}

bb_status bb_cholesky_inverse(double *l, size_t n, bb_err *err)
{
    if (n == 0) return BB_OK;
    const bb_status status = n > BB_CHOLESKY_WHOLE ? inverse_by_tiles(l, n, err)
                                                   : lapack_status(LAPACKE_dpotri(LAPACK_COL_MAJOR, 'U', dim(n), l, dim(n)), inverse, 0, n, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(dynamic) if (n > BB_CHOLESKY_WHOLE)
    for (size_t i = 0; i < n; i += TILE)
        for (size_t j = i; j < n; j += TILE)
            for (size_t r = i; r < least(n, i + TILE); r++)
                for (size_t c = j > r ? j : r + 1; c < least(n, j + TILE); c++) l[r * n + c] = l[c * n + r];
    return BB_OK;
}
