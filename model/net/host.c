/* SPDX-License-Identifier: GPL-3.0-or-later
 * host.c: see host.h. */
#include "model/net/host.h"

#include <math.h>
#include <string.h>

#include "model/net/shared.h"

/* A host array as a buffer of the backend; `in`: with its numbers. */
static bb_status lend(const bb_backend *k, const float *host, size_t n, bool in, bb_buffer *out, bb_err *err)
{
    bb_status status = BB_OK;
    *out = k->ops->on_host ? bb_on_cpu(host) : (bb_buffer) { 0 };
    if (k->ops->on_host || !host) return BB_OK;
    BB_TRY(k->ops->alloc(k->context, n, out, err));
    if (in) BB_TRY(k->ops->write(k->context, *out, host, n, err));
done:
    return status;
}

/* The end of the loan; host: where its numbers go when all went well, or NULL. */
static bb_status take_back(const bb_backend *k, bb_buffer buffer, float *host, size_t n, bb_status status, bb_err *err)
{
    if (k->ops->on_host) return status;
    if (status == BB_OK && host) status = k->ops->read(k->context, buffer, host, n, err);
    k->ops->release(k->context, buffer);
    return status;
}

bb_status bb_host_embed(bb_forward *f, const bb_net *net, const int32_t *tokens, uint32_t S, uint32_t T, float *h, bb_err *err)
{
    const bb_backend *k = bb_forward_backend(f);
    const size_t      n = (size_t)S * T * bb_row_width(net);
    bb_buffer         on = { 0 };
    bb_status         status;
    BB_TRY(lend(k, h, n, false, &on, err));
    BB_TRY(bb_forward_embed(f, net, tokens, S, T, on, err));
done:
    return take_back(k, on, h, n, status, err);
}

bb_status bb_host_block(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, float *h, bb_input_hook hook, void *hook_self,
                        bb_err *err)
{
    const bb_backend *k = bb_forward_backend(f);
    const size_t      n = (size_t)S * T * bb_row_width(net);
    bb_buffer         on = { 0 };
    bb_status         status;
    BB_TRY(lend(k, h, n, true, &on, err));
    BB_TRY(bb_forward_block(f, net, block, S, T, on, hook, hook_self, err));
done:
    return take_back(k, on, h, n, status, err);
}

bb_status bb_host_shared(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, const bb_shared_rows *rows, float *h, bb_err *err)
{
    const bb_backend *k = bb_forward_backend(f);
    const size_t      n = (size_t)rows->n * bb_row_width(net);
    bb_buffer         on = { 0 };
    bb_status         status;
    BB_TRY(lend(k, h, n, true, &on, err));
    BB_TRY(bb_forward_shared(f, net, block, S, T, rows, on, err));
done:
    return take_back(k, on, h, n, status, err);
}

bb_status bb_host_input(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, float *h, bb_feed feed, float *x, bb_err *err)
{
    const bb_backend *k = bb_forward_backend(f);
    const size_t      n = (size_t)S * T, width = bb_dim_of(net, block, bb_feeds[feed].width);
    bb_buffer         on = { 0 }, input = { 0 };
    bb_status         status;
    BB_TRY(lend(k, h, n * bb_row_width(net), true, &on, err));
    BB_TRY(lend(k, x, n * width, false, &input, err));
    BB_TRY(bb_forward_input(f, net, block, S, T, on, feed, input, err));
done:
    status = take_back(k, input, x, n * width, status, err);
    return take_back(k, on, NULL, 0, status, err);
}

bb_status bb_host_logits(bb_forward *f, const bb_net *net, const float *h, size_t n, float *logits, bb_err *err)
{
    const bb_backend *k = bb_forward_backend(f);
    bb_buffer         on = { 0 };
    bb_status         status;
    BB_TRY(lend(k, h, n * net->n_embd, true, &on, err));
    BB_TRY(bb_forward_logits(f, net, on, n, logits, err));
done:
    return take_back(k, on, NULL, 0, status, err);
}

bb_status bb_host_kl(bb_forward *f, const bb_net *ref_net, const float *h_ref, const bb_net *net, const float *h, const int32_t *targets, size_t n, double *kl,
                     double *nll, unsigned char *same, bb_err *err)
{
    const bb_backend *k = bb_forward_backend(f);
    bb_buffer         on = { 0 }, on_ref = { 0 };
    bb_status         status;
    BB_TRY(lend(k, h_ref, n * ref_net->n_embd, true, &on_ref, err));
    BB_TRY(lend(k, h, n * net->n_embd, true, &on, err));
    BB_TRY(bb_forward_kl(f, ref_net, on_ref, net, on, targets, n, kl, nll, same, err));
done:
    status = take_back(k, on, NULL, 0, status, err);
    return take_back(k, on_ref, NULL, 0, status, err);
}

bb_status bb_host_backward_block(bb_backward *b, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, const float *h, float *dh,
                                 const bb_block_grad *grad, bb_err *err)
{
    const bb_backend *k = bb_backward_backend(b);
    const size_t      n = (size_t)S * T * bb_row_width(net);
    bb_buffer         on = { 0 }, d_on = { 0 };
    bb_status         status;
    BB_TRY(lend(k, h, n, true, &on, err));
    BB_TRY(lend(k, dh, n, true, &d_on, err));
    BB_TRY(bb_backward_block(b, net, block, S, T, on, d_on, grad, err));
done:
    status = take_back(k, d_on, dh, n, status, err);
    return take_back(k, on, NULL, 0, status, err);
}

bb_status bb_host_backward_head(bb_backward *b, const bb_net *net, const float *h, size_t n, const bb_head_loss *loss_of, const float *h_ref, double *loss,
                                float *dh, const bb_head_grad *grad, bb_err *err)
{
    const bb_backend *k = bb_backward_backend(b);
    const size_t      floats = n * net->n_embd;
    bb_head_loss      of = *loss_of;
    bb_buffer         on = { 0 }, d_on = { 0 };
    bb_status         status;
    of.h_ref = (bb_buffer) { 0 };
    BB_TRY(lend(k, h_ref, h_ref ? n * of.ref_net->n_embd : 0, true, &of.h_ref, err));
    BB_TRY(lend(k, h, floats, true, &on, err));
    BB_TRY(lend(k, dh, floats, false, &d_on, err));
    BB_TRY(bb_backward_head(b, net, on, n, &of, loss, d_on, grad, err));
done:
    status = take_back(k, d_on, dh, floats, status, err);
    status = take_back(k, on, NULL, 0, status, err);
    return take_back(k, of.h_ref, NULL, 0, status, err);
}

bb_status bb_host_backward_embed(const bb_backend *backend, const bb_net *net, const int32_t *tokens, size_t n, const float *dh, float *d_embd, bb_err *err)
{
    bb_buffer on = { 0 };
    bb_status status;
    BB_TRY(lend(backend, dh, n * bb_row_width(net), true, &on, err));
    BB_TRY(bb_backward_embed(backend, net, tokens, n, on, d_embd, err));
done:
    return take_back(backend, on, NULL, 0, status, err);
}

void bb_host_streams(const bb_net *net, const float *h, size_t n, float *rows)
{
    const size_t C = net->n_embd, W = bb_row_width(net);
    for (size_t i = 0; i < n; i++) memcpy(rows + i * C, h + i * W, C * sizeof *h);
}

void bb_host_put_streams(const bb_net *net, const float *rows, size_t n, float *h)
{
    const size_t C = net->n_embd, W = bb_row_width(net);
    for (size_t i = 0; i < n; i++) memcpy(h + i * W, rows + i * C, C * sizeof *h);
}

void bb_host_output_norm(const bb_net *net, const float *h, float *x)
{
    double sum = 0;
    for (uint32_t c = 0; c < net->n_embd; c++) sum += (double)h[c] * (double)h[c];
    const float scale = bb_scale_of(net->out_scale) * (float)(1 / sqrt(sum / net->n_embd + (double)net->norm_eps));
    for (uint32_t c = 0; c < net->n_embd; c++) x[c] = h[c] * scale * net->out_norm[c];
}
