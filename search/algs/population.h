/* SPDX-License-Identifier: GPL-3.0-or-later
 * population.h: the selection and variation of NSGA-II [1] over (bytes, score), shared by nsga2.c and amq.c.
 *
 * [1] Deb, Pratap, Agarwal, Meyarivan. A fast and elitist multiobjective genetic algorithm: NSGA-II. IEEE TEC 6(2), 2002. */
#ifndef BB_SEARCH_ALGS_POPULATION_H
#define BB_SEARCH_ALGS_POPULATION_H

#include "search/space.h"

typedef struct bb_population {
    const bb_space *space;    /* borrowed */
    int64_t         budget;   /* every member has at most this exact size */
    uint32_t        size;     /* parents kept by a selection */
    uint32_t        n;        /* members now, at most 2 * size */
    uint16_t       *x;        /* [2 * size][n_units] */
    int64_t        *bytes;    /* [2 * size] exact */
    double         *score;    /* [2 * size] NaN: worst */
    uint32_t       *rank;     /* [2 * size] front number, 0 best; set by selection */
    double         *crowding; /* [2 * size] */
    uint32_t       *order;    /* [2 * size] scratch */
} bb_population;

bb_status bb_population_init(const bb_space *space, int64_t budget, uint32_t size, bb_population *p, bb_err *err);
void      bb_population_done(bb_population *p);
uint16_t *bb_population_x(const bb_population *p, uint32_t i);
/* Adds a member unless it is there or there is no room; the score may be set later. Returns its index or UINT32_MAX. */
uint32_t bb_population_add(bb_population *p, const uint16_t *x, double score);
/* Fronts and crowding distances of all members; keeps the best `size`. */
void bb_population_select(bb_population *p);
/* A child of two tournament winners (uniform crossover 0.9, mutation 1/n_units), shrunk to the budget. False after many failures. */
bool bb_population_child(const bb_population *p, bb_rng *rng, uint16_t *x);

#endif
