/* SPDX-License-Identifier: GPL-3.0-or-later
 * guarded.c: see guarded.h. */
#include "tests/support/guarded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { GUARD = 64 /* floats on either side */, POISON = 0xFF /* bytes of a NaN */ };

static void need(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "guarded backend: %s\n", what);
    abort();
}

/* ---- memory ---- */

static guarded_array *array_of(guarded *g, bb_buffer b)
{
    uintptr_t number = (uintptr_t)b.memory;
    need(number > 0 && number <= g->n_arrays, "a buffer of another backend");
    need(g->arrays[number - 1].memory, "a buffer that was released");
    return &g->arrays[number - 1];
}

/* n numbers of a buffer, as the CPU backend knows them. */
static bb_buffer real(guarded *g, bb_buffer b, size_t n)
{
    const guarded_array *a = array_of(g, b);
    need(b.at <= a->n && n <= a->n - b.at, "an access outside of its buffer");
    return bb_on_cpu(a->memory + GUARD + b.at);
}

static float *host_of(guarded *g, bb_buffer b, size_t n) { return (float *)(void *)real(g, b, n).memory; }

static bb_status guarded_alloc(void *context, size_t n, bb_buffer *out, bb_err *err)
{
    guarded       *g = context;
    guarded_array *more = BB_NEW(g->n_arrays + 1, guarded_array, err);
    float         *memory = BB_NEW(n + 2 * GUARD, float, err);
    if (!more || !memory) {
        bb_free(more);
        bb_free(memory);
        return BB_NOMEM;
    }
    memset(memory, POISON, (n + 2 * GUARD) * sizeof *memory);
    if (g->n_arrays) memcpy(more, g->arrays, g->n_arrays * sizeof *more);
    bb_free(g->arrays);
    g->arrays = more;
    g->arrays[g->n_arrays++] = (guarded_array) { memory, n };
    *out = (bb_buffer) { (bb_memory *)(uintptr_t)g->n_arrays, 0 };
    return BB_OK;
}

static void guarded_release(void *context, bb_buffer b)
{
    if (!b.memory) return;
    guarded_array       *a = array_of(context, b);
    const unsigned char *bytes = (const unsigned char *)a->memory;
    need(b.at == 0, "release of a part of a buffer");
    for (size_t i = 0; i < GUARD * sizeof *a->memory; i++)
        need(bytes[i] == POISON && bytes[(GUARD + a->n) * sizeof *a->memory + i] == POISON, "something was written beside a buffer");
    bb_free(a->memory);
    a->memory = NULL;
}

static bb_status guarded_write(void *context, bb_buffer to, const float *host, size_t n, bb_err *err)
{
    (void)err;
    memcpy(host_of(context, to, n), host, n * sizeof *host);
    return BB_OK;
}

static bb_status guarded_read(void *context, bb_buffer from, float *host, size_t n, bb_err *err)
{
    (void)err;
    memcpy(host, host_of(context, from, n), n * sizeof *host);
    return BB_OK;
}

static bb_status guarded_copy(void *context, bb_buffer from, bb_buffer to, size_t n, bb_err *err)
{
    return guarded_read(context, from, host_of(context, to, n), n, err);
}

static bb_status guarded_copy_rows(void *context, bb_buffer from, size_t from_step, bb_buffer to, size_t to_step, size_t n, size_t width, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t i = 0; i < n && status == BB_OK; i++)
        status = guarded_copy(context, bb_buffer_at(from, i * from_step), bb_buffer_at(to, i * to_step), width, err);
    return status;
}

static bb_status guarded_peek(void *context, bb_buffer b, size_t n, const float **host, bb_err *err)
{
    guarded *g = context;
    float   *copy = BB_NEW(n, float, err);
    if (!copy) return BB_NOMEM;
    g->n_peeked++;
    *host = copy;
    return guarded_read(context, b, copy, n, err);
}

static void guarded_unpeek(void *context, const float *host)
{
    union {
        const float *lent;
        float       *own;
    } copy = { host };
    if (!host) return;
    need(((guarded *)context)->n_peeked-- > 0, "unpeek without peek");
    bb_free(copy.own);
}

/* ---- weights ---- */

static size_t bytes_of(const bb_matrix *w) { return w->rows * bb_format_row_bytes(bb_format_get(w->type), w->cols); }

static void guarded_forget(void *context)
{
    guarded *g = context;
    for (size_t i = 0; i < g->n_weights; i++) {
        union {
            const void *lent;
            void       *own;
        } data = { g->weights[i]->copy.data };
        memset(data.own, POISON, bytes_of(&g->weights[i]->copy));
        bb_free(data.own);
        bb_free(g->weights[i]);
    }
    bb_free(g->weights);
    g->weights = NULL;
    g->n_weights = 0;
}

/* The copy of a matrix, made if there is none. NULL: out of memory. */
static const bb_matrix *own(guarded *g, const bb_matrix *w, bb_err *err)
{
    for (size_t i = 0; i < g->n_weights; i++) {
        const guarded_weights *k = g->weights[i];
        if (k->data == w->data && k->copy.type == w->type && k->copy.rows == w->rows && k->copy.cols == w->cols && k->copy.bias == w->bias) return &k->copy;
    }
    guarded_weights **more = BB_NEW(g->n_weights + 1, guarded_weights *, err), *k = BB_NEW(1, guarded_weights, err);
    void             *data = bb_alloc(bytes_of(w), 1, err);
    if (!more || !k || !data) {
        bb_free(more);
        bb_free(k);
        bb_free(data);
        return NULL;
    }
    memcpy(data, w->data, bytes_of(w));
    *k = (guarded_weights) { w->data, *w };
    k->copy.data = data;
    if (g->n_weights) memcpy(more, g->weights, g->n_weights * sizeof *more);
    bb_free(g->weights);
    g->weights = more;
    g->weights[g->n_weights++] = k;
    return &k->copy;
}

/* ---- operations: a workspace is the CPU's, and whose it is ---- */

typedef struct space {
    guarded *g;
    void    *cpu;
} space;

static const bb_operations *cpu(void) { return bb_backend_cpu.ops; }

static bb_status guarded_open(void *context, void **self, bb_err *err)
{
    space *s = BB_NEW0(1, space, err);
    if (!s) return BB_NOMEM;
    s->g = context;
    *self = s;
    return cpu()->open(NULL, &s->cpu, err);
}

static void guarded_close(void *self)
{
    if (self) cpu()->close(((space *)self)->cpu);
    bb_free(self);
}

static void guarded_rough(void *self, bool rough) { cpu()->rough(((space *)self)->cpu, rough); }

typedef bb_status (*holder)(void *self, const bb_matrix *const *w, size_t n, bb_err *err);

static bb_status hold(space *s, holder of_cpu, const bb_matrix *const *w, size_t n, bb_err *err)
{
    const bb_matrix *copies[16];
    need(n <= 16, "more matrices held than a block has");
    for (size_t i = 0; i < n; i++)
        if (!(copies[i] = own(s->g, w[i], err))) return BB_NOMEM;
    return of_cpu(s->cpu, copies, n, err);
}

static bb_status guarded_hold(void *self, const bb_matrix *const *w, size_t n, bb_err *err) { return hold(self, cpu()->hold, w, n, err); }
static bb_status guarded_back_hold(void *self, const bb_matrix *const *w, size_t n, bb_err *err) { return hold(self, cpu()->back_hold, w, n, err); }

static bb_status guarded_gather(void *self, const bb_matrix *table, const int32_t *ids, size_t n, bb_buffer y, bb_err *err)
{
    space           *s = self;
    const bb_matrix *w = own(s->g, table, err);
    return w ? cpu()->gather(s->cpu, w, ids, n, real(s->g, y, n * w->cols), err) : BB_NOMEM;
}

static bb_status guarded_matmul(void *self, size_t n, bb_buffer x, const bb_matrix *matrix, bool add, bb_buffer y, bb_err *err)
{
    space           *s = self;
    const bb_matrix *w = own(s->g, matrix, err);
    return w ? cpu()->matmul(s->cpu, n, real(s->g, x, n * w->cols), w, add, real(s->g, y, n * w->rows), err) : BB_NOMEM;
}

static bb_status guarded_rms_norm(void *self, size_t n, uint32_t width, bb_buffer x, const float *weight, float eps, bb_buffer y, bb_err *err)
{
    space *s = self;
    return cpu()->rms_norm(s->cpu, n, width, real(s->g, x, n * width), weight, eps, real(s->g, y, n * width), err);
}

static bb_status guarded_add_norm(void *self, size_t n, uint32_t width, bb_buffer x, const float *weight, float eps, bb_buffer y, bb_err *err)
{
    space *s = self;
    return cpu()->add_norm(s->cpu, n, width, real(s->g, x, n * width), weight, eps, real(s->g, y, n * width), err);
}

static bb_status guarded_add(void *self, size_t n, bb_buffer x, bb_buffer y, bb_err *err)
{
    space *s = self;
    return cpu()->add(s->cpu, n, real(s->g, x, n), real(s->g, y, n), err);
}

static bb_status guarded_scale(void *self, size_t n, float factor, bb_buffer x, bb_err *err)
{
    space *s = self;
    return cpu()->scale(s->cpu, n, factor, real(s->g, x, n), err);
}

static bb_status guarded_rope(void *self, uint32_t S, uint32_t T, const bb_heads *heads, bb_buffer x, bb_err *err)
{
    space *s = self;
    return cpu()->rope(s->cpu, S, T, heads, real(s->g, x, (size_t)S * T * heads->n * heads->dim), err);
}

static bb_status guarded_attention(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, uint32_t window, bb_buffer q, bb_buffer k,
                                   bb_buffer v, bb_err *err)
{
    space *s = self;
    size_t n = (size_t)S * T * D;
    return cpu()->attention(s->cpu, S, T, H, G, D, window, real(s->g, q, n * H), real(s->g, k, n * G), real(s->g, v, n * G), err);
}

static bb_status guarded_gated(void *self, bb_gate act, size_t n, bb_buffer gate, bb_buffer up, bb_err *err)
{
    space *s = self;
    return cpu()->gated(s->cpu, act, n, real(s->g, gate, n), real(s->g, up, n), err);
}

static bb_status guarded_logits(void *self, size_t n, bb_buffer x, const bb_matrix *head, float cap, float *logits, bb_err *err)
{
    space           *s = self;
    const bb_matrix *w = own(s->g, head, err);
    return w ? cpu()->logits(s->cpu, n, real(s->g, x, n * w->cols), w, cap, logits, err) : BB_NOMEM;
}

static bb_status guarded_score(void *self, size_t n, const bb_head_rows *of, double *kl, double *nll, unsigned char *same, bb_err *err)
{
    space       *s = self;
    bb_head_rows own_of = *of;
    if (!(own_of.head = own(s->g, of->head, err)) || (of->head_ref && !(own_of.head_ref = own(s->g, of->head_ref, err)))) return BB_NOMEM;
    own_of.x = real(s->g, of->x, n * of->head->cols);
    own_of.x_ref = of->head_ref ? real(s->g, of->x_ref, n * of->head_ref->cols) : (bb_buffer) { 0 };
    return cpu()->score(s->cpu, n, &own_of, kl, nll, same, err);
}

static bb_status guarded_back_matmul(void *self, size_t n, bb_buffer dy, const bb_matrix *matrix, bool add, bb_buffer dx, bb_err *err)
{
    space           *s = self;
    const bb_matrix *w = own(s->g, matrix, err);
    return w ? cpu()->back_matmul(s->cpu, n, real(s->g, dy, n * w->rows), w, add, real(s->g, dx, n * w->cols), err) : BB_NOMEM;
}

static bb_status guarded_back_weights(void *self, size_t n, size_t rows, size_t cols, bb_buffer dy, bb_buffer x, float *dw, bb_err *err)
{
    space *s = self;
    return cpu()->back_weights(s->cpu, n, rows, cols, real(s->g, dy, n * rows), real(s->g, x, n * cols), dw, err);
}

static bb_status guarded_back_sums(void *self, size_t n, size_t cols, size_t group, bb_buffer a, bb_buffer b, float *sums, bb_err *err)
{
    space *s = self;
    return cpu()->back_sums(s->cpu, n, cols, group, real(s->g, a, n * cols), b.memory ? real(s->g, b, n * cols) : b, sums, err);
}

static bb_status guarded_back_norm(void *self, size_t n, size_t width, bb_buffer x, const float *weight, float eps, bb_buffer dy, bool add, bb_buffer dx,
                                   float *d_weight, bb_err *err)
{
    space *s = self;
    return cpu()->back_norm(s->cpu, n, width, real(s->g, x, n * width), weight, eps, real(s->g, dy, n * width), add, real(s->g, dx, n * width), d_weight, err);
}

static bb_status guarded_back_rope(void *self, uint32_t S, uint32_t T, const bb_heads *heads, bb_buffer raw, bb_buffer dx, float *d_norm, bb_err *err)
{
    space *s = self;
    size_t n = (size_t)S * T * heads->n * heads->dim;
    return cpu()->back_rope(s->cpu, S, T, heads, real(s->g, raw, n), real(s->g, dx, n), d_norm, err);
}

static bb_status guarded_back_attention(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, uint32_t window, bb_buffer q, bb_buffer k,
                                        bb_buffer v, bb_buffer d_out, bb_buffer dk, bb_buffer dv, bb_err *err)
{
    space *s = self;
    size_t n = (size_t)S * T * D;
    return cpu()->back_attention(s->cpu, S, T, H, G, D, window, real(s->g, q, n * H), real(s->g, k, n * G), real(s->g, v, n * G), real(s->g, d_out, n * H),
                                 real(s->g, dk, n * G), real(s->g, dv, n * G), err);
}

static bb_status guarded_back_gated(void *self, bb_gate act, size_t n, bb_buffer gate, bb_buffer up, bb_buffer dy, bb_err *err)
{
    space *s = self;
    return cpu()->back_gated(s->cpu, act, n, real(s->g, gate, n), real(s->g, up, n), real(s->g, dy, n), err);
}

static bb_status guarded_back_loss(void *self, size_t n, const bb_loss *of, double *loss, bb_buffer dx, float *d_head, bb_err *err)
{
    space  *s = self;
    bb_loss l = *of;
    if (!(l.head = own(s->g, of->head, err)) || (of->head_ref && !(l.head_ref = own(s->g, of->head_ref, err)))) return BB_NOMEM;
    l.x = real(s->g, of->x, n * l.head->cols);
    if (l.head_ref) l.x_ref = real(s->g, of->x_ref, n * l.head->cols);
    return cpu()->back_loss(s->cpu, n, &l, loss, real(s->g, dx, n * l.head->cols), d_head, err);
}

/* ---- life ---- */

static const bb_operations operations = {
    .name = "guarded",
    .alloc = guarded_alloc,
    .release = guarded_release,
    .write = guarded_write,
    .read = guarded_read,
    .copy = guarded_copy,
    .copy_rows = guarded_copy_rows,
    .peek = guarded_peek,
    .unpeek = guarded_unpeek,
    .forget = guarded_forget,
    .open = guarded_open,
    .close = guarded_close,
    .rough = guarded_rough,
    .hold = guarded_hold,
    .gather = guarded_gather,
    .matmul = guarded_matmul,
    .rms_norm = guarded_rms_norm,
    .add_norm = guarded_add_norm,
    .add = guarded_add,
    .scale = guarded_scale,
    .rope = guarded_rope,
    .attention = guarded_attention,
    .gated = guarded_gated,
    .logits = guarded_logits,
    .score = guarded_score,
    .block = NULL,
    .back_hold = guarded_back_hold,
    .back_matmul = guarded_back_matmul,
    .back_weights = guarded_back_weights,
    .back_sums = guarded_back_sums,
    .back_norm = guarded_back_norm,
    .back_rope = guarded_back_rope,
    .back_attention = guarded_back_attention,
    .back_gated = guarded_back_gated,
    .back_loss = guarded_back_loss,
};

void guarded_make(guarded *g) { *g = (guarded) { .backend = { &operations, g } }; }

void guarded_done(guarded *g)
{
    guarded_forget(g);
    for (size_t i = 0; i < g->n_arrays; i++) need(!g->arrays[i].memory, "a buffer was not released");
    need(g->n_peeked == 0, "a peek was not ended");
    bb_free(g->arrays);
}

bb_buffer guarded_put(guarded *g, const float *host, size_t n)
{
    bb_buffer b;
    need(guarded_alloc(g, n, &b, NULL) == BB_OK && guarded_write(g, b, host, n, NULL) == BB_OK, "out of memory");
    return b;
}

void guarded_take(guarded *g, bb_buffer b, float *host, size_t n)
{
    guarded_read(g, b, host, n, NULL);
    guarded_release(g, b);
}
