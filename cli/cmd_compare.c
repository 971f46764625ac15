/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_compare.c: bitbudget compare FULL.gguf FILE.gguf...: several files beside full precision, which is measured once: zero-shot tasks, item by item, or the
 * prompts on which greedy decoding leaves it. A row is printed as soon as it is known. */
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
#include "cli/json.h"
#include "engine/environment.h"
#include "eval/divergence.h"
#include "kernels/kernels.h"

typedef struct compare_options {
    char   *tasks, *greedy, *precision;
    int64_t limit, ctx, prompts, prompt_tokens, new_tokens;
    bool    parse_special, json;
} compare_options;

#define FIELD(name) offsetof(compare_options, name)
static const bb_option_row rows[] = {
    { "tasks", BB_OPT_LIST, FIELD(tasks), NULL, 1, 0, "FILE|FOLDER,..",
      "zero-shot tasks: JSON lines (multiple choice, two contexts, last words) or HellaSwag text; of a folder, all .jsonl and .txt files", NULL },
    { "limit", BB_OPT_INT, FIELD(limit), "0", 0, UINT32_MAX, "N", "items of each task, from its beginning; 0: all", NULL },
    { "ctx", BB_OPT_INT, FIELD(ctx), "0", 0, 1 << 24, "N", "tokens of an item at most; 0: what the model was trained with, at most 4096", NULL },
    { "greedy", BB_OPT_TEXT, FIELD(greedy), NULL, 1, 0, "FILE",
      "the share of prompts of this text (or token ids: .npy, .u16, .u32) whose continuations by greedy decoding differ, and the place of the first difference",
      NULL },
    { "parse-special", BB_OPT_FLAG, FIELD(parse_special), NULL, 1, 0, NULL,
      "text of special tokens (\"<|im_end|>\") in the text of --greedy becomes these tokens", NULL },
    { "prompts", BB_OPT_INT, FIELD(prompts), "300", 1, 1 << 24, "N", "prompts of --greedy, spread over the text", NULL },
    { "prompt-tokens", BB_OPT_INT, FIELD(prompt_tokens), "32", 3, 1 << 20, "N", "tokens of a prompt, BOS included", NULL },
    { "new-tokens", BB_OPT_INT, FIELD(new_tokens), "32", 1, 1 << 20, "N", "tokens of a continuation", NULL },
    { "precision", BB_OPT_TEXT, FIELD(precision), "exact", 1, 0, "NAME", BB_PRECISION_HELP, BB_PRECISIONS },
    { "json", BB_OPT_FLAG, FIELD(json), NULL, 1, 0, NULL, "print JSON, an object a row, instead of CSV", NULL },
};
enum { N_ROWS = sizeof rows / sizeof *rows, MODELS = 256 };

typedef struct job {
    compare_options o;
    const char     *paths[MODELS]; /* full precision first */
    size_t          n;
    bb_model        full;
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
    const bb_idle_option   idle[] = {
          { "--limit", "without --tasks", !o->tasks },        { "--ctx", "without --tasks", !o->tasks },
          { "--prompts", "without --greedy", !o->greedy },    { "--prompt-tokens", "without --greedy", !o->greedy },
          { "--new-tokens", "without --greedy", !o->greedy }, { "--parse-special", "without --greedy", !o->greedy },
    };
    if (j->n < 2)
        return BB_FAIL(err, BB_USAGE, "compare needs the model in full precision, then at least one file: bitbudget compare FULL.gguf FILE.gguf --tasks FILES");
    if (!o->tasks == !o->greedy)
        return BB_FAIL(err, BB_USAGE, o->tasks ? "--tasks and --greedy are two tables: one at a time" : "compare needs --tasks FILES or --greedy TEXT");
    if (o->tasks && o->ctx == 1) return BB_FAIL(err, BB_USAGE, "--ctx 1: a task needs at least 2 tokens");
    return bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err);
}

/* Every file, before anything is measured. */
static bb_status check_files(job *j, bb_err *err)
{
    bb_model  m = { 0 };
    bb_status status;
    char      label[BB_MODEL_LABEL];
    BB_TRY(bb_model_open(j->paths[0], &j->full, err));
    BB_TRY(bb_model_check_weights(&j->full, false, NULL, err));
    if (bb_model_is_quantized(&j->full))
        bb_warn("%s is quantized itself: distances are from %s, not from full precision", j->paths[0], bb_model_source_label(&j->full, label));
    for (size_t i = 1; i < j->n; i++) {
        BB_TRY(bb_model_open(j->paths[i], &m, err));
        BB_TRY(bb_model_same_vocabulary(&m, &j->full, err));
        BB_TRY(bb_model_check_weights(&m, false, NULL, err));
        bb_model_close(&m);
    }
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
    if (j.o.greedy) BB_TRY(run_greedy(&j, err));
done:
    bb_task_files_done(&j.tasks);
    bb_model_close(&j.full);
    bb_options_done(rows, N_ROWS, &j.o);
    return status;
}

const bb_command bb_command_compare = {
    .name = "compare",
    .summary = "several files beside full precision: zero-shot tasks, or where greedy decoding differs",
    .usage = "FULL.gguf FILE.gguf... (--tasks FILES | --greedy TEXT)",
    .example = "bitbudget compare full.gguf small.gguf other.gguf --tasks arc_easy.jsonl,piqa.jsonl --limit 100 --precision fast\n"
               "bitbudget compare full.gguf small.gguf --greedy held-out.txt --prompts 300 --prompt-tokens 32 --new-tokens 32",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
