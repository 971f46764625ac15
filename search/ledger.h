/* SPDX-License-Identifier: GPL-3.0-or-later
 * ledger.h: every evaluation ever made, in memory and in a store: nothing is evaluated twice, and a killed search that starts again asks
 * the same questions and finds the answers here.
 *
 * Store: table "scores", key "<16 hex of the evaluator's key>/<plan hash>/<level>", value the score and the window means; table "plans", key
 * plan hash, value the plan's text. A value that cannot be read is BB_BAD_FILE, never a wrong number.
 *
 * Tokens are counted when a (plan, level) is asked for the first time in this session, whether the answer was stored or not, so that a budget
 * of tokens ends a replayed search at the same place. One thread uses a ledger; the evaluator may be parallel inside.
 *
 * A ledger may weigh what its evaluator says by a factor of each candidate: the objective, its error and the windows are those times the factor, in every
 * answer; `plain` and the store keep what was said.
 */
#ifndef BB_SEARCH_LEDGER_H
#define BB_SEARCH_LEDGER_H

#include "base/store.h"
#include "search/problem.h"

typedef struct bb_ledger bb_ledger;

typedef struct bb_ledger_options {
    bool     only;                                   /* --ledger-only: a missing score is BB_NOT_FOUND; the evaluator is never called */
    uint32_t chunk;                                  /* candidates a call of the evaluator, each chunk durable when done; default 32 */
    double (*weight)(void *self, const uint16_t *x); /* > 0; NULL: 1 */
    void *weight_self;
} bb_ledger_options;

typedef struct bb_ledger_entry {
    const uint16_t *x;
    char            hash[17];
    uint32_t        level;
    bb_score        score;
    const double   *window_kl; /* [n_windows], borrowed */
    uint32_t        n_windows;
    bool            asked; /* in this session: what a search goes by must not depend on what else the store holds */
} bb_ledger_entry;

/* Borrows p, e and store (NULL: memory only) until close. options NULL: defaults. */
bb_status bb_ledger_open(const bb_problem *p, const bb_evaluator *e, bb_store *store, const bb_ledger_options *options, bb_ledger **out, bb_err *err);
void      bb_ledger_close(bb_ledger *l);

/* Scores n candidates at a level, evaluating only what is missing, each distinct candidate once. window_kl as in bb_evaluator. What was
 * finished before a failure or an interruption stays in the ledger. */
bb_status bb_ledger_evaluate(bb_ledger *l, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err);
/* *found false and BB_OK when absent; nothing is evaluated or counted. e borrows until the next call that evaluates. */
bb_status bb_ledger_find(bb_ledger *l, const uint16_t *x, uint32_t level, bb_ledger_entry *e, bool *found, bb_err *err);

/* Every entry known for this evaluator and problem, stored ones included, ascending in (plan hash, level). */
typedef bb_status (*bb_ledger_visit)(void *self, const bb_ledger_entry *e, bb_err *err);
bb_status bb_ledger_each(bb_ledger *l, bb_ledger_visit visit, void *self, bb_err *err);

double              bb_ledger_tokens(const bb_ledger *l);     /* asked for in this session */
double              bb_ledger_tokens_new(const bb_ledger *l); /* of these, really forwarded now */
uint64_t            bb_ledger_asked(const bb_ledger *l);      /* distinct (plan, level) asked for in this session */
const bb_evaluator *bb_ledger_evaluator(const bb_ledger *l);

#endif
