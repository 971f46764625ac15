/* SPDX-License-Identifier: GPL-3.0-or-later
 * columns.h: the inner loops of error feedback, over the rows of a tile side by side. Internal to compress/. All levels give the same bits. */
#ifndef BB_MODEL_COMPRESS_COLUMNS_H
#define BB_MODEL_COMPRESS_COLUMNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/format.h"

/* A scalar grid's levels. */
typedef struct bb_levels {
    float        least;      /* levels[0] */
    unsigned     n;
    bool         uniform;    /* they are consecutive integers */
    const float *mid, *step; /* [n-1] thresholds between levels, level[i+1] - level[i] */
} bb_levels;

typedef struct bb_columns {
    /* One column, all arrays [BB_FORMAT_ROWS]: the level nearest to (target - b) / a, its value v = a level + b, its index q,
     * e = ref - v; cost += d (target - v)^2. Level least where a is 0 or the target not a number. */
    void (*round)(const bb_levels *l, float d, const float *a, const float *b, const float *target, const float *ref, float *v, float *e,
                  uint32_t *q, float *cost);
    /* target (n, rows) += u_j e, j < n; e [rows]. */
    void (*spread)(const float *u, size_t n, const float *e, float *target);
    /* cost += (target - v)' metric (target - v); target, v (vec, rows). */
    void (*vector_cost)(unsigned vec, const float *metric, const float *target, const float *v, float *cost);
} bb_columns;

const bb_columns *bb_columns_get(void);

extern const bb_columns bb_columns_ref, bb_columns_avx2, bb_columns_avx512;

#endif
