/* SPDX-License-Identifier: GPL-3.0-or-later
 * front.c: see front.h. */
#include "cli/run/front.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"

static const char columns[] = "plan_hash,size_bytes,kl_nats,kl_se,pruned_fraction,baseline,source";

int64_t bb_front_target(const bb_run *r)
{
    return r->config.target_size ? (int64_t)r->config.target_size : (int64_t)(r->config.target_bpw * (double)r->n_weights / 8);
}

void bb_front_done(bb_front *f)
{
    for (size_t i = 0; i < f->n; i++) bb_plan_done(&f->plans[i].plan);
    bb_free(f->plans);
    memset(f, 0, sizeof *f);
}

static bb_status grow(bb_front *f, bb_err *err)
{
    bb_front_plan *plans = bb_realloc(f->plans, f->n + 1, sizeof *plans, err);
    if (!plans) return BB_NOMEM;
    f->plans = plans;
    memset(&plans[f->n], 0, sizeof *plans);
    return BB_OK;
}

bb_status bb_front_add(bb_run *r, bb_front *f, const uint16_t *x, const char *source, bool is_baseline, double kl, double kl_se, bb_err *err)
{
    const bb_problem *problem = bb_model_space_problem(r->space);
    bb_front_plan    *p;
    bb_status         status;
    BB_TRY(grow(f, err));
    p = &f->plans[f->n];
    BB_TRY(bb_problem_plan(problem, x, &p->plan, err));
    BB_TRY(bb_plan_hash(&p->plan, p->hash, err));
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->plans[i].hash, p->hash) == 0) {
            bb_plan_done(&p->plan);
            return BB_OK;
        }
    snprintf(p->source, sizeof p->source, "%s", source);
    p->is_baseline = is_baseline;
    p->size_bytes = bb_problem_size(problem, x);
    p->kl = kl;
    p->kl_se = kl_se;
    p->pruned_fraction = bb_model_space_pruned_fraction(r->space, x);
    f->n++;
done:
    return status;
}

static int by_size(const void *a, const void *b)
{
    const bb_front_plan *x = a, *y = b;
    if (x->size_bytes != y->size_bytes) return x->size_bytes < y->size_bytes ? -1 : 1;
    return strcmp(x->hash, y->hash);
}

bb_status bb_front_save(bb_run *r, bb_front *f, bb_err *err)
{
    char          *dir = bb_run_path(r, err, "plans"), *file = NULL, *text = NULL;
    bb_csv_writer *w = NULL;
    bb_status      status = BB_NOMEM;
    if (!dir) goto done;
    qsort(f->plans, f->n, sizeof *f->plans, by_size);
    BB_TRY(bb_make_dirs(dir, err));
    BB_TRY(bb_run_table(r, "plans.csv", columns, &w, err));
    for (size_t i = 0; i < f->n; i++) {
        const bb_front_plan *p = &f->plans[i];
        bb_free(file);
        bb_free(text);
        text = NULL;
        status = BB_NOMEM;
        if (!(file = bb_run_path(r, err, "plans/%s.plan", p->hash))) goto done;
        BB_TRY(bb_plan_print(&p->plan, &text, err));
        BB_TRY(bb_file_write(file, text, strlen(text), err));
        bb_csv_put_text(w, p->hash);
        bb_csv_put_int(w, p->size_bytes);
        bb_csv_put_double(w, p->kl);
        bb_csv_put_double(w, p->kl_se);
        bb_csv_put_double(w, p->pruned_fraction);
        bb_csv_put_int(w, p->is_baseline);
        bb_csv_put_text(w, p->source);
        bb_csv_end_row(w);
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    bb_free(file);
    bb_free(text);
    bb_free(dir);
    return status;
}

static bb_status load_row(bb_run *r, const bb_csv *t, size_t row, bb_front_plan *p, bb_err *err)
{
    const char *hash = bb_csv_text(t, row, 0);
    char       *path = NULL, *text = NULL, found[17];
    size_t      size;
    int64_t     baseline;
    bb_status   status;
    if (strlen(hash) != 16 || strspn(hash, "0123456789abcdef") != 16)
        return BB_FAIL(err, BB_BAD_FILE, "%s row %zu: \"%s\" is no plan hash (16 hex digits)", t->path, row + 1, hash);
    memcpy(p->hash, hash, 17);
    BB_TRY(bb_csv_int(t, row, 1, &p->size_bytes, err));
    p->kl = p->kl_se = (double)NAN;
    if (*bb_csv_text(t, row, 2)) BB_TRY(bb_csv_double(t, row, 2, &p->kl, err));
    if (*bb_csv_text(t, row, 3)) BB_TRY(bb_csv_double(t, row, 3, &p->kl_se, err));
    BB_TRY(bb_csv_double(t, row, 4, &p->pruned_fraction, err));
    BB_TRY(bb_csv_int(t, row, 5, &baseline, err));
    p->is_baseline = baseline != 0;
    snprintf(p->source, sizeof p->source, "%s", bb_csv_text(t, row, 6));
    status = BB_NOMEM;
    if (!(path = bb_run_path(r, err, "plans/%s.plan", hash))) goto done;
    BB_TRY(bb_file_read(path, &text, &size, err));
    BB_TRY(bb_plan_parse(text, size, &p->plan, err));
    BB_TRY(bb_plan_hash(&p->plan, found, err));
    if (strcmp(found, p->hash) != 0) status = BB_FAIL(err, BB_BAD_FILE, "%s: its plan hashes to %s: the file was changed", path, found);
done:
    bb_free(path);
    bb_free(text);
    return status;
}

bb_status bb_front_load(bb_run *r, bb_front *f, bb_err *err)
{
    char     *path = bb_run_path(r, err, "plans.csv");
    bb_csv    t = { 0 };
    bb_status status = BB_NOMEM;
    memset(f, 0, sizeof *f);
    if (!path) return BB_NOMEM;
    if (!bb_file_exists(path)) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s does not exist: run `bitbudget search %s` first", path, r->config.out);
        goto done;
    }
    BB_TRY(bb_csv_read(path, &t, err));
    if (t.n_cols != 7 || bb_csv_column(&t, "source") != 6) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: the columns should be %s", path, columns);
        goto done;
    }
    for (size_t i = 0; i < t.n_rows; i++) {
        BB_TRY(grow(f, err));
        BB_TRY(load_row(r, &t, i, &f->plans[f->n++], err));
    }
    if (f->n == 0) status = BB_FAIL(err, BB_BAD_FILE, "%s holds no plan", path);
done:
    bb_csv_done(&t);
    bb_free(path);
    if (status != BB_OK) bb_front_done(f);
    return status;
}
