/* SPDX-License-Identifier: GPL-3.0-or-later
 * toga.c: see toga.h. */
#include "engine/toga.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/environment.h"
#include "engine/version.h"
#include "kernels/blas.h"
#include "model/compress/statistics.h"
#include "model/export/export.h"
#include "model/net/host.h"

/* The place of a name in "a|b|c". */
static int place_of(const char *name, const char *choices)
{
    const size_t n = strlen(name);
    int          place = 0;
    for (const char *at = choices; at; at = strchr(at, '|'), at = at ? at + 1 : NULL, place++)
        if (strncmp(at, name, n) == 0 && (at[n] == '|' || at[n] == '\0')) return place;
    return 0;
}

bb_toga_precision bb_toga_precision_named(const char *name) { return (bb_toga_precision)place_of(name, BB_TOGA_PRECISIONS); }
bb_pruning        bb_toga_pruning_named(const char *name) { return (bb_pruning)place_of(name, BB_TOGA_PRUNINGS); }

static bool learns(const bb_toga_job *j) { return j->precision == BB_TOGA_LEARNED || j->learning.pruning != BB_PRUNE_NOTHING; }
static bool is_mixed(const bb_toga_job *j) { return j->precision != BB_TOGA_LOW; }

/* ---- bytes ---- */

/* Of a file without its linears: embedding and head in their format. */
static bb_status other_bytes(const bb_toga_job *j, uint64_t *bytes, bb_err *err)
{
    bb_net    net = j->model->net;
    bb_status status;
    net.embd.type = bb_format_for_row(bb_format_get(j->embd), net.n_embd)->type;
    if (net.head.rows) net.head.type = net.embd.type;
    BB_TRY(bb_export_size(j->model, &net, bytes, err));
    for (uint32_t l = 0; l < net.n_layer; l++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &net.blocks[l].w[p];
            if (!bb_block_has_part(&net.blocks[l], (bb_part)p)) continue;
            *bytes -= (w->rows * bb_format_row_bytes(bb_format_get(w->type), w->cols) + 31) / 32 * 32; /* a tensor begins at a multiple of 32 */
        }
done:
    return status;
}

/* Of columns that are chosen by a share: how many. */
static uint32_t share_of(double share, uint32_t cols) { return (uint32_t)floor(share * cols); }

/* What the linears may take: of the target, or what they do with a share of each matrix. */
static bb_status linear_budget(const bb_toga_job *j, uint64_t *budget, bb_err *err)
{
    bb_channels c;
    uint64_t    others;
    bb_status   status;
    if (j->target) {
        BB_TRY(other_bytes(j, &others, err));
        if (others >= j->target)
            return BB_FAIL(err, BB_INFEASIBLE, "%llu bytes are not enough: all but the linears takes %llu, with the embedding in %s",
                           (unsigned long long)j->target, (unsigned long long)others, bb_format_get(j->embd)->name);
        *budget = j->target - others;
        return BB_OK;
    }
    BB_TRY(bb_channels_create(&j->model->net, BB_PRUNE_NOTHING, true, &c, err));
    for (size_t k = 0; k < (size_t)c.n_layer * BB_N_CHANNEL_MASKS; k++)
        for (uint32_t i = 0; i < c.length[k]; i++) c.on[c.at[k] + i] = i < share_of(j->salient, c.length[k]);
    *budget = bb_channels_bytes(&c, &j->model->net, j->low, j->high);
    bb_channels_done(&c);
done:
    return status;
}

bb_status bb_toga_check(const bb_toga_job *j, bb_err *err)
{
    const bool prunes = j->learning.pruning != BB_PRUNE_NOTHING;
    uint64_t   unused;
    bb_err     why = BB_ERR_INIT;
    bb_status  status;
    if ((status = bb_toga_check_net(&j->model->net, &why)) != BB_OK) return BB_FAIL(err, status, "%s: %s", j->model->path, why.msg);
    BB_TRY(bb_part_format_check(j->low, err));
    if (is_mixed(j)) BB_TRY(bb_part_format_check(j->high, err));
    if (prunes && !j->target) return BB_FAIL(err, BB_USAGE, "what is pruned is learned for a size: --target-size says which");
    if (prunes && (j->precision == BB_TOGA_ACTIVATIONS || j->precision == BB_TOGA_HESSIAN))
        return BB_FAIL(err, BB_USAGE, "--salience activations and hessian take a share of each matrix as it is; with --prune it is learned or none");
    if (!learns(j) && j->target)
        return BB_FAIL(err, BB_USAGE, "a size is kept by masks that are learned: with this --salience and without --prune there are none");
    if (j->learning.kept > 0 && !prunes) return BB_FAIL(err, BB_USAGE, "--kept is of what is pruned, and --prune is nothing");
    if (j->target) BB_TRY(linear_budget(j, &unused, err));
done:
    return status;
}

bb_status bb_toga_check_export(const bb_toga_job *j, bb_err *err)
{
    const bb_format *f = bb_format_get(j->low);
    const bb_net    *net = &j->model->net;
    if (is_mixed(j))
        return BB_FAIL(err, BB_UNSUPPORTED,
                       "no GGUF can hold this network: each of its matrices has some columns in %s and the others in %s, and a tensor has one type; "
                       "with --salience none there is one",
                       f->name, bb_format_get(j->high)->name);
    if (j->learning.pruning == BB_PRUNE_ALL)
        return BB_FAIL(
            err, BB_UNSUPPORTED,
            "no runtime can load this network: --prune all removes hidden channels of single sublayers from a residual stream that keeps them, and no "
            "file has a place for such masks; --prune channels narrows FFNs, which llama.cpp loads");
    for (uint32_t l = 0; l < net->n_layer; l++)
        for (int p = 0; p < BB_N_PARTS; p++)
            if (bb_block_has_part(&net->blocks[l], (bb_part)p) && p != BB_PART_DOWN && net->blocks[l].w[p].cols % f->block)
                return BB_FAIL(err, BB_UNSUPPORTED, "no GGUF can hold this network: %s has blocks of %u weights, and the rows of blk.%u.%s have %u", f->name,
                               f->block, l, bb_parts[p].name, net->blocks[l].w[p].cols);
    return BB_OK;
}

/* ---- one block ---- */

typedef struct maker {
    const bb_toga_job *j;
    bb_toga_made      *made;
    bb_forward        *f;
    uint32_t           batch; /* windows at once */
    float             *h;     /* (n_windows * ctx, C): what the blocks made so far give */
    float             *copy;  /* (batch * ctx, C) */
    float             *x;     /* (batch * ctx, widest feed) */
} maker;

static void forget(void) { bb_engine_backend()->ops->forget(bb_engine_backend()->context); }

/* Second moments of an input of the block as it is now. */
static bb_status moments_of(maker *k, const bb_block *block, bb_feed feed, bb_hessian *out, bb_err *err)
{
    const bb_windows *w = &k->j->calibration;
    const size_t      C = bb_row_width(&k->made->net), cols = bb_dim_of(&k->made->net, block, bb_feeds[feed].width);
    bb_status         status = BB_OK;
    for (uint32_t first = 0; first < w->n; first += k->batch) {
        const uint32_t S = w->n - first < k->batch ? w->n - first : k->batch;
        memcpy(k->copy, k->h + (size_t)first * w->ctx * C, (size_t)S * w->ctx * C * sizeof *k->copy);
        BB_TRY(bb_host_input(k->f, &k->made->net, block, S, w->ctx, k->copy, feed, k->x, err));
        BB_TRY(bb_hessian_add(out, k->x, (size_t)S * w->ctx, (uint32_t)cols, w->ctx, err));
    }
    BB_TRY(bb_hessian_finish(out, err));
done:
    return status;
}

typedef struct ranked {
    double   value;
    uint32_t column;
} ranked;

static int by_value_down(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->value > y->value || x->value < y->value) return x->value > y->value ? -1 : 1;
    return (x->column > y->column) - (x->column < y->column);
}

/* value[i] of every column: what there is to lose with it. */
static bb_status salience(const maker *k, const bb_hessian *h, const float *w, uint32_t rows, uint32_t cols, ranked *value, bb_err *err)
{
    double   *a = NULL, mean = 0;
    bb_status status = BB_OK;
    for (uint32_t i = 0; i < cols; i++) {
        value[i] = (ranked) { (double)h->h[(size_t)i * cols + i], i };
        mean += value[i].value / cols;
    }
    if (k->j->precision == BB_TOGA_ACTIVATIONS) return BB_OK;
    if (!(a = BB_NEW((size_t)cols * cols, double, err))) return BB_NOMEM;
    for (size_t i = 0; i < (size_t)cols * cols; i++) a[i] = (double)h->h[i];
    for (uint32_t i = 0; i < cols; i++) a[(size_t)i * cols + i] += mean > 0 ? k->j->quant.damping * mean : 1;
    BB_TRY(bb_cholesky(a, cols, err));
    BB_TRY(bb_cholesky_inverse(a, cols, err));
    for (uint32_t i = 0; i < cols; i++) {
        double sum = 0;
        for (uint32_t r = 0; r < rows; r++) sum += (double)w[(size_t)r * cols + i] * (double)w[(size_t)r * cols + i];
        value[i].value = sum / a[(size_t)i * cols + i];
    }
done:
    bb_free(a);
    return status;
}

static bb_status choose_columns(maker *k, uint32_t layer, bb_part p, const bb_hessian *h, const float *w, bb_err *err)
{
    const bb_matrix     *m = &k->made->net.blocks[layer].w[p];
    const unsigned char *given = bb_channels_mask(&k->made->c, layer, BB_N_PRUNING + (int)p);
    unsigned char       *on = k->made->c.on + (given - k->made->c.on);
    ranked              *value = BB_NEW(m->cols, ranked, err);
    bb_status            status = value ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    BB_TRY(salience(k, h, w, m->rows, m->cols, value, err));
    qsort(value, m->cols, sizeof *value, by_value_down);
    memset(on, 0, m->cols);
    for (uint32_t i = 0; i < share_of(k->j->salient, m->cols); i++) on[value[i].column] = 1;
done:
    bb_free(value);
    return status;
}

/* The kept rows and columns of a linear, quantized, and back in their places; zeros stay in the others. w: its weights, (rows, cols). */
static bb_status make_part(maker *k, uint32_t layer, bb_part p, const bb_hessian *h, float *w, bb_err *err)
{
    const bb_channels   *c = &k->made->c;
    const bb_matrix     *m = &k->made->net.blocks[layer].w[p];
    const unsigned char *of_rows = bb_channels_mask(c, layer, bb_mask_of_rows(p)), *of_cols = bb_channels_mask(c, layer, bb_mask_of_columns(p));
    const unsigned char *own = bb_channels_mask(c, layer, BB_N_PRUNING + (int)p);
    uint32_t            *col = BB_NEW(m->cols, uint32_t, err), n_rows = 0, n_cols = 0;
    unsigned char       *high = BB_NEW(m->cols, unsigned char, err);
    float               *kept = BB_NEW((size_t)m->rows * m->cols, float, err);
    bb_hessian           sub = { 0 };
    bb_two_part         *part = &k->made->part[(size_t)layer * BB_N_PARTS + p];
    bb_status            status = col && high && kept ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    for (uint32_t i = 0; i < m->cols; i++) {
        if (of_cols && !of_cols[i]) continue;
        high[n_cols] = own ? own[i] : 0;
        col[n_cols++] = i;
    }
    for (uint32_t r = 0; r < m->rows; r++) {
        if (of_rows && !of_rows[r]) continue;
        for (uint32_t i = 0; i < n_cols; i++) kept[(size_t)n_rows * n_cols + i] = w[(size_t)r * m->cols + col[i]];
        n_rows++;
    }
    BB_TRY(bb_hessian_subset(h, col, n_cols, &sub, err));
    BB_TRY(bb_two_part_quantize(kept, n_rows, n_cols, own ? high : NULL, &sub, k->j->low, is_mixed(k->j) ? k->j->high : k->j->low, &k->j->quant, part, err));
    bb_two_part_decode(part, kept, n_cols);
    memset(w, 0, (size_t)m->rows * m->cols * sizeof *w);
    for (uint32_t r = 0, from = 0; r < m->rows; r++) {
        if (of_rows && !of_rows[r]) continue;
        for (uint32_t i = 0; i < n_cols; i++) w[(size_t)r * m->cols + col[i]] = kept[(size_t)from * n_cols + i];
        from++;
    }
done:
    bb_free(col);
    bb_free(high);
    bb_free(kept);
    bb_hessian_done(&sub);
    return status;
}

/* Zeros where the masks cut; the bias of a row that is cut goes with it. */
static void prune_weights(const bb_channels *c, uint32_t layer, bb_part p, bb_matrix *m, float *w, float *bias)
{
    const unsigned char *of_rows = bb_channels_mask(c, layer, bb_mask_of_rows(p)), *of_cols = bb_channels_mask(c, layer, bb_mask_of_columns(p));
    for (uint32_t r = 0; r < m->rows; r++) {
        const bool row = !of_rows || of_rows[r];
        for (uint32_t i = 0; i < m->cols; i++)
            if (!row || (of_cols && !of_cols[i])) w[(size_t)r * m->cols + i] = 0;
        if (m->bias) bias[r] = row ? m->bias[r] : 0;
    }
    if (m->bias) m->bias = bias;
}

/* dense: room for the block's weights and biases. */
static bb_status make_block(maker *k, uint32_t layer, float *dense, bb_err *err)
{
    const bb_windows *w = &k->j->calibration;
    bb_block         *block = &k->made->net.blocks[layer];
    const size_t      C = bb_row_width(&k->made->net);
    float            *of[BB_N_PARTS] = { NULL };
    bb_hessian        h = { 0 };
    bb_status         status = BB_OK;
    for (int p = 0; p < BB_N_PARTS; p++) {
        bb_matrix *m = &block->w[p];
        float     *decoded;
        if (!bb_block_has_part(block, (bb_part)p)) continue;
        if (!(decoded = bb_matrix_decode(m, err))) return BB_NOMEM;
        of[p] = memcpy(dense, decoded, (size_t)m->rows * m->cols * sizeof *decoded);
        bb_free(decoded);
        dense += (size_t)m->rows * m->cols;
        m->type = BB_F32;
        m->data = of[p];
        prune_weights(&k->made->c, layer, (bb_part)p, m, of[p], dense);
        dense += m->bias ? m->rows : 0;
    }
    for (int feed = 0; feed < BB_N_FEEDS; feed++) {
        if (!bb_block_has(block, bb_feeds[feed].sublayer)) continue;
        BB_TRY(moments_of(k, block, (bb_feed)feed, &h, err));
        for (int p = 0; p < BB_N_PARTS; p++) {
            if (!of[p] || bb_parts[p].feed != (bb_feed)feed) continue;
            if (k->j->precision == BB_TOGA_ACTIVATIONS || k->j->precision == BB_TOGA_HESSIAN) BB_TRY(choose_columns(k, layer, (bb_part)p, &h, of[p], err));
            BB_TRY(make_part(k, layer, (bb_part)p, &h, of[p], err));
        }
        forget();
        bb_hessian_done(&h);
    }
    for (uint32_t first = 0; first < w->n; first += k->batch) {
        const uint32_t S = w->n - first < k->batch ? w->n - first : k->batch;
        BB_TRY(bb_host_block(k->f, &k->made->net, block, S, w->ctx, k->h + (size_t)first * w->ctx * C, NULL, NULL, err));
    }
done:
    bb_hessian_done(&h);
    return status;
}

/* ---- all ---- */

static bb_status make_tables(maker *k, bb_err *err)
{
    bb_net                *net = &k->made->net;
    const bb_format       *f = bb_format_for_row(bb_format_get(k->j->embd), net->n_embd);
    const size_t           bytes = (size_t)net->n_vocab * bb_format_row_bytes(f, net->n_embd);
    const bb_quant_options plain = { .method = BB_METHOD_WEIGHTED };
    unsigned char         *to = k->made->table = BB_NEW(2 * bytes, unsigned char, err);
    bb_matrix             *tables[] = { &net->embd, net->head.rows ? &net->head : NULL };
    bb_status              status = to ? BB_OK : BB_NOMEM;
    for (int i = 0; i < 2 && status == BB_OK; i++, to += bytes) {
        float *w = tables[i] ? bb_matrix_decode(tables[i], err) : NULL;
        if (!tables[i]) continue;
        if (!w) return BB_NOMEM;
        status = bb_quantize(w, tables[i]->rows, tables[i]->cols, NULL, f->type, &plain, to, NULL, err);
        bb_free(w);
        tables[i]->type = f->type;
        tables[i]->data = to;
    }
    return status;
}

static bb_status make_network(maker *k, bb_err *err)
{
    const bb_windows *w = &k->j->calibration;
    bb_net           *net = &k->made->net;
    const size_t      C = bb_row_width(net), n = (size_t)w->n * w->ctx;
    size_t            floats = 0, wide = net->n_embd, of_batch, at = 0;
    bb_progress       progress;
    bb_status         status = BB_NOMEM;
    k->batch = bb_batch_windows(w->ctx) < w->n ? bb_batch_windows(w->ctx) : w->n;
    of_batch = (size_t)k->batch * w->ctx;
    for (uint32_t l = 0; l < net->n_layer; l++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *m = &net->blocks[l].w[p];
            if (!bb_block_has_part(&net->blocks[l], (bb_part)p)) continue;
            floats += (size_t)m->rows * (m->cols + (m->bias ? 1 : 0));
            if (m->cols > wide) wide = m->cols;
        }
    bb_progress_start(&progress, "error feedback, blocks", net->n_layer);
    k->made->dense = BB_NEW(floats, float, err);
    k->made->part = BB_NEW0((size_t)net->n_layer * BB_N_PARTS, bb_two_part, err);
    k->h = BB_NEW(n * C, float, err);
    k->copy = BB_NEW(of_batch * C, float, err);
    k->x = BB_NEW(of_batch * wide, float, err);
    if (!k->made->dense || !k->made->part || !k->h || !k->copy || !k->x) goto done;
    BB_TRY(make_tables(k, err));
    BB_TRY(bb_forward_create(bb_engine_backend(), net, k->batch, w->ctx, &k->f, err));
    for (uint32_t first = 0; first < w->n; first += k->batch)
        BB_TRY(bb_host_embed(k->f, net, w->tokens + (size_t)first * w->ctx, w->n - first < k->batch ? w->n - first : k->batch, w->ctx,
                             k->h + (size_t)first * w->ctx * C, err));
    for (uint32_t l = 0; l < net->n_layer; l++) {
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted at block %u of the quantization", l);
            goto done;
        }
        BB_TRY(make_block(k, l, k->made->dense + at, err));
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *m = &net->blocks[l].w[p];
            if (bb_block_has_part(&net->blocks[l], (bb_part)p)) at += (size_t)m->rows * (m->cols + (m->bias ? 1 : 0));
        }
        bb_progress_add(&progress, 1);
    }
    k->made->tokens += (double)n;
done:
    bb_progress_end(&progress);
    bb_forward_destroy(k->f);
    bb_free(k->h);
    bb_free(k->copy);
    bb_free(k->x);
    return status;
}

static bb_status learn(const bb_toga_job *j, void (*did)(void *self, const bb_toga_step *step), void *self, bb_toga_made *made, bb_err *err)
{
    bb_toga_options o = j->learning;
    bb_toga        *t = NULL;
    bb_status       status;
    o.mixed = j->precision == BB_TOGA_LEARNED;
    o.low = j->low;
    o.high = j->high;
    o.rounded = o.pruning == BB_PRUNE_CHANNELS ? bb_format_get(o.low)->block : 1;
    BB_TRY(linear_budget(j, &o.budget, err));
    BB_TRY(bb_toga_create(bb_engine_backend(), &j->model->net, &j->text, &o, &t, err));
    BB_TRY(bb_toga_run(t, did, self, err));
    BB_TRY(bb_toga_freeze(t, &made->c, err));
    made->tokens += 3.0 * o.steps * o.batch * o.ctx + (o.kl ? 1.0 * o.steps * o.batch * o.ctx : 0);
done:
    bb_toga_destroy(t);
    return status;
}

bb_status bb_toga_make(const bb_toga_job *j, void (*did)(void *self, const bb_toga_step *step), void *self, bb_toga_made *made, bb_err *err)
{
    maker     k = { .j = j, .made = made };
    uint64_t  others;
    bb_status status;
    *made = (bb_toga_made) { .net = j->model->net };
    made->net.blocks = NULL;
    BB_TRY(bb_toga_check(j, err));
    status = BB_NOMEM;
    if (!(made->net.blocks = BB_NEW(made->net.n_layer, bb_block, err))) goto done;
    memcpy(made->net.blocks, j->model->net.blocks, made->net.n_layer * sizeof *made->net.blocks);
    BB_TRY(bb_channels_create(&made->net, j->learning.pruning, is_mixed(j), &made->c, err));
    if (learns(j)) BB_TRY(learn(j, did, self, made, err));
    BB_TRY(make_network(&k, err));
    BB_TRY(other_bytes(j, &others, err));
    made->bytes = others + bb_channels_bytes(&made->c, &j->model->net, j->low, is_mixed(j) ? j->high : j->low);
    made->kept = bb_channels_kept(&made->c, &j->model->net);
done:
    if (status != BB_OK) bb_toga_made_done(made);
    return status;
}

void bb_toga_made_done(bb_toga_made *made)
{
    for (size_t i = 0; made->part && i < (size_t)made->net.n_layer * BB_N_PARTS; i++) bb_two_part_done(&made->part[i]);
    bb_channels_done(&made->c);
    bb_free(made->part);
    bb_free(made->dense);
    bb_free(made->table);
    bb_free(made->net.blocks);
    *made = (bb_toga_made) { .bytes = 0 };
}

/* Room for the biases of all blocks. */
static bb_status room_for_biases(const bb_net *net, float **room, bb_err *err)
{
    size_t n = 0;
    for (uint32_t l = 0; l < net->n_layer; l++)
        for (int p = 0; p < BB_N_PARTS; p++) n += net->blocks[l].w[p].bias ? net->blocks[l].w[p].rows : 0;
    return (*room = BB_NEW(n, float, err)) ? BB_OK : BB_NOMEM;
}

/* The bias of the n rows that the mask keeps; returns how many it writes. */
static size_t keep_bias(const unsigned char *on, bb_matrix *w, uint32_t n, float *to)
{
    size_t kept = 0;
    if (!on || !w->bias) return 0;
    for (uint32_t r = 0; kept < n; r++)
        if (on[r]) to[kept++] = w->bias[r];
    w->bias = to;
    return kept;
}

bb_status bb_toga_export(const bb_toga_job *j, const bb_toga_made *made, const char *calib_sha256, uint64_t calib_tokens, const char *path, bb_err *err)
{
    const bb_provenance from = { .program = bb_version_program(), .calib_sha256 = calib_sha256, .calib_tokens = calib_tokens };
    bb_net              net = made->net;
    float              *biases = NULL, *bias;
    bb_status           status;
    BB_TRY(bb_toga_check_export(j, err));
    if (!(net.blocks = BB_NEW(net.n_layer, bb_block, err))) return BB_NOMEM;
    memcpy(net.blocks, made->net.blocks, net.n_layer * sizeof *net.blocks);
    BB_TRY(room_for_biases(&net, &biases, err));
    bias = biases;
    for (uint32_t l = 0; l < net.n_layer; l++) {
        bb_block *b = &net.blocks[l];
        if (bb_channels_mask(&made->c, l, BB_MASK_CHANNELS)) bb_block_keep(&net, b, BB_FFN, bb_channels_count(&made->c, l, BB_MASK_CHANNELS));
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_two_part *part = &made->part[(size_t)l * BB_N_PARTS + (size_t)p];
            if (!bb_block_has_part(b, (bb_part)p)) continue;
            BB_ASSERT(b->w[p].rows == part->rows && b->w[p].cols == part->cols);
            if (part->cols % bb_format_get(part->type[BB_LOW])->block) {
                status = BB_FAIL(err, BB_UNSUPPORTED, "no GGUF can hold this network: %s has blocks of %u weights, and the rows of blk.%u.%s keep %u",
                                 bb_format_get(part->type[BB_LOW])->name, bb_format_get(part->type[BB_LOW])->block, l, bb_parts[p].name, part->cols);
                goto done;
            }
            b->w[p].type = part->type[BB_LOW];
            b->w[p].data = part->packed[BB_LOW];
            bias += keep_bias(bb_channels_mask(&made->c, l, bb_mask_of_rows((bb_part)p)), &b->w[p], part->rows, bias);
        }
    }
    BB_TRY(bb_export_write(j->model, &net, &from, path, err));
done:
    bb_free(biases);
    bb_free(net.blocks);
    return status;
}
