/* SPDX-License-Identifier: GPL-3.0-or-later
 * weights.c: bb_model_check_weights (model.h): every weight of a file decoded once and looked at. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/model.h"

enum { LARGE_FILE = 256 << 20 }; /* reading a file larger than this shows progress */

/* The largest magnitude that every block of a type can hold: that of its F16 (scale), of NVFP4's E4M3 scale, of float32's exponents. */
static float largest(bb_type type)
{
    if (type == BB_F32 || type == BB_BF16 || type == BB_MXFP4) return FLT_MAX;
    return type == BB_NVFP4 ? 6.0f * 448.0f : 65504.0f;
}

/* The type that a tensor's weights are to get; its own when nothing is planned for it. */
static bb_type planned(const bb_net *from, const bb_net *to, const bb_tensor *t)
{
    const unsigned char *first = t->data, *end = first + t->size_bytes;
    const bb_matrix     *a, *b;
    for (uint32_t i = 0; i < from->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            a = &from->blocks[i].w[p];
            b = &to->blocks[i].w[p];
            if (a->rows && (const unsigned char *)a->data >= first && (const unsigned char *)a->data < end && b->rows) return b->type;
        }
    if (from->embd.data == t->data) return to->embd.type;
    if (from->head.rows && from->head.data == t->data) return to->head.type;
    if (from->token.width && from->token.table.data == t->data) return to->token.table.type;
    return t->type;
}

/* Index of the first weight of a row whose magnitude has more than `limit` as bits (so also Inf and NaN); n when none has. */
static uint64_t first_above(const float *w, uint64_t n, uint32_t limit)
{
    uint32_t most = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits = bb_float_bits(w[i]) & 0x7FFFFFFFu;
        most = bits > most ? bits : most;
    }
    if (most <= limit) return n;
    for (uint64_t i = 0; i < n; i++)
        if ((bb_float_bits(w[i]) & 0x7FFFFFFFu) > limit) return i;
    return n;
}

static bb_status refuse(const bb_tensor *t, uint64_t row, uint64_t column, float x, bb_type to, bb_err *err)
{
    char place[64], value[32];
    if (t->ne[1] > 1) snprintf(place, sizeof place, "row %llu, column %llu", (unsigned long long)row, (unsigned long long)column);
    else snprintf(place, sizeof place, "place %llu", (unsigned long long)column);
    if (isfinite(x)) {
        snprintf(value, sizeof value, "%g", (double)x);
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has the weight %s (%s), beyond the +-%g that %s can hold: the file is damaged, or needs another type",
                       t->name, value, place, (double)largest(to), bb_format_get(to)->name);
    }
    return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has the weight %s (%s), which is no number: the file is damaged", t->name,
                   isnan(x) ? "NaN"
                   : x > 0  ? "Inf"
                            : "-Inf",
                   place);
}

static bb_status check_tensor(const bb_tensor *t, bb_type to, bb_err *err)
{
    const bb_format *f = bb_format_get(t->type);
    const uint64_t   n = t->ne[0], rows = t->ne[1] * t->ne[2] * t->ne[3], row_bytes = rows ? t->size_bytes / rows : 0;
    const uint32_t   limit = bb_float_bits(to == t->type ? FLT_MAX : largest(to));
    uint64_t         worst = UINT64_MAX, column = 0;
    float            x = 0;
    bool             failed = false;
    if (!f || n == 0 || rows == 0) return BB_OK;
#pragma omp parallel
    {
        float *w = bb_alloc((size_t)n, sizeof *w, NULL);
        if (!w) {
#pragma omp critical(bb_check_weights)
            failed = true;
        }
#pragma omp for schedule(static)
        for (uint64_t r = 0; r < rows; r++) {
            if (!w) continue;
            f->decode((const unsigned char *)t->data + r * row_bytes, w, (size_t)n);
            uint64_t i = first_above(w, n, limit);
            if (i == n) continue;
#pragma omp critical(bb_check_weights)
            if (r < worst) {
                worst = r;
                column = i;
                x = w[i];
            }
        }
        bb_free(w);
    }
    if (failed) return BB_FAIL(err, BB_NOMEM, "out of memory");
    return worst == UINT64_MAX ? BB_OK : refuse(t, worst, column, x, to, err);
}

/* What is compressed is written for llama.cpp in the end, and a search would take the floats that a lattice stands for as the source's own. */
bb_status bb_model_refuse_lattice(const bb_model *m, bb_err *err)
{
    for (uint32_t i = 0; i < m->net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++)
            if (m->net.blocks[i].w[p].lattice)
                return BB_FAIL(err, BB_UNSUPPORTED,
                               "%s: blk.%u.%s has type LC2, of bitbudget alone: such a file can be evaluated, generated from and trained (qat); to compress, "
                               "give the model that it was made from",
                               m->path ? m->path : "model", i, bb_parts[p].name);
    return BB_OK;
}

bb_status bb_model_check_weights(const bb_model *m, bool quantizes, const bb_net *to, bb_err *err)
{
    bb_err      inner = BB_ERR_INIT;
    bb_progress progress;
    bb_status   status = BB_OK;
    bool        large = m->source.size_bytes > LARGE_FILE;
    if (large) bb_progress_start(&progress, "read the weights", m->source.size_bytes >> 20);
    for (uint64_t i = 0; status == BB_OK && i < m->source.n_tensors; i++) {
        const bb_tensor *t = &m->source.tensors[i];
        bool             matrix = t->ne[1] * t->ne[2] * t->ne[3] > 1;
        status = check_tensor(t, !quantizes || !matrix ? t->type : to ? planned(&m->net, to, t) : BB_F16, &inner);
        if (status == BB_OK && bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while the weights were read");
        if (large) bb_progress_add(&progress, t->size_bytes >> 20);
    }
    if (large && status == BB_OK) bb_progress_end(&progress);
    return status == BB_OK ? BB_OK : BB_FAIL(err, status, "%s: %s", m->path ? m->path : "model", inner.msg);
}
