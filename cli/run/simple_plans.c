/* SPDX-License-Identifier: GPL-3.0-or-later
 * simple_plans.c: see simple_plans.h. */
#include "cli/run/simple_plans.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "search/separable.h"
#include "search/space.h"

/* Insertion into the short list of the cheapest. */
static size_t keep(size_t n, size_t max, uint32_t width, double cost, double *costs, const uint16_t *from, uint16_t *x, const char *name,
                   char (*names)[BB_UNIFORM_NAME])
{
    size_t k = n;
    while (k > 0 && cost < costs[k - 1]) k--;
    if (k == max) return n;
    if (n == max) n--;
    memmove(costs + k + 1, costs + k, (n - k) * sizeof *costs);
    memmove(x + (k + 1) * width, x + k * width, (n - k) * width * sizeof *x);
    if (names) memmove(names + k + 1, names + k, (n - k) * sizeof *names);
    costs[k] = cost;
    memcpy(x + k * width, from, width * sizeof *x);
    if (names) snprintf(names[k], sizeof names[k], "%s", name);
    return n + 1;
}

size_t bb_uniform_plans(const bb_run *r, int64_t budget, size_t max, uint16_t *x, char (*names)[BB_UNIFORM_NAME])
{
    const bb_problem *p = bb_model_space_problem(r->space);
    const bb_unit    *embd = &p->units[p->n_units - 1], *linear = NULL;
    uint16_t         *candidate = BB_NEW(p->n_units, uint16_t, NULL);
    double           *costs = BB_NEW(max, double, NULL);
    char              name[BB_UNIFORM_NAME];
    size_t            n = 0;
    for (uint32_t u = 0; u < p->n_units && !linear; u++)
        if (p->units[u].controller >= 0) linear = &p->units[u];
    for (uint32_t f = 0; candidate && costs && linear && f < linear->n_options; f++)
        for (uint32_t e = 0; e < embd->n_options; e++) {
            if (!bb_model_space_uniform(r->space, linear->options[f], embd->options[e], candidate)) continue;
            if (bb_is_forbidden(bb_problem_bound(p, candidate)) || bb_problem_size(p, candidate) > budget) continue;
            snprintf(name, sizeof name, "uniform %s + %s", linear->options[f], embd->options[e]);
            n = keep(n, max, p->n_units, bb_problem_cost(p, candidate), costs, candidate, x, name, names);
        }
    bb_free(candidate);
    bb_free(costs);
    return n;
}

bool bb_restricted_plan(const bb_run *r, int64_t budget, bool prune, bool quantize, uint16_t *x)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_variant        v;
    bb_separable     *s = NULL;
    bool              found = false;
    if (bb_variant_init(p, &v, NULL) != BB_OK) return false;
    for (uint32_t u = 0; u < p->n_units; u++) {
        bool format = bb_model_space_is_format(r->space, u);
        if (!format && !prune) bb_variant_pin(&v, u, 0);
        if (format && !quantize && p->units[u].controller >= 0) bb_variant_pin(&v, u, p->units[u].n_options - 1);
    }
    if (bb_separable_create(&v.problem, NULL, &s, NULL) == BB_OK) found = bb_separable_solve(s, budget, x, NULL, NULL) == BB_OK;
    bb_separable_destroy(s);
    bb_variant_done(&v);
    return found;
}
