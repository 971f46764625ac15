/* SPDX-License-Identifier: GPL-3.0-or-later
 * generation.c: see generation.h. A set of continuations is held as windows whose scored positions are those that predict the new tokens,
 * so that the scores of evaluate.h do the rest. sample.h draws from the very bits of forward.h: the arg max of the full-precision net in
 * the pass over its own greedy continuation is that continuation. */
#include "eval/generation.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/net/sample.h"

struct bb_generation {
    bb_generation_spec spec;
    bb_windows         prompts;
    bb_windows         greedy, drawn; /* (n_prompts, n_prompt + n_new) */
    bb_reference      *on_greedy, *on_drawn;
};

bb_generation_spec bb_generation_default(const bb_net *net)
{
    bb_generation_spec s = { .n_prompts = 128, .n_prompt = 32, .n_new = 256, .seed = 1 };
    uint32_t           ctx = net->n_ctx_train;
    if (ctx >= 8 && ctx < s.n_prompt + s.n_new) {
        if (s.n_prompt > ctx / 8) s.n_prompt = ctx / 8 < 3 ? 3 : ctx / 8;
        s.n_new = ctx - s.n_prompt;
    }
    return s;
}

/* ---- continuations ---- */

/* Takes ids. */
static bb_status windows_of_sequences(const bb_generation_spec *s, uint32_t n, int32_t *ids, bb_windows *w, bb_err *err)
{
    size_t ctx = s->n_prompt + s->n_new;
    *w = (bb_windows) { .ctx = (uint32_t)ctx, .n = n, .first = s->n_prompt - 1, .n_scored = s->n_new, .tokens = ids };
    w->targets = bb_alloc(n * ctx, sizeof *w->targets, err);
    if (!w->targets) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) {
        memcpy(w->targets + i * ctx, ids + i * ctx + 1, (ctx - 1) * sizeof *ids);
        w->targets[i * ctx + ctx - 1] = -1;
    }
    return BB_OK;
}

static bb_status continue_prompts(bb_generation *g, const bb_backend *backend, const bb_net *net, double temperature, uint64_t max_bytes, const char *label,
                                  bb_windows *w, bb_reference **ref, bb_err *err)
{
    const bb_generation_spec *s = &g->spec;
    bb_status                 status = BB_OK;
    uint32_t                  n = g->prompts.n;
    bb_sampling               p = { .prompt = g->prompts.tokens,
                                    .n_prompt = s->n_prompt,
                                    .stride = g->prompts.ctx,
                                    .n_sequences = n,
                                    .length = s->n_prompt + s->n_new,
                                    .temperature = temperature,
                                    .seed = s->seed };
    int32_t                  *ids = bb_alloc((size_t)n, p.length * sizeof *ids, err);
    if (!ids) return BB_NOMEM;
    BB_TRY(bb_sample_ids(net, &p, label, ids, err));
    status = windows_of_sequences(s, n, ids, w, err);
    ids = NULL; /* w has it */
    BB_TRY(status);
    BB_TRY(bb_reference_create(backend, net, w, max_bytes, NULL, ref, err));
done:
    bb_free(ids);
    return status;
}

static bb_status check(const bb_generation_spec *s, bb_err *err)
{
    if (s->n_prompts == 0) return BB_FAIL(err, BB_USAGE, "generation is measured on at least one prompt");
    if (s->n_prompt < 3) return BB_FAIL(err, BB_USAGE, "a prompt of %u tokens: at least 3 are needed", s->n_prompt);
    if (s->n_new == 0) return BB_FAIL(err, BB_USAGE, "a continuation has at least one token");
    if ((uint64_t)s->n_prompt + s->n_new > INT32_MAX) return BB_FAIL(err, BB_USAGE, "%u + %u tokens are too many", s->n_prompt, s->n_new);
    return BB_OK;
}

bb_status bb_generation_check(const bb_tokens *text, const bb_generation_spec *spec, bb_err *err)
{
    bb_status status;
    BB_TRY(check(spec, err));
    if (text->n < spec->n_prompt)
        status = BB_FAIL(err, BB_BAD_FILE, "%s: its %zu tokens are less than one prompt of %u", text->path ? text->path : "the text", text->n, spec->n_prompt);
done:
    return status;
}

bb_status bb_generation_create(const bb_backend *backend, const bb_net *net, const bb_tokens *text, int32_t bos, const bb_generation_spec *spec,
                               uint64_t max_bytes, const char *label, bb_generation **out, bb_err *err)
{
    bb_status      status = BB_OK;
    bb_generation *g;
    *out = NULL;
    BB_TRY(bb_generation_check(text, spec, err));
    if (!(g = bb_calloc(1, sizeof *g, err))) return BB_NOMEM;
    g->spec = *spec;
    status = bb_windows_make(text, BB_PROTOCOL_GGUF, spec->n_prompt, bos, spec->n_prompts, true, &g->prompts, err);
    if (status == BB_OK) status = continue_prompts(g, backend, net, 0, max_bytes / 2, label, &g->greedy, &g->on_greedy, err);
    if (status == BB_OK) status = continue_prompts(g, backend, net, 1, max_bytes / 2, label, &g->drawn, &g->on_drawn, err);
    if (status == BB_OK) *out = g;
    else bb_generation_destroy(g);
done:
    return status;
}

void bb_generation_destroy(bb_generation *g)
{
    if (!g) return;
    bb_reference_destroy(g->on_greedy);
    bb_reference_destroy(g->on_drawn);
    bb_windows_done(&g->greedy);
    bb_windows_done(&g->drawn);
    bb_windows_done(&g->prompts);
    bb_free(g);
}

const int32_t *bb_generation_ids(const bb_generation *g, bool greedy) { return greedy ? g->greedy.tokens : g->drawn.tokens; }

/* ---- measures ---- */

static void agreement_lengths(const bb_scores *s, bb_generation_result *r, double *lengths, uint32_t *agreement)
{
    for (uint32_t i = 0; i < s->n_windows; i++) {
        const unsigned char *same = s->same + (size_t)i * s->n_scored;
        uint32_t             n = 0;
        while (n < s->n_scored && same[n]) n++;
        lengths[i] = n;
        r->n_whole += n == s->n_scored;
        if (agreement) agreement[i] = n;
    }
    bb_mean_and_error(lengths, NULL, s->n_windows, &r->agree_length, &r->agree_length_se);
}

/* means: room for n_windows. */
static void measure_span(const bb_scores *s, bb_generation_span *span, double *means)
{
    uint32_t n = span->last - span->first + 1;
    size_t   same = 0;
    if (span->last < span->first) {
        span->kl = span->kl_se = span->top1 = (double)NAN;
        return;
    }
    for (size_t i = 0; i < s->n_windows; i++) {
        size_t at = i * s->n_scored + span->first - 1;
        double sum = 0;
        for (size_t t = 0; t < n; t++) {
            sum += s->kl[at + t];
            same += s->same[at + t];
        }
        means[i] = sum / (double)n;
    }
    bb_mean_and_error(means, NULL, s->n_windows, &span->kl, &span->kl_se);
    span->top1 = (double)same / ((double)n * (double)s->n_windows);
}

static bb_status check_finite(const bb_scores *s, bb_err *err)
{
    for (size_t i = 0; i < (size_t)s->n_windows * s->n_scored; i++)
        if (!isfinite(s->kl[i]))
            return BB_FAIL(err, BB_NUMERIC, "the KL at new token %zu after prompt %zu is no finite number", i % s->n_scored + 1, i / s->n_scored);
    return BB_OK;
}

/* Scores of all sequences of w. */
static bb_status score(const bb_net *net, const bb_windows *w, bb_reference *ref, bb_scores *s, bb_err *err)
{
    bb_status         status = BB_OK;
    bb_forward       *f = NULL;
    uint32_t          batch = bb_batch_windows(w->ctx);
    const bb_backend *k = bb_reference_backend(ref);
    bb_buffer         h = { 0 };
    if (batch > w->n) batch = w->n;
    BB_TRY(k->ops->alloc(k->context, (size_t)batch * w->ctx * bb_row_width(net), &h, err));
    BB_TRY(bb_scores_create(w->n, w->n_scored, true, s, err));
    BB_TRY(bb_forward_create(k, net, batch, w->ctx, &f, err));
    for (uint32_t first = 0, S; first < w->n; first += S) {
        S = w->n - first < batch ? w->n - first : batch;
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted while measuring continuation %u of %u", first, w->n);
            goto done;
        }
        BB_TRY(bb_forward_embed(f, net, w->tokens + (size_t)first * w->ctx, S, w->ctx, h, err));
        for (uint32_t b = 0; b < net->n_layer; b++) BB_TRY(bb_forward_block(f, net, &net->blocks[b], S, w->ctx, h, NULL, NULL, err));
        BB_TRY(bb_scores_add(s, f, net, ref, w, first, S, h, err));
    }
    BB_TRY(check_finite(s, err));
done:
    bb_forward_destroy(f);
    k->ops->release(k->context, h);
    return status;
}

bb_status bb_generation_measure(const bb_net *net, bb_generation *g, bb_generation_result *out, uint32_t *agreement, bb_err *err)
{
    static const uint32_t first[BB_GENERATION_SPANS] = { 1, 17, 65 };
    bb_status             status = BB_OK;
    bb_scores             s = { 0 };
    uint32_t              n_new = g->spec.n_new;
    double               *room = bb_alloc(g->prompts.n, sizeof *room, err);
    if (!room) return BB_NOMEM;
    *out = (bb_generation_result) { .n_prompts = g->prompts.n, .n_prompt = g->spec.n_prompt, .n_new = n_new };
    BB_TRY(score(net, &g->greedy, g->on_greedy, &s, err));
    agreement_lengths(&s, out, room, agreement);
    bb_scores_done(&s);
    BB_TRY(score(net, &g->drawn, g->on_drawn, &s, err));
    for (int i = 0; i < BB_GENERATION_SPANS; i++) {
        uint32_t last = i + 1 < BB_GENERATION_SPANS ? first[i + 1] - 1 : n_new;
        out->span[i] = (bb_generation_span) { .first = first[i], .last = last < n_new ? last : n_new };
        measure_span(&s, &out->span[i], room);
    }
done:
    bb_scores_done(&s);
    bb_free(room);
    return status;
}
