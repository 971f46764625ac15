/* SPDX-License-Identifier: GPL-3.0-or-later
 * sample.c: see sample.h. Groups of GROUP sequences go through the network independently, a group a task, so that threads never wait for
 * each other; within a group one step takes a token of each sequence through all blocks. Weights are decoded once for all if that takes at
 * most HELD_FLOATS, else strip by strip as they are used. A sequence's ids depend on the group size, never on the number of threads.
 */
#include "model/net/sample.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"

enum { GROUP = 16, STRIP = 64 /* weight rows decoded at once */, HELD_FLOATS = 1 << 28 };
static const uint64_t CACHE_BYTES = 1u << 30;

/* What all groups share, read-only while they run. */
typedef struct shared {
    const bb_net      *net;
    const bb_sampling *p;
    const bb_kernels  *k;
    float             *cos_sin;  /* [length][n_rot/2][2] */
    float             *weights;  /* decoded matrices, or NULL */
    size_t            *offset;   /* [n_layer * BB_N_PARTS + 1] into weights; the last is the head */
    uint32_t           max_q, max_kv, max_ff, max_shared; /* widest H D, G D, F; most query heads on a KV head */
} shared;

/* One group on its way. */
typedef struct stepper {
    const shared *w;
    uint32_t      S;
    float        *cache;                              /* block after block: keys, then values, each (S, length, G_b D) */
    float        *h, *x, *q, *gate, *up, *logits;     /* rows of S */
    float        *strip, *scores;
} stepper;

/* ---- what is shared ---- */

static uint32_t largest(uint32_t a, uint32_t b) { return a > b ? a : b; }

static uint64_t cache_floats(const bb_net *net, uint32_t length) /* of one sequence */
{
    uint64_t n = 0;
    for (uint32_t b = 0; b < net->n_layer; b++) n += 2 * (uint64_t)net->blocks[b].n_kv * net->head_dim * length;
    return n;
}

static void shared_done(shared *w)
{
    bb_free(w->cos_sin);
    bb_free(w->weights);
    bb_free(w->offset);
    *w = (shared){ 0 };
}

static void make_angles(shared *w) /* as forward.c: in float64, rounded once */
{
    const bb_net *net = w->net;
    size_t        half = net->n_rot / 2;
    for (size_t i = 0; i < half; i++) {
        double frequency = pow((double)net->rope_base, -2.0 * (double)i / (double)net->n_rot) * (double)net->rope_freq_scale;
        if (net->rope_factors) frequency /= (double)net->rope_factors[i];
        for (size_t p = 0; p < w->p->length; p++) {
            w->cos_sin[(p * half + i) * 2] = (float)cos((double)p * frequency);
            w->cos_sin[(p * half + i) * 2 + 1] = (float)sin((double)p * frequency);
        }
    }
}

static void decode_rows(const bb_matrix *m, size_t first, size_t n, float *out)
{
    const bb_format *f = bb_format_get(m->type);
    size_t           bytes = bb_format_row_bytes(f, m->cols);
    for (size_t r = 0; r < n; r++) f->decode((const char *)m->data + (first + r) * bytes, out + r * m->cols, m->cols);
}

/* Matrix i of the network in the order of shared.offset; NULL where there is none. */
static const bb_matrix *matrix_at(const bb_net *net, size_t i)
{
    const bb_block *b = &net->blocks[i / BB_N_PARTS];
    bb_part         part = (bb_part)(i % BB_N_PARTS);
    if (i == (size_t)net->n_layer * BB_N_PARTS) return bb_net_head(net);
    return (part <= BB_PART_O ? b->n_head : b->n_ff) ? &b->w[part] : NULL;
}

static bb_status hold_weights(shared *w, bb_err *err)
{
    size_t   n = (size_t)w->net->n_layer * BB_N_PARTS + 1;
    uint64_t total = 0;
    if (!(w->offset = bb_calloc(n, sizeof *w->offset, err))) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const bb_matrix *m = matrix_at(w->net, i);
        w->offset[i] = (size_t)total;
        if (m) total += (uint64_t)m->rows * m->cols;
        if (total > HELD_FLOATS) return BB_OK;
    }
    if (!(w->weights = bb_alloc((size_t)total, sizeof *w->weights, err))) return BB_NOMEM;
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i++) {
        const bb_matrix *m = matrix_at(w->net, i);
        if (m) decode_rows(m, 0, m->rows, w->weights + w->offset[i]);
    }
    return BB_OK;
}

static bb_status shared_init(shared *w, const bb_net *net, const bb_sampling *p, bb_err *err)
{
    bb_status status = BB_OK;
    *w = (shared){ .net = net, .p = p, .k = bb_kernels_get(), .max_shared = 1 };
    bb_blas_init();
    for (uint32_t b = 0; b < net->n_layer; b++) {
        const bb_block *k = &net->blocks[b];
        w->max_q = largest(w->max_q, k->n_head * net->head_dim);
        w->max_kv = largest(w->max_kv, k->n_kv * net->head_dim);
        w->max_ff = largest(w->max_ff, k->n_ff);
        if (k->n_kv) w->max_shared = largest(w->max_shared, k->n_head / k->n_kv);
    }
    if (!(w->cos_sin = bb_alloc((size_t)p->length, net->n_rot * sizeof(float), err))) status = BB_NOMEM;
    if (status == BB_OK) status = hold_weights(w, err);
    if (status == BB_OK) make_angles(w);
    else shared_done(w);
    return status;
}

/* ---- a group ---- */

static void stepper_done(stepper *s)
{
    float *all[] = { s->cache, s->h, s->x, s->q, s->gate, s->up, s->logits, s->strip, s->scores };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bb_free(all[i]);
    *s = (stepper){ 0 };
}

static bb_status stepper_init(stepper *s, const shared *w, uint32_t S, bb_err *err)
{
    const bb_net *net = w->net;
    size_t        widest = largest(largest(w->max_q, w->max_ff), net->n_embd);
    *s = (stepper){ .w = w, .S = S };
    s->cache = bb_alloc(S * cache_floats(net, w->p->length), sizeof(float), err);
    s->h = bb_alloc((size_t)S * net->n_embd, sizeof(float), err);
    s->x = bb_alloc((size_t)S * net->n_embd, sizeof(float), err);
    s->q = bb_alloc((size_t)S * w->max_q, sizeof(float), err);
    s->gate = bb_alloc((size_t)S * w->max_ff, sizeof(float), err);
    s->up = bb_alloc((size_t)S * w->max_ff, sizeof(float), err);
    s->logits = bb_alloc((size_t)S * net->n_vocab, sizeof(float), err);
    s->strip = bb_alloc(w->weights ? 0 : STRIP * widest, sizeof(float), err);
    s->scores = bb_alloc((size_t)w->max_shared * w->p->length, sizeof(float), err);
    if (s->cache && s->h && s->x && s->q && s->gate && s->up && s->logits && s->strip && s->scores) return BB_OK;
    stepper_done(s);
    return BB_NOMEM;
}

/* y rows (S, m->rows; stride ldy) = x (S, cols) W' + bias, or added to y. W is matrix `number` of the network. */
static void linear(const stepper *s, const float *x, size_t number, bool add, float *y, size_t ldy)
{
    const shared    *w = s->w;
    const bb_matrix *m = matrix_at(w->net, number);
    size_t           n = w->weights ? m->rows : STRIP;
    for (size_t t = 0; m->bias && t < s->S; t++)
        for (size_t j = 0; j < m->rows; j++) y[t * ldy + j] = add ? y[t * ldy + j] + m->bias[j] : m->bias[j];
    for (size_t first = 0; first < m->rows; first += n) {
        const float *strip = s->strip;
        if (m->rows - first < n) n = m->rows - first;
        if (w->weights) strip = w->weights + w->offset[number];
        else decode_rows(m, first, n, s->strip);
        bb_sgemm_nt(s->S, n, m->cols, 1, x, m->cols, strip, m->cols, add || m->bias ? 1 : 0, y + first, ldy);
    }
}

static void norm_rows(const stepper *s, const float *weight)
{
    size_t C = s->w->net->n_embd;
    for (size_t i = 0; i < s->S; i++) s->w->k->rms_norm(s->h + i * C, weight, s->w->net->norm_eps, s->x + i * C, C);
}

/* n heads of one token, at position p: norm of each head, then RoPE. */
static void turn_heads(const shared *w, float *x, uint32_t n, const float *norm, uint32_t p)
{
    const bb_net *net = w->net;
    uint32_t      half = net->n_rot / 2, step = net->rope_neox ? 1 : 2, other = net->rope_neox ? half : 1;
    const float  *cs = w->cos_sin + (size_t)p * net->n_rot;
    for (uint32_t j = 0; j < n; j++, x += net->head_dim) {
        if (norm) w->k->rms_norm(x, norm, net->norm_eps, x, net->head_dim);
        for (uint32_t i = 0; i < half; i++) {
            float *a = x + i * step, *b = a + other, u = *a, v = *b;
            *a = u * cs[2 * i] - v * cs[2 * i + 1];
            *b = u * cs[2 * i + 1] + v * cs[2 * i];
        }
    }
}

/* Sequence i, KV group g, position p: the group's query heads in s->q become their attention results. */
static void attend(const stepper *s, const bb_block *b, const float *keys, const float *values, size_t i, size_t g, uint32_t p)
{
    size_t D = s->w->net->head_dim, ld = b->n_kv * D, m = b->n_head / b->n_kv, n = (size_t)p + 1;
    size_t at = i * s->w->p->length * ld + g * D;
    float *q = s->q + i * b->n_head * D + g * m * D;
    bb_sgemm_nt(m, n, D, 1, q, D, keys + at, ld, 0, s->scores, n);
    for (size_t j = 0; j < m; j++) s->w->k->softmax(s->scores + j * n, 1 / sqrtf((float)D), n);
    bb_sgemm_nn(m, D, n, 1, s->scores, n, values + at, ld, 0, q, D);
}

static void attention(stepper *s, uint32_t block, float *keys, uint32_t p)
{
    const bb_block *b = &s->w->net->blocks[block];
    size_t          D = s->w->net->head_dim, ld = b->n_kv * D, row = s->w->p->length * ld, number = (size_t)block * BB_N_PARTS;
    float          *values = keys + s->S * row;
    norm_rows(s, b->attn_norm);
    linear(s, s->x, number + BB_PART_Q, false, s->q, b->n_head * D);
    linear(s, s->x, number + BB_PART_K, false, keys + p * ld, row);
    linear(s, s->x, number + BB_PART_V, false, values + p * ld, row);
    for (size_t i = 0; i < s->S; i++) {
        turn_heads(s->w, s->q + i * b->n_head * D, b->n_head, b->q_norm, p);
        turn_heads(s->w, keys + i * row + p * ld, b->n_kv, b->k_norm, p);
        for (size_t g = 0; g < b->n_kv; g++) attend(s, b, keys, values, i, g, p);
    }
    linear(s, s->q, number + BB_PART_O, true, s->h, s->w->net->n_embd);
}

static void ffn(stepper *s, uint32_t block)
{
    const bb_block *b = &s->w->net->blocks[block];
    size_t          number = (size_t)block * BB_N_PARTS;
    norm_rows(s, b->ffn_norm);
    linear(s, s->x, number + BB_PART_GATE, false, s->gate, b->n_ff);
    linear(s, s->x, number + BB_PART_UP, false, s->up, b->n_ff);
    s->w->k->swiglu(s->gate, s->up, (size_t)s->S * b->n_ff);
    linear(s, s->gate, number + BB_PART_DOWN, true, s->h, s->w->net->n_embd);
}

/* Takes token p of each sequence in; logits of the next ones when wanted. */
static void step(stepper *s, const int32_t *ids, uint32_t p, bool want_logits)
{
    const bb_net *net = s->w->net;
    uint32_t      length = s->w->p->length;
    float        *cache = s->cache;
    for (size_t i = 0; i < s->S; i++) decode_rows(&net->embd, (size_t)ids[i * length + p], 1, s->h + i * net->n_embd);
    for (uint32_t b = 0; b < net->n_layer; b++) {
        if (net->blocks[b].n_head) attention(s, b, cache, p);
        if (net->blocks[b].n_ff) ffn(s, b);
        cache += 2 * (size_t)s->S * length * net->blocks[b].n_kv * net->head_dim;
    }
    if (!want_logits) return;
    norm_rows(s, net->out_norm);
    linear(s, s->x, (size_t)net->n_layer * BB_N_PARTS, false, s->logits, net->n_vocab);
}

/* Draws from softmax(z / temperature); z is overwritten. */
static int32_t draw(const bb_kernels *k, float *z, size_t n, double temperature, bb_rng *r)
{
    size_t best = k->arg_max(z, n);
    float  top = z[best], scale;
    double sum = 0, u;
    if (temperature <= 0) return (int32_t)best;
    scale = (float)(1 / temperature);
    for (size_t i = 0; i < n; i++) z[i] = (z[i] - top) * scale;
    k->exp(z, z, n);
    for (size_t i = 0; i < n; i++) sum += (double)z[i];
    u = bb_rng_uniform(r) * sum;
    for (size_t i = 0; i < n; i++)
        if ((u -= (double)z[i]) < 0) return (int32_t)i;
    return (int32_t)best; /* only rounding comes here */
}

/* ---- all groups ---- */

static bb_status check(const bb_net *net, const bb_sampling *p, bb_err *err)
{
    if (p->n_prompt > p->length) return BB_FAIL(err, BB_USAGE, "a prompt of %u tokens does not fit into sequences of %u", p->n_prompt, p->length);
    if (!(p->temperature >= 0) || !isfinite(p->temperature)) return BB_FAIL(err, BB_USAGE, "temperature %g: it must be 0 or more", p->temperature);
    for (uint32_t i = 0; i < p->n_prompt; i++)
        if (p->prompt[i] < 0 || (uint32_t)p->prompt[i] >= net->n_vocab)
            return BB_FAIL(err, BB_BAD_FILE, "prompt token %u has id %d, outside the vocabulary of %u", i, p->prompt[i], net->n_vocab);
    return BB_OK;
}

static void start_sequence(const shared *w, uint32_t number, int32_t *ids, bb_rng *r)
{
    char name[32];
    snprintf(name, sizeof name, "sample %u", number);
    bb_rng_init(r, w->p->seed, name);
    if (w->p->n_prompt) memcpy(ids, w->p->prompt, w->p->n_prompt * sizeof *ids);
    else ids[0] = (int32_t)bb_rng_below(r, w->net->n_vocab);
}

/* Sequences first .. first+S-1, from beginning to end. */
static bb_status sample_group(const shared *w, uint32_t first, uint32_t S, bb_progress *progress, int32_t *ids, bb_err *err)
{
    bb_rng    r[GROUP];
    stepper   s;
    uint32_t  length = w->p->length, start = w->p->n_prompt ? w->p->n_prompt : 1;
    size_t    V = w->net->n_vocab;
    bb_status status = stepper_init(&s, w, S, err);
    if (status != BB_OK) return status;
    for (uint32_t i = 0; i < S; i++) start_sequence(w, first + i, ids + (size_t)i * length, &r[i]);
    for (uint32_t t = 0; t + 1 < length; t++) {
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted while sampling token %u of %u", t, length);
            break;
        }
        step(&s, ids, t, t + 1 >= start);
        for (uint32_t i = 0; i < S && t + 1 >= start; i++)
            ids[(size_t)i * length + t + 1] = draw(w->k, s.logits + i * V, V, w->p->temperature, &r[i]);
        if (progress) bb_progress_add(progress, S);
    }
    stepper_done(&s);
    return status;
}

/* Groups in parallel, as many at once as the cache may take; err gets the first failure in the order of groups. */
static bb_status sample_groups(const shared *w, uint32_t group, bb_progress *progress, int32_t *ids, bb_err *err)
{
    uint32_t  n = w->p->n_sequences, groups = (n + group - 1) / group, bad = groups;
    uint64_t  bytes = group * sizeof(float) * cache_floats(w->net, w->p->length) + 1, at_once = 1 + CACHE_BYTES / bytes;
    int       threads = omp_get_max_threads() < (int64_t)at_once ? omp_get_max_threads() : (int)at_once;
    bb_status status = BB_OK;
    bb_err   *errs = bb_calloc(groups, sizeof *errs, err);
    if (!errs) return BB_NOMEM;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (uint32_t i = 0; i < groups; i++)
        sample_group(w, i * group, n - i * group < group ? n - i * group : group, progress, ids + (size_t)i * group * w->p->length, &errs[i]);
    for (uint32_t i = groups; i-- > 0;)
        if (errs[i].status != BB_OK) bad = i;
    if (bad < groups) status = BB_FAIL(err, errs[bad].status, "%s", errs[bad].msg);
    bb_free(errs);
    return status;
}

bb_status bb_sample_ids(const bb_net *net, const bb_sampling *p, const char *label, int32_t *ids, bb_err *err)
{
    bb_status   status = BB_OK;
    shared      w = { 0 };
    uint32_t    group = GROUP;
    bb_progress progress;
    BB_TRY(check(net, p, err));
    if (p->length == 0 || p->n_sequences == 0) return BB_OK;
    BB_TRY(shared_init(&w, net, p, err));
    while (group > 1 && group * sizeof(float) * cache_floats(net, p->length) > CACHE_BYTES) group /= 2;
    if (label) bb_progress_start(&progress, label, (uint64_t)p->n_sequences * (p->length - 1));
    status = sample_groups(&w, group, label ? &progress : NULL, ids, err);
    if (label) bb_progress_end(&progress);
done:
    shared_done(&w);
    return status;
}
