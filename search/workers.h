/* SPDX-License-Identifier: GPL-3.0-or-later
 * workers.h: an evaluator made of several: batches are cut into jobs, the workers of a crew (base/crew.h) do them, the answers go where they belong.
 *
 * A job is a level and candidates, its answer scores and window means, all plain numbers: it is done by an evaluator of this process or, where the crew
 * has other processes, by what calls bb_workers_answer there.
 *
 * The answers do not depend on the number of workers or on the order in which they come, because every evaluator gives the same score for the same
 * candidate and level, bit for bit (problem.h). Jobs are neighbours in the batch: evaluators that keep a prefix of the network gain by that.
 */
#ifndef BB_SEARCH_WORKERS_H
#define BB_SEARCH_WORKERS_H

#include "base/crew.h"
#include "search/problem.h"

/* The whole as one evaluator: levels, windows and key are those of each[0]. All is borrowed; use w->evaluator, w must not move. The first failure in the
 * order of the batch is the batch's. */
typedef struct bb_workers {
    const bb_crew      *crew;
    uint32_t            kind;  /* of the jobs */
    const bb_evaluator *each;  /* [crew->n_workers] those of this process; none is used from two threads at once */
    uint32_t            width; /* units of a candidate */
    bb_evaluator        evaluator;
} bb_workers;
void bb_workers_init(bb_workers *w, const bb_crew *crew, uint32_t kind, const bb_evaluator *each, uint32_t width);

/* Does such a job: the scores that `e` gives to the candidates of the question, appended to the answer. BB_FAILED: the question is of other candidates. */
bb_status bb_workers_answer(const bb_evaluator *e, uint32_t width, const char *question, size_t size, bb_text *answer, bb_err *err);

#endif
