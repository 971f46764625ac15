/* SPDX-License-Identifier: GPL-3.0-or-later
 * effort.c: see effort.h. results/effort.csv has what each buys. */
#include "engine/effort.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* In the order of help. Of quick, what costs most is least: every option is built and measured once, every plan scored on few windows, and the files
 * are rebuilt on a quarter of the text. least and most have no name of their own: they bound what --time chooses. */
static const struct {
    const char *option, *quick, *thorough, *least, *most;
} table[] = {
    { "calib-windows", "64", "512", "16", "1024" },
    { "measure-windows", "2", "8", "1", "16" },
    { "refine-windows", "8", "48", "4", "64" },
    { "confirm-windows", "32", "256", "8", "512" },
    { "eval-windows", "64", "0", "16", "0" },
    { "screen", "6", "0", "3", "0" },
    { "prune", "width", "all", "width", "all" },
    { "sweeps", "1", "8", "1", "8" },
    { "search-tokens", "0.2", "4", "0.03", "16" },
    { "finish", "contenders", "all", "contenders", "all" },
    { "finalise-steps", "rebuild", "rebuild,blocks,lfq,end-to-end", "", "rebuild,blocks,lfq,end-to-end" },
    { "tune-windows", "128", "4096", "64", "8192" },
    { "tune-tokens", "0.04", "0.4", "0.01", "1" },
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

/* ---- any amount of effort ---- */

/* Nobody can give these: options have bounds, and texts no such byte. */
static const int64_t marked_int = INT64_MIN;
static const char    marked_text[] = "\001";

static void *field_of(const bb_option_row *row, void *values) { return (char *)values + row->offset; }

static bool is_text(const bb_option_row *row) { return row->type == BB_OPT_TEXT || row->type == BB_OPT_LIST; }

void bb_effort_mark(const bb_option_row *rows, size_t n, void *values)
{
    for (size_t i = 0; i < N_TABLE; i++) {
        const bb_option_row *row = row_of(rows, n, table[i].option);
        if (!row) continue;
        void *field = field_of(row, values);
        if (row->type == BB_OPT_INT) *(int64_t *)field = marked_int;
        else if (row->type == BB_OPT_DOUBLE) *(double *)field = (double)NAN;
        else if (is_text(row)) {
            bb_free(*(char **)field);
            *(char **)field = bb_strdup(marked_text, NULL); /* NULL: counts as given */
        }
    }
}

bb_status bb_effort_unmark(const bb_option_row *rows, size_t n, void *values, bb_effort_mask *free, bb_err *err)
{
    bb_status status = BB_OK;
    *free = 0;
    for (size_t i = 0; i < N_TABLE; i++) {
        const bb_option_row *row = row_of(rows, n, table[i].option);
        if (!row) continue;
        const void *field = field_of(row, values);
        const char *text = is_text(row) ? *(char *const *)field : NULL;
        const bool  marked = row->type == BB_OPT_INT      ? *(const int64_t *)field == marked_int
                             : row->type == BB_OPT_DOUBLE ? isnan(*(const double *)field)
                                                          : !text || strcmp(text, marked_text) == 0;
        if (!marked) continue;
        *free |= (bb_effort_mask)1 << i;
        BB_TRY(bb_options_set(rows, n, values, row->name, row->default_text, err));
    }
done:
    return status;
}

bb_effort_mask bb_effort_late(const char *const *names, size_t n)
{
    bb_effort_mask mask = 0;
    for (size_t i = 0; i < N_TABLE; i++)
        for (size_t k = 0; k < n; k++)
            if (strcmp(table[i].option, names[k]) == 0) mask |= (bb_effort_mask)1 << i;
    return mask;
}

/* The option's value at level -1 .. 3. */
static const char *at_level(const bb_option_row *row, size_t i, int level)
{
    const char *const values[] = { table[i].least, table[i].quick, row->default_text, table[i].thorough, table[i].most };
    return values[level + 1];
}

/* 0 means all: what stands before it grows towards it, and is all at the level alone. */
static double between(double a, double b, double part)
{
    if (part <= 0) return a;
    if (!(a > 0)) return a;
    if (!(b > 0)) return a * pow(4, part);
    return a * pow(b / a, part);
}

bb_status bb_effort_set(const bb_option_row *rows, size_t n, void *values, double effort, bb_effort_mask free, bb_err *err)
{
    const double e = fmin(fmax(effort, BB_EFFORT_LEAST), BB_EFFORT_MOST);
    const int    below = e >= BB_EFFORT_MOST ? (int)BB_EFFORT_MOST - 1 : (int)floor(e);
    const double part = e - below;
    bb_status    status = BB_OK;
    for (size_t i = 0; i < N_TABLE; i++) {
        const bb_option_row *row = row_of(rows, n, table[i].option);
        double               a, b;
        char                 text[40];
        if (!row || !(free >> i & 1)) continue;
        const char *lower = at_level(row, i, below), *upper = at_level(row, i, below + 1);
        if (is_text(row)) {
            const char *word = part < 0.5 ? lower : upper;
            if (*word) BB_TRY(bb_options_set(rows, n, values, row->name, word, err));
            if (strcmp(row->name, "finalise-steps") == 0) BB_TRY(bb_options_set(rows, n, values, "no-finalise", *word ? "false" : "true", err)); /* no step */
            continue;
        }
        BB_TRY(bb_parse_double(lower, &a, err));
        BB_TRY(bb_parse_double(upper, &b, err));
        const double v = part >= 1 ? b : between(a, b, part);
        if (row->type == BB_OPT_INT) snprintf(text, sizeof text, "%.0f", v > 0 && v < row->min ? row->min : v);
        else snprintf(text, sizeof text, "%.3g", v);
        BB_TRY(bb_options_set(rows, n, values, row->name, text, err));
    }
done:
    return status;
}

void bb_effort_print(const bb_option_row *rows, size_t n, const void *values, bb_effort_mask free, bb_text *out)
{
    for (size_t i = 0; i < N_TABLE; i++) {
        const bb_option_row *row = row_of(rows, n, table[i].option);
        if (!row || !(free >> i & 1)) continue;
        const void          *field = (const char *)values + row->offset;
        const bb_option_row *none = strcmp(row->name, "finalise-steps") == 0 ? row_of(rows, n, "no-finalise") : NULL;
        const bool           no_step = none && *(const bool *)((const char *)values + none->offset);
        if (none) bb_text_addf(out, "%s=%s\n", none->name, no_step ? "true" : "false");
        if (no_step) continue;
        bb_text_addf(out, "%s=", row->name);
        if (row->type == BB_OPT_INT) bb_text_addf(out, "%lld\n", (long long)*(const int64_t *)field);
        else if (row->type == BB_OPT_DOUBLE) bb_text_addf(out, "%.9g\n", *(const double *)field);
        else bb_text_addf(out, "%s\n", *(char *const *)field);
    }
}

bb_status bb_effort_read(const bb_option_row *rows, size_t n, void *values, const char *text, bb_err *err)
{
    bb_status status = BB_OK;
    char     *value = NULL; /* of any length: the plans that are left out are listed */
    for (const char *at = text; *at;) {
        char         name[64];
        const size_t line = strcspn(at, "\n"), equals = strcspn(at, "=");
        if (equals >= line || equals >= sizeof name) {
            status = BB_FAIL(err, BB_BAD_FILE, "run.db: what --time chose is not readable");
            goto done;
        }
        snprintf(name, sizeof name, "%.*s", (int)equals, at);
        bb_free(value);
        if (!(value = bb_asprintf(err, "%.*s", (int)(line - equals - 1), at + equals + 1))) {
            status = BB_NOMEM;
            goto done;
        }
        BB_TRY(bb_options_set(rows, n, values, name, value, err));
        at += line + (at[line] == '\n');
    }
done:
    bb_free(value);
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
