/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_dropped.c: what can stand in for an attention that is dropped? Block by block, all else in full precision.
 *
 * usage: bench_dropped MODEL CALIBRATION EVALUATION DIR [key=value ...]   calib=64  eval=32  ctx=256
 * Variants: nothing; the mean of what it added (a bias); the least-squares linear map of its normed input, with the bias, ridge 0.01 (llama.cpp's
 * deci graph has such a "linear attention": attn_norm and one n_embd x n_embd matrix, no bias) in F32, and without the bias in block formats;
 * one KV group kept, compensated, its matrices in formats. DIR keeps the option database. Prints CSV: block,what,format,bytes,kl_nats,kl_se.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "eval/evaluate.h"
#include "kernels/blas.h"
#include "model/compress/database.h"

static const double ridge = 0.01;

typedef struct bench {
    bb_model     model;
    bb_windows   calib, eval;
    bb_forward  *forward;
    bb_database *db;
    float       *reference; /* [eval tokens][C] final hidden states of full precision */
} bench;

/* What replaces an attention: h += map x + bias, x the normed input. map NULL: no map. */
typedef struct stand_in {
    uint32_t     block;
    const float *map, *bias;
} stand_in;

static const char *value_of(int argc, char **argv, const char *key, const char *fallback)
{
    for (int i = 5; i < argc; i++)
        if (strncmp(argv[i], key, strlen(key)) == 0 && argv[i][strlen(key)] == '=') return argv[i] + strlen(key) + 1;
    return fallback;
}

static bb_status windows_of(const bb_model *m, const char *path, uint32_t ctx, uint32_t n, bb_windows *w, bb_err *err)
{
    bb_tokens t = { 0 };
    int32_t   bos;
    bb_status status;
    BB_TRY(bb_tokens_load(m, path, false, &t, err));
    BB_TRY(bb_tokens_bos(m, &bos, err));
    BB_TRY(bb_windows_make(&t, BB_PROTOCOL_GGUF, ctx, bos, n, true, w, err));
done:
    bb_tokens_done(&t);
    return status;
}

static void norm_rows(const bb_net *net, const float *gain, const float *h, size_t n, float *x)
{
    const uint32_t C = net->n_embd;
    for (size_t t = 0; t < n; t++) {
        double sum = 0;
        for (uint32_t c = 0; c < C; c++) sum += (double)h[t * C + c] * (double)h[t * C + c];
        const double scale = 1 / sqrt(sum / C + (double)net->norm_eps);
        for (uint32_t c = 0; c < C; c++) x[t * C + c] = (float)((double)h[t * C + c] * scale) * gain[c];
    }
}

/* One window (or n) through one block whose attention is the stand-in. */
static bb_status replaced_block(bench *b, const stand_in *s, uint32_t T, float *h, float *x, bb_err *err)
{
    const bb_net  *net = &b->model.net;
    const uint32_t C = net->n_embd;
    bb_block       ffn = net->blocks[s->block];
    if (s->map) {
        norm_rows(net, ffn.norm[BB_NORM_ATTENTION], h, T, x);
        bb_sgemm_nt(T, C, C, 1, x, C, s->map, C, 1, h, C);
    }
    for (size_t i = 0; s->bias && i < (size_t)T * C; i++) h[i] += s->bias[i % C];
    ffn.n_head = ffn.n_kv = 0;
    return bb_forward_block(b->forward, net, &ffn, 1, T, bb_on_cpu(h), NULL, NULL, err);
}

/* Final hidden states of the evaluation windows: of net with one attention replaced (s may be NULL). */
static bb_status run(bench *b, const bb_net *net, const stand_in *s, float *out, bb_err *err)
{
    const uint32_t T = b->eval.ctx, C = net->n_embd;
    float         *x = BB_NEW((size_t)T * C, float, err);
    bb_status      status = x ? BB_OK : BB_NOMEM;
    for (uint32_t w = 0; w < b->eval.n && status == BB_OK; w++) {
        float *h = out + (size_t)w * T * C;
        BB_TRY(bb_forward_embed(b->forward, net, b->eval.tokens + (size_t)w * T, 1, T, bb_on_cpu(h), err));
        for (uint32_t i = 0; i < net->n_layer; i++)
            BB_TRY(s && i == s->block ? replaced_block(b, s, T, h, x, err)
                                      : bb_forward_block(b->forward, net, &net->blocks[i], 1, T, bb_on_cpu(h), NULL, NULL, err));
    }
done:
    bb_free(x);
    return status;
}

/* KL of the final logits to full precision over the scored positions; one row of the table. */
static bb_status report(bench *b, const bb_net *net, const stand_in *s, uint32_t block, const char *what, const char *format, uint64_t bytes, bb_err *err)
{
    const bb_windows *w = &b->eval;
    const uint32_t    C = net->n_embd;
    float            *h = BB_NEW((size_t)w->n * w->ctx * C, float, err);
    double           *kl = BB_NEW(w->n_scored, double, err), sum = 0, squares = 0;
    bb_status         status = h && kl ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    BB_TRY(run(b, net, s, h, err));
    for (uint32_t i = 0; i < w->n; i++) {
        const size_t at = ((size_t)i * w->ctx + w->first) * C;
        double       mean = 0;
        BB_TRY(bb_forward_kl(b->forward, &b->model.net, bb_on_cpu(b->reference + at), net, bb_on_cpu(h + at), NULL, w->n_scored, kl, NULL, NULL, err));
        for (uint32_t t = 0; t < w->n_scored; t++) mean += kl[t] / w->n_scored;
        sum += mean;
        squares += mean * mean;
    }
    sum /= w->n;
    printf("%u,%s,%s,%llu,%.6g,%.3g\n", block, what, format, (unsigned long long)bytes, sum, sqrt(fmax(0, squares / w->n - sum * sum) / (w->n - 1)));
    fflush(stdout);
done:
    bb_free(h);
    bb_free(kl);
    return status;
}

/* Moments over the calibration windows of what the attention of one block added, y, and its normed input x: E[x x'], E[y x'], means. */
typedef struct moments {
    double    *xx, *yx, *x, *y;
    bb_hessian h;
} moments;

static void moments_done(moments *m)
{
    bb_free(m->xx);
    bb_free(m->yx);
    bb_free(m->x);
    bb_free(m->y);
    bb_hessian_done(&m->h);
}

static bb_status moments_of(bench *b, uint32_t block, moments *m, bb_err *err)
{
    const bb_net  *net = &b->model.net;
    const uint32_t T = b->calib.ctx, C = net->n_embd;
    const double   share = 1.0 / ((double)b->calib.n * T);
    bb_block       attention = net->blocks[block];
    float         *h = BB_NEW((size_t)T * C, float, err), *x = BB_NEW((size_t)T * C, float, err), *y = BB_NEW((size_t)T * C, float, err);
    bb_status      status;
    *m = (moments) { BB_NEW0((size_t)C * C, double, err), BB_NEW0((size_t)C * C, double, err), BB_NEW0(C, double, err), BB_NEW0(C, double, err), { 0 } };
    if (!h || !x || !y || !m->xx || !m->yx || !m->x || !m->y) {
        status = BB_NOMEM;
        goto done;
    }
    attention.n_ff = 0;
    for (uint32_t w = 0; w < b->calib.n; w++) {
        BB_TRY(bb_forward_embed(b->forward, net, b->calib.tokens + (size_t)w * T, 1, T, bb_on_cpu(h), err));
        for (uint32_t i = 0; i < block; i++) BB_TRY(bb_forward_block(b->forward, net, &net->blocks[i], 1, T, bb_on_cpu(h), NULL, NULL, err));
        norm_rows(net, attention.norm[BB_NORM_ATTENTION], h, T, x);
        memcpy(y, h, (size_t)T * C * sizeof *y);
        BB_TRY(bb_forward_block(b->forward, net, &attention, 1, T, bb_on_cpu(y), NULL, NULL, err));
        for (size_t i = 0; i < (size_t)T * C; i++) {
            y[i] -= h[i];
            m->x[i % C] += (double)x[i] * share;
            m->y[i % C] += (double)y[i] * share;
        }
        BB_TRY(bb_hessian_add(&m->h, x, T, C, T, err));
        for (size_t t = 0; t < T; t++)
            for (uint32_t i = 0; i < C; i++)
                for (uint32_t j = 0; j < C; j++) m->yx[(size_t)i * C + j] += share * (double)y[t * C + i] * (double)x[t * C + j];
    }
    BB_TRY(bb_hessian_finish(&m->h, err));
    for (size_t i = 0; i < (size_t)C * C; i++) m->xx[i] = (double)m->h.h[i];
done:
    bb_free(h);
    bb_free(x);
    bb_free(y);
    return status;
}

/* map (C, C) of least squared error, centred: the bias then is E[y] - map E[x]. */
static bb_status fit(const moments *m, uint32_t C, bool centred, float *map, float *bias, bb_err *err)
{
    double   *a = BB_NEW((size_t)C * C, double, err), *t = BB_NEW((size_t)C * C, double, err), mean = 0;
    bb_status status = a && t ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    for (uint32_t i = 0; i < C; i++) mean += m->xx[(size_t)i * C + i] / C;
    for (uint32_t i = 0; i < C; i++)
        for (uint32_t j = 0; j < C; j++) {
            a[(size_t)i * C + j] = m->xx[(size_t)i * C + j] - (centred ? m->x[i] * m->x[j] : 0) + (i == j ? ridge * mean : 0);
            t[(size_t)j * C + i] = m->yx[(size_t)i * C + j] - (centred ? m->y[i] * m->x[j] : 0);
        }
    BB_TRY(bb_cholesky(a, C, err));
    BB_TRY(bb_cholesky_solve(a, C, t, C, err));
    for (uint32_t i = 0; i < C; i++) {
        double shift = m->y[i];
        for (uint32_t j = 0; j < C; j++) {
            map[(size_t)i * C + j] = (float)t[(size_t)j * C + i];
            shift -= t[(size_t)j * C + i] * m->x[j];
        }
        bias[i] = (float)shift;
    }
done:
    bb_free(a);
    bb_free(t);
    return status;
}

static bb_status linear_maps(bench *b, uint32_t block, const moments *m, bb_err *err)
{
    static const char *const      formats[] = { "Q2_K", "Q3_K", "Q4_K", "Q6_K" };
    static const bb_quant_options o = { BB_METHOD_FEEDBACK, 0.01, 4 };
    const bb_net                 *net = &b->model.net;
    const uint32_t                C = net->n_embd;
    float                        *map = BB_NEW((size_t)C * C, float, err), *coded = BB_NEW((size_t)C * C, float, err), *bias = BB_NEW(C, float, err);
    void                         *packed = bb_alloc((size_t)C * C, 4, err);
    bb_status                     status = map && coded && bias && packed ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    for (uint32_t c = 0; c < C; c++) bias[c] = (float)m->y[c];
    BB_TRY(report(b, net, &(stand_in) { block, NULL, bias }, block, "bias", "F32", 4 * C, err));
    BB_TRY(fit(m, C, true, map, bias, err));
    BB_TRY(report(b, net, &(stand_in) { block, map, bias }, block, "map and bias", "F32", 4 * (uint64_t)C * (C + 1), err));
    BB_TRY(fit(m, C, false, map, bias, err));
    BB_TRY(report(b, net, &(stand_in) { block, map, NULL }, block, "map", "F32", 4 * (uint64_t)C * C, err));
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const bb_format *f = bb_format_find(formats[i]);
        if (C % f->block) continue;
        BB_TRY(bb_quantize(map, C, C, &m->h, f->type, &o, packed, NULL, err));
        f->decode(packed, coded, (size_t)C * C);
        BB_TRY(report(b, net, &(stand_in) { block, coded, NULL }, block, "map", f->name, C * bb_format_row_bytes(f, C), err));
    }
done:
    bb_free(map);
    bb_free(coded);
    bb_free(bias);
    bb_free(packed);
    return status;
}

/* `kept` KV groups, q k v in one format and o in one that its rows allow. */
static bb_status kept_groups(bench *b, uint32_t block, const char *kept, const char *input, const char *output, bb_err *err)
{
    const char *const parts[] = { "attn_q", "attn_k", "attn_v", "attn_output" };
    bb_plan           plan = { 0, NULL };
    bb_net            net;
    bb_block         *blocks = BB_NEW(b->model.net.n_layer, bb_block, err);
    char              unit[64], format[64], what[32];
    uint64_t          bytes = 0;
    bb_status         status = blocks ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    snprintf(unit, sizeof unit, "blk.%u.kv", block);
    BB_TRY(bb_plan_set(&plan, unit, kept, err));
    for (int i = 0; i < 4; i++) {
        snprintf(unit, sizeof unit, "blk.%u.%s", block, parts[i]);
        BB_TRY(bb_plan_set(&plan, unit, i < 3 ? input : output, err));
    }
    BB_TRY(bb_database_apply(b->db, &plan, &net, blocks, err));
    for (int p = BB_PART_Q; p <= BB_PART_O; p++)
        bytes += blocks[block].w[p].rows * bb_format_row_bytes(bb_format_get(blocks[block].w[p].type), blocks[block].w[p].cols);
    snprintf(format, sizeof format, "%s + %s", input, output);
    snprintf(what, sizeof what, "%s KV group%s", kept, strcmp(kept, "1") ? "s" : "");
    BB_TRY(report(b, &net, NULL, block, what, format, bytes, err));
done:
    bb_plan_done(&plan);
    bb_free(blocks);
    return status;
}

static bb_status one_block(bench *b, uint32_t block, bb_err *err)
{
    static const char *const formats[][2] = { { "IQ2_XXS", "Q2_0" }, { "Q2_K", "Q2_0" }, { "Q3_K", "Q4_0" }, { "Q4_K", "Q4_0" }, { "Q5_K", "Q5_0" } };
    moments                  m;
    bb_status                status;
    BB_TRY(moments_of(b, block, &m, err));
    BB_TRY(report(b, &b->model.net, &(stand_in) { block, NULL, NULL }, block, "nothing", "", 0, err));
    BB_TRY(linear_maps(b, block, &m, err));
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) BB_TRY(kept_groups(b, block, "1", formats[i][0], formats[i][1], err));
done:
    moments_done(&m);
    return status;
}

int main(int argc, char **argv)
{
    bb_err    err = BB_ERR_INIT;
    bench     b = { 0 };
    bb_status status;
    if (argc < 5) {
        fprintf(stderr, "usage: bench_dropped MODEL CALIBRATION EVALUATION DIR [key=value ...]\n");
        return argc == 1 ? 0 : 2; /* `make bench` runs them all */
    }
    bb_blas_init();
    bb_log_set_level(BB_LOG_QUIET);
    const uint32_t ctx = (uint32_t)strtoul(value_of(argc, argv, "ctx", "256"), NULL, 10);
    BB_TRY(bb_model_open(argv[1], &b.model, &err));
    BB_TRY(windows_of(&b.model, argv[2], ctx, (uint32_t)strtoul(value_of(argc, argv, "calib", "64"), NULL, 10), &b.calib, &err));
    BB_TRY(windows_of(&b.model, argv[3], ctx, (uint32_t)strtoul(value_of(argc, argv, "eval", "32"), NULL, 10), &b.eval, &err));
    BB_TRY(bb_forward_create(&bb_backend_cpu, &b.model.net, 1, ctx, &b.forward, &err));
    const bb_database_config config = { .dir = argv[4],
                                        .model = &b.model,
                                        .backend = &bb_backend_cpu,
                                        .tokens = b.calib.tokens,
                                        .n_windows = b.calib.n,
                                        .ctx = ctx,
                                        .quant = { BB_METHOD_FEEDBACK, 0.01, 4 },
                                        .ffn_step = 32 };
    BB_TRY(bb_database_open(&config, &b.db, &err));
    if (!(b.reference = BB_NEW((size_t)b.eval.n * ctx * b.model.net.n_embd, float, &err))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(run(&b, &b.model.net, NULL, b.reference, &err));
    printf("block,what,format,bytes,kl_nats,kl_se\n");
    for (uint32_t i = 0; i < b.model.net.n_layer; i++) BB_TRY(one_block(&b, i, &err));
done:
    if (status != BB_OK) fprintf(stderr, "bench_dropped: %s\n", err.msg);
    bb_free(b.reference);
    bb_database_close(b.db);
    bb_forward_destroy(b.forward);
    bb_windows_done(&b.calib);
    bb_windows_done(&b.eval);
    bb_model_close(&b.model);
    return bb_status_exit_code(status);
}
