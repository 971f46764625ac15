/* SPDX-License-Identifier: GPL-3.0-or-later
 * refine.c: the method "refine", the default: from the separable front to plans of low true KL, for many budgets at once and few evaluations.
 *
 * Method, one run for all budgets:
 *   seeds    (seeds.c) separable solutions of the table and of tilted tables (tilts.c: powers, controllers dearer or cheaper, controllers pinned, random
 *            factors), the quadratic optimum where a Gram matrix is given, and the caller's plans, all at level 0;
 *   anchors  (anchors.c) where the caller can measure a local score: around the incumbents of a few budgets. Each budget solves the nearest one's quadratic (or
 *            separable) problem, from its own incumbent, with several prices on every changed unit: the farther a plan is from where it was
 *            measured, the less the score is to be trusted. All go to level 0 and on as any proposal;
 *   rounds   (rounds.c, proposals.c) a surrogate (surrogate.h) is fitted to everything evaluated near each budget. It proposes the optimum of its mean, optima of
 *            posterior samples, byte-trading pair moves from the incumbent (chosen by sampled tables, bits of one unit against bits, channels or
 *            KV groups of another), and the incumbents of neighbouring budgets, repaired or topped up. Level 0 scores them on the incumbent's own
 *            windows; those that a paired test finds worse are dropped (racing), the best go to level 1, where the incumbent may change;
 *   final    (final.c) successive halving of the best plans of each budget through the remaining levels, with the plain separable plan beside them; what beats it
 *            by no more than a standard error of the paired difference at the top level is left out.
 * Every plan serves all budgets from its size up. Sizes are exact, and every proposal is topped up so that its slack is smaller than the
 * cheapest upgrade. The idea of paired screening on few tokens is EvoPress's [1], the surrogate loop is AMQ's [2]; differences: the moves come
 * from a posterior around an exact solver, and budgets share evaluations.
 *
 * [1] Sieberling et al. EvoPress. arXiv 2410.14649.  [2] Lee et al. AMQ. arXiv 2509.12019. */
#include <math.h>

#include "base/mem.h"
#include "search/refine/parts.h"

#define PROPOSALS 24   /* that a budget has had in vain, before it is settled: gains come in jumps (SmolLM2: 2 per cent after six rounds of five without any) */
#define BASE_SHARE 0.4 /* of the budgets whose separable plan is still a finalist (measured: a third) */

static uint32_t clamp(uint32_t v, uint32_t lo, uint32_t hi) { return v < lo ? lo : v > hi ? hi : v; }

static bb_status sort_budgets(bb_refine *r, bb_err *err)
{
    r->n = r->s->n_budgets;
    r->budgets = BB_NEW(r->n, int64_t, err);
    r->order = BB_NEW(r->n, size_t, err);
    r->base = BB_NEW(r->n, size_t, err);
    r->mark = BB_NEW(r->n, double, err);
    r->still = BB_NEW0(r->n, uint32_t, err);
    if (!r->budgets || !r->order || !r->base || !r->mark || !r->still) return BB_NOMEM;
    for (size_t i = 0; i < r->n; i++) {
        size_t k = i;
        for (; k > 0 && r->budgets[k - 1] > r->s->budgets[i]; k--) {
            r->budgets[k] = r->budgets[k - 1];
            r->order[k] = r->order[k - 1];
        }
        r->budgets[k] = r->s->budgets[i];
        r->order[k] = i;
    }
    return BB_OK;
}

static bb_status refine_init(bb_refine *r, bb_err *err)
{
    bb_status status = BB_OK;
    if (r->s->n_budgets == 0) return BB_FAIL(err, BB_USAGE, "refinement needs at least one budget");
    BB_TRY(bb_pool_init(r->s->space, r->s->ledger, &r->pool, err));
    BB_TRY(sort_budgets(r, err));
    r->top = bb_search_top(r->s);
    r->confirm = r->top < 1 ? r->top : 1;
    r->candidates = r->s->candidates ? r->s->candidates : clamp((uint32_t)(48 / r->n), 4, 16);
    r->max_rounds = r->s->stop.max_rounds ? r->s->stop.max_rounds : 24;
    const uint32_t enough = (PROPOSALS + r->candidates - 1) / r->candidates;
    r->patience = r->s->stop.patience ? r->s->stop.patience : enough > 3 ? enough : 3;
    /* With many budgets tokens do more in rounds than in finals, and neighbours' finalists serve as well (measured on synthetic worlds:
     * 12 budgets, 2.5 M tokens, geometric mean of KL 0.65, 0.60, 0.56 of the separable plan's with 3, 2, 1 finalists). */
    r->finalists = r->s->finalists ? r->s->finalists : r->n == 1 ? 3 : r->n < 4 ? 2 : 1;
    r->confirmed = r->n < 4 ? 2 : 1;
    for (uint32_t u = 0; u < r->s->problem->n_units; u++) r->has_controllers |= bb_space_is_controller(r->s->space, u);
done:
    return status;
}

static void refine_done(bb_refine *r)
{
    bb_pool_done(&r->pool);
    bb_free(r->budgets);
    bb_free(r->order);
    bb_free(r->base);
    bb_free(r->mark);
    bb_free(r->still);
    bb_free(r->tilted);
    bb_free(r->y);
}

double bb_refine_tokens_at(const bb_refine *r, uint32_t level)
{
    const bb_evaluator *e = bb_ledger_evaluator(r->s->ledger);
    for (size_t i = 0; i < r->pool.n; i++) {
        bb_ledger_entry first;
        bool            found;
        if (isnan(r->pool.items[i].kl[0]) || bb_ledger_find(r->s->ledger, r->pool.items[i].x, 0, &first, &found, NULL) != BB_OK || !found) continue;
        return first.score.tokens / e->n_windows[0] * e->n_windows[level];
    }
    return 0;
}

bool bb_refine_has_room(const bb_refine *r, double planned, double share)
{
    double reserve = 0;
    for (uint32_t level = r->confirm + 1; level <= r->top; level++)
        reserve += (double)r->n * (r->finalists * (double)(1u << (r->top - level)) + (level == r->top ? BASE_SHARE : 0)) * bb_refine_tokens_at(r, level);
    return bb_search_has_room(r->s, planned, reserve, share);
}

void bb_refine_report(const bb_refine *r, const char *stage, uint32_t round, uint32_t level)
{
    for (size_t b = 0; r->s->progress && b < r->n; b++) {
        const size_t at = bb_pool_best(&r->pool, r->budgets[b], level);
        if (at == SIZE_MAX) continue;
        const bb_pool_item  *item = &r->pool.items[at];
        const bb_search_step step = { stage, round, r->order[b], item->size_bytes, item->kl[level], level, item->source, bb_search_spent(r->s) };
        r->s->progress(r->s->progress_self, &step);
    }
}

static bb_status refine(const bb_search_method *m, bb_search *s, bb_err *err)
{
    bb_status status = BB_OK;
    bb_refine r = { .s = s };
    (void)m;
    s->why = BB_STOP_ROUNDS;
    BB_TRY(refine_init(&r, err));
    BB_TRY(bb_refine_seeds(&r, err));
    BB_TRY(bb_refine_anchors(&r, err));
    BB_TRY(bb_refine_rounds(&r, &s->why, err));
    for (uint32_t level = r.confirm + 1; level <= r.top; level++) BB_TRY(bb_refine_final_level(&r, level, err));
    bb_refine_report(&r, "final", 0, r.top);
    BB_TRY(bb_refine_fill_archive(&r, err));
done:
    refine_done(&r);
    return status;
}

const bb_search_method bb_method_refine = { .name = "refine", .reference = "search/refine/refine.c", .whole_front = true, .uses_local = true, .run = refine };
