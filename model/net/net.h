/* SPDX-License-Identifier: GPL-3.0-or-later
 * net.h: a network as plain data: shapes, norms, and views of weight matrices in any format; and what a block is made of: its parts (linears),
 * the inputs that feed them, its norms, each as a row of a table (net.c).
 *
 * A bb_net owns nothing: a plan is applied by copying the array of blocks and pointing some matrices elsewhere (option
 * database, rebuilt weights). The forward pass (forward.h), the exporter and the size model all read this one struct.
 * Letters: C width (n_embd), H query heads, G KV heads, D head size (of the block's kind), F FFN width, V vocabulary, T tokens.
 */
#ifndef BB_MODEL_NET_NET_H
#define BB_MODEL_NET_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/format.h"

/* One weight matrix: rows x cols, y = W x + bias. rows == 0: absent. data may be NULL where only the size matters. */
typedef struct bb_matrix {
    bb_type                  type;
    uint32_t                 rows, cols;
    const void              *data;    /* borrowed, packed rows of `type` */
    const float             *bias;    /* borrowed, [rows] or NULL */
    const struct bb_lattice *lattice; /* borrowed; not NULL: type is F32, data are the weights that this stands for, and files hold this (lattice.h) */
} bb_matrix;

/* ---- what a block is made of ---- */

/* Numbers that a side of a matrix, or a vector, can have. */
typedef enum bb_dim { BB_DIM_C, BB_DIM_HD, BB_DIM_GD, BB_DIM_F, BB_DIM_D, BB_DIM_P } bb_dim;

/* Each adds to the residual stream and can be absent from a block. BB_TOKEN: what the token itself gives to this block (see bb_token_inputs); it has no
 * structure that a plan could cut. */
typedef enum bb_sublayer { BB_ATTENTION, BB_FFN, BB_TOKEN, BB_N_SUBLAYERS } bb_sublayer;

/* The points of a block whose numbers feed linears, in the order of the pass: second moments are of them. */
typedef enum bb_feed { BB_FEED_ATTENTION, BB_FEED_HEADS, BB_FEED_FFN, BB_FEED_CHANNELS, BB_FEED_TOKEN, BB_FEED_TOKEN_CHANNELS, BB_N_FEEDS } bb_feed;

typedef enum bb_part {
    BB_PART_Q,
    BB_PART_K,
    BB_PART_V,
    BB_PART_O,
    BB_PART_GATE,
    BB_PART_UP,
    BB_PART_DOWN,
    BB_PART_TOKEN_GATE,
    BB_PART_TOKEN_OUT,
    BB_N_PARTS
} bb_part;

typedef enum bb_norm { BB_NORM_ATTENTION, BB_NORM_FFN, BB_NORM_Q, BB_NORM_K, BB_NORM_POST_ATTENTION, BB_NORM_POST_FFN, BB_NORM_POST_TOKEN, BB_N_NORMS } bb_norm;

typedef enum bb_norm_place {
    BB_PLACE_INPUT, /* of the sublayer: what its parts read from the residual stream */
    BB_PLACE_Q,
    BB_PLACE_K,     /* of queries or keys, before RoPE */
    BB_PLACE_OUTPUT /* of the sublayer: what its writer gives, before it joins the residual stream */
} bb_norm_place;

typedef struct bb_sublayer_info {
    const char *unit; /* what a plan calls the count that it keeps: "blk.N." and this; NULL: it has no such count */
    const char *name;
    bb_part     writer;    /* the part that adds to the residual stream */
    bb_norm     pre, post; /* of its input and of its output; a network may lack either. BB_N_NORMS: never there */
} bb_sublayer_info;

typedef struct bb_feed_info {
    bb_sublayer sublayer;
    bb_dim      width; /* C: what the residual stream gives; else what pruning makes narrower */
} bb_feed_info;

/* A linear of a block; each is one matrix (experts, when there are some, will be a third side here). */
typedef struct bb_part_info {
    const char *name; /* of its tensors and of its unit in a plan, behind "blk.N." */
    bb_sublayer sublayer;
    bb_feed     feed;       /* what feeds it */
    bb_dim      rows, cols; /* the side that is not C is the one that pruning cuts */
    bool        rotated;    /* RoPE turns its heads */
} bb_part_info;

typedef struct bb_norm_info {
    const char   *name; /* of its tensor, behind "blk.N." */
    bb_sublayer   sublayer;
    bb_norm_place place;
    bb_dim        over; /* C: of whole rows; D: of each head, or of all together (bb_net.whole_norms) */
} bb_norm_info;

extern const bb_sublayer_info bb_sublayers[BB_N_SUBLAYERS];
extern const bb_feed_info     bb_feeds[BB_N_FEEDS];
extern const bb_part_info     bb_parts[BB_N_PARTS];
extern const bb_norm_info     bb_norms[BB_N_NORMS];
extern const char             bb_block_scale_name[]; /* of the tensor of bb_block.scale, behind "blk.N." */

typedef enum bb_token_tensor { BB_TOKEN_TABLE, BB_TOKEN_PROJ, BB_TOKEN_NORM, BB_N_TOKEN_TENSORS } bb_token_tensor;
extern const char *const bb_token_names[BB_N_TOKEN_TENSORS]; /* of the tensors of bb_token_inputs; that of the table also of its unit in a plan */

/* ---- the network ---- */

/* What a gate does to its numbers before they multiply those of up. GELU in its tanh form: x / (1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3))). */
typedef enum bb_gate { BB_GATE_SILU, BB_GATE_GELU } bb_gate;

/* Keys and values that several blocks attend to: one block makes them, later ones of its kind take them from the row (bb_net.n_carried). */
typedef enum bb_kv_role { BB_KV_OWN, BB_KV_GIVES, BB_KV_TAKES } bb_kv_role;

typedef struct bb_block {
    uint32_t     n_head, n_kv;             /* query heads and KV heads kept; 0, 0: no attention. n_head / n_kv is what pruning keeps of a block */
    uint32_t     n_ff;                     /* FFN width kept; 0: no FFN */
    uint32_t     n_token;                  /* P of the network; 0: the block has nothing of BB_TOKEN */
    bool         by_gates[BB_N_SUBLAYERS]; /* pruned by the order of the gates (bb_width) */
    bb_matrix    w[BB_N_PARTS];
    unsigned     lacks; /* set of parts that its attention does without: values without a projection of their own are what k gives, before its norm; one
                           that takes keys and values has neither */
    bb_kv_role   kv_role;
    uint32_t     kv_at;            /* where in what a row carries the keys lie that it gives or takes, [n_kv * D], then its values */
    uint32_t     number;           /* of the block: its slice of bb_token_inputs */
    const float *norm[BB_N_NORMS]; /* NULL: not there; an input goes in, and an output joins, as it is */
    bool         no_rope;          /* queries and keys are not rotated */
    bool         local;            /* of the other kind of blocks: they are, by local_rope_base; see local_head_dim */
    uint32_t     window;           /* keys that a query sees, the last of them its own; 0: all before it */
    float        scale;            /* factor of the whole residual stream behind its sublayers, there or not; 0: none */
} bb_block;

typedef struct bb_arch bb_arch; /* arch.h */

/* Per-layer embeddings: what a token gives to each block, P numbers, is the row of a table plus a normed projection of its embedding e (times embd_scale):
 * (norm(proj e / sqrt(C)) + sqrt(P) table row) / sqrt(2). A block multiplies its gate by it (BB_TOKEN). width 0: there is nothing of it. */
typedef struct bb_token_inputs {
    uint32_t     width; /* P */
    bb_matrix    table; /* (V * n_layer) x P: of each token the rows of all blocks, in the file one row of n_layer * P */
    bb_matrix    proj;  /* (n_layer * P) x C */
    const float *norm;  /* [P] */
} bb_token_inputs;

typedef struct bb_net {
    const bb_arch  *arch;
    uint32_t        n_vocab, n_embd, n_layer, head_dim, n_rot, n_ctx_train;
    float           norm_eps;
    bool            whole_norms; /* those of queries and keys are of all heads of a token together, with a weight for each number */
    float           embd_scale, query_scale, out_scale, residual_scale; /* factors, see below; 0: none */
    float           rope_base;
    float           rope_freq_scale; /* 1 / linear scaling factor */
    bool            rope_neox;       /* true: pairs (i, i + n_rot/2); false: pairs (2i, 2i+1) */
    const float    *rope_factors;    /* [n_rot/2] frequency divisors (llama-3 scaling) or NULL */
    const float    *rope_long;       /* [n_rot/2] those of contexts longer than rope_context, for which rope_factors are not; NULL: of all */
    uint32_t        rope_context;    /* tokens of the context before it was extended */
    float           rope_magnitude;  /* factor of what RoPE turns; 0: none */
    bool            yarn;            /* rope_freq_scale is for pairs from yarn_high on, 1 for those up to yarn_low, a line between */
    float           yarn_low, yarn_high;
    float           heat;                        /* queries of position p: times 1 + heat ln(1 + floor(p / rope_context)); 0: not */
    float           local_rope_base;             /* of local blocks, which have neither scale nor divisors; 0: none is local */
    uint32_t        local_head_dim, local_n_rot; /* of local blocks; 0: as the others have them */
    bool            unit_scores;                 /* the scale of attention is query_scale alone, whatever the size of a head */
    const float    *value_norm;                  /* ones, [D] of the largest D: values are normed, each head on its own; NULL: they are not */
    float           logit_cap;                   /* c: logits z become c tanh(z / c); 0: they stay */
    bb_gate         gate;
    bb_token_inputs token;
    uint32_t        n_carried; /* numbers that travel with a row of the residual stream, for later blocks: the token's id, if there is bb_token_inputs,
                                 then keys and values that blocks share. Their gradients travel in the same places */
    bb_matrix       embd;      /* V x C */
    bb_matrix       head;      /* V x C; rows == 0: tied to embd */
    const float    *out_norm;  /* [C] */
    bb_block       *blocks;    /* [n_layer]; borrowed */
} bb_net;

/* Factors of a network, 0 or 1: nothing is multiplied. embd_scale: of the rows of the embedding. query_scale: of the queries after RoPE, so that the scale
 * of attention is query_scale / sqrt(D). out_scale: of what the output norm gives, hence of the logits. residual_scale: of what a sublayer adds to the
 * residual stream, which is kept divided by it, so that it is added as it is: embd_scale and norm_eps, which the loader made, are in that unit. */
static inline bool  bb_scales(float factor) { return factor > 0 && (factor < 1 || factor > 1); }
static inline float bb_scale_of(float factor) { return factor > 0 ? factor : 1; }

/* The slope of the cap where it gave z. */
static inline float bb_cap_slope(float cap, float z) { return cap > 0 ? 1 - z / cap * (z / cap) : 1; }

/* Size of a block's heads, and how many numbers of a head RoPE turns. */
static inline uint32_t bb_head_dim(const bb_net *n, const bb_block *b) { return b->local && n->local_head_dim ? n->local_head_dim : n->head_dim; }
static inline uint32_t bb_n_rot(const bb_net *n, const bb_block *b) { return b->local && n->local_n_rot ? n->local_n_rot : n->n_rot; }

/* Numbers of one row on its way through the blocks: the residual stream, then what it carries. Behind the last block it is the stream alone that counts. */
static inline size_t bb_row_width(const bb_net *n) { return (size_t)n->n_embd + n->n_carried; }
/* The projection of one block, and the factor of what it gives: 1 / sqrt(C). */
float     bb_token_proj_scale(const bb_net *n);
bb_matrix bb_token_proj(const bb_net *n, uint32_t block);
/* Sublayers that a block of the network can have: those that no block has need no place. */
static inline int bb_net_sublayers(const bb_net *n) { return n->token.width ? BB_N_SUBLAYERS : BB_TOKEN; }

enum { BB_MAX_LAYERS = 512 }; /* a model with more blocks is refused */

static inline const bb_matrix *bb_net_head(const bb_net *n) { return n->head.rows ? &n->head : &n->embd; }

static inline bool bb_block_has(const bb_block *b, bb_sublayer s) { return s == BB_ATTENTION ? b->n_head > 0 : s == BB_FFN ? b->n_ff > 0 : b->n_token > 0; }
static inline bool bb_block_has_part(const bb_block *b, bb_part p) { return bb_block_has(b, bb_parts[p].sublayer) && !(b->lacks >> p & 1); }

/* Are there weights of it, if its sublayer is there? A block that takes keys has no norm of them. */
static inline bool bb_block_has_norm(const bb_block *b, bb_norm n)
{
    return bb_block_has(b, bb_norms[n].sublayer) && !(bb_norms[n].place == BB_PLACE_K && b->kv_role == BB_KV_TAKES);
}

/* NULL: the block has none. */
static inline const float *bb_norm_weight(const bb_block *b, bb_norm n) { return n < BB_N_NORMS ? b->norm[n] : NULL; }

/* What pruning leaves of a sublayer: KV heads with their query heads, FFN channels; all of BB_TOKEN. */
static inline uint32_t bb_block_kept(const bb_block *b, bb_sublayer s) { return s == BB_ATTENTION ? b->n_kv : s == BB_FFN ? b->n_ff : b->n_token; }
/* Can a plan leave less of it? Keys and values that are shared have the heads of all who attend to them. */
static inline bool     bb_block_cuttable(const bb_block *b, bb_sublayer s) { return s == BB_ATTENTION ? b->kv_role == BB_KV_OWN : s == BB_FFN; }
static inline uint32_t bb_part_kept(const bb_block *b, bb_part p) { return bb_block_kept(b, bb_parts[p].sublayer); }
/* The most that its sublayer may keep of `block` so that the rows of this part are a whole number of blocks of `weights`; 0: nothing does it. */
uint32_t bb_part_widest(const bb_net *net, const bb_block *block, bb_part p, uint32_t weights);

/* Does pruning cut the rows of the part (else its columns)? The one that it does not cut is C. */
static inline bool bb_part_cut_by_rows(bb_part p) { return bb_parts[p].rows != BB_DIM_C; }

size_t bb_dim_of(const bb_net *net, const bb_block *block, bb_dim dim);
size_t bb_norm_length(const bb_net *net, const bb_block *block, bb_norm norm); /* of its weights */
/* A width as plans and the option database know it: how many KV groups or FFN channels stay, and by which of two orders they were chosen: that of the
 * block's own second moments, or, with BB_BY_GATES, that of gates which feel the end of the network (model/compress/database.h). Nothing, and all, are by neither. */
typedef uint32_t bb_width;
#define BB_BY_GATES 0x80000000u
static inline uint32_t bb_width_count(bb_width w) { return w & ~BB_BY_GATES; }
static inline bb_width bb_block_width(const bb_block *b, bb_sublayer s) { return bb_block_kept(b, s) | (b->by_gates[s] ? BB_BY_GATES : 0); }
static inline bb_width bb_part_width(const bb_block *b, bb_part p) { return bb_block_width(b, bb_parts[p].sublayer); }

/* Leaves `kept` of a sublayer, in shapes only (no data moves), by no gates: of the attention KV heads with their query heads. 0: the sublayer is absent. */
void bb_block_keep(const bb_net *net, bb_block *block, bb_sublayer s, uint32_t kept);

#endif
