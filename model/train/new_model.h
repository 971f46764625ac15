/* SPDX-License-Identifier: GPL-3.0-or-later
 * new_model.h: a network that no file has yet: its shape from a few numbers, and a GGUF of it with the vocabulary of another file.
 *
 * The architecture is llama: RMSNorm, RoPE on adjacent pairs, grouped-query attention, SwiGLU, no biases.
 */
#ifndef BB_MODEL_TRAIN_NEW_MODEL_H
#define BB_MODEL_TRAIN_NEW_MODEL_H

#include "model/io/source.h"
#include "model/net/net.h"

typedef struct bb_new_shape {
    uint32_t n_vocab, n_layer, n_embd, n_head, n_kv, head_dim, n_ff, n_ctx;
    float    rope_base, norm_eps;
    bool     tied;
} bb_new_shape;

/* BB_USAGE names the number that cannot be. net->blocks: bb_free it. Weights and norms are not there; a norm that will be has a pointer
 * to a placeholder, which must not be read. */
bb_status bb_new_net(const bb_new_shape *s, bb_net *net, bb_err *err);

/* A copy of net with matrices of `type` (F32, F16, BF16), all memory in *owned: bb_free it, and the blocks. Norms and biases stay borrowed.
 * BB_NUMERIC when a weight is no number or too large for the type. */
bb_status bb_net_as_type(const bb_net *net, bb_type type, bb_net *out, void **owned, bb_err *err);

/* Writes net, which was made by bb_new_net, with the keys tokenizer.* of `vocabulary`, and a name. Atomic. */
bb_status bb_new_write(const bb_source *vocabulary, const bb_net *net, const char *name, const char *path, bb_err *err);

#endif
