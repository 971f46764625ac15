/* SPDX-License-Identifier: GPL-3.0-or-later
 * anchors.c: local scores around the incumbents of a few budgets, and the plans that they want for all. */
#include <math.h>

#include "base/mem.h"
#include "search/refine/parts.h"

#define ANCHOR_SHARE 0.8 /* of the same, for seeds and local scores together */

/* Price of a changed unit, as a share of the incumbent's KL. */
static const double change_prices[] = { 0, 0.001, 0.003, 0.01, 0.03 };
#define N_PRICES (sizeof change_prices / sizeof *change_prices)

/* cost := linear + price for every option that is not x's; made non-negative where `shift` (a constant a table: no plan's rank changes). */
static void price_changes(const bb_problem *p, const bb_local_score *s, const uint16_t *x, double price, bool shift, bb_variant *v)
{
    for (uint32_t u = 0; u < p->n_units; u++) {
        const size_t n = p->units[u].n_options, cells = bb_problem_rows(p, u) * n;
        double       least = HUGE_VAL;
        for (size_t i = 0; i < cells; i++) {
            v->cost[u][i] = s->linear[u][i] + (i % n == x[u] ? 0 : price);
            least = fmin(least, v->cost[u][i]);
        }
        for (size_t i = 0; shift && i < cells; i++) v->cost[u][i] -= least;
    }
}

/* The plans y[N_PRICES][n_units] that the local score wants for a budget, each price its own. */
static bb_status solve_local(const bb_refine *r, size_t b, const bb_local_score *s, uint16_t *y, bb_err *err)
{
    bb_status       status = BB_OK;
    bb_variant      v = { 0 };
    bb_separable   *sep = NULL;
    const size_t    at = bb_pool_best(&r->pool, r->budgets[b], r->confirm);
    const uint16_t *x = r->pool.items[at].x;
    BB_TRY(bb_variant_init(r->s->problem, &v, err));
    for (size_t k = 0; k < N_PRICES; k++) {
        uint16_t *out = y + k * r->s->problem->n_units;
        price_changes(r->s->problem, s, x, change_prices[k] * r->pool.items[at].kl[r->confirm], !s->gram, &v);
        if (s->gram) {
            const bb_quadratic         q = { .space = r->s->space, .gram = s->gram, .linear = (const double *const *)v.cost };
            const bb_quadratic_options o = { .seed = r->s->seed, .start = x };
            BB_TRY(bb_quadratic_solve(&q, r->budgets[b], &o, out, NULL, err));
        } else {
            bb_separable_destroy(sep);
            sep = NULL;
            BB_TRY(bb_separable_create(&v.problem, NULL, &sep, err));
            BB_TRY(bb_separable_solve(sep, r->budgets[b], out, NULL, err));
        }
    }
done:
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    return status;
}

/* Proposals of the budgets first .. last - 1 from the local score around one of them. */
static bb_status use_anchor(bb_refine *r, size_t first, size_t last, const bb_local_score *s, bb_err *err)
{
    bb_status    status = BB_NOMEM;
    const size_t width = r->s->problem->n_units, count = last - first;
    uint16_t    *y = BB_NEW(count * N_PRICES * width, uint16_t, err);
    size_t      *list = BB_NEW(count * N_PRICES, size_t, err), n = 0;
    bb_status   *each = BB_NEW(count, bb_status, err);
    bb_err      *errs = BB_NEW0(count, bb_err, err);
    if (!y || !list || !each || !errs) goto done;
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < count; i++) each[i] = solve_local(r, first + i, s, y + i * N_PRICES * width, &errs[i]);
    status = BB_OK;
    for (size_t i = 0; i < count; i++) {
        if (each[i] != BB_OK) status = BB_FAIL(err, each[i], "%s", errs[i].msg);
        BB_TRY(status);
        for (size_t k = 0; k < N_PRICES; k++) BB_TRY(bb_refine_propose(r, y + (i * N_PRICES + k) * width, r->budgets[first + i], "anchor", list, &n, err));
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    bb_free(y);
    bb_free(list);
    bb_free(each);
    bb_free(errs);
    return status;
}

/* Anchors evenly spaced over the budgets, as many as the tokens allow; each serves the budgets next to it. */
bb_status bb_refine_anchors(bb_refine *r, bb_err *err)
{
    bb_status    status = BB_OK;
    const double proposals = (double)(r->n * N_PRICES) * bb_refine_tokens_at(r, 0) + (double)(r->n * r->confirmed) * bb_refine_tokens_at(r, r->confirm);
    size_t       n = 0;
    while (r->s->local && n < r->n && bb_refine_has_room(r, (double)(n + 1) * r->s->local_cost + proposals, ANCHOR_SHARE)) n++;
    for (size_t i = 0; i < n; i++) {
        bb_local_score s;
        const size_t   first = i * r->n / n, last = (i + 1) * r->n / n, at = (first + last) / 2;
        BB_TRY(r->s->local(r->s->local_self, r->pool.items[bb_pool_best(&r->pool, r->budgets[at], r->confirm)].x, &s, err));
        r->s->other_tokens += s.tokens;
        BB_TRY(use_anchor(r, first, last, &s, err));
    }
    if (n == 0) goto done;
    BB_TRY(bb_refine_confirm_best(r, r->confirmed, err));
    bb_refine_report(r, "anchors", 0, r->confirm);
done:
    return status;
}
