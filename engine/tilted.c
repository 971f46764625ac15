/* SPDX-License-Identifier: GPL-3.0-or-later
 * tilted.c: see tilted.h. */
#include "engine/tilted.h"

#include <math.h>

#include "search/separable.h"
#include "search/space.h"

bb_status bb_tilted_plan(const bb_run *r, const bb_problem *p, const bb_tilting *t, int64_t budget, uint16_t *x, bool *found, bb_err *err)
{
    bb_variant    v = { 0 };
    bb_separable *sep = NULL;
    bb_err        why = BB_ERR_INIT; /* a size that this tilt cannot reach leaves no sentence */
    bb_status     status;
    *found = false;
    BB_TRY(bb_variant_init(p, &v, err));
    bb_variant_power(&v, t->power);
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bool   structure = !bb_model_space_is_format(r->space, u);
        const double at = 2.0 * u / p->n_units - 1;
        if (structure && !(t->structures > 0)) bb_variant_pin(&v, u, 0);
        bb_variant_scale(&v, u, exp(t->slope * at) * (structure && t->structures > 0 ? t->structures : 1));
    }
    if ((status = bb_separable_create(&v.problem, NULL, &sep, &why)) == BB_OK) status = bb_separable_solve(sep, budget, x, NULL, &why);
    *found = status == BB_OK && bb_problem_allows(p, x);
    if (status == BB_INFEASIBLE) status = BB_OK;
    if (status != BB_OK) BB_FAIL(err, status, "%s", why.msg);
done:
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    return status;
}
