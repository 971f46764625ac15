/* SPDX-License-Identifier: GPL-3.0-or-later
 * surrogate.h: what evaluated plans teach about the separable score: KL(x) ~ sum_u exp(a_u) c_u(x)^g, fitted in the logarithm.
 *
 * The separable table c is measured one change at a time; the KL of a whole plan differs from its sum because errors of some units add
 * up or cancel downstream, because large errors saturate, and because pruning and quantization are scored on different footings. The model
 * has a scale, an exponent g, one factor for all controllers and one for each unit, with Gaussian priors around "the table is right",
 * fitted by Gauss-Newton on log KL (a ridge regression a step); how far units may differ is chosen by the evidence (Laplace). Its posterior gives tables for exact methods: the mean, or samples
 * (Thompson sampling) where exploration is wanted.
 */
#ifndef BB_SEARCH_SURROGATE_H
#define BB_SEARCH_SURROGATE_H

#include "search/space.h"

typedef struct bb_surrogate {
    const bb_space *space;    /* borrowed */
    size_t          n_params; /* 3 + n_units: scale, exponent - 1, controllers, units */
    double         *theta;    /* [n_params] posterior mean */
    double         *chol;     /* [n_params * n_params] lower Cholesky factor of the posterior precision */
    double          center;   /* mean log cost, where the exponent pivots */
    double          sigma;    /* residual standard deviation of log KL */
    double          unit_sd;  /* prior standard deviation of the units' log factors, chosen by evidence */
} bb_surrogate;

bb_status bb_surrogate_init(const bb_space *space, bb_surrogate *s, bb_err *err);
void      bb_surrogate_done(bb_surrogate *s);

/* n plans with their KL (those not finite or <= 0 are skipped) and weights >= 0. Without usable plans: the prior. BB_NUMERIC when the
 * normal equations cannot be factored. */
bb_status bb_surrogate_fit(bb_surrogate *s, const uint16_t *const *x, const double *kl, const double *weight, size_t n, bb_err *err);
void      bb_surrogate_sample(const bb_surrogate *s, bb_rng *rng, double *theta); /* [n_params] from the posterior */
/* Writes the costs that theta implies into a variant of the same problem (forbidden cells stay). theta NULL: the mean. */
void bb_surrogate_tables(const bb_surrogate *s, const double *theta, bb_variant *v);

#endif
