/* SPDX-License-Identifier: GPL-3.0-or-later
 * run_search.c: the search stage: binds the model's evaluator to the search engine, refines the front by true KL, and adds the simpler plans
 * that guard it: uniform formats, quantization only, pruning only, at the same bytes.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/front.h"
#include "cli/run.h"
#include "search/ledger.h"
#include "search/refine.h"
#include "search/separable.h"
#include "search/space.h"

/* ---- the evaluator that the search sees ---- */

typedef struct binding {
    bb_run   *run;
    bb_block *blocks;
    uint32_t  n_windows[BB_N_LEVELS];
} binding;

static bb_status score_candidate(binding *b, const uint16_t *x, uint32_t level, bb_score *out, double *window_kl, bb_err *err)
{
    bb_run       *r = b->run;
    bb_plan       plan = { 0, NULL };
    bb_net        net;
    bb_evaluation v;
    bb_status     status;
    BB_TRY(bb_problem_plan(bb_model_space_problem(r->space), x, &plan, err));
    BB_TRY(bb_database_apply(r->database, &plan, &net, b->blocks, err));
    BB_TRY(bb_net_evaluator_score(r->evaluator, &net, level, &v, window_kl, err));
    /* The cost is stated without the prefix cache's luck, so that a token budget ends at the same plan in every replay. */
    *out = (bb_score){ v.kl, v.kl_se, exp(v.nll), (double)NAN, v.top1, (double)b->n_windows[level] * (double)r->config.ctx };
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

/* ---- simpler plans ---- */

/* The uniform plan (one format for all linears, one for the embedding) of lowest separable cost within the budget. */
static bool best_uniform(const bb_run *r, int64_t budget, uint16_t *x, uint16_t *scratch, char name[40])
{
    const bb_problem *p = bb_model_space_problem(r->space);
    const bb_unit    *embd = &p->units[p->n_units - 1], *linear = NULL;
    double            best = HUGE_VAL;
    for (uint32_t u = 0; u < p->n_units && !linear; u++)
        if (p->units[u].controller >= 0) linear = &p->units[u];
    for (uint32_t f = 0; linear && f < linear->n_options; f++)
        for (uint32_t e = 0; e < embd->n_options; e++) {
            if (!bb_model_space_uniform(r->space, linear->options[f], embd->options[e], scratch)) continue;
            if (bb_problem_size(p, scratch) > budget) continue;
            double cost = bb_problem_cost(p, scratch);
            if (!(cost < best)) continue;
            best = cost;
            memcpy(x, scratch, p->n_units * sizeof *x);
            snprintf(name, 40, "uniform %s + %s", linear->options[f], embd->options[e]);
        }
    return isfinite(best);
}

/* The separable optimum with structures (prune false) or with quantization of the linears (quantize false) taken away; false: out of reach. */
static bool restricted(const bb_run *r, int64_t budget, bool prune, bool quantize, uint16_t *x)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_variant        v;
    bb_separable     *s = NULL;
    bool              found = false;
    if (bb_variant_init(p, &v, NULL) != BB_OK) return false;
    for (uint32_t u = 0; u < p->n_units; u++) {
        bool format = bb_model_space_is_format(r->space, u);
        if (!format && !prune) bb_variant_pin(&v, u, 0);
        if (format && !quantize && p->units[u].controller >= 0) bb_variant_pin(&v, u, p->units[u].n_options - 1);
    }
    if (bb_separable_create(&v.problem, NULL, &s, NULL) == BB_OK) found = bb_separable_solve(s, budget, x, NULL, NULL) == BB_OK;
    bb_separable_destroy(s);
    bb_variant_done(&v);
    return found;
}

static bb_status add_scored(bb_run *r, bb_ledger *l, bb_front *f, const uint16_t *x, const char *name, bool is_baseline, bb_err *err)
{
    bb_score  score;
    bb_status status;
    BB_TRY(bb_ledger_evaluate(l, &x, 1, BB_LEVEL_CONFIRM, &score, NULL, err));
    BB_TRY(bb_front_add(r, f, x, name, is_baseline, score.kl, score.kl_se, err));
done:
    return status;
}

static bb_status add_simple_plans(bb_run *r, bb_ledger *l, bb_front *f, int64_t budget, bb_err *err)
{
    uint32_t  n = bb_model_space_problem(r->space)->n_units;
    uint16_t *x = BB_NEW(2 * (size_t)n, uint16_t, err);
    char      name[40];
    bb_status status = BB_NOMEM;
    if (!x) return BB_NOMEM;
    status = BB_OK;
    if (best_uniform(r, budget, x, x + n, name)) BB_TRY(add_scored(r, l, f, x, name, true, err));
    if (r->is_sweep) goto done; /* the other two would triple the evaluations of a front */
    if (restricted(r, budget, false, true, x)) BB_TRY(add_scored(r, l, f, x, "quantization only, separable", true, err));
    if (restricted(r, budget, true, false, x)) BB_TRY(add_scored(r, l, f, x, "pruning only", true, err));
done:
    bb_free(x);
    return status;
}

/* ---- the stage ---- */

typedef struct trace { bb_csv_writer *csv; int64_t step; } trace;

static void on_step(void *self, const bb_refine_step *step)
{
    trace *t = self;
    char   label[48];
    snprintf(label, sizeof label, "%s %u, budget %zu, level %u", step->stage, step->round, step->budget_index, step->level);
    bb_csv_put_int(t->csv, t->step++);
    bb_csv_put_text(t->csv, label);
    bb_csv_put_double(t->csv, step->kl);
    bb_csv_put_int(t->csv, step->size_bytes);
    bb_csv_end_row(t->csv);
    bb_debug("search: %s: KL %.5f, %lld bytes, %.2f M tokens (%s)", label, step->kl, (long long)step->size_bytes, step->tokens / 1e6, step->source);
}

/* For each budget the best plan of the archive, and the simpler plans beside it. */
static bb_status choose_front(bb_run *r, bb_ledger *l, const bb_archive *archive, bb_front *front, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t i = 0; i < r->n_budgets; i++) {
        const bb_archive_entry *best = bb_archive_best(archive, r->budgets[i]);
        if (best) BB_TRY(bb_front_add(r, front, best->x, best->source, false, best->score.kl, best->score.kl_se, err));
        bool target = r->is_sweep || r->budgets[i] == bb_front_target(r);
        if (target) BB_TRY(add_simple_plans(r, l, front, r->budgets[i], err));
    }
    if (front->n == 0) status = BB_FAIL(err, BB_FAILED, "the search found no plan");
done:
    return status;
}

bb_status bb_run_search(bb_run *r, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_sensitivity    s = { 0 };
    binding           b = { r, NULL, { 0 } };
    bb_separable     *separable = NULL;
    bb_ledger        *ledger = NULL;
    bb_archive        archive = { 0 };
    bb_front          front = { 0 };
    trace             steps = { NULL, 0 };
    char             *path = bb_run_path(r, err, "convergence.csv");
    bb_status         status = BB_NOMEM;
    bb_ledger_options lo = { r->config.ledger_only, 0 };
    bb_archive_init(&archive, p->n_units);
    if (!path) return BB_NOMEM;
    BB_TRY(bb_run_measure(r, &s, err));
    status = BB_NOMEM;
    if (!(b.blocks = BB_NEW(r->model.net.n_layer, bb_block, err))) goto done;
    for (uint32_t l = 0; l < BB_N_LEVELS; l++) b.n_windows[l] = bb_net_evaluator_windows(r->evaluator, l);
    bb_evaluator e = { &b, BB_N_LEVELS, b.n_windows, evaluate, r->key };
    BB_TRY(bb_separable_create(p, NULL, &separable, err));
    BB_TRY(bb_ledger_open(p, &e, r->store, &lo, &ledger, err));
    BB_TRY(bb_csv_create(path, "step,label,kl_nats,size_bytes", &steps.csv, err));
    bb_refine_options o = { .seed = (uint64_t)r->config.seed, .budgets = r->budgets, .n_budgets = r->n_budgets,
                            .max_tokens = r->config.search_tokens * 1e6, .progress = on_step, .progress_self = &steps };
    BB_TRY(bb_refine(p, separable, ledger, &o, &archive, NULL, err));
    BB_TRY(choose_front(r, ledger, &archive, &front, err));
    BB_TRY(bb_front_save(r, &front, err));
    status = bb_csv_close(steps.csv, err);
    steps.csv = NULL;
done:
    bb_csv_discard(steps.csv);
    bb_front_done(&front);
    bb_archive_done(&archive);
    bb_ledger_close(ledger);
    bb_separable_destroy(separable);
    bb_free(b.blocks);
    bb_free(s.changes);
    bb_sensitivity_done(&s);
    bb_free(path);
    return status;
}

bb_status bb_run_all(bb_run *r, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_run_search(r, err));
    BB_TRY(bb_run_finalise(r, err));
    BB_TRY(bb_run_evaluate(r, err));
done:
    return status;
}
