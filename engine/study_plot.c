/* SPDX-License-Identifier: GPL-3.0-or-later
 * study_plot.c: see study_plot.h. Bands are evenly spaced; the points of a band stand side by side with their intervals. */
#include "engine/study_plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"

enum { WIDTH = 1100, PANEL = 300, GAP = 70, LEFT = 76, RIGHT = 250, TOP = 30, MAX_SERIES = 24, MAX_X = 16 };

static const char *const COLOURS[] = { "#3f86cf", "#e0812b", "#2f9e6e", "#c2527f", "#8a6bd1", "#a08a2c",
                                       "#3aa3a3", "#b5623f", "#777777", "#d14a4a", "#4a5fd1", "#7aa82f" };
enum { N_COLOURS = sizeof COLOURS / sizeof *COLOURS };

bb_status bb_study_plot_add(bb_study_plot *p, bool is_front, double bpw, const char *name, double tau, double lo, double hi, bb_err *err)
{
    bb_study_point *grown = bb_realloc(p->points, p->n + 1, sizeof *grown, err);
    if (!grown) return BB_NOMEM;
    p->points = grown;
    p->points[p->n] = (bb_study_point) { is_front, bpw, tau, lo, hi, "" };
    snprintf(p->points[p->n++].name, sizeof p->points->name, "%s", name);
    return BB_OK;
}

void bb_study_plot_done(bb_study_plot *p)
{
    bb_free(p->points);
    *p = (bb_study_plot) { NULL, 0 };
}

typedef struct scale {
    double      bands[MAX_X];
    const char *series[MAX_SERIES];
    size_t      n_bands, n_series;
    double      low;
} scale;

static size_t find_band(const scale *s, double bpw)
{
    size_t i = 0;
    while (i < s->n_bands && fabs(s->bands[i] - bpw) > 1e-9) i++;
    return i;
}

static size_t find_series(const scale *s, const char *name)
{
    size_t i = 0;
    while (i < s->n_series && strcmp(s->series[i], name) != 0) i++;
    return i;
}

static void make_scale(const bb_study_plot *p, scale *s)
{
    *s = (scale) { .low = 0.8 };
    for (size_t i = 0; i < p->n; i++) {
        const bb_study_point *q = &p->points[i];
        if (find_band(s, q->bpw) == s->n_bands && s->n_bands < MAX_X) s->bands[s->n_bands++] = q->bpw;
        if (find_series(s, q->name) == s->n_series && s->n_series < MAX_SERIES) s->series[s->n_series++] = q->name;
        if (q->lo < s->low) s->low = fmax(-1, floor(q->lo * 10) / 10);
    }
}

static double y_of(const scale *s, int panel, double tau) { return TOP + panel * (PANEL + GAP) + PANEL * (1 - (tau - s->low) / (1 - s->low)); }

static void draw_panel(const bb_study_plot *p, const scale *s, int panel, bb_text *t)
{
    double slot = (double)(WIDTH - LEFT - RIGHT) / (double)s->n_bands;
    bb_text_addf(t, "<text x='%d' y='%.1f' font-weight='bold'>%s: rank correlation with true KL</text>\n", LEFT, y_of(s, panel, 1) - 8,
                 panel == 0 ? "random plans" : "searched plans and their neighbours");
    const int ticks = s->low < 0.5 ? 5 : 10; /* a unit of tau */
    for (int k = (int)ceil(s->low * ticks - 1e-9); k <= ticks; k++) {
        double tau = (double)k / ticks, y = y_of(s, panel, tau);
        bb_text_addf(t, "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#bbb' stroke-width='%s'/><text x='%d' y='%.1f' text-anchor='end'>%.1f</text>\n",
                     LEFT, WIDTH - RIGHT, y, y, k == 0 ? "1.2" : "0.5", LEFT - 6, y + 4, tau);
    }
    for (size_t b = 0; b < s->n_bands; b++)
        bb_text_addf(t, "<text x='%.1f' y='%.1f' text-anchor='middle'>%g</text>\n", LEFT + slot * ((double)b + 0.5), y_of(s, panel, s->low) + 16, s->bands[b]);
    bb_text_addf(t, "<text x='%.1f' y='%.1f' text-anchor='middle'>size of the plans, bits per weight of the whole file</text>\n",
                 LEFT + slot * (double)s->n_bands / 2, y_of(s, panel, s->low) + 36);
    bb_text_addf(t, "<text transform='translate(18 %.1f) rotate(-90)' text-anchor='middle'>Kendall's tau</text>\n", y_of(s, panel, (1 + s->low) / 2));
    for (size_t i = 0; i < p->n; i++) {
        const bb_study_point *q = &p->points[i];
        size_t                b = find_band(s, q->bpw), k = find_series(s, q->name);
        if (q->is_front != (panel == 1) || isnan(q->tau) || isnan(q->lo) || isnan(q->hi) || b == s->n_bands || k == s->n_series) continue;
        double x = LEFT + slot * ((double)b + 0.08 + 0.84 * ((double)k + 0.5) / (double)s->n_series);
        bb_text_addf(t, "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' stroke='%s'/><circle cx='%.1f' cy='%.1f' r='3.2' fill='%s'/>\n", x, x,
                     y_of(s, panel, fmax(q->lo, s->low)), y_of(s, panel, q->hi), COLOURS[k % N_COLOURS], x, y_of(s, panel, q->tau), COLOURS[k % N_COLOURS]);
    }
}

bb_status bb_study_plot_write(const bb_study_plot *p, const char *path, bb_err *err)
{
    bb_text   t = { 0 };
    scale     s;
    bb_status status;
    make_scale(p, &s);
    bb_text_addf(&t,
                 "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' font-family='sans-serif' font-size='12'>\n"
                 "<rect width='100%%' height='100%%' fill='white'/>\n",
                 WIDTH, TOP + 2 * (PANEL + GAP));
    for (int panel = 0; panel < 2; panel++) draw_panel(p, &s, panel, &t);
    for (size_t k = 0; k < s.n_series; k++) /* names come from this program: no escaping */
        bb_text_addf(&t, "<circle cx='%d' cy='%zu' r='4' fill='%s'/><text x='%d' y='%zu'>%s</text>\n", WIDTH - RIGHT + 16, TOP + 20 + 20 * k,
                     COLOURS[k % N_COLOURS], WIDTH - RIGHT + 28, TOP + 24 + 20 * k, s.series[k]);
    bb_text_add(&t, "</svg>\n");
    status = t.status == BB_OK ? bb_file_write(path, t.data, t.size, err) : BB_FAIL(err, BB_NOMEM, "out of memory for a plot");
    bb_text_done(&t);
    return status;
}
