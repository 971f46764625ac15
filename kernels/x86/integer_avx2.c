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

enum { TILE = 4, /* vectors that meet codes unpacked once */ NARROW = 32 };

/* Half a panel with `n` vectors (a constant after inlining, so that sums stay in registers): t of its eight rows with each. `half`: rows 8 half and on.
 * narrow: levels differ by NARROW at most, so that those above the least, times 8 bits, in pairs, stay within 16 bits over 16 columns. */
static inline __attribute__((always_inline)) void eight_rows(const bb_integers *w, const unsigned char *panel, unsigned half, unsigned bits, unsigned groups,
                                                             bool offsets, bool narrow, int least, size_t n, const int8_t *q, const float *scale,
                                                             const int32_t *sum, __m256 *to)
{
    const __m256i        stored = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)w->table)), low = _mm256_set1_epi8((char)((1u << bits % 8) - 1));
    const __m256i        table = narrow ? _mm256_sub_epi8(stored, _mm256_set1_epi8((char)least)) : stored;
    const __m256i        ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8((char)-128);
    const unsigned       per = 8 / bits;
    const size_t         cols = w->cols, scales = cols / BB_INTEGER_GROUP, sums = cols / BB_INTEGER_HALF;
    const unsigned char *fields = panel + bb_integer_fields(w, 0, 0) + 16 * half, *codes = panel + bb_integer_codes(w, 0) + 32 * half;
    __m256               t[TILE];
    for (size_t i = 0; i < n; i++) t[i] = _mm256_setzero_ps();
    for (size_t g = 0; g < scales; g++, q += BB_INTEGER_GROUP, sum += 2) {
        __m256i dot[TILE], byte = flip;
#pragma GCC unroll 2
        for (unsigned h = 0; h < 2; h++) { /* 16 columns */
            __m256i pairs[TILE];
            for (size_t i = 0; i < n; i++) pairs[i] = _mm256_setzero_si256();
            for (size_t i = 0; i < n && (h == 0 || groups == 2); i++)
                dot[i] = narrow ? _mm256_set1_epi32(least * (groups == 2 ? sum[i * sums + h] : sum[i * sums] + sum[i * sums + 1])) : _mm256_setzero_si256();
#pragma GCC unroll 4
            for (unsigned u = 4 * h; u < 4 * h + 4; u++) {
                if (u % per == 0) {
                    byte = _mm256_loadu_si256((const __m256i *)codes);
                    codes += 64;
                }
                const __m256i z = bits == 8 ? _mm256_xor_si256(byte, flip)
                                            : _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(byte, (int)(u % per * bits)), low));
                const __m256i size = _mm256_abs_epi8(z);
                for (size_t i = 0; i < n; i++) {
                    int32_t bytes;
                    memcpy(&bytes, q + i * cols + 4 * u, sizeof bytes);
                    const __m256i four = _mm256_set1_epi32(bytes);
                    if (narrow) pairs[i] = _mm256_add_epi16(pairs[i], _mm256_maddubs_epi16(z, four));
                    else dot[i] = _mm256_add_epi32(dot[i], _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(four, z)), ones));
                }
            }
            for (size_t i = 0; narrow && i < n; i++) dot[i] = _mm256_add_epi32(dot[i], _mm256_madd_epi16(pairs[i], ones));
            if (h == 0 && groups == 1) continue;
            const unsigned k = groups == 2 ? h : 0;
            const __m256   a = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(fields + 32 * k)));
            const __m256   b = offsets ? _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(fields + 32 * (groups + k)))) : a;
            for (size_t i = 0; i < n; i++) {
                const float s = scale[i * scales + g];
                t[i] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot[i]), _mm256_set1_ps(s)), a, t[i]);
                if (offsets) t[i] = _mm256_fmadd_ps(_mm256_set1_ps((float)(groups == 2 ? sum[i * sums + k] : sum[i * sums] + sum[i * sums + 1]) * s), b, t[i]);
            }
        }
        fields += 32 * groups * (offsets ? 2 : 1);
    }
    for (size_t i = 0; i < n; i++) to[i] = t[i];
}

/* What the levels of a matrix allow. */
typedef struct range {
    int  least;
    bool narrow;
} range;

static range range_of(const bb_integers *w)
{
    int least = w->table[0], most = least;
    for (int i = 1; i < BB_INTEGER_LEVELS; i++) {
        least = w->table[i] < least ? w->table[i] : least;
        most = w->table[i] > most ? w->table[i] : most;
    }
    return (range) { least, w->bits < 8 && most - least <= NARROW };
}

/* The same of whatever shape the matrix has. */
static inline __attribute__((always_inline)) void any_rows(const bb_integers *w, range z, const unsigned char *panel, unsigned half, size_t n, const int8_t *q,
                                                           const float *scale, const int32_t *sum, __m256 *t)
{
    switch ((w->bits == 2 ? 0u : w->bits == 4 ? 1u : 2u) * 8 + (w->groups == 2 ? 4 : 0) + (w->offsets ? 2 : 0) + (z.narrow ? 1 : 0)) {
#define SHAPE(bits, number, narrow) \
    case 8 * (number) + (narrow): eight_rows(w, panel, half, bits, 1, false, narrow, z.least, n, q, scale, sum, t); break; \
    case 8 * (number) + 2 + (narrow): eight_rows(w, panel, half, bits, 1, true, narrow, z.least, n, q, scale, sum, t); break; \
    case 8 * (number) + 4 + (narrow): eight_rows(w, panel, half, bits, 2, false, narrow, z.least, n, q, scale, sum, t); break; \
    case 8 * (number) + 6 + (narrow): eight_rows(w, panel, half, bits, 2, true, narrow, z.least, n, q, scale, sum, t); break;
        SHAPE(2, 0, 0)
        SHAPE(2, 0, 1)
        SHAPE(4, 1, 0)
        SHAPE(4, 1, 1)
        SHAPE(8, 2, 0)
#undef SHAPE
    default: break;
    }
}

static void one_vector(const bb_integers *w, range z, const unsigned char *panel, unsigned half, const int8_t *q, const float *scale, const int32_t *sum,
                       __m256 *t)
{
    any_rows(w, z, panel, half, 1, q, scale, sum, t);
}

static void tile_of_vectors(const bb_integers *w, range z, const unsigned char *panel, unsigned half, const int8_t *q, const float *scale, const int32_t *sum,
                            __m256 *t)
{
    any_rows(w, z, panel, half, TILE, q, scale, sum, t);
}

void bb_integer_product_avx2(const bb_integers *w, size_t from, size_t to, size_t m, const int8_t *q, const float *scale, const int32_t *sum, const float *bias,
                             bool add, float *y)
{
    const range z = range_of(w);
    for (size_t j = from * BB_INTEGER_ROWS; j < to * BB_INTEGER_ROWS && j < w->rows; j += 8) {
        const unsigned char *panel = w->panels + j / BB_INTEGER_ROWS * w->panel_bytes;
        const unsigned       half = j % BB_INTEGER_ROWS / 8;
        const size_t         rows = w->rows - j < 8 ? w->rows - j : 8;
        const __m256         unit = _mm256_loadu_ps((const float *)panel + 8 * half);
        for (size_t i = 0, n; i < m; i += n) {
            const size_t group = i * w->cols / BB_INTEGER_GROUP;
            __m256       t[TILE];
            n = m - i < TILE ? 1 : TILE;
            (n == TILE ? tile_of_vectors : one_vector)(w, z, panel, half, q + i * w->cols, scale + group, sum + 2 * group, t);
            for (size_t v = 0; v < n; v++) {
                float start[8] = { 0 }, *at = y + (i + v) * w->rows + j;
                for (size_t r = 0; r < rows; r++) start[r] = (add ? at[r] : 0) + (bias ? bias[j + r] : 0);
                _mm256_storeu_ps(start, _mm256_fmadd_ps(unit, t[v], _mm256_loadu_ps(start)));
                memcpy(at, start, rows * sizeof *at);
            }
        }
    }
}

/* Eight registers of sums at a time. */
void bb_peak_integer_avx2(const uint8_t *z, const int8_t *q, uint32_t *sum, size_t n)
{
    enum { SUMS = 8 };
    const __m256i ones = _mm256_set1_epi16(1), z0 = _mm256_loadu_si256((const __m256i *)z), z1 = _mm256_loadu_si256((const __m256i *)(z + 32));
    for (int part = 0; part < BB_PEAK_CHAINS / 8; part += SUMS, sum += SUMS * 8) {
        __m256i v[SUMS], q0 = _mm256_loadu_si256((const __m256i *)q), q1 = _mm256_loadu_si256((const __m256i *)(q + 32));
        for (int c = 0; c < SUMS; c++) v[c] = _mm256_loadu_si256((const __m256i *)(sum + 8 * c));
        for (size_t i = 0; i < n; i++)
            for (int c = 0; c < SUMS; c += 2) {
                __asm__("" : "+x"(q0), "+x"(q1)); /* else the products are made once */
                v[c] = _mm256_add_epi32(v[c], _mm256_madd_epi16(_mm256_maddubs_epi16(z0, q0), ones));
                v[c + 1] = _mm256_add_epi32(v[c + 1], _mm256_madd_epi16(_mm256_maddubs_epi16(z1, q1), ones));
            }
        for (int c = 0; c < SUMS; c++) _mm256_storeu_si256((__m256i *)(sum + 8 * c), v[c]);
    }
}
#endif
