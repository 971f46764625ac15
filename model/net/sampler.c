/* SPDX-License-Identifier: GPL-3.0-or-later
 * sampler.c: see sampler.h. Exponentials are those of kernels.h, which have the same bits at every CPU level; sums are float64 in the order of choices. */
#include "model/net/sampler.h"

#include <float.h>
#include <stdbool.h>
#include <stdlib.h>

#include "kernels/kernels.h"

enum { AT_ONCE = 256 };

void bb_sampler_penalise(float *z, size_t n, const int32_t *recent, size_t n_recent, double penalty)
{
    const float by = (float)penalty;
    for (size_t i = 0; i < n_recent; i++) {
        bool met = recent[i] < 0 || (size_t)recent[i] >= n;
        for (size_t j = 0; j < i && !met; j++) met = recent[j] == recent[i];
        if (!met) z[recent[i]] = z[recent[i]] > 0 ? z[recent[i]] / by : z[recent[i]] * by;
    }
}

static bool likelier(const bb_choice *a, const bb_choice *b) { return a->z > b->z || (a->z >= b->z && a->id < b->id); }

static int likelier_first(const void *a, const void *b) { return likelier(a, b) ? -1 : likelier(b, a); }

static void swap(bb_choice *a, bb_choice *b)
{
    bb_choice c = *a;
    *a = *b;
    *b = c;
}

/* The heap has the least likely of its n on top. */
static void sift(bb_choice *heap, size_t at, size_t n)
{
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && likelier(&heap[child], &heap[child + 1])) child++;
        if (!likelier(&heap[at], &heap[child])) return;
        swap(&heap[at], &heap[child]);
    }
}

size_t bb_sampler_top_k(bb_choice *c, size_t n, size_t k)
{
    if (k == 0) return n;
    if (k > n) k = n;
    for (size_t i = k / 2; i-- > 0;) sift(c, i, k);
    for (size_t i = k; i < n; i++)
        if (likelier(&c[i], &c[0])) {
            swap(&c[i], &c[0]);
            sift(c, 0, k);
        }
    qsort(c, k, sizeof *c, likelier_first);
    return k;
}

/* Sets e for z / temperature; the sum of all. */
static double weigh(bb_choice *c, size_t n, double temperature)
{
    const bb_kernels *k = bb_kernels_get();
    const float       scale = 1 / temperature < (double)FLT_MAX ? (float)(1 / temperature) : FLT_MAX;
    float             top = c[0].z, x[AT_ONCE];
    double            sum = 0;
    for (size_t i = 1; i < n; i++)
        if (c[i].z > top) top = c[i].z;
    for (size_t at = 0; at < n; at += AT_ONCE) {
        size_t some = n - at < AT_ONCE ? n - at : AT_ONCE;
        for (size_t i = 0; i < some; i++) x[i] = (c[at + i].z - top) * scale;
        k->exp(x, x, some);
        for (size_t i = 0; i < some; i++) sum += (double)(c[at + i].e = x[i]);
    }
    return sum;
}

size_t bb_sampler_top_p(bb_choice *c, size_t n, double top_p)
{
    if (top_p >= 1) return n;
    qsort(c, n, sizeof *c, likelier_first);
    double left = top_p * weigh(c, n, 1);
    for (size_t i = 0; i < n; i++)
        if ((left -= (double)c[i].e) <= 0) return i + 1;
    return n; /* only rounding comes here */
}

size_t bb_sampler_min_p(bb_choice *c, size_t n, double min_p)
{
    size_t kept = 0;
    if (min_p <= 0) return n;
    weigh(c, n, 1);
    for (size_t i = 0; i < n; i++) /* the likeliest has e = 1 */
        if ((double)c[i].e >= min_p) c[kept++] = c[i];
    return kept;
}

int32_t bb_sampler_draw(bb_choice *c, size_t n, double temperature, double u)
{
    double left = u * weigh(c, n, temperature);
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if ((left -= (double)c[i].e) < 0) return c[i].id;
        if (likelier(&c[i], &c[best])) best = i;
    }
    return c[best].id; /* only rounding comes here */
}

int32_t bb_sampler_next(const bb_sampler *s, float *z, size_t n, const int32_t *history, size_t n_history, bb_choice *room, bb_rng *r)
{
    const size_t back = n_history < s->repeat_last ? n_history : s->repeat_last;
    if (s->repeat_penalty < 1 || s->repeat_penalty > 1) bb_sampler_penalise(z, n, history + n_history - back, back, s->repeat_penalty);
    if (s->temperature <= 0) return (int32_t)bb_kernels_get()->arg_max(z, n);
    for (size_t i = 0; i < n; i++) room[i] = (bb_choice) { (int32_t)i, z[i], 0 };
    n = bb_sampler_top_k(room, n, s->top_k);
    n = bb_sampler_top_p(room, n, s->top_p);
    n = bb_sampler_min_p(room, n, s->min_p);
    return bb_sampler_draw(room, n, s->temperature, bb_rng_uniform(r));
}
