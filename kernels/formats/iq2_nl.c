/* SPDX-License-Identifier: GPL-3.0-or-later
 * iq2_nl.c: 32 weights: f16 d, 8 bytes; bits 2k and 2k + 1 of byte j hold the code of weight j + 8 k; w = d * T[q].
 * Code: d (either sign); q. Under review upstream: not in stock llama.cpp. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[4] = { -127, -49, 9, 88 };

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = bb_half_to_float(bb_load_u16(p));
    bb_pairs32_unpack(p + 2, c->q);
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_store_u16(p, bb_float_to_half(c->d));
    bb_pairs32_pack(c->q, p + 2);
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_iq2_nl, .kind = BB_GRID_SCALE, .bin = 64 };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_iq2_nl = {
    .type = BB_IQ2_NL,
    .name = "IQ2_NL",
    .experimental = true,
    .block = 32,
    .block_bytes = 10,
    .group = 32,
    .vec = 1,
    .n_levels = 4,
    .levels = levels,
    BB_GRID_MEMBERS,
};
