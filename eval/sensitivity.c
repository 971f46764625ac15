/* SPDX-License-Identifier: GPL-3.0-or-later
 * sensitivity.c: see sensitivity.h. */
#include "eval/sensitivity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"

/* ---- the sketch: probe vectors s_tj, drawn once ---- */

typedef struct sketch {
    size_t       n_rows;   /* scored tokens T */
    uint32_t     k, C;
    const float *norm;     /* output norm gain [C] */
    float        eps;
    float       *probe;    /* (T*k, C), already divided by sqrt(k T) */
    float       *base;     /* (T, C): n(h_t) of full precision */
} sketch;

static void output_norm(const sketch *s, const float *h, float *out)
{
    double sum = 0;
    for (uint32_t c = 0; c < s->C; c++) sum += (double)h[c] * (double)h[c];
    float scale = (float)(1.0 / sqrt(sum / s->C + (double)s->eps));
    for (uint32_t c = 0; c < s->C; c++) out[c] = h[c] * scale * s->norm[c];
}

/* Rows of p (n, V) from logits to probabilities, in place. */
static void softmax_rows(float *z, size_t n, size_t V)
{
    #pragma omp parallel for schedule(static)
    for (size_t t = 0; t < n; t++) {
        float *row = z + t * V, top = row[0];
        double sum = 0;
        for (size_t v = 1; v < V; v++) top = row[v] > top ? row[v] : top;
        for (size_t v = 0; v < V; v++) sum += (double)(row[v] = expf(row[v] - top));
        for (size_t v = 0; v < V; v++) row[v] = (float)((double)row[v] / sum);
    }
}

static uint32_t draw(const float *p, uint32_t V, double u)
{
    double sum = 0;
    for (uint32_t v = 0; v < V; v++)
        if ((sum += (double)p[v]) > u) return v;
    return V - 1;
}

static void draw_probes(sketch *s, const float *head, uint32_t V, const float *p, const float *mean, size_t first, size_t n, uint64_t seed)
{
    float scale = (float)(1.0 / sqrt((double)s->k * (double)s->n_rows));
    for (size_t t = 0; t < n; t++) {
        char   name[32];
        bb_rng rng;
        snprintf(name, sizeof name, "probe %zu", first + t); /* a token's probes do not depend on how many tokens there are */
        bb_rng_init(&rng, seed, name);
        for (uint32_t j = 0; j < s->k; j++) {
            const float *w = head + (size_t)draw(p + t * V, V, bb_rng_uniform(&rng)) * s->C;
            float       *out = s->probe + ((first + t) * s->k + j) * s->C;
            for (uint32_t c = 0; c < s->C; c++) out[c] = (w[c] - mean[t * s->C + c]) * scale;
        }
    }
}

static void sketch_done(sketch *s)
{
    bb_free(s->probe);
    bb_free(s->base);
}

static bb_status sketch_init(sketch *s, const bb_model *m, const float *h, size_t n_rows, uint32_t k, uint64_t seed, bb_err *err)
{
    enum { CHUNK = 256 };
    const bb_net    *net = &m->net;
    const bb_matrix *head = bb_net_head(net);
    const bb_format *f = bb_format_get(head->type);
    size_t           V = net->n_vocab, C = net->n_embd, row_bytes = bb_format_row_bytes(f, head->cols);
    bb_status        status = BB_NOMEM;
    bb_forward      *forward = NULL;
    float           *w = BB_NEW(V * C, float, err), *p = BB_NEW(CHUNK * V, float, err), *mean = BB_NEW(CHUNK * C, float, err);
    s->n_rows = n_rows;
    s->k = k;
    s->C = (uint32_t)C;
    s->norm = net->out_norm;
    s->eps = net->norm_eps;
    s->probe = BB_NEW(n_rows * k * C, float, err);
    s->base = BB_NEW(n_rows * C, float, err);
    if (!w || !p || !mean || !s->probe || !s->base) goto done;
    for (size_t v = 0; v < V; v++) f->decode((const char *)head->data + v * row_bytes, w + v * C, C);
    BB_TRY(bb_forward_create(net, 1, CHUNK, &forward, err));
    for (size_t first = 0; first < n_rows; first += CHUNK) {
        size_t n = n_rows - first < CHUNK ? n_rows - first : CHUNK;
        BB_TRY(bb_forward_logits(forward, net, h + first * C, n, p, err));
        softmax_rows(p, n, V);
        bb_sgemm_nn(n, C, V, 1.0f, p, V, w, C, 0.0f, mean, C);
        draw_probes(s, w, (uint32_t)V, p, mean, first, n, seed);
        for (size_t t = first; t < first + n; t++) output_norm(s, h + t * C, s->base + t * C);
    }
    status = BB_OK;
done:
    bb_forward_destroy(forward);
    bb_free(w);
    bb_free(p);
    bb_free(mean);
    return status;
}

static void sketch_project(const sketch *s, const float *h, float *psi)
{
    enum { CHUNK = 1024 };
    #pragma omp parallel for schedule(static)
    for (size_t t = 0; t < s->n_rows; t++) {
        float delta[CHUNK]; /* C may be larger */
        for (uint32_t j = 0; j < s->k; j++) psi[t * s->k + j] = 0;
        const float *row = h + t * s->C, *base = s->base + t * s->C;
        double       sum = 0;
        for (uint32_t c = 0; c < s->C; c++) sum += (double)row[c] * (double)row[c];
        float scale = (float)(1.0 / sqrt(sum / s->C + (double)s->eps));
        for (uint32_t c0 = 0; c0 < s->C; c0 += CHUNK) {
            uint32_t n = s->C - c0 < CHUNK ? s->C - c0 : CHUNK;
            for (uint32_t c = 0; c < n; c++) delta[c] = row[c0 + c] * scale * s->norm[c0 + c] - base[c0 + c];
            for (uint32_t j = 0; j < s->k; j++) {
                const float *probe = s->probe + (t * s->k + j) * s->C + c0;
                float        dot = 0;
                for (uint32_t c = 0; c < n; c++) dot += probe[c] * delta[c];
                psi[t * s->k + j] += dot;
            }
        }
    }
}

/* ---- measuring ---- */

/* The block that a unit belongs to; embedding and head come first: they change everything. */
static long unit_block(const char *unit)
{
    return strncmp(unit, "blk.", 4) == 0 ? strtol(unit + 4, NULL, 10) : -1;
}

typedef struct order_key { long block; size_t index; } order_key;

static int later_block_first(const void *a, const void *b)
{
    const order_key *x = a, *y = b;
    if (x->block != y->block) return x->block < y->block ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

typedef struct record { double kl, kl_se, n_forwarded; } record; /* followed by psi in the store */

static bb_status load(const bb_sensitivity_options *o, const char *key, bb_sensitivity *s, bb_change *c, bool *found, bb_err *err)
{
    void     *value = NULL;
    size_t    size = 0;
    record    r;
    bb_status status;
    *found = false;
    if (!o->store) return BB_OK;
    BB_TRY(bb_store_get(o->store, "sensitivity", key, &value, &size, found, err));
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
    status = bb_store_put(o->store, "sensitivity", key, value, size, err);
    bb_free(value);
    return status;
}

typedef struct job {
    bb_net_evaluator             *e;
    bb_database                  *db;
    const bb_sensitivity_options *o;
    const sketch                 *sk;
    bb_block                     *blocks;
} job;

/* Scores anchor + (unit = option); unit NULL: the anchor itself. */
static bb_status measure_one(const job *j, bb_sensitivity *s, bb_change *c, bb_err *err)
{
    bb_plan       plan = { 0, NULL };
    bb_net        net;
    bb_evaluation v;
    char         *key = NULL;
    bool          found;
    bb_status     status = BB_OK;
    if (!(key = bb_asprintf(err, "%s|%s=%s", j->o->key ? j->o->key : "", c->unit ? c->unit : "anchor", c->unit ? c->option : ""))) return BB_NOMEM;
    BB_TRY(load(j->o, key, s, c, &found, err));
    if (found) goto done;
    if (j->o->anchor) BB_TRY(bb_plan_copy(j->o->anchor, &plan, err));
    if (c->unit) BB_TRY(bb_plan_set(&plan, c->unit, c->option, err));
    BB_TRY(bb_database_apply(j->db, &plan, &net, j->blocks, err));
    BB_TRY(bb_net_evaluator_score(j->e, &net, j->o->level, &v, NULL, err));
    c->kl = v.kl;
    c->kl_se = v.kl_se;
    sketch_project(j->sk, bb_net_evaluator_last(j->e, j->o->level), c->psi);
    s->n_forwarded += v.n_forwarded;
    BB_TRY(save(j->o, key, s, c, v.n_forwarded, err));
done:
    bb_plan_done(&plan);
    bb_free(key);
    return status;
}

bb_status bb_sensitivity_measure(bb_net_evaluator *e, const bb_model *model, bb_database *db, const bb_windows *windows,
                                 const bb_sensitivity_options *o, bb_change *changes, size_t n, bb_sensitivity *out, bb_err *err)
{
    bb_status   status = BB_NOMEM;
    sketch      sk = { 0, 0, 0, NULL, 0, NULL, NULL };
    order_key  *order = BB_NEW(n, order_key, err);
    bb_block   *blocks = BB_NEW(model->net.n_layer, bb_block, err);
    size_t      n_rows = (size_t)windows->n * windows->n_scored;
    bb_progress progress;
    bb_change   anchor = { NULL, NULL, 0, 0, NULL };
    memset(out, 0, sizeof *out);
    out->n = n;
    out->changes = changes;
    out->dim = n_rows * o->probes;
    out->memory = BB_NEW((n + 1) * out->dim, float, err);
    if (!order || !blocks || !out->memory) goto done;
    BB_TRY(sketch_init(&sk, model, bb_net_evaluator_reference(e, o->level), n_rows, o->probes, o->seed, err));
    for (size_t i = 0; i < n; i++) {
        changes[i].psi = out->memory + i * out->dim;
        order[i] = (order_key){ unit_block(changes[i].unit), i };
    }
    qsort(order, n, sizeof *order, later_block_first);
    job j = { e, db, o, &sk, blocks };
    out->anchor_psi = anchor.psi = out->memory + n * out->dim;
    BB_TRY(measure_one(&j, out, &anchor, err));
    out->anchor_kl = anchor.kl;
    bb_progress_start(&progress, "measure options", n);
    for (size_t i = 0; i < n; i++) {
        BB_TRY(measure_one(&j, out, &changes[order[i].index], err));
        bb_progress_add(&progress, 1);
    }
    bb_progress_end(&progress);
done:
    sketch_done(&sk);
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
    size_t n = s->n + 1;
    if (n > 65536) return BB_FAIL(err, BB_NOMEM, "a Gram matrix of %zu options is too large: use fewer formats", n);
    #pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i += ROWS)
        bb_sgemm_nt(n - i < ROWS ? n - i : ROWS, n, s->dim, 1.0f, s->memory + i * s->dim, s->dim, s->memory, s->dim, 0.0f, gram + i * n, n);
    return BB_OK;
}
