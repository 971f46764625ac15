/* SPDX-License-Identifier: GPL-3.0-or-later
 * backend_cpu.c: the operations on the host: kernels.h inside, OpenMP over independent pieces outside.
 *
 * Products: weights are decoded to float32 and packed into panels, in pieces of at most PIECE_FLOATS, a piece at a time by
 * all threads, unless hold() has done it before. Then every (chunk of rows, range of columns) is a task; each entry of a
 * product is a chain of fma that does not depend on the cutting (kernels.h), so the cutting may follow the threads.
 * Attention: per (window, KV head), keys and values are packed once; tiles of TILE queries meet the keys up to the tile's
 * end in two small products with a softmax between. Keys past a query have probability 0, which changes no fma.
 */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/net/backend.h"

enum {
    CHUNK = 128,               /* rows a product task */
    TILE = 64,                 /* queries an attention tile */
    SCORE_ROWS = 64,           /* rows a logits task */
    SCORE_COLS = 1024,         /* vocabulary entries at a time: with SCORE_ROWS the logits stay in L2; a multiple of every panel */
    PIECE_FLOATS = 16 << 20,   /* packed weights a piece: 64 MiB */
    HOLD_FLOATS = 64 << 20,    /* packed weights held: 256 MiB */
    MAX_HELD = 16
};

typedef struct held { const bb_matrix *w; const float *panels; } held;

typedef struct cpu {
    const bb_kernels *k;
    float            *piece;   size_t piece_n;    /* packed weights of one matmul */
    float            *piece2;  size_t piece2_n;   /* those of the reference head in score */
    float            *store;   size_t store_n;    /* packed weights of hold */
    float            *scratch; size_t scratch_n;  /* one slice a thread */
    held              held[MAX_HELD];
    size_t            n_held;
} cpu;

static bb_status cpu_create(void **self, bb_err *err)
{
    cpu *c = BB_NEW0(1, cpu, err);
    if (!c) return BB_NOMEM;
    c->k = bb_kernels_get();
    *self = c;
    return BB_OK;
}

static void cpu_destroy(void *self)
{
    cpu *c = self;
    if (!c) return;
    bb_free(c->piece);
    bb_free(c->piece2);
    bb_free(c->store);
    bb_free(c->scratch);
    bb_free(c);
}

static bb_status cpu_alloc(void *self, size_t n, float **buffer, bb_err *err)
{
    (void)self;
    *buffer = BB_NEW(n, float, err);
    return *buffer ? BB_OK : BB_NOMEM;
}

static void cpu_release(void *self, float *buffer)
{
    (void)self;
    bb_free(buffer);
}

static bb_status cpu_enter(void *self, const float *host, size_t n, float **buffer, bb_err *err)
{
    (void)self; (void)n; (void)err;
    *buffer = (float *)(uintptr_t)host; /* the operations write only where forward.c's caller gave a writable array */
    return BB_OK;
}

static bb_status cpu_leave(void *self, float *buffer, float *host, size_t n, bb_err *err)
{
    (void)self; (void)buffer; (void)host; (void)n; (void)err;
    return BB_OK;
}

static bb_status cpu_peek(void *self, const float *buffer, size_t n, const float **host, bb_err *err)
{
    (void)self; (void)n; (void)err;
    *host = buffer;
    return BB_OK;
}

/* Contents are not kept. */
static bb_status grow(float **p, size_t *have, size_t n, bb_err *err)
{
    if (n <= *have) return BB_OK;
    bb_free(*p);
    *have = 0;
    if (!(*p = BB_NEW(n, float, err))) return BB_NOMEM;
    *have = n;
    return BB_OK;
}

static bb_status grow_scratch(cpu *c, size_t floats_a_thread, bb_err *err)
{
    return grow(&c->scratch, &c->scratch_n, floats_a_thread * (size_t)omp_get_max_threads(), err);
}

static float *scratch_of_thread(const cpu *c, size_t floats_a_thread) { return c->scratch + floats_a_thread * (size_t)omp_get_thread_num(); }

/* ---- weights ---- */

static void decode_row(const cpu *c, const bb_matrix *w, const bb_format *f, size_t row, float *out)
{
    const char *data = (const char *)w->data + row * bb_format_row_bytes(f, w->cols);
    if (w->type == BB_F16 && (uintptr_t)data % sizeof(uint16_t) == 0) c->k->half_to_float((const uint16_t *)(const void *)data, out, w->cols);
    else f->decode(data, out, w->cols);
}

/* out := the panels of rows first .. first + n - 1, first a multiple of the panel. */
static bb_status pack_rows(cpu *c, const bb_matrix *w, size_t first, size_t n, float *out, bb_err *err)
{
    const bb_format *f = bb_format_get(w->type);
    size_t           panel = c->k->panel, slice = panel * w->cols;
    ptrdiff_t        panels = (ptrdiff_t)((n + panel - 1) / panel);
    bb_status        status = grow_scratch(c, slice, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static)
    for (ptrdiff_t i = 0; i < panels; i++) {
        size_t at = (size_t)i * panel, rows = n - at < panel ? n - at : panel;
        float *plain = scratch_of_thread(c, slice);
        for (size_t r = 0; r < rows; r++) decode_row(c, w, f, first + at + r, plain + r * w->cols);
        bb_pack_panels(plain, w->cols, rows, w->cols, panel, out + (size_t)i * slice);
    }
    return BB_OK;
}

static bb_status cpu_hold(void *self, const bb_matrix *const *w, size_t n, bb_err *err)
{
    cpu      *c = self;
    size_t    total = 0;
    bb_status status;
    c->n_held = 0;
    for (size_t i = 0; i < n; i++) total += bb_packed_floats(w[i]->rows, w[i]->cols, c->k->panel);
    if (total == 0 || total > HOLD_FLOATS || n > MAX_HELD) return BB_OK; /* matmul packs as it goes */
    BB_TRY(grow(&c->store, &c->store_n, total, err));
    float *out = c->store;
    for (size_t i = 0; i < n; i++) {
        BB_TRY(pack_rows(c, w[i], 0, w[i]->rows, out, err));
        c->held[c->n_held++] = (held){ w[i], out };
        out += bb_packed_floats(w[i]->rows, w[i]->cols, c->k->panel);
    }
done:
    return status;
}

static const float *find_held(const cpu *c, const bb_matrix *w)
{
    for (size_t i = 0; i < c->n_held; i++)
        if (c->held[i].w == w) return c->held[i].panels;
    return NULL;
}

/* Rows a piece: whole panels, at most `limit` floats (but at least one panel). */
static size_t rows_a_piece(const cpu *c, const bb_matrix *w, size_t limit)
{
    size_t n = limit / w->cols / c->k->panel * c->k->panel;
    return n < c->k->panel ? c->k->panel : n;
}

/* ---- operations ---- */

static bb_status cpu_gather(void *self, const bb_matrix *table, const int32_t *ids, size_t n, float *y, bb_err *err)
{
    (void)self; (void)err;
    const bb_format *f = bb_format_get(table->type);
    const char      *data = table->data;
    size_t           bytes = bb_format_row_bytes(f, table->cols);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) f->decode(data + (size_t)ids[i] * bytes, y + i * table->cols, table->cols);
    return BB_OK;
}

/* All rows of y, its columns 0 .. cols-1, from the panels of a (cols, k) matrix. */
static void multiply(const cpu *c, size_t n, size_t cols, size_t k, const float *x, const float *panels, const float *bias, bool add, float *y,
                     size_t ldy)
{
    size_t panel = c->k->panel, n_panels = (cols + panel - 1) / panel, chunks = (n + CHUNK - 1) / CHUNK;
    size_t wanted = 2 * (size_t)omp_get_max_threads(), ranges = chunks < wanted ? (wanted + chunks - 1) / chunks : 1;
    if (ranges > n_panels) ranges = n_panels;
    ptrdiff_t tasks = (ptrdiff_t)(chunks * ranges);
#pragma omp parallel for schedule(static)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t row = (size_t)i / ranges * CHUNK, m = n - row < CHUNK ? n - row : CHUNK, range = (size_t)i % ranges;
        size_t from = range * n_panels / ranges * panel, to = (range + 1) * n_panels / ranges * panel;
        if (to > cols) to = cols;
        c->k->product(m, to - from, k, x + row * k, k, panels + from * k, bias ? bias + from : NULL, add, y + row * ldy + from, ldy);
    }
}

static bb_status cpu_matmul(void *self, size_t n, const float *x, const bb_matrix *w, bool add, float *y, bb_err *err)
{
    cpu         *c = self;
    bb_status    status = BB_OK;
    const float *panels = find_held(c, w);
    size_t       step = rows_a_piece(c, w, PIECE_FLOATS);
    if (panels) {
        multiply(c, n, w->rows, w->cols, x, panels, w->bias, add, y, w->rows);
        return BB_OK;
    }
    for (size_t first = 0; first < w->rows; first += step) {
        size_t rows = w->rows - first < step ? w->rows - first : step;
        BB_TRY(grow(&c->piece, &c->piece_n, bb_packed_floats(rows, w->cols, c->k->panel), err));
        BB_TRY(pack_rows(c, w, first, rows, c->piece, err));
        multiply(c, n, rows, w->cols, x, c->piece, w->bias ? w->bias + first : NULL, add, y + first, w->rows);
    }
done:
    return status;
}

static bb_status cpu_rms_norm(void *self, size_t n, uint32_t width, const float *x, const float *weight, float eps, float *y, bb_err *err)
{
    (void)err;
    const bb_kernels *k = ((cpu *)self)->k;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) k->rms_norm(x + i * width, weight, eps, y + i * width, width);
    return BB_OK;
}

/* One head of one token: pairs (2i, 2i+1), or (i, i + n_rot/2) for neox. */
static void rotate(float *x, const float *cos_sin, uint32_t n_rot, bool neox)
{
    uint32_t half = n_rot / 2, step = neox ? 1 : 2, other = neox ? half : 1;
    for (uint32_t i = 0; i < half; i++) {
        float *a = x + i * step, *b = a + other, c = cos_sin[2 * i], s = cos_sin[2 * i + 1], p = *a, q = *b;
        *a = p * c - q * s;
        *b = p * s + q * c;
    }
}

static bb_status cpu_rope(void *self, uint32_t S, uint32_t T, const bb_heads *heads, float *x, bb_err *err)
{
    (void)err;
    const bb_kernels *k = ((cpu *)self)->k;
    size_t            n = (size_t)S * T, width = (size_t)heads->n * heads->dim;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < heads->n; j++) {
            float *head = x + i * width + (size_t)j * heads->dim;
            if (heads->norm) k->rms_norm(head, heads->norm, heads->norm_eps, head, heads->dim);
            rotate(head, heads->cos_sin + i % T * heads->n_rot, heads->n_rot, heads->neox);
        }
    return BB_OK;
}

/* Scratch of one attention task: packed keys, packed values, scores of one tile. */
static size_t attention_floats(const cpu *c, size_t T, size_t D)
{
    return bb_packed_floats(T, D, c->k->panel) + bb_packed_floats(D, T, c->k->panel) + (size_t)TILE * T;
}

/* One query head of one window, in place on q (T rows of stride ldq). */
static void attend(const bb_kernels *kernels, size_t T, size_t D, float *q, size_t ldq, const float *keys, const float *values, float *scores)
{
    float scale = 1 / sqrtf((float)D);
    for (size_t first = 0; first < T; first += TILE) {
        size_t m = T - first < TILE ? T - first : TILE, end = first + m;
        float *tile = q + first * ldq;
        kernels->product(m, end, D, tile, ldq, keys, NULL, false, scores, end);
        for (size_t t = 0; t < m; t++) {
            float *row = scores + t * end;
            size_t seen = first + t + 1;
            kernels->softmax(row, scale, seen);
            memset(row + seen, 0, (end - seen) * sizeof *row);
        }
        for (size_t d = 0; d < D; d += kernels->panel) /* a panel of values holds T keys, of which `end` are used */
            kernels->product(m, D - d < kernels->panel ? D - d : kernels->panel, end, scores, end, values + d * T, NULL, false, tile + d, ldq);
    }
}

static bb_status cpu_attention(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, float *q, const float *k, const float *v,
                               bb_err *err)
{
    cpu      *c = self;
    size_t    ldq = (size_t)H * D, ldk = (size_t)G * D, slice = attention_floats(c, T, D), panel = c->k->panel;
    ptrdiff_t tasks = (ptrdiff_t)S * G;
    bb_status status = grow_scratch(c, slice, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t row = (size_t)i / G * T, group = (size_t)i % G, heads = H / G;
        float *keys = scratch_of_thread(c, slice), *values = keys + bb_packed_floats(T, D, panel), *scores = values + bb_packed_floats(D, T, panel);
        bb_pack_panels(k + row * ldk + group * D, ldk, T, D, panel, keys);
        bb_pack_panels_transposed(v + row * ldk + group * D, ldk, D, T, panel, values);
        for (size_t j = group * heads; j < (group + 1) * heads; j++) attend(c->k, T, D, q + row * ldq + j * D, ldq, keys, values, scores);
    }
    return BB_OK;
}

static bb_status cpu_swiglu(void *self, size_t n, float *gate, const float *up, bb_err *err)
{
    (void)err;
    enum { STRIP = 4096 };
    const bb_kernels *k = ((cpu *)self)->k;
    ptrdiff_t         tasks = (ptrdiff_t)((n + STRIP - 1) / STRIP);
#pragma omp parallel for schedule(static)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t at = (size_t)i * STRIP, m = n - at < STRIP ? n - at : STRIP;
        k->swiglu(gate + at, up + at, m);
    }
    return BB_OK;
}

/* ---- scores ---- */

/* State of one row while the vocabulary passes by in pieces. */
typedef struct row_score { bb_klsum sums; float z_target; } row_score;

/* What all chunks of one vocabulary piece (entries first .. first + n - 1) share; w_ref NULL: no reference. */
typedef struct score_piece {
    size_t         first, n, cols;
    const float   *w, *w_ref;
    const int32_t *targets;
} score_piece;

static void score_chunk(const cpu *c, const score_piece *p, size_t row, size_t m, const float *x, const float *x_ref, float *z, row_score *rows)
{
    float *z_ref = z + SCORE_ROWS * SCORE_COLS;
    for (size_t at = 0; at < p->n; at += SCORE_COLS) {
        size_t n = p->n - at < SCORE_COLS ? p->n - at : SCORE_COLS, from = p->first + at;
        c->k->product(m, n, p->cols, x + row * p->cols, p->cols, p->w + at * p->cols, NULL, false, z, n);
        if (p->w_ref) c->k->product(m, n, p->cols, x_ref + row * p->cols, p->cols, p->w_ref + at * p->cols, NULL, false, z_ref, n);
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

static bb_status score_all(cpu *c, size_t n, const score_piece *p, const float *x, const float *x_ref, row_score *rows, bb_err *err)
{
    size_t    slice = 2 * (size_t)SCORE_ROWS * SCORE_COLS;
    ptrdiff_t chunks = (ptrdiff_t)((n + SCORE_ROWS - 1) / SCORE_ROWS);
    bb_status status = grow_scratch(c, slice, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static)
    for (ptrdiff_t i = 0; i < chunks; i++) {
        size_t row = (size_t)i * SCORE_ROWS, m = n - row < SCORE_ROWS ? n - row : SCORE_ROWS;
        score_chunk(c, p, row, m, x, x_ref, scratch_of_thread(c, slice), rows);
    }
    return BB_OK;
}

static bb_status cpu_score(void *self, size_t n, const float *x_ref, const bb_matrix *head_ref, const float *x, const bb_matrix *head,
                           const int32_t *targets, double *kl, double *nll, unsigned char *same, bb_err *err)
{
    cpu         *c = self;
    size_t       step = rows_a_piece(c, head, PIECE_FLOATS / 2);
    bool         one_head = x_ref && head_ref->data == head->data && head_ref->type == head->type;
    row_score   *rows = BB_NEW0(n, row_score, err);
    bb_status    status = rows ? BB_OK : BB_NOMEM;
    if (step > SCORE_COLS) step = step / SCORE_COLS * SCORE_COLS;
    for (size_t first = 0; first < head->rows && status == BB_OK; first += step) {
        score_piece p = { first, head->rows - first < step ? head->rows - first : step, head->cols, NULL, NULL, targets };
        size_t      packed = bb_packed_floats(p.n, p.cols, c->k->panel);
        BB_TRY(grow(&c->piece, &c->piece_n, packed, err));
        BB_TRY(pack_rows(c, head, first, p.n, c->piece, err));
        p.w = c->piece;
        if (x_ref && !one_head) {
            BB_TRY(grow(&c->piece2, &c->piece2_n, packed, err));
            BB_TRY(pack_rows(c, head_ref, first, p.n, c->piece2, err));
        }
        if (x_ref) p.w_ref = one_head ? c->piece : c->piece2;
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

const bb_backend bb_backend_cpu = { "cpu",        cpu_create, cpu_destroy,  cpu_alloc, cpu_release,   cpu_enter,  cpu_leave, cpu_peek,
                                    cpu_hold,     cpu_gather, cpu_matmul,   cpu_rms_norm, cpu_rope,   cpu_attention, cpu_swiglu, cpu_score };
