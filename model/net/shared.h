/* SPDX-License-Identifier: GPL-3.0-or-later
 * shared.h: the pass of forward.h over windows that begin alike (the options of a question): what they have in common is computed once.
 */
#ifndef BB_MODEL_NET_SHARED_H
#define BB_MODEL_NET_SHARED_H

#include "model/net/forward.h"

/* h has n rows instead of S*T. Token t of window s is row of[s * T + t]; place[i] is one of the S*T that are row i. Tokens of one row must stand at one
 * position behind the same tokens; a token whose window is read no further than before it may be any row. */
typedef struct bb_shared_rows {
    uint32_t        n;
    const uint32_t *of, *place;
} bb_shared_rows;

/* The bits of bb_forward_block, of which h (n, C) has each once. n: at most max_tokens of the workspace's creation, or 2048 if that is more. */
bb_status bb_forward_shared(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, const bb_shared_rows *rows, bb_buffer h,
                            bb_err *err);
/* As those of host.h: h is a host array. */
bb_status bb_host_shared(bb_forward *f, const bb_net *net, const bb_block *block, uint32_t S, uint32_t T, const bb_shared_rows *rows, float *h, bb_err *err);

#endif
