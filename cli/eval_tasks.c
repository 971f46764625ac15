/* SPDX-License-Identifier: GPL-3.0-or-later
 * eval_tasks.c: see eval_tasks.h. */
#include "cli/eval_tasks.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/json.h"
#include "engine/environment.h"

/* ---- files ---- */

void bb_task_files_done(bb_task_files *p)
{
    for (size_t i = 0; i < p->n; i++) bb_free(p->at[i]);
    bb_free(p->at);
    *p = (bb_task_files) { NULL, 0, 0 };
}

/* Takes path, which may be NULL: out of memory. */
static bb_status paths_add(bb_task_files *p, char *path, bb_err *err)
{
    if (path && p->n == p->room) {
        size_t room = p->room ? p->room * 2 : 16;
        char **more = bb_realloc(p->at, room, sizeof *more, err);
        if (more) p->at = more, p->room = room;
    }
    if (!path || p->n == p->room) {
        bb_free(path);
        return BB_NOMEM;
    }
    p->at[p->n++] = path;
    return BB_OK;
}

static bool is_task_name(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && dot > name && (strcmp(dot, ".jsonl") == 0 || strcmp(dot, ".txt") == 0);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static bb_status add_folder(bb_task_files *p, const char *folder, bb_err *err)
{
    DIR      *d = opendir(folder);
    size_t    from = p->n;
    bb_status status = BB_OK;
    if (!d) return BB_FAIL(err, BB_BAD_FILE, "--tasks: the folder %s cannot be read", folder);
    for (const struct dirent *e; status == BB_OK && (e = readdir(d));)
        if (is_task_name(e->d_name)) status = paths_add(p, bb_asprintf(err, "%s/%s", folder, e->d_name), err);
    closedir(d);
    if (status == BB_OK && p->n == from) status = BB_FAIL(err, BB_BAD_FILE, "--tasks: no .jsonl or .txt file in %s", folder);
    if (status == BB_OK) qsort(p->at + from, p->n - from, sizeof *p->at, by_name);
    return status;
}

static bb_status find_files(const char *list, bb_task_files *p, bb_err *err)
{
    bb_status status = BB_OK;
    for (bb_item item; status == BB_OK && bb_list_next(&list, &item);) {
        struct stat s;
        char       *path = item.n ? bb_item_text(item, err) : NULL;
        if (item.n == 0) continue;
        if (path && stat(path, &s) == 0 && S_ISDIR(s.st_mode)) {
            status = add_folder(p, path, err);
            bb_free(path);
        } else status = paths_add(p, path, err);
    }
    return status == BB_OK && p->n == 0 ? BB_FAIL(err, BB_USAGE, "--tasks names no file") : status;
}

/* ---- running ---- */

uint32_t bb_task_window(const bb_model *m, int64_t ctx)
{
    const uint32_t most = 4096, unknown = 2048, trained = m->net.n_ctx_train ? m->net.n_ctx_train : unknown;
    return ctx ? (uint32_t)ctx : trained < most ? trained : most;
}

void bb_task_warn_left_out(const bb_task *t, const bb_task_result *r, uint32_t max_tokens)
{
    if (r->n_skipped + r->n_cut)
        bb_warn("%s: of %zu items %zu were left out (answers longer than the window of %u tokens) and the contexts of %zu cut to it", t->name, t->n_items,
                r->n_skipped, max_tokens, r->n_cut);
}

/* ref: NULL without a reference. */
static void put_options(bb_csv_writer *w, const bb_task *t, const bb_task_score *scores, const bb_task_score *ref)
{
    for (size_t i = 0; i < t->n_items; i++)
        for (uint32_t k = 0; k < t->items[i].n; k++) {
            const bb_task_score *s = &scores[t->items[i].first + k];
            BB_PUT(w, t->name, (int64_t)i, (int64_t)k, (int64_t)t->items[i].gold, (int64_t)s->n_tokens, (int64_t)s->n_characters, s->log_p, (int64_t)s->greedy);
            if (ref) bb_csv_put_double(w, ref[t->items[i].first + k].log_p);
            bb_csv_end_row(w);
        }
}

static bb_status run_task(const char *path, size_t limit, uint32_t max_tokens, const bb_model *m, const bb_model *ref, bb_csv_writer *options, bb_task_row *row,
                          bb_err *err)
{
    bb_task         t;
    bb_task_answer *answers = NULL, *answers_ref = NULL;
    bb_task_score  *scores = NULL, *scores_ref = NULL;
    bb_status       status = bb_task_load(path, limit, &t, err);
    if (status != BB_OK) return status;
    *row = (bb_task_row) { .kind = t.kind };
    memcpy(row->name, t.name, sizeof row->name);
    memcpy(row->sha256, t.sha256, sizeof row->sha256);
    answers = bb_alloc(t.n_items, sizeof *answers, err);
    answers_ref = bb_alloc(t.n_items, sizeof *answers_ref, err);
    scores = bb_alloc(t.n_options, sizeof *scores, err);
    scores_ref = bb_alloc(t.n_options, sizeof *scores_ref, err);
    if (!answers || !answers_ref || !scores || !scores_ref) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_task_run(bb_engine_backend(), m, &m->net, &t, max_tokens, t.name, &row->net, answers, scores, err));
    bb_task_warn_left_out(&t, &row->net, max_tokens);
    if (ref) {
        BB_TRY(bb_task_run(bb_engine_backend(), ref, &ref->net, &t, max_tokens, t.name, &row->reference, answers_ref, scores_ref, err));
        row->difference = bb_task_compare(t.kind, answers, answers_ref, t.n_items);
    }
    if (options) put_options(options, &t, scores, ref ? scores_ref : NULL);
done:
    bb_free(answers);
    bb_free(answers_ref);
    bb_free(scores);
    bb_free(scores_ref);
    bb_task_done(&t);
    return status;
}

bb_status bb_task_files_find(const char *list, bb_task_files *p, bb_err *err)
{
    uint64_t  bytes;
    bb_status status;
    *p = (bb_task_files) { NULL, 0, 0 };
    BB_TRY(find_files(list, p, err));
    for (size_t i = 0; i < p->n; i++) BB_TRY(bb_file_size(p->at[i], &bytes, err));
done:
    return status;
}

bb_status bb_task_files_check(const bb_task_files *p, size_t limit, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t i = 0; i < p->n && status == BB_OK; i++) {
        bb_task t;
        status = bb_task_load(p->at[i], limit, &t, err);
        bb_task_done(&t);
    }
    return status;
}

bb_status bb_eval_tasks(const bb_task_files *p, size_t limit, uint32_t max_tokens, const bb_model *m, const bb_model *ref, bb_csv_writer *options,
                        bb_task_table *out, bb_err *err)
{
    bb_status status = BB_OK;
    if (!(out->rows = bb_calloc(p->n, sizeof *out->rows, err))) return BB_NOMEM;
    for (size_t i = 0; i < p->n; i++) {
        BB_TRY(run_task(p->at[i], limit, max_tokens, m, ref, options, &out->rows[i], err));
        out->n++;
    }
done:
    return status;
}

void bb_task_table_done(bb_task_table *t)
{
    bb_free(t->rows);
    *t = (bb_task_table) { NULL, 0 };
}

/* ---- text ---- */

static void put_share(bb_text *out, double x, double se)
{
    if (isnan(x)) bb_text_addf(out, " %17s", "");
    else bb_text_addf(out, " %6.2f +- %5.2f %%", 100 * x, 100 * se);
}

static void put_line(bb_text *out, const char *name, bb_task_kind kind, const bb_task_result *r)
{
    bb_text_addf(out, "%-24s %-7s %6zu", name, bb_task_kind_names[kind], r->n);
    put_share(out, r->acc, r->acc_se);
    put_share(out, r->acc_norm, r->acc_norm_se);
    bb_text_addf(out, " %9.4f +- %.4f", r->gold_nll, r->gold_nll_se);
}

void bb_task_table_text(const bb_task_table *t, bb_text *out)
{
    bb_text_addf(out, "%-24s %-7s %6s  %-16s  %-16s  %s\n", "task", "kind", "items", "acc", "acc_norm", "nll of the answer");
    for (size_t i = 0; i < t->n; i++) {
        const bb_task_row *r = &t->rows[i];
        put_line(out, r->name, r->kind, &r->net);
        if (r->net.n_skipped) bb_text_addf(out, "  (%zu items left out: their answers are longer than the window)", r->net.n_skipped);
        if (r->net.n_cut) bb_text_addf(out, "  (%zu contexts cut to the window)", r->net.n_cut);
        bb_text_add(out, "\n");
        if (!r->reference.n) continue;
        put_line(out, "  reference", r->kind, &r->reference);
        bb_text_addf(out, "  %.2f %% answered differently\n%-39s", 100 * r->difference.changed, "  difference, paired");
        put_share(out, r->difference.acc, r->difference.acc_se);
        put_share(out, r->difference.acc_norm, r->difference.acc_norm_se);
        bb_text_addf(out, " %9.4f +- %.4f\n", r->difference.gold_nll, r->difference.gold_nll_se);
    }
}

/* ---- JSON ---- */

static json_t *result_json(const bb_task_result *r)
{
    return json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "items", (json_int_t)r->n, "skipped", (json_int_t)r->n_skipped, "cut",
                     (json_int_t)r->n_cut, "acc", bb_json_number(r->acc), "acc_se", bb_json_number(r->acc_se), "acc_norm", bb_json_number(r->acc_norm),
                     "acc_norm_se", bb_json_number(r->acc_norm_se), "gold_nll", bb_json_number(r->gold_nll), "gold_nll_se", bb_json_number(r->gold_nll_se));
}

static json_t *difference_json(const bb_task_difference *d)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "acc", bb_json_number(d->acc), "acc_se", bb_json_number(d->acc_se), "acc_norm",
                     bb_json_number(d->acc_norm), "acc_norm_se", bb_json_number(d->acc_norm_se), "gold_nll", bb_json_number(d->gold_nll), "gold_nll_se",
                     bb_json_number(d->gold_nll_se));
}

json_t *bb_task_table_json(const bb_task_table *t)
{
    json_t *list = json_array();
    for (size_t i = 0; i < t->n; i++) {
        const bb_task_row *r = &t->rows[i];
        json_t            *row = result_json(&r->net), *name = json_string(r->name);
        json_object_set_new(row, "task", name ? name : json_null());
        json_object_set_new(row, "kind", json_string(bb_task_kind_names[r->kind]));
        json_object_set_new(row, "sha256", json_string(r->sha256));
        if (r->reference.n) {
            json_object_set_new(row, "reference", result_json(&r->reference));
            json_object_set_new(row, "changed", bb_json_number(r->difference.changed));
            json_object_set_new(row, "difference", difference_json(&r->difference));
        }
        json_array_append_new(list, row);
    }
    return list;
}
