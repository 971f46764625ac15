/* SPDX-License-Identifier: GPL-3.0-or-later
 * gradient.h: the derivative of a network's KL by each of its matrices, and the curvature beside it, one block in memory at a time.
 *
 * L is the mean over the scored positions of a level of KL( full precision || net ). One forward and one backward pass give dL/dW of every matrix. Each
 * further backward pass, of labels that are drawn from the network's own predictions, gives the gradients g of their log-likelihoods at the outputs
 * of every matrix. With A and G the second moments of a matrix's inputs and of those g over all positions,
 *   L(W + D) ~ L(W) + <dL/dW, D> + 1/2 (positions / scored positions) tr(G D A D'):
 * the Gauss-Newton term of the KL with inputs, gradients and positions taken as independent (Martens, Grosse. Optimizing neural networks with
 * Kronecker-factored approximate curvature. ICML 2015). Which change D an option of a plan stands for: slopes.h.
 *
 * A backward pass counts two forwards. Memory: the level's boundary cache, dL/dW, A and G of one block, and dL/dW of the tables where they are asked for.
 * The same bits for any number of threads.
 */
#ifndef BB_EVAL_GRADIENT_H
#define BB_EVAL_GRADIENT_H

#include "eval/evaluator.h"

/* Of a linear. Borrowed until the visitor returns. */
typedef struct bb_matrix_gradient {
    uint32_t      rows, cols;
    const float  *dw;      /* (rows, cols) dL/dW; NULL: the second order alone is wanted */
    const float  *db;      /* [rows] dL/d bias; NULL with it */
    const float  *in;      /* A (cols, cols); NULL: no labels were drawn */
    const double *in_mean; /* [cols] mean input */
    const float  *out;     /* G (rows, rows) */
    double        weight;  /* positions a scored position */
} bb_matrix_gradient;

/* Of the embedding (V, C) or the head: 1/2 sum_v of a_v d_v' A d_v as a head, s_v weight d_v' G d_v as a table of inputs; NULL: it is not this. */
typedef struct bb_table_gradient {
    const float  *dw;     /* (V, C); of a tied embedding in both its places */
    const float  *in;     /* as a head: A (C, C) of its inputs */
    const double *spread; /* [V] a_v, mean of p_v (1 - p_v) */
    const float  *out;    /* as a table of inputs: G (C, C) of the gradients at what it gives */
    const double *share;  /* [V] s_v, share of the positions that have token v */
    double        weight;
} bb_table_gradient;

/* What tokens give to a block (bb_token_inputs): of each of n positions the row of the table and dL/d of it; second order 1/2 weight times the mean of
 * d' G d over the positions. */
typedef struct bb_token_gradient {
    const int32_t *ids; /* [n] rows of bb_token_inputs.table */
    const float   *d;   /* (n, P) */
    size_t         n;
    uint32_t       cols;   /* P */
    const float   *out;    /* G (P, P); NULL: no labels were drawn */
    double         weight; /* positions a scored position */
} bb_token_gradient;

/* shape (NULL: nothing) may put another block in the place of the net's own, of which *block is a copy: one that does the same, such as a pruned
 * block at its full width with zeros in the columns of its writers. It must live until `block` returns. part: [BB_N_PARTS]; rows 0: not there.
 * token (NULL: left out) is called for blocks that take what tokens give, after `block`.
 * table (NULL: tables are left out) is called for the embedding and for a head of its own, after all blocks. */
typedef struct bb_gradient_visitor {
    void *self;
    bb_status (*shape)(void *self, uint32_t layer, bb_block *block, bb_err *err);
    bb_status (*block)(void *self, uint32_t layer, const bb_block *block, const bb_matrix_gradient *part, bb_err *err);
    bb_status (*table)(void *self, bool head, const bb_table_gradient *table, bb_err *err);
    bb_status (*token)(void *self, uint32_t layer, const bb_token_gradient *token, bb_err *err);
} bb_gradient_visitor;

typedef struct bb_gradient_options {
    uint32_t          level;   /* of the evaluator; must have a boundary cache, else BB_NOMEM */
    const bb_windows *windows; /* of that level */
    const bb_net     *widest;  /* no block that the visitor gives is wider */
    uint32_t          labels;  /* passes of drawn labels; 0: first order alone */
    uint64_t          seed;    /* of the labels */
    bool              second;  /* of the blocks the second order alone, without dw and db: a backward pass less */
    uint32_t          rows;    /* matrices with more have no G: it would be large; 0: all have */
} bb_gradient_options;

/* For gradients with drawn labels: as many of n windows, but at most `most`, as a fixed limit on what the states of all blocks take allows, so that no setting of memory changes
 * a bit; */
uint32_t bb_gradient_count(const bb_net *net, uint32_t n, uint32_t ctx, uint32_t most);
/* and windows first, first + step, ... of `of` that are evenly spaced over w, nearly all of their positions scored; bb_windows_done. */
bb_status bb_gradient_windows(const bb_windows *w, uint32_t of, uint32_t first, uint32_t step, bb_windows *out, bb_err *err);

/* Scores net at the level and visits its blocks, the last one first. out: as from the score, n_forwarded with the backward passes, and as if nothing were cached. */
bb_status bb_gradient_run(bb_net_evaluator *e, const bb_net *net, const bb_gradient_options *o, const bb_gradient_visitor *visitor, bb_evaluation *out,
                          bb_err *err);

/* <dL/dW, D>, and of a change of the bias (NULL: none). */
double bb_gradient_first(const bb_matrix_gradient *g, const float *d, const float *bias);
/* 1/2 weight tr(G D A D') with the bias as a column whose input is 1; 0 where no labels were drawn. */
bb_status bb_gradient_second(const bb_matrix_gradient *g, const float *d, const float *bias, double *second, bb_err *err);
/* Both for rows first .. first + n - 1 of a table, d (n, C); added to. */
/* first += and second += what another table does whose rows differ by d (n, P) at the positions. */
bb_status bb_gradient_token(const bb_token_gradient *g, const float *d, double *first, double *second, bb_err *err);
bb_status bb_gradient_table(const bb_table_gradient *g, uint32_t cols, size_t first, size_t n, const float *d, double *first_order, double *second,
                            bb_err *err);

#endif
