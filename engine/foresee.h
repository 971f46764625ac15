/* SPDX-License-Identifier: GPL-3.0-or-later
 * foresee.h: what a rebuild leaves of the loss of a plan, foreseen by the kinds of its units.
 *
 * The search measures matrices that stand alone; in the file every matrix has corrected the errors of those before it, which takes most of what gate, up and v lose and
 * little of what the tables and cut channels do. A unit's cost is its measured KL times the share of its kind (docs/search.md has where the shares are from), and the
 * KL of a whole plan is weighed by the share of its units' costs together. Only shares of one another count: a common factor moves no choice. */
#ifndef BB_ENGINE_FORESEE_H
#define BB_ENGINE_FORESEE_H

#include "engine/run.h"
#include "search/quadratic.h"
#include "search/space.h"

#define BB_FORESEE_HELP "whether plans are weighed by what a rebuild will leave of the loss of each kind of matrix; only where finalise rebuilds"

#define BB_FORESEE_SHARES "rebuild 2" /* of the search's key: counts the tables of shares (foresee.c) */

typedef struct bb_foresee {
    const bb_problem *plain; /* as measured */
    double           *share; /* [n_units] */
    bb_variant        v;     /* v.problem: with the costs that are left */
} bb_foresee;

/* Whether the run's search foresees: --foresee rebuild, and finalise rebuilds. */
bool bb_run_foresees(const bb_run_config *c);

/* p: the run's problem, borrowed, whose costs are measured. */
bb_status bb_foresee_init(const bb_problem *p, bb_foresee *f, bb_err *err);
void      bb_foresee_done(bb_foresee *f); /* zeroed is fine */

/* What is left of the costs of plan x, as a share of them; self: a bb_foresee. For bb_ledger_options.weight. */
double bb_foresee_weight(void *self, const uint16_t *x);

/* Tables [n_units], shaped as costs (NULL: none), to what is left of them; gram [M * M] (may be NULL) likewise: a product of changes of two units by the root of both shares. */
void bb_foresee_scale(const bb_foresee *f, const bb_space *space, double *const *linear, float *gram);

#endif
