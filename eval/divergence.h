/* SPDX-License-Identifier: GPL-3.0-or-later
 * divergence.h: on how many prompts greedy decoding with a compressed network leaves that with full precision, and where.
 *
 * Prompts are windows of a text, spread evenly over it, the first token replaced by BOS where the vocabulary begins with it. The full-precision network
 * continues each greedily, once; a compressed one is then measured by one pass over these sequences: the first place at which its arg max is another token
 * is where its own decoding would have left them, for until then both have seen the same tokens. A token that ends a text is one like others.
 */
#ifndef BB_EVAL_DIVERGENCE_H
#define BB_EVAL_DIVERGENCE_H

#include "eval/evaluate.h"

typedef struct bb_greedy_spec {
    uint32_t n_prompts, n_prompt, n_new; /* prompts at most (a short text has fewer); tokens of a prompt (>= 3, BOS included) and of a continuation (>= 1) */
} bb_greedy_spec;

typedef struct bb_divergence {
    uint32_t n_prompts, n_prompt, n_new;
    double   share, share_se; /* of the prompts whose n_new tokens are not all the same */
    double   place, place_se; /* of the first difference, from 1, of those prompts; NaN where there is none, the error where there is one alone */
    double   agree, agree_se; /* tokens in common before it, of all prompts; n_new where all are the same */
} bb_divergence;              /* standard errors over prompts */

/* The continuations of the full-precision network. */
typedef struct bb_greedy bb_greedy;
/* bos: as bb_tokens_bos gives it. Polls bb_interrupted. */
bb_status      bb_greedy_create(const bb_net *full, const bb_tokens *text, int32_t bos, const bb_greedy_spec *spec, const char *progress_label, bb_greedy **out,
                                bb_err *err);
void           bb_greedy_destroy(bb_greedy *g);
uint32_t       bb_greedy_prompts(const bb_greedy *g);
const int32_t *bb_greedy_ids(const bb_greedy *g); /* (n_prompts, n_prompt + n_new), prompts included. Borrowed. */

/* same (NULL allowed): [n_prompts] tokens in common before the first difference. The same bits for any number of threads. Polls bb_interrupted. BB_NUMERIC:
 * logits that are not finite. */
bb_status bb_greedy_measure(const bb_backend *backend, const bb_net *net, const bb_greedy *g, const char *progress_label, uint32_t *same, bb_divergence *out,
                            bb_err *err);

#endif
