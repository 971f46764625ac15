/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_rows_avx512.c: the search for many rows (kernels/formats/codebook_rows.h), compiled for AVX-512. */
#if defined(__x86_64__)
#include <immintrin.h>
#define LANES 16
#define BB_LEVEL avx512
#define LESSER(least, e) ((least) = (vf)_mm512_min_ps((__m512)(e), (__m512)(least))) /* the second where they are equal or one is no number */
#define KEEP_LESS(e, i, best, at) \
    do { \
        const __m512    e_ = (__m512)(e); \
        const __mmask16 less_ = _mm512_cmp_ps_mask(e_, (__m512)(best), _CMP_LT_OQ); \
        (best) = (vf)_mm512_mask_mov_ps((__m512)(best), less_, e_); \
        (at) = (vi)_mm512_mask_mov_epi32((__m512i)(at), less_, _mm512_set1_epi32(i)); \
    } while (0)
#define KEEP_LESS_VALUE(e, x, best, with) \
    do { \
        const __m512    e_ = (__m512)(e); \
        const __mmask16 less_ = _mm512_cmp_ps_mask(e_, (__m512)(best), _CMP_LT_OQ); \
        (best) = (vf)_mm512_mask_mov_ps((__m512)(best), less_, e_); \
        (with) = (vf)_mm512_mask_mov_ps((__m512)(with), less_, (__m512)(x)); \
    } while (0)
#include "kernels/formats/codebook_rows.inc"
#else
typedef int bb_codebook_rows_avx512_unused;
#endif
