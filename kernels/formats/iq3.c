/* SPDX-License-Identifier: GPL-3.0-or-later
 * iq3.c: IQ3_XXS (3.0625 bits a weight) and IQ3_S (3.4375): words of four magnitudes of eight, signs apart.
 *
 * IQ3_XXS, 98 bytes: f16 d; 64 bytes, an 8-bit index per 4 weights; 8 u32, one per 32 weights: four 7-bit sign words (one per
 *   8 weights, the eighth sign makes the number of negative weights even) and in bits 28-31 the scale.
 * IQ3_S, 110 bytes: f16 d; 64 bytes, low 8 bits of the 9-bit indexes; 8 bytes, the ninth bits, one byte per 32 weights; 32
 *   bytes of signs; 4 bytes of scales, a nibble per 32 weights, low first.
 * Fields and codes: codebook.h. A code of IQ3_XXS is two words, because they share a sign constraint; of IQ3_S one. */
#include <string.h>

#include "kernels/formats/codebook.h"
#include "kernels/half.h"

enum { IQ3_XXS_BYTES = 98, IQ3_S_BYTES = 110 };

static const bb_cb_spec spec_iq3_xxs = {
    .book = BB_BOOK_IQ3_XXS, .vec = 8, .n_words = 2, .has_signs = true, .even = true, .group = 32, .n_scales = 16, .unit = 0.25f
};
static const bb_cb_spec spec_iq3_s = { .book = BB_BOOK_IQ3_S, .vec = 4, .n_words = 1, .has_signs = true, .group = 32, .n_scales = 16, .unit = 1.0f };

static void iq3_xxs_unpack(const void *block, bb_code *c)
{
    const uint8_t *b = block, *index = b + 2;
    memset(c, 0, sizeof *c);
    c->d = bb_half_to_float(bb_load_u16(b));
    for (unsigned g = 0; g < 8; g++) {
        uint32_t rest = bb_load_u32(b + 66 + 4 * g);
        c->sc[g] = (int16_t)(rest >> 28);
        for (unsigned k = 0; k < 4; k++) {
            unsigned v = 4 * g + k;
            c->q[v] = index[2 * v] | (uint32_t)index[2 * v + 1] << 8 | bb_cb_even_signs(rest >> 7 * k) << 16;
        }
    }
}

static void iq3_xxs_pack(const bb_code *c, void *block)
{
    uint8_t *b = block, *index = b + 2;
    bb_store_u16(b, bb_float_to_half(c->d));
    for (unsigned g = 0; g < 8; g++) {
        uint32_t rest = ((uint32_t)c->sc[g] & 15u) << 28;
        for (unsigned k = 0; k < 4; k++) {
            unsigned v = 4 * g + k;
            index[2 * v] = (uint8_t)c->q[v];
            index[2 * v + 1] = (uint8_t)(c->q[v] >> 8);
            rest |= (c->q[v] >> 16 & 127u) << 7 * k;
        }
        bb_store_u32(b + 66 + 4 * g, rest);
    }
}

static void iq3_s_unpack(const void *block, bb_code *c)
{
    const uint8_t *b = block, *low = b + 2, *high = b + 66, *signs = b + 74, *scales = b + 106;
    memset(c, 0, sizeof *c);
    c->d = bb_half_to_float(bb_load_u16(b));
    for (unsigned g = 0; g < 8; g++) c->sc[g] = (int16_t)(scales[g / 2] >> 4 * (g % 2) & 15);
    for (unsigned v = 0; v < 64; v++) {
        uint32_t ninth = high[v / 8] >> v % 8 & 1u, sign = (uint32_t)signs[v / 2] >> 4 * (v % 2) & 15u;
        c->q[v] = low[v] | ninth << 8 | sign << 16;
    }
}

static void iq3_s_pack(const bb_code *c, void *block)
{
    uint8_t *b = block, *low = b + 2, *high = b + 66, *signs = b + 74, *scales = b + 106;
    bb_store_u16(b, bb_float_to_half(c->d));
    memset(high, 0, 8 + 32);
    for (unsigned g = 0; g < 4; g++) scales[g] = (uint8_t)((c->sc[2 * g] & 15) | (c->sc[2 * g + 1] & 15) << 4);
    for (unsigned v = 0; v < 64; v++) {
        low[v] = (uint8_t)c->q[v];
        high[v / 8] = (uint8_t)(high[v / 8] | (c->q[v] >> 8 & 1u) << v % 8);
        signs[v / 2] = (uint8_t)(signs[v / 2] | (c->q[v] >> 16 & 15u) << 4 * (v % 2));
    }
}

BB_CB_FORMAT(iq3_xxs, BB_IQ3_XXS, "IQ3_XXS", IQ3_XXS_BYTES, 8, 32, bb_cb_levels_iq3_xxs)
BB_CB_FORMAT(iq3_s, BB_IQ3_S, "IQ3_S", IQ3_S_BYTES, 4, 32, bb_cb_levels_iq3_s)
