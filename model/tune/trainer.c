/* SPDX-License-Identifier: GPL-3.0-or-later
 * trainer.c: see trainer.h.
 *
 * One step: a batch of windows forward through the run of blocks (and, for losses at the head, through the frozen ones behind it),
 * the loss's gradient, backward, gradients of the fields, AdamW, new codes. Windows are drawn without replacement until all were used.
 * With peers each runs its windows of the batch, and the gradients go round: whoever has got those of the windows before adds its own and hands them on, block by
 * block, so that all are at work, a block apart; the last one's are everybody's, and everybody takes the same step. See "peers" below.
 * Of fast precision all products of a step are of plain bfloat16 (a step is of noise anyway), those that losses are compared by are not.
 */
#include "model/tune/trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/crew.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/peers.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "model/net/host.h"
#include "model/tune/lattice_latent.h"
#include "model/tune/state_file.h"

enum {
    CHECK_WINDOWS = 8, /* held-out windows forwarded at once */
    MOST_TRIALS = 3
};
static const double BACK_OFF = 0.25; /* of the rates, at each beginning after the first */

/* Where a training is, beside its arrays; part of the saved state. Times are not: they belong to the process. */
typedef struct where {
    uint64_t step;                                                    /* steps done */
    uint32_t best_step, worse;                                        /* worse: looks in a row that were behind the one before and not better */
    double   mean_norm;                                               /* of the gradient, running */
    double   start, best, other_start, other_best, best_score, score; /* score: of the last look */
    uint64_t began, trials;                                           /* the step that the present rates began at; rates given up */
} where;

struct bb_trainer {
    const bb_backend      *backend;
    const bb_net          *full;
    bb_tuned              *t;
    const bb_tune_options *o;
    bb_tune_states         train, held, other; /* other.set NULL: there is none */
    bb_net                 view;
    bb_block              *blocks;            /* of view */
    uint32_t               end;               /* blocks first .. end-1 are run */
    bb_forward            *forward, *teacher; /* teacher: of full, where the targets of training windows are computed on the way */
    bb_backward           *backward;
    float                 *seen; /* targets that are kept: of windows 0 .. n_seen - 1 of the training set */
    bool                  *is_seen;
    uint32_t               n_seen;
    bb_latent             *latents;
    size_t                 n_latents, max_latents;
    bb_block_grad         *grads; /* [n_layer] */
    bb_head_grad           head_grad;
    float                 *embd_grad;  /* NULL: embedding frozen */
    float                 *norm_grads; /* one array for all norms */
    bb_span               *spans;      /* of gradients that go round: room for those of all blocks */
    size_t                 n_norm_floats;
    bb_param              *params;
    size_t                 n_params;
    bb_adamw              *adamw;
    where                  at;
    float                 *h; /* [end - first + 1][batch rows][C] states at the boundaries of the batch */
    float                 *dh;
    float                 *scored, *scored_ref, *scored_dh; /* rows that count at the head */
    int32_t               *tokens, *labels;
    float                 *weight; /* [batch rows] */
    double                *losses; /* of all scored rows of held-out windows */
    struct {
        void  *at;
        size_t size;
    } * kept; /* what a state is: packed matrices and norms */
    size_t         n_kept, kept_bytes;
    unsigned char *best;  /* snapshot: kept, one after the other */
    uint32_t      *order; /* [train windows] */
    uint32_t       next;
    bb_rng         rng;
    bb_progress   *shown;        /* in windows; NULL: no line of its own */
    bool           lost;         /* the last look saw no use in going on */
    char           identity[65]; /* of the saved state */
};

/* Windows that run together in a step; and rows that there is room for. */
static uint32_t at_once(const bb_trainer *r) { return r->o->at_once && r->o->at_once < r->o->batch ? r->o->at_once : r->o->batch; }
static size_t   rows_of_batch(const bb_trainer *r) { return (size_t)(at_once(r) > CHECK_WINDOWS ? at_once(r) : CHECK_WINDOWS) * r->train.set->ctx; }

/* ---- what is trained ---- */

static void keep(bb_trainer *r, void *at, size_t size)
{
    r->kept[r->n_kept].at = at;
    r->kept[r->n_kept++].size = size;
    r->kept_bytes += size;
}

/* A latent behind one matrix; the view's matrix becomes its decoded float32. */
static bb_status add_latent(bb_trainer *r, bb_matrix *view, unsigned char *packed, bb_lattice_box *lattice, double weights, double fields, float **grad,
                            bb_err *err)
{
    bb_latent *l = &r->latents[r->n_latents];
    bb_status  status;
    BB_ASSERT(r->n_latents < r->max_latents);
    if (lattice) packed = lattice->bytes;
    BB_TRY(bb_latent_create(view, packed, l, err));
    r->n_latents++;
    if (lattice) l->lattice->shown = lattice->w;
    bb_latent_params(l, weights, fields, r->params + r->n_params);
    r->n_params += BB_LATENT_PARAMS;
    keep(r, packed, lattice ? bb_lattice_bytes(l->rows, l->cols) : l->rows * bb_format_row_bytes(l->format, l->cols));
    view->type = BB_F32;
    view->lattice = NULL;
    view->data = l->q;
    *grad = l->g_w;
done:
    return status;
}

static double mean_gain(const float *w, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += fabs((double)w[i]);
    return sum / (double)n;
}

static void add_norm(bb_trainer *r, float *w, size_t n, float **grad)
{
    if (!w || r->o->norms <= 0) return;
    *grad = r->norm_grads + r->n_norm_floats;
    r->n_norm_floats += n;
    keep(r, w, n * sizeof *w);
    r->params[r->n_params++] = (bb_param) { w, *grad, n, (float)(r->o->norms * mean_gain(w, n)), 0 };
}

static bb_status add_block(bb_trainer *r, uint32_t i, bb_err *err)
{
    const bb_tune_options *o = r->o;
    bb_block              *k = &r->blocks[i];
    bb_tuned_block        *own = &r->t->bytes[i];
    bb_block_grad         *g = &r->grads[i];
    bb_status              status = BB_OK;
    for (int p = 0; p < BB_N_PARTS; p++)
        if (k->w[p].rows) BB_TRY(add_latent(r, &k->w[p], own->w[p], own->lattice[p], o->weights, o->fields, &g->w[p], err));
    for (int n = 0; n < BB_N_NORMS; n++) add_norm(r, own->norm[n], bb_norm_length(&r->view, k, (bb_norm)n), &g->norm[n]);
done:
    return status;
}

static bb_status add_embedding(bb_trainer *r, bb_err *err)
{
    bb_status status;
    BB_TRY(add_latent(r, &r->view.embd, r->t->embd, NULL, r->o->weights, r->o->fields, &r->embd_grad, err));
    if (r->view.head.rows) BB_TRY(add_latent(r, &r->view.head, r->t->head, NULL, r->o->weights, r->o->fields, &r->head_grad.head, err));
    else r->head_grad.head = r->embd_grad;
    add_norm(r, r->t->out_norm, r->view.n_embd, &r->head_grad.out_norm);
    for (uint32_t b = 0; b < r->view.n_layer; b++) r->grads[b].embd = r->embd_grad; /* blocks that read the tokens' embeddings */
done:
    return status;
}

/* Weights of all norms that may be tuned. */
static size_t norm_floats(const bb_trainer *r)
{
    size_t n = r->view.n_embd;
    for (uint32_t i = r->o->first; i <= r->o->last; i++)
        for (int k = 0; k < BB_N_NORMS; k++) n += r->t->bytes[i].norm[k] ? bb_norm_length(&r->view, &r->blocks[i], (bb_norm)k) : 0;
    return n;
}

static bb_status add_params(bb_trainer *r, bb_err *err)
{
    const uint32_t   n = r->o->last - r->o->first + 1;
    bb_adamw_options adamw = BB_ADAMW_DEFAULT;
    bb_status        status = BB_NOMEM;
    r->max_latents = (size_t)n * BB_N_PARTS + 2;
    r->latents = BB_NEW0(r->max_latents, bb_latent, err);
    r->params = BB_NEW0(r->max_latents * BB_LATENT_PARAMS + (size_t)n * BB_N_NORMS + 1, bb_param, err);
    r->kept = bb_calloc(r->max_latents + (size_t)n * BB_N_NORMS + 1, sizeof *r->kept, err);
    r->grads = BB_NEW0(r->view.n_layer, bb_block_grad, err);
    r->norm_grads = BB_NEW0(norm_floats(r), float, err);
    r->spans = BB_NEW(r->max_latents + (size_t)n * BB_N_NORMS + 1, bb_span, err);
    if (!r->latents || !r->params || !r->kept || !r->grads || !r->norm_grads || !r->spans) goto done;
    for (uint32_t i = r->o->first; i <= r->o->last; i++) BB_TRY(add_block(r, i, err));
    if (r->o->embedding) BB_TRY(add_embedding(r, err));
    adamw.coarse = r->o->coarse_moments;
    BB_TRY(bb_adamw_create(r->params, r->n_params, &adamw, &r->adamw, err));
done:
    return status;
}

/* ---- snapshots ---- */

/* The weights are others now: the backend's copies of them are too old. */
static void forget(const bb_trainer *r) { r->backend->ops->forget(r->backend->context); }

/* Into r->best, or back from it. */
static void snapshot(bb_trainer *r, bool back)
{
    unsigned char *at = r->best;
    for (size_t i = 0; i < r->n_kept; at += r->kept[i++].size) {
        if (back) memcpy(r->kept[i].at, at, r->kept[i].size);
        else memcpy(at, r->kept[i].at, r->kept[i].size);
    }
    for (size_t i = 0; back && i < r->n_latents; i++) bb_latent_decode(&r->latents[i]);
    if (back) forget(r);
}

/* ---- life ---- */

void bb_trainer_destroy(bb_trainer *r)
{
    if (!r) return;
    forget(r);
    for (size_t i = 0; r->latents && i < r->n_latents; i++) bb_latent_done(&r->latents[i]);
    bb_adamw_destroy(r->adamw);
    bb_forward_destroy(r->forward);
    bb_forward_destroy(r->teacher);
    bb_backward_destroy(r->backward);
    void *const owned[] = { r->blocks,    r->latents, r->grads,  r->norm_grads, r->params, r->kept, r->h,     r->dh,   r->scored,  r->scored_ref,
                            r->scored_dh, r->tokens,  r->labels, r->weight,     r->losses, r->best, r->order, r->seen, r->is_seen, r->spans };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) bb_free(owned[i]);
    bb_free(r);
}

static size_t scored_rows(const bb_tune_set *s) { return (size_t)s->n * s->n_scored; }

static bb_status allocate(bb_trainer *r, bb_err *err)
{
    const size_t rows = rows_of_batch(r), C = r->view.n_embd, W = bb_row_width(&r->view), held = scored_rows(r->held.set);
    const size_t other = r->other.set ? scored_rows(r->other.set) : 0, looked_at = held > other ? held : other;
    r->h = BB_NEW((r->end - r->o->first + 1) * rows * W, float, err);
    r->dh = BB_NEW(rows * W, float, err);
    r->scored = BB_NEW(rows * C, float, err);
    r->scored_ref = BB_NEW(rows * C, float, err);
    r->scored_dh = BB_NEW(rows * C, float, err);
    r->tokens = BB_NEW(rows, int32_t, err);
    r->labels = BB_NEW(rows, int32_t, err);
    r->weight = BB_NEW(rows, float, err);
    r->losses = BB_NEW(rows > looked_at ? rows : looked_at, double, err);
    r->order = BB_NEW(r->train.set->n, uint32_t, err);
    r->best = bb_alloc(r->kept_bytes, 1, err);
    return r->h && r->dh && r->scored && r->scored_ref && r->scored_dh && r->tokens && r->labels && r->weight && r->losses && r->order && r->best ? BB_OK
                                                                                                                                                  : BB_NOMEM;
}

bb_status bb_trainer_check_sets(const bb_tune_set *train, const bb_tune_set *held, const bb_tune_set *other, bb_err *err)
{
    const bb_tune_set *const sets[3] = { train, held, other };
    for (int i = 0; i < 3 && sets[i]; i++) {
        const bb_tune_set *s = sets[i];
        if (s->n == 0 || s->ctx == 0 || s->n_scored == 0 || s->first + s->n_scored > s->ctx || s->ctx != train->ctx)
            return BB_FAIL(err, BB_FAILED,
                           "tuning needs windows for training and for checking, of one length: got %u of %u tokens (%u from %u counted) and "
                           "%u of %u",
                           train->n, train->ctx, s->n_scored, s->first, held->n, held->ctx);
    }
    return BB_OK;
}

static bb_status check_options(const bb_net *full, const bb_tune_options *o, const bb_tune_states *train, const bb_tune_states *held,
                               const bb_tune_states *other, bb_err *err)
{
    const bool at_head = o->loss != BB_TUNE_OUTPUT;
    bb_status  status;
    BB_ASSERT(o->first <= o->last && o->last < full->n_layer && o->batch > 0 && o->batch <= BB_TUNE_MAX_BATCH && o->checks > 0);
    BB_ASSERT((train->target || at_head) && held->target && (o->first == 0 || (train->in && held->in)));
    BB_ASSERT((!o->embedding && !other) || (at_head && o->first == 0));
    BB_TRY(bb_trainer_check_sets(train->set, held->set, other ? other->set : NULL, err));
    if ((o->loss == BB_TUNE_LABELS || o->label_share > 0) && !train->set->targets)
        status = BB_FAIL(err, BB_FAILED, "tuning on labels needs the next tokens of the windows");
done:
    return status;
}

/* For targets that are computed on the way. */
static bb_status make_teacher(bb_trainer *r, bb_err *err)
{
    const bb_tune_set *set = r->train.set;
    const size_t       row = (size_t)set->ctx * bb_row_width(r->full);
    const uint64_t     most = r->o->keep_bytes / (row * sizeof(float));
    if (r->train.target || r->o->loss == BB_TUNE_LABELS) return BB_OK;
    r->n_seen = r->o->keep_bytes && most < set->n ? (uint32_t)most : set->n;
    r->seen = BB_SPILL(r->n_seen * row, float, err);
    r->is_seen = BB_NEW0(r->n_seen, bool, err);
    if (!r->seen || !r->is_seen) return BB_NOMEM;
    const bb_status status = bb_forward_create(r->backend, r->full, at_once(r), set->ctx, &r->teacher, err);
    if (status == BB_OK) bb_forward_rough(r->teacher, true);
    return status;
}

bb_status bb_trainer_create(const bb_backend *backend, const bb_net *full, bb_tuned *t, const bb_tune_options *o, const bb_tune_states *train,
                            const bb_tune_states *held, const bb_tune_states *other, bb_trainer **out, bb_err *err)
{
    bb_trainer *r = NULL;
    bb_status   status;
    uint32_t    windows;
    *out = NULL;
    BB_TRY(check_options(full, o, train, held, other, err));
    status = BB_NOMEM;
    if (!(r = BB_NEW0(1, bb_trainer, err))) goto done;
    r->backend = backend;
    r->full = full;
    r->t = t;
    r->o = o;
    r->train = *train;
    r->held = *held;
    if (other) r->other = *other;
    r->view = t->net;
    if (!(r->blocks = BB_NEW(full->n_layer, bb_block, err))) goto done;
    memcpy(r->blocks, t->blocks, full->n_layer * sizeof *r->blocks);
    r->view.blocks = r->blocks;
    r->end = o->loss == BB_TUNE_OUTPUT ? o->last + 1 : full->n_layer;
    windows = (uint32_t)(rows_of_batch(r) / train->set->ctx);
    BB_TRY(add_params(r, err));
    BB_TRY(allocate(r, err));
    BB_TRY(bb_forward_create(backend, &t->net, windows, train->set->ctx, &r->forward, err));
    BB_TRY(bb_backward_create(backend, &t->net, windows, train->set->ctx, &r->backward, err));
    bb_backward_rough(r->backward, true);
    BB_TRY(make_teacher(r, err));
    bb_rng_init(&r->rng, o->seed, "tune");
    for (uint32_t i = 0; i < train->set->n; i++) r->order[i] = i;
    r->next = train->set->n;
    *out = r;
done:
    if (status != BB_OK) bb_trainer_destroy(r);
    return status;
}

/* ---- forward ---- */

static float *boundary(const bb_trainer *r, uint32_t block) { return r->h + (block - r->o->first) * rows_of_batch(r) * bb_row_width(&r->view); }

/* Windows index[0 .. S-1] of a set through the run; keep: the states at every boundary stay, else only the last one is right. */
static bb_status run_forward(bb_trainer *r, const bb_tune_states *s, const uint32_t *index, uint32_t S, bool keep, bb_err *err)
{
    const uint32_t T = s->set->ctx;
    const size_t   row = (size_t)T * bb_row_width(&r->view);
    float         *h = keep ? boundary(r, r->o->first) : boundary(r, r->end);
    bb_status      status = BB_OK;
    for (uint32_t i = 0; i < S; i++) {
        memcpy(r->tokens + (size_t)i * T, s->set->tokens + (size_t)index[i] * T, T * sizeof *r->tokens);
        if (r->o->first > 0) memcpy(h + i * row, s->in + index[i] * row, row * sizeof *h);
    }
    if (r->o->first == 0) BB_TRY(bb_host_embed(r->forward, &r->view, r->tokens, S, T, h, err));
    for (uint32_t b = r->o->first; b < r->end; b++) {
        if (keep) {
            memcpy(boundary(r, b + 1), h, S * row * sizeof *h);
            h = boundary(r, b + 1);
        }
        BB_TRY(bb_host_block(r->forward, &r->view, &r->blocks[b], S, T, h, NULL, NULL, err));
    }
done:
    return status;
}

/* The rows that count at the head, of the states h (S*T, W) and of the targets, where there are any yet, one window after the other, as windows `at` .. of the
 * batch. */
static void gather(bb_trainer *r, const bb_tune_states *s, const uint32_t *index, uint32_t at, uint32_t S, const float *h)
{
    const size_t C = r->view.n_embd, W = bb_row_width(&r->view), T = s->set->ctx, n = s->set->n_scored;
    for (size_t i = 0; i < S; i++) {
        const size_t from = (size_t)index[i] * T + s->set->first, to = (at + i) * n * C;
        bb_host_streams(&r->view, h + (i * T + s->set->first) * W, n, r->scored + to);
        if (s->target) bb_host_streams(&r->view, s->target + from * W, n, r->scored_ref + to);
    }
}

/* scored_ref of windows `at` .. of the batch := the full-precision states of training windows, computed where they are not kept. h of the batch's last boundary
 * is used up. */
static bb_status teach(bb_trainer *r, const uint32_t *index, uint32_t at_window, uint32_t S, bb_err *err)
{
    const bb_tune_set *set = r->train.set;
    const uint32_t     T = set->ctx;
    const size_t       W = bb_row_width(&r->view), row = T * W, n = set->n_scored * r->view.n_embd;
    float             *h = boundary(r, r->end), *at;
    uint32_t           missing[BB_TUNE_MAX_BATCH], m = 0;
    bb_status          status = BB_OK;
    for (uint32_t i = 0; i < S; i++)
        if (index[i] >= r->n_seen || !r->is_seen[index[i]]) missing[m++] = i;
    for (uint32_t i = 0; i < m; i++) memcpy(r->tokens + (size_t)i * T, set->tokens + (size_t)index[missing[i]] * T, T * sizeof *r->tokens);
    if (m) BB_TRY(bb_host_embed(r->teacher, r->full, r->tokens, m, T, h, err));
    for (uint32_t b = 0; m && b < r->full->n_layer; b++) BB_TRY(bb_host_block(r->teacher, r->full, &r->full->blocks[b], m, T, h, NULL, NULL, err));
    for (uint32_t i = 0, k = 0; i < S; i++) {
        const bool computed = k < m && missing[k] == i;
        at = computed ? h + k++ * row : r->seen + index[i] * row;
        if (computed && index[i] < r->n_seen) {
            memcpy(r->seen + index[i] * row, at, row * sizeof *at);
            r->is_seen[index[i]] = true;
        }
        bb_host_streams(&r->view, at + set->first * W, set->n_scored, r->scored_ref + (at_window + i) * n);
    }
done:
    return status;
}

/* The windows first .. end-1 of n that a peer has. */
typedef struct share {
    uint32_t first, end;
} share;

static share share_of(uint32_t n, uint32_t n_peers, uint32_t rank)
{
    return (share) { (uint32_t)((uint64_t)n * rank / n_peers), (uint32_t)((uint64_t)n * (rank + 1) / n_peers) };
}

static uint32_t n_peers(const bb_trainer *r) { return r->o->peers ? r->o->peers->n : 1; }
static uint32_t own_rank(const bb_trainer *r) { return r->o->peers ? r->o->peers->rank : 0; }

/* All stop at the same place: one that has failed with its own status, the others because of it. */
static bb_status agree(const bb_trainer *r, bb_status own, bb_err *err)
{
    const bb_status worst = bb_peers_worst(r->o->peers, own);
    if (own != BB_OK || worst == BB_OK) return own;
    return BB_FAIL(err, BB_INTERRUPTED, "interrupted while a plan was tuned, with another process");
}

/* Squared errors behind the last trained block; where there is a head to look at, KL at the scored rows of the windows of a share, into r->losses. */
static bb_status check_windows(bb_trainer *r, const bb_tune_states *held, share of, double *squares, bb_err *err)
{
    const bb_tune_set *set = held->set;
    const size_t       row = set->ctx * bb_row_width(&r->view);
    bb_status          status = BB_OK;
    bb_forward_rough(r->forward, false);
    for (uint32_t first = of.first; first < of.end; first += CHECK_WINDOWS) {
        const uint32_t S = of.end - first < CHECK_WINDOWS ? of.end - first : CHECK_WINDOWS;
        uint32_t       index[CHECK_WINDOWS];
        const float   *h = boundary(r, r->end);
        for (uint32_t i = 0; i < S; i++) index[i] = first + i;
        BB_TRY(run_forward(r, held, index, S, false, err));
        if (r->o->loss == BB_TUNE_OUTPUT) {
            const float *target = held->target + first * row;
            for (size_t i = 0; i < S * row; i++) *squares += ((double)h[i] - (double)target[i]) * ((double)h[i] - (double)target[i]);
            continue;
        }
        gather(r, held, index, 0, S, h);
        BB_TRY(bb_host_kl(r->forward, r->full, r->scored_ref, &r->view, r->scored, NULL, (size_t)S * set->n_scored, r->losses + (size_t)first * set->n_scored,
                          NULL, NULL, err));
    }
done:
    return status;
}

/* The mean loss that states are compared by: squared error behind the block, or KL whatever the loss at the head. */
static bb_status check(bb_trainer *r, const bb_tune_states *held, double *loss, bb_err *err)
{
    const bb_tune_set *set = held->set;
    double             sum = 0;
    bb_status          status = check_windows(r, held, share_of(set->n, n_peers(r), own_rank(r)), &sum, err);
    for (uint32_t i = 0; i < n_peers(r); i++) {
        const share   of = share_of(set->n, n_peers(r), i);
        const bb_span span = { r->losses + (size_t)of.first * set->n_scored, (size_t)(of.end - of.first) * set->n_scored * sizeof *r->losses };
        bb_peers_share(r->o->peers, i, &span, 1);
    }
    BB_TRY(agree(r, status, err));
    for (size_t i = 0; r->o->loss != BB_TUNE_OUTPUT && i < scored_rows(set); i++) sum += r->losses[i];
    *loss = sum / (r->o->loss == BB_TUNE_OUTPUT ? (double)set->n * set->ctx * (double)bb_row_width(&r->view) : (double)scored_rows(set));
done:
    return status;
}

/* ---- one step ---- */

static void draw(bb_trainer *r, uint32_t *index, uint32_t n)
{
    const uint32_t all = r->train.set->n;
    for (uint32_t i = 0; i < n; i++) {
        if (r->next == all) {
            for (uint32_t k = all; k > 1; k--) {
                uint32_t j = (uint32_t)bb_rng_below(&r->rng, k), swap = r->order[k - 1];
                r->order[k - 1] = r->order[j];
                r->order[j] = swap;
            }
            r->next = 0;
        }
        index[i] = r->order[r->next++];
    }
}

/* dh behind the trained block, of S windows' part of the mean squared error over the batch. */
static void output_gradient(bb_trainer *r, const uint32_t *index, uint32_t S)
{
    const size_t row = r->train.set->ctx * bb_row_width(&r->view);
    const float *h = boundary(r, r->end), scale = 2.0f / (float)(r->o->batch * row);
    for (size_t i = 0; i < S; i++) { /* of what rows carry too: keys and values for later blocks */
        const float *target = r->train.target + index[i] * row;
        for (size_t k = 0; k < row; k++) r->dh[i * row + k] = scale * (h[i * row + k] - target[k]);
    }
}

/* ---- peers ----
 * Every entry of a gradient is one chain over the tokens of a batch in order (backward.h): so the peer that has the next tokens goes on from what the peer before
 * has got to. Hidden states are computed by each for its own windows; those that count at the head are then everybody's, because rows are at the head in pieces
 * that are not of whole windows, one piece a peer in turn; so are the gradients that come back. */

/* Windows of S that a peer has; the first ones have some where there are fewer windows than peers. */
static uint32_t active_peers(const bb_trainer *r, uint32_t S)
{
    const uint32_t unit = bb_backward_windows(r->backward, r->train.set->ctx), units = (S + unit - 1) / unit;
    return units < n_peers(r) ? units : n_peers(r);
}

static share batch_share(const bb_trainer *r, uint32_t S, uint32_t rank)
{
    const uint32_t unit = bb_backward_windows(r->backward, r->train.set->ctx), n = active_peers(r, S);
    if (rank >= n) return (share) { S, S };
    const share s = share_of((S + unit - 1) / unit, n, rank);
    return (share) { s.first * unit, s.end * unit < S ? s.end * unit : S };
}

/* The rows of S windows, `width` floats a window, of which every peer has made its own. */
static void share_windows(const bb_trainer *r, uint32_t S, float *rows, size_t width)
{
    for (uint32_t i = 0; r->o->peers && i < active_peers(r, S); i++) {
        const share   of = batch_share(r, S, i);
        const bb_span span = { rows + of.first * width, (of.end - of.first) * width * sizeof *rows };
        bb_peers_share(r->o->peers, i, &span, 1);
    }
}

static size_t head_spans(const bb_trainer *r, bb_span *spans)
{
    const bb_matrix *head = bb_net_head(&r->view);
    size_t           n = 0;
    spans[n++] = (bb_span) { r->head_grad.head, (size_t)head->rows * head->cols * sizeof(float) };
    if (r->head_grad.out_norm) spans[n++] = (bb_span) { r->head_grad.out_norm, r->view.n_embd * sizeof(float) };
    return n;
}

static size_t block_spans(const bb_trainer *r, uint32_t b, bb_span *spans)
{
    const bb_block_grad *g = &r->grads[b];
    const bb_block      *k = &r->blocks[b];
    size_t               n = 0;
    for (int p = 0; p < BB_N_PARTS; p++)
        if (g->w[p]) spans[n++] = (bb_span) { g->w[p], (size_t)k->w[p].rows * k->w[p].cols * sizeof(float) };
    for (int i = 0; i < BB_N_NORMS; i++)
        if (g->norm[i]) spans[n++] = (bb_span) { g->norm[i], bb_norm_length(&r->view, k, (bb_norm)i) * sizeof(float) };
    return n;
}

/* The piece of rows at the head that a peer is about to add, or has added. */
typedef struct turn {
    const bb_trainer *r;
    size_t            piece;
    bool              ready; /* has the gradients of the pieces before */
} turn;

static void await_turn(void *self)
{
    turn           *t = self;
    const bb_peers *p = t->r->o->peers;
    bb_span         spans[2];
    if (!t->ready && t->piece > 0) p->receive(p->self, (uint32_t)((t->piece - 1) % p->n), spans, head_spans(t->r, spans));
    t->ready = true;
}

static void hand_on(turn *t)
{
    const bb_peers *p = t->r->o->peers;
    bb_span         spans[2];
    await_turn(t); /* also of one that has failed: others wait */
    p->send(p->self, (uint32_t)((t->piece + 1) % p->n), spans, head_spans(t->r, spans));
}

/* ---- the gradients of a batch ---- */

static bb_status head_rows(bb_trainer *r, size_t at, size_t n, const bb_head_grad *grad, bb_err *err)
{
    const size_t C = r->view.n_embd;
    bb_head_loss loss = { .ref_net = r->full, .weight = r->weight + at, .squared = r->o->loss == BB_TUNE_LOGITS };
    if (r->o->loss == BB_TUNE_LABELS) loss = (bb_head_loss) { .targets = r->labels + at, .weight = r->weight + at };
    else if (r->o->label_share > 0) {
        loss.targets = r->labels + at;
        loss.label_share = (float)r->o->label_share;
    }
    return bb_host_backward_head(r->backward, &r->view, r->scored + at * C, n, &loss, loss.ref_net ? r->scored_ref + at * C : NULL, NULL, r->scored_dh + at * C,
                                 grad, err);
}

/* scored_dh of n rows := their gradient of the mean loss over the batch; the head's is added. status: a peer that has failed only talks. */
static bb_status head_gradient(bb_trainer *r, size_t n, bb_status status, bb_err *err)
{
    const bb_peers *p = r->o->peers;
    const size_t    step = p ? bb_backward_head_rows(r->backward) : n, pieces = (n + step - 1) / step;
    const float     weight = 1.0f / (float)((size_t)r->o->batch * r->train.set->n_scored);
    for (size_t i = 0; i < n; i++) r->weight[i] = weight;
    for (size_t i = 0; i < pieces; i++) {
        const size_t at = i * step, m = n - at < step ? n - at : step;
        bb_head_grad grad = r->head_grad;
        turn         t = { r, i, false };
        if (p && i % p->n != p->rank) continue;
        if (p) {
            grad.ready = await_turn;
            grad.ready_self = &t;
        }
        if (status == BB_OK) status = head_rows(r, at, m, &grad, err);
        if (p && i + 1 < pieces) hand_on(&t);
        else if (p) await_turn(&t);
    }
    for (size_t i = 0; p && i < pieces; i++) {
        const size_t  C = r->view.n_embd, at = i * step, m = n - at < step ? n - at : step;
        const bb_span span = { r->scored_dh + at * C, m * C * sizeof(float) };
        bb_peers_share(p, (uint32_t)(i % p->n), &span, 1);
    }
    if (p) {
        bb_span spans[2];
        bb_peers_share(p, (uint32_t)((pieces - 1) % p->n), spans, head_spans(r, spans));
    }
    return status;
}

/* A peer's windows forward; what of them counts at the head, in their place among the rows of S. */
static bb_status forward_windows(bb_trainer *r, const uint32_t *index, share own, bb_err *err)
{
    const uint32_t S = own.end - own.first;
    bb_status      status = BB_OK;
    if (S == 0) return BB_OK;
    bb_forward_rough(r->forward, true);
    BB_TRY(run_forward(r, &r->train, index + own.first, S, true, err));
    if (r->o->loss == BB_TUNE_OUTPUT) return BB_OK;
    gather(r, &r->train, index + own.first, own.first, S, boundary(r, r->end));
    if (r->teacher) BB_TRY(teach(r, index + own.first, own.first, S, err));
done:
    return status;
}

/* dh of own windows from scored_dh, on back through the blocks, whose gradients are added to those of the peer before and handed on. */
static bb_status back_through_blocks(bb_trainer *r, uint32_t S, share own, bb_status status, bb_err *err)
{
    const bb_tune_set *set = r->train.set;
    const bb_peers    *p = r->o->peers;
    const uint32_t     T = set->ctx, n = own.end - own.first, active = active_peers(r, S);
    const size_t       C = r->view.n_embd, row = T * bb_row_width(&r->view);
    float             *dh = r->dh + own.first * row;
    for (size_t i = 0; r->o->loss != BB_TUNE_OUTPUT && i < n; i++) {
        memset(dh + i * row, 0, row * sizeof *dh);
        bb_host_put_streams(&r->view, r->scored_dh + (own.first + i) * set->n_scored * C, set->n_scored, dh + i * row + set->first * bb_row_width(&r->view));
    }
    for (uint32_t b = r->end; n && b-- > r->o->first;) {
        const size_t n_spans = block_spans(r, b, r->spans);
        if (p && p->rank > 0) p->receive(p->self, p->rank - 1, r->spans, n_spans);
        if (status == BB_OK) status = bb_host_backward_block(r->backward, &r->view, &r->blocks[b], n, T, boundary(r, b), dh, &r->grads[b], err);
        if (p && p->rank + 1 < active) p->send(p->self, p->rank + 1, r->spans, n_spans);
    }
    if (!p) return status;
    size_t n_spans = 0;
    for (uint32_t b = r->o->first; b < r->end; b++) n_spans += block_spans(r, b, r->spans + n_spans);
    bb_peers_share(p, active - 1, r->spans, n_spans);
    return status;
}

/* Adds the gradients of S windows of a batch. */
static bb_status add_gradients(bb_trainer *r, const uint32_t *index, uint32_t S, bb_err *err)
{
    const bb_tune_set *set = r->train.set;
    const uint32_t     T = set->ctx;
    const size_t       n = (size_t)S * set->n_scored;
    const share        own = batch_share(r, S, own_rank(r));
    bb_status          status = forward_windows(r, index, own, err);
    if (r->o->loss == BB_TUNE_OUTPUT) {
        if (status == BB_OK) output_gradient(r, index, S);
    } else {
        for (size_t i = 0; set->targets && i < S; i++)
            memcpy(r->labels + i * set->n_scored, set->targets + (size_t)index[i] * T + set->first, set->n_scored * sizeof *r->labels);
        share_windows(r, S, r->scored, set->n_scored * r->view.n_embd);
        share_windows(r, S, r->scored_ref, set->n_scored * r->view.n_embd);
        status = head_gradient(r, n, status, err);
    }
    status = back_through_blocks(r, S, own, status, err);
    if (!r->embd_grad) return status;
    share_windows(r, S, r->dh, T * bb_row_width(&r->view));
    for (uint32_t i = 0; i < S; i++) memcpy(r->tokens + (size_t)i * T, set->tokens + (size_t)index[i] * T, T * sizeof *r->tokens); /* the teacher had others */
    if (status == BB_OK) status = bb_host_backward_embed(r->backend, &r->view, r->tokens, (size_t)S * T, r->dh, r->embd_grad, err);
    return status;
}

static bb_status one_step(bb_trainer *r, double rate, bb_err *err)
{
    uint32_t  index[BB_TUNE_MAX_BATCH], most = at_once(r);
    double    norm;
    bb_status status = BB_OK;
    draw(r, index, r->o->batch);
    bb_grads_zero(r->params, r->n_params);
    for (uint32_t i = 0; i < r->o->batch; i += most) {
        const uint32_t S = r->o->batch - i < most ? r->o->batch - i : most;
        if (status == BB_OK && bb_interrupted()) status = BB_FAIL(err, BB_INTERRUPTED, "interrupted while a plan was tuned"); /* nothing has moved yet */
        BB_TRY(agree(r, status, err));
        status = add_gradients(r, index + i, S, err);
        if (r->shown) bb_progress_add(r->shown, S);
    }
    BB_TRY(agree(r, status, err));
    for (size_t i = 0; i < r->n_latents; i++) bb_latent_gradients(&r->latents[i], r->o->estimator == BB_TUNE_DIFFERENTIABLE);
    norm = bb_grads_clip(r->params, r->n_params, r->o->clip * r->at.mean_norm);
    if (!isfinite(norm)) {
        status = BB_FAIL(err, BB_NUMERIC, "the gradient of blocks %u to %u is no number", r->o->first, r->o->last);
        goto done;
    }
    r->at.mean_norm = r->at.mean_norm > 0 ? 0.9 * r->at.mean_norm + 0.1 * fmin(norm, 2 * r->at.mean_norm) : norm;
    bb_adamw_step(r->adamw, rate);
    for (size_t i = 0; i < r->n_latents; i++) bb_latent_encode(&r->latents[i]);
    forget(r);
    r->at.step++;
done:
    return status;
}

/* ---- the saved state ---- */

static void add_set(bb_sha256 *s, const bb_tune_set *set)
{
    const uint32_t numbers[] = { set->n, set->ctx, set->first, set->n_scored };
    bb_sha256_update(s, numbers, sizeof numbers);
    bb_sha256_update(s, set->tokens, (size_t)set->n * set->ctx * sizeof *set->tokens);
    if (set->targets) bb_sha256_update(s, set->targets, (size_t)set->n * set->ctx * sizeof *set->targets);
}

/* Everything that decides how the training goes: to be called at its start, while the bytes are those that it was given. */
static void identify(const bb_trainer *r, char hex[65])
{
    const bb_tune_options *o = r->o;
    const double           numbers[] = { o->loss, o->first,       o->last,      o->embedding, o->steps,  o->batch, o->checks,   o->weights, o->fields, o->norms,
                                         o->clip, o->label_share, o->estimator, o->schedule,  o->warmup, o->decay, o->patience, at_once(r), o->trial };
    bb_sha256              s;
    bb_sha256_init(&s);
    bb_sha256_text(&s, bb_kernels_fast_rough() ? "tune 3, bfloat16" : "tune 3");
    bb_sha256_text(&s, bb_kernels_bits());
    bb_sha256_update(&s, numbers, sizeof numbers);
    if (o->coarse_moments) bb_sha256_text(&s, "coarse moments");
    bb_sha256_update(&s, &o->seed, sizeof o->seed);
    add_set(&s, r->train.set);
    add_set(&s, r->held.set);
    if (r->other.set) add_set(&s, r->other.set);
    bb_sha256_update(&s, &r->at.start, sizeof r->at.start); /* the full-precision network, by what its states say */
    for (size_t i = 0; i < r->n_kept; i++) bb_sha256_update(&s, r->kept[i].at, r->kept[i].size);
    bb_sha256_hex(&s, hex);
}

/* The arrays of the state; bb_free. */
static bb_state_part *state_parts(bb_trainer *r, size_t *n, bb_err *err)
{
    bb_state_part *parts = bb_calloc(3 + r->n_kept + r->n_params, sizeof *parts, err);
    if (!parts) return NULL;
    *n = 0;
    parts[(*n)++] = (bb_state_part) { &r->at, sizeof r->at };
    parts[(*n)++] = (bb_state_part) { r->best, r->kept_bytes };
    for (size_t i = 0; i < r->n_kept; i++) parts[(*n)++] = (bb_state_part) { r->kept[i].at, r->kept[i].size };
    for (size_t i = 0; i < r->n_params; i++)
        if (r->params[i].n) parts[(*n)++] = (bb_state_part) { r->params[i].w, r->params[i].n * sizeof(float) };
    parts[*n].at = bb_adamw_moments(r->adamw, &parts[*n].size);
    (*n)++;
    return parts;
}

static bb_status save_state(bb_trainer *r, bb_err *err)
{
    size_t         n;
    bb_state_part *parts = state_parts(r, &n, err);
    bb_status      status = parts ? bb_state_save(r->o->state, r->identity, parts, n, err) : BB_NOMEM;
    bb_free(parts);
    return status;
}

static bb_status load_state(bb_trainer *r, bool *found, bb_err *err)
{
    size_t         n;
    bb_state_part *parts = state_parts(r, &n, err);
    bb_err         why = BB_ERR_INIT;
    bb_status      status = !parts ? BB_NOMEM : r->o->state ? bb_state_load(r->o->state, r->identity, parts, n, found, &why) : BB_OK;
    if (status == BB_BAD_FILE && r->o->stale_is_fine) {
        bb_warn("%s", why.msg);
        *found = false;
        status = BB_OK;
    }
    if (status != BB_OK) BB_FAIL(err, status, "%s", why.msg);
    status = agree(r, status, err);
    if (status == BB_OK && r->o->peers) { /* the first one has the file */
        const bb_span is = { found, sizeof *found };
        bb_peers_share(r->o->peers, 0, &is, 1);
        for (size_t i = 0; *found && i < n; i++) bb_peers_share(r->o->peers, 0, &parts[i], 1);
    }
    bb_free(parts);
    if (status != BB_OK || !*found) return status;
    bb_adamw_set_steps(r->adamw, r->at.step - r->at.began);
    for (size_t i = 0; i < r->n_latents; i++) bb_latent_refresh(&r->latents[i]);
    forget(r);
    for (uint64_t i = 0; i < r->at.step * r->o->batch; i++) { /* the same draws again */
        uint32_t index;
        draw(r, &index, 1);
    }
    return status;
}

/* ---- the run ---- */

static bool check_is_due(const bb_tune_options *o, uint32_t done)
{
    return (uint64_t)done * o->checks / o->steps != (uint64_t)(done - 1) * o->checks / o->steps;
}

static void tell(const bb_trainer *r, double loss, double other, bool better)
{
    const bb_tune_look l = { (uint32_t)r->at.step, r->at.step * r->o->batch * r->train.set->ctx, loss, other, better };
    if (r->o->looked) r->o->looked(r->o->looked_self, &l);
}

/* Looks at the held-out texts. A state is better when its loss has risen on none of them, and its mean share of the losses at the start is the least. */
static bb_status look(bb_trainer *r, bb_err *err)
{
    const bb_tune_options *o = r->o;
    where                 *w = &r->at;
    double                 loss, other = 0, score;
    bb_status              status;
    BB_TRY(check(r, &r->held, &loss, err));
    if (r->other.set) BB_TRY(check(r, &r->other, &other, err));
    score = r->other.set ? 0.5 * (loss / w->start + other / w->other_start) : loss;
    bb_debug("%s: step %llu of %u, held-out loss %.6g (start %.6g)", o->label ? o->label : "tune", (unsigned long long)w->step, o->steps, loss, w->start);
    if (r->other.set) bb_debug("%s: on the other text %.6g (start %.6g)", o->label ? o->label : "tune", other, w->other_start);
    const bool better = score < w->best_score && loss <= w->start && other <= w->other_start;
    tell(r, loss, other, better);
    w->worse = score < w->score ? 0 : w->worse + 1;
    w->score = score;
    r->lost = !(loss < 4 * w->start);
    if (!better) goto done;
    w->best_score = score;
    w->best = loss;
    w->other_best = other;
    w->best_step = (uint32_t)w->step;
    w->worse = 0;
    snapshot(r, false);
done:
    return status;
}

/* What the rates are of those that were asked for. */
static double share_of_rates(const bb_trainer *r) { return pow(BACK_OFF, (double)r->at.trials); }

/* Of the steps from the last beginning on. */
static bb_schedule schedule_of(const bb_trainer *r)
{
    const bb_tune_options *o = r->o;
    const double           warmup = o->warmup > 0 ? o->warmup : 0.05;
    const uint64_t         steps = o->steps - r->at.began;
    return (bb_schedule) { .kind = o->schedule == BB_TUNE_WSD ? BB_SCHEDULE_WSD : BB_SCHEDULE_COSINE,
                           .n_steps = steps + 1,
                           .n_warmup = (uint64_t)(warmup * (double)steps + 1e-9),
                           .n_decay = (uint64_t)(o->decay * (double)steps + 1e-9),
                           .peak = share_of_rates(r) };
}

/* Steps until the rates show what they are worth; 0: they have, or nobody asks. */
static uint64_t trial_left(const bb_trainer *r)
{
    const where   *w = &r->at;
    const uint64_t length = (uint64_t)ceil(r->o->trial * (double)(r->o->steps - w->began)), done = w->step - w->began;
    return r->o->trial > 0 && w->trials < MOST_TRIALS && done < length ? length - done : 0;
}

static double start_score(const bb_trainer *r) { return r->other.set ? 1 : r->at.start; }

/* From the start, in the steps that are left. The windows go on where they are: what was drawn has taught nothing. */
static void begin_again(bb_trainer *r)
{
    where *w = &r->at;
    snapshot(r, true);
    bb_adamw_reset(r->adamw);
    w->began = w->step;
    w->trials++;
    w->mean_norm = 0;
    w->worse = 0;
    char what[80];
    if (isinf(w->score)) snprintf(what, sizeof what, "a gradient is no number");
    else snprintf(what, sizeof what, "the loss on held-out text is %.4g of what it was", w->score / start_score(r));
    if (r->o->label)
        bb_info("%s: the rates are too high for this model: after %llu steps %s; begun again at a quarter: %.3g of weights, %.3g of scales", r->o->label,
                (unsigned long long)w->step, what, r->o->weights * share_of_rates(r), r->o->fields * share_of_rates(r));
    w->score = start_score(r);
}

static bb_status optimise(bb_trainer *r, bb_err *err)
{
    const bb_tune_options *o = r->o;
    bb_schedule            schedule = schedule_of(r);
    double                 saved = bb_now_s();
    bb_status              status = BB_OK;
    while (r->at.step < o->steps) {
        if (o->state && o->save_every_s > 0 && bb_now_s() - saved >= o->save_every_s) {
            bb_err why = BB_ERR_INIT;
            if (save_state(r, &why) != BB_OK) bb_warn("%s; the training goes on, but could not be taken up from here", why.msg);
            saved = bb_now_s();
        }
        bb_crew_share();
        const uint64_t trial = trial_left(r);
        status = one_step(r, bb_schedule_rate(&schedule, r->at.step - r->at.began), err);
        const bool broken = status == BB_NUMERIC && trial && r->at.step > r->at.began && !r->at.best_step; /* by what the steps before it have made */
        if (broken) {
            bb_err_clear(err);
            r->at.step++; /* its windows are drawn */
            r->at.score = HUGE_VAL;
            r->lost = true;
        } else BB_TRY(status);
        if (o->progress && !o->label) bb_progress_add(o->progress, 1);
        if (!broken) {
            if (trial != 1 && !check_is_due(o, (uint32_t)r->at.step)) continue;
            status = look(r, err);
            if (status != BB_OK) return status; /* another process has failed: no state is saved that would be taken up behind this look */
        }
        const bool ends = r->lost || (o->patience && r->at.worse >= o->patience); /* in a trial: of the rates alone */
        if ((trial == 1 || (trial && ends)) && !r->at.best_step && !(r->at.score < start_score(r)) && r->at.step < o->steps) {
            begin_again(r);
            schedule = schedule_of(r);
            continue;
        }
        if (ends) break;
    }
done:
    if (status == BB_INTERRUPTED && o->state && r->at.step) {
        bb_err          why = BB_ERR_INIT;
        const bb_status saved_status = save_state(r, &why);
        if (saved_status == BB_OK) return status;
        bb_err_clear(err);
        BB_FAIL(err, saved_status, "interrupted, and the state to go on from is lost: %s", why.msg);
        status = saved_status;
    }
    return status;
}

static bb_status begin(bb_trainer *r, bool *found, bb_err *err)
{
    where    *w = &r->at;
    bb_status status;
    *found = false;
    BB_TRY(check(r, &r->held, &w->start, err));
    if (r->other.set) BB_TRY(check(r, &r->other, &w->other_start, err));
    w->best = w->start;
    w->other_best = w->other_start;
    w->best_score = w->score = start_score(r);
    tell(r, w->start, w->other_start, false);
    if (!r->o->state && !r->o->peers) return BB_OK;
    if (r->o->state) identify(r, r->identity);
    BB_TRY(load_state(r, found, err));
    if (*found && r->o->state)
        bb_info("%s: going on from step %llu of %u, saved in %s", r->o->label ? r->o->label : "tune", (unsigned long long)w->step, r->o->steps, r->o->state);
done:
    return status;
}

bb_status bb_trainer_run(bb_trainer *r, bb_tune_report *report, bb_err *err)
{
    const double started = bb_now_s();
    bb_progress  progress;
    bool         found;
    bb_status    status;
    memset(report, 0, sizeof *report);
    snapshot(r, false);
    BB_TRY(agree(r, BB_OK, err));
    BB_TRY(begin(r, &found, err));
    r->shown = r->o->label ? &progress : NULL;
    if (r->shown) bb_progress_start(r->shown, r->o->label, (uint64_t)r->o->steps * r->o->batch);
    if (r->shown && found) bb_progress_skip(r->shown, r->at.step * r->o->batch);
    status = optimise(r, err);
    if (r->shown) bb_progress_end(r->shown);
    else if (r->o->progress) bb_progress_skip(r->o->progress, r->o->steps - r->at.step); /* of one that ended early */
done:
    snapshot(r, true);
    if (status == BB_OK && r->o->state) unlink(r->o->state);
    *report = (bb_tune_report) { .start = r->at.start,
                                 .best = r->at.best,
                                 .other_start = r->at.other_start,
                                 .other_best = r->at.other_best,
                                 .best_step = r->at.best_step,
                                 .steps = (uint32_t)r->at.step,
                                 .tokens = r->at.step * r->o->batch * r->train.set->ctx,
                                 .seconds = bb_now_s() - started };
    return status;
}
