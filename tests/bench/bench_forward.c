/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_forward.c: speed of the forward and backward passes on a network of the demo model's shape (random F16 weights).
 *
 * Prints CSV: what, unit, best, median, share. share = GFLOP/s of the row / GFLOP/s of the bare product kernel on the model's own
 * layer shapes with the same threads ("peak"). FLOPs of the hidden pass: 2 * weights of the blocks + attention (causal half).
 * Every row: warm-up, then samples of at least 50 ms. Usage: bench_forward [windows [cpu]]; "cpu" divides by process CPU time
 * instead of wall time, for one thread on a busy machine.
 */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernels/blas.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "model/net/backward.h"
#include "model/net/forward.h"

enum { C = 256, LAYERS = 8, H = 8, G = 4, D = 32, F = 768, V = 4096, T = 256, SAMPLES = 9 };

static uint64_t seed = 1;

static float noise(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(seed >> 11) * 0x1p-52 - 1);
}

static void *must(void *p)
{
    if (!p) abort();
    return p;
}

static bb_matrix matrix(uint32_t rows, uint32_t cols)
{
    uint16_t *w = must(BB_NEW((size_t)rows * cols, uint16_t, NULL));
    for (size_t i = 0; i < (size_t)rows * cols; i++) w[i] = bb_float_to_half(noise() * 0.1f);
    return (bb_matrix) { BB_F16, rows, cols, w, NULL, NULL };
}

static const float *ones(size_t n)
{
    float *x = must(BB_NEW(n, float, NULL));
    for (size_t i = 0; i < n; i++) x[i] = 1;
    return x;
}

static bb_net make_net(void)
{
    bb_net n = { .n_vocab = V, .n_embd = C, .n_layer = LAYERS, .head_dim = D, .n_rot = D, .norm_eps = 1e-5f, .rope_base = 10000, .rope_freq_scale = 1 };
    n.embd = matrix(V, C);
    n.out_norm = ones(C);
    n.blocks = must(BB_NEW0(LAYERS, bb_block, NULL));
    for (int i = 0; i < LAYERS; i++)
        n.blocks[i] = (bb_block) { .n_head = H,
                                   .n_kv = G,
                                   .n_ff = F,
                                   .norm = { [BB_NORM_ATTENTION] = ones(C), [BB_NORM_FFN] = ones(C) },
                                   .w = { matrix(H * D, C), matrix(G * D, C), matrix(G * D, C), matrix(C, H * D), matrix(F, C), matrix(F, C), matrix(C, F) } };
    return n;
}

/* ---- what is timed ---- */

typedef struct bench {
    bb_net            net;
    bb_forward       *f;
    uint32_t          S;
    int32_t          *tokens;
    float            *h, *h0, *h_ref;
    double           *nll, *kl;
    float            *x, *panels, *y; /* peak: each thread its own slice */
    const bb_kernels *k;
    bb_backward      *b;
    float            *dh, *dw[BB_N_PARTS];
} bench;

static void run_hidden(bench *b)
{
    memcpy(b->h, b->h0, (size_t)b->S * T * C * sizeof *b->h);
    for (int i = 0; i < LAYERS; i++)
        if (bb_forward_block(b->f, &b->net, &b->net.blocks[i], b->S, T, bb_on_cpu(b->h), NULL, NULL, NULL) != BB_OK) abort();
}
static void run_last_block(bench *b)
{
    memcpy(b->h, b->h0, (size_t)b->S * T * C * sizeof *b->h);
    if (bb_forward_block(b->f, &b->net, &b->net.blocks[0], b->S, T, bb_on_cpu(b->h), NULL, NULL, NULL) != BB_OK) abort();
}
static void run_one_window(bench *b)
{
    memcpy(b->h, b->h0, T * C * sizeof *b->h);
    if (bb_forward_block(b->f, &b->net, &b->net.blocks[0], 1, T, bb_on_cpu(b->h), NULL, NULL, NULL) != BB_OK) abort();
}
static void run_nll(bench *b)
{
    if (bb_forward_nll(b->f, &b->net, bb_on_cpu(b->h), b->tokens, (size_t)b->S * T, b->nll, NULL) != BB_OK) abort();
}
static void run_kl(bench *b)
{
    if (bb_forward_kl(b->f, &b->net, bb_on_cpu(b->h_ref), &b->net, bb_on_cpu(b->h), b->tokens, (size_t)b->S * T, b->kl, b->nll, NULL, NULL) != BB_OK) abort();
}

static void run_back(bench *b)
{
    if (bb_backward_block(b->b, &b->net, &b->net.blocks[0], b->S, T, bb_on_cpu(b->h0), bb_on_cpu(b->dh), NULL, NULL) != BB_OK) abort();
}
static void run_back_weights(bench *b)
{
    bb_block_grad g = { 0 };
    memcpy(g.w, b->dw, sizeof g.w);
    if (bb_backward_block(b->b, &b->net, &b->net.blocks[0], b->S, T, bb_on_cpu(b->h0), bb_on_cpu(b->dh), &g, NULL) != BB_OK) abort();
}
static void run_back_head(bench *b)
{
    bb_head_loss of = { .ref_net = &b->net, .h_ref = bb_on_cpu(b->h_ref) };
    if (bb_backward_head(b->b, &b->net, bb_on_cpu(b->h0), (size_t)b->S * T, &of, b->kl, bb_on_cpu(b->dh), NULL, NULL) != BB_OK) abort();
}

static const uint32_t layer_shapes[7][2] = { { H * D, C }, { G * D, C }, { G * D, C }, { C, H *D }, { F, C }, { F, C }, { C, F } };

static void run_peak(bench *b)
{
#pragma omp parallel
    {
        size_t me = (size_t)omp_get_thread_num();
        for (int i = 0; i < 7; i++)
            b->k->product(128, layer_shapes[i][0], layer_shapes[i][1], b->x + me * 128 * F, layer_shapes[i][1], b->panels, NULL, false, b->y + me * 128 * F,
                          layer_shapes[i][0]);
    }
}
static void run_blas_peak(bench *b)
{
#pragma omp parallel
    {
        size_t me = (size_t)omp_get_thread_num();
        for (int i = 0; i < 7; i++)
            bb_sgemm_nt(128, layer_shapes[i][0], layer_shapes[i][1], 1, b->x + me * 128 * F, layer_shapes[i][1], b->panels, layer_shapes[i][1], 0,
                        b->y + me * 128 * F, layer_shapes[i][0]);
    }
}

static bool cpu_time;

static double seconds(void)
{
    struct timespec t;
    if (!cpu_time) return bb_now_s();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

/* Work a second: best and median of SAMPLES. */
static void time_it(bench *b, void (*run)(bench *), double work, double *best, double *median)
{
    double rate[SAMPLES];
    run(b);
    for (int s = 0; s < SAMPLES; s++) {
        double t0 = seconds(), t;
        int    n = 0;
        do run(b), n++;
        while ((t = seconds() - t0) < 0.05);
        rate[s] = work * n / t;
    }
    qsort(rate, SAMPLES, sizeof *rate, ascending);
    *best = rate[SAMPLES - 1];
    *median = rate[SAMPLES / 2];
}

int main(int argc, char **argv)
{
    static bench b;
    double       weights = 0, peak, median, best;
    b.S = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 16;
    cpu_time = argc > 2 && strcmp(argv[2], "cpu") == 0;
    if (b.S == 0) return 2;
    bb_blas_init();
    b.k = bb_kernels_get();
    b.net = make_net();
    size_t n = (size_t)b.S * T, threads = (size_t)omp_get_max_threads();
    b.tokens = must(BB_NEW(n, int32_t, NULL));
    for (size_t i = 0; i < n; i++) b.tokens[i] = (int32_t)(i * 2654435761u % V);
    b.h = must(BB_NEW(n * C, float, NULL));
    b.h0 = must(BB_NEW(n * C, float, NULL));
    b.h_ref = must(BB_NEW(n * C, float, NULL));
    b.nll = must(BB_NEW(n, double, NULL));
    b.kl = must(BB_NEW(n, double, NULL));
    b.x = must(BB_NEW0(threads * 128 * F, float, NULL));
    b.y = must(BB_NEW0(threads * 128 * F, float, NULL));
    b.panels = must(BB_NEW0((size_t)F * C, float, NULL));
    for (size_t i = 0; i < n * C; i++) b.h0[i] = b.h[i] = b.h_ref[i] = noise();
    b.dh = must(BB_NEW0(n * C, float, NULL));
    for (int i = 0; i < 7; i++) b.dw[i] = must(BB_NEW0((size_t)layer_shapes[i][0] * layer_shapes[i][1], float, NULL));
    if (bb_forward_create(&bb_backend_cpu, &b.net, b.S, T, &b.f, NULL) != BB_OK || bb_backward_create(&bb_backend_cpu, &b.net, b.S, T, &b.b, NULL) != BB_OK)
        abort();
    for (int i = 0; i < 7; i++) weights += (double)layer_shapes[i][0] * layer_shapes[i][1];
    double block_flops = 2 * weights + 2.0 * 2 * H * D * (T + 1) / 2, head_flops = 2.0 * V * C;
    printf("# level %s, %zu threads, %u windows of %d, BLAS %s\nwhat,unit,best,median,share\n", b.k->level, threads, b.S, T, bb_blas_name());
    time_it(&b, run_peak, (double)threads * 128 * 2 * weights * 1e-9, &peak, &median);
    printf("peak (own product),GFLOP/s,%.1f,%.1f,1\n", peak, median);
    time_it(&b, run_blas_peak, (double)threads * 128 * 2 * weights * 1e-9, &best, &median);
    printf("OpenBLAS on the same shapes,GFLOP/s,%.1f,%.1f,%.3f\n", best, median, best / peak);
    const struct {
        const char *what;
        void (*run)(bench *);
        double tokens, flops;
    } rows[] = {
        { "hidden states (8 blocks)", run_hidden, (double)n, LAYERS * block_flops },
        { "one block", run_last_block, (double)n, block_flops },
        { "one block of one window", run_one_window, T, block_flops },
        { "nll", run_nll, (double)n, head_flops },
        { "kl + nll", run_kl, (double)n, 2 * head_flops },
        { "backward of one block", run_back, (double)n, 2 * block_flops },
        { "the same with all weight gradients", run_back_weights, (double)n, 3 * block_flops },
        { "backward of the head (KL)", run_back_head, (double)n, 3 * head_flops },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        time_it(&b, rows[i].run, rows[i].tokens, &best, &median);
        printf("%s,tokens/s,%.0f,%.0f,%.3f\n", rows[i].what, best, median, best * rows[i].flops * 1e-9 / peak);
    }
    double check = 0;
    for (size_t i = 0; i < n; i++) check += b.nll[i] + b.kl[i];
    fprintf(stderr, "checksum %g\n", check);
    return 0;
}
