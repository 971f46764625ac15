/* SPDX-License-Identifier: GPL-3.0-or-later
 * backward.c: see backward.h. A block runs forward again on a slab of whole windows, keeping its activations, then backward through
 * the same operations; the forward half uses the CPU backend's own operations, so it sees exactly what the forward pass saw.
 */
#include "model/net/backward.h"

#include <string.h>

#include "base/mem.h"
#include "model/net/backward_ops.h"

enum {
    SLAB_TOKENS = 512,       /* activations of a slab stay near the cores; weights are packed once for all slabs */
    LOGIT_FLOATS = 16 << 20  /* logits held at a time (and as many of the reference): 64 MiB */
};

/* Arrays of one slab; widths in the comments. */
typedef struct activations {
    float *x, *x2, *h_mid, *dx;         /* C: inputs of attention and FFN, hidden state between them, gradient at a norm's output */
    float *q_raw, *q, *att, *d_att;     /* H*D: before and after norm and RoPE, attention output, its gradient, then dq */
    float *k_raw, *k, *v, *dk, *dv;     /* G*D */
    float *gate, *up, *act, *d_act;     /* F */
} activations;

struct bb_backward {
    bb_cpu        *cpu;
    bb_back_memory memory;
    uint32_t       n_embd, head_dim, n_rot, max_windows, max_tokens;
    size_t         slab_tokens, max_q, max_kv, max_ff;
    float         *cos_sin;
    float         *block_memory;  /* one allocation behind a */
    activations    a;
    bb_pool        z, z_ref, dz;  /* logits of the head's rows */
};

static const bb_backend *const ops = &bb_backend_cpu;

/* ---- life ---- */

static void measure(bb_backward *b, const bb_net *net)
{
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *k = &net->blocks[i];
        size_t          q = (size_t)k->n_head * net->head_dim, kv = (size_t)k->n_kv * net->head_dim;
        if (q > b->max_q) b->max_q = q;
        if (kv > b->max_kv) b->max_kv = kv;
        if (k->n_ff > b->max_ff) b->max_ff = k->n_ff;
    }
}

static bb_status allocate(bb_backward *b, bb_err *err)
{
    activations *a = &b->a;
    struct { float **at; size_t width; } const arrays[] = {
        { &a->x, b->n_embd },     { &a->x2, b->n_embd },  { &a->h_mid, b->n_embd }, { &a->dx, b->n_embd }, { &a->q_raw, b->max_q }, { &a->q, b->max_q },
        { &a->att, b->max_q },    { &a->d_att, b->max_q }, { &a->k_raw, b->max_kv }, { &a->k, b->max_kv },  { &a->v, b->max_kv },    { &a->dk, b->max_kv },
        { &a->dv, b->max_kv },    { &a->gate, b->max_ff }, { &a->up, b->max_ff },    { &a->act, b->max_ff }, { &a->d_act, b->max_ff },
    };
    size_t width = 0, floats;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) width += arrays[i].width;
    if (!bb_mul_size(width, b->slab_tokens, &floats)) return BB_FAIL(err, BB_NOMEM, "out of memory: %zu activations x %zu tokens", width, b->slab_tokens);
    float *at = b->block_memory = BB_NEW(floats, float, err);
    if (!at) return BB_NOMEM;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++, at += arrays[i - 1].width * b->slab_tokens) *arrays[i].at = at;
    return BB_OK;
}

bb_status bb_backward_create(const bb_net *net, uint32_t max_windows, uint32_t max_tokens, bb_backward **out, bb_err *err)
{
    bb_backward *b = NULL;
    void        *device = NULL;
    bb_status    status;
    *out = NULL;
    BB_ASSERT(max_windows > 0 && max_tokens > 0);
    BB_TRY(bb_check_shape(net, err));
    if (!(b = BB_NEW0(1, bb_backward, err))) return BB_NOMEM;
    b->n_embd = net->n_embd;
    b->head_dim = net->head_dim;
    b->n_rot = net->n_rot;
    b->max_windows = max_windows;
    b->max_tokens = max_tokens;
    b->slab_tokens = max_tokens > SLAB_TOKENS ? max_tokens : SLAB_TOKENS;
    if ((uint64_t)max_windows * max_tokens < b->slab_tokens) b->slab_tokens = (size_t)max_windows * max_tokens;
    measure(b, net);
    BB_TRY(ops->create(&device, err));
    b->cpu = device;
    if (!(b->cos_sin = bb_rope_table(net, max_tokens, err))) { status = BB_NOMEM; goto done; }
    BB_TRY(allocate(b, err));
    *out = b;
done:
    if (status != BB_OK) bb_backward_destroy(b);
    return status;
}

void bb_backward_destroy(bb_backward *b)
{
    if (!b) return;
    ops->destroy(b->cpu);
    bb_back_memory_done(&b->memory);
    bb_free(b->cos_sin);
    bb_free(b->block_memory);
    bb_free(b->z.at);
    bb_free(b->z_ref.at);
    bb_free(b->dz.at);
    bb_free(b);
}

/* ---- one block ---- */

/* One slab on its way; h and dh point at its rows. */
typedef struct pass {
    bb_backward         *b;
    const bb_net        *net;
    const bb_block      *block;
    const bb_block_grad *grad;  /* never NULL: all empty when the caller wants none */
    uint32_t             S, T;
    size_t               n;     /* S*T */
    const float         *h;
    float               *dh;
    bb_heads             q_heads, k_heads;
} pass;

static bb_status linear(const pass *p, const float *x, bb_part part, bool add, float *y, bb_err *err)
{
    return ops->matmul(p->b->cpu, p->n, x, &p->block->w[part], add, y, err);
}

/* Everything that one linear's gradient dy asks for: parameters, hook, and dx [+]= W' dy. */
static bb_status back_linear(const pass *p, bb_part part, const float *x, const float *dy, bool add, float *dx, bb_err *err)
{
    const bb_matrix *w = &p->block->w[part];
    bb_status        status = BB_OK;
    if (p->grad->hook) BB_TRY(p->grad->hook(p->grad->hook_self, part, x, dy, p->n, err));
    if (p->grad->w[part]) BB_TRY(bb_back_linear_w(p->b->cpu, &p->b->memory, p->n, w->rows, w->cols, dy, x, p->grad->w[part], err));
    if (p->grad->bias[part]) bb_back_column_sums(p->n, w->rows, 1, dy, NULL, p->grad->bias[part]);
    BB_TRY(bb_back_linear_x(p->b->cpu, &p->b->memory, p->n, dy, w, add, dx, err));
done:
    return status;
}

static bb_status attention_forward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    const bb_block    *k = p->block;
    size_t             D = p->b->head_dim, q_floats = p->n * k->n_head * D, kv_floats = p->n * k->n_kv * D;
    bb_status          status;
    BB_TRY(ops->rms_norm(p->b->cpu, p->n, p->b->n_embd, p->h, k->norm[BB_NORM_ATTENTION], p->net->norm_eps, a->x, err));
    BB_TRY(linear(p, a->x, BB_PART_Q, false, a->q_raw, err));
    BB_TRY(linear(p, a->x, BB_PART_K, false, a->k_raw, err));
    BB_TRY(linear(p, a->x, BB_PART_V, false, a->v, err));
    memcpy(a->q, a->q_raw, q_floats * sizeof *a->q);
    memcpy(a->k, a->k_raw, kv_floats * sizeof *a->k);
    BB_TRY(ops->rope(p->b->cpu, p->S, p->T, &p->q_heads, a->q, err));
    BB_TRY(ops->rope(p->b->cpu, p->S, p->T, &p->k_heads, a->k, err));
    memcpy(a->att, a->q, q_floats * sizeof *a->q);
    BB_TRY(ops->attention(p->b->cpu, p->S, p->T, k->n_head, k->n_kv, p->b->head_dim, a->att, a->k, a->v, err));
    BB_TRY(linear(p, a->att, BB_PART_O, true, a->h_mid, err));
done:
    return status;
}

static bb_status ffn_forward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    bb_status          status;
    BB_TRY(ops->rms_norm(p->b->cpu, p->n, p->b->n_embd, a->h_mid, p->block->norm[BB_NORM_FFN], p->net->norm_eps, a->x2, err));
    BB_TRY(linear(p, a->x2, BB_PART_GATE, false, a->gate, err));
    BB_TRY(linear(p, a->x2, BB_PART_UP, false, a->up, err));
    memcpy(a->act, a->gate, p->n * p->block->n_ff * sizeof *a->act);
    BB_TRY(ops->swiglu(p->b->cpu, p->n * p->block->n_ff, a->act, a->up, err));
done:
    return status;
}

static bb_status ffn_backward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    bb_status          status;
    BB_TRY(back_linear(p, BB_PART_DOWN, a->act, p->dh, false, a->d_act, err));
    if (p->grad->ff_mask) bb_back_column_sums(p->n, p->block->n_ff, 1, a->act, a->d_act, p->grad->ff_mask);
    BB_TRY(bb_back_swiglu(p->b->cpu, p->n * p->block->n_ff, a->gate, a->up, a->d_act, err));
    BB_TRY(back_linear(p, BB_PART_UP, a->x2, a->up, false, a->dx, err));
    BB_TRY(back_linear(p, BB_PART_GATE, a->x2, a->gate, true, a->dx, err));
    BB_TRY(bb_back_norm(p->b->cpu, &p->b->memory, p->n, p->b->n_embd, a->h_mid, p->block->norm[BB_NORM_FFN], p->net->norm_eps, a->dx, true, p->dh,
                        p->grad->norm[BB_NORM_FFN], err));
done:
    return status;
}

static bb_status attention_backward(const pass *p, bb_err *err)
{
    const activations *a = &p->b->a;
    const bb_block    *k = p->block;
    bb_cpu            *c = p->b->cpu;
    uint32_t           D = p->b->head_dim;
    bb_status          status;
    BB_TRY(back_linear(p, BB_PART_O, a->att, p->dh, false, a->d_att, err));
    if (p->grad->head_mask) bb_back_column_sums(p->n, (size_t)k->n_head * D, D, a->att, a->d_att, p->grad->head_mask);
    BB_TRY(bb_back_attention(c, p->S, p->T, k->n_head, k->n_kv, D, a->q, a->k, a->v, a->d_att, a->dk, a->dv, err));
    BB_TRY(bb_back_rope(c, &p->b->memory, p->S, p->T, &p->q_heads, a->q_raw, a->d_att, p->grad->norm[BB_NORM_Q], err));
    BB_TRY(bb_back_rope(c, &p->b->memory, p->S, p->T, &p->k_heads, a->k_raw, a->dk, p->grad->norm[BB_NORM_K], err));
    BB_TRY(back_linear(p, BB_PART_V, a->x, a->dv, false, a->dx, err));
    BB_TRY(back_linear(p, BB_PART_K, a->x, a->dk, true, a->dx, err));
    BB_TRY(back_linear(p, BB_PART_Q, a->x, a->d_att, true, a->dx, err));
    BB_TRY(bb_back_norm(c, &p->b->memory, p->n, p->b->n_embd, p->h, k->norm[BB_NORM_ATTENTION], p->net->norm_eps, a->dx, true, p->dh,
                        p->grad->norm[BB_NORM_ATTENTION], err));
done:
    return status;
}

static bb_status back_slab(const pass *p, bb_err *err)
{
    bb_status status = BB_OK;
    memcpy(p->b->a.h_mid, p->h, p->n * p->b->n_embd * sizeof *p->h);
    bb_back_new_inputs(&p->b->memory);
    if (p->block->n_head) BB_TRY(attention_forward(p, err));
    if (p->block->n_ff) BB_TRY(ffn_forward(p, err));
    if (p->block->n_ff) BB_TRY(ffn_backward(p, err));
    if (p->block->n_head) BB_TRY(attention_backward(p, err));
done:
    return status;
}

static bb_status check_room(const bb_backward *b, const bb_block *k, bb_err *err)
{
    if ((size_t)k->n_head * b->head_dim > b->max_q || (size_t)k->n_kv * b->head_dim > b->max_kv || k->n_ff > b->max_ff)
        return BB_FAIL(err, BB_FAILED, "block of %u/%u heads and FFN width %u: the workspace was made for %zu/%zu and %zu", k->n_head, k->n_kv, k->n_ff,
                       b->max_q / b->head_dim, b->max_kv / b->head_dim, b->max_ff);
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
    BB_TRY(ops->hold(b->cpu, w, n > 0 && w[n - 1] == &block->w[BB_PART_DOWN] ? n - 1 : n, err)); /* down is not run forward */
    BB_TRY(bb_back_hold(b->cpu, &b->memory, w, n, err));
done:
    return status;
}

static void let_go(bb_backward *b)
{
    b->cpu->n_held = 0;
    b->memory.n_held = 0;
}

bb_status bb_backward_block(bb_backward *b, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, const float *h, float *dh,
                            const bb_block_grad *grad, bb_err *err)
{
    static const bb_block_grad nothing;
    bb_status status;
    size_t    windows = b->slab_tokens / T, C = b->n_embd;
    BB_ASSERT(S <= b->max_windows && T > 0 && T <= b->max_tokens);
    BB_ASSERT(net->n_embd == b->n_embd && net->head_dim == b->head_dim && net->n_rot == b->n_rot);
    BB_TRY(bb_check_block(net, block, err));
    BB_TRY(check_room(b, block, err));
    BB_TRY(hold(b, block, err));
    for (uint32_t at = 0, step = windows ? (uint32_t)windows : 1; at < S; at += step) {
        pass p = { .b = b, .net = net, .block = block, .grad = grad ? grad : &nothing, .S = S - at < step ? S - at : step, .T = T };
        p.n = (size_t)p.S * T;
        p.h = h + (size_t)at * T * C;
        p.dh = dh + (size_t)at * T * C;
        p.q_heads = bb_heads_of(net, block, BB_PART_Q, b->cos_sin);
        p.k_heads = bb_heads_of(net, block, BB_PART_K, b->cos_sin);
        BB_TRY(back_slab(&p, err));
    }
    status = BB_OK;
done:
    let_go(b);
    return status;
}

/* ---- head ---- */

/* Rows of one slab at the head. The vocabulary passes twice, in pieces of whole panels: once for the sums of the softmax, once for dz. */
typedef struct head_pass {
    bb_backward        *b;
    const bb_net       *net;
    const bb_head_loss *of;       /* its arrays point at this slab's rows */
    size_t              n, piece; /* rows; vocabulary entries a piece */
    const float        *x, *x_ref;
    bb_klsum           *sums;
    double             *squares;
    float              *z_target;
} head_pass;

/* A view of rows first .. first + n - 1 of w. */
static bb_matrix rows_of(const bb_matrix *w, size_t first, size_t n)
{
    bb_matrix part = *w;
    part.rows = (uint32_t)n;
    part.data = (const char *)w->data + first * bb_format_row_bytes(bb_format_get(w->type), w->cols);
    part.bias = w->bias ? w->bias + first : NULL;
    return part;
}

/* The same in *part, or w itself where that is all of it: it may be held. */
static const bb_matrix *piece_of(const bb_matrix *w, size_t first, size_t n, bb_matrix *part)
{
    if (n == w->rows) return w;
    *part = rows_of(w, first, n);
    return part;
}

static bb_status piece_logits(const head_pass *p, size_t first, size_t cols, bb_err *err)
{
    bb_matrix part;
    bb_status status = ops->matmul(p->b->cpu, p->n, p->x, piece_of(bb_net_head(p->net), first, cols, &part), false, p->b->z.at, err);
    if (status == BB_OK && p->x_ref)
        status = ops->matmul(p->b->cpu, p->n, p->x_ref, piece_of(bb_net_head(p->of->ref_net), first, cols, &part), false, p->b->z_ref.at, err);
    return status;
}

static double half_square(const float *z, const float *r, size_t n)
{
    double sum = 0;
    for (size_t v = 0; v < n; v++) sum += 0.5 * ((double)z[v] - (double)r[v]) * ((double)z[v] - (double)r[v]);
    return sum;
}

static void piece_sums(const head_pass *p, size_t first, size_t cols)
{
    const bb_kernels *k = p->b->cpu->k;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(32 * p->n * cols))
    for (size_t i = 0; i < p->n; i++) {
        const float *z = p->b->z.at + i * cols;
        size_t       target = p->of->targets ? (size_t)p->of->targets[i] : 0;
        if (p->of->squared) p->squares[i] += half_square(z, p->b->z_ref.at + i * cols, cols);
        else if (p->x_ref) bb_klsum_add(k, &p->sums[i], p->b->z_ref.at + i * cols, z, cols);
        else bb_logsum_add(k, &p->sums[i].net, z, cols);
        if (p->of->targets && target >= first && target < first + cols) p->z_target[i] = z[target - first];
    }
}

/* z := weight (softmax(z) - p), z_ref is used up. */
static void piece_gradient(const head_pass *p, size_t first, size_t cols)
{
    const bb_kernels *k = p->b->cpu->k;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(32 * p->n * cols))
    for (size_t i = 0; i < p->n; i++) {
        float          *z = p->b->z.at + i * cols, *r = p->x_ref ? p->b->z_ref.at + i * cols : NULL;
        const bb_klsum *s = &p->sums[i];
        float           weight = p->of->weight ? p->of->weight[i] : 1, a = (float)((double)weight / s->net.sum), b = r ? (float)((double)weight / s->ref.sum) : 0;
        size_t          target = p->of->targets ? (size_t)p->of->targets[i] : 0;
        if (p->of->squared) {
            for (size_t v = 0; v < cols; v++) z[v] = weight * (z[v] - r[v]);
            continue;
        }
        for (size_t v = 0; v < cols; v++) z[v] -= s->net.max;
        k->exp(z, z, cols);
        for (size_t v = 0; r && v < cols; v++) r[v] -= s->ref.max;
        if (r) k->exp(r, r, cols);
        for (size_t v = 0; v < cols; v++) z[v] = a * z[v] - (r ? b * r[v] : 0);
        if (p->of->targets && target >= first && target < first + cols) z[target - first] -= weight;
    }
}

/* dx (n, C) := dL/dx behind the output norm; d_head += . */
static bb_status head_slab(const head_pass *p, float *dx, float *d_head, bb_err *err)
{
    size_t    V = p->net->n_vocab, C = p->b->n_embd;
    bb_status status = BB_OK;
    bb_back_new_inputs(&p->b->memory);
    BB_TRY(bb_pool_grow(&p->b->z, p->n * p->piece, err));
    if (p->x_ref) BB_TRY(bb_pool_grow(&p->b->z_ref, p->n * p->piece, err));
    for (size_t first = 0; first < V; first += p->piece) {
        size_t cols = V - first < p->piece ? V - first : p->piece;
        BB_TRY(piece_logits(p, first, cols, err));
        piece_sums(p, first, cols);
    }
    for (size_t first = 0; first < V; first += p->piece) {
        size_t           cols = V - first < p->piece ? V - first : p->piece;
        bb_matrix        part;
        const bb_matrix *w = piece_of(bb_net_head(p->net), first, cols, &part);
        if (p->piece < V) BB_TRY(piece_logits(p, first, cols, err)); /* else they are still there */
        piece_gradient(p, first, cols);
        BB_TRY(bb_back_linear_x(p->b->cpu, &p->b->memory, p->n, p->b->z.at, w, first > 0, dx, err));
        if (d_head) BB_TRY(bb_back_linear_w(p->b->cpu, &p->b->memory, p->n, cols, C, p->b->z.at, p->x, d_head + first * C, err));
    }
done:
    return status;
}

static bb_status check_loss(const bb_net *net, const bb_head_loss *of, size_t n, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_check_head(net, err));
    BB_ASSERT(!of->squared || !of->targets);
    if (of->targets) return bb_check_ids(of->targets, n, net->n_vocab, err);
    BB_ASSERT(of->ref_net && of->h_ref);
    BB_TRY(bb_check_head(of->ref_net, err));
    if (of->ref_net->n_vocab != net->n_vocab || of->ref_net->n_embd != net->n_embd)
        return BB_FAIL(err, BB_BAD_FILE, "KL: the reference has %u vocabulary entries and width %u, the network %u and %u", of->ref_net->n_vocab,
                       of->ref_net->n_embd, net->n_vocab, net->n_embd);
done:
    return status;
}

/* Rows at .. at + n - 1 of the caller's arrays. */
static bb_status head_rows(bb_backward *b, const bb_net *net, const float *h, size_t n, const bb_head_loss *of, double *loss, float *dh,
                           const bb_head_grad *grad, bb_err *err)
{
    activations *a = &b->a;
    size_t       piece = LOGIT_FLOATS / n / b->cpu->k->panel * b->cpu->k->panel;
    head_pass    p = { .b = b, .net = net, .of = of, .n = n, .piece = piece < net->n_vocab ? piece : net->n_vocab, .x = a->x };
    bb_status    status = BB_OK;
    if (piece == 0) p.piece = b->cpu->k->panel;
    if (!(p.sums = BB_NEW0(n, bb_klsum, err)) || !(p.z_target = BB_NEW0(n, float, err)) || !(p.squares = BB_NEW0(n, double, err))) { status = BB_NOMEM; goto done; }
    BB_TRY(ops->rms_norm(b->cpu, n, b->n_embd, h, net->out_norm, net->norm_eps, a->x, err));
    if (!of->targets) {
        p.x_ref = a->x2;
        BB_TRY(ops->rms_norm(b->cpu, n, b->n_embd, of->h_ref, of->ref_net->out_norm, of->ref_net->norm_eps, a->x2, err));
    }
    BB_TRY(head_slab(&p, a->dx, grad ? grad->head : NULL, err));
    BB_TRY(bb_back_norm(b->cpu, &b->memory, n, b->n_embd, h, net->out_norm, net->norm_eps, a->dx, false, dh, grad ? grad->out_norm : NULL, err));
    for (size_t i = 0; loss && i < n; i++)
        loss[i] = of->squared ? p.squares[i] : of->targets ? bb_logsum_value(&p.sums[i].net) - (double)p.z_target[i] : bb_klsum_value(&p.sums[i]);
done:
    bb_free(p.sums);
    bb_free(p.squares);
    bb_free(p.z_target);
    return status;
}

/* Packs the head (and the reference's) for all slabs where one piece is all of it. */
static bb_status hold_head(bb_backward *b, const bb_net *net, const bb_head_loss *of, bb_err *err)
{
    const bb_matrix *w[2] = { bb_net_head(net), of->targets ? NULL : bb_net_head(of->ref_net) };
    size_t           n = w[1] && w[1] != w[0] ? 2 : 1;
    bb_status        status = BB_OK;
    if (b->slab_tokens * net->n_vocab > LOGIT_FLOATS) return BB_OK;
    BB_TRY(ops->hold(b->cpu, w, n, err));
    BB_TRY(bb_back_hold(b->cpu, &b->memory, w, 1, err));
done:
    return status;
}

bb_status bb_backward_head(bb_backward *b, const bb_net *net, const float *h, size_t n, const bb_head_loss *loss_of, double *loss, float *dh,
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
        if (of.h_ref) of.h_ref += at * C;
        if (of.weight) of.weight += at;
        BB_TRY(head_rows(b, net, h + at * C, m, &of, loss ? loss + at : NULL, dh + at * C, grad, err));
    }
    status = BB_OK;
done:
    let_go(b);
    return status;
}

bb_status bb_backward_embed(const bb_net *net, const int32_t *tokens, size_t n, const float *dh, float *d_embd, bb_err *err)
{
    size_t    C = net->n_embd;
    bb_status status = bb_check_ids(tokens, n, net->n_vocab, err);
    for (size_t i = 0; status == BB_OK && i < n; i++)
        for (size_t c = 0; c < C; c++) d_embd[(size_t)tokens[i] * C + c] += dh[i * C + c];
    return status;
}
