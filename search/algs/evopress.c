/* SPDX-License-Identifier: GPL-3.0-or-later
 * evopress.c: level-switch evolution with a funnel of token counts, as EvoPress [1].
 *
 * (1 + lambda) with elitism: an offspring is the parent with min(a, b) level switches, a and b uniform in 1..3. Selection goes through the
 * evaluator's levels: lambda offspring at level 0, lambda/8 at level 1, lambda/32 at the last, where the parent joins.
 *
 * The first generation, in place of offspring: the given plans (uniform ones, as in [1]), these filled up to the budget by random single steps, and
 * what [1] does between two levels: every unit at the smallest common option above the budget, then random decrements. It goes through the same
 * selection, and the given plans join its last level as a parent would: whatever is drawn, the first parent is no worse than they are.
 *
 * Differs from [1]: sizes are bytes of the file, so a switch needs only to respect the budget, not to keep a bit total within tensors of
 * equal size; controllers take part as one more kind of unit; lambda defaults to 64 instead
 * of 128, and to 16 when fewer than 2000 evaluations are planned.
 *
 * [1] Sieberling, Kuznedelev, Kurtic, Alistarh. EvoPress. arXiv 2410.14649, Alg. 1 and Sec. 3. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "search/algs/algorithm.h"
#include "search/moves.h"

#define FEWEST_STARTS 8 /* plans of the first generation, at least */

typedef struct evopress_state {
    bb_algorithm_config c;
    int64_t             budget;
    uint32_t            n_units, lambda;
    bb_rng              rng;
    bool                has_parent;
    uint32_t            stage, n; /* the n candidates that the stage scores */
    uint16_t           *parent;   /* [n_units] */
    uint16_t           *pool;     /* [max(lambda, FEWEST_STARTS, n_starts) + max(1, n_starts)][n_units] */
} evopress_state;

static void destroy(void *state)
{
    evopress_state *s = state;
    if (!s) return;
    bb_free(s->parent);
    bb_free(s->pool);
    bb_free(s);
}

/* The option of a unit with the given rank, in permille, among its loadable options by bytes. */
static uint16_t option_at(const bb_space *sp, const uint16_t *x, uint32_t u, uint32_t permille)
{
    const bb_unit *unit = &sp->problem->units[u];
    const int64_t *row = unit->bytes + bb_problem_row(sp->problem, x, u);
    uint32_t       loadable = 0;
    for (uint32_t o = 0; o < unit->n_options; o++) loadable += !bb_is_forbidden(row[o]);
    const uint32_t wanted = loadable ? (loadable - 1) * permille / 1000 : 0;
    for (uint16_t o = 0; o < unit->n_options; o++) {
        uint32_t rank = 0;
        for (uint16_t k = 0; k < unit->n_options; k++) rank += !bb_is_forbidden(row[k]) && (row[k] < row[o] || (row[k] == row[o] && k < o));
        if (!bb_is_forbidden(row[o]) && rank == wanted) return o;
    }
    return 0;
}

/* Every unit at the same rank of its options by bytes (controllers at their widest), shrunk by random single moves. */
static bool start_plan(evopress_state *s, uint16_t *x)
{
    const bb_space *sp = s->c.space;
    for (uint32_t permille = 0; permille <= 1000; permille += 50) {
        for (uint32_t u = 0; u < s->n_units; u++) x[u] = (uint16_t)(bb_space_is_controller(sp, u) ? bb_space_widest(sp, u) : 0);
        for (uint32_t u = 0; u < s->n_units; u++)
            if (!bb_space_is_controller(sp, u)) x[u] = option_at(sp, x, u, permille);
        const int64_t bound = bb_problem_bound(sp->problem, x);
        if (!bb_is_forbidden(bound) && bb_problem_size(sp->problem, x) > s->budget) break;
    }
    if (bb_is_forbidden(bb_problem_bound(sp->problem, x))) return bb_moves_random_fit(sp, &s->rng, s->budget, x);
    if (!bb_moves_shrink(sp, &s->rng, s->budget, x)) return false;
    bb_moves_fill(sp, &s->rng, s->budget, x);
    return true;
}

static bb_status create(const bb_algorithm_config *c, void **state, bb_err *err)
{
    evopress_state *s = BB_NEW0(1, evopress_state, err);
    *state = s;
    if (!s) return BB_NOMEM;
    s->c = *c;
    s->budget = c->budgets[c->n_budgets - 1];
    s->n_units = c->space->problem->n_units;
    s->lambda = c->population ? c->population : c->horizon > 0 && c->horizon < 2000 ? 16 : 64;
    uint32_t first = s->lambda > FEWEST_STARTS ? s->lambda : FEWEST_STARTS;
    if (first < c->n_starts) first = (uint32_t)c->n_starts;
    s->parent = BB_NEW(s->n_units, uint16_t, err);
    s->pool = BB_NEW((first + (c->n_starts ? c->n_starts : 1)) * s->n_units, uint16_t, err);
    if (!s->parent || !s->pool) return BB_NOMEM;
    bb_rng_init(&s->rng, c->seed, "evopress");
    for (s->n = 0; s->n < first; s->n++) {
        uint16_t *x = s->pool + (size_t)s->n * s->n_units;
        if (s->n < c->n_starts || (c->n_starts && s->n % 2 == 0)) {
            memcpy(x, c->starts + s->n % c->n_starts * s->n_units, s->n_units * sizeof *x);
            if (s->n >= c->n_starts) bb_moves_fill(c->space, &s->rng, s->budget, x);
        } else if (!start_plan(s, x)) {
            if (c->n_starts == 0) return BB_FAIL(err, BB_INFEASIBLE, "evopress found no plan within %lld bytes", (long long)s->budget);
            memcpy(x, c->starts, s->n_units * sizeof *x);
        }
    }
    return BB_OK;
}

static void make_offspring(evopress_state *s)
{
    for (s->n = 0; s->n < s->lambda; s->n++) {
        uint16_t *x = s->pool + (size_t)s->n * s->n_units;
        memcpy(x, s->parent, s->n_units * sizeof *x);
        const uint64_t a = 1 + bb_rng_below(&s->rng, 3), b = 1 + bb_rng_below(&s->rng, 3);
        for (uint64_t k = 0; k < (a < b ? a : b); k++) bb_moves_switch(s->c.space, &s->rng, s->budget, x);
    }
}

/* Of a stage: lambda / 8 of the first, / 32 of the second, and so on, one of the last. */
static uint32_t survivors(const evopress_state *s, uint32_t stage)
{
    if (stage + 1 == s->c.n_levels) return 1;
    const uint32_t n = stage < 14 ? s->lambda >> (2 * stage + 3) : 0;
    return n > 0 ? n : 1;
}

static size_t ask(void *state, uint16_t *x, size_t max, uint32_t *level)
{
    evopress_state *s = state;
    if (s->has_parent && s->stage == 0) make_offspring(s);
    if (s->stage + 1 == s->c.n_levels) { /* the parent joins the last stage, and before there is one the given plans do */
        const size_t n = s->has_parent ? 1 : s->c.n_levels > 1 ? s->c.n_starts : 0;
        if (n) memcpy(s->pool + (size_t)s->n * s->n_units, s->has_parent ? s->parent : s->c.starts, n * s->n_units * sizeof *x);
        s->n += (uint32_t)n;
    }
    *level = s->stage;
    if (s->n > max) s->n = (uint32_t)max;
    memcpy(x, s->pool, (size_t)s->n * s->n_units * sizeof *x);
    return s->n;
}

typedef struct ranked {
    double   kl;
    uint32_t index;
} ranked;

static int by_kl(const void *pa, const void *pb)
{
    const ranked *a = pa, *b = pb;
    const bool    na = isnan(a->kl), nb = isnan(b->kl);
    if (na != nb) return na ? 1 : -1;
    if (!na && a->kl != b->kl) return a->kl < b->kl ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

static bb_status tell(void *state, const bb_score *scores, size_t n, bb_err *err)
{
    evopress_state *s = state;
    bb_status       status = BB_NOMEM;
    ranked         *order = BB_NEW(n, ranked, err);
    const uint32_t  keep = survivors(s, s->stage);
    uint16_t       *kept = BB_NEW((size_t)keep * s->n_units, uint16_t, err);
    if (!order || !kept) goto done;
    status = BB_OK;
    for (uint32_t i = 0; i < n; i++) order[i] = (ranked) { scores[i].kl, i };
    qsort(order, n, sizeof *order, by_kl);
    const uint32_t m = keep < n ? keep : (uint32_t)n;
    for (uint32_t i = 0; i < m; i++) memcpy(kept + (size_t)i * s->n_units, s->pool + (size_t)order[i].index * s->n_units, s->n_units * sizeof *kept);
    memcpy(s->pool, kept, (size_t)m * s->n_units * sizeof *kept);
    s->n = m;
    if (s->stage + 1 == s->c.n_levels) {
        memcpy(s->parent, s->pool, s->n_units * sizeof *s->parent);
        s->has_parent = true;
        s->stage = 0;
    } else {
        s->stage++;
    }
done:
    bb_free(order);
    bb_free(kept);
    return status;
}

static const bb_algorithm algorithm = { create, ask, tell, destroy };
const bb_search_method    bb_method_evopress = { .name = "evopress",
                                                 .reference = "Sieberling et al., arXiv 2410.14649",
                                                 .many_tokens = true,
                                                 .has_offspring = true,
                                                 .algorithm = &algorithm,
                                                 .run = bb_method_drive };
