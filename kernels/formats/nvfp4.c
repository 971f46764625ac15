/* SPDX-License-Identifier: GPL-3.0-or-later
 * nvfp4.c: 64 weights: 4 scale bytes, one for each 16 weights, then 32 bytes of nibbles, 8 for each 16 weights (low nibble of byte
 * j: weight j; high: weight j + 8). w = F[nibble] * (value of the scale byte / 2), F as in mxfp4.c.
 * Scale byte: unsigned E4M3, bias 7, exponent 0 subnormal; 0 and 127 mean 0; bit 7 is ignored.
 * Code: d = 0.5; sc[g] = the byte; q counts the levels in increasing order (nibble 8 is decoded, never written). */
#include <math.h>
#include <string.h>

#include "kernels/formats/grid.h"

static float scale_value(int byte)
{
    int exponent = byte >> 3 & 15, mantissa = byte & 7;
    if (byte == 0 || byte == 127) return 0;
    return exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
}

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    c->d = 0.5f;
    for (int g = 0; g < 4; g++) {
        c->sc[g] = p[g];
        for (int j = 0; j < 8; j++) {
            c->q[16 * g + j] = p[4 + 8 * g + j] & 15u;
            c->q[16 * g + j + 8] = p[4 + 8 * g + j] >> 4;
        }
    }
    bb_fp4_to_levels(c->q, 64);
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    uint32_t nibbles[64];
    memcpy(nibbles, c->q, sizeof nibbles);
    bb_fp4_from_levels(nibbles, 64);
    for (int g = 0; g < 4; g++) {
        p[g] = (unsigned char)c->sc[g];
        for (int j = 0; j < 8; j++)
            p[4 + 8 * g + j] = (unsigned char)(nibbles[16 * g + j] | nibbles[16 * g + j + 8] << 4);
    }
}

static void scales(const bb_code *c, float *a, float *b)
{
    for (int g = 0; g < 4; g++) {
        a[g] = c->d * scale_value(c->sc[g]);
        b[g] = -0.0f;
    }
}

BB_GRID_WRAPPERS(bb_format_nvfp4)

const bb_format bb_format_nvfp4 = {
    .type = BB_NVFP4, .name = "NVFP4", .block = 64, .block_bytes = 36, .group = 16, .vec = 1,
    .n_levels = 15, .levels = bb_levels_fp4,
    BB_GRID_MEMBERS,
};
