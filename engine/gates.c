/* SPDX-License-Identifier: GPL-3.0-or-later
 * gates.c: see gates.h. */
#include "engine/gates.h"

#include <string.h>

#include "base/mem.h"
#include "engine/calibration.h"

enum { MOST_WINDOWS = 32, LABELS = 1 };

static const double most_bytes = 512 << 20; /* of the states at the boundaries of the blocks */

bool bb_width_order_obs(const char *name) { return strcmp(name, "gates") != 0; }
bool bb_width_order_gates(const char *name) { return strcmp(name, "obs") != 0; }

uint32_t bb_gate_windows(const bb_net *net, uint32_t n, uint32_t ctx)
{
    const double   window = (net->n_layer + 4.0) * ctx * net->n_embd * sizeof(float);
    const uint32_t most = window * MOST_WINDOWS < most_bytes ? MOST_WINDOWS : window * 1.5 > most_bytes ? 1 : (uint32_t)(most_bytes / window);
    return n < most ? n : most;
}

static bb_status choose_windows(const bb_net *net, const bb_windows *calib, bb_windows *out, bb_err *err)
{
    const size_t row = calib->ctx;
    *out = (bb_windows) { .ctx = calib->ctx, .n = bb_gate_windows(net, calib->n, calib->ctx), .first = calib->ctx / 8 };
    out->n_scored = out->ctx - 1 - out->first; /* nearly all positions: nothing is compared with a protocol's numbers */
    out->tokens = BB_NEW(out->n * row, int32_t, err);
    out->targets = BB_NEW(out->n * row, int32_t, err);
    if (!out->tokens || !out->targets) return BB_NOMEM;
    for (uint32_t i = 0; i < out->n; i++) {
        const size_t from = (size_t)((uint64_t)i * calib->n / out->n) * row;
        memcpy(out->tokens + i * row, calib->tokens + from, row * sizeof(int32_t));
        memcpy(out->targets + i * row, calib->targets + from, row * sizeof(int32_t));
    }
    return BB_OK;
}

bb_status bb_learn_gates(const bb_model *m, const bb_backend *backend, bb_database *db, const bb_windows *calib, uint64_t seed, bb_gates *out, bb_err *err)
{
    bb_windows        w = { 0 };
    bb_net_evaluator *e = NULL;
    bb_gates          gates = { 0 };
    bb_status         status;
    BB_TRY(choose_windows(&m->net, calib, &w, err));
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
