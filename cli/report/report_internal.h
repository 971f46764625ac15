/* SPDX-License-Identifier: GPL-3.0-or-later
 * report_internal.h: the parts of the report.
 *
 *   bb_artefacts_read (report_data.c) -> bb_plots_draw (report_plots.c) -> page (report.c), with what it is about (report_about.c) and the map of
 *   bits (report_map.c)
 *
 * Text that comes from files reaches the page through bb_html_text and the plots through a filter (report_plots.c) only.
 */
#ifndef BB_CLI_REPORT_INTERNAL_H
#define BB_CLI_REPORT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/csv.h"
#include "base/status.h"
#include "base/text.h"

/* One scored plan or baseline. Text borrows from the table it came from; numbers are NaN where a cell is empty. */
typedef struct bb_scored {
    const char *name, *source;
    int64_t     size_bytes;
    double      bpw, kl, kl_se, ppl, ppl_se, top1, pruned;
} bb_scored;

typedef enum bb_part_column { /* columns of the map */
                              BB_COL_Q,
                              BB_COL_K,
                              BB_COL_V,
                              BB_COL_O,
                              BB_COL_GATE,
                              BB_COL_UP,
                              BB_COL_DOWN,
                              BB_COL_KV,
                              BB_COL_FFN,
                              BB_COL_COUNT,
                              BB_COL_EMBD = BB_COL_COUNT,
                              BB_COL_OUTPUT,
                              BB_COL_OTHER
} bb_part_column;

/* One row of layers.csv or sensitivity.csv. */
typedef struct bb_choice {
    const char    *plan, *unit, *option; /* plan NULL in sensitivity */
    int64_t        block;                /* -1 outside blocks */
    bb_part_column column;
    int64_t        bytes;
    double         value, se; /* layers: relative error; sensitivity: KL and its standard error */
} bb_choice;

typedef struct bb_step {
    const char *label;
    double      step, kl, size_bytes;
} bb_step;

typedef struct bb_artefacts {
    char          *dir, *run_name; /* owned */
    bb_csv         tables[5];      /* front, baselines, layers, sensitivity, convergence: what the rows below borrow from */
    size_t         n_front, n_baselines, n_layers, n_sensitivity, n_steps;
    bb_scored     *front, *baselines; /* ascending size */
    bb_scored      original;          /* the model itself on the same windows: the row of front.csv whose plan_hash is "-"; name NULL: none */
    bb_choice     *layers, *sensitivity;
    bb_step       *steps;
    char          *config;      /* text or NULL */
    struct json_t *env, *guard; /* or NULL */
    bool          *on_front;    /* [n_front] no other plan is at most as large with a lower KL */
} bb_artefacts;

bb_status      bb_artefacts_read(const char *run_dir, bb_artefacts *a, bb_err *err);
void           bb_artefacts_done(bb_artefacts *a);
bb_part_column bb_unit_column(const char *unit, int64_t *block);
double         bb_option_bits(const char *option); /* bits per weight of a format name; NaN for anything else */
bool           bb_is_positive(double v);           /* > 0, and with room around it: fits on a logarithmic axis */

typedef enum bb_plot { BB_PLOT_FRONT, BB_PLOT_PERPLEXITY, BB_PLOT_SENSITIVITY, BB_PLOT_CONVERGENCE, BB_PLOT_RIVALS, BB_PLOT_SCORED, BB_PLOT_COUNT } bb_plot;
typedef struct bb_plots {
    char   *svg[BB_PLOT_COUNT];
    bb_text outside; /* baselines that lie right of the first two plots */
} bb_plots;

/* Writes RUN/plots/<name>.{dat,gp,svg}; svg[i] is NULL for a plot without data. */
bb_status bb_plots_draw(const bb_artefacts *a, bb_plots *plots, bb_err *err);
void      bb_plots_done(bb_plots *plots);

/* <section id> with its title; `nav` is its entry in the navigation. Closed by "</section>". */
void                     bb_section_begin(bb_text *out, const char *id, const char *nav, const char *title);
bb_status                bb_about_html(bb_text *out, const bb_artefacts *a, bb_err *err); /* the original, the texts, the date, the files, how to run */
void                     bb_html_text(bb_text *out, const char *text);                    /* escapes; bytes that are not UTF-8 become U+FFFD */
const char              *bb_chosen_plan(const bb_artefacts *a); /* hash: the guard's winner, else the middle of the front; NULL without plans */
bb_status                bb_search_html(bb_text *out, const bb_artefacts *a, const bb_plots *p, bb_err *err); /* certificate, crossover, speed, rivals */
bb_status                bb_map_html(bb_text *out, const bb_artefacts *a, bb_err *err);
extern const char *const bb_report_css[]; /* pieces, NULL at the end */

#endif
