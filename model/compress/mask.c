/* SPDX-License-Identifier: GPL-3.0-or-later
 * mask.c: the order in which groups of input columns leave a matrix, and the least-squares weights of those that stay.
 *
 * Group OBS [1] on A = H + damping: removing the columns P costs tr(W_P [(A^-1)_PP]^-1 W_P') when the others are re-fitted;
 * W -= W_P [(A^-1)_PP]^-1 (A^-1)_P and A^-1 -= (A^-1)_:P [(A^-1)_PP]^-1 (A^-1)_P: then describe the survivors. Costs add up
 * exactly, so one elimination gives the error of every nested mask.
 * Of A^-1 a round needs the rows of P and the diagonal only, so single columns wait: A^-1 - R'R stands for A^-1 until WINDOW of them are gone,
 * then one product of that depth brings the upper half up to date and the columns that are gone are dropped. The damping pulls the survivors to their old weights, not
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
enum { ROW_PIECE = 64, WINDOW = 256 };

/* What is left of the problem: the columns that were live when the inverse was last brought up to date, packed. Groups stay contiguous and in
 * ascending order. */
typedef struct eliminator {
    uint32_t  rows, group, n_groups, n_live; /* n_live of the n_groups are not gone */
    double   *w;                             /* (rows, n) n = n_groups * group, re-fitted */
    double   *inverse;                       /* (n, n) with R'R taken off it: A^-1 of the live columns */
    double   *diagonal;                      /* [n] of A^-1, up to date */
    double   *norm;                          /* [n] squares of the columns of w; single columns only */
    double   *part;                          /* [pieces][n] of norm */
    uint32_t *id;                            /* [n_groups] the group's number in the matrix */
    bool     *gone;                          /* [n_groups] */
    double   *cost;                          /* [n_groups] of removing that group alone */
    double   *r, *rt;                        /* (depth + p, n), and transposed */
    uint32_t  depth;                         /* rows of R that wait */
    double   *pp, *x, *y, *yt;               /* scratch of one round: (p,p) (p,depth) (p,rows) (rows,p) */
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

static void transpose(const double *a, size_t m, size_t n, double *t)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) t[j * m + i] = a[i * n + j];
}

/* pp = chol((A^-1)_PP) and y = pp^-1 W_P' of the live groups `chosen`; with_r: also the next rows of R, pp^-1 (A^-1)_P. Without it no row waits. */
static bb_status factor_groups(eliminator *e, const uint32_t *chosen, uint32_t n_chosen, bool with_r, bb_err *err)
{
    size_t    g = e->group, n = (size_t)e->n_groups * g, p = (size_t)n_chosen * g, rows = e->rows;
    double   *r = e->r + e->depth * n;
    bb_status status;
    BB_ASSERT(with_r || e->depth == 0);
    for (size_t i = 0; i < p; i++) {
        size_t        ci = (size_t)chosen[i / g] * g + i % g;
        const double *row = e->inverse + ci * n;
        if (with_r) memcpy(r + i * n, row, n * sizeof *row);
        else
            for (size_t j = 0; j < p; j++) e->pp[i * p + j] = row[(size_t)chosen[j / g] * g + j % g];
        for (size_t k = 0; k < e->depth; k++) e->x[i * e->depth + k] = e->r[k * n + ci];
        for (size_t o = 0; o < rows; o++) e->y[i * rows + o] = e->w[o * n + ci];
    }
    if (with_r) {
        product(p, n, e->depth, -1, e->x, e->depth, e->r, n, r);
        for (size_t i = 0; i < p * p; i++) e->pp[i] = r[i / p * n + (size_t)chosen[i % p / g] * g + i % p % g];
    }
    status = bb_cholesky(e->pp, p, err);
    if (status != BB_OK) return status;
    if (with_r) bb_lower_solve(e->pp, p, r, n);
    bb_lower_solve(e->pp, p, e->y, rows);
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
    for (uint32_t i = 0; i < e->n_groups; i++) {
        if (e->gone[i]) continue;
        if (e->group == 1) {
            e->cost[i] = e->norm[i] / e->diagonal[i];
            continue;
        }
        bb_status status = factor_groups(e, &i, 1, false, err);
        if (status != BB_OK) return status;
        e->cost[i] = energy(e->y, (size_t)e->group * e->rows);
    }
    return BB_OK;
}

/* The n_chosen cheapest live groups, cheapest first; equal costs: the later column first. They are marked as gone. */
static void choose(eliminator *e, uint32_t n_chosen, uint32_t *chosen)
{
    for (uint32_t k = 0; k < n_chosen; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < e->n_groups; i++)
            if (!e->gone[i] && (best == UINT32_MAX || !(e->cost[i] > e->cost[best]))) best = i;
        chosen[k] = best;
        e->gone[best] = true;
    }
    e->n_live -= n_chosen;
}

/* w -= yt r, p deep; the squares of its columns. A piece of rows is one of the sums, whatever the threads. */
static void refit_weights(eliminator *e, size_t p, const double *r)
{
    const size_t n = (size_t)e->n_groups * e->group, rows = e->rows, n_pieces = (rows + ROW_PIECE - 1) / ROW_PIECE;
#pragma omp parallel for schedule(dynamic)
    for (size_t k = 0; k < n_pieces; k++) {
        const size_t o = k * ROW_PIECE, m = rows - o < ROW_PIECE ? rows - o : ROW_PIECE;
        double      *w = e->w + o * n, *sum = e->part + k * n;
        if (p > 0) bb_dgemm_nn(m, n, p, -1, e->yt + o * p, p, r, n, 1, w, n);
        memset(sum, 0, n * sizeof *sum);
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) sum[j] += w[i * n + j] * w[i * n + j];
    }
    memset(e->norm, 0, n * sizeof *e->norm);
    for (size_t k = 0; k < n_pieces; k++)
        for (size_t j = 0; j < n; j++) e->norm[j] += e->part[k * n + j];
}

/* inverse -= R'R: the upper half, which the lower one then mirrors. */
static void update_inverse(eliminator *e)
{
    const size_t n = (size_t)e->n_groups * e->group, depth = e->depth;
    transpose(e->r, depth, n, e->rt);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i += ROW_PIECE) {
        const size_t m = n - i < ROW_PIECE ? n - i : ROW_PIECE;
        bb_dgemm_nn(m, n - i, depth, -1, e->rt + i * depth, depth, e->r + i, n, 1, e->inverse + i * n + i, n);
    }
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i += ROW_PIECE)
        for (size_t j = 0; j < i; j += ROW_PIECE)
            for (size_t k = i; k < n && k < i + ROW_PIECE; k++)
                for (size_t l = j; l < j + ROW_PIECE; l++) e->inverse[k * n + l] = e->inverse[l * n + k];
}

/* x (m, n_groups*group) loses the columns of the groups that are not kept, in place. */
static void drop_columns(const eliminator *e, const uint32_t *keep, uint32_t n_keep, double *x, size_t m)
{
    size_t  g = e->group, n = (size_t)e->n_groups * g;
    double *to = x;
    for (size_t o = 0; o < m; o++)
        for (uint32_t k = 0; k < n_keep; k++, to += g) memmove(to, x + o * n + (size_t)keep[k] * g, g * sizeof *x);
}

/* The inverse up to date, and only live columns. */
static bb_status compact(eliminator *e, bb_err *err)
{
    size_t    g = e->group, n_new, n = (size_t)e->n_groups * g;
    uint32_t *keep = BB_NEW(e->n_groups, uint32_t, err), n_keep = 0;
    if (!keep) return BB_NOMEM;
    update_inverse(e);
    for (uint32_t i = 0; i < e->n_groups; i++)
        if (!e->gone[i]) keep[n_keep++] = i;
    n_new = (size_t)n_keep * g;
    for (uint32_t k = 0; k < n_keep; k++) memmove(e->inverse + (size_t)k * g * n, e->inverse + (size_t)keep[k] * g * n, g * n * sizeof *e->inverse);
    drop_columns(e, keep, n_keep, e->inverse, n_new);
    drop_columns(e, keep, n_keep, e->w, e->rows);
    drop_columns(e, keep, n_keep, e->norm, 1);
    drop_columns(e, keep, n_keep, e->diagonal, 1);
    for (uint32_t k = 0; k < n_keep; k++) {
        e->id[k] = e->id[keep[k]];
        e->gone[k] = false;
    }
    e->n_groups = n_keep;
    e->depth = 0;
    bb_free(keep);
    return BB_OK;
}

/* One round: removes the n_chosen cheapest groups and writes their ids, cheapest first, and what each one cost. */
static bb_status remove_round(eliminator *e, uint32_t n_chosen, uint32_t *chosen, uint32_t *ids, double *costs, bb_err *err)
{
    bb_status     status;
    size_t        g = e->group, n = (size_t)e->n_groups * g, p = (size_t)n_chosen * g, rows = e->rows;
    const double *r = e->r + e->depth * n;
    BB_TRY(single_costs(e, err));
    choose(e, n_chosen, chosen);
    BB_TRY(factor_groups(e, chosen, n_chosen, true, err));
    for (uint32_t k = 0; k < n_chosen; k++) {
        ids[k] = e->id[chosen[k]];
        costs[k] = energy(e->y + (size_t)k * g * rows, g * rows);
    }
    if (e->n_live == 0) return BB_OK;
    transpose(e->y, p, rows, e->yt);
    refit_weights(e, p, r);
    for (size_t i = 0; i < p; i++)
        for (size_t j = 0; j < n; j++) e->diagonal[j] -= r[i * n + j] * r[i * n + j];
    e->depth += (uint32_t)p;
    if (g > 1 || e->depth >= WINDOW) BB_TRY(compact(e, err));
done:
    return status;
}

static bb_status eliminator_init(eliminator *e, const float *w, uint32_t rows, uint32_t cols, uint32_t group, uint32_t step, const bb_hessian *h, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    n = cols, p = (size_t)step * group;
    size_t    most = (group > 1 ? 0 : WINDOW) + p;
    *e = (eliminator) { .rows = rows, .group = group, .n_groups = cols / group, .n_live = cols / group };
    e->w = BB_NEW(rows * n, double, err);
    e->inverse = BB_NEW(n * n, double, err);
    e->diagonal = BB_NEW(n, double, err);
    e->norm = BB_NEW(n, double, err);
    e->part = BB_NEW((rows + ROW_PIECE - 1) / ROW_PIECE * n, double, err);
    e->id = BB_NEW(e->n_groups, uint32_t, err);
    e->gone = BB_NEW0(e->n_groups, bool, err);
    e->cost = BB_NEW(e->n_groups, double, err);
    e->pp = BB_NEW(p * p, double, err);
    e->x = BB_NEW(p * most, double, err);
    e->r = BB_NEW(most * n, double, err);
    e->rt = BB_NEW(most * n, double, err);
    e->y = BB_NEW(p * rows, double, err);
    e->yt = BB_NEW(p * rows, double, err);
    if (!e->w || !e->inverse || !e->diagonal || !e->norm || !e->part || !e->id || !e->gone || !e->cost || !e->pp || !e->x || !e->r || !e->rt || !e->y || !e->yt)
        return BB_NOMEM;
    for (size_t i = 0; i < rows * n; i++) e->w[i] = isfinite(w[i]) ? (double)w[i] : 0;
    for (uint32_t i = 0; i < e->n_groups; i++) e->id[i] = i;
    load_damped(h, e->inverse);
    BB_TRY(bb_cholesky(e->inverse, n, err));
    BB_TRY(bb_cholesky_inverse(e->inverse, n, err));
    for (size_t j = 0; j < n; j++) e->diagonal[j] = e->inverse[j * n + j];
    refit_weights(e, 0, NULL);
done:
    return status;
}

static void eliminator_done(eliminator *e)
{
    bb_free(e->w);
    bb_free(e->inverse);
    bb_free(e->diagonal);
    bb_free(e->norm);
    bb_free(e->part);
    bb_free(e->gone);
    bb_free(e->x);
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

/* b (n_kept, rows) += the kept rows of H + damping, times wt (n, rows): a piece of them at a time. */
static bb_status kept_product(const bb_hessian *h, double damping, const uint32_t *kept, uint32_t n_kept, const double *wt, uint32_t rows, double *b,
                              bb_err *err)
{
    const size_t n = h->n_cols;
    bool         no_memory = false;
#pragma omp parallel
    {
        double *hk = BB_NEW(ROW_PIECE * n, double, NULL);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n_kept; i += ROW_PIECE) {
            const size_t k = n_kept - i < ROW_PIECE ? n_kept - i : ROW_PIECE;
            if (!hk) {
#pragma omp atomic write
                no_memory = true;
                continue;
            }
            for (size_t r = 0; r < k; r++)
                for (size_t j = 0; j < n; j++) hk[r * n + j] = (double)h->h[kept[i + r] * n + j] + (j == kept[i + r] ? damping : 0);
            bb_dgemm_nn(k, rows, n, 1, hk, n, wt, rows, 1, b + i * rows, rows);
        }
        bb_free(hk);
    }
    return no_memory ? BB_FAIL(err, BB_NOMEM, "out of memory in the product of weights and moments") : BB_OK;
}

bb_status bb_mask_compensate(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const uint32_t *kept, uint32_t n_kept, float *out, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    n = cols, m = n_kept;
    double    damping = damping_of(h);
    double   *a = NULL, *b = BB_NEW0(m * rows, double, err), *wt = BB_NEW(n * rows, double, err);
    if (!b || !wt) {
        status = BB_NOMEM;
        goto done;
    }
    for (size_t o = 0; o < rows; o++)
        for (size_t j = 0; j < n; j++) wt[j * rows + o] = isfinite(w[o * n + j]) ? (double)w[o * n + j] : 0;
    BB_TRY(kept_product(h, damping, kept, n_kept, wt, rows, b, err));
    bb_free(wt);
    wt = NULL;
    if (!(a = BB_NEW(m * m, double, err))) {
        status = BB_NOMEM;
        goto done;
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < m; j++) a[i * m + j] = (double)h->h[kept[i] * n + kept[j]] + (i == j ? damping : 0);
    BB_TRY(bb_cholesky(a, m, err));
    BB_TRY(bb_cholesky_solve(a, m, b, rows, err));
    for (size_t o = 0; o < rows; o++)
        for (size_t i = 0; i < m; i++) out[o * m + i] = (float)b[i * rows + o];
done:
    bb_free(a);
    bb_free(b);
    bb_free(wt);
    return status;
}

/* sum over rows of x A x'; x (rows, n). */
static double quadratic(const double *x, uint32_t rows, const double *a, size_t n, double *scratch)
{
    double sum = 0;
    memset(scratch, 0, rows * n * sizeof *scratch);
    product(rows, n, n, 1, x, n, a, n, scratch);
    for (size_t i = 0; i < rows * n; i++) sum += x[i] * scratch[i];
    return sum;
}

bb_status bb_mask_error(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const uint32_t *kept, uint32_t n_kept, const float *v, double *error,
                        bb_err *err)
{
    const size_t n = cols;
    double      *a = BB_NEW(n * n, double, err), *d = BB_NEW(n * rows, double, err), *scratch = BB_NEW(n * rows, double, err);
    bb_status    status = a && d && scratch ? BB_OK : BB_NOMEM;
    if (status == BB_OK) {
        load_damped(h, a);
        for (size_t i = 0; i < n * rows; i++) d[i] = isfinite(w[i]) ? (double)w[i] : 0;
        const double all = quadratic(d, rows, a, n, scratch);
        for (size_t o = 0; o < rows; o++)
            for (size_t k = 0; k < n_kept; k++) d[o * n + kept[k]] -= (double)v[o * n_kept + k];
        *error = all > 0 ? quadratic(d, rows, a, n, scratch) / all : 0;
    }
    bb_free(a);
    bb_free(d);
    bb_free(scratch);
    return status;
}
