/* SPDX-License-Identifier: GPL-3.0-or-later
 * refine.h: from the separable front to plans of low true KL, for many budgets at once and few evaluations.
 *
 * Method, one run for all budgets:
 *   seeds    separable solutions of the table and of tilted tables (powers, controllers dearer or cheaper, controllers pinned, random factors)
 *            the quadratic optimum where a Gram matrix is given, and the caller's plans, all at level 0;
 *   anchors  where the caller can measure a local score: around the incumbents of a few budgets. Each budget solves the nearest one's quadratic (or
 *            separable) problem, from its own incumbent, with several prices on every changed unit: the farther a plan is from where it was
 *            measured, the less the score is to be trusted. All go to level 0 and on as any proposal;
 *   rounds   a surrogate (surrogate.h) is fitted to everything evaluated near each budget. It proposes the optimum of its mean, optima of
 *            posterior samples, byte-trading pair moves from the incumbent (chosen by sampled tables, bits of one unit against bits, channels or
 *            KV groups of another), and the incumbents of neighbouring budgets, repaired or topped up. Level 0 scores them on the incumbent's own
 *            windows; those that a paired test finds worse are dropped (racing), the best go to level 1, where the incumbent may change;
 *   final    successive halving of the best plans of each budget through the remaining levels, with the plain separable plan beside them; what beats it
 *            by no more than a standard error of the paired difference at the top level is left out.
 * Every plan serves all budgets from its size up. Sizes are exact, and every proposal is topped up so that its slack is smaller than the
 * cheapest upgrade. The idea of paired screening on few tokens is EvoPress's [1], the surrogate loop is AMQ's [2]; differences: the moves come
 * from a posterior around an exact solver, and budgets share evaluations.
 *
 * Deterministic: same inputs, seed and scores give the same archive. All scores pass through the ledger, so a run that was killed goes on by
 * starting again with the same store.
 *
 * [1] Sieberling et al. EvoPress. arXiv 2410.14649.  [2] Lee et al. AMQ. arXiv 2509.12019.
 */
#ifndef BB_SEARCH_REFINE_H
#define BB_SEARCH_REFINE_H

#include "search/archive.h"
#include "search/ledger.h"
#include "search/quadratic.h"
#include "search/separable.h"

typedef struct bb_refine_step {
    const char *stage;          /* "seeds", "round", "final" */
    uint32_t    round;          /* 0 for seeds */
    size_t      budget_index;   /* into options->budgets */
    int64_t     size_bytes;     /* of the incumbent */
    double      kl;             /* of the incumbent at this level, nats */
    uint32_t    level;
    const char *source;         /* who proposed it */
    double      tokens;         /* asked for so far */
} bb_refine_step;

/* What every option does around one plan: changes of KL, and inner products between changes where they are known. */
typedef struct bb_local_score {
    const double *const *linear;   /* [n_units] tables shaped as bb_unit.cost: nats, any sign; borrowed until the next call */
    const float         *gram;     /* [M * M] with a zero diagonal block for each unit, or NULL; borrowed likewise */
    double               tokens;   /* what measuring it has cost, whenever that was */
} bb_local_score;

typedef struct bb_refine_options {
    uint64_t seed;
    const int64_t *budgets;        /* bytes, any order */
    size_t   n_budgets;
    double   max_tokens;           /* forwarded tokens for the whole run, the final included (which is done in any case); 0: no limit */
    uint32_t max_rounds;           /* 0: 24 */
    uint32_t candidates;           /* a budget and round; 0: 48 / n_budgets, within 4 .. 16 */
    uint32_t patience;             /* rounds without any change before it ends; 0: 3 */
    uint32_t finalists;            /* a budget at the top level, besides the separable plan; 0: 3 for one budget, 2 below four, 1 */
    const uint16_t *const *extra;  /* more plans to consider (uniform, quadratic solutions, ...), or NULL */
    size_t   n_extra;
    const bb_quadratic *quadratic; /* interactions of all options: its best plan of every budget is one more seed; NULL: none */
    bb_status (*anchor)(void *self, const uint16_t *x, bb_local_score *out, bb_err *err); /* a local score around plan x; NULL: none */
    void    *anchor_self;
    double   anchor_tokens;        /* about what one costs */
    void   (*progress)(void *self, const bb_refine_step *step); /* convergence: after each stage and round, every budget; may be NULL */
    void    *progress_self;
} bb_refine_options;

typedef enum bb_refine_stop { BB_REFINE_ROUNDS, BB_REFINE_TOKENS, BB_REFINE_STALL } bb_refine_stop;

/* s: the separable solver of p. Fills out (initialised with p->n_units) with the plans scored at the evaluator's top level (see
 * final above), so bb_archive_best(out, budget) is the winner of a budget. why (may be NULL): what ended the rounds. BB_INFEASIBLE when a budget is below the
 * smallest plan; BB_INTERRUPTED with everything in the ledger. */
bb_status bb_refine(const bb_problem *p, const bb_separable *s, bb_ledger *ledger, const bb_refine_options *options, bb_archive *out,
                    bb_refine_stop *why, bb_err *err);

#endif
