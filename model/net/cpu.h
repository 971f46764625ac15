/* SPDX-License-Identifier: GPL-3.0-or-later
 * cpu.h: inside of the CPU backend (backend_cpu.c), shared by its files: forward (backend_cpu.c), backward (backward_ops.c) and the losses at the head (loss_cpu.c).
 *
 * bb_cpu is what the backend's `self` points at: the kernel level and growing scratch memory. Not thread-safe: one a caller.
 */
#ifndef BB_MODEL_NET_CPU_H
#define BB_MODEL_NET_CPU_H

#include "kernels/kernels.h"
#include "model/net/backend.h"

enum {
    BB_CPU_CHUNK = 128,             /* rows a product task */
    BB_CPU_TILE = 32,               /* queries an attention tile */
    BB_CPU_PIECE_FLOATS = 16 << 20, /* packed weights a piece: 64 MiB */
    BB_CPU_MAX_HELD = 16
};

typedef struct bb_held {
    const bb_matrix *w;
    const float     *panels;
} bb_held;

/* Is this many multiplications (or as much other work) worth waking the other threads? About 10 microseconds. */
static inline bool bb_cpu_worth(size_t work) { return work >= (size_t)1 << 18; }

/* Memory that only grows; contents do not survive growing. */
typedef struct bb_pool {
    float *at;
    size_t n;
} bb_pool;

/* What the backward pass needs besides. */
typedef struct bb_back_memory {
    bb_pool      turned;   /* dy' */
    bb_pool      inputs;   /* packed x */
    bb_pool      panels;   /* packed W' of one product */
    bb_pool      factors;  /* 1 / rms of rows */
    bb_pool      columns;  /* packed W' of back_hold */
    bb_pool      z, z_ref; /* logits of the head's rows */
    bb_pool      slopes;   /* of the cap at each of z, where there is one */
    bb_held      held[BB_CPU_MAX_HELD];
    size_t       n_held;
    const float *packed; /* the x in inputs, NULL: none; forward operations may write over it, and forget it */
    size_t       packed_n, packed_cols;
} bb_back_memory;

typedef struct bb_cpu {
    const bb_kernels *k;
    bool              may[2];        /* whether products, [1] rough ones, are those of split numbers (kernels.h): the precision when the workspace was opened */
    bool              fast;          /* what is made now is */
    unsigned          parts;         /* of split numbers: 2, or 1 while products are rough */
    bb_pool           piece, piece2; /* packed weights of one product; those of the reference head in score */
    bb_pool           store;         /* packed weights of hold */
    bb_pool           scratch;       /* one slice a thread */
    bb_pool           split;         /* fast: the left operand of one product */
    bb_held           held[BB_CPU_MAX_HELD];
    size_t            n_held;
    bb_back_memory    back;
} bb_cpu;

/* Split numbers lie in the memory of floats, two for one. */
static inline uint16_t       *bb_cpu_split_at(float *at) { return (uint16_t *)(void *)at; }
static inline const uint16_t *bb_cpu_split_in(const float *at) { return (const uint16_t *)(const void *)at; }
/* Y (m, n) = [Y +] [bias +] X W' of split numbers: of one part on a CPU that has them by pairs. */
static inline void bb_cpu_split_product(const bb_kernels *k, unsigned parts, size_t m, size_t n, size_t depth, const float *x, const float *panels,
                                        const float *bias, bool add, float *y, size_t ldy)
{
    if (parts == 1 && k->pairs) k->pair_product(m, n, depth, bb_cpu_split_in(x), bb_cpu_split_in(panels), bias, add, y, ldy);
    else k->split_product(parts, m, n, depth, bb_cpu_split_in(x), bb_cpu_split_in(panels), bias, add, y, ldy);
}

static inline float *bb_cpu_at(bb_buffer b) { return b.memory ? (float *)(void *)b.memory + b.at : NULL; }

bb_status bb_pool_grow(bb_pool *p, size_t n, bb_err *err);
bb_status bb_cpu_grow_scratch(bb_cpu *c, size_t floats_a_thread, bb_err *err); /* outside parallel regions */
float    *bb_cpu_scratch(const bb_cpu *c, size_t floats_a_thread);             /* of the calling thread */

/* Operations of backend.h that the other files of the backend have or need. */
bb_status bb_cpu_matmul(void *self, size_t n, bb_buffer from, const bb_matrix *w, bool add, bb_buffer to, bb_err *err);
void      bb_cpu_back_close(bb_cpu *c);
bb_status bb_cpu_back_hold(void *self, const bb_matrix *const *w, size_t n, bb_err *err);
bb_status bb_cpu_back_matmul(void *self, size_t n, bb_buffer from, const bb_matrix *w, bool add, bb_buffer to, bb_err *err);
bb_status bb_cpu_back_weights(void *self, size_t n, size_t rows, size_t cols, bb_buffer dy, bb_buffer x, float *dw, bb_err *err);
bb_status bb_cpu_back_sums(void *self, size_t n, size_t cols, size_t group, bb_buffer a_at, bb_buffer b_at, float *sums, bb_err *err);
bb_status bb_cpu_back_norm(void *self, size_t n, size_t width, bb_buffer x, const float *weight, float eps, bb_buffer dy, bool add, bb_buffer dx,
                           float *d_weight, bb_err *err);
bb_status bb_cpu_back_rope(void *self, uint32_t S, uint32_t T, const bb_heads *heads, bb_buffer raw, bb_buffer dx_at, float *d_norm, bb_err *err);
bb_status bb_cpu_back_attention(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, uint32_t window, bb_buffer q_at, bb_buffer k_at,
                                bb_buffer v_at, bb_buffer d_out_at, bb_buffer dk_at, bb_buffer dv_at, bb_err *err);
bb_status bb_cpu_back_gated(void *self, bb_gate act, size_t n, bb_buffer gate_at, bb_buffer up_at, bb_buffer dy_at, bb_err *err);
bb_status bb_cpu_back_loss(void *self, size_t n, const bb_loss *of, double *loss, bb_buffer dx, float *d_head, bb_err *err);

/* Where the keys of a tile of queries from `first` on begin: whole tiles before the window of the first query are seen by none. */
static inline size_t bb_cpu_window_begin(size_t first, size_t window)
{
    return window && first + 1 > window ? (first + 1 - window) / BB_CPU_TILE * BB_CPU_TILE : 0;
}
/* z (n) := cap tanh(z / cap); 0: as it is. */
void bb_cpu_cap(const bb_kernels *k, float cap, float *z, size_t n);
/* gate = act(gate) * up, n elements, on the calling thread. */
void bb_cpu_gate(const bb_kernels *k, bb_gate act, float *gate, const float *up, size_t n);
/* -2 sqrt(2/pi) (x + 0.044715 x^3), whose exponential GELU and its slope are made of. */
static inline float bb_gelu_power(float x) { return -1.5957691216f * (x + 0.044715f * x * x * x); }
/* Softmax of scores [0, seen) of which a query sees the last `window` (0: all); those before become 0. */
void bb_cpu_softmax(const bb_kernels *k, float *scores, float scale, size_t seen, size_t window);
/* out (cols) := row of w in float32. */
void bb_cpu_decode_row(const bb_cpu *c, const bb_matrix *w, size_t row, float *out);
/* Rows a piece: whole panels, at most `limit` floats (but at least one panel). */
size_t bb_cpu_rows_a_piece(const bb_cpu *c, const bb_matrix *w, size_t limit);
/* Columns of an operand: fast, in whole tiles. */
static inline size_t bb_cpu_depth(const bb_cpu *c, size_t k) { return c->fast ? (k + BB_SPLIT_DEPTH - 1) / BB_SPLIT_DEPTH * BB_SPLIT_DEPTH : k; }
/* Floats of memory that one of its rows takes; of packed weights too, float panels of product or, fast, panels of split_product: panel j / panel begins at
 * j * bb_cpu_room(c, k). */
static inline size_t bb_cpu_room(const bb_cpu *c, size_t k) { return c->fast ? bb_cpu_depth(c, k) / 2 * c->parts : k; }
static inline size_t bb_cpu_packed_floats(const bb_cpu *c, size_t n, size_t k) { return bb_packed_floats(n, bb_cpu_room(c, k), c->k->panel); }
/* out := the panels of rows first .. first + n - 1, first a multiple of the panel. */
bb_status bb_cpu_pack_rows(bb_cpu *c, const bb_matrix *w, size_t first, size_t n, float *out, bb_err *err);
/* If fast: x (n, k; row stride ldx) is split into c->split, for the products that follow. */
bb_status bb_cpu_split_rows(bb_cpu *c, size_t n, size_t k, const float *x, size_t ldx, bb_err *err);
/* y (n, cols; row stride ldy) = [y +] [bias +] x (n, k; row stride ldx) times the panels of a (cols, k) matrix, by all threads, in the precision of the
 * workspace: if fast, x is what bb_cpu_split_rows was given last. */
void bb_cpu_product(const bb_cpu *c, size_t n, size_t cols, size_t k, const float *x, size_t ldx, const float *panels, const float *bias, bool add, float *y,
                    size_t ldy);
/* x := rotated by the angles of cos_sin [n_rot/2][2], or back. */
void bb_cpu_rotate(float *x, const float *cos_sin, uint32_t n_rot, bool neox, bool back);
/* x (dim) := multiplied by what bb_heads_factor gave, where it is one. */
void bb_cpu_scale_head(const bb_heads *heads, float factor, float *x);

#endif
