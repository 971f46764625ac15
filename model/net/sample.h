/* SPDX-License-Identifier: GPL-3.0-or-later
 * sample.h: text from the network itself: many sequences side by side, one token at a time, with a cache of keys and values.
 *
 * Used to calibrate without a corpus and to measure what a compressed model writes. The same ids for any number of threads; each sequence draws from a random stream of its own,
 * named by its number. The logits drawn from have the bits that forward.h gives, but rough ones.
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
    bool           rough; /* products with matrices may be of plain bfloat16, where the precision is fast (kernels.h): text to learn from, not to judge by */
} bb_sampling;

/* ids [n_sequences * length], sequences one after the other. net: as bb_model_open gives it. Polls bb_interrupted. Memory: about 1 GiB of
 * cache at once (more only when a single sequence needs it), and the decoded weights. */
bb_status bb_sample_ids(const bb_net *net, const bb_sampling *s, const char *progress_label, int32_t *ids, bb_err *err);

/* One sequence, token by token: who takes the logits chooses what comes next (sampler.h). The same logits for any number of threads, and however the
 * tokens are handed in: the bits that forward.h gives, but for integers. The net is borrowed; as many threads as OpenMP has at creation. */
typedef struct bb_decoder bb_decoder;

/* length: tokens that may be taken in all, at least 1; weight_bytes as above. integers: what is multiplied with quantized matrices
 * is rounded to 8 bits as llama.cpp does, and they are small integers (kernels/integer.h): several times as fast, still the same logits for any number of
 * threads, on any CPU and however the tokens are handed in, but not those of forward.h; 2.5 to 9 bits a weight more memory. */
bb_status bb_decoder_create(const bb_net *net, uint32_t length, uint64_t weight_bytes, bool integers, bb_decoder **out, bb_err *err);
void      bb_decoder_destroy(bb_decoder *d);
uint32_t  bb_decoder_at(const bb_decoder *d); /* tokens taken so far */
void      bb_decoder_rewind(bb_decoder *d);   /* none taken */
/* Takes n more tokens; *logits [n_vocab] are then those of the token that follows, the caller's to change, until the next call (n 0: *logits stays).
 * Polls bb_interrupted every few tokens: BB_INTERRUPTED, and the decoder can only be destroyed, as after any failure. BB_NUMERIC: logits that are not
 * finite. */
bb_status bb_decoder_take(bb_decoder *d, const int32_t *ids, uint32_t n, float **logits, bb_err *err);

#endif
