/* SPDX-License-Identifier: GPL-3.0-or-later
 * backend.h: the operations that the forward pass is made of, as a table, so that another device is another table.
 *
 * A buffer is a float32 array in the memory of the backend, named by a float* on which only arithmetic is allowed outside
 * the backend. Weights, norms, biases and tables stay host pointers: a backend keeps its own copies if it needs them.
 * Activations are (S*T, width) row-major: S windows of T tokens, each window from position 0.
 *
 * Determinism, required: what an operation gives for a row (a window, in attention) depends on that row and the weights
 * only, bit by bit; not on the rows beside it, on how many there are, or on the number of threads.
 */
#ifndef BB_MODEL_NET_BACKEND_H
#define BB_MODEL_NET_BACKEND_H

#include "base/status.h"
#include "model/net/net.h"

/* Heads laid side by side in a row, and how RoPE turns them. */
typedef struct bb_heads {
    uint32_t     n, dim, n_rot;
    bool         neox;
    const float *norm;      /* [dim] RMSNorm of each head before RoPE, or NULL */
    float        norm_eps;
    const float *cos_sin;   /* bb_rope_table: [T][n_rot/2][2] */
} bb_heads;

/* Of the queries (BB_PART_Q) or keys (BB_PART_K) of a block: what every pass gives to its operation. cos_sin: bb_rope_table of the net. */
bb_heads bb_heads_of(const bb_net *net, const bb_block *block, bb_part part, const float *cos_sin);

/* cos, sin of position p and pair i at [p][i]: angle p * freq_scale * base^(-2i/n_rot) / factor[i], in float64 until rounded.
 * bb_free it; NULL on failure. */
float *bb_rope_table(const bb_net *net, uint32_t n_positions, bb_err *err);

/* Shapes, types and presence of all that the block (or the head and output norm) needs: files and plans are not trusted. */
bb_status bb_check_block(const bb_net *net, const bb_block *block, bb_err *err);
bb_status bb_check_embd(const bb_net *net, bb_err *err);
bb_status bb_check_head(const bb_net *net, bb_err *err);
bb_status bb_check_shape(const bb_net *net, bb_err *err);   /* width, head size, vocabulary, n_rot */
bb_status bb_check_ids(const int32_t *ids, size_t n, uint32_t n_vocab, bb_err *err);

typedef struct bb_backend {
    const char *name;
    bb_status (*create)(void **self, bb_err *err);
    void      (*destroy)(void *self);

    bb_status (*alloc)(void *self, size_t n, float **buffer, bb_err *err);
    void      (*release)(void *self, float *buffer); /* NULL allowed */
    /* A host array of n floats as a buffer, until leave; leave writes it to host (NULL: the caller changed nothing). The CPU
     * lends the array itself. */
    bb_status (*enter)(void *self, const float *host, size_t n, float **buffer, bb_err *err);
    bb_status (*leave)(void *self, float *buffer, float *host, size_t n, bb_err *err);
    /* Contents of a buffer for reading on the host, until the next operation. */
    bb_status (*peek)(void *self, const float *buffer, size_t n, const float **host, bb_err *err);

    /* Announces matrices that the following matmuls use repeatedly, until the next hold (n = 0: none): decode them once. */
    bb_status (*hold)(void *self, const bb_matrix *const *w, size_t n, bb_err *err);

    /* y (n, cols) = rows `ids` of table. */
    bb_status (*gather)(void *self, const bb_matrix *table, const int32_t *ids, size_t n, float *y, bb_err *err);
    /* y (n, rows) = x (n, cols) W' + bias; add: onto what y holds. */
    bb_status (*matmul)(void *self, size_t n, const float *x, const bb_matrix *w, bool add, float *y, bb_err *err);
    /* y (n, width) = RMSNorm of each row. y may be x. */
    bb_status (*rms_norm)(void *self, size_t n, uint32_t width, const float *x, const float *weight, float eps, float *y, bb_err *err);
    /* In place on x (S*T, heads.n * heads.dim): per-head norm, then RoPE. */
    bb_status (*rope)(void *self, uint32_t S, uint32_t T, const bb_heads *heads, float *x, bb_err *err);
    /* Causal attention, q (S*T, H*D), k and v (S*T, G*D), query head j with KV head j / (H/G), scale 1/sqrt(D). Result in q. */
    bb_status (*attention)(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, float *q, const float *k, const float *v,
                           bb_err *err);
    /* gate = silu(gate) * up, n elements. */
    bb_status (*swiglu)(void *self, size_t n, float *gate, const float *up, bb_err *err);
    /* Per row i of x (n, C), after the output norm, z = x head': nll[i] = lse(z) - z[target], and against z_ref = x_ref head_ref'
     * (x_ref NULL: none) kl[i] and same[i], host arrays, each NULL when not wanted. */
    bb_status (*score)(void *self, size_t n, const float *x_ref, const bb_matrix *head_ref, const float *x, const bb_matrix *head,
                       const int32_t *targets, double *kl, double *nll, unsigned char *same, bb_err *err);
    /* NULL allowed: whole blocks on h (S*T, C) in place, faster than the operations above with the same bits. Takes the first
     * *n_done windows (0: not worth it for these shapes), the caller does the rest. norm_eps is in q and k. */
    bb_status (*block)(void *self, uint32_t S, uint32_t T, uint32_t C, const bb_block *block, const bb_heads *q, const bb_heads *k, float *h,
                       uint32_t *n_done, bb_err *err);
} bb_backend;

extern const bb_backend bb_backend_cpu;

#endif
