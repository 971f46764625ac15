/* SPDX-License-Identifier: GPL-3.0-or-later
 * host.h: the passes of forward.h and backward.h for who does arithmetic of his own on the states (second moments, rebuild, tuning, training, tasks):
 * every bb_buffer is a host array here. Where the backend's memory is the host's (bb_operations.on_host) the array itself is lent and nothing is
 * copied; else each call carries it there, and what it made back. Shapes and errors are those of the call that each is named after.
 */
#ifndef BB_MODEL_NET_HOST_H
#define BB_MODEL_NET_HOST_H

#include "model/net/backward.h"
#include "model/net/forward.h"

bb_status bb_host_embed(bb_forward *f, const bb_net *net, const int32_t *tokens, uint32_t S, uint32_t T, float *h, bb_err *err);
bb_status bb_host_block(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, float *h, bb_input_hook hook, void *hook_self,
                        bb_err *err);
/* What h holds afterwards is not said. */
bb_status bb_host_input(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, float *h, bb_feed feed, float *x, bb_err *err);
bb_status bb_host_logits(bb_forward *f, const bb_net *net, const float *h, size_t n, float *logits, bb_err *err);
bb_status bb_host_kl(bb_forward *f, const bb_net *ref_net, const float *h_ref, const bb_net *net, const float *h, const int32_t *targets, size_t n, double *kl,
                     double *nll, unsigned char *same, bb_err *err);

bb_status bb_host_backward_block(bb_backward *b, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, const float *h, float *dh,
                                 const bb_block_grad *grad, bb_err *err);
/* h_ref takes the place of loss_of->h_ref; NULL with targets. */
bb_status bb_host_backward_head(bb_backward *b, const bb_net *net, const float *h, size_t n, const bb_head_loss *loss_of, const float *h_ref, double *loss,
                                float *dh, const bb_head_grad *grad, bb_err *err);
bb_status bb_host_backward_embed(const bb_backend *backend, const bb_net *net, const int32_t *tokens, size_t n, const float *dh, float *d_embd, bb_err *err);

/* Between whole rows h (n, W) and their streams rows (n, C). */
void bb_host_streams(const bb_net *net, const float *h, size_t n, float *rows);
void bb_host_put_streams(const bb_net *net, const float *rows, size_t n, float *h);

/* x (C) := one row h of the stream as the head reads it: output norm and factor. */
void bb_host_output_norm(const bb_net *net, const float *h, float *x);

#endif
