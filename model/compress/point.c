/* SPDX-License-Identifier: GPL-3.0-or-later
 * point.c: see point.h. */
#include "model/compress/point.h"

#include <string.h>

#include "base/mem.h"
#include "model/compress/feedback.h"
#include "model/compress/rebuild.h"

struct bb_point {
    bb_point_config    config;
    bb_rebuilt         rebuilt;
    uint32_t          *offset; /* [n_units + 1] of each unit's options */
    uint32_t          *unit;   /* [n_layer * BB_N_PARTS] the unit of each matrix, or BB_NO_UNIT */
    void             **packed; /* [offset[n_units]] owned; NULL: not there */
    bb_rebuilt_width **widths; /* the same of structures */
};

static const bb_plan_option *option_at(const bb_point *p, uint32_t unit, uint32_t option) { return &p->config.space->units[unit].options[option]; }

/* A matrix before it is encoded: the other formats of its unit are encoded beside it. */
static bb_status encode_options(void *self, const bb_rebuild_view *v, bb_err *err)
{
    bb_point      *p = self;
    const uint32_t u = p->unit[v->layer * BB_N_PARTS + (uint32_t)v->part];
    bb_status      status = BB_OK;
    if (u == BB_NO_UNIT) return BB_OK;
    for (uint32_t o = 0; o < p->config.space->units[u].n_options; o++) {
        const bb_type    type = (bb_type)option_at(p, u, o)->value;
        const bb_format *f = bb_format_get(type);
        void            *packed;
        if (!p->config.wanted[p->offset[u] + o] || o == p->config.x[u] || v->cols % f->block) continue;
        if (!(packed = bb_alloc(v->rows, bb_format_row_bytes(f, v->cols), err))) return BB_NOMEM;
        p->packed[p->offset[u] + o] = packed;
        BB_TRY(bb_quantize_prepared(v->target, v->rows, v->cols, v->h, v->factor, type, &p->config.quant, packed, NULL, err));
    }
done:
    return status;
}

static uint32_t structure_of(const bb_point *p, uint32_t layer, bb_sublayer s)
{
    const bb_plan_space *space = p->config.space;
    for (uint32_t u = 0; u < space->n_units; u++)
        if (space->units[u].layer == layer && space->units[u].what == bb_unit_of_sublayer(s)) return u;
    return BB_NO_UNIT;
}

static void list_widths(void *self, uint32_t layer, bb_sublayer s, bb_width *width, uint32_t *n)
{
    const bb_point *p = self;
    const uint32_t  u = structure_of(p, layer, s);
    *n = 0;
    for (uint32_t o = 0; u != BB_NO_UNIT && o < p->config.space->units[u].n_options && *n < BB_REBUILD_MOST_WIDTHS; o++)
        if (p->config.wanted[p->offset[u] + o] && o != p->config.x[u] && option_at(p, u, o)->value) width[(*n)++] = option_at(p, u, o)->value;
}

static void width_done(bb_rebuilt_width *w)
{
    for (int part = 0; w && part < BB_N_PARTS; part++) bb_free(w->packed[part]);
    bb_free(w);
}

static bb_status take_width(void *self, uint32_t layer, bb_sublayer s, bb_rebuilt_width *w, bb_err *err)
{
    bb_point         *p = self;
    const uint32_t    u = structure_of(p, layer, s);
    bb_rebuilt_width *copy = BB_NEW(1, bb_rebuilt_width, err);
    if (!copy) {
        for (int part = 0; part < BB_N_PARTS; part++) bb_free(w->packed[part]);
        return BB_NOMEM;
    }
    *copy = *w;
    for (uint32_t o = 0; o < p->config.space->units[u].n_options; o++)
        if (option_at(p, u, o)->value == w->width && !p->widths[p->offset[u] + o]) {
            p->widths[p->offset[u] + o] = copy;
            return BB_OK;
        }
    width_done(copy);
    return BB_OK;
}

static bb_status index_units(bb_point *p, bb_err *err)
{
    const bb_plan_space *s = p->config.space;
    const size_t         n = (size_t)p->config.model->net.n_layer * BB_N_PARTS;
    p->offset = BB_NEW((size_t)s->n_units + 1, uint32_t, err);
    p->unit = BB_NEW(n, uint32_t, err);
    if (!p->offset || !p->unit) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) p->unit[i] = BB_NO_UNIT;
    p->offset[0] = 0;
    for (uint32_t u = 0; u < s->n_units; u++) {
        p->offset[u + 1] = p->offset[u] + s->units[u].n_options;
        if (s->units[u].what < BB_N_PARTS) p->unit[s->units[u].layer * BB_N_PARTS + s->units[u].what] = u;
    }
    p->packed = BB_NEW0(p->offset[s->n_units], void *, err);
    p->widths = BB_NEW0(p->offset[s->n_units], bb_rebuilt_width *, err);
    return p->packed && p->widths ? BB_OK : BB_NOMEM;
}

bb_status bb_point_create(const bb_point_config *config, bb_point **out, bb_err *err)
{
    bb_point *p = BB_NEW0(1, bb_point, err);
    bb_plan   plan = { 0 };
    bb_status status = BB_NOMEM;
    *out = NULL;
    if (!p) return BB_NOMEM;
    p->config = *config;
    BB_TRY(index_units(p, err));
    BB_TRY(bb_plan_space_plan(config->space, config->x, &plan, err));
    const bb_rebuild_watcher watcher = { p, encode_options, list_widths, take_width };
    BB_TRY(bb_rebuild_watched(config->db, config->model, &plan, config->tokens, config->n_windows, config->ctx, &config->quant, &watcher, &p->rebuilt, err));
    bb_checkpoint_remove(&p->rebuilt.checkpoint);
    *out = p;
done:
    bb_plan_done(&plan);
    if (status != BB_OK) bb_point_destroy(p);
    return status;
}

void bb_point_destroy(bb_point *p)
{
    if (!p) return;
    for (uint32_t i = 0; p->packed && i < p->offset[p->config.space->n_units]; i++) bb_free(p->packed[i]);
    for (uint32_t i = 0; p->widths && i < p->offset[p->config.space->n_units]; i++) width_done(p->widths[i]);
    bb_rebuilt_done(&p->rebuilt);
    bb_free(p->packed);
    bb_free(p->widths);
    bb_free(p->offset);
    bb_free(p->unit);
    bb_free(p);
}

/* Another width of a sublayer into its block. */
static void put_width(const bb_point *p, uint32_t unit, uint32_t option, bb_net *net, bool *found)
{
    const bb_plan_unit     *u = &p->config.space->units[unit];
    const bb_sublayer       s = bb_unit_sublayer(u->what);
    const bb_rebuilt_width *w = p->widths[p->offset[unit] + option];
    bb_block               *block = &net->blocks[u->layer];
    if (u->options[option].value == 0) {
        bb_block_keep(net, block, s, 0);
        return;
    }
    *found &= w != NULL;
    if (!w) return;
    bb_block_keep(net, block, s, bb_width_count(w->width));
    block->by_gates[s] = w->block.by_gates[s];
    for (int part = 0; part < BB_N_PARTS; part++)
        if (bb_parts[part].sublayer == s) block->w[part] = w->block.w[part];
}

/* Puts one option into the network; *found false: it is not there. */
static bb_status put_option(const bb_point *p, uint32_t unit, uint32_t option, bb_net *net, bool *found, bb_err *err)
{
    const bb_plan_unit *u = &p->config.space->units[unit];
    const bb_type       type = (bb_type)u->options[option].value;
    if (option == p->config.x[unit]) return BB_OK;
    if (u->what >= BB_UNIT_EMBD) {
        bb_matrix *const tables[BB_N_TABLES] = { &net->embd, &net->head, &net->token.table };
        return bb_database_embedding(p->config.db, (bb_table)(u->what - BB_UNIT_EMBD), type, tables[u->what - BB_UNIT_EMBD], NULL, err);
    }
    if (!bb_unit_is_format(u->what)) {
        put_width(p, unit, option, net, found);
        return BB_OK;
    }
    const bb_sublayer s = bb_parts[u->what].sublayer;
    void *packed = bb_block_width(&net->blocks[u->layer], s) == bb_block_width(&p->rebuilt.net.blocks[u->layer], s) ? p->packed[p->offset[unit] + option]
                                                                                                                    : NULL;
    *found &= packed != NULL;
    if (packed) {
        net->blocks[u->layer].w[u->what].type = type;
        net->blocks[u->layer].w[u->what].data = packed;
    }
    return BB_OK;
}

bb_status bb_point_apply(const bb_point *p, const uint16_t *x, uint32_t unit, uint32_t option, bb_net *out, bb_block *blocks, bool *found, bb_err *err)
{
    const bb_net *net = &p->rebuilt.net;
    bb_status     status = BB_OK;
    *out = *net;
    memcpy(blocks, net->blocks, net->n_layer * sizeof *blocks);
    out->blocks = blocks;
    *found = true;
    for (uint32_t u = 0; x && u < p->config.space->n_units; u++) BB_TRY(put_option(p, u, x[u], out, found, err));
    if (unit != BB_NO_UNIT) BB_TRY(put_option(p, unit, option, out, found, err));
done:
    return status;
}
