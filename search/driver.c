/* SPDX-License-Identifier: GPL-3.0-or-later
 * driver.c: the only loop around algorithms. */
#include "search/driver.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "search/pool.h"

#define MAX_ASK 1024

typedef struct drive {
    const bb_algorithm        *a;
    const bb_algorithm_config *c;
    bb_ledger                 *ledger;
    const bb_drive_options    *o;
    bb_pool   pool;
    void     *state;
    uint16_t *x;
    bb_score *scores;
    size_t   *at;
    uint32_t  top;
} drive;

static bb_status drive_init(drive *d, bb_err *err)
{
    bb_status status = BB_OK;
    d->top = bb_ledger_evaluator(d->ledger)->n_levels - 1;
    BB_TRY(bb_pool_init(d->c->space, d->ledger, &d->pool, err));
    d->x = BB_NEW((size_t)MAX_ASK * d->c->space->problem->n_units, uint16_t, err);
    d->scores = BB_NEW(MAX_ASK, bb_score, err);
    d->at = BB_NEW(MAX_ASK, size_t, err);
    if (!d->x || !d->scores || !d->at) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(d->a->create(d->c, &d->state, err));
done:
    return status;
}

/* One ask and tell. *n: how many were asked, *fresh: evaluations that are new in this session. */
static bb_status step(drive *d, size_t *n, uint64_t *fresh, bb_err *err)
{
    bb_status         status = BB_OK;
    const bb_problem *p = d->c->space->problem;
    const uint64_t    before = bb_ledger_asked(d->ledger);
    uint32_t          level = 0;
    *n = d->a->ask(d->state, d->x, MAX_ASK, &level);
    for (size_t i = 0; i < *n; i++) {
        const uint16_t *x = d->x + i * p->n_units;
        BB_ASSERT(!bb_is_forbidden(bb_problem_bound(p, x)));
        BB_ASSERT(bb_problem_size(p, x) <= d->c->budgets[d->c->n_budgets - 1]);
        BB_TRY(bb_pool_add(&d->pool, x, d->a->name, &d->at[i], NULL, err));
    }
    BB_TRY(bb_pool_evaluate(&d->pool, d->at, *n, level, err));
    for (size_t i = 0; i < *n; i++) d->scores[i] = (bb_score){.kl = d->pool.items[d->at[i]].kl[level]};
    BB_TRY(d->a->tell(d->state, d->scores, *n, err));
    *fresh = bb_ledger_asked(d->ledger) - before;
    if (d->o->progress) {
        const size_t best = bb_pool_best(&d->pool, d->c->budgets[d->c->n_budgets - 1], level);
        d->o->progress(d->o->progress_self, bb_ledger_asked(d->ledger), bb_ledger_tokens(d->ledger),
                       best == SIZE_MAX ? (double)NAN : d->pool.items[best].kl[level], level);
    }
done:
    return status;
}

static bb_status loop(drive *d, bb_drive_stop *why, bb_err *err)
{
    bb_status      status = BB_OK;
    const uint32_t limit = d->o->stall ? d->o->stall : 2000;
    for (size_t still = 0;;) {
        size_t   n = 0;
        uint64_t fresh = 0;
        *why = BB_DRIVE_EVALUATIONS;
        if (d->o->max_evaluations && bb_ledger_asked(d->ledger) >= d->o->max_evaluations) break;
        *why = BB_DRIVE_TOKENS;
        if (d->o->max_tokens > 0 && bb_ledger_tokens(d->ledger) >= d->o->max_tokens) break;
        BB_TRY(step(d, &n, &fresh, err));
        *why = BB_DRIVE_DONE;
        if (n == 0) break;
        still = fresh ? 0 : still + n;
        *why = BB_DRIVE_STALL;
        if (still >= limit) break;
    }
done:
    return status;
}

/* The best of each budget, by the highest level below the top that any of its plans has. */
static bb_status finish(drive *d, bb_archive *out, bb_err *err)
{
    bb_status    status = BB_OK;
    const size_t count = d->o->finalists ? d->o->finalists : 3;
    size_t      *list = BB_NEW(count, size_t, err);
    if (!list) return BB_NOMEM;
    for (size_t b = 0; b < d->c->n_budgets; b++)
        for (uint32_t level = d->top + 1; level-- > 0;) {
            const size_t n = bb_pool_ranking(&d->pool, d->c->budgets[b], level, UINT32_MAX, count, list);
            if (n == 0) continue;
            BB_TRY(bb_pool_evaluate(&d->pool, list, n, d->top, err));
            if (level < d->top) break;
        }
    for (size_t i = 0; i < d->pool.n; i++) {
        const bb_pool_item *item = &d->pool.items[i];
        bb_ledger_entry     scored;
        bool                found = false;
        if (isnan(item->kl[d->top])) continue;
        BB_TRY(bb_ledger_find(d->ledger, item->x, d->top, &scored, &found, err));
        bb_archive_entry e = {.x = item->x, .size_bytes = item->size_bytes, .score = scored.score};
        e.proxy = bb_problem_cost(d->c->space->problem, item->x);
        e.proxy_bound = (double)NAN;
        memcpy(e.hash, scored.hash, sizeof e.hash);
        memcpy(e.source, item->source, sizeof e.source);
        BB_TRY(bb_archive_insert(out, &e, NULL, err));
    }
done:
    bb_free(list);
    return status;
}

bb_status bb_drive(const bb_algorithm *a, const bb_algorithm_config *c, bb_ledger *ledger, const bb_drive_options *o, bb_archive *out,
                   bb_drive_stop *why, bb_err *err)
{
    bb_status     status = BB_OK;
    bb_drive_stop stop = BB_DRIVE_DONE;
    drive         d = {.a = a, .c = c, .ledger = ledger, .o = o};
    BB_TRY(drive_init(&d, err));
    BB_TRY(loop(&d, &stop, err));
    BB_TRY(finish(&d, out, err));
    if (why) *why = stop;
done:
    if (d.state) a->destroy(d.state);
    bb_pool_done(&d.pool);
    bb_free(d.x);
    bb_free(d.scores);
    bb_free(d.at);
    return status;
}
