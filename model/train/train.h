/* SPDX-License-Identifier: GPL-3.0-or-later
 * train.h: training a whole network on next-token cross-entropy: AdamW, clipping, warm-up, stable and decaying rate (WSD), windows of a
 * token set in shuffled order, state that can be saved and resumed.
 *
 * Use: create, start (random weights or those of a model), load a saved state if there is one, then step until n_steps.
 *
 * Determinism: weights, loss and saved state depend on the options, the tokens and the first weights alone: not on the number of threads,
 * nor on how often the run was saved and resumed.
 *
 * Data: epoch e cuts the tokens from offset o_e < ctx into windows of ctx inputs and the token after them, and takes them in a random
 * order; both are drawn from (seed, e). The first input of a window is BOS where the vocabulary begins with it, as in evaluation.
 * Memory: weights, gradients and two moments in float32; hidden states at block boundaries of at most 4096 tokens, or one window.
 */
#ifndef BB_MODEL_TRAIN_TRAIN_H
#define BB_MODEL_TRAIN_TRAIN_H

#include "model/train/trainable.h"

typedef struct bb_train_options {
    uint32_t         ctx, batch; /* tokens a window; windows a step */
    bb_schedule      schedule;   /* its n_steps is the length of the run */
    bb_adamw_options adamw;
    double           decay; /* of matrices; norms and biases have none */
    double           clip;  /* limit of the gradient's norm; 0: none */
    uint64_t         seed;
} bb_train_options;

typedef struct bb_train_data { /* borrowed for the trainer's life */
    const int32_t *ids;
    size_t         n;   /* n >= 2 ctx */
    int32_t        bos; /* -1: none */
} bb_train_data;

typedef struct bb_train_step {
    uint64_t step;             /* 0-based, of the step just done */
    double   rate, loss, norm; /* loss: mean nats a token of the batch, before the update; norm of the gradient before clipping */
} bb_train_step;

typedef struct bb_training bb_training;

/* shape: data may be NULL; its rope_factors are borrowed. */
bb_status bb_training_create(const bb_backend *backend, const bb_net *shape, const bb_train_data *data, const bb_train_options *o, bb_training **out,
                             bb_err *err);
void      bb_training_destroy(bb_training *t);
void      bb_training_start_random(bb_training *t);                   /* from the options' seed */
void      bb_training_start_from(bb_training *t, const bb_net *from); /* a network of the same shape */

/* One update. BB_NUMERIC when loss or gradient is no finite number (nothing is updated). */
bb_status     bb_training_step(bb_training *t, bb_train_step *done, bb_err *err);
uint64_t      bb_training_steps(const bb_training *t); /* done so far */
const bb_net *bb_training_net(const bb_training *t);   /* float32, changes with every step */
size_t        bb_training_weights(const bb_training *t);

/* Mean loss of S windows (S * ctx inputs and targets) and its gradient, which replaces the one in trainable. For tests and for uses with
 * other optimizers. */
bb_status     bb_training_gradient(bb_training *t, const int32_t *tokens, const int32_t *targets, uint32_t S, double *loss, bb_err *err);
bb_trainable *bb_training_trainable(bb_training *t);
/* The batch of a step: (batch, ctx) inputs and targets, until the next call or step. */
void bb_training_batch(bb_training *t, uint64_t step, const int32_t **tokens, const int32_t **targets);

/* The state after the last step. load: BB_BAD_FILE when the file is damaged, or belongs to other tokens, options or first weights. A longer
 * run may go on from a shorter one's state as long as its schedule gives the steps already done the rates they had. */
bb_status bb_training_save(const bb_training *t, const char *path, bb_err *err); /* atomic */
bb_status bb_training_load(bb_training *t, const char *path, bb_err *err);

#endif
