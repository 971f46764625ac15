/* SPDX-License-Identifier: GPL-3.0-or-later
 * surrogate.c: Gauss-Newton with Gaussian priors; the linear algebra (a few hundred unknowns) is GSL's Cholesky. */
#include "search/surrogate.h"

#include <gsl/gsl_blas.h>
#include <gsl/gsl_linalg.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { SCALE, EXPONENT, CONTROLLERS, UNITS };

/* Candidates for the prior standard deviation of the units' log factors. */
static const double unit_sds[] = { 0.2, 0.4, 0.8, 1.6 };
#define N_UNIT_SDS (sizeof unit_sds / sizeof *unit_sds)

/* Prior standard deviations: the scale is free, controllers may double or halve. */
static double prior_sd(const bb_surrogate *s, size_t k)
{
    static const double sd[UNITS] = { 3.0, 0.3, 0.7 };
    return k < UNITS ? sd[k] : s->unit_sd;
}

bb_status bb_surrogate_init(const bb_space *space, bb_surrogate *s, bb_err *err)
{
    *s = (bb_surrogate) { .space = space, .n_params = UNITS + space->problem->n_units, .sigma = 0.1 };
    s->theta = BB_NEW0(s->n_params, double, err);
    s->chol = BB_NEW0(s->n_params * s->n_params, double, err);
    if (s->theta && s->chol) return bb_surrogate_fit(s, NULL, NULL, NULL, 0, err);
    bb_surrogate_done(s);
    return BB_NOMEM;
}

void bb_surrogate_done(bb_surrogate *s)
{
    bb_free(s->theta);
    bb_free(s->chol);
    *s = (bb_surrogate) { 0 };
}

/* What theta makes of one table cell, given the logarithm of its cost; 0 where there is no cost. */
static double term(const bb_surrogate *s, const double *theta, uint32_t u, double log_cost)
{
    if (!isfinite(log_cost)) return 0;
    const double a = theta[SCALE] + theta[UNITS + u] + (bb_space_is_controller(s->space, u) ? theta[CONTROLLERS] : 0);
    return exp(a + (1 + theta[EXPONENT]) * (log_cost - s->center) + s->center);
}

/* The plans that count, as cells of one table: plans share cells, so what theta makes of a cell is computed once, not once a plan. */
typedef struct samples {
    size_t    n, n_cells;
    uint32_t *cell;            /* [n * n_units] */
    double   *log_kl, *weight; /* [n] */
    uint32_t *unit;            /* [n_cells] */
    double   *log_cost, *term; /* [n_cells]; -inf: no cost. term: as of the last set_terms */
} samples;

static void samples_done(samples *d)
{
    bb_free(d->cell);
    bb_free(d->log_kl);
    bb_free(d->weight);
    bb_free(d->unit);
    bb_free(d->log_cost);
    bb_free(d->term);
}

static bb_status samples_init(const bb_problem *p, const uint16_t *const *x, const double *kl, const double *weight, size_t n, samples *d, bb_err *err)
{
    *d = (samples) { 0 };
    for (uint32_t u = 0; u < p->n_units; u++) d->n_cells += bb_problem_rows(p, u) * p->units[u].n_options;
    d->cell = BB_NEW(n * p->n_units, uint32_t, err);
    d->log_kl = BB_NEW(n, double, err);
    d->weight = BB_NEW(n, double, err);
    d->unit = BB_NEW(d->n_cells, uint32_t, err);
    d->log_cost = BB_NEW(d->n_cells, double, err);
    d->term = BB_NEW(d->n_cells, double, err);
    if (!d->cell || !d->log_kl || !d->weight || !d->unit || !d->log_cost || !d->term) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(kl[i]) || !(kl[i] > 0) || !(weight[i] > 0)) continue;
        d->log_kl[d->n] = log(kl[i]);
        d->weight[d->n] = weight[i];
        for (uint32_t u = 0, first = 0; u < p->n_units; u++) {
            d->cell[d->n * p->n_units + u] = first + (uint32_t)bb_problem_row(p, x[i], u) + x[i][u];
            first += (uint32_t)(bb_problem_rows(p, u) * p->units[u].n_options);
        }
        d->n++;
    }
    for (uint32_t u = 0, k = 0; u < p->n_units; u++)
        for (size_t i = 0; i < bb_problem_rows(p, u) * p->units[u].n_options; i++, k++) {
            const double c = p->units[u].cost[i];
            d->unit[k] = u;
            d->log_cost[k] = c > 0 ? log(c) : -HUGE_VAL;
        }
    return BB_OK;
}

static void set_terms(const bb_surrogate *s, const double *theta, const samples *d)
{
    for (size_t k = 0; k < d->n_cells; k++) d->term[k] = term(s, theta, d->unit[k], d->log_cost[k]);
}

/* Derivative of the log prediction of plan i by every parameter, and the log prediction; from the terms that were set. */
static double gradient(const bb_surrogate *s, const samples *d, size_t i, double *g)
{
    const uint32_t  n_units = s->space->problem->n_units;
    const uint32_t *cell = d->cell + i * n_units;
    double          total = 0;
    for (size_t k = 0; k < UNITS; k++) g[k] = 0;
    for (uint32_t u = 0; u < n_units; u++) {
        const double t = d->term[cell[u]];
        g[UNITS + u] = t;
        total += t;
        if (t > 0) g[EXPONENT] += t * (d->log_cost[cell[u]] - s->center);
        if (bb_space_is_controller(s->space, u)) g[CONTROLLERS] += t;
    }
    g[SCALE] = total;
    if (!(total > 0)) return (double)NAN;
    for (size_t k = 0; k < s->n_params; k++) g[k] /= total;
    return log(total);
}

/* Fills precision A and right side b of one step; returns the penalised objective at theta and the weighted residual variance. */
static double normal_equations(const bb_surrogate *s, const double *theta, const samples *d, gsl_matrix *A, gsl_vector *b, double *g, double *variance)
{
    const double inv = 1 / (s->sigma * s->sigma);
    double       objective = 0, sum_w = 0, sum_r = 0;
    gsl_matrix_set_zero(A);
    for (size_t k = 0; k < s->n_params; k++) {
        const double lambda = 1 / (prior_sd(s, k) * prior_sd(s, k));
        gsl_matrix_set(A, k, k, lambda);
        gsl_vector_set(b, k, -lambda * theta[k]);
        objective += lambda * theta[k] * theta[k];
    }
    set_terms(s, theta, d);
    for (size_t i = 0; i < d->n; i++) {
        const double predicted = gradient(s, d, i, g);
        if (!isfinite(predicted)) continue;
        const double r = d->log_kl[i] - predicted, w = d->weight[i];
        objective += w * inv * r * r;
        sum_w += w;
        sum_r += w * r * r;
        gsl_vector_view v = gsl_vector_view_array(g, s->n_params);
        gsl_blas_dsyr(CblasLower, w * inv, &v.vector, A);
        gsl_blas_daxpy(w * inv * r, &v.vector, b);
    }
    *variance = sum_w > 0 ? sum_r / sum_w : 0;
    return objective;
}

static double objective_at(const bb_surrogate *s, const double *theta, const samples *d)
{
    const double   inv = 1 / (s->sigma * s->sigma);
    const uint32_t n_units = s->space->problem->n_units;
    double         total = 0;
    for (size_t k = 0; k < s->n_params; k++) total += theta[k] * theta[k] / (prior_sd(s, k) * prior_sd(s, k));
    set_terms(s, theta, d);
    for (size_t i = 0; i < d->n; i++) {
        double p = 0;
        for (uint32_t u = 0; u < n_units; u++) p += d->term[d->cell[i * n_units + u]];
        if (!(p > 0)) continue;
        const double r = d->log_kl[i] - log(p);
        total += d->weight[i] * inv * r * r;
    }
    return total;
}

/* theta += step, halved until the objective falls; false when it does not. */
static bool take_step(bb_surrogate *s, const gsl_vector *step, const samples *d, double objective, double *trial)
{
    for (double f = 1; f > 0.01; f /= 2) {
        for (size_t k = 0; k < s->n_params; k++) trial[k] = s->theta[k] + f * gsl_vector_get(step, k);
        if (objective_at(s, trial, d) < objective - 1e-9) {
            memcpy(s->theta, trial, s->n_params * sizeof *trial);
            return true;
        }
    }
    return false;
}

static double mean_log_cost(const samples *d, uint32_t n_units)
{
    double sum = 0, n = 0;
    for (size_t i = 0; i < d->n * n_units; i++) {
        const double c = d->log_cost[d->cell[i]];
        if (!isfinite(c)) continue;
        sum += c;
        n++;
    }
    return n > 0 ? sum / n : 0;
}

/* Gauss-Newton for the present unit_sd; leaves theta, chol and sigma; returns the log evidence (Laplace), NaN when not factorable. work:
 * 3 * n_params doubles. */
static double fit_once(bb_surrogate *s, const samples *d, double *work)
{
    const size_t    p = s->n_params;
    gsl_matrix_view A = gsl_matrix_view_array(s->chol, p, p);
    gsl_vector_view b = gsl_vector_view_array(work + 2 * p, p);
    double          objective = 0, evidence = 0, n = 0;
    memset(s->theta, 0, p * sizeof *s->theta);
    s->sigma = 0.1;
    for (int iteration = 0; iteration < 24; iteration++) {
        double variance;
        objective = normal_equations(s, s->theta, d, &A.matrix, &b.vector, work, &variance);
        if (gsl_linalg_cholesky_decomp1(&A.matrix) || gsl_linalg_cholesky_svx(&A.matrix, &b.vector)) return (double)NAN;
        if (take_step(s, &b.vector, d, objective, work + p)) continue;
        const double sigma = fmax(0.01, sqrt(variance));
        if (d->n == 0 || (iteration > 0 && fabs(sigma - s->sigma) < 0.1 * s->sigma)) break;
        s->sigma = sigma; /* converged for the old noise level: once more with what the residuals say */
    }
    for (size_t i = 0; i < d->n; i++) n += d->weight[i];
    for (size_t k = 0; k < p; k++) evidence -= log(s->chol[k * p + k]) + log(prior_sd(s, k));
    return evidence - 0.5 * objective - n * log(s->sigma);
}

bb_status bb_surrogate_fit(bb_surrogate *s, const uint16_t *const *x, const double *kl, const double *weight, size_t n, bb_err *err)
{
    bb_status status = BB_OK;
    samples   d;
    double   *work = BB_NEW(3 * s->n_params, double, err);
    double    best = -HUGE_VAL, best_sd = 0;
    BB_TRY(samples_init(s->space->problem, x, kl, weight, n, &d, err));
    if (!work) status = BB_NOMEM;
    BB_TRY(status);
    s->center = mean_log_cost(&d, s->space->problem->n_units);
    for (size_t k = 0; n > 0 && k < N_UNIT_SDS; k++) {
        s->unit_sd = unit_sds[k];
        const double evidence = fit_once(s, &d, work);
        if (!(evidence > best)) continue;
        best = evidence;
        best_sd = s->unit_sd;
    }
    if (best_sd > 0) s->unit_sd = best_sd;
    else s->unit_sd = 0.4; /* nothing to learn from */
    if (isnan(fit_once(s, &d, work)))
        status = BB_FAIL(err, BB_NUMERIC, "the surrogate's normal equations (%zu unknowns, %zu plans) are not positive definite", s->n_params, n);
done:
    samples_done(&d);
    bb_free(work);
    return status;
}

void bb_surrogate_sample(const bb_surrogate *s, bb_rng *rng, double *theta)
{
    /* precision = L L', so theta = mean + L^-T z; solved by back substitution. */
    const size_t p = s->n_params;
    for (size_t k = 0; k < p; k++) theta[k] = bb_rng_normal(rng);
    for (size_t k = p; k-- > 0;) {
        double v = theta[k];
        for (size_t j = k + 1; j < p; j++) v -= s->chol[j * p + k] * theta[j];
        theta[k] = v / s->chol[k * p + k];
    }
    for (size_t k = 0; k < p; k++) theta[k] += s->theta[k];
}

void bb_surrogate_tables(const bb_surrogate *s, const double *theta, bb_variant *v)
{
    const bb_problem *p = s->space->problem;
    for (uint32_t u = 0; u < p->n_units; u++) {
        const size_t n = bb_problem_rows(p, u) * p->units[u].n_options;
        for (size_t i = 0; i < n; i++)
            if (!bb_is_forbidden(v->bytes[u][i])) v->cost[u][i] = term(s, theta ? theta : s->theta, u, log(p->units[u].cost[i]));
    }
}
