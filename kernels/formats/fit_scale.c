/* SPDX-License-Identifier: GPL-3.0-or-later
 * fit_scale.c: grids with scales only.
 *
 * For codes q the best scale is a = sum(h w l) / sum(h l^2), l = level of q, and it lowers the error by
 * sum(h w l)^2 / sum(h l^2). As a falls, weight i changes its code where a = w_i / midpoint. A curve drops these events
 * into bins of log a with what each does to the two sums: the sums at the end of every bin, for the price of one visit to
 * each event. Its peaks are refined by Lloyd steps (codes for the scale, scale for the codes).
 */
#include <math.h>
#include <string.h>

#include "kernels/formats/fit.h"
#include "kernels/half.h"

enum { CURVE = 128, WINDOW = 6, STARTS = 3, LLOYD_STEPS = 8 };

typedef struct curve {
    int32_t first;   /* bit pattern of the largest a; positive floats are ordered as their patterns */
    float   per_bin; /* bins a bit pattern: nearly even in log a */
    struct {
        float wl, ll;
    } at[CURVE]; /* sums for the codes at the end of each bin, a falling */
} curve;

typedef struct start {
    float a, error;
} start;

/* ---- one group, any real scale ---- */

/* The range of a in which the best scale lies. Above `coarse` half of the levels are out of reach of every weight (all but
 * the first, in small grids). Below `fine` the clipping of some single weight costs more than the whole error at the scale of
 * the extremes, or the last level is under half of the root mean square. false: all weights are 0. */
static bool scale_range(const bb_work *k, int group, float *coarse, float *fine)
{
    const float *w = k->w + group * k->m, *h = k->h + group * k->m;
    const float  near = fminf(-k->lo, k->hi), far = fmaxf(-k->lo, k->hi);
    float        max = 0, reach = 0.5f * sqrtf(k->ww[group] / k->hh[group]);
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
    *coarse = max / (near > 3 ? 0.5f * near : near - 0.51f);
    *fine = 0.99f * fminf(reach, max) / far;
    return true;
}

static inline float curve_place(const curve *c, float a) { return (float)(c->first - (int32_t)bb_float_bits(a)) * c->per_bin; }

/* One weight's events: levels crossed in the direction of its sign as a falls. */
static void curve_events(const bb_work *k, curve *c, int code, int last, float w, float h)
{
    const int    step = w > 0 ? 1 : -1, middle = w > 0 ? 0 : -1;
    const float *levels = k->grid->format->levels, hw = h * w;
    for (; code != last; code += step) {
        float at = curve_place(c, w * k->per_middle[code + middle]), from = levels[code], to = levels[code + step];
        if (!(at < CURVE)) break;
        int bin = at > 0 ? (int)at : 0;
        c->at[bin].wl += hw * (to - from);
        c->at[bin].ll += h * (to * to - from * from);
    }
}

/* sign: +1 for scales a > 0, -1 for a < 0 (the mirrored grid). */
static void curve_of(const bb_work *k, int group, float coarse, float fine, float sign, curve *c)
{
    const float *w = k->w + group * k->m, *h = k->h + group * k->m, *levels = k->grid->format->levels;
    const int    last = k->grid->format->n_levels - 1;
    uint32_t     code[BB_MAX_BLOCK];
    c->first = (int32_t)bb_float_bits(coarse);
    c->per_bin = CURVE / (float)(c->first - (int32_t)bb_float_bits(fine));
    memset(c->at, 0, sizeof c->at);
    bb_work_codes(k, group, sign * coarse, 0, code);
    for (int i = 0; i < k->m; i++) {
        float x = sign * w[i], l = levels[code[i]];
        if (!(h[i] > 0)) continue;
        c->at[0].wl += h[i] * x * l;
        c->at[0].ll += h[i] * l * l;
        if (fabsf(x) > 0x1p-60f) curve_events(k, c, (int)code[i], x < 0 ? 0 : last, x, h[i]);
    }
    for (int i = 1; i < CURVE; i++) {
        c->at[i].wl += c->at[i - 1].wl;
        c->at[i].ll += c->at[i - 1].ll;
    }
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
    for (int i = 0; i < CURVE; i++) gain[i] = c->at[i].wl > 0 && c->at[i].ll > 0 ? c->at[i].wl * c->at[i].wl / c->at[i].ll : 0;
    for (int s = 0; s < STARTS; s++) {
        int top = 0;
        for (int i = 1; i < CURVE; i++) top = gain[i] > gain[top] ? i : top;
        if (!(gain[top] > 0)) break;
        keep_start(best, STARTS, (start) { sign * c->at[top].wl / c->at[top].ll, k->ww[group] - gain[top] });
        for (int i = top > WINDOW ? top - WINDOW : 0; i < CURVE && i <= top + WINDOW; i++) gain[i] = 0;
    }
}

static start lloyd(const bb_work *k, int group, float a)
{
    bb_sums s = bb_work_sums(k, group, a, 0);
    for (int i = 0; i < LLOYD_STEPS && s.ll > 0; i++) {
        float   next = s.wl / s.ll;
        bb_sums t = bb_work_sums(k, group, next, 0);
        if (!(t.error < s.error)) break;
        a = next;
        s = t;
    }
    return (start) { a, s.error };
}

static bool mirrored(const bb_work *k) { return k->lo + k->hi != 0; }

/* The best scales of a group, best first; n of them, the rest of best[STARTS] has an infinite error. */
static void group_starts(const bb_work *k, int group, start *best)
{
    curve c;
    float coarse, fine;
    for (int i = 0; i < STARTS; i++) best[i] = (start) { 0, INFINITY };
    if (!scale_range(k, group, &coarse, &fine)) return;
    for (int side = 0; side < (mirrored(k) ? 2 : 1); side++) {
        float sign = side ? -1.0f : 1.0f;
        curve_of(k, group, coarse, fine, sign, &c);
        curve_peaks(k, group, &c, sign, best);
    }
    start refined[STARTS] = { { 0, INFINITY }, { 0, INFINITY }, { 0, INFINITY } };
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
    bb_fields      f = { .error = 0 };
    for (int g = 0; g < k->n_groups; g++) {
        float least = k->ww[g], coarse, fine; /* scale 0 */
        f.sc[g] = (int16_t)grid->sc_lo;
        if (scale_range(k, g, &coarse, &fine)) {
            int at = grid->sc_lo;
            while (at < grid->sc_hi && grid->byte_scales[at] < fine * k->unit) at++;
            for (at -= at > grid->sc_lo; at <= grid->sc_hi && grid->byte_scales[at] < k->hi * coarse * k->unit; at++) {
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
    curve c[2];   /* scales a > 0, a < 0 */
    float top[2]; /* least-squares scale at the peak of each (both in magnitude) */
    bool  zero;   /* nothing to fit: any field does, 0 is taken */
} group_view;

/* Error of a group at scale a of sign `side`, for codes that are the nearest ones up to the width of a bin: never too low. */
static inline float curve_error(const curve *c, float ww, float a)
{
    float place = curve_place(c, a) - 0.5f;
    int   bin = place >= CURVE - 1 ? CURVE - 1 : place > 0 ? (int)place : 0;
    return ww + a * (a * c->at[bin].ll - 2 * c->at[bin].wl);
}

static void view_group(const bb_work *k, int group, group_view *v)
{
    float coarse, fine;
    v->top[0] = v->top[1] = 0;
    v->zero = !scale_range(k, group, &coarse, &fine);
    for (int side = 0; side < (mirrored(k) ? 2 : 1) && !v->zero; side++) {
        curve *c = &v->c[side];
        float  gain = 0;
        curve_of(k, group, coarse, fine, side ? -1.0f : 1.0f, c);
        for (int i = 0; i < CURVE; i++) {
            float wl = c->at[i].wl, ll = c->at[i].ll;
            if (wl > 0 && wl * wl > gain * ll) {
                gain = wl * wl / ll;
                v->top[side] = wl / ll;
            }
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
    bb_tries  t = { .n = 1 };
    t.a[0] = d * (float)now;
    t.sc[0] = *sc;
    if (!v->zero) {
        int other = now;
        if (mirrored(k)) other = now > 0 ? (int)fmaxf(rintf(-v->top[1] / d), (float)lo) : (int)fminf(rintf(v->top[0] / d), (float)hi);
        const int tries[6] = { now - 2, now - 1, now + 1, now + 2, other, other + (now > 0 ? 1 : -1) };
        for (int i = 0; i < (mirrored(k) ? 6 : 4); i++)
            if (tries[i] >= lo && tries[i] <= hi && tries[i] != now) {
                t.a[t.n] = d * (float)tries[i];
                t.sc[t.n++] = (int16_t)tries[i];
            }
    }
    k->kernels->fit_tries(k, group, &t);
    *sums = t.sums[0];
    for (int i = 1; i < t.n; i++)
        if (t.sums[i].error < sums->error) {
            *sums = t.sums[i];
            *sc = t.sc[i];
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
    int16_t    sc;
    float      top = 0, step, error[SUPER_CANDIDATES] = { 0 }, d[SUPER_CANDIDATES];
    for (int g = 0; g < k->n_groups; g++) {
        view_group(k, g, v + g);
        if (k->hh[g] > 0x1p-20f) top = fmaxf(top, fmaxf(v[g].top[0], v[g].top[1]));
    }
    if (!(top > 0)) return;
    step = 0.4f * top / (float)k->grid->sc_hi; /* 64 candidates of ratio 1.029: from 0.4 to 2.4 */
    for (int i = 0; i < SUPER_CANDIDATES; i++, step *= 1.029f) d[i] = step;
    for (int g = 0; g < k->n_groups; g++)
        for (int i = 0; i < SUPER_CANDIDATES; i++) error[i] += choose_by_curve(k, g, v + g, d[i], &sc);
    for (int i = 0; i < STARTS; i++) s[i] = (start) { 0, INFINITY };
    for (int i = 0; i < SUPER_CANDIDATES; i++)
        if ((i == 0 || error[i] <= error[i - 1]) && (i + 1 == SUPER_CANDIDATES || error[i] < error[i + 1])) keep_start(s, STARTS, (start) { d[i], error[i] });
    for (int i = 0; i < STARTS && s[i].error < INFINITY; i++) {
        bb_fields f = { .d = bb_work_store(k, s[i].a), .error = (double)INFINITY };
        if (!(f.d > 0)) continue;
        for (int g = 0; g < k->n_groups; g++) choose_by_curve(k, g, v + g, f.d, &f.sc[g]);
        refine_scales(k, v, f, best);
    }
}
