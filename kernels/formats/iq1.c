/* SPDX-License-Identifier: GPL-3.0-or-later
 * iq1.c: IQ1_S (1.5625 bits a weight) and IQ1_M (1.75): words of eight levels -1 0 1 with a shift of +-1/8.
 *
 * IQ1_S, 50 bytes: f16 d; 32 bytes, low 8 bits of the 11-bit indexes; 8 u16, one per 32 weights: high 3 bits of its four
 *   indexes (bits 0-11), 3-bit scale (12-14), shift bit (15).
 * IQ1_M, 56 bytes: 32 bytes, low 8 bits of the indexes; 16 bytes, a nibble per 8 weights: high 3 bits and shift bit; four
 *   u16, one per 64 weights: four 3-bit scales (one per 16 weights), and in bits 12-15 a nibble of f16 d, lowest first.
 * Fields and codes: codebook.h. IQ1_S shifts by group (mn), IQ1_M by code. */
#include <string.h>

#include "kernels/formats/codebook.h"
#include "kernels/half.h"

enum { IQ1_S_BYTES = 50, IQ1_M_BYTES = 56 };

static const bb_cb_spec spec_iq1_s = { .book = BB_BOOK_IQ1, .vec = 8, .n_words = 1, .shift = BB_SHIFT_GROUP, .group = 32, .n_scales = 8, .unit = 1.0f };
static const bb_cb_spec spec_iq1_m = { .book = BB_BOOK_IQ1, .vec = 8, .n_words = 1, .shift = BB_SHIFT_CODE, .group = 16, .n_scales = 8, .unit = 1.0f };

static void iq1_s_unpack(const void *block, bb_code *c)
{
    const uint8_t *b = block, *low = b + 2, *high = b + 34;
    memset(c, 0, sizeof *c);
    c->d = bb_half_to_float(bb_load_u16(b));
    for (unsigned g = 0; g < 8; g++) {
        uint32_t h = bb_load_u16(high + 2 * g);
        c->sc[g] = (int16_t)(h >> 12 & 7u);
        c->mn[g] = (int16_t)(h >> 15);
        for (unsigned k = 0; k < 4; k++) c->q[4 * g + k] = low[4 * g + k] | (h >> 3 * k & 7u) << 8;
    }
}

static void iq1_s_pack(const bb_code *c, void *block)
{
    uint8_t *b = block, *low = b + 2, *high = b + 34;
    bb_store_u16(b, bb_float_to_half(c->d));
    for (unsigned g = 0; g < 8; g++) {
        uint32_t h = ((uint32_t)c->sc[g] & 7u) << 12 | (c->mn[g] ? 0x8000u : 0u);
        for (unsigned k = 0; k < 4; k++) {
            low[4 * g + k] = (uint8_t)c->q[4 * g + k];
            h |= (c->q[4 * g + k] >> 8 & 7u) << 3 * k;
        }
        bb_store_u16(high + 2 * g, (uint16_t)h);
    }
}

static void iq1_m_unpack(const void *block, bb_code *c)
{
    const uint8_t *b = block, *high = b + 32, *scales = b + 48;
    uint32_t       d = 0;
    memset(c, 0, sizeof *c);
    for (unsigned i = 0; i < 4; i++) {
        uint32_t s = bb_load_u16(scales + 2 * i);
        d |= (s >> 12) << 4 * i;
        for (unsigned k = 0; k < 4; k++) c->sc[4 * i + k] = (int16_t)(s >> 3 * k & 7u);
    }
    c->d = bb_half_to_float((uint16_t)d);
    for (unsigned v = 0; v < 32; v++) {
        uint32_t h = (uint32_t)high[v / 2] >> 4 * (v % 2);
        c->q[v] = b[v] | (h & 7u) << 8 | (h >> 3 & 1u) << 16;
    }
}

static void iq1_m_pack(const bb_code *c, void *block)
{
    uint8_t       *b = block, *high = b + 32, *scales = b + 48;
    const uint32_t d = bb_float_to_half(c->d);
    for (unsigned i = 0; i < 4; i++) {
        uint32_t s = (d >> 4 * i & 15u) << 12;
        for (unsigned k = 0; k < 4; k++) s |= ((uint32_t)c->sc[4 * i + k] & 7u) << 3 * k;
        bb_store_u16(scales + 2 * i, (uint16_t)s);
    }
    memset(high, 0, 16);
    for (unsigned v = 0; v < 32; v++) {
        uint32_t h = (c->q[v] >> 8 & 7u) | (c->q[v] >> 16 & 1u) << 3;
        b[v] = (uint8_t)c->q[v];
        high[v / 2] = (uint8_t)(high[v / 2] | h << 4 * (v % 2));
    }
}

BB_CB_FORMAT(iq1_s, BB_IQ1_S, "IQ1_S", IQ1_S_BYTES, 8, 32, bb_cb_levels_iq1)
BB_CB_FORMAT(iq1_m, BB_IQ1_M, "IQ1_M", IQ1_M_BYTES, 8, 16, bb_cb_levels_iq1)
