/* SPDX-License-Identifier: GPL-3.0-or-later
 * simple_plans.h: the plans that need no search: what a searched plan is guarded by and compared with. */
#ifndef BB_ENGINE_SIMPLE_PLANS_H
#define BB_ENGINE_SIMPLE_PLANS_H

#include "engine/run.h"

enum { BB_UNIFORM_NAME = 40 };

/* Up to max uniform plans (one format for all linears, one for embedding and head, others where rows do not divide: bb_model_space_uniform) within
 * the budget, lowest separable cost first: x[max][n_units], names[max] ("uniform Q4_K + Q6_K", "uniform IQ4_NL/IQ2_XXS + Q8_0"; may be NULL). Returns their number. Needs the measured costs. */
size_t bb_uniform_plans(const bb_run *r, int64_t budget, size_t max, uint16_t *x, char (*names)[BB_UNIFORM_NAME]);

/* The separable optimum within the budget, with structures (prune false) or quantization of the linears (quantize false) taken away; false:
 * out of reach. */
bool   bb_restricted_plan(const bb_run *r, int64_t budget, bool prune, bool quantize, uint16_t *x);

#endif
