/* SPDX-License-Identifier: GPL-3.0-or-later
 * divergence.c: see divergence.h. sample.h draws from the very bits of forward.h in exact precision: there a network does not diverge from itself; in fast precision
 * only where two tokens are as likely to a millionth. */
#include "eval/divergence.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/net/host.h"
#include "model/net/sample.h"

enum { LOGITS = 1 << 24 /* at once: 64 MiB */ };

struct bb_greedy {
    bb_greedy_spec spec;
    uint32_t       n;
    int32_t       *ids;
};

static bb_status check(const bb_greedy_spec *s, bb_err *err)
{
    if (s->n_prompts == 0) return BB_FAIL(err, BB_USAGE, "greedy decoding is compared on at least one prompt");
    if (s->n_prompt < 3) return BB_FAIL(err, BB_USAGE, "a prompt of %u tokens: at least 3 are needed", s->n_prompt);
    if (s->n_new == 0) return BB_FAIL(err, BB_USAGE, "a continuation has at least one token");
    if ((uint64_t)s->n_prompt + s->n_new > INT32_MAX) return BB_FAIL(err, BB_USAGE, "%u + %u tokens are too many", s->n_prompt, s->n_new);
    return BB_OK;
}

bb_status bb_greedy_create(const bb_net *full, const bb_tokens *text, int32_t bos, const bb_greedy_spec *spec, const char *label, bb_greedy **out, bb_err *err)
{
    bb_status  status = BB_OK;
    bb_greedy *g = NULL;
    bb_windows prompts = { 0 };
    *out = NULL;
    BB_TRY(check(spec, err));
    if (!(g = bb_calloc(1, sizeof *g, err))) return BB_NOMEM;
    g->spec = *spec;
    BB_TRY(bb_windows_make(text, BB_PROTOCOL_GGUF, spec->n_prompt, bos, spec->n_prompts, true, &prompts, err));
    g->n = prompts.n;
    bb_sampling p = {
        .prompt = prompts.tokens, .n_prompt = spec->n_prompt, .stride = prompts.ctx, .n_sequences = g->n, .length = spec->n_prompt + spec->n_new
    };
    if (!(g->ids = bb_alloc((size_t)g->n, p.length * sizeof *g->ids, err))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_sample_ids(full, &p, label, g->ids, err));
    *out = g;
    g = NULL;
done:
    bb_windows_done(&prompts);
    bb_greedy_destroy(g);
    return status;
}

void bb_greedy_destroy(bb_greedy *g)
{
    if (!g) return;
    bb_free(g->ids);
    bb_free(g);
}

uint32_t       bb_greedy_prompts(const bb_greedy *g) { return g->n; }
const int32_t *bb_greedy_ids(const bb_greedy *g) { return g->ids; }

/* ---- one network ---- */

typedef struct pass {
    const bb_greedy *g;
    const bb_net    *net;
    bb_forward      *f;
    float           *h, *rows, *logits;
    size_t           rows_at_once;
    uint32_t         batch; /* sequences at once */
    uint32_t        *same;  /* [n] */
} pass;

static bb_status open_pass(pass *p, const bb_backend *backend, bb_err *err)
{
    const bb_greedy_spec *s = &p->g->spec;
    const uint32_t        T = s->n_prompt + s->n_new - 1; /* what stands behind the last token is not asked */
    const size_t          C = p->net->n_embd;
    p->batch = bb_batch_windows(T);
    if (p->batch > p->g->n) p->batch = p->g->n;
    p->rows_at_once = LOGITS / p->net->n_vocab + 1;
    if (p->rows_at_once > (size_t)p->batch * s->n_new) p->rows_at_once = (size_t)p->batch * s->n_new;
    p->same = bb_calloc(p->g->n, sizeof *p->same, err);
    p->h = bb_alloc((size_t)p->batch * T, bb_row_width(p->net) * sizeof *p->h, err);
    p->rows = bb_alloc(p->rows_at_once, C * sizeof *p->rows, err);
    p->logits = bb_alloc(p->rows_at_once, p->net->n_vocab * sizeof *p->logits, err);
    if (!p->same || !p->h || !p->rows || !p->logits) return BB_NOMEM;
    return bb_forward_create(backend, p->net, p->batch, T, &p->f, err);
}

static void close_pass(pass *p)
{
    void *all[] = { p->same, p->h, p->rows, p->logits };
    bb_forward_destroy(p->f);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bb_free(all[i]);
}

/* Within a batch, which may be one sequence of a million tokens. */
static bb_status listen(uint32_t first, bb_err *err)
{
    return bb_interrupted() ? BB_FAIL(err, BB_INTERRUPTED, "interrupted within continuation %u", first) : BB_OK;
}

/* Hidden states of sequences first .. first + S - 1 without their last tokens. */
static bb_status states(const pass *p, uint32_t first, uint32_t S, bb_err *err)
{
    const bb_greedy_spec *s = &p->g->spec;
    const uint32_t        T = s->n_prompt + s->n_new - 1;
    bb_status             status = BB_OK;
    int32_t              *ids = bb_alloc((size_t)S * T, sizeof *ids, err);
    if (!ids) return BB_NOMEM;
    for (size_t i = 0; i < S; i++) memcpy(ids + i * T, p->g->ids + (first + i) * (T + 1), T * sizeof *ids);
    BB_TRY(bb_host_embed(p->f, p->net, ids, S, T, p->h, err));
    for (uint32_t b = 0; b < p->net->n_layer; b++) {
        BB_TRY(listen(first, err));
        BB_TRY(bb_host_block(p->f, p->net, &p->net->blocks[b], S, T, p->h, NULL, NULL, err));
    }
done:
    bb_free(ids);
    return status;
}

/* The continuation tokens first .. first + n - 1 of the batch, counted through, sequence by sequence; whole: which sequences have had no other so far. */
static bb_status compare_rows(const pass *p, uint32_t from, size_t first, size_t n, bool *whole, bb_err *err)
{
    const bb_greedy_spec *s = &p->g->spec;
    const size_t          C = p->net->n_embd, V = p->net->n_vocab, T = s->n_prompt + s->n_new - 1;
    const bb_kernels     *k = bb_kernels_get();
    bb_status             status;
    for (size_t i = 0; i < n; i++) {
        const size_t sequence = (first + i) / s->n_new, t = (first + i) % s->n_new;
        bb_host_streams(p->net, p->h + (sequence * T + s->n_prompt - 1 + t) * bb_row_width(p->net), 1, p->rows + i * C);
    }
    BB_TRY(bb_host_logits(p->f, p->net, p->rows, n, p->logits, err));
    for (size_t i = 0; i < n; i++) {
        const size_t sequence = (first + i) / s->n_new, t = (first + i) % s->n_new, best = k->arg_max(p->logits + i * V, V);
        if (!isfinite(p->logits[i * V + best])) {
            status = BB_FAIL(err, BB_NUMERIC, "the largest logit after token %zu of continuation %zu is no finite number", t, from + sequence);
            goto done;
        }
        if (best != (size_t)p->g->ids[(from + sequence) * (T + 1) + s->n_prompt + t]) whole[sequence] = false;
        p->same[from + sequence] += whole[sequence];
    }
done:
    return status;
}

static bb_status run_batch(const pass *p, uint32_t first, uint32_t S, bb_err *err)
{
    const size_t n = (size_t)S * p->g->spec.n_new;
    bb_status    status = BB_OK;
    bool        *whole = bb_alloc(S, sizeof *whole, err);
    if (!whole) return BB_NOMEM;
    memset(whole, true, S * sizeof *whole);
    BB_TRY(states(p, first, S, err));
    for (size_t at = 0; at < n; at += p->rows_at_once) {
        BB_TRY(listen(first, err));
        BB_TRY(compare_rows(p, first, at, n - at < p->rows_at_once ? n - at : p->rows_at_once, whole, err));
    }
done:
    bb_free(whole);
    return status;
}

/* Of n numbers; the error is NaN for one, both are for none. */
static void mean_and_error(double sum, double squares, uint32_t n, double *mean, double *error)
{
    const double m = sum / n, variance = squares / n - m * m;
    *mean = n ? m : (double)NAN;
    *error = n > 1 ? sqrt(variance > 0 ? variance / (n - 1) : 0) : (double)NAN;
}

static bb_divergence result(const pass *p)
{
    const bb_greedy_spec *s = &p->g->spec;
    bb_divergence         d = { .n_prompts = p->g->n, .n_prompt = s->n_prompt, .n_new = s->n_new };
    double                places = 0, place_squares = 0, common = 0, common_squares = 0;
    uint32_t              different = 0;
    for (uint32_t i = 0; i < p->g->n; i++) {
        const double same = p->same[i];
        common += same, common_squares += same * same;
        if (p->same[i] == s->n_new) continue;
        different++;
        places += same + 1, place_squares += (same + 1) * (same + 1);
    }
    mean_and_error(different, different, d.n_prompts, &d.share, &d.share_se);
    mean_and_error(places, place_squares, different, &d.place, &d.place_se);
    mean_and_error(common, common_squares, d.n_prompts, &d.agree, &d.agree_se);
    return d;
}

bb_status bb_greedy_measure(const bb_backend *backend, const bb_net *net, const bb_greedy *g, const char *label, uint32_t *same, bb_divergence *out,
                            bb_err *err)
{
    pass        p = { .g = g, .net = net };
    bb_progress progress;
    bb_status   status;
    if (label) bb_progress_start(&progress, label, g->n);
    BB_TRY(open_pass(&p, backend, err));
    for (uint32_t first = 0, S; first < g->n; first += S) {
        S = g->n - first < p.batch ? g->n - first : p.batch;
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted at continuation %u of %u", first, g->n);
            goto done;
        }
        BB_TRY(run_batch(&p, first, S, err));
        if (label) bb_progress_add(&progress, S);
    }
    if (same) memcpy(same, p.same, g->n * sizeof *same);
    *out = result(&p);
done:
    if (label) bb_progress_end(&progress);
    close_pass(&p);
    return status;
}
