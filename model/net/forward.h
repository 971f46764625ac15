/* SPDX-License-Identifier: GPL-3.0-or-later
 * forward.h: the forward pass in float32, block by block, over a batch of equally long windows.
 *
 * Hidden states are one buffer h (S*T, W) of the backend: S windows of T tokens, every window starting at position 0; a row is the residual stream (C
 * numbers) and what it carries for later blocks (bb_row_width; of most networks nothing: W = C). The caller keeps h at any block boundary and starts again
 * from there: that is the prefix cache. Logits and scores are of rows of C, the stream alone. All calls are deterministic for
 * any number of OpenMP threads and any S (a window's result does not depend on its batch).
 */
#ifndef BB_MODEL_NET_FORWARD_H
#define BB_MODEL_NET_FORWARD_H

#include "base/status.h"
#include "model/net/backend.h"
#include "model/net/net.h"

typedef struct bb_forward bb_forward; /* workspace: scratch buffers, decoded weights, RoPE tables */

/* The backend and the net (shapes only) are borrowed; all buffers below are the backend's. */
bb_status         bb_forward_create(const bb_backend *backend, const bb_net *net, uint32_t max_windows, uint32_t max_tokens, bb_forward **f, bb_err *err);
void              bb_forward_destroy(bb_forward *f);
const bb_backend *bb_forward_backend(const bb_forward *f);
void              bb_forward_rough(bb_forward *f, bool rough); /* bb_operations.rough, of what follows; at first not */

/* h (S*T, W) := embedding rows of tokens (S*T), and what they carry from the start. Ids out of range are BB_BAD_FILE. */
bb_status bb_forward_embed(bb_forward *f, const bb_net *net, const int32_t *tokens, uint32_t S, uint32_t T, bb_buffer h, bb_err *err);

/* Called with each input of a block (bb_feeds): x (n_tokens, cols), on the host, feeds the linears that have it. Batches arrive in token order, one call at a
 * time. */
typedef bb_status (*bb_input_hook)(void *self, bb_feed feed, const float *x, size_t n_tokens, uint32_t cols, bb_err *err);

/* h in place through block b of net (whose shapes may be smaller than at creation). hook may be NULL. */
bb_status bb_forward_block(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, bb_buffer h, bb_input_hook hook, void *hook_self,
                           bb_err *err);

/* The block only up to one of its inputs: x (S*T, width of the feed) := what feeds these linears. h (S*T, W) is used up: its stream stands between
 * the sublayers before `feed`. A block without the feed's sublayer is BB_FAILED. */
bb_status bb_forward_input(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, bb_buffer h, bb_feed feed, bb_buffer x,
                           bb_err *err);

/* rows (n, C) := the streams of n rows of h (n, W). */
bb_status bb_forward_streams(const bb_backend *backend, const bb_net *net, bb_buffer h, size_t n, bb_buffer rows, bb_err *err);

/* logits (n, V), on the host, of n rows of h, after the output norm. Callers chunk n; see bb_forward_nll and _kl for whole scores. */
bb_status bb_forward_logits(bb_forward *f, const bb_net *net, bb_buffer h, size_t n, float *logits, bb_err *err);

/* nll[i] = -ln softmax(logits(h_i))[target_i], natural log, float64 sums. Vocabulary is computed in chunks of rows. */
bb_status bb_forward_nll(bb_forward *f, const bb_net *net, bb_buffer h, const int32_t *targets, size_t n, double *nll, bb_err *err);

/* Per row i, KL( softmax z_ref || softmax z ) with z_ref from (ref_net, h_ref) and z from (net, h); nll (of the target under net, NULL allowed with
 * targets NULL), and same[i] = 1 when both have the same arg max (NULL allowed). */
bb_status bb_forward_kl(bb_forward *f, const bb_net *ref_net, bb_buffer h_ref, const bb_net *net, bb_buffer h, const int32_t *targets, size_t n, double *kl,
                        double *nll, unsigned char *same, bb_err *err);

#endif
