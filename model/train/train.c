/* SPDX-License-Identifier: GPL-3.0-or-later
 * train.c: see train.h. A batch goes through in groups of windows whose boundary states fit into memory: forward with every block's input
 * kept, the head's loss and gradient, then the blocks backward, each computing its activations again. Gradients add up over groups in
 * order. */
#include "model/train/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "model/net/arch.h"
#include "model/net/host.h"

enum { GROUP_TOKENS = 4096 };

struct bb_training {
    const bb_backend *backend;
    bb_train_options  o;
    bb_train_data     data;
    bb_trainable      t;
    bb_adamw         *adamw;
    bb_forward       *f;
    bb_backward      *b;
    uint32_t          group;             /* windows at once */
    float            *h, *dh, *weight;   /* (n_layer + 1, group * ctx, C); (group * ctx, C); [group * ctx] */
    double           *loss;              /* [group * ctx] */
    int32_t          *tokens, *targets;  /* [batch * ctx] */
    uint32_t         *order;             /* [n_windows] of the epoch */
    uint32_t          n_windows, offset; /* windows an epoch; where the epoch begins */
    uint64_t          epoch;             /* of order; UINT64_MAX before the first */
    char              identity[65];      /* of everything that the run depends on, but for the schedule */
};

/* ---- life ---- */

static bb_status check(const bb_net *shape, const bb_train_data *d, const bb_train_options *o, bb_err *err)
{
    if (o->ctx < 2 || o->batch < 1) return BB_FAIL(err, BB_USAGE, "windows of %u tokens, %u a step: at least 2 and 1 are needed", o->ctx, o->batch);
    if ((uint64_t)o->ctx * o->batch > INT32_MAX) return BB_FAIL(err, BB_USAGE, "%u windows of %u tokens are too many for a step", o->batch, o->ctx);
    if (d->n < 2 * (size_t)o->ctx) return BB_FAIL(err, BB_BAD_FILE, "%zu tokens to train on: at least two windows of %u are needed", d->n, o->ctx);
    if (d->n / o->ctx > UINT32_MAX) return BB_FAIL(err, BB_UNSUPPORTED, "more than %u windows to train on", UINT32_MAX);
    if (shape->n_carried)
        return BB_FAIL(err, BB_UNSUPPORTED, "a network whose blocks share keys and values, or read the tokens, is not trained from a text: qat tunes it");
    for (size_t i = 0; i < d->n; i++)
        if (d->ids[i] < 0 || (uint32_t)d->ids[i] >= shape->n_vocab)
            return BB_FAIL(err, BB_BAD_FILE, "token %zu has id %d, outside the vocabulary of %u", i, d->ids[i], shape->n_vocab);
    return BB_OK;
}

static bb_status make_room(bb_training *t, bb_err *err)
{
    const bb_train_options *o = &t->o;
    const bb_net           *net = &t->t.net;
    size_t                  n, batch = (size_t)o->batch * o->ctx, rows;
    t->group = o->ctx >= GROUP_TOKENS ? 1 : GROUP_TOKENS / o->ctx;
    if (t->group > o->batch) t->group = o->batch;
    n = (size_t)t->group * o->ctx;
    if (!bb_mul_size(n, (size_t)net->n_layer + 1, &rows)) return BB_FAIL(err, BB_NOMEM, "out of memory: %zu tokens of %u blocks", n, net->n_layer);
    t->h = bb_alloc(rows, net->n_embd * sizeof *t->h, err);
    t->dh = bb_alloc(n, net->n_embd * sizeof *t->dh, err);
    t->weight = bb_alloc(n, sizeof *t->weight, err);
    t->loss = bb_alloc(n, sizeof *t->loss, err);
    t->tokens = bb_alloc(batch, sizeof *t->tokens, err);
    t->targets = bb_alloc(batch, sizeof *t->targets, err);
    t->order = bb_alloc(t->n_windows, sizeof *t->order, err);
    return t->h && t->dh && t->weight && t->loss && t->tokens && t->targets && t->order ? BB_OK : BB_NOMEM;
}

bb_status bb_training_create(const bb_backend *backend, const bb_net *shape, const bb_train_data *data, const bb_train_options *o, bb_training **out,
                             bb_err *err)
{
    bb_training *t = NULL;
    bb_status    status;
    *out = NULL;
    BB_TRY(check(shape, data, o, err));
    if (!(t = BB_NEW0(1, bb_training, err))) return BB_NOMEM;
    t->backend = backend;
    t->o = *o;
    t->data = *data;
    t->n_windows = (uint32_t)(data->n / o->ctx - 1);
    t->epoch = UINT64_MAX;
    BB_TRY(bb_trainable_create(shape, &t->t, err));
    for (size_t i = 0; i < t->t.n_params; i++) t->t.params[i].decay *= (float)o->decay;
    BB_TRY(bb_adamw_create(t->t.params, t->t.n_params, &o->adamw, &t->adamw, err));
    BB_TRY(make_room(t, err));
    BB_TRY(bb_forward_create(backend, &t->t.net, t->group, o->ctx, &t->f, err));
    BB_TRY(bb_backward_create(backend, &t->t.net, t->group, o->ctx, &t->b, err));
    *out = t;
done:
    if (status != BB_OK) bb_training_destroy(t);
    return status;
}

/* The weights are others now: the backend's copies of them are too old. */
static void forget(const bb_training *t) { t->backend->ops->forget(t->backend->context); }

void bb_training_destroy(bb_training *t)
{
    if (!t) return;
    bb_forward_destroy(t->f);
    bb_backward_destroy(t->b);
    forget(t);
    bb_adamw_destroy(t->adamw);
    bb_trainable_done(&t->t);
    void *all[] = { t->h, t->dh, t->weight, t->loss, t->tokens, t->targets, t->order, t };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bb_free(all[i]);
}

uint64_t      bb_training_steps(const bb_training *t) { return bb_adamw_steps(t->adamw); }
const bb_net *bb_training_net(const bb_training *t) { return &t->t.net; }
size_t        bb_training_weights(const bb_training *t) { return t->t.n; }
bb_trainable *bb_training_trainable(bb_training *t) { return &t->t; }

/* ---- identity ---- */

static void add_number(bb_sha256 *s, double x) { bb_sha256_update(s, &x, sizeof x); }

static void add_shape(bb_sha256 *s, const bb_net *n)
{
    const double numbers[] = {
        (double)(n->arch - bb_archs), n->n_vocab,  n->n_embd, n->n_layer, n->head_dim, n->n_rot, n->head.rows, (double)n->norm_eps, (double)n->rope_base,
        (double)n->rope_freq_scale,   n->rope_neox
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) add_number(s, numbers[i]);
    const float factors[] = { n->embd_scale, n->query_scale, n->out_scale, n->residual_scale };
    for (size_t i = 0; n->arch->factors && i < sizeof factors / sizeof *factors; i++) add_number(s, (double)factors[i]);
    if (n->arch->wide_scale_at) add_number(s, (double)n->query_scale);
    if (n->local_rope_base > 0) add_number(s, (double)n->local_rope_base);
    if (n->local_head_dim) add_number(s, n->local_head_dim);
    if (n->local_n_rot) add_number(s, n->local_n_rot);
    if (n->logit_cap > 0) add_number(s, (double)n->logit_cap);
    if (n->rope_factors) bb_sha256_update(s, n->rope_factors, n->n_rot / 2 * sizeof *n->rope_factors);
    if (n->rope_long) bb_sha256_update(s, n->rope_long, n->n_rot / 2 * sizeof *n->rope_long);
    const double rope[] = { n->rope_context, (double)n->rope_magnitude, n->yarn, (double)n->yarn_low, (double)n->yarn_high, (double)n->heat };
    for (size_t i = 0; (n->rope_long || bb_scales(n->rope_magnitude) || n->yarn || n->heat > 0) && i < sizeof rope / sizeof *rope; i++) add_number(s, rope[i]);
    for (uint32_t i = 0; i < n->n_layer; i++) {
        const bb_block *b = &n->blocks[i];
        const double    shape[] = { b->n_head, b->n_kv, b->n_ff }, view[] = { b->local, b->window };
        bb_sha256_update(s, shape, sizeof shape);
        if (n->local_rope_base > 0) bb_sha256_update(s, view, sizeof view);
        if (b->lacks) add_number(s, b->lacks);
        if (b->scale > 0) add_number(s, (double)b->scale);
    }
}

/* To be called when the first weights are in place. */
static void identify(bb_training *t)
{
    const bb_train_options *o = &t->o;
    const double            numbers[] = { o->ctx, o->batch, o->adamw.beta1, o->adamw.beta2, o->adamw.eps, o->decay, o->clip, t->data.bos };
    bb_sha256               s;
    bb_sha256_init(&s);
    bb_sha256_text(&s, bb_kernels_bits());
    add_shape(&s, &t->t.net);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) add_number(&s, numbers[i]);
    bb_sha256_update(&s, &o->seed, sizeof o->seed);
    bb_sha256_update(&s, t->data.ids, t->data.n * sizeof *t->data.ids);
    bb_sha256_update(&s, t->t.w, t->t.n * sizeof *t->t.w);
    bb_sha256_hex(&s, t->identity);
}

void bb_training_start_random(bb_training *t)
{
    bb_trainable_random(&t->t, t->o.seed);
    bb_adamw_reset(t->adamw);
    forget(t);
    identify(t);
}

void bb_training_start_from(bb_training *t, const bb_net *from)
{
    bb_trainable_copy(&t->t, from);
    bb_adamw_reset(t->adamw);
    forget(t);
    identify(t);
}

/* ---- data ---- */

static void start_epoch(bb_training *t, uint64_t epoch)
{
    char   name[40];
    bb_rng r;
    snprintf(name, sizeof name, "epoch %llu", (unsigned long long)epoch);
    bb_rng_init(&r, t->o.seed, name);
    t->offset = (uint32_t)bb_rng_below(&r, t->o.ctx);
    for (uint32_t i = 0; i < t->n_windows; i++) t->order[i] = i;
    for (uint32_t i = t->n_windows; i > 1; i--) {
        uint32_t j = (uint32_t)bb_rng_below(&r, i), last = t->order[i - 1];
        t->order[i - 1] = t->order[j];
        t->order[j] = last;
    }
    t->epoch = epoch;
}

void bb_training_batch(bb_training *t, uint64_t step, const int32_t **tokens, const int32_t **targets)
{
    size_t T = t->o.ctx;
    for (uint32_t i = 0; i < t->o.batch; i++) {
        uint64_t       number = step * t->o.batch + i;
        const int32_t *from;
        if (number / t->n_windows != t->epoch) start_epoch(t, number / t->n_windows);
        from = t->data.ids + t->offset + t->order[number % t->n_windows] * T;
        memcpy(t->tokens + i * T, from, T * sizeof *from);
        memcpy(t->targets + i * T, from + 1, T * sizeof *from);
        if (t->data.bos >= 0) t->tokens[i * T] = t->data.bos;
    }
    *tokens = t->tokens;
    *targets = t->targets;
}

/* ---- steps ---- */

/* Adds the gradient of S windows, each token weighted by `weight`; *loss += the sum of the tokens' losses. */
static bb_status add_gradient(bb_training *t, const int32_t *tokens, const int32_t *targets, uint32_t S, float weight, double *loss, bb_err *err)
{
    const bb_net *net = &t->t.net;
    uint32_t      T = t->o.ctx;
    size_t        n = (size_t)S * T, floats = n * net->n_embd;
    bb_head_loss  of = { .targets = targets, .weight = t->weight };
    bb_status     status;
    for (size_t i = 0; i < n; i++) t->weight[i] = weight;
    BB_TRY(bb_host_embed(t->f, net, tokens, S, T, t->h, err));
    for (uint32_t b = 0; b < net->n_layer; b++) {
        float *h = t->h + (b + 1) * floats;
        memcpy(h, h - floats, floats * sizeof *h);
        BB_TRY(bb_host_block(t->f, net, &net->blocks[b], S, T, h, NULL, NULL, err));
    }
    BB_TRY(bb_host_backward_head(t->b, net, t->h + net->n_layer * floats, n, &of, NULL, t->loss, t->dh, &t->t.head, err));
    for (uint32_t b = net->n_layer; b-- > 0;) BB_TRY(bb_host_backward_block(t->b, net, &net->blocks[b], S, T, t->h + b * floats, t->dh, &t->t.grads[b], err));
    BB_TRY(bb_host_backward_embed(t->backend, net, tokens, n, t->dh, t->t.g_embd, err));
    for (size_t i = 0; i < n; i++) *loss += t->loss[i];
done:
    return status;
}

bb_status bb_training_gradient(bb_training *t, const int32_t *tokens, const int32_t *targets, uint32_t S, double *loss, bb_err *err)
{
    size_t    T = t->o.ctx, n = S * T;
    double    sum = 0;
    bb_status status = BB_OK;
    bb_grads_zero(t->t.params, t->t.n_params);
    for (uint32_t at = 0; at < S; at += t->group)
        BB_TRY(add_gradient(t, tokens + at * T, targets + at * T, S - at < t->group ? S - at : t->group, (float)(1 / (double)n), &sum, err));
    *loss = sum / (double)n;
done:
    return status;
}

bb_status bb_training_step(bb_training *t, bb_train_step *done, bb_err *err)
{
    uint64_t       step = bb_adamw_steps(t->adamw);
    const int32_t *tokens, *targets;
    bb_status      status;
    *done = (bb_train_step) { .step = step, .rate = bb_schedule_rate(&t->o.schedule, step) };
    bb_training_batch(t, step, &tokens, &targets);
    BB_TRY(bb_training_gradient(t, tokens, targets, t->o.batch, &done->loss, err));
    done->norm = bb_grads_clip(t->t.params, t->t.n_params, t->o.clip);
    if (!isfinite(done->norm) || !isfinite(done->loss))
        return BB_FAIL(err, BB_NUMERIC, "step %llu: loss %g, norm of the gradient %g; a lower rate may help", (unsigned long long)step, done->loss, done->norm);
    bb_adamw_step(t->adamw, done->rate);
    forget(t);
done:
    return status;
}

/* ---- state ---- */

/* The head of a state file; then weights, optimizer state, and the SHA-256 of all before it. Of this machine's byte order. */
typedef struct head {
    char        magic[8];
    char        identity[72];
    bb_schedule schedule;
    uint64_t    step, n_weights, n_optimizer; /* weights; bytes */
} head;

static const char magic[8] = { 'b', 'b', 't', 'r', 'a', 'i', 'n', '1' };
enum { SUM_BYTES = 64 };

bb_status bb_training_save(const bb_training *t, const char *path, bb_err *err)
{
    head      start;
    size_t    bytes = bb_adamw_state_bytes(t->adamw), weights = t->t.n * sizeof(float);
    bb_writer w = { .stream = NULL };
    bb_sha256 s;
    char      sum[65], *state = bb_alloc(bytes, 1, err);
    bb_status status = BB_OK;
    if (!state) return BB_NOMEM;
    memset(&start, 0, sizeof start); /* padding too */
    memcpy(start.magic, magic, sizeof magic);
    memcpy(start.identity, t->identity, sizeof t->identity);
    start.schedule.kind = t->o.schedule.kind;
    start.schedule.n_steps = t->o.schedule.n_steps;
    start.schedule.n_warmup = t->o.schedule.n_warmup;
    start.schedule.n_decay = t->o.schedule.n_decay;
    start.schedule.peak = t->o.schedule.peak;
    start.schedule.last = t->o.schedule.last;
    start.step = bb_adamw_steps(t->adamw);
    start.n_weights = t->t.n;
    start.n_optimizer = bytes;
    bb_adamw_state_save(t->adamw, state);
    bb_sha256_init(&s);
    bb_sha256_update(&s, &start, sizeof start);
    bb_sha256_update(&s, t->t.w, weights);
    bb_sha256_update(&s, state, bytes);
    bb_sha256_hex(&s, sum);
    BB_TRY(bb_writer_open(&w, path, err));
    fwrite(&start, sizeof start, 1, w.stream); /* errors are found at commit */
    fwrite(t->t.w, 1, weights, w.stream);
    fwrite(state, 1, bytes, w.stream);
    fwrite(sum, 1, SUM_BYTES, w.stream);
    BB_TRY(bb_writer_commit(&w, err));
done:
    bb_writer_abort(&w);
    bb_free(state);
    return status;
}

static bool same_past(const bb_schedule *a, const bb_schedule *b, uint64_t steps)
{
    for (uint64_t s = 0; s < steps; s++)
        if (bb_schedule_rate(a, s) != bb_schedule_rate(b, s)) return false;
    return true;
}

static bb_status check_head(const bb_training *t, const char *path, const head *h, const bb_map *map, bb_err *err)
{
    const unsigned char *sum = map->data + map->size - SUM_BYTES;
    bb_sha256            s;
    char                 hex[65];
    if (memcmp(h->magic, magic, sizeof magic) != 0) return BB_FAIL(err, BB_BAD_FILE, "%s is no saved state of training", path);
    if (memcmp(h->identity, t->identity, sizeof t->identity) != 0)
        return BB_FAIL(err, BB_BAD_FILE,
                       "%s belongs to a run with other tokens, options or first weights, or on another CPU level or BLAS core (here: %s); remove it to start "
                       "anew",
                       path, bb_kernels_bits());
    if (h->n_weights != t->t.n || h->n_optimizer != bb_adamw_state_bytes(t->adamw) ||
        map->size != sizeof *h + t->t.n * sizeof(float) + h->n_optimizer + SUM_BYTES)
        return BB_FAIL(err, BB_BAD_FILE, "%s has %zu bytes, not those of this network's state", path, map->size);
    bb_sha256_init(&s);
    bb_sha256_update(&s, map->data, map->size - SUM_BYTES);
    bb_sha256_hex(&s, hex);
    if (memcmp(sum, hex, SUM_BYTES) != 0) return BB_FAIL(err, BB_BAD_FILE, "%s is damaged: its checksum does not agree", path);
    if (h->step > t->o.schedule.n_steps)
        return BB_FAIL(err, BB_BAD_FILE, "%s is at step %llu of a run of %llu", path, (unsigned long long)h->step, (unsigned long long)t->o.schedule.n_steps);
    if (!same_past(&h->schedule, &t->o.schedule, h->step))
        return BB_FAIL(err, BB_BAD_FILE, "%s was trained for %llu steps with other rates than this run's schedule gives them", path,
                       (unsigned long long)h->step);
    return BB_OK;
}

bb_status bb_training_load(bb_training *t, const char *path, bb_err *err)
{
    bb_map               map = { NULL, 0 };
    head                 h;
    const unsigned char *at;
    bb_status            status;
    BB_TRY(bb_map_open(path, &map, err));
    if (map.size < sizeof h + SUM_BYTES) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s is no saved state of training: %zu bytes", path, map.size);
        goto done;
    }
    memcpy(&h, map.data, sizeof h);
    BB_TRY(check_head(t, path, &h, &map, err));
    at = map.data + sizeof h;
    BB_TRY(bb_adamw_state_load(t->adamw, at + t->t.n * sizeof(float), (size_t)h.n_optimizer, err));
    memcpy(t->t.w, at, t->t.n * sizeof(float));
    forget(t);
done:
    bb_map_close(&map);
    return status;
}
