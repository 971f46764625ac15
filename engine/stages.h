/* SPDX-License-Identifier: GPL-3.0-or-later
 * stages.h: the stages of a run as a table. `run` and `sweep` are the first BB_N_STAGES of them in order; the commands of single stages and the
 * library (include/bitbudget/bitbudget.h) go by the same rows.
 *
 * Every stage is resumable and idempotent: what is finished is found on disk (run.db, database/, models/) and not done again. To add one: a
 * bb_stage in run.h, its row here, and for a command of its own three lines in cli/cmd_run.c.
 */
#ifndef BB_ENGINE_STAGES_H
#define BB_ENGINE_STAGES_H

#include "engine/run.h"

typedef struct bb_stage_row {
    const char *name;              /* in timing.csv; of the command, where it has one */
    bb_stage    needs;             /* the stage before; BB_STAGE_NONE */
    bool (*held)(const bb_run *r); /* whether the open run holds what the stage makes; NULL: that is on disk, where the next one asks for it */
    bb_status (*run)(bb_run *r, bb_err *err);
} bb_stage_row;

extern const bb_stage_row bb_stages[BB_N_STAGE_ROWS];

/* BB_STAGE_NONE: there is no such stage. */
bb_stage bb_stage_find(const char *name);

/* Runs the stage, and those it needs before it where what they make is to be held and is not. Sets the run's clock. */
bb_status bb_stage_run(bb_run *r, bb_stage stage, bb_err *err);

/* All stages of a run, from calibrate to evaluate; what each was foreseen to take, and took, is in timing.csv. */
bb_status bb_run_all(bb_run *r, bb_err *err);

#endif
