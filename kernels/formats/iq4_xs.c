/* SPDX-License-Identifier: GPL-3.0-or-later
 * iq4_xs.c: 256 weights in 8 groups of 32: f16 d, u16 of high scale bits, 4 bytes of low scale nibbles, 128 bytes of nibbles, 16 for
 * each group (bb_nibbles); w = (d * sc) * T[q], T = bb_levels_iq4. Scale s = sc + 32: low 4 bits in nibble g % 2 of byte
 * g / 2, high 2 bits in bits 2 g of the u16. Code: d; sc in -32..31; q. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    unsigned             high = bb_load_u16(p + 2);
    c->d = bb_half_to_float(bb_load_u16(p));
    for (int g = 0; g < 8; g++) {
        c->sc[g] = (int16_t)((int)(((unsigned)p[4 + g / 2] >> 4 * (g % 2) & 15u) | (high >> 2 * g & 3u) << 4) - 32);
        bb_nibbles_unpack(p + 8 + 16 * g, c->q + 32 * g);
    }
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    unsigned       high = 0, low = 0;
    for (int g = 0; g < 8; g++) {
        unsigned s = (unsigned)(c->sc[g] + 32);
        low |= (s & 15u) << 4 * g;
        high |= s >> 4 << 2 * g;
        bb_nibbles_pack(c->q + 32 * g, p + 8 + 16 * g);
    }
    bb_store_u16(p, bb_float_to_half(c->d));
    bb_store_u16(p + 2, (uint16_t)high);
    bb_store_u32(p + 4, low);
}

static void scales(const bb_code *c, float *a, float *b)
{
    for (int g = 0; g < 8; g++) {
        a[g] = c->d * (float)c->sc[g];
        b[g] = -0.0f;
    }
}

static const bb_grid grid = { .format = &bb_format_iq4_xs, .kind = BB_GRID_SCALES, .sc_lo = -32, .sc_hi = 31, .bin = 8 };
BB_GRID_ROWS_WRAPPERS(grid)

const bb_format bb_format_iq4_xs = {
    .type = BB_IQ4_XS,
    .name = "IQ4_XS",
    .block = 256,
    .block_bytes = 136,
    .group = 32,
    .vec = 1,
    .n_levels = 16,
    .levels = bb_levels_iq4,
    BB_GRID_ROWS_MEMBERS,
};
