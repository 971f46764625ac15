/* SPDX-License-Identifier: GPL-3.0-or-later
 * mpi.c: see mpi.h. Messages: a question is {kind, size of the argument}, an answer {status, processor seconds, length of warnings and sentence} and what
 * belongs to it; tags tell them from "stop what you do" and "go home". */
#include "cli/mpi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

/* Whether, and as how many, a launcher has started this process: asked without MPI, so that a process alone need not start it. */
static int launched(int *rank)
{
    static const char *const vars[][2] = { { "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK" },
                                           { "PMI_SIZE", "PMI_RANK" },
                                           { "MPI_LOCALNRANKS", "MPI_LOCALRANKID" } };
    for (size_t i = 0; i < sizeof vars / sizeof *vars; i++) {
        const char *size = getenv(vars[i][0]), *at = getenv(vars[i][1]);
        int64_t     n, r;
        if (!size || !at || bb_parse_int(size, &n, NULL) != BB_OK || bb_parse_int(at, &r, NULL) != BB_OK || n < 1 || r < 0 || r >= n || n > 1 << 20) continue;
        *rank = (int)r;
        return (int)n;
    }
    return 0;
}

#ifndef BB_HAVE_MPI

const char *bb_mpi_name(void) { return "none"; }

bb_status bb_mpi_start(bb_mpi *m, int argc, char **argv, bb_err *err)
{
    (void)argc, (void)argv;
    *m = (bb_mpi) { .size = 1 };
    m->size = launched(&m->rank);
    if (m->size <= 1) {
        *m = (bb_mpi) { .size = 1 };
        return BB_OK;
    }
    return m->rank > 0 ? BB_OK
                       : BB_FAIL(err, BB_USAGE,
                                 "mpirun has started %d of this program, and it was built without MPI: install Open MPI (Debian: libopenmpi-dev) and run make "
                                 "again, or start one",
                                 m->size);
}

void bb_mpi_serve(bb_mpi *m) { (void)m; }
void bb_mpi_end(bb_mpi *m) { (void)m; }

#else

#include <limits.h>
#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "engine/ranks.h"

#define TEXT_OF(x) #x
#define NUMBER_OF(x) TEXT_OF(x)
#ifdef OMPI_MAJOR_VERSION
const char *bb_mpi_name(void) { return "Open MPI " NUMBER_OF(OMPI_MAJOR_VERSION) "." NUMBER_OF(OMPI_MINOR_VERSION) "." NUMBER_OF(OMPI_RELEASE_VERSION); }
#else
const char *bb_mpi_name(void) { return "MPI " NUMBER_OF(MPI_VERSION) "." NUMBER_OF(MPI_SUBVERSION); }
#endif

/* Two threads of a process have to do with MPI, and it may be called by one at a time: held for each call. */
static pthread_mutex_t calls = PTHREAD_MUTEX_INITIALIZER;

static double others_cpu_s; /* written while jobs run, by the thread that carries them */

enum { TAG_JOB = 1, TAG_ANSWER, TAG_STOP, TAG_HOME };

typedef struct answer_head {
    bb_status status;
    uint32_t  n_sentence, n_warnings;
    double    cpu_s;
} answer_head;

/* Waits without taking a processor: longer the longer nothing comes. */
static void doze(unsigned *idle)
{
    const long            us = *idle < 20 ? 50 : *idle < 200 ? 200 : 1000;
    const struct timespec t = { 0, us * 1000 };
    (*idle)++;
    nanosleep(&t, NULL);
}

static bb_status send(const bb_text *t, int to, int tag, bb_err *err)
{
    if (t->status != BB_OK) return BB_FAIL(err, BB_NOMEM, "out of memory for a message between ranks");
    if (t->size > INT_MAX) return BB_FAIL(err, BB_UNSUPPORTED, "a message between ranks has %zu bytes, and %d is the most", t->size, INT_MAX);
    pthread_mutex_lock(&calls);
    MPI_Send(t->data, (int)t->size, MPI_BYTE, to, tag, MPI_COMM_WORLD);
    pthread_mutex_unlock(&calls);
    return BB_OK;
}

static void send_empty(int to, int tag)
{
    pthread_mutex_lock(&calls);
    MPI_Send(NULL, 0, MPI_BYTE, to, tag, MPI_COMM_WORLD);
    pthread_mutex_unlock(&calls);
}

static bool probe(int from, int tag, MPI_Status *found)
{
    int any = 0;
    pthread_mutex_lock(&calls);
    MPI_Iprobe(from, tag, MPI_COMM_WORLD, &any, found);
    pthread_mutex_unlock(&calls);
    return any != 0;
}

/* Takes a message that there is no memory for off the queue: what is probed next would be taken for the answer to another job. That it is cut off is no error here. */
static void drop(const MPI_Status *found)
{
    char           nothing;
    MPI_Errhandler usual;
    pthread_mutex_lock(&calls);
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &usual);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Recv(&nothing, 1, MPI_BYTE, found->MPI_SOURCE, found->MPI_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, usual);
    MPI_Errhandler_free(&usual);
    pthread_mutex_unlock(&calls);
}

/* Receives what a probe has found; t is emptied first. */
static bb_status receive(const MPI_Status *found, bb_text *t)
{
    int n = 0;
    MPI_Get_count(found, MPI_BYTE, &n);
    t->size = 0;
    t->status = BB_OK;
    char *room = bb_realloc(t->data, (size_t)n + 1, 1, NULL);
    if (!room) {
        drop(found);
        return t->status = BB_NOMEM;
    }
    t->data = room;
    t->capacity = (size_t)n + 1;
    pthread_mutex_lock(&calls);
    MPI_Recv(t->data, n, MPI_BYTE, found->MPI_SOURCE, found->MPI_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    pthread_mutex_unlock(&calls);
    t->size = (size_t)n;
    t->data[n] = '\0';
    return BB_OK;
}

/* ---- peers ---- */

static MPI_Comm beside; /* what they say to each other, apart from jobs */

/* patient: sleeps meanwhile, for what may take long to come; else both are at it, and who finds the other without a processor sleeps too. */
static void finish(MPI_Request *requests, int n, bool patient)
{
    enum { QUICK = 1000 };
    unsigned idle = 0;
    for (int polls = patient ? QUICK : 0;; polls += polls < QUICK) {
        int done = 0;
        pthread_mutex_lock(&calls);
        MPI_Testall(n, requests, &done, MPI_STATUSES_IGNORE);
        pthread_mutex_unlock(&calls);
        if (done) return;
        if (polls < QUICK) sched_yield();
        else doze(&idle);
    }
}

/* Each says that it is there, and waits for the other: nothing large is under way while somebody sleeps. */
static void meet(int other)
{
    char        here = 0, there;
    MPI_Request r[2];
    pthread_mutex_lock(&calls);
    MPI_Isend(&here, 1, MPI_BYTE, other, 0, beside, &r[0]);
    MPI_Irecv(&there, 1, MPI_BYTE, other, 0, beside, &r[1]);
    pthread_mutex_unlock(&calls);
    finish(r, 2, true);
}

static void exchange(int other, bool sends, const bb_span *spans, size_t n)
{
    enum { PIECE = 1 << 30 }; /* MPI counts in int */
    meet(other);
    for (size_t i = 0; i < n; i++)
        for (size_t at = 0; at < spans[i].size; at += PIECE) {
            char       *p = (char *)spans[i].at + at;
            const int   size = spans[i].size - at < PIECE ? (int)(spans[i].size - at) : PIECE;
            MPI_Request r;
            pthread_mutex_lock(&calls);
            if (sends) MPI_Isend(p, size, MPI_BYTE, other, 1, beside, &r);
            else MPI_Irecv(p, size, MPI_BYTE, other, 1, beside, &r);
            pthread_mutex_unlock(&calls);
            finish(&r, 1, false);
        }
}

static void send_spans(void *self, uint32_t to, const bb_span *spans, size_t n)
{
    (void)self;
    exchange((int)to, true, spans, n);
}

static void receive_spans(void *self, uint32_t from, const bb_span *spans, size_t n)
{
    (void)self;
    exchange((int)from, false, spans, n);
}

/* ---- rank 0 ---- */

typedef struct dispatch {
    bb_desk       *desk;
    const bb_jobs *jobs;
    int            size;
    bool           each; /* one job for each rank */
    size_t        *busy; /* [size] the job + 1 of each; 0: none */
    bool          *told; /* [size] to stop; in `each`: has had its job */
    bool           stopped_here;
} dispatch;

/* A failed job's sentence says where it failed. */
static void hand_in(const dispatch *d, int rank, size_t job, const bb_text *message)
{
    bb_parcel   p = { message->data, message->size };
    answer_head h;
    bb_err      err = BB_ERR_INIT;
    char        sentence[640] = "";
    if (message->status == BB_NOMEM) {
        snprintf(sentence, sizeof sentence, "out of memory for the answer of rank %d", rank);
        bb_desk_answer(d->desk, job, BB_NOMEM, sentence, NULL, 0);
        return;
    }
    if (message->status != BB_OK || bb_parcel_take(&p, &h, sizeof h, &err) != BB_OK || h.n_sentence > p.left || h.n_warnings > p.left - h.n_sentence) {
        snprintf(sentence, sizeof sentence, "the answer of rank %d cannot be read", rank);
        bb_desk_answer(d->desk, job, BB_FAILED, sentence, NULL, 0);
        return;
    }
    others_cpu_s += h.cpu_s;
    if (h.n_warnings) bb_warn("rank %d: %.*s", rank, (int)h.n_warnings, p.at + h.n_sentence);
    snprintf(sentence, sizeof sentence, "rank %d: %.*s", rank, (int)h.n_sentence, p.at);
    p.at += h.n_sentence + h.n_warnings;
    p.left -= (size_t)h.n_sentence + h.n_warnings;
    bb_desk_answer(d->desk, job, h.status, sentence, p.at, p.left);
}

/* A job for a rank that has none; false: there is none. */
static bool give(const dispatch *d, int rank)
{
    bb_text  message = { 0 };
    bb_err   err = BB_ERR_INIT;
    size_t   i;
    uint32_t kind = d->jobs->kind;
    bool     given;
    bb_text_addn(&message, (const char *)&kind, sizeof kind);
    given = bb_desk_next(d->desk, &i, &message);
    if (given && send(&message, rank, TAG_JOB, &err) == BB_OK) d->busy[rank] = i + 1;
    else if (given) bb_desk_answer(d->desk, i, err.status, err.msg, NULL, 0);
    bb_text_done(&message);
    return given;
}

/* Ends what others do when a job has failed: the answers are not needed. */
static void stop_all(dispatch *d)
{
    for (int r = 1; r < d->size; r++) {
        if (!d->busy[r] || d->told[r]) continue;
        send_empty(r, TAG_STOP);
        d->told[r] = true;
    }
    if (!d->stopped_here && !d->each && !bb_interrupted()) {
        d->stopped_here = true;
        bb_interrupt_raise();
    }
}

/* Sends jobs and takes answers until all are done. */
static void *carry(void *self)
{
    dispatch *d = self;
    bb_text   message = { 0 };
    unsigned  idle = 0;
    bool      out = false;
    if (d->each)
        for (int r = 1; r < d->size; r++) give(d, r);
    for (;;) {
        int        n_busy = 0;
        MPI_Status found;
        for (int r = 1; r < d->size; r++) {
            if (!d->each && !d->busy[r] && !out) out = !give(d, r);
            n_busy += d->busy[r] != 0;
        }
        if (n_busy == 0 && (out || d->each)) break;
        if (bb_desk_failed(d->desk)) stop_all(d);
        if (!probe(MPI_ANY_SOURCE, TAG_ANSWER, &found)) {
            doze(&idle);
            continue;
        }
        idle = 0;
        receive(&found, &message);
        const size_t job = d->busy[found.MPI_SOURCE] - 1;
        d->busy[found.MPI_SOURCE] = 0;
        hand_in(d, found.MPI_SOURCE, job, &message);
    }
    bb_text_done(&message);
    return NULL;
}

static bb_status run(void *self, const bb_jobs *jobs, bb_err *err, bool each)
{
    const bb_mpi *m = self;
    dispatch      d = { .jobs = jobs, .size = m->size, .each = each };
    pthread_t     carrier;
    bb_status     status;
    d.busy = BB_NEW0((size_t)m->size, size_t, err);
    d.told = BB_NEW0((size_t)m->size, bool, err);
    status = d.busy && d.told ? BB_OK : BB_NOMEM;
    BB_TRY(status);
    BB_TRY(bb_desk_create(jobs, &d.desk, err));
    if (each) carry(&d);
    else if (pthread_create(&carrier, NULL, carry, &d) == 0) {
        bb_desk_work(d.desk, 0);
        pthread_join(carrier, NULL);
    } else carry(&d); /* the others alone */
    if (d.stopped_here) bb_interrupt_clear();
    status = bb_desk_close(d.desk, err);
done:
    bb_free(d.busy);
    bb_free(d.told);
    return status;
}

static bb_status run_jobs(void *self, const bb_jobs *jobs, bb_err *err) { return run(self, jobs, err, false); }
static bb_status run_each(void *self, const bb_jobs *jobs, bb_err *err) { return run(self, jobs, err, true); }

/* ---- the other ranks ---- */

/* The thread that listens and the one that works: one job at a time goes from the first to the second. */
typedef struct desk_of_rank {
    pthread_mutex_t mutex;
    pthread_cond_t  changed;
    bb_text         question, answer;
    enum { FREE, ASKED, ANSWERED, LEAVING } state;
    bb_text warnings;
} desk_of_rank;

static void *listen(void *self)
{
    desk_of_rank *d = self;
    unsigned      idle = 0;
    for (;;) {
        MPI_Status found;
        pthread_mutex_lock(&d->mutex);
        if (d->state == ANSWERED) {
            bb_err err = BB_ERR_INIT;
            if (send(&d->answer, 0, TAG_ANSWER, &err) != BB_OK) { /* a small one tells why */
                const answer_head h = { err.status, (uint32_t)strlen(err.msg), 0, 0 };
                bb_text           small = { 0 };
                bb_text_addn(&small, (const char *)&h, sizeof h);
                bb_text_add(&small, err.msg);
                send(&small, 0, TAG_ANSWER, NULL);
                bb_text_done(&small);
            }
            d->state = FREE;
            idle = 0;
        }
        pthread_mutex_unlock(&d->mutex);
        if (!probe(0, MPI_ANY_TAG, &found)) {
            doze(&idle);
            continue;
        }
        idle = 0;
        bb_text message = { 0 };
        receive(&found, &message);
        pthread_mutex_lock(&d->mutex);
        if (found.MPI_TAG == TAG_STOP && d->state == ASKED) bb_interrupt_raise(); /* one that comes late is for a job that has ended */
        if (found.MPI_TAG == TAG_JOB) {
            bb_text old = d->question;
            d->question = message;
            message = old;
            d->state = ASKED;
        }
        if (found.MPI_TAG == TAG_HOME) d->state = LEAVING;
        const bool leaving = d->state == LEAVING;
        pthread_cond_signal(&d->changed);
        pthread_mutex_unlock(&d->mutex);
        bb_text_done(&message);
        if (leaving) return NULL;
    }
}

/* What the job at hand warns of goes home with its answer. */
static void keep_warning(void *self, bb_log_level level, const char *text)
{
    desk_of_rank *d = self;
    if (level != BB_LOG_WARN) return;
    if (d->warnings.size) bb_text_add(&d->warnings, "; ");
    bb_text_add(&d->warnings, text);
}

static void work(desk_of_rank *d, bb_follower *f)
{
    bb_text      message = { 0 }, answer = { 0 };
    bb_err       err = BB_ERR_INIT;
    uint32_t     kind = BB_N_JOB_KINDS;
    bb_parcel    p = { d->question.data, d->question.size };
    const double cpu = bb_cpu_s();
    bb_status    status = d->question.status != BB_OK ? BB_FAIL(&err, BB_NOMEM, "out of memory for a message between ranks")
                                                      : bb_parcel_take(&p, &kind, sizeof kind, &err);
    d->warnings.size = 0;
    if (status == BB_OK) status = bb_follower_work(f, kind, p.at, p.left, &answer, &err);
    if (status == BB_OK && answer.status != BB_OK) status = BB_FAIL(&err, BB_NOMEM, "out of memory for an answer");
    if (kind == BB_JOB_FOLLOW || kind == BB_JOB_QAT_OPEN || kind == BB_JOB_QAT || status == BB_INTERRUPTED) d->warnings.size = 0; /* rank 0 has said them */
    const answer_head h = { status, (uint32_t)strlen(err.msg), (uint32_t)d->warnings.size, bb_cpu_s() - cpu };
    bb_text_addn(&message, (const char *)&h, sizeof h);
    bb_text_add(&message, err.msg);
    bb_text_addn(&message, d->warnings.data, d->warnings.size);
    if (status == BB_OK) bb_text_addn(&message, answer.data, answer.size);
    bb_text_done(&answer);
    bb_text_done(&d->answer);
    d->answer = message;
}

void bb_mpi_serve(bb_mpi *m)
{
    desk_of_rank       d = { .state = FREE };
    const bb_log_hooks hooks = { keep_warning, NULL, &d };
    bb_follower       *f = NULL;
    pthread_t          listener;
    (void)m;
    bb_log_set_hooks(&hooks);
    pthread_mutex_init(&d.mutex, NULL);
    pthread_cond_init(&d.changed, NULL);
    if (bb_follower_create(&f, NULL) != BB_OK || pthread_create(&listener, NULL, listen, &d) != 0) MPI_Abort(MPI_COMM_WORLD, 1);
    pthread_mutex_lock(&d.mutex);
    while (d.state != LEAVING) {
        if (d.state != ASKED) {
            pthread_cond_wait(&d.changed, &d.mutex);
            continue;
        }
        pthread_mutex_unlock(&d.mutex);
        work(&d, f);
        pthread_mutex_lock(&d.mutex);
        d.state = ANSWERED;
    }
    pthread_mutex_unlock(&d.mutex);
    pthread_join(listener, NULL);
    bb_follower_destroy(f);
    bb_text_done(&d.question);
    bb_text_done(&d.answer);
    bb_text_done(&d.warnings);
    bb_log_set_hooks(NULL);
    MPI_Finalize();
}

/* ---- start and end ---- */

static bool started;

bb_status bb_mpi_start(bb_mpi *m, int argc, char **argv, bb_err *err)
{
    int       provided, rank;
    uint64_t  own, *all;
    bb_text   line = { 0 };
    bb_status status = BB_OK;
    *m = (bb_mpi) { .size = 1 };
    if (launched(&rank) <= 1) return BB_OK;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &m->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &m->size);
    started = true;
    if (provided < MPI_THREAD_SERIALIZED) { /* of all ranks alike */
        status = m->rank ? BB_OK : BB_FAIL(err, BB_UNSUPPORTED, "this MPI cannot be called by more than one thread (%s)", bb_mpi_name());
        m->size = m->rank ? m->size : 1;
        MPI_Finalize();
        started = false;
        return status;
    }
    for (int i = 1; i < argc; i++) bb_text_addn(&line, argv[i], strlen(argv[i]) + 1);
    own = bb_hash64(line.data ? line.data : "", line.size, 0);
    bb_text_done(&line);
    all = BB_NEW((size_t)m->size, uint64_t, NULL);
    if (!all) MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Gather(&own, 1, MPI_UINT64_T, all, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    for (int r = 1; m->rank == 0 && r < m->size && status == BB_OK; r++)
        if (all[r] != own) status = BB_FAIL(err, BB_USAGE, "rank %d was started with other arguments than rank 0: all ranks get the same command line", r);
    bb_free(all);
    MPI_Comm_dup(MPI_COMM_WORLD, &beside);
    m->crew = (bb_crew) { m, 1, (uint32_t)m->size, (uint32_t)m->size - 1, run_jobs, run_each, &others_cpu_s };
    m->peers = (bb_peers) { NULL, (uint32_t)m->rank, (uint32_t)m->size, send_spans, receive_spans };
    if (m->size > 1) bb_ranks_use(m->rank == 0 ? &m->crew : NULL, &m->peers);
    return status;
}

void bb_mpi_end(bb_mpi *m)
{
    if (!started || m->rank > 0) return;
    for (int r = 1; r < m->size; r++) send_empty(r, TAG_HOME);
    MPI_Finalize();
    started = false;
}

#endif
