/* SPDX-License-Identifier: GPL-3.0-or-later
 * q4_0.c: 32 weights: f16 d, 16 bytes of nibbles; w = d * (q - 8).
 * Code: d (either sign); q. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[16] = { -8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7 };

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = bb_half_to_float(bb_load_u16(p));
    bb_nibbles_unpack(p + 2, c->q);
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_store_u16(p, bb_float_to_half(c->d));
    bb_nibbles_pack(c->q, p + 2);
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_q4_0, .kind = BB_GRID_SCALE };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_q4_0 = {
    .type = BB_Q4_0,
    .name = "Q4_0",
    .block = 32,
    .block_bytes = 18,
    .group = 32,
    .vec = 1,
    .n_levels = 16,
    .levels = levels,
    BB_GRID_MEMBERS,
};
