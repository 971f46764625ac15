/* SPDX-License-Identifier: GPL-3.0-or-later
 * plan_space.c: see plan_space.h. */
#include "base/plan_space.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/text.h"

static bb_status check_unit(const bb_plan_unit *units, uint32_t n_units, uint32_t u, bb_err *err)
{
    const bb_plan_unit *unit = &units[u];
    if (!unit->name) return BB_FAIL(err, BB_USAGE, "unit %u has no name", u);
    if (!bb_plan_is_name(unit->name))
        return BB_FAIL(err, BB_USAGE, "unit %u is called '%.60s': names are printable ASCII without spaces and '='", u, unit->name);
    if (unit->n_options == 0 || unit->n_options > UINT16_MAX)
        return BB_FAIL(err, BB_USAGE, "unit %s has %u options, should be 1 to %d", unit->name, unit->n_options, UINT16_MAX);
    if (!unit->options) return BB_FAIL(err, BB_USAGE, "unit %s lacks its options", unit->name);
    for (uint32_t o = 0; o < unit->n_options; o++)
        if (!unit->options[o].name || !bb_plan_is_name(unit->options[o].name)) return BB_FAIL(err, BB_USAGE, "unit %s, option %u has no name", unit->name, o);
    if (unit->controller < 0) return BB_OK;
    const uint32_t c = (uint32_t)unit->controller;
    if (c >= n_units || c == u) return BB_FAIL(err, BB_USAGE, "unit %s has unit %u of %u as controller", unit->name, c, n_units);
    if (units[c].controller >= 0) return BB_FAIL(err, BB_USAGE, "the controller of unit %s has a controller itself", unit->name);
    return BB_OK;
}

/* Place of the first unit in order[0 .. n-1] whose name is not before `name`. */
static uint32_t position(const bb_plan_space *s, uint32_t n, const char *name)
{
    uint32_t low = 0, high = n;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (strcmp(s->units[s->order[middle]].name, name) < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

bb_status bb_plan_space_init(bb_plan_space *s, const bb_plan_unit *units, uint32_t n_units, bb_err *err)
{
    bb_status status = BB_OK;
    *s = (bb_plan_space) { .n_units = n_units, .units = units };
    if (n_units == 0 || !units) return BB_FAIL(err, BB_USAGE, "the space of plans has no units");
    for (uint32_t u = 0; u < n_units; u++) BB_TRY(check_unit(units, n_units, u, err));
    status = BB_NOMEM;
    if (!(s->order = BB_NEW(n_units, uint32_t, err))) goto done;
    status = BB_OK;
    for (uint32_t u = 0; u < n_units; u++) {
        const uint32_t at = position(s, u, units[u].name);
        if (at < u && strcmp(units[s->order[at]].name, units[u].name) == 0) {
            status = BB_FAIL(err, BB_USAGE, "two units are called %s", units[u].name);
            goto done;
        }
        memmove(s->order + at + 1, s->order + at, (u - at) * sizeof *s->order);
        s->order[at] = u;
    }
done:
    if (status != BB_OK) bb_plan_space_done(s);
    return status;
}

void bb_plan_space_done(bb_plan_space *s)
{
    bb_free(s->order);
    *s = (bb_plan_space) { 0 };
}

void bb_plan_space_hash(const bb_plan_space *s, const uint16_t *x, char hash[17])
{
    bb_sha256 sha;
    bb_sha256_init(&sha);
    for (uint32_t k = 0; k < s->n_units; k++) {
        const bb_plan_unit *unit = &s->units[s->order[k]];
        bb_plan_hash_gene(&sha, unit->name, unit->options[x[s->order[k]]].name);
    }
    bb_plan_hash_end(&sha, hash);
}

bb_status bb_plan_space_print(const bb_plan_space *s, const uint16_t *x, char **text, bb_err *err)
{
    bb_text t = { 0 };
    bb_text_add(&t, "");
    *text = NULL;
    for (uint32_t k = 0; k < s->n_units; k++) {
        const bb_plan_unit *unit = &s->units[s->order[k]];
        bb_text_addf(&t, "%s=%s\n", unit->name, unit->options[x[s->order[k]]].name);
    }
    if (t.status != BB_OK) {
        bb_text_done(&t);
        return BB_FAIL(err, BB_NOMEM, "out of memory while a plan was printed");
    }
    *text = t.data;
    return BB_OK;
}

bb_status bb_plan_space_plan(const bb_plan_space *s, const uint16_t *x, bb_plan *out, bb_err *err)
{
    bb_plan   plan = { 0, NULL };
    bb_status status = BB_OK;
    for (uint32_t k = 0; k < s->n_units; k++) { /* in the order of the text: each gene is put at the end */
        const bb_plan_unit *unit = &s->units[s->order[k]];
        BB_TRY(bb_plan_set(&plan, unit->name, unit->options[x[s->order[k]]].name, err));
    }
    *out = plan;
    plan = (bb_plan) { 0, NULL };
done:
    bb_plan_done(&plan);
    return status;
}

bb_status bb_plan_space_indices(const bb_plan_space *s, const bb_plan *plan, uint16_t *x, bb_err *err)
{
    for (uint32_t u = 0; u < s->n_units; u++) {
        const bb_plan_unit *unit = &s->units[u];
        const char         *option = bb_plan_get(plan, unit->name);
        uint32_t            o = 0;
        if (!option) return BB_FAIL(err, BB_NOT_FOUND, "the plan has no gene for unit %s", unit->name);
        while (o < unit->n_options && strcmp(unit->options[o].name, option) != 0) o++;
        if (o == unit->n_options)
            return BB_FAIL(err, BB_NOT_FOUND, "unit %s has no option %s (it has %u, the first is %s)", unit->name, option, unit->n_options,
                           unit->options[0].name);
        x[u] = (uint16_t)o;
    }
    for (size_t i = 0; i < plan->n; i++) {
        const uint32_t at = position(s, s->n_units, plan->genes[i].unit);
        if (at == s->n_units || strcmp(s->units[s->order[at]].name, plan->genes[i].unit) != 0)
            return BB_FAIL(err, BB_NOT_FOUND, "the plan names unit %s, which this problem does not have", plan->genes[i].unit);
    }
    return BB_OK;
}
