/* SPDX-License-Identifier: GPL-3.0-or-later
 * toga.h: masks over the channels of a frozen network (channels.h), learned through the whole of it: TOGA (arXiv 2606.07819).
 *
 * A hypernetwork (hyper.h) gives a logit o for every entry of every mask. A step draws one Gumbel G each, y = sigmoid((o + G + 3) / 0.4), and runs the
 * network with the hard s = [y > 1/2] (an empty mask keeps its greatest): each linear is the dense matrix
 *   W' = diag(rows) (Low + (High - Low) diag(precision)) diag(columns),
 * High and Low being the whole matrix rounded to either format, so that the passes of net/ are those of any network. From dL/dW' = G
 *   dL/d precision_i = columns_i sum_o rows_o G_oi (High - Low)_oi,  dL/d columns_i = sum_o rows_o G_oi W_oi,  dL/d rows_o = sum_i G_oi W_oi columns_i
 * with W what stands between the two diagonals; P4 is in the columns of down alone, which is the same network. Straight through: ds/do = y (1 - y) / 0.4.
 *   loss = cross-entropy, or KL to the whole network,  +  lambda |ln(B / b)|  [+ lambda |ln(kept / wanted share of weights)|],
 * B the bytes of the linears with these masks, rows times the sum over the columns of the formats' bits a weight, b the budget.
 *
 * Then the masks are frozen: entries whose o + 3 is above one threshold, which is the lowest at which the bytes, counted as stored, are within the budget.
 * The same bits for any number of threads, and after an interruption.
 */
#ifndef BB_MODEL_TUNE_TOGA_H
#define BB_MODEL_TUNE_TOGA_H

#include "model/compress/channels.h"
#include "model/net/backend.h"
#include "model/tune/adamw.h"

typedef struct bb_toga_options {
    bb_pruning  pruning;
    bool        mixed; /* precisions are learned; else there is `low` alone */
    bool        whole; /* without precisions: masks are trained on the weights as they are, not rounded to `low` */
    bb_type     low, high;
    uint64_t    budget;  /* bytes of all linears as stored */
    uint32_t    rounded; /* frozen, P4 keeps a whole number of so many channels; 0, 1: any */
    double      kept;    /* share of the linears' weights to keep; 0: whatever comes of the budget */
    uint32_t    steps, ctx, batch;
    double      rate, decay, lambda;
    bool        kl; /* the loss is KL to the network; else cross-entropy with the text */
    uint64_t    seed;
    const char *state; /* file to go on from, saved every save_every steps, at the end and at an interruption; NULL: none */
    uint32_t    save_every;
} bb_toga_options;

typedef struct bb_toga_step {
    uint32_t step;  /* 1-based, of the step just done */
    double   loss;  /* of the text, nats a token */
    double   bytes; /* B of its sample */
    double   kept;  /* share of weights in it */
    double   norm;  /* of the gradient */
} bb_toga_step;

typedef struct bb_toga_text {
    const int32_t *ids;
    size_t         n;   /* more than ctx */
    int32_t        bos; /* -1: none */
} bb_toga_text;

typedef struct bb_toga bb_toga;

/* BB_UNSUPPORTED: what a row carries beside the residual stream has no masks and no gradient. */
bb_status bb_toga_check_net(const bb_net *net, bb_err *err);

/* Everything is borrowed for its life. Types are checked; without pruning and precisions there is nothing to learn (BB_USAGE). BB_INFEASIBLE: the smallest
 * masks are above the budget. */
bb_status bb_toga_create(const bb_backend *backend, const bb_net *full, const bb_toga_text *text, const bb_toga_options *o, bb_toga **out, bb_err *err);
void      bb_toga_destroy(bb_toga *t);

/* All steps that are left. did (NULL allowed) is told of each. BB_INTERRUPTED: the state is saved. */
bb_status bb_toga_run(bb_toga *t, void (*did)(void *self, const bb_toga_step *step), void *self, bb_err *err);
/* c: of the same network, pruning and mixed. */
bb_status bb_toga_freeze(bb_toga *t, bb_channels *c, bb_err *err);

/* ---- for tests ---- */

/* Loss (without the terms of bytes) of windows and its gradient by all mask values, which need not be zeros and ones: value, gradient [entries of c]. */
bb_status bb_toga_gradient(bb_toga *t, const float *value, const int32_t *tokens, const int32_t *targets, uint32_t n_windows, double *loss, double *gradient,
                           bb_err *err);
const bb_net      *bb_toga_net(const bb_toga *t); /* with the masks of the last call */
const bb_channels *bb_toga_channels(const bb_toga *t);
/* B and the share of kept weights at mask values, and their gradients, added to with these factors. */
void bb_toga_bytes(const bb_toga *t, const float *value, double *bytes, double *kept, double by_bytes, double by_kept, double *gradient);

#endif
