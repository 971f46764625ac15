/* SPDX-License-Identifier: GPL-3.0-or-later
 * grid.h: what the format files share: whole-row loops over blocks, and the packings that occur in several formats. */
#ifndef BB_KERNELS_FORMATS_GRID_H
#define BB_KERNELS_FORMATS_GRID_H

#include "kernels/format.h"

/* Sum of decoded weight * x in float32. Order: weight i of the row is added to lane i % 8 in increasing i; then
 * ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7)). */
float bb_grid_dot(const bb_format *f, const void *blocks, const float *x, size_t n);
/* fit + pack of every block. */
void bb_grid_encode(const bb_format *f, const float *w, const float *h, void *blocks, size_t n);

/* All blocks through unpack and scales: a * level + b. Formats without a min give b = -0.0f, which every float survives,
 * -0 included. */
void bb_grid_decode(const bb_format *f, const void *blocks, float *out, size_t n);

/* The functions of a format file that only pass its bb_grid on, and their places in the row. */
#define BB_GRID_WRAPPERS(grid) \
    static void  decode(const void *blocks, float *out, size_t n) { bb_grid_decode((grid).format, blocks, out, n); } \
    static float dot(const void *blocks, const float *x, size_t n) { return bb_grid_dot((grid).format, blocks, x, n); } \
    static void  encode(const float *w, const float *h, void *blocks, size_t n) { bb_grid_encode((grid).format, w, h, blocks, n); } \
    static void  encode_rtn(const float *w, void *blocks, size_t n) { bb_grid_rtn(&(grid), w, blocks, n); } \
    static void  fit(const float *w, const float *h, bb_code *c) { bb_grid_fit(&(grid), w, h, c); } \
    static void  refit(const float *w, const float *h, bb_code *c) { bb_grid_refit(&(grid), w, h, c); }
#define BB_GRID_MEMBERS \
    .decode = decode, .dot = dot, .encode = encode, .encode_rtn = encode_rtn, .unpack = unpack, .pack = pack, .fit = fit, .refit = refit, .scales = scales

/* A grid with super scales also fits the fields of many rows at once. */
#define BB_GRID_ROWS_WRAPPERS(grid) \
    BB_GRID_WRAPPERS(grid) \
    static void fit_rows(const float *t, const float *h, bb_code *c) { bb_grid_fit_rows(&(grid), t, h, c); }
#define BB_GRID_ROWS_MEMBERS BB_GRID_MEMBERS, .fit_rows = fit_rows

/* Tables shared by formats. */
extern const float bb_levels_256[256]; /* -128 ... 127 */
extern const float bb_levels_iq4[16];  /* the uneven 4-bit levels of IQ4_NL and IQ4_XS */
extern const float bb_levels_fp4[15];  /* E2M1 numbers, doubled */

/* Importance of a block as rows share it: what is not finite or not above 0 counts as 0; of mean 1. All ones where nothing is left. */
void bb_mean_importance(const float *h, unsigned n, float *out);

/* 32 codes of 4 bits in 16 bytes: byte j holds code j (low nibble) and code j + 16 (high nibble). */
void bb_nibbles_unpack(const unsigned char *bytes, uint32_t *q);
void bb_nibbles_pack(const uint32_t *q, unsigned char *bytes);
/* 64 codes of 4 bits in 32 bytes: byte j holds code j (low) and code j + 32 (high). */
void bb_nibbles64_unpack(const unsigned char *bytes, uint32_t *q);
void bb_nibbles64_pack(const uint32_t *q, unsigned char *bytes);
/* 256 codes of 2 bits in 64 bytes: two halves of 128 codes, 32 bytes each; bits 2k and 2k + 1 of byte l of half h hold
 * code 128 h + 32 k + l. pack keeps the lowest 2 bits of each code. */
void bb_pairs_unpack(const unsigned char *bytes, uint32_t *q);
void bb_pairs_pack(const uint32_t *q, unsigned char *bytes);
/* 32 codes of 2 bits in 8 bytes: bits 2k and 2k + 1 of byte j hold code j + 8 k. pack keeps the lowest 2 bits of each code. */
void bb_pairs32_unpack(const unsigned char *bytes, uint32_t *q);
void bb_pairs32_pack(const uint32_t *q, unsigned char *bytes);
/* Bit i of the little-endian 32-bit word is bit 4 of q[i]; unpack adds it to the 4 bits that are there. */
void bb_fifth_bits_unpack(const unsigned char *word, uint32_t *q);
void bb_fifth_bits_pack(const uint32_t *q, unsigned char *word);
/* 8 scales and 8 mins of 6 bits in 12 bytes: sc[g] and mn[g] are the low 6 bits of bytes g and g + 4 for g < 4; for g >= 4
 * their low 4 bits are the two nibbles of byte g + 4 and their high 2 bits the top bits of bytes g - 4 and g. */
void bb_k_scales_unpack(const unsigned char *s, bb_code *c);
void bb_k_scales_pack(const bb_code *c, unsigned char *s);
/* Nibbles of MXFP4 and NVFP4 (bit 3 the sign, bits 0-2 the magnitude) to and from indexes into bb_levels_fp4, in place. */
void bb_fp4_to_levels(uint32_t *q, int n);
void bb_fp4_from_levels(uint32_t *q, int n);

#endif
