/* SPDX-License-Identifier: GPL-3.0-or-later
 * statistics.c: see statistics.h.
 *
 * File, little endian: 8 bytes magic; u32 n_cols[4], u32 n_ff, u32 n_kv; u64 n_tokens[4]; then, each padded to 64 bytes:
 * u32 ff_order[n_ff], f64 ff_error[n_ff], u32 kv_order[n_kv], f64 kv_error[n_kv], f32 moments[n_cols][n_cols] of the inputs
 * that are there. A file is renamed into place when it is complete, so one that exists is right.
 */
#include "model/compress/statistics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/net/host.h"

enum { HEADER_BYTES = 64, ALIGN = 64, BATCH_WINDOWS = 8 };

static const char magic[9] = "BBMOM001";

/* The header as it lies in the file. Of BB_TOKEN it says nothing: its inputs have the widths that the network says, and the tokens of the others. */
enum { IN_HEADER = BB_FEED_TOKEN };
typedef struct header {
    char     magic[8];
    uint32_t n_cols[IN_HEADER], n_ff, n_kv;
    uint64_t n_tokens[IN_HEADER];
} header;

_Static_assert(sizeof(header) == HEADER_BYTES, "no padding in the file header");

/* ---- files ---- */

static void hash_tokens(const bb_statistics_config *c, char hex[65])
{
    const uint32_t shape[2] = { c->n_windows, c->ctx };
    bb_sha256      s;
    bb_sha256_init(&s);
    bb_sha256_update(&s, shape, sizeof shape);
    bb_sha256_update(&s, c->tokens, (size_t)c->n_windows * c->ctx * sizeof *c->tokens);
    bb_sha256_hex(&s, hex);
}

static char *path_of(const bb_statistics_config *c, const char *tokens_hash, uint32_t layer, bb_err *err)
{
    bb_sha256 s;
    char      hex[65], text[128];
    bb_sha256_init(&s);
    bb_sha256_text(&s, "bitbudget moments 3");
    bb_sha256_text(&s, bb_kernels_bits());
    bb_sha256_text(&s, bb_model_sha256(c->model));
    bb_sha256_text(&s, tokens_hash);
    snprintf(text, sizeof text, "layer %u, step %u", layer, c->ffn_step);
    bb_sha256_text(&s, text);
    if (c->unordered) bb_sha256_text(&s, "unordered");
    bb_sha256_hex(&s, hex);
    return bb_asprintf(err, "%s/moments-%.32s.bin", c->dir, hex);
}

static size_t padded(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

/* The next array of the file, or NULL when it would end behind it. */
static const void *take(const bb_map *map, size_t *at, uint64_t n, size_t size)
{
    size_t bytes, start = *at;
    if (n > SIZE_MAX / size) return NULL;
    bytes = (size_t)n * size;
    if (bytes > map->size || start > map->size - bytes) return NULL;
    *at = start + padded(bytes);
    return map->data + start;
}

/* Whether each of 0..n-1 is there once. */
static bb_status check_order(const uint32_t *order, uint32_t n, bool *good, bb_err *err)
{
    bool *seen = BB_NEW0(n, bool, err);
    if (!seen) return BB_NOMEM;
    *good = true;
    for (uint32_t i = 0; i < n && *good; i++) {
        *good = order[i] < n && !seen[order[i]];
        if (*good) seen[order[i]] = true;
    }
    bb_free(seen);
    return BB_OK;
}

/* Maps the file of one block; *found false when there is none or it does not have this block's shapes. */
static bb_status map_block(const char *path, const uint32_t n_cols[BB_N_FEEDS], uint32_t n_ff, uint32_t n_kv, bb_block_statistics *b, bool *found, bb_err *err)
{
    header    h;
    size_t    at = HEADER_BYTES;
    uint64_t  most = 0;
    bool      good = false;
    bb_status status;
    *found = false;
    *b = (bb_block_statistics) { 0 };
    if (!bb_file_exists(path)) return BB_OK;
    status = bb_map_open(path, &b->map, err);
    if (status != BB_OK) return status;
    if (b->map.size < sizeof h) goto unusable;
    memcpy(&h, b->map.data, sizeof h);
    if (memcmp(h.magic, magic, sizeof h.magic) != 0 || memcmp(h.n_cols, n_cols, sizeof h.n_cols) != 0) goto unusable;
    if (h.n_ff != n_ff || h.n_kv != n_kv) goto unusable;
    b->n_ff = h.n_ff;
    b->n_kv = h.n_kv;
    b->ff_order = take(&b->map, &at, h.n_ff, sizeof(uint32_t));
    b->ff_error = take(&b->map, &at, h.n_ff, sizeof(double));
    b->kv_order = take(&b->map, &at, h.n_kv, sizeof(uint32_t));
    b->kv_error = take(&b->map, &at, h.n_kv, sizeof(double));
    if (!b->ff_order || !b->ff_error || !b->kv_order || !b->kv_error) goto unusable;
    if ((status = check_order(b->ff_order, h.n_ff, &good, err)) == BB_OK && good) status = check_order(b->kv_order, h.n_kv, &good, err);
    if (status != BB_OK || !good) goto unusable;
    for (int i = 0; i < BB_N_FEEDS; i++) {
        /* bb_hessian owns its matrix elsewhere; here it only looks into the map, and nothing writes through it. */
        union {
            const void *c;
            float      *f;
        } data = { .c = take(&b->map, &at, (uint64_t)n_cols[i] * n_cols[i], sizeof(float)) };
        if (n_cols[i] && !data.c) goto unusable;
        b->in[i] = (bb_hessian) { .n_cols = n_cols[i], .n_tokens = i < IN_HEADER ? h.n_tokens[i] : most, .h = n_cols[i] ? data.f : NULL };
        if (i < IN_HEADER && h.n_tokens[i] > most) most = h.n_tokens[i];
    }
    *found = true;
    return BB_OK;
unusable:
    bb_map_close(&b->map);
    *b = (bb_block_statistics) { 0 };
    return status;
}

static void put(FILE *f, const void *data, size_t n, size_t size)
{
    static const char zeros[ALIGN] = { 0 };
    if (n) fwrite(data, size, n, f); /* errors are found at commit */
    fwrite(zeros, 1, padded(n * size) - n * size, f);
}

static bb_status write_block(const char *path, const bb_block_statistics *b, bb_err *err)
{
    bb_writer w = { 0 };
    header    h = { .n_ff = b->n_ff, .n_kv = b->n_kv };
    bb_status status = bb_writer_open(&w, path, err);
    if (status != BB_OK) return status;
    memcpy(h.magic, magic, sizeof h.magic);
    for (int i = 0; i < IN_HEADER; i++) {
        h.n_cols[i] = b->in[i].n_cols;
        h.n_tokens[i] = b->in[i].n_tokens;
    }
    put(w.stream, &h, 1, sizeof h);
    put(w.stream, b->ff_order, b->n_ff, sizeof(uint32_t));
    put(w.stream, b->ff_error, b->n_ff, sizeof(double));
    put(w.stream, b->kv_order, b->n_kv, sizeof(uint32_t));
    put(w.stream, b->kv_error, b->n_kv, sizeof(double));
    for (int i = 0; i < BB_N_FEEDS; i++) put(w.stream, b->in[i].h, (size_t)b->in[i].n_cols * b->in[i].n_cols, sizeof(float));
    return bb_writer_commit(&w, err);
}

/* ---- computing ---- */

float *bb_matrix_decode(const bb_matrix *m, bb_err *err)
{
    const bb_format *f = bb_format_get(m->type);
    float           *w = BB_NEW((size_t)m->rows * m->cols, float, err);
    const size_t     bytes = bb_format_row_bytes(f, m->cols);
    if (!w) return NULL;
#pragma omp parallel for
    for (uint32_t r = 0; r < m->rows; r++) f->decode((const unsigned char *)m->data + r * bytes, w + (size_t)r * m->cols, m->cols);
    return w;
}

/* Order of one matrix's input groups into fresh memory. */
static bb_status order_of(const bb_matrix *m, const bb_hessian *h, uint32_t group, uint32_t step, const uint32_t **order, const double **error, bb_err *err)
{
    const uint32_t n = m->cols / group;
    uint32_t      *kept = BB_NEW(n, uint32_t, err);
    double        *errors = BB_NEW(n, double, err);
    float         *w = bb_matrix_decode(m, err);
    bb_status      status = kept && errors && w ? BB_OK : BB_NOMEM;
    if (status == BB_OK) status = bb_mask_order(w, m->rows, m->cols, group, step, h, kept, errors, err);
    bb_free(w);
    *order = kept;
    *error = errors;
    return status;
}

/* The mask orders of a block whose second moments are there. */
static bb_status order_block(const bb_statistics_config *c, const bb_block *block, bb_block_statistics *b, bb_err *err)
{
    bb_status status = BB_OK;
    if (block->n_kv) {
        b->n_kv = block->n_kv;
        BB_TRY(order_of(&block->w[BB_PART_O], &b->in[BB_FEED_HEADS], block->w[BB_PART_O].cols / block->n_kv, 1, &b->kv_order, &b->kv_error, err));
    }
    if (block->n_ff) {
        b->n_ff = block->n_ff;
        BB_TRY(order_of(&block->w[BB_PART_DOWN], &b->in[BB_FEED_CHANNELS], 1, c->ffn_step, &b->ff_order, &b->ff_error, err));
    }
done:
    return status;
}

static void release_orders(bb_block_statistics *b)
{
    union {
        const void *c;
        void       *p;
    } owned[4] = { { b->ff_order }, { b->ff_error }, { b->kv_order }, { b->kv_error } };
    for (int i = 0; i < 4; i++) bb_free(owned[i].p);
}

typedef struct run {
    const bb_statistics_config *config;
    bb_forward                 *forward;
    float                      *h; /* [n_windows * ctx][W], at the current block's input */
    bb_progress                 progress;
} run;

/* All windows through one block; moments (may be NULL) collects its inputs. */
static bb_status pass_block(run *r, uint32_t layer, bb_hessians *moments, bb_err *err)
{
    const bb_statistics_config *c = r->config;
    const bb_net               *net = &c->model->net;
    for (uint32_t w = 0; w < c->n_windows; w += BATCH_WINDOWS) {
        uint32_t  S = c->n_windows - w < BATCH_WINDOWS ? c->n_windows - w : BATCH_WINDOWS;
        float    *h = r->h + (size_t)w * c->ctx * bb_row_width(net);
        bb_status status;
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while the inputs of block %u were measured", layer);
        if (moments) status = bb_hessians_collect(r->forward, net, &net->blocks[layer], S, c->ctx, h, moments, err);
        else status = bb_host_block(r->forward, net, &net->blocks[layer], S, c->ctx, h, NULL, NULL, err);
        if (status != BB_OK) return status;
        bb_progress_add(&r->progress, S);
    }
    return BB_OK;
}

static bb_status measure_block(run *r, uint32_t layer, const char *path, bb_err *err)
{
    bb_hessians         moments = { 0 };
    bb_block_statistics b = { 0 };
    bb_status           status;
    BB_TRY(pass_block(r, layer, &moments, err));
    BB_TRY(bb_hessians_finish(&moments, err));
    memcpy(b.in, moments.in, sizeof b.in);
    if (!r->config->unordered) BB_TRY(order_block(r->config, &r->config->model->net.blocks[layer], &b, err));
    BB_TRY(write_block(path, &b, err));
done:
    release_orders(&b);
    bb_hessians_done(&moments);
    bb_source_release(&r->config->model->source, layer); /* a block's weights are not read again before all blocks are done */
    return status;
}

/* Second moments of the hidden states after the output norm. */
static bb_status measure_head(run *r, const char *path, bb_err *err)
{
    const bb_statistics_config *c = r->config;
    const bb_net               *net = &c->model->net;
    const size_t                n = net->n_embd, n_tokens = c->ctx;
    bb_block_statistics         b = { 0 };
    float                      *x = BB_NEW(n_tokens * n, float, err);
    bb_status                   status = x ? BB_OK : BB_NOMEM;
    for (uint32_t w = 0; w < c->n_windows && status == BB_OK; w++) {
        const float *h = r->h + (size_t)w * n_tokens * bb_row_width(net);
        for (size_t t = 0; t < n_tokens; t++) bb_host_output_norm(net, h + t * bb_row_width(net), x + t * n);
        status = bb_hessian_add(&b.in[0], x, n_tokens, net->n_embd, c->ctx, err);
    }
    if (status == BB_OK) status = bb_hessian_finish(&b.in[0], err);
    if (status == BB_OK) status = write_block(path, &b, err);
    bb_hessian_done(&b.in[0]);
    bb_free(x);
    return status;
}

/* n_cols of the inputs of block `layer`; the head has one. */
static void shapes_of(const bb_net *net, uint32_t layer, uint32_t n_cols[BB_N_FEEDS])
{
    memset(n_cols, 0, BB_N_FEEDS * sizeof *n_cols);
    if (layer == net->n_layer) {
        n_cols[0] = net->n_embd;
        return;
    }
    for (int p = 0; p < BB_N_PARTS; p++)
        if (net->blocks[layer].w[p].rows) n_cols[bb_parts[p].feed] = net->blocks[layer].w[p].cols;
}

/* Measures every block from the first on; those that have their file are only passed. */
static bb_status measure_missing(const bb_statistics_config *c, char *const *paths, const bool *found, bb_err *err)
{
    const bb_net *net = &c->model->net;
    run           r = { .config = c };
    bb_status     status;
    uint32_t      last = net->n_layer;
    while (last > 0 && found[last]) last--;
    BB_TRY(bb_forward_create(c->backend, net, BATCH_WINDOWS, c->ctx, &r.forward, err));
    r.h = BB_SPILL((size_t)c->n_windows * c->ctx * bb_row_width(net), float, err);
    if (!r.h) {
        status = BB_NOMEM;
        goto done;
    }
    for (uint32_t w = 0; w < c->n_windows; w++)
        BB_TRY(bb_host_embed(r.forward, net, c->tokens + (size_t)w * c->ctx, 1, c->ctx, r.h + (size_t)w * c->ctx * bb_row_width(net), err));
    bb_progress_start(&r.progress, "inputs of the linears", (uint64_t)c->n_windows * (last < net->n_layer ? last + 1 : last));
    for (uint32_t layer = 0; layer <= last && layer < net->n_layer; layer++) {
        if (found[layer]) BB_TRY(pass_block(&r, layer, NULL, err));
        else BB_TRY(measure_block(&r, layer, paths[layer], err));
    }
    if (!found[net->n_layer]) BB_TRY(measure_head(&r, paths[net->n_layer], err));
    bb_progress_end(&r.progress);
done:
    bb_forward_destroy(r.forward);
    bb_free(r.h);
    return status;
}

static bb_status map_all(const bb_statistics_config *c, char *const *paths, bb_statistics *s, bool *found, bool *complete, bb_err *err)
{
    *complete = true;
    for (uint32_t layer = 0; layer <= s->n_layer; layer++) {
        const bb_block *block = layer < s->n_layer ? &c->model->net.blocks[layer] : NULL; /* NULL: the head */
        uint32_t        n_cols[BB_N_FEEDS];
        bb_status       status;
        if (s->blocks[layer].map.data) continue;
        shapes_of(&c->model->net, layer, n_cols);
        status = map_block(paths[layer], n_cols, block && !c->unordered ? block->n_ff : 0, block && !c->unordered ? block->n_kv : 0, &s->blocks[layer],
                           &found[layer], err);
        if (status != BB_OK) return status;
        *complete &= found[layer];
    }
    return BB_OK;
}

bb_status bb_statistics_open(const bb_statistics_config *c, bb_statistics *s, bb_err *err)
{
    const size_t n = (size_t)c->model->net.n_layer + 1;
    bb_status    status = BB_OK;
    char       **paths = BB_NEW0(n, char *, err);
    bool        *found = BB_NEW0(n, bool, err), complete = false;
    *s = (bb_statistics) { .n_layer = c->model->net.n_layer };
    hash_tokens(c, s->tokens_hash);
    s->blocks = BB_NEW0(n, bb_block_statistics, err);
    if (!paths || !found || !s->blocks) {
        status = BB_NOMEM;
        goto done;
    }
    for (uint32_t i = 0; i < n; i++)
        if (!(paths[i] = path_of(c, s->tokens_hash, i, err))) {
            status = BB_NOMEM;
            goto done;
        }
    BB_TRY(map_all(c, paths, s, found, &complete, err));
    if (!complete) {
        BB_TRY(measure_missing(c, paths, found, err));
        BB_TRY(map_all(c, paths, s, found, &complete, err));
        if (!complete) status = BB_FAIL(err, BB_IO, "%s: second moments that were just written cannot be read back", c->dir);
    }
done:
    for (size_t i = 0; paths && i < n; i++) bb_free(paths[i]);
    bb_free(paths);
    bb_free(found);
    if (status != BB_OK) bb_statistics_close(s);
    return status;
}

void bb_statistics_close(bb_statistics *s)
{
    for (uint32_t i = 0; s->blocks && i <= s->n_layer; i++) bb_map_close(&s->blocks[i].map);
    bb_free(s->blocks);
    *s = (bb_statistics) { 0 };
}
