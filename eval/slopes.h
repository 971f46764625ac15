/* SPDX-License-Identifier: GPL-3.0-or-later
 * slopes.h: what every option of every unit does to the KL of a plan, to first and second order, from one backward pass and one of drawn labels.
 *
 * An option stands for a matrix W_o in the place of the plan's W: with W = sum_o p_o W_o the derivative by its share p_o is <dL/dW, W_o>, and choosing it
 * alone changes the KL by about <dL/dW, D> + 1/2 (Gauss-Newton, gradient.h), D = W_o - W. Options are decoded once each.
 *
 * Structure too is a matrix: the block runs at its full width with zeros in the columns of its writer (attn_output, ffn_down) that the plan has pruned, which
 * is the same network. Keeping another count is a D of the writer: minus the columns that go, plus those that come, and the compensation of all others.
 * So both uses of a gate, the value that it lets through and the compensation for what it does not, are in one inner product, also for a
 * sublayer that goes or comes back with its bias.
 *
 * Nothing is encoded: where the plan has pruned a sublayer, another format of its writer is the compensated matrix with the errors of the full-size entry.
 */
#ifndef BB_EVAL_SLOPES_H
#define BB_EVAL_SLOPES_H

#include "eval/gradient.h"
#include "model/compress/database.h"

typedef struct bb_slope {
    double share;  /* dL/dp_o, nats */
    double first;  /* <dL/dW, D>, nats; 0 for the plan's own option */
    double second; /* nats */
} bb_slope;

typedef struct bb_slopes_options {
    uint32_t             level;
    const bb_windows    *windows; /* of that level */
    uint32_t             labels;  /* passes of drawn labels: 0: second stays 0 */
    uint64_t             seed;
    const bb_plan_space *space; /* of the model */
    const uint16_t      *x;     /* the plan */
} bb_slopes_options;

/* out: all options of unit 0, then those of unit 1, ... *at: the plan itself; n_forwarded: what it cost, a backward pass as two forwards. */
bb_status bb_slopes_measure(bb_net_evaluator *e, const bb_model *model, bb_database *db, const bb_slopes_options *o, bb_slope *out, bb_evaluation *at,
                            bb_err *err);
/* Its cost in forwarded tokens, before it is run. */
double bb_slopes_tokens(const bb_windows *windows, uint32_t labels);

#endif
