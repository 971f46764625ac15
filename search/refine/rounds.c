/* SPDX-License-Identifier: GPL-3.0-or-later
 * rounds.c: propose, race at level 0, confirm: until nothing changes or the tokens are used up. */
#include "base/mem.h"
#include "search/refine/parts.h"

#define GAIN 0.005 /* of its KL: less in `patience` rounds, and a budget is settled */

bool bb_refine_is_settled(const bb_refine *r, size_t b) { return r->still[b] >= r->patience; }

static double incumbent_kl(const bb_refine *r, size_t b) { return r->pool.items[bb_pool_best(&r->pool, r->budgets[b], r->confirm)].kl[r->confirm]; }

/* Behind each round; *active: budgets that are not settled. */
static void note_gains(bb_refine *r, size_t *active)
{
    *active = 0;
    for (size_t b = 0; b < r->n; b++) {
        const double kl = incumbent_kl(r, b);
        if (kl < (1 - GAIN) * r->mark[b]) {
            r->mark[b] = kl;
            r->still[b] = 0;
        } else r->still[b]++;
        *active += !bb_refine_is_settled(r, b);
    }
}

/* Of budgets that are not settled; plans wanted by several are evaluated once. */
bb_status bb_refine_confirm_best(bb_refine *r, size_t count, bb_err *err)
{
    bb_status status = BB_OK;
    size_t   *list = BB_NEW(r->n * count, size_t, err), n = 0;
    if (!list) return BB_NOMEM;
    for (size_t b = 0; r->confirm > 0 && b < r->n; b++) {
        if (bb_refine_is_settled(r, b)) continue;
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

static bb_status one_round(bb_refine *r, uint32_t round, bb_err *err)
{
    bb_status status = BB_OK;
    size_t   *list = BB_NEW(r->n * r->candidates, size_t, err), n = 0;
    if (!list) return BB_NOMEM;
    BB_TRY(bb_refine_make_proposals(r, round, list, &n, err));
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
    BB_TRY(bb_refine_confirm_best(r, r->confirmed, err));
    bb_refine_report(r, "round", round, r->confirm);
done:
    bb_free(list);
    return status;
}

bb_status bb_refine_rounds(bb_refine *r, bb_stop_reason *why, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    active = r->n;
    *why = BB_STOP_ROUNDS;
    for (size_t b = 0; b < r->n; b++) r->mark[b] = incumbent_kl(r, b);
    for (uint32_t round = 1; round <= r->max_rounds; round++) {
        const double planned = (double)active *
                               (r->candidates * bb_refine_tokens_at(r, 0) + (r->confirm > 0 ? r->confirmed : 0) * bb_refine_tokens_at(r, r->confirm));
        if (!bb_refine_has_room(r, planned, 1)) {
            if (!bb_search_is_over(r->s, why)) *why = BB_STOP_TOKENS;
            break;
        }
        BB_TRY(one_round(r, round, err));
        note_gains(r, &active);
        if (active == 0) {
            *why = BB_STOP_STALL;
            break;
        }
    }
done:
    return status;
}
