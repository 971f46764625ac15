/* SPDX-License-Identifier: GPL-3.0-or-later
 * evaluator.c: see evaluator.h. A level is scored in batches of windows: embed, blocks, KL of the scored rows against the
 * stored full-precision hidden states. With a boundary cache the level is one batch, and boundary b holds the input of block b. */
#include "eval/evaluator.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

enum { BATCH_WINDOWS = 16 };

typedef struct level_state {
    const bb_windows *w;
    bb_buffer         reference;    /* (n * n_scored, C) full-precision hidden states at the scored positions */
    bool              cached;       /* it has what follows */
    bb_buffer         boundary;     /* (n_layer + 1) x (n * ctx, W) */
    bb_matrix         cached_embd;  /* what the boundaries were computed with */
    bb_matrix         cached_table; /* and of what every block reads of the tokens */
    bb_block         *cached_blocks;
    uint32_t          n_valid;     /* boundaries 0 .. n_valid - 1 belong to the cached network */
    bb_buffer         scored;      /* (n * n_scored, C) of the network scored last */
    const float      *seen_scored; /* what was lent to the caller, peeked at */
} level_state;

struct bb_net_evaluator {
    const bb_backend *backend;
    const bb_model   *model;
    bb_forward       *forward;
    uint32_t          n_levels, batch; /* windows a batch without cache */
    level_state      *levels;
    bb_buffer         h;    /* (batch * ctx, W) */
    bb_buffer         rows; /* (batch * n_scored, C) */
    int32_t          *targets;
    double           *kl, *nll;
    unsigned char    *same;
    uint64_t          unused;  /* of the caller's cache_bytes */
    bool              borrows; /* references are another's */
};

static bool matrix_same(const bb_matrix *a, const bb_matrix *b)
{
    return a->type == b->type && a->rows == b->rows && a->cols == b->cols && a->data == b->data && a->bias == b->bias;
}

bool bb_block_same(const bb_block *a, const bb_block *b)
{
    if (a->n_token != b->n_token || a->n_head != b->n_head || a->n_kv != b->n_kv || a->n_ff != b->n_ff) return false;
    for (int n = 0; n < BB_N_NORMS; n++)
        if (a->norm[n] != b->norm[n]) return false;
    for (int p = 0; p < BB_N_PARTS; p++)
        if (!matrix_same(&a->w[p], &b->w[p])) return false;
    return true;
}

static size_t hidden_size(const bb_net_evaluator *e, const bb_windows *w) { return (size_t)w->n * w->ctx * bb_row_width(&e->model->net); }

/* Copies the streams of the scored positions of n windows from h (n*ctx, W) to rows (n*n_scored, C). */
static bb_status gather(const bb_net_evaluator *e, const bb_windows *w, uint32_t n, bb_buffer h, bb_buffer rows, bb_err *err)
{
    const bb_net *net = &e->model->net;
    bb_status     status = BB_OK;
    for (size_t i = 0; i < n && status == BB_OK; i++)
        status = bb_forward_streams(e->backend, net, bb_buffer_at(h, (i * w->ctx + w->first) * bb_row_width(net)), w->n_scored,
                                    bb_buffer_at(rows, i * w->n_scored * net->n_embd), err);
    return status;
}

static bb_status reference_states(bb_net_evaluator *e, level_state *l, bb_progress *progress, bb_err *err)
{
    bb_status         status = BB_OK;
    const bb_windows *w = l->w;
    const bb_net     *net = &e->model->net;
    for (uint32_t first = 0; first < w->n; first += e->batch) {
        uint32_t n = w->n - first < e->batch ? w->n - first : e->batch;
        BB_TRY(bb_forward_embed(e->forward, net, w->tokens + (size_t)first * w->ctx, n, w->ctx, e->h, err));
        for (uint32_t b = 0; b < net->n_layer; b++) BB_TRY(bb_forward_block(e->forward, net, &net->blocks[b], n, w->ctx, e->h, NULL, NULL, err));
        BB_TRY(gather(e, w, n, e->h, bb_buffer_at(l->reference, (size_t)first * w->n_scored * net->n_embd), err));
        bb_progress_add(progress, n);
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while the reference was computed");
    }
done:
    return status;
}

static bb_status make_buffer(const bb_net_evaluator *e, size_t n, bb_buffer *out, bb_err *err)
{
    return e->backend->ops->alloc(e->backend->context, n, out, err);
}

static bb_status make_states(const bb_net_evaluator *e, size_t n, bb_buffer *out, bb_err *err) { return bb_alloc_states(e->backend, n, out, err); }

static bb_status level_init(bb_net_evaluator *e, level_state *l, const bb_windows *w, uint64_t *cache_left, bb_err *err)
{
    const bb_net *net = &e->model->net;
    size_t        scored = (size_t)w->n * w->n_scored * net->n_embd, all = hidden_size(e, w);
    uint64_t      cache = ((uint64_t)(net->n_layer + 1) * all + scored) * sizeof(float);
    bb_status     status;
    l->w = w;
    BB_TRY(make_states(e, scored, &l->reference, err));
    if (cache <= *cache_left) {
        *cache_left -= cache;
        l->cached = true;
        BB_TRY(make_states(e, (size_t)(net->n_layer + 1) * all, &l->boundary, err));
        BB_TRY(make_states(e, scored, &l->scored, err));
        if (!(l->cached_blocks = BB_NEW0(net->n_layer, bb_block, err))) return BB_NOMEM;
    }
done:
    return status;
}

/* What a batch needs; most: windows that are run at once. */
static bb_status make_room(bb_net_evaluator *e, uint32_t most, bb_err *err)
{
    const bb_net *net = &e->model->net;
    uint32_t      ctx = 0, scored = 0;
    bb_status     status;
    for (uint32_t i = 0; i < e->n_levels; i++) {
        if (e->levels[i].w->ctx > ctx) ctx = e->levels[i].w->ctx;
        if (e->levels[i].w->n_scored > scored) scored = e->levels[i].w->n_scored;
    }
    BB_TRY(bb_forward_create(e->backend, net, most > e->batch ? most : e->batch, ctx, &e->forward, err));
    BB_TRY(make_buffer(e, (size_t)e->batch * ctx * bb_row_width(net), &e->h, err));
    BB_TRY(make_buffer(e, (size_t)e->batch * scored * net->n_embd, &e->rows, err));
    status = BB_NOMEM;
    if (!(e->targets = BB_NEW((size_t)e->batch * scored, int32_t, err))) goto done;
    if (!(e->kl = BB_NEW((size_t)e->batch * scored, double, err))) goto done;
    if (!(e->nll = BB_NEW((size_t)e->batch * scored, double, err))) goto done;
    if (!(e->same = BB_NEW((size_t)e->batch * scored, unsigned char, err))) goto done;
    status = BB_OK;
done:
    return status;
}

static bb_net_evaluator *new_evaluator(const bb_backend *backend, const bb_model *model, uint32_t n_levels, bb_err *err)
{
    bb_net_evaluator *e = BB_NEW0(1, bb_net_evaluator, err);
    if (!e) return NULL;
    e->backend = backend;
    e->model = model;
    e->n_levels = n_levels;
    e->batch = BATCH_WINDOWS;
    if ((e->levels = BB_NEW0(n_levels, level_state, err))) return e;
    bb_free(e);
    return NULL;
}

bb_status bb_net_evaluator_create(const bb_backend *backend, const bb_model *model, const bb_windows *windows, uint32_t n_levels, uint64_t cache_bytes,
                                  bb_net_evaluator **out, bb_err *err)
{
    return bb_net_evaluator_create_for(backend, model, windows, n_levels, UINT32_MAX, cache_bytes, out, err);
}

bb_status bb_net_evaluator_create_for(const bb_backend *backend, const bb_model *model, const bb_windows *windows, uint32_t n_levels, uint32_t first,
                                      uint64_t cache_bytes, bb_net_evaluator **out, bb_err *err)
{
    bb_status         status = BB_NOMEM;
    uint32_t          largest = 0;
    uint64_t          total = 0;
    bb_progress       progress;
    bb_net_evaluator *e = new_evaluator(backend, model, n_levels, err);
    *out = NULL;
    if (!e) return BB_NOMEM;
    for (uint32_t k = 0; k < n_levels; k++) {
        uint32_t i = 0; /* small levels are scored most often: they get the memory first */
        while (e->levels[i].w) i++;
        for (uint32_t j = i + 1; j < n_levels; j++)
            if (!e->levels[j].w && windows[j].n < windows[i].n) i = j;
        if (k == 0 && first < n_levels) i = first;
        BB_TRY(level_init(e, &e->levels[i], &windows[i], &cache_bytes, err));
        if (e->levels[i].cached && windows[i].n > largest) largest = windows[i].n;
    }
    e->unused = cache_bytes;
    BB_TRY(make_room(e, largest, err));
    for (uint32_t i = 0; i < n_levels; i++) total += windows[i].n;
    bb_progress_start(&progress, "full-precision states, windows", total);
    for (uint32_t i = 0; i < n_levels; i++) BB_TRY(reference_states(e, &e->levels[i], &progress, err));
    bb_progress_end(&progress);
    *out = e;
    e = NULL;
done:
    bb_net_evaluator_destroy(e);
    return status;
}

bb_status bb_net_evaluator_share(const bb_net_evaluator *e, bb_net_evaluator **out, bb_err *err)
{
    bb_net_evaluator *s = new_evaluator(e->backend, e->model, e->n_levels, err);
    *out = s;
    if (!s) return BB_NOMEM;
    s->borrows = true;
    for (uint32_t i = 0; i < e->n_levels; i++) s->levels[i] = (level_state) { .w = e->levels[i].w, .reference = e->levels[i].reference };
    const bb_status status = make_room(s, 0, err);
    if (status == BB_OK) return BB_OK;
    bb_net_evaluator_destroy(s);
    *out = NULL;
    return status;
}

const bb_backend *bb_net_evaluator_backend(const bb_net_evaluator *e) { return e->backend; }

void bb_net_evaluator_destroy(bb_net_evaluator *e)
{
    if (!e) return;
    const bb_operations *o = e->backend->ops;
    void                *context = e->backend->context;
    for (uint32_t i = 0; e->levels && i < e->n_levels; i++) {
        level_state *l = &e->levels[i];
        o->unpeek(context, l->seen_scored);
        if (!e->borrows) o->release(context, l->reference);
        o->release(context, l->boundary);
        o->release(context, l->scored);
        bb_free(l->cached_blocks);
    }
    o->release(context, e->h);
    o->release(context, e->rows);
    bb_forward_destroy(e->forward);
    bb_free(e->levels);
    bb_free(e->targets);
    bb_free(e->kl);
    bb_free(e->nll);
    bb_free(e->same);
    bb_free(e);
}

void bb_net_evaluator_forget(bb_net_evaluator *e)
{
    for (uint32_t i = 0; i < e->n_levels; i++) e->levels[i].n_valid = 0;
    e->backend->ops->forget(e->backend->context);
}

uint64_t bb_net_evaluator_unused(const bb_net_evaluator *e) { return e->unused; }
uint32_t bb_net_evaluator_windows(const bb_net_evaluator *e, uint32_t level) { return e->levels[level].w->n; }

static bb_status look(const bb_net_evaluator *e, const level_state *l, bb_buffer states, const float **out, bb_err *err)
{
    return e->backend->ops->peek(e->backend->context, states, (size_t)l->w->n * l->w->n_scored * e->model->net.n_embd, out, err);
}

bb_status bb_net_evaluator_last(bb_net_evaluator *e, uint32_t level, const float **rows, bb_err *err)
{
    level_state *l = &e->levels[level];
    bb_status    status;
    e->backend->ops->unpeek(e->backend->context, l->seen_scored);
    l->seen_scored = NULL;
    status = l->cached ? look(e, l, l->scored, &l->seen_scored, err) : BB_OK;
    *rows = l->seen_scored;
    return status;
}

bb_status bb_net_evaluator_states(const bb_net_evaluator *e, uint32_t level, bb_net_states *out, bb_err *err)
{
    const level_state *l = &e->levels[level];
    if (!l->cached)
        return BB_FAIL(err, BB_NOMEM, "a gradient needs the states at every block's boundary in memory: allow more (--max-ram), or use fewer windows");
    *out = (bb_net_states) { e->backend, &e->model->net, l->reference, l->scored, l->boundary };
    return BB_OK;
}

/* Sums over windows, gathered in window order. */
typedef struct sums {
    double   kl, kl2, nll;
    uint64_t same;
} sums;

/* KL of windows first .. first+n-1 from the gathered rows; adds to s. */
static bb_status score_rows(bb_net_evaluator *e, const level_state *l, const bb_net *net, uint32_t first, uint32_t n, bb_buffer rows, sums *s,
                            double *window_kl, bb_err *err)
{
    const bb_windows *w = l->w;
    uint32_t          C = net->n_embd;
    bb_status         status;
    for (uint32_t i = 0; i < n; i++)
        memcpy(e->targets + (size_t)i * w->n_scored, w->targets + (size_t)(first + i) * w->ctx + w->first, w->n_scored * sizeof(int32_t));
    BB_TRY(bb_forward_kl(e->forward, &e->model->net, bb_buffer_at(l->reference, (size_t)first * w->n_scored * C), net, rows, e->targets,
                         (size_t)n * w->n_scored, e->kl, e->nll, e->same, err));
    for (uint32_t i = 0; i < n; i++) {
        double kl = 0, nll = 0;
        for (uint32_t t = 0; t < w->n_scored; t++) {
            kl += e->kl[(size_t)i * w->n_scored + t];
            nll += e->nll[(size_t)i * w->n_scored + t];
            s->same += e->same[(size_t)i * w->n_scored + t];
        }
        kl /= w->n_scored;
        s->kl += kl;
        s->kl2 += kl * kl;
        s->nll += nll / w->n_scored;
        if (window_kl) window_kl[first + i] = kl;
    }
done:
    return status;
}

/* Brings the boundary cache to net from the first block in which it differs; *n_run counts blocks. */
static bb_status advance_cache(bb_net_evaluator *e, level_state *l, const bb_net *net, uint32_t *n_run, bb_err *err)
{
    bb_status         status = BB_OK;
    const bb_windows *w = l->w;
    size_t            all = hidden_size(e, w);
    uint32_t          b = 0;
    if (l->n_valid && matrix_same(&l->cached_embd, &net->embd) && matrix_same(&l->cached_table, &net->token.table))
        while (b + 1 < l->n_valid && b < net->n_layer && bb_block_same(&l->cached_blocks[b], &net->blocks[b])) b++;
    else {
        l->n_valid = 0;
        BB_TRY(bb_forward_embed(e->forward, net, w->tokens, w->n, w->ctx, l->boundary, err));
        l->cached_embd = net->embd;
        l->cached_table = net->token.table;
    }
    l->n_valid = b + 1;
    for (; b < net->n_layer; b++, ++*n_run) {
        bb_buffer next = bb_buffer_at(l->boundary, (size_t)(b + 1) * all);
        BB_TRY(e->backend->ops->copy(e->backend->context, bb_buffer_at(l->boundary, (size_t)b * all), next, all, err));
        BB_TRY(bb_forward_block(e->forward, net, &net->blocks[b], w->n, w->ctx, next, NULL, NULL, err));
        l->cached_blocks[b] = net->blocks[b];
        l->n_valid = b + 2;
    }
done:
    return status;
}

static double forwarded(const bb_windows *w, const bb_net *net, uint32_t n_run) { return (double)w->n * w->ctx * n_run / net->n_layer; }

/* The states at the scored positions of a level with a boundary cache. */
static bb_status states(bb_net_evaluator *e, level_state *l, const bb_net *net, uint32_t *n_run, bb_err *err)
{
    const bb_windows *w = l->w;
    bb_status         status;
    BB_TRY(advance_cache(e, l, net, n_run, err));
    BB_TRY(gather(e, w, w->n, bb_buffer_at(l->boundary, (size_t)net->n_layer * hidden_size(e, w)), l->scored, err));
done:
    return status;
}

bb_status bb_net_evaluator_run(bb_net_evaluator *e, const bb_net *net, uint32_t level, double *n_forwarded, bb_err *err)
{
    level_state *l = &e->levels[level];
    uint32_t     n_run = 0;
    bb_status    status;
    BB_ASSERT(l->cached);
    if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted between evaluations");
    status = states(e, l, net, &n_run, err);
    *n_forwarded = forwarded(l->w, net, n_run);
    return status;
}

bb_status bb_net_evaluator_score(bb_net_evaluator *e, const bb_net *net, uint32_t level, bb_evaluation *out, double *window_kl, bb_err *err)
{
    level_state      *l = &e->levels[level];
    const bb_windows *w = l->w;
    uint32_t          C = net->n_embd, n_run = 0;
    sums              s = { 0, 0, 0, 0 };
    bb_status         status = BB_OK;
    if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted between evaluations");
    if (l->cached) {
        BB_TRY(states(e, l, net, &n_run, err));
    } else {
        n_run = net->n_layer;
    }
    for (uint32_t first = 0; first < w->n; first += e->batch) {
        uint32_t  n = w->n - first < e->batch ? w->n - first : e->batch;
        bb_buffer rows = l->cached ? bb_buffer_at(l->scored, (size_t)first * w->n_scored * C) : e->rows;
        if (!l->cached) {
            BB_TRY(bb_forward_embed(e->forward, net, w->tokens + (size_t)first * w->ctx, n, w->ctx, e->h, err));
            for (uint32_t b = 0; b < net->n_layer; b++) BB_TRY(bb_forward_block(e->forward, net, &net->blocks[b], n, w->ctx, e->h, NULL, NULL, err));
            BB_TRY(gather(e, w, n, e->h, e->rows, err));
            if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted inside an evaluation");
        }
        BB_TRY(score_rows(e, l, net, first, n, rows, &s, window_kl, err));
    }
    out->kl = s.kl / w->n;
    out->kl_se = w->n > 1 ? sqrt(fmax(0, s.kl2 / w->n - out->kl * out->kl) / (w->n - 1)) : (double)NAN;
    out->nll = s.nll / w->n;
    out->n_tokens = (uint64_t)w->n * w->n_scored;
    out->top1 = (double)s.same / (double)out->n_tokens;
    out->n_forwarded = forwarded(w, net, n_run);
    if (!isfinite(out->kl)) status = BB_FAIL(err, BB_NUMERIC, "the score of a candidate is not finite (KL %g)", out->kl);
done:
    return status;
}
