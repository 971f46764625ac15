/* SPDX-License-Identifier: GPL-3.0-or-later
 * tilted.h: optima of the separable tables tilted as a whole: what single measurements do not know is mostly shared by many units. */
#ifndef BB_ENGINE_TILTED_H
#define BB_ENGINE_TILTED_H

#include "engine/run.h"

typedef struct bb_tilting {
    const char *name;
    double      power;      /* of every cost, > 0 */
    double      structures; /* factor on the costs of structures; 0: nothing is pruned */
    double      slope;      /* log factor slope * t, t from -1 at the first unit to 1 at the last */
} bb_tilting;

/* The optimum of problem p (of the run's space, or a variant of it) within the budget. *found false: this tilt cannot reach it. */
bb_status bb_tilted_plan(const bb_run *r, const bb_problem *p, const bb_tilting *t, int64_t budget, uint16_t *x, bool *found, bb_err *err);

#endif
