/* SPDX-License-Identifier: GPL-3.0-or-later
 * plan_units.h: what the numbers of a plan space (base/plan_space.h) mean for a network.
 *
 * bb_plan_unit.what is a bb_part, the format of that matrix of block `layer`, or one of the kinds below. The value of a format's option is its
 * bb_type, that of a structure's the bb_width that stays: KV groups, FFN channels (0: the sublayer is dropped); by gates its name is the count and "g".
 * Embedding, head and the table of per-layer embeddings have layer 0.
 */
#ifndef BB_MODEL_COMPRESS_PLAN_UNITS_H
#define BB_MODEL_COMPRESS_PLAN_UNITS_H

#include "base/plan_space.h"
#include "model/model.h"

enum { BB_UNIT_KV = BB_N_PARTS + BB_ATTENTION, BB_UNIT_FFN = BB_N_PARTS + BB_FFN, BB_UNIT_EMBD = BB_N_PARTS + BB_N_SUBLAYERS, BB_UNIT_HEAD, BB_UNIT_TABLE };

static inline bool        bb_unit_is_format(uint32_t what) { return what < BB_N_PARTS || what >= BB_UNIT_EMBD; }
static inline bb_sublayer bb_unit_sublayer(uint32_t what) { return (bb_sublayer)(what - BB_N_PARTS); } /* of a structure */
static inline uint32_t    bb_unit_of_sublayer(bb_sublayer s) { return (uint32_t)BB_N_PARTS + (uint32_t)s; }

/* Shapes and types of a plan, all matrix data NULL: norms and biases still point at the source's (a bias pointer means "there is one", its length is
 * the source's). blocks: [n_layer] of the caller. By name, from outside: BB_NOT_FOUND says what the model does not have. */
bb_status bb_plan_shape(const bb_model *m, const bb_plan *plan, bb_net *out, bb_block *blocks, bb_err *err);
/* By indices; x NULL: the source as it is. Then unit gets `option`, unless it is BB_NO_UNIT. The space must be one of this model. A format whose block does
 * not divide the source's rows comes, with x NULL, together with the widest cut that makes them a whole number of blocks (bb_part_widest). */
#define BB_NO_UNIT UINT32_MAX
void bb_plan_space_shape(const bb_model *m, const bb_plan_space *s, const uint16_t *x, uint32_t unit, uint32_t option, bb_net *out, bb_block *blocks);

#endif
