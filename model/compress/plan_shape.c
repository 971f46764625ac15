/* SPDX-License-Identifier: GPL-3.0-or-later
 * plan_shape.c: a plan turned into shapes and types, without data: what sizes and runtime checks are made of. See database.h.
 *
 * First the structure (kv, ffn) is set, then the formats, so that the order of genes does not matter. All matrix data are NULL in
 * the result; norms and biases still point at the source's (a bias pointer means "there is one", its length is the source's).
 */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "model/compress/database.h"

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

static bb_status keep_count(const bb_gene *gene, uint32_t most, uint32_t *kept, bb_err *err)
{
    int64_t v = -1;
    if (bb_parse_int(gene->option, &v, NULL) != BB_OK || v < 0 || v > most)
        return BB_FAIL(err, BB_NOT_FOUND, "plan: %s=%s: 0 to %u is possible", gene->unit, gene->option, most);
    *kept = (uint32_t)v;
    return BB_OK;
}

/* The sublayer whose kept count a unit sets, from what stands behind "blk.N."; BB_N_SUBLAYERS: none. */
static bb_sublayer structure_of(const char *rest)
{
    int s = 0;
    while (s < BB_N_SUBLAYERS && strcmp(rest, bb_sublayers[s].unit) != 0) s++;
    return (bb_sublayer)s;
}

/* Genes of structure; every other gene is left to apply_format. */
static bb_status apply_structure(const bb_gene *gene, bb_net *net, bb_err *err)
{
    uint32_t    layer, kept = 0;
    const char *rest;
    bb_status   status = BB_OK;
    if (!split_unit(gene->unit, net->n_layer, &layer, &rest)) return BB_OK;
    const bb_sublayer s = structure_of(rest);
    if (s == BB_N_SUBLAYERS) return BB_OK;
    BB_TRY(keep_count(gene, bb_block_kept(&net->blocks[layer], s), &kept, err));
    bb_block_keep(net, &net->blocks[layer], s, kept);
done:
    return status;
}

/* The matrix that a unit names; NULL when there is none. */
static bb_matrix *matrix_of(const char *unit, bb_net *net)
{
    uint32_t    layer;
    const char *rest;
    if (strcmp(unit, "token_embd") == 0) return &net->embd;
    if (strcmp(unit, "output") == 0) return net->head.rows ? &net->head : NULL;
    if (!split_unit(unit, net->n_layer, &layer, &rest)) return NULL;
    for (unsigned p = 0; p < BB_N_PARTS; p++)
        if (strcmp(rest, bb_parts[p].name) == 0) return &net->blocks[layer].w[p];
    return NULL;
}

static bb_status apply_format(const bb_gene *gene, bb_net *net, bb_err *err)
{
    uint32_t         layer;
    const char      *rest;
    const bb_format *format;
    bb_matrix       *w;
    if (split_unit(gene->unit, net->n_layer, &layer, &rest) && structure_of(rest) != BB_N_SUBLAYERS) return BB_OK;
    w = matrix_of(gene->unit, net);
    if (!w) return BB_FAIL(err, BB_NOT_FOUND, "plan: this model has no unit '%.100s'", gene->unit);
    format = bb_format_find(gene->option);
    if (!format) return BB_FAIL(err, BB_NOT_FOUND, "plan: %.100s=%.100s: no such format", gene->unit, gene->option);
    if (w->rows) w->type = format->type; /* a format of a dropped sublayer has no effect */
    return BB_OK;
}

bb_status bb_plan_shape(const bb_model *m, const bb_plan *plan, bb_net *out, bb_block *blocks, bb_err *err)
{
    bb_status status = BB_OK;
    *out = m->net;
    out->blocks = blocks;
    out->embd.data = out->head.data = NULL;
    for (uint32_t i = 0; i < out->n_layer; i++) {
        blocks[i] = m->net.blocks[i];
        for (unsigned p = 0; p < BB_N_PARTS; p++) blocks[i].w[p].data = NULL;
    }
    for (size_t i = 0; i < plan->n; i++) BB_TRY(apply_structure(&plan->genes[i], out, err));
    for (size_t i = 0; i < plan->n; i++) BB_TRY(apply_format(&plan->genes[i], out, err));
done:
    return status;
}
