/* SPDX-License-Identifier: GPL-3.0-or-later
 * study_survival.c: see study_survival.h. */
#include "engine/study_survival.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/front.h"
#include "engine/point_score.h"
#include "engine/scorer.h"
#include "engine/search_context.h"
#include "engine/stages.h"
#include "engine/tilted.h"
#include "engine/trial.h"
#include "eval/rank.h"
#include "search/moves.h"

enum { MAX_SCORES = 16, N_UNIFORM = 6 };

/* The plans of one size and what was measured of them. */
typedef struct set {
    int64_t   budget;
    uint32_t  n;
    uint16_t *x;               /* [wanted * n_units] */
    char (*source)[BB_SOURCE]; /* [wanted] */
    double *score[MAX_SCORES]; /* [n] each */
} set;

/* A score that plans are ranked by. */
typedef struct kind {
    char   name[40];
    bool   is_truth;
    double tokens, seconds; /* a plan, mean of all */
} kind;

typedef struct survival {
    bb_run                 *r;
    const bb_study_options *o;
    const bb_problem       *p;
    bb_run_search_context   context;
    bb_scorer               scorer;
    bb_ledger              *ledger;
    bb_front                front;
    int64_t                *sizes;
    size_t                  n_sizes;
    kind                    kinds[MAX_SCORES];
    uint32_t                n_kinds;
    bb_csv_writer          *plans, *rank;
} survival;

static const char *few_of(const bb_study_options *o) { return strcmp(o->few, "none") == 0 ? "" : o->few; }

/* ---- plans ---- */

/* Takes x, unless it is there already or too large. */
static void take(const survival *s, set *t, const uint16_t *x, const char *source)
{
    const uint32_t n = s->p->n_units;
    if (t->n >= (uint32_t)s->o->plans || bb_problem_size(s->p, x) > t->budget) return;
    for (uint32_t i = 0; i < t->n; i++)
        if (memcmp(t->x + (size_t)i * n, x, n * sizeof *x) == 0) return;
    memcpy(t->x + (size_t)t->n * n, x, n * sizeof *x);
    snprintf(t->source[t->n++], BB_SOURCE, "%s", source);
}

static bb_status take_tilted(const survival *s, set *t, const bb_tilting *tilt, uint16_t *x, bb_err *err)
{
    bool            found;
    const bb_status status = bb_tilted_plan(s->r, s->p, tilt, t->budget, x, &found, err);
    if (status == BB_OK && found) take(s, t, x, tilt->name);
    return status;
}

/* Raises units of the uniform plan one option step at a time, in the order of `first` (a block's place), while they fit. */
static void raise_blocks(const survival *s, int64_t budget, int order, uint16_t *x)
{
    const bb_plan_unit *units = s->p->plans->units;
    const uint32_t      n_layer = s->r->model.net.n_layer;
    for (uint32_t i = 0; i < n_layer; i++) {
        const uint32_t layer = order == 0 ? i : order == 1 ? n_layer - 1 - i : i % 2 ? n_layer - 1 - i / 2 : i / 2;
        for (uint32_t u = 0; u < s->p->n_units; u++) {
            const uint16_t old = x[u];
            const int64_t *bytes = s->p->units[u].bytes + bb_problem_row(s->p, x, u);
            int64_t        least = INT64_MAX;
            uint32_t       next = old;
            if (!bb_model_space_is_format(s->r->space, u) || s->p->units[u].controller < 0 || units[u].layer != layer) continue;
            for (uint32_t k = 0; k < s->p->units[u].n_options; k++)
                if (!bb_is_forbidden(bytes[k]) && bytes[k] > bytes[old] && bytes[k] < least) {
                    least = bytes[k];
                    next = k;
                }
            x[u] = (uint16_t)next;
            if (bb_problem_size(s->p, x) > budget) x[u] = old;
        }
    }
}

/* A quarter of the plans are uniform; of few plans one is a mixture. */
static bb_status take_simple(const survival *s, set *t, uint16_t *x, bb_err *err)
{
    const uint32_t           most = (uint32_t)s->o->plans / 4, n_uniform = most < 1 ? 1 : most < N_UNIFORM ? most : N_UNIFORM;
    const int                n_mixtures = s->o->plans < 12 ? 1 : 3;
    static const char *const orders[] = { "mixture, first blocks up", "mixture, last blocks up", "mixture, both ends up" };
    const uint32_t           n_units = s->p->n_units;
    char                     names[N_UNIFORM][BB_SOURCE];
    uint16_t                *plans = BB_NEW((size_t)N_UNIFORM * n_units, uint16_t, err);
    size_t                   n;
    bb_status                status;
    if (!plans) return BB_NOMEM;
    BB_TRY(s->context.search.uniform(s->context.search.uniform_self, t->budget, n_uniform, plans, names, &n, err));
    for (size_t i = 0; i < n; i++) take(s, t, plans + i * n_units, names[i]);
    for (int order = 0; order < n_mixtures && n > 0; order++) {
        memcpy(x, plans, n_units * sizeof *x);
        raise_blocks(s, t->budget, order, x);
        take(s, t, x, orders[order]);
    }
done:
    bb_free(plans);
    return status;
}

static const bb_tilting tilts[] = {
    { "separable", 1, 1, 0 },           { "quantization only", 1, 0, 0 }, { "quantization only, power 0.6", 0.6, 0, 0 },
    { "power 0.6", 0.6, 1, 0 },         { "power 1.4", 1.4, 1, 0 },       { "structures cheaper", 1, 0.4, 0 },
    { "structures dearer", 1, 2.5, 0 }, { "late dearer", 1, 1, 0.7 },     { "late cheaper", 1, 1, -0.7 },
};

static bb_status draw_set(const survival *s, set *t, bb_err *err)
{
    const uint32_t n_units = s->p->n_units;
    const size_t   wanted = (size_t)s->o->plans;
    uint16_t      *x = BB_NEW(n_units, uint16_t, err), *best = BB_NEW(n_units, uint16_t, err);
    bb_rng         rng;
    char           name[64];
    bb_status      status = BB_NOMEM;
    t->x = BB_NEW(wanted * n_units, uint16_t, err);
    t->source = bb_alloc(wanted, sizeof *t->source, err);
    if (!x || !best || !t->x || !t->source) goto done;
    BB_TRY(take_simple(s, t, x, err));
    BB_TRY(take_tilted(s, t, &tilts[0], x, err));
    memcpy(best, x, n_units * sizeof *x);
    const bb_front_plan *found = bb_front_best(&s->front, t->budget);
    if (found) {
        BB_TRY(bb_plan_space_indices(s->p->plans, &found->plan, best, err));
        take(s, t, best, "searched");
    }
    for (size_t i = 1; i < sizeof tilts / sizeof *tilts; i++) BB_TRY(take_tilted(s, t, &tilts[i], x, err));
    snprintf(name, sizeof name, "survival %lld", (long long)t->budget);
    bb_rng_init(&rng, (uint64_t)s->o->seed, name);
    for (uint32_t tries = 0; t->n < wanted && tries < 20 * wanted; tries++) {
        const uint32_t moves = 1 + (uint32_t)bb_rng_below(&rng, 12);
        memcpy(x, best, n_units * sizeof *x);
        for (uint32_t i = 0; i < moves; i++) bb_moves_switch(&s->context.space, &rng, t->budget, x);
        take(s, t, x, "neighbour");
    }
    if (t->n < wanted) bb_warn("%u different plan%s found at %lld bytes; %zu were asked for", t->n, bb_plural(t->n), (long long)t->budget, wanted);
done:
    bb_free(x);
    bb_free(best);
    return status;
}

/* ---- scores ---- */

static bb_status begin_score(survival *s, set *t, const char *name, bool is_truth, uint32_t *k, bb_err *err)
{
    for (*k = 0; *k < s->n_kinds && strcmp(s->kinds[*k].name, name) != 0;) ++*k;
    BB_ASSERT(*k < MAX_SCORES);
    if (*k == s->n_kinds) {
        s->kinds[s->n_kinds] = (kind) { .is_truth = is_truth };
        snprintf(s->kinds[s->n_kinds++].name, sizeof s->kinds->name, "%s", name);
    }
    t->score[*k] = BB_NEW(t->n, double, err);
    return t->score[*k] ? BB_OK : BB_NOMEM;
}

static void put_score(survival *s, set *t, uint32_t k, uint32_t i, double kl, double kl_se, double tokens, double seconds)
{
    char hash[17];
    t->score[k][i] = kl;
    s->kinds[k].tokens += tokens;
    s->kinds[k].seconds += seconds;
    bb_plan_space_hash(s->p->plans, t->x + (size_t)i * s->p->n_units, hash);
    BB_ROW(s->plans, t->budget, hash, t->source[i], bb_problem_size(s->p, t->x + (size_t)i * s->p->n_units),
           bb_model_space_pruned_fraction(s->r->space, t->x + (size_t)i * s->p->n_units), s->kinds[k].name, kl, kl_se);
}

static bb_status score_tables(survival *s, set *t, bb_err *err)
{
    uint32_t  k;
    bb_status status;
    BB_TRY(begin_score(s, t, "separable", false, &k, err));
    for (uint32_t i = 0; i < t->n; i++) put_score(s, t, k, i, bb_problem_cost(s->p, t->x + (size_t)i * s->p->n_units), (double)NAN, 0, 0);
done:
    return status;
}

static bb_status score_database(survival *s, set *t, uint32_t level, const char *name, bb_err *err)
{
    uint32_t  k;
    bb_status status;
    BB_TRY(begin_score(s, t, name, false, &k, err));
    for (uint32_t i = 0; i < t->n; i++) {
        const uint16_t *x = t->x + (size_t)i * s->p->n_units;
        bb_score        score;
        const double    started = bb_now_s();
        BB_TRY(bb_ledger_evaluate(s->ledger, &x, 1, level, &score, NULL, err));
        put_score(s, t, k, i, score.kl, score.kl_se, score.tokens, bb_now_s() - started);
    }
done:
    return status;
}

/* A rebuild on so many windows; the truth: on those of --windows, all of them unless it says otherwise. */
static bb_status score_rebuilt(survival *s, set *t, bool is_truth, uint32_t windows, bb_progress *progress, bb_err *err)
{
    char      name[40] = "rebuild";
    uint32_t  k;
    bb_status status;
    if (!is_truth) snprintf(name, sizeof name, "rebuild on %u windows", windows);
    BB_TRY(begin_score(s, t, name, is_truth, &k, err));
    for (uint32_t i = 0; i < t->n; i++) {
        bb_trial trial;
        BB_TRY(bb_trial_rebuild(s->r, t->x + (size_t)i * s->p->n_units, windows, is_truth ? BB_LEVEL_CONFIRM : BB_LEVEL_REFINE, &trial, NULL, err));
        put_score(s, t, k, i, trial.kl, trial.kl_se, trial.tokens, trial.seconds);
        bb_progress_add(progress, 1);
    }
done:
    return status;
}

static bb_status score_ladder(survival *s, set *t, bb_progress *progress, bb_err *err)
{
    uint32_t  k;
    bb_status status;
    BB_TRY(begin_score(s, t, "ladder", true, &k, err));
    for (uint32_t i = 0; i < t->n; i++) {
        bb_trial trial;
        BB_TRY(bb_trial_ladder(s->r, t->x + (size_t)i * s->p->n_units, &trial, err));
        put_score(s, t, k, i, trial.kl, trial.kl_se, 0, trial.seconds);
        bb_progress_add(progress, 1);
    }
done:
    return status;
}

static bool same_structures(const survival *s, const set *t, uint32_t i, uint32_t k)
{
    for (uint32_t u = 0; u < s->p->n_units; u++)
        if (!bb_model_space_is_format(s->r->space, u) && t->x[(size_t)i * s->p->n_units + u] != t->x[(size_t)k * s->p->n_units + u]) return false;
    return true;
}

/* The plan whose structures most others share, and of those the best after a rebuild on few windows. */
static uint32_t reference_of(const survival *s, const set *t, const double *few, uint32_t *n_alike)
{
    uint32_t best = 0;
    *n_alike = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t n = 0;
        for (uint32_t k = 0; k < t->n; k++) n += same_structures(s, t, i, k);
        if (n < *n_alike || (n == *n_alike && few[i] >= few[best])) continue;
        best = i;
        *n_alike = n;
    }
    return best;
}

/* Stand-ins for a rebuild of one's own: the changes of single options inside a rebuilt reference plan, added up. Of plans with its structures alone. */
static bb_status score_point(survival *s, set *t, uint32_t windows, const double *few, bb_err *err)
{
    bb_point_score score = { 0 };
    uint32_t       k, n_alike;
    const uint32_t at = reference_of(s, t, few, &n_alike), n_units = s->p->n_units;
    const double   started = bb_now_s();
    bb_status      status;
    BB_TRY(begin_score(s, t, "options of a rebuilt plan", false, &k, err));
    BB_TRY(bb_point_measure(s->r, t->x + (size_t)at * n_units, windows, 0, BB_LEVEL_SKETCH, &score, err));
    for (uint32_t i = 0; i < t->n; i++) {
        const uint16_t *x = t->x + (size_t)i * n_units;
        put_score(s, t, k, i, bb_point_predict(&score, n_units, x), (double)NAN, score.tokens / t->n, (bb_now_s() - started) / t->n);
    }
    bb_info("working point at %lld bytes: %s, whose structures %u of %u plans have", (long long)t->budget, t->source[at], n_alike, t->n);
done:
    bb_point_score_done(&score);
    return status;
}

/* One score against a truth, over the plans that have both. */
static bb_status rank_score(survival *s, const set *t, uint32_t k, uint32_t truth, double *pairs, bb_err *err)
{
    double   *a = pairs, *b = pairs + t->n, lo, hi, least = HUGE_VAL;
    uint32_t  n = 0;
    bb_status status;
    for (uint32_t i = 0; i < t->n; i++) {
        if (!isfinite(t->score[k][i]) || !isfinite(t->score[truth][i])) continue;
        a[n] = t->score[k][i];
        b[n++] = t->score[truth][i];
        least = fmin(least, t->score[truth][i]);
    }
    if (n < 3) return BB_OK;
    const double regret = bb_regret(a, b, n);
    BB_TRY(bb_kendall_interval(a, b, n, (uint32_t)s->o->bootstrap, (uint64_t)s->o->seed, &lo, &hi, err));
    BB_ROW(s->rank, t->budget, s->kinds[k].name, s->kinds[truth].name, n, bb_kendall(a, b, n), lo, hi, regret, regret / least, s->kinds[k].tokens / t->n,
           s->kinds[k].seconds / t->n);
done:
    return status;
}

/* Every score against every truth but itself. */
static bb_status rank_set(survival *s, const set *t, bb_err *err)
{
    double *pairs = BB_NEW(2 * (size_t)t->n, double, err);
    if (!pairs) return BB_NOMEM;
    bb_status status = BB_OK;
    for (uint32_t truth = 0; truth < s->n_kinds; truth++)
        for (uint32_t k = 0; k < s->n_kinds && s->kinds[truth].is_truth; k++) {
            if (k == truth || (s->kinds[k].is_truth && k > truth)) continue; /* a rebuild is no score of what is made of it, but the other way */
            BB_TRY(rank_score(s, t, k, truth, pairs, err));
        }
done:
    bb_free(pairs);
    return status;
}

static bb_status study_size(survival *s, int64_t budget, bb_err *err)
{
    set          t = { .budget = budget };
    const char  *rest = few_of(s->o);
    const bool   ladder = strcmp(s->o->through, "ladder") == 0;
    uint32_t     few = 0; /* windows of the first of the cheap rebuilds */
    const size_t n_few = bb_list_length(rest);
    char         label[64], size[32];
    bb_progress  progress;
    bb_status    status;
    BB_TRY(draw_set(s, &t, err));
    for (uint32_t k = 0; k < s->n_kinds; k++) s->kinds[k].tokens = s->kinds[k].seconds = 0;
    BB_TRY(score_tables(s, &t, err));
    BB_TRY(score_database(s, &t, BB_LEVEL_REFINE, "database, few windows", err));
    BB_TRY(score_database(s, &t, BB_LEVEL_CONFIRM, "database", err));
    bb_format_size((uint64_t)budget, size);
    snprintf(label, sizeof label, "rebuild plans of %s", size);
    bb_progress_start(&progress, label, t.n * (n_few + 1 + ladder));
    for (bb_item item; bb_list_next(&rest, &item);) {
        char *text = bb_item_text(item, err);
        long  windows = text ? strtol(text, NULL, 10) : 0;
        bb_free(text);
        status = BB_NOMEM;
        if (!text) goto done;
        BB_TRY(score_rebuilt(s, &t, false, (uint32_t)windows, &progress, err));
        if (!few) few = (uint32_t)windows;
    }
    if (few && !s->o->no_anchors) BB_TRY(score_point(s, &t, few, t.score[3], err)); /* behind the tables and two of the database */
    BB_TRY(score_rebuilt(s, &t, true, (uint32_t)s->o->windows, &progress, err));
    if (ladder) BB_TRY(score_ladder(s, &t, &progress, err));
    bb_progress_end(&progress);
    BB_TRY(rank_set(s, &t, err));
done:
    for (uint32_t k = 0; k < MAX_SCORES; k++) bb_free(t.score[k]);
    bb_free(t.x);
    bb_free(t.source);
    return status;
}

/* ---- the study ---- */

static bb_status check_few(const bb_study_options *o, bb_err *err)
{
    enum { MOST = 4 };
    const char *rest = few_of(o);
    long        seen[MOST];
    size_t      n_seen = 0;
    if (bb_list_length(rest) > MOST) return BB_FAIL(err, BB_USAGE, "--few has %zu numbers: at most %d are wanted", bb_list_length(rest), MOST);
    for (bb_item item; bb_list_next(&rest, &item);) {
        char *text = bb_item_text(item, err), *end;
        if (!text) return BB_NOMEM;
        const long n = strtol(text, &end, 10);
        const bool good = *text && !*end && n >= 1 && n <= 1000000;
        bb_status  status = good ? BB_OK : BB_FAIL(err, BB_USAGE, "--few: \"%s\" is no number of windows from 1 to 1000000", text);
        bb_free(text);
        if (status != BB_OK) return status;
        for (size_t i = 0; i < n_seen; i++)
            if (seen[i] == n) return BB_FAIL(err, BB_USAGE, "--few has %ld twice", n);
        seen[n_seen++] = n;
    }
    return BB_OK;
}

static bb_status open_parts(survival *s, bb_err *err)
{
    char     *plans = bb_run_path(s->r, err, "plans.csv");
    bb_status status = BB_NOMEM;
    if (!plans) goto done;
    BB_TRY(check_few(s->o, err));
    BB_TRY(bb_study_sizes(s->r, s->o, &s->sizes, &s->n_sizes, err));
    BB_TRY(bb_stage_run(s->r, BB_STAGE_MEASURE, err));
    BB_TRY(bb_run_search_context_init(s->r, s->p, NULL, &s->context, err));
    BB_TRY(bb_scorer_init(s->r, &s->scorer, err));
    BB_TRY(bb_ledger_open(s->p, &s->scorer.evaluator, s->r->store, NULL, &s->ledger, err));
    if (bb_file_exists(plans)) BB_TRY(bb_front_load(s->r, &s->front, err));
    else bb_warn("the run was not searched yet: separable solutions stand in for its plans");
    BB_TRY(bb_run_table(s->r, "survival.csv", "budget_bytes,plan_hash,source,size_bytes,pruned_fraction,score,kl_nats,kl_se", &s->plans, err));
    BB_TRY(
        bb_run_table(s->r, "survival_rank.csv", "budget_bytes,score,truth,n_plans,tau,tau_lo,tau_hi,regret_nats,regret_share,tokens,seconds", &s->rank, err));
done:
    bb_free(plans);
    return status;
}

bb_status bb_study_survival(bb_run *r, const bb_study_options *o, bb_err *err)
{
    survival  s = { .r = r, .o = o, .p = bb_model_space_problem(r->space) };
    bb_status status;
    BB_TRY(open_parts(&s, err));
    for (size_t i = 0; i < s.n_sizes; i++) BB_TRY(study_size(&s, s.sizes[i], err));
    BB_TRY(bb_csv_close(&s.plans, err));
    BB_TRY(bb_csv_close(&s.rank, err));
done:
    bb_csv_discard(s.plans);
    bb_csv_discard(s.rank);
    bb_front_done(&s.front);
    bb_ledger_close(s.ledger);
    bb_scorer_done(&s.scorer);
    bb_run_search_context_done(&s.context);
    bb_free(s.sizes);
    return status;
}
