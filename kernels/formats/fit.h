/* SPDX-License-Identifier: GPL-3.0-or-later
 * fit.h: how the scalar grids choose their fields: one description a format (bb_grid), one workspace a block (bb_work).
 *
 * Every grid is  w^ = a[g] * level + b[g];  formats differ in what a and b may be (bb_grid_kind). Fitting is a search over the
 * stored fields, always judged by the error after rounding and after the best codes were chosen for them:
 *   1. per group: the error as a function of one real scale is piecewise quadratic, with a break wherever a weight changes its
 *      code; a sweep over those breaks (fit_scale.c) or a set of starts (fit_affine.c) finds the good basins, Lloyd steps
 *      (codes for the scale, weighted least squares for the codes) descend into them;
 *   2. per block: candidate super scales, each with its best integer fields per group;
 *   3. the best few: integers +-1, new codes, super scales in closed form, until nothing gets better.
 * The result is compared with round-to-nearest and the better one is kept.
 *
 * Blocks are normalised by powers of two (largest |w| and largest h in [1, 2)), so no threshold is absolute and scaling the
 * weights by a power of two changes nothing but d, as long as d stays a normal number of its stored type.
 */
#ifndef BB_KERNELS_FORMATS_FIT_H
#define BB_KERNELS_FORMATS_FIT_H

#include <math.h>

#include "kernels/format.h"
#include "kernels/kernels.h"

typedef enum bb_grid_kind {
    BB_GRID_SCALE,       /* a = d (f16) */
    BB_GRID_POWER,       /* a = d, a power of two from 2^-128 to 2^124 */
    BB_GRID_SCALE_MIN,   /* a = d, b = dmin (f16 each) */
    BB_GRID_SCALES,      /* a = d * sc[g], sc in sc_lo..sc_hi */
    BB_GRID_SCALES_MINS, /* a = d * sc[g], b = -dmin * mn[g], sc and mn in 0..sc_hi */
    BB_GRID_BYTE_SCALES  /* a = byte_scales[sc[g]], sc in sc_lo..sc_hi, increasing */
} bb_grid_kind;

typedef struct bb_grid {
    const bb_format *format;
    bb_grid_kind     kind;
    int              sc_lo, sc_hi;
    float            bin;         /* 0: levels are consecutive integers; else a width that holds one midpoint at most */
    const float     *byte_scales; /* BB_GRID_BYTE_SCALES: value of each byte */
} bb_grid;

void bb_grid_fit(const bb_grid *grid, const float *w, const float *h, bb_code *c);
void bb_grid_refit(const bb_grid *grid, const float *w, const float *h, bb_code *c);
void bb_grid_fit_rows(const bb_grid *grid, const float *t, const float *h, bb_code *c); /* as fit_rows of bb_format; SCALES, SCALES_MINS */
void bb_grid_rtn(const bb_grid *grid, const float *w, void *blocks, size_t n);

/* ---- inside kernels/formats ---- */

enum { BB_MAX_BINS = 32 };

/* Sums over a group, for its nearest codes under some (a, b): error, h w l, h l^2, h l. */
typedef struct bb_sums {
    float error, wl, ll, l;
} bb_sums;

/* Up to eight lines of a group, tried together with their nearest codes; sc, mn: the caller's. */
typedef struct bb_tries {
    _Alignas(32) float a[8];
    _Alignas(32) float b[8];
    bb_sums sums[8];
    int16_t sc[8], mn[8];
    int     n;
} bb_tries;

/* error + curvature * (x - target)^2 */
typedef struct bb_parabola {
    float error, curvature, target;
} bb_parabola;

/* One block, normalised: w = unit * its w. Groups whose h is 0 throughout keep a tiny h, so that their codes stay sensible. */
struct bb_work {
    _Alignas(64) float w[BB_MAX_BLOCK];
    _Alignas(64) float h[BB_MAX_BLOCK];
    const bb_grid    *grid;
    const bb_kernels *kernels;
    int               n, n_groups, m;                                              /* weights, groups, weights a group */
    float             lo, hi;                                                      /* first and last level */
    float             below[BB_MAX_BINS], above[BB_MAX_BINS], middle[BB_MAX_BINS]; /* uneven levels, by bin of (x - lo) / bin: nearest */
    float             per_middle[BB_MAX_BLOCK];                                    /* grids with scales only: 1 / midpoint of levels i and i + 1 */
    uint32_t          code[BB_MAX_BINS];                                           /* level of an x up to `middle`, of a larger one; code of `below` */
    float             unit;                                                        /* a power of two */
    float             ww[BB_MAX_GROUPS], hw[BB_MAX_GROUPS], hh[BB_MAX_GROUPS];     /* sums of h w^2, h w, h of each group */
};

/* The stored fields, with d and dmin in units of bb_work.unit, and their error. */
typedef struct bb_fields {
    float   d, dmin;
    int16_t sc[BB_MAX_GROUPS], mn[BB_MAX_GROUPS];
    double  error;
} bb_fields;

void                  bb_work_init(bb_work *k, const bb_grid *grid, const float *w, const float *h);
void                  bb_work_codes(const bb_work *k, int group, float a, float b, uint32_t *q);
static inline bb_sums bb_work_sums(const bb_work *k, int group, float a, float b) { return k->kernels->fit_sums(k, group, a, b); }
static inline float   bb_work_error(const bb_work *k, int group, float a, float b) { return k->kernels->fit_error(k, group, a, b); }
/* 0 for a scale too small to divide by: then every code is the level nearest to 0. */
static inline float bb_reciprocal(float a) { return fabsf(a) > 0x1p-100f ? 1 / a : 0; }
void                bb_group_scales(const bb_work *k, const bb_fields *f, int group, float *a, float *b); /* in units of k->unit */
double              bb_error_of_codes(const bb_work *k, const bb_fields *f, const uint32_t *q);           /* by the decoder's arithmetic, in double */
void                bb_load_fields(const bb_work *k, const bb_code *c, bb_fields *f);                     /* error: infinite */
void                bb_store_fields(const bb_work *k, const bb_fields *f, bb_code *c);                    /* leaves the codes alone */
float               bb_work_store(const bb_work *k, float d);                                             /* d as the file will hold it */
float               bb_work_store_step(const bb_work *k, float d, int step); /* the next stored value up (+1) or down (-1) in magnitude */

void bb_fit_scale(const bb_work *k, bb_fields *best); /* fit_scale.c */
void bb_fit_power(const bb_work *k, bb_fields *best);
void bb_fit_scales(const bb_work *k, bb_fields *best);
void bb_fit_byte_scales(const bb_work *k, bb_fields *best);
void bb_fit_scale_min(const bb_work *k, bb_fields *best); /* fit_affine.c */
void bb_fit_scales_mins(const bb_work *k, bb_fields *best);

#endif
