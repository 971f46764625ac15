/* SPDX-License-Identifier: GPL-3.0-or-later
 * compress.h: second moments, quantization of one matrix, structured masks. Data flow:
 *
 *   bb_hessians_collect (per block, from the block's input hidden states)
 *     -> bb_quantize (one matrix into one format, importance-weighted or with error feedback)
 *     -> bb_mask_order / bb_mask_compensate (nested FFN and KV masks, least-squares compensation)
 */
#ifndef BB_MODEL_COMPRESS_COMPRESS_H
#define BB_MODEL_COMPRESS_COMPRESS_H

#include "base/status.h"
#include "model/net/forward.h"
#include "model/net/net.h"

/* H = (1/n) sum x x' of the inputs of one linear, float64-accumulated over fixed chunks, symmetric, (n_cols, n_cols). */
typedef struct bb_hessian {
    uint32_t n_cols;
    uint64_t n_tokens;
    float   *h;   /* owned; NULL until bb_hessians_finish */
    double  *sum; /* owned; the running sum of x x' (upper triangle) while collecting, NULL afterwards */
} bb_hessian;

/* Of the inputs of a block: what feeds part p is in[bb_parts[p].feed]. n_cols 0: absent. */
typedef struct bb_hessians {
    bb_hessian in[BB_N_FEEDS];
} bb_hessians;

/* Runs block over h (S*T, C), which becomes the block's output, and accumulates the second moments of its linears' inputs. out is zero-initialised
 * for the first batch of windows and then passed again for the next ones; bb_hessians_finish divides by the token count. */
bb_status bb_hessians_collect(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, float *h, bb_hessians *out, bb_err *err);
bb_status bb_hessians_finish(bb_hessians *h, bb_err *err);
void      bb_hessians_done(bb_hessians *h);
/* The same for one input that no block has (the head's): adds x (n_tokens, cols), chunk tokens a product; finish as above. */
bb_status bb_hessian_add(bb_hessian *h, const float *x, size_t n_tokens, uint32_t cols, uint32_t chunk, bb_err *err);
bb_status bb_hessian_finish(bb_hessian *h, bb_err *err);
void      bb_hessian_done(bb_hessian *h);

typedef enum bb_method {
    BB_METHOD_RTN,      /* round to nearest, extremes as scale: baseline only */
    BB_METHOD_WEIGHTED, /* diagonal of H as importance, scales searched */
    BB_METHOD_FEEDBACK  /* GPTQ/LDLQ error feedback inside the format's grid, then coordinate descent and scale re-fit */
} bb_method;

typedef struct bb_quant_options {
    bb_method method;
    double    damping; /* added to the diagonal, times its mean; default 0.1 */
    unsigned  sweeps;  /* coordinate-descent passes after feedback; default chosen by measurement */
} bb_quant_options;

/* tr(dW H dW') / tr(W H W') of what was written. */
typedef struct bb_quant_stats {
    double error, seconds;
} bb_quant_stats;

/* w (rows, cols) float32 row-major -> packed (rows * row bytes of format). h may be NULL (identity). Parallel over rows; the same bytes for any
 * number of threads. stats may be NULL. BB_NUMERIC only if w has no finite entry. A Cholesky failure raises the damping and, at the end,
 * falls back to WEIGHTED. */
bb_status bb_quantize(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, bb_type type, const bb_quant_options *o, void *packed,
                      bb_quant_stats *stats, bb_err *err);

/* Order of removal of input-column groups of W (rows, cols), group = columns a group (1 channel, or head columns of a KV group):
 * group-OBS on H, greedy: at each step the group whose removal (with least-squares compensation by the rest) costs least.
 * kept_order[0] is the group that is kept longest; error[i] = relative error when only kept_order[0..i] remain. Both [cols/group].
 * columns_of(group g) = g*group .. (g+1)*group-1. step: groups removed a round (FFN: many; KV: 1). */
bb_status bb_mask_order(const float *w, uint32_t rows, uint32_t cols, uint32_t group, uint32_t step, const bb_hessian *h, uint32_t *kept_order, double *error,
                        bb_err *err);
/* Given ascending kept columns: out (rows, n_kept) = W H[:,K] (H[K,K] + damping)^-1, the least-squares survivor weights. */
bb_status bb_mask_compensate(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const uint32_t *kept, uint32_t n_kept, float *out, bb_err *err);
/* tr((W - V) A (W - V)') / tr(W A W') of weights V (rows, n_kept) on the kept columns, A the damped H that both calls above go by. */
bb_status bb_mask_error(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const uint32_t *kept, uint32_t n_kept, const float *v, double *error,
                        bb_err *err);
/* H restricted to kept columns; out->h owned by the caller. */
bb_status bb_hessian_subset(const bb_hessian *h, const uint32_t *kept, uint32_t n_kept, bb_hessian *out, bb_err *err);

#endif
