/* SPDX-License-Identifier: GPL-3.0-or-later
 * kernels_avx2.c: the AVX2 + FMA level; same bits as ref/kernels_ref.c. Tails go through a padded copy on the stack. */
#if defined(__x86_64__)
#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with AVX2 and FMA enabled (Makefile: ISA)"
#endif
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/exp.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/x86/pack.h"

static inline __m256 exp8(__m256 x)
{
    /* min returns its second operand when either is NaN: NaN stays. */
    __m256 a = _mm256_min_ps(_mm256_set1_ps(BB_EXP_HIGH), x), round = _mm256_set1_ps(BB_EXP_ROUND);
    __m256 t = _mm256_fmadd_ps(a, _mm256_set1_ps(BB_EXP_LOG2E), round), k = _mm256_sub_ps(t, round);
    __m256 r = _mm256_fmadd_ps(k, _mm256_set1_ps(-BB_EXP_LN2_LO), _mm256_fmadd_ps(k, _mm256_set1_ps(-BB_EXP_LN2_HI), a));
    __m256 q = _mm256_fmadd_ps(_mm256_set1_ps(BB_EXP_Q4), r, _mm256_set1_ps(BB_EXP_Q3));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(BB_EXP_Q2));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(BB_EXP_Q1));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(BB_EXP_Q0));
    __m256  e = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r), _mm256_set1_ps(1));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127)), 23);
    __m256  alive = _mm256_cmp_ps(a, _mm256_set1_ps(BB_EXP_LOW), _CMP_NLT_UQ);
    return _mm256_and_ps(_mm256_mul_ps(e, _mm256_castsi256_ps(power)), alive);
}

static inline __m256i tail(size_t left)
{
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(left >= 8 ? 8 : (int)left), index);
}

static inline __m256 load(const float *x, size_t left) { return left >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, tail(left)); }
static inline __m256 keep(__m256 x, size_t left) { return left >= 8 ? x : _mm256_and_ps(x, _mm256_castsi256_ps(tail(left))); }

static inline void store(float *y, __m256 x, size_t left)
{
    if (left >= 8) _mm256_storeu_ps(y, x);
    else _mm256_maskstore_ps(y, tail(left), x);
}

/* 16 float64 lanes: four registers; half h (0 or 1) takes the elements 8h .. 8h+7 of each 16. */
typedef struct lanes {
    __m256d part[4];
} lanes;

static inline lanes lanes_zero(void)
{
    __m256d zero = _mm256_setzero_pd();
    return (lanes) { { zero, zero, zero, zero } };
}
static inline __m256d low_of(__m256 x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
static inline __m256d high_of(__m256 x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }

static inline void lanes_add(lanes *s, int half, __m256 x)
{
    s->part[2 * half] = _mm256_add_pd(s->part[2 * half], low_of(x));
    s->part[2 * half + 1] = _mm256_add_pd(s->part[2 * half + 1], high_of(x));
}

/* Products of two floats are exact in float64, so fma is the same as multiply then add. */
static inline void lanes_fma(lanes *s, int half, __m256 x, __m256 y)
{
    s->part[2 * half] = _mm256_fmadd_pd(low_of(x), low_of(y), s->part[2 * half]);
    s->part[2 * half + 1] = _mm256_fmadd_pd(high_of(x), high_of(y), s->part[2 * half + 1]);
}

static inline double lanes_total(lanes s)
{
    double lane[16];
    for (int i = 0; i < 4; i++) _mm256_storeu_pd(lane + 4 * i, s.part[i]);
    return bb_lane_sum(lane);
}

static float max_of(const float *x, size_t n)
{
    __m256 m = _mm256_set1_ps(-INFINITY);
    float  lane[8];
    size_t i = 0;
    for (; i + 8 <= n; i += 8) m = _mm256_max_ps(_mm256_loadu_ps(x + i), m);
    _mm256_storeu_ps(lane, m);
    for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int j = 1; j < 8; j++) lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
    return lane[0];
}

void bb_exp_avx2(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 8) store(y + i, exp8(load(x + i, n - i)), n - i);
}

void bb_rms_norm_avx2(const float *x, const float *weight, float eps, float *y, size_t n)
{
    lanes  sum = lanes_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
        lanes_fma(&sum, 0, a, a);
        lanes_fma(&sum, 1, b, b);
    }
    for (int half = 0; i < n; i += 8, half++) {
        __m256 a = load(x + i, n - i);
        lanes_fma(&sum, half, a, a);
    }
    __m256 s = _mm256_set1_ps(1 / sqrtf((float)(lanes_total(sum) / (double)(n ? n : 1)) + eps));
    for (i = 0; i < n; i += 8) store(y + i, _mm256_mul_ps(_mm256_mul_ps(load(x + i, n - i), s), load(weight + i, n - i)), n - i);
}

void bb_swiglu_avx2(float *gate, const float *up, size_t n)
{
    __m256 one = _mm256_set1_ps(1), sign = _mm256_set1_ps(-0.0f);
    for (size_t i = 0; i < n; i += 8) {
        __m256 g = load(gate + i, n - i), e = exp8(_mm256_xor_ps(g, sign));
        store(gate + i, _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, e)), load(up + i, n - i)), n - i);
    }
}

void bb_softmax_avx2(float *x, float scale, size_t n)
{
    lanes  sum = lanes_zero();
    __m256 m = _mm256_set1_ps(max_of(x, n)), s = _mm256_set1_ps(scale);
    for (size_t i = 0; i < n; i += 8) {
        __m256 e = exp8(_mm256_mul_ps(_mm256_sub_ps(load(x + i, n - i), m), s));
        store(x + i, e, n - i);
        lanes_add(&sum, i / 8 % 2, keep(e, n - i));
    }
    __m256 inverse = _mm256_set1_ps((float)(1 / lanes_total(sum)));
    for (size_t i = 0; i < n; i += 8) store(x + i, _mm256_mul_ps(load(x + i, n - i), inverse), n - i);
}

size_t bb_arg_max_avx2(const float *x, size_t n)
{
    float m = max_of(x, n);
    for (size_t i = 0; i < n; i += 8) {
        __m256   equal = _mm256_cmp_ps(load(x + i, n - i), _mm256_set1_ps(m), _CMP_EQ_OQ);
        unsigned found = (unsigned)_mm256_movemask_ps(keep(equal, n - i));
        if (found) return i + (size_t)__builtin_ctz(found);
    }
    return 0;
}

double bb_sum_exp_avx2(const float *x, float shift, size_t n)
{
    lanes  sum = lanes_zero();
    __m256 m = _mm256_set1_ps(shift);
    for (size_t i = 0; i < n; i += 8) lanes_add(&sum, i / 8 % 2, keep(exp8(_mm256_sub_ps(load(x + i, n - i), m)), n - i));
    return lanes_total(sum);
}

double bb_sum_exp_cross_avx2(const float *x, float shift, const float *z, size_t n, double *cross)
{
    lanes  sum = lanes_zero(), sum2 = lanes_zero();
    __m256 m = _mm256_set1_ps(shift);
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = load(x + i, n - i), e = keep(exp8(_mm256_sub_ps(v, m)), n - i);
        lanes_add(&sum, i / 8 % 2, e);
        lanes_fma(&sum2, i / 8 % 2, e, _mm256_sub_ps(v, load(z + i, n - i)));
    }
    *cross = lanes_total(sum2);
    return lanes_total(sum);
}

void bb_half_to_float_avx2(const uint16_t *x, float *y, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + i))));
    for (; i < n; i++) y[i] = bb_half_to_float(x[i]);
}

void bb_peak_fma_avx2(float *x, float a, float b, size_t n)
{
    enum { AT_ONCE = 12 };
    __m256 va = _mm256_set1_ps(a), vb = _mm256_set1_ps(b);
    for (int from = 0; from < BB_PEAK_CHAINS; from += 8 * AT_ONCE) {
        __m256 v[AT_ONCE];
        for (int c = 0; c < AT_ONCE; c++) v[c] = _mm256_loadu_ps(x + from + 8 * c);
        for (size_t i = 0; i < n; i++)
            for (int c = 0; c < AT_ONCE; c++) v[c] = _mm256_fmadd_ps(v[c], va, vb);
        for (int c = 0; c < AT_ONCE; c++) _mm256_storeu_ps(x + from + 8 * c, v[c]);
    }
}

/* ---- product ---- */

#define BB_LEVEL avx2
#define VECTOR __m256
#define OP(name) _mm256_##name
#define ROWS_TO_TILE ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
enum { LANES = 8, PANEL = BB_PANEL_AVX2, TILE_ROWS = 6 };
#include "kernels/x86/product.inc"
#else
typedef int bb_no_avx2; /* an empty file is not C */
#endif
