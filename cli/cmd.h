/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd.h: the commands, as a table. To add one: write cli/cmd_NAME.c, which defines `const bb_command bb_command_NAME`, and
 * add X(NAME) to BB_COMMAND_LIST. `bitbudget help`, `CMD --help` and the manual page come from these rows.
 *
 * Names of options that every command has, handled before run() is called: --help -h, -q --quiet, -v --verbose,
 * --log-file FILE, --force, --threads N. run() gets argc, argv without them, argv[0] being the command's name.
 * A command returns its status with one sentence in err; main() prints it and exits with bb_status_exit_code.
 */
#ifndef BB_CLI_CMD_H
#define BB_CLI_CMD_H

#include <stdbool.h>

#include "base/options.h"
#include "base/status.h"

typedef struct bb_command {
    const char          *name, *summary; /* summary: one line, no full stop */
    const char          *usage;          /* what follows the name: "RUN" or "MODEL.gguf --target-size SIZE" */
    const char          *example;        /* one or more whole command lines, newline-separated */
    const bb_option_row *options;        /* [n_options], borrowed; NULL when 0 */
    size_t               n_options;
    bb_status (*run)(int argc, char **argv, bb_err *err);
} bb_command;

/* In the order in which help lists them. */
#define BB_COMMAND_LIST(X) \
    X(run) \
    X(sweep) \
    X(estimate) \
    X(quantize) \
    X(eval) \
    X(compare) \
    X(generate) \
    X(train) \
    X(qat) \
    X(toga) \
    X(inspect) \
    X(convert) \
    X(bench) \
    X(tokenize) \
    X(calibrate) \
    X(measure) \
    X(search) \
    X(finalise) \
    X(evaluate) \
    X(export) \
    X(verify) \
    X(rivals) \
    X(report) \
    X(clean) \
    X(study)

#define X(name) extern const bb_command bb_command_##name;
BB_COMMAND_LIST(X)
#undef X

const bb_command *bb_command_at(size_t i);              /* NULL past the end */
const bb_command *bb_command_find(const char *name);    /* NULL when unknown */
const char       *bb_command_nearest(const char *name); /* NULL when nothing is near */

/* Fills `values` in the order defaults < effort < YAML file < environment < command line; file and effort (engine/effort.h) are the values of the
 * command's own options "config" and "effort", where it has them. The caller ends with bb_options_done whatever is returned. */
bb_status bb_command_options(const bb_command *c, void *values, int argc, char **argv, const char **positional, size_t max_positional, size_t *n_positional,
                             bb_err *err);

/* An option that has no effect as things are: why, "without --tasks"; is_idle false: it has one. */
typedef struct bb_idle_option {
    const char *option, *why;
    bool        is_idle;
} bb_idle_option;

/* BB_USAGE when one of the idle options was given on the command line: nothing that is asked for is passed over in silence. A file and the environment
 * may set them, for other commands. */
bb_status bb_command_refuse_idle(int argc, char **argv, const bb_idle_option *options, size_t n, bb_err *err);
/* The same as warnings: for what is harmless, so that one set of options can be tried with every method, with and without a text. */
void bb_command_warn_idle(int argc, char **argv, const bb_idle_option *options, size_t n);

void bb_help_overview(bb_text *out);
void bb_help_command(const bb_command *c, bb_text *out);
void bb_help_manual(bb_text *out);     /* troff -man source */
void bb_help_completion(bb_text *out); /* for bash */

#endif
