/* SPDX-License-Identifier: GPL-3.0-or-later
 * kernels.h: the inner loops that have more than one version, as one table: a row a kernel (table.inc), a version for each CPU level.
 *
 * Interface: bb_kernels_get() for the best level that the CPU has, capped by BB_CPU=ref|avx2|avx512|bf16|amx in the environment, for
 * all rows together; bb_kernels_at(i) walks all levels that this CPU can run (for tests and benchmarks), reference first.
 *
 * Contract: every level gives the same bits. So each function states its arithmetic: fma(a, b, c) is one rounding,
 * every other operation is one IEEE float32 (or float64) operation, sums over a row run in 16 float64 lanes (element i in
 * lane i mod 16, in order of i) that are added at the end as lane[i] += lane[i + 8], then + 4, + 2, + 1. The reference in
 * ref/ is that text in C, or the same C as the other levels' where the compiler makes the vectors; tests/kcheck.c compares bits, row by row.
 * n = 0 is allowed everywhere but where said. No alignment is needed but where said. Pointers of one call do not alias unless said.
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

/* Arguments of some rows; their own headers have them whole. */
typedef struct bb_work      bb_work;
typedef struct bb_grid      bb_grid;
typedef struct bb_sums      bb_sums;
typedef struct bb_tries     bb_tries;
typedef struct bb_parabola  bb_parabola;
typedef struct bb_code      bb_code;
typedef struct bb_cb_spec   bb_cb_spec;
typedef struct bb_cb_metric bb_cb_metric;
typedef struct bb_levels    bb_levels;
typedef struct bb_integers  bb_integers;

/* One level: a pointer for every row of table.inc, which says what each does. */
typedef struct bb_kernels {
    const char *level;  /* "ref", "avx2", "avx512", "bf16", "amx" */
    const char *bits;   /* what keys call it: as level, but "avx512" for bf16 and amx, whose exact products are the same code */
    size_t      panel;  /* of pack and product */
    bool        splits; /* split_product is much faster than product, and so may take its place */
    bool        pairs;  /* pair_product is, so in rough products (model/net/backend.h) */
#define BB_KERNEL(result, name, arguments, ...) result(*name) arguments;
#include "kernels/table.inc"
} bb_kernels;

/* The functions behind the rows, bb_NAME_LEVEL. A file that is compiled for several levels calls them BB_AT(name, BB_LEVEL). */
#define BB_KERNEL(result, name, arguments, avx2, avx512, bf16, amx) \
    result bb_##name##_ref arguments; \
    result bb_##name##_##avx2 arguments; \
    result bb_##name##_##avx512 arguments; \
    result bb_##name##_##bf16 arguments; \
    result bb_##name##_##amx arguments;
#include "kernels/table.inc"
#define BB_AT_(name, level) bb_##name##_##level
#define BB_AT(name, level) BB_AT_(name, level)
enum { BB_PEAK_CHAINS = 192 };
enum { BB_PANEL_REF = 16, BB_PANEL_AVX2 = 16, BB_PANEL_AVX512 = 32 };

/* Panels: columns c of `panel` consecutive rows of W side by side: out[(j / panel) * k * panel + c * panel + j % panel] = W_jc,
 * rows past n as zeros. bb_packed_floats(n, k, panel) floats. */
size_t bb_packed_floats(size_t n, size_t k, size_t panel);
void   bb_pack_panels(const float *w, size_t ldw, size_t n, size_t k, size_t panel, float *out);             /* W (n, k), row stride ldw */
void   bb_pack_panels_transposed(const float *wt, size_t ldw, size_t n, size_t k, size_t panel, float *out); /* W' (k, n), row stride ldw */

/* Operands of split_product: columns a tile, rows a panel of W, and the numbers of a split matrix of n rows, cut into groups of `rows`. */
enum { BB_SPLIT_DEPTH = 32, BB_SPLIT_ROWS = 16, BB_SPLIT_PANEL = 32 };
size_t bb_split_numbers(unsigned parts, size_t n, size_t k, size_t rows);

/* How products are made, process-wide: set when no workspace is open. BB_FAST: by split_product where this CPU gains by it (bb_kernels_fast()), and rough ones,
 * of gradients, by it or by pair_product (bb_kernels_fast_rough()); else nothing changes. */
typedef enum bb_precision { BB_EXACT, BB_FAST } bb_precision;
void         bb_kernels_set_precision(bb_precision p);
bb_precision bb_kernels_precision(void);
bool         bb_kernels_fast(void);
bool         bb_kernels_fast_rough(void);
bool         bb_kernels_can_be_fast(void); /* what they would be with BB_FAST */
bool         bb_kernels_can_be_fast_rough(void);

/* What the bits of everything computed depend on besides its inputs: the level, and the library and core that make the products. Part of every
 * key under which something computed is kept: "avx512, OpenBLAS 0.3.21, core SkylakeX"; of fast precision "avx512 with split products, backward too, ..." or
 * "avx512 with rough products of pairs, ...". */
const char *bb_kernels_bits(void);

const bb_kernels *bb_kernels_get(void);
const bb_kernels *bb_kernels_at(size_t i); /* NULL past the last level of this CPU */

/* ---- running log-sum-exp over a vocabulary that comes in pieces ---- */

typedef struct bb_logsum {
    float  max;     /* largest logit so far */
    size_t arg_max; /* where, first of equals */
    double sum;     /* sum exp(z - max) */
    size_t n;       /* logits seen */
} bb_logsum;

void   bb_logsum_add(const bb_kernels *k, bb_logsum *s, const float *z, size_t n); /* start from { 0 } */
double bb_logsum_value(const bb_logsum *s);                                        /* ln sum exp z */

/* Sums for KL(p || q), p = softmax z_ref, q = softmax z, in one pass:
 * KL = sum p (z_ref - z) - lse(z_ref) + lse(z). */
typedef struct bb_klsum {
    bb_logsum ref, net;
    double    cross; /* sum exp(z_ref - ref.max) (z_ref - z) */
} bb_klsum;

void   bb_klsum_add(const bb_kernels *k, bb_klsum *s, const float *z_ref, const float *z, size_t n); /* start from { 0 } */
double bb_klsum_value(const bb_klsum *s);                                                            /* >= 0 but for rounding: clamped at 0 */

#endif
