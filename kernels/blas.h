/* SPDX-License-Identifier: GPL-3.0-or-later
 * blas.h: the dense linear algebra we borrow from OpenBLAS and LAPACK; blas.c and cholesky.c are the only users of cblas and lapacke.
 *
 * One threading model: OpenBLAS is pinned to one thread (bb_blas_init), parallelism is OpenMP over independent work of
 * fixed size outside it; so results do not depend on the number of threads. All matrices row-major float32 or float64.
 */
#ifndef BB_KERNELS_BLAS_H
#define BB_KERNELS_BLAS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

void bb_blas_init(void); /* once, before any other call and before OpenMP starts */
/* For a library inside another program: pins OpenBLAS to one thread, also after others have changed that; returns the threads that it had, for
 * bb_blas_unpin. The core that bb_blas_init may have chosen stays. */
int  bb_blas_pin(void);
void bb_blas_unpin(int threads);
/* OpenBLAS takes a buffer of 128 MiB of addresses for each thread that calls it, and where the process may not have it (ulimit -v) tries for ever.
 * Under such a limit the buffers are taken here, for this many threads, or refused with BB_NOMEM; without one this does nothing. */
bb_status   bb_blas_reserve(int threads, bb_err *err);
bool        bb_blas_is_limited(void); /* whether such a limit is set */
const char *bb_blas_name(void);       /* library, version, how it was built, and core, for env.json */
const char *bb_blas_core(void);       /* "OpenBLAS 0.3.21, core SkylakeX": products have the bits of library, version and core */

/* Y (M,N) = alpha * X (M,K) W' + beta * Y, W (N,K): the layer product y = W x for M tokens. ld = row strides. */
void bb_sgemm_nt(size_t m, size_t n, size_t k, float alpha, const float *x, size_t ldx, const float *w, size_t ldw, float beta, float *y, size_t ldy);
/* Y (M,N) = alpha * X (M,K) B (K,N) + beta * Y. */
void bb_sgemm_nn(size_t m, size_t n, size_t k, float alpha, const float *x, size_t ldx, const float *b, size_t ldb, float beta, float *y, size_t ldy);
/* Y (M,N) = alpha * A' B + beta * Y, A (K,M), B (K,N): gradients and second moments. */
void bb_sgemm_tn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *y, size_t ldy);
void bb_dgemm_nn(size_t m, size_t n, size_t k, double alpha, const double *x, size_t ldx, const double *b, size_t ldb, double beta, double *y, size_t ldy);

/* In place on the lower triangle of A (n,n) row-major, float64; BB_NUMERIC (with the index of the failing pivot) when A is not
 * positive definite: the caller adds damping and tries again. Of more than BB_CHOLESKY_WHOLE columns all threads work, on tiles; the same bits for any number of them. */
enum { BB_CHOLESKY_WHOLE = 2048 };
bb_status bb_cholesky(double *a, size_t n, bb_err *err);                                      /* A = L L', L lower; upper set to 0 */
bb_status bb_cholesky_solve(const double *l, size_t n, double *b, size_t n_rhs, bb_err *err); /* B (n,n_rhs) row-major := A^-1 B */
void      bb_lower_solve(const double *l, size_t n, double *b, size_t n_rhs);                 /* B (n,n_rhs) row-major := L^-1 B, L of bb_cholesky */
bb_status bb_cholesky_inverse(double *l, size_t n, bb_err *err);                              /* L of bb_cholesky -> full symmetric A^-1 */

#endif
