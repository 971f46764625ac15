/* SPDX-License-Identifier: GPL-3.0-or-later
 * eval_text.h: the text that `bitbudget eval --text` and `bitbudget compare --text` measure on: its tokens and windows. */
#ifndef BB_CLI_EVAL_TEXT_H
#define BB_CLI_EVAL_TEXT_H

#include "eval/evaluate.h"

typedef struct bb_eval_text_spec {
    const char *path;
    const char *protocol;    /* of BB_PROTOCOLS */
    int64_t     ctx, chunks; /* 0: 512, or what the model was trained with if less; 0: all windows */
    bool        spread, parse_special;
} bb_eval_text_spec;

typedef struct bb_eval_text {
    bb_tokens   tokens;
    bb_windows  w;
    bb_protocol protocol;
    int32_t     bos; /* -1: none */
} bb_eval_text;      /* owns; zero-initialise; bb_eval_text_done whatever is returned */

/* path: of the model, for messages. Warns of windows longer than what the model was trained with. */
bb_status bb_eval_text_load(const bb_model *m, const char *path, const bb_eval_text_spec *spec, bb_eval_text *out, bb_err *err);
void      bb_eval_text_done(bb_eval_text *t);

/* What is compared token by token must have the same tokens (BB_BAD_FILE), and on a text, where scores are computed on rows of one width, the same width. */
bb_status bb_eval_check_reference(const bb_model *m, const char *path, const bb_model *reference, const char *reference_path, bool on_text, bb_err *err);
/* On stderr, where the reference is quantized itself. */
void bb_eval_warn_reference(const bb_model *reference, const char *path);

#endif
