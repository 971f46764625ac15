/* SPDX-License-Identifier: GPL-3.0-or-later
 * outputs.h: what a command is going to write, looked at before any work: a place where a file can be written, none of the command's own inputs,
 * and no file that bitbudget did not make, unless --force.
 */
#ifndef BB_ENGINE_OUTPUTS_H
#define BB_ENGINE_OUTPUTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* --force: files that bitbudget did not make may be replaced, folders that hold other things used. For the whole process. */
void bb_outputs_force(bool force);
bool bb_outputs_forced(void);

/* By what a file of ours is known. Token ids hold nothing to know them by: an existing file always needs --force. */
typedef enum bb_output_kind { BB_OUTPUT_MODEL, BB_OUTPUT_TABLE, BB_OUTPUT_RECIPE, BB_OUTPUT_IDS, BB_OUTPUT_LOG } bb_output_kind;

typedef struct bb_input {
    const char *what, *path;
} bb_input; /* "the model"; path NULL or "": not given */

/* option: what the sentence calls the file ("--out"). header: first columns of a table of ours, else NULL. */
bb_status bb_output_check(const char *option, const char *path, bb_output_kind kind, const char *header, const bb_input *inputs, size_t n, bb_err *err);

/* The same for a folder that gets files of its own: new or empty, unless --force, and none of the inputs. */
bb_status bb_output_folder_check(const char *option, const char *dir, const bb_input *inputs, size_t n, bb_err *err);

/* Refuses an output of `bytes` bytes where the file system has less room. */
bb_status bb_output_fits(const char *path, uint64_t bytes, bb_err *err);

#endif
