/* SPDX-License-Identifier: GPL-3.0-or-later
 * lanes_avx2.c: the inner loops of a fit (kernels/formats/lanes.inc), compiled for AVX2. */
#if defined(__x86_64__)
#include <immintrin.h>
/* max(a, b) is a > b ? a : b: with NaN, the second. */
#define AT_LEAST(x, low) ((v8)_mm256_max_ps((__m256)(low), (__m256)(x)))
#define AT_MOST(x, high) ((v8)_mm256_min_ps((__m256)(high), (__m256)(x)))
#define BB_LEVEL avx2
#include "kernels/formats/lanes.inc"
#else
typedef int bb_lanes_avx2_unused;
#endif
