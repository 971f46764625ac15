/* SPDX-License-Identifier: GPL-3.0-or-later
 * pace.c: see pace.h. One block is run and its inputs' moments are taken; with these, rows of its gate are encoded in each format of the run. */
#include "engine/pace.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/cpus.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/calibration.h"
#include "kernels/blas.h"
#include "model/compress/feedback.h"
#include "model/compress/statistics.h"
#include "model/net/host.h"

enum {
    MOST_WINDOWS = 8,
    MOST_TOKENS = 2048,
    ROWS = 64,
    WEIGHTS = 65536,
    HEAD_ROWS = 256,
    MOST_COLUMNS = 1024,
    LEAST_TIMES = 5 /* where other work interrupts, the fastest of a few is the one that nothing did */
};
/* Of processor time: shorter pieces are repeated; what has taken so long stands out from interruptions without more. */
static const double LEAST_S = 0.03, MOST_S = 2;

typedef struct sample {
    const bb_run   *r;
    const bb_net   *net;
    const bb_block *block;
    uint32_t        S, T; /* windows, and tokens of each: fewer than the run's where those would take long */
    bb_forward     *forward;
    float          *h, *work; /* [S * T][C] */
    bb_hessian      in;       /* of the gate, or of q in a block without FFN */
    float          *w;        /* [rows][cols] of that matrix */
    uint32_t        rows, cols;
    bb_pace        *out;
} sample;

static double threads(void) { return fmin(omp_get_max_threads(), bb_cpus_usable()); }

static bb_status run_block(sample *s, bb_err *err);

/* Runs `what` LEAST_TIMES and until LEAST_S of processor time has passed, but no more once MOST_S has; the seconds of the fastest time, as all threads take them
 * together. */
static bb_status repeat(sample *s, bb_status (*what)(sample *s, bb_err *err), double *seconds, bb_err *err)
{
    const double started = bb_cpu_s(), wall = bb_now_s();
    double       spent;
    uint32_t     n = 0;
    bb_status    status;
    *seconds = HUGE_VAL;
    do {
        const double now = bb_cpu_s();
        BB_TRY(what(s, err));
        *seconds = fmin(*seconds, (bb_cpu_s() - now) / threads());
        spent = bb_cpu_s() - started;
    } while (spent < MOST_S && (++n < LEAST_TIMES || spent < LEAST_S));
    if (what == run_block) s->out->slower = fmax(1, (bb_now_s() - wall) * threads() / spent);
done:
    return status;
}

static double weights_of(const bb_block *b)
{
    double n = 0;
    for (int p = 0; p < BB_N_PARTS; p++) n += (double)b->w[p].rows * b->w[p].cols;
    return n;
}

static bb_status run_block(sample *s, bb_err *err)
{
    memcpy(s->work, s->h, (size_t)s->S * s->T * bb_row_width(s->net) * sizeof *s->h);
    return bb_host_block(s->forward, s->net, s->block, s->S, s->T, s->work, NULL, NULL, err);
}

static bb_status collect(sample *s, bb_err *err)
{
    bb_hessians moments = { 0 };
    bb_status   status;
    memcpy(s->work, s->h, (size_t)s->S * s->T * bb_row_width(s->net) * sizeof *s->h);
    BB_TRY(bb_hessians_collect(s->forward, s->net, s->block, s->S, s->T, s->work, &moments, err));
    if (!s->in.h) { /* the first time */
        const bb_feed k = s->block->n_ff ? BB_FEED_FFN : BB_FEED_ATTENTION;
        BB_TRY(bb_hessians_finish(&moments, err));
        s->in = moments.in[k];
        moments.in[k] = (bb_hessian) { 0 };
    }
done:
    bb_hessians_done(&moments);
    return status;
}

static bb_status score(sample *s, bb_err *err)
{
    double        kl[HEAD_ROWS], nll[HEAD_ROWS];
    unsigned char same[HEAD_ROWS];
    int32_t       targets[HEAD_ROWS] = { 0 };
    const size_t  n = (size_t)s->S * s->T < HEAD_ROWS ? (size_t)s->S * s->T : HEAD_ROWS;
    return bb_host_kl(s->forward, s->net, s->h, s->net, s->work, targets, n, kl, nll, same, err);
}

static bb_status factor(sample *s, bb_err *err)
{
    bb_factor f = { 0 };
    bb_status status = bb_factor_make(&s->in, s->r->config.damping, &f, err);
    if (status == BB_OK) bb_factor_done(&f);
    return status;
}

static bb_status multiply(sample *s, bb_err *err)
{
    enum { N = 256 };
    const int n = (int)fmax(1, threads());
    double   *memory = BB_NEW0((size_t)n * 3 * N * N, double, err);
    (void)s;
    if (!memory) return BB_NOMEM;
#pragma omp parallel for schedule(static)
    for (int t = 0; t < n; t++) {
        double *m = memory + (size_t)t * 3 * N * N;
        bb_dgemm_nn(N, N, N, 1, m, N, m + N * N, N, 0, m + 2 * N * N, N);
    }
    bb_free(memory);
    s->out->product = 1.0 / ((double)n * N * N * N);
    return BB_OK;
}

/* The first columns' moments and weights, when there are more than it takes to know. */
static bb_status take_rows(sample *s, bb_err *err)
{
    const bb_matrix *m = &s->block->w[s->block->n_ff ? BB_PART_GATE : BB_PART_Q];
    const bb_format *f = bb_format_get(m->type);
    const size_t     bytes = bb_format_row_bytes(f, m->cols);
    uint32_t        *columns = NULL;
    float           *row = BB_NEW(m->cols, float, err);
    bb_status        status = BB_NOMEM;
    s->cols = m->cols < MOST_COLUMNS ? m->cols : MOST_COLUMNS;
    s->rows = s->cols < WEIGHTS / ROWS ? WEIGHTS / s->cols : ROWS; /* of narrow ones more: what a matrix takes once is not for so few */
    if (s->rows > m->rows) s->rows = m->rows;
    if (!row || !(s->w = BB_NEW((size_t)s->rows * s->cols, float, err)) || !(columns = BB_NEW(s->cols, uint32_t, err))) goto done;
    for (uint32_t i = 0; i < s->rows; i++) {
        f->decode((const unsigned char *)m->data + i * bytes, row, m->cols);
        memcpy(s->w + (size_t)i * s->cols, row, s->cols * sizeof *row);
    }
    status = BB_OK;
    if (s->cols == m->cols) goto done;
    bb_hessian less;
    for (uint32_t i = 0; i < s->cols; i++) columns[i] = i;
    BB_TRY(bb_hessian_subset(&s->in, columns, s->cols, &less, err));
    bb_hessian_done(&s->in);
    s->in = less;
done:
    bb_free(columns);
    bb_free(row);
    return status;
}

/* Every format that some linear, the embedding or the head may have, once. Of one whose block does not divide these rows there is a guess. */
static bb_status encode(sample *s, bb_err *err)
{
    const bb_problem      *p = bb_model_space_problem(s->r->space);
    const bb_quant_options o = { bb_calibration_method(s->r->config.method), s->r->config.damping, (unsigned)s->r->config.sweeps };
    bb_factor              f = { 0 };
    bool                   factored = bb_factor_make(&s->in, o.damping, &f, NULL) == BB_OK;
    void                  *packed = NULL;
    bb_status              status = BB_OK;
    for (uint32_t u = 0; u < p->n_units; u++)
        for (uint32_t k = 0; k < p->units[u].n_options; k++) {
            const bb_format *format = bb_model_space_format(s->r->space, u, k);
            if (!format || s->out->encode[format->type] > 0) continue;
            if (s->cols % format->block) { /* the head's width may be another one: a guess between the fast and the slow formats */
                s->out->encode[format->type] = 1e-6 / threads();
                continue;
            }
            const double started = bb_cpu_s();
            double       least = HUGE_VAL;
            uint32_t     times = 0;
            if (!packed && !(packed = bb_alloc(s->rows, s->cols * sizeof(float), err))) {
                status = BB_NOMEM;
                goto done;
            }
            do {
                const double now = bb_cpu_s();
                BB_TRY(bb_quantize_prepared(s->w, s->rows, s->cols, &s->in, factored ? &f : NULL, format->type, &o, packed, NULL, err));
                least = fmin(least, bb_cpu_s() - now);
            } while (++times < LEAST_TIMES / 2 || bb_cpu_s() - started < LEAST_S / 2);
            s->out->encode[format->type] = least / threads() / ((double)s->rows * s->cols);
        }
done:
    if (factored) bb_factor_done(&f);
    bb_free(packed);
    return status;
}

/* Random tokens through the embedding, one block for all: the largest. */
static bb_status start(sample *s, bb_err *err)
{
    const size_t row = (size_t)s->T * bb_row_width(s->net);
    int32_t     *tokens = BB_NEW((size_t)s->S * s->T, int32_t, err);
    bb_rng       rng;
    bb_status    status = BB_NOMEM;
    s->block = &s->net->blocks[0];
    for (uint32_t i = 1; i < s->net->n_layer; i++)
        if (weights_of(&s->net->blocks[i]) > weights_of(s->block)) s->block = &s->net->blocks[i];
    s->h = BB_NEW(s->S * row, float, err);
    s->work = BB_NEW(s->S * row, float, err);
    if (!tokens || !s->h || !s->work) goto done;
    bb_rng_init(&rng, 1, "pace");
    for (size_t i = 0; i < (size_t)s->S * s->T; i++) tokens[i] = (int32_t)bb_rng_below(&rng, s->net->n_vocab);
    BB_TRY(bb_forward_create(s->r->backend, s->net, s->S, s->T, &s->forward, err));
    BB_TRY(bb_host_embed(s->forward, s->net, tokens, s->S, s->T, s->h, err));
    BB_TRY(run_block(s, err)); /* caches, pages of the file */
done:
    bb_free(tokens);
    return status;
}

/* On as many windows as options are measured on, or as there are. */
static bb_status run_few(sample *s, bb_err *err)
{
    const uint32_t all = s->S, wanted = (uint32_t)s->r->config.measure_windows;
    double         seconds;
    bb_status      status;
    if (wanted < all) s->S = wanted;
    status = repeat(s, run_block, &seconds, err);
    if (status == BB_OK) s->out->few = seconds * wanted / s->S / fmax(1, weights_of(s->block));
    s->S = all;
    return status;
}

/* What no option but the model and --ctx decides; the moments are then there. */
static bb_status measure_model(sample *s, bb_err *err)
{
    const double tokens = (double)s->S * s->T;
    double       forward, both, seconds;
    bb_status    status;
    BB_TRY(repeat(s, run_block, &forward, err));
    s->out->block = forward / tokens / (weights_of(s->block) > 0 ? weights_of(s->block) : 1);
    s->out->generate = 3 * s->out->block; /* a token a step: products of few rows */
    BB_TRY(repeat(s, collect, &both, err));
    s->out->moments = both > forward ? (both - forward) / tokens : 0;
    BB_TRY(repeat(s, score, &seconds, err));
    s->out->head = seconds / (tokens < HEAD_ROWS ? tokens : HEAD_ROWS);
    BB_TRY(repeat(s, multiply, &seconds, err));
    s->out->product *= seconds;
    s->out->serial = s->out->product * threads();
done:
    return status;
}

bb_status bb_pace_measure(const bb_run *r, const bb_pace *known, bb_pace *out, bb_err *err)
{
    sample    s = { .r = r, .net = &r->model.net, .T = r->config.ctx < MOST_TOKENS ? (uint32_t)r->config.ctx : MOST_TOKENS, .out = out };
    double    seconds;
    bb_status status;
    *out = known ? *known : (bb_pace) { 0 };
    memset(out->encode, 0, sizeof out->encode);
    s.S = MOST_TOKENS / s.T < MOST_WINDOWS ? MOST_TOKENS / s.T : MOST_WINDOWS;
    BB_TRY(start(&s, err));
    BB_TRY(known ? collect(&s, err) : measure_model(&s, err));
    BB_TRY(run_few(&s, err));
    if (!s.in.h) goto done;
    BB_TRY(take_rows(&s, err));
    if (bb_calibration_method(r->config.method) == BB_METHOD_FEEDBACK && !known) {
        BB_TRY(repeat(&s, factor, &seconds, err));
        out->factor = seconds * threads() / ((double)s.cols * s.cols * s.cols); /* one thread */
    }
    BB_TRY(encode(&s, err));
done:
    bb_forward_destroy(s.forward);
    bb_hessian_done(&s.in);
    bb_free(s.h);
    bb_free(s.work);
    bb_free(s.w);
    return status;
}
