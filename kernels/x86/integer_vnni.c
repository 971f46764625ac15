/* SPDX-License-Identifier: GPL-3.0-or-later
 * integer_vnni.c: the same with VPDPBUSD: a register holds four columns of sixteen rows, levels as z + 128, which the sums of q take back. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/integer.h"
#include "kernels/kernels.h"

enum { TILE = 8 /* vectors that meet codes unpacked once */ };

/* A panel with `n` vectors (a constant after inlining, so that sums stay in registers): t of its sixteen rows with each. */
static inline __attribute__((always_inline)) void sixteen_rows(const bb_integers *w, const unsigned char *panel, unsigned bits, unsigned groups, bool offsets,
                                                               size_t n, const int8_t *q, const float *scale, const int32_t *sum, __m512 *to)
{
    const __m512i        table = _mm512_xor_si512(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)w->table)), _mm512_set1_epi8((char)-128));
    const __m512i        low = _mm512_set1_epi8((char)((1u << bits % 8) - 1));
    const unsigned       per = 8 / bits, units = 8 / groups;
    const size_t         cols = w->cols, scales = cols / BB_INTEGER_GROUP, sums = cols / BB_INTEGER_HALF;
    const unsigned char *fields = panel + bb_integer_fields(w, 0, 0), *codes = panel + bb_integer_codes(w, 0);
    __m512               t[TILE];
    for (size_t i = 0; i < n; i++) t[i] = _mm512_setzero_ps();
    for (size_t g = 0; g < scales; g++, q += BB_INTEGER_GROUP, sum += 2) {
        __m512i byte = low;
#pragma GCC unroll 2
        for (unsigned k = 0; k < groups; k++) {
            __m512i dot[TILE];
            for (size_t i = 0; i < n; i++) dot[i] = _mm512_set1_epi32(-128 * (groups == 2 ? sum[i * sums + k] : sum[i * sums] + sum[i * sums + 1]));
#pragma GCC unroll 8
            for (unsigned u = k * units; u < (k + 1) * units; u++) {
                if (u % per == 0) {
                    byte = _mm512_load_si512(codes);
                    if (n == 1) _mm_prefetch((const char *)codes + 64 * bits, _MM_HINT_T0); /* 32 columns on: alone it waits for memory */
                    codes += 64;
                }
                const __m512i z = bits == 8 ? byte : _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(byte, (int)(u % per * bits)), low));
                for (size_t i = 0; i < n; i++) {
                    int32_t four;
                    memcpy(&four, q + i * cols + 4 * u, sizeof four);
                    dot[i] = _mm512_dpbusd_epi32(dot[i], z, _mm512_set1_epi32(four));
                }
            }
            const __m512 a = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(fields + 32 * k)));
            const __m512 b = offsets ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(fields + 32 * (groups + k)))) : a;
            for (size_t i = 0; i < n; i++) {
                const float s = scale[i * scales + g];
                t[i] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot[i]), _mm512_set1_ps(s)), a, t[i]);
                if (offsets) t[i] = _mm512_fmadd_ps(_mm512_set1_ps((float)(groups == 2 ? sum[i * sums + k] : sum[i * sums] + sum[i * sums + 1]) * s), b, t[i]);
            }
        }
        fields += 32 * groups * (offsets ? 2 : 1);
    }
    for (size_t i = 0; i < n; i++) to[i] = t[i];
}

/* The same of whatever shape the matrix has. */
static inline __attribute__((always_inline)) void any_rows(const bb_integers *w, const unsigned char *panel, size_t n, const int8_t *q, const float *scale,
                                                           const int32_t *sum, __m512 *t)
{
    switch (w->bits * 4 + (w->groups == 2 ? 2 : 0) + (w->offsets ? 1 : 0)) {
#define SHAPE(bits) \
    case (bits)*4: sixteen_rows(w, panel, bits, 1, false, n, q, scale, sum, t); break; \
    case (bits)*4 + 1: sixteen_rows(w, panel, bits, 1, true, n, q, scale, sum, t); break; \
    case (bits)*4 + 2: sixteen_rows(w, panel, bits, 2, false, n, q, scale, sum, t); break; \
    case (bits)*4 + 3: sixteen_rows(w, panel, bits, 2, true, n, q, scale, sum, t); break;
        SHAPE(2)
        SHAPE(4)
        SHAPE(8)
#undef SHAPE
    default: break;
    }
}

static void one_vector(const bb_integers *w, const unsigned char *panel, const int8_t *q, const float *scale, const int32_t *sum, __m512 *t)
{
    any_rows(w, panel, 1, q, scale, sum, t);
}

static void tile_of_vectors(const bb_integers *w, const unsigned char *panel, const int8_t *q, const float *scale, const int32_t *sum, __m512 *t)
{
    any_rows(w, panel, TILE, q, scale, sum, t);
}

void bb_integer_product_vnni(const bb_integers *w, size_t from, size_t to, size_t m, const int8_t *q, const float *scale, const int32_t *sum, const float *bias,
                             bool add, float *y)
{
    for (size_t j = from * BB_INTEGER_ROWS; j < to * BB_INTEGER_ROWS && j < w->rows; j += BB_INTEGER_ROWS) {
        const unsigned char *panel = w->panels + j / BB_INTEGER_ROWS * w->panel_bytes;
        const size_t         rows = w->rows - j < BB_INTEGER_ROWS ? w->rows - j : BB_INTEGER_ROWS;
        const __mmask16      there = (__mmask16)((1u << rows) - 1);
        const __m512         unit = _mm512_loadu_ps(panel);
        for (size_t i = 0, n; i < m; i += n) {
            const size_t group = i * w->cols / BB_INTEGER_GROUP;
            __m512       t[TILE];
            n = m - i < TILE ? 1 : TILE;
            (n == TILE ? tile_of_vectors : one_vector)(w, panel, q + i * w->cols, scale + group, sum + 2 * group, t);
            for (size_t r = 0; r < n; r++) {
                float *at = y + (i + r) * w->rows + j;
                __m512 start = add ? _mm512_maskz_loadu_ps(there, at) : _mm512_setzero_ps();
                if (bias) start = _mm512_add_ps(start, _mm512_maskz_loadu_ps(there, bias + j));
                _mm512_mask_storeu_ps(at, there, _mm512_fmadd_ps(unit, t[r], start));
            }
        }
    }
}

void bb_peak_integer_vnni(const uint8_t *z, const int8_t *q, uint32_t *sum, size_t n)
{
    const __m512i vz = _mm512_loadu_si512(z), vq = _mm512_loadu_si512(q);
    __m512i       v[BB_PEAK_CHAINS / 16];
    for (int c = 0; c < BB_PEAK_CHAINS / 16; c++) v[c] = _mm512_loadu_si512(sum + 16 * c);
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < BB_PEAK_CHAINS / 16; c++) v[c] = _mm512_dpbusd_epi32(v[c], vz, vq);
    for (int c = 0; c < BB_PEAK_CHAINS / 16; c++) _mm512_storeu_si512(sum + 16 * c, v[c]);
}
#endif
