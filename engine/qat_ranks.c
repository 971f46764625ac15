/* SPDX-License-Identifier: GPL-3.0-or-later
 * qat_ranks.c: low-bit training on several ranks (qat.h): they open the two models, get the texts as windows, and then all of them train, each with a share of
 * every batch. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/environment.h"
#include "engine/jobs.h"
#include "engine/qat.h"
#include "engine/ranks.h"
#include "engine/version.h"
#include "kernels/kernels.h"

/* ---- what all must have alike ---- */

static bb_status print_common(const bb_model *m, const bb_model *full, bb_text *t, bb_err *err)
{
    bb_text_addf(t, "build: %s %s\nCPU level and BLAS core: %s\n", BB_VERSION, bb_version_commit(), bb_kernels_bits());
    bb_text_addf(t, "model: %s\nreference: %s\n", bb_model_sha256(m), bb_model_sha256(full));
    return t->status == BB_OK ? BB_OK : BB_FAIL(err, BB_NOMEM, "out of memory while ranks were compared");
}

/* ---- questions: precision, paths, options, and windows to train on, held-out ones, those of other text ---- */

enum { N_SETS = 3 };

static bb_status add_path(bb_text *t, const char *path, bb_err *err)
{
    char *whole = realpath(path, NULL);
    if (!whole) return BB_FAIL(err, BB_IO, "%s: its folder has no path", path);
    bb_text_addn(t, whole, strlen(whole) + 1);
    free(whole);
    return BB_OK;
}

static void add_set(bb_text *t, const bb_tune_set *set)
{
    static const bb_tune_set none;
    const bb_tune_set       *s = set ? set : &none;
    const uint32_t           numbers[] = { s->n, s->ctx, s->first, s->n_scored, s->targets != NULL };
    const size_t             bytes = (size_t)s->n * s->ctx * sizeof *s->tokens;
    bb_text_addn(t, (const char *)numbers, sizeof numbers);
    if (s->n) bb_text_addn(t, (const char *)s->tokens, bytes);
    if (s->targets) bb_text_addn(t, (const char *)s->targets, bytes);
}

static bb_status take_ids(bb_parcel *p, size_t n, int32_t **ids, bb_err *err)
{
    if (n > p->left / sizeof **ids) return bb_parcel_take(p, NULL, p->left + 1, err);
    if (!(*ids = BB_NEW(n, int32_t, err))) return BB_NOMEM;
    return bb_parcel_take(p, *ids, n * sizeof **ids, err);
}

/* ids: [2] that the set points into; bb_free. */
static bb_status take_set(bb_parcel *p, bb_tune_set *set, int32_t *ids[2], bb_err *err)
{
    uint32_t  numbers[5];
    bb_status status;
    BB_TRY(bb_parcel_take(p, numbers, sizeof numbers, err));
    const size_t n = (size_t)numbers[0] * numbers[1];
    BB_TRY(take_ids(p, n, &ids[0], err));
    if (numbers[4]) BB_TRY(take_ids(p, n, &ids[1], err));
    *set = (bb_tune_set) { ids[0], ids[1], numbers[0], numbers[1], numbers[2], numbers[3] };
done:
    return status;
}

/* ---- rank 0 ---- */

typedef struct sharing {
    const bb_model        *m, *full;
    bb_tuned              *net;
    const bb_tune_options *o;
    const bb_tune_set     *train, *held;
    bb_tune_report        *report;
    bb_text                common;
    bb_status              own; /* what this rank's training came to */
} sharing;

static bb_status ask_open(void *self, size_t i, bb_text *question, bb_err *err)
{
    const sharing  *s = self;
    const char      fast = bb_kernels_precision() == BB_FAST;
    bb_tune_options o = *s->o; /* what belongs to this process is another's to set */
    bb_status       status;
    (void)i;
    o.other = NULL;
    o.state = o.label = NULL;
    o.looked = NULL;
    o.looked_self = NULL;
    o.peers = NULL;
    o.progress = NULL;
    bb_text_addn(question, &fast, 1);
    BB_TRY(add_path(question, s->m->path, err));
    BB_TRY(add_path(question, s->full->path, err));
    bb_text_addn(question, (const char *)&o, sizeof o);
    add_set(question, s->train);
    add_set(question, s->held);
    add_set(question, s->o->other);
done:
    return status;
}

static bb_status take_open(void *self, size_t i, const char *answer, size_t size, bb_err *err)
{
    return bb_ranks_compare(i, answer, size, &((const sharing *)self)->common, err);
}

static bb_status ask_nothing(void *self, size_t i, bb_text *question, bb_err *err)
{
    (void)self, (void)i, (void)question, (void)err;
    return BB_OK;
}

static bb_status do_nothing(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    (void)self, (void)worker, (void)question, (void)size, (void)answer, (void)err;
    return BB_OK;
}

static bb_status take_nothing(void *self, size_t i, const char *answer, size_t size, bb_err *err)
{
    (void)self, (void)i, (void)answer, (void)size, (void)err;
    return BB_OK;
}

static bb_status train_here(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    sharing        *s = self;
    bb_tune_options o = *s->o;
    (void)worker, (void)question, (void)size, (void)answer;
    o.peers = bb_ranks_peers();
    return s->own = bb_tune(bb_engine_backend(), &s->full->net, s->net, &o, s->train, s->held, s->report, err);
}

/* One job a rank, this one's too: nobody ends his before all have begun theirs, so that each has one. */
static bb_status train_together(sharing *s, const bb_crew *crew, bb_err *err)
{
    const bb_jobs open = { BB_JOB_QAT_OPEN, crew->n_others, s, ask_open, do_nothing, take_open };
    const bb_jobs train = { BB_JOB_QAT, crew->n_others + 1, s, ask_nothing, train_here, take_nothing };
    bb_err        why = BB_ERR_INIT;
    bb_status     status;
    s->own = BB_INTERRUPTED;
    BB_TRY(print_common(s->m, s->full, &s->common, err));
    BB_TRY(crew->each(crew->self, &open, err));
    status = crew->run(crew->self, &train, &why);
    if (s->own == BB_OK) status = BB_OK; /* what happened elsewhere behind the last step takes nothing from it */
    else BB_FAIL(err, status, "%s", why.msg);
done:
    bb_ranks_dismiss(crew);
    bb_text_done(&s->common);
    return status;
}

bb_status bb_qat_train(const bb_model *m, const bb_model *full, bb_tuned *net, const bb_tune_options *o, const bb_tune_set *train, const bb_tune_set *held,
                       bb_tune_report *report, bb_err *err)
{
    const bb_crew *crew = bb_ranks_crew();
    sharing        s = { m, full, net, o, train, held, report, { 0 }, BB_OK };
    const bool     others = crew && crew->n_others, together = others && bb_tune_is_shared(&net->net, o);
    if (others && !together) bb_info("one rank trains this network: its blocks read the tokens' embeddings again, whose gradients have one order");
    if (together && crew->n_others + 1 > o->batch)
        bb_info("%u of %u ranks have no window of a batch of %u", crew->n_others + 1 - o->batch, crew->n_others + 1, o->batch);
    if (together) return train_together(&s, crew, err);
    return bb_tune(bb_engine_backend(), &full->net, net, o, train, held, report, err);
}

/* ---- the others ---- */

struct bb_qat_share {
    bb_model        m, full;
    bb_tune_options o;
    bb_tune_set     sets[N_SETS];
    int32_t        *ids[N_SETS][2];
};

static bb_status open_next(bb_parcel *p, bb_model *m, bb_err *err)
{
    const char *path = p->at, *end = memchr(p->at, '\0', p->left);
    bb_status   status;
    if (!end) return BB_FAIL(err, BB_FAILED, "a message between ranks names no model");
    BB_TRY(bb_parcel_take(p, NULL, (size_t)(end - path) + 1, err));
    BB_TRY(bb_model_open(path, m, err));
done:
    return status;
}

bb_status bb_qat_share_open(const char *question, size_t size, bb_text *answer, bb_qat_share **out, bb_err *err)
{
    bb_parcel     p = { question, size };
    bb_qat_share *q = BB_NEW0(1, bb_qat_share, err);
    char          fast;
    bb_status     status;
    if (!(*out = q)) return BB_NOMEM;
    BB_TRY(bb_parcel_take(&p, &fast, 1, err));
    bb_kernels_set_precision(fast ? BB_FAST : BB_EXACT);
    BB_TRY(open_next(&p, &q->m, err));
    BB_TRY(open_next(&p, &q->full, err));
    bb_ranks_add_host(answer);
    BB_TRY(print_common(&q->m, &q->full, answer, err));
    BB_TRY(bb_parcel_take(&p, &q->o, sizeof q->o, err));
    for (int i = 0; i < N_SETS; i++) BB_TRY(take_set(&p, &q->sets[i], q->ids[i], err));
done:
    return status;
}

bb_status bb_qat_share_train(bb_qat_share *q, bb_err *err)
{
    bb_tuned       net = { 0 };
    bb_tune_report report;
    bb_status      status;
    if (!q) return BB_FAIL(err, BB_FAILED, "a job came to a rank that has nothing to train");
    q->o.peers = bb_ranks_peers();
    q->o.other = q->sets[2].n ? &q->sets[2] : NULL;
    status = bb_tuned_copy(&q->m.net, &net, err);
    if (status == BB_OK) status = bb_tune(bb_engine_backend(), &q->full.net, &net, &q->o, &q->sets[0], &q->sets[1], &report, err);
    else bb_peers_worst(q->o.peers, status); /* the others hear of it */
    bb_tuned_done(&net);
    return status;
}

void bb_qat_share_done(bb_qat_share *q)
{
    if (!q) return;
    for (int i = 0; i < N_SETS; i++)
        for (int k = 0; k < 2; k++) bb_free(q->ids[i][k]);
    bb_model_close(&q->m);
    bb_model_close(&q->full);
    bb_free(q);
}
