/* SPDX-License-Identifier: GPL-3.0-or-later
 * final.c: the best plans of each budget through the remaining levels, with the plain separable plan beside them. */
#include <math.h>

#include "base/mem.h"
#include "search/refine/parts.h"

#define PROOF 1         /* standard errors by which a winner must beat the plain separable plan */
#define N_CONTENDERS 16 /* winners of a budget that are held against it */

/* Whether the plain separable plan of a budget stands beside its finalists at the top level. Not when a paired test below has spoken: z above 3
 * over the windows of the confirm level, or above 6 over the few of level 0. */
static bb_status wants_base(const bb_refine *r, size_t b, bool *wanted, bb_err *err)
{
    bb_status    status = BB_OK;
    const double limit[2] = { 6, 3 };
    *wanted = true;
    for (uint32_t level = 0; *wanted && level <= r->confirm && level < r->top && level < 2; level++) {
        const size_t best = bb_pool_best(&r->pool, r->budgets[b], level);
        double       mean, se;
        if (best == SIZE_MAX || best == r->base[b] || isnan(r->pool.items[r->base[b]].kl[level])) continue;
        BB_TRY(bb_pool_difference(&r->pool, r->base[b], best, level, &mean, &se, err));
        *wanted = !(se > 0 && mean > limit[level] * se);
    }
done:
    return status;
}

bb_status bb_refine_final_level(bb_refine *r, uint32_t level, bb_err *err)
{
    bb_status    status = BB_OK;
    const size_t count = (size_t)r->finalists << (r->top - level);
    size_t      *list = BB_NEW(r->n * (count + 1), size_t, err), n = 0;
    if (!list) return BB_NOMEM;
    for (size_t b = 0; b < r->n; b++) {
        n += bb_pool_ranking(&r->pool, r->budgets[b], level - 1, UINT32_MAX, count, list + n);
        bool wanted = level == r->top;
        if (wanted) BB_TRY(wants_base(r, b, &wanted, err));
        if (wanted) list[n++] = r->base[b];
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, level, err)); /* the ledger drops repetitions */
done:
    bb_free(list);
    return status;
}

typedef enum standing { UNTRIED, UNPROVEN, PROVEN } standing;

/* A plan that beats a budget's plain separable plan by no more than PROOF standard errors of the paired difference is lower by chance: the
 * simpler plan stands there. What stands at some budget is proven. */
static bb_status judge(bb_refine *r, standing *of, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t b = 0; b < r->n; b++) {
        const size_t base = r->base[b];
        const bool   ruled_out = isnan(r->pool.items[base].kl[r->top]);
        size_t       best[N_CONTENDERS];
        const size_t n = bb_pool_ranking(&r->pool, r->budgets[b], r->top, UINT32_MAX, N_CONTENDERS, best);
        bool         stands = false;
        for (size_t i = 0; i < n && !stands; i++) {
            double mean = 1, se = 0;
            if (!ruled_out && best[i] != base) BB_TRY(bb_pool_difference(&r->pool, base, best[i], r->top, &mean, &se, err));
            stands = mean > PROOF * se;
            if (stands || of[best[i]] == UNTRIED) of[best[i]] = stands ? PROVEN : UNPROVEN;
        }
    }
done:
    return status;
}

bb_status bb_refine_fill_archive(bb_refine *r, bb_err *err)
{
    bb_status status = BB_NOMEM;
    standing *of = BB_NEW0(r->pool.n, standing, err);
    if (!of) return BB_NOMEM;
    BB_TRY(judge(r, of, err));
    for (size_t i = 0; i < r->pool.n; i++) {
        const bb_pool_item *item = &r->pool.items[i];
        if (!isnan(item->kl[r->top]) && of[i] != UNPROVEN) BB_TRY(bb_search_keep(r->s, item->x, item->source, err));
    }
done:
    bb_free(of);
    return status;
}
