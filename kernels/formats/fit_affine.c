/* SPDX-License-Identifier: GPL-3.0-or-later
 * fit_affine.c: grids with a scale and a min.
 *
 * One group: starts over the width of the grid and where it sits on the weights, Lloyd steps (codes for the line w^ = a q + b,
 * weighted least squares of the line for the codes). A block of groups: candidate super scales d, then dmin, each judged by the
 * exact error with the best integers a group; then integers next to the present ones and the closed-form d, dmin by turns.
 */
#include <math.h>
#include <string.h>

#include "kernels/formats/fit.h"

enum { PLACES = 3, FIRST = 8, KEPT = 5, LLOYD_STEPS = 10 };

typedef struct line {
    float   a, b, error;
    bb_sums sums;
} line;

/* ---- one group, any real scale and min ---- */

/* The line for the codes that s was summed over; b <= 0 where the grid asks for it. false: all codes are equal. */
static bool solve(const bb_work *k, int group, const bb_sums *s, line *l)
{
    double hh = (double)k->hh[group], hw = (double)k->hw[group], wl = (double)s->wl, ll = (double)s->ll, hl = (double)s->l;
    double det = hh * ll - hl * hl;
    if (!(det > 1e-7 * hh * ll)) return false;
    l->a = (float)((hh * wl - hw * hl) / det);
    l->b = (float)((ll * hw - hl * wl) / det);
    if (k->grid->kind == BB_GRID_SCALES_MINS && l->b > 0) {
        l->a = (float)(wl / ll);
        l->b = 0;
    }
    return l->a > 0;
}

static line descend(const bb_work *k, int group, float a, float b)
{
    line best = { .a = a, .b = b, .sums = bb_work_sums(k, group, a, b) };
    best.error = best.sums.error;
    for (int i = 0; i < LLOYD_STEPS; i++) {
        line next;
        if (!solve(k, group, &best.sums, &next)) break;
        next.sums = bb_work_sums(k, group, next.a, next.b);
        next.error = next.sums.error;
        if (!(next.error < best.error)) break;
        best = next;
    }
    return best;
}

static void keep_line(line *best, int n, line l)
{
    for (int i = 0; i < n; i++) {
        if (l.error == best[i].error) return; /* the same codes found twice */
        if (l.error < best[i].error) {
            line t = best[i];
            best[i] = l;
            l = t;
        }
    }
}

/* What the error becomes when the line is solved for the codes that s was summed over. */
static float solved_error(const bb_work *k, int group, const bb_sums *s, const line *l)
{
    double a = (double)l->a, b = (double)l->b;
    return (float)((double)k->ww[group] + a * (a * (double)s->ll - 2 * (double)s->wl) +
                   b * (b * (double)k->hh[group] + 2 * a * (double)s->l - 2 * (double)k->hw[group]));
}

/* Solves the lines of t for their codes, keeps the best, empties t. */
static void keep_tries(const bb_work *k, int group, bb_tries *t, line *best)
{
    k->kernels->fit_tries(k, group, t);
    for (int i = 0; i < t->n; i++) {
        line l = { .sums = t->sums[i] };
        if (!solve(k, group, &l.sums, &l)) continue;
        l.error = solved_error(k, group, &l.sums, &l);
        keep_line(best, FIRST, l);
    }
    t->n = 0;
}

/* Best lines after one step from every start: widths of the grid from wider than the weights to clipping them, three places.
 * Fine grids have more good widths than coarse ones, and wider ones, where many weights happen to hit a level. */
static void first_lines(const bb_work *k, int group, float min, float max, line *best)
{
    const bool  fine = k->hi > 10, below = k->grid->kind == BB_GRID_SCALES_MINS;
    const float widest = fine ? 1.3f : 1.08f, narrowest = k->hi > 20 ? 0.8f : fine ? 0.65f : 0.4f;
    const int   widths = fine ? 16 : 9;
    bb_tries    t = { .n = 0 };
    for (int i = 0; i < widths; i++) {
        float width = (max - min) * (widest - (widest - narrowest) * (float)i / (float)(widths - 1));
        for (int p = 0; p < PLACES; p++) {
            float b = min + (max - min - width) * (float)p / (PLACES - 1);
            t.a[t.n] = width / (k->hi - k->lo);
            t.b[t.n] = below && b > 0 ? 0 : b;
            if (++t.n == 8) keep_tries(k, group, &t, best);
        }
    }
    if (t.n > 0) keep_tries(k, group, &t, best);
}

/* The best lines of a group, best first; the unused rest of best[KEPT] has an infinite error. */
static void group_lines(const bb_work *k, int group, line *best)
{
    const float *w = k->w + group * k->m, *h = k->h + group * k->m;
    float        min = INFINITY, max = -INFINITY;
    line         first[FIRST];
    for (int i = 0; i < KEPT; i++) best[i] = (line) { .error = INFINITY };
    for (int i = 0; i < FIRST; i++) first[i] = (line) { .error = INFINITY };
    for (int i = 0; i < k->m; i++)
        if (h[i] > 0) {
            min = w[i] < min ? w[i] : min;
            max = w[i] > max ? w[i] : max;
        }
    if (k->grid->kind == BB_GRID_SCALES_MINS) min = fminf(min, 0);
    if (!(max - min > 0x1p-60f)) return;
    first_lines(k, group, min, max, first);
    for (int i = 0; i < FIRST && first[i].error < INFINITY; i++) keep_line(best, KEPT, descend(k, group, first[i].a, first[i].b));
}

/* ---- one scale and one min a block ---- */

void bb_fit_scale_min(const bb_work *k, bb_fields *best)
{
    line l[KEPT];
    group_lines(k, 0, l);
    for (int i = 0; i < KEPT && l[i].error < INFINITY; i++) {
        /* Round the scale, solve for the min that goes with it, round that; then the neighbours of both. */
        float d0 = bb_work_store(k, l[i].a);
        for (int u = -1; u <= 1; u++) {
            float d = u ? bb_work_store_step(k, d0, u) : d0;
            float m0 = bb_work_store(k, (k->hw[0] - d * l[i].sums.l) / k->hh[0]);
            for (int v = -1; v <= 1; v++) {
                float m = v ? bb_work_store_step(k, m0, v) : m0;
                float e = bb_work_error(k, 0, d, m);
                if ((double)e < best->error) {
                    best->d = d;
                    best->dmin = m;
                    best->error = (double)e;
                }
            }
        }
    }
    float constant = bb_work_store(k, k->hw[0] / k->hh[0]); /* all weights equal, or as good as */
    float e = bb_work_error(k, 0, 0, constant);
    if ((double)e < best->error) {
        best->d = 0;
        best->dmin = constant;
        best->error = (double)e;
    }
}

/* ---- super scales, and two integers a group ----
 *
 * Near its line (a*, b*) a group's error is about E + kappa (a - a*)^2 + hh (b - b'(a))^2, where b'(a) is the best min for a and
 * kappa = ll - l^2 / hh: exact for the line's codes, too high where other codes are better. On this model d is scanned first,
 * with free mins, then dmin for the best few d; the exact error then ranks the best few pairs. */

enum { SCAN = 96, BEST_D = 3, BEST_PAIRS = 5, REFINED = 2, REFINE_STEPS = 8 };

static int clamp_int(float x, int hi) { return x >= (float)hi ? hi : x > 0 ? (int)x : 0; }

static float round_clamped(float x, float hi)
{
    x = x < 0 ? 0 : x > hi ? hi : x;
    return (x + 12582912.0f) - 12582912.0f;
}

typedef struct scan {
    _Alignas(32) float step[SCAN];  /* candidates for d or dmin, ascending */
    _Alignas(32) float error[SCAN]; /* model error of the block */
} scan;

static void scan_steps(scan *t, float middle)
{
    const float ratio = 1.0085f; /* 96 steps: from 0.7 to 1.56 */
    float       x = 0.7f * middle;
    for (int i = 0; i < SCAN; i++, x *= ratio) {
        t->step[i] = x;
        t->error[i] = 0;
    }
}

/* Adds one group's least error over its lines. */
static void scan_add(const bb_work *k, scan *t, const bb_parabola *lines, int n)
{
    _Alignas(32) float least[SCAN];
    if (n == 0) return;
    k->kernels->fit_scan(t->step, SCAN, lines, n, (float)k->grid->sc_hi, least);
    for (int i = 0; i < SCAN; i++) t->error[i] += least[i];
}

typedef struct pair {
    float d, dmin, error;
} pair;

static void keep_pair(pair *best, int n, pair p)
{
    for (int i = 0; i < n; i++)
        if (p.error < best[i].error) {
            pair t = best[i];
            best[i] = p;
            p = t;
        }
}

/* The local minima of a scan go to best[n]; one of d, dmin comes from `other`. */
static void scan_minima(const scan *t, const pair *other, pair *best, int n)
{
    for (int i = 0; i < SCAN; i++) {
        bool below_last = i == 0 || t->error[i] < t->error[i - 1], below_next = i == SCAN - 1 || t->error[i] <= t->error[i + 1];
        if (!below_last || !below_next) continue;
        keep_pair(best, n, other ? (pair) { other->d, t->step[i], t->error[i] } : (pair) { t->step[i], 0, t->error[i] });
    }
}

static int count_lines(const line *l)
{
    int n = 0;
    while (n < KEPT && l[n].error < INFINITY) n++;
    return n;
}

static float curvature(const bb_work *k, int group, const line *l) { return fmaxf(l->sums.ll - l->sums.l * l->sums.l / k->hh[group], 0); }

static void scan_d(const bb_work *k, const line (*lines)[KEPT], float middle, pair *best)
{
    scan t;
    scan_steps(&t, middle);
    for (int g = 0; g < k->n_groups; g++) {
        bb_parabola p[KEPT];
        int         n = count_lines(lines[g]);
        for (int i = 0; i < n; i++) p[i] = (bb_parabola) { lines[g][i].error, curvature(k, g, &lines[g][i]), lines[g][i].a };
        scan_add(k, &t, p, n);
    }
    scan_minima(&t, NULL, best, BEST_D);
}

/* For one d, with the integers that the model gives it. */
static void scan_dmin(const bb_work *k, const line (*lines)[KEPT], const pair *p, float middle, pair *best)
{
    const float hi = (float)k->grid->sc_hi;
    scan        t;
    scan_steps(&t, middle);
    for (int g = 0; g < k->n_groups; g++) {
        bb_parabola q[KEPT];
        int         n = count_lines(lines[g]);
        for (int i = 0; i < n; i++) {
            const line *l = &lines[g][i];
            float       a = p->d * round_clamped(l->a / p->d, hi), r = a - l->a;
            q[i] = (bb_parabola) { l->error + curvature(k, g, l) * r * r, k->hh[g], (a * l->sums.l - k->hw[g]) / k->hh[g] };
        }
        scan_add(k, &t, q, n);
    }
    scan_minima(&t, p, best, BEST_PAIRS);
}

/* Lines share neighbours: what is in t already is not added again. */
static void add_try(bb_tries *t, const bb_fields *f, int sc, int mn)
{
    for (int i = 0; i < t->n; i++)
        if (t->sc[i] == sc && t->mn[i] == mn) return;
    t->a[t->n] = f->d * (float)sc;
    t->b[t->n] = -(f->dmin * (float)mn);
    t->sc[t->n] = (int16_t)sc;
    t->mn[t->n++] = (int16_t)mn;
}

/* Tries all of t, takes the best if it is below *sums, empties t. */
static void take_best(const bb_work *k, int group, bb_tries *t, bb_fields *f, bb_sums *sums)
{
    k->kernels->fit_tries(k, group, t);
    for (int i = 0; i < t->n; i++)
        if (t->sums[i].error < sums->error) {
            *sums = t->sums[i];
            f->sc[group] = t->sc[i];
            f->mn[group] = t->mn[i];
        }
    t->n = 0;
}

/* For one (d, dmin): the integers next to each of a group's lines, by exact error. A line is turned about its centre of
 * gravity. Returns the error. */
static float choose(const bb_work *k, int group, const line *lines, bb_fields *f)
{
    const int   hi = k->grid->sc_hi;
    const float mean = k->hw[group] / k->hh[group];
    bb_sums     least = { .error = k->ww[group] }; /* all codes 0, no min */
    bb_tries    t = { .n = 0 };
    const float per_d = 1 / f->d, per_dmin = f->dmin > 0 ? 1 / f->dmin : 0;
    f->sc[group] = f->mn[group] = 0;
    for (int n = 0; n < KEPT && lines[n].error < least.error; n++) {
        const float mean_level = lines[n].sums.l / k->hh[group];
        const int   s0 = clamp_int(lines[n].a * per_d, hi);
        for (int s = s0; s <= s0 + 1 && s <= hi; s++) {
            int m0 = clamp_int((f->d * (float)s * mean_level - mean) * per_dmin, hi);
            for (int m = m0; m <= m0 + (f->dmin > 0) && m <= hi; m++) {
                add_try(&t, f, s, m);
                if (t.n == 8) take_best(k, group, &t, f, &least);
            }
        }
    }
    if (t.n > 0) take_best(k, group, &t, f, &least);
    return least.error;
}

/* All groups for f->d, f->dmin; stops early once the error is above limit. */
static void choose_all(const bb_work *k, const line (*lines)[KEPT], bb_fields *f, double limit)
{
    f->error = 0;
    for (int g = 0; g < k->n_groups && f->error <= limit; g++) f->error += (double)choose(k, g, lines[g], f);
}

/* Exact: the eight neighbours of a group's integers. */
static void refine_group(const bb_work *k, int group, bb_fields *f, bb_sums *sums)
{
    const int hi = k->grid->sc_hi, s0 = f->sc[group], m0 = f->mn[group];
    bb_tries  t = { .n = 0 };
    *sums = bb_work_sums(k, group, f->d * (float)s0, -(f->dmin * (float)m0));
    for (int s = s0 - 1; s <= s0 + 1; s++)
        for (int m = m0 - 1; m <= m0 + 1; m++)
            if (s >= 0 && s <= hi && m >= 0 && m <= hi && (s != s0 || m != m0)) add_try(&t, f, s, m);
    take_best(k, group, &t, f, sums);
}

/* Normal equations of (d, dmin) for fixed integers and codes. */
typedef struct normal {
    double dd, dm, mm, dw, mw;
} normal;

static void add_normal(normal *e, const bb_work *k, int group, const bb_sums *s, const bb_fields *f)
{
    double sc = f->sc[group], mn = f->mn[group];
    e->dd += sc * sc * (double)s->ll;
    e->dm -= sc * mn * (double)s->l;
    e->mm += mn * mn * (double)k->hh[group];
    e->dw += sc * (double)s->wl;
    e->mw -= mn * (double)k->hw[group];
}

static void solve_normal(const normal *e, float *d, float *dmin)
{
    double det = e->dd * e->mm - e->dm * e->dm;
    if (e->mm > 0 && det > 1e-9 * e->dd * e->mm) {
        *d = (float)((e->dw * e->mm - e->mw * e->dm) / det);
        *dmin = (float)((e->mw * e->dd - e->dw * e->dm) / det);
    } else if (e->dd > 0) {
        *d = (float)(e->dw / e->dd);
    }
}

static void refine(const bb_work *k, bb_fields f, bb_fields *best)
{
    for (int step = 0; step < REFINE_STEPS; step++) {
        normal e = { 0 };
        double error = 0;
        for (int g = 0; g < k->n_groups; g++) {
            bb_sums s;
            refine_group(k, g, &f, &s);
            error += (double)s.error;
            add_normal(&e, k, g, &s, &f);
        }
        bool better = error < f.error;
        f.error = error;
        if (error < best->error) *best = f;
        if (step > 0 && !better) return;
        float d = f.d, dmin = f.dmin;
        solve_normal(&e, &d, &dmin);
        d = bb_work_store(k, d);
        dmin = bb_work_store(k, dmin);
        if (!(d > 0) || !(dmin >= 0) || (d == f.d && dmin == f.dmin)) return;
        f.d = d;
        f.dmin = dmin;
    }
}

static void keep_fields(bb_fields *best, int n, const bb_fields *f)
{
    int at = n;
    while (at > 0 && f->error < best[at - 1].error) at--;
    if (at == n) return;
    memmove(best + at + 1, best + at, (size_t)(n - at - 1) * sizeof *best);
    best[at] = *f;
}

/* d, dmin > 0 and integers for the lines that the groups have. */
static void fit_pairs(const bb_work *k, const line (*lines)[KEPT], bb_fields *best)
{
    pair      by_d[BEST_D], pairs[BEST_PAIRS];
    bb_fields kept[REFINED];
    float     a = 0, b = 0;
    for (int g = 0; g < k->n_groups; g++) {
        if (lines[g][0].error == INFINITY || !(k->hh[g] > 0x1p-20f)) continue;
        a = fmaxf(a, lines[g][0].a);
        b = fmaxf(b, -lines[g][0].b);
    }
    if (!(a > 0)) return;
    for (int i = 0; i < BEST_D; i++) by_d[i].error = INFINITY;
    for (int i = 0; i < BEST_PAIRS; i++) pairs[i].error = INFINITY;
    for (int i = 0; i < REFINED; i++) kept[i].error = (double)INFINITY;
    scan_d(k, lines, a / (float)k->grid->sc_hi, by_d);
    for (int i = 0; i < BEST_D && by_d[i].error < INFINITY; i++) {
        if (b > 0) scan_dmin(k, lines, &by_d[i], b / (float)k->grid->sc_hi, pairs);
        else keep_pair(pairs, BEST_PAIRS, by_d[i]);
    }
    for (int i = 0; i < BEST_PAIRS && pairs[i].error < INFINITY; i++) {
        bb_fields f = { .d = bb_work_store(k, pairs[i].d), .dmin = bb_work_store(k, pairs[i].dmin) };
        if (!(f.d > 0)) continue;
        choose_all(k, lines, &f, kept[REFINED - 1].error);
        keep_fields(kept, REFINED, &f);
    }
    for (int i = 0; i < REFINED && kept[i].error < (double)INFINITY; i++) refine(k, kept[i], best);
}

/* The same weights and lines seen from the other end of the grid: w -> -w, code q -> hi - q. */
static void mirror(const bb_work *k, bb_work *m, line (*lines)[KEPT])
{
    *m = *k;
    for (int i = 0; i < m->n; i++) m->w[i] = -m->w[i];
    for (int g = 0; g < m->n_groups; g++) {
        m->hw[g] = -m->hw[g];
        for (int i = 0; i < count_lines(lines[g]); i++) {
            line   *l = &lines[g][i];
            bb_sums s = l->sums;
            l->b = -(l->b + l->a * k->hi);
            l->sums.l = k->hi * k->hh[g] - s.l;
            l->sums.ll = k->hi * k->hi * k->hh[g] - 2 * k->hi * s.l + s.ll;
            l->sums.wl = s.wl - k->hi * k->hw[g];
        }
    }
}

/* The mins round differently when they are the upper ends of the groups, with d and dmin negative; the better one is taken. */
void bb_fit_scales_mins(const bb_work *k, bb_fields *best)
{
    line      lines[BB_MAX_GROUPS][KEPT];
    bb_work   m;
    bb_fields other = { .error = best->error };
    for (int g = 0; g < k->n_groups; g++) group_lines(k, g, lines[g]);
    fit_pairs(k, (const line(*)[KEPT])lines, best);
    mirror(k, &m, lines);
    fit_pairs(&m, (const line(*)[KEPT])lines, &other);
    if (other.error < best->error) {
        *best = other;
        best->d = -best->d;
        best->dmin = -best->dmin;
    }
}
