/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_bench.c: bitbudget bench MODEL.gguf: how fast the forward pass of a file is here, beside what the machine can do at most, measured in the same run.
 *
 * Operations are those that cannot be avoided: 2 for every weight that a token meets, 4 H D for every key that a query meets (its own and those before).
 * One prompt and decoding are made as `generate` makes them, fast ones in 8-bit integers where the matrices are quantized; the others as `eval` does: of fast
 * products that is a third of what is multiplied; their peak is that of the tiles divided by 3. Every row is the median of its repetitions. */
#include <jansson.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "engine/environment.h"
#include "kernels/kernels.h"
#include "model/net/forward.h"
#include "model/net/sample.h"

typedef struct bench_options {
    char   *precision;
    int64_t ctx, windows;
    double  seconds;
    bool    cpu, json, csv;
} bench_options;

static const bb_option_row rows[] = {
    { "ctx", BB_OPT_INT, offsetof(bench_options, ctx), "0", 0, 1 << 20, "N", "tokens of a prompt; 0: 512, or what the model was trained with if less", NULL },
    { "windows", BB_OPT_INT, offsetof(bench_options, windows), "8", 1, 1024, "N", "prompts at a time in the rows of many", NULL },
    { "seconds", BB_OPT_DOUBLE, offsetof(bench_options, seconds), "2", 0.01, 3600, "S", "how long each row is repeated, at least three times", NULL },
    { "precision", BB_OPT_TEXT, offsetof(bench_options, precision), "exact", 1, 0, "NAME",
      "exact, or fast: one prompt and decoding in 8-bit integers, as `generate` makes them; the rest in split products where the CPU has AMX tiles",
      BB_PRECISIONS },
    { "cpu-time", BB_OPT_FLAG, offsetof(bench_options, cpu), NULL, 1, 0, NULL,
      "divide by processor time and not by the clock: for --threads 1 on a busy machine", NULL },
    { "json", BB_OPT_FLAG, offsetof(bench_options, json), NULL, 1, 0, NULL, "print JSON", NULL },
    { "csv", BB_OPT_FLAG, offsetof(bench_options, csv), NULL, 1, 0, NULL, "print CSV", NULL },
};
enum { N_ROWS = sizeof rows / sizeof *rows, MOST_TIMES = 10000, MOST_DECODED = 32, COPIED = 16 << 20 /* floats a thread: 64 MiB, beyond caches */ };

typedef struct job {
    bench_options     o;
    bb_model          m;
    const bb_backend *backend;
    bb_forward       *f;
    uint32_t          S, T;
    int32_t          *tokens;
    bb_buffer         h;
    double           *scores, *nll;
    float            *from, *to; /* of the copy */
    bb_decoder       *decoder;   /* of the row that needs one */
    uint32_t          decoded;   /* tokens of the row decode */
} job;

/* ---- the rows ---- */

static bool is_fast(const job *j) { return strcmp(j->o.precision, "fast") == 0; }

/* What is timed; its work is in the row. */
typedef bb_status (*work)(job *j, bb_err *err);

static bb_status forward(job *j, uint32_t S, bb_err *err)
{
    const bb_net *net = &j->m.net;
    bb_status     status = BB_OK;
    BB_TRY(bb_forward_embed(j->f, net, j->tokens, S, j->T, j->h, err));
    for (uint32_t b = 0; b < net->n_layer; b++) {
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted");
        BB_TRY(bb_forward_block(j->f, net, &net->blocks[b], S, j->T, j->h, NULL, NULL, err));
    }
done:
    return status;
}

/* A prompt, and what comes after it. */
static bb_status prompt(job *j, bb_err *err)
{
    float *logits;
    bb_decoder_rewind(j->decoder);
    return bb_decoder_take(j->decoder, j->tokens, j->T, &logits, err);
}
static bb_status many(job *j, bb_err *err) { return forward(j, j->S, err); }

static bb_status decode(job *j, bb_err *err)
{
    bb_status status = BB_OK;
    float    *logits;
    bb_decoder_rewind(j->decoder);
    for (uint32_t i = 0; i < j->decoded; i++) BB_TRY(bb_decoder_take(j->decoder, &j->tokens[i], 1, &logits, err));
done:
    return status;
}

/* Of the states that the row before left: KL of all their logits, as candidates are scored. */
static bb_status score(job *j, bb_err *err)
{
    return bb_forward_kl(j->f, &j->m.net, j->h, &j->m.net, j->h, j->tokens, (size_t)j->S * j->T, j->scores, j->nll, NULL, err);
}

enum { PEAK_STEPS = 100000, TILE_STEPS = 10000 };

static bb_status peak_fma(job *j, bb_err *err)
{
    (void)j;
    (void)err;
#pragma omp parallel
    {
        float x[BB_PEAK_CHAINS] = { 0 };
        bb_kernels_get()->peak_fma(x, 0.5f, 1, PEAK_STEPS);
    }
    return BB_OK;
}

static bb_status peak_split(job *j, bb_err *err)
{
    (void)j;
    (void)err;
#pragma omp parallel
    {
        _Alignas(64) uint16_t zeros[2 * BB_SPLIT_ROWS * BB_SPLIT_DEPTH] = { 0 };
        _Alignas(64) float    y[32 * 32] = { 0 };
        bb_kernels_get()->peak_split(zeros, zeros, y, TILE_STEPS);
    }
    return BB_OK;
}

static bb_status peak_integer(job *j, bb_err *err)
{
    (void)j;
    (void)err;
#pragma omp parallel
    {
        uint8_t  z[64] = { 0 };
        int8_t   q[64] = { 0 };
        uint32_t sum[BB_PEAK_CHAINS] = { 0 };
        bb_kernels_get()->peak_integer(z, q, sum, PEAK_STEPS);
    }
    return BB_OK;
}

static bb_status copy(job *j, bb_err *err)
{
    (void)err;
#pragma omp parallel
    {
        size_t at = (size_t)omp_get_thread_num() * COPIED;
        memcpy(j->to + at, j->from + at, COPIED * sizeof *j->to);
    }
    return BB_OK;
}

typedef struct row {
    const char *name, *what;
    work        run;
    double      tokens, flops, bytes; /* of one run; 0: not said */
    bool        peak;                 /* of the machine */
    uint32_t    length;               /* tokens of its decoder; 0: it has none */
    double      seconds;              /* median of one run */
} row;

static int ascending(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static bb_status time_row(job *j, row *r, bb_err *err)
{
    double   *times = BB_NEW(MOST_TIMES, double, err), start;
    size_t    n = 0;
    bb_status status = times ? BB_OK : BB_NOMEM;
    if (times && r->length) status = bb_decoder_create(&j->m.net, r->length, 0, is_fast(j), &j->decoder, err);
    if (status == BB_OK) status = r->run(j, err); /* warms up */
    start = bb_now_s();
    while (status == BB_OK && n < MOST_TIMES && (n < 3 || bb_now_s() - start < j->o.seconds)) {
        double from = j->o.cpu ? bb_cpu_s() : bb_now_s();
        status = r->run(j, err);
        times[n++] = (j->o.cpu ? bb_cpu_s() : bb_now_s()) - from;
    }
    if (status == BB_OK) {
        qsort(times, n, sizeof *times, ascending);
        r->seconds = times[n / 2];
    }
    bb_decoder_destroy(j->decoder);
    j->decoder = NULL;
    bb_free(times);
    return status;
}

/* ---- what they are of ---- */

typedef struct sizes {
    double      weights, bytes, attention; /* of the blocks: weights, their bytes, operations a token of a prompt */
    const char *type;                      /* of most weights */
    bool        integers;                  /* they can be multiplied as such */
} sizes;

static sizes sizes_of(const bb_net *net, uint32_t T)
{
    sizes  s = { .type = "none" };
    double by_type[BB_TYPE_COUNT] = { 0 }, most = 0;
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *b = &net->blocks[i];
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &b->w[p];
            if (!bb_block_has_part(b, (bb_part)p)) continue;
            by_type[w->type] += (double)w->rows * w->cols;
            s.weights += (double)w->rows * w->cols;
            s.bytes += (double)w->rows * (double)bb_format_row_bytes(bb_format_get(w->type), w->cols);
        }
        s.attention += 4.0 * (double)bb_dim_of(net, b, BB_DIM_HD) * (T + 1) / 2;
    }
    for (int t = 0; t < BB_TYPE_COUNT; t++)
        if (by_type[t] > most) {
            most = by_type[t];
            s.type = bb_format_get((bb_type)t)->name;
            s.integers = bb_format_get((bb_type)t)->vec > 0;
        }
    return s;
}

static bb_status open_job(job *j, bb_err *err)
{
    const bb_net *net = &j->m.net;
    uint32_t      trained = net->n_ctx_train;
    bb_status     status = BB_NOMEM;
    j->backend = bb_engine_backend();
    j->S = (uint32_t)j->o.windows;
    j->T = j->o.ctx ? (uint32_t)j->o.ctx : trained && trained < 512 ? trained : 512;
    if (trained && j->T > trained) bb_warn("prompts of %u tokens are longer than the %u that %s was trained with", j->T, trained, j->m.path);
    j->decoded = j->T < MOST_DECODED ? j->T : MOST_DECODED;
    size_t n = (size_t)j->S * j->T, copied = (size_t)omp_get_max_threads() * COPIED;
    if (!(j->tokens = BB_NEW(n, int32_t, err)) || !(j->scores = BB_NEW(n, double, err)) || !(j->nll = BB_NEW(n, double, err))) goto done;
    if (!(j->from = BB_NEW0(copied, float, err)) || !(j->to = BB_NEW0(copied, float, err))) goto done;
    for (size_t i = 0; i < n; i++) j->tokens[i] = (int32_t)(i * 2654435761u % net->n_vocab);
    BB_TRY(bb_forward_create(j->backend, net, j->S, j->T, &j->f, err));
    BB_TRY(j->backend->ops->alloc(j->backend->context, n * bb_row_width(net), &j->h, err));
done:
    return status;
}

static void close_job(job *j)
{
    if (j->backend) j->backend->ops->release(j->backend->context, j->h);
    bb_forward_destroy(j->f);
    bb_decoder_destroy(j->decoder);
    bb_free(j->tokens);
    bb_free(j->scores);
    bb_free(j->nll);
    bb_free(j->from);
    bb_free(j->to);
    bb_model_close(&j->m);
    bb_options_done(rows, N_ROWS, &j->o);
}

/* ---- output ---- */

static double per_second(const row *r, double amount) { return amount / r->seconds; }

/* What a row of fast products is fast by. */
static const char *precision_of(const job *j, const row *r) { return (r->length ? is_fast(j) : bb_kernels_fast()) ? "fast" : "exact"; }

/* The peak that a row's products could reach, operations a second; of: the rows of the peaks. */
typedef struct peaks {
    const row *float32, *int8, *bfloat16;
} peaks;
static double peak_of(const job *j, const sizes *s, const row *r, const peaks *of)
{
    if (r->length && is_fast(j) && s->integers) return per_second(of->int8, of->int8->flops);
    if (!r->length && bb_kernels_fast()) return per_second(of->bfloat16, of->bfloat16->flops) / 3;
    return per_second(of->float32, of->float32->flops);
}

static void print_table(const job *j, const sizes *s, const row *r, size_t n, const peaks *of)
{
    printf("%s, %s, %d threads, level %s, %s products%s\n\n%-34s %12s %10s %8s %8s\n", j->m.path, s->type, omp_get_max_threads(), bb_kernels_get()->level,
           bb_kernels_fast() ? "fast" : "exact", is_fast(j) && s->integers ? ", of one prompt and of decoding 8-bit integers" : "", "", "tokens/s", "GFLOP/s",
           "GB/s", "of peak");
    for (size_t i = 0; i < n; i++) {
        printf("%-34s", r[i].what);
        if (r[i].tokens > 0) printf(" %12.0f", per_second(&r[i], r[i].tokens));
        else printf(" %12s", "");
        if (r[i].flops > 0) printf(" %10.1f", per_second(&r[i], r[i].flops) * 1e-9);
        else printf(" %10s", "");
        if (r[i].bytes > 0) printf(" %8.2f", per_second(&r[i], r[i].bytes) * 1e-9);
        else printf(" %8s", "");
        if (!r[i].peak) printf(" %7.0f%%", 100 * per_second(&r[i], r[i].flops) / peak_of(j, s, &r[i], of));
        printf("\n");
    }
}

static void print_csv(const job *j, const sizes *s, const row *r, size_t n, const peaks *of)
{
    printf("row,type,precision,threads,ctx,tokens_per_s,gflops,gbytes_per_s,peak_share,flops_per_token\n");
    for (size_t i = 0; i < n; i++)
        printf("%s,%s,%s,%d,%u,%.1f,%.2f,%.3f,%.3f,%.0f\n", r[i].name, s->type, precision_of(j, &r[i]), omp_get_max_threads(), j->T,
               per_second(&r[i], r[i].tokens), per_second(&r[i], r[i].flops) * 1e-9, per_second(&r[i], r[i].bytes) * 1e-9,
               per_second(&r[i], r[i].flops) / peak_of(j, s, &r[i], of), r[i].tokens > 0 ? r[i].flops / r[i].tokens : 0);
}

static bb_status print_json(const job *j, const sizes *s, const row *r, size_t n, const peaks *of, bb_err *err)
{
    json_t *root = json_pack("{s:s, s:s, s:s, s:i, s:i, s:s}", "type", s->type, "level", bb_kernels_get()->level, "precision",
                             bb_kernels_fast() ? "fast" : "exact", "threads", omp_get_max_threads(), "ctx", (int)j->T, "bits", bb_kernels_bits());
    int     failed;
    for (size_t i = 0; root && i < n; i++) {
        json_t *o = json_pack("{s:f}", "seconds", r[i].seconds);
        if (r[i].tokens > 0) json_object_set_new(o, "tokens_per_s", json_real(per_second(&r[i], r[i].tokens)));
        if (r[i].flops > 0) json_object_set_new(o, "gflops", json_real(per_second(&r[i], r[i].flops) * 1e-9));
        if (r[i].bytes > 0) json_object_set_new(o, "gbytes_per_s", json_real(per_second(&r[i], r[i].bytes) * 1e-9));
        if (!r[i].peak) json_object_set_new(o, "peak_share", json_real(per_second(&r[i], r[i].flops) / peak_of(j, s, &r[i], of)));
        json_object_set_new(root, r[i].name, o);
    }
    if (!root) return BB_FAIL(err, BB_NOMEM, "out of memory");
    failed = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(root);
    return failed || putchar('\n') == EOF ? BB_FAIL(err, BB_IO, "standard output could not be written") : BB_OK;
}

static bb_status run_rows(job *j, bb_err *err)
{
    const bb_net    *net = &j->m.net;
    const sizes      s = sizes_of(net, j->T);
    const double     threads = omp_get_max_threads(), one = j->T, all = (double)j->S * j->T, head = 2.0 * net->n_vocab * net->n_embd;
    const bb_matrix *out = bb_net_head(net);
    const double     head_bytes = (double)out->rows * (double)bb_format_row_bytes(bb_format_get(out->type), out->cols);
    const double     steps = j->decoded, decoded = steps * (2 * s.weights + s.attention * (steps + 1) / (j->T + 1) + head);
    const double     token = 2 * s.weights + s.attention, tile = 2.0 * 32 * 32 * 32, copied = 2.0 * threads * COPIED * sizeof(float);
    row              r[] = {
                     { .name = "peak_float32", .what = "peak: float32 fma", .run = peak_fma, .flops = 2.0 * BB_PEAK_CHAINS * PEAK_STEPS * threads, .peak = true },
                     { .name = "peak_copy", .what = "peak: copy, read and written", .run = copy, .bytes = copied, .peak = true },
                     { .name = "prompt", .what = "prefill, one prompt", .run = prompt, .tokens = one, .flops = one * token + head, .bytes = s.bytes, .length = j->T },
                     { .name = "prompts", .what = "prefill, many prompts", .run = many, .tokens = all, .flops = all * token, .bytes = s.bytes },
                     { .name = "decode",
                       .what = "decode, one token at a time",
                       .run = decode,
                       .tokens = steps,
                       .flops = decoded,
                       .bytes = steps * (s.bytes + head_bytes),
                       .length = j->decoded },
                     { .name = "score", .what = "head and KL, two networks", .run = score, .tokens = all, .flops = 2 * all * head },
                     { .name = "peak_int8", .what = "peak: 8-bit integers", .run = peak_integer, .flops = 8.0 * BB_PEAK_CHAINS * PEAK_STEPS * threads, .peak = true },
                     { .name = "peak_bfloat16", .what = "peak: bfloat16 tiles", .run = peak_split, .flops = tile * TILE_STEPS * threads, .peak = true },
    };
    const size_t n = sizeof r / sizeof *r - !bb_kernels_can_be_fast();
    bb_status    status = BB_OK;
    for (size_t i = 0; i < n; i++) BB_TRY(time_row(j, &r[i], err));
    const peaks of = { &r[0], &r[6], &r[7] };
    if (j->o.json) status = print_json(j, &s, r, n, &of, err);
    else if (j->o.csv) print_csv(j, &s, r, n, &of);
    else print_table(j, &s, r, n, &of);
done:
    return status;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    job         j = { .backend = NULL };
    const char *path = NULL;
    size_t      n = 0;
    bb_status   status;
    BB_TRY(bb_command_options(&bb_command_bench, &j.o, argc, argv, &path, 1, &n, err));
    if (n == 0 || (j.o.json && j.o.csv)) {
        status = n == 0 ? BB_FAIL(err, BB_USAGE, "bench needs a model file") : BB_FAIL(err, BB_USAGE, "--json and --csv: one form can be printed");
        goto done;
    }
    if (j.o.cpu && omp_get_max_threads() > 1) {
        status = BB_FAIL(err, BB_USAGE, "--cpu-time needs --threads 1: threads that wait for others take processor time too");
        goto done;
    }
    bb_precision_use(j.o.precision, false); /* the table says what is fast */
    BB_TRY(bb_model_open(path, &j.m, err));
    BB_TRY(bb_model_check_weights(&j.m, false, NULL, err));
    BB_TRY(open_job(&j, err));
    BB_TRY(run_rows(&j, err));
done:
    close_job(&j);
    return status;
}

const bb_command bb_command_bench = {
    .name = "bench",
    .summary = "measure how fast a model's forward pass is here, beside what the machine can do at most",
    .usage = "MODEL.gguf",
    .example = "bitbudget bench model.gguf --threads 2\n"
               "bitbudget bench model.gguf --precision fast --ctx 256 --json",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
