/* SPDX-License-Identifier: GPL-3.0-or-later
 * start.h: what can be known before a run begins: its texts, the place it writes to, the room on the disk, another process at work there.
 */
#ifndef BB_ENGINE_START_H
#define BB_ENGINE_START_H

#include "engine/run.h"

/* The texts and the profile can be read; the part of the next one that is of inputs, for `estimate`. */
bb_status bb_run_check_inputs(const bb_run *r, bb_err *err);
/* r as opened by bb_run_preview; nothing is written. Refuses a folder that holds other things (unless --force), outputs that are inputs, texts that
 * cannot be read, a profile that is none, too little room on the disk. */
bb_status bb_run_check_start(bb_run *r, bb_err *err);
/* The evaluation text as the end of the run will want it; r with its calibration loaded. */
bb_status bb_run_check_eval(bb_run *r, bb_err *err);
/* Makes the folder and takes its lock, OUT/run.lock, until bb_run_close; what killed processes left in its folders is removed. */
bb_status bb_run_enter(bb_run *r, bb_err *err);

#endif
