/* SPDX-License-Identifier: GPL-3.0-or-later
 * sizes.c: see sizes.h.
 *
 * A file is its keys, the infos of its tensors, and their data. Types change the data alone; everything else follows from the shapes, and of those
 * from few things at once: the keys from the architecture, the number of blocks and whether shapes are said at all; what a block has besides the
 * plan's matrices (norms, biases, stand-ins, its infos) from the architecture, from its own two structure options and from whether it comes first. All
 * of that is asked of the exporter itself, once, with F32 in place of every type; the choice between the cases is the exporter's own code as well. What
 * is left are the matrices: rows times bytes of a row, padded for each tensor, which holds one matrix, or q, k and v together.
 */
#include "model/export/sizes.h"

#include <string.h>

#include "base/mem.h"
#include "model/compress/plan_units.h"
#include "model/export/export_internal.h"
#include "model/io/gguf_internal.h"

enum { KEPT, CHANGED, N_ARCHS, NO_BYTES = -1 };

/* A block without its plan's matrices. */
typedef struct cell {
    uint64_t data;
    uint32_t infos, n_tensors;
    bool     refused;
} cell;

/* The matrices of one unit, or of none. */
typedef struct matrix {
    uint32_t       unit; /* BB_NO_UNIT: `type` */
    bb_type        type;
    uint32_t       n_options;
    const int64_t *bytes; /* [options of the structure][n_options], not padded; NO_BYTES: the rows are no whole number of blocks */
    int64_t       *owned;
} matrix;

/* One structure of a block: the attention or the FFN, or what a token gives to it, which has one option. */
typedef struct structure {
    uint32_t unit, n_options; /* BB_NO_UNIT: as in the source, one option */
    uint32_t full;
} structure;

typedef struct block_sizes {
    structure   s[BB_N_SUBLAYERS];
    matrix      w[BB_N_PARTS];
    uint32_t    heads_a_group;
    const cell *cells; /* [N_ARCHS][comes first: 1][options of s[0]][options of s[1]] */
    cell       *owned;
} block_sizes;

enum { N_OUTER = 3 }; /* embedding, head, the table of per-layer embeddings */

struct bb_export_sizes {
    const bb_model      *model;
    const bb_plan_space *space;
    bb_exporter          proto; /* source, net and its architecture */
    uint32_t             alignment, n_layer;
    bool                 takes_mixed;
    uint64_t            *keys[N_ARCHS][2]; /* [n_layer + 1] bytes by blocks; the second: shapes are said */
    bool                 refused[N_ARCHS];
    uint64_t             outer_infos, outer_data;
    matrix               outer[N_OUTER];
    block_sizes         *blocks;
};

/* bytes: of a matrix, and so far from the limit (matrix_bytes). */
static uint64_t padded(const bb_export_sizes *t, uint64_t bytes)
{
    (void)bb_gguf_pad(bytes, t->alignment, &bytes);
    return bytes;
}

/* ---- what the exporter says ---- */

/* Runs `put` on an exporter of its own and measures what it has put. */
typedef struct question {
    bb_exporter *e;
    bb_status (*put)(const struct question *q, bb_err *err);
    uint32_t at;
    bool     differs;
} question;

static bb_status ask(const bb_export_sizes *t, const question *q, bb_gguf_bytes *bytes, bb_err *err)
{
    bb_exporter *e = q->e;
    bb_status    status;
    *bytes = (bb_gguf_bytes) { 0 };
    BB_TRY(bb_gguf_out_create(&e->out, err));
    BB_TRY(q->put(q, err));
    BB_TRY(bb_gguf_out_bytes(e->out, t->alignment, bytes, err));
done:
    bb_gguf_out_destroy(e->out);
    e->out = NULL;
    for (size_t i = 0; i < e->n_owned; i++) bb_free(e->owned[i]);
    bb_free(e->owned);
    e->owned = NULL;
    e->n_owned = e->room = 0;
    return status;
}

static bb_status put_keys(const question *q, bb_err *err) { return bb_exporter_put_keys(q->e, NULL, q->differs, err); }
static bb_status put_outer(const question *q, bb_err *err) { return bb_exporter_put_outer(q->e, err); }

static bb_status put_block(const question *q, bb_err *err)
{
    const bb_status status = q->e->given[BB_COUNT_HEADS][q->at] ? bb_exporter_check_attention(q->e, q->at, err) : BB_OK;
    return status == BB_OK ? bb_exporter_put_block(q->e, q->at, err) : status;
}

/* An exporter with room for n blocks on the caller's stack. */
typedef struct room {
    uint32_t from[BB_MAX_LAYERS], given[BB_N_COUNTS][BB_MAX_LAYERS], shape[BB_N_COUNTS][BB_MAX_LAYERS];
} room;

static bb_exporter exporter_in(const bb_export_sizes *t, room *r)
{
    bb_exporter e = t->proto;
    e.from = r->from;
    for (int k = 0; k < BB_N_COUNTS; k++) {
        e.given[k] = r->given[k];
        e.shape[k] = r->shape[k];
    }
    return e;
}

static void give(bb_exporter *e, uint32_t from, uint32_t n_head, uint32_t n_kv, uint32_t n_ff)
{
    e->from[e->n_layer] = from;
    e->given[BB_COUNT_HEADS][e->n_layer] = n_head;
    e->given[BB_COUNT_KV][e->n_layer] = n_kv;
    e->given[BB_COUNT_FF][e->n_layer] = n_ff;
    e->n_layer++;
}

static bb_status read_alignment(bb_export_sizes *t, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_gguf_out_create(&t->proto.out, err));
    for (uint64_t i = 0; i < t->model->source.n_kv; i++) BB_TRY(bb_gguf_put_copy(t->proto.out, &t->model->source.kv[i], err));
    BB_TRY(bb_gguf_out_alignment(t->proto.out, &t->alignment, err));
done:
    bb_gguf_out_destroy(t->proto.out);
    t->proto.out = NULL;
    return status;
}

static bb_status fill_keys(bb_export_sizes *t, bb_err *err)
{
    bb_status status = BB_OK;
    room      r;
    for (int arch = KEPT; arch < N_ARCHS; arch++)
        for (int differs = 0; differs < 2; differs++) {
            bb_exporter e = exporter_in(t, &r);
            question    q = { .e = &e, .put = put_keys, .differs = differs == 1 };
            status = BB_NOMEM;
            if (!(t->keys[arch][differs] = BB_NEW0((size_t)t->n_layer + 1, uint64_t, err))) goto done;
            if ((t->refused[arch] = bb_exporter_choose_arch(&e, arch == KEPT, NULL) != BB_OK)) continue;
            for (uint32_t n = 1; n <= t->n_layer; n++) {
                bb_gguf_bytes b;
                give(&e, n - 1, 1, 1, 1);
                bb_exporter_choose_shapes(&e);
                BB_TRY(ask(t, &q, &b, err));
                t->keys[arch][differs][n] = b.keys;
            }
        }
    status = BB_OK;
done:
    return status;
}

/* ---- matrices ---- */

static int64_t matrix_bytes(bb_matrix w, bb_type type)
{
    const bb_tensor tensor = { .type = type, .n_dims = 2, .ne = { w.cols, w.rows, 1, 1 } };
    uint64_t        bytes = 0;
    if (w.rows == 0) return 0;
    return bb_gguf_tensor_bytes(&tensor, &bytes, NULL) == BB_OK && bytes < INT64_MAX / 4 ? (int64_t)bytes : NO_BYTES;
}

static int64_t bytes_at(const bb_export_sizes *t, const matrix *w, const uint16_t *x, uint32_t structure_option, bb_type *type)
{
    const uint32_t o = w->unit == BB_NO_UNIT ? 0 : x[w->unit];
    *type = w->unit == BB_NO_UNIT ? w->type : (bb_type)t->space->units[w->unit].options[o].value;
    return w->bytes[(size_t)structure_option * w->n_options + o];
}

/* The table of one matrix; of[row]: it under option `row` of its structure. */
static bb_status fill_matrix(const bb_export_sizes *t, matrix *w, uint32_t unit, const bb_matrix *of, uint32_t rows, bb_err *err)
{
    w->unit = unit;
    w->type = of[0].type;
    w->n_options = unit == BB_NO_UNIT ? 1 : t->space->units[unit].n_options;
    if (!(w->bytes = w->owned = BB_NEW((size_t)rows * w->n_options, int64_t, err))) return BB_NOMEM;
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t o = 0; o < w->n_options; o++)
            w->owned[(size_t)row * w->n_options + o] = matrix_bytes(of[row], unit == BB_NO_UNIT ? w->type : (bb_type)t->space->units[unit].options[o].value);
    return BB_OK;
}

static bool is_experimental(bb_type type)
{
    const bb_format *f = bb_format_get(type);
    return f && f->experimental;
}

/* Data of the tensors of `arch` that hold a block's matrices; false where they cannot be written. F32 when x is NULL. *experimental: becomes true where
 * a type is. */
static bool block_data(const bb_export_sizes *t, const bb_block *f32, const block_sizes *b, const uint16_t *x, const uint32_t option[BB_N_SUBLAYERS],
                       const bb_arch *arch, uint64_t *data, bool *experimental)
{
    uint64_t together[BB_N_FEEDS] = { 0 };
    bb_type  first[BB_N_FEEDS], type = BB_F32;
    for (uint32_t p = 0; p < BB_N_PARTS; p++) {
        const int64_t bytes = f32 ? matrix_bytes(f32->w[p], BB_F32) : bytes_at(t, &b->w[p], x, option[bb_parts[p].sublayer], &type);
        if (bytes < 0) return false;
        *experimental |= bytes && is_experimental(type);
        const bb_feed feed = bb_parts[p].feed;
        if (!arch->fused[feed]) {
            *data += padded(t, (uint64_t)bytes);
            continue;
        }
        if (!together[feed]) first[feed] = type;
        if (bytes && type != first[feed]) return false;
        together[feed] += (uint64_t)bytes;
    }
    for (int f = 0; f < BB_N_FEEDS; f++) *data += padded(t, together[f]);
    return true;
}

/* ---- blocks ---- */

static uint32_t find_unit(const bb_plan_space *s, uint32_t what, uint32_t layer)
{
    for (uint32_t u = 0; u < s->n_units; u++)
        if (s->units[u].what == what && s->units[u].layer == layer) return u;
    return BB_NO_UNIT;
}

static uint32_t kept_at(const bb_export_sizes *t, const structure *s, uint32_t option)
{
    return s->unit == BB_NO_UNIT ? s->full : bb_width_count(t->space->units[s->unit].options[option].value);
}

/* Block i under one option of each structure, all F32. */
static bb_block block_at(const bb_export_sizes *t, uint32_t i, const uint32_t option[BB_N_SUBLAYERS])
{
    bb_block b = t->model->net.blocks[i];
    for (unsigned p = 0; p < BB_N_PARTS; p++) {
        b.w[p].data = NULL;
        b.w[p].type = BB_F32;
    }
    for (int k = 0; k < BB_N_SUBLAYERS; k++)
        if (t->blocks[i].s[k].full) bb_block_keep(&t->model->net, &b, (bb_sublayer)k, kept_at(t, &t->blocks[i].s[k], option[k]));
    return b;
}

static size_t cell_of(const block_sizes *b, int arch, bool first, const uint32_t option[BB_N_SUBLAYERS])
{
    return (((size_t)arch * 2 + first) * b->s[0].n_options + option[0]) * b->s[1].n_options + option[1];
}

static bb_status fill_cell(const bb_export_sizes *t, uint32_t i, int arch, bool first, const uint32_t option[BB_N_SUBLAYERS], cell *c, bb_err *err)
{
    bb_block      block = block_at(t, i, option);
    bb_net        net = t->model->net;
    room          r;
    bb_exporter   e = exporter_in(t, &r);
    question      q = { .e = &e, .put = put_block, .at = !first };
    bb_gguf_bytes bytes;
    uint64_t      matrices = 0;
    bool          unused = false;
    bb_status     status;
    net.blocks = &block;
    e.net = &net;
    for (int k = 0; k < 2; k++) give(&e, 0, block.n_head, block.n_kv, block.n_ff); /* the same twice: the second comes later */
    c->refused = !bb_exporter_needs_block(&block) || bb_exporter_choose_arch(&e, arch == KEPT, NULL) != BB_OK;
    if (c->refused) return BB_OK;
    bb_exporter_choose_shapes(&e);
    status = ask(t, &q, &bytes, err);
    if (status == BB_NOMEM) return status;
    c->refused = status != BB_OK || !block_data(t, &block, &t->blocks[i], NULL, option, e.arch, &matrices, &unused);
    BB_ASSERT(c->refused || bytes.data >= matrices);
    *c = (cell) { bytes.data - matrices, (uint32_t)bytes.infos, (uint32_t)bytes.n_tensors, c->refused };
    return BB_OK;
}

/* Whether two blocks have the same cells: shapes, options, and which vectors there are. */
static bool are_alike(const bb_export_sizes *t, uint32_t i, uint32_t j)
{
    const bb_block    *a = &t->model->net.blocks[i], *b = &t->model->net.blocks[j];
    const block_sizes *s = &t->blocks[i], *r = &t->blocks[j];
    if (a->n_head != b->n_head || a->n_kv != b->n_kv || a->n_ff != b->n_ff) return false;
    if (a->n_token != b->n_token || a->kv_role != b->kv_role || a->local != b->local || a->lacks != b->lacks || bb_scales(a->scale) != bb_scales(b->scale) ||
        (a->scale > 0) != (b->scale > 0))
        return false;
    for (int n = 0; n < BB_N_NORMS; n++)
        if (!a->norm[n] != !b->norm[n]) return false;
    for (int p = 0; p < BB_N_PARTS; p++)
        if (!a->w[p].bias != !b->w[p].bias || a->w[p].rows != b->w[p].rows || a->w[p].cols != b->w[p].cols) return false;
    for (int k = 0; k < 2; k++) {
        if (s->s[k].n_options != r->s[k].n_options) return false;
        for (uint32_t o = 0; o < s->s[k].n_options; o++)
            if (kept_at(t, &s->s[k], o) != kept_at(t, &r->s[k], o)) return false;
    }
    return true;
}

static bb_status fill_cells(bb_export_sizes *t, uint32_t i, bb_err *err)
{
    block_sizes *b = &t->blocks[i];
    bb_status    status = BB_OK;
    for (uint32_t j = 0; j < i && !b->cells; j++)
        if (are_alike(t, i, j)) b->cells = t->blocks[j].cells;
    if (b->cells) return BB_OK;
    if (!(b->owned = BB_NEW0((size_t)N_ARCHS * 2 * b->s[0].n_options * b->s[1].n_options, cell, err))) return BB_NOMEM;
    b->cells = b->owned;
    for (int arch = KEPT; arch < N_ARCHS; arch++)
        for (int first = 0; first < 2; first++)
            for (uint32_t kv = 0; kv < b->s[0].n_options; kv++)
                for (uint32_t ff = 0; ff < b->s[1].n_options; ff++) {
                    const uint32_t option[BB_N_SUBLAYERS] = { kv, ff };
                    BB_TRY(fill_cell(t, i, arch, first == 1, option, &b->owned[cell_of(b, arch, first == 1, option)], err));
                }
done:
    return status;
}

static bb_status fill_block(bb_export_sizes *t, uint32_t i, bb_err *err)
{
    block_sizes    *b = &t->blocks[i];
    const bb_block *k = &t->model->net.blocks[i];
    bb_matrix      *of = NULL;
    bb_status       status = BB_OK;
    b->heads_a_group = k->n_kv ? k->n_head / k->n_kv : 0;
    for (int j = 0; j < BB_N_SUBLAYERS; j++) {
        const uint32_t unit = find_unit(t->space, bb_unit_of_sublayer((bb_sublayer)j), i);
        b->s[j] = (structure) { unit, unit == BB_NO_UNIT ? 1 : t->space->units[unit].n_options, bb_block_kept(k, (bb_sublayer)j) };
    }
    for (uint32_t p = 0; p < BB_N_PARTS; p++) {
        const int side = (int)bb_parts[p].sublayer;
        status = BB_NOMEM;
        if (!(of = BB_NEW(b->s[side].n_options, bb_matrix, err))) goto done;
        for (uint32_t o = 0; o < b->s[side].n_options; o++) {
            uint32_t option[BB_N_SUBLAYERS] = { 0 };
            option[side] = o;
            of[o] = block_at(t, i, option).w[p];
            of[o].type = k->w[p].type;
        }
        BB_TRY(fill_matrix(t, &b->w[p], find_unit(t->space, p, i), of, b->s[side].n_options, err));
        bb_free(of);
        of = NULL;
    }
    BB_TRY(fill_cells(t, i, err));
done:
    bb_free(of);
    return status;
}

/* Embedding, head and the vectors beside them. */
static bb_status fill_outer(bb_export_sizes *t, bb_err *err)
{
    static const uint32_t what[N_OUTER] = { BB_UNIT_EMBD, BB_UNIT_HEAD, BB_UNIT_TABLE };
    const bb_matrix       w[N_OUTER] = { t->model->net.embd, t->model->net.head, t->model->net.token.table };
    bb_net                net = t->model->net;
    bb_exporter           e = t->proto;
    const question        q = { .e = &e, .put = put_outer };
    bb_gguf_bytes         bytes;
    bb_status             status;
    net.embd.type = net.head.type = net.token.table.type = BB_F32;
    e.net = &net;
    for (int k = 0; k < N_OUTER; k++) BB_TRY(fill_matrix(t, &t->outer[k], find_unit(t->space, what[k], 0), &w[k], 1, err));
    BB_TRY(ask(t, &q, &bytes, err));
    t->outer_infos = bytes.infos;
    t->outer_data = bytes.data;
    for (int k = 0; k < N_OUTER; k++) t->outer_data -= padded(t, (uint64_t)matrix_bytes(w[k], BB_F32));
done:
    return status;
}

bb_status bb_export_sizes_create(const bb_model *m, const bb_plan_space *s, bb_export_sizes **out, bb_err *err)
{
    bb_export_sizes *t = BB_NEW0(1, bb_export_sizes, err);
    bb_status        status = BB_NOMEM;
    *out = NULL;
    if (!t) return BB_NOMEM;
    BB_ASSERT(m->net.n_layer <= BB_MAX_LAYERS);
    t->model = m;
    t->space = s;
    t->n_layer = m->net.n_layer;
    t->takes_mixed = bb_arch_takes_mixed(&m->net);
    t->proto = (bb_exporter) { .source = m, .net = &m->net };
    if (!(t->blocks = BB_NEW0(t->n_layer, block_sizes, err))) goto done;
    BB_TRY(read_alignment(t, err));
    BB_TRY(fill_keys(t, err));
    BB_TRY(fill_outer(t, err));
    for (uint32_t i = 0; i < t->n_layer; i++) BB_TRY(fill_block(t, i, err));
    *out = t;
    t = NULL;
done:
    bb_export_sizes_destroy(t);
    return status;
}

uint32_t bb_export_sizes_alignment(const bb_export_sizes *t) { return t->alignment; }
uint64_t bb_export_sizes_experimental(void) { return bb_exporter_experimental_bytes(); }

void bb_export_sizes_destroy(bb_export_sizes *t)
{
    if (!t) return;
    for (uint32_t i = 0; t->blocks && i < t->n_layer; i++) {
        for (int p = 0; p < BB_N_PARTS; p++) bb_free(t->blocks[i].w[p].owned);
        bb_free(t->blocks[i].owned);
    }
    for (int arch = KEPT; arch < N_ARCHS; arch++)
        for (int differs = 0; differs < 2; differs++) bb_free(t->keys[arch][differs]);
    for (int k = 0; k < N_OUTER; k++) bb_free(t->outer[k].owned);
    bb_free(t->blocks);
    bb_free(t);
}

/* ---- one plan ---- */

static uint32_t digits(uint32_t n)
{
    uint32_t d = 1;
    for (; n >= 10; n /= 10) d++;
    return d;
}

static uint32_t option_of(const structure *s, const uint16_t *x) { return s->unit == BB_NO_UNIT ? 0 : x[s->unit]; }

/* Blocks as plan x leaves them, with the index of each in from. */
static void give_blocks(const bb_export_sizes *t, const uint16_t *x, bb_exporter *e)
{
    for (uint32_t i = 0; i < t->n_layer; i++) {
        const block_sizes *b = &t->blocks[i];
        const uint32_t     kv = b->s[0].full ? kept_at(t, &b->s[0], option_of(&b->s[0], x)) : 0;
        const uint32_t     ff = b->s[1].full ? kept_at(t, &b->s[1], option_of(&b->s[1], x)) : 0;
        if (kv || ff || t->model->net.blocks[i].n_token || bb_scales(t->model->net.blocks[i].scale)) give(e, i, kv * b->heads_a_group, kv, ff);
    }
}

/* Parts of one tensor of the source's architecture, with different types. */
static bool is_mixed(const bb_export_sizes *t, const uint16_t *x, const bb_exporter *e)
{
    for (uint32_t i = 0; i < e->n_layer; i++) {
        const block_sizes *b = &t->blocks[e->from[i]];
        int                first[BB_N_FEEDS];
        for (int f = 0; f < BB_N_FEEDS; f++) first[f] = -1;
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_feed    feed = bb_parts[p].feed;
            const structure *s = &b->s[bb_parts[p].sublayer];
            bb_type          type;
            if (!t->model->net.arch->fused[feed] || !s->full || !kept_at(t, s, option_of(s, x))) continue;
            bytes_at(t, &b->w[p], x, option_of(s, x), &type);
            if (first[feed] >= 0 && first[feed] != (int)type) return true;
            first[feed] = (int)type;
        }
    }
    return false;
}

bool bb_export_sizes_of(const bb_export_sizes *t, const uint16_t *x, uint64_t *bytes)
{
    room        r;
    bb_exporter e = exporter_in(t, &r);
    bb_type     type;
    bool        experimental = false;
    give_blocks(t, x, &e);
    if (e.n_layer == 0) return false;
    e.mixed = t->takes_mixed && is_mixed(t, x, &e);
    const int arch = bb_exporter_keeps_arch(&e) ? KEPT : CHANGED;
    if (t->refused[arch] || bb_exporter_choose_arch(&e, arch == KEPT, NULL) != BB_OK) return false;
    bb_exporter_choose_shapes(&e);
    uint64_t head = BB_GGUF_START + t->keys[arch][bb_exporter_differs(&e)][e.n_layer] + t->outer_infos, data = t->outer_data;
    for (int k = 0; k < N_OUTER; k++) {
        const int64_t one = bytes_at(t, &t->outer[k], x, 0, &type);
        if (one < 0) return false;
        experimental |= one && is_experimental(type);
        data += padded(t, (uint64_t)one);
    }
    for (uint32_t i = 0; i < e.n_layer; i++) {
        const block_sizes *b = &t->blocks[e.from[i]];
        const uint32_t     option[BB_N_SUBLAYERS] = { option_of(&b->s[0], x), option_of(&b->s[1], x) };
        const cell        *c = &b->cells[cell_of(b, arch, i == 0, option)];
        if (c->refused || !block_data(t, NULL, b, x, option, e.arch, &data, &experimental)) return false;
        head += c->infos + (uint64_t)c->n_tensors * (digits(i) - 1);
        data += c->data;
    }
    if (experimental) head += bb_exporter_experimental_bytes();
    *bytes = padded(t, head) + data;
    return true;
}
