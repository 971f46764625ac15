/* SPDX-License-Identifier: GPL-3.0-or-later
 * channels.h: masks over the channels of a network, as TOGA (arXiv 2606.07819) has them: five that prune and one of precision for each linear of a block;
 * and what a network stores that has them.
 *
 * With P1 .. P5 and one m a linear, each a diagonal of zeros and ones:
 *   attention(x) = O P2 heads(Q P1 x, K P1 x, V P1 x)        ffn(x) = P5 Down P4 (act(Gate P3 x) o (Up P3 x))
 *   each W = High(W) diag(m) + Low(W) diag(1 - m)
 * P1, P3: hidden channels that a sublayer reads, behind its norm; P2, P5: those that it writes; P4: channels of the FFN. The residual stream stays as wide
 * as it is.
 *
 * Stored, and counted byte by byte (two_part.h writes and reads a matrix of it):
 *   P1, P2, P3, P5 where they prune: a bit a channel, whole bytes, once a block (P4 needs none: what it cuts is gone from all three matrices);
 *   a matrix of r kept rows and c kept columns: where there are two precisions a bit a kept column (whole bytes), which says in which part it is;
 *   then its low and its high part: columns in ascending order, each row a 16-bit scale for every begun block of the format's size and the codes of its
 *   columns, b bits each, in whole bytes. So a part of n columns takes r (2 ceil(n / block) + ceil(b n / 8)) bytes.
 */
#ifndef BB_MODEL_COMPRESS_CHANNELS_H
#define BB_MODEL_COMPRESS_CHANNELS_H

#include "base/status.h"
#include "model/net/net.h"

typedef enum bb_channel_mask {
    BB_MASK_ATTENTION_IN,
    BB_MASK_ATTENTION_OUT,
    BB_MASK_FFN_IN,
    BB_MASK_CHANNELS,
    BB_MASK_FFN_OUT,
    BB_N_PRUNING, /* P1 .. P5; then the precision of part p is BB_N_PRUNING + p */
    BB_N_CHANNEL_MASKS = BB_N_PRUNING + BB_N_PARTS
} bb_channel_mask;

/* Of a block: which masks cut the columns and the rows of a part; -1: none. */
int bb_mask_of_columns(bb_part p);
int bb_mask_of_rows(bb_part p);
/* "attention in" .. "ffn out", "attn_q precision" ...: as tables call them. */
void bb_mask_name(int mask, char out[32]);

typedef struct bb_channels {
    uint32_t       n_layer;
    bool           pruned, mixed; /* has P1 .. P5; has two precisions */
    uint32_t      *length;        /* [n_layer * BB_N_CHANNEL_MASKS] of each mask; 0: it is not there, which is as if it were of ones (zeros, of precision) */
    size_t        *at;            /* where it begins */
    size_t         n;             /* entries of all masks */
    unsigned char *on;            /* [n] 1: kept, high */
} bb_channels;

typedef enum bb_pruning { BB_PRUNE_NOTHING, BB_PRUNE_CHANNELS /* P4 alone */, BB_PRUNE_ALL } bb_pruning;

/* All masks of ones. Masks of a sublayer that a block lacks are not there. */
bb_status bb_channels_create(const bb_net *net, bb_pruning pruning, bool mixed, bb_channels *c, bb_err *err);
void      bb_channels_done(bb_channels *c);

/* The entries of a mask; NULL: it is not there. */
const unsigned char *bb_channels_mask(const bb_channels *c, uint32_t layer, int mask);
/* Entries that are 1. */
uint32_t bb_channels_count(const bb_channels *c, uint32_t layer, int mask);

/* Formats that parts can have: one scale of 16 bits a block, b bits a weight, any grid. Else BB_UNSUPPORTED, with those that it could be. */
bb_status bb_part_format_check(bb_type type, bb_err *err);
uint32_t  bb_part_format_bits(bb_type type);           /* b */
size_t    bb_part_row_bytes(bb_type type, uint32_t n); /* of n columns */

/* Of the masks alone, were all channels kept: bits of P1, P2, P3, P5 and of precision. And of all linears with their masks, as said above. */
uint64_t bb_channels_mask_bytes(const bb_channels *c);
uint64_t bb_channels_bytes(const bb_channels *c, const bb_net *net, bb_type low, bb_type high);
/* Weights of all linears that are kept, of all that there are. */
double bb_channels_kept(const bb_channels *c, const bb_net *net);

#endif
