/* SPDX-License-Identifier: GPL-3.0-or-later
 * q1_0.c: 128 weights: f16 d, 16 bytes of signs (bit i % 8 of byte i / 8: weight i); w = +d for a set bit, else -d.
 * No zero level: a zero weight costs d. Code: d; q = the bit. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[2] = { -1, 1 };

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = bb_half_to_float(bb_load_u16(p));
    for (int i = 0; i < 128; i++) c->q[i] = (unsigned)p[2 + i / 8] >> i % 8 & 1u;
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_store_u16(p, bb_float_to_half(c->d));
    memset(p + 2, 0, 16);
    for (int i = 0; i < 128; i++) p[2 + i / 8] = (unsigned char)(p[2 + i / 8] | (c->q[i] & 1u) << i % 8);
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_q1_0, .kind = BB_GRID_SCALE, .bin = 2 };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_q1_0 = {
    .type = BB_Q1_0,
    .name = "Q1_0",
    .block = 128,
    .block_bytes = 18,
    .group = 128,
    .vec = 1,
    .n_levels = 2,
    .levels = levels,
    BB_GRID_MEMBERS,
};
