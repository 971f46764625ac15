/* SPDX-License-Identifier: GPL-3.0-or-later
 * crew.c: see crew.h. */
#include "base/crew.h"

#include <pthread.h>
#include <string.h>

#include "base/mem.h"

/* ---- the desk ---- */

struct bb_desk {
    const bb_jobs  *jobs;
    pthread_mutex_t mutex, taking; /* the second is held while an answer is taken, so that jobs go out meanwhile */
    size_t          next, failed;  /* failed: the job whose failure stands in err */
    bb_err          err;
};

bb_status bb_desk_create(const bb_jobs *jobs, bb_desk **desk, bb_err *err)
{
    bb_desk *d = BB_NEW0(1, bb_desk, err);
    *desk = d;
    if (!d) return BB_NOMEM;
    d->jobs = jobs;
    d->err = (bb_err)BB_ERR_INIT;
    pthread_mutex_init(&d->mutex, NULL);
    pthread_mutex_init(&d->taking, NULL);
    return BB_OK;
}

/* The first in the order of the jobs counts; one that was interrupted only where no other failed: it may be so because another did. */
static void fail(bb_desk *d, size_t i, bb_status status, const char *why)
{
    const bool interrupted = status == BB_INTERRUPTED, was = d->err.status == BB_INTERRUPTED;
    pthread_mutex_lock(&d->mutex);
    if (d->err.status == BB_OK || (was && !interrupted) || (was == interrupted && i < d->failed)) {
        d->err = (bb_err)BB_ERR_INIT;
        BB_FAIL(&d->err, status, "%s", why);
        d->failed = i;
    }
    pthread_mutex_unlock(&d->mutex);
}

bool bb_desk_failed(bb_desk *d)
{
    pthread_mutex_lock(&d->mutex);
    const bool failed = d->err.status != BB_OK;
    pthread_mutex_unlock(&d->mutex);
    return failed;
}

bool bb_desk_next(bb_desk *d, size_t *i, bb_text *question)
{
    bb_err    why = BB_ERR_INIT;
    bb_status status;
    pthread_mutex_lock(&d->mutex);
    const bool any = d->err.status == BB_OK && d->next < d->jobs->n;
    if (any) *i = d->next++;
    pthread_mutex_unlock(&d->mutex);
    if (!any) return false;
    status = d->jobs->ask(d->jobs->self, *i, question, &why);
    if (status == BB_OK && question->status != BB_OK) status = BB_FAIL(&why, BB_NOMEM, "out of memory for a job's question");
    if (status != BB_OK) fail(d, *i, status, why.msg);
    return status == BB_OK;
}

void bb_desk_answer(bb_desk *d, size_t i, bb_status status, const char *why, const char *answer, size_t size)
{
    bb_err own = BB_ERR_INIT;
    if (status == BB_OK) {
        pthread_mutex_lock(&d->taking);
        status = d->jobs->take(d->jobs->self, i, answer, size, &own);
        pthread_mutex_unlock(&d->taking);
        why = own.msg;
    }
    if (status != BB_OK) fail(d, i, status, why);
}

void bb_desk_work(bb_desk *d, uint32_t worker)
{
    bb_text question = { 0 }, answer = { 0 };
    size_t  i;
    while (bb_desk_next(d, &i, &question)) {
        bb_err    why = BB_ERR_INIT;
        bb_status status = d->jobs->work(d->jobs->self, worker, question.data, question.size, &answer, &why);
        if (status == BB_OK && answer.status != BB_OK) status = BB_FAIL(&why, BB_NOMEM, "out of memory for a job's answer");
        bb_desk_answer(d, i, status, why.msg, answer.data, answer.size);
        question.size = answer.size = 0;
    }
    bb_text_done(&question);
    bb_text_done(&answer);
}

bb_status bb_desk_close(bb_desk *d, bb_err *err)
{
    const bb_status status = d->err.status;
    if (status != BB_OK) bb_fail_at(err, status, d->err.file, d->err.line, "%s", d->err.msg);
    pthread_mutex_destroy(&d->mutex);
    pthread_mutex_destroy(&d->taking);
    bb_free(d);
    return status;
}

/* ---- parcels ---- */

bb_status bb_parcel_take(bb_parcel *p, void *out, size_t n, bb_err *err)
{
    if (n > p->left) return BB_FAIL(err, BB_FAILED, "a message between workers is %zu bytes short: are they of one build?", n - p->left);
    if (out && n) memcpy(out, p->at, n);
    p->at += n;
    p->left -= n;
    return BB_OK;
}

/* ---- this thread, and threads ---- */

static bb_status run_threads(void *self, const bb_jobs *jobs, bb_err *err)
{
    const int n = (int)(uintptr_t)self;
    bb_desk  *desk;
    bb_status status = bb_desk_create(jobs, &desk, err);
    if (status != BB_OK) return status;
#pragma omp parallel for num_threads(n) schedule(static, 1)
    for (int w = 0; w < n; w++) bb_desk_work(desk, (uint32_t)w);
    return bb_desk_close(desk, err);
}

bb_crew bb_crew_threads(uint32_t n) { return (bb_crew) { (void *)(uintptr_t)n, n, n, 0, run_threads, NULL, NULL }; }

bb_status bb_crew_run(const bb_crew *crew, const bb_jobs *jobs, bb_err *err)
{
    bb_desk  *desk;
    bb_status status;
    if (jobs->n == 0) return BB_OK;
    if (crew) return crew->run(crew->self, jobs, err);
    if ((status = bb_desk_create(jobs, &desk, err)) != BB_OK) return status;
    bb_desk_work(desk, 0);
    return bb_desk_close(desk, err);
}
