/* SPDX-License-Identifier: GPL-3.0-or-later
 * refine.c: see refine.h. Proposals of different budgets are made in parallel from the same read-only pool and random streams of their own,
 * then added in order, so that the number of threads changes nothing. */
#include "search/refine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "search/moves.h"
#include "search/paired.h"
#include "search/pool.h"
#include "search/surrogate.h"

#define N_PAIRS 48          /* pair moves looked at for one proposal */
#define PROOF 1             /* standard errors by which a winner must beat the plain separable plan */
#define N_CONTENDERS 16     /* winners of a budget that are held against it */
#define N_ELITES 4          /* tilts that may have offspring at a budget */
#define NEIGHBOURHOOD 0.35  /* standard deviation, in log bytes, of the plans that a budget's surrogate listens to */
#define SEED_SHARE 0.6      /* of the tokens before the final, for seeds */
#define BASE_SHARE 0.4      /* of the budgets whose separable plan is still a finalist (measured: a third) */
#define ANCHOR_SHARE 0.8    /* of the same, for seeds and local scores together */

/* A change of the separable table as a whole: what single measurements do not know is mostly shared by many units. */
typedef struct tilt {
    const char *name;
    double      power, controllers;  /* cost^power; factor on controllers */
    double      noise;               /* standard deviation of the units' log-normal factors, */
    size_t      stream;              /* drawn from this stream */
    bool        pinned;              /* controllers at their widest option: quantization alone */
    double      slope, bend;         /* log factor slope * t + bend * (t^2 - 1/3), t from -1 at the first unit to 1 at the last */
} tilt;

/* A plan that a tilt has proposed. */
typedef struct tilted {
    tilt   t;
    size_t budget, item; /* indices into budgets and pool */
} tilted;

typedef struct refine {
    const bb_problem        *p;
    const bb_separable      *sep;
    bb_ledger               *ledger;
    const bb_refine_options *o;
    bb_space  space;
    bb_pool   pool;
    int64_t  *budgets;      /* [n] ascending */
    size_t   *order;        /* [n] index of each into the caller's list */
    size_t   *base;         /* [n] pool index of the plain separable plan */
    size_t    n;
    uint32_t  confirm, top, candidates, max_rounds, patience, finalists;
    uint32_t  confirmed;    /* plans a budget and round taken to the confirm level */
    tilted   *tilted;       /* [n_tilted] */
    size_t    n_tilted, tilted_capacity;
    double   *y;            /* [pool] KL of every plan on the footing of the confirm level */
    size_t    y_capacity;
    bool      has_controllers;
    double    local_tokens; /* spent on local scores */
} refine;

/* ---- setting up -------------------------------------------------------------------------------------------------------------- */

static uint32_t clamp(uint32_t v, uint32_t lo, uint32_t hi) { return v < lo ? lo : v > hi ? hi : v; }

static bb_status sort_budgets(refine *r, bb_err *err)
{
    r->n = r->o->n_budgets;
    r->budgets = BB_NEW(r->n, int64_t, err);
    r->order = BB_NEW(r->n, size_t, err);
    r->base = BB_NEW(r->n, size_t, err);
    if (!r->budgets || !r->order || !r->base) return BB_NOMEM;
    for (size_t i = 0; i < r->n; i++) {
        size_t k = i;
        for (; k > 0 && r->budgets[k - 1] > r->o->budgets[i]; k--) {
            r->budgets[k] = r->budgets[k - 1];
            r->order[k] = r->order[k - 1];
        }
        r->budgets[k] = r->o->budgets[i];
        r->order[k] = i;
    }
    return BB_OK;
}

static bb_status refine_init(refine *r, bb_err *err)
{
    bb_status status = BB_OK;
    if (r->o->n_budgets == 0) return BB_FAIL(err, BB_USAGE, "refinement needs at least one budget");
    BB_TRY(bb_space_init(r->p, &r->space, err));
    BB_TRY(bb_pool_init(&r->space, r->ledger, &r->pool, err));
    BB_TRY(sort_budgets(r, err));
    r->top = bb_ledger_evaluator(r->ledger)->n_levels - 1;
    r->confirm = r->top < 1 ? r->top : 1;
    r->candidates = r->o->candidates ? r->o->candidates : clamp((uint32_t)(48 / r->n), 4, 16);
    r->max_rounds = r->o->max_rounds ? r->o->max_rounds : 24;
    r->patience = r->o->patience ? r->o->patience : 3;
    /* With many budgets tokens do more in rounds than in finals, and neighbours' finalists serve as well (measured on synthetic worlds:
     * 12 budgets, 2.5 M tokens, geometric mean of KL 0.65, 0.60, 0.56 of the separable plan's with 3, 2, 1 finalists). */
    r->finalists = r->o->finalists ? r->o->finalists : r->n == 1 ? 3 : r->n < 4 ? 2 : 1;
    r->confirmed = r->n < 4 ? 2 : 1;
    for (uint32_t u = 0; u < r->p->n_units; u++) r->has_controllers |= bb_space_is_controller(&r->space, u);
done:
    return status;
}

static void refine_done(refine *r)
{
    bb_space_done(&r->space);
    bb_pool_done(&r->pool);
    bb_free(r->budgets);
    bb_free(r->order);
    bb_free(r->base);
    bb_free(r->tilted);
    bb_free(r->y);
}

/* Tokens of one evaluation at a level, from what the first scored plan has cost at level 0. */
static double tokens_at(const refine *r, uint32_t level)
{
    const bb_evaluator *e = bb_ledger_evaluator(r->ledger);
    for (size_t i = 0; i < r->pool.n; i++) {
        bb_ledger_entry first;
        bool            found;
        if (isnan(r->pool.items[i].kl[0]) || bb_ledger_find(r->ledger, r->pool.items[i].x, 0, &first, &found, NULL) != BB_OK || !found) continue;
        return first.score.tokens / e->n_windows[0] * e->n_windows[level];
    }
    return 0;
}

/* Whether `planned` more tokens leave enough for the final. */
static bool has_room(const refine *r, double planned, double share)
{
    if (!(r->o->max_tokens > 0)) return true;
    double reserve = 0;
    for (uint32_t level = r->confirm + 1; level <= r->top; level++)
        reserve += (double)r->n * (r->finalists * (double)(1u << (r->top - level)) + (level == r->top ? BASE_SHARE : 0)) * tokens_at(r, level);
    return bb_ledger_tokens(r->ledger) + r->local_tokens + planned <= share * (r->o->max_tokens - reserve);
}

static void report(const refine *r, const char *stage, uint32_t round, uint32_t level)
{
    for (size_t b = 0; r->o->progress && b < r->n; b++) {
        const size_t at = bb_pool_best(&r->pool, r->budgets[b], level);
        if (at == SIZE_MAX) continue;
        const bb_pool_item *item = &r->pool.items[at];
        const bb_refine_step step = {stage, round, r->order[b], item->size_bytes, item->kl[level], level, item->source,
                                     bb_ledger_tokens(r->ledger) + r->local_tokens};
        r->o->progress(r->o->progress_self, &step);
    }
}

/* ---- seeds --------------------------------------------------------------------------------------------------------------------- */

static const tilt tilts[] = {
    {.name = "pinned", .power = 1, .controllers = 1, .pinned = true},
    {.name = "power", .power = 0.7, .controllers = 1},
    {.name = "power", .power = 0.5, .controllers = 1},
    {.name = "controllers", .power = 1, .controllers = 0.4},
    {.name = "controllers", .power = 1, .controllers = 2.5},
    {.name = "pinned, power", .power = 0.7, .controllers = 1, .pinned = true},
    {.name = "power", .power = 1.4, .controllers = 1},
    {.name = "slope", .power = 1, .controllers = 1, .slope = 0.5},
    {.name = "slope", .power = 1, .controllers = 1, .slope = -0.5},
    {.name = "noise", .power = 1, .controllers = 1, .noise = 0.3, .stream = 1},
    {.name = "noise, power", .power = 0.7, .controllers = 1, .noise = 0.3, .stream = 2},
    {.name = "noise", .power = 1, .controllers = 1, .noise = 0.5, .stream = 3},
    {.name = "noise, controllers", .power = 1, .controllers = 2.5, .noise = 0.3, .stream = 4},
    {.name = "noise, controllers", .power = 1, .controllers = 1.6, .noise = 0.3, .stream = 5},
    {.name = "noise, power", .power = 1.4, .controllers = 1, .noise = 0.3, .stream = 6},
};
#define N_TILTS (sizeof tilts / sizeof *tilts)

static bb_status make_tilted(const refine *r, const tilt *t, bb_variant *v, bb_err *err)
{
    bb_status status = BB_OK;
    bb_rng    rng;
    char      name[48];
    snprintf(name, sizeof name, "refine/tilt/%zu", t->stream);
    bb_rng_init(&rng, r->o->seed, name);
    BB_TRY(bb_variant_init(r->p, v, err));
    if (t->power < 1 || t->power > 1) bb_variant_power(v, t->power);
    for (uint32_t u = 0; u < r->p->n_units; u++) {
        const bool   is_controller = bb_space_is_controller(&r->space, u);
        const double at = r->p->n_units > 1 ? 2.0 * u / (r->p->n_units - 1) - 1 : 0;
        if (is_controller && t->pinned) bb_variant_pin(v, u, bb_space_widest(&r->space, u));
        bb_variant_scale(v, u, exp(t->noise * bb_rng_normal(&rng) + t->slope * at + t->bend * (at * at - 1.0 / 3)) * (is_controller ? t->controllers : 1));
    }
done:
    return status;
}

/* The optimum of a tilted table within a budget, topped up by the true one. *solved: whether the tilted problem can meet the budget. */
static bb_status solve_tilted(const refine *r, const tilt *t, const bb_separable *sep, int64_t budget, uint16_t *x, bool *solved, bb_err *err)
{
    bb_err          local = BB_ERR_INIT; /* a budget that this tilt cannot meet is no failure, and leaves no sentence */
    const bb_status status = bb_separable_solve(sep, budget, x, NULL, &local);
    *solved = status == BB_OK;
    if (*solved && !t->pinned) bb_space_topup(&r->space, x, budget);
    return *solved || status == BB_INFEASIBLE ? BB_OK : BB_FAIL(err, status, "%s", local.msg);
}

static bb_status record_tilted(refine *r, const tilt *t, size_t budget, size_t item, bb_err *err)
{
    if (r->n_tilted == r->tilted_capacity) {
        const size_t capacity = r->tilted_capacity ? 2 * r->tilted_capacity : 256;
        tilted      *grown = bb_realloc(r->tilted, capacity, sizeof *grown, err);
        if (!grown) return BB_NOMEM;
        r->tilted = grown;
        r->tilted_capacity = capacity;
    }
    r->tilted[r->n_tilted++] = (tilted){*t, budget, item};
    return BB_OK;
}

/* Adds x, topped up by the true tables, to the pool and its index to list. */
static bb_status propose(refine *r, uint16_t *x, int64_t budget, const char *source, size_t *list, size_t *n, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    at;
    bool      is_new;
    bb_space_topup(&r->space, x, budget);
    BB_TRY(bb_pool_add(&r->pool, x, source, &at, &is_new, err));
    if (is_new) list[(*n)++] = at;
done:
    return status;
}

static bb_status seed_separable(refine *r, uint16_t *x, size_t *list, bb_err *err)
{
    const tilt none = {.name = "separable", .power = 1, .controllers = 1};
    bb_status  status = BB_OK;
    size_t     n = 0;
    for (size_t b = 0; b < r->n; b++) {
        BB_TRY(bb_separable_solve(r->sep, r->budgets[b], x, NULL, err));
        BB_TRY(bb_pool_add(&r->pool, x, none.name, &r->base[b], NULL, err));
        BB_TRY(record_tilted(r, &none, b, r->base[b], err));
        list[n++] = r->base[b];
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    return status;
}

static bb_status seed_extra(refine *r, uint16_t *x, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    n = 0;
    size_t   *list = BB_NEW(r->o->n_extra, size_t, err);
    if (!list) return BB_NOMEM;
    for (size_t i = 0; i < r->o->n_extra; i++) {
        memcpy(x, r->o->extra[i], r->p->n_units * sizeof *x);
        if (bb_problem_size(r->p, x) > r->budgets[r->n - 1]) continue;
        size_t at;
        BB_TRY(bb_pool_add(&r->pool, x, "given", &at, NULL, err));
        list[n++] = at;
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    bb_free(list);
    return status;
}

static bb_status seed_quadratic(refine *r, uint16_t *x, size_t *list, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    n = 0;
    for (size_t b = 0; r->o->quadratic && b < r->n; b++) {
        const bb_quadratic_options q = {.seed = r->o->seed};
        BB_TRY(bb_quadratic_solve(r->o->quadratic, r->budgets[b], &q, x, NULL, err));
        size_t at;
        BB_TRY(bb_pool_add(&r->pool, x, "quadratic", &at, NULL, err));
        list[n++] = at;
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    return status;
}

/* One tilt at every `stride`-th budget, which ones depending on the tilt. */
static bb_status seed_tilt(refine *r, size_t t, size_t stride, uint16_t *x, size_t *list, bb_err *err)
{
    bb_status     status = BB_OK;
    size_t        n = 0;
    bb_variant    v = {0};
    bb_separable *sep = NULL;
    BB_TRY(make_tilted(r, &tilts[t], &v, err));
    BB_TRY(bb_separable_create(&v.problem, NULL, &sep, err));
    for (size_t b = t % stride; b < r->n; b += stride) {
        size_t at;
        bool   is_new, solved;
        BB_TRY(solve_tilted(r, &tilts[t], sep, r->budgets[b], x, &solved, err));
        if (!solved) continue;
        BB_TRY(bb_pool_add(&r->pool, x, tilts[t].name, &at, &is_new, err));
        BB_TRY(record_tilted(r, &tilts[t], b, at, err));
        if (is_new) list[n++] = at;
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    return status;
}

static bb_status confirm_best(refine *r, size_t count, bb_err *err);

static bb_status seeds(refine *r, bb_err *err)
{
    bb_status    status = BB_NOMEM;
    const size_t stride = r->n >= 16 ? 2 : 1;
    uint16_t    *x = BB_NEW(r->p->n_units, uint16_t, err);
    size_t      *list = BB_NEW(r->n, size_t, err);
    if (!x || !list) goto done;
    BB_TRY(seed_separable(r, x, list, err));
    BB_TRY(seed_extra(r, x, err));
    BB_TRY(seed_quadratic(r, x, list, err));
    for (size_t t = 0; t < N_TILTS; t++) {
        if (!r->has_controllers && (tilts[t].pinned || tilts[t].controllers < 1 || tilts[t].controllers > 1)) continue;
        if (!has_room(r, (double)((r->n + stride - 1) / stride) * tokens_at(r, 0), SEED_SHARE)) break;
        BB_TRY(seed_tilt(r, t, stride, x, list, err));
    }
    BB_TRY(confirm_best(r, 2, err));
    for (size_t b = 0; b < r->n; b++) {
        if (bb_pool_best(&r->pool, r->budgets[b], r->confirm) != SIZE_MAX) continue;
        status = BB_FAIL(err, BB_NUMERIC, "every plan tried for %lld bytes scored NaN or is not allowed", (long long)r->budgets[b]);
        goto done;
    }
    report(r, "seeds", 0, r->confirm);
done:
    bb_free(x);
    bb_free(list);
    return status;
}

/* ---- anchors -------------------------------------------------------------------------------------------------------------------- */

/* Price of a changed unit, as a share of the incumbent's KL. */
static const double change_prices[] = {0, 0.001, 0.003, 0.01, 0.03};
#define N_PRICES (sizeof change_prices / sizeof *change_prices)

/* cost := linear + price for every option that is not x's; made non-negative where `shift` (a constant a table: no plan's rank changes). */
static void price_changes(const bb_problem *p, const bb_local_score *s, const uint16_t *x, double price, bool shift, bb_variant *v)
{
    for (uint32_t u = 0; u < p->n_units; u++) {
        const size_t n = p->units[u].n_options, cells = bb_problem_rows(p, u) * n;
        double       least = HUGE_VAL;
        for (size_t i = 0; i < cells; i++) {
            v->cost[u][i] = s->linear[u][i] + (i % n == x[u] ? 0 : price);
            least = fmin(least, v->cost[u][i]);
        }
        for (size_t i = 0; shift && i < cells; i++) v->cost[u][i] -= least;
    }
}

/* The plans y[N_PRICES][n_units] that the local score wants for a budget, each price its own. */
static bb_status solve_local(const refine *r, size_t b, const bb_local_score *s, uint16_t *y, bb_err *err)
{
    bb_status       status = BB_OK;
    bb_variant      v = {0};
    bb_separable   *sep = NULL;
    const size_t    at = bb_pool_best(&r->pool, r->budgets[b], r->confirm);
    const uint16_t *x = r->pool.items[at].x;
    BB_TRY(bb_variant_init(r->p, &v, err));
    for (size_t k = 0; k < N_PRICES; k++) {
        uint16_t *out = y + k * r->p->n_units;
        price_changes(r->p, s, x, change_prices[k] * r->pool.items[at].kl[r->confirm], !s->gram, &v);
        if (s->gram) {
            const bb_quadratic         q = {.space = &r->space, .gram = s->gram, .linear = (const double *const *)v.cost};
            const bb_quadratic_options o = {.seed = r->o->seed, .start = x};
            BB_TRY(bb_quadratic_solve(&q, r->budgets[b], &o, out, NULL, err));
        } else {
            bb_separable_destroy(sep);
            sep = NULL;
            BB_TRY(bb_separable_create(&v.problem, NULL, &sep, err));
            BB_TRY(bb_separable_solve(sep, r->budgets[b], out, NULL, err));
        }
    }
done:
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    return status;
}

/* Proposals of the budgets first .. last - 1 from the local score around one of them. */
static bb_status use_anchor(refine *r, size_t first, size_t last, const bb_local_score *s, bb_err *err)
{
    bb_status    status = BB_NOMEM;
    const size_t width = r->p->n_units, count = last - first;
    uint16_t    *y = BB_NEW(count * N_PRICES * width, uint16_t, err);
    size_t      *list = BB_NEW(count * N_PRICES, size_t, err), n = 0;
    bb_status   *each = BB_NEW(count, bb_status, err);
    bb_err      *errs = BB_NEW0(count, bb_err, err);
    if (!y || !list || !each || !errs) goto done;
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < count; i++) each[i] = solve_local(r, first + i, s, y + i * N_PRICES * width, &errs[i]);
    status = BB_OK;
    for (size_t i = 0; i < count; i++) {
        if (each[i] != BB_OK) status = BB_FAIL(err, each[i], "%s", errs[i].msg);
        BB_TRY(status);
        for (size_t k = 0; k < N_PRICES; k++) BB_TRY(propose(r, y + (i * N_PRICES + k) * width, r->budgets[first + i], "anchor", list, &n, err));
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    bb_free(y);
    bb_free(list);
    bb_free(each);
    bb_free(errs);
    return status;
}

/* Anchors evenly spaced over the budgets, as many as the tokens allow; each serves the budgets next to it. */
static bb_status anchors(refine *r, bb_err *err)
{
    bb_status    status = BB_OK;
    const double proposals = (double)(r->n * N_PRICES) * tokens_at(r, 0) + (double)(r->n * r->confirmed) * tokens_at(r, r->confirm);
    size_t       n = 0;
    while (r->o->anchor && n < r->n && has_room(r, (double)(n + 1) * r->o->anchor_tokens + proposals, ANCHOR_SHARE)) n++;
    for (size_t i = 0; i < n; i++) {
        bb_local_score s;
        const size_t   first = i * r->n / n, last = (i + 1) * r->n / n, at = (first + last) / 2;
        BB_TRY(r->o->anchor(r->o->anchor_self, r->pool.items[bb_pool_best(&r->pool, r->budgets[at], r->confirm)].x, &s, err));
        r->local_tokens += s.tokens;
        BB_TRY(use_anchor(r, first, last, &s, err));
    }
    if (n == 0) goto done;
    BB_TRY(confirm_best(r, r->confirmed, err));
    report(r, "anchors", 0, r->confirm);
done:
    return status;
}

/* ---- rounds -------------------------------------------------------------------------------------------------------------------- */

/* Every plan's KL on the footing of the confirm level: level-0 scores are scaled by the geometric mean ratio of the two levels. */
static bb_status common_footing(refine *r, bb_err *err)
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

static bb_status fit(const refine *r, int64_t budget, bb_surrogate *s, bb_err *err)
{
    bb_status        status = BB_NOMEM;
    const uint16_t **x = BB_NEW(r->pool.n, const uint16_t *, err);
    double          *w = BB_NEW(r->pool.n, double, err);
    if (!x || !w) goto done;
    for (size_t i = 0; i < r->pool.n; i++) {
        const double d = log((double)r->pool.items[i].size_bytes / (double)budget) / NEIGHBOURHOOD;
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

static bool is_known(const refine *r, const uint16_t *x)
{
    for (size_t i = 0; i < r->pool.n; i++)
        if (memcmp(r->pool.items[i].x, x, r->p->n_units * sizeof *x) == 0) return true;
    return false;
}

/* What one budget needs to make its proposals. */
typedef struct proposer {
    const refine *r;
    int64_t       budget;
    const uint16_t *incumbent;
    bb_surrogate  model;
    bb_variant    tables;
    bb_space      space;      /* over tables.problem */
    double       *theta;
    bb_move      *moves;
    uint16_t     *start;
    bb_rng        rng;
} proposer;

static bb_status proposer_init(proposer *q, const refine *r, size_t b, uint32_t round, bb_err *err)
{
    bb_status status = BB_OK;
    char      name[48];
    *q = (proposer){.r = r, .budget = r->budgets[b]};
    q->incumbent = r->pool.items[bb_pool_best(&r->pool, q->budget, r->confirm)].x;
    snprintf(name, sizeof name, "refine/%u/%zu", round, r->order[b]);
    bb_rng_init(&q->rng, r->o->seed, name);
    BB_TRY(bb_surrogate_init(&r->space, &q->model, err));
    BB_TRY(fit(r, q->budget, &q->model, err));
    BB_TRY(bb_variant_init(r->p, &q->tables, err));
    BB_TRY(bb_space_init(&q->tables.problem, &q->space, err));
    q->theta = BB_NEW(q->model.n_params, double, err);
    q->moves = BB_NEW(r->space.offset[r->p->n_units], bb_move, err);
    q->start = BB_NEW(r->p->n_units, uint16_t, err);
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
    const bb_problem *p = q->r->p;
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
    const refine *r = q->r;
    const bool    down = round % 2 == 0;
    if ((down && b == 0) || (!down && b + 1 == r->n)) return false;
    const size_t at = bb_pool_best(&r->pool, r->budgets[down ? b - 1 : b + 1], r->confirm);
    memcpy(x, r->pool.items[at].x, r->p->n_units * sizeof *x);
    return bb_space_repair(&q->space, x, q->budget);
}

/* A tilt near one of the N_ELITES that did best against the plain separable plan of their budget, at budgets nearby. */
static tilt mutate_tilt(const refine *r, size_t b, bb_rng *rng)
{
    size_t elite[N_ELITES];
    double gain[N_ELITES];
    size_t n = 0;
    for (size_t i = 0; i < r->n_tilted; i++) {
        const tilted *t = &r->tilted[i];
        const double  g = log(r->pool.items[t->item].kl[0] / r->pool.items[r->base[t->budget]].kl[0]);
        if (fabs(log((double)r->budgets[t->budget] / (double)r->budgets[b])) > NEIGHBOURHOOD || !isfinite(g)) continue;
        if (n == N_ELITES && g >= gain[n - 1]) continue;
        size_t k = n < N_ELITES ? n++ : n - 1;
        for (; k > 0 && gain[k - 1] > g; k--) {
            elite[k] = elite[k - 1];
            gain[k] = gain[k - 1];
        }
        elite[k] = i;
        gain[k] = g;
    }
    tilt t = n ? r->tilted[elite[bb_rng_below(rng, n)]].t : tilts[0];
    t.name = "tilt";
    t.power *= exp(0.15 * bb_rng_normal(rng));
    t.controllers *= exp(0.3 * bb_rng_normal(rng));
    t.slope += 0.3 * bb_rng_normal(rng);
    t.bend += 0.3 * bb_rng_normal(rng);
    if (!(t.noise > 0) || bb_rng_below(rng, 4) == 0) {
        t.noise = 0.2;
        t.stream = N_TILTS + (size_t)bb_rng_below(rng, 1u << 30);
    } else t.noise *= exp(0.3 * bb_rng_normal(rng));
    return t;
}

static bb_status propose_tilt(proposer *q, const tilt *t, uint16_t *x, bool *made, bb_err *err)
{
    bb_variant    v = {0};
    bb_separable *sep = NULL;
    bb_status     status = BB_OK;
    BB_TRY(make_tilted(q->r, t, &v, err));
    BB_TRY(bb_separable_create(&v.problem, NULL, &sep, err));
    BB_TRY(solve_tilted(q->r, t, sep, q->budget, x, made, err));
    *made = *made && !is_known(q->r, x);
done:
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    return status;
}

/* Fills x[candidates][n_units] and used[candidates]: a source name (that of t[], where a tilt has made it), or NULL when there is nothing new. */
static bb_status propose_all(const refine *r, size_t b, uint32_t round, uint16_t *x, const char **used, tilt *t, bb_err *err)
{
    bb_status    status = BB_OK;
    const size_t width = r->p->n_units;
    proposer     q;
    BB_TRY(proposer_init(&q, r, b, round, err));
    for (uint32_t c = 0; c < r->candidates; c++) {
        uint16_t *y = x + c * width;
        used[c] = NULL;
        if (c == 2 || (c == 1 && round % 2)) {
            bool made;
            t[c] = mutate_tilt(r, b, &q.rng);
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

/* Proposals of all budgets, in parallel, then into the pool in order; list receives the new ones. */
static bb_status make_proposals(refine *r, uint32_t round, size_t *list, size_t *n, bb_err *err)
{
    bb_status    status = BB_NOMEM;
    const size_t width = r->p->n_units, block = r->candidates * width;
    uint16_t    *x = BB_NEW(r->n * block, uint16_t, err);
    const char **used = BB_NEW0(r->n * r->candidates, const char *, err);
    tilt        *tilts_used = BB_NEW0(r->n * r->candidates, tilt, err);
    bb_status   *each = BB_NEW(r->n, bb_status, err);
    bb_err      *errs = BB_NEW0(r->n, bb_err, err);
    *n = 0;
    if (!x || !used || !tilts_used || !each || !errs) goto done;
    BB_TRY(common_footing(r, err));
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t b = 0; b < r->n; b++)
        each[b] = propose_all(r, b, round, x + b * block, used + b * r->candidates, tilts_used + b * r->candidates, &errs[b]);
    for (size_t b = 0; b < r->n; b++) {
        if (each[b] != BB_OK) status = BB_FAIL(err, each[b], "%s", errs[b].msg);
        BB_TRY(each[b]);
        for (uint32_t c = 0; c < r->candidates; c++) {
            const size_t at = b * r->candidates + c, before = *n;
            if (!used[at]) continue;
            BB_TRY(propose(r, x + b * block + c * width, r->budgets[b], used[at], list, n, err));
            if (used[at] == tilts_used[at].name && *n > before) BB_TRY(record_tilted(r, &tilts_used[at], b, list[before], err));
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

/* Takes the best unconfirmed plans of each budget to the confirm level, `count` a budget, unless a paired test at level 0 speaks against
 * them. Plans wanted by several budgets are evaluated once. */
static bb_status confirm_best(refine *r, size_t count, bb_err *err)
{
    bb_status status = BB_OK;
    size_t   *list = BB_NEW(r->n * count, size_t, err), n = 0;
    if (!list) return BB_NOMEM;
    for (size_t b = 0; r->confirm > 0 && b < r->n; b++) {
        size_t *best = list + n;
        const size_t incumbent = bb_pool_best(&r->pool, r->budgets[b], r->confirm);
        const size_t m = bb_pool_ranking(&r->pool, r->budgets[b], 0, r->confirm, count, best);
        for (size_t i = 0; i < m; i++) {
            double mean = -1, se = 0;
            bool   listed = false;
            if (incumbent != SIZE_MAX) BB_TRY(bb_pool_difference(&r->pool, best[i], incumbent, 0, &mean, &se, err));
            for (size_t k = 0; k < n && !listed; k++) listed = list[k] == best[i];
            if (!listed && mean <= 0.5 * se) list[n++] = best[i]; /* n never passes the place that is read */
        }
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, r->confirm, err));
done:
    bb_free(list);
    return status;
}

/* One round; *changed: how many incumbents are new. */
static bb_status one_round(refine *r, uint32_t round, size_t *changed, bb_err *err)
{
    bb_status status = BB_NOMEM;
    size_t   *list = BB_NEW(r->n * r->candidates, size_t, err), *before = BB_NEW(r->n, size_t, err), n = 0;
    if (!list || !before) goto done;
    for (size_t b = 0; b < r->n; b++) before[b] = bb_pool_best(&r->pool, r->budgets[b], r->confirm);
    BB_TRY(make_proposals(r, round, list, &n, err));
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
    BB_TRY(confirm_best(r, r->confirmed, err));
    *changed = 0;
    for (size_t b = 0; b < r->n; b++) *changed += before[b] != bb_pool_best(&r->pool, r->budgets[b], r->confirm);
    report(r, "round", round, r->confirm);
done:
    bb_free(list);
    bb_free(before);
    return status;
}

static bb_status rounds(refine *r, bb_refine_stop *why, bb_err *err)
{
    bb_status status = BB_OK;
    uint32_t  still = 0;
    *why = BB_REFINE_ROUNDS;
    for (uint32_t round = 1; round <= r->max_rounds; round++) {
        const double planned = (double)r->n * (r->candidates * tokens_at(r, 0) + (r->confirm > 0 ? r->confirmed : 0) * tokens_at(r, r->confirm));
        size_t       changed = 0;
        if (!has_room(r, planned, 1)) {
            *why = BB_REFINE_TOKENS;
            break;
        }
        BB_TRY(one_round(r, round, &changed, err));
        still = changed ? 0 : still + 1;
        if (still >= r->patience) {
            *why = BB_REFINE_STALL;
            break;
        }
    }
done:
    return status;
}

/* ---- final --------------------------------------------------------------------------------------------------------------------- */

/* Whether the plain separable plan of a budget stands beside its finalists at the top level. Not when a paired test below has spoken: z above 3
 * over the windows of the confirm level, or above 6 over the few of level 0. */
static bb_status wants_base(const refine *r, size_t b, bool *wanted, bb_err *err)
{
    bb_status    status = BB_OK;
    const double limit[2] = {6, 3};
    *wanted = true;
    for (uint32_t level = 0; *wanted && level <= r->confirm && level < r->top && level < 2; level++) {
        const size_t best = bb_pool_best(&r->pool, r->budgets[b], level);
        double       mean, se;
        if (best == SIZE_MAX || best == r->base[b] || isnan(r->pool.items[r->base[b]].kl[level])) continue;
        BB_TRY(bb_pool_difference(&r->pool, r->base[b], best, level, &mean, &se, err));
        *wanted = !(se > 0 && mean > limit[level] * se);
    }
done:
    return status;
}

static bb_status final_level(refine *r, uint32_t level, bb_err *err)
{
    bb_status    status = BB_OK;
    const size_t count = (size_t)r->finalists << (r->top - level);
    size_t      *list = BB_NEW(r->n * (count + 1), size_t, err), n = 0;
    if (!list) return BB_NOMEM;
    for (size_t b = 0; b < r->n; b++) {
        n += bb_pool_ranking(&r->pool, r->budgets[b], level - 1, UINT32_MAX, count, list + n);
        bool wanted = level == r->top;
        if (wanted) BB_TRY(wants_base(r, b, &wanted, err));
        if (wanted) list[n++] = r->base[b];
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, level, err)); /* the ledger drops repetitions */
done:
    bb_free(list);
    return status;
}

typedef enum standing { UNTRIED, UNPROVEN, PROVEN } standing;

/* A plan that beats a budget's plain separable plan by no more than PROOF standard errors of the paired difference is lower by chance: the
 * simpler plan stands there. What stands at some budget is proven. */
static bb_status judge(refine *r, standing *of, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t b = 0; b < r->n; b++) {
        const size_t base = r->base[b];
        const bool   ruled_out = isnan(r->pool.items[base].kl[r->top]);
        size_t       best[N_CONTENDERS];
        const size_t n = bb_pool_ranking(&r->pool, r->budgets[b], r->top, UINT32_MAX, N_CONTENDERS, best);
        bool         stands = false;
        for (size_t i = 0; i < n && !stands; i++) {
            double mean = 1, se = 0;
            if (!ruled_out && best[i] != base) BB_TRY(bb_pool_difference(&r->pool, base, best[i], r->top, &mean, &se, err));
            stands = mean > PROOF * se;
            if (stands || of[best[i]] == UNTRIED) of[best[i]] = stands ? PROVEN : UNPROVEN;
        }
    }
done:
    return status;
}

static bb_status fill_archive(refine *r, bb_archive *out, bb_err *err)
{
    bb_status status = BB_NOMEM;
    standing *of = BB_NEW0(r->pool.n, standing, err);
    if (!of) return BB_NOMEM;
    BB_TRY(judge(r, of, err));
    for (size_t i = 0; i < r->pool.n; i++) {
        const bb_pool_item *item = &r->pool.items[i];
        bb_ledger_entry     scored;
        bool                found = false;
        if (isnan(item->kl[r->top]) || of[i] == UNPROVEN) continue;
        BB_TRY(bb_ledger_find(r->ledger, item->x, r->top, &scored, &found, err));
        bb_archive_entry e = {.x = item->x, .size_bytes = item->size_bytes, .score = scored.score};
        e.proxy = bb_problem_cost(r->p, item->x);
        e.proxy_bound = bb_separable_bound(r->sep, bb_problem_bound(r->p, item->x));
        memcpy(e.hash, scored.hash, sizeof e.hash);
        memcpy(e.source, item->source, sizeof e.source);
        BB_TRY(bb_archive_insert(out, &e, NULL, err));
    }
done:
    bb_free(of);
    return status;
}

bb_status bb_refine(const bb_problem *p, const bb_separable *s, bb_ledger *ledger, const bb_refine_options *options, bb_archive *out,
                    bb_refine_stop *why, bb_err *err)
{
    bb_status      status = BB_OK;
    bb_refine_stop stop = BB_REFINE_ROUNDS;
    refine         r = {.p = p, .sep = s, .ledger = ledger, .o = options};
    BB_TRY(refine_init(&r, err));
    BB_TRY(seeds(&r, err));
    BB_TRY(anchors(&r, err));
    BB_TRY(rounds(&r, &stop, err));
    for (uint32_t level = r.confirm + 1; level <= r.top; level++) BB_TRY(final_level(&r, level, err));
    report(&r, "final", 0, r.top);
    BB_TRY(fill_archive(&r, out, err));
    if (why) *why = stop;
done:
    refine_done(&r);
    return status;
}
