/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_study.c: bitbudget study RUN. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "engine/study.h"
#include "engine/study_gradient.h"
#include "engine/study_kinds.h"
#include "engine/study_survival.h"

#define FIELD(name) offsetof(bb_study_options, name)

static const bb_option_row options[] = {
    { "bands", BB_OPT_LIST, FIELD(bands), "1.3,1.7,2.2,3.0,4.0", 1, 0, "LIST", "sizes to study, in bits per weight of the whole file", NULL },
    { "plans", BB_OPT_INT, FIELD(plans), "40", 4, 10000, "N", "plans of each set in each band", NULL },
    { "level", BB_OPT_TEXT, FIELD(level), "refine", 1, 0, "NAME", "windows of the truth, less those that options are measured on", "refine|confirm" },
    { "seed", BB_OPT_INT, FIELD(seed), "1", 0, 1e15, "N", "of the plans and the resamples", NULL },
    { "bootstrap", BB_OPT_INT, FIELD(bootstrap), "1000", 10, 100000, "N", "resamples for the intervals of tau", NULL },
    { "no-anchors", BB_OPT_FLAG, FIELD(no_anchors), NULL, 1, 0, NULL, "leave out what is measured around searched plans: most of the tokens", NULL },
    { "through", BB_OPT_TEXT, FIELD(through), "database", 1, 0, "WHAT", "the truth: plans as the database has them, rebuilt, or after all steps of finalise",
      "database|rebuild|ladder" },
    { "sizes", BB_OPT_LIST, FIELD(sizes), "", 1, 0, "LIST",
      "with --gradient, --kinds, --through rebuild or ladder: these sizes instead of --bands (2.2MiB,3596960)", NULL },
    { "windows", BB_OPT_INT, FIELD(windows), "0", 0, 1e6, "N", "with --kinds, --through rebuild: calibration windows of the rebuild that is the truth; 0: all",
      NULL },
    { "few", BB_OPT_LIST, FIELD(few), "8", 1, 0, "LIST", "with --through rebuild or ladder: calibration windows of cheaper rebuilds to compare; or none",
      NULL },
    { "kinds", BB_OPT_FLAG, FIELD(kinds), NULL, 1, 0, NULL,
      "instead: what a rebuild leaves of the loss of each kind of matrix and of widths, around the best uniform plan of each size", NULL },
    { "gradient", BB_OPT_FLAG, FIELD(gradient), NULL, 1, 0, NULL,
      "instead: what a gradient at the best plan of each size says of every option, against the true KL of single changes", NULL },
    { "changes", BB_OPT_INT, FIELD(changes), "0", 0, 1000000, "N", "with --gradient: single changes that are measured at each size; 0: all", NULL },
    { "labels", BB_OPT_INT, FIELD(labels), "1", 0, 64, "N", "with --gradient: backward passes of drawn labels, for the curvature", NULL },
};

/* proxy.csv as a table on stdout. */
static bb_status print_table(const bb_run *r, bb_err *err)
{
    char     *path = bb_run_path(r, err, "proxy.csv");
    bb_csv    t = { 0 };
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_csv_read(path, &t, err));
    printf("%-7s %5s %-24s %7s %15s %7s %10s %10s\n", "set", "bpw", "proxy", "tau", "95 %", "rho", "regret", "tokens");
    for (size_t i = 0; i < t.n_rows; i++) {
        double v[8] = { 0 };
        for (size_t c = 0; c < 7; c++) BB_TRY(bb_csv_double(&t, i, c < 1 ? 1 : c + 3, &v[c], err));
        printf("%-7s %5.2f %-24s %7.3f %7.3f %7.3f %7.3f %10.5f %10.0f\n", bb_csv_text(&t, i, 0), v[0], bb_csv_text(&t, i, 3), v[1], v[2], v[3], v[4], v[5],
               v[6]);
    }
done:
    bb_csv_done(&t);
    bb_free(path);
    return status;
}

/* survival_rank.csv as a table on stdout. */
static bb_status print_survival(const bb_run *r, bb_err *err)
{
    char     *path = bb_run_path(r, err, "survival_rank.csv");
    bb_csv    t = { 0 };
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_csv_read(path, &t, err));
    printf("%12s %-24s %-8s %7s %15s %10s %8s %10s\n", "bytes", "score", "truth", "tau", "95 %", "regret", "share", "tokens");
    for (size_t i = 0; i < t.n_rows; i++) {
        double v[6];
        for (size_t c = 0; c < 6; c++) BB_TRY(bb_csv_double(&t, i, c + 4, &v[c], err));
        printf("%12s %-24s %-8s %7.3f %7.3f %7.3f %10.5f %7.1f%% %10.0f\n", bb_csv_text(&t, i, 0), bb_csv_text(&t, i, 1), bb_csv_text(&t, i, 2), v[0], v[1],
               v[2], v[3], 100 * v[4], v[5]);
    }
done:
    bb_csv_done(&t);
    bb_free(path);
    return status;
}

/* survival_kinds.csv as a table on stdout. */
static bb_status print_kinds(const bb_run *r, bb_err *err)
{
    char     *path = bb_run_path(r, err, "survival_kinds.csv");
    bb_csv    t = { 0 };
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_csv_read(path, &t, err));
    printf("%12s %-14s %-10s %-10s %22s %22s %8s\n", "bytes", "kind", "option", "changed to", "KL by, alone", "KL by, rebuilt", "share");
    for (size_t i = 0; i < t.n_rows; i++) {
        double v[5];
        for (size_t c = 0; c < 5; c++) BB_TRY(bb_csv_double(&t, i, c + 6, &v[c], err));
        printf("%12s %-14s %-10s %-10s %+10.5f +- %8.5f %+10.5f +- %8.5f %8.2f\n", bb_csv_text(&t, i, 0), bb_csv_text(&t, i, 1), bb_csv_text(&t, i, 2),
               bb_csv_text(&t, i, 3), v[0], v[1], v[2], v[3], v[4]);
    }
done:
    bb_csv_done(&t);
    bb_free(path);
    return status;
}

/* gradient_rank.csv as a table on stdout. */
static bb_status print_gradient(const bb_run *r, bb_err *err)
{
    char     *path = bb_run_path(r, err, "gradient_rank.csv");
    bb_csv    t = { 0 };
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_csv_read(path, &t, err));
    printf("%12s %-12s %6s %-18s %7s %15s %7s %12s %10s\n", "bytes", "set", "n", "score", "tau", "95 %", "rho", "regret", "tokens");
    for (size_t i = 0; i < t.n_rows; i++) {
        double v[6];
        for (size_t c = 0; c < 6; c++) BB_TRY(bb_csv_double(&t, i, c + 5, &v[c], err));
        printf("%12s %-12s %6s %-18s %7.3f %7.3f %7.3f %7.3f %12.4g %10.0f\n", bb_csv_text(&t, i, 0), bb_csv_text(&t, i, 2), bb_csv_text(&t, i, 3),
               bb_csv_text(&t, i, 4), v[0], v[1], v[2], v[3], v[4], v[5]);
    }
done:
    bb_csv_done(&t);
    bb_free(path);
    return status;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    bb_study_options o = { 0 };
    bb_run           r = { 0 };
    const char      *dir = NULL;
    size_t           n = 0;
    bb_status        status;
    BB_TRY(bb_command_options(&bb_command_study, &o, argc, argv, &dir, 1, &n, err));
    if (n == 0 || !*dir) {
        status = BB_FAIL(err, BB_USAGE, "study needs the folder of a run that was searched");
        goto done;
    }
    static const char    alone[] = "with --kinds and --gradient", plain[] = "without --kinds, --gradient, --through rebuild or ladder";
    const bool           of_plans = !o.kinds && !o.gradient && strcmp(o.through, "database") == 0;
    const bb_idle_option idle[] = { { "--changes", "without --gradient", !o.gradient },
                                    { "--labels", "without --gradient", !o.gradient },
                                    { "--gradient", "with --kinds", o.kinds && o.gradient },
                                    { "--through", alone, o.kinds || o.gradient },
                                    { "--plans", "with --kinds", o.kinds },
                                    { "--level", "with --kinds, --gradient, --through rebuild or ladder", !of_plans },
                                    { "--seed", "with --kinds", o.kinds },
                                    { "--bootstrap", "with --kinds", o.kinds },
                                    { "--no-anchors", "with --kinds", o.kinds },
                                    { "--few", "without --through rebuild or ladder", o.kinds || o.gradient || of_plans },
                                    { "--plans", "with --gradient", o.gradient },
                                    { "--no-anchors", "with --gradient", o.gradient },
                                    { "--bands", "with --sizes, which stand in their place", *o.sizes && !of_plans },
                                    { "--sizes", plain, of_plans },
                                    { "--windows", "without --kinds, --through rebuild or ladder", o.gradient || of_plans } };
    BB_TRY(bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err));
    BB_TRY(bb_run_reopen(&r, dir, err));
    if (o.kinds) {
        BB_TRY(bb_study_kinds(&r, &o, err));
        BB_TRY(print_kinds(&r, err));
    } else if (o.gradient) {
        BB_TRY(bb_study_gradient(&r, &o, err));
        BB_TRY(print_gradient(&r, err));
    } else if (strcmp(o.through, "database") == 0) {
        BB_TRY(bb_study(&r, &o, err));
        BB_TRY(print_table(&r, err));
    } else {
        BB_TRY(bb_study_survival(&r, &o, err));
        BB_TRY(print_survival(&r, err));
    }
done:
    bb_run_close(&r);
    bb_options_done(options, sizeof options / sizeof *options, &o);
    return status;
}

const bb_command bb_command_study = {
    .name = "study",
    .summary = "how well each cheap score ranks plans, against their true KL",
    .usage = "RUN",
    .example = "bitbudget study results/runs/first --plans 40 --level refine",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
