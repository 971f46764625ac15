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
static long unit_block(const bb_plan_unit *unit) { return unit->what == BB_UNIT_EMBD || unit->what == BB_UNIT_HEAD ? -1 : (long)unit->layer; }

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

typedef struct record {
    double kl, kl_se, n_forwarded;
} record; /* followed by psi in the store */

static bb_status load(const bb_sensitivity_options *o, const char *key, bb_sensitivity *s, bb_change *c, bool *found, bb_err *err)
{
    void     *value = NULL;
    size_t    size = 0;
    record    r;
    bb_status status;
    *found = false;
    if (!o->store) return BB_OK;
    BB_TRY(bb_store_get(o->store, "changes", key, &value, &size, found, err));
    if (*found && size == sizeof r + s->dim * sizeof(float)) {
        memcpy(&r, value, sizeof r);
        c->kl = r.kl;
        c->kl_se = r.kl_se;
        s->n_forwarded += r.n_forwarded;
        memcpy(c->psi, (const char *)value + sizeof r, s->dim * sizeof(float));
    } else {
        *found = false;
    }
done:
    bb_free(value);
    return status;
}

static bb_status save(const bb_sensitivity_options *o, const char *key, const bb_sensitivity *s, const bb_change *c, double n_forwarded, bb_err *err)
{
    record    r = { c->kl, c->kl_se, n_forwarded };
    size_t    size = sizeof r + s->dim * sizeof(float);
    char     *value;
    bb_status status;
    if (!o->store) return BB_OK;
    if (!(value = bb_alloc(size, 1, err))) return BB_NOMEM;
    memcpy(value, &r, sizeof r);
    memcpy(value + sizeof r, c->psi, s->dim * sizeof(float));
    status = bb_store_put(o->store, "changes", key, value, size, err);
    bb_free(value);
    return status;
}

typedef struct job {
    bb_net_evaluator             *e;
    bb_database                  *db;
    const bb_sensitivity_options *o;
    const bb_sketch              *sketch;
    const bb_net                 *anchor;
    bb_block                     *blocks;
    char                          prefix[256]; /* of store keys */
} job;

/* Store keys name the anchor and everything that decides a psi. */
static bb_status set_prefix(job *j, size_t dim, bb_err *err)
{
    char hash[17] = "-";
    if (j->o->anchor) bb_plan_space_hash(j->o->space, j->o->anchor, hash);
    char way[40] = "";
    if (j->o->by_sketch > 0) snprintf(way, sizeof way, "/%.17g", j->o->by_sketch);
    int n = snprintf(j->prefix, sizeof j->prefix, "%s|%s|%u|%zu/%u/%llu%s", j->o->key ? j->o->key : "", hash, j->o->level, dim, j->o->probes,
                     (unsigned long long)j->o->seed, way);
    if (n < 0 || (size_t)n >= sizeof j->prefix) return BB_FAIL(err, BB_USAGE, "the key of the measurements has more than %zu bytes", sizeof j->prefix - 1);
    return BB_OK;
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

/* The KL of a network, whose head is the anchor's, without that head: false where it must be measured there. */
static bool kl_by_sketch(const job *j, const bb_net *net, bb_sensitivity *s, bb_change *c, double *n_forwarded, bb_status *status, bb_err *err)
{
    const bb_matrix *a = bb_net_head(j->anchor), *b = bb_net_head(net);
    const uint32_t   windows = bb_net_evaluator_windows(j->e, j->o->level);
    const float     *rows;
    if (!(j->o->by_sketch > 0) || a->type != b->type || a->data != b->data) return false;
    *status = bb_net_evaluator_run(j->e, net, j->o->level, n_forwarded, err);
    if (*status == BB_OK) *status = bb_net_evaluator_last(j->e, j->o->level, &rows, err);
    if (*status == BB_OK) *status = bb_sketch_project(j->sketch, net, rows, c->psi, err);
    if (*status != BB_OK) return true;
    kl_of_sketch(c->psi, windows, s->dim / windows, &c->kl, &c->kl_se);
    return c->kl < j->o->by_sketch;
}

/* The anchor with unit = option. */
static bb_status measure_one(const job *j, bb_sensitivity *s, bb_change *c, bool *found, bb_err *err)
{
    const bb_plan_unit *unit = &j->o->space->units[c->unit];
    bb_net              net;
    bb_evaluation       v;
    const float        *rows;
    double              before = 0;
    char               *key = bb_asprintf(err, "%s|%s=%s", j->prefix, unit->name, unit->options[c->option].name);
    bb_status           status = BB_NOMEM;
    if (!key) return BB_NOMEM;
    BB_TRY(load(j->o, key, s, c, found, err));
    if (*found) goto done;
    BB_TRY(bb_database_apply_at(j->db, j->o->space, j->o->anchor, c->unit, c->option, &net, j->blocks, err));
    const bool by_sketch = kl_by_sketch(j, &net, s, c, &before, &status, err);
    BB_TRY(status);
    if (!by_sketch) {
        BB_TRY(bb_net_evaluator_score(j->e, &net, j->o->level, &v, NULL, err));
        c->kl = v.kl;
        c->kl_se = v.kl_se;
        before += v.n_forwarded;
        BB_TRY(bb_net_evaluator_last(j->e, j->o->level, &rows, err));
        BB_TRY(bb_sketch_project(j->sketch, &net, rows, c->psi, err));
    }
    s->n_forwarded += before;
    BB_TRY(save(j->o, key, s, c, before, err));
done:
    bb_free(key);
    return status;
}

/* Runs the anchor; rows: its final states, copied. net (with blocks) is the anchor's. */
static bb_status measure_anchor(const job *j, bb_sensitivity *s, bb_net *net, bb_block *blocks, float *rows, size_t n_values, bb_err *err)
{
    bb_evaluation v;
    const float  *last;
    bb_status     status;
    BB_TRY(bb_database_apply_at(j->db, j->o->space, j->o->anchor, BB_NO_UNIT, 0, net, blocks, err));
    BB_TRY(bb_net_evaluator_score(j->e, net, j->o->level, &v, NULL, err));
    BB_TRY(bb_net_evaluator_last(j->e, j->o->level, &last, err));
    if (!last) {
        status = BB_FAIL(err, BB_NOMEM, "measuring options needs the states at every block's boundary in memory: allow more (--max-ram), or use fewer windows");
        goto done;
    }
    memcpy(rows, last, n_values * sizeof *rows);
    s->anchor_kl = v.kl;
    s->n_forwarded += v.n_forwarded;
done:
    return status;
}

bb_status bb_sensitivity_measure(bb_net_evaluator *e, const bb_model *model, bb_database *db, const bb_windows *windows, const bb_sensitivity_options *o,
                                 bb_change *changes, size_t n, bb_sensitivity *out, bb_err *err)
{
    bb_status   status = BB_NOMEM;
    size_t      n_rows = (size_t)windows->n * windows->n_scored, n_values = n_rows * model->net.n_embd;
    bb_sketch  *sketch = NULL;
    order_key  *order = BB_NEW(n, order_key, err);
    bb_block   *blocks = BB_NEW(2 * (size_t)model->net.n_layer, bb_block, err);
    float      *rows = BB_NEW(n_values, float, err);
    bb_net      anchor;
    bb_progress progress;
    uint64_t    total = 0;
    job         j = { e, db, o, NULL, &anchor, blocks, "" };
    const bool  by_sketch = o->by_sketch > 0;
    memset(out, 0, sizeof *out);
    BB_ASSERT(!by_sketch || !o->anchor);
    out->n = n;
    out->changes = changes;
    out->dim = n_rows * o->probes;
    out->memory = BB_NEW(n * out->dim, float, err);
    if (!order || !blocks || !rows || !out->memory) goto done;
    BB_TRY(set_prefix(&j, out->dim, err));
    BB_TRY(measure_anchor(&j, out, &anchor, blocks + model->net.n_layer, rows, n_values, err));
    BB_TRY(bb_sketch_create(bb_net_evaluator_backend(e), &anchor, rows, n_rows, o->probes, o->seed, &sketch, err));
    j.sketch = sketch;
    for (size_t i = 0; i < n; i++) {
        changes[i].psi = out->memory + i * out->dim;
        order[i] = (order_key) { unit_block(&o->space->units[changes[i].unit]), i };
    }
    qsort(order, n, sizeof *order, later_block_first);
    for (size_t i = 0; i < n; i++) total += bb_sensitivity_blocks(&model->net, windows, &o->space->units[changes[i].unit], by_sketch);
    bb_progress_start(&progress, "measure options, blocks", total);
    for (size_t i = 0; i < n; i++) {
        bool found = false;
        BB_TRY(measure_one(&j, out, &changes[order[i].index], &found, err));
        (found ? bb_progress_skip : bb_progress_add)(&progress,
                                                     bb_sensitivity_blocks(&model->net, windows, &o->space->units[changes[order[i].index].unit], by_sketch));
    }
    bb_progress_end(&progress);
done:
    bb_sketch_destroy(sketch);
    bb_free(rows);
    bb_free(order);
    bb_free(blocks);
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
