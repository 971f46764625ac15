/* SPDX-License-Identifier: GPL-3.0-or-later
 * nvfp4.c: 64 weights: 4 scale bytes, one for each 16 weights, then 32 bytes of nibbles, 8 for each 16 weights (low nibble of byte
 * j: weight j; high: weight j + 8). w = F[nibble] * (value of the scale byte / 2), F as in mxfp4.c.
 * Scale byte: unsigned E4M3, bias 7, exponent 0 subnormal; 127 means 0. Bit 7 is ignored, but of 255, which is 480 and not 0.
 * Code: d = 0.5; sc[g] = the byte; q counts the levels in increasing order (nibble 8 is decoded, never written). */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"

/* Half the value of every scale byte. */
#define STEPS(x, step) (x), (x) + (step), (x) + 2 * (step), (x) + 3 * (step), (x) + 4 * (step), (x) + 5 * (step), (x) + 6 * (step)
#define OCTAVE(x) STEPS(x, (x) / 8), (x) + 7 * ((x) / 8)
#define BYTES_TO_126 \
    STEPS(0.0f, 0x1p-10f), 7 * 0x1p-10f, OCTAVE(0x1p-7f), OCTAVE(0x1p-6f), OCTAVE(0x1p-5f), OCTAVE(0x1p-4f), OCTAVE(0x1p-3f), OCTAVE(0x1p-2f), \
        OCTAVE(0x1p-1f), OCTAVE(1.0f), OCTAVE(2.0f), OCTAVE(4.0f), OCTAVE(8.0f), OCTAVE(16.0f), OCTAVE(32.0f), OCTAVE(64.0f), STEPS(128.0f, 16.0f)
static const float byte_scales[256] = { BYTES_TO_126, 0, BYTES_TO_126, 240 };

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
    uint32_t       nibbles[64];
    memcpy(nibbles, c->q, sizeof nibbles);
    bb_fp4_from_levels(nibbles, 64);
    for (int g = 0; g < 4; g++) {
        p[g] = (unsigned char)c->sc[g];
        for (int j = 0; j < 8; j++) p[4 + 8 * g + j] = (unsigned char)(nibbles[16 * g + j] | nibbles[16 * g + j + 8] << 4);
    }
}

static void scales(const bb_code *c, float *a, float *b)
{
    for (int g = 0; g < 4; g++) {
        a[g] = byte_scales[c->sc[g]];
        b[g] = -0.0f;
    }
}

static const bb_grid grid = { .format = &bb_format_nvfp4, .kind = BB_GRID_BYTE_SCALES, .sc_hi = 126, .byte_scales = byte_scales, .bin = 1 };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_nvfp4 = {
    .type = BB_NVFP4,
    .name = "NVFP4",
    .block = 64,
    .block_bytes = 36,
    .group = 16,
    .vec = 1,
    .n_levels = 15,
    .levels = bb_levels_fp4,
    BB_GRID_MEMBERS,
};
