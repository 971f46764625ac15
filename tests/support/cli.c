/* SPDX-License-Identifier: GPL-3.0-or-later
 * cli.c: see cli.h. */
#include "tests/support/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cmd.h"
#include "tests/support/support.h"

bb_status bb_test_command(char **text, bb_err *err, const char *format, ...)
{
    char    line[2048], *argv[64], *save = NULL;
    int     argc = 0, keep;
    size_t  n;
    va_list args;
    va_start(args, format);
    n = (size_t)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ck_assert_uint_lt(n, sizeof line);
    for (char *word = strtok_r(line, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        ck_assert_int_lt(argc, 63);
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    fflush(stdout);
    keep = dup(STDOUT_FILENO);
    ck_assert(keep >= 0 && freopen(bb_test_path("stdout"), "w", stdout));
    bb_err own;
    if (!err) err = &own;
    *err = (bb_err)BB_ERR_INIT;
    bb_status status = bb_command_find(argv[0])->run(argc, argv, err);
    fflush(stdout);
    ck_assert(dup2(keep, STDOUT_FILENO) >= 0);
    close(keep);
    /* The sentence is that of the failure that ended the command; what was tolerated has left none. */
    ck_assert_msg(err->status == status, "%s ends with status %d, and its sentence is of %d: %s", argv[0], (int)status, (int)err->status, err->msg);
    if (text) ck_assert_int_eq(bb_file_read(bb_test_path("stdout"), text, &n, NULL), BB_OK);
    return status;
}

const char *bb_test_build(void) { return getenv("BB_BUILD") ? getenv("BB_BUILD") : "build"; }

int bb_test_program(const char *arguments, char *said, size_t size)
{
    char line[2560];
    snprintf(line, sizeof line, "%s/bitbudget", bb_test_build());
    ck_assert_msg(access(line, X_OK) == 0, "%s has not been built", line);
    ck_assert_int_lt(snprintf(line, sizeof line, "%s/bitbudget 2>&1 %s", bb_test_build(), arguments),
                     (int)sizeof line); /* a redirection in arguments comes later, and wins */
    FILE *p = popen(line, "r");
    ck_assert_ptr_nonnull(p);
    size_t n = fread(said, 1, size - 1, p);
    said[n] = '\0';
    while (fgetc(p) != EOF) {}
    int state = pclose(p);
    return WIFEXITED(state) ? WEXITSTATUS(state) : -1;
}

void bb_test_says(char *said, size_t size, int code, const char *words, const char *format, ...)
{
    char    arguments[3000];
    va_list list;
    va_start(list, format);
    ck_assert_int_lt(vsnprintf(arguments, sizeof arguments, format, list), (int)sizeof arguments);
    va_end(list);
    const int got = bb_test_program(arguments, said, size);
    ck_assert_msg(got == code, "%s: exit %d: %s", arguments, got, said);
    ck_assert_msg(strstr(said, words) != NULL, "%s: not a word of \"%s\": %s", arguments, words, said);
}

double bb_test_number(const bb_csv *t, size_t row, const char *column)
{
    double v = 0;
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_csv_column(t, column) >= 0, "no column %s", column);
    ck_assert_msg(bb_csv_double(t, row, (size_t)bb_csv_column(t, column), &v, &err) == BB_OK, "%s", err.msg);
    return v;
}
