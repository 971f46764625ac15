/* SPDX-License-Identifier: GPL-3.0-or-later
 * slopes.c: see slopes.h. */
#include "eval/slopes.h"

#include <string.h>

#include "base/mem.h"
#include "model/compress/statistics.h"

enum { N_WHAT = BB_N_PARTS + BB_N_SUBLAYERS, NO_UNIT = -1, TABLE_ROWS = 1024 };

typedef struct slopes {
    const bb_model          *model;
    bb_database             *db;
    const bb_slopes_options *o;
    const bb_block          *blocks; /* the plan's */
    const bb_net            *net;
    bb_slope                *out;
    size_t                  *offset;               /* [n_units] into out */
    int32_t                 *unit_at;              /* [n_layer][N_WHAT] */
    int32_t                  embd, head, table;    /* their units */
    float                   *wide[BB_N_SUBLAYERS]; /* of the block at hand: its writers at full width, where the plan has cut them */
} slopes;

static const bb_block *source_block(const slopes *s, uint32_t layer) { return &s->model->net.blocks[layer]; }
static int32_t         unit_of(const slopes *s, uint32_t layer, uint32_t what) { return s->unit_at[layer * N_WHAT + what]; }
static bb_type         type_of(const bb_plan_unit *u, uint32_t option) { return (bb_type)u->options[option].value; }

/* ---- a pruned block at its full width ---- */

/* Columns of the writer that a width keeps: kept[cols] 1 or 0. */
static bb_status mark_columns(const slopes *s, uint32_t layer, bb_sublayer sub, bb_width width, uint8_t *kept, bb_err *err)
{
    const uint32_t  count = bb_width_count(width);
    const bb_block *b = source_block(s, layer);
    const uint32_t  cols = b->w[bb_sublayers[sub].writer].cols, group = cols / bb_block_kept(b, sub);
    const uint32_t *channels = NULL;
    bb_status       status = BB_OK;
    memset(kept, 0, cols);
    if (count) BB_TRY(bb_database_mask(s->db, layer, sub == BB_FFN, width, &channels, err));
    for (uint32_t i = 0; i < count; i++) memset(kept + (size_t)channels[i] * group, 1, group);
done:
    return status;
}

/* The writer of a sublayer of this width, from the database, at full width: zeros where nothing is kept. *out is the caller's. */
static bb_status writer_at(const slopes *s, uint32_t layer, bb_sublayer sub, bb_width width, bb_type type, float **out, bb_err *err)
{
    const uint32_t count = bb_width_count(width);
    const bb_part  part = bb_sublayers[sub].writer;
    const uint32_t rows = source_block(s, layer)->w[part].rows, cols = source_block(s, layer)->w[part].cols;
    uint8_t       *kept = BB_NEW(cols, uint8_t, err);
    float         *w = BB_NEW0((size_t)rows * cols, float, err), *less = NULL;
    bb_matrix      m = { 0 };
    bb_status      status = BB_NOMEM;
    *out = NULL;
    if (!kept || !w) goto done;
    BB_TRY(mark_columns(s, layer, sub, width, kept, err));
    if (count) BB_TRY(bb_database_matrix(s->db, layer, part, width, type, &m, NULL, err));
    if (count && !(less = bb_matrix_decode(&m, err))) {
        status = BB_NOMEM;
        goto done;
    }
    for (size_t r = 0, i = 0; count && r < rows; r++)
        for (uint32_t c = 0; c < cols; c++)
            if (kept[c]) w[r * cols + c] = less[i++];
    *out = w;
    w = NULL;
done:
    bb_free(kept);
    bb_free(less);
    bb_free(w);
    return status;
}

static bb_type plan_type(const slopes *s, uint32_t layer, uint32_t part)
{
    const int32_t u = unit_of(s, layer, part);
    return u == NO_UNIT ? source_block(s, layer)->w[part].type : type_of(&s->o->space->units[u], s->o->x[u]);
}

static bb_status widen(void *self, uint32_t layer, bb_block *block, bb_err *err)
{
    slopes         *s = self;
    const bb_block *source = source_block(s, layer);
    bb_status       status = BB_OK;
    for (int sub = 0; sub < BB_N_SUBLAYERS; sub++) {
        const uint32_t full = bb_block_kept(source, (bb_sublayer)sub), kept = bb_block_kept(block, (bb_sublayer)sub);
        if (kept == full) continue;
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_type type = plan_type(s, layer, (uint32_t)p);
            if (bb_parts[p].sublayer != (bb_sublayer)sub || !bb_block_has_part(source, (bb_part)p)) continue;
            block->w[p] = source->w[p];
            if ((bb_part)p != bb_sublayers[sub].writer) {
                BB_TRY(bb_database_matrix(s->db, layer, (bb_part)p, full, type, &block->w[p], NULL, err));
                continue;
            }
            BB_TRY(writer_at(s, layer, (bb_sublayer)sub, bb_block_width(block, (bb_sublayer)sub), type, &s->wide[sub], err));
            block->w[p] = (bb_matrix) { BB_F32, source->w[p].rows, source->w[p].cols, s->wide[sub], kept ? source->w[p].bias : NULL, NULL };
        }
        for (int n = 0; n < BB_N_NORMS; n++)
            if (bb_norms[n].sublayer == (bb_sublayer)sub) block->norm[n] = source->norm[n];
        block->by_gates[sub] = false;
        if (sub == BB_ATTENTION) {
            block->n_head = source->n_head;
            block->n_kv = full;
        } else {
            block->n_ff = full;
        }
    }
done:
    return status;
}

/* ---- options of a block ---- */

static bb_status put(slopes *s, uint32_t unit, uint32_t option, const bb_matrix_gradient *g, double own, const float *d, const float *bias, bb_err *err)
{
    bb_slope *out = &s->out[s->offset[unit] + option];
    out->first = bb_gradient_first(g, d, bias);
    out->share = own + out->first;
    return bb_gradient_second(g, d, bias, &out->second, err);
}

/* Another format of a matrix; w: the plan's, decoded. */
static bb_status format_change(const slopes *s, uint32_t layer, bb_part part, bb_type type, const float *w, float **out, bb_err *err)
{
    const bb_block   *source = source_block(s, layer);
    const bb_sublayer sub = bb_parts[part].sublayer;
    const uint32_t    full = bb_block_kept(source, sub), kept = bb_block_kept(&s->blocks[layer], sub);
    const size_t      n = (size_t)source->w[part].rows * source->w[part].cols;
    const bb_width    width = bb_block_width(&s->blocks[layer], sub);
    const bool        cut = kept != full && part == bb_sublayers[sub].writer;
    const uint32_t    widest = bb_part_widest(&s->model->net, source, part, bb_format_get(type)->block);
    float            *d = NULL, *exact = NULL, *less = NULL;
    bb_matrix         m;
    bb_status         status;
    if (widest == full) {
        BB_TRY(bb_database_matrix(s->db, layer, part, full, type, &m, NULL, err));
        status = BB_NOMEM;
        if (!(d = bb_matrix_decode(&m, err))) goto done;
    } else { /* its errors where it can be, around the source's weights */
        BB_TRY(writer_at(s, layer, sub, widest, type, &d, err));
        BB_TRY(writer_at(s, layer, sub, widest, source->w[part].type, &less, err));
        status = BB_NOMEM;
        if (!(exact = bb_matrix_decode(&source->w[part], err))) goto done;
        for (size_t i = 0; i < n; i++) d[i] += exact[i] - less[i];
        bb_free(exact);
        bb_free(less);
        exact = less = NULL;
    }
    if (cut) {
        status = BB_NOMEM;
        if (!(exact = bb_matrix_decode(&source->w[part], err))) goto done;
        BB_TRY(writer_at(s, layer, sub, width, source->w[part].type, &less, err));
        uint8_t *columns = BB_NEW(source->w[part].cols, uint8_t, err);
        status = columns ? mark_columns(s, layer, sub, width, columns, err) : BB_NOMEM;
        for (size_t i = 0; status == BB_OK && i < n; i++) d[i] = columns[i % source->w[part].cols] ? less[i] + (d[i] - exact[i]) : 0;
        bb_free(columns);
        BB_TRY(status);
    }
    for (size_t i = 0; i < n; i++) d[i] -= w[i];
    *out = d;
    d = NULL;
    status = BB_OK;
done:
    bb_free(d);
    bb_free(exact);
    bb_free(less);
    return status;
}

static bb_status format_slopes(slopes *s, uint32_t layer, bb_part part, const bb_matrix_gradient *g, const float *w, bb_err *err)
{
    const int32_t u = unit_of(s, layer, part);
    const double  own = bb_gradient_first(g, w, NULL);
    bb_status     status = BB_OK;
    if (u == NO_UNIT) return BB_OK;
    const bb_plan_unit *unit = &s->o->space->units[u];
    for (uint32_t k = 0; k < unit->n_options; k++) {
        float *d = NULL;
        if (k == s->o->x[u]) {
            s->out[s->offset[u] + k] = (bb_slope) { own, 0, 0 };
            continue;
        }
        BB_TRY(format_change(s, layer, part, type_of(unit, k), w, &d, err));
        status = put(s, (uint32_t)u, k, g, own, d, NULL, err);
        bb_free(d);
        BB_TRY(status);
    }
done:
    return status;
}

/* What all widths of a sublayer share: of its writer the plan's width without quantization, and the errors that the plan's format has at full size (or as
 * wide as its blocks let it be). */
typedef struct structure {
    slopes                   *s;
    uint32_t                  layer;
    bb_sublayer               sub;
    const bb_matrix_gradient *g;
    const float              *w; /* the plan's writer */
    float                    *exact, *noise;
    uint8_t                  *now, *then; /* columns kept */
} structure;

/* d := what another width changes. */
static bb_status width_change(const structure *t, bb_width width, float *d, bb_err *err)
{
    float    *less = NULL;
    bb_status status;
    BB_TRY(mark_columns(t->s, t->layer, t->sub, width, t->then, err));
    BB_TRY(writer_at(t->s, t->layer, t->sub, width, source_block(t->s, t->layer)->w[bb_sublayers[t->sub].writer].type, &less, err));
    for (size_t i = 0; i < (size_t)t->g->rows * t->g->cols; i++) {
        const uint32_t c = (uint32_t)(i % t->g->cols);
        if (t->then[c]) d[i] = t->now[c] ? less[i] - t->exact[i] : less[i] + t->noise[i];
        else d[i] = -t->w[i]; /* zero where it is not kept now either */
    }
done:
    bb_free(less);
    return status;
}

static bb_status structure_slopes(slopes *s, uint32_t layer, bb_sublayer sub, const bb_matrix_gradient *g, const float *w, bb_err *err)
{
    const int32_t   u = unit_of(s, layer, bb_unit_of_sublayer(sub));
    const bb_part   part = bb_sublayers[sub].writer;
    const bb_block *source = source_block(s, layer);
    const uint32_t  kept = bb_block_kept(&s->blocks[layer], sub);
    const float    *bias = source->w[part].bias;
    const double    own = bb_gradient_first(g, w, kept ? bias : NULL);
    structure       t = { .s = s, .layer = layer, .sub = sub, .g = g, .w = w };
    const size_t    n = (size_t)g->rows * g->cols;
    uint32_t        widest; /* at which the plan's format can be */
    float          *d = NULL, *minus = NULL, *first = NULL;
    bb_status       status = BB_NOMEM;
    if (u == NO_UNIT || s->o->space->units[u].n_options < 2) return BB_OK;
    const bb_plan_unit *unit = &s->o->space->units[u];
    if (!(t.now = BB_NEW(g->cols, uint8_t, err)) || !(t.then = BB_NEW(g->cols, uint8_t, err)) || !(d = BB_NEW(n, float, err))) goto done;
    if (!(minus = BB_NEW0(g->rows, float, err))) goto done;
    for (uint32_t r = 0; bias && r < g->rows; r++) minus[r] = -bias[r];
    BB_TRY(mark_columns(s, layer, sub, bb_block_width(&s->blocks[layer], sub), t.now, err));
    BB_TRY(writer_at(s, layer, sub, bb_block_width(&s->blocks[layer], sub), source->w[part].type, &t.exact, err));
    widest = bb_part_widest(&s->model->net, source, part, bb_format_get(plan_type(s, layer, part))->block);
    BB_TRY(writer_at(s, layer, sub, widest, plan_type(s, layer, part), &t.noise, err));
    BB_TRY(writer_at(s, layer, sub, widest, source->w[part].type, &first, err));
    for (size_t i = 0; i < n; i++) t.noise[i] -= first[i];
    for (uint32_t k = 0; k < unit->n_options; k++) {
        const bb_width width = unit->options[k].value;
        const float   *change = !bias || (width > 0) == (kept > 0) ? NULL : width ? bias : minus;
        if (k == s->o->x[u]) {
            s->out[s->offset[u] + k] = (bb_slope) { own, 0, 0 };
            continue;
        }
        BB_TRY(width_change(&t, width, d, err));
        BB_TRY(put(s, (uint32_t)u, k, g, own, d, change, err));
    }
done:
    bb_free(t.now);
    bb_free(t.then);
    bb_free(t.exact);
    bb_free(t.noise);
    bb_free(first);
    bb_free(d);
    bb_free(minus);
    return status;
}

static bb_status block_slopes(void *self, uint32_t layer, const bb_block *block, const bb_matrix_gradient *part, bb_err *err)
{
    slopes   *s = self;
    float    *w = NULL;
    bb_status status = BB_OK;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bb_sublayer sub = bb_parts[p].sublayer;
        if (part[p].rows == 0) continue;
        bb_free(w);
        if (!(w = bb_matrix_decode(&block->w[p], err))) return BB_NOMEM;
        /* A dropped sublayer has no formats: only what brings it back counts. */
        if (bb_block_kept(&s->blocks[layer], sub)) BB_TRY(format_slopes(s, layer, (bb_part)p, &part[p], w, err));
        if ((bb_part)p == bb_sublayers[sub].writer) BB_TRY(structure_slopes(s, layer, sub, &part[p], w, err));
    }
done:
    bb_free(w);
    for (int sub = 0; sub < BB_N_SUBLAYERS; sub++) {
        bb_free(s->wide[sub]);
        s->wide[sub] = NULL;
    }
    return status;
}

/* ---- the tables ---- */

static bb_status table_option(slopes *s, const bb_table_gradient *t, const bb_matrix *own, const bb_matrix *other, bb_slope *out, float *d, bb_err *err)
{
    const bb_format  *f = bb_format_get(own->type), *g = bb_format_get(other->type);
    const size_t      C = own->cols, f_bytes = bb_format_row_bytes(f, C), g_bytes = bb_format_row_bytes(g, C);
    double            share = 0, unused = 0;
    bb_table_gradient first_only = *t;
    bb_status         status = BB_OK;
    (void)s;
    first_only.in = first_only.out = NULL;
    for (size_t at = 0; at < own->rows; at += TABLE_ROWS) {
        const size_t n = own->rows - at < TABLE_ROWS ? own->rows - at : TABLE_ROWS;
        float       *w = d + n * C;
#pragma omp parallel for schedule(static)
        for (size_t r = 0; r < n; r++) {
            f->decode((const char *)own->data + (at + r) * f_bytes, w + r * C, C);
            g->decode((const char *)other->data + (at + r) * g_bytes, d + r * C, C);
            for (size_t c = 0; c < C; c++) d[r * C + c] -= w[r * C + c];
        }
        BB_TRY(bb_gradient_table(&first_only, (uint32_t)C, at, n, w, &share, &unused, err));
        if (own->data != other->data) BB_TRY(bb_gradient_table(t, (uint32_t)C, at, n, d, &out->first, &out->second, err));
    }
    out->share = share + out->first;
done:
    return status;
}

static bb_status table_slopes(void *self, bool head, const bb_table_gradient *t, bb_err *err)
{
    slopes          *s = self;
    const int32_t    u = head ? s->head : s->embd;
    const bb_matrix *own = head ? &s->net->head : &s->net->embd;
    bb_status        status = BB_OK;
    if (u == NO_UNIT) return BB_OK;
    const bb_plan_unit *unit = &s->o->space->units[u];
    float              *d = BB_NEW((size_t)2 * TABLE_ROWS * own->cols, float, err);
    if (!d) return BB_NOMEM;
    for (uint32_t k = 0; k < unit->n_options; k++) {
        bb_matrix other;
        BB_TRY(bb_database_embedding(s->db, head, type_of(unit, k), &other, NULL, err));
        BB_TRY(table_option(s, t, own, &other, &s->out[s->offset[u] + k], d, err));
    }
done:
    bb_free(d);
    return status;
}

/* d (n, P) := rows ids of `of`. */
static void decode_rows(const bb_matrix *of, const bb_token_gradient *g, float *d)
{
    const bb_format *f = bb_format_get(of->type);
    const size_t     bytes = bb_format_row_bytes(f, of->cols);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < g->n; i++) f->decode((const char *)of->data + (size_t)g->ids[i] * bytes, d + i * g->cols, g->cols);
}

/* Options of the table of per-layer embeddings: what they do in one block. */
static bb_status token_slopes(void *self, uint32_t layer, const bb_token_gradient *g, bb_err *err)
{
    slopes      *s = self;
    const size_t floats = g->n * g->cols;
    float       *own = NULL, *d = NULL;
    bb_status    status = BB_OK;
    (void)layer;
    if (s->table == NO_UNIT) return BB_OK;
    const bb_plan_unit *unit = &s->o->space->units[s->table];
    status = BB_NOMEM;
    if (!(own = BB_NEW(floats, float, err)) || !(d = BB_NEW(floats, float, err))) goto done;
    decode_rows(&s->net->token.table, g, own);
    for (uint32_t k = 0; k < unit->n_options; k++) {
        bb_slope *out = &s->out[s->offset[s->table] + k];
        bb_matrix other;
        double    share = 0, first = 0;
        for (size_t i = 0; i < floats; i++) share += (double)g->d[i] * (double)own[i];
        if (k != s->o->x[s->table]) {
            BB_TRY(bb_database_embedding(s->db, BB_TABLE_TOKENS, type_of(unit, k), &other, NULL, err));
            decode_rows(&other, g, d);
            for (size_t i = 0; i < floats; i++) d[i] -= own[i];
            BB_TRY(bb_gradient_token(g, d, &first, &out->second, err));
        }
        out->first += first;
        out->share += share + first;
    }
    status = BB_OK;
done:
    bb_free(own);
    bb_free(d);
    return status;
}

/* ---- all ---- */

static bb_status find_units(slopes *s, bb_err *err)
{
    const bb_plan_space *space = s->o->space;
    const size_t         n = (size_t)s->model->net.n_layer * N_WHAT;
    size_t               total = 0;
    s->embd = s->head = s->table = NO_UNIT;
    if (!(s->offset = BB_NEW(space->n_units, size_t, err)) || !(s->unit_at = BB_NEW(n, int32_t, err))) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) s->unit_at[i] = NO_UNIT;
    for (uint32_t u = 0; u < space->n_units; u++) {
        const bb_plan_unit *unit = &space->units[u];
        s->offset[u] = total;
        total += unit->n_options;
        if (unit->what == BB_UNIT_EMBD) s->embd = (int32_t)u;
        else if (unit->what == BB_UNIT_HEAD) s->head = (int32_t)u;
        else if (unit->what == BB_UNIT_TABLE) s->table = (int32_t)u;
        else s->unit_at[unit->layer * N_WHAT + unit->what] = (int32_t)u;
    }
    memset(s->out, 0, total * sizeof *s->out);
    return BB_OK;
}

double bb_slopes_tokens(const bb_windows *windows, uint32_t labels) { return (double)windows->n * windows->ctx * (3 + 2 * labels); }

bb_status bb_slopes_measure(bb_net_evaluator *e, const bb_model *model, bb_database *db, const bb_slopes_options *o, bb_slope *out, bb_evaluation *at,
                            bb_err *err)
{
    bb_net                    net;
    bb_block                 *blocks = BB_NEW(model->net.n_layer, bb_block, err);
    slopes                    s = { .model = model, .db = db, .o = o, .blocks = blocks, .net = &net, .out = out };
    const bb_gradient_options g = { .level = o->level, .windows = o->windows, .widest = &model->net, .labels = o->labels, .seed = o->seed };
    bb_gradient_visitor       visitor = { &s, widen, block_slopes, table_slopes, token_slopes };
    bb_status                 status = blocks ? BB_OK : BB_NOMEM;
    if (status != BB_OK) return status;
    BB_TRY(find_units(&s, err));
    if (s.embd == NO_UNIT && s.head == NO_UNIT) visitor.table = NULL;
    BB_TRY(bb_database_apply_at(db, o->space, o->x, BB_NO_UNIT, 0, &net, blocks, err));
    BB_TRY(bb_gradient_run(e, &net, &g, &visitor, at, err));
done:
    for (int sub = 0; sub < BB_N_SUBLAYERS; sub++) bb_free(s.wide[sub]);
    bb_free(s.offset);
    bb_free(s.unit_at);
    bb_free(blocks);
    return status;
}
