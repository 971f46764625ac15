/* SPDX-License-Identifier: GPL-3.0-or-later
 * time_budget.h: --time: a run that is done in a given time.
 *
 * What nobody gave of the options that --effort decides is chosen as one amount of effort (effort.h), the largest that is foreseen to fit
 * (estimate.h, by the pace of this machine); what can still be chosen is chosen again before the search, before finalise and before the evaluation,
 * by what was really taken. A stage that takes longer than all that is stopped: a search ends with what it has found, finalise with the steps and
 * plans that it has done. Each choice is kept in run.db under the request and the stage, and stands in config.resolved.yaml: the same command
 * goes on with the same choices, and the resolved configuration repeats them without a clock.
 */
#ifndef BB_ENGINE_TIME_BUDGET_H
#define BB_ENGINE_TIME_BUDGET_H

#include "engine/run.h"
#include "engine/stages.h"

/* r as opened by bb_run_preview, with config.time: chooses, or takes what the run directory has from before, and opens space and sizes anew. Says what
 * was chosen and why. BB_INFEASIBLE: even the least does not fit. Nothing without config.time. */
bb_status bb_time_choose(bb_run *r, bb_err *err);
/* Keeps the choice in the open directory. */
bb_status bb_time_keep(bb_run *r, bb_err *err);
/* From now on the clock runs; took: seconds of earlier sessions. */
void bb_time_start(bb_run *r, double took);
/* Runs a stage of a whole run: what is left of the time decides what it does. */
bb_status bb_time_run(bb_run *r, bb_stage stage, bb_err *err);
/* For finalise: whether another plan that takes `seconds` still fits before the evaluation; from now on work stops (BB_INTERRUPTED, bb_interrupt_late)
 * when it does not, until bb_interrupt_at(0); and that these plans (hashes) are left out. */
bool      bb_time_has_room(const bb_run *r, double seconds);
bool      bb_time_is_over(const bb_run *r);
void      bb_time_stop_finalise(const bb_run *r);
bb_status bb_time_leave_out(bb_run *r, const char *const *hashes, size_t n, bb_err *err);
/* For finalise: the steps from `rung` (a name) on are not done, of any plan. */
bb_status bb_time_cut_steps(bb_run *r, const char *rung, bb_err *err);

#endif
