/* SPDX-License-Identifier: GPL-3.0-or-later
 * backward.h: reverse-mode derivatives of the forward pass in float32, block by block with recomputation.
 *
 * Use: keep the hidden states at the block boundaries (forward.h); bb_backward_head gives dL/dh behind the last block;
 * bb_backward_block turns dL/dh_out of a block into dL/dh_in, from the block's input alone; bb_backward_embed ends the
 * chain. Memory: the activations of one slab of tokens of one block.
 *
 * Hidden states and their gradients are buffers of the backend. Gradients of parameters are added to float32 arrays of the caller, on the host (zero them first); a NULL array is not computed.
 * Weights are those that the matrix decodes to: the caller carries dL/dW on to scales, codes or masks.
 *
 * Determinism: the same bits for any number of threads. Every entry of a weight gradient is one chain of fma over the tokens
 * in order (kernels.h), so that cutting a batch into calls, in order, changes nothing either.
 *
 * Formulas, with dy for dL/dy:
 *   y = W x + b            dx = W' dy          dW += dy x'        db += dy
 *   y = s g x, s = (mean x^2 + eps)^-1/2       dx = s (g dy) - x s^3 mean(g dy x)      dg += dy s x
 *   y = silu(a) u          da = dy u (p + a p (1-p)), p = 1/(1+e^-a)                  du = dy silu(a)
 *   y = gelu(a) u          da = dy u (p + a p (1-p) t'), p = 1/(1+e^-t), t = 2 sqrt(2/pi) (a + 0.044715 a^3)
 *   o = P v, P = softmax(S), S = q'k / sqrt(D)   dv = P' do,  dP = do v',  dS = P (dP - sum P dP),  dq = dS k,  dk = dS' q
 *   z = c tanh(a / c)      da = dz (1 - (z/c)^2)
 *   RoPE is a rotation: its transpose is the rotation back.
 *   KL(p || softmax z), or -ln softmax(z)_t with p = onehot(t):   dz = softmax(z) - p
 */
#ifndef BB_MODEL_NET_BACKWARD_H
#define BB_MODEL_NET_BACKWARD_H

#include "base/status.h"
#include "model/net/backend.h"
#include "model/net/net.h"

typedef struct bb_backward bb_backward;

/* The backend and the net (shapes only) are borrowed. */
bb_status         bb_backward_create(const bb_backend *backend, const bb_net *net, uint32_t max_windows, uint32_t max_tokens, bb_backward **b, bb_err *err);
void              bb_backward_destroy(bb_backward *b);
const bb_backend *bb_backward_backend(const bb_backward *b);
void              bb_backward_rough(bb_backward *b, bool rough); /* bb_operations.rough, of what follows; at first not */

/* Called for each linear of a block with its input x (n, cols) and the gradient dy (n, rows) at its output, on the host: Fisher information,
 * gradients of low-rank or masked parameters, anything that is a sum over tokens. Order: proj, inp_gate, down, up, gate, o, v, k, q. */
typedef bb_status (*bb_gradient_hook)(void *self, bb_part part, const float *x, const float *dy, size_t n_tokens, bb_err *err);

/* Called for a block with BB_TOKEN: row ids[i] of bb_token_inputs.table (of all tokens and blocks) has the gradient d (n, P) there, on the host. */
typedef bb_status (*bb_token_hook)(void *self, const int32_t *ids, const float *d, size_t n_tokens, bb_err *err);

typedef struct bb_block_grad {
    float           *w[BB_N_PARTS];    /* (rows, cols) */
    float           *bias[BB_N_PARTS]; /* [rows]; only where the matrix has a bias */
    float           *norm[BB_N_NORMS]; /* [C] or [D], as bb_norms says */
    float           *head_mask;        /* [n_head] dL/dm of masks m_j = 1 on the attention output of each head */
    float           *ff_mask;          /* [n_ff] the same on each FFN channel (input of down) */
    float           *embd;             /* (V, C) of bb_net.embd, by what it gives to BB_TOKEN of this block alone */
    float           *token_proj;       /* (n_layer * P, C) */
    float           *token_norm;       /* [P] */
    bb_gradient_hook hook;
    void            *hook_self;
    bb_token_hook    token_hook;
    void            *token_self;
} bb_block_grad;

/* h (S*T, W): the block's input, kept; dh (S*T, W): dL/dh_out, becomes dL/dh_in. What rows carry has its gradient in its place, a token's id none. grad NULL: activations only. */
bb_status bb_backward_block(bb_backward *b, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, bb_buffer h, bb_buffer dh,
                            const bb_block_grad *grad, bb_err *err);

typedef struct bb_head_loss {
    const int32_t *targets;     /* [n] cross-entropy with hard labels, or NULL: */
    const bb_net  *ref_net;     /* KL( softmax z_ref || softmax z ), z_ref from (ref_net, h_ref) */
    bb_buffer      h_ref;       /* (n, C) */
    const float   *weight;      /* [n] factors of the rows, or NULL: all 1 */
    bool           squared;     /* sum over the vocabulary of (z - z_ref)^2 / 2 instead of KL */
    float          label_share; /* above 0: this share of the loss is the cross-entropy with targets, the rest KL: both are given */
} bb_head_loss;

typedef struct bb_head_grad {
    float *head;               /* (V, C), of the matrix that makes the logits (also when tied) */
    float *out_norm;           /* [C] */
    void (*ready)(void *self); /* called before each slab adds to them; NULL: not */
    void *ready_self;
} bb_head_grad;

/* loss[i] (NULL allowed) of each row, without its weight, and dh (n, C) := dL/dh of L = sum weight_i loss_i. h: (n, C) behind the last block. */
bb_status bb_backward_head(bb_backward *b, const bb_net *net, bb_buffer h, size_t n, const bb_head_loss *loss_of, double *loss, bb_buffer dh,
                           const bb_head_grad *grad, bb_err *err);

/* Rows that are at the head at a time: calls that begin at multiples of it give the bits of one call. And windows of T tokens for blocks. */
size_t   bb_backward_head_rows(const bb_backward *b);
uint32_t bb_backward_windows(const bb_backward *b, uint32_t T);

/* d_embd (V, C) += dh (n, W) at the rows of the tokens. */
bb_status bb_backward_embed(const bb_backend *backend, const bb_net *net, const int32_t *tokens, size_t n, bb_buffer dh, float *d_embd, bb_err *err);

#endif
