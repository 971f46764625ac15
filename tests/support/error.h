/* SPDX-License-Identifier: GPL-3.0-or-later
 * error.h: the error of a compressed matrix by its definition, in float64: what the quantizers' own numbers are held against. */
#ifndef BB_TESTS_ERROR_H
#define BB_TESTS_ERROR_H

#include "model/compress/compress.h"

/* tr((W-V) H (W-V)') / tr(W H W'); h NULL: the identity. */
static inline double relative_error_of(const float *w, const float *v, uint32_t rows, uint32_t cols, const bb_hessian *h)
{
    double error = 0, energy = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++) {
            const float *a = w + r * cols, *b = v + r * cols;
            double       we = 0, ee = 0; /* row i of H times the row of W, of W - V */
            for (size_t j = h ? 0 : i; j < (h ? cols : i + 1); j++) {
                const double x = h ? (double)h->h[i * cols + j] : 1;
                we += x * (double)a[j];
                ee += x * ((double)a[j] - (double)b[j]);
            }
            energy += (double)a[i] * we;
            error += ((double)a[i] - (double)b[i]) * ee;
        }
    return energy > 0 ? error / energy : 0;
}

#endif
