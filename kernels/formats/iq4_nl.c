/* SPDX-License-Identifier: GPL-3.0-or-later
 * iq4_nl.c: 32 weights: f16 d, 16 bytes of nibbles; w = d * T[q], T = bb_levels_iq4.
 * Code: d (either sign); q. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

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

static const bb_grid grid = { .format = &bb_format_iq4_nl, .kind = BB_GRID_SCALE, .bin = 8 };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_iq4_nl = {
    .type = BB_IQ4_NL,
    .name = "IQ4_NL",
    .block = 32,
    .block_bytes = 18,
    .group = 32,
    .vec = 1,
    .n_levels = 16,
    .levels = bb_levels_iq4,
    BB_GRID_MEMBERS,
};
