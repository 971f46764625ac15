/* SPDX-License-Identifier: GPL-3.0-or-later
 * plain.c: F32, F16 and BF16: one number a weight, nothing to fit. A block is one weight.
 * Encoders write 0 for a non-finite weight and clamp to the largest finite number of the type. */
#include <math.h>
#include <string.h>

#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const float half_max = 65504.0f, bf16_max = 0x1.FEp127f;

static void f32_decode(const void *blocks, float *out, size_t n) { memcpy(out, blocks, n * sizeof *out); }

static void f32_encode(const float *w, const float *h, void *blocks, size_t n)
{
    unsigned char *b = blocks;
    (void)h;
    for (size_t i = 0; i < n; i++) {
        float x = isfinite(w[i]) ? w[i] : 0;
        memcpy(b + 4 * i, &x, sizeof x);
    }
}

/* bb_half_to_float without a branch: the exponent field moved into a float's is 112 too small, for subnormals too. */
static void f16_decode(const void *blocks, float *out, size_t n)
{
    const unsigned char *b = blocks;
    for (size_t i = 0; i < n; i++) {
        uint32_t h = bb_load_u16(b + 2 * i), u = (h & 0x7FFFu) << 13;
        uint32_t finite = bb_float_bits(bb_bits_float(u) * 0x1p112f);
        out[i] = bb_bits_float((u < 0x0F800000u ? finite : u | 0x7F800000u) | (h & 0x8000u) << 16);
    }
}

static void f16_encode(const float *w, const float *h, void *blocks, size_t n)
{
    unsigned char *b = blocks;
    (void)h;
    for (size_t i = 0; i < n; i++) {
        float x = isfinite(w[i]) ? fminf(fmaxf(w[i], -half_max), half_max) : 0;
        bb_store_u16(b + 2 * i, bb_float_to_half(x));
    }
}

static void bf16_decode(const void *blocks, float *out, size_t n)
{
    const unsigned char *b = blocks;
    for (size_t i = 0; i < n; i++) out[i] = bb_bf16_to_float(bb_load_u16(b + 2 * i));
}

static void bf16_encode(const float *w, const float *h, void *blocks, size_t n)
{
    unsigned char *b = blocks;
    (void)h;
    for (size_t i = 0; i < n; i++) {
        float x = isfinite(w[i]) ? fminf(fmaxf(w[i], -bf16_max), bf16_max) : 0;
        bb_store_u16(b + 2 * i, bb_float_to_bf16(x));
    }
}

static void f32_rtn(const float *w, void *blocks, size_t n) { f32_encode(w, NULL, blocks, n); }
static void f16_rtn(const float *w, void *blocks, size_t n) { f16_encode(w, NULL, blocks, n); }
static void bf16_rtn(const float *w, void *blocks, size_t n) { bf16_encode(w, NULL, blocks, n); }

static float f32_dot(const void *b, const float *x, size_t n) { return bb_grid_dot(&bb_format_f32, b, x, n); }
static float f16_dot(const void *b, const float *x, size_t n) { return bb_grid_dot(&bb_format_f16, b, x, n); }
static float bf16_dot(const void *b, const float *x, size_t n) { return bb_grid_dot(&bb_format_bf16, b, x, n); }

const bb_format bb_format_f32 = {
    .type = BB_F32,
    .name = "F32",
    .block = 1,
    .block_bytes = 4,
    .decode = f32_decode,
    .dot = f32_dot,
    .encode = f32_encode,
    .encode_rtn = f32_rtn,
};
const bb_format bb_format_f16 = {
    .type = BB_F16,
    .name = "F16",
    .block = 1,
    .block_bytes = 2,
    .decode = f16_decode,
    .dot = f16_dot,
    .encode = f16_encode,
    .encode_rtn = f16_rtn,
};
const bb_format bb_format_bf16 = {
    .type = BB_BF16,
    .name = "BF16",
    .block = 1,
    .block_bytes = 2,
    .decode = bf16_decode,
    .dot = bf16_dot,
    .encode = bf16_encode,
    .encode_rtn = bf16_rtn,
};
