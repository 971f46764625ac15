/* SPDX-License-Identifier: GPL-3.0-or-later
 * toga.c: see toga.h. */
#include "model/tune/toga.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "model/compress/compress.h"
#include "model/net/host.h"
#include "model/tune/hyper.h"
#include "model/tune/state_file.h"

static const double base = 3, temperature = 0.4;

enum { PIECE = 64 /* columns that are one piece of parallel work */, N_MASKS = BB_N_CHANNEL_MASKS };

/* A linear with its masks. */
typedef struct masked {
    uint32_t rows, cols;
    float   *low, *rise;               /* (rows, cols) at low precision, and what high precision adds (NULL: there is one) */
    float   *w;                        /* (rows, cols) with the masks */
    float   *bias;                     /* [rows] with the mask of rows; NULL: it has none, or no mask cuts it */
    size_t   of_cols, of_rows, of_own; /* where the masks begin; NONE: not there */
    size_t   by_rows;                  /* the mask that its stored rows go by */
} masked;
static const size_t NONE = SIZE_MAX;

struct bb_toga {
    const bb_backend *backend;
    const bb_net     *full;
    bb_toga_options   o;
    bb_toga_text      text;
    bb_channels       c;
    bb_net            net;              /* blocks point at masked.w */
    masked           *linear;           /* [n_layer * BB_N_PARTS] rows 0: not there */
    size_t            widest;           /* columns of a linear */
    float            *scratch;          /* [n_layer * BB_N_PARTS][2 * widest] */
    double            n_weights, fixed; /* of the linears; bytes of the masks that prune */
    bb_hyper         *hyper;
    bb_param          param;
    bb_adamw         *adamw;
    double           *logit, *slope, *gradient; /* [c.n]: of the hypernetwork, ds/do, dL/ds */
    float            *value;                    /* [c.n] */
    bb_forward       *f;
    bb_backward      *b;
    float            *h, *h_ref, *dh, *weight; /* (n_layer + 1, n, C), (n, C), (n, C), [n] */
    float            *dw, *db;                 /* of one block: all its linears one after the other; [most rows] each */
    double           *loss;
    int32_t          *tokens, *targets;
    char              identity[65];
};

/* ---- the masked network ---- */

static size_t mask_at(const bb_toga *t, uint32_t layer, int mask)
{
    if (mask < 0) return NONE;
    const size_t i = (size_t)layer * N_MASKS + (size_t)mask;
    return t->c.length[i] ? t->c.at[i] : NONE;
}

/* out := w with every row in the format; rows are filled up to whole blocks. */
static bb_status round_matrix(const float *w, uint32_t rows, uint32_t cols, bb_type type, float *out, bb_err *err)
{
    const bb_format *f = bb_format_get(type);
    const size_t     wide = ((size_t)cols + f->block - 1) / f->block * f->block, bytes = bb_format_row_bytes(f, wide);
    bool             no_memory = false;
#pragma omp parallel
    {
        float         *row = BB_NEW0(2 * wide, float, NULL), *counts = row ? row + wide : NULL;
        unsigned char *packed = BB_NEW(bytes, unsigned char, NULL);
        for (size_t i = 0; row && i < cols; i++) counts[i] = 1;
#pragma omp for schedule(static)
        for (uint32_t r = 0; r < rows; r++) {
            if (!row || !packed) {
#pragma omp atomic write
                no_memory = true;
                continue;
            }
            memcpy(row, w + (size_t)r * cols, cols * sizeof *row);
            for (size_t i = cols; i < wide; i++) row[i] = 0;
            f->encode(row, counts, packed, wide);
            f->decode(packed, row, wide);
            memcpy(out + (size_t)r * cols, row, cols * sizeof *row);
        }
        bb_free(row);
        bb_free(packed);
    }
    return no_memory ? BB_FAIL(err, BB_NOMEM, "out of memory while a %u x %u matrix was rounded", rows, cols) : BB_OK;
}

static bb_status take_linear(bb_toga *t, uint32_t layer, bb_part p, bb_err *err)
{
    bb_matrix       *to = &t->net.blocks[layer].w[p];
    masked          *m = &t->linear[(size_t)layer * BB_N_PARTS + p];
    const bb_format *f = bb_format_get(to->type);
    const size_t     n = (size_t)to->rows * to->cols, bytes = bb_format_row_bytes(f, to->cols);
    const int        writer = bb_sublayers[bb_parts[p].sublayer].writer == p;
    float           *w = BB_NEW(n, float, err);
    bb_status        status = BB_NOMEM;
    *m = (masked) { .rows = to->rows, .cols = to->cols };
    m->of_cols = mask_at(t, layer, bb_mask_of_columns(p));
    m->by_rows = mask_at(t, layer, bb_mask_of_rows(p));
    m->of_rows = writer ? m->by_rows : NONE; /* of gate and up the columns of down do it */
    m->of_own = mask_at(t, layer, BB_N_PRUNING + (int)p);
    m->low = BB_NEW(n, float, err);
    m->w = BB_NEW(n, float, err);
    if (t->o.mixed) m->rise = BB_NEW(n, float, err);
    if (to->bias && m->of_rows != NONE) m->bias = BB_NEW(to->rows, float, err);
    if (!w || !m->low || !m->w || (t->o.mixed && !m->rise) || (to->bias && m->of_rows != NONE && !m->bias)) goto done;
    for (uint32_t r = 0; r < to->rows; r++) f->decode((const char *)to->data + r * bytes, w + (size_t)r * to->cols, to->cols);
    if (t->o.whole && !t->o.mixed) memcpy(m->low, w, n * sizeof *w);
    else BB_TRY(round_matrix(w, to->rows, to->cols, t->o.low, m->low, err));
    if (t->o.mixed) BB_TRY(round_matrix(w, to->rows, to->cols, t->o.high, m->rise, err));
    for (size_t i = 0; m->rise && i < n; i++) m->rise[i] -= m->low[i];
    *to = (bb_matrix) { .type = BB_F32, .rows = m->rows, .cols = m->cols, .data = m->w, .bias = m->bias ? m->bias : to->bias };
    status = BB_OK;
done:
    bb_free(w);
    return status;
}

/* The masks of a linear's columns as numbers that need no question: what multiplies a column (1: no mask), and how much of the rise it has (0). */
static void column_factors(const masked *m, const float *value, float *cols, float *own)
{
    for (uint32_t i = 0; i < m->cols; i++) {
        cols[i] = m->of_cols == NONE ? 1 : value[m->of_cols + i];
        own[i] = m->of_own == NONE ? 0 : value[m->of_own + i];
    }
}

/* w (n) := what stands between the diagonals. */
static void between(const masked *m, size_t at, const float *own, uint32_t n, float *w)
{
    const float *low = m->low + at, *rise = m->rise ? m->rise + at : NULL;
    if (!rise) {
        memcpy(w, low, n * sizeof *w);
        return;
    }
#pragma omp simd
    for (uint32_t i = 0; i < n; i++) w[i] = low[i] + rise[i] * own[i];
}

/* scratch: 2 * the most columns. */
static void put_linear(const masked *m, const float *value, const float *bias, float *scratch)
{
    float *cols = scratch, *own = scratch + m->cols;
    column_factors(m, value, cols, own);
    for (uint32_t r = 0; r < m->rows; r++) {
        float      *w = m->w + (size_t)r * m->cols;
        const float factor = m->of_rows == NONE ? 1 : value[m->of_rows + r];
        between(m, (size_t)r * m->cols, own, m->cols, w);
#pragma omp simd
        for (uint32_t i = 0; i < m->cols; i++) w[i] *= cols[i] * factor;
        if (m->bias) m->bias[r] = bias[r] * factor;
    }
}

static void put_masks(bb_toga *t, const float *value)
{
    const size_t n = (size_t)t->full->n_layer * BB_N_PARTS;
#pragma omp parallel for schedule(dynamic)
    for (size_t k = 0; k < n; k++) put_linear(&t->linear[k], value, t->full->blocks[k / BB_N_PARTS].w[k % BB_N_PARTS].bias, t->scratch + k * 2 * t->widest);
    t->backend->ops->forget(t->backend->context);
}

/* Columns first .. first + n - 1, n <= PIECE, of the gradients of precision and columns. cols, own: column_factors of these. */
static void add_piece(const masked *m, const float *value, const float *g, const float *cols, const float *own, uint32_t first, uint32_t n, double *gradient)
{
    float by_own[PIECE] = { 0 }, by_cols[PIECE] = { 0 }, w[PIECE];
    for (uint32_t r = 0; r < m->rows; r++) {
        const size_t at = (size_t)r * m->cols + first;
        const float *dw = g + at, *rise = m->rise ? m->rise + at : NULL, factor = m->of_rows == NONE ? 1 : value[m->of_rows + r];
        if (!(factor > 0 || factor < 0)) continue;
        if (m->of_own != NONE) {
#pragma omp simd
            for (uint32_t i = 0; i < n; i++) by_own[i] += factor * dw[i] * rise[i];
        }
        if (m->of_cols == NONE) continue;
        between(m, at, own, n, w);
#pragma omp simd
        for (uint32_t i = 0; i < n; i++) by_cols[i] += factor * dw[i] * w[i];
    }
    for (uint32_t i = 0; m->of_own != NONE && i < n; i++) gradient[m->of_own + first + i] += (double)by_own[i] * (double)cols[i];
    for (uint32_t i = 0; m->of_cols != NONE && i < n; i++) gradient[m->of_cols + first + i] += (double)by_cols[i];
}

/* From g = dL/dW' of a linear and db = dL/d bias; adds to the gradient of its masks. scratch: 2 * the most columns. */
static void add_masks(const masked *m, const float *value, const float *g, const float *db, const float *bias, float *scratch, double *gradient)
{
    float         *cols = scratch, *own = scratch + m->cols;
    const uint32_t n_pieces = (m->cols + PIECE - 1) / PIECE;
    column_factors(m, value, cols, own);
#pragma omp parallel for schedule(static)
    for (uint32_t piece = 0; piece < n_pieces; piece++) {
        const uint32_t first = piece * PIECE, n = m->cols - first < PIECE ? m->cols - first : PIECE;
        add_piece(m, value, g, cols + first, own + first, first, n, gradient);
    }
    if (m->of_rows == NONE) return;
#pragma omp parallel for schedule(static)
    for (uint32_t r = 0; r < m->rows; r++) {
        double sum = m->bias ? (double)db[r] * (double)bias[r] : 0;
        for (uint32_t first = 0; first < m->cols; first += PIECE) {
            const uint32_t n = m->cols - first < PIECE ? m->cols - first : PIECE;
            const size_t   at = (size_t)r * m->cols + first;
            float          w[PIECE];
            between(m, at, own + first, n, w);
            for (uint32_t i = 0; i < n; i++) sum += (double)(g[at + i] * w[i] * cols[first + i]);
        }
        gradient[m->of_rows + r] += sum;
    }
}

/* ---- bytes ---- */

static double bytes_a_weight(bb_type type)
{
    const bb_format *f = bb_format_get(type);
    return (double)f->block_bytes / f->block;
}

void bb_toga_bytes(const bb_toga *t, const float *value, double *bytes, double *kept, double by_bytes, double by_kept, double *gradient)
{
    const double low = bytes_a_weight(t->o.low), rise = t->o.mixed ? bytes_a_weight(t->o.high) - low : 0;
    *bytes = *kept = 0;
    for (size_t k = 0; k < (size_t)t->full->n_layer * BB_N_PARTS; k++) {
        const masked *m = &t->linear[k];
        double        rows = m->by_rows == NONE ? m->rows : 0, cols = 0, of_cols = 0;
        for (uint32_t r = 0; m->by_rows != NONE && r < m->rows; r++) rows += (double)value[m->by_rows + r];
        for (uint32_t i = 0; i < m->cols; i++) {
            const double on = m->of_cols == NONE ? 1 : (double)value[m->of_cols + i];
            cols += on;
            of_cols += on * (low + (m->of_own == NONE ? 0 : rise * (double)value[m->of_own + i]));
        }
        *bytes += rows * of_cols;
        *kept += rows * cols / t->n_weights;
        for (uint32_t i = 0; gradient && i < m->cols; i++) {
            const double on = m->of_cols == NONE ? 1 : (double)value[m->of_cols + i];
            const double own = m->of_own == NONE ? 0 : (double)value[m->of_own + i];
            if (m->of_own != NONE) gradient[m->of_own + i] += by_bytes * rows * on * rise;
            if (m->of_cols != NONE) gradient[m->of_cols + i] += by_bytes * rows * (low + rise * own) + by_kept * rows / t->n_weights;
        }
        for (uint32_t r = 0; gradient && m->by_rows != NONE && r < m->rows; r++) gradient[m->by_rows + r] += by_bytes * of_cols + by_kept * cols / t->n_weights;
    }
}

/* ---- life ---- */

bb_status bb_toga_check_net(const bb_net *net, bb_err *err)
{
    if (!net->n_carried) return BB_OK;
    return BB_FAIL(err, BB_UNSUPPORTED, "masks are not learned for a network whose blocks share keys and values, or read the tokens");
}

static bb_status check(const bb_net *full, const bb_toga_text *text, const bb_toga_options *o, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_toga_check_net(full, err));
    BB_TRY(bb_part_format_check(o->low, err));
    if (o->mixed) BB_TRY(bb_part_format_check(o->high, err));
    if (o->pruning == BB_PRUNE_NOTHING && !o->mixed) return BB_FAIL(err, BB_USAGE, "no masks are to be learned: neither what is pruned nor precisions");
    if (o->mixed && bytes_a_weight(o->high) <= bytes_a_weight(o->low))
        return BB_FAIL(err, BB_USAGE, "%s has no more bits than %s, and cannot be the high precision beside it", bb_format_get(o->high)->name,
                       bb_format_get(o->low)->name);
    if (o->ctx < 2 || o->batch < 1 || o->steps < 1) return BB_FAIL(err, BB_USAGE, "a step needs a window of at least 2 tokens");
    if (text->n <= o->ctx) return BB_FAIL(err, BB_BAD_FILE, "%zu tokens to train on: more than a window of %u are needed", text->n, o->ctx);
    for (size_t i = 0; i < text->n; i++)
        if (text->ids[i] < 0 || (uint32_t)text->ids[i] >= full->n_vocab)
            return BB_FAIL(err, BB_BAD_FILE, "token %zu has id %d, outside the vocabulary of %u", i, text->ids[i], full->n_vocab);
done:
    return status;
}

static bb_status check_budget(bb_toga *t, bb_err *err);

static bb_status identify(bb_toga *t, bb_err *err);

static bb_status make_room(bb_toga *t, bb_err *err)
{
    const size_t n = (size_t)t->o.batch * t->o.ctx, floats = n * t->net.n_embd;
    size_t       weights = 0, rows = 0;
    t->fixed = (double)bb_channels_mask_bytes(&t->c);
    for (uint32_t l = 0; l < t->net.n_layer; l++) {
        size_t of_block = 0;
        for (int p = 0; p < BB_N_PARTS; p++) {
            const masked *m = &t->linear[(size_t)l * BB_N_PARTS + (size_t)p];
            of_block += (size_t)m->rows * m->cols;
            t->n_weights += (double)m->rows * m->cols;
            if (m->rows > rows) rows = m->rows;
            if (m->cols > t->widest) t->widest = m->cols;
        }
        if (of_block > weights) weights = of_block;
    }
    t->scratch = BB_NEW((size_t)t->net.n_layer * BB_N_PARTS * 2 * t->widest, float, err);
    t->logit = BB_NEW(t->c.n, double, err);
    t->slope = BB_NEW(t->c.n, double, err);
    t->gradient = BB_NEW(t->c.n, double, err);
    t->value = BB_NEW(t->c.n, float, err);
    t->h = BB_NEW(floats * ((size_t)t->net.n_layer + 1), float, err);
    t->h_ref = BB_NEW(floats, float, err);
    t->dh = BB_NEW(floats, float, err);
    t->weight = BB_NEW(n, float, err);
    t->loss = BB_NEW(n, double, err);
    t->tokens = BB_NEW(n, int32_t, err);
    t->targets = BB_NEW(n, int32_t, err);
    t->dw = BB_NEW(weights, float, err);
    t->db = BB_NEW(rows * BB_N_PARTS, float, err);
    return t->scratch && t->logit && t->slope && t->gradient && t->value && t->h && t->h_ref && t->dh && t->weight && t->loss && t->tokens && t->targets &&
                   t->dw && t->db
               ? BB_OK
               : BB_NOMEM;
}

bb_status bb_toga_create(const bb_backend *backend, const bb_net *full, const bb_toga_text *text, const bb_toga_options *o, bb_toga **out, bb_err *err)
{
    bb_toga  *t = NULL;
    bb_status status;
    *out = NULL;
    BB_TRY(check(full, text, o, err));
    if (!(t = BB_NEW0(1, bb_toga, err))) return BB_NOMEM;
    t->backend = backend;
    t->full = full;
    t->o = *o;
    t->text = *text;
    t->net = *full;
    status = BB_NOMEM;
    t->net.blocks = BB_NEW(full->n_layer, bb_block, err);
    t->linear = BB_NEW0((size_t)full->n_layer * BB_N_PARTS, masked, err);
    if (!t->net.blocks || !t->linear) goto done;
    memcpy(t->net.blocks, full->blocks, full->n_layer * sizeof *full->blocks);
    BB_TRY(bb_channels_create(full, o->pruning, o->mixed, &t->c, err));
    for (uint32_t l = 0; l < full->n_layer; l++)
        for (int p = 0; p < BB_N_PARTS; p++)
            if (bb_block_has_part(&full->blocks[l], (bb_part)p)) BB_TRY(take_linear(t, l, (bb_part)p, err));
    BB_TRY(make_room(t, err));
    const bb_adamw_options adamw = { 0.9, 0.999, 1e-8, false };
    BB_TRY(bb_hyper_create(t->c.length, full->n_layer * N_MASKS, o->seed, &t->hyper, err));
    t->param = bb_hyper_param(t->hyper, o->decay);
    BB_TRY(bb_adamw_create(&t->param, 1, &adamw, &t->adamw, err));
    BB_TRY(bb_forward_create(backend, full, o->batch, o->ctx, &t->f, err));
    BB_TRY(bb_backward_create(backend, full, o->batch, o->ctx, &t->b, err));
    BB_TRY(check_budget(t, err));
    BB_TRY(identify(t, err));
    *out = t;
done:
    if (status != BB_OK) bb_toga_destroy(t);
    return status;
}

void bb_toga_destroy(bb_toga *t)
{
    if (!t) return;
    bb_forward_destroy(t->f);
    bb_backward_destroy(t->b);
    t->backend->ops->forget(t->backend->context);
    bb_adamw_destroy(t->adamw);
    bb_hyper_destroy(t->hyper);
    bb_channels_done(&t->c);
    for (size_t k = 0; t->linear && k < (size_t)t->full->n_layer * BB_N_PARTS; k++) {
        bb_free(t->linear[k].low);
        bb_free(t->linear[k].rise);
        bb_free(t->linear[k].w);
        bb_free(t->linear[k].bias);
    }
    void *all[] = { t->scratch, t->linear, t->net.blocks, t->logit,  t->slope,   t->gradient, t->value, t->h, t->h_ref,
                    t->dh,      t->weight, t->loss,       t->tokens, t->targets, t->dw,       t->db,    t };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bb_free(all[i]);
}

const bb_net      *bb_toga_net(const bb_toga *t) { return &t->net; }
const bb_channels *bb_toga_channels(const bb_toga *t) { return &t->c; }

/* ---- a step ---- */

static bb_status run_full(bb_toga *t, const int32_t *tokens, uint32_t S, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_host_embed(t->f, t->full, tokens, S, t->o.ctx, t->h_ref, err));
    for (uint32_t l = 0; l < t->full->n_layer; l++) BB_TRY(bb_host_block(t->f, t->full, &t->full->blocks[l], S, t->o.ctx, t->h_ref, NULL, NULL, err));
done:
    return status;
}

static void hash_matrix(bb_sha256 *s, const bb_matrix *w)
{
    const size_t bytes = w->rows ? w->rows * bb_format_row_bytes(bb_format_get(w->type), w->cols) : 0;
    bb_sha256_update(s, &w->type, sizeof w->type);
    if (bytes) bb_sha256_update(s, w->data, bytes);
}

/* Of all that decides what is learned: options, text, both precisions, what only some tokens meet, byte by byte, and of the rest of the network, such as
 * norms, biases and positions, what it makes of the beginning of the text. */
static bb_status identify(bb_toga *t, bb_err *err)
{
    const bb_toga_options *o = &t->o;
    const double           numbers[] = { o->pruning, o->mixed, o->whole, o->low,    o->high, (double)o->budget, o->kept,          o->ctx,
                                         o->batch,   o->rate,  o->decay, o->lambda, o->kl,   t->text.bos,       t->full->n_layer, t->full->n_embd };
    bb_sha256              s;
    bb_status              status;
    if (!o->state) return BB_OK;
    BB_TRY(run_full(t, t->text.ids, 1, err));
    bb_sha256_init(&s);
    bb_sha256_text(&s, "toga 2");
    bb_sha256_text(&s, bb_kernels_bits());
    bb_sha256_update(&s, numbers, sizeof numbers);
    bb_sha256_update(&s, &o->seed, sizeof o->seed);
    bb_sha256_update(&s, t->text.ids, t->text.n * sizeof *t->text.ids);
    for (size_t k = 0; k < (size_t)t->full->n_layer * BB_N_PARTS; k++) {
        const masked *m = &t->linear[k];
        if (m->rows) bb_sha256_update(&s, m->low, (size_t)m->rows * m->cols * sizeof *m->low);
        if (m->rise) bb_sha256_update(&s, m->rise, (size_t)m->rows * m->cols * sizeof *m->rise);
    }
    hash_matrix(&s, &t->full->embd);
    hash_matrix(&s, &t->full->head);
    hash_matrix(&s, &t->full->token.table);
    bb_sha256_update(&s, t->full->out_norm, t->full->n_embd * sizeof *t->full->out_norm);
    bb_sha256_update(&s, t->h_ref, (size_t)o->ctx * t->full->n_embd * sizeof *t->h_ref);
    bb_sha256_hex(&s, t->identity);
done:
    return status;
}

static bb_status back_block(bb_toga *t, uint32_t layer, uint32_t S, const float *value, double *gradient, bb_err *err)
{
    bb_block_grad grad = { 0 };
    const size_t  floats = (size_t)S * t->o.ctx * t->net.n_embd;
    size_t        at = 0, rows = 0;
    bb_status     status;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const masked *m = &t->linear[(size_t)layer * BB_N_PARTS + (size_t)p];
        if (!m->rows) continue;
        grad.w[p] = memset(t->dw + at, 0, (size_t)m->rows * m->cols * sizeof *t->dw);
        at += (size_t)m->rows * m->cols;
        if (!m->bias) continue;
        grad.bias[p] = memset(t->db + rows, 0, m->rows * sizeof *t->db);
        rows += m->rows;
    }
    BB_TRY(bb_host_backward_block(t->b, &t->net, &t->net.blocks[layer], S, t->o.ctx, t->h + layer * floats, t->dh, &grad, err));
    for (int p = 0; p < BB_N_PARTS; p++)
        if (grad.w[p])
            add_masks(&t->linear[(size_t)layer * BB_N_PARTS + (size_t)p], value, grad.w[p], grad.bias[p], t->full->blocks[layer].w[p].bias, t->scratch,
                      gradient);
done:
    return status;
}

bb_status bb_toga_gradient(bb_toga *t, const float *value, const int32_t *tokens, const int32_t *targets, uint32_t S, double *loss, double *gradient,
                           bb_err *err)
{
    const uint32_t T = t->o.ctx;
    const size_t   n = (size_t)S * T, floats = n * t->net.n_embd;
    bb_head_loss   of = { .targets = t->o.kl ? NULL : targets, .ref_net = t->o.kl ? t->full : NULL, .weight = t->weight };
    bb_status      status;
    memset(gradient, 0, t->c.n * sizeof *gradient);
    for (size_t i = 0; i < n; i++) t->weight[i] = (float)(1 / (double)n);
    if (t->o.kl) BB_TRY(run_full(t, tokens, S, err));
    put_masks(t, value);
    BB_TRY(bb_host_embed(t->f, &t->net, tokens, S, T, t->h, err));
    for (uint32_t l = 0; l < t->net.n_layer; l++) {
        float *h = t->h + (l + 1) * floats;
        memcpy(h, h - floats, floats * sizeof *h);
        BB_TRY(bb_host_block(t->f, &t->net, &t->net.blocks[l], S, T, h, NULL, NULL, err));
    }
    BB_TRY(bb_host_backward_head(t->b, &t->net, t->h + t->net.n_layer * floats, n, &of, t->o.kl ? t->h_ref : NULL, t->loss, t->dh, NULL, err));
    for (uint32_t l = t->net.n_layer; l-- > 0;) BB_TRY(back_block(t, l, S, value, gradient, err));
    *loss = 0;
    for (size_t i = 0; i < n; i++) *loss += t->loss[i] / (double)n;
done:
    return status;
}

/* The windows of a step: anywhere in the text. */
static void take_windows(bb_toga *t, uint32_t step)
{
    const uint32_t T = t->o.ctx;
    char           name[32];
    bb_rng         r;
    snprintf(name, sizeof name, "windows %u", step);
    bb_rng_init(&r, t->o.seed, name);
    for (uint32_t i = 0; i < t->o.batch; i++) {
        const int32_t *from = t->text.ids + bb_rng_below(&r, t->text.n - T);
        memcpy(t->tokens + (size_t)i * T, from, T * sizeof *from);
        memcpy(t->targets + (size_t)i * T, from + 1, T * sizeof *from);
        if (t->text.bos >= 0) t->tokens[(size_t)i * T] = t->text.bos;
    }
}

/* value := the hard masks of a sample, slope := ds/do. */
static void draw_masks(bb_toga *t, uint32_t step)
{
    const size_t n_masks = (size_t)t->full->n_layer * N_MASKS;
    char         name[32];
    bb_rng       r;
    snprintf(name, sizeof name, "gumbel %u", step);
    bb_rng_init(&r, t->o.seed, name);
    bb_hyper_forward(t->hyper, t->logit);
    for (size_t k = 0; k < n_masks; k++) {
        size_t greatest = t->c.at[k];
        bool   empty = true;
        for (size_t i = t->c.at[k]; i < t->c.at[k] + t->c.length[k]; i++) {
            const double noise = -log(-log(bb_rng_uniform(&r) + 1e-20) + 1e-20), x = t->logit[i] + noise + base;
            const double y = 1 / (1 + exp(-x / temperature));
            t->value[i] = x > 0 ? 1 : 0;
            t->slope[i] = y * (1 - y) / temperature;
            empty = empty && !(x > 0);
            if (t->logit[i] > t->logit[greatest]) greatest = i;
        }
        if (empty && t->c.length[k] && k % N_MASKS < BB_N_PRUNING) t->value[greatest] = 1; /* of precision it may be */
    }
}

static double sign(double x) { return x > 0 ? 1 : -1; }

static bb_status do_step(bb_toga *t, bb_toga_step *s, bb_err *err)
{
    const uint32_t step = (uint32_t)bb_adamw_steps(t->adamw);
    const double   budget = (double)t->o.budget - t->fixed;
    bb_status      status;
    take_windows(t, step);
    draw_masks(t, step);
    BB_TRY(bb_toga_gradient(t, t->value, t->tokens, t->targets, t->o.batch, &s->loss, t->gradient, err));
    bb_toga_bytes(t, t->value, &s->bytes, &s->kept, 0, 0, NULL);
    double bytes, kept;
    bb_toga_bytes(t, t->value, &bytes, &kept, t->o.lambda * sign(s->bytes - budget) / s->bytes,
                  t->o.kept > 0 ? t->o.lambda * sign(s->kept - t->o.kept) / s->kept : 0, t->gradient);
    for (size_t i = 0; i < t->c.n; i++) t->gradient[i] *= t->slope[i];
    bb_hyper_backward(t->hyper, t->gradient);
    s->norm = bb_grads_norm(&t->param, 1);
    if (!isfinite(s->norm) || !isfinite(s->loss))
        return BB_FAIL(err, BB_NUMERIC, "step %u of the masks: loss %g, norm of the gradient %g; a lower rate may help", step + 1, s->loss, s->norm);
    bb_adamw_step(t->adamw, t->o.rate);
    s->step = step + 1;
    s->bytes += t->fixed;
done:
    return status;
}

/* ---- the run ---- */

static bb_status keep_state(bb_toga *t, bool save, bb_err *err)
{
    size_t        n;
    uint64_t      steps = bb_adamw_steps(t->adamw);
    bb_state_part parts[] = { { &steps, sizeof steps }, { t->param.w, t->param.n * sizeof(float) }, { bb_adamw_moments(t->adamw, &n), 0 } };
    bool          found = false;
    bb_status     status;
    parts[2].size = n;
    if (!t->o.state) return BB_OK;
    if (save) return bb_state_save(t->o.state, t->identity, parts, 3, err);
    BB_TRY(bb_state_load(t->o.state, t->identity, parts, 3, &found, err));
    if (found && steps > t->o.steps)
        return BB_FAIL(err, BB_BAD_FILE, "%s is at step %llu of a training of %u", t->o.state, (unsigned long long)steps, t->o.steps);
    if (found) bb_adamw_set_steps(t->adamw, steps);
    if (found) bb_info("going on from step %llu, saved in %s", (unsigned long long)steps, t->o.state);
done:
    return status;
}

bb_status bb_toga_run(bb_toga *t, void (*did)(void *self, const bb_toga_step *step), void *self, bb_err *err)
{
    bb_progress  progress;
    bb_toga_step s = { 0 };
    bb_status    status = keep_state(t, false, err);
    if (status != BB_OK) return status;
    bb_progress_start(&progress, "learning masks", t->o.steps);
    bb_progress_skip(&progress, bb_adamw_steps(t->adamw));
    while (bb_adamw_steps(t->adamw) < t->o.steps) {
        if (bb_interrupted()) {
            BB_TRY(keep_state(t, true, err));
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted after step %llu of %u of the masks%s", (unsigned long long)bb_adamw_steps(t->adamw), t->o.steps,
                             t->o.state ? "; the same command goes on" : "");
            goto done;
        }
        BB_TRY(do_step(t, &s, err));
        bb_progress_add(&progress, 1);
        if (did) did(self, &s);
        if (t->o.save_every && s.step % t->o.save_every == 0 && s.step < t->o.steps) BB_TRY(keep_state(t, true, err));
    }
    if (s.step) BB_TRY(keep_state(t, true, err));
done:
    bb_progress_end(&progress);
    return status;
}

/* ---- freezing ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Entries of P4 by logit, so that a whole number of `rounded` is kept: down where there are so many, else up. */
static void round_channels(bb_toga *t, uint32_t layer, uint32_t rounded, double *scratch)
{
    const size_t   k = (size_t)layer * N_MASKS + BB_MASK_CHANNELS, n = t->c.length[k];
    const double  *z = t->logit + t->c.at[k];
    unsigned char *on = t->c.on + t->c.at[k];
    uint32_t       keep = bb_channels_count(&t->c, layer, BB_MASK_CHANNELS) / rounded * rounded;
    if (n == 0) return;
    if (keep == 0) keep = rounded < n ? rounded : (uint32_t)n;
    memcpy(scratch, z, n * sizeof *scratch);
    qsort(scratch, n, sizeof *scratch, by_value);
    const double least = scratch[n - keep];
    for (size_t i = 0; i < n; i++) keep -= on[i] = z[i] > least;
    for (size_t i = 0; i < n && keep > 0; i++) /* of equals the first ones */
        if (!on[i] && !(z[i] < least)) keep -= on[i] = 1;
}

static uint64_t freeze_at(bb_toga *t, double threshold, double *scratch)
{
    for (size_t k = 0; k < (size_t)t->full->n_layer * N_MASKS; k++) {
        size_t greatest = t->c.at[k];
        bool   empty = true;
        for (size_t i = t->c.at[k]; i < t->c.at[k] + t->c.length[k]; i++) {
            t->c.on[i] = t->logit[i] > threshold;
            empty = empty && !t->c.on[i];
            if (t->logit[i] > t->logit[greatest]) greatest = i;
        }
        if (empty && t->c.length[k] && k % N_MASKS < BB_N_PRUNING) t->c.on[greatest] = 1;
    }
    for (uint32_t l = 0; t->o.rounded > 1 && l < t->full->n_layer; l++) round_channels(t, l, t->o.rounded, scratch);
    return bb_channels_bytes(&t->c, t->full, t->o.low, t->o.mixed ? t->o.high : t->o.low);
}

/* Whether the smallest masks are within the budget. */
static bb_status check_budget(bb_toga *t, bb_err *err)
{
    double *scratch = BB_NEW(t->c.n, double, err);
    if (!scratch) return BB_NOMEM;
    memset(t->logit, 0, t->c.n * sizeof *t->logit);
    const uint64_t least = freeze_at(t, INFINITY, scratch);
    bb_free(scratch);
    if (least <= t->o.budget) return BB_OK;
    return BB_FAIL(err, BB_INFEASIBLE, "the linears have no less than %llu bytes with these masks and formats; the budget leaves them %llu",
                   (unsigned long long)least, (unsigned long long)t->o.budget);
}

bb_status bb_toga_freeze(bb_toga *t, bb_channels *c, bb_err *err)
{
    double *sorted = BB_NEW(2 * t->c.n, double, err), *scratch = sorted ? sorted + t->c.n : NULL;
    size_t  fits, above = 0; /* sorted[fits] is within the budget, all before `above` are not */
    if (!sorted) return BB_NOMEM;
    bb_hyper_forward(t->hyper, t->logit);
    memcpy(sorted, t->logit, t->c.n * sizeof *sorted);
    qsort(sorted, t->c.n, sizeof *sorted, by_value);
    fits = t->c.n - 1;
    BB_ASSERT(freeze_at(t, sorted[fits], scratch) <= t->o.budget); /* the smallest masks, as looked at in the beginning */
    if (freeze_at(t, sorted[0] - 1, scratch) > t->o.budget) {
        while (above < fits) {
            const size_t middle = above + (fits - above) / 2;
            if (freeze_at(t, sorted[middle], scratch) <= t->o.budget) fits = middle;
            else above = middle + 1;
        }
        freeze_at(t, sorted[fits], scratch);
    }
    BB_ASSERT(c->n == t->c.n);
    memcpy(c->on, t->c.on, t->c.n);
    bb_free(sorted);
    return BB_OK;
}
