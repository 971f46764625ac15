/* SPDX-License-Identifier: GPL-3.0-or-later
 * report.h: RUN/report.html from the artefacts of a run, and nothing else.
 *
 * Reads front.csv (needed), baselines.csv, layers.csv, sensitivity.csv, convergence.csv, env.json, config.resolved.yaml and guard.json
 * (each left out when absent). The page is self-contained: plots are drawn by gnuplot from RUN/plots/<plot>.gp, which stays there with
 * the .svg that it made and may be run again by hand, and are put into the page as SVG. Columns are found by name, so their order and
 * further columns do not matter. The page is written atomically; the same artefacts give the same bytes.
 */
#ifndef BB_CLI_REPORT_H
#define BB_CLI_REPORT_H

#include "base/status.h"

/* BB_BAD_FILE: front.csv is absent or an artefact is broken. BB_FAILED: gnuplot failed. Without gnuplot on the machine the page is
 * written without plots, after a warning: a long run must not be lost to it. */
bb_status bb_report_write(const char *run_dir, bb_err *err);

#endif
