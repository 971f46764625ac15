/* SPDX-License-Identifier: GPL-3.0-or-later
 * jobs.h: the jobs of the stages, as another process does them for rank 0 (ranks.h). r is a run that follows: it has neither store nor lock, and calibrate has
 * ended where a job needs the database.
 */
#ifndef BB_ENGINE_JOBS_H
#define BB_ENGINE_JOBS_H

#include "base/log.h"
#include "engine/run.h"

/* Opens the run in dir to do jobs for it: reads what bb_run_create of rank 0 has written, writes nothing. bb_run_close. */
bb_status bb_run_follow(bb_run *r, const char *dir, bool is_sweep, bb_err *err);

/* BB_JOB_OPTIONS: makes the options of some units. progress: counts them here; NULL: the answer says how many are to be counted. */
bb_status bb_options_answer(bb_run *r, bb_progress *progress, const char *question, size_t size, bb_text *answer, bb_err *err);

/* BB_JOB_FINALISE: models/HASH.gguf of some plans; the answer is their records. */
bb_status bb_finalise_answer(bb_run *r, const char *question, size_t size, bb_text *answer, bb_err *err);

/* BB_JOB_EVALUATE. The windows and what full precision says on them are kept from job to job. */
typedef struct bb_evaluated_on {
    bb_windows           w;
    bool                 owns_w;
    char                 hash[65]; /* of w */
    struct bb_reference *reference;
} bb_evaluated_on;
typedef struct bb_evaluating {
    bb_evaluated_on files, before; /* before: of plans as they are before finalise; no reference: as files */
} bb_evaluating;                   /* all zero at first */
void      bb_evaluating_done(bb_evaluating *e);
bb_status bb_evaluate_answer(bb_run *r, bb_evaluating *e, const char *question, size_t size, bb_text *answer, bb_err *err);

/* BB_JOB_QAT_OPEN, BB_JOB_QAT: a training that all ranks share (qat_ranks.c). The answer to the first is compared by rank 0 (bb_ranks_compare). */
typedef struct bb_qat_share bb_qat_share;
bb_status                   bb_qat_share_open(const char *question, size_t size, bb_text *answer, bb_qat_share **out, bb_err *err);
bb_status                   bb_qat_share_train(bb_qat_share *q, bb_err *err); /* NULL: nothing was opened */
void                        bb_qat_share_done(bb_qat_share *q);               /* NULL allowed */

#endif
