/* SPDX-License-Identifier: GPL-3.0-or-later
 * generation.h: how long a compressed model writes what the full-precision model would have written, and how far its distributions
 * drift on the way.
 *
 * Prompts are windows of a text, spread evenly over it. The full-precision model continues each one twice: greedily, and by drawing
 * from its own distribution. Both sets are made once; a network is then measured by one teacher-forced pass over each.
 *   agreement length  tokens that greedy decoding with the network has in common with the full-precision greedy continuation before
 *                     the first difference. No decoding is needed: until then both have seen the same tokens, so the first
 *                     difference is the first position of the continuation at which the arg max differs. n_new where there is none
 *                     (a censored value: the mean is a lower bound, n_whole counts them).
 *   KL at positions   KL(full || network) in nats at the t-th token drawn, t from 1, averaged over t in 1..16, 17..64, 65..n_new.
 * Standard errors are over prompts, which are the independent draws.
 */
#ifndef BB_EVAL_GENERATION_H
#define BB_EVAL_GENERATION_H

#include "eval/evaluate.h"

enum { BB_GENERATION_SPANS = 3 };

typedef struct bb_generation_spec {
    uint32_t n_prompts; /* at most; a short text has fewer */
    uint32_t n_prompt;  /* tokens of a prompt, >= 3, BOS included where the vocabulary begins with it */
    uint32_t n_new;     /* tokens of a continuation, >= 1 */
    uint64_t seed;      /* of the drawn continuations */
} bb_generation_spec;

typedef struct bb_generation_span {
    uint32_t first, last; /* positions from 1, both included; last < first: the continuations are too short for it */
    double   kl, kl_se;   /* nats a token; NaN for an absent span */
    double   top1;        /* share of positions with the same arg max */
} bb_generation_span;

typedef struct bb_generation_result {
    uint32_t           n_prompts, n_prompt, n_new;
    double             agree_length, agree_length_se; /* tokens */
    uint32_t           n_whole;                       /* prompts with no difference in n_new tokens */
    bb_generation_span span[BB_GENERATION_SPANS];
} bb_generation_result;

/* 128 prompts of 32 tokens and 256 new ones, less where the model was trained on shorter contexts. */
bb_generation_spec bb_generation_default(const bb_net *net);

/* What bb_generation_create would refuse at once: a spec out of bounds, BB_USAGE; a text shorter than a prompt, BB_BAD_FILE. */
bb_status bb_generation_check(const bb_tokens *text, const bb_generation_spec *spec, bb_err *err);

/* The continuations of the full-precision net, and its hidden states on them where they fit into max_bytes (else they are computed at
 * each use). bos: as bb_tokens_bos gives it. Borrows backend and net. One user at a time. */
typedef struct bb_generation bb_generation;
bb_status bb_generation_create(const bb_backend *backend, const bb_net *net, const bb_tokens *text, int32_t bos, const bb_generation_spec *spec,
                               uint64_t max_bytes, const char *progress_label, bb_generation **out, bb_err *err);
void      bb_generation_destroy(bb_generation *g);

/* agreement (NULL allowed): [n_prompts] agreement lengths, for paired comparisons. Polls bb_interrupted. */
bb_status bb_generation_measure(const bb_net *net, bb_generation *g, bb_generation_result *out, uint32_t *agreement, bb_err *err);
/* The sequences (n_prompts, n_prompt + n_new), prompts included: greedy, or drawn. Borrowed. */
const int32_t *bb_generation_ids(const bb_generation *g, bool greedy);

#endif
