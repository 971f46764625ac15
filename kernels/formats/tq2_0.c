/* SPDX-License-Identifier: GPL-3.0-or-later
 * tq2_0.c: 256 weights: 64 bytes of 2-bit codes 0..2 (bb_pairs), f16 d at the end; w = (q - 1) * d.
 * Code: d; q. The fourth code (2 d) is decoded as it stands but never written. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

/* The decoder of the format knows a fourth level; only the first three are ours to use. */
static const float levels[4] = { -1, 0, 1, 2 };

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    bb_pairs_unpack(p, c->q);
    c->d = bb_half_to_float(bb_load_u16(p + 64));
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    bb_pairs_pack(c->q, p);
    bb_store_u16(p + 64, bb_float_to_half(c->d));
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_tq2_0, .kind = BB_GRID_SCALE };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_tq2_0 = {
    .type = BB_TQ2_0,
    .name = "TQ2_0",
    .block = 256,
    .block_bytes = 66,
    .group = 256,
    .vec = 1,
    .n_levels = 3,
    .levels = levels,
    .n_read = 4,
    BB_GRID_MEMBERS,
};
