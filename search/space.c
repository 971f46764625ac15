/* SPDX-License-Identifier: GPL-3.0-or-later
 * space.c: see space.h. Greedy repair and top-up are what remains to do after an exact method on the upper bound of bytes. */
#include "search/space.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

bb_status bb_space_init(const bb_problem *p, bb_space *s, bb_err *err)
{
    *s = (bb_space) { 0 };
    bb_status status = bb_problem_check(p, err);
    if (status != BB_OK) return status;
    const uint32_t n = p->n_units;
    s->problem = p;
    s->offset = BB_NEW0(n + 1, uint32_t, err);
    s->first_child = BB_NEW0(n + 1, uint32_t, err);
    s->children = BB_NEW0(n, uint32_t, err);
    if (!s->offset || !s->first_child || !s->children) {
        status = BB_NOMEM;
        goto done;
    }
    uint32_t filled = 0;
    for (uint32_t u = 0; u < n; u++) {
        s->offset[u + 1] = s->offset[u] + p->units[u].n_options;
        s->first_child[u] = filled;
        for (uint32_t v = 0; v < n; v++)
            if (p->units[v].controller == (int32_t)u) s->children[filled++] = v;
    }
    s->first_child[n] = filled;
done:
    if (status != BB_OK) bb_space_done(s);
    return status;
}

void bb_space_done(bb_space *s)
{
    bb_free(s->offset);
    bb_free(s->first_child);
    bb_free(s->children);
    *s = (bb_space) { 0 };
}

bool bb_space_is_controller(const bb_space *s, uint32_t unit) { return s->first_child[unit] < s->first_child[unit + 1]; }

static size_t row_start(const bb_problem *p, const uint16_t *x, uint32_t u)
{
    const int32_t c = p->units[u].controller;
    return (c < 0 ? 0 : (size_t)x[c]) * p->units[u].n_options;
}

int64_t bb_space_delta_bytes(const bb_space *s, const uint16_t *x, uint32_t unit, uint32_t option)
{
    const bb_unit *units = s->problem->units;
    const int64_t *row = units[unit].bytes + row_start(s->problem, x, unit);
    if (bb_is_forbidden(row[option])) return BB_FORBIDDEN;
    int64_t delta = row[option], before = row[x[unit]];
    for (uint32_t i = s->first_child[unit]; i < s->first_child[unit + 1]; i++) {
        const bb_unit *child = &units[s->children[i]];
        const uint16_t own = x[s->children[i]];
        const int64_t  b = child->bytes[(size_t)option * child->n_options + own];
        if (bb_is_forbidden(b)) return BB_FORBIDDEN;
        delta += b;
        before = bb_bytes_add(before, child->bytes[(size_t)x[unit] * child->n_options + own]);
    }
    return delta - before; /* from a combination that cannot be loaded: hugely negative */
}

double bb_space_delta_cost(const bb_space *s, const uint16_t *x, uint32_t unit, uint32_t option)
{
    const bb_unit *units = s->problem->units;
    const double  *row = units[unit].cost + row_start(s->problem, x, unit);
    double         delta = row[option] - row[x[unit]];
    for (uint32_t i = s->first_child[unit]; i < s->first_child[unit + 1]; i++) {
        const bb_unit *child = &units[s->children[i]];
        const uint16_t own = x[s->children[i]];
        delta += child->cost[(size_t)option * child->n_options + own] - child->cost[(size_t)x[unit] * child->n_options + own];
    }
    return delta;
}

bool bb_space_settle(const bb_space *s, uint16_t *x)
{
    const bb_problem *p = s->problem;
    if (bb_is_forbidden(bb_problem_bound(p, x))) return false;
    if (!p->size || !bb_is_forbidden(bb_problem_size(p, x))) return true;
    return p->settle && p->settle(p->settle_self, p, x) && !bb_is_forbidden(bb_problem_size(p, x));
}

uint32_t bb_space_widest(const bb_space *s, uint32_t controller)
{
    uint32_t best = 0;
    int64_t  best_bytes = -1;
    for (uint32_t o = 0; o < s->problem->units[controller].n_options; o++) {
        int64_t total = 0;
        for (uint32_t i = s->first_child[controller]; i < s->first_child[controller + 1]; i++) {
            const bb_unit *child = &s->problem->units[s->children[i]];
            int64_t        most = 0;
            for (uint32_t k = 0; k < child->n_options; k++) {
                const int64_t b = child->bytes[(size_t)o * child->n_options + k];
                if (!bb_is_forbidden(b) && b > most) most = b;
            }
            total += most;
        }
        if (total > best_bytes) {
            best_bytes = total;
            best = o;
        }
    }
    return best;
}

bool bb_space_repair(const bb_space *s, uint16_t *x, int64_t budget)
{
    const bb_problem *p = s->problem;
    while (bb_problem_size(p, x) > budget) {
        double   best = HUGE_VAL;
        uint32_t best_u = 0, best_o = 0;
        for (uint32_t u = 0; u < p->n_units; u++)
            for (uint32_t o = 0; o < p->units[u].n_options; o++) {
                const int64_t db = bb_space_delta_bytes(s, x, u, o);
                if (bb_is_forbidden(db) || db >= 0) continue;
                const double rate = bb_space_delta_cost(s, x, u, o) / (double)-db;
                if (rate < best) {
                    best = rate;
                    best_u = u;
                    best_o = o;
                }
            }
        if (isinf(best)) return false;
        x[best_u] = (uint16_t)best_o;
        if (p->settle) bb_space_settle(s, x);
    }
    return true;
}

/* The best move that lowers the cost and fits. The exact size is asked only for moves that could win and whose estimate is near the
 * budget: bound and size differ by padding and metadata, which one move changes by less than the whole difference plus a page. */
static bool best_upgrade(const bb_space *s, uint16_t *x, int64_t size, int64_t budget, int64_t *new_size)
{
    const bb_problem *p = s->problem;
    const int64_t     margin = p->size ? bb_problem_bound(p, x) - size + 4096 : 0;
    double            best = 0;
    uint32_t          best_u = UINT32_MAX, best_o = 0;
    for (uint32_t u = 0; u < p->n_units; u++)
        for (uint32_t o = 0; o < p->units[u].n_options; o++) {
            if (o == x[u]) continue;
            const int64_t db = bb_space_delta_bytes(s, x, u, o);
            if (bb_is_forbidden(db) || size + db > budget + margin) continue;
            const double dc = bb_space_delta_cost(s, x, u, o);
            if (!(dc < best)) continue;
            const uint16_t old = x[u];
            x[u] = (uint16_t)o;
            const int64_t exact = p->size ? bb_problem_size(p, x) : size + db;
            x[u] = old;
            if (exact > budget) continue;
            best = dc;
            best_u = u;
            best_o = o;
            *new_size = exact;
        }
    if (best_u == UINT32_MAX) return false;
    x[best_u] = (uint16_t)best_o;
    return true;
}

int64_t bb_space_topup(const bb_space *s, uint16_t *x, int64_t budget)
{
    int64_t size = bb_problem_size(s->problem, x), next = 0;
    if (size > budget) return size; /* nothing to spend, or not loadable */
    while (best_upgrade(s, x, size, budget, &next)) size = next;
    return size;
}

static bool random_children(const bb_space *s, bb_rng *rng, uint32_t u, uint16_t *x)
{
    for (uint32_t i = s->first_child[u]; i < s->first_child[u + 1]; i++) {
        const uint32_t v = s->children[i];
        const bb_unit *child = &s->problem->units[v];
        x[v] = (uint16_t)bb_rng_below(rng, child->n_options);
        if (bb_is_forbidden(child->bytes[(size_t)x[u] * child->n_options + x[v]])) return false;
    }
    return true;
}

static bool random_groups(const bb_space *s, bb_rng *rng, uint16_t *x)
{
    const bb_problem *p = s->problem;
    for (uint32_t u = 0; u < p->n_units; u++) {
        if (p->units[u].controller >= 0) continue;
        int tries = 0;
        do {
            if (++tries > 1000) return false;
            x[u] = (uint16_t)bb_rng_below(rng, p->units[u].n_options);
        } while (bb_is_forbidden(p->units[u].bytes[x[u]]) || !random_children(s, rng, u, x));
    }
    return true;
}

bool bb_space_random(const bb_space *s, bb_rng *rng, uint16_t *x)
{
    for (int tries = 0; tries < 100; tries++) {
        if (!random_groups(s, rng, x)) return false;
        if (bb_space_settle(s, x)) return true;
    }
    return false;
}

bb_status bb_variant_init(const bb_problem *p, bb_variant *v, bb_err *err)
{
    bb_status status = BB_NOMEM;
    *v = (bb_variant) { .problem = *p };
    v->units = BB_NEW0(p->n_units, bb_unit, err);
    v->cost = BB_NEW0(p->n_units, double *, err);
    v->bytes = BB_NEW0(p->n_units, int64_t *, err);
    if (!v->units || !v->cost || !v->bytes) goto done;
    v->problem.units = v->units;
    for (uint32_t u = 0; u < p->n_units; u++) {
        const size_t n = bb_problem_rows(p, u) * p->units[u].n_options;
        v->units[u] = p->units[u];
        v->units[u].cost = v->cost[u] = BB_NEW(n, double, err);
        v->units[u].bytes = v->bytes[u] = BB_NEW(n, int64_t, err);
        if (!v->cost[u] || !v->bytes[u]) goto done;
        memcpy(v->cost[u], p->units[u].cost, n * sizeof(double));
        memcpy(v->bytes[u], p->units[u].bytes, n * sizeof(int64_t));
    }
    status = BB_OK;
done:
    if (status != BB_OK) bb_variant_done(v);
    return status;
}

void bb_variant_done(bb_variant *v)
{
    for (uint32_t u = 0; u < v->problem.n_units; u++) {
        if (v->cost) bb_free(v->cost[u]);
        if (v->bytes) bb_free(v->bytes[u]);
    }
    bb_free(v->cost);
    bb_free(v->bytes);
    bb_free(v->units);
    *v = (bb_variant) { 0 };
}

void bb_variant_pin(bb_variant *v, uint32_t unit, uint32_t option)
{
    const uint32_t n = v->units[unit].n_options;
    for (size_t r = 0; r < bb_problem_rows(&v->problem, unit); r++)
        for (uint32_t o = 0; o < n; o++)
            if (o != option) v->bytes[unit][r * n + o] = BB_FORBIDDEN;
}

void bb_variant_power(bb_variant *v, double exponent)
{
    for (uint32_t u = 0; u < v->problem.n_units; u++)
        for (size_t i = 0; i < bb_problem_rows(&v->problem, u) * v->units[u].n_options; i++)
            if (!bb_is_forbidden(v->bytes[u][i])) v->cost[u][i] = pow(v->cost[u][i], exponent);
}

void bb_variant_scale(bb_variant *v, uint32_t unit, double factor)
{
    for (size_t i = 0; i < bb_problem_rows(&v->problem, unit) * v->units[unit].n_options; i++)
        if (!bb_is_forbidden(v->bytes[unit][i])) v->cost[unit][i] *= factor;
}
