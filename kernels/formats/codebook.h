/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook.h: what the codebook formats (iq1.c, iq2.c, iq3.c) share: the codebooks, decoding, the search for the nearest
 * codeword, and the fit of a block's scales.
 *
 * A code stands for `vec` consecutive weights. Each weight is  a * z,  a = d * unit * (2 sc + 1)  the scale of its group,
 * z an integer level with a sign (sign-magnitude books), or a level in -1 0 1 plus a shift of +-1/8 (IQ1). d has 11
 * significant bits, 2 sc + 1 at most 5 and z at most 6, so a * z is exact in float32.
 *
 * Fields of bb_code:
 *   sc[g]  scale field, 0 .. n_scales-1;  mn[g]  IQ1_S only: 0 = shift +1/8, 1 = shift -1/8;
 *   q[v]   bits 0-15 index (two bytes, first word low, where a code has two words); bits 16-23 signs, bit i set =
 *          weight i of the vector is negative; IQ1_M: bit 16 set = shift -1/8.
 * Interface: a format fills a bb_cb_spec and its rows call the functions below with it. All are thread-safe.
 */
#ifndef BB_KERNELS_FORMATS_CODEBOOK_H
#define BB_KERNELS_FORMATS_CODEBOOK_H

#include "kernels/format.h"

typedef enum bb_book_id { BB_BOOK_IQ1, BB_BOOK_IQ2_XXS, BB_BOOK_IQ2_XS, BB_BOOK_IQ2_S, BB_BOOK_IQ3_XXS, BB_BOOK_IQ3_S, BB_BOOK_COUNT } bb_book_id;

enum {
    BB_BOOK_BITS_WORDS = 206, /* 32-bit elements that hold 3^8 bits */
    BB_BOOK_MAX_WORDS = 2048,
    BB_BOOK_MAX_NODES = 5200, /* of a codebook's tree: at most 1 + 3 + ... + 3^6 + 2 * 2048 */
    BB_BOOK_MAX_HALVES = 81,  /* patterns of half a word: 3^4 or 8^2 */
    BB_CB_SUPER = 256         /* weights a block, in all these formats */
};

extern const uint32_t bb_book_bits[BB_BOOK_COUNT][BB_BOOK_BITS_WORDS]; /* codebook_data.c */

/* One codebook. Words are ordered by their pattern, last weight most significant. A word is a pair of halves; words
 * are also listed by first half, which is what the search walks. */
typedef struct bb_book {
    unsigned n_words, dims, half_dims, n_levels, n_halves;
    float    level[8];                             /* increasing */
    float    rms;                                  /* root mean square of all levels of all words */
    float    value[BB_BOOK_MAX_WORDS][8];          /* levels of word k; the first dims are used */
    uint8_t  digit[BB_BOOK_MAX_WORDS][8];          /* the same as indexes of level */
    uint16_t start[BB_BOOK_MAX_HALVES + 1];        /* list entries start[p] .. start[p+1]-1 have first half p */
    uint8_t  second[BB_BOOK_MAX_WORDS];            /* list: second half */
    float    half_level[BB_BOOK_MAX_HALVES][4];    /* levels of the patterns of half a word */
    float    half_level_of[4][BB_BOOK_MAX_HALVES]; /* the same by weight */
    uint16_t word[BB_BOOK_MAX_WORDS];              /* list: index of the word */
    /* Tree: a node at depth k stands for the words that share their last k levels; node 0 is the root, the nodes of a depth
     * follow each other in word order. Node x has children child[x] .. child[x+1]-1; the leaves are the words. */
    uint16_t child[BB_BOOK_MAX_NODES + 1];
    uint8_t  node_digit[BB_BOOK_MAX_NODES]; /* the level that a node adds */
    unsigned first_leaf;
} bb_book;

typedef enum bb_cb_shift { BB_SHIFT_NONE, BB_SHIFT_GROUP, BB_SHIFT_CODE } bb_cb_shift;

typedef struct bb_cb_spec {
    bb_book_id  book;
    uint8_t     vec;       /* weights a code */
    uint8_t     n_words;   /* words a code */
    bool        has_signs; /* levels are magnitudes, signs come with the code */
    bool        even;      /* the number of negative signs of a code is even */
    bb_cb_shift shift;
    uint8_t     group;    /* weights a scale field */
    uint8_t     n_scales; /* 16 or 8 */
    float       unit;     /* a = d * unit * (2 sc + 1) */
} bb_cb_spec;

const bb_book *bb_book_get(bb_book_id id); /* built on first use */

static inline float bb_cb_scale(const bb_cb_spec *s, const bb_code *c, unsigned group) { return c->d * (s->unit * (float)(2 * c->sc[group] + 1)); }

/* The vec weights of vector v, and of all vectors of a block (out: 256). */
void bb_cb_value(const bb_cb_spec *s, const bb_code *c, unsigned v, float *out);
void bb_cb_expand(const bb_cb_spec *s, const bb_code *c, float *out);

/* Weights as integers (bb_format.scales, levels): a[g] z, z in the list of the format's book; b[g] = -0. */
void bb_cb_scales(const bb_cb_spec *s, const bb_code *c, float *a, float *b);
enum { BB_CB_N_IQ1 = 6, BB_CB_N_IQ2 = 6, BB_CB_N_IQ3 = 16 };
extern const float bb_cb_levels_iq1[BB_CB_N_IQ1], bb_cb_levels_iq2[BB_CB_N_IQ2], bb_cb_levels_iq3_xxs[BB_CB_N_IQ3], bb_cb_levels_iq3_s[BB_CB_N_IQ3];

/* Sum of decoded weight * x over one block: eight partial sums, so the order is fixed and the compiler can use lanes. */
float bb_cb_dot(const bb_cb_spec *s, const bb_code *c, const float *x);

/* The bodies of bb_format's functions. */
uint32_t bb_cb_nearest(const bb_cb_spec *s, const bb_code *c, unsigned v, const float *t, const float *h, const float *metric);
void     bb_cb_nearest_rows(const bb_cb_spec *s, const bb_code *c, unsigned v, const float *t, const float *metric, uint32_t *q, float *value);
float    bb_cb_slack(const bb_cb_spec *s, const bb_code *c, unsigned v, const float *t); /* codebook_slack.c */
void     bb_cb_fit_rows(const bb_cb_spec *s, const float *t, const float *h, bb_code *c);
void     bb_cb_fit(const bb_cb_spec *s, const float *w, const float *h, bb_code *c);
void     bb_cb_refit(const bb_cb_spec *s, const float *w, const float *h, bb_code *c);
void     bb_cb_encode_rtn_block(const bb_cb_spec *s, const float *w, bb_code *c);

/* The eight signs whose first seven are the low bits of `seven`: the last makes their number even. */
static inline uint32_t bb_cb_even_signs(uint32_t seven)
{
    seven &= 127u;
    return seven | (uint32_t)__builtin_parity(seven) << 7;
}

/* The functions of one row, from spec_<stem>, <stem>_unpack, <stem>_pack and the list of its book's levels. */
#define BB_CB_FORMAT(stem, type_id, name_text, bytes, vec_weights, group_weights, book_levels) \
    static void stem##_decode(const void *blocks, float *out, size_t n) \
    { \
        const uint8_t *b = blocks; \
        bb_code        c; \
        for (size_t i = 0; i < n; i += BB_CB_SUPER, b += (bytes)) { \
            stem##_unpack(b, &c); \
            bb_cb_expand(&spec_##stem, &c, out + i); \
        } \
    } \
    static float stem##_dot(const void *blocks, const float *x, size_t n) \
    { \
        const uint8_t *b = blocks; \
        float          sum = 0.0f; \
        bb_code        c; \
        for (size_t i = 0; i < n; i += BB_CB_SUPER, b += (bytes)) { \
            stem##_unpack(b, &c); \
            sum += bb_cb_dot(&spec_##stem, &c, x + i); \
        } \
        return sum; \
    } \
    static void     stem##_scales(const bb_code *c, float *a, float *b) { bb_cb_scales(&spec_##stem, c, a, b); } \
    static void     stem##_value(const bb_code *c, unsigned v, float *out) { bb_cb_value(&spec_##stem, c, v, out); } \
    static void     stem##_fit(const float *w, const float *h, bb_code *c) { bb_cb_fit(&spec_##stem, w, h, c); } \
    static void     stem##_refit(const float *w, const float *h, bb_code *c) { bb_cb_refit(&spec_##stem, w, h, c); } \
    static uint32_t stem##_nearest(const bb_code *c, unsigned v, const float *t, const float *h, const float *metric) \
    { \
        return bb_cb_nearest(&spec_##stem, c, v, t, h, metric); \
    } \
    static float stem##_slack(const bb_code *c, unsigned v, const float *t) { return bb_cb_slack(&spec_##stem, c, v, t); } \
    static void  stem##_nearest_rows(const bb_code *c, unsigned v, const float *t, const float *metric, uint32_t *q, float *value) \
    { \
        bb_cb_nearest_rows(&spec_##stem, c, v, t, metric, q, value); \
    } \
    static void stem##_fit_rows(const float *t, const float *h, bb_code *c) { bb_cb_fit_rows(&spec_##stem, t, h, c); } \
    static void stem##_encode(const float *w, const float *h, void *blocks, size_t n) \
    { \
        uint8_t *b = blocks; \
        bb_code  c; \
        for (size_t i = 0; i < n; i += BB_CB_SUPER, b += (bytes)) { \
            bb_cb_fit(&spec_##stem, w + i, h ? h + i : NULL, &c); \
            stem##_pack(&c, b); \
        } \
    } \
    static void stem##_encode_rtn(const float *w, void *blocks, size_t n) \
    { \
        uint8_t *b = blocks; \
        bb_code  c; \
        for (size_t i = 0; i < n; i += BB_CB_SUPER, b += (bytes)) { \
            bb_cb_encode_rtn_block(&spec_##stem, w + i, &c); \
            stem##_pack(&c, b); \
        } \
    } \
    const bb_format bb_format_##stem = { \
        .type = (type_id), \
        .name = (name_text), \
        .block = BB_CB_SUPER, \
        .block_bytes = (bytes), \
        .group = (group_weights), \
        .vec = (vec_weights), \
        .n_levels = sizeof(book_levels) / sizeof *(book_levels), \
        .levels = (book_levels), \
        .decode = stem##_decode, \
        .dot = stem##_dot, \
        .unpack = stem##_unpack, \
        .pack = stem##_pack, \
        .scales = stem##_scales, \
        .value = stem##_value, \
        .fit = stem##_fit, \
        .refit = stem##_refit, \
        .nearest = stem##_nearest, \
        .slack = stem##_slack, \
        .nearest_rows = stem##_nearest_rows, \
        .fit_rows = stem##_fit_rows, \
        .encode = stem##_encode, \
        .encode_rtn = stem##_encode_rtn, \
    };

#endif
