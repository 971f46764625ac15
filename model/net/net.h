/* SPDX-License-Identifier: GPL-3.0-or-later
 * net.h: a network as plain data: shapes, norms, and views of weight matrices in any format.
 *
 * A bb_net owns nothing: a plan is applied by copying the array of blocks and pointing some matrices elsewhere (option
 * database, rebuilt weights). The forward pass (forward.h), the exporter and the size model all read this one struct.
 * Letters: C width (n_embd), H query heads, G KV heads, D head size, F FFN width, V vocabulary, T tokens.
 */
#ifndef BB_MODEL_NET_NET_H
#define BB_MODEL_NET_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/format.h"

/* One weight matrix: rows x cols, y = W x + bias. rows == 0: absent. data may be NULL where only the size matters. */
typedef struct bb_matrix {
    bb_type      type;
    uint32_t     rows, cols;
    const void  *data;       /* borrowed, packed rows of `type` */
    const float *bias;       /* borrowed, [rows] or NULL */
} bb_matrix;

typedef enum bb_part { BB_PART_Q, BB_PART_K, BB_PART_V, BB_PART_O, BB_PART_GATE, BB_PART_UP, BB_PART_DOWN, BB_N_PARTS } bb_part;

typedef struct bb_block {
    uint32_t     n_head, n_kv;   /* query heads and KV heads kept; 0, 0: no attention. n_head / n_kv is constant inside a model */
    uint32_t     n_ff;           /* FFN width kept; 0: no FFN */
    bb_matrix    w[BB_N_PARTS];
    const float *attn_norm, *ffn_norm;  /* [C]; NULL when the sublayer is absent */
    const float *q_norm, *k_norm;       /* [D] or NULL (qwen3) */
} bb_block;

typedef enum bb_arch { BB_ARCH_LLAMA, BB_ARCH_QWEN2, BB_ARCH_QWEN3, BB_ARCH_DECI } bb_arch;

typedef struct bb_net {
    bb_arch      arch;
    uint32_t     n_vocab, n_embd, n_layer, head_dim, n_rot, n_ctx_train;
    float        norm_eps;
    float        rope_base;
    float        rope_freq_scale;    /* 1 / linear scaling factor */
    bool         rope_neox;          /* true: pairs (i, i + n_rot/2); false: pairs (2i, 2i+1) */
    const float *rope_factors;       /* [n_rot/2] frequency divisors (llama-3 scaling) or NULL */
    bb_matrix    embd;               /* V x C */
    bb_matrix    head;               /* V x C; rows == 0: tied to embd */
    const float *out_norm;           /* [C] */
    bb_block    *blocks;             /* [n_layer]; borrowed */
} bb_net;

extern const char *const bb_part_names[BB_N_PARTS]; /* "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down" */

static inline const bb_matrix *bb_net_head(const bb_net *n) { return n->head.rows ? &n->head : &n->embd; }

#endif
