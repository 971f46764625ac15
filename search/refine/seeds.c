/* SPDX-License-Identifier: GPL-3.0-or-later
 * seeds.c: what is evaluated before any round: the separable plan of every budget, given plans, the quadratic optimum, optima of tilted tables. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "search/refine/parts.h"

#define SEED_SHARE 0.6 /* of the tokens before the final, for seeds */

bb_status bb_refine_propose(bb_refine *r, uint16_t *x, int64_t budget, const char *source, size_t *list, size_t *n, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    at;
    bool      is_new;
    bb_space_topup(r->s->space, x, budget);
    BB_TRY(bb_pool_add(&r->pool, x, source, &at, &is_new, err));
    if (is_new) list[(*n)++] = at;
done:
    return status;
}

static bb_status seed_separable(bb_refine *r, uint16_t *x, size_t *list, bb_err *err)
{
    const bb_tilt none = { .name = "separable", .power = 1, .controllers = 1 };
    bb_status     status = BB_OK;
    size_t        n = 0;
    for (size_t b = 0; b < r->n; b++) {
        BB_TRY(bb_separable_solve(r->s->separable, r->budgets[b], x, NULL, err));
        BB_TRY(bb_pool_add(&r->pool, x, none.name, &r->base[b], NULL, err));
        BB_TRY(bb_tilt_record(r, &none, b, r->base[b], err));
        list[n++] = r->base[b];
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    return status;
}

static bb_status seed_given(bb_refine *r, uint16_t *x, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    n = 0;
    size_t   *list = BB_NEW(r->s->n_starts, size_t, err);
    if (!list) return BB_NOMEM;
    for (size_t i = 0; i < r->s->n_starts; i++) {
        memcpy(x, r->s->starts + i * r->s->problem->n_units, r->s->problem->n_units * sizeof *x);
        if (bb_problem_size(r->s->problem, x) > r->budgets[r->n - 1]) continue;
        size_t at;
        BB_TRY(bb_pool_add(&r->pool, x, "given", &at, NULL, err));
        list[n++] = at;
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    bb_free(list);
    return status;
}

static bb_status seed_quadratic(bb_refine *r, uint16_t *x, size_t *list, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    n = 0;
    for (size_t b = 0; r->s->quadratic && b < r->n; b++) {
        const bb_quadratic_options q = { .seed = r->s->seed };
        BB_TRY(bb_quadratic_solve(r->s->quadratic, r->budgets[b], &q, x, NULL, err));
        size_t at;
        BB_TRY(bb_pool_add(&r->pool, x, "quadratic", &at, NULL, err));
        list[n++] = at;
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    return status;
}

/* One tilt at every `stride`-th budget, which ones depending on the tilt. */
static bb_status seed_tilt(bb_refine *r, size_t t, size_t stride, uint16_t *x, size_t *list, bb_err *err)
{
    bb_status     status = BB_OK;
    size_t        n = 0;
    bb_variant    v = { 0 };
    bb_separable *sep = NULL;
    BB_TRY(bb_tilt_tables(r, &bb_tilts[t], &v, err));
    BB_TRY(bb_separable_create(&v.problem, NULL, &sep, err));
    for (size_t b = t % stride; b < r->n; b += stride) {
        size_t at;
        bool   is_new, solved;
        BB_TRY(bb_tilt_solve(r, &bb_tilts[t], sep, r->budgets[b], x, &solved, err));
        if (!solved) continue;
        BB_TRY(bb_pool_add(&r->pool, x, bb_tilts[t].name, &at, &is_new, err));
        BB_TRY(bb_tilt_record(r, &bb_tilts[t], b, at, err));
        if (is_new) list[n++] = at;
    }
    BB_TRY(bb_pool_evaluate(&r->pool, list, n, 0, err));
done:
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    return status;
}

bb_status bb_refine_seeds(bb_refine *r, bb_err *err)
{
    bb_status    status = BB_NOMEM;
    const size_t stride = r->n >= 16 ? 2 : 1;
    uint16_t    *x = BB_NEW(r->s->problem->n_units, uint16_t, err);
    size_t      *list = BB_NEW(r->n, size_t, err);
    if (!x || !list) goto done;
    BB_TRY(seed_separable(r, x, list, err));
    BB_TRY(seed_given(r, x, err));
    BB_TRY(seed_quadratic(r, x, list, err));
    for (size_t t = 0; t < BB_N_TILTS; t++) {
        if (!r->has_controllers && (bb_tilts[t].pinned || bb_tilts[t].controllers < 1 || bb_tilts[t].controllers > 1)) continue;
        if (!r->s->share && bb_tilts[t].measured > 0) continue;
        if (!bb_refine_has_room(r, (double)((r->n + stride - 1) / stride) * bb_refine_tokens_at(r, 0), SEED_SHARE)) break;
        BB_TRY(seed_tilt(r, t, stride, x, list, err));
    }
    BB_TRY(bb_refine_confirm_best(r, 2, err));
    for (size_t b = 0; b < r->n; b++) {
        if (bb_pool_best(&r->pool, r->budgets[b], r->confirm) != SIZE_MAX) continue;
        status = BB_FAIL(err, BB_NUMERIC, "every plan tried for %lld bytes scored NaN or is not allowed", (long long)r->budgets[b]);
        goto done;
    }
    bb_refine_report(r, "seeds", 0, r->confirm);
done:
    bb_free(x);
    bb_free(list);
    return status;
}
