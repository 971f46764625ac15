/* SPDX-License-Identifier: GPL-3.0-or-later
 * kernels_avx512.c: the AVX-512 level; same bits as ref/kernels_ref.c. Tails are masked loads of zeros that no sum sees. */
#if defined(__x86_64__)
#ifndef __AVX512F__
#error "compile this file with AVX-512 enabled (Makefile: ISA)"
#endif
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/exp.h"
#include "kernels/kernels.h"
#include "kernels/x86/pack.h"

static inline __m512 exp16(__m512 x)
{
    /* min returns its second operand when either is NaN: NaN stays. */
    __m512 a = _mm512_min_ps(_mm512_set1_ps(BB_EXP_HIGH), x), round = _mm512_set1_ps(BB_EXP_ROUND);
    __m512 t = _mm512_fmadd_ps(a, _mm512_set1_ps(BB_EXP_LOG2E), round), k = _mm512_sub_ps(t, round);
    __m512 r = _mm512_fmadd_ps(k, _mm512_set1_ps(-BB_EXP_LN2_LO), _mm512_fmadd_ps(k, _mm512_set1_ps(-BB_EXP_LN2_HI), a));
    __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(BB_EXP_Q4), r, _mm512_set1_ps(BB_EXP_Q3));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(BB_EXP_Q2));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(BB_EXP_Q1));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(BB_EXP_Q0));
    __m512    e = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r), _mm512_set1_ps(1));
    __m512i   power = _mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(127)), 23);
    __mmask16 alive = _mm512_cmp_ps_mask(a, _mm512_set1_ps(BB_EXP_LOW), _CMP_NLT_UQ);
    return _mm512_maskz_mul_ps(alive, e, _mm512_castsi512_ps(power));
}

static inline __mmask16 tail(size_t left) { return left >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << left) - 1); }

/* 16 float64 lanes: two registers. */
typedef struct lanes {
    __m512d low, high;
} lanes;

static inline lanes   lanes_zero(void) { return (lanes) { _mm512_setzero_pd(), _mm512_setzero_pd() }; }
static inline __m512d low_of(__m512 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
static inline __m512d high_of(__m512 x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }

static inline void lanes_add(lanes *s, __m512 x)
{
    s->low = _mm512_add_pd(s->low, low_of(x));
    s->high = _mm512_add_pd(s->high, high_of(x));
}

/* Products of two floats are exact in float64, so fma is the same as multiply then add. */
static inline void lanes_fma(lanes *s, __m512 x, __m512 y)
{
    s->low = _mm512_fmadd_pd(low_of(x), low_of(y), s->low);
    s->high = _mm512_fmadd_pd(high_of(x), high_of(y), s->high);
}

static inline double lanes_total(lanes s)
{
    double lane[16];
    _mm512_storeu_pd(lane, s.low);
    _mm512_storeu_pd(lane + 8, s.high);
    return bb_lane_sum(lane);
}

static float max_of(const float *x, size_t n)
{
    __m512 m = _mm512_set1_ps(-INFINITY);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) m = _mm512_max_ps(_mm512_loadu_ps(x + i), m);
    if (i < n) m = _mm512_mask_max_ps(m, tail(n - i), _mm512_maskz_loadu_ps(tail(n - i), x + i), m);
    return _mm512_reduce_max_ps(m);
}

void bb_exp_avx512(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail(n - i);
        _mm512_mask_storeu_ps(y + i, mask, exp16(_mm512_maskz_loadu_ps(mask, x + i)));
    }
}

void bb_rms_norm_avx512(const float *x, const float *weight, float eps, float *y, size_t n)
{
    lanes sum = lanes_zero();
    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(tail(n - i), x + i);
        lanes_fma(&sum, v, v);
    }
    __m512 s = _mm512_set1_ps(1 / sqrtf((float)(lanes_total(sum) / (double)(n ? n : 1)) + eps));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail(n - i);
        __m512    v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), s);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, weight + i)));
    }
}

void bb_swiglu_avx512(float *gate, const float *up, size_t n)
{
    __m512 one = _mm512_set1_ps(1), sign = _mm512_set1_ps(-0.0f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail(n - i);
        __m512    g = _mm512_maskz_loadu_ps(mask, gate + i), e = exp16(_mm512_xor_ps(g, sign));
        g = _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, e)), _mm512_maskz_loadu_ps(mask, up + i));
        _mm512_mask_storeu_ps(gate + i, mask, g);
    }
}

void bb_softmax_avx512(float *x, float scale, size_t n)
{
    lanes  sum = lanes_zero();
    __m512 m = _mm512_set1_ps(max_of(x, n)), s = _mm512_set1_ps(scale);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail(n - i);
        __m512    e = exp16(_mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), m), s));
        _mm512_mask_storeu_ps(x + i, mask, e);
        lanes_add(&sum, _mm512_maskz_mov_ps(mask, e));
    }
    __m512 inverse = _mm512_set1_ps((float)(1 / lanes_total(sum)));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail(n - i);
        _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse));
    }
}

size_t bb_arg_max_avx512(const float *x, size_t n)
{
    __m512 m = _mm512_set1_ps(max_of(x, n));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail(n - i), found = _mm512_mask_cmp_ps_mask(mask, _mm512_maskz_loadu_ps(mask, x + i), m, _CMP_EQ_OQ);
        if (found) return i + (size_t)__builtin_ctz(found);
    }
    return 0;
}

double bb_sum_exp_avx512(const float *x, float shift, size_t n)
{
    lanes  sum = lanes_zero();
    __m512 m = _mm512_set1_ps(shift);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail(n - i);
        lanes_add(&sum, _mm512_maskz_mov_ps(mask, exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), m))));
    }
    return lanes_total(sum);
}

double bb_sum_exp_cross_avx512(const float *x, float shift, const float *z, size_t n, double *cross)
{
    lanes  sum = lanes_zero(), sum2 = lanes_zero();
    __m512 m = _mm512_set1_ps(shift);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail(n - i);
        __m512    v = _mm512_maskz_loadu_ps(mask, x + i), e = _mm512_maskz_mov_ps(mask, exp16(_mm512_sub_ps(v, m)));
        lanes_add(&sum, e);
        lanes_fma(&sum2, e, _mm512_sub_ps(v, _mm512_maskz_loadu_ps(mask, z + i)));
    }
    *cross = lanes_total(sum2);
    return lanes_total(sum);
}

void bb_half_to_float_avx512(const uint16_t *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail(n - i);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, x + i)));
    }
}

void bb_peak_fma_avx512(float *x, float a, float b, size_t n)
{
    __m512 v[BB_PEAK_CHAINS / 16], va = _mm512_set1_ps(a), vb = _mm512_set1_ps(b);
    for (int c = 0; c < BB_PEAK_CHAINS / 16; c++) v[c] = _mm512_loadu_ps(x + 16 * c);
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < BB_PEAK_CHAINS / 16; c++) v[c] = _mm512_fmadd_ps(v[c], va, vb);
    for (int c = 0; c < BB_PEAK_CHAINS / 16; c++) _mm512_storeu_ps(x + 16 * c, v[c]);
}

/* ---- product ---- */

enum { PANEL = BB_PANEL_AVX512, TILE_ROWS = 14, DEPTH = 256 /* columns a pass: a panel's pass is 32 KiB, half of an L1 */ };

/* `rows` (a constant after inlining, so that sum stays in registers) rows of one panel through `depth` columns. */
__attribute__((always_inline)) static inline void tile(size_t rows, size_t depth, const float *x, size_t ldx, const float *w, const float *start,
                                                       size_t ldstart, const float *bias, float *y, size_t ldy)
{
    __m512 sum[TILE_ROWS][2];
    for (size_t i = 0; i < rows; i++)
        for (size_t h = 0; h < 2; h++) {
            sum[i][h] = start ? _mm512_loadu_ps(start + i * ldstart + h * 16) : _mm512_setzero_ps();
            if (bias) sum[i][h] = _mm512_add_ps(sum[i][h], _mm512_loadu_ps(bias + h * 16));
        }
    for (size_t c = 0; c < depth; c++) {
        __m512 w0 = _mm512_loadu_ps(w + c * PANEL), w1 = _mm512_loadu_ps(w + c * PANEL + 16);
        for (size_t i = 0; i < rows; i++) {
            __m512 v = _mm512_set1_ps(x[i * ldx + c]);
            sum[i][0] = _mm512_fmadd_ps(v, w0, sum[i][0]);
            sum[i][1] = _mm512_fmadd_ps(v, w1, sum[i][1]);
        }
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t h = 0; h < 2; h++) _mm512_storeu_ps(y + i * ldy + h * 16, sum[i][h]);
}

static void tile_rows(size_t rows, size_t depth, const float *x, size_t ldx, const float *w, const float *start, size_t ldstart, const float *bias, float *y,
                      size_t ldy)
{
    switch (rows) {
#define ROWS(n) \
    case n: tile(n, depth, x, ldx, w, start, ldstart, bias, y, ldy); break;
        ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
#undef ROWS
    }
}

/* A panel of fewer than PANEL columns goes through a full-width copy of its part of y. */
static void narrow_tile(size_t rows, size_t columns, size_t depth, const float *x, size_t ldx, const float *w, const float *bias, bool add, float *y,
                        size_t ldy)
{
    float full[TILE_ROWS * PANEL] = { 0 }, full_bias[PANEL] = { 0 };
    if (bias) memcpy(full_bias, bias, columns * sizeof *bias);
    for (size_t i = 0; add && i < rows; i++) memcpy(full + i * PANEL, y + i * ldy, columns * sizeof *y);
    tile_rows(rows, depth, x, ldx, w, add ? full : NULL, PANEL, bias ? full_bias : NULL, full, PANEL);
    for (size_t i = 0; i < rows; i++) memcpy(y + i * ldy, full + i * PANEL, columns * sizeof *y);
}

void bb_pack_avx512(const float *w, size_t ldw, size_t n, size_t k, float *out)
{
    size_t done = bb_pack_whole_panels(w, ldw, n, k, PANEL, out);
    bb_pack_panels(w + done * ldw, ldw, n - done, k, PANEL, out + done * k);
}

void bb_product_avx512(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *panels, const float *bias, bool add, float *y, size_t ldy)
{
    size_t tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t c = 0; c == 0 || c < k; c += DEPTH) { /* one pass even for k = 0, which still writes the start values */
        size_t       depth = k - c < DEPTH ? k - c : DEPTH;
        bool         more = add || c > 0;
        const float *b = c > 0 ? NULL : bias;
        for (size_t j = 0; j < n; j += PANEL) {
            const float *w = panels + j * k + c * PANEL;
            for (size_t t = 0; t < tiles; t++) { /* of nearly equal height */
                size_t       from = t * m / tiles, rows = (t + 1) * m / tiles - from;
                const float *in = x + from * ldx + c;
                float       *out = y + from * ldy + j;
                if (n - j >= PANEL) tile_rows(rows, depth, in, ldx, w, more ? out : NULL, ldy, b ? b + j : NULL, out, ldy);
                else narrow_tile(rows, n - j, depth, in, ldx, w, b ? b + j : NULL, more, out, ldy);
            }
        }
    }
}
#else
typedef int bb_no_avx512; /* an empty file is not C */
#endif
