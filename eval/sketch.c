/* SPDX-License-Identifier: GPL-3.0-or-later
 * sketch.c: see sketch.h. With the base's head W the logits are linear in the normed state n: psi_tj = s_tj . (n'_t - n_t), where
 * s_tj = (W[v_tj] - E_p W) / sqrt(k T) is kept. With another head W' the two sides have probes of their own. */
#include "eval/sketch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "model/net/host.h"

enum { ROWS = 256, VOCAB = 1024, LOGITS = 16 << 20 }; /* tokens, and rows of the head, at once; numbers of the logits of those tokens */

struct bb_sketch {
    const bb_backend *backend;
    const bb_net     *net;
    const float      *h;
    size_t            n_rows;
    uint32_t          k, C;
    int32_t          *label; /* [n_rows * k] v_tj */
    float            *probe; /* (n_rows * k, C) */
    float            *state; /* (n_rows, C): normed states of the base */
};

/* Tokens at once: fewer where the vocabulary is large. */
static size_t rows_of(const bb_sketch *s)
{
    const size_t rows = LOGITS / s->net->n_vocab;
    return rows >= ROWS ? ROWS : rows ? rows : 1;
}

/* Rows of z (n, V) from logits to probabilities, in place. */
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

static int32_t draw(const float *p, uint32_t V, double u)
{
    double sum = 0;
    for (uint32_t v = 0; v < V; v++)
        if ((sum += (double)p[v]) > u) return (int32_t)v;
    return (int32_t)V - 1;
}

static void decode_rows(const bb_matrix *w, size_t first, size_t n, float *out)
{
    const bb_format *f = bb_format_get(w->type);
    size_t           row_bytes = bb_format_row_bytes(f, w->cols);
    for (size_t i = 0; i < n; i++) f->decode((const char *)w->data + (first + i) * row_bytes, out + i * w->cols, w->cols);
}

/* mean (n, C) = p W, with the head in pieces so that a large one is never decoded whole. */
static void mean_row(const bb_matrix *w, const float *p, size_t n, float *piece, float *mean)
{
    memset(mean, 0, n * w->cols * sizeof *mean);
    for (size_t v = 0; v < w->rows; v += VOCAB) {
        size_t m = w->rows - v < VOCAB ? w->rows - v : VOCAB;
        decode_rows(w, v, m, piece);
        bb_sgemm_nn(n, w->cols, m, 1.0f, p + v, w->rows, piece, w->cols, 1.0f, mean, w->cols);
    }
}

/* Probes of tokens first .. first + n - 1 under `head`, from their labels and the mean rows; slope (n, V): of the logits' cap, NULL: 1. */
static void fill_probes(const bb_sketch *s, const bb_matrix *head, size_t first, size_t n, const float *mean, const float *slope, float *probe)
{
    float scale = (float)(1.0 / sqrt((double)s->k * (double)s->n_rows));
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < n; t++)
        for (uint32_t j = 0; j < s->k; j++) {
            float       *out = probe + (t * s->k + j) * s->C;
            const size_t label = (size_t)s->label[(first + t) * s->k + j];
            const float  steep = slope ? slope[t * head->rows + label] : 1;
            decode_rows(head, label, 1, out);
            for (uint32_t c = 0; c < s->C; c++) out[c] = (steep * out[c] - mean[t * s->C + c]) * scale;
        }
}

static void draw_labels(bb_sketch *s, size_t first, size_t n, const float *p, uint32_t V, uint64_t seed)
{
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < n; t++) {
        char   name[32];
        bb_rng rng;
        snprintf(name, sizeof name, "probe %zu", first + t); /* a token's labels do not depend on how many tokens there are */
        bb_rng_init(&rng, seed, name);
        for (uint32_t j = 0; j < s->k; j++) s->label[(first + t) * s->k + j] = draw(p + t * V, V, bb_rng_uniform(&rng));
    }
}

typedef struct scratch {
    float *p, *mean, *piece, *slope;
} scratch;

static bb_status scratch_init(const bb_sketch *s, scratch *w, bb_err *err)
{
    w->p = BB_NEW(rows_of(s) * s->net->n_vocab, float, err);
    w->mean = BB_NEW(rows_of(s) * s->C, float, err);
    w->piece = BB_NEW((size_t)VOCAB * s->C, float, err);
    if (s->net->logit_cap > 0 && !(w->slope = BB_NEW(rows_of(s) * s->net->n_vocab, float, err))) return BB_NOMEM;
    return w->p && w->mean && w->piece ? BB_OK : BB_NOMEM;
}

static void scratch_done(scratch *w)
{
    bb_free(w->p);
    bb_free(w->mean);
    bb_free(w->piece);
    bb_free(w->slope);
}

/* From logits to probabilities, and what the cap makes of a change of each logit. */
static void predict(const bb_sketch *s, const scratch *w, size_t n)
{
    for (size_t i = 0; w->slope && i < n * s->net->n_vocab; i++) w->slope[i] = bb_cap_slope(s->net->logit_cap, w->p[i]);
    softmax_rows(w->p, n, s->net->n_vocab);
}

/* The mean rows of `head`; p is lost. */
static void mean_rows(const bb_sketch *s, const bb_matrix *head, const scratch *w, size_t n)
{
    for (size_t i = 0; w->slope && i < n * s->net->n_vocab; i++) w->p[i] *= w->slope[i];
    mean_row(head, w->p, n, w->piece, w->mean);
}

bb_status bb_sketch_create(const bb_backend *backend, const bb_net *net, const float *h, size_t n_rows, uint32_t probes, uint64_t seed, bb_sketch **out,
                           bb_err *err)
{
    bb_status   status = BB_NOMEM;
    bb_forward *forward = NULL;
    scratch     w = { NULL };
    bb_sketch  *s = BB_NEW0(1, bb_sketch, err);
    *out = NULL;
    if (!s) return BB_NOMEM;
    *s = (bb_sketch) { backend, net, h, n_rows, probes, net->n_embd, NULL, NULL, NULL };
    s->label = BB_NEW(n_rows * probes, int32_t, err);
    s->probe = BB_NEW(n_rows * probes * s->C, float, err);
    s->state = BB_NEW(n_rows * s->C, float, err);
    if (!s->label || !s->probe || !s->state || scratch_init(s, &w, err) != BB_OK) goto done;
    BB_TRY(bb_forward_create(backend, net, 1, (uint32_t)rows_of(s), &forward, err));
    for (size_t first = 0, rows = rows_of(s); first < n_rows; first += rows) {
        size_t n = n_rows - first < rows ? n_rows - first : rows;
        BB_TRY(bb_host_logits(forward, net, h + first * s->C, n, w.p, err));
        predict(s, &w, n);
        draw_labels(s, first, n, w.p, net->n_vocab, seed);
        mean_rows(s, bb_net_head(net), &w, n);
        fill_probes(s, bb_net_head(net), first, n, w.mean, w.slope, s->probe + first * probes * s->C);
        for (size_t t = first; t < first + n; t++) bb_host_output_norm(net, h + t * s->C, s->state + t * s->C);
    }
    *out = s;
    s = NULL;
done:
    bb_forward_destroy(forward);
    scratch_done(&w);
    bb_sketch_destroy(s);
    return status;
}

void bb_sketch_destroy(bb_sketch *s)
{
    if (!s) return;
    bb_free(s->label);
    bb_free(s->probe);
    bb_free(s->state);
    bb_free(s);
}

static float dot(const float *a, const float *b, uint32_t n)
{
    float sum = 0;
    for (uint32_t c = 0; c < n; c++) sum += a[c] * b[c];
    return sum;
}

static bb_status project_same_head(const bb_sketch *s, const bb_net *net, const float *h, float *psi, bb_err *err)
{
    float *delta = BB_NEW(s->n_rows * s->C, float, err);
    if (!delta) return BB_NOMEM;
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < s->n_rows; t++) {
        float *d = delta + t * s->C;
        bb_host_output_norm(net, h + t * s->C, d);
        for (uint32_t c = 0; c < s->C; c++) d[c] -= s->state[t * s->C + c];
        for (uint32_t j = 0; j < s->k; j++) psi[t * s->k + j] = dot(s->probe + (t * s->k + j) * s->C, d, s->C);
    }
    bb_free(delta);
    return BB_OK;
}

static bb_status project_other_head(const bb_sketch *s, const bb_net *net, const float *h, float *psi, bb_err *err)
{
    bb_status        status = BB_NOMEM;
    bb_forward      *forward = NULL;
    const bb_matrix *head = bb_net_head(net);
    scratch          w = { NULL };
    float           *probe = BB_NEW(rows_of(s) * s->k * s->C, float, err), *state = BB_NEW(rows_of(s) * s->C, float, err);
    if (!probe || !state || scratch_init(s, &w, err) != BB_OK) goto done;
    BB_TRY(bb_forward_create(s->backend, s->net, 1, (uint32_t)rows_of(s), &forward, err));
    for (size_t first = 0, rows = rows_of(s); first < s->n_rows; first += rows) {
        size_t n = s->n_rows - first < rows ? s->n_rows - first : rows;
        BB_TRY(bb_host_logits(forward, s->net, s->h + first * s->C, n, w.p, err)); /* the base's p again: keeping it would take T x V */
        predict(s, &w, n);
        mean_rows(s, head, &w, n);
        fill_probes(s, head, first, n, w.mean, w.slope, probe);
#pragma omp parallel for schedule(static)
        for (size_t t = 0; t < n; t++) {
            const float *base = s->state + (first + t) * s->C;
            bb_host_output_norm(net, h + (first + t) * s->C, state + t * s->C);
            for (uint32_t j = 0; j < s->k; j++) {
                size_t at = (first + t) * s->k + j;
                psi[at] = dot(probe + (t * s->k + j) * s->C, state + t * s->C, s->C) - dot(s->probe + at * s->C, base, s->C);
            }
        }
    }
done:
    bb_forward_destroy(forward);
    scratch_done(&w);
    bb_free(probe);
    bb_free(state);
    return status;
}

bb_status bb_sketch_project(const bb_sketch *s, const bb_net *net, const float *h, float *psi, bb_err *err)
{
    const bb_matrix *a = bb_net_head(s->net), *b = bb_net_head(net);
    if (a->type == b->type && a->data == b->data) return project_same_head(s, net, h, psi, err);
    return project_other_head(s, net, h, psi, err);
}
