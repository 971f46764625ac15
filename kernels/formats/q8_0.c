/* SPDX-License-Identifier: GPL-3.0-or-later
 * q8_0.c: 32 weights: f16 d, 32 int8 q; w = d * q.
 * Code: d; q[i] = int8 + 128. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = bb_half_to_float(bb_load_u16(p));
    for (int i = 0; i < 32; i++) c->q[i] = p[2 + i] ^ 128u; /* two's complement + 128 */
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_store_u16(p, bb_float_to_half(c->d));
    for (int i = 0; i < 32; i++) p[2 + i] = (unsigned char)(c->q[i] ^ 128u);
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_q8_0, .kind = BB_GRID_SCALE };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_q8_0 = {
    .type = BB_Q8_0,
    .name = "Q8_0",
    .block = 32,
    .block_bytes = 34,
    .group = 32,
    .vec = 1,
    .n_levels = 256,
    .levels = bb_levels_256,
    BB_GRID_MEMBERS,
};
