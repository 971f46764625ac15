/* SPDX-License-Identifier: GPL-3.0-or-later
 * grid.c: whole-row loops and shared packings; see grid.h. */
#include "kernels/formats/grid.h"

#include <math.h>
#include <stdlib.h>

#include "base/status.h"
#include "kernels/half.h"

const float bb_levels_256[256] = {
    -128, -127, -126, -125, -124, -123, -122, -121, -120, -119, -118, -117, -116, -115, -114, -113, -112, -111, -110, -109, -108, -107, -106, -105, -104, -103,
    -102, -101, -100, -99,  -98,  -97,  -96,  -95,  -94,  -93,  -92,  -91,  -90,  -89,  -88,  -87,  -86,  -85,  -84,  -83,  -82,  -81,  -80,  -79,  -78,  -77,
    -76,  -75,  -74,  -73,  -72,  -71,  -70,  -69,  -68,  -67,  -66,  -65,  -64,  -63,  -62,  -61,  -60,  -59,  -58,  -57,  -56,  -55,  -54,  -53,  -52,  -51,
    -50,  -49,  -48,  -47,  -46,  -45,  -44,  -43,  -42,  -41,  -40,  -39,  -38,  -37,  -36,  -35,  -34,  -33,  -32,  -31,  -30,  -29,  -28,  -27,  -26,  -25,
    -24,  -23,  -22,  -21,  -20,  -19,  -18,  -17,  -16,  -15,  -14,  -13,  -12,  -11,  -10,  -9,   -8,   -7,   -6,   -5,   -4,   -3,   -2,   -1,   0,    1,
    2,    3,    4,    5,    6,    7,    8,    9,    10,   11,   12,   13,   14,   15,   16,   17,   18,   19,   20,   21,   22,   23,   24,   25,   26,   27,
    28,   29,   30,   31,   32,   33,   34,   35,   36,   37,   38,   39,   40,   41,   42,   43,   44,   45,   46,   47,   48,   49,   50,   51,   52,   53,
    54,   55,   56,   57,   58,   59,   60,   61,   62,   63,   64,   65,   66,   67,   68,   69,   70,   71,   72,   73,   74,   75,   76,   77,   78,   79,
    80,   81,   82,   83,   84,   85,   86,   87,   88,   89,   90,   91,   92,   93,   94,   95,   96,   97,   98,   99,   100,  101,  102,  103,  104,  105,
    106,  107,  108,  109,  110,  111,  112,  113,  114,  115,  116,  117,  118,  119,  120,  121,  122,  123,  124,  125,  126,  127,
};
const float bb_levels_iq4[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
const float bb_levels_fp4[15] = { -12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12 };

/* A group of codes to weights. Consecutive integer levels need no table, so that the loop can be vectorised. */
static void decode_group(const bb_format *f, const uint32_t *restrict q, float a, float b, float *restrict out)
{
    const float lo = f->levels[0];
    if (f->levels[f->n_levels - 1] - lo == (float)(f->n_levels - 1))
        for (int i = 0; i < f->group; i++) out[i] = a * (lo + (float)(int32_t)q[i]) + b;
    else
        for (int i = 0; i < f->group; i++) out[i] = a * f->levels[q[i]] + b;
}

void bb_grid_decode(const bb_format *f, const void *blocks, float *out, size_t n)
{
    const unsigned char *in = blocks;
    BB_ASSERT(n % f->block == 0);
    for (size_t i = 0; i < n; i += f->block, in += f->block_bytes) {
        bb_code c;
        float   a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
        f->unpack(in, &c);
        f->scales(&c, a, b);
        for (int g = 0; g < f->block / f->group; g++) {
            int at = g * f->group;
            decode_group(f, c.q + at, a[g], b[g], out + i + at);
        }
    }
}

float bb_grid_dot(const bb_format *f, const void *blocks, const float *x, size_t n)
{
    const unsigned char *b = blocks;
    float                lane[8] = { 0 }, part[BB_MAX_BLOCK];
    BB_ASSERT(n % f->block == 0);
    for (size_t i = 0; i < n; i += BB_MAX_BLOCK) {
        size_t m = n - i < BB_MAX_BLOCK ? n - i : BB_MAX_BLOCK;
        f->decode(b + i / f->block * f->block_bytes, part, m);
        size_t whole = m / 8 * 8;
        for (size_t k = 0; k < whole; k += 8)
            for (size_t j = 0; j < 8; j++) lane[j] += part[k + j] * x[i + k + j];
        for (size_t k = whole; k < m; k++) lane[k - whole] += part[k] * x[i + k];
    }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

void bb_grid_encode(const bb_format *f, const float *w, const float *h, void *blocks, size_t n)
{
    unsigned char *out = blocks;
    BB_ASSERT(n % f->block == 0);
    for (size_t i = 0; i < n; i += f->block, out += f->block_bytes) {
        bb_code c;
        f->fit(w + i, h ? h + i : NULL, &c);
        f->pack(&c, out);
    }
}

void bb_mean_importance(const float *h, unsigned n, float *out)
{
    const int near = 60; /* binary orders from 1 within which a sum and its reciprocal are floats */
    float     largest = 0, sum = 0;
    for (unsigned i = 0; i < n; i++) {
        out[i] = isfinite(h[i]) && h[i] > 0 ? h[i] : 0;
        largest = fmaxf(largest, out[i]);
    }
    const int order = largest > 0 ? ilogbf(largest) : 0;
    for (unsigned i = 0; i < n && abs(order) > near; i++) out[i] = ldexpf(out[i], -order);
    for (unsigned i = 0; i < n; i++) sum += out[i];
    for (unsigned i = 0; i < n; i++) out[i] = sum > 0 ? out[i] * ((float)n / sum) : 1;
}

void bb_nibbles_unpack(const unsigned char *bytes, uint32_t *q)
{
    for (int j = 0; j < 16; j++) {
        q[j] = bytes[j] & 15u;
        q[j + 16] = bytes[j] >> 4;
    }
}

void bb_nibbles_pack(const uint32_t *q, unsigned char *bytes)
{
    for (int j = 0; j < 16; j++) bytes[j] = (unsigned char)((q[j] & 15u) | (q[j + 16] & 15u) << 4);
}

void bb_nibbles64_unpack(const unsigned char *bytes, uint32_t *q)
{
    for (int j = 0; j < 32; j++) {
        q[j] = bytes[j] & 15u;
        q[j + 32] = bytes[j] >> 4;
    }
}

void bb_nibbles64_pack(const uint32_t *q, unsigned char *bytes)
{
    for (int j = 0; j < 32; j++) bytes[j] = (unsigned char)((q[j] & 15u) | (q[j + 32] & 15u) << 4);
}

void bb_pairs_unpack(const unsigned char *bytes, uint32_t *q)
{
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 4; k++)
            for (int l = 0; l < 32; l++) q[128 * half + 32 * k + l] = (unsigned)bytes[32 * half + l] >> 2 * k & 3u;
}

void bb_pairs_pack(const uint32_t *q, unsigned char *bytes)
{
    for (int half = 0; half < 2; half++)
        for (int l = 0; l < 32; l++) {
            const uint32_t *p = q + 128 * half + l;
            bytes[32 * half + l] = (unsigned char)((p[0] & 3u) | (p[32] & 3u) << 2 | (p[64] & 3u) << 4 | (p[96] & 3u) << 6);
        }
}

void bb_pairs32_unpack(const unsigned char *bytes, uint32_t *q)
{
    for (int i = 0; i < 32; i++) q[i] = (unsigned)bytes[i % 8] >> 2 * (i / 8) & 3u;
}

void bb_pairs32_pack(const uint32_t *q, unsigned char *bytes)
{
    for (int j = 0; j < 8; j++) bytes[j] = (unsigned char)((q[j] & 3u) | (q[j + 8] & 3u) << 2 | (q[j + 16] & 3u) << 4 | (q[j + 24] & 3u) << 6);
}

void bb_fifth_bits_unpack(const unsigned char *word, uint32_t *q)
{
    uint32_t bits = bb_load_u32(word);
    for (int i = 0; i < 32; i++) q[i] |= (bits >> i & 1u) << 4;
}

void bb_fifth_bits_pack(const uint32_t *q, unsigned char *word)
{
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++) bits |= (q[i] >> 4 & 1u) << i;
    bb_store_u32(word, bits);
}

void bb_k_scales_unpack(const unsigned char *s, bb_code *c)
{
    for (int g = 0; g < 4; g++) {
        c->sc[g] = s[g] & 63;
        c->mn[g] = s[g + 4] & 63;
        c->sc[g + 4] = (int16_t)((s[g + 8] & 15) | s[g] >> 6 << 4);
        c->mn[g + 4] = (int16_t)(s[g + 8] >> 4 | s[g + 4] >> 6 << 4);
    }
}

void bb_k_scales_pack(const bb_code *c, unsigned char *s)
{
    for (int g = 0; g < 4; g++) {
        s[g] = (unsigned char)((unsigned)c->sc[g] | (unsigned)c->sc[g + 4] >> 4 << 6);
        s[g + 4] = (unsigned char)((unsigned)c->mn[g] | (unsigned)c->mn[g + 4] >> 4 << 6);
        s[g + 8] = (unsigned char)((c->sc[g + 4] & 15) | (c->mn[g + 4] & 15) << 4);
    }
}

void bb_fp4_to_levels(uint32_t *q, int n)
{
    for (int i = 0; i < n; i++) q[i] = q[i] & 8u ? 7u - (q[i] & 7u) : 7u + q[i];
}

void bb_fp4_from_levels(uint32_t *q, int n)
{
    for (int i = 0; i < n; i++) q[i] = q[i] < 7u ? 15u - q[i] : q[i] - 7u;
}
