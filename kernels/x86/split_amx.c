/* SPDX-License-Identifier: GPL-3.0-or-later
 * split_amx.c: products of numbers as one or two bfloat16 in AMX tiles; same bits as ref/split_ref.c.
 *
 * Four tiles of y (32 x 32) meet, in each block of 32 columns, two tiles of each part of x and of a panel: 4 products of one part, 12 of two. They stay in the
 * tiles through all columns; 128 rows of x and the panel come from L2. */
#if defined(__x86_64__)
#if !defined(__AMX_BF16__) || !defined(__AVX512BF16__)
#error "compile this file with AMX enabled (Makefile: ISA)"
#endif
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

enum { BLOCK = BB_SPLIT_DEPTH, ROWS = BB_SPLIT_ROWS, PANEL = BB_SPLIT_PANEL, TILE = ROWS * BLOCK };

static inline __mmask16 some(size_t left) { return left >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << left) - 1); }

/* The conversion rounds to nearest even and takes subnormals for zeros. */
static inline __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }
static inline __m512  rest(__m512 x, __m256i hi) { return _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(hi), 16))); }

/* 32 columns of a row, `left` of which are there. */
static inline void split_row(const float *x, size_t left, __m512i *hi, __m512i *lo)
{
    __m512 a = _mm512_maskz_loadu_ps(some(left), x), b = _mm512_maskz_loadu_ps(some(left > 16 ? left - 16 : 0), x + 16);
    *hi = rounded(a, b);
    *lo = rounded(rest(a, _mm512_castsi512_si256(*hi)), rest(b, _mm512_extracti64x4_epi64(*hi, 1)));
}

void bb_split_rows_amx(unsigned parts, const float *x, size_t ldx, size_t m, size_t k, uint16_t *out)
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

void bb_split_panels_amx(unsigned parts, const float *w, size_t ldw, size_t n, size_t k, uint16_t *out)
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

void bb_split_panels_turned_amx(unsigned parts, const float *wt, size_t ldw, size_t n, size_t k, uint16_t *out)
{
    for (size_t j = 0; j < n; j += PANEL)
        for (size_t c = 0; c < k; c += BLOCK, out += 2 * parts * TILE)
            for (size_t p = 0; p < ROWS; p++)
                for (size_t half = 0; half < 2; half++) {
                    size_t       row = c + 2 * p, column = j + half * ROWS;
                    __mmask16    there = some(column < n ? n - column : 0);
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

typedef struct __attribute__((aligned(64))) tile_config {
    uint8_t  palette, start_row, unused[14];
    uint16_t row_bytes[16];
    uint8_t  rows[16];
} tile_config;

static const tile_config whole_tiles = { .palette = 1, .row_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 }, .rows = { 16, 16, 16, 16, 16, 16, 16, 16 } };

/* Tiles 0 to 3, of one tile of rows 0 and 1, += those of rows in 4 and 5 times those of w in 6 and 7. */
#define MULTIPLY(row_tiles) \
    do { \
        _tile_dpbf16ps(0, 4, 6); \
        _tile_dpbf16ps(1, 4, 7); \
        if ((row_tiles) == 2) _tile_dpbf16ps(2, 5, 6); \
        if ((row_tiles) == 2) _tile_dpbf16ps(3, 5, 7); \
    } while (0)

/* y (16 or 32 rows, 32 columns; zero: from nothing) through all blocks. x: the first 16 rows, the others x_step on. */
static inline __attribute__((always_inline)) void tiles(unsigned parts, int row_tiles, size_t blocks, const uint16_t *x, size_t x_step, const uint16_t *w,
                                                        bool zero, float *y, size_t ldy)
{
    const size_t line = ldy * sizeof *y;
    if (zero) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, y, line);
        _tile_loadd(1, y + 16, line);
        if (row_tiles == 2) {
            _tile_loadd(2, y + 16 * ldy, line);
            _tile_loadd(3, y + 16 * ldy + 16, line);
        }
    }
    for (size_t c = 0; c < blocks; c++, x += parts * TILE, w += 2 * parts * TILE) {
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + TILE, 64);
        if (parts > 1) {
            _tile_loadd(4, x + TILE, 64);
            if (row_tiles == 2) _tile_loadd(5, x + x_step + TILE, 64);
            MULTIPLY(row_tiles);
        }
        _tile_loadd(4, x, 64);
        if (row_tiles == 2) _tile_loadd(5, x + x_step, 64);
        MULTIPLY(row_tiles);
        if (parts > 1) {
            _tile_loadd(6, w + 2 * TILE, 64);
            _tile_loadd(7, w + 3 * TILE, 64);
            MULTIPLY(row_tiles);
        }
    }
    _tile_stored(0, y, line);
    _tile_stored(1, y + 16, line);
    if (row_tiles == 2) {
        _tile_stored(2, y + 16 * ldy, line);
        _tile_stored(3, y + 16 * ldy + 16, line);
    }
}

static void any_tiles(unsigned parts, size_t rows, size_t blocks, const uint16_t *x, size_t x_step, const uint16_t *w, bool zero, float *y, size_t ldy)
{
    if (parts > 1 && rows > ROWS) tiles(2, 2, blocks, x, x_step, w, zero, y, ldy);
    else if (parts > 1) tiles(2, 1, blocks, x, x_step, w, zero, y, ldy);
    else if (rows > ROWS) tiles(1, 2, blocks, x, x_step, w, zero, y, ldy);
    else tiles(1, 1, blocks, x, x_step, w, zero, y, ldy);
}

/* Into y through a copy, whose lines do not lie on as many pages; and y may be no whole tiles, or a bias may come first. */
static void copied_tiles(unsigned parts, size_t rows, size_t columns, size_t blocks, const uint16_t *x, size_t x_step, const uint16_t *w, bool add,
                         const float *bias, float *y, size_t ldy)
{
    _Alignas(64) float copy[2 * ROWS * PANEL];
    const bool         zero = !add && !bias && blocks;
    for (size_t i = 0; i < 2 * ROWS && !zero; i++)
        for (size_t j = 0; j < PANEL; j += 16) {
            const __mmask16 there = some(i < rows && j < columns ? columns - j : 0);
            __m512          start = add ? _mm512_maskz_loadu_ps(there, y + i * ldy + j) : _mm512_setzero_ps();
            if (bias) start = _mm512_add_ps(start, _mm512_maskz_loadu_ps(there, bias + j));
            _mm512_store_ps(copy + i * PANEL + j, start);
        }
    if (blocks) any_tiles(parts, rows, blocks, x, x_step, w, zero, copy, PANEL);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j += 16) _mm512_mask_storeu_ps(y + i * ldy + j, some(columns - j), _mm512_load_ps(copy + i * PANEL + j));
}

void bb_split_product_amx(unsigned parts, size_t m, size_t n, size_t k, const uint16_t *x, const uint16_t *panels, const float *bias, bool add, float *y,
                          size_t ldy)
{
    enum { ROUND = 128 }; /* rows that meet one panel after the other */
    const size_t blocks = (k + BLOCK - 1) / BLOCK, x_step = blocks * parts * TILE;
    _tile_loadconfig(&whole_tiles);
    for (size_t round = 0; round < m; round += ROUND)
        for (size_t j = 0; j < n; j += PANEL)
            for (size_t i = round; i < m && i < round + ROUND; i += 2 * ROWS) {
                const size_t    rows = m - i < 2 * ROWS ? m - i : 2 * ROWS, columns = n - j < PANEL ? n - j : PANEL;
                const uint16_t *in = x + i / ROWS * x_step, *w = panels + j * blocks * parts * BLOCK;
                copied_tiles(parts, rows, columns, blocks, in, x_step, w, add, bias ? bias + j : NULL, y + i * ldy + j, ldy);
            }
    _tile_release();
}

void bb_peak_split_amx(const uint16_t *x, const uint16_t *w, float *y, size_t n)
{
    const size_t line = PANEL * sizeof *y;
    _tile_loadconfig(&whole_tiles);
    _tile_loadd(0, y, line);
    _tile_loadd(1, y + 16, line);
    _tile_loadd(2, y + ROWS * PANEL, line);
    _tile_loadd(3, y + ROWS * PANEL + 16, line);
    _tile_loadd(4, x, 64);
    _tile_loadd(5, x + TILE, 64);
    _tile_loadd(6, w, 64);
    _tile_loadd(7, w + TILE, 64);
    for (size_t i = 0; i < n; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, y, line);
    _tile_stored(1, y + 16, line);
    _tile_stored(2, y + ROWS * PANEL, line);
    _tile_stored(3, y + ROWS * PANEL + 16, line);
    _tile_release();
}
#else
typedef int bb_no_amx; /* an empty file is not C */
#endif
