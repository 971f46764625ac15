/* SPDX-License-Identifier: GPL-3.0-or-later
 * run_search.c: the search stage: binds the model's evaluator to the search engine, lets the method of --search find the front, and adds the simpler plans
 * that guard it, at the same bytes: those of the methods that are marked so (search/method.h).
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/evidence.h"
#include "engine/front.h"
#include "engine/keys.h"
#include "engine/run.h"
#include "engine/score.h"
#include "engine/scorer.h"
#include "engine/search_context.h"
#include "engine/settle.h"
#include "search/ledger.h"
#include "search/method.h"
#include "search/paired.h"
#include "search/separable.h"
#include "search/space.h"

#define PLAIN_SHARE 0.1 /* of the tokens, for separable plans without pruning at every size */
#define MAIN_SHARE 0.85 /* of the tokens; the rest searches quantization alone near the crossover */

/* ---- the stage ---- */

typedef struct trace {
    bb_csv_writer   *csv;
    const int64_t   *budgets;
    const bb_ledger *ledger;
    bb_progress     *progress; /* tokens */
    double           replayed; /* of them, found in the ledger */
} trace;

/* What was found in the ledger took no time. */
static void count_replayed(trace *t)
{
    const double found = bb_ledger_tokens(t->ledger) - bb_ledger_tokens_new(t->ledger);
    if (found > t->replayed) bb_progress_skip(t->progress, (uint64_t)(found - t->replayed));
    t->replayed = fmax(t->replayed, found);
}

static void on_plain_step(void *self, const bb_search_step *step)
{
    (void)step;
    count_replayed(self);
}

static void on_step(void *self, const bb_search_step *step)
{
    trace *t = self;
    char   label[48];
    count_replayed(t);
    /* One line a size; the final scores are those of another level and would break it: they are in plans.csv. */
    if (step->level == BB_LEVEL_CONFIRM) return;
    bb_format_size((uint64_t)t->budgets[step->budget_index], label);
    BB_ROW(t->csv, step->round, label, step->kl, step->size_bytes);
    bb_debug("search: %s %u, %s: KL %.5f, %lld bytes, %.2f M tokens (%s)", step->stage, step->round, label, step->kl, (long long)step->size_bytes,
             step->tokens / 1e6, step->source);
}

/* Adds a size on either side of the knee of a sweep's separable front: the size farthest below the chord in log bytes and cost [Satopaa et al.,
 * Finding a "kneedle" in a haystack, ICDCSW 2011]. */
static bb_status densify_knee(bb_run *r, const bb_separable *s, bb_err *err)
{
    enum { FEWEST = 6 };
    const size_t n = r->n_budgets;
    uint16_t    *x = NULL;
    double      *cost = NULL;
    size_t       knee = 0;
    double       deepest = 0;
    bb_status    status = BB_NOMEM;
    if (!r->is_sweep || *r->config.sizes || n < FEWEST) return BB_OK;
    if (!(x = BB_NEW(bb_model_space_problem(r->space)->n_units, uint16_t, err)) || !(cost = BB_NEW(n, double, err))) goto done;
    for (size_t i = 0; i < n; i++) {
        bb_separable_result result;
        BB_TRY(bb_separable_solve(s, r->budgets[i], x, &result, err));
        cost[i] = result.cost;
    }
    for (size_t i = 1; i + 1 < n; i++) {
        double along = log((double)r->budgets[i] / (double)r->budgets[0]) / log((double)r->budgets[n - 1] / (double)r->budgets[0]);
        double depth = cost[0] + along * (cost[n - 1] - cost[0]) - cost[i];
        if (!(depth > deepest)) continue;
        deepest = depth;
        knee = i;
    }
    status = BB_OK;
    if (knee == 0) goto done;
    int64_t *grown = bb_realloc(r->budgets, n + 2, sizeof *grown, err);
    if (!grown) {
        status = BB_NOMEM;
        goto done;
    }
    r->budgets = grown;
    const int64_t below = grown[knee - 1], at = grown[knee], above = grown[knee + 1];
    memmove(grown + knee + 3, grown + knee + 1, (n - knee - 1) * sizeof *grown);
    grown[knee] = llround(sqrt((double)below * (double)at));
    grown[knee + 1] = at;
    grown[knee + 2] = llround(sqrt((double)at * (double)above));
    r->n_budgets = n + 2;
    bb_info("search: the front bends at %lld bytes: two more sizes beside it", (long long)at);
done:
    bb_free(x);
    bb_free(cost);
    return status;
}

/* ---- speed ---- */

/* The problem with a price on decoding time, so high that the separable plan of every size is fast enough. One price serves all sizes: the
 * search goes through every plan's true prediction (bb_problem.allowed), the price only leads it there. Sizes at which no price suffices are
 * dropped; BB_INFEASIBLE when none is left. */
static bb_status price_speed(bb_run *r, bb_speed *speed, bb_variant *v, bb_err *err)
{
    enum { STEPS = 60 };
    const double      LEAST_PRICE = 1e-3; /* nats a second; doubled up to 1e15 */
    const bb_problem *p = bb_model_space_problem(r->space);
    uint16_t         *x = BB_NEW(p->n_units, uint16_t, err);
    double            fastest = 0, price = 0;
    size_t            kept = 0;
    bb_progress       progress;
    bb_status         status = BB_NOMEM;
    if (!x) return BB_NOMEM;
    bb_progress_start(&progress, "speed bound, sizes", r->n_budgets);
    for (size_t i = 0; i < r->n_budgets; i++, bb_progress_add(&progress, 1)) {
        double trial = price;
        bool   enough = false;
        for (int k = 0; k < STEPS && !enough; k++) {
            bb_separable *s = NULL;
            if (k > 0) trial = trial > 0 ? 2 * trial : LEAST_PRICE;
            bb_speed_price(speed, trial, v);
            BB_TRY(bb_separable_create(&v->problem, NULL, &s, err));
            status = bb_separable_solve(s, r->budgets[i], x, NULL, err);
            bb_separable_destroy(s);
            BB_TRY(status);
            fastest = fmax(fastest, bb_speed_decode(speed, x));
            enough = bb_speed_allows(speed, x);
        }
        if (enough) {
            price = trial;
            r->budgets[kept++] = r->budgets[i];
        } else {
            bb_warn("no plan of %lld bytes decodes %g tokens a second: this size is left out", (long long)r->budgets[i], speed->min_tps);
        }
    }
    bb_progress_end(&progress);
    status = BB_OK;
    r->n_budgets = kept;
    if (kept == 0)
        status = BB_FAIL(err, BB_INFEASIBLE, "--min-speed %g cannot be reached at these sizes: %g tokens a second is the fastest that was found, by %s",
                         speed->min_tps, fastest, r->config.profile);
    else bb_speed_price(speed, price, v);
done:
    bb_free(x);
    return status;
}

/* ---- crossover ---- */

static bool can_prune(const bb_run *r)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    for (uint32_t u = 0; u < p->n_units; u++)
        if (!bb_model_space_is_format(r->space, u) && p->units[u].n_options > 1) return true;
    return false;
}

static bool is_pruned(const bb_run *r, const uint16_t *x)
{
    for (uint32_t u = 0; u < bb_model_space_problem(r->space)->n_units; u++)
        if (!bb_model_space_is_format(r->space, u) && x[u] != 0) return true;
    return false;
}

/* Sizes (at most BESIDE on either side) around the largest one whose best plan is pruned: there quantization alone is searched as hard as
 * everything together. *first, *n into r->budgets. */
static void around_crossover(const bb_run *r, const bb_archive *archive, size_t *first, size_t *n)
{
    enum { BESIDE = 2 };
    size_t last = 0;
    for (size_t i = 0; i < r->n_budgets; i++) {
        const bb_archive_entry *best = bb_archive_best(archive, r->budgets[i]);
        if (best && is_pruned(r, best->x)) last = i;
    }
    *first = last > BESIDE ? last - BESIDE : 0;
    *n = last + BESIDE < r->n_budgets ? last + BESIDE + 1 - *first : r->n_budgets - *first;
}

/* Seconds count only where something was evaluated: a replay does not change them. */
static bb_status record_cost(bb_run *r, const bb_ledger *l, double local_tokens, double measure_tokens, double seconds, bb_err *err)
{
    bb_search_cost cost = { 0, 0, 0, 0 };
    void          *value = NULL;
    size_t         size;
    bool           found;
    char           key[80];
    bb_status      status;
    snprintf(key, sizeof key, "cost|%s", r->search_key);
    BB_TRY(bb_store_get(r->store, "search", key, &value, &size, &found, err));
    if (found && size == sizeof cost) memcpy(&cost, value, sizeof cost);
    cost.tokens = bb_ledger_tokens(l) + local_tokens;
    cost.measure_tokens = measure_tokens;
    cost.n_sizes = (double)r->n_budgets;
    if (bb_ledger_tokens_new(l) > 0) cost.seconds += seconds;
    BB_TRY(bb_store_put(r->store, "search", key, &cost, sizeof cost, err));
    bb_info("search: %.2f million tokens for %zu sizes, after %.2f million for measuring the options", cost.tokens / 1e6, r->n_budgets, measure_tokens / 1e6);
done:
    bb_free(value);
    return status;
}

/* ---- local scores ---- */

enum { ANCHOR_REACH = 1 }; /* options on either side that are measured around an anchor: a seventh of all */

typedef struct local {
    bb_run         *run;
    const bb_space *space;
    bb_foresee     *foresee; /* NULL: as measured */
    bb_run_score    score;
    bool            has_score;
    double          tokens; /* of all anchors */
    bb_progress    *progress;
} local;

static void local_done(local *l)
{
    if (l->has_score) bb_run_score_done(&l->score);
    l->has_score = false;
}

/* bb_search.local: the signed sketch around plan x. */
static bb_status measure_around(void *self, const uint16_t *x, bb_local_score *out, bb_err *err)
{
    local    *l = self;
    bb_status status;
    local_done(l);
    BB_TRY(bb_run_score_near(l->run, x, NULL, ANCHOR_REACH, &l->score, err));
    l->has_score = true;
    if (l->foresee) bb_foresee_scale(l->foresee, l->space, l->score.proxy.linear, l->score.proxy.gram);
    l->tokens += l->score.proxy.tokens;
    bb_progress_add(l->progress, (uint64_t)l->score.proxy.tokens);
    *out = (bb_local_score) { (const double *const *)l->score.proxy.linear, l->score.proxy.gram, l->score.proxy.tokens, NULL, (double)NAN };
done:
    return status;
}

/* What the parts of the stage share. */
typedef struct stage {
    bb_run                 *run;
    const bb_search_method *method;
    const bb_problem       *problem;  /* the run's own, foresee.v.problem or priced.problem */
    bb_problem              unpriced; /* without the price, and the same plans allowed */
    bb_foresee              foresee;
    bool                    foresees;
    bb_speed                speed;
    bool                    has_speed, has_price;
    bb_variant              priced;
    bb_scorer               scorer;
    bb_run_search_context   context;
    bb_ledger              *ledger;
    bb_archive              archive;
    bb_front                front;
    trace                   steps;
    local                   local;
} stage;

static bb_status stage_init(stage *s, bb_err *err)
{
    bb_run           *r = s->run;
    bb_ledger_options lo = { .only = r->config.ledger_only };
    bb_status         status;
    BB_TRY(bb_scorer_init(r, &s->scorer, err));
    if (bb_run_foresees(&r->config)) {
        BB_TRY(bb_foresee_init(s->problem, &s->foresee, err));
        s->foresees = true;
        s->problem = &s->foresee.v.problem;
        lo.weight = bb_foresee_weight;
        lo.weight_self = &s->foresee;
    }
    s->unpriced = *s->problem;
    if (*r->config.profile) {
        BB_TRY(bb_speed_load(r->space, r->config.profile, &s->speed, err));
        s->has_speed = true;
        s->speed.problem = s->problem;
        s->speed.min_tps = r->config.min_speed;
    }
    if (s->has_speed && r->config.min_speed > 0) {
        BB_TRY(bb_variant_init(s->problem, &s->priced, err));
        s->has_price = true;
        s->priced.problem.allowed = bb_speed_allows;
        s->priced.problem.allowed_self = &s->speed;
        BB_TRY(price_speed(r, &s->speed, &s->priced, err));
        s->problem = &s->priced.problem;
    }
    s->unpriced.allowed = s->problem->allowed;
    s->unpriced.allowed_self = s->problem->allowed_self;
    BB_TRY(bb_run_search_context_init(r, s->problem, s->foresees ? &s->foresee : NULL, &s->context, err));
    BB_TRY(bb_run_search_context_need(r, s->method, &s->context, err));
    BB_TRY(densify_knee(r, s->context.separable, err));
    BB_TRY(bb_ledger_open(s->problem, &s->scorer.evaluator, r->store, &lo, &s->ledger, err));
done:
    return status;
}

static void stage_done(stage *s)
{
    bb_csv_discard(s->steps.csv);
    bb_front_done(&s->front);
    bb_archive_done(&s->archive);
    bb_ledger_close(s->ledger);
    bb_run_search_context_done(&s->context);
    bb_scorer_done(&s->scorer);
    if (s->has_price) bb_variant_done(&s->priced);
    if (s->has_speed) bb_speed_done(&s->speed);
    bb_foresee_done(&s->foresee);
    local_done(&s->local);
    bb_run_forget_measured(&s->run->sensitivity);
}

/* What the methods share of the stage, within `tokens` of the ledger. */
static bb_search search_with(stage *s, const bb_run_search_context *c, double tokens)
{
    bb_search search = c->search;
    search.ledger = search.uniform_ledger = s->ledger;
    search.uniform_level = BB_LEVEL_REFINE;
    search.archive = &s->archive;
    search.stop.max_tokens = tokens;
    return search;
}

/* Searches quantization alone near the crossover and, where that is cheap, scores its separable plans everywhere; what it finds is in the ledger and the archive. */
static bb_status search_plain(stage *s, double tokens, bb_err *err)
{
    bb_run               *r = s->run;
    bb_run_search_context plain = { 0 };
    bb_variant            v = { 0 };
    uint16_t             *x = BB_NEW(s->problem->n_units, uint16_t, err);
    const double          one = (double)s->scorer.n_windows[BB_LEVEL_CONFIRM] * (double)r->config.ctx;
    const bool            everywhere = one * (double)r->n_budgets <= PLAIN_SHARE * r->config.search_tokens * 1e6;
    int64_t               least, most;
    size_t                first, n;
    bb_search             search;
    bb_score              score;
    bb_err                why = BB_ERR_INIT;
    bb_status             status = bb_variant_init(s->problem, &v, err);
    if (status == BB_OK && !x) status = BB_NOMEM;
    BB_TRY(status);
    for (uint32_t u = 0; u < s->problem->n_units; u++)
        if (!bb_model_space_is_format(r->space, u)) bb_variant_pin(&v, u, 0);
    status = bb_run_search_context_init(r, &v.problem, s->foresees ? &s->foresee : NULL, &plain, &why);
    if (status == BB_INFEASIBLE) status = BB_OK; /* nothing to compare with */
    else if (status != BB_OK) BB_FAIL(err, status, "%s", why.msg);
    if (status != BB_OK || !plain.separable) goto done;
    bb_separable_reach(plain.separable, &least, &most);
    for (size_t i = 0; everywhere && i < r->n_budgets; i++) {
        const uint16_t *px = x;
        bb_err          of_size = BB_ERR_INIT;
        if (r->budgets[i] < least) continue;
        status = bb_separable_solve(plain.separable, r->budgets[i], x, NULL, &of_size);
        if (status == BB_OK && bb_problem_allows(s->problem, x)) BB_TRY(bb_ledger_evaluate(s->ledger, &px, 1, BB_LEVEL_CONFIRM, &score, NULL, err));
        else if (status != BB_OK && status != BB_INFEASIBLE) BB_TRY(BB_FAIL(err, status, "%s", of_size.msg));
    }
    status = BB_OK;
    around_crossover(r, &s->archive, &first, &n);
    for (; n > 0 && r->budgets[first] < least; n--) first++;
    if (n > 0) BB_TRY(bb_run_search_context_need(r, s->method, &plain, err));
    search = search_with(s, &plain, tokens);
    search.budgets = r->budgets + first;
    search.n_budgets = n;
    search.progress = on_plain_step;
    search.progress_self = &s->steps;
    if (n > 0) status = s->method->run(s->method, &search, &why);
    s->local.tokens += search.other_tokens;
    if (status == BB_INFEASIBLE) status = BB_OK; /* where quantization alone is too slow at some size, there is nothing to compare */
    if (status != BB_OK) BB_FAIL(err, status, "%s", why.msg);
done:
    bb_run_search_context_done(&plain);
    bb_variant_done(&v);
    bb_free(x);
    return status;
}

static bb_status find_plans(stage *s, bb_err *err)
{
    bb_run      *r = s->run;
    const double tokens = r->config.search_tokens * 1e6;
    const bool   compares = can_prune(r) && !s->method->plan; /* pruning and quantization alone, each searched for */
    bb_search    search = search_with(s, &s->context, compares ? MAIN_SHARE * tokens : tokens);
    bb_progress  progress;
    bb_status    status;
    s->steps.budgets = r->budgets;
    s->local.run = r;
    s->local.space = &s->context.space;
    s->local.foresee = s->foresees ? &s->foresee : NULL;
    s->local.progress = s->steps.progress = s->scorer.progress = s->context.gradient.progress = &progress;
    s->steps.ledger = s->ledger;
    search.budgets = r->budgets;
    search.n_budgets = r->n_budgets;
    search.progress = on_step;
    search.progress_self = &s->steps;
    if (strcmp(r->config.sketch, "none") != 0) {
        search.local = measure_around;
        search.local_self = &s->local;
        search.local_cost = bb_run_score_tokens(r, ANCHOR_REACH);
    }
    bb_progress_start(&progress, "search, tokens", (uint64_t)search.stop.max_tokens);
    BB_TRY(s->method->run(s->method, &search, err));
    s->local.tokens = search.other_tokens;
    bb_progress_end(&progress);
    if (!compares) goto done;
    const double rest = tokens - s->local.tokens;
    bb_progress_start(&progress, "search quantization alone, tokens", (uint64_t)fmax(0, rest - bb_ledger_tokens(s->ledger)));
    BB_TRY(search_plain(s, rest, err));
    BB_TRY(bb_write_crossover(r, s->ledger, err));
    bb_progress_end(&progress);
done:
    s->scorer.progress = s->context.gradient.progress = NULL;
    return status;
}

/* ---- what is chosen ---- */

/* The plans that a searched one of this size is guarded by: those of the methods marked simple. A plan that is too slow is no alternative. */
static bb_status add_simple_plans(stage *s, int64_t budget, bb_err *err)
{
    bb_search      guards = search_with(s, &s->context, 0);
    bb_simple_plan plan = { .x = BB_NEW(s->problem->n_units, uint16_t, err) };
    bb_status      status = BB_OK;
    guards.problem = &s->unpriced;
    if (!plan.x) return BB_NOMEM;
    for (size_t i = 0; bb_method_at(i); i++) {
        const bb_search_method *m = bb_method_at(i);
        const uint16_t         *x = plan.x;
        bb_score                score;
        if (m->simple < (s->run->is_sweep ? BB_SIMPLE : BB_SIMPLE_OF_ONE)) continue;
        plan = (bb_simple_plan) { .x = plan.x };
        BB_TRY(m->plan(m, &guards, budget, &plan, err));
        if (!plan.found) continue;
        BB_TRY(bb_ledger_evaluate(s->ledger, &x, 1, BB_LEVEL_CONFIRM, &score, NULL, err));
        BB_TRY(bb_front_add(s->run, &s->front, x, plan.source, true, true, &score, err));
    }
done:
    bb_free(plan.x);
    return status;
}

/* Finishing leaves 0.67 to 0.75 of the KL of searched plans and 0.53 to 0.69 of that of uniform ones, of the smallest size's 0.39 (wiki8m, every step,
 * results/front.csv and baselines.csv), on SmolLM2 0.52 of a uniform one's and 0.83 of a searched one's near it: at most 1.7 times between two plans. */
static const double RULED_OUT = 1.75, RULED_OUT_Z = 4;

/* Marks plan x, which is simple, where the searched plan of the smallest size that it is within stands far below it: larger sizes have better ones. */
static bb_status rule_out(stage *s, const uint16_t *x, bb_front_plan *p, bb_err *err)
{
    const bb_run           *r = s->run;
    const bb_archive_entry *best = NULL;
    bb_ledger_entry         a, b;
    bool                    found[2] = { false, false };
    double                  mean, se;
    bb_status               status = BB_OK;
    for (size_t i = 0; i < r->n_budgets && !best; i++)
        if (r->budgets[i] >= p->size_bytes && (r->is_sweep || r->budgets[i] == bb_front_target(r))) best = bb_archive_best(&s->archive, r->budgets[i]);
    if (!best) return BB_OK;
    BB_TRY(bb_ledger_find(s->ledger, x, BB_LEVEL_CONFIRM, &a, &found[0], err));
    BB_TRY(bb_ledger_find(s->ledger, best->x, BB_LEVEL_CONFIRM, &b, &found[1], err));
    if (!found[0] || !found[1] || a.n_windows != b.n_windows) return BB_OK;
    bb_paired_difference(a.window_kl, b.window_kl, a.n_windows, &mean, &se);
    p->is_ruled_out = a.score.kl > RULED_OUT * b.score.kl && se > 0 && mean > RULED_OUT_Z * se;
done:
    return status;
}

static bb_status rule_out_all(stage *s, bb_err *err)
{
    const bb_plan_space *plans = bb_model_space_problem(s->run->space)->plans;
    uint16_t            *x = BB_NEW(s->problem->n_units, uint16_t, err);
    bb_status            status = x ? BB_OK : BB_NOMEM;
    for (size_t i = 0; status == BB_OK && i < s->front.n; i++) {
        bb_front_plan *p = &s->front.plans[i];
        if (!p->is_baseline || p->is_searched || !p->is_asked) continue;
        BB_TRY(bb_plan_space_indices(plans, &p->plan, x, err));
        BB_TRY(rule_out(s, x, p, err));
    }
done:
    bb_free(x);
    return status;
}

/* For each budget the best plan of the archive, and the simpler plans beside it. */
static bb_status choose_front(stage *s, bb_err *err)
{
    bb_run   *r = s->run;
    bb_status status = BB_OK;
    for (size_t i = 0; i < r->n_budgets; i++) {
        const bb_archive_entry *best = bb_archive_best(&s->archive, r->budgets[i]);
        const bool              asked = r->is_sweep || r->budgets[i] == bb_front_target(r);
        if (best) BB_TRY(bb_front_add(r, &s->front, best->x, best->source, false, asked, &best->score, err));
        if (asked) BB_TRY(add_simple_plans(s, r->budgets[i], err));
    }
    if (s->front.n == 0) status = BB_FAIL(err, BB_FAILED, "the search found no plan");
    else BB_TRY(rule_out_all(s, err));
done:
    return status;
}

/* What this session took for the options that the search goes by. */
static double measuring_s(const bb_run *r)
{
    return r->clock.seconds[BB_STAGE_CALIBRATE] + r->clock.seconds[BB_STAGE_BUILD] + r->clock.seconds[BB_STAGE_MEASURE];
}

bb_status bb_run_search(bb_run *r, bb_err *err)
{
    stage        s = { .run = r, .method = bb_method_named(r->config.search), .problem = bb_model_space_problem(r->space) };
    bb_progress  progress;
    const size_t n = r->n_budgets;
    int64_t     *budgets = BB_NEW(n, int64_t, err); /* sizes are added beside the knee, and left out: another search begins with these again */
    double       started = bb_now_s();
    bb_status    status = budgets ? BB_OK : BB_NOMEM;
    bb_archive_init(&s.archive, s.problem->n_units);
    BB_TRY(status);
    memcpy(budgets, r->budgets, n * sizeof *budgets);
    BB_TRY(stage_init(&s, err));
    BB_TRY(bb_run_table(r, "convergence.csv", "step,label,kl_nats,size_bytes", &s.steps.csv, err));
    BB_TRY(find_plans(&s, err));
    BB_TRY(bb_write_certificate(r, &r->sensitivity, &s.archive, err));
    BB_TRY(record_cost(r, s.ledger, s.local.tokens, r->sensitivity.n_forwarded, bb_now_s() - started + measuring_s(r), err));
    bb_progress_start(&progress, "simple plans, tokens", 0);
    s.scorer.progress = &progress;
    BB_TRY(choose_front(&s, err));
    bb_progress_end(&progress);
    s.scorer.progress = NULL;
    BB_TRY(bb_settle(r, s.problem, s.ledger, &s.front, err));
    BB_TRY(bb_front_put_sizes(r, err));
    BB_TRY(bb_front_save(r, &s.front, s.ledger, err));
    if (s.has_speed) BB_TRY(bb_write_speed(r, &s.speed, &s.front, err));
    status = bb_csv_close(&s.steps.csv, err);
done:
    if (s.ledger) r->time.search_tokens = bb_ledger_tokens(s.ledger) + s.local.tokens;
    stage_done(&s);
    if (budgets) {
        bb_free(r->budgets);
        r->budgets = budgets;
        r->n_budgets = n;
    }
    return status;
}
