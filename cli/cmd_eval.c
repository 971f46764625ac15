/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_eval.c: bitbudget eval MODEL.gguf --text FILE and --tasks FILES: perplexity, and the distance to a reference model, under a named protocol;
 * --generation: the distance on what the reference writes itself; --tasks: zero-shot tasks. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/eval_detail.h"
#include "cli/eval_tasks.h"
#include "cli/eval_text.h"
#include "cli/json.h"
#include "engine/environment.h"
#include "engine/outputs.h"
#include "kernels/kernels.h"
#include "eval/generation.h"
#include "model/net/host.h"

typedef struct eval_options {
    char   *text, *protocol, *precision, *reference, *tasks, *document, *scores, *answers;
    int64_t limit, ctx, chunks, probabilities, prompts, prompt_tokens, new_tokens, seed;
    bool    spread, detail, generation, json, parse_special;
} eval_options;

static const bb_option_row rows[] = {
    { "text", BB_OPT_TEXT, offsetof(eval_options, text), NULL, 1, 0, "FILE", "text, or token ids: .npy, .u16, .u32", NULL },
    { "parse-special", BB_OPT_FLAG, offsetof(eval_options, parse_special), NULL, 1, 0, NULL,
      "text of special tokens (\"<|im_end|>\") in the text becomes these tokens", NULL },
    { "protocol", BB_OPT_TEXT, offsetof(eval_options, protocol), "gguf", 1, 0, "NAME",
      "gguf: as llama-perplexity, BOS first in each window, second halves scored; hf: all positions of non-overlapping windows", BB_PROTOCOLS },
    { "ctx", BB_OPT_INT, offsetof(eval_options, ctx), "0", 0, 1 << 24, "N", "tokens of a window; 0: 512, or what the model was trained with if less", NULL },
    { "reference", BB_OPT_TEXT, offsetof(eval_options, reference), NULL, 1, 0, "FP.gguf",
      "also measure KL, same-top-1 and the ratio of perplexities against this model", NULL },
    { "chunks", BB_OPT_INT, offsetof(eval_options, chunks), "0", 0, UINT32_MAX, "N", "windows to evaluate; 0: all", NULL },
    { "spread", BB_OPT_FLAG, offsetof(eval_options, spread), NULL, 1, 0, NULL, "spread the --chunks windows over the text instead of taking the first", NULL },
    { "detail", BB_OPT_FLAG, offsetof(eval_options, detail), NULL, 1, 0, NULL,
      "also the scores by place in the window, and errors by a bootstrap of the text's documents", NULL },
    { "document", BB_OPT_TEXT, offsetof(eval_options, document), NULL, 1, 0, "TEXT",
      "with --detail: a document begins at a line that begins with TEXT; without: at title lines, separators or behind empty lines (docs/tables.md)", NULL },
    { "scores", BB_OPT_TEXT, offsetof(eval_options, scores), NULL, 1, 0, "FILE.csv",
      "write every scored token: window, position, id, and in nats its negative log-likelihood, with --reference the reference's, KL, same top 1", NULL },
    { "probabilities", BB_OPT_INT, offsetof(eval_options, probabilities), "-1", -1, 1 << 24, "POS",
      "also print the likeliest tokens after position POS (from 0) of the first window", NULL },
    { "generation", BB_OPT_FLAG, offsetof(eval_options, generation), NULL, 1, 0, NULL,
      "also measure, against --reference, how long greedy decoding agrees and the KL along the reference's own samples, from prompts of the text", NULL },
    { "prompts", BB_OPT_INT, offsetof(eval_options, prompts), "128", 1, 1 << 24, "N", "prompts of --generation, spread over the text", NULL },
    { "prompt-tokens", BB_OPT_INT, offsetof(eval_options, prompt_tokens), "0", 0, 1 << 24, "N",
      "tokens of a prompt; 0: 32, or an eighth of the context that the model was trained with if less", NULL },
    { "new-tokens", BB_OPT_INT, offsetof(eval_options, new_tokens), "0", 0, 1 << 24, "N",
      "tokens of a continuation; 0: 256, or what is left of the trained context if less", NULL },
    { "seed", BB_OPT_INT, offsetof(eval_options, seed), "1", 0, (double)(1LL << 53), "N", "of the samples of --generation", NULL },
    { "tasks", BB_OPT_LIST, offsetof(eval_options, tasks), NULL, 1, 0, "FILE|FOLDER,..",
      "zero-shot tasks: JSON lines (multiple choice, two contexts, last words) or HellaSwag text; of a folder, all .jsonl and .txt files", NULL },
    { "answers", BB_OPT_TEXT, offsetof(eval_options, answers), NULL, 1, 0, "FILE.csv",
      "write every option of every item: its tokens, characters and log-likelihood, with --reference the reference's", NULL },
    { "limit", BB_OPT_INT, offsetof(eval_options, limit), "0", 0, UINT32_MAX, "N", "items of each task, from its beginning; 0: all", NULL },
    { "precision", BB_OPT_TEXT, offsetof(eval_options, precision), "exact", 1, 0, "NAME", BB_PRECISION_HELP, BB_PRECISIONS },
    { "json", BB_OPT_FLAG, offsetof(eval_options, json), NULL, 1, 0, NULL, "print JSON", NULL },
};
enum { N_ROWS = sizeof rows / sizeof *rows, TOP = 10 };

#define SCORES_HEADER "window,position,id,nll" /* of --scores; with a reference more */

/* All that a run of the command has open. */
typedef struct job {
    eval_options         o;
    const char          *path;
    bb_model             m, ref;
    bb_eval_text         text;
    bb_result            result;
    bb_eval_detail       detail;     /* with --detail */
    bb_generation_result generation; /* with --generation */
    bb_task_files        task_files; /* with --tasks */
    bb_task_table        tasks;
    uint32_t             top_id[TOP]; /* with --probabilities */
    double               top_p[TOP];
} job;

static bool is_number(double x) { return !isnan(x); }
static bool replaces_first(const job *j) { return j->text.protocol == BB_PROTOCOL_GGUF && j->text.bos >= 0; }

/* ---- probabilities ---- */

static void pick_top(const float *z, uint32_t n, uint32_t *id, double *p)
{
    float  max = z[0];
    double sum = 0;
    for (uint32_t v = 1; v < n; v++) max = z[v] > max ? z[v] : max;
    for (uint32_t v = 0; v < n; v++) sum += exp((double)z[v] - (double)max);
    for (int k = 0; k < TOP; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t v = 0; v < n; v++) {
            bool taken = false;
            for (int i = 0; i < k; i++) taken |= id[i] == v;
            if (!taken && (best == UINT32_MAX || z[v] > z[best])) best = v;
        }
        id[k] = best;
        p[k] = best == UINT32_MAX ? 0 : exp((double)z[best] - (double)max) / sum;
    }
}

static bb_status probabilities(job *j, bb_err *err)
{
    const bb_net *net = &j->m.net;
    uint32_t      n = (uint32_t)j->o.probabilities + 1;
    bb_forward   *f = NULL;
    float        *h = NULL, *z = NULL;
    bb_status     status = BB_OK;
    if (n > j->text.w.ctx) return BB_FAIL(err, BB_USAGE, "--probabilities %u: a window has positions 0 to %u", n - 1, j->text.w.ctx - 1);
    h = bb_alloc(n, bb_row_width(net) * sizeof *h, err);
    z = bb_alloc(net->n_vocab, sizeof *z, err);
    if (!h || !z) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_forward_create(bb_engine_backend(), net, 1, n, &f, err));
    BB_TRY(bb_host_embed(f, net, j->text.w.tokens, 1, n, h, err));
    for (uint32_t b = 0; b < net->n_layer; b++) BB_TRY(bb_host_block(f, net, &net->blocks[b], 1, n, h, NULL, NULL, err));
    BB_TRY(bb_host_logits(f, net, h + (size_t)(n - 1) * bb_row_width(net), 1, z, err));
    pick_top(z, net->n_vocab, j->top_id, j->top_p);
done:
    bb_forward_destroy(f);
    bb_free(h);
    bb_free(z);
    return status;
}

/* The vocabulary's own spelling of a token. */
static bb_bytes spelling(const bb_model *m, uint32_t id)
{
    const bb_key *kv = bb_source_find(&m->source, "tokenizer.ggml.tokens");
    return kv && kv->strings && id < kv->count ? kv->strings[id] : (bb_bytes) { "", 0 };
}

/* ---- text ---- */

static void put_models(bb_text *out, const job *j)
{
    char label[BB_MODEL_LABEL];
    bb_text_addf(out, "model         %s (sha256 %.16s)\n", j->path, bb_model_sha256(&j->m));
    if (j->o.reference)
        bb_text_addf(out, "reference     %s (sha256 %.16s), %s\n", j->o.reference, bb_model_sha256(&j->ref), bb_model_source_label(&j->ref, label));
}

static void put_data(bb_text *out, const job *j)
{
    bb_text_addf(out, "data          %s, %zu tokens (sha256 %.16s)\n", j->o.text, j->text.tokens.n, j->text.tokens.sha256);
    if (j->text.protocol == BB_PROTOCOL_GGUF)
        bb_text_addf(out, "protocol      gguf: windows of %u tokens%s, positions %u to %u predict the next\n", j->text.w.ctx,
                     replaces_first(j) ? ", the first replaced by BOS" : "", j->text.w.first, j->text.w.ctx - 2);
    else bb_text_addf(out, "protocol      hf: windows of %u tokens, positions 0 to %u predict the next\n", j->text.w.ctx, j->text.w.ctx - 2);
    bb_text_addf(out, "windows       %u of %zu%s, %llu tokens scored\n\n", j->text.w.n, j->text.tokens.n / j->text.w.ctx, j->o.spread ? ", spread" : "",
                 (unsigned long long)j->result.n_tokens);
}

static void put_result(bb_text *out, const bb_result *r)
{
    static const char *const q[BB_KL_QUANTILES] = { "1 %", "10 %", "median", "90 %", "99 %", "99.9 %", "most" };
    bb_text_addf(out, "perplexity    %.4f +- %.4f\n", r->ppl, r->ppl_se);
    bb_text_addf(out, "nll           %.5f +- %.5f nats a token\n", r->nll, r->nll_se);
    if (!is_number(r->kl)) return;
    bb_text_addf(out, "KL            %.6f +- %.6f nats a token from the reference\n  of tokens  ", r->kl, r->kl_se);
    for (int i = 0; i < BB_KL_QUANTILES; i++) bb_text_addf(out, " %s %.3g%s", q[i], r->kl_quantile[i], i + 1 < BB_KL_QUANTILES ? "," : "\n");
    bb_text_addf(out, "same top 1    %.3f %%\n", 100 * r->top1);
    bb_text_addf(out, "ln ratio      %.6f +- %.6f of the perplexities, paired (reference %.4f)\n", r->ln_ratio, r->ln_ratio_se, exp(r->nll - r->ln_ratio));
}

static void put_generation(bb_text *out, const bb_generation_result *r)
{
    bb_text_addf(out, "\ngeneration    %u prompts of %u tokens, %u new ones\n", r->n_prompts, r->n_prompt, r->n_new);
    bb_text_addf(out, "agreement     %.2f +- %.2f tokens of greedy decoding before the first difference from the reference (none in %u of %u prompts)\n",
                 r->agree_length, r->agree_length_se, r->n_whole, r->n_prompts);
    for (int i = 0; i < BB_GENERATION_SPANS; i++) {
        const bb_generation_span *s = &r->span[i];
        if (s->first <= s->last)
            bb_text_addf(out, "KL %3u-%-3u    %.6f +- %.6f nats a token along the reference's samples, same top 1 %.3f %%\n", s->first, s->last, s->kl,
                         s->kl_se, 100 * s->top1);
    }
}

static void put_probabilities(bb_text *out, const job *j)
{
    bb_text_addf(out, "\nafter position %lld of the first window\n%8s %10s  %s\n", (long long)j->o.probabilities, "token", "p", "text");
    for (int k = 0; k < TOP && j->top_id[k] != UINT32_MAX; k++) {
        bb_bytes text = spelling(&j->m, j->top_id[k]);
        bb_text_addf(out, "%8u %10.6f  ", j->top_id[k], j->top_p[k]);
        for (uint64_t i = 0; i < text.size && i < 40; i++) bb_text_addn(out, (unsigned char)text.data[i] < ' ' ? "?" : text.data + i, 1);
        bb_text_add(out, "\n");
    }
}

static bb_status print_text(const job *j, bb_err *err)
{
    bb_text   out = { .data = NULL };
    bb_status status;
    put_models(&out, j);
    if (j->o.text) {
        put_data(&out, j);
        put_result(&out, &j->result);
        if (j->o.detail) bb_eval_detail_text(&j->detail, &out);
    }
    if (j->o.generation) put_generation(&out, &j->generation);
    if (j->o.probabilities >= 0) put_probabilities(&out, j);
    if (j->o.tasks) {
        bb_text_add(&out, "\n");
        bb_task_table_text(&j->tasks, &out);
    }
    status = out.status;
    if (status != BB_OK) BB_FAIL(err, status, "out of memory");
    else if (fwrite(out.data, 1, out.size, stdout) != out.size) status = BB_FAIL(err, BB_IO, "standard output could not be written");
    bb_text_done(&out);
    return status;
}

/* ---- JSON ---- */

static json_t *text_json(const char *text, size_t size)
{
    json_t *s = json_stringn(text, size);
    return s ? s : json_null(); /* not UTF-8 */
}

static json_t *path_json(const char *path) { return path ? text_json(path, strlen(path)) : json_null(); }

static void result_json(json_t *root, const bb_result *r)
{
    static const char *const q[BB_KL_QUANTILES] = { "0.01", "0.10", "0.50", "0.90", "0.99", "0.999", "1.00" };
    json_t                  *quantiles = json_object();
    json_object_set_new(root, "n_tokens", json_integer((json_int_t)r->n_tokens));
    json_object_set_new(root, "ppl", bb_json_number(r->ppl));
    json_object_set_new(root, "ppl_se", bb_json_number(r->ppl_se));
    json_object_set_new(root, "nll_nats", bb_json_number(r->nll));
    json_object_set_new(root, "nll_se", bb_json_number(r->nll_se));
    json_object_set_new(root, "kl_nats", bb_json_number(r->kl));
    json_object_set_new(root, "kl_se", bb_json_number(r->kl_se));
    json_object_set_new(root, "top1", bb_json_number(r->top1));
    json_object_set_new(root, "ln_ratio", bb_json_number(r->ln_ratio));
    json_object_set_new(root, "ln_ratio_se", bb_json_number(r->ln_ratio_se));
    for (int i = 0; i < BB_KL_QUANTILES; i++) json_object_set_new(quantiles, q[i], bb_json_number(r->kl_quantile[i]));
    json_object_set_new(root, "kl_quantiles", quantiles);
}

static json_t *generation_json(const bb_generation_result *r, int64_t seed)
{
    json_t *spans = json_array();
    for (int i = 0; i < BB_GENERATION_SPANS; i++)
        if (r->span[i].first <= r->span[i].last)
            json_array_append_new(spans, json_pack("{s:I, s:I, s:f, s:f, s:f}", "first", (json_int_t)r->span[i].first, "last", (json_int_t)r->span[i].last,
                                                   "kl_nats", r->span[i].kl, "kl_se", r->span[i].kl_se, "top1", r->span[i].top1));
    return json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:o}", "prompts", (json_int_t)r->n_prompts, "prompt_tokens", (json_int_t)r->n_prompt, "new_tokens",
                     (json_int_t)r->n_new, "seed", (json_int_t)seed, "agree_length", r->agree_length, "agree_length_se", r->agree_length_se, "whole",
                     (json_int_t)r->n_whole, "kl", spans);
}

static json_t *probabilities_json(const job *j)
{
    json_t *ids = json_array(), *top = json_array();
    for (int64_t i = 0; i <= j->o.probabilities; i++) json_array_append_new(ids, json_integer(j->text.w.tokens[i]));
    for (int k = 0; k < TOP && j->top_id[k] != UINT32_MAX; k++) {
        bb_bytes text = spelling(&j->m, j->top_id[k]);
        json_array_append_new(top,
                              json_pack("{s:I, s:o, s:f}", "id", (json_int_t)j->top_id[k], "text", text_json(text.data, (size_t)text.size), "p", j->top_p[k]));
    }
    return json_pack("{s:I, s:o, s:o}", "position", (json_int_t)j->o.probabilities, "ids", ids, "top", top);
}

static void text_part_json(json_t *root, const job *j)
{
    json_t *part = json_pack("{s:o, s:I, s:s, s:s, s:I, s:o, s:I, s:b}", "data", path_json(j->o.text), "data_tokens", (json_int_t)j->text.tokens.n,
                             "data_sha256", j->text.tokens.sha256, "protocol", j->o.protocol, "ctx", (json_int_t)j->text.w.ctx, "bos",
                             replaces_first(j) ? json_integer(j->text.bos) : json_null(), "windows", (json_int_t)j->text.w.n, "spread", (int)j->o.spread);
    json_object_update(root, part);
    json_decref(part);
    result_json(root, &j->result);
    if (j->o.detail) json_object_set_new(root, "detail", bb_eval_detail_json(&j->detail));
}

static bb_status print_json(const job *j, bb_err *err)
{
    json_t *root = json_pack("{s:o, s:s, s:o, s:o}", "model", path_json(j->path), "model_sha256", bb_model_sha256(&j->m), "reference",
                             path_json(j->o.reference), "reference_sha256", path_json(j->o.reference ? bb_model_sha256(&j->ref) : NULL));
    char    label[BB_MODEL_LABEL];
    int     failed;
    if (!root) return BB_FAIL(err, BB_NOMEM, "out of memory");
    if (j->o.reference) json_object_set_new(root, "reference_label", json_string(bb_model_source_label(&j->ref, label)));
    if (bb_kernels_fast()) json_object_set_new(root, "precision", json_string("fast"));
    if (j->o.text) text_part_json(root, j);
    if (j->o.generation) json_object_set_new(root, "generation", generation_json(&j->generation, j->o.seed));
    if (j->o.probabilities >= 0) json_object_set_new(root, "probabilities", probabilities_json(j));
    if (j->o.tasks) json_object_set_new(root, "tasks", bb_task_table_json(&j->tasks));
    failed = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    json_decref(root);
    if (failed || putchar('\n') == EOF) return BB_FAIL(err, BB_IO, "standard output could not be written");
    return BB_OK;
}

/* ---- the command ---- */

static bb_generation_spec generation_spec(const job *j)
{
    bb_generation_spec spec = bb_generation_default(&j->ref.net);
    const uint32_t     trained = j->ref.net.n_ctx_train;
    spec.n_prompts = (uint32_t)j->o.prompts;
    spec.seed = (uint64_t)j->o.seed;
    if (j->o.prompt_tokens) spec.n_prompt = (uint32_t)j->o.prompt_tokens;
    if (j->o.prompt_tokens && trained > spec.n_prompt && trained - spec.n_prompt < 256) spec.n_new = trained - spec.n_prompt;
    if (j->o.new_tokens) spec.n_new = (uint32_t)j->o.new_tokens;
    return spec;
}

static bb_status generation(job *j, bb_err *err)
{
    const bb_generation_spec spec = generation_spec(j);
    const uint32_t           trained = j->ref.net.n_ctx_train;
    bb_generation           *g = NULL;
    bb_status                status = BB_OK;
    if (trained && spec.n_prompt + spec.n_new > trained)
        bb_warn("sequences of %u tokens are longer than the %u that %s was trained with", spec.n_prompt + spec.n_new, trained, j->o.reference);
    BB_TRY(bb_generation_create(bb_engine_backend(), &j->ref.net, &j->text.tokens, j->text.bos, &spec, (uint64_t)256 << 20, "continuing the prompts", &g, err));
    BB_TRY(bb_generation_measure(&j->m.net, g, &j->generation, NULL, err));
done:
    bb_generation_destroy(g);
    return status;
}

static bb_status write_scores(const job *j, const bb_scores *s, bb_err *err)
{
    bb_csv_writer *w;
    bb_status      status = bb_csv_create(j->o.scores, s->kl ? SCORES_HEADER ",nll_ref,kl,same_top1" : SCORES_HEADER, &w, err);
    if (status != BB_OK) return status;
    for (uint32_t i = 0; i < s->n_windows; i++)
        for (uint32_t k = 0; k < s->n_scored; k++) {
            const uint32_t at = j->text.w.first + k; /* predicts the next, which is the one that is scored */
            const size_t   t = (size_t)i * s->n_scored + k;
            BB_PUT(w, (int64_t)i, (int64_t)at + 1, (int64_t)j->text.w.targets[(size_t)i * j->text.w.ctx + at], s->nll[t]);
            if (s->kl) BB_PUT(w, s->nll_ref[t], s->kl[t], (int64_t)s->same[t]);
            bb_csv_end_row(w);
        }
    return bb_csv_close(&w, err);
}

/* Everything that --text asks for. */
static bb_status measure_text(job *j, bb_err *err)
{
    bb_status status = BB_OK;
    bb_scores scores = { 0 };
    double    start;
    BB_TRY(bb_eval_text_load(&j->m, j->path, &(bb_eval_text_spec) { j->o.text, j->o.protocol, j->o.ctx, j->o.chunks, j->o.spread, j->o.parse_special },
                             &j->text, err));
    if (j->o.generation) {
        const bb_generation_spec spec = generation_spec(j);
        BB_TRY(bb_generation_check(&j->text.tokens, &spec, err));
    }
    if (j->o.probabilities >= 0) BB_TRY(probabilities(j, err));
    start = bb_now_s();
    BB_TRY(bb_evaluate_scores(bb_engine_backend(), &j->m.net, j->o.reference ? &j->ref.net : NULL, &j->text.w, "evaluating", &scores, err));
    BB_TRY(bb_scores_result(&scores, &j->result, NULL, NULL, err));
    bb_info("%.0f tokens a second", (double)j->text.w.n * j->text.w.ctx / (bb_now_s() - start));
    if (j->o.scores) BB_TRY(write_scores(j, &scores, err));
    if (j->o.detail) BB_TRY(bb_eval_detail_of(&j->m, &j->text.tokens, &j->text.w, j->o.spread, j->o.document, &scores, &j->detail, err));
    if (j->o.generation) BB_TRY(generation(j, err));
done:
    bb_scores_done(&scores);
    return status;
}

static bb_status measure_tasks(job *j, bb_err *err)
{
    const uint32_t window = bb_task_window(&j->m, j->o.ctx);
    bb_csv_writer *options = NULL;
    bb_status      status;
    if (j->m.net.n_ctx_train && window > j->m.net.n_ctx_train)
        bb_warn("windows of %u tokens are longer than the %u that %s was trained with", window, j->m.net.n_ctx_train, j->path);
    if (window < 2) return BB_FAIL(err, BB_USAGE, "--ctx %u: a task needs at least 2 tokens", window);
    if (j->o.answers) {
        status = bb_csv_create(j->o.answers, j->o.reference ? BB_TASK_OPTIONS_HEADER ",log_likelihood_ref" : BB_TASK_OPTIONS_HEADER, &options, err);
        if (status != BB_OK) return status;
    }
    status = bb_eval_tasks(&j->task_files, (size_t)j->o.limit, window, &j->m, j->o.reference ? &j->ref : NULL, options, &j->tasks, err);
    if (status == BB_OK) return bb_csv_close(&options, err);
    bb_csv_discard(options);
    return status;
}

static bb_status check_options(const job *j, size_t n, bb_err *err)
{
    const eval_options *o = &j->o;
    if (n == 0 || (!o->text && !o->tasks)) return BB_FAIL(err, BB_USAGE, "eval needs a model file, and --text FILE or --tasks FILES");
    if (!o->text && (o->generation || o->probabilities >= 0))
        return BB_FAIL(err, BB_USAGE, "%s needs --text FILE", o->generation ? "--generation" : "--probabilities");
    if (o->generation && !o->reference) return BB_FAIL(err, BB_USAGE, "--generation compares with another model: give it with --reference FP.gguf");
    return BB_OK;
}

static bb_status refuse_idle(const job *j, int argc, char **argv, bb_err *err)
{
    const eval_options  *o = &j->o;
    const bb_idle_option idle[] = {
        { "--limit", "without --tasks", !o->tasks },
        { "--answers", "without --tasks", !o->tasks },
        { "--seed", "without --generation", !o->generation },
        { "--prompts", "without --generation", !o->generation },
        { "--prompt-tokens", "without --generation", !o->generation },
        { "--new-tokens", "without --generation", !o->generation },
        { "--protocol", "without --text", !o->text },
        { "--chunks", "without --text", !o->text },
        { "--spread", "without --text", !o->text },
        { "--parse-special", "without --text", !o->text },
        { "--detail", "without --text", !o->text },
        { "--scores", "without --text", !o->text },
        { "--document", "without --detail", !o->detail },
        { "--spread", "without --chunks: all windows are taken", !o->chunks },
    };
    return bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err);
}

static bb_status check_outputs(const job *j, bb_err *err)
{
    const bb_task_files *tasks = &j->task_files;
    bb_input            *inputs = BB_NEW(tasks->n + 4, bb_input, err);
    size_t               n = 0;
    bb_status            status = BB_OK;
    if (!inputs) return BB_NOMEM;
    inputs[n++] = (bb_input) { "the model", j->path };
    inputs[n++] = (bb_input) { "the reference", j->o.reference };
    inputs[n++] = (bb_input) { "the text", j->o.text };
    for (size_t i = 0; i < tasks->n; i++) inputs[n++] = (bb_input) { "a task", tasks->at[i] };
    if (j->o.scores) BB_TRY(bb_output_check("--scores", j->o.scores, BB_OUTPUT_TABLE, SCORES_HEADER, inputs, n, err));
    inputs[n++] = (bb_input) { "--scores", j->o.scores };
    if (j->o.answers) BB_TRY(bb_output_check("--answers", j->o.answers, BB_OUTPUT_TABLE, BB_TASK_OPTIONS_HEADER, inputs, n, err));
done:
    bb_free(inputs);
    return status;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    job       j = { .path = NULL };
    size_t    n = 0;
    bb_status status;
    BB_TRY(bb_command_options(&bb_command_eval, &j.o, argc, argv, &j.path, 1, &n, err));
    BB_TRY(check_options(&j, n, err));
    bb_precision_use(j.o.precision, true);
    BB_TRY(refuse_idle(&j, argc, argv, err));
    if (j.o.tasks) BB_TRY(bb_task_files_find(j.o.tasks, &j.task_files, err));
    BB_TRY(check_outputs(&j, err));
    BB_TRY(bb_task_files_check(&j.task_files, (size_t)j.o.limit, err));
    BB_TRY(bb_model_open(j.path, &j.m, err));
    if (j.o.reference) BB_TRY(bb_model_open(j.o.reference, &j.ref, err));
    if (j.o.reference) {
        BB_TRY(bb_eval_check_reference(&j.m, j.path, &j.ref, j.o.reference, j.o.text != NULL, err));
        bb_eval_warn_reference(&j.ref, j.o.reference);
    }
    BB_TRY(bb_model_check_weights(&j.m, false, NULL, err));
    if (j.o.reference) BB_TRY(bb_model_check_weights(&j.ref, false, NULL, err));
    if (j.o.text) BB_TRY(measure_text(&j, err));
    if (j.o.tasks) BB_TRY(measure_tasks(&j, err));
    BB_TRY(j.o.json ? print_json(&j, err) : print_text(&j, err));
done:
    bb_task_table_done(&j.tasks);
    bb_task_files_done(&j.task_files);
    bb_eval_text_done(&j.text);
    bb_model_close(&j.ref);
    bb_model_close(&j.m);
    bb_options_done(rows, N_ROWS, &j.o);
    return status;
}

const bb_command bb_command_eval = {
    .name = "eval",
    .summary = "measure a model: perplexity, distance to a reference, what it writes, zero-shot tasks",
    .usage = "MODEL.gguf [--text FILE] [--tasks FILES]",
    .example = "bitbudget eval model.gguf --text eval.txt --protocol gguf --ctx 256\n"
               "bitbudget eval small.gguf --text eval.txt --ctx 256 --reference full.gguf --json\n"
               "bitbudget eval small.gguf --text eval.txt --reference full.gguf --detail\n"
               "bitbudget eval small.gguf --text eval.txt --reference full.gguf --generation --prompts 128\n"
               "bitbudget eval small.gguf --tasks arc_easy.jsonl,piqa.jsonl --limit 500 --reference full.gguf",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
