/* SPDX-License-Identifier: GPL-3.0-or-later
 * effort.c: see effort.h. results/effort.csv has what each buys. */
#include "engine/effort.h"

#include <string.h>

/* In the order of help. Of quick, what costs most is least: every option is built and measured once, every plan scored on few windows, and the files
 * are rebuilt on a quarter of the text. */
static const struct {
    const char *option, *quick, *thorough;
} table[] = {
    { "calib-windows", "64", "512" },  { "measure-windows", "2", "16" },
    { "refine-windows", "8", "48" },   { "confirm-windows", "32", "256" },
    { "eval-windows", "64", "0" },     { "screen", "6", "0" },
    { "prune", "width", "all" },       { "sweeps", "1", "8" },
    { "search-tokens", "0.2", "16" },  { "finalise-steps", "rebuild,lfq", "rebuild,blocks,lfq,end-to-end" },
    { "tune-windows", "128", "4096" }, { "tune-tokens", "0.04", "0.4" },
};
enum { N_TABLE = sizeof table / sizeof *table };

static const bb_option_row *row_of(const bb_option_row *rows, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i].name, name) == 0) return &rows[i];
    return NULL;
}

bb_status bb_effort_apply(const bb_option_row *rows, size_t n, void *values, const char *effort, bb_err *err)
{
    const bool quick = strcmp(effort, "quick") == 0, thorough = strcmp(effort, "thorough") == 0;
    bb_status  status = BB_OK;
    for (size_t i = 0; i < N_TABLE && (quick || thorough); i++)
        if (row_of(rows, n, table[i].option)) BB_TRY(bb_options_set(rows, n, values, table[i].option, quick ? table[i].quick : table[i].thorough, err));
done:
    return status;
}

void bb_effort_print_help(const bb_option_row *rows, size_t n, bb_text *out)
{
    static const char format[] = "  %-18s %-14s %-30s %s\n";
    if (!row_of(rows, n, "effort")) return;
    bb_text_add(out, "\nWhat --effort sets, where the option itself is not given:\n");
    bb_text_addf(out, format, "", "quick", "normal", "thorough");
    for (size_t i = 0; i < N_TABLE; i++) {
        const bb_option_row *row = row_of(rows, n, table[i].option);
        if (row) bb_text_addf(out, format, row->name, table[i].quick, row->default_text, table[i].thorough);
    }
}
