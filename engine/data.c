/* SPDX-License-Identifier: GPL-3.0-or-later
 * data.c: the texts of a run as windows: for second moments, for tuning, for scoring; and what is opened from them. See run_parts.h. */
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/calibration.h"
#include "engine/coupling.h"
#include "engine/gates.h"
#include "engine/memory.h"
#include "engine/run_parts.h"

/* n of the m entries of from, evenly spaced. */
static void spaced(const uint32_t *from, uint32_t m, uint32_t n, uint32_t *out)
{
    for (uint32_t i = 0; i < n; i++) out[i] = from[(uint64_t)i * m / n];
}

/* Options are compared with each other, not with a protocol's numbers: every position behind the first eighth counts. */
static void score_nearly_all(bb_windows *w)
{
    w->first = w->ctx / 8;
    w->n_scored = w->ctx - 1 - w->first;
}

static void warn_fewer(const bb_run *r, const bb_windows *all, const char *what, int64_t asked, uint32_t used)
{
    if (asked > used)
        bb_warn("%s has %u windows of %u tokens: %u instead of %lld are used for %s", r->config.calib, all->n, all->ctx, used, (long long)asked, what);
}

/* Scoring windows are evenly spaced over the text, the smaller levels inside the larger ones; calibration takes from the others. */
static bb_status split_windows(bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    bb_protocol          protocol = bb_protocol_named(c->protocol);
    bb_windows           all = { 0 };
    uint32_t            *index = NULL, *score, *rest, n_score, n_rest = 0;
    int32_t              bos;
    bb_status            status;
    BB_TRY(bb_tokens_bos(&r->model, &bos, err));
    BB_TRY(bb_windows_make(&r->calib_tokens, protocol, (uint32_t)c->ctx, bos, 0, false, &all, err));
    if (all.n < 4) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: %u windows of %lld tokens; at least 4 are needed: give more text or a smaller --ctx", c->calib, all.n,
                         (long long)c->ctx);
        goto done;
    }
    status = BB_NOMEM;
    if (!(index = BB_NEW(4 * (size_t)all.n, uint32_t, err))) goto done;
    score = index + all.n;
    rest = score + all.n;
    n_score = (uint32_t)c->confirm_windows; /* as asked where there are enough for both, else half of all at most */
    if (c->calib_windows + c->confirm_windows > all.n && n_score > all.n / 2) n_score = all.n / 2;
    for (uint32_t i = 0; i < all.n; i++) index[i] = i;
    spaced(index, all.n, n_score, score);
    for (uint32_t i = 0, s = 0; i < all.n; i++) {
        if (s < n_score && score[s] == i) s++;
        else rest[n_rest++] = i;
    }
    uint32_t  n_calib = (uint32_t)c->calib_windows < n_rest ? (uint32_t)c->calib_windows : n_rest;
    uint32_t  n_level[BB_N_LEVELS] = { (uint32_t)c->measure_windows, (uint32_t)c->refine_windows, n_score };
    uint32_t *chosen = rest + all.n;
    spaced(rest, n_rest, n_calib, chosen);
    BB_TRY(bb_windows_pick(&all, chosen, n_calib, &r->calib, err));
    uint32_t n_tune = (uint32_t)c->tune_windows < n_rest ? (uint32_t)c->tune_windows : n_rest;
    spaced(rest, n_rest, n_tune, chosen);
    BB_TRY(bb_windows_pick(&all, chosen, n_tune, &r->tune, err));
    for (uint32_t l = BB_N_LEVELS, upper = n_score; l-- > 0;) { /* from the largest level down: what is spaced evenly in it need not be in it otherwise */
        uint32_t n = n_level[l] < n_score ? n_level[l] : n_score;
        if (n > upper) upper = n_score; /* asked for more than the level above has: no nesting is possible */
        spaced(upper == n_score ? score : chosen, upper, n, chosen);
        upper = n;
        BB_TRY(bb_windows_pick(&all, chosen, n, &r->levels[l], err));
        if (l != BB_LEVEL_MEASURE) continue;
        BB_TRY(bb_windows_pick(&all, chosen, n, &r->levels[BB_LEVEL_SKETCH], err));
        score_nearly_all(&r->levels[BB_LEVEL_SKETCH]);
    }
    warn_fewer(r, &all, "second moments (--calib-windows)", c->calib_windows, n_calib);
    warn_fewer(r, &all, "measuring (--measure-windows)", c->measure_windows, r->levels[BB_LEVEL_MEASURE].n);
    warn_fewer(r, &all, "ranking plans (--refine-windows)", c->refine_windows, r->levels[BB_LEVEL_REFINE].n);
    warn_fewer(r, &all, "confirming plans (--confirm-windows)", c->confirm_windows, n_score);
    bb_info("calibration: %u windows; scoring: %u / %u / %u windows of %lld tokens", n_calib, r->levels[0].n, r->levels[1].n, r->levels[2].n,
            (long long)c->ctx);
done:
    bb_windows_done(&all);
    bb_free(index);
    return status;
}

bb_status bb_run_open_data(bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    bb_status            status = BB_OK;
    if (r->calib_tokens.ids) return BB_OK;
    BB_TRY(bb_calibration_tokens(&r->model, c->calib, c->out, (uint32_t)(c->calib_windows + c->confirm_windows), (uint32_t)c->ctx, (uint64_t)c->seed,
                                 c->parse_special, &r->calib_tokens, err));
    BB_TRY(split_windows(r, err));
done:
    return status;
}

/* ---- calibrate ---- */

static uint64_t for_workers(const bb_run *r) { return (uint64_t)(r->config.workers - 1) * r->worker_room; }

bb_status bb_run_evaluator(bb_run *r, bb_err *err)
{
    if (r->evaluator) return BB_OK;
    r->worker_room = bb_memory_for_worker(r);
    return bb_net_evaluator_create_for(r->backend, &r->model, r->levels, BB_N_WINDOW_SETS, BB_LEVEL_SKETCH, bb_memory_for_evaluator(r) - for_workers(r),
                                       &r->evaluator, err);
}

uint64_t bb_run_unused_memory(const bb_run *r)
{
    const uint64_t unused = bb_memory_spills(r) ? bb_memory_for_caches(r) : bb_net_evaluator_unused(r->evaluator) + for_workers(r); /* on disk it has none */
    return unused > r->others_room ? unused - r->others_room : 0;
}

bb_full_states *bb_run_full_states(bb_run *r)
{
    r->full_states.most = bb_run_unused_memory(r);
    return &r->full_states;
}

bb_status bb_run_database(bb_run *r, bb_err *err)
{
    const bb_run_config *c = &r->config;
    char                *dir = NULL;
    bb_status            status = BB_NOMEM;
    if (r->database) return BB_OK;
    if (!(dir = *c->database ? bb_strdup(c->database, err) : bb_run_path(r, err, "database"))) return BB_NOMEM;
    bb_database_config config = { .dir = dir,
                                  .model = &r->model,
                                  .backend = r->backend,
                                  .tokens = r->calib.tokens,
                                  .n_windows = r->calib.n,
                                  .ctx = r->calib.ctx,
                                  .quant = { bb_calibration_method(c->method), c->damping, (unsigned)c->sweeps },
                                  .ffn_step = bb_calibration_ffn_step(&r->model.net),
                                  .whole = strcmp(c->prune, "none") == 0 };
    BB_TRY(bb_database_open(&config, &r->database, err));
    if (bb_width_order_gates(c->width_order) && !config.whole)
        status = bb_learn_gates(&r->model, r->backend, r->database, &r->calib, (uint64_t)c->seed, NULL, err);
    if (status == BB_OK) status = bb_couple_rows(&r->model, r->backend, r->database, &r->calib, bb_coupling_windows(r), (uint64_t)c->seed, err);
    if (status != BB_OK) { /* calibrated is calibrated whole */
        bb_database_close(r->database);
        r->database = NULL;
    }
done:
    bb_free(dir);
    return status;
}

bb_status bb_run_calibrate(bb_run *r, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_run_database(r, err));
    BB_TRY(bb_run_evaluator(r, err));
done:
    return status;
}
