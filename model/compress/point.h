/* SPDX-License-Identifier: GPL-3.0-or-later
 * point.h: the options of a plan in the world of its own rebuilt network, the working point.
 *
 * The database encodes every option towards the weights of the source, under the moments of full precision. In a rebuilt plan a matrix has other
 * inputs, x^, and another aim: the least-squares weights V that make up for what the network in front of it has lost (rebuild.c). A point is a plan
 * rebuilt, and beside each of its matrices the other formats, encoded towards the same V under the same E[x^ x^']: what the rebuild would have
 * put there, everything in front of it being as it is. The other widths of a sublayer that the plan has are there as well, in the plan's formats: its readers
 * lose or get rows, and its writer is compensated and encoded under the moments that this gives. Embedding and head, which a rebuild leaves alone, are those of
 * the database. Not on disk: what was measured at a point is kept by who measured it. */
#ifndef BB_MODEL_COMPRESS_POINT_H
#define BB_MODEL_COMPRESS_POINT_H

#include "base/plan_space.h"
#include "model/compress/database.h"

typedef struct bb_point_config {
    bb_database         *db; /* all of them borrowed for the point's life */
    const bb_model      *model;
    const bb_plan_space *space;  /* of this model */
    const uint16_t      *x;      /* [n_units] the plan */
    const bool          *wanted; /* one for each option of each unit, in their order: what is encoded besides the plan itself */
    const int32_t       *tokens; /* [n_windows * ctx] to rebuild on */
    uint32_t             n_windows, ctx;
    bb_quant_options     quant;
} bb_point_config;

typedef struct bb_point bb_point;

/* BB_INTERRUPTED when asked to stop: the rebuild then begins anew. What is wanted and cannot be is left out: a format that the plan's row length does not divide
 * into, a width that does not divide into the plan's formats, and widths of a sublayer that the plan has dropped. */
bb_status bb_point_create(const bb_point_config *config, bb_point **out, bb_err *err);
void      bb_point_destroy(bb_point *p);

/* The rebuilt plan, every option as x has it (NULL: its own), and one unit changed where it is not BB_NO_UNIT; blocks: [n_layer] of the caller. *found false: an
 * option is not there, as no other format is in a sublayer of another width. */
bb_status bb_point_apply(const bb_point *p, const uint16_t *x, uint32_t unit, uint32_t option, bb_net *out, bb_block *blocks, bool *found, bb_err *err);

#endif
