/* SPDX-License-Identifier: GPL-3.0-or-later
 * proxy.h: cheap scores of whole plans, all in one form, so that they can be compared and replaced.
 *
 * A plan x chooses one option of each unit. A unit may have a controller, whose option says how much of the unit's matrix is left
 * (width 0..1; blk.3.ffn controls blk.3.ffn_down). Every proxy is
 *   score(x) = constant + sum_u linear[u][x_controller(u)][x_u] + 1/2 sum_{u != v} a_u a_v gram[u,x_u][v,x_v],
 * a_u = sqrt(width) of unit u relative to the anchor's: errors of a matrix that is cut shrink with it, those of a dropped one are gone.
 * Separable proxies have no gram. `linear` is shaped as the search's cost tables and `gram` as its Gram matrix, with the diagonal moved to
 * `linear`.
 *
 *   costs           any table of one cost an option: local error, noise sensitivity times weight error, Fisher, gradients, single KLs
 *   sensitivity     measured single changes around an anchor, plus `pairs` times the sketch's inner products
 * Around a strong anchor the single changes already hold the interaction of every option with the rest of that plan; the pairs add those of
 * changed options with each other and are an expansion, trusted only near the anchor (docs/scores.md has the measurements).
 */
#ifndef BB_EVAL_PROXY_H
#define BB_EVAL_PROXY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "eval/sensitivity.h"

/* The shape of a search space, in plain arrays; borrowed. Options of all units in one row: unit u owns offset[u] .. offset[u + 1] - 1. */
typedef struct bb_units {
    uint32_t        n;
    const uint32_t *offset;     /* [n + 1] */
    const int32_t  *controller; /* [n] unit index, or -1 */
    const double   *width;      /* [offset[n]] share of the dependents that an option of a controller leaves; 1 elsewhere */
} bb_units;

typedef struct bb_proxy {
    const bb_units *units;
    char            name[40];
    double          constant;
    double        **linear;          /* [n] tables [controller's options, or 1][own options]; owned */
    float          *gram;            /* [M * M], M = offset[n], zero inside a unit; NULL: separable; owned */
    double         *anchor_width;    /* [n] width of each unit at the anchor (1 where that is 0); owned */
    double          tokens, seconds; /* what it cost to make */
} bb_proxy;

bb_status bb_proxy_from_costs(const bb_units *units, const char *name, const double *cost /* [M] nats at full width */, bb_proxy *out, bb_err *err);

/* How measured changes are put together. power: the change of a single is a (kl / a)^power / power, less the same of the anchor, a its KL: 1
 * takes it as it is; below 1 the largest count less, as they do in plans where much else is wrong. Full precision takes 1. */
typedef struct bb_proxy_shape {
    double power, pairs;
} bb_proxy_shape;
#define BB_PROXY_DEFAULT ((bb_proxy_shape) { 0.5, 0.25 }) /* docs/scores.md: the best over all bands */

/* From changes measured around candidate `anchor` (NULL: full precision), one for every option in order; those that cannot be loaded beside the
 * anchor have kl NaN. `fallback` [M] (full-precision single KLs; NULL: none) stands in for them and for units that the anchor has dropped. */
bb_status bb_proxy_from_sensitivity(const bb_units *units, const char *name, const bb_sensitivity *s, const uint16_t *anchor, const double *fallback,
                                    const bb_proxy_shape *shape, bb_proxy *out, bb_err *err);
void      bb_proxy_done(bb_proxy *p);

double bb_proxy_score(const bb_proxy *p, const uint16_t *x);
/* Interpolates a to b in place of a, term by term: (1 - t) a + t b. Both over the same units; a keeps its name. */
bb_status bb_proxy_mix(bb_proxy *a, const bb_proxy *b, double t, bb_err *err);

#endif
