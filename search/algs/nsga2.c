/* SPDX-License-Identifier: GPL-3.0-or-later
 * nsga2.c: NSGA-II over (exact bytes, KL) for the whole front in one run; see population.h for the paper and the operators.
 *
 * The first population is spread over the budgets at random. Differs from the paper in the tie-break (member order instead of chance). */
#include <math.h>

#include "base/mem.h"
#include "search/algs/algorithm.h"
#include "search/algs/population.h"
#include "search/moves.h"

typedef struct nsga2_state {
    bb_algorithm_config c;
    bb_rng              rng;
    bb_population       p;
    uint32_t            n_asked, first; /* members first .. first + n_asked - 1 wait for scores */
    uint16_t           *child;
} nsga2_state;

static void destroy(void *state)
{
    nsga2_state *s = state;
    if (!s) return;
    bb_population_done(&s->p);
    bb_free(s->child);
    bb_free(s);
}

static bb_status create(const bb_algorithm_config *c, void **state, bb_err *err)
{
    bb_status    status = BB_OK;
    nsga2_state *s = BB_NEW0(1, nsga2_state, err);
    *state = s;
    if (!s) return BB_NOMEM;
    s->c = *c;
    bb_rng_init(&s->rng, c->seed, "nsga2");
    const uint32_t size = c->population ? c->population : 40;
    s->child = BB_NEW(c->space->problem->n_units, uint16_t, err);
    if (!s->child) return BB_NOMEM;
    BB_TRY(bb_population_init(c->space, c->budgets[c->n_budgets - 1], size, &s->p, err));
    for (size_t i = 0; i < c->n_starts; i++) bb_population_add(&s->p, c->starts + i * c->space->problem->n_units, (double)NAN);
    for (uint32_t i = 0; i < 20 * size && s->p.n < size; i++)
        if (bb_moves_random_fit(c->space, &s->rng, c->budgets[i % c->n_budgets], s->child)) bb_population_add(&s->p, s->child, (double)NAN);
    if (s->p.n == 0) status = BB_FAIL(err, BB_INFEASIBLE, "nsga2 found no plan within %lld bytes", (long long)s->p.budget);
    s->n_asked = s->p.n;
done:
    return status;
}

static size_t ask(void *state, uint16_t *x, size_t max, uint32_t *level)
{
    nsga2_state   *s = state;
    const uint32_t n_units = s->c.space->problem->n_units;
    *level = s->c.level;
    if (s->n_asked == 0) {
        s->first = s->p.n;
        for (uint32_t tries = 0; tries < 10 * s->p.size && s->p.n < s->first + s->p.size; tries++)
            if (bb_population_child(&s->p, &s->rng, s->child)) bb_population_add(&s->p, s->child, (double)NAN);
        s->n_asked = s->p.n - s->first;
    }
    if (s->n_asked > max) {
        s->n_asked = (uint32_t)max;
        s->p.n = s->first + s->n_asked;
    }
    for (uint32_t i = 0; i < s->n_asked * n_units; i++) x[i] = s->p.x[s->first * n_units + i];
    return s->n_asked;
}

static bb_status tell(void *state, const bb_score *scores, size_t n, bb_err *err)
{
    nsga2_state *s = state;
    (void)err;
    for (uint32_t i = 0; i < n; i++) s->p.score[s->first + i] = scores[i].kl;
    bb_population_select(&s->p);
    s->n_asked = 0;
    return BB_OK;
}

static const bb_algorithm algorithm = { create, ask, tell, destroy };
const bb_search_method    bb_method_nsga2 = {
       .name = "nsga2", .reference = "Deb et al., IEEE TEC 6(2), 2002", .whole_front = true, .algorithm = &algorithm, .run = bb_method_drive
};
