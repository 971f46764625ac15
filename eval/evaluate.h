/* SPDX-License-Identifier: GPL-3.0-or-later
 * evaluate.h: token sets, evaluation windows, perplexity and KL under the two named protocols.
 *
 *   gguf: as llama-perplexity: windows of ctx consecutive tokens, tail dropped, first token of every window replaced by BOS when the
 *         vocabulary adds BOS; positions ctx/2 .. ctx-2 predict the next token: ctx - 1 - ctx/2 scored a window.
 *   hf:   non-overlapping windows of ctx tokens without replacement; positions 0 .. ctx-2 predict the next: ctx - 1 a window.
 */
#ifndef BB_EVAL_EVALUATE_H
#define BB_EVAL_EVALUATE_H

#include "model/io/tokenizer.h"
#include "model/model.h"
#include "model/net/forward.h"

typedef enum bb_protocol { BB_PROTOCOL_GGUF, BB_PROTOCOL_HF } bb_protocol;
#define BB_PROTOCOLS "gguf|hf"                   /* the choices of an option, in the enum's order */
bb_protocol bb_protocol_named(const char *name); /* one of the choices */

typedef struct bb_tokens {
    int32_t *ids;
    size_t   n;
    char     sha256[65]; /* of the ids as little-endian u32: the data hash in result rows */
    char    *path;       /* where they come from, for messages; NULL: no file */
} bb_tokens;

/* Text file (tokenized with special tokens, one trailing newline removed, as llama-perplexity) or a token file: .npy (integer, 1-D), .u16, .u32.
 * parse_special: in a text, the text of control tokens ("<|im_end|>") becomes that token; the ids, and so the hash, say which it was.
 * Ids outside the model's vocabulary, an empty file and one that is no text (known binary kinds; many NUL bytes or much that is not UTF-8) are
 * BB_BAD_FILE; a few such bytes are tokenized as they are, with a warning that counts them. */
bb_status bb_tokens_load(const bb_model *m, const char *path, bool parse_special, bb_tokens *t, bb_err *err);
/* The same of a text in memory; name: for messages. */
bb_status bb_tokens_from_text(const bb_model *m, const char *name, bool parse_special, const char *text, size_t size, bb_tokens *t, bb_err *err);
bb_status bb_tokens_from_ids(const int32_t *ids, size_t n, bb_tokens *t, bb_err *err); /* copies */
/* BOS where the file's vocabulary puts one first, else -1 (also for a file without a vocabulary): what bb_windows_make wants. */
bb_status bb_tokens_bos(const bb_model *m, int32_t *bos, bb_err *err);
void      bb_tokens_done(bb_tokens *t);

typedef struct bb_windows {
    uint32_t ctx, n;          /* n windows of ctx tokens */
    uint32_t first, n_scored; /* scored positions first .. first + n_scored - 1 of each window */
    int32_t *tokens;          /* [n*ctx] inputs (BOS already placed) */
    int32_t *targets;         /* [n*ctx] the next token; the last entry of each window is -1 */
} bb_windows;

/* max_windows 0: all. spread: false takes the first windows, true takes evenly spaced ones. Too few tokens for one window: BB_BAD_FILE; fewer
 * windows than max_windows: all that there are, with a warning that says both numbers. */
bb_status bb_windows_make(const bb_tokens *t, bb_protocol protocol, uint32_t ctx, int32_t bos /* -1: none */, uint32_t max_windows, bool spread, bb_windows *w,
                          bb_err *err);
/* A copy of the windows index[0 .. n-1] of all. */
bb_status bb_windows_pick(const bb_windows *all, const uint32_t *index, uint32_t n, bb_windows *out, bb_err *err);
void      bb_windows_done(bb_windows *w);
/* Which token of t is the first of window i. t and spread as in bb_windows_make. */
size_t bb_window_at(const bb_tokens *t, const bb_windows *w, bool spread, uint32_t i);
/* SHA-256 of everything in w: what is evaluated at which positions, whatever text and protocol it came from. */
void bb_windows_hash(const bb_windows *w, char hex[65]);

enum { BB_KL_QUANTILES = 7 };
extern const double bb_kl_quantiles[BB_KL_QUANTILES]; /* 0.01 0.10 0.50 0.90 0.99 0.999 1.00 */

typedef struct bb_result {
    uint64_t n_tokens;                     /* scored */
    double   nll, nll_se, ppl, ppl_se;     /* nats a token; ppl_se as llama-perplexity prints it */
    double   kl, kl_se;                    /* nats a token; NaN without reference. se over scored tokens */
    double   top1;                         /* share of same arg max, 0..1; NaN without reference */
    double   kl_quantile[BB_KL_QUANTILES]; /* at bb_kl_quantiles; NaN without reference */
    double   ln_ratio, ln_ratio_se;        /* paired mean of ln(ppl/ppl_ref); NaN without reference */
} bb_result;

/* Evaluates net on the windows, in the backend; ref (may be NULL) is the full-precision net. window_kl, window_nll: [w->n] mean over the window's scored
 * tokens, for paired comparisons; NULL allowed. Progress label NULL: silent. Polls bb_interrupted -> BB_INTERRUPTED. A score that is no
 * number is BB_NUMERIC. Memory: a batch of windows, and 25 bytes a scored token. */
bb_status bb_evaluate(const bb_backend *backend, const bb_net *net, const bb_net *ref, const bb_windows *w, const char *progress_label, bb_result *out,
                      double *window_kl, double *window_nll, bb_err *err);

/* ---- for many evaluations on the same windows ----
 * A reference keeps the final hidden states of the scored positions of the full-precision net, for as many of the first windows as fit
 * into max_bytes; for the others they are computed again at each use. Borrows backend, net and w. One user at a time, where not all
 * are kept. */
typedef struct bb_reference bb_reference;
bb_status         bb_reference_create(const bb_backend *backend, const bb_net *net, const bb_windows *w, uint64_t max_bytes, const char *progress_label,
                                      bb_reference **out, bb_err *err);
void              bb_reference_destroy(bb_reference *r);
uint32_t          bb_reference_kept(const bb_reference *r); /* windows whose states are kept */
const bb_backend *bb_reference_backend(const bb_reference *r);
/* As bb_evaluate with the reference's backend, net and windows, but for the first n_windows only (0: all). */
bb_status bb_evaluate_against(const bb_net *net, bb_reference *r, uint32_t n_windows, const char *progress_label, bb_result *out, double *window_kl,
                              double *window_nll, bb_err *err);

/* The same from hidden states that the caller has (prefix cache): scores are gathered batch by batch, then summed up. */
typedef struct bb_scores { /* a scored token each, windows one after the other */
    uint32_t       n_windows, n_scored;
    double        *nll, *kl, *nll_ref; /* kl, nll_ref, same: NULL without reference */
    unsigned char *same;
} bb_scores;

bb_status bb_scores_create(uint32_t n_windows, uint32_t n_scored, bool with_reference, bb_scores *s, bb_err *err);
void      bb_scores_done(bb_scores *s);
/* h (S*ctx, C), in f's backend, which is the reference's too: the output of net's last block for windows first .. first+S-1; f made for net, S <= its max_windows. ref may be NULL. */
bb_status bb_scores_add(bb_scores *s, bb_forward *f, const bb_net *net, bb_reference *ref, const bb_windows *w, uint32_t first, uint32_t S, bb_buffer h,
                        bb_err *err);
/* When all windows are in. window_kl, window_nll as in bb_evaluate. */
bb_status bb_scores_result(const bb_scores *s, bb_result *out, double *window_kl, double *window_nll, bb_err *err);

/* Of n values x - y (y may be NULL), and the standard error, 0 for a single one. */
void bb_mean_and_error(const double *x, const double *y, size_t n, double *mean, double *error);

/* As bb_evaluate without sums: *s (bb_scores_done) has every scored token. */
bb_status bb_evaluate_scores(const bb_backend *backend, const bb_net *net, const bb_net *ref, const bb_windows *w, const char *progress_label, bb_scores *s,
                             bb_err *err);

/* Windows of ctx tokens that bb_evaluate runs at once. */
uint32_t bb_batch_windows(uint32_t ctx);

#endif
