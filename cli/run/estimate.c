/* SPDX-License-Identifier: GPL-3.0-or-later
 * estimate.c: see estimate.h. Counts from shapes: multiply-adds a token of the blocks and the head, options times windows, packed bytes of
 * all options. Time = operations / (measured SGEMM rate x share of it that a forward pass reaches). */
#include "cli/run/estimate.h"

#include <omp.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "kernels/blas.h"

/* Forward pass over SGEMM rate, and seconds of error feedback a weight and format on one core: measured on wiki8m (results/README.md). */
static const double forward_share = 0.5, quantize_s = 1.0e-6;

typedef struct counts {
    double   block_flop, head_flop;      /* of one token: all blocks, the head */
    uint64_t option_bytes, n_options;
    double   option_weights;             /* weights encoded, all options together */
    uint64_t hessian_bytes, largest_hessian;
} counts;

static counts count(const bb_run *r)
{
    const bb_net     *net = &r->model.net;
    const bb_problem *p = bb_model_space_problem(r->space);
    counts            c = { 0 };
    for (uint32_t b = 0; b < net->n_layer; b++) {
        const bb_block *block = &net->blocks[b];
        uint64_t        widths[4] = { net->n_embd, block->w[BB_PART_O].cols, net->n_embd, block->n_ff }, sum = 0;
        for (int k = 0; k < BB_N_PARTS; k++) c.block_flop += 2.0 * block->w[k].rows * block->w[k].cols;
        c.block_flop += 2.0 * (double)block->n_head * net->head_dim * (double)r->config.ctx;
        for (int k = 0; k < 4; k++) sum += widths[k] * widths[k] * sizeof(float);
        c.hessian_bytes += sum;
        if (sum > c.largest_hessian) c.largest_hessian = sum;
    }
    c.head_flop = 2.0 * net->n_vocab * net->n_embd;
    for (uint32_t u = 0; u < p->n_units; u++)
        for (uint32_t o = 0; o < p->units[u].n_options; o++) {
            c.n_options++;
            if (!bb_model_space_is_format(r->space, u)) continue;
            int64_t bytes = p->units[u].bytes[o];
            const bb_format *f = bb_format_find(p->units[u].options[o]);
            if (bytes <= 0 || bb_is_forbidden(bytes) || !f || o + 1 == p->units[u].n_options) continue;
            c.option_bytes += (uint64_t)bytes;
            c.option_weights += (double)bytes * 8 / bb_format_bpw(f);
        }
    return c;
}

uint64_t bb_estimate_disk(const bb_run *r)
{
    const counts n = count(r);
    return n.option_bytes + n.hessian_bytes;
}

/* GFLOP/s of SGEMM over all threads on the shape that the forward pass uses most. */
static double sgemm_rate(void)
{
    enum { N = 256, REPEAT = 24 };
    int    threads = omp_get_max_threads();
    float *memory = bb_calloc((size_t)threads * 3 * N * N, sizeof(float), NULL);
    double started;
    if (!memory) return 10e9;
    bb_sgemm_nt(N, N, N, 1, memory, N, memory + N * N, N, 0, memory + 2 * N * N, N);
    started = bb_now_s();
    #pragma omp parallel for schedule(static)
    for (int t = 0; t < threads; t++) {
        float *m = memory + (size_t)t * 3 * N * N;
        for (int i = 0; i < REPEAT; i++) bb_sgemm_nt(N, N, N, 1, m, N, m + N * N, N, 0, m + 2 * N * N, N);
    }
    started = bb_now_s() - started;
    bb_free(memory);
    return 2.0 * N * N * N * REPEAT * threads / (started > 1e-9 ? started : 1e-9);
}

bb_status bb_estimate_print(bb_run *r, FILE *out, bb_err *err)
{
    const bb_run_config *c = &r->config;
    counts   n = count(r);
    uint64_t smallest, largest, hidden, cache, ram;
    double   ctx = (double)c->ctx, rate = sgemm_rate() * forward_share, token = n.block_flop + 2 * n.head_flop;
    double   t_calib = (double)c->calib_windows * ctx, t_measure = (double)n.n_options * (double)c->measure_windows * ctx * 0.55, t_search = c->search_tokens * 1e6;
    double   t_final = (double)r->n_budgets * 2 * ((double)c->calib_windows + (double)c->confirm_windows) * ctx;
    double   s_build = n.option_weights * quantize_s / omp_get_max_threads();
    double   seconds = s_build + (t_calib + t_measure + t_search + t_final) * token / rate;
    char     text[32], more[32];
    bb_status status;
    BB_TRY(bb_model_space_reach(r->space, &smallest, &largest, err));
    hidden = (uint64_t)((double)c->confirm_windows * ctx) * r->model.net.n_embd * sizeof(float);
    cache = hidden * (r->model.net.n_layer + 1);
    if (cache > c->max_ram) cache = c->max_ram;
    ram = 2 * hidden + cache + (uint64_t)((double)c->calib_windows * ctx) * r->model.net.n_embd * sizeof(float) + 3 * n.largest_hessian;
    bb_format_size(smallest, text);
    bb_format_size(largest, more);
    fprintf(out, "reachable       %llu bytes (%s) .. %llu bytes (%s)\n", (unsigned long long)smallest, text, (unsigned long long)largest, more);
    for (size_t i = 0; i < r->n_budgets; i++) fprintf(out, "budget          %lld bytes, %.3f bits per weight\n", (long long)r->budgets[i], 8.0 * (double)r->budgets[i] / (double)r->n_weights);
    fprintf(out, "options         %llu over %u units\n", (unsigned long long)n.n_options, bb_model_space_problem(r->space)->n_units);
    bb_format_size(ram, text);
    fprintf(out, "memory          %s beside the mapped model\n", text);
    bb_format_size(n.option_bytes + n.hessian_bytes, text);
    fprintf(out, "disk            %s option database and second moments\n", text);
    fprintf(out, "tokens          %.2f M forwarded: calibrate %.2f, measure %.2f, search %.2f, finalise %.2f; evaluation on top\n",
            (t_calib + t_measure + t_search + t_final) / 1e6, t_calib / 1e6, t_measure / 1e6, t_search / 1e6, t_final / 1e6);
    bb_format_time(seconds, text);
    bb_format_time(s_build, more);
    fprintf(out, "time            about %s on %d threads, of which %s to build the options\n", text, omp_get_max_threads(), more);
done:
    return status;
}
