/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_slack.c: how far a target may move before another code is the nearest.
 *
 * In units of the scale a target u moves by at most m: its distance to the nearest code grows by m at most, that to any other falls by m at most (the
 * triangle inequality), so the code stays the nearest while m is at most half of what the second distance has more. Whoever encodes the same weights again
 * and again, a little moved each time, need not search again until then.
 *
 * The second distance: another code has another word, or the same words and other signs. With m_i = |u_i| (IQ1: u_i, levels with their shift) and levels z a
 * word costs  e = sum z^2 - 2 sum m z  with the signs of the target, and 4 m_i z_i more for each that is against it: for one of them where the number of
 * negative ones must be even and is not. */
#include <math.h>

#include "kernels/formats/codebook_search.h"

static inline double smaller(double a, double b) { return a < b ? a : b; }

/* Of the word at one place: [0] with the signs of the target, [1] with one against it. */
typedef struct costs {
    double own[2], other[2];
} costs;

static costs costs_of(const bb_cb_problem *pr, unsigned at, unsigned word, double shift, bool odd)
{
    costs  c = { { 0, HUGE_VAL }, { HUGE_VAL, HUGE_VAL } };
    double flip = HUGE_VAL;
    for (unsigned i = 0; i < pr->book->dims; i++) {
        const double z = (double)pr->book->value[word][i] + shift, p = pr->ht[at + i] * z;
        c.own[0] += z * z - 2 * p;
        flip = smaller(flip, 4 * p);
    }
    c.own[1] = c.own[0] + flip;
    bb_cb_other_words(pr, at, shift, word, odd, c.other);
    return c;
}

static double least_of(const costs *c, bool odd) { return smaller(c->own[odd], c->other[odd]); }

/* The least cost of a code with other words than these n. */
static double other_words(const costs *c, unsigned n, bool odd)
{
    double least = HUGE_VAL;
    if (n == 1) return c->other[odd];
    for (unsigned k = 0; k < 2; k++) {
        const costs *other = &c[k], *beside = &c[1 - k];
        least = smaller(least, other->other[odd] + least_of(beside, false));
        if (odd) least = smaller(least, other->other[0] + least_of(beside, true));
    }
    return least;
}

/* The two least prices of a sign against the target's, over the whole code. */
static void two_flips(const bb_cb_problem *pr, const unsigned *word, double *first, double *second)
{
    const unsigned dims = pr->book->dims;
    *first = *second = HUGE_VAL;
    for (unsigned i = 0; i < pr->spec->vec; i++) {
        const double p = 4 * pr->ht[i] * (double)pr->book->value[word[i / dims]][i % dims];
        *second = smaller(*second, p < *first ? *first : p);
        *first = smaller(*first, p);
    }
}

/* sum z^2 - 2 sum u z of the code as it is. */
static double cost_of_code(const bb_cb_spec *s, const bb_code *c, unsigned v, const float *u, double a)
{
    float  w[8];
    double sum = 0;
    bb_cb_value(s, c, v, w);
    for (unsigned i = 0; i < s->vec; i++) sum += (double)w[i] / a * ((double)w[i] / a - 2 * (double)u[i]);
    return sum;
}

float bb_cb_slack(const bb_cb_spec *s, const bb_code *c, unsigned v, const float *t)
{
    const unsigned g = v * s->vec / s->group;
    const uint32_t q = c->q[v];
    const unsigned word[2] = { s->n_words == 2 ? q & 255u : q & 0xFFFFu, q >> 8 & 255u };
    const double   a = (double)bb_cb_scale(s, c, g);
    float          u[8];
    double         square = 0, first, second, own, others;
    bb_cb_problem  pr;
    costs          of[2] = { 0 };
    for (unsigned i = 0; i < s->vec; i++) {
        u[i] = (float)((double)t[i] / a);
        if (!isfinite(u[i])) return 0;
        square += (double)u[i] * (double)u[i];
    }
    bb_cb_problem_init(&pr, s, c->mn[g], u, NULL);
    if (s->shift != BB_SHIFT_NONE) {
        const unsigned k = s->shift == BB_SHIFT_CODE && (q >> 16 & 1u);
        of[0] = costs_of(&pr, 0, word[0], pr.shift[k], false);
        own = of[0].own[0];
        others = of[0].other[0];
        if (s->shift == BB_SHIFT_CODE) {
            const costs shifted = costs_of(&pr, 0, word[0], pr.shift[1 - k], false);
            others = smaller(others, least_of(&shifted, false));
        }
    } else {
        for (unsigned k = 0; k < s->n_words; k++) of[k] = costs_of(&pr, 4 * k, word[k], 0, pr.odd);
        two_flips(&pr, word, &first, &second);
        own = of[0].own[0] + (s->n_words == 2 ? of[1].own[0] : 0);
        const double more = pr.odd ? second : s->even ? first + second : first; /* the same words, other signs */
        others = smaller(other_words(of, s->n_words, pr.odd), own + more);
        if (pr.odd) own += first;
    }
    if (cost_of_code(s, c, v, u, a) > own + 1e-9 * (1 + square)) return 0; /* not even the nearest of its words */
    const double safety = 1e-4 + 1e-6 * sqrt(square);                      /* far above what float32 does to distances, far below a level */
    const double slack = 0.5 * (sqrt(fmax(0, square + others)) - sqrt(fmax(0, square + own))) - safety;
    return slack > 0 ? (float)slack / (s->shift == BB_SHIFT_NONE ? 1 : 0.125f) : 0;
}
