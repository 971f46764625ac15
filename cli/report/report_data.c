/* SPDX-License-Identifier: GPL-3.0-or-later
 * report_data.c: reads the artefacts of a run into plain rows. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/report/report_internal.h"
#include "kernels/format.h"

enum { MAX_BLOCKS = 4096, MAX_COLUMNS = 10 };

bool bb_is_positive(double v) { return v > 1e-100 && v < 1e100; }

double bb_option_bits(const char *option)
{
    const bb_format *f = bb_format_find(option);
    return f ? bb_format_bpw(f) : (double)NAN;
}

bb_part_column bb_unit_column(const char *unit, int64_t *block)
{
    static const char *const names[BB_COL_COUNT] = { "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "kv", "ffn" };
    char                    *end;
    *block = -1;
    if (strcmp(unit, "token_embd") == 0) return BB_COL_EMBD;
    if (strcmp(unit, "output") == 0) return BB_COL_OUTPUT;
    if (strncmp(unit, "blk.", 4) != 0 || unit[4] < '0' || unit[4] > '9') return BB_COL_OTHER;
    long n = strtol(unit + 4, &end, 10);
    if (*end != '.' || n >= MAX_BLOCKS) return BB_COL_OTHER;
    for (int c = 0; c < BB_COL_COUNT; c++)
        if (strcmp(end + 1, names[c]) == 0) {
            *block = n;
            return (bb_part_column)c;
        }
    return BB_COL_OTHER;
}

/* Finds each column of names (NULL-terminated) by name. */
static bb_status find_columns(const bb_csv *t, const char *const *names, size_t *at, bb_err *err)
{
    for (size_t i = 0; names[i]; i++) {
        long c = bb_csv_column(t, names[i]);
        if (c < 0) return BB_FAIL(err, BB_BAD_FILE, "%s: the column '%s' is missing from the header", t->path, names[i]);
        at[i] = (size_t)c;
    }
    return BB_OK;
}

static int by_size(const void *a, const void *b)
{
    const bb_scored *x = a, *y = b;
    if (x->size_bytes != y->size_bytes) return x->size_bytes < y->size_bytes ? -1 : 1;
    if (isnan(x->kl) != isnan(y->kl)) return isnan(x->kl) ? 1 : -1; /* the last of its size: an order that sorts need */
    if (x->kl < y->kl || x->kl > y->kl) return x->kl < y->kl ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* original: takes the row of the model itself; NULL for baselines. */
static bb_status read_scored(const bb_csv *t, bb_scored *original, bb_scored **out, size_t *n, bb_err *err)
{
    static const char *const front_columns[] = { "plan_hash", "size_bytes",      "bpw",    "kl_nats", "kl_se", "ppl", "ppl_se",
                                                 "top1",      "pruned_fraction", "source", NULL };
    static const char *const baseline_columns[] = { "name", "size_bytes", "bpw", "kl_nats", "kl_se", "ppl", "ppl_se", "top1", NULL };
    const bool               front = original != NULL;
    size_t                   at[MAX_COLUMNS], k = 0;
    bb_status                status;
    BB_TRY(find_columns(t, front ? front_columns : baseline_columns, at, err));
    if (!(*out = BB_NEW0(t->n_rows, bb_scored, err))) return BB_NOMEM;
    for (size_t r = 0; r < t->n_rows; r++) {
        bb_scored *s = front && strcmp(bb_csv_text(t, r, at[0]), "-") == 0 ? original : &(*out)[k++];
        double    *numbers[] = { &s->bpw, &s->kl, &s->kl_se, &s->ppl, &s->ppl_se, &s->top1, &s->pruned };
        s->name = bb_csv_text(t, r, at[0]);
        s->source = front ? bb_csv_text(t, r, at[9]) : "";
        s->pruned = (double)NAN;
        BB_TRY(bb_csv_int(t, r, at[1], &s->size_bytes, err));
        for (size_t i = 0; i < (front ? 7u : 6u); i++) BB_TRY(bb_csv_double(t, r, at[2 + i], numbers[i], err));
        if (!front && !*bb_csv_text(t, r, at[3])) k--; /* not finished: nothing to hold beside plans that are */
    }
    qsort(*out, k, sizeof **out, by_size);
    *n = k;
done:
    return status;
}

static bb_status read_choices(const bb_csv *t, bool layers, bb_choice **out, size_t *n, bb_err *err)
{
    static const char *const layer_columns[] = { "unit", "option", "bytes", "error", "plan_hash", NULL };
    static const char *const sensitivity_columns[] = { "unit", "option", "bytes", "kl_nats", "kl_se", NULL };
    size_t                   at[MAX_COLUMNS];
    bb_status                status;
    BB_TRY(find_columns(t, layers ? layer_columns : sensitivity_columns, at, err));
    if (!(*out = BB_NEW0(t->n_rows, bb_choice, err))) return BB_NOMEM;
    for (size_t r = 0; r < t->n_rows; r++) {
        bb_choice *c = &(*out)[r];
        c->unit = bb_csv_text(t, r, at[0]);
        c->option = bb_csv_text(t, r, at[1]);
        c->column = bb_unit_column(c->unit, &c->block);
        if (layers || *bb_csv_text(t, r, at[2])) BB_TRY(bb_csv_int(t, r, at[2], &c->bytes, err)); /* empty: no runtime loads that option alone */
        BB_TRY(bb_csv_double(t, r, at[3], &c->value, err));
        if (layers) c->plan = bb_csv_text(t, r, at[4]);
        else BB_TRY(bb_csv_double(t, r, at[4], &c->se, err));
    }
    *n = t->n_rows;
done:
    return status;
}

static bb_status read_steps(const bb_csv *t, bb_step **out, size_t *n, bb_err *err)
{
    static const char *const columns[] = { "step", "label", "kl_nats", "size_bytes", NULL };
    size_t                   at[MAX_COLUMNS];
    bb_status                status;
    BB_TRY(find_columns(t, columns, at, err));
    if (!(*out = BB_NEW0(t->n_rows, bb_step, err))) return BB_NOMEM;
    for (size_t r = 0; r < t->n_rows; r++) {
        bb_step *s = &(*out)[r];
        s->label = bb_csv_text(t, r, at[1]);
        BB_TRY(bb_csv_double(t, r, at[0], &s->step, err));
        BB_TRY(bb_csv_double(t, r, at[2], &s->kl, err));
        BB_TRY(bb_csv_double(t, r, at[3], &s->size_bytes, err));
    }
    *n = t->n_rows;
done:
    return status;
}

/* *path is RUN/name, to be freed; *there whether it exists. */
static bb_status locate(const char *dir, const char *name, char **path, bool *there, bb_err *err)
{
    *path = bb_asprintf(err, "%s/%s", dir, name);
    *there = *path && bb_file_exists(*path);
    return *path ? BB_OK : BB_NOMEM;
}

static bb_status read_tables(bb_artefacts *a, bb_err *err)
{
    static const char *const names[5] = { "front.csv", "baselines.csv", "layers.csv", "sensitivity.csv", "convergence.csv" };
    for (int i = 0; i < 5; i++) {
        char     *path;
        bool      there;
        bb_status status = locate(a->dir, names[i], &path, &there, err);
        if (status == BB_OK && i == 0 && !there)
            status = BB_FAIL(err, BB_BAD_FILE, "%s: there is no front.csv in it, so it is not the folder of a finished run", a->dir);
        if (status == BB_OK && there) status = bb_csv_read(path, &a->tables[i], err);
        bb_free(path);
        if (status != BB_OK || !there) {
            if (status != BB_OK) return status;
            continue;
        }
        switch (i) {
        case 0: status = read_scored(&a->tables[0], &a->original, &a->front, &a->n_front, err); break;
        case 1: status = read_scored(&a->tables[1], NULL, &a->baselines, &a->n_baselines, err); break;
        case 2: status = read_choices(&a->tables[2], true, &a->layers, &a->n_layers, err); break;
        case 3: status = read_choices(&a->tables[3], false, &a->sensitivity, &a->n_sensitivity, err); break;
        default: status = read_steps(&a->tables[4], &a->steps, &a->n_steps, err); break;
        }
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

static bb_status read_json(const char *dir, const char *name, json_t **out, bb_err *err)
{
    char        *path, *data = NULL;
    bool         there;
    size_t       size;
    json_error_t why;
    bb_status    status = locate(dir, name, &path, &there, err);
    if (status == BB_OK && there) status = bb_file_read(path, &data, &size, err);
    if (status == BB_OK && there) {
        *out = json_loadb(data, size, 0, &why);
        if (!json_is_object(*out))
            status = BB_FAIL(err, BB_BAD_FILE, "%s line %d: not a JSON object%s%s", path, *out ? 1 : why.line, *out ? "" : ": ", *out ? "" : why.text);
    }
    bb_free(data);
    bb_free(path);
    return status;
}

static bb_status read_config(bb_artefacts *a, bb_err *err)
{
    char     *path;
    bool      there;
    size_t    size;
    bb_status status = locate(a->dir, "config.resolved.yaml", &path, &there, err);
    if (status == BB_OK && there) status = bb_file_read(path, &a->config, &size, err);
    bb_free(path);
    return status;
}

/* Rows are in ascending size and, at one size, ascending KL. */
static bb_status mark_front(bb_artefacts *a, bb_err *err)
{
    double best = (double)INFINITY;
    if (!(a->on_front = BB_NEW0(a->n_front, bool, err))) return BB_NOMEM;
    for (size_t i = 0; i < a->n_front; i++) {
        a->on_front[i] = a->front[i].kl < best;
        if (a->on_front[i]) best = a->front[i].kl;
    }
    return BB_OK;
}

/* The last component of the folder's real path. */
static bb_status name_run(bb_artefacts *a, bb_err *err)
{
    char       *real = realpath(a->dir, NULL);
    const char *slash = real ? strrchr(real, '/') : NULL;
    a->run_name = bb_strdup(slash && slash[1] ? slash + 1 : a->dir, err);
    free(real);
    return a->run_name ? BB_OK : BB_NOMEM;
}

bb_status bb_artefacts_read(const char *run_dir, bb_artefacts *a, bb_err *err)
{
    bb_status status = BB_OK;
    memset(a, 0, sizeof *a);
    if (!(a->dir = bb_strdup(run_dir, err))) return BB_NOMEM;
    BB_TRY(name_run(a, err));
    BB_TRY(read_tables(a, err));
    BB_TRY(read_config(a, err));
    BB_TRY(read_json(run_dir, "env.json", &a->env, err));
    BB_TRY(read_json(run_dir, "guard.json", &a->guard, err));
    BB_TRY(mark_front(a, err));
done:
    if (status != BB_OK) bb_artefacts_done(a);
    return status;
}

const char *bb_chosen_plan(const bb_artefacts *a)
{
    const char *winner = json_string_value(json_object_get(a->guard, "winner"));
    size_t      n = 0, at = 0;
    for (size_t i = 0; winner && i < a->n_front; i++)
        if (strcmp(a->front[i].name, winner) == 0) return a->front[i].name;
    for (size_t i = 0; i < a->n_front; i++) n += a->on_front[i];
    for (size_t i = 0; i < a->n_front; i++)
        if (a->on_front[i] && at++ == n / 2) return a->front[i].name;
    return a->n_front > 0 ? a->front[0].name : NULL;
}

void bb_artefacts_done(bb_artefacts *a)
{
    for (int i = 0; i < 5; i++) bb_csv_done(&a->tables[i]);
    bb_free(a->front);
    bb_free(a->baselines);
    bb_free(a->layers);
    bb_free(a->sensitivity);
    bb_free(a->steps);
    bb_free(a->on_front);
    bb_free(a->config);
    bb_free(a->dir);
    bb_free(a->run_name);
    json_decref(a->env);
    json_decref(a->guard);
    memset(a, 0, sizeof *a);
}
