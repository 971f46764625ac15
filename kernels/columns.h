/* SPDX-License-Identifier: GPL-3.0-or-later
 * columns.h: what error feedback's rows of table.inc round to. */
#ifndef BB_KERNELS_COLUMNS_H
#define BB_KERNELS_COLUMNS_H

#include <stdbool.h>

#include "kernels/format.h"

/* A scalar grid's levels. */
typedef struct bb_levels {
    float        least; /* levels[0] */
    unsigned     n;
    bool         uniform;    /* they are consecutive integers */
    const float *mid, *step; /* [n-1] thresholds between levels, level[i+1] - level[i] */
} bb_levels;

#endif
