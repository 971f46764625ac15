/* SPDX-License-Identifier: GPL-3.0-or-later
 * proposals.c: what a round proposes for each budget: optima and pair moves of a surrogate's tables, tilts, neighbours' incumbents. Proposals of
 * different budgets are made in parallel from the same read-only pool and random streams of their own, then added in order, so that the number of
 * threads changes nothing. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "search/moves.h"
#include "search/refine/parts.h"
#include "search/surrogate.h"

#define N_PAIRS 48 /* pair moves looked at for one proposal */

/* Every plan's KL on the footing of the confirm level: level-0 scores are scaled by the geometric mean ratio of the two levels. */
static bb_status common_footing(bb_refine *r, bb_err *err)
{
    if (r->y_capacity < r->pool.n) {
        double *grown = bb_realloc(r->y, 2 * r->pool.n, sizeof *grown, err);
        if (!grown) return BB_NOMEM;
        r->y = grown;
        r->y_capacity = 2 * r->pool.n;
    }
    double sum = 0, n = 0;
    for (size_t i = 0; i < r->pool.n; i++) {
        const double a = r->pool.items[i].kl[0], b = r->pool.items[i].kl[r->confirm];
        if (!(a > 0) || !(b > 0) || !isfinite(a) || !isfinite(b)) continue;
        sum += log(b / a);
        n++;
    }
    const double ratio = n > 0 ? exp(sum / n) : 1;
    for (size_t i = 0; i < r->pool.n; i++) {
        const double *kl = r->pool.items[i].kl;
        r->y[i] = isnan(kl[r->confirm]) ? kl[0] * ratio : kl[r->confirm];
    }
    return BB_OK;
}

static bb_status fit(const bb_refine *r, int64_t budget, bb_surrogate *s, bb_err *err)
{
    bb_status        status = BB_NOMEM;
    const uint16_t **x = BB_NEW(r->pool.n, const uint16_t *, err);
    double          *w = BB_NEW(r->pool.n, double, err);
    if (!x || !w) goto done;
    for (size_t i = 0; i < r->pool.n; i++) {
        const double d = log((double)r->pool.items[i].size_bytes / (double)budget) / BB_NEIGHBOURHOOD;
        x[i] = r->pool.items[i].x;
        w[i] = exp(-0.5 * d * d);
        if (w[i] < 0.01) w[i] = 0;
    }
    status = bb_surrogate_fit(s, x, r->y, w, r->pool.n, err);
done:
    bb_free(x);
    bb_free(w);
    return status;
}

static bool is_known(const bb_refine *r, const uint16_t *x)
{
    for (size_t i = 0; i < r->pool.n; i++)
        if (memcmp(r->pool.items[i].x, x, r->s->problem->n_units * sizeof *x) == 0) return true;
    return false;
}

/* What one budget needs to make its proposals. */
typedef struct proposer {
    const bb_refine *r;
    int64_t          budget;
    const uint16_t  *incumbent;
    bb_surrogate     model;
    bb_variant       tables;
    bb_space         space; /* over tables.problem */
    double          *theta;
    bb_move         *moves;
    uint16_t        *start;
    bb_rng           rng;
} proposer;

static bb_status proposer_init(proposer *q, const bb_refine *r, size_t b, uint32_t round, bb_err *err)
{
    bb_status status = BB_OK;
    char      name[48];
    *q = (proposer) { .r = r, .budget = r->budgets[b] };
    q->incumbent = r->pool.items[bb_pool_best(&r->pool, q->budget, r->confirm)].x;
    snprintf(name, sizeof name, "refine/%u/%zu", round, r->order[b]);
    bb_rng_init(&q->rng, r->s->seed, name);
    BB_TRY(bb_surrogate_init(r->s->space, &q->model, err));
    BB_TRY(fit(r, q->budget, &q->model, err));
    BB_TRY(bb_variant_init(r->s->problem, &q->tables, err));
    BB_TRY(bb_space_init(&q->tables.problem, &q->space, err));
    q->theta = BB_NEW(q->model.n_params, double, err);
    q->moves = BB_NEW(r->s->space->offset[r->s->problem->n_units], bb_move, err);
    q->start = BB_NEW(r->s->problem->n_units, uint16_t, err);
    if (!q->theta || !q->moves || !q->start) status = BB_NOMEM;
done:
    return status;
}

static void proposer_done(proposer *q)
{
    bb_surrogate_done(&q->model);
    bb_space_done(&q->space);
    bb_variant_done(&q->tables);
    bb_free(q->theta);
    bb_free(q->moves);
    bb_free(q->start);
}

/* The optimum of the current tables. */
static bb_status propose_optimum(proposer *q, uint16_t *x, bb_err *err)
{
    bb_status     status = BB_OK;
    bb_separable *sep = NULL;
    BB_TRY(bb_separable_create(&q->tables.problem, NULL, &sep, err));
    BB_TRY(bb_separable_solve(sep, q->budget, x, NULL, err));
done:
    bb_separable_destroy(sep);
    return status;
}

/* The incumbent with the most promising pair move of the current tables whose result fits and is new. */
static bool propose_pair(proposer *q, uint16_t *x)
{
    const bb_problem *p = q->r->s->problem;
    bb_pair           pairs[N_PAIRS];
    const int64_t     slack = q->budget - bb_problem_size(p, x);
    const size_t      n = bb_moves_pairs(&q->space, x, slack, true, q->moves, pairs, N_PAIRS);
    memcpy(q->start, x, p->n_units * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        bb_moves_apply(&pairs[i], x);
        if (bb_space_settle(&q->space, x) && bb_problem_size(p, x) <= q->budget && !is_known(q->r, x)) return true;
        memcpy(x, q->start, p->n_units * sizeof *x);
    }
    return false;
}

/* The incumbent of the next smaller (or larger) budget, topped up (or repaired) by the current tables. */
static bool propose_neighbour(proposer *q, size_t b, uint32_t round, uint16_t *x)
{
    const bb_refine *r = q->r;
    const bool       down = round % 2 == 0;
    if ((down && b == 0) || (!down && b + 1 == r->n)) return false;
    const size_t at = bb_pool_best(&r->pool, r->budgets[down ? b - 1 : b + 1], r->confirm);
    memcpy(x, r->pool.items[at].x, r->s->problem->n_units * sizeof *x);
    return bb_space_repair(&q->space, x, q->budget);
}

static bb_status propose_tilt(proposer *q, const bb_tilt *t, uint16_t *x, bool *made, bb_err *err)
{
    bb_variant    v = { 0 };
    bb_separable *sep = NULL;
    bb_status     status = BB_OK;
    BB_TRY(bb_tilt_tables(q->r, t, &v, err));
    BB_TRY(bb_separable_create(&v.problem, NULL, &sep, err));
    BB_TRY(bb_tilt_solve(q->r, t, sep, q->budget, x, made, err));
    *made = *made && !is_known(q->r, x);
done:
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    return status;
}

/* Fills x[candidates][n_units] and used[candidates]: a source name (that of t[], where a tilt has made it), or NULL when there is nothing new. */
static bb_status propose_all(const bb_refine *r, size_t b, uint32_t round, uint16_t *x, const char **used, bb_tilt *t, bb_err *err)
{
    bb_status    status = BB_OK;
    const size_t width = r->s->problem->n_units;
    proposer     q;
    BB_TRY(proposer_init(&q, r, b, round, err));
    for (uint32_t c = 0; c < r->candidates; c++) {
        uint16_t *y = x + c * width;
        used[c] = NULL;
        if (c == 2 || (c == 1 && round % 2)) {
            bool made;
            t[c] = bb_tilt_mutate(r, b, &q.rng);
            BB_TRY(propose_tilt(&q, &t[c], y, &made, err));
            if (made) {
                used[c] = t[c].name;
                continue;
            }
        }
        if (c > 0) bb_surrogate_sample(&q.model, &q.rng, q.theta);
        bb_surrogate_tables(&q.model, c > 0 ? q.theta : NULL, &q.tables);
        if (c == 1 && propose_neighbour(&q, b, round, y)) used[c] = "neighbour";
        else if (c % 2 == 0) {
            BB_TRY(propose_optimum(&q, y, err));
            used[c] = c ? "sample" : "surrogate";
        }
        if (used[c]) bb_space_topup(&q.space, y, q.budget);
        if (used[c] && !is_known(r, y)) continue;
        memcpy(y, q.incumbent, width * sizeof *y);
        used[c] = propose_pair(&q, y) ? "pair" : NULL;
        if (used[c] && bb_rng_below(&q.rng, 2)) propose_pair(&q, y);
    }
done:
    proposer_done(&q);
    return status;
}

/* Proposals of all budgets that are not settled, in parallel, then into the pool in order; list receives the new ones. */
bb_status bb_refine_make_proposals(bb_refine *r, uint32_t round, size_t *list, size_t *n, bb_err *err)
{
    bb_status    status = BB_NOMEM;
    const size_t width = r->s->problem->n_units, block = r->candidates * width;
    uint16_t    *x = BB_NEW(r->n * block, uint16_t, err);
    const char **used = BB_NEW0(r->n * r->candidates, const char *, err);
    bb_tilt     *tilts_used = BB_NEW0(r->n * r->candidates, bb_tilt, err);
    bb_status   *each = BB_NEW(r->n, bb_status, err);
    bb_err      *errs = BB_NEW0(r->n, bb_err, err);
    *n = 0;
    if (!x || !used || !tilts_used || !each || !errs) goto done;
    BB_TRY(common_footing(r, err));
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t b = 0; b < r->n; b++)
        each[b] = bb_refine_is_settled(r, b) ? BB_OK
                                             : propose_all(r, b, round, x + b * block, used + b * r->candidates, tilts_used + b * r->candidates, &errs[b]);
    for (size_t b = 0; b < r->n; b++) {
        if (each[b] != BB_OK) status = BB_FAIL(err, each[b], "%s", errs[b].msg);
        BB_TRY(each[b]);
        for (uint32_t c = 0; c < r->candidates; c++) {
            const size_t at = b * r->candidates + c, before = *n;
            if (!used[at]) continue;
            BB_TRY(bb_refine_propose(r, x + b * block + c * width, r->budgets[b], used[at], list, n, err));
            if (used[at] == tilts_used[at].name && *n > before) BB_TRY(bb_tilt_record(r, &tilts_used[at], b, list[before], err));
        }
    }
    status = BB_OK;
done:
    bb_free(x);
    bb_free(used);
    bb_free(tilts_used);
    bb_free(each);
    bb_free(errs);
    return status;
}
