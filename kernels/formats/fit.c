/* SPDX-License-Identifier: GPL-3.0-or-later
 * fit.c: fit and round-to-nearest of the scalar grids: what all of them have in common; see fit.h. */
#include "kernels/formats/fit.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "kernels/formats/grid.h"
#include "kernels/half.h"

static const bb_fields no_fields = { .error = (double)INFINITY };

/* a and b of a group, in units of k->unit, by the arithmetic of the decoder. */
void bb_group_scales(const bb_work *k, const bb_fields *f, int g, float *a, float *b)
{
    *a = *b = 0;
    switch (k->grid->kind) {
    case BB_GRID_SCALE:
    case BB_GRID_POWER: *a = f->d; break;
    case BB_GRID_SCALE_MIN:
        *a = f->d;
        *b = f->dmin;
        break;
    case BB_GRID_SCALES: *a = f->d * (float)f->sc[g]; break;
    case BB_GRID_SCALES_MINS:
        *a = f->d * (float)f->sc[g];
        *b = -(f->dmin * (float)f->mn[g]);
        break;
    case BB_GRID_BYTE_SCALES: *a = k->grid->byte_scales[f->sc[g]] / k->unit; break;
    }
}

void bb_load_fields(const bb_work *k, const bb_code *c, bb_fields *f)
{
    *f = no_fields;
    f->d = c->d / k->unit;
    f->dmin = c->dmin / k->unit;
    memcpy(f->sc, c->sc, sizeof f->sc);
    memcpy(f->mn, c->mn, sizeof f->mn);
}

void bb_store_fields(const bb_work *k, const bb_fields *f, bb_code *c)
{
    c->d = k->grid->kind == BB_GRID_BYTE_SCALES ? 0.5f : f->d * k->unit;
    c->dmin = f->dmin * k->unit;
    memcpy(c->sc, f->sc, sizeof c->sc);
    memcpy(c->mn, f->mn, sizeof c->mn);
}

/* Weighted squared error of c's codes under f, in double. */
double bb_error_of_codes(const bb_work *k, const bb_fields *f, const uint32_t *q)
{
    const float *levels = k->grid->format->levels;
    double       sum = 0;
    for (int g = 0; g < k->n_groups; g++) {
        float a, b;
        bb_group_scales(k, f, g, &a, &b);
        for (int i = g * k->m; i < (g + 1) * k->m; i++) {
            double r = (double)k->w[i] - (double)(a * levels[q[i]] + b);
            sum += (double)k->h[i] * r * r;
        }
    }
    return sum;
}

/* Nearest codes for f, and their error. */
static double finish(const bb_work *k, const bb_fields *f, bb_code *c)
{
    for (int g = 0; g < k->n_groups; g++) {
        float a, b;
        bb_group_scales(k, f, g, &a, &b);
        bb_work_codes(k, g, a, b, c->q + g * k->m);
    }
    bb_store_fields(k, f, c);
    return bb_error_of_codes(k, f, c->q);
}

/* ---- round to nearest ---- */

/* Per group: scale and min that cover the extremes. Two levels have no extremes to cover: mean |w|. */
static void extremes(const bb_work *k, int group, float *a, float *b)
{
    const float *w = k->w + group * k->m;
    float        min = w[0], max = w[0], sum = 0;
    for (int i = 0; i < k->m; i++) {
        min = fminf(min, w[i]);
        max = fmaxf(max, w[i]);
        sum += fabsf(w[i]);
    }
    if (k->grid->kind == BB_GRID_SCALE_MIN || k->grid->kind == BB_GRID_SCALES_MINS) {
        if (k->grid->kind == BB_GRID_SCALES_MINS) min = fminf(min, 0);
        *a = (max - min) / (k->hi - k->lo);
        *b = min;
        return;
    }
    float signed_extreme = max >= -min ? max : min, far = k->hi >= -k->lo ? k->hi : k->lo;
    *a = k->grid->format->n_levels == 2 ? sum / (float)k->m : signed_extreme / far;
    if (k->lo + k->hi == 0) *a = fabsf(*a);
    *b = 0;
}

static int16_t to_field(float x, int lo, int hi)
{
    x = rintf(x);
    return (int16_t)(x >= (float)hi ? hi : x >= (float)lo ? (int)x : lo); /* NaN: lo */
}

static int16_t nearest_byte(const bb_grid *grid, float a)
{
    int s = grid->sc_lo;
    while (s < grid->sc_hi && a > 0.5f * (grid->byte_scales[s] + grid->byte_scales[s + 1])) s++;
    return (int16_t)s;
}

static void rtn_fields(const bb_work *k, bb_fields *f)
{
    const bb_grid *grid = k->grid;
    float          a[BB_MAX_GROUPS], b[BB_MAX_GROUPS], a_max = 0, b_max = 0;
    *f = no_fields;
    for (int g = 0; g < k->n_groups; g++) {
        extremes(k, g, a + g, b + g);
        a_max = fabsf(a[g]) > fabsf(a_max) ? a[g] : a_max;
        b_max = fmaxf(b_max, -b[g]);
    }
    switch (grid->kind) {
    case BB_GRID_SCALE:
    case BB_GRID_POWER: f->d = bb_work_store(k, a[0]); return;
    case BB_GRID_SCALE_MIN:
        f->d = bb_work_store(k, a[0]);
        f->dmin = bb_work_store(k, b[0]);
        return;
    case BB_GRID_SCALES: f->d = bb_work_store(k, a_max / (float)(grid->sc_lo < 0 ? grid->sc_lo : grid->sc_hi)); break;
    case BB_GRID_SCALES_MINS:
        f->d = bb_work_store(k, a_max / (float)grid->sc_hi);
        f->dmin = bb_work_store(k, b_max / (float)grid->sc_hi);
        break;
    case BB_GRID_BYTE_SCALES: break;
    }
    for (int g = 0; g < k->n_groups; g++) {
        if (grid->kind == BB_GRID_BYTE_SCALES) {
            f->sc[g] = nearest_byte(grid, a[g] * k->unit);
            continue;
        }
        f->sc[g] = f->d != 0 ? to_field(a[g] / f->d, grid->sc_lo, grid->sc_hi) : 0;
        f->mn[g] = f->dmin != 0 ? to_field(-b[g] / f->dmin, 0, grid->sc_hi) : 0;
    }
}

void bb_grid_rtn(const bb_grid *grid, const float *w, void *blocks, size_t n)
{
    const bb_format *row = grid->format;
    unsigned char   *out = blocks;
    BB_ASSERT(n % row->block == 0);
    for (size_t i = 0; i < n; i += row->block, out += row->block_bytes) {
        bb_work   k;
        bb_fields f;
        bb_code   c;
        bb_work_init(&k, grid, w + i, NULL);
        rtn_fields(&k, &f);
        finish(&k, &f, &c);
        row->pack(&c, out);
    }
}

/* ---- fit ---- */

void bb_grid_fit(const bb_grid *grid, const float *w, const float *h, bb_code *c)
{
    bb_work   k;
    bb_fields best = no_fields, rtn;
    bb_code   plain;
    bb_work_init(&k, grid, w, h);
    rtn_fields(&k, &rtn);
    double plain_error = finish(&k, &rtn, &plain);
    best.error = plain_error;
    switch (grid->kind) {
    case BB_GRID_SCALE: bb_fit_scale(&k, &best); break;
    case BB_GRID_POWER: bb_fit_power(&k, &best); break;
    case BB_GRID_SCALE_MIN: bb_fit_scale_min(&k, &best); break;
    case BB_GRID_SCALES: bb_fit_scales(&k, &best); break;
    case BB_GRID_SCALES_MINS: bb_fit_scales_mins(&k, &best); break;
    case BB_GRID_BYTE_SCALES: bb_fit_byte_scales(&k, &best); break;
    }
    *c = plain;
    if (best.error < plain_error) {
        bb_code fitted;
        memset(&fitted, 0, sizeof fitted);
        if (finish(&k, &best, &fitted) < plain_error) *c = fitted;
    }
}

/* ---- many rows ---- */

void bb_grid_fit_rows(const bb_grid *grid, const float *t, const float *h, bb_code *c)
{
    const unsigned n = grid->format->block, m = grid->format->group;
    float          clean_t[BB_MAX_BLOCK * BB_FORMAT_ROWS], clean_h[BB_MAX_BLOCK], unit[BB_FORMAT_ROWS] = { 0 };
    bb_mean_importance(h, n, clean_h);
    for (unsigned g = 0; g < n; g += m) {
        float own = 0;
        for (unsigned i = g; i < g + m; i++) own += clean_h[i];
        for (unsigned i = g; i < g + m && !(own > 0x1p-40f); i++) clean_h[i] = 0x1p-40f;
    }
    for (unsigned i = 0; i < n * BB_FORMAT_ROWS; i++) {
        const float x = isfinite(t[i]) ? t[i] : 0, size = fabsf(x);
        clean_t[i] = x;
        unit[i % BB_FORMAT_ROWS] = size > unit[i % BB_FORMAT_ROWS] ? size : unit[i % BB_FORMAT_ROWS];
    }
    for (unsigned r = 0; r < BB_FORMAT_ROWS; r++) unit[r] = bb_bits_float(bb_float_bits(unit[r] > 0x1p-100f ? unit[r] : 1) & 0x7F800000u);
    bb_kernels_get()->field_rows(grid, clean_t, unit, clean_h, c);
}
