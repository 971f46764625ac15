/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_formats.c: one row a weight format: bits, error of the encoder, speed of encode, refit, decode and dot on one core.
 *
 * Prints CSV: type,bpw,error,llama_error,encode_mw_s,encode_median,refit_mw_s,decode_mw_s,decode_share,dot_mw_s. mw_s: 10^6 weights
 * a second, best of SAMPLES batches of at least 50 ms after a warm-up. error: importance-weighted relative squared error of rows 0-5
 * of tests/data/formats/weights.f32; llama_error: llama.cpp's, from vectors.csv. decode_share: bytes of float32 written a
 * second / those that memset writes into the same 16 MiB. Seconds are of CPU time: the machine may be shared. Usage (in the root of the repository): bench_formats [TYPE...].
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/csv.h"
#include "kernels/format.h"
#include "kernels/kernels.h"

enum { COLS = 1024, ROWS = 8, N = ROWS * COLS, SAMPLES = 5, OUT = 1 << 22 /* 16 MiB of floats: memory, not cache */ };

typedef struct bench {
    const bb_format *f;
    float            w[N], h[COLS], out[OUT], sum;
    size_t           at; /* where in out the next N weights go */
    unsigned char    blocks[N * 4];
    bb_code          code;
} bench;

static size_t row_bytes(const bench *b) { return bb_format_row_bytes(b->f, COLS); }

/* One call works on N weights. */
static void run_encode(bench *b)
{
    for (size_t r = 0; r < ROWS; r++) b->f->encode(b->w + r * COLS, b->h, b->blocks + r * row_bytes(b), COLS);
}
static void run_refit(bench *b)
{
    for (size_t i = 0; i < N; i += b->f->block) b->f->refit(b->w + i, b->h + i % COLS, &b->code);
}
static float *next_out(bench *b) { return b->out + (b->at = (b->at + N) % OUT); }
static void   run_decode(bench *b) { b->f->decode(b->blocks, next_out(b), N); }
static void   run_memset(bench *b) { memset(next_out(b), (int)b->at & 1, N * sizeof *b->out); }
static void   run_dot(bench *b)
{
    for (size_t r = 0; r < ROWS; r++) b->sum += b->f->dot(b->blocks + r * row_bytes(b), b->h, COLS);
}

static int ascending(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 10^6 weights a second. */
static double time_it(bench *b, void (*run)(bench *), double *median)
{
    double rate[SAMPLES];
    run(b);
    for (int s = 0; s < SAMPLES; s++) {
        double t0 = cpu_seconds(), t;
        int    n = 0;
        do run(b), n++;
        while ((t = cpu_seconds() - t0) < 0.05);
        rate[s] = 1e-6 * N * n / t;
    }
    qsort(rate, SAMPLES, sizeof *rate, ascending);
    if (median) *median = rate[SAMPLES / 2];
    return rate[SAMPLES - 1];
}

static double relative_error(const bench *b)
{
    double error = 0, energy = 0;
    for (int i = 0; i < 6 * COLS; i++) {
        double h = (double)b->h[i % COLS], w = (double)b->w[i], r = w - (double)b->out[i];
        error += h * r * r;
        energy += h * w * w;
    }
    return error / energy;
}

/* NaN when llama.cpp's table has no such row. */
static double llama_error(const bb_csv *t, const char *name)
{
    double x;
    for (size_t r = 0; r < t->n_rows; r++)
        if (strcasecmp(bb_csv_text(t, r, 0), name) == 0 && bb_csv_double(t, r, (size_t)bb_csv_column(t, "weighted_relative_error"), &x, NULL) == BB_OK)
            return x;
    return (double)__builtin_nanf("");
}

static void bench_row(bench *b, const bb_csv *vectors, double memory)
{
    double median, encode = time_it(b, run_encode, &median), refit = 0;
    run_encode(b);
    b->f->decode(b->blocks, b->out, N);
    double error = relative_error(b);
    if (b->f->fit) {
        b->f->fit(b->w, b->h, &b->code);
        refit = time_it(b, run_refit, NULL);
    }
    double decode = time_it(b, run_decode, NULL), dot = time_it(b, run_dot, NULL);
    printf("%s,%.4f,%.7f,%.6f,%.2f,%.2f,%.2f,%.0f,%.3f,%.0f\n", b->f->name, bb_format_bpw(b->f), error, llama_error(vectors, b->f->name), encode, median, refit,
           decode, decode / memory, dot);
    fflush(stdout);
}

static size_t read_floats(const char *path, float *x, size_t n)
{
    FILE  *f = fopen(path, "rb");
    size_t got = f ? fread(x, sizeof *x, n, f) : 0;
    if (f) fclose(f);
    return got;
}

int main(int argc, char **argv)
{
    static bench b;
    bb_csv       vectors;
    bb_err       err = BB_ERR_INIT;
    if (read_floats("tests/data/formats/weights.f32", b.w, N) != N || read_floats("tests/data/formats/importance.f32", b.h, COLS) != COLS ||
        bb_csv_read("tests/data/formats/vectors.csv", &vectors, &err) != BB_OK) {
        fprintf(stderr, "bench_formats: run it in the root of the repository: tests/data/formats is missing %s\n", err.msg);
        return EXIT_FAILURE;
    }
    double memory = time_it(&b, run_memset, NULL);
    printf("# level %s, one core, memset %.1f GB/s\n", bb_kernels_get()->level, memory * 4e-3);
    printf("type,bpw,error,llama_error,encode_mw_s,encode_median,refit_mw_s,decode_mw_s,decode_share,dot_mw_s\n");
    for (size_t i = 0; bb_format_at(i); i++) {
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++) wanted |= strcasecmp(argv[a], bb_format_at(i)->name) == 0;
        b.f = bb_format_at(i);
        if (wanted) bench_row(&b, &vectors, memory);
    }
    bb_csv_done(&vectors);
    fprintf(stderr, "checksum %g\n", (double)b.sum);
    return EXIT_SUCCESS;
}
