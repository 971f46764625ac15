/* SPDX-License-Identifier: GPL-3.0-or-later
 * evaluator.h: scores compressed networks by the KL of their final logits to the full-precision model, at several
 * fidelity levels, cheaply when consecutive candidates share a prefix.
 *
 * Hidden states stay in the memory of the backend; scores come back. Each level is a set of windows. The full-precision hidden states of the scored positions are computed once. Where the
 * level's hidden states at every block boundary fit in the byte limit they are kept for the candidate scored last: the
 * next one starts at the first block in which it differs. A score depends on the network and the level alone, bit for
 * bit, never on the order of evaluation or the number of threads. Not thread-safe: the parallelism is inside.
 */
#ifndef BB_EVAL_EVALUATOR_H
#define BB_EVAL_EVALUATOR_H

#include "eval/evaluate.h"
#include "model/model.h"

typedef struct bb_evaluation {
    double   kl, kl_se;   /* nats a token, mean over the scored tokens; se over windows */
    double   nll, top1;   /* nats a token; share of equal arg max */
    uint64_t n_tokens;    /* scored */
    double   n_forwarded; /* tokens x blocks really forwarded / n_layer: the cost */
} bb_evaluation;

typedef struct bb_net_evaluator bb_net_evaluator;

/* windows[n_levels], backend and model are borrowed for the evaluator's life. cache_bytes bounds the boundary caches together. */
bb_status bb_net_evaluator_create(const bb_backend *backend, const bb_model *model, const bb_windows *windows, uint32_t n_levels, uint64_t cache_bytes,
                                  bb_net_evaluator **out, bb_err *err);
/* The same, where the cache of level `first` comes before all others; else those of fewer windows come first. */
bb_status bb_net_evaluator_create_for(const bb_backend *backend, const bb_model *model, const bb_windows *windows, uint32_t n_levels, uint32_t first,
                                      uint64_t cache_bytes, bb_net_evaluator **out, bb_err *err);
/* Another one of the same levels, for another thread at the same time: without boundary caches, and with the reference of e, which must outlive it. */
bb_status         bb_net_evaluator_share(const bb_net_evaluator *e, bb_net_evaluator **out, bb_err *err);
void              bb_net_evaluator_destroy(bb_net_evaluator *e);
const bb_backend *bb_net_evaluator_backend(const bb_net_evaluator *e);
uint64_t          bb_net_evaluator_unused(const bb_net_evaluator *e); /* of cache_bytes, what no level's cache takes */
uint32_t          bb_net_evaluator_windows(const bb_net_evaluator *e, uint32_t level);

/* window_kl (may be NULL): [windows of the level] mean KL of each window, for paired comparisons. BB_INTERRUPTED when asked to stop. */
bb_status bb_net_evaluator_score(bb_net_evaluator *e, const bb_net *net, uint32_t level, bb_evaluation *out, double *window_kl, bb_err *err);

/* Only what a score begins with: the network is run, and bb_net_evaluator_last has its states; a score of the same network that follows costs the head alone.
 * For levels with a boundary cache. *n_forwarded as in bb_evaluation. */
bb_status bb_net_evaluator_run(bb_net_evaluator *e, const bb_net *net, uint32_t level, double *n_forwarded, bb_err *err);

/* Matrices are told apart by address: call this before freeing or rewriting weights that were scored. */
void bb_net_evaluator_forget(bb_net_evaluator *e);

/* Hidden states (before the output norm) of the level's scored positions, (n_windows * n_scored, C), of the network scored last at this level (NULL when
 * the level has no boundary cache). On the host, borrowed until the next call. */
bb_status bb_net_evaluator_last(bb_net_evaluator *e, uint32_t level, const float **rows, bb_err *err);

/* What a backward pass through the network scored last at this level begins with. Buffers of the backend, borrowed until the next call. */
typedef struct bb_net_states {
    const bb_backend *backend;
    const bb_net     *reference_net;
    bb_buffer         reference, scored; /* (n_windows * n_scored, C) as above */
    bb_buffer         boundary;          /* (n_layer + 1) x (n_windows * ctx, C): the input of each block, and the output of the last */
} bb_net_states;
/* BB_NOMEM when the level has no boundary cache. */
bb_status bb_net_evaluator_states(const bb_net_evaluator *e, uint32_t level, bb_net_states *out, bb_err *err);

/* The same weights, bit for bit, in both: used to find the common prefix. */
bool bb_block_same(const bb_block *a, const bb_block *b);

#endif
