/* SPDX-License-Identifier: GPL-3.0-or-later
 * codebook_metric.c: the code nearest to a target under a full metric, (t - a z)' M (t - a z).
 *
 * Sphere decoding [1]: with M = R'R, R upper triangular, and y = t / a the error is a^2 times
 *   sum over i of R_ii^2 (c_i - z_i)^2,  c_i = y_i + sum over j > i of (R_ij / R_ii) (y_j - z_j),
 * whose terms of i = vec-1, vec-2, ... are known as soon as the levels of these weights are. So the words are walked as a tree
 * from their last level to their first, signs included, nearest choice first, and a branch is left when its part of the
 * error is not below the best code's. Exact, whatever M is; the cost depends on M: some hundred nodes when it is well
 * conditioned, up to all codes when it is nearly singular. After MAX_NODES the best code so far is returned.
 * Pivots that are zero or negative to rounding (M only positive semidefinite) count as zero.
 * [1] Agrell, Eriksson, Vardy, Zeger. Closest point search in lattices. IEEE Trans. Information Theory 48, 2002. */
#include <math.h>

#include "kernels/formats/codebook_search.h"

enum { MAX_NODES = 1 << 18, MAX_CHILDREN = 16 };

typedef struct walk {
    const bb_cb_spec *spec;
    const bb_book    *book;
    double            y[8], z[8], shift;
    double            pivot[8];  /* R_ii^2 */
    double            row[8][8]; /* R_ij / R_ii, j > i */
    double            best;
    uint32_t          code, best_code;
    unsigned          n_nodes;
} walk;

static void factorise(walk *s, unsigned n, const float *metric)
{
    double largest = 0.0;
    for (unsigned i = 0; i < n; i++) largest = fmax(largest, (double)metric[i * n + i]);
    for (unsigned i = 0; i < n; i++) {
        double pivot = (double)metric[i * n + i];
        for (unsigned k = 0; k < i; k++) pivot -= s->pivot[k] * s->row[k][i] * s->row[k][i];
        s->pivot[i] = pivot > 1e-9 * largest ? pivot : 0.0;
        for (unsigned j = i + 1; j < n; j++) {
            double x = (double)metric[i * n + j];
            for (unsigned k = 0; k < i; k++) x -= s->pivot[k] * s->row[k][i] * s->row[k][j];
            s->row[i][j] = s->pivot[i] > 0.0 ? x / s->pivot[i] : 0.0;
        }
    }
}

typedef struct branch {
    double   error, z;
    unsigned node;
    uint32_t sign;
} branch;

/* The children of a node as signed levels whose error is below `room`, nearest to `center` first; of the last weight only
 * the nearest. */
static unsigned branches(const walk *s, unsigned node, unsigned i, double center, double room, branch *out)
{
    unsigned n = 0;
    for (unsigned x = s->book->child[node]; x < s->book->child[node + 1]; x++) {
        const double level = (double)s->book->level[s->book->node_digit[x]];
        for (uint32_t sign = 0; sign < (s->spec->has_signs ? 2u : 1u); sign++) {
            if (s->spec->even && i == 0 && sign != (uint32_t)__builtin_parity(s->code >> 17)) continue; /* the last sign is given */
            const double z = s->spec->has_signs ? (sign ? -level : level) : level + s->shift, miss = center - z;
            const branch b = { s->pivot[i] * miss * miss, z, x, sign };
            if (!(b.error < room)) continue;
            if (i == 0) {
                out[0] = b;
                n = 1;
                room = b.error;
                continue;
            }
            unsigned at = n++;
            for (; at > 0 && out[at - 1].error > b.error; at--) out[at] = out[at - 1];
            out[at] = b;
        }
    }
    return n;
}

/* Levels of weights above i are chosen, at error `above`; node: the words that fit. */
static void descend(walk *s, unsigned i, unsigned node, double above)
{
    branch         b[MAX_CHILDREN];
    double         center = s->y[i];
    const uint32_t code = s->code;
    for (unsigned j = i + 1; j < s->spec->vec; j++) center += s->row[i][j] * (s->y[j] - s->z[j]);
    const unsigned n = branches(s, node, i, center, s->best - above, b);
    for (unsigned k = 0; k < n && above + b[k].error < s->best && s->n_nodes < MAX_NODES; k++) {
        s->n_nodes++;
        s->z[i] = b[k].z;
        s->code = code | b[k].sign << (16 + i);
        const bool is_leaf = i % s->book->dims == 0;
        if (is_leaf) s->code |= (b[k].node - s->book->first_leaf) << (s->spec->n_words == 2 && i > 0 ? 8 : 0);
        if (i > 0) descend(s, i - 1, is_leaf ? 0 : b[k].node, above + b[k].error);
        else {
            s->best = above + b[k].error;
            s->best_code = s->code;
        }
    }
    s->code = code;
}

uint32_t bb_cb_nearest_metric(const bb_cb_spec *spec, double a, int shift_bit, const float *t, const float *metric)
{
    walk s = { .spec = spec, .book = bb_book_get(spec->book), .best = HUGE_VAL };
    for (unsigned i = 0; i < spec->vec; i++) s.y[i] = (double)t[i] / a;
    factorise(&s, spec->vec, metric);
    if (spec->shift == BB_SHIFT_NONE) descend(&s, spec->vec - 1u, 0, 0.0);
    for (int bit = 0; spec->shift != BB_SHIFT_NONE && bit < 2; bit++) {
        if (spec->shift == BB_SHIFT_GROUP && bit != (shift_bit != 0)) continue;
        s.shift = bit ? -0.125 : 0.125;
        s.code = spec->shift == BB_SHIFT_CODE ? (uint32_t)bit << 16 : 0;
        descend(&s, spec->vec - 1u, 0, 0.0);
    }
    return s.best_code;
}
