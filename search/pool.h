/* SPDX-License-Identifier: GPL-3.0-or-later
 * pool.h: the plans that a search has evaluated, with their scores at every level; shared by all budgets.
 *
 * A plan found for one budget serves every budget at least its size. Distinct candidates only. Scores come from the ledger.
 */
#ifndef BB_SEARCH_POOL_H
#define BB_SEARCH_POOL_H

#include "search/ledger.h"
#include "search/space.h"

#define BB_POOL_LEVELS 8

typedef struct bb_pool_item {
    uint16_t *x;
    int64_t   size_bytes;
    double    kl[BB_POOL_LEVELS]; /* NaN where not evaluated */
    char      source[24];         /* who proposed it first */
    bool      allowed;            /* bb_problem_allows: the others stay without scores, so nothing chooses them */
} bb_pool_item;

typedef struct bb_pool {
    const bb_space *space;  /* borrowed */
    bb_ledger      *ledger; /* borrowed */
    size_t          n, capacity;
    bb_pool_item   *items; /* in order of proposal */
} bb_pool;

bb_status bb_pool_init(const bb_space *space, bb_ledger *ledger, bb_pool *pool, bb_err *err); /* BB_UNSUPPORTED above BB_POOL_LEVELS */
void      bb_pool_done(bb_pool *pool);
/* Adds x unless it is there; at (may be NULL): its index; is_new (may be NULL). */
bb_status bb_pool_add(bb_pool *pool, const uint16_t *x, const char *source, size_t *at, bool *is_new, bb_err *err);
/* Scores the items at[0..n-1] at a level (those that lack it and are allowed), in one batch. */
bb_status bb_pool_evaluate(bb_pool *pool, const size_t *at, size_t n, uint32_t level, bb_err *err);
/* The item of lowest KL at a level within a size; SIZE_MAX when none. Ties go to fewer bytes, then to the earlier proposal. */
size_t bb_pool_best(const bb_pool *pool, int64_t budget, uint32_t level);
/* Writes up to max items, best first, that have `level`, fit the budget and (unless lacking == UINT32_MAX) lack a score at `lacking`;
 * returns their number. */
size_t bb_pool_ranking(const bb_pool *pool, int64_t budget, uint32_t level, uint32_t lacking, size_t max, size_t *at);
/* Paired difference kl(a) - kl(b) over the windows of a level, and its standard error (0 with one window). Both must have the level. */
bb_status bb_pool_difference(const bb_pool *pool, size_t a, size_t b, uint32_t level, double *mean, double *se, bb_err *err);

#endif
