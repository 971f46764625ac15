/* SPDX-License-Identifier: GPL-3.0-or-later
 * columns_avx2.c: the inner loops of error feedback (kernels/columns.inc), compiled for AVX2. */
#if defined(__x86_64__)
#define BB_LEVEL avx2
#include "kernels/columns.inc"
#else
typedef int bb_columns_avx2_unused;
#endif
