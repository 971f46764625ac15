/* SPDX-License-Identifier: GPL-3.0-or-later
 * trainable.c: see trainable.h. */
#include "model/train/trainable.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

/* ---- layout ---- */

/* Called twice: without memory it counts, with memory it hands out. */
typedef struct layout {
    bb_trainable *t;
    size_t        n, n_params;
} layout;

/* The next n weights and their gradients. */
static float *take(layout *l, size_t n, float decay, float **g)
{
    bb_trainable *t = l->t;
    float        *w = NULL;
    if (t->w) {
        w = t->w + l->n;
        *g = t->g + l->n;
        t->params[l->n_params] = (bb_param) { .w = w, .g = *g, .n = n, .rate_factor = 1, .decay = decay };
    }
    l->n += n;
    l->n_params++;
    return w;
}

static void take_vector(layout *l, const float **at, size_t n, float **g)
{
    if (*at) {
        const float *w = take(l, n, 0, g);
        if (w) *at = w;
    }
}

static void take_matrix(layout *l, bb_matrix *m, float **g, float **g_bias)
{
    const float *w;
    if (m->rows == 0) return;
    w = take(l, (size_t)m->rows * m->cols, 1, g);
    if (w) *m = (bb_matrix) { .type = BB_F32, .rows = m->rows, .cols = m->cols, .data = w, .bias = m->bias };
    if (m->bias) take_vector(l, &m->bias, m->rows, g_bias);
}

/* Is norm k one of this sublayer, which is there? */
static bool has_norm(const bb_block *b, bb_sublayer s, int k) { return bb_norms[k].sublayer == s && bb_block_has(b, s); }

static void lay(layout *l)
{
    bb_trainable *t = l->t;
    bb_net       *net = &t->net;
    float        *unused = NULL;
    take_matrix(l, &net->embd, &t->g_embd, &unused);
    if (net->head.rows) take_matrix(l, &net->head, &t->head.head, &unused);
    else t->head.head = t->g_embd;
    take_vector(l, &net->out_norm, net->n_embd, &t->head.out_norm);
    for (uint32_t i = 0; i < net->n_layer; i++) {
        bb_block      *b = &net->blocks[i];
        bb_block_grad *g = &t->grads[i];
        for (int s = 0; s < BB_N_SUBLAYERS; s++)
            for (int k = 0; k < BB_N_NORMS; k++)
                if (has_norm(b, (bb_sublayer)s, k)) take_vector(l, &b->norm[k], bb_norm_length(net, b, (bb_norm)k), &g->norm[k]);
        for (int p = 0; p < BB_N_PARTS; p++)
            if (bb_block_has_part(b, (bb_part)p)) take_matrix(l, &b->w[p], &g->w[p], &g->bias[p]);
    }
}

bb_status bb_trainable_create(const bb_net *shape, bb_trainable *t, bb_err *err)
{
    layout    l = { .t = t };
    bb_status status = BB_NOMEM;
    *t = (bb_trainable) { .net = *shape };
    t->net.blocks = BB_NEW(shape->n_layer, bb_block, err);
    t->grads = BB_NEW0(shape->n_layer, bb_block_grad, err);
    if (!t->net.blocks || !t->grads) goto done;
    memcpy(t->net.blocks, shape->blocks, shape->n_layer * sizeof *shape->blocks);
    lay(&l);
    t->params = BB_NEW(l.n_params, bb_param, err);
    t->w = BB_NEW0(l.n, float, err);
    t->g = BB_NEW0(l.n, float, err);
    if (!t->params || !t->w || !t->g) goto done;
    t->n = l.n;
    t->n_params = l.n_params;
    l = (layout) { .t = t };
    lay(&l);
    status = BB_OK;
done:
    if (status != BB_OK) bb_trainable_done(t);
    return status;
}

void bb_trainable_done(bb_trainable *t)
{
    bb_free(t->net.blocks);
    bb_free(t->grads);
    bb_free(t->params);
    bb_free(t->w);
    bb_free(t->g);
    *t = (bb_trainable) { .w = NULL };
}

/* ---- weights ---- */

static float *own(const void *w) { return (float *)(uintptr_t)w; } /* the net's view of our own array */

static void copy_vector(const float *to, const float *from, size_t n)
{
    if (to) memcpy(own(to), from, n * sizeof *from);
}

static void copy_matrix(const bb_matrix *to, const bb_matrix *from)
{
    const bb_format *f = bb_format_get(from->type);
    size_t           bytes = from->rows ? bb_format_row_bytes(f, from->cols) : 0;
    BB_ASSERT(to->rows == from->rows && to->cols == from->cols);
#pragma omp parallel for schedule(static) if (from->rows > 64)
    for (uint32_t r = 0; r < from->rows; r++) f->decode((const char *)from->data + r * bytes, own(to->data) + (size_t)r * to->cols, from->cols);
    copy_vector(to->bias, from->bias, from->rows);
}

void bb_trainable_copy(bb_trainable *t, const bb_net *from)
{
    const bb_net *net = &t->net;
    copy_matrix(&net->embd, &from->embd);
    if (net->head.rows) copy_matrix(&net->head, &from->head);
    copy_vector(net->out_norm, from->out_norm, net->n_embd);
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *to = &net->blocks[i], *at = &from->blocks[i];
        BB_ASSERT(to->n_head == at->n_head && to->n_kv == at->n_kv && to->n_ff == at->n_ff);
        for (int k = 0; k < BB_N_NORMS; k++)
            if (bb_block_has(to, bb_norms[k].sublayer)) copy_vector(to->norm[k], at->norm[k], bb_norm_length(net, to, (bb_norm)k));
        for (int p = 0; p < BB_N_PARTS; p++)
            if (bb_block_has_part(to, (bb_part)p)) copy_matrix(&to->w[p], &at->w[p]);
    }
}

static void fill(const float *w, size_t n, float value)
{
    for (size_t i = 0; w && i < n; i++) own(w)[i] = value;
}

static void random_matrix(const bb_matrix *m, double deviation, uint64_t seed, const char *name)
{
    bb_rng r;
    bb_rng_init(&r, seed, name);
    for (size_t i = 0; i < (size_t)m->rows * m->cols; i++) own(m->data)[i] = (float)(deviation * bb_rng_normal(&r));
    fill(m->bias, m->rows, 0);
}

void bb_trainable_random(bb_trainable *t, uint64_t seed)
{
    const bb_net *net = &t->net;
    double        C = net->n_embd, usual = sqrt(2 / (5 * C)), residual = 2 / ((double)net->n_layer * sqrt(C));
    char          name[64];
    if (residual > usual) residual = usual;
    random_matrix(&net->embd, usual, seed, "token_embd");
    if (net->head.rows) random_matrix(&net->head, usual, seed, "output");
    fill(net->out_norm, net->n_embd, 1);
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *b = &net->blocks[i];
        for (int k = 0; k < BB_N_NORMS; k++)
            if (bb_block_has(b, bb_norms[k].sublayer)) fill(b->norm[k], bb_norm_length(net, b, (bb_norm)k), 1);
        for (int p = 0; p < BB_N_PARTS; p++) {
            if (!bb_block_has_part(b, (bb_part)p)) continue;
            snprintf(name, sizeof name, "blk.%u.%s", i, bb_parts[p].name);
            random_matrix(&b->w[p], bb_sublayers[bb_parts[p].sublayer].writer == (bb_part)p ? residual : usual, seed, name);
        }
    }
}
