/* SPDX-License-Identifier: GPL-3.0-or-later
 * estimate.h: what a run will cost before it runs: reachable sizes, memory, disk, tokens, time. */
#ifndef BB_ENGINE_ESTIMATE_H
#define BB_ENGINE_ESTIMATE_H

#include <stdio.h>

#include "engine/run.h"

typedef struct bb_forecast {
    uint64_t smallest, largest;                    /* bytes of files that can be reached */
    uint64_t n_options, ram, ram_least, disk;      /* bytes beside what is mapped, and the least; of the option database, second moments, and */
    uint64_t states;                               /* hidden states that --max-ram has no room for, while the run works */
    double   calibrate, measure, search, finalise; /* tokens forwarded; tuning and evaluation come on top */
    double   seconds[BB_N_STAGES], sum;            /* on a quiet machine */
    double   sum_low, sum_high;                    /* the interval that is said */
} bb_forecast;

/* r as opened by bb_run_preview. Times a sample of the run's own work for a second or two (pace.h); nothing else is run. */
bb_status bb_estimate(const bb_run *r, bb_forecast *out, bb_err *err);

/* The same as text, */
bb_status bb_estimate_print(const bb_run *r, FILE *out, bb_err *err);
/* and as one JSON object: bytes, tokens and seconds as plain numbers. */
bb_status bb_estimate_print_json(const bb_run *r, FILE *out, bb_err *err);

/* Seconds that each stage should take by this pace, the threads to themselves; */
struct bb_pace;
void bb_estimate_with(const bb_run *r, const struct bb_pace *pace, double seconds[BB_N_STAGES]);
/* Seconds that each stage should take on a quiet machine, and how a sum of them is said: an interval. */
bb_status bb_estimate_time(const bb_run *r, double seconds[BB_N_STAGES], bb_err *err);
void      bb_estimate_interval(double seconds, char out[80]);

/* Bytes of the option database and the second moments of a run, as bb_estimate_print says them. */
uint64_t bb_estimate_disk(const bb_run *r);

#endif
