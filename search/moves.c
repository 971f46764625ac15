/* SPDX-License-Identifier: GPL-3.0-or-later
 * moves.c: single moves sorted by cost; the double loop over pairs is cut as soon as no pair further on can enter the kept list. */
#include "search/moves.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"

static int by_cost(const void *pa, const void *pb)
{
    const bb_move *a = pa, *b = pb;
    if (a->cost != b->cost) return a->cost < b->cost ? -1 : 1;
    if (a->unit != b->unit) return a->unit < b->unit ? -1 : 1;
    return (a->option > b->option) - (a->option < b->option);
}

static size_t single_moves(const bb_space *s, const uint16_t *x, bb_move *moves)
{
    size_t n = 0;
    for (uint32_t u = 0; u < s->problem->n_units; u++)
        for (uint16_t o = 0; o < s->problem->units[u].n_options; o++) {
            if (o == x[u]) continue;
            const int64_t bytes = bb_space_delta_bytes(s, x, u, o);
            if (bb_is_forbidden(bytes)) continue;
            moves[n++] = (bb_move) { u, o, bytes, bb_space_delta_cost(s, x, u, o) };
        }
    return n;
}

/* Insertion into the short sorted list of the best; returns its new length. */
static size_t keep(bb_pair *pairs, size_t n, size_t max, bb_pair p)
{
    if (n == max && !(p.cost < pairs[max - 1].cost)) return n;
    size_t k = n < max ? n++ : max - 1;
    for (; k > 0 && p.cost < pairs[k - 1].cost; k--) pairs[k] = pairs[k - 1];
    pairs[k] = p;
    return n;
}

size_t bb_moves_pairs(const bb_space *s, const uint16_t *x, int64_t slack, bool allow_worse, bb_move *moves, bb_pair *pairs, size_t max)
{
    static const bb_move none = { UINT32_MAX, 0, 0, 0 };
    const size_t         n = single_moves(s, x, moves);
    size_t               kept = 0;
    if (max == 0) return 0;
    qsort(moves, n, sizeof *moves, by_cost);
    const double ceiling = allow_worse ? HUGE_VAL : 0;
    for (size_t i = 0; i < n; i++) {
        if (moves[i].bytes <= slack && moves[i].cost < ceiling) kept = keep(pairs, kept, max, (bb_pair) { moves[i], none, moves[i].cost });
        for (size_t j = i + 1; j < n; j++) {
            const double cost = moves[i].cost + moves[j].cost;
            /* costs ascend, so nothing further on can be better than the worst that is kept */
            if (!(cost < ceiling) || (kept == max && !(cost < pairs[max - 1].cost))) break;
            if (moves[i].unit == moves[j].unit || moves[i].bytes + moves[j].bytes > slack) continue;
            kept = keep(pairs, kept, max, (bb_pair) { moves[i], moves[j], cost });
        }
    }
    return kept;
}

void bb_moves_apply(const bb_pair *pair, uint16_t *x)
{
    x[pair->first.unit] = pair->first.option;
    if (pair->second.unit != UINT32_MAX) x[pair->second.unit] = pair->second.option;
}

static bool is_between(const bb_space *s, const uint16_t *x, uint32_t u, uint16_t o, int64_t lo, int64_t hi, int64_t *bytes)
{
    if (o == x[u]) return false;
    *bytes = bb_space_delta_bytes(s, x, u, o);
    return !bb_is_forbidden(*bytes) && *bytes >= lo && *bytes <= hi;
}

/* A uniformly chosen single move with lo <= change of bytes <= hi; false when there is none. A few blind draws first: where many moves
 * qualify, rejection is uniform as well and needs no scan. */
static bool random_move(const bb_space *s, bb_rng *rng, const uint16_t *x, int64_t lo, int64_t hi, bb_move *out)
{
    const bb_problem *p = s->problem;
    const uint32_t    M = s->offset[p->n_units];
    uint64_t          seen = 0;
    int64_t           bytes;
    for (int tries = 0; tries < 8; tries++) {
        const uint32_t at = (uint32_t)bb_rng_below(rng, M);
        uint32_t       u = 0;
        for (uint32_t n = p->n_units; n > 1;) { /* the last unit whose offset is at most `at` */
            const uint32_t half = n / 2;
            if (s->offset[u + half] <= at) u += half;
            n -= half;
        }
        const uint16_t o = (uint16_t)(at - s->offset[u]);
        if (!is_between(s, x, u, o, lo, hi, &bytes)) continue;
        *out = (bb_move) { u, o, bytes, 0 };
        return true;
    }
    for (uint32_t u = 0; u < p->n_units; u++)
        for (uint16_t o = 0; o < p->units[u].n_options; o++)
            if (is_between(s, x, u, o, lo, hi, &bytes) && bb_rng_below(rng, ++seen) == 0) *out = (bb_move) { u, o, bytes, 0 };
    return seen > 0;
}

bool bb_moves_shrink(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x)
{
    bb_move m;
    while (bb_problem_size(s->problem, x) > budget) {
        if (!random_move(s, rng, x, -BB_FORBIDDEN, -1, &m)) return false;
        x[m.unit] = m.option;
        if (s->problem->settle) bb_space_settle(s, x); /* never up: every step lowers the bound */
    }
    return true;
}

void bb_moves_fill(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x)
{
    bb_move m;
    for (int refused = 0; refused < 32 && random_move(s, rng, x, 1, budget - bb_problem_size(s->problem, x), &m);) {
        const uint16_t old = x[m.unit];
        x[m.unit] = m.option;
        const int64_t size = bb_problem_size(s->problem, x);
        if (size <= budget) continue;
        x[m.unit] = old; /* exact sizes need not follow the bound move by move */
        if (!bb_is_forbidden(size)) return;
        refused++; /* not loadable beside the others: another move may be */
    }
}

bool bb_moves_random_fit(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x)
{
    if (!bb_space_random(s, rng, x) || !bb_moves_shrink(s, rng, budget, x)) return false;
    bb_moves_fill(s, rng, budget, x);
    return true;
}

bool bb_moves_random_fit_in(const bb_space *s, bb_rng *rng, int64_t budget, uint32_t draws, uint16_t *x)
{
    for (uint32_t i = 0; i < draws && !bb_interrupted(); i++)
        if (bb_moves_random_fit(s, rng, budget, x)) return true;
    return false;
}

/* The nearest option of a unit in one direction of bytes, equal bytes counting as down; ties at random. */
static bool nearest_step(const bb_space *s, bb_rng *rng, const uint16_t *x, uint32_t unit, bool up, bb_move *out)
{
    uint64_t seen = 0;
    int64_t  best = INT64_MAX;
    for (uint16_t o = 0; o < s->problem->units[unit].n_options; o++) {
        if (o == x[unit]) continue;
        const int64_t bytes = bb_space_delta_bytes(s, x, unit, o);
        if (bb_is_forbidden(bytes) || (up ? bytes <= 0 : bytes > 0)) continue;
        const int64_t distance = up ? bytes : -bytes;
        if (distance > best) continue;
        if (distance < best) seen = 0;
        best = distance;
        if (bb_rng_below(rng, ++seen) == 0) *out = (bb_move) { unit, o, bytes, 0 };
    }
    return seen > 0;
}

bool bb_moves_switch(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x)
{
    const uint32_t n = s->problem->n_units;
    for (int tries = 0; tries < 64; tries++) {
        bb_move        down = { 0 }, up = { 0 };
        const uint32_t a = (uint32_t)bb_rng_below(rng, n), b = (uint32_t)bb_rng_below(rng, n);
        if (!nearest_step(s, rng, x, a, false, &down)) continue;
        const uint16_t old = x[a];
        x[a] = down.option;
        if (a != b && nearest_step(s, rng, x, b, true, &up)) {
            const uint16_t old_b = x[b];
            x[b] = up.option;
            if (bb_problem_size(s->problem, x) <= budget) return true;
            x[b] = old_b;
        } else if (down.bytes == 0 && bb_problem_size(s->problem, x) <= budget) {
            return true; /* a step sideways needs nothing in exchange */
        }
        x[a] = old;
    }
    return false;
}

bool bb_moves_trade(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x)
{
    const uint32_t n = s->problem->n_units, unit = (uint32_t)bb_rng_below(rng, n);
    const uint16_t option = (uint16_t)bb_rng_below(rng, s->problem->units[unit].n_options);
    if (bb_is_forbidden(bb_space_delta_bytes(s, x, unit, option))) return false;
    x[unit] = option;
    for (uint32_t tries = 0; tries < 8 * n && bb_problem_size(s->problem, x) > budget; tries++) {
        const uint32_t payer = (uint32_t)bb_rng_below(rng, n);
        bb_move        m = { 0 };
        while (payer != unit && bb_problem_size(s->problem, x) > budget && nearest_step(s, rng, x, payer, false, &m)) {
            x[payer] = m.option;
            if (m.bytes == 0) break; /* sideways: no payment, and it could go on for ever */
        }
    }
    return bb_problem_size(s->problem, x) <= budget;
}
