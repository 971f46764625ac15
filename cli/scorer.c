/* SPDX-License-Identifier: GPL-3.0-or-later
 * scorer.c: see scorer.h. */
#include "cli/scorer.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

static bb_status score_candidate(bb_scorer *s, const uint16_t *x, uint32_t level, bb_score *out, double *window_kl, bb_err *err)
{
    bb_run       *r = s->run;
    bb_plan       plan = { 0, NULL };
    bb_net        net;
    bb_evaluation v;
    bb_status     status;
    BB_TRY(bb_problem_plan(bb_model_space_problem(r->space), x, &plan, err));
    BB_TRY(bb_database_apply(r->database, &plan, &net, s->blocks, err));
    BB_TRY(bb_net_evaluator_score(r->evaluator, &net, level, &v, window_kl, err));
    /* The cost is stated without the prefix cache's luck, so that a token budget ends at the same plan in every replay. */
    *out = (bb_score){ v.kl, v.kl_se, exp(v.nll), (double)NAN, v.top1, (double)s->n_windows[level] * (double)r->config.ctx };
done:
    bb_plan_done(&plan);
    return status;
}

static bb_status evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    for (size_t i = 0; i < n; i++) {
        bb_status status = score_candidate(self, x[i], level, &out[i], window_kl ? window_kl[i] : NULL, err);
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

bb_status bb_scorer_init(bb_run *r, bb_scorer *s, bb_err *err)
{
    memset(s, 0, sizeof *s);
    s->run = r;
    if (!(s->blocks = BB_NEW(r->model.net.n_layer, bb_block, err))) return BB_NOMEM;
    for (uint32_t l = 0; l < BB_N_LEVELS; l++) s->n_windows[l] = bb_net_evaluator_windows(r->evaluator, l);
    s->evaluator = (bb_evaluator){ s, BB_N_LEVELS, s->n_windows, evaluate, r->key };
    return BB_OK;
}

void bb_scorer_done(bb_scorer *s)
{
    bb_free(s->blocks);
    s->blocks = NULL;
}
