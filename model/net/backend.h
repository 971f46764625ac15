/* SPDX-License-Identifier: GPL-3.0-or-later
 * backend.h: where a network runs: memory that only the backend can read, and the operations that the passes are made of, as a table with a
 * context, so that another device is another table (backend_cpu.c is the one on the host; tests/support/guarded.c one that lends the host nothing).
 *
 * In the backend's memory, as buffers: hidden states and all else that is (tokens, width). On the host: what goes in (token ids, weights, norms,
 * biases, tables: a backend keeps its own copies of weights if it needs them, made at the first use, told apart by address, until `forget`) and
 * what comes out (scores, logits when asked for, gradients of parameters).
 * Activations are (S*T, width) row-major: S windows of T tokens, each window from position 0.
 *
 * Determinism, required: what an operation gives for a row (a window, in attention) depends on that row and the weights
 * only, bit by bit; not on the rows beside it, on how many there are, or on the number of threads. (Of back_loss, last bits depend on how many there are
 * where the vocabulary passes in pieces: BB_LOSS_FLOATS.)
 */
#ifndef BB_MODEL_NET_BACKEND_H
#define BB_MODEL_NET_BACKEND_H

#include "base/status.h"
#include "model/net/net.h"

/* A float32 array in the memory of a backend, from number `at` of an allocation on. Only the backend knows what `memory` is. */
typedef struct bb_memory bb_memory;
typedef struct bb_buffer {
    bb_memory *memory;
    size_t     at;
} bb_buffer;

/* The same memory n numbers further on: row i of rows of `width` is bb_buffer_at(b, i * width). */
static inline bb_buffer bb_buffer_at(bb_buffer b, size_t n) { return (bb_buffer) { b.memory, b.at + n }; }

/* Heads laid side by side in a row, and how RoPE turns them. */
typedef struct bb_heads {
    uint32_t     n, dim, n_rot; /* n_rot 0: no RoPE */
    bool         neox;
    const float *norm;  /* [dim] RMSNorm of each head before RoPE, or NULL */
    bool         whole; /* [n * dim] of all heads of a row together */
    float        norm_eps;
    float        scale; /* factor of all numbers after RoPE; bb_scales says whether it is one */
    float        heat;  /* and that of a position, see net.h; 0: none */
    uint32_t     heat_every;
    const float *cos_sin; /* bb_rope_table: [T][n_rot/2][2] */
} bb_heads;

/* Of the queries (BB_PART_Q), keys (BB_PART_K) or values (BB_PART_V, which are at most normed) of a block: what every pass gives to its operation. cos_sin:
 * bb_rope_table of the net for n_positions. */
bb_heads bb_heads_of(const bb_net *net, const bb_block *block, bb_part part, const float *cos_sin, uint32_t n_positions);
/* The factor of all numbers of a head at a position, after RoPE; 1: none. */
float bb_heads_factor(const bb_heads *heads, size_t position);

/* cos, sin of position p and pair i at [p][i], times the magnitude: angle p * freq_scale * base^(-2i/n_rot) / factor[i] (YaRN: by pair, see net.h), in
 * float64 until rounded. n_positions are the context: from it follow the factors of a net that has two sets. Behind it, where the net has a base for
 * local blocks, their table of the same size. bb_free it; NULL on failure. */
float *bb_rope_table(const bb_net *net, uint32_t n_positions, bb_err *err);

/* Shapes, types and presence of all that the block (or the head and output norm) needs: files and plans are not trusted. */
bb_status bb_check_block(const bb_net *net, const bb_block *block, bb_err *err);
bb_status bb_check_embd(const bb_net *net, bb_err *err); /* and what the token inputs are made of */
bb_status bb_check_head(const bb_net *net, bb_err *err);
bb_status bb_check_shape(const bb_net *net, bb_err *err); /* width, head size, vocabulary, n_rot */
bb_status bb_check_ids(const int32_t *ids, size_t n, uint32_t n_vocab, bb_err *err);

enum { BB_LOSS_FLOATS = 16 << 20 }; /* logits that back_loss has at a time (and as many of the reference): 64 MiB */

/* A loss of n rows at the head: cross-entropy with `targets`, or against z_ref = x_ref head_ref' (targets NULL) KL, or half the squared distance; or, with
 * both, label_share of the first and the rest of KL. */
typedef struct bb_loss {
    const bb_matrix *head, *head_ref;
    float            cap, cap_ref; /* bb_net.logit_cap of each */
    bb_buffer        x, x_ref;     /* (n, C) after the output norms */
    const int32_t   *targets;      /* [n] */
    const float     *weight;       /* [n] factors of the rows, or NULL: all 1 */
    bool             squared;
    float            label_share; /* with both: of the loss, above 0 */
    void (*ready)(void *self);    /* called once, when d_head is first added to; NULL: not */
    void *ready_self;
} bb_loss;

/* Rows at the head, and what they are scored with. */
typedef struct bb_head_rows {
    bb_buffer        x_ref, x;
    const bb_matrix *head_ref, *head;
    float            cap_ref, cap;
    const int32_t   *targets; /* [n] or NULL */
} bb_head_rows;

typedef struct bb_operations {
    const char *name;
    bool        on_host; /* a buffer is an array of the host: bb_on_cpu makes one of any */

    /* ---- memory: any thread, one at a time; `context` is the backend's ---- */
    bb_status (*alloc)(void *context, size_t n, bb_buffer *out, bb_err *err);
    /* The same for hidden states of many windows, which are passed through in order: they may be where they take no memory (bb_spill). NULL allowed: alloc. */
    bb_status (*alloc_states)(void *context, size_t n, bb_buffer *out, bb_err *err);
    void (*release)(void *context, bb_buffer buffer); /* as either gave it; without memory: nothing */
    bb_status (*write)(void *context, bb_buffer to, const float *host, size_t n, bb_err *err);
    bb_status (*read)(void *context, bb_buffer from, float *host, size_t n, bb_err *err);
    bb_status (*copy)(void *context, bb_buffer from, bb_buffer to, size_t n, bb_err *err); /* they do not overlap */
    /* n rows of `width` numbers, whose rows lie `step` numbers apart on either side; width is at most a step. */
    bb_status (*copy_rows)(void *context, bb_buffer from, size_t from_step, bb_buffer to, size_t to_step, size_t n, size_t width, bb_err *err);
    /* What a buffer holds now, on the host to read, until unpeek: the array itself or a copy. */
    bb_status (*peek)(void *context, bb_buffer buffer, size_t n, const float **host, bb_err *err);
    void (*unpeek)(void *context, const float *host); /* NULL allowed */
    /* Weights that were used may be rewritten or freed now: no copy of them is to be used again. */
    void (*forget)(void *context);

    /* ---- a workspace: scratch memory of one user at a time ---- */
    bb_status (*open)(void *context, void **self, bb_err *err);
    void (*close)(void *self); /* NULL allowed */
    /* From now on products may be of plain bfloat16, where the precision is fast (kernels.h), or are no longer; nothing is held any more. Gradients alone
     * are made like that, and what they are the gradients of: no score. */
    void (*rough)(void *self, bool rough);

    /* ---- forward ---- */

    /* Announces matrices that the following matmuls use repeatedly, until the next hold (n = 0: none): decode them once. */
    bb_status (*hold)(void *self, const bb_matrix *const *w, size_t n, bb_err *err);
    /* y (n, cols) = rows `ids` of table. */
    bb_status (*gather)(void *self, const bb_matrix *table, const int32_t *ids, size_t n, bb_buffer y, bb_err *err);
    /* y (n, rows) = x (n, cols) W' + bias; add: onto what y holds. */
    bb_status (*matmul)(void *self, size_t n, bb_buffer x, const bb_matrix *w, bool add, bb_buffer y, bb_err *err);
    /* y (n, width) = RMSNorm of each row. y may be x. */
    bb_status (*rms_norm)(void *self, size_t n, uint32_t width, bb_buffer x, const float *weight, float eps, bb_buffer y, bb_err *err);
    /* y (n, width) += RMSNorm of each row of x, which is lost. */
    bb_status (*add_norm)(void *self, size_t n, uint32_t width, bb_buffer x, const float *weight, float eps, bb_buffer y, bb_err *err);
    /* y (n) += x. */
    bb_status (*add)(void *self, size_t n, bb_buffer x, bb_buffer y, bb_err *err);
    /* x (n) *= factor. */
    bb_status (*scale)(void *self, size_t n, float factor, bb_buffer x, bb_err *err);
    /* In place on x (S*T, heads.n * heads.dim): per-head norm, RoPE, factor. */
    bb_status (*rope)(void *self, uint32_t S, uint32_t T, const bb_heads *heads, bb_buffer x, bb_err *err);
    /* Causal attention, q (S*T, H*D), k and v (S*T, G*D), query head j with KV head j / (H/G), scale 1/sqrt(D). window: as in bb_block. Result in q. */
    bb_status (*attention)(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, uint32_t window, bb_buffer q, bb_buffer k, bb_buffer v,
                           bb_err *err);
    /* gate = act(gate) * up, n elements. */
    bb_status (*gated)(void *self, bb_gate act, size_t n, bb_buffer gate, bb_buffer up, bb_err *err);
    /* logits (n, rows), on the host, = x (n, cols) head', capped (bb_net.logit_cap; 0: not). */
    bb_status (*logits)(void *self, size_t n, bb_buffer x, const bb_matrix *head, float cap, float *logits, bb_err *err);
    /* Per row i of x (n, C), after the output norm, z = x head', capped: nll[i] = lse(z) - z[target], and against z_ref = x_ref head_ref'
     * (head_ref NULL: none) kl[i] and same[i], host arrays, each NULL when not wanted. */
    bb_status (*score)(void *self, size_t n, const bb_head_rows *of, double *kl, double *nll, unsigned char *same, bb_err *err);
    /* NULL allowed: whole blocks on h (S*T, C) in place, faster than the operations above with the same bits. Takes the first
     * *n_done windows (0: not worth it for these shapes), the caller does the rest. heads: of q, k and v; norm_eps is in each. */
    bb_status (*block)(void *self, uint32_t S, uint32_t T, uint32_t C, bb_gate act, const bb_block *block, const bb_heads heads[3], bb_buffer h,
                       uint32_t *n_done, bb_err *err);

    /* ---- backward (formulas: backward.h). Gradients of parameters are host arrays, added to; NULL: not wanted ---- */

    /* As hold, for back_matmul. */
    bb_status (*back_hold)(void *self, const bb_matrix *const *w, size_t n, bb_err *err);
    /* dx (n, cols) = [dx +] dy (n, rows) W. */
    bb_status (*back_matmul)(void *self, size_t n, bb_buffer dy, const bb_matrix *w, bool add, bb_buffer dx, bb_err *err);
    /* dw (rows, cols) += dy' x: every entry one chain of fma over the rows of x in order, from what dw holds. */
    bb_status (*back_weights)(void *self, size_t n, size_t rows, size_t cols, bb_buffer dy, bb_buffer x, float *dw, bb_err *err);
    /* sums[j] += sum of a_ij [* b_ij; b without memory: none] over rows i and over each `group` of columns, in order of i. */
    bb_status (*back_sums)(void *self, size_t n, size_t cols, size_t group, bb_buffer a, bb_buffer b, float *sums, bb_err *err);
    /* x (n, width), dy -> dx [+=]; dx may be dy when not adding. */
    bb_status (*back_norm)(void *self, size_t n, size_t width, bb_buffer x, const float *weight, float eps, bb_buffer dy, bool add, bb_buffer dx,
                           float *d_weight, bb_err *err);
    /* In place on dx (S*T, heads): the factor and the rotation back, then the norm of each head with `raw`, its input (used only with a norm). */
    bb_status (*back_rope)(void *self, uint32_t S, uint32_t T, const bb_heads *heads, bb_buffer raw, bb_buffer dx, float *d_norm, bb_err *err);
    /* q (S*T, H*D), k, v (S*T, G*D) after RoPE; d_out becomes dq; dk, dv are written. */
    bb_status (*back_attention)(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, uint32_t window, bb_buffer q, bb_buffer k, bb_buffer v,
                                bb_buffer d_out, bb_buffer dk, bb_buffer dv, bb_err *err);
    /* gate, up (n each) become d_gate, d_up. */
    bb_status (*back_gated)(void *self, bb_gate act, size_t n, bb_buffer gate, bb_buffer up, bb_buffer dy, bb_err *err);
    /* loss[i] (host, NULL allowed) of each row, without its weight; dx (n, C) := dL/dx of sum weight_i loss_i; d_head (V, C) += its gradient. */
    bb_status (*back_loss)(void *self, size_t n, const bb_loss *of, double *loss, bb_buffer dx, float *d_head, bb_err *err);
} bb_operations;

typedef struct bb_backend {
    const bb_operations *ops;
    void                *context; /* the device; NULL on the CPU */
} bb_backend;

extern const bb_backend bb_backend_cpu;

static inline bb_status bb_alloc_states(const bb_backend *backend, size_t n, bb_buffer *out, bb_err *err)
{
    return (backend->ops->alloc_states ? backend->ops->alloc_states : backend->ops->alloc)(backend->context, n, out, err);
}

/* A host array as a buffer of a backend whose memory is the host's, and of no other. The operations write only where the caller of a pass asks for
 * results. Who does arithmetic of his own on the states runs them through host.h, which works with every backend. */
static inline bb_buffer bb_on_cpu(const float *host) { return (bb_buffer) { (bb_memory *)(uintptr_t)host, 0 }; }

#endif
