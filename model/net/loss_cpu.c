/* SPDX-License-Identifier: GPL-3.0-or-later
 * loss_cpu.c: losses at the head and their gradients, on the CPU: back_loss of backend.h. */
#include "base/mem.h"
#include "model/net/cpu.h"

/* Rows at the head. The vocabulary passes twice, in pieces of whole panels: once for the sums of the softmax, once for dz. */
typedef struct head_pass {
    bb_cpu        *c;
    const bb_loss *of;
    size_t         n, piece; /* rows; vocabulary entries a piece */
    bb_klsum      *sums;
    double        *squares;
    float         *z_target;
} head_pass;

/* A view of rows first .. first + n - 1 of w. */
static bb_matrix rows_of(const bb_matrix *w, size_t first, size_t n)
{
    bb_matrix part = *w;
    part.rows = (uint32_t)n;
    part.data = (const char *)w->data + first * bb_format_row_bytes(bb_format_get(w->type), w->cols);
    part.bias = w->bias ? w->bias + first : NULL;
    return part;
}

/* The same in *part, or w itself where that is all of it: it may be held. */
static const bb_matrix *piece_of(const bb_matrix *w, size_t first, size_t n, bb_matrix *part)
{
    if (n == w->rows) return w;
    *part = rows_of(w, first, n);
    return part;
}

static bb_status piece_logits(const head_pass *p, size_t first, size_t cols, bb_err *err)
{
    bb_back_memory *m = &p->c->back;
    bb_matrix       part;
    bb_status       status = bb_cpu_matmul(p->c, p->n, p->of->x, piece_of(p->of->head, first, cols, &part), false, bb_on_cpu(m->z.at), err);
    if (status == BB_OK && p->of->head_ref)
        status = bb_cpu_matmul(p->c, p->n, p->of->x_ref, piece_of(p->of->head_ref, first, cols, &part), false, bb_on_cpu(m->z_ref.at), err);
    if (status != BB_OK) return status;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(16 * p->n * cols))
    for (size_t i = 0; i < p->n; i++) {
        bb_cpu_cap(p->c->k, p->of->cap, m->z.at + i * cols, cols);
        if (p->of->head_ref) bb_cpu_cap(p->c->k, p->of->cap_ref, m->z_ref.at + i * cols, cols);
    }
    return status;
}

static double half_square(const float *z, const float *r, size_t n)
{
    double sum = 0;
    for (size_t v = 0; v < n; v++) sum += 0.5 * ((double)z[v] - (double)r[v]) * ((double)z[v] - (double)r[v]);
    return sum;
}

static void piece_sums(const head_pass *p, size_t first, size_t cols)
{
    const bb_kernels *k = p->c->k;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(32 * p->n * cols))
    for (size_t i = 0; i < p->n; i++) {
        const float *z = p->c->back.z.at + i * cols;
        size_t       target = p->of->targets ? (size_t)p->of->targets[i] : 0;
        if (p->of->squared) p->squares[i] += half_square(z, p->c->back.z_ref.at + i * cols, cols);
        else if (p->of->head_ref) bb_klsum_add(k, &p->sums[i], p->c->back.z_ref.at + i * cols, z, cols);
        else bb_logsum_add(k, &p->sums[i].net, z, cols);
        if (p->of->targets && target >= first && target < first + cols) p->z_target[i] = z[target - first];
    }
}

static void piece_slopes(const head_pass *p, size_t cols)
{
    const float *z = p->c->back.z.at, cap = p->of->cap;
    float       *slopes = p->c->back.slopes.at;
    for (size_t i = 0; i < p->n * cols; i++) slopes[i] = bb_cap_slope(cap, z[i]);
}

/* z := weight (softmax(z) - p), p the reference's, the label, or both in their shares; z_ref is used up. */
static void piece_gradient(const head_pass *p, size_t first, size_t cols)
{
    const bb_kernels *k = p->c->k;
#pragma omp parallel for schedule(static) if (bb_cpu_worth(32 * p->n * cols))
    for (size_t i = 0; i < p->n; i++) {
        float          *z = p->c->back.z.at + i * cols, *r = p->of->head_ref ? p->c->back.z_ref.at + i * cols : NULL;
        const bb_klsum *s = &p->sums[i];
        float           weight = p->of->weight ? p->of->weight[i] : 1, soft = 1 - p->of->label_share, hard = r ? p->of->label_share : 1;
        float           a = (float)((double)weight / s->net.sum), b = r ? (float)((double)(soft * weight) / s->ref.sum) : 0;
        size_t          target = p->of->targets ? (size_t)p->of->targets[i] : 0;
        if (p->of->squared) {
            for (size_t v = 0; v < cols; v++) z[v] = weight * (z[v] - r[v]);
            continue;
        }
        for (size_t v = 0; v < cols; v++) z[v] -= s->net.max;
        k->exp(z, z, cols);
        for (size_t v = 0; r && v < cols; v++) r[v] -= s->ref.max;
        if (r) k->exp(r, r, cols);
        for (size_t v = 0; v < cols; v++) z[v] = a * z[v] - (r ? b * r[v] : 0);
        if (p->of->targets && target >= first && target < first + cols) z[target - first] -= hard * weight;
    }
}

static bb_status head_rows(const head_pass *p, bb_buffer dx, float *d_head, bb_err *err)
{
    size_t          V = p->of->head->rows, C = p->of->head->cols;
    bb_back_memory *m = &p->c->back;
    bb_status       status = BB_OK;
    BB_TRY(bb_pool_grow(&m->z, p->n * p->piece, err));
    if (p->of->head_ref) BB_TRY(bb_pool_grow(&m->z_ref, p->n * p->piece, err));
    if (p->of->cap > 0) BB_TRY(bb_pool_grow(&m->slopes, p->n * p->piece, err));
    for (size_t first = 0; first < V; first += p->piece) {
        size_t cols = V - first < p->piece ? V - first : p->piece;
        BB_TRY(piece_logits(p, first, cols, err));
        piece_sums(p, first, cols);
    }
    for (size_t first = 0; first < V; first += p->piece) {
        size_t           cols = V - first < p->piece ? V - first : p->piece;
        bb_matrix        part;
        const bb_matrix *w = piece_of(p->of->head, first, cols, &part);
        if (p->piece < V) BB_TRY(piece_logits(p, first, cols, err)); /* else they are still there */
        if (p->of->cap > 0) piece_slopes(p, cols);
        piece_gradient(p, first, cols);
        for (size_t i = 0; p->of->cap > 0 && i < p->n * cols; i++) m->z.at[i] *= m->slopes.at[i];
        BB_TRY(bb_cpu_back_matmul(p->c, p->n, bb_on_cpu(m->z.at), w, first > 0, dx, err));
        if (first == 0 && p->of->ready) p->of->ready(p->of->ready_self);
        if (d_head) BB_TRY(bb_cpu_back_weights(p->c, p->n, cols, C, bb_on_cpu(m->z.at), p->of->x, d_head + first * C, err));
    }
done:
    return status;
}

bb_status bb_cpu_back_loss(void *self, size_t n, const bb_loss *of, double *loss, bb_buffer dx, float *d_head, bb_err *err)
{
    bb_cpu   *c = self;
    size_t    piece = BB_LOSS_FLOATS / n / c->k->panel * c->k->panel;
    head_pass p = { .c = c, .of = of, .n = n };
    bb_status status = BB_NOMEM;
    if (piece == 0) piece = c->k->panel;
    p.piece = piece < of->head->rows ? piece : of->head->rows;
    if (!(p.sums = BB_NEW0(n, bb_klsum, err)) || !(p.z_target = BB_NEW0(n, float, err)) || !(p.squares = BB_NEW0(n, double, err))) goto done;
    BB_TRY(head_rows(&p, dx, d_head, err));
    for (size_t i = 0; loss && i < n; i++) {
        const double hard = of->targets ? bb_logsum_value(&p.sums[i].net) - (double)p.z_target[i] : 0, share = (double)of->label_share;
        if (of->squared) loss[i] = p.squares[i];
        else if (!of->head_ref) loss[i] = hard;
        else loss[i] = of->targets ? (1 - share) * bb_klsum_value(&p.sums[i]) + share * hard : bb_klsum_value(&p.sums[i]);
    }
done:
    bb_free(p.sums);
    bb_free(p.squares);
    bb_free(p.z_target);
    return status;
}
