/* SPDX-License-Identifier: GPL-3.0-or-later
 * method.c: see method.h. */
#include "search/method.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define ROW(name) &bb_method_##name,
static const bb_search_method *const methods[] = { BB_METHOD_LIST(ROW, ROW) };
#undef ROW
#define N_METHODS (sizeof methods / sizeof *methods)

const bb_search_method *bb_method_at(size_t i) { return i < N_METHODS ? methods[i] : NULL; }

const bb_search_method *bb_method_named(const char *name)
{
    for (size_t i = 0; i < N_METHODS; i++)
        if (strcmp(methods[i]->name, name) == 0) return methods[i];
    return NULL;
}

/* ---- the stop rule ---- */

double   bb_search_spent(const bb_search *s) { return bb_ledger_tokens(s->ledger) + s->other_tokens; }
uint32_t bb_search_top(const bb_search *s) { return bb_ledger_evaluator(s->ledger)->n_levels - 1; }

bool bb_search_is_over(const bb_search *s, bb_stop_reason *why)
{
    if (s->stop.max_evaluations && bb_ledger_asked(s->ledger) >= s->stop.max_evaluations) *why = BB_STOP_EVALUATIONS;
    else if (s->stop.max_tokens > 0 && bb_search_spent(s) >= s->stop.max_tokens) *why = BB_STOP_TOKENS;
    else return false;
    return true;
}

bool bb_search_has_room(const bb_search *s, double planned, double reserve, double share)
{
    if (s->stop.max_evaluations && bb_ledger_asked(s->ledger) >= s->stop.max_evaluations) return false;
    return !(s->stop.max_tokens > 0) || bb_search_spent(s) + planned <= share * (s->stop.max_tokens - reserve);
}

/* ---- answers ---- */

bb_status bb_search_keep(const bb_search *s, const uint16_t *x, const char *source, bb_err *err)
{
    bb_ledger_entry scored;
    bool            found = false;
    bb_status       status = bb_ledger_find(s->ledger, x, bb_search_top(s), &scored, &found, err);
    if (status != BB_OK || !found) return status;
    uint16_t        *copy = BB_NEW(s->problem->n_units, uint16_t, err);
    bb_archive_entry e = { .x = copy, .size_bytes = bb_problem_size(s->problem, x), .score = scored.score };
    if (!copy) return BB_NOMEM;
    memcpy(copy, x, s->problem->n_units * sizeof *copy);
    e.proxy = bb_problem_cost(s->problem, x);
    e.proxy_bound = s->separable ? bb_separable_bound(s->separable, bb_problem_bound(s->problem, x)) : (double)NAN;
    memcpy(e.hash, scored.hash, sizeof e.hash);
    snprintf(e.source, sizeof e.source, "%s", source);
    status = bb_archive_insert(s->archive, &e, NULL, err);
    bb_free(copy);
    return status;
}
