/* SPDX-License-Identifier: GPL-3.0-or-later
 * backward.c: see backward.h. A block runs forward again on a slab of whole windows, keeping its activations, then backward through
 * the same operations; the forward half uses the forward pass's own, so it sees exactly what that saw.
 */
#include "model/net/backward.h"

#include <math.h>

#include "base/mem.h"
#include "kernels/kernels.h"

enum { SLAB_TOKENS = 512 /* activations of a slab stay near the cores; weights are packed once for all slabs */ };

/* Buffers of one slab; widths in the comments. */
typedef struct activations {
    bb_buffer x, x2, h_mid, dx;     /* C: inputs of attention and FFN, hidden state between them, gradient at a norm's output */
    bb_buffer q_raw, q, att, d_att; /* H*D: before and after norm and RoPE, attention output, its gradient, then dq */
    bb_buffer k_raw, k, v, dk, dv;  /* G*D */
    bb_buffer v_raw;                /* G*D: before their norm; without such a norm not there */
    bb_buffer gate, up, act, d_act; /* F */
    bb_buffer y[BB_N_SUBLAYERS];    /* C: what a writer gives, before the norm of the sublayer's output; without any such norm not there */
    /* where rows carry something */
    bb_buffer h, dh;                     /* C: the stream of the slab, and its gradient */
    bb_buffer h_token, e;                /* C: hidden state behind the FFN, embeddings */
    bb_buffer token, t_gate, t_act, d_t; /* P: what the token gives, the gate, what feeds its writer, its gradient */
    bb_buffer t_proj;                    /* P: of the embedding, before its norm */
    bb_buffer id;                        /* 1 */
} activations;

struct bb_backward {
    const bb_backend *backend;
    void             *self; /* its workspace */
    uint32_t          n_embd, max_windows, max_tokens;
    size_t            slab_tokens, max_q, max_kv, max_ff, max_y, max_v_raw, n_carried, max_token;
    int32_t          *ids; /* [slab] where rows carry something */
    float            *cos_sin;
    bb_buffer         block_memory; /* one allocation behind a */
    activations       a;
};

/* ---- life ---- */

static void measure(bb_backward *b, const bb_net *net)
{
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *k = &net->blocks[i];
        size_t          q = bb_dim_of(net, k, BB_DIM_HD), kv = bb_dim_of(net, k, BB_DIM_GD);
        if (q > b->max_q) b->max_q = q;
        if (kv > b->max_kv) b->max_kv = kv;
        if (k->n_ff > b->max_ff) b->max_ff = k->n_ff;
        if (net->value_norm) b->max_v_raw = b->max_kv;
        if (k->norm[BB_NORM_POST_ATTENTION] || k->norm[BB_NORM_POST_FFN] || k->norm[BB_NORM_POST_TOKEN]) b->max_y = net->n_embd;
    }
    b->n_carried = net->n_carried;
    b->max_token = net->token.width;
}

static bb_status allocate(bb_backward *b, bb_err *err)
{
    activations *a = &b->a;
    const size_t stream = b->n_carried ? b->n_embd : 0, token = b->max_token ? b->n_embd : 0, P = b->max_token;
    struct {
        bb_buffer *at;
        size_t     width;
    } const arrays[] = {
        { &a->x, b->n_embd },
        { &a->x2, b->n_embd },
        { &a->h_mid, b->n_embd },
        { &a->dx, b->n_embd },
        { &a->q_raw, b->max_q },
        { &a->q, b->max_q },
        { &a->att, b->max_q },
        { &a->d_att, b->max_q },
        { &a->k_raw, b->max_kv },
        { &a->k, b->max_kv },
        { &a->v, b->max_kv },
        { &a->dk, b->max_kv },
        { &a->dv, b->max_kv },
        { &a->gate, b->max_ff },
        { &a->up, b->max_ff },
        { &a->act, b->max_ff },
        { &a->d_act, b->max_ff },
        { &a->y[BB_ATTENTION], b->max_y },
        { &a->y[BB_FFN], b->max_y },
        { &a->v_raw, b->max_v_raw },
        { &a->h, stream },
        { &a->dh, stream },
        { &a->h_token, token },
        { &a->e, token },
        { &a->y[BB_TOKEN], token },
        { &a->token, P },
        { &a->t_gate, P },
        { &a->t_act, P },
        { &a->d_t, P },
        { &a->t_proj, P },
        { &a->id, P ? 1 : 0 },
    };
    size_t width = 0, floats;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) width += arrays[i].width;
    if (!bb_mul_size(width, b->slab_tokens, &floats)) return BB_FAIL(err, BB_NOMEM, "out of memory: %zu activations x %zu tokens", width, b->slab_tokens);
    if (P && !(b->ids = BB_NEW(b->slab_tokens, int32_t, err))) return BB_NOMEM;
    bb_status status = b->backend->ops->alloc(b->backend->context, floats, &b->block_memory, err);
    size_t    at = 0;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; at += arrays[i++].width * b->slab_tokens) *arrays[i].at = bb_buffer_at(b->block_memory, at);
    return status;
}

bb_status bb_backward_create(const bb_backend *backend, const bb_net *net, uint32_t max_windows, uint32_t max_tokens, bb_backward **out, bb_err *err)
{
    bb_backward *b = NULL;
    bb_status    status;
    *out = NULL;
    BB_ASSERT(max_windows > 0 && max_tokens > 0);
    BB_TRY(bb_check_shape(net, err));
    if (!(b = BB_NEW0(1, bb_backward, err))) return BB_NOMEM;
    b->backend = backend;
    b->n_embd = net->n_embd;
    b->max_windows = max_windows;
    b->max_tokens = max_tokens;
    b->slab_tokens = max_tokens > SLAB_TOKENS ? max_tokens : SLAB_TOKENS;
    if ((uint64_t)max_windows * max_tokens < b->slab_tokens) b->slab_tokens = (size_t)max_windows * max_tokens;
    measure(b, net);
    BB_TRY(backend->ops->open(backend->context, &b->self, err));
    if (!(b->cos_sin = bb_rope_table(net, max_tokens, err))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(allocate(b, err));
    *out = b;
done:
    if (status != BB_OK) bb_backward_destroy(b);
    return status;
}

const bb_backend *bb_backward_backend(const bb_backward *b) { return b->backend; }
void              bb_backward_rough(bb_backward *b, bool rough) { b->backend->ops->rough(b->self, rough); }

void bb_backward_destroy(bb_backward *b)
{
    if (!b) return;
    b->backend->ops->release(b->backend->context, b->block_memory);
    b->backend->ops->close(b->self);
    bb_free(b->cos_sin);
    bb_free(b->ids);
    bb_free(b);
}

/* ---- one block ---- */

/* One slab on its way; h and dh point at its rows. */
typedef struct pass {
    bb_backward         *b;
    const bb_operations *o; /* of its backend, and the workspace */
    void                *self;
    const bb_net        *net;
    const bb_block      *block;
    const bb_block_grad *grad; /* never NULL: all empty when the caller wants none */
    uint32_t             S, T;
    size_t               n;            /* S*T */
    bb_buffer            h, dh;        /* of the stream */
    bb_buffer            rows, d_rows; /* whole rows; where nothing is carried, h and dh */
    bb_heads             q_heads, k_heads, v_heads;
} pass;

static bb_status linear(const pass *p, bb_buffer x, bb_part part, bool add, bb_buffer y, bb_err *err)
{
    return p->o->matmul(p->self, p->n, x, &p->block->w[part], add, y, err);
}

static bb_status copy(const pass *p, bb_buffer from, bb_buffer to, size_t n, bb_err *err) { return p->o->copy(p->b->backend->context, from, to, n, err); }

static bb_status tell_hook(const pass *p, bb_part part, bb_buffer x, bb_buffer dy, bb_err *err)
{
    const bb_matrix *w = &p->block->w[part];
    void            *context = p->b->backend->context;
    const float     *host_x = NULL, *host_dy = NULL;
    bb_status        status;
    BB_TRY(p->o->peek(context, x, p->n * w->cols, &host_x, err));
    BB_TRY(p->o->peek(context, dy, p->n * w->rows, &host_dy, err));
    BB_TRY(p->grad->hook(p->grad->hook_self, part, host_x, host_dy, p->n, err));
done:
    p->o->unpeek(context, host_x);
    p->o->unpeek(context, host_dy);
    return status;
}

/* Everything that one linear's gradient dy asks for: parameters, hook, and dx [+]= W' dy. */
static bb_status back_linear(const pass *p, bb_part part, bb_buffer x, bb_buffer dy, bool add, bb_buffer dx, bb_err *err)
{
    const bb_matrix *w = &p->block->w[part];
    const bb_buffer  none = { 0 };
    bb_status        status = BB_OK;
    if (p->grad->hook) BB_TRY(tell_hook(p, part, x, dy, err));
    if (p->grad->w[part]) BB_TRY(p->o->back_weights(p->self, p->n, w->rows, w->cols, dy, x, p->grad->w[part], err));
    if (p->grad->bias[part]) BB_TRY(p->o->back_sums(p->self, p->n, w->rows, 1, dy, none, p->grad->bias[part], err));
    BB_TRY(p->o->back_matmul(p->self, p->n, dy, w, add, dx, err));
done:
    return status;
}

/* x := what the sublayer's parts read of h. */
static bb_status take_in(const pass *p, bb_sublayer s, bb_buffer h, bb_buffer x, bb_err *err)
{
    const float *weight = bb_norm_weight(p->block, bb_sublayers[s].pre);
    if (!weight) return copy(p, h, x, p->n * p->b->n_embd, err);
    return p->o->rms_norm(p->self, p->n, p->b->n_embd, h, weight, p->net->norm_eps, x, err);
}

/* dh += what dx, the gradient of that x, gives. */
static bb_status back_take_in(const pass *p, bb_sublayer s, bb_buffer h, bb_buffer dx, bb_err *err)
{
    const bb_norm norm = bb_sublayers[s].pre;
    if (!bb_norm_weight(p->block, norm)) return p->o->add(p->self, p->n * p->b->n_embd, dx, p->dh, err);
    return p->o->back_norm(p->self, p->n, p->b->n_embd, h, p->block->norm[norm], p->net->norm_eps, dx, true, p->dh, p->grad->norm[norm], err);
}

/* What the writer makes of x joins h, unless h is not there; kept in y where it has a norm. */
static bb_status give_out(const pass *p, bb_sublayer s, bb_buffer x, bb_buffer h, bb_err *err)
{
    const bb_buffer y = p->b->a.y[s], normed = p->b->a.dx;
    const float    *weight = bb_norm_weight(p->block, bb_sublayers[s].post);
    bb_status       status;
    if (!weight) return h.memory ? linear(p, x, bb_sublayers[s].writer, true, h, err) : BB_OK;
    BB_TRY(linear(p, x, bb_sublayers[s].writer, false, y, err));
    if (!h.memory) goto done;
    BB_TRY(copy(p, y, normed, p->n * p->b->n_embd, err));
    BB_TRY(p->o->add_norm(p->self, p->n, p->b->n_embd, normed, weight, p->net->norm_eps, h, err));
done:
    return status;
}

/* dx := the gradient of what feeds the writer. */
static bb_status back_give_out(const pass *p, bb_sublayer s, bb_buffer x, bb_buffer dx, bb_err *err)
{
    const bb_norm   norm = bb_sublayers[s].post;
    const bb_buffer dy = p->block->norm[norm] ? p->b->a.dx : p->dh;
    bb_status       status = BB_OK;
    if (p->block->norm[norm])
        BB_TRY(p->o->back_norm(p->self, p->n, p->b->n_embd, p->b->a.y[s], p->block->norm[norm], p->net->norm_eps, p->dh, false, dy, p->grad->norm[norm], err));
    BB_TRY(back_linear(p, bb_sublayers[s].writer, x, dy, false, dx, err));
done:
    return status;
}

/* Between k, v (G*D each) of the slab and their places in rows or their gradients. */
static bb_status move_keys(const pass *p, bb_buffer rows, bool to_rows, bb_buffer k, bb_buffer v, bb_err *err)
{
    const size_t    width = bb_row_width(p->net), GD = bb_dim_of(p->net, p->block, BB_DIM_GD);
    const bb_buffer of[2] = { k, v };
    bb_status       status = BB_OK;
    for (int i = 0; i < 2; i++) {
        const bb_buffer there = bb_buffer_at(rows, p->b->n_embd + p->block->kv_at + (size_t)i * GD);
        if (to_rows) BB_TRY(p->o->copy_rows(p->b->backend->context, of[i], GD, there, width, p->n, GD, err));
        else BB_TRY(p->o->copy_rows(p->b->backend->context, there, width, of[i], GD, p->n, GD, err));
    }
done:
    return status;
}

static bb_status make_keys(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    const size_t       floats = p->n * bb_dim_of(p->net, p->block, BB_DIM_GD);
    bb_status          status;
    BB_TRY(linear(p, a->x, BB_PART_K, false, a->k_raw, err));
    if (bb_block_has_part(p->block, BB_PART_V)) BB_TRY(linear(p, a->x, BB_PART_V, false, a->v, err));
    else BB_TRY(copy(p, a->k_raw, a->v, floats, err));
    if (p->v_heads.norm) BB_TRY(copy(p, a->v, a->v_raw, floats, err));
    BB_TRY(copy(p, a->k_raw, a->k, floats, err));
    BB_TRY(p->o->rope(p->self, p->S, p->T, &p->k_heads, a->k, err));
    if (p->v_heads.norm) BB_TRY(p->o->rope(p->self, p->S, p->T, &p->v_heads, a->v, err));
done:
    return status;
}

static bb_status attention_forward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    const bb_block    *k = p->block;
    size_t             q_floats = p->n * bb_dim_of(p->net, k, BB_DIM_HD);
    bb_status          status;
    BB_TRY(take_in(p, BB_ATTENTION, p->h, a->x, err));
    BB_TRY(linear(p, a->x, BB_PART_Q, false, a->q_raw, err));
    BB_TRY(copy(p, a->q_raw, a->q, q_floats, err));
    BB_TRY(p->o->rope(p->self, p->S, p->T, &p->q_heads, a->q, err));
    if (k->kv_role == BB_KV_TAKES) BB_TRY(move_keys(p, p->rows, false, a->k, a->v, err));
    else BB_TRY(make_keys(p, err));
    BB_TRY(copy(p, a->q, a->att, q_floats, err));
    BB_TRY(p->o->attention(p->self, p->S, p->T, k->n_head, k->n_kv, p->q_heads.dim, k->window, a->att, a->k, a->v, err));
    BB_TRY(give_out(p, BB_ATTENTION, a->att, a->h_mid, err));
done:
    return status;
}

static bb_status ffn_forward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    bb_status          status;
    BB_TRY(take_in(p, BB_FFN, a->h_mid, a->x2, err));
    BB_TRY(linear(p, a->x2, BB_PART_GATE, false, a->gate, err));
    BB_TRY(linear(p, a->x2, BB_PART_UP, false, a->up, err));
    BB_TRY(copy(p, a->gate, a->act, p->n * p->block->n_ff, err));
    BB_TRY(p->o->gated(p->self, p->net->gate, p->n * p->block->n_ff, a->act, a->up, err));
    BB_TRY(give_out(p, BB_FFN, a->act, p->block->n_token ? a->h_token : (bb_buffer) { 0 }, err));
done:
    return status;
}

/* b->ids := those that the rows of the slab carry. */
static bb_status carried_ids(const pass *p, bb_err *err)
{
    void        *context = p->b->backend->context;
    const float *host = NULL;
    bb_status    status;
    BB_TRY(p->o->copy_rows(context, bb_buffer_at(p->rows, p->b->n_embd), bb_row_width(p->net), p->b->a.id, 1, p->n, 1, err));
    BB_TRY(p->o->peek(context, p->b->a.id, p->n, &host, err));
    for (size_t i = 0; i < p->n; i++) p->b->ids[i] = (int32_t)host[i];
    BB_TRY(bb_check_ids(p->b->ids, p->n, p->net->n_vocab, err));
done:
    p->o->unpeek(context, host);
    return status;
}

/* From ids of tokens to those of their rows in the table, and back. */
static void to_rows(const pass *p, bool back)
{
    const int32_t L = (int32_t)p->net->n_layer, number = (int32_t)p->block->number;
    for (size_t i = 0; i < p->n; i++) p->b->ids[i] = back ? p->b->ids[i] / L : p->b->ids[i] * L + number;
}

/* See bb_token_inputs. */
static bb_status token_inputs(const pass *p, bb_err *err)
{
    const activations     *a = &p->b->a;
    const bb_token_inputs *t = &p->net->token;
    const size_t           P = t->width, C = p->b->n_embd;
    const bb_matrix        proj = bb_token_proj(p->net, p->block->number);
    bb_status              status;
    BB_TRY(carried_ids(p, err));
    BB_TRY(p->o->gather(p->self, &p->net->embd, p->b->ids, p->n, a->e, err));
    if (bb_scales(p->net->embd_scale)) BB_TRY(p->o->scale(p->self, p->n * C, p->net->embd_scale, a->e, err));
    BB_TRY(p->o->matmul(p->self, p->n, a->e, &proj, false, a->t_proj, err));
    BB_TRY(p->o->scale(p->self, p->n * P, bb_token_proj_scale(p->net), a->t_proj, err));
    to_rows(p, false);
    BB_TRY(p->o->gather(p->self, &t->table, p->b->ids, p->n, a->token, err));
    to_rows(p, true);
    BB_TRY(p->o->scale(p->self, p->n * P, sqrtf((float)P), a->token, err));
    BB_TRY(copy(p, a->t_proj, a->d_t, p->n * P, err));
    BB_TRY(p->o->add_norm(p->self, p->n, (uint32_t)P, a->d_t, t->norm, p->net->norm_eps, a->token, err));
    BB_TRY(p->o->scale(p->self, p->n * P, sqrtf(0.5f), a->token, err));
done:
    return status;
}

static bb_status token_forward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    bb_status          status;
    BB_TRY(token_inputs(p, err));
    BB_TRY(linear(p, a->h_token, BB_PART_TOKEN_GATE, false, a->t_gate, err));
    BB_TRY(copy(p, a->t_gate, a->t_act, p->n * p->block->n_token, err));
    BB_TRY(p->o->gated(p->self, p->net->gate, p->n * p->block->n_token, a->t_act, a->token, err));
    BB_TRY(give_out(p, BB_TOKEN, a->t_act, (bb_buffer) { 0 }, err));
done:
    return status;
}

/* a->token is the gradient of what the tokens give to the block: on to the table, its norm, the projection and the embeddings, where they are asked for. */
static bb_status back_token_inputs(const pass *p, bb_err *err)
{
    const activations     *a = &p->b->a;
    const bb_token_inputs *t = &p->net->token;
    const bb_block_grad   *grad = p->grad;
    const size_t           P = t->width, C = p->b->n_embd;
    const bb_matrix        proj = bb_token_proj(p->net, p->block->number);
    void                  *context = p->b->backend->context;
    const float           *host = NULL;
    bb_status              status = BB_OK;
    if (!grad->token_hook && !grad->token_norm && !grad->token_proj && !grad->embd) return BB_OK;
    BB_TRY(p->o->scale(p->self, p->n * P, sqrtf(0.5f), a->token, err));
    BB_TRY(p->o->back_norm(p->self, p->n, P, a->t_proj, t->norm, p->net->norm_eps, a->token, false, a->d_t, grad->token_norm, err));
    BB_TRY(p->o->scale(p->self, p->n * P, bb_token_proj_scale(p->net), a->d_t, err));
    if (grad->token_proj) BB_TRY(p->o->back_weights(p->self, p->n, P, C, a->d_t, a->e, grad->token_proj + (size_t)p->block->number * P * C, err));
    if (grad->token_hook) {
        BB_TRY(p->o->scale(p->self, p->n * P, sqrtf((float)P), a->token, err));
        BB_TRY(p->o->peek(context, a->token, p->n * P, &host, err));
        to_rows(p, false);
        BB_TRY(grad->token_hook(grad->token_self, p->b->ids, host, p->n, err));
        to_rows(p, true);
        p->o->unpeek(context, host);
        host = NULL;
    }
    if (!grad->embd) goto done;
    BB_TRY(p->o->back_matmul(p->self, p->n, a->d_t, &proj, false, a->dx, err));
    BB_TRY(p->o->peek(context, a->dx, p->n * C, &host, err));
    for (size_t i = 0; i < p->n; i++)
        for (size_t c = 0; c < C; c++) grad->embd[(size_t)p->b->ids[i] * C + c] += bb_scale_of(p->net->embd_scale) * host[i * C + c];
done:
    p->o->unpeek(context, host);
    return status;
}

static bb_status token_backward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    bb_status          status;
    BB_TRY(back_give_out(p, BB_TOKEN, a->t_act, a->d_t, err));
    BB_TRY(p->o->back_gated(p->self, p->net->gate, p->n * p->block->n_token, a->t_gate, a->token, a->d_t, err));
    BB_TRY(back_linear(p, BB_PART_TOKEN_GATE, a->h_token, a->t_gate, false, a->dx, err));
    BB_TRY(back_take_in(p, BB_TOKEN, a->h_token, a->dx, err));
    BB_TRY(back_token_inputs(p, err));
done:
    return status;
}

static bb_status ffn_backward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    bb_status          status;
    BB_TRY(back_give_out(p, BB_FFN, a->act, a->d_act, err));
    if (p->grad->ff_mask) BB_TRY(p->o->back_sums(p->self, p->n, p->block->n_ff, 1, a->act, a->d_act, p->grad->ff_mask, err));
    BB_TRY(p->o->back_gated(p->self, p->net->gate, p->n * p->block->n_ff, a->gate, a->up, a->d_act, err));
    BB_TRY(back_linear(p, BB_PART_UP, a->x2, a->up, false, a->dx, err));
    BB_TRY(back_linear(p, BB_PART_GATE, a->x2, a->gate, true, a->dx, err));
    BB_TRY(back_take_in(p, BB_FFN, a->h_mid, a->dx, err));
done:
    return status;
}

/* a->dk, a->dv, the gradients of keys and values in this block, meet those of later blocks, which travel with the rows. */
static bb_status share_keys(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    const bb_buffer    k = a->k, v = a->v; /* free by now */
    const size_t       floats = p->n * bb_dim_of(p->net, p->block, BB_DIM_GD);
    bb_status          status;
    BB_TRY(move_keys(p, p->d_rows, false, k, v, err));
    if (p->block->kv_role == BB_KV_TAKES) {
        BB_TRY(p->o->add(p->self, floats, a->dk, k, err));
        BB_TRY(p->o->add(p->self, floats, a->dv, v, err));
    } else {
        BB_TRY(p->o->add(p->self, floats, k, a->dk, err));
        BB_TRY(p->o->add(p->self, floats, v, a->dv, err));
        BB_TRY(p->o->scale(p->self, floats, 0, k, err)); /* what the rows carried before is written over */
        BB_TRY(p->o->scale(p->self, floats, 0, v, err));
    }
    BB_TRY(move_keys(p, p->d_rows, true, k, v, err));
done:
    return status;
}

/* a->dx += the gradient of the input of k and v. */
static bb_status back_keys(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    const bool         own_values = bb_block_has_part(p->block, BB_PART_V);
    bb_status          status;
    BB_TRY(p->o->back_rope(p->self, p->S, p->T, &p->k_heads, a->k_raw, a->dk, p->grad->norm[BB_NORM_K], err));
    if (p->v_heads.norm) BB_TRY(p->o->back_rope(p->self, p->S, p->T, &p->v_heads, a->v_raw, a->dv, NULL, err));
    if (own_values) BB_TRY(back_linear(p, BB_PART_V, a->x, a->dv, false, a->dx, err));
    else BB_TRY(p->o->add(p->self, p->n * bb_dim_of(p->net, p->block, BB_DIM_GD), a->dv, a->dk, err));
    BB_TRY(back_linear(p, BB_PART_K, a->x, a->dk, own_values, a->dx, err));
done:
    return status;
}

static bb_status attention_backward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    const bb_block    *k = p->block;
    const uint32_t     D = p->q_heads.dim;
    const bool         own_keys = k->kv_role != BB_KV_TAKES;
    bb_status          status;
    BB_TRY(back_give_out(p, BB_ATTENTION, a->att, a->d_att, err));
    if (p->grad->head_mask) BB_TRY(p->o->back_sums(p->self, p->n, (size_t)k->n_head * D, D, a->att, a->d_att, p->grad->head_mask, err));
    BB_TRY(p->o->back_attention(p->self, p->S, p->T, k->n_head, k->n_kv, D, k->window, a->q, a->k, a->v, a->d_att, a->dk, a->dv, err));
    BB_TRY(p->o->back_rope(p->self, p->S, p->T, &p->q_heads, a->q_raw, a->d_att, p->grad->norm[BB_NORM_Q], err));
    if (k->kv_role != BB_KV_OWN) BB_TRY(share_keys(p, err));
    if (own_keys) BB_TRY(back_keys(p, err));
    BB_TRY(back_linear(p, BB_PART_Q, a->x, a->d_att, own_keys, a->dx, err));
    BB_TRY(back_take_in(p, BB_ATTENTION, p->h, a->dx, err));
done:
    return status;
}

static bb_status back_slab(const pass *p, bb_err *err)
{
    bb_status status = BB_OK;
    BB_TRY(copy(p, p->h, p->b->a.h_mid, p->n * p->b->n_embd, err));
    if (p->block->n_head) BB_TRY(attention_forward(p, err));
    if (p->block->n_token) BB_TRY(copy(p, p->b->a.h_mid, p->b->a.h_token, p->n * p->b->n_embd, err));
    if (p->block->n_ff) BB_TRY(ffn_forward(p, err));
    if (p->block->n_token) BB_TRY(token_forward(p, err));
    if (bb_scales(p->block->scale)) BB_TRY(p->o->scale(p->self, p->n * p->b->n_embd, p->block->scale, p->dh, err));
    if (p->block->n_token) BB_TRY(token_backward(p, err));
    if (p->block->n_ff) BB_TRY(ffn_backward(p, err));
    if (p->block->n_head) BB_TRY(attention_backward(p, err));
done:
    return status;
}

static bb_status check_room(const bb_backward *b, const bb_net *net, const bb_block *k, bb_err *err)
{
    const size_t D = bb_head_dim(net, k);
    if (k->n_head * D > b->max_q || k->n_kv * D > b->max_kv || k->n_ff > b->max_ff)
        return BB_FAIL(err, BB_FAILED, "block of %u/%u heads and FFN width %u: the workspace was made for %zu/%zu and %zu", k->n_head, k->n_kv, k->n_ff,
                       b->max_q / D, b->max_kv / D, b->max_ff);
    return BB_OK;
}

/* Packs the block's weights, as they are and turned, for all slabs. */
static bb_status hold(bb_backward *b, const bb_block *block, bb_err *err)
{
    const bb_matrix *w[BB_N_PARTS];
    size_t           n = 0;
    bb_status        status;
    for (int p = 0; p < BB_N_PARTS; p++)
        if (bb_block_has_part(block, (bb_part)p)) w[n++] = &block->w[p];
    const bb_sublayer last = block->n_token ? BB_TOKEN : BB_FFN;
    const bool        skips = n > 0 && w[n - 1] == &block->w[bb_sublayers[last].writer] && !block->norm[bb_sublayers[last].post]; /* it is not run forward */
    BB_TRY(b->backend->ops->hold(b->self, w, skips ? n - 1 : n, err));
    BB_TRY(b->backend->ops->back_hold(b->self, w, n, err));
done:
    return status;
}

static void let_go(bb_backward *b)
{
    (void)b->backend->ops->hold(b->self, NULL, 0, NULL); /* nothing to decode: nothing fails */
    (void)b->backend->ops->back_hold(b->self, NULL, 0, NULL);
}

bb_status bb_backward_block(bb_backward *b, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, bb_buffer h, bb_buffer dh,
                            const bb_block_grad *grad, bb_err *err)
{
    static const bb_block_grad nothing;
    bb_status                  status;
    size_t                     windows = b->slab_tokens / T, C = b->n_embd, W = bb_row_width(net);
    void                      *context = b->backend->context;
    BB_ASSERT(S <= b->max_windows && T > 0 && T <= b->max_tokens);
    BB_ASSERT(net->n_embd == b->n_embd && net->n_carried == b->n_carried && net->token.width == b->max_token);
    BB_TRY(bb_check_block(net, block, err));
    BB_TRY(check_room(b, net, block, err));
    BB_TRY(hold(b, block, err));
    for (uint32_t at = 0, step = windows ? (uint32_t)windows : 1; at < S; at += step) {
        pass p = { .b = b, .o = b->backend->ops, .self = b->self, .net = net, .block = block, .grad = grad ? grad : &nothing, .T = T };
        p.S = S - at < step ? S - at : step;
        p.n = (size_t)p.S * T;
        p.h = p.rows = bb_buffer_at(h, (size_t)at * T * W);
        p.dh = p.d_rows = bb_buffer_at(dh, (size_t)at * T * W);
        if (W > C) {
            p.h = b->a.h;
            p.dh = b->a.dh;
            BB_TRY(p.o->copy_rows(context, p.rows, W, p.h, C, p.n, C, err));
            BB_TRY(p.o->copy_rows(context, p.d_rows, W, p.dh, C, p.n, C, err));
        }
        p.q_heads = bb_heads_of(net, block, BB_PART_Q, b->cos_sin, b->max_tokens);
        p.k_heads = bb_heads_of(net, block, BB_PART_K, b->cos_sin, b->max_tokens);
        p.v_heads = bb_heads_of(net, block, BB_PART_V, b->cos_sin, b->max_tokens);
        BB_TRY(back_slab(&p, err));
        if (W > C) BB_TRY(p.o->copy_rows(context, p.dh, C, p.d_rows, W, p.n, C, err));
    }
    status = BB_OK;
done:
    let_go(b);
    return status;
}

/* ---- head ---- */

static bool has_reference(const bb_head_loss *of) { return !of->targets || of->label_share > 0; }

static bb_status check_loss(const bb_net *net, const bb_head_loss *of, size_t n, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_check_head(net, err));
    BB_ASSERT(!of->squared || !of->targets);
    BB_ASSERT(of->label_share == 0 || of->targets);
    if (of->targets) BB_TRY(bb_check_ids(of->targets, n, net->n_vocab, err));
    if (!has_reference(of)) return BB_OK;
    BB_ASSERT(of->ref_net && of->h_ref.memory);
    BB_TRY(bb_check_head(of->ref_net, err));
    if (of->ref_net->n_vocab != net->n_vocab || of->ref_net->n_embd != net->n_embd)
        return BB_FAIL(err, BB_BAD_FILE, "KL: the reference has %u vocabulary entries and width %u, the network %u and %u", of->ref_net->n_vocab,
                       of->ref_net->n_embd, net->n_vocab, net->n_embd);
done:
    return status;
}

static bb_status output_norm(bb_backward *b, const bb_net *net, bb_buffer h, size_t n, bb_buffer x, bb_err *err)
{
    const bb_operations *o = b->backend->ops;
    const bb_status      status = o->rms_norm(b->self, n, b->n_embd, h, net->out_norm, net->norm_eps, x, err);
    return status == BB_OK && bb_scales(net->out_scale) ? o->scale(b->self, n * b->n_embd, net->out_scale, x, err) : status;
}

/* Rows at .. at + n - 1 of the caller's arrays. */
static bb_status head_rows(bb_backward *b, const bb_net *net, bb_buffer h, size_t n, const bb_head_loss *of, double *loss, bb_buffer dh,
                           const bb_head_grad *grad, bb_err *err)
{
    const bb_operations *o = b->backend->ops;
    const activations   *a = &b->a;
    bb_status            status = BB_OK;
    bb_loss              l = { .head = bb_net_head(net),
                               .cap = net->logit_cap,
                               .x = a->x,
                               .targets = of->targets,
                               .weight = of->weight,
                               .squared = of->squared,
                               .label_share = of->label_share,
                               .ready = grad ? grad->ready : NULL,
                               .ready_self = grad ? grad->ready_self : NULL };
    BB_TRY(output_norm(b, net, h, n, a->x, err));
    if (has_reference(of)) {
        l.head_ref = bb_net_head(of->ref_net);
        l.cap_ref = of->ref_net->logit_cap;
        l.x_ref = a->x2;
        BB_TRY(output_norm(b, of->ref_net, of->h_ref, n, a->x2, err));
    }
    BB_TRY(o->back_loss(b->self, n, &l, loss, a->dx, grad ? grad->head : NULL, err));
    if (bb_scales(net->out_scale)) BB_TRY(o->scale(b->self, n * b->n_embd, net->out_scale, a->dx, err));
    BB_TRY(o->back_norm(b->self, n, b->n_embd, h, net->out_norm, net->norm_eps, a->dx, false, dh, grad ? grad->out_norm : NULL, err));
done:
    return status;
}

/* Packs the head (and the reference's) for all slabs where one piece is all of it. */
static bb_status hold_head(bb_backward *b, const bb_net *net, const bb_head_loss *of, bb_err *err)
{
    const bb_matrix *w[2] = { bb_net_head(net), has_reference(of) ? bb_net_head(of->ref_net) : NULL };
    size_t           n = w[1] && w[1] != w[0] ? 2 : 1;
    bb_status        status = BB_OK;
    if (b->slab_tokens * net->n_vocab > BB_LOSS_FLOATS) return BB_OK;
    BB_TRY(b->backend->ops->hold(b->self, w, n, err));
    BB_TRY(b->backend->ops->back_hold(b->self, w, 1, err));
done:
    return status;
}

bb_status bb_backward_head(bb_backward *b, const bb_net *net, bb_buffer h, size_t n, const bb_head_loss *loss_of, double *loss, bb_buffer dh,
                           const bb_head_grad *grad, bb_err *err)
{
    size_t    C = b->n_embd;
    bb_status status;
    BB_TRY(check_loss(net, loss_of, n, err));
    BB_TRY(hold_head(b, net, loss_of, err));
    for (size_t at = 0; at < n; at += b->slab_tokens) {
        size_t       m = n - at < b->slab_tokens ? n - at : b->slab_tokens;
        bb_head_loss of = *loss_of;
        if (of.targets) of.targets += at;
        of.h_ref = bb_buffer_at(of.h_ref, at * C);
        if (of.weight) of.weight += at;
        BB_TRY(head_rows(b, net, bb_buffer_at(h, at * C), m, &of, loss ? loss + at : NULL, bb_buffer_at(dh, at * C), grad, err));
    }
    status = BB_OK;
done:
    let_go(b);
    return status;
}

size_t bb_backward_head_rows(const bb_backward *b) { return b->slab_tokens; }

uint32_t bb_backward_windows(const bb_backward *b, uint32_t T)
{
    const uint32_t slab = (uint32_t)(b->slab_tokens / T);
    if (!bb_kernels_fast_rough() || T % BB_SPLIT_DEPTH == 0) return 1; /* chains over tokens go on from call to call; split ones in whole tiles */
    return slab ? slab : 1;
}

bb_status bb_backward_embed(const bb_backend *backend, const bb_net *net, const int32_t *tokens, size_t n, bb_buffer dh, float *d_embd, bb_err *err)
{
    size_t       C = net->n_embd, W = bb_row_width(net);
    const float *host = NULL;
    bb_status    status;
    BB_TRY(bb_check_ids(tokens, n, net->n_vocab, err));
    BB_TRY(backend->ops->peek(backend->context, dh, n * W, &host, err));
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < C; c++) d_embd[(size_t)tokens[i] * C + c] += bb_scale_of(net->embd_scale) * host[i * W + c];
done:
    backend->ops->unpeek(backend->context, host);
    return status;
}
