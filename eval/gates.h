/* SPDX-License-Identifier: GPL-3.0-or-later
 * gates.h: in which order KV groups and FFN channels leave their blocks, by what the end of the network feels of it.
 *
 * A gate stands on every group of columns of a writer: on those of a KV group in attn_output, on every channel in ffn_down. Closing the gates P while the
 * columns that stay are fitted again by least squares changes the writer by D, and the KL of the final logits by about
 *     1/2 (positions / scored positions) tr(G D A D'),
 * G the second moments of the gradients that labels drawn from the network send to the writer's outputs, through all that is behind it, A those of its
 * inputs (gradient.h: at full precision the first order is nothing). With G = L L' that is group OBS (bb_mask_order) on L'W: the weights that stay are the same
 * as without G, since least squares fits every row alone; which columns stay is not.
 */
#ifndef BB_EVAL_GATES_H
#define BB_EVAL_GATES_H

#include "eval/evaluator.h"
#include "model/compress/database.h"

typedef struct bb_gates {
    uint32_t       n_layer;
    bb_kept_order *order;      /* [n_layer] owned, with its arrays */
    double *(*nats)[BB_TOKEN]; /* [n_layer] owned, as long: what the KL is foreseen to be when only the first i + 1 stay, all else as it is */
} bb_gates;

typedef struct bb_gates_options {
    const bb_windows *windows;  /* of level 0 of the evaluator, which must have a boundary cache */
    uint32_t          labels;   /* passes of drawn labels, at least 1 */
    uint64_t          seed;     /* of the labels */
    uint32_t          ffn_step; /* channels that leave together (bb_mask_order) */
} bb_gates_options;

/* From a file in the database's folder, which is named by all that they depend on, or measured and written there. The moments of the inputs are the database's. */
bb_status bb_gates_open(bb_net_evaluator *e, const bb_model *model, const bb_database *db, const bb_gates_options *o, bb_gates *out, bb_err *err);
void      bb_gates_done(bb_gates *g);

#endif
