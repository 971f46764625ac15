/* SPDX-License-Identifier: GPL-3.0-or-later
 * report_about.c: the report's first section: the original beside the result, the texts that were used, the date, the files of the run, and
 * how to run the model. Each fact is shown where its file has it. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/report/report_internal.h"
#include "engine/run.h"

static void begin_row(bb_text *out, const char *head) { bb_text_addf(out, "<tr><th>%s</th><td class=\"t\">", head); }
static void end_row(bb_text *out) { bb_text_add(out, "</td></tr>\n"); }

static void text_row(bb_text *out, const char *head, const char *text)
{
    if (!text || !*text) return;
    begin_row(out, head);
    bb_html_text(out, text);
    end_row(out);
}

/* The settings of the run; false when its file is missing or not readable by this version (the page is then made without them). */
static bool read_settings(const bb_artefacts *a, bb_run_config *c)
{
    char *path = bb_asprintf(NULL, "%s/config.resolved.yaml", a->dir);
    bool  good = path && bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, c, NULL) == BB_OK &&
                bb_options_yaml(bb_run_options, BB_RUN_N_OPTIONS, c, path, NULL) == BB_OK;
    bb_free(path);
    return good;
}

/* Bytes of the original: the file itself, where it still lies there. */
static void original_row(bb_text *out, const bb_artefacts *a)
{
    const char *path = json_string_value(json_object_get(a->env, "model"));
    uint64_t    bytes;
    char        size[32];
    if (!path) return;
    begin_row(out, "original");
    bb_text_add(out, "<code>");
    bb_html_text(out, path);
    bb_text_add(out, "</code>");
    if (bb_file_size(path, &bytes, NULL) == BB_OK) {
        bb_format_size(bytes, size);
        bb_text_addf(out, ", %s (%llu bytes)", size, (unsigned long long)bytes);
    }
    if (json_string_value(json_object_get(a->env, "model_label"))) {
        bb_text_add(out, "; the reference of every KL: ");
        bb_html_text(out, json_string_value(json_object_get(a->env, "model_label")));
    }
    if (a->original.name && isfinite(a->original.ppl)) {
        bb_text_addf(out, ", perplexity %.3f", a->original.ppl);
        if (isfinite(a->original.ppl_se)) bb_text_addf(out, " &#177; %.3f", a->original.ppl_se);
        bb_text_add(out, " on the same windows as the plans");
    }
    end_row(out);
}

/* What the numbers were measured on. */
static void evaluation_row(bb_text *out, const bb_artefacts *a, const bb_run_config *c)
{
    const bb_csv *t = &a->tables[0];
    const long    tokens = bb_csv_column(t, "n_tokens"), ctx = bb_csv_column(t, "ctx"), protocol = bb_csv_column(t, "protocol"), row = (long)t->n_rows - 1;
    if (row < 0) return;
    begin_row(out, "measured on");
    if (c && *c->eval) bb_html_text(out, c->eval);
    else if (c) bb_text_add(out, "held-out windows of the calibration text, which the search selected on: give --eval for a number that is not flattered");
    if (tokens >= 0) {
        bb_text_add(out, c ? ", " : "");
        bb_html_text(out, bb_csv_text(t, (size_t)row, (size_t)tokens));
        bb_text_add(out, " scored tokens");
    }
    if (ctx >= 0) {
        bb_text_add(out, ", context ");
        bb_html_text(out, bb_csv_text(t, (size_t)row, (size_t)ctx));
    }
    if (protocol >= 0) {
        bb_text_add(out, ", protocol ");
        bb_html_text(out, bb_csv_text(t, (size_t)row, (size_t)protocol));
    }
    end_row(out);
}

/* What is to be known about the result, from plan.json. */
static void note_row(bb_text *out, const bb_artefacts *a)
{
    char   *path = bb_asprintf(NULL, "%s/plan.json", a->dir);
    json_t *plan = path ? json_load_file(path, 0, NULL) : NULL;
    text_row(out, "note", json_string_value(json_object_get(plan, "note")));
    json_decref(plan);
    bb_free(path);
}

/* --calib in words, where it names no file. */
static const char *words_for(const char *calib)
{
    static const char *const words[][2] = { { "self", "text that the model wrote itself" },
                                            { "mixture", "the texts that ship with bitbudget" },
                                            { "mixture,self", "the texts that ship with bitbudget, and text that the model wrote itself" } };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(calib, words[i][0]) == 0) return words[i][1];
    return calib;
}

static void add_facts(bb_text *out, const bb_artefacts *a, const bb_run_config *c)
{
    bb_text_add(out, "<div class=\"wide\"><table class=\"data\"><tbody>\n");
    original_row(out, a);
    if (c) text_row(out, "calibrated on", words_for(c->calib));
    evaluation_row(out, a, c);
    note_row(out, a);
    text_row(out, "made", json_string_value(json_object_get(a->env, "date")));
    bb_text_add(out, "</tbody></table></div>\n");
}

/* ---- files ---- */

static const struct {
    const char *name, *what;
} files[] = {
    { "model.gguf", "the model" },
    { "plan.json", "its plan" },
    { "guard.json", "the decision" },
    { "front.csv", "the front" },
    { "baselines.csv", "simpler plans" },
    { "plans.csv", "every plan that was scored" },
    { "layers.csv", "each unit of each plan" },
    { "sensitivity.csv", "each option alone" },
    { "options.csv", "each option's error and bytes" },
    { "finalise.csv", "the steps of finalise" },
    { "convergence.csv", "the search by step" },
    { "settle.csv", "plans rebuilt at its end" },
    { "config.resolved.yaml", "all settings" },
    { "env.json", "the environment" },
    { "log.txt", "the log" },
};
enum { N_FILES = sizeof files / sizeof *files };

static bb_status add_links(bb_text *out, const bb_artefacts *a, bb_err *err)
{
    bool any = false;
    for (size_t i = 0; i < N_FILES; i++) {
        char *path = bb_asprintf(err, "%s/%s", a->dir, files[i].name);
        if (!path) return BB_NOMEM;
        if (bb_file_exists(path)) {
            bb_text_addf(out, "%s<a href=\"%s\"><code>%s</code></a> (%s)", any ? ", " : "<p class=\"note\">Files beside this page: ", files[i].name,
                         files[i].name, files[i].what);
            any = true;
        }
        bb_free(path);
    }
    if (any) bb_text_add(out, ". The columns are explained in docs/tables.md.</p>\n");
    return BB_OK;
}

static void add_how_to_run(bb_text *out, const bb_artefacts *a)
{
    char *path = bb_asprintf(NULL, "%s/model.gguf", a->dir);
    if (path && bb_file_exists(path))
        bb_text_add(out, "<details><summary>How to run the model</summary><pre># llama.cpp\n"
                         "llama-cli -m model.gguf -p \"Once upon a time\"\n"
                         "llama-server -m model.gguf --port 8080\n\n"
                         "# Ollama: a file named Modelfile beside it with the one line\n"
                         "FROM ./model.gguf\n"
                         "# and then\n"
                         "ollama create my-model -f Modelfile\n"
                         "ollama run my-model\n\n"
                         "# its perplexity, here\n"
                         "bitbudget eval model.gguf --text eval.txt</pre></details>\n");
    bb_free(path);
}

bb_status bb_about_html(bb_text *out, const bb_artefacts *a, bb_err *err)
{
    bb_run_config settings = { 0 };
    const bool    known = read_settings(a, &settings);
    bb_status     status;
    bb_section_begin(out, "about", "About", "What this is");
    add_facts(out, a, known ? &settings : NULL);
    add_how_to_run(out, a);
    BB_TRY(add_links(out, a, err));
    bb_text_add(out, "</section>\n");
done:
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &settings);
    return status;
}
