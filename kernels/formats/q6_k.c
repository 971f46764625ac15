/* SPDX-License-Identifier: GPL-3.0-or-later
 * q6_k.c: 256 weights in 16 groups of 16: 128 bytes of low nibbles, 64 bytes of high pairs, 16 int8 scales, f16 d at the end;
 * w = (d * sc) * (q - 32). Nibbles: byte l of run r (64 bytes each) holds weights 128 r + l (low) and 128 r + 64 + l (high);
 * pairs: bb_pairs. Code: d; sc in -128..127; q. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[64] = {
    -32, -31, -30, -29, -28, -27, -26, -25, -24, -23, -22, -21, -20, -19, -18, -17, -16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1,
    0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,  15,  16,  17,  18,  19,  20,  21,  22,  23, 24, 25, 26, 27, 28, 29, 30, 31,
};

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    bb_pairs_unpack(p + 128, c->q);
    for (int i = 0; i < 256; i++) c->q[i] = c->q[i] << 4 | ((unsigned)p[64 * (i / 128) + i % 64] >> 4 * (i / 64 % 2) & 15u);
    for (int g = 0; g < 16; g++) c->sc[g] = (int16_t)(p[192 + g] < 128 ? p[192 + g] : p[192 + g] - 256);
    c->d = bb_half_to_float(bb_load_u16(p + 208));
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    uint32_t       high[256];
    for (int i = 0; i < 256; i++) high[i] = c->q[i] >> 4;
    bb_pairs_pack(high, p + 128);
    for (int i = 0; i < 128; i++) {
        const uint32_t *q = c->q + 128 * (i / 64) + i % 64;
        p[i] = (unsigned char)((q[0] & 15u) | (q[64] & 15u) << 4);
    }
    for (int g = 0; g < 16; g++) p[192 + g] = (unsigned char)c->sc[g];
    bb_store_u16(p + 208, bb_float_to_half(c->d));
}

static void scales(const bb_code *c, float *a, float *b)
{
    for (int g = 0; g < 16; g++) {
        a[g] = c->d * (float)c->sc[g];
        b[g] = -0.0f;
    }
}

static const bb_grid grid = { .format = &bb_format_q6_k, .kind = BB_GRID_SCALES, .sc_lo = -128, .sc_hi = 127 };
BB_GRID_ROWS_WRAPPERS(grid)

const bb_format bb_format_q6_k = {
    .type = BB_Q6_K,
    .name = "Q6_K",
    .block = 256,
    .block_bytes = 210,
    .group = 16,
    .vec = 1,
    .n_levels = 64,
    .levels = levels,
    BB_GRID_ROWS_MEMBERS,
};
