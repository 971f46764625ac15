/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_database.c: what the option database reaches: every linear in one format, the embedding in Q6_K, against full precision.
 *
 * usage: bench_database MODEL CALIBRATION EVALUATION DIR [key=value ...]
 *   formats=Q2_K,IQ2_S,...  methods=rtn,weighted,feedback,rebuild  calib=128  eval=128  ctx=256  sweeps=N  damping=X  embd=Q6_K
 *   part=ffn_down (only this part is compressed)  csv=FILE (appends nothing: written whole)
 * Windows as llama-perplexity makes them: first token BOS, second half scored; evaluation windows evenly spread.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/blas.h"
#include "model/compress/rebuild.h"
#include "model/export/export.h"
#include "model/io/tokenizer.h"

typedef struct windows {
    int32_t *tokens;
    uint32_t n, ctx;
} windows;

typedef struct bench {
    bb_model       model;
    windows        calib, eval;
    bb_forward    *forward;
    float         *h_ref; /* [n*ctx][C] final states of full precision */
    bb_csv_writer *csv;
    char           name[64];
} bench;

typedef struct score {
    double kl, kl_se, ppl, ppl_se;
} score;

static bb_status load_windows(const bb_model *m, const char *path, uint32_t ctx, uint32_t most, bool spread, windows *w, bb_err *err)
{
    bb_tokenizer *t = NULL;
    char         *text = NULL;
    int32_t      *ids = NULL;
    size_t        size, n;
    bb_status     status;
    BB_TRY(bb_tokenizer_create(&m->source, &t, err));
    BB_TRY(bb_file_read(path, &text, &size, err));
    BB_TRY(bb_tokenize(t, text, size, true, true, &ids, &n, err));
    uint32_t all = (uint32_t)(n / ctx);
    w->ctx = ctx;
    w->n = most && most < all ? most : all;
    w->tokens = BB_NEW((size_t)w->n * ctx, int32_t, err);
    if (!w->tokens) {
        status = BB_NOMEM;
        goto done;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        size_t from = spread ? (size_t)i * all / w->n : i;
        memcpy(w->tokens + (size_t)i * ctx, ids + from * ctx, ctx * sizeof *ids);
        if (bb_tokenizer_adds_bos(t)) w->tokens[(size_t)i * ctx] = bb_tokenizer_bos(t);
    }
done:
    bb_tokenizer_destroy(t);
    bb_free(text);
    bb_free(ids);
    return status;
}

/* Final hidden states of all evaluation windows under net. */
static bb_status final_states(bench *b, const bb_net *net, float *h, bb_err *err)
{
    const uint32_t batch = 8;
    bb_status      status = BB_OK;
    for (uint32_t w = 0; w < b->eval.n; w += batch) {
        uint32_t S = b->eval.n - w < batch ? b->eval.n - w : batch;
        float   *at = h + (size_t)w * b->eval.ctx * net->n_embd;
        BB_TRY(bb_forward_embed(b->forward, net, b->eval.tokens + (size_t)w * b->eval.ctx, S, b->eval.ctx, bb_on_cpu(at), err));
        for (uint32_t i = 0; i < net->n_layer; i++) BB_TRY(bb_forward_block(b->forward, net, &net->blocks[i], S, b->eval.ctx, bb_on_cpu(at), NULL, NULL, err));
    }
done:
    return status;
}

static bb_status evaluate(bench *b, const bb_net *net, score *s, bb_err *err)
{
    const uint32_t ctx = b->eval.ctx, first = ctx / 2, scored = ctx - 1 - first, C = net->n_embd;
    const size_t   n = (size_t)b->eval.n * scored;
    float         *h = BB_NEW((size_t)b->eval.n * ctx * C, float, err);
    double        *kl = BB_NEW(scored, double, err), *nll = BB_NEW(scored, double, err), sum[4] = { 0 };
    bb_status      status = h && kl && nll ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    BB_TRY(final_states(b, net, h, err));
    for (uint32_t w = 0; w < b->eval.n; w++) {
        size_t at = ((size_t)w * ctx + first) * C;
        BB_TRY(bb_forward_kl(b->forward, &b->model.net, bb_on_cpu(b->h_ref + at), net, bb_on_cpu(h + at), b->eval.tokens + (size_t)w * ctx + first + 1, scored,
                             kl, nll, NULL, err));
        for (uint32_t i = 0; i < scored; i++) {
            sum[0] += kl[i];
            sum[1] += kl[i] * kl[i];
            sum[2] += nll[i];
            sum[3] += nll[i] * nll[i];
        }
    }
    double mean = sum[2] / (double)n;
    s->kl = sum[0] / (double)n;
    s->kl_se = sqrt((sum[1] / (double)n - s->kl * s->kl) / (double)(n - 1));
    s->ppl = exp(mean);
    s->ppl_se = s->ppl * sqrt((sum[3] / (double)n - mean * mean) / (double)(n - 1));
done:
    bb_free(h);
    bb_free(kl);
    bb_free(nll);
    return status;
}

static bb_status uniform_plan(const bb_net *net, const char *format, const char *embd, const char *part, bb_plan *plan, bb_err *err)
{
    bb_status status = bb_plan_set(plan, "token_embd", embd, err);
    if (status == BB_OK && net->head.rows) status = bb_plan_set(plan, "output", embd, err);
    for (uint32_t i = 0; i < net->n_layer && status == BB_OK; i++)
        for (int p = 0; p < BB_N_PARTS && status == BB_OK; p++) {
            char unit[64];
            snprintf(unit, sizeof unit, "blk.%u.%s", i, bb_parts[p].name);
            if (!part || strcmp(part, bb_parts[p].name) == 0) status = bb_plan_set(plan, unit, format, err);
        }
    return status;
}

typedef struct settings {
    const char      *formats, *methods, *embd, *part, *csv;
    uint32_t         calib, eval, ctx;
    bb_quant_options quant;
} settings;

static bb_status one_row(bench *b, bb_database *db, const settings *o, const char *format, const char *method, bb_err *err)
{
    bb_plan    plan = { 0 };
    bb_net     net;
    bb_block  *blocks = BB_NEW(b->model.net.n_layer, bb_block, err);
    bb_rebuilt rebuilt = { 0 };
    score      s;
    uint64_t   bytes;
    double     t0 = bb_now_s(), t1;
    bb_status  status = blocks ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    BB_TRY(uniform_plan(&b->model.net, format, o->embd, o->part, &plan, err));
    if (strcmp(method, "rebuild") != 0) {
        BB_TRY(bb_database_apply(db, &plan, &net, blocks, err));
    } else {
        BB_TRY(bb_rebuild(db, &b->model, &plan, b->calib.tokens, b->calib.n, b->calib.ctx, &o->quant, NULL, &rebuilt, err));
        net = rebuilt.net;
    }
    t1 = bb_now_s();
    BB_TRY(bb_export_size(&b->model, &net, &bytes, err));
    BB_TRY(evaluate(b, &net, &s, err));
    printf("%-8s %-9s %9llu bytes  kl %.6f +- %.6f  ppl %.4f  %.1f s\n", format, method, (unsigned long long)bytes, s.kl, s.kl_se, s.ppl, t1 - t0);
    fflush(stdout);
    if (b->csv) {
        bb_csv_put_text(b->csv, b->name);
        bb_csv_put_text(b->csv, format);
        bb_csv_put_text(b->csv, strcmp(method, "feedback") == 0 ? "database" : method);
        bb_csv_put_int(b->csv, (int64_t)bytes);
        bb_csv_put_double(b->csv, bb_format_bpw(bb_format_find(format)));
        bb_csv_put_double(b->csv, s.kl);
        bb_csv_put_double(b->csv, s.kl_se);
        bb_csv_put_double(b->csv, s.ppl);
        bb_csv_put_double(b->csv, s.ppl_se);
        bb_csv_end_row(b->csv);
    }
done:
    bb_rebuilt_done(&rebuilt);
    bb_plan_done(&plan);
    bb_free(blocks);
    return status;
}

static bb_status run_method(bench *b, const char *dir, settings *o, const char *method, bb_err *err)
{
    bb_database       *db = NULL;
    char               formats[512], *save = NULL;
    bb_status          status;
    bb_database_config c = { .dir = dir,
                             .model = &b->model,
                             .backend = &bb_backend_cpu,
                             .tokens = b->calib.tokens,
                             .n_windows = b->calib.n,
                             .ctx = b->calib.ctx,
                             .quant = o->quant,
                             .ffn_step = 32 };
    o->quant.method = c.quant.method = strcmp(method, "rtn") == 0 ? BB_METHOD_RTN : strcmp(method, "weighted") == 0 ? BB_METHOD_WEIGHTED : BB_METHOD_FEEDBACK;
    BB_TRY(bb_database_open(&c, &db, err));
    snprintf(formats, sizeof formats, "%s", o->formats);
    for (char *f = strtok_r(formats, ",", &save); f; f = strtok_r(NULL, ",", &save)) BB_TRY(one_row(b, db, o, f, method, err));
done:
    bb_database_close(db);
    return status;
}

static const char *value_of(int argc, char **argv, const char *key, const char *fallback)
{
    for (int i = 5; i < argc; i++)
        if (strncmp(argv[i], key, strlen(key)) == 0 && argv[i][strlen(key)] == '=') return argv[i] + strlen(key) + 1;
    return fallback;
}

static bb_status run(bench *b, int argc, char **argv, bb_err *err)
{
    settings  o = { .formats = value_of(argc, argv, "formats", "IQ2_XXS,Q2_K,Q3_K,Q4_K"),
                    .methods = value_of(argc, argv, "methods", "weighted,feedback"),
                    .embd = value_of(argc, argv, "embd", "Q6_K"),
                    .part = value_of(argc, argv, "part", NULL),
                    .csv = value_of(argc, argv, "csv", NULL) };
    bb_status status;
    score     s;
    char      methods[128], *save = NULL;
    o.calib = (uint32_t)strtoul(value_of(argc, argv, "calib", "128"), NULL, 10);
    o.eval = (uint32_t)strtoul(value_of(argc, argv, "eval", "128"), NULL, 10);
    o.ctx = (uint32_t)strtoul(value_of(argc, argv, "ctx", "256"), NULL, 10);
    o.quant.sweeps = (unsigned)strtoul(value_of(argc, argv, "sweeps", "2"), NULL, 10);
    o.quant.damping = strtod(value_of(argc, argv, "damping", "0.1"), NULL);
    BB_TRY(bb_model_open(argv[1], &b->model, err));
    const char *slash = strrchr(argv[1], '/');
    snprintf(b->name, sizeof b->name, "%s", slash ? slash + 1 : argv[1]);
    BB_TRY(load_windows(&b->model, argv[2], o.ctx, o.calib, false, &b->calib, err));
    BB_TRY(load_windows(&b->model, argv[3], o.ctx, o.eval, true, &b->eval, err));
    BB_TRY(bb_forward_create(&bb_backend_cpu, &b->model.net, 8, o.ctx, &b->forward, err));
    b->h_ref = BB_NEW((size_t)b->eval.n * o.ctx * b->model.net.n_embd, float, err);
    if (!b->h_ref) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(final_states(b, &b->model.net, b->h_ref, err));
    BB_TRY(evaluate(b, &b->model.net, &s, err));
    printf("%s: %u calibration and %u evaluation windows of %u; full precision ppl %.4f +- %.4f, kl %.2g\n", b->name, b->calib.n, b->eval.n, o.ctx, s.ppl,
           s.ppl_se, s.kl);
    if (o.csv) BB_TRY(bb_csv_create(o.csv, "model,format,method,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se", &b->csv, err));
    snprintf(methods, sizeof methods, "%s", o.methods);
    for (char *m = strtok_r(methods, ",", &save); m; m = strtok_r(NULL, ",", &save)) BB_TRY(run_method(b, argv[4], &o, m, err));
    status = bb_csv_close(&b->csv, err);
done:
    bb_csv_discard(b->csv);
    return status;
}

int main(int argc, char **argv)
{
    bench  b = { 0 };
    bb_err err = BB_ERR_INIT;
    if (argc < 5) {
        fprintf(stderr, "usage: bench_database MODEL CALIBRATION EVALUATION DIR [key=value ...]\n");
        return argc == 1 ? 0 : 2; /* `make bench` runs them all */
    }
    bb_blas_init();
    bb_status status = run(&b, argc, argv, &err);
    if (status != BB_OK) fprintf(stderr, "bench_database: %s\n", err.msg);
    bb_free(b.h_ref);
    bb_free(b.calib.tokens);
    bb_free(b.eval.tokens);
    bb_forward_destroy(b.forward);
    bb_model_close(&b.model);
    return bb_status_exit_code(status);
}
