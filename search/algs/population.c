/* SPDX-License-Identifier: GPL-3.0-or-later
 * population.c: see population.h. Fronts are peeled by counting, O(n^2); populations have at most a few hundred members. */
#include "search/algs/population.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "search/moves.h"

bb_status bb_population_init(const bb_space *space, int64_t budget, uint32_t size, bb_population *p, bb_err *err)
{
    const size_t n = 2 * (size_t)size;
    *p = (bb_population) { .space = space, .budget = budget, .size = size };
    p->x = BB_NEW(n * space->problem->n_units, uint16_t, err);
    p->bytes = BB_NEW(n, int64_t, err);
    p->score = BB_NEW(n, double, err);
    p->rank = BB_NEW0(n, uint32_t, err);
    p->crowding = BB_NEW0(n, double, err);
    p->order = BB_NEW(n, uint32_t, err);
    if (p->x && p->bytes && p->score && p->rank && p->crowding && p->order) return BB_OK;
    bb_population_done(p);
    return BB_NOMEM;
}

void bb_population_done(bb_population *p)
{
    bb_free(p->x);
    bb_free(p->bytes);
    bb_free(p->score);
    bb_free(p->rank);
    bb_free(p->crowding);
    bb_free(p->order);
    *p = (bb_population) { 0 };
}

uint16_t *bb_population_x(const bb_population *p, uint32_t i) { return p->x + (size_t)i * p->space->problem->n_units; }

uint32_t bb_population_add(bb_population *p, const uint16_t *x, double score)
{
    const size_t bytes = p->space->problem->n_units * sizeof *x;
    if (p->n == 2 * p->size) return UINT32_MAX;
    for (uint32_t i = 0; i < p->n; i++)
        if (memcmp(bb_population_x(p, i), x, bytes) == 0) return UINT32_MAX;
    memcpy(bb_population_x(p, p->n), x, bytes);
    p->bytes[p->n] = bb_problem_size(p->space->problem, x);
    p->score[p->n] = score;
    p->rank[p->n] = 0;
    p->crowding[p->n] = 0;
    return p->n++;
}

/* NaN scores lose against everything with a score. */
static bool dominates(const bb_population *p, uint32_t a, uint32_t b)
{
    const double sa = isnan(p->score[a]) ? HUGE_VAL : p->score[a], sb = isnan(p->score[b]) ? HUGE_VAL : p->score[b];
    return p->bytes[a] <= p->bytes[b] && sa <= sb && (p->bytes[a] < p->bytes[b] || sa < sb);
}

static void find_fronts(bb_population *p)
{
    uint32_t left = p->n;
    for (uint32_t i = 0; i < p->n; i++) p->rank[i] = UINT32_MAX;
    for (uint32_t front = 0; left > 0; front++) {
        for (uint32_t i = 0; i < p->n; i++) {
            if (p->rank[i] < front) continue;
            bool beaten = false;
            for (uint32_t j = 0; j < p->n && !beaten; j++) beaten = p->rank[j] >= front && dominates(p, j, i);
            if (!beaten) p->rank[i] = front; /* members of this front do not dominate one another, so order is no matter */
        }
        for (uint32_t i = 0; i < p->n; i++) left -= p->rank[i] == front;
    }
}

/* Members of a front sorted by bytes (then index) into order; returns their number. */
static uint32_t sort_front(bb_population *p, uint32_t front)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->rank[i] != front) continue;
        uint32_t k = n++;
        for (; k > 0 && p->bytes[p->order[k - 1]] > p->bytes[i]; k--) p->order[k] = p->order[k - 1];
        p->order[k] = i;
    }
    return n;
}

static void find_crowding(bb_population *p, uint32_t front)
{
    const uint32_t n = sort_front(p, front);
    if (n == 0) return;
    const uint32_t first = p->order[0], last = p->order[n - 1];
    const double   width = (double)(p->bytes[last] - p->bytes[first]), height = fabs(p->score[first] - p->score[last]);
    p->crowding[first] = p->crowding[last] = HUGE_VAL;
    for (uint32_t k = 1; k + 1 < n; k++) {
        const uint32_t a = p->order[k - 1], b = p->order[k + 1];
        double         d = width > 0 ? (double)(p->bytes[b] - p->bytes[a]) / width : 0;
        if (height > 0) d += fabs(p->score[a] - p->score[b]) / height;
        p->crowding[p->order[k]] = d;
    }
}

static bool precedes(const bb_population *p, uint32_t a, uint32_t b)
{
    if (p->rank[a] != p->rank[b]) return p->rank[a] < p->rank[b];
    if (p->crowding[a] > p->crowding[b]) return true;
    return !(p->crowding[b] > p->crowding[a]) && a < b;
}

static void swap_members(bb_population *p, uint32_t a, uint32_t b)
{
    const uint32_t n = p->space->problem->n_units;
    uint16_t      *x = bb_population_x(p, a), *y = bb_population_x(p, b);
    for (uint32_t u = 0; u < n; u++) {
        const uint16_t t = x[u];
        x[u] = y[u];
        y[u] = t;
    }
    const int64_t  bytes = p->bytes[a];
    const double   score = p->score[a], crowding = p->crowding[a];
    const uint32_t rank = p->rank[a];
    p->bytes[a] = p->bytes[b], p->score[a] = p->score[b], p->crowding[a] = p->crowding[b], p->rank[a] = p->rank[b];
    p->bytes[b] = bytes, p->score[b] = score, p->crowding[b] = crowding, p->rank[b] = rank;
}

void bb_population_select(bb_population *p)
{
    find_fronts(p);
    uint32_t worst = 0;
    for (uint32_t i = 0; i < p->n; i++) worst = p->rank[i] > worst ? p->rank[i] : worst;
    for (uint32_t front = 0; p->n > 0 && front <= worst; front++) find_crowding(p, front);
    const uint32_t keep = p->n < p->size ? p->n : p->size;
    for (uint32_t i = 0; i < keep; i++) { /* selection sort of the members that stay */
        uint32_t best = i;
        for (uint32_t j = i + 1; j < p->n; j++)
            if (precedes(p, j, best)) best = j;
        if (best != i) swap_members(p, i, best);
    }
    p->n = keep;
}

static uint32_t tournament(const bb_population *p, bb_rng *rng, uint32_t n)
{
    const uint32_t a = (uint32_t)bb_rng_below(rng, n), b = (uint32_t)bb_rng_below(rng, n);
    return precedes(p, a, b) ? a : b;
}

bool bb_population_child(const bb_population *p, bb_rng *rng, uint16_t *x)
{
    const bb_problem *problem = p->space->problem;
    const uint32_t    parents = p->n < p->size ? p->n : p->size;
    for (int tries = 0; parents > 0 && tries < 100; tries++) {
        const uint16_t *a = bb_population_x(p, tournament(p, rng, parents)), *b = bb_population_x(p, tournament(p, rng, parents));
        const bool      cross = bb_rng_uniform(rng) < 0.9;
        for (uint32_t u = 0; u < problem->n_units; u++) {
            x[u] = cross && bb_rng_below(rng, 2) ? b[u] : a[u];
            if (bb_rng_below(rng, problem->n_units) == 0) x[u] = (uint16_t)bb_rng_below(rng, problem->units[u].n_options);
        }
        if (bb_space_settle(p->space, x) && bb_moves_shrink(p->space, rng, p->budget, x)) return true;
    }
    return false;
}
