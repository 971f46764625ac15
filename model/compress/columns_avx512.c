/* SPDX-License-Identifier: GPL-3.0-or-later
 * columns_avx512.c: the inner loops of error feedback (columns.inc), compiled for AVX512. */
#if defined(__x86_64__)
#define BB_COLUMNS_TABLE bb_columns_avx512
#include "model/compress/columns.inc"
#else
typedef int bb_columns_avx512_unused;
#endif
