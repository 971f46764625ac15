/* SPDX-License-Identifier: GPL-3.0-or-later
 * moves.h: byte-trading pair moves: one unit gives bytes, another takes them. */
#ifndef BB_SEARCH_MOVES_H
#define BB_SEARCH_MOVES_H

#include "search/space.h"

typedef struct bb_move { uint32_t unit; uint16_t option; int64_t bytes; double cost; } bb_move; /* deltas; unit UINT32_MAX: no move */
typedef struct bb_pair { bb_move first, second; double cost; } bb_pair;                          /* cost: predicted change */

/* The `max` pairs (or single moves, second.unit == UINT32_MAX) of least predicted cost change by the tables of s->problem that keep
 * bytes(x) + deltas <= room, best first; only pairs with cost change < 0 unless allow_worse. Predicted: deltas of two units in one group are
 * treated as independent, so the caller must measure the result. Returns their number. Memory: the caller gives `moves` of
 * s->offset[n_units] entries as scratch. */
size_t bb_moves_pairs(const bb_space *s, const uint16_t *x, int64_t slack, bool allow_worse, bb_move *moves, bb_pair *pairs, size_t max);

void   bb_moves_apply(const bb_pair *pair, uint16_t *x);

#endif
