/* SPDX-License-Identifier: GPL-3.0-or-later
 * grid_rows_avx2.c: fields of many rows (kernels/formats/grid_rows.inc), compiled for AVX2. */
#if defined(__x86_64__)
#include <immintrin.h>
#define LANES 8
#define BB_LEVEL avx2
#define PICK(x, y, yes, no) ((vf)_mm256_blendv_ps((__m256)(no), (__m256)(yes), _mm256_cmp_ps((__m256)(x), (__m256)(y), _CMP_LT_OQ)))
/* max(a, b) is a > b ? a : b: with NaN, the second. */
#define AT_LEAST(x, low) ((vf)_mm256_max_ps((__m256)(low), (__m256)(x)))
#define AT_MOST(x, high) ((vf)_mm256_min_ps((__m256)(high), (__m256)(x)))
#include "kernels/formats/grid_rows.inc"
#else
typedef int bb_grid_rows_avx2_unused;
#endif
