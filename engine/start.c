/* SPDX-License-Identifier: GPL-3.0-or-later
 * start.c: see start.h. */
#include "engine/start.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/calibration.h"
#include "engine/outputs.h"
#include "engine/estimate.h"
#include "engine/memory.h"
#include "engine/search_context.h"
#include "engine/speed.h"

typedef struct input {
    const char *what, *path;
} input;

/* Every file that the run reads. The paths are borrowed from the options and from *texts, those of --calib. */
typedef struct inputs {
    bb_calibration_source *texts;
    size_t                 n_texts, n;
    input                 *in; /* [n] */
} inputs;

static bb_status inputs_of(const bb_run_config *c, inputs *out, bb_err *err)
{
    bb_status status;
    *out = (inputs) { 0 };
    BB_TRY(bb_calibration_sources(c->calib, &out->texts, &out->n_texts, err));
    status = BB_NOMEM;
    if (!(out->in = BB_NEW(out->n_texts + 3, input, err))) goto done;
    out->in[out->n++] = (input) { "the source model", c->model };
    for (size_t i = 0; i < out->n_texts; i++)
        if (out->texts[i].path) out->in[out->n++] = (input) { "the calibration text", out->texts[i].path };
    out->in[out->n++] = (input) { "the evaluation text", c->eval };
    out->in[out->n++] = (input) { "the runtime profile", c->profile };
    status = BB_OK;
done:
    return status;
}

static void inputs_done(inputs *i)
{
    bb_calibration_sources_done(i->texts, i->n_texts);
    bb_free(i->in);
}

/* config.resolved.yaml and the tables hold the paths as text. */
static bb_status check_text(const char *option, const char *path, bb_err *err)
{
    json_t *text = json_string(path);
    json_decref(text);
    return text ? BB_OK : BB_FAIL(err, BB_USAGE, "%s %s: the name is no UTF-8 text, which the files of a run cannot hold: give it another one", option, path);
}

static bb_status check_readable(const char *what, const char *path, bb_err *err)
{
    bb_map    map;
    bb_err    why = BB_ERR_INIT;
    bb_status status = bb_map_open(path, &map, &why);
    if (status != BB_OK) return BB_FAIL(err, status, "%s (%s)", why.msg, what);
    bb_map_close(&map);
    return BB_OK;
}

/* The folder is new, empty, or a run's: run.lock is the first thing that a run writes. */
static bb_status check_folder(const char *dir, bb_err *err)
{
    char     *lock = bb_asprintf(err, "%s/run.lock", dir), *store = bb_asprintf(err, "%s/run.db", dir);
    bb_status status = lock && store ? BB_OK : BB_NOMEM;
    bool      other = false;
    if (status == BB_OK && !bb_outputs_forced() && !bb_file_exists(store) && !bb_file_exists(lock)) {
        DIR *d = opendir(dir);
        for (struct dirent *e; d && (e = readdir(d));) other |= strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
        if (d) closedir(d);
        if (other) status = BB_FAIL(err, BB_USAGE, "--out %s: is not empty and holds no run: choose another folder, or use it with --force", dir);
    }
    bb_free(lock);
    bb_free(store);
    return status;
}

/* Names that a run gives to files in its folder, so that none of them is one of its inputs. */
static bb_status check_overwriting(const char *dir, const inputs *in, bb_err *err)
{
    static const char *const names[] = { "model.gguf",   "run.db",          "run.lock",        "calib-self.u32", "config.resolved.yaml",
                                         "env.json",     "log.txt",         "plan.json",       "guard.json",     "report.html",
                                         "front.csv",    "plans.csv",       "baselines.csv",   "layers.csv",     "sensitivity.csv",
                                         "finalise.csv", "convergence.csv", "certificate.csv", "crossover.csv",  "speed.csv",
                                         "settle.csv",   "domains.csv" };
    bb_status                status = BB_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = bb_asprintf(err, "%s/%s", dir, names[i]);
        if (!path) return BB_NOMEM;
        for (size_t k = 0; k < in->n && status == BB_OK; k++)
            if (*in->in[k].path && bb_file_same(path, in->in[k].path))
                status = BB_FAIL(err, BB_USAGE, "--out %s: the run would overwrite %s, which is %s: choose another folder", dir, path, in->in[k].what);
        bb_free(path);
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

static uint64_t bytes_in(const char *dir)
{
    uint64_t    bytes = 0;
    struct stat st;
    DIR        *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) bytes += (uint64_t)st.st_size;
    if (d) closedir(d);
    return bytes;
}

/* Refuses when what is surely written does not fit; warns when all that may be written does not. What earlier sessions wrote is there already. */
static bb_status check_room(const bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    char                *database = *c->database ? bb_strdup(c->database, err) : bb_run_path(r, err, "database"), *models = bb_run_path(r, err, "models");
    uint64_t             options = bb_estimate_disk(r), states = bb_memory_spilled(r), files = 0, there, room = 0, room_out = 0;
    char                 need[32], have[32];
    bb_status            status = BB_NOMEM;
    if (!database || !models) goto done;
    status = BB_OK;
    for (size_t i = 0; i < r->n_budgets; i++) files += (uint64_t)r->budgets[i];
    there = bytes_in(database);
    options = options > there ? options - there : 0;
    there = bytes_in(models);
    files = files > there ? files - there : 0;
    if (bb_free_space(database, &room, NULL) != BB_OK || bb_free_space(c->out, &room_out, NULL) != BB_OK) goto done;
    if (options > room) {
        bb_format_size(options, need);
        bb_format_size(room, have);
        status = BB_FAIL(err, BB_IO,
                         "%s: the option database and the second moments need %llu bytes (%s), and there is room for %llu (%s): give another folder "
                         "with --database or --out, or fewer --formats",
                         database, (unsigned long long)options, need, (unsigned long long)room, have);
    } else if (files > room_out || options + 2 * files + states > room_out) {
        bb_format_size(options + 2 * files + states, need);
        bb_format_size(room_out, have);
        bb_warn("%s: the run may need %llu bytes (%s), and there is room for %llu (%s)", c->out, (unsigned long long)(options + 2 * files + states), need,
                (unsigned long long)room_out, have);
    }
done:
    bb_free(database);
    bb_free(models);
    return status;
}

bb_status bb_run_check_inputs(const bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    inputs               in;
    bb_status            status;
    BB_TRY(inputs_of(c, &in, err));
    for (size_t k = 0; k < in.n; k++) BB_TRY(check_text(in.in[k].what, in.in[k].path, err));
    for (size_t k = 1; k < in.n; k++)
        if (*in.in[k].path) BB_TRY(check_readable(in.in[k].what, in.in[k].path, err));
    if (*c->profile) {
        bb_speed speed;
        BB_TRY(bb_speed_load(r->space, c->profile, &speed, err));
        bb_speed_done(&speed);
    }
done:
    inputs_done(&in);
    return status;
}

bb_status bb_run_check_start(bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    inputs               in;
    bb_err               why = BB_ERR_INIT;
    bb_status            status;
    BB_TRY(inputs_of(c, &in, err));
    BB_TRY(check_text("--out", c->out, err));
    BB_TRY(check_text("--database", c->database, err));
    BB_TRY(bb_run_check_inputs(r, err));
    if ((status = bb_folder_check_output(c->out, &why)) != BB_OK) {
        BB_FAIL(err, status, "--out %s", why.msg);
        goto done;
    }
    BB_TRY(check_folder(c->out, err));
    BB_TRY(check_overwriting(c->out, &in, err));
    if (*c->database && (status = bb_folder_check_output(c->database, &why)) != BB_OK) {
        BB_FAIL(err, status, "--database %s", why.msg);
        goto done;
    }
    if ((status = bb_run_search_check(r, bb_method_named(c->search), &why)) != BB_OK) {
        BB_FAIL(err, status, "--search %s: %s", c->search, why.msg);
        goto done;
    }
    BB_TRY(bb_memory_check(r, err));
    BB_TRY(check_room(r, err));
    bb_memory_warn_of_training(r);
done:
    inputs_done(&in);
    return status;
}

bb_status bb_run_check_eval(bb_run *r, bb_err *err)
{
    bb_windows w = { 0 };
    bb_err     why = BB_ERR_INIT;
    char       hash[65];
    bb_status  status;
    if (!*r->config.eval) return BB_OK;
    status = bb_run_eval_windows(r, &w, hash, &why);
    bb_windows_done(&w);
    if (status == BB_OK) return BB_OK;
    return strstr(why.msg, r->config.eval) ? BB_FAIL(err, status, "%s", why.msg) : BB_FAIL(err, status, "%s: %s", r->config.eval, why.msg);
}

bb_status bb_run_enter(bb_run *r, bb_err *err)
{
    static const char *const folders[] = { "", "models", "plans", "plots", "database" };
    char                    *lock = bb_run_path(r, err, "run.lock");
    bb_status                status = BB_NOMEM;
    if (!lock) return BB_NOMEM;
    BB_TRY(bb_make_dirs(r->config.out, err));
    BB_TRY(bb_lock_take(&r->lock, lock, err));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char *dir = bb_run_path(r, err, "%s", folders[i]);
        if (!dir) {
            status = BB_NOMEM;
            goto done;
        }
        bb_folder_clean(dir);
        bb_free(dir);
    }
done:
    bb_free(lock);
    return status;
}
