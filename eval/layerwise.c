/* SPDX-License-Identifier: GPL-3.0-or-later
 * layerwise.c: see layerwise.h. */
#include "eval/layerwise.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "model/net/host.h"

#define NOISE 0.1 /* relative size of the injected noise: its KL is in the range of 4-bit formats */

const char *const bb_layerwise_names[BB_LAYERWISE_COUNT] = { "local error", "noise sensitivity", "gradient x change", "Fisher diagonal" };

/* The layer and the part of a linear; false for every other unit. */
static bool linear_unit(const bb_layerwise_input *in, const bb_change *c, uint32_t *layer, bb_part *part)
{
    const bb_plan_unit *unit = &in->space->units[c->unit];
    *layer = unit->layer;
    *part = (bb_part)unit->what;
    return unit->what < BB_N_PARTS;
}

static void decode(const bb_matrix *m, float *out)
{
    const bb_format *f = bb_format_get(m->type);
    size_t           row = bb_format_row_bytes(f, m->cols);
#pragma omp parallel for schedule(static)
    for (uint32_t i = 0; i < m->rows; i++) f->decode((const char *)m->data + i * row, out + (size_t)i * m->cols, m->cols);
}

/* kept share of the unit's block at full width, as the database counts it */
static bb_status option_matrix(const bb_layerwise_input *in, const bb_change *c, uint32_t layer, bb_part part, bb_matrix *m, bb_quant_stats *stats, bb_err *err)
{
    memset(stats, 0, sizeof *stats);
    return bb_database_matrix(in->db, layer, part, bb_part_kept(&in->model->net.blocks[layer], part),
                              (bb_type)in->space->units[c->unit].options[c->option].value, m, stats, err);
}

/* ---- sensitivities of one matrix ---- */

typedef struct gradients {
    float *sum[BB_N_PARTS];    /* (rows, cols) dL/dW */
    float *square[BB_N_PARTS]; /* (rows, cols) sum over tokens of (dy x)^2 */
} gradients;

static void gradients_done(gradients *g)
{
    for (int p = 0; p < BB_N_PARTS; p++) {
        bb_free(g->sum[p]);
        bb_free(g->square[p]);
    }
    memset(g, 0, sizeof *g);
}

typedef struct hook_data {
    gradients      *g;
    const bb_block *block;
} hook_data;

static bb_status add_squares(void *self, bb_part part, const float *x, const float *dy, size_t n, bb_err *err)
{
    hook_data       *h = self;
    const bb_matrix *w = &h->block->w[part];
    float           *x2 = BB_NEW(n * w->cols, float, err), *dy2 = BB_NEW(n * w->rows, float, err);
    bb_status        status = x2 && dy2 ? BB_OK : BB_NOMEM;
    if (status == BB_OK) {
        for (size_t i = 0; i < n * w->cols; i++) x2[i] = x[i] * x[i];
        for (size_t i = 0; i < n * w->rows; i++) dy2[i] = dy[i] * dy[i];
        bb_sgemm_tn(w->rows, w->cols, n, 1.0f, dy2, w->rows, x2, w->cols, 1.0f, h->g->square[part], w->cols);
    }
    bb_free(x2);
    bb_free(dy2);
    return status;
}

static bb_status gradients_init(gradients *g, const bb_block *block, bool fisher, bb_err *err)
{
    memset(g, 0, sizeof *g);
    for (int p = 0; p < BB_N_PARTS; p++) {
        size_t  size = (size_t)block->w[p].rows * block->w[p].cols;
        float **to = fisher ? &g->square[p] : &g->sum[p];
        if (size && !(*to = BB_NEW0(size, float, err))) return BB_NOMEM;
    }
    return BB_OK;
}

/* Next tokens, or labels drawn from the model's own distribution; weight 0 where nothing is scored. */
static bb_status make_labels(const bb_layerwise_input *in, bb_forward *f, const float *h, bool drawn, int32_t *label, float *weight, bb_err *err)
{
    const bb_windows *w = in->windows;
    const bb_net     *net = &in->model->net;
    bb_rng            rng;
    float            *z = BB_NEW(net->n_vocab, float, err);
    bb_status         status = z ? BB_OK : BB_NOMEM;
    bb_rng_init(&rng, in->seed, "layerwise labels");
    for (size_t i = 0; status == BB_OK && i < (size_t)w->n * w->ctx; i++) {
        uint32_t at = (uint32_t)(i % w->ctx);
        weight[i] = at >= w->first && at < w->first + w->n_scored ? 1.0f : 0.0f;
        label[i] = weight[i] > 0 ? w->targets[i] : 0;
        if (!drawn || !(weight[i] > 0)) continue;
        status = bb_host_logits(f, net, h + i * bb_row_width(net), 1, z, err);
        double top = -HUGE_VAL, sum = 0, u;
        for (uint32_t v = 0; v < net->n_vocab; v++) top = fmax(top, (double)z[v]);
        for (uint32_t v = 0; v < net->n_vocab; v++) sum += exp((double)z[v] - top);
        u = bb_rng_uniform(&rng) * sum;
        label[i] = (int32_t)net->n_vocab - 1;
        for (uint32_t v = 0; v < net->n_vocab; v++)
            if ((u -= exp((double)z[v] - top)) < 0) {
                label[i] = (int32_t)v;
                break;
            }
    }
    bb_free(z);
    return status;
}

/* Cost of every option of one block from its gradients. */
static bb_status block_costs(const bb_layerwise_input *in, uint32_t layer, const gradients *g, bool fisher, double *cost, bb_err *err)
{
    const bb_block *block = &in->model->net.blocks[layer];
    float          *w = NULL, *v = NULL;
    bb_status       status = BB_OK;
    size_t          largest = 0;
    double          n_tokens = (double)in->windows->n * in->windows->n_scored;
    for (int p = 0; p < BB_N_PARTS; p++) {
        size_t size = (size_t)block->w[p].rows * block->w[p].cols;
        largest = size > largest ? size : largest;
    }
    w = BB_NEW(largest, float, err);
    v = BB_NEW(largest, float, err);
    if (!w || !v) status = BB_NOMEM;
    for (size_t i = 0; status == BB_OK && i < in->n; i++) {
        uint32_t       at;
        bb_part        part;
        bb_matrix      m;
        bb_quant_stats stats;
        double         sum = 0;
        if (!linear_unit(in, &in->changes[i], &at, &part) || at != layer) continue;
        BB_TRY(option_matrix(in, &in->changes[i], layer, part, &m, &stats, err));
        decode(&block->w[part], w);
        decode(&m, v);
        for (size_t k = 0; k < (size_t)m.rows * m.cols; k++) {
            double d = (double)v[k] - (double)w[k];
            sum += fisher ? d * d * (double)g->square[part][k] : d * (double)g->sum[part][k];
        }
        cost[i] = fisher ? sum / 2 / n_tokens : fabs(sum) / n_tokens;
    }
done:
    bb_free(w);
    bb_free(v);
    return status;
}

static bb_status backward_costs(const bb_layerwise_input *in, bool fisher, double *cost, bb_err *err)
{
    const bb_net     *net = &in->model->net;
    const bb_windows *w = in->windows;
    size_t            rows = (size_t)w->n * w->ctx, size = rows * bb_row_width(net);
    bb_forward       *f = NULL;
    bb_backward      *b = NULL;
    gradients         g = { { NULL }, { NULL } };
    float            *h = BB_NEW((net->n_layer + 1) * size, float, err), *dh = BB_NEW0(size, float, err), *stream = BB_NEW(2 * rows * net->n_embd, float, err),
          *weight = BB_NEW(rows, float, err);
    int32_t  *label = BB_NEW(rows, int32_t, err);
    bb_status status = BB_NOMEM;
    if (!h || !dh || !stream || !weight || !label) goto done;
    BB_TRY(bb_forward_create(bb_net_evaluator_backend(in->evaluator), net, w->n, w->ctx, &f, err));
    BB_TRY(bb_backward_create(bb_net_evaluator_backend(in->evaluator), net, w->n, w->ctx, &b, err));
    BB_TRY(bb_host_embed(f, net, w->tokens, w->n, w->ctx, h, err));
    for (uint32_t l = 0; l < net->n_layer; l++) {
        memcpy(h + (l + 1) * size, h + l * size, size * sizeof *h);
        BB_TRY(bb_host_block(f, net, &net->blocks[l], w->n, w->ctx, h + (l + 1) * size, NULL, NULL, err));
    }
    BB_TRY(make_labels(in, f, h + net->n_layer * size, fisher, label, weight, err));
    bb_head_loss loss = { .targets = label, .weight = weight };
    float       *d_stream = stream + rows * net->n_embd;
    bb_host_streams(net, h + net->n_layer * size, rows, stream);
    BB_TRY(bb_host_backward_head(b, net, stream, rows, &loss, NULL, NULL, d_stream, NULL, err));
    bb_host_put_streams(net, d_stream, rows, dh);
    for (uint32_t l = net->n_layer; l-- > 0;) {
        const bb_block *block = &net->blocks[l];
        hook_data       data = { &g, block };
        bb_block_grad   grad = { .hook = fisher ? add_squares : NULL, .hook_self = &data };
        BB_TRY(gradients_init(&g, block, fisher, err));
        for (int p = 0; p < BB_N_PARTS; p++) grad.w[p] = g.sum[p];
        BB_TRY(bb_host_backward_block(b, net, block, w->n, w->ctx, h + l * size, dh, &grad, err));
        BB_TRY(block_costs(in, l, &g, fisher, cost, err));
        gradients_done(&g);
    }
done:
    gradients_done(&g);
    bb_forward_destroy(f);
    bb_backward_destroy(b);
    bb_free(h);
    bb_free(dh);
    bb_free(stream);
    bb_free(weight);
    bb_free(label);
    return status;
}

static bb_status local_costs(const bb_layerwise_input *in, double *cost, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t i = 0; i < in->n; i++) {
        uint32_t       layer;
        bb_part        part;
        bb_matrix      m;
        bb_quant_stats stats;
        if (!linear_unit(in, &in->changes[i], &layer, &part)) continue;
        BB_TRY(option_matrix(in, &in->changes[i], layer, part, &m, &stats, err));
        cost[i] = stats.error;
    }
done:
    return status;
}

/* KL / t^2 of the network with noise of relative size t in one matrix. */
static bb_status noise_sensitivity(const bb_layerwise_input *in, uint32_t layer, bb_part part, const float *w, float *noisy, double *alpha, double *tokens,
                                   bb_err *err)
{
    const bb_net    *full = &in->model->net;
    const bb_matrix *m = &full->blocks[layer].w[part];
    bb_net           net = *full;
    bb_block        *blocks = BB_NEW(full->n_layer, bb_block, err);
    bb_evaluation    v;
    bb_rng           rng;
    char             name[48];
    double           square = 0, added = 0;
    size_t           n = (size_t)m->rows * m->cols;
    bb_status        status = BB_NOMEM;
    if (!blocks) return BB_NOMEM;
    snprintf(name, sizeof name, "noise %u %s", layer, bb_parts[part].name);
    bb_rng_init(&rng, in->seed, name);
    for (size_t k = 0; k < n; k++) square += (double)w[k] * (double)w[k];
    for (size_t k = 0; k < n; k++) {
        noisy[k] = w[k] + (float)(NOISE * sqrt(square / (double)n) * bb_rng_normal(&rng));
        added += ((double)noisy[k] - (double)w[k]) * ((double)noisy[k] - (double)w[k]);
    }
    memcpy(blocks, full->blocks, full->n_layer * sizeof *blocks);
    blocks[layer].w[part].type = BB_F32;
    blocks[layer].w[part].data = noisy;
    net.blocks = blocks;
    bb_net_evaluator_forget(in->evaluator); /* the buffer is written again for the next matrix */
    BB_TRY(bb_net_evaluator_score(in->evaluator, &net, in->level, &v, NULL, err));
    *alpha = v.kl * square / added;
    *tokens += v.n_forwarded;
done:
    bb_net_evaluator_forget(in->evaluator);
    bb_free(blocks);
    return status;
}

static bb_status noise_costs(const bb_layerwise_input *in, double *cost, double *tokens, bb_err *err)
{
    bb_status status = BB_OK;
    uint32_t  unit = BB_NO_UNIT;
    float    *w = NULL, *v = NULL;
    double    alpha = 0, square = 0;
    for (size_t i = 0; i < in->n; i++) {
        uint32_t       layer;
        bb_part        part;
        bb_matrix      m;
        bb_quant_stats stats;
        double         error = 0;
        if (!linear_unit(in, &in->changes[i], &layer, &part)) continue;
        BB_TRY(option_matrix(in, &in->changes[i], layer, part, &m, &stats, err));
        size_t n = (size_t)m.rows * m.cols;
        if (unit != in->changes[i].unit) { /* changes come unit by unit */
            unit = in->changes[i].unit;
            bb_free(w);
            bb_free(v);
            w = BB_NEW(n, float, err);
            v = BB_NEW(n, float, err);
            if (!w || !v) {
                status = BB_NOMEM;
                goto done;
            }
            decode(&in->model->net.blocks[layer].w[part], w);
            square = 0;
            for (size_t k = 0; k < n; k++) square += (double)w[k] * (double)w[k];
            BB_TRY(noise_sensitivity(in, layer, part, w, v, &alpha, tokens, err));
        }
        decode(&m, v);
        for (size_t k = 0; k < n; k++) error += ((double)v[k] - (double)w[k]) * ((double)v[k] - (double)w[k]);
        cost[i] = alpha * error / square;
    }
done:
    bb_free(w);
    bb_free(v);
    return status;
}

/* One factor for all, so that costs and measured KLs have the same geometric mean. */
static void rescale(const bb_layerwise_input *in, double *cost)
{
    double sum = 0, n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < in->n; i++) {
            uint32_t layer;
            bb_part  part;
            if (!linear_unit(in, &in->changes[i], &layer, &part)) continue;
            if (pass == 1) cost[i] *= n > 0 ? exp(sum / n) : 1;
            else if (cost[i] > 0 && in->changes[i].kl > 1e-7) {
                sum += log(in->changes[i].kl / cost[i]);
                n++;
            }
        }
}

bb_status bb_layerwise_costs(const bb_layerwise_input *in, bb_layerwise kind, double *cost, double *tokens, bb_err *err)
{
    double    window_tokens = (double)in->windows->n * in->windows->ctx;
    bb_status status;
    *tokens = 0;
    switch (kind) {
    case BB_LAYERWISE_LOCAL: status = local_costs(in, cost, err); break;
    case BB_LAYERWISE_NOISE: status = noise_costs(in, cost, tokens, err); break;
    default: status = backward_costs(in, kind == BB_LAYERWISE_FISHER, cost, err); *tokens = 3 * window_tokens;
    }
    if (status == BB_OK) rescale(in, cost);
    return status;
}
