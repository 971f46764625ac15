/* SPDX-License-Identifier: GPL-3.0-or-later
 * space.h: the moves of a problem: what one change of one unit does to bytes and cost, repair and exact top-up.
 *
 * A move (unit u, option o) of a controller changes the bytes and costs of every unit that it controls; the deltas below include that.
 * Tables over all (unit, option) pairs are indexed offset[u] + o.
 */
#ifndef BB_SEARCH_SPACE_H
#define BB_SEARCH_SPACE_H

#include "base/rng.h"
#include "search/problem.h"

typedef struct bb_space {
    const bb_problem *problem;     /* borrowed for the space's life */
    uint32_t         *offset;      /* [n_units + 1]; offset[n_units] is the number of (unit, option) pairs */
    uint32_t         *first_child; /* [n_units + 1] */
    uint32_t         *children;    /* of u: children[first_child[u] .. first_child[u + 1] - 1] */
} bb_space;

bb_status bb_space_init(const bb_problem *p, bb_space *s, bb_err *err); /* BB_USAGE when the problem is not valid */
void      bb_space_done(bb_space *s);

bool    bb_space_is_controller(const bb_space *s, uint32_t unit);
int64_t bb_space_delta_bytes(const bb_space *s, const uint16_t *x, uint32_t unit, uint32_t option); /* BB_FORBIDDEN when not loadable */
double  bb_space_delta_cost(const bb_space *s, const uint16_t *x, uint32_t unit, uint32_t option);

/* Whether x can be loaded as it is, or once problem.settle has changed it, which never raises its bound. */
bool bb_space_settle(const bb_space *s, uint16_t *x);

/* Option of a controller that leaves its dependents most bytes: the unpruned shape. */
uint32_t bb_space_widest(const bb_space *s, uint32_t controller);

/* Lowers single units, least cost a byte first, until the exact size is at most budget. False when no single move helps any more. */
bool bb_space_repair(const bb_space *s, uint16_t *x, int64_t budget);
/* Takes single moves that lower the cost and fit the budget by exact size, most gain first, until none is left: afterwards the slack is
 * smaller than the cheapest upgrade. Returns the exact size; an x above the budget, or not loadable, stays as it is. */
int64_t bb_space_topup(const bb_space *s, uint16_t *x, int64_t budget);
/* A uniformly random candidate that can be loaded, settled where it must be (gives up after 1000 draws of one group or 100 of all: false). */
bool bb_space_random(const bb_space *s, bb_rng *rng, uint16_t *x);

/* A problem with other costs or fewer options over the same units, names and exact sizes. The tables may be edited. */
typedef struct bb_variant {
    bb_problem problem; /* use this; valid until done */
    bb_unit   *units;
    double   **cost;  /* [n_units][rows * n_options], editable */
    int64_t  **bytes; /* the same; BB_FORBIDDEN removes a cell */
} bb_variant;

bb_status bb_variant_init(const bb_problem *p, bb_variant *v, bb_err *err);
void      bb_variant_done(bb_variant *v);
void      bb_variant_pin(bb_variant *v, uint32_t unit, uint32_t option); /* all other options forbidden */
void      bb_variant_power(bb_variant *v, double exponent);              /* every cost to this power, > 0 */
void      bb_variant_scale(bb_variant *v, uint32_t unit, double factor); /* >= 0 */

#endif
