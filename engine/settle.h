/* SPDX-License-Identifier: GPL-3.0-or-later
 * settle.h: the end of a search, on the network as it will be: plans are raced by their KL after a rebuild.
 *
 * The search compares plans whose matrices stand alone; the file that is written has every matrix encoded again on what the ones before it produce,
 * which takes most of what separates two plans. So what the search has found for a size, and the simple plans that guard it, are rebuilt on
 * half of the calibration windows and scored on the confirm windows; the best goes on as the incumbent, against
 *   tilts    optima of the separable tables tilted as a whole (engine/tilted.h): other shares of pruning, of the large errors, of the late blocks
 *   point    the incumbent with the formats and the neighbouring widths that exact optimisation finds on the changes of single options inside its own rebuilt
 *            network (engine/point_score.h), with a price on every change: a trust region, narrower whenever a round finds nothing
 * each of them judged by its own rebuild on the same windows. The plan that wins, where it is none of those it began with, is one more searched plan of the
 * size: it is finalised and evaluated like the others, and the guard decides. Everything measured is in run.db. */
#ifndef BB_ENGINE_SETTLE_H
#define BB_ENGINE_SETTLE_H

#include "engine/front.h"

/* For every size asked for, with --settle plans rebuilt at each; adds to the front, which has what the search chose. p: the space's problem, with what is
 * allowed. Nothing at --settle 0. */
bb_status bb_settle(bb_run *r, const bb_problem *p, bb_ledger *ledger, bb_front *front, bb_err *err);

#endif
