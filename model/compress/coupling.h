/* SPDX-License-Identifier: GPL-3.0-or-later
 * coupling.h: error feedback across the rows of a matrix. Internal to compress/.
 *
 * With A the moments of a matrix's inputs and G those of the gradients at its outputs (output_moments.h), errors E = W - Q cost the end of the network about
 * tr(G E A E') / 2. With G = U diag(d) U' as in factor.h,
 *     tr(G E A E') = sum_r d_r a(e_r + sum_{i<r} U_ir e_i),    a(x) = x A x',
 * so that each row, encoded towards its own weights plus what the errors of the rows before it ask of it, sum_{i<r} U_ir e_i, leaves only the d_r: what factor.h does along a
 * row, done down the columns too (Tseng, Sun, De Sa. Yet another quantization algorithm. arXiv 2505.22988). Rows of a tile are encoded together and do not hear of each
 * other: the tile as a whole is one step of a block LDL. */
#ifndef BB_MODEL_COMPRESS_COUPLING_H
#define BB_MODEL_COMPRESS_COUPLING_H

#include "model/compress/factor.h"

/* The rows in the order in which they are encoded: tile t has rows t, t + n_tiles, ..., for rows that stand side by side, such as those of a head, have the most to do with
 * each other and are best in different tiles. */
typedef struct bb_coupling {
    uint32_t  rows, n_tiles;
    uint32_t *row;    /* [rows] at each place */
    uint32_t *first;  /* [n_tiles + 1] places of each tile */
    float    *metric; /* (rows, rows) G in this order */
    bb_factor g;      /* of it, damped */
} bb_coupling;

/* g (rows, rows); damping as in bb_factor_make, which it fails like. */
bb_status bb_coupling_init(const float *g, uint32_t rows, double damping, bb_coupling *c, bb_err *err);
void      bb_coupling_done(bb_coupling *c);

/* Most rows of a tile. */
uint32_t bb_coupling_tile(uint32_t rows);

/* shift (m, cols) := what the errors e (first[tile], cols) of the places before a tile of m rows ask of it. coef: scratch, (first[tile], m). */
void bb_coupling_shift(const bb_coupling *c, uint32_t tile, const float *e, uint32_t cols, float *coef, float *shift);

#endif
