/* SPDX-License-Identifier: GPL-3.0-or-later
 * feedback.c: error feedback inside a format's grid: GPTQ/LDLQ [1,2] with the fields of each block chosen on the compensated
 * weights, then rounds of exact block coordinate descent on the same objective, e H e' a row.
 *
 * Pass 1, columns from first to last in blocks of the format: the target of a column is its weight plus what the errors
 * before it ask of it (factor.h); the block's fields are fitted to the targets, its columns quantized one after the other
 * (codebooks: vec columns at once, under the vec x vec piece of the block LDL), and the fit repeated on the targets that
 * the columns really had (two-level scales: for the codes as they are, which is better there and takes less time); per row
 * the better trial stays.
 * Pass 2 ("sweeps"): each group of columns is solved again with all other columns fixed: its unconstrained optimum is
 * t = v + (H_gg)^-1 (eH)_g, and error feedback inside the group with the factors of H_gg quantizes it, for several
 * neighbouring scale fields; what lowers the objective stays. Before that, d and dmin of each block are re-fitted in closed
 * form for the fields and codes as they are; after it, scalar grids descend column by column.
 *
 * Layout: 32 rows side by side, arrays [column][row in tile], so that every inner loop runs over rows. A few tiles make a band, whose
 * errors meet H in one product for every 256 columns.
 * Determinism: a band's arithmetic depends on nothing outside it.
 * [1] Frantar et al. GPTQ. ICLR 2023.  [2] Chee et al. QuIP. NeurIPS 2023 (LDLQ).
 */
#include "model/compress/feedback.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"

enum { R = BB_FORMAT_ROWS, MACRO = 256, CHUNK = 32, MAX_VEC = 8 };

typedef struct bb_tile {
    float    *w, *v, *e; /* [cols][R] weights, their quantized values, w - v */
    uint32_t *q;         /* [cols/vec][R] codes */
    float    *a, *b;     /* [cols/group][R] of scalar grids */
    bb_code  *code;      /* [cols/block][R] fields of every block; codebooks: also codes */
    float    *base;      /* [MACRO][R] targets of the macro block before feedback inside it */
    float    *gradient;  /* [MACRO][R] (e H) of the macro block's columns */
    float    *work;      /* [MACRO][R] */
    /* a trial solution of a range of columns */
    float    *tv, *te, *tt; /* [MACRO][R] values, errors, targets at the moment of rounding */
    uint32_t *tq;           /* [MACRO][R] */
    float    *ta, *tb;      /* [BB_MAX_GROUPS][R] */
    bb_code  *tcode;        /* [R] */
    float     cost[R], best[R];
} bb_tile;

/* ---- what depends on the format only ---- */

/* Does block field sc[0] (or mn[0]) keep this value through the bytes, and leave the others alone? */
static bool field_survives(const bb_format *f, bool is_min, int value)
{
    unsigned char bytes[1024] = { 0 };
    bb_code       c, back;
    BB_ASSERT(f->block_bytes <= sizeof bytes);
    memset(&c, 0, sizeof c);
    memset(&back, 0, sizeof back);
    f->unpack(bytes, &c);
    if (is_min) c.mn[0] = (int16_t)value;
    else c.sc[0] = (int16_t)value;
    f->pack(&c, bytes);
    f->unpack(bytes, &back);
    return memcmp(back.sc, c.sc, sizeof c.sc) == 0 && memcmp(back.mn, c.mn, sizeof c.mn) == 0;
}

static void field_range(const bb_format *f, bool is_min, int *least, int *most)
{
    *least = *most = 0;
    while (*least > -256 && field_survives(f, is_min, *least - 1)) (*least)--;
    while (*most < 255 && field_survives(f, is_min, *most + 1)) (*most)++;
}

bb_status bb_feedback_init(bb_feedback *p, const bb_format *format, const bb_factor *factor, const float *importance, unsigned sweeps, bb_err *err)
{
    *p = (bb_feedback) { .format = format,
                         .factor = factor,
                         .importance = importance,
                         .n_fits = 2,
                         .sweeps = sweeps,
                         .kernels = bb_kernels_get(),
                         .refits = format->vec == 1 && format->group < format->block };
    BB_ASSERT(format->block <= MACRO && MACRO % format->block == 0 && format->n_levels <= BB_MAX_LEVELS && format->vec <= MAX_VEC);
    p->levels = (bb_levels) { .least = format->n_levels ? format->levels[0] : 0, .n = format->n_levels, .uniform = true, .mid = p->mid, .step = p->step };
    for (int i = 0; i + 1 < format->n_levels; i++) {
        p->step[i] = format->levels[i + 1] - format->levels[i];
        p->mid[i] = 0.5f * (format->levels[i + 1] + format->levels[i]);
        p->levels.uniform &= p->step[i] == 1.0f;
    }
    field_range(format, false, &p->sc_min, &p->sc_max);
    field_range(format, true, &p->mn_min, &p->mn_max);
    return bb_local_make(factor, format->group, &p->local, err);
}

void bb_feedback_done(bb_feedback *p) { bb_local_done(&p->local); }

static void tile_destroy(bb_tile *t)
{
    if (!t) return;
    bb_free(t->w);
    bb_free(t->v);
    bb_free(t->e);
    bb_free(t->q);
    bb_free(t->a);
    bb_free(t->b);
    bb_free(t->code);
    bb_free(t->base);
    bb_free(t->gradient);
    bb_free(t->work);
    bb_free(t->tv);
    bb_free(t->te);
    bb_free(t->tt);
    bb_free(t->tq);
    bb_free(t->ta);
    bb_free(t->tb);
    bb_free(t->tcode);
    bb_free(t);
}

static bb_tile *tile_create(const bb_feedback *p)
{
    const bb_format *f = p->format;
    size_t           n = p->factor->n;
    bb_tile         *t = BB_NEW0(1, bb_tile, NULL);
    if (!t) return NULL;
    t->w = BB_NEW0(n * R, float, NULL);
    t->v = BB_NEW0(n * R, float, NULL);
    t->e = BB_NEW0(n * R, float, NULL);
    t->q = BB_NEW(n / f->vec * R, uint32_t, NULL);
    t->a = BB_NEW(n / f->group * R, float, NULL);
    t->b = BB_NEW(n / f->group * R, float, NULL);
    t->code = BB_NEW(n / f->block * R, bb_code, NULL);
    t->base = BB_NEW0((size_t)MACRO * R, float, NULL);
    t->gradient = BB_NEW0((size_t)MACRO * R, float, NULL);
    t->work = BB_NEW0((size_t)MACRO * R, float, NULL);
    t->tv = BB_NEW0((size_t)MACRO * R, float, NULL);
    t->te = BB_NEW0((size_t)MACRO * R, float, NULL);
    t->tt = BB_NEW0((size_t)MACRO * R, float, NULL);
    t->tq = BB_NEW((size_t)MACRO * R, uint32_t, NULL);
    t->ta = BB_NEW((size_t)BB_MAX_GROUPS * R, float, NULL);
    t->tb = BB_NEW((size_t)BB_MAX_GROUPS * R, float, NULL);
    t->tcode = BB_NEW(R, bb_code, NULL);
    if (!t->w || !t->v || !t->e || !t->q || !t->a || !t->b || !t->code || !t->base || !t->gradient || !t->work || !t->tv || !t->te || !t->tt || !t->tq ||
        !t->ta || !t->tb || !t->tcode) {
        tile_destroy(t);
        return NULL;
    }
    return t;
}

/* ---- solving a range of columns for given fields ---- */

/* n columns that are quantized one after the other. On entry tt holds the targets without feedback from inside the range;
 * the error of column i, ref_i - v_i, moves the target of every later column j by u_ij times that. */
typedef struct range {
    const float *u, *d; /* factor at the range's first column; u has row stride ldu */
    size_t       ldu;
    const float *ref; /* [n][R] */
    uint32_t     n;
} range;

/* One column on a scalar grid: nearest level to the target, its value, the error; cost += d * (target - value)^2. */
static void round_column(const bb_feedback *p, bb_tile *t, const range *g, uint32_t j, const float *a, const float *b)
{
    const size_t at = (size_t)j * R;
    p->kernels->round_column(&p->levels, g->d[j], a, b, t->tt + at, g->ref + at, t->tv + at, t->te + at, t->tq + at, t->cost);
}

/* target of columns j0 .. j1-1 += sum over k in 0 .. n_errors-1 of u[k][j] e[k]. */
static void feed_back(const bb_feedback *p, const range *g, const float *e, uint32_t k0, uint32_t k1, uint32_t j0, uint32_t j1, float *target)
{
    if (k1 - k0 > CHUNK) {
        bb_sgemm_tn(j1 - j0, R, k1 - k0, 1, g->u + k0 * g->ldu + j0, g->ldu, e + (size_t)k0 * R, R, 1, target + (size_t)j0 * R, R);
        return;
    }
    for (uint32_t k = k0; k < k1 && j1 > j0; k++) p->kernels->spread_error(g->u + k * g->ldu + j0, j1 - j0, e + (size_t)k * R, target + (size_t)j0 * R);
}

/* a, b: [n/group][R] of the range's groups. */
static void solve_scalar(const bb_feedback *p, bb_tile *t, const range *g, const float *a, const float *b)
{
    const uint32_t group = p->format->group;
    memset(t->cost, 0, sizeof t->cost);
    for (uint32_t c0 = 0; c0 < g->n; c0 += CHUNK) {
        uint32_t c1 = g->n - c0 < CHUNK ? g->n : c0 + CHUNK;
        feed_back(p, g, t->te, 0, c0, c0, c1, t->tt);
        for (uint32_t j = c0; j < c1; j++) {
            round_column(p, t, g, j, a + (size_t)(j / group) * R, b + (size_t)(j / group) * R);
            feed_back(p, g, t->te, j, j + 1, j + 1, c1, t->tt);
        }
    }
}

/* The metric of vec columns at j: their piece of the block LDL. */
static void vector_metric(const range *g, uint32_t j, unsigned vec, float *metric)
{
    const float *u = g->u + (size_t)j * g->ldu + j;
    for (unsigned x = 0; x < vec; x++)
        for (unsigned y = 0; y < vec; y++) {
            float sum = 0;
            for (unsigned k = x > y ? x : y; k < vec; k++) sum += (k == x ? 1 : u[x * g->ldu + k]) * g->d[j + k] * (k == y ? 1 : u[y * g->ldu + k]);
            metric[x * vec + y] = sum;
        }
}

/* One vector of all rows. The scalar factor gave s = sum of u_ij e_i; the block LDL wants s U_vv^-1. */
static void round_vectors(const bb_feedback *p, bb_tile *t, const range *g, uint32_t j, unsigned index, const float *metric)
{
    const unsigned vec = p->format->vec;
    const float   *u = g->u + (size_t)j * g->ldu + j, *ref = g->ref + (size_t)j * R;
    float         *target = t->tt + (size_t)j * R, *value = t->tv + (size_t)j * R, *e = t->te + (size_t)j * R, s[MAX_VEC * R];
    for (unsigned i = 0; i < vec; i++) {
        for (int r = 0; r < R; r++) s[i * R + (unsigned)r] = target[i * R + (unsigned)r] - ref[i * R + (unsigned)r];
        for (unsigned k = 0; k < i; k++)
            for (unsigned r = 0; r < R; r++) s[i * R + r] -= s[k * R + r] * u[k * g->ldu + i];
        for (unsigned r = 0; r < R; r++) target[i * R + r] = ref[i * R + r] + s[i * R + r];
    }
    p->format->nearest_rows(t->tcode, index, target, metric, t->tq + (size_t)(j / vec) * R, value);
    for (unsigned i = 0; i < vec * R; i++) e[i] = ref[i] - value[i];
    p->kernels->vector_cost(vec, metric, target, value, t->cost);
}

/* first: index of the range's first vector in its block. Fields come from tcode. */
static void solve_vectors(const bb_feedback *p, bb_tile *t, const range *g, unsigned first)
{
    const unsigned vec = p->format->vec;
    memset(t->cost, 0, sizeof t->cost);
    for (uint32_t c0 = 0; c0 < g->n; c0 += CHUNK) {
        uint32_t c1 = g->n - c0 < CHUNK ? g->n : c0 + CHUNK;
        feed_back(p, g, t->te, 0, c0, c0, c1, t->tt);
        for (uint32_t j = c0; j < c1; j += vec) {
            float metric[MAX_VEC * MAX_VEC];
            vector_metric(g, j, vec, metric);
            round_vectors(p, t, g, j, first + j / vec, metric);
            feed_back(p, g, t->te, j, j + vec, j + vec, c1, t->tt);
        }
    }
}

/* ---- pass 1 ---- */

static size_t n_blocks(const bb_feedback *p) { return p->factor->n / p->format->block; }

/* Effective scales of row r's code, for the block's groups, into [n_groups][R] arrays. */
static void store_scales(const bb_format *f, const bb_code *c, int r, float *a, float *b)
{
    float sa[BB_MAX_GROUPS], sb[BB_MAX_GROUPS];
    f->scales(c, sa, sb);
    for (unsigned g = 0; g < f->block / f->group; g++) {
        a[g * R + (unsigned)r] = sa[g];
        b[g * R + (unsigned)r] = sb[g];
    }
}

static void copy_fields(bb_code *to, const bb_code *from)
{
    to->d = from->d;
    to->dmin = from->dmin;
    memcpy(to->sc, from->sc, sizeof to->sc);
    memcpy(to->mn, from->mn, sizeof to->mn);
}

/* Trial fields for all rows: each fitted to the row's targets [block][R]. */
static void fit_rows(const bb_feedback *p, bb_tile *t, uint32_t b0, const float *target, int n_rows)
{
    const bb_format *f = p->format;
    float            row[BB_MAX_BLOCK];
    if (f->fit_rows) {
        f->fit_rows(target, p->importance + b0, t->tcode);
        for (int r = 0; r < R && f->vec == 1; r++) store_scales(f, &t->tcode[r], r, t->ta, t->tb);
        return;
    }
    for (int r = 0; r < R; r++) {
        if (r >= n_rows) {
            t->tcode[r] = t->tcode[0];
        } else {
            for (uint32_t j = 0; j < f->block; j++) row[j] = target[j * R + (uint32_t)r];
            f->fit(row, p->importance + b0, &t->tcode[r]);
        }
        store_scales(f, &t->tcode[r], r, t->ta, t->tb);
    }
}

/* Trial fields for all rows: fitted again to the targets that the columns of the last trial really had, for its codes. */
static void refit_rows(const bb_feedback *p, bb_tile *t, uint32_t b0, const float *target)
{
    const bb_format *f = p->format;
    float            row[BB_MAX_BLOCK];
    for (unsigned r = 0; r < R; r++) {
        bb_code *c = &t->tcode[r];
        for (uint32_t j = 0; j < f->block; j++) {
            row[j] = target[j * R + r];
            c->q[j] = t->tq[j * R + r];
        }
        f->refit(row, p->importance + b0, c);
        store_scales(f, c, (int)r, t->ta, t->tb);
    }
}

/* The trial of row r becomes its state for the n columns from j0, which begin at column `inside` of their block. */
static void accept(const bb_feedback *p, bb_tile *t, uint32_t j0, uint32_t n, int r)
{
    const bb_format *f = p->format;
    const uint32_t   inside = j0 % f->block;
    bb_code         *code = t->code + (size_t)(j0 / f->block) * R + r;
    for (uint32_t j = 0; j < n; j++) t->v[(size_t)(j0 + j) * R + (uint32_t)r] = t->tv[j * R + (uint32_t)r];
    for (uint32_t k = 0; k < n / f->vec; k++) {
        t->q[(size_t)(j0 / f->vec + k) * R + (uint32_t)r] = t->tq[k * R + (uint32_t)r];
        if (f->vec > 1) code->q[inside / f->vec + k] = t->tq[k * R + (uint32_t)r];
    }
    copy_fields(code, &t->tcode[r]);
    if (f->vec == 1) store_scales(f, code, r, t->a + (size_t)(j0 - inside) / f->group * R, t->b + (size_t)(j0 - inside) / f->group * R);
}

/* Trial fields in tcode (ta, tb) -> trial solution and costs of the n columns from j0; base: targets, ref as in range. */
static void solve(const bb_feedback *p, bb_tile *t, const range *g, const float *base, unsigned first_group)
{
    memcpy(t->tt, base, (size_t)g->n * R * sizeof *base);
    if (p->format->vec == 1) solve_scalar(p, t, g, t->ta + first_group * R, t->tb + first_group * R);
    else solve_vectors(p, t, g, first_group * p->format->group / p->format->vec);
}

static void quantize_block(const bb_feedback *p, bb_tile *t, uint32_t b0, const float *base, int n_rows)
{
    const bb_factor *h = p->factor;
    const range      g = { h->u + (size_t)b0 * h->n + b0, h->d + b0, h->n, t->w + (size_t)b0 * R, p->format->block };
    for (int r = 0; r < R; r++) t->best[r] = INFINITY;
    for (unsigned fit = 0; fit < p->n_fits; fit++) {
        memcpy(t->work, fit == 0 ? base : t->tt, (size_t)g.n * R * sizeof *base);
        if (fit > 0 && p->refits) refit_rows(p, t, b0, t->work);
        else fit_rows(p, t, b0, t->work, n_rows);
        solve(p, t, &g, base, 0);
        for (int r = 0; r < n_rows; r++) {
            if (!(t->cost[r] < t->best[r]) && fit > 0) continue;
            t->best[r] = t->cost[r];
            accept(p, t, b0, g.n, r);
        }
    }
    for (size_t i = (size_t)b0 * R; i < (size_t)(b0 + g.n) * R; i++) t->e[i] = t->w[i] - t->v[i];
}

/* The columns of a macro block, base holding what the errors before it ask of them. */
static void feedback_macro(const bb_feedback *p, bb_tile *t, uint32_t m0, uint32_t m, int n_rows)
{
    const bb_factor *h = p->factor;
    for (uint32_t b = 0; b < m; b += p->format->block) {
        if (b) bb_sgemm_tn(p->format->block, R, b, 1, h->u + (size_t)m0 * h->n + m0 + b, h->n, t->e + (size_t)m0 * R, R, 1, t->base + (size_t)b * R, R);
        quantize_block(p, t, m0 + b, t->base + (size_t)b * R, n_rows);
    }
}

/* ---- pass 2 ---- */

/* A trial of the fields of one group. TOWARDS: one step up or down, each row the way in which the error falls for its codes as they are; a
 * codebook's search is dear, and the other way hardly ever better. */
typedef struct trial {
    int   sc, mn;
    float d;
} trial;
enum { OTHER = 1000, TOWARDS };

static const trial trials_sc[] = { { 0, 0, 1 }, { 1, 0, 1 }, { -1, 0, 1 } };
static const trial trials_sc_mn[] = { { 0, 0, 1 }, { 1, 0, 1 }, { -1, 0, 1 }, { 0, 1, 1 }, { 0, -1, 1 }, { 1, 1, 1 }, { -1, -1, 1 } };
static const trial trials_book[] = { { 0, 0, 1 }, { TOWARDS, 0, 1 } };
static const trial trials_shift[] = { { 0, 0, 1 }, { TOWARDS, 0, 1 }, { 0, OTHER, 1 } }; /* a field of one bit, which only a codebook has */
static const trial trials_d[] = { { 0, 0, 1 }, { 0, 0, 1.03f }, { 0, 0, 0.97f } };

static int clamp_int(int x, int least, int most) { return x < least ? least : x > most ? most : x; }

/* d and dmin become what the format stores of them. */
static void store_super_scales(const bb_format *f, bb_code *c)
{
    unsigned char bytes[1024];
    bb_code       back;
    memset(&back, 0, sizeof back);
    f->pack(c, bytes);
    f->unpack(bytes, &back);
    c->d = back.d;
    c->dmin = back.dmin;
}

/* pull [R]: what a larger scale of the group would gain. */
static void try_fields(const bb_feedback *p, bb_tile *t, uint32_t j0, const trial *k, const float *pull, int n_rows)
{
    const bb_format *f = p->format;
    const unsigned   group = j0 % f->block / f->group;
    for (int r = 0; r < R; r++) {
        bb_code *c = &t->tcode[r];
        copy_fields(c, t->code + (size_t)(j0 / f->block) * R + (r < n_rows ? r : 0));
        const int sc = k->sc != TOWARDS ? k->sc : pull[r] < 0 ? -1 : 1;
        c->sc[group] = (int16_t)clamp_int(c->sc[group] + sc, p->sc_min, p->sc_max);
        c->mn[group] = k->mn == OTHER ? (int16_t)(p->mn_max - c->mn[group]) : (int16_t)clamp_int(c->mn[group] + k->mn, p->mn_min, p->mn_max);
        if (k->d != 1.0f) {
            memset(c->q, 0, sizeof c->q);
            c->d *= k->d;
            store_super_scales(f, c);
        }
        if (f->vec == 1) store_scales(f, c, r, t->ta, t->tb);
    }
}

/* v, e and the gradient of the macro block follow the accepted trials of the group at j0. */
static void apply_group(const bb_feedback *p, bb_tile *t, uint32_t m0, uint32_t m, uint32_t j0, uint32_t n)
{
    const bb_factor *h = p->factor;
    for (uint32_t j = 0; j < n; j++) {
        const size_t at = (size_t)(j0 + j) * R;
        const float *w = t->w + at, *v = t->v + at, damp = h->damp[j0 + j];
        float       *e = t->e + at, *moved = t->tv + (size_t)j * R, *gradient = t->gradient + (size_t)(j0 - m0 + j) * R, change[R];
        for (size_t r = 0; r < R; r++) {
            const float now = w[r] - v[r];
            change[r] = e[r] - now;
            e[r] = now;
        }
        for (size_t r = 0; r < R; r++) gradient[r] -= damp * change[r];
        memcpy(moved, change, sizeof change);
    }
    bb_sgemm_tn(m, R, n, -1, h->h + (size_t)j0 * h->n + m0, h->n, t->tv, R, 1, t->gradient, R);
}

static const trial *trials_of(const bb_feedback *p, size_t *n)
{
#define TRIALS(list) (*n = sizeof(list) / sizeof *(list), (list))
    if (p->sc_max == p->sc_min) return TRIALS(trials_d);
    if (p->mn_max == p->mn_min) return p->format->vec > 1 ? TRIALS(trials_book) : TRIALS(trials_sc);
    return p->mn_max == 1 ? TRIALS(trials_shift) : TRIALS(trials_sc_mn);
#undef TRIALS
}

/* Solves the group at j0 again with everything else fixed. */
static void sweep_group(const bb_feedback *p, bb_tile *t, uint32_t m0, uint32_t m, uint32_t j0, int n_rows)
{
    const bb_local *l = &p->local;
    const uint32_t  n = l->n;
    const size_t    at = (size_t)(j0 / n) * n * n;
    const float    *gradient = t->gradient + (size_t)(j0 - m0) * R, *v = t->v + (size_t)j0 * R;
    const range     g = { l->u + at, l->d + j0, n, t->base, n };
    size_t          n_trials;
    const trial    *trials = trials_of(p, &n_trials);
    float           pull[R] = { 0 }, gain[R] = { 0 };
    bool            changed = false;
    memcpy(t->base, v, (size_t)n * R * sizeof *v);
    bb_sgemm_nn(n, R, n, 1, l->inverse + at, n, gradient, R, 1, t->base, R);
    for (size_t j = 0; j < n; j++) {
        const float *base_j = t->base + j * R, *v_j = v + j * R, *gradient_j = gradient + j * R;
        for (size_t r = 0; r < R; r++) {
            gain[r] += (base_j[r] - v_j[r]) * gradient_j[r];
            pull[r] += v_j[r] * gradient_j[r];
        }
    }
    memcpy(t->best, gain, sizeof gain);
    for (size_t k = 0; k < n_trials; k++) {
        try_fields(p, t, j0, &trials[k], pull, n_rows);
        solve(p, t, &g, t->base, j0 % p->format->block / n);
        for (int r = 0; r < n_rows; r++) {
            if (!(t->cost[r] < t->best[r] * (1 - 1e-5f))) continue;
            t->best[r] = t->cost[r];
            accept(p, t, j0, n, r);
            changed = true;
        }
    }
    if (changed) apply_group(p, t, m0, m, j0, n);
}

/* Column by column with everything else fixed, fields included: no single code change is left that would help. */
static void descend_column(const bb_feedback *p, bb_tile *t, uint32_t m0, uint32_t m, uint32_t j)
{
    const bb_factor *h = p->factor;
    const float      d = h->h[(size_t)j * h->n + j] + h->damp[j], *row = h->h + (size_t)j * h->n + m0;
    const uint32_t   group = j / p->format->group;
    float           *gradient = t->gradient + (size_t)(j - m0) * R, *v = t->v + (size_t)j * R, *e = t->e + (size_t)j * R;
    const range      g = { NULL, &d, 0, t->w + (size_t)j * R, 1 };
    float            change[R];
    bool             changed = false;
    for (int r = 0; r < R; r++) t->tt[r] = v[r] + gradient[r] / d;
    round_column(p, t, &g, 0, t->a + (size_t)group * R, t->b + (size_t)group * R);
    for (int r = 0; r < R; r++) {
        change[r] = t->tv[r] - v[r];
        changed |= change[r] != 0;
    }
    if (!changed) return;
    memcpy(v, t->tv, R * sizeof *v);
    memcpy(e, t->te, R * sizeof *e);
    memcpy(t->q + (size_t)j * R, t->tq, R * sizeof *t->q);
    for (int r = 0; r < R; r++) gradient[r] -= h->damp[j] * change[r];
    for (int r = 0; r < R; r++) change[r] = -change[r];
    p->kernels->spread_error(row, m, change, t->gradient);
}

/* The block at b0 of row r with other super scales: trial values in tv; its scales. */
static void scale_values(const bb_feedback *p, bb_tile *t, uint32_t b0, const bb_code *c, uint32_t r)
{
    const bb_format *f = p->format;
    const bool       scalar = f->vec == 1;
    const uint32_t  *q = t->q + (size_t)b0 / f->vec * R;
    float            a[BB_MAX_GROUPS], b[BB_MAX_GROUPS], value[MAX_VEC];
    if (scalar) f->scales(c, a, b);
    for (uint32_t j = 0; j < f->block; j += f->vec) {
        if (scalar) value[0] = a[j / f->group] * f->levels[q[j * R + r]] + b[j / f->group];
        else f->value(c, j / f->vec, value);
        for (uint32_t k = 0; k < f->vec; k++) t->tv[(j + k) * R + r] = value[k];
    }
}

/* What the super scales of a block would gain: along x (d) and y (dmin), whose weights they multiply. */
typedef struct pull {
    float x, y, xx, xy, yy;
} pull;

/* Of all rows, side by side. */
typedef struct pulls {
    float x[R], y[R], xx[R], xy[R], yy[R];
} pulls;

/* One column's weights a unit of d and of dmin, out of its values v and the parts b of them that dmin makes: 0 where a scale is. */
static void unit_weights(const float *v, const float *b, const float *d, const float *dmin, float *x, float *y)
{
    for (size_t r = 0; r < R; r++) {
        const float by = d[r] != 0 ? d[r] : 1, part = (v[r] - b[r]) / by;
        x[r] = d[r] != 0 ? part : 0;
    }
    for (size_t r = 0; r < R; r++) {
        const float by = dmin[r] != 0 ? dmin[r] : 1, part = b[r] / by;
        y[r] = dmin[r] != 0 ? part : 0;
    }
}

/* One column's share. hx, hy: H times x and y; mins: y is not 0 everywhere. */
static void add_pulls(pulls *s, bool mins, float damp, const float *gradient, const float *x, const float *hx, const float *y, const float *hy)
{
    for (size_t r = 0; r < R; r++) {
        s->x[r] += x[r] * gradient[r];
        s->xx[r] += x[r] * (hx[r] + x[r] * damp);
    }
    if (!mins) return;
    for (size_t r = 0; r < R; r++) {
        s->y[r] += y[r] * gradient[r];
        s->xy[r] += y[r] * (hx[r] + x[r] * damp);
        s->yy[r] += y[r] * (hy[r] + y[r] * damp);
    }
}

/* d and dmin of least error for the codes and fields as they are; false when that changes nothing that is stored. */
static bool better_super_scales(const bb_format *f, const pull *s, bb_code *c)
{
    const double det = (double)s->xx * (double)s->yy - (double)s->xy * (double)s->xy;
    const float  d = c->d, dmin = c->dmin;
    if (!(s->xx > 0)) return false;
    if (s->yy > 0 && det > 1e-6 * (double)s->xx * (double)s->yy) {
        c->d += (float)(((double)s->x * (double)s->yy - (double)s->y * (double)s->xy) / det);
        c->dmin += (float)(((double)s->y * (double)s->xx - (double)s->x * (double)s->xy) / det);
    } else {
        c->d += s->x / s->xx;
    }
    store_super_scales(f, c);
    const float dx = c->d - d, dy = c->dmin - dmin;
    const float change = dx * (dx * s->xx - 2 * s->x) + dy * (dy * s->yy - 2 * s->y) + 2 * dx * dy * s->xy;
    return change < 0; /* also false where it is not a number */
}

/* The super scales of the block at b0 once more, in closed form under H, with everything else fixed. */
static void refit_super_scales(const bb_feedback *p, bb_tile *t, uint32_t m0, uint32_t m, uint32_t b0, int n_rows)
{
    const bb_factor *h = p->factor;
    const bb_format *f = p->format;
    const uint32_t   n = f->block;
    const float     *gradient = t->gradient + (size_t)(b0 - m0) * R, *v = t->v + (size_t)b0 * R;
    float           *x = t->tt, *y = t->base, *hx = t->te, *hy = t->work;
    bb_code         *code = t->code + (size_t)(b0 / n) * R;
    bool             mins = false, changed = false;
    float            d[R] = { 0 }, dmin[R] = { 0 }, b[R] = { 0 };
    pulls            all = { 0 };
    for (uint32_t r = 0; r < (uint32_t)n_rows; r++) {
        d[r] = code[r].d;
        dmin[r] = code[r].dmin;
        mins |= dmin[r] != 0;
    }
    for (uint32_t j = 0; j < n; j++) {
        const size_t at = (size_t)j * R;
        if (f->vec == 1) memcpy(b, t->b + (size_t)((b0 + j) / f->group) * R, (size_t)n_rows * sizeof *b);
        unit_weights(v + at, b, d, dmin, x + at, y + at);
    }
    bb_sgemm_nn(n, R, n, 1, h->h + (size_t)b0 * h->n + b0, h->n, x, R, 0, hx, R);
    if (mins) bb_sgemm_nn(n, R, n, 1, h->h + (size_t)b0 * h->n + b0, h->n, y, R, 0, hy, R);
    memcpy(t->tv, v, (size_t)n * R * sizeof *v);
    for (uint32_t j = 0; j < n; j++) {
        const size_t at = (size_t)j * R;
        add_pulls(&all, mins, h->damp[b0 + j], gradient + at, x + at, hx + at, y + at, hy + at);
    }
    for (uint32_t r = 0; r < (uint32_t)n_rows; r++) {
        bb_code   *c = &t->tcode[r];
        const pull s = { all.x[r], all.y[r], all.xx[r], all.xy[r], all.yy[r] };
        copy_fields(c, &code[r]);
        if (f->vec > 1) memcpy(c->q, code[r].q, n / f->vec * sizeof *c->q);
        else memset(c->q, 0, n * sizeof *c->q);
        if (!better_super_scales(f, &s, c)) continue;
        copy_fields(&code[r], c);
        scale_values(p, t, b0, c, r);
        if (f->vec == 1) store_scales(f, c, (int)r, t->a + (size_t)b0 / f->group * R, t->b + (size_t)b0 / f->group * R);
        changed = true;
    }
    if (!changed) return;
    memcpy(t->v + (size_t)b0 * R, t->tv, (size_t)n * R * sizeof *v);
    apply_group(p, t, m0, m, b0, n);
}

/* One sweep over the columns of a macro block, gradient holding e H of them. */
static void sweep_macro(const bb_feedback *p, bb_tile *t, uint32_t m0, uint32_t m, int n_rows)
{
    const bb_factor *h = p->factor;
    for (uint32_t j = 0; j < m; j++)
        for (int r = 0; r < R; r++) t->gradient[(size_t)j * R + (uint32_t)r] += h->damp[m0 + j] * t->e[(size_t)(m0 + j) * R + (uint32_t)r];
    for (uint32_t j = 0; j < m; j += p->format->block) refit_super_scales(p, t, m0, m, m0 + j, n_rows);
    for (uint32_t j = 0; j < m; j += p->local.n) sweep_group(p, t, m0, m, m0 + j, n_rows);
    if (p->format->vec == 1)
        for (uint32_t j = 0; j < m; j++) descend_column(p, t, m0, m, m0 + j);
}

/* ---- a tile of rows ---- */

static void load_rows(const bb_feedback *p, bb_tile *t, const float *w, uint32_t n_rows)
{
    const bb_factor *h = p->factor;
    for (uint32_t j = 0; j < h->n; j++)
        for (uint32_t r = 0; r < R; r++) {
            float x = r < n_rows ? w[(size_t)r * h->n + j] : 0;
            t->w[(size_t)j * R + r] = isfinite(x) && !h->dead[j] ? x : 0;
        }
    memset(t->v, 0, (size_t)h->n * R * sizeof *t->v);
    memset(t->e, 0, (size_t)h->n * R * sizeof *t->e);
}

static void pack_rows(const bb_feedback *p, bb_tile *t, uint32_t n_rows, unsigned char *packed)
{
    const bb_format *f = p->format;
    const unsigned   n_codes = f->block / f->vec;
    for (uint32_t r = 0; r < n_rows; r++)
        for (size_t b = 0; b < n_blocks(p); b++, packed += f->block_bytes) {
            bb_code *c = t->code + b * R + r;
            for (unsigned k = 0; k < n_codes; k++) c->q[k] = t->q[(b * n_codes + k) * R + r];
            f->pack(c, packed);
        }
}

/* ---- a band of tiles ---- */

struct bb_band {
    bb_tile *tile[BB_BAND / R];
    unsigned n_tiles;
    float   *e;      /* [cols][n_tiles * R] the tiles' errors side by side: long enough rows for a product at full speed */
    float   *across; /* [MACRO][n_tiles * R] what they ask of a macro block */
};

bb_band *bb_band_create(const bb_feedback *p, uint32_t n_rows)
{
    bb_band *b = BB_NEW0(1, bb_band, NULL);
    if (!b) return NULL;
    BB_ASSERT(n_rows <= BB_BAND);
    b->n_tiles = (n_rows + R - 1) / R;
    b->e = BB_NEW0((size_t)p->factor->n * b->n_tiles * R, float, NULL);
    b->across = BB_NEW((size_t)MACRO * b->n_tiles * R, float, NULL);
    bool complete = b->e && b->across;
    for (unsigned i = 0; i < b->n_tiles && complete; i++) complete = (b->tile[i] = tile_create(p)) != NULL;
    if (complete) return b;
    bb_band_destroy(b);
    return NULL;
}

void bb_band_destroy(bb_band *b)
{
    if (!b) return;
    for (unsigned i = 0; i < b->n_tiles; i++) tile_destroy(b->tile[i]);
    bb_free(b->e);
    bb_free(b->across);
    bb_free(b);
}

/* Tile i's n columns from j0 on, between its own array and the band's of `width` rows. */
static void narrow(const float *wide, unsigned width, unsigned i, uint32_t n, float *own)
{
    for (uint32_t j = 0; j < n; j++) memcpy(own + (size_t)j * R, wide + (size_t)j * width + i * R, R * sizeof *own);
}

static void widen(const float *own, unsigned width, unsigned i, uint32_t n, float *wide)
{
    for (uint32_t j = 0; j < n; j++) memcpy(wide + (size_t)j * width + i * R, own + (size_t)j * R, R * sizeof *own);
}

/* One pass over all columns: s 0 the first one, else a sweep. */
static void band_pass(const bb_feedback *p, bb_band *b, const unsigned n_tiles, unsigned s, uint32_t n_rows)
{
    const bb_factor *h = p->factor;
    const unsigned   width = n_tiles * R;
    for (uint32_t m0 = 0; m0 < h->n; m0 += MACRO) {
        const uint32_t m = h->n - m0 < MACRO ? h->n - m0 : MACRO;
        if (s > 0) bb_sgemm_tn(m, width, h->n, 1, h->h + m0, h->n, b->e, width, 0, b->across, width);
        else if (m0 > 0) bb_sgemm_tn(m, width, m0, 1, h->u + m0, h->n, b->e, width, 0, b->across, width);
        for (unsigned i = 0; i < n_tiles; i++) {
            bb_tile  *t = b->tile[i];
            const int rows = n_rows - i * R < R ? (int)(n_rows - i * R) : R;
            if (s > 0) {
                narrow(b->across, width, i, m, t->gradient);
                sweep_macro(p, t, m0, m, rows);
            } else {
                if (m0 > 0) narrow(b->across, width, i, m, t->base);
                for (size_t k = 0; k < (size_t)m * R; k++) t->base[k] = t->w[(size_t)m0 * R + k] + (m0 > 0 ? t->base[k] : 0);
                feedback_macro(p, t, m0, m, rows);
            }
            widen(t->e + (size_t)m0 * R, width, i, m, b->e + (size_t)m0 * width);
        }
    }
}

void bb_feedback_rows(const bb_feedback *p, bb_band *b, const float *w, uint32_t n_rows, unsigned char *packed)
{
    const unsigned n_tiles = (n_rows + R - 1) / R;
    const size_t   bytes = p->factor->n / p->format->block * p->format->block_bytes;
    BB_ASSERT(n_tiles <= b->n_tiles);
    for (unsigned i = 0; i < n_tiles; i++) load_rows(p, b->tile[i], w + (size_t)i * R * p->factor->n, n_rows - i * R < R ? n_rows - i * R : R);
    for (unsigned s = 0; s <= p->sweeps; s++) band_pass(p, b, n_tiles, s, n_rows);
    for (unsigned i = 0; i < n_tiles; i++) pack_rows(p, b->tile[i], n_rows - i * R < R ? n_rows - i * R : R, packed + i * R * bytes);
}
