/* SPDX-License-Identifier: GPL-3.0-or-later
 * certificate.h: how near to the optimum of the proxies the plans of a front are, with lower bounds that are proven.
 *
 * Separable score: optimum by dynamic programming with a Lagrangian bound (separable.h, tolerance 0). Quadratic score: the better of tabu's plan
 * and the one given, with a Frank-Wolfe bound (quadratic_bound.c). A plan is certified for the bytes by which the tables count it, which are
 * at most a header's padding more than its file: the bound is then valid for every plan that the tables count within the same bytes.
 *
 * The front is chosen by true KL, so its plans lie above the separable optimum on purpose; the certificate says that what was lost to the
 * solvers is (nearly) nothing, and how far true KL led away from the proxy. */
#ifndef BB_SEARCH_CERTIFICATE_H
#define BB_SEARCH_CERTIFICATE_H

#include "search/quadratic.h"
#include "search/separable.h"

typedef struct bb_certificate {
    int64_t budget_bytes;    /* given */
    double  separable;       /* of the plan */
    double  separable_best;  /* of the best plan found by the exact solver, or of the plan itself where that is lower */
    double  separable_bound; /* no plan is below */
    double  separable_gap;   /* (best - bound) / best; 0 when best is 0 */
    bool    proven;          /* gap <= BB_CERTIFICATE_ZERO: the separable optimum is known */
    double  quadratic, quadratic_best, quadratic_bound, quadratic_gap; /* the same; NaN without a quadratic score */
} bb_certificate;

#define BB_CERTIFICATE_ZERO 1e-9 /* rounding of sums of doubles */

/* rows[n] with budget_bytes filled, x[n] the plan of each. q may be NULL. Evaluates nothing. */
bb_status bb_certify(const bb_problem *p, const bb_quadratic *q, const uint16_t *const *x, size_t n, bb_certificate *rows, bb_err *err);

/* Share of the rows that are proven, and the largest gaps (0 without rows; quadratic NaN without such rows). */
void bb_certificate_summary(const bb_certificate *rows, size_t n, double *proven, double *separable_gap, double *quadratic_gap);

#endif
