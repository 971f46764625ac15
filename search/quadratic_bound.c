/* SPDX-License-Identifier: GPL-3.0-or-later
 * quadratic_bound.c: Frank-Wolfe lower bounds of the quadratic score. See quadratic.h.
 *
 * Relaxation: y (M) holds the marginal weight of every (unit, option); the linear part L is carried as a number, because it and the bytes are
 * linear in the mixture of plans that y stands for. Minimise f(y, L) = 1/2 y'Py + c'y + L over the hull of the plans within the budget, where
 * P = G - t blocks(G) + e diag(G), c = 1/2 (t - e) diag(G), which equals 1/2 x'Gx at every plan. The linear subproblem min (Py + c)'s + L(s)
 * is solved by its Lagrangian dual, whose two end plans mix to the optimum.
 */
#include <float.h>
#include <gsl/gsl_linalg.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "search/quadratic.h"

#define RIDGE 1e-6 /* e: covers the rounding of a float32 Gram matrix */

typedef struct vertex {
    uint16_t *x;
    int64_t   bytes;
    double    value, linear;
} vertex; /* value: of the subproblem's objective */

typedef struct relaxation {
    const bb_quadratic *q;
    const bb_space     *space;
    size_t              M;
    double             *P, *c;            /* [M*M], [M] */
    double             *y, *Py, *s, *Ps;  /* [M] */
    double             *cost;             /* [M] objective of the subproblem */
    vertex              low, high, trial; /* plans at the two ends of the dual: high fits the budget */
} relaxation;

static void fill_matrix(relaxation *r, double t)
{
    const size_t M = r->M, stride = r->q->stride ? r->q->stride : M;
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < M; j++) r->P[i * M + j] = (double)r->q->gram[i * stride + j];
    for (uint32_t u = 0; u < r->space->problem->n_units; u++)
        for (size_t i = r->space->offset[u]; i < r->space->offset[u + 1]; i++)
            for (size_t j = r->space->offset[u]; j < r->space->offset[u + 1]; j++) r->P[i * M + j] *= 1 - t;
    double trace = 0;
    for (size_t i = 0; i < M; i++) trace += (double)r->q->gram[i * stride + i];
    for (size_t i = 0; i < M; i++) {
        const double g = (double)r->q->gram[i * stride + i], e = RIDGE * (g + trace / (double)M) + (double)FLT_EPSILON * trace; /* G is rounded to float32 */
        r->P[i * M + i] += e;
        r->c[i] = 0.5 * (t * g - e);
    }
}

static bool is_positive(relaxation *r, double t, double *work)
{
    fill_matrix(r, t);
    memcpy(work, r->P, r->M * r->M * sizeof *work);
    gsl_matrix_view A = gsl_matrix_view_array(work, r->M, r->M);
    return gsl_linalg_cholesky_decomp1(&A.matrix) == 0;
}

/* The largest share of the blocks (to 1/64) that can go; BB_NUMERIC when G itself is not positive semidefinite. */
static bb_status choose_shift(relaxation *r, double *t, bb_progress *progress, bb_err *err)
{
    double *work = BB_NEW(r->M * r->M, double, err);
    if (!work) return BB_NOMEM;
    int        lo = 0, hi = 65;
    const bool usable = is_positive(r, 0, work);
    while (usable && hi - lo > 1 && !bb_interrupted()) {
        const int mid = (lo + hi) / 2;
        if (is_positive(r, mid / 64.0, work)) lo = mid;
        else hi = mid;
        bb_progress_add(progress, 1);
    }
    bb_free(work);
    if (!usable) return BB_FAIL(err, BB_NUMERIC, "the Gram matrix (%zu rows) is not positive semidefinite", r->M);
    *t = lo / 64.0;
    fill_matrix(r, *t);
    return BB_OK;
}

static double linear_cell(const bb_quadratic *q, uint32_t u, size_t cell) { return q->linear && q->linear[u] ? q->linear[u][cell] : 0; }

/* Option of unit u of least cost + lambda * bytes in a row; ties go to fewer bytes. Returns the value, HUGE_VAL when nothing is loadable. */
static double best_option(const relaxation *r, uint32_t u, size_t row, double lambda, uint16_t *option)
{
    const bb_unit *unit = &r->space->problem->units[u];
    const size_t   start = row * unit->n_options;
    double         best = HUGE_VAL;
    for (uint16_t o = 0; o < unit->n_options; o++) {
        const int64_t bytes = unit->bytes[start + o];
        if (bb_is_forbidden(bytes)) continue;
        const double value = r->cost[r->space->offset[u] + o] + linear_cell(r->q, u, start + o) + lambda * (double)bytes;
        if (value < best || (value <= best && bytes < unit->bytes[start + *option])) {
            best = value;
            *option = o;
        }
    }
    return best;
}

/* Best option of a controller (or a lone unit) with the best options of what it controls. */
static void best_group(const relaxation *r, uint32_t u, double lambda, uint16_t *x)
{
    const bb_space *sp = r->space;
    const bb_unit  *unit = &sp->problem->units[u];
    double          best = HUGE_VAL;
    uint16_t        best_o = 0;
    for (uint16_t o = 0; o < unit->n_options; o++) {
        if (bb_is_forbidden(unit->bytes[o])) continue;
        double value = r->cost[sp->offset[u] + o] + linear_cell(r->q, u, o) + lambda * (double)unit->bytes[o];
        for (uint32_t i = sp->first_child[u]; i < sp->first_child[u + 1]; i++) {
            uint16_t ignored = 0;
            value += best_option(r, sp->children[i], o, lambda, &ignored);
        }
        if (value < best) {
            best = value;
            best_o = o;
        }
    }
    x[u] = best_o;
    for (uint32_t i = sp->first_child[u]; i < sp->first_child[u + 1]; i++) best_option(r, sp->children[i], best_o, lambda, &x[sp->children[i]]);
}

static void minimise(const relaxation *r, double lambda, vertex *v)
{
    const bb_problem *p = r->space->problem;
    for (uint32_t u = 0; u < p->n_units; u++)
        if (p->units[u].controller < 0) best_group(r, u, lambda, v->x);
    v->bytes = bb_problem_bound(p, v->x);
    v->linear = 0;
    v->value = 0;
    for (uint32_t u = 0; u < p->n_units; u++) {
        v->linear += linear_cell(r->q, u, bb_problem_row(p, v->x, u) + v->x[u]);
        v->value += r->cost[r->space->offset[u] + v->x[u]];
    }
    v->value += v->linear;
}

static void swap_vertices(vertex *a, vertex *b)
{
    const vertex t = *a;
    *a = *b;
    *b = t;
}

/* Solves the linear subproblem. dual: its proven optimum. share: weight of `low` (which exceeds the budget) in the mix, 0 when high alone is
 * optimal. false: infeasible. */
static bool subproblem(relaxation *r, int64_t budget, double *dual, double *share)
{
    *share = 0;
    minimise(r, 0, &r->low);
    if (r->low.bytes <= budget) {
        swap_vertices(&r->low, &r->high);
        *dual = r->high.value;
        return true;
    }
    double lambda_low = 0, lambda_high = 1e-12;
    for (int i = 0; i < 200; i++, lambda_high *= 4) {
        minimise(r, lambda_high, &r->high);
        if (r->high.bytes <= budget) break;
    }
    if (r->high.bytes > budget) return false;
    *dual = fmax(r->low.value, r->high.value + lambda_high * (double)(r->high.bytes - budget));
    for (int i = 0; i < 60; i++) {
        /* the multiplier at which both ends cost the same; every multiplier gives a valid bound, so stopping early is safe */
        const double lambda = (r->high.value - r->low.value) / (double)(r->low.bytes - r->high.bytes);
        if (!(lambda > lambda_low) || !(lambda < lambda_high)) break;
        minimise(r, lambda, &r->trial);
        const double at = r->trial.value + lambda * (double)(r->trial.bytes - budget);
        const double ends = r->high.value + lambda * (double)(r->high.bytes - budget);
        *dual = fmax(*dual, at);
        if (at >= ends - 1e-13 * fabs(ends)) break;
        if (r->trial.bytes <= budget) {
            swap_vertices(&r->trial, &r->high);
            lambda_high = lambda;
        } else {
            swap_vertices(&r->trial, &r->low);
            lambda_low = lambda;
        }
    }
    *share = (double)(budget - r->high.bytes) / (double)(r->low.bytes - r->high.bytes);
    return true;
}

/* s += weight * plan, Ps += weight * P plan. */
static void add_plan(relaxation *r, const vertex *v, double weight)
{
    for (uint32_t u = 0; u < r->space->problem->n_units; u++) {
        const size_t at = r->space->offset[u] + v->x[u];
        r->s[at] += weight;
        for (size_t j = 0; j < r->M; j++) r->Ps[j] += weight * r->P[at * r->M + j];
    }
}

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* One budget: steps until the gap is 1e-4 of the value. */
static double frank_wolfe(relaxation *r, int64_t budget, uint32_t iterations)
{
    const size_t M = r->M;
    double       L = 0, lower = r->q->linear ? -HUGE_VAL : 0; /* G is positive semidefinite */
    for (uint32_t k = 0; k <= iterations; k++) {
        double dual, share;
        for (size_t j = 0; j < M; j++) r->cost[j] = r->c[j] + (k ? r->Py[j] : 0);
        if (!subproblem(r, budget, &dual, &share)) return HUGE_VAL;
        memset(r->s, 0, M * sizeof *r->s);
        memset(r->Ps, 0, M * sizeof *r->Ps);
        add_plan(r, &r->high, 1 - share);
        if (share > 0) add_plan(r, &r->low, share);
        const double Ls = (1 - share) * r->high.linear + share * r->low.linear;
        double       step = 1;
        if (k > 0) {
            const double value = 0.5 * dot(r->y, r->Py, M) + dot(r->c, r->y, M) + L;
            const double here = dot(r->cost, r->y, M) + L; /* the linear objective at y */
            lower = fmax(lower, value + dual - here);
            if (value - lower <= 1e-4 * fabs(value)) break;
            const double slope = dot(r->cost, r->s, M) + Ls - here;
            const double curve = dot(r->s, r->Ps, M) - 2 * dot(r->y, r->Ps, M) + dot(r->y, r->Py, M);
            if (!(slope < 0)) break;
            step = curve > 0 ? fmin(1, -slope / curve) : 1;
        }
        for (size_t j = 0; j < M; j++) {
            r->y[j] = k ? r->y[j] + step * (r->s[j] - r->y[j]) : r->s[j];
            r->Py[j] = k ? r->Py[j] + step * (r->Ps[j] - r->Py[j]) : r->Ps[j];
        }
        L = k ? L + step * (Ls - L) : Ls;
    }
    return lower;
}

static bb_status relaxation_init(relaxation *r, const bb_quadratic *q, bb_err *err)
{
    const uint32_t n = q->space->problem->n_units;
    size_t         cells;
    *r = (relaxation) { .q = q, .space = q->space, .M = q->space->offset[n] };
    if (!bb_mul_size(r->M, r->M, &cells)) return BB_FAIL(err, BB_NOMEM, "a Gram matrix of %zu rows is too large", r->M);
    r->P = BB_NEW(cells, double, err);
    double **vectors[] = { &r->c, &r->y, &r->Py, &r->s, &r->Ps, &r->cost };
    bool     ok = r->P != NULL;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) ok = (*vectors[i] = BB_NEW0(r->M, double, err)) && ok;
    vertex *plans[] = { &r->low, &r->high, &r->trial };
    for (size_t i = 0; i < 3; i++) ok = (plans[i]->x = BB_NEW0(n, uint16_t, err)) && ok;
    return ok ? BB_OK : BB_NOMEM;
}

static void relaxation_done(relaxation *r)
{
    double *blocks[] = { r->P, r->c, r->y, r->Py, r->s, r->Ps, r->cost };
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) bb_free(blocks[i]);
    bb_free(r->low.x);
    bb_free(r->high.x);
    bb_free(r->trial.x);
}

bb_status bb_quadratic_bound(const bb_quadratic *q, const int64_t *budgets, size_t n, uint32_t iterations, double *lower, double *shift, bb_err *err)
{
    enum { SHIFTS = 6 }; /* matrices that choose_shift looks at */
    bb_status   status = BB_OK;
    relaxation  r;
    bb_progress progress;
    double      t = 0;
    BB_TRY(relaxation_init(&r, q, err));
    bb_progress_start(&progress, "quadratic bound", SHIFTS + n);
    BB_TRY(choose_shift(&r, &t, &progress, err));
    for (size_t i = 0; i < n; i++) {
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted while the plans were certified");
            goto done;
        }
        lower[i] = frank_wolfe(&r, budgets[i], iterations ? iterations : 200);
        bb_progress_add(&progress, 1);
    }
    bb_progress_end(&progress);
    if (shift) *shift = t;
done:
    relaxation_done(&r);
    return status;
}
