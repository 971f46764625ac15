/* SPDX-License-Identifier: GPL-3.0-or-later
 * separable.h: the exact Pareto front of the separable score, sum of costs against sum of bytes, for every budget from one preprocessing.
 *
 * Interface, in calling order: bb_separable_create, then bb_separable_solve for each budget, bb_separable_reach.
 *
 * Method. A controller and its dependents form a group; for each option of the controller the (bytes, cost) lists of the dependents are
 * added (Minkowski sum, dominated points dropped), and the lists of all options are merged: the group's exact front. What remains is a
 * multiple-choice knapsack [1]. Its LP relaxation is the merge of the groups' lower convex hulls [2]; it gives the Lagrange multiplier and
 * a lower bound. The gap is closed by dynamic programming over non-dominated (bytes, cost) states, group by group, where states and
 * options whose Lagrangian bound reaches the incumbent are dropped (a core method). If more than max_states survive, the best by bound are
 * kept and the bound of what was dropped enters lower_bound, so that the stated gap is proven in any case.
 * Where problem.size forbids combinations that the tables allow, the optimum of the tables is settled (problem.settle) and held against the optimum
 * with every controller at its widest, which needs no settling; the bound stays that of the tables.
 *
 * [1] Kellerer, Pferschy, Pisinger. Knapsack Problems. Springer 2004. Ch. 11.
 * [2] Sinha, Zoltners. The multiple-choice knapsack problem. Operations Research 27(3), 1979.
 */
#ifndef BB_SEARCH_SEPARABLE_H
#define BB_SEARCH_SEPARABLE_H

#include "search/problem.h"

typedef struct bb_separable bb_separable;

typedef struct bb_separable_result {
    double  cost, lower_bound; /* lower_bound <= optimum under the bound on bytes <= cost before top-up */
    double  gap;               /* (cost - lower_bound) / cost, 0 when cost is 0 */
    double  lambda;            /* Lagrange multiplier, nats a byte, at this budget */
    int64_t bound_bytes;       /* bb_problem_bound of the solution */
    int64_t size_bytes;        /* exact size, <= budget */
} bb_separable_result;

typedef struct bb_separable_options {
    double   tolerance;  /* relative gap at which the search may stop; default 1e-4, 0: exact when max_states allows it */
    uint32_t max_states; /* DP states a stage; default 4096 */
    uint32_t max_points; /* points of one group's front; beyond it only the hull is sure to be kept. default 8192 */
} bb_separable_options;

/* Borrows p until destroy. options NULL: defaults. BB_USAGE: invalid problem; BB_INFEASIBLE: no loadable combination at all. */
bb_status bb_separable_create(const bb_problem *p, const bb_separable_options *options, bb_separable **out, bb_err *err);
void      bb_separable_destroy(bb_separable *s);

/* The cheapest candidate with at most budget_bytes. BB_INFEASIBLE names the reachable interval. result may be NULL. The solution of the
 * bounded problem is topped up with exact sizes, so the slack is smaller than the cheapest single upgrade (bb_space_topup). Thread-safe. */
bb_status bb_separable_solve(const bb_separable *s, int64_t budget_bytes, uint16_t *x, bb_separable_result *result, bb_err *err);

/* Lower bound of the separable cost for a budget (LP relaxation, no search); +infinity when infeasible. */
double bb_separable_bound(const bb_separable *s, int64_t budget_bytes);

/* Smallest file, and the size of the plan with the lowest cost: more bytes than that buy nothing. Exact sizes. */
void bb_separable_reach(const bb_separable *s, int64_t *min_bytes, int64_t *max_bytes);

#endif
