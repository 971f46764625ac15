/* SPDX-License-Identifier: GPL-3.0-or-later
 * gates.h: the second order of widths, by gates that feel the end of the network (eval/gates.h): learned on the calibration windows and given to the
 * option database (--width-order). */
#ifndef BB_ENGINE_GATES_H
#define BB_ENGINE_GATES_H

#include "eval/gates.h"

#define BB_WIDTH_ORDERS "obs|gates|both"
#define BB_WIDTH_ORDER_HELP \
    "by what the KV groups and FFN channels that a width keeps are chosen: their block's own error; gates that feel the end of the network; both, as options"

/* Does the order have widths by the block's own error, by gates? */
bool bb_width_order_obs(const char *name);
bool bb_width_order_gates(const char *name);

/* The calibration windows that gates are learned on, evenly spaced: as many of n as a fixed limit on what they take allows, so that no setting of memory changes a bit. */
uint32_t bb_gate_windows(const bb_net *net, uint32_t n, uint32_t ctx);

/* Learns them, or reads what the database's folder has; calib: all calibration windows. out (may be NULL): bb_gates_done. */
bb_status bb_learn_gates(const bb_model *m, const bb_backend *backend, bb_database *db, const bb_windows *calib, uint64_t seed, bb_gates *out, bb_err *err);

#endif
