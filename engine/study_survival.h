/* SPDX-License-Identifier: GPL-3.0-or-later
 * study_survival.h: how well the choice of a plan survives what happens to it afterwards: plans near the front, uniform ones and simple mixtures of
 * each size, ranked by the scores that a search can afford and by what finishing makes of them.
 *
 * Writes RUN/survival.csv (every plan with every score) and RUN/survival_rank.csv (tau with bootstrap interval, and the regret of choosing by each score,
 * against each truth). Everything measured is kept in run.db. */
#ifndef BB_ENGINE_STUDY_SURVIVAL_H
#define BB_ENGINE_STUDY_SURVIVAL_H

#include "engine/study.h"

/* o->through: "rebuild", or "ladder" for both truths. The run has a database and measured options; one that was searched gives its plans too. */
bb_status bb_study_survival(bb_run *r, const bb_study_options *o, bb_err *err);

#endif
