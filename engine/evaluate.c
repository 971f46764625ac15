/* SPDX-License-Identifier: GPL-3.0-or-later
 * evaluate.c: the written files, scored in full; the tables of the run directory, of what the guard (verdict.h) chose at each size.
 *
 * What is evaluated is the exported file, read back: its bytes, shapes and logits are those a user gets.
 */
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/finalised.h"
#include "engine/front.h"
#include "engine/jobs.h"
#include "engine/keys.h"
#include "engine/memory.h"
#include "engine/probe.h"
#include "engine/ranks.h"
#include "engine/speed.h"
#include "engine/verdict.h"
#include "kernels/kernels.h"

/* ---- evaluate ---- */

bb_status bb_run_eval_windows(bb_run *r, bb_windows *w, char data_hash[65], bb_err *err)
{
    const bb_run_config *c = &r->config;
    bb_protocol          protocol = bb_protocol_named(c->protocol);
    bb_tokens            tokens = { 0 };
    int32_t              bos;
    bb_status            status;
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

/* The stored score under `key`. window_kl: [n] */
static bb_status recall(bb_run *r, const char *key, bb_result *out, double *window_kl, uint32_t n, bool *found, bb_err *err)
{
    const size_t rows = n * sizeof *window_kl;
    void        *value = NULL;
    size_t       size;
    bb_status    status;
    BB_TRY(bb_store_get(r->store, "evaluate", key, &value, &size, found, err));
    *found = *found && size == sizeof *out + rows;
    if (*found) {
        memcpy(out, value, sizeof *out);
        memcpy(window_kl, (char *)value + sizeof *out, rows);
    }
done:
    bb_free(value);
    return status;
}

static bb_status remember(bb_run *r, const char *key, const bb_result *result, const double *window_kl, uint32_t n, bb_err *err)
{
    const size_t rows = n * sizeof *window_kl;
    char        *value = bb_alloc(sizeof *result + rows, 1, err);
    bb_status    status;
    if (!value) return BB_NOMEM;
    memcpy(value, result, sizeof *result);
    memcpy(value + sizeof *result, window_kl, rows);
    status = bb_store_put(r->store, "evaluate", key, value, sizeof *result + rows, err);
    bb_free(value);
    return status;
}

/* What every score on these windows depends on besides what is scored: the reference, the windows, what decides the bits. */
static char *score_key(bb_run *r, const char *kind, const char *what, const bb_windows *w, bb_err *err)
{
    char windows[65];
    bb_windows_hash(w, windows);
    return bb_asprintf(err, "%s|%s|%s|%s|%s", kind, what, bb_model_sha256(&r->model), windows, bb_kernels_bits());
}

/* ---- one evaluation, as a job ---- */

typedef enum scored_kind {
    A_FILE,     /* models/HASH.gguf, read back */
    THE_SOURCE, /* the model itself */
    A_DATABASE  /* a plan with the option database's matrices as they are */
} scored_kind;

/* What a question begins with; the text of a database's plan follows. */
typedef struct head {
    scored_kind kind;
    char        hash[17], windows[65];
} head;

static bb_status evaluate_net(const bb_net *net, const head *h, bb_reference *reference, bb_result *out, double *window_kl, bb_err *err)
{
    char label[40];
    snprintf(label, sizeof label, "evaluate %.8s", h->kind == THE_SOURCE ? "source" : h->hash);
    return bb_evaluate_against(net, reference, 0, label, out, window_kl, NULL, err);
}

static bb_status evaluate_file(bb_run *r, const head *h, bb_reference *reference, bb_result *out, double *window_kl, bb_err *err)
{
    char     *path = bb_run_path(r, err, "models/%.16s.gguf", h->hash);
    bb_model  m = { 0 };
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_model_open(path, &m, err));
    status = evaluate_net(&m.net, h, reference, out, window_kl, err);
    bb_model_close(&m);
done:
    bb_free(path);
    return status;
}

static bb_status evaluate_database(bb_run *r, const head *h, const bb_plan *plan, bb_reference *reference, bb_result *out, double *window_kl, bb_err *err)
{
    bb_net    net;
    bb_block *blocks = NULL;
    bb_status status;
    BB_TRY(bb_run_database(r, err));
    status = BB_NOMEM;
    if (!(blocks = BB_NEW(r->model.net.n_layer, bb_block, err))) goto done;
    BB_TRY(bb_database_apply(r->database, plan, &net, blocks, err));
    status = evaluate_net(&net, h, reference, out, window_kl, err);
done:
    bb_free(blocks);
    return status;
}

static void on_done(bb_evaluated_on *on)
{
    bb_reference_destroy(on->reference);
    if (on->owns_w) bb_windows_done(&on->w);
}

void bb_evaluating_done(bb_evaluating *e)
{
    on_done(&e->before);
    on_done(&e->files);
    memset(e, 0, sizeof *e);
}

/* Where plans far behind are not finished, they are told from the others on a part of the windows: what they must show is several times the difference that two
 * finished plans are told apart by. A window of the part stands for so many of all. */
enum { BEFORE_SHARE = 4, FEWEST_BEFORE = 16 };

static uint32_t before_at(const bb_evaluating *e, uint32_t i) { return (uint32_t)((uint64_t)i * e->files.w.n / e->before.w.n); }

static bb_status open_before(bb_run *r, bb_evaluating *e, bb_err *err)
{
    const uint32_t  share = e->files.w.n / BEFORE_SHARE, n = share > FEWEST_BEFORE ? share : FEWEST_BEFORE;
    bb_evaluated_on on = { .owns_w = true };
    uint32_t       *index = NULL;
    bb_status       status = BB_NOMEM;
    if (r->config.no_finalise || strcmp(r->config.finish, "contenders") != 0 || n >= e->files.w.n) return BB_OK;
    e->before = on;
    e->before.w.n = n;
    if (!(index = BB_NEW(n, uint32_t, err))) return status;
    for (uint32_t i = 0; i < n; i++) index[i] = before_at(e, i);
    BB_TRY(bb_windows_pick(&e->files.w, index, n, &e->before.w, err));
    bb_windows_hash(&e->before.w, e->before.hash);
    BB_TRY(bb_reference_create(r->backend, &r->model.net, &e->before.w, bb_memory_for_caches(r) / 8, NULL, &e->before.reference, err));
done:
    bb_free(index);
    return status;
}

static const bb_evaluated_on *on_of(const bb_evaluating *e, scored_kind kind) { return kind == A_DATABASE && e->before.reference ? &e->before : &e->files; }

/* Windows and reference, unless they are there. data_hash: of the text. */
static bb_status open_evaluating(bb_run *r, bb_evaluating *e, char data_hash[65], bb_err *err)
{
    bb_status status = BB_OK;
    if (e->files.reference) return BB_OK;
    bb_full_states_done(&r->full_states); /* their memory, and that of the evaluator, is the references' now */
    bb_net_evaluator_destroy(r->evaluator);
    r->evaluator = NULL;
    BB_TRY(bb_run_eval_windows(r, &e->files.w, data_hash, err));
    e->files.owns_w = *r->config.eval;
    bb_windows_hash(&e->files.w, e->files.hash);
    BB_TRY(bb_reference_create(r->backend, &r->model.net, &e->files.w, bb_memory_for_caches(r) / 2, "reference", &e->files.reference, err));
    BB_TRY(open_before(r, e, err));
done:
    return status;
}

/* The answer is what is stored: the result, and the KL of each window. */
bb_status bb_evaluate_answer(bb_run *r, bb_evaluating *e, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_parcel p = { question, size };
    bb_plan   plan = { 0, NULL };
    head      h;
    char      data_hash[65];
    bb_result result;
    double   *window_kl = NULL;
    bb_status status;
    BB_TRY(bb_parcel_take(&p, &h, sizeof h, err));
    BB_TRY(open_evaluating(r, e, data_hash, err));
    const bb_evaluated_on *on = on_of(e, h.kind);
    if (strcmp(h.windows, on->hash) != 0) {
        status = BB_FAIL(err, BB_USAGE, "the evaluation text %s has other windows here than on rank 0", r->config.eval);
        goto done;
    }
    status = BB_NOMEM;
    if (!(window_kl = BB_NEW(on->w.n, double, err))) goto done;
    if (h.kind == A_DATABASE) {
        BB_TRY(bb_plan_parse(p.at, p.left, &plan, err));
        BB_TRY(evaluate_database(r, &h, &plan, on->reference, &result, window_kl, err));
    } else if (h.kind == A_FILE) BB_TRY(evaluate_file(r, &h, on->reference, &result, window_kl, err));
    else BB_TRY(evaluate_net(&r->model.net, &h, on->reference, &result, window_kl, err));
    bb_text_addn(answer, (const char *)&result, sizeof result);
    bb_text_addn(answer, (const char *)window_kl, on->w.n * sizeof *window_kl);
done:
    bb_free(window_kl);
    bb_plan_done(&plan);
    return status;
}

static char *database_key(bb_run *r, const char *hash, const bb_windows *w, bb_err *err)
{
    char what[96];
    snprintf(what, sizeof what, "%s/%s", r->key, hash); /* the key says which database */
    return score_key(r, "database", what, w, err);
}

/* Of models/HASH.gguf, by what it holds. */
static bb_status file_key(bb_run *r, const char *hash, const bb_windows *w, char **key, bb_err *err)
{
    char     *path = bb_run_path(r, err, "models/%.16s.gguf", hash);
    bb_model  m = { 0 };
    bb_status status = BB_NOMEM;
    *key = NULL;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_model_open(path, &m, err));
    if (!(*key = score_key(r, "file", bb_model_sha256(&m), w, err))) status = BB_NOMEM;
    bb_model_close(&m);
done:
    bb_free(path);
    return status;
}

/* The score under `key`, made if it is not there. plan: of the database; NULL: the file. */
static bb_status score_once(bb_run *r, const char *key, const head *h, const bb_plan *plan, bb_reference *reference, const bb_windows *w, bool only,
                            bb_result *out, double *window_kl, bb_err *err)
{
    bool      found;
    bb_status status;
    BB_TRY(recall(r, key, out, window_kl, w->n, &found, err));
    if (found) goto done;
    if (only) {
        status = BB_FAIL(err, BB_NOT_FOUND, "plan %s has no score on the evaluation windows, and evaluating is off", h->hash);
        goto done;
    }
    if (plan) BB_TRY(evaluate_database(r, h, plan, reference, out, window_kl, err));
    else BB_TRY(evaluate_file(r, h, reference, out, window_kl, err));
    BB_TRY(remember(r, key, out, window_kl, w->n, err));
done:
    return status;
}

bb_status bb_run_eval_database(bb_run *r, const bb_plan *plan, bb_reference *reference, const bb_windows *w, bool only, bb_result *out, double *window_kl,
                               bb_err *err)
{
    head h = { .kind = A_DATABASE };
    bb_plan_hash(plan, h.hash);
    char           *key = database_key(r, h.hash, w, err);
    const bb_status status = key ? score_once(r, key, &h, plan, reference, w, only, out, window_kl, err) : BB_NOMEM;
    bb_free(key);
    return status;
}

bb_status bb_run_eval_file(bb_run *r, const char *hash, bb_reference *reference, const bb_windows *w, bool only, bb_result *out, double *window_kl, bb_err *err)
{
    head h = { .kind = A_FILE };
    memcpy(h.hash, hash, 16);
    char     *key;
    bb_status status;
    BB_TRY(file_key(r, hash, w, &key, err));
    status = score_once(r, key, &h, NULL, reference, w, only, out, window_kl, err);
    bb_free(key);
done:
    return status;
}

/* The scores of all plans at the sizes asked for, and what follows from them. */
typedef struct scored {
    bb_front      front;
    bb_evaluated *e, source; /* e: [front.n]; source: the model itself on the same windows */
    bb_verdict   *v;         /* [n] */
    size_t        n;
    bool         *chosen; /* [front.n] */
    bb_evaluating on;     /* the windows, and what full precision says there */
    char          data_hash[65];
} scored;

static double bpw_of(const bb_run *r, int64_t bytes) { return 8.0 * (double)bytes / (double)r->n_weights; }

static void put_scores(bb_csv_writer *w, const bb_run *r, int64_t bytes, const bb_result *v)
{
    BB_PUT(w, bytes, bpw_of(r, bytes), v->kl, v->kl_se, v->ppl, v->ppl_se, v->top1);
}

static bb_status mark_chosen(const bb_front *f, const bb_evaluated *e, const bb_verdict *v, size_t n, bool *chosen, bb_err *err)
{
    double   *kl = BB_NEW(f->n, double, err);
    size_t   *winners = BB_NEW(n, size_t, err);
    bb_status status = kl && winners ? BB_OK : BB_NOMEM;
    for (size_t i = 0; status == BB_OK && i < f->n; i++) kl[i] = e[i].result.kl;
    for (size_t k = 0; status == BB_OK && k < n; k++) winners[k] = v[k].guard.winner;
    if (status == BB_OK) bb_guard_front(kl, f->n, winners, n, chosen);
    bb_free(kl);
    bb_free(winners);
    return status;
}

/* What all rows of front.csv end with. */
static void put_conditions(bb_csv_writer *w, const bb_run *r, const char *data_hash, const bb_evaluated *e)
{
    BB_ROW(w, r->config.protocol, r->config.ctx, (int64_t)e->result.n_tokens, data_hash, e->kl_before, e->kl_before_se);
}

/* The last row is the model itself on the same windows: its plan_hash is "-", its source "full precision" or "source (Q4_1)". */
static bb_status write_front_csv(const bb_run *r, const scored *s, bb_err *err)
{
    bb_csv_writer *w = NULL;
    char           label[BB_MODEL_LABEL];
    bb_status      status;
    BB_TRY(bb_run_table(
        r, "front.csv",
        "plan_hash,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se,top1,pruned_fraction,source,protocol,ctx,n_tokens,data_sha256,kl_before_finalise,kl_before_se", &w,
        err));
    for (size_t i = 0; i < s->front.n; i++) {
        const bb_front_plan *p = &s->front.plans[i];
        if (!s->chosen[i]) continue;
        bb_csv_put_text(w, p->hash);
        put_scores(w, r, p->size_bytes, &s->e[i].result);
        BB_PUT(w, p->pruned_fraction, p->source);
        put_conditions(w, r, s->data_hash, &s->e[i]);
    }
    bb_csv_put_text(w, "-");
    put_scores(w, r, (int64_t)r->model.source.size_bytes, &s->source.result);
    BB_PUT(w, 0, bb_model_source_label(&r->model, label));
    put_conditions(w, r, s->data_hash, &s->source);
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
        const bb_result none = { .kl = (double)NAN, .kl_se = (double)NAN, .ppl = (double)NAN, .ppl_se = (double)NAN, .top1 = (double)NAN };
        put_scores(w, r, f->plans[i].size_bytes, e[i].is_spared ? &none : &e[i].result);
        BB_ROW(w, e[i].kl_before, e[i].kl_before_se);
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
    bb_csv_writer    *w = NULL;
    uint16_t         *x = BB_NEW(p->n_units, uint16_t, err);
    bb_status         status = BB_NOMEM;
    if (!x) goto done;
    BB_TRY(bb_run_table(r, "layers.csv", "plan_hash,unit,option,bytes,error", &w, err));
    for (size_t i = 0; i < f->n; i++) {
        if (!chosen[i]) continue;
        BB_TRY(bb_plan_space_indices(p->plans, &f->plans[i].plan, x, err));
        for (uint32_t u = 0; u < p->n_units; u++) {
            const bb_unit *unit = &p->units[u];
            const size_t   cell = bb_problem_row(p, x, u) + x[u];
            BB_ROW(w, f->plans[i].hash, p->plans->units[u].name, p->plans->units[u].options[x[u]].name, unit->bytes[cell], unit->cost[cell]);
        }
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    bb_free(x);
    return status;
}

/* ---- the choice ---- */

/* Adds where a structure was cut so that the matrix behind it can have a format whose blocks do not divide its rows as they are in the source. */
static bb_status add_cuts(const bb_net *source, const bb_net *net, char **note, bb_err *err)
{
    bb_text     t = { 0 };
    bb_status   status = BB_OK;
    const char *first = *note ? "; " : "";
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &net->blocks[i].w[p], *was = &source->blocks[i].w[p];
            const bb_format *f = w->rows ? bb_format_get(w->type) : NULL;
            if (!f || was->cols % f->block == 0) continue;
            bb_text_addf(&t, "%sblk.%u.%s cut from %u to %u", t.size ? ", " : first, i, bb_parts[p].name, was->cols, w->cols);
            bb_text_addf(&t, ", where it can be %s", f->name);
        }
    if (t.size) {
        char *all = bb_asprintf(err, "%s%s", *note ? *note : "", t.data);
        if (!all) status = BB_NOMEM;
        else {
            bb_free(*note);
            *note = all;
        }
    }
    if (t.status != BB_OK) status = t.status;
    bb_text_done(&t);
    return status;
}

/* What the types of a plan mean for its speed (bb_speed_note), and which of them a cut has made possible. */
static bb_status note_of(const bb_run *r, const bb_plan *plan, char **note, bb_err *err)
{
    bb_net    net;
    bb_block *blocks = BB_NEW(r->model.net.n_layer, bb_block, err);
    bb_status status = blocks ? BB_OK : BB_NOMEM;
    *note = NULL;
    BB_TRY(status);
    BB_TRY(bb_plan_shape(&r->model, plan, &net, blocks, err));
    BB_TRY(bb_speed_note(&net, note, err));
    BB_TRY(add_cuts(&r->model.net, &net, note, err));
done:
    bb_free(blocks);
    return status;
}

static bb_status say_note(const bb_run *r, const bb_plan *plan, bb_err *err)
{
    char           *note;
    const bb_status status = note_of(r, plan, &note, err);
    if (status == BB_OK && note) bb_info("note: %s", note);
    bb_free(note);
    return status;
}

static bb_status write_plan_json(const bb_run *r, const bb_front_plan *p, const bb_result *v, bb_err *err)
{
    char     *path = bb_run_path(r, err, "plan.json"), *text = NULL, *note = NULL;
    json_t   *root = NULL, *genes = json_object();
    bb_status status = BB_NOMEM;
    if (!path || !genes) goto done;
    BB_TRY(note_of(r, &p->plan, &note, err));
    status = BB_NOMEM;
    for (size_t i = 0; i < p->plan.n; i++) json_object_set_new(genes, p->plan.genes[i].unit, json_string(p->plan.genes[i].option));
    root = json_pack("{s:s, s:I, s:f, s:f, s:f, s:s, s:O}", "plan_hash", p->hash, "size_bytes", (json_int_t)p->size_bytes, "bpw", bpw_of(r, p->size_bytes),
                     "kl_nats", v->kl, "ppl", v->ppl, "source", p->source, "plan", genes);
    if (!root || (note && json_object_set_new(root, "note", json_string(note)) != 0) || !(text = json_dumps(root, JSON_INDENT(2)))) goto done;
    BB_TRY(bb_file_write(path, text, strlen(text), err));
done:
    free(text);
    bb_free(note);
    json_decref(genes);
    json_decref(root);
    bb_free(path);
    return status;
}

static bb_status write_model(const bb_run *r, const bb_front_plan *p, bb_err *err)
{
    char     *from = bb_run_path(r, err, "models/%s.gguf", p->hash), *to = bb_run_path(r, err, "model.gguf");
    bb_map    map = { 0 };
    bb_status status = BB_NOMEM;
    if (!from || !to) goto done;
    BB_TRY(bb_map_open(from, &map, err));
    BB_TRY(bb_file_write(to, map.data, map.size, err));
done:
    bb_map_close(&map);
    bb_free(from);
    bb_free(to);
    return status;
}

/* ---- everything ---- */

static void scored_done(scored *s)
{
    for (size_t i = 0; s->e && i < s->front.n; i++) {
        bb_free(s->e[i].window_kl);
        bb_free(s->e[i].window_before);
    }
    bb_free(s->source.window_kl);
    bb_free(s->e);
    bb_free(s->v);
    bb_free(s->chosen);
    bb_evaluating_done(&s->on);
    bb_front_done(&s->front);
}

/* One score that the tables need. */
typedef struct item {
    scored_kind          kind;
    const bb_front_plan *plan; /* NULL: the source */
    char                *key;  /* in the store; NULL: the score is not kept */
    bb_result           *out;
    double              *window_kl; /* NULL: the mean is enough */
} item;

typedef struct scoring {
    bb_run      *run;
    scored      *s;
    item        *items; /* those that were not found */
    bb_progress *progress;
} scoring;

static bb_status ask_item(void *self, size_t i, bb_text *question, bb_err *err)
{
    const scoring *c = self;
    const item    *k = &c->items[i];
    head           h = { .kind = k->kind };
    char          *text = NULL;
    bb_status      status = BB_OK;
    memcpy(h.windows, on_of(&c->s->on, k->kind)->hash, sizeof h.windows);
    if (k->plan) memcpy(h.hash, k->plan->hash, sizeof h.hash);
    bb_text_addn(question, (const char *)&h, sizeof h);
    if (k->kind == A_DATABASE) {
        BB_TRY(bb_plan_print(&k->plan->plan, &text, err));
        bb_text_add(question, text);
    }
done:
    bb_free(text);
    return status;
}

static bb_status work_item(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    const scoring *c = self;
    (void)worker;
    return bb_evaluate_answer(c->run, &c->s->on, question, size, answer, err);
}

static bb_status take_item(void *self, size_t i, const char *answer, size_t size, bb_err *err)
{
    const scoring *c = self;
    const item    *k = &c->items[i];
    bb_parcel      p = { answer, size };
    bb_status      status;
    BB_TRY(bb_parcel_take(&p, k->out, sizeof *k->out, err));
    BB_TRY(bb_parcel_take(&p, k->window_kl, on_of(&c->s->on, k->kind)->w.n * sizeof(double), err));
    if (k->key) BB_TRY(bb_store_put(c->run->store, "evaluate", k->key, answer, size, err));
    bb_progress_add(c->progress, 1);
done:
    return status;
}

/* Adds the item to the list unless its score is stored. fresh: a file is evaluated even then, and nothing is kept. */
static bb_status want(scoring *c, size_t *n, item k, bool fresh, bb_err *err)
{
    bb_run           *r = c->run;
    const bb_windows *w = &on_of(&c->s->on, k.kind)->w;
    double           *rows = k.window_kl;
    bool              found = false;
    bb_status         status = BB_OK;
    if (!rows && !(rows = BB_NEW(w->n, double, err))) return BB_NOMEM;
    if (k.kind == A_FILE) BB_TRY(bb_finalised_check(r, k.plan, err));
    if (!fresh || k.kind == A_DATABASE) {
        if (k.kind == A_FILE) BB_TRY(file_key(r, k.plan->hash, w, &k.key, err));
        else k.key = k.kind == A_DATABASE ? database_key(r, k.plan->hash, w, err) : score_key(r, "file", bb_model_sha256(&r->model), w, err);
        if (!k.key) status = BB_NOMEM;
        BB_TRY(status);
        BB_TRY(recall(r, k.key, k.out, rows, w->n, &found, err));
    }
    if (found) bb_progress_add(c->progress, 1);
    else {
        c->items[(*n)++] = k;
        k.key = NULL;
    }
done:
    if (rows != k.window_kl) bb_free(rows);
    bb_free(k.key);
    return status;
}

/* What the KL of a part of the windows is multiplied by to stand for all: as the finished file's KL is there and here. 1 where nothing is finished. */
static double part_to_all(const bb_evaluating *on, const bb_evaluated *e)
{
    double sum = 0;
    if (!on->before.reference || e->is_spared) return 1;
    for (uint32_t i = 0; i < on->before.w.n; i++) sum += e->window_kl[before_at(on, i)];
    return sum > 0 ? e->result.kl * on->before.w.n / sum : 1;
}

/* How many of n networks are evaluated at the same time: one, where what full precision says is computed again at each use. */
static uint32_t at_once(const bb_run *r, const bb_evaluating *on, size_t n)
{
    const bool kept = bb_reference_kept(on->files.reference) == on->files.w.n &&
                      (!on->before.reference || bb_reference_kept(on->before.reference) == on->before.w.n);
    return kept ? bb_memory_for_networks(r, n, bb_memory_for_caches(r) / 4) : 1; /* a half and an eighth have the references */
}

/* The files, for comparison what the database alone gives (the same where nothing was finalised, and all that there is of a spared plan), and the source. before: [front.n] */
static bb_status evaluate_all(bb_run *r, bool fresh, scored *s, bb_result *before, bb_err *err)
{
    const size_t most = 2 * s->front.n + 1;
    bb_progress  progress;
    scoring      c = { r, s, BB_NEW0(most, item, err), &progress };
    bb_jobs      jobs = { BB_JOB_EVALUATE, 0, &c, ask_item, work_item, take_item };
    bb_status    status = BB_NOMEM;
    if (!c.items) return BB_NOMEM;
    bb_progress_start(&progress, "evaluate files", r->config.no_finalise ? s->front.n + 1 : most);
    for (size_t i = 0; i <= s->front.n; i++) {
        const bb_front_plan *p = i < s->front.n ? &s->front.plans[i] : NULL;
        bb_evaluated        *e = p ? &s->e[i] : &s->source;
        status = BB_NOMEM;
        if (!(e->window_kl = BB_NEW(s->on.files.w.n, double, err))) goto done;
        e->is_spared = p && bb_front_is_spared(r, p);
        if (e->is_spared) {
            BB_TRY(want(&c, &jobs.n, (item) { A_DATABASE, p, NULL, &e->result, e->window_kl }, fresh, err));
            bb_progress_skip(&progress, 1);
            continue;
        }
        BB_TRY(want(&c, &jobs.n, (item) { p ? A_FILE : THE_SOURCE, p, NULL, &e->result, e->window_kl }, fresh, err));
        if (!p || r->config.no_finalise) continue;
        status = BB_NOMEM;
        if (!(e->window_before = BB_NEW(on_of(&s->on, A_DATABASE)->w.n, double, err))) goto done;
        BB_TRY(want(&c, &jobs.n, (item) { A_DATABASE, p, NULL, &before[i], e->window_before }, fresh, err));
    }
    for (size_t k = 0; k < jobs.n; k++)
        if (c.items[k].kind == A_DATABASE) BB_TRY(bb_run_database(r, err));
    const bb_crew here = bb_crew_threads(at_once(r, &s->on, jobs.n));
    BB_TRY(bb_crew_run(r->crew && !r->time.on ? r->crew : &here, &jobs, err)); /* --time may have changed the windows since others opened the run */
    bb_progress_end(&progress);
    for (size_t i = 0; i < s->front.n; i++) {
        const bb_result *b = r->config.no_finalise || s->e[i].is_spared ? &s->e[i].result : &before[i];
        const double     scale = part_to_all(&s->on, &s->e[i]);
        s->e[i].kl_compared = b->kl;
        s->e[i].kl_before = scale * b->kl;
        s->e[i].kl_before_se = scale * b->kl_se;
    }
    s->source.kl_before = s->source.result.kl;
    s->source.kl_before_se = s->source.result.kl_se;
done:
    for (size_t k = 0; k < jobs.n; k++) bb_free(c.items[k].key);
    bb_free(c.items);
    return status;
}

/* fresh: every file is evaluated again. */
static bb_status score_all(bb_run *r, bool fresh, scored *s, bb_err *err)
{
    bb_result *before = NULL;
    bb_status  status;
    memset(s, 0, sizeof *s);
    BB_TRY(bb_front_load_asked(r, &s->front, err));
    BB_TRY(bb_run_load_costs(r, err));
    status = BB_NOMEM;
    if (!(s->e = BB_NEW0(s->front.n, bb_evaluated, err)) || !(s->chosen = BB_NEW0(s->front.n, bool, err)) || !(before = BB_NEW0(s->front.n, bb_result, err)))
        goto done;
    BB_TRY(open_evaluating(r, &s->on, s->data_hash, err));
    BB_TRY(evaluate_all(r, fresh, s, before, err));
    BB_TRY(bb_verdicts(r, &s->front, s->e, s->on.files.w.n, on_of(&s->on, A_DATABASE)->w.n, &s->v, &s->n, err));
    BB_TRY(mark_chosen(&s->front, s->e, s->v, s->n, s->chosen, err));
done:
    bb_free(before);
    return status;
}

/* Scores everything; finalises what was spared and wins, and scores that. */
static bb_status score_until_decided(bb_run *r, scored *s, bb_err *err)
{
    const double all_s = r->time.evaluation_s;
    bb_status    status;
    for (bool open = true; open;) {
        BB_TRY(score_all(r, false, s, err));
        open = false;
        r->time.evaluation_s = all_s / (double)(s->front.n + 1); /* what is to be finalised now leaves time for one file, not for those that are evaluated */
        for (size_t i = 0; i < s->n; i++) {
            if (s->v[i].readmit == BB_GUARD_NONE || bb_list_has(r->config.leave_out, s->front.plans[s->v[i].readmit].hash)) continue;
            bb_info("evaluation sees %s, which search had ruled out, before the searched plan: it is finalised too", s->front.plans[s->v[i].readmit].source);
            BB_TRY(bb_finalise_readmitted(r, &s->front.plans[s->v[i].readmit], err));
            open = true;
        }
        if (open) scored_done(s);
    }
done:
    return status;
}

static size_t winner_of(const scored *s) { return s->v[s->n - 1].guard.winner; }

/* All that is made from the scores, but model.gguf, into the folder of r. */
static bb_status write_tables(const bb_run *r, const scored *s, bb_err *err)
{
    bb_status status;
    BB_TRY(write_front_csv(r, s, err));
    BB_TRY(write_baselines_csv(r, &s->front, s->e, err));
    BB_TRY(write_layers_csv(r, &s->front, s->chosen, err));
    BB_TRY(bb_verdicts_write(r, &s->front, s->e, s->v, s->n, err));
    BB_TRY(write_plan_json(r, &s->front.plans[winner_of(s)], &s->e[winner_of(s)].result, err));
done:
    return status;
}

/* The winner of every size on the domains that ship with the program. */
static bb_status probe_winners(bb_run *r, const scored *s, bb_err *err)
{
    const bb_front_plan **plans = BB_NEW(s->front.n, const bb_front_plan *, err);
    size_t                n = 0;
    bb_status             status = plans ? BB_OK : BB_NOMEM;
    for (size_t i = 0; plans && i < s->front.n; i++)
        for (size_t k = 0; k < s->n; k++)
            if (s->v[k].guard.winner == i) {
                plans[n++] = &s->front.plans[i];
                break;
            }
    if (status == BB_OK) status = bb_probe_domains(r, plans, n, err);
    bb_free(plans);
    return status;
}

bb_status bb_run_evaluate(bb_run *r, bb_err *err)
{
    static const char *const made[] = { "guard.json",
                                        "plan.json",
                                        "model.gguf",
                                        "report.html",
                                        "plots/front.svg",
                                        "plots/perplexity.svg",
                                        "plots/sensitivity.svg",
                                        "plots/convergence.svg",
                                        "plots/rivals.svg" };
    scored                   s;
    bb_status                status;
    BB_TRY(score_until_decided(r, &s, err));
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) BB_TRY(bb_keys_made(r, made[i], err));
    BB_TRY(write_tables(r, &s, err));
    BB_TRY(write_model(r, &s.front.plans[winner_of(&s)], err));
    BB_TRY(say_note(r, &s.front.plans[winner_of(&s)].plan, err));
    BB_TRY(probe_winners(r, &s, err));
done:
    scored_done(&s);
    return status;
}

/* ---- the tables against the files ---- */

typedef struct comparison {
    const bb_run *r;
    const char   *folder; /* where the recomputed ones are */
    uint64_t      cells, wrong;
    bb_text       first; /* the first difference, as a sentence */
} comparison;

static void differ(comparison *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void differ(comparison *c, const char *format, ...)
{
    char    text[512];
    va_list args;
    if (c->wrong++) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bb_text_add(&c->first, text);
}

static bool is_there(comparison *c, const char *path)
{
    if (bb_file_exists(path)) return true;
    differ(c, "%s is missing: run `bitbudget evaluate %s`", path, c->r->config.out);
    return false;
}

/* The run's file of that name and the recomputed one (bb_free), whatever is returned. */
static bb_status pair_of(const comparison *c, const char *name, char **path, char **fresh, bb_err *err)
{
    *path = bb_run_path(c->r, err, "%s", name);
    *fresh = bb_asprintf(err, "%s/%s", c->folder, name);
    return *path && *fresh ? BB_OK : BB_NOMEM;
}

/* Cell by cell: what is written is what the same code writes from the recomputed scores, so the text must be the same. */
static bb_status compare_csv(comparison *c, const char *name, bb_err *err)
{
    char     *path, *fresh;
    bb_csv    a = { 0 }, b = { 0 };
    bb_status status;
    BB_TRY(pair_of(c, name, &path, &fresh, err));
    if (!is_there(c, path)) goto done;
    BB_TRY(bb_csv_read(path, &a, err));
    BB_TRY(bb_csv_read(fresh, &b, err));
    if (a.n_cols != b.n_cols) differ(c, "%s has %zu columns, there should be %zu", path, a.n_cols, b.n_cols);
    for (size_t k = 0; a.n_cols == b.n_cols && k < a.n_cols; k++)
        if (strcmp(a.header[k], b.header[k]) != 0) differ(c, "%s: column %zu is %s, not %s", path, k + 1, a.header[k], b.header[k]);
    for (size_t k = 0; c->wrong == 0 && a.n_rows && b.n_rows && k < a.n_cols; k++) /* else every number of the table differs, and none says why */
        if (strcmp(a.header[k], "data_sha256") == 0 && strcmp(bb_csv_text(&a, 0, k), bb_csv_text(&b, 0, k)) != 0)
            differ(c, "%s is of another evaluation text (data_sha256 %.12s) than %s holds now (%.12s): run `bitbudget evaluate %s`", path,
                   bb_csv_text(&a, 0, k), *c->r->config.eval ? c->r->config.eval : "the calibration text", bb_csv_text(&b, 0, k), c->r->config.out);
    for (size_t i = 0; c->wrong == 0 && i < a.n_rows && i < b.n_rows; i++)
        for (size_t k = 0; k < a.n_cols; k++) {
            const char *found = bb_csv_text(&a, i, k), *right = bb_csv_text(&b, i, k);
            if (strcmp(found, right) == 0) c->cells++;
            else
                differ(c, "%s row %zu (%s): %s is %s, recomputed from the files it is %s", path, i + 1, bb_csv_text(&a, i, 0), a.header[k],
                       *found ? found : "empty", *right ? right : "empty");
        }
    if (a.n_rows != b.n_rows) differ(c, "%s has %zu rows, the files give %zu", path, a.n_rows, b.n_rows);
done:
    bb_csv_done(&a);
    bb_csv_done(&b);
    bb_free(path);
    bb_free(fresh);
    return status;
}

static bb_status compare_text(comparison *c, const char *name, bb_err *err)
{
    char     *path, *fresh, *a = NULL, *b = NULL;
    size_t    n, m, at = 0, line = 1, begin = 0;
    bb_status status;
    BB_TRY(pair_of(c, name, &path, &fresh, err));
    if (!is_there(c, path)) goto done;
    BB_TRY(bb_file_read(path, &a, &n, err));
    BB_TRY(bb_file_read(fresh, &b, &m, err));
    while (at < n && at < m && a[at] == b[at])
        if (a[at++] == '\n') {
            line++;
            begin = at;
        }
    if (at < n || at < m)
        differ(c, "%s line %zu is \"%.*s\", recomputed from the files it is \"%.*s\"", path, line, (int)strcspn(a + begin, "\n"), a + begin,
               (int)strcspn(b + begin, "\n"), b + begin);
done:
    bb_free(a);
    bb_free(b);
    bb_free(path);
    bb_free(fresh);
    return status;
}

static bb_status compare_model(comparison *c, const bb_front_plan *p, bb_err *err)
{
    char     *path = bb_run_path(c->r, err, "model.gguf"), *winner = bb_run_path(c->r, err, "models/%s.gguf", p->hash), a[65], b[65];
    bb_status status = BB_NOMEM;
    if (!path || !winner) goto done;
    status = BB_OK;
    if (!is_there(c, path)) goto done;
    BB_TRY(bb_sha256_file(path, a, err));
    BB_TRY(bb_sha256_file(winner, b, err));
    if (strcmp(a, b) != 0) differ(c, "%s is not the file of the plan that won, %s: their SHA-256 begin with %.12s and %.12s", path, winner, a, b);
done:
    bb_free(path);
    bb_free(winner);
    return status;
}

static const char *const tables[] = { "front.csv", "baselines.csv", "layers.csv" }, *const texts[] = { "guard.json", "plan.json" };
enum { N_TABLES = sizeof tables / sizeof *tables, N_TEXTS = sizeof texts / sizeof *texts };

static void remove_folder(const char *folder)
{
    for (size_t i = 0; i < N_TABLES + N_TEXTS; i++) {
        char *path = bb_asprintf(NULL, "%s/%s", folder, i < N_TABLES ? tables[i] : texts[i - N_TABLES]);
        if (path) unlink(path);
        bb_free(path);
    }
    rmdir(folder);
}

bb_status bb_run_check_tables(bb_run *r, uint64_t *cells, bb_err *err)
{
    bb_run     elsewhere = *r; /* the same run, which writes into another folder and keeps no books of it */
    char      *folder = bb_run_path(r, err, "verify-%ld", (long)getpid());
    comparison c = { .r = r, .folder = folder };
    scored     s = { 0 };
    bb_status  status = BB_NOMEM;
    if (!folder) return BB_NOMEM;
    elsewhere.config.out = folder;
    elsewhere.store = NULL;
    BB_TRY(bb_make_dirs(folder, err));
    BB_TRY(score_all(r, true, &s, err));
    BB_TRY(write_tables(&elsewhere, &s, err));
    for (size_t i = 0; i < N_TABLES; i++) BB_TRY(compare_csv(&c, tables[i], err));
    for (size_t i = 0; i < N_TEXTS; i++) BB_TRY(compare_text(&c, texts[i], err));
    BB_TRY(compare_model(&c, &s.front.plans[winner_of(&s)], err));
    *cells = c.cells;
    if (c.wrong && c.first.status == BB_OK) {
        if (c.wrong > 1)
            status = BB_FAIL(err, BB_GUARD, "%s (and %llu more difference%s)", c.first.data, (unsigned long long)c.wrong - 1, bb_plural(c.wrong - 1));
        else status = BB_FAIL(err, BB_GUARD, "%s", c.first.data);
    } else if (c.wrong) status = BB_NOMEM;
done:
    remove_folder(folder);
    bb_text_done(&c.first);
    scored_done(&s);
    bb_free(folder);
    return status;
}
