/* SPDX-License-Identifier: GPL-3.0-or-later
 * lattice_fit.h: a matrix encoded as LC2 (model/net/lattice.h): "LC-PTQ", the start of low-bit training. */
#ifndef BB_MODEL_COMPRESS_LATTICE_FIT_H
#define BB_MODEL_COMPRESS_LATTICE_FIT_H

#include "model/compress/compress.h"
#include "model/net/lattice.h"

typedef struct bb_lattice_options {
    uint64_t seed;
    double   damping; /* of the turned Hessian, times its mean diagonal */
    unsigned passes;  /* of refinement, after error feedback */
} bb_lattice_options;

/* w (rows, cols) -> bytes [bb_lattice_bytes]. h NULL: the identity, which rounds to nearest. name: of the stream of random signs.
 * Non-finite weights count as 0. Parallel over bands of rows; the same bytes for any number of threads. stats may be NULL. BB_UNSUPPORTED for a shape that cannot be
 * one, BB_NUMERIC when no weight is finite. */
bb_status bb_lattice_fit(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const bb_lattice_options *o, const char *name, unsigned char *bytes,
                         bb_quant_stats *stats, bb_err *err);

#endif
