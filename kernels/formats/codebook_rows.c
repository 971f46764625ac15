/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_rows.c: what the rows share in a search (codebook_rows.h). */
#include "kernels/formats/codebook_rows.h"

#include <math.h>
#include <string.h>

#include "kernels/formats/grid.h"
#include "kernels/kernels.h"

/* A power of two that takes the largest diagonal entry into [1, 2). */
static double unit_of(unsigned n, const float *metric)
{
    double largest = 0;
    for (unsigned i = 0; i < n; i++) largest = fmax(largest, (double)metric[i * n + i]);
    return largest > 0 && isfinite(largest) ? ldexp(1, -ilogb(largest)) : 0;
}

void bb_cb_metric_init(bb_cb_metric *out, unsigned n, const float *metric)
{
    const double unit = unit_of(n, metric);
    double       a[8][8];
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < n; i++)
        for (unsigned j = 0; j < n; j++) {
            a[i][j] = unit > 0 ? unit * (double)metric[i * n + j] : i == j;
            out->m[i][j] = (float)a[i][j];
        }
    /* Elimination from the first weight on: row i of the factor is what is left of it, and what is left of the last four
     * weights after four steps is their Schur complement. */
    for (unsigned k = 0; k < n; k++) {
        const double pivot = a[k][k] > 1e-9 ? a[k][k] : 0;
        if (k == 4)
            for (unsigned i = 0; i < 4; i++)
                for (unsigned j = 0; j < 4; j++) out->schur[i][j] = (float)a[4 + i][4 + j];
        out->pivot[k] = (float)pivot;
        for (unsigned j = k + 1; j < n; j++) out->row[k][j] = pivot > 0 ? (float)(a[k][j] / pivot) : 0;
        for (unsigned i = k + 1; i < n && pivot > 0; i++)
            for (unsigned j = k + 1; j < n; j++) a[i][j] -= a[k][i] * a[k][j] / pivot;
    }
}

void bb_cb_nearest_rows(const bb_cb_spec *s, const bb_code *c, unsigned v, const float *t, const float *metric, uint32_t *q, float *value)
{
    const unsigned g = v * s->vec / s->group;
    float          a[BB_FORMAT_ROWS], shift[BB_FORMAT_ROWS];
    bb_cb_metric   m;
    bb_cb_metric_init(&m, s->vec, metric);
    for (unsigned r = 0; r < BB_FORMAT_ROWS; r++) {
        a[r] = bb_cb_scale(s, &c[r], g);
        shift[r] = c[r].mn[g] ? -0.125f : 0.125f;
    }
    bb_kernels_get()->code_rows(s, &m, a, shift, t, q, value);
}

void bb_cb_fit_rows(const bb_cb_spec *s, const float *t, const float *h, bb_code *c)
{
    float clean_t[BB_CB_SUPER * BB_FORMAT_ROWS], clean_h[BB_CB_SUPER];
    bb_mean_importance(h, BB_CB_SUPER, clean_h);
    for (unsigned i = 0; i < BB_CB_SUPER * BB_FORMAT_ROWS; i++) clean_t[i] = isfinite(t[i]) ? t[i] : 0;
    bb_kernels_get()->scale_rows(s, clean_t, clean_h, c);
}
