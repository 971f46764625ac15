/* SPDX-License-Identifier: GPL-3.0-or-later
 * study_gradient.c: see study_gradient.h. */
#include "engine/study_gradient.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/text.h"
#include "engine/front.h"
#include "engine/score.h"
#include "engine/stages.h"
#include "eval/rank.h"
#include "eval/slopes.h"
#include "search/separable.h"
#include "search/space.h"

enum { N_SCORES = 4, N_SETS = 3 };

static const char *const score_names[N_SCORES] = { "first order", "second order", "first and second", "single KLs" };
static const char *const set_names[N_SETS] = { "all", "fewer bytes", "more bytes" };

typedef struct gradient_study {
    bb_run                 *r;
    const bb_study_options *o;
    const bb_problem       *p;
    bb_space                space;
    bb_separable           *separable;
    bb_front                front;
    uint16_t               *x;      /* [n_units] the plan */
    size_t                  M;      /* options of all units */
    bb_slope               *slopes; /* [M] */
    bb_evaluation           at;
    bb_change              *changes; /* [n] measured */
    size_t                  n;
    double                 *score[N_SCORES], *truth; /* [n] */
    double                  seconds;
    bb_csv_writer          *rows, *ranks;
} gradient_study;

/* ---- the plan of a size ---- */

static bb_status find_plan(gradient_study *s, int64_t budget, bb_err *err)
{
    const bb_front_plan *best = bb_front_best(&s->front, budget);
    bb_status            status = BB_OK;
    if (!best) return bb_separable_solve(s->separable, budget, s->x, NULL, err);
    BB_TRY(bb_plan_space_indices(s->p->plans, &best->plan, s->x, err));
    bb_space_topup(&s->space, s->x, budget);
done:
    return status;
}

/* ---- true changes ---- */

static int64_t bytes_of(const gradient_study *s, uint32_t u, uint32_t o) { return s->p->units[u].bytes[bb_problem_row(s->p, s->x, u) + o]; }

/* The options that can be loaded beside the plan, other than its own; as many as asked for, drawn without repetition, in their order. */
static bb_status draw_changes(gradient_study *s, int64_t budget, bb_err *err)
{
    const size_t wanted = (size_t)s->o->changes;
    uint16_t    *x = BB_NEW(s->p->n_units, uint16_t, err);
    char         name[48];
    size_t       n = 0, kept = 0;
    bb_rng       rng;
    s->changes = BB_NEW(s->M, bb_change, err);
    if (!x || !s->changes) {
        bb_free(x);
        return BB_NOMEM;
    }
    for (uint32_t u = 0; u < s->p->n_units; u++)
        for (uint32_t o = 0; o < s->p->units[u].n_options; o++) {
            memcpy(x, s->x, s->p->n_units * sizeof *x);
            x[u] = (uint16_t)o;
            if (o != s->x[u] && !bb_is_forbidden(bb_problem_size(s->p, x))) s->changes[n++] = (bb_change) { u, o, 0, 0, NULL };
        }
    snprintf(name, sizeof name, "gradient %lld", (long long)budget);
    bb_rng_init(&rng, (uint64_t)s->o->seed, name);
    for (size_t i = 0; i < n; i++) /* selection sampling: each subset is as likely */
        if (wanted == 0 || bb_rng_uniform(&rng) * (double)(n - i) < (double)wanted - (double)kept) s->changes[kept++] = s->changes[i];
    s->n = kept;
    bb_free(x);
    return BB_OK;
}

static bb_status measure_changes(gradient_study *s, bb_err *err)
{
    bb_run                *r = s->r;
    bb_sensitivity         around = { 0 };
    bb_sensitivity_options o = bb_run_sensitivity_options(r);
    bb_status              status;
    o.anchor = s->x;
    BB_TRY(bb_sensitivity_measure(r->evaluator, &r->model, r->database, &r->levels[BB_LEVEL_SKETCH], &o, s->changes, s->n, &around, err));
    for (size_t i = 0; i < s->n; i++) s->changes[i].psi = NULL; /* not needed, and gone */
done:
    bb_sensitivity_done(&around);
    return status;
}

/* ---- tables ---- */

static size_t place_of(const gradient_study *s, const bb_change *c) { return s->space.offset[c->unit] + c->option; }

static void write_options(gradient_study *s, int64_t budget)
{
    size_t i = 0, next = 0;
    for (uint32_t u = 0; u < s->p->n_units; u++)
        for (uint32_t o = 0; o < s->p->units[u].n_options; o++, i++) {
            const bb_slope *is = &s->slopes[i];
            const int64_t   bytes = bytes_of(s, u, o);
            BB_PUT(s->rows, budget, s->p->plans->units[u].name, s->p->plans->units[u].options[o].name);
            if (bb_is_forbidden(bytes)) BB_PUT(s->rows, "");
            else BB_PUT(s->rows, bytes);
            BB_PUT(s->rows, o == s->x[u] ? "yes" : "no", is->share, is->first, is->second, s->at.kl + is->first + is->second);
            const bool measured = next < s->n && s->changes[next].unit == u && s->changes[next].option == o;
            if (measured) BB_PUT(s->rows, s->changes[next].kl, s->changes[next].kl_se);
            else BB_PUT(s->rows, "", "");
            next += measured;
            bb_csv_end_row(s->rows);
        }
}

/* Takes the members of a set from the measured changes. */
static size_t fill_scores(gradient_study *s, int set)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        const bb_change *c = &s->changes[i];
        const bb_slope  *is = &s->slopes[place_of(s, c)];
        const bb_change *single = s->r->sensitivity.changes;
        const double     bytes = (double)bb_space_delta_bytes(&s->space, s->x, c->unit, c->option);
        if ((set == 1 && !(bytes < 0)) || (set == 2 && !(bytes > 0))) continue;
        const double a_kib = set == 0 ? 1 : 1024 / fabs(bytes);
        const double all[N_SCORES] = { is->first, is->second, is->first + is->second,
                                       single[place_of(s, c)].kl - single[s->space.offset[c->unit] + s->x[c->unit]].kl };
        for (int k = 0; k < N_SCORES; k++) s->score[k][n] = all[k] * a_kib;
        s->truth[n++] = (c->kl - s->at.kl) * a_kib;
    }
    return n;
}

static bb_status write_ranks(gradient_study *s, int64_t budget, bb_err *err)
{
    const bb_windows *w = &s->r->levels[BB_LEVEL_SKETCH];
    const double      forward = (double)w->n * w->ctx;
    const double      tokens[N_SCORES] = { 3 * forward, bb_slopes_tokens(w, (uint32_t)s->o->labels), bb_slopes_tokens(w, (uint32_t)s->o->labels),
                                           s->r->sensitivity.n_forwarded };
    bb_status         status = BB_OK;
    for (int set = 0; set < N_SETS; set++) {
        const size_t n = fill_scores(s, set);
        for (int k = 0; k < N_SCORES && n > 1; k++) {
            double lo, hi, rho;
            BB_TRY(bb_kendall_interval(s->score[k], s->truth, n, (uint32_t)s->o->bootstrap, (uint64_t)s->o->seed, &lo, &hi, err));
            BB_TRY(bb_spearman(s->score[k], s->truth, n, &rho, err));
            BB_PUT(s->ranks, budget, s->at.kl, set_names[set], (int64_t)n, score_names[k], bb_kendall(s->score[k], s->truth, n), lo, hi, rho);
            BB_ROW(s->ranks, bb_regret(s->score[k], s->truth, n), tokens[k], k < 3 ? s->seconds : (double)NAN);
        }
    }
done:
    return status;
}

static bb_status study_size(gradient_study *s, int64_t budget, bb_err *err)
{
    const bb_slopes_options o = { BB_LEVEL_SKETCH, &s->r->levels[BB_LEVEL_SKETCH], (uint32_t)s->o->labels, (uint64_t)s->o->seed, s->p->plans, s->x };
    bb_status               status;
    BB_TRY(find_plan(s, budget, err));
    const double started = bb_now_s();
    BB_TRY(bb_slopes_measure(s->r->evaluator, &s->r->model, s->r->database, &o, s->slopes, &s->at, err));
    s->seconds = bb_now_s() - started;
    bb_info("gradient: %lld bytes, KL %.5f: %zu options in %.1f s", (long long)budget, s->at.kl, s->M, s->seconds);
    BB_TRY(draw_changes(s, budget, err));
    BB_TRY(measure_changes(s, err));
    write_options(s, budget);
    BB_TRY(write_ranks(s, budget, err));
done:
    bb_free(s->changes);
    s->changes = NULL;
    return status;
}

static bb_status open_study(gradient_study *s, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_stage_run(s->r, BB_STAGE_MEASURE, err));
    BB_TRY(bb_space_init(s->p, &s->space, err));
    BB_TRY(bb_separable_create(s->p, NULL, &s->separable, err));
    char      *plans = bb_run_path(s->r, err, "plans.csv");
    const bool searched = plans && bb_file_exists(plans);
    bb_free(plans);
    if (searched) BB_TRY(bb_front_load(s->r, &s->front, err));
    else bb_warn("the run was not searched yet: separable solutions stand in for its plans");
    s->M = s->space.offset[s->p->n_units];
    status = BB_NOMEM;
    if (!(s->x = BB_NEW(s->p->n_units, uint16_t, err)) || !(s->slopes = BB_NEW(s->M, bb_slope, err)) || !(s->truth = BB_NEW(s->M, double, err))) goto done;
    for (int k = 0; k < N_SCORES; k++)
        if (!(s->score[k] = BB_NEW(s->M, double, err))) goto done;
    status = BB_OK;
done:
    return status;
}

bb_status bb_study_gradient(bb_run *r, const bb_study_options *o, bb_err *err)
{
    gradient_study s = { .r = r, .o = o, .p = bb_model_space_problem(r->space) };
    int64_t       *sizes = NULL;
    size_t         n = 0;
    bb_status      status;
    BB_TRY(bb_study_sizes(r, o, &sizes, &n, err));
    BB_TRY(open_study(&s, err));
    BB_TRY(bb_run_table(r, "gradient.csv", "size_bytes,unit,option,bytes,chosen,share,first_order,second_order,predicted_kl,kl_nats,kl_se", &s.rows, err));
    BB_TRY(bb_run_table(r, "gradient_rank.csv", "size_bytes,kl_nats,set,n,score,tau,tau_lo,tau_hi,rho,regret_nats,tokens,seconds", &s.ranks, err));
    for (size_t i = 0; i < n; i++) BB_TRY(study_size(&s, sizes[i], err));
    BB_TRY(bb_csv_close(&s.rows, err));
    BB_TRY(bb_csv_close(&s.ranks, err));
done:
    bb_csv_discard(s.rows);
    bb_csv_discard(s.ranks);
    for (int k = 0; k < N_SCORES; k++) bb_free(s.score[k]);
    bb_free(s.truth);
    bb_free(s.slopes);
    bb_free(s.x);
    bb_free(sizes);
    bb_front_done(&s.front);
    bb_separable_destroy(s.separable);
    bb_space_done(&s.space);
    return status;
}
