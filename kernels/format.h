/* SPDX-License-Identifier: GPL-3.0-or-later
 * format.h: one row a weight format: layout, decode, encode, dot; and the unpacked form that quantizers work on.
 *
 * A row of weights is cut into blocks of `block` weights, stored in `block_bytes` bytes. Layouts: docs/formats.md.
 * Two families:
 *   scalar grids (vec == 1): weight i of a block is  a[g] * levels[q[i]] + b[g],  g = i / group,
 *                            with a, b given by `scales` from the block's fields, in float32, product first;
 *   codebooks    (vec == 4 or 8): a code stands for vec consecutive weights, expanded by `value`; each is a[g] * z, z one of `levels`.
 * bb_code is the bridge between search and bytes: exact integer fields, so pack(unpack(x)) == x for every block that an
 * encoder of ours writes, and decode(pack(c)) gives exactly scales/value of c.
 *
 * Interface, in calling order: bb_format_get(type) or bb_format_find(name), then its functions. All functions are
 * pure and thread-safe. Non-finite input weights are treated as 0 by encoders. A block of zeros encodes to a block that
 * decodes to zeros wherever the grid has a zero (else to values of magnitude <= FLT_MIN).
 */
#ifndef BB_KERNELS_FORMAT_H
#define BB_KERNELS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Numbers are ggml's type ids (gguf tensor types). */
typedef enum bb_type {
    BB_F32 = 0,
    BB_F16 = 1,
    BB_Q4_0 = 2,
    BB_Q4_1 = 3,
    BB_Q5_0 = 6,
    BB_Q5_1 = 7,
    BB_Q8_0 = 8,
    BB_Q2_K = 10,
    BB_Q3_K = 11,
    BB_Q4_K = 12,
    BB_Q5_K = 13,
    BB_Q6_K = 14,
    BB_IQ2_XXS = 16,
    BB_IQ2_XS = 17,
    BB_IQ3_XXS = 18,
    BB_IQ1_S = 19,
    BB_IQ4_NL = 20,
    BB_IQ3_S = 21,
    BB_IQ2_S = 22,
    BB_IQ4_XS = 23,
    BB_IQ1_M = 29,
    BB_BF16 = 30,
    BB_TQ1_0 = 34,
    BB_TQ2_0 = 35,
    BB_MXFP4 = 39,
    BB_NVFP4 = 40,
    BB_Q1_0 = 41,
    BB_Q2_0 = 42,
    BB_IQ2_NL = 43, /* this and the next as llama.cpp's pull request 27325 proposes them */
    BB_IQ3_NL = 44,
    BB_LC2 = 120, /* ours alone, far from ggml's numbers: formats/lc2.c */
    BB_TYPE_COUNT = 121
} bb_type;

enum { BB_MAX_BLOCK = 256, BB_MAX_GROUPS = 16, BB_FORMAT_ROWS = 32 };

/* One block, unpacked. Which fields a format uses, and their ranges, is said in its file. */
typedef struct bb_code {
    float    d, dmin;           /* super scales exactly as stored (after rounding to their stored type) */
    int16_t  sc[BB_MAX_GROUPS]; /* per-group scale fields, with their stored bias removed */
    int16_t  mn[BB_MAX_GROUPS]; /* per-group min (or shift) fields */
    uint32_t q[BB_MAX_BLOCK];   /* scalar: index into levels, one a weight; codebook: one a vector, index and signs packed */
} bb_code;

typedef struct bb_format {
    bb_type      type;
    const char  *name;         /* upper case as users write it: "Q4_K", "IQ2_XXS", "F16" */
    bool         experimental; /* stock llama.cpp does not read it: offered where it is asked for alone */
    uint16_t     block;        /* weights a block: row lengths are multiples of it */
    uint16_t     block_bytes;
    uint16_t     group;    /* weights that share one sc/mn field; block / group <= BB_MAX_GROUPS; 0 for F32, F16, BF16 */
    uint8_t      vec;      /* weights a code stands for: 1, 4 or 8; 0 for F32, F16, BF16 */
    uint16_t     n_levels; /* number of levels */
    const float *levels;   /* increasing integers, e.g. -1 0 1 2; NULL for F32, F16, BF16 */
    uint16_t     n_read;   /* more than n_levels: as many of `levels` are decoded, though the last are never written; else 0 */

    void (*decode)(const void *blocks, float *out, size_t n);   /* n a multiple of block; bit-exact */
    float (*dot)(const void *blocks, const float *x, size_t n); /* sum of decoded weight * x */
    /* Importance-weighted encode of n weights (whole row): least sum h*(w-w^)^2 over scales, mins and codes of each block.
     * h (n) may be NULL (all ones); h >= 0, zeros allowed. Never worse than round-to-nearest under the same h. */
    void (*encode)(const float *w, const float *h, void *blocks, size_t n);
    /* Plain round-to-nearest with the scale from the extremes of each group: the baseline "rtn", never shipped. */
    void (*encode_rtn)(const float *w, void *blocks, size_t n);

    /* Block level; NULL for F32, F16, BF16. */
    void (*unpack)(const void *block, bb_code *c);
    void (*pack)(const bb_code *c, void *block);
    void (*fit)(const float *w, const float *h, bb_code *c); /* chooses all fields and codes of one block: what encode uses */
    /* Given codes q fixed: re-chooses d, dmin, sc, mn for least sum h*(w-w^)^2 (closed form where the fields allow it,
     * then rounded into the fields); never worse than the fields it was given. */
    void (*refit)(const float *w, const float *h, bb_code *c);
    /* Effective a[g], b[g] for the block/group groups; codebooks: b = -0. */
    void (*scales)(const bb_code *c, float *a, float *b);
    /* Codebooks: the vec weights of vector v; and the code whose weights are nearest to t under the metric:
     * sum_i h[i]*(t[i]-w[i])^2 with metric == NULL, else (t-w)' M (t-w), M = metric (vec x vec, symmetric PSD), h ignored.
     * Uses d, sc, mn of c, changes nothing; store the result in c->q[v]. */
    void (*value)(const bb_code *c, unsigned v, float *out);
    uint32_t (*nearest)(const bb_code *c, unsigned v, const float *t, const float *h, const float *metric);
    /* Codebooks: by how much (Euclid's distance, in units of a of `scales`) t may move and c->q[v] stay its nearest code (metric and h NULL); 0 where it is not,
     * or is no number. */
    float (*slack)(const bb_code *c, unsigned v, const float *t);
    /* nearest for BB_FORMAT_ROWS rows under one full metric: c [rows], t (vec, rows); q [rows] and their weights, value (vec, rows). Fast,
     * and exact for books without signs only (kernels/formats/codebook_rows.h). Fields of every c must be set. */
    void (*nearest_rows)(const bb_code *c, unsigned v, const float *t, const float *metric, uint32_t *q, float *value);
    /* d, sc, mn (not q) of one block of BB_FORMAT_ROWS rows for targets t (block, rows) and importance h [block] that the rows share:
     * fast, and not as thorough as fit. */
    void (*fit_rows)(const float *t, const float *h, bb_code *c);
} bb_format;

const bb_format *bb_format_get(bb_type type);      /* NULL for an id that is not ours */
const bb_format *bb_format_find(const char *name); /* case-insensitive; NULL when unknown, or LC2, whose rows alone are no weights */
/* f where its block divides rows of n_weights; else what llama-quantize takes in its place there (docs/formats.md has the table), F16 at last;
 * NULL for a format that it has nothing in place of. */
const bb_format *bb_format_for_row(const bb_format *f, size_t n_weights);
const bb_format *bb_format_at(size_t i);                                    /* all rows in a fixed order (ascending bits); NULL past the end */
size_t           bb_format_row_bytes(const bb_format *f, size_t n_weights); /* n a multiple of block */
double           bb_format_bpw(const bb_format *f);

/* The rows, one a file in kernels/formats/; collected by format.c. */
extern const bb_format bb_format_f32, bb_format_f16, bb_format_bf16, bb_format_q4_0, bb_format_q4_1, bb_format_q5_0, bb_format_q5_1, bb_format_q8_0,
    bb_format_q2_k, bb_format_q3_k, bb_format_q4_k, bb_format_q5_k, bb_format_q6_k, bb_format_iq4_nl, bb_format_iq4_xs, bb_format_tq1_0, bb_format_tq2_0,
    bb_format_mxfp4, bb_format_nvfp4, bb_format_q1_0, bb_format_q2_0, bb_format_iq1_s, bb_format_iq1_m, bb_format_iq2_xxs, bb_format_iq2_xs, bb_format_iq2_s,
    bb_format_iq3_xxs, bb_format_iq3_s, bb_format_iq2_nl, bb_format_iq3_nl, bb_format_lc2;

#endif
