/* SPDX-License-Identifier: GPL-3.0-or-later
 * study_gradient.h: what a gradient at a plan (eval/slopes.h) says of every option, against what the evaluator measures.
 *
 * At each size around the best plan that the search knows: RUN/gradient.csv, every option with its first and second order and, for up to `changes` of them,
 * drawn by the seed (0: all), the true KL of the plan with that one unit changed, on the same windows; RUN/gradient_rank.csv, how well each score ranks
 * the measured changes. Sets: `all`, by the change of the KL; `fewer bytes` and `more bytes`, by that change a KiB saved or spent. */
#ifndef BB_ENGINE_STUDY_GRADIENT_H
#define BB_ENGINE_STUDY_GRADIENT_H

#include "engine/study.h"

bb_status bb_study_gradient(bb_run *r, const bb_study_options *o, bb_err *err);

#endif
