/* SPDX-License-Identifier: GPL-3.0-or-later
 * gates.c: see gates.h. */
#include "engine/gates.h"

#include <string.h>

#include "engine/calibration.h"
#include "eval/gradient.h"

enum { MOST_WINDOWS = 32, LABELS = 1 };

bool bb_width_order_obs(const char *name) { return strcmp(name, "gates") != 0; }
bool bb_width_order_gates(const char *name) { return strcmp(name, "obs") != 0; }

uint32_t bb_gate_windows(const bb_net *net, uint32_t n, uint32_t ctx) { return bb_gradient_count(net, n, ctx, MOST_WINDOWS); }

bb_status bb_learn_gates(const bb_model *m, const bb_backend *backend, bb_database *db, const bb_windows *calib, uint64_t seed, bb_gates *out, bb_err *err)
{
    bb_windows        w = { 0 };
    bb_net_evaluator *e = NULL;
    bb_gates          gates = { 0 };
    bb_status         status;
    BB_TRY(bb_gradient_windows(calib, bb_gate_windows(&m->net, calib->n, calib->ctx), 0, 1, &w, err));
    BB_TRY(bb_net_evaluator_create(backend, m, &w, 1, UINT64_MAX, &e, err));
    const bb_gates_options o = { .windows = &w, .labels = LABELS, .seed = seed, .ffn_step = bb_calibration_ffn_step(&m->net) };
    BB_TRY(bb_gates_open(e, m, db, &o, &gates, err));
    BB_TRY(bb_database_use_gates(db, gates.order, err));
    if (out) *out = gates;
    else bb_gates_done(&gates);
    gates = (bb_gates) { 0 };
done:
    bb_gates_done(&gates);
    bb_net_evaluator_destroy(e);
    bb_windows_done(&w);
    return status;
}
