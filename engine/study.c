/* SPDX-License-Identifier: GPL-3.0-or-later
 * study.c: see study.h. */
#include "engine/study.h"

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
#include "engine/keys.h"
#include "engine/run_parts.h"
#include "engine/score.h"
#include "engine/scorer.h"
#include "engine/stages.h"
#include "engine/study_plot.h"
#include "eval/layerwise.h"
#include "eval/rank.h"
#include "search/ledger.h"
#include "search/moves.h"
#include "search/separable.h"

enum { MAX_BANDS = 16, MAX_PROXIES = 24, DRAWS = 10000 /* of one random plan */ };

/* One set of plans of one band. */
typedef struct plan_set {
    bool      is_front;
    double    bpw;
    int64_t   budget;
    uint32_t  n;
    uint16_t *x;    /* [n * n_units] */
    double   *kl;   /* [n] the truth */
    double   *seen; /* [n] KL on the measuring windows: as a proxy */
} plan_set;

typedef struct study {
    bb_run                 *r;
    const bb_study_options *o;
    const bb_problem       *p;
    uint32_t                n_bands, level;
    double                  bands[MAX_BANDS];
    bb_space                space;
    bb_run_units            units;
    bb_scorer               scorer;
    bb_separable           *separable;
    bb_ledger              *ledger;
    bb_front                front;
    uint16_t               *incumbent; /* [n_bands * n_units] */
    plan_set                sets[2 * MAX_BANDS];
    bb_sensitivity          base;                /* around full precision; borrowed */
    double                 *single;              /* its KLs, made non-negative */
    bb_proxy                shared[MAX_PROXIES]; /* the same for all bands */
    uint32_t                n_shared;
    bb_sensitivity          around[MAX_BANDS]; /* around each incumbent */
    bb_csv_writer          *rows, *plans;
    bb_study_plot           plot;
} study;

/* ---- plans ---- */

static int64_t band_bytes(const bb_run *r, double bpw) { return (int64_t)(bpw * (double)r->n_weights / 8); }
static int64_t bytes_of(const study *s, double bpw) { return band_bytes(s->r, bpw); }

/* Keeps the bands that are no smaller than the smallest plan; says what is left out. BB_INFEASIBLE when none is left. */
static bb_status drop_small_bands(const bb_run *r, const char *given, double *bands, size_t *n, bb_err *err)
{
    uint64_t  smallest, largest;
    size_t    kept = 0;
    char      size[32];
    bb_status status;
    BB_TRY(bb_model_space_reach(r->space, &smallest, &largest, err));
    bb_format_size(smallest, size);
    for (size_t i = 0; i < *n; i++) {
        if (band_bytes(r, bands[i]) >= (int64_t)smallest) bands[kept++] = bands[i];
        else
            bb_warn("--bands: %g bits per weight (%lld bytes) are skipped: the smallest plan has %llu bytes (%s), which are %.3f bits per weight", bands[i],
                    (long long)band_bytes(r, bands[i]), (unsigned long long)smallest, size, 8 * (double)smallest / (double)r->n_weights);
    }
    if (!kept)
        status = BB_FAIL(err, BB_INFEASIBLE, "--bands %s: every band is below the smallest plan of %llu bytes (%s), which are %.3f bits per weight", given,
                         (unsigned long long)smallest, size, 8 * (double)smallest / (double)r->n_weights);
    *n = kept;
done:
    return status;
}

bb_status bb_study_sizes(const bb_run *r, const bb_study_options *o, int64_t **sizes, size_t *n, bb_err *err)
{
    double   *bands = NULL;
    bb_status status;
    *sizes = NULL;
    if (*o->sizes) {
        BB_TRY(bb_run_sizes(r, o->sizes, sizes, n, err));
    } else {
        BB_TRY(bb_list_doubles(o->bands, &bands, n, err));
        BB_TRY(drop_small_bands(r, o->bands, bands, n, err));
        if (!(*sizes = BB_NEW(*n, int64_t, err))) status = BB_NOMEM;
        for (size_t i = 0; *sizes && i < *n; i++) (*sizes)[i] = band_bytes(r, bands[i]);
    }
done:
    bb_free(bands);
    return status;
}

static bb_status parse_bands(study *s, bb_err *err)
{
    double   *bands;
    size_t    n;
    bb_status status = bb_list_doubles(s->o->bands, &bands, &n, err);
    if (status != BB_OK) return status;
    if (n == 0 || n > MAX_BANDS) status = BB_FAIL(err, BB_USAGE, "--bands has %zu numbers: from 1 to %d are wanted", n, MAX_BANDS);
    else if ((status = drop_small_bands(s->r, s->o->bands, bands, &n, err)) == BB_OK) {
        memcpy(s->bands, bands, n * sizeof *bands);
        s->n_bands = (uint32_t)n;
    }
    bb_free(bands);
    return status;
}

static uint16_t *incumbent(const study *s, uint32_t band) { return s->incumbent + (size_t)band * s->p->n_units; }

/* The best searched plan that fits, topped up; without one the separable optimum. */
static bb_status find_incumbent(study *s, uint32_t band, bb_err *err)
{
    uint16_t            *x = incumbent(s, band);
    int64_t              budget = bytes_of(s, s->bands[band]);
    const bb_front_plan *best = bb_front_best(&s->front, budget);
    bb_status            status = BB_OK;
    if (!best) return bb_separable_solve(s->separable, budget, x, NULL, err);
    BB_TRY(bb_plan_space_indices(s->p->plans, &best->plan, x, err));
    bb_space_topup(&s->space, x, budget);
done:
    return status;
}

static bool is_new(const study *s, const plan_set *set, const uint16_t *x)
{
    for (uint32_t i = 0; i < set->n; i++)
        if (memcmp(set->x + (size_t)i * s->p->n_units, x, s->p->n_units * sizeof *x) == 0) return false;
    return true;
}

/* false: none of so few bytes is found. */
static bool draw_plan(const study *s, const plan_set *set, uint32_t band, bb_rng *rng, uint16_t *x)
{
    if (!set->is_front) return bb_moves_random_fit_in(&s->space, rng, set->budget, DRAWS, x);
    memcpy(x, incumbent(s, band), s->p->n_units * sizeof *x);
    uint32_t moves = set->n == 0 ? 0 : 1 + (uint32_t)bb_rng_below(rng, 6); /* the first is the searched plan itself */
    for (uint32_t i = 0; i < moves; i++) bb_moves_switch(&s->space, rng, set->budget, x);
    return true;
}

static bb_status draw_set(study *s, plan_set *set, uint32_t band, bool is_front, bb_err *err)
{
    uint32_t wanted = (uint32_t)s->o->plans;
    bb_rng   rng;
    char     name[48];
    *set = (plan_set) { .is_front = is_front, .bpw = s->bands[band], .budget = bytes_of(s, s->bands[band]) };
    set->x = BB_NEW((size_t)wanted * s->p->n_units, uint16_t, err);
    set->kl = BB_NEW(wanted, double, err);
    set->seen = BB_NEW(wanted, double, err);
    if (!set->x || !set->kl || !set->seen) return BB_NOMEM;
    snprintf(name, sizeof name, "study %s %g", is_front ? "front" : "random", s->bands[band]);
    bb_rng_init(&rng, (uint64_t)s->o->seed, name);
    for (uint32_t tries = 0; set->n < wanted && tries < 20 * wanted; tries++) {
        uint16_t *x = set->x + (size_t)set->n * s->p->n_units;
        if (!draw_plan(s, set, band, &rng, x)) break;
        set->n += is_new(s, set, x);
    }
    if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while plans were drawn; the same command goes on");
    if (set->n < wanted)
        bb_warn("%u different plan%s of the %s set found at %g bits per weight; %u were asked for", set->n, bb_plural(set->n), is_front ? "front" : "random",
                set->bpw, wanted);
    return BB_OK;
}

/* ---- truth ---- */

/* Windows of the truth's level that options were not measured on. */
static bool is_unseen(const study *s, uint32_t window)
{
    const bb_windows *all = &s->r->levels[s->level], *seen = &s->r->levels[BB_LEVEL_SKETCH];
    for (uint32_t i = 0; i < seen->n; i++)
        if (memcmp(seen->tokens + (size_t)i * seen->ctx, all->tokens + (size_t)window * all->ctx, all->ctx * sizeof(int32_t)) == 0) return false;
    return true;
}

static bb_status evaluate_set(study *s, plan_set *set, bb_err *err)
{
    uint32_t    n_windows = s->r->levels[s->level].n, used = 0;
    double     *window = BB_NEW(n_windows, double, err);
    char        label[64];
    bb_progress progress;
    bb_status   status = BB_NOMEM;
    if (!window) return BB_NOMEM;
    for (uint32_t w = 0; w < n_windows; w++) used += is_unseen(s, w);
    if (used == 0) {
        status = BB_FAIL(err, BB_USAGE, "all windows of this level are measuring windows: take --level confirm, or a run with fewer --measure-windows");
        goto done;
    }
    snprintf(label, sizeof label, "true KL, %s plans, %g bits", set->is_front ? "front" : "random", set->bpw);
    bb_progress_start(&progress, label, set->n);
    for (uint32_t i = 0; i < set->n; i++) {
        const uint16_t *x = set->x + (size_t)i * s->p->n_units;
        bb_score        score;
        double          sum = 0;
        BB_TRY(bb_ledger_evaluate(s->ledger, &x, 1, s->level, &score, &window, err));
        for (uint32_t w = 0; w < n_windows; w++)
            if (is_unseen(s, w)) sum += window[w];
        set->kl[i] = sum / used;
        BB_TRY(bb_ledger_evaluate(s->ledger, &x, 1, BB_LEVEL_MEASURE, &score, NULL, err));
        set->seen[i] = score.kl;
        bb_progress_add(&progress, 1);
    }
    bb_progress_end(&progress);
done:
    bb_free(window);
    return status;
}

/* ---- proxies ---- */

/* Seconds of something that run.db may have answered: the most that was ever seen. */
static bb_status remember_seconds(study *s, const char *what, double *seconds, bb_err *err)
{
    char      space[65], key[200];
    void     *value = NULL;
    size_t    size;
    double    before;
    bool      found;
    bb_status status;
    bb_key_space(s->r, space);
    snprintf(key, sizeof key, "%s|%s|%s", s->r->key, space, what);
    BB_TRY(bb_store_get(s->r->store, "study", key, &value, &size, &found, err));
    if (found && size == sizeof before) {
        memcpy(&before, value, sizeof before);
        if (before >= *seconds) {
            *seconds = before;
            goto done;
        }
    }
    BB_TRY(bb_store_put(s->r->store, "study", key, seconds, sizeof *seconds, err));
done:
    bb_free(value);
    return status;
}

static bb_status add_costs(study *s, const char *name, const double *cost, double tokens, double seconds, bb_err *err)
{
    bb_proxy *p = &s->shared[s->n_shared];
    bb_status status = bb_proxy_from_costs(&s->units.units, name, cost, p, err);
    if (status != BB_OK) return status;
    p->tokens = tokens;
    p->seconds = seconds;
    s->n_shared++;
    return BB_OK;
}

static bb_status measure_base(study *s, bb_err *err)
{
    static const bb_proxy_shape exact = { 1, 1 };
    double                      started = bb_now_s(), seconds;
    bb_status                   status;
    BB_TRY(bb_stage_run(s->r, BB_STAGE_MEASURE, err));
    s->base = s->r->sensitivity;
    seconds = bb_now_s() - started;
    BB_TRY(remember_seconds(s, "full precision", &seconds, err));
    status = BB_NOMEM;
    if (!(s->single = BB_NEW(s->base.n, double, err))) goto done;
    for (size_t i = 0; i < s->base.n; i++) s->single[i] = fmax(0, s->base.changes[i].kl);
    BB_TRY(add_costs(s, "sum of KLs", s->single, s->base.n_forwarded, seconds, err));
    BB_TRY(bb_proxy_from_sensitivity(&s->units.units, "signed", &s->base, NULL, s->single, &exact, &s->shared[s->n_shared], err));
    s->shared[s->n_shared++].seconds = seconds;
done:
    return status;
}

/* Scores from single layers: what the propagated ones have to beat. Structure and embedding options that a method knows nothing of take their
 * measured KL. */
static bb_status measure_layerwise(study *s, bb_err *err)
{
    bb_layerwise_input in = { &s->r->model, s->r->database,  s->r->evaluator, BB_LEVEL_SKETCH, &s->r->levels[BB_LEVEL_SKETCH], (uint64_t)s->r->config.seed,
                              s->p->plans,  s->base.changes, s->base.n };
    double            *cost = BB_NEW(s->base.n, double, err);
    bb_status          status = BB_NOMEM;
    if (!cost) return BB_NOMEM;
    for (bb_layerwise kind = 0; kind < BB_LAYERWISE_COUNT; kind++) {
        double started = bb_now_s(), tokens = 0, seconds;
        memcpy(cost, s->single, s->base.n * sizeof *cost);
        BB_TRY(bb_layerwise_costs(&in, kind, cost, &tokens, err));
        seconds = bb_now_s() - started;
        BB_TRY(add_costs(s, bb_layerwise_names[kind], cost, tokens, seconds, err));
    }
    status = BB_OK;
done:
    bb_free(cost);
    return status;
}

/* The reference option of a linear for measured pairs: the second smallest, where errors are large but not absurd. */
static uint16_t pair_option(const study *s, uint32_t u)
{
    const bb_unit *unit = &s->p->units[u];
    uint16_t       smallest = 0, second = 0;
    for (uint16_t o = 1; o < unit->n_options; o++)
        if (unit->bytes[o] < unit->bytes[smallest]) smallest = o;
    second = smallest ? 0 : unit->n_options > 1;
    for (uint16_t o = 0; o < unit->n_options; o++)
        if (o != smallest && unit->bytes[o] < unit->bytes[second]) second = o;
    return second;
}

/* KL of full precision with both options. */
static bb_status measure_pair(study *s, uint32_t u, uint32_t v, double *kl, double *tokens, bb_err *err)
{
    bb_net        net;
    bb_evaluation e;
    uint16_t     *x = BB_NEW(s->p->n_units, uint16_t, err);
    bb_status     status = BB_NOMEM;
    if (!x) return BB_NOMEM;
    bb_model_space_source(s->r->space, x);
    x[v] = pair_option(s, v);
    BB_TRY(bb_database_apply_at(s->r->database, s->p->plans, x, u, pair_option(s, u), &net, s->scorer.workers[0].blocks, err));
    BB_TRY(bb_net_evaluator_score(s->r->evaluator, &net, BB_LEVEL_SKETCH, &e, NULL, err));
    *kl = e.kl;
    *tokens += e.n_forwarded;
done:
    bb_free(x);
    return status;
}

/* Sum of KLs, and for linears that follow each other the interaction 2 c sqrt(KL_u KL_v) with c measured at one pair of options (the idea of
 * CLADO, arXiv 2307.05657, at one measurement a pair of units instead of one a pair of options). */
static bb_status measure_adjacent(study *s, bb_err *err)
{
    size_t    M = s->base.n, last = SIZE_MAX;
    double    started = bb_now_s();
    bb_proxy *p = &s->shared[s->n_shared];
    bb_status status;
    BB_TRY(add_costs(s, "adjacent pairs, measured", s->single, s->base.n_forwarded, 0, err));
    if (!(p->gram = BB_NEW0(M * M, float, err))) return BB_NOMEM;
    for (uint32_t v = 0; v < s->p->n_units; v++) {
        if (s->p->units[v].controller < 0) continue;
        if (last != SIZE_MAX) {
            uint32_t u = (uint32_t)last, a = s->units.offset[u], b = s->units.offset[v];
            double   kl, ku = s->single[a + pair_option(s, u)], kv = s->single[b + pair_option(s, v)];
            BB_TRY(measure_pair(s, u, v, &kl, &p->tokens, err));
            double c = ku > 0 && kv > 0 ? fmax(-1, fmin(1, (kl - ku - kv) / (2 * sqrt(ku * kv)))) : 0;
            for (size_t i = a; i < s->units.offset[u + 1]; i++)
                for (size_t j = b; j < s->units.offset[v + 1]; j++)
                    p->gram[i * M + j] = p->gram[j * M + i] = (float)(2 * c * sqrt(s->single[i] * s->single[j]));
        }
        last = v;
    }
    p->seconds = s->shared[0].seconds + bb_now_s() - started;
done:
    return status;
}

static bb_status measure_around(study *s, uint32_t band, double *seconds, bb_err *err)
{
    double    started = bb_now_s();
    char      what[40];
    bb_status status;
    snprintf(what, sizeof what, "around %g", s->bands[band]);
    BB_TRY(bb_run_sensitivity(s->r, incumbent(s, band), &s->around[band], err));
    *seconds = bb_now_s() - started;
    BB_TRY(remember_seconds(s, what, seconds, err));
done:
    return status;
}

/* ---- rows ---- */

static bb_status report(study *s, const plan_set *set, const char *name, const double *score, double tokens, double seconds, bb_err *err)
{
    double    tau = bb_kendall(score, set->kl, set->n), lo, hi, rho;
    bb_status status;
    if (set->n == 0) return BB_OK; /* none of so few bytes was found */
    BB_TRY(bb_kendall_interval(score, set->kl, set->n, (uint32_t)s->o->bootstrap, (uint64_t)s->o->seed, &lo, &hi, err));
    BB_TRY(bb_spearman(score, set->kl, set->n, &rho, err));
    BB_ROW(s->rows, set->is_front ? "front" : "random", set->bpw, set->n, name, tau, lo, hi, rho, bb_regret(score, set->kl, set->n), tokens, seconds);
    BB_TRY(bb_study_plot_add(&s->plot, set->is_front, set->bpw, name, tau, lo, hi, err));
    for (uint32_t i = 0; i < set->n; i++) {
        char hash[17];
        bb_plan_space_hash(s->p->plans, set->x + (size_t)i * s->p->n_units, hash);
        BB_ROW(s->plans, set->is_front ? "front" : "random", set->bpw, hash, set->kl[i], name, score[i]);
    }
done:
    return status;
}

static bb_status report_proxy(study *s, const plan_set *set, const bb_proxy *p, bb_err *err)
{
    double   *score = BB_NEW(set->n, double, err), started = bb_now_s();
    bb_status status = BB_NOMEM;
    if (!score) return BB_NOMEM;
    for (uint32_t i = 0; i < set->n; i++) score[i] = bb_proxy_score(p, set->x + (size_t)i * s->p->n_units);
    status = report(s, set, p->name, score, p->tokens, p->seconds + bb_now_s() - started, err);
    bb_free(score);
    return status;
}

/* A proxy around the incumbent of a band, on the sets of band `of`. */
static bb_status anchored(study *s, uint32_t band, const char *name, bb_proxy_shape shape, double seconds, bb_proxy *out, bb_err *err)
{
    bb_status status = bb_proxy_from_sensitivity(&s->units.units, name, &s->around[band], incumbent(s, band), s->single, &shape, out, err);
    out->seconds = seconds;
    return status;
}

typedef struct anchored_kind {
    const char    *name;
    bb_proxy_shape shape;
} anchored_kind;

static const anchored_kind anchored_kinds[] = {
    { "re-anchored, KLs alone", { 1, 0 } },
    { "re-anchored, signed", { 1, 1 } },
    { "re-anchored", { 0.5, 0.25 } },
};
enum { N_ANCHORED = sizeof anchored_kinds / sizeof *anchored_kinds };

/* The mean of the proxies around the neighbouring bands' incumbents, what a band knows that was not measured itself; and that with its own. */
static bb_status report_neighbours(study *s, uint32_t band, const double *seconds, bb_err *err)
{
    uint32_t  low = band > 0 ? band - 1 : band + 1, high = band + 1 < s->n_bands ? band + 1 : band - 1;
    bb_proxy  a = { 0 }, b = { 0 }, own = { 0 };
    bb_status status = BB_OK;
    if (s->n_bands < 2) return BB_OK;
    BB_TRY(anchored(s, low, "neighbours' anchors", BB_PROXY_DEFAULT, seconds[low], &a, err));
    if (high != low) {
        BB_TRY(anchored(s, high, "", BB_PROXY_DEFAULT, seconds[high], &b, err));
        BB_TRY(bb_proxy_mix(&a, &b, 0.5, err));
    }
    for (int k = 0; k < 2; k++) BB_TRY(report_proxy(s, &s->sets[2 * band + (uint32_t)k], &a, err));
    BB_TRY(anchored(s, band, "own and neighbours' anchors", BB_PROXY_DEFAULT, seconds[band], &own, err));
    BB_TRY(bb_proxy_mix(&own, &a, 0.5, err));
    for (int k = 0; k < 2; k++) BB_TRY(report_proxy(s, &s->sets[2 * band + (uint32_t)k], &own, err));
done:
    bb_proxy_done(&a);
    bb_proxy_done(&b);
    bb_proxy_done(&own);
    return status;
}

static bb_status report_band(study *s, uint32_t band, const double *seconds, bb_err *err)
{
    bb_proxy  p = { 0 };
    bb_status status = BB_OK;
    for (uint32_t i = 0; i < s->n_shared; i++)
        for (int k = 0; k < 2; k++) BB_TRY(report_proxy(s, &s->sets[2 * band + (uint32_t)k], &s->shared[i], err));
    for (int i = 0; i < N_ANCHORED && !s->o->no_anchors; i++) {
        BB_TRY(anchored(s, band, anchored_kinds[i].name, anchored_kinds[i].shape, seconds[band], &p, err));
        for (int k = 0; k < 2; k++) BB_TRY(report_proxy(s, &s->sets[2 * band + (uint32_t)k], &p, err));
        bb_proxy_done(&p);
    }
    if (!s->o->no_anchors) BB_TRY(report_neighbours(s, band, seconds, err));
    for (int k = 0; k < 2; k++) {
        const plan_set   *set = &s->sets[2 * band + (uint32_t)k];
        const bb_windows *w = &s->r->levels[BB_LEVEL_MEASURE];
        BB_TRY(report(s, set, "true KL, few tokens", set->seen, (double)set->n * w->n * w->ctx, 0, err));
    }
done:
    if (p.units) bb_proxy_done(&p);
    return status;
}

static bb_status write_all(study *s, const double *seconds, bb_err *err)
{
    char     *dir = bb_run_path(s->r, err, "plots"), *svg = bb_run_path(s->r, err, "plots/proxy.svg");
    bb_status status = BB_NOMEM;
    if (!svg || !dir) goto done;
    BB_TRY(bb_run_table(s->r, "proxy.csv", "set,band_bpw,n_plans,proxy,tau,tau_lo,tau_hi,rho,regret_nats,tokens,seconds", &s->rows, err));
    BB_TRY(bb_run_table(s->r, "study.csv", "set,band_bpw,plan_hash,kl_nats,proxy,score", &s->plans, err));
    for (uint32_t band = 0; band < s->n_bands; band++) BB_TRY(report_band(s, band, seconds, err));
    BB_TRY(bb_csv_close(&s->rows, err));
    BB_TRY(bb_csv_close(&s->plans, err));
    BB_TRY(bb_make_dirs(dir, err));
    BB_TRY(bb_keys_made(s->r, "plots/proxy.svg", err));
    BB_TRY(bb_study_plot_write(&s->plot, svg, err));
done:
    bb_free(dir);
    bb_free(svg);
    return status;
}

/* ---- the study ---- */

static bb_status open_parts(study *s, bb_err *err)
{
    bb_status status;
    BB_TRY(parse_bands(s, err));
    BB_TRY(bb_run_calibrate(s->r, err));
    BB_TRY(measure_base(s, err));
    BB_TRY(bb_space_init(s->p, &s->space, err));
    BB_TRY(bb_scorer_init(s->r, &s->scorer, err));
    BB_TRY(bb_separable_create(s->p, NULL, &s->separable, err));
    BB_TRY(bb_ledger_open(s->p, &s->scorer.evaluator, s->r->store, NULL, &s->ledger, err));
    char *plans = bb_run_path(s->r, err, "plans.csv");
    bool  searched = plans && bb_file_exists(plans);
    bb_free(plans);
    if (searched) BB_TRY(bb_front_load(s->r, &s->front, err));
    else bb_warn("the run was not searched yet: separable solutions stand in for its plans");
    status = BB_NOMEM;
    if (!(s->incumbent = BB_NEW((size_t)s->n_bands * s->p->n_units, uint16_t, err))) goto done;
    for (uint32_t band = 0; band < s->n_bands; band++) BB_TRY(find_incumbent(s, band, err));
    status = BB_OK;
done:
    return status;
}

static void close_parts(study *s)
{
    bb_csv_discard(s->rows);
    bb_csv_discard(s->plans);
    bb_study_plot_done(&s->plot);
    for (uint32_t i = 0; i < 2 * MAX_BANDS; i++) {
        bb_free(s->sets[i].x);
        bb_free(s->sets[i].kl);
        bb_free(s->sets[i].seen);
    }
    for (uint32_t i = 0; i < MAX_BANDS; i++) bb_run_forget_measured(&s->around[i]);
    for (uint32_t i = 0; i < MAX_PROXIES; i++)
        if (s->shared[i].units) bb_proxy_done(&s->shared[i]);
    bb_free(s->single);
    bb_free(s->incumbent);
    bb_front_done(&s->front);
    bb_ledger_close(s->ledger);
    bb_separable_destroy(s->separable);
    bb_scorer_done(&s->scorer);
    bb_space_done(&s->space);
    bb_run_units_done(&s->units);
}

bb_status bb_study(bb_run *r, const bb_study_options *o, bb_err *err)
{
    double    seconds[MAX_BANDS] = { 0 };
    bb_status status = BB_NOMEM;
    study    *s = BB_NEW0(1, study, err);
    if (!s) return BB_NOMEM;
    s->r = r;
    s->o = o;
    s->p = bb_model_space_problem(r->space);
    s->level = strcmp(o->level, "confirm") == 0 ? BB_LEVEL_CONFIRM : BB_LEVEL_REFINE;
    BB_TRY(bb_run_units_init(r, &s->units, err));
    BB_TRY(open_parts(s, err));
    for (uint32_t band = 0; band < s->n_bands; band++)
        for (int k = 0; k < 2; k++) {
            BB_TRY(draw_set(s, &s->sets[2 * band + (uint32_t)k], band, k == 1, err));
            BB_TRY(evaluate_set(s, &s->sets[2 * band + (uint32_t)k], err));
        }
    for (uint32_t band = 0; band < s->n_bands && !o->no_anchors; band++) BB_TRY(measure_around(s, band, &seconds[band], err));
    BB_TRY(measure_layerwise(s, err));
    BB_TRY(measure_adjacent(s, err));
    BB_TRY(write_all(s, seconds, err));
done:
    close_parts(s);
    bb_free(s);
    return status;
}
