/* SPDX-License-Identifier: GPL-3.0-or-later
 * rounds.c: propose, race at level 0, confirm: until nothing changes or the tokens are used up. */
#include "base/mem.h"
#include "search/refine/parts.h"

/* Plans wanted by several budgets are evaluated once. */
bb_status bb_refine_confirm_best(bb_refine *r, size_t count, bb_err *err)
{
    bb_status status = BB_OK;
    size_t   *list = BB_NEW(r->n * count, size_t, err), n = 0;
    if (!list) return BB_NOMEM;
    for (size_t b = 0; r->confirm > 0 && b < r->n; b++) {
        size_t      *best = list + n;
        const size_t incumbent = bb_pool_best(&r->pool, r->budgets[b], r->confirm);
        const size_t m = bb_pool_ranking(&r->pool, r->budgets[b], 0, r->confirm, count, best);
        for (size_t i = 0; i < m; i++) {
            double mean = -1, se = 0;
            bool   listed = false;
            if (incumbent != SIZE_MAX) BB_TRY(bb_pool_difference(&r->pool, best[i], incumbent, 0, &mean, &se, err));
            for (size_t k = 0; k < n && !listed; k++) listed = list[k] == best[i];
            if (!listed && mean <= 0.5 * se) list[n++] = best[i]; /* n never passes the place that is read */
        }
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, r->confirm, err));
done:
    bb_free(list);
    return status;
}

/* One round; *changed: how many incumbents are new. */
static bb_status one_round(bb_refine *r, uint32_t round, size_t *changed, bb_err *err)
{
    bb_status status = BB_NOMEM;
    size_t   *list = BB_NEW(r->n * r->candidates, size_t, err), *before = BB_NEW(r->n, size_t, err), n = 0;
    if (!list || !before) goto done;
    for (size_t b = 0; b < r->n; b++) before[b] = bb_pool_best(&r->pool, r->budgets[b], r->confirm);
    BB_TRY(bb_refine_make_proposals(r, round, list, &n, err));
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
    BB_TRY(bb_refine_confirm_best(r, r->confirmed, err));
    *changed = 0;
    for (size_t b = 0; b < r->n; b++) *changed += before[b] != bb_pool_best(&r->pool, r->budgets[b], r->confirm);
    bb_refine_report(r, "round", round, r->confirm);
done:
    bb_free(list);
    bb_free(before);
    return status;
}

bb_status bb_refine_rounds(bb_refine *r, bb_stop_reason *why, bb_err *err)
{
    bb_status status = BB_OK;
    uint32_t  still = 0;
    *why = BB_STOP_ROUNDS;
    for (uint32_t round = 1; round <= r->max_rounds; round++) {
        const double planned = (double)r->n *
                               (r->candidates * bb_refine_tokens_at(r, 0) + (r->confirm > 0 ? r->confirmed : 0) * bb_refine_tokens_at(r, r->confirm));
        size_t changed = 0;
        if (!bb_refine_has_room(r, planned, 1)) {
            if (!bb_search_is_over(r->s, why)) *why = BB_STOP_TOKENS;
            break;
        }
        BB_TRY(one_round(r, round, &changed, err));
        still = changed ? 0 : still + 1;
        if (still >= r->patience) {
            *why = BB_STOP_STALL;
            break;
        }
    }
done:
    return status;
}
