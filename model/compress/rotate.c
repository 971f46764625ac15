/* SPDX-License-Identifier: GPL-3.0-or-later
 * rotate.c: see rotate.h. Products in float64, one matrix at a time; only the results are float32. */
#include "model/compress/rotate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/compress/statistics.h"
#include "model/net/arch.h"
#include "model/net/turn.h"

enum { PIECE = 64 };

/* x -> x Q for row vectors of n numbers: signs, then the turn. */
typedef struct turn {
    bb_turn  core;
    uint32_t n;
    double  *sign; /* [n] +-1/sqrt(p) */
} turn;

static void turn_done(turn *t)
{
    bb_free(t->sign);
    bb_turn_done(&t->core);
    *t = (turn) { .sign = NULL };
}

static bb_status turn_init(turn *t, uint32_t n, uint64_t seed, const char *stream, bb_err *err)
{
    bb_rng    rng;
    bb_status status;
    *t = (turn) { .n = n };
    BB_TRY(bb_turn_init(&t->core, n, err));
    status = BB_NOMEM;
    if (!(t->sign = BB_NEW(n, double, err))) goto done;
    bb_rng_init(&rng, seed, stream);
    for (uint32_t i = 0; i < n; i++) t->sign[i] = (bb_rng_below(&rng, 2) ? 1 : -1) / sqrt((double)t->core.p);
    status = BB_OK;
done:
    return status;
}

/* `inner` vectors side by side: entry i of vector c is x[i * step + c]. */
static void apply(const turn *t, double *x, size_t step, size_t inner)
{
    for (uint32_t i = 0; i < t->n; i++)
        for (size_t c = 0; c < inner; c++) x[i * step + c] *= t->sign[i];
    bb_turn_apply(&t->core, x, step, inner, false);
}

/* Columns at .. at + n - 1 of d (rows, cols): W -> W Q. */
static void turn_inputs(const turn *t, double *d, uint32_t rows, uint32_t cols, uint32_t at)
{
#pragma omp parallel for
    for (uint32_t r = 0; r < rows; r++) apply(t, d + (size_t)r * cols + at, 1, 1);
}

/* Rows at .. at + n - 1: W -> Q' W. */
static void turn_outputs(const turn *t, double *d, uint32_t cols, uint32_t at)
{
#pragma omp parallel for
    for (uint32_t c = 0; c < cols; c += PIECE) apply(t, d + (size_t)at * cols + c, cols, cols - c < PIECE ? cols - c : PIECE);
}

/* ---- matrices ---- */

static void *own(bb_rotated *r, void *p)
{
    if (p) r->owned[r->n_owned++] = p; /* room for all is there from the start */
    return p;
}

/* The decoded matrix in float64. */
static double *load(const bb_matrix *w, bb_err *err)
{
    size_t  n = (size_t)w->rows * w->cols;
    float  *f = bb_matrix_decode(w, err);
    double *d = f ? BB_NEW(n, double, err) : NULL;
    for (size_t i = 0; d && i < n; i++) d[i] = (double)f[i];
    bb_free(f);
    return d;
}

static bb_status store(bb_rotated *r, const double *d, bb_matrix *w, bb_err *err)
{
    size_t n = (size_t)w->rows * w->cols;
    float *f = own(r, BB_NEW(n, float, err));
    if (!f) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) f[i] = (float)d[i];
    w->type = BB_F32;
    w->data = f;
    return BB_OK;
}

static bb_status turn_bias(bb_rotated *r, const turn *t, bb_matrix *w, uint32_t at, uint32_t n_times, bb_err *err)
{
    double *d = w->bias ? BB_NEW(w->rows, double, err) : NULL;
    float  *f = d ? own(r, BB_NEW(w->rows, float, err)) : NULL;
    if (!w->bias) return BB_OK;
    if (f) {
        for (uint32_t i = 0; i < w->rows; i++) d[i] = (double)w->bias[i];
        for (uint32_t k = 0; k < n_times; k++) apply(t, d + at + (size_t)k * t->n, 1, 1);
        for (uint32_t i = 0; i < w->rows; i++) f[i] = (float)d[i];
        w->bias = f;
    }
    bb_free(d);
    return f ? BB_OK : BB_NOMEM;
}

/* What becomes of one matrix of a block: gain (NULL: none) and stream on the side that reads the residual, stream on the side that writes
 * it, values on the heads. Each turn NULL: not that one. */
typedef struct change {
    const float *gain;
    const turn  *reads, *writes, *value_rows, *value_columns;
} change;

static bb_status rotate_matrix(bb_rotated *r, const change *c, bb_matrix *w, bb_err *err)
{
    double   *d;
    bb_status status = BB_OK;
    if (w->rows == 0) return BB_OK;
    if (!(d = load(w, err))) return BB_NOMEM;
    for (size_t i = 0; c->gain && i < (size_t)w->rows * w->cols; i++) d[i] *= (double)c->gain[i % w->cols];
    if (c->reads) turn_inputs(c->reads, d, w->rows, w->cols, 0);
    if (c->writes) turn_outputs(c->writes, d, w->cols, 0);
    for (uint32_t at = 0; c->value_rows && at < w->rows; at += c->value_rows->n) turn_outputs(c->value_rows, d, w->cols, at);
    for (uint32_t at = 0; c->value_columns && at < w->cols; at += c->value_columns->n) turn_inputs(c->value_columns, d, w->rows, w->cols, at);
    BB_TRY(store(r, d, w, err));
    if (c->writes) BB_TRY(turn_bias(r, c->writes, w, 0, 1, err));
    if (c->value_rows) BB_TRY(turn_bias(r, c->value_rows, w, 0, w->rows / c->value_rows->n, err));
done:
    bb_free(d);
    return status;
}

/* The gains that can be moved into the parts that read the residual stream. */
static const float *input_norm(const bb_block *b, bb_sublayer s)
{
    for (int n = 0; n < BB_N_NORMS; n++)
        if (bb_norms[n].sublayer == s && bb_norms[n].place == BB_PLACE_INPUT) return b->norm[n];
    return NULL;
}

static bb_status rotate_block(bb_rotated *r, const turn *stream, const turn *values, const float *ones, bb_block *b, bb_err *err)
{
    bb_status status = BB_OK;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bool writes = !bb_part_cut_by_rows((bb_part)p);
        change     c = { 0 };
        if (stream && writes) c.writes = stream;
        if (stream && !writes) {
            c.reads = stream;
            c.gain = input_norm(b, bb_parts[p].sublayer);
        }
        if (p == BB_PART_V) c.value_rows = values;
        if (p == BB_PART_O) c.value_columns = values;
        BB_TRY(rotate_matrix(r, &c, &b->w[p], err));
    }
    for (int n = 0; stream && n < BB_N_NORMS; n++)
        if (bb_norms[n].place == BB_PLACE_INPUT && b->norm[n]) b->norm[n] = ones;
done:
    return status;
}

/* Embedding, head and last norm. */
static bb_status rotate_tables(bb_rotated *r, const turn *stream, const float *ones, bb_err *err)
{
    bb_net   *net = &r->model.net;
    change    embd = { .reads = stream }, head = { .gain = net->out_norm, .reads = stream };
    bb_status status;
    if (!net->head.rows) net->head = net->embd;
    BB_TRY(rotate_matrix(r, &embd, &net->embd, err));
    BB_TRY(rotate_matrix(r, &head, &net->head, err));
    net->out_norm = ones;
done:
    return status;
}

static bb_status check_arch(const bb_model *m, unsigned which, bb_err *err)
{
    if ((which & BB_ROTATE_STREAM) && !m->net.arch->separate_head)
        return BB_FAIL(err, BB_UNSUPPORTED, "architecture %s has no separate head: its residual stream cannot be rotated", m->net.arch->name);
    for (uint32_t i = 0; (which & BB_ROTATE_VALUES) && i < m->net.n_layer; i++)
        if (m->net.blocks[i].lacks || bb_head_dim(&m->net, &m->net.blocks[i]) != m->net.head_dim)
            return BB_FAIL(err, BB_UNSUPPORTED, "block %u has values without a matrix of their own, or heads of another size: its values cannot be rotated", i);
    for (uint32_t i = 0; (which & BB_ROTATE_STREAM) && i < m->net.n_layer; i++)
        for (int n = 0; n < BB_N_NORMS; n++)
            if (bb_norms[n].place == BB_PLACE_OUTPUT && m->net.blocks[i].norm[n])
                return BB_FAIL(err, BB_UNSUPPORTED, "architecture %s has norms of what joins the residual stream: it cannot be rotated", m->net.arch->name);
    return BB_OK;
}

static void set_identity(const bb_model *source, bb_model *m, unsigned which, uint64_t seed)
{
    bb_sha256 s;
    char      text[64];
    bb_sha256_init(&s);
    bb_sha256_text(&s, bb_model_sha256(source));
    snprintf(text, sizeof text, "rotated 1, which %u, seed %llu", which, (unsigned long long)seed);
    bb_sha256_text(&s, text);
    bb_sha256_hex(&s, m->identity);
}

bb_status bb_rotate(const bb_model *source, unsigned which, uint64_t seed, bb_rotated *out, bb_err *err)
{
    const bb_net *net = &source->net;
    const bool    turn_stream = which & BB_ROTATE_STREAM, turn_values = which & BB_ROTATE_VALUES;
    bb_block     *blocks;
    float        *ones;
    turn          stream = { 0 }, values = { 0 };
    bb_status     status;
    *out = (bb_rotated) { .model = *source };
    out->model.owned = NULL;
    out->model.n_owned = 0;
    out->model.identity = NULL;
    BB_TRY(check_arch(source, which, err));
    status = BB_NOMEM;
    if (!(out->owned = BB_NEW((size_t)net->n_layer * (BB_N_PARTS + 2) + 5, void *, err))) goto done;
    blocks = own(out, BB_NEW(net->n_layer, bb_block, err));
    ones = own(out, BB_NEW(net->n_embd, float, err));
    out->model.identity = own(out, BB_NEW0(65, char, err));
    if (!blocks || !ones || !out->model.identity) goto done;
    memcpy(blocks, net->blocks, net->n_layer * sizeof *blocks);
    out->model.net.blocks = blocks;
    for (uint32_t i = 0; i < net->n_embd; i++) ones[i] = 1;
    if (turn_stream) BB_TRY(turn_init(&stream, net->n_embd, seed, "rotate stream", err));
    if (turn_values) BB_TRY(turn_init(&values, net->head_dim, seed, "rotate values", err));
    for (uint32_t i = 0; i < net->n_layer; i++) BB_TRY(rotate_block(out, turn_stream ? &stream : NULL, turn_values ? &values : NULL, ones, &blocks[i], err));
    if (turn_stream) BB_TRY(rotate_tables(out, &stream, ones, err));
    set_identity(source, &out->model, which, seed);
    status = BB_OK;
done:
    turn_done(&stream);
    turn_done(&values);
    if (status != BB_OK) bb_rotated_done(out);
    return status;
}

void bb_rotated_done(bb_rotated *r)
{
    for (size_t i = 0; i < r->n_owned; i++) bb_free(r->owned[i]);
    bb_free(r->owned);
    *r = (bb_rotated) { .owned = NULL };
}
