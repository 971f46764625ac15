/* SPDX-License-Identifier: GPL-3.0-or-later
 * foresee.c: see foresee.h. */
#include "engine/foresee.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "model/compress/plan_units.h"

/* Changes of a whole kind around uniform plans of wiki8m at four sizes, in rebuilt networks against alone: results/survival_kinds.csv. */
static double share_of_kind(uint32_t what)
{
    switch (what) {
    case BB_UNIT_EMBD:
    case BB_UNIT_HEAD:
    case BB_UNIT_TABLE: return 0.75;
    case BB_UNIT_KV:
    case BB_UNIT_FFN: return 0.65;
    case BB_PART_Q:
    case BB_PART_K:
    case BB_PART_DOWN: return 0.55;
    case BB_PART_O: return 0.45;
    case BB_PART_GATE:
    case BB_PART_UP: return 0.38;
    case BB_PART_V: return 0.12; /* 0.38 in wiki8m, hardly any in SmolLM2 (docs/search.md) */
    default: return 0.5;         /* per-layer parts of gemma4: not measured */
    }
}

bool bb_run_foresees(const bb_run_config *c) { return strcmp(c->foresee, "rebuild") == 0 && !c->no_finalise && bb_list_has(c->finalise_steps, "rebuild"); }

bb_status bb_foresee_init(const bb_problem *p, bb_foresee *f, bb_err *err)
{
    bb_status status;
    *f = (bb_foresee) { .plain = p };
    BB_TRY(bb_variant_init(p, &f->v, err));
    status = BB_NOMEM;
    if (!(f->share = BB_NEW(p->n_units, double, err))) goto done;
    for (uint32_t u = 0; u < p->n_units; u++) {
        f->share[u] = share_of_kind(p->plans->units[u].what);
        bb_variant_scale(&f->v, u, f->share[u]);
    }
    status = BB_OK;
done:
    if (status != BB_OK) bb_foresee_done(f);
    return status;
}

void bb_foresee_done(bb_foresee *f)
{
    if (f->plain) bb_variant_done(&f->v);
    bb_free(f->share);
    memset(f, 0, sizeof *f);
}

double bb_foresee_weight(void *self, const uint16_t *x)
{
    const bb_foresee *f = self;
    const double      cost = bb_problem_cost(f->plain, x);
    return cost > 0 ? bb_problem_cost(&f->v.problem, x) / cost : 1;
}

void bb_foresee_scale(const bb_foresee *f, const bb_space *space, double *const *linear, float *gram)
{
    const bb_problem *p = f->plain;
    const size_t      M = space->offset[p->n_units];
    for (uint32_t u = 0; linear && u < p->n_units; u++)
        for (size_t i = 0; i < bb_problem_rows(p, u) * p->units[u].n_options; i++) linear[u][i] *= f->share[u];
    for (uint32_t u = 0; gram && u < p->n_units; u++)
        for (uint32_t v = 0; v < p->n_units; v++) {
            const float root = (float)sqrt(f->share[u] * f->share[v]);
            for (size_t i = space->offset[u]; i < space->offset[u + 1]; i++)
                for (size_t j = space->offset[v]; j < space->offset[v + 1]; j++) gram[i * M + j] *= root;
        }
}
