/* SPDX-License-Identifier: GPL-3.0-or-later
 * coupling.h: whether the rows of a rebuilt matrix answer for each other (model/compress/coupling.h), and by what. */
#ifndef BB_ENGINE_COUPLING_H
#define BB_ENGINE_COUPLING_H

#include "engine/run.h"

#define BB_OUTPUT_WINDOWS "64" /* default */
#define BB_OUTPUT_WINDOWS_HELP \
    "a rebuild lets the rows of a matrix answer for each other's errors, by what the end of the network feels on this many calibration windows; 0: each row " \
    "is alone"

enum { BB_OUTPUT_LABELS = 4 }; /* drawn a position: fewer leave more noise than a backward pass is worth (docs/quantization.md) */

/* --output-windows where the run rebuilds anything, else 0. */
uint32_t bb_coupling_windows(const bb_run *r);
/* The moments of gradients at outputs, on at most `windows` of the calibration windows, to the database. Nothing where it has them, and at windows 0. */
bb_status bb_couple_rows(const bb_model *m, const bb_backend *backend, bb_database *db, const bb_windows *calib, uint32_t windows, uint64_t seed, bb_err *err);

#endif
