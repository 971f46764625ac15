/* SPDX-License-Identifier: GPL-3.0-or-later
 * evaluate.c: perplexity and KL over windows. See evaluate.h.
 *
 * Windows pass through the network in batches; of the final hidden states only the rows of scored positions are kept. Standard errors
 * are those that llama-perplexity prints: of the mean over scored tokens taken as independent, sqrt((E[x^2] - E[x]^2) / (n - 1)); for
 * the perplexity, times the perplexity. Tokens of one text are not independent, so they are somewhat too small; a difference between
 * two networks is far more precise than they suggest, because both see the same tokens (ln_ratio is paired). Quantiles interpolate
 * linearly between the order statistics at q (n - 1).
 */
#include "eval/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/crew.h"
#include "base/log.h"
#include "base/mem.h"

enum { BATCH_TOKENS = 4096 };

uint32_t bb_batch_windows(uint32_t ctx) { return ctx >= BATCH_TOKENS ? 1 : BATCH_TOKENS / ctx; }

/* ---- networks over batches ---- */

/* A network with room for one batch. */
typedef struct runner {
    const bb_backend *backend;
    const bb_net     *net;
    const bb_windows *w;
    bb_forward       *f;
    bb_buffer         h;       /* (batch * ctx, C) */
    bb_buffer         scored;  /* (batch * n_scored, C) */
    int32_t          *targets; /* [batch * n_scored] */
    uint32_t          batch;
} runner;

static void runner_done(runner *r)
{
    if (!r->backend) return;
    bb_forward_destroy(r->f);
    r->backend->ops->release(r->backend->context, r->h);
    r->backend->ops->release(r->backend->context, r->scored);
    bb_free(r->targets);
    *r = (runner) { 0 };
}

static bb_status make_buffer(const bb_backend *k, size_t rows, size_t width, bb_buffer *out, bb_err *err)
{
    size_t n;
    if (!bb_mul_size(rows, width, &n)) return BB_FAIL(err, BB_NOMEM, "out of memory: %zu x %zu hidden states", rows, width);
    return k->ops->alloc(k->context, n, out, err);
}

static bb_status runner_init(runner *r, const bb_backend *backend, const bb_net *net, const bb_windows *w, bb_err *err)
{
    bb_status status = BB_OK;
    uint32_t  batch = bb_batch_windows(w->ctx);
    *r = (runner) { .backend = backend, .net = net, .w = w, .batch = batch < w->n ? batch : w->n };
    BB_TRY(bb_forward_create(backend, net, r->batch, w->ctx, &r->f, err));
    BB_TRY(make_buffer(backend, (size_t)r->batch * w->ctx, bb_row_width(net), &r->h, err));
    BB_TRY(make_buffer(backend, (size_t)r->batch * w->n_scored, net->n_embd, &r->scored, err));
    r->targets = bb_alloc((size_t)r->batch * w->n_scored, sizeof *r->targets, err);
    if (!r->targets) status = BB_NOMEM;
done:
    if (status != BB_OK) runner_done(r);
    return status;
}

/* out (S * n_scored, C) := the streams of scored positions of h (S * ctx, W). */
static bb_status keep_scored(const bb_backend *k, const bb_net *net, const bb_windows *w, uint32_t S, bb_buffer h, bb_buffer out, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t s = 0; s < S && status == BB_OK; s++)
        status = bb_forward_streams(k, net, bb_buffer_at(h, (s * w->ctx + w->first) * bb_row_width(net)), w->n_scored,
                                    bb_buffer_at(out, s * w->n_scored * net->n_embd), err);
    return status;
}

static void keep_targets(const bb_windows *w, uint32_t first, uint32_t S, int32_t *out)
{
    for (size_t s = 0; s < S; s++) memcpy(out + s * w->n_scored, w->targets + ((size_t)first + s) * w->ctx + w->first, w->n_scored * sizeof *out);
}

/* r->h and r->targets of windows first .. first+S-1. */
static bb_status run_batch(runner *r, uint32_t first, uint32_t S, bb_err *err)
{
    bb_status status = BB_OK;
    BB_TRY(bb_forward_embed(r->f, r->net, r->w->tokens + (size_t)first * r->w->ctx, S, r->w->ctx, r->h, err));
    for (uint32_t b = 0; b < r->net->n_layer; b++) {
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while evaluating window %u of %u", first, r->w->n);
        BB_TRY(bb_forward_block(r->f, r->net, &r->net->blocks[b], S, r->w->ctx, r->h, NULL, NULL, err));
    }
    keep_targets(r->w, first, S, r->targets);
done:
    return status;
}

/* ---- reference ---- */

struct bb_reference {
    runner    run;
    uint32_t  n_kept;
    bb_buffer kept;     /* (n_kept * n_scored, C) */
    double   *kept_nll; /* [n_kept * n_scored] */
    double   *nll;      /* [batch * n_scored] of the last batch that was computed */
};

static bb_status reference_run(bb_reference *r, uint32_t first, uint32_t S, bb_buffer scored, double *nll, bb_err *err)
{
    const bb_windows *w = r->run.w;
    bb_status         status = BB_OK;
    BB_TRY(run_batch(&r->run, first, S, err));
    BB_TRY(keep_scored(r->run.backend, r->run.net, w, S, r->run.h, scored, err));
    BB_TRY(bb_forward_nll(r->run.f, r->run.net, scored, r->run.targets, (size_t)S * w->n_scored, nll, err));
done:
    return status;
}

/* States and nll of one window range, which is wholly kept or not kept at all. */
static bb_status reference_states(bb_reference *r, uint32_t first, uint32_t S, bb_buffer *scored, const double **nll, bb_err *err)
{
    size_t at = (size_t)first * r->run.w->n_scored;
    if (first + S <= r->n_kept) {
        *scored = bb_buffer_at(r->kept, at * r->run.net->n_embd);
        *nll = r->kept_nll + at;
        return BB_OK;
    }
    *scored = r->run.scored;
    *nll = r->nll;
    return reference_run(r, first, S, r->run.scored, r->nll, err);
}

static uint32_t windows_that_fit(const bb_net *net, const bb_windows *w, uint64_t max_bytes)
{
    uint64_t each = (uint64_t)w->n_scored * ((uint64_t)net->n_embd * sizeof(float) + sizeof(double)), n = max_bytes / each;
    return n < w->n ? (uint32_t)n : w->n;
}

bb_status bb_reference_create(const bb_backend *backend, const bb_net *net, const bb_windows *w, uint64_t max_bytes, const char *label, bb_reference **out,
                              bb_err *err)
{
    bb_status     status = BB_OK;
    bb_progress   progress;
    bb_reference *r = bb_calloc(1, sizeof *r, err);
    uint32_t      n = windows_that_fit(net, w, max_bytes);
    *out = NULL;
    if (!r) return BB_NOMEM;
    BB_TRY(runner_init(&r->run, backend, net, w, err));
    r->nll = bb_alloc((size_t)r->run.batch * w->n_scored, sizeof *r->nll, err);
    BB_TRY(make_buffer(backend, (size_t)n * w->n_scored, net->n_embd, &r->kept, err));
    r->kept_nll = bb_alloc((size_t)n * w->n_scored, sizeof *r->kept_nll, err);
    if (!r->nll || !r->kept_nll) {
        status = BB_NOMEM;
        goto done;
    }
    if (label && n) bb_progress_start(&progress, label, n);
    while (r->n_kept < n && status == BB_OK) {
        uint32_t S = n - r->n_kept < r->run.batch ? n - r->n_kept : r->run.batch;
        size_t   at = (size_t)r->n_kept * w->n_scored;
        status = reference_run(r, r->n_kept, S, bb_buffer_at(r->kept, at * net->n_embd), r->kept_nll + at, err);
        if (status == BB_OK) r->n_kept += S;
        if (label) bb_progress_add(&progress, S);
    }
    if (label && n) bb_progress_end(&progress);
    if (status == BB_OK) *out = r;
done:
    if (status != BB_OK) bb_reference_destroy(r);
    return status;
}

void bb_reference_destroy(bb_reference *r)
{
    if (!r) return;
    if (r->run.backend) r->run.backend->ops->release(r->run.backend->context, r->kept);
    runner_done(&r->run);
    bb_free(r->kept_nll);
    bb_free(r->nll);
    bb_free(r);
}

uint32_t          bb_reference_kept(const bb_reference *r) { return r->n_kept; }
const bb_backend *bb_reference_backend(const bb_reference *r) { return r->run.backend; }

/* ---- scores ---- */

bb_status bb_scores_create(uint32_t n_windows, uint32_t n_scored, bool with_reference, bb_scores *s, bb_err *err)
{
    size_t n = (size_t)n_windows * n_scored;
    *s = (bb_scores) { .n_windows = n_windows, .n_scored = n_scored };
    s->nll = bb_calloc(n, sizeof *s->nll, err);
    if (with_reference) {
        s->kl = bb_calloc(n, sizeof *s->kl, err);
        s->nll_ref = bb_calloc(n, sizeof *s->nll_ref, err);
        s->same = bb_calloc(n, 1, err);
    }
    if (s->nll && (!with_reference || (s->kl && s->nll_ref && s->same))) return BB_OK;
    bb_scores_done(s);
    return BB_NOMEM;
}

void bb_scores_done(bb_scores *s)
{
    bb_free(s->nll);
    bb_free(s->kl);
    bb_free(s->nll_ref);
    bb_free(s->same);
    *s = (bb_scores) { 0 };
}

/* Scores rows that are gathered already: scored (S * n_scored, C) of windows first .. first+S-1. */
static bb_status score_rows(bb_scores *s, bb_forward *f, const bb_net *net, bb_reference *ref, uint32_t first, uint32_t S, bb_buffer scored,
                            const int32_t *targets, bb_err *err)
{
    size_t        at = (size_t)first * s->n_scored, n = (size_t)S * s->n_scored;
    bb_buffer     ref_rows;
    const double *ref_nll;
    bb_status     status = BB_OK;
    if (!ref) return bb_forward_nll(f, net, scored, targets, n, s->nll + at, err);
    if (ref->run.net->n_embd != net->n_embd || ref->run.net->n_vocab != net->n_vocab)
        return BB_FAIL(err, BB_UNSUPPORTED, "the network is %u wide with %u tokens, its reference %u with %u; they must agree to be compared", net->n_embd,
                       net->n_vocab, ref->run.net->n_embd, ref->run.net->n_vocab);
    BB_TRY(reference_states(ref, first, S, &ref_rows, &ref_nll, err));
    memcpy(s->nll_ref + at, ref_nll, n * sizeof *ref_nll);
    BB_TRY(bb_forward_kl(f, ref->run.net, ref_rows, net, scored, targets, n, s->kl + at, s->nll + at, s->same + at, err));
done:
    return status;
}

/* A range of windows that is wholly kept or wholly not kept by the reference, so that it can be scored in one go. */
static uint32_t uniform_part(const bb_reference *ref, uint32_t first, uint32_t S)
{
    return ref && first < ref->n_kept && first + S > ref->n_kept ? ref->n_kept - first : S;
}

bb_status bb_scores_add(bb_scores *s, bb_forward *f, const bb_net *net, bb_reference *ref, const bb_windows *w, uint32_t first, uint32_t S, bb_buffer h,
                        bb_err *err)
{
    const bb_backend *k = bb_forward_backend(f);
    bb_status         status;
    size_t            C = net->n_embd;
    bb_buffer         scored = { 0 };
    int32_t          *targets = bb_alloc((size_t)S * w->n_scored, sizeof *targets, err);
    BB_ASSERT(!ref || bb_reference_backend(ref) == k);
    BB_ASSERT(first + S <= s->n_windows && first + S <= w->n && s->n_scored == w->n_scored && !ref == !s->kl);
    if (!targets) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(make_buffer(k, (size_t)S * w->n_scored, C, &scored, err));
    BB_TRY(keep_scored(k, net, w, S, h, scored, err));
    keep_targets(w, first, S, targets);
    for (uint32_t at = 0, n; at < S; at += n) {
        size_t row = (size_t)at * w->n_scored;
        n = uniform_part(ref, first + at, S - at);
        if (ref && n > ref->run.batch) n = ref->run.batch;
        BB_TRY(score_rows(s, f, net, ref, first + at, n, bb_buffer_at(scored, row * C), targets + row, err));
    }
done:
    k->ops->release(k->context, scored);
    bb_free(targets);
    return status;
}

/* ---- sums ---- */

static double mean_of(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    return sum / (double)n;
}

void bb_mean_and_error(const double *x, const double *y, size_t n, double *mean, double *error)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += y ? x[i] - y[i] : x[i];
    *mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) {
        double d = (y ? x[i] - y[i] : x[i]) - *mean;
        squares += d * d;
    }
    *error = n > 1 ? sqrt(squares / (double)n / (double)(n - 1)) : 0;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

const double bb_kl_quantiles[BB_KL_QUANTILES] = { 0.01, 0.10, 0.50, 0.90, 0.99, 0.999, 1.00 };

static bb_status quantiles(const double *x, size_t n, double out[BB_KL_QUANTILES], bb_err *err)
{
    double *sorted = bb_alloc(n, sizeof *sorted, err);
    if (!sorted) return BB_NOMEM;
    memcpy(sorted, x, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, ascending);
    for (int i = 0; i < BB_KL_QUANTILES; i++) {
        double place = bb_kl_quantiles[i] * (double)(n - 1), fraction;
        size_t k = (size_t)place;
        fraction = place - (double)k;
        out[i] = k + 1 < n ? (1 - fraction) * sorted[k] + fraction * sorted[k + 1] : sorted[n - 1];
    }
    bb_free(sorted);
    return BB_OK;
}

static bb_status check_finite(const bb_scores *s, bb_err *err)
{
    size_t n = (size_t)s->n_windows * s->n_scored;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(s->nll[i]) || (s->kl && !(isfinite(s->kl[i]) && isfinite(s->nll_ref[i]))))
            return BB_FAIL(err, BB_NUMERIC, "the score of token %zu of window %zu is no finite number", i % s->n_scored, i / s->n_scored);
    return BB_OK;
}

static void no_reference(bb_result *r)
{
    r->kl = r->kl_se = r->top1 = r->ln_ratio = r->ln_ratio_se = (double)NAN;
    for (int i = 0; i < BB_KL_QUANTILES; i++) r->kl_quantile[i] = (double)NAN;
}

bb_status bb_scores_result(const bb_scores *s, bb_result *out, double *window_kl, double *window_nll, bb_err *err)
{
    size_t    n = (size_t)s->n_windows * s->n_scored, same = 0;
    bb_status status = BB_OK;
    *out = (bb_result) { .n_tokens = n };
    BB_TRY(check_finite(s, err));
    bb_mean_and_error(s->nll, NULL, n, &out->nll, &out->nll_se);
    out->ppl = exp(out->nll);
    out->ppl_se = out->ppl * out->nll_se;
    no_reference(out);
    if (s->kl) {
        bb_mean_and_error(s->kl, NULL, n, &out->kl, &out->kl_se);
        bb_mean_and_error(s->nll, s->nll_ref, n, &out->ln_ratio, &out->ln_ratio_se);
        for (size_t i = 0; i < n; i++) same += s->same[i];
        out->top1 = (double)same / (double)n;
        BB_TRY(quantiles(s->kl, n, out->kl_quantile, err));
    }
    for (size_t i = 0; i < s->n_windows; i++) {
        if (window_nll) window_nll[i] = mean_of(s->nll + i * s->n_scored, s->n_scored);
        if (window_kl) window_kl[i] = s->kl ? mean_of(s->kl + i * s->n_scored, s->n_scored) : (double)NAN;
    }
done:
    return status;
}

/* ---- whole evaluations ---- */

/* ref may be NULL; the first n windows of w. */
static bb_status score(const bb_backend *backend, const bb_net *net, bb_reference *ref, const bb_windows *w, uint32_t n, const char *label, bb_scores *s,
                       bb_err *err)
{
    bb_status   status = BB_OK;
    runner      r = { 0 };
    bb_progress progress;
    if (label) bb_progress_start(&progress, label, n);
    BB_TRY(bb_scores_create(n, w->n_scored, ref != NULL, s, err));
    BB_TRY(runner_init(&r, backend, net, w, err));
    for (uint32_t first = 0, S; first < n; first += S) {
        S = n - first < r.batch ? n - first : r.batch;
        S = uniform_part(ref, first, S);
        bb_crew_share();
        BB_TRY(run_batch(&r, first, S, err));
        BB_TRY(keep_scored(backend, net, w, S, r.h, r.scored, err));
        BB_TRY(score_rows(s, r.f, net, ref, first, S, r.scored, r.targets, err));
        if (label) bb_progress_add(&progress, S);
    }
done:
    if (label) bb_progress_end(&progress);
    runner_done(&r);
    if (status != BB_OK) bb_scores_done(s);
    return status;
}

static bb_status evaluate(const bb_backend *backend, const bb_net *net, bb_reference *ref, const bb_windows *w, uint32_t n, const char *label, bb_result *out,
                          double *window_kl, double *window_nll, bb_err *err)
{
    bb_scores s;
    bb_status status = score(backend, net, ref, w, n, label, &s, err);
    if (status != BB_OK) return status;
    status = bb_scores_result(&s, out, window_kl, window_nll, err);
    bb_scores_done(&s);
    return status;
}

bb_status bb_evaluate_against(const bb_net *net, bb_reference *r, uint32_t n_windows, const char *label, bb_result *out, double *window_kl, double *window_nll,
                              bb_err *err)
{
    uint32_t n = n_windows && n_windows < r->run.w->n ? n_windows : r->run.w->n;
    return evaluate(r->run.backend, net, r, r->run.w, n, label, out, window_kl, window_nll, err);
}

bb_status bb_evaluate(const bb_backend *backend, const bb_net *net, const bb_net *ref, const bb_windows *w, const char *label, bb_result *out,
                      double *window_kl, double *window_nll, bb_err *err)
{
    bb_status     status = BB_OK;
    bb_reference *r = NULL;
    if (ref) BB_TRY(bb_reference_create(backend, ref, w, 0, NULL, &r, err));
    BB_TRY(evaluate(backend, net, r, w, w->n, label, out, window_kl, window_nll, err));
done:
    bb_reference_destroy(r);
    return status;
}

bb_status bb_evaluate_scores(const bb_backend *backend, const bb_net *net, const bb_net *ref, const bb_windows *w, const char *label, bb_scores *s, bb_err *err)
{
    bb_status     status = BB_OK;
    bb_reference *r = NULL;
    *s = (bb_scores) { 0 };
    if (ref) BB_TRY(bb_reference_create(backend, ref, w, 0, NULL, &r, err));
    BB_TRY(score(backend, net, r, w, w->n, label, s, err));
done:
    bb_reference_destroy(r);
    return status;
}
