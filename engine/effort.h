/* SPDX-License-Identifier: GPL-3.0-or-later
 * effort.h: --effort NAME: a named set of defaults. A value that is given explicitly (file, environment, command line) always wins. */
#ifndef BB_ENGINE_EFFORT_H
#define BB_ENGINE_EFFORT_H

#include "base/options.h"

#define BB_EFFORTS "quick|normal|thorough" /* the choices of the option; normal: the defaults of the options themselves */

/* Sets the options among rows that the effort decides. Nothing is changed for normal. */
bb_status bb_effort_apply(const bb_option_row *rows, size_t n, void *values, const char *effort, bb_err *err);

/* Adds a table of what each effort sets; nothing when rows have no option "effort". */
void bb_effort_print_help(const bb_option_row *rows, size_t n, bb_text *out);

#endif
