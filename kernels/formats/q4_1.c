/* SPDX-License-Identifier: GPL-3.0-or-later
 * q4_1.c: 32 weights: f16 d, f16 m, 16 bytes of nibbles; w = d * q + m.
 * Code: d; dmin = m; q. */
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
    bb_nibbles_unpack(p + 4, c->q);
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_store_u16(p, bb_float_to_half(c->d));
    bb_store_u16(p + 2, bb_float_to_half(c->dmin));
    bb_nibbles_pack(c->q, p + 4);
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = c->dmin;
}

static const bb_grid grid = { .format = &bb_format_q4_1, .kind = BB_GRID_SCALE_MIN };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_q4_1 = {
    .type = BB_Q4_1,
    .name = "Q4_1",
    .block = 32,
    .block_bytes = 20,
    .group = 32,
    .vec = 1,
    .n_levels = 16,
    .levels = levels,
    BB_GRID_MEMBERS,
};
