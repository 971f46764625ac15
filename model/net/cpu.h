/* SPDX-License-Identifier: GPL-3.0-or-later
 * cpu.h: inside of the CPU backend (backend_cpu.c), shared with the backward pass (backward.c, backward_ops.c).
 *
 * bb_cpu is what the backend's `self` points at: the kernel level and growing scratch memory. Not thread-safe: one a caller.
 */
#ifndef BB_MODEL_NET_CPU_H
#define BB_MODEL_NET_CPU_H

#include "kernels/kernels.h"
#include "model/net/backend.h"

enum {
    BB_CPU_CHUNK = 128,              /* rows a product task */
    BB_CPU_TILE = 32,                /* queries an attention tile */
    BB_CPU_PIECE_FLOATS = 16 << 20,  /* packed weights a piece: 64 MiB */
    BB_CPU_MAX_HELD = 16
};

typedef struct bb_held { const bb_matrix *w; const float *panels; } bb_held;

/* Is this many multiplications (or as much other work) worth waking the other threads? About 10 microseconds. */
static inline bool bb_cpu_worth(size_t work) { return work >= (size_t)1 << 18; }

/* Memory that only grows; contents do not survive growing. */
typedef struct bb_pool { float *at; size_t n; } bb_pool;

typedef struct bb_cpu {
    const bb_kernels *k;
    bb_pool           piece, piece2;  /* packed weights of one product; those of the reference head in score */
    bb_pool           store;          /* packed weights of hold */
    bb_pool           scratch;        /* one slice a thread */
    bb_held           held[BB_CPU_MAX_HELD];
    size_t            n_held;
} bb_cpu;

bb_status bb_pool_grow(bb_pool *p, size_t n, bb_err *err);
bb_status bb_cpu_grow_scratch(bb_cpu *c, size_t floats_a_thread, bb_err *err); /* outside parallel regions */
float    *bb_cpu_scratch(const bb_cpu *c, size_t floats_a_thread);             /* of the calling thread */

/* out (cols) := row of w in float32. */
void bb_cpu_decode_row(const bb_cpu *c, const bb_matrix *w, size_t row, float *out);
/* Rows a piece: whole panels, at most `limit` floats (but at least one panel). */
size_t bb_cpu_rows_a_piece(const bb_cpu *c, const bb_matrix *w, size_t limit);
/* out := the panels of rows first .. first + n - 1, first a multiple of the panel. */
bb_status bb_cpu_pack_rows(bb_cpu *c, const bb_matrix *w, size_t first, size_t n, float *out, bb_err *err);
/* y (n, cols; row stride ldy) = [y +] [bias +] x (n, k; row stride ldx) times the panels of a (cols, k) matrix, by all threads. */
void bb_cpu_multiply(const bb_cpu *c, size_t n, size_t cols, size_t k, const float *x, size_t ldx, const float *panels, const float *bias, bool add,
                     float *y, size_t ldy);
/* x := rotated by the angles of cos_sin [n_rot/2][2], or back. */
void bb_cpu_rotate(float *x, const float *cos_sin, uint32_t n_rot, bool neox, bool back);

#endif
