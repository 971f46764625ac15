/* SPDX-License-Identifier: GPL-3.0-or-later
 * collect.c: the second moments of a block's four inputs, taken while the block runs (compress.h). */
#include "model/compress/compress.h"

unsigned bb_hessian_of(bb_part part)
{
    switch (part) {
    case BB_PART_O: return 1;
    case BB_PART_GATE: case BB_PART_UP: return 2;
    case BB_PART_DOWN: return 3;
    default: return 0;
    }
}

typedef struct collector { bb_hessians *out; uint32_t chunk; } collector;

static bb_status on_input(void *self, bb_part part, const float *x, size_t n_tokens, uint32_t cols, bb_err *err)
{
    collector *c = self;
    return bb_hessian_add(&c->out->in[bb_hessian_of(part)], x, n_tokens, cols, c->chunk, err);
}

bb_status bb_hessians_collect(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, float *h, bb_hessians *out,
                              bb_err *err)
{
    collector c = { out, T };
    return bb_forward_block(f, net, block, S, T, h, on_input, &c, err);
}
