/* SPDX-License-Identifier: GPL-3.0-or-later
 * separable.c: see separable.h. All sorts have a total order, so that results do not depend on the sort's implementation. */
#include "search/separable.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "search/space.h"

/* Points ascending in bytes, strictly descending in cost; opt[i * width ..] are the options of the group's members. */
typedef struct front {
    size_t    n;
    uint32_t  width;
    int64_t  *bytes;
    double   *cost;
    uint16_t *opt;
} front;

typedef struct group {
    uint32_t  n_members;
    uint32_t *members; /* unit indices; the controller first */
    front     f;
    uint32_t  n_hull;
    uint32_t *hull; /* indices of f on the lower convex hull, ascending in bytes */
} group;

/* One step along a group's hull. rate = cost saved a byte. */
typedef struct segment {
    double   rate;
    int64_t  bytes;     /* added */
    double   cost;      /* change, < 0 */
    uint32_t group, to; /* to: hull position reached */
} segment;

struct bb_separable {
    const bb_problem    *problem;
    bb_separable_options o;
    bb_space             space;
    uint32_t             n_groups;
    group               *groups;
    size_t               n_segments;
    segment             *segments;     /* descending rate */
    int64_t             *prefix_bytes; /* [n_segments + 1] of the hull solution after k segments */
    double              *prefix_cost;
    bool                 thinned;   /* some group's front is not complete: only the LP bound is proven */
    int64_t              min_bytes; /* bound of the smallest plan */
    int64_t              reach[2];
    bb_variant           widest; /* with problem.settle: controllers pinned at their widest option */
    struct bb_separable *plain;  /* and its solver; NULL: none */
};

/* ---- fronts ---------------------------------------------------------------------------------------------------------------- */

typedef struct item {
    int64_t  bytes;
    double   cost;
    uint32_t a, b;
} item;

static int by_bytes(const void *pa, const void *pb)
{
    const item *a = pa, *b = pb;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
    if (a->cost != b->cost) return a->cost < b->cost ? -1 : 1;
    if (a->a != b->a) return a->a < b->a ? -1 : 1;
    return (a->b > b->b) - (a->b < b->b);
}

/* Sorts and keeps the non-dominated items; returns their number. */
static size_t prune(item *items, size_t n)
{
    qsort(items, n, sizeof *items, by_bytes);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || items[i].cost < items[kept - 1].cost) items[kept++] = items[i];
    return kept;
}

/* Items in ascending bytes: a front, as it stands or with an option added to each point. */
typedef struct run {
    const front *f;
    size_t       at; /* the first that is not merged yet */
    int64_t      bytes;
    double       cost;
} run;

/* The non-dominated of all items, in the order of by_bytes; their number. An item names its run and its place there, as a and b, or as b and a with
 * place_first. Runs are few and long, so the least of their heads is looked for one by one. */
static size_t merge_runs(run *runs, uint32_t n_runs, bool place_first, item *items)
{
    size_t kept = 0;
    for (;;) {
        item     least = { .bytes = INT64_MAX };
        uint32_t from = n_runs;
        for (uint32_t k = 0; k < n_runs; k++) {
            const run *r = &runs[k];
            if (r->at >= r->f->n || r->f->bytes[r->at] + r->bytes > least.bytes) continue;
            const item head = { r->f->bytes[r->at] + r->bytes, r->f->cost[r->at] + r->cost, (uint32_t)(place_first ? r->at : k),
                                (uint32_t)(place_first ? k : r->at) };
            if (from < n_runs && by_bytes(&head, &least) > 0) continue;
            least = head;
            from = k;
        }
        if (from == n_runs) return kept;
        runs[from].at++;
        if (kept == 0 || least.cost < items[kept - 1].cost) items[kept++] = least;
    }
}

/* Marks the lower convex hull of non-dominated items; hull receives ascending indices. */
static uint32_t lower_hull(const int64_t *bytes, const double *cost, size_t n, uint32_t *hull)
{
    uint32_t h = 0;
    for (uint32_t i = 0; i < n; i++) {
        while (h >= 2) {
            const uint32_t p = hull[h - 2], q = hull[h - 1];
            const double   left = (cost[q] - cost[p]) * (double)(bytes[i] - bytes[q]);
            const double   right = (cost[i] - cost[q]) * (double)(bytes[q] - bytes[p]);
            if (left < right) break; /* q lies strictly below the line p..i */
            h--;
        }
        hull[h++] = i;
    }
    return h;
}

static void front_done(front *f)
{
    bb_free(f->bytes);
    bb_free(f->cost);
    bb_free(f->opt);
    *f = (front) { 0 };
}

static bb_status front_alloc(front *f, size_t n, uint32_t width, bb_err *err)
{
    *f = (front) { .n = n, .width = width };
    size_t cells = 0;
    if (!bb_mul_size(n, width, &cells)) return BB_FAIL(err, BB_NOMEM, "a front of %zu points is too large", n);
    f->bytes = BB_NEW(n, int64_t, err);
    f->cost = BB_NEW(n, double, err);
    f->opt = BB_NEW0(cells, uint16_t, err);
    if (f->bytes && f->cost && f->opt) return BB_OK;
    front_done(f);
    return BB_NOMEM;
}

/* Keeps the hull and, between its vertices, every k-th point, so that at most about max points remain. */
static bb_status thin(item *items, size_t *n, uint32_t max, bb_err *err)
{
    bb_status status = BB_NOMEM;
    int64_t  *bytes = BB_NEW(*n, int64_t, err);
    double   *cost = BB_NEW(*n, double, err);
    uint32_t *hull = BB_NEW(*n, uint32_t, err);
    if (!bytes || !cost || !hull) goto done;
    for (size_t i = 0; i < *n; i++) {
        bytes[i] = items[i].bytes;
        cost[i] = items[i].cost;
    }
    const uint32_t h = lower_hull(bytes, cost, *n, hull);
    const size_t   step = *n / max + 1;
    size_t         kept = 0;
    for (size_t i = 0, k = 0; i < *n; i++) {
        const bool on_hull = k < h && hull[k] == i;
        if (on_hull) k++;
        if (on_hull || i % step == 0) items[kept++] = items[i];
    }
    *n = kept;
    status = BB_OK;
done:
    bb_free(bytes);
    bb_free(cost);
    bb_free(hull);
    return status;
}

/* f += options of `unit` in its row; member position `slot`. An empty result means that no combination is loadable. */
static bb_status add_unit(bb_separable *s, front *f, uint32_t unit, uint32_t row, uint32_t slot, bb_err *err)
{
    bb_status      status = BB_OK;
    const bb_unit *u = &s->problem->units[unit];
    const int64_t *bytes = u->bytes + (size_t)row * u->n_options;
    const double  *cost = u->cost + (size_t)row * u->n_options;
    item          *items = BB_NEW(f->n * u->n_options, item, err);
    run           *runs = BB_NEW(u->n_options, run, err);
    front          next = { 0 };
    size_t         n = 0;
    if (!items || !runs) {
        status = BB_NOMEM;
        goto done;
    }
    for (uint32_t o = 0; o < u->n_options; o++) runs[o] = (run) { f, bb_is_forbidden(bytes[o]) ? f->n : 0, bytes[o], cost[o] };
    n = merge_runs(runs, u->n_options, true, items);
    if (n > s->o.max_points) {
        s->thinned = true;
        BB_TRY(thin(items, &n, s->o.max_points, err));
    }
    BB_TRY(front_alloc(&next, n, f->width, err));
    for (size_t i = 0; i < n; i++) {
        next.bytes[i] = items[i].bytes;
        next.cost[i] = items[i].cost;
        memcpy(next.opt + i * f->width, f->opt + (size_t)items[i].a * f->width, f->width * sizeof *f->opt);
        next.opt[i * f->width + slot] = (uint16_t)items[i].b;
    }
    front_done(f);
    *f = next;
done:
    bb_free(runs);
    bb_free(items);
    return status;
}

/* The front of a group with the controller (or the lone unit) at option o; n = 0 when that is not loadable. */
static bb_status front_of_option(bb_separable *s, const group *g, uint32_t o, front *out, bb_err *err)
{
    bb_status      status = BB_OK;
    const bb_unit *u = &s->problem->units[g->members[0]];
    BB_TRY(front_alloc(out, bb_is_forbidden(u->bytes[o]) ? 0 : 1, g->n_members, err));
    if (out->n == 0) return BB_OK;
    out->bytes[0] = u->bytes[o];
    out->cost[0] = u->cost[o];
    out->opt[0] = (uint16_t)o;
    for (uint32_t m = 1; m < g->n_members && out->n > 0; m++) BB_TRY(add_unit(s, out, g->members[m], o, m, err));
done:
    return status;
}

/* Merges the fronts of all options into g->f. */
static bb_status merge_fronts(bb_separable *s, group *g, const front *parts, uint32_t n_parts, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    total = 0, n = 0;
    for (uint32_t o = 0; o < n_parts; o++) total += parts[o].n;
    item *items = BB_NEW(total, item, err);
    run  *runs = BB_NEW(n_parts, run, err);
    if (!items || !runs) {
        status = BB_NOMEM;
        goto done;
    }
    for (uint32_t o = 0; o < n_parts; o++) runs[o] = (run) { &parts[o], 0, 0, 0 };
    n = merge_runs(runs, n_parts, false, items);
    if (n == 0) {
        status = BB_FAIL(err, BB_INFEASIBLE, "unit %s and what it controls have no loadable combination", s->problem->plans->units[g->members[0]].name);
        goto done;
    }
    if (n > s->o.max_points) {
        s->thinned = true;
        BB_TRY(thin(items, &n, s->o.max_points, err));
    }
    BB_TRY(front_alloc(&g->f, n, g->n_members, err));
    for (size_t i = 0; i < n; i++) {
        g->f.bytes[i] = items[i].bytes;
        g->f.cost[i] = items[i].cost;
        memcpy(g->f.opt + i * g->n_members, parts[items[i].a].opt + (size_t)items[i].b * g->n_members, g->n_members * sizeof *g->f.opt);
    }
done:
    bb_free(runs);
    bb_free(items);
    return status;
}

static bb_status build_group(bb_separable *s, group *g, uint32_t unit, bb_err *err)
{
    bb_status      status = BB_NOMEM;
    const uint32_t first = s->space.first_child[unit], n_options = s->problem->units[unit].n_options;
    g->n_members = 1 + s->space.first_child[unit + 1] - first;
    g->members = BB_NEW(g->n_members, uint32_t, err);
    front *parts = BB_NEW0(n_options, front, err);
    if (!g->members || !parts) goto done;
    g->members[0] = unit;
    for (uint32_t m = 1; m < g->n_members; m++) g->members[m] = s->space.children[first + m - 1];
    for (uint32_t o = 0; o < n_options; o++) BB_TRY(front_of_option(s, g, o, &parts[o], err));
    BB_TRY(merge_fronts(s, g, parts, n_options, err));
    g->hull = BB_NEW(g->f.n, uint32_t, err);
    status = g->hull ? BB_OK : BB_NOMEM;
    if (g->hull) g->n_hull = lower_hull(g->f.bytes, g->f.cost, g->f.n, g->hull);
done:
    for (uint32_t o = 0; parts && o < n_options; o++) front_done(&parts[o]);
    bb_free(parts);
    return status;
}

/* ---- hull of the whole problem --------------------------------------------------------------------------------------------- */

static int by_rate(const void *pa, const void *pb)
{
    const segment *a = pa, *b = pb;
    if (a->rate != b->rate) return a->rate > b->rate ? -1 : 1;
    if (a->group != b->group) return a->group < b->group ? -1 : 1;
    return (a->to > b->to) - (a->to < b->to);
}

static bb_status build_segments(bb_separable *s, bb_err *err)
{
    size_t n = 0;
    for (uint32_t g = 0; g < s->n_groups; g++) n += s->groups[g].n_hull - 1;
    s->segments = BB_NEW(n, segment, err);
    s->prefix_bytes = BB_NEW(n + 1, int64_t, err);
    s->prefix_cost = BB_NEW(n + 1, double, err);
    if (!s->segments || !s->prefix_bytes || !s->prefix_cost) return BB_NOMEM;
    int64_t bytes = s->problem->fixed_bytes;
    double  cost = 0;
    for (uint32_t i = 0; i < s->n_groups; i++) {
        const group *g = &s->groups[i];
        bytes += g->f.bytes[g->hull[0]];
        cost += g->f.cost[g->hull[0]];
        double rate = HUGE_VAL; /* never rises along a hull, whatever rounding does, so that the sort keeps its order */
        for (uint32_t h = 1; h < g->n_hull; h++) {
            const int64_t db = g->f.bytes[g->hull[h]] - g->f.bytes[g->hull[h - 1]];
            const double  dc = g->f.cost[g->hull[h]] - g->f.cost[g->hull[h - 1]];
            rate = fmin(rate, -dc / (double)db);
            s->segments[s->n_segments++] = (segment) { rate, db, dc, i, h };
        }
    }
    qsort(s->segments, n, sizeof *s->segments, by_rate);
    s->min_bytes = s->prefix_bytes[0] = bytes;
    s->prefix_cost[0] = cost;
    for (size_t k = 0; k < n; k++) {
        s->prefix_bytes[k + 1] = s->prefix_bytes[k] + s->segments[k].bytes;
        s->prefix_cost[k + 1] = s->prefix_cost[k] + s->segments[k].cost;
    }
    return BB_OK;
}

/* Number of segments that fit the budget. Needs budget >= min_bytes. */
static size_t break_segment(const bb_separable *s, int64_t budget)
{
    size_t lo = 0, hi = s->n_segments;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo + 1) / 2;
        if (s->prefix_bytes[mid] <= budget) lo = mid;
        else hi = mid - 1;
    }
    return lo;
}

static double lp_value(const bb_separable *s, int64_t budget, size_t k)
{
    if (k == s->n_segments) return s->prefix_cost[k];
    return s->prefix_cost[k] - s->segments[k].rate * (double)(budget - s->prefix_bytes[k]);
}

double bb_separable_bound(const bb_separable *s, int64_t budget_bytes)
{
    if (budget_bytes < s->min_bytes) return HUGE_VAL;
    return lp_value(s, budget_bytes, break_segment(s, budget_bytes));
}

/* Hull positions of all groups after the first k segments. */
static void hull_choice(const bb_separable *s, size_t k, uint32_t *choice)
{
    for (uint32_t g = 0; g < s->n_groups; g++) choice[g] = s->groups[g].hull[0];
    for (size_t i = 0; i < k; i++) choice[s->segments[i].group] = s->groups[s->segments[i].group].hull[s->segments[i].to];
}

static void write_candidate(const bb_separable *s, const uint32_t *choice, uint16_t *x)
{
    for (uint32_t i = 0; i < s->n_groups; i++) {
        const group *g = &s->groups[i];
        for (uint32_t m = 0; m < g->n_members; m++) x[g->members[m]] = g->f.opt[(size_t)choice[i] * g->n_members + m];
    }
}

static void measure(const bb_separable *s, const uint32_t *choice, int64_t *bytes, double *cost)
{
    *bytes = s->problem->fixed_bytes;
    *cost = 0;
    for (uint32_t i = 0; i < s->n_groups; i++) {
        *bytes += s->groups[i].f.bytes[choice[i]];
        *cost += s->groups[i].f.cost[choice[i]];
    }
}

/* Spends what the hull solution leaves: the best single group change that fits, until none is left. */
static void fill_greedily(const bb_separable *s, int64_t budget, uint32_t *choice)
{
    int64_t bytes;
    double  cost;
    measure(s, choice, &bytes, &cost);
    for (;;) {
        double   best = 0;
        uint32_t best_group = 0, best_point = 0;
        for (uint32_t i = 0; i < s->n_groups; i++) {
            const front  *f = &s->groups[i].f;
            const int64_t room = budget - bytes + f->bytes[choice[i]];
            size_t        lo = choice[i], hi = f->n - 1; /* the last point that fits is the cheapest */
            while (lo < hi) {
                const size_t mid = lo + (hi - lo + 1) / 2;
                if (f->bytes[mid] <= room) lo = mid;
                else hi = mid - 1;
            }
            const double gain = f->cost[choice[i]] - f->cost[lo];
            if (gain > best) {
                best = gain;
                best_group = i;
                best_point = (uint32_t)lo;
            }
        }
        if (best <= 0) return;
        bytes += s->groups[best_group].f.bytes[best_point] - s->groups[best_group].f.bytes[choice[best_group]];
        choice[best_group] = best_point;
    }
}

/* ---- dynamic programming on the core ---------------------------------------------------------------------------------------- */

#define N_MULTIPLIERS 5
#define BUCKET_BITS 14 /* of a stage's range of bytes */

typedef struct state {
    int64_t bytes;
    double  cost;
} state;
typedef struct origin {
    uint32_t parent, point;
} origin;

typedef struct dp {
    const bb_separable *s;
    int64_t             budget;
    double              lambda[N_MULTIPLIERS];
    double             *rest[N_MULTIPLIERS]; /* [n_groups + 1] min of cost + lambda * bytes over the groups from g on */
    int64_t            *rest_min;            /* [n_groups + 1] least bytes of the groups from g on */
    double              incumbent, prune_at; /* states whose bound is >= prune_at are dropped */
    double              dropped;             /* least bound of a state that was dropped for want of room */
    state              *states, *next;
    size_t              n_states;
    item               *items;
    size_t              capacity;
    double             *least;   /* [2^BUCKET_BITS] see drop_beaten */
    origin            **origins; /* [n_groups][states after it] */
} dp;

static void dp_done(dp *d)
{
    for (int m = 0; m < N_MULTIPLIERS; m++) bb_free(d->rest[m]);
    bb_free(d->rest_min);
    bb_free(d->states);
    bb_free(d->next);
    bb_free(d->items);
    bb_free(d->least);
    for (uint32_t g = 0; d->origins && g < d->s->n_groups; g++) bb_free(d->origins[g]);
    bb_free(d->origins);
}

static bb_status dp_init(dp *d, bb_err *err)
{
    const uint32_t n = d->s->n_groups;
    d->states = BB_NEW(d->s->o.max_states, state, err);
    d->next = BB_NEW(d->s->o.max_states, state, err);
    d->origins = BB_NEW0(n, origin *, err);
    d->rest_min = BB_NEW0(n + 1, int64_t, err);
    d->least = BB_NEW((size_t)1 << BUCKET_BITS, double, err);
    if (!d->states || !d->next || !d->origins || !d->rest_min || !d->least) return BB_NOMEM;
    for (uint32_t g = n; g-- > 0;) d->rest_min[g] = d->rest_min[g + 1] + d->s->groups[g].f.bytes[0];
    for (int m = 0; m < N_MULTIPLIERS; m++) {
        d->rest[m] = BB_NEW0(n + 1, double, err);
        if (!d->rest[m]) return BB_NOMEM;
        for (uint32_t g = n; g-- > 0;) {
            const front *f = &d->s->groups[g].f;
            double       least = HUGE_VAL;
            for (size_t i = 0; i < f->n; i++) least = fmin(least, f->cost[i] + d->lambda[m] * (double)f->bytes[i]);
            d->rest[m][g] = d->rest[m][g + 1] + least;
        }
    }
    d->states[0] = (state) { d->s->problem->fixed_bytes, 0 };
    d->n_states = 1;
    return BB_OK;
}

/* Lagrangian bound of a state before group g, the largest over the multipliers. */
static double bound_of(const dp *d, uint32_t g, int64_t bytes, double cost)
{
    double best = 0;
    for (int m = 0; m < N_MULTIPLIERS; m++) {
        const double b = cost + d->rest[m][g] - d->lambda[m] * (double)(d->budget - bytes);
        if (m == 0 || b > best) best = b;
    }
    return best;
}

static bb_status collect(dp *d, uint32_t g, size_t *n_out, bb_err *err)
{
    const front *f = &d->s->groups[g].f;
    size_t       n = 0;
    for (uint32_t k = 0; k < d->n_states; k++) {
        if (n + f->n > d->capacity) {
            const size_t capacity = 2 * (n + f->n) + 1024;
            item        *grown = bb_realloc(d->items, capacity, sizeof *grown, err);
            if (!grown) return BB_NOMEM;
            d->items = grown;
            d->capacity = capacity;
        }
        const int64_t room = d->budget - d->rest_min[g + 1] - d->states[k].bytes;
        for (uint32_t i = 0; i < f->n && f->bytes[i] <= room; i++) {
            const int64_t bytes = d->states[k].bytes + f->bytes[i];
            const double  cost = d->states[k].cost + f->cost[i];
            if (bound_of(d, g + 1, bytes, cost) < d->prune_at) d->items[n++] = (item) { bytes, cost, k, i };
        }
    }
    *n_out = n;
    return BB_OK;
}

/* Drops of the collected items those that cost as much as one in a bucket of fewer bytes: prune would drop them all, and they are nearly all there are,
 * so that sorting them was most of a solve. Returns how many stay. */
static size_t drop_beaten(dp *d, size_t n)
{
    enum { N_BUCKETS = 1 << BUCKET_BITS };
    int64_t low = INT64_MAX, high = INT64_MIN;
    int     shift = 0;
    size_t  kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (d->items[i].bytes < low) low = d->items[i].bytes;
        if (d->items[i].bytes > high) high = d->items[i].bytes;
    }
    while (n > 0 && (high - low) >> shift >= N_BUCKETS) shift++;
    for (size_t b = 0; b < N_BUCKETS; b++) d->least[b] = HUGE_VAL;
    for (size_t i = 0; i < n; i++) {
        double *least = &d->least[(d->items[i].bytes - low) >> shift];
        if (d->items[i].cost < *least) *least = d->items[i].cost;
    }
    double before = HUGE_VAL; /* of all buckets of fewer bytes */
    for (size_t b = 0; b < N_BUCKETS; b++) {
        const double own = d->least[b];
        d->least[b] = before;
        if (own < before) before = own;
    }
    for (size_t i = 0; i < n; i++)
        if (d->items[i].cost < d->least[(d->items[i].bytes - low) >> shift]) d->items[kept++] = d->items[i];
    return kept;
}

static int by_value(const void *pa, const void *pb)
{
    const double a = *(const double *)pa, b = *(const double *)pb;
    return (a > b) - (a < b);
}

/* Keeps the max_states items of least bound, in order of bytes, and remembers the least bound that goes. */
static bb_status cut(dp *d, uint32_t g, size_t *n, bb_err *err)
{
    const uint32_t max = d->s->o.max_states;
    if (*n <= max) return BB_OK;
    double *bounds = BB_NEW(*n, double, err);
    if (!bounds) return BB_NOMEM;
    for (size_t i = 0; i < *n; i++) bounds[i] = bound_of(d, g + 1, d->items[i].bytes, d->items[i].cost);
    qsort(bounds, *n, sizeof *bounds, by_value);
    const double limit = bounds[max];
    bb_free(bounds);
    d->dropped = fmin(d->dropped, limit);
    size_t kept = 0, below = 0;
    for (size_t i = 0; i < *n; i++) below += bound_of(d, g + 1, d->items[i].bytes, d->items[i].cost) < limit;
    size_t ties = max - below;
    for (size_t i = 0; i < *n; i++) {
        const double b = bound_of(d, g + 1, d->items[i].bytes, d->items[i].cost);
        if (b < limit || (b == limit && ties > 0 && ties--)) d->items[kept++] = d->items[i];
    }
    *n = kept;
    return BB_OK;
}

/* Runs all stages; *best is the index of the cheapest final state, or SIZE_MAX when all were pruned. */
static bb_status dp_run(dp *d, size_t *best, bb_err *err)
{
    bb_status status = BB_OK;
    for (uint32_t g = 0; g < d->s->n_groups; g++) {
        size_t n = 0;
        BB_TRY(collect(d, g, &n, err));
        n = prune(d->items, drop_beaten(d, n));
        BB_TRY(cut(d, g, &n, err));
        d->origins[g] = BB_NEW(n, origin, err);
        if (!d->origins[g]) {
            status = BB_NOMEM;
            goto done;
        }
        for (size_t i = 0; i < n; i++) {
            d->next[i] = (state) { d->items[i].bytes, d->items[i].cost };
            d->origins[g][i] = (origin) { d->items[i].a, d->items[i].b };
        }
        state *swap = d->states;
        d->states = d->next;
        d->next = swap;
        d->n_states = n;
        if (n == 0) break;
    }
    *best = d->n_states ? d->n_states - 1 : SIZE_MAX; /* non-dominated: the last has the least cost */
done:
    return status;
}

/* Multipliers around the break rate: suffix bounds are tight for states that have spent more or less than their share. */
static void choose_multipliers(dp *d, size_t k)
{
    const bb_separable *s = d->s;
    const double        rate = k < s->n_segments ? s->segments[k].rate : 0;
    static const double factor[N_MULTIPLIERS] = { 1, 0.5, 0.8, 1.25, 2 };
    for (int m = 0; m < N_MULTIPLIERS; m++) d->lambda[m] = rate * factor[m];
}

/* Improves choice (a feasible one, cost *cost) to within the tolerance; *lower is raised to what is proven. */
static bb_status close_gap(const bb_separable *s, int64_t budget, uint32_t *choice, double *cost, double *lower, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    best = SIZE_MAX;
    dp        d = { .s = s, .budget = budget, .incumbent = *cost, .dropped = HUGE_VAL };
    d.prune_at = *cost - s->o.tolerance * *cost;
    choose_multipliers(&d, break_segment(s, budget));
    BB_TRY(dp_init(&d, err));
    BB_TRY(dp_run(&d, &best, err));
    double proven = fmin(d.prune_at, d.dropped);
    if (best != SIZE_MAX && d.states[best].cost < *cost) {
        *cost = d.states[best].cost;
        for (uint32_t g = s->n_groups; g-- > 0;) {
            choice[g] = d.origins[g][best].point;
            best = d.origins[g][best].parent;
        }
    }
    proven = fmin(proven, *cost);
    if (!s->thinned) *lower = fmax(*lower, proven);
done:
    dp_done(&d);
    return status;
}

/* ---- interface -------------------------------------------------------------------------------------------------------------- */

static bb_status solve_bounded(const bb_separable *s, int64_t budget, uint16_t *x, bb_separable_result *r, bb_err *err)
{
    bb_status    status = BB_OK;
    const size_t k = break_segment(s, budget);
    uint32_t    *choice = BB_NEW(s->n_groups, uint32_t, err);
    if (!choice) return BB_NOMEM;
    int64_t bytes;
    hull_choice(s, k, choice);
    fill_greedily(s, budget, choice);
    measure(s, choice, &bytes, &r->cost);
    r->lower_bound = fmin(lp_value(s, budget, k), r->cost);
    r->lambda = k < s->n_segments ? s->segments[k].rate : 0;
    if (r->cost - r->lower_bound > s->o.tolerance * r->cost) {
        BB_TRY(close_gap(s, budget, choice, &r->cost, &r->lower_bound, err));
        measure(s, choice, &bytes, &r->cost);
        r->lower_bound = fmin(r->lower_bound, r->cost);
    }
    write_candidate(s, choice, x);
    r->bound_bytes = bytes;
done:
    bb_free(choice);
    return status;
}

static void finish_result(const bb_separable *s, const uint16_t *x, double lower, bb_separable_result *r)
{
    r->cost = bb_problem_cost(s->problem, x);
    r->bound_bytes = bb_problem_bound(s->problem, x);
    r->size_bytes = bb_problem_size(s->problem, x);
    r->lower_bound = fmin(lower, r->cost);
    r->gap = r->cost > 0 ? (r->cost - r->lower_bound) / r->cost : 0;
}

/* Takes `other`, settled and topped up, for x where it fits and costs less (or x is no solution yet). Whether it fits. */
static bool take_settled(const bb_separable *s, int64_t budget, uint16_t *x, uint16_t *other, bool *found)
{
    const bb_problem *p = s->problem;
    if (!bb_space_settle(&s->space, other) || bb_problem_size(p, other) > budget) return false;
    bb_space_topup(&s->space, other, budget);
    if (!*found || bb_problem_cost(p, other) < bb_problem_cost(p, x)) memcpy(x, other, p->n_units * sizeof *x);
    return *found = true;
}

/* x, the optimum of the tables, becomes the best that is found among its settled form, settled optima of larger budgets (settling frees bytes,
 * which single moves cannot always spend), and the optimum without pruning. *found: whether one can be loaded and fits. */
static bb_status choose_loadable(const bb_separable *s, int64_t bounded, int64_t budget, uint16_t *x, uint16_t *other, bool *found, bb_err *err)
{
    enum { TRIALS = 8 };
    const bb_problem *p = s->problem;
    const int64_t     before = bb_problem_bound(p, x);
    bb_status         status = BB_OK;
    memcpy(other, x, p->n_units * sizeof *x);
    if (bb_space_settle(&s->space, other)) {
        int64_t low = bounded, high = bounded + 2 * (before - bb_problem_size(p, other));
        take_settled(s, budget, x, other, found);
        for (int k = 0; k < TRIALS && low + 1 < high; k++) {
            const int64_t       middle = low + (high - low) / 2;
            bb_separable_result r;
            BB_TRY(solve_bounded(s, middle, other, &r, err));
            if (take_settled(s, budget, x, other, found)) low = middle;
            else high = middle;
        }
    }
    if (s->plain) {
        bb_err          why = BB_ERR_INIT; /* a size that it cannot reach leaves no sentence */
        const bb_status solved = bb_separable_solve(s->plain, budget, other, NULL, &why);
        if (solved == BB_OK) take_settled(s, budget, x, other, found);
        else if (solved != BB_INFEASIBLE) status = BB_FAIL(err, solved, "%s", why.msg);
    }
done:
    return status;
}

bb_status bb_separable_solve(const bb_separable *s, int64_t budget_bytes, uint16_t *x, bb_separable_result *result, bb_err *err)
{
    bb_status           status = BB_OK;
    bb_separable_result r = { 0 }, wide = { 0 };
    uint16_t           *other = BB_NEW(s->problem->n_units, uint16_t, err);
    if (!other) return BB_NOMEM;
    if (budget_bytes < s->reach[0]) {
        status = BB_FAIL(err, BB_INFEASIBLE, "no plan has at most %lld bytes: sizes from %lld to %lld can be reached", (long long)budget_bytes,
                         (long long)s->reach[0], (long long)s->reach[1]);
        goto done;
    }
    /* The smallest plan may fit by its exact size only. */
    int64_t bounded = budget_bytes > s->min_bytes ? budget_bytes : s->min_bytes;
    BB_TRY(solve_bounded(s, bounded, x, &r, err));
    double cost = r.cost; /* of x, as long as it is an optimum of the tables; r keeps the bound, which holds for the whole budget */
    for (int tries = 0; tries < 8 && bounded > s->min_bytes; tries++) { /* tables that count a few bytes short (a file's padding) */
        const int64_t over = bb_problem_size(s->problem, x) - budget_bytes;
        if (over <= 0 || bb_is_forbidden(over + budget_bytes)) break;
        bounded = bounded - over > s->min_bytes ? bounded - over : s->min_bytes;
        BB_TRY(solve_bounded(s, bounded, x, &wide, err));
        cost = wide.cost;
    }
    const int64_t spare = bb_problem_bound(s->problem, x) - bb_problem_size(s->problem, x); /* negative: not loadable */
    if (spare > 0) { /* what padding and metadata do not use can be given to the bounded problem */
        BB_TRY(solve_bounded(s, bounded + spare, other, &wide, err));
        if (wide.cost < cost && bb_problem_size(s->problem, other) <= budget_bytes) memcpy(x, other, s->problem->n_units * sizeof *x);
        r.lower_bound = fmin(r.lower_bound, wide.lower_bound);
    }
    if (s->problem->settle) {
        bool found = false; /* nothing: x stays what it is, and is refused below */
        BB_TRY(choose_loadable(s, bounded, budget_bytes, x, other, &found, err));
    }
    bb_space_topup(&s->space, x, budget_bytes);
    finish_result(s, x, r.lower_bound, &r);
    if (r.size_bytes > budget_bytes)
        status = BB_FAIL(err, BB_INFEASIBLE, "no plan of at most %lld bytes that the runtime can load was found", (long long)budget_bytes);
    if (result) *result = r;
done:
    bb_free(other);
    return status;
}

void bb_separable_reach(const bb_separable *s, int64_t *min_bytes, int64_t *max_bytes)
{
    *min_bytes = s->reach[0];
    *max_bytes = s->reach[1];
}

static bb_status measure_reach(bb_separable *s, bb_err *err)
{
    bb_status status = BB_NOMEM;
    uint32_t *choice = BB_NEW(s->n_groups, uint32_t, err);
    uint16_t *x = BB_NEW(s->problem->n_units, uint16_t, err);
    if (!choice || !x) goto done;
    for (int end = 0; end < 2; end++) {
        hull_choice(s, end ? s->n_segments : 0, choice);
        write_candidate(s, choice, x);
        bb_space_settle(&s->space, x);
        s->reach[end] = bb_problem_size(s->problem, x);
        if (s->plain && (bb_is_forbidden(s->reach[end]) || (end == 0 && s->plain->reach[0] < s->reach[0]))) s->reach[end] = s->plain->reach[end];
    }
    status = BB_OK;
done:
    bb_free(choice);
    bb_free(x);
    return status;
}

/* The solver for quantization alone; none where the tables leave nothing at the widest options. */
static bb_status create_plain(bb_separable *s, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_variant_init(s->problem, &s->widest, err));
    s->widest.problem.settle = NULL;
    for (uint32_t u = 0; u < s->problem->n_units; u++)
        if (bb_space_is_controller(&s->space, u)) bb_variant_pin(&s->widest, u, bb_space_widest(&s->space, u));
    status = bb_separable_create(&s->widest.problem, &s->o, &s->plain, err);
    if (status == BB_INFEASIBLE) status = BB_OK;
done:
    return status;
}

bb_status bb_separable_create(const bb_problem *p, const bb_separable_options *options, bb_separable **out, bb_err *err)
{
    bb_status     status = BB_OK;
    bb_separable *s = BB_NEW0(1, bb_separable, err);
    *out = NULL;
    if (!s) return BB_NOMEM;
    s->problem = p;
    s->o = options ? *options : (bb_separable_options) { .tolerance = 1e-4 };
    if (s->o.max_states == 0) s->o.max_states = 4096;
    if (s->o.max_points == 0) s->o.max_points = 8192;
    BB_TRY(bb_space_init(p, &s->space, err));
    s->groups = BB_NEW0(p->n_units, group, err);
    if (!s->groups) {
        status = BB_NOMEM;
        goto done;
    }
    for (uint32_t u = 0; u < p->n_units; u++)
        if (p->units[u].controller < 0) BB_TRY(build_group(s, &s->groups[s->n_groups++], u, err));
    BB_TRY(build_segments(s, err));
    if (p->settle) BB_TRY(create_plain(s, err));
    BB_TRY(measure_reach(s, err));
    *out = s;
    s = NULL;
done:
    bb_separable_destroy(s);
    return status;
}

void bb_separable_destroy(bb_separable *s)
{
    if (!s) return;
    for (uint32_t g = 0; g < s->n_groups; g++) {
        bb_free(s->groups[g].members);
        bb_free(s->groups[g].hull);
        front_done(&s->groups[g].f);
    }
    bb_free(s->groups);
    bb_free(s->segments);
    bb_free(s->prefix_bytes);
    bb_free(s->prefix_cost);
    bb_separable_destroy(s->plain);
    bb_variant_done(&s->widest);
    bb_space_done(&s->space);
    bb_free(s);
}
