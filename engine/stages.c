/* SPDX-License-Identifier: GPL-3.0-or-later
 * stages.c: see stages.h. */
#include "engine/stages.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/cpus.h"
#include "base/csv.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/estimate.h"
#include "engine/keys.h"
#include "engine/time_budget.h"

static bool has_data(const bb_run *r) { return r->database && r->evaluator; }
static bool has_options(const bb_run *r) { return r->options_built; }
static bool has_measured(const bb_run *r) { return r->sensitivity.changes; }

const bb_stage_row bb_stages[BB_N_STAGE_ROWS] = {
    [BB_STAGE_CALIBRATE] = { "calibrate", BB_STAGE_NONE, has_data, bb_run_calibrate },
    [BB_STAGE_BUILD] = { "build options", BB_STAGE_CALIBRATE, has_options, bb_run_build_options },
    [BB_STAGE_MEASURE] = { "measure", BB_STAGE_BUILD, has_measured, bb_run_measure },
    [BB_STAGE_SEARCH] = { "search", BB_STAGE_MEASURE, NULL, bb_run_search },
    [BB_STAGE_FINALISE] = { "finalise", BB_STAGE_SEARCH, NULL, bb_run_finalise },
    [BB_STAGE_EVALUATE] = { "evaluate", BB_STAGE_FINALISE, NULL, bb_run_evaluate },
    [BB_STAGE_VERIFY] = { "verify", BB_STAGE_EVALUATE, NULL, bb_run_verify },
};

bb_stage bb_stage_find(const char *name)
{
    for (int i = 0; i < BB_N_STAGE_ROWS; i++)
        if (strcmp(bb_stages[i].name, name) == 0) return (bb_stage)i;
    return BB_STAGE_NONE;
}

bb_status bb_stage_run(bb_run *r, bb_stage stage, bb_err *err)
{
    const bb_stage_row *s = &bb_stages[stage];
    bb_status           status = BB_OK;
    if (s->held && s->held(r)) return BB_OK;
    if (s->needs != BB_STAGE_NONE && bb_stages[s->needs].held) BB_TRY(bb_stage_run(r, s->needs, err));
    bb_run_clock(r, stage);
    BB_TRY(s->run(r, err));
done:
    return status;
}

/* ---- all of them, and what they take ---- */

/* Times of earlier sessions of the run are added: a run that was interrupted took all of them. */
static bb_status add_times(bb_run *r, bb_err *err)
{
    bb_clock *c = &r->clock;
    double    before[3 * BB_N_STAGES];
    void     *value = NULL;
    size_t    size;
    bool      found;
    bb_status status;
    bb_run_clock(r, BB_N_STAGES);
    BB_TRY(bb_store_get(r->store, "timing", "seconds", &value, &size, &found, err));
    if (found && size == sizeof before) {
        memcpy(before, value, sizeof before);
        for (int i = 0; i < BB_N_STAGES; i++) {
            c->seconds[i] += before[i];
            c->cpu_seconds[i] += before[BB_N_STAGES + i];
            c->peak_bytes[i] = fmax(c->peak_bytes[i], before[2 * BB_N_STAGES + i]);
        }
    }
    memcpy(before, c->seconds, sizeof c->seconds);
    memcpy(before + BB_N_STAGES, c->cpu_seconds, sizeof c->cpu_seconds);
    memcpy(before + 2 * BB_N_STAGES, c->peak_bytes, sizeof c->peak_bytes);
    BB_TRY(bb_store_put(r->store, "timing", "seconds", before, sizeof before, err));
done:
    bb_free(value);
    return status;
}

static bb_status earlier_times(bb_run *r, double *sum, bb_err *err)
{
    double    before[3 * BB_N_STAGES];
    void     *value = NULL;
    size_t    size;
    bool      found;
    bb_status status;
    *sum = 0;
    BB_TRY(bb_store_get(r->store, "timing", "seconds", &value, &size, &found, err));
    if (!found || size != sizeof before) goto done;
    memcpy(before, value, sizeof before);
    for (int i = 0; i < BB_N_STAGES; i++) *sum += before[i];
done:
    bb_free(value);
    return status;
}

/* timing.csv: what was foreseen for a quiet machine, what it took, and the processor time, which other work does not change. */
static bb_status write_timing(bb_run *r, const double *predicted, bb_err *err)
{
    const bb_clock *c = &r->clock;
    bb_csv_writer  *w = NULL;
    double          foreseen = 0, took = 0, cpu = 0;
    char            a[80], b[32], p[32];
    bb_status       status;
    BB_TRY(bb_run_table(r, "timing.csv", "stage,predicted_s,seconds,cpu_s,peak_rss_bytes,predicted_cpu_s", &w, err));
    for (int i = 0; i < BB_N_STAGES; i++) {
        BB_ROW(w, bb_stages[i].name, predicted[i], c->seconds[i], c->cpu_seconds[i], (int64_t)c->peak_bytes[i],
               predicted[i] * fmin(omp_get_max_threads(), bb_cpus_usable()));
        bb_format_time(predicted[i], p);
        bb_format_time(c->seconds[i], b);
        bb_info("time: %s %s, foreseen %s", bb_stages[i].name, b, p);
        foreseen += predicted[i];
        took += c->seconds[i];
        cpu += c->cpu_seconds[i];
    }
    BB_TRY(bb_csv_close(&w, err));
    bb_estimate_interval(foreseen, a);
    bb_format_time(took, b);
    bb_format_time(cpu, p);
    bb_info("time: %s in all (processor time %s); foreseen %s on a quiet machine", b, p, a);
done:
    bb_csv_discard(w);
    return status;
}

/* The same command in a later session must say the same, so that what was foreseen is kept. */
static bb_status foresee(bb_run *r, double *predicted, bb_err *err)
{
    void     *value = NULL;
    size_t    size;
    bool      found;
    double    sum = 0;
    char      text[80];
    bb_status status;
    BB_TRY(bb_store_get(r->store, "timing", "predicted", &value, &size, &found, err));
    if (found && size == BB_N_STAGES * sizeof *predicted) memcpy(predicted, value, size);
    else {
        BB_TRY(bb_estimate_time(r, predicted, err));
        BB_TRY(bb_store_put(r->store, "timing", "predicted", predicted, BB_N_STAGES * sizeof *predicted, err));
    }
    for (int i = 0; i < BB_N_STAGES; i++) sum += predicted[i];
    bb_estimate_interval(sum, text);
    bb_info("time: %s foreseen on a quiet machine", text);
done:
    bb_free(value);
    return status;
}

/* How long the whole job is left is said with every progress line: what the stages are foreseen to take, times what those of this session took more. */
static void say_job(const bb_run *r, bb_stage stage, const double *predicted)
{
    double took = 0, should = 0, later = 0;
    for (int i = 0; i < (int)stage; i++) {
        if (r->clock.seconds[i] < 0.1 * predicted[i]) continue; /* it was done before */
        took += r->clock.seconds[i];
        should += predicted[i];
    }
    const double slower = should > 0 ? fmin(fmax(took / should, 0.2), 20) : 1;
    for (int i = (int)stage + 1; i < BB_N_STAGES; i++) later += predicted[i] * slower;
    bb_progress_job(predicted[stage] * slower, later);
}

bb_status bb_run_all(bb_run *r, bb_err *err)
{
    double    predicted[BB_N_STAGES], took;
    bb_err    late = BB_ERR_INIT;
    bb_status status, added;
    BB_TRY(foresee(r, predicted, err));
    BB_TRY(earlier_times(r, &took, err));
    bb_time_start(r, took);
    BB_TRY(bb_keys_remove_old(r, err));
    for (int i = 0; i < BB_N_STAGES; i++) {
        say_job(r, (bb_stage)i, predicted);
        BB_TRY(bb_time_run(r, (bb_stage)i, err));
    }
done:
    bb_progress_job(0, -1);
    added = add_times(r, &late); /* also of a session that ends early */
    if (status != BB_OK) return status;
    if (added != BB_OK) return BB_FAIL(err, added, "%s", late.msg);
    return write_timing(r, predicted, err);
}
