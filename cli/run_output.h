/* SPDX-License-Identifier: GPL-3.0-or-later
 * run_output.h: what `run` and `sweep` print on stdout when they are done: the front as a table, or everything as one JSON object. */
#ifndef BB_CLI_RUN_OUTPUT_H
#define BB_CLI_RUN_OUTPUT_H

#include "base/status.h"

/* front.csv of the run directory; the plan that became model.gguf is marked. */
bb_status bb_run_print_table(const char *run_dir, bb_err *err);
/* {"model", "report", "winner": plan.json without the units, "guard": guard.json, "front": the rows of front.csv}. */
bb_status bb_run_print_json(const char *run_dir, bb_err *err);

#endif
