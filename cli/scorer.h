/* SPDX-License-Identifier: GPL-3.0-or-later
 * scorer.h: the model's evaluator as the search engine sees it (search/problem.h): candidates of the run's space in, KL of the database's
 * weights out, at the run's three levels. */
#ifndef BB_CLI_SCORER_H
#define BB_CLI_SCORER_H

#include "cli/run.h"

typedef struct bb_scorer {
    bb_run      *run;                     /* borrowed, calibrated */
    bb_block    *blocks;
    uint32_t     n_windows[BB_N_LEVELS];
    bb_evaluator evaluator;               /* use this; valid until done; the scorer must not move */
} bb_scorer;

bb_status bb_scorer_init(bb_run *r, bb_scorer *s, bb_err *err);
void      bb_scorer_done(bb_scorer *s);

#endif
