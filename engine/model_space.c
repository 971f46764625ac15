/* SPDX-License-Identifier: GPL-3.0-or-later
 * model_space.c: see model_space.h.
 *
 * The header bytes of a file depend on the shape (names of present tensors, per-layer arrays once any block is pruned). They are measured
 * on the exporter's sizes: r(u,o) = bytes that option o of structure unit u adds beside its matrices, alone; what two pruned blocks
 * share (the switch of architecture) is D = r(u) + r(v) - r(u,v) and is counted once, in fixed_bytes; where the switch saves bytes (openelm has one
 * matrix for q, k and v), it is not counted at all. A header is padded: the sum can be short by less than the alignment for each pruned unit.
 */
#include "engine/model_space.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "engine/tensor_types.h"
#include "model/compress/plan_units.h"
#include "model/export/export.h"
#include "model/export/sizes.h"
#include "model/io/gguf_internal.h"
#include "model/net/arch.h"

enum { MAX_WIDTHS = 8 };

/* Default lists: for linears, for embedding and head; what does not divide a row is left out of them. Below 1.6 bits up to 6.6: the formats that
 * llama.cpp runs everywhere; plain Q4_0, TQ1_0 and the block-float types are never the best of their size (results/database.csv) and cost measuring
 * time. Rows that 256 does not divide have their own lists: all that is left there with blocks of 128, 64 and 32. Of the block-float types MXFP4 is the only
 * one between 2.25 and 4.5 bits where the experimental ones are not asked for: its error is three times IQ4_NL's for 0.25 bits less, and still below what a
 * mixture of Q2_0 and IQ4_NL has at its bytes (docs/search.md). */
static const char *const default_formats[2] = {
    "Q1_0,IQ1_S,IQ1_M,IQ2_XXS,IQ2_XS,IQ2_S,Q2_K,IQ3_XXS,IQ3_S,Q3_K,IQ4_XS,Q4_K,Q5_K,Q6_K",
    "IQ2_S,Q2_K,IQ3_S,Q3_K,IQ4_XS,Q5_K,Q6_K,Q8_0",
};
static const char *const default_odd_formats[2][2] = {
    { "Q1_0,Q2_0,MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0", "Q2_0,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0" },
    { "Q1_0,Q2_0,IQ2_NL,IQ3_NL,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0", "Q2_0,IQ2_NL,IQ3_NL,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0" }, /* with the experimental ones */
};

/* What a unit's description and tables own. */
typedef struct unit_data {
    char            name[40];
    bb_plan_option *options; /* owned, and their names */
    int64_t        *bytes;
    double         *cost;
} unit_data;

struct bb_model_space {
    const bb_model  *model;
    bb_problem       problem;
    bb_plan_space    plans;
    bb_plan_unit    *described; /* what plans is made of */
    bb_export_sizes *sizes;
    uint32_t         alignment; /* of the tensors of the file to be written */
    bb_unit         *units;
    unit_data       *data;
    uint32_t         screen[2]; /* of linears, of embedding and head: formats for each; 0: all */
    double           bits[2];
    bool             experimental;
};

uint64_t bb_model_n_weights(const bb_model *m)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < m->source.n_tensors; i++) {
        const bb_tensor *t = &m->source.tensors[i];
        n += t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    }
    return n;
}

/* The matrix that a format unit decides, as the source has it. */
static const bb_matrix *matrix_of(const bb_model_space *s, uint32_t unit)
{
    const bb_plan_unit *d = &s->described[unit];
    if (d->what == BB_UNIT_TABLE) return &s->model->net.token.table;
    return d->what == BB_UNIT_EMBD ? &s->model->net.embd : d->what == BB_UNIT_HEAD ? &s->model->net.head : &s->model->net.blocks[d->layer].w[d->what];
}

/* Of a matrix whose rows 256 does not divide as they are, and does under one of the widths that are offered: the gap of the list above is filled. */
static const char *const default_cut_formats[2] = {
    "Q1_0,IQ1_M,IQ2_XXS,Q2_0,IQ2_S,IQ3_XXS,IQ3_S,IQ4_XS,MXFP4,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0",
    "Q1_0,IQ1_M,IQ2_XXS,Q2_0,IQ2_NL,IQ2_S,IQ3_XXS,IQ3_S,IQ3_NL,IQ4_XS,Q4_0,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0",
};

/* ---- option lists ---- */

/* The list that was asked for, or the default one for rows of this length; to_grid: they can be cut so that 256 divides them. */
static const char *list_for(const bb_model_space *s, const char *asked, uint32_t cols, bool is_table, bool to_grid)
{
    if (asked && *asked) return asked;
    return cols % 256 == 0 ? default_formats[is_table] : to_grid ? default_cut_formats[s->experimental] : default_odd_formats[s->experimental][is_table];
}

/* Can the matrix be in the format, as it is or, of the formats whose blocks nothing smaller replaces, under an option of its controller? */
static bool can_be_in(const bb_model_space *s, uint32_t unit, const bb_format *f)
{
    const bb_plan_unit *d = &s->described[unit];
    const bb_net       *net = &s->model->net;
    if (matrix_of(s, unit)->cols % f->block == 0) return true;
    if (d->controller < 0 || f->block < BB_MAX_BLOCK) return false;
    const uint32_t      widest = bb_part_widest(net, &net->blocks[d->layer], (bb_part)d->what, f->block);
    const bb_plan_unit *c = &s->described[d->controller];
    for (uint32_t k = 0; widest && k < c->n_options; k++)
        if (bb_width_count(c->options[k].value) == widest) return true;
    return false;
}

/* Kept counts of a structure unit, descending, the full one first: eighths of full rounded to the step; 0 = dropped last. grid: a multiple of it is taken
 * where one lies within half an eighth, and the largest below full in any case: formats with blocks of that many weights fit there and nowhere else. 0: none. */
static uint32_t kept_counts(uint32_t full, uint32_t step, uint32_t grid, bool widths, bool drop, uint32_t out[MAX_WIDTHS + 2])
{
    uint32_t n = 0;
    out[n++] = full;
    if (widths && grid && full > grid) out[n++] = (full - 1) / grid * grid;
    for (uint32_t i = MAX_WIDTHS - 1; widths && i >= 1; i--) {
        const uint32_t eighth = full * i / MAX_WIDTHS, near = grid ? (eighth + grid / 2) / grid * grid : 0;
        uint32_t       k = (eighth + step / 2) / step * step;
        if (near > 0 && (near > eighth ? near - eighth : eighth - near) <= full / MAX_WIDTHS / 2) k = near;
        if (k > 0 && k < out[n - 1]) out[n++] = k;
    }
    if (drop) out[n++] = 0;
    return n;
}

static bb_status add_option(unit_data *u, uint32_t *n, const char *name, uint32_t value, bb_err *err)
{
    bb_plan_option *options = bb_realloc(u->options, *n + 1, sizeof *options, err);
    if (!options) return BB_NOMEM;
    u->options = options;
    if (!(options[*n].name = bb_strdup(name, err))) return BB_NOMEM;
    options[(*n)++].value = value;
    return BB_OK;
}

/* The comma list, every name checked, plus the source type as the last option. Formats that the matrix cannot be in are left out. */
static bb_status format_options(bb_model_space *s, uint32_t unit, uint32_t *n, const char *list, bb_type source, bb_err *err)
{
    unit_data *u = &s->data[unit];
    bb_status  status = BB_OK;
    for (bb_item item; bb_list_next(&list, &item);) {
        const bb_format *f;
        char            *name = bb_item_text(item, err);
        if (!name) return BB_NOMEM;
        status = bb_format_named("format list", name, s->experimental, &f, err);
        bb_free(name);
        BB_TRY(status);
        if (can_be_in(s, unit, f) && f->type != source) BB_TRY(add_option(u, n, f->name, f->type, err));
    }
    status = add_option(u, n, bb_format_get(source)->name, source, err);
done:
    return status;
}

/* ---- exact size ---- */

static int64_t exact_size(void *self, const uint16_t *x)
{
    const bb_model_space *s = self;
    uint64_t              bytes;
    return bb_export_sizes_of(s->sizes, x, &bytes) ? (int64_t)bytes : BB_FORBIDDEN;
}

static const bb_plan_option *options_of(const bb_model_space *s, uint32_t unit) { return s->described[unit].options; }
static bool                  is_format(const bb_model_space *s, uint32_t unit) { return bb_unit_is_format(s->described[unit].what); }

/* Parts whose one tensor an architecture that the file may have wants: gives them one type, the one of least cost among those that take no more bytes.
 * They are units q, q + 1, ..., n of them. */
static bool settle_parts(const bb_model_space *s, const bb_problem *p, uint32_t q, uint32_t n, uint16_t *x)
{
    const bb_plan_unit *d = &s->described[q];
    uint16_t            best[BB_N_PARTS] = { 0 };
    int64_t             now = 0, least = INT64_MAX;
    double              cheapest = HUGE_VAL;
    for (uint32_t k = 0; k < n; k++) now = bb_bytes_add(now, p->units[q + k].bytes[bb_problem_row(p, x, q + k) + x[q + k]]);
    for (uint32_t o = 0; o < p->units[q].n_options; o++) {
        uint16_t option[BB_N_PARTS] = { (uint16_t)o };
        int64_t  bytes = 0;
        double   cost = 0;
        for (uint32_t k = 0; k < n; k++) {
            const bb_unit *u = &p->units[q + k];
            while (option[k] < u->n_options && options_of(s, q + k)[option[k]].value != d->options[o].value) option[k]++;
            const bool known = option[k] < u->n_options;
            bytes = known ? bb_bytes_add(bytes, u->bytes[bb_problem_row(p, x, q + k) + option[k]]) : BB_FORBIDDEN;
            cost += known ? u->cost[bb_problem_row(p, x, q + k) + option[k]] : 0;
        }
        if (bytes > now || bb_is_forbidden(bytes) || cost > cheapest || (!(cost < cheapest) && bytes >= least)) continue;
        memcpy(best, option, sizeof best);
        cheapest = cost;
        least = bytes;
    }
    if (least == INT64_MAX) return false;
    for (uint32_t k = 0; k < n; k++) x[q + k] = best[k];
    return true;
}

/* Must the parts with this feed have one type in some file? */
static bool is_fused(const bb_model *m, bb_feed feed)
{
    const bb_arch *pruned = bb_arch_for_pruned(m->net.arch);
    if (m->net.arch->fused[feed]) return !bb_arch_takes_mixed(&m->net);
    return pruned && pruned->fused[feed] && bb_arch_takes_outside(pruned, &m->net);
}

static bool settle(void *self, const bb_problem *p, uint16_t *x)
{
    const bb_model_space *s = self;
    for (uint32_t q = 0, n; q < p->n_units; q += n) {
        const bb_plan_unit *d = &s->described[q];
        n = 1;
        if (!is_format(s, q) || d->what >= BB_N_PARTS || !is_fused(s->model, bb_parts[d->what].feed)) continue;
        while (q + n < p->n_units && s->described[q + n].what < BB_N_PARTS && s->described[q + n].layer == d->layer &&
               bb_parts[s->described[q + n].what].feed == bb_parts[d->what].feed)
            n++;
        if (n > 1 && options_of(s, (uint32_t)d->controller)[x[d->controller]].value > 0 && !settle_parts(s, p, q, n, x)) return false;
    }
    return true;
}

static uint32_t part_rows(const bb_net *net, const bb_block *b, bb_part part, uint32_t kept)
{
    bb_block k = *b;
    bb_block_keep(net, &k, bb_parts[part].sublayer, kept);
    return (uint32_t)bb_dim_of(net, &k, bb_parts[part].rows);
}

static uint32_t part_cols(const bb_net *net, const bb_block *b, bb_part part, uint32_t kept)
{
    bb_block k = *b;
    bb_block_keep(net, &k, bb_parts[part].sublayer, kept);
    return (uint32_t)bb_dim_of(net, &k, bb_parts[part].cols);
}

static int64_t matrix_bytes(const bb_model_space *s, uint32_t rows, uint32_t cols, bb_type type)
{
    const bb_format *f = bb_format_get(type);
    if (rows == 0) return 0;
    if (cols % f->block != 0) return BB_FORBIDDEN;
    uint64_t bytes = (uint64_t)rows * bb_format_row_bytes(f, cols);
    return bb_gguf_pad(bytes, s->alignment, &bytes) ? (int64_t)bytes : BB_FORBIDDEN;
}

/* Bytes tables of the format units. */
static bb_status fill_format_bytes(bb_model_space *s, uint32_t i, bb_err *err)
{
    unit_data          *u = &s->data[i];
    bb_unit            *unit = &s->units[i];
    const bb_plan_unit *d = &s->described[i];
    const bb_net       *net = &s->model->net;
    uint32_t            modes = unit->controller >= 0 ? s->units[unit->controller].n_options : 1;
    u->bytes = BB_NEW((size_t)modes * unit->n_options, int64_t, err);
    u->cost = BB_NEW0((size_t)modes * unit->n_options, double, err);
    if (!u->bytes || !u->cost) return BB_NOMEM;
    for (uint32_t mode = 0; mode < modes; mode++)
        for (uint32_t o = 0; o < unit->n_options; o++) {
            int64_t      *bytes = &u->bytes[(size_t)mode * unit->n_options + o];
            const bb_type type = (bb_type)d->options[o].value;
            if (unit->controller < 0) {
                const bb_matrix *w = matrix_of(s, i);
                *bytes = matrix_bytes(s, w->rows, w->cols, type);
            } else {
                const bb_block *b = &net->blocks[d->layer];
                uint32_t        kept = bb_width_count(options_of(s, (uint32_t)unit->controller)[mode].value);
                *bytes = matrix_bytes(s, part_rows(net, b, (bb_part)d->what, kept), part_cols(net, b, (bb_part)d->what, kept), type);
            }
        }
    unit->bytes = u->bytes;
    unit->cost = u->cost;
    return BB_OK;
}

/* Sum of the matrices' bytes of a candidate: everything but what the structure units add. */
static int64_t matrices_bytes(const bb_model_space *s, const uint16_t *x)
{
    int64_t sum = 0;
    for (uint32_t i = 0; i < s->problem.n_units; i++) {
        if (is_format(s, i)) sum += s->units[i].bytes[bb_problem_row(&s->problem, x, i) + x[i]];
    }
    return sum;
}

/* The exact size of x, settled where it must be. */
static int64_t settled_size(const bb_model_space *s, uint16_t *x)
{
    const bb_problem *p = &s->problem;
    const int64_t     size = bb_problem_size(p, x);
    return bb_is_forbidden(size) && p->settle && p->settle(p->settle_self, p, x) ? bb_problem_size(p, x) : size;
}

/* What a file has besides its matrices once parts that its source has in one tensor have types of their own, beyond base; 0: no option does that. */
static int64_t mixed_bytes(bb_model_space *s, uint16_t *x, int64_t base)
{
    for (uint32_t i = 0; i < s->problem.n_units; i++) {
        if (s->described[i].what >= BB_N_PARTS || !s->model->net.arch->fused[bb_parts[s->described[i].what].feed] || s->units[i].n_options < 2) continue;
        bb_model_space_source(s, x);
        x[i] = 0;
        const int64_t size = exact_size(s, x);
        if (!bb_is_forbidden(size)) return size - matrices_bytes(s, x) - base;
    }
    return 0;
}

/* A candidate for probing sizes: the source type everywhere (it divides every row), structure as given. */
static bb_status fill_structure_bytes(bb_model_space *s, bb_err *err)
{
    uint32_t  n = s->problem.n_units;
    uint16_t *x = BB_NEW(n, uint16_t, err);
    bb_status status = BB_NOMEM;
    int64_t   base, shared = 0, mixed = 0, first_alone = 0;
    long      first = -1;
    uint16_t  first_option = 0;
    if (!x) goto done;
    status = BB_FAILED;
    bb_model_space_source(s, x);
    if (bb_is_forbidden(base = exact_size(s, x))) goto done;
    s->problem.fixed_bytes = base - matrices_bytes(s, x) + s->alignment; /* the header is padded: one unit of slack */
    base = s->problem.fixed_bytes - s->alignment;
    if (s->experimental) s->problem.fixed_bytes += (int64_t)bb_export_sizes_experimental(); /* the key of a plan that uses them */
    for (uint32_t i = 0; i < n; i++) {
        unit_data *u = &s->data[i];
        if (is_format(s, i)) continue;
        for (uint32_t o = 1; o < s->units[i].n_options; o++) {
            bb_model_space_source(s, x);
            x[i] = (uint16_t)o;
            int64_t size = settled_size(s, x);
            u->bytes[o] = bb_is_forbidden(size) ? BB_FORBIDDEN : size - matrices_bytes(s, x) - base;
            if (bb_is_forbidden(size)) continue;
            if (first < 0) {
                first = (long)i;
                first_option = (uint16_t)o;
                first_alone = u->bytes[o];
            } else if (shared == 0 && (long)i != first) {
                x[first] = first_option;
                if (bb_is_forbidden(size = settled_size(s, x))) goto done;
                shared = first_alone + u->bytes[o] - (size - matrices_bytes(s, x) - base);
            }
        }
    }
    if (bb_arch_takes_mixed(&s->model->net)) mixed = mixed_bytes(s, x, base);
    s->problem.fixed_bytes += shared > mixed ? shared : mixed;
    for (uint32_t i = 0; i < n; i++) {
        unit_data *u = &s->data[i];
        int64_t    least = 0; /* a dropped sublayer takes its norm and its header entries along: counted from the smallest, in fixed_bytes */
        if (is_format(s, i)) continue;
        for (uint32_t o = 1; o < s->units[i].n_options; o++) {
            if (bb_is_forbidden(u->bytes[o])) continue;
            u->bytes[o] -= shared;
            if (u->bytes[o] < least) least = u->bytes[o];
        }
        for (uint32_t o = 0; o < s->units[i].n_options; o++)
            if (!bb_is_forbidden(u->bytes[o])) u->bytes[o] -= least;
        s->problem.fixed_bytes += least;
    }
    status = BB_OK;
done:
    bb_free(x);
    if (status == BB_FAILED) BB_FAIL(err, status, "the exporter cannot size the source model's own shape");
    return status;
}

/* ---- creation ---- */

/* Unit i, which then has its name and options. */
static void describe(bb_model_space *s, uint32_t i, uint32_t what, uint32_t layer, long controller, uint32_t n_options)
{
    s->described[i] = (bb_plan_unit) { s->data[i].name, what, layer, (int32_t)controller, n_options, s->data[i].options };
    s->units[i] = (bb_unit) { n_options, (int32_t)controller, s->data[i].bytes, s->data[i].cost };
}

static bb_status structure_unit(bb_model_space *s, uint32_t i, uint32_t layer, bb_sublayer sublayer, const uint32_t *kept, uint32_t n,
                                const bb_model_space_options *o, bb_err *err)
{
    unit_data *u = &s->data[i];
    uint32_t   count = 0;
    snprintf(u->name, sizeof u->name, "blk.%u.%s", layer, bb_sublayers[sublayer].unit);
    for (uint32_t k = 0; k < n; k++) {
        const bool both = k > 0 && kept[k] > 0; /* who keeps all, or nothing, does not choose */
        for (int by_gates = 0; by_gates < 2; by_gates++) {
            char name[16];
            if (both ? !(by_gates ? o->by_gates : o->by_obs || !o->by_gates) : by_gates) continue;
            snprintf(name, sizeof name, "%u%s", kept[k], by_gates ? "g" : "");
            if (add_option(u, &count, name, kept[k] | (by_gates ? BB_BY_GATES : 0), err) != BB_OK) return BB_NOMEM;
            s->described[i].n_options = count; /* so far: for the end of a space that fails */
        }
    }
    if (!(u->bytes = BB_NEW0(count, int64_t, err)) || !(u->cost = BB_NEW0(count, double, err))) return BB_NOMEM;
    describe(s, i, bb_unit_of_sublayer(sublayer), layer, -1, count);
    return BB_OK;
}

static void free_name(const bb_plan_option *o) { bb_free((void *)(uintptr_t)o->name); }

/* Leaves at most `screen` formats and, last, the source type: those nearest to a geometric series of sizes. What wins at t bits a weight is made of
 * formats from about 0.6 t to 1.65 t (results/layers.csv). */
static void screen_formats(unit_data *u, uint32_t *n, uint32_t screen, const double bits[2])
{
    const double   low = log(0.6 * bits[0]), high = log(1.65 * bits[1]);
    const uint32_t last = *n - 1;
    bool           stays[64] = { false };
    uint32_t       kept = 0;
    if (last <= screen || last > 64 || !isfinite(low) || !isfinite(high)) return;
    for (uint32_t k = 0; k < screen; k++) {
        const double wanted = screen > 1 ? low + (high - low) * k / (screen - 1) : (low + high) / 2;
        uint32_t     nearest = last;
        double       least = HUGE_VAL;
        for (uint32_t o = 0; o < last; o++) {
            const double far = fabs(log(bb_format_bpw(bb_format_get((bb_type)u->options[o].value))) - wanted);
            if (stays[o] || !(far < least)) continue;
            least = far;
            nearest = o;
        }
        stays[nearest] = true;
    }
    for (uint32_t o = 0; o < *n; o++) {
        if (o == last || stays[o]) u->options[kept++] = u->options[o];
        else free_name(&u->options[o]);
    }
    *n = kept;
}

static bb_status format_unit(bb_model_space *s, uint32_t i, const char *name, uint32_t what, uint32_t layer, long controller, const char *list, bb_err *err)
{
    unit_data *u = &s->data[i];
    uint32_t   count = 0;
    bb_status  status;
    s->described[i] = (bb_plan_unit) { .what = what, .layer = layer, .controller = (int32_t)controller };
    const bb_matrix *w = matrix_of(s, i);
    const bool       is_table = what >= BB_N_PARTS;
    snprintf(u->name, sizeof u->name, "%s", name);
    const bool to_grid = w->cols % 256 != 0 && controller >= 0 && can_be_in(s, i, bb_format_get(BB_Q4_K));
    status = format_options(s, i, &count, list_for(s, list, w->cols, is_table, to_grid), w->type, err);
    if (status == BB_OK && s->screen[is_table]) screen_formats(u, &count, s->screen[is_table], s->bits);
    describe(s, i, what, layer, controller, count);
    return status;
}

static bb_status add_block(bb_model_space *s, uint32_t layer, uint32_t *i, const bb_model_space_options *o, bb_err *err)
{
    const bb_net   *net = &s->model->net;
    const bb_block *b = &net->blocks[layer];
    uint32_t        kept[MAX_WIDTHS + 2], n, unit_of[BB_N_SUBLAYERS] = { 0 }, divisor = o->ffn_divisor;
    bb_status       status = BB_OK;
    if (b->n_kv) {
        /* The first attention stays: a file needs one block, and the runtime would want a stand-in for it. */
        const bool cuttable = bb_block_cuttable(b, BB_ATTENTION);
        n = kept_counts(b->n_kv, 1, 0, cuttable && o->prune_kv && !net->whole_norms, cuttable && o->prune_sublayers && layer > 0, kept);
        unit_of[BB_ATTENTION] = (*i)++;
        BB_TRY(structure_unit(s, unit_of[BB_ATTENTION], layer, BB_ATTENTION, kept, n, o, err));
    }
    if (b->n_ff) {
        if (divisor == 0) divisor = b->n_ff % 256 == 0 ? 256 : b->n_ff % 64 == 0 ? 64 : 32;
        n = kept_counts(b->n_ff, divisor, o->ffn_divisor == 0 && divisor < 256 ? 256 : 0, o->prune_ffn, o->prune_sublayers, kept);
        unit_of[BB_FFN] = (*i)++;
        BB_TRY(structure_unit(s, unit_of[BB_FFN], layer, BB_FFN, kept, n, o, err));
    }
    for (int p = 0; p < BB_N_PARTS; p++) {
        char name[40];
        if (b->w[p].rows == 0) continue;
        snprintf(name, sizeof name, "blk.%u.%s", layer, bb_parts[p].name);
        BB_TRY(format_unit(s, (*i)++, name, (uint32_t)p, layer, bb_sublayers[bb_parts[p].sublayer].unit ? (long)unit_of[bb_parts[p].sublayer] : -1, o->formats,
                           err));
    }
done:
    return status;
}

static uint32_t most_units(const bb_net *net) { return net->n_layer * (BB_N_PARTS + 2) + 3; }

bb_status bb_model_space_create(const bb_model *m, const bb_model_space_options *o, bb_model_space **out, bb_err *err)
{
    bb_status       status = BB_NOMEM;
    uint32_t        i = 0, most = most_units(&m->net);
    bb_model_space *s = BB_NEW0(1, bb_model_space, err);
    *out = NULL;
    if (!s) return BB_NOMEM;
    s->model = m;
    s->experimental = o->experimental;
    memcpy(s->bits, o->bits, sizeof s->bits);
    if (!o->formats || !*o->formats) s->screen[0] = o->screen; /* a list that is given is taken as it is */
    if (!o->embd_formats || !*o->embd_formats) s->screen[1] = o->screen;
    s->units = BB_NEW0(most, bb_unit, err);
    s->data = BB_NEW0(most, unit_data, err);
    s->described = BB_NEW0(most, bb_plan_unit, err);
    if (!s->units || !s->data || !s->described) goto done;
    for (uint32_t layer = 0; layer < m->net.n_layer; layer++) BB_TRY(add_block(s, layer, &i, o, err));
    BB_TRY(format_unit(s, i++, "token_embd", BB_UNIT_EMBD, 0, -1, o->embd_formats, err));
    if (m->net.head.rows) BB_TRY(format_unit(s, i++, "output", BB_UNIT_HEAD, 0, -1, o->embd_formats, err));
    if (m->net.token.width) BB_TRY(format_unit(s, i++, bb_token_names[BB_TOKEN_TABLE], BB_UNIT_TABLE, 0, -1, o->embd_formats, err));
    BB_TRY(bb_plan_space_init(&s->plans, s->described, i, err));
    BB_TRY(bb_export_sizes_create(m, &s->plans, &s->sizes, err));
    s->alignment = bb_export_sizes_alignment(s->sizes);
    s->problem = (bb_problem) { .n_units = i, .units = s->units, .plans = &s->plans, .size = exact_size, .size_self = s };
    for (int f = 0; f < BB_N_FEEDS; f++)
        if (is_fused(m, (bb_feed)f)) s->problem.settle = settle;
    s->problem.settle_self = s;
    for (uint32_t u = 0; u < i; u++)
        if (is_format(s, u)) BB_TRY(fill_format_bytes(s, u, err));
    BB_TRY(fill_structure_bytes(s, err));
    *out = s;
    s = NULL;
done:
    bb_model_space_destroy(s);
    return status;
}

void bb_model_space_destroy(bb_model_space *s)
{
    if (!s) return;
    for (uint32_t i = 0; s->data && s->described && i < most_units(&s->model->net); i++) {
        unit_data *u = &s->data[i];
        for (uint32_t o = 0; o < s->described[i].n_options; o++) free_name(&u->options[o]);
        bb_free(u->options);
        bb_free(u->bytes);
        bb_free(u->cost);
    }
    bb_export_sizes_destroy(s->sizes);
    bb_plan_space_done(&s->plans);
    bb_free(s->described);
    bb_free(s->units);
    bb_free(s->data);
    bb_free(s);
}

const bb_problem *bb_model_space_problem(const bb_model_space *s) { return &s->problem; }
bool              bb_model_space_is_format(const bb_model_space *s, uint32_t unit) { return is_format(s, unit); }

const bb_format *bb_model_space_format(const bb_model_space *s, uint32_t unit, uint32_t option)
{
    return is_format(s, unit) ? bb_format_get((bb_type)options_of(s, unit)[option].value) : NULL;
}

void bb_model_space_set_costs(bb_model_space *s, const double *const *cost)
{
    for (uint32_t i = 0; i < s->problem.n_units; i++) {
        const bb_unit        *u = &s->units[i];
        const bb_plan_option *c = u->controller >= 0 ? options_of(s, (uint32_t)u->controller) : NULL;
        uint32_t              modes = c ? s->units[u->controller].n_options : 1;
        for (uint32_t mode = 0; mode < modes; mode++)
            for (uint32_t o = 0; o < u->n_options; o++)
                s->data[i].cost[(size_t)mode * u->n_options + o] = cost[i][o] * (c ? (double)bb_width_count(c[mode].value) / c[0].value : 1);
    }
}

void bb_model_space_source(const bb_model_space *s, uint16_t *x)
{
    for (uint32_t i = 0; i < s->problem.n_units; i++) x[i] = (uint16_t)(is_format(s, i) ? s->units[i].n_options - 1 : 0);
}

static bool find_option(const bb_plan_unit *d, bb_type type, uint16_t *option)
{
    for (uint32_t o = 0; o < d->n_options; o++)
        if (d->options[o].value == (uint32_t)type) {
            *option = (uint16_t)o;
            return true;
        }
    return false;
}

/* Of the options that rows of cols weights can have as they are: that with most bits that has no more than f; the smallest where all have. */
static uint16_t option_below(const bb_plan_unit *d, uint32_t cols, const bb_format *f)
{
    uint16_t best = 0, least = (uint16_t)(d->n_options - 1); /* the source's, which they have */
    double   bits = -1;
    for (uint16_t o = 0; o < d->n_options; o++) {
        const double b = bb_format_bpw(bb_format_get((bb_type)d->options[o].value));
        if (cols % bb_format_get((bb_type)d->options[o].value)->block != 0) continue;
        if (b <= bb_format_bpw(f) && b > bits) {
            bits = b;
            best = o;
        }
        if (b < bb_format_bpw(bb_format_get((bb_type)d->options[least].value))) least = o;
    }
    return bits < 0 ? least : best;
}

bool bb_model_space_uniform(const bb_model_space *s, const char *format, const char *embd_format, uint16_t *x)
{
    const bb_format *wanted[2] = { bb_format_find(format), bb_format_find(embd_format) };
    bool             used[2] = { false, false };
    if (!wanted[0] || !wanted[1]) return false;
    bb_model_space_source(s, x);
    for (uint32_t i = 0; i < s->problem.n_units; i++) {
        const bb_plan_unit *d = &s->described[i];
        const bool          is_table = d->controller < 0;
        const bb_format    *f = wanted[is_table];
        if (!is_format(s, i)) continue;
        const uint32_t cols = matrix_of(s, i)->cols;
        if (cols % f->block == 0 && find_option(d, f->type, &x[i])) used[is_table] = true;
        else if (!(f = bb_format_for_row(f, cols)) || !find_option(d, f->type, &x[i])) x[i] = option_below(d, cols, wanted[is_table]);
    }
    return used[0] && used[1];
}

/* Adds "A/B": the formats that x gives to the linears (or the tables), most weights first, to a name. */
static void add_content(const bb_model_space *s, const uint16_t *x, bool tables, char *name, size_t size)
{
    double weights[BB_TYPE_COUNT] = { 0 };
    bool   first = true;
    for (uint32_t i = 0; i < s->problem.n_units; i++) {
        if (!is_format(s, i) || (s->units[i].controller < 0) != tables) continue;
        const bb_matrix *w = matrix_of(s, i);
        weights[options_of(s, i)[x[i]].value] += (double)w->rows * w->cols;
    }
    for (;;) {
        int most = 0;
        for (int k = 1; k < BB_TYPE_COUNT; k++)
            if (weights[k] > weights[most]) most = k;
        if (!(weights[most] > 0)) return;
        const size_t n = strlen(name);
        if (n + 1 < size) snprintf(name + n, size - n, "%s%s", first ? "" : "/", bb_format_get((bb_type)most)->name);
        weights[most] = 0;
        first = false;
    }
}

void bb_model_space_uniform_name(const bb_model_space *s, const uint16_t *x, char *name, size_t size)
{
    snprintf(name, size, "uniform ");
    add_content(s, x, false, name, size);
    const size_t n = strlen(name);
    if (n + 1 < size) snprintf(name + n, size - n, " + ");
    add_content(s, x, true, name, size);
}

/* Why the exporter cannot size candidate x. */
static bb_status explain_size(const bb_model_space *s, const uint16_t *x, bb_err *err)
{
    bb_net    net;
    bb_block *blocks = BB_NEW(s->model->net.n_layer, bb_block, err);
    bb_status status = BB_NOMEM;
    if (!blocks) return status;
    bb_plan_space_shape(s->model, &s->plans, x, BB_NO_UNIT, 0, &net, blocks);
    status = bb_export_check(s->model, &net, err);
    bb_free(blocks);
    return status;
}

bb_status bb_model_space_reach(const bb_model_space *s, uint64_t *smallest, uint64_t *largest, bb_err *err)
{
    uint32_t  n = s->problem.n_units;
    uint16_t *x = BB_NEW0(n, uint16_t, err);
    int64_t  *best = BB_NEW(n, int64_t, err);
    bb_status status = BB_NOMEM;
    if (!x || !best) goto done;
    bb_model_space_source(s, x);
    *largest = (uint64_t)bb_problem_size(&s->problem, x);
    /* Each controller with its dependents is independent of the others: the smallest option of each, given the controller's. */
    for (uint32_t c = 0; c < n; c++) {
        const bb_unit *unit = &s->units[c];
        if (unit->controller >= 0) continue;
        best[c] = INT64_MAX;
        for (uint32_t mode = 0; mode < unit->n_options; mode++) {
            int64_t sum = unit->bytes[mode];
            bool    ok = !bb_is_forbidden(sum);
            for (uint32_t i = 0; ok && i < n; i++) {
                const bb_unit *u = &s->units[i];
                int64_t        least = INT64_MAX;
                if (u->controller != (int32_t)c) continue;
                for (uint32_t o = 0; o < u->n_options; o++) {
                    int64_t b = u->bytes[(size_t)mode * u->n_options + o];
                    if (!bb_is_forbidden(b) && b < least) least = b;
                }
                ok = least != INT64_MAX;
                sum += ok ? least : 0;
            }
            if (!ok || sum >= best[c]) continue;
            best[c] = sum;
            x[c] = (uint16_t)mode;
            for (uint32_t i = 0; i < n; i++) {
                const bb_unit *u = &s->units[i];
                int64_t        least = INT64_MAX;
                if (u->controller != (int32_t)c) continue;
                for (uint32_t o = 0; o < u->n_options; o++) {
                    int64_t b = u->bytes[(size_t)mode * u->n_options + o];
                    if (!bb_is_forbidden(b) && b < least) {
                        least = b;
                        x[i] = (uint16_t)o;
                    }
                }
            }
        }
    }
    *smallest = (uint64_t)settled_size(s, x);
    if (bb_is_forbidden((int64_t)*smallest)) status = explain_size(s, x, err);
    else status = BB_OK;
done:
    bb_free(x);
    bb_free(best);
    return status;
}

double bb_model_space_pruned_fraction(const bb_model_space *s, const uint16_t *x)
{
    const bb_net *net = &s->model->net;
    double        all = 0, kept = 0;
    for (uint32_t i = 0; i < s->problem.n_units; i++) {
        const bb_unit *u = &s->units[i];
        if (u->controller < 0) continue;
        const bb_block       *b = &net->blocks[s->described[i].layer];
        const bb_plan_option *c = options_of(s, (uint32_t)u->controller);
        const bb_part         part = (bb_part)s->described[i].what;
        const uint32_t        k = bb_width_count(c[x[u->controller]].value);
        all += (double)part_rows(net, b, part, c[0].value) * part_cols(net, b, part, c[0].value);
        kept += (double)part_rows(net, b, part, k) * part_cols(net, b, part, k);
    }
    return all > 0 ? 1 - kept / all : 0;
}

double bb_model_space_width(const bb_model_space *s, uint32_t unit, uint32_t option)
{
    return is_format(s, unit) ? 1 : (double)bb_width_count(options_of(s, unit)[option].value) / options_of(s, unit)[0].value;
}
