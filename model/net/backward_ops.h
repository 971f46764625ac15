/* SPDX-License-Identifier: GPL-3.0-or-later
 * backward_ops.h: inside of the backward pass: the derivative of each operation, on the CPU. Formulas: backward.h.
 * n rows of tokens everywhere; d... arrays of parameters are added to, and may be NULL. */
#ifndef BB_MODEL_NET_BACKWARD_OPS_H
#define BB_MODEL_NET_BACKWARD_OPS_H

#include "model/net/cpu.h"

typedef struct bb_back_memory {
    bb_pool turned;   /* dy' */
    bb_pool inputs;   /* packed x */
    bb_pool panels;   /* packed W' of one product */
    bb_pool factors;  /* 1 / rms of rows */
    bb_pool columns;  /* packed W' of hold */
    bb_held held[BB_CPU_MAX_HELD];
    size_t  n_held;
    const float *packed;        /* the x in inputs, NULL: none */
    size_t       packed_n, packed_cols;
} bb_back_memory;

void bb_back_memory_done(bb_back_memory *m);

/* Packs W' of matrices that the following bb_back_linear_x use repeatedly, until the next hold (n = 0: none). */
bb_status bb_back_hold(bb_cpu *c, bb_back_memory *m, const bb_matrix *const *w, size_t n, bb_err *err);
/* dx (n, cols) = [dx +] dy (n, rows) W. */
bb_status bb_back_linear_x(bb_cpu *c, bb_back_memory *m, size_t n, const float *dy, const bb_matrix *w, bool add, float *dx, bb_err *err);
/* dw (rows, cols) += dy' x. An x of the same address and size as in the call before is not packed again: bb_back_new_inputs when its contents
 * have changed. */
bb_status bb_back_linear_w(bb_cpu *c, bb_back_memory *m, size_t n, size_t rows, size_t cols, const float *dy, const float *x, float *dw, bb_err *err);
static inline void bb_back_new_inputs(bb_back_memory *m) { m->packed = NULL; }
/* sums[j] += sum of a_ij [* b_ij] over rows i and over each `group` of columns, in order of i. b may be NULL. */
void bb_back_column_sums(size_t n, size_t cols, size_t group, const float *a, const float *b, float *sums);
/* x (n, width), dy -> dx [+=]; dx may be dy when not adding. */
bb_status bb_back_norm(bb_cpu *c, bb_back_memory *m, size_t n, size_t width, const float *x, const float *weight, float eps, const float *dy, bool add,
                       float *dx, float *d_weight, bb_err *err);
/* In place on dx (S*T, heads): the rotation back, then the norm of each head with `raw`, its input (used only with a norm). */
bb_status bb_back_rope(bb_cpu *c, bb_back_memory *m, uint32_t S, uint32_t T, const bb_heads *heads, const float *raw, float *dx, float *d_norm, bb_err *err);
/* q (S*T, H*D), k, v (S*T, G*D) after RoPE; d_out becomes dq; dk, dv are written. */
bb_status bb_back_attention(bb_cpu *c, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, const float *q, const float *k, const float *v,
                            float *d_out, float *dk, float *dv, bb_err *err);
/* gate, up (n each) become d_gate, d_up. */
bb_status bb_back_swiglu(bb_cpu *c, size_t n, float *gate, float *up, const float *dy, bb_err *err);

#endif
