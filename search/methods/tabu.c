/* SPDX-License-Identifier: GPL-3.0-or-later
 * tabu.c: the method "quadratic": of every budget the best plan that tabu search finds by the quadratic score around the source (quadratic.h). */
#include <stdio.h>

#include "search/method.h"

static bb_status quadratic(const bb_search_method *m, const bb_search *s, int64_t budget, bb_simple_plan *out, bb_err *err)
{
    const bb_quadratic_options o = { .seed = s->seed };
    bb_err                     why = BB_ERR_INIT;
    if (!s->quadratic) return BB_FAIL(err, BB_UNSUPPORTED, "the method \"%s\" needs a quadratic score, and there is none", m->name);
    const bb_status status = bb_quadratic_solve(s->quadratic, budget, &o, out->x, NULL, &why);
    if (status != BB_OK && status != BB_INFEASIBLE) return BB_FAIL(err, status, "%s", why.msg);
    out->found = status == BB_OK && bb_problem_allows(s->problem, out->x);
    snprintf(out->source, sizeof out->source, "%s", m->name);
    return BB_OK;
}

const bb_search_method bb_method_quadratic = {
    .name = "quadratic", .reference = "tabu search, Glover 1989", .needs_quadratic = true, .run = bb_method_plans, .plan = quadratic
};
