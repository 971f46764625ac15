/* SPDX-License-Identifier: GPL-3.0-or-later
 * search_context.h: what a run gives to a method of searching (search/method.h): its problem with the measured costs, the plans that need no search, and the scores
 * that need no evaluation. The caller adds the sizes, the ledger, the archive and when to end. */
#ifndef BB_ENGINE_SEARCH_CONTEXT_H
#define BB_ENGINE_SEARCH_CONTEXT_H

#include "base/log.h"
#include "engine/foresee.h"
#include "engine/run.h"
#include "engine/toga_plan.h"
#include "eval/slopes.h"
#include "search/method.h"

/* The quadratic score around full precision: a positive semidefinite Gram matrix of the options' sketches, squares included, and what the measured KLs
 * say beyond them. */
typedef struct bb_run_quadratic {
    bb_space     space;
    float       *gram;   /* [M * M] */
    double     **linear; /* [n_units] */
    bb_quadratic q;      /* use this; the struct must not move */
} bb_run_quadratic;

/* p with the costs of foresee, or of what was measured where that is NULL. */
bb_status bb_run_quadratic_init(const bb_problem *p, bb_foresee *foresee, const bb_sensitivity *s, bb_run_quadratic *v, bb_err *err);
void      bb_run_quadratic_done(bb_run_quadratic *v); /* zeroed is fine */

/* bb_search.gradient of a run: slopes (eval/slopes.h) at a plan on the windows that options are measured on, or batches of those that the run is calibrated on; kept in run.db. */
typedef struct bb_run_gradient {
    bb_run           *run;
    const bb_problem *p;
    const bb_space   *space;
    bb_foresee       *foresee;         /* NULL: as measured */
    bb_slope         *slopes;          /* [options of all units] */
    double          **linear, **first; /* [n_units] tables */
    bb_progress      *progress;        /* in tokens; NULL: nowhere */
} bb_run_gradient;

typedef struct bb_run_search_context {
    bb_foresee      *foresee;
    bb_search        search; /* copy it and fill in the rest; valid until done */
    bb_space         space;
    bb_separable    *separable;
    uint16_t        *source;
    bb_run_quadratic quadratic;
    bb_run_gradient  gradient; /* the struct must not move once it or the next is needed */
    bb_toga_plans    toga;
} bb_run_search_context;

/* BB_UNSUPPORTED: the method cannot work on this network. m NULL: no method. */
bb_status bb_run_search_check(const bb_run *r, const bb_search_method *m, bb_err *err);
/* p: the space's problem, or a variant of it. foresee: with its costs, NULL: with those that were measured; borrowed. The run has measured its options. */
bb_status bb_run_search_context_init(bb_run *r, const bb_problem *p, bb_foresee *foresee, bb_run_search_context *c, bb_err *err);
/* What this method needs and others do without; made once. */
bb_status bb_run_search_context_need(bb_run *r, const bb_search_method *m, bb_run_search_context *c, bb_err *err);
void      bb_run_search_context_done(bb_run_search_context *c); /* zeroed is fine */

/* Bytes of the smallest uniform plan; BB_FORBIDDEN: there is none. */
bb_status bb_run_smallest_uniform(const bb_run *r, int64_t *least, bb_err *err);

#endif
