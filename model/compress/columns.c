/* SPDX-License-Identifier: GPL-3.0-or-later
 * columns.c: the inner loops of error feedback for any CPU, and the choice of the level. */
#define BB_COLUMNS_TABLE bb_columns_ref
#include "model/compress/columns.inc"

#include "kernels/kernels.h"

const bb_columns *bb_columns_get(void)
{
#if defined(__x86_64__)
    const char *name = bb_kernels_get()->level;
    if (strcmp(name, "avx512") == 0) return &bb_columns_avx512;
    if (strcmp(name, "avx2") == 0) return &bb_columns_avx2;
#endif
    return &bb_columns_ref;
}
