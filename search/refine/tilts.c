/* SPDX-License-Identifier: GPL-3.0-or-later
 * tilts.c: tables tilted as a whole: the seeds' fixed list, and mutations of those that did best. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "search/refine/parts.h"

#define N_ELITES 4          /* tilts that may have offspring at a budget */
enum { FIRST_STREAM = 15 }; /* those before are of fixed tilts */

const bb_tilt bb_tilts[BB_N_TILTS] = {
    { .name = "measured", .power = 1, .controllers = 1, .measured = 1 },
    { .name = "pinned", .power = 1, .controllers = 1, .pinned = true },
    { .name = "power", .power = 0.7, .controllers = 1 },
    { .name = "measured, controllers", .power = 1, .controllers = 0.4, .measured = 1 },
    { .name = "measured, power", .power = 0.7, .controllers = 1, .measured = 1 },
    { .name = "power", .power = 0.5, .controllers = 1 },
    { .name = "controllers", .power = 1, .controllers = 0.4 },
    { .name = "controllers", .power = 1, .controllers = 2.5 },
    { .name = "measured, controllers", .power = 1, .controllers = 2.5, .measured = 1 },
    { .name = "pinned, power", .power = 0.7, .controllers = 1, .pinned = true },
    { .name = "power", .power = 1.4, .controllers = 1 },
    { .name = "slope", .power = 1, .controllers = 1, .slope = 0.5 },
    { .name = "slope", .power = 1, .controllers = 1, .slope = -0.5 },
    { .name = "measured, slope", .power = 1, .controllers = 1, .slope = 0.5, .measured = 1 },
    { .name = "measured, slope", .power = 1, .controllers = 1, .slope = -0.5, .measured = 1 },
    { .name = "noise", .power = 1, .controllers = 1, .noise = 0.3, .stream = 1 },
    { .name = "noise, power", .power = 0.7, .controllers = 1, .noise = 0.3, .stream = 2 },
    { .name = "noise", .power = 1, .controllers = 1, .noise = 0.5, .stream = 3 },
    { .name = "noise, controllers", .power = 1, .controllers = 2.5, .noise = 0.3, .stream = 4 },
    { .name = "noise, controllers", .power = 1, .controllers = 1.6, .noise = 0.3, .stream = 5 },
    { .name = "noise, power", .power = 1.4, .controllers = 1, .noise = 0.3, .stream = 6 },
};

bb_status bb_tilt_tables(const bb_refine *r, const bb_tilt *t, bb_variant *v, bb_err *err)
{
    bb_status status = BB_OK;
    bb_rng    rng;
    char      name[48];
    snprintf(name, sizeof name, "refine/tilt/%zu", t->stream);
    bb_rng_init(&rng, r->s->seed, name);
    BB_TRY(bb_variant_init(r->s->problem, v, err));
    for (uint32_t u = 0; r->s->share && u < r->s->problem->n_units; u++) bb_variant_scale(v, u, pow(r->s->share[u], -t->measured));
    if (t->power < 1 || t->power > 1) bb_variant_power(v, t->power);
    for (uint32_t u = 0; u < r->s->problem->n_units; u++) {
        const bool   is_controller = bb_space_is_controller(r->s->space, u);
        const double at = r->s->problem->n_units > 1 ? 2.0 * u / (r->s->problem->n_units - 1) - 1 : 0;
        if (is_controller && t->pinned) bb_variant_pin(v, u, bb_space_widest(r->s->space, u));
        bb_variant_scale(v, u, exp(t->noise * bb_rng_normal(&rng) + t->slope * at + t->bend * (at * at - 1.0 / 3)) * (is_controller ? t->controllers : 1));
    }
done:
    return status;
}

bb_status bb_tilt_solve(const bb_refine *r, const bb_tilt *t, const bb_separable *sep, int64_t budget, uint16_t *x, bool *solved, bb_err *err)
{
    bb_err          local = BB_ERR_INIT; /* a budget that this tilt cannot meet is no failure, and leaves no sentence */
    const bb_status status = bb_separable_solve(sep, budget, x, NULL, &local);
    *solved = status == BB_OK;
    if (*solved && !t->pinned) bb_space_topup(r->s->space, x, budget);
    return *solved || status == BB_INFEASIBLE ? BB_OK : BB_FAIL(err, status, "%s", local.msg);
}

bb_status bb_tilt_record(bb_refine *r, const bb_tilt *t, size_t budget, size_t item, bb_err *err)
{
    if (r->n_tilted == r->tilted_capacity) {
        const size_t capacity = r->tilted_capacity ? 2 * r->tilted_capacity : 256;
        bb_tilted   *grown = bb_realloc(r->tilted, capacity, sizeof *grown, err);
        if (!grown) return BB_NOMEM;
        r->tilted = grown;
        r->tilted_capacity = capacity;
    }
    r->tilted[r->n_tilted++] = (bb_tilted) { *t, budget, item };
    return BB_OK;
}

/* A tilt near one of the N_ELITES that did best against the plain separable plan of their budget, at budgets nearby. */
bb_tilt bb_tilt_mutate(const bb_refine *r, size_t b, bb_rng *rng)
{
    size_t elite[N_ELITES];
    double gain[N_ELITES];
    size_t n = 0;
    for (size_t i = 0; i < r->n_tilted; i++) {
        const bb_tilted *t = &r->tilted[i];
        const double     g = log(r->pool.items[t->item].kl[0] / r->pool.items[r->base[t->budget]].kl[0]);
        if (fabs(log((double)r->budgets[t->budget] / (double)r->budgets[b])) > BB_NEIGHBOURHOOD || !isfinite(g)) continue;
        if (n == N_ELITES && g >= gain[n - 1]) continue;
        size_t k = n < N_ELITES ? n++ : n - 1;
        for (; k > 0 && gain[k - 1] > g; k--) {
            elite[k] = elite[k - 1];
            gain[k] = gain[k - 1];
        }
        elite[k] = i;
        gain[k] = g;
    }
    bb_tilt t = n ? r->tilted[elite[bb_rng_below(rng, n)]].t : bb_tilts[0];
    t.name = "tilt";
    t.power *= exp(0.15 * bb_rng_normal(rng));
    t.controllers *= exp(0.3 * bb_rng_normal(rng));
    t.slope += 0.3 * bb_rng_normal(rng);
    t.bend += 0.3 * bb_rng_normal(rng);
    if (r->s->share) t.measured += 0.3 * bb_rng_normal(rng);
    if (!(t.noise > 0) || bb_rng_below(rng, 4) == 0) {
        t.noise = 0.2;
        t.stream = FIRST_STREAM + (size_t)bb_rng_below(rng, 1u << 30);
    } else t.noise *= exp(0.3 * bb_rng_normal(rng));
    return t;
}
