/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_rows.h: the nearest codes of many rows under one full metric, (t - a z)' M (t - a z): rows are lanes.
 *
 * The books without signs (IQ1) are searched exactly, word by word. With signs the search is local: the signs that rounding the weights
 * one after the other finds, then in turn the best word for these signs, exactly, and the best change of one or two signs. Error
 * feedback with it loses about 0.5 % against the exact search of codebook_metric.c, which a further sweep more than makes up, and it
 * takes a tenth to a hundredth of the time. (A second start, from the targets' signs, gains 0.2 % at twice the time.) */
#ifndef BB_KERNELS_FORMATS_CODEBOOK_ROWS_H
#define BB_KERNELS_FORMATS_CODEBOOK_ROWS_H

#include "kernels/formats/codebook.h"

/* What the rows share: the metric, scaled to a largest diagonal in [1, 2), and its pieces. */
typedef struct bb_cb_metric {
    float m[8][8];
    float row[8][8];   /* for i < j: how the error of weight j moves the target of weight i when weights are rounded last first */
    float pivot[8];    /* what an error of weight i then costs */
    float schur[4][4]; /* of the second of two words when the first is free */
} bb_cb_metric;

void bb_cb_metric_init(bb_cb_metric *m, unsigned n, const float *metric);

#endif
