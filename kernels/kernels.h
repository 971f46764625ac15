/* SPDX-License-Identifier: GPL-3.0-or-later
 * kernels.h: the float32 inner loops of the network, as a table with one row of functions for each CPU level.
 *
 * Interface: bb_kernels_get() for the best level that the CPU has, capped by BB_CPU=ref|avx2|avx512 in the environment;
 * bb_kernels_at(i) walks all levels that this CPU can run (for tests and benchmarks), reference first.
 *
 * Contract: every level gives the same bits. So each function states its arithmetic: fma(a, b, c) is one rounding,
 * every other operation is one IEEE float32 (or float64) operation, sums over a row run in 16 float64 lanes (element i in
 * lane i mod 16, in order of i) that are added at the end as lane[i] += lane[i + 8], then + 4, + 2, + 1. The reference in
 * ref/ is that text in C; test_kernels compares bits. n = 0 is allowed everywhere. No alignment is needed. Pointers of
 * one call do not alias unless said.
 *
 * exp: x = k ln 2 + r with k = round(x log2 e) to nearest even, r by two-term Cody-Waite reduction with fma,
 * e^r = 1 + r + r^2 q(r), q the degree-4 minimax polynomial (weighted Remez; relative error of the result 3.8e-9 before
 * rounding), then times 2^k. Measured over all floats in [-87.33, 88.37]: at most BB_EXP_MAX_REL relative error.
 * Below -87.33654 the result is 0 (no subnormals), above 88.376 it stays at exp(88.376); NaN gives NaN.
 */
#ifndef BB_KERNELS_KERNELS_H
#define BB_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BB_EXP_MAX_REL 1.1e-7

typedef struct bb_kernels {
    const char *level; /* "ref", "avx2", "avx512" */

    /* y_i = exp(x_i); y may be x. */
    void   (*exp)(const float *x, float *y, size_t n);
    /* y_i = (x_i * s) * weight_i, s = 1 / sqrt(mean x^2 + eps): the mean in float64 lanes, rounded to float32, the rest
     * in float32. y may be x. */
    void   (*rms_norm)(const float *x, const float *weight, float eps, float *y, size_t n);
    /* gate_i = (gate_i / (1 + exp(-gate_i))) * up_i. */
    void   (*swiglu)(float *gate, const float *up, size_t n);
    /* x_i = e_i * (1 / sum e), e_i = exp((x_i - max x) * scale); the sum in float64 lanes, its inverse rounded to float32. scale > 0. */
    void   (*softmax)(float *x, float scale, size_t n);
    /* Index of the first largest element; NaNs are never larger. n > 0. */
    size_t (*arg_max)(const float *x, size_t n);
    /* sum exp(x_i - shift). */
    double (*sum_exp)(const float *x, float shift, size_t n);
    /* The same of x, and *cross = sum exp(x_i - shift) * (x_i - z_i), difference in float32, product and sum in float64. */
    double (*sum_exp_cross)(const float *x, float shift, const float *z, size_t n, double *cross);
    /* IEEE binary16 to float32, exact. */
    void   (*half_to_float)(const uint16_t *x, float *y, size_t n);

    /* Y (m, n) = [Y +] [bias +] X (m, k) W', W packed by bb_pack_panels with this level's `panel`. Every entry is
     *   y = add ? y : 0;  y = bias ? y + bias_j : y;  for c = 0 .. k-1 in order: y = fma(x_c, w_jc, y)
     * so it depends on its own row, column and start alone: not on m, n, tiling or position. */
    size_t panel;
    void   (*pack)(const float *w, size_t ldw, size_t n, size_t k, float *out); /* bb_pack_panels with this panel */
    void   (*product)(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *panels, const float *bias, bool add, float *y,
                      size_t ldy);
} bb_kernels;

/* Panels: columns c of `panel` consecutive rows of W side by side: out[(j / panel) * k * panel + c * panel + j % panel] = W_jc,
 * rows past n as zeros. bb_packed_floats(n, k, panel) floats. */
size_t bb_packed_floats(size_t n, size_t k, size_t panel);
void   bb_pack_panels(const float *w, size_t ldw, size_t n, size_t k, size_t panel, float *out);             /* W (n, k), row stride ldw */
void   bb_pack_panels_transposed(const float *wt, size_t ldw, size_t n, size_t k, size_t panel, float *out); /* W' (k, n), row stride ldw */

/* What the bits of everything computed depend on besides its inputs: the level, and the library and core that make the products. Part of every
 * key under which something computed is kept: "avx512, OpenBLAS 0.3.21, core SkylakeX". */
const char *bb_kernels_bits(void);

const bb_kernels *bb_kernels_get(void);
const bb_kernels *bb_kernels_at(size_t i); /* NULL past the last level of this CPU */

/* The rows. */
extern const bb_kernels bb_kernels_ref;
#if defined(__x86_64__)
extern const bb_kernels bb_kernels_avx2, bb_kernels_avx512;
#endif

/* ---- running log-sum-exp over a vocabulary that comes in pieces ---- */

typedef struct bb_logsum {
    float    max;     /* largest logit so far */
    size_t   arg_max; /* where, first of equals */
    double   sum;     /* sum exp(z - max) */
    size_t   n;       /* logits seen */
} bb_logsum;

void   bb_logsum_add(const bb_kernels *k, bb_logsum *s, const float *z, size_t n); /* start from { 0 } */
double bb_logsum_value(const bb_logsum *s);                                        /* ln sum exp z */

/* Sums for KL(p || q), p = softmax z_ref, q = softmax z, in one pass:
 * KL = sum p (z_ref - z) - lse(z_ref) + lse(z). */
typedef struct bb_klsum {
    bb_logsum ref, net;
    double    cross;  /* sum exp(z_ref - ref.max) (z_ref - z) */
} bb_klsum;

void   bb_klsum_add(const bb_kernels *k, bb_klsum *s, const float *z_ref, const float *z, size_t n); /* start from { 0 } */
double bb_klsum_value(const bb_klsum *s); /* >= 0 but for rounding: clamped at 0 */

#endif
