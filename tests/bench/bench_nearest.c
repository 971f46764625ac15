/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_nearest.c: speed of the search for the nearest code of the codebook formats, on one core.
 *
 * Prints CSV: type,diagonal_ns,metric_ns,metric_singular_ns,rows_ns: nanoseconds a vector, the best of SAMPLES passes over random targets,
 * under a diagonal and under a full metric (the second moments of 64 correlated samples); singular: half the rank, and 1 % on the diagonal;
 * rows: the search for many rows (nearest_rows).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "kernels/format.h"

enum { VECTORS = 1024, METRICS = 64, SAMPLES = 7 };

typedef struct bench {
    const bb_format *f;
    bb_code          c;
    bb_code          rows[BB_FORMAT_ROWS];
    float            t[VECTORS][8], h[VECTORS][8], metric[METRICS][64];
    uint32_t         sum;
} bench;

static void make_metric(bb_rng *r, unsigned n, int rank, float *metric)
{
    double x[8];
    memset(metric, 0, 64 * sizeof *metric);
    for (int k = 0; k < rank; k++) {
        const double common = bb_rng_normal(r);
        for (unsigned i = 0; i < n; i++) x[i] = bb_rng_normal(r) + common;
        for (unsigned i = 0; i < n; i++)
            for (unsigned j = 0; j < n; j++) metric[i * n + j] += (float)(x[i] * x[j] / rank);
    }
    for (unsigned i = 0; i < n; i++) metric[i * n + i] *= 1.01f; /* the damping of second-moment matrices */
}

static double pass_ns(bench *b, bool full)
{
    double best = HUGE_VAL;
    for (int s = 0; s < SAMPLES; s++) {
        const double t0 = bb_now_s();
        for (unsigned v = 0; v < VECTORS; v++) b->sum += b->f->nearest(&b->c, v % (256u / b->f->vec), b->t[v], b->h[v], full ? b->metric[v % METRICS] : NULL);
        best = fmin(best, (bb_now_s() - t0) / VECTORS * 1e9);
    }
    return best;
}

static double rows_ns(bench *b)
{
    uint32_t q[BB_FORMAT_ROWS];
    float    value[8 * BB_FORMAT_ROWS];
    double   best = HUGE_VAL;
    for (int r = 0; r < BB_FORMAT_ROWS; r++) b->rows[r] = b->c;
    for (int s = 0; s < SAMPLES; s++) {
        const double t0 = bb_now_s();
        for (unsigned v = 0; v < VECTORS; v += BB_FORMAT_ROWS) { /* any numbers do as targets of (vec, rows) */
            b->f->nearest_rows(b->rows, v % (256u / b->f->vec), b->t[v], b->metric[v % METRICS], q, value);
            b->sum += q[v % BB_FORMAT_ROWS];
        }
        best = fmin(best, (bb_now_s() - t0) / VECTORS * 1e9);
    }
    return best;
}

static void bench_row(bench *b)
{
    float  w[256], ones[256];
    bb_rng r;
    bb_rng_init(&r, 1, b->f->name);
    for (int i = 0; i < 256; i++) {
        w[i] = (float)bb_rng_normal(&r);
        ones[i] = 1.0f;
    }
    b->f->fit(w, ones, &b->c);
    for (int v = 0; v < VECTORS; v++)
        for (int i = 0; i < 8; i++) {
            b->t[v][i] = (float)bb_rng_normal(&r);
            b->h[v][i] = (float)exp(bb_rng_normal(&r));
        }
    for (int k = 0; k < METRICS; k++) make_metric(&r, b->f->vec, 64, b->metric[k]);
    const double diagonal = pass_ns(b, false), full = pass_ns(b, true), rows = rows_ns(b);
    for (int k = 0; k < METRICS; k++) make_metric(&r, b->f->vec, b->f->vec / 2, b->metric[k]);
    printf("%s,%.0f,%.0f,%.0f,%.0f\n", b->f->name, diagonal, full, pass_ns(b, true), rows);
    fflush(stdout);
}

int main(void)
{
    static bench b;
    printf("type,diagonal_ns,metric_ns,metric_singular_ns,rows_ns\n");
    for (size_t i = 0; (b.f = bb_format_at(i)) != NULL; i++)
        if (b.f->vec > 1) bench_row(&b);
    fprintf(stderr, "checksum %u\n", b.sum);
    return EXIT_SUCCESS;
}
