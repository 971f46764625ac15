/* SPDX-License-Identifier: GPL-3.0-or-later
 * measure.c: the stages between the data and the search: every option built, and put in alone. See run.h. */
#include <math.h>
#include <string.h>

#include "base/csv.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/jobs.h"
#include "engine/memory.h"
#include "engine/ranks.h"
#include "engine/score.h"
#include "eval/floor.h"

/* ---- options ---- */

/* Units one behind the other whose matrices have one input, so that its Hessian is factored once: a job. */
typedef struct group {
    uint32_t first, n;
} group;

static bool same_input(const bb_plan_unit *a, const bb_plan_unit *b)
{
    return a->layer == b->layer && a->what < BB_N_PARTS && b->what < BB_N_PARTS && bb_parts[a->what].feed == bb_parts[b->what].feed;
}

typedef struct building {
    bb_run     *run;
    group      *groups;
    bb_progress progress;
} building;

static bb_status ask_group(void *self, size_t i, bb_text *question, bb_err *err)
{
    (void)err;
    bb_text_addn(question, (const char *)&((const building *)self)->groups[i], sizeof(group));
    return BB_OK;
}

bb_status bb_options_answer(bb_run *r, bb_progress *progress, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_block         *blocks = BB_NEW(r->model.net.n_layer, bb_block, err);
    bb_parcel         parcel = { question, size };
    group             g;
    uint32_t          made = 0;
    bb_status         status = blocks ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    BB_TRY(bb_parcel_take(&parcel, &g, sizeof g, err));
    for (uint32_t i = g.first; i < g.first + g.n && i < p->n_units; i++)
        for (uint32_t o = 0; o < p->units[i].n_options; o++) {
            bb_net net;
            bb_crew_share();
            status = bb_database_apply_at(r->database, p->plans, NULL, i, o, &net, blocks, err);
            if (status == BB_OK && bb_interrupted()) status = BB_FAIL(err, BB_INTERRUPTED, "interrupted; the same command goes on");
            if (status != BB_OK) goto done;
            if (progress) bb_progress_add(progress, 1);
            else made++;
        }
    bb_text_addn(answer, (const char *)&made, sizeof made);
done:
    bb_free(blocks);
    return status;
}

static bb_status work_group(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    building *b = self;
    (void)worker;
    return bb_options_answer(b->run, &b->progress, question, size, answer, err);
}

static bb_status take_group(void *self, size_t i, const char *answer, size_t size, bb_err *err)
{
    building *b = self;
    bb_parcel p = { answer, size };
    uint32_t  made; /* by another process */
    bb_status status = bb_parcel_take(&p, &made, sizeof made, err);
    (void)i;
    if (status == BB_OK && made) bb_progress_add(&b->progress, made);
    return status;
}

/* Builds every option that any plan may use, so that the search only maps files. */
bb_status bb_run_build_options(bb_run *r, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    building          b = { .run = r };
    bb_jobs           jobs = { BB_JOB_OPTIONS, 0, &b, ask_group, work_group, take_group };
    uint64_t          total = 0;
    bb_status         status = BB_NOMEM;
    if (!(b.groups = BB_NEW(p->n_units, group, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < p->n_units; i++) {
        total += p->units[i].n_options;
        if (i > 0 && same_input(&p->plans->units[i - 1], &p->plans->units[i])) b.groups[jobs.n - 1].n++;
        else b.groups[jobs.n++] = (group) { i, 1 };
    }
    bb_progress_start(&b.progress, "build options", total);
    const bb_crew here = bb_crew_threads(bb_memory_for_options(r, jobs.n, bb_run_unused_memory(r)));
    BB_TRY(bb_crew_run(r->crew ? r->crew : &here, &jobs, err));
    bb_progress_end(&b.progress);
    r->options_built = true;
done:
    bb_free(b.groups);
    return status;
}

/* ---- what each does alone ---- */

/* What a table of options begins with: which option, and its bytes, none where this model's runtime cannot load it alone. */
static void put_option(bb_csv_writer *w, const bb_problem *p, uint32_t i, uint32_t o)
{
    BB_PUT(w, p->plans->units[i].name, p->plans->units[i].options[o].name);
    if (bb_is_forbidden(p->units[i].bytes[o])) bb_csv_put_text(w, "");
    else bb_csv_put_int(w, p->units[i].bytes[o]);
}

static bb_status write_sensitivity(const bb_run *r, const bb_sensitivity *s, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_csv_writer    *w = NULL;
    bb_status         status;
    size_t            k = 0;
    BB_TRY(bb_run_table(r, "sensitivity.csv", "unit,option,bytes,kl_nats,kl_se", &w, err));
    for (uint32_t i = 0; i < p->n_units; i++)
        for (uint32_t o = 0; o < p->units[i].n_options; o++, k++) {
            put_option(w, p, i, o);
            BB_ROW(w, s->changes[k].kl, s->changes[k].kl_se);
        }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* To second order: half the squared length of the sketch. */
static double kl_of_sketch(const bb_sensitivity *s, size_t k)
{
    double sum = 0;
    for (size_t i = 0; i < s->dim; i++) sum += (double)s->changes[k].psi[i] * (double)s->changes[k].psi[i];
    return sum / 2;
}

/* Every option of every unit: what it costs in bytes, in its matrix and at the end of the network, for curves of rate and distortion. */
static bb_status write_options(const bb_run *r, const bb_sensitivity *s, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_csv_writer    *w = NULL;
    bb_status         status;
    size_t            k = 0;
    BB_TRY(bb_run_table(r, "options.csv", "unit,option,bytes,bits_per_weight,error,kl_nats,kl_se,kl_sketch", &w, err));
    for (uint32_t i = 0; i < p->n_units; i++)
        for (uint32_t o = 0; o < p->units[i].n_options; o++, k++) {
            bb_matrix m;
            double    error;
            BB_TRY(bb_database_option(r->database, &p->plans->units[i], o, &m, &error, err));
            const bb_format *f = bb_model_space_format(r->space, i, o); /* NULL: a structure */
            put_option(w, p, i, o);
            BB_ROW(w, f ? bb_format_bpw(f) : (double)NAN, error, s->changes[k].kl, s->changes[k].kl_se, kl_of_sketch(s, k));
        }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* Costs of the space from the measured single-change KLs, made non-negative. */
static bb_status set_costs(bb_run *r, const bb_sensitivity *s, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    double           *flat = BB_NEW(s->n, double, err);
    const double    **rows = BB_NEW(p->n_units, const double *, err);
    size_t            k = 0;
    if (flat && rows) {
        for (size_t i = 0; i < s->n; i++) flat[i] = fmax(0, s->changes[i].kl);
        for (uint32_t i = 0; i < p->n_units; i++) {
            rows[i] = flat + k;
            k += p->units[i].n_options;
        }
        bb_model_space_set_costs(r->space, rows);
    }
    bb_status status = flat && rows ? BB_OK : BB_NOMEM;
    bb_free(flat);
    bb_free(rows);
    return status;
}

bb_status bb_run_load_costs(bb_run *r, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    char             *path = bb_run_path(r, err, "sensitivity.csv");
    size_t            k = 0, n = 0;
    bb_csv            t = { 0 };
    bb_status         status = BB_NOMEM;
    for (uint32_t i = 0; i < p->n_units; i++) n += p->units[i].n_options;
    bb_sensitivity s = { .n = n };
    if (!path || !(s.changes = BB_NEW0(n, bb_change, err))) goto done;
    BB_TRY(bb_csv_read(path, &t, err));
    bool right = t.n_rows == n && t.n_cols == 5;
    for (uint32_t i = 0; right && i < p->n_units; i++)
        for (uint32_t o = 0; right && o < p->units[i].n_options; o++, k++) {
            right = strcmp(bb_csv_text(&t, k, 0), p->plans->units[i].name) == 0 && strcmp(bb_csv_text(&t, k, 1), p->plans->units[i].options[o].name) == 0;
            if (right) BB_TRY(bb_csv_double(&t, k, 3, &s.changes[k].kl, err));
        }
    if (!right) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s is not of the options that this run has: run `bitbudget measure %s`", path, r->config.out);
        goto done;
    }
    BB_TRY(set_costs(r, &s, err));
done:
    bb_csv_done(&t);
    bb_free(s.changes);
    bb_free(path);
    return status;
}

static bb_status print_floor(const bb_run *r, bb_err *err)
{
    bb_evaluation floor;
    bb_progress   progress;
    uint64_t      bytes;
    char          size[32];
    bb_status     status;
    if (!bb_memory_copies_source(r, &bytes)) {
        bb_format_size(bytes, size);
        bb_info("noise floor of the reference: not measured, for an F16 copy of the model takes %s, which --max-ram has no room for", size);
        return BB_OK;
    }
    bb_progress_start(&progress, "noise floor", 0);
    status = bb_noise_floor(&r->model, r->evaluator, BB_LEVEL_SKETCH, &floor, err);
    bb_progress_end(&progress);
    if (status == BB_OK) bb_info("noise floor of the reference: an F16 copy of the model is %.2g nats a token away", floor.kl);
    return status;
}

void bb_run_forget_measured(bb_sensitivity *s)
{
    bb_free(s->changes);
    bb_sensitivity_done(s);
    *s = (bb_sensitivity) { 0 };
}

bb_status bb_run_measure(bb_run *r, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_run_evaluator(r, err));
    BB_TRY(print_floor(r, err));
    BB_TRY(bb_run_sensitivity(r, NULL, &r->sensitivity, err));
    BB_TRY(write_sensitivity(r, &r->sensitivity, err));
    BB_TRY(write_options(r, &r->sensitivity, err));
    BB_TRY(set_costs(r, &r->sensitivity, err));
done:
    if (status != BB_OK) bb_run_forget_measured(&r->sensitivity);
    return status;
}
