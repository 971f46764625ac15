/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_report.c: bitbudget report RUN. */
#include <stdio.h>
#include <string.h>

#include "cli/cmd.h"
#include "cli/report/report.h"

static bb_status run(int argc, char **argv, bb_err *err)
{
    const char *dir = NULL;
    size_t      n = 0;
    bb_status   status = bb_command_options(&bb_command_report, NULL, argc, argv, &dir, 1, &n, err);
    if (status == BB_OK && (n == 0 || !*dir)) status = BB_FAIL(err, BB_USAGE, "report needs the folder of a run");
    if (status == BB_OK) status = bb_report_write(dir, err);
    if (status == BB_OK) printf("%s%sreport.html\n", dir, dir[strlen(dir) - 1] == '/' ? "" : "/");
    return status;
}

const bb_command bb_command_report = {
    .name = "report",
    .summary = "build RUN/report.html from the artefacts of a run",
    .usage = "RUN",
    .example = "bitbudget report results/runs/first",
    .run = run,
};
