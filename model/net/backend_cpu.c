/* SPDX-License-Identifier: GPL-3.0-or-later
 * backend_cpu.c: the operations on the host: OpenMP over pieces of fixed size, kernels.h inside, SGEMM for products.
 *
 * Products: weights are decoded to float32 in pieces of at most PIECE_FLOATS (whole rows), a piece at a time by all
 * threads, unless hold() has decoded them before. Tokens go in chunks that never cross a window, so a chunk's shape, and
 * with it the order of SGEMM's sums, follows from T alone.
 * Attention: per (window, head), tiles of TILE queries against the keys up to the tile's end: two small products and a softmax.
 */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "model/net/backend.h"

enum {
    CHUNK = 256,               /* tokens a product; T > CHUNK is cut into such chunks */
    TILE = 64,                 /* queries an attention tile */
    SCORE_ROWS = 64,           /* tokens a logits product */
    SCORE_COLS = 2048,         /* vocabulary entries a logits product */
    PIECE_FLOATS = 16 << 20,   /* decoded weights a piece: 64 MiB */
    HOLD_FLOATS = 64 << 20,    /* decoded weights held: 256 MiB */
    MAX_HELD = 16,
    DECODE_ROWS = 16           /* rows a decode task */
};

typedef struct held { const void *data; bb_type type; const float *values; } held;

typedef struct cpu {
    const bb_kernels *k;
    float            *piece;   size_t piece_n;    /* decoded weights of one matmul */
    float            *store;   size_t store_n;    /* decoded weights of hold */
    float            *scratch; size_t scratch_n;  /* one slice a thread */
    held              held[MAX_HELD];
    size_t            n_held;
} cpu;

static bb_status cpu_create(void **self, bb_err *err)
{
    cpu *c = BB_NEW0(1, cpu, err);
    if (!c) return BB_NOMEM;
    bb_blas_init();
    c->k = bb_kernels_get();
    *self = c;
    return BB_OK;
}

static void cpu_destroy(void *self)
{
    cpu *c = self;
    if (!c) return;
    bb_free(c->piece);
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

/* F32 rows need no decoding where the file has them aligned. */
static bool is_plain(const bb_matrix *w) { return w->type == BB_F32 && (uintptr_t)w->data % sizeof(float) == 0; }

static void decode_rows(const bb_matrix *w, size_t first, size_t n, float *out)
{
    const bb_format *f = bb_format_get(w->type);
    const char      *data = w->data;
    size_t           bytes = bb_format_row_bytes(f, w->cols);
    ptrdiff_t        tasks = (ptrdiff_t)((n + DECODE_ROWS - 1) / DECODE_ROWS);
#pragma omp parallel for schedule(static) if (n * w->cols > 1 << 14)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t from = (size_t)i * DECODE_ROWS, to = from + DECODE_ROWS < n ? from + DECODE_ROWS : n;
        for (size_t r = from; r < to; r++) f->decode(data + (first + r) * bytes, out + r * w->cols, w->cols);
    }
}

static bb_status cpu_hold(void *self, const bb_matrix *const *w, size_t n, bb_err *err)
{
    cpu      *c = self;
    size_t    total = 0;
    bb_status status;
    c->n_held = 0;
    for (size_t i = 0; i < n; i++) total += is_plain(w[i]) ? 0 : (size_t)w[i]->rows * w[i]->cols;
    if (total == 0 || total > HOLD_FLOATS || n > MAX_HELD) return BB_OK; /* matmul decodes as it goes */
    if ((status = grow(&c->store, &c->store_n, total, err)) != BB_OK) return status;
    float *out = c->store;
    for (size_t i = 0; i < n; i++) {
        if (is_plain(w[i])) continue;
        decode_rows(w[i], 0, w[i]->rows, out);
        c->held[c->n_held++] = (held){ w[i]->data, w[i]->type, out };
        out += (size_t)w[i]->rows * w[i]->cols;
    }
    return BB_OK;
}

/* The whole matrix in float32 if that costs nothing now, else NULL. */
static const float *find_decoded(const cpu *c, const bb_matrix *w)
{
    if (is_plain(w)) return w->data;
    for (size_t i = 0; i < c->n_held; i++)
        if (c->held[i].data == w->data && c->held[i].type == w->type) return c->held[i].values;
    return NULL;
}

static size_t rows_a_piece(const bb_matrix *w)
{
    size_t n = PIECE_FLOATS / w->cols;
    return n < 1 ? 1 : n < w->rows ? n : w->rows;
}

/* Rows first .. first + n - 1 in float32, decoded into c->piece if need be. */
static bb_status piece_of(cpu *c, const bb_matrix *w, size_t first, size_t n, const float **out, bb_err *err)
{
    const float *whole = find_decoded(c, w);
    bb_status    status = BB_OK;
    if (whole) *out = whole + first * w->cols;
    else if ((status = grow(&c->piece, &c->piece_n, n * w->cols, err)) == BB_OK) {
        decode_rows(w, first, n, c->piece);
        *out = c->piece;
    }
    return status;
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

/* y's columns first .. first+n-1 for all tokens, from weight rows `w` (n, cols). */
static void matmul_piece(uint32_t S, uint32_t T, const float *x, size_t cols, const float *w, const float *bias, bool add, float *y, size_t ldy,
                         size_t n)
{
    size_t    chunks = (T + CHUNK - 1) / CHUNK;
    ptrdiff_t tasks = (ptrdiff_t)(S * chunks);
#pragma omp parallel for schedule(static)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t at = (size_t)i % chunks * CHUNK, m = T - at < CHUNK ? T - at : CHUNK, row = (size_t)i / chunks * T + at;
        float *out = y + row * ldy;
        for (size_t t = 0; bias && t < m; t++)
            for (size_t j = 0; j < n; j++) out[t * ldy + j] = add ? out[t * ldy + j] + bias[j] : bias[j];
        bb_sgemm_nt(m, n, cols, 1, x + row * cols, cols, w, cols, add || bias ? 1 : 0, out, ldy);
    }
}

static bb_status cpu_matmul(void *self, uint32_t S, uint32_t T, const float *x, const bb_matrix *w, bool add, float *y, bb_err *err)
{
    cpu      *c = self;
    bb_status status = BB_OK;
    size_t    step = find_decoded(c, w) ? w->rows : rows_a_piece(w);
    for (size_t first = 0; first < w->rows && status == BB_OK; first += step) {
        size_t       n = w->rows - first < step ? w->rows - first : step;
        const float *piece;
        if ((status = piece_of(c, w, first, n, &piece, err)) == BB_OK)
            matmul_piece(S, T, x, w->cols, piece, w->bias ? w->bias + first : NULL, add, y + first, w->rows, n);
    }
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

/* One head of one window: q (T rows of stride ldq), k and v (stride ldk); scores has TILE * T floats. */
static void attend(const bb_kernels *kernels, uint32_t T, uint32_t D, float *q, size_t ldq, const float *k, const float *v, size_t ldk,
                   float *scores)
{
    float scale = 1 / sqrtf((float)D);
    for (size_t first = 0; first < T; first += TILE) {
        size_t m = T - first < TILE ? T - first : TILE, keys = first + m;
        bb_sgemm_nt(m, keys, D, 1, q + first * ldq, ldq, k, ldk, 0, scores, keys);
        for (size_t t = 0; t < m; t++) {
            float *row = scores + t * keys;
            size_t seen = first + t + 1;
            kernels->softmax(row, scale, seen);
            memset(row + seen, 0, (keys - seen) * sizeof *row);
        }
        bb_sgemm_nn(m, D, keys, 1, scores, keys, v, ldk, 0, q + first * ldq, ldq);
    }
}

static bb_status cpu_attention(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, float *q, const float *k, const float *v,
                               bb_err *err)
{
    cpu      *c = self;
    size_t    ldq = (size_t)H * D, ldk = (size_t)G * D, slice = (size_t)TILE * T;
    ptrdiff_t tasks = (ptrdiff_t)S * H;
    bb_status status = grow_scratch(c, slice, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static)
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t window = (size_t)i / H, head = (size_t)i % H, group = head / (H / G), row = window * T;
        attend(c->k, T, D, q + row * ldq + head * D, ldq, k + row * ldk + group * D, v + row * ldk + group * D, ldk, scratch_of_thread(c, slice));
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

/* One chunk of at most SCORE_ROWS rows against one decoded vocabulary piece (entries first .. first + n - 1).
 * Chunks are padded to SCORE_ROWS with zero rows, so that SGEMM's shape is always the same. */
static void score_chunk(const cpu *c, size_t m, size_t cols, const float *x_ref, const float *w_ref, const float *x, const float *w, size_t first,
                        size_t n, const int32_t *targets, float *scratch, row_score *rows)
{
    float *z = scratch, *z_ref = z + SCORE_ROWS * SCORE_COLS, *pad = z_ref + SCORE_ROWS * SCORE_COLS;
    for (size_t at = 0; at < n; at += SCORE_COLS) {
        size_t some = n - at < SCORE_COLS ? n - at : SCORE_COLS;
        for (int ref = 0; ref < (x_ref ? 2 : 1); ref++) {
            const float *in = ref ? x_ref : x;
            if (m < SCORE_ROWS) {
                memcpy(pad, in, m * cols * sizeof *pad);
                memset(pad + m * cols, 0, (SCORE_ROWS - m) * cols * sizeof *pad);
                in = pad;
            }
            bb_sgemm_nt(SCORE_ROWS, some, cols, 1, in, cols, (ref ? w_ref : w) + at * cols, cols, 0, ref ? z_ref : z, some);
        }
        for (size_t i = 0; i < m; i++) {
            size_t target = targets ? (size_t)targets[i] : 0;
            if (x_ref) bb_klsum_add(c->k, &rows[i].sums, z_ref + i * some, z + i * some, some);
            else bb_logsum_add(c->k, &rows[i].sums.net, z + i * some, some);
            if (targets && target >= first + at && target < first + at + some) rows[i].z_target = z[i * some + target - first - at];
        }
    }
}

static bb_status cpu_score(void *self, size_t n, const float *x_ref, const bb_matrix *head_ref, const float *x, const bb_matrix *head,
                           const int32_t *targets, double *kl, double *nll, unsigned char *same, bb_err *err)
{
    cpu         *c = self;
    size_t       cols = head->cols, slice = 2 * (size_t)SCORE_ROWS * SCORE_COLS + SCORE_ROWS * cols, step = rows_a_piece(head) / 2;
    ptrdiff_t    chunks = (ptrdiff_t)((n + SCORE_ROWS - 1) / SCORE_ROWS);
    row_score   *rows = BB_NEW0(n, row_score, err);
    float       *ref_piece = NULL;
    bb_status    status = rows ? BB_OK : BB_NOMEM;
    if (status == BB_OK) status = grow_scratch(c, slice, err);
    step = step >= SCORE_COLS ? step / SCORE_COLS * SCORE_COLS : SCORE_COLS;
    for (size_t first = 0; first < head->rows && status == BB_OK; first += step) {
        size_t       some = head->rows - first < step ? head->rows - first : step;
        const float *w, *w_ref = NULL;
        if (x_ref) { /* the reference piece first, in memory of its own: piece_of reuses c->piece */
            const float *whole = find_decoded(c, head_ref);
            if (!whole && !ref_piece && !(ref_piece = BB_NEW(step * cols, float, err))) { status = BB_NOMEM; break; }
            if (!whole) decode_rows(head_ref, first, some, ref_piece);
            w_ref = whole ? whole + first * cols : ref_piece;
        }
        if ((status = piece_of(c, head, first, some, &w, err)) != BB_OK) break;
#pragma omp parallel for schedule(static)
        for (ptrdiff_t i = 0; i < chunks; i++) {
            size_t at = (size_t)i * SCORE_ROWS, m = n - at < SCORE_ROWS ? n - at : SCORE_ROWS;
            score_chunk(c, m, cols, x_ref ? x_ref + at * cols : NULL, w_ref, x + at * cols, w, first, some, targets ? targets + at : NULL,
                        scratch_of_thread(c, slice), rows + at);
        }
    }
    for (size_t i = 0; i < n && status == BB_OK; i++) {
        if (nll) nll[i] = bb_logsum_value(&rows[i].sums.net) - (double)rows[i].z_target;
        if (kl) kl[i] = bb_klsum_value(&rows[i].sums);
        if (same) same[i] = rows[i].sums.ref.arg_max == rows[i].sums.net.arg_max;
    }
    bb_free(ref_piece);
    bb_free(rows);
    return status;
}

const bb_backend bb_backend_cpu = { "cpu",        cpu_create, cpu_destroy,  cpu_alloc, cpu_release,   cpu_enter,  cpu_leave, cpu_peek,
                                    cpu_hold,     cpu_gather, cpu_matmul,   cpu_rms_norm, cpu_rope,   cpu_attention, cpu_swiglu, cpu_score };
