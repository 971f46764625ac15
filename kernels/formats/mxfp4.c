/* SPDX-License-Identifier: GPL-3.0-or-later
 * mxfp4.c: 32 weights: u8 e, 16 bytes of nibbles; w = F[nibble] * 2^(e - 128), F = 0 1 2 3 4 6 8 12 and, bit 3 set, the same
 * negated (twice the E2M1 numbers of the OCP MX specification). Code: d = 2^(e - 128); q counts the levels in increasing
 * order, so that the two zeros (nibbles 0 and 8) are one: nibble 8 is decoded, never written. */
#include <math.h>
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = ldexpf(1, p[0] - 128);
    bb_nibbles_unpack(p + 1, c->q);
    bb_fp4_to_levels(c->q, 32);
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    uint32_t       nibbles[32];
    memcpy(nibbles, c->q, sizeof nibbles);
    bb_fp4_from_levels(nibbles, 32);
    p[0] = (unsigned char)(ilogbf(c->d) + 128);
    bb_nibbles_pack(nibbles, p + 1);
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_mxfp4, .kind = BB_GRID_POWER, .bin = 1 };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_mxfp4 = {
    .type = BB_MXFP4,
    .name = "MXFP4",
    .block = 32,
    .block_bytes = 17,
    .group = 32,
    .vec = 1,
    .n_levels = 15,
    .levels = bb_levels_fp4,
    BB_GRID_MEMBERS,
};
