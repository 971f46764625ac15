/* SPDX-License-Identifier: GPL-3.0-or-later
 * pace.h: how fast this machine is at what a run does: the program's own kernels, timed on a sample of the model. Processor time, shared by the
 * threads: what they take on a quiet machine, however busy this one is. */
#ifndef BB_ENGINE_PACE_H
#define BB_ENGINE_PACE_H

#include "engine/run.h"

typedef struct bb_pace {
    double block;                 /* seconds a token and weight of a block: forward */
    double moments;               /* seconds a token, of all inputs of that block squared together: second moments */
    double head;                  /* seconds a scored row: KL between two networks */
    double generate;              /* seconds a token and weight: sampling text */
    double encode[BB_TYPE_COUNT]; /* seconds a weight by the run's method; 0: not among the run's formats */
    double factor;                /* seconds a cubed column: factors of second moments */
    double product;               /* seconds a multiply-add in double precision */
    double slower;                /* than that, the wall clock now: other work on the machine; at least 1 */
    double serial;                /* seconds a multiply-add in double precision on one thread */
    double few; /* seconds a weight of a block: forward, all windows of --measure-windows, which are so few that preparing the weights counts */
} bb_pace;

/* r as opened by bb_run_preview. Takes a second or two, of a billion weights a quarter of a minute. known: of the same run with other --sweeps and other
 * --measure-windows, whose other speeds are taken over; NULL: all is measured. */
bb_status bb_pace_measure(const bb_run *r, const bb_pace *known, bb_pace *out, bb_err *err);

#endif
