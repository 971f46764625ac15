/* SPDX-License-Identifier: GPL-3.0-or-later
 * driver.c: the only loop around ask/tell algorithms: asks, scores through the ledger, tells, until the stop rule holds; then scores the best plans of
 * each budget at the top level. Everything asked is checked (loadable, within the largest budget, allowed) before it is evaluated; a candidate that
 * is too large is a BB_ASSERT. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "search/algs/algorithm.h"
#include "search/pool.h"

#define MAX_ASK 8192  /* of a generation: EvoPress may have 4096 plans (--offspring), and its parents */
#define PATIENCE 2000 /* candidates in a row without a new one */
#define FINALISTS 3

typedef struct drive {
    const bb_search_method *m;
    const bb_search        *s;
    bb_algorithm_config     c;
    int64_t                *budgets; /* [c.n_budgets] ascending */
    size_t                  last;    /* index of the largest in s->budgets */
    uint16_t               *starts;  /* c.starts */
    bb_pool                 pool;
    void                   *state;
    uint16_t               *x;
    bb_score               *scores;
    size_t                 *at;
    uint32_t                top;
    uint32_t                n_asked;  /* times */
    double                  shown;    /* KL that was reported last, */
    uint32_t                shown_at; /* at this level */
} drive;

static int by_bytes(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void add_start(drive *d, const uint16_t *x)
{
    const uint32_t width = d->s->problem->n_units;
    if (bb_problem_size(d->s->problem, x) <= d->budgets[d->c.n_budgets - 1]) memcpy(d->starts + d->c.n_starts++ * width, x, width * sizeof *x);
}

/* The plans that the context gives, and uniform ones: all of a single budget, the best one of each where a run serves several. */
static bb_status find_starts(drive *d, bb_err *err)
{
    const uint32_t width = d->s->problem->n_units;
    char           names[BB_N_UNIFORM][BB_SOURCE];
    uint16_t      *x = BB_NEW(BB_N_UNIFORM * (size_t)width, uint16_t, err);
    bb_status      status = BB_OK;
    d->starts = BB_NEW((d->s->n_starts + BB_N_UNIFORM * d->c.n_budgets) * width, uint16_t, err);
    if (!x || !d->starts) status = BB_NOMEM;
    BB_TRY(status);
    for (size_t i = 0; i < d->s->n_starts; i++) add_start(d, d->s->starts + i * width);
    for (size_t b = d->c.n_budgets; b-- > 0;) {
        size_t n;
        BB_TRY(bb_search_uniform(d->s, d->budgets[b], x, names, &n, NULL, NULL, err));
        if (d->c.n_budgets > 1 && n > 1) n = 1;
        for (size_t i = 0; i < n; i++) add_start(d, x + i * width);
    }
    d->c.starts = d->starts;
done:
    bb_free(x);
    return status;
}

/* How many evaluations at the algorithm's level the stop rule leaves; 0: no telling. */
static uint64_t horizon(const drive *d)
{
    const bb_stop_rule *stop = &d->s->stop;
    const double        one = (double)bb_ledger_evaluator(d->s->ledger)->n_windows[d->c.level] * d->s->window_tokens;
    if (stop->max_tokens > 0 && one > 0)
        return (uint64_t)fmin(0x1p62, fmax(0, (stop->max_tokens - bb_search_spent(d->s)) / one)); /* in the range of the type */
    return stop->max_evaluations > bb_ledger_asked(d->s->ledger) ? stop->max_evaluations - bb_ledger_asked(d->s->ledger) : 0;
}

static bb_status drive_init(drive *d, bb_err *err)
{
    const bb_search *s = d->s;
    const uint32_t   level = s->one_level ? s->one_level - 1 : d->m->level;
    bb_status        status = BB_NOMEM;
    d->top = bb_search_top(s);
    d->shown = (double)NAN;
    d->budgets = BB_NEW(s->n_budgets, int64_t, err);
    d->x = BB_NEW((size_t)MAX_ASK * s->problem->n_units, uint16_t, err);
    d->scores = BB_NEW(MAX_ASK, bb_score, err);
    d->at = BB_NEW(MAX_ASK, size_t, err);
    if (!d->budgets || !d->x || !d->scores || !d->at) goto done;
    memcpy(d->budgets, s->budgets, s->n_budgets * sizeof *d->budgets);
    qsort(d->budgets, s->n_budgets, sizeof *d->budgets, by_bytes);
    for (size_t b = 1; b < s->n_budgets; b++)
        if (s->budgets[b] > s->budgets[d->last]) d->last = b;
    d->c = (bb_algorithm_config) { .space = s->space,
                                   .budgets = d->budgets,
                                   .n_budgets = s->n_budgets,
                                   .seed = s->seed,
                                   .n_levels = d->top + 1,
                                   .level = level < d->top ? level : d->top,
                                   .population = s->candidates };
    BB_TRY(bb_pool_init(s->space, s->ledger, &d->pool, err));
    BB_TRY(find_starts(d, err));
    d->c.horizon = horizon(d);
    BB_TRY(d->m->algorithm->create(&d->c, &d->state, err));
done:
    return status;
}

/* When the best plan of the largest budget has changed. */
static void report(drive *d, const char *stage, uint32_t level)
{
    const size_t best = bb_pool_best(&d->pool, d->budgets[d->c.n_budgets - 1], level);
    if (!d->s->progress || best == SIZE_MAX) return;
    const bb_pool_item *item = &d->pool.items[best];
    if (d->shown_at == level && item->kl[level] == d->shown) return;
    d->shown = item->kl[level];
    d->shown_at = level;
    const bb_search_step t = { stage, d->n_asked, d->last, item->size_bytes, item->kl[level], level, item->source, bb_search_spent(d->s) };
    d->s->progress(d->s->progress_self, &t);
}

/* One ask and tell. *n: how many were asked, *fresh: evaluations that are new in this session. */
static bb_status step(drive *d, size_t *n, uint64_t *fresh, bb_err *err)
{
    bb_status         status = BB_OK;
    const bb_problem *p = d->s->problem;
    const uint64_t    before = bb_ledger_asked(d->s->ledger);
    uint32_t          level = 0;
    d->n_asked++;
    *n = d->m->algorithm->ask(d->state, d->x, MAX_ASK, &level);
    for (size_t i = 0; i < *n; i++) {
        const uint16_t *x = d->x + i * p->n_units;
        BB_ASSERT(!bb_is_forbidden(bb_problem_bound(p, x)));
        BB_ASSERT(bb_problem_size(p, x) <= d->budgets[d->c.n_budgets - 1]);
        BB_TRY(bb_pool_add(&d->pool, x, d->m->name, &d->at[i], NULL, err));
    }
    BB_TRY(bb_pool_evaluate(&d->pool, d->at, *n, level, err));
    for (size_t i = 0; i < *n; i++) d->scores[i] = (bb_score) { .kl = d->pool.items[d->at[i]].kl[level] };
    BB_TRY(d->m->algorithm->tell(d->state, d->scores, *n, err));
    *fresh = bb_ledger_asked(d->s->ledger) - before;
    report(d, "asked", level);
done:
    return status;
}

static bb_status loop(drive *d, bb_stop_reason *why, bb_err *err)
{
    bb_status      status = BB_OK;
    const uint32_t limit = d->s->stop.patience ? d->s->stop.patience : PATIENCE;
    for (size_t still = 0; !bb_search_is_over(d->s, why);) {
        size_t   n = 0;
        uint64_t fresh = 0;
        BB_TRY(step(d, &n, &fresh, err));
        *why = BB_STOP_DONE;
        if (n == 0) break;
        still = fresh ? 0 : still + n;
        *why = BB_STOP_STALL;
        if (still >= limit) break;
    }
done:
    return status;
}

/* The best of each budget, by the highest level below the top that any of its plans has. */
static bb_status finish(drive *d, bb_err *err)
{
    bb_status    status = BB_OK;
    const size_t count = d->s->finalists ? d->s->finalists : FINALISTS;
    size_t      *list = BB_NEW(count, size_t, err);
    if (!list) return BB_NOMEM;
    for (size_t b = 0; b < d->c.n_budgets; b++)
        for (uint32_t level = d->top + 1; level-- > 0;) {
            const size_t n = bb_pool_ranking(&d->pool, d->budgets[b], level, UINT32_MAX, count, list);
            if (n == 0) continue;
            BB_TRY(bb_pool_evaluate(&d->pool, list, n, d->top, err));
            if (level < d->top) break;
        }
    report(d, "final", d->top);
    for (size_t i = 0; i < d->pool.n; i++)
        if (!isnan(d->pool.items[i].kl[d->top])) BB_TRY(bb_search_keep(d->s, d->pool.items[i].x, d->pool.items[i].source, err));
done:
    bb_free(list);
    return status;
}

static bb_status drive_once(const bb_search_method *m, bb_search *s, bb_err *err)
{
    drive     d = { .m = m, .s = s };
    bb_status status;
    s->why = BB_STOP_DONE;
    BB_TRY(drive_init(&d, err));
    BB_TRY(loop(&d, &s->why, err));
    BB_TRY(finish(&d, err));
done:
    if (d.state) m->algorithm->destroy(d.state);
    bb_pool_done(&d.pool);
    bb_free(d.budgets);
    bb_free(d.starts);
    bb_free(d.x);
    bb_free(d.scores);
    bb_free(d.at);
    return status;
}

/* Progress of a search that has one of another's budgets. */
typedef struct part {
    const bb_search *whole;
    size_t           budget_index;
} part;

static void pass_on(void *self, const bb_search_step *step)
{
    const part    *p = self;
    bb_search_step t = *step;
    t.budget_index = p->budget_index;
    p->whole->progress(p->whole->progress_self, &t);
}

bb_status bb_method_drive(const bb_search_method *m, bb_search *s, bb_err *err)
{
    const double   tokens = bb_search_spent(s), n = (double)s->n_budgets;
    const uint64_t asked = bb_ledger_asked(s->ledger);
    bb_err         why = BB_ERR_INIT;
    bool           any = false;
    if (m->whole_front || s->n_budgets == 1) return drive_once(m, s, err);
    for (size_t b = 0; b < s->n_budgets; b++) {
        bb_search one = *s;
        part      p = { s, b };
        bb_status status;
        one.budgets = s->budgets + b;
        one.n_budgets = 1;
        if (s->progress) {
            one.progress = pass_on;
            one.progress_self = &p;
        }
        if (s->stop.max_tokens > 0) one.stop.max_tokens = tokens + (s->stop.max_tokens - tokens) * (double)(b + 1) / n;
        if (s->stop.max_evaluations > asked) one.stop.max_evaluations = asked + (s->stop.max_evaluations - asked) * (b + 1) / s->n_budgets;
        status = drive_once(m, &one, &why);
        if (status != BB_OK && status != BB_INFEASIBLE) return BB_FAIL(err, status, "%s", why.msg);
        any |= status == BB_OK;
        s->why = one.why;
        s->other_tokens = one.other_tokens;
    }
    return any ? BB_OK : BB_FAIL(err, BB_INFEASIBLE, "%s", why.msg);
}
