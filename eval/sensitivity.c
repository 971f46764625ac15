/* SPDX-License-Identifier: GPL-3.0-or-later
 * sensitivity.c: see sensitivity.h. */
#include "eval/sensitivity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "eval/sketch.h"
#include "kernels/blas.h"

/* ---- measuring ---- */

/* The block that a unit belongs to; embedding and head come first: they change everything. */
static long unit_block(const bb_plan_unit *unit) { return unit->what >= BB_UNIT_EMBD ? -1 : (long)unit->layer; }

/* Multiplications of a score's two heads (the reference's and the candidate's, for scored positions alone), as a number of blocks of average size. */
static uint64_t head_blocks(const bb_net *net, const bb_windows *w)
{
    const bb_matrix *head = bb_net_head(net);
    double           weights = 0;
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) weights += (double)net->blocks[i].w[p].rows * net->blocks[i].w[p].cols;
    const double blocks = weights > 0 ? 2.0 * w->n_scored * (double)head->rows * head->cols / (w->ctx * weights / net->n_layer) : 0;
    return blocks > 1 ? (uint64_t)llround(blocks) : 1;
}

uint64_t bb_sensitivity_blocks(const bb_net *net, const bb_windows *windows, const bb_plan_unit *unit, bool by_sketch)
{
    const long block = unit_block(unit);
    return net->n_layer - (uint64_t)(block > 0 ? block : 0) + (by_sketch && block >= 0 ? 0 : head_blocks(net, windows));
}

typedef struct order_key {
    long   block;
    size_t index;
} order_key;

static int later_block_first(const void *a, const void *b)
{
    const order_key *x = a, *y = b;
    if (x->block != y->block) return x->block < y->block ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* What the store keeps of a change, and a worker answers; psi follows. */
typedef struct record {
    double kl, kl_se, n_forwarded;
} record;

static bb_status read_record(const char *value, size_t size, size_t dim, bb_change *c, double *n_forwarded, bb_err *err)
{
    bb_parcel p = { value, size };
    record    r;
    bb_status status;
    BB_TRY(bb_parcel_take(&p, &r, sizeof r, err));
    BB_TRY(bb_parcel_take(&p, c->psi, dim * sizeof(float), err));
    c->kl = r.kl;
    c->kl_se = r.kl_se;
    *n_forwarded = r.n_forwarded;
done:
    return status;
}

/* ---- the worker ---- */

struct bb_sensitivity_worker {
    bb_net_evaluator    *e;
    bb_database         *db;
    const bb_windows    *windows;
    const bb_plan_space *space;
    uint32_t             level, probes, n_layer;
    uint64_t             seed;
    size_t               n_rows, n_embd;
    bool                 is_anchored, has_plan; /* has_plan: around `anchor`, else around full precision */
    uint16_t            *anchor;                /* [space->n_units] */
    bb_net               net;                   /* the anchor's */
    bb_block            *blocks;                /* [2 * n_layer] of a change, of the anchor */
    float               *rows, *psi;            /* the anchor's final states, (n_rows, n_embd); of a change, [n_rows * probes] */
    bb_sketch           *sketch;
};

/* What a question begins with; the anchor's indices follow where it has one. */
typedef struct head {
    uint32_t unit, option, n_units, has_plan;
    double   by_sketch;
} head;

void bb_sensitivity_worker_destroy(bb_sensitivity_worker *w)
{
    if (!w) return;
    bb_sketch_destroy(w->sketch);
    bb_free(w->anchor);
    bb_free(w->blocks);
    bb_free(w->rows);
    bb_free(w->psi);
    bb_free(w);
}

bb_status bb_sensitivity_worker_create(bb_net_evaluator *e, const bb_model *model, bb_database *db, const bb_windows *windows, const bb_sensitivity_options *o,
                                       bb_sensitivity_worker **out, bb_err *err)
{
    bb_sensitivity_worker *w = *out = BB_NEW0(1, bb_sensitivity_worker, err);
    if (!w) return BB_NOMEM;
    w->e = e;
    w->db = db;
    w->windows = windows;
    w->space = o->space;
    w->level = o->level;
    w->probes = o->probes;
    w->seed = o->seed;
    w->n_layer = model->net.n_layer;
    w->n_rows = (size_t)windows->n * windows->n_scored;
    w->n_embd = model->net.n_embd;
    if ((w->anchor = BB_NEW(o->space->n_units, uint16_t, err)) && (w->blocks = BB_NEW(2 * (size_t)w->n_layer, bb_block, err)) &&
        (w->rows = BB_NEW(w->n_rows * w->n_embd, float, err)) && (w->psi = BB_NEW(w->n_rows * w->probes, float, err)))
        return BB_OK;
    bb_sensitivity_worker_destroy(w);
    *out = NULL;
    return BB_NOMEM;
}

/* Tokens forwarded from a block on, as a number of whole passes: what a score costs by itself. What was scored before it, here or by whom, may have
 * spared a part; a search ends by these numbers, and must end at the same place whoever measured. */
static double tokens_from(const bb_sensitivity_worker *w, long block)
{
    return (double)w->windows->n * w->windows->ctx * (double)(w->n_layer - (block > 0 ? block : 0)) / w->n_layer;
}

/* Runs the anchor (NULL: full precision) and makes the sketch around it, unless it is the present one. v (may be NULL): its score. */
static bb_status set_anchor(bb_sensitivity_worker *w, const uint16_t *anchor, bb_evaluation *v, bb_err *err)
{
    const size_t  bytes = w->space->n_units * sizeof *anchor;
    bb_evaluation own;
    const float  *last;
    bb_status     status;
    if (!v && w->is_anchored && w->has_plan == (anchor != NULL) && (!anchor || memcmp(w->anchor, anchor, bytes) == 0)) return BB_OK;
    w->is_anchored = false;
    bb_sketch_destroy(w->sketch);
    w->sketch = NULL;
    BB_TRY(bb_database_apply_at(w->db, w->space, anchor, BB_NO_UNIT, 0, &w->net, w->blocks + w->n_layer, err));
    BB_TRY(bb_net_evaluator_score(w->e, &w->net, w->level, v ? v : &own, NULL, err));
    BB_TRY(bb_net_evaluator_last(w->e, w->level, &last, err));
    if (!last) {
        status = BB_FAIL(err, BB_NOMEM, "measuring options needs the states at every block's boundary in memory: allow more (--max-ram), or use fewer windows");
        goto done;
    }
    memcpy(w->rows, last, w->n_rows * w->n_embd * sizeof *w->rows);
    BB_TRY(bb_sketch_create(bb_net_evaluator_backend(w->e), &w->net, w->rows, w->n_rows, w->probes, w->seed, &w->sketch, err));
    if (anchor) memcpy(w->anchor, anchor, bytes);
    w->has_plan = anchor != NULL;
    w->is_anchored = true;
done:
    return status;
}

/* KL to second order and its error over windows, each of n entries of psi: 1/2 |psi|^2. */
static void kl_of_sketch(const float *psi, uint32_t windows, size_t n, double *kl, double *kl_se)
{
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < windows; i++) {
        double length = 0;
        for (size_t k = 0; k < n; k++) length += (double)psi[i * n + k] * (double)psi[i * n + k];
        length *= 0.5 * windows; /* psi is scaled for the mean over all windows */
        sum += length;
        squares += length * length;
    }
    *kl = sum / windows;
    *kl_se = windows > 1 ? sqrt(fmax(0, squares / windows - *kl * *kl) / (windows - 1)) : (double)NAN;
}

/* The KL of a network, whose head is the anchor's, without that head, and its psi: false where it must be measured there. */
static bool kl_by_sketch(bb_sensitivity_worker *w, const bb_net *net, double by_sketch, record *out, bb_status *status, bb_err *err)
{
    const bb_matrix *a = bb_net_head(&w->net), *b = bb_net_head(net);
    const uint32_t   windows = bb_net_evaluator_windows(w->e, w->level);
    const float     *rows;
    double           n_forwarded;
    if (!(by_sketch > 0) || a->type != b->type || a->data != b->data) return false;
    *status = bb_net_evaluator_run(w->e, net, w->level, &n_forwarded, err);
    if (*status == BB_OK) *status = bb_net_evaluator_last(w->e, w->level, &rows, err);
    if (*status == BB_OK) *status = bb_sketch_project(w->sketch, net, rows, w->psi, err);
    if (*status != BB_OK) return true;
    kl_of_sketch(w->psi, windows, w->n_rows * w->probes / windows, &out->kl, &out->kl_se);
    return out->kl < by_sketch;
}

/* The anchor with one unit changed. */
static bb_status measure_one(bb_sensitivity_worker *w, const uint16_t *anchor, const head *h, bb_text *answer, bb_err *err)
{
    record        r = { 0, 0, tokens_from(w, unit_block(&w->space->units[h->unit])) };
    bb_net        net;
    bb_evaluation v;
    const float  *rows;
    bb_status     status = BB_OK;
    BB_TRY(bb_database_apply_at(w->db, w->space, anchor, h->unit, h->option, &net, w->blocks, err));
    const bool by_sketch = kl_by_sketch(w, &net, h->by_sketch, &r, &status, err);
    BB_TRY(status);
    if (!by_sketch) {
        BB_TRY(bb_net_evaluator_score(w->e, &net, w->level, &v, NULL, err));
        r.kl = v.kl;
        r.kl_se = v.kl_se;
        BB_TRY(bb_net_evaluator_last(w->e, w->level, &rows, err));
        BB_TRY(bb_sketch_project(w->sketch, &net, rows, w->psi, err));
    }
    bb_text_addn(answer, (const char *)&r, sizeof r);
    bb_text_addn(answer, (const char *)w->psi, w->n_rows * w->probes * sizeof *w->psi);
done:
    return status;
}

bb_status bb_sensitivity_worker_answer(bb_sensitivity_worker *w, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_parcel p = { question, size };
    uint16_t *anchor = NULL;
    head      h;
    bb_status status;
    BB_TRY(bb_parcel_take(&p, &h, sizeof h, err));
    if (h.n_units != w->space->n_units || h.unit >= h.n_units || h.option >= w->space->units[h.unit].n_options) {
        status = BB_FAIL(err, BB_FAILED, "a change of unit %u of %u came to a worker that measures %u units", h.unit, h.n_units, w->space->n_units);
        goto done;
    }
    if (h.has_plan) {
        status = BB_NOMEM;
        if (!(anchor = BB_NEW(h.n_units, uint16_t, err))) goto done;
        BB_TRY(bb_parcel_take(&p, anchor, h.n_units * sizeof *anchor, err));
    }
    BB_TRY(set_anchor(w, anchor, NULL, err));
    BB_TRY(measure_one(w, anchor, &h, answer, err));
done:
    bb_free(anchor);
    return status;
}

/* ---- the changes as jobs ---- */

typedef struct task {
    const bb_sensitivity_options *o;
    const bb_model               *model;
    const bb_windows             *windows;
    bb_sensitivity_worker        *here;
    bb_change                    *changes;
    double                       *n_forwarded; /* [n] */
    const size_t                 *missing;     /* jobs: indices of changes */
    size_t                        dim;
    char                          prefix[256]; /* of store keys */
    bb_progress                   progress;
} task;

/* Store keys name the anchor and everything that decides a psi. */
static bb_status set_prefix(task *t, bb_err *err)
{
    const bb_sensitivity_options *o = t->o;
    char                          hash[17] = "-";
    char                          way[40] = "";
    if (o->anchor) bb_plan_space_hash(o->space, o->anchor, hash);
    if (o->by_sketch > 0) snprintf(way, sizeof way, "/%.17g", o->by_sketch);
    int n = snprintf(t->prefix, sizeof t->prefix, "%s|%s|%u|%zu/%u/%llu%s", o->key ? o->key : "", hash, o->level, t->dim, o->probes,
                     (unsigned long long)o->seed, way);
    if (n < 0 || (size_t)n >= sizeof t->prefix) return BB_FAIL(err, BB_USAGE, "the key of the measurements has more than %zu bytes", sizeof t->prefix - 1);
    return BB_OK;
}

static char *store_key(const task *t, size_t i, bb_err *err)
{
    const bb_plan_unit *unit = &t->o->space->units[t->changes[i].unit];
    return bb_asprintf(err, "%s|%s=%s", t->prefix, unit->name, unit->options[t->changes[i].option].name);
}

static uint64_t blocks_of(const task *t, size_t i)
{
    return bb_sensitivity_blocks(&t->model->net, t->windows, &t->o->space->units[t->changes[i].unit], t->o->by_sketch > 0);
}

static bb_status load(task *t, size_t i, bool *found, bb_err *err)
{
    const size_t wanted = sizeof(record) + t->dim * sizeof(float);
    void        *value = NULL;
    size_t       size = 0;
    char        *key = NULL;
    bb_status    status = BB_NOMEM;
    *found = false;
    if (!t->o->store) return BB_OK;
    if (!(key = store_key(t, i, err))) goto done;
    BB_TRY(bb_store_get(t->o->store, "changes", key, &value, &size, found, err));
    *found = *found && size == wanted;
    if (*found) BB_TRY(read_record(value, size, t->dim, &t->changes[i], &t->n_forwarded[i], err));
done:
    bb_free(value);
    bb_free(key);
    return status;
}

static bb_status ask(void *self, size_t k, bb_text *question, bb_err *err)
{
    const task      *t = self;
    const bb_change *c = &t->changes[t->missing[k]];
    const head       h = { c->unit, c->option, t->o->space->n_units, t->o->anchor != NULL, t->o->by_sketch };
    (void)err;
    bb_text_addn(question, (const char *)&h, sizeof h);
    if (t->o->anchor) bb_text_addn(question, (const char *)t->o->anchor, h.n_units * sizeof *t->o->anchor);
    return BB_OK;
}

static bb_status work(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    (void)worker;
    return bb_sensitivity_worker_answer(((task *)self)->here, question, size, answer, err);
}

static bb_status take(void *self, size_t k, const char *answer, size_t size, bb_err *err)
{
    task        *t = self;
    const size_t i = t->missing[k];
    char        *key = t->o->store ? store_key(t, i, err) : NULL;
    bb_status    status = t->o->store && !key ? BB_NOMEM : BB_OK;
    BB_TRY(status);
    BB_TRY(read_record(answer, size, t->dim, &t->changes[i], &t->n_forwarded[i], err));
    if (key) BB_TRY(bb_store_put(t->o->store, "changes", key, answer, size, err));
    bb_progress_add(&t->progress, blocks_of(t, i));
done:
    bb_free(key);
    return status;
}

bb_status bb_sensitivity_measure(bb_net_evaluator *e, const bb_model *model, bb_database *db, const bb_windows *windows, const bb_sensitivity_options *o,
                                 bb_change *changes, size_t n, bb_sensitivity *out, bb_err *err)
{
    bb_status     status = BB_NOMEM;
    order_key    *order = BB_NEW(n, order_key, err);
    size_t       *missing = BB_NEW(n, size_t, err);
    double       *n_forwarded = BB_NEW0(n, double, err);
    task          t = { .o = o, .model = model, .windows = windows, .changes = changes, .n_forwarded = n_forwarded, .missing = missing };
    bb_jobs       jobs = { o->job, 0, &t, ask, work, take };
    bb_evaluation v;
    uint64_t      total = 0;
    memset(out, 0, sizeof *out);
    BB_ASSERT(!(o->by_sketch > 0) || !o->anchor);
    out->n = n;
    out->changes = changes;
    out->dim = t.dim = (size_t)windows->n * windows->n_scored * o->probes;
    out->memory = BB_NEW(n * out->dim, float, err);
    if (!order || !missing || !n_forwarded || !out->memory) goto done;
    BB_TRY(set_prefix(&t, err));
    BB_TRY(bb_sensitivity_worker_create(e, model, db, windows, o, &t.here, err));
    BB_TRY(set_anchor(t.here, o->anchor, &v, err));
    out->anchor_kl = v.kl;
    for (size_t i = 0; i < n; i++) {
        changes[i].psi = out->memory + i * out->dim;
        order[i] = (order_key) { unit_block(&o->space->units[changes[i].unit]), i };
        total += blocks_of(&t, i);
    }
    qsort(order, n, sizeof *order, later_block_first);
    bb_progress_start(&t.progress, "measure options, blocks", total);
    for (size_t i = 0; i < n; i++) {
        bool found;
        BB_TRY(load(&t, order[i].index, &found, err));
        if (found) bb_progress_skip(&t.progress, blocks_of(&t, order[i].index));
        else missing[jobs.n++] = order[i].index;
    }
    BB_TRY(bb_crew_run(o->crew, &jobs, err));
    out->n_forwarded = tokens_from(t.here, 0);
    for (size_t i = 0; i < n; i++) out->n_forwarded += n_forwarded[order[i].index];
    bb_progress_end(&t.progress);
done:
    bb_sensitivity_worker_destroy(t.here);
    bb_free(order);
    bb_free(missing);
    bb_free(n_forwarded);
    if (status != BB_OK) bb_sensitivity_done(out);
    return status;
}

void bb_sensitivity_done(bb_sensitivity *s)
{
    bb_free(s->memory);
    memset(s, 0, sizeof *s);
}

bb_status bb_sensitivity_gram(const bb_sensitivity *s, float *gram, bb_err *err)
{
    enum { ROWS = 64 }; /* fixed tiles: the same bits for any number of threads */
    size_t n = s->n;
    if (n > 65536) return BB_FAIL(err, BB_NOMEM, "a Gram matrix of %zu options is too large: use fewer formats", n);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i += ROWS)
        bb_sgemm_nt(n - i < ROWS ? n - i : ROWS, n, s->dim, 1.0f, s->memory + i * s->dim, s->dim, s->memory, s->dim, 0.0f, gram + i * n, n);
    return BB_OK;
}
