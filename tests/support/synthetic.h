/* SPDX-License-Identifier: GPL-3.0-or-later
 * synthetic.h: search problems without a model, for the tests of search/: random tables with controllers, and an evaluator whose
 * true score is known. Header-only, because test_search* link with libsearch and libbase alone. */
#ifndef BB_TESTS_SYNTHETIC_H
#define BB_TESTS_SYNTHETIC_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "search/method.h"

#define SYN_MAX_UNITS 160
#define SYN_MAX_OPTIONS 20

typedef struct syn_problem {
    bb_problem    p;
    bb_unit       units[SYN_MAX_UNITS];
    bb_plan_unit  described[SYN_MAX_UNITS];
    bb_plan_space plans;
    uint32_t      order[SYN_MAX_UNITS];
    char          names[SYN_MAX_UNITS][24];
    int64_t      *bytes[SYN_MAX_UNITS];
    double       *cost[SYN_MAX_UNITS];
} syn_problem;

static const bb_plan_option syn_options[SYN_MAX_OPTIONS] = { { "o00", 0 },  { "o01", 1 },  { "o02", 2 },  { "o03", 3 },  { "o04", 4 },
                                                             { "o05", 5 },  { "o06", 6 },  { "o07", 7 },  { "o08", 8 },  { "o09", 9 },
                                                             { "o10", 10 }, { "o11", 11 }, { "o12", 12 }, { "o13", 13 }, { "o14", 14 },
                                                             { "o15", 15 }, { "o16", 16 }, { "o17", 17 }, { "o18", 18 }, { "o19", 19 } };

static inline uint32_t syn_add(syn_problem *s, uint32_t n_options, int32_t controller)
{
    const uint32_t u = s->p.n_units++;
    const size_t   rows = controller < 0 ? 1 : s->units[controller].n_options;
    snprintf(s->names[u], sizeof s->names[u], "u%03u", u);
    s->bytes[u] = calloc(rows * n_options, sizeof(int64_t));
    s->cost[u] = calloc(rows * n_options, sizeof(double));
    s->units[u] = (bb_unit) { n_options, controller, s->bytes[u], s->cost[u] };
    s->described[u] = (bb_plan_unit) { s->names[u], u, 0, controller, n_options, syn_options };
    s->order[u] = u; /* names ascend */
    s->plans.n_units = s->p.n_units;
    return u;
}

static inline void syn_free(syn_problem *s)
{
    for (uint32_t u = 0; u < s->p.n_units; u++) {
        free(s->bytes[u]);
        free(s->cost[u]);
    }
    free(s);
}

static inline syn_problem *syn_new(void)
{
    syn_problem *s = calloc(1, sizeof *s);
    s->p.units = s->units;
    s->p.plans = &s->plans;
    s->plans = (bb_plan_space) { 0, s->described, s->order };
    return s;
}

/* Small and nasty: random bytes and costs without any order, some combinations forbidden. */
static inline syn_problem *syn_random(uint64_t seed, uint32_t n_groups, uint32_t max_children, uint32_t n_options)
{
    syn_problem *s = syn_new();
    bb_rng       r;
    bb_rng_init(&r, seed, "syn_random");
    s->p.fixed_bytes = (int64_t)bb_rng_below(&r, 1000);
    for (uint32_t g = 0; g < n_groups; g++) {
        const uint32_t n_children = (uint32_t)bb_rng_below(&r, max_children + 1);
        const uint32_t c = syn_add(s, 1 + (uint32_t)bb_rng_below(&r, n_options), -1);
        for (uint32_t k = 0; k <= n_children; k++) {
            const uint32_t u = k == 0 ? c : syn_add(s, 1 + (uint32_t)bb_rng_below(&r, n_options), (int32_t)c);
            const size_t   n = (k == 0 ? 1 : s->units[c].n_options) * s->units[u].n_options;
            for (size_t i = 0; i < n; i++) {
                s->bytes[u][i] = 32 * (int64_t)bb_rng_below(&r, 40);
                s->cost[u][i] = bb_rng_uniform(&r);
                if (i > 0 && bb_rng_below(&r, 12) == 0) s->bytes[u][i] = BB_FORBIDDEN;
            }
        }
    }
    return s;
}

/* Like a transformer: n_layers of (kv controller with 4 linears, ffn controller with 3), an embedding and a head. */
static inline syn_problem *syn_transformer(uint64_t seed, uint32_t n_layers, uint32_t n_options, uint32_t n_widths)
{
    syn_problem *s = syn_new();
    bb_rng       r;
    bb_rng_init(&r, seed, "syn_transformer");
    s->p.fixed_bytes = 20000;
    for (uint32_t l = 0; l <= 2 * n_layers; l++) {
        const bool     embedding = l == 2 * n_layers;
        const uint32_t n_children = embedding ? 0 : l % 2 ? 3 : 4;
        const uint32_t c = syn_add(s, embedding ? n_options : n_widths, -1);
        if (!embedding) {
            const double importance = exp(bb_rng_normal(&r)) * 0.05;
            for (uint32_t w = 0; w < n_widths; w++) s->cost[c][w] = importance * pow((double)w / n_widths, 1.5);
        }
        for (uint32_t k = 0; k <= n_children; k++) {
            if (k == 0 && !embedding) continue;
            const uint32_t u = embedding ? c : syn_add(s, n_options, (int32_t)c);
            const int64_t  weights = 256 * (embedding ? 4096 : 64 + 64 * (int64_t)bb_rng_below(&r, 4));
            const double   sensitivity = exp(1.2 * bb_rng_normal(&r)) * 0.02;
            double         noise[SYN_MAX_OPTIONS];
            for (uint32_t o = 0; o < n_options; o++) noise[o] = exp(0.15 * bb_rng_normal(&r));
            for (uint32_t w = 0; w < (embedding ? 1 : n_widths); w++)
                for (uint32_t o = 0; o < n_options; o++) {
                    const double bits = 1.0 + 7.0 * o / n_options;
                    const double keep = embedding ? 1 : 1.0 - (double)w / n_widths;
                    s->bytes[u][w * n_options + o] = (int64_t)((double)weights * keep * bits / 8 / 32) * 32;
                    s->cost[u][w * n_options + o] = sensitivity * pow(4, 1 - bits) * noise[o] * sqrt(keep);
                }
        }
    }
    return s;
}

/* A world whose KL is known: unit u moves the output by sqrt(2 c_u m_u) along a direction d_u; directions are correlated, so that errors
 * add up or cancel; the table c that a search sees lacks the factors m. Windows weigh the units differently. Large KL saturates. */
enum { SYN_DIM = 12, SYN_WINDOWS = 128 };

typedef struct syn_world {
    const bb_problem *p;
    double            d[SYN_MAX_UNITS][SYN_DIM], m[SYN_MAX_UNITS], window[SYN_WINDOWS][SYN_MAX_UNITS];
    uint32_t          n_windows[3];
    bb_evaluator      e;
    uint64_t          n_calls, n_evaluations, stop_after; /* stop_after > 0: BB_INTERRUPTED when so many calls were made */
    double            tokens;
} syn_world;

static inline double syn_unit_cost(const bb_problem *p, const uint16_t *x, uint32_t u)
{
    const bb_unit *unit = &p->units[u];
    return unit->cost[(unit->controller < 0 ? 0 : (size_t)x[unit->controller]) * unit->n_options + x[u]];
}

static inline double syn_window_kl(const syn_world *w, const uint16_t *x, uint32_t window)
{
    double sum[SYN_DIM] = { 0 }, norm = 0;
    for (uint32_t u = 0; u < w->p->n_units; u++) {
        const double a = sqrt(2 * syn_unit_cost(w->p, x, u) * w->m[u] * w->window[window][u]);
        for (int k = 0; k < SYN_DIM; k++) sum[k] += a * w->d[u][k];
    }
    for (int k = 0; k < SYN_DIM; k++) norm += sum[k] * sum[k];
    return 0.5 * norm / (1 + 0.5 * norm / 8);
}

static inline bb_status syn_evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    syn_world *w = self;
    if (w->stop_after && w->n_calls >= w->stop_after) return BB_FAIL(err, BB_INTERRUPTED, "stopped by the test");
    w->n_calls++;
    for (size_t i = 0; i < n; i++) {
        double sum = 0, squares = 0;
        for (uint32_t k = 0; k < w->n_windows[level]; k++) {
            const double kl = syn_window_kl(w, x[i], k);
            sum += kl;
            squares += kl * kl;
            if (window_kl && window_kl[i]) window_kl[i][k] = kl;
        }
        const double windows = w->n_windows[level], mean = sum / windows;
        out[i] = (bb_score) { .kl = mean, .ppl = (double)NAN, .ppl_se = (double)NAN, .top1 = (double)NAN, .tokens = 256.0 * windows };
        out[i].kl_se = sqrt(fmax(0, squares / windows - mean * mean) / windows);
        w->n_evaluations++;
        w->tokens += out[i].tokens;
    }
    return BB_OK;
}

/* bb_search.gradient of a world: every single change as it is on the windows of level 0 or of the batch, all of it called first order. */
typedef struct syn_gradient {
    syn_world      *w;
    const bb_space *space;
    double         *linear[SYN_MAX_UNITS], *first[SYN_MAX_UNITS];
    double          tokens;
    uint64_t        n_calls;
    uint32_t        last_batch;
} syn_gradient;

static inline bb_status syn_gradient_at(void *self, const uint16_t *x, bool second, uint32_t batch, bb_local_score *out, bb_err *err)
{
    syn_gradient     *g = self;
    const bb_problem *p = g->w->p;
    const uint32_t    first = batch * g->w->n_windows[0] % g->w->n_windows[2], end = first + g->w->n_windows[0];
    uint16_t          y[SYN_MAX_UNITS];
    (void)err;
    *out = (bb_local_score) { .linear = (const double *const *)g->linear, .first = (const double *const *)g->first };
    out->tokens = (batch ? 1024 : second ? 1280 : 768) * 8;
    for (uint32_t k = first; k < end; k++) out->kl += syn_window_kl(g->w, x, k) / g->w->n_windows[0];
    for (uint32_t u = 0; u < p->n_units; u++) {
        const size_t n = p->units[u].n_options, cells = bb_problem_rows(p, u) * n;
        if (!g->linear[u]) g->linear[u] = calloc(cells, sizeof(double));
        if (!g->first[u]) g->first[u] = calloc(cells, sizeof(double));
        for (size_t o = 0; o < n; o++) {
            double kl = 0;
            memcpy(y, x, p->n_units * sizeof *y);
            y[u] = (uint16_t)o;
            for (uint32_t k = first; k < end; k++) kl += syn_window_kl(g->w, y, k) / g->w->n_windows[0];
            for (size_t i = o; i < cells; i += n) g->linear[u][i] = g->first[u][i] = kl - out->kl;
        }
    }
    g->tokens += out->tokens;
    g->n_calls++;
    g->last_batch = batch;
    return BB_OK;
}

static inline void syn_gradient_done(syn_gradient *g)
{
    for (uint32_t u = 0; u < SYN_MAX_UNITS; u++) {
        free(g->linear[u]);
        free(g->first[u]);
    }
}

static inline syn_world *syn_world_new(const bb_problem *p, uint64_t seed, double correlation, double spread)
{
    syn_world *w = calloc(1, sizeof *w);
    bb_rng     r;
    bb_rng_init(&r, seed, "syn_world");
    w->p = p;
    for (uint32_t u = 0; u < p->n_units; u++) {
        double norm = 0;
        for (int k = 0; k < SYN_DIM; k++) {
            w->d[u][k] = bb_rng_normal(&r) + (k == 0 ? correlation : 0);
            norm += w->d[u][k] * w->d[u][k];
        }
        for (int k = 0; k < SYN_DIM; k++) w->d[u][k] /= sqrt(norm);
        w->m[u] = exp(spread * bb_rng_normal(&r));
        for (int k = 0; k < SYN_WINDOWS; k++) w->window[k][u] = exp(0.5 * bb_rng_normal(&r) - 0.125);
    }
    w->n_windows[0] = 8;
    w->n_windows[1] = 32;
    w->n_windows[2] = SYN_WINDOWS;
    w->e = (bb_evaluator) { .self = w, .n_levels = 3, .n_windows = w->n_windows, .evaluate = syn_evaluate, .key = "synthetic world" };
    return w;
}

/* ---- searches ---- */

/* Runs a method on p with the scores of e from nothing, or from a store, by the options `how` (everything but task, ledger and archive). The archive is
 * initialised here and left to the caller whatever is returned. *ledger (may be NULL): stays open. */
static inline bb_status syn_search(const bb_search_method *m, const bb_problem *p, const bb_evaluator *e, bb_store *store, const bb_ledger_options *lo,
                                   bb_search *how, bb_archive *archive, bb_ledger **ledger, bb_err *err)
{
    bb_space      space = { 0 };
    bb_separable *sep = NULL;
    bb_ledger    *l = NULL;
    bb_status     status;
    bb_archive_init(archive, p->n_units);
    BB_TRY(bb_space_init(p, &space, err));
    BB_TRY(bb_separable_create(p, NULL, &sep, err));
    BB_TRY(bb_ledger_open(p, e, store, lo, &l, err));
    how->problem = p;
    how->space = &space;
    how->separable = sep;
    how->ledger = how->uniform_ledger = l;
    how->archive = archive;
    status = m->run(m, how, err);
done:
    how->space = NULL;
    how->separable = NULL;
    how->ledger = NULL;
    if (ledger) *ledger = l;
    else bb_ledger_close(l);
    bb_separable_destroy(sep);
    bb_space_done(&space);
    return status;
}

/* ---- fronts ---- */

static inline bool syn_is_front(const bb_archive *a)
{
    for (size_t i = 0; i < a->n; i++) {
        const bb_archive_entry *e = &a->entries[i];
        if (!e->x || isnan(e->score.kl)) return false;
        if (i > 0 && !(e[-1].size_bytes < e->size_bytes && e[-1].score.kl > e->score.kl)) return false;
    }
    return a->n <= a->capacity;
}

/* Area between the front and the reference point (bytes, nats); entries beyond it count nothing. */
static inline double syn_hypervolume(const bb_archive *a, int64_t ref_bytes, double ref_kl)
{
    double area = 0;
    for (size_t i = 0; i < a->n; i++) {
        const bb_archive_entry *e = &a->entries[i];
        if (e->size_bytes >= ref_bytes || !(e->score.kl < ref_kl)) continue;
        const int64_t right = i + 1 < a->n && a->entries[i + 1].size_bytes < ref_bytes ? a->entries[i + 1].size_bytes : ref_bytes;
        area += (double)(right - e->size_bytes) * (ref_kl - e->score.kl);
    }
    return area;
}

#endif
