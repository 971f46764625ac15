/* SPDX-License-Identifier: GPL-3.0-or-later
 * moves.c: single moves sorted by cost; the double loop over pairs is cut as soon as no pair further on can enter the kept list. */
#include "search/moves.h"

#include <math.h>
#include <stdlib.h>

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
            if (bytes == BB_FORBIDDEN) continue;
            moves[n++] = (bb_move){u, o, bytes, bb_space_delta_cost(s, x, u, o)};
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
    static const bb_move none = {UINT32_MAX, 0, 0, 0};
    const size_t n = single_moves(s, x, moves);
    size_t       kept = 0;
    if (max == 0) return 0;
    qsort(moves, n, sizeof *moves, by_cost);
    const double ceiling = allow_worse ? HUGE_VAL : 0;
    for (size_t i = 0; i < n; i++) {
        if (moves[i].bytes <= slack && moves[i].cost < ceiling) kept = keep(pairs, kept, max, (bb_pair){moves[i], none, moves[i].cost});
        for (size_t j = i + 1; j < n; j++) {
            const double cost = moves[i].cost + moves[j].cost;
            /* costs ascend, so nothing further on can be better than the worst that is kept */
            if (!(cost < ceiling) || (kept == max && !(cost < pairs[max - 1].cost))) break;
            if (moves[i].unit == moves[j].unit || moves[i].bytes + moves[j].bytes > slack) continue;
            kept = keep(pairs, kept, max, (bb_pair){moves[i], moves[j], cost});
        }
    }
    return kept;
}

void bb_moves_apply(const bb_pair *pair, uint16_t *x)
{
    x[pair->first.unit] = pair->first.option;
    if (pair->second.unit != UINT32_MAX) x[pair->second.unit] = pair->second.option;
}
