/* SPDX-License-Identifier: GPL-3.0-or-later
 * workers.c: see workers.h. */
#include "search/workers.h"

#include "base/mem.h"

typedef struct batch {
    const bb_workers      *w;
    const uint16_t *const *x;
    size_t                 n, job_size;
    uint32_t               level;
    bb_score              *out;
    double *const         *window_kl;
} batch;

/* What a question begins with; the candidates follow, n times width. */
typedef struct head {
    uint32_t level, width, n, wants_windows;
} head;

static size_t size_of(const batch *b, size_t first) { return b->n - first < b->job_size ? b->n - first : b->job_size; }

static bb_status ask(void *self, size_t i, bb_text *question, bb_err *err)
{
    const batch *b = self;
    const size_t first = i * b->job_size, n = size_of(b, first);
    head         h = { b->level, b->w->width, (uint32_t)n, 0 };
    (void)err;
    for (size_t k = 0; k < n; k++) h.wants_windows |= b->window_kl && b->window_kl[first + k];
    bb_text_addn(question, (const char *)&h, sizeof h);
    for (size_t k = 0; k < n; k++) bb_text_addn(question, (const char *)b->x[first + k], h.width * sizeof(uint16_t));
    return BB_OK;
}

static bb_status work(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    const batch *b = self;
    return bb_workers_answer(&b->w->each[worker], b->w->width, question, size, answer, err);
}

static bb_status take(void *self, size_t i, const char *answer, size_t size, bb_err *err)
{
    const batch *b = self;
    const size_t first = i * b->job_size, n = size_of(b, first), n_windows = b->w->evaluator.n_windows[b->level];
    bb_parcel    p = { answer, size };
    bb_status    status;
    BB_TRY(bb_parcel_take(&p, b->out + first, n * sizeof *b->out, err));
    for (size_t k = 0; p.left && k < n; k++) BB_TRY(bb_parcel_take(&p, b->window_kl ? b->window_kl[first + k] : NULL, n_windows * sizeof(double), err));
done:
    return status;
}

bb_status bb_workers_answer(const bb_evaluator *e, uint32_t width, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    bb_parcel        p = { question, size };
    head             h;
    const uint16_t **x = NULL;
    uint16_t        *all = NULL;
    bb_score        *out = NULL;
    double          *windows = NULL, **each = NULL;
    size_t           n_windows;
    bb_status        status;
    BB_TRY(bb_parcel_take(&p, &h, sizeof h, err));
    if (h.width != width || h.level >= e->n_levels || p.left != (size_t)h.n * width * sizeof *all) {
        status = BB_FAIL(err, BB_FAILED, "candidates of %u units at level %u came to a worker that scores %u units at %u levels", h.width, h.level, width,
                         e->n_levels);
        goto done;
    }
    n_windows = h.wants_windows ? e->n_windows[h.level] : 0;
    status = BB_NOMEM;
    if (!(x = BB_NEW(h.n, const uint16_t *, err)) || !(all = BB_NEW((size_t)h.n * width, uint16_t, err)) || !(out = BB_NEW0(h.n, bb_score, err)) ||
        !(windows = BB_NEW(h.n * n_windows, double, err)) || !(each = BB_NEW(h.n, double *, err)))
        goto done;
    BB_TRY(bb_parcel_take(&p, all, (size_t)h.n * width * sizeof *all, err));
    for (size_t k = 0; k < h.n; k++) {
        x[k] = all + k * width;
        each[k] = windows + k * n_windows;
    }
    BB_TRY(e->evaluate(e->self, x, h.n, h.level, out, h.wants_windows ? (double *const *)each : NULL, err));
    bb_text_addn(answer, (const char *)out, h.n * sizeof *out);
    bb_text_addn(answer, (const char *)windows, h.n * n_windows * sizeof *windows);
done:
    bb_free(x);
    bb_free(all);
    bb_free(out);
    bb_free(windows);
    bb_free(each);
    return status;
}

/* Jobs of about a quarter of a worker's share: few enough that neighbours stay together, enough that no worker waits long for the last. */
static size_t job_size(size_t n, uint32_t n_workers)
{
    const size_t size = n / (4 * (size_t)n_workers);
    return size ? size : 1;
}

static bb_status evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    const bb_workers *w = self;
    batch             b = { w, x, n, job_size(n, w->crew->n_all), level, out, window_kl };
    const bb_jobs     jobs = { w->kind, (n + b.job_size - 1) / b.job_size, &b, ask, work, take };
    return bb_crew_run(w->crew, &jobs, err);
}

void bb_workers_init(bb_workers *w, const bb_crew *crew, uint32_t kind, const bb_evaluator *each, uint32_t width)
{
    *w = (bb_workers) { crew, kind, each, width, each[0] };
    w->evaluator.self = w;
    w->evaluator.evaluate = evaluate;
}
