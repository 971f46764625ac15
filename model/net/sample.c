/* SPDX-License-Identifier: GPL-3.0-or-later
 * sample.c: see sample.h. Groups of GROUP sequences go through the network independently, a group a task, so that threads never wait for
 * each other, but for the last ones, which are too few for all threads and whose steps these share; within a group one step takes a token of each sequence through all blocks. Weights are decoded and packed (kernels.h) once
 * for all if memory allows, else strip by strip as they are used. Keys and values are cached in packed form. Every product
 * is the chain of fma of kernels.h, as in the forward pass, so the logits have the very bits of forward.h, however the work is cut. Rough ones, of many sequences alone, are of
 * plain bfloat16 with the matrices, and exact in attention.
 * With integers rows are multiplied in 8 bits with the matrices as small integers (kernels/integer.h) and have no such bits, but still bits of their own.
 * A decoder is one group of one sequence whose step takes several tokens in, in their order, and whose threads share the weight rows and the KV heads.
 */
#include "model/net/sample.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/integer.h"
#include "model/net/cpu.h"

enum { GROUP = 16, STRIP = 64 /* weight rows decoded at once: a multiple of every panel */, PROMPT_ROWS = 64 /* tokens of one sequence at once */ };
static const uint64_t CACHE_BYTES = 1u << 30, HELD_BYTES = 1u << 30;

/* What all groups share, read-only while they run. */
typedef struct shared {
    const bb_net      *net;
    const bb_sampling *p;
    const bb_kernels  *k;
    float             *cos_sin;                           /* [length][n_rot/2][2] */
    bool               rough;                             /* matrices are of plain bfloat16, split in panels (kernels.h), the rows of x too */
    bb_integers       *integers;                          /* [n_matrices], panels NULL for a matrix that has none; or NULL */
    float             *weights;                           /* packed matrices that are not integers, or NULL */
    size_t            *offset;                            /* of each matrix in weights */
    bb_matrix         *proj;                              /* [n_layer] bb_token_proj; or NULL */
    uint32_t           max_q, max_kv, max_ff, max_shared; /* widest H D, G D, F or P; most query heads on a KV head */
} shared;

/* One group on its way. one: its rows are no sequences but tokens of one, in their order. */
typedef struct stepper {
    const shared *w;
    bool          one;
    uint32_t      S;
    int           lanes;                                  /* threads of a step */
    size_t        strip_floats, score_floats;             /* of a lane: STRIP weight rows; rows of attend */
    float        *cache;                                  /* block after block, sequence after sequence: head_cache for each KV head */
    float        *h, *x, *q, *k, *v, *gate, *up, *logits; /* rows of S */
    float        *token, *e;                              /* what tokens give to a block; their embeddings; where there is such */
    float        *strip, *packed;                         /* [lanes] STRIP weight rows, when they are not held */
    float        *split;                                  /* rough, what feeds the next matrices: rows of S in whole tiles */
    int8_t       *x_bytes;                                /* with integers, what feeds the next matrices in 8 bits: rows of S, scales, sums (integer.h) */
    float        *x_scale;
    int32_t      *x_sum;
    float        *scores; /* [lanes] */
} stepper;

/* ---- what is shared ---- */

static uint32_t largest(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Keys, then values, of one KV head of one sequence. */
static size_t key_floats(const shared *w, size_t D) { return bb_packed_floats(w->p->length, D, w->k->panel); }
static size_t head_cache(const shared *w, const bb_block *b)
{
    const size_t D = bb_head_dim(w->net, b);
    return key_floats(w, D) + bb_packed_floats(D, w->p->length, w->k->panel);
}

/* A block that takes keys and values from another has no cache of its own. */
static bool takes_keys(const bb_block *b) { return b->n_head && b->kv_role == BB_KV_TAKES; }

/* The block whose cache a block uses. */
static uint32_t cache_of(const bb_net *net, uint32_t block)
{
    uint32_t from = block;
    while (takes_keys(&net->blocks[block]) && from > 0 && !(net->blocks[from].kv_role == BB_KV_GIVES && net->blocks[from].kv_at == net->blocks[block].kv_at))
        from--;
    return from;
}

static size_t cache_of_block(const shared *w, uint32_t block) /* of one sequence */
{
    const bb_block *b = &w->net->blocks[block];
    return takes_keys(b) ? 0 : b->n_kv * head_cache(w, b);
}

static uint64_t cache_floats(const shared *w) /* of one sequence */
{
    uint64_t n = 0;
    for (uint32_t b = 0; b < w->net->n_layer; b++) n += cache_of_block(w, b);
    return n;
}

/* Every part of every block, then the head, then the projections of what tokens give to blocks. */
static size_t n_matrices(const bb_net *net) { return (size_t)net->n_layer * BB_N_PARTS + 1 + (net->token.width ? net->n_layer : 0); }
static size_t proj_number(const bb_net *net, uint32_t block) { return (size_t)net->n_layer * BB_N_PARTS + 1 + block; }

static void shared_done(shared *w)
{
    for (size_t i = 0; w->integers && i < n_matrices(w->net); i++) bb_free(w->integers[i].panels);
    bb_free(w->integers);
    bb_free(w->cos_sin);
    bb_free(w->weights);
    bb_free(w->offset);
    bb_free(w->proj);
    *w = (shared) { 0 };
}

static void decode_rows(const bb_matrix *m, size_t first, size_t n, float *out)
{
    const bb_format *f = bb_format_get(m->type);
    size_t           bytes = bb_format_row_bytes(f, m->cols);
    for (size_t r = 0; r < n; r++) f->decode((const char *)m->data + (first + r) * bytes, out + r * m->cols, m->cols);
}

/* Matrix i of the network; NULL where there is none. */
static const bb_matrix *matrix_at(const shared *w, size_t i)
{
    const bb_net *net = w->net;
    if (i > (size_t)net->n_layer * BB_N_PARTS) return &w->proj[i - (size_t)net->n_layer * BB_N_PARTS - 1];
    const bb_block *b = &net->blocks[i / BB_N_PARTS];
    bb_part         part = (bb_part)(i % BB_N_PARTS);
    if (i == (size_t)net->n_layer * BB_N_PARTS) return bb_net_head(net);
    return bb_block_has_part(b, part) ? &b->w[part] : NULL;
}

/* Floats of memory that a row of `cols` takes, of x and of a panel. */
static size_t room_of(const shared *w, size_t cols) { return w->rough ? bb_split_numbers(1, 1, cols, 1) / 2 : cols; }

/* Rows first .. first+n-1 into panels; plain: room for STRIP rows. */
static void pack_rows(const shared *w, const bb_matrix *m, size_t first, size_t n, float *plain, float *panels)
{
    for (size_t at = 0; at < n; at += STRIP) {
        size_t some = n - at < STRIP ? n - at : STRIP;
        float *to = panels + at * room_of(w, m->cols);
        decode_rows(m, first + at, some, plain);
        if (w->rough) w->k->split_panels(1, plain, m->cols, some, m->cols, bb_cpu_split_at(to));
        else bb_pack_panels(plain, m->cols, some, m->cols, w->k->panel, to);
    }
}

/* Matrices as integers, those whose format has them. */
static bb_status hold_integers(shared *w, bb_err *err)
{
    const size_t n = n_matrices(w->net);
    if (!(w->integers = bb_calloc(n, sizeof *w->integers, err))) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const bb_matrix *m = matrix_at(w, i);
        bb_integers     *to = &w->integers[i];
        if (!m || !bb_integers_shape(to, bb_format_get(m->type), m->rows, m->cols)) continue;
        if (!(to->panels = bb_alloc(bb_integers_bytes(to), 1, err))) return BB_NOMEM;
#pragma omp parallel for schedule(static)
        for (size_t p = 0; p < bb_integers_panels(to); p++) bb_integers_pack(to, m->data, p);
    }
    return BB_OK;
}

static bool is_integer(const shared *w, size_t i) { return w->integers && w->integers[i].panels; }

/* The others as float32, if they fit. */
static bb_status hold_floats(shared *w, bb_err *err)
{
    size_t    n = n_matrices(w->net), widest = largest(largest(w->max_q, w->max_ff), w->net->n_embd);
    uint64_t  total = 0, limit = w->p->weight_bytes ? w->p->weight_bytes : HELD_BYTES;
    bb_status status = BB_OK;
    if (!(w->offset = bb_calloc(n, sizeof *w->offset, err))) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const bb_matrix *m = is_integer(w, i) ? NULL : matrix_at(w, i);
        w->offset[i] = (size_t)total;
        if (m) total += bb_packed_floats(m->rows, room_of(w, m->cols), w->k->panel);
        if (total * sizeof(float) > limit) return BB_OK;
    }
    if (!(w->weights = bb_alloc((size_t)total, sizeof *w->weights, err))) return BB_NOMEM;
#pragma omp        parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i++) {
               const bb_matrix *m = is_integer(w, i) ? NULL : matrix_at(w, i);
               float           *plain = m ? bb_alloc(STRIP * widest, sizeof *plain, NULL) : NULL;
               if (plain) pack_rows(w, m, 0, m->rows, plain, w->weights + w->offset[i]);
        else if (m) {
#pragma omp atomic write
            status = BB_NOMEM;
        }
        bb_free(plain);
    }
    return status == BB_OK ? BB_OK : BB_FAIL(err, status, "out of memory while decoding weights");
}

static bb_status shared_init(shared *w, const bb_net *net, const bb_sampling *p, bool integers, bb_err *err)
{
    bb_status status = BB_OK;
    *w = (shared) { .net = net, .p = p, .k = bb_kernels_get(), .rough = p->rough && bb_kernels_fast_rough(), .max_shared = 1 };
    for (uint32_t b = 0; b < net->n_layer; b++) {
        const bb_block *k = &net->blocks[b];
        w->max_q = largest(w->max_q, (uint32_t)bb_dim_of(net, k, BB_DIM_HD));
        w->max_kv = largest(w->max_kv, (uint32_t)bb_dim_of(net, k, BB_DIM_GD));
        w->max_ff = largest(w->max_ff, k->n_ff);
        if (k->n_kv) w->max_shared = largest(w->max_shared, k->n_head / k->n_kv);
    }
    w->max_ff = largest(w->max_ff, net->token.width);
    if (net->token.width && !(w->proj = BB_NEW(net->n_layer, bb_matrix, err))) status = BB_NOMEM;
    for (uint32_t b = 0; w->proj && b < net->n_layer; b++) w->proj[b] = bb_token_proj(net, b);
    if (status == BB_OK && !(w->cos_sin = bb_rope_table(net, p->length, err))) status = BB_NOMEM;
    if (status == BB_OK && integers) status = hold_integers(w, err);
    if (status == BB_OK) status = hold_floats(w, err);
    if (status != BB_OK) shared_done(w);
    return status;
}

/* ---- a group ---- */

static void stepper_done(stepper *s)
{
    float *all[] = { s->cache, s->split, s->h, s->x, s->q, s->k, s->v, s->gate, s->up, s->logits, s->strip, s->packed, s->scores, s->x_scale, s->token, s->e };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bb_free(all[i]);
    bb_free(s->x_bytes);
    bb_free(s->x_sum);
    *s = (stepper) { 0 };
}

/* Zeros, which may be gigabytes and take seconds: a panel is read whole. */
static bb_status make_cache(stepper *s, size_t n, bb_err *err)
{
    enum { PIECE = 1 << 24 };
    if (!(s->cache = bb_alloc(n, sizeof *s->cache, err))) return BB_NOMEM;
    for (size_t at = 0; at < n; at += PIECE) {
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted before a sequence of %u tokens", s->w->p->length);
        memset(s->cache + at, 0, (n - at < PIECE ? n - at : PIECE) * sizeof *s->cache);
    }
    return BB_OK;
}

static bb_status stepper_init(stepper *s, const shared *w, uint32_t S, bool one, int lanes, bb_err *err)
{
    const bb_net *net = w->net;
    const size_t  widest = largest(largest(w->max_q, w->max_ff), net->n_embd), strip = STRIP * widest, sequences = one ? 1 : S;
    const size_t  x_floats = w->integers ? S * ((widest + BB_INTEGER_GROUP - 1) / BB_INTEGER_GROUP * BB_INTEGER_GROUP) : 0,
                 strips = w->weights ? 0 : (size_t)lanes * strip;
    *s = (stepper) { .w = w, .one = one, .S = S, .lanes = lanes, .strip_floats = strip };
    s->score_floats = (size_t)largest(w->max_shared, one && S > 1 ? BB_CPU_TILE : 1) * w->p->length;
    const struct {
        float **at;
        size_t  n;
    } buffers[] = {
        { &s->h, (size_t)S * net->n_embd },
        { &s->x, (size_t)S * net->n_embd },
        { &s->q, (size_t)S * w->max_q },
        { &s->k, (size_t)S * w->max_kv },
        { &s->v, (size_t)S * w->max_kv },
        { &s->gate, (size_t)S * w->max_ff },
        { &s->up, (size_t)S * w->max_ff },
        { &s->logits, sequences * net->n_vocab },
        { &s->token, (size_t)S * net->token.width },
        { &s->e, net->token.width ? (size_t)S * net->n_embd : 0 },
        { &s->split, w->rough ? bb_split_numbers(1, S, widest, BB_SPLIT_ROWS) / 2 : 0 },
        { &s->strip, strips },
        { &s->packed, strips },
        { &s->x_scale, x_floats / BB_INTEGER_GROUP },
        { &s->scores, (size_t)lanes * s->score_floats },
    };
    const bb_status status = make_cache(s, sequences * cache_floats(w), err);
    if (status != BB_OK) {
        stepper_done(s);
        return status;
    }
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if (!(*buffers[i].at = bb_alloc(buffers[i].n, sizeof(float), err))) {
            stepper_done(s);
            return BB_NOMEM;
        }
    s->x_bytes = bb_alloc(x_floats, sizeof *s->x_bytes, err);
    s->x_sum = bb_alloc(x_floats / BB_INTEGER_HALF, sizeof *s->x_sum, err);
    if (s->x_bytes && s->x_sum) return BB_OK;
    stepper_done(s);
    return BB_NOMEM;
}

/* The number of the calling thread among those of a step: one lane is the whole of a thread that runs a group. */
static size_t lane_of(const stepper *s) { return s->lanes > 1 ? (size_t)omp_get_thread_num() : 0; }

/* x (S, cols) feeds the next matrices. */
static void feed(const stepper *s, const float *x, size_t cols)
{
    if (s->w->rough) s->w->k->split_rows(1, x, cols, s->S, cols, bb_cpu_split_at(s->split));
    if (!s->w->integers || cols % BB_INTEGER_GROUP) return; /* then no matrix of integers is fed */
#pragma omp parallel for schedule(static) num_threads(s->lanes) if (s->lanes > 1 && s->S > 1)
    for (size_t i = 0; i < s->S; i++) {
        const size_t at = i * cols;
        s->w->k->integer_vector(x + at, cols, s->x_bytes + at, s->x_scale + at / BB_INTEGER_GROUP, s->x_sum + at / BB_INTEGER_HALF);
    }
}

/* The same of a matrix of integers: each lane takes its part of the panels. */
static void integer_linear(const stepper *s, size_t number, const float *bias, bool add, float *y)
{
    const bb_integers *m = &s->w->integers[number];
    const size_t       panels = bb_integers_panels(m), lanes = (size_t)s->lanes;
#pragma omp parallel for schedule(static) num_threads(s->lanes) if (s->lanes > 1)
    for (size_t i = 0; i < lanes; i++)
        s->w->k->integer_product(m, panels * i / lanes, panels * (i + 1) / lanes, s->S, s->x_bytes, s->x_scale, s->x_sum, bias, add, y);
}

/* y (S, rows) = x (S, cols) W' + bias, or added to y; x is what feed was given last. W is matrix `number` of the network. */
static void linear(const stepper *s, const float *x, size_t number, bool add, float *y)
{
    const shared    *w = s->w;
    const bb_matrix *m = matrix_at(w, number);
    const bool       held = w->weights;
    const size_t     cut = held && s->lanes == 1 ? m->rows : STRIP;
    if (is_integer(w, number)) {
        integer_linear(s, number, m->bias, add, y);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(s->lanes) if (s->lanes > 1)
    for (size_t first = 0; first < m->rows; first += cut) {
        const size_t n = m->rows - first < cut ? m->rows - first : cut, at = lane_of(s) * s->strip_floats;
        const float *panels = held ? w->weights + w->offset[number] + first * room_of(w, m->cols) : s->packed + at;
        if (!held) pack_rows(w, m, first, n, s->strip + at, s->packed + at);
        if (w->rough) bb_cpu_split_product(w->k, 1, s->S, n, m->cols, s->split, panels, m->bias ? m->bias + first : NULL, add, y + first, m->rows);
        else w->k->product(s->S, n, m->cols, x, m->cols, panels, m->bias ? m->bias + first : NULL, add, y + first, m->rows);
    }
}

/* x := the rows of h, normed if there is a weight. */
static void norm_rows(const stepper *s, const float *weight)
{
    size_t C = s->w->net->n_embd;
    if (!weight) memcpy(s->x, s->h, s->S * C * sizeof *s->x);
    for (size_t i = 0; weight && i < s->S; i++) s->w->k->rms_norm(s->h + i * C, weight, s->w->net->norm_eps, s->x + i * C, C);
}

/* What a block's writer makes of the rows of `from` joins h; x is lost. */
static void give_out(const stepper *s, uint32_t block, bb_sublayer sub, const float *from)
{
    const float *weight = s->w->net->blocks[block].norm[bb_sublayers[sub].post];
    const size_t C = s->w->net->n_embd;
    feed(s, from, s->w->net->blocks[block].w[bb_sublayers[sub].writer].cols);
    linear(s, from, (size_t)block * BB_N_PARTS + bb_sublayers[sub].writer, !weight, weight ? s->x : s->h);
    for (size_t i = 0; weight && i < s->S; i++) {
        float *y = s->x + i * C, *h = s->h + i * C;
        s->w->k->rms_norm(y, weight, s->w->net->norm_eps, y, C);
        for (size_t c = 0; c < C; c++) h[c] += y[c];
    }
}

/* The heads of one token, at position p: norm of each head or of all, then RoPE. */
static void turn_heads(const shared *w, const bb_heads *heads, float *x, uint32_t p)
{
    const float factor = bb_heads_factor(heads, p);
    if (heads->norm && heads->whole) w->k->rms_norm(x, heads->norm, heads->norm_eps, x, (size_t)heads->n * heads->dim);
    for (uint32_t j = 0; j < heads->n; j++, x += heads->dim) {
        if (heads->norm && !heads->whole) w->k->rms_norm(x, heads->norm, heads->norm_eps, x, heads->dim);
        bb_cpu_rotate(x, heads->cos_sin + (size_t)p * heads->n_rot, heads->n_rot, heads->neox, false);
        bb_cpu_scale_head(heads, factor, x);
    }
}

/* Key and value of one KV head, D numbers each at position p, join its cache. */
static void keep(const shared *w, float *cache, const float *key, const float *value, size_t D, uint32_t p)
{
    const size_t panel = w->k->panel, length = w->p->length;
    float       *values = cache + key_floats(w, D);
    for (size_t d = 0; d < D; d++) cache[p / panel * D * panel + d * panel + p % panel] = key[d];
    for (size_t d = 0; d < D; d++) values[d / panel * length * panel + p * panel + d % panel] = value[d];
}

/* m queries of D numbers (row stride ld), which meet the keys of one cache, become their attention results: query i is at position p + i * step. */
static void attend(const stepper *s, const float *cache, float *q, size_t m, size_t ld, size_t D, uint32_t window, uint32_t p, uint32_t step)
{
    const shared *w = s->w;
    const size_t  begin = bb_cpu_window_begin(p, window); /* keys before it are not seen */
    const size_t  n = p + (m - 1) * step + 1 - begin, panel = w->k->panel, length = w->p->length;
    const float  *values = cache + key_floats(w, D);
    float        *scores = s->scores + lane_of(s) * s->score_floats;
    w->k->product(m, n, D, q, ld, cache + begin * D, NULL, false, scores, n);
    for (size_t i = 0; i < m; i++) {
        const size_t seen = p + i * step + 1 - begin;
        bb_cpu_softmax(w->k, scores + i * n, 1 / sqrtf((float)D), seen, window);
        memset(scores + i * n + seen, 0, (n - seen) * sizeof *scores);
    }
    for (size_t d = 0; d < D; d += panel) /* a panel at a time: the cache's panels are longer than n */
        w->k->product(m, D - d < panel ? D - d : panel, n, scores, n, values + d * length + begin * panel, NULL, false, q + d, ld);
}

/* KV head g of all rows; cache: of the block. */
static void attend_head(const stepper *s, const bb_block *b, float *cache, size_t g, uint32_t p)
{
    const shared *w = s->w;
    const size_t  D = bb_head_dim(w->net, b), heads = b->n_head / b->n_kv, ld = b->n_head * D;
    for (size_t i = 0; i < s->S; i++) {
        float       *own = cache + ((s->one ? 0 : i * b->n_kv) + g) * head_cache(w, b);
        const size_t at = (i * b->n_kv + g) * D;
        if (!takes_keys(b)) keep(w, own, s->k + at, s->v + at, D, p + (s->one ? (uint32_t)i : 0));
        if (!s->one || s->S == 1) attend(s, own, s->q + i * ld + g * heads * D, heads, D, D, b->window, p, 0);
    }
    for (size_t j = g * heads; s->one && s->S > 1 && j < (g + 1) * heads; j++) /* tokens of one sequence: each meets the keys of those before it */
        for (size_t i = 0; i < s->S; i += BB_CPU_TILE)
            attend(s, cache + g * head_cache(w, b), s->q + i * ld + j * D, s->S - i < BB_CPU_TILE ? s->S - i : BB_CPU_TILE, ld, D, b->window, p + (uint32_t)i,
                   1);
}

static void attention(stepper *s, uint32_t block, float *cache, uint32_t p)
{
    const shared   *w = s->w;
    const bb_block *b = &w->net->blocks[block];
    size_t          D = bb_head_dim(w->net, b), number = (size_t)block * BB_N_PARTS;
    const bb_heads  q = bb_heads_of(w->net, b, BB_PART_Q, w->cos_sin, w->p->length), k = bb_heads_of(w->net, b, BB_PART_K, w->cos_sin, w->p->length);
    const bb_heads  v = bb_heads_of(w->net, b, BB_PART_V, w->cos_sin, w->p->length);
    const bool      own = !takes_keys(b);
    norm_rows(s, b->norm[BB_NORM_ATTENTION]);
    feed(s, s->x, w->net->n_embd);
    linear(s, s->x, number + BB_PART_Q, false, s->q);
    if (own) linear(s, s->x, number + BB_PART_K, false, s->k);
    if (bb_block_has_part(b, BB_PART_V)) linear(s, s->x, number + BB_PART_V, false, s->v);
    else if (own) memcpy(s->v, s->k, s->S * b->n_kv * D * sizeof *s->v);
    for (uint32_t i = 0; i < s->S; i++) {
        turn_heads(w, &q, s->q + (size_t)i * b->n_head * D, p + (s->one ? i : 0));
        if (!own) continue;
        turn_heads(w, &k, s->k + (size_t)i * b->n_kv * D, p + (s->one ? i : 0));
        if (v.norm) turn_heads(w, &v, s->v + (size_t)i * b->n_kv * D, p + (s->one ? i : 0));
    }
#pragma omp parallel for schedule(static) num_threads(s->lanes) if (s->lanes > 1)
    for (size_t g = 0; g < b->n_kv; g++) attend_head(s, b, cache, g, p);
    give_out(s, block, BB_ATTENTION, s->q);
}

static void ffn(stepper *s, uint32_t block)
{
    const bb_block *b = &s->w->net->blocks[block];
    size_t          number = (size_t)block * BB_N_PARTS;
    norm_rows(s, b->norm[BB_NORM_FFN]);
    feed(s, s->x, s->w->net->n_embd);
    linear(s, s->x, number + BB_PART_GATE, false, s->gate);
    linear(s, s->x, number + BB_PART_UP, false, s->up);
    bb_cpu_gate(s->w->k, s->w->net->gate, s->gate, s->up, (size_t)s->S * b->n_ff);
    give_out(s, block, BB_FFN, s->gate);
}

/* s->token := what the tokens give to the block; see bb_token_inputs. */
static void token_inputs(const stepper *s, const int32_t *ids, size_t stride, uint32_t block)
{
    const bb_net          *net = s->w->net;
    const bb_token_inputs *t = &net->token;
    const size_t           P = t->width, C = net->n_embd;
    const float            root = sqrtf((float)P), half = sqrtf(0.5f), scale = bb_token_proj_scale(net);
    for (size_t i = 0; i < s->S; i++) decode_rows(&net->embd, (size_t)ids[i * stride], 1, s->e + i * C);
    for (size_t i = 0; bb_scales(net->embd_scale) && i < s->S * C; i++) s->e[i] *= net->embd_scale;
    feed(s, s->e, C);
    linear(s, s->e, proj_number(net, block), false, s->up);
    for (size_t i = 0; i < s->S; i++) {
        float *x = s->up + i * P, *y = s->token + i * P;
        for (size_t k = 0; k < P; k++) x[k] *= scale;
        decode_rows(&t->table, (size_t)ids[i * stride] * net->n_layer + net->blocks[block].number, 1, y);
        for (size_t k = 0; k < P; k++) y[k] *= root;
        s->w->k->rms_norm(x, t->norm, net->norm_eps, x, P);
        for (size_t k = 0; k < P; k++) y[k] += x[k];
        for (size_t k = 0; k < P; k++) y[k] *= half;
    }
}

static void token(stepper *s, const int32_t *ids, size_t stride, uint32_t block)
{
    const bb_block *b = &s->w->net->blocks[block];
    size_t          number = (size_t)block * BB_N_PARTS;
    token_inputs(s, ids, stride, block);
    norm_rows(s, bb_norm_weight(b, bb_sublayers[BB_TOKEN].pre));
    feed(s, s->x, s->w->net->n_embd);
    linear(s, s->x, number + BB_PART_TOKEN_GATE, false, s->gate);
    bb_cpu_gate(s->w->k, s->w->net->gate, s->gate, s->token, (size_t)s->S * b->n_token);
    give_out(s, block, BB_TOKEN, s->gate);
}

static void scale_rows(const stepper *s, float factor, float *x)
{
    for (size_t i = 0; bb_scales(factor) && i < (size_t)s->S * s->w->net->n_embd; i++) x[i] *= factor;
}

/* Takes token p of each sequence in, or, of one, the tokens from p on; row i is at ids[i * stride]. Logits of the next ones when wanted. */
static void step(stepper *s, const int32_t *ids, size_t stride, uint32_t p, bool want_logits)
{
    const bb_net *net = s->w->net;
    const size_t  sequences = s->one ? 1 : s->S;
    size_t        at[BB_MAX_LAYERS], end = 0; /* of the block's cache */
    for (size_t i = 0; i < s->S; i++) decode_rows(&net->embd, (size_t)ids[i * stride], 1, s->h + i * net->n_embd);
    scale_rows(s, net->embd_scale, s->h);
    for (uint32_t b = 0; b < net->n_layer; b++) {
        at[b] = takes_keys(&net->blocks[b]) ? at[cache_of(net, b)] : end;
        if (net->blocks[b].n_head) attention(s, b, s->cache + at[b], p);
        if (net->blocks[b].n_ff) ffn(s, b);
        if (net->blocks[b].n_token) token(s, ids, stride, b);
        scale_rows(s, net->blocks[b].scale, s->h);
        end += sequences * cache_of_block(s->w, b);
    }
    if (!want_logits) return;
    if (s->one && s->S > 1) { /* of the last token alone */
        memcpy(s->h, s->h + (size_t)(s->S - 1) * net->n_embd, net->n_embd * sizeof *s->h);
        s->S = 1;
    }
    norm_rows(s, net->out_norm);
    scale_rows(s, net->out_scale, s->x);
    feed(s, s->x, net->n_embd);
    linear(s, s->x, (size_t)net->n_layer * BB_N_PARTS, false, s->logits);
    bb_cpu_cap(s->w->k, net->logit_cap, s->logits, (size_t)s->S * net->n_vocab);
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
    for (size_t s = 0; s < (p->stride ? p->n_sequences : 1); s++)
        for (uint32_t i = 0; i < p->n_prompt; i++) {
            int32_t id = p->prompt[s * p->stride + i];
            if (id < 0 || (uint32_t)id >= net->n_vocab)
                return BB_FAIL(err, BB_BAD_FILE, "token %u of prompt %zu has id %d, outside the vocabulary of %u", i, s, id, net->n_vocab);
        }
    return BB_OK;
}

static void start_sequence(const shared *w, uint32_t number, int32_t *ids, bb_rng *r)
{
    char name[32];
    snprintf(name, sizeof name, "sample %u", number);
    bb_rng_init(r, w->p->seed, name);
    if (w->p->n_prompt) memcpy(ids, w->p->prompt + (size_t)number * w->p->stride, w->p->n_prompt * sizeof *ids);
    else ids[0] = (int32_t)bb_rng_below(r, w->net->n_vocab);
}

/* Group i, `group` sequences or those that are left, from beginning to end, by so many threads. ids: of all sequences. */
static bb_status sample_group(const shared *w, uint32_t i_group, uint32_t group, int lanes, bb_progress *progress, int32_t *ids, bb_err *err)
{
    const uint32_t length = w->p->length, start = w->p->n_prompt ? w->p->n_prompt : 1, first = i_group * group;
    const uint32_t S = w->p->n_sequences - first < group ? w->p->n_sequences - first : group;
    const size_t   V = w->net->n_vocab;
    bb_rng         r[GROUP];
    stepper        s;
    bb_status      status = stepper_init(&s, w, S, false, lanes, err);
    if (status != BB_OK) return status;
    ids += (size_t)first * length;
    for (uint32_t i = 0; i < S; i++) start_sequence(w, first + i, ids + (size_t)i * length, &r[i]);
    for (uint32_t t = 0; t + 1 < length; t++) {
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted while sampling token %u of %u", t, length);
            break;
        }
        step(&s, ids + t, length, t, t + 1 >= start);
        for (uint32_t i = 0; i < S && t + 1 >= start; i++) ids[(size_t)i * length + t + 1] = draw(w->k, s.logits + i * V, V, w->p->temperature, &r[i]);
        if (progress) bb_progress_add(progress, S);
    }
    stepper_done(&s);
    return status;
}

/* Groups in parallel, as many at once as the cache may take, and those that are too few for every thread to have one by all threads, one after the other; err
 * gets the first failure in the order of groups. */
static bb_status sample_groups(const shared *w, uint32_t group, bb_progress *progress, int32_t *ids, bb_err *err)
{
    const int      all = omp_get_max_threads();
    const uint32_t groups = (w->p->n_sequences + group - 1) / group;
    const uint64_t bytes = group * sizeof(float) * cache_floats(w) + 1, at_once = 1 + CACHE_BYTES / bytes;
    const int      threads = all < (int64_t)at_once ? all : (int)at_once;
    const uint32_t alone = groups - groups % (uint32_t)threads;
    uint32_t       bad = groups;
    bb_status      status = BB_OK;
    bb_err        *errs = bb_calloc(groups, sizeof *errs, err);
    if (!errs) return BB_NOMEM;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (uint32_t i = 0; i < alone; i++) sample_group(w, i, group, 1, progress, ids, &errs[i]);
    for (uint32_t i = alone; i < groups; i++) sample_group(w, i, group, all, progress, ids, &errs[i]);
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
    BB_TRY(shared_init(&w, net, p, false, err));
    while (group > 1 && group * sizeof(float) * cache_floats(&w) > CACHE_BYTES) group /= 2;
    if (label) bb_progress_start(&progress, label, (uint64_t)p->n_sequences * (p->length - 1));
    status = sample_groups(&w, group, label ? &progress : NULL, ids, err);
    if (label) bb_progress_end(&progress);
done:
    shared_done(&w);
    return status;
}

/* ---- one sequence ---- */

struct bb_decoder {
    bb_sampling p; /* its length alone */
    shared      w;
    stepper     s;
    uint32_t    at;
};

bb_status bb_decoder_create(const bb_net *net, uint32_t length, uint64_t weight_bytes, bool integers, bb_decoder **out, bb_err *err)
{
    bb_status   status = BB_OK;
    bb_decoder *d = bb_calloc(1, sizeof *d, err);
    *out = NULL;
    if (!d) return BB_NOMEM;
    d->p = (bb_sampling) { .length = length, .weight_bytes = weight_bytes };
    BB_TRY(shared_init(&d->w, net, &d->p, integers, err));
    BB_TRY(stepper_init(&d->s, &d->w, length < PROMPT_ROWS ? length : PROMPT_ROWS, true, omp_get_max_threads(), err));
    *out = d;
    d = NULL;
done:
    bb_decoder_destroy(d);
    return status;
}

void bb_decoder_destroy(bb_decoder *d)
{
    if (!d) return;
    stepper_done(&d->s);
    shared_done(&d->w);
    bb_free(d);
}

uint32_t bb_decoder_at(const bb_decoder *d) { return d->at; }
void     bb_decoder_rewind(bb_decoder *d) { d->at = 0; }

static bb_status check_taken(const bb_decoder *d, const int32_t *ids, uint32_t n, bb_err *err)
{
    const uint32_t V = d->w.net->n_vocab;
    if (n > d->p.length - d->at) return BB_FAIL(err, BB_USAGE, "%u tokens after %u do not fit into a sequence of %u", n, d->at, d->p.length);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= V)
            return BB_FAIL(err, BB_BAD_FILE, "token %u of the sequence has id %d, outside the vocabulary of %u", d->at + i, ids[i], V);
    return BB_OK;
}

bb_status bb_decoder_take(bb_decoder *d, const int32_t *ids, uint32_t n, float **logits, bb_err *err)
{
    const uint32_t V = d->w.net->n_vocab;
    bb_status      status = check_taken(d, ids, n, err);
    if (status != BB_OK || n == 0) return status;
    for (uint32_t some; n > 0; ids += some, n -= some) {
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted after token %u of a sequence", d->at);
        some = n < PROMPT_ROWS ? n : PROMPT_ROWS;
        d->s.S = some;
        step(&d->s, ids, 1, d->at, some == n);
        d->at += some;
    }
    for (uint32_t v = 0; v < V; v++)
        if (!isfinite(d->s.logits[v])) return BB_FAIL(err, BB_NUMERIC, "the logit of token %u after %u tokens is not a finite number", v, d->at);
    *logits = d->s.logits;
    return BB_OK;
}
