/* SPDX-License-Identifier: GPL-3.0-or-later
 * eval_tasks.h: the zero-shot tasks of `bitbudget eval --tasks`: which files, their results, and how they are shown. */
#ifndef BB_CLI_EVAL_TASKS_H
#define BB_CLI_EVAL_TASKS_H

#include <jansson.h>

#include "base/csv.h"
#include "eval/tasks.h"

#define BB_TASK_OPTIONS_HEADER "task,item,option,gold,tokens,characters,log_likelihood,greedy" /* with a reference one more: log_likelihood_ref */

typedef struct bb_task_row {
    char               name[64], sha256[65];
    bb_task_kind       kind;
    bb_task_result     net, reference; /* reference.n 0: none */
    bb_task_difference difference;     /* net minus reference */
} bb_task_row;

typedef struct bb_task_table {
    bb_task_row *rows;
    size_t       n;
} bb_task_table; /* owns; zero-initialise */

/* Files of a list as --tasks has it: files, and folders whose files *.jsonl and *.txt are taken, separated by commas; all are there. bb_task_files_done whatever is returned. */
typedef struct bb_task_files {
    char **at;
    size_t n, room;
} bb_task_files;
bb_status bb_task_files_find(const char *list, bb_task_files *p, bb_err *err);
void      bb_task_files_done(bb_task_files *p);
/* Tokens of an item at most: ctx, or at 0 what the model was trained with, as far as 4096. */
uint32_t bb_task_window(const bb_model *m, int64_t ctx);
/* Says on stderr which items did not fit into the window, if any. */
void bb_task_warn_left_out(const bb_task *t, const bb_task_result *r, uint32_t max_tokens);

/* Whether all of them are tasks: for the start, before any is run. */
bb_status bb_task_files_check(const bb_task_files *p, size_t limit, bb_err *err);

/* limit: items a task, 0: all. ref may be NULL. options: a row for each option of each item, may be NULL. */
bb_status bb_eval_tasks(const bb_task_files *p, size_t limit, uint32_t max_tokens, const bb_model *m, const bb_model *ref, bb_csv_writer *options,
                        bb_task_table *out, bb_err *err);
void      bb_task_table_done(bb_task_table *t);
void      bb_task_table_text(const bb_task_table *t, bb_text *out);
json_t   *bb_task_table_json(const bb_task_table *t); /* a list; NULL without memory */

#endif
