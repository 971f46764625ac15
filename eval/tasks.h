/* SPDX-License-Identifier: GPL-3.0-or-later
 * tasks.h: zero-shot tasks by log-likelihood: multiple choice, sentence completion with either of two contexts, last words.
 *
 * A task is a file of items, in one of these forms (JSON lines; the form is that of the first line, and all lines have it):
 *   choice  {"query": text, "choices": [text, ...], "gold": index}              ARC, PIQA, OpenBookQA, COPA, BoolQ
 *   schema  {"context_options": [text, ...], "continuation": text, "gold": i}   WinoGrande: which context makes the rest likelier
 *   cloze   {"context": text, "continuation": text}                             LAMBADA: is the rest what greedy decoding gives
 * any of them with {"delimiter": text}, what stands between context and continuation instead of one space ("" for languages without
 * spaces); and, with a name that ends in .txt, llama.cpp's HellaSwag text: six lines an item, context, gold index, four endings (a choice task).
 *
 * Prompts: white space around texts is removed; a query that asks (starts with "Question:", or has a line that does) is followed by
 * "\nAnswer:"; one space, or the item's delimiter, comes before the continuation. So the Language Model Evaluation Harness asks what the
 * files of MosaicML's llm-foundry say, but for BoolQ (without "Passage: ") and COPA (without the comma, two spaces before the answer), and HellaSwag with
 * a capital letter where a sentence is to be completed (results/harness.csv).
 * Tokens: BOS first where the vocabulary does that; context and continuation are tokenized together, and the tokens behind the longest
 * prefix that they share with the context alone (for a choice item, the shortest of its options' prefixes) are the continuation. Items
 * longer than the window lose tokens behind BOS at the left.
 *
 * acc: the option of highest log-likelihood is the right one (first of equals); cloze: every token is the arg max.
 * acc_norm (choice only): the same after dividing by the characters of the option.
 * gold_nll: smooth where acc is not: -ln of the right option's share among the options' likelihoods; cloze: -ln p of the continuation.
 */
#ifndef BB_EVAL_TASKS_H
#define BB_EVAL_TASKS_H

#include "base/text.h"
#include "model/model.h"
#include "model/net/backend.h"

typedef enum bb_task_kind { BB_TASK_CHOICE, BB_TASK_SCHEMA, BB_TASK_CLOZE } bb_task_kind;

/* Bytes of the task's text; the continuation begins with its delimiter. */
typedef struct bb_task_option {
    size_t context, n_context, continuation, n_continuation, n_delimiter;
} bb_task_option;
typedef struct bb_task_item {
    size_t   first;
    uint32_t n, gold;
} bb_task_item; /* options first .. first + n - 1 */

typedef struct bb_task {
    char            name[64];   /* the file's name without folder and ending */
    char            sha256[65]; /* of the file */
    bb_task_kind    kind;
    bb_text         text;
    bb_task_option *options;
    size_t          n_options;
    bb_task_item   *items;
    size_t          n_items;
} bb_task;

/* The first `limit` items (0: all) of a file. Files are not trusted: BB_BAD_FILE names the line. */
bb_status bb_task_load(const char *path, size_t limit, bb_task *t, bb_err *err);
/* The same from memory; name and ending as in a path. */
bb_status bb_task_parse(const char *path, const char *data, size_t size, size_t limit, bb_task *t, bb_err *err);
void      bb_task_done(bb_task *t);

typedef struct bb_task_result {
    size_t n, n_skipped;          /* items scored; items whose continuation is longer than the window */
    size_t n_cut;                 /* of those scored: items whose context was cut from the left to fit into the window */
    double acc, acc_se;           /* 0..1; standard errors over items */
    double acc_norm, acc_norm_se; /* NaN where it is not customary */
    double gold_nll, gold_nll_se; /* nats */
} bb_task_result;

typedef struct bb_task_answer {
    uint32_t option; /* chosen by likelihood; cloze: 0 (wrong) or 1 (right); UINT32_MAX where skipped, then the rest is 0 */
    bool     right, right_norm;
    double   gold_nll;
} bb_task_answer;

/* Of one option, for who wants more than answers. */
typedef struct bb_task_score {
    double   log_p; /* of the continuation, nats; NaN where the item was skipped, then the rest is 0 */
    uint32_t n_tokens, n_characters;
    bool     greedy; /* is each of its tokens the arg max? */
} bb_task_score;

/* Two networks on the same items: a minus b, and the standard error of the mean of the items' differences. */
typedef struct bb_task_difference {
    double changed; /* share of items with another option */
    double acc, acc_se, acc_norm, acc_norm_se, gold_nll, gold_nll_se;
} bb_task_difference;

/* Evaluates net (with the tokenizer of m; m's own or a compressed one with the same vocabulary). max_tokens: the window, >= 2. answers: [n_items],
 * scores: [n_options], NULL allowed. The same bits for any number of threads. Polls bb_interrupted. BB_BAD_FILE when every item is skipped. */
bb_status bb_task_run(const bb_backend *backend, const bb_model *m, const bb_net *net, const bb_task *t, uint32_t max_tokens, const char *progress_label,
                      bb_task_result *out, bb_task_answer *answers, bb_task_score *scores, bb_err *err);
/* Of n answers each to the same items; items that either left out do not count. acc_norm as bb_task_run has it for this kind. All 0 where no item is left. */
bb_task_difference bb_task_compare(bb_task_kind kind, const bb_task_answer *a, const bb_task_answer *b, size_t n);

extern const char *const bb_task_kind_names[3]; /* "choice", "schema", "cloze" */

#endif
