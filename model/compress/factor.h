/* SPDX-License-Identifier: GPL-3.0-or-later
 * factor.h: the damped Hessian of one input, factored for error feedback; shared by all matrices and formats on that input.
 *
 * With H + diag(damp) = U diag(d) U', U unit upper triangular, the error of a row is
 *     e H e' = sum_j d_j (e_j + sum_{i<j} U_ij e_i)^2,
 * so that quantizing the columns from first to last, each against its own weight plus sum_{i<j} U_ij e_i, leaves only
 * the d_j: error feedback (GPTQ and LDLQ are this recursion, written with H^-1 and with L).
 */
#ifndef BB_MODEL_COMPRESS_FACTOR_H
#define BB_MODEL_COMPRESS_FACTOR_H

#include "model/compress/compress.h"

typedef struct bb_factor {
    uint32_t     n;
    const float *h;       /* borrowed (n,n), without damping */
    float       *damp;    /* [n] added to the diagonal; a dead column (never excited) has a positive one too */
    float       *u;       /* (n,n) row-major, unit upper triangular; below the diagonal undefined */
    float       *d;       /* [n] */
    bool        *dead;    /* [n] H_jj is 0: the column's weights change nothing */
    double       damping; /* the one that made it positive definite, relative to the mean diagonal */
} bb_factor;

/* Raises the damping tenfold, at most six times, when the Cholesky fails; then BB_NUMERIC. h is borrowed by f. */
bb_status bb_factor_make(const bb_hessian *h, double damping, bb_factor *f, bb_err *err);
void      bb_factor_done(bb_factor *f);

/* sum (na, nb) += A' B over n_tokens rows of a (n_tokens, na) and b (n_tokens, nb), float32 products of `chunk` tokens each (as
 * bb_hessian_add). */
bb_status bb_cross_add(double *sum, const float *a, uint32_t na, const float *b, uint32_t nb, size_t n_tokens, uint32_t chunk, bb_err *err);

/* A group of columns with all other columns fixed: for a square piece of H + diag(damp) starting at column j0,
 * its own factors and its inverse. */
typedef struct bb_local {
    uint32_t n;       /* columns a group */
    float   *u;       /* [n_cols/n] matrices (n,n), as in bb_factor */
    float   *d;       /* [n_cols] */
    float   *inverse; /* [n_cols/n] matrices (n,n) */
} bb_local;

bb_status bb_local_make(const bb_factor *f, uint32_t group, bb_local *l, bb_err *err);
void      bb_local_done(bb_local *l);

#endif
