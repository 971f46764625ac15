/* SPDX-License-Identifier: GPL-3.0-or-later
 * q5_0.c: 32 weights: f16 d, u32 of fifth bits (bit i: weight i), 16 bytes of nibbles; w = d * (q - 16).
 * Code: d (either sign); q. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[32] = {
    -16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
};

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = bb_half_to_float(bb_load_u16(p));
    bb_nibbles_unpack(p + 6, c->q);
    bb_fifth_bits_unpack(p + 2, c->q);
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_store_u16(p, bb_float_to_half(c->d));
    bb_fifth_bits_pack(c->q, p + 2);
    bb_nibbles_pack(c->q, p + 6);
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_q5_0, .kind = BB_GRID_SCALE };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_q5_0 = {
    .type = BB_Q5_0,
    .name = "Q5_0",
    .block = 32,
    .block_bytes = 22,
    .group = 32,
    .vec = 1,
    .n_levels = 32,
    .levels = levels,
    BB_GRID_MEMBERS,
};
