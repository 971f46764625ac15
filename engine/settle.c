/* SPDX-License-Identifier: GPL-3.0-or-later
 * settle.c: see settle.h. */
#include "engine/settle.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/point_score.h"
#include "engine/tilted.h"
#include "engine/trial.h"
#include "search/archive.h"
#include "search/paired.h"
#include "search/separable.h"
#include "search/space.h"

enum { WINDOW_SHARE = 2, FEWEST_WINDOWS = 4, MOST_STARTS = 4, REACH = 2, CANDIDATES = 3, MOST_FAILURES = 2, MOST_FOLLOWED = 3 };

static const bb_tilting tilts[] = {
    { "structures cheaper", 1, 0.4, 0 }, { "structures dearer", 1, 2.5, 0 }, { "power", 0.6, 1, 0 },
    { "late cheaper", 1, 1, -0.7 },      { "late dearer", 1, 1, 0.7 },
};

typedef struct settle {
    bb_run           *r;
    const bb_problem *p;
    bb_csv_writer    *csv;
    bb_progress       progress;
    uint32_t          windows, n_windows; /* to rebuild on; of a score */
    int64_t           budget, smaller;    /* the size before it; 0: none */
    uint32_t          used, n_tried;      /* plans rebuilt at this size; their hashes */
    char (*tried)[17];                    /* [--settle] */
    double    tokens;                     /* at this size */
    uint16_t *best;                       /* [n_units] the incumbent, */
    double   *best_kl, kl, kl_se;         /* [n_windows] and its score */
    char      source[BB_SOURCE];
    double   *window; /* [n_windows] of the plan at hand */
    bool      is_start;
} settle;

/* ---- the race ---- */

static bool has_room(const settle *s) { return s->used < (uint32_t)s->r->config.settle; }

/* Rebuilds x on few windows, unless that was done at this size, and takes it when its KL is lower. */
static bb_status race(settle *s, const uint16_t *x, const char *source, bool is_start, bool *won, bb_err *err)
{
    bb_trial  t;
    char      hash[17];
    double    margin = 0, se = 0;
    bb_status status;
    *won = false;
    bb_plan_space_hash(s->p->plans, x, hash);
    for (uint32_t i = 0; i < s->n_tried; i++)
        if (strcmp(s->tried[i], hash) == 0) return BB_OK;
    if (!has_room(s) || !bb_problem_allows(s->p, x) || bb_problem_size(s->p, x) > s->budget) return BB_OK;
    memcpy(s->tried[s->n_tried++], hash, sizeof hash);
    s->used++;
    BB_TRY(bb_trial_rebuild(s->r, x, s->windows, BB_LEVEL_CONFIRM, &t, s->window, err));
    s->tokens += t.tokens;
    bb_progress_add(&s->progress, 1);
    if (s->used > 1) bb_paired_difference(s->window, s->best_kl, s->n_windows, &margin, &se);
    *won = s->used == 1 || margin < 0;
    BB_ROW(s->csv, s->budget, s->used, hash, source, bb_problem_size(s->p, x), bb_model_space_pruned_fraction(s->r->space, x), t.kl, t.kl_se,
           s->used == 1 ? (double)NAN : margin, s->used == 1 ? (double)NAN : se, *won, s->tokens);
    bb_debug("settle: %lld bytes, %s: KL %.5f after a rebuild, %+.5f +- %.5f", (long long)s->budget, source, t.kl, margin, se);
    if (!*won) goto done;
    memcpy(s->best, x, s->p->n_units * sizeof *x);
    memcpy(s->best_kl, s->window, s->n_windows * sizeof *s->window);
    snprintf(s->source, sizeof s->source, "%s", source);
    s->kl = t.kl;
    s->is_start = is_start;
done:
    return status;
}

/* ---- what is raced ---- */

/* The plans of the front that were chosen for this size, the largest first; where there is none, the largest of those that are smaller. */
static bb_status race_starts(settle *s, const bb_front *front, bb_err *err)
{
    uint16_t *x = BB_NEW(s->p->n_units, uint16_t, err);
    bool     *taken = BB_NEW0(front->n, bool, err), won;
    bb_status status = x && taken ? BB_OK : BB_NOMEM;
    for (int i = 0; status == BB_OK && i < MOST_STARTS; i++) {
        const bb_front_plan *f = NULL;
        for (size_t k = 0; k < front->n; k++) {
            const bb_front_plan *g = &front->plans[k];
            if (taken[k] || !g->is_asked || g->size_bytes > s->budget) continue;
            if (s->used > 0 && g->size_bytes <= s->smaller) continue;
            if (!f || g->size_bytes > f->size_bytes || (g->size_bytes == f->size_bytes && strcmp(g->hash, f->hash) < 0)) f = g;
        }
        if (!f) break;
        taken[f - front->plans] = true;
        BB_TRY(bb_plan_space_indices(s->p->plans, &f->plan, x, err));
        BB_TRY(race(s, x, f->source, true, &won, err));
    }
done:
    bb_free(x);
    bb_free(taken);
    return status;
}

static bb_status race_tilt(settle *s, const bb_tilting *t, uint16_t *x, bool *won, bb_err *err)
{
    bool      found;
    bb_status status = bb_tilted_plan(s->r, s->p, t, s->budget, x, &found, err);
    *won = false;
    if (status == BB_OK && found) status = race(s, x, t->name, false, won, err);
    return status;
}

/* The fixed tilts, and the last one that won made stronger for as long as that wins. */
static bb_status race_tilts(settle *s, bb_err *err)
{
    const double stronger = 1.8;
    uint16_t    *x = BB_NEW(s->p->n_units, uint16_t, err);
    bb_tilting   best = { .name = NULL };
    bool         won;
    bb_status    status = BB_NOMEM;
    if (!x) return BB_NOMEM;
    for (size_t i = 0; i < sizeof tilts / sizeof *tilts; i++) {
        BB_TRY(race_tilt(s, &tilts[i], x, &won, err));
        if (won) best = tilts[i];
    }
    for (int i = 0; i < MOST_FOLLOWED && best.name; i++) {
        best.power = pow(best.power, stronger);
        best.structures = pow(best.structures, stronger);
        best.slope *= stronger;
        BB_TRY(race_tilt(s, &best, x, &won, err));
        if (!won) break;
    }
    status = BB_OK;
done:
    bb_free(x);
    return status;
}

/* The tables of the separable model around the incumbent: what was not measured is forbidden, a price on every change; a format's change is the same at every width. A
 * constant for each unit makes them non-negative, which moves no optimum. */
static void fill_tables(const settle *s, const bb_point_score *score, double price, bb_variant *v)
{
    for (uint32_t u = 0; u < s->p->n_units; u++) {
        const size_t rows = bb_problem_rows(s->p, u), n = s->p->units[u].n_options;
        double       least = 0;
        for (uint32_t o = 0; o < n; o++) least = fmin(least, score->change[score->offset[u] + o] + (o != s->best[u]) * price);
        for (size_t i = 0; i < rows * n; i++) {
            const size_t o = i % n;
            const double change = score->change[score->offset[u] + o];
            if (isnan(change)) v->bytes[u][i] = BB_FORBIDDEN;
            v->cost[u][i] = isnan(change) ? 0 : change + (o != s->best[u]) * price - least;
        }
    }
}

/* The optimum at a price; *changed: in how many units it differs from the incumbent. */
static bb_status solve_at(const settle *s, const bb_point_score *score, double price, uint16_t *x, uint32_t *changed, bb_err *err)
{
    bb_variant    v = { 0 };
    bb_separable *sep = NULL;
    bb_status     status;
    *changed = 0;
    BB_TRY(bb_variant_init(s->p, &v, err));
    fill_tables(s, score, price, &v);
    BB_TRY(bb_separable_create(&v.problem, NULL, &sep, err));
    BB_TRY(bb_separable_solve(sep, s->budget, x, NULL, err));
    for (uint32_t u = 0; u < s->p->n_units; u++) *changed += x[u] != s->best[u];
done:
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    return status;
}

/* The optimum that changes at most `most` units: the least price that does it, by bisection. */
static bb_status solve_within(const settle *s, const bb_point_score *score, uint32_t most, uint16_t *x, uint32_t *changed, bb_err *err)
{
    enum { STEPS = 24 };
    double    low = 0, high = 0;
    bb_status status;
    BB_TRY(solve_at(s, score, 0, x, changed, err));
    if (*changed <= most) goto done;
    for (uint32_t i = 0; i < score->offset[s->p->n_units]; i++)
        if (!isnan(score->change[i])) high = fmax(high, 2 * fabs(score->change[i]));
    for (int i = 0; i < STEPS; i++) {
        const double price = (low + high) / 2;
        BB_TRY(solve_at(s, score, price, x, changed, err));
        *(*changed <= most ? &high : &low) = price;
    }
    BB_TRY(solve_at(s, score, high, x, changed, err));
done:
    return status;
}

/* Rounds around the rebuilt incumbent until its trust region is too narrow, or the plans are spent. */
static bb_status race_points(settle *s, bb_err *err)
{
    uint16_t      *candidates = BB_NEW(CANDIDATES * (size_t)s->p->n_units, uint16_t, err);
    bb_point_score score = { 0 };
    uint32_t       most = s->p->n_units, failures = 0;
    bb_status      status = BB_NOMEM;
    if (!candidates) return BB_NOMEM;
    for (uint32_t round = 1; has_room(s) && failures < MOST_FAILURES && most > 0; round++) {
        bool any = false;
        BB_TRY(bb_point_measure(s->r, s->best, s->windows, REACH, BB_LEVEL_SKETCH, &score, err));
        s->tokens += score.tokens;
        uint32_t n = 0, reached[CANDIDATES] = { 0 };
        for (uint32_t limit = most; n < CANDIDATES && limit > 0; limit /= 4) { /* all of a round before the first is raced: a winner is the next point */
            uint16_t *x = candidates + (size_t)n * s->p->n_units;
            BB_TRY(solve_within(s, &score, limit, x, &reached[n], err));
            if (reached[n] > 0) n++;
        }
        bb_point_score_done(&score);
        for (uint32_t k = 0; k < n; k++) {
            char source[BB_SOURCE];
            bool won;
            snprintf(source, sizeof source, "point %u, %u changes", round, reached[k]);
            BB_TRY(race(s, candidates + (size_t)k * s->p->n_units, source, false, &won, err));
            if (won) most = 2 * reached[k];
            any |= won;
        }
        if (n == 0) break;
        if (!any) most = reached[n - 1] / 2;
        failures = any ? 0 : failures + 1;
    }
    status = BB_OK;
done:
    bb_point_score_done(&score);
    bb_free(candidates);
    return status;
}

/* ---- sizes ---- */

static bb_status settle_size(settle *s, bb_ledger *ledger, bb_front *front, bb_err *err)
{
    const uint16_t *best = s->best;
    bb_score        score;
    char            source[BB_SOURCE];
    bb_status       status;
    s->used = s->n_tried = 0;
    s->tokens = 0;
    s->is_start = true;
    BB_TRY(race_starts(s, front, err));
    if (s->used == 0) goto done; /* nothing is as small */
    const double before = s->kl;
    BB_TRY(race_tilts(s, err));
    BB_TRY(race_points(s, err));
    bb_info("settle: at %lld bytes %u plans were rebuilt on %u windows: KL %.5f of the best to begin with, %.5f now (%s)", (long long)s->budget, s->used,
            s->windows, before, s->kl, s->source);
    if (s->is_start) goto done;
    BB_TRY(bb_ledger_evaluate(ledger, &best, 1, BB_LEVEL_CONFIRM, &score, NULL, err));
    snprintf(source, sizeof source, "settled: %.*s", BB_SOURCE - 10, s->source);
    BB_TRY(bb_front_add(s->r, front, s->best, source, false, true, &score, err));
done:
    return status;
}

bb_status bb_settle(bb_run *r, const bb_problem *p, bb_ledger *ledger, bb_front *front, bb_err *err)
{
    settle    s = { .r = r, .p = p, .windows = r->calib.n / WINDOW_SHARE };
    bb_status status = BB_NOMEM;
    if (r->config.settle == 0) return BB_OK;
    if (s.windows < FEWEST_WINDOWS) s.windows = FEWEST_WINDOWS;
    s.n_windows = bb_net_evaluator_windows(r->evaluator, BB_LEVEL_CONFIRM);
    s.tried = bb_alloc((size_t)r->config.settle, sizeof *s.tried, err);
    s.best = BB_NEW(p->n_units, uint16_t, err);
    s.best_kl = BB_NEW(s.n_windows, double, err);
    s.window = BB_NEW(s.n_windows, double, err);
    if (!s.tried || !s.best || !s.best_kl || !s.window) goto done;
    BB_TRY(bb_run_table(r, "settle.csv", "budget_bytes,step,plan_hash,source,size_bytes,pruned_fraction,kl_nats,kl_se,difference,difference_se,kept,tokens",
                        &s.csv, err));
    bb_progress_start(&s.progress, "settle, plans", (uint64_t)r->config.settle * (r->is_sweep ? r->n_budgets : 1));
    for (size_t i = 0; i < r->n_budgets; i++) {
        if (!r->is_sweep && r->budgets[i] != bb_front_target(r)) continue;
        s.smaller = s.budget;
        s.budget = r->budgets[i];
        BB_TRY(settle_size(&s, ledger, front, err));
    }
    bb_progress_end(&s.progress);
    status = bb_csv_close(&s.csv, err);
done:
    bb_csv_discard(s.csv);
    bb_free(s.tried);
    bb_free(s.best);
    bb_free(s.best_kl);
    bb_free(s.window);
    return status;
}
