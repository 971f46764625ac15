/* SPDX-License-Identifier: GPL-3.0-or-later
 * forward.c: see forward.h. A batch passes through a block in slabs of whole windows, so that scratch memory does not grow
 * with the batch and a slab's activations stay in cache; the block's weights are decoded once for all slabs.
 */
#include "model/net/forward.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"
#include "model/net/backend.h"
#include "model/net/shared.h"

enum { SLAB_TOKENS = 2048 /* also the batch that an input hook sees, so not a function of the machine */ };

struct bb_forward {
    const bb_backend *backend;
    void             *self; /* its workspace */
    uint32_t          n_embd, max_windows, max_tokens;
    uint32_t          head_dim[2], n_rot[2]; /* of each kind of blocks */
    size_t            max_q, max_kv, max_ff; /* widest H*D, G*D, F of the net at creation */
    size_t            n_carried, max_token;  /* its own, and P */
    int32_t          *ids;                   /* of the tokens of a slab, where rows carry them */
    float            *carry;                 /* [slab][n_carried], host: what rows carry from the start */
    float            *cos_sin;               /* [max_tokens][n_rot/2][2], host */
    bb_buffer         x, q, k, v, gate, up;  /* of one slab; q also holds the reference's rows in scores */
    bb_buffer         stream, e, token;      /* of one slab, where rows carry something: C, C, P */
    bb_buffer         carried;               /* and what they carry */
    size_t            slab_tokens;
    bb_buffer         wide[3]; /* queries, keys, values of windows that share rows, made when there are some */
    size_t            wide_tokens;
};

/* ---- life ---- */

static uint32_t slab_windows(const bb_forward *f, uint32_t T)
{
    size_t n = f->slab_tokens / T;
    return n < 1 ? 1 : (uint32_t)n;
}

static void measure(bb_forward *f, const bb_net *net)
{
    for (uint32_t b = 0; b < net->n_layer; b++) {
        const bb_block *k = &net->blocks[b];
        size_t          q = bb_dim_of(net, k, BB_DIM_HD), kv = bb_dim_of(net, k, BB_DIM_GD);
        if (q > f->max_q) f->max_q = q;
        if (kv > f->max_kv) f->max_kv = kv;
        if (k->n_ff > f->max_ff) f->max_ff = k->n_ff;
    }
    f->n_carried = net->n_carried;
    f->max_token = net->token.width;
    if (f->max_token > f->max_ff) f->max_ff = f->max_token; /* its gate lies where that of the FFN does */
}

static bb_status allocate(bb_forward *f, bb_err *err)
{
    size_t    tokens = f->slab_tokens, score = (size_t)f->n_embd, carries = f->n_carried ? f->n_embd : 0;
    bb_status status;
    struct {
        bb_buffer *buffer;
        size_t     width;
    } const buffers[] = {
        { &f->x, f->n_embd },        { &f->q, f->max_q > score ? f->max_q : score /* also the second operand of scores */ },
        { &f->k, f->max_kv },        { &f->v, f->max_kv },
        { &f->gate, f->max_ff },     { &f->up, f->max_ff },
        { &f->stream, carries },     { &f->e, carries },
        { &f->token, f->max_token }, { &f->carried, f->n_carried },
    };
    if (carries) {
        f->ids = BB_NEW(tokens, int32_t, err);
        f->carry = BB_NEW0(tokens * f->n_carried, float, err);
        if (!f->ids || !f->carry) return BB_NOMEM;
    }
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        size_t n;
        if (!bb_mul_size(tokens, buffers[i].width, &n)) return BB_FAIL(err, BB_NOMEM, "out of memory: %zu tokens x %zu", tokens, buffers[i].width);
        BB_TRY(f->backend->ops->alloc(f->backend->context, n, buffers[i].buffer, err));
    }
    status = BB_OK;
done:
    return status;
}

bb_status bb_forward_create(const bb_backend *backend, const bb_net *net, uint32_t max_windows, uint32_t max_tokens, bb_forward **out, bb_err *err)
{
    bb_forward *f = NULL;
    bb_status   status;
    *out = NULL;
    BB_ASSERT(max_windows > 0 && max_tokens > 0);
    BB_TRY(bb_check_shape(net, err));
    BB_TRY(bb_blas_reserve(omp_get_max_threads(), err));
    if (!(f = BB_NEW0(1, bb_forward, err))) return BB_NOMEM;
    f->backend = backend;
    f->n_embd = net->n_embd;
    for (int local = 0; local < 2; local++) {
        f->head_dim[local] = bb_head_dim(net, &(bb_block) { .local = local });
        f->n_rot[local] = bb_n_rot(net, &(bb_block) { .local = local });
    }
    f->max_windows = max_windows;
    f->max_tokens = max_tokens;
    f->slab_tokens = max_tokens > SLAB_TOKENS ? max_tokens : SLAB_TOKENS;
    if ((uint64_t)max_windows * max_tokens < f->slab_tokens) f->slab_tokens = (size_t)max_windows * max_tokens;
    measure(f, net);
    BB_TRY(backend->ops->open(backend->context, &f->self, err));
    if (!(f->cos_sin = bb_rope_table(net, max_tokens, err))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(allocate(f, err));
    *out = f;
done:
    if (status != BB_OK) bb_forward_destroy(f);
    return status;
}

void bb_forward_destroy(bb_forward *f)
{
    if (!f) return;
    const bb_buffer buffers[] = { f->x, f->q, f->k, f->v, f->gate, f->up, f->wide[0], f->stream, f->e, f->token, f->carried, f->wide[1], f->wide[2] };
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) f->backend->ops->release(f->backend->context, buffers[i]);
    f->backend->ops->close(f->self);
    bb_free(f->cos_sin);
    bb_free(f->ids);
    bb_free(f->carry);
    bb_free(f);
}

const bb_backend *bb_forward_backend(const bb_forward *f) { return f->backend; }
void              bb_forward_rough(bb_forward *f, bool rough) { f->backend->ops->rough(f->self, rough); }

/* The workspace was made for the widest block of the net at creation. */
static bb_status check_room(const bb_forward *f, const bb_block *b, bb_err *err)
{
    const size_t D = f->head_dim[b->local];
    if (b->n_head * D > f->max_q || b->n_kv * D > f->max_kv || b->n_ff > f->max_ff)
        return BB_FAIL(err, BB_FAILED, "block of %u/%u heads and FFN width %u: the workspace was made for %zu/%zu and %zu", b->n_head, b->n_kv, b->n_ff,
                       f->max_q / D, f->max_kv / D, f->max_ff);
    return BB_OK;
}

/* ---- passes ---- */

/* The same of rows that carry something: the token's id, and room for keys and values. */
static bb_status embed_carrying(bb_forward *f, const bb_net *net, const int32_t *tokens, size_t n, bb_buffer h, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    void                *context = f->backend->context;
    const size_t         C = f->n_embd, width = bb_row_width(net);
    bb_status            status = BB_OK;
    for (size_t at = 0; at < n; at += f->slab_tokens) {
        const size_t    m = n - at < f->slab_tokens ? n - at : f->slab_tokens;
        const bb_buffer to = bb_buffer_at(h, at * width);
        BB_TRY(o->gather(f->self, &net->embd, tokens + at, m, f->stream, err));
        if (bb_scales(net->embd_scale)) BB_TRY(o->scale(f->self, m * C, net->embd_scale, f->stream, err));
        BB_TRY(o->copy_rows(context, f->stream, C, to, width, m, C, err));
        for (size_t i = 0; i < m && net->token.width; i++) f->carry[i * f->n_carried] = (float)tokens[at + i];
        BB_TRY(o->write(context, f->carried, f->carry, m * f->n_carried, err));
        BB_TRY(o->copy_rows(context, f->carried, f->n_carried, bb_buffer_at(to, C), width, m, f->n_carried, err));
    }
done:
    return status;
}

bb_status bb_forward_embed(bb_forward *f, const bb_net *net, const int32_t *tokens, uint32_t S, uint32_t T, bb_buffer h, bb_err *err)
{
    size_t    n = (size_t)S * T;
    bb_status status;
    BB_TRY(bb_check_embd(net, err));
    BB_TRY(bb_check_ids(tokens, n, net->n_vocab, err));
    if (f->n_carried) return embed_carrying(f, net, tokens, n, h, err);
    BB_TRY(f->backend->ops->gather(f->self, &net->embd, tokens, n, h, err));
    if (bb_scales(net->embd_scale)) BB_TRY(f->backend->ops->scale(f->self, n * f->n_embd, net->embd_scale, h, err));
done:
    return status;
}

/* What one slab needs to know, and where it ends. */
typedef struct slab {
    const bb_net         *net;
    const bb_block       *block;
    uint32_t              S, T;
    bb_buffer             h;    /* the stream */
    bb_buffer             rows; /* whole rows; where nothing is carried, h */
    bb_input_hook         hook;
    void                 *hook_self;
    bool                  stops; /* at the input `last`, which goes to `input` */
    bb_feed               last;
    bb_buffer             input;
    const bb_shared_rows *shared; /* or NULL: every token is a row */
} slab;

static size_t rows_of(const slab *s) { return s->shared ? s->shared->n : (size_t)s->S * s->T; }

static bb_status tell_hook(bb_forward *f, const slab *s, bb_feed feed, bb_buffer x, size_t width, bb_err *err)
{
    const bb_backend *k = f->backend;
    const float      *host = NULL;
    size_t            n = (size_t)s->S * s->T;
    bb_status         status = k->ops->peek(k->context, x, n * width, &host, err);
    if (status == BB_OK) status = s->hook(s->hook_self, feed, host, n, (uint32_t)width, err);
    k->ops->unpeek(k->context, host);
    return status;
}

/* x is what feeds `feed`: for the hook, or for the caller, when the slab ends here. */
static bb_status at_input(bb_forward *f, const slab *s, bb_feed feed, bb_buffer x, size_t width, bool *ends, bb_err *err)
{
    *ends = s->stops && s->last == feed;
    if (*ends) return f->backend->ops->copy(f->backend->context, x, s->input, (size_t)s->S * s->T * width, err);
    return s->hook ? tell_hook(f, s, feed, x, width, err) : BB_OK;
}

static bb_status rope(bb_forward *f, const slab *s, bb_part part, bb_buffer x, bb_err *err)
{
    bb_heads heads = bb_heads_of(s->net, s->block, part, f->cos_sin, f->max_tokens);
    if (part == BB_PART_V && !heads.norm) return BB_OK;
    return f->backend->ops->rope(f->self, s->S, s->T, &heads, x, err);
}

/* f->x := what the sublayer's parts read. */
static bb_status take_in(bb_forward *f, const slab *s, bb_sublayer sub, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const float         *weight = bb_norm_weight(s->block, bb_sublayers[sub].pre);
    const size_t         n = rows_of(s);
    if (!weight) return o->copy(f->backend->context, s->h, f->x, n * f->n_embd, err);
    return o->rms_norm(f->self, n, f->n_embd, s->h, weight, s->net->norm_eps, f->x, err);
}

/* x feeds the sublayer's writer, whose output joins the residual stream; f->x is lost. */
static bb_status give_out(bb_forward *f, const slab *s, bb_sublayer sub, bb_buffer x, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const bb_matrix     *w = &s->block->w[bb_sublayers[sub].writer];
    const float         *weight = bb_norm_weight(s->block, bb_sublayers[sub].post);
    const size_t         n = rows_of(s);
    bb_status            status;
    if (!weight) return o->matmul(f->self, n, x, w, true, s->h, err);
    BB_TRY(o->matmul(f->self, n, x, w, false, f->x, err));
    BB_TRY(o->add_norm(f->self, n, f->n_embd, f->x, weight, s->net->norm_eps, s->h, err));
done:
    return status;
}

/* q := what the heads of the windows gather; k and v as they are then. */
static bb_status attend(bb_forward *f, const slab *s, bb_buffer q, bb_buffer k, bb_buffer v, bb_err *err)
{
    const bb_block *b = s->block;
    bb_status       status;
    BB_TRY(rope(f, s, BB_PART_Q, q, err));
    if (b->kv_role != BB_KV_TAKES) BB_TRY(rope(f, s, BB_PART_K, k, err));
    if (b->kv_role != BB_KV_TAKES) BB_TRY(rope(f, s, BB_PART_V, v, err));
    BB_TRY(f->backend->ops->attention(f->self, s->S, s->T, b->n_head, b->n_kv, f->head_dim[b->local], b->window, q, k, v, err));
done:
    return status;
}

static bb_status make_wide(bb_forward *f, size_t tokens, bb_err *err)
{
    const bb_backend *k = f->backend;
    const size_t      widths[3] = { f->max_q, f->max_kv, f->max_kv };
    bb_status         status = BB_OK;
    if (tokens <= f->wide_tokens) return BB_OK;
    f->wide_tokens = 0;
    for (int i = 0; i < 3; i++) {
        k->ops->release(k->context, f->wide[i]);
        f->wide[i] = (bb_buffer) { 0 };
        BB_TRY(k->ops->alloc(k->context, tokens * widths[i], &f->wide[i], err));
    }
    f->wide_tokens = tokens;
done:
    return status;
}

/* y (n, width): row i is row rows[i] of x (at_most rows). */
static bb_status pick(const bb_forward *f, size_t width, bb_buffer x, size_t at_most, const uint32_t *rows, size_t n, bb_buffer y, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    void                *context = f->backend->context;
    const float         *from = NULL;
    bb_status            status = o->peek(context, x, at_most * width, &from, err);
    for (size_t i = 0; i < n && status == BB_OK; i++) status = o->write(context, bb_buffer_at(y, i * width), from + rows[i] * width, width, err);
    o->unpeek(context, from);
    return status;
}

/* attend, of windows that share the rows of f->q, f->k and f->v: each has its own for as long as it lasts. */
static bb_status attend_apart(bb_forward *f, const slab *s, bb_err *err)
{
    const size_t n = (size_t)s->S * s->T, q = bb_dim_of(s->net, s->block, BB_DIM_HD), kv = bb_dim_of(s->net, s->block, BB_DIM_GD);
    bb_status    status;
    BB_TRY(make_wide(f, n, err));
    BB_TRY(pick(f, q, f->q, s->shared->n, s->shared->of, n, f->wide[0], err));
    BB_TRY(pick(f, kv, f->k, s->shared->n, s->shared->of, n, f->wide[1], err));
    BB_TRY(pick(f, kv, f->v, s->shared->n, s->shared->of, n, f->wide[2], err));
    BB_TRY(attend(f, s, f->wide[0], f->wide[1], f->wide[2], err));
    BB_TRY(pick(f, q, f->wide[0], n, s->shared->place, s->shared->n, f->q, err));
    if (s->block->kv_role != BB_KV_GIVES) goto done;
    BB_TRY(pick(f, kv, f->wide[1], n, s->shared->place, s->shared->n, f->k, err));
    BB_TRY(pick(f, kv, f->wide[2], n, s->shared->place, s->shared->n, f->v, err));
done:
    return status;
}

/* f->k, f->v := keys and values of f->x, before RoPE. */
static bb_status make_keys(bb_forward *f, const slab *s, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const bb_block      *b = s->block;
    bb_status            status;
    BB_TRY(o->matmul(f->self, rows_of(s), f->x, &b->w[BB_PART_K], false, f->k, err));
    if (bb_block_has_part(b, BB_PART_V)) BB_TRY(o->matmul(f->self, rows_of(s), f->x, &b->w[BB_PART_V], false, f->v, err));
    else BB_TRY(o->copy(f->backend->context, f->k, f->v, rows_of(s) * bb_dim_of(s->net, b, BB_DIM_GD), err));
done:
    return status;
}

/* Between f->k, f->v, as attention has them, and what the rows carry. */
static bb_status move_keys(bb_forward *f, const slab *s, bool give, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const size_t         width = bb_row_width(s->net), GD = bb_dim_of(s->net, s->block, BB_DIM_GD), n = rows_of(s);
    const bb_buffer      of[2] = { f->k, f->v };
    bb_status            status = BB_OK;
    for (int i = 0; i < 2; i++) {
        const bb_buffer there = bb_buffer_at(s->rows, f->n_embd + s->block->kv_at + (size_t)i * GD);
        if (give) BB_TRY(o->copy_rows(f->backend->context, of[i], GD, there, width, n, GD, err));
        else BB_TRY(o->copy_rows(f->backend->context, there, width, of[i], GD, n, GD, err));
    }
done:
    return status;
}

static bb_status attention(bb_forward *f, const slab *s, bool *ends, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const bb_block      *b = s->block;
    void                *d = f->self;
    bb_status            status;
    BB_TRY(take_in(f, s, BB_ATTENTION, err));
    BB_TRY(at_input(f, s, BB_FEED_ATTENTION, f->x, f->n_embd, ends, err));
    if (*ends) goto done;
    BB_TRY(o->matmul(d, rows_of(s), f->x, &b->w[BB_PART_Q], false, f->q, err));
    BB_TRY(b->kv_role == BB_KV_TAKES ? move_keys(f, s, false, err) : make_keys(f, s, err));
    BB_TRY(s->shared ? attend_apart(f, s, err) : attend(f, s, f->q, f->k, f->v, err));
    if (b->kv_role == BB_KV_GIVES) BB_TRY(move_keys(f, s, true, err));
    BB_TRY(at_input(f, s, BB_FEED_HEADS, f->q, bb_dim_of(s->net, b, BB_DIM_HD), ends, err));
    if (*ends) goto done;
    BB_TRY(give_out(f, s, BB_ATTENTION, f->q, err));
done:
    return status;
}

static bb_status ffn(bb_forward *f, const slab *s, bool *ends, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const bb_block      *b = s->block;
    void                *d = f->self;
    bb_status            status;
    BB_TRY(take_in(f, s, BB_FFN, err));
    BB_TRY(at_input(f, s, BB_FEED_FFN, f->x, f->n_embd, ends, err));
    if (*ends) goto done;
    BB_TRY(o->matmul(d, rows_of(s), f->x, &b->w[BB_PART_GATE], false, f->gate, err));
    BB_TRY(o->matmul(d, rows_of(s), f->x, &b->w[BB_PART_UP], false, f->up, err));
    BB_TRY(o->gated(d, s->net->gate, rows_of(s) * b->n_ff, f->gate, f->up, err));
    BB_TRY(at_input(f, s, BB_FEED_CHANNELS, f->gate, b->n_ff, ends, err));
    if (*ends) goto done;
    BB_TRY(give_out(f, s, BB_FFN, f->gate, err));
done:
    return status;
}

/* The ids that the rows of the slab carry. */
static bb_status carried_ids(bb_forward *f, const slab *s, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    void                *context = f->backend->context;
    const size_t         n = rows_of(s);
    const float         *host = NULL;
    bb_status            status;
    BB_TRY(o->copy_rows(context, bb_buffer_at(s->rows, f->n_embd), bb_row_width(s->net), f->carried, 1, n, 1, err));
    BB_TRY(o->peek(context, f->carried, n, &host, err));
    for (size_t i = 0; i < n; i++) f->ids[i] = (int32_t)host[i];
    BB_TRY(bb_check_ids(f->ids, n, s->net->n_vocab, err));
done:
    o->unpeek(context, host);
    return status;
}

/* f->token := what the tokens of the slab give to the block; f->e is lost. See bb_token_inputs. */
static bb_status token_inputs(bb_forward *f, const slab *s, bb_err *err)
{
    const bb_operations   *o = f->backend->ops;
    const bb_token_inputs *t = &s->net->token;
    const size_t           n = rows_of(s), P = t->width;
    const bb_matrix        proj = bb_token_proj(s->net, s->block->number);
    bb_status              status;
    BB_TRY(carried_ids(f, s, err));
    BB_TRY(o->gather(f->self, &s->net->embd, f->ids, n, f->e, err));
    if (bb_scales(s->net->embd_scale)) BB_TRY(o->scale(f->self, n * f->n_embd, s->net->embd_scale, f->e, err));
    BB_TRY(o->matmul(f->self, n, f->e, &proj, false, f->up, err));
    BB_TRY(o->scale(f->self, n * P, bb_token_proj_scale(s->net), f->up, err));
    for (size_t i = 0; i < n; i++) f->ids[i] = f->ids[i] * (int32_t)s->net->n_layer + (int32_t)s->block->number;
    BB_TRY(o->gather(f->self, &t->table, f->ids, n, f->token, err));
    BB_TRY(o->scale(f->self, n * P, sqrtf((float)P), f->token, err));
    BB_TRY(o->add_norm(f->self, n, (uint32_t)P, f->up, t->norm, s->net->norm_eps, f->token, err));
    BB_TRY(o->scale(f->self, n * P, sqrtf(0.5f), f->token, err));
done:
    return status;
}

static bb_status token(bb_forward *f, const slab *s, bool *ends, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const bb_block      *b = s->block;
    const size_t         n = rows_of(s);
    bb_status            status;
    BB_TRY(take_in(f, s, BB_TOKEN, err));
    BB_TRY(at_input(f, s, BB_FEED_TOKEN, f->x, f->n_embd, ends, err));
    if (*ends) goto done;
    BB_TRY(token_inputs(f, s, err));
    BB_TRY(o->matmul(f->self, n, f->x, &b->w[BB_PART_TOKEN_GATE], false, f->gate, err));
    BB_TRY(o->gated(f->self, s->net->gate, n * b->n_token, f->gate, f->token, err));
    BB_TRY(at_input(f, s, BB_FEED_TOKEN_CHANNELS, f->gate, b->n_token, ends, err));
    if (*ends) goto done;
    BB_TRY(give_out(f, s, BB_TOKEN, f->gate, err));
done:
    return status;
}

/* The matrices that are run before the input `last`; BB_N_FEEDS: all. */
static bb_status hold_block(bb_forward *f, const bb_block *b, int last, bb_err *err)
{
    const bb_matrix *w[BB_N_PARTS];
    size_t           n = 0;
    for (int p = 0; p < BB_N_PARTS; p++)
        if (bb_block_has_part(b, (bb_part)p) && (int)bb_parts[p].feed < last) w[n++] = &b->w[p];
    return f->backend->ops->hold(f->self, w, n, err);
}

static bb_status run_slab(bb_forward *f, const slab *all, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const size_t         n = rows_of(all), C = f->n_embd, W = bb_row_width(all->net);
    slab                 whole = *all, *s = &whole;
    bool                 ends = false;
    bb_status            status = BB_OK;
    s->rows = s->h;
    if (W > C) {
        s->h = f->stream;
        BB_TRY(o->copy_rows(f->backend->context, s->rows, W, s->h, C, n, C, err));
    }
    if (s->block->n_head) BB_TRY(attention(f, s, &ends, err));
    if (s->block->n_ff && !ends) BB_TRY(ffn(f, s, &ends, err));
    if (s->block->n_token && !ends) BB_TRY(token(f, s, &ends, err));
    if (bb_scales(s->block->scale) && !ends) BB_TRY(o->scale(f->self, n * C, s->block->scale, s->h, err));
    if (W > C && !ends) BB_TRY(o->copy_rows(f->backend->context, s->h, C, s->rows, W, n, C, err));
done:
    return status;
}

/* Windows first .. S - 1 through the block, slab by slab; all: what the slabs share, with the whole h and input. */
static bb_status run_slabs(bb_forward *f, const slab *all, uint32_t first, bb_err *err)
{
    const size_t T = all->T, W = bb_row_width(all->net), width = bb_dim_of(all->net, all->block, bb_feeds[all->last].width);
    bb_status    status = BB_OK;
    for (uint32_t at = first, step = slab_windows(f, all->T); at < all->S; at += step) {
        slab s = *all;
        s.S = all->S - at < step ? all->S - at : step;
        s.h = bb_buffer_at(all->h, at * T * W);
        s.input = bb_buffer_at(all->input, at * T * width);
        BB_TRY(run_slab(f, &s, err));
    }
done:
    return status;
}

static bb_status check_pass(const bb_forward *f, const slab *s, bb_err *err)
{
    bb_status status = bb_check_block(s->net, s->block, err);
    BB_ASSERT(s->S <= f->max_windows && s->T > 0 && s->T <= f->max_tokens);
    BB_ASSERT(s->net->n_embd == f->n_embd && s->net->n_carried == f->n_carried && s->net->token.width == f->max_token);
    BB_ASSERT(bb_head_dim(s->net, s->block) == f->head_dim[s->block->local] && bb_n_rot(s->net, s->block) == f->n_rot[s->block->local]);
    return status == BB_OK ? check_room(f, s->block, err) : status;
}

bb_status bb_forward_block(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, bb_buffer h, bb_input_hook hook, void *hook_self,
                           bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const slab           all = { .net = net, .block = block, .S = S, .T = T, .h = h, .hook = hook, .hook_self = hook_self };
    bb_heads             heads[3];
    uint32_t             n_done = 0;
    bb_status            status;
    BB_TRY(check_pass(f, &all, err));
    BB_TRY(hold_block(f, block, BB_N_FEEDS, err));
    for (int p = BB_PART_Q; p <= BB_PART_V; p++) heads[p] = bb_heads_of(net, block, (bb_part)p, f->cos_sin, f->max_tokens);
    if (!hook && o->block && !net->n_carried) BB_TRY(o->block(f->self, S, T, f->n_embd, net->gate, block, heads, h, &n_done, err));
    BB_TRY(run_slabs(f, &all, n_done, err));
    BB_TRY(o->hold(f->self, NULL, 0, err));
done:
    return status;
}

bb_status bb_forward_shared(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, const bb_shared_rows *rows, bb_buffer h,
                            bb_err *err)
{
    const slab all = { .net = net, .block = block, .S = S, .T = T, .h = h, .shared = rows };
    bb_status  status;
    BB_TRY(check_pass(f, &all, err));
    BB_ASSERT(rows->n > 0 && rows->n <= f->slab_tokens);
    BB_TRY(hold_block(f, block, BB_N_FEEDS, err));
    BB_TRY(run_slab(f, &all, err));
    BB_TRY(f->backend->ops->hold(f->self, NULL, 0, err));
done:
    return status;
}

bb_status bb_forward_input(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, bb_buffer h, bb_feed feed, bb_buffer x, bb_err *err)
{
    const slab all = { .net = net, .block = block, .S = S, .T = T, .h = h, .stops = true, .last = feed, .input = x };
    bb_status  status;
    BB_TRY(check_pass(f, &all, err));
    if (!bb_block_has(block, bb_feeds[feed].sublayer)) return BB_FAIL(err, BB_FAILED, "the block lacks the sublayer whose inputs are asked for");
    BB_TRY(hold_block(f, block, (int)feed, err));
    BB_TRY(run_slabs(f, &all, 0, err));
    BB_TRY(f->backend->ops->hold(f->self, NULL, 0, err));
done:
    return status;
}

bb_status bb_forward_streams(const bb_backend *backend, const bb_net *net, bb_buffer h, size_t n, bb_buffer rows, bb_err *err)
{
    const size_t C = net->n_embd, W = bb_row_width(net);
    if (W == C) return backend->ops->copy(backend->context, h, rows, n * C, err);
    return backend->ops->copy_rows(backend->context, h, W, rows, C, n, C, err);
}

static bb_status output_norm(bb_forward *f, const bb_net *net, bb_buffer h, size_t n, bb_buffer x, bb_err *err)
{
    const bb_operations *o = f->backend->ops;
    const bb_status      status = o->rms_norm(f->self, n, f->n_embd, h, net->out_norm, net->norm_eps, x, err);
    return status == BB_OK && bb_scales(net->out_scale) ? o->scale(f->self, n * f->n_embd, net->out_scale, x, err) : status;
}

bb_status bb_forward_logits(bb_forward *f, const bb_net *net, bb_buffer h, size_t n, float *logits, bb_err *err)
{
    bb_status status;
    size_t    V = net->n_vocab;
    BB_TRY(bb_check_head(net, err));
    for (size_t at = 0; at < n; at += f->slab_tokens) {
        size_t m = n - at < f->slab_tokens ? n - at : f->slab_tokens;
        BB_TRY(output_norm(f, net, bb_buffer_at(h, at * f->n_embd), m, f->x, err));
        BB_TRY(f->backend->ops->logits(f->self, m, f->x, bb_net_head(net), net->logit_cap, logits + at * V, err));
    }
    status = BB_OK;
done:
    return status;
}

bb_status bb_forward_nll(bb_forward *f, const bb_net *net, bb_buffer h, const int32_t *targets, size_t n, double *nll, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_check_head(net, err));
    BB_TRY(bb_check_ids(targets, n, net->n_vocab, err));
    for (size_t at = 0; at < n; at += f->slab_tokens) {
        size_t m = n - at < f->slab_tokens ? n - at : f->slab_tokens;
        BB_TRY(output_norm(f, net, bb_buffer_at(h, at * f->n_embd), m, f->x, err));
        const bb_head_rows of = { .x = f->x, .head = bb_net_head(net), .cap = net->logit_cap, .targets = targets + at };
        BB_TRY(f->backend->ops->score(f->self, m, &of, NULL, nll + at, NULL, err));
    }
    status = BB_OK;
done:
    return status;
}

bb_status bb_forward_kl(bb_forward *f, const bb_net *ref_net, bb_buffer h_ref, const bb_net *net, bb_buffer h, const int32_t *targets, size_t n, double *kl,
                        double *nll, unsigned char *same, bb_err *err)
{
    bb_status status;
    BB_ASSERT(!nll == !targets);
    BB_TRY(bb_check_head(ref_net, err));
    BB_TRY(bb_check_head(net, err));
    if (ref_net->n_vocab != net->n_vocab || ref_net->n_embd != net->n_embd)
        return BB_FAIL(err, BB_BAD_FILE, "KL: the reference has %u vocabulary entries and width %u, the network %u and %u", ref_net->n_vocab, ref_net->n_embd,
                       net->n_vocab, net->n_embd);
    if (targets) BB_TRY(bb_check_ids(targets, n, net->n_vocab, err));
    for (size_t at = 0; at < n; at += f->slab_tokens) {
        size_t m = n - at < f->slab_tokens ? n - at : f->slab_tokens;
        BB_TRY(output_norm(f, ref_net, bb_buffer_at(h_ref, at * f->n_embd), m, f->q, err));
        BB_TRY(output_norm(f, net, bb_buffer_at(h, at * f->n_embd), m, f->x, err));
        const bb_head_rows of = { f->q, f->x, bb_net_head(ref_net), bb_net_head(net), ref_net->logit_cap, net->logit_cap, targets ? targets + at : NULL };
        BB_TRY(f->backend->ops->score(f->self, m, &of, kl + at, nll ? nll + at : NULL, same ? same + at : NULL, err));
    }
    status = BB_OK;
done:
    return status;
}
