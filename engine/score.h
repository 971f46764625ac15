/* SPDX-License-Identifier: GPL-3.0-or-later
 * score.h: the propagated score of a run's plans, in the form that the search minimises.
 *
 *   bb_run_score s;  bb_run_score_near(r, anchor, NULL, 0, &s, err);     anchor NULL: around full precision
 *   s.proxy.linear, s.proxy.gram                                    what search/quadratic.h minimises; without pairs, tables of a separable problem
 * Near the anchor it ranks plans about as well as measuring them on the same tokens (docs/scores.md); it is to be trusted for plans that differ
 * from it in a share of their units, so a search solves, checks the result by true KL, and anchors again there.
 */
#ifndef BB_ENGINE_SCORE_H
#define BB_ENGINE_SCORE_H

#include "engine/run.h"
#include "eval/proxy.h"
#include "search/quadratic.h"

/* bb_units of a search space; owned arrays. */
typedef struct bb_run_units {
    bb_units  units;
    uint32_t *offset;
    int32_t  *controller;
    double   *width;
} bb_run_units;

bb_status bb_run_units_init(const bb_run *r, bb_run_units *u, bb_err *err);
void      bb_run_units_done(bb_run_units *u);

typedef struct bb_run_score {
    bb_run_units units;
    bb_proxy     proxy;
} bb_run_score;

/* Measures what run.db does not have yet: on wiki8m 920 changes, about 500 times the tokens of the measuring windows. reach > 0, for a third of that or
 * less: of each unit only so many options on either side of the anchor's, by bytes; what full precision said stands in for the others. shape NULL: the
 * default; pairs 0 leaves a separable score. */
bb_status bb_run_score_near(bb_run *r, const uint16_t *anchor, const bb_proxy_shape *shape, uint32_t reach, bb_run_score *out, bb_err *err);
/* Forwarded tokens of measuring around one anchor, about: every change runs the network from its block on. */
double bb_run_score_tokens(const bb_run *r, uint32_t reach);
void   bb_run_score_done(bb_run_score *s);

/* How the run measures, around full precision. */
bb_sensitivity_options bb_run_sensitivity_options(const bb_run *r);

/* Whether option o of unit u is another than the anchor's and at most `reach` steps of bytes away, among the options that can be loaded there. */
bool bb_option_is_near(const bb_problem *p, const uint16_t *anchor, bool is_structure, uint32_t u, uint32_t o, uint32_t reach);

/* Changes of every option around an anchor, NaN where the combination cannot be loaded; changes are freed with bb_free(out->changes). */
bb_status bb_run_sensitivity(bb_run *r, const uint16_t *anchor, bb_sensitivity *out, bb_err *err);

#endif
