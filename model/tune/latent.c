/* SPDX-License-Identifier: GPL-3.0-or-later
 * latent.c: see latent.h. Rows are independent: they are the parallel pieces. */
#include "model/tune/latent.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/half.h"
#include "model/tune/lattice_latent.h"

/* ---- what a format's fields are ---- */

/* Whether a value of a field comes back from the stored bytes. */
static bool survives(const bb_format *f, bool is_min, int value)
{
    unsigned char bytes[2 * BB_MAX_BLOCK] = { 0 };
    bb_code       c = { 0 }, back = { 0 }; /* unpack leaves fields alone that a format has not */
    f->unpack(bytes, &c);
    *(is_min ? c.mn : c.sc) = (int16_t)value;
    f->pack(&c, bytes);
    f->unpack(bytes, &back);
    return (is_min ? back.mn : back.sc)[0] == value;
}

static void field_range(const bb_format *f, bool is_min, int *least, int *most)
{
    *least = *most = 0;
    while (*least > -256 && survives(f, is_min, *least - 1)) (*least)--;
    while (*most < 255 && survives(f, is_min, *most + 1)) (*most)++;
}

/* Whether d (or dmin) is stored as F16: then a neighbour of 1 comes back. */
static bool is_half(const bb_format *f, bool is_min)
{
    unsigned char bytes[2 * BB_MAX_BLOCK] = { 0 };
    bb_code       c = { 0 }, back = { 0 };
    const float   near_one = 1 + 0x1p-10f;
    f->unpack(bytes, &c);
    *(is_min ? &c.dmin : &c.d) = near_one;
    f->pack(&c, bytes);
    f->unpack(bytes, &back);
    return (is_min ? back.dmin : back.d) == near_one;
}

static float half_of(float x)
{
    const float most = 65504.0f;
    return bb_half_to_float(bb_float_to_half(fminf(fmaxf(x, -most), most)));
}

static void expand(const bb_format *f, const bb_code *c, float *out)
{
    if (f->vec > 1) {
        for (unsigned v = 0; v < (unsigned)f->block / f->vec; v++) f->value(c, v, out + v * f->vec);
        return;
    }
    float a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
    f->scales(c, a, b);
    for (unsigned i = 0; i < f->block; i++) out[i] = a[i / f->group] * f->levels[c->q[i]] + b[i / f->group];
}

/* ---- life ---- */

static float *field_d(const bb_latent *l, float *of)
{
    (void)l;
    return of;
}
static float *field_dmin(const bb_latent *l, float *of) { return of + l->n_blocks; }
static float *field_sc(const bb_latent *l, float *of) { return of + 2 * l->n_blocks; }
static float *field_mn(const bb_latent *l, float *of) { return of + (2 + l->n_groups) * l->n_blocks; }

void bb_latent_done(bb_latent *l)
{
    bb_lattice_latent_done(l);
    bb_free(l->q);
    bb_free(l->w);
    bb_free(l->g_w);
    bb_free(l->fields);
    bb_free(l->g_fields);
    bb_free(l->start);
    bb_free(l->center);
    bb_free(l->slack);
    memset(l, 0, sizeof *l);
}

double bb_latent_code_bytes(const bb_format *f) { return f->vec > 1 ? sizeof(uint16_t) + sizeof(float) / (double)f->vec : 0; }

static double root_mean_square(const float *w, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)w[i] * (double)w[i];
    return n ? sqrt(sum / (double)n) : 0;
}

bb_status bb_latent_create(const bb_matrix *m, unsigned char *packed, bb_latent *l, bb_err *err)
{
    const bb_format *f = bb_format_get(m->type);
    const size_t     n = (size_t)m->rows * m->cols;
    memset(l, 0, sizeof *l);
    l->format = f;
    l->rows = m->rows;
    l->cols = m->cols;
    l->packed = packed;
    if (m->lattice) {
        const bb_status status = bb_lattice_latent_create(m, l, err);
        if (status != BB_OK) bb_latent_done(l);
        return status;
    }
    if (f->vec) {
        l->n_blocks = n / f->block;
        l->n_groups = (size_t)(f->block / f->group);
        field_range(f, false, &l->sc_least, &l->sc_most);
        if (f->vec == 1) field_range(f, true, &l->mn_least, &l->mn_most); /* of a codebook it is a sign */
        l->has_d = is_half(f, false);
        l->has_dmin = is_half(f, true);
    }
    l->scaled = f->vec == 1 && l->has_d && !l->has_dmin && l->sc_most == l->sc_least && l->mn_most == l->mn_least;
    const size_t n_fields = (2 + 2 * l->n_groups) * l->n_blocks;
    l->q = BB_NEW(n, float, err);
    l->w = BB_NEW(n, float, err);
    l->g_w = BB_NEW0(n, float, err);
    l->fields = BB_NEW0(n_fields, float, err);
    l->g_fields = BB_NEW0(n_fields, float, err);
    l->start = BB_NEW0(2 * l->n_blocks, float, err);
    if (f->vec > 1) {
        l->center = BB_NEW(n, uint16_t, err);
        l->slack = BB_NEW(n / f->vec, float, err);
    }
    if (!l->q || !l->w || !l->g_w || !l->fields || !l->g_fields || !l->start || (f->vec > 1 && (!l->center || !l->slack))) {
        bb_latent_done(l);
        return BB_NOMEM;
    }
    bb_latent_decode(l);
    /* Steps of a grid halve with each bit; the finest useful one is that of F16 tensors trained as they are. */
    l->unit = root_mean_square(l->q, n) * exp2(2 - fmin(bb_format_bpw(f), 8));
    return BB_OK;
}

static double mean_size(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += fabs((double)x[i]);
    return n ? sum / (double)n : 0;
}

void bb_latent_params(const bb_latent *l, double weights, double fields, bb_param *out)
{
    if (l->lattice) {
        bb_lattice_latent_params(l, weights, fields, out);
        return;
    }
    const size_t n = (size_t)l->rows * l->cols, n_fine = l->n_blocks * l->n_groups;
    float *const f = l->fields, *const g = l->g_fields;
    out[0] = (bb_param) { l->w, l->g_w, n, (float)(weights * l->unit), 0 };
    out[1] = (bb_param) { field_d(l, f), field_d(l, g), l->has_d ? l->n_blocks : 0, (float)fields, 0 };
    out[2] = (bb_param) { field_dmin(l, f), field_dmin(l, g), l->has_dmin ? l->n_blocks : 0, (float)fields, 0 };
    out[3] = (bb_param) { field_sc(l, f), field_sc(l, g), l->sc_most > l->sc_least ? n_fine : 0, (float)(fields * mean_size(field_sc(l, f), n_fine)), 0 };
    out[4] = (bb_param) { field_mn(l, f), field_mn(l, g), l->mn_most > l->mn_least ? n_fine : 0, (float)(fields * mean_size(field_mn(l, f), n_fine)), 0 };
}

/* ---- bytes to numbers and back ---- */

/* After codes have come from elsewhere. */
static void forget_slack(bb_latent *l)
{
    if (l->slack) memset(l->slack, 0, (size_t)l->rows * l->cols / l->format->vec * sizeof *l->slack);
}

void bb_latent_decode(bb_latent *l)
{
    if (l->lattice) {
        bb_lattice_latent_decode(l);
        return;
    }
    const bb_format *f = l->format;
    const ptrdiff_t  rows = l->rows;
    const size_t     row_bytes = bb_format_row_bytes(f, l->cols), per_row = l->n_groups ? l->cols / f->block : 0;
    forget_slack(l);
#pragma omp parallel for schedule(static)
    for (ptrdiff_t r = 0; r < rows; r++) {
        f->decode(l->packed + (size_t)r * row_bytes, l->q + (size_t)r * l->cols, l->cols);
        memcpy(l->w + (size_t)r * l->cols, l->q + (size_t)r * l->cols, l->cols * sizeof(float));
        for (size_t b = (size_t)r * per_row; b < (size_t)(r + 1) * per_row; b++) {
            bb_code c = { 0 };
            f->unpack(l->packed + b * f->block_bytes, &c);
            l->start[b] = c.d;
            l->start[l->n_blocks + b] = c.dmin;
            field_d(l, l->fields)[b] = 1;
            field_dmin(l, l->fields)[b] = 1;
            for (size_t g = 0; g < l->n_groups; g++) {
                field_sc(l, l->fields)[b * l->n_groups + g] = c.sc[g];
                field_mn(l, l->fields)[b * l->n_groups + g] = c.mn[g];
            }
        }
    }
}

void bb_latent_refresh(bb_latent *l)
{
    if (l->lattice) {
        bb_lattice_latent_refresh(l);
        return;
    }
    const ptrdiff_t rows = l->rows;
    const size_t    row_bytes = bb_format_row_bytes(l->format, l->cols);
    forget_slack(l);
#pragma omp parallel for schedule(static)
    for (ptrdiff_t r = 0; r < rows; r++) l->format->decode(l->packed + (size_t)r * row_bytes, l->q + (size_t)r * l->cols, l->cols);
}

/* Into range, so that a field that ran past its end comes back at once. */
static int16_t integer_field(float *x, int least, int most)
{
    *x = fminf(fmaxf(*x, (float)least), (float)most);
    return (int16_t)lrintf(*x);
}

static void set_fields(bb_latent *l, size_t b, bb_code *c)
{
    if (l->has_d) c->d = half_of(l->start[b] * field_d(l, l->fields)[b]);
    if (l->has_dmin) c->dmin = half_of(l->start[l->n_blocks + b] * field_dmin(l, l->fields)[b]);
    for (size_t g = 0; g < l->n_groups; g++) {
        float *sc = &field_sc(l, l->fields)[b * l->n_groups + g], *mn = &field_mn(l, l->fields)[b * l->n_groups + g];
        if (l->sc_most > l->sc_least) c->sc[g] = integer_field(sc, l->sc_least, l->sc_most);
        if (l->mn_most > l->mn_least) c->mn[g] = integer_field(mn, l->mn_least, l->mn_most);
    }
}

/* First i with x <= midpoint of levels i and i + 1. */
static uint32_t nearest_level(const bb_format *f, float x)
{
    uint32_t low = 0, high = f->n_levels - 1u;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (x <= 0.5f * (f->levels[mid] + f->levels[mid + 1])) high = mid;
        else low = mid + 1;
    }
    return low;
}

/* Of levels first, first + 1, ..., first + top; what is no number has code 0. */
static void uniform_codes(const float *w, unsigned n, float a, float b, float first, float top, uint32_t *q)
{
    for (unsigned i = 0; i < n; i++) {
        float x = (w[i] - b) / a - first + 0.5f;
        x = x > 0 ? x : 0;
        q[i] = (uint32_t)(int32_t)(x < top ? x : top);
    }
}

/* Of the levels with the midpoints between them: how many of these are below; what is no number has the last. */
static void level_codes(const bb_format *f, const float *w, unsigned n, float a, float b, uint32_t *restrict q)
{
    float x[BB_MAX_BLOCK];
    for (unsigned i = 0; i < n; i++) {
        x[i] = (w[i] - b) / a;
        q[i] = 0;
    }
    for (unsigned k = 0; k + 1 < f->n_levels; k++) {
        const float middle = 0.5f * (f->levels[k] + f->levels[k + 1]);
        for (unsigned i = 0; i < n; i++) q[i] += !(x[i] <= middle);
    }
}

/* Vector v of the matrix, at u in units of its scale: whether its code is still the nearest. */
static bool is_within_slack(const bb_latent *l, size_t v, const float *u)
{
    const unsigned  n = l->format->vec;
    const uint16_t *center = l->center + v * n;
    float           moved = 0;
    for (unsigned i = 0; i < n; i++) {
        const float by = u[i] - bb_bf16_to_float(center[i]);
        moved += by * by;
    }
    return moved < l->slack[v] * l->slack[v];
}

/* Of vector v of the matrix, v_of_block of its block: from about where it is now, at u in units of its scale a. */
static void note_slack(bb_latent *l, const bb_code *c, unsigned v_of_block, size_t v, const float *u, float a)
{
    const unsigned n = l->format->vec;
    uint16_t      *center = l->center + v * n;
    float          at[8];
    for (unsigned i = 0; i < n; i++) {
        center[i] = bb_float_to_bf16(u[i]);
        at[i] = a * bb_bf16_to_float(center[i]);
    }
    l->slack[v] = l->format->slack(c, v_of_block, at);
}

/* Of a codebook, the block `b` of the matrix. c has the codes of before. */
static void search_codes(bb_latent *l, size_t b, const float *w, bb_code *c)
{
    const bb_format *f = l->format;
    const unsigned   share = f->group / f->vec, n = (unsigned)f->block / f->vec; /* vectors of a group, of a block */
    float            scale[BB_MAX_GROUPS], ignored[BB_MAX_GROUPS], u[8];
    if (c->d == 0) return;
    f->scales(c, scale, ignored);
    for (unsigned v = 0; v < n; v++, w += f->vec) {
        const float a = scale[v / share];
        for (unsigned i = 0; i < f->vec; i++) u[i] = w[i] / a;
        if (is_within_slack(l, b * n + v, u)) continue;
        c->q[v] = f->nearest(c, v, w, NULL, NULL);
        note_slack(l, c, v, b * n + v, u, a);
    }
}

static void set_codes(const bb_format *f, const float *w, bb_code *c)
{
    float a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
    f->scales(c, a, b);
    const bool     uniform = f->levels[f->n_levels - 1] - f->levels[0] == (float)(f->n_levels - 1);
    const unsigned m = f->group;
    for (unsigned g = 0; g < f->block / m; g++, w += m) {
        uint32_t *q = c->q + g * m;
        if (!(fabsf(a[g]) > 0x1p-100f)) continue; /* any code will do */
        if (uniform) uniform_codes(w, m, a[g], b[g], f->levels[0], (float)(f->n_levels - 1), q);
        else level_codes(f, w, m, a[g], b[g], q);
    }
}

void bb_latent_encode(bb_latent *l)
{
    if (l->lattice) {
        bb_lattice_latent_encode(l);
        return;
    }
    const bb_format *f = l->format;
    const ptrdiff_t  rows = l->rows;
    const size_t     row_bytes = bb_format_row_bytes(f, l->cols), per_row = l->n_groups ? l->cols / f->block : 0;
#pragma omp parallel for schedule(static)
    for (ptrdiff_t r = 0; r < rows; r++) {
        unsigned char *bytes = l->packed + (size_t)r * row_bytes;
        const float   *w = l->w + (size_t)r * l->cols;
        if (!per_row) f->encode(w, NULL, bytes, l->cols);
        for (size_t i = 0; i < per_row; i++) {
            bb_code c = { 0 };
            if (!l->scaled || !(fabsf(l->start[(size_t)r * per_row + i] * field_d(l, l->fields)[(size_t)r * per_row + i]) > 0x1p-20f))
                f->unpack(bytes + i * f->block_bytes, &c); /* what is not set below */
            set_fields(l, (size_t)r * per_row + i, &c);
            if (f->vec > 1) search_codes(l, (size_t)r * per_row + i, w + i * f->block, &c);
            else set_codes(f, w + i * f->block, &c);
            f->pack(&c, bytes + i * f->block_bytes);
        }
        f->decode(bytes, l->q + (size_t)r * l->cols, l->cols);
    }
}

/* ---- gradients of the fields ---- */

/* sum g_i (moved_i - q_i) over n weights. */
static float change_along(const float *g, const float *moved, const float *q, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)g[i] * (double)(moved[i] - q[i]);
    return (float)sum;
}

/* Every group's integer field up by one, or down where it is at the top. */
static int move_all(int16_t *field, size_t n, int most)
{
    for (size_t g = 0; g < n; g++)
        if (field[g] >= most) {
            for (size_t k = 0; k < n; k++) field[k]--;
            return -1;
        }
    for (size_t g = 0; g < n; g++) field[g]++;
    return 1;
}

static void block_gradients(bb_latent *l, size_t b)
{
    const bb_format *f = l->format;
    const size_t     m = f->group, n = f->block;
    const float     *g = l->g_w + b * n, *q = l->q + b * n;
    float            moved[BB_MAX_BLOCK];
    bb_code          c = { 0 }, other;
    const float      d = field_d(l, l->fields)[b];
    if (l->has_d && !l->has_dmin && d != 0) { /* all of a block goes with it */
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += (double)g[i] * (double)q[i];
        field_d(l, l->g_fields)[b] = (float)sum / d;
    }
    if (l->scaled) return;
    f->unpack(l->packed + b * f->block_bytes, &c);
    if (l->has_d && l->has_dmin && d != 0) {
        other = c;
        other.d *= 2;
        expand(f, &other, moved);
        field_d(l, l->g_fields)[b] = change_along(g, moved, q, n) / d;
    }
    if (l->has_dmin && field_dmin(l, l->fields)[b] != 0) {
        other = c;
        other.dmin *= 2;
        expand(f, &other, moved);
        field_dmin(l, l->g_fields)[b] = change_along(g, moved, q, n) / field_dmin(l, l->fields)[b];
    }
    for (int is_min = 0; is_min < 2; is_min++) {
        const int most = is_min ? l->mn_most : l->sc_most;
        float    *out = (is_min ? field_mn(l, l->g_fields) : field_sc(l, l->g_fields)) + b * l->n_groups;
        if (most == (is_min ? l->mn_least : l->sc_least)) continue;
        other = c;
        const int step = move_all(is_min ? other.mn : other.sc, l->n_groups, most);
        expand(f, &other, moved);
        for (size_t k = 0; k < l->n_groups; k++) out[k] = (float)step * change_along(g + k * m, moved + k * m, q + k * m, m);
    }
}

/* Slope of the smooth rounding of LC-QAT at x, in levels: |2r - 1|^(1/5 - 1) / 5 between two, no more than 3; past the ends as at a level. */
static float slope_at(const bb_format *f, float x)
{
    const float    power = 5, most = 3;
    const float   *levels = f->levels;
    const uint32_t last = f->n_levels - 1u;
    if (!(x > levels[0] && x < levels[last])) return 1 / power;
    uint32_t i = nearest_level(f, x);
    if (levels[i] > x) i--;
    const float m = fabsf(2 * (x - levels[i]) / (levels[i + 1] - levels[i]) - 1);
    return m > 0x1p-20f ? fminf(most, powf(m, 1 / power - 1) / power) : most;
}

static void smooth_gradients(bb_latent *l, size_t b)
{
    const bb_format *f = l->format;
    float            scale[BB_MAX_GROUPS], shift[BB_MAX_GROUPS], *g = l->g_w + b * f->block;
    const float     *w = l->w + b * f->block;
    bb_code          c = { 0 };
    f->unpack(l->packed + b * f->block_bytes, &c);
    f->scales(&c, scale, shift);
    for (unsigned i = 0; i < f->block; i++) {
        const unsigned k = i / f->group;
        if (fabsf(scale[k]) > 0x1p-100f) g[i] *= slope_at(f, (w[i] - shift[k]) / scale[k]);
    }
}

void bb_latent_gradients(bb_latent *l, bool differentiable)
{
    if (l->lattice) {
        bb_lattice_latent_gradients(l, differentiable);
        return;
    }
    const ptrdiff_t n = l->n_groups ? (ptrdiff_t)l->n_blocks : 0;
    const bool      smooth = differentiable && l->format->vec == 1;
#pragma omp parallel for schedule(static)
    for (ptrdiff_t b = 0; b < n; b++) {
        block_gradients(l, (size_t)b);
        if (smooth) smooth_gradients(l, (size_t)b);
    }
}
