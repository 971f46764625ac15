/* SPDX-License-Identifier: GPL-3.0-or-later
 * channels.c: see channels.h. */
#include "model/compress/channels.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

int bb_mask_of_columns(bb_part p)
{
    static const int of[BB_N_FEEDS] = {
        [BB_FEED_ATTENTION] = BB_MASK_ATTENTION_IN, [BB_FEED_HEADS] = -1, [BB_FEED_FFN] = BB_MASK_FFN_IN, [BB_FEED_CHANNELS] = BB_MASK_CHANNELS
    };
    return of[bb_parts[p].feed];
}

int bb_mask_of_rows(bb_part p)
{
    const bb_sublayer s = bb_parts[p].sublayer;
    if (bb_sublayers[s].writer == p) return s == BB_ATTENTION ? BB_MASK_ATTENTION_OUT : BB_MASK_FFN_OUT;
    return s == BB_FFN ? BB_MASK_CHANNELS : -1;
}

void bb_mask_name(int mask, char out[32])
{
    static const char *const pruning[BB_N_PRUNING] = { "attention in", "attention out", "ffn in", "ffn channels", "ffn out" };
    if (mask < BB_N_PRUNING) snprintf(out, 32, "%s", pruning[mask]);
    else snprintf(out, 32, "%s precision", bb_parts[mask - BB_N_PRUNING].name);
}

/* ---- life ---- */

static uint32_t length_of(const bb_net *net, const bb_block *block, int mask, bb_pruning pruning, bool mixed)
{
    if (mask >= BB_N_PRUNING) {
        const bb_part p = (bb_part)(mask - BB_N_PRUNING);
        return mixed && bb_block_has_part(block, p) ? block->w[p].cols : 0;
    }
    const bool attention = mask == BB_MASK_ATTENTION_IN || mask == BB_MASK_ATTENTION_OUT;
    if (pruning == BB_PRUNE_NOTHING || (pruning == BB_PRUNE_CHANNELS && mask != BB_MASK_CHANNELS)) return 0;
    if (!bb_block_has(block, attention ? BB_ATTENTION : BB_FFN)) return 0;
    return mask == BB_MASK_CHANNELS ? block->n_ff : net->n_embd;
}

bb_status bb_channels_create(const bb_net *net, bb_pruning pruning, bool mixed, bb_channels *c, bb_err *err)
{
    const size_t n = (size_t)net->n_layer * BB_N_CHANNEL_MASKS;
    *c = (bb_channels) { .n_layer = net->n_layer, .pruned = pruning != BB_PRUNE_NOTHING, .mixed = mixed };
    c->length = BB_NEW(n, uint32_t, err);
    c->at = BB_NEW(n, size_t, err);
    for (size_t i = 0; c->length && c->at && i < n; i++) {
        c->length[i] = length_of(net, &net->blocks[i / BB_N_CHANNEL_MASKS], (int)(i % BB_N_CHANNEL_MASKS), pruning, mixed);
        c->at[i] = c->n;
        c->n += c->length[i];
    }
    c->on = BB_NEW(c->n, unsigned char, err);
    if (!c->length || !c->at || !c->on) {
        bb_channels_done(c);
        return BB_NOMEM;
    }
    memset(c->on, 1, c->n);
    return BB_OK;
}

void bb_channels_done(bb_channels *c)
{
    bb_free(c->length);
    bb_free(c->at);
    bb_free(c->on);
    *c = (bb_channels) { 0 };
}

const unsigned char *bb_channels_mask(const bb_channels *c, uint32_t layer, int mask)
{
    if (mask < 0) return NULL;
    const size_t i = (size_t)layer * BB_N_CHANNEL_MASKS + (size_t)mask;
    return c->length[i] ? c->on + c->at[i] : NULL;
}

uint32_t bb_channels_count(const bb_channels *c, uint32_t layer, int mask)
{
    const unsigned char *on = bb_channels_mask(c, layer, mask);
    uint32_t             n = 0;
    for (uint32_t i = 0; on && i < c->length[(size_t)layer * BB_N_CHANNEL_MASKS + (size_t)mask]; i++) n += on[i];
    return n;
}

/* ---- bytes ---- */

uint32_t bb_part_format_bits(bb_type type)
{
    const bb_format *f = bb_format_get(type);
    return f ? (uint32_t)((f->block_bytes - 2) * 8 / f->block) : 0;
}

static bool can_be_part(const bb_format *f)
{
    return f->vec == 1 && f->group == f->block && (f->block_bytes - 2) * 8 % f->block == 0 && 1u << bb_part_format_bits(f->type) == f->n_levels;
}

bb_status bb_part_format_check(bb_type type, bb_err *err)
{
    const bb_format *f = bb_format_get(type);
    char             names[160] = "";
    if (f && can_be_part(f)) return BB_OK;
    for (size_t i = 0; bb_format_at(i); i++) {
        const size_t n = strlen(names);
        if (can_be_part(bb_format_at(i))) snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", bb_format_at(i)->name);
    }
    return BB_FAIL(err, BB_UNSUPPORTED, "%s cannot be a part of a matrix, whose blocks have one scale of 16 bits and codes of as many bits each: %s can",
                   f ? f->name : "this format", names);
}

size_t bb_part_row_bytes(bb_type type, uint32_t n)
{
    const bb_format *f = bb_format_get(type);
    return 2 * (((size_t)n + f->block - 1) / f->block) + ((size_t)n * bb_part_format_bits(type) + 7) / 8;
}

/* Rows, columns and columns of high precision that a matrix keeps. */
static void kept_of(const bb_channels *c, uint32_t layer, const bb_matrix *w, bb_part p, uint32_t *rows, uint32_t *cols, uint32_t *high)
{
    const unsigned char *of_rows = bb_channels_mask(c, layer, bb_mask_of_rows(p)), *of_cols = bb_channels_mask(c, layer, bb_mask_of_columns(p));
    const unsigned char *precision = bb_channels_mask(c, layer, BB_N_PRUNING + (int)p);
    *rows = *cols = *high = 0;
    for (uint32_t r = 0; r < w->rows; r++) *rows += !of_rows || of_rows[r];
    for (uint32_t i = 0; i < w->cols; i++) {
        const bool kept = !of_cols || of_cols[i];
        *cols += kept;
        *high += kept && precision && precision[i];
    }
}

/* A mask of P1, P2, P3 or P5 is stored as bits. */
static uint64_t bits_of(const bb_channels *c, uint32_t layer, int mask)
{
    return mask == BB_MASK_CHANNELS ? 0 : ((uint64_t)c->length[(size_t)layer * BB_N_CHANNEL_MASKS + (size_t)mask] + 7) / 8;
}

uint64_t bb_channels_mask_bytes(const bb_channels *c)
{
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < c->n_layer; l++)
        for (int m = 0; m < BB_N_CHANNEL_MASKS; m++) bytes += bits_of(c, l, m);
    return bytes;
}

uint64_t bb_channels_bytes(const bb_channels *c, const bb_net *net, bb_type low, bb_type high)
{
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < net->n_layer; l++) {
        for (int m = 0; m < BB_N_PRUNING; m++) bytes += bits_of(c, l, m);
        for (int p = 0; p < BB_N_PARTS; p++) {
            uint32_t rows, cols, n_high;
            if (!bb_block_has_part(&net->blocks[l], (bb_part)p)) continue;
            kept_of(c, l, &net->blocks[l].w[p], (bb_part)p, &rows, &cols, &n_high);
            if (c->mixed) bytes += ((uint64_t)cols + 7) / 8;
            bytes += (uint64_t)rows * (bb_part_row_bytes(low, cols - n_high) + bb_part_row_bytes(high, n_high));
        }
    }
    return bytes;
}

double bb_channels_kept(const bb_channels *c, const bb_net *net)
{
    double kept = 0, all = 0;
    for (uint32_t l = 0; l < net->n_layer; l++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &net->blocks[l].w[p];
            uint32_t         rows, cols, high;
            if (!bb_block_has_part(&net->blocks[l], (bb_part)p)) continue;
            kept_of(c, l, w, (bb_part)p, &rows, &cols, &high);
            kept += (double)rows * cols;
            all += (double)w->rows * w->cols;
        }
    return all > 0 ? kept / all : 0;
}
