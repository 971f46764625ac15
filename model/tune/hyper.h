/* SPDX-License-Identifier: GPL-3.0-or-later
 * hyper.h: a small network that emits the logits of many masks together, so that what one learns reaches the others: the hypernetwork of TOGA [1] in the
 * form of DISP-LLM [2].
 *
 * Each mask has a fixed input of 32 numbers, drawn once from N(0, 1). In the order of the masks they go through a bidirectional gated recurrent unit of 64
 * each way (h = 0 at both ends), LayerNorm, GELU (erf) and, one a mask, a matrix without bias that gives the mask's logits:
 *   r = s(Wr x + br + Ur h + cr)   z = s(Wz x + bz + Uz h + cz)   n = tanh(Wn x + bn + r (Un h + cn))   h' = (1 - z) n + z h
 * Weights are float32, all arithmetic is float64; the same bits for any number of threads. First weights are uniform in +-1/sqrt(64), of the last matrices in
 * +-1/sqrt(128).
 * [1] La, Le, Taherkordi, Ha. arXiv 2606.07819. [2] Gao et al. DISP-LLM. NeurIPS 2024. arXiv 2410.11988.
 */
#ifndef BB_MODEL_TUNE_HYPER_H
#define BB_MODEL_TUNE_HYPER_H

#include "model/tune/adamw.h"

enum { BB_HYPER_IN = 32, BB_HYPER_HIDDEN = 64, BB_HYPER_OUT = 2 * BB_HYPER_HIDDEN };

typedef struct bb_hyper bb_hyper;

/* n masks of these lengths. */
bb_status bb_hyper_create(const uint32_t *length, uint32_t n, uint64_t seed, bb_hyper **out, bb_err *err);
void      bb_hyper_destroy(bb_hyper *h); /* NULL allowed */

/* All weights and their gradients as one array of the optimizer: borrowed. */
bb_param bb_hyper_param(bb_hyper *h, double decay);

/* logits [sum of the lengths]. */
void bb_hyper_forward(bb_hyper *h, double *logits);
/* Gradients of the weights := those of a loss whose derivative by the logits of the last forward is this. */
void bb_hyper_backward(bb_hyper *h, const double *d_logits);

#endif
