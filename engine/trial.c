/* SPDX-License-Identifier: GPL-3.0-or-later
 * trial.c: see trial.h. */
#include "engine/trial.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/coupling.h"
#include "engine/ladder.h"
#include "model/compress/rebuild.h"

/* ---- what is kept ---- */

/* trial, followed by the windows' KLs. */
static bb_status load(const bb_run *r, const char *key, bb_trial *out, double *window_kl, uint32_t n, bool *found, bb_err *err)
{
    void     *value = NULL;
    size_t    size = 0;
    bb_status status;
    BB_TRY(bb_store_get(r->store, "trials", key, &value, &size, found, err));
    *found = *found && size == sizeof *out + n * sizeof *window_kl;
    if (!*found) goto done;
    memcpy(out, value, sizeof *out);
    if (window_kl) memcpy(window_kl, (const char *)value + sizeof *out, n * sizeof *window_kl);
done:
    bb_free(value);
    return status;
}

static bb_status save(const bb_run *r, const char *key, const bb_trial *t, const double *window_kl, uint32_t n, bb_err *err)
{
    const size_t size = sizeof *t + n * sizeof *window_kl;
    char        *value = bb_alloc(size, 1, err);
    bb_status    status;
    if (!value) return BB_NOMEM;
    memcpy(value, t, sizeof *t);
    if (n) memcpy(value + sizeof *t, window_kl, n * sizeof *window_kl);
    status = bb_store_put(r->store, "trials", key, value, size, err);
    bb_free(value);
    return status;
}

/* ---- a rebuild ---- */

bb_status bb_trial_windows(const bb_run *r, uint32_t *n, const int32_t **tokens, int32_t **owned, bb_err *err)
{
    const size_t row = r->calib.ctx;
    *owned = NULL;
    *tokens = r->calib.tokens;
    if (*n == 0 || *n >= r->calib.n) {
        *n = r->calib.n;
        return BB_OK;
    }
    if (!(*owned = BB_NEW(*n * row, int32_t, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < *n; i++) memcpy(*owned + i * row, r->calib.tokens + (size_t)((uint64_t)i * r->calib.n / *n) * row, row * sizeof **owned);
    *tokens = *owned;
    return BB_OK;
}

static bb_status rebuild_and_score(bb_run *r, const bb_plan *plan, uint32_t n, const int32_t *tokens, uint32_t level, bb_trial *out, double *window_kl,
                                   bb_err *err)
{
    const bb_quant_options o = { BB_METHOD_FEEDBACK, r->config.damping, (unsigned)r->config.sweeps };
    const double           started = bb_now_s();
    bb_rebuilt             rebuilt = { 0 };
    bb_evaluation          v;
    bb_status              status;
    BB_TRY(bb_rebuild(r->database, &r->model, plan, tokens, n, r->calib.ctx, &o, bb_run_full_states(r), &rebuilt, err));
    bb_net_evaluator_forget(r->evaluator);
    BB_TRY(bb_net_evaluator_score(r->evaluator, &rebuilt.net, level, &v, window_kl, err));
    const double scored = (double)bb_net_evaluator_windows(r->evaluator, level) * (double)r->config.ctx;
    *out = (bb_trial) { v.kl, v.kl_se, 2.0 * n * r->calib.ctx + scored, bb_now_s() - started };
    bb_checkpoint_remove(&rebuilt.checkpoint);
done:
    if (r->evaluator) bb_net_evaluator_forget(r->evaluator);
    bb_rebuilt_done(&rebuilt);
    return status;
}

bb_status bb_trial_rebuild(bb_run *r, const uint16_t *x, uint32_t windows, uint32_t level, bb_trial *out, double *window_kl, bb_err *err)
{
    const bb_plan_space *space = bb_model_space_problem(r->space)->plans;
    const int32_t       *tokens;
    int32_t             *owned = NULL;
    double              *each = NULL;
    bb_plan              plan = { 0 };
    char                 hash[17], key[160];
    bool                 found;
    bb_status            status;
    BB_TRY(bb_run_calibrate(r, err));
    const uint32_t n = bb_net_evaluator_windows(r->evaluator, level);
    BB_TRY(bb_trial_windows(r, &windows, &tokens, &owned, err));
    bb_plan_space_hash(space, x, hash);
    snprintf(key, sizeof key, "%s|%s|rebuild %u|%u|outputs of %u", r->key, hash, windows, level, bb_coupling_windows(r));
    BB_TRY(load(r, key, out, window_kl, n, &found, err));
    if (found) goto done;
    if (r->config.ledger_only) {
        status = BB_FAIL(err, BB_NOT_FOUND, "--ledger-only: plan %s was not rebuilt on %u windows yet", hash, windows);
        goto done;
    }
    if (!(each = BB_NEW(n, double, err))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_plan_space_plan(space, x, &plan, err));
    BB_TRY(rebuild_and_score(r, &plan, windows, tokens, level, out, each, err));
    BB_TRY(save(r, key, out, each, n, err));
    if (window_kl) memcpy(window_kl, each, n * sizeof *each);
done:
    bb_plan_done(&plan);
    bb_free(owned);
    bb_free(each);
    return status;
}

/* ---- the whole ladder ---- */

bb_status bb_trial_ladder(bb_run *r, const uint16_t *x, bb_trial *out, bb_err *err)
{
    const bb_plan_space *space = bb_model_space_problem(r->space)->plans;
    char                *settings = bb_ladder_settings(&r->config, err), *key = NULL, hash[17];
    bb_plan              plan = { 0 };
    bb_tuned             net = { 0 };
    bb_ladder_record     record;
    bool                 found;
    const double         started = bb_now_s();
    bb_status            status = BB_NOMEM;
    bb_plan_space_hash(space, x, hash);
    if (!settings || !(key = bb_asprintf(err, "%s|%s|ladder %s", r->key, hash, settings))) goto done;
    BB_TRY(load(r, key, out, NULL, 0, &found, err));
    if (found) goto done;
    BB_TRY(bb_run_calibrate(r, err));
    BB_TRY(bb_plan_space_plan(space, x, &plan, err));
    BB_TRY(bb_ladder_run(r, &plan, !r->config.no_finalise, NULL, NULL, &net, &record, err));
    *out = (bb_trial) { record.kl_final, (double)NAN, (double)NAN, bb_now_s() - started };
    BB_TRY(save(r, key, out, NULL, 0, err));
done:
    bb_tuned_done(&net);
    bb_plan_done(&plan);
    bb_free(settings);
    bb_free(key);
    return status;
}
