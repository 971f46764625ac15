/* SPDX-License-Identifier: GPL-3.0-or-later
 * q2_k.c: 256 weights in 16 groups of 16: 16 bytes (low nibble sc, high nibble mn), 64 bytes of 2-bit codes (bb_pairs), f16 d,
 * f16 dmin; w = (d * sc) * q - (dmin * mn). Code: d, dmin (of either, but the same, sign); sc, mn in 0..15; q. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[4] = { 0, 1, 2, 3 };

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    for (int g = 0; g < 16; g++) {
        c->sc[g] = p[g] & 15;
        c->mn[g] = p[g] >> 4;
    }
    bb_pairs_unpack(p + 16, c->q);
    c->d = bb_half_to_float(bb_load_u16(p + 80));
    c->dmin = bb_half_to_float(bb_load_u16(p + 82));
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    for (int g = 0; g < 16; g++) p[g] = (unsigned char)((unsigned)c->sc[g] | (unsigned)c->mn[g] << 4);
    bb_pairs_pack(c->q, p + 16);
    bb_store_u16(p + 80, bb_float_to_half(c->d));
    bb_store_u16(p + 82, bb_float_to_half(c->dmin));
}

static void scales(const bb_code *c, float *a, float *b)
{
    for (int g = 0; g < 16; g++) {
        a[g] = c->d * (float)c->sc[g];
        b[g] = -(c->dmin * (float)c->mn[g]);
    }
}

static const bb_grid grid = { .format = &bb_format_q2_k, .kind = BB_GRID_SCALES_MINS, .sc_hi = 15 };
BB_GRID_ROWS_WRAPPERS(grid)

const bb_format bb_format_q2_k = {
    .type = BB_Q2_K,
    .name = "Q2_K",
    .block = 256,
    .block_bytes = 84,
    .group = 16,
    .vec = 1,
    .n_levels = 4,
    .levels = levels,
    BB_GRID_ROWS_MEMBERS,
};
