/* SPDX-License-Identifier: GPL-3.0-or-later
 * study.h: which cheap score ranks plans as the truth does: random plans and neighbours of searched plans at several sizes, each scored by true
 * KL and by every proxy; Kendall's tau, Spearman's rho and the regret of each proxy in each band.
 *
 * Two sets a band: `random`, plans drawn from the whole space and shrunk and filled at random until they just fit; `front`, the best plan that
 * the search knows at that size and its neighbours by one to six level switches (one unit a step down, another a step up).
 * The truth is the KL on windows that no proxy has seen: those of the level without the measuring windows.
 * Writes RUN/proxy.csv, RUN/study.csv (every plan with every score) and RUN/plots/proxy.svg. Everything measured is kept in run.db.
 */
#ifndef BB_ENGINE_STUDY_H
#define BB_ENGINE_STUDY_H

#include <stdbool.h>

#include "engine/run.h"

typedef struct bb_study_options {
    char   *bands; /* comma list of bits per weight of the whole file */
    int64_t plans; /* a set and band */
    char   *level; /* of the truth: "refine" or "confirm" */
    int64_t seed;
    int64_t bootstrap;  /* resamples for the intervals */
    bool    no_anchors; /* leave out what is measured around searched plans: most of the tokens */
    char   *through;    /* "database": the above; "rebuild", "ladder": engine/study_survival.h instead, with */
    char   *sizes;      /* sizes in bytes instead of bands; empty: the bands */
    int64_t windows;    /* calibration windows of the rebuild that is the truth; 0: all */
    char   *few;        /* numbers of calibration windows to rebuild on as cheaper scores */
    bool    kinds;      /* engine/study_kinds.h instead */
    bool    gradient;   /* engine/study_gradient.h instead: */
    int64_t changes;    /* changes that are measured at each size; 0: all */
    int64_t labels;     /* backward passes of drawn labels */
} bb_study_options;

bb_status bb_study(bb_run *r, const bb_study_options *o, bb_err *err);

/* The sizes in bytes of --sizes, or of --bands where that is empty; *sizes: bb_free. A band below the smallest plan is left out, aloud; a size below it,
 * or nothing but such bands, is BB_INFEASIBLE. Needs r->space alone, so that it is said before anything is measured. */
bb_status bb_study_sizes(const bb_run *r, const bb_study_options *o, int64_t **sizes, size_t *n, bb_err *err);

#endif
