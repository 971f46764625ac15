/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_compare.c: bitbudget compare FULL.gguf FILE.gguf...: several files beside full precision, which is measured once: perplexity and KL on texts, zero-shot
 * tasks, item by item, or the prompts on which greedy decoding leaves it. A row is printed as soon as it is known. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/eval_tasks.h"
#include "cli/eval_text.h"
#include "cli/json.h"
#include "engine/environment.h"
#include "eval/divergence.h"
#include "kernels/kernels.h"

typedef struct compare_options {
    char   *text, *protocol, *tasks, *greedy, *precision;
    int64_t limit, ctx, chunks, prompts, prompt_tokens, new_tokens;
    bool    spread, parse_special, json;
} compare_options;

#define FIELD(name) offsetof(compare_options, name)
static const bb_option_row rows[] = {
    { "text", BB_OPT_LIST, FIELD(text), NULL, 1, 0, "FILE,..",
      "texts, or token ids: .npy, .u16, .u32: perplexity, and KL from full precision, as eval has them", NULL },
    { "protocol", BB_OPT_TEXT, FIELD(protocol), "gguf", 1, 0, "NAME", "of --text: windows as in eval", BB_PROTOCOLS },
    { "chunks", BB_OPT_INT, FIELD(chunks), "0", 0, UINT32_MAX, "N", "windows of each text; 0: all", NULL },
    { "spread", BB_OPT_FLAG, FIELD(spread), NULL, 1, 0, NULL, "spread the --chunks windows over the text instead of taking the first", NULL },
    { "tasks", BB_OPT_LIST, FIELD(tasks), NULL, 1, 0, "FILE|FOLDER,..",
      "zero-shot tasks: JSON lines (multiple choice, two contexts, last words) or HellaSwag text; of a folder, all .jsonl and .txt files", NULL },
    { "limit", BB_OPT_INT, FIELD(limit), "0", 0, UINT32_MAX, "N", "items of each task, from its beginning; 0: all", NULL },
    { "ctx", BB_OPT_INT, FIELD(ctx), "0", 0, 1 << 24, "N",
      "tokens of a window of --text; 0: 512, or what the model was trained with if less; of an item of --tasks at most; 0: what it was trained with, at most "
      "4096",
      NULL },
    { "greedy", BB_OPT_TEXT, FIELD(greedy), NULL, 1, 0, "FILE",
      "the share of prompts of this text (or token ids: .npy, .u16, .u32) whose continuations by greedy decoding differ, and the place of the first difference",
      NULL },
    { "parse-special", BB_OPT_FLAG, FIELD(parse_special), NULL, 1, 0, NULL, "text of special tokens (\"<|im_end|>\") in a text becomes these tokens", NULL },
    { "prompts", BB_OPT_INT, FIELD(prompts), "300", 1, 1 << 24, "N", "prompts of --greedy, spread over the text", NULL },
    { "prompt-tokens", BB_OPT_INT, FIELD(prompt_tokens), "32", 3, 1 << 20, "N", "tokens of a prompt, BOS included", NULL },
    { "new-tokens", BB_OPT_INT, FIELD(new_tokens), "32", 1, 1 << 20, "N", "tokens of a continuation", NULL },
    { "precision", BB_OPT_TEXT, FIELD(precision), "exact", 1, 0, "NAME", BB_PRECISION_HELP, BB_PRECISIONS },
    { "json", BB_OPT_FLAG, FIELD(json), NULL, 1, 0, NULL, "print JSON, an object a row, instead of CSV", NULL },
};
enum {
    N_ROWS = sizeof rows / sizeof *rows,
    MODELS = 256,
    STATES = 1 << 30 /* bytes of full precision's hidden states; windows beyond are run again for each file */
};

typedef struct compare_text {
    char        *path;
    bb_eval_text text;
} compare_text;

typedef struct job {
    compare_options o;
    const char     *paths[MODELS]; /* full precision first */
    size_t          n;
    bb_model        full;
    compare_text   *texts; /* of --text */
    size_t          n_texts;
    bb_task_files   tasks;
    bool            has_header;
} job;

/* ---- rows ---- */

typedef struct cell {
    const char *name, *text; /* text NULL: a number, NaN where there is none */
    double      number;
    int         digits;
} cell;
#define TEXT(name, text) \
    (cell) { name, text, 0, 0 }
#define WHOLE(name, n) \
    (cell) { name, NULL, (double)(n), 15 }
#define REAL(name, x) \
    (cell) { name, NULL, x, 6 }

static void put_csv(const cell *c, size_t n, bool names)
{
    for (size_t i = 0; i < n; i++) {
        if (i) putchar(',');
        if (names || c[i].text) bb_csv_write_cell(stdout, names ? c[i].name : c[i].text, false);
        else if (!isnan(c[i].number)) printf("%.*g", c[i].digits, c[i].number);
    }
    putchar('\n');
}

static bb_status put_json(const cell *c, size_t n, bb_err *err)
{
    json_t *row = json_object();
    int     failed = !row;
    for (size_t i = 0; i < n && row; i++) {
        json_t *text = c[i].text ? json_string(c[i].text) : NULL; /* NULL: not UTF-8 */
        failed |= json_object_set_new(row, c[i].name,
                                      c[i].text         ? (text ? text : json_null())
                                      : c[i].digits > 6 ? json_integer((json_int_t)c[i].number)
                                                        : bb_json_number(c[i].number));
    }
    failed = failed || json_dumpf(row, stdout, JSON_REAL_PRECISION(12)) || putchar('\n') == EOF || fflush(stdout);
    json_decref(row);
    return failed ? BB_FAIL(err, BB_IO, "standard output could not be written") : BB_OK;
}

static bb_status put_row(job *j, const cell *c, size_t n, bb_err *err)
{
    if (j->o.json) return put_json(c, n, err);
    if (!j->has_header) put_csv(c, n, true);
    j->has_header = true;
    put_csv(c, n, false);
    return fflush(stdout) || ferror(stdout) ? BB_FAIL(err, BB_IO, "standard output could not be written") : BB_OK;
}

/* ---- texts ---- */

/* window_kl: [windows] of this file; first: of the first one. */
static bb_status put_text(job *j, const char *path, const bb_model *m, const compare_text *t, const bb_result *r, const double *window_kl, const double *first,
                          bb_err *err)
{
    const bb_windows *w = &t->text.w;
    double            difference = NAN, difference_se = NAN;
    if (window_kl != first) bb_mean_and_error(window_kl, first, w->n, &difference, &difference_se);
    if (w->n == 1) difference_se = NAN;
    const cell c[] = { TEXT("file", path),
                       WHOLE("size_bytes", m->source.size_bytes),
                       TEXT("text", t->path),
                       WHOLE("ctx", w->ctx),
                       WHOLE("windows", w->n),
                       WHOLE("tokens", r->n_tokens),
                       REAL("ppl", r->ppl),
                       REAL("ppl_se", r->ppl_se),
                       REAL("ppl_full", exp(r->nll - r->ln_ratio)),
                       REAL("ln_ratio", r->ln_ratio),
                       REAL("ln_ratio_se", r->ln_ratio_se),
                       REAL("kl_nats", r->kl),
                       REAL("kl_se", r->kl_se),
                       REAL("kl_p90", r->kl_quantile[3] /* bb_kl_quantiles */),
                       REAL("kl_p99", r->kl_quantile[4]),
                       REAL("kl_p999", r->kl_quantile[5]),
                       REAL("top1", r->top1),
                       REAL("kl_difference", difference),
                       REAL("kl_difference_se", difference_se) };
    return put_row(j, c, sizeof c / sizeof *c, err);
}

/* The texts of --text, before anything is measured. */
static bb_status load_texts(job *j, bb_err *err)
{
    bb_status   status = BB_OK;
    const char *list = j->o.text;
    size_t      n = 0;
    for (bb_item item; bb_list_next(&list, &item);) n++;
    if (!(j->texts = BB_NEW0(n, compare_text, err))) return BB_NOMEM;
    list = j->o.text;
    for (bb_item item; status == BB_OK && bb_list_next(&list, &item);) {
        compare_text           *t = &j->texts[j->n_texts++];
        const bb_eval_text_spec spec = { t->path = bb_item_text(item, err), j->o.protocol, j->o.ctx, j->o.chunks, j->o.spread, j->o.parse_special };
        if (item.n == 0) status = BB_FAIL(err, BB_USAGE, "--text: an empty name in the list '%s'", j->o.text);
        else status = t->path ? bb_eval_text_load(&j->full, j->paths[0], &spec, &t->text, err) : BB_NOMEM;
    }
    return status;
}

static void texts_done(job *j)
{
    for (size_t i = 0; i < j->n_texts; i++) {
        bb_free(j->texts[i].path);
        bb_eval_text_done(&j->texts[i].text);
    }
    bb_free(j->texts);
}

/* All files on one text. */
static bb_status run_text(job *j, const compare_text *t, bb_err *err)
{
    const bb_windows *w = &t->text.w;
    bb_reference     *full = NULL;
    bb_model          m = { 0 };
    double           *kl = bb_alloc(w->n, sizeof *kl, err), *first = bb_alloc(w->n, sizeof *first, err);
    bb_result         r;
    bb_status         status = kl && first ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    BB_TRY(bb_reference_create(bb_engine_backend(), &j->full.net, w, STATES, "full precision", &full, err));
    for (size_t i = 1; i < j->n; i++) {
        double *of_windows = i == 1 ? first : kl;
        BB_TRY(bb_model_open(j->paths[i], &m, err));
        BB_TRY(bb_evaluate_against(&m.net, full, 0, "comparing", &r, of_windows, NULL, err));
        BB_TRY(put_text(j, j->paths[i], &m, t, &r, of_windows, first, err));
        bb_model_close(&m);
    }
done:
    bb_model_close(&m);
    bb_reference_destroy(full);
    bb_free(kl);
    bb_free(first);
    return status;
}

/* ---- tasks ---- */

static bb_status put_task(job *j, const char *path, const bb_model *m, const bb_task *t, const bb_task_result *r, const bb_task_result *full,
                          const bb_task_difference *d, bb_err *err)
{
    const cell c[] = { TEXT("file", path),
                       WHOLE("size_bytes", m->source.size_bytes),
                       TEXT("task", t->name),
                       WHOLE("items", r->n),
                       REAL("acc", r->acc),
                       REAL("acc_se", r->acc_se),
                       REAL("acc_norm", r->acc_norm),
                       REAL("acc_norm_se", r->acc_norm_se),
                       REAL("nll", r->gold_nll),
                       REAL("nll_se", r->gold_nll_se),
                       REAL("acc_full", full->acc),
                       REAL("acc_norm_full", full->acc_norm),
                       REAL("nll_full", full->gold_nll),
                       REAL("changed", d->changed),
                       REAL("acc_difference", d->acc),
                       REAL("acc_difference_se", d->acc_se),
                       REAL("acc_norm_difference", d->acc_norm),
                       REAL("acc_norm_difference_se", d->acc_norm_se),
                       REAL("nll_difference", d->gold_nll),
                       REAL("nll_difference_se", d->gold_nll_se) };
    return put_row(j, c, sizeof c / sizeof *c, err);
}

/* One task of all files. */
static bb_status run_task(job *j, const char *path, bb_err *err)
{
    bb_task         t;
    bb_task_result  full, r;
    bb_task_answer *answers_full = NULL, *answers = NULL;
    bb_model        m = { 0 };
    const uint32_t  window = bb_task_window(&j->full, j->o.ctx);
    bb_status       status = bb_task_load(path, (size_t)j->o.limit, &t, err);
    if (status != BB_OK) return status;
    answers = bb_alloc(t.n_items, sizeof *answers, err);
    answers_full = bb_alloc(t.n_items, sizeof *answers_full, err);
    if (!answers || !answers_full) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_task_run(bb_engine_backend(), &j->full, &j->full.net, &t, window, t.name, &full, answers_full, NULL, err));
    bb_task_warn_left_out(&t, &full, window);
    for (size_t i = 1; i < j->n; i++) {
        BB_TRY(bb_model_open(j->paths[i], &m, err));
        BB_TRY(bb_task_run(bb_engine_backend(), &m, &m.net, &t, window, t.name, &r, answers, NULL, err));
        const bb_task_difference d = bb_task_compare(t.kind, answers, answers_full, t.n_items);
        BB_TRY(put_task(j, j->paths[i], &m, &t, &r, &full, &d, err));
        bb_model_close(&m);
    }
done:
    bb_model_close(&m);
    bb_free(answers);
    bb_free(answers_full);
    bb_task_done(&t);
    return status;
}

/* ---- greedy decoding ---- */

static bb_status put_divergence(job *j, const char *path, const bb_model *m, const bb_divergence *d, bb_err *err)
{
    const cell c[] = { TEXT("file", path),
                       WHOLE("size_bytes", m->source.size_bytes),
                       TEXT("text", j->o.greedy),
                       WHOLE("prompts", d->n_prompts),
                       WHOLE("prompt_tokens", d->n_prompt),
                       WHOLE("new_tokens", d->n_new),
                       REAL("different", d->share),
                       REAL("different_se", d->share_se),
                       REAL("first_difference", d->place),
                       REAL("first_difference_se", d->place_se),
                       REAL("same_tokens", d->agree),
                       REAL("same_tokens_se", d->agree_se) };
    return put_row(j, c, sizeof c / sizeof *c, err);
}

static bb_status run_greedy(job *j, bb_err *err)
{
    const bb_greedy_spec spec = { (uint32_t)j->o.prompts, (uint32_t)j->o.prompt_tokens, (uint32_t)j->o.new_tokens };
    const uint32_t       trained = j->full.net.n_ctx_train;
    bb_tokens            text = { 0 };
    bb_greedy           *g = NULL;
    bb_model             m = { 0 };
    bb_divergence        d;
    int32_t              bos;
    bb_status            status;
    if (trained && spec.n_prompt + spec.n_new > trained)
        bb_warn("sequences of %u tokens are longer than the %u that %s was trained with", spec.n_prompt + spec.n_new, trained, j->paths[0]);
    BB_TRY(bb_tokens_load(&j->full, j->o.greedy, j->o.parse_special, &text, err));
    BB_TRY(bb_tokens_bos(&j->full, &bos, err));
    BB_TRY(bb_greedy_create(&j->full.net, &text, bos, &spec, "continuing the prompts", &g, err));
    if (bb_greedy_prompts(g) < spec.n_prompts)
        bb_warn("%s has %u prompts of %u tokens, not %u", j->o.greedy, bb_greedy_prompts(g), spec.n_prompt, spec.n_prompts);
    for (size_t i = 1; i < j->n; i++) {
        BB_TRY(bb_model_open(j->paths[i], &m, err));
        BB_TRY(bb_greedy_measure(bb_engine_backend(), &m.net, g, "comparing", NULL, &d, err));
        BB_TRY(put_divergence(j, j->paths[i], &m, &d, err));
        bb_model_close(&m);
    }
done:
    bb_model_close(&m);
    bb_greedy_destroy(g);
    bb_tokens_done(&text);
    return status;
}

/* ---- the command ---- */

static bb_status check_options(const job *j, int argc, char **argv, bb_err *err)
{
    const compare_options *o = &j->o;
    const int              tables = !!o->text + !!o->tasks + !!o->greedy;
    const bb_idle_option   idle[] = {
          { "--protocol", "without --text", !o->text },       { "--chunks", "without --text", !o->text },
          { "--spread", "without --text", !o->text },         { "--spread", "without --chunks: all windows are taken", !o->chunks },
          { "--limit", "without --tasks", !o->tasks },        { "--ctx", "without --text or --tasks", !o->text && !o->tasks },
          { "--prompts", "without --greedy", !o->greedy },    { "--prompt-tokens", "without --greedy", !o->greedy },
          { "--new-tokens", "without --greedy", !o->greedy }, { "--parse-special", "without --text or --greedy", !o->text && !o->greedy },
    };
    if (j->n < 2)
        return BB_FAIL(err, BB_USAGE, "compare needs the model in full precision, then at least one file: bitbudget compare FULL.gguf FILE.gguf --text TEXT");
    if (tables != 1)
        return BB_FAIL(err, BB_USAGE,
                       tables ? "--text, --tasks and --greedy are tables of their own: one at a time"
                              : "compare needs --text FILES, --tasks FILES or --greedy TEXT");
    if (o->tasks && o->ctx == 1) return BB_FAIL(err, BB_USAGE, "--ctx 1: a task needs at least 2 tokens");
    return bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err);
}

/* Every file, before anything is measured. */
static bb_status check_files(job *j, bb_err *err)
{
    bb_model  m = { 0 };
    bb_status status;
    BB_TRY(bb_model_open(j->paths[0], &j->full, err));
    BB_TRY(bb_model_check_weights(&j->full, false, NULL, err));
    bb_eval_warn_reference(&j->full, j->paths[0]);
    for (size_t i = 1; i < j->n; i++) {
        BB_TRY(bb_model_open(j->paths[i], &m, err));
        BB_TRY(bb_eval_check_reference(&m, j->paths[i], &j->full, j->paths[0], j->o.text != NULL, err));
        BB_TRY(bb_model_check_weights(&m, false, NULL, err));
        bb_model_close(&m);
    }
    if (j->o.text) BB_TRY(load_texts(j, err));
    if (j->o.greedy) {
        uint64_t bytes;
        BB_TRY(bb_file_size(j->o.greedy, &bytes, err));
    }
done:
    bb_model_close(&m);
    return status;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    job       j = { .n = 0 };
    bb_status status;
    BB_TRY(bb_command_options(&bb_command_compare, &j.o, argc, argv, j.paths, MODELS, &j.n, err));
    BB_TRY(check_options(&j, argc, argv, err));
    bb_precision_use(j.o.precision, true);
    if (j.o.tasks) BB_TRY(bb_task_files_find(j.o.tasks, &j.tasks, err));
    BB_TRY(bb_task_files_check(&j.tasks, (size_t)j.o.limit, err));
    BB_TRY(check_files(&j, err));
    for (size_t i = 0; i < j.tasks.n; i++) BB_TRY(run_task(&j, j.tasks.at[i], err));
    for (size_t i = 0; i < j.n_texts; i++) BB_TRY(run_text(&j, &j.texts[i], err));
    if (j.o.greedy) BB_TRY(run_greedy(&j, err));
done:
    texts_done(&j);
    bb_task_files_done(&j.tasks);
    bb_model_close(&j.full);
    bb_options_done(rows, N_ROWS, &j.o);
    return status;
}

const bb_command bb_command_compare = {
    .name = "compare",
    .summary = "several files beside full precision: perplexity and KL, zero-shot tasks, or where greedy decoding differs",
    .usage = "FULL.gguf FILE.gguf... (--text FILES | --tasks FILES | --greedy TEXT)",
    .example = "bitbudget compare full.gguf small.gguf other.gguf --text prose.txt,code.txt --ctx 512 --chunks 40\n"
               "bitbudget compare full.gguf small.gguf other.gguf --tasks arc_easy.jsonl,piqa.jsonl --limit 100 --precision fast\n"
               "bitbudget compare full.gguf small.gguf --greedy held-out.txt --prompts 300 --prompt-tokens 32 --new-tokens 32",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
