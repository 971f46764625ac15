/* SPDX-License-Identifier: GPL-3.0-or-later
 * problem.c: bytes, cost and names of a candidate. Everything is a table look-up. */
#include "search/problem.h"

#include <math.h>
#include <string.h>

size_t bb_problem_rows(const bb_problem *p, uint32_t unit)
{
    const int32_t c = p->units[unit].controller;
    return c < 0 ? 1 : p->units[c].n_options;
}

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
    const int64_t bound = bb_problem_bound(p, x);
    return !p->size || bb_is_forbidden(bound) ? bound : p->size(p->size_self, x);
}

double bb_problem_cost(const bb_problem *p, const uint16_t *x)
{
    double total = 0;
    for (uint32_t u = 0; u < p->n_units; u++) total += p->units[u].cost[bb_problem_row(p, x, u) + x[u]];
    return total;
}

/* Forbidden cells may hold any cost; the others must be finite and not negative. */
static bb_status check_tables(const bb_unit *unit, const bb_plan_unit *names, size_t rows, bb_err *err)
{
    for (size_t i = 0; i < rows * unit->n_options; i++) {
        const char *option = names->options[i % unit->n_options].name;
        if (bb_is_forbidden(unit->bytes[i])) continue;
        if (unit->bytes[i] < 0)
            return BB_FAIL(err, BB_USAGE, "unit %s, option %s, row %zu: %lld bytes", names->name, option, i / unit->n_options, (long long)unit->bytes[i]);
        if (!isfinite(unit->cost[i]) || unit->cost[i] < 0)
            return BB_FAIL(err, BB_USAGE, "unit %s, option %s, row %zu: cost %g, should be finite and not negative", names->name, option, i / unit->n_options,
                           unit->cost[i]);
    }
    return BB_OK;
}

static bb_status check_unit(const bb_problem *p, uint32_t u, bb_err *err)
{
    const bb_unit      *unit = &p->units[u];
    const bb_plan_unit *names = &p->plans->units[u];
    if (unit->n_options != names->n_options || unit->controller != names->controller)
        return BB_FAIL(err, BB_USAGE, "unit %s has %u options and controller %d in the problem, %u and %d in its space of plans", names->name, unit->n_options,
                       unit->controller, names->n_options, names->controller);
    if (!unit->bytes || !unit->cost) return BB_FAIL(err, BB_USAGE, "unit %s lacks a table", names->name);
    return check_tables(unit, names, bb_problem_rows(p, u), err);
}

bb_status bb_problem_check(const bb_problem *p, bb_err *err)
{
    if (!p || p->n_units == 0 || !p->units || p->fixed_bytes < 0) return BB_FAIL(err, BB_USAGE, "the search problem has no units");
    if (!p->plans || p->plans->n_units != p->n_units) return BB_FAIL(err, BB_USAGE, "the search problem has no space of plans with its units");
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bb_status status = check_unit(p, u, err);
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

bool bb_problem_allows(const bb_problem *p, const uint16_t *x) { return !p->allowed || p->allowed(p->allowed_self, x); }
