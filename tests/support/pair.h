/* SPDX-License-Identifier: GPL-3.0-or-later
 * pair.h: two networks that differ a little and a text to continue with both: what tests of greedy decoding begin with. */
#ifndef BB_TESTS_PAIR_H
#define BB_TESTS_PAIR_H

#include <check.h>
#include <math.h>

#include "eval/evaluate.h"
#include "tests/support/ref_net.h"

typedef struct pair {
    ref_model full, small;
    bb_tokens text;
} pair;

enum { PAIR_TEXT = 41 /* ten prompts of four tokens, and one token over */ };

/* ref_specs[which] twice; the second one's output norm is off by noise of this size. */
static inline void pair_make(pair *p, size_t which, double by)
{
    int32_t  ids[PAIR_TEXT];
    uint64_t seed = 5, noise = 11;
    ref_model_make(&ref_specs[which], 2, &p->full);
    ref_model_make(&ref_specs[which], 2, &p->small);
    float *w = (float *)(uintptr_t)p->small.net.out_norm; /* the tests' own memory */
    for (size_t i = 0; i < p->small.net.n_embd; i++) w[i] += (float)(by * ref_noise(&noise));
    for (size_t i = 0; i < PAIR_TEXT; i++) ids[i] = (int32_t)((1 + ref_noise(&seed)) / 2 * p->full.net.n_vocab);
    ck_assert_int_eq(bb_tokens_from_ids(ids, PAIR_TEXT, &p->text, NULL), BB_OK);
}

static inline void pair_done(pair *p)
{
    ref_model_free(&p->full);
    ref_model_free(&p->small);
    bb_tokens_done(&p->text);
}

/* Of n numbers, and the standard error of their mean. */
static inline void pair_mean(const double *x, size_t n, double *mean, double *error)
{
    double square = 0;
    *mean = 0;
    for (size_t i = 0; i < n; i++) *mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++) square += pow(x[i] - *mean, 2);
    *error = sqrt(square / (double)(n - 1)) / sqrt((double)n);
}

#endif
