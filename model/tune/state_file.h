/* SPDX-License-Identifier: GPL-3.0-or-later
 * state_file.h: the state of a training that goes on after it was stopped: arrays in a file, under a hash of what they belong to.
 *
 * Written beside its name and renamed, so that a state is never half of one; it ends with a SHA-256. Of this machine's byte order. */
#ifndef BB_MODEL_TUNE_STATE_FILE_H
#define BB_MODEL_TUNE_STATE_FILE_H

#include <stdbool.h>

#include "base/peers.h"

typedef bb_span bb_state_part;

bb_status bb_state_save(const char *path, const char identity[65], const bb_state_part *parts, size_t n, bb_err *err);
/* Into the parts. *found false, and nothing touched: there is no such file. BB_BAD_FILE: it belongs to something else or is damaged; then the
 * parts hold nothing of use. */
bb_status bb_state_load(const char *path, const char identity[65], const bb_state_part *parts, size_t n, bool *found, bb_err *err);

#endif
