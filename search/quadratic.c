/* SPDX-License-Identifier: GPL-3.0-or-later
 * quadratic.c: scores, fields and tabu search; the bound is in quadratic_bound.c. See quadratic.h. */
#include "search/quadratic.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "search/separable.h"

static size_t size_of(const bb_quadratic *q) { return q->space->offset[q->space->problem->n_units]; }

static size_t stride_of(const bb_quadratic *q) { return q->stride ? q->stride : size_of(q); }

static double linear_at(const bb_quadratic *q, const uint16_t *x, uint32_t u)
{
    if (!q->linear || !q->linear[u]) return 0;
    return q->linear[u][bb_problem_row(q->space->problem, x, u) + x[u]];
}

double bb_quadratic_score(const bb_quadratic *q, const uint16_t *x)
{
    const uint32_t n = q->space->problem->n_units;
    double         total = 0;
    for (uint32_t u = 0; u < n; u++) {
        const float *row = q->gram + (q->space->offset[u] + x[u]) * stride_of(q);
        double       sum = 0;
        for (uint32_t v = 0; v < n; v++) sum += (double)row[q->space->offset[v] + x[v]];
        total += 0.5 * sum + linear_at(q, x, u);
    }
    return total;
}

bb_status bb_quadratic_init(const bb_quadratic *q, const uint16_t *x, bb_quadratic_state *s, bb_err *err)
{
    const uint32_t n = q->space->problem->n_units;
    const size_t   M = size_of(q);
    *s = (bb_quadratic_state) { .q = q };
    s->x = BB_NEW(n, uint16_t, err);
    s->field = BB_NEW0(M, double, err);
    if (!s->x || !s->field) {
        bb_quadratic_done(s);
        return BB_NOMEM;
    }
    memcpy(s->x, x, n * sizeof *x);
    for (uint32_t u = 0; u < n; u++) {
        const float *row = q->gram + (q->space->offset[u] + x[u]) * stride_of(q);
        for (size_t j = 0; j < M; j++) s->field[j] += (double)row[j];
    }
    s->score = bb_quadratic_score(q, x);
    s->bytes = bb_problem_bound(q->space->problem, x);
    return BB_OK;
}

void bb_quadratic_done(bb_quadratic_state *s)
{
    bb_free(s->x);
    bb_free(s->field);
    *s = (bb_quadratic_state) { 0 };
}

/* Change of the linear part when unit goes to option, dependents included. */
static double linear_delta(const bb_quadratic *q, const uint16_t *x, uint32_t unit, uint32_t option)
{
    if (!q->linear) return 0;
    const bb_space *s = q->space;
    double          delta = 0;
    if (q->linear[unit]) {
        const double *row = q->linear[unit] + bb_problem_row(s->problem, x, unit);
        delta = row[option] - row[x[unit]];
    }
    for (uint32_t i = s->first_child[unit]; i < s->first_child[unit + 1]; i++) {
        const uint32_t v = s->children[i];
        const size_t   width = s->problem->units[v].n_options;
        if (q->linear[v]) delta += q->linear[v][option * width + x[v]] - q->linear[v][x[unit] * width + x[v]];
    }
    return delta;
}

/* 1/2 (x + e_b - e_a)'G(x + e_b - e_a) - 1/2 x'Gx = g_b - g_a + 1/2 (G_aa + G_bb) - G_ab. */
double bb_quadratic_delta(const bb_quadratic_state *s, uint32_t unit, uint32_t option)
{
    const bb_quadratic *q = s->q;
    const size_t        n = stride_of(q), a = q->space->offset[unit] + s->x[unit], b = q->space->offset[unit] + option;
    const double        g = s->field[b] - s->field[a];
    return g + 0.5 * ((double)q->gram[a * n + a] + (double)q->gram[b * n + b]) - (double)q->gram[a * n + b] + linear_delta(q, s->x, unit, option);
}

void bb_quadratic_move(bb_quadratic_state *s, uint32_t unit, uint32_t option)
{
    const bb_quadratic *q = s->q;
    const size_t        M = size_of(q), n = stride_of(q);
    const float        *old = q->gram + (q->space->offset[unit] + s->x[unit]) * n;
    const float *new = q->gram + (q->space->offset[unit] + option) * n;
    s->score += bb_quadratic_delta(s, unit, option);
    s->bytes += bb_space_delta_bytes(q->space, s->x, unit, option);
    for (size_t j = 0; j < M; j++) s->field[j] += (double)new[j] - (double)old[j];
    s->x[unit] = (uint16_t)option;
}

/* ---- tabu ---------------------------------------------------------------------------------------------------------------------- */

typedef struct candidate {
    uint32_t unit;
    uint16_t option;
    bool     tabu;
    int64_t  bytes;   /* change */
    double   delta;   /* change of the score */
    double   reduced; /* delta + lambda * bytes */
} candidate;

typedef struct tabu {
    const bb_quadratic  *q;
    int64_t              budget;
    bb_quadratic_options o;
    double               lambda;
    bb_rng               rng;
    bb_quadratic_state   s;
    uint64_t            *until; /* [M] iteration before which an option may not come back */
    uint64_t             step, n_scored;
    candidate           *list; /* [o.list] of least reduced cost, ascending */
    uint32_t             n_list;
    uint16_t            *best_x; /* by the bound on bytes alone */
    double               best;
    uint16_t            *fit_x; /* the best whose file fits as it is */
    double               fit;
} tabu;

typedef struct choice {
    double    delta;
    candidate first, second;
    bool      pair, found;
} choice;

static void consider(tabu *t, choice *c, double delta, bool is_tabu, const candidate *first, const candidate *second)
{
    t->n_scored++;
    if (is_tabu && !(t->s.score + delta < t->best - 1e-12)) return; /* aspiration: a new best is always allowed */
    if (c->found && !(delta < c->delta)) return;
    *c = (choice) { delta, *first, second ? *second : *first, second != NULL, true };
}

static void remember_candidate(tabu *t, const candidate *m)
{
    if (t->n_list == t->o.list && !(m->reduced < t->list[t->o.list - 1].reduced)) return;
    uint32_t k = t->n_list < t->o.list ? t->n_list++ : t->o.list - 1;
    for (; k > 0 && m->reduced < t->list[k - 1].reduced; k--) t->list[k] = t->list[k - 1];
    t->list[k] = *m;
}

static void scan_singles(tabu *t, choice *c)
{
    const bb_space *sp = t->q->space;
    t->n_list = 0;
    for (uint32_t u = 0; u < sp->problem->n_units; u++)
        for (uint16_t o = 0; o < sp->problem->units[u].n_options; o++) {
            if (o == t->s.x[u]) continue;
            const int64_t bytes = bb_space_delta_bytes(sp, t->s.x, u, o);
            if (bb_is_forbidden(bytes)) continue;
            candidate m = { u, o, t->until[sp->offset[u] + o] > t->step, bytes, bb_quadratic_delta(&t->s, u, o), 0 };
            m.reduced = m.delta + t->lambda * (double)bytes;
            if (t->s.bytes + bytes <= t->budget) consider(t, c, m.delta, m.tabu, &m, NULL);
            remember_candidate(t, &m);
        }
}

static bool same_group(const bb_problem *p, uint32_t u, uint32_t v) { return p->units[u].controller == (int32_t)v || p->units[v].controller == (int32_t)u; }

/* Score and bytes of both moves together. false when not loadable. */
static bool pair_delta(tabu *t, const candidate *a, const candidate *b, double *delta, int64_t *bytes)
{
    const bb_quadratic *q = t->q;
    const bb_space     *sp = q->space;
    const size_t        n = stride_of(q);
    const size_t        a0 = sp->offset[a->unit] + t->s.x[a->unit], a1 = sp->offset[a->unit] + a->option;
    const size_t        b0 = sp->offset[b->unit] + t->s.x[b->unit], b1 = sp->offset[b->unit] + b->option;
    const float        *G = q->gram;
    const double        cross = (double)G[a1 * n + b1] - (double)G[a1 * n + b0] - (double)G[a0 * n + b1] + (double)G[a0 * n + b0];
    *delta = a->delta + b->delta + cross;
    *bytes = a->bytes + b->bytes;
    if (!same_group(sp->problem, a->unit, b->unit)) return true;
    /* The second move's bytes and linear cost depend on the first. */
    const uint16_t old = t->s.x[a->unit];
    *delta -= linear_delta(q, t->s.x, b->unit, b->option);
    t->s.x[a->unit] = a->option;
    const int64_t second = bb_space_delta_bytes(sp, t->s.x, b->unit, b->option);
    *delta += linear_delta(q, t->s.x, b->unit, b->option);
    t->s.x[a->unit] = old;
    if (bb_is_forbidden(second)) return false;
    *bytes = a->bytes + second;
    return true;
}

static void scan_pairs(tabu *t, choice *c)
{
    for (uint32_t i = 0; i < t->n_list; i++)
        for (uint32_t j = i + 1; j < t->n_list; j++) {
            const candidate *a = &t->list[i], *b = &t->list[j];
            double           delta;
            int64_t          bytes;
            if (a->unit == b->unit || !pair_delta(t, a, b, &delta, &bytes) || t->s.bytes + bytes > t->budget) continue;
            consider(t, c, delta, a->tabu || b->tabu, a, b);
        }
}

static void apply(tabu *t, const candidate *m)
{
    const uint32_t old = t->q->space->offset[m->unit] + t->s.x[m->unit];
    t->until[old] = t->step + 5 + bb_rng_below(&t->rng, 10);
    bb_quadratic_move(&t->s, m->unit, m->option);
}

static void note_fit(tabu *t)
{
    const bb_problem *p = t->q->space->problem;
    if (!(t->s.score < t->fit - 1e-12) || bb_problem_size(p, t->s.x) > t->budget) return;
    t->fit = t->s.score;
    memcpy(t->fit_x, t->s.x, p->n_units * sizeof *t->fit_x);
}

static void tabu_run(tabu *t, uint32_t iterations)
{
    for (uint32_t i = 0; i < iterations; i++) {
        choice c = { 0 };
        t->step++;
        scan_singles(t, &c);
        scan_pairs(t, &c);
        if (!c.found) break;
        /* In a pair the first move may pass through a combination that only the second makes loadable again: the other order then. */
        if (c.pair && bb_is_forbidden(bb_space_delta_bytes(t->q->space, t->s.x, c.first.unit, c.first.option))) {
            const candidate swap = c.first;
            c.first = c.second;
            c.second = swap;
        }
        apply(t, &c.first);
        if (c.pair) apply(t, &c.second);
        note_fit(t);
        if (t->s.score < t->best - 1e-12) {
            t->best = t->s.score;
            memcpy(t->best_x, t->s.x, t->q->space->problem->n_units * sizeof *t->best_x);
        }
    }
}

/* ---- starts -------------------------------------------------------------------------------------------------------------------- */

/* Separable tables: theta = 0: 1/2 G_oo + l (each change alone); theta = 1: the score when only this unit changes from `around`. */
static void tables_around(const bb_quadratic *q, const bb_quadratic_state *around, double theta, bb_variant *v)
{
    const bb_problem *p = q->space->problem;
    const size_t      stride = stride_of(q);
    for (uint32_t u = 0; u < p->n_units; u++) {
        const size_t n = p->units[u].n_options, rows = bb_problem_rows(p, u);
        double       least = HUGE_VAL;
        for (size_t i = 0; i < rows * n; i++) {
            const size_t at = q->space->offset[u] + i % n;
            double       c = 0.5 * (double)q->gram[at * stride + at];
            if (theta > 0) c += theta * (around->field[at] - (double)q->gram[at * stride + q->space->offset[u] + around->x[u]]);
            if (q->linear && q->linear[u]) c += q->linear[u][i];
            v->cost[u][i] = c;
            least = fmin(least, c);
        }
        for (size_t i = 0; i < rows * n; i++) v->cost[u][i] -= least; /* costs must not be negative; a constant changes nothing */
    }
}

static bb_status separable_start(tabu *t, bb_variant *v, const bb_quadratic_state *around, double theta, uint16_t *x, bb_err *err)
{
    bb_status           status = BB_OK;
    bb_separable       *sep = NULL;
    bb_separable_result r = { 0 };
    tables_around(t->q, around, theta, v);
    BB_TRY(bb_separable_create(&v->problem, NULL, &sep, err));
    BB_TRY(bb_separable_solve(sep, t->budget, x, &r, err));
    if (theta <= 0) t->lambda = r.lambda;
done:
    bb_separable_destroy(sep);
    return status;
}

static bb_status run_from(tabu *t, const uint16_t *x, bb_err *err)
{
    bb_status    status = BB_OK;
    const size_t M = size_of(t->q);
    bb_quadratic_done(&t->s);
    BB_TRY(bb_quadratic_init(t->q, x, &t->s, err));
    memset(t->until, 0, M * sizeof *t->until);
    t->n_scored++;
    note_fit(t);
    if (t->s.bytes <= t->budget && t->s.score < t->best) {
        t->best = t->s.score;
        memcpy(t->best_x, x, t->q->space->problem->n_units * sizeof *x);
    }
    if (t->s.bytes <= t->budget) tabu_run(t, t->o.iterations);
done:
    return status;
}

static bb_status tabu_init(tabu *t, bb_err *err)
{
    const uint32_t n = t->q->space->problem->n_units;
    if (t->o.iterations == 0) t->o.iterations = 400;
    if (t->o.starts == 0) t->o.starts = 4;
    if (t->o.list == 0) t->o.list = 32;
    t->best = t->fit = HUGE_VAL;
    bb_rng_init(&t->rng, t->o.seed, "quadratic");
    t->until = BB_NEW0(size_of(t->q), uint64_t, err);
    t->list = BB_NEW(t->o.list, candidate, err);
    t->best_x = BB_NEW(n, uint16_t, err);
    t->fit_x = BB_NEW(n, uint16_t, err);
    return t->until && t->list && t->best_x && t->fit_x ? BB_OK : BB_NOMEM;
}

/* Single moves that lower the score and fit by exact size: what the bound on bytes left unused. */
static bb_status topup(const bb_quadratic *q, int64_t budget, uint16_t *x, double *score, bb_err *err)
{
    bb_status          status = BB_OK;
    bb_quadratic_state s = { 0 };
    const bb_problem  *p = q->space->problem;
    BB_TRY(bb_quadratic_init(q, x, &s, err));
    for (bool improved = true; improved;) {
        double   best = -1e-12;
        uint32_t best_u = 0, best_o = 0;
        improved = false;
        for (uint32_t u = 0; u < p->n_units; u++)
            for (uint16_t o = 0; o < p->units[u].n_options; o++) {
                const uint16_t old = s.x[u];
                if (o == old || bb_is_forbidden(bb_space_delta_bytes(q->space, s.x, u, o))) continue;
                const double delta = bb_quadratic_delta(&s, u, o);
                if (!(delta < best)) continue;
                s.x[u] = o;
                const int64_t size = bb_problem_size(p, s.x);
                s.x[u] = old;
                if (size > budget) continue;
                best = delta;
                best_u = u;
                best_o = o;
                improved = true;
            }
        if (improved) bb_quadratic_move(&s, best_u, best_o);
    }
    memcpy(x, s.x, p->n_units * sizeof *x);
    *score = bb_quadratic_score(q, x);
done:
    bb_quadratic_done(&s);
    return status;
}

bb_status bb_quadratic_solve(const bb_quadratic *q, int64_t budget, const bb_quadratic_options *options, uint16_t *x, bb_quadratic_result *result, bb_err *err)
{
    bb_status          status = BB_OK;
    tabu               t = { .q = q, .budget = budget };
    bb_variant         v = { 0 };
    bb_quadratic_state around = { 0 };
    if (options) t.o = *options;
    BB_TRY(tabu_init(&t, err));
    BB_TRY(bb_variant_init(q->space->problem, &v, err));
    BB_TRY(separable_start(&t, &v, NULL, 0, x, err));
    memcpy(t.best_x, x, q->space->problem->n_units * sizeof *x); /* stands when only its exact size fits */
    BB_TRY(run_from(&t, x, err));
    if (t.o.start) BB_TRY(run_from(&t, t.o.start, err));
    for (uint32_t k = 1; k < t.o.starts; k++) {
        bb_quadratic_done(&around);
        BB_TRY(bb_quadratic_init(q, t.best_x, &around, err));
        BB_TRY(separable_start(&t, &v, &around, (double)k / t.o.starts, x, err));
        BB_TRY(run_from(&t, x, err));
    }
    memcpy(x, t.best_x, q->space->problem->n_units * sizeof *x);
    double score;
    if ((!bb_space_settle(q->space, x) || bb_problem_size(q->space->problem, x) > budget) && isfinite(t.fit))
        memcpy(x, t.fit_x, q->space->problem->n_units * sizeof *x); /* tables can count a file a few bytes short */
    BB_TRY(topup(q, budget, x, &score, err));
    if (result) *result = (bb_quadratic_result) { score, t.n_scored };
done:
    bb_quadratic_done(&around);
    bb_quadratic_done(&t.s);
    bb_variant_done(&v);
    bb_free(t.until);
    bb_free(t.list);
    bb_free(t.best_x);
    bb_free(t.fit_x);
    return status;
}
