/* SPDX-License-Identifier: GPL-3.0-or-later
 * finalised.h: what finalise recorded of a file of models/: later stages read a file only when it is the one of the record. */
#ifndef BB_ENGINE_FINALISED_H
#define BB_ENGINE_FINALISED_H

#include "engine/front.h"

/* BB_GUARD unless models/HASH.gguf is there and has the SHA-256 that finalise recorded for the present options. */
bb_status bb_finalised_check(bb_run *r, const bb_front_plan *p, bb_err *err);

/* The steps of --finalise-steps that plan p really went through, whether kept or rolled back, as "rebuild,lfq"; "" for none, and where it was not finalised. */
enum { BB_FINALISED_STEPS = 64 };
bb_status bb_finalised_steps(const bb_run *r, const bb_front_plan *p, char steps[BB_FINALISED_STEPS], bb_err *err);

/* The files of all plans of a front that is in no run's list of plans, as those that the run's own search chose. only: those that are there must do (BB_GUARD). */
bb_status bb_finalise_front(bb_run *r, const bb_front *front, bool only, bb_err *err);

/* A spared plan that evaluation saw win is finalised after all, or left out where --time has no room for that. */
bb_status bb_finalise_readmitted(bb_run *r, bb_front_plan *p, bb_err *err);

#endif
