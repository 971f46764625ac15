/* SPDX-License-Identifier: GPL-3.0-or-later
 * front.h: the plans that the search chose (plans.csv, plans/HASH.plan): the searched ones of each budget and the simpler ones they are
 * guarded by. Written by the search stage, read by every later one. */
#ifndef BB_ENGINE_FRONT_H
#define BB_ENGINE_FRONT_H

#include "engine/run.h"
#include "search/ledger.h"

typedef struct bb_front_plan {
    bb_plan plan;
    char    hash[17];
    char    source[40];  /* who found it; baselines: their name, "uniform Q4_K" */
    bool    is_baseline; /* a simpler plan; it may be the searched one as well */
    bool    is_searched;
    bool    is_asked;     /* stands at a size that was asked for: finalised, evaluated, guarded. `run` searches sizes beside its target too */
    bool    is_ruled_out; /* a simple plan that cannot win where it stands: on the confirm windows its foreseen KL is so far above the searched plan's
                             (RULED_OUT of run_search.c) that no finishing makes up for it; and evaluation has not said otherwise */
    int64_t size_bytes;   /* exact */
    double  kl, kl_se;    /* at the confirm level, before finalise; NaN: not measured */
    double  foreseen;     /* the KL as the search weighs it (engine/foresee.h): what it chose by */
    double  pruned_fraction;
} bb_front_plan;

typedef struct bb_front {
    size_t         n;
    bb_front_plan *plans;
} bb_front; /* ascending in bytes */

/* Adds a copy of candidate x; score: at the confirm level, NULL: not measured. A plan with the same hash is not added twice: it then is what both are, under the simpler one's name. */
bb_status bb_front_add(bb_run *r, bb_front *f, const uint16_t *x, const char *source, bool is_baseline, bool is_asked, const bb_score *score, bb_err *err);
/* Writes plans.csv and plans/: the front's plans and behind them every other plan that this session asked the ledger for. */
bb_status bb_front_save(bb_run *r, bb_front *f, bb_ledger *ledger, bb_err *err);
bb_status bb_front_load(bb_run *r, bb_front *f, bb_err *err);
/* The same without the plans that no size asked for. */
bb_status bb_front_load_asked(bb_run *r, bb_front *f, bb_err *err);
void      bb_front_done(bb_front *f);
/* The searched plan that the search likes best of those within the bytes; NULL: there is none. Borrowed. */
const bb_front_plan *bb_front_best(const bb_front *f, int64_t bytes);
/* Whether the plan is not finalised: ruled out, and --finish contenders. Both plans are then compared before finalise. */
bool bb_front_is_spared(const bb_run *r, const bb_front_plan *p);
/* Evaluation saw a spared plan win: it is ruled out no more, with these options, also in later sessions. */
bb_status bb_front_readmit(bb_run *r, bb_front_plan *p, bb_err *err);
/* The KL of the chosen plan at the confirm level with the database's matrices, bit for bit what scoring it again gives; NaN: the search has left none. */
bb_status bb_front_score(const bb_run *r, const char *hash, double *kl, bb_err *err);
/* The one plan of plans.csv, chosen or not, whose hash begins with prefix; end with bb_plan_done(&p->plan). BB_NOT_FOUND, or BB_USAGE when
 * several do. */
bb_status bb_front_find(bb_run *r, const char *prefix, bb_front_plan *p, bb_err *err);
/* The sizes that were asked for, ascending; *out: bb_free. Of a sweep those that its search served (it adds sizes at the knee and leaves out what
 * is too slow), kept in run.db. */
bb_status bb_front_sizes(const bb_run *r, int64_t **out, size_t *n, bb_err *err);
bb_status bb_front_put_sizes(bb_run *r, bb_err *err);
int64_t   bb_front_target(const bb_run *r); /* the single target of `run`, in bytes */

#endif
