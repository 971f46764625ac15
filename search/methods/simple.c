/* SPDX-License-Identifier: GPL-3.0-or-later
 * simple.c: the methods that need no search. Their plans are the answer of a size on their own (--search), rivals, beginnings of other methods, and, as far as
 * they are marked so, what the plan of a search is guarded by.
 *
 *   uniform       one format for all linears and one for the tables, nothing pruned; of the BB_N_UNIFORM of lowest separable cost the one of lowest KL
 *   separable     the exact optimum of the separable score (separable.h)
 *   quantization  the same with every controller at its widest: nothing is pruned
 *   pruning       the same with everything that has a controller as in the source: linears keep their precision
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "search/method.h"

/* ---- one plan a budget as a search ---- */

static void report(const bb_search *s, const char *stage, size_t b)
{
    const bb_archive_entry *best = bb_archive_best(s->archive, s->budgets[b]);
    if (!s->progress || !best) return;
    const bb_search_step step = { stage, 0, b, best->size_bytes, best->score.kl, bb_search_top(s), best->source, bb_search_spent(s) };
    s->progress(s->progress_self, &step);
}

bb_status bb_method_plans(const bb_search_method *m, bb_search *s, bb_err *err)
{
    bb_status      status = BB_OK;
    bool           any = false;
    int64_t        most = 0;
    bb_simple_plan plan = { .x = BB_NEW(s->problem->n_units, uint16_t, err) };
    if (!plan.x) return BB_NOMEM;
    for (size_t b = 0; b < s->n_budgets; b++) {
        bb_score score;
        most = s->budgets[b] > most ? s->budgets[b] : most;
        plan = (bb_simple_plan) { .x = plan.x };
        BB_TRY(m->plan(m, s, s->budgets[b], &plan, err));
        if (!plan.found) continue;
        const uint16_t *x = plan.x;
        any = true;
        BB_TRY(bb_ledger_evaluate(s->ledger, &x, 1, bb_search_top(s), &score, NULL, err));
        BB_TRY(bb_search_keep(s, plan.x, plan.source, err));
        report(s, "final", b);
    }
    s->why = BB_STOP_DONE;
    if (!any) status = BB_FAIL(err, BB_INFEASIBLE, "no %s plan is within %lld bytes", m->name, (long long)most);
done:
    bb_free(plan.x);
    return status;
}

/* A solution, or that there is none: which is no failure, and leaves no sentence. */
static bb_status settle(const bb_search *s, bb_status solved, const bb_err *why, const char *source, bb_simple_plan *out, bb_err *err)
{
    if (solved != BB_OK && solved != BB_INFEASIBLE) return BB_FAIL(err, solved, "%s", why->msg);
    out->found = solved == BB_OK && bb_problem_allows(s->problem, out->x);
    snprintf(out->source, sizeof out->source, "%s", source);
    return BB_OK;
}

/* ---- uniform ---- */

static void swap_plans(uint16_t *a, uint16_t *b, uint32_t n)
{
    for (uint32_t u = 0; u < n; u++) {
        const uint16_t first = a[u];
        a[u] = b[u];
        b[u] = first;
    }
}

bb_status bb_search_uniform(const bb_search *s, int64_t budget, uint16_t *x, char (*names)[BB_SOURCE], size_t *n, double *least, double *tokens, bb_err *err)
{
    const uint32_t width = s->problem->n_units;
    bb_status      status = BB_OK;
    double         lowest = HUGE_VAL;
    size_t         all = 0;
    *n = 0;
    if (s->uniform) BB_TRY(s->uniform(s->uniform_self, budget, BB_N_UNIFORM, x, names, &all, err));
    for (size_t i = 0; i < all; i++) {
        uint16_t       *y = x + *n * width;
        const uint16_t *py = y;
        bb_score        score;
        if (!bb_problem_allows(s->problem, x + i * width)) continue;
        if (i > *n) {
            memcpy(y, x + i * width, width * sizeof *y);
            memcpy(names[*n], names[i], BB_SOURCE);
        }
        BB_TRY(bb_ledger_evaluate(s->uniform_ledger, &py, 1, s->uniform_level, &score, NULL, err));
        if (tokens) *tokens += score.tokens;
        if (score.kl < lowest) {
            char name[BB_SOURCE];
            lowest = score.kl;
            swap_plans(x, y, width);
            memcpy(name, names[0], BB_SOURCE);
            memmove(names[0], names[*n], BB_SOURCE);
            memcpy(names[*n], name, BB_SOURCE);
        }
        ++*n;
    }
    if (least) *least = lowest;
done:
    return status;
}

static bb_status uniform(const bb_search_method *m, const bb_search *s, int64_t budget, bb_simple_plan *out, bb_err *err)
{
    char      names[BB_N_UNIFORM][BB_SOURCE];
    size_t    n;
    double    least;
    uint16_t *x = BB_NEW(BB_N_UNIFORM * (size_t)s->problem->n_units, uint16_t, err);
    bb_status status;
    (void)m;
    if (!x) return BB_NOMEM;
    BB_TRY(bb_search_uniform(s, budget, x, names, &n, &least, &out->tokens, err));
    out->found = n > 0 && isfinite(least);
    if (!out->found) goto done;
    memcpy(out->x, x, s->problem->n_units * sizeof *x);
    memcpy(out->source, names[0], BB_SOURCE);
done:
    bb_free(x);
    return status;
}

const bb_search_method bb_method_uniform = {
    .name = "uniform", .reference = "one format for all linears, one for embedding and head", .simple = BB_SIMPLE, .run = bb_method_plans, .plan = uniform
};

/* ---- separable, and parts of it ---- */

static bb_status separable(const bb_search_method *m, const bb_search *s, int64_t budget, bb_simple_plan *out, bb_err *err)
{
    bb_err          why = BB_ERR_INIT;
    const bb_status solved = bb_separable_solve(s->separable, budget, out->x, NULL, &why);
    return settle(s, solved, &why, m->name, out, err);
}

/* The optimum when either the controllers or what they control stay as they are in the source. */
static bb_status restricted(const bb_search *s, bool controllers, int64_t budget, const char *source, bb_simple_plan *out, bb_err *err)
{
    bb_variant    v;
    bb_separable *sep = NULL;
    bb_err        why = BB_ERR_INIT;
    bb_status     status = bb_variant_init(s->problem, &v, err), solved;
    if (status != BB_OK) goto done;
    for (uint32_t u = 0; u < s->problem->n_units; u++)
        if (controllers ? bb_space_is_controller(s->space, u) : s->problem->units[u].controller >= 0) bb_variant_pin(&v, u, s->source[u]);
    solved = bb_separable_create(&v.problem, NULL, &sep, &why);
    if (solved == BB_OK) solved = bb_separable_solve(sep, budget, out->x, NULL, &why);
    status = settle(s, solved, &why, source, out, err);
done:
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    return status;
}

static bb_status quantization(const bb_search_method *m, const bb_search *s, int64_t budget, bb_simple_plan *out, bb_err *err)
{
    (void)m;
    return restricted(s, true, budget, "quantization only, separable", out, err);
}

static bb_status pruning(const bb_search_method *m, const bb_search *s, int64_t budget, bb_simple_plan *out, bb_err *err)
{
    (void)m;
    return restricted(s, false, budget, "pruning only", out, err);
}

const bb_search_method bb_method_separable = {
    .name = "separable", .reference = "multiple-choice knapsack, Kellerer et al. 2004, ch. 11", .run = bb_method_plans, .plan = separable
};
const bb_search_method bb_method_quantization = {
    .name = "quantization", .reference = "separable, nothing pruned", .simple = BB_SIMPLE_OF_ONE, .run = bb_method_plans, .plan = quantization
};
const bb_search_method bb_method_pruning = {
    .name = "pruning", .reference = "separable, linears as in the source", .simple = BB_SIMPLE_OF_ONE, .run = bb_method_plans, .plan = pruning
};
