/* SPDX-License-Identifier: GPL-3.0-or-later
 * point_score.h: what single options do inside a rebuilt plan (model/compress/point.h), by the KL of the network. */
#ifndef BB_ENGINE_POINT_SCORE_H
#define BB_ENGINE_POINT_SCORE_H

#include "engine/run.h"

/* Around a plan of the run's space, rebuilt on few windows. Zero-initialise before use. */
typedef struct bb_point_score {
    uint32_t *offset;    /* [n_units + 1] owned: of the options of each unit */
    double   *change;    /* [offset[n_units]] owned: KL with that option alone changed, minus that of the plan, on the same windows; nats, either sign.
                            0: the plan's own. NaN: not measured */
    double    anchor_kl; /* of the rebuilt plan */
    double    tokens;    /* forwarded for it, whenever that was */
} bb_point_score;

/* Measures the formats at most `reach` steps of bytes from the plan's, and of structures the next wider, the next narrower and the same by the other order (0: all), the plan rebuilt on so many calibration windows, at a level of windows. run.db,
 * table "points", keeps every change; what is there is not measured again, and where nothing is missing nothing is rebuilt. */
bb_status bb_point_measure(bb_run *r, const uint16_t *x, uint32_t windows, uint32_t reach, uint32_t level, bb_point_score *out, bb_err *err);
void      bb_point_score_done(bb_point_score *s);

/* KL of the plan by the separable model around the point: anchor_kl and the changes; NaN when one of them was not measured. */
double bb_point_predict(const bb_point_score *s, uint32_t n_units, const uint16_t *x);

#endif
