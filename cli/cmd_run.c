/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_run.c: the commands that make and work on run directories: run, sweep, the stages alone, export, verify, estimate. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/folder_output.h"
#include "engine/clean.h"
#include "engine/effort.h"
#include "engine/foresee.h"
#include "engine/memory.h"
#include "engine/outputs.h"
#include "engine/estimate.h"
#include "engine/ladder.h"
#include "cli/report/report.h"
#include "engine/stages.h"
#include "engine/start.h"
#include "engine/time_budget.h"
#include "cli/run_output.h"
#include "search/method.h"

static bb_status refuse_idle(const bb_command *command, const bb_run_config *c, int argc, char **argv, bb_err *err)
{
    static const char    one_size[] = "where one size is asked for: `bitbudget sweep` takes it";
    static const char    listed[] = "with --sizes, which says them", none[] = "with --no-finalise";
    const bool           one = command == &bb_command_run || c->target_size || c->target_bpw > 0;
    const bb_idle_option idle[] = {
        { "--points", one_size, one },
        { "--min-bpw", one_size, one },
        { "--max-bpw", one_size, one },
        { "--sizes", one_size, one },
        { "--points", listed, *c->sizes != '\0' },
        { "--min-bpw", listed, *c->sizes != '\0' },
        { "--max-bpw", listed, *c->sizes != '\0' },
        { "--ledger-only", "with estimate", command == &bb_command_estimate },
        { "--effort", "with --time, which chooses between and beyond its levels", c->time > 0 },
        { "--screen", "with both --formats and --embd-formats: these lists are taken as they are", *c->formats && *c->embd_formats },
    };
    const bb_search_method *search = bb_method_named(c->search);
    const bb_idle_option    unused[] = { { "--search-tokens", "with a --search that needs none", search->plan != NULL },
                                         { "--sketch", "with a --search that goes by no local scores", !search->uses_local },
                                         { "--foresee", "where finalise does not rebuild", strcmp(c->foresee, "rebuild") == 0 && !bb_run_foresees(c) },
                                         { "--finish", none, c->no_finalise },
                                         { "--finalise-steps", none, c->no_finalise },
                                         { "--tune-windows", none, c->no_finalise },
                                         { "--tune-tokens", none, c->no_finalise },
                                         { "--output-windows", none, c->no_finalise },
                                         { "--qat-tokens", none, c->no_finalise },
                                         { "--qat-text", none, c->no_finalise },
                                         { "--qat-loss", none, c->no_finalise },
                                         { "--qat-estimator", none, c->no_finalise },
                                         { "--qat-schedule", none, c->no_finalise },
                                         { "--qat-rate", none, c->no_finalise },
                                         { "--qat-scale-rate", none, c->no_finalise },
                                         { "--qat-batch", none, c->no_finalise },
                                         { "--sweeps", "without --method feedback", strcmp(c->method, "feedback") != 0 },
                                         { "--eval-windows", "without --eval: the confirm windows are evaluated", !*c->eval } };
    bb_command_warn_idle(argc, argv, unused, sizeof unused / sizeof *unused);
    return bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err);
}

static bb_status parse_run(const bb_command *command, int argc, char **argv, bb_run_config *c, bb_err *err)
{
    const char *model = NULL;
    size_t      n = 0;
    bb_status   status;
    BB_TRY(bb_command_options(command, c, argc, argv, &model, 1, &n, err));
    if (n == 1) {
        bb_free(c->model);
        if (!(c->model = bb_strdup(model, err))) {
            status = BB_NOMEM;
            goto done;
        }
    }
    if (c->target_size && c->target_bpw > 0)
        status = BB_FAIL(err, BB_USAGE, "--target-size and --target-bpw %g both say how large the file may be: give one (0 takes the other back)",
                         c->target_bpw);
    else if (command == &bb_command_sweep && (c->target_size || c->target_bpw > 0))
        status = BB_FAIL(err, BB_USAGE, "%s is one size, and sweep takes --points or --sizes: `bitbudget run` makes one file",
                         c->target_size ? "--target-size" : "--target-bpw");
    if (status == BB_OK && c->time > 0) BB_TRY(bb_effort_unmark(bb_run_options, BB_RUN_N_OPTIONS, c, &c->free, err));
    if (status == BB_OK) status = refuse_idle(command, c, argc, argv, err);
done:
    return status;
}

/* --keep, when everything is written. */
static bb_status keep_what_is_asked(const bb_run *r, bb_err *err)
{
    const bool keeps_files = strcmp(r->config.keep, "file") != 0;
    bb_cleaned cleaned[BB_N_CLEANED];
    uint64_t   freed = 0;
    char       size[32];
    bb_status  status;
    if (strcmp(r->config.keep, "all") == 0) return BB_OK;
    BB_TRY(bb_clean(r->config.out, !keeps_files, false, cleaned, err));
    for (size_t i = 0; i < BB_N_CLEANED; i++) freed += cleaned[i].bytes;
    bb_format_size(freed, size);
    bb_info("--keep %s: %s freed; what was removed is made again when a command needs it", r->config.keep, size);
done:
    return status;
}

static bb_status run_or_sweep(const bb_command *command, int argc, char **argv, bool is_sweep, bb_err *err)
{
    bb_run_config config = { 0 };
    bb_run        r = { 0 };
    bb_status     status;
    BB_TRY(parse_run(command, argc, argv, &config, err));
    BB_TRY(bb_run_create(&r, &config, is_sweep, err));
    BB_TRY(bb_run_all(&r, err));
    BB_TRY(bb_report_write(r.config.out, err));
    BB_TRY(r.config.json ? bb_run_print_json(r.config.out, err) : bb_run_print_table(r.config.out, err));
    BB_TRY(keep_what_is_asked(&r, err));
    bb_info("model:  %s/model.gguf\nreport: %s/report.html", r.config.out, r.config.out);
done:
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &config);
    bb_run_close(&r);
    return status;
}

static bb_status run(int argc, char **argv, bb_err *err) { return run_or_sweep(&bb_command_run, argc, argv, false, err); }
static bb_status sweep(int argc, char **argv, bb_err *err) { return run_or_sweep(&bb_command_sweep, argc, argv, true, err); }

const bb_command bb_command_run = { "run",
                                    "compress a model to a size: search, file, front, evidence",
                                    "MODEL.gguf --target-size SIZE",
                                    "bitbudget run MODEL.gguf --target-size 3.2MiB --calib calib.txt --eval eval.txt --out results/runs/first",
                                    bb_run_options,
                                    BB_RUN_N_OPTIONS,
                                    run };
const bb_command bb_command_sweep = { "sweep",
                                      "the whole Pareto front of a model",
                                      "MODEL.gguf [--points N | --sizes LIST]",
                                      "bitbudget sweep MODEL.gguf --points 12 --calib calib.txt --eval eval.txt --out results/runs/front\n"
                                      "bitbudget sweep MODEL.gguf --sizes 2.2MiB,2.6MiB,3596960 --out results/runs/front",
                                      bb_run_options,
                                      BB_RUN_N_OPTIONS,
                                      sweep };

/* ---- stages of an existing run ---- */

static bb_status reopen(int argc, char **argv, bb_run *r, bb_err *err)
{
    if (argc != 2) return BB_FAIL(err, BB_USAGE, "this command takes one run directory, as made by `bitbudget run` or `bitbudget sweep`");
    return bb_run_reopen(r, argv[1], err);
}

static bb_status run_stage(int argc, char **argv, bb_stage stage, bb_err *err)
{
    bb_run    r = { 0 };
    bb_status status;
    BB_TRY(reopen(argc, argv, &r, err));
    BB_TRY(bb_stage_run(&r, stage, err));
done:
    bb_run_close(&r);
    return status;
}

typedef struct calibrate_config {
    char *imatrix;
} calibrate_config;

static const bb_option_row calibrate_options[] = {
    { "imatrix", BB_OPT_TEXT, offsetof(calibrate_config, imatrix), "", 1, 0, "FILE.gguf",
      "then write the diagonal of the second moments as an importance matrix for llama-quantize and `quantize --imatrix`", NULL },
};

static bb_status calibrate(int argc, char **argv, bb_err *err)
{
    calibrate_config c = { 0 };
    bb_run           r = { 0 };
    const char      *dir = NULL;
    size_t           n = 0;
    bb_status        status;
    BB_TRY(bb_command_options(&bb_command_calibrate, &c, argc, argv, &dir, 1, &n, err));
    if (n != 1) {
        status = BB_FAIL(err, BB_USAGE, "calibrate takes one run directory, as made by `bitbudget run` or `bitbudget sweep`");
        goto done;
    }
    BB_TRY(bb_run_reopen(&r, dir, err));
    if (*c.imatrix) BB_TRY(bb_output_check("--imatrix", c.imatrix, BB_OUTPUT_MODEL, NULL, &(bb_input) { "the source model", r.config.model }, 1, err));
    BB_TRY(bb_stage_run(&r, BB_STAGE_CALIBRATE, err));
    if (*c.imatrix) BB_TRY(bb_run_imatrix(&r, c.imatrix, err));
done:
    bb_options_done(calibrate_options, 1, &c);
    bb_run_close(&r);
    return status;
}

const bb_command bb_command_calibrate = { "calibrate",
                                          "second moments and pruning masks of a run",
                                          "RUN [--imatrix FILE.gguf]",
                                          "bitbudget calibrate results/runs/first\nbitbudget calibrate results/runs/first --imatrix model.imatrix.gguf",
                                          calibrate_options,
                                          1,
                                          calibrate };

static bb_status measure(int argc, char **argv, bb_err *err) { return run_stage(argc, argv, BB_STAGE_MEASURE, err); }
const bb_command bb_command_measure = {
    "measure", "the option database and what each option does alone", "RUN", "bitbudget measure results/runs/first", NULL, 0, measure
};

static bb_status search(int argc, char **argv, bb_err *err) { return run_stage(argc, argv, BB_STAGE_SEARCH, err); }
const bb_command bb_command_search = { "search", "the plans of the front, refined by true KL", "RUN", "bitbudget search results/runs/first", NULL, 0, search };

typedef struct finalise_config {
    char   *ladder, *texts;
    int64_t windows;
    bool    ablate, qat;
} finalise_config;

#define FIELD(name) offsetof(finalise_config, name)
static const bb_option_row finalise_options[] = {
    { "qat", BB_OPT_FLAG, FIELD(qat), NULL, 1, 0, NULL,
      "with the step qat behind the run's own, low-bit training by its --qat-* options; later commands know it too", NULL },
    { "ladder", BB_OPT_LIST, FIELD(ladder), "", 1, 0, "BITS", "instead: evaluate every step for the plans nearest to these bits per weight", NULL },
    { "texts", BB_OPT_LIST, FIELD(texts), "", 1, 0, "FILES", "with --ladder: texts to evaluate on", NULL },
    { "windows", BB_OPT_INT, FIELD(windows), "0", 0, 1e9, "N", "with --ladder: windows of each text, and prompts to continue; 0: all windows, 128 prompts",
      NULL },
    { "ablate", BB_OPT_FLAG, FIELD(ablate), NULL, 1, 0, NULL, "with --ladder: also variants of the step lfq", NULL },
};
enum { N_FINALISE_OPTIONS = sizeof finalise_options / sizeof *finalise_options };
#undef FIELD

static bb_status finalise(int argc, char **argv, bb_err *err)
{
    finalise_config c = { 0 };
    bb_run          r = { 0 };
    const char     *dir = NULL;
    size_t          n = 0;
    bb_status       status;
    BB_TRY(bb_command_options(&bb_command_finalise, &c, argc, argv, &dir, 1, &n, err));
    if (n != 1) {
        status = BB_FAIL(err, BB_USAGE, "finalise takes one run directory, as made by `bitbudget run` or `bitbudget sweep`");
        goto done;
    }
    const bb_idle_option idle[] = { { "--texts", "without --ladder", !*c.ladder },
                                    { "--windows", "without --ladder", !*c.ladder },
                                    { "--ablate", "without --ladder", !*c.ladder },
                                    { "--qat", "with --ladder", *c.ladder != '\0' } };
    BB_TRY(bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err));
    BB_TRY(bb_run_reopen(&r, dir, err));
    if (c.qat) BB_TRY(bb_ladder_add(&r, BB_RUNG_QAT, err));
    if (*c.ladder) BB_TRY(bb_run_ladder(&r, c.ladder, c.texts, c.windows, c.ablate, err));
    else BB_TRY(bb_stage_run(&r, BB_STAGE_FINALISE, err));
done:
    bb_options_done(finalise_options, N_FINALISE_OPTIONS, &c);
    bb_run_close(&r);
    return status;
}

const bb_command bb_command_finalise = { "finalise",
                                         "rebuild and tune the chosen plans and write their files",
                                         "RUN [--qat | --ladder BITS --texts FILES]",
                                         "bitbudget finalise results/runs/first\n"
                                         "bitbudget finalise results/runs/front --ladder 1.3,2.2,3.0 --texts wiki.test.raw,c4.jsonl",
                                         finalise_options,
                                         N_FINALISE_OPTIONS,
                                         finalise };

/* The report of a run is made of the tables: it does not stay behind with the numbers before. */
static bb_status evaluate(int argc, char **argv, bb_err *err)
{
    bb_run    r = { 0 };
    char     *report = NULL;
    bb_status status;
    BB_TRY(reopen(argc, argv, &r, err));
    BB_TRY(bb_stage_run(&r, BB_STAGE_EVALUATE, err));
    if (!(report = bb_run_path(&r, err, "report.html"))) status = BB_NOMEM;
    else if (bb_file_exists(report)) status = bb_report_write(r.config.out, err);
done:
    bb_free(report);
    bb_run_close(&r);
    return status;
}

const bb_command bb_command_evaluate = {
    "evaluate", "score the written files in full; front, guard, choice", "RUN", "bitbudget evaluate results/runs/first", NULL, 0, evaluate
};

static bb_status verify(int argc, char **argv, bb_err *err) { return run_stage(argc, argv, BB_STAGE_VERIFY, err); }
const bb_command bb_command_verify = {
    "verify", "read every exported file back, evaluate it again and compare with the record", "RUN", "bitbudget verify results/runs/first", NULL, 0, verify
};

/* ---- export ---- */

typedef struct export_config {
    char *plan, *out, *recipe, *folder;
} export_config;

#define FIELD(name) offsetof(export_config, name)
static const bb_option_row export_options[] = {
    { "plan", BB_OPT_TEXT, FIELD(plan), "", 1, 0, "HASH", "plan of plans.csv, by the beginning of its hash", NULL },
    { "out", BB_OPT_TEXT, FIELD(out), "model.gguf", 1, 0, "FILE", "file to write", NULL },
    { "hf", BB_OPT_TEXT, FIELD(folder), "", 1, 0, "FOLDER",
      "also write it as a Hugging Face folder for vLLM and transformers; of plans of Q4_0, Q8_0, F16, BF16 and F32 with blocks of one shape", NULL },
    { "recipe", BB_OPT_TEXT, FIELD(recipe), "", 1, 0, "FILE", "also write a llama-quantize --tensor-type-file; not of a pruned plan", NULL },
};
enum { N_EXPORT_OPTIONS = sizeof export_options / sizeof *export_options };
#undef FIELD

static bb_status export_plan(int argc, char **argv, bb_err *err)
{
    export_config c = { 0 };
    bb_run        r = { 0 };
    bb_model      written = { .path = NULL };
    const char   *dir = NULL;
    size_t        n = 0;
    bb_status     status;
    BB_TRY(bb_command_options(&bb_command_export, &c, argc, argv, &dir, 1, &n, err));
    if (n != 1 || !*c.plan) {
        status = BB_FAIL(err, BB_USAGE, "export needs a run directory and --plan HASH (see its plans.csv)");
        goto done;
    }
    BB_TRY(bb_output_check("--out", c.out, BB_OUTPUT_MODEL, NULL, NULL, 0, err));
    if (*c.recipe) BB_TRY(bb_output_check("--recipe", c.recipe, BB_OUTPUT_RECIPE, NULL, &(bb_input) { "the file of --out", c.out }, 1, err));
    BB_TRY(bb_run_reopen(&r, dir, err));
    const bb_input inputs[] = { { "the source model", r.config.model }, { "the calibration text", r.config.calib }, { "the evaluation text", r.config.eval } };
    BB_TRY(bb_output_check("--out", c.out, BB_OUTPUT_MODEL, NULL, inputs, 3, err));
    if (*c.recipe) BB_TRY(bb_output_check("--recipe", c.recipe, BB_OUTPUT_RECIPE, NULL, inputs, 3, err));
    if (*c.folder) BB_TRY(bb_output_folder_check("--hf", c.folder, inputs, 1, err));
    BB_TRY(bb_run_export(&r, c.plan, c.out, *c.recipe ? c.recipe : NULL, err));
    bb_info("wrote %s", c.out);
    if (*c.folder) {
        BB_TRY(bb_model_open(c.out, &written, err));
        BB_TRY(bb_write_folder(&written, bb_folder_has(r.config.model, "config.json") ? r.config.model : NULL, c.folder, err));
        bb_info("wrote %s", c.folder);
    }
done:
    bb_model_close(&written);
    bb_options_done(export_options, N_EXPORT_OPTIONS, &c);
    bb_run_close(&r);
    return status;
}

const bb_command bb_command_export = { "export",
                                       "write a plan of a run as a model file",
                                       "RUN --plan HASH --out FILE [--hf FOLDER]",
                                       "bitbudget export results/runs/front --plan 3f2a --out model.gguf",
                                       export_options,
                                       N_EXPORT_OPTIONS,
                                       export_plan };

/* ---- estimate ---- */

static bb_status estimate(int argc, char **argv, bb_err *err)
{
    bb_run_config config = { 0 };
    bb_run        r = { 0 };
    bb_status     status;
    BB_TRY(parse_run(&bb_command_estimate, argc, argv, &config, err));
    bool is_sweep = config.target_size == 0 && config.target_bpw <= 0;
    BB_TRY(bb_run_preview(&r, &config, is_sweep, err));
    BB_TRY(bb_run_check_inputs(&r, err));
    BB_TRY(bb_time_choose(&r, err));
    bb_memory_warn_of_training(&r);
    BB_TRY(r.config.json ? bb_estimate_print_json(&r, stdout, err) : bb_estimate_print(&r, stdout, err));
done:
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &config);
    bb_run_close(&r);
    return status;
}

const bb_command bb_command_estimate = { "estimate",
                                         "memory, disk, tokens, time and reachable sizes; nothing is run",
                                         "MODEL.gguf --target-size SIZE",
                                         "bitbudget estimate MODEL.gguf --target-size 3.2MiB",
                                         bb_run_options,
                                         BB_RUN_N_OPTIONS,
                                         estimate };
