/* SPDX-License-Identifier: GPL-3.0-or-later
 * crossover.c: one pass over the ledger's top level, then paired differences. */
#include "search/crossover.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "search/paired.h"
#include "search/space.h"

typedef struct best {
    double    kl;
    char      hash[17];
    uint16_t *x;
} best; /* x NULL: none yet */

typedef struct collector {
    const bb_space   *space;
    uint32_t          top;
    bb_crossover_row *rows;
    size_t            n;
    best             *plans; /* [2 * n] plain, pruned */
} collector;

static bool is_pruned(const bb_space *s, const uint16_t *x)
{
    for (uint32_t u = 0; u < s->problem->n_units; u++)
        if (bb_space_is_controller(s, u) && x[u] != bb_space_widest(s, u)) return true;
    return false;
}

static bb_status collect(void *self, const bb_ledger_entry *e, bb_err *err)
{
    collector        *c = self;
    const bb_problem *p = c->space->problem;
    if (!e->asked || e->level != c->top || isnan(e->score.kl)) return BB_OK;
    const int64_t size = bb_problem_size(p, e->x);
    const size_t  kind = is_pruned(c->space, e->x);
    for (size_t i = 0; i < c->n; i++) {
        best *b = &c->plans[2 * i + kind];
        if (size > c->rows[i].budget_bytes || (b->x && b->kl <= e->score.kl)) continue; /* entries come in hash order: ties are stable */
        if (!b->x && !(b->x = BB_NEW(p->n_units, uint16_t, err))) return BB_NOMEM;
        memcpy(b->x, e->x, p->n_units * sizeof *b->x);
        memcpy(b->hash, e->hash, sizeof b->hash);
        b->kl = e->score.kl;
    }
    return BB_OK;
}

static bb_status compare(const collector *c, bb_ledger *ledger, size_t i, bb_err *err)
{
    bb_status         status = BB_OK;
    bb_crossover_row *r = &c->rows[i];
    const best       *plain = &c->plans[2 * i], *pruned = plain + 1;
    bb_ledger_entry   a, b;
    bool              found;
    r->kl_plain = plain->x ? plain->kl : (double)NAN;
    r->kl_pruned = pruned->x ? pruned->kl : (double)NAN;
    r->difference = r->se = (double)NAN;
    memcpy(r->hash_plain, plain->hash, sizeof r->hash_plain);
    memcpy(r->hash_pruned, pruned->hash, sizeof r->hash_pruned);
    if (!plain->x || !pruned->x) return BB_OK;
    BB_TRY(bb_ledger_find(ledger, pruned->x, c->top, &a, &found, err));
    BB_TRY(bb_ledger_find(ledger, plain->x, c->top, &b, &found, err));
    bb_paired_difference(a.window_kl, b.window_kl, a.n_windows, &r->difference, &r->se);
done:
    return status;
}

static bb_crossover summarise(const bb_crossover_row *rows, size_t n, double z)
{
    bb_crossover c = { -1, -1, -1 };
    for (size_t i = 0; i < n; i++) {
        /* where only one kind fits, there is nothing to compare: the smallest files are reached by pruning alone */
        const bool alone = !isnan(rows[i].kl_pruned) && isnan(rows[i].kl_plain);
        if (alone || rows[i].difference < 0) c.bytes = rows[i].budget_bytes;
        if (alone || rows[i].difference < -z * rows[i].se) c.low = rows[i].budget_bytes;
    }
    for (size_t i = n; i-- > 0 && rows[i].budget_bytes > c.low;)
        if (rows[i].difference > z * rows[i].se) c.high = rows[i].budget_bytes;
    return c;
}

bb_status bb_crossover_find(const bb_problem *p, bb_ledger *ledger, double z, bb_crossover_row *rows, size_t n, bb_crossover *out, bb_err *err)
{
    bb_status status = BB_OK;
    bb_space  space = { 0 };
    collector c = { .space = &space, .top = bb_ledger_evaluator(ledger)->n_levels - 1, .rows = rows, .n = n };
    BB_TRY(bb_space_init(p, &space, err));
    c.plans = BB_NEW0(2 * n, best, err);
    if (!c.plans) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_ledger_each(ledger, collect, &c, err));
    for (size_t i = 0; i < n; i++) BB_TRY(compare(&c, ledger, i, err));
    *out = summarise(rows, n, z);
done:
    for (size_t i = 0; c.plans && i < 2 * n; i++) bb_free(c.plans[i].x);
    bb_free(c.plans);
    bb_space_done(&space);
    return status;
}
