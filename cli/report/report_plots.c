/* SPDX-License-Identifier: GPL-3.0-or-later
 * report_plots.c: the plots of the report, drawn by gnuplot.
 *
 * Each plot is RUN/plots/<name>.dat and .gp; `gnuplot -d <name>.gp` in that folder draws it again. Ranges, ticks and the places of labels are
 * chosen here, because gnuplot neither puts readable ticks on a logarithmic axis of less than a decade nor keeps labels off points.
 * INK and GRID are colours that no series uses: they are replaced by currentColor in the SVG, so that the page's theme decides.
 */
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/report/report_internal.h"

#define INK "rgb '#112233'"
#define GRID "rgb '#445566'"

static const char *const SERIES[] = { "#3f86cf", "#e0812b", "#2f9e6e", "#c2527f", "#8a6bd1", "#a08a2c", "#3aa3a3", "#b5623f" };
enum { N_SERIES = sizeof SERIES / sizeof SERIES[0], WIDTH = 960, HEIGHT = 480 };

/* The plot area, as fractions of the picture; fixed so that label places can be computed. */
static const double LEFT = 0.095, RIGHT = 0.985, BOTTOM = 0.12, TOP = 0.965;

static const char *const NAMES[BB_PLOT_COUNT] = { "front", "perplexity", "sensitivity", "convergence", "rivals", "scored" };

/* Finite, with room around it: gnuplot's ranges are doubles, too. */
static bool is_plottable(double v) { return fabs(v) < 1e100; }

typedef struct axes {
    double x0, x1, y0, y1;
    bool   log;
} axes;

/* Ranges are written with 9 digits: two ends that are one number then are no range, and gnuplot draws nothing. */
static void keep_apart(double *low, double *high)
{
    const double least = 1e-7 * fmax(fabs(*low), fabs(*high));
    if (*high - *low >= least) return;
    *low -= least;
    *high += least;
}

static void open_axes(axes *a)
{
    keep_apart(&a->x0, &a->x1);
    keep_apart(&a->y0, &a->y1);
}

/* ---- text for gnuplot ---- */

/* A single-quoted gnuplot string holds no escapes and no command substitution; what could end it or is not plain becomes '?'. */
static void add_quoted(bb_text *t, const char *text)
{
    bb_text_add(t, "'");
    for (size_t i = 0; text[i] && i < 48; i++) {
        unsigned char c = (unsigned char)text[i];
        bb_text_addn(t, c < 32 || c > 126 || strchr("'\"`\\<>&|", c) ? "?" : text + i, 1);
    }
    bb_text_add(t, "'");
}

/* 1, 2 or 5 times a power of ten, about range / 5. */
static double nice_step(double range)
{
    double power = pow(10, floor(log10(range / 5))), ratio = range / 5 / power;
    return power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
}

static void add_tick(bb_text *t, double v, bool *first)
{
    bb_text_addf(t, "%s'%.6g' %.9g", *first ? "" : ", ", v, v);
    *first = false;
}

static void add_ticks(bb_text *t, char axis, double low, double high, bool log)
{
    bool first = true;
    bb_text_addf(t, "set %ctics (", axis);
    if (log && high / low >= 6) {
        /* Counted in whole numbers, and never many: the values come from files, and may lie anywhere that a double can. */
        enum { MOST = 12 };
        const bool many = !(high / low <= 3000);
        const int  from = (int)floor(log10(fmax(low, DBL_MIN))), to = (int)floor(log10(fmin(high, DBL_MAX))), stride = (to - from) / MOST + 1;
        for (int e = from; e <= to; e += stride)
            for (int k = 0; k < 3; k++) {
                double v = pow(10, e) * (k == 0 ? 1 : k == 1 ? 2 : 5);
                if (v >= low && v <= high && (k == 0 || !many)) add_tick(t, v, &first);
            }
    } else {
        double step = nice_step(high - low), start = ceil(low / step);
        for (int i = 0; i < 50 && isfinite(start) && (start + i) * step <= high; i++) add_tick(t, fabs(start + i) > 0 ? (start + i) * step : 0, &first);
    }
    bb_text_add(t, ")\n");
}

static void add_setup(bb_text *gp, bb_plot plot, int width, int height)
{
    bb_text_addf(gp, "set terminal svg size %d,%d dynamic noenhanced font 'sans-serif,13'\nset output '%s.svg'\n", width, height, NAMES[plot]);
    bb_text_add(gp, "set border 3 lc " INK "\nset tics nomirror out scale 0.5 textcolor " INK "\nset grid lt 1 lw 0.6 lc " GRID "\n"
                    "set key top right samplen 1.5 textcolor " INK "\n");
}

static void add_axes(bb_text *gp, const axes *a, const char *x_label)
{
    bb_text_addf(gp, "set xlabel '%s' textcolor " INK " offset 0,0.3\n", x_label);
    bb_text_addf(gp, "set xrange [%.9g:%.9g]\nset yrange [%.9g:%.9g]\n%s", a->x0, a->x1, a->y0, a->y1, a->log ? "set logscale y\n" : "");
    add_ticks(gp, 'x', a->x0, a->x1, false);
    add_ticks(gp, 'y', a->y0, a->y1, a->log);
}

/* Fixed margins. The label of the y axis then stands at a fixed place too: gnuplot would push it out of the picture beside long tick labels, and
 * leave it out without a word. */
static void add_margins(bb_text *gp, const char *y_label)
{
    bb_text_addf(gp, "set label 1000 '%s' at screen 0.016,%.3f center rotate by 90 textcolor " INK "\n", y_label, (BOTTOM + TOP) / 2);
    bb_text_addf(gp, "set lmargin at screen %.3f\nset rmargin at screen %.3f\nset bmargin at screen %.3f\nset tmargin at screen %.3f\n", LEFT, RIGHT, BOTTOM,
                 TOP);
}

/* ---- running gnuplot ---- */

enum { ABSENT = 127 };

/* Runs `gnuplot -d script` in folder; *code is its exit code. What it says goes to folder/gnuplot.log. */
static bb_status run_gnuplot(const char *folder, const char *script, int *code, bb_err *err)
{
    int state;
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) return BB_FAIL(err, BB_FAILED, "gnuplot could not be started: %s", strerror(errno));
    if (child == 0) {
        if (chdir(folder) != 0) _exit(126);
        int null = open("/dev/null", O_RDONLY), log = open("gnuplot.log", O_WRONLY | O_CREAT | O_TRUNC, 0666);
        if (null < 0 || log < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) _exit(126);
        execlp("gnuplot", "gnuplot", "-d", script, (char *)NULL);
        _exit(ABSENT);
    }
    while (waitpid(child, &state, 0) < 0)
        if (errno != EINTR) return BB_FAIL(err, BB_FAILED, "gnuplot could not be waited for: %s", strerror(errno));
    *code = WIFEXITED(state) ? WEXITSTATUS(state) : 126;
    return BB_OK;
}

static void replace_all(bb_text *out, const char *text, const char *const (*pairs)[2], size_t n)
{
    while (*text) {
        size_t i = 0;
        while (i < n && strncmp(text, pairs[i][0], strlen(pairs[i][0])) != 0) i++;
        if (i < n) {
            bb_text_add(out, pairs[i][1]);
            text += strlen(pairs[i][0]);
        } else {
            bb_text_addn(out, text++, 1);
        }
    }
}

/* gnuplot's file -> an <svg> element for the page: themed, and with ids of its own. */
static bb_status adapt_svg(const char *name, const char *file, char **svg, bb_err *err)
{
    char    id1[40], id2[40], use[40];
    bb_text out = { 0 };
    snprintf(id1, sizeof id1, "id='%s-", name);
    snprintf(id2, sizeof id2, "id=\"%s-", name);
    snprintf(use, sizeof use, "href='#%s-", name);
    const char *const pairs[][2] = {
        { "stroke='rgb( 17,  34,  51)'", "stroke='currentColor'" },
        { "fill=\"rgb(17,34,51)\"", "fill=\"currentColor\"" },
        { "stroke='rgb( 68,  85, 102)'", "stroke='currentColor' stroke-opacity='0.16'" },
        { "id='", id1 },
        { "id=\"", id2 },
        { "href='#", use },
        { " color=\"black\"", "" },
        { " color=\"white\"", "" }, /* these would cut currentColor off from the page */
    };
    const char *start = strstr(file, "<svg");
    const char *body = start ? strstr(start, "</desc>") : NULL;
    const char *box = start ? strstr(start, "viewBox=\"") : NULL;
    if (!body || !box) return BB_FAIL(err, BB_FAILED, "gnuplot wrote no usable %s.svg", name);
    box += strlen("viewBox=\"");
    bb_text_addf(&out,
                 "<svg role=\"img\" aria-label=\"%s\" viewBox=\"%.*s\" xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\">\n",
                 name, (int)strcspn(box, "\""), box);
    replace_all(&out, body + strlen("</desc>"), pairs, sizeof pairs / sizeof pairs[0]);
    if (out.status != BB_OK) {
        bb_text_done(&out);
        return BB_FAIL(err, BB_NOMEM, "out of memory while %s.svg was read", name);
    }
    *svg = out.data;
    return BB_OK;
}

static bb_status write_in(const char *folder, const char *name, const char *suffix, const bb_text *text, bb_err *err)
{
    char     *path = bb_asprintf(err, "%s/%s%s", folder, name, suffix);
    bb_status status = !path || text->status != BB_OK ? BB_FAIL(err, BB_NOMEM, "out of memory while plot %s was written", name)
                                                      : bb_file_write(path, text->data, text->size, err);
    bb_free(path);
    return status;
}

/* Reads folder/file; *data is NULL when it is absent. */
static bb_status read_in(const char *folder, const char *file, char **data, bb_err *err)
{
    size_t size;
    *data = NULL;
    char     *path = bb_asprintf(err, "%s/%s", folder, file);
    bb_status status = !path ? BB_NOMEM : bb_file_exists(path) ? bb_file_read(path, data, &size, err) : BB_OK;
    bb_free(path);
    return status;
}

/* Writes, draws and reads back one plot. *svg stays NULL when there is no gnuplot on this machine. */
static bb_status draw(const char *dir, bb_plot plot, const bb_text *gp, const bb_text *dat, char **svg, bb_err *err)
{
    bb_status status;
    int       code = 0;
    char      script[32], output[32], *log = NULL, *file = NULL, *folder = bb_asprintf(err, "%s/plots", dir);
    if (!folder) return BB_NOMEM;
    snprintf(script, sizeof script, "%s.gp", NAMES[plot]);
    snprintf(output, sizeof output, "%s.svg", NAMES[plot]);
    BB_TRY(bb_make_dirs(folder, err));
    BB_TRY(write_in(folder, NAMES[plot], ".dat", dat, err));
    BB_TRY(write_in(folder, NAMES[plot], ".gp", gp, err));
    BB_TRY(run_gnuplot(folder, script, &code, err));
    if (code == ABSENT) {
        bb_warn("gnuplot was not found: the report has no %s plot (install gnuplot-nox and build the report again)", NAMES[plot]);
        goto done;
    }
    if (code != 0) {
        BB_TRY(read_in(folder, "gnuplot.log", &log, err));
        status = BB_FAIL(err, BB_FAILED, "gnuplot failed on %s/%s (exit code %d): %.200s", folder, script, code, log ? log : "");
        goto done;
    }
    BB_TRY(read_in(folder, output, &file, err));
    BB_TRY(adapt_svg(NAMES[plot], file ? file : "", svg, err));
done:
    bb_free(log);
    bb_free(file);
    bb_free(folder);
    return status;
}

/* ---- size against KL or perplexity ---- */

typedef struct point {
    double      x, y, se;
    const char *label;
    bool        on_front;
} point; /* label NULL: a plan */

typedef struct cloud {
    point      *p; /* plans, then baselines; owned */
    size_t      n, n_plans;
    double      unit; /* bytes of the x axis' unit */
    const char *x_label;
    axes        axes;
    double      original; /* the model's own value, drawn as a line; NaN: none */
} cloud;

static const double FAR = 1.3; /* a baseline larger than this times the largest plan would squeeze the front: it is named in the caption */

static void choose_unit(const bb_artefacts *a, cloud *c)
{
    double largest = a->n_front > 0 ? (double)a->front[a->n_front - 1].size_bytes : 0;
    c->unit = largest >= 0x1p30 ? 0x1p30 : largest >= 0x1p20 ? 0x1p20 : 0x1p10;
    c->x_label = largest >= 0x1p30 ? "size of the file, GiB" : largest >= 0x1p20 ? "size of the file, MiB" : "size of the file, KiB";
}

/* Positive when the axis can be logarithmic: no plan's value is zero, negative or absent. */
static bool all_positive(const bb_artefacts *a, bool kl)
{
    for (size_t i = 0; i < a->n_front; i++) {
        double v = kl ? a->front[i].kl : a->front[i].ppl;
        if (!isnan(v) && !bb_is_positive(v)) return false;
    }
    return true;
}

static void add_point(cloud *c, const bb_scored *s, bool kl, const char *label, bool on_front)
{
    double y = kl ? s->kl : s->ppl, se = kl ? s->kl_se : s->ppl_se;
    if (!is_plottable(y) || (c->axes.log && !bb_is_positive(y)) || s->size_bytes <= 0) return;
    c->p[c->n++] = (point) { (double)s->size_bytes / c->unit, y, is_plottable(se) && se > 0 ? se : 0, label, on_front };
}

static void find_range(cloud *c)
{
    axes  *a = &c->axes;
    double x0 = (double)INFINITY, x1 = -x0, y0 = x0, y1 = x1;
    for (size_t i = 0; i < c->n; i++) {
        const point *p = &c->p[i];
        double       low = a->log && p->se >= 0.5 * p->y ? 0.5 * p->y : p->y - p->se;
        x0 = fmin(x0, p->x);
        x1 = fmax(x1, p->x);
        y0 = fmin(y0, low);
        y1 = fmax(y1, p->y + p->se);
    }
    if (is_plottable(c->original)) {
        y0 = fmin(y0, c->original);
        y1 = fmax(y1, c->original);
    }
    double pad = x1 > x0 ? 0.05 * (x1 - x0) : 0.05 * x1;
    a->x0 = x0 - pad;
    a->x1 = x1 + pad;
    if (a->log) {
        double factor = y1 > y0 ? pow(y1 / y0, 0.06) : 1.2;
        a->y0 = y0 / factor;
        a->y1 = y1 * factor;
    } else {
        double more = y1 > y0 ? 0.06 * (y1 - y0) : fmax(0.06 * fabs(y1), 1e-6);
        a->y0 = y0 - more;
        a->y1 = y1 + more;
    }
    open_axes(a);
}

static bb_status make_cloud(const bb_artefacts *a, bool kl, cloud *c, bb_text *outside, bb_err *err)
{
    memset(c, 0, sizeof *c);
    if (!(c->p = BB_NEW(a->n_front + a->n_baselines, point, err))) return BB_NOMEM;
    choose_unit(a, c);
    c->axes.log = all_positive(a, kl);
    for (size_t i = 0; i < a->n_front; i++) add_point(c, &a->front[i], kl, NULL, a->on_front[i]);
    c->n_plans = c->n;
    c->original = !kl && a->original.name && bb_is_positive(a->original.ppl) ? a->original.ppl : (double)NAN;
    double largest = a->n_front > 0 ? FAR * (double)a->front[a->n_front - 1].size_bytes : 0;
    for (size_t i = 0; c->n_plans > 0 && i < a->n_baselines; i++) {
        const bb_scored *b = &a->baselines[i];
        if ((double)b->size_bytes <= largest) {
            add_point(c, b, kl, b->name, false);
        } else if (kl) {
            char size[32];
            bb_format_size(b->size_bytes > 0 ? (uint64_t)b->size_bytes : 0, size);
            bb_text_addf(outside, "%s%s (%s)", outside->size > 0 ? ", " : "", b->name, size);
        }
    }
    find_range(c);
    /* Perplexities within a factor of three read better on a linear axis. */
    if (!kl && c->n > 0 && c->axes.log && c->axes.y1 / c->axes.y0 < 3) {
        c->axes.log = false;
        find_range(c);
    }
    return BB_OK;
}

typedef struct box {
    double x0, y0, x1, y1;
} box; /* pixels, y upward */

static double overlap(const box *a, const box *b)
{
    double w = fmin(a->x1, b->x1) - fmax(a->x0, b->x0), h = fmin(a->y1, b->y1) - fmax(a->y0, b->y0);
    return w > 0 && h > 0 ? w * h : 0;
}

static void to_pixels(const axes *a, const point *p, double *x, double *y)
{
    double v = a->log ? log(p->y / a->y0) / log(a->y1 / a->y0) : (p->y - a->y0) / (a->y1 - a->y0);
    *x = WIDTH * (LEFT + (RIGHT - LEFT) * (p->x - a->x0) / (a->x1 - a->x0));
    *y = HEIGHT * (BOTTOM + (TOP - BOTTOM) * v);
}

/* What a label at `b` would hide: points count more than labels, leaving the plot area most. */
static double hidden(const cloud *c, const box *b, const box *placed, size_t n_placed)
{
    box    area = { WIDTH * LEFT, HEIGHT * BOTTOM, WIDTH * RIGHT, HEIGHT * TOP };
    double whole = (b->x1 - b->x0) * (b->y1 - b->y0), cost = 10 * (whole - overlap(b, &area));
    for (size_t i = 0; i < c->n; i++) {
        double x, y;
        to_pixels(&c->axes, &c->p[i], &x, &y);
        cost += 3 * overlap(b, &(box) { x - 4, y - 4, x + 4, y + 4 });
    }
    for (size_t i = 0; i < n_placed; i++) cost += 2 * overlap(b, &placed[i]);
    return cost;
}

/* Greedy: each label takes the place around its point that hides least. */
static bb_status add_labels(bb_text *gp, const cloud *c, bb_err *err)
{
    static const double around[][2] = { { 1, 0 },   { -1, 0 }, { 0, 1 },  { 0, -1 }, { 1, 1 },  { 1, -1 }, { -1, 1 },
                                        { -1, -1 }, { 0, 2 },  { 0, -2 }, { 1, 2 },  { 1, -2 }, { -1, 2 }, { -1, -2 } };
    enum { N_AROUND = sizeof around / sizeof around[0] };
    const double glyph = 6.0, height = 13;
    box         *placed = BB_NEW(c->n - c->n_plans, box, err);
    if (!placed) return BB_NOMEM;
    for (size_t i = c->n_plans, n = 0; i < c->n; i++, n++) {
        double x, y, least = (double)INFINITY, width = glyph * (double)strnlen(c->p[i].label, 48);
        to_pixels(&c->axes, &c->p[i], &x, &y);
        for (size_t k = 0; k < N_AROUND; k++) {
            double dx = around[k][0], dy = around[k][1], middle = x + dx * (width / 2 + 8), centre = y + dy * 12;
            box    b = { middle - width / 2, centre - height / 2, middle + width / 2, centre + height / 2 };
            double cost = hidden(c, &b, placed, n) + 2 * (double)k;
            if (cost >= least) continue;
            least = cost;
            placed[n] = b;
        }
        bb_text_add(gp, "set label ");
        add_quoted(gp, c->p[i].label);
        bb_text_addf(gp, " at screen %.4f,%.4f center font ',11' textcolor " INK "\n", (placed[n].x0 + placed[n].x1) / 2 / WIDTH,
                     (placed[n].y0 + placed[n].y1) / 2 / HEIGHT);
    }
    bb_free(placed);
    return BB_OK;
}

/* Whether two plans are on the front, so that there is a line to draw. */
static bool has_line(const cloud *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_plans; i++) n += c->p[i].on_front;
    return n > 1;
}

/* Data blocks: plans; the line of the front, if there is one; baselines, if there are any. Empty blocks would shift gnuplot's count. */
static void add_cloud_data(bb_text *dat, const cloud *c)
{
    bb_text_addf(dat, "# %s, value, low, high; blocks: plans%s%s\n", c->x_label, has_line(c) ? ", front" : "", c->n > c->n_plans ? ", baselines" : "");
    for (int block = has_line(c) ? 0 : 1; block < 3; block++) {
        /* Block 1 is all plans, or, after block 0, those on the front. */
        for (size_t i = block == 2 ? c->n_plans : 0; i < (block == 2 ? c->n : c->n_plans); i++) {
            const point *p = &c->p[i];
            if (block == 1 && has_line(c) && !p->on_front) continue;
            bb_text_addf(dat, "%.9g %.9g %.9g %.9g\n", p->x, p->y, fmax(p->y - p->se, c->axes.y0), p->y + p->se);
        }
        bb_text_add(dat, "\n\n");
    }
}

/* Bars are vectors: gnuplot paints a white disc under the points of its own error bars. */
static void add_points(bb_text *gp, int block, int shape, double size, const char *colour, const char *title)
{
    bb_text_addf(gp, "index %d using 1:3:(0):($4-$3) with vectors nohead lw 1.4 lc rgb '%s' notitle, \\\n  '' ", block, colour);
    bb_text_addf(gp, "index %d using 1:2 with points pt %d ps %.2f lc rgb '%s' title '%s'", block, shape, size, colour, title);
}

static bb_status draw_cloud(const bb_artefacts *a, bb_plot plot, char **svg, bb_text *outside, bb_err *err)
{
    bb_status status;
    bool      kl = plot == BB_PLOT_FRONT;
    bb_text   gp = { 0 }, dat = { 0 };
    cloud     c;
    BB_TRY(make_cloud(a, kl, &c, outside, err));
    if (c.n_plans == 0) goto done;
    add_setup(&gp, plot, WIDTH, HEIGHT);
    add_margins(&gp, kl ? "KL, nats a token" : "perplexity");
    add_axes(&gp, &c.axes, c.x_label);
    BB_TRY(add_labels(&gp, &c, err));
    bb_text_addf(&gp, "plot '%s.dat' ", NAMES[plot]);
    if (has_line(&c)) bb_text_addf(&gp, "index 1 using 1:2 with lines lw 1.6 lc rgb '%s' notitle, \\\n  '' ", SERIES[0]);
    add_points(&gp, 0, 7, 0.55, SERIES[0], "plans of this run");
    if (c.n > c.n_plans) {
        bb_text_add(&gp, ", \\\n  '' ");
        add_points(&gp, has_line(&c) ? 2 : 1, 13, 0.75, SERIES[1], "baselines");
    }
    if (is_plottable(c.original)) bb_text_addf(&gp, ", \\\n  %.9g with lines lw 1.2 dt 2 lc " INK " title 'the original'", c.original);
    bb_text_add(&gp, "\n");
    add_cloud_data(&dat, &c);
    BB_TRY(draw(a->dir, plot, &gp, &dat, svg, err));
done:
    bb_free(c.p);
    bb_text_done(&gp);
    bb_text_done(&dat);
    return status;
}

/* ---- sensitivity: one small plot a kind of unit, one line a block ---- */

typedef struct bend {
    int     panel;
    int64_t block;
    double  x, y;
} bend;

enum { N_PANELS = BB_COL_COUNT + 1 };
static const char *const PANELS[N_PANELS] = { "attn_q", "attn_k",   "attn_v",         "attn_output",    "ffn_gate",
                                              "ffn_up", "ffn_down", "KV groups kept", "FFN width kept", "embedding (blue), head" };

static int by_bend(const void *a, const void *b)
{
    const bend *x = a, *y = b;
    if (x->panel != y->panel) return x->panel < y->panel ? -1 : 1;
    if (x->block != y->block) return x->block < y->block ? -1 : 1;
    if (x->x < y->x || x->x > y->x) return x->x < y->x ? -1 : 1;
    return (x->y > y->y) - (x->y < y->y);
}

/* Points of the curves: of options with the same bits only the best, sorted by panel, block and bits. */
static bb_status find_bends(const bb_artefacts *a, bend **out, size_t *n, bb_err *err)
{
    size_t kept = 0;
    *n = 0;
    if (!(*out = BB_NEW(a->n_sensitivity, bend, err))) return BB_NOMEM;
    for (size_t i = 0; i < a->n_sensitivity; i++) {
        const bb_choice *s = &a->sensitivity[i];
        bool             count = s->column == BB_COL_KV || s->column == BB_COL_FFN;
        double           x = (double)NAN;
        int64_t          whole;
        if (!count) x = bb_option_bits(s->option);
        else if (bb_parse_int(s->option, &whole, NULL) == BB_OK) x = (double)whole;
        if (s->column == BB_COL_OTHER || !is_plottable(x) || !is_plottable(s->value)) continue;
        int panel = s->column < BB_COL_COUNT ? (int)s->column : BB_COL_COUNT;
        (*out)[(*n)++] = (bend) { panel, s->column == BB_COL_OUTPUT ? 1 : s->column == BB_COL_EMBD ? 0 : s->block, x, s->value };
    }
    if (*n > 0) qsort(*out, *n, sizeof **out, by_bend);
    for (size_t i = 0; i < *n; i++) {
        const bend *b = &(*out)[i], *last = kept > 0 ? &(*out)[kept - 1] : NULL;
        if (last && last->panel == b->panel && last->block == b->block && !(b->x > last->x)) continue;
        (*out)[kept++] = *b;
    }
    *n = kept;
    return BB_OK;
}

/* First block blue, last block orange. */
static unsigned depth_colour(int64_t block, int64_t last)
{
    static const int from[3] = { 0x3f, 0x86, 0xcf }, to[3] = { 0xe0, 0x81, 0x2b };
    unsigned         out = 0;
    double           t = last > 0 ? (double)block / (double)last : 0;
    for (int i = 0; i < 3; i++) out = out << 8 | (unsigned)(from[i] + t * (to[i] - from[i]) + 0.5);
    return out;
}

/* Columns x, KL, colour; an empty line between blocks, two between panels. */
static void add_bend_data(bb_text *dat, const bend *b, size_t n, double floor_kl, size_t *n_panels, int panels[N_PANELS])
{
    int64_t last[N_PANELS] = { 0 };
    for (size_t i = 0; i < n; i++)
        if (b[i].block > last[b[i].panel]) last[b[i].panel] = b[i].block;
    *n_panels = 0;
    bb_text_add(dat, "# bits per weight or width kept, KL in nats a token, colour; a paragraph a block, two empty lines between panels\n");
    for (size_t i = 0; i < n; i++) {
        bool new_panel = i == 0 || b[i].panel != b[i - 1].panel;
        if (new_panel) panels[(*n_panels)++] = b[i].panel;
        if (i > 0 && new_panel) bb_text_add(dat, "\n\n");
        else if (i > 0 && b[i].block != b[i - 1].block) bb_text_add(dat, "\n");
        bb_text_addf(dat, "%.9g %.9g %u\n", b[i].x, fmax(b[i].y, floor_kl), depth_colour(b[i].block, last[b[i].panel]));
    }
}

/* row: 0 is the top, rows the number of them; the first panel of a row carries its y label, at a fixed place as in add_margins. */
static void add_panel(bb_text *gp, int panel, size_t index, const bend *b, size_t n, bool points, bool first, int row, int rows)
{
    double x0 = (double)INFINITY, x1 = -x0;
    bool   count = panel == BB_COL_KV || panel == BB_COL_FFN;
    for (size_t i = 0; i < n; i++) {
        if (b[i].panel != panel && (count || b[i].panel == BB_COL_KV || b[i].panel == BB_COL_FFN)) continue;
        x0 = fmin(x0, b[i].x);
        x1 = fmax(x1, b[i].x);
    }
    double pad = x1 > x0 ? 0.04 * (x1 - x0) : 1;
    bb_text_addf(gp, "set title '%s' textcolor " INK " offset 0,-0.8\nset xlabel '%s' textcolor " INK " offset 0,0.8\n", PANELS[panel],
                 count ? "kept" : "bits per weight");
    bb_text_addf(gp, "set xrange [%.9g:%.9g]\n", x0 - pad, x1 + pad);
    add_ticks(gp, 'x', x0 - pad, x1 + pad, false);
    bb_text_add(gp, "unset label 1000\n");
    if (first) bb_text_addf(gp, "set label 1000 'KL, nats a token' at screen 0.012,%.4f center rotate by 90 textcolor " INK "\n", 1 - (row + 0.45) / rows);
    bb_text_addf(gp, "plot 'sensitivity.dat' index %zu using 1:2:3 with %s lw 1.2 lc rgb variable notitle\n", index,
                 points ? "linespoints pt 7 ps 0.25" : "lines");
}

static bb_status draw_sensitivity(const bb_artefacts *a, char **svg, bb_err *err)
{
    bb_status status;
    bb_text   gp = { 0 }, dat = { 0 };
    bend     *b = NULL;
    size_t    n = 0, n_panels = 0;
    int       panels[N_PANELS];
    double    low = (double)INFINITY, high = 0;
    BB_TRY(find_bends(a, &b, &n, err));
    for (size_t i = 0; i < n; i++) {
        if (bb_is_positive(b[i].y)) low = fmin(low, b[i].y);
        high = fmax(high, b[i].y);
    }
    if (n == 0 || !(high > 0)) goto done;
    low = fmax(low, high * 1e-7);
    add_bend_data(&dat, b, n, low, &n_panels, panels);
    int columns = n_panels < 3 ? (int)n_panels : 3, rows = ((int)n_panels + columns - 1) / columns;
    add_setup(&gp, BB_PLOT_SENSITIVITY, 320 * columns, 245 * rows);
    bb_text_addf(&gp, "set tics font ',11'\nset xtics offset 0,0.3\nset logscale y\nset yrange [%.9g:%.9g]\n", low / 1.3, high * 1.3);
    add_ticks(&gp, 'y', low / 1.3, high * 1.3, true);
    bb_text_addf(&gp, "set multiplot layout %d,%d margins screen %.4f,0.985,%.4f,%.4f spacing screen %.4f,%.4f\n", rows, columns, 0.3 / columns, 0.19 / rows,
                 1 - 0.1 / rows, 0.19 / columns, 0.33 / rows);
    for (size_t i = 0; i < n_panels; i++) add_panel(&gp, panels[i], i, b, n, n < 1500, i % (size_t)columns == 0, (int)i / columns, rows);
    bb_text_add(&gp, "unset multiplot\n");
    BB_TRY(draw(a->dir, BB_PLOT_SENSITIVITY, &gp, &dat, svg, err));
done:
    bb_free(b);
    bb_text_done(&gp);
    bb_text_done(&dat);
    return status;
}

/* ---- convergence ---- */

static bool is_drawable(const bb_step *s, bool log) { return is_plottable(s->step) && is_plottable(s->kl) && (!log || bb_is_positive(s->kl)); }

/* Whether no drawable step before i has i's label. */
static bool is_first_of_label(const bb_artefacts *a, size_t i, bool log)
{
    for (size_t k = 0; k < i; k++)
        if (is_drawable(&a->steps[k], log) && strcmp(a->steps[k].label, a->steps[i].label) == 0) return false;
    return true;
}

static axes convergence_axes(const bb_artefacts *a, size_t *n)
{
    axes x = { (double)INFINITY, -(double)INFINITY, (double)INFINITY, -(double)INFINITY, true };
    for (size_t i = 0; i < a->n_steps; i++)
        if (is_plottable(a->steps[i].kl) && a->steps[i].kl <= 0) x.log = false;
    *n = 0;
    for (size_t i = 0; i < a->n_steps; i++) {
        if (!is_drawable(&a->steps[i], x.log)) continue;
        ++*n;
        x.x0 = fmin(x.x0, a->steps[i].step);
        x.x1 = fmax(x.x1, a->steps[i].step);
        x.y0 = fmin(x.y0, a->steps[i].kl);
        x.y1 = fmax(x.y1, a->steps[i].kl);
    }
    double pad = x.x1 > x.x0 ? 0.02 * (x.x1 - x.x0) : 1, more = x.y1 > x.y0 ? 0.06 * (x.y1 - x.y0) : fmax(0.06 * fabs(x.y1), 1e-6);
    x.x0 -= pad;
    x.x1 += pad;
    double factor = x.y1 > x.y0 && x.log ? pow(x.y1 / x.y0, 0.06) : 1.2;
    x.y0 = x.log ? x.y0 / factor : x.y0 - more;
    x.y1 = x.log ? x.y1 * factor : x.y1 + more;
    open_axes(&x);
    return x;
}

static bb_status draw_convergence(const bb_artefacts *a, char **svg, bb_err *err)
{
    bb_status status = BB_OK;
    bb_text   gp = { 0 }, dat = { 0 };
    size_t    n, n_labels = 0;
    axes      x = convergence_axes(a, &n);
    if (n == 0) return BB_OK;
    add_setup(&gp, BB_PLOT_CONVERGENCE, WIDTH, HEIGHT);
    add_margins(&gp, "KL, nats a token");
    add_axes(&gp, &x, "step");
    bb_text_add(&dat, "# step, KL in nats a token; a block a label\n");
    bb_text_add(&gp, "plot ");
    for (size_t i = 0; i < a->n_steps; i++) {
        if (!is_drawable(&a->steps[i], x.log) || !is_first_of_label(a, i, x.log)) continue;
        if (n_labels > 0) bb_text_add(&dat, "\n\n");
        for (size_t k = i; k < a->n_steps; k++)
            if (strcmp(a->steps[k].label, a->steps[i].label) == 0 && is_drawable(&a->steps[k], x.log))
                bb_text_addf(&dat, "%.9g %.9g\n", a->steps[k].step, a->steps[k].kl);
        bb_text_addf(&gp, "%s'convergence.dat' index %zu using 1:2 with linespoints pt 7 ps 0.3 lw 1.5 lc rgb '%s' ", n_labels ? ", \\\n  " : "", n_labels,
                     SERIES[n_labels % N_SERIES]);
        if (n_labels < N_SERIES && *a->steps[i].label) {
            bb_text_add(&gp, "title ");
            add_quoted(&gp, a->steps[i].label);
        } else {
            bb_text_add(&gp, "notitle");
        }
        n_labels++;
    }
    bb_text_add(&gp, "\n");
    BB_TRY(draw(a->dir, BB_PLOT_CONVERGENCE, &gp, &dat, svg, err));
done:
    bb_text_done(&gp);
    bb_text_done(&dat);
    return status;
}

/* ---- rivals: search.csv ---- */

typedef struct contest {
    double      size, ratio;
    const char *method;
} contest;

/* KL of every row over that of the method "ours" at the same size; rows without are left out. */
static bb_status read_contest(const bb_csv *t, contest **out, size_t *n, bb_err *err)
{
    const long size = bb_csv_column(t, "budget_bytes"), method = bb_csv_column(t, "method"), kl = bb_csv_column(t, "kl_nats");
    bb_status  status = BB_OK;
    *n = 0;
    if (size < 0 || method < 0 || kl < 0) return BB_FAIL(err, BB_BAD_FILE, "%s: the columns budget_bytes, method and kl_nats are needed", t->path);
    if (!(*out = BB_NEW0(t->n_rows, contest, err))) return BB_NOMEM;
    for (size_t i = 0; i < t->n_rows; i++)
        for (size_t k = 0; k < t->n_rows; k++) {
            double bytes, a, b;
            if (strcmp(bb_csv_text(t, k, (size_t)method), "ours") != 0 || strcmp(bb_csv_text(t, k, (size_t)size), bb_csv_text(t, i, (size_t)size)) != 0)
                continue;
            BB_TRY(bb_csv_double(t, i, (size_t)size, &bytes, err));
            BB_TRY(bb_csv_double(t, i, (size_t)kl, &a, err));
            BB_TRY(bb_csv_double(t, k, (size_t)kl, &b, err));
            if (bb_is_positive(a) && bb_is_positive(b) && bytes > 0) (*out)[(*n)++] = (contest) { bytes / 1048576, a / b, bb_csv_text(t, i, (size_t)method) };
            break;
        }
done:
    return status;
}

static void add_contest(bb_text *gp, bb_text *dat, const contest *c, size_t n)
{
    size_t n_methods = 0;
    bb_text_add(dat, "# size in MiB, KL over that of ours; a block a method\n");
    bb_text_add(gp, "plot ");
    for (size_t i = 0; i < n; i++) {
        bool first = true;
        for (size_t k = 0; first && k < i; k++) first = strcmp(c[k].method, c[i].method) != 0;
        if (!first) continue;
        if (n_methods > 0) bb_text_add(dat, "\n\n");
        for (size_t k = i; k < n; k++)
            if (strcmp(c[k].method, c[i].method) == 0) bb_text_addf(dat, "%.9g %.9g\n", c[k].size, c[k].ratio);
        bb_text_addf(gp, "%s'rivals.dat' index %zu using 1:2 with linespoints pt 7 ps 0.5 lw 1.5 lc rgb '%s' title ", n_methods ? ", \\\n  " : "", n_methods,
                     SERIES[n_methods % N_SERIES]);
        add_quoted(gp, c[i].method);
        n_methods++;
    }
    bb_text_add(gp, "\n");
}

static bb_status draw_rivals(const bb_artefacts *a, char **svg, bb_err *err)
{
    char     *path = bb_asprintf(err, "%s/search.csv", a->dir);
    bb_csv    t = { 0 };
    bb_text   gp = { 0 }, dat = { 0 };
    contest  *c = NULL;
    size_t    n = 0;
    axes      x = { HUGE_VAL, 0, 1, 1, true };
    bb_status status = BB_OK;
    if (!path) return BB_NOMEM;
    if (!bb_file_exists(path)) goto done;
    BB_TRY(bb_csv_read(path, &t, err));
    BB_TRY(read_contest(&t, &c, &n, err));
    if (n == 0) goto done;
    for (size_t i = 0; i < n; i++) {
        x.x0 = fmin(x.x0, c[i].size);
        x.x1 = fmax(x.x1, c[i].size);
        x.y0 = fmin(x.y0, c[i].ratio);
        x.y1 = fmax(x.y1, c[i].ratio);
    }
    double pad = x.x1 > x.x0 ? 0.03 * (x.x1 - x.x0) : 1;
    x = (axes) { x.x0 - pad, x.x1 + pad, x.y0 / 1.1, x.y1 * 1.2, true };
    open_axes(&x);
    add_setup(&gp, BB_PLOT_RIVALS, WIDTH, HEIGHT);
    add_margins(&gp, "KL over that of ours");
    add_axes(&gp, &x, "size of the file, MiB");
    add_contest(&gp, &dat, c, n);
    BB_TRY(draw(a->dir, BB_PLOT_RIVALS, &gp, &dat, svg, err));
done:
    bb_free(c);
    bb_csv_done(&t);
    bb_free(path);
    bb_text_done(&gp);
    bb_text_done(&dat);
    return status;
}

/* ---- every plan that the search scored: plans.csv ---- */

typedef struct scored {
    double  size, kl;
    int64_t windows, chosen;
} scored;

static int by_windows(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->chosen != y->chosen) return x->chosen < y->chosen ? -1 : 1;
    if (x->windows != y->windows) return x->windows < y->windows ? -1 : 1;
    if (x->size < y->size || x->size > y->size) return x->size < y->size ? -1 : 1;
    return (x->kl > y->kl) - (x->kl < y->kl);
}

static bb_status read_scored_plans(const bb_csv *t, scored **out, size_t *n, bb_err *err)
{
    static const char *const names[] = { "size_bytes", "kl_nats", "windows", "chosen" };
    long                     at[4];
    bb_status                status = BB_OK;
    *n = 0;
    for (int i = 0; i < 4; i++)
        if ((at[i] = bb_csv_column(t, names[i])) < 0) return BB_FAIL(err, BB_BAD_FILE, "%s: the column '%s' is missing from the header", t->path, names[i]);
    if (!(*out = BB_NEW(t->n_rows, scored, err))) return BB_NOMEM;
    for (size_t i = 0; i < t->n_rows; i++) {
        scored *s = &(*out)[*n];
        BB_TRY(bb_csv_double(t, i, (size_t)at[0], &s->size, err));
        BB_TRY(bb_csv_double(t, i, (size_t)at[1], &s->kl, err));
        BB_TRY(bb_csv_int(t, i, (size_t)at[2], &s->windows, err));
        BB_TRY(bb_csv_int(t, i, (size_t)at[3], &s->chosen, err));
        s->size /= 0x1p20;
        *n += bb_is_positive(s->size) && bb_is_positive(s->kl);
    }
    if (*n) qsort(*out, *n, sizeof **out, by_windows);
done:
    return status;
}

/* A block of points for each number of windows, and last the chosen plans. */
static void add_scored(bb_text *gp, bb_text *dat, const scored *s, size_t n)
{
    size_t block = 0;
    bb_text_add(dat, "# size in MiB, KL in nats a token; a block a number of windows, last the chosen plans\n");
    bb_text_add(gp, "plot ");
    for (size_t i = 0; i < n; i++) {
        const bool begins = i == 0 || s[i].windows != s[i - 1].windows || s[i].chosen != s[i - 1].chosen;
        if (begins) {
            if (block > 0) bb_text_add(dat, "\n\n");
            bb_text_addf(gp, "%s'scored.dat' index %zu using 1:2 with points pt 7 ps %s lc rgb '%s' title '%s%lld windows'", block ? ", \\\n  " : "", block,
                         s[i].chosen ? "0.6" : "0.2", SERIES[block % N_SERIES], s[i].chosen ? "chosen, " : "", (long long)s[i].windows);
            block++;
        }
        bb_text_addf(dat, "%.9g %.9g\n", s[i].size, s[i].kl);
    }
    bb_text_add(gp, "\n");
}

static bb_status draw_scored(const bb_artefacts *a, char **svg, bb_err *err)
{
    char     *path = bb_asprintf(err, "%s/plans.csv", a->dir);
    bb_csv    t = { 0 };
    bb_text   gp = { 0 }, dat = { 0 };
    scored   *s = NULL;
    size_t    n = 0;
    axes      x = { HUGE_VAL, 0, HUGE_VAL, 0, true };
    bb_status status = BB_OK;
    if (!path) return BB_NOMEM;
    if (!bb_file_exists(path)) goto done;
    BB_TRY(bb_csv_read(path, &t, err));
    BB_TRY(read_scored_plans(&t, &s, &n, err));
    if (n == 0) goto done;
    for (size_t i = 0; i < n; i++) {
        x.x0 = fmin(x.x0, s[i].size);
        x.x1 = fmax(x.x1, s[i].size);
        x.y0 = fmin(x.y0, s[i].kl);
        x.y1 = fmax(x.y1, s[i].kl);
    }
    const double pad = x.x1 > x.x0 ? 0.03 * (x.x1 - x.x0) : 0.05 * x.x1;
    x = (axes) { x.x0 - pad, x.x1 + pad, x.y0 / 1.2, x.y1 * 1.2, true };
    open_axes(&x);
    add_setup(&gp, BB_PLOT_SCORED, WIDTH, HEIGHT);
    add_margins(&gp, "KL before finalising, nats a token");
    add_axes(&gp, &x, "size of the file, MiB");
    add_scored(&gp, &dat, s, n);
    BB_TRY(draw(a->dir, BB_PLOT_SCORED, &gp, &dat, svg, err));
done:
    bb_free(s);
    bb_csv_done(&t);
    bb_free(path);
    bb_text_done(&gp);
    bb_text_done(&dat);
    return status;
}

/* ---- all ---- */

bb_status bb_plots_draw(const bb_artefacts *a, bb_plots *plots, bb_err *err)
{
    bb_status status;
    memset(plots, 0, sizeof *plots);
    BB_TRY(draw_cloud(a, BB_PLOT_FRONT, &plots->svg[BB_PLOT_FRONT], &plots->outside, err));
    BB_TRY(draw_cloud(a, BB_PLOT_PERPLEXITY, &plots->svg[BB_PLOT_PERPLEXITY], &plots->outside, err));
    BB_TRY(draw_sensitivity(a, &plots->svg[BB_PLOT_SENSITIVITY], err));
    BB_TRY(draw_convergence(a, &plots->svg[BB_PLOT_CONVERGENCE], err));
    BB_TRY(draw_rivals(a, &plots->svg[BB_PLOT_RIVALS], err));
    BB_TRY(draw_scored(a, &plots->svg[BB_PLOT_SCORED], err));
done:
    if (status != BB_OK) bb_plots_done(plots);
    return status;
}

void bb_plots_done(bb_plots *plots)
{
    for (int i = 0; i < BB_PLOT_COUNT; i++) bb_free(plots->svg[i]);
    bb_text_done(&plots->outside);
    memset(plots, 0, sizeof *plots);
}
