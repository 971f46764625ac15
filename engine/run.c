/* SPDX-License-Identifier: GPL-3.0-or-later
 * run.c: the run directory: made, opened again, closed; its clock, its paths and tables. See run.h. */
#include "engine/run.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/calibration.h"
#include "engine/environment.h"
#include "engine/jobs.h"
#include "engine/keys.h"
#include "engine/memory.h"
#include "engine/ranks.h"
#include "engine/run_parts.h"
#include "engine/start.h"
#include "engine/time_budget.h"

void bb_run_clock(bb_run *r, bb_stage stage)
{
    bb_clock    *c = &r->clock;
    const double others = r->crew && r->crew->others_cpu_s ? *r->crew->others_cpu_s : 0;
    const double wall = bb_now_s(), cpu = bb_cpu_s() + others;
    if (c->runs) {
        c->seconds[c->stage] += wall - c->wall;
        c->cpu_seconds[c->stage] += cpu - c->cpu;
        c->peak_bytes[c->stage] = fmax(c->peak_bytes[c->stage], (double)bb_memory_peak());
    }
    bb_mem_trim(); /* what one stage freed is not in the next one's --max-ram */
    bb_memory_peak_reset();
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

bb_status bb_run_table_at(const bb_run *r, const char *elsewhere, const char *name, const char *header, bb_csv_writer **w, bb_err *err)
{
    return *elsewhere ? bb_csv_create(elsewhere, header, w, err) : bb_run_table(r, name, header, w, err);
}

/* ---- create, reopen, close ---- */

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
    BB_TRY(bb_run_open_data(r, err));
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
    BB_TRY(bb_run_config_write(r, err));
done:
    bb_free(log);
    bb_free(env);
    return status;
}

bb_status bb_run_preview(bb_run *r, bb_run_config *config, bool is_sweep, bb_err *err)
{
    bb_status status;
    memset(r, 0, sizeof *r);
    r->config = *config;
    memset(config, 0, sizeof *config);
    r->is_sweep = is_sweep;
    r->backend = bb_engine_backend();
    r->time.started_s = bb_now_s();
    BB_TRY(bb_run_config_resolve(&r->config, err));
    bb_precision_use(r->config.precision, true);
    BB_TRY(bb_run_open_space(r, err));
    BB_TRY(bb_calibration_choose(&r->model, &r->config.calib, err));
done:
    if (status != BB_OK) bb_run_close(r);
    return status;
}

/* again: one stage of a run that was made before; what the others need is not looked at. */
static bb_status create(bb_run *r, bb_run_config *config, bool is_sweep, bool again, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_run_preview(r, config, is_sweep, err));
    if (!again) {
        BB_TRY(bb_run_check_inputs(r, err));
        BB_TRY(bb_time_choose(r, err));
        BB_TRY(bb_run_check_start(r, err));
    }
    BB_TRY(bb_memory_hold(r, err));
    BB_TRY(open_directory(r, err));
    if (bb_spills()) bb_info("hidden states are kept in files of %s while the run works: --max-ram has no room for them", r->config.out);
    if (!again) BB_TRY(bb_time_keep(r, err));
    if (!again) BB_TRY(bb_run_check_eval(r, err));
    BB_TRY(bb_ranks_enter(r, err));
done:
    if (status != BB_OK) bb_run_close(r);
    return status;
}

bb_status bb_run_create(bb_run *r, bb_run_config *config, bool is_sweep, bb_err *err) { return create(r, config, is_sweep, false, err); }

bb_status bb_run_reopen(bb_run *r, const char *dir, bb_err *err)
{
    bb_run_config config = { 0 };
    bool          is_sweep = false;
    bb_status     status;
    memset(r, 0, sizeof *r);
    BB_TRY(bb_run_config_read(dir, &config, &is_sweep, err));
    BB_TRY(create(r, &config, is_sweep, true, err));
done:
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &config);
    return status;
}

bb_status bb_run_follow(bb_run *r, const char *dir, bool is_sweep, bb_err *err)
{
    bb_run_config config = { 0 };
    bb_text       identity = { 0 };
    bb_status     status;
    memset(r, 0, sizeof *r);
    BB_TRY(bb_run_config_follow(dir, &config, err));
    BB_TRY(bb_run_preview(r, &config, is_sweep, err));
    BB_TRY(bb_run_check_inputs(r, err));
    BB_TRY(bb_memory_hold(r, err));
    BB_TRY(bb_run_open_data(r, err));
    BB_TRY(bb_keys_identify(r, &identity, err));
done:
    if (status != BB_OK) bb_run_close(r);
    bb_text_done(&identity);
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &config);
    return status;
}

void bb_run_close(bb_run *r)
{
    bb_ranks_leave(r);
    bb_memory_let_go(r);
    bb_run_forget_measured(&r->sensitivity);
    bb_full_states_done(&r->full_states);
    bb_net_evaluator_destroy(r->evaluator);
    bb_database_close(r->database);
    bb_windows_done(&r->calib);
    bb_windows_done(&r->tune);
    for (int l = 0; l < BB_N_WINDOW_SETS; l++) bb_windows_done(&r->levels[l]);
    bb_tokens_done(&r->calib_tokens);
    bb_model_space_destroy(r->space);
    bb_free(r->budgets);
    bb_free(r->time.chosen);
    bb_store_close(r->store);
    bb_lock_release(&r->lock);
    bb_model_close(&r->model);
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &r->config);
    memset(r, 0, sizeof *r);
}
