/* SPDX-License-Identifier: GPL-3.0-or-later
 * work.c: the workspace of a fit: normalised weights, stored scales, codes. */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "kernels/formats/fit.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

static const float half_max = 65504.0f;

/* ---- normalisation ---- */

/* 2^-floor(log2 max), within what a float holds; 1 for 0. */
static float reciprocal_unit(float max)
{
    if (!(max > 0)) return 1;
    int e = ilogbf(max);
    return ldexpf(1, -(e < -126 ? -126 : e > 126 ? 126 : e));
}

static void load_weights(bb_work *k, const float *w)
{
    float max = 0;
    for (int i = 0; i < k->n; i++) {
        float x = isfinite(w[i]) ? w[i] : 0;
        k->w[i] = x;
        max = fmaxf(max, fabsf(x));
    }
    float r = reciprocal_unit(max);
    k->unit = 1 / r;
    for (int i = 0; i < k->n; i++) k->w[i] *= r;
}

static void load_importance(bb_work *k, const float *h)
{
    float max = 0;
    for (int i = 0; i < k->n; i++) {
        float x = h ? h[i] : 1.0f;
        x = x > 0 ? fminf(x, 0x1p126f) : 0; /* NaN and negative: 0 */
        k->h[i] = x;
        max = fmaxf(max, x);
    }
    float r = max > 0 ? reciprocal_unit(max) : 0;
    for (int g = 0; g < k->n_groups; g++) {
        float *p = k->h + g * k->m, sum = 0;
        for (int i = 0; i < k->m; i++) sum += p[i] *= r;
        if (!(sum > 0))
            for (int i = 0; i < k->m; i++) p[i] = max > 0 ? 0x1p-40f : 1.0f;
    }
}

static void find_bins(bb_work *k, const float *levels, int n_levels)
{
    const float width = k->grid->bin;
    int         code = 0, n = (int)((k->hi - k->lo) / width) + 1;
    BB_ASSERT(n <= BB_MAX_BINS);
    for (int i = 0; i < n; i++) {
        float edge = k->lo + width * (float)i;
        while (code + 2 < n_levels && edge > (levels[code] + levels[code + 1]) / 2) code++;
        k->below[i] = levels[code];
        k->above[i] = levels[code + 1];
        k->middle[i] = (levels[code] + levels[code + 1]) / 2;
        k->code[i] = (uint32_t)code;
    }
}

void bb_work_init(bb_work *k, const bb_grid *grid, const float *w, const float *h)
{
    const bb_format *f = grid->format;
    k->kernels = bb_kernels_get();
    k->grid = grid;
    k->n = f->block;
    k->m = f->group;
    k->n_groups = f->block / f->group;
    k->lo = f->levels[0];
    k->hi = f->levels[f->n_levels - 1];
    if (grid->bin > 0) find_bins(k, f->levels, f->n_levels);
    if (grid->kind == BB_GRID_SCALE || grid->kind == BB_GRID_SCALES)
        for (int i = 0; i + 1 < f->n_levels; i++) k->per_middle[i] = 2 / (f->levels[i] + f->levels[i + 1]);
    load_weights(k, w);
    load_importance(k, h);
    for (int g = 0; g < k->n_groups; g++) {
        const float *x = k->w + g * k->m, *p = k->h + g * k->m;
        double       ww = 0, hw = 0, hh = 0;
        for (int i = 0; i < k->m; i++) {
            double t = (double)p[i] * (double)x[i];
            ww += t * (double)x[i];
            hw += t;
            hh += (double)p[i];
        }
        k->ww[g] = (float)ww;
        k->hw[g] = (float)hw;
        k->hh[g] = (float)hh;
    }
}

/* ---- stored scales ---- */

float bb_work_store(const bb_work *k, float d)
{
    float x = d * k->unit;
    if (k->grid->kind == BB_GRID_POWER) { /* nearest in ratio to sqrt(2) */
        if (!(x > 0)) return ldexpf(1, -128) / k->unit;
        int e = ilogbf(x * 1.41421356f);
        return ldexpf(1, e < -128 ? -128 : e > 124 ? 124 : e) / k->unit;
    }
    x = fminf(fmaxf(x, -half_max), half_max);
    x = bb_half_to_float(bb_float_to_half(x));
    return x == 0 ? 0 : x / k->unit;
}

float bb_work_store_step(const bb_work *k, float d, int step)
{
    float    x = d * k->unit;
    uint16_t u = bb_float_to_half(x), a = u & 0x7FFFu;
    if ((step < 0 && a <= 1) || (step > 0 && a >= 0x7BFFu)) return d;
    return bb_half_to_float((uint16_t)(u + step)) / k->unit;
}

/* ---- codes ---- */

void bb_work_codes(const bb_work *k, int group, float a, float b, uint32_t *q)
{
    const float *w = k->w + group * k->m, inverse = bb_reciprocal(a);
    for (int i = 0; i < k->m; i++) {
        float x = (w[i] - b) * inverse;
        x = x < k->lo ? k->lo : x > k->hi ? k->hi : x;
        if (k->grid->bin > 0) {
            int at = (int)((x - k->lo) * (1 / k->grid->bin));
            q[i] = k->code[at] + (x > k->middle[at]);
        } else {
            q[i] = (uint32_t)(int)(((x + 12582912.0f) - 12582912.0f) - k->lo);
        }
    }
}
