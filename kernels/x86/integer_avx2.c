/* SPDX-License-Identifier: GPL-3.0-or-later
 * integer_avx2.c: products of integers at the AVX2 level; same bits as ref/integer_ref.c. A register holds four columns of eight rows. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/integer.h"
#include "kernels/kernels.h"

void bb_integer_vector_avx2(const float *x, size_t n, int8_t *q, float *scale, int32_t *sum)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t i = 0; i < n; i += BB_INTEGER_GROUP, x += BB_INTEGER_GROUP, q += BB_INTEGER_GROUP, sum += 2) {
        __m256  v[4];
        __m256i most = _mm256_setzero_si256(), r[4];
        for (int k = 0; k < 4; k++) {
            v[k] = _mm256_loadu_ps(x + 8 * k);
            most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(v[k]), magnitude)); /* of floats >= 0 their bits have the same order */
        }
        __m128i top = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
        top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0x4E));
        top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0xB1));
        const float largest = _mm_cvtss_f32(_mm_castsi128_ps(top));
        const bool  finite = _mm_cvtsi128_si32(top) < 0x7F800000, zero = !finite || largest < BB_INTEGER_LEAST;
        scale[i / BB_INTEGER_GROUP] = finite ? zero ? 0 : largest / 127 : NAN;
        if (zero) {
            memset(q, 0, BB_INTEGER_GROUP);
            sum[0] = sum[1] = 0;
            continue;
        }
        const __m256 inverse = _mm256_set1_ps(127 / largest);
        for (int k = 0; k < 4; k++) r[k] = _mm256_cvtps_epi32(_mm256_mul_ps(v[k], inverse));
        for (int h = 0; h < 2; h++) {
            __m256i two = _mm256_add_epi32(r[2 * h], r[2 * h + 1]);
            __m128i one = _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
            one = _mm_add_epi32(one, _mm_shuffle_epi32(one, 0x4E));
            sum[h] = _mm_cvtsi128_si32(_mm_add_epi32(one, _mm_shuffle_epi32(one, 0xB1)));
        }
        const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(r[0], r[1]), _mm256_packs_epi32(r[2], r[3]));
        _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(bytes, order));
    }
}

/* Eight rows of a panel, columns of all groups: t of eight rows. `half`: rows 8 half and on. narrow: no |z| above 16, so that the products of 32 columns,
 * in pairs, stay within 16 bits. */
static inline __attribute__((always_inline)) __m256 eight_rows(const bb_integers *w, const unsigned char *panel, unsigned half, unsigned bits, unsigned groups,
                                                               bool offsets, bool narrow, const int8_t *q, const float *scale, const int32_t *sum)
{
    const __m256i        table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)w->table)), low = _mm256_set1_epi8((char)((1u << bits % 8) - 1));
    const __m256i        ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8((char)-128);
    const unsigned       per = 8 / bits, units = 8 / groups; /* codes a byte; fours of columns that share an a */
    const unsigned char *fields = panel + bb_integer_fields(w, 0, 0) + 16 * half, *codes = panel + bb_integer_codes(w, 0) + 32 * half;
    __m256               t = _mm256_setzero_ps();
    for (size_t g = 0; g < w->cols / BB_INTEGER_GROUP; g++, q += BB_INTEGER_GROUP, sum += 2) {
        const __m256 s = _mm256_set1_ps(scale[g]);
        __m256i      dot[2] = { _mm256_setzero_si256(), _mm256_setzero_si256() }, byte = flip;
        for (unsigned u = 0; u < 8; u++) {
            int32_t four;
            memcpy(&four, q + 4 * u, sizeof four);
            if (u % per == 0) {
                byte = _mm256_loadu_si256((const __m256i *)codes);
                codes += 64;
            }
            const __m256i z = bits == 8 ? _mm256_xor_si256(byte, flip)
                                        : _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(byte, (int)(u % per * bits)), low));
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(z), _mm256_sign_epi8(_mm256_set1_epi32(four), z));
            dot[u / units] = narrow ? _mm256_add_epi16(dot[u / units], pairs) : _mm256_add_epi32(dot[u / units], _mm256_madd_epi16(pairs, ones));
        }
        for (unsigned k = 0; k < groups; k++) {
            const __m256 a = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(fields + 32 * k)));
            if (narrow) dot[k] = _mm256_madd_epi16(dot[k], ones);
            t = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot[k]), s), a, t);
            if (offsets) {
                const __m256 b = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(fields + 32 * (groups + k))));
                t = _mm256_fmadd_ps(_mm256_set1_ps((float)(groups == 2 ? sum[k] : sum[0] + sum[1]) * scale[g]), b, t);
            }
        }
        fields += 32 * groups * (offsets ? 2 : 1);
    }
    return t;
}

static bool is_narrow(const bb_integers *w)
{
    bool narrow = w->bits < 8;
    for (int i = 0; i < BB_INTEGER_LEVELS; i++) narrow &= w->table[i] >= -16 && w->table[i] <= 16;
    return narrow;
}

void bb_integer_product_avx2(const bb_integers *w, size_t from, size_t to, const int8_t *q, const float *scale, const int32_t *sum, const float *bias, bool add,
                             float *y)
{
    const unsigned shape = (w->bits == 2 ? 0u : w->bits == 4 ? 1u : 2u) * 8 + (w->groups == 2 ? 4 : 0) + (w->offsets ? 2 : 0) + (is_narrow(w) ? 1 : 0);
    for (size_t j = from * BB_INTEGER_ROWS; j < to * BB_INTEGER_ROWS && j < w->rows; j += 8) {
        const unsigned char *panel = w->panels + j / BB_INTEGER_ROWS * w->panel_bytes;
        const unsigned       half = j % BB_INTEGER_ROWS / 8;
        const size_t         n = w->rows - j < 8 ? w->rows - j : 8;
        float                start[8] = { 0 };
        __m256               t;
        for (size_t r = 0; r < n; r++) start[r] = (add ? y[j + r] : 0) + (bias ? bias[j + r] : 0);
        switch (shape) {
#define SHAPE(bits, number, narrow) \
    case 8 * (number) + (narrow): t = eight_rows(w, panel, half, bits, 1, false, narrow, q, scale, sum); break; \
    case 8 * (number) + 2 + (narrow): t = eight_rows(w, panel, half, bits, 1, true, narrow, q, scale, sum); break; \
    case 8 * (number) + 4 + (narrow): t = eight_rows(w, panel, half, bits, 2, false, narrow, q, scale, sum); break; \
    case 8 * (number) + 6 + (narrow): t = eight_rows(w, panel, half, bits, 2, true, narrow, q, scale, sum); break;
            SHAPE(2, 0, 0)
            SHAPE(2, 0, 1)
            SHAPE(4, 1, 0)
            SHAPE(4, 1, 1)
            SHAPE(8, 2, 0)
#undef SHAPE
        default: return;
        }
        _mm256_storeu_ps(start, _mm256_fmadd_ps(_mm256_loadu_ps((const float *)panel + 8 * half), t, _mm256_loadu_ps(start)));
        memcpy(y + j, start, n * sizeof *y);
    }
}
#endif
