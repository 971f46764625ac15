/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_qat.c: bitbudget qat FILE.gguf --reference FULL.gguf, or RUN --plan HASH: everything that a compressed file stores, trained through the whole network
 * towards full precision's logits. Types and bytes stay. The same command goes on after an interruption and ends with the same bytes. stdout gets a CSV row
 * at each look at the held-out texts. Under mpirun the ranks share the windows of every batch (engine/qat_ranks.c). */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/cmd.h"
#include "engine/environment.h"
#include "engine/memory.h"
#include "engine/outputs.h"
#include "engine/qat.h"
#include "engine/run.h"
#include "engine/version.h"
#include "model/export/export.h"

typedef struct qat_options {
    char    *config, *reference, *plan, *text, *other, *out, *loss, *estimator, *schedule, *precision;
    double   tokens, rate, scale_rate;
    int64_t  batch, ctx, held_windows, seed;
    uint64_t max_ram;
    bool     parse_special;
} qat_options;

#define FIELD(name) offsetof(qat_options, name)
static const bb_option_row rows[] = {
    { "config", BB_OPT_TEXT, FIELD(config), NULL, 1, 0, "FILE.yaml", "read options from this file (name: value)", NULL },
    { "reference", BB_OPT_TEXT, FIELD(reference), "", 1, 0, "FULL.gguf", "the model that the file was made from; of a run its own", NULL },
    { "plan", BB_OPT_TEXT, FIELD(plan), "", 1, 0, "HASH", "of a run: plan of plans.csv, by the beginning of its hash", NULL },
    { "out", BB_OPT_TEXT, FIELD(out), "", 1, 0, "FILE", "file to write; of a run models/HASH-qat.gguf in it", NULL },
    { "tokens", BB_OPT_DOUBLE, FIELD(tokens), BB_QAT_TOKENS, 1e-6, 1e6, "MILLIONS", "to train on", NULL },
    { "text", BB_OPT_LIST, FIELD(text), "", 1, 0, "FILES",
      "what to train on, in equal shares: texts or token files; \"self\": what the full model writes; empty: self, of a run its calibration text too", NULL },
    { "other", BB_OPT_LIST, FIELD(other), "self", 1, 0, "FILES", "texts of another domain, on which the result may be no worse either; as --text", NULL },
    { "held-windows", BB_OPT_INT, FIELD(held_windows), "32", 1, 1e6, "N", "windows of each of both that decide, and are not trained on", NULL },
    { "parse-special", BB_OPT_FLAG, FIELD(parse_special), NULL, 1, 0, NULL, "text of special tokens (\"<|im_end|>\") in the texts becomes these tokens", NULL },
    { "ctx", BB_OPT_INT, FIELD(ctx), "0", 0, 1 << 20, "N", "tokens of a window; 0: 256, of a run its own", NULL },
    { "loss", BB_OPT_TEXT, FIELD(loss), "kl", 1, 0, "NAME", "KL to the full model, cross-entropy with the text, or half of each", BB_QAT_LOSSES },
    { "estimator", BB_OPT_TEXT, FIELD(estimator), "straight", 1, 0, "NAME", "how gradients come through the rounding", BB_QAT_ESTIMATORS },
    { "schedule", BB_OPT_TEXT, FIELD(schedule), "cosine", 1, 0, "NAME", "of the rate: half a cosine; or warm-up, stable, decay", BB_QAT_SCHEDULES },
    { "rate", BB_OPT_DOUBLE, FIELD(rate), BB_QAT_RATE, 0, 10, "X", BB_QAT_RATE_HELP, NULL },
    { "scale-rate", BB_OPT_DOUBLE, FIELD(scale_rate), BB_QAT_SCALE_RATE, 0, 1, "X", BB_QAT_SCALE_RATE_HELP, NULL },
    { "batch", BB_OPT_INT, FIELD(batch), BB_QAT_BATCH, 1, BB_TUNE_MAX_BATCH, "N", "windows a step; ranks of mpirun share them", NULL },
    { "seed", BB_OPT_INT, FIELD(seed), "1", 0, 9e15, "N", "of the order of windows, and of what the model writes", NULL },
    { "precision", BB_OPT_TEXT, FIELD(precision), "exact", 1, 0, "NAME", BB_PRECISION_HELP, BB_PRECISIONS },
    { "max-ram", BB_OPT_SIZE, FIELD(max_ram), "8GiB", 1, 0, "SIZE", BB_MAX_RAM_HELP, NULL },
};
#undef FIELD
enum { N_ROWS = sizeof rows / sizeof *rows };

typedef struct job {
    qat_options  o;
    const char  *given; /* the file or the run directory */
    char        *student, *out, *state, *dir;
    char         hash[17];
    bb_model     m, full;
    bb_qat_texts train, other;
    bb_tuned     net;
    double       started;
} job;

/* ---- what is trained ---- */

static bb_status replace(char **text, const char *by, bb_err *err)
{
    char *copy = bb_strdup(by, err);
    if (!copy) return BB_NOMEM;
    bb_free(*text);
    *text = copy;
    return BB_OK;
}

static bb_status take_text(job *j, const char *calib, bb_err *err)
{
    char           *both = bb_asprintf(err, "%s%s", calib, bb_qat_adds_self(calib) ? ",self" : "");
    const bb_status status = both ? replace(&j->o.text, both, err) : BB_NOMEM;
    bb_free(both);
    return status;
}

/* Of a run directory: the plan's finalised file, and what of the options is the run's. */
static bb_status take_run(job *j, bb_err *err)
{
    bb_run    r = { 0 };
    bb_status status;
    BB_TRY(bb_run_reopen(&r, j->given, err));
    BB_TRY(bb_run_finalise_one(&r, j->o.plan, j->hash, &j->student, err));
    BB_TRY(replace(&j->o.reference, r.config.model, err));
    if (!*j->o.text) BB_TRY(take_text(j, r.config.calib, err));
    if (!j->o.ctx) j->o.ctx = r.config.ctx;
    j->o.parse_special |= r.config.parse_special;
    j->out = *j->o.out ? bb_strdup(j->o.out, err) : bb_run_path(&r, err, "models/%s-qat.gguf", j->hash);
    if (!j->out) status = BB_NOMEM;
done:
    bb_run_close(&r);
    return status;
}

static bb_status take_arguments(job *j, bb_err *err)
{
    char     *db = bb_asprintf(err, "%s/run.db", j->given);
    bb_status status = BB_OK;
    if (!db) return BB_NOMEM;
    const bool is_run = bb_file_exists(db);
    bb_free(db);
    if (is_run && (!*j->o.plan || *j->o.reference))
        return BB_FAIL(err, BB_USAGE, "%s is a run directory: give --plan HASH (see its plans.csv) and no --reference, which is the run's model", j->given);
    if (!is_run && (*j->o.plan || !*j->o.reference || !*j->o.out))
        return BB_FAIL(err, BB_USAGE, "qat needs a file with --reference FULL.gguf and --out FILE, or a run directory with --plan HASH");
    if (is_run) BB_TRY(take_run(j, err));
    else if (!(j->student = bb_strdup(j->given, err)) || !(j->out = bb_strdup(j->o.out, err))) status = BB_NOMEM;
    BB_TRY(status);
    if (!*j->o.text) BB_TRY(replace(&j->o.text, "self", err));
    if (!j->o.ctx) j->o.ctx = 256;
    if (!(j->state = bb_asprintf(err, "%s.state", j->out)) || !(j->dir = bb_strdup(j->out, err))) return BB_NOMEM;
    char *slash = strrchr(j->dir, '/');
    if (slash) slash[slash == j->dir] = '\0';
    else BB_TRY(replace(&j->dir, ".", err));
done:
    return status;
}

/* That the output is no file of a list, whose other words ("self") are none. */
static bb_status check_texts(const job *j, const char *what, const char *list, bb_err *err)
{
    bb_status status = BB_OK;
    for (bb_item item; status == BB_OK && bb_list_next(&list, &item);) {
        char          *path = bb_item_text(item, err);
        const bb_input input = { what, path };
        if (!path) status = BB_NOMEM;
        else if (bb_file_exists(path)) status = bb_output_check("--out", j->out, BB_OUTPUT_MODEL, NULL, &input, 1, err);
        bb_free(path);
    }
    return status;
}

static bb_status open_models(job *j, bb_err *err)
{
    const bb_input inputs[] = { { "the model", j->student }, { "the model of --reference", j->o.reference } };
    bb_status      status;
    BB_TRY(bb_output_check("--out", j->out, BB_OUTPUT_MODEL, NULL, inputs, 2, err));
    BB_TRY(check_texts(j, "a text of --text", j->o.text, err));
    BB_TRY(check_texts(j, "a text of --other", j->o.other, err));
    BB_TRY(bb_file_check_output(j->state, err));
    BB_TRY(bb_model_open(j->student, &j->m, err));
    BB_TRY(bb_model_open(j->o.reference, &j->full, err));
    BB_TRY(bb_model_same_vocabulary(&j->m, &j->full, err));
    if (j->m.net.n_embd != j->full.net.n_embd || j->m.net.n_layer > j->full.net.n_layer) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s was not made from %s: %u blocks of width %u, and %u of %u", j->student, j->o.reference, j->m.net.n_layer,
                         j->m.net.n_embd, j->full.net.n_layer, j->full.net.n_embd);
        goto done;
    }
    BB_TRY(bb_model_check_weights(&j->m, false, NULL, err));
    BB_TRY(bb_model_check_weights(&j->full, false, NULL, err));
    BB_TRY(bb_export_check(&j->m, &j->m.net, err));
done:
    return status;
}

static bb_status check_room(const job *j, bool coarse, bb_err *err)
{
    uint64_t  size;
    bb_status status;
    BB_TRY(bb_file_size(j->student, &size, err));
    BB_TRY(bb_output_fits(j->out, size, err));
    BB_TRY(bb_output_fits(j->state, bb_qat_state_bytes(&j->m.net, coarse) * (bb_file_exists(j->state) ? 1 : 2), err));
done:
    return status;
}

static uint64_t memory_of(const job *j, const bb_tune_options *o)
{
    return bb_qat_memory(&j->full.net, &j->m.net, o, (uint32_t)j->o.ctx, 2 * (uint32_t)j->o.held_windows);
}

/* What does not fit with an optimizer's state of floats has one of 8 bits. */
static bb_status check_memory(const job *j, bb_tune_options *o, bb_err *err)
{
    const uint64_t all = memory_of(j, o);
    char           text[32];
    if (!j->o.max_ram || all <= j->o.max_ram) return BB_OK;
    o->coarse_moments = true;
    bb_format_size(all, text);
    if (memory_of(j, o) <= j->o.max_ram)
        bb_info("the optimizer's state is of 8 bits, to be within --max-ram; of floats, training needs %llu bytes (%s)", (unsigned long long)all, text);
    return bb_memory_allows(j->o.max_ram, memory_of(j, o), "training", "fewer --held-windows or a smaller --ctx", err);
}

static bb_status load_texts(job *j, const bb_tune_options *o, bb_err *err)
{
    const uint32_t ctx = (uint32_t)j->o.ctx, held = (uint32_t)j->o.held_windows;
    const uint64_t wanted = (uint64_t)o->steps * o->batch;
    bb_status      status;
    BB_TRY(bb_qat_texts_make(&j->full, j->o.text, NULL, j->dir, ctx, wanted > 1 << 30 ? 1 << 30 : (uint32_t)wanted, held, (uint64_t)j->o.seed,
                             j->o.parse_special, &j->train, err));
    BB_TRY(bb_qat_texts_make(&j->full, j->o.other, NULL, j->dir, ctx, 1, held, (uint64_t)j->o.seed + 1, j->o.parse_special, &j->other, err));
    bb_info("%llu windows of %u tokens to train on, of %u in the texts; %u and %u of other text decide", (unsigned long long)wanted, ctx, j->train.train.n,
            j->train.held.n, j->other.held.n);
    bb_qat_say_rates(o, &j->m.net);
done:
    return status;
}

/* ---- training ---- */

static void on_look(void *self, const bb_tune_look *l)
{
    const job *j = self;
    printf("%u,%llu,%.6f,%.6f,%d,%.1f\n", l->step, (unsigned long long)l->tokens, l->loss, l->other, l->better, bb_now_s() - j->started);
    fflush(stdout);
}

static bb_status train(job *j, bb_tune_options *o, bb_tune_report *report, bb_err *err)
{
    bb_status status;
    o->other = &j->other.held;
    o->state = j->state;
    o->label = "training";
    o->looked = on_look;
    o->looked_self = j;
    o->keep_bytes = j->o.max_ram ? j->o.max_ram - memory_of(j, o) + 1 : 0;
    j->started = bb_now_s();
    puts("step,tokens,kl_nats,kl_other_nats,better,seconds");
    BB_TRY(bb_tuned_copy(&j->m.net, &j->net, err));
    BB_TRY(bb_qat_train(&j->m, &j->full, &j->net, o, &j->train.train, &j->train.held, report, err));
done:
    return status;
}

static bb_status write_model(job *j, const bb_tune_report *report, bb_err *err)
{
    const bb_provenance from = { .plan = *j->hash ? j->hash : NULL,
                                 .program = bb_version_program(),
                                 .calib_sha256 = j->train.tokens.sha256,
                                 .calib_tokens = j->train.tokens.n,
                                 .has_kl = true,
                                 .kl = report->best };
    bb_status           status;
    BB_TRY(bb_export_write(&j->m, &j->net.net, &from, j->out, err));
    if (!report->best_step) bb_warn("training helped on no look at the held-out texts: %s holds the weights of %s", j->out, j->student);
    bb_info("%s: KL on the held-out windows %.5f, before %.5f; on other text %.5f, before %.5f; %.0f trained tokens a second", j->out, report->best,
            report->start, report->other_best, report->other_start, (double)report->tokens / report->seconds);
done:
    return status;
}

static void job_done(job *j)
{
    bb_tuned_done(&j->net);
    bb_qat_texts_done(&j->train);
    bb_qat_texts_done(&j->other);
    bb_model_close(&j->m);
    bb_model_close(&j->full);
    char *const owned[] = { j->student, j->out, j->state, j->dir };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) bb_free(owned[i]);
    bb_options_done(rows, N_ROWS, &j->o);
}

static bool reads_text(const char *list)
{
    bool any = false;
    for (bb_item item; bb_list_next(&list, &item);) any |= item.n && !bb_item_is(item, "self");
    return any;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    job             j = { .given = NULL };
    size_t          n = 0;
    bb_tune_options o;
    bb_tune_report  report;
    bb_status       status;
    BB_TRY(bb_command_options(&bb_command_qat, &j.o, argc, argv, &j.given, 1, &n, err));
    if (n != 1) {
        status = BB_FAIL(err, BB_USAGE, "qat needs a compressed file with --reference FULL.gguf and --out FILE, or a run directory with --plan HASH");
        goto done;
    }
    bb_precision_use(j.o.precision, true);
    BB_TRY(take_arguments(&j, err));
    const bb_idle_option idle = { "--parse-special", "where --text and --other are self: no text is read", !reads_text(j.o.text) && !reads_text(j.o.other) };
    BB_TRY(bb_command_refuse_idle(argc, argv, &idle, 1, err));
    BB_TRY(open_models(&j, err));
    const bb_qat q = { j.o.tokens, j.o.loss, j.o.estimator, j.o.schedule, j.o.rate, j.o.scale_rate, j.o.batch, (uint64_t)j.o.seed };
    o = bb_qat_options(&q, &j.m.net, (uint32_t)j.o.ctx);
    BB_TRY(check_memory(&j, &o, err));
    BB_TRY(check_room(&j, o.coarse_moments, err));
    BB_TRY(load_texts(&j, &o, err));
    BB_TRY(train(&j, &o, &report, err));
    BB_TRY(write_model(&j, &report, err));
done:
    job_done(&j);
    return status;
}

const bb_command bb_command_qat = {
    .name = "qat",
    .summary = "train what a compressed file stores towards the full model; its size stays",
    .usage = "FILE.gguf --reference FULL.gguf --out FILE | RUN --plan HASH",
    .example = "bitbudget qat small.gguf --reference full.gguf --text wiki.txt,code.txt --tokens 0.5 --out better.gguf\n"
               "bitbudget qat results/runs/front --plan 3f2a --tokens 0.5",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
