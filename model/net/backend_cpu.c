/* SPDX-License-Identifier: GPL-3.0-or-later
 * backend_cpu.c: the operations on the host: kernels.h inside, OpenMP over independent pieces outside.
 *
 * Products, exact ones: weights are decoded to float32 and packed into panels, in pieces of at most PIECE_FLOATS, a piece at a time by
 * all threads, unless hold() has done it before. Then every (chunk of rows, range of columns) is a task; each entry of a
 * product is a chain of fma that does not depend on the cutting (kernels.h), so the cutting may follow the threads.
 * Fast ones (kernels.h) are cut the same way, with operands split into bfloat16: weights when they are packed, the left one before each product, or
 * once where it feeds several.
 * Attention: per (window, KV head), keys and values are packed once; tiles of TILE queries meet the keys up to the tile's
 * end in two small products with a softmax between. Keys past a query have probability 0, which changes no fma.
 * Blocks: a thread takes a window through the whole block, CHUNK rows at a time (causal attention needs no later row), so
 * that everything between two hidden states stays in its L2.
 */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "model/net/cpu.h"

enum {
    CHUNK = BB_CPU_CHUNK,
    TILE = BB_CPU_TILE,
    SCORE_ROWS = 128, /* rows a logits task */
    SCORE_COLS = 512, /* vocabulary entries at a time: with SCORE_ROWS the logits stay in L2; a multiple of every panel */
    PIECE_FLOATS = BB_CPU_PIECE_FLOATS,
    HOLD_FLOATS = 64 << 20 /* packed weights held: 256 MiB */
};

/* ---- memory: a buffer's memory is the array itself ---- */

static bb_status cpu_alloc(void *context, size_t n, bb_buffer *out, bb_err *err)
{
    (void)context;
    *out = bb_on_cpu(BB_NEW(n, float, err));
    return out->memory ? BB_OK : BB_NOMEM;
}

static bb_status cpu_alloc_states(void *context, size_t n, bb_buffer *out, bb_err *err)
{
    (void)context;
    *out = bb_on_cpu(BB_SPILL(n, float, err));
    return out->memory ? BB_OK : BB_NOMEM;
}

static void cpu_release(void *context, bb_buffer buffer)
{
    (void)context;
    bb_free(bb_cpu_at(buffer));
}

static bb_status cpu_write(void *context, bb_buffer to, const float *host, size_t n, bb_err *err)
{
    (void)context;
    (void)err;
    memcpy(bb_cpu_at(to), host, n * sizeof *host);
    return BB_OK;
}

static bb_status cpu_read(void *context, bb_buffer from, float *host, size_t n, bb_err *err)
{
    (void)context;
    (void)err;
    memcpy(host, bb_cpu_at(from), n * sizeof *host);
    return BB_OK;
}

static bb_status cpu_copy(void *context, bb_buffer from, bb_buffer to, size_t n, bb_err *err)
{
    (void)context;
    (void)err;
    memcpy(bb_cpu_at(to), bb_cpu_at(from), n * sizeof(float));
    return BB_OK;
}

static bb_status cpu_copy_rows(void *context, bb_buffer from, size_t from_step, bb_buffer to, size_t to_step, size_t n, size_t width, bb_err *err)
{
    const float *x = bb_cpu_at(from);
    float       *y = bb_cpu_at(to);
    (void)context;
    (void)err;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(n * width))
    for (size_t i = 0; i < n; i++) memcpy(y + i * to_step, x + i * from_step, width * sizeof *y);
    return BB_OK;
}

static bb_status cpu_peek(void *context, bb_buffer buffer, size_t n, const float **host, bb_err *err)
{
    (void)context;
    (void)n;
    (void)err;
    *host = bb_cpu_at(buffer);
    return BB_OK;
}

static void cpu_unpeek(void *context, const float *host)
{
    (void)context;
    (void)host;
}
static void cpu_forget(void *context) { (void)context; }

/* ---- workspace ---- */

static void cpu_rough(void *self, bool rough)
{
    bb_cpu *c = self;
    c->fast = c->may[rough];
    c->parts = rough ? 1 : 2;
    c->n_held = c->back.n_held = 0;
    c->back.packed = NULL;
}

static bb_status cpu_open(void *context, void **self, bb_err *err)
{
    bb_cpu *c = BB_NEW0(1, bb_cpu, err);
    (void)context;
    if (!c) return BB_NOMEM;
    c->k = bb_kernels_get();
    c->may[false] = bb_kernels_fast();
    c->may[true] = bb_kernels_fast_rough();
    cpu_rough(c, false);
    *self = c;
    return BB_OK;
}

static void cpu_close(void *self)
{
    bb_cpu *c = self;
    if (!c) return;
    bb_free(c->piece.at);
    bb_free(c->piece2.at);
    bb_free(c->store.at);
    bb_free(c->scratch.at);
    bb_free(c->split.at);
    bb_cpu_back_close(c);
    bb_free(c);
}

bb_status bb_pool_grow(bb_pool *p, size_t n, bb_err *err)
{
    if (n <= p->n) return BB_OK;
    bb_free(p->at);
    p->n = 0;
    if (!(p->at = BB_NEW(n, float, err))) return BB_NOMEM;
    p->n = n;
    return BB_OK;
}

bb_status bb_cpu_grow_scratch(bb_cpu *c, size_t floats_a_thread, bb_err *err)
{
    return bb_pool_grow(&c->scratch, floats_a_thread * (size_t)omp_get_max_threads(), err);
}

float *bb_cpu_scratch(const bb_cpu *c, size_t floats_a_thread) { return c->scratch.at + floats_a_thread * (size_t)omp_get_thread_num(); }

/* ---- weights ---- */

void bb_cpu_decode_row(const bb_cpu *c, const bb_matrix *w, size_t row, float *out)
{
    const bb_format *f = bb_format_get(w->type);
    const char      *data = (const char *)w->data + row * bb_format_row_bytes(f, w->cols);
    if (w->type == BB_F16 && (uintptr_t)data % sizeof(uint16_t) == 0) c->k->half_to_float((const uint16_t *)(const void *)data, out, w->cols);
    else f->decode(data, out, w->cols);
}

size_t bb_cpu_rows_a_piece(const bb_cpu *c, const bb_matrix *w, size_t limit)
{
    size_t n = limit / w->cols / c->k->panel * c->k->panel;
    return n < c->k->panel ? c->k->panel : n;
}

static uint16_t *split_at(float *at) { return bb_cpu_split_at(at); }

_Static_assert(BB_SPLIT_PANEL == (int)BB_PANEL_AVX512, "both products go by the same panels");
_Static_assert(BB_CPU_CHUNK % BB_SPLIT_PANEL == 0 && BB_CPU_TILE % BB_SPLIT_ROWS == 0, "chunks are cut between tiles");

bb_status bb_cpu_pack_rows(bb_cpu *c, const bb_matrix *w, size_t first, size_t n, float *out, bb_err *err)
{
    size_t    panel = c->k->panel, slice = panel * w->cols;
    ptrdiff_t panels = (ptrdiff_t)((n + panel - 1) / panel);
    bb_status status = bb_cpu_grow_scratch(c, slice, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(4 * n * w->cols))
    for (ptrdiff_t i = 0; i < panels; i++) {
        size_t at = (size_t)i * panel, rows = n - at < panel ? n - at : panel;
        float *plain = bb_cpu_scratch(c, slice);
        for (size_t r = 0; r < rows; r++) bb_cpu_decode_row(c, w, first + at + r, plain + r * w->cols);
        if (c->fast) c->k->split_panels(c->parts, plain, w->cols, rows, w->cols, split_at(out + at * bb_cpu_room(c, w->cols)));
        else c->k->pack(plain, w->cols, rows, w->cols, out + at * w->cols);
    }
    return BB_OK;
}

static bb_status cpu_hold(void *self, const bb_matrix *const *w, size_t n, bb_err *err)
{
    bb_cpu   *c = self;
    size_t    total = 0;
    bb_status status;
    c->n_held = 0;
    for (size_t i = 0; i < n; i++) total += bb_cpu_packed_floats(c, w[i]->rows, w[i]->cols);
    if (total == 0 || total > HOLD_FLOATS || n > BB_CPU_MAX_HELD) return BB_OK; /* matmul packs as it goes */
    BB_TRY(bb_pool_grow(&c->store, total, err));
    float *out = c->store.at;
    for (size_t i = 0; i < n; i++) {
        BB_TRY(bb_cpu_pack_rows(c, w[i], 0, w[i]->rows, out, err));
        c->held[c->n_held++] = (bb_held) { w[i], out };
        out += bb_cpu_packed_floats(c, w[i]->rows, w[i]->cols);
    }
done:
    return status;
}

static const float *find_held(const bb_cpu *c, const bb_matrix *w)
{
    for (size_t i = 0; i < c->n_held; i++)
        if (c->held[i].w == w) return c->held[i].panels;
    return NULL;
}

/* ---- operations ---- */

/* The array that an operation writes to: inputs that the backward pass has packed may not be there any more. */
static float *written(bb_cpu *c, bb_buffer to)
{
    c->back.packed = NULL;
    return bb_cpu_at(to);
}

static bb_status cpu_gather(void *self, const bb_matrix *table, const int32_t *ids, size_t n, bb_buffer to, bb_err *err)
{
    (void)err;
    float           *y = written(self, to);
    const bb_format *f = bb_format_get(table->type);
    const char      *data = table->data;
    size_t           bytes = bb_format_row_bytes(f, table->cols);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(8 * n * table->cols))
    for (size_t i = 0; i < n; i++) f->decode(data + (size_t)ids[i] * bytes, y + i * table->cols, table->cols);
    return BB_OK;
}

/* A product of n rows and cols columns as tasks: chunks of rows times ranges of whole panels, at least two tasks a thread. */
typedef struct cutting {
    size_t    n, cols, panel, n_panels, ranges;
    ptrdiff_t tasks;
} cutting;
typedef struct piece {
    size_t row, m, from, to; /* rows row .. row + m - 1, columns from .. to - 1 */
} piece;

static cutting cut_product(const bb_cpu *c, size_t n, size_t cols)
{
    size_t panel = c->k->panel, n_panels = (cols + panel - 1) / panel, chunks = (n + CHUNK - 1) / CHUNK;
    size_t wanted = 2 * (size_t)omp_get_max_threads(), ranges = chunks < wanted ? (wanted + chunks - 1) / (chunks ? chunks : 1) : 1;
    if (ranges > n_panels) ranges = n_panels;
    return (cutting) { n, cols, panel, n_panels, ranges, (ptrdiff_t)(chunks * ranges) };
}

static piece piece_of(const cutting *cut, ptrdiff_t i)
{
    size_t row = (size_t)i / cut->ranges * CHUNK, range = (size_t)i % cut->ranges;
    size_t from = range * cut->n_panels / cut->ranges * cut->panel, to = (range + 1) * cut->n_panels / cut->ranges * cut->panel;
    return (piece) { row, cut->n - row < CHUNK ? cut->n - row : CHUNK, from, to < cut->cols ? to : cut->cols };
}

static void multiply(const bb_cpu *c, size_t n, size_t cols, size_t k, const float *x, size_t ldx, const float *panels, const float *bias, bool add, float *y,
                     size_t ldy)
{
    cutting cut = cut_product(c, n, cols);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(n * cols * k))
    for (ptrdiff_t i = 0; i < cut.tasks; i++) {
        piece p = piece_of(&cut, i);
        c->k->product(p.m, p.to - p.from, k, x + p.row * ldx, ldx, panels + p.from * k, bias ? bias + p.from : NULL, add, y + p.row * ldy + p.from, ldy);
    }
}

/* Y (m, n) = [Y +] [bias +] X W': the product of the workspace's precision; split: X split, fast only. */
static void linear(const bb_cpu *c, size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *split, const float *panels, const float *bias,
                   bool add, float *y, size_t ldy)
{
    if (c->fast) bb_cpu_split_product(c->k, c->parts, m, n, k, split, panels, bias, add, y, ldy);
    else c->k->product(m, n, k, x, ldx, panels, bias, add, y, ldy);
}

bb_status bb_cpu_split_rows(bb_cpu *c, size_t n, size_t k, const float *x, size_t ldx, bb_err *err)
{
    ptrdiff_t chunks = (ptrdiff_t)((n + CHUNK - 1) / CHUNK);
    bb_status status = c->fast ? bb_pool_grow(&c->split, bb_split_numbers(c->parts, n, k, BB_SPLIT_ROWS) / 2, err) : BB_OK;
    if (!c->fast || status != BB_OK) return status;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(2 * n * k))
    for (ptrdiff_t i = 0; i < chunks; i++) {
        size_t row = (size_t)i * CHUNK, m = n - row < CHUNK ? n - row : CHUNK;
        c->k->split_rows(c->parts, x + row * ldx, ldx, m, k, split_at(c->split.at + row * bb_cpu_room(c, k)));
    }
    return BB_OK;
}

void bb_cpu_product(const bb_cpu *c, size_t n, size_t cols, size_t k, const float *x, size_t ldx, const float *panels, const float *bias, bool add, float *y,
                    size_t ldy)
{
    if (!c->fast) {
        multiply(c, n, cols, k, x, ldx, panels, bias, add, y, ldy);
        return;
    }
    size_t  room = bb_cpu_room(c, k);
    cutting cut = cut_product(c, n, cols);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(n * cols * k))
    for (ptrdiff_t i = 0; i < cut.tasks; i++) {
        piece p = piece_of(&cut, i);
        bb_cpu_split_product(c->k, c->parts, p.m, p.to - p.from, k, c->split.at + p.row * room, panels + p.from * room, bias ? bias + p.from : NULL, add,
                             y + p.row * ldy + p.from, ldy);
    }
}

bb_status bb_cpu_matmul(void *self, size_t n, bb_buffer from, const bb_matrix *w, bool add, bb_buffer to, bb_err *err)
{
    bb_cpu      *c = self;
    const float *x = bb_cpu_at(from);
    float       *y = written(c, to);
    bb_status    status = BB_OK;
    const float *panels = find_held(c, w);
    size_t       step = bb_cpu_rows_a_piece(c, w, PIECE_FLOATS);
    BB_TRY(bb_cpu_split_rows(c, n, w->cols, x, w->cols, err));
    if (panels) {
        bb_cpu_product(c, n, w->rows, w->cols, x, w->cols, panels, w->bias, add, y, w->rows);
        return BB_OK;
    }
    for (size_t first = 0; first < w->rows; first += step) {
        size_t rows = w->rows - first < step ? w->rows - first : step;
        BB_TRY(bb_pool_grow(&c->piece, bb_cpu_packed_floats(c, rows, w->cols), err));
        BB_TRY(bb_cpu_pack_rows(c, w, first, rows, c->piece.at, err));
        bb_cpu_product(c, n, rows, w->cols, x, w->cols, c->piece.at, w->bias ? w->bias + first : NULL, add, y + first, w->rows);
    }
done:
    return status;
}

void bb_cpu_cap(const bb_kernels *k, float cap, float *z, size_t n)
{
    enum { STRIP = 256 };
    float e[STRIP];
    for (size_t at = 0; cap > 0 && at < n; at += STRIP) { /* tanh x = (1 - exp(-2 |x|)) / (1 + exp(-2 |x|)) with the sign of x */
        const size_t m = n - at < STRIP ? n - at : STRIP;
        for (size_t j = 0; j < m; j++) e[j] = -2 * fabsf(z[at + j]) / cap;
        k->exp(e, e, m);
        for (size_t j = 0; j < m; j++) z[at + j] = copysignf(cap * ((1 - e[j]) / (1 + e[j])), z[at + j]);
    }
}

static bb_status cpu_logits(void *self, size_t n, bb_buffer x, const bb_matrix *head, float cap, float *logits, bb_err *err)
{
    const bb_status status = bb_cpu_matmul(self, n, x, head, false, bb_on_cpu(logits), err);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(16 * n * head->rows))
    for (size_t i = 0; i < n; i++) bb_cpu_cap(((bb_cpu *)self)->k, status == BB_OK ? cap : 0, logits + i * head->rows, head->rows);
    return status;
}

static bb_status cpu_rms_norm(void *self, size_t n, uint32_t width, bb_buffer from, const float *weight, float eps, bb_buffer to, bb_err *err)
{
    (void)err;
    const float      *x = bb_cpu_at(from);
    float            *y = written(self, to);
    const bb_kernels *k = ((bb_cpu *)self)->k;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(8 * n * width))
    for (size_t i = 0; i < n; i++) k->rms_norm(x + i * width, weight, eps, y + i * width, width);
    return BB_OK;
}

/* h (width) += RMSNorm of y, which is lost. */
static void add_norm_row(const bb_kernels *k, const float *weight, float eps, float *y, float *h, uint32_t width)
{
    k->rms_norm(y, weight, eps, y, width);
    for (uint32_t i = 0; i < width; i++) h[i] += y[i];
}

static bb_status cpu_add_norm(void *self, size_t n, uint32_t width, bb_buffer from, const float *weight, float eps, bb_buffer to, bb_err *err)
{
    (void)err;
    float            *x = written(self, from), *y = written(self, to);
    const bb_kernels *k = ((bb_cpu *)self)->k;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(8 * n * width))
    for (size_t i = 0; i < n; i++) add_norm_row(k, weight, eps, x + i * width, y + i * width, width);
    return BB_OK;
}

static bb_status cpu_add(void *self, size_t n, bb_buffer from, bb_buffer to, bb_err *err)
{
    (void)err;
    const float *x = bb_cpu_at(from);
    float       *y = written(self, to);
    for (size_t i = 0; i < n; i++) y[i] += x[i];
    return BB_OK;
}

static bb_status cpu_scale(void *self, size_t n, float factor, bb_buffer buffer, bb_err *err)
{
    (void)err;
    float *x = written(self, buffer);
    for (size_t i = 0; i < n; i++) x[i] *= factor;
    return BB_OK;
}

void bb_cpu_rotate(float *x, const float *cos_sin, uint32_t n_rot, bool neox, bool back)
{
    uint32_t half = n_rot / 2, step = neox ? 1 : 2, other = neox ? half : 1;
    for (uint32_t i = 0; i < half; i++) {
        float *a = x + i * step, *b = a + other, c = cos_sin[2 * i], s = back ? -cos_sin[2 * i + 1] : cos_sin[2 * i + 1], p = *a, q = *b;
        *a = p * c - q * s;
        *b = p * s + q * c;
    }
}

void bb_cpu_scale_head(const bb_heads *heads, float factor, float *x)
{
    for (uint32_t d = 0; bb_scales(factor) && d < heads->dim; d++) x[d] *= factor;
}

/* Norm, rotation and factor of all heads of m rows at positions first, first + 1, ... */
static void turn_heads(const bb_kernels *k, const bb_heads *heads, size_t first, size_t m, float *x)
{
    for (size_t t = 0; t < m; t++) {
        const float factor = bb_heads_factor(heads, first + t);
        if (heads->norm && heads->whole) k->rms_norm(x, heads->norm, heads->norm_eps, x, (size_t)heads->n * heads->dim);
        for (uint32_t j = 0; j < heads->n; j++, x += heads->dim) {
            if (heads->norm && !heads->whole) k->rms_norm(x, heads->norm, heads->norm_eps, x, heads->dim);
            bb_cpu_rotate(x, heads->cos_sin + (first + t) * heads->n_rot, heads->n_rot, heads->neox, false);
            bb_cpu_scale_head(heads, factor, x);
        }
    }
}

static bb_status cpu_rope(void *self, uint32_t S, uint32_t T, const bb_heads *heads, bb_buffer buffer, bb_err *err)
{
    (void)err;
    float            *x = written(self, buffer);
    const bb_kernels *k = ((bb_cpu *)self)->k;
    size_t            n = (size_t)S * T, width = (size_t)heads->n * heads->dim;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(8 * n * width))
    for (size_t i = 0; i < n; i++) turn_heads(k, heads, i % T, 1, x + i * width);
    return BB_OK;
}

/* Keys and values of one KV head of a window, packed; scores of one tile, and, fast, what is split of it: its queries, then its probabilities. */
typedef struct kv_cache {
    float *keys;   /* panels of T keys, depth D */
    float *values; /* panels of D columns, depth T */
    float *scores; /* TILE * depth of T */
    float *split;  /* TILE * depth of the larger of T and D */
} kv_cache;

static size_t kv_floats(const bb_cpu *c, size_t T, size_t D) { return bb_cpu_packed_floats(c, T, D) + bb_cpu_packed_floats(c, D, T); }
static size_t tile_floats(const bb_cpu *c, size_t T, size_t D) { return TILE * bb_cpu_depth(c, T) + (c->fast ? TILE * bb_cpu_room(c, T > D ? T : D) : 0); }

/* tile: tile_floats of them. */
static kv_cache kv_at(const bb_cpu *c, float *memory, size_t T, size_t D, float *tile)
{
    return (kv_cache) { memory, memory + bb_cpu_packed_floats(c, T, D), tile, tile + TILE * bb_cpu_depth(c, T) };
}

/* Rows first .. first + m - 1 of k and v (row stride ld) into the cache; first is a multiple of the panel. */
static void kv_append(const bb_cpu *c, const kv_cache *cache, size_t T, size_t D, size_t first, size_t m, const float *k, const float *v, size_t ld)
{
    size_t panel = c->k->panel, room = bb_cpu_room(c, T);
    float *keys = cache->keys + first * bb_cpu_room(c, D);
    if (c->fast) c->k->split_panels(c->parts, k, ld, m, D, split_at(keys));
    else c->k->pack(k, ld, m, D, keys);
    for (size_t d = 0; d < D; d += panel) {
        size_t columns = D - d < panel ? D - d : panel;
        float *values = cache->values + d * room + bb_cpu_room(c, first) * panel;
        if (c->fast) c->k->split_panels_turned(c->parts, v + d, ld, columns, m, split_at(values));
        else bb_pack_panels_transposed(v + d, ld, columns, m, panel, values);
    }
}

void bb_cpu_softmax(const bb_kernels *k, float *scores, float scale, size_t seen, size_t window)
{
    const size_t from = window && seen > window ? seen - window : 0;
    memset(scores, 0, from * sizeof *scores);
    k->softmax(scores + from, scale, seen - from);
}

/* Queries first .. first + n - 1 of one head, in place (q points at the first of them, row stride ldq); the cache holds their keys. */
static void attend(const bb_cpu *c, const kv_cache *cache, size_t T, size_t D, size_t window, size_t first, size_t n, float *q, size_t ldq)
{
    const bb_kernels *kernels = c->k;
    size_t            panel = kernels->panel;
    float             scale = 1 / sqrtf((float)D);
    for (size_t at = 0; at < n; at += TILE) {
        const size_t begin = bb_cpu_window_begin(first + at, window); /* keys before it: none of the tile sees them */
        size_t       m = n - at < TILE ? n - at : TILE, end = first + at + m - begin, keys = bb_cpu_depth(c, end); /* fast: whole panels of keys */
        float       *tile = q + at * ldq;
        if (c->fast) kernels->split_rows(c->parts, tile, ldq, m, D, split_at(cache->split));
        linear(c, m, keys, D, tile, ldq, cache->split, cache->keys + begin * bb_cpu_room(c, D), NULL, false, cache->scores, keys);
        for (size_t t = 0; t < m; t++) {
            float *row = cache->scores + t * keys;
            size_t seen = first + at + t + 1 - begin;
            bb_cpu_softmax(kernels, row, scale, seen, window);
            memset(row + seen, 0, (keys - seen) * sizeof *row);
        }
        if (c->fast) kernels->split_rows(c->parts, cache->scores, keys, m, end, split_at(cache->split));
        for (size_t d = 0; d < D; d += panel)
            linear(c, m, D - d < panel ? D - d : panel, end, cache->scores, keys, cache->split,
                   cache->values + d * bb_cpu_room(c, T) + bb_cpu_room(c, begin) * panel, NULL, false, tile + d, ldq);
    }
}

static bb_status cpu_attention(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, uint32_t window, bb_buffer q_at, bb_buffer k_at,
                               bb_buffer v_at, bb_err *err)
{
    bb_cpu      *c = self;
    float       *q = written(c, q_at);
    const float *k = bb_cpu_at(k_at), *v = bb_cpu_at(v_at);
    size_t       ldq = (size_t)H * D, ldk = (size_t)G * D, kv = kv_floats(c, T, D), slice = kv + tile_floats(c, T, D);
    ptrdiff_t    tasks = (ptrdiff_t)S * G;
    bb_status    status = bb_cpu_grow_scratch(c, slice, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static) if (bb_cpu_worth((size_t)S * T * T * H * D))
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t   row = (size_t)i / G * T, group = (size_t)i % G, heads = H / G;
        float   *memory = bb_cpu_scratch(c, slice);
        kv_cache cache = kv_at(c, memory, T, D, memory + kv);
        kv_append(c, &cache, T, D, 0, T, k + row * ldk + group * D, v + row * ldk + group * D, ldk);
        for (size_t j = group * heads; j < (group + 1) * heads; j++) attend(c, &cache, T, D, window, 0, T, q + row * ldq + j * D, ldq);
    }
    return BB_OK;
}

void bb_cpu_gate(const bb_kernels *k, bb_gate act, float *gate, const float *up, size_t n)
{
    enum { STRIP = 256 };
    float e[STRIP];
    if (act == BB_GATE_SILU) k->swiglu(gate, up, n);
    for (size_t at = 0; act == BB_GATE_GELU && at < n; at += STRIP) {
        const size_t m = n - at < STRIP ? n - at : STRIP;
        for (size_t j = 0; j < m; j++) e[j] = bb_gelu_power(gate[at + j]);
        k->exp(e, e, m);
        for (size_t j = 0; j < m; j++) gate[at + j] = gate[at + j] / (1 + e[j]) * up[at + j];
    }
}

static bb_status cpu_gated(void *self, bb_gate act, size_t n, bb_buffer gate_at, bb_buffer up_at, bb_err *err)
{
    (void)err;
    enum { STRIP = 4096 };
    float            *gate = written(self, gate_at);
    const float      *up = bb_cpu_at(up_at);
    const bb_kernels *k = ((bb_cpu *)self)->k;
    ptrdiff_t         tasks = (ptrdiff_t)((n + STRIP - 1) / STRIP);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(32 * n))
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t at = (size_t)i * STRIP, m = n - at < STRIP ? n - at : STRIP;
        bb_cpu_gate(k, act, gate + at, up + at, m);
    }
    return BB_OK;
}

/* ---- whole blocks ---- */

/* A block as the window tasks see it; offsets into a task's scratch, in floats. */
typedef struct fused {
    const bb_cpu   *c;
    const bb_block *b;
    const bb_heads *q, *k, *v;
    bb_gate         act;
    const float    *w[BB_N_PARTS]; /* panels */
    size_t          T, C, D;
    size_t          at_q, at_k, at_v;         /* CHUNK rows each; x (CHUNK * C) is at 0 */
    size_t          at_gate, at_up;           /* CHUNK rows each, in the place of q, k, v */
    size_t          at_split;                 /* fast: what feeds the next linears, split: CHUNK rows */
    size_t          at_scores, at_kv, floats; /* tile_floats; one kv_cache a KV head; the whole */
} fused;

static void fused_layout(fused *f)
{
    size_t q = CHUNK * f->b->n_head * f->D, kv = CHUNK * f->b->n_kv * f->D, ff = CHUNK * (size_t)f->b->n_ff;
    f->at_q = f->at_gate = CHUNK * f->C;
    f->at_k = f->at_q + q;
    f->at_v = f->at_k + kv;
    f->at_up = f->at_gate + ff;
    f->at_split = f->at_q + (q + 2 * kv > 2 * ff ? q + 2 * kv : 2 * ff);
    f->at_scores = f->at_split;
    for (int p = 0; f->c->fast && p < BB_N_PARTS; p++)
        if (bb_block_has_part(f->b, (bb_part)p)) {
            size_t end = f->at_split + CHUNK * bb_cpu_room(f->c, f->b->w[p].cols);
            if (end > f->at_scores) f->at_scores = end;
        }
    f->at_kv = f->at_scores + tile_floats(f->c, f->T, f->D);
    f->floats = f->at_kv + f->b->n_kv * kv_floats(f->c, f->T, f->D);
}

/* x (m, width) feeds the next linears. */
static void fused_feed(const fused *f, float *memory, size_t m, size_t width, const float *x)
{
    if (f->c->fast) f->c->k->split_rows(f->c->parts, x, width, m, width, split_at(memory + f->at_split));
}

static void fused_linear(const fused *f, const float *memory, bb_part part, size_t m, const float *x, bool add, float *y)
{
    const bb_matrix *w = &f->b->w[part];
    linear(f->c, m, w->rows, w->cols, x, w->cols, memory + f->at_split, f->w[part], w->bias, add, y, w->rows);
}

static void fused_norm(const fused *f, size_t m, const float *h, const float *weight, float *x)
{
    if (!weight) memcpy(x, h, m * f->C * sizeof *h);
    for (size_t t = 0; weight && t < m; t++) f->c->k->rms_norm(h + t * f->C, weight, f->q->norm_eps, x + t * f->C, f->C);
}

/* What the sublayer gives joins h; the place of its input in memory is free by now. */
static void fused_output(const fused *f, float *memory, bb_sublayer s, size_t m, const float *x, float *h)
{
    const float *weight = f->b->norm[bb_sublayers[s].post];
    fused_linear(f, memory, bb_sublayers[s].writer, m, x, !weight, weight ? memory : h);
    for (size_t t = 0; weight && t < m; t++) add_norm_row(f->c->k, weight, f->q->norm_eps, memory + t * f->C, h + t * f->C, (uint32_t)f->C);
}

/* Rows first .. first + m - 1 of a window; h points at them. */
static void fused_attention(const fused *f, float *memory, size_t first, size_t m, float *h)
{
    size_t D = f->D, G = f->b->n_kv, H = f->b->n_head;
    float *x = memory, *q = memory + f->at_q, *k = memory + f->at_k, *v = memory + f->at_v, *caches = memory + f->at_kv;
    fused_norm(f, m, h, f->b->norm[BB_NORM_ATTENTION], x);
    fused_feed(f, memory, m, f->C, x);
    fused_linear(f, memory, BB_PART_Q, m, x, false, q);
    fused_linear(f, memory, BB_PART_K, m, x, false, k);
    if (bb_block_has_part(f->b, BB_PART_V)) fused_linear(f, memory, BB_PART_V, m, x, false, v);
    else memcpy(v, k, m * G * D * sizeof *v);
    turn_heads(f->c->k, f->q, first, m, q);
    turn_heads(f->c->k, f->k, first, m, k);
    if (f->v->norm) turn_heads(f->c->k, f->v, first, m, v);
    for (size_t g = 0; g < G; g++) {
        kv_cache cache = kv_at(f->c, caches + g * kv_floats(f->c, f->T, D), f->T, D, memory + f->at_scores);
        kv_append(f->c, &cache, f->T, D, first, m, k + g * D, v + g * D, G * D);
        for (size_t j = g * (H / G); j < (g + 1) * (H / G); j++) attend(f->c, &cache, f->T, D, f->b->window, first, m, q + j * D, H * D);
    }
    fused_feed(f, memory, m, H * D, q);
    fused_output(f, memory, BB_ATTENTION, m, q, h);
}

static void fused_ffn(const fused *f, float *memory, size_t m, float *h)
{
    float *x = memory, *gate = memory + f->at_gate, *up = memory + f->at_up;
    fused_norm(f, m, h, f->b->norm[BB_NORM_FFN], x);
    fused_feed(f, memory, m, f->C, x);
    fused_linear(f, memory, BB_PART_GATE, m, x, false, gate);
    fused_linear(f, memory, BB_PART_UP, m, x, false, up);
    bb_cpu_gate(f->c->k, f->act, gate, up, m * f->b->n_ff);
    fused_feed(f, memory, m, f->b->n_ff, gate);
    fused_output(f, memory, BB_FFN, m, gate, h);
}

static void fused_window(const fused *f, float *memory, float *h)
{
    for (size_t first = 0; first < f->T; first += CHUNK, h += CHUNK * f->C) {
        size_t m = f->T - first < CHUNK ? f->T - first : CHUNK;
        if (f->b->n_head) fused_attention(f, memory, first, m, h);
        if (f->b->n_ff) fused_ffn(f, memory, m, h);
        for (size_t i = 0; bb_scales(f->b->scale) && i < m * f->C; i++) h[i] *= f->b->scale;
    }
}

static bb_status cpu_block(void *self, uint32_t S, uint32_t T, uint32_t C, bb_gate act, const bb_block *block, const bb_heads heads[3], bb_buffer to,
                           uint32_t *n_done, bb_err *err)
{
    bb_cpu  *c = self;
    float   *h = written(c, to);
    fused    f = { .c = c, .b = block, .q = &heads[0], .k = &heads[1], .v = &heads[2], .act = act, .T = T, .C = C, .D = heads[0].dim };
    uint32_t windows = S - S % (uint32_t)omp_get_max_threads(); /* so that no thread idles; the rest is cut finer by the caller */
    *n_done = 0;
    for (int p = 0; p < BB_N_PARTS; p++)
        if (bb_block_has_part(block, (bb_part)p) && !(f.w[p] = find_held(c, &block->w[p]))) return BB_OK;
    fused_layout(&f);
    if (f.floats > PIECE_FLOATS) return BB_OK;
    bb_status status = bb_cpu_grow_scratch(c, f.floats, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(dynamic) if (bb_cpu_worth((size_t)S * T * C * (C + block->n_ff)))
    for (uint32_t s = 0; s < windows; s++) fused_window(&f, bb_cpu_scratch(c, f.floats), h + (size_t)s * T * C);
    *n_done = windows;
    return BB_OK;
}

/* ---- scores ---- */

/* State of one row while the vocabulary passes by in pieces. */
typedef struct row_score {
    bb_klsum sums;
    float    z_target;
} row_score;

/* What all chunks of one vocabulary piece (entries first .. first + n - 1) share; w_ref NULL: no reference. */
typedef struct score_piece {
    size_t         first, n, cols;
    const float   *w, *w_ref;
    const int32_t *targets;
    float          cap, cap_ref;
} score_piece;

/* Of one task: logits of both, and, fast, the rows of both split. */
static size_t score_floats(const bb_cpu *c, size_t cols) { return 2 * (size_t)SCORE_ROWS * SCORE_COLS + (c->fast ? 2 * SCORE_ROWS * bb_cpu_room(c, cols) : 0); }

static void score_chunk(const bb_cpu *c, const score_piece *p, size_t row, size_t m, const float *x, const float *x_ref, float *memory, row_score *rows)
{
    size_t       room = bb_cpu_room(c, p->cols);
    float       *z = memory, *z_ref = z + SCORE_ROWS * SCORE_COLS, *split = z_ref + SCORE_ROWS * SCORE_COLS, *split_ref = split + SCORE_ROWS * room;
    const float *in = x + row * p->cols, *in_ref = p->w_ref ? x_ref + row * p->cols : NULL;
    if (c->fast) c->k->split_rows(c->parts, in, p->cols, m, p->cols, split_at(split));
    if (c->fast && in_ref) c->k->split_rows(c->parts, in_ref, p->cols, m, p->cols, split_at(split_ref));
    for (size_t at = 0; at < p->n; at += SCORE_COLS) {
        size_t n = p->n - at < SCORE_COLS ? p->n - at : SCORE_COLS, from = p->first + at;
        linear(c, m, n, p->cols, in, p->cols, split, p->w + at * room, NULL, false, z, n);
        if (in_ref) linear(c, m, n, p->cols, in_ref, p->cols, split_ref, p->w_ref + at * room, NULL, false, z_ref, n);
        bb_cpu_cap(c->k, p->cap, z, m * n);
        if (in_ref) bb_cpu_cap(c->k, p->cap_ref, z_ref, m * n);
        for (size_t i = 0; i < m; i++) {
            row_score *r = &rows[row + i];
            if (p->w_ref) bb_klsum_add(c->k, &r->sums, z_ref + i * n, z + i * n, n);
            else bb_logsum_add(c->k, &r->sums.net, z + i * n, n);
            if (!p->targets) continue;
            size_t target = (size_t)p->targets[row + i];
            if (target >= from && target < from + n) r->z_target = z[i * n + target - from];
        }
    }
}

static bb_status score_all(bb_cpu *c, size_t n, const score_piece *p, const float *x, const float *x_ref, row_score *rows, bb_err *err)
{
    size_t    slice = score_floats(c, p->cols);
    ptrdiff_t chunks = (ptrdiff_t)((n + SCORE_ROWS - 1) / SCORE_ROWS);
    bb_status status = bb_cpu_grow_scratch(c, slice, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(n * p->n * p->cols))
    for (ptrdiff_t i = 0; i < chunks; i++) {
        size_t row = (size_t)i * SCORE_ROWS, m = n - row < SCORE_ROWS ? n - row : SCORE_ROWS;
        score_chunk(c, p, row, m, x, x_ref, bb_cpu_scratch(c, slice), rows);
    }
    return BB_OK;
}

static bb_status cpu_score(void *self, size_t n, const bb_head_rows *of, double *kl, double *nll, unsigned char *same, bb_err *err)
{
    bb_cpu          *c = self;
    const bb_matrix *head = of->head, *head_ref = of->head_ref;
    const float     *x = bb_cpu_at(of->x), *x_ref = head_ref ? bb_cpu_at(of->x_ref) : NULL;
    size_t           step = bb_cpu_rows_a_piece(c, head, PIECE_FLOATS / 2);
    bool             one_head = x_ref && head_ref->data == head->data && head_ref->type == head->type;
    row_score       *rows = BB_NEW0(n, row_score, err);
    bb_status        status = rows ? BB_OK : BB_NOMEM;
    if (step > SCORE_COLS) step = step / SCORE_COLS * SCORE_COLS;
    for (size_t first = 0; first < head->rows && status == BB_OK; first += step) {
        score_piece p = { first, head->rows - first < step ? head->rows - first : step, head->cols, NULL, NULL, of->targets, of->cap, of->cap_ref };
        size_t      packed = bb_cpu_packed_floats(c, p.n, p.cols);
        BB_TRY(bb_pool_grow(&c->piece, packed, err));
        BB_TRY(bb_cpu_pack_rows(c, head, first, p.n, c->piece.at, err));
        p.w = c->piece.at;
        if (x_ref && !one_head) {
            BB_TRY(bb_pool_grow(&c->piece2, packed, err));
            BB_TRY(bb_cpu_pack_rows(c, head_ref, first, p.n, c->piece2.at, err));
        }
        if (x_ref) p.w_ref = one_head ? c->piece.at : c->piece2.at;
        BB_TRY(score_all(c, n, &p, x, x_ref, rows, err));
    }
    for (size_t i = 0; i < n && status == BB_OK; i++) {
        if (nll) nll[i] = bb_logsum_value(&rows[i].sums.net) - (double)rows[i].z_target;
        if (kl) kl[i] = bb_klsum_value(&rows[i].sums);
        if (same) same[i] = rows[i].sums.ref.arg_max == rows[i].sums.net.arg_max;
    }
done:
    bb_free(rows);
    return status;
}

static const bb_operations operations = {
    "cpu",
    true,
    cpu_alloc,
    cpu_alloc_states,
    cpu_release,
    cpu_write,
    cpu_read,
    cpu_copy,
    cpu_copy_rows,
    cpu_peek,
    cpu_unpeek,
    cpu_forget,
    cpu_open,
    cpu_close,
    cpu_rough,
    cpu_hold,
    cpu_gather,
    bb_cpu_matmul,
    cpu_rms_norm,
    cpu_add_norm,
    cpu_add,
    cpu_scale,
    cpu_rope,
    cpu_attention,
    cpu_gated,
    cpu_logits,
    cpu_score,
    cpu_block,
    bb_cpu_back_hold,
    bb_cpu_back_matmul,
    bb_cpu_back_weights,
    bb_cpu_back_sums,
    bb_cpu_back_norm,
    bb_cpu_back_rope,
    bb_cpu_back_attention,
    bb_cpu_back_gated,
    bb_cpu_back_loss,
};

const bb_backend bb_backend_cpu = { &operations, NULL };
