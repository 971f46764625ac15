/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_generate.c: samplers against brute force, on given logits; chat templates against texts written out by hand from what their programs say. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/net/sampler.h"
#include "tests/support/support.h"

/* ---- samplers ---- */

enum { N = 40 };

/* Logits with equal ones among them. */
static void random_logits(uint64_t seed, float z[N])
{
    bb_rng r;
    bb_rng_init(&r, seed, "logits");
    for (size_t i = 0; i < N; i++) z[i] = (float)(bb_rng_below(&r, 60)) * 0.15f - 4;
}

static void choices_of(const float z[N], bb_choice c[N])
{
    for (size_t i = 0; i < N; i++) c[i] = (bb_choice) { (int32_t)i, z[i], 0 };
}

static size_t likelier_than(const float z[N], size_t i) /* how many come before i */
{
    size_t n = 0;
    for (size_t j = 0; j < N; j++) n += z[j] > z[i] || (j < i && !(z[j] < z[i]));
    return n;
}

static double share(const float z[N], size_t i) /* softmax */
{
    double sum = 0;
    for (size_t j = 0; j < N; j++) sum += exp((double)z[j] - (double)z[i]);
    return 1 / sum;
}

static bool is_kept(const bb_choice *c, size_t n, size_t id)
{
    for (size_t i = 0; i < n; i++)
        if (c[i].id == (int32_t)id) return true;
    return false;
}

START_TEST(top_k_keeps_the_k_likeliest)
{
    for (uint64_t seed = 0; seed < 50; seed++)
        for (size_t k = 0; k <= N + 3; k++) {
            float     z[N];
            bb_choice c[N];
            random_logits(seed, z);
            choices_of(z, c);
            const size_t n = bb_sampler_top_k(c, N, k);
            ck_assert_uint_eq(n, k == 0 || k > N ? N : k);
            for (size_t i = 0; k && i < n; i++) ck_assert_uint_eq(likelier_than(z, (size_t)c[i].id), i); /* in order, and so each once */
        }
}
END_TEST

START_TEST(top_p_keeps_the_fewest_that_have_p)
{
    static const double ps[] = { 0, 0.01, 0.3, 0.5, 0.9, 0.95, 0.999, 1 };
    for (uint64_t seed = 0; seed < 50; seed++)
        for (size_t t = 0; t < sizeof ps / sizeof *ps; t++) {
            float     z[N];
            bb_choice c[N];
            double    sum = 0, before = 0;
            random_logits(seed, z);
            choices_of(z, c);
            const size_t n = bb_sampler_top_p(c, N, ps[t]);
            ck_assert(n >= 1 && n <= N);
            for (size_t i = 0; i < n; i++) {
                if (ps[t] < 1) ck_assert_uint_eq(likelier_than(z, (size_t)c[i].id), i);
                before = sum;
                sum += share(z, (size_t)c[i].id);
            }
            ck_assert_msg(sum >= ps[t] - 1e-5 && (n == 1 || before < ps[t] + 1e-5), "p %g: %zu choices have %g, without the last %g", ps[t], n, sum, before);
        }
}
END_TEST

START_TEST(min_p_keeps_what_is_near_the_likeliest)
{
    static const double ps[] = { 0, 0.003, 0.05, 0.51, 1 };
    for (uint64_t seed = 0; seed < 50; seed++)
        for (size_t t = 0; t < sizeof ps / sizeof *ps; t++) {
            float     z[N], top = -100;
            bb_choice c[N];
            random_logits(seed, z);
            choices_of(z, c);
            const size_t n = bb_sampler_min_p(c, N, ps[t]);
            for (size_t i = 0; i < N; i++) top = z[i] > top ? z[i] : top;
            for (size_t i = 0; i < N; i++) ck_assert_int_eq(is_kept(c, n, i), exp((double)(z[i] - top)) >= ps[t]);
            for (size_t i = 1; i < n; i++) ck_assert_int_lt(c[i - 1].id, c[i].id);
        }
}
END_TEST

START_TEST(the_penalty_meets_each_recent_token_once)
{
    const int32_t recent[] = { 2, 0, 2, 7 /* none of the vocabulary */, -1, 2 };
    float         z[4] = { 3, 1, -2, 0.5f };
    bb_sampler_penalise(z, 4, recent, 6, 1.5);
    ck_assert_double_eq((double)z[0], (double)(3 / 1.5f));
    ck_assert_double_eq((double)z[1], 1);
    ck_assert_double_eq((double)z[2], -3);
    ck_assert_double_eq((double)z[3], 0.5);
}
END_TEST

START_TEST(a_draw_falls_where_softmax_says)
{
    static const double temperatures[] = { 0.3, 1, 2.5 };
    for (size_t t = 0; t < 3; t++) {
        float     z[N], hot[N];
        bb_choice c[N];
        double    end = 0;
        random_logits(4, z);
        for (size_t i = 0; i < N; i++) hot[i] = (float)((double)z[i] / temperatures[t]);
        choices_of(z, c);
        for (size_t i = 0; i < N; i++) {
            const double begin = end, width = share(hot, i);
            end += width;
            if (width < 1e-4) continue;
            ck_assert_int_eq(bb_sampler_draw(c, N, temperatures[t], begin + 0.02 * width), (int32_t)i);
            ck_assert_int_eq(bb_sampler_draw(c, N, temperatures[t], end - 0.02 * width), (int32_t)i);
        }
        ck_assert_int_eq(likelier_than(z, (size_t)bb_sampler_draw(c, N, 1e-300, 0.5)) < 3, 1); /* no NaN where 1/T is beyond float */
    }
}
END_TEST

/* The whole chain: frequencies against probabilities by definition, chi-square. */
START_TEST(frequencies_follow_the_chain)
{
    enum { DRAWS = 20000 };
    const bb_sampler s = { 0.7, 12, 0.9, 0.1, 1.3, 2 };
    const int32_t    history[] = { 5, 1, 3 }; /* 5 is too long ago */
    float            z[N], penalised[N];
    bb_choice        room[N];
    double           want[N], sum = 0, mass = 0, square = 0, top = 0, all = 0;
    size_t           count[N] = { 0 }, kept = 0;
    bb_rng           r;
    bb_rng_init(&r, 3, "draws");
    random_logits(9, z);
    z[1] = 3, z[3] = 2.8f, z[5] = 3.1f;
    memcpy(penalised, z, sizeof z);
    penalised[1] /= 1.3f, penalised[3] /= 1.3f;
    for (size_t i = 0; i < N; i++) {
        if (likelier_than(penalised, i) < 12) all += share(penalised, i);
        if (likelier_than(penalised, i) == 0) top = share(penalised, i);
    }
    for (size_t i = 0; i < N; i++) want[i] = 0;
    for (size_t rank = 0; rank < 12 && mass < 0.9 * all; rank++)
        for (size_t i = 0; i < N; i++)
            if (likelier_than(penalised, i) == rank) {
                mass += share(penalised, i);
                if (share(penalised, i) >= 0.1 * top) want[i] = exp((double)penalised[i] / 0.7);
            }
    for (size_t i = 0; i < N; i++) sum += want[i];
    for (size_t d = 0; d < DRAWS; d++) {
        float again[N];
        memcpy(again, z, sizeof z);
        count[bb_sampler_next(&s, again, N, history, 3, room, &r)]++;
    }
    for (size_t i = 0; i < N; i++) {
        const double mean = DRAWS * want[i] / sum;
        ck_assert_msg((mean > 0) == (count[i] > 0), "token %zu: %zu draws for %g", i, count[i], mean);
        if (mean > 0) kept++, square += ((double)count[i] - mean) * ((double)count[i] - mean) / mean;
    }
    ck_assert_uint_ge(kept, 3);
    ck_assert_msg(square < (double)kept + 5 * sqrt(2.0 * (double)kept), "chi-square %g for %zu tokens", square, kept);
}
END_TEST

START_TEST(temperature_zero_is_the_first_of_the_likeliest)
{
    const bb_sampler s = { 0, 5, 0.1, 0.9, 1, 64 };
    float            z[4] = { 1, 2, 2, 0 };
    bb_choice        room[4];
    ck_assert_int_eq(bb_sampler_next(&s, z, 4, NULL, 0, room, NULL), 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("generate");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, top_k_keeps_the_k_likeliest);
    tcase_add_test(t, top_p_keeps_the_fewest_that_have_p);
    tcase_add_test(t, min_p_keeps_what_is_near_the_likeliest);
    tcase_add_test(t, the_penalty_meets_each_recent_token_once);
    tcase_add_test(t, a_draw_falls_where_softmax_says);
    tcase_add_test(t, frequencies_follow_the_chain);
    tcase_add_test(t, temperature_zero_is_the_first_of_the_likeliest);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
