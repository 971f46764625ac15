/* SPDX-License-Identifier: GPL-3.0-or-later
 * collect.c: the second moments of a block's inputs, taken while the block runs (compress.h). */
#include "model/compress/compress.h"
#include "model/net/host.h"

typedef struct collector {
    bb_hessians *out;
    uint32_t     chunk;
} collector;

static bb_status on_input(void *self, bb_feed feed, const float *x, size_t n_tokens, uint32_t cols, bb_err *err)
{
    collector *c = self;
    return bb_hessian_add(&c->out->in[feed], x, n_tokens, cols, c->chunk, err);
}

bb_status bb_hessians_collect(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, float *h, bb_hessians *out, bb_err *err)
{
    collector c = { out, T };
    return bb_host_block(f, net, block, S, T, h, on_input, &c, err);
}
