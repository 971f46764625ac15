/* SPDX-License-Identifier: GPL-3.0-or-later
 * plan_shape.c: a plan turned into shapes and types, without data: what sizes and runtime checks are made of. See plan_units.h.
 *
 * First the structure (kv, ffn) is set, then the formats, so that the order of genes does not matter. Names are looked up here and nowhere else.
 */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "model/compress/plan_units.h"

/* "blk.N.rest": *layer = N and *rest = "rest". false when unit is not of that form or N is not a block. */
static bool split_unit(const char *unit, uint32_t n_layer, uint32_t *layer, const char **rest)
{
    unsigned n = 0, digits = 0;
    if (strncmp(unit, "blk.", 4) != 0) return false;
    for (unit += 4; *unit >= '0' && *unit <= '9' && digits < 6; unit++, digits++) n = n * 10 + (unsigned)(*unit - '0');
    if (digits == 0 || *unit != '.' || n >= n_layer) return false;
    if (digits > 1 && unit[-(int)digits] == '0') return false;
    *layer = n;
    *rest = unit + 1;
    return true;
}

static bb_status keep_width(const bb_gene *gene, uint32_t most, bb_width *width, bb_err *err)
{
    const size_t n = strlen(gene->option);
    const bool   by_gates = n > 0 && gene->option[n - 1] == 'g';
    char         count[16];
    int64_t      v = -1;
    snprintf(count, sizeof count, "%.*s", (int)(n - by_gates < sizeof count ? n - by_gates : sizeof count - 1), gene->option);
    if (n - by_gates >= sizeof count || bb_parse_int(count, &v, NULL) != BB_OK || v < 0 || v > most || (by_gates && (v == 0 || v == most)))
        return BB_FAIL(err, BB_NOT_FOUND, "plan: %s=%.100s: 0 to %u is possible, and, by the order of gates, 1g to %ug", gene->unit, gene->option, most,
                       most > 0 ? most - 1 : 0);
    *width = (bb_width)v | (by_gates ? BB_BY_GATES : 0);
    return BB_OK;
}

/* The matrix that a format unit names; NULL when the model has none. */
static bb_matrix *matrix_of(bb_net *net, uint32_t what, uint32_t layer)
{
    if (what == BB_UNIT_EMBD) return &net->embd;
    if (what == BB_UNIT_HEAD) return net->head.rows ? &net->head : NULL;
    if (what == BB_UNIT_TABLE) return net->token.width ? &net->token.table : NULL;
    return &net->blocks[layer].w[what];
}

static void set_unit(bb_net *net, uint32_t what, uint32_t layer, uint32_t value)
{
    if (!bb_unit_is_format(what)) {
        const bb_sublayer s = bb_unit_sublayer(what);
        bb_block_keep(net, &net->blocks[layer], s, bb_width_count(value));
        net->blocks[layer].by_gates[s] = value & BB_BY_GATES;
        return;
    }
    bb_matrix *w = matrix_of(net, what, layer);
    if (w && w->rows) w->type = (bb_type)value; /* a format of a dropped sublayer has no effect */
}

static void without_data(const bb_model *m, bb_net *out, bb_block *blocks)
{
    *out = m->net;
    out->blocks = blocks;
    out->embd.data = out->head.data = out->token.table.data = NULL;
    for (uint32_t i = 0; i < out->n_layer; i++) {
        blocks[i] = m->net.blocks[i];
        for (unsigned p = 0; p < BB_N_PARTS; p++) blocks[i].w[p].data = NULL;
    }
}

/* A format alone, whose block does not divide the rows as they are: as little goes as it needs, by the first of the space's widths that does it. */
static void narrow(const bb_model *m, const bb_plan_space *s, const bb_plan_unit *of, bb_type type, bb_net *out)
{
    const bb_part    part = (bb_part)of->what;
    const bb_format *f = bb_format_get(type);
    const bb_block  *source = &m->net.blocks[of->layer];
    bb_width         widest = f ? bb_part_widest(&m->net, source, part, f->block) : 0;
    if (!widest || widest == bb_part_kept(source, part)) return;
    const bb_plan_unit *c = of->controller < 0 ? NULL : &s->units[of->controller];
    for (uint32_t k = 0; c && k < c->n_options; k++)
        if (bb_width_count(c->options[k].value) == widest) {
            widest = c->options[k].value;
            break;
        }
    set_unit(out, bb_unit_of_sublayer(bb_parts[part].sublayer), of->layer, widest);
}

/* ---- by indices ---- */

void bb_plan_space_shape(const bb_model *m, const bb_plan_space *s, const uint16_t *x, uint32_t unit, uint32_t option, bb_net *out, bb_block *blocks)
{
    without_data(m, out, blocks);
    for (int formats = 0; formats < 2; formats++)
        for (uint32_t u = 0; u < s->n_units; u++) {
            const bb_plan_unit *of = &s->units[u];
            if (bb_unit_is_format(of->what) != (formats == 1) || (u != unit && !x)) continue;
            set_unit(out, of->what, of->layer, of->options[u == unit ? option : x[u]].value);
            if (!x && of->what < BB_N_PARTS) narrow(m, s, of, (bb_type)of->options[option].value, out);
        }
}

/* ---- by name ---- */

/* The sublayer whose kept count a unit sets, from what stands behind "blk.N."; BB_N_SUBLAYERS: none. */
static bb_sublayer structure_of(const char *rest)
{
    int s = 0;
    while (s < BB_N_SUBLAYERS && (!bb_sublayers[s].unit || strcmp(rest, bb_sublayers[s].unit) != 0)) s++;
    return (bb_sublayer)s;
}

/* false: there is no such unit. */
static bool find_unit(const bb_net *net, const char *name, uint32_t *what, uint32_t *layer)
{
    const char *rest;
    *layer = 0;
    *what = strcmp(name, "token_embd") == 0 ? BB_UNIT_EMBD : BB_UNIT_HEAD;
    if (*what == BB_UNIT_EMBD || strcmp(name, "output") == 0) return *what == BB_UNIT_EMBD || net->head.rows;
    *what = BB_UNIT_TABLE;
    if (strcmp(name, bb_token_names[BB_TOKEN_TABLE]) == 0) return net->token.width;
    if (!split_unit(name, net->n_layer, layer, &rest)) return false;
    *what = bb_unit_of_sublayer(structure_of(rest));
    if (structure_of(rest) != BB_N_SUBLAYERS) return true;
    for (*what = 0; *what < BB_N_PARTS; ++*what)
        if (strcmp(rest, bb_parts[*what].name) == 0) return bb_parts[*what].sublayer != BB_TOKEN || net->token.width;
    return false;
}

static bb_status apply_gene(const bb_gene *gene, bool formats, bb_net *net, bb_err *err)
{
    uint32_t  what, layer, value = 0;
    bb_status status = BB_OK;
    if (!find_unit(net, gene->unit, &what, &layer)) return formats ? BB_FAIL(err, BB_NOT_FOUND, "plan: this model has no unit '%.100s'", gene->unit) : BB_OK;
    if (bb_unit_is_format(what) != formats) return BB_OK;
    if (formats) {
        const bb_format *format = bb_format_find(gene->option);
        if (!format) return BB_FAIL(err, BB_NOT_FOUND, "plan: %.100s=%.100s: no such format", gene->unit, gene->option);
        value = (uint32_t)format->type;
    } else {
        const bb_block   *block = &net->blocks[layer];
        const bb_sublayer s = bb_unit_sublayer(what);
        BB_TRY(keep_width(gene, bb_block_kept(block, s), &value, err));
        if (value != bb_block_kept(block, s) && !bb_block_cuttable(block, s))
            return BB_FAIL(err, BB_UNSUPPORTED, "plan: %s=%.100s: blocks share keys and values of block %u, which keeps all %u KV heads", gene->unit,
                           gene->option, layer, bb_block_kept(block, s));
    }
    set_unit(net, what, layer, value);
done:
    return status;
}

bb_status bb_plan_shape(const bb_model *m, const bb_plan *plan, bb_net *out, bb_block *blocks, bb_err *err)
{
    bb_status status = BB_OK;
    without_data(m, out, blocks);
    for (int formats = 0; formats < 2; formats++)
        for (size_t i = 0; i < plan->n; i++) BB_TRY(apply_gene(&plan->genes[i], formats == 1, out, err));
done:
    return status;
}
