/* SPDX-License-Identifier: GPL-3.0-or-later
 * workers.c: see workers.h. */
#include "search/workers.h"

#include "base/mem.h"

/* ---- threads ---- */

static void answer(const bb_evaluator *e, bb_job *job)
{
    job->err = (bb_err)BB_ERR_INIT;
    job->status = e->evaluate(e->self, job->x, job->n, job->level, job->out, job->window_kl, &job->err);
}

static bb_status run_threads(void *self, bb_job *jobs, size_t n, bb_err *err)
{
    const bb_thread_workers *t = self;
    size_t                   next = 0;
    (void)err;
#pragma omp        parallel for num_threads((int)t->n) schedule(static, 1)
    for (uint32_t w = 0; w < t->n; w++) {
               for (;;) {
                   size_t claimed;
       #pragma omp atomic capture
            claimed = next++;
            if (claimed >= n) break;
            answer(&t->workers[w], &jobs[claimed]);
        }
    }
    return BB_OK;
}

bb_transport bb_transport_threads(bb_thread_workers *threads) { return (bb_transport) { threads, threads->n, run_threads }; }

/* ---- batches ---- */

/* Jobs of about a quarter of a worker's share: few enough that neighbours stay together, enough that no worker waits long for the last. */
static size_t job_size(size_t n, uint32_t n_workers)
{
    const size_t size = n / (4 * (size_t)n_workers);
    return size ? size : 1;
}

static bb_status evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    const bb_workers *w = self;
    const size_t      size = job_size(n, w->transport.n_workers), n_jobs = (n + size - 1) / size;
    bb_job           *jobs = BB_NEW0(n_jobs, bb_job, err);
    bb_status         status;
    if (!jobs) return BB_NOMEM;
    for (size_t i = 0; i < n_jobs; i++) {
        const size_t first = i * size;
        jobs[i] = (bb_job) {
            .level = level, .n = n - first < size ? n - first : size, .x = x + first, .out = out + first, .window_kl = window_kl ? window_kl + first : NULL
        };
    }
    BB_TRY(w->transport.run(w->transport.self, jobs, n_jobs, err));
    for (size_t i = 0; i < n_jobs; i++) {
        if (jobs[i].status != BB_OK) status = BB_FAIL(err, jobs[i].status, "%s", jobs[i].err.msg);
        BB_TRY(status);
    }
done:
    bb_free(jobs);
    return status;
}

void bb_workers_init(bb_workers *w, bb_transport transport, const bb_evaluator *like)
{
    *w = (bb_workers) { transport, *like };
    w->evaluator.self = w;
    w->evaluator.evaluate = evaluate;
}
