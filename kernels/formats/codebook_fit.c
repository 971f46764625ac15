/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_fit.c: all fields of a block of a codebook format for the least importance-weighted error.
 *
 * At scale a, a code with p = sum h t z, q = sum h z^2 has error a^2 q - 2 a p (plus a constant). Over all codes and all a > 0
 * the least error is the lower envelope of these parabolas; divided by a^2 they are lines in 1/a, so the codes on the envelope
 * are the vertices of a convex hull, some ten of the thousands of codes, found by one exact search an edge [1]. Adding the
 * hulls of a group's vectors gives its least error as a function of a, exactly and for every a. Then
 *   E(d) = sum over groups of min over sc of error(d unit (2 sc + 1))
 * costs a walk, and d is searched in one dimension: a geometric scan over the range where scales can matter, then from the
 * best of its points the closed form d = sum m p / sum m^2 q (m = unit (2 sc + 1)) in turn with a new choice of all sc and
 * codes, until nothing improves. Every d tried is one that the field can hold. So for the d it returns the block is
 * optimal, and d is near the best one (no proof: E(d) has many local minima).
 * [1] Eisner, Severance. Mathematical techniques for efficient record segmentation in large shared databases. JACM 23,
 *     1976: the search of a parametric optimum with two solutions an edge. */
#include <math.h>
#include <string.h>

#include "kernels/formats/codebook_search.h"
#include "kernels/half.h"

enum {
    MAX_VERTICES = 30,            /* of a hull: they have up to 23; a longer one is cut, which costs accuracy */
    MAX_CHAIN = 4 * MAX_VERTICES, /* either of two sums of two hulls */
    POOL = BB_CB_SUPER / 8 * MAX_CHAIN,
    MAX_SCAN = 256,
    N_STARTS = 8,
    MAX_TURNS = 8,
    N_NEIGHBOURS = 6
};
/* Chosen so that on tests/data/formats no exhaustive scan of d (steps of 0.04 %, a factor 8 either way) finds less error. */
#define SCAN_STEP 1.02  /* ratio of neighbours in the scan of d */
#define RANGE_BELOW 2.5 /* how far from the typical scale a group's curve is exact */
#define RANGE_ABOVE 3.0
#define WINDOW_LEAST 0.5 /* which scales the scan tries, in units of a group's free scale */
#define WINDOW_LARGEST 2.0

/* Choices for one word or one vector; choice i is best for end[i-1] <= a <= end[i]. The ends are kept, since they cannot be had
 * from sums of p and q in which a word of small importance has drowned. */
typedef struct chain {
    unsigned    n;
    bb_cb_point at[MAX_CHAIN];
    double      end[MAX_CHAIN];
} chain;

/* Least error of a group as a function of its scale: vertex i is best for end[i-1] <= a <= end[i]. */
typedef struct curve {
    unsigned      n;
    const double *p, *q, *end;
} curve;

typedef struct block_curves {
    const bb_cb_spec *spec;
    unsigned          n_groups, n_shifts;
    curve             group[BB_MAX_GROUPS][2]; /* [shift] for IQ1_S */
    chain             vector[8];               /* of the group at work */
    double            p[POOL], q[POOL], end[POOL];
    unsigned          used;
} block_curves;

/* 120 kB a thread, in use during one call only. */
static _Thread_local block_curves workspace;

typedef struct range {
    double least, largest;
} range;

typedef struct choice {
    double  d, error;
    int16_t sc[BB_MAX_GROUPS], mn[BB_MAX_GROUPS];
    double  mp, mmq;
} choice;

static double round_to_half(double d) { return d >= 65504.0 ? 65504.0 : (double)bb_half_to_float(bb_float_to_half((float)d)); }

/* ---- curves ---- */

/* What is searched: all of a code, or one of its two words, with one flipped sign or none. */
typedef struct part {
    const bb_cb_problem *pr;
    bool                 is_word, odd;
    unsigned             word;
} part;

static bool part_search(const part *x, double cq, double cp, double limit, bb_cb_point *out)
{
    return x->is_word ? bb_cb_search_word(x->pr, x->word, x->odd, cq, cp, limit, out) : bb_cb_search(x->pr, cq, cp, limit, out);
}

/* The scale at which l, of larger p and q, and r are equal. */
static double breakpoint(const bb_cb_point *l, const bb_cb_point *r) { return 2.0 * ((l->p - r->p) / (l->q - r->q)); }

/* The choices that are best at some scale of the range, scale ascending: p and q descend. */
static chain hull(const part *x, range a)
{
    chain       c = { .n = 1 };
    bb_cb_point stack[MAX_VERTICES], m;
    unsigned    top = 1;
    part_search(x, a.least, 2.0, HUGE_VAL, &c.at[0]);
    part_search(x, a.largest, 2.0, HUGE_VAL, &stack[0]);
    while (top > 0) {
        const bb_cb_point l = c.at[c.n - 1], r = stack[top - 1];
        const double      cq = l.p - r.p, cp = l.q - r.q;
        if (!(cq > 0.0) || !(cp > 0.0)) { /* equal in one sum: the better in the other stays */
            if (r.q < l.q) c.at[c.n - 1] = r;
            top--;
            continue;
        }
        const double edge = cq * r.q - cp * r.p, slack = 1e-12 * (fabs(cq * r.q) + fabs(cp * r.p));
        const bool   found = c.n + top < MAX_VERTICES && part_search(x, cq, cp, edge - slack, &m);
        /* Strictly between: true but for rounding, and so the loop ends whatever rounding does. */
        if (found && l.p > m.p && m.p > r.p && l.q > m.q && m.q > r.q) stack[top++] = m;
        else {
            c.at[c.n++] = r;
            top--;
        }
    }
    for (unsigned i = 0; i + 1 < c.n; i++) c.end[i] = breakpoint(&c.at[i], &c.at[i + 1]);
    c.end[c.n - 1] = HUGE_VAL;
    return c;
}

/* Both choices free: the breakpoints of both, in order. */
static chain chain_sum(const chain *x, const chain *y)
{
    chain c = { .n = 0 };
    for (unsigned i = 0, j = 0; i < x->n && j < y->n;) {
        c.end[c.n] = fmin(x->end[i], y->end[j]);
        c.at[c.n++] = (bb_cb_point) { x->at[i].p + y->at[j].p, x->at[i].q + y->at[j].q, 0 };
        if (j + 1 == y->n || (i + 1 < x->n && x->end[i] < y->end[j])) i++;
        else j++;
    }
    return c;
}

/* Either choice: the hull of all points. */
static chain chain_union(const chain *x, const chain *y)
{
    chain c = { .n = 0 };
    for (unsigned i = 0, j = 0; i < x->n || j < y->n;) {
        const bool        from_x = j == y->n || (i < x->n && x->at[i].p > y->at[j].p);
        const bb_cb_point r = from_x ? x->at[i++] : y->at[j++]; /* of no larger p than those before */
        if (c.n > 0 && !(r.q < c.at[c.n - 1].q)) continue;
        for (; c.n > 0; c.n--) {
            const bb_cb_point l = c.at[c.n - 1];
            if (!(l.p > r.p)) continue;
            c.end[c.n - 1] = breakpoint(&l, &r);
            if (c.n == 1 || c.end[c.n - 1] > c.end[c.n - 2]) break;
        }
        c.at[c.n++] = r;
    }
    c.end[c.n - 1] = HUGE_VAL;
    return c;
}

static chain vector_chain(const bb_cb_problem *pr, range a)
{
    if (pr->spec->n_words == 1) return hull(&(part) { .pr = pr }, a);
    chain even[2], odd[2];
    for (unsigned k = 0; k < 2; k++) even[k] = hull(&(part) { pr, true, false, k }, a);
    if (!pr->odd) return chain_sum(&even[0], &even[1]);
    for (unsigned k = 0; k < 2; k++) odd[k] = hull(&(part) { pr, true, true, k }, a);
    const chain first = chain_sum(&odd[0], &even[1]), second = chain_sum(&even[0], &odd[1]);
    return chain_union(&first, &second);
}

static curve curve_take(block_curves *b, unsigned n)
{
    curve c = { n, b->p + b->used, b->q + b->used, b->end + b->used };
    b->used += n;
    return c;
}

/* The sum of the hulls of a group: their breakpoints in one ascending order. */
static curve group_curve(block_curves *b, int shift, range a, const float *w, const float *h)
{
    const bb_cb_spec *s = b->spec;
    const unsigned    n_vectors = s->group / s->vec;
    chain            *vector = b->vector;
    unsigned          at[8] = { 0 }, total = 1;
    double           *p = b->p + b->used, *q = b->q + b->used, *end = b->end + b->used;
    p[0] = q[0] = 0.0;
    for (unsigned v = 0; v < n_vectors; v++) {
        bb_cb_problem pr;
        bb_cb_problem_init(&pr, s, shift, w + v * s->vec, h ? h + v * s->vec : NULL);
        vector[v] = vector_chain(&pr, a);
        p[0] += vector[v].at[0].p;
        q[0] += vector[v].at[0].q;
        total += vector[v].n - 1;
    }
    for (unsigned i = 0; i + 1 < total; i++) {
        double   least = HUGE_VAL;
        unsigned which = n_vectors;
        for (unsigned v = 0; v < n_vectors; v++) {
            if (at[v] + 1 == vector[v].n) continue;
            if (which == n_vectors || vector[v].end[at[v]] < least) {
                least = vector[v].end[at[v]];
                which = v;
            }
        }
        const bb_cb_point *c = &vector[which].at[at[which]++];
        end[i] = least;
        p[i + 1] = p[i] + (c[1].p - c[0].p);
        q[i + 1] = q[i] + (c[1].q - c[0].q);
    }
    end[total - 1] = HUGE_VAL;
    return curve_take(b, total);
}

/* Where the scale of a group can sensibly lie: around the ratio of root mean squares, and where the baseline puts it (so
 * that the result is not above the baseline's). Outside it the curve is an upper bound. */
static range group_range(const block_curves *b, const bb_code *rtn, unsigned g, const float *w, const float *h)
{
    const bb_cb_spec *s = b->spec;
    double            sum = 0.0, sum_h = 0.0;
    for (unsigned i = 0; i < s->group; i++) {
        const double hi = !h ? 1.0 : isfinite(h[i]) && h[i] > 0.0f ? (double)h[i] : 0.0;
        sum += hi * (double)w[i] * (double)w[i];
        sum_h += hi;
    }
    if (!(sum > 0.0)) return (range) { 1.0, 1.0 };
    const double typical = sqrt(sum / sum_h) / (double)bb_book_get(s->book)->rms, given = (double)bb_cb_scale(s, rtn, g);
    range        r = { typical / RANGE_BELOW, typical * RANGE_ABOVE };
    if (given > 0.0) {
        r.least = fmin(r.least, given);
        r.largest = fmax(r.largest, given);
    }
    return r;
}

/* ---- the search over d ---- */

/* Least error over the scales of a group at d; which scale, and p, q of the codes there. */
static double group_best(const curve *c, const bb_cb_spec *s, double d, int16_t *sc, double *p, double *q)
{
    double   best = HUGE_VAL;
    unsigned i = 0;
    for (int k = 0; k < s->n_scales; k++) {
        const double a = d * ((double)s->unit * (2 * k + 1));
        while (a > c->end[i]) i++;
        const double e = a * (a * c->q[i] - 2.0 * c->p[i]);
        if (e < best) {
            best = e;
            *sc = (int16_t)k;
            *p = c->p[i];
            *q = c->q[i];
        }
    }
    return best;
}

static choice evaluate(const block_curves *b, double d)
{
    choice x = { .d = d };
    for (unsigned g = 0; g < b->n_groups; g++) {
        double best = HUGE_VAL, p = 0.0, q = 0.0;
        for (unsigned k = 0; k < b->n_shifts; k++) {
            int16_t      sc = 0;
            double       pk = 0.0, qk = 0.0;
            const double e = group_best(&b->group[g][k], b->spec, d, &sc, &pk, &qk);
            if (e < best) {
                best = e;
                p = pk;
                q = qk;
                x.sc[g] = sc;
                x.mn[g] = (int16_t)k;
            }
        }
        const double m = (double)b->spec->unit * (2 * x.sc[g] + 1);
        x.error += best;
        x.mp += m * p;
        x.mmq += m * m * q;
    }
    return x;
}

/* The best scale of a group when it is free; 0 when that is no scale above 0. */
static double free_scale(const block_curves *b, unsigned g)
{
    double best = 0.0, a = 0.0;
    for (unsigned k = 0; k < b->n_shifts; k++) {
        const curve *c = &b->group[g][k];
        for (unsigned i = 0; i < c->n; i++) {
            if (!(c->p[i] > 0.0) || !(c->q[i] > 0.0)) continue;
            const double gain = c->p[i] * (c->p[i] / c->q[i]);
            if (gain > best) {
                best = gain;
                a = c->p[i] / c->q[i];
            }
        }
    }
    return a;
}

static choice improve(const block_curves *b, choice x)
{
    for (int turn = 0; turn < MAX_TURNS && x.mmq > 0.0; turn++) {
        const double d = round_to_half(x.mp / x.mmq);
        if (!(d > 0.0) || d == x.d) break;
        const choice y = evaluate(b, d);
        if (!(y.error < x.error)) break;
        x = y;
    }
    return x;
}

/* Adds to error[i] the least error of a group at d[i], i < n, d ascending. A scale far from `free`, the best one, is only
 * looked at when the field's range leaves no nearer one. */
static void scan_group(const block_curves *b, unsigned g, double free, unsigned n, const double *d, double *error)
{
    const bb_cb_spec *s = b->spec;
    double            least[MAX_SCAN];
    for (unsigned i = 0; i < n; i++) least[i] = HUGE_VAL;
    for (unsigned shift = 0; shift < b->n_shifts; shift++) {
        const curve *c = &b->group[g][shift];
        for (int k = 0; k < s->n_scales; k++) {
            const double m = (double)s->unit * (2 * k + 1);
            unsigned     v = 0, i = 0;
            while (k + 1 < s->n_scales && i < n && d[i] * m < WINDOW_LEAST * free) i++;
            for (; i < n; i++) {
                const double a = d[i] * m;
                if (k > 0 && a > WINDOW_LARGEST * free) break;
                while (a > c->end[v]) v++;
                const double e = a * (a * c->q[v] - 2.0 * c->p[v]);
                least[i] = e < least[i] ? e : least[i];
            }
        }
    }
    for (unsigned i = 0; i < n; i++) error[i] += least[i];
}

/* Candidates for d, and their errors: all that round differently, from where the largest field would suit the group of the
 * smallest free scale to well above where it would suit that of the largest. free_a: best scale of each group. */
static unsigned scan_d(const block_curves *b, const double *free_a, double *d, double *error)
{
    const double m_max = (double)b->spec->unit * (2 * b->spec->n_scales - 1);
    double       least = HUGE_VAL, largest = 0.0;
    unsigned     n = 0;
    for (unsigned g = 0; g < b->n_groups; g++) {
        if (!(free_a[g] > 0.0)) continue;
        least = fmin(least, free_a[g]);
        largest = fmax(largest, free_a[g]);
    }
    if (!(largest > 0.0)) return 0;
    for (double x = 0.7 * fmax(least, largest / 64.0) / m_max; x < 2.0 * largest / m_max && n < MAX_SCAN; x *= SCAN_STEP) {
        const double rounded = round_to_half(x);
        if (n > 0 && rounded == d[n - 1]) continue;
        d[n] = rounded;
        error[n++] = 0.0;
    }
    for (unsigned g = 0; g < b->n_groups; g++) scan_group(b, g, free_a[g], n, d, error);
    return n;
}

/* The neighbours of d among the numbers of its field, as long as one of the nearest few is better. */
static choice polish(const block_curves *b, choice x)
{
    for (bool better = x.d > 0.0; better;) {
        const int h = bb_float_to_half((float)x.d);
        better = false;
        for (int step = -N_NEIGHBOURS; step <= N_NEIGHBOURS; step++) {
            if (step == 0 || h + step <= 0 || h + step > 0x7BFF) continue;
            const choice y = evaluate(b, (double)bb_half_to_float((uint16_t)(h + step)));
            if (y.error < x.error) {
                x = y;
                better = true;
            }
        }
    }
    return x;
}

/* d, sc, mn of least error; d = 0 when nothing beats zero weights. extra_d: one more candidate, or 0. */
static choice search_d(const block_curves *b, double extra_d)
{
    choice best = { .d = 0.0 };
    double free_a[BB_MAX_GROUPS], d[MAX_SCAN], error[MAX_SCAN];
    for (unsigned g = 0; g < b->n_groups; g++) free_a[g] = free_scale(b, g);
    const unsigned n = scan_d(b, free_a, d, error);
    for (int k = 0; k < N_STARTS; k++) {
        unsigned at = n;
        for (unsigned i = 0; i < n; i++) { /* the best local minimum that is left */
            const bool is_minimum = (i == 0 || error[i] <= error[i - 1]) && (i + 1 == n || error[i] <= error[i + 1]);
            if (is_minimum && (at == n || error[i] < error[at])) at = i;
        }
        if (at == n) break;
        const choice x = improve(b, evaluate(b, d[at]));
        if (x.error < best.error) best = x;
        error[at] = HUGE_VAL;
    }
    if (extra_d > 0.0) {
        const choice x = improve(b, evaluate(b, extra_d));
        if (x.error < best.error) best = x;
    }
    return polish(b, best);
}

/* ---- blocks ---- */

static void clean(const float *w, float *out)
{
    for (unsigned i = 0; i < BB_CB_SUPER; i++) out[i] = isfinite(w[i]) ? w[i] : 0.0f;
}

static bool all_zero(const float *h)
{
    for (unsigned i = 0; i < BB_CB_SUPER; i++)
        if (h[i] > 0.0f && isfinite(h[i])) return false;
    return true;
}

static void set_fields(const bb_cb_spec *s, const choice *x, bb_code *c)
{
    memset(c, 0, sizeof *c);
    c->d = (float)x->d;
    for (unsigned g = 0; g < BB_CB_SUPER / s->group && x->d != 0.0; g++) {
        c->sc[g] = x->sc[g];
        c->mn[g] = x->mn[g];
    }
}

static void set_codes(const bb_cb_spec *s, const float *w, const float *h, bb_code *c)
{
    for (unsigned v = 0; v < BB_CB_SUPER / s->vec; v++) c->q[v] = bb_cb_nearest(s, c, v, w + v * s->vec, h ? h + v * s->vec : NULL, NULL);
}

/* The baseline's fields: every group's largest weight on the largest level. */
static void rtn_fields(const bb_cb_spec *s, const float *w, bb_code *c)
{
    const bb_book *b = bb_book_get(s->book);
    const double   top = (double)b->level[b->n_levels - 1] + (s->shift == BB_SHIFT_NONE ? 0.0 : 0.125);
    const unsigned n_groups = BB_CB_SUPER / s->group;
    double         scale[BB_MAX_GROUPS] = { 0 }, largest = 0.0;
    for (unsigned i = 0; i < BB_CB_SUPER; i++) scale[i / s->group] = fmax(scale[i / s->group], fabs((double)w[i]) / top);
    for (unsigned g = 0; g < n_groups; g++) largest = fmax(largest, scale[g]);
    memset(c, 0, sizeof *c);
    c->d = (float)round_to_half(largest / ((double)s->unit * (2 * s->n_scales - 1)));
    if (c->d == 0.0f) return;
    for (unsigned g = 0; g < n_groups; g++) {
        const double k = floor(scale[g] / ((double)c->d * (double)s->unit) / 2.0);
        c->sc[g] = (int16_t)fmin(k, s->n_scales - 1);
    }
}

void bb_cb_fit(const bb_cb_spec *s, const float *w, const float *h, bb_code *c)
{
    block_curves *b = &workspace;
    float         target[BB_CB_SUPER];
    clean(w, target);
    if (h && all_zero(h)) h = NULL;
    b->spec = s;
    b->n_groups = BB_CB_SUPER / s->group;
    b->n_shifts = s->shift == BB_SHIFT_GROUP ? 2 : 1;
    b->used = 0;
    rtn_fields(s, target, c);
    for (unsigned g = 0; g < b->n_groups; g++) {
        const float *wg = target + g * s->group, *hg = h ? h + g * s->group : NULL;
        const range  r = group_range(b, c, g, wg, hg);
        for (unsigned k = 0; k < b->n_shifts; k++) b->group[g][k] = group_curve(b, (int)k, r, wg, hg);
    }
    const choice x = search_d(b, (double)c->d);
    set_fields(s, &x, c);
    set_codes(s, target, h, c);
}

void bb_cb_encode_rtn_block(const bb_cb_spec *s, const float *w, bb_code *c)
{
    float target[BB_CB_SUPER];
    clean(w, target);
    rtn_fields(s, target, c);
    set_codes(s, target, NULL, c);
}

/* p and q of the codes that a group has, at either shift. */
static curve fixed_curve(block_curves *b, const bb_code *c, unsigned g, int shift, const float *w, const float *h)
{
    const bb_cb_spec *s = b->spec;
    bb_code           unit = *c;
    float             z[8];
    double            p = 0.0, q = 0.0;
    unit.d = 1.0f / s->unit;
    unit.sc[g] = 0;
    unit.mn[g] = (int16_t)shift;
    for (unsigned v = g * s->group / s->vec; v < (g + 1) * s->group / s->vec; v++) {
        bb_cb_value(s, &unit, v, z);
        for (unsigned i = 0; i < s->vec; i++) {
            const float  hi = h ? h[v * s->vec + i] : 1.0f;
            const double weight = isfinite(hi) && hi > 0.0f ? (double)hi : 0.0;
            p += weight * (double)w[v * s->vec + i] * (double)z[i];
            q += weight * (double)z[i] * (double)z[i];
        }
    }
    b->p[b->used] = p;
    b->q[b->used] = q;
    b->end[b->used] = HUGE_VAL;
    return curve_take(b, 1);
}

void bb_cb_refit(const bb_cb_spec *s, const float *w, const float *h, bb_code *c)
{
    block_curves *b = &workspace;
    float         target[BB_CB_SUPER];
    double        given = 0.0;
    clean(w, target);
    b->spec = s;
    b->n_groups = BB_CB_SUPER / s->group;
    b->n_shifts = s->shift == BB_SHIFT_GROUP ? 2 : 1;
    b->used = 0;
    for (unsigned g = 0; g < b->n_groups; g++) {
        for (unsigned k = 0; k < b->n_shifts; k++) b->group[g][k] = fixed_curve(b, c, g, (int)k, target, h);
        const curve *x = &b->group[g][b->n_shifts == 2 && c->mn[g] ? 1 : 0];
        const double a = (double)bb_cb_scale(s, c, g);
        given += a * (a * x->q[0] - 2.0 * x->p[0]);
    }
    const choice x = search_d(b, c->d > 0.0f ? (double)c->d : 0.0);
    if (x.error >= given) return; /* not so when the given d is not finite */
    c->d = (float)x.d;
    for (unsigned g = 0; g < b->n_groups && x.d != 0.0; g++) {
        c->sc[g] = x.sc[g];
        if (b->n_shifts == 2) c->mn[g] = x.mn[g];
    }
}
