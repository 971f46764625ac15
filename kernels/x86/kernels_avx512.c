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
#include "kernels/x86/mask.h"

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
    if (i < n) m = _mm512_mask_max_ps(m, bb_tail(n - i), _mm512_maskz_loadu_ps(bb_tail(n - i), x + i), m);
    return _mm512_reduce_max_ps(m);
}

void bb_exp_avx512(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = bb_tail(n - i);
        _mm512_mask_storeu_ps(y + i, mask, exp16(_mm512_maskz_loadu_ps(mask, x + i)));
    }
}

void bb_rms_norm_avx512(const float *x, const float *weight, float eps, float *y, size_t n)
{
    lanes sum = lanes_zero();
    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(bb_tail(n - i), x + i);
        lanes_fma(&sum, v, v);
    }
    __m512 s = _mm512_set1_ps(1 / sqrtf((float)(lanes_total(sum) / (double)(n ? n : 1)) + eps));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = bb_tail(n - i);
        __m512    v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), s);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, weight + i)));
    }
}

void bb_swiglu_avx512(float *gate, const float *up, size_t n)
{
    __m512 one = _mm512_set1_ps(1), sign = _mm512_set1_ps(-0.0f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = bb_tail(n - i);
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
        __mmask16 mask = bb_tail(n - i);
        __m512    e = exp16(_mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), m), s));
        _mm512_mask_storeu_ps(x + i, mask, e);
        lanes_add(&sum, _mm512_maskz_mov_ps(mask, e));
    }
    __m512 inverse = _mm512_set1_ps((float)(1 / lanes_total(sum)));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = bb_tail(n - i);
        _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse));
    }
}

size_t bb_arg_max_avx512(const float *x, size_t n)
{
    __m512 m = _mm512_set1_ps(max_of(x, n));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = bb_tail(n - i), found = _mm512_mask_cmp_ps_mask(mask, _mm512_maskz_loadu_ps(mask, x + i), m, _CMP_EQ_OQ);
        if (found) return i + (size_t)__builtin_ctz(found);
    }
    return 0;
}

double bb_sum_exp_avx512(const float *x, float shift, size_t n)
{
    lanes  sum = lanes_zero();
    __m512 m = _mm512_set1_ps(shift);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = bb_tail(n - i);
        lanes_add(&sum, _mm512_maskz_mov_ps(mask, exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), m))));
    }
    return lanes_total(sum);
}

double bb_sum_exp_cross_avx512(const float *x, float shift, const float *z, size_t n, double *cross)
{
    lanes  sum = lanes_zero(), sum2 = lanes_zero();
    __m512 m = _mm512_set1_ps(shift);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = bb_tail(n - i);
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
        __mmask16 mask = bb_tail(n - i);
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

#define BB_LEVEL avx512
#define VECTOR __m512
#define OP(name) _mm512_##name
#define ROWS_TO_TILE ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
enum { LANES = 16, PANEL = BB_PANEL_AVX512, TILE_ROWS = 14 };
#include "kernels/x86/product.inc"
#else
typedef int bb_no_avx512; /* an empty file is not C */
#endif
