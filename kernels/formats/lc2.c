/* SPDX-License-Identifier: GPL-3.0-or-later
 * lc2.c: the codes of an affine lattice, a format of bitbudget's own: 4 weights: 1 byte, bits 2j and 2j + 1 hold code j, 0 ... 3. What a row says alone is
 * its codes; the weights come of them and of a second tensor, for a whole matrix at once (model/net/lattice.h). So it is in no list of formats. */
#include <math.h>

#include "kernels/format.h"

static void decode(const void *blocks, float *out, size_t n)
{
    const unsigned char *b = blocks;
    for (size_t i = 0; i < n; i++) out[i] = (float)(b[i / 4] >> 2 * (i % 4) & 3);
}

static float dot(const void *blocks, const float *x, size_t n)
{
    const unsigned char *b = blocks;
    float                sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i] * (float)(b[i / 4] >> 2 * (i % 4) & 3);
    return sum;
}

static void encode_rtn(const float *w, void *blocks, size_t n)
{
    unsigned char *b = blocks;
    for (size_t g = 0; g < n / 4; g++) {
        unsigned byte = 0;
        for (unsigned j = 0; j < 4; j++) {
            const float x = w[4 * g + j];
            byte |= (unsigned)(isfinite(x) ? fminf(fmaxf(x + 0.5f, 0), 3) : 0) << 2 * j;
        }
        b[g] = (unsigned char)byte;
    }
}

static void encode(const float *w, const float *h, void *blocks, size_t n)
{
    (void)h;
    encode_rtn(w, blocks, n);
}

const bb_format bb_format_lc2 = {
    .type = BB_LC2, .name = "LC2", .experimental = true, .block = 4, .block_bytes = 1, .decode = decode, .dot = dot, .encode = encode, .encode_rtn = encode_rtn
};
