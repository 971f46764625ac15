/* SPDX-License-Identifier: GPL-3.0-or-later
 * score.c: see score.h. */
#include "engine/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/ranks.h"

bb_status bb_run_units_init(const bb_run *r, bb_run_units *u, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    uint32_t          M = 0;
    memset(u, 0, sizeof *u);
    for (uint32_t i = 0; i < p->n_units; i++) M += p->units[i].n_options;
    u->offset = BB_NEW((size_t)p->n_units + 1, uint32_t, err);
    u->controller = BB_NEW(p->n_units, int32_t, err);
    u->width = BB_NEW(M, double, err);
    if (!u->offset || !u->controller || !u->width) {
        bb_run_units_done(u);
        return BB_NOMEM;
    }
    M = 0;
    for (uint32_t i = 0; i < p->n_units; i++) {
        u->offset[i] = M;
        u->controller[i] = p->units[i].controller;
        for (uint32_t o = 0; o < p->units[i].n_options; o++) u->width[M++] = bb_model_space_width(r->space, i, o);
    }
    u->offset[p->n_units] = M;
    u->units = (bb_units) { p->n_units, u->offset, u->controller, u->width };
    return BB_OK;
}

void bb_run_units_done(bb_run_units *u)
{
    bb_free(u->offset);
    bb_free(u->controller);
    bb_free(u->width);
    memset(u, 0, sizeof *u);
}

bool bb_option_is_near(const bb_problem *p, const uint16_t *anchor, bool is_structure, uint32_t u, uint32_t o, uint32_t reach)
{
    const bb_unit *unit = &p->units[u];
    const int64_t *bytes = unit->bytes + (size_t)(unit->controller >= 0 ? anchor[unit->controller] : 0) * unit->n_options;
    const int64_t  a = bytes[o], b = bytes[anchor[u]], low = a < b ? a : b, high = a < b ? b : a;
    uint32_t       between = 0;
    if (o == anchor[u]) return false; /* no change: nothing to measure */
    if (is_structure) return (o > anchor[u] ? o - anchor[u] : anchor[u] - o) <= reach;
    for (uint32_t k = 0; k < unit->n_options; k++) between += k != o && k != anchor[u] && !bb_is_forbidden(bytes[k]) && bytes[k] > low && bytes[k] < high;
    return between < reach;
}

/* Fills `list` with the changes within reach that can be loaded beside the anchor, and at[k] with their place among all options. */
static size_t loadable(const bb_run *r, const uint16_t *anchor, uint32_t reach, uint16_t *x, bb_change *list, size_t *at)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    size_t            n = 0, i = 0;
    for (uint32_t u = 0; u < p->n_units; u++)
        for (uint32_t o = 0; o < p->units[u].n_options; o++, i++) {
            if (anchor) {
                memcpy(x, anchor, p->n_units * sizeof *x);
                x[u] = (uint16_t)o;
                if (bb_is_forbidden(bb_problem_bound(p, x))) continue;
                if (reach > 0 && !bb_option_is_near(p, anchor, !bb_model_space_is_format(r->space, u), u, o, reach)) continue;
            }
            list[n] = (bb_change) { u, o, 0, 0, NULL };
            at[n++] = i;
        }
    return n;
}

/* Spreads the measured changes (and their sketches) over all options: NaN and zeros where there is none. */
static bb_status spread(const bb_problem *p, bb_sensitivity *s, const size_t *at, size_t total, bb_err *err)
{
    bb_change *all = BB_NEW0(total, bb_change, err);
    float     *memory = BB_NEW0(total * s->dim, float, err);
    size_t     i = 0;
    if (!all || !memory) {
        bb_free(all);
        bb_free(memory);
        return BB_NOMEM;
    }
    for (uint32_t u = 0; u < p->n_units; u++)
        for (uint32_t o = 0; o < p->units[u].n_options; o++, i++) all[i] = (bb_change) { u, o, (double)NAN, (double)NAN, memory + i * s->dim };
    for (size_t k = 0; k < s->n; k++) {
        memcpy(all[at[k]].psi, s->changes[k].psi, s->dim * sizeof(float));
        all[at[k]].kl = s->changes[k].kl;
        all[at[k]].kl_se = s->changes[k].kl_se;
    }
    bb_free(s->changes);
    bb_free(s->memory);
    s->changes = all;
    s->memory = memory;
    s->n = total;
    return BB_OK;
}

/* A format alone that needs a cut was measured together with it (bb_plan_space_shape): what the cut does by itself is taken off again, so that costs and
 * sketches of formats and of structures add up. */
static void take_off_cuts(const bb_run *r, bb_sensitivity *s)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    const bb_net     *net = &r->model.net;
    size_t            i = 0;
    for (uint32_t u = 0; u < p->n_units; u++)
        for (uint32_t o = 0; o < p->units[u].n_options; o++, i++) {
            const bb_plan_unit *unit = &p->plans->units[u];
            size_t              of_cut = 0;
            if (unit->what >= BB_N_PARTS || unit->controller < 0) continue;
            const uint32_t widest = bb_part_widest(net, &net->blocks[unit->layer], (bb_part)unit->what, bb_format_get((bb_type)unit->options[o].value)->block);
            if (widest == bb_part_kept(&net->blocks[unit->layer], (bb_part)unit->what)) continue;
            const bb_plan_unit *c = &p->plans->units[unit->controller];
            for (uint32_t k = 0; k < (uint32_t)unit->controller; k++) of_cut += p->units[k].n_options;
            for (uint32_t k = 0; k < c->n_options && bb_width_count(c->options[k].value) != widest; k++) of_cut++;
            s->changes[i].kl = fmax(0, s->changes[i].kl - s->changes[of_cut].kl);
            for (size_t d = 0; d < s->dim; d++) s->changes[i].psi[d] -= s->changes[of_cut].psi[d];
        }
}

bb_sensitivity_options bb_run_sensitivity_options(const bb_run *r)
{
    return (bb_sensitivity_options) { .level = BB_LEVEL_SKETCH,
                                      .probes = (uint32_t)r->config.probes,
                                      .seed = (uint64_t)r->config.seed,
                                      .space = bb_model_space_problem(r->space)->plans,
                                      .store = r->store,
                                      .key = r->key,
                                      .crew = r->crew,
                                      .job = BB_JOB_CHANGE };
}

static bb_status measure(bb_run *r, const uint16_t *anchor, uint32_t reach, bb_sensitivity *out, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_change        *list = NULL;
    size_t           *at = NULL, n, total = 0;
    uint16_t         *x = BB_NEW(p->n_units, uint16_t, err);
    bb_status         status = BB_NOMEM;
    memset(out, 0, sizeof *out);
    for (uint32_t u = 0; u < p->n_units; u++) total += p->units[u].n_options;
    list = BB_NEW0(total, bb_change, err);
    at = BB_NEW(total, size_t, err);
    if (!x || !list || !at) goto done;
    BB_TRY(bb_run_calibrate(r, err));
    n = loadable(r, anchor, reach, x, list, at);
    bb_sensitivity_options o = bb_run_sensitivity_options(r);
    o.anchor = anchor;
    o.by_sketch = anchor ? 0 : r->config.exact_from;
    BB_TRY(bb_sensitivity_measure(r->evaluator, &r->model, r->database, &r->levels[BB_LEVEL_SKETCH], &o, list, n, out, err));
    list = NULL; /* now out's */
    if (n < total) BB_TRY(spread(p, out, at, total, err));
    if (!anchor) take_off_cuts(r, out);
done:
    if (status != BB_OK) bb_run_forget_measured(out);
    bb_free(list);
    bb_free(at);
    bb_free(x);
    return status;
}

bb_status bb_run_sensitivity(bb_run *r, const uint16_t *anchor, bb_sensitivity *out, bb_err *err) { return measure(r, anchor, 0, out, err); }

bb_status bb_run_score_near(bb_run *r, const uint16_t *anchor, const bb_proxy_shape *shape, uint32_t reach, bb_run_score *out, bb_err *err)
{
    static const bb_proxy_shape exact = { 1, 1 };
    const bb_proxy_shape        usual = BB_PROXY_DEFAULT; /* named: a compound literal would end with the statement that it stands in */
    bb_sensitivity              measured = { 0 };
    double                     *single = NULL;
    bb_status                   status;
    if (!shape) shape = anchor ? &usual : &exact;
    memset(out, 0, sizeof *out);
    BB_TRY(bb_run_units_init(r, &out->units, err));
    BB_TRY(measure(r, NULL, 0, &measured, err));
    status = BB_NOMEM;
    if (!(single = BB_NEW(measured.n, double, err))) goto done;
    for (size_t i = 0; i < measured.n; i++) single[i] = fmax(0, measured.changes[i].kl);
    if (anchor) { /* of those around full precision only the KLs are wanted from here on */
        bb_run_forget_measured(&measured);
        BB_TRY(measure(r, anchor, reach, &measured, err));
    }
    BB_TRY(bb_proxy_from_sensitivity(&out->units.units, anchor ? "anchored" : "signed", &measured, anchor, single, shape, &out->proxy, err));
done:
    if (status != BB_OK) bb_run_score_done(out);
    bb_run_forget_measured(&measured);
    bb_free(single);
    return status;
}

void bb_run_score_done(bb_run_score *s)
{
    if (s->proxy.units) bb_proxy_done(&s->proxy);
    bb_run_units_done(&s->units);
    memset(s, 0, sizeof *s);
}

double bb_run_score_tokens(const bb_run *r, uint32_t reach)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    const double      n_layer = r->model.net.n_layer;
    double            sum = 0;
    for (uint32_t u = 0; u < p->n_units; u++) {
        const uint32_t all = p->units[u].n_options, near = 2 * reach;
        const double   n = reach > 0 && near < all ? near : all;
        sum += n * (n_layer - (double)p->plans->units[u].layer) / n_layer;
    }
    return sum * (double)bb_net_evaluator_windows(r->evaluator, BB_LEVEL_MEASURE) * (double)r->config.ctx;
}
