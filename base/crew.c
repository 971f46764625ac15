/* SPDX-License-Identifier: GPL-3.0-or-later
 * crew.c: see crew.h. */
#include "base/crew.h"

#include <locale.h>
#include <omp.h>
#include <pthread.h>
#include <string.h>

#include "base/log.h"
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
    pthread_mutex_lock(&d->mutex);
    const bool interrupted = status == BB_INTERRUPTED, was = d->err.status == BB_INTERRUPTED;
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

/* Those who work at a desk, and the threads of OpenMP that they have together. */
typedef struct team {
    bb_desk        *desk;
    pthread_mutex_t mutex;
    uint32_t        n_here; /* workers that have not left */
    int             threads;
    bool           *here;    /* of each worker */
    bool            stopped; /* bb_interrupt_raise was called for a job that failed */
    locale_t        locale;  /* of the thread that started them, which its jobs read and write numbers by */
} team;

typedef struct seat {
    team     *team;
    uint32_t  worker;
    bool      has_thread;
    pthread_t thread;
} seat;

static _Thread_local const seat *own;

static int part_of(const seat *s)
{
    team    *t = s->team;
    uint32_t before = 0;
    pthread_mutex_lock(&t->mutex);
    for (uint32_t w = 0; w < s->worker; w++) before += t->here[w];
    const int n = (int)(t->n_here ? t->n_here : 1), part = t->threads / n + ((int)before < t->threads % n);
    pthread_mutex_unlock(&t->mutex);
    return part > 0 ? part : 1;
}

void bb_crew_share(void)
{
    if (own) omp_set_num_threads(part_of(own));
}

/* What others are doing is of no use any more. */
static void stop_others(team *t)
{
    pthread_mutex_lock(&t->mutex);
    if (!t->stopped && bb_desk_failed(t->desk) && !bb_interrupted()) {
        t->stopped = true;
        bb_interrupt_raise();
    }
    pthread_mutex_unlock(&t->mutex);
}

static void *sit(void *self)
{
    const seat *s = self, *before = own;
    const int   threads = omp_get_max_threads();
    own = s;
    bb_crew_share();
    bb_desk_work(s->team->desk, s->worker);
    stop_others(s->team);
    pthread_mutex_lock(&s->team->mutex);
    s->team->here[s->worker] = false;
    s->team->n_here--;
    pthread_mutex_unlock(&s->team->mutex);
    own = before;
    omp_set_num_threads(threads);
    return NULL;
}

/* A thread of its own leaves nothing behind that only it knows of. */
static void *sit_aside(void *self)
{
    uselocale(((const seat *)self)->team->locale);
    sit(self);
    bb_progress_leave();
    return NULL;
}

/* A worker whose thread cannot be started has no part in it. */
static bb_status run_threads(void *self, const bb_jobs *jobs, bb_err *err)
{
    const size_t n = (size_t)(uintptr_t)self, most = n < jobs->n ? n : jobs->n;
    team         t = { .n_here = 1, .threads = omp_get_max_threads(), .locale = uselocale((locale_t)0) };
    seat        *seats = NULL;
    bb_status    status = bb_desk_create(jobs, &t.desk, err);
    if (status != BB_OK) return status;
    pthread_mutex_init(&t.mutex, NULL);
    if (!(seats = BB_NEW0(most, seat, err)) || !(t.here = BB_NEW0(most, bool, err))) status = BB_NOMEM;
    BB_TRY(status);
    t.here[0] = true;
    seats[0] = (seat) { .team = &t };
    pthread_mutex_lock(&t.mutex); /* parts are told when all are there */
    for (size_t w = 1; w < most; w++) {
        seats[w] = (seat) { .team = &t, .worker = (uint32_t)w };
        t.here[w] = seats[w].has_thread = pthread_create(&seats[w].thread, NULL, sit_aside, &seats[w]) == 0;
        t.n_here += t.here[w];
    }
    pthread_mutex_unlock(&t.mutex);
    sit(&seats[0]);
    for (size_t w = 1; w < most; w++)
        if (seats[w].has_thread) pthread_join(seats[w].thread, NULL);
    if (t.stopped) bb_interrupt_clear();
done:
    bb_free(seats);
    bb_free(t.here);
    pthread_mutex_destroy(&t.mutex);
    const bb_status was = bb_desk_close(t.desk, status == BB_OK ? err : NULL);
    return status == BB_OK ? was : status;
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
