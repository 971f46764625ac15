/* SPDX-License-Identifier: GPL-3.0-or-later
 * finalise.c: the ladder of steps that may help, for every plan at a size that was asked for, simple ones alike: models/HASH.gguf; export of one plan; verify.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/run/front.h"
#include "cli/run/ladder.h"
#include "cli/run/run.h"
#include "model/export/export.h"

/* ---- finalise ---- */

static bb_status score_confirm(bb_run *r, const bb_net *net, double *kl, bb_err *err)
{
    bb_evaluation v;
    bb_status     status = bb_net_evaluator_score(r->evaluator, net, BB_LEVEL_CONFIRM, &v, NULL, err);
    *kl = v.kl;
    return status;
}

/* Records are kept by plan and by what finalise was asked to do ("each": of every plan, simple ones too, which once was not so); bb_free. */
static char *record_key(const bb_run *r, const char *hash, bb_err *err)
{
    char *settings = bb_ladder_settings(&r->config, err), *key = settings ? bb_asprintf(err, "%s each %s", hash, settings) : NULL;
    bb_free(settings);
    return key;
}

static bb_status load_record(bb_run *r, const char *hash, bb_ladder_record *record, bool *found, bb_err *err)
{
    char     *key = record_key(r, hash, err);
    void     *value = NULL;
    size_t    size = 0;
    bb_status status = BB_NOMEM;
    if (!key) return BB_NOMEM;
    BB_TRY(bb_store_get(r->store, "finalise", key, &value, &size, found, err));
    *found = *found && size == sizeof *record;
    if (*found) memcpy(record, value, sizeof *record);
done:
    bb_free(value);
    bb_free(key);
    return status;
}

static bb_status save_record(bb_run *r, const char *hash, const bb_ladder_record *record, bb_err *err)
{
    char     *key = record_key(r, hash, err);
    bb_status status = key ? bb_store_put(r->store, "finalise", key, record, sizeof *record, err) : BB_NOMEM;
    bb_free(key);
    return status;
}

/* Writes models/HASH.gguf from the best network of the ladder: the same ladder for every plan, so that the guard compares equals. */
static bb_status finalise_one(bb_run *r, const bb_front_plan *p, bb_err *err)
{
    bb_ladder_record record;
    bb_tuned         net = { 0 };
    uint64_t         bytes;
    bool             found;
    char            *path = bb_run_path(r, err, "models/%s.gguf", p->hash), *dir = bb_run_path(r, err, "models");
    bb_status        status = BB_NOMEM;
    if (!path || !dir) goto done;
    BB_TRY(bb_make_dirs(dir, err));
    BB_TRY(load_record(r, p->hash, &record, &found, err));
    if (found && bb_file_exists(path)) goto done;
    BB_TRY(bb_ladder_run(r, &p->plan, !r->config.no_finalise, NULL, NULL, &net, &record, err));
    BB_TRY(bb_export_write(&r->model, &net.net, p->hash, path, err));
    BB_TRY(bb_file_size(path, &bytes, err));
    if (bytes != (uint64_t)p->size_bytes) {
        status = BB_FAIL(err, BB_GUARD, "%s has %llu bytes, the plan was counted at %lld: the size model and the exporter disagree", path,
                         (unsigned long long)bytes, (long long)p->size_bytes);
        goto done;
    }
    BB_TRY(save_record(r, p->hash, &record, err));
done:
    bb_tuned_done(&net);
    bb_free(path);
    bb_free(dir);
    return status;
}

static bb_status write_finalise_csv(bb_run *r, const bb_front *front, bb_err *err)
{
    bb_csv_writer *w = NULL;
    bb_status      status = BB_NOMEM;
    BB_TRY(bb_run_table(r, "finalise.csv", "plan_hash,size_bytes,step,kl_nats,kept,source", &w, err));
    for (size_t i = 0; i < front->n; i++) {
        bool             found;
        bb_ladder_record record;
        BB_TRY(load_record(r, front->plans[i].hash, &record, &found, err));
        for (int k = 0; found && k < BB_N_RUNGS; k++) {
            if (isnan(record.kl[k])) continue;
            bb_csv_put_text(w, front->plans[i].hash);
            bb_csv_put_int(w, front->plans[i].size_bytes);
            bb_csv_put_text(w, bb_rung_names[k]);
            bb_csv_put_double(w, record.kl[k]);
            bb_csv_put_int(w, record.kept[k]);
            bb_csv_put_text(w, front->plans[i].source);
            bb_csv_end_row(w);
        }
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* Loads the plans that the run was asked for, which bb_front_done frees whatever happens, and does one thing to each of its plans. */
static bb_status each_plan(bb_run *r, const char *label, bb_status (*one)(bb_run *r, const bb_front_plan *p, bb_err *err), bb_front *front, bb_err *err)
{
    bb_progress progress;
    bb_status   status;
    BB_TRY(bb_run_calibrate(r, err));
    BB_TRY(bb_front_load_asked(r, front, err));
    bb_progress_start(&progress, label, front->n);
    for (size_t i = 0; i < front->n; i++) {
        BB_TRY(one(r, &front->plans[i], err));
        bb_progress_add(&progress, 1);
    }
    bb_progress_end(&progress);
done:
    return status;
}

bb_status bb_run_finalise(bb_run *r, bb_err *err)
{
    bb_front  front = { 0 };
    bb_status status;
    BB_TRY(each_plan(r, "finalise", finalise_one, &front, err));
    BB_TRY(write_finalise_csv(r, &front, err));
done:
    bb_front_done(&front);
    return status;
}

/* ---- export and verify ---- */

/* One anchored line a matrix: what llama-quantize's --tensor-type-file reads. */
static bb_status write_recipe(const bb_model *m, const char *path, bb_err *err)
{
    bb_text   t = { 0 };
    bb_status status = BB_NOMEM;
    for (uint64_t i = 0; i < m->gguf.n_tensors; i++) {
        const bb_tensor *tensor = &m->gguf.tensors[i];
        if (tensor->n_dims < 2) continue;
        bb_text_add(&t, "^");
        for (const char *p = tensor->name; *p; p++) bb_text_addf(&t, "%s%c", *p == '.' ? "\\" : "", *p);
        bb_text_addf(&t, "$=%s\n", bb_format_get(tensor->type)->name);
    }
    if (t.status == BB_OK && t.data) status = bb_file_write(path, t.data, t.size, err);
    bb_text_done(&t);
    return status;
}

bb_status bb_run_export(bb_run *r, const char *hash, const char *path, const char *recipe, bb_err *err)
{
    bb_front_plan p = { 0 };
    bb_map        map = { 0 };
    bb_model      m = { 0 };
    char         *from = NULL;
    bool          opened = false;
    bb_status     status;
    BB_TRY(bb_front_find(r, hash, &p, err));
    status = BB_NOMEM;
    if (!(from = bb_run_path(r, err, "models/%s.gguf", p.hash))) goto done;
    if (!bb_file_exists(from)) {
        BB_TRY(bb_run_calibrate(r, err));
        BB_TRY(finalise_one(r, &p, err));
    }
    BB_TRY(bb_map_open(from, &map, err));
    BB_TRY(bb_file_write(path, map.data, map.size, err));
    if (recipe) {
        BB_TRY(bb_model_open(path, &m, err));
        opened = true;
        BB_TRY(write_recipe(&m, recipe, err));
    }
done:
    if (opened) bb_model_close(&m);
    bb_map_close(&map);
    bb_free(from);
    bb_plan_done(&p.plan);
    return status;
}

/* The file's bytes, its plan key and its score against what the run recorded. */
static bb_status verify_one(bb_run *r, const bb_front_plan *p, bb_err *err)
{
    char         *path = bb_run_path(r, err, "models/%s.gguf", p->hash);
    bb_model      m = { 0 };
    uint64_t      bytes;
    bool          found, opened = false;
    bb_ladder_record record;
    bb_bytes      plan;
    double        kl, expected;
    bb_status     status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(load_record(r, p->hash, &record, &found, err));
    if (!found) {
        status = BB_FAIL(err, BB_GUARD, "plan %s was never finalised: run `bitbudget finalise %s`", p->hash, r->config.out);
        goto done;
    }
    BB_TRY(bb_file_size(path, &bytes, err));
    BB_TRY(bb_model_open(path, &m, err));
    opened = true;
    BB_TRY(bb_gguf_text(&m.gguf, "bitbudget.plan", &plan, NULL, err));
    if (bytes != (uint64_t)p->size_bytes || plan.size != 16 || memcmp(plan.data, p->hash, 16) != 0) {
        status = BB_FAIL(err, BB_GUARD, "%s: %llu bytes of plan %.*s, recorded are %lld bytes of plan %s", path, (unsigned long long)bytes, (int)plan.size,
                         plan.data, (long long)p->size_bytes, p->hash);
        goto done;
    }
    BB_TRY(score_confirm(r, &m.net, &kl, err));
    expected = record.kl_final;
    /* The same bits, unless the export had to permute rows for another rotary order: then sums run in another order. */
    if (fabs(kl - expected) > (m.net.rope_neox == r->model.net.rope_neox ? 0 : 1e-5 * fabs(expected)))
        status = BB_FAIL(err, BB_GUARD, "%s: KL on the confirm windows is %.9g, recorded is %.9g", path, kl, expected);
done:
    if (r->evaluator) bb_net_evaluator_forget(r->evaluator);
    if (opened) bb_model_close(&m);
    bb_free(path);
    return status;
}

bb_status bb_run_verify(bb_run *r, bb_err *err)
{
    bb_front  front = { 0 };
    bb_status status;
    BB_TRY(each_plan(r, "verify", verify_one, &front, err));
    bb_info("verified: %zu files have the bytes, the plan and, bit for bit, the score that were recorded", front.n);
done:
    bb_front_done(&front);
    return status;
}
