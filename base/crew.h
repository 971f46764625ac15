/* SPDX-License-Identifier: GPL-3.0-or-later
 * crew.h: numbered jobs, done by whoever there is: this thread, threads of this process, other processes on other machines.
 *
 * A job goes out as bytes that say all about it (the question) and comes back as bytes (the answer), so that it may be done anywhere. Which worker does
 * a job, and in which order the answers come, must not change them: a job's answer depends on its question alone, and every taker puts it where its number
 * says. Jobs are given out in the order of their numbers, so that neighbours which share work may be put side by side.
 *
 * How jobs reach workers is the crew's business: `run` and `each` are all that another kind of crew needs.
 */
#ifndef BB_BASE_CREW_H
#define BB_BASE_CREW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"

typedef struct bb_jobs {
    uint32_t kind; /* what other processes know the work by; of no meaning where all is done in this one */
    size_t   n;
    void    *self;
    /* Appends what job i is. */
    bb_status (*ask)(void *self, size_t i, bb_text *question, bb_err *err);
    /* Does a job here, and appends its answer. worker: below the crew's n_workers, none used by two threads at once. */
    bb_status (*work)(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err);
    /* Takes the answer of job i, whoever did it: one call at a time, in any order, on any thread. What is to outlive the process is stored here. */
    bb_status (*take)(void *self, size_t i, const char *answer, size_t size, bb_err *err);
} bb_jobs;

typedef struct bb_crew {
    void    *self;
    uint32_t n_workers; /* of this process: how many threads call `work` at the same time */
    uint32_t n_all;     /* all that do jobs, here and elsewhere: how finely work is cut */
    uint32_t n_others;  /* processes beside this one */
    /* Does all jobs, or stops at a failure: then the first in the order of the jobs is returned (before any that was only interrupted by it). */
    bb_status (*run)(void *self, const bb_jobs *jobs, bb_err *err);
    /* One job for each of the other processes: job i for the i-th of them; n is n_others. NULL where there are none. */
    bb_status (*each)(void *self, const bb_jobs *jobs, bb_err *err);
    const double *others_cpu_s; /* processor seconds that they have used for jobs so far; NULL: none */
} bb_crew;

/* crew NULL: one job after the other on this thread. */
bb_status bb_crew_run(const bb_crew *crew, const bb_jobs *jobs, bb_err *err);

/* Threads of this process; they are started by each run. They share the threads that OpenMP gives the caller (omp_get_max_threads): parallel loops within a job
 * have this worker's part of them, at least one, and a larger part once other workers find no job any more. When a job fails, bb_interrupted says so to those that
 * are under way, until all have ended. */
bb_crew bb_crew_threads(uint32_t n);

/* For jobs that last: takes this worker's part of the threads as it is now. For places at which nothing that is in use was sized by their number. Harmless where
 * the thread is no worker. */
void bb_crew_share(void);

/* Questions and answers are plain values behind one another: bb_text_addn writes them, this reads them. */
typedef struct bb_parcel {
    const char *at;
    size_t      left;
} bb_parcel;
/* Copies the next n bytes to out (NULL: passes over them). BB_FAILED: it has fewer, as one of another build may have. */
bb_status bb_parcel_take(bb_parcel *p, void *out, size_t n, bb_err *err);

/* ---- for those who write a crew ---- */

/* Where jobs are given out and answers handed in. Thread-safe. */
typedef struct bb_desk bb_desk;
bb_status              bb_desk_create(const bb_jobs *jobs, bb_desk **desk, bb_err *err);
/* The next job's number and question (appended); false: there is none left, or a job has failed. */
bool bb_desk_next(bb_desk *desk, size_t *i, bb_text *question);
/* Hands in what became of job i; why: the sentence of a status that is not BB_OK. */
void bb_desk_answer(bb_desk *desk, size_t i, bb_status status, const char *why, const char *answer, size_t size);
bool bb_desk_failed(bb_desk *desk);
/* Gives and does jobs until there is none left: what a worker of this process does. */
void bb_desk_work(bb_desk *desk, uint32_t worker);
/* What became of all, after the last answer; destroys. */
bb_status bb_desk_close(bb_desk *desk, bb_err *err);

#endif
