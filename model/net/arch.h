/* SPDX-License-Identifier: GPL-3.0-or-later
 * arch.h: the architectures, a row each (arch.c): how the block of net.h is computed in one, how its files have it, and as what it is written.
 * The loader (model/model.c), the exporter and the search space read the rows; the passes read the bb_net that the loader made by them.
 *
 * What all rows share has no column: RMS norms, gated FFN, causal attention with scale 1/sqrt(D) (but see factors, wide_scale_at, unit_scores), nothing scaled
 * (but see factors, embd_root, block_scales) or capped (but see capped) on the way from embedding to logits, one matrix a part. A file whose keys say
 * otherwise is refused (model/foreign.c). An architecture that needs another operation brings the operation and its column.
 */
#ifndef BB_MODEL_NET_ARCH_H
#define BB_MODEL_NET_ARCH_H

#include "model/net/net.h"

/* The counts that make a block's shape, in the order in which files have them. */
typedef enum bb_count { BB_COUNT_HEADS, BB_COUNT_KV, BB_COUNT_FF, BB_N_COUNTS } bb_count;

extern const char *const bb_count_keys[BB_N_COUNTS]; /* behind the architecture's name */

#define BB_SET(x) (1u << (x)) /* a member of the sets below */

typedef struct bb_arch {
    const char *name; /* general.architecture, and what its keys begin with */
    /* what is computed */
    bool     neox;          /* RoPE turns pairs (i, i + n_rot/2); else (2i, 2i+1) */
    bool     whole_heads;   /* RoPE turns all numbers of a head */
    uint32_t no_rope_every; /* 4: the fourth block, the eighth, ... has no RoPE; 0: all have */
    bool     factors;       /* the four of Granite: of embeddings, attention, residual stream and logits (net.h) */
    bool     embd_root;     /* embeddings are multiplied by sqrt(C) */
    bb_gate  gate;          /* of the FFN */
    uint32_t window_every;  /* 6: where a key gives a window, blocks have it and RoPE by a base of their own, but the sixth, the twelfth, ... (unless
                               another key gives the period); 0: attention sees the whole context */
    bool     own_kinds;     /* blocks with a window have the size of their heads, and how much of it RoPE turns, by keys of their own; a list says which they
                               are */
    bool     unit_scores, value_norms; /* see net.h */
    bool     capped;                   /* a key caps the logits */
    uint32_t wide_scale_at;            /* with this many blocks the scale of attention is 1/sqrt(C/H) */
    unsigned norms;                    /* set of bb_norm that every block has */
    bool     whole_norms;              /* of queries and keys: of all heads together */
    /* what its loader takes */
    unsigned    arrays;        /* set of bb_count that may differ from block to block */
    unsigned    optional;      /* set of bb_sublayer that a block may lack */
    bool        rope_switch;   /* a key of its loader turns RoPE off */
    bool        rope_factors;  /* rope_freqs.weight (the frequency factors of Llama 3), or, where the scaling is called longrope, as the next */
    bool        two_factors;   /* rope_factors_short.weight and rope_factors_long.weight, whatever the scaling is called */
    bool        own_yarn;      /* the numbers of YaRN from its keys, and a temperature of attention by position (Ministral 3) */
    bool        no_window;     /* the key of a sliding window is there and says nothing: the graph has none */
    bool        separate_head; /* output.weight: embeddings and head need not be tied */
    bool        needs_head;    /* and are not: it must be there */
    bool        attention_biases;
    bool        values_of_keys;    /* a block without attn_v: see bb_block.lacks */
    bool        shared_keys;       /* a key says how many of the last blocks take keys and values of an earlier one (bb_kv_role) */
    bool        token_inputs;      /* a key says how many numbers each token gives to each block (bb_token_inputs) */
    bool        block_scales;      /* layer_output_scale.weight may be there: bb_block.scale */
    bool        square_attention;  /* the heads must make up the width: H D = C */
    const char *fused[BB_N_FEEDS]; /* the one tensor in which all parts with this feed lie, rows of one behind rows of the other; NULL: a tensor each */
    unsigned    always, first;     /* sets of bb_sublayer: the graph needs them in every block, in the first block: a stand-in that computes zero */
    /* where it goes when its blocks do not fit its loader */
    const char *pruned; /* the architecture to be written; NULL: llama.cpp has none */
    const char *alone;  /* why not: what no architecture with blocks of different shapes has, as the end of a sentence; NULL: see pruned */
} bb_arch;

extern const bb_arch bb_archs[]; /* new rows at the end: what is kept on disk of a training names an architecture by its place */
extern const size_t  bb_n_archs;

/* The factor of queries beside 1/sqrt(D); 0: none. */
float bb_arch_query_scale(const bb_arch *arch, uint32_t n_layer, uint32_t n_embd, uint32_t n_head, uint32_t head_dim);

static inline bool bb_arch_no_rope(const bb_arch *arch, uint32_t block) { return arch->no_rope_every && (block + 1) % arch->no_rope_every == 0; }

/* Does the runtime tell by their numbers what kind of blocks they are, so that not every one can leave? */
static inline bool bb_arch_counts_blocks(const bb_arch *arch) { return arch->no_rope_every || (arch->window_every && !arch->own_kinds); }

const bb_arch *bb_arch_find(const char *name, size_t length); /* NULL: not known */
const bb_arch *bb_arch_named(const char *name);               /* the same, of a text; must be known */
/* Where blocks of any shape are written: itself, or the row of `pruned`; NULL: nowhere. */
const bb_arch *bb_arch_for_pruned(const bb_arch *arch);
/* Is there another architecture for the net, with a tensor for every part, so that parts which its own has in one may have types of their own? */
bool bb_arch_takes_mixed(const bb_net *net);
/* Does the architecture take what is around the blocks: a head of its own, heads that are rotated in part? */
bool bb_arch_takes_outside(const bb_arch *arch, const bb_net *net);

#endif
