/* SPDX-License-Identifier: GPL-3.0-or-later
 * lattice.h: LC2, a matrix of 2 bits a weight as points of an affine lattice in a turned basis: a format of bitbudget's own, after LC-QAT [1].
 *
 *     W_ij = s_out[i] (T_rows y T_cols')_ij s_in[j],    y(r, 4g .. 4g + 3) = A z(r, g) + b,   z in {0, 1, 2, 3}^4,
 *
 * T the orthogonal matrices of turn.h. A (4,4), b [4], s_in [cols] and s_out [rows] belong to the whole matrix; s_in and s_out start as random signs and are
 * trained as real numbers. [1]: A = s G, G orthogonal; here G starts as the identity, which after the turn is as good.
 *
 * In a file: NAME.weight of type LC2 (kernels/formats/lc2.c), a byte for 4 weights, and NAME.lattice, F16: A by rows, b, s_in, s_out, 20 + cols + rows
 * numbers. In memory a matrix of it is decoded (bb_matrix.lattice); there is no product with packed codes.
 * [1] Wang et al. LC-QAT. ICML 2026. arXiv 2606.10531.  [2] Its start: UniSVQ, arXiv 2606.10520. */
#ifndef BB_MODEL_NET_LATTICE_H
#define BB_MODEL_NET_LATTICE_H

#include "base/status.h"
#include "model/net/net.h"
#include "model/net/turn.h"

enum { BB_LATTICE_DIM = 4, BB_LATTICE_POINTS = 256, BB_LATTICE_MAP = 20 /* numbers of A and b */ };

typedef struct bb_lattice {
    const unsigned char *codes; /* (rows, cols / 4) */
    const unsigned char *side;  /* F16 [BB_LATTICE_MAP + cols + rows] */
} bb_lattice;

/* Whether a matrix of this shape can be one: rows of a multiple of 4, both sides with an odd factor up to 255. */
bool   bb_lattice_can(uint32_t rows, uint32_t cols);
size_t bb_lattice_code_bytes(uint32_t rows, uint32_t cols);
size_t bb_lattice_side_numbers(uint32_t rows, uint32_t cols);
size_t bb_lattice_bytes(uint32_t rows, uint32_t cols); /* of codes and, behind them, side */

/* w (rows, cols) := the weights. Sums in float64; the same bits for any number of threads. Weights beyond float32 and side numbers that are none (a damaged
 * file): BB_BAD_FILE, with the first one's place. */
bb_status bb_lattice_decode(const bb_lattice *l, uint32_t rows, uint32_t cols, float *w, bb_err *err);

/* One with memory of its own. */
typedef struct bb_lattice_box {
    bb_lattice     view;
    unsigned char *bytes; /* codes, then side */
    float         *w;     /* (rows, cols) */
} bb_lattice_box;
bb_lattice_box *bb_lattice_box_new(uint32_t rows, uint32_t cols, bb_err *err); /* bb_free; contents undefined */
/* m becomes a view of the box; shape and bias stay. */
void bb_lattice_view(const bb_lattice_box *box, bb_matrix *m);

/* The type that a matrix has in files. */
static inline bb_type bb_matrix_stored(const bb_matrix *m) { return m->lattice ? BB_LC2 : m->type; }

/* The turns of a shape, for who decodes often. */
typedef struct bb_lattice_frame {
    uint32_t rows, cols;
    bb_turn  of_rows, of_cols; /* of numbers as many as rows, as columns */
} bb_lattice_frame;
bb_status bb_lattice_frame_init(bb_lattice_frame *f, uint32_t rows, uint32_t cols, bb_err *err);
void      bb_lattice_frame_done(bb_lattice_frame *f);
/* d (rows, cols) := T_rows d T_cols', from y to weights without scales; with `turned` the inverse, T_rows' d T_cols. */
void bb_lattice_turn(const bb_lattice_frame *f, double *d, bool turned);

/* The points A z + b by the byte that is their code. map: A by rows, then b. */
void bb_lattice_points(const float map[BB_LATTICE_MAP], double points[BB_LATTICE_POINTS][BB_LATTICE_DIM]);
/* w (rows, cols) := the weights of codes, map and scales; d (rows, cols) is scratch. */
void bb_lattice_weights(const bb_lattice_frame *f, const unsigned char *codes, const float map[BB_LATTICE_MAP], const float *s_in, const float *s_out,
                        double *d, float *w);
/* F16 from numbers and back, [BB_LATTICE_MAP + cols + rows]. */
void bb_lattice_side_read(const unsigned char *side, size_t n, float *out);
void bb_lattice_side_write(const float *numbers, size_t n, unsigned char *side);

#endif
