/* SPDX-License-Identifier: GPL-3.0-or-later
 * sample.h: text from the network itself: many sequences side by side, one token at a time, with a cache of keys and values.
 *
 * Used to calibrate without a corpus and to measure what a compressed model writes. The same ids for any number of threads; each sequence draws from a random stream of its own,
 * named by its number. The logits drawn from have the bits that forward.h gives.
 */
#ifndef BB_MODEL_NET_SAMPLE_H
#define BB_MODEL_NET_SAMPLE_H

#include "base/status.h"
#include "model/net/net.h"

typedef struct bb_sampling {
    const int32_t *prompt;   /* every sequence begins with it */
    uint32_t       n_prompt; /* 0: every sequence begins with a token drawn uniformly */
    uint32_t       stride;   /* sequence i begins with the n_prompt tokens at prompt + i * stride */
    uint32_t       n_sequences;
    uint32_t       length;      /* tokens of a sequence, the prompt included */
    double         temperature; /* 0: the likeliest token (the first of equals) */
    uint64_t       seed;
    uint64_t       weight_bytes; /* decoded weights are kept if they take no more; 0: 1 GiB */
} bb_sampling;

/* ids [n_sequences * length], sequences one after the other. net: as bb_model_open gives it. Polls bb_interrupted. Memory: about 1 GiB of
 * cache at once (more only when a single sequence needs it), and the decoded weights. */
bb_status bb_sample_ids(const bb_net *net, const bb_sampling *s, const char *progress_label, int32_t *ids, bb_err *err);

#endif
