/* SPDX-License-Identifier: GPL-3.0-or-later
 * random.c: random candidates, shrunk and filled at random to the budgets in turn. The yardstick: what does not beat it is not shipped. */
#include "base/mem.h"
#include "search/algs/algorithm.h"
#include "search/moves.h"

typedef struct random_state {
    bb_algorithm_config c;
    bb_rng              rng;
    uint64_t            asked;
} random_state;

static bb_status create(const bb_algorithm_config *c, void **state, bb_err *err)
{
    random_state *s = BB_NEW0(1, random_state, err);
    *state = s;
    if (!s) return BB_NOMEM;
    s->c = *c;
    bb_rng_init(&s->rng, c->seed, "random");
    return BB_OK;
}

static size_t ask(void *state, uint16_t *x, size_t max, uint32_t *level)
{
    random_state *s = state;
    const size_t  wanted = s->c.population ? s->c.population : 16;
    size_t        n = 0;
    *level = s->c.level;
    for (size_t tries = 0; n < max && n < wanted && tries < 4 * wanted; tries++)
        if (bb_moves_random_fit(s->c.space, &s->rng, s->c.budgets[s->asked++ % s->c.n_budgets], x + n * s->c.space->problem->n_units)) n++;
    return n;
}

static bb_status tell(void *state, const bb_score *scores, size_t n, bb_err *err)
{
    (void)state, (void)scores, (void)n, (void)err;
    return BB_OK;
}

static const bb_algorithm algorithm = { create, ask, tell, bb_free };
const bb_search_method    bb_method_random = {
       .name = "random", .reference = "uniform random candidates", .whole_front = true, .algorithm = &algorithm, .run = bb_method_drive
};
