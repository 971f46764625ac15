/* SPDX-License-Identifier: GPL-3.0-or-later
 * moves.h: byte-trading pair moves: one unit gives bytes, another takes them. */
#ifndef BB_SEARCH_MOVES_H
#define BB_SEARCH_MOVES_H

#include "search/space.h"

typedef struct bb_move {
    uint32_t unit;
    uint16_t option;
    int64_t  bytes;
    double   cost;
} bb_move; /* deltas; unit UINT32_MAX: no move */
typedef struct bb_pair {
    bb_move first, second;
    double  cost;
} bb_pair; /* cost: predicted change */

/* The `max` pairs (or single moves, second.unit == UINT32_MAX) of least predicted cost change by the tables of s->problem that keep
 * bytes(x) + deltas <= room, best first; only pairs with cost change < 0 unless allow_worse. Predicted: deltas of two units in one group are
 * treated as independent, so the caller must measure the result. Returns their number. Memory: the caller gives `moves` of
 * s->offset[n_units] entries as scratch. */
size_t bb_moves_pairs(const bb_space *s, const uint16_t *x, int64_t slack, bool allow_worse, bb_move *moves, bb_pair *pairs, size_t max);

void bb_moves_apply(const bb_pair *pair, uint16_t *x);

/* Random moves for algorithms that know no costs; exact sizes throughout. */
bool bb_moves_random_fit(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x); /* random candidate, shrunk and filled at random */
bool bb_moves_shrink(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x);     /* random byte-lowering moves until it fits */
void bb_moves_fill(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x);       /* random byte-raising moves while one fits */
/* bb_moves_random_fit, drawn again until it is one, at most `draws` times or until an interruption: near the smallest size few draws end within the budget, or none. */
bool bb_moves_random_fit_in(const bb_space *s, bb_rng *rng, int64_t budget, uint32_t draws, uint16_t *x);
/* Level switch: one unit one step down (or sideways) in bytes, another one step up, within the budget. False when none was found. */
bool bb_moves_switch(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x);
/* One unit to a random option; what that exceeds the budget is paid by random other units, each stepped down as far as needed. False, with x
 * spoilt, when it cannot be paid. */
bool bb_moves_trade(const bb_space *s, bb_rng *rng, int64_t budget, uint16_t *x);

#endif
