/* SPDX-License-Identifier: GPL-3.0-or-later
 * gates.c: see gates.h.
 *
 * File, little endian: 8 bytes magic; for every block, attention then FFN: u32 n, u32 order[n], f64 nats[n] (of a block that lacks one, n is 0). It is
 * renamed into place when it is complete; one that does not fit the model is made again. */
#include "eval/gates.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "eval/gradient.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "model/compress/statistics.h"

static const char   magic[9] = "BBGATE01";
static const double metric_damping = 1e-3; /* of G, times the mean of its diagonal: a direction that few labels have seen still counts a little */

/* ---- the file ---- */

static char *path_of(const bb_model *m, const bb_database *db, const bb_gates_options *o, bb_err *err)
{
    bb_sha256 s;
    char      hex[65], text[128];
    bb_sha256_init(&s);
    bb_sha256_text(&s, "bitbudget gates 1");
    bb_sha256_text(&s, bb_kernels_bits());
    bb_sha256_text(&s, bb_model_sha256(m));
    bb_database_key(db, hex); /* of its calibration windows, too */
    bb_sha256_text(&s, hex);
    bb_windows_hash(o->windows, hex);
    bb_sha256_text(&s, hex);
    snprintf(text, sizeof text, "labels %u, seed %llu, step %u, damping %.17g", o->labels, (unsigned long long)o->seed, o->ffn_step, metric_damping);
    bb_sha256_text(&s, text);
    bb_sha256_hex(&s, hex);
    return bb_asprintf(err, "%s/gates-%.32s.bin", bb_database_dir(db), hex);
}

static bb_status allocate(bb_gates *g, const bb_net *net, bb_err *err)
{
    *g = (bb_gates) { .n_layer = net->n_layer };
    if (!(g->order = BB_NEW0(net->n_layer, bb_kept_order, err))) return BB_NOMEM;
    if (!(g->nats = bb_calloc(net->n_layer, sizeof *g->nats, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int s = 0; s < BB_TOKEN; s++) {
            const uint32_t n = bb_block_kept(&net->blocks[i], (bb_sublayer)s);
            if (n && (!(g->order[i].of[s] = BB_NEW(n, uint32_t, err)) || !(g->nats[i][s] = BB_NEW(n, double, err)))) return BB_NOMEM;
        }
    return BB_OK;
}

/* Whether each of 0 .. n - 1 is there once. */
static bool is_order(const uint32_t *order, uint32_t n)
{
    bool *seen = BB_NEW0(n, bool, NULL), good = seen != NULL;
    for (uint32_t i = 0; i < n && good; i++) {
        good = order[i] < n && !seen[order[i]];
        if (good) seen[order[i]] = true;
    }
    bb_free(seen);
    return good;
}

static bool read_file(const char *path, const bb_net *net, bb_gates *g)
{
    bb_map map = { NULL, 0 };
    bool   good = bb_file_exists(path) && bb_map_open(path, &map, NULL) == BB_OK && map.size >= 8 && memcmp(map.data, magic, 8) == 0;
    size_t at = 8;
    for (uint32_t i = 0; i < net->n_layer && good; i++)
        for (int s = 0; s < BB_TOKEN && good; s++) {
            const uint32_t n = bb_block_kept(&net->blocks[i], (bb_sublayer)s);
            const size_t   bytes = n * sizeof(uint32_t);
            uint32_t       is;
            if (map.size - at < sizeof is + bytes + n * sizeof(double)) good = false;
            if (!good) break;
            memcpy(&is, map.data + at, sizeof is);
            good = is == n;
            if (good && n) {
                memcpy(g->order[i].of[s], map.data + at + sizeof is, bytes);
                memcpy(g->nats[i][s], map.data + at + sizeof is + bytes, n * sizeof(double));
                good = is_order(g->order[i].of[s], n);
            }
            at += sizeof is + bytes + n * sizeof(double);
        }
    good = good && at == map.size;
    bb_map_close(&map);
    return good;
}

static bb_status write_file(const char *path, const bb_net *net, const bb_gates *g, bb_err *err)
{
    bb_writer w = { 0 };
    bb_status status = bb_writer_open(&w, path, err);
    if (status != BB_OK) return status;
    fwrite(magic, 1, 8, w.stream); /* errors are found at commit */
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int s = 0; s < BB_TOKEN; s++) {
            const uint32_t n = bb_block_kept(&net->blocks[i], (bb_sublayer)s);
            fwrite(&n, sizeof n, 1, w.stream);
            if (!n) continue;
            fwrite(g->order[i].of[s], sizeof(uint32_t), n, w.stream);
            fwrite(g->nats[i][s], sizeof(double), n, w.stream);
        }
    return bb_writer_commit(&w, err);
}

/* ---- the order ---- */

typedef struct gates {
    const bb_model         *model;
    const bb_database      *db;
    const bb_gates_options *o;
    bb_gates               *out;
} gates;

/* out (rows, cols) := L'W with L L' = G + damping. */
static bb_status in_metric(const bb_matrix_gradient *g, const float *w, float *out, bb_err *err)
{
    const size_t rows = g->rows, cols = g->cols;
    double      *l = BB_NEW(rows * rows, double, err), *wide = BB_NEW(rows * cols, double, err), *t = BB_NEW0(rows * cols, double, err), mean = 0;
    bb_status    status = l && wide && t ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    for (size_t i = 0; i < rows * rows; i++) l[i] = g->weight * (double)g->out[i];
    for (size_t i = 0; i < rows; i++) mean += l[i * rows + i] / (double)rows;
    for (size_t i = 0; i < rows; i++) l[i * rows + i] += mean > 0 ? metric_damping * mean : 1;
    BB_TRY(bb_cholesky(l, rows, err));
    for (size_t i = 0; i < rows; i++) /* L' */
        for (size_t j = 0; j < i; j++) {
            l[j * rows + i] = l[i * rows + j];
            l[i * rows + j] = 0;
        }
    for (size_t i = 0; i < rows * cols; i++) wide[i] = isfinite(w[i]) ? (double)w[i] : 0;
#pragma omp parallel for schedule(dynamic)
    for (size_t r = 0; r < rows; r += 64) bb_dgemm_nn(rows - r < 64 ? rows - r : 64, cols, rows, 1, l + r * rows, rows, wide, cols, 0, t + r * cols, cols);
    for (size_t i = 0; i < rows * cols; i++) out[i] = (float)t[i];
done:
    bb_free(l);
    bb_free(wide);
    bb_free(t);
    return status;
}

/* *sum := 1/2 tr(W A W') in the metric: what the KL is foreseen to be when all columns are gone. */
static bb_status whole(const float *w, uint32_t rows, const bb_hessian *h, double *sum, bb_err *err)
{
    const size_t n = h->n_cols;
    float       *t = BB_NEW(rows * n, float, err);
    *sum = 0;
    if (!t) return BB_NOMEM;
#pragma omp parallel for schedule(dynamic)
    for (size_t r = 0; r < rows; r += 64) bb_sgemm_nn(rows - r < 64 ? rows - r : 64, n, n, 1, w + r * n, n, h->h, n, 0, t + r * n, n);
    for (size_t i = 0; i < rows * n; i++) *sum += 0.5 * (double)w[i] * (double)t[i];
    bb_free(t);
    return BB_OK;
}

static bb_status order_sublayer(gates *g, uint32_t layer, bb_sublayer s, const bb_matrix_gradient *part, const float *w, bb_err *err)
{
    const uint32_t    n = bb_block_kept(&g->model->net.blocks[layer], s);
    const bb_hessian *h = bb_database_moments(g->db, layer, bb_parts[bb_sublayers[s].writer].feed);
    double           *nats = g->out->nats[layer][s];
    float            *scaled = BB_NEW((size_t)part->rows * part->cols, float, err);
    double            all;
    bb_status         status = scaled ? BB_OK : BB_NOMEM;
    if (status != BB_OK) return status;
    BB_TRY(in_metric(part, w, scaled, err));
    BB_TRY(bb_mask_order(scaled, part->rows, part->cols, part->cols / n, s == BB_FFN ? g->o->ffn_step : 1, h, g->out->order[layer].of[s], nats, err));
    BB_TRY(whole(scaled, part->rows, h, &all, err));
    for (uint32_t i = 0; i < n; i++) nats[i] *= all;
done:
    bb_free(scaled);
    return status;
}

static bb_status order_block(void *self, uint32_t layer, const bb_block *block, const bb_matrix_gradient *part, bb_err *err)
{
    gates    *g = self;
    bb_status status = BB_OK;
    for (int s = 0; s < BB_TOKEN; s++) {
        const bb_part p = bb_sublayers[s].writer;
        if (!bb_block_has(block, (bb_sublayer)s)) continue;
        float *w = bb_matrix_decode(&block->w[p], err);
        status = w ? order_sublayer(g, layer, (bb_sublayer)s, &part[p], w, err) : BB_NOMEM;
        bb_free(w);
        BB_TRY(status);
    }
done:
    return status;
}

bb_status bb_gates_open(bb_net_evaluator *e, const bb_model *model, const bb_database *db, const bb_gates_options *o, bb_gates *out, bb_err *err)
{
    const bb_net             *net = &model->net;
    gates                     g = { model, db, o, out };
    const bb_gradient_options of = { .level = 0, .windows = o->windows, .widest = net, .labels = o->labels, .seed = o->seed };
    const bb_gradient_visitor visitor = { .self = &g, .block = order_block };
    bb_evaluation             at;
    char                     *path = path_of(model, db, o, err);
    bb_status                 status = path ? BB_OK : BB_NOMEM;
    *out = (bb_gates) { 0 };
    BB_TRY(status);
    BB_TRY(allocate(out, net, err));
    if (read_file(path, net, out)) goto done;
    BB_TRY(bb_gradient_run(e, net, &of, &visitor, &at, err));
    BB_TRY(write_file(path, net, out, err));
done:
    bb_free(path);
    if (status != BB_OK) bb_gates_done(out);
    return status;
}

void bb_gates_done(bb_gates *g)
{
    for (uint32_t i = 0; i < g->n_layer; i++)
        for (int s = 0; s < BB_TOKEN; s++) {
            if (g->order) bb_free(g->order[i].of[s]);
            if (g->nats) bb_free(g->nats[i][s]);
        }
    bb_free(g->order);
    bb_free(g->nats);
    *g = (bb_gates) { 0 };
}
