/* SPDX-License-Identifier: GPL-3.0-or-later
 * detail.h: what the mean over scored tokens hides: scores by place in the window, and the error of the mean when the tokens of a document go together.
 */
#ifndef BB_EVAL_DETAIL_H
#define BB_EVAL_DETAIL_H

#include "eval/evaluate.h"

/* ---- by place ---- */

enum { BB_PLACE_SPANS = 8, BB_BOOTSTRAP_SAMPLES = 1000 };

typedef struct bb_place_span {
    uint32_t first, last; /* positions of a window; each predicts the token after it */
    uint64_t n_tokens;
    double   nll, ppl;
    double   ppl_ref, kl, kl_se, top1; /* NaN without reference; kl_se over the span's tokens */
} bb_place_span;

/* The scored positions in BB_PLACE_SPANS spans of as equal a length as there is (a span a position where there are fewer). Returns their number. */
uint32_t bb_scores_by_place(const bb_scores *s, const bb_windows *w, bb_place_span out[BB_PLACE_SPANS]);

/* ---- documents ---- */

typedef struct bb_documents {
    uint32_t   *of; /* [n] the document of each token, from 0, never falling */
    size_t      n;
    uint32_t    count;
    const char *rule; /* how they were told apart, for people; static */
} bb_documents;

/* The documents of the first n tokens, by the text that these stand for. A document begins at a line that begins with mark; mark NULL: at a title line (a line
 * "= Title =", as WikiText has them), else at a line that begins with "<|endoftext|>" or "<|im_start|>system", else behind an empty line: the first of these
 * kinds that parts the text at all. Text that no rule parts, and a model without a vocabulary, is one document (rule: "none"). */
bb_status bb_documents_find(const bb_model *m, const bb_tokens *t, size_t n, const char *mark, bb_documents *out, bb_err *err);
void      bb_documents_done(bb_documents *d);
/* blocks [w->n * w->n_scored]: the document of each scored token, which is the one that its position predicts. False: all of them lie in one document; then
 * the blocks are the windows. t and spread: as w was made from them; d: of t, up to the last token of w. */
bool bb_documents_blocks(const bb_documents *d, const bb_tokens *t, const bb_windows *w, bool spread, uint32_t *blocks);

/* ---- block bootstrap ---- */

typedef struct bb_bootstrap {
    uint32_t n_blocks;               /* that hold scored tokens */
    double   nll_se;                 /* standard deviation over the samples; NaN where there is one block only */
    double   kl_se, kl_low, kl_high; /* low, high: the 2.5 % and 97.5 % quantiles; NaN without reference */
    double   ln_ratio_se;
} bb_bootstrap;

/* BB_BOOTSTRAP_SAMPLES times as many blocks as there are, drawn with replacement by the seed's stream, each time the mean over all their tokens. blocks:
 * [n_windows * n_scored], equal numbers one after the other. */
bb_status bb_scores_bootstrap(const bb_scores *s, const uint32_t *blocks, uint64_t seed, bb_bootstrap *out, bb_err *err);

#endif
