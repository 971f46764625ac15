/* SPDX-License-Identifier: GPL-3.0-or-later
 * q3_k.c: 256 weights in 16 groups of 16: 32 bytes of third bits (bit k of byte l: weight 32 k + l), 64 bytes of 2-bit codes
 * (bb_pairs), 12 bytes of 6-bit scales, f16 d; w = (d * sc) * (q - 4).
 * Scale byte s = sc + 32: low 4 bits in the low (g < 8) or high (g >= 8) nibble of byte g % 8; high 2 bits in bits
 * 2 (g / 4) of byte 8 + g % 4. Code: d; sc in -32..31; q. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[8] = { -4, -3, -2, -1, 0, 1, 2, 3 };

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block, *s = p + 96;
    bb_pairs_unpack(p + 32, c->q);
    for (int i = 0; i < 256; i++) c->q[i] |= ((unsigned)p[i % 32] >> i / 32 & 1u) << 2;
    for (int g = 0; g < 16; g++) c->sc[g] = (int16_t)(((s[g % 8] >> 4 * (g / 8) & 15) | (s[8 + g % 4] >> 2 * (g / 4) & 3) << 4) - 32);
    c->d = bb_half_to_float(bb_load_u16(p + 108));
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block, *s = p + 96;
    memset(p, 0, 110);
    for (int i = 0; i < 256; i++) p[i % 32] = (unsigned char)(p[i % 32] | (c->q[i] >> 2 & 1u) << i / 32);
    bb_pairs_pack(c->q, p + 32);
    for (int g = 0; g < 16; g++) {
        unsigned v = (unsigned)(c->sc[g] + 32);
        s[g % 8] = (unsigned char)(s[g % 8] | (v & 15u) << 4 * (g / 8));
        s[8 + g % 4] = (unsigned char)(s[8 + g % 4] | v >> 4 << 2 * (g / 4));
    }
    bb_store_u16(p + 108, bb_float_to_half(c->d));
}

static void scales(const bb_code *c, float *a, float *b)
{
    for (int g = 0; g < 16; g++) {
        a[g] = c->d * (float)c->sc[g];
        b[g] = -0.0f;
    }
}

static const bb_grid grid = { .format = &bb_format_q3_k, .kind = BB_GRID_SCALES, .sc_lo = -32, .sc_hi = 31 };
BB_GRID_ROWS_WRAPPERS(grid)

const bb_format bb_format_q3_k = {
    .type = BB_Q3_K,
    .name = "Q3_K",
    .block = 256,
    .block_bytes = 110,
    .group = 16,
    .vec = 1,
    .n_levels = 8,
    .levels = levels,
    BB_GRID_ROWS_MEMBERS,
};
