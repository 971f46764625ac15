/* SPDX-License-Identifier: GPL-3.0-or-later
 * trial.h: what a plan is worth once it is finished: its KL after a rebuild, with all calibration windows or few of them, or after the whole ladder.
 *
 * A plan is chosen among options that stand alone and lives in a network in which every matrix has corrected the errors of those before it; how far
 * the first says the second is measured by the study (engine/study_survival.c), and the stage that settles plans (engine/settle.h) goes by the second.
 * Every trial is kept in run.db, table "trials": nothing is rebuilt twice for it. */
#ifndef BB_ENGINE_TRIAL_H
#define BB_ENGINE_TRIAL_H

#include "engine/run.h"

typedef struct bb_trial {
    double kl, kl_se; /* nats a token to full precision */
    double tokens;    /* forwarded for it, a rebuild's passes of either network counted once each: what it has cost whenever that was */
    double seconds;   /* likewise */
} bb_trial;

/* The KL of plan x of the run's space at a level of windows, rebuilt on `windows` of the calibration windows, evenly spaced (0: all), as the step
 * `rebuild` of finalise does it. window_kl (may be NULL): [windows of the level], for paired comparisons. */
bb_status bb_trial_rebuild(bb_run *r, const uint16_t *x, uint32_t windows, uint32_t level, bb_trial *out, double *window_kl, bb_err *err);

/* The KL on the confirm windows after all steps of --finalise-steps. */
bb_status bb_trial_ladder(bb_run *r, const uint16_t *x, bb_trial *out, bb_err *err);

/* n of the calibration windows, evenly spaced (0, or no fewer than there are: all). *tokens: [*n * ctx]; *owned is to be freed by the caller, NULL where
 * the tokens are the run's own. */
bb_status bb_trial_windows(const bb_run *r, uint32_t *n, const int32_t **tokens, int32_t **owned, bb_err *err);

#endif
