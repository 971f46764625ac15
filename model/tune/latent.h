/* SPDX-License-Identifier: GPL-3.0-or-later
 * latent.h: a quantized matrix that can be trained: float32 weights and float32 scale fields behind the stored bytes.
 *
 * Use: bb_latent_create from the packed matrix; per step fill g_w with dL/dW of the decoded weights, bb_latent_gradients, an
 * optimizer step on the arrays of bb_latent_params, bb_latent_encode. The forward pass reads `q`, which is always exactly what `packed`
 * decodes to: there is no second, relaxed, network whose result would have to be rounded at the end.
 *
 * Straight-through estimator [1], as in Block-AP [2] and PV-tuning [3]: the stored weights are Q(w; s), the nearest codes to w for the
 * fields s. dL/dw := dL/dQ, and for a field dL/ds := sum dL/dQ_i dQ_i/ds with the codes fixed, which is exact. Fields:
 *   d, dmin   as factors of their start values, rounded to F16 in Q;
 *   sc, mn    as real numbers, rounded to the stored integers in Q (straight through again).
 * It works for every format: nearest codes come from the format (bb_format.nearest, .levels), dQ/ds from decoding with the field moved
 * by one, as decoders are linear in each field. Not trained: the powers of two and byte scales of MXFP4 and NVFP4 (d), IQ1_S's shifts.
 * [1] Bengio et al. arXiv 1308.3432.  [2] Chen et al. EfficientQAT. arXiv 2407.11062.  [3] Malinovskii et al. arXiv 2405.14852.
 */
#ifndef BB_MODEL_TUNE_LATENT_H
#define BB_MODEL_TUNE_LATENT_H

#include "base/status.h"
#include "model/net/net.h"
#include "model/tune/adamw.h"

enum { BB_LATENT_PARAMS = 5 }; /* w, d, dmin, sc, mn; of a lattice v, A, b, s_in, s_out */

typedef struct bb_latent {
    const bb_format          *format;
    uint32_t                  rows, cols;
    unsigned char            *packed;                               /* borrowed: rewritten by bb_latent_encode */
    float                    *q;                                    /* (rows, cols) owned, as everything below: what packed decodes to */
    float                    *w, *g_w;                              /* (rows, cols) */
    size_t                    n_blocks, n_groups;                   /* blocks of the matrix; groups of a block (0: a format without fields) */
    float                    *fields, *g_fields;                    /* d, dmin [n_blocks] each, then sc, mn [n_blocks * n_groups] each */
    float                    *start;                                /* [2 * n_blocks] d and dmin at the start */
    bool                      has_d, has_dmin;                      /* which fields are real numbers that may move */
    int                       sc_least, sc_most, mn_least, mn_most; /* equal: not trained */
    uint16_t                 *center;                               /* of codebooks, (rows, cols) bfloat16: where weights stood, in units of their scale, */
    float                    *slack;                                /* (rows, cols / vec) and how far from there they have the same nearest code; 0: unknown */
    bool                      scaled;                               /* a block is its codes' levels times d, and stores nothing else */
    struct bb_lattice_latent *lattice; /* not NULL: an LC2 matrix (lattice_latent.h); nothing between q, w, g_w and here is used, but unit */
    double                    unit;    /* how far a weight is to be moved by a rate of 1: about a step of the grid */
} bb_latent;

/* m: packed in memory that may be written (packed; of a lattice codes and side). Its data must outlive l. */
bb_status bb_latent_create(const bb_matrix *m, unsigned char *packed, bb_latent *l, bb_err *err);
void      bb_latent_done(bb_latent *l);

/* Bytes a weight of what is kept of a codebook's codes: `center` and `slack`; 0 of other formats, BB_LATENT_CODE_BYTES at most. */
enum { BB_LATENT_CODE_BYTES = 3 };
double bb_latent_code_bytes(const bb_format *f);

/* The arrays to train, [BB_LATENT_PARAMS], empty ones for what is not there. Rates: weights move by `weights` units, d and dmin by the
 * fraction `fields`, sc and mn by `fields` of their mean size, in a step of rate 1. */
void bb_latent_params(const bb_latent *l, double weights, double fields, bb_param *out);

/* g_fields from g_w. differentiable: then g_w of scalar grids times the slope of a smooth rounding where w stands (tune.h). */
void bb_latent_gradients(bb_latent *l, bool differentiable);
/* packed and q from w and fields. */
void bb_latent_encode(bb_latent *l);
/* q from packed: after packed, w and fields were set to those of a saved state. */
void bb_latent_refresh(bb_latent *l);
/* q, w and fields from packed: after the bytes were set back. */
void bb_latent_decode(bb_latent *l);

#endif
