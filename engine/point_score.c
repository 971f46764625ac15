/* SPDX-License-Identifier: GPL-3.0-or-later
 * point_score.c: see point_score.h. */
#include "engine/point_score.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/score.h"
#include "engine/trial.h"
#include "model/compress/point.h"

/* What is kept of one change, or of the plan itself. */
typedef struct record {
    double kl, tokens;
} record;

typedef struct job {
    bb_run           *r;
    const bb_problem *p;
    const uint16_t   *x;
    uint32_t          windows, level;
    bool             *wanted;   /* [M] */
    uint32_t          n_widths; /* of them structures */
    bb_point_score   *out;
    bb_point         *point; /* made when something is missing */
    const int32_t    *tokens;
    int32_t          *owned;
    bb_block         *blocks;
    char              prefix[160]; /* of the keys */
} job;

void bb_point_score_done(bb_point_score *s)
{
    bb_free(s->offset);
    bb_free(s->change);
    memset(s, 0, sizeof *s);
}

double bb_point_predict(const bb_point_score *s, uint32_t n_units, const uint16_t *x)
{
    double kl = s->anchor_kl;
    for (uint32_t u = 0; u < n_units; u++) kl += s->change[s->offset[u] + x[u]];
    return kl;
}

/* Is option o of a structure among the plan's own width (by the other order), the next wider and the next narrower one? A sublayer that the plan has dropped stays so. */
static bool is_next_width(const bb_problem *p, const uint16_t *x, uint32_t u, uint32_t o)
{
    const bb_plan_unit *unit = &p->plans->units[u];
    const uint32_t      own = bb_width_count(unit->options[x[u]].value), count = bb_width_count(unit->options[o].value);
    const uint32_t      low = own < count ? own : count, high = own < count ? count : own;
    for (uint32_t k = 0; k < unit->n_options; k++) {
        const uint32_t other = bb_width_count(unit->options[k].value);
        if (other > low && other < high) return false;
    }
    return own > 0;
}

static bb_status choose(job *j, uint32_t reach, bb_err *err)
{
    const bb_problem *p = j->p;
    bb_point_score   *s = j->out;
    if (!(s->offset = BB_NEW((size_t)p->n_units + 1, uint32_t, err))) return BB_NOMEM;
    s->offset[0] = 0;
    for (uint32_t u = 0; u < p->n_units; u++) s->offset[u + 1] = s->offset[u] + p->units[u].n_options;
    s->change = BB_NEW(s->offset[p->n_units], double, err);
    j->wanted = BB_NEW0(s->offset[p->n_units], bool, err);
    if (!s->change || !j->wanted) return BB_NOMEM;
    for (uint32_t u = 0; u < p->n_units; u++) {
        const int64_t *bytes = p->units[u].bytes + bb_problem_row(p, j->x, u);
        for (uint32_t o = 0; o < p->units[u].n_options; o++) {
            const bool format = bb_model_space_is_format(j->r->space, u), dropped = !format && p->plans->units[u].options[j->x[u]].value == 0;
            const bool near = !reach || (format ? bb_option_is_near(p, j->x, false, u, o, reach) : is_next_width(p, j->x, u, o));
            s->change[s->offset[u] + o] = o == j->x[u] ? 0 : (double)NAN;
            j->wanted[s->offset[u] + o] = o != j->x[u] && near && !dropped && !bb_is_forbidden(bytes[o]);
            j->n_widths += !format && j->wanted[s->offset[u] + o];
        }
    }
    return BB_OK;
}

static bb_status make_point(job *j, bb_err *err)
{
    bb_run         *r = j->r;
    bb_point_config c = { .db = r->database, .model = &r->model, .space = j->p->plans, .x = j->x, .wanted = j->wanted, .ctx = r->calib.ctx };
    bb_status       status = BB_OK;
    if (j->point) return BB_OK;
    if (r->config.ledger_only) return BB_FAIL(err, BB_NOT_FOUND, "--ledger-only: an option of a rebuilt plan was not measured yet");
    c.quant = (bb_quant_options) { BB_METHOD_FEEDBACK, r->config.damping, (unsigned)r->config.sweeps };
    c.n_windows = j->windows;
    c.tokens = j->tokens;
    BB_TRY(bb_point_create(&c, &j->point, err));
    bb_net_evaluator_forget(r->evaluator);
done:
    return status;
}

/* The KL with unit = option, or of the plan itself; NaN when the option cannot be there. */
static bb_status measure_one(job *j, uint32_t unit, uint32_t option, double *kl, bool *found, bb_err *err)
{
    const bb_plan_unit *u = unit == BB_NO_UNIT ? NULL : &j->p->plans->units[unit];
    void               *value = NULL;
    size_t              size;
    record              known = { (double)NAN, 0 };
    bool                there;
    bb_net              net;
    bb_evaluation       v;
    char               *key = bb_asprintf(err, "%s|%s=%s", j->prefix, u ? u->name : "", u ? u->options[option].name : "");
    bb_status           status = BB_NOMEM;
    if (!key) return BB_NOMEM;
    BB_TRY(bb_store_get(j->r->store, "points", key, &value, &size, found, err));
    if ((*found = *found && size == sizeof known)) memcpy(&known, value, sizeof known);
    else {
        BB_TRY(make_point(j, err));
        BB_TRY(bb_point_apply(j->point, NULL, unit, option, &net, j->blocks, &there, err));
        if (there) {
            BB_TRY(bb_net_evaluator_score(j->r->evaluator, &net, j->level, &v, NULL, err));
            known = (record) { v.kl, v.n_forwarded };
        }
        BB_TRY(bb_store_put(j->r->store, "points", key, &known, sizeof known, err));
    }
    *kl = known.kl;
    j->out->tokens += known.tokens;
done:
    bb_free(value);
    bb_free(key);
    return status;
}

/* The last block first, so that what stands in front of a change is run once; embedding and head behind all. */
static bb_status measure_all(job *j, bb_err *err)
{
    const bb_problem *p = j->p;
    bb_point_score   *s = j->out;
    uint64_t          total = 0;
    bb_progress       progress;
    bool              found;
    bb_status         status;
    for (uint32_t i = 0; i < s->offset[p->n_units]; i++) total += j->wanted[i];
    bb_progress_start(&progress, "options of a rebuilt plan", total);
    BB_TRY(measure_one(j, BB_NO_UNIT, 0, &s->anchor_kl, &found, err));
    for (uint32_t layer = j->r->model.net.n_layer + 1; layer-- > 0;) /* 0: the tables; else the block before it */
        for (uint32_t u = 0; u < p->n_units; u++) {
            const bb_plan_unit *unit = &p->plans->units[u];
            const uint32_t      of = unit->what < BB_UNIT_EMBD ? unit->layer + 1 : 0;
            for (uint32_t o = 0; of == layer && o < unit->n_options; o++) {
                double kl;
                if (!j->wanted[s->offset[u] + o]) continue;
                BB_TRY(measure_one(j, u, o, &kl, &found, err));
                s->change[s->offset[u] + o] = kl - s->anchor_kl;
                (found ? bb_progress_skip : bb_progress_add)(&progress, 1);
            }
        }
    bb_progress_end(&progress);
done:
    return status;
}

bb_status bb_point_measure(bb_run *r, const uint16_t *x, uint32_t windows, uint32_t reach, uint32_t level, bb_point_score *out, bb_err *err)
{
    job       j = { .r = r, .p = bb_model_space_problem(r->space), .x = x, .windows = windows, .level = level, .out = out };
    char      hash[17];
    bb_status status;
    memset(out, 0, sizeof *out);
    BB_TRY(bb_run_calibrate(r, err));
    BB_TRY(choose(&j, reach, err));
    BB_TRY(bb_trial_windows(r, &j.windows, &j.tokens, &j.owned, err));
    if (!(j.blocks = BB_NEW(r->model.net.n_layer, bb_block, err))) {
        status = BB_NOMEM;
        goto done;
    }
    bb_plan_space_hash(j.p->plans, x, hash);
    snprintf(j.prefix, sizeof j.prefix, "%s|%s|%u|%u", r->key, hash, j.windows, level);
    BB_TRY(measure_all(&j, err));
    out->tokens += (2.0 + 0.5 * j.n_widths / r->model.net.n_layer) * j.windows * r->calib.ctx; /* each width is half a block once more */
done:
    if (r->evaluator) bb_net_evaluator_forget(r->evaluator);
    bb_point_destroy(j.point);
    bb_free(j.wanted);
    bb_free(j.owned);
    bb_free(j.blocks);
    if (status != BB_OK) bb_point_score_done(out);
    return status;
}
