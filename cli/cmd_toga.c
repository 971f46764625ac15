/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_toga.c: bitbudget toga MODEL: a network with masks over its channels, two precisions inside each matrix and hidden channels pruned per sublayer, as
 * TOGA (arXiv 2606.07819) makes it or as what it is compared with does (engine/toga.h); judged in our own engine. The same command goes on from --state after
 * an interruption and ends with the same bytes. stdout gets a CSV row a text. */
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/cmd.h"
#include "engine/environment.h"
#include "engine/outputs.h"
#include "engine/tensor_types.h"
#include "engine/toga.h"

typedef struct toga_options {
    char    *config, *low, *high, *embedding, *salience, *prune, *prune_on, *text, *eval, *out, *policy, *state, *loss, *name, *precision;
    uint64_t target_size;
    double   salient, kept, rate, decay, lambda;
    int64_t  steps, train_ctx, batch, ctx, calib_windows, eval_windows, seed, sweeps, save_every;
} toga_options;

#define FIELD(name) offsetof(toga_options, name)
static const bb_option_row rows[] = {
    { "config", BB_OPT_TEXT, FIELD(config), NULL, 1, 0, "FILE.yaml", "read options from this file (name: value)", NULL },
    { "low", BB_OPT_TEXT, FIELD(low), "Q1_0", 1, 0, "TYPE", "format of columns of low precision: one with a scale of 16 bits a block and nothing else", NULL },
    { "high", BB_OPT_TEXT, FIELD(high), "Q4_0", 1, 0, "TYPE", "of those of high precision", NULL },
    { "embedding", BB_OPT_TEXT, FIELD(embedding), "Q8_0", 1, 0, "TYPE", "format of embedding and output, which have no masks", NULL },
    { "salience", BB_OPT_TEXT, FIELD(salience), "learned", 1, 0, "NAME",
      "which columns are of high precision: learned through the network; those with the largest inputs; those with the largest w^2 / (H^-1); or none",
      BB_TOGA_PRECISIONS },
    { "salient", BB_OPT_DOUBLE, FIELD(salient), "0.2", 0, 1, "SHARE",
      "of columns of high precision in each matrix; learned, without --target-size: the bytes are those that this would take", NULL },
    { "prune", BB_OPT_TEXT, FIELD(prune), "nothing", 1, 0, "NAME",
      "masks that prune, learned: FFN channels; or all five of a block, with the hidden channels that each sublayer reads and writes", BB_TOGA_PRUNINGS },
    { "prune-on", BB_OPT_TEXT, FIELD(prune_on), "rounded", 1, 0, "NAME",
      "with --salience none: what the masks are learned on, the weights in the low format or as they are (prune first, then quantize)", "rounded|whole" },
    { "target-size", BB_OPT_SIZE, FIELD(target_size), "0", 1, 0, "SIZE", "bytes of the network as a file; 0: what --salient says", NULL },
    { "kept", BB_OPT_DOUBLE, FIELD(kept), "0", 0, 1, "SHARE", "with --prune: hold the share of weights that stay at this (fixed sparsity); 0: free", NULL },
    { "text", BB_OPT_TEXT, FIELD(text), NULL, 1, 0, "FILE", "what the masks are learned and the matrices calibrated on", NULL },
    { "eval", BB_OPT_LIST, FIELD(eval), "", 1, 0, "FILES", "texts to judge on, a row each", NULL },
    { "eval-windows", BB_OPT_INT, FIELD(eval_windows), "64", 1, 1e6, "N", "windows of each, evenly spaced", NULL },
    { "ctx", BB_OPT_INT, FIELD(ctx), "256", 4, 1 << 20, "N", "tokens of a window of calibration and of judging", NULL },
    { "calib-windows", BB_OPT_INT, FIELD(calib_windows), "64", 1, 1e6, "N", "calibration windows, evenly spaced over the text", NULL },
    { "steps", BB_OPT_INT, FIELD(steps), "2000", 1, 1e7, "N", "of learning masks", NULL },
    { "train-ctx", BB_OPT_INT, FIELD(train_ctx), "128", 2, 1 << 20, "N", "tokens of a window of learning", NULL },
    { "batch", BB_OPT_INT, FIELD(batch), "1", 1, 4096, "N", "windows a step", NULL },
    { "rate", BB_OPT_DOUBLE, FIELD(rate), "1e-3", 0, 10, "X", "learning rate, constant", NULL },
    { "weight-decay", BB_OPT_DOUBLE, FIELD(decay), "0.05", 0, 10, "X", "decoupled weight decay", NULL },
    { "lambda", BB_OPT_DOUBLE, FIELD(lambda), "6", 0, 1e6, "X", "weight of |ln(bytes / budget)| beside the loss of the text", NULL },
    { "loss", BB_OPT_TEXT, FIELD(loss), "labels", 1, 0, "NAME", "cross-entropy with the text, or KL to the whole network", "labels|kl" },
    { "seed", BB_OPT_INT, FIELD(seed), "1", 0, 9e15, "N", "of the hypernetwork, the noise and the windows", NULL },
    { "sweeps", BB_OPT_INT, FIELD(sweeps), "4", 0, 100, "N", "coordinate-descent sweeps after error feedback", NULL },
    { "state", BB_OPT_TEXT, FIELD(state), NULL, 1, 0, "FILE", "state of learning: saved, gone on from and kept, so that other ends can begin with it", NULL },
    { "save-every", BB_OPT_INT, FIELD(save_every), "200", 1, 1e9, "N", "steps from one saved state to the next", NULL },
    { "out", BB_OPT_TEXT, FIELD(out), NULL, 1, 0, "FILE.gguf", "write the network, if it is one that a runtime can load; refused at the start if it is not",
      NULL },
    { "policy", BB_OPT_TEXT, FIELD(policy), NULL, 1, 0, "FILE.csv", "write how many channels each mask keeps or sets high: layer,mask,channels,on", NULL },
    { "name", BB_OPT_TEXT, FIELD(name), "TOGA", 1, 0, "NAME", "what the rows call the method", NULL },
    { "precision", BB_OPT_TEXT, FIELD(precision), "exact", 1, 0, "NAME", BB_PRECISION_HELP, BB_PRECISIONS },
};
#undef FIELD
enum { N_ROWS = sizeof rows / sizeof *rows };

/* A text to judge on. */
typedef struct judged {
    char      *path;
    bb_tokens  tokens;
    bb_windows w;
} judged;

typedef struct job {
    toga_options o;
    const char  *path;
    bb_model     m;
    bb_tokens    text;
    bb_windows   calib;
    judged      *eval; /* [n_eval] owned */
    size_t       n_eval;
    int32_t      bos;
    bb_toga_job  toga;
    bb_toga_made made;
    double       seconds;
} job;

static const char policy_header[] = "layer,mask,channels,on";

/* ---- what is asked for ---- */

static bb_status set_job(job *j, bb_err *err)
{
    const toga_options *o = &j->o;
    const bb_format    *low, *high, *embd;
    bb_status           status;
    BB_TRY(bb_format_named("--low", o->low, true, &low, err));
    BB_TRY(bb_format_named("--high", o->high, true, &high, err));
    BB_TRY(bb_format_named("--embedding", o->embedding, true, &embd, err));
    j->toga = (bb_toga_job) { .model = &j->m,
                              .low = low->type,
                              .high = high->type,
                              .embd = embd->type,
                              .precision = bb_toga_precision_named(o->salience),
                              .salient = o->salient,
                              .target = o->target_size,
                              .quant = { BB_METHOD_FEEDBACK, 0.01, (unsigned)o->sweeps } };
    j->toga.learning = (bb_toga_options) { .pruning = bb_toga_pruning_named(o->prune),
                                           .whole = strcmp(o->prune_on, "whole") == 0,
                                           .kept = o->kept,
                                           .steps = (uint32_t)o->steps,
                                           .ctx = (uint32_t)o->train_ctx,
                                           .batch = (uint32_t)o->batch,
                                           .rate = o->rate,
                                           .decay = o->decay,
                                           .lambda = o->lambda,
                                           .kl = strcmp(o->loss, "kl") == 0,
                                           .seed = (uint64_t)o->seed,
                                           .state = o->state,
                                           .save_every = (uint32_t)o->save_every };
done:
    return status;
}

static bb_status refuse_idle(const job *j, int argc, char **argv, bb_err *err)
{
    const bool           low = j->toga.precision == BB_TOGA_LOW, prunes = j->toga.learning.pruning != BB_PRUNE_NOTHING;
    const char          *none = "with this --salience and without --prune, for no masks are learned";
    const bool           learned = prunes || j->toga.precision == BB_TOGA_LEARNED;
    const bb_idle_option idle[] = { { "--high", "with --salience none", low },
                                    { "--salient", "with --salience none, or with a size that learned masks keep", low || j->o.target_size },
                                    { "--prune-on", "without --salience none and --prune", !low || !prunes },
                                    { "--steps", none, !learned },
                                    { "--train-ctx", none, !learned },
                                    { "--batch", none, !learned },
                                    { "--rate", none, !learned },
                                    { "--weight-decay", none, !learned },
                                    { "--lambda", none, !learned },
                                    { "--loss", none, !learned },
                                    { "--seed", none, !learned },
                                    { "--state", none, !learned },
                                    { "--save-every", "without --state", !j->o.state },
                                    { "--eval-windows", "without --eval", !*j->o.eval } };
    return bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err);
}

/* The paths of --eval. */
static bb_status take_eval(job *j, bb_err *err)
{
    const char *list = j->o.eval;
    size_t      n = 0;
    for (bb_item item; bb_list_next(&list, &item);) n++;
    if (!(j->eval = BB_NEW0(n, judged, err))) return BB_NOMEM;
    list = j->o.eval;
    for (bb_item item; bb_list_next(&list, &item); j->n_eval++)
        if (!(j->eval[j->n_eval].path = bb_item_text(item, err))) return BB_NOMEM;
    return BB_OK;
}

static bb_status check_outputs(const job *j, bb_err *err)
{
    bb_input *inputs = BB_NEW(j->n_eval + 4, bb_input, err);
    size_t    n = 0;
    bb_status status = BB_OK;
    if (!inputs) return BB_NOMEM;
    inputs[n++] = (bb_input) { "the model", j->path };
    inputs[n++] = (bb_input) { "the text", j->o.text };
    inputs[n++] = (bb_input) { "the state of --state", j->o.state };
    for (size_t i = 0; i < j->n_eval; i++) inputs[n++] = (bb_input) { "a text of --eval", j->eval[i].path };
    if (j->o.out) {
        BB_TRY(bb_toga_check_export(&j->toga, err));
        BB_TRY(bb_output_check("--out", j->o.out, BB_OUTPUT_MODEL, NULL, inputs, n, err));
    }
    inputs[n++] = (bb_input) { "the file of --out", j->o.out };
    if (j->o.policy) BB_TRY(bb_output_check("--policy", j->o.policy, BB_OUTPUT_TABLE, policy_header, inputs, n, err));
    if (j->o.state) BB_TRY(bb_file_check_output(j->o.state, err));
done:
    bb_free(inputs);
    return status;
}

static bb_status load_text(job *j, bb_err *err)
{
    const uint32_t ctx = (uint32_t)j->o.ctx;
    bb_status      status;
    BB_TRY(bb_tokens_load(&j->m, j->o.text, false, &j->text, err));
    BB_TRY(bb_tokens_bos(&j->m, &j->bos, err));
    BB_TRY(bb_windows_make(&j->text, BB_PROTOCOL_GGUF, ctx, j->bos, (uint32_t)j->o.calib_windows, true, &j->calib, err));
    j->toga.text = (bb_toga_text) { j->text.ids, j->text.n, j->bos };
    j->toga.calibration = j->calib;
    for (size_t i = 0; i < j->n_eval; i++) {
        judged *e = &j->eval[i];
        BB_TRY(bb_tokens_load(&j->m, e->path, false, &e->tokens, err));
        BB_TRY(bb_windows_make(&e->tokens, BB_PROTOCOL_GGUF, ctx, j->bos, (uint32_t)j->o.eval_windows, true, &e->w, err));
    }
done:
    return status;
}

/* ---- what comes of it ---- */

static void on_step(void *self, const bb_toga_step *s)
{
    (void)self;
    if (s->step % 100 == 0)
        bb_debug("step %u: loss %.4f, linears of %.0f bytes, %.3f of the weights kept, gradient %.3g", s->step, s->loss, s->bytes, s->kept, s->norm);
}

/* The name of a file without folders and ending. */
static void base_name(const char *path, char out[64])
{
    const char *slash = strrchr(path, '/'), *from = slash ? slash + 1 : path;
    const char *dot = strrchr(from, '.');
    snprintf(out, 64, "%.*s", dot ? (int)(dot - from) : (int)strlen(from), from);
}

static double weights_of(const bb_net *net)
{
    double n = (double)net->embd.rows * net->embd.cols + (double)net->head.rows * net->head.cols + net->n_embd;
    for (uint32_t l = 0; l < net->n_layer; l++) {
        for (int p = 0; p < BB_N_PARTS; p++) n += (double)net->blocks[l].w[p].rows * net->blocks[l].w[p].cols;
        for (int k = 0; k < BB_N_NORMS; k++)
            if (net->blocks[l].norm[k]) n += (double)bb_norm_length(net, &net->blocks[l], (bb_norm)k);
    }
    return n;
}

static bb_status judge(const job *j, const judged *e, bb_err *err)
{
    bb_result r;
    char      model[64], text[64];
    bb_status status;
    BB_TRY(bb_evaluate(bb_engine_backend(), &j->made.net, &j->m.net, &e->w, "judging", &r, NULL, NULL, err));
    base_name(j->path, model);
    base_name(e->path, text);
    bb_csv_write_cell(stdout, model, false);
    putchar(',');
    bb_csv_write_cell(stdout, j->o.name, false);
    printf(",%llu,%.5f,%.5f,", (unsigned long long)j->made.bytes, 8 * (double)j->made.bytes / weights_of(&j->m.net), 1 - j->made.kept);
    bb_csv_write_cell(stdout, text, false);
    printf(",%.5f,%.5f,%.6f,%.6f,%.0f,%.1f\n", r.ppl, r.ppl_se, r.kl, r.kl_se, j->made.tokens, j->seconds);
    if (fflush(stdout) != 0) status = BB_FAIL(err, BB_IO, "standard output could not be written");
done:
    return status;
}

static bb_status judge_all(const job *j, bb_err *err)
{
    bb_status status = BB_OK;
    puts("model,method,size_bytes,bpw,pruned_fraction,text,ppl,ppl_se,kl_nats,kl_se,tokens,seconds");
    for (size_t i = 0; i < j->n_eval; i++) BB_TRY(judge(j, &j->eval[i], err));
done:
    return status;
}

static bb_status write_policy(const job *j, bb_err *err)
{
    bb_csv_writer     *w = NULL;
    const bb_channels *c = &j->made.c;
    bb_status          status;
    BB_TRY(bb_csv_create(j->o.policy, policy_header, &w, err));
    for (uint32_t l = 0; l < c->n_layer; l++)
        for (int m = 0; m < BB_N_CHANNEL_MASKS; m++) {
            char           name[32];
            const uint32_t length = c->length[(size_t)l * BB_N_CHANNEL_MASKS + (size_t)m];
            if (!length) continue;
            bb_mask_name(m, name);
            BB_ROW(w, (int64_t)l, (const char *)name, (int64_t)length, (int64_t)bb_channels_count(c, l, m));
        }
    BB_TRY(bb_csv_close(&w, err));
done:
    bb_csv_discard(w);
    return status;
}

static void job_done(job *j)
{
    bb_toga_made_done(&j->made);
    for (size_t i = 0; i < j->n_eval; i++) {
        bb_windows_done(&j->eval[i].w);
        bb_tokens_done(&j->eval[i].tokens);
        bb_free(j->eval[i].path);
    }
    bb_free(j->eval);
    bb_windows_done(&j->calib);
    bb_tokens_done(&j->text);
    bb_model_close(&j->m);
    bb_options_done(rows, N_ROWS, &j->o);
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    job       j = { .bos = -1 };
    size_t    n = 0;
    bb_status status;
    BB_TRY(bb_command_options(&bb_command_toga, &j.o, argc, argv, &j.path, 1, &n, err));
    if (n != 1 || !j.o.text) {
        status = BB_FAIL(err, BB_USAGE, "toga needs a model and --text FILE");
        goto done;
    }
    bb_precision_use(j.o.precision, true);
    BB_TRY(set_job(&j, err));
    BB_TRY(refuse_idle(&j, argc, argv, err));
    BB_TRY(take_eval(&j, err));
    BB_TRY(bb_model_open(j.path, &j.m, err));
    BB_TRY(bb_model_check_weights(&j.m, true, NULL, err));
    BB_TRY(bb_toga_check(&j.toga, err));
    BB_TRY(check_outputs(&j, err));
    BB_TRY(load_text(&j, err));
    BB_TRY(bb_toga_make(&j.toga, on_step, NULL, &j.made, err));
    j.seconds = bb_cpu_s();
    if (j.o.policy) BB_TRY(write_policy(&j, err));
    if (j.o.out) BB_TRY(bb_toga_export(&j.toga, &j.made, j.text.sha256, (uint64_t)j.calib.n * j.calib.ctx, j.o.out, err));
    bb_info("%llu bytes, %.1f %% of the linears' weights pruned", (unsigned long long)j.made.bytes, 100 * (1 - j.made.kept));
    BB_TRY(judge_all(&j, err));
done:
    job_done(&j);
    return status;
}

const bb_command bb_command_toga = {
    .name = "toga",
    .summary = "learn masks over channels through the whole network (TOGA): two precisions a matrix, hidden channels pruned; judge it",
    .usage = "MODEL.gguf --text FILE [--eval FILES]",
    .example = "bitbudget toga model.gguf --text train.txt --eval test.txt --embedding Q4_0 --salient 0.2\n"
               "bitbudget toga model.gguf --text train.txt --eval test.txt --prune all --low Q4_0 --high Q8_0 --target-size 4MiB",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
