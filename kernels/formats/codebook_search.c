/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_search.c: the code whose weights are nearest to a target, under a diagonal metric.
 *
 * With p = sum h t z and q = sum h z^2 over the weights of a code z, the error of scale a is  sum h t^2 - 2 a p + a^2 q. So
 * the search minimises the linear form  cq q - cp p  for given cq, cp >= 0 (a^2 and 2 a), over all codes at once:
 *   - signs: the best sign of a magnitude is the target's. When their number must be even and is odd, exactly one sign is
 *     flipped, at a price of 2 cp min_i h_i |t_i| z_i.
 *   - words: the form is a sum over quarters of a word, of which there are 9 patterns (2 of 3 levels) or 8 (1 of 8 levels).
 *     It is tabulated for them, and for all second halves. A first half, or all that share a quarter, whose form plus the
 *     least form of any completion is not below the best so far cannot win; with the others, the words of the book that
 *     start so are tried.
 * The result is exact in double arithmetic: rounding is monotone, so a bound that is not below the result stays so. */
#include "kernels/formats/codebook_search.h"

#include <math.h>

enum { MAX_QUARTERS = 9 };

void bb_cb_problem_init(bb_cb_problem *pr, const bb_cb_spec *s, int shift_bit, const float *t, const float *h)
{
    const bb_book *b = bb_book_get(s->book);
    pr->spec = s;
    pr->book = b;
    pr->signs = 0;
    for (unsigned i = 0; i < s->vec; i++) {
        double ti = isfinite(t[i]) ? (double)t[i] : 0.0;
        if (s->has_signs && ti < 0.0) {
            pr->signs |= 1u << i;
            ti = -ti;
        }
        pr->h[i] = !h ? 1.0 : isfinite(h[i]) && h[i] > 0.0f ? (double)h[i] : 0.0;
        pr->ht[i] = pr->h[i] * ti;
    }
    pr->odd = s->even && __builtin_parity(pr->signs);
    for (unsigned k = 0; k < 2; k++) {
        const bool negative = s->shift == BB_SHIFT_CODE ? k == 1 : shift_bit != 0;
        pr->shift[k] = s->shift == BB_SHIFT_NONE ? 0.0 : negative ? -0.125 : 0.125;
    }
}

/* The form of all patterns of the four quarters of a word at weight `at`; with one flipped sign in `flipped`. */
typedef struct quarters {
    double form[4][MAX_QUARTERS], flipped[4][MAX_QUARTERS];
} quarters;

static inline void quarters_build(const bb_cb_problem *pr, unsigned at, double shift, double cq, double cp, bool odd, quarters *x)
{
    const bb_book *b = pr->book;
    const unsigned levels = b->n_levels;
    double         form[8][8], flip[8][8];
    for (unsigned i = 0; i < b->dims; i++) {
        for (unsigned l = 0; l < levels; l++) {
            const double z = (double)b->level[l] + shift, p = cp * (pr->ht[at + i] * z);
            form[i][l] = cq * (pr->h[at + i] * (z * z)) - p;
            if (odd) flip[i][l] = form[i][l] + 2.0 * p;
        }
    }
    for (unsigned k = 0; k < 4; k++) {
        if (b->dims == 4) {
            for (unsigned l = 0; l < 8; l++) x->form[k][l] = form[k][l];
            for (unsigned l = 0; odd && l < 8; l++) x->flipped[k][l] = flip[k][l];
            continue;
        }
        const double *f0 = form[2 * k], *f1 = form[2 * k + 1], *g0 = flip[2 * k], *g1 = flip[2 * k + 1];
        for (unsigned l = 0; l < 9; l++) x->form[k][l] = f0[l % 3] + f1[l / 3];
        for (unsigned l = 0; odd && l < 9; l++) x->flipped[k][l] = fmin(g0[l % 3] + f1[l / 3], f0[l % 3] + g1[l / 3]);
    }
}

typedef struct found {
    double   form;
    unsigned at;
} found; /* at: position in the book's list, or NOT_FOUND */
enum { NOT_FOUND = BB_BOOK_MAX_WORDS, NO_WORD = BB_BOOK_MAX_WORDS };

static inline double least(const double *x, unsigned n)
{
    double m = x[0];
    for (unsigned i = 1; i < n; i++) m = x[i] < m ? x[i] : m;
    return m;
}

static inline unsigned least_at(const double *x, unsigned n)
{
    unsigned at = 0;
    for (unsigned i = 1; i < n; i++) at = x[i] < x[at] ? i : at;
    return at;
}

/* Tries the words of the book that start with half p, but `without`. */
static inline void scan(const bb_book *b, unsigned p, double first, const double *second, unsigned without, found *best)
{
    for (unsigned i = b->start[p]; i < b->start[p + 1]; i++) {
        const double c = first + second[b->second[i]];
        if (c < best->form && b->word[i] != without) *best = (found) { c, i };
    }
}

/* The same where one sign of the word is flipped, in its first or its second half. */
static inline void scan_odd(const bb_book *b, unsigned p, double first, double first_odd, const double *second, const double *second_odd, unsigned without,
                            found *best)
{
    for (unsigned i = b->start[p]; i < b->start[p + 1]; i++) {
        const unsigned j = b->second[i];
        const double   c1 = first_odd + second[j], c2 = first + second_odd[j], c = c1 < c2 ? c1 : c2;
        if (c < best->form && b->word[i] != without) *best = (found) { c, i };
    }
}

/* n: patterns of a quarter, a constant where this is inlined. */
static inline __attribute__((always_inline)) found search_even(const bb_book *b, const quarters *x, unsigned n, double limit, unsigned without)
{
    double       second[MAX_QUARTERS * MAX_QUARTERS];
    found        best = { limit, NOT_FOUND };
    const double first_min = least(x->form[0], n), second_min = least(x->form[2], n) + least(x->form[3], n);
    if (!((first_min + least(x->form[1], n)) + second_min < limit)) return best;
    for (unsigned k = 0; k < n; k++)
        for (unsigned j = 0; j < n; j++) second[k * n + j] = x->form[2][j] + x->form[3][k];
    const unsigned k0 = least_at(x->form[1], n), j0 = least_at(x->form[0], n);
    scan(b, k0 * n + j0, x->form[0][j0] + x->form[1][k0], second, without, &best); /* often holds the best, always a good one */
    for (unsigned k = 0; k < n; k++) {
        if (!((first_min + x->form[1][k]) + second_min < best.form)) continue;
        for (unsigned j = 0; j < n; j++) {
            const double first = x->form[0][j] + x->form[1][k];
            if (first + second_min < best.form) scan(b, k * n + j, first, second, without, &best);
        }
    }
    return best;
}

static inline __attribute__((always_inline)) found search_odd(const bb_book *b, const quarters *x, unsigned n, double limit, unsigned without)
{
    double       second[MAX_QUARTERS * MAX_QUARTERS], second_odd[MAX_QUARTERS * MAX_QUARTERS];
    found        best = { limit, NOT_FOUND };
    const double second_min = least(x->form[2], n) + least(x->form[3], n);
    const double odd2 = least(x->flipped[2], n) + least(x->form[3], n), odd3 = least(x->form[2], n) + least(x->flipped[3], n);
    const double second_odd_min = odd2 < odd3 ? odd2 : odd3;
    for (unsigned k = 0; k < n; k++) {
        for (unsigned j = 0; j < n; j++) {
            const double c1 = x->flipped[2][j] + x->form[3][k], c2 = x->form[2][j] + x->flipped[3][k];
            second[k * n + j] = x->form[2][j] + x->form[3][k];
            second_odd[k * n + j] = c1 < c2 ? c1 : c2;
        }
    }
    const double   min0 = least(x->form[0], n), flipped_min0 = least(x->flipped[0], n);
    const unsigned k0 = least_at(x->form[1], n), j0 = least_at(x->form[0], n);
    scan_odd(b, k0 * n + j0, min0 + x->form[1][k0], fmin(x->flipped[0][j0] + x->form[1][k0], min0 + x->flipped[1][k0]), second, second_odd, without, &best);
    for (unsigned k = 0; k < n; k++) {
        if (!(min0 + x->form[1][k] + second_odd_min < best.form) && !(flipped_min0 + x->form[1][k] + second_min < best.form) &&
            !(min0 + x->flipped[1][k] + second_min < best.form))
            continue;
        for (unsigned j = 0; j < n; j++) {
            const double first = x->form[0][j] + x->form[1][k];
            const double c1 = x->flipped[0][j] + x->form[1][k], c2 = x->form[0][j] + x->flipped[1][k];
            const double first_odd = c1 < c2 ? c1 : c2;
            if (first_odd + second_min < best.form || first + second_odd_min < best.form)
                scan_odd(b, k * n + j, first, first_odd, second, second_odd, without, &best);
        }
    }
    return best;
}

static found search_without(const bb_book *b, const quarters *x, bool odd, double limit, unsigned without)
{
    if (b->dims == 8) return odd ? search_odd(b, x, 9, limit, without) : search_even(b, x, 9, limit, without);
    return odd ? search_odd(b, x, 8, limit, without) : search_even(b, x, 8, limit, without);
}

static found word_search(const bb_book *b, const quarters *x, bool odd, double limit) { return search_without(b, x, odd, limit, NO_WORD); }

void bb_cb_other_words(const bb_cb_problem *pr, unsigned at, double shift, unsigned word, bool odd, double least[2])
{
    quarters x;
    quarters_build(pr, at, shift, 1, 2, odd, &x);
    for (int k = 0; k <= odd; k++) least[k] = search_without(pr->book, &x, k, HUGE_VAL, word).form;
}

/* Adds p and q of a found word at weight `at` to `out`, and puts it and its flipped sign (when odd) into the code. */
static void take(const bb_cb_problem *pr, unsigned at, double shift, found w, bool odd, bb_cb_point *out)
{
    const unsigned word = pr->book->word[w.at];
    unsigned       flip = 0;
    double         least_flip = HUGE_VAL;
    for (unsigned i = 0; i < pr->book->dims; i++) {
        const double z = (double)pr->book->value[word][i] + shift, p = pr->ht[at + i] * z;
        out->p += p;
        out->q += pr->h[at + i] * (z * z);
        if (p < least_flip) {
            least_flip = p;
            flip = i;
        }
    }
    out->code |= word << (at ? 8 : 0);
    if (!odd) return;
    out->p -= 2.0 * least_flip;
    out->code ^= 1u << (16 + at + flip);
}

bool bb_cb_search_word(const bb_cb_problem *pr, unsigned word, bool odd, double cq, double cp, double limit, bb_cb_point *out)
{
    quarters x;
    quarters_build(pr, 4 * word, 0.0, cq, cp, odd, &x);
    const found w = word_search(pr->book, &x, odd, limit);
    if (w.at == NOT_FOUND) return false;
    *out = (bb_cb_point) { 0.0, 0.0, 0 };
    take(pr, 4 * word, 0.0, w, odd, out);
    return true;
}

static double quarters_least(const quarters *x, unsigned n)
{
    return (least(x->form[0], n) + least(x->form[1], n)) + (least(x->form[2], n) + least(x->form[3], n));
}

/* The limit passed on for a word is what the least of the other leaves. */
static bool search_two_words(const bb_cb_problem *pr, double cq, double cp, double limit, bb_cb_point *out)
{
    const bb_book *b = pr->book;
    quarters       x[2];
    found          even[2], odd[2];
    for (unsigned k = 0; k < 2; k++) quarters_build(pr, 4 * k, 0.0, cq, cp, pr->odd, &x[k]);
    even[0] = word_search(b, &x[0], false, limit - quarters_least(&x[1], b->n_levels));
    if (even[0].at == NOT_FOUND) return false;
    even[1] = word_search(b, &x[1], false, limit - even[0].form);
    if (even[1].at == NOT_FOUND) return false;
    bool flip_second = false;
    if (pr->odd) {
        odd[0] = word_search(b, &x[0], true, limit - even[1].form);
        const double flip_first = odd[0].form + even[1].form;
        odd[1] = word_search(b, &x[1], true, (odd[0].at == NOT_FOUND ? limit : flip_first) - even[0].form);
        flip_second = odd[1].at != NOT_FOUND;
        if (odd[0].at == NOT_FOUND && !flip_second) return false;
    }
    *out = (bb_cb_point) { 0.0, 0.0, pr->signs << 16 };
    take(pr, 0, 0.0, pr->odd && !flip_second ? odd[0] : even[0], pr->odd && !flip_second, out);
    take(pr, 4, 0.0, flip_second ? odd[1] : even[1], flip_second, out);
    return true;
}

bool bb_cb_search(const bb_cb_problem *pr, double cq, double cp, double limit, bb_cb_point *out)
{
    if (pr->spec->n_words == 2) return search_two_words(pr, cq, cp, limit, out);
    quarters x;
    unsigned shift = 0;
    quarters_build(pr, 0, pr->shift[0], cq, cp, pr->odd, &x);
    found w = word_search(pr->book, &x, pr->odd, limit);
    if (pr->spec->shift == BB_SHIFT_CODE) {
        quarters_build(pr, 0, pr->shift[1], cq, cp, false, &x);
        const found other = word_search(pr->book, &x, false, w.form);
        if (other.at != NOT_FOUND) {
            w = other;
            shift = 1;
        }
    }
    if (w.at == NOT_FOUND) return false;
    *out = (bb_cb_point) { 0.0, 0.0, shift << 16 | pr->signs << 16 };
    take(pr, 0, pr->shift[shift], w, pr->odd, out);
    return true;
}

uint32_t bb_cb_nearest(const bb_cb_spec *s, const bb_code *c, unsigned v, const float *t, const float *h, const float *metric)
{
    const unsigned g = v * s->vec / s->group;
    double         a = (double)bb_cb_scale(s, c, g);
    float          target[8];
    bb_cb_problem  pr;
    bb_cb_point    best = { 0.0, 0.0, 0 };
    if (a == 0.0 || !isfinite(a)) return 0; /* all codes stand for the same weights */
    for (unsigned i = 0; i < s->vec; i++) target[i] = !isfinite(t[i]) ? 0.0f : a < 0.0 ? -t[i] : t[i];
    a = fabs(a);
    if (metric) return bb_cb_nearest_metric(s, a, c->mn[g], target, metric);
    bb_cb_problem_init(&pr, s, c->mn[g], target, h);
    bb_cb_search(&pr, a * a, 2.0 * a, HUGE_VAL, &best);
    return best.code;
}
