/* SPDX-License-Identifier: GPL-3.0-or-later
 * split_ref.c: products of numbers as one or two bfloat16, at the reference level: the arithmetic of the instruction written down in plain C. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/kernels.h"

enum { DEPTH = BB_SPLIT_DEPTH, ROWS = BB_SPLIT_ROWS, PANEL = BB_SPLIT_PANEL, TILE = ROWS * DEPTH };

/* Subnormals are zeros of their sign. */
static float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }
static float fma_flushed(float a, float b, float c) { return flushed(fmaf(flushed(a), flushed(b), c)); }

/* lo NULL: not asked for. */
static void split(float x, uint16_t *hi, uint16_t *lo)
{
    *hi = bb_float_to_bf16(flushed(x));
    if (lo) *lo = bb_float_to_bf16(flushed(x - bb_bf16_to_float(*hi)));
}

void bb_split_rows_ref(unsigned parts, const float *x, size_t ldx, size_t m, size_t k, uint16_t *out)
{
    for (size_t i = 0; i < m; i += ROWS)
        for (size_t c = 0; c < k; c += DEPTH, out += parts * TILE)
            for (size_t r = 0; r < ROWS; r++)
                for (size_t l = 0; l < DEPTH; l++)
                    split(i + r < m && c + l < k ? x[(i + r) * ldx + c + l] : 0, out + r * DEPTH + l, parts > 1 ? out + TILE + r * DEPTH + l : NULL);
}

/* W_jc = w[j * row + c * column]. */
static void panels_of(unsigned parts, const float *w, size_t row, size_t column, size_t n, size_t k, uint16_t *out)
{
    for (size_t j = 0; j < n; j += PANEL)
        for (size_t c = 0; c < k; c += DEPTH, out += 2 * parts * TILE)
            for (size_t r = 0; r < PANEL; r++)
                for (size_t l = 0; l < DEPTH; l++) {
                    uint16_t *to = out + r / ROWS * TILE + (l / 2 * ROWS + r % ROWS) * 2 + l % 2;
                    split(j + r < n && c + l < k ? w[(j + r) * row + (c + l) * column] : 0, to, parts > 1 ? to + 2 * TILE : NULL);
                }
}

void bb_split_panels_ref(unsigned parts, const float *w, size_t ldw, size_t n, size_t k, uint16_t *out) { panels_of(parts, w, ldw, 1, n, k, out); }
void bb_split_panels_turned_ref(unsigned parts, const float *wt, size_t ldw, size_t n, size_t k, uint16_t *out) { panels_of(parts, wt, 1, ldw, n, k, out); }

/* x: a row of a tile; w: a column of pairs of one. */
static float dot(const uint16_t *x, const uint16_t *w, float y)
{
    float even = 0, odd = 0;
    for (size_t p = 0; p < DEPTH / 2; p++) {
        even = fma_flushed(bb_bf16_to_float(x[2 * p]), bb_bf16_to_float(w[p * ROWS * 2]), even);
        odd = fma_flushed(bb_bf16_to_float(x[2 * p + 1]), bb_bf16_to_float(w[p * ROWS * 2 + 1]), odd);
    }
    return flushed(flushed(y) + flushed(even + odd));
}

/* The same in the arithmetic of VDPBF16PS. */
static float dot_of_pairs(const uint16_t *x, const uint16_t *w, float y)
{
    for (size_t p = 0; p < DEPTH / 2; p++) {
        y = fma_flushed(bb_bf16_to_float(x[2 * p + 1]), bb_bf16_to_float(w[p * ROWS * 2 + 1]), y);
        y = fma_flushed(bb_bf16_to_float(x[2 * p]), bb_bf16_to_float(w[p * ROWS * 2]), y);
    }
    return y;
}

static void product(float (*dot_of)(const uint16_t *x, const uint16_t *w, float y), unsigned parts, size_t m, size_t n, size_t k, const uint16_t *x,
                    const uint16_t *panels, const float *bias, bool add, float *y, size_t ldy)
{
    size_t blocks = (k + DEPTH - 1) / DEPTH;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            const uint16_t *a = x + i / ROWS * blocks * parts * TILE + i % ROWS * DEPTH;
            const uint16_t *b = panels + j / PANEL * blocks * 2 * parts * TILE + j % PANEL / ROWS * TILE + j % ROWS * 2;
            float           sum = add ? y[i * ldy + j] : 0;
            if (bias) sum += bias[j];
            for (size_t c = 0; c < blocks; c++, a += parts * TILE, b += 2 * parts * TILE) {
                if (parts > 1) sum = dot_of(a + TILE, b, sum);
                sum = dot_of(a, b, sum);
                if (parts > 1) sum = dot_of(a, b + 2 * TILE, sum);
            }
            y[i * ldy + j] = sum;
        }
}

void bb_split_product_ref(unsigned parts, size_t m, size_t n, size_t k, const uint16_t *x, const uint16_t *panels, const float *bias, bool add, float *y,
                          size_t ldy)
{
    product(dot, parts, m, n, k, x, panels, bias, add, y, ldy);
}

void bb_pair_product_ref(size_t m, size_t n, size_t k, const uint16_t *x, const uint16_t *panels, const float *bias, bool add, float *y, size_t ldy)
{
    product(dot_of_pairs, 1, m, n, k, x, panels, bias, add, y, ldy);
}

void bb_peak_split_ref(const uint16_t *x, const uint16_t *w, float *y, size_t n)
{
    for (size_t i = 0; i < 2 * ROWS; i++)
        for (size_t j = 0; j < PANEL; j++)
            for (size_t l = 0; l < n; l++) y[i * PANEL + j] = dot(x + i / ROWS * TILE + i % ROWS * DEPTH, w + j / ROWS * TILE + j % ROWS * 2, y[i * PANEL + j]);
}
