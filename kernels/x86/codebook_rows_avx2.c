/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_rows_avx2.c: the search for many rows (kernels/formats/codebook_rows.h), compiled for AVX2. */
#if defined(__x86_64__)
#include <immintrin.h>
#define LANES 8
#define BB_LEVEL avx2
#define CHOOSE(mask, yes, no) ((vf)_mm256_blendv_ps((__m256)(no), (__m256)(yes), (__m256)(mask)))
#define LESSER(least, e) ((least) = (vf)_mm256_min_ps((__m256)(e), (__m256)(least))) /* the second where they are equal or one is no number */
#include "kernels/formats/codebook_rows.inc"
#else
typedef int bb_codebook_rows_avx2_unused;
#endif
