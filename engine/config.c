/* SPDX-License-Identifier: GPL-3.0-or-later
 * config.c: the options of a run, what is wrong with them whatever the model, and config.resolved.yaml. See run_parts.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/coupling.h"
#include "engine/effort.h"
#include "engine/environment.h"
#include "engine/foresee.h"
#include "engine/gates.h"
#include "engine/ladder.h"
#include "engine/qat.h"
#include "engine/run_parts.h"
#include "engine/tensor_types.h"
#include "engine/version.h"
#include "search/method.h"

#define FIELD(name) offsetof(bb_run_config, name)
#define NO_BOUNDS 1, 0

/* Defaults: chosen on wiki8m and stories3M-p256 so that a sweep takes minutes on two cores; results/README.md says how they were measured. */
const bb_option_row bb_run_options[BB_RUN_N_OPTIONS] = {
    { "model", BB_OPT_TEXT, FIELD(model), "", NO_BOUNDS, "FILE", "model to compress (GGUF); also the first argument", NULL },
    { "out", BB_OPT_TEXT, FIELD(out), "results/runs/latest", NO_BOUNDS, "DIR", "run directory; an interrupted run in it goes on", NULL },
    { "config", BB_OPT_TEXT, FIELD(config), NULL, NO_BOUNDS, "FILE", "read options from this YAML file; the command line wins", NULL },
    { "effort", BB_OPT_TEXT, FIELD(effort), "normal", NO_BOUNDS, "NAME", "how much time the defaults of the options below take", BB_EFFORTS },
    { "time", BB_OPT_TIME, FIELD(time), "0", NO_BOUNDS, "TIME",
      "be done in this time (30m, 2h, 1h30m): what is not given of the options of --effort is chosen to fit, and again while it runs; 0: no limit", NULL },
    { "target-size", BB_OPT_SIZE, FIELD(target_size), "0", NO_BOUNDS, "SIZE", "largest size of the written file: 3.2MiB, 2.6GB, 3596960", NULL },
    { "target-bpw", BB_OPT_DOUBLE, FIELD(target_bpw), "0", 0, 32, "BITS", "the same as bits of the whole file per weight of the source", NULL },
    { "points", BB_OPT_INT, FIELD(points), "12", 1, 200, "N", "sweep: number of sizes, evenly spaced on a log scale", NULL },
    { "min-bpw", BB_OPT_DOUBLE, FIELD(min_bpw), "1.2", 0.1, 32, "BITS", "sweep: smallest size, in bits per weight of the whole file", NULL },
    { "max-bpw", BB_OPT_DOUBLE, FIELD(max_bpw), "4.6", 0.1, 32, "BITS", "sweep: largest size", NULL },
    { "sizes", BB_OPT_LIST, FIELD(sizes), "", NO_BOUNDS, "LIST", "sweep: these sizes instead (2.2MiB,2.6MiB,3596960)", NULL },
    { "calib", BB_OPT_TEXT, FIELD(calib), "", NO_BOUNDS, "FILES",
      "calibration text or token file, or a list of them with equal shares; \"self\": text that the model writes; \"mixture\": texts that ship with the "
      "program; empty: both of these, or self alone for a model without a vocabulary",
      NULL },
    { "eval", BB_OPT_TEXT, FIELD(eval), "", NO_BOUNDS, "FILE", "evaluation text; none: held-out calibration windows", NULL },
    { "parse-special", BB_OPT_FLAG, FIELD(parse_special), NULL, NO_BOUNDS, NULL, "text of special tokens (\"<|im_end|>\") in the texts becomes these tokens",
      NULL },
    { "protocol", BB_OPT_TEXT, FIELD(protocol), "gguf", NO_BOUNDS, "NAME", "evaluation protocol", BB_PROTOCOLS },
    { "ctx", BB_OPT_INT, FIELD(ctx), "256", 16, 131072, "N", "tokens of a window", NULL },
    { "calib-windows", BB_OPT_INT, FIELD(calib_windows), "256", 1, 1e6, "N", "windows for second moments", NULL },
    { "measure-windows", BB_OPT_INT, FIELD(measure_windows), "4", 1, 1e6, "N", "windows for measuring each option alone", NULL },
    { "exact-from", BB_OPT_DOUBLE, FIELD(exact_from), "0.01", 0, 1e6, "NATS",
      "an option alone whose KL is below this to second order is not run through the head; 0: all are", NULL },
    { "refine-windows", BB_OPT_INT, FIELD(refine_windows), "32", 1, 1e6, "N", "windows for ranking plans in the search", NULL },
    { "confirm-windows", BB_OPT_INT, FIELD(confirm_windows), "128", 2, 1e6, "N", "windows for confirming plans", NULL },
    { "eval-windows", BB_OPT_INT, FIELD(eval_windows), "0", 0, 1e9, "N", "evaluation windows; 0: all", NULL },
    { "probes", BB_OPT_INT, FIELD(probes), "8", 1, 256, "N", "label samples a token in the propagated sketch", NULL },
    { "formats", BB_OPT_LIST, FIELD(formats), "", NO_BOUNDS, "LIST", "formats for the linears; empty: the default list", NULL },
    { "embd-formats", BB_OPT_LIST, FIELD(embd_formats), "", NO_BOUNDS, "LIST", "formats for embedding and head", NULL },
    { "experimental-formats", BB_OPT_FLAG, FIELD(experimental), NULL, NO_BOUNDS, NULL, BB_EXPERIMENTAL_HELP, NULL },
    { "screen", BB_OPT_INT, FIELD(screen), "0", 0, 64, "N",
      "of the default lists, how many formats are tried for a matrix: spread around the sizes asked for; 0: all", NULL },
    { "prune", BB_OPT_TEXT, FIELD(prune), "all", NO_BOUNDS, "WHAT", "structures that may be removed", "all|kv|ffn|width|none" },
    { "width-order", BB_OPT_TEXT, FIELD(width_order), "obs", NO_BOUNDS, "NAME", BB_WIDTH_ORDER_HELP, BB_WIDTH_ORDERS },
    { "ffn-divisor", BB_OPT_INT, FIELD(ffn_divisor), "0", 0, 65536, "N", "FFN widths are multiples of this; 0: the runtime's block", NULL },
    { "method", BB_OPT_TEXT, FIELD(method), "feedback", NO_BOUNDS, "NAME", "quantizer of the option database", "feedback|weighted|rtn" },
    { "damping", BB_OPT_DOUBLE, FIELD(damping), "0.1", 0, 10, "X", "Hessian damping, times the mean of its diagonal", NULL },
    { "sweeps", BB_OPT_INT, FIELD(sweeps), "4", 0, 100, "N", "coordinate-descent sweeps after error feedback", NULL },
    { "output-windows", BB_OPT_INT, FIELD(output_windows), BB_OUTPUT_WINDOWS, 0, 1e6, "N", BB_OUTPUT_WINDOWS_HELP, NULL },
    { "search", BB_OPT_TEXT, FIELD(search), "refine", NO_BOUNDS, "NAME", "how plans are searched for (docs/search.md)", BB_METHOD_NAMES },
    { "search-tokens", BB_OPT_DOUBLE, FIELD(search_tokens), "1", 0, 1e9, "MILLIONS", "forwarded tokens that the search may spend", NULL },
    { "foresee", BB_OPT_TEXT, FIELD(foresee), "rebuild", NO_BOUNDS, "WHAT", BB_FORESEE_HELP, "rebuild|none" },
    { "sketch", BB_OPT_TEXT, FIELD(sketch), "none", NO_BOUNDS, "WHAT", "propagated sketches around the plans of the search: its local score", "signed|none" },
    { "settle", BB_OPT_INT, FIELD(settle), "0", 0, 10000, "N", "plans of a size that are rebuilt at the end of the search, to go on there; 0: none", NULL },
    { "workers", BB_OPT_INT, FIELD(workers), "1", 1, 256, "N", "plans that the search scores at the same time, a thread each; changes no result", NULL },
    { "seed", BB_OPT_INT, FIELD(seed), "1", 0, 9e15, "N", "seed of everything random", NULL },
    { "precision", BB_OPT_TEXT, FIELD(precision), "exact", NO_BOUNDS, "NAME", BB_PRECISION_HELP, BB_PRECISIONS },
    { "no-finalise", BB_OPT_FLAG, FIELD(no_finalise), NULL, NO_BOUNDS, NULL, "export the database's options without rebuilding them", NULL },
    { "finish", BB_OPT_TEXT, FIELD(finish), "contenders", NO_BOUNDS, "WHICH",
      "plans that are finalised; contenders: no simple one that the search saw far behind", "all|contenders" },
    { "finalise-steps", BB_OPT_LIST, FIELD(finalise_steps), "rebuild,lfq,end-to-end", NO_BOUNDS, "LIST", "what finalise tries, in order; kept is what helps",
      "rebuild|blocks|lfq|end-to-end|qat" },
    { "leave-out", BB_OPT_LIST, FIELD(leave_out), "", NO_BOUNDS, "HASHES", "plans that are neither finalised nor evaluated: those that --time left out", NULL },
    { "tune-windows", BB_OPT_INT, FIELD(tune_windows), "1024", 0, 1e6, "N", "calibration windows to tune on, at most; 0: no tuning", NULL },
    { "tune-tokens", BB_OPT_DOUBLE, FIELD(tune_tokens), "0.1", 0, 1e6, "MILLIONS", "tokens that end-to-end tuning trains on, a plan", NULL },
    { "qat-tokens", BB_OPT_DOUBLE, FIELD(qat_tokens), BB_QAT_TOKENS, 1e-6, 1e6, "MILLIONS", "tokens that the step qat trains on, a plan", NULL },
    { "qat-text", BB_OPT_LIST, FIELD(qat_text), "", NO_BOUNDS, "FILES",
      "what it trains on, in equal shares, \"self\" among them; empty: the calibration text and self. On it, and on other text, the KL may not rise", NULL },
    { "qat-loss", BB_OPT_TEXT, FIELD(qat_loss), "kl", NO_BOUNDS, "NAME", "KL to the source, cross-entropy with the text, or half of each", BB_QAT_LOSSES },
    { "qat-estimator", BB_OPT_TEXT, FIELD(qat_estimator), "straight", NO_BOUNDS, "NAME", "how gradients come through the rounding", BB_QAT_ESTIMATORS },
    { "qat-schedule", BB_OPT_TEXT, FIELD(qat_schedule), "cosine", NO_BOUNDS, "NAME", "of the rate: half a cosine; or warm-up, stable, decay",
      BB_QAT_SCHEDULES },
    { "qat-rate", BB_OPT_DOUBLE, FIELD(qat_rate), BB_QAT_RATE, 0, 10, "X", BB_QAT_RATE_HELP, NULL },
    { "qat-scale-rate", BB_OPT_DOUBLE, FIELD(qat_scale_rate), BB_QAT_SCALE_RATE, 0, 1, "X", BB_QAT_SCALE_RATE_HELP, NULL },
    { "qat-batch", BB_OPT_INT, FIELD(qat_batch), BB_QAT_BATCH, 1, BB_TUNE_MAX_BATCH, "N", "windows a step", NULL },
    { "ledger-only", BB_OPT_FLAG, FIELD(ledger_only), NULL, NO_BOUNDS, NULL, "replay: fail instead of evaluating anything new", NULL },
    { "json", BB_OPT_FLAG, FIELD(json), NULL, NO_BOUNDS, NULL, "print the result as one JSON object instead of a table", NULL },
    { "max-ram", BB_OPT_SIZE, FIELD(max_ram), "4GiB", NO_BOUNDS, "SIZE",
      "memory that the run may have resident, mapped files included; what it must hold and what its caches may hold; 0: no limit", NULL },
    { "keep", BB_OPT_TEXT, FIELD(keep), "all", NO_BOUNDS, "WHAT",
      "what a finished run leaves: all; without its option database; or without the files of the front too: model.gguf and the tables", "all|plans|file" },
    { "database", BB_OPT_TEXT, FIELD(database), "", NO_BOUNDS, "DIR", "option database, may be shared by runs; empty: OUT/database", NULL },
    { "profile", BB_OPT_TEXT, FIELD(profile), "", NO_BOUNDS, "FILE", "runtime profile: predicts the speed of each plan (configs/profiles)", NULL },
    { "min-speed", BB_OPT_DOUBLE, FIELD(min_speed), "0", 0, 1e12, "TOKENS/S", "slowest decoding, as predicted by --profile; 0: no bound", NULL },
};

static bb_status check_config(const bb_run_config *c, bb_err *err)
{
    if (!c->model || !*c->model) return BB_FAIL(err, BB_USAGE, "no model was given: bitbudget run MODEL.gguf --target-size 3.2MiB");
    bb_status status = bb_ladder_check(c, err);
    if (status != BB_OK) return status;
    if (c->min_speed > 0 && !*c->profile)
        return BB_FAIL(err, BB_USAGE, "--min-speed needs --profile FILE, which says how fast each format is (configs/profiles)");
    if (c->min_bpw > c->max_bpw) return BB_FAIL(err, BB_USAGE, "--min-bpw %g is above --max-bpw %g", c->min_bpw, c->max_bpw);
    return BB_OK;
}

/* Without links; NULL where there is none, or no memory. bb_free() */
static char *resolved(const char *path, bb_err *err)
{
    char *found = realpath(path, NULL), *copy = found ? bb_strdup(found, err) : NULL;
    free(found);
    return copy;
}

/* The folder of a file without links, and its own name as it is: a link may lead to a name that says less (the parts of a split model are found by theirs). */
static char *absolute(const char *path, bb_err *err)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char       *folder, *found, *whole;
    if (!bb_file_exists(path)) return NULL;
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return resolved(path, err);
    if (!(folder = slash ? bb_asprintf(err, "%.*s", (int)(slash - path) + 1, path) : bb_strdup(".", err))) return NULL;
    found = resolved(folder, err);
    bb_free(folder);
    whole = found ? bb_asprintf(err, "%s%s%s", found, strcmp(found, "/") == 0 ? "" : "/", name) : NULL;
    bb_free(found);
    return whole;
}

/* Paths in config.resolved.yaml must mean the same from any folder. A file that does not exist is reported when it is opened. */
static bb_status make_absolute(char **path, bb_err *err)
{
    bb_err failed = BB_ERR_INIT;
    char  *found;
    if (!*path || !**path || strcmp(*path, "self") == 0 || strcmp(*path, "mixture") == 0) return BB_OK;
    if (!(found = absolute(*path, &failed))) return failed.status == BB_OK ? BB_OK : BB_FAIL(err, failed.status, "%s", failed.msg);
    bb_free(*path);
    *path = found;
    return BB_OK;
}

/* The same of every file of a list. */
static bb_status make_list_absolute(char **list, bb_err *err)
{
    bb_text     t = { 0 };
    bb_item     item;
    const char *rest = *list;
    bb_status   status = BB_OK;
    if (!*list || bb_file_exists(*list) || !strchr(*list, ',')) return make_absolute(list, err);
    while (bb_list_next(&rest, &item)) {
        char *path = bb_item_text(item, err);
        if (!path) status = BB_NOMEM;
        else status = make_absolute(&path, err);
        if (status == BB_OK) bb_text_addf(&t, "%s%s", t.size ? "," : "", path);
        bb_free(path);
        BB_TRY(status);
    }
    BB_TRY(t.status);
    status = BB_NOMEM;
    char *copy = bb_strdup(t.data, err);
    if (!copy) goto done;
    bb_free(*list);
    *list = copy;
    status = BB_OK;
done:
    bb_text_done(&t);
    return status;
}

bb_status bb_run_config_resolve(bb_run_config *c, bb_err *err)
{
    bb_status status;
    bb_free(c->config); /* resolved: it needs no other file */
    c->config = NULL;
    BB_TRY(check_config(c, err));
    BB_TRY(make_absolute(&c->model, err));
    BB_TRY(make_list_absolute(&c->calib, err));
    BB_TRY(make_absolute(&c->eval, err));
    BB_TRY(make_absolute(&c->profile, err));
    BB_TRY(make_list_absolute(&c->qat_text, err));
done:
    return status;
}

/* ---- config.resolved.yaml ---- */

/* path with the ending, as one word for the shell; a line break would end the comment that it stands in. */
static void add_quoted(bb_text *t, const char *path, const char *ending)
{
    bb_text_add(t, "'");
    for (const char *p = path; *p; p++) {
        if (*p == '\'') bb_text_add(t, "'\\''");
        else bb_text_addn(t, (unsigned char)*p < 32 ? "?" : p, 1);
    }
    bb_text_addf(t, "%s'", ending);
}

bb_status bb_run_config_write(const bb_run *r, bb_err *err)
{
    char     *path = bb_run_path(r, err, "config.resolved.yaml"), *out = realpath(r->config.out, NULL);
    bb_text   t = { 0 };
    char      took[32];
    bb_status status = BB_NOMEM;
    if (!path || !out) goto done;
    bb_text_addf(
        &t, "# Every option resolved, by bitbudget %s (%s). This repeats the run in a new folder; without --out it goes on in this one:\n#   bitbudget %s ",
        BB_VERSION, bb_version_commit(), r->is_sweep ? "sweep" : "run");
    add_quoted(&t, r->config.model, "");
    bb_text_add(&t, " --config ");
    add_quoted(&t, out, "/config.resolved.yaml");
    bb_text_add(&t, " --out ");
    add_quoted(&t, out, "-again");
    bb_text_add(&t, "\n");
    bb_run_config c = r->config; /* borrows */
    if (c.time > 0) {
        bb_format_time(c.time, took);
        bb_text_addf(&t, "# Chosen for --time %s; repeated without a clock, so that the same is done.\n", took);
        c.time = 0;
    }
    bb_options_print_yaml(bb_run_options, BB_RUN_N_OPTIONS, &c, &t);
    if (t.status == BB_OK) status = bb_file_write(path, t.data, t.size, err);
done:
    bb_text_done(&t);
    bb_free(path);
    free(out);
    return status;
}

static bool has_magic(const char *path)
{
    bb_map map = { NULL, 0 };
    bool   gguf = bb_map_open(path, &map, NULL) == BB_OK && map.size >= 4 && memcmp(map.data, "GGUF", 4) == 0;
    bb_map_close(&map);
    return gguf;
}

/* run or sweep? The store remembers; it is read before the run is opened. */
static bb_status read_kind(const char *dir, bool *is_sweep, bb_err *err)
{
    char     *path = bb_asprintf(err, "%s/run.db", dir);
    bb_store *store = NULL;
    void     *value = NULL;
    size_t    size;
    bool      found = false;
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    if (!bb_file_exists(path)) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s is no run directory (%s): make one with `bitbudget run` or `bitbudget sweep`", dir,
                         has_magic(dir) ? "it is a model file" : "it has no run.db");
        goto done;
    }
    BB_TRY(bb_store_open(path, &store, err));
    BB_TRY(bb_store_get(store, "run", "kind", &value, &size, &found, err));
    *is_sweep = found && size == 1 && *(char *)value == 's';
done:
    bb_store_close(store);
    bb_free(value);
    bb_free(path);
    return status;
}

static bb_status read_resolved(const char *dir, bb_run_config *c, bb_err *err)
{
    char     *path = bb_asprintf(err, "%s/config.resolved.yaml", dir);
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, c, err));
    BB_TRY(bb_options_yaml(bb_run_options, BB_RUN_N_OPTIONS, c, path, err));
    bb_free(c->out);
    if (!(c->out = bb_strdup(dir, err))) status = BB_NOMEM; /* the directory may have been moved */
done:
    bb_free(path);
    return status;
}

bb_status bb_run_config_read(const char *dir, bb_run_config *c, bool *is_sweep, bb_err *err)
{
    bb_status status = read_kind(dir, is_sweep, err);
    return status == BB_OK ? read_resolved(dir, c, err) : status;
}

bb_status bb_run_config_follow(const char *dir, bb_run_config *c, bb_err *err)
{
    char      host[256] = "this machine";
    char     *path = bb_asprintf(err, "%s/config.resolved.yaml", dir);
    bb_status status = path ? BB_OK : BB_NOMEM;
    if (path && !bb_file_exists(path)) {
        if (gethostname(host, sizeof host - 1) != 0) snprintf(host, sizeof host, "this machine");
        status = BB_FAIL(err, BB_IO, "%s is not to be seen from %s: the folder of the run, and the model, must lie where all ranks reach them under one name",
                         path, host);
    }
    bb_free(path);
    return status == BB_OK ? read_resolved(dir, c, err) : status;
}
