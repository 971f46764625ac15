/* SPDX-License-Identifier: GPL-3.0-or-later
 * trainable.h: a network whose weights are float32 arrays of its own, beside arrays for their gradients: what training works on.
 *
 * Any network of net.h: shapes that differ from block to block, absent sublayers, biases, head norms, tied or separate head. RoPE's
 * frequency factors are not trained and stay borrowed from the network it was made after.
 */
#ifndef BB_MODEL_TRAIN_TRAINABLE_H
#define BB_MODEL_TRAIN_TRAINABLE_H

#include "model/net/backward.h"
#include "model/tune/adamw.h"

typedef struct bb_trainable {
    bb_net         net;   /* points into w */
    float         *w, *g; /* [n] weights and gradients, in the same order */
    size_t         n;
    bb_param      *params; /* [n_params] decay 1 on matrices and 0 on norms and biases: scale it as wanted before making an optimizer */
    size_t         n_params;
    bb_block_grad *grads; /* [n_layer] where bb_backward_block adds */
    bb_head_grad   head;  /* a tied head's is g_embd */
    float         *g_embd;
} bb_trainable;

/* Like `shape` (data may be NULL; borrowed for its rope_factors only), all weights 0. Zero-initialise t; end with done. */
bb_status bb_trainable_create(const bb_net *shape, bb_trainable *t, bb_err *err);
void      bb_trainable_done(bb_trainable *t);

/* Weights of a network of the same shape, decoded. */
void bb_trainable_copy(bb_trainable *t, const bb_net *from);
/* Norms 1, biases 0, matrices normal: deviation sqrt(2 / (5 C)) [1]; matrices that write to the residual stream 2 / (L sqrt(C)) where that
 * is less [2]. The same for the same seed, whatever the shape of other matrices.
 * [1] Nguyen, Salazar. Transformers without tears. IWSLT 2019. arXiv 1910.05895. [2] Wang, Komatsuzaki. GPT-J-6B, 2021. */
void bb_trainable_random(bb_trainable *t, uint64_t seed);

#endif
