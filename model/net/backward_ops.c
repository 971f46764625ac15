/* SPDX-License-Identifier: GPL-3.0-or-later
 * backward_ops.c: the backward operations of the CPU backend (backend.h).
 *
 * Products run on the same packed kernel as the forward pass: dx = dy W packs W as columns, dW = dy' x transposes dy and packs x,
 * so that each entry of dW is a chain over tokens; fast ones on split operands, but in attention. Attention: per (window, KV head), tiles of queries
 * as in the forward pass, with the probabilities computed again.
 */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "model/net/cpu.h"

enum {
    TURN_TILE = 16,        /* square tiles of the transpose */
    TURN_PAD = 16,         /* so that rows of dy' do not fall on the same cache sets when n is a power of two */
    COLUMNS = 16,          /* columns a task of the column sums */
    HOLD_FLOATS = 64 << 20 /* packed weights held: 256 MiB */
};

void bb_cpu_back_close(bb_cpu *c)
{
    const bb_back_memory *m = &c->back;
    float *const          owned[] = { m->turned.at, m->inputs.at, m->panels.at, m->factors.at, m->columns.at, m->z.at, m->z_ref.at, m->slopes.at };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) bb_free(owned[i]);
}

/* ---- linear ---- */

/* Rows first .. first + n - 1 of w as row r of the depth of every panel of `room` floats a column: float32, or split in whole tiles of them. */
static void pack_rows(const bb_cpu *c, const bb_matrix *w, size_t first, size_t r, size_t n, size_t room, float *rows, size_t ld, float *out)
{
    size_t panel = c->k->panel;
    for (size_t i = 0; i < n; i++) {
        bb_cpu_decode_row(c, w, first + r + i, rows + i * ld);
        memset(rows + i * ld + w->cols, 0, (ld - w->cols) * sizeof *rows);
    }
    for (size_t j = 0; j < ld; j += panel) {
        float *to = out + j * room + bb_cpu_room(c, r) * panel;
        if (c->fast) c->k->split_panels_turned(c->parts, rows + j, ld, panel, n, bb_cpu_split_at(to));
        else memcpy(to, rows + j, panel * sizeof *rows);
    }
}

/* Panels of W' (cols, depth n) for weight rows first .. first + n - 1: row r of W is column r of every panel. */
static bb_status pack_columns(bb_cpu *c, const bb_matrix *w, size_t first, size_t n, float *out, bb_err *err)
{
    size_t    panel = c->k->panel, ld = (w->cols + panel - 1) / panel * panel, at_once = c->fast ? BB_SPLIT_DEPTH : 1;
    ptrdiff_t tasks = (ptrdiff_t)((n + at_once - 1) / at_once);
    bb_status status = bb_cpu_grow_scratch(c, at_once * ld, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(4 * n * w->cols))
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t r = (size_t)i * at_once, m = n - r < at_once ? n - r : at_once;
        pack_rows(c, w, first, r, m, bb_cpu_room(c, n), bb_cpu_scratch(c, at_once * ld), ld, out);
    }
    return BB_OK;
}

bb_status bb_cpu_back_hold(void *self, const bb_matrix *const *w, size_t n, bb_err *err)
{
    bb_cpu         *c = self;
    bb_back_memory *m = &c->back;
    size_t          total = 0;
    bb_status       status;
    m->n_held = 0;
    for (size_t i = 0; i < n; i++) total += bb_cpu_packed_floats(c, w[i]->cols, w[i]->rows);
    if (total == 0 || total > HOLD_FLOATS || n > BB_CPU_MAX_HELD) return BB_OK; /* back_matmul packs as it goes */
    BB_TRY(bb_pool_grow(&m->columns, total, err));
    float *out = m->columns.at;
    for (size_t i = 0; i < n; i++) {
        BB_TRY(pack_columns(c, w[i], 0, w[i]->rows, out, err));
        m->held[m->n_held++] = (bb_held) { w[i], out };
        out += bb_cpu_packed_floats(c, w[i]->cols, w[i]->rows);
    }
done:
    return status;
}

static const float *find_held(const bb_back_memory *m, const bb_matrix *w)
{
    for (size_t i = 0; i < m->n_held; i++)
        if (m->held[i].w == w) return m->held[i].panels;
    return NULL;
}

bb_status bb_cpu_back_matmul(void *self, size_t n, bb_buffer from, const bb_matrix *w, bool add, bb_buffer to, bb_err *err)
{
    bb_cpu         *c = self;
    bb_back_memory *m = &c->back;
    const float    *dy = bb_cpu_at(from);
    float          *dx = bb_cpu_at(to);
    bb_status       status = BB_OK;
    size_t          step = bb_cpu_rows_a_piece(c, w, BB_CPU_PIECE_FLOATS);
    const float    *held = find_held(m, w);
    if (held) {
        BB_TRY(bb_cpu_split_rows(c, n, w->rows, dy, w->rows, err));
        bb_cpu_product(c, n, w->cols, w->rows, dy, w->rows, held, NULL, add, dx, w->cols);
        return BB_OK;
    }
    for (size_t first = 0; first < w->rows; first += step) { /* the chain of fma continues from piece to piece */
        size_t rows = w->rows - first < step ? w->rows - first : step;
        BB_TRY(bb_pool_grow(&m->panels, bb_cpu_packed_floats(c, w->cols, rows), err));
        BB_TRY(pack_columns(c, w, first, rows, m->panels.at, err));
        BB_TRY(bb_cpu_split_rows(c, n, rows, dy + first, w->rows, err));
        bb_cpu_product(c, n, w->cols, rows, dy + first, w->rows, m->panels.at, NULL, add || first > 0, dx, w->cols);
    }
done:
    return status;
}

/* out (cols, ld) := x (n, cols) transposed. */
static void turn(size_t n, size_t cols, const float *x, float *out, size_t ld)
{
    ptrdiff_t tasks = (ptrdiff_t)((cols + TURN_TILE - 1) / TURN_TILE);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(4 * n * cols))
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t from = (size_t)i * TURN_TILE, to = from + TURN_TILE < cols ? from + TURN_TILE : cols;
        for (size_t t = 0; t < n; t += TURN_TILE) {
            size_t end = n - t < TURN_TILE ? n : t + TURN_TILE;
            for (size_t j = from; j < to; j++)
                for (size_t s = t; s < end; s++) out[j * ld + s] = x[s * cols + j];
        }
    }
}

/* An x of the same address and size as in the call before is not packed again, unless a forward operation has run since. */
static bb_status pack_inputs(bb_cpu *c, bb_back_memory *m, size_t n, size_t cols, const float *x, bb_err *err)
{
    size_t    panel = c->k->panel;
    ptrdiff_t panels = (ptrdiff_t)((cols + panel - 1) / panel);
    bb_status status;
    if (m->packed == x && m->packed_n == n && m->packed_cols == cols) return BB_OK;
    m->packed = NULL;
    status = bb_pool_grow(&m->inputs, bb_cpu_packed_floats(c, cols, n), err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(4 * n * cols))
    for (ptrdiff_t i = 0; i < panels; i++) {
        size_t j = (size_t)i * panel, width = cols - j < panel ? cols - j : panel;
        if (c->fast) c->k->split_panels_turned(c->parts, x + j, cols, width, n, bb_cpu_split_at(m->inputs.at + j * bb_cpu_room(c, n)));
        else bb_pack_panels_transposed(x + j, cols, width, n, panel, m->inputs.at + j * n);
    }
    m->packed = x;
    m->packed_n = n;
    m->packed_cols = cols;
    return BB_OK;
}

bb_status bb_cpu_back_weights(void *self, size_t n, size_t rows, size_t cols, bb_buffer dy, bb_buffer x, float *dw, bb_err *err)
{
    bb_cpu         *c = self;
    bb_back_memory *m = &c->back;
    bb_status       status;
    size_t          ld = n + TURN_PAD;
    BB_TRY(bb_pool_grow(&m->turned, rows * ld, err));
    BB_TRY(pack_inputs(c, m, n, cols, bb_cpu_at(x), err));
    turn(n, rows, bb_cpu_at(dy), m->turned.at, ld);
    BB_TRY(bb_cpu_split_rows(c, rows, n, m->turned.at, ld, err));
    bb_cpu_product(c, rows, cols, n, m->turned.at, ld, m->inputs.at, NULL, true, dw, cols);
done:
    return status;
}

bb_status bb_cpu_back_sums(void *self, size_t n, size_t cols, size_t group, bb_buffer a_at, bb_buffer b_at, float *sums, bb_err *err)
{
    (void)self;
    (void)err;
    const float *a = bb_cpu_at(a_at), *b = bb_cpu_at(b_at);
    size_t       width = group * ((COLUMNS + group - 1) / group); /* whole groups */
    ptrdiff_t    tasks = (ptrdiff_t)((cols + width - 1) / width);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(4 * n * cols))
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t from = (size_t)i * width, to = from + width < cols ? from + width : cols;
        for (size_t t = 0; t < n; t++)
            for (size_t j = from; j < to; j++) sums[j / group] += b ? a[t * cols + j] * b[t * cols + j] : a[t * cols + j];
    }
    return BB_OK;
}

/* ---- norm ---- */

/* d_weight[j] += sum dy x s over rows, in order. */
static void norm_weight(size_t n, size_t width, const float *x, const float *factor, const float *dy, float *d_weight)
{
    ptrdiff_t tasks = (ptrdiff_t)((width + COLUMNS - 1) / COLUMNS);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(4 * n * width))
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t from = (size_t)i * COLUMNS, to = from + COLUMNS < width ? from + COLUMNS : width;
        for (size_t t = 0; t < n; t++)
            for (size_t j = from; j < to; j++) d_weight[j] += dy[t * width + j] * (x[t * width + j] * factor[t]);
    }
}

static void norm_row(size_t width, const float *x, const float *weight, double s, const float *dy, bool add, float *dx)
{
    double dot = 0;
    for (size_t j = 0; j < width; j++) dot += (double)dy[j] * (double)weight[j] * (double)x[j];
    float f = (float)s, along = (float)(s * s * s * dot / (double)width);
    for (size_t j = 0; j < width; j++) {
        float d = f * (weight[j] * dy[j]) - along * x[j];
        dx[j] = add ? dx[j] + d : d;
    }
}

static bb_status norm_rows(bb_back_memory *m, size_t n, size_t width, const float *x, const float *weight, float eps, const float *dy, bool add, float *dx,
                           float *d_weight, bb_err *err)
{
    bb_status status = bb_pool_grow(&m->factors, n, err);
    if (status != BB_OK) return status;
    float *factor = m->factors.at;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(8 * n * width))
    for (size_t t = 0; t < n; t++) {
        double square = 0;
        for (size_t j = 0; j < width; j++) square += (double)x[t * width + j] * (double)x[t * width + j];
        factor[t] = (float)(1 / sqrt(square / (double)width + (double)eps));
    }
    if (d_weight) norm_weight(n, width, x, factor, dy, d_weight); /* before dx, which may lie over dy */
#pragma omp parallel for schedule(static) if (bb_cpu_worth(16 * n * width))
    for (size_t t = 0; t < n; t++) norm_row(width, x + t * width, weight, (double)factor[t], dy + t * width, add, dx + t * width);
    return BB_OK;
}

bb_status bb_cpu_back_norm(void *self, size_t n, size_t width, bb_buffer x, const float *weight, float eps, bb_buffer dy, bool add, bb_buffer dx,
                           float *d_weight, bb_err *err)
{
    return norm_rows(&((bb_cpu *)self)->back, n, width, bb_cpu_at(x), weight, eps, bb_cpu_at(dy), add, bb_cpu_at(dx), d_weight, err);
}

bb_status bb_cpu_back_rope(void *self, uint32_t S, uint32_t T, const bb_heads *heads, bb_buffer raw, bb_buffer dx_at, float *d_norm, bb_err *err)
{
    size_t n = (size_t)S * T;
    float *dx = bb_cpu_at(dx_at);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(8 * n * heads->n * heads->dim))
    for (size_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < heads->n; j++) {
            float *head = dx + (i * heads->n + j) * heads->dim;
            bb_cpu_scale_head(heads, bb_heads_factor(heads, i % T), head);
            bb_cpu_rotate(head, heads->cos_sin + i % T * heads->n_rot, heads->n_rot, heads->neox, true);
        }
    if (!heads->norm) return BB_OK;
    const size_t together = heads->whole ? heads->n : 1; /* heads */
    return norm_rows(&((bb_cpu *)self)->back, n * heads->n / together, together * heads->dim, bb_cpu_at(raw), heads->norm, heads->norm_eps, dx, false, dx,
                     d_norm, err);
}

/* ---- attention ---- */

enum { TILE = BB_CPU_TILE };

/* One task's scratch: the window's keys and values of one KV head, packed, and what one tile of queries needs. */
typedef struct tape {
    size_t T, D;
    size_t window;
    float *keys, *key_columns, *values; /* panels of T keys (depth D), of D columns (depth T), of T values (depth D) */
    float *p, *dp;                      /* TILE * T: probabilities; gradient of scores */
    float *turned;                      /* T * TILE */
    float *rows;                        /* panels of D columns, depth TILE */
} tape;

static size_t tape_floats(const bb_cpu *c, size_t T, size_t D)
{
    size_t panel = c->k->panel;
    return 2 * bb_packed_floats(T, D, panel) + bb_packed_floats(D, T, panel) + 3 * (size_t)TILE * T + bb_packed_floats(D, TILE, panel);
}

static tape lay_tape(const bb_cpu *c, float *memory, size_t T, size_t D)
{
    size_t panel = c->k->panel;
    tape   t = { .T = T, .D = D };
    t.keys = memory;
    t.values = t.keys + bb_packed_floats(T, D, panel);
    t.key_columns = t.values + bb_packed_floats(T, D, panel);
    t.p = t.key_columns + bb_packed_floats(D, T, panel);
    t.dp = t.p + TILE * T;
    t.turned = t.dp + TILE * T;
    t.rows = t.turned + TILE * T;
    return t;
}

/* d (end, D; row stride ld) += a' b with a (m, end) and b (m, D; row stride ldb). */
static void add_outer(const bb_kernels *k, const tape *t, size_t m, size_t end, const float *a, const float *b, size_t ldb, float *d, size_t ld)
{
    for (size_t i = 0; i < m; i++)
        for (size_t s = 0; s < end; s++) t->turned[s * TILE + i] = a[i * end + s];
    bb_pack_panels_transposed(b, ldb, t->D, m, k->panel, t->rows);
    k->product(end, t->D, m, t->turned, TILE, t->rows, NULL, true, d, ld);
}

/* p := probabilities of queries first .. first + m - 1, of the keys from `begin` on; dp := gradient of their scores. */
static void tile_scores(const bb_kernels *k, const tape *t, size_t begin, size_t first, size_t m, const float *q, const float *d_out, size_t ldq)
{
    size_t end = first + m - begin;
    float  scale = 1 / sqrtf((float)t->D);
    k->product(m, end, t->D, q, ldq, t->keys + begin * t->D, NULL, false, t->p, end);
    k->product(m, end, t->D, d_out, ldq, t->values + begin * t->D, NULL, false, t->dp, end);
    for (size_t i = 0; i < m; i++) {
        float *p = t->p + i * end, *dp = t->dp + i * end;
        size_t seen = first + i + 1 - begin;
        double dot = 0;
        bb_cpu_softmax(k, p, scale, seen, t->window);
        memset(p + seen, 0, (end - seen) * sizeof *p);
        for (size_t s = 0; s < seen; s++) dot += (double)p[s] * (double)dp[s];
        for (size_t s = 0; s < end; s++) dp[s] = p[s] * (dp[s] - (float)dot) * scale;
    }
}

/* One query head of one window: d_out becomes dq, dk and dv are added to. */
static void back_head(const bb_kernels *k, const tape *t, const float *q, float *d_out, size_t ldq, float *dk, float *dv, size_t ldk)
{
    for (size_t first = 0; first < t->T; first += TILE) {
        const size_t begin = bb_cpu_window_begin(first, t->window);
        size_t       m = t->T - first < TILE ? t->T - first : TILE, end = first + m - begin;
        const float *tile = q + first * ldq;
        float       *d_tile = d_out + first * ldq;
        tile_scores(k, t, begin, first, m, tile, d_tile, ldq);
        add_outer(k, t, m, end, t->p, d_tile, ldq, dv + begin * ldk, ldk);
        add_outer(k, t, m, end, t->dp, tile, ldq, dk + begin * ldk, ldk);
        for (size_t d = 0; d < t->D; d += k->panel)
            k->product(m, t->D - d < k->panel ? t->D - d : k->panel, end, t->dp, end, t->key_columns + d * t->T + begin * k->panel, NULL, false, d_tile + d,
                       ldq);
    }
}

bb_status bb_cpu_back_attention(void *self, uint32_t S, uint32_t T, uint32_t H, uint32_t G, uint32_t D, uint32_t window, bb_buffer q_at, bb_buffer k_at,
                                bb_buffer v_at, bb_buffer d_out_at, bb_buffer dk_at, bb_buffer dv_at, bb_err *err)
{
    bb_cpu      *c = self;
    const float *q = bb_cpu_at(q_at), *k = bb_cpu_at(k_at), *v = bb_cpu_at(v_at);
    float       *d_out = bb_cpu_at(d_out_at), *dk = bb_cpu_at(dk_at), *dv = bb_cpu_at(dv_at);
    size_t       ldq = (size_t)H * D, ldk = (size_t)G * D, slice = tape_floats(c, T, D), heads = H / G;
    ptrdiff_t    tasks = (ptrdiff_t)S * G;
    bb_status    status = bb_cpu_grow_scratch(c, slice, err);
    if (status != BB_OK) return status;
    memset(dk, 0, (size_t)S * T * ldk * sizeof *dk);
    memset(dv, 0, (size_t)S * T * ldk * sizeof *dv);
#pragma omp parallel for schedule(static) if (bb_cpu_worth(3 * (size_t)S * T * T * H * D))
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t row = (size_t)i / G * T, group = (size_t)i % G, at = row * ldk + group * D;
        tape   t = lay_tape(c, bb_cpu_scratch(c, slice), T, D);
        t.window = window;
        c->k->pack(k + at, ldk, T, D, t.keys);
        c->k->pack(v + at, ldk, T, D, t.values);
        bb_pack_panels_transposed(k + at, ldk, D, T, c->k->panel, t.key_columns);
        for (size_t j = group * heads; j < (group + 1) * heads; j++)
            back_head(c->k, &t, q + row * ldq + j * D, d_out + row * ldq + j * D, ldq, dk + at, dv + at, ldk);
    }
    return BB_OK;
}

/* ---- gate ---- */

/* A strip: gate, up become d_gate, d_up; e: exp of the power that SiLU or GELU are made of. */
static void back_silu(size_t m, const float *e, const float *dy, float *g, float *u)
{
    for (size_t j = 0; j < m; j++) {
        float p = 1 / (1 + e[j]), silu = g[j] * p, d = dy[j], slope = p + silu * (1 - p);
        g[j] = d * u[j] * slope;
        u[j] = d * silu;
    }
}

static void back_gelu(size_t m, const float *e, const float *dy, float *g, float *u)
{
    for (size_t j = 0; j < m; j++) {
        float p = 1 / (1 + e[j]), gelu = g[j] * p, d = dy[j], slope = p + gelu * (1 - p) * 1.5957691216f * (1 + 3 * 0.044715f * g[j] * g[j]);
        g[j] = d * u[j] * slope;
        u[j] = d * gelu;
    }
}

bb_status bb_cpu_back_gated(void *self, bb_gate act, size_t n, bb_buffer gate_at, bb_buffer up_at, bb_buffer dy_at, bb_err *err)
{
    enum { STRIP = 1024 };
    bb_cpu      *c = self;
    float       *gate = bb_cpu_at(gate_at), *up = bb_cpu_at(up_at);
    const float *dy = bb_cpu_at(dy_at);
    ptrdiff_t    tasks = (ptrdiff_t)((n + STRIP - 1) / STRIP);
    bb_status    status = bb_cpu_grow_scratch(c, STRIP, err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(64 * n))
    for (ptrdiff_t i = 0; i < tasks; i++) {
        size_t at = (size_t)i * STRIP, m = n - at < STRIP ? n - at : STRIP;
        float *e = bb_cpu_scratch(c, STRIP), *g = gate + at, *u = up + at;
        for (size_t j = 0; j < m; j++) e[j] = act == BB_GATE_GELU ? bb_gelu_power(g[j]) : -g[j];
        c->k->exp(e, e, m);
        (act == BB_GATE_GELU ? back_gelu : back_silu)(m, e, dy + at, g, u);
    }
    return BB_OK;
}
