/* SPDX-License-Identifier: GPL-3.0-or-later
 * finish.c: the last stages of a run: finalise (the ladder of steps that may help, write models/HASH.gguf), evaluate (the written files, in full),
 * guard (the simpler plans of the same bytes beside the winner), and the tables of the run directory.
 *
 * What is evaluated is the exported file, read back: its bytes, shapes and logits are those a user gets.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
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

/* Records are kept by plan and by what finalise was asked to do; bb_free. */
static char *record_key(const bb_run *r, const char *hash, bb_err *err)
{
    char *settings = bb_ladder_settings(&r->config, err), *key = settings ? bb_asprintf(err, "%s %s", hash, settings) : NULL;
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

/* Writes models/HASH.gguf from the best network of the ladder; simple plans are written as they are in the database. */
static bb_status finalise_one(bb_run *r, const bb_front_plan *p, bb_err *err)
{
    const bool       tune = !r->config.no_finalise && !p->is_baseline;
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
    BB_TRY(bb_ladder_run(r, &p->plan, tune, NULL, NULL, &net, &record, err));
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
    BB_TRY(bb_run_table(r, "finalise.csv", "plan_hash,size_bytes,step,kl_nats,kept", &w, err));
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
            bb_csv_end_row(w);
        }
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* Loads the front, which bb_front_done frees whatever happens, and does one thing to each of its plans. */
static bb_status each_plan(bb_run *r, const char *label, bb_status (*one)(bb_run *r, const bb_front_plan *p, bb_err *err), bb_front *front, bb_err *err)
{
    bb_progress progress;
    bb_status   status;
    BB_TRY(bb_run_calibrate(r, err));
    BB_TRY(bb_front_load(r, front, err));
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

static const bb_front_plan *find_plan(const bb_front *f, const char *hash)
{
    for (size_t i = 0; i < f->n; i++)
        if (strncmp(f->plans[i].hash, hash, strlen(hash)) == 0) return &f->plans[i];
    return NULL;
}

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
    bb_front  front = { 0 };
    bb_map    map = { 0 };
    bb_model  m = { 0 };
    char     *from = NULL;
    bool      opened = false;
    const bb_front_plan *p;
    bb_status status;
    BB_TRY(bb_front_load(r, &front, err));
    if (!(p = find_plan(&front, hash))) {
        status = BB_FAIL(err, BB_NOT_FOUND, "no plan of %s begins with \"%s\": plans.csv lists them", r->config.out, hash);
        goto done;
    }
    status = BB_NOMEM;
    if (!(from = bb_run_path(r, err, "models/%s.gguf", p->hash))) goto done;
    if (!bb_file_exists(from)) {
        BB_TRY(bb_run_calibrate(r, err));
        BB_TRY(finalise_one(r, p, err));
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
    bb_front_done(&front);
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

/* ---- evaluate ---- */

typedef struct evaluated {
    bb_result result;
    double   *window_kl;      /* [windows] owned */
} evaluated;

bb_status bb_run_eval_windows(bb_run *r, bb_windows *w, char data_hash[65], bb_err *err)
{
    const bb_run_config *c = &r->config;
    bb_protocol   protocol = strcmp(c->protocol, "hf") == 0 ? BB_PROTOCOL_HF : BB_PROTOCOL_GGUF;
    bb_tokens     tokens = { 0 };
    int32_t       bos;
    bb_status     status;
    if (!*c->eval) { /* the confirm windows: calibration never saw them, the search did */
        *w = r->levels[BB_LEVEL_CONFIRM];
        memcpy(data_hash, r->calib_tokens.sha256, 65);
        return BB_OK;
    }
    BB_TRY(bb_tokens_load(&r->model, c->eval, &tokens, err));
    if (strcmp(tokens.sha256, r->calib_tokens.sha256) == 0) bb_warn("evaluation and calibration text are the same: the numbers flatter every plan");
    BB_TRY(bb_tokens_bos(&r->model, &bos, err));
    BB_TRY(bb_windows_make(&tokens, protocol, (uint32_t)c->ctx, bos, (uint32_t)c->eval_windows, true, w, err));
    memcpy(data_hash, tokens.sha256, 65);
done:
    bb_tokens_done(&tokens);
    return status;
}

static bb_status evaluate_file(bb_run *r, const bb_front_plan *p, const bb_windows *w, bb_reference *reference, const char *data_hash, evaluated *out,
                               bb_err *err)
{
    char     *path = bb_run_path(r, err, "models/%s.gguf", p->hash), *key = NULL, label[64];
    bb_model  m = { 0 };
    void     *value = NULL;
    size_t    size, rows = w->n * sizeof(double);
    bool      found, opened = false;
    bb_status status = BB_NOMEM;
    if (!path || !(out->window_kl = BB_NEW(w->n, double, err))) goto done;
    if (!(key = bb_asprintf(err, "%s|%s|%u", p->hash, data_hash, w->n))) goto done;
    BB_TRY(bb_store_get(r->store, "evaluate", key, &value, &size, &found, err));
    if (found && size == sizeof out->result + rows) {
        memcpy(&out->result, value, sizeof out->result);
        memcpy(out->window_kl, (char *)value + sizeof out->result, rows);
        goto done;
    }
    BB_TRY(bb_model_open(path, &m, err));
    opened = true;
    snprintf(label, sizeof label, "evaluate %.8s", p->hash);
    BB_TRY(bb_evaluate_against(&m.net, reference, 0, label, &out->result, out->window_kl, NULL, err));
    bb_free(value);
    status = BB_NOMEM;
    if (!(value = bb_alloc(sizeof out->result + rows, 1, err))) goto done;
    memcpy(value, &out->result, sizeof out->result);
    memcpy((char *)value + sizeof out->result, out->window_kl, rows);
    BB_TRY(bb_store_put(r->store, "evaluate", key, value, sizeof out->result + rows, err));
done:
    if (opened) bb_model_close(&m);
    bb_free(value);
    bb_free(key);
    bb_free(path);
    return status;
}

static double bpw_of(const bb_run *r, int64_t bytes) { return 8.0 * (double)bytes / (double)r->n_weights; }

static void put_scores(bb_csv_writer *w, const bb_run *r, int64_t bytes, const bb_result *v)
{
    bb_csv_put_int(w, bytes);
    bb_csv_put_double(w, bpw_of(r, bytes));
    bb_csv_put_double(w, v->kl);
    bb_csv_put_double(w, v->kl_se);
    bb_csv_put_double(w, v->ppl);
    bb_csv_put_double(w, v->ppl_se);
    bb_csv_put_double(w, v->top1);
}

/* Whether some other searched plan is no larger and no worse: then this one is not on the front. */
static bool dominated(const bb_front *f, const evaluated *e, size_t i)
{
    for (size_t j = 0; j < f->n; j++) {
        const bb_front_plan *a = &f->plans[j], *b = &f->plans[i];
        if (j == i) continue;
        if (a->size_bytes <= b->size_bytes && e[j].result.kl <= e[i].result.kl &&
            (a->size_bytes < b->size_bytes || e[j].result.kl < e[i].result.kl || j < i))
            return true;
    }
    return false;
}

static bb_status write_front_csv(const bb_run *r, const bb_front *f, const evaluated *e, const char *data_hash, bb_err *err)
{
    bb_csv_writer *w = NULL;
    bb_status      status = BB_NOMEM;
    BB_TRY(bb_run_table(r, "front.csv", "plan_hash,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,pruned_fraction,source,protocol,ctx,n_tokens,data_sha256", &w, err));
    for (size_t i = 0; i < f->n; i++) {
        if (dominated(f, e, i)) continue;
        bb_csv_put_text(w, f->plans[i].hash);
        put_scores(w, r, f->plans[i].size_bytes, &e[i].result);
        bb_csv_put_double(w, f->plans[i].pruned_fraction);
        bb_csv_put_text(w, f->plans[i].source);
        bb_csv_put_text(w, r->config.protocol);
        bb_csv_put_int(w, r->config.ctx);
        bb_csv_put_int(w, (int64_t)e[i].result.n_tokens);
        bb_csv_put_text(w, data_hash);
        bb_csv_end_row(w);
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

static bb_status write_baselines_csv(const bb_run *r, const bb_front *f, const evaluated *e, bb_err *err)
{
    bb_csv_writer *w = NULL;
    bb_status      status = BB_NOMEM;
    BB_TRY(bb_run_table(r, "baselines.csv", "name,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1", &w, err));
    for (size_t i = 0; i < f->n; i++) {
        if (!f->plans[i].is_baseline) continue;
        bb_csv_put_text(w, f->plans[i].source);
        put_scores(w, r, f->plans[i].size_bytes, &e[i].result);
        bb_csv_end_row(w);
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* One row a unit of each plan on the front: the option, its bytes, and its KL alone. */
static bb_status write_layers_csv(const bb_run *r, const bb_front *f, const evaluated *e, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_csv_writer *w = NULL;
    uint16_t      *x = BB_NEW(p->n_units, uint16_t, err);
    bb_status      status = BB_NOMEM;
    if (!x) goto done;
    BB_TRY(bb_run_table(r, "layers.csv", "plan_hash,unit,option,bytes,error", &w, err));
    for (size_t i = 0; i < f->n; i++) {
        if (dominated(f, e, i)) continue;
        BB_TRY(bb_problem_candidate(p, &f->plans[i].plan, x, err));
        for (uint32_t u = 0; u < p->n_units; u++) {
            const bb_unit *unit = &p->units[u];
            const size_t   cell = bb_problem_row(p, x, u) + x[u];
            bb_csv_put_text(w, f->plans[i].hash);
            bb_csv_put_text(w, unit->name);
            bb_csv_put_text(w, unit->options[x[u]]);
            bb_csv_put_int(w, unit->bytes[cell]);
            bb_csv_put_double(w, unit->cost[cell]);
            bb_csv_end_row(w);
        }
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    bb_free(x);
    return status;
}

/* ---- guard ---- */

/* Paired difference of per-window KL, b - a: mean and standard error. */
static void paired(const double *a, const double *b, uint32_t n, double *mean, double *se)
{
    double sum = 0, sum2 = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += b[i] - a[i];
        sum2 += (b[i] - a[i]) * (b[i] - a[i]);
    }
    *mean = sum / n;
    *se = n > 1 ? sqrt(fmax(0, sum2 / n - *mean * *mean) / (n - 1)) : (double)NAN;
}

/* The plan exported for the target: our best within the bytes, unless a simpler plan is no worse (within one standard error of the paired
 * difference it is better to ship what is simpler). Returns the index; the margin is over the best simpler plan. */
static size_t guard(const bb_front *f, const evaluated *e, uint32_t n_windows, int64_t target, long *rival, double *margin, double *margin_se)
{
    long ours = -1;
    *rival = -1;
    *margin = *margin_se = (double)NAN;
    for (size_t i = 0; i < f->n; i++) {
        if (f->plans[i].size_bytes > target) continue;
        long *best = f->plans[i].is_baseline ? rival : &ours;
        if (*best < 0 || e[i].result.kl < e[*best].result.kl) *best = (long)i;
    }
    if (ours < 0) return (size_t)*rival;
    if (*rival < 0) return (size_t)ours;
    paired(e[ours].window_kl, e[*rival].window_kl, n_windows, margin, margin_se);
    return *margin > 0 ? (size_t)ours : (size_t)*rival;
}

static bb_status write_guard(const bb_run *r, const bb_front *f, const evaluated *e, uint32_t n_windows, int64_t target, size_t *winner, bb_err *err)
{
    long      rival;
    double    margin, margin_se;
    char     *path = bb_run_path(r, err, "guard.json"), *text = NULL;
    json_t   *root = NULL, *plans = json_array();
    bb_status status = BB_NOMEM;
    *winner = guard(f, e, n_windows, target, &rival, &margin, &margin_se);
    if (!path || !plans) goto done;
    for (size_t i = 0; i < f->n; i++) {
        const char *name = f->plans[i].is_baseline ? f->plans[i].source : f->plans[i].hash;
        if (f->plans[i].size_bytes > target) continue;
        json_array_append_new(plans, json_pack("{s:s, s:I, s:f, s:f}", "name", name, "size_bytes", (json_int_t)f->plans[i].size_bytes, "kl_nats",
                                               e[i].result.kl, "kl_se", e[i].result.kl_se));
    }
    const bb_front_plan *w = &f->plans[*winner];
    root = json_pack("{s:s, s:s, s:b, s:I, s:O}", "winner", w->hash, "source", w->source, "searched_plan_won", !w->is_baseline, "target_bytes",
                     (json_int_t)target, "plans", plans);
    if (root && rival >= 0) {
        json_object_set_new(root, "best_simple_plan", json_string(f->plans[rival].source));
        if (isfinite(margin)) json_object_set_new(root, "margin_nats", json_real(margin));
        if (isfinite(margin_se)) json_object_set_new(root, "margin_se", json_real(margin_se));
    }
    if (!root || !(text = json_dumps(root, JSON_INDENT(2)))) goto done;
    BB_TRY(bb_file_write(path, text, strlen(text), err));
    if (rival >= 0 && isfinite(margin))
        bb_info("guard: %s wins; KL margin over the best simpler plan (%s): %.5f +- %.5f nats", w->is_baseline ? "the simpler plan" : "the searched plan",
                f->plans[rival].source, margin, margin_se);
done:
    free(text);
    json_decref(plans);
    json_decref(root);
    bb_free(path);
    return status;
}

/* plan.json and model.gguf of the chosen plan. */
static bb_status write_choice(bb_run *r, const bb_front_plan *p, const bb_result *v, bb_err *err)
{
    char     *path = bb_run_path(r, err, "plan.json"), *from = bb_run_path(r, err, "models/%s.gguf", p->hash), *to = bb_run_path(r, err, "model.gguf");
    json_t   *root = NULL, *genes = json_object();
    char     *text = NULL;
    bb_map    map = { 0 };
    bb_status status = BB_NOMEM;
    if (!path || !from || !to || !genes) goto done;
    for (size_t i = 0; i < p->plan.n; i++) json_object_set_new(genes, p->plan.genes[i].unit, json_string(p->plan.genes[i].option));
    root = json_pack("{s:s, s:I, s:f, s:f, s:f, s:s, s:O}", "plan_hash", p->hash, "size_bytes", (json_int_t)p->size_bytes, "bpw", bpw_of(r, p->size_bytes),
                     "kl_nats", v->kl, "ppl", v->ppl, "source", p->source, "plan", genes);
    if (!root || !(text = json_dumps(root, JSON_INDENT(2)))) goto done;
    BB_TRY(bb_file_write(path, text, strlen(text), err));
    BB_TRY(bb_map_open(from, &map, err));
    BB_TRY(bb_file_write(to, map.data, map.size, err));
done:
    bb_map_close(&map);
    free(text);
    json_decref(genes);
    json_decref(root);
    bb_free(path);
    bb_free(from);
    bb_free(to);
    return status;
}

bb_status bb_run_evaluate(bb_run *r, bb_err *err)
{
    bb_front      front = { 0 };
    evaluated    *e = NULL;
    bb_windows    w = { 0 };
    bb_reference *reference = NULL;
    char          data_hash[65];
    size_t        winner = 0;
    bb_status     status;
    BB_TRY(bb_front_load(r, &front, err));
    status = BB_NOMEM;
    if (!(e = BB_NEW0(front.n, evaluated, err))) goto done;
    BB_TRY(bb_run_eval_windows(r, &w, data_hash, err));
    BB_TRY(bb_reference_create(&r->model.net, &w, r->config.max_ram, "reference", &reference, err));
    for (size_t i = 0; i < front.n; i++) BB_TRY(evaluate_file(r, &front.plans[i], &w, reference, data_hash, &e[i], err));
    BB_TRY(write_front_csv(r, &front, e, data_hash, err));
    BB_TRY(write_baselines_csv(r, &front, e, err));
    BB_TRY(write_layers_csv(r, &front, e, err));
    BB_TRY(write_guard(r, &front, e, w.n, r->is_sweep ? r->budgets[r->n_budgets - 1] : bb_front_target(r), &winner, err));
    BB_TRY(write_choice(r, &front.plans[winner], &e[winner].result, err));
done:
    for (size_t i = 0; e && i < front.n; i++) bb_free(e[i].window_kl);
    bb_free(e);
    bb_reference_destroy(reference);
    if (*r->config.eval) bb_windows_done(&w);
    bb_front_done(&front);
    return status;
}
