/* SPDX-License-Identifier: GPL-3.0-or-later
 * options.h: options are a table: name, type, default, bounds, help. One table serves the command line, --help,
 * the YAML configuration file (file < environment BB_NAME < command line) and the resolved copy beside each result.
 *
 * Unknown names are errors that name the nearest known one. Values land in the struct that the table's offsets describe.
 */
#ifndef BB_BASE_OPTIONS_H
#define BB_BASE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"

typedef enum bb_option_type { BB_OPT_FLAG, BB_OPT_INT, BB_OPT_DOUBLE, BB_OPT_SIZE, BB_OPT_TIME, BB_OPT_TEXT, BB_OPT_LIST } bb_option_type;

/* Field types: FLAG bool, INT int64_t, DOUBLE double, SIZE uint64_t, TIME double (seconds), TEXT and LIST char* (owned, bb_free; LIST is the comma list). */
typedef struct bb_option_row {
    const char    *name; /* "target-size"; on the command line --target-size VALUE or --target-size=VALUE */
    bb_option_type type;
    size_t         offset;       /* offsetof(struct, field) */
    const char    *default_text; /* parsed like a value; NULL leaves zero */
    double         min, max;     /* numbers only; min > max means no bounds */
    const char    *metavar, *help;
    const char    *choices; /* "a|b|c" or NULL */
} bb_option_row;

bb_status bb_options_defaults(const bb_option_row *rows, size_t n, void *values, bb_err *err);
/* argv[0] is skipped. Positional arguments are gathered in positional[0..*n_positional), at most max_positional. "--" ends options. */
bb_status bb_options_parse(const bb_option_row *rows, size_t n, void *values, int argc, char **argv, const char **positional, size_t max_positional,
                           size_t *n_positional, bb_err *err);
bb_status bb_options_environment(const bb_option_row *rows, size_t n, void *values, bb_err *err);
bb_status bb_options_yaml(const bb_option_row *rows, size_t n, void *values, const char *path, bb_err *err);
bb_status bb_options_set(const bb_option_row *rows, size_t n, void *values, const char *name, const char *text, bb_err *err); /* BB_NOT_FOUND: no such option */
void      bb_options_print_yaml(const bb_option_row *rows, size_t n, const void *values, bb_text *out);
void      bb_options_print_help(const bb_option_row *rows, size_t n, bb_text *out);
void      bb_options_done(const bb_option_row *rows, size_t n, void *values); /* frees TEXT and LIST fields */

#endif
