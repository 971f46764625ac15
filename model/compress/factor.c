/* SPDX-License-Identifier: GPL-3.0-or-later
 * factor.c: see factor.h. Float64 LAPACK Cholesky of the matrix with rows and columns reversed: if J A J = L L' then
 * A = (J L J)(J L J)', and J L J is upper triangular. */
#include "model/compress/factor.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"

/* Columns whose second moment is below this share of the mean are dead: nothing in the calibration data excited them. */
static const double dead_share = 1e-12;

static double mean_diagonal(const bb_hessian *h)
{
    double sum = 0;
    for (uint32_t j = 0; j < h->n_cols; j++) sum += (double)h->h[(size_t)j * h->n_cols + j];
    return h->n_cols ? sum / h->n_cols : 0;
}

/* a (n,n) := the block of H + diag(damp) at column j0, reversed. */
static void load_reversed(const bb_factor *f, uint32_t j0, uint32_t n, double *a)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *row = f->h + (size_t)(j0 + n - 1 - i) * f->n + j0;
        for (uint32_t j = 0; j < n; j++) a[(size_t)i * n + j] = (double)row[n - 1 - j];
        a[(size_t)i * n + i] += (double)f->damp[j0 + n - 1 - i];
    }
}

/* From the reversed Cholesky factor l to u (n,n) and d [n]. */
static void store_factor(const double *l, uint32_t n, float *u, float *d)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i; j < n; j++) {
            double pivot = l[(size_t)(n - 1 - j) * n + (n - 1 - j)];
            u[(size_t)i * n + j] = (float)(l[(size_t)(n - 1 - i) * n + (n - 1 - j)] / pivot);
        }
    for (uint32_t j = 0; j < n; j++) {
        double pivot = l[(size_t)j * n + j];
        d[n - 1 - j] = (float)(pivot * pivot);
    }
}

/* The same in l's own memory, half of which goes back to the system. u is first made in the half above the diagonal, which the factor leaves unused, and then
 * packed in ascending order: entry k ends before number k + 1 begins. */
static float *fold_factor(double *l, uint32_t n, float *d)
{
    unsigned char *bytes = (unsigned char *)l;
    for (uint32_t j = 0; j < n; j++) {
        const double pivot = l[(size_t)j * n + j];
        d[n - 1 - j] = (float)(pivot * pivot);
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i + 1; j < n; j++) l[(size_t)i * n + j] = l[(size_t)(n - 1 - i) * n + (n - 1 - j)] / l[(size_t)(n - 1 - j) * n + (n - 1 - j)];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i; j < n; j++) {
            const size_t k = (size_t)i * n + j;
            double       entry;
            float        v;
            memcpy(&entry, bytes + k * sizeof entry, sizeof entry);
            v = i == j ? 1 : (float)entry;
            memcpy(bytes + k * sizeof v, &v, sizeof v);
        }
    float *u = (float *)(void *)bytes;
    bb_shrink(u, (size_t)n * n, sizeof *u);
    return u;
}

static void set_damping(bb_factor *f, double mean, double damping)
{
    for (uint32_t j = 0; j < f->n; j++) {
        double h = (double)f->h[(size_t)j * f->n + j];
        f->dead[j] = !(h > dead_share * mean);
        f->damp[j] = mean > 0 ? (float)(damping * mean) : 1;
    }
    f->damping = damping;
}

bb_status bb_factor_make(const bb_hessian *h, double damping, bb_factor *f, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    n = h->n_cols;
    double    mean = mean_diagonal(h);
    double   *a = NULL;
    *f = (bb_factor) { .n = h->n_cols, .h = h->h };
    if (!isfinite(mean)) return BB_FAIL(err, BB_NUMERIC, "the second moments of %zu inputs hold a NaN or infinity", n);
    f->damp = BB_NEW(n, float, err);
    f->d = BB_NEW(n, float, err);
    f->dead = BB_NEW(n, bool, err);
    a = BB_NEW(n * n, double, err);
    if (!f->damp || !f->d || !f->dead || !a) {
        status = BB_NOMEM;
        goto done;
    }
    if (!(damping > 0)) damping = 1e-6;
    for (int attempt = 0; attempt < 7; attempt++, damping *= 10) {
        bb_err local = BB_ERR_INIT;
        set_damping(f, mean, damping);
        load_reversed(f, 0, f->n, a);
        status = bb_cholesky(a, n, &local);
        if (status == BB_OK) break;
        if (attempt == 6 || status != BB_NUMERIC) {
            BB_FAIL(err, status, "%s", local.msg);
            goto done;
        }
    }
    f->u = fold_factor(a, f->n, f->d);
    a = NULL;
done:
    bb_free(a);
    if (status != BB_OK) bb_factor_done(f);
    return status;
}

void bb_factor_done(bb_factor *f)
{
    bb_free(f->damp);
    bb_free(f->u);
    bb_free(f->d);
    bb_free(f->dead);
    *f = (bb_factor) { 0 };
}

static bb_status local_piece(const bb_factor *f, uint32_t g, bb_local *l, double *a, bb_err *err)
{
    size_t    n = l->n, at = (size_t)g * n * n;
    bb_status status;
    load_reversed(f, g * l->n, l->n, a);
    BB_TRY(bb_cholesky(a, n, err));
    store_factor(a, l->n, l->u + at, l->d + (size_t)g * n);
    BB_TRY(bb_cholesky_inverse(a, n, err));
    for (size_t i = 0; i < n * n; i++) l->inverse[at + i] = (float)a[n * n - 1 - i]; /* reversed rows and columns */
done:
    return status;
}

bb_status bb_local_make(const bb_factor *f, uint32_t group, bb_local *l, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    size = (size_t)f->n * group;
    double   *a = NULL;
    BB_ASSERT(f->n % group == 0);
    *l = (bb_local) { .n = group };
    l->u = BB_NEW(size, float, err);
    l->d = BB_NEW(f->n, float, err);
    l->inverse = BB_NEW(size, float, err);
    a = BB_NEW((size_t)group * group, double, err);
    if (!l->u || !l->d || !l->inverse || !a) {
        status = BB_NOMEM;
        goto done;
    }
    for (uint32_t g = 0; g < f->n / group; g++) BB_TRY(local_piece(f, g, l, a, err));
done:
    bb_free(a);
    if (status != BB_OK) bb_local_done(l);
    return status;
}

void bb_local_done(bb_local *l)
{
    bb_free(l->u);
    bb_free(l->d);
    bb_free(l->inverse);
    *l = (bb_local) { 0 };
}
