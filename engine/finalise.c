/* SPDX-License-Identifier: GPL-3.0-or-later
 * finalise.c: the ladder of steps that may help, for every plan at a size that was asked for, simple ones alike: models/HASH.gguf; export of one plan; verify.
 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/finalised.h"
#include "engine/front.h"
#include "engine/jobs.h"
#include "engine/ladder.h"
#include "engine/memory.h"
#include "engine/outputs.h"
#include "engine/ranks.h"
#include "engine/run.h"
#include "engine/time_budget.h"
#include "engine/version.h"
#include "model/export/export.h"
#include "model/net/arch.h"

/* ---- finalise ---- */

static bb_status score_confirm(bb_run *r, const bb_net *net, double *kl, bb_err *err)
{
    bb_evaluation v;
    bb_status     status = bb_net_evaluator_score(r->evaluator, net, BB_LEVEL_CONFIRM, &v, NULL, err);
    *kl = v.kl;
    return status;
}

/* What is stored of a finalised file. */
typedef struct record {
    char             sha256[64]; /* of the file, hex */
    bb_ladder_record ladder;
} record;

/* Records are kept by identity of the run (model, windows, database, bits), plan, and what finalise was asked to do; bb_free. */
static char *record_key(const bb_run *r, const char *hash, bb_err *err)
{
    char *settings = bb_ladder_settings(&r->config, err), *key = settings ? bb_asprintf(err, "%s|%s|%s|" BB_EXPORT_LAYOUT, r->key, hash, settings) : NULL;
    bb_free(settings);
    return key;
}

static bb_status load_record(const bb_run *r, const char *hash, record *out, bool *found, bb_err *err)
{
    char     *key = record_key(r, hash, err);
    void     *value = NULL;
    size_t    size = 0;
    bb_status status = BB_NOMEM;
    if (!key) return BB_NOMEM;
    BB_TRY(bb_store_get(r->store, "finalise", key, &value, &size, found, err));
    *found = *found && size == sizeof *out;
    if (*found) memcpy(out, value, sizeof *out);
done:
    bb_free(value);
    bb_free(key);
    return status;
}

static bb_status save_record(bb_run *r, const char *hash, const record *in, bb_err *err)
{
    char     *key = record_key(r, hash, err);
    bb_status status = key ? bb_store_put(r->store, "finalise", key, in, sizeof *in, err) : BB_NOMEM;
    bb_free(key);
    return status;
}

/* What lies at models/HASH.gguf, beside its record: which is there unless NEVER. */
typedef enum file_state { NEVER, MISSING, OTHER, RIGHT } file_state;

static bb_status state_of(bb_run *r, const char *hash, record *rec, file_state *state, char found_hash[65], bb_err *err)
{
    char     *path = bb_run_path(r, err, "models/%s.gguf", hash);
    bool      found;
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(load_record(r, hash, rec, &found, err));
    *state = !found ? NEVER : !bb_file_exists(path) ? MISSING : OTHER;
    if (*state != OTHER) goto done;
    BB_TRY(bb_sha256_file(path, found_hash, err));
    if (memcmp(found_hash, rec->sha256, 64) == 0) *state = RIGHT;
done:
    bb_free(path);
    return status;
}

bb_status bb_finalised_check(bb_run *r, const bb_front_plan *p, bb_err *err)
{
    const char *out = r->config.out;
    record      rec;
    file_state  state;
    char        found[65];
    bb_status   status;
    BB_TRY(state_of(r, p->hash, &rec, &state, found, err));
    if (state == NEVER) status = BB_FAIL(err, BB_GUARD, "plan %s was never finalised with these options: run `bitbudget finalise %s`", p->hash, out);
    if (state == MISSING) status = BB_FAIL(err, BB_GUARD, "%s/models/%s.gguf is missing: run `bitbudget finalise %s`", out, p->hash, out);
    if (state == OTHER)
        status = BB_FAIL(err, BB_GUARD,
                         "%s/models/%s.gguf is not the file that finalise wrote with these options (its SHA-256 begins with %.12s, recorded is "
                         "%.12s): run `bitbudget finalise %s`",
                         out, p->hash, found, rec.sha256, out);
done:
    return status;
}

bb_status bb_finalised_steps(const bb_run *r, const bb_front_plan *p, char steps[BB_FINALISED_STEPS], bb_err *err)
{
    record    rec;
    bool      found;
    size_t    n = 0;
    bb_status status;
    *steps = '\0';
    BB_TRY(load_record(r, p->hash, &rec, &found, err));
    for (int k = BB_RUNG_REBUILD; found && k < BB_N_RUNGS; k++)
        if (!isnan(rec.ladder.kl[k])) n += (size_t)snprintf(steps + n, BB_FINALISED_STEPS - n, "%s%s", n ? "," : "", bb_rung_names[k]);
done:
    return status;
}

/* ---- a plan's file ---- */

/* What a question begins with; the plan's text, of so many bytes, follows. */
typedef struct head {
    char     hash[17];
    int64_t  size_bytes;
    uint64_t text_bytes;
} head;

static bb_status ask_plan(const bb_front_plan *p, bb_text *question, bb_err *err)
{
    head      h = { .size_bytes = p->size_bytes };
    char     *text = NULL;
    bb_status status;
    memcpy(h.hash, p->hash, sizeof h.hash);
    BB_TRY(bb_plan_print(&p->plan, &text, err));
    h.text_bytes = strlen(text);
    bb_text_addn(question, (const char *)&h, sizeof h);
    bb_text_addn(question, text, strlen(text));
done:
    bb_free(text);
    return status;
}

/* Writes models/HASH.gguf from the best network of the ladder: the same ladder for every plan, so that the guard compares equals. */
static bb_status finish(bb_run *r, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_parcel parcel = { question, size };
    record    rec = { .sha256 = "" };
    bb_plan   plan = { 0, NULL };
    bb_tuned  net = { 0 };
    head      h;
    uint64_t  bytes;
    char     *path = NULL, *dir = NULL, hash[65];
    bb_status status;
    BB_TRY(bb_parcel_take(&parcel, &h, sizeof h, err));
    BB_TRY(bb_plan_parse(parcel.at, parcel.left, &plan, err));
    status = BB_NOMEM;
    if (!(path = bb_run_path(r, err, "models/%.16s.gguf", h.hash)) || !(dir = bb_run_path(r, err, "models"))) goto done;
    BB_TRY(bb_make_dirs(dir, err));
    BB_TRY(bb_ladder_run(r, &plan, !r->config.no_finalise, NULL, NULL, &net, &rec.ladder, err));
    const bb_provenance from = { .plan = h.hash,
                                 .program = bb_version_program(),
                                 .calib_sha256 = r->calib_tokens.sha256,
                                 .calib_tokens = r->calib_tokens.n,
                                 .has_kl = isfinite(rec.ladder.kl_final),
                                 .kl = rec.ladder.kl_final };
    BB_TRY(bb_export_write(&r->model, &net.net, &from, path, err));
    BB_TRY(bb_file_size(path, &bytes, err));
    if (bytes != (uint64_t)h.size_bytes) {
        status = BB_FAIL(err, BB_GUARD, "%s has %llu bytes, the plan was counted at %lld: the size model and the exporter disagree", path,
                         (unsigned long long)bytes, (long long)h.size_bytes);
        goto done;
    }
    BB_TRY(bb_sha256_file(path, hash, err));
    memcpy(rec.sha256, hash, sizeof rec.sha256);
    bb_text_addn(answer, (const char *)&rec, sizeof rec);
done:
    bb_plan_done(&plan);
    bb_tuned_done(&net);
    bb_free(path);
    bb_free(dir);
    return status;
}

/* ---- several plans at the same time ---- */

/* Copies of the run, each with an evaluator of its own; all else they share, and only read. */
typedef struct finishers {
    bb_run  *run, *each; /* each: [n]; the first is as `run` */
    uint32_t n;
    bb_crew  threads;
} finishers;

static void finishers_done(finishers *f)
{
    for (uint32_t i = 1; f->each && i < f->n; i++) bb_net_evaluator_destroy(f->each[i].evaluator);
    bb_free(f->each);
    *f = (finishers) { 0 };
}

/* For so many plans, as many at once as there are threads and --max-ram allows. What full precision says to all of them is then made before them, in what is left of
 * the memory. */
static bb_status finishers_init(bb_run *r, size_t plans, finishers *f, bb_err *err)
{
    const uint64_t room = bb_run_unused_memory(r);
    uint64_t       more;
    bb_status      status = BB_OK;
    *f = (finishers) { .run = r, .n = bb_memory_for_plans(r, plans, room, &more) };
    if (f->n == 1) return BB_OK;
    if (!r->config.no_finalise && bb_list_has(r->config.finalise_steps, bb_rung_names[BB_RUNG_REBUILD])) {
        bb_full_states *states = bb_run_full_states(r);
        states->most = room > more ? room - more : 0;
        BB_TRY(bb_full_states_make(r->database, &r->model, r->calib.tokens, r->calib.n, r->calib.ctx, states, err));
    }
    status = BB_NOMEM;
    if (!(f->each = BB_NEW0(f->n, bb_run, err))) goto done;
    for (uint32_t i = 0; i < f->n; i++) f->each[i] = *r;
    f->each[0].others_room += more; /* what full precision says does not go there: what was not made above is not kept */
    for (uint32_t i = 1; i < f->n; i++) f->each[i].others_room = UINT64_MAX;
    for (uint32_t i = 1; i < f->n; i++) f->each[i].evaluator = NULL;
    for (uint32_t i = 1; i < f->n; i++) BB_TRY(bb_net_evaluator_share(r->evaluator, &f->each[i].evaluator, err));
    f->threads = bb_crew_threads(f->n);
    status = BB_OK;
done:
    if (status != BB_OK) finishers_done(f);
    return status;
}

static bb_status finish_by(const finishers *f, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    return finish(f->each ? &f->each[worker] : f->run, question, size, answer, err);
}

static bb_status run_finishers(const finishers *f, const bb_jobs *jobs, bb_err *err) { return bb_crew_run(f->each ? &f->threads : NULL, jobs, err); }

/* ---- some plans, as a job of another process ---- */

typedef struct part {
    finishers  who;
    bb_parcel *questions; /* [n] */
    record    *records;   /* [n] */
} part;

static bb_status ask_of_part(void *self, size_t i, bb_text *question, bb_err *err)
{
    const bb_parcel *q = &((const part *)self)->questions[i];
    (void)err;
    bb_text_addn(question, q->at, q->left);
    return BB_OK;
}

static bb_status work_of_part(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    return finish_by(&((const part *)self)->who, worker, question, size, answer, err);
}

static bb_status take_of_part(void *self, size_t i, const char *answer, size_t size, bb_err *err)
{
    bb_parcel p = { answer, size };
    return bb_parcel_take(&p, &((const part *)self)->records[i], sizeof(record), err);
}

bb_status bb_finalise_answer(bb_run *r, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_parcel parcel = { question, size };
    part      p = { 0 };
    bb_jobs   jobs = { BB_JOB_FINALISE, 0, &p, ask_of_part, work_of_part, take_of_part };
    bb_status status = BB_NOMEM;
    if (!(p.questions = BB_NEW(size / sizeof(head) + 1, bb_parcel, err)) || !(p.records = BB_NEW0(size / sizeof(head) + 1, record, err))) goto done;
    while (parcel.left) {
        bb_parcel one = { parcel.at, 0 };
        head      h;
        BB_TRY(bb_parcel_take(&parcel, &h, sizeof h, err));
        BB_TRY(bb_parcel_take(&parcel, NULL, h.text_bytes, err));
        one.left = sizeof h + h.text_bytes;
        p.questions[jobs.n++] = one;
    }
    BB_TRY(finishers_init(r, jobs.n, &p.who, err));
    BB_TRY(run_finishers(&p.who, &jobs, err));
    bb_text_addn(answer, (const char *)p.records, jobs.n * sizeof *p.records);
done:
    finishers_done(&p.who);
    bb_free(p.questions);
    bb_free(p.records);
    return status;
}

/* ---- all plans ---- */

typedef struct finalising {
    bb_run               *run;
    const bb_front_plan **plans;      /* [n] those without their file */
    size_t                n, at_once; /* at_once: how many a job has */
    finishers             who;        /* of jobs in this process alone, of one plan */
    bb_progress          *progress;
} finalising;

static size_t first_of(const finalising *f, size_t job) { return job * f->at_once; }
static size_t end_of(const finalising *f, size_t job) { return first_of(f, job + 1) < f->n ? first_of(f, job + 1) : f->n; }

static bb_status ask_some(void *self, size_t job, bb_text *question, bb_err *err)
{
    const finalising *f = self;
    bb_status         status = BB_OK;
    for (size_t i = first_of(f, job); i < end_of(f, job) && status == BB_OK; i++) status = ask_plan(f->plans[i], question, err);
    return status;
}

static bb_status work_some(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    const finalising *f = self;
    return f->run->crew && !f->run->time.on ? bb_finalise_answer(f->run, question, size, answer, err) : finish_by(&f->who, worker, question, size, answer, err);
}

static bb_status take_some(void *self, size_t job, const char *answer, size_t size, bb_err *err)
{
    const finalising *f = self;
    bb_parcel         p = { answer, size };
    record            rec;
    bb_status         status = BB_OK;
    for (size_t i = first_of(f, job); i < end_of(f, job); i++) {
        BB_TRY(bb_parcel_take(&p, &rec, sizeof rec, err));
        BB_TRY(save_record(f->run, f->plans[i]->hash, &rec, err));
        if (f->progress) bb_progress_add(f->progress, 1);
    }
done:
    return status;
}

/* In this process as many plans at once as its threads and memory allow; of several processes each gets as many as it might do at once, unless all then would not
 * have some. --time cuts steps while they run, and looks at this process's clock. */
static bb_status finalise_missing(finalising *f, bb_err *err)
{
    const bb_crew *crew = f->run->time.on ? NULL : f->run->crew;
    bb_jobs        jobs = { BB_JOB_FINALISE, 0, f, ask_some, work_some, take_some };
    uint64_t       more;
    bb_status      status;
    if (!f->n) return BB_OK;
    BB_TRY(bb_run_calibrate(f->run, err));
    f->at_once = 1;
    if (crew) {
        const size_t share = (f->n + crew->n_all - 1) / crew->n_all;
        f->at_once = bb_memory_for_plans(f->run, share, bb_run_unused_memory(f->run), &more);
    } else {
        BB_TRY(finishers_init(f->run, f->n, &f->who, err));
    }
    jobs.n = (f->n + f->at_once - 1) / f->at_once;
    BB_TRY(crew ? bb_crew_run(crew, &jobs, err) : run_finishers(&f->who, &jobs, err));
done:
    finishers_done(&f->who);
    return status;
}

/* The files of n plans, but of those that are spared. What is there already is kept when it is the recorded file, byte for byte. */
static bb_status finalise_plans(bb_run *r, const bb_front_plan *plans, size_t n, bb_progress *progress, bb_err *err)
{
    finalising f = { .run = r, .plans = BB_NEW(n, const bb_front_plan *, err), .progress = progress };
    bb_status  status = f.plans ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    for (size_t i = 0; i < n; i++) {
        record     rec;
        file_state state;
        char       hash[65];
        if (bb_front_is_spared(r, &plans[i])) {
            if (progress) bb_progress_skip(progress, 1);
            continue;
        }
        BB_TRY(state_of(r, plans[i].hash, &rec, &state, hash, err));
        if (state == OTHER) bb_info("%s/models/%s.gguf is not the file that these options made: it is written again", r->config.out, plans[i].hash);
        if (state != RIGHT) f.plans[f.n++] = &plans[i];
        else if (progress) bb_progress_skip(progress, 1);
    }
    BB_TRY(finalise_missing(&f, err));
done:
    bb_free(f.plans);
    return status;
}

bb_status bb_finalise_front(bb_run *r, const bb_front *front, bool only, bb_err *err)
{
    bb_progress progress;
    bb_status   status = BB_OK;
    for (size_t i = 0; only && i < front->n; i++) BB_TRY(bb_finalised_check(r, &front->plans[i], err));
    bb_progress_start(&progress, "finalise", front->n);
    BB_TRY(finalise_plans(r, front->plans, front->n, &progress, err));
    bb_progress_end(&progress);
done:
    return status;
}

/* Removes the files of models/ that are of no plan that is finalised: earlier options made them. */
static bb_status remove_old_models(const bb_run *r, const bb_front *front, bb_err *err)
{
    char          *dir = bb_run_path(r, err, "models");
    DIR           *d = dir ? opendir(dir) : NULL;
    struct dirent *e;
    size_t         n = 0;
    bb_status      status = dir ? BB_OK : BB_NOMEM;
    while (d && (e = readdir(d))) {
        bool asked = false;
        if (strlen(e->d_name) != 21 || strspn(e->d_name, "0123456789abcdef") != 16 || strcmp(e->d_name + 16, ".gguf") != 0) continue; /* not ours */
        for (size_t i = 0; i < front->n; i++) asked |= strncmp(front->plans[i].hash, e->d_name, 16) == 0 && !bb_front_is_spared(r, &front->plans[i]);
        if (!asked && unlinkat(dirfd(d), e->d_name, 0) == 0) n++;
    }
    if (n) bb_info("%s: removed %zu file%s of other options", dir, n, bb_plural(n));
    if (d) closedir(d);
    bb_free(dir);
    return status;
}

static bb_status write_finalise_csv(bb_run *r, const bb_front *front, bb_err *err)
{
    bb_csv_writer *w = NULL;
    bb_status      status = BB_NOMEM;
    BB_TRY(bb_run_table(r, "finalise.csv", "plan_hash,size_bytes,step,kl_nats,kept,source", &w, err));
    for (size_t i = 0; i < front->n; i++) {
        bool   found;
        record rec;
        if (bb_front_is_spared(r, &front->plans[i])) continue;
        BB_TRY(load_record(r, front->plans[i].hash, &rec, &found, err));
        for (int k = 0; found && k < BB_N_RUNGS; k++) {
            if (isnan(rec.ladder.kl[k])) continue;
            BB_ROW(w, front->plans[i].hash, front->plans[i].size_bytes, bb_rung_names[k], rec.ladder.kl[k], rec.ladder.kept[k], front->plans[i].source);
        }
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* ---- within a given time ---- */

/* The plans that were searched for come first, the smaller ones before the larger; then those that guard them. */
static void order_by_use(const bb_front *front, size_t *order)
{
    size_t n = 0;
    for (int simple = 0; simple < 2; simple++)
        for (size_t i = 0; i < front->n; i++)
            if (front->plans[i].is_searched != (simple != 0)) order[n++] = i;
}

/* But those that are spared: the guard compares them as they are. */
static bb_status leave_out(bb_run *r, const bb_front *front, const size_t *order, size_t n_order, bb_err *err)
{
    const char **hashes = BB_NEW(n_order, const char *, err);
    size_t       n = 0;
    bb_status    status;
    if (!hashes) return BB_NOMEM;
    for (size_t i = 0; i < n_order; i++)
        if (!bb_front_is_spared(r, &front->plans[order[i]])) hashes[n++] = front->plans[order[i]].hash;
    bb_warn("time: %zu plan%s left out: not finalised, not evaluated, and no part of what the guard compares", n, n == 1 ? " is" : "s are");
    status = bb_time_leave_out(r, hashes, n, err);
    bb_free(hashes);
    return status;
}

/* One plan, until the time that was set for it (bb_interrupt_at), which is none then. *late: it was over, and BB_INTERRUPTED comes of that. */
static bb_status finalise_until(bb_run *r, bb_front_plan *p, bool *late, bb_err *err)
{
    const bb_status status = finalise_plans(r, p, 1, NULL, err);
    *late = status == BB_INTERRUPTED && bb_interrupt_late();
    bb_interrupt_at(0);
    return status;
}

/* As many plans as there is time for, by what the first took. The step of the first plan that is under way when the time is over, and what would
 * follow it, is done for no plan; a later plan under way is left out, as all behind it. */
static bb_status finalise_in_time(bb_run *r, bb_front *front, bb_err *err)
{
    size_t     *order = NULL, done = 0;
    double      longest = 0;
    bb_progress progress;
    bb_status   status;
    BB_TRY(bb_front_load_asked(r, front, err));
    if (!(order = BB_NEW(front->n, size_t, err))) {
        status = BB_NOMEM;
        goto done;
    }
    order_by_use(front, order);
    bb_progress_start(&progress, "finalise", front->n);
    for (; done < front->n; done++, bb_progress_add(&progress, 1)) {
        const double started = bb_now_s();
        bool         late;
        if (bb_front_is_spared(r, &front->plans[order[done]])) continue;
        if (done > 0 && !bb_time_has_room(r, longest)) break;
        if (done > 0) bb_time_stop_finalise(r);
        r->time.may_cut = done == 0;
        status = finalise_until(r, &front->plans[order[done]], &late, err);
        if (late && done > 0) {
            bb_err_clear(err);
            break;
        }
        BB_TRY(status);
        longest = fmax(longest, bb_now_s() - started);
    }
    bb_progress_end(&progress);
    status = BB_OK;
    if (done < front->n) BB_TRY(leave_out(r, front, order + done, front->n - done, err));
    bb_front_done(front);
    BB_TRY(bb_front_load_asked(r, front, err));
done:
    bb_interrupt_at(0);
    r->time.may_cut = false;
    bb_free(order);
    return status;
}

static bb_status finalise_all(bb_run *r, bb_front *front, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_front_load_asked(r, front, err));
    BB_TRY(bb_finalise_front(r, front, false, err));
done:
    return status;
}

bb_status bb_run_finalise(bb_run *r, bb_err *err)
{
    bb_front  front = { 0 };
    bb_status status;
    bb_memory_warn_of_training(r);
    BB_TRY(r->time.on ? finalise_in_time(r, &front, err) : finalise_all(r, &front, err));
    BB_TRY(write_finalise_csv(r, &front, err));
    BB_TRY(remove_old_models(r, &front, err));
done:
    bb_front_done(&front);
    return status;
}

/* The table has the plan as well. With --time it is finished as the plans behind the first are: in time, or left out. */
bb_status bb_finalise_readmitted(bb_run *r, bb_front_plan *p, bb_err *err)
{
    bb_front  front = { 0 };
    bool      late;
    bb_status status;
    BB_TRY(bb_front_readmit(r, p, err));
    if (bb_time_is_over(r)) bb_interrupt_at(bb_now_s()); /* what is there already is kept all the same */
    else if (r->time.on) bb_time_stop_finalise(r);
    status = finalise_until(r, p, &late, err);
    if (late) {
        bb_err_clear(err);
        status = leave_out(r, &(bb_front) { 1, p }, &(size_t) { 0 }, 1, err);
    }
    BB_TRY(status);
    BB_TRY(bb_front_load_asked(r, &front, err));
    BB_TRY(write_finalise_csv(r, &front, err));
done:
    bb_front_done(&front);
    return status;
}

/* ---- export and verify ---- */

/* One anchored line a matrix: what llama-quantize's --tensor-type-file reads. */
static bb_status write_recipe(const bb_model *m, const char *path, bb_err *err)
{
    bb_text   t = { 0 };
    bb_status status = BB_NOMEM;
    for (uint64_t i = 0; i < m->source.n_tensors; i++) {
        const bb_tensor *tensor = &m->source.tensors[i];
        if (tensor->n_dims < 2) continue;
        bb_text_add(&t, "^");
        for (const char *p = tensor->name; *p; p++) bb_text_addf(&t, "%s%c", *p == '.' ? "\\" : "", *p);
        bb_text_addf(&t, "$=%s\n", bb_format_get(tensor->type)->name);
    }
    if (t.status == BB_OK && t.data) status = bb_file_write(path, t.data, t.size, err);
    bb_text_done(&t);
    return status;
}

/* Bytes of the file that a plan's types give to the unpruned model. */
static bb_status unpruned_size(const bb_run *r, const bb_plan *plan, uint64_t *bytes, bb_err *err)
{
    bb_plan   types = { 0, NULL };
    bb_net    net;
    bb_block *blocks = BB_NEW(r->model.net.n_layer, bb_block, err);
    bb_status status = blocks ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    for (size_t i = 0; i < plan->n; i++)
        if (bb_format_find(plan->genes[i].option)) BB_TRY(bb_plan_set(&types, plan->genes[i].unit, plan->genes[i].option, err));
    BB_TRY(bb_plan_shape(&r->model, &types, &net, blocks, err));
    BB_TRY(bb_export_size(&r->model, &net, bytes, err));
done:
    bb_plan_done(&types);
    bb_free(blocks);
    return status;
}

/* A list of types cannot say what is gone, and llama-quantize cannot take it away. */
static bb_status check_recipe(const bb_run *r, const bb_front_plan *p, bb_err *err)
{
    uint64_t  bytes;
    bb_status status;
    if (!(p->pruned_fraction > 0)) return BB_OK;
    BB_TRY(unpruned_size(r, &p->plan, &bytes, err));
    status = BB_FAIL(err, BB_USAGE,
                     "plan %s removes %.1f %% of the blocks' weights, which a recipe of types cannot say: llama-quantize would make %llu bytes of it "
                     "where the plan has %lld; export it without --recipe, or search with --prune none",
                     p->hash, 100 * p->pruned_fraction, (unsigned long long)bytes, (long long)p->size_bytes);
done:
    return status;
}

bb_status bb_run_finalise_one(bb_run *r, const char *prefix, char hash[17], char **path, bb_err *err)
{
    bb_front_plan p = { 0 };
    bb_status     status;
    *path = NULL;
    BB_TRY(bb_front_find(r, prefix, &p, err));
    p.is_ruled_out = false; /* asked for by name */
    status = BB_NOMEM;
    if (!(*path = bb_run_path(r, err, "models/%s.gguf", p.hash))) goto done;
    if (!bb_file_exists(*path)) BB_TRY(bb_output_fits(*path, (uint64_t)p.size_bytes, err));
    memcpy(hash, p.hash, 17);
    BB_TRY(finalise_plans(r, &p, 1, NULL, err));
done:
    bb_plan_done(&p.plan);
    return status;
}

bb_status bb_run_export(bb_run *r, const char *hash, const char *path, const char *recipe, bb_err *err)
{
    bb_front_plan p = { 0 };
    bb_map        map = { 0 };
    bb_model      m = { 0 };
    char         *from = NULL;
    bool          opened = false;
    bb_status     status;
    BB_TRY(bb_front_find(r, hash, &p, err));
    p.is_ruled_out = false; /* asked for by name */
    if (recipe) BB_TRY(check_recipe(r, &p, err));
    status = BB_NOMEM;
    if (!(from = bb_run_path(r, err, "models/%s.gguf", p.hash))) goto done;
    BB_TRY(bb_output_fits(path, (uint64_t)p.size_bytes, err));
    if (!bb_file_exists(from)) BB_TRY(bb_output_fits(from, (uint64_t)p.size_bytes, err));
    BB_TRY(finalise_plans(r, &p, 1, NULL, err));
    if (recipe) {
        BB_TRY(bb_model_open(from, &m, err));
        opened = true;
        if (m.net.arch != r->model.net.arch) {
            status = BB_FAIL(err, BB_USAGE,
                             "plan %s is a %s, with tensors that a %s does not have, so that a recipe cannot name their types; export it without --recipe",
                             p.hash, m.net.arch->name, r->model.net.arch->name);
            goto done;
        }
    }
    BB_TRY(bb_map_open(from, &map, err));
    BB_TRY(bb_file_write(path, map.data, map.size, err));
    if (recipe) BB_TRY(write_recipe(&m, recipe, err));
done:
    if (opened) bb_model_close(&m);
    bb_map_close(&map);
    bb_free(from);
    bb_plan_done(&p.plan);
    return status;
}

/* The file's hash, bytes and plan key, and its score on the confirm windows, against what the run recorded. */
static bb_status verify_one(bb_run *r, const bb_front_plan *p, bb_err *err)
{
    char     *path = bb_run_path(r, err, "models/%s.gguf", p->hash);
    bb_model  m = { 0 };
    uint64_t  bytes;
    bool      found, opened = false;
    record    rec;
    bb_bytes  plan;
    double    kl, expected;
    bb_status status = BB_NOMEM;
    if (!path) return BB_NOMEM;
    BB_TRY(bb_finalised_check(r, p, err));
    BB_TRY(load_record(r, p->hash, &rec, &found, err));
    BB_TRY(bb_file_size(path, &bytes, err));
    BB_TRY(bb_model_open(path, &m, err));
    opened = true;
    BB_TRY(bb_source_text(&m.source, "bitbudget.plan", &plan, NULL, err));
    if (bytes != (uint64_t)p->size_bytes || plan.size != 16 || memcmp(plan.data, p->hash, 16) != 0) {
        status = BB_FAIL(err, BB_GUARD, "%s: %llu bytes of plan %.*s, recorded are %lld bytes of plan %s", path, (unsigned long long)bytes, (int)plan.size,
                         plan.data, (long long)p->size_bytes, p->hash);
        goto done;
    }
    BB_TRY(score_confirm(r, &m.net, &kl, err));
    expected = rec.ladder.kl_final;
    /* The same bits, unless the export had to permute rows for another rotary order: then sums run in another order. */
    if (fabs(kl - expected) > (m.net.rope_neox == r->model.net.rope_neox ? 0 : 1e-5 * fabs(expected)))
        status = BB_FAIL(err, BB_GUARD, "%s: KL on the confirm windows is %.9g, recorded is %.9g", path, kl, expected);
done:
    if (r->evaluator) bb_net_evaluator_forget(r->evaluator);
    if (opened) bb_model_close(&m);
    bb_free(path);
    return status;
}

bb_status bb_run_verify(bb_run *r, bb_err *err)
{
    bb_front    front = { 0 };
    bb_progress progress;
    uint64_t    cells = 0;
    size_t      n_files = 0;
    bb_status   status;
    BB_TRY(bb_run_evaluator(r, err));
    BB_TRY(bb_front_load_asked(r, &front, err));
    bb_progress_start(&progress, "verify", front.n);
    for (size_t i = 0; i < front.n; i++, bb_progress_add(&progress, 1)) {
        if (bb_front_is_spared(r, &front.plans[i])) continue;
        BB_TRY(verify_one(r, &front.plans[i], err));
        n_files++;
    }
    bb_progress_end(&progress);
    BB_TRY(bb_run_check_tables(r, &cells, err));
    bb_info("verified: the %zu files of models/ have the SHA-256, size, plan and KL on the confirm windows that finalise recorded; evaluated again, they give "
            "the %llu cells of front.csv, baselines.csv and layers.csv, guard.json and plan.json (KL before finalise as stored); model.gguf is the winner's "
            "file",
            n_files, (unsigned long long)cells);
done:
    bb_front_done(&front);
    return status;
}
