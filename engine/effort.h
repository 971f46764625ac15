/* SPDX-License-Identifier: GPL-3.0-or-later
 * effort.h: --effort NAME: a named set of defaults; and any amount of effort between and beyond them (--time). A value that is given explicitly (file, environment, command line) always wins. */
#ifndef BB_ENGINE_EFFORT_H
#define BB_ENGINE_EFFORT_H

#include <stdint.h>

#include "base/options.h"

#define BB_EFFORTS "quick|normal|thorough" /* the choices of the option; normal: the defaults of the options themselves */

/* Sets the options among rows that the effort decides. Nothing is changed for normal. */
bb_status bb_effort_apply(const bb_option_row *rows, size_t n, void *values, const char *effort, bb_err *err);

/* ---- any amount of effort, for --time ----
 *
 * A number: 0 is quick, 1 normal, 2 thorough; BB_EFFORT_LEAST and BB_EFFORT_MOST lie beyond. Between two levels numbers are interpolated on a log
 * scale, and words are those of the nearer level. An option is `free` when nobody gave it: a set of these is a mask by the rows of the table. */
#define BB_EFFORT_LEAST (-1.0)
#define BB_EFFORT_MOST 3.0
typedef uint32_t bb_effort_mask;

/* Before the sources of options are read: marks what the effort decides with values that nobody can give. */
void bb_effort_mark(const bb_option_row *rows, size_t n, void *values);
/* Behind them: those that still are marked get their defaults and are told. */
bb_status bb_effort_unmark(const bb_option_row *rows, size_t n, void *values, bb_effort_mask *free, bb_err *err);
/* Which of these options decide what comes behind the measured options: they can be chosen anew in the middle of a run. */
bb_effort_mask bb_effort_late(const char *const *names, size_t n);
/* Sets the options of the mask. */
bb_status bb_effort_set(const bb_option_row *rows, size_t n, void *values, double effort, bb_effort_mask free, bb_err *err);
/* The options of the mask as "name=value" words, one a line; and values read back from such a text. */
void      bb_effort_print(const bb_option_row *rows, size_t n, const void *values, bb_effort_mask free, bb_text *out);
bb_status bb_effort_read(const bb_option_row *rows, size_t n, void *values, const char *text, bb_err *err);

/* Adds a table of what each effort sets; nothing when rows have no option "effort". */
void bb_effort_print_help(const bb_option_row *rows, size_t n, bb_text *out);

#endif
