/* SPDX-License-Identifier: GPL-3.0-or-later
 * fit_scale.c: grids with scales only.
 *
 * For codes q the best scale is a = sum(h w l) / sum(h l^2), l = level of q, and it lowers the error by
 * sum(h w l)^2 / sum(h l^2). Seen from t = 1 / a, weight i changes its code where t = midpoint / w_i. A curve drops these
 * events into bins of log t with what each does to the two sums: the sums at the end of every bin, for the price of one
 * visit to each event. Its peaks are refined by Lloyd steps (codes for the scale, scale for the codes).
 */
#include <math.h>
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/half.h"

enum { CURVE = 128, WINDOW = 6, STARTS = 3, LLOYD_STEPS = 8 };

typedef struct curve {
    float first, step;          /* bit pattern of the first t, and bits a bin: nearly even in log t */
    float wl[CURVE], ll[CURVE]; /* sums for the codes at the end of each bin */
} curve;

typedef struct start { float a, error; } start;

/* ---- one group, any real scale ---- */

/* The range of t in which the best scale lies. Below t0 the largest weight is rounded to less than the last level. Above t1
 * the clipping of some single weight costs more than the whole error at the scale of the extremes, or the last level is under
 * half of the root mean square. false: all weights are 0. */
static bool curve_range(const bb_work *k, int group, float *t0, float *t1)
{
    const float *w = k->w + group * k->m, *h = k->h + group * k->m;
    const float near = fminf(-k->lo, k->hi), far = fmaxf(-k->lo, k->hi);
    float max = 0, reach = 0.5f * sqrtf(k->ww[group] / k->hh[group]);
    for (int i = 0; i < k->m; i++) {
        float x = h[i] > 0 ? fabsf(w[i]) : 0;
        max = x > max ? x : max;
    }
    if (!(reach > 0x1p-60f)) return false;
    float allowed = bb_work_error(k, group, max / near, 0);
    for (int i = 0; i < k->m; i++) {
        float x = h[i] > 0 ? fabsf(w[i]) - sqrtf(allowed / h[i]) : 0;
        reach = x > reach ? x : reach;
    }
    *t0 = (near > 3 ? 0.5f * near : near - 0.51f) / max;
    *t1 = 1.01f * far / fminf(reach, max);
    return true;
}

/* One weight's events: levels crossed in the direction of its sign as t grows. */
static void curve_events(curve *c, const float *levels, int code, int last, float w, float h)
{
    const int step = w > 0 ? 1 : -1;
    const float r = 1 / w, per_bin = 1 / c->step;
    for (; code != last; code += step) {
        float from = levels[code], to = levels[code + step], t = 0.5f * (from + to) * r;
        float at = ((float)bb_float_bits(t) - c->first) * per_bin;
        if (!(at < CURVE)) break;
        int bin = at > 0 ? (int)at : 0;
        c->wl[bin] += h * w * (to - from);
        c->ll[bin] += h * (to * to - from * from);
    }
}

/* sign: +1 for scales a > 0, -1 for a < 0 (the mirrored grid). false: nothing to fit. */
static bool curve_of(const bb_work *k, int group, float sign, curve *c)
{
    const float *w = k->w + group * k->m, *h = k->h + group * k->m, *levels = k->grid->format->levels;
    const int last = k->grid->format->n_levels - 1;
    uint32_t code[BB_MAX_BLOCK];
    float t0, t1;
    if (!curve_range(k, group, &t0, &t1)) return false;
    c->first = (float)bb_float_bits(t0);
    c->step = ((float)bb_float_bits(t1) - c->first) / CURVE;
    memset(c->wl, 0, sizeof c->wl);
    memset(c->ll, 0, sizeof c->ll);
    bb_work_codes(k, group, sign / t0, 0, code);
    for (int i = 0; i < k->m; i++) {
        float x = sign * w[i], l = levels[code[i]];
        if (!(h[i] > 0)) continue;
        c->wl[0] += h[i] * x * l;
        c->ll[0] += h[i] * l * l;
        if (fabsf(x) > 0x1p-60f) curve_events(c, levels, (int)code[i], x < 0 ? 0 : last, x, h[i]);
    }
    for (int i = 1; i < CURVE; i++) {
        c->wl[i] += c->wl[i - 1];
        c->ll[i] += c->ll[i - 1];
    }
    return true;
}

/* Puts s in its place among the best `n` starts, ascending error. */
static void keep_start(start *best, int n, start s)
{
    for (int i = 0; i < n; i++)
        if (s.error < best[i].error) {
            start t = best[i];
            best[i] = s;
            s = t;
        }
}

/* Merges the best separate peaks of the curve into best[STARTS]. */
static void curve_peaks(const bb_work *k, int group, const curve *c, float sign, start *best)
{
    float gain[CURVE];
    for (int i = 0; i < CURVE; i++) gain[i] = c->wl[i] > 0 && c->ll[i] > 0 ? c->wl[i] * c->wl[i] / c->ll[i] : 0;
    for (int s = 0; s < STARTS; s++) {
        int top = 0;
        for (int i = 1; i < CURVE; i++) top = gain[i] > gain[top] ? i : top;
        if (!(gain[top] > 0)) break;
        keep_start(best, STARTS, (start){sign * c->wl[top] / c->ll[top], k->ww[group] - gain[top]});
        for (int i = top > WINDOW ? top - WINDOW : 0; i < CURVE && i <= top + WINDOW; i++) gain[i] = 0;
    }
}

static start lloyd(const bb_work *k, int group, float a)
{
    bb_sums s = bb_work_sums(k, group, a, 0);
    for (int i = 0; i < LLOYD_STEPS && s.ll > 0; i++) {
        float next = s.wl / s.ll;
        bb_sums t = bb_work_sums(k, group, next, 0);
        if (!(t.error < s.error)) break;
        a = next;
        s = t;
    }
    return (start){a, s.error};
}

static bool mirrored(const bb_work *k) { return k->lo + k->hi != 0; }

/* The best scales of a group, best first; n of them, the rest of best[STARTS] has an infinite error. */
static void group_starts(const bb_work *k, int group, start *best)
{
    curve c;
    for (int i = 0; i < STARTS; i++) best[i] = (start){0, INFINITY};
    for (int sign = 1; sign >= (mirrored(k) ? -1 : 1); sign -= 2)
        if (curve_of(k, group, (float)sign, &c)) curve_peaks(k, group, &c, (float)sign, best);
    start refined[STARTS] = {{0, INFINITY}, {0, INFINITY}, {0, INFINITY}};
    for (int i = 0; i < STARTS && best[i].error < INFINITY; i++) keep_start(refined, STARTS, lloyd(k, group, best[i].a));
    memcpy(best, refined, sizeof refined);
}

/* ---- one scale a block ---- */

static void try_scale(const bb_work *k, float d, bb_fields *best)
{
    double error = (double)bb_work_error(k, 0, d, 0);
    if (error < best->error) {
        best->d = d;
        best->error = error;
    }
}

void bb_fit_scale(const bb_work *k, bb_fields *best)
{
    start s[STARTS];
    group_starts(k, 0, s);
    for (int i = 0; i < STARTS && s[i].error < INFINITY; i++) {
        float d = bb_work_store(k, s[i].a);
        try_scale(k, d, best);
        try_scale(k, bb_work_store_step(k, d, 1), best);
        try_scale(k, bb_work_store_step(k, d, -1), best);
    }
}

void bb_fit_power(const bb_work *k, bb_fields *best)
{
    float max = 0, d;
    for (int i = 0; i < k->n; i++) max = k->h[i] > 0 ? fmaxf(max, fabsf(k->w[i])) : max;
    d = bb_work_store(k, 2 * max);
    for (int i = 0; i < 18; i++) try_scale(k, bb_work_store(k, ldexpf(d, -i)), best);
}

/* ---- one byte a group ---- */

/* Few enough bytes lie in the useful range to try them all. Coarse bytes (E4M3 below its normal range) can make a scale best
 * that leaves the last levels unused, so the range starts where the first level alone would cover the largest weight. */
void bb_fit_byte_scales(const bb_work *k, bb_fields *best)
{
    const bb_grid *grid = k->grid;
    bb_fields f = {.error = 0};
    for (int g = 0; g < k->n_groups; g++) {
        float least = k->ww[g], t0, t1; /* scale 0 */
        f.sc[g] = (int16_t)grid->sc_lo;
        if (curve_range(k, g, &t0, &t1)) {
            int at = grid->sc_lo;
            while (at < grid->sc_hi && grid->byte_scales[at] * t1 < k->unit) at++;
            for (at -= at > grid->sc_lo; at <= grid->sc_hi && (grid->byte_scales[at] * t0 < k->hi * k->unit); at++) {
                float e = bb_work_error(k, g, grid->byte_scales[at] / k->unit, 0);
                if (e < least) {
                    least = e;
                    f.sc[g] = (int16_t)at;
                }
            }
        }
        f.error += (double)least;
    }
    if (f.error < best->error) *best = f;
}

/* ---- a super scale and one integer a group ---- */

enum { SUPER_CANDIDATES = 64, REFINE_STEPS = 6 };

/* What a group's error looks like from above: its curves, and its best scale of either sign. */
typedef struct group_view {
    curve c[2];      /* scales a > 0, a < 0 */
    float top[2];    /* least-squares scale at the peak of each (both in magnitude) */
    bool  zero;      /* nothing to fit: any field does, 0 is taken */
} group_view;

/* Error of a group at scale a of sign `side`, for codes that are the nearest ones up to the width of a bin: never too low. */
static float curve_error(const curve *c, float ww, float a)
{
    float at = ((float)bb_float_bits(1 / a) - c->first) / c->step - 0.5f;
    int   bin = at >= CURVE - 1 ? CURVE - 1 : at > 0 ? (int)at : 0;
    return ww + a * (a * c->ll[bin] - 2 * c->wl[bin]);
}

static void view_group(const bb_work *k, int group, group_view *v)
{
    int sides = mirrored(k) ? 2 : 1;
    v->top[0] = v->top[1] = 0;
    v->zero = false;
    for (int side = 0; side < sides; side++) {
        curve *c = &v->c[side];
        float  gain = 0;
        if (!curve_of(k, group, side ? -1.0f : 1.0f, c)) {
            v->zero = true;
            return;
        }
        for (int i = 0; i < CURVE; i++)
            if (c->wl[i] > 0 && c->wl[i] * c->wl[i] > gain * c->ll[i]) {
                gain = c->wl[i] * c->wl[i] / c->ll[i];
                v->top[side] = c->wl[i] / c->ll[i];
            }
    }
}

/* Best integer of a group for super scale d > 0, by its curves. */
static float choose_by_curve(const bb_work *k, int group, const group_view *v, float d, int16_t *sc)
{
    float least = k->ww[group];
    *sc = 0;
    if (v->zero) return 0;
    for (int side = 0; side < (mirrored(k) ? 2 : 1); side++) {
        int limit = side ? -k->grid->sc_lo : k->grid->sc_hi, s = (int)fminf(v->top[side] / d, (float)limit);
        for (int i = s > 0 ? s : 1; i <= s + 1 && i <= limit; i++) {
            float e = curve_error(&v->c[side], k->ww[group], d * (float)i);
            if (e < least) {
                least = e;
                *sc = (int16_t)(side ? -i : i);
            }
        }
    }
    return least;
}

/* Exact: the integers next to the present one (and next to the mirrored one) for super scale d, with new codes. */
static void refine_group(const bb_work *k, int group, const group_view *v, float d, int16_t *sc, bb_sums *sums)
{
    const int lo = k->grid->sc_lo, hi = k->grid->sc_hi, now = *sc;
    *sums = bb_work_sums(k, group, d * (float)now, 0);
    if (v->zero) return;
    int other = !mirrored(k) ? now : now > 0 ? (int)fmaxf(rintf(-v->top[1] / d), (float)lo) : (int)fminf(rintf(v->top[0] / d), (float)hi);
    int tries[4] = {now - 1, now + 1, other, other + (now > 0 ? 1 : -1)};
    for (int i = 0; i < (mirrored(k) ? 4 : 2); i++) {
        if (tries[i] < lo || tries[i] > hi || tries[i] == now) continue;
        bb_sums s = bb_work_sums(k, group, d * (float)tries[i], 0);
        if (s.error < sums->error) {
            *sums = s;
            *sc = (int16_t)tries[i];
        }
    }
}

static void refine_scales(const bb_work *k, const group_view *v, bb_fields f, bb_fields *best)
{
    for (int step = 0; step < REFINE_STEPS; step++) {
        double error = 0, sw = 0, ss = 0;
        for (int g = 0; g < k->n_groups; g++) {
            bb_sums s;
            refine_group(k, g, v + g, f.d, &f.sc[g], &s);
            error += (double)s.error;
            sw += (double)f.sc[g] * (double)s.wl;
            ss += (double)f.sc[g] * (double)f.sc[g] * (double)s.ll;
        }
        bool better = error < f.error;
        f.error = error;
        if (error < best->error) *best = f;
        if (!(ss > 0) || (step > 0 && !better)) return;
        float d = bb_work_store(k, (float)(sw / ss));
        if (d == f.d || d == 0) return;
        f.d = d;
    }
}

void bb_fit_scales(const bb_work *k, bb_fields *best)
{
    group_view v[BB_MAX_GROUPS];
    start      s[STARTS];
    float      top = 0, error[SUPER_CANDIDATES], d[SUPER_CANDIDATES];
    for (int g = 0; g < k->n_groups; g++) {
        view_group(k, g, v + g);
        if (k->hh[g] > 0x1p-20f) top = fmaxf(top, fmaxf(v[g].top[0], v[g].top[1]));
    }
    if (!(top > 0)) return;
    for (int i = 0; i < SUPER_CANDIDATES; i++) {
        int16_t sc;
        d[i] = bb_work_store(k, top / (float)k->grid->sc_hi * 0.4f * powf(6, (float)i / (SUPER_CANDIDATES - 1)));
        error[i] = d[i] > 0 ? 0 : INFINITY;
        for (int g = 0; g < k->n_groups && d[i] > 0; g++) error[i] += choose_by_curve(k, g, v + g, d[i], &sc);
    }
    for (int i = 0; i < STARTS; i++) s[i] = (start){0, INFINITY};
    for (int i = 0; i < SUPER_CANDIDATES; i++)
        if ((i == 0 || error[i] <= error[i - 1]) && (i + 1 == SUPER_CANDIDATES || error[i] < error[i + 1]))
            keep_start(s, STARTS, (start){d[i], error[i]});
    for (int i = 0; i < STARTS && s[i].error < INFINITY; i++) {
        bb_fields f = {.d = s[i].a, .error = (double)INFINITY};
        for (int g = 0; g < k->n_groups; g++) choose_by_curve(k, g, v + g, f.d, &f.sc[g]);
        refine_scales(k, v, f, best);
    }
}
