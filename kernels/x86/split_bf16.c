/* SPDX-License-Identifier: GPL-3.0-or-later
 * split_bf16.c: numbers as one or two bfloat16, and products of one with VDPBF16PS of AVX-512; same bits as ref/split_ref.c.
 *
 * On Zen 4 the instruction does 32 multiplications in the time of an fma of 16: 8 rows of x meet a panel of 32 rows of w in 16 registers. A pass is of PASS
 * blocks of columns: a panel's pass is half of an L1. */
#if defined(__x86_64__)
#if !defined(__AVX512BF16__)
#error "compile this file with AVX512_BF16 enabled (Makefile: ISA)"
#endif
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/mask.h"

enum { BLOCK = BB_SPLIT_DEPTH, ROWS = BB_SPLIT_ROWS, PANEL = BB_SPLIT_PANEL, TILE = ROWS * BLOCK };

/* The conversion rounds to nearest even and takes subnormals for zeros. */
static inline __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }
static inline __m512  rest(__m512 x, __m256i hi) { return _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(hi), 16))); }

/* 32 columns of a row, `left` of which are there. */
static inline void split_row(const float *x, size_t left, __m512i *hi, __m512i *lo)
{
    __m512 a = _mm512_maskz_loadu_ps(bb_tail(left), x), b = _mm512_maskz_loadu_ps(bb_tail(left > 16 ? left - 16 : 0), x + 16);
    *hi = rounded(a, b);
    *lo = rounded(rest(a, _mm512_castsi512_si256(*hi)), rest(b, _mm512_extracti64x4_epi64(*hi, 1)));
}

void bb_split_rows_bf16(unsigned parts, const float *x, size_t ldx, size_t m, size_t k, uint16_t *out)
{
    for (size_t i = 0; i < m; i += ROWS)
        for (size_t c = 0; c < k; c += BLOCK, out += parts * TILE)
            for (size_t r = 0; r < ROWS; r++) {
                __m512i hi = _mm512_setzero_si512(), lo = hi;
                if (i + r < m) split_row(x + (i + r) * ldx + c, k - c, &hi, &lo);
                _mm512_storeu_si512(out + r * BLOCK, hi);
                if (parts > 1) _mm512_storeu_si512(out + TILE + r * BLOCK, lo);
            }
}

/* out [l][i] = r[i][l], 32-bit numbers. */
static inline void store_turned(__m512i r[16], uint16_t *out)
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int h = 0; h < 2; h++) { /* r[i + l]: column l of each 128 bits, of rows i .. i+3 */
            r[i + 2 * h] = _mm512_unpacklo_epi64(t[i + h], t[i + 2 + h]);
            r[i + 2 * h + 1] = _mm512_unpackhi_epi64(t[i + h], t[i + 2 + h]);
        }
    for (int l = 0; l < 4; l++) {
        __m512i a = _mm512_shuffle_i32x4(r[l], r[4 + l], 0x88), b = _mm512_shuffle_i32x4(r[l], r[4 + l], 0xDD); /* columns l, 8+l; 4+l, 12+l */
        __m512i c = _mm512_shuffle_i32x4(r[8 + l], r[12 + l], 0x88), d = _mm512_shuffle_i32x4(r[8 + l], r[12 + l], 0xDD);
        _mm512_storeu_si512(out + (size_t)l * 32, _mm512_shuffle_i32x4(a, c, 0x88));
        _mm512_storeu_si512(out + (size_t)(8 + l) * 32, _mm512_shuffle_i32x4(a, c, 0xDD));
        _mm512_storeu_si512(out + (size_t)(4 + l) * 32, _mm512_shuffle_i32x4(b, d, 0x88));
        _mm512_storeu_si512(out + (size_t)(12 + l) * 32, _mm512_shuffle_i32x4(b, d, 0xDD));
    }
}

void bb_split_panels_bf16(unsigned parts, const float *w, size_t ldw, size_t n, size_t k, uint16_t *out)
{
    for (size_t j = 0; j < n; j += PANEL)
        for (size_t c = 0; c < k; c += BLOCK, out += 2 * parts * TILE)
            for (size_t half = 0; half < 2; half++) {
                __m512i hi[ROWS], lo[ROWS];
                for (size_t r = 0; r < ROWS; r++) {
                    size_t row = j + half * ROWS + r;
                    hi[r] = lo[r] = _mm512_setzero_si512();
                    if (row < n) split_row(w + row * ldw + c, k - c, &hi[r], &lo[r]);
                }
                store_turned(hi, out + half * TILE);
                if (parts > 1) store_turned(lo, out + (2 + half) * TILE);
            }
}

/* Rows c and c + 1 of W' side by side: 16 pairs. */
static inline __m512i pairs(__m256i even, __m256i odd)
{
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

void bb_split_panels_turned_bf16(unsigned parts, const float *wt, size_t ldw, size_t n, size_t k, uint16_t *out)
{
    for (size_t j = 0; j < n; j += PANEL)
        for (size_t c = 0; c < k; c += BLOCK, out += 2 * parts * TILE)
            for (size_t p = 0; p < ROWS; p++)
                for (size_t half = 0; half < 2; half++) {
                    size_t       row = c + 2 * p, column = j + half * ROWS;
                    __mmask16    there = bb_tail(column < n ? n - column : 0);
                    const float *at = wt + row * ldw + column;
                    __m512       even = _mm512_maskz_loadu_ps(row < k ? there : 0, at), odd = _mm512_maskz_loadu_ps(row + 1 < k ? there : 0, at + ldw);
                    __m512i      hi = rounded(even, odd), lo;
                    __m256i      hi_even = _mm512_castsi512_si256(hi), hi_odd = _mm512_extracti64x4_epi64(hi, 1);
                    _mm512_storeu_si512(out + half * TILE + p * 32, pairs(hi_even, hi_odd));
                    if (parts == 1) continue;
                    lo = rounded(rest(even, hi_even), rest(odd, hi_odd));
                    _mm512_storeu_si512(out + (2 + half) * TILE + p * 32, pairs(_mm512_castsi512_si256(lo), _mm512_extracti64x4_epi64(lo, 1)));
                }
}

/* ---- product ---- */

enum { PASS = 8 /* blocks of columns */, HIGH = ROWS / 2, FEW = 32, AHEAD = 4 * 2 * TILE /* both as in product.inc */ };

static inline __m512bh numbers(const uint16_t *at) { return (__m512bh)_mm512_loadu_si512(at); }

/* A pair of one row of x, in all lanes. */
static inline __m512bh pair(const uint16_t *x)
{
    int both;
    memcpy(&both, x, sizeof both);
    return (__m512bh)_mm512_set1_epi32(both);
}

/* `rows` (a constant after inlining, so that sum stays in registers) rows of x within a tile, 32 columns of y, through `blocks` blocks. start NULL: from
 * nothing. */
__attribute__((always_inline)) static inline void rows_of_tile(size_t rows, size_t blocks, const uint16_t *x, const uint16_t *w, const float *start,
                                                               size_t ldstart, const float *bias, float *y, size_t ldy)
{
    __m512 sum[HIGH][2];
    for (size_t i = 0; i < rows; i++)
        for (size_t h = 0; h < 2; h++) {
            sum[i][h] = start ? _mm512_loadu_ps(start + i * ldstart + 16 * h) : _mm512_setzero_ps();
            if (bias) sum[i][h] = _mm512_add_ps(sum[i][h], _mm512_loadu_ps(bias + 16 * h));
        }
    for (size_t c = 0; c < blocks; c++, x += TILE, w += 2 * TILE)
        for (size_t p = 0; p < BLOCK / 2; p++) {
            const __m512bh w0 = numbers(w + p * 2 * ROWS), w1 = numbers(w + TILE + p * 2 * ROWS);
            _mm_prefetch((const char *)(w + AHEAD + p * 2 * ROWS), _MM_HINT_T0);
            _mm_prefetch((const char *)(w + AHEAD + TILE + p * 2 * ROWS), _MM_HINT_T0);
            for (size_t i = 0; i < rows; i++) {
                const __m512bh v = pair(x + i * BLOCK + 2 * p);
                sum[i][0] = _mm512_dpbf16_ps(sum[i][0], v, w0);
                sum[i][1] = _mm512_dpbf16_ps(sum[i][1], v, w1);
            }
        }
    for (size_t i = 0; i < rows; i++)
        for (size_t h = 0; h < 2; h++) _mm512_storeu_ps(y + i * ldy + 16 * h, sum[i][h]);
}

static void some_rows(size_t rows, size_t blocks, const uint16_t *x, const uint16_t *w, const float *start, size_t ldstart, const float *bias, float *y,
                      size_t ldy)
{
    switch (rows) {
#define CASE(n) \
    case n: rows_of_tile(n, blocks, x, w, start, ldstart, bias, y, ldy); break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
}

/* A panel of fewer than PANEL columns goes through a full-width copy of its part of y. */
static void narrow_rows(size_t rows, size_t columns, size_t blocks, const uint16_t *x, const uint16_t *w, const float *bias, bool add, float *y, size_t ldy)
{
    float full[HIGH * PANEL] = { 0 }, full_bias[PANEL] = { 0 };
    if (bias) memcpy(full_bias, bias, columns * sizeof *bias);
    for (size_t i = 0; add && i < rows; i++) memcpy(full + i * PANEL, y + i * ldy, columns * sizeof *y);
    some_rows(rows, blocks, x, w, add ? full : NULL, PANEL, bias ? full_bias : NULL, full, PANEL);
    for (size_t i = 0; i < rows; i++) memcpy(y + i * ldy, full + i * PANEL, columns * sizeof *y);
}

void bb_pair_product_bf16(size_t m, size_t n, size_t k, const uint16_t *x, const uint16_t *panels, const float *bias, bool add, float *y, size_t ldy)
{
    const size_t blocks = (k + BLOCK - 1) / BLOCK, pass = m <= FEW ? blocks + !blocks : PASS;
    for (size_t c = 0; c == 0 || c < blocks; c += pass) { /* one pass even for k = 0, which still writes the start values */
        const size_t depth = blocks - c < pass ? blocks - c : pass;
        const bool   more = add || c > 0;
        const float *b = c > 0 ? NULL : bias;
        for (size_t j = 0; j < n; j += PANEL) {
            const uint16_t *w = panels + (j / PANEL * blocks + c) * 2 * TILE;
            for (size_t i = 0; i < m; i += HIGH) {
                const size_t    rows = m - i < HIGH ? m - i : HIGH;
                const uint16_t *in = x + (i / ROWS * blocks + c) * TILE + i % ROWS * BLOCK;
                float          *out = y + i * ldy + j;
                if (n - j >= PANEL) some_rows(rows, depth, in, w, more ? out : NULL, ldy, b ? b + j : NULL, out, ldy);
                else narrow_rows(rows, n - j, depth, in, w, b ? b + j : NULL, more, out, ldy);
            }
        }
    }
}
#endif
