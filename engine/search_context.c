/* SPDX-License-Identifier: GPL-3.0-or-later
 * search_context.c: see search_context.h. */
#include "engine/search_context.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/keys.h"
#include "model/tune/toga.h"

/* ---- uniform plans: of all pairs of a format for the linears and one for embedding and head those of lowest separable cost ---- */

/* Insertion into the short list of the cheapest. */
static size_t keep(size_t n, size_t max, uint32_t width, double cost, double *costs, const uint16_t *from, uint16_t *x, const char *name,
                   char (*names)[BB_SOURCE])
{
    size_t k = n;
    while (k > 0 && cost < costs[k - 1]) k--;
    if (k == max) return n;
    if (n == max) n--;
    memmove(costs + k + 1, costs + k, (n - k) * sizeof *costs);
    memmove(x + (k + 1) * width, x + k * width, (n - k) * width * sizeof *x);
    if (names) memmove(names + k + 1, names + k, (n - k) * sizeof *names);
    costs[k] = cost;
    memcpy(x + k * width, from, width * sizeof *x);
    if (names) snprintf(names[k], sizeof names[k], "%s", name);
    return n + 1;
}

static bool is_listed(const uint16_t *x, size_t n, uint32_t width, const uint16_t *candidate)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(x + i * width, candidate, width * sizeof *x) == 0) return true;
    return false;
}

/* bb_search.uniform. Two names may end in the same plan where rows are short. */
static bb_status uniform_plans(void *self, int64_t budget, size_t max, uint16_t *x, char (*names)[BB_SOURCE], size_t *n, bb_err *err)
{
    const bb_run     *r = self;
    const bb_problem *p = bb_model_space_problem(r->space);
    uint16_t         *candidate = BB_NEW(p->n_units, uint16_t, err);
    double           *costs = BB_NEW(max, double, err);
    char              name[BB_SOURCE];
    const bb_format  *f, *e;
    const bb_status   status = candidate && costs ? BB_OK : BB_NOMEM;
    *n = 0;
    for (size_t i = 0; status == BB_OK && (f = bb_format_at(i)); i++)
        for (size_t k = 0; (e = bb_format_at(k)); k++) {
            if (!bb_model_space_uniform(r->space, f->name, e->name, candidate) || bb_problem_size(p, candidate) > budget) continue;
            if (is_listed(x, *n, p->n_units, candidate)) continue;
            bb_model_space_uniform_name(r->space, candidate, name, sizeof name);
            *n = keep(*n, max, p->n_units, bb_problem_cost(p, candidate), costs, candidate, x, name, names);
        }
    bb_free(candidate);
    bb_free(costs);
    return status;
}

bb_status bb_run_smallest_uniform(const bb_run *r, int64_t *least, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    uint16_t         *x = BB_NEW(p->n_units, uint16_t, err);
    const bb_format  *f, *e;
    *least = BB_FORBIDDEN;
    if (!x) return BB_NOMEM;
    for (size_t i = 0; (f = bb_format_at(i)); i++)
        for (size_t k = 0; (e = bb_format_at(k)); k++) {
            const int64_t bytes = bb_model_space_uniform(r->space, f->name, e->name, x) ? bb_problem_size(p, x) : BB_FORBIDDEN;
            if (bytes < *least) *least = bytes;
        }
    bb_free(x);
    return BB_OK;
}

/* ---- the quadratic score ---- */

void bb_run_quadratic_done(bb_run_quadratic *v)
{
    for (uint32_t u = 0; v->linear && u < v->space.problem->n_units; u++) bb_free(v->linear[u]);
    bb_free(v->linear);
    bb_free(v->gram);
    bb_space_done(&v->space);
}

bb_status bb_run_quadratic_init(const bb_problem *p, bb_foresee *foresee, const bb_sensitivity *s, bb_run_quadratic *v, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_space_init(p, &v->space, err));
    const size_t M = v->space.offset[p->n_units];
    BB_ASSERT(M == s->n);
    status = BB_NOMEM;
    if (!(v->gram = BB_NEW(M * M, float, err)) || !(v->linear = BB_NEW0(p->n_units, double *, err))) goto done;
    BB_TRY(bb_sensitivity_gram(s, v->gram, err));
    if (foresee) bb_foresee_scale(foresee, &v->space, NULL, v->gram);
    for (uint32_t u = 0; u < p->n_units; u++) {
        const size_t n = p->units[u].n_options, cells = bb_problem_rows(p, u) * n;
        status = BB_NOMEM;
        if (!(v->linear[u] = BB_NEW(cells, double, err))) goto done;
        for (size_t i = 0; i < cells; i++) {
            const size_t at = v->space.offset[u] + i % n;
            v->linear[u][i] = p->units[u].cost[i] - 0.5 * (double)v->gram[at * M + at];
        }
    }
    v->q = (bb_quadratic) { .space = &v->space, .gram = v->gram, .linear = (const double *const *)v->linear };
    status = BB_OK;
done:
    return status;
}

/* ---- gradients ---- */

enum { LABELS = 1 /* more say hardly more (results/gradient.csv) */ };

static void gradient_done(bb_run_gradient *g)
{
    for (uint32_t u = 0; g->linear && u < g->p->n_units; u++) bb_free(g->linear[u]);
    for (uint32_t u = 0; g->first && u < g->p->n_units; u++) bb_free(g->first[u]);
    bb_free(g->linear);
    bb_free(g->first);
    bb_free(g->slopes);
}

static bb_status gradient_init(bb_run *r, const bb_problem *p, const bb_space *space, bb_foresee *foresee, bb_run_gradient *g, bb_err *err)
{
    *g = (bb_run_gradient) { .run = r, .p = p, .space = space, .foresee = foresee };
    if (!(g->slopes = BB_NEW(space->offset[p->n_units], bb_slope, err)) || !(g->linear = BB_NEW0(p->n_units, double *, err)) ||
        !(g->first = BB_NEW0(p->n_units, double *, err)))
        return BB_NOMEM;
    for (uint32_t u = 0; u < p->n_units; u++) {
        const size_t cells = bb_problem_rows(p, u) * p->units[u].n_options;
        if (!(g->linear[u] = BB_NEW(cells, double, err)) || !(g->first[u] = BB_NEW(cells, double, err))) return BB_NOMEM;
    }
    return BB_OK;
}

/* Windows of a batch k > 0: as many as options are measured on, or all where there are fewer, evenly spaced over those that the run is calibrated on. */
static bb_status batch_windows(const bb_run *r, uint32_t batch, bb_windows *out, bb_err *err)
{
    const uint32_t n = r->calib.n, each = r->levels[BB_LEVEL_SKETCH].n, step = n > each ? n / each : 1;
    return bb_gradient_windows(&r->calib, step * (n > each ? each : n), (batch - 1) % step, step, out, err);
}

/* g->slopes at x, measured on a batch k > 0. */
static bb_status measure_batch(bb_run_gradient *g, bb_slopes_options *o, uint32_t batch, bb_evaluation *at, bb_err *err)
{
    bb_run           *r = g->run;
    bb_net_evaluator *e = NULL;
    bb_windows        w = { 0 };
    bb_status         status;
    BB_TRY(batch_windows(r, batch, &w, err));
    BB_TRY(bb_net_evaluator_create(r->backend, &r->model, &w, 1, bb_run_unused_memory(r), &e, err));
    o->level = 0;
    o->windows = &w;
    BB_TRY(bb_slopes_measure(e, &r->model, r->database, o, g->slopes, at, err));
    at->n_forwarded += (double)w.n * w.ctx; /* the source's */
done:
    bb_net_evaluator_destroy(e);
    bb_windows_done(&w);
    return status;
}

/* g->slopes at x, from run.db or measured now. */
static bb_status slopes_at(bb_run_gradient *g, const uint16_t *x, uint32_t labels, uint32_t batch, bb_evaluation *at, bb_err *err)
{
    bb_run           *r = g->run;
    const size_t      n = g->space->offset[g->p->n_units] * sizeof *g->slopes;
    bb_slopes_options o = { BB_LEVEL_SKETCH, &r->levels[BB_LEVEL_SKETCH], labels, (uint64_t)r->config.seed, g->p->plans, x };
    char              space[65], hash[17], of[32] = "", *value = NULL;
    void             *stored = NULL;
    size_t            size;
    bool              found;
    bb_status         status;
    bb_key_space(r, space);
    bb_plan_space_hash(g->p->plans, x, hash);
    if (batch) snprintf(of, sizeof of, "|batch %u of %u", batch, r->calib.n);
    char *key = bb_asprintf(err, "%s|%.16s|%s|%u|%lld%s", r->key, space, hash, labels, (long long)r->config.seed, of);
    if (!key) return BB_NOMEM;
    BB_TRY(bb_store_get(r->store, "slopes", key, &stored, &size, &found, err));
    if (found && size == n + sizeof *at) {
        memcpy(at, stored, sizeof *at);
        memcpy(g->slopes, (const char *)stored + sizeof *at, n);
        if (g->progress) bb_progress_skip(g->progress, (uint64_t)at->n_forwarded);
        goto done;
    }
    if (r->config.ledger_only) {
        status = BB_FAIL(err, BB_NOT_FOUND, "--ledger-only: the gradient at plan %s is not in run.db", hash);
        goto done;
    }
    if (batch) BB_TRY(measure_batch(g, &o, batch, at, err));
    else BB_TRY(bb_slopes_measure(r->evaluator, &r->model, r->database, &o, g->slopes, at, err));
    if (g->progress) bb_progress_add(g->progress, (uint64_t)at->n_forwarded);
    status = BB_NOMEM;
    if (!(value = bb_calloc(n + sizeof *at, 1, err))) goto done;
    memcpy(value, at, sizeof *at);
    memcpy(value + sizeof *at, g->slopes, n);
    status = bb_store_put(r->store, "slopes", key, value, n + sizeof *at, err);
done:
    bb_free(key);
    bb_free(stored);
    bb_free(value);
    return status;
}

/* Tables from slopes. Beside another option of its controller a unit's change shrinks or grows with the width that is left; where the plan has dropped the
 * sublayer, what is known around full precision stands in. */
static void fill_tables(const bb_run_gradient *g, const uint16_t *x)
{
    for (uint32_t u = 0; u < g->p->n_units; u++) {
        const bb_unit  *unit = &g->p->units[u];
        const bb_slope *is = g->slopes + g->space->offset[u];
        const uint32_t  n = unit->n_options;
        const double    left = g->foresee ? g->foresee->share[u] : 1;
        for (size_t row = 0; row < bb_problem_rows(g->p, u); row++) {
            const double now = unit->controller < 0 ? 1 : bb_model_space_width(g->run->space, (uint32_t)unit->controller, x[unit->controller]);
            const double then = unit->controller < 0 ? 1 : bb_model_space_width(g->run->space, (uint32_t)unit->controller, (uint32_t)row);
            for (uint32_t o = 0; o < n; o++) {
                const size_t i = row * n + o;
                g->first[u][i] = now > 0 ? left * then / now * is[o].first : 0;
                g->linear[u][i] = now > 0 ? left * then / now * (is[o].first + is[o].second) : unit->cost[i] - unit->cost[row * n + x[u]];
            }
        }
    }
}

/* bb_search.gradient. */
static bb_status gradient_at(void *self, const uint16_t *x, bool second, uint32_t batch, bb_local_score *out, bb_err *err)
{
    bb_run_gradient *g = self;
    bb_evaluation    at;
    bb_status        status = slopes_at(g, x, second ? LABELS : 0, batch, &at, err);
    if (status != BB_OK) return status;
    fill_tables(g, x);
    if (g->foresee) at.kl *= bb_foresee_weight(g->foresee, x);
    *out = (bb_local_score) { .linear = (const double *const *)g->linear, .first = (const double *const *)g->first, .tokens = at.n_forwarded, .kl = at.kl };
    return BB_OK;
}

/* ---- the context ---- */

bb_status bb_run_search_context_init(bb_run *r, const bb_problem *p, bb_foresee *foresee, bb_run_search_context *c, bb_err *err)
{
    bb_status status;
    memset(c, 0, sizeof *c);
    c->foresee = foresee;
    BB_TRY(bb_space_init(p, &c->space, err));
    BB_TRY(bb_separable_create(p, NULL, &c->separable, err));
    status = BB_NOMEM;
    if (!(c->source = BB_NEW(p->n_units, uint16_t, err))) goto done;
    bb_model_space_source(r->space, c->source);
    c->search = (bb_search) { .problem = p,
                              .space = &c->space,
                              .separable = c->separable,
                              .share = foresee ? foresee->share : NULL,
                              .source = c->source,
                              .seed = (uint64_t)r->config.seed,
                              .window_tokens = (double)r->config.ctx,
                              .uniform = uniform_plans,
                              .uniform_self = r };
    status = BB_OK;
done:
    return status;
}

bb_status bb_run_search_check(const bb_run *r, const bb_search_method *m, bb_err *err)
{
    return m && m->needs_learned ? bb_toga_check_net(&r->model.net, err) : BB_OK;
}

bb_status bb_run_search_context_need(bb_run *r, const bb_search_method *m, bb_run_search_context *c, bb_err *err)
{
    bb_status status = BB_OK;
    if (m->needs_quadratic && !c->quadratic.gram) BB_TRY(bb_run_quadratic_init(c->search.problem, c->foresee, &r->sensitivity, &c->quadratic, err));
    if (m->needs_quadratic) c->search.quadratic = &c->quadratic.q;
    if (m->needs_learned) {
        c->toga = (bb_toga_plans) { r, c->search.problem };
        c->search.learned = bb_toga_plan_learned;
        c->search.learned_self = &c->toga;
    }
    if (!m->needs_gradient || c->search.gradient) goto done;
    BB_TRY(gradient_init(r, c->search.problem, &c->space, c->foresee, &c->gradient, err));
    c->search.gradient = gradient_at;
    c->search.gradient_self = &c->gradient;
    for (uint32_t k = 0; k < 2; k++) c->search.gradient_cost[k] = bb_slopes_tokens(&r->levels[BB_LEVEL_SKETCH], k * LABELS);
    c->search.batch_cost = c->search.gradient_cost[0] + (double)r->levels[BB_LEVEL_SKETCH].n * r->levels[BB_LEVEL_SKETCH].ctx;
done:
    return status;
}

void bb_run_search_context_done(bb_run_search_context *c)
{
    bb_run_quadratic_done(&c->quadratic);
    gradient_done(&c->gradient);
    bb_separable_destroy(c->separable);
    bb_space_done(&c->space);
    bb_free(c->source);
}
