/* SPDX-License-Identifier: GPL-3.0-or-later
 * tq1_0.c: 256 weights: 48 + 4 bytes of five (the last four: four) trits each, f16 d at the end; w = (q - 1) * d.
 * A byte holds t = 81 t0 + 27 t1 + 9 t2 + 3 t3 + t4 as ceil(256 t / 243), so that trit n is (byte * 3^n mod 256) * 3 / 256.
 * Code: d; q = trit. */
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float levels[3] = { -1, 0, 1 };

/* Runs of bytes whose trit n is weight first + step * n + (position in the run). */
static const struct {
    int byte, n_bytes, n_trits, first, step;
} runs[3] = {
    { 0, 32, 5, 0, 32 },
    { 32, 16, 5, 160, 16 },
    { 48, 4, 4, 240, 4 },
};

static void unpack(const void *block, bb_code *c)
{
    const unsigned char *p = block;
    for (int r = 0; r < 3; r++)
        for (int m = 0; m < runs[r].n_bytes; m++) {
            unsigned byte = p[runs[r].byte + m];
            for (int n = 0; n < runs[r].n_trits; n++) {
                c->q[runs[r].first + runs[r].step * n + m] = byte * 3 >> 8;
                byte = byte * 3 & 255u;
            }
        }
    c->d = bb_half_to_float(bb_load_u16(p + 52));
}

static void pack(const bb_code *c, void *block)
{
    unsigned char *p = block;
    for (int r = 0; r < 3; r++)
        for (int m = 0; m < runs[r].n_bytes; m++) {
            unsigned t = 0;
            for (int n = 0; n < 5; n++) t = 3 * t + (n < runs[r].n_trits ? c->q[runs[r].first + runs[r].step * n + m] : 0u);
            p[runs[r].byte + m] = (unsigned char)((256 * t + 242) / 243);
        }
    bb_store_u16(p + 52, bb_float_to_half(c->d));
}

static void scales(const bb_code *c, float *a, float *b)
{
    a[0] = c->d;
    b[0] = -0.0f;
}

static const bb_grid grid = { .format = &bb_format_tq1_0, .kind = BB_GRID_SCALE };
BB_GRID_WRAPPERS(grid)

const bb_format bb_format_tq1_0 = {
    .type = BB_TQ1_0,
    .name = "TQ1_0",
    .block = 256,
    .block_bytes = 54,
    .group = 256,
    .vec = 1,
    .n_levels = 3,
    .levels = levels,
    BB_GRID_MEMBERS,
};
