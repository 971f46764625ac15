/* SPDX-License-Identifier: GPL-3.0-or-later
 * front.c: see front.h. */
#include "engine/front.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"

/* First the chosen plans, ascending in bytes; then every other plan that the search scored, ascending in hash. */
static const char columns[] = "plan_hash,size_bytes,kl_nats,kl_se,pruned_fraction,baseline,source,chosen,windows,searched,asked,ruled_out,foreseen_nats";
enum {
    COL_HASH,
    COL_SIZE,
    COL_KL,
    COL_KL_SE,
    COL_PRUNED,
    COL_BASELINE,
    COL_SOURCE,
    COL_CHOSEN,
    COL_WINDOWS,
    COL_SEARCHED,
    COL_ASKED,
    COL_RULED_OUT,
    COL_FORESEEN,
    N_COLUMNS
};

int64_t bb_front_target(const bb_run *r)
{
    return r->config.target_size ? (int64_t)r->config.target_size : (int64_t)(r->config.target_bpw * (double)r->n_weights / 8);
}

bb_status bb_front_put_sizes(bb_run *r, bb_err *err)
{
    char key[80];
    snprintf(key, sizeof key, "sizes|%s", r->search_key);
    return bb_store_put(r->store, "search", key, r->budgets, r->n_budgets * sizeof *r->budgets, err);
}

bb_status bb_front_sizes(const bb_run *r, int64_t **out, size_t *n, bb_err *err)
{
    void     *value = NULL;
    size_t    size = 0;
    bool      found = false;
    char      key[80];
    bb_status status;
    *out = NULL;
    snprintf(key, sizeof key, "sizes|%s", r->search_key);
    if (r->is_sweep) BB_TRY(bb_store_get(r->store, "search", key, &value, &size, &found, err));
    found = found && size >= sizeof **out && size % sizeof **out == 0;
    *n = found ? size / sizeof **out : r->is_sweep ? r->n_budgets : 1;
    status = BB_NOMEM;
    if (!(*out = BB_NEW(*n, int64_t, err))) goto done;
    status = BB_OK;
    if (found) memcpy(*out, value, size);
    else if (r->is_sweep) memcpy(*out, r->budgets, *n * sizeof **out);
    else **out = bb_front_target(r);
done:
    bb_free(value);
    return status;
}

/* Of the plan's score at the confirm level, exactly as the search's ledger has it. */
static char *score_key(const bb_run *r, const char *hash, bb_err *err) { return bb_asprintf(err, "confirm|%s|%s", r->key, hash); }

static bb_status put_score(bb_run *r, const bb_front_plan *p, bb_err *err)
{
    char     *key = score_key(r, p->hash, err);
    bb_status status = key ? bb_store_put(r->store, "search", key, &p->kl, sizeof p->kl, err) : BB_NOMEM;
    bb_free(key);
    return status;
}

bb_status bb_front_score(const bb_run *r, const char *hash, double *kl, bb_err *err)
{
    char     *key = r->store ? score_key(r, hash, err) : NULL;
    void     *value = NULL;
    size_t    size;
    bool      found = false;
    bb_status status = key || !r->store ? BB_OK : BB_NOMEM;
    *kl = (double)NAN;
    if (!key) return status;
    BB_TRY(bb_store_get(r->store, "search", key, &value, &size, &found, err));
    if (found && size == sizeof *kl) memcpy(kl, value, sizeof *kl);
done:
    bb_free(value);
    bb_free(key);
    return status;
}

void bb_front_done(bb_front *f)
{
    for (size_t i = 0; i < f->n; i++) bb_plan_done(&f->plans[i].plan);
    bb_free(f->plans);
    memset(f, 0, sizeof *f);
}

const bb_front_plan *bb_front_best(const bb_front *f, int64_t bytes)
{
    const bb_front_plan *best = NULL;
    for (size_t i = 0; i < f->n; i++) {
        const bb_front_plan *p = &f->plans[i];
        if (p->is_searched && p->size_bytes <= bytes && (!best || p->foreseen < best->foreseen)) best = p;
    }
    return best;
}

static bb_status grow(bb_front *f, bb_err *err)
{
    bb_front_plan *plans = bb_realloc(f->plans, f->n + 1, sizeof *plans, err);
    if (!plans) return BB_NOMEM;
    f->plans = plans;
    memset(&plans[f->n], 0, sizeof *plans);
    return BB_OK;
}

bb_status bb_front_add(bb_run *r, bb_front *f, const uint16_t *x, const char *source, bool is_baseline, bool is_asked, const bb_score *score, bb_err *err)
{
    const bb_problem *problem = bb_model_space_problem(r->space);
    bb_front_plan    *p;
    bb_status         status;
    BB_TRY(grow(f, err));
    p = &f->plans[f->n];
    BB_TRY(bb_plan_space_plan(problem->plans, x, &p->plan, err));
    bb_plan_space_hash(problem->plans, x, p->hash);
    for (size_t i = 0; i < f->n; i++) {
        bb_front_plan *same = &f->plans[i];
        if (strcmp(same->hash, p->hash) != 0) continue;
        bb_plan_done(&p->plan);
        if (is_baseline && !same->is_baseline) snprintf(same->source, sizeof same->source, "%s", source);
        same->is_baseline |= is_baseline;
        same->is_searched |= !is_baseline;
        same->is_asked |= is_asked;
        return BB_OK;
    }
    snprintf(p->source, sizeof p->source, "%s", source);
    p->is_baseline = is_baseline;
    p->is_searched = !is_baseline;
    p->is_asked = is_asked;
    p->size_bytes = bb_problem_size(problem, x);
    p->kl = score ? score->plain : (double)NAN;
    p->kl_se = score ? score->plain_se : (double)NAN;
    p->foreseen = score ? score->kl : (double)NAN;
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

static void put_row(bb_csv_writer *w, const bb_front_plan *p, bool is_chosen, uint32_t n_windows)
{
    BB_PUT(w, p->hash, p->size_bytes, p->kl, p->kl_se, p->pruned_fraction, p->is_baseline, p->source);
    BB_ROW(w, is_chosen, n_windows, p->is_searched, p->is_asked, p->is_ruled_out, p->foreseen);
}

/* plans/HASH.plan. */
static bb_status save_plan(const bb_run *r, const bb_front_plan *p, bb_err *err)
{
    char     *file = bb_run_path(r, err, "plans/%s.plan", p->hash), *text = NULL;
    bb_status status = BB_NOMEM;
    if (!file) goto done;
    BB_TRY(bb_plan_print(&p->plan, &text, err));
    BB_TRY(bb_file_write(file, text, strlen(text), err));
done:
    bb_free(file);
    bb_free(text);
    return status;
}

/* The rest of the cloud: of each plan the score with the most windows. Ledger entries come ascending in (hash, level), so a plan's last one
 * is written when the next plan begins. What another session alone asked for is left out: the table must not depend on it. */
typedef struct cloud {
    const bb_run   *r;
    const bb_front *front;
    bb_csv_writer  *w;
    bb_front_plan   row;
    uint32_t        n_windows; /* 0: no row is waiting */
} cloud;

static void flush_row(cloud *c)
{
    if (c->n_windows) put_row(c->w, &c->row, false, c->n_windows);
    c->n_windows = 0;
}

static bb_status add_entry(void *self, const bb_ledger_entry *e, bb_err *err)
{
    cloud *c = self;
    (void)err;
    if (!e->asked) return BB_OK;
    for (size_t i = 0; i < c->front->n; i++)
        if (strcmp(c->front->plans[i].hash, e->hash) == 0) return BB_OK;
    if (strcmp(c->row.hash, e->hash) != 0) {
        flush_row(c);
        c->row = (bb_front_plan) { .size_bytes = bb_problem_size(bb_model_space_problem(c->r->space), e->x),
                                   .source = "search",
                                   .pruned_fraction = bb_model_space_pruned_fraction(c->r->space, e->x) };
        memcpy(c->row.hash, e->hash, sizeof c->row.hash);
    }
    c->row.kl = e->score.plain;
    c->row.kl_se = e->score.plain_se;
    c->row.foreseen = e->score.kl;
    c->n_windows = e->n_windows;
    return BB_OK;
}

/* Removes the files of plans/ that are of no plan of the front: an earlier search wrote them. */
static void remove_old_plans(const bb_front *f, const char *dir)
{
    DIR           *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        bool ours = strlen(e->d_name) == 21 && strspn(e->d_name, "0123456789abcdef") == 16 && strcmp(e->d_name + 16, ".plan") == 0;
        for (size_t i = 0; ours && i < f->n; i++) ours = strncmp(f->plans[i].hash, e->d_name, 16) != 0;
        if (ours) unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d) closedir(d);
}

bb_status bb_front_save(bb_run *r, bb_front *f, bb_ledger *ledger, bb_err *err)
{
    char     *dir = bb_run_path(r, err, "plans");
    cloud     c = { .r = r, .front = f };
    bb_status status = BB_NOMEM;
    if (!dir) goto done;
    qsort(f->plans, f->n, sizeof *f->plans, by_size);
    BB_TRY(bb_make_dirs(dir, err));
    BB_TRY(bb_store_put(r->store, "search", "plans", "", 0, err)); /* of no search, until it is written */
    BB_TRY(bb_run_table(r, "plans.csv", columns, &c.w, err));
    for (size_t i = 0; i < f->n; i++) {
        BB_TRY(save_plan(r, &f->plans[i], err));
        BB_TRY(put_score(r, &f->plans[i], err));
        put_row(c.w, &f->plans[i], true, r->levels[BB_LEVEL_CONFIRM].n);
    }
    BB_TRY(bb_ledger_each(ledger, add_entry, &c, err));
    flush_row(&c);
    BB_TRY(bb_csv_close(&c.w, err));
    BB_TRY(bb_store_put(r->store, "search", "plans", r->search_key, 64, err));
    remove_old_plans(f, dir);
done:
    bb_csv_discard(c.w);
    bb_free(dir);
    return status;
}

/* The plan's own text: of a chosen plan its file, of any other what the search's ledger holds. */
static bb_status load_plan(bb_run *r, const char *hash, bool is_chosen, bb_plan *plan, bb_err *err)
{
    char     *path = bb_run_path(r, err, "plans/%s.plan", hash), *text = NULL, found[17];
    void     *stored = NULL;
    size_t    size;
    bool      there = true;
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    if (is_chosen) BB_TRY(bb_file_read(path, &text, &size, err));
    else BB_TRY(bb_store_get(r->store, "plans", hash, &stored, &size, &there, err));
    if (!there) {
        status = BB_FAIL(err, BB_NOT_FOUND, "plan %s of %s/plans.csv is not in its run.db", hash, r->config.out);
        goto done;
    }
    BB_TRY(bb_plan_parse(is_chosen ? text : (const char *)stored, size, plan, err));
    bb_plan_hash(plan, found);
    if (strcmp(found, hash) != 0) status = BB_FAIL(err, BB_BAD_FILE, "%s: its plan hashes to %s: the file was changed", is_chosen ? path : "run.db", found);
done:
    bb_free(path);
    bb_free(text);
    bb_free(stored);
    return status;
}

static char *readmission(const bb_run *r, const bb_front_plan *p, bb_err *err) { return bb_asprintf(err, "readmitted|%s|%s", r->options_key, p->hash); }

static bb_status still_ruled_out(bb_run *r, bb_front_plan *p, bb_err *err)
{
    char     *key = readmission(r, p, err);
    void     *value = NULL;
    size_t    size;
    bool      found = false;
    bb_status status = key ? bb_store_get(r->store, "search", key, &value, &size, &found, err) : BB_NOMEM;
    p->is_ruled_out = !found;
    bb_free(value);
    bb_free(key);
    return status;
}

bb_status bb_front_readmit(bb_run *r, bb_front_plan *p, bb_err *err)
{
    char     *key = readmission(r, p, err);
    bb_status status = key ? bb_store_put(r->store, "search", key, "", 0, err) : BB_NOMEM;
    p->is_ruled_out = false;
    bb_free(key);
    return status;
}

bool bb_front_is_spared(const bb_run *r, const bb_front_plan *p)
{
    return p->is_ruled_out && !r->config.no_finalise && *r->config.finalise_steps && strcmp(r->config.finish, "contenders") == 0;
}

static bb_status load_row(bb_run *r, const bb_csv *t, size_t row, bb_front_plan *p, bb_err *err)
{
    const char *hash = bb_csv_text(t, row, COL_HASH);
    int64_t     baseline, chosen, searched, asked, ruled_out;
    bb_status   status;
    if (strlen(hash) != 16 || strspn(hash, "0123456789abcdef") != 16)
        return BB_FAIL(err, BB_BAD_FILE, "%s row %zu: \"%s\" is no plan hash (16 hex digits)", t->path, row + 1, hash);
    memcpy(p->hash, hash, 17);
    BB_TRY(bb_csv_int(t, row, COL_SIZE, &p->size_bytes, err));
    BB_TRY(bb_csv_double(t, row, COL_KL, &p->kl, err));
    BB_TRY(bb_csv_double(t, row, COL_KL_SE, &p->kl_se, err));
    BB_TRY(bb_csv_double(t, row, COL_FORESEEN, &p->foreseen, err));
    BB_TRY(bb_csv_double(t, row, COL_PRUNED, &p->pruned_fraction, err));
    BB_TRY(bb_csv_int(t, row, COL_BASELINE, &baseline, err));
    BB_TRY(bb_csv_int(t, row, COL_CHOSEN, &chosen, err));
    BB_TRY(bb_csv_int(t, row, COL_SEARCHED, &searched, err));
    BB_TRY(bb_csv_int(t, row, COL_ASKED, &asked, err));
    BB_TRY(bb_csv_int(t, row, COL_RULED_OUT, &ruled_out, err));
    p->is_baseline = baseline != 0;
    p->is_searched = searched != 0;
    p->is_asked = asked != 0;
    if (ruled_out) BB_TRY(still_ruled_out(r, p, err));
    snprintf(p->source, sizeof p->source, "%s", bb_csv_text(t, row, COL_SOURCE));
    BB_TRY(load_plan(r, hash, chosen != 0, &p->plan, err));
done:
    return status;
}

/* Reads plans.csv; its columns are checked. */
static bb_status read_table(bb_run *r, bb_csv *t, bb_err *err)
{
    char     *path = bb_run_path(r, err, "plans.csv");
    void     *of = NULL;
    size_t    size;
    bool      found;
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    if (!bb_file_exists(path)) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s does not exist: run `bitbudget search %s` first", path, r->config.out);
        goto done;
    }
    BB_TRY(bb_store_get(r->store, "search", "plans", &of, &size, &found, err));
    if (!found || size != 64 || memcmp(of, r->search_key, 64) != 0) {
        status = BB_FAIL(err, BB_BAD_FILE,
                         "%s is of a search with other options than %s/config.resolved.yaml has, or of one that did not end: run `bitbudget search %s`", path,
                         r->config.out, r->config.out);
        goto done;
    }
    BB_TRY(bb_csv_read(path, t, err));
    if (t->n_cols != N_COLUMNS || bb_csv_column(t, "source") != COL_SOURCE || bb_csv_column(t, "chosen") != COL_CHOSEN ||
        bb_csv_column(t, "asked") != COL_ASKED)
        status = BB_FAIL(err, BB_BAD_FILE, "%s: the columns should be %s; `bitbudget search %s` writes it again", path, columns, r->config.out);
done:
    bb_free(of);
    bb_free(path);
    return status;
}

bb_status bb_front_load(bb_run *r, bb_front *f, bb_err *err)
{
    bb_csv    t = { 0 };
    bb_status status;
    memset(f, 0, sizeof *f);
    BB_TRY(read_table(r, &t, err));
    for (size_t i = 0; i < t.n_rows; i++) {
        int64_t chosen;
        BB_TRY(bb_csv_int(&t, i, COL_CHOSEN, &chosen, err));
        if (!chosen) continue;
        BB_TRY(grow(f, err));
        BB_TRY(load_row(r, &t, i, &f->plans[f->n++], err));
    }
    if (f->n == 0) status = BB_FAIL(err, BB_BAD_FILE, "%s names no chosen plan", t.path);
done:
    bb_csv_done(&t);
    if (status != BB_OK) bb_front_done(f);
    return status;
}

bb_status bb_front_load_asked(bb_run *r, bb_front *f, bb_err *err)
{
    size_t    n = 0;
    bb_status status = bb_front_load(r, f, err);
    if (status != BB_OK) return status;
    for (size_t i = 0; i < f->n; i++) {
        if (f->plans[i].is_asked && !bb_list_has(r->config.leave_out, f->plans[i].hash)) f->plans[n++] = f->plans[i];
        else bb_plan_done(&f->plans[i].plan);
    }
    f->n = n;
    if (n > 0) return BB_OK;
    bb_front_done(f);
    return BB_FAIL(err, BB_BAD_FILE, "%s/plans.csv names no plan at the size that was asked for", r->config.out);
}

bb_status bb_front_find(bb_run *r, const char *prefix, bb_front_plan *p, bb_err *err)
{
    const size_t n = strlen(prefix);
    bb_csv       t = { 0 };
    size_t       found = SIZE_MAX;
    bb_status    status;
    memset(p, 0, sizeof *p);
    BB_TRY(read_table(r, &t, err));
    for (size_t i = 0; i < t.n_rows; i++) {
        if (strncmp(bb_csv_text(&t, i, COL_HASH), prefix, n) != 0) continue;
        if (found != SIZE_MAX) {
            status = BB_FAIL(err, BB_USAGE, "several plans of %s begin with \"%s\", %s and %s among them: give more digits", t.path, prefix,
                             bb_csv_text(&t, found, COL_HASH), bb_csv_text(&t, i, COL_HASH));
            goto done;
        }
        found = i;
    }
    if (found == SIZE_MAX) status = BB_FAIL(err, BB_NOT_FOUND, "no plan of %s begins with \"%s\": plans.csv lists them", r->config.out, prefix);
    else status = load_row(r, &t, found, p, err);
done:
    bb_csv_done(&t);
    if (status != BB_OK) bb_plan_done(&p->plan);
    return status;
}
