/* SPDX-License-Identifier: GPL-3.0-or-later
 * iq3_nl.c: 32 weights: f16 d, 4 bytes of third bits (bit j of byte k: weight j + 8 k), 8 bytes of the lower two as in IQ2_NL; w = d * T[q].
 * Code: d (either sign); q. Under review upstream: not in stock llama.cpp. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[8] = { -127, -78, -45, -18, 3, 30, 62, 107 };

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = bb_half_to_float(bb_load_u16(p));
    bb_pairs32_unpack(p + 6, c->q);
    for (int i = 0; i < 32; i++) c->q[i] |= ((unsigned)p[2 + i / 8] >> i % 8 & 1u) << 2;
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_store_u16(p, bb_float_to_half(c->d));
    memset(p + 2, 0, 4);
    for (int i = 0; i < 32; i++) p[2 + i / 8] = (unsigned char)(p[2 + i / 8] | (c->q[i] >> 2 & 1u) << i % 8);
    bb_pairs32_pack(c->q, p + 6);
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_iq3_nl, .kind = BB_GRID_SCALE, .bin = 16 };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_iq3_nl = {
    .type = BB_IQ3_NL,
    .name = "IQ3_NL",
    .experimental = true,
    .block = 32,
    .block_bytes = 14,
    .group = 32,
    .vec = 1,
    .n_levels = 8,
    .levels = levels,
    BB_GRID_MEMBERS,
};
