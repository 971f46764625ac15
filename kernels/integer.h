/* SPDX-License-Identifier: GPL-3.0-or-later
 * integer.h: matrices of any quantized format as small integers, for products with vectors of 8-bit integers: what a decoder does.
 *
 * Every weight of every format is a * z + b, z an integer of at most 8 bits, a and b shared by 16 weights or more. Repacked once, all formats are of one
 * shape: codes of 2, 4 or 8 bits into one table of z (8 bits: z itself), 16 rows side by side, and no product knows a codebook. The repacked matrix takes
 * 2.5 to 9 bits a weight, a and b as binary16 times a power of two a row: exact where the format stores one scale, within 2^-11 where it stores products
 * of two. A vector is rounded to 8 bits under one scale each 32 elements, as llama.cpp does; that error is much the larger one.
 *
 * Layout of a panel of 16 rows (rows past the last: zeros): float32 unit [16]; for each 32 columns [groups] a [16], then, with offsets, [groups] b [16],
 * binary16; padding to 64 bytes; for each 32 columns 64 `bits` bytes of codes: column c of row r in byte bb_integer_at(bits, r, c).
 *
 * Interface: bb_integers_shape, memory of bb_integers_bytes, bb_integers_pack panel by panel (in any order, by any thread), then the kernels
 * integer_vector and integer_product (table.inc). */
#ifndef BB_KERNELS_INTEGER_H
#define BB_KERNELS_INTEGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/format.h"

enum { BB_INTEGER_ROWS = 16, BB_INTEGER_GROUP = 32, BB_INTEGER_HALF = 16, BB_INTEGER_LEVELS = 16 };
#define BB_INTEGER_LEAST 1e-30f /* 32 elements that are all smaller count as zeros */

typedef struct bb_integers {
    const bb_format *format;
    size_t           rows, cols;               /* cols a multiple of BB_INTEGER_GROUP */
    unsigned         bits, groups;             /* of a code: 2, 4, 8; scales in 32 columns: 1, 2 */
    bool             offsets;                  /* b is not 0 everywhere */
    int8_t           table[BB_INTEGER_LEVELS]; /* z of a code of 2 or 4 bits */
    size_t           codes_at, panel_bytes;    /* where a panel's codes begin; its size, a multiple of 64 */
    unsigned char   *panels;                   /* the caller's, on a 64-byte boundary */
} bb_integers;

/* false where the format has no such form: F32, F16, BF16. panels is left NULL. */
bool   bb_integers_shape(bb_integers *m, const bb_format *f, size_t rows, size_t cols);
size_t bb_integers_bytes(const bb_integers *m);
size_t bb_integers_panels(const bb_integers *m);
/* Panel i of m from the matrix's bytes, rows one after the other. */
void bb_integers_pack(const bb_integers *m, const void *data, size_t i);

/* Column c < 32 of row r: its byte among those of its 32 columns, and the bit at which its code begins. */
static inline size_t   bb_integer_at(unsigned bits, size_t r, size_t c) { return c / (32 / bits) * 64 + 4 * r + c % 4; }
static inline unsigned bb_integer_shift(unsigned bits, size_t c) { return bits * (unsigned)(c / 4 % (8 / bits)); }

/* In a panel, a or b (`what` 0, 1) of the 32 columns at `column`, [groups][16]; and their codes. */
static inline size_t bb_integer_fields(const bb_integers *m, size_t column, unsigned what)
{
    const size_t bytes = sizeof(uint16_t) * BB_INTEGER_ROWS * m->groups;
    return sizeof(float) * BB_INTEGER_ROWS + (column / BB_INTEGER_GROUP * (m->offsets ? 2 : 1) + what) * bytes;
}
static inline size_t bb_integer_codes(const bb_integers *m, size_t column) { return m->codes_at + column / BB_INTEGER_GROUP * 64 * m->bits; }

#endif
