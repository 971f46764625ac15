/* SPDX-License-Identifier: GPL-3.0-or-later
 * report_search.c: the tables that the search leaves beside its plans, as sections of the report: certificate, crossover, predicted speed, rivals.
 * Each is shown where its file is there. */
#include <math.h>
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/report/report_internal.h"

typedef struct column {
    const char *name, *head;
    double      scale;
    int         decimals;
    const char *unit;
} column; /* decimals < 0: text */

enum { MAX_COLUMNS = 10 };

typedef struct table {
    const char *file, *id, *nav, *title, *note;
    column      columns[MAX_COLUMNS];
} table;

static const table tables[] = {
    { "certificate.csv",
      "certificate",
      "Certificate",
      "Certificate: how near the search is to the optimum of its scores",
      "The separable score is the sum of what each option does alone, the quadratic score adds what options do to each other. No plan of the same bytes "
      "has less than the bound. The best is the optimum that the solver found; plans are chosen by true KL and so lie above it.",
      { { "budget_bytes", "size", 1, 0, "" },
        { "plan_hash", "plan", 1, -1, "" },
        { "kl_nats", "KL", 1, 5, "" },
        { "separable_nats", "separable", 1, 5, "" },
        { "separable_best", "best", 1, 5, "" },
        { "separable_gap", "gap to bound", 100, 4, " %" },
        { "quadratic_nats", "quadratic", 1, 5, "" },
        { "quadratic_best", "best", 1, 5, "" },
        { "quadratic_gap", "gap to bound", 100, 2, " %" } } },
    { "crossover.csv",
      "crossover",
      "Crossover",
      "Crossover: up to which size pruning pays",
      "The best plan with pruning and the best without, at each size; the difference is paired over the windows. Negative: pruning is better.",
      { { "budget_bytes", "size", 1, 0, "" },
        { "kl_pruned", "KL, pruned", 1, 5, "" },
        { "kl_plain", "KL, quantization alone", 1, 5, "" },
        { "difference", "difference", 1, 5, "" },
        { "se", "standard error", 1, 5, "" } } },
    { "speed.csv",
      "speed",
      "Speed",
      "Predicted speed",
      "Tokens a second by the runtime profile: the matrices alone, at the speed of their formats. It ranks plans; it promises no number.",
      { { "plan_hash", "plan", 1, -1, "" },
        { "size_bytes", "bytes", 1, 0, "" },
        { "decode_tps", "decoding, tokens/s", 1, 1, "" },
        { "prefill_tps", "prompt, tokens/s", 1, 1, "" } } },
    { "search.csv",
      "rivals",
      "Rivals",
      "Other search methods at the same bytes",
      "The same option database, the same evaluation windows; no plan is rebuilt. Tokens are those that each method asked for.",
      { { "budget_bytes", "size", 1, 0, "" },
        { "method", "method", 1, -1, "" },
        { "kl_nats", "KL", 1, 5, "" },
        { "kl_se", "standard error", 1, 5, "" },
        { "ppl", "perplexity", 1, 3, "" },
        { "tokens", "million tokens", 1e-6, 2, "" },
        { "seconds", "seconds", 1, 0, "" } } },
};

static bb_status add_row(bb_text *out, const bb_csv *t, const table *spec, const long *at, size_t row, bb_err *err)
{
    bb_status status = BB_OK;
    bb_text_add(out, "<tr>");
    for (size_t c = 0; c < MAX_COLUMNS && spec->columns[c].name; c++) {
        const column *k = &spec->columns[c];
        double        v = (double)NAN;
        if (at[c] < 0) continue;
        if (k->decimals < 0) {
            bb_text_add(out, "<td class=\"t\"><code>");
            bb_html_text(out, bb_csv_text(t, row, (size_t)at[c]));
            bb_text_add(out, "</code></td>");
            continue;
        }
        BB_TRY(bb_csv_double(t, row, (size_t)at[c], &v, err));
        if (isnan(v)) bb_text_add(out, "<td class=\"n\"></td>");
        else bb_text_addf(out, "<td class=\"n\" data-value=\"%.9g\">%.*f%s</td>", v, k->decimals, k->scale * v, k->unit);
    }
    bb_text_add(out, "</tr>\n");
done:
    return status;
}

static bb_status add_table(bb_text *out, const bb_artefacts *a, const table *spec, const char *svg, bb_err *err)
{
    char     *path = bb_asprintf(err, "%s/%s", a->dir, spec->file);
    bb_csv    t = { 0 };
    long      at[MAX_COLUMNS];
    bb_status status = BB_OK;
    if (!path) return BB_NOMEM;
    if (!bb_file_exists(path)) goto done;
    BB_TRY(bb_csv_read(path, &t, err));
    bb_section_begin(out, spec->id, spec->nav, spec->title);
    if (svg) {
        bb_text_add(out, "<figure>");
        bb_text_add(out, svg);
        bb_text_add(out, "<figcaption>KL of each method as a multiple of ours, at the same bytes.</figcaption></figure>\n");
    }
    bb_text_add(out, "<details><summary>Table</summary><div class=\"wide\"><table class=\"data\"><thead><tr>");
    for (size_t c = 0; c < MAX_COLUMNS && spec->columns[c].name; c++) {
        at[c] = bb_csv_column(&t, spec->columns[c].name);
        if (at[c] >= 0) bb_text_addf(out, "<th%s>%s</th>", spec->columns[c].decimals < 0 ? "" : " class=\"n\"", spec->columns[c].head);
    }
    bb_text_add(out, "</tr></thead><tbody>\n");
    for (size_t row = 0; row < t.n_rows; row++) BB_TRY(add_row(out, &t, spec, at, row, err));
    bb_text_addf(out, "</tbody></table></div></details>\n<p class=\"note\">%s</p></section>\n", spec->note);
done:
    bb_csv_done(&t);
    bb_free(path);
    return status;
}

bb_status bb_search_html(bb_text *out, const bb_artefacts *a, const bb_plots *p, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) BB_TRY(add_table(out, a, &tables[i], i == 3 ? p->svg[BB_PLOT_RIVALS] : NULL, err));
done:
    return status;
}
