/* SPDX-License-Identifier: GPL-3.0-or-later
 * ranks.c: see ranks.h. */
#include "engine/ranks.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/jobs.h"
#include "engine/keys.h"
#include "engine/run_parts.h"
#include "engine/score.h"
#include "engine/scorer.h"
#include "engine/start.h"
#include "engine/version.h"

static const bb_crew  *of_process;
static const bb_peers *peers_of_process;

void bb_ranks_use(const bb_crew *crew, const bb_peers *peers)
{
    of_process = crew;
    peers_of_process = peers;
}

const bb_crew  *bb_ranks_crew(void) { return of_process; }
const bb_peers *bb_ranks_peers(void) { return peers_of_process; }

/* ---- what all ranks must have alike ---- */

/* As text, a line each, in the order in which a difference is looked for. Options are known by number between ranks: so the space counts, too. */
static bb_status print_common(bb_run *r, bb_text *t, bb_err *err)
{
    char      space[65], text[65] = "";
    bb_status status = BB_OK;
    if (*r->config.eval) BB_TRY(bb_sha256_file(r->config.eval, text, err));
    bb_key_space(r, space);
    bb_text_addf(t, "build: %s %s\n", BB_VERSION, bb_version_commit());
    BB_TRY(bb_keys_identify(r, t, err));
    bb_text_addf(t, "evaluation text: %s\nspace of plans: %s\n", text, space);
    if (t->status != BB_OK) status = BB_FAIL(err, BB_NOMEM, "out of memory while ranks were compared");
done:
    return status;
}

/* ---- rank 0: opening the run on the others ---- */

typedef struct entering {
    const bb_run *run;
    bb_text       common;
} entering;

static bb_status ask_follow(void *self, size_t i, bb_text *question, bb_err *err)
{
    const entering *e = self;
    const char      is_sweep = e->run->is_sweep;
    char           *path = realpath(e->run->config.out, NULL);
    (void)i;
    if (!path) return BB_FAIL(err, BB_IO, "%s: the folder of the run has no path", e->run->config.out);
    bb_text_addn(question, &is_sweep, 1);
    bb_text_addn(question, path, strlen(path) + 1);
    free(path);
    return BB_OK;
}

void bb_ranks_add_host(bb_text *answer)
{
    char host[256] = "";
    if (gethostname(host, sizeof host - 1) != 0) *host = '\0';
    bb_text_addn(answer, host, strlen(host) + 1);
}

bb_status bb_ranks_compare(size_t i, const char *answer, size_t size, const bb_text *own, bb_err *err)
{
    const char *end = memchr(answer, '\0', size);
    char        difference[512];
    if (!end) return BB_FAIL(err, BB_FAILED, "rank %zu does not say what it has: is it of this build?", i + 1);
    const char  *its = end + 1;
    const size_t n = size - (size_t)(its - answer);
    if (n == own->size && memcmp(its, own->data, n) == 0) return BB_OK;
    bb_keys_difference(its, n, own->data, " there is ", ", here ", difference, sizeof difference);
    return BB_FAIL(err, BB_USAGE, "rank %zu (%s) has something else than rank 0 (%s): every rank needs the same program, model, texts and kind of processor",
                   i + 1, answer, difference);
}

static bb_status take_follow(void *self, size_t i, const char *answer, size_t size, bb_err *err)
{
    return bb_ranks_compare(i, answer, size, &((const entering *)self)->common, err);
}

static bb_status do_nothing(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    (void)self, (void)worker, (void)question, (void)size, (void)answer, (void)err;
    return BB_OK;
}

bb_status bb_ranks_enter(bb_run *r, bb_err *err)
{
    entering  e = { .run = r };
    bb_status status;
    if (!of_process || !of_process->n_others) return BB_OK;
    const bb_jobs jobs = { BB_JOB_FOLLOW, of_process->n_others, &e, ask_follow, do_nothing, take_follow };
    BB_TRY(print_common(r, &e.common, err));
    r->crew = of_process; /* from here on others may have the run open */
    BB_TRY(of_process->each(of_process->self, &jobs, err));
done:
    bb_text_done(&e.common);
    return status;
}

static bb_status ask_nothing(void *self, size_t i, bb_text *question, bb_err *err)
{
    (void)self, (void)i, (void)question, (void)err;
    return BB_OK;
}

static bb_status take_nothing(void *self, size_t i, const char *answer, size_t size, bb_err *err)
{
    (void)self, (void)i, (void)answer, (void)size, (void)err;
    return BB_OK;
}

void bb_ranks_dismiss(const bb_crew *crew)
{
    const bb_jobs jobs = { BB_JOB_LEAVE, crew->n_others, NULL, ask_nothing, do_nothing, take_nothing };
    crew->each(crew->self, &jobs, NULL);
}

void bb_ranks_leave(bb_run *r)
{
    if (r->crew) bb_ranks_dismiss(r->crew);
    r->crew = NULL;
}

/* ---- the others ---- */

struct bb_follower {
    bb_run                 run;
    bool                   follows, has_scorer;
    bb_scorer              scorer;
    bb_sensitivity_worker *sensitivity;
    bb_evaluating          evaluating;
    bb_qat_share          *qat;
};

/* What works on the run's evaluator, and goes before it. */
static void leave_evaluator(bb_follower *f)
{
    bb_sensitivity_worker_destroy(f->sensitivity);
    f->sensitivity = NULL;
    if (f->has_scorer) bb_scorer_done(&f->scorer);
    f->has_scorer = false;
}

static void leave(bb_follower *f)
{
    bb_qat_share_done(f->qat);
    f->qat = NULL;
    bb_evaluating_done(&f->evaluating);
    leave_evaluator(f);
    if (f->follows) bb_run_close(&f->run);
    f->follows = false;
}

static bb_status answer_follow(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_parcel p = { question, size };
    char      is_sweep;
    bb_status status;
    leave(f);
    BB_TRY(bb_parcel_take(&p, &is_sweep, 1, err));
    if (!memchr(p.at, '\0', p.left)) return BB_FAIL(err, BB_FAILED, "a message between ranks names no run");
    BB_TRY(bb_run_follow(&f->run, p.at, is_sweep != 0, err));
    f->follows = true;
    bb_ranks_add_host(answer);
    BB_TRY(print_common(&f->run, answer, err));
done:
    return status;
}

static bb_status answer_leave(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    (void)question, (void)size, (void)answer, (void)err;
    leave(f);
    return BB_OK;
}

static bb_status answer_options(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_status status = bb_run_calibrate(&f->run, err);
    return status == BB_OK ? bb_options_answer(&f->run, NULL, question, size, answer, err) : status;
}

static bb_status answer_change(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_run   *r = &f->run;
    bb_status status;
    BB_TRY(bb_run_calibrate(r, err));
    if (!f->sensitivity) {
        const bb_sensitivity_options o = bb_run_sensitivity_options(r);
        BB_TRY(bb_sensitivity_worker_create(r->evaluator, &r->model, r->database, &r->levels[BB_LEVEL_SKETCH], &o, &f->sensitivity, err));
    }
    BB_TRY(bb_sensitivity_worker_answer(f->sensitivity, question, size, answer, err));
done:
    return status;
}

static bb_status answer_score(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_run_calibrate(&f->run, err));
    if (!f->has_scorer) BB_TRY(bb_scorer_init(&f->run, &f->scorer, err));
    f->has_scorer = true;
    BB_TRY(bb_workers_answer(&f->scorer.evaluator, bb_model_space_problem(f->run.space)->n_units, question, size, answer, err));
done:
    return status;
}

static bb_status answer_finalise(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_status status = bb_run_calibrate(&f->run, err);
    return status == BB_OK ? bb_finalise_answer(&f->run, question, size, answer, err) : status;
}

static bb_status answer_evaluate(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    leave_evaluator(f);
    return bb_evaluate_answer(&f->run, &f->evaluating, question, size, answer, err);
}

static bb_status answer_qat_open(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    leave(f);
    return bb_qat_share_open(question, size, answer, &f->qat, err);
}

static bb_status answer_qat(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    (void)question, (void)size, (void)answer;
    return bb_qat_share_train(f->qat, err);
}

static const struct {
    bb_status (*answer)(bb_follower *f, const char *question, size_t size, bb_text *answer, bb_err *err);
    bool needs_run;
} kinds[BB_N_JOB_KINDS] = {
    [BB_JOB_FOLLOW] = { answer_follow, false },    [BB_JOB_LEAVE] = { answer_leave, false },       [BB_JOB_OPTIONS] = { answer_options, true },
    [BB_JOB_CHANGE] = { answer_change, true },     [BB_JOB_SCORE] = { answer_score, true },        [BB_JOB_FINALISE] = { answer_finalise, true },
    [BB_JOB_EVALUATE] = { answer_evaluate, true }, [BB_JOB_QAT_OPEN] = { answer_qat_open, false }, [BB_JOB_QAT] = { answer_qat, false },
};

bb_status bb_follower_create(bb_follower **f, bb_err *err)
{
    *f = BB_NEW0(1, bb_follower, err);
    return *f ? BB_OK : BB_NOMEM;
}

void bb_follower_destroy(bb_follower *f)
{
    if (!f) return;
    leave(f);
    bb_free(f);
}

bb_status bb_follower_work(void *self, uint32_t kind, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_follower *f = self;
    if (kind >= BB_N_JOB_KINDS)
        return BB_FAIL(err, BB_FAILED, "a job of kind %u came to a rank that knows %d kinds: is it of another build?", kind, BB_N_JOB_KINDS);
    if (kinds[kind].needs_run && !f->follows) return BB_FAIL(err, BB_FAILED, "a job came to a rank that has no run open");
    return kinds[kind].answer(f, question, size, answer, err);
}
