/* SPDX-License-Identifier: GPL-3.0-or-later
 * rank.c: see rank.h. */
#include "eval/rank.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"

static int sign(double x) { return (x > 0) - (x < 0); }

double bb_kendall(const double *a, const double *b, size_t n)
{
    long long sum = 0, na = 0, nb = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++) {
            int s = sign(a[i] - a[j]), t = sign(b[i] - b[j]);
            sum += s * t;
            na += s != 0;
            nb += t != 0;
        }
    return na && nb ? (double)sum / sqrt((double)na * (double)nb) : (double)NAN;
}

typedef struct entry {
    double value;
    size_t index;
} entry;

static int by_value(const void *x, const void *y)
{
    const entry *a = x, *b = y;
    return sign(a->value - b->value);
}

/* rank[i]: mean rank of a[i] among equals. */
static void ranks(const double *a, size_t n, entry *work, double *rank)
{
    for (size_t i = 0; i < n; i++) work[i] = (entry) { a[i], i };
    qsort(work, n, sizeof *work, by_value);
    for (size_t i = 0; i < n;) {
        size_t j = i;
        while (j < n && !(work[j].value > work[i].value)) j++;
        for (size_t k = i; k < j; k++) rank[work[k].index] = (double)(i + j - 1) / 2;
        i = j;
    }
}

bb_status bb_spearman(const double *a, const double *b, size_t n, double *rho, bb_err *err)
{
    entry    *work = BB_NEW(n, entry, err);
    double   *r = BB_NEW(2 * n, double, err), mean = ((double)n - 1) / 2, ab = 0, aa = 0, bb = 0;
    bb_status status = work && r ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    ranks(a, n, work, r);
    ranks(b, n, work, r + n);
    for (size_t i = 0; i < n; i++) {
        ab += (r[i] - mean) * (r[n + i] - mean);
        aa += (r[i] - mean) * (r[i] - mean);
        bb += (r[n + i] - mean) * (r[n + i] - mean);
    }
    *rho = aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : (double)NAN;
done:
    bb_free(work);
    bb_free(r);
    return status;
}

static int ascending(const void *x, const void *y) { return sign(*(const double *)x - *(const double *)y); }

bb_status bb_kendall_interval(const double *a, const double *b, size_t n, uint32_t samples, uint64_t seed, double *lo, double *hi, bb_err *err)
{
    double   *tau = BB_NEW(samples, double, err), *work = BB_NEW(2 * n * samples, double, err);
    bb_status status = tau && work ? BB_OK : BB_NOMEM;
    uint32_t  m = 0;
    if (status != BB_OK) goto done;
#pragma omp parallel for schedule(static)
    for (uint32_t s = 0; s < samples; s++) {
        double *x = work + 2 * n * s, *y = x + n;
        char    name[32];
        bb_rng  rng;
        snprintf(name, sizeof name, "bootstrap %u", s);
        bb_rng_init(&rng, seed, name);
        for (size_t i = 0; i < n; i++) {
            size_t k = (size_t)bb_rng_below(&rng, n);
            x[i] = a[k];
            y[i] = b[k];
        }
        tau[s] = bb_kendall(x, y, n);
    }
    for (uint32_t s = 0; s < samples; s++)
        if (!isnan(tau[s])) tau[m++] = tau[s];
    qsort(tau, m, sizeof *tau, ascending);
    *lo = m ? tau[(size_t)(0.025 * (m - 1) + 0.5)] : (double)NAN;
    *hi = m ? tau[(size_t)(0.975 * (m - 1) + 0.5)] : (double)NAN;
done:
    bb_free(tau);
    bb_free(work);
    return status;
}

double bb_regret(const double *a, const double *b, size_t n)
{
    size_t chosen = 0, best = 0;
    for (size_t i = 1; i < n; i++) {
        if (a[i] < a[chosen]) chosen = i;
        if (b[i] < b[best]) best = i;
    }
    return n ? b[chosen] - b[best] : (double)NAN;
}
