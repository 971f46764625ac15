/* SPDX-License-Identifier: GPL-3.0-or-later
 * run_output.c: see run_output.h. */
#include "cli/run_output.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"

static bb_status read_table(const char *dir, const char *name, bb_csv *t, bb_err *err)
{
    char     *path = bb_asprintf(err, "%s/%s", dir, name);
    bb_status status = path ? bb_csv_read(path, t, err) : BB_NOMEM;
    bb_free(path);
    return status;
}

static bb_status read_object(const char *dir, const char *name, json_t **out, bb_err *err)
{
    char        *path = bb_asprintf(err, "%s/%s", dir, name), *text = NULL;
    size_t       size;
    json_error_t why;
    bb_status    status = path ? bb_file_read(path, &text, &size, err) : BB_NOMEM;
    if (status == BB_OK && !(*out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why)))
        status = BB_FAIL(err, BB_BAD_FILE, "%s line %d: %s", path, why.line, why.text);
    bb_free(text);
    bb_free(path);
    return status;
}

/* ---- table ---- */

bb_status bb_run_print_table(const char *run_dir, bb_err *err)
{
    static const char *const names[] = { "plan_hash", "size_bytes", "bpw", "kl_nats", "kl_se", "ppl", "top1", "pruned_fraction", "source" };
    enum { HASH, SIZE, BPW, KL, KL_SE, PPL, TOP1, PRUNED, SOURCE, N };
    bb_csv    t = { 0 };
    json_t   *plan = NULL;
    long      at[N];
    bb_status status;
    BB_TRY(read_table(run_dir, "front.csv", &t, err));
    BB_TRY(read_object(run_dir, "plan.json", &plan, err));
    const char *winner = json_string_value(json_object_get(plan, "plan_hash"));
    for (int i = 0; i < N; i++)
        if ((at[i] = bb_csv_column(&t, names[i])) < 0) {
            status = BB_FAIL(err, BB_BAD_FILE, "%s: the column '%s' is missing from the header", t.path, names[i]);
            goto done;
        }
    printf("  %-16s %12s %6s %10s %9s %9s %6s %6s  %s\n", "plan", "bytes", "bpw", "KL nats", "+-", "ppl", "top1", "pruned", "source");
    for (size_t row = 0; row < t.n_rows; row++) {
        const char *hash = bb_csv_text(&t, row, (size_t)at[HASH]);
        double      v[N] = { 0 };
        for (int i = SIZE; i < SOURCE; i++) BB_TRY(bb_csv_double(&t, row, (size_t)at[i], &v[i], err));
        printf("%c %-16s %12.0f %6.3f %10.5f %9.5f %9.3f %5.1f%% %5.1f%%  %s\n", winner && *hash && strcmp(hash, winner) == 0 ? '*' : ' ', hash, v[SIZE],
               v[BPW], v[KL], v[KL_SE], v[PPL], 100 * v[TOP1], 100 * v[PRUNED], bb_csv_text(&t, row, (size_t)at[SOURCE]));
    }
    printf("* is model.gguf\n");
done:
    json_decref(plan);
    bb_csv_done(&t);
    return status;
}

/* ---- JSON ---- */

/* Columns whose cells are text whatever they look like (a hash may have digits alone). */
static bool is_text(const char *column)
{
    static const char *const names[] = { "plan_hash", "source", "protocol", "data_sha256" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(column, names[i]) == 0) return true;
    return false;
}

static json_t *cell(const bb_csv *t, size_t row, size_t col)
{
    const char *text = bb_csv_text(t, row, col);
    double      v;
    if (is_text(t->header[col])) return json_string(text);
    if (bb_csv_double(t, row, col, &v, NULL) != BB_OK) return json_string(text);
    if (!isfinite(v)) return json_null();
    return strspn(text, "-0123456789") == strlen(text) ? json_integer((json_int_t)v) : json_real(v);
}

static json_t *rows_of(const bb_csv *t)
{
    json_t *rows = json_array();
    for (size_t row = 0; rows && row < t->n_rows; row++) {
        json_t *object = json_object();
        for (size_t col = 0; object && col < t->n_cols; col++) json_object_set_new(object, t->header[col], cell(t, row, col));
        json_array_append_new(rows, object);
    }
    return rows;
}

bb_status bb_run_print_json(const char *run_dir, bb_err *err)
{
    bb_csv    t = { 0 };
    json_t   *plan = NULL, *guard = NULL, *root = NULL, *front = NULL;
    char     *text = NULL, *model = bb_asprintf(err, "%s/model.gguf", run_dir), *report = bb_asprintf(err, "%s/report.html", run_dir);
    bb_status status = BB_NOMEM;
    if (!model || !report) goto done;
    BB_TRY(read_table(run_dir, "front.csv", &t, err));
    BB_TRY(read_object(run_dir, "plan.json", &plan, err));
    BB_TRY(read_object(run_dir, "guard.json", &guard, err));
    json_object_del(plan, "plan");
    front = rows_of(&t);
    root = json_pack("{s:s, s:s, s:O, s:O, s:O}", "model", model, "report", report, "winner", plan, "guard", guard, "front", front);
    if (!root || !(text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9)))) {
        status = BB_FAIL(err, BB_FAILED, "%s cannot be told in JSON: its path is no UTF-8, or memory is short", run_dir);
        goto done;
    }
    printf("%s\n", text);
done:
    free(text);
    json_decref(root);
    json_decref(front);
    json_decref(plan);
    json_decref(guard);
    bb_csv_done(&t);
    bb_free(model);
    bb_free(report);
    return status;
}
