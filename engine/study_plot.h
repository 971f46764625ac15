/* SPDX-License-Identifier: GPL-3.0-or-later
 * study_plot.h: the picture of a study: tau of every proxy by band, random plans above, neighbours of searched plans below, as one SVG. */
#ifndef BB_ENGINE_STUDY_PLOT_H
#define BB_ENGINE_STUDY_PLOT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct bb_study_point {
    bool   is_front;
    double bpw, tau, lo, hi;
    char   name[40];
} bb_study_point;
typedef struct bb_study_plot {
    bb_study_point *points;
    size_t          n;
} bb_study_plot; /* zero-initialise */

bb_status bb_study_plot_add(bb_study_plot *p, bool is_front, double bpw, const char *name, double tau, double lo, double hi, bb_err *err);
bb_status bb_study_plot_write(const bb_study_plot *p, const char *path, bb_err *err);
void      bb_study_plot_done(bb_study_plot *p);

#endif
