/* SPDX-License-Identifier: GPL-3.0-or-later
 * scorer.h: the model's evaluator as the search engine sees it (search/problem.h): candidates of the run's space in, KL of the database's
 * weights out, at the run's three levels. With --workers N, N of them on threads of their own (search/workers.h); where the run has a crew of other
 * processes, all of them (engine/ranks.h). */
#ifndef BB_ENGINE_SCORER_H
#define BB_ENGINE_SCORER_H

#include "base/log.h"
#include "engine/run.h"
#include "search/workers.h"

typedef struct bb_scorer_worker {
    const struct bb_scorer *scorer;
    bb_net_evaluator       *net; /* the first one's is the run's */
    bb_block               *blocks;
} bb_scorer_worker;

typedef struct bb_scorer {
    bb_run           *run; /* borrowed, calibrated */
    uint32_t          n_windows[BB_N_LEVELS];
    uint32_t          n;
    bb_progress      *progress; /* counts the tokens of every plan that is scored; NULL: nobody asks; may be set at any time */
    bb_scorer_worker *workers;  /* [n] */
    bb_evaluator     *each;     /* [n] */
    bb_crew           threads;
    bb_workers        here, all; /* the evaluators of this process as one; and with those of others */
    bb_evaluator      one;       /* this process's, whether it has one evaluator or several */
    bb_evaluator      evaluator; /* use this; valid until done; the scorer must not move */
} bb_scorer;

bb_status bb_scorer_init(bb_run *r, bb_scorer *s, bb_err *err);
void      bb_scorer_done(bb_scorer *s);

#endif
