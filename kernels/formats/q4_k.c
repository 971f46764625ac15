/* SPDX-License-Identifier: GPL-3.0-or-later
 * q4_k.c: 256 weights in 8 groups of 32: f16 d, f16 dmin, 12 bytes of 6-bit scales and mins (bb_k_scales), 128 bytes of nibbles:
 * byte l of run r (32 bytes each) holds weights 64 r + l (low) and 64 r + 32 + l (high). w = (d * sc) * q - (dmin * mn).
 * Code: d, dmin (of either, but the same, sign); sc, mn in 0..63; q. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = bb_half_to_float(bb_load_u16(p));
    c->dmin = bb_half_to_float(bb_load_u16(p + 2));
    bb_k_scales_unpack(p + 4, c);
    for (int r = 0; r < 4; r++) bb_nibbles64_unpack(p + 16 + 32 * r, c->q + 64 * r);
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_store_u16(p, bb_float_to_half(c->d));
    bb_store_u16(p + 2, bb_float_to_half(c->dmin));
    bb_k_scales_pack(c, p + 4);
    for (int r = 0; r < 4; r++) bb_nibbles64_pack(c->q + 64 * r, p + 16 + 32 * r);
}

static void scales(const bb_code *c, float *a, float *b)
{
    for (int g = 0; g < 8; g++) {
        a[g] = c->d * (float)c->sc[g];
        b[g] = -(c->dmin * (float)c->mn[g]);
    }
}

static const bb_grid grid = { .format = &bb_format_q4_k, .kind = BB_GRID_SCALES_MINS, .sc_hi = 63 };
BB_GRID_ROWS_WRAPPERS(grid)

const bb_format bb_format_q4_k = {
    .type = BB_Q4_K,
    .name = "Q4_K",
    .block = 256,
    .block_bytes = 144,
    .group = 32,
    .vec = 1,
    .n_levels = 16,
    .levels = levels,
    BB_GRID_ROWS_MEMBERS,
};
