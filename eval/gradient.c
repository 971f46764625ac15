/* SPDX-License-Identifier: GPL-3.0-or-later
 * gradient.c: see gradient.h. All passes go through the same block before the next one: dL/dh of the loss and of each set of labels are kept side by side. */
#include "eval/gradient.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "model/compress/compress.h"
#include "model/net/backward.h"
#include "model/net/host.h"

enum { LOGIT_ROWS = 64, CHUNK = 32 /* rows of a matrix that are one piece of parallel work */ };

typedef struct gradient {
    bb_net_evaluator          *e;
    const bb_net              *net;
    const bb_gradient_options *o;
    const bb_gradient_visitor *v;
    const bb_windows          *w;
    bb_net_states              s;
    bb_backward               *back;
    size_t                     C, V, n, n_rows; /* positions, scored positions */
    bb_buffer                 *dh;              /* [1 + labels] (n, W) */
    bb_buffer                  rows;            /* (n_rows, C) */
    int32_t                   *labels;          /* [labels][n_rows] */
    int32_t                   *ids;             /* [n] and */
    float                     *d_token;         /* (n, P): of what tokens give to the block at hand; NULL: not wanted */
    size_t                     n_token;         /* positions in them */
    float                     *d_embd, *d_head; /* (V, C); d_head NULL: tied, all is in d_embd. Both NULL: not wanted */
    double                    *spread, *share;  /* [V] */
} gradient;

/* ---- the head ---- */

typedef struct label_draw {
    size_t   first, n, n_rows, V;
    uint32_t sets;
    uint64_t seed;
    float   *z;
    int32_t *labels;
} label_draw;

/* z (n, V) from logits to probabilities; labels of rows first .. first + n - 1, which do not depend on how many rows there are. */
static void draw_labels(const label_draw *d)
{
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < d->n; t++) {
        float *row = d->z + t * d->V, top = row[0];
        double sum = 0;
        char   name[32];
        bb_rng rng;
        for (size_t v = 1; v < d->V; v++) top = row[v] > top ? row[v] : top;
        for (size_t v = 0; v < d->V; v++) sum += (double)(row[v] = expf(row[v] - top));
        for (size_t v = 0; v < d->V; v++) row[v] = (float)((double)row[v] / sum);
        snprintf(name, sizeof name, "label %zu", d->first + t);
        bb_rng_init(&rng, d->seed, name);
        for (uint32_t k = 0; k < d->sets; k++) {
            const double u = bb_rng_uniform(&rng);
            double       below = 0;
            size_t       v = 0;
            while (v + 1 < d->V && (below += (double)row[v]) <= u) v++;
            d->labels[k * d->n_rows + d->first + t] = (int32_t)v;
        }
    }
}

/* Labels from the network's own predictions, and the mean of p (1 - p), the variance of what reaches the head's product, for each entry of the vocabulary. */
static bb_status make_labels(gradient *g, bb_err *err)
{
    const float cap = g->net->logit_cap;
    bb_forward *f = NULL;
    float      *z = BB_NEW(LOGIT_ROWS * g->V, float, err), *slope = cap > 0 ? BB_NEW(LOGIT_ROWS * g->V, float, err) : NULL;
    bb_status   status = BB_NOMEM;
    if (!z || (cap > 0 && !slope) || !(g->labels = BB_NEW(g->o->labels * g->n_rows, int32_t, err)) || !(g->spread = BB_NEW0(g->V, double, err)) ||
        !(g->share = BB_NEW0(g->V, double, err)))
        goto done;
    BB_TRY(bb_forward_create(g->s.backend, g->net, 1, LOGIT_ROWS, &f, err));
    for (size_t at = 0; at < g->n_rows; at += LOGIT_ROWS) {
        const size_t     m = g->n_rows - at < LOGIT_ROWS ? g->n_rows - at : LOGIT_ROWS;
        const label_draw d = { at, m, g->n_rows, g->V, g->o->labels, g->o->seed, z, g->labels };
        BB_TRY(bb_forward_logits(f, g->net, bb_buffer_at(g->s.scored, at * g->C), m, z, err));
        for (size_t i = 0; slope && i < m * g->V; i++) slope[i] = bb_cap_slope(cap, z[i]);
        draw_labels(&d);
#pragma omp parallel for schedule(static)
        for (size_t v = 0; v < g->V; v++)
            for (size_t t = 0; t < m; t++) {
                const double p = (double)z[t * g->V + v], s = slope ? (double)slope[t * g->V + v] : 1;
                g->spread[v] += s * s * p * (1 - p) / (double)g->n_rows;
            }
    }
    for (size_t i = 0; i < g->n; i++) g->share[g->w->tokens[i]] += 1 / (double)g->n;
done:
    bb_forward_destroy(f);
    bb_free(slope);
    bb_free(z);
    return status;
}

/* dh (n, W) := rows at the scored positions, zero elsewhere, and where they carry something. */
static bb_status scatter_rows(const gradient *g, bb_buffer dh, bb_err *err)
{
    const bb_operations *ops = g->s.backend->ops;
    void                *context = g->s.backend->context;
    const size_t         C = g->C, W = bb_row_width(g->net), n = g->w->n_scored;
    float               *zeros = BB_NEW0(g->w->ctx * W, float, err);
    bb_status            status = zeros ? BB_OK : BB_NOMEM;
    for (size_t i = 0; i < g->w->n && status == BB_OK; i++) {
        const bb_buffer window = bb_buffer_at(dh, i * g->w->ctx * W);
        BB_TRY(ops->write(context, window, zeros, g->w->ctx * W, err));
        BB_TRY(ops->copy_rows(context, bb_buffer_at(g->rows, i * n * C), C, bb_buffer_at(window, g->w->first * W), W, n, C, err));
    }
done:
    bb_free(zeros);
    return status;
}

static bb_status back_heads(gradient *g, bb_err *err)
{
    bb_status          status = BB_NOMEM;
    float             *weight = BB_NEW(g->n_rows, float, err);
    const bb_head_grad grad = { .head = g->d_head ? g->d_head : g->d_embd };
    bb_head_loss       of = { .ref_net = g->s.reference_net, .h_ref = g->s.reference, .weight = weight };
    if (!weight) goto done;
    for (size_t i = 0; i < g->n_rows; i++) weight[i] = (float)(1 / (double)g->n_rows);
    if (!g->o->second) {
        BB_TRY(bb_backward_head(g->back, g->net, g->s.scored, g->n_rows, &of, NULL, g->rows, &grad, err));
        BB_TRY(scatter_rows(g, g->dh[0], err));
    }
    for (uint32_t k = 0; k < g->o->labels; k++) {
        of = (bb_head_loss) { .targets = g->labels + k * g->n_rows };
        BB_TRY(bb_backward_head(g->back, g->net, g->s.scored, g->n_rows, &of, NULL, g->rows, NULL, err));
        BB_TRY(scatter_rows(g, g->dh[1 + k], err));
    }
done:
    bb_free(weight);
    return status;
}

/* ---- one block ---- */

/* What the passes of labels add up. */
typedef struct moments {
    const bb_block *block;
    uint32_t        chunk;
    bb_hessian      in[BB_N_FEEDS], out[BB_N_PARTS];
    double         *sum[BB_N_FEEDS]; /* [cols] of inputs; in the end their mean */
    int             taken[BB_N_FEEDS];
    uint32_t        most;   /* rows of a matrix that has moments of gradients; 0: all have */
    bool            inputs; /* in the first pass: they are the same in all */
    bb_hessian      token;  /* of the gradients at what tokens give */
    uint32_t        n_token;
} moments;

static bb_status add_moments(void *self, bb_part part, const float *x, const float *dy, size_t n, bb_err *err)
{
    moments       *m = self;
    const uint32_t rows = m->block->w[part].rows, cols = m->block->w[part].cols;
    const bb_feed  feed = bb_parts[part].feed;
    bb_status      status = BB_OK;
    if (!m->most || rows <= m->most) BB_TRY(bb_hessian_add(&m->out[part], dy, n, rows, m->chunk, err));
    if (m->taken[feed] < 0) m->taken[feed] = (int)part;
    if (!m->inputs || m->taken[feed] != (int)part) goto done; /* parts that share an input tell it once */
    BB_TRY(bb_hessian_add(&m->in[feed], x, n, cols, m->chunk, err));
    if (!m->sum[feed] && !(m->sum[feed] = BB_NEW0(cols, double, err))) status = BB_NOMEM;
    for (size_t t = 0; t < n && status == BB_OK; t++)
        for (uint32_t c = 0; c < cols; c++) m->sum[feed][c] += (double)x[t * cols + c];
done:
    return status;
}

static bb_status add_token_moments(void *self, const int32_t *ids, const float *d, size_t n, bb_err *err)
{
    moments *m = self;
    (void)ids;
    return bb_hessian_add(&m->token, d, n, m->n_token, m->chunk, err);
}

static bb_status keep_token(void *self, const int32_t *ids, const float *d, size_t n, bb_err *err)
{
    gradient    *g = self;
    const size_t P = g->net->token.width;
    (void)err;
    memcpy(g->ids + g->n_token, ids, n * sizeof *ids);
    memcpy(g->d_token + g->n_token * P, d, n * P * sizeof *d);
    g->n_token += n;
    return BB_OK;
}

static bb_status finish_moments(moments *m, size_t n, bb_err *err)
{
    bb_status status = BB_OK;
    for (int f = 0; f < BB_N_FEEDS; f++) {
        for (uint32_t c = 0; m->sum[f] && c < m->in[f].n_cols; c++) m->sum[f][c] /= (double)n;
        BB_TRY(bb_hessian_finish(&m->in[f], err));
    }
    for (int p = 0; p < BB_N_PARTS; p++) BB_TRY(bb_hessian_finish(&m->out[p], err));
    BB_TRY(bb_hessian_finish(&m->token, err));
done:
    return status;
}

static void moments_done(moments *m)
{
    for (int f = 0; f < BB_N_FEEDS; f++) {
        bb_hessian_done(&m->in[f]);
        bb_free(m->sum[f]);
    }
    for (int p = 0; p < BB_N_PARTS; p++) bb_hessian_done(&m->out[p]);
    bb_hessian_done(&m->token);
}

static bb_status back_one(gradient *g, uint32_t layer, const bb_block *block, bb_err *err)
{
    bb_matrix_gradient part[BB_N_PARTS] = { { 0 } };
    bb_block_grad      grad = { 0 };
    moments            m = { .block = block, .chunk = g->w->ctx, .most = g->o->rows, .inputs = !g->o->second, .n_token = block->n_token };
    const bool         token = g->d_token && block->n_token;
    const bb_buffer    h = bb_buffer_at(g->s.boundary, layer * g->n * bb_row_width(g->net));
    bb_status          status = BB_NOMEM;
    for (int f = 0; f < BB_N_FEEDS; f++) m.taken[f] = -1;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bb_matrix *w = &block->w[p];
        if (g->o->second || !bb_block_has_part(block, (bb_part)p)) continue;
        if (!(grad.w[p] = BB_NEW0((size_t)w->rows * w->cols, float, err)) || !(grad.bias[p] = BB_NEW0(w->rows, float, err))) goto done;
    }
    grad.embd = g->d_embd;
    if (token) {
        grad.token_hook = keep_token;
        grad.token_self = g;
        g->n_token = 0;
    }
    if (!g->o->second) BB_TRY(bb_backward_block(g->back, g->net, block, g->w->n, g->w->ctx, h, g->dh[0], &grad, err));
    for (uint32_t k = 0; k < g->o->labels; k++, m.inputs = false) {
        const bb_block_grad tell = { .hook = add_moments, .hook_self = &m, .token_hook = token ? add_token_moments : NULL, .token_self = &m };
        BB_TRY(bb_backward_block(g->back, g->net, block, g->w->n, g->w->ctx, h, g->dh[1 + k], &tell, err));
    }
    BB_TRY(finish_moments(&m, g->n, err));
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bb_feed feed = bb_parts[p].feed;
        if (!bb_block_has_part(block, (bb_part)p)) continue;
        part[p] = (bb_matrix_gradient) { block->w[p].rows, block->w[p].cols, grad.w[p],  grad.bias[p],
                                         m.in[feed].h,     m.sum[feed],      m.out[p].h, (double)g->n / (double)g->n_rows };
    }
    BB_TRY(g->v->block(g->v->self, layer, block, part, err));
    if (token) {
        const bb_token_gradient of = { g->ids, g->d_token, g->n_token, block->n_token, m.token.h, (double)g->n / (double)g->n_rows };
        BB_TRY(g->v->token(g->v->self, layer, &of, err));
    }
done:
    for (int p = 0; p < BB_N_PARTS; p++) {
        bb_free(grad.w[p]);
        bb_free(grad.bias[p]);
    }
    moments_done(&m);
    return status;
}

static bb_status back_blocks(gradient *g, bb_err *err)
{
    bb_status   status = BB_OK;
    bb_progress progress;
    bb_progress_start(&progress, "gradient, blocks", g->net->n_layer);
    for (uint32_t layer = g->net->n_layer; layer-- > 0;) {
        bb_block block = g->net->blocks[layer];
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted inside a gradient");
        if (g->v->shape) BB_TRY(g->v->shape(g->v->self, layer, &block, err));
        BB_TRY(back_one(g, layer, &block, err));
        if (!bb_block_same(&block, &g->net->blocks[layer])) g->s.backend->ops->forget(g->s.backend->context); /* its matrices go now */
        bb_progress_add(&progress, 1);
    }
    bb_progress_end(&progress);
done:
    return status;
}

/* ---- the tables ---- */

/* Second moments of what the head reads: the scored states behind the output norm. */
static bb_status head_inputs(const gradient *g, bb_hessian *out, bb_err *err)
{
    const bb_operations *ops = g->s.backend->ops;
    const float         *h = NULL;
    float               *x = BB_NEW(g->n_rows * g->C, float, err);
    bb_status            status = BB_NOMEM;
    if (!x) return BB_NOMEM;
    BB_TRY(ops->peek(g->s.backend->context, g->s.scored, g->n_rows * g->C, &h, err));
    for (size_t t = 0; t < g->n_rows; t++) bb_host_output_norm(g->net, h + t * g->C, x + t * g->C);
    BB_TRY(bb_hessian_add(out, x, g->n_rows, (uint32_t)g->C, g->w->n_scored, err));
    BB_TRY(bb_hessian_finish(out, err));
done:
    ops->unpeek(g->s.backend->context, h);
    bb_free(x);
    return status;
}

static bb_status tell_tables(gradient *g, bb_err *err)
{
    const bb_operations *ops = g->s.backend->ops;
    const bool           tied = g->net->head.rows == 0;
    const float          s = g->net->embd_scale;
    bb_hessian           head = { 0 }, embd = { 0 };
    bb_table_gradient    t = { .weight = (double)g->n / (double)g->n_rows };
    const float         *dh = NULL;
    float               *stream = g->net->n_carried ? BB_NEW(g->n * g->C, float, err) : NULL; /* of what the table is for the stream, not for BB_TOKEN */
    bb_status            status = g->net->n_carried && !stream ? BB_NOMEM : BB_OK;
    BB_TRY(status);
    BB_TRY(bb_backward_embed(g->s.backend, g->net, g->w->tokens, g->n, g->dh[0], g->d_embd, err));
    if (g->o->labels) BB_TRY(head_inputs(g, &head, err));
    for (uint32_t k = 0; k < g->o->labels; k++) {
        BB_TRY(ops->peek(g->s.backend->context, g->dh[1 + k], g->n * bb_row_width(g->net), &dh, err));
        if (stream) bb_host_streams(g->net, dh, g->n, stream);
        BB_TRY(bb_hessian_add(&embd, stream ? stream : dh, g->n, (uint32_t)g->C, g->w->ctx, err));
        ops->unpeek(g->s.backend->context, dh);
        dh = NULL;
    }
    BB_TRY(bb_hessian_finish(&embd, err));
    for (size_t i = 0; embd.h && bb_scales(s) && i < g->C * g->C; i++) embd.h[i] *= s * s; /* from the stream to the table */
    t.dw = g->d_embd;
    t.out = embd.h;
    t.share = g->share;
    t.in = tied ? head.h : NULL;
    t.spread = tied ? g->spread : NULL;
    BB_TRY(g->v->table(g->v->self, false, &t, err));
    if (tied) goto done;
    t = (bb_table_gradient) { .dw = g->d_head, .in = head.h, .spread = g->spread, .weight = t.weight };
    BB_TRY(g->v->table(g->v->self, true, &t, err));
done:
    ops->unpeek(g->s.backend->context, dh);
    bb_free(stream);
    bb_hessian_done(&head);
    bb_hessian_done(&embd);
    return status;
}

/* ---- all ---- */

static bb_status allocate(gradient *g, bb_err *err)
{
    bb_status status = BB_NOMEM;
    if (!(g->dh = BB_NEW0(1 + g->o->labels, bb_buffer, err))) goto done;
    for (uint32_t k = g->o->second; k <= g->o->labels; k++) BB_TRY(bb_alloc_states(g->s.backend, g->n * bb_row_width(g->net), &g->dh[k], err));
    BB_TRY(bb_alloc_states(g->s.backend, g->n_rows * g->C, &g->rows, err));
    if (g->v->table) {
        status = BB_NOMEM;
        if (!(g->d_embd = BB_NEW0(g->V * g->C, float, err))) goto done;
        if (g->net->head.rows && !(g->d_head = BB_NEW0(g->V * g->C, float, err))) goto done;
    }
    if (g->v->token && g->net->token.width) {
        status = BB_NOMEM;
        if (!(g->ids = BB_NEW(g->n, int32_t, err)) || !(g->d_token = BB_NEW(g->n * g->net->token.width, float, err))) goto done;
    }
    status = bb_backward_create(g->s.backend, g->o->widest, g->w->n, g->w->ctx, &g->back, err);
done:
    return status;
}

static void gradient_done(gradient *g)
{
    const bb_operations *ops = g->s.backend->ops;
    for (uint32_t k = 0; g->dh && k <= g->o->labels; k++) ops->release(g->s.backend->context, g->dh[k]);
    ops->release(g->s.backend->context, g->rows);
    bb_backward_destroy(g->back);
    bb_free(g->dh);
    bb_free(g->labels);
    bb_free(g->ids);
    bb_free(g->d_token);
    bb_free(g->d_embd);
    bb_free(g->d_head);
    bb_free(g->spread);
    bb_free(g->share);
}

bb_status bb_gradient_run(bb_net_evaluator *e, const bb_net *net, const bb_gradient_options *o, const bb_gradient_visitor *visitor, bb_evaluation *out,
                          bb_err *err)
{
    const bb_windows *w = o->windows;
    gradient          g = { .e = e, .net = net, .o = o, .v = visitor, .w = w, .C = net->n_embd, .V = net->n_vocab };
    bb_status         status = bb_net_evaluator_states(e, o->level, &g.s, err);
    if (status != BB_OK) return status;
    g.n = (size_t)w->n * w->ctx;
    g.n_rows = (size_t)w->n * w->n_scored;
    BB_TRY(bb_net_evaluator_score(e, net, o->level, out, NULL, err));
    BB_TRY(allocate(&g, err));
    if (o->second) bb_backward_rough(g.back, true); /* moments of what was drawn are of noise anyway */
    if (o->labels) BB_TRY(make_labels(&g, err));
    BB_TRY(back_heads(&g, err));
    BB_TRY(back_blocks(&g, err));
    if (visitor->table) BB_TRY(tell_tables(&g, err));
    out->n_forwarded = (double)g.n * ((o->second ? 1 : 3) + 2 * o->labels);
done:
    gradient_done(&g);
    return status;
}

/* ---- windows ---- */

static const double most_bytes = 512 << 20; /* of the states at the boundaries of the blocks */

uint32_t bb_gradient_count(const bb_net *net, uint32_t n, uint32_t ctx, uint32_t most)
{
    const double window = (net->n_layer + 4.0) * ctx * (double)bb_row_width(net) * sizeof(float);
    if (most * window > most_bytes) most = window * 1.5 > most_bytes ? 1 : (uint32_t)(most_bytes / window);
    return n < most ? n : most;
}

bb_status bb_gradient_windows(const bb_windows *w, uint32_t of, uint32_t first, uint32_t step, bb_windows *out, bb_err *err)
{
    const size_t row = w->ctx;
    *out = (bb_windows) { .ctx = w->ctx, .n = (of - first + step - 1) / step, .first = w->ctx / 8 };
    out->n_scored = out->ctx - 1 - out->first; /* nothing is compared with a protocol's numbers */
    out->tokens = BB_NEW(out->n * row, int32_t, err);
    out->targets = BB_NEW(out->n * row, int32_t, err);
    if (!out->tokens || !out->targets) {
        bb_windows_done(out);
        return BB_NOMEM;
    }
    for (uint32_t i = 0; i < out->n; i++) {
        const size_t from = (size_t)((uint64_t)(first + i * step) * w->n / of) * row;
        memcpy(out->tokens + i * row, w->tokens + from, row * sizeof(int32_t));
        memcpy(out->targets + i * row, w->targets + from, row * sizeof(int32_t));
    }
    return BB_OK;
}

/* ---- what a change does ---- */

double bb_gradient_first(const bb_matrix_gradient *g, const float *d, const float *bias)
{
    double sum = 0;
    for (size_t i = 0; i < (size_t)g->rows * g->cols; i++) sum += (double)g->dw[i] * (double)d[i];
    for (size_t r = 0; bias && r < g->rows; r++) sum += (double)g->db[r] * (double)bias[r];
    return sum;
}

/* Rows at .. at + n - 1 of D: sum of (G D) (D A), and of the bias column. scratch: 2 * CHUNK * cols. */
static double curvature_of_rows(const bb_matrix_gradient *g, const float *d, const float *bias, size_t at, size_t n, float *scratch)
{
    float *da = scratch, *gd = scratch + (size_t)CHUNK * g->cols;
    double sum = 0;
    bb_sgemm_nn(n, g->cols, g->cols, 1, d + at * g->cols, g->cols, g->in, g->cols, 0, da, g->cols);
    bb_sgemm_nn(n, g->cols, g->rows, 1, g->out + at * g->rows, g->rows, d, g->cols, 0, gd, g->cols);
    for (size_t i = 0; i < n * g->cols; i++) sum += (double)da[i] * (double)gd[i];
    for (size_t r = 0; bias && r < n; r++) {
        double gb = 0, dm = 0;
        for (size_t j = 0; j < g->rows; j++) gb += (double)g->out[(at + r) * g->rows + j] * (double)bias[j];
        for (size_t c = 0; c < g->cols; c++) dm += (double)d[(at + r) * g->cols + c] * g->in_mean[c];
        sum += gb * (2 * dm + (double)bias[at + r]);
    }
    return sum;
}

bb_status bb_gradient_second(const bb_matrix_gradient *g, const float *d, const float *bias, double *second, bb_err *err)
{
    const size_t n = (g->rows + CHUNK - 1) / CHUNK;
    double      *sums = BB_NEW0(n, double, err);
    bool         no_memory = false;
    *second = 0;
    if (!sums) return BB_NOMEM;
    if (!g->in) goto done;
#pragma omp parallel
    {
        float *scratch = BB_NEW((size_t)2 * CHUNK * g->cols, float, NULL);
        if (!scratch) {
#pragma omp atomic write
            no_memory = true;
        }
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < n; i++)
            if (scratch) sums[i] = curvature_of_rows(g, d, bias, i * CHUNK, g->rows - i * CHUNK < CHUNK ? g->rows - i * CHUNK : CHUNK, scratch);
        bb_free(scratch);
    }
    for (size_t i = 0; i < n; i++) *second += 0.5 * g->weight * sums[i];
done:
    bb_free(sums);
    return no_memory ? BB_FAIL(err, BB_NOMEM, "out of memory in the curvature of a matrix") : BB_OK;
}

/* sum over rows of factor[row] d_row' M d_row. */
static bb_status weighted_squares(const float *d, size_t n, size_t cols, const float *m, const double *factor, double *sum, bb_err *err)
{
    float *dm = BB_NEW(n * cols, float, err);
    if (!dm) return BB_NOMEM;
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < n; at += CHUNK) bb_sgemm_nn(n - at < CHUNK ? n - at : CHUNK, cols, cols, 1, d + at * cols, cols, m, cols, 0, dm + at * cols, cols);
    for (size_t r = 0; r < n; r++) {
        double square = 0;
        for (size_t c = 0; c < cols; c++) square += (double)d[r * cols + c] * (double)dm[r * cols + c];
        *sum += factor[r] * square;
    }
    bb_free(dm);
    return BB_OK;
}

bb_status bb_gradient_token(const bb_token_gradient *g, const float *d, double *first, double *second, bb_err *err)
{
    double   *each = NULL, sum = 0;
    bb_status status = BB_OK;
    for (size_t i = 0; i < g->n * g->cols; i++) *first += (double)g->d[i] * (double)d[i];
    if (!g->out) goto done;
    if (!(each = BB_NEW(g->n, double, err))) return BB_NOMEM;
    for (size_t i = 0; i < g->n; i++) each[i] = 1 / (double)g->n;
    BB_TRY(weighted_squares(d, g->n, g->cols, g->out, each, &sum, err));
    *second += 0.5 * g->weight * sum;
done:
    bb_free(each);
    return status;
}

bb_status bb_gradient_table(const bb_table_gradient *g, uint32_t cols, size_t first, size_t n, const float *d, double *first_order, double *second, bb_err *err)
{
    bb_status status = BB_OK;
    double    as_head = 0, as_input = 0;
    for (size_t i = 0; i < n * cols; i++) *first_order += (double)g->dw[first * cols + i] * (double)d[i];
    if (g->in) BB_TRY(weighted_squares(d, n, cols, g->in, g->spread + first, &as_head, err));
    if (g->out) BB_TRY(weighted_squares(d, n, cols, g->out, g->share + first, &as_input, err));
    *second += 0.5 * (as_head + g->weight * as_input);
done:
    return status;
}
