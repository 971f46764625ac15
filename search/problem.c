/* SPDX-License-Identifier: GPL-3.0-or-later
 * problem.c: bytes, cost and names of a candidate. Everything is a table look-up; unit names are matched by
 * linear search because plans have at most a few hundred genes and this is never in a hot path. */
#include "search/problem.h"

#include <math.h>
#include <string.h>

int64_t bb_problem_bound(const bb_problem *p, const uint16_t *x)
{
    int64_t total = p->fixed_bytes;
    for (uint32_t u = 0; u < p->n_units; u++) {
        BB_ASSERT(x[u] < p->units[u].n_options);
        const int64_t b = p->units[u].bytes[bb_problem_row(p, x, u) + x[u]];
        total = bb_bytes_add(total, b);
    }
    return total;
}

int64_t bb_problem_size(const bb_problem *p, const uint16_t *x)
{
    int64_t size = bb_problem_bound(p, x);
    if (!p->size || bb_is_forbidden(size)) return size;
#pragma omp critical(bb_problem_size) /* searches ask from several threads; the callback may use scratch memory of its own */
    size = p->size(p->size_self, x);
    return size;
}

double bb_problem_cost(const bb_problem *p, const uint16_t *x)
{
    double total = 0;
    for (uint32_t u = 0; u < p->n_units; u++) total += p->units[u].cost[bb_problem_row(p, x, u) + x[u]];
    return total;
}

/* Forbidden cells may hold any cost; the others must be finite and not negative. */
static bb_status check_tables(const bb_unit *unit, size_t rows, bb_err *err)
{
    for (size_t i = 0; i < rows * unit->n_options; i++) {
        const char *option = unit->options[i % unit->n_options];
        if (bb_is_forbidden(unit->bytes[i])) continue;
        if (unit->bytes[i] < 0)
            return BB_FAIL(err, BB_USAGE, "unit %s, option %s, row %zu: %lld bytes", unit->name, option, i / unit->n_options,
                           (long long)unit->bytes[i]);
        if (!isfinite(unit->cost[i]) || unit->cost[i] < 0)
            return BB_FAIL(err, BB_USAGE, "unit %s, option %s, row %zu: cost %g, should be finite and not negative", unit->name, option,
                           i / unit->n_options, unit->cost[i]);
    }
    return BB_OK;
}

static bb_status check_unit(const bb_problem *p, uint32_t u, bb_err *err)
{
    const bb_unit *unit = &p->units[u];
    if (!unit->name) return BB_FAIL(err, BB_USAGE, "unit %u has no name", u);
    if (unit->n_options == 0 || unit->n_options > UINT16_MAX)
        return BB_FAIL(err, BB_USAGE, "unit %s has %u options, should be 1 to %d", unit->name, unit->n_options, UINT16_MAX);
    if (!unit->options || !unit->bytes || !unit->cost) return BB_FAIL(err, BB_USAGE, "unit %s lacks a table", unit->name);
    for (uint32_t o = 0; o < unit->n_options; o++)
        if (!unit->options[o]) return BB_FAIL(err, BB_USAGE, "unit %s, option %u has no name", unit->name, o);
    for (uint32_t v = 0; v < u; v++)
        if (strcmp(p->units[v].name, unit->name) == 0) return BB_FAIL(err, BB_USAGE, "two units are called %s", unit->name);
    size_t rows = 1;
    if (unit->controller >= 0) {
        const uint32_t c = (uint32_t)unit->controller;
        if (c >= p->n_units || c == u) return BB_FAIL(err, BB_USAGE, "unit %s has unit %u of %u as controller", unit->name, c, p->n_units);
        if (p->units[c].controller >= 0) return BB_FAIL(err, BB_USAGE, "the controller of unit %s has a controller itself", unit->name);
        rows = p->units[c].n_options;
    }
    return check_tables(unit, rows, err);
}

bb_status bb_problem_check(const bb_problem *p, bb_err *err)
{
    if (!p || p->n_units == 0 || !p->units || p->fixed_bytes < 0) return BB_FAIL(err, BB_USAGE, "the search problem has no units");
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bb_status status = check_unit(p, u, err);
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

bool bb_problem_allows(const bb_problem *p, const uint16_t *x) { return !p->allowed || p->allowed(p->allowed_self, x); }


bb_status bb_problem_plan(const bb_problem *p, const uint16_t *x, bb_plan *out, bb_err *err)
{
    bb_status status = BB_OK;
    bb_plan   plan = {0};
    for (uint32_t u = 0; u < p->n_units; u++)
        BB_TRY(bb_plan_set(&plan, p->units[u].name, p->units[u].options[x[u]], err));
    *out = plan;
    plan = (bb_plan){0};
done:
    bb_plan_done(&plan);
    return status;
}

static bb_status check_genes_known(const bb_problem *p, const bb_plan *plan, bb_err *err)
{
    for (size_t i = 0; i < plan->n; i++) {
        uint32_t u = 0;
        while (u < p->n_units && strcmp(p->units[u].name, plan->genes[i].unit) != 0) u++;
        if (u == p->n_units)
            return BB_FAIL(err, BB_NOT_FOUND, "the plan names unit %s, which this problem does not have", plan->genes[i].unit);
    }
    return BB_OK;
}

bb_status bb_problem_candidate(const bb_problem *p, const bb_plan *plan, uint16_t *x, bb_err *err)
{
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bb_unit *unit = &p->units[u];
        const char    *option = bb_plan_get(plan, unit->name);
        if (!option) return BB_FAIL(err, BB_NOT_FOUND, "the plan has no gene for unit %s", unit->name);
        uint32_t o = 0;
        while (o < unit->n_options && strcmp(unit->options[o], option) != 0) o++;
        if (o == unit->n_options)
            return BB_FAIL(err, BB_NOT_FOUND, "unit %s has no option %s (it has %u, the first is %s)", unit->name, option, unit->n_options,
                           unit->options[0]);
        x[u] = (uint16_t)o;
    }
    return check_genes_known(p, plan, err);
}
