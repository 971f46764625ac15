/* SPDX-License-Identifier: GPL-3.0-or-later
 * toga_plan.h: bb_search.learned of a run: masks over channels learned for a budget (model/tune/toga.h), rounded to a plan of its space; kept in run.db.
 *
 * Precisions and FFN channels alone, which the plans of a file have; the low and the high format are Q1_0 and Q4_0, from 3.5 bits a weight of the linears on Q4_0 and
 * Q8_0. A matrix whose masks set a share s of its kept columns high gets the offered format whose bits are nearest to low + s (high - low), an FFN the
 * offered width nearest to the channels that stay, an attention all its heads; embedding and head stay. Steps are as many as the tokens buy (a backward pass
 * counts two), at most 2,000; with fewer the rate is higher by as much, at most ten times.
 */
#ifndef BB_ENGINE_TOGA_PLAN_H
#define BB_ENGINE_TOGA_PLAN_H

#include "engine/run.h"
#include "search/problem.h"

typedef struct bb_toga_plans {
    bb_run           *run;
    const bb_problem *p;
} bb_toga_plans;

/* self: bb_toga_plans. The rest: search/method.h. */
bb_status bb_toga_plan_learned(void *self, int64_t budget, double max_tokens, uint16_t *x, double *tokens, bb_err *err);

#endif
