/* SPDX-License-Identifier: GPL-3.0-or-later
 * model_space.h: the search space of a model under a runtime profile, as a search problem.
 *
 * Units of each block, in this order: blk.N.kv (KV groups kept), blk.N.ffn (FFN width kept), then the seven linears, controlled by kv
 * (attn_*) or ffn (ffn_*); last token_embd and, where the head is separate, output. Bytes are those of the written file: the tables are
 * separable upper bounds, bb_problem.size is exact (model/export/sizes.h). Combinations that the runtime cannot load (row length no
 * multiple of the block) are forbidden by construction.
 */
#ifndef BB_ENGINE_MODEL_SPACE_H
#define BB_ENGINE_MODEL_SPACE_H

#include "model/model.h"
#include "search/problem.h"

typedef struct bb_model_space bb_model_space;

typedef struct bb_model_space_options {
    const char *formats;      /* comma list for the linears; NULL: the default list for the rows of each */
    const char *embd_formats; /* comma list for embedding and head; NULL: the default list for their rows */
    bool        experimental; /* formats that stock llama.cpp does not read may be named, and are in the default lists for rows that 256 does not divide */
    bool        prune_kv, prune_ffn, prune_sublayers;
    bool        by_obs, by_gates; /* the orders that a narrower width is offered by (model/net/net.h); neither: by_obs */
    uint32_t ffn_divisor; /* FFN widths are multiples of it (runtime block); 0: the largest of 256, 64 and 32 that divides the model's, and multiples of 256 */
    uint32_t screen;      /* of the default lists, at most so many formats for each matrix, spread from bits[0] to bits[1]; 0: all */
    double   bits[2];     /* smallest and largest size that matters, in bits a weight of the whole file */
} bb_model_space_options;

bb_status         bb_model_space_create(const bb_model *m, const bb_model_space_options *o, bb_model_space **out, bb_err *err);
void              bb_model_space_destroy(bb_model_space *s);
const bb_problem *bb_model_space_problem(const bb_model_space *s);
double            bb_model_space_width(const bb_model_space *s, uint32_t unit, uint32_t option);  /* kept share of a structure option; 1: format unit */
bool              bb_model_space_is_format(const bb_model_space *s, uint32_t unit);               /* format unit (else: structure) */
const bb_format  *bb_model_space_format(const bb_model_space *s, uint32_t unit, uint32_t option); /* NULL: structure unit */
/* Separable costs from single-change KLs: cost[unit][option] at full shape; a linear in a narrower block costs in proportion to its width. */
void bb_model_space_set_costs(bb_model_space *s, const double *const *cost);
/* The candidate that is the source model; and the smallest and largest reachable file. */
void bb_model_space_source(const bb_model_space *s, uint16_t *x);
/* All linears in one format, embedding and head in another, full shape. Where the space does not offer the format for a matrix: what llama-quantize
 * takes instead for its rows (bb_format_for_row), or the largest offered format below it. False: no linear, or no table, can have it. */
bool bb_model_space_uniform(const bb_model_space *s, const char *format, const char *embd_format, uint16_t *x);
/* What such a plan really holds, most weights first: "uniform IQ4_NL/IQ2_XXS + Q8_0". */
void      bb_model_space_uniform_name(const bb_model_space *s, const uint16_t *x, char *name, size_t size);
bb_status bb_model_space_reach(const bb_model_space *s, uint64_t *smallest, uint64_t *largest, bb_err *err);
double    bb_model_space_pruned_fraction(const bb_model_space *s, const uint16_t *x); /* share of block weights removed */
uint64_t  bb_model_n_weights(const bb_model *m);                                      /* matrices and vectors: the denominator of bpw */

#endif
