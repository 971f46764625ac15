/* SPDX-License-Identifier: GPL-3.0-or-later
 * annealing.c: simulated annealing [1] on log KL with level switches and byte trades under one budget.
 *
 * A worse neighbour is taken with probability exp(-(log kl' - log kl) / T); T falls geometrically from 0.1 to 0.001 over the horizon. The
 * logarithm makes the temperatures independent of the model. Differs from gsl_siman in being asked one candidate at a time, so that scores
 * can come from a ledger.
 *
 * [1] Kirkpatrick, Gelatt, Vecchi. Optimization by simulated annealing. Science 220, 1983. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "search/algs/algorithm.h"
#include "search/moves.h"

typedef struct annealing_state {
    bb_algorithm_config c;
    int64_t             budget;
    bb_rng              rng;
    uint64_t            step, horizon;
    double              kl; /* of x; NaN before the first tell */
    uint16_t           *x, *next;
} annealing_state;

static void destroy(void *state)
{
    annealing_state *s = state;
    if (!s) return;
    bb_free(s->x);
    bb_free(s->next);
    bb_free(s);
}

static bb_status create(const bb_algorithm_config *c, void **state, bb_err *err)
{
    annealing_state *s = BB_NEW0(1, annealing_state, err);
    const uint32_t   n = c->space->problem->n_units;
    *state = s;
    if (!s) return BB_NOMEM;
    s->c = *c;
    s->budget = c->budgets[c->n_budgets - 1];
    s->horizon = c->horizon ? c->horizon : 1000;
    s->kl = (double)NAN;
    s->x = BB_NEW(n, uint16_t, err);
    s->next = BB_NEW(n, uint16_t, err);
    if (!s->x || !s->next) return BB_NOMEM;
    bb_rng_init(&s->rng, c->seed, "annealing");
    if (c->n_starts) memcpy(s->next, c->starts, n * sizeof *s->next);
    else if (!bb_moves_random_fit(c->space, &s->rng, s->budget, s->next))
        return BB_FAIL(err, BB_INFEASIBLE, "annealing found no plan within %lld bytes", (long long)s->budget);
    return BB_OK;
}

/* One or two level switches, or a random change of one unit that others pay for. Slack stays: spending it on random units was measured to
 * lock bytes where they do little (KL 10 to 140 % higher after 400 evaluations on the knapsacks of the tests). */
static void neighbour(annealing_state *s)
{
    const bb_space *sp = s->c.space;
    if (bb_rng_below(&s->rng, 4)) {
        const uint64_t switches = 1 + bb_rng_below(&s->rng, 2);
        for (uint64_t k = 0; k < switches; k++) bb_moves_switch(sp, &s->rng, s->budget, s->next);
    } else if (!bb_moves_trade(sp, &s->rng, s->budget, s->next)) {
        memcpy(s->next, s->x, sp->problem->n_units * sizeof *s->next);
    }
}

static size_t ask(void *state, uint16_t *x, size_t max, uint32_t *level)
{
    annealing_state *s = state;
    const size_t     bytes = s->c.space->problem->n_units * sizeof *x;
    if (max == 0) return 0;
    *level = s->c.level;
    if (!isnan(s->kl)) {
        memcpy(s->next, s->x, bytes);
        neighbour(s);
    }
    memcpy(x, s->next, bytes);
    return 1;
}

static bb_status tell(void *state, const bb_score *scores, size_t n, bb_err *err)
{
    annealing_state *s = state;
    (void)err;
    if (n == 0) return BB_OK;
    const double kl = scores[0].kl, progress = fmin(1, (double)s->step++ / (double)s->horizon);
    const double temperature = 0.1 * pow(0.01, progress), u = bb_rng_uniform(&s->rng);
    const double worse = log(fmax(kl, 1e-300)) - log(fmax(s->kl, 1e-300));
    if (isnan(s->kl) || (!isnan(kl) && (worse <= 0 || u < exp(-worse / temperature)))) {
        memcpy(s->x, s->next, s->c.space->problem->n_units * sizeof *s->x);
        s->kl = isnan(kl) ? HUGE_VAL : kl;
    }
    return BB_OK;
}

static const bb_algorithm algorithm = { create, ask, tell, destroy };
const bb_search_method    bb_method_annealing = {
       .name = "annealing", .reference = "Kirkpatrick et al., Science 220, 1983", .algorithm = &algorithm, .run = bb_method_drive
};
