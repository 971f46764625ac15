/* SPDX-License-Identifier: GPL-3.0-or-later
 * plan_space.h: the plain description of a space of plans: its units, what controls them, and for each option a name and a value.
 *
 * Inside the program a plan of the space is x[n_units], the index of each unit's option. What it means for a network stands in `what`, `layer` and
 * `value`, which model/ alone interprets (model/compress/plan_units.h); names are for text, for hashes and for people. The text and the hash of x are
 * those of the bb_plan with the same names (base/plan.h), byte for byte.
 */
#ifndef BB_BASE_PLAN_SPACE_H
#define BB_BASE_PLAN_SPACE_H

#include "base/plan.h"

typedef struct bb_plan_option {
    const char *name;
    uint32_t    value;
} bb_plan_option;

typedef struct bb_plan_unit {
    const char           *name;
    uint32_t              what, layer;
    int32_t               controller; /* the unit whose option sets this one's shape, or -1 */
    uint32_t              n_options;
    const bb_plan_option *options; /* [n_options] */
} bb_plan_unit;

typedef struct bb_plan_space {
    uint32_t            n_units;
    const bb_plan_unit *units; /* borrowed; a unit whose name is another's is an error */
    uint32_t           *order; /* owned: the units by name, as the text has them */
} bb_plan_space;

/* BB_USAGE names the unit and what is wrong with it: names (as bb_plan_set takes them), numbers of options, controllers. */
bb_status bb_plan_space_init(bb_plan_space *s, const bb_plan_unit *units, uint32_t n_units, bb_err *err);
void      bb_plan_space_done(bb_plan_space *s);

/* All of these read s and x only: any number of threads may ask at once. */
void      bb_plan_space_hash(const bb_plan_space *s, const uint16_t *x, char hash[17]);
bb_status bb_plan_space_print(const bb_plan_space *s, const uint16_t *x, char **text, bb_err *err); /* gives; bb_free */
bb_status bb_plan_space_plan(const bb_plan_space *s, const uint16_t *x, bb_plan *out, bb_err *err);
/* The other way; BB_NOT_FOUND names the unit or option that the plan, or the space, lacks. */
bb_status bb_plan_space_indices(const bb_plan_space *s, const bb_plan *plan, uint16_t *x, bb_err *err);

#endif
