/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_train.c: bitbudget train OUT.gguf --text FILE: a model from a text and a vocabulary, or the further training of a model.
 *
 * vocabulary (and with --init the first weights) -> tokens -> trainer (model/train/train.h), step by step with validation and saved states
 * -> file beside the wanted one, renamed. The same command goes on after an interruption and ends with the same bytes. stdout gets a CSV
 * row at each validation. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "engine/environment.h"
#include "engine/memory.h"
#include "engine/outputs.h"
#include "engine/version.h"
#include "eval/evaluate.h"
#include "model/export/export.h"
#include "model/train/new_model.h"
#include "model/train/train.h"

typedef struct train_options {
    char    *config, *text, *valid, *init, *tokenizer, *name, *type, *schedule, *checkpoint;
    int64_t  layers, width, heads, kv_heads, head_dim, ffn, ctx, steps, batch, warmup, decay_steps, seed, valid_windows, valid_every, save_every;
    uint64_t max_ram;
    double   rope_base, norm_eps, rate, final_rate, weight_decay, beta1, beta2, clip;
    bool     untied, parse_special;
} train_options;

#define FIELD(name) offsetof(train_options, name)
static const bb_option_row rows[] = {
    { "config", BB_OPT_TEXT, FIELD(config), NULL, 1, 0, "FILE.yaml", "read options from this file (name: value)", NULL },
    { "text", BB_OPT_TEXT, FIELD(text), NULL, 1, 0, "FILE", "what to train on: text, or token ids (.npy, .u16, .u32)", NULL },
    { "valid", BB_OPT_TEXT, FIELD(valid), NULL, 1, 0, "FILE", "what to validate on; without it the last twentieth of the text, which is then not trained on",
      NULL },
    { "parse-special", BB_OPT_FLAG, FIELD(parse_special), NULL, 1, 0, NULL, "text of special tokens (\"<|im_end|>\") in the texts becomes these tokens", NULL },
    { "init", BB_OPT_TEXT, FIELD(init), NULL, 1, 0, "MODEL.gguf",
      "go on from this model (any supported architecture, also quantized or pruned): shape, weights and vocabulary are its own", NULL },
    { "tokenizer", BB_OPT_TEXT, FIELD(tokenizer), NULL, 1, 0, "FILE.gguf", "without --init: take the vocabulary of this file", NULL },
    { "layers", BB_OPT_INT, FIELD(layers), "8", 1, 512, "N", "blocks", NULL },
    { "width", BB_OPT_INT, FIELD(width), "256", 1, 1 << 20, "N", "of the residual stream", NULL },
    { "heads", BB_OPT_INT, FIELD(heads), "8", 1, 4096, "N", "query heads", NULL },
    { "kv-heads", BB_OPT_INT, FIELD(kv_heads), "0", 0, 4096, "N", "KV heads; 0: as many as query heads", NULL },
    { "head-dim", BB_OPT_INT, FIELD(head_dim), "0", 0, 4096, "N", "size of a head; 0: width / heads", NULL },
    { "ffn", BB_OPT_INT, FIELD(ffn), "0", 0, 1 << 22, "N", "width of the FFN; 0: three times the width", NULL },
    { "untied", BB_OPT_FLAG, FIELD(untied), NULL, 1, 0, NULL, "an output matrix of its own instead of the embedding's", NULL },
    { "rope-base", BB_OPT_DOUBLE, FIELD(rope_base), "10000", 1e-3, 1e12, "X", "base of the RoPE frequencies", NULL },
    { "norm-eps", BB_OPT_DOUBLE, FIELD(norm_eps), "1e-5", 0, 1, "X", "epsilon of the norms", NULL },
    { "ctx", BB_OPT_INT, FIELD(ctx), "256", 3, 1 << 20, "N", "tokens of a window; the context length of a new model", NULL },
    { "batch", BB_OPT_INT, FIELD(batch), "32", 1, 1 << 20, "N", "windows a step", NULL },
    { "steps", BB_OPT_INT, FIELD(steps), "1000", 1, 1e9, "N", "length of the run", NULL },
    { "schedule", BB_OPT_TEXT, FIELD(schedule), "wsd", 1, 0, "NAME", "of the rate: warm-up, stable, decay; half a cosine; constant after the warm-up",
      "wsd|cosine|constant" },
    { "warmup", BB_OPT_INT, FIELD(warmup), "-1", -1, 1e9, "N", "steps of warm-up; -1: a twentieth of the run", NULL },
    { "decay-steps", BB_OPT_INT, FIELD(decay_steps), "-1", -1, 1e9, "N", "steps of decay at the end (wsd); -1: a fifth of the run", NULL },
    { "rate", BB_OPT_DOUBLE, FIELD(rate), "2e-3", 0, 10, "X", "highest learning rate", NULL },
    { "final-rate", BB_OPT_DOUBLE, FIELD(final_rate), "0", 0, 10, "X", "rate of the last step", NULL },
    { "weight-decay", BB_OPT_DOUBLE, FIELD(weight_decay), "0.1", 0, 10, "X", "decoupled weight decay of matrices", NULL },
    { "beta1", BB_OPT_DOUBLE, FIELD(beta1), "0.9", 0, 0.9999, "X", "AdamW's decay of the mean gradient", NULL },
    { "beta2", BB_OPT_DOUBLE, FIELD(beta2), "0.95", 0, 0.99999, "X", "AdamW's decay of the mean square", NULL },
    { "clip", BB_OPT_DOUBLE, FIELD(clip), "1", 0, 1e9, "X", "limit of the gradient's norm; 0: none", NULL },
    { "seed", BB_OPT_INT, FIELD(seed), "1", 0, 9e15, "N", "of the first weights and of the order of windows", NULL },
    { "valid-windows", BB_OPT_INT, FIELD(valid_windows), "64", 1, 1e9, "N", "windows to validate on, spread over the text", NULL },
    { "valid-every", BB_OPT_INT, FIELD(valid_every), "100", 1, 1e9, "N", "steps from one validation (and row on stdout) to the next", NULL },
    { "checkpoint", BB_OPT_TEXT, FIELD(checkpoint), NULL, 1, 0, "FILE",
      "state to go on from, and to keep at the end; without it OUT.gguf.state, removed at the end. "
      "A kept state of the stable phase can be continued with more --steps",
      NULL },
    { "save-every", BB_OPT_INT, FIELD(save_every), "200", 1, 1e9, "N", "steps from one saved state to the next", NULL },
    { "max-ram", BB_OPT_SIZE, FIELD(max_ram), "0", 1, 0, "SIZE", BB_MAX_RAM_HELP, NULL },
    { "type", BB_OPT_TEXT, FIELD(type), "F16", 1, 0, "TYPE", "of the matrices in the file", "F32|F16|BF16" },
    { "name", BB_OPT_TEXT, FIELD(name), "bitbudget", 1, 0, "NAME", "general.name of a new model", NULL },
};
#undef FIELD
enum { N_ROWS = sizeof rows / sizeof *rows };

typedef struct job {
    train_options o;
    const char   *path;       /* OUT.gguf */
    char         *state;      /* its saved state */
    bb_model      m;          /* of --init; else only the vocabulary's metadata and its size */
    bb_net        shape;      /* of what is trained; weights not read without --init */
    bb_block     *new_blocks; /* of shape, without --init; owned */
    bb_tokens     text, valid;
    size_t        n_train; /* tokens of text that are trained on */
    int32_t       bos;
    bb_windows    w; /* to validate on */
    bb_training  *t;
} job;

/* ---- what is trained ---- */

static bb_status open_vocabulary(job *j, bb_err *err)
{
    bb_tokenizer *tokenizer = NULL;
    bb_status     status;
    BB_TRY(bb_source_open(j->o.tokenizer, &j->m.source, err));
    BB_TRY(bb_tokenizer_create(&j->m.source, &tokenizer, err));
    j->m.net.n_vocab = bb_tokenizer_n_vocab(tokenizer);
done:
    bb_tokenizer_destroy(tokenizer);
    return status;
}

static bb_status new_shape(job *j, bb_err *err)
{
    const train_options *o = &j->o;
    bb_new_shape         s = { .n_vocab = j->m.net.n_vocab,
                               .n_layer = (uint32_t)o->layers,
                               .n_embd = (uint32_t)o->width,
                               .n_head = (uint32_t)o->heads,
                               .n_kv = (uint32_t)(o->kv_heads ? o->kv_heads : o->heads),
                               .n_ff = (uint32_t)(o->ffn ? o->ffn : 3 * o->width),
                               .n_ctx = (uint32_t)o->ctx,
                               .rope_base = (float)o->rope_base,
                               .norm_eps = (float)o->norm_eps,
                               .tied = !o->untied };
    bb_status            status;
    if (!o->head_dim && o->width % o->heads)
        return BB_FAIL(err, BB_USAGE, "--width %lld is no multiple of --heads %lld; give --head-dim", (long long)o->width, (long long)o->heads);
    s.head_dim = (uint32_t)(o->head_dim ? o->head_dim : o->width / o->heads);
    status = bb_new_net(&s, &j->shape, err);
    j->new_blocks = j->shape.blocks;
    return status;
}

static bb_status open_model(job *j, bb_err *err)
{
    bb_status status = BB_OK;
    if (j->o.init) {
        BB_TRY(bb_model_open(j->o.init, &j->m, err));
        BB_TRY(bb_model_check_weights(&j->m, false, NULL, err));
        j->shape = j->m.net;
        BB_TRY(bb_export_check(&j->m, &j->shape, err));
    } else {
        BB_TRY(open_vocabulary(j, err));
        BB_TRY(new_shape(j, err));
    }
done:
    return status;
}

/* ---- data ---- */

static bb_status load_data(job *j, bb_err *err)
{
    const train_options *o = &j->o;
    uint32_t             ctx = (uint32_t)o->ctx;
    bb_tokens            rest;
    bb_status            status;
    if (j->o.init && j->shape.n_ctx_train && ctx > j->shape.n_ctx_train)
        bb_warn("windows of %u tokens are longer than the %u that %s was trained with", ctx, j->shape.n_ctx_train, o->init);
    BB_TRY(bb_tokens_load(&j->m, o->text, o->parse_special, &j->text, err));
    BB_TRY(bb_tokens_bos(&j->m, &j->bos, err));
    j->n_train = j->text.n;
    rest = j->text;
    if (o->valid) BB_TRY(bb_tokens_load(&j->m, o->valid, o->parse_special, &j->valid, err));
    else {
        j->n_train -= j->text.n / 20 < ctx ? ctx : j->text.n / 20;
        if (j->text.n < 3 * (size_t)ctx)
            return BB_FAIL(err, BB_BAD_FILE, "%s has %zu tokens; at least three windows of %u are needed", o->text, j->text.n, ctx);
        rest.ids = j->text.ids + j->n_train;
        rest.n = j->text.n - j->n_train;
    }
    BB_TRY(bb_windows_make(o->valid ? &j->valid : &rest, BB_PROTOCOL_GGUF, ctx, j->bos, (uint32_t)o->valid_windows, true, &j->w, err));
done:
    return status;
}

static bb_status make_trainer(job *j, bb_err *err)
{
    const train_options *o = &j->o;
    bb_train_data        data = { j->text.ids, j->n_train, j->bos };
    bb_train_options     p = { .ctx = (uint32_t)o->ctx,
                               .batch = (uint32_t)o->batch,
                               .adamw = { o->beta1, o->beta2, 1e-8 },
                               .decay = o->weight_decay,
                               .clip = o->clip,
                               .seed = (uint64_t)o->seed };
    bb_status            status;
    p.schedule = (bb_schedule) { .kind = BB_SCHEDULE_WSD,
                                 .n_steps = (uint64_t)o->steps,
                                 .peak = o->rate,
                                 .last = o->final_rate,
                                 .n_warmup = (uint64_t)(o->warmup < 0 ? o->steps / 20 : o->warmup),
                                 .n_decay = (uint64_t)(o->decay_steps < 0 ? o->steps / 5 : o->decay_steps) };
    if (strcmp(o->schedule, "cosine") == 0) p.schedule.kind = BB_SCHEDULE_COSINE;
    if (strcmp(o->schedule, "constant") == 0) p.schedule.kind = BB_SCHEDULE_CONSTANT;
    BB_TRY(bb_training_create(bb_engine_backend(), &j->shape, &data, &p, &j->t, err));
    if (o->init) bb_training_start_from(j->t, &j->m.net);
    else bb_training_start_random(j->t);
    if (bb_file_exists(j->state)) {
        BB_TRY(bb_training_load(j->t, j->state, err));
        bb_info("going on from step %llu, saved in %s", (unsigned long long)bb_training_steps(j->t), j->state);
    }
done:
    return status;
}

/* ---- the run ---- */

/* Training loss since the last row. */
typedef struct tally {
    double   loss, started_s;
    uint64_t n;
} tally;

static bb_status report(job *j, const bb_train_step *s, tally *since, bb_err *err)
{
    bb_result r;
    bb_status status;
    uint64_t  a_step = (uint64_t)j->o.batch * (uint64_t)j->o.ctx, done = s->step + 1;
    double    speed = (double)(since->n * a_step) / (bb_now_s() - since->started_s);
    BB_TRY(bb_evaluate(bb_engine_backend(), bb_training_net(j->t), NULL, &j->w, NULL, &r, NULL, NULL, err));
    printf("%llu,%llu,%.6g,%.5f,%.5f,%.5f,%.5f,%.0f\n", (unsigned long long)done, (unsigned long long)(done * a_step), s->rate, since->loss / (double)since->n,
           s->norm, r.nll, r.nll_se, speed);
    if (fflush(stdout) != 0) status = BB_FAIL(err, BB_IO, "standard output could not be written");
    *since = (tally) { .started_s = bb_now_s() };
done:
    return status;
}

static bb_status run_steps(job *j, bb_progress *progress, bb_err *err)
{
    uint64_t  n = (uint64_t)j->o.steps;
    tally     since = { .started_s = bb_now_s() };
    bb_status status = BB_OK;
    for (uint64_t done = bb_training_steps(j->t); done < n;) {
        bb_train_step s;
        BB_TRY(bb_training_step(j->t, &s, err));
        done++;
        since.loss += s.loss;
        since.n++;
        bb_progress_add(progress, 1);
        if (done % (uint64_t)j->o.valid_every == 0 || done == n) BB_TRY(report(j, &s, &since, err));
        if (done % (uint64_t)j->o.save_every == 0 || done == n) BB_TRY(bb_training_save(j->t, j->state, err));
        if (bb_interrupted() && done < n) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted after step %llu of %llu; the same command goes on", (unsigned long long)done,
                             (unsigned long long)n);
            goto done;
        }
    }
done:
    if (status == BB_INTERRUPTED) { /* also from within a validation */
        bb_err why = BB_ERR_INIT;
        if ((status = bb_training_save(j->t, j->state, &why)) == BB_OK) return BB_INTERRUPTED;
        bb_err_clear(err);
        BB_FAIL(err, status, "interrupted, and the state to go on from is lost: %s", why.msg);
    }
    return status;
}

static bb_status train(job *j, bb_err *err)
{
    bb_progress progress;
    bb_status   status;
    bb_info("%zu weights, %zu tokens to train on, %u windows to validate on", bb_training_weights(j->t), j->n_train, j->w.n);
    puts("step,tokens,rate,loss,grad_norm,valid_nll,valid_se,tokens_per_s");
    bb_progress_start(&progress, "training", (uint64_t)j->o.steps);
    bb_progress_add(&progress, bb_training_steps(j->t));
    status = run_steps(j, &progress, err);
    bb_progress_end(&progress);
    return status;
}

/* The file, and what it scores: its matrices are rounded to their type. */
static bb_status write_model(job *j, bb_err *err)
{
    bb_net    net;
    void     *owned = NULL;
    bb_result r;
    bb_status status;
    BB_TRY(bb_net_as_type(bb_training_net(j->t), bb_format_find(j->o.type)->type, &net, &owned, err));
    BB_TRY(bb_evaluate(bb_engine_backend(), &net, NULL, &j->w, NULL, &r, NULL, NULL, err));
    const bb_provenance from = { .program = bb_version_program() };
    if (j->o.init) BB_TRY(bb_export_write(&j->m, &net, &from, j->path, err));
    else BB_TRY(bb_new_write(&j->m.source, &net, j->o.name, j->path, err));
    bb_info("%s: validation loss %.5f +- %.5f nats a token, perplexity %.3f", j->path, r.nll, r.nll_se, r.ppl);
done:
    if (owned) bb_free(net.blocks);
    bb_free(owned);
    return status;
}

static bb_status check_options(const job *j, size_t n, bb_err *err)
{
    const train_options *o = &j->o;
    if (n == 0 || !o->text) return BB_FAIL(err, BB_USAGE, "train needs a file to write and --text FILE");
    if (!o->init == !o->tokenizer) return BB_FAIL(err, BB_USAGE, "train needs either --tokenizer FILE.gguf (a new model) or --init MODEL.gguf");
    return BB_OK;
}

static bb_status refuse_idle(const job *j, int argc, char **argv, bb_err *err)
{
    static const char *const of_new[] = { "--layers", "--width",  "--heads",     "--kv-heads", "--head-dim",
                                          "--ffn",    "--untied", "--rope-base", "--norm-eps", "--name" };
    enum { N_NEW = sizeof of_new / sizeof *of_new };
    bb_idle_option idle[N_NEW + 1];
    for (int i = 0; i < N_NEW; i++) idle[i] = (bb_idle_option) { of_new[i], "with --init, whose model has its own", j->o.init != NULL };
    idle[N_NEW] = (bb_idle_option) { "--decay-steps", "without --schedule wsd", strcmp(j->o.schedule, "wsd") != 0 };
    return bb_command_refuse_idle(argc, argv, idle, N_NEW + 1, err);
}

/* The saved state is looked at when it is read: another file is refused, not replaced. */
static bb_status check_outputs(const job *j, bb_err *err)
{
    const train_options *o = &j->o;
    const bb_input       inputs[] = { { "the model of --init", o->init },
                                      { "the file of --tokenizer", o->tokenizer },
                                      { "the text", o->text },
                                      { "the text of --valid", o->valid },
                                      { "the state of --checkpoint", o->checkpoint } };
    bb_status            status;
    BB_TRY(bb_output_check("the output", j->path, BB_OUTPUT_MODEL, NULL, inputs, sizeof inputs / sizeof *inputs, err));
    BB_TRY(bb_file_check_output(j->state, err));
done:
    return status;
}

/* A state holds each weight and both of its means in 32 bits; while it is replaced there are two of them. */
static bb_status check_room(const job *j, bb_err *err)
{
    const bb_net *net = &j->shape;
    uint64_t      n = (uint64_t)net->embd.rows * net->embd.cols + (uint64_t)net->head.rows * net->head.cols;
    bb_status     status;
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) n += (uint64_t)net->blocks[i].w[p].rows * net->blocks[i].w[p].cols;
    BB_TRY(bb_output_fits(j->path, (uint64_t)((double)n * bb_format_bpw(bb_format_find(j->o.type)) / 8), err));
    BB_TRY(bb_output_fits(j->state, n * 3 * sizeof(float) * (bb_file_exists(j->state) ? 1 : 2), err));
done:
    return status;
}

static bb_status check_memory(const job *j, bb_err *err)
{
    uint64_t  text = 0, valid = 0;
    bb_status status;
    BB_TRY(bb_file_size(j->o.text, &text, err));
    if (j->o.valid) BB_TRY(bb_file_size(j->o.valid, &valid, err));
    bb_map_limit(j->o.max_ram);
    BB_TRY(bb_memory_allows(j->o.max_ram, bb_memory_to_train(&j->shape, (uint32_t)j->o.ctx, (uint32_t)j->o.batch, text + valid), "training",
                            "a smaller --ctx or --batch, fewer --threads or a smaller network", err));
done:
    return status;
}

static void job_done(job *j)
{
    bb_training_destroy(j->t);
    bb_windows_done(&j->w);
    bb_tokens_done(&j->text);
    bb_tokens_done(&j->valid);
    bb_free(j->new_blocks);
    bb_free(j->state);
    bb_model_close(&j->m);
    bb_options_done(rows, N_ROWS, &j->o);
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    job       j = { .bos = -1 };
    size_t    n = 0;
    bb_status status;
    BB_TRY(bb_command_options(&bb_command_train, &j.o, argc, argv, &j.path, 1, &n, err));
    BB_TRY(check_options(&j, n, err));
    BB_TRY(refuse_idle(&j, argc, argv, err));
    j.state = j.o.checkpoint ? bb_strdup(j.o.checkpoint, err) : bb_asprintf(err, "%s.state", j.path);
    if (!j.state) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(check_outputs(&j, err));
    BB_TRY(open_model(&j, err));
    BB_TRY(check_room(&j, err));
    BB_TRY(check_memory(&j, err));
    BB_TRY(load_data(&j, err));
    BB_TRY(make_trainer(&j, err));
    BB_TRY(train(&j, err));
    BB_TRY(write_model(&j, err));
    if (!j.o.checkpoint) unlink(j.state);
done:
    bb_map_limit(0);
    job_done(&j);
    return status;
}

const bb_command bb_command_train = {
    .name = "train",
    .summary = "train a new model on a text, or go on training one",
    .usage = "OUT.gguf --text FILE (--tokenizer FILE.gguf | --init MODEL.gguf)",
    .example = "bitbudget train small.gguf --text train.txt --valid valid.txt --tokenizer vocab.gguf --layers 8 --width 256 --steps 2000\n"
               "bitbudget train healed.gguf --init pruned.gguf --text train.txt --steps 200 --rate 2e-4",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
