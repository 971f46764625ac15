/* SPDX-License-Identifier: GPL-3.0-or-later
 * tune.c: the hidden states that an optimisation starts from and aims at. See tune.h. */
#include "model/tune/tune.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/peers.h"
#include "model/net/host.h"
#include "model/tune/trainer.h"

enum { BATCH = 8 /* windows forwarded at once */, N_SETS = 3 };

static size_t row_of(const bb_net *net, const bb_tune_set *s) { return (size_t)s->ctx * bb_row_width(net); }

/* h [n * ctx][C] := the embedding's rows. */
static bb_status embed(bb_forward *f, const bb_net *net, const bb_tune_set *s, float *h, bb_err *err)
{
    bb_status status = BB_OK;
    for (uint32_t i = 0; i < s->n && status == BB_OK; i += BATCH)
        status = bb_host_embed(f, net, s->tokens + (size_t)i * s->ctx, s->n - i < BATCH ? s->n - i : BATCH, s->ctx, h + i * row_of(net, s), err);
    return status;
}

/* Through blocks first .. end-1, in place. */
static bb_status advance(bb_forward *f, const bb_net *net, const bb_tune_set *s, uint32_t first, uint32_t end, float *h, bb_progress *progress, bb_err *err)
{
    bb_status status = BB_OK;
    for (uint32_t i = 0; i < s->n && status == BB_OK; i += BATCH) {
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while a plan was tuned");
        for (uint32_t b = first; b < end && status == BB_OK; b++)
            status = bb_host_block(f, net, &net->blocks[b], s->n - i < BATCH ? s->n - i : BATCH, s->ctx, h + i * row_of(net, s), NULL, NULL, err);
        if (progress) (first < end ? bb_progress_add : bb_progress_skip)(progress, s->n - i < BATCH ? s->n - i : BATCH);
    }
    return status;
}

/* The two streams of a set: the tuned prefix's and full precision's. */
typedef struct streams {
    const bb_tune_set *set;
    float             *in, *target;
} streams;

static void streams_done(streams *s)
{
    bb_free(s->in);
    bb_free(s->target);
}

static bb_status streams_start(bb_forward *f, const bb_net *full, const bb_net *net, const bb_tune_set *set, streams *s, bb_err *err)
{
    const size_t n = set->n * row_of(full, set);
    bb_status    status = BB_NOMEM;
    *s = (streams) { .set = set };
    s->in = BB_SPILL(n, float, err);
    s->target = BB_SPILL(n, float, err);
    if (!s->in || !s->target) return BB_NOMEM;
    BB_TRY(embed(f, net, set, s->in, err));
    BB_TRY(embed(f, full, set, s->target, err));
done:
    return status;
}

/* s: of the training windows, the held-out ones, and those of another text (set NULL: none). met: peers have been talked to. */
static bb_status train(const bb_backend *backend, const bb_net *full, bb_tuned *t, const bb_tune_options *o, const streams s[N_SETS], bool *met,
                       bb_tune_report *report, bb_err *err)
{
    bb_tune_states states[N_SETS];
    bb_trainer    *r = NULL;
    bb_status      status;
    for (int i = 0; i < N_SETS; i++) states[i] = (bb_tune_states) { s[i].set, s[i].in, s[i].target };
    BB_TRY(bb_trainer_create(backend, full, t, o, &states[0], &states[1], states[2].set ? &states[2] : NULL, &r, err));
    *met = true;
    BB_TRY(bb_trainer_run(r, report, err));
done:
    bb_trainer_destroy(r);
    return status;
}

bool bb_tune_is_shared(const bb_net *net, const bb_tune_options *o)
{
    return o->loss != BB_TUNE_OUTPUT && o->first == 0 && o->last == net->n_layer - 1 && o->embedding && net->token.width == 0;
}

bb_status bb_tune(const bb_backend *backend, const bb_net *full, bb_tuned *t, const bb_tune_options *o, const bb_tune_set *train_set, const bb_tune_set *held,
                  bb_tune_report *report, bb_err *err)
{
    const bb_tune_set *const sets[N_SETS] = { train_set, held, o->other };
    const uint32_t           aim = o->loss == BB_TUNE_OUTPUT ? o->last + 1 : full->n_layer;
    const bool               on_the_way = o->first == 0 && o->loss != BB_TUNE_OUTPUT; /* the trainer computes what it needs of the training windows */
    streams                  s[N_SETS] = { { .set = train_set } };
    bb_forward              *f = NULL;
    bb_progress              progress, *shown = o->label ? &progress : NULL;
    char                     label[sizeof progress.label];
    bool                     met = false; /* the peers have heard of this one */
    bb_status                status;
    BB_ASSERT(!o->peers || (o->peers->n > 1 && bb_tune_is_shared(&t->net, o)));
    BB_TRY(bb_trainer_check_sets(train_set, held, o->other, err));
    BB_TRY(bb_forward_create(backend, full, BATCH, train_set->ctx, &f, err));
    snprintf(label, sizeof label, "%.40s, states", o->label ? o->label : "");
    if (shown) bb_progress_start(shown, label, 2 * ((on_the_way ? 0 : (uint64_t)train_set->n) + held->n + (o->other ? o->other->n : 0)));
    for (int i = on_the_way; i < N_SETS && sets[i]; i++) {
        BB_TRY(streams_start(f, full, &t->net, sets[i], &s[i], err));
        BB_TRY(advance(f, &t->net, sets[i], 0, o->first, s[i].in, shown, err));
        BB_TRY(advance(f, full, sets[i], 0, aim, s[i].target, shown, err));
    }
    if (shown) bb_progress_end(shown);
    status = train(backend, full, t, o, s, &met, report, err);
done:
    if (!met) bb_peers_worst(o->peers, status);
    for (int i = 0; i < N_SETS; i++) streams_done(&s[i]);
    bb_forward_destroy(f);
    return status;
}

bb_status bb_tune_blocks(const bb_backend *backend, const bb_net *full, bb_tuned *t, const bb_tune_options *o, const bb_tune_set *train_set,
                         const bb_tune_set *held, bb_tune_report *reports, bb_err *err)
{
    const bb_tune_set *const sets[2] = { train_set, held };
    bb_tune_options          one = *o;
    streams                  s[N_SETS] = { { 0 } };
    bb_forward              *f = NULL;
    bb_progress              progress;
    char                     label[sizeof progress.label];
    bool                     met;
    bb_status                status;
    BB_ASSERT(o->loss == BB_TUNE_OUTPUT && !o->embedding && !o->peers);
    BB_TRY(bb_trainer_check_sets(train_set, held, NULL, err));
    one.label = NULL;
    BB_TRY(bb_forward_create(backend, full, BATCH, train_set->ctx, &f, err));
    for (int i = 0; i < 2; i++) {
        BB_TRY(streams_start(f, full, &t->net, sets[i], &s[i], err));
        BB_TRY(advance(f, &t->net, sets[i], 0, o->first, s[i].in, NULL, err));
        BB_TRY(advance(f, full, sets[i], 0, o->first, s[i].target, NULL, err));
    }
    snprintf(label, sizeof label, "%.40s, steps", o->label ? o->label : "");
    if (o->label) bb_progress_start(&progress, label, (uint64_t)(o->last - o->first + 1) * o->steps);
    one.progress = o->label ? &progress : NULL;
    for (uint32_t b = o->first; b <= o->last; b++) {
        bb_tune_report report;
        one.first = one.last = b;
        for (int i = 0; i < 2; i++) BB_TRY(advance(f, full, sets[i], b, b + 1, s[i].target, NULL, err));
        BB_TRY(train(backend, full, t, &one, s, &met, &report, err));
        if (reports) reports[b - o->first] = report;
        for (int i = 0; i < 2; i++) BB_TRY(advance(f, &t->net, sets[i], b, b + 1, s[i].in, NULL, err));
    }
    if (o->label) bb_progress_end(&progress);
done:
    streams_done(&s[0]);
    streams_done(&s[1]);
    bb_forward_destroy(f);
    return status;
}
