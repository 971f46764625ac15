/* SPDX-License-Identifier: GPL-3.0-or-later
 * pool.c: linear scans over at most some ten thousand plans; each of them cost a forward pass. */
#include "search/pool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "search/paired.h"

bb_status bb_pool_init(const bb_space *space, bb_ledger *ledger, bb_pool *pool, bb_err *err)
{
    *pool = (bb_pool) { .space = space, .ledger = ledger };
    const uint32_t n = bb_ledger_evaluator(ledger)->n_levels;
    if (n == 0 || n > BB_POOL_LEVELS) return BB_FAIL(err, BB_UNSUPPORTED, "the evaluator has %u fidelity levels, should be 1 to %d", n, BB_POOL_LEVELS);
    return BB_OK;
}

void bb_pool_done(bb_pool *pool)
{
    for (size_t i = 0; i < pool->n; i++) bb_free(pool->items[i].x);
    bb_free(pool->items);
    *pool = (bb_pool) { 0 };
}

static size_t find(const bb_pool *pool, const uint16_t *x, int64_t size_bytes)
{
    const size_t bytes = pool->space->problem->n_units * sizeof *x;
    for (size_t i = 0; i < pool->n; i++)
        if (pool->items[i].size_bytes == size_bytes && memcmp(pool->items[i].x, x, bytes) == 0) return i;
    return SIZE_MAX;
}

bb_status bb_pool_add(bb_pool *pool, const uint16_t *x, const char *source, size_t *at, bool *is_new, bb_err *err)
{
    const bb_problem *p = pool->space->problem;
    bb_pool_item      item = { .size_bytes = bb_problem_size(p, x), .allowed = bb_problem_allows(p, x) };
    item.allowed = item.allowed && !bb_is_forbidden(item.size_bytes);
    const size_t known = find(pool, x, item.size_bytes);
    if (is_new) *is_new = known == SIZE_MAX;
    if (at) *at = known == SIZE_MAX ? pool->n : known;
    if (known != SIZE_MAX) return BB_OK;
    if (pool->n == pool->capacity) {
        const size_t  capacity = pool->capacity ? 2 * pool->capacity : 128;
        bb_pool_item *grown = bb_realloc(pool->items, capacity, sizeof *grown, err);
        if (!grown) return BB_NOMEM;
        pool->items = grown;
        pool->capacity = capacity;
    }
    item.x = BB_NEW(p->n_units, uint16_t, err);
    if (!item.x) return BB_NOMEM;
    memcpy(item.x, x, p->n_units * sizeof *x);
    for (int l = 0; l < BB_POOL_LEVELS; l++) item.kl[l] = (double)NAN;
    memcpy(item.source, source, strnlen(source, sizeof item.source - 1));
    pool->items[pool->n++] = item;
    return BB_OK;
}

bb_status bb_pool_evaluate(bb_pool *pool, const size_t *at, size_t n, uint32_t level, bb_err *err)
{
    bb_status        status = BB_NOMEM;
    const uint16_t **x = BB_NEW(n, const uint16_t *, err);
    bb_score        *scores = BB_NEW(n, bb_score, err);
    size_t           m = 0;
    if (!x || !scores) goto done;
    for (size_t i = 0; i < n; i++)
        if (pool->items[at[i]].allowed) x[m++] = pool->items[at[i]].x;
    BB_TRY(bb_ledger_evaluate(pool->ledger, x, m, level, scores, NULL, err));
    m = 0;
    for (size_t i = 0; i < n; i++)
        if (pool->items[at[i]].allowed) pool->items[at[i]].kl[level] = scores[m++].kl;
done:
    bb_free(x);
    bb_free(scores);
    return status;
}

static bool precedes(const bb_pool *pool, size_t a, size_t b, uint32_t level)
{
    const bb_pool_item *p = &pool->items[a], *q = &pool->items[b];
    if (p->kl[level] != q->kl[level]) return p->kl[level] < q->kl[level];
    if (p->size_bytes != q->size_bytes) return p->size_bytes < q->size_bytes;
    return a < b;
}

size_t bb_pool_best(const bb_pool *pool, int64_t budget, uint32_t level)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < pool->n; i++) {
        if (pool->items[i].size_bytes > budget || isnan(pool->items[i].kl[level])) continue;
        if (best == SIZE_MAX || precedes(pool, i, best, level)) best = i;
    }
    return best;
}

size_t bb_pool_ranking(const bb_pool *pool, int64_t budget, uint32_t level, uint32_t lacking, size_t max, size_t *at)
{
    size_t n = 0;
    for (size_t i = 0; i < pool->n && max > 0; i++) {
        const bb_pool_item *item = &pool->items[i];
        if (item->size_bytes > budget || isnan(item->kl[level])) continue;
        if (lacking != UINT32_MAX && !isnan(item->kl[lacking])) continue;
        if (n == max && !precedes(pool, i, at[max - 1], level)) continue;
        size_t k = n < max ? n++ : max - 1; /* insertion into the short sorted list */
        for (; k > 0 && precedes(pool, i, at[k - 1], level); k--) at[k] = at[k - 1];
        at[k] = i;
    }
    return n;
}

bb_status bb_pool_difference(const bb_pool *pool, size_t a, size_t b, uint32_t level, double *mean, double *se, bb_err *err)
{
    bb_status       status = BB_OK;
    bb_ledger_entry p, q;
    bool            has_a, has_b;
    BB_TRY(bb_ledger_find(pool->ledger, pool->items[a].x, level, &p, &has_a, err));
    BB_TRY(bb_ledger_find(pool->ledger, pool->items[b].x, level, &q, &has_b, err));
    if (!has_a || !has_b) return BB_FAIL(err, BB_NOT_FOUND, "a paired test at level %u needs both plans scored there", level);
    bb_paired_difference(p.window_kl, q.window_kl, p.n_windows, mean, se);
done:
    return status;
}
