/* SPDX-License-Identifier: GPL-3.0-or-later
 * jinja.h: runs a chat template: the part of Jinja that templates of chat models are written in, with the settings of Hugging Face's library
 * (trim_blocks, lstrip_blocks) and the errors of Python's operators.
 *
 * Runs: text, {{ }}, {# #}, if/elif/else, for (with if, else, loop.*, break, continue), set (values, blocks, names of a namespace), generation; operators,
 * slices, the usual filters, tests and methods (the tables in jinja_expr.c and jinja_calls.c). What a conversation does not come by (a macro that nobody
 * calls, a branch for tools) is not looked at. Anything else is refused by name: a text is as Python's library has it, or there is none.
 */
#ifndef BB_MODEL_IO_JINJA_H
#define BB_MODEL_IO_JINJA_H

#include <time.h>

#include "base/text.h"
#include "model/io/source.h"

typedef struct bb_jinja_message {
    const char *role, *text;
} bb_jinja_message;

typedef struct bb_jinja_name {
    const char *name;
    bb_bytes    text;
} bb_jinja_name; /* a text that the template knows by this name; data NULL: it knows none */

/* Appends what the template makes of the messages and the beginning of an answer; now: what strftime_now says.
 * BB_UNSUPPORTED: something is outside of the part above, is wrong, or the template itself refuses the messages; the message says what. */
bb_status bb_jinja_render(bb_bytes template, const bb_jinja_message *m, size_t n, const bb_jinja_name *names, size_t n_names, time_t now, bb_text *out,
                          bb_err *err);

#endif
