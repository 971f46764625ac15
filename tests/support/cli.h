/* SPDX-License-Identifier: GPL-3.0-or-later
 * cli.h: runs bitbudget for a test, inside the test or as a user does. Linked into test_cli_* alone, which have libcli. */
#ifndef BB_TESTS_SUPPORT_CLI_H
#define BB_TESTS_SUPPORT_CLI_H

#include "base/csv.h"
#include "base/status.h"

/* Runs a command inside the test, its words separated by spaces; what it prints on stdout is in *text (bb_free; NULL: not wanted). err (may be
 * NULL) is cleared first; a command that ends well leaves no sentence in it, and one that fails the sentence of its failure: this is checked. */
bb_status bb_test_command(char **text, bb_err *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

const char *bb_test_build(void); /* the folder of this build: BB_BUILD, or build */

/* The exit code of the program of this build with these arguments, and what it says on both streams in said (size bytes, cut and terminated).
 * -1: killed by a signal. Fails the test when the program has not been built. */
int bb_test_program(const char *arguments, char *said, size_t size);
/* The same, with arguments by a format: fails the test unless it ends with this code and says these words. */
void bb_test_says(char *said, size_t size, int code, const char *words, const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The number in a row of a table, by the name of its column; fails the test where there is none. */
double bb_test_number(const bb_csv *t, size_t row, const char *column);

#endif
