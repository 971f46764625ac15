/* SPDX-License-Identifier: GPL-3.0-or-later
 * eval_detail.h: `bitbudget eval --detail`: scores by place in the window and the errors that a block bootstrap by document gives, and how they are shown. */
#ifndef BB_CLI_EVAL_DETAIL_H
#define BB_CLI_EVAL_DETAIL_H

#include <jansson.h>

#include "base/text.h"
#include "eval/detail.h"

typedef struct bb_eval_detail {
    bb_place_span span[BB_PLACE_SPANS];
    uint32_t      n_spans;
    const char   *rule; /* how blocks were told apart: a rule of bb_documents_find, or "windows"; static */
    bb_bootstrap  error;
} bb_eval_detail;

/* s: every scored token of w, which was made from t. mark: as in bb_documents_find. */
bb_status bb_eval_detail_of(const bb_model *m, const bb_tokens *t, const bb_windows *w, bool spread, const char *mark, const bb_scores *s, bb_eval_detail *out,
                            bb_err *err);
void      bb_eval_detail_text(const bb_eval_detail *d, bb_text *out);
json_t   *bb_eval_detail_json(const bb_eval_detail *d); /* NULL without memory */

#endif
