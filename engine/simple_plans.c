/* SPDX-License-Identifier: GPL-3.0-or-later
 * simple_plans.c: see simple_plans.h. */
#include "engine/simple_plans.h"

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

static bool is_listed(const uint16_t *x, size_t n, uint32_t width, const uint16_t *candidate)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(x + i * width, candidate, width * sizeof *x) == 0) return true;
    return false;
}

size_t bb_uniform_plans(const bb_run *r, int64_t budget, size_t max, uint16_t *x, char (*names)[BB_UNIFORM_NAME])
{
    const bb_problem *p = bb_model_space_problem(r->space);
    uint16_t         *candidate = BB_NEW(p->n_units, uint16_t, NULL);
    double           *costs = BB_NEW(max, double, NULL);
    char              name[BB_UNIFORM_NAME];
    const bb_format  *f, *e;
    size_t            n = 0;
    for (size_t i = 0; candidate && costs && (f = bb_format_at(i)); i++)
        for (size_t k = 0; (e = bb_format_at(k)); k++) {
            if (!bb_model_space_uniform(r->space, f->name, e->name, candidate) || bb_problem_size(p, candidate) > budget) continue;
            if (is_listed(x, n, p->n_units, candidate)) continue; /* two names may end in the same plan where rows are short */
            bb_model_space_uniform_name(r->space, candidate, name, sizeof name);
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
