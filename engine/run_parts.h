/* SPDX-License-Identifier: GPL-3.0-or-later
 * run_parts.h: what a run is put together from, for engine/run.c: configuration (config.c), space and sizes (budgets.c), data (data.c).
 */
#ifndef BB_ENGINE_RUN_PARTS_H
#define BB_ENGINE_RUN_PARTS_H

#include "engine/run.h"

/* Refuses what is wrong whatever the model (BB_USAGE), and makes the paths mean the same from any folder; a file that does not exist is reported
 * when it is opened. */
bb_status bb_run_config_resolve(bb_run_config *c, bb_err *err);
/* OUT/config.resolved.yaml of an open run. */
bb_status bb_run_config_write(const bb_run *r, bb_err *err);
/* The options of the run in dir, which may have been moved since, and whether it was a sweep. The caller ends with bb_options_done whatever is
 * returned. BB_BAD_FILE: dir is no run directory. */
bb_status bb_run_config_read(const char *dir, bb_run_config *c, bool *is_sweep, bb_err *err);

/* The same for a process that follows rank 0, without run.db. BB_IO: dir is not to be seen from here. */
bb_status bb_run_config_follow(const char *dir, bb_run_config *c, bb_err *err);

/* r->model, n_weights, space, budgets, from r->config. */
bb_status bb_run_open_space(bb_run *r, bb_err *err);
/* A space of plans by r->config (bb_model_space_destroy), r as opened by the one before; */
bb_status bb_run_make_space(bb_run *r, bb_model_space **out, bb_err *err);
/* and r->space and budgets made again, after the options have changed. */
bb_status bb_run_reset_space(bb_run *r, bb_err *err);
/* A list of file sizes; BB_INFEASIBLE where no plan of r->space is as small as one of them. bb_free, whatever is returned. */
bb_status bb_run_sizes(const bb_run *r, const char *list, int64_t **sizes, size_t *n, bb_err *err);
/* r->calib_tokens, calib, tune, levels; a model that calibrates on itself samples its text into the run directory. */
bb_status bb_run_open_data(bb_run *r, bb_err *err);

#endif
