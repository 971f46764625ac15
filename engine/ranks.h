/* SPDX-License-Identifier: GPL-3.0-or-later
 * ranks.h: one run on several processes ("ranks"), which share the file system: docs/several-machines.md.
 *
 * Rank 0 is the run: it holds the lock, the store and the log, goes through the stages, writes every table and talks. The others follow it: they open the
 * same model, texts and database to read, and do jobs (base/crew.h), whose answers rank 0 stores as they come. What they write are files whose content
 * their names decide (options of the database, models/HASH.gguf), by renaming: it does not matter who is first, and a file that exists is right.
 *
 * A new kind of job: its row in the enum and in `kinds` of ranks.c, and in the stage a bb_jobs with that kind.
 */
#ifndef BB_ENGINE_RANKS_H
#define BB_ENGINE_RANKS_H

#include "base/peers.h"
#include "engine/run.h"

/* What a job is, for processes that know it by number alone. */
typedef enum bb_job_kind {
    BB_JOB_FOLLOW,   /* the run is opened */
    BB_JOB_LEAVE,    /* and closed, as all else that was opened */
    BB_JOB_OPTIONS,  /* options built (engine/measure.c) */
    BB_JOB_CHANGE,   /* an option measured (eval/sensitivity.h) */
    BB_JOB_SCORE,    /* plans scored (search/workers.h) */
    BB_JOB_FINALISE, /* a plan's file made (engine/finalise.c) */
    BB_JOB_EVALUATE, /* a file or plan scored on the evaluation windows (engine/evaluate.c) */
    BB_JOB_QAT_OPEN, /* a file to train, its original and texts taken (engine/qat_ranks.c), without a run */
    BB_JOB_QAT,      /* and trained, by all ranks together */
    BB_N_JOB_KINDS
} bb_job_kind;

/* ---- rank 0 ---- */

/* The crew of this process, borrowed; NULL, as at the start and on other ranks than the first: none. Runs that are made or opened again from now on are opened by
 * its other processes too. peers: what jobs that all do together talk by; NULL: there are no others. */
void            bb_ranks_use(const bb_crew *crew, const bb_peers *peers);
const bb_crew  *bb_ranks_crew(void);
const bb_peers *bb_ranks_peers(void);
void            bb_ranks_dismiss(const bb_crew *crew); /* the others give back what they keep between jobs */
/* Holds what rank i + 1 has, its host's name, a NUL and lines "name: value", against those of this one; BB_USAGE names the rank and the first difference. */
bb_status bb_ranks_compare(size_t i, const char *answer, size_t size, const bb_text *own, bb_err *err);
/* The beginning of such an answer. */
void bb_ranks_add_host(bb_text *answer);

/* Opens r on the others, and sets r->crew. What a rank cannot read, or has otherwise than this one (model, texts, build, what decides the bits), ends in a
 * sentence that names it. */
bb_status bb_ranks_enter(bb_run *r, bb_err *err);
void      bb_ranks_leave(bb_run *r); /* harmless when it was not entered */

/* ---- the others ---- */

/* What a follower keeps between jobs. */
typedef struct bb_follower bb_follower;
bb_status                  bb_follower_create(bb_follower **f, bb_err *err);
void                       bb_follower_destroy(bb_follower *f);
/* Does a job of rank 0's: what answers the crew's questions in the other processes. */
bb_status bb_follower_work(void *f, uint32_t kind, const char *question, size_t size, bb_text *answer, bb_err *err);

#endif
