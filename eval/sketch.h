/* SPDX-License-Identifier: GPL-3.0-or-later
 * sketch.h: a change of the final logits as a short vector whose squared length is (twice) the KL that the change causes, to second order.
 *
 * Around a base with logits z_t and p_t = softmax(z_t) at T scored tokens, a change dz costs mean_t 1/2 Var_{p_t}(dz_t) nats to second
 * order. Variance is bilinear, so a linear map that keeps it makes whole plans out of single changes: psi(a + b) = psi(a) + psi(b). With
 * k tokens v_tj drawn from p_t once,
 *   psi[t k + j] = ( dz_t[v_tj] - E_{p_t} dz_t ) / sqrt(k T),      E |psi|^2 = mean_t Var_{p_t}(dz_t):
 * the expected square over the model's own labels is the Fisher information [1]. The same labels serve all changes, so inner products
 * estimate covariances, and their relative error is about sqrt(2 / (k T)).
 *
 * [1] Amari. Natural gradient works efficiently in learning. Neural Computation 1998.
 */
#ifndef BB_EVAL_SKETCH_H
#define BB_EVAL_SKETCH_H

#include "base/status.h"
#include "model/net/backend.h"
#include "model/net/net.h"

typedef struct bb_sketch bb_sketch;

/* h (n_rows, C): hidden states behind the last block of the base `net`; all borrowed for the sketch's life. The labels of a row depend on
 * seed and its index only. */
bb_status bb_sketch_create(const bb_backend *backend, const bb_net *net, const float *h, size_t n_rows, uint32_t probes, uint64_t seed, bb_sketch **out,
                           bb_err *err);
void      bb_sketch_destroy(bb_sketch *s);

/* psi [n_rows * probes] of the change from the base to (net, h). A head that differs from the base's (an embedding that is quantized and tied) costs two
 * passes over the vocabulary more. */
bb_status bb_sketch_project(const bb_sketch *s, const bb_net *net, const float *h, float *psi, bb_err *err);

#endif
