/* SPDX-License-Identifier: GPL-3.0-or-later
 * grid_rows_avx512.c: fields of many rows (kernels/formats/grid_rows.inc), compiled for AVX-512. */
#if defined(__x86_64__)
#include <immintrin.h>
#define LANES 16
#define BB_LEVEL avx512
#define PICK(x, y, yes, no) ((vf)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)(x), (__m512)(y), _CMP_LT_OQ), (__m512)(no), (__m512)(yes)))
/* max(a, b) is a > b ? a : b: with NaN, the second. */
#define AT_LEAST(x, low) ((vf)_mm512_max_ps((__m512)(low), (__m512)(x)))
#define AT_MOST(x, high) ((vf)_mm512_min_ps((__m512)(high), (__m512)(x)))
#include "kernels/formats/grid_rows.inc"
#else
typedef int bb_grid_rows_avx512_unused;
#endif
