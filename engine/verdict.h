/* SPDX-License-Identifier: GPL-3.0-or-later
 * verdict.h: the guard (search/guard.h) at every size that a run was asked for: who wins, by how much, and is the winner fit for use. */
#ifndef BB_ENGINE_VERDICT_H
#define BB_ENGINE_VERDICT_H

#include "engine/finalised.h"
#include "search/guard.h"

/* Scores of one plan of the front on the evaluation windows. */
typedef struct bb_evaluated {
    bb_result result;        /* of the written file; of a spared plan (front.h) of the option database's matrices */
    double   *window_kl;     /* [windows] the same; owned by who evaluates */
    double   *window_before; /* [windows of before] of the option database's matrices; NULL: as window_kl. Of a spared plan window_kl has these windows */
    bool      is_spared;
    double    kl_before, kl_before_se; /* of the option database's matrices, before finalise: on all windows, where only a part was run by estimate */
    double    kl_compared;             /* the same on the windows that were run */
} bb_evaluated;

typedef struct bb_verdict {
    int64_t          budget_bytes;
    bb_guard_verdict guard; /* indices into the front; `searched` and `simple` are the same where the search found a simple plan */
    bool             searched_won;
    bool             before;                        /* the guard's simple plan was spared, and stands beside the searched one as both are before finalise */
    size_t           readmit;                       /* a spared plan that won: it must be finalised before there is a verdict; BB_GUARD_NONE */
    char             finishing[BB_FINALISED_STEPS]; /* the steps that all plans went through; "": none */
    bool             damaged;                       /* the winner: KL above 1 nat, or the same top token at less than half of the positions */
} bb_verdict;

/* Decides at every size of bb_front_sizes that some plan fits, ascending; e: [f->n], scored on n_windows, as they are before finalise on n_before. *out: bb_free. BB_GUARD when no plan fits any of them, and
 * when two plans were not finalised by the same steps. Says on stderr what was decided, and warns of winners that are damaged. */
bb_status bb_verdicts(const bb_run *r, const bb_front *f, const bb_evaluated *e, uint32_t n_windows, uint32_t n_before, bb_verdict **out, size_t *n,
                      bb_err *err);
/* guard.json: the verdict of the largest size (of `run`: the only one), and under "sizes" every one. */
bb_status bb_verdicts_write(const bb_run *r, const bb_front *f, const bb_evaluated *e, const bb_verdict *v, size_t n, bb_err *err);

#endif
