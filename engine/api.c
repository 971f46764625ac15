/* SPDX-License-Identifier: GPL-3.0-or-later
 * api.c: the library's interface, include/bitbudget/bitbudget.h: a handle around a run.
 *
 * A call enters and leaves: what the engine needs of the process (GSL's error handler, the locale of the thread, the threads of OpenMP and OpenBLAS,
 * the log's hooks, the flag of interruption) is set at the one and put back at the other. One call at a time, since all of these are the process's.
 * Nothing outside looks at the run between calls, so that a stage that failed half way leaves a closed one behind, as a process that ends does.
 */
#include "include/bitbudget/bitbudget.h"

#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <locale.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpus.h"
#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/effort.h"
#include "engine/environment.h"
#include "engine/estimate.h"
#include "engine/outputs.h"
#include "engine/run_parts.h"
#include "engine/stages.h"
#include "engine/version.h"
#include "kernels/blas.h"

#define X(name, number, exit, text) _Static_assert((int)BITBUDGET_##name == (int)BB_##name, "statuses of the library are the program's");
BB_STATUS_LIST(X)
#undef X

typedef struct setting {
    char *name, *value;
} setting;
typedef struct given {
    const char *name, *value;
} given; /* by the caller */

struct bitbudget {
    char                 *dir;   /* of bitbudget_open_run, or NULL: */
    bb_model              model; /* of bitbudget_open */
    bool                  has_model;
    setting              *settings;
    size_t                n_settings;
    int64_t               threads; /* 0: as many as may run at once (base/cpus.h) */
    bool                  force;
    bitbudget_log_fn      log;
    bitbudget_progress_fn progress;
    void                 *log_self, *progress_self;
    bb_log_hooks          hooks;
    bb_run                run;
    bool                  is_open;
    bb_err                err;
    bitbudget_plan       *plans;
};

/* ---- entering and leaving ---- */

typedef struct outside {
    gsl_error_handler_t *handler;
    locale_t             own, before;
    int                  omp_threads, blas_threads;
    bool                 forced;
} outside;

static atomic_bool          busy;
static _Atomic(bitbudget *) active;

static void on_line(void *self, bb_log_level level, const char *text)
{
    const bitbudget *b = self;
    if (b->log) b->log(b->log_self, (bitbudget_log_level)level, text);
}

static void on_progress(void *self, const bb_progress *outer, const char *text)
{
    const bitbudget         *b = self;
    const bitbudget_progress p = { outer->label, text, outer->done, outer->total, bb_now_s() - outer->started_s };
    if (b->progress && b->progress(b->progress_self, &p) != 0) bb_interrupt_raise();
}

/* The log of an open run goes on; between calls it is closed. */
static void open_log(bitbudget *b)
{
    char *path = b->is_open ? bb_run_path(&b->run, NULL, "log.txt") : NULL;
    if (path) (void)bb_log_to_run(path, NULL); /* where it cannot be written the work goes on without */
    bb_free(path);
}

/* Refuses a second call; after true, leave() is to be called. */
static bool enter(bitbudget *b, outside *o)
{
    if (atomic_exchange(&busy, true)) return false;
    bb_err_clear(&b->err);
    bb_interrupt_clear();
    atomic_store(&active, b);
    o->handler = gsl_set_error_handler_off();
    o->own = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* numbers are written with a point */
    o->before = o->own ? uselocale(o->own) : (locale_t)0;
    o->omp_threads = omp_get_max_threads();
    omp_set_num_threads(b->threads ? (int)b->threads : bb_cpus_threads(o->omp_threads));
    o->blas_threads = bb_blas_pin();
    bb_precision_use(b->is_open ? b->run.config.precision : "exact", false);
    o->forced = bb_outputs_forced();
    bb_outputs_force(b->force);
    b->hooks = (bb_log_hooks) { on_line, on_progress, b };
    bb_log_set_hooks(&b->hooks);
    open_log(b);
    return true;
}

static bitbudget_status leave(bitbudget *b, const outside *o, bb_status status)
{
    if (status != BB_OK && b->err.status == BB_OK) BB_FAIL(&b->err, status, "%s", bb_status_text(status));
    if (status != BB_OK) {
        bb_log_failure(b->err.msg);
        if (b->is_open) bb_run_close(&b->run);
        b->is_open = false;
    }
    bb_log_to_run(NULL, NULL);
    bb_log_set_hooks(NULL);
    bb_precision_use("exact", false);
    bb_outputs_force(o->forced);
    bb_blas_unpin(o->blas_threads);
    omp_set_num_threads(o->omp_threads);
    if (o->own) {
        uselocale(o->before);
        freelocale(o->own);
    }
    gsl_set_error_handler(o->handler);
    atomic_store(&active, NULL);
    bb_interrupt_clear();
    atomic_store(&busy, false);
    return (bitbudget_status)status;
}

/* The whole of a call: its work between entering and leaving. */
typedef bb_status (*work)(bitbudget *b, void *self, bb_err *err);

static bitbudget_status call(bitbudget *b, work f, void *self)
{
    outside o;
    if (!b) return BITBUDGET_USAGE;
    if (!enter(b, &o)) return BITBUDGET_BUSY;
    return leave(b, &o, f(b, self, &b->err));
}

void bitbudget_cancel(bitbudget *b)
{
    if (b && atomic_load(&active) == b) bb_interrupt_raise();
}

const char *bitbudget_version(void) { return BB_VERSION; }

const char *bitbudget_status_text(bitbudget_status status)
{
    return status == BITBUDGET_BUSY ? "another call of the library is in progress" : bb_status_text((bb_status)status);
}

const char *bitbudget_message(const bitbudget *b) { return b ? b->err.msg : "there is no handle"; }

/* ---- opening and closing ---- */

static bitbudget_status open_with(work f, const char *path, bitbudget **out)
{
    bitbudget       *b;
    bitbudget_status status;
    if (!out) return BITBUDGET_USAGE;
    if (!(*out = b = BB_NEW0(1, bitbudget, NULL))) return BITBUDGET_NOMEM;
    b->err = (bb_err)BB_ERR_INIT;
    status = call(b, f, &path);
    if (status == BITBUDGET_BUSY) BB_FAIL(&b->err, BB_FAILED, "%s", bitbudget_status_text(status));
    return status;
}

static bb_status open_model(bitbudget *b, void *self, bb_err *err)
{
    const char *path = *(const char **)self;
    if (!path || !*path) return BB_FAIL(err, BB_USAGE, "no model file was named");
    const bb_status status = bb_model_open(path, &b->model, err);
    b->has_model = status == BB_OK;
    return status;
}

static bb_status open_dir(bitbudget *b, void *self, bb_err *err)
{
    const char   *dir = *(const char **)self;
    bb_run_config c = { 0 };
    bool          is_sweep;
    bb_status     status;
    if (!dir || !*dir) return BB_FAIL(err, BB_USAGE, "no run directory was named");
    BB_TRY(bb_run_config_read(dir, &c, &is_sweep, err));
    BB_TRY(bb_model_open(c.model, &b->model, err));
    b->has_model = true;
    if (!(b->dir = bb_strdup(dir, err))) status = BB_NOMEM;
done:
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &c);
    return status;
}

bitbudget_status bitbudget_open(const char *model_path, bitbudget **out) { return open_with(open_model, model_path, out); }
bitbudget_status bitbudget_open_run(const char *run_dir, bitbudget **out) { return open_with(open_dir, run_dir, out); }

void bitbudget_close(bitbudget *b)
{
    if (!b) return;
    if (b->is_open) bb_run_close(&b->run);
    if (b->has_model) bb_model_close(&b->model);
    for (size_t i = 0; i < b->n_settings; i++) {
        bb_free(b->settings[i].name);
        bb_free(b->settings[i].value);
    }
    bb_free(b->settings);
    bb_free(b->plans);
    bb_free(b->dir);
    bb_free(b);
}

/* ---- options ---- */

/* An open run is of the options before. */
static void changed(bitbudget *b)
{
    if (b->is_open) bb_run_close(&b->run);
    b->is_open = false;
}

static void forget(bitbudget *b, const char *name)
{
    size_t kept = 0;
    for (size_t i = 0; i < b->n_settings; i++) {
        if (strcmp(b->settings[i].name, name) != 0) {
            b->settings[kept++] = b->settings[i];
            continue;
        }
        bb_free(b->settings[i].name);
        bb_free(b->settings[i].value);
    }
    b->n_settings = kept;
}

static bb_status remember(bitbudget *b, const char *name, const char *value, bb_err *err)
{
    setting *grown = bb_realloc(b->settings, b->n_settings + 1, sizeof *grown, err), s;
    if (!grown) return BB_NOMEM;
    b->settings = grown;
    s.name = bb_strdup(name, err);
    s.value = bb_strdup(value, err);
    if (!s.name || !s.value) {
        bb_free(s.name);
        bb_free(s.value);
        return BB_NOMEM;
    }
    forget(b, name);
    b->settings[b->n_settings++] = s;
    changed(b);
    return BB_OK;
}

static bb_status set_global(bitbudget *b, const given *s, bool *done, bb_err *err)
{
    const bool threads = strcmp(s->name, "threads") == 0, force = strcmp(s->name, "force") == 0;
    int64_t    n = 0;
    *done = threads || force;
    if (threads && (bb_parse_int(s->value, &n, NULL) != BB_OK || n < 1 || n > 4096))
        return BB_FAIL(err, BB_USAGE, "threads: '%.40s' should be a whole number from 1 to 4096", s->value);
    if (threads) b->threads = n;
    if (force && strcmp(s->value, "true") != 0 && strcmp(s->value, "false") != 0)
        return BB_FAIL(err, BB_USAGE, "force: '%.40s' should be true or false", s->value);
    if (force) b->force = strcmp(s->value, "true") == 0;
    return BB_OK;
}

static bb_status set(bitbudget *b, void *self, bb_err *err)
{
    static const char *const other[] = { "model", "config", "json", "time" }; /* of the command line alone */
    const given             *s = self;
    bb_run_config            scratch = { 0 };
    bool                     done = false;
    bb_status                status;
    if (!s->name || !s->value) return BB_FAIL(err, BB_USAGE, "an option needs a name and a value");
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (strcmp(s->name, other[i]) == 0) return BB_FAIL(err, BB_USAGE, "the option '%s' is of the command line alone", s->name);
    BB_TRY(set_global(b, s, &done, err));
    if (done) goto done;
    BB_TRY(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &scratch, err));
    BB_TRY(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &scratch, s->name, s->value, err));
    BB_TRY(remember(b, s->name, s->value, err));
done:
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &scratch);
    return status;
}

bitbudget_status bitbudget_set(bitbudget *b, const char *option, const char *value) { return call(b, set, &(given) { option, value }); }

typedef struct sizes {
    const uint64_t *bytes;
    size_t          n;
    bool            one;
} sizes;

/* What was said of sizes before holds no longer: the options are taken back to what says nothing. */
static bb_status set_sizes(bitbudget *b, void *self, bb_err *err)
{
    const sizes *s = self;
    bb_text      list = { 0 };
    bb_status    status;
    if (s->n && !s->bytes) return BB_FAIL(err, BB_USAGE, "%zu sizes were announced and none was given", s->n);
    for (size_t i = 0; i < s->n; i++) {
        if (s->bytes[i] == 0 || s->bytes[i] > INT64_MAX) {
            bb_text_done(&list);
            return BB_FAIL(err, BB_USAGE, "%llu is no size in bytes", (unsigned long long)s->bytes[i]);
        }
        bb_text_addf(&list, "%s%llu", i ? "," : "", (unsigned long long)s->bytes[i]);
    }
    BB_TRY(list.status);
    BB_TRY(remember(b, "target-bpw", "0", err));
    BB_TRY(remember(b, "target-size", s->one ? list.data : "0", err));
    BB_TRY(remember(b, "sizes", s->one || !s->n ? "" : list.data, err));
done:
    bb_text_done(&list);
    return status;
}

bitbudget_status bitbudget_set_budget(bitbudget *b, uint64_t bytes) { return call(b, set_sizes, &(sizes) { &bytes, 1, true }); }
bitbudget_status bitbudget_set_sizes(bitbudget *b, const uint64_t *bytes, size_t n) { return call(b, set_sizes, &(sizes) { bytes, n, false }); }

/* The options as the program would resolve them: defaults < the run directory's < effort < what was set. */
static bb_status resolve(const bitbudget *b, bb_run_config *c, bool *is_sweep, bb_err *err)
{
    bb_status status;
    memset(c, 0, sizeof *c);
    if (b->dir) BB_TRY(bb_run_config_read(b->dir, c, is_sweep, err));
    else {
        BB_TRY(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, c, err));
        BB_TRY(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, c, "model", b->model.path, err));
    }
    for (size_t i = 0; i < b->n_settings; i++)
        if (strcmp(b->settings[i].name, "effort") == 0) BB_TRY(bb_effort_apply(bb_run_options, BB_RUN_N_OPTIONS, c, b->settings[i].value, err));
    for (size_t i = 0; i < b->n_settings; i++) BB_TRY(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, c, b->settings[i].name, b->settings[i].value, err));
    if (c->target_size && c->target_bpw > 0) {
        status = BB_FAIL(err, BB_USAGE, "target-size and target-bpw %g both say how large the file may be: set one (0 takes the other back)", c->target_bpw);
        goto done;
    }
    *is_sweep = c->target_size == 0 && c->target_bpw <= 0;
done:
    return status;
}

/* The program's default folder is none of the library's. */
static bool has_out(const bitbudget *b)
{
    bool has = b->dir != NULL;
    for (size_t i = 0; i < b->n_settings; i++) has |= strcmp(b->settings[i].name, "out") == 0;
    return has;
}

/* ---- hearing of it ---- */

bitbudget_status bitbudget_on_log(bitbudget *b, bitbudget_log_fn f, void *self)
{
    if (!b) return BITBUDGET_USAGE;
    if (atomic_load(&active) == b) return BITBUDGET_BUSY;
    b->log = f;
    b->log_self = self;
    return BITBUDGET_OK;
}

bitbudget_status bitbudget_on_progress(bitbudget *b, bitbudget_progress_fn f, void *self)
{
    if (!b) return BITBUDGET_USAGE;
    if (atomic_load(&active) == b) return BITBUDGET_BUSY;
    b->progress = f;
    b->progress_self = self;
    return BITBUDGET_OK;
}

/* ---- before a run ---- */

static bb_status no_model(bb_err *err) { return BB_FAIL(err, BB_USAGE, "no model is open: opening it failed"); }

static bb_status no_directory(bb_err *err) { return BB_FAIL(err, BB_USAGE, "there is no run directory: set the option \"out\""); }

static void copy_text(char *out, size_t size, const bb_source *g, const char *key)
{
    bb_bytes text = { NULL, 0 };
    bool     found = false;
    *out = '\0';
    if (bb_source_text(g, key, &text, &found, NULL) == BB_OK && found) snprintf(out, size, "%.*s", (int)(text.size < size ? text.size : size - 1), text.data);
}

static bb_status inspect(bitbudget *b, void *self, bb_err *err)
{
    bitbudget_model *out = *(bitbudget_model **)self;
    char             label[BB_MODEL_LABEL];
    if (!b->has_model) return no_model(err);
    if (!out) return BB_FAIL(err, BB_USAGE, "there is no place for what the model is");
    memset(out, 0, sizeof *out);
    copy_text(out->architecture, sizeof out->architecture, &b->model.source, "general.architecture");
    copy_text(out->name, sizeof out->name, &b->model.source, "general.name");
    snprintf(out->precision, sizeof out->precision, "%s", bb_model_source_label(&b->model, label));
    out->bytes = b->model.source.size_bytes;
    out->n_weights = bb_model_n_weights(&b->model);
    out->bits_per_weight = out->n_weights ? 8 * (double)out->bytes / (double)out->n_weights : 0;
    out->n_layer = b->model.net.n_layer;
    out->n_embd = b->model.net.n_embd;
    out->n_vocab = b->model.net.n_vocab;
    out->n_ctx = b->model.net.n_ctx_train;
    return BB_OK;
}

bitbudget_status bitbudget_inspect(bitbudget *b, bitbudget_model *out) { return call(b, inspect, &out); }

static bb_status estimate(bitbudget *b, void *self, bb_err *err)
{
    bitbudget_forecast *out = *(bitbudget_forecast **)self;
    bb_run_config       c = { 0 };
    bb_run              r = { 0 };
    bb_forecast         f;
    bool                is_sweep;
    bb_status           status;
    if (!b->has_model) return no_model(err);
    if (!out) return BB_FAIL(err, BB_USAGE, "there is no place for the estimate");
    memset(out, 0, sizeof *out);
    BB_TRY(resolve(b, &c, &is_sweep, err));
    BB_TRY(bb_run_preview(&r, &c, is_sweep, err));
    BB_TRY(bb_estimate(&r, &f, err));
    *out = (bitbudget_forecast) { f.smallest, f.largest, f.ram,      f.disk,     f.calibrate + f.measure + f.search + f.finalise,
                                  f.sum,      f.sum_low, f.sum_high, r.n_budgets };
done:
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &c);
    bb_run_close(&r);
    return status;
}

bitbudget_status bitbudget_estimate(bitbudget *b, bitbudget_forecast *out) { return call(b, estimate, &out); }

/* ---- stages ---- */

static bb_status open_run(bitbudget *b, bb_err *err)
{
    bb_run_config c = { 0 };
    bool          is_sweep = false;
    bb_status     status = BB_OK;
    if (b->is_open) return BB_OK;
    if (!b->has_model) return no_model(err);
    if (!has_out(b)) return no_directory(err);
    if (b->dir && !b->n_settings) BB_TRY(bb_run_reopen(&b->run, b->dir, err));
    else {
        BB_TRY(resolve(b, &c, &is_sweep, err));
        BB_TRY(bb_run_create(&b->run, &c, is_sweep, err));
    }
    b->is_open = true;
done:
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &c);
    return status;
}

static bb_status run_all(bitbudget *b, void *self, bb_err *err)
{
    bb_status status;
    (void)self;
    BB_TRY(open_run(b, err));
    BB_TRY(bb_run_all(&b->run, err));
done:
    return status;
}

bitbudget_status bitbudget_run(bitbudget *b) { return call(b, run_all, NULL); }

static bb_status run_stage(bitbudget *b, void *self, bb_err *err)
{
    const char    *name = *(const char **)self;
    const bb_stage stage = name ? bb_stage_find(name) : BB_STAGE_NONE;
    bb_status      status;
    if (stage == BB_STAGE_NONE) return BB_FAIL(err, BB_USAGE, "there is no stage '%.60s': bitbudget_stage_name lists them", name ? name : "");
    BB_TRY(open_run(b, err));
    BB_TRY(bb_stage_run(&b->run, stage, err));
done:
    return status;
}

bitbudget_status bitbudget_run_stage(bitbudget *b, const char *stage) { return call(b, run_stage, &stage); }

const char *bitbudget_stage_name(size_t i) { return i < BB_N_STAGE_ROWS ? bb_stages[i].name : NULL; }

/* ---- after a run ---- */

typedef struct front {
    const bitbudget_plan **plans;
    size_t                *n;
} front;

/* The hash of the winner in plan.json; "" where there is none. */
static bb_status read_winner(const char *dir, char hash[24], bb_err *err)
{
    char       *path = bb_asprintf(err, "%s/plan.json", dir), *text = NULL;
    size_t      size = 0;
    json_t     *root = NULL;
    const char *value;
    bb_status   status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_file_read(path, &text, &size, err));
    root = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    value = json_string_value(json_object_get(root, "plan_hash"));
    if (!value) status = BB_FAIL(err, BB_BAD_FILE, "%s: no object with a \"plan_hash\"", path);
    else snprintf(hash, 24, "%s", value);
done:
    json_decref(root);
    bb_free(text);
    bb_free(path);
    return status;
}

static bb_status read_row(const bb_csv *t, size_t row, const char *winner, bitbudget_plan *p, bb_err *err)
{
    enum { HASH, SIZE, BPW, KL, KL_SE, PPL, PPL_SE, TOP1, PRUNED, SOURCE, N };
    static const char *const names[N] = { "plan_hash", "size_bytes", "bpw", "kl_nats", "kl_se", "ppl", "ppl_se", "top1", "pruned_fraction", "source" };
    double                   v[N] = { 0 };
    long                     at[N];
    bb_status                status = BB_OK;
    for (int i = 0; i < N; i++) {
        if ((at[i] = bb_csv_column(t, names[i])) < 0) return BB_FAIL(err, BB_BAD_FILE, "%s: the column '%s' is missing from the header", t->path, names[i]);
        if (i != HASH && i != SOURCE) BB_TRY(bb_csv_double(t, row, (size_t)at[i], &v[i], err));
    }
    *p = (bitbudget_plan) { .bytes = v[SIZE] > 0 ? (uint64_t)v[SIZE] : 0,
                            .bits_per_weight = v[BPW],
                            .kl = v[KL],
                            .kl_se = v[KL_SE],
                            .perplexity = v[PPL],
                            .perplexity_se = v[PPL_SE],
                            .same_top = v[TOP1],
                            .pruned = v[PRUNED] };
    snprintf(p->hash, sizeof p->hash, "%s", bb_csv_text(t, row, (size_t)at[HASH]));
    snprintf(p->source, sizeof p->source, "%s", bb_csv_text(t, row, (size_t)at[SOURCE]));
    p->is_source = strcmp(p->hash, "-") == 0;
    p->is_winner = *winner && strcmp(p->hash, winner) == 0;
done:
    return status;
}

static bb_status read_front(bitbudget *b, void *self, bb_err *err)
{
    const front  *f = self;
    bb_run_config c = { 0 };
    bb_csv        t = { 0 };
    char         *path = NULL, winner[24] = "";
    bool          is_sweep;
    bb_status     status;
    if (!f->plans || !f->n) return BB_FAIL(err, BB_USAGE, "there is no place for the front");
    *f->plans = NULL;
    *f->n = 0;
    if (!b->has_model) return no_model(err);
    if (!has_out(b)) return no_directory(err);
    BB_TRY(resolve(b, &c, &is_sweep, err));
    status = BB_NOMEM;
    if (!(path = bb_asprintf(err, "%s/front.csv", c.out))) goto done;
    if (!bb_file_exists(path)) {
        status = BB_FAIL(err, BB_NOT_FOUND, "%s does not exist: nothing was evaluated there yet", path);
        goto done;
    }
    BB_TRY(bb_csv_read(path, &t, err));
    BB_TRY(read_winner(c.out, winner, err));
    bb_free(b->plans);
    status = BB_NOMEM;
    if (!(b->plans = BB_NEW0(t.n_rows + 1, bitbudget_plan, err))) goto done;
    for (size_t i = 0; i < t.n_rows; i++) BB_TRY(read_row(&t, i, winner, &b->plans[i], err));
    *f->plans = b->plans;
    *f->n = t.n_rows;
    status = BB_OK;
done:
    bb_csv_done(&t);
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &c);
    bb_free(path);
    return status;
}

bitbudget_status bitbudget_front(bitbudget *b, const bitbudget_plan **plans, size_t *n) { return call(b, read_front, &(front) { plans, n }); }

typedef struct export { const char *plan, *path; }
export;

static bb_status export_plan(bitbudget *b, void *self, bb_err *err)
{
    const export *e = self;
    char          winner[24] = "";
    bb_status     status;
    if (!e->path || !*e->path) return BB_FAIL(err, BB_USAGE, "no file was named to export to");
    BB_TRY(open_run(b, err));
    if (!e->plan) BB_TRY(read_winner(b->run.config.out, winner, err));
    const bb_run_config *c = &b->run.config;
    const bb_input       inputs[] = { { "the source model", c->model }, { "the calibration text", c->calib }, { "the evaluation text", c->eval } };
    BB_TRY(bb_output_check("the exported file", e->path, BB_OUTPUT_MODEL, NULL, inputs, 3, err));
    BB_TRY(bb_run_export(&b->run, e->plan ? e->plan : winner, e->path, NULL, err));
done:
    return status;
}

bitbudget_status bitbudget_export(bitbudget *b, const char *plan, const char *path) { return call(b, export_plan, &(export) { plan, path }); }
