/* SPDX-License-Identifier: GPL-3.0-or-later
 * split_amx.c: products of numbers as one or two bfloat16 (split_bf16.c makes them) in AMX tiles; same bits as ref/split_ref.c.
 *
 * Four tiles of y (32 x 32) meet, in each block of 32 columns, two tiles of each part of x and of a panel: 4 products of one part, 12 of two. They stay in the
 * tiles through all columns; 128 rows of x and the panel come from L2. */
#if defined(__x86_64__)
#if !defined(__AMX_BF16__)
#error "compile this file with AMX enabled (Makefile: ISA)"
#endif
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/mask.h"

enum { BLOCK = BB_SPLIT_DEPTH, ROWS = BB_SPLIT_ROWS, PANEL = BB_SPLIT_PANEL, TILE = ROWS * BLOCK };

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
            const __mmask16 there = bb_tail(i < rows && j < columns ? columns - j : 0);
            __m512          start = add ? _mm512_maskz_loadu_ps(there, y + i * ldy + j) : _mm512_setzero_ps();
            if (bias) start = _mm512_add_ps(start, _mm512_maskz_loadu_ps(there, bias + j));
            _mm512_store_ps(copy + i * PANEL + j, start);
        }
    if (blocks) any_tiles(parts, rows, blocks, x, x_step, w, zero, copy, PANEL);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j += 16) _mm512_mask_storeu_ps(y + i * ldy + j, bb_tail(columns - j), _mm512_load_ps(copy + i * PANEL + j));
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
