/* SPDX-License-Identifier: GPL-3.0-or-later
 * parts.h: what the parts of the method "refine" share (refine.c says how they follow each other). */
#ifndef BB_SEARCH_REFINE_PARTS_H
#define BB_SEARCH_REFINE_PARTS_H

#include "search/method.h"
#include "search/pool.h"

#define BB_NEIGHBOURHOOD 0.35 /* standard deviation, in log bytes, of the plans that a budget listens to */

/* A change of the separable table as a whole: what single measurements do not know is mostly shared by many units. */
typedef struct bb_tilt {
    const char *name;
    double      power, controllers; /* cost^power; factor on controllers */
    double      noise;              /* standard deviation of the units' log-normal factors, */
    size_t      stream;             /* drawn from this stream */
    bool        pinned;             /* controllers at their widest option: quantization alone */
    double      measured;           /* 1: costs without the factors of bb_search.share, 0: with them; before the power */
    double      slope, bend;        /* log factor slope * t + bend * (t^2 - 1/3), t from -1 at the first unit to 1 at the last */
} bb_tilt;

enum { BB_N_TILTS = 21 };
extern const bb_tilt bb_tilts[BB_N_TILTS]; /* the seeds' */

/* A plan that a tilt has proposed. */
typedef struct bb_tilted {
    bb_tilt t;
    size_t  budget, item; /* indices into budgets and pool */
} bb_tilted;

typedef struct bb_refine {
    bb_search *s;
    bb_pool    pool;
    int64_t   *budgets; /* [n] ascending */
    size_t    *order;   /* [n] index of each into the caller's list */
    size_t    *base;    /* [n] pool index of the plain separable plan */
    size_t     n;
    double    *mark;  /* [n] KL of the incumbent when it last gained what counts as a gain, */
    uint32_t  *still; /* [n] and rounds since then */
    uint32_t   confirm, top, candidates, max_rounds, patience, finalists;
    uint32_t   confirmed; /* plans a budget and round taken to the confirm level */
    bb_tilted *tilted;    /* [n_tilted] */
    size_t     n_tilted, tilted_capacity;
    double    *y; /* [pool] KL of every plan on the footing of the confirm level */
    size_t     y_capacity;
    bool       has_controllers;
} bb_refine;

/* refine.c: tokens of one evaluation at a level, from what the first scored plan has cost at level 0; whether `planned` more tokens leave enough for the final. */
double bb_refine_tokens_at(const bb_refine *r, uint32_t level);
bool   bb_refine_has_room(const bb_refine *r, double planned, double share);
void   bb_refine_report(const bb_refine *r, const char *stage, uint32_t round, uint32_t level);

/* rounds.c: whether a budget has gained too little for so long that nothing is proposed or confirmed for it; what is confirmed for others may wake it. */
bool bb_refine_is_settled(const bb_refine *r, size_t b);

/* tilts.c */
bb_status bb_tilt_tables(const bb_refine *r, const bb_tilt *t, bb_variant *v, bb_err *err);
/* The optimum of a tilted table within a budget, topped up by the true one. *solved: whether the tilted problem can meet the budget. */
bb_status bb_tilt_solve(const bb_refine *r, const bb_tilt *t, const bb_separable *sep, int64_t budget, uint16_t *x, bool *solved, bb_err *err);
bb_status bb_tilt_record(bb_refine *r, const bb_tilt *t, size_t budget, size_t item, bb_err *err);
bb_tilt   bb_tilt_mutate(const bb_refine *r, size_t b, bb_rng *rng);

/* seeds.c */
bb_status bb_refine_seeds(bb_refine *r, bb_err *err);
/* Adds x, topped up by the true tables, to the pool and, where it is new, its index to list. */
bb_status bb_refine_propose(bb_refine *r, uint16_t *x, int64_t budget, const char *source, size_t *list, size_t *n, bb_err *err);

/* anchors.c */
bb_status bb_refine_anchors(bb_refine *r, bb_err *err);

/* proposals.c: of all budgets, into the pool; list [n * candidates] receives the new ones. */
bb_status bb_refine_make_proposals(bb_refine *r, uint32_t round, size_t *list, size_t *n, bb_err *err);

/* rounds.c */
bb_status bb_refine_rounds(bb_refine *r, bb_stop_reason *why, bb_err *err);
/* Takes the best unconfirmed plans of each budget to the confirm level, `count` a budget, unless a paired test at level 0 speaks against them, or the budget is settled. */
bb_status bb_refine_confirm_best(bb_refine *r, size_t count, bb_err *err);

/* final.c */
bb_status bb_refine_final_level(bb_refine *r, uint32_t level, bb_err *err);
bb_status bb_refine_fill_archive(bb_refine *r, bb_err *err);

#endif
