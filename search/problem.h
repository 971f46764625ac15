/* SPDX-License-Identifier: GPL-3.0-or-later
 * problem.h: what the search sees: units, options, bytes, separable costs, an evaluator. No tensors, and no names but for messages and the ledger.
 *
 * A candidate is x[n_units], the option index of each unit. A unit may have a controller: the unit whose option sets its shape (blk.3.ffn
 * controls blk.3.ffn_down); its bytes and costs are then tables [controller option][own option]. Controllers have no controller.
 * Size of a candidate: at most fixed_bytes + sum of bytes (the upper bound that exact methods use); `size` gives the exact number.
 */
#ifndef BB_SEARCH_PROBLEM_H
#define BB_SEARCH_PROBLEM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/plan_space.h"
#include "base/status.h"

/* In bytes tables, and as a size: the runtime cannot load this combination. Larger than every budget, so that what forgets to ask still refuses
 * it, and small enough that a few of them can be added. */
#define BB_FORBIDDEN (INT64_MAX / 4)

static inline bool    bb_is_forbidden(int64_t bytes) { return bytes >= BB_FORBIDDEN; }
static inline int64_t bb_bytes_add(int64_t a, int64_t b) { return bb_is_forbidden(a) || bb_is_forbidden(b) ? BB_FORBIDDEN : a + b; }

typedef struct bb_unit {
    uint32_t       n_options;
    int32_t        controller; /* unit index or -1 */
    const int64_t *bytes;      /* [n_controller_options (1 without controller)][n_options] or BB_FORBIDDEN */
    const double  *cost;       /* same shape: separable score (nats), >= 0 */
} bb_unit;

typedef struct bb_score {
    double kl, kl_se;         /* the objective, nats a token, smaller is better */
    double ppl, ppl_se, top1; /* NaN when not computed at this level */
    double tokens;            /* cost of the evaluation in forwarded tokens */
    double plain, plain_se;   /* the KL as the evaluator said it, where a ledger weighs the objective (ledger.h); the ledger fills these in */
} bb_score;

/* Fidelity levels 0 .. n_levels-1, each dearer and truer. Same x and level: same score, bit for bit. */
typedef struct bb_evaluator {
    void           *self;
    uint32_t        n_levels;
    const uint32_t *n_windows; /* [n_levels] paired windows a level */
    /* Scores n candidates; window_kl[i] (may be NULL) receives n_windows[level] per-window means for paired tests. */
    bb_status (*evaluate)(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err);
    const char *key; /* identity of model, data, settings: part of the ledger key */
} bb_evaluator;

typedef struct bb_problem bb_problem;
struct bb_problem {
    uint32_t             n_units;
    const bb_unit       *units;
    const bb_plan_space *plans;       /* the same units by name: what a candidate is in text and hash */
    int64_t              fixed_bytes; /* header, norms: everything no unit decides */
    /* Exact bytes of the written file, BB_FORBIDDEN for a combination that no table forbids and that still cannot be loaded. NULL: the upper
     * bound is exact. Searches ask from several threads at once: it must read x and constants only. */
    int64_t (*size)(void *self, const uint16_t *x);
    void *size_self;
    /* Where `size` forbids combinations of loadable cells: changes x, by the tables of p, into one near it that can be loaded and whose bound is
     * not larger; false: there is none. NULL: nothing can be done. With every controller at its widest there should be nothing to do. */
    bool (*settle)(void *self, const bb_problem *p, uint16_t *x);
    void *settle_self;
    bool (*allowed)(void *self, const uint16_t *x); /* one more condition (a speed bound): plans it refuses are never scored; NULL: none */
    void *allowed_self;
};

/* Where the row of unit u's tables begins that x's choice for its controller selects: its option o is cell bb_problem_row + o. */
static inline size_t bb_problem_row(const bb_problem *p, const uint16_t *x, uint32_t u)
{
    const int32_t c = p->units[u].controller;
    return (c < 0 ? 0 : (size_t)x[c]) * p->units[u].n_options;
}

size_t    bb_problem_rows(const bb_problem *p, uint32_t unit);       /* rows of its tables: the controller's options, or 1 */
int64_t   bb_problem_bound(const bb_problem *p, const uint16_t *x);  /* fixed_bytes + sum; BB_FORBIDDEN when a cell is */
int64_t   bb_problem_size(const bb_problem *p, const uint16_t *x);   /* exact; BB_FORBIDDEN: not loadable */
double    bb_problem_cost(const bb_problem *p, const uint16_t *x);   /* separable score */
bool      bb_problem_allows(const bb_problem *p, const uint16_t *x); /* `allowed` says so, or there is none */
bb_status bb_problem_check(const bb_problem *p, bb_err *err);        /* BB_USAGE names the unit and what is wrong with it */

#endif
