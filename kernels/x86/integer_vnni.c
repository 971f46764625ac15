/* SPDX-License-Identifier: GPL-3.0-or-later
 * integer_vnni.c: the same with VPDPBUSD: a register holds four columns of sixteen rows, levels as z + 128, which the sums of q take back. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/integer.h"
#include "kernels/kernels.h"

static inline __attribute__((always_inline)) __m512 sixteen_rows(const bb_integers *w, const unsigned char *panel, unsigned bits, unsigned groups, bool offsets,
                                                                 const int8_t *q, const float *scale, const int32_t *sum)
{
    const __m512i        table = _mm512_xor_si512(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)w->table)), _mm512_set1_epi8((char)-128));
    const __m512i        low = _mm512_set1_epi8((char)((1u << bits % 8) - 1));
    const unsigned       per = 8 / bits, units = 8 / groups;
    const unsigned char *fields = panel + bb_integer_fields(w, 0, 0), *codes = panel + bb_integer_codes(w, 0);
    __m512               t = _mm512_setzero_ps();
    for (size_t g = 0; g < w->cols / BB_INTEGER_GROUP; g++, q += BB_INTEGER_GROUP, sum += 2) {
        const __m512 s = _mm512_set1_ps(scale[g]);
        __m512i      byte = low, dot[2];
        for (unsigned k = 0; k < groups; k++) dot[k] = _mm512_set1_epi32(-128 * (groups == 2 ? sum[k] : sum[0] + sum[1]));
        for (unsigned u = 0; u < 8; u++) {
            int32_t four;
            memcpy(&four, q + 4 * u, sizeof four);
            if (u % per == 0) {
                byte = _mm512_load_si512(codes);
                codes += 64;
            }
            const __m512i z = bits == 8 ? byte : _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(byte, (int)(u % per * bits)), low));
            dot[u / units] = _mm512_dpbusd_epi32(dot[u / units], z, _mm512_set1_epi32(four));
        }
        for (unsigned k = 0; k < groups; k++) {
            const __m512 a = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(fields + 32 * k)));
            t = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot[k]), s), a, t);
            if (offsets) {
                const __m512 b = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(fields + 32 * (groups + k))));
                t = _mm512_fmadd_ps(_mm512_set1_ps((float)(groups == 2 ? sum[k] : sum[0] + sum[1]) * scale[g]), b, t);
            }
        }
        fields += 32 * groups * (offsets ? 2 : 1);
    }
    return t;
}

void bb_integer_product_vnni(const bb_integers *w, size_t from, size_t to, const int8_t *q, const float *scale, const int32_t *sum, const float *bias, bool add,
                             float *y)
{
    for (size_t j = from * BB_INTEGER_ROWS; j < to * BB_INTEGER_ROWS && j < w->rows; j += BB_INTEGER_ROWS) {
        const unsigned char *panel = w->panels + j / BB_INTEGER_ROWS * w->panel_bytes;
        const size_t         n = w->rows - j < BB_INTEGER_ROWS ? w->rows - j : BB_INTEGER_ROWS;
        const __mmask16      rows = (__mmask16)((1u << n) - 1);
        __m512               t, start = add ? _mm512_maskz_loadu_ps(rows, y + j) : _mm512_setzero_ps();
        if (bias) start = _mm512_add_ps(start, _mm512_maskz_loadu_ps(rows, bias + j));
        switch (w->bits * 4 + (w->groups == 2 ? 2 : 0) + (w->offsets ? 1 : 0)) {
#define SHAPE(bits) \
    case (bits)*4: t = sixteen_rows(w, panel, bits, 1, false, q, scale, sum); break; \
    case (bits)*4 + 1: t = sixteen_rows(w, panel, bits, 1, true, q, scale, sum); break; \
    case (bits)*4 + 2: t = sixteen_rows(w, panel, bits, 2, false, q, scale, sum); break; \
    case (bits)*4 + 3: t = sixteen_rows(w, panel, bits, 2, true, q, scale, sum); break;
            SHAPE(2)
            SHAPE(4)
            SHAPE(8)
#undef SHAPE
        default: return;
        }
        _mm512_mask_storeu_ps(y + j, rows, _mm512_fmadd_ps(_mm512_loadu_ps(panel), t, start));
    }
}
#endif
