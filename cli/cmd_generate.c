/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_generate.c: bitbudget generate MODEL --prompt TEXT: what a model writes, as it writes it; of two models, both continuations and where they part. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/json.h"
#include "engine/environment.h"
#include "model/io/chat.h"
#include "model/io/tokenizer.h"
#include "model/model.h"
#include "model/net/sample.h"
#include "model/net/sampler.h"

typedef struct generate_options {
    char   *prompt, *prompt_file, *system, *precision;
    int64_t n, top_k, repeat_last, seed, ctx;
    double  temperature, top_p, min_p, repeat_penalty;
    bool    chat, parse_special, compare, json;
} generate_options;

#define FIELD(name) offsetof(generate_options, name)
static const bb_option_row rows[] = {
    { "prompt", BB_OPT_TEXT, FIELD(prompt), NULL, 1, 0, "TEXT", "what the model goes on from", NULL },
    { "prompt-file", BB_OPT_TEXT, FIELD(prompt_file), NULL, 1, 0, "FILE", "the same from a file; one newline at its end is left out", NULL },
    { "n", BB_OPT_INT, FIELD(n), "256", 1, 1 << 20, "N", "tokens to write at most", NULL },
    { "temperature", BB_OPT_DOUBLE, FIELD(temperature), "0.8", 0, 100, "T", "of the draws; 0: always the likeliest token", NULL },
    { "top-k", BB_OPT_INT, FIELD(top_k), "40", 0, 1 << 24, "K", "draw from the K likeliest tokens; 0: from all", NULL },
    { "top-p", BB_OPT_DOUBLE, FIELD(top_p), "0.95", 0, 1, "P", "draw from the fewest tokens that have this probability together; 1: from all", NULL },
    { "min-p", BB_OPT_DOUBLE, FIELD(min_p), "0.05", 0, 1, "P", "draw from the tokens with at least this part of the largest probability; 0: from all", NULL },
    { "repeat-penalty", BB_OPT_DOUBLE, FIELD(repeat_penalty), "1", 0.01, 100, "X",
      "logits of recent tokens are divided by it where positive and multiplied where negative; 1: none", NULL },
    { "repeat-last", BB_OPT_INT, FIELD(repeat_last), "64", 0, 4096, "N", "tokens that count as recent, those of the prompt too", NULL },
    { "seed", BB_OPT_INT, FIELD(seed), "1", 0, 9e15, "N", "of the draws", NULL },
    { "chat", BB_OPT_FLAG, FIELD(chat), NULL, 1, 0, NULL, "the prompt is a message to the assistant, in the form of the model's chat template", NULL },
    { "system", BB_OPT_TEXT, FIELD(system), NULL, 1, 0, "TEXT", "a system message before it; implies --chat", NULL },
    { "parse-special", BB_OPT_FLAG, FIELD(parse_special), NULL, 1, 0, NULL, "text of special tokens (\"<|im_end|>\") in the prompt becomes these tokens",
      NULL },
    { "ctx", BB_OPT_INT, FIELD(ctx), "0", 0, 1 << 20, "N", "tokens of prompt and continuation at most; 0: what the model was trained with", NULL },
    { "precision", BB_OPT_TEXT, FIELD(precision), "fast", 1, 0, "NAME",
      "products: fast, of 8-bit integers as llama.cpp makes them, or exact, with the bits of `bitbudget eval`", BB_PRECISIONS },
    { "compare", BB_OPT_FLAG, FIELD(compare), NULL, 1, 0, NULL, "of two models: both continuations of the prompt, and the token at which they part", NULL },
    { "json", BB_OPT_FLAG, FIELD(json), NULL, 1, 0, NULL, "print JSON, at the end", NULL },
};
enum { N_ROWS = sizeof rows / sizeof *rows, MODELS = 2, CTX_UNKNOWN = 4096 };

/* Why a continuation ended, as JSON says it and as the last line says it. */
typedef enum stop { STOP_LENGTH, STOP_END, STOP_CONTEXT, STOP_INTERRUPTED } stop;
static const char *const stop_names[] = { "length", "end", "context", "interrupted" };
static const char *const stop_texts[] = { "after --n tokens", "the model ended its text", "the context is full", "interrupted" };

/* One model and what it has written. */
typedef struct writer {
    const char   *path;
    bb_model      m;
    bb_tokenizer *t;
    int32_t      *ids; /* the prompt, then what was written */
    uint32_t      n_prompt, n, length;
    stop          stop;
    double        prompt_s, decode_s;
    bb_text       text;      /* of the continuation, whole characters */
    size_t        used;      /* bytes of what the tokens say that are in text */
    size_t        base;      /* bytes that the last token of the prompt says */
    size_t        n_sampled; /* tokens that can be chosen: those with a text and a logit */
} writer;

typedef struct job {
    generate_options o;
    writer           w[MODELS];
    size_t           n;
    char            *prompt;
    size_t           prompt_size;
} job;

static void close_job(job *j)
{
    for (size_t i = 0; i < MODELS; i++) {
        bb_text_done(&j->w[i].text);
        bb_free(j->w[i].ids);
        bb_tokenizer_destroy(j->w[i].t);
        bb_model_close(&j->w[i].m);
    }
    bb_free(j->prompt);
    bb_options_done(rows, N_ROWS, &j->o);
}

/* ---- before anything is computed ---- */

static bb_status check_options(job *j, int argc, char **argv, bb_err *err)
{
    const generate_options *o = &j->o;
    const bb_idle_option    refused[] = {
           { "--parse-special", "with --chat and --system: the template's special tokens are always meant", o->chat || o->system },
    };
    const bb_idle_option idle[] = {
        { "--top-k", "at --temperature 0", o->temperature <= 0 },
        { "--top-p", "at --temperature 0", o->temperature <= 0 },
        { "--min-p", "at --temperature 0", o->temperature <= 0 },
        { "--seed", "at --temperature 0", o->temperature <= 0 },
        { "--repeat-last", "without --repeat-penalty", o->repeat_penalty <= 1 && o->repeat_penalty >= 1 },
    };
    if (j->n == 0) return BB_FAIL(err, BB_USAGE, "generate needs a model");
    if (j->n == 1 && o->compare) return BB_FAIL(err, BB_USAGE, "--compare needs two models: bitbudget generate --compare A.gguf B.gguf --prompt TEXT");
    if (!o->prompt == !o->prompt_file)
        return BB_FAIL(err, BB_USAGE,
                       o->prompt ? "--prompt and --prompt-file: one of them can be the prompt" : "generate needs --prompt TEXT or --prompt-file FILE");
    bb_command_warn_idle(argc, argv, idle, sizeof idle / sizeof *idle);
    return bb_command_refuse_idle(argc, argv, refused, sizeof refused / sizeof *refused, err);
}

static bb_status read_prompt(job *j, bb_err *err)
{
    bb_status status;
    if (j->o.prompt) {
        j->prompt_size = strlen(j->o.prompt);
        return (j->prompt = bb_strdup(j->o.prompt, err)) ? BB_OK : BB_NOMEM;
    }
    BB_TRY(bb_file_read(j->o.prompt_file, &j->prompt, &j->prompt_size, err));
    if (j->prompt_size && j->prompt[j->prompt_size - 1] == '\n') j->prompt[--j->prompt_size] = '\0';
    if (j->o.chat && strlen(j->prompt) != j->prompt_size)
        status = BB_FAIL(err, BB_BAD_FILE, "%s: a NUL byte at %zu: a message is text", j->o.prompt_file, strlen(j->prompt));
done:
    return status;
}

/* The prompt as the template of the first model has it. */
static bb_status put_in_template(job *j, bb_err *err)
{
    const bb_jinja_message messages[] = { { "system", j->o.system }, { "user", j->prompt } };
    bb_text                text = { 0 };
    bb_status              status;
    BB_TRY(bb_chat_text(&j->w[0].m.source, messages + !j->o.system, j->o.system ? 2 : 1, time(NULL), &text, err));
    bb_text_addn(&text, "", 0); /* never NULL */
    if ((status = text.status) != BB_OK) {
        BB_FAIL(err, status, "out of memory");
        goto done;
    }
    bb_free(j->prompt);
    j->prompt = text.data;
    j->prompt_size = text.size;
    text.data = NULL;
done:
    bb_text_done(&text);
    return status;
}

/* The ids of the prompt: BOS first where the vocabulary wants it and the text does not begin with it; no EOS behind it, as the text goes on. */
static bb_status tokenize(const job *j, writer *w, bb_err *err)
{
    int32_t       *ids = NULL;
    size_t         n = 0;
    bb_status      status = BB_OK;
    const uint32_t trained = w->m.net.n_ctx_train ? w->m.net.n_ctx_train : CTX_UNKNOWN, ctx = j->o.ctx ? (uint32_t)j->o.ctx : trained;
    BB_TRY(bb_tokenize(w->t, j->prompt, j->prompt_size, false, j->o.parse_special || j->o.chat, &ids, &n, err));
    const int32_t bos = bb_tokenizer_bos(w->t);
    const bool    add = bb_tokenizer_adds_bos(w->t) && bos >= 0 && !(n > 0 && ids[0] == bos);
    if (n + add == 0)
        status = BB_FAIL(err, BB_USAGE, "the prompt is empty, and the vocabulary of %s puts no token first: there is nothing to go on from", w->path);
    else if (n + add >= ctx)
        status = BB_FAIL(err, BB_USAGE, "the prompt has %zu tokens; with %s of %u there is no room for an answer", n + add,
                         j->o.ctx ? "--ctx" : "the model's context", ctx);
    if (status != BB_OK) goto done;
    if (ctx > trained) bb_warn("%s was trained with %u tokens at most: what it writes behind them may make no sense", w->path, trained);
    w->n_prompt = (uint32_t)(n + add);
    w->length = ctx - w->n_prompt < j->o.n ? ctx : w->n_prompt + (uint32_t)j->o.n;
    if (!(w->ids = bb_alloc(w->length, sizeof *w->ids, err))) {
        status = BB_NOMEM;
        goto done;
    }
    if (add) w->ids[0] = bos;
    if (n) memcpy(w->ids + add, ids, n * sizeof *ids);
done:
    bb_free(ids);
    return status;
}

static bb_status open_models(job *j, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t i = 0; i < j->n; i++) {
        BB_TRY(bb_model_open(j->w[i].path, &j->w[i].m, err));
        BB_TRY(bb_tokenizer_create(&j->w[i].m.source, &j->w[i].t, err));
    }
    if (j->n == 2) BB_TRY(bb_model_same_vocabulary(&j->w[0].m, &j->w[1].m, err));
    if (j->o.chat) BB_TRY(put_in_template(j, err));
    for (size_t i = 0; i < j->n; i++) BB_TRY(tokenize(j, &j->w[i], err));
    for (size_t i = 0; i < j->n && !bb_interrupted(); i++) BB_TRY(bb_model_check_weights(&j->w[i].m, false, NULL, err));
done:
    if (status == BB_INTERRUPTED) { /* the text ends before its first token */
        bb_err_clear(err);
        status = BB_OK;
    }
    return status;
}

/* ---- writing ---- */

/* What the last token of the prompt and the tokens behind it say: a continuation is told from the text before it by its place, as the text of a token may
 * depend on what stands before. */
static bb_status said(const writer *w, uint32_t n, char **text, size_t *size, bb_err *err)
{
    return bb_detokenize(w->t, w->ids + w->n_prompt - 1, (size_t)n + 1, text, size, err);
}

/* Adds what is whole by now to the text, and shows it. */
static bb_status show(const job *j, writer *w, bool all, bb_err *err)
{
    char        *text = NULL;
    size_t       size, from;
    const size_t shown = w->text.size;
    bb_status    status;
    BB_TRY(said(w, w->n, &text, &size, err));
    from = w->base + w->used;
    if (from < size) w->used += bb_text_add_utf8(&w->text, text + from, size - from, all);
    if (w->text.status != BB_OK) status = BB_FAIL(err, w->text.status, "out of memory");
    else if (!j->o.json && w->text.size > shown &&
             (fwrite(w->text.data + shown, 1, w->text.size - shown, stdout) < w->text.size - shown || fflush(stdout) != 0))
        status = BB_FAIL(err, BB_IO, "standard output could not be written");
done:
    bb_free(text);
    return status;
}

static bb_status begin(writer *w, bb_err *err)
{
    const uint32_t V = w->m.net.n_vocab, texts = bb_tokenizer_n_vocab(w->t);
    char          *text = NULL;
    bb_status      status = said(w, 0, &text, &w->base, err);
    w->n_sampled = V < texts ? V : texts;
    bb_text_addn(&w->text, "", 0); /* never NULL */
    bb_free(text);
    return status;
}

/* Chooses and takes tokens until something ends it. logits: behind the prompt. */
static bb_status write_tokens(const job *j, writer *w, bb_decoder *d, float *logits, bb_choice *room, bb_err *err)
{
    const generate_options *o = &j->o;
    const bb_sampler        s = { o->temperature, (size_t)o->top_k, o->top_p, o->min_p, o->repeat_penalty, (uint32_t)o->repeat_last };
    bb_status               status = BB_OK;
    bb_rng                  r;
    bb_rng_init(&r, (uint64_t)o->seed, "generate");
    for (;;) {
        const int32_t id = bb_sampler_next(&s, logits, w->n_sampled, w->ids, w->n_prompt + w->n, room, &r);
        if (bb_tokenizer_ends(w->t, id)) {
            w->stop = STOP_END;
            break;
        }
        w->ids[w->n_prompt + w->n++] = id;
        BB_TRY(show(j, w, false, err));
        if (w->n_prompt + w->n == w->length) {
            w->stop = w->n < o->n ? STOP_CONTEXT : STOP_LENGTH;
            break;
        }
        BB_TRY(bb_decoder_take(d, &id, 1, &logits, err));
    }
done:
    return status;
}

/* An interruption ends the text where it is. */
static bb_status write_text(const job *j, writer *w, bb_err *err)
{
    bb_decoder  *d = NULL;
    bb_choice   *room = NULL;
    float       *logits = NULL;
    bb_err       first = BB_ERR_INIT;
    bb_status    status;
    const double start = bb_now_s();
    double       prompt_end = start;
    BB_TRY(begin(w, &first));
    if (!(room = bb_alloc(w->n_sampled, sizeof *room, &first))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_decoder_create(&w->m.net, w->length, 0, strcmp(j->o.precision, "fast") == 0, &d, &first));
    prompt_end = bb_now_s();
    BB_TRY(bb_decoder_take(d, w->ids, w->n_prompt, &logits, &first));
    w->prompt_s = bb_now_s() - prompt_end;
    prompt_end = bb_now_s();
    BB_TRY(write_tokens(j, w, d, logits, room, &first));
done:
    w->decode_s = bb_now_s() - prompt_end;
    if (status == BB_INTERRUPTED) {
        w->stop = STOP_INTERRUPTED;
        status = BB_OK;
        bb_err_clear(&first);
    }
    if (status == BB_OK) status = show(j, w, true, &first);
    if (status != BB_OK) BB_FAIL(err, status, "%s: %s", w->path, first.msg[0] ? first.msg : bb_status_text(status));
    bb_decoder_destroy(d);
    bb_free(room);
    return status;
}

static double rate(double n, double seconds) { return seconds > 0 ? n / seconds : 0; }

/* The first token comes with the prompt; the others are what decoding took. */
static double decode_rate(const writer *w) { return rate(w->n > 1 ? w->n - 1 : 0, w->decode_s); }

static void tell(const writer *w)
{
    bb_info("%s: prompt %u token%s, %.1f tokens/s; wrote %u token%s, %.1f tokens/s; stopped: %s", w->path, w->n_prompt, bb_plural(w->n_prompt),
            rate(w->n_prompt, w->prompt_s), w->n, bb_plural(w->n), decode_rate(w), stop_texts[w->stop]);
}

/* ---- two models ---- */

static uint32_t common(const job *j)
{
    const writer *a = &j->w[0], *b = &j->w[1];
    uint32_t      n = 0;
    while (n < a->n && n < b->n && a->ids[a->n_prompt + n] == b->ids[b->n_prompt + n]) n++;
    return n;
}

/* Do they part behind the common tokens? Not where both ended alike, or where one was cut off there. */
static bool parts(const job *j, uint32_t n)
{
    const writer *a = &j->w[0], *b = &j->w[1];
    const bool    more_a = n < a->n, more_b = n < b->n, end_a = !more_a && a->stop == STOP_END, end_b = !more_b && b->stop == STOP_END;
    return (more_a || end_a) && (more_b || end_b) && !(end_a && end_b);
}

/* Token number n of a continuation as a quoted text, or that the text ends there. */
static bb_status put_token(const writer *w, uint32_t n, bb_text *out, bb_err *err)
{
    char     *before = NULL, *text = NULL, *quoted = NULL;
    size_t    n_before, size;
    bb_text   clean = { 0 };
    json_t   *s = NULL;
    bb_status status = BB_OK;
    if (n == w->n) {
        bb_text_addf(out, "the end in %s", w->path);
        return BB_OK;
    }
    BB_TRY(said(w, n, &before, &n_before, err));
    BB_TRY(said(w, n + 1, &text, &size, err));
    bb_text_add_utf8(&clean, text + (n_before < size ? n_before : size), n_before < size ? size - n_before : 0, true);
    s = clean.status == BB_OK ? json_stringn(clean.data ? clean.data : "", clean.size) : NULL;
    if (!s || !(quoted = json_dumps(s, JSON_ENCODE_ANY))) status = BB_FAIL(err, BB_NOMEM, "out of memory");
    else bb_text_addf(out, "%s in %s", quoted, w->path);
done:
    json_decref(s);
    free(quoted);
    bb_text_done(&clean);
    bb_free(before);
    bb_free(text);
    return status;
}

static bb_status print_parting(const job *j, bb_err *err)
{
    const uint32_t n = common(j);
    bb_text        line = { 0 };
    bb_status      status = BB_OK;
    if (!parts(j, n)) {
        bb_text_addf(&line, "the same in both: %u token%s", n, bb_plural(n));
    } else {
        bb_text_addf(&line, "they part at token %u: ", n + 1);
        BB_TRY(put_token(&j->w[0], n, &line, err));
        bb_text_add(&line, ", ");
        BB_TRY(put_token(&j->w[1], n, &line, err));
    }
    if (line.status != BB_OK) status = BB_FAIL(err, line.status, "out of memory");
    else printf("\n%s\n", line.data);
done:
    bb_text_done(&line);
    return status;
}

/* ---- output ---- */

static json_t *ids_json(const int32_t *ids, size_t n)
{
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(a, json_integer(ids[i]));
    return a;
}

static json_t *writer_json(const writer *w)
{
    return json_pack("{s:o, s:s%, s:s, s:o, s:o, s:f, s:f}", "model", bb_json_text(w->path), "text", w->text.data, w->text.size, "stop", stop_names[w->stop],
                     "prompt_ids", ids_json(w->ids, w->n_prompt), "ids", ids_json(w->ids + w->n_prompt, w->n), "prompt_tokens_per_s",
                     rate(w->n_prompt, w->prompt_s), "decode_tokens_per_s", decode_rate(w));
}

static bb_status print_json(const job *j, bb_err *err)
{
    json_t *root = writer_json(&j->w[0]);
    if (j->n == 2) {
        const uint32_t n = common(j);
        root = json_pack("{s:[o, o], s:i, s:b}", "models", root, writer_json(&j->w[1]), "same_tokens", (int)n, "part", parts(j, n));
    }
    if (!root) return BB_FAIL(err, BB_NOMEM, "the result could not be put into JSON");
    const int failed = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(root);
    return failed || putchar('\n') == EOF ? BB_FAIL(err, BB_IO, "standard output could not be written") : BB_OK;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    job         j = { .n = 0 };
    const char *paths[MODELS] = { NULL, NULL };
    bb_status   status;
    BB_TRY(bb_command_options(&bb_command_generate, &j.o, argc, argv, paths, MODELS, &j.n, err));
    for (size_t i = 0; i < j.n; i++) j.w[i].path = paths[i];
    BB_TRY(check_options(&j, argc, argv, err));
    if (j.o.system) j.o.chat = true;
    BB_TRY(read_prompt(&j, err));
    BB_TRY(open_models(&j, err));
    for (size_t i = 0; i < j.n; i++) {
        if (j.n == 2 && !j.o.json) printf("%s== %s ==\n", i ? "\n" : "", j.w[i].path);
        BB_TRY(write_text(&j, &j.w[i], err));
        if (!j.o.json) putchar('\n');
        fflush(stdout);
        tell(&j.w[i]);
    }
    if (j.o.json) status = print_json(&j, err);
    else if (j.n == 2) status = print_parting(&j, err);
done:
    close_job(&j);
    return status;
}

const bb_command bb_command_generate = {
    .name = "generate",
    .summary = "write on from a prompt, to try a model at once, or two side by side",
    .usage = "MODEL.gguf [OTHER.gguf] --prompt TEXT",
    .example = "bitbudget generate model.gguf --prompt \"Once upon a time\" --n 100\n"
               "bitbudget generate model.gguf --chat --prompt \"What is the capital of France?\" --temperature 0\n"
               "bitbudget generate --compare full.gguf small.gguf --prompt-file question.txt --temperature 0",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
