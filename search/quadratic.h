/* SPDX-License-Identifier: GPL-3.0-or-later
 * quadratic.h: plans of low 1/2 x'Gx + l(x) under a byte budget, where x marks the chosen option of every unit.
 *
 * G is the Gram matrix of the changes that single options make to the output (float32, symmetric positive semidefinite, index
 * bb_space.offset[unit] + option): it holds all pairwise interactions, so errors that cancel or pile up downstream are seen. l(x) is a table
 * like a problem's costs (what G does not explain, such as a measured KL minus 1/2 G_ii, or structure costs by controller option).
 *
 * Method. The field g = G x makes the score change of a move O(1) and of a swap O(1) [1]; applying a move is one pass over g. Search: tabu [2]
 * over single moves and byte-trading pairs (the pairs among the moves of best reduced cost, change + lambda * bytes), restarted from
 * separable solutions of the diagonal and of tables linearised around the incumbent. Pairs inside one group (a controller and a dependent)
 * are exact as well. Bound: Frank-Wolfe [3] on the convex relaxation, whose linear subproblem is the LP of separable.h, so f(y) - gap is a
 * proven lower bound for every feasible plan; it is tightened by moving as much of the blocks of G (one block a unit) into the linear term as
 * leaves the rest positive semidefinite: within one unit exactly one option is chosen, so this changes the score of no plan.
 *
 * [1] Glover, Kochenberger. Metaheuristic algorithms for the QUBO problem. 2006.  [2] Glover. Tabu search. ORSA J. Computing 1989.
 * [3] Jaggi. Revisiting Frank-Wolfe. ICML 2013, eq. 2.
 */
#ifndef BB_SEARCH_QUADRATIC_H
#define BB_SEARCH_QUADRATIC_H

#include "search/space.h"

typedef struct bb_quadratic {
    const bb_space      *space;  /* borrowed, as all below; its problem gives bytes (and names), its costs are not used */
    const float         *gram;   /* [M][stride], M = space->offset[n_units] */
    size_t               stride; /* floats between rows; 0: M */
    const double *const *linear; /* [n_units] tables shaped as bb_unit.cost, any sign; NULL: none */
} bb_quadratic;

double bb_quadratic_score(const bb_quadratic *q, const uint16_t *x); /* by definition, O(n_units^2) */

/* A candidate with its field, for O(1) changes. */
typedef struct bb_quadratic_state {
    const bb_quadratic *q;
    uint16_t           *x;     /* [n_units] */
    double             *field; /* [M] G x */
    double              score;
    int64_t             bytes; /* bb_problem_bound */
} bb_quadratic_state;

bb_status bb_quadratic_init(const bb_quadratic *q, const uint16_t *x, bb_quadratic_state *s, bb_err *err);
void      bb_quadratic_done(bb_quadratic_state *s);
double    bb_quadratic_delta(const bb_quadratic_state *s, uint32_t unit, uint32_t option);
void      bb_quadratic_move(bb_quadratic_state *s, uint32_t unit, uint32_t option); /* must be loadable */

typedef struct bb_quadratic_options {
    uint64_t        seed;
    uint32_t        iterations; /* tabu moves a start; 0: 400 */
    uint32_t        starts;     /* 0: 4 */
    uint32_t        list;       /* moves from which pairs are formed; 0: 32 */
    const uint16_t *start;      /* one more starting plan, or NULL */
} bb_quadratic_options;

typedef struct bb_quadratic_result {
    double   score;
    uint64_t n_scored; /* plans whose score was looked at */
} bb_quadratic_result;

/* Best plan found with bb_problem_size <= budget (and bound <= budget where the bound alone decides). Deterministic. BB_INFEASIBLE as
 * bb_separable_solve. options NULL: defaults. */
bb_status bb_quadratic_solve(const bb_quadratic *q, int64_t budget, const bb_quadratic_options *options, uint16_t *x, bb_quadratic_result *result, bb_err *err);

/* Lower bounds of the score for several budgets, each from at most `iterations` (0: 200) Frank-Wolfe steps; +infinity when infeasible.
 * budgets here bound bb_problem_bound. shift (may be NULL): the share t of the blocks that could be moved into the linear term. */
bb_status bb_quadratic_bound(const bb_quadratic *q, const int64_t *budgets, size_t n, uint32_t iterations, double *lower, double *shift, bb_err *err);

#endif
