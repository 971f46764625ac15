/* SPDX-License-Identifier: GPL-3.0-or-later
 * mask.c: the order in which groups of input columns leave a matrix, and the least-squares weights of those that stay.
 *
 * Group OBS [1] on A = H + damping: removing the columns P costs tr(W_P [(A^-1)_PP]^-1 W_P') when the others are re-fitted;
 * W -= W_P [(A^-1)_PP]^-1 (A^-1)_P and A^-1 -= (A^-1)_:P [(A^-1)_PP]^-1 (A^-1)_P: then describe the survivors. Costs add up
 * exactly, so one elimination gives the error of every nested mask. The damping pulls the survivors to their old weights, not
 * to zero: it is part of the Hessian on both sides.
 * [1] Hassibi, Stork. Optimal brain surgeon. NeurIPS 1993; for column groups: Ling et al. SlimGPT. arXiv 2412.18110.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"
#include "model/compress/compress.h"

static const double mask_damping = 1e-3; /* of the mean diagonal; docs/quantization.md */
enum { ROW_PIECE = 64 };

/* What is left of the problem: the live columns only, packed. Groups stay contiguous and in ascending order. */
typedef struct eliminator {
    uint32_t  rows, group, n_live;  /* n_live groups */
    double   *w;                    /* (rows, n) n = n_live * group, re-fitted */
    double   *inverse;              /* (n, n) A^-1 of the live columns */
    uint32_t *id;                   /* [n_live] the group's number in the matrix */
    double   *cost;                 /* [n_live] of removing that group alone */
    double   *pp, *r, *rt, *y, *yt; /* scratch of one round: (p,p) (p,n) (n,p) (p,rows) (rows,p) */
} eliminator;

static double damping_of(const bb_hessian *h)
{
    double sum = 0;
    for (uint32_t j = 0; j < h->n_cols; j++) sum += (double)h->h[(size_t)j * h->n_cols + j];
    return sum > 0 ? mask_damping * sum / h->n_cols : 1;
}

static void load_damped(const bb_hessian *h, double *a)
{
    double damping = damping_of(h);
    size_t n = h->n_cols;
    for (size_t i = 0; i < n * n; i++) a[i] = (double)h->h[i];
    for (size_t j = 0; j < n; j++) a[j * n + j] += damping;
}

/* c (m,n) += alpha * x (m,k) b (k,n), in parallel pieces of rows. */
static void product(size_t m, size_t n, size_t k, double alpha, const double *x, size_t ldx, const double *b, size_t ldb, double *c)
{
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < m; i += ROW_PIECE) bb_dgemm_nn(m - i < ROW_PIECE ? m - i : ROW_PIECE, n, k, alpha, x + i * ldx, ldx, b, ldb, 1, c + i * n, n);
}

/* x (p,n) := L^-1 x. */
static void solve_lower(const double *l, size_t p, double *x, size_t n)
{
    for (size_t i = 0; i < p; i++) {
        for (size_t k = 0; k < i; k++)
            for (size_t j = 0; j < n; j++) x[i * n + j] -= l[i * p + k] * x[k * n + j];
        for (size_t j = 0; j < n; j++) x[i * n + j] /= l[i * p + i];
    }
}

static void transpose(const double *a, size_t m, size_t n, double *t)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) t[j * m + i] = a[i * n + j];
}

/* pp, r and y of the live groups `chosen`: pp = chol((A^-1)_PP), r = pp^-1 (A^-1)_P (with_r), y = pp^-1 W_P'. */
static bb_status factor_groups(eliminator *e, const uint32_t *chosen, uint32_t n_chosen, bool with_r, bb_err *err)
{
    size_t    g = e->group, n = (size_t)e->n_live * g, p = (size_t)n_chosen * g, rows = e->rows;
    bb_status status;
    for (size_t i = 0; i < p; i++) {
        size_t        ci = (size_t)chosen[i / g] * g + i % g;
        const double *row = e->inverse + ci * n;
        for (size_t j = 0; j < p; j++) e->pp[i * p + j] = row[(size_t)chosen[j / g] * g + j % g];
        if (with_r) memcpy(e->r + i * n, row, n * sizeof *row);
        for (size_t o = 0; o < rows; o++) e->y[i * rows + o] = e->w[o * n + ci];
    }
    status = bb_cholesky(e->pp, p, err);
    if (status != BB_OK) return status;
    if (with_r) solve_lower(e->pp, p, e->r, n);
    solve_lower(e->pp, p, e->y, rows);
    return BB_OK;
}

static double energy(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

/* cost of each live group alone. */
static bb_status single_costs(eliminator *e, bb_err *err)
{
    size_t n = (size_t)e->n_live * e->group;
    if (e->group > 1) {
        for (uint32_t i = 0; i < e->n_live; i++) {
            bb_status status = factor_groups(e, &i, 1, false, err);
            if (status != BB_OK) return status;
            e->cost[i] = energy(e->y, (size_t)e->group * e->rows);
        }
        return BB_OK;
    }
    memset(e->cost, 0, n * sizeof *e->cost);
    for (size_t o = 0; o < e->rows; o++)
        for (size_t j = 0; j < n; j++) e->cost[j] += e->w[o * n + j] * e->w[o * n + j];
    for (size_t j = 0; j < n; j++) e->cost[j] /= e->inverse[j * n + j];
    return BB_OK;
}

/* The n_chosen cheapest live groups, cheapest first; equal costs: the later column first. */
static void choose(const eliminator *e, uint32_t n_chosen, uint32_t *chosen)
{
    for (uint32_t k = 0; k < n_chosen; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < e->n_live; i++) {
            bool taken = false;
            for (uint32_t c = 0; c < k && !taken; c++) taken = chosen[c] == i;
            if (!taken && (best == UINT32_MAX || !(e->cost[i] > e->cost[best]))) best = i;
        }
        chosen[k] = best;
    }
}

static bool is_chosen(const uint32_t *chosen, uint32_t n, uint32_t i)
{
    for (uint32_t k = 0; k < n; k++)
        if (chosen[k] == i) return true;
    return false;
}

/* x (m, n_live*group) loses the columns of the chosen groups, in place. */
static void drop_columns(const eliminator *e, const uint32_t *keep, uint32_t n_keep, double *x, size_t m)
{
    size_t  g = e->group, n = (size_t)e->n_live * g;
    double *to = x;
    for (size_t o = 0; o < m; o++)
        for (uint32_t k = 0; k < n_keep; k++, to += g) memmove(to, x + o * n + (size_t)keep[k] * g, g * sizeof *x);
}

static bb_status compact(eliminator *e, const uint32_t *chosen, uint32_t n_chosen, bb_err *err)
{
    size_t    g = e->group, n_new, n = (size_t)e->n_live * g;
    uint32_t *keep = BB_NEW(e->n_live, uint32_t, err), n_keep = 0;
    if (!keep) return BB_NOMEM;
    for (uint32_t i = 0; i < e->n_live; i++)
        if (!is_chosen(chosen, n_chosen, i)) keep[n_keep++] = i;
    n_new = (size_t)n_keep * g;
    for (uint32_t k = 0; k < n_keep; k++) memmove(e->inverse + (size_t)k * g * n, e->inverse + (size_t)keep[k] * g * n, g * n * sizeof *e->inverse);
    drop_columns(e, keep, n_keep, e->inverse, n_new);
    drop_columns(e, keep, n_keep, e->w, e->rows);
    for (uint32_t k = 0; k < n_keep; k++) e->id[k] = e->id[keep[k]];
    e->n_live = n_keep;
    bb_free(keep);
    return BB_OK;
}

/* One round: removes the n_chosen cheapest groups and writes their ids, cheapest first, and what each one cost. */
static bb_status remove_round(eliminator *e, uint32_t n_chosen, uint32_t *chosen, uint32_t *ids, double *costs, bb_err *err)
{
    bb_status status;
    size_t    g = e->group, n = (size_t)e->n_live * g, p = (size_t)n_chosen * g, rows = e->rows;
    BB_TRY(single_costs(e, err));
    choose(e, n_chosen, chosen);
    BB_TRY(factor_groups(e, chosen, n_chosen, true, err));
    for (uint32_t k = 0; k < n_chosen; k++) {
        ids[k] = e->id[chosen[k]];
        costs[k] = energy(e->y + (size_t)k * g * rows, g * rows);
    }
    transpose(e->y, p, rows, e->yt);
    product(rows, n, p, -1, e->yt, p, e->r, n, e->w);
    transpose(e->r, p, n, e->rt);
    product(n, n, p, -1, e->rt, p, e->r, n, e->inverse);
    BB_TRY(compact(e, chosen, n_chosen, err));
done:
    return status;
}

static bb_status eliminator_init(eliminator *e, const float *w, uint32_t rows, uint32_t cols, uint32_t group, uint32_t step, const bb_hessian *h, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    n = cols, p = (size_t)step * group;
    *e = (eliminator) { .rows = rows, .group = group, .n_live = cols / group };
    e->w = BB_NEW(rows * n, double, err);
    e->inverse = BB_NEW(n * n, double, err);
    e->id = BB_NEW(e->n_live, uint32_t, err);
    e->cost = BB_NEW(e->n_live, double, err);
    e->pp = BB_NEW(p * p, double, err);
    e->r = BB_NEW(p * n, double, err);
    e->rt = BB_NEW(p * n, double, err);
    e->y = BB_NEW(p * rows, double, err);
    e->yt = BB_NEW(p * rows, double, err);
    if (!e->w || !e->inverse || !e->id || !e->cost || !e->pp || !e->r || !e->rt || !e->y || !e->yt) return BB_NOMEM;
    for (size_t i = 0; i < rows * n; i++) e->w[i] = isfinite(w[i]) ? (double)w[i] : 0;
    for (uint32_t i = 0; i < e->n_live; i++) e->id[i] = i;
    load_damped(h, e->inverse);
    BB_TRY(bb_cholesky(e->inverse, n, err));
    BB_TRY(bb_cholesky_inverse(e->inverse, n, err));
done:
    return status;
}

static void eliminator_done(eliminator *e)
{
    bb_free(e->w);
    bb_free(e->inverse);
    bb_free(e->id);
    bb_free(e->cost);
    bb_free(e->pp);
    bb_free(e->r);
    bb_free(e->rt);
    bb_free(e->y);
    bb_free(e->yt);
}

bb_status bb_mask_order(const float *w, uint32_t rows, uint32_t cols, uint32_t group, uint32_t step, const bb_hessian *h, uint32_t *kept_order, double *error,
                        bb_err *err)
{
    bb_status  status;
    eliminator e = { 0 };
    uint32_t  *chosen = NULL, *ids = NULL;
    double    *costs = NULL, sum = 0;
    BB_ASSERT(group > 0 && step > 0 && cols % group == 0 && h->n_cols == cols);
    if (step > cols / group) step = cols / group;
    BB_TRY(eliminator_init(&e, w, rows, cols, group, step, h, err));
    chosen = BB_NEW(step, uint32_t, err);
    ids = BB_NEW(step, uint32_t, err);
    costs = BB_NEW(step, double, err);
    if (!chosen || !ids || !costs) {
        status = BB_NOMEM;
        goto done;
    }
    while (e.n_live > 0) {
        uint32_t n = e.n_live < step ? e.n_live : step, last = e.n_live - 1;
        BB_TRY(remove_round(&e, n, chosen, ids, costs, err));
        for (uint32_t k = 0; k < n; k++) {
            kept_order[last - k] = ids[k];
            error[last - k] = sum; /* with this group still there, all those before it gone */
            sum += costs[k];
        }
    }
    for (uint32_t i = 0; i < cols / group; i++) error[i] = sum > 0 ? error[i] / sum : 0;
done:
    eliminator_done(&e);
    bb_free(chosen);
    bb_free(ids);
    bb_free(costs);
    return status;
}

bb_status bb_mask_compensate(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const uint32_t *kept, uint32_t n_kept, float *out, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    n = cols, m = n_kept;
    double    damping = damping_of(h);
    double   *a = BB_NEW(m * m, double, err), *b = BB_NEW(m * rows, double, err), *hk = BB_NEW(m * n, double, err), *wt = BB_NEW(n * rows, double, err);
    if (!a || !b || !hk || !wt) {
        status = BB_NOMEM;
        goto done;
    }
    for (size_t i = 0; i < m; i++) {
        const float *row = h->h + kept[i] * n;
        for (size_t j = 0; j < n; j++) hk[i * n + j] = (double)row[j] + (j == kept[i] ? damping : 0);
        for (size_t j = 0; j < m; j++) a[i * m + j] = hk[i * n + kept[j]];
    }
    for (size_t o = 0; o < rows; o++)
        for (size_t j = 0; j < n; j++) wt[j * rows + o] = isfinite(w[o * n + j]) ? (double)w[o * n + j] : 0;
    memset(b, 0, m * rows * sizeof *b);
    product(m, rows, n, 1, hk, n, wt, rows, b);
    BB_TRY(bb_cholesky(a, m, err));
    BB_TRY(bb_cholesky_solve(a, m, b, rows, err));
    for (size_t o = 0; o < rows; o++)
        for (size_t i = 0; i < m; i++) out[o * m + i] = (float)b[i * rows + o];
done:
    bb_free(a);
    bb_free(b);
    bb_free(hk);
    bb_free(wt);
    return status;
}
