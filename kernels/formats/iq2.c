/* SPDX-License-Identifier: GPL-3.0-or-later
 * iq2.c: IQ2_XXS (2.0625 bits a weight), IQ2_XS (2.3125) and IQ2_S (2.5625): words of eight magnitudes 8 25 43, signs apart.
 *
 * IQ2_XXS, 66 bytes: f16 d; per 32 weights two u32: four 8-bit indexes, lowest first; four 7-bit sign words and in bits
 *   28-31 the scale. IQ2_XS, 74 bytes: f16 d; 32 u16, a 9-bit index and a 7-bit sign word each; 8 bytes of scales, two per
 *   32 weights, low nibble first. IQ2_S, 82 bytes: f16 d; 32 bytes, low 8 bits of the 10-bit indexes; 32 bytes of signs;
 *   8 bytes, high 2 bits of four indexes each, lowest first; 8 bytes of scales as IQ2_XS.
 * A 7-bit sign word holds the first seven signs; the eighth makes the number of negative weights even.
 * Fields and codes: codebook.h. */
#include <string.h>

#include "kernels/formats/codebook.h"
#include "kernels/half.h"

enum { IQ2_XXS_BYTES = 66, IQ2_XS_BYTES = 74, IQ2_S_BYTES = 82 };

static const bb_cb_spec spec_iq2_xxs = {
    .book = BB_BOOK_IQ2_XXS, .vec = 8, .n_words = 1, .has_signs = true, .even = true, .group = 32, .n_scales = 16, .unit = 0.125f
};
static const bb_cb_spec spec_iq2_xs = {
    .book = BB_BOOK_IQ2_XS, .vec = 8, .n_words = 1, .has_signs = true, .even = true, .group = 16, .n_scales = 16, .unit = 0.125f
};
static const bb_cb_spec spec_iq2_s = { .book = BB_BOOK_IQ2_S, .vec = 8, .n_words = 1, .has_signs = true, .group = 16, .n_scales = 16, .unit = 0.125f };

static void iq2_xxs_unpack(const void *block, bb_code *c)
{
    const uint8_t *b = block;
    memset(c, 0, sizeof *c);
    c->d = bb_half_to_float(bb_load_u16(b));
    for (unsigned g = 0; g < 8; g++) {
        uint32_t index = bb_load_u32(b + 2 + 8 * g), rest = bb_load_u32(b + 6 + 8 * g);
        c->sc[g] = (int16_t)(rest >> 28);
        for (unsigned k = 0; k < 4; k++) c->q[4 * g + k] = (index >> 8 * k & 255u) | bb_cb_even_signs(rest >> 7 * k) << 16;
    }
}

static void iq2_xxs_pack(const bb_code *c, void *block)
{
    uint8_t *b = block;
    bb_store_u16(b, bb_float_to_half(c->d));
    for (unsigned g = 0; g < 8; g++) {
        uint32_t index = 0, rest = ((uint32_t)c->sc[g] & 15u) << 28;
        for (unsigned k = 0; k < 4; k++) {
            index |= (c->q[4 * g + k] & 255u) << 8 * k;
            rest |= (c->q[4 * g + k] >> 16 & 127u) << 7 * k;
        }
        bb_store_u32(b + 2 + 8 * g, index);
        bb_store_u32(b + 6 + 8 * g, rest);
    }
}

static void nibble_scales_unpack(const uint8_t *bytes, bb_code *c)
{
    for (unsigned g = 0; g < 16; g++) c->sc[g] = (int16_t)(bytes[g / 2] >> 4 * (g % 2) & 15);
}

static void nibble_scales_pack(const bb_code *c, uint8_t *bytes)
{
    for (unsigned g = 0; g < 8; g++) bytes[g] = (uint8_t)((c->sc[2 * g] & 15) | (c->sc[2 * g + 1] & 15) << 4);
}

static void iq2_xs_unpack(const void *block, bb_code *c)
{
    const uint8_t *b = block;
    memset(c, 0, sizeof *c);
    c->d = bb_half_to_float(bb_load_u16(b));
    for (unsigned v = 0; v < 32; v++) {
        uint32_t x = bb_load_u16(b + 2 + 2 * v);
        c->q[v] = (x & 511u) | bb_cb_even_signs(x >> 9) << 16;
    }
    nibble_scales_unpack(b + 66, c);
}

static void iq2_xs_pack(const bb_code *c, void *block)
{
    uint8_t *b = block;
    bb_store_u16(b, bb_float_to_half(c->d));
    for (unsigned v = 0; v < 32; v++) bb_store_u16(b + 2 + 2 * v, (uint16_t)((c->q[v] & 511u) | (c->q[v] >> 16 & 127u) << 9));
    nibble_scales_pack(c, b + 66);
}

static void iq2_s_unpack(const void *block, bb_code *c)
{
    const uint8_t *b = block, *low = b + 2, *signs = b + 34, *high = b + 66;
    memset(c, 0, sizeof *c);
    c->d = bb_half_to_float(bb_load_u16(b));
    for (unsigned v = 0; v < 32; v++) c->q[v] = low[v] | ((uint32_t)high[v / 4] >> 2 * (v % 4) & 3u) << 8 | (uint32_t)signs[v] << 16;
    nibble_scales_unpack(b + 74, c);
}

static void iq2_s_pack(const bb_code *c, void *block)
{
    uint8_t *b = block, *low = b + 2, *signs = b + 34, *high = b + 66;
    bb_store_u16(b, bb_float_to_half(c->d));
    memset(high, 0, 8);
    for (unsigned v = 0; v < 32; v++) {
        low[v] = (uint8_t)c->q[v];
        signs[v] = (uint8_t)(c->q[v] >> 16);
        high[v / 4] = (uint8_t)(high[v / 4] | (c->q[v] >> 8 & 3u) << 2 * (v % 4));
    }
    nibble_scales_pack(c, b + 74);
}

BB_CB_FORMAT(iq2_xxs, BB_IQ2_XXS, "IQ2_XXS", IQ2_XXS_BYTES, 8, 32, bb_cb_levels_iq2)
BB_CB_FORMAT(iq2_xs, BB_IQ2_XS, "IQ2_XS", IQ2_XS_BYTES, 8, 16, bb_cb_levels_iq2)
BB_CB_FORMAT(iq2_s, BB_IQ2_S, "IQ2_S", IQ2_S_BYTES, 8, 16, bb_cb_levels_iq2)
