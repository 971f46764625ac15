/* SPDX-License-Identifier: GPL-3.0-or-later
 * amq.c: the surrogate loop of AMQ [1]: evaluate a random design, then repeat: fit a cubic radial basis function with a linear tail to log KL,
 * search it with NSGA-II seeded by the evaluated front, evaluate a choice that is spread along bytes, add it.
 *
 * The function (rbf.h) is of z_u, the rank of unit u's option by bytes, scaled to 0..1.
 * Differs from [1]: sizes are bytes, KL instead of JSD, no pinned layers, and the spread is taken as even slots of bytes, the best predicted of
 * each, instead of by a second genetic algorithm.
 *
 * [1] Lee, Woo, Kim, Kim, et al. AMQ. EMNLP 2025, arXiv 2509.12019. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "search/algs/algorithm.h"
#include "search/algs/population.h"
#include "search/algs/rbf.h"
#include "search/moves.h"

#define MAX_POINTS 400 /* of the interpolation: the system is dense */
#define GENERATIONS 20
#define INNER 60 /* population of the inner NSGA-II */

typedef struct amq_state {
    bb_algorithm_config c;
    bb_rng              rng;
    uint32_t            d, batch, n_design;
    uint32_t            n, capacity; /* evaluated */
    uint16_t           *x;           /* [capacity][d] */
    int64_t            *bytes;       /* [capacity] */
    double             *kl;          /* [capacity] */
    uint32_t            n_asked;     /* the last of x, waiting */
    double             *rank;        /* [pairs] scaled rank of an option by bytes at its controller's widest row */
    uint32_t            n_fit, *fit; /* evaluated points in the interpolation */
    double             *z;           /* [MAX_POINTS + 1][d] coordinates of these; the last row is scratch */
    double             *weights;     /* [n_fit + d + 1] */
} amq_state;

static void destroy(void *state)
{
    amq_state *s = state;
    if (!s) return;
    bb_free(s->x);
    bb_free(s->bytes);
    bb_free(s->kl);
    bb_free(s->rank);
    bb_free(s->fit);
    bb_free(s->z);
    bb_free(s->weights);
    bb_free(s);
}

/* Bytes of an option, dependents included for a controller (at their widest option); only their order matters. */
static int64_t nominal_bytes(const bb_space *sp, uint32_t u, uint32_t o)
{
    const bb_unit *unit = &sp->problem->units[u];
    const size_t   row = unit->controller < 0 ? 0 : bb_space_widest(sp, (uint32_t)unit->controller);
    int64_t        total = unit->bytes[row * unit->n_options + o];
    if (bb_is_forbidden(total)) return 0;
    for (uint32_t i = sp->first_child[u]; i < sp->first_child[u + 1]; i++) {
        const bb_unit *child = &sp->problem->units[sp->children[i]];
        int64_t        most = 0;
        for (uint32_t k = 0; k < child->n_options; k++) {
            const int64_t b = child->bytes[(size_t)o * child->n_options + k];
            if (!bb_is_forbidden(b) && b > most) most = b;
        }
        total += most;
    }
    return total;
}

static void rank_options(amq_state *s)
{
    const bb_space *sp = s->c.space;
    for (uint32_t u = 0; u < s->d; u++) {
        const uint32_t n = sp->problem->units[u].n_options;
        for (uint32_t o = 0; o < n; o++) {
            uint32_t below = 0;
            for (uint32_t k = 0; k < n; k++) below += nominal_bytes(sp, u, k) < nominal_bytes(sp, u, o);
            s->rank[sp->offset[u] + o] = n > 1 ? (double)below / (n - 1) : 0;
        }
    }
}

static bb_status reserve(amq_state *s, uint32_t more, bb_err *err)
{
    if (s->n + more <= s->capacity) return BB_OK;
    const uint32_t capacity = 2 * (s->n + more);
    uint16_t      *x = bb_realloc(s->x, (size_t)capacity * s->d, sizeof *x, err);
    if (x) s->x = x;
    int64_t *bytes = x ? bb_realloc(s->bytes, capacity, sizeof *bytes, err) : NULL;
    if (bytes) s->bytes = bytes;
    double *kl = bytes ? bb_realloc(s->kl, capacity, sizeof *kl, err) : NULL;
    if (!kl) return BB_NOMEM;
    s->kl = kl;
    s->capacity = capacity;
    return BB_OK;
}

static bool is_known(const amq_state *s, const uint16_t *x)
{
    for (uint32_t i = 0; i < s->n + s->n_asked; i++)
        if (memcmp(s->x + (size_t)i * s->d, x, s->d * sizeof *x) == 0) return true;
    return false;
}

/* Needs room. */
static void want(amq_state *s, const uint16_t *x)
{
    if (is_known(s, x)) return;
    const uint32_t at = s->n + s->n_asked++;
    memcpy(s->x + (size_t)at * s->d, x, s->d * sizeof *x);
    s->bytes[at] = bb_problem_size(s->c.space->problem, x);
    s->kl[at] = (double)NAN;
}

static bb_status create(const bb_algorithm_config *c, void **state, bb_err *err)
{
    bb_status  status = BB_OK;
    amq_state *s = BB_NEW0(1, amq_state, err);
    uint16_t  *x = NULL;
    *state = s;
    if (!s) return BB_NOMEM;
    s->c = *c;
    s->d = c->space->problem->n_units;
    s->batch = c->population ? c->population : 16;
    const uint64_t horizon = c->horizon ? c->horizon : 1000;
    s->n_design = (uint32_t)(horizon / 4 > 250 ? 250 : horizon / 4 < 16 ? 16 : horizon / 4);
    bb_rng_init(&s->rng, c->seed, "amq");
    x = BB_NEW(s->d, uint16_t, err);
    s->rank = BB_NEW(c->space->offset[s->d], double, err);
    s->fit = BB_NEW(MAX_POINTS, uint32_t, err);
    s->z = BB_NEW0((size_t)(MAX_POINTS + 1) * s->d, double, err);
    s->weights = BB_NEW0(MAX_POINTS + s->d + 1, double, err);
    if (!x || !s->rank || !s->fit || !s->z || !s->weights) {
        status = BB_NOMEM;
        goto done;
    }
    rank_options(s);
    BB_TRY(reserve(s, s->n_design + (uint32_t)c->n_starts, err));
    for (size_t i = 0; i < c->n_starts; i++) want(s, c->starts + i * s->d);
    for (uint32_t i = 0; i < 10 * s->n_design && s->n_asked < s->n_design + (uint32_t)c->n_starts; i++)
        if (bb_moves_random_fit(c->space, &s->rng, c->budgets[i % c->n_budgets], x)) want(s, x);
    if (s->n_asked == 0) status = BB_FAIL(err, BB_INFEASIBLE, "amq found no plan within %lld bytes", (long long)c->budgets[c->n_budgets - 1]);
done:
    bb_free(x);
    return status;
}

/* ---- interpolation ------------------------------------------------------------------------------------------------------------- */

static void coordinates(const amq_state *s, const uint16_t *x, double *z)
{
    for (uint32_t u = 0; u < s->d; u++) z[u] = s->rank[s->c.space->offset[u] + x[u]];
}

static double predict(const amq_state *s, const uint16_t *x)
{
    double *z = s->z + (size_t)MAX_POINTS * s->d;
    coordinates(s, x, z);
    return bb_rbf_at(s->z, s->n_fit, s->d, s->weights, z);
}

/* The newest points with a usable score, at most MAX_POINTS. */
static void choose_points(amq_state *s)
{
    s->n_fit = 0;
    for (uint32_t i = s->n; i-- > 0 && s->n_fit < MAX_POINTS;)
        if (isfinite(s->kl[i]) && s->kl[i] > 0) s->fit[s->n_fit++] = i;
    for (uint32_t i = 0; i < s->n_fit; i++) coordinates(s, s->x + (size_t)s->fit[i] * s->d, s->z + (size_t)i * s->d);
}

static bb_status fit(amq_state *s, bb_err *err)
{
    choose_points(s);
    for (uint32_t i = 0; i < s->n_fit; i++) s->weights[i] = log(s->kl[s->fit[i]]);
    return bb_rbf_fit(s->z, s->n_fit, s->d, s->weights, err);
}

/* ---- proposals ------------------------------------------------------------------------------------------------------------------- */

/* Inner NSGA-II on the prediction, seeded with the evaluated plans. */
static bb_status search_prediction(amq_state *s, bb_population *p, bb_err *err)
{
    bb_status status = BB_OK;
    uint16_t *x = BB_NEW(s->d, uint16_t, err);
    if (!x) return BB_NOMEM;
    for (uint32_t i = s->n; i-- > 0;) {
        if (!(s->kl[i] > 0)) continue;
        bb_population_add(p, s->x + (size_t)i * s->d, predict(s, s->x + (size_t)i * s->d));
        if (p->n == 2 * p->size) bb_population_select(p);
    }
    for (int g = 0; g < GENERATIONS; g++) {
        bb_population_select(p);
        const uint32_t target = p->n + p->size;
        for (uint32_t tries = 0; tries < 2 * p->size && p->n < target; tries++) {
            /* crossover of an even pair of plans rarely keeps bytes; half the children are level switches of a parent */
            bool ok = bb_population_child(p, &s->rng, x);
            if (ok && p->n > 0 && bb_rng_below(&s->rng, 2)) {
                memcpy(x, bb_population_x(p, (uint32_t)bb_rng_below(&s->rng, p->n)), s->d * sizeof *x);
                ok = bb_moves_switch(s->c.space, &s->rng, p->budget, x);
            }
            if (ok) bb_population_add(p, x, predict(s, x));
        }
    }
    bb_free(x);
    return status;
}

/* The best predicted new plan of each of `batch` slots of bytes, the slots ending at the budgets where there are several. */
static void choose_batch(amq_state *s, const bb_population *p)
{
    int64_t lo = INT64_MAX, hi = s->c.budgets[s->c.n_budgets - 1];
    for (uint32_t i = 0; i < p->n; i++) lo = p->bytes[i] < lo ? p->bytes[i] : lo;
    if (s->c.n_budgets == 1) lo = hi - (hi - lo) / 8; /* one budget: only what is near it can win */
    for (uint32_t k = 0; k < s->batch && hi > lo; k++) {
        const int64_t end = s->c.n_budgets > 1 ? s->c.budgets[k % s->c.n_budgets] : hi - (hi - lo) * (int64_t)(k / 2) / s->batch;
        uint32_t      best = UINT32_MAX;
        for (uint32_t i = 0; i < p->n; i++) {
            if (p->bytes[i] > end || is_known(s, bb_population_x(p, i))) continue;
            if (best == UINT32_MAX || p->score[i] < p->score[best]) best = i;
        }
        if (best != UINT32_MAX) want(s, bb_population_x(p, best));
    }
}

static bb_status propose(amq_state *s, bb_err *err)
{
    bb_status     status = BB_OK;
    bb_population p = { 0 };
    BB_TRY(fit(s, err));
    BB_TRY(reserve(s, s->batch, err));
    BB_TRY(bb_population_init(s->c.space, s->c.budgets[s->c.n_budgets - 1], INNER, &p, err));
    BB_TRY(search_prediction(s, &p, err));
    choose_batch(s, &p);
done:
    bb_population_done(&p);
    return status;
}

static size_t ask(void *state, uint16_t *x, size_t max, uint32_t *level)
{
    amq_state *s = state;
    *level = s->c.level;
    if (s->n_asked > max) s->n_asked = (uint32_t)max;
    memcpy(x, s->x + (size_t)s->n * s->d, (size_t)s->n_asked * s->d * sizeof *x);
    return s->n_asked;
}

static bb_status tell(void *state, const bb_score *scores, size_t n, bb_err *err)
{
    amq_state *s = state;
    for (uint32_t i = 0; i < n; i++) s->kl[s->n + i] = scores[i].kl;
    s->n += (uint32_t)n;
    s->n_asked = 0;
    return propose(s, err);
}

static const bb_algorithm algorithm = { create, ask, tell, destroy };
/* Its surrogate takes MAX_POINTS plans: each may cost more. */
const bb_search_method bb_method_amq = {
    .name = "amq", .reference = "Lee et al., arXiv 2509.12019", .whole_front = true, .level = 1, .algorithm = &algorithm, .run = bb_method_drive
};
