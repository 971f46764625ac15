/* SPDX-License-Identifier: GPL-3.0-or-later
 * layerwise.h: costs of quantizing one matrix, from that matrix and its layer alone: what is used where nothing is propagated.
 *
 *   local error  tr(dW H dW') / tr(W H W'), the relative error of the matrix's own output (level 0)
 *   noise        a_u |dW|^2 / |W|^2, a_u = KL / t^2 of the network with normal noise of relative size t in that matrix alone [1]
 *   gradient     | <dL/dW, dW> |, L the mean loss of the next token: first-order Taylor [2]
 *   Fisher       1/2 sum F_ij dW_ij^2, F the squares of x dy at every token, with labels drawn from the model [3]
 * Each is put on the scale of the measured KLs by one factor for all options (the geometric mean ratio), so that it can be added to them.
 *
 * [1] Malinovskii et al. HIGGS. arXiv 2411.17525.  [2] Molchanov et al. Importance estimation for neural network pruning. CVPR 2019.
 * [3] LeCun, Denker, Solla. Optimal brain damage. NIPS 1989, with the Fisher information as in Theis et al. arXiv 1801.05787.
 */
#ifndef BB_EVAL_LAYERWISE_H
#define BB_EVAL_LAYERWISE_H

#include "eval/evaluator.h"
#include "eval/sensitivity.h"
#include "model/compress/database.h"

typedef enum bb_layerwise { BB_LAYERWISE_LOCAL, BB_LAYERWISE_NOISE, BB_LAYERWISE_GRADIENT, BB_LAYERWISE_FISHER, BB_LAYERWISE_COUNT } bb_layerwise;
extern const char *const bb_layerwise_names[BB_LAYERWISE_COUNT];

typedef struct bb_layerwise_input { /* all borrowed */
    const bb_model      *model;
    bb_database         *db;
    bb_net_evaluator    *evaluator; /* of `windows` at `level` */
    uint32_t             level;
    const bb_windows    *windows;
    uint64_t             seed;
    const bb_plan_space *space;   /* what the changes are of */
    const bb_change     *changes; /* [n] around full precision; kl measured */
    size_t               n;
} bb_layerwise_input;

/* Replaces cost[i] of every change of a linear's format; leaves structure, embedding and head as they are. tokens: what was forwarded, a
 * backward pass counting as two. */
bb_status bb_layerwise_costs(const bb_layerwise_input *in, bb_layerwise kind, double *cost, double *tokens, bb_err *err);

#endif
