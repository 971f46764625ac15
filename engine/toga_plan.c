/* SPDX-License-Identifier: GPL-3.0-or-later
 * toga_plan.c: see toga_plan.h. */
#include "engine/toga_plan.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/environment.h"
#include "engine/keys.h"
#include "eval/evaluate.h"
#include "model/compress/plan_units.h"
#include "model/tune/toga.h"

enum { STEPS = 2000, WINDOW = 128, PASSES = 4 /* forward and backward, and the whole network's forward for the KL */ };
static const double wide_bits = 3.5; /* a weight: from here on the pair of more bits */

/* Of the linears of plan x, and how many weights they have in the source. */
static bb_status linear_bytes(const bb_toga_plans *t, const uint16_t *x, double *bytes, double *weights, bb_err *err)
{
    const bb_net *source = &t->run->model.net;
    bb_net        net;
    bb_block     *blocks = BB_NEW(source->n_layer, bb_block, err);
    *bytes = *weights = 0;
    if (!blocks) return BB_NOMEM;
    bb_plan_space_shape(&t->run->model, t->p->plans, x, BB_NO_UNIT, 0, &net, blocks);
    for (uint32_t l = 0; l < net.n_layer; l++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &blocks[l].w[p];
            if (bb_block_has_part(&blocks[l], (bb_part)p)) *bytes += (double)w->rows * (double)bb_format_row_bytes(bb_format_get(w->type), w->cols);
            *weights += (double)source->blocks[l].w[p].rows * source->blocks[l].w[p].cols;
        }
    bb_free(blocks);
    return BB_OK;
}

/* The option of a unit whose number is nearest to `wanted`: the first of equals. */
static uint16_t nearest(const bb_plan_unit *u, double wanted)
{
    uint16_t best = 0;
    double   least = HUGE_VAL;
    for (uint32_t o = 0; o < u->n_options; o++) {
        const uint32_t value = u->options[o].value;
        const double   is = bb_unit_is_format(u->what) ? bb_format_bpw(bb_format_get((bb_type)value)) : value;
        if (fabs(is - wanted) < least) {
            least = fabs(is - wanted);
            best = (uint16_t)o;
        }
    }
    return best;
}

/* Does the space have narrower FFNs? */
static bool has_widths(const bb_toga_plans *t)
{
    bool any = false;
    for (uint32_t u = 0; u < t->p->n_units; u++) any |= t->p->plans->units[u].what == BB_UNIT_FFN && t->p->plans->units[u].n_options > 1;
    return any;
}

static double high_share(const bb_channels *c, uint32_t layer, bb_part p)
{
    const unsigned char *own = bb_channels_mask(c, layer, BB_N_PRUNING + (int)p), *cols = bb_channels_mask(c, layer, bb_mask_of_columns(p));
    const uint32_t       n = c->length[(size_t)layer * BB_N_CHANNEL_MASKS + BB_N_PRUNING + (size_t)p];
    double               kept = 0, high = 0;
    for (uint32_t i = 0; own && i < n; i++) {
        kept += !cols || cols[i];
        high += (!cols || cols[i]) && own[i];
    }
    return kept > 0 ? high / kept : 0;
}

static void round_plan(const bb_toga_plans *t, const bb_channels *c, const bb_toga_options *o, uint16_t *x)
{
    const double low = bb_format_bpw(bb_format_get(o->low)), high = bb_format_bpw(bb_format_get(o->high));
    for (uint32_t u = 0; u < t->p->n_units; u++) {
        const bb_plan_unit *unit = &t->p->plans->units[u];
        if (unit->what < BB_N_PARTS) x[u] = nearest(unit, low + (high - low) * high_share(c, unit->layer, (bb_part)unit->what));
        if (unit->what == BB_UNIT_FFN && c->length[(size_t)unit->layer * BB_N_CHANNEL_MASKS + BB_MASK_CHANNELS])
            x[u] = nearest(unit, bb_channels_count(c, unit->layer, BB_MASK_CHANNELS));
        if (unit->what == BB_UNIT_KV) x[u] = nearest(unit, UINT32_MAX);
    }
}

static bb_status learn(const bb_toga_plans *t, const bb_toga_options *o, uint16_t *x, bb_err *err)
{
    bb_run            *r = t->run;
    const bb_windows  *w = &r->calib;
    const bb_toga_text text = { w->tokens, (size_t)w->n * w->ctx, -1 }; /* BOS stands in the windows */
    bb_toga           *toga = NULL;
    bb_channels        c = { 0 };
    bb_status          status;
    BB_TRY(bb_toga_create(r->backend, &r->model.net, &text, o, &toga, err));
    BB_TRY(bb_toga_run(toga, NULL, NULL, err));
    BB_TRY(bb_channels_create(&r->model.net, o->pruning, true, &c, err));
    BB_TRY(bb_toga_freeze(toga, &c, err));
    round_plan(t, &c, o, x);
done:
    bb_channels_done(&c);
    bb_toga_destroy(toga);
    return status;
}

/* What was kept is an input like any other: run.db may be damaged. */
static bb_status take_plan(const bb_toga_plans *t, const void *stored, uint16_t *x, bb_err *err)
{
    memcpy(x, stored, t->p->n_units * sizeof *x);
    for (uint32_t u = 0; u < t->p->n_units; u++)
        if (x[u] >= t->p->units[u].n_options)
            return BB_FAIL(err, BB_BAD_FILE, "%s/run.db is damaged: learned masks became option %u of %s, which has %u", t->run->config.out, x[u],
                           t->p->plans->units[u].name, t->p->units[u].n_options);
    return BB_OK;
}

bb_status bb_toga_plan_learned(void *self, int64_t budget, double max_tokens, uint16_t *x, double *tokens, bb_err *err)
{
    const bb_toga_plans *t = self;
    bb_run              *r = t->run;
    const uint32_t       ctx = r->calib.ctx < WINDOW ? r->calib.ctx : WINDOW;
    const double         affordable = max_tokens > 0 ? floor(max_tokens / (PASSES * (double)ctx)) : STEPS;
    const uint32_t       steps = affordable < 1 ? 1 : affordable < STEPS ? (uint32_t)affordable : STEPS;
    const size_t         size = t->p->n_units * sizeof *x;
    double               bytes, weights;
    char                 space[65], hash[17], *key = NULL;
    void                *stored = NULL;
    size_t               n_stored = 0;
    bool                 found = false;
    bb_status            status;
    BB_TRY(linear_bytes(t, x, &bytes, &weights, err));
    bytes += (double)(budget - bb_problem_size(t->p, x)); /* what the linears may take beside the rest of x */
    const bool      wide = 8 * bytes / weights >= wide_bits;
    bb_toga_options o = { .pruning = has_widths(t) ? BB_PRUNE_CHANNELS : BB_PRUNE_NOTHING,
                          .mixed = true,
                          .low = wide ? BB_Q4_0 : BB_Q1_0,
                          .high = wide ? BB_Q8_0 : BB_Q4_0,
                          .budget = (uint64_t)fmax(bytes, 0),
                          .steps = steps,
                          .ctx = ctx,
                          .batch = 1,
                          .rate = 1e-3 * fmin(10, (double)STEPS / steps),
                          .decay = 0.05,
                          .lambda = 6,
                          .kl = true,
                          .seed = (uint64_t)r->config.seed };
    *tokens = (double)PASSES * steps * ctx;
    bb_key_space(r, space);
    bb_plan_space_hash(t->p->plans, x, hash);
    if (!(key = bb_asprintf(err, "%s|%.16s|%s|%lld|%u|%lld", r->key, space, hash, (long long)budget, steps, (long long)r->config.seed))) return BB_NOMEM;
    BB_TRY(bb_store_get(r->store, "toga", key, &stored, &n_stored, &found, err));
    if (found && n_stored == size) {
        BB_TRY(take_plan(t, stored, x, err));
        goto done;
    }
    if (r->config.ledger_only) {
        status = BB_FAIL(err, BB_NOT_FOUND, "--ledger-only: the masks for %lld bytes are not in run.db", (long long)budget);
        goto done;
    }
    bb_err why = BB_ERR_INIT;
    status = learn(t, &o, x, &why);
    if (status == BB_INFEASIBLE) { /* so few bytes that no masks keep to them: x stays */
        bb_debug("toga: %s", why.msg);
        status = BB_OK;
    } else if (status != BB_OK) {
        BB_FAIL(err, status, "%s", why.msg);
    }
    BB_TRY(status);
    BB_TRY(bb_store_put(r->store, "toga", key, x, size, err));
done:
    bb_free(key);
    bb_free(stored);
    return status;
}
