/* SPDX-License-Identifier: GPL-3.0-or-later
 * scorer.c: see scorer.h. */
#include "engine/scorer.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "engine/ranks.h"

static bb_status score_candidate(bb_scorer_worker *w, const uint16_t *x, uint32_t level, bb_score *out, double *window_kl, bb_err *err)
{
    const bb_run *r = w->scorer->run;
    bb_net        net;
    bb_evaluation v;
    bb_status     status;
    BB_TRY(bb_database_apply_at(r->database, bb_model_space_problem(r->space)->plans, x, BB_NO_UNIT, 0, &net, w->blocks, err));
    BB_TRY(bb_net_evaluator_score(w->net, &net, level, &v, window_kl, err));
    /* The cost is stated without the prefix cache's luck, so that a token budget ends at the same plan in every replay. */
    *out = (bb_score) { .kl = v.kl,
                        .kl_se = v.kl_se,
                        .ppl = exp(v.nll),
                        .ppl_se = (double)NAN,
                        .top1 = v.top1,
                        .tokens = (double)w->scorer->n_windows[level] * (double)r->config.ctx };
done:
    return status;
}

static bb_status evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    const bb_scorer_worker *w = self;
    for (size_t i = 0; i < n; i++) {
        bb_status status = score_candidate(self, x[i], level, &out[i], window_kl ? window_kl[i] : NULL, err);
        if (status != BB_OK) return status;
        if (w->scorer->progress && !w->scorer->run->crew) bb_progress_add(w->scorer->progress, (uint64_t)out[i].tokens);
    }
    return BB_OK;
}

/* Of a crew: what others have scored is known when the batch is done. */
static bb_status evaluate_all(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    const bb_scorer *s = self;
    const bb_status  status = s->all.evaluator.evaluate(s->all.evaluator.self, x, n, level, out, window_kl, err);
    for (size_t i = 0; status == BB_OK && s->progress && i < n; i++) bb_progress_add(s->progress, (uint64_t)out[i].tokens);
    return status;
}

/* The caches of all workers together stay within --max-ram: the run's own evaluator has left them theirs (data.c). */
static bb_status start_worker(bb_scorer *s, uint32_t i, bb_err *err)
{
    bb_run           *r = s->run;
    bb_scorer_worker *w = &s->workers[i];
    bb_status         status = BB_OK;
    w->scorer = s;
    if (!(w->blocks = BB_NEW(r->model.net.n_layer, bb_block, err))) return BB_NOMEM;
    if (i == 0) w->net = r->evaluator;
    else BB_TRY(bb_net_evaluator_create(r->backend, &r->model, r->levels, BB_N_LEVELS, r->worker_room, &w->net, err));
    s->each[i] = (bb_evaluator) { w, BB_N_LEVELS, s->n_windows, evaluate, r->key };
done:
    return status;
}

bb_status bb_scorer_init(bb_run *r, bb_scorer *s, bb_err *err)
{
    bb_status status;
    memset(s, 0, sizeof *s);
    if ((status = bb_run_evaluator(r, err)) != BB_OK) return status;
    status = BB_NOMEM;
    s->run = r;
    s->n = (uint32_t)r->config.workers;
    r->others_room += (s->n - 1) * r->worker_room;
    if (!(s->workers = BB_NEW0(s->n, bb_scorer_worker, err)) || !(s->each = BB_NEW0(s->n, bb_evaluator, err))) goto done;
    for (uint32_t l = 0; l < BB_N_LEVELS; l++) s->n_windows[l] = bb_net_evaluator_windows(r->evaluator, l);
    for (uint32_t i = 0; i < s->n; i++) BB_TRY(start_worker(s, i, err));
    const uint32_t width = bb_model_space_problem(r->space)->n_units;
    s->threads = bb_crew_threads(s->n);
    bb_workers_init(&s->here, &s->threads, BB_JOB_SCORE, s->each, width);
    s->evaluator = s->one = s->n > 1 ? s->here.evaluator : s->each[0];
    if (r->crew) {
        bb_workers_init(&s->all, r->crew, BB_JOB_SCORE, &s->one, width);
        s->evaluator.self = s;
        s->evaluator.evaluate = evaluate_all;
    }
    status = BB_OK;
done:
    if (status != BB_OK) bb_scorer_done(s);
    return status;
}

void bb_scorer_done(bb_scorer *s)
{
    for (uint32_t i = 0; s->workers && i < s->n; i++) {
        if (i > 0) bb_net_evaluator_destroy(s->workers[i].net);
        bb_free(s->workers[i].blocks);
    }
    if (s->run) s->run->others_room -= (s->n - 1) * s->run->worker_room;
    s->run = NULL;
    bb_free(s->workers);
    bb_free(s->each);
    s->workers = NULL;
    s->each = NULL;
}
