/* SPDX-License-Identifier: GPL-3.0-or-later
 * run.c: the run directory: configuration, data, budgets, and the stages calibrate and measure. See run.h. */
#include "engine/run.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/calibration.h"
#include "engine/environment.h"
#include "engine/effort.h"
#include "engine/keys.h"
#include "engine/version.h"
#include "engine/ladder.h"
#include "engine/score.h"
#include "engine/start.h"
#include "eval/floor.h"

#define FIELD(name) offsetof(bb_run_config, name)
#define NO_BOUNDS 1, 0

/* Defaults: chosen on wiki8m and stories3M-p256 so that a sweep takes minutes on two cores; results/README.md says how they were measured. */
const bb_option_row bb_run_options[BB_RUN_N_OPTIONS] = {
    { "model", BB_OPT_TEXT, FIELD(model), "", NO_BOUNDS, "FILE", "model to compress (GGUF); also the first argument", NULL },
    { "out", BB_OPT_TEXT, FIELD(out), "results/runs/latest", NO_BOUNDS, "DIR", "run directory; an interrupted run in it goes on", NULL },
    { "config", BB_OPT_TEXT, FIELD(config), NULL, NO_BOUNDS, "FILE", "read options from this YAML file; the command line wins", NULL },
    { "effort", BB_OPT_TEXT, FIELD(effort), "normal", NO_BOUNDS, "NAME", "how much time the defaults of the options below take", BB_EFFORTS },
    { "target-size", BB_OPT_SIZE, FIELD(target_size), "0", NO_BOUNDS, "SIZE", "largest size of the written file: 3.2MiB, 2.6GB, 3596960", NULL },
    { "target-bpw", BB_OPT_DOUBLE, FIELD(target_bpw), "0", 0, 32, "BITS", "the same as bits of the whole file per weight of the source", NULL },
    { "points", BB_OPT_INT, FIELD(points), "12", 1, 200, "N", "sweep: number of sizes, evenly spaced on a log scale", NULL },
    { "min-bpw", BB_OPT_DOUBLE, FIELD(min_bpw), "1.2", 0.1, 32, "BITS", "sweep: smallest size, in bits per weight of the whole file", NULL },
    { "max-bpw", BB_OPT_DOUBLE, FIELD(max_bpw), "4.6", 0.1, 32, "BITS", "sweep: largest size", NULL },
    { "sizes", BB_OPT_LIST, FIELD(sizes), "", NO_BOUNDS, "LIST", "sweep: these sizes instead (2.2MiB,2.6MiB,3596960)", NULL },
    { "calib", BB_OPT_TEXT, FIELD(calib), "self", NO_BOUNDS, "FILE", "calibration text or token file; \"self\" samples from the model", NULL },
    { "eval", BB_OPT_TEXT, FIELD(eval), "", NO_BOUNDS, "FILE", "evaluation text; none: held-out calibration windows", NULL },
    { "parse-special", BB_OPT_FLAG, FIELD(parse_special), NULL, NO_BOUNDS, NULL, "text of special tokens (\"<|im_end|>\") in the texts becomes these tokens", NULL },
    { "protocol", BB_OPT_TEXT, FIELD(protocol), "gguf", NO_BOUNDS, "NAME", "evaluation protocol", "gguf|hf" },
    { "ctx", BB_OPT_INT, FIELD(ctx), "256", 16, 131072, "N", "tokens of a window", NULL },
    { "calib-windows", BB_OPT_INT, FIELD(calib_windows), "256", 1, 1e6, "N", "windows for second moments", NULL },
    { "measure-windows", BB_OPT_INT, FIELD(measure_windows), "8", 1, 1e6, "N", "windows for measuring each option alone", NULL },
    { "refine-windows", BB_OPT_INT, FIELD(refine_windows), "32", 1, 1e6, "N", "windows for ranking plans in the search", NULL },
    { "confirm-windows", BB_OPT_INT, FIELD(confirm_windows), "128", 2, 1e6, "N", "windows for confirming plans", NULL },
    { "eval-windows", BB_OPT_INT, FIELD(eval_windows), "0", 0, 1e9, "N", "evaluation windows; 0: all", NULL },
    { "probes", BB_OPT_INT, FIELD(probes), "8", 1, 256, "N", "label samples a token in the propagated sketch", NULL },
    { "formats", BB_OPT_LIST, FIELD(formats), "", NO_BOUNDS, "LIST", "formats for the linears; empty: the default list", NULL },
    { "embd-formats", BB_OPT_LIST, FIELD(embd_formats), "", NO_BOUNDS, "LIST", "formats for embedding and head", NULL },
    { "screen", BB_OPT_INT, FIELD(screen), "0", 0, 64, "N",
      "of the default lists, how many formats are tried for a matrix: spread around the sizes asked for; 0: all", NULL },
    { "prune", BB_OPT_TEXT, FIELD(prune), "all", NO_BOUNDS, "WHAT", "structures that may be removed", "all|kv|ffn|width|none" },
    { "ffn-divisor", BB_OPT_INT, FIELD(ffn_divisor), "0", 0, 65536, "N", "FFN widths are multiples of this; 0: the runtime's block", NULL },
    { "method", BB_OPT_TEXT, FIELD(method), "feedback", NO_BOUNDS, "NAME", "quantizer of the option database", "feedback|weighted|rtn" },
    { "damping", BB_OPT_DOUBLE, FIELD(damping), "0.01", 0, 10, "X", "Hessian damping, times the mean of its diagonal", NULL },
    { "sweeps", BB_OPT_INT, FIELD(sweeps), "4", 0, 100, "N", "coordinate-descent sweeps after error feedback", NULL },
    { "search-tokens", BB_OPT_DOUBLE, FIELD(search_tokens), "4", 0, 1e9, "MILLIONS", "forwarded tokens that the search may spend", NULL },
    { "sketch", BB_OPT_TEXT, FIELD(sketch), "none", NO_BOUNDS, "WHAT", "propagated sketches around the plans of the search: its local score", "signed|none" },
    { "workers", BB_OPT_INT, FIELD(workers), "1", 1, 256, "N", "plans that the search scores at the same time, a thread each; changes no result", NULL },
    { "seed", BB_OPT_INT, FIELD(seed), "1", 0, 9e15, "N", "seed of everything random", NULL },
    { "no-finalise", BB_OPT_FLAG, FIELD(no_finalise), NULL, NO_BOUNDS, NULL, "export the database's options without rebuilding them", NULL },
    { "finalise-steps", BB_OPT_LIST, FIELD(finalise_steps), "rebuild,blocks,lfq,end-to-end", NO_BOUNDS, "LIST", "what finalise tries, in order; kept is what helps", NULL },
    { "tune-windows", BB_OPT_INT, FIELD(tune_windows), "1024", 0, 1e6, "N", "calibration windows to tune on, at most; 0: no tuning", NULL },
    { "tune-tokens", BB_OPT_DOUBLE, FIELD(tune_tokens), "0.1", 0, 1e6, "MILLIONS", "tokens that end-to-end tuning trains on, a plan", NULL },
    { "ledger-only", BB_OPT_FLAG, FIELD(ledger_only), NULL, NO_BOUNDS, NULL, "replay: fail instead of evaluating anything new", NULL },
    { "json", BB_OPT_FLAG, FIELD(json), NULL, NO_BOUNDS, NULL, "print the result as one JSON object instead of a table", NULL },
    { "max-ram", BB_OPT_SIZE, FIELD(max_ram), "2GiB", NO_BOUNDS, "SIZE", "limit of the caches of hidden states", NULL },
    { "database", BB_OPT_TEXT, FIELD(database), "", NO_BOUNDS, "DIR", "option database, may be shared by runs; empty: OUT/database", NULL },
    { "profile", BB_OPT_TEXT, FIELD(profile), "", NO_BOUNDS, "FILE", "runtime profile: predicts the speed of each plan (configs/profiles)", NULL },
    { "min-speed", BB_OPT_DOUBLE, FIELD(min_speed), "0", 0, 1e12, "TOKENS/S", "slowest decoding, as predicted by --profile; 0: no bound", NULL },
};

const char *const bb_stage_names[BB_N_STAGES] = { "calibrate", "build options", "measure", "search", "finalise", "evaluate" };

void bb_run_clock(bb_run *r, bb_stage stage)
{
    bb_clock    *c = &r->clock;
    const double wall = bb_now_s(), cpu = bb_cpu_s();
    if (c->runs) {
        c->seconds[c->stage] += wall - c->wall;
        c->cpu_seconds[c->stage] += cpu - c->cpu;
    }
    c->runs = stage < BB_N_STAGES;
    c->stage = stage;
    c->wall = wall;
    c->cpu = cpu;
}

char *bb_run_path(const bb_run *r, bb_err *err, const char *format, ...)
{
    char    name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return bb_asprintf(err, "%s/%s", r->config.out, name);
}

bb_status bb_run_table(const bb_run *r, const char *name, const char *header, bb_csv_writer **w, bb_err *err)
{
    char     *path = bb_run_path(r, err, "%s", name);
    bb_status status = BB_NOMEM;
    if (!path) return status;
    if (r->store) BB_TRY(bb_keys_made(r, name, err));
    BB_TRY(bb_csv_create(path, header, w, err));
done:
    bb_free(path);
    return status;
}

/* ---- budgets ---- */

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t bpw_bytes(const bb_run *r, double bpw) { return (int64_t)(bpw * (double)r->n_weights / 8); }

/* Nothing is to be done for a size that the source has already. */
static bb_status refuse_above_source(const bb_run *r, int64_t bytes, bb_err *err)
{
    char     text[32], source[32], label[BB_MODEL_LABEL];
    uint64_t have = r->model.gguf.map.size;
    if ((uint64_t)bytes < have) return BB_OK;
    bb_format_size((uint64_t)bytes, text);
    bb_format_size(have, source);
    return BB_FAIL(err, BB_USAGE, "%s (%lld bytes) is not below the source, %s of %llu bytes (%s): it already fits, and there is nothing to do", text,
                   (long long)bytes, bb_model_source_label(&r->model, label), (unsigned long long)have, source);
}

static bb_status listed_sizes(bb_run *r, bb_err *err)
{
    bb_status   status = BB_OK;
    const char *p = r->config.sizes;
    while (*p) {
        size_t   len = strcspn(p, ",");
        char     text[64];
        uint64_t bytes;
        int64_t *grown = bb_realloc(r->budgets, r->n_budgets + 1, sizeof *grown, err);
        if (!grown) return BB_NOMEM;
        r->budgets = grown;
        if (len >= sizeof text) return BB_FAIL(err, BB_USAGE, "--sizes: \"%.*s\" is no size", (int)len, p);
        memcpy(text, p, len);
        text[len] = '\0';
        BB_TRY(bb_parse_size(text, &bytes, err));
        grown[r->n_budgets++] = (int64_t)bytes;
        p += len + (p[len] == ',');
    }
done:
    return status;
}

/* One target with a few sizes around it (the front beside it, densest near the target), or a sweep. */
static bb_status choose_budgets(bb_run *r, bb_err *err)
{
    static const double around[] = { 0.72, 0.85, 0.94, 1.0, 1.06, 1.18, 1.4 };
    enum { N_AROUND = sizeof around / sizeof *around, TARGET = 3 };
    const bb_run_config *c = &r->config;
    uint64_t  smallest, largest;
    int64_t   target = c->target_size ? (int64_t)c->target_size : bpw_bytes(r, c->target_bpw);
    char      a[32], b[32], t[32];
    bb_status status = BB_OK;
    size_t    n = 0;
    BB_TRY(bb_model_space_reach(r->space, &smallest, &largest, err));
    bb_format_size(smallest, a);
    bb_format_size(largest, b);
    if (!r->is_sweep) {
        if (target <= 0) return BB_FAIL(err, BB_USAGE, "no size was asked for: give --target-size 3.2MiB or --target-bpw 2.5");
        bb_format_size((uint64_t)target, t);
        BB_TRY(refuse_above_source(r, target, err));
        if (target < (int64_t)smallest)
            return BB_FAIL(err, BB_INFEASIBLE, "%s (%lld bytes) cannot be reached: with these formats and this pruning the file is between %llu bytes (%s) "
                           "and %llu bytes (%s)", t, (long long)target, (unsigned long long)smallest, a, (unsigned long long)largest, b);
        if (!(r->budgets = BB_NEW(N_AROUND, int64_t, err))) return BB_NOMEM;
        for (size_t i = 0; i < N_AROUND; i++) {
            int64_t size = (int64_t)((double)target * around[i]);
            if (i == TARGET) size = target;
            if (i == TARGET || (size >= (int64_t)smallest && size <= (int64_t)largest && size < (int64_t)r->model.gguf.map.size)) r->budgets[n++] = size;
        }
        r->n_budgets = n;
        return BB_OK;
    }
    if (r->n_budgets == 0) {
        double most = fmin((double)largest, (double)r->model.gguf.map.size - 1);
        double low = fmax((double)bpw_bytes(r, c->min_bpw), (double)smallest), high = fmin((double)bpw_bytes(r, c->max_bpw), most);
        if (high < low)
            return BB_FAIL(err, BB_INFEASIBLE, "%g to %g bits per weight cannot be reached: with these formats and this pruning the file is between %llu "
                           "bytes (%s) and %llu bytes (%s)", c->min_bpw, c->max_bpw, (unsigned long long)smallest, a, (unsigned long long)largest, b);
        if (low > (double)bpw_bytes(r, c->min_bpw))
            bb_info("sizes begin at %.3f bits per weight (%.0f bytes), the smallest file: --min-bpw %g cannot be reached", 8 * low / (double)r->n_weights, low, c->min_bpw);
        if (high < (double)bpw_bytes(r, c->max_bpw))
            bb_info("sizes end at %.3f bits per weight (%.0f bytes): --max-bpw %g is above the %s", 8 * high / (double)r->n_weights, high, c->max_bpw,
                    largest < r->model.gguf.map.size ? "largest file" : "source");
        n = (size_t)c->points;
        if (!(r->budgets = BB_NEW(n, int64_t, err))) return BB_NOMEM;
        for (size_t i = 0; i < n; i++)
            r->budgets[i] = (int64_t)llround(low * pow(high / low, n > 1 ? (double)i / (double)(n - 1) : 0));
        r->n_budgets = n;
    }
    qsort(r->budgets, r->n_budgets, sizeof *r->budgets, by_value);
    for (size_t i = 0; i < r->n_budgets; i++) BB_TRY(refuse_above_source(r, r->budgets[i], err));
    for (size_t i = 0; i < r->n_budgets; i++)
        if (r->budgets[i] < (int64_t)smallest) {
            bb_format_size((uint64_t)r->budgets[i], t);
            return BB_FAIL(err, BB_INFEASIBLE, "%s (%lld bytes) cannot be reached: with these formats and this pruning the file is between %llu bytes (%s) "
                           "and %llu bytes (%s)", t, (long long)r->budgets[i], (unsigned long long)smallest, a, (unsigned long long)largest, b);
        }
done:
    return status;
}

/* ---- data ---- */

/* A copy of windows index[0..n-1] of all. */
static bb_status pick_windows(const bb_windows *all, const uint32_t *index, uint32_t n, bb_windows *out, bb_err *err)
{
    size_t row = all->ctx;
    *out = *all;
    out->n = n;
    out->tokens = BB_NEW((size_t)n * row, int32_t, err);
    out->targets = BB_NEW((size_t)n * row, int32_t, err);
    if (!out->tokens || !out->targets) return BB_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(out->tokens + (size_t)i * row, all->tokens + (size_t)index[i] * row, row * sizeof(int32_t));
        memcpy(out->targets + (size_t)i * row, all->targets + (size_t)index[i] * row, row * sizeof(int32_t));
    }
    return BB_OK;
}

/* n of the m entries of from, evenly spaced. */
static void spaced(const uint32_t *from, uint32_t m, uint32_t n, uint32_t *out)
{
    for (uint32_t i = 0; i < n; i++) out[i] = from[(uint64_t)i * m / n];
}

/* Options are compared with each other, not with a protocol's numbers: every position behind the first eighth counts. */
static void score_nearly_all(bb_windows *w)
{
    w->first = w->ctx / 8;
    w->n_scored = w->ctx - 1 - w->first;
}

static void warn_fewer(const bb_run *r, const bb_windows *all, const char *what, int64_t asked, uint32_t used)
{
    if (asked > used)
        bb_warn("%s has %u windows of %u tokens: %u instead of %lld are used for %s", r->config.calib, all->n, all->ctx, used, (long long)asked, what);
}

/* Scoring windows are evenly spaced over the text, the smaller levels inside the larger ones; calibration takes from the others. */
static bb_status split_windows(bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    bb_protocol protocol = strcmp(c->protocol, "hf") == 0 ? BB_PROTOCOL_HF : BB_PROTOCOL_GGUF;
    bb_windows  all = { 0 };
    uint32_t   *index = NULL, *score, *rest, n_score, n_rest = 0;
    int32_t     bos;
    bb_status   status;
    BB_TRY(bb_tokens_bos(&r->model, &bos, err));
    BB_TRY(bb_windows_make(&r->calib_tokens, protocol, (uint32_t)c->ctx, bos, 0, false, &all, err));
    if (all.n < 4) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: %u windows of %lld tokens; at least 4 are needed: give more text or a smaller --ctx", c->calib, all.n, (long long)c->ctx);
        goto done;
    }
    status = BB_NOMEM;
    if (!(index = BB_NEW(4 * (size_t)all.n, uint32_t, err))) goto done;
    score = index + all.n;
    rest = score + all.n;
    n_score = (uint32_t)c->confirm_windows; /* as asked where there are enough for both, else half of all at most */
    if (c->calib_windows + c->confirm_windows > all.n && n_score > all.n / 2) n_score = all.n / 2;
    for (uint32_t i = 0; i < all.n; i++) index[i] = i;
    spaced(index, all.n, n_score, score);
    for (uint32_t i = 0, s = 0; i < all.n; i++) {
        if (s < n_score && score[s] == i) s++;
        else rest[n_rest++] = i;
    }
    uint32_t  n_calib = (uint32_t)c->calib_windows < n_rest ? (uint32_t)c->calib_windows : n_rest;
    uint32_t  n_level[BB_N_LEVELS] = { (uint32_t)c->measure_windows, (uint32_t)c->refine_windows, n_score };
    uint32_t *chosen = rest + all.n;
    spaced(rest, n_rest, n_calib, chosen);
    BB_TRY(pick_windows(&all, chosen, n_calib, &r->calib, err));
    uint32_t  n_tune = (uint32_t)c->tune_windows < n_rest ? (uint32_t)c->tune_windows : n_rest;
    spaced(rest, n_rest, n_tune, chosen);
    BB_TRY(pick_windows(&all, chosen, n_tune, &r->tune, err));
    for (uint32_t l = BB_N_LEVELS, upper = n_score; l-- > 0;) { /* from the largest level down: what is spaced evenly in it need not be in it otherwise */
        uint32_t n = n_level[l] < n_score ? n_level[l] : n_score;
        if (n > upper) upper = n_score; /* asked for more than the level above has: no nesting is possible */
        spaced(upper == n_score ? score : chosen, upper, n, chosen);
        upper = n;
        BB_TRY(pick_windows(&all, chosen, n, &r->levels[l], err));
        if (l != BB_LEVEL_MEASURE) continue;
        BB_TRY(pick_windows(&all, chosen, n, &r->levels[BB_LEVEL_SKETCH], err));
        score_nearly_all(&r->levels[BB_LEVEL_SKETCH]);
    }
    warn_fewer(r, &all, "second moments (--calib-windows)", c->calib_windows, n_calib);
    warn_fewer(r, &all, "measuring (--measure-windows)", c->measure_windows, r->levels[BB_LEVEL_MEASURE].n);
    warn_fewer(r, &all, "ranking plans (--refine-windows)", c->refine_windows, r->levels[BB_LEVEL_REFINE].n);
    warn_fewer(r, &all, "confirming plans (--confirm-windows)", c->confirm_windows, n_score);
    bb_info("calibration: %u windows; scoring: %u / %u / %u windows of %lld tokens", n_calib, r->levels[0].n, r->levels[1].n, r->levels[2].n, (long long)c->ctx);
done:
    bb_windows_done(&all);
    bb_free(index);
    return status;
}

static bb_status load_calibration(bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    bb_status status = BB_OK;
    if (r->calib_tokens.ids) return BB_OK;
    BB_TRY(bb_calibration_tokens(&r->model, c->calib, c->out, (uint32_t)(c->calib_windows + c->confirm_windows), (uint32_t)c->ctx, (uint64_t)c->seed,
                                 c->parse_special, &r->calib_tokens, err));
    BB_TRY(split_windows(r, err));
done:
    return status;
}

/* ---- create, reopen, close ---- */

static bb_status check_config(const bb_run_config *c, bb_err *err)
{
    if (!c->model || !*c->model) return BB_FAIL(err, BB_USAGE, "no model was given: bitbudget run MODEL.gguf --target-size 3.2MiB");
    bb_status status = bb_ladder_check(c, err);
    if (status != BB_OK) return status;
    if (c->min_speed > 0 && !*c->profile) return BB_FAIL(err, BB_USAGE, "--min-speed needs --profile FILE, which says how fast each format is (configs/profiles)");
    if (c->min_bpw > c->max_bpw) return BB_FAIL(err, BB_USAGE, "--min-bpw %g is above --max-bpw %g", c->min_bpw, c->max_bpw);
    return BB_OK;
}

/* The smallest and the largest size that is asked for, in bits a weight. */
static bb_status asked_bits(bb_run *r, double bits[2], bb_err *err)
{
    const bb_run_config *c = &r->config;
    bb_status            status = BB_OK;
    bits[0] = c->min_bpw;
    bits[1] = c->max_bpw;
    if (!r->is_sweep) bits[0] = bits[1] = c->target_size ? 8 * (double)c->target_size / (double)r->n_weights : c->target_bpw;
    else if (*c->sizes) {
        BB_TRY(listed_sizes(r, err));
        qsort(r->budgets, r->n_budgets, sizeof *r->budgets, by_value);
        bits[0] = 8 * (double)r->budgets[0] / (double)r->n_weights;
        bits[1] = 8 * (double)r->budgets[r->n_budgets - 1] / (double)r->n_weights;
    }
done:
    return status;
}

static bb_status open_parts(bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    bool   width = strcmp(c->prune, "all") == 0 || strcmp(c->prune, "width") == 0;
    bb_model_space_options o = { c->formats, c->embd_formats, width || strcmp(c->prune, "kv") == 0, width || strcmp(c->prune, "ffn") == 0,
                           strcmp(c->prune, "all") == 0, (uint32_t)c->ffn_divisor, (uint32_t)c->screen, { 0, 0 } };
    bb_status status;
    BB_TRY(bb_model_open(c->model, &r->model, err));
    if ((uint32_t)c->ctx > r->model.net.n_ctx_train) {
        bb_warn("--ctx %lld is longer than the model was trained for: %u is used", (long long)c->ctx, r->model.net.n_ctx_train);
        r->config.ctx = r->model.net.n_ctx_train;
    }
    if (bb_model_is_quantized(&r->model)) {
        char label[BB_MODEL_LABEL];
        bb_warn("%s is quantized itself: every KL is measured from this %s, not from full precision", c->model, bb_model_source_label(&r->model, label));
    }
    r->n_weights = bb_model_n_weights(&r->model);
    BB_TRY(asked_bits(r, o.bits, err));
    BB_TRY(bb_model_space_create(&r->model, &o, &r->space, err));
    BB_TRY(choose_budgets(r, err));
done:
    return status;
}

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

static bb_status write_config(const bb_run *r, bb_err *err)
{
    char     *path = bb_run_path(r, err, "config.resolved.yaml"), *out = realpath(r->config.out, NULL);
    bb_text   t = { 0 };
    bb_status status = BB_NOMEM;
    if (!path || !out) goto done;
    bb_text_addf(&t, "# Every option resolved, by bitbudget %s (%s). This repeats the run in a new folder; without --out it goes on in this one:\n#   bitbudget %s ",
                 BB_VERSION, bb_version_commit(), r->is_sweep ? "sweep" : "run");
    add_quoted(&t, r->config.model, "");
    bb_text_add(&t, " --config ");
    add_quoted(&t, out, "/config.resolved.yaml");
    bb_text_add(&t, " --out ");
    add_quoted(&t, out, "-again");
    bb_text_add(&t, "\n");
    bb_options_print_yaml(bb_run_options, BB_RUN_N_OPTIONS, &r->config, &t);
    if (t.status == BB_OK) status = bb_file_write(path, t.data, t.size, err);
done:
    bb_text_done(&t);
    bb_free(path);
    free(out);
    return status;
}

/* One store a run: a second run of another identity in the same directory is refused, not mixed, before the model samples text. */
static bb_status open_store(bb_run *r, bb_err *err)
{
    char     *path = bb_run_path(r, err, "run.db");
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    if (bb_file_exists(path)) {
        BB_TRY(bb_store_open(path, &r->store, err));
        BB_TRY(bb_keys_check(r, err));
    }
    BB_TRY(load_calibration(r, err));
    if (!r->store) BB_TRY(bb_store_open(path, &r->store, err));
    BB_TRY(bb_keys_claim(r, err));
done:
    bb_free(path);
    return status;
}

static bb_status open_directory(bb_run *r, bb_err *err)
{
    char     *log = NULL, *env = NULL;
    bb_status status = BB_NOMEM;
    if (!(log = bb_run_path(r, err, "log.txt")) || !(env = bb_run_path(r, err, "env.json"))) goto done;
    BB_TRY(bb_model_check_weights(&r->model, true, NULL, err));
    BB_TRY(bb_run_enter(r, err));
    BB_TRY(bb_log_to_run(log, err));
    BB_TRY(open_store(r, err));
    BB_TRY(bb_environment_write(env, &r->model, err));
    BB_TRY(write_config(r, err));
done:
    bb_free(log);
    bb_free(env);
    return status;
}

/* Paths in config.resolved.yaml must mean the same from any folder. A file that does not exist is reported when it is opened. */
static bb_status make_absolute(char **path, bb_err *err)
{
    char *found, *copy;
    if (!*path || !**path || strcmp(*path, "self") == 0 || !(found = realpath(*path, NULL))) return BB_OK;
    copy = bb_strdup(found, err);
    free(found);
    if (!copy) return BB_NOMEM;
    bb_free(*path);
    *path = copy;
    return BB_OK;
}

bb_status bb_run_preview(bb_run *r, bb_run_config *config, bool is_sweep, bb_err *err)
{
    bb_status status;
    memset(r, 0, sizeof *r);
    r->config = *config;
    memset(config, 0, sizeof *config);
    r->is_sweep = is_sweep;
    bb_free(r->config.config); /* resolved: it needs no other file */
    r->config.config = NULL;
    BB_TRY(check_config(&r->config, err));
    BB_TRY(make_absolute(&r->config.model, err));
    BB_TRY(make_absolute(&r->config.calib, err));
    BB_TRY(make_absolute(&r->config.eval, err));
    BB_TRY(make_absolute(&r->config.profile, err));
    BB_TRY(open_parts(r, err));
done:
    if (status != BB_OK) bb_run_close(r);
    return status;
}

/* again: one stage of a run that was made before; what the others need is not looked at. */
static bb_status create(bb_run *r, bb_run_config *config, bool is_sweep, bool again, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_run_preview(r, config, is_sweep, err));
    if (!again) BB_TRY(bb_run_check_start(r, err));
    BB_TRY(open_directory(r, err));
    if (!again) BB_TRY(bb_run_check_eval(r, err));
done:
    if (status != BB_OK) bb_run_close(r);
    return status;
}

static bool has_magic(const char *path)
{
    bb_map map = { NULL, 0 };
    bool   gguf = bb_map_open(path, &map, NULL) == BB_OK && map.size >= 4 && memcmp(map.data, "GGUF", 4) == 0;
    bb_map_close(&map);
    return gguf;
}

bb_status bb_run_create(bb_run *r, bb_run_config *config, bool is_sweep, bb_err *err) { return create(r, config, is_sweep, false, err); }

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
        status = BB_FAIL(err, BB_BAD_FILE, "%s is no run directory (%s): make one with `bitbudget run` or `bitbudget sweep`", dir, has_magic(dir) ? "it is a model file" : "it has no run.db");
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

bb_status bb_run_reopen(bb_run *r, const char *dir, bb_err *err)
{
    bb_run_config config = { 0 };
    bool          is_sweep = false;
    char         *path = bb_asprintf(err, "%s/config.resolved.yaml", dir);
    bb_status     status = BB_NOMEM;
    memset(r, 0, sizeof *r);
    if (!path) goto done;
    BB_TRY(read_kind(dir, &is_sweep, err));
    BB_TRY(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &config, err));
    BB_TRY(bb_options_yaml(bb_run_options, BB_RUN_N_OPTIONS, &config, path, err));
    bb_free(config.out);
    if (!(config.out = bb_strdup(dir, err))) { /* the directory may have been moved */
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(create(r, &config, is_sweep, true, err));
done:
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &config);
    bb_free(path);
    return status;
}

void bb_run_close(bb_run *r)
{
    bb_net_evaluator_destroy(r->evaluator);
    bb_database_close(r->database);
    bb_windows_done(&r->calib);
    bb_windows_done(&r->tune);
    for (int l = 0; l < BB_N_WINDOW_SETS; l++) bb_windows_done(&r->levels[l]);
    bb_tokens_done(&r->calib_tokens);
    bb_model_space_destroy(r->space);
    bb_free(r->budgets);
    bb_store_close(r->store);
    bb_lock_release(&r->lock);
    bb_model_close(&r->model);
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &r->config);
    memset(r, 0, sizeof *r);
}

/* ---- calibrate ---- */

bb_status bb_run_evaluator(bb_run *r, bb_err *err)
{
    return r->evaluator ? BB_OK : bb_net_evaluator_create(&r->model, r->levels, BB_N_WINDOW_SETS, r->config.max_ram, &r->evaluator, err);
}

bb_status bb_run_calibrate(bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    char     *dir = NULL;
    bb_status status = BB_NOMEM;
    if (r->database) return BB_OK;
    if (!(dir = *c->database ? bb_strdup(c->database, err) : bb_run_path(r, err, "database"))) return BB_NOMEM;
    bb_database_config config = { .dir = dir, .model = &r->model, .tokens = r->calib.tokens, .n_windows = r->calib.n, .ctx = r->calib.ctx,
                                  .quant = { bb_calibration_method(c->method), c->damping, (unsigned)c->sweeps },
                                  .ffn_step = bb_calibration_ffn_step(&r->model.net) };
    BB_TRY(bb_database_open(&config, &r->database, err));
    BB_TRY(bb_run_evaluator(r, err));
done:
    bb_free(dir);
    return status;
}

/* ---- measure ---- */

/* Builds every option that any plan may use, so that the search only maps files. */
static bb_status build_options(bb_run *r, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_block   *blocks = BB_NEW(r->model.net.n_layer, bb_block, err);
    bb_progress progress;
    uint64_t    total = 0;
    bb_status   status = BB_NOMEM;
    if (!blocks) return BB_NOMEM;
    for (uint32_t i = 0; i < p->n_units; i++) total += p->units[i].n_options;
    bb_progress_start(&progress, "build options", total);
    for (uint32_t i = 0; i < p->n_units; i++)
        for (uint32_t o = 0; o < p->units[i].n_options; o++) {
            bb_plan plan = { 0, NULL };
            bb_net  net;
            status = bb_plan_set(&plan, p->units[i].name, p->units[i].options[o], err);
            if (status == BB_OK) status = bb_database_apply(r->database, &plan, &net, blocks, err);
            bb_plan_done(&plan);
            if (status == BB_OK && bb_interrupted()) status = BB_FAIL(err, BB_INTERRUPTED, "interrupted; the same command goes on");
            if (status != BB_OK) goto done;
            bb_progress_add(&progress, 1);
        }
    bb_progress_end(&progress);
done:
    bb_free(blocks);
    return status;
}

static bb_status write_sensitivity(const bb_run *r, const bb_sensitivity *s, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_csv_writer *w = NULL;
    bb_status      status = BB_NOMEM;
    size_t         k = 0;
    BB_TRY(bb_run_table(r, "sensitivity.csv", "unit,option,bytes,kl_nats,kl_se", &w, err));
    for (uint32_t i = 0; i < p->n_units; i++)
        for (uint32_t o = 0; o < p->units[i].n_options; o++, k++) {
            bb_csv_put_text(w, p->units[i].name);
            bb_csv_put_text(w, p->units[i].options[o]);
            if (bb_is_forbidden(p->units[i].bytes[o])) bb_csv_put_text(w, ""); /* this model's runtime cannot load it */
            else bb_csv_put_int(w, p->units[i].bytes[o]);
            bb_csv_put_double(w, s->changes[k].kl);
            bb_csv_put_double(w, s->changes[k].kl_se);
            bb_csv_end_row(w);
        }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* Every option of every unit: what it costs in bytes, in its matrix and at the end of the network, for curves of rate and distortion. */
static bb_status write_options(const bb_run *r, const bb_sensitivity *s, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_csv_writer *w = NULL;
    bb_status      status = BB_NOMEM;
    size_t         k = 0;
    BB_TRY(bb_run_table(r, "options.csv", "unit,option,bytes,bits_per_weight,error,kl_nats,kl_se", &w, err));
    for (uint32_t i = 0; i < p->n_units; i++)
        for (uint32_t o = 0; o < p->units[i].n_options; o++, k++) {
            const char *name = p->units[i].name, *option = p->units[i].options[o];
            bb_matrix   m;
            double      error;
            BB_TRY(bb_database_option(r->database, name, option, &m, &error, err));
            const bb_format *f = bb_format_find(option); /* NULL: a structure */
            bb_csv_put_text(w, name);
            bb_csv_put_text(w, option);
            bb_csv_put_int(w, p->units[i].bytes[o]);
            bb_csv_put_double(w, f ? bb_format_bpw(f) : (double)NAN);
            bb_csv_put_double(w, error);
            bb_csv_put_double(w, s->changes[k].kl);
            bb_csv_put_double(w, s->changes[k].kl_se);
            bb_csv_end_row(w);
        }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* Costs of the space from the measured single-change KLs, made non-negative. */
static bb_status set_costs(bb_run *r, const bb_sensitivity *s, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    double  *flat = BB_NEW(s->n, double, err);
    const double **rows = BB_NEW(p->n_units, const double *, err);
    size_t   k = 0;
    if (flat && rows) {
        for (size_t i = 0; i < s->n; i++) flat[i] = fmax(0, s->changes[i].kl);
        for (uint32_t i = 0; i < p->n_units; i++) {
            rows[i] = flat + k;
            k += p->units[i].n_options;
        }
        bb_model_space_set_costs(r->space, rows);
    }
    bb_status status = flat && rows ? BB_OK : BB_NOMEM;
    bb_free(flat);
    bb_free(rows);
    return status;
}

bb_status bb_run_load_costs(bb_run *r, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    char     *path = bb_run_path(r, err, "sensitivity.csv");
    size_t    k = 0, n = 0;
    bb_csv    t = { 0 };
    bb_status status = BB_NOMEM;
    for (uint32_t i = 0; i < p->n_units; i++) n += p->units[i].n_options;
    bb_sensitivity s = { .n = n };
    if (!path || !(s.changes = BB_NEW0(n, bb_change, err))) goto done;
    BB_TRY(bb_csv_read(path, &t, err));
    bool right = t.n_rows == n && t.n_cols == 5;
    for (uint32_t i = 0; right && i < p->n_units; i++)
        for (uint32_t o = 0; right && o < p->units[i].n_options; o++, k++) {
            right = strcmp(bb_csv_text(&t, k, 0), p->units[i].name) == 0 && strcmp(bb_csv_text(&t, k, 1), p->units[i].options[o]) == 0;
            if (right) BB_TRY(bb_csv_double(&t, k, 3, &s.changes[k].kl, err));
        }
    if (!right) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s is not of the options that this run has: run `bitbudget measure %s`", path, r->config.out);
        goto done;
    }
    BB_TRY(set_costs(r, &s, err));
done:
    bb_csv_done(&t);
    bb_free(s.changes);
    bb_free(path);
    return status;
}

static bb_status print_floor(const bb_run *r, bb_err *err)
{
    bb_evaluation floor;
    bb_progress   progress;
    bb_status     status;
    bb_progress_start(&progress, "noise floor", 0);
    status = bb_noise_floor(&r->model, r->evaluator, BB_LEVEL_SKETCH, &floor, err);
    bb_progress_end(&progress);
    if (status == BB_OK) bb_info("noise floor of the reference: an F16 copy of the model is %.2g nats a token away", floor.kl);
    return status;
}

bb_status bb_run_measure(bb_run *r, bb_sensitivity *out, bb_err *err)
{
    bb_status status;
    memset(out, 0, sizeof *out);
    bb_run_clock(r, BB_STAGE_CALIBRATE);
    BB_TRY(bb_run_calibrate(r, err));
    bb_run_clock(r, BB_STAGE_BUILD);
    BB_TRY(build_options(r, err));
    bb_run_clock(r, BB_STAGE_MEASURE);
    BB_TRY(print_floor(r, err));
    BB_TRY(bb_run_sensitivity(r, NULL, out, err));
    BB_TRY(write_sensitivity(r, out, err));
    BB_TRY(write_options(r, out, err));
    BB_TRY(set_costs(r, out, err));
done:
    if (status != BB_OK) {
        bb_free(out->changes);
        bb_sensitivity_done(out);
    }
    return status;
}
