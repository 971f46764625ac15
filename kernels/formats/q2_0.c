/* SPDX-License-Identifier: GPL-3.0-or-later
 * q2_0.c: 64 weights: f16 d, 16 bytes of 2-bit codes (bits 2 (i % 4) of byte i / 4: weight i); w = (q - 1) * d.
 * Code: d (either sign: a negative one points the long arm, 2 d, down); q. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[4] = { -1, 0, 1, 2 };

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = bb_half_to_float(bb_load_u16(p));
    for (int i = 0; i < 64; i++) c->q[i] = (unsigned)p[2 + i / 4] >> 2 * (i % 4) & 3u;
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_store_u16(p, bb_float_to_half(c->d));
    for (int i = 0; i < 16; i++) {
        const uint32_t *q = c->q + 4 * i;
        p[2 + i] = (unsigned char)(q[0] | q[1] << 2 | q[2] << 4 | q[3] << 6);
    }
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_q2_0, .kind = BB_GRID_SCALE };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_q2_0 = {
    .type = BB_Q2_0,
    .name = "Q2_0",
    .block = 64,
    .block_bytes = 18,
    .group = 64,
    .vec = 1,
    .n_levels = 4,
    .levels = levels,
    BB_GRID_MEMBERS,
};
