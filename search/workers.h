/* SPDX-License-Identifier: GPL-3.0-or-later
 * workers.h: an evaluator made of several: batches are cut into jobs, workers claim them, the answers go where they belong.
 *
 * How jobs reach workers is the transport's business. Here is the one for threads of this process; MPI ranks or array tasks of a batch system
 * need another `run`, nothing else: a job is a level and candidates, its answer scores and window means, all plain numbers.
 *
 * The answers do not depend on the number of workers or on the order in which they come, because every evaluator gives the same score for the same
 * candidate and level, bit for bit (problem.h). Jobs are neighbours in the batch: evaluators that keep a prefix of the network gain by that.
 */
#ifndef BB_SEARCH_WORKERS_H
#define BB_SEARCH_WORKERS_H

#include "search/problem.h"

typedef struct bb_job {
    uint32_t               level;
    size_t                 n;
    const uint16_t *const *x;         /* [n] candidates */
    bb_score              *out;       /* [n] */
    double *const         *window_kl; /* [n], each [windows of the level] or NULL; NULL: none */
    bb_status              status;    /* answer; its sentence is in err */
    bb_err                 err;
} bb_job;

typedef struct bb_transport {
    void    *self;
    uint32_t n_workers;
    /* Answers all jobs (status of each included), in any order and by any worker. Fails only when the transport itself does. */
    bb_status (*run)(void *self, bb_job *jobs, size_t n, bb_err *err);
} bb_transport;

/* Threads of this process, one an evaluator; workers[n] share n_levels, n_windows and key, and none is used from two threads at once. */
typedef struct bb_thread_workers {
    const bb_evaluator *workers;
    uint32_t            n;
} bb_thread_workers;
bb_transport bb_transport_threads(bb_thread_workers *threads);

/* The whole as one evaluator: levels, windows and key are `like`'s. Both are borrowed; use w->evaluator, w must not move. The first failure in the
 * order of the batch is the batch's. */
typedef struct bb_workers {
    bb_transport transport;
    bb_evaluator evaluator;
} bb_workers;
void bb_workers_init(bb_workers *w, bb_transport transport, const bb_evaluator *like);

#endif
