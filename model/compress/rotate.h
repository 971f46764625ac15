/* SPDX-License-Identifier: GPL-3.0-or-later
 * rotate.h: a model in another basis, computing the same: incoherent weights have no outliers, which coarse grids like.
 *
 * R1 turns the residual stream: with Q orthogonal and every norm's gain g moved into the matrices behind it (RMSNorm without a gain commutes
 * with Q), E' = E Q, W' = W diag(g) Q for what reads the stream (q k v gate up and the head), W' = Q' W for what writes it (o, down). A tied
 * head must be untied, since it alone takes the last gain: that costs the bytes of a second table.
 * R2 turns the values of each KV head: V' = R' V, and O' = O R for each query head that reads it. It is free.
 * Q and R are a random diagonal of signs times a Hadamard matrix H_(2^k), for n = m 2^k with odd m > 1 times the m-point cosine transform.
 * Ashkboos et al. QuaRot, arXiv 2404.00456 (section 4, the rotations that fold into weights); Liu et al. SpinQuant, arXiv 2405.16406 (names).
 */
#ifndef BB_MODEL_COMPRESS_ROTATE_H
#define BB_MODEL_COMPRESS_ROTATE_H

#include "model/model.h"

enum { BB_ROTATE_STREAM = 1, BB_ROTATE_VALUES = 2 }; /* R1, R2 */

typedef struct bb_rotated {
    bb_model model; /* file and vocabulary borrowed from the source, which must stay open; never bb_model_close it */
    void   **owned;
    size_t   n_owned;
} bb_rotated;

/* All matrices become float32: 4 bytes a weight in memory. The identity (bb_model_sha256) names source, rotation and seed. BB_UNSUPPORTED when n has an odd
 * factor above 255, or when the stream of an architecture without a separate head (openelm) is to be turned. */
bb_status bb_rotate(const bb_model *source, unsigned which, uint64_t seed, bb_rotated *out, bb_err *err);
void      bb_rotated_done(bb_rotated *r);

#endif
