/* SPDX-License-Identifier: GPL-3.0-or-later
 * columns_avx512.c: the inner loops of error feedback (kernels/columns.inc), compiled for AVX-512. */
#if defined(__x86_64__)
#define BB_LEVEL avx512
#include "kernels/columns.inc"
#else
typedef int bb_columns_avx512_unused;
#endif
