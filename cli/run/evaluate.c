/* SPDX-License-Identifier: GPL-3.0-or-later
 * evaluate.c: the written files, scored in full; the tables of the run directory, of what the guard (verdict.h) chose at each size.
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
#include "cli/run/front.h"
#include "cli/run/run.h"
#include "cli/run/verdict.h"

/* ---- evaluate ---- */

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
    BB_TRY(bb_tokens_load(&r->model, c->eval, c->parse_special, &tokens, err));
    if (strcmp(tokens.sha256, r->calib_tokens.sha256) == 0) bb_warn("evaluation and calibration text are the same: the numbers flatter every plan");
    BB_TRY(bb_tokens_bos(&r->model, &bos, err));
    BB_TRY(bb_windows_make(&tokens, protocol, (uint32_t)c->ctx, bos, (uint32_t)c->eval_windows, true, w, err));
    memcpy(data_hash, tokens.sha256, 65);
done:
    bb_tokens_done(&tokens);
    return status;
}

static bb_status evaluate_file(bb_run *r, const bb_front_plan *p, const bb_windows *w, bb_reference *reference, const char *data_hash, bb_evaluated *out,
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

bb_status bb_run_eval_database(bb_run *r, const bb_plan *plan, bb_reference *reference, uint32_t n_windows, const char *data_hash, bool only,
                               bb_result *out, double *window_kl, bb_err *err)
{
    bb_net    net;
    bb_block *blocks = NULL;
    char      hash[17], label[40], *key = NULL;
    void     *value = NULL;
    size_t    size, rows = n_windows * sizeof(double);
    bool      found;
    bb_status status;
    BB_TRY(bb_plan_hash(plan, hash, err));
    status = BB_NOMEM;
    if (!(key = bb_asprintf(err, "database|%s|%s|%u", hash, data_hash, n_windows))) goto done;
    BB_TRY(bb_store_get(r->store, "evaluate", key, &value, &size, &found, err));
    if (found && size == sizeof *out + rows) {
        memcpy(out, value, sizeof *out);
        memcpy(window_kl, (char *)value + sizeof *out, rows);
        goto done;
    }
    if (only) {
        status = BB_FAIL(err, BB_NOT_FOUND, "plan %s has no score on the evaluation windows, and evaluating is off", hash);
        goto done;
    }
    BB_TRY(bb_run_calibrate(r, err));
    status = BB_NOMEM;
    if (!(blocks = BB_NEW(r->model.net.n_layer, bb_block, err))) goto done;
    BB_TRY(bb_database_apply(r->database, plan, &net, blocks, err));
    snprintf(label, sizeof label, "evaluate %.8s", hash);
    BB_TRY(bb_evaluate_against(&net, reference, 0, label, out, window_kl, NULL, err));
    bb_free(value);
    status = BB_NOMEM;
    if (!(value = bb_alloc(sizeof *out + rows, 1, err))) goto done;
    memcpy(value, out, sizeof *out);
    memcpy((char *)value + sizeof *out, window_kl, rows);
    BB_TRY(bb_store_put(r->store, "evaluate", key, value, sizeof *out + rows, err));
done:
    bb_free(blocks);
    bb_free(value);
    bb_free(key);
    return status;
}

/* The file, and for comparison what the database alone gives (the same where nothing was finalised). scratch: [w->n] */
static bb_status evaluate_plan(bb_run *r, const bb_front_plan *p, const bb_windows *w, bb_reference *reference, const char *data_hash, double *scratch,
                               bb_evaluated *out, bb_err *err)
{
    bb_result before;
    bb_status status;
    BB_TRY(evaluate_file(r, p, w, reference, data_hash, out, err));
    before = out->result;
    if (!r->config.no_finalise) BB_TRY(bb_run_eval_database(r, &p->plan, reference, w->n, data_hash, false, &before, scratch, err));
    out->kl_before = before.kl;
    out->kl_before_se = before.kl_se;
done:
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

static void put_before(bb_csv_writer *w, const bb_evaluated *e)
{
    bb_csv_put_double(w, e->kl_before);
    bb_csv_put_double(w, e->kl_before_se);
}

/* Which plans of the front the guard chose at some size and no other chosen one makes needless (no larger and no worse). chosen[f->n] */
static void mark_chosen(const bb_front *f, const bb_evaluated *e, const bb_verdict *v, size_t n, bool *chosen)
{
    double least = HUGE_VAL;
    for (size_t i = 0; i < f->n; i++) { /* ascending in bytes */
        chosen[i] = false;
        for (size_t k = 0; k < n; k++) chosen[i] |= v[k].guard.winner == i;
        if (!chosen[i]) continue;
        chosen[i] = e[i].result.kl < least;
        if (chosen[i]) least = e[i].result.kl;
    }
}

static bb_status write_front_csv(const bb_run *r, const bb_front *f, const bb_evaluated *e, const bool *chosen, const char *data_hash, bb_err *err)
{
    bb_csv_writer *w = NULL;
    bb_status      status = BB_NOMEM;
    BB_TRY(bb_run_table(r, "front.csv", "plan_hash,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,pruned_fraction,source,protocol,ctx,n_tokens,data_sha256,kl_before_finalise,kl_before_se", &w, err));
    for (size_t i = 0; i < f->n; i++) {
        if (!chosen[i]) continue;
        bb_csv_put_text(w, f->plans[i].hash);
        put_scores(w, r, f->plans[i].size_bytes, &e[i].result);
        bb_csv_put_double(w, f->plans[i].pruned_fraction);
        bb_csv_put_text(w, f->plans[i].source);
        bb_csv_put_text(w, r->config.protocol);
        bb_csv_put_int(w, r->config.ctx);
        bb_csv_put_int(w, (int64_t)e[i].result.n_tokens);
        bb_csv_put_text(w, data_hash);
        put_before(w, &e[i]);
        bb_csv_end_row(w);
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

static bb_status write_baselines_csv(const bb_run *r, const bb_front *f, const bb_evaluated *e, bb_err *err)
{
    bb_csv_writer *w = NULL;
    bb_status      status = BB_NOMEM;
    BB_TRY(bb_run_table(r, "baselines.csv", "name,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,kl_before_finalise,kl_before_se", &w, err));
    for (size_t i = 0; i < f->n; i++) {
        if (!f->plans[i].is_baseline) continue;
        bb_csv_put_text(w, f->plans[i].source);
        put_scores(w, r, f->plans[i].size_bytes, &e[i].result);
        put_before(w, &e[i]);
        bb_csv_end_row(w);
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* One row a unit of each chosen plan: the option, its bytes, and its KL alone. */
static bb_status write_layers_csv(const bb_run *r, const bb_front *f, const bool *chosen, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_csv_writer *w = NULL;
    uint16_t      *x = BB_NEW(p->n_units, uint16_t, err);
    bb_status      status = BB_NOMEM;
    if (!x) goto done;
    BB_TRY(bb_run_table(r, "layers.csv", "plan_hash,unit,option,bytes,error", &w, err));
    for (size_t i = 0; i < f->n; i++) {
        if (!chosen[i]) continue;
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

/* ---- the choice ---- */

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
    bb_evaluated *e = NULL;
    bb_verdict   *v = NULL;
    bool         *chosen = NULL;
    double       *scratch = NULL;
    bb_windows    w = { 0 };
    bb_reference *reference = NULL;
    char          data_hash[65];
    size_t        n = 0;
    bb_progress   progress;
    bb_status     status;
    BB_TRY(bb_front_load_asked(r, &front, err));
    status = BB_NOMEM;
    if (!(e = BB_NEW0(front.n, bb_evaluated, err)) || !(chosen = BB_NEW0(front.n, bool, err))) goto done;
    BB_TRY(bb_run_eval_windows(r, &w, data_hash, err));
    status = BB_NOMEM;
    if (!(scratch = BB_NEW(w.n, double, err))) goto done;
    BB_TRY(bb_reference_create(&r->model.net, &w, r->config.max_ram, "reference", &reference, err));
    bb_progress_start(&progress, "evaluate files", front.n);
    for (size_t i = 0; i < front.n; i++) {
        BB_TRY(evaluate_plan(r, &front.plans[i], &w, reference, data_hash, scratch, &e[i], err));
        bb_progress_add(&progress, 1);
    }
    bb_progress_end(&progress);
    BB_TRY(bb_verdicts(r, &front, e, w.n, &v, &n, err));
    mark_chosen(&front, e, v, n, chosen);
    BB_TRY(write_front_csv(r, &front, e, chosen, data_hash, err));
    BB_TRY(write_baselines_csv(r, &front, e, err));
    BB_TRY(write_layers_csv(r, &front, chosen, err));
    BB_TRY(bb_verdicts_write(r, &front, e, v, n, err));
    BB_TRY(write_choice(r, &front.plans[v[n - 1].guard.winner], &e[v[n - 1].guard.winner].result, err));
done:
    for (size_t i = 0; e && i < front.n; i++) bb_free(e[i].window_kl);
    bb_free(e);
    bb_free(v);
    bb_free(chosen);
    bb_free(scratch);
    bb_reference_destroy(reference);
    if (*r->config.eval) bb_windows_done(&w);
    bb_front_done(&front);
    return status;
}
