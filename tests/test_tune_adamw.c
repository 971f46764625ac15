/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_tune_adamw.c: AdamW against the formula in float64, clipping, saved state, threads, schedules. */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "model/tune/adamw.h"
#include "model/tune/moments.h"

enum { N = 10000 };

/* The textbook, one entry. */
static double reference(double w, const double *g, int steps, double rate, double b1, double b2, double eps, double decay)
{
    double m = 0, v = 0;
    for (int t = 1; t <= steps; t++) {
        m = b1 * m + (1 - b1) * g[t - 1];
        v = b2 * v + (1 - b2) * g[t - 1] * g[t - 1];
        double mh = m / (1 - pow(b1, t)), vh = v / (1 - pow(b2, t));
        w = w - rate * (mh / (sqrt(vh) + eps) + decay * w);
    }
    return w;
}

START_TEST(follows_the_formula)
{
    enum { STEPS = 7 };
    const double     gradients[3][STEPS] = { { 1, -0.5, 0.25, 3, 0, 0, -1e-3 }, { 1e-6, 2e-6, -3e-6, 1e-6, 0, 1, 1 }, { 0 } };
    const float      start[3] = { 0.5f, -2.0f, 1.0f };
    float            w[3], g[3];
    bb_param         p = { w, g, 3, 0.5f, 0.1f };
    bb_adamw_options o = { 0.9, 0.99, 1e-8, false };
    bb_adamw        *a;
    memcpy(w, start, sizeof w);
    ck_assert_int_eq(bb_adamw_create(&p, 1, &o, &a, NULL), BB_OK);
    for (int s = 0; s < STEPS; s++) {
        for (int i = 0; i < 3; i++) g[i] = (float)gradients[i][s];
        bb_adamw_step(a, 0.02);
    }
    for (int i = 0; i < 3; i++) {
        double expected = reference((double)start[i], gradients[i], STEPS, 0.01, 0.9, 0.99, 1e-8, (double)0.1f);
        ck_assert_double_eq_tol((double)w[i], expected, 2e-6);
    }
    ck_assert_uint_eq(bb_adamw_steps(a), STEPS);
    bb_adamw_destroy(a);
}
END_TEST

/* Two arrays of N and 3 entries, trained on ||w - 1||^2 / 2 with a twist; returns steps done. */
static void train(bb_adamw *a, const bb_param *p, int steps)
{
    for (int s = 0; s < steps; s++) {
        for (int k = 0; k < 2; k++)
            for (size_t i = 0; i < p[k].n; i++) p[k].g[i] = (p[k].w[i] - 1) * (float)(1 + i % 3);
        bb_grads_clip(p, 2, 5);
        bb_adamw_step(a, 0.05);
    }
}

typedef struct fixture {
    float    *w, *g;
    bb_param  p[2];
    bb_adamw *a;
} fixture;

static fixture fixture_of(bool coarse)
{
    bb_adamw_options o = BB_ADAMW_DEFAULT;
    fixture          f = { BB_NEW(N + 3, float, NULL), BB_NEW0(N + 3, float, NULL), { { 0 } }, NULL };
    bb_rng           r;
    bb_rng_init(&r, 5, "adamw");
    for (int i = 0; i < N + 3; i++) f.w[i] = (float)bb_rng_normal(&r);
    f.p[0] = (bb_param) { f.w, f.g, N, 1, 0 };
    f.p[1] = (bb_param) { f.w + N, f.g + N, 3, 2, 0.01f };
    o.coarse = coarse;
    ck_assert_int_eq(bb_adamw_create(f.p, 2, &o, &f.a, NULL), BB_OK);
    return f;
}

/* The moments of 8 bits of blocks of the same gradients, after `idle` steps of none. */
static void moments_of(uint64_t idle, unsigned char *m8)
{
    const bb_adamw_options o = { 0.9, 0.95, 1e-8, true };
    float                  w[2 * BB_MOMENTS_BLOCK] = { 0 }, g[2 * BB_MOMENTS_BLOCK] = { 0 };
    const bb_param         p = { w, g, 2 * BB_MOMENTS_BLOCK, 1, 0 };
    size_t                 bytes;
    bb_adamw              *a;
    bb_rng                 r;
    ck_assert_int_eq(bb_adamw_create(&p, 1, &o, &a, NULL), BB_OK);
    for (uint64_t i = 0; i < idle; i++) bb_adamw_step(a, 0.01);
    bb_rng_init(&r, 7, "moments");
    for (size_t i = 0; i < BB_MOMENTS_BLOCK; i++) g[i] = g[BB_MOMENTS_BLOCK + i] = (float)bb_rng_normal(&r);
    bb_adamw_step(a, 0.01);
    const unsigned char *at = bb_adamw_moments(a, &bytes);
    ck_assert_uint_eq(bytes, 2 * sizeof(bb_moments_scale) + 4 * BB_MOMENTS_BLOCK);
    memcpy(m8, at + 2 * sizeof(bb_moments_scale), 2 * BB_MOMENTS_BLOCK);
    bb_adamw_destroy(a);
}

/* Rounding draws anew for every block and every step: else errors would add up instead of cancelling. */
START_TEST(every_block_and_step_draws_anew)
{
    unsigned char first[2 * BB_MOMENTS_BLOCK], again[2 * BB_MOMENTS_BLOCK], later[2 * BB_MOMENTS_BLOCK];
    size_t        blocks = 0, steps = 0;
    moments_of(0, first);
    moments_of(0, again);
    moments_of(1, later);
    ck_assert_mem_eq(first, again, sizeof first);
    for (size_t i = 0; i < BB_MOMENTS_BLOCK; i++) {
        blocks += first[i] != first[BB_MOMENTS_BLOCK + i];
        steps += first[i] != later[i];
    }
    ck_assert_uint_ge(blocks, BB_MOMENTS_BLOCK / 8);
    ck_assert_uint_ge(steps, BB_MOMENTS_BLOCK / 8);
}
END_TEST

static void fixture_done(fixture *f)
{
    bb_adamw_destroy(f->a);
    bb_free(f->w);
    bb_free(f->g);
}

START_TEST(state_and_threads_change_nothing)
{
    const bool coarse = _i == 1;
    fixture    a = fixture_of(coarse), b = fixture_of(coarse), c = fixture_of(coarse);
    size_t     size = bb_adamw_state_bytes(a.a);
    void      *state = bb_alloc(size, 1, NULL);
    int        threads = omp_get_max_threads();
    omp_set_num_threads(1);
    train(a.a, a.p, 20);
    omp_set_num_threads(2);
    train(b.a, b.p, 20);
    ck_assert_mem_eq(a.w, b.w, (N + 3) * sizeof(float));
    train(c.a, c.p, 8);
    bb_adamw_state_save(c.a, state);
    bb_adamw_reset(c.a);
    ck_assert_uint_eq(bb_adamw_steps(c.a), 0);
    ck_assert_int_eq(bb_adamw_state_load(c.a, state, size, NULL), BB_OK);
    ck_assert_int_eq(bb_adamw_state_load(c.a, state, size - 4, NULL), BB_BAD_FILE);
    ((uint64_t *)state)[1]--; /* as many bytes, for fewer entries */
    ck_assert_int_eq(bb_adamw_state_load(c.a, state, size, NULL), BB_BAD_FILE);
    train(c.a, c.p, 12);
    ck_assert_mem_eq(a.w, c.w, (N + 3) * sizeof(float));
    omp_set_num_threads(threads);
    bb_free(state);
    fixture_done(&a);
    fixture_done(&b);
    fixture_done(&c);
}
END_TEST

START_TEST(goes_to_the_minimum_and_frozen_stays)
{
    bb_adamw_options o = BB_ADAMW_DEFAULT;
    fixture          f = fixture_of(_i == 1);
    float            kept[3];
    bb_adamw_destroy(f.a);
    memcpy(kept, f.w + N, sizeof kept);
    f.p[1].rate_factor = 0;
    o.coarse = _i == 1;
    ck_assert_int_eq(bb_adamw_create(f.p, 2, &o, &f.a, NULL), BB_OK);
    train(f.a, f.p, 400);
    for (int i = 0; i < N; i++) ck_assert_double_eq_tol((double)f.w[i], 1.0, 0.1);
    ck_assert_mem_eq(kept, f.w + N, sizeof kept);
    fixture_done(&f);
}
END_TEST

/* A byte is within a level of its number, the largest and 0 exactly; the mean over many draws is the number, whatever the place in its range; v stays above 0. */
START_TEST(bytes_of_moments)
{
    enum { SEEDS = 4000, SOME = 9 };
    const float      m[SOME] = { 4, -4, 0, 1, -0.3f, 1e-3f, 2.9f, -3.99f, 3e-6f }, v[SOME] = { 16, 1, 0, 0.3f, 15.9f, 1e-4f, 7.7f, 1e-38f, 16 };
    double           sum_m[SOME] = { 0 }, sum_v[SOME] = { 0 };
    float            a[SOME], b[SOME];
    uint8_t          m8[SOME], v8[SOME];
    bb_moments_scale s;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        bb_moments_put(m, v, SOME, seed << 40, &s, m8, v8);
        bb_moments_get(&s, m8, v8, SOME, a, b);
        for (int i = 0; i < SOME; i++) {
            ck_assert(fabs((double)a[i] - (double)m[i]) <= 0.123 * fabs((double)m[i]) + 4 * 0x1p-20);
            ck_assert(i == 7 || fabs((double)b[i] - (double)v[i]) <= 0.091 * (double)v[i]);
            ck_assert(a[i] * m[i] >= 0 && (b[i] > 0) == (v[i] > 0));
            sum_m[i] += (double)a[i];
            sum_v[i] += (double)b[i];
        }
        ck_assert(a[0] == 4 && a[1] == -4 && a[2] == 0 && b[0] == 16);
    }
    for (int i = 0; i < SOME; i++) {
        ck_assert_double_eq_tol(sum_m[i] / SEEDS, (double)m[i], 0.004 * fabs((double)m[i]) + 2e-7);
        ck_assert(i == 7 || fabs(sum_v[i] / SEEDS - (double)v[i]) <= 0.003 * (double)v[i]);
    }
    bb_moments_put(m + 2, v + 2, 1, 5, &s, m8, v8);
    bb_moments_get(&s, m8, v8, 1, a, b);
    ck_assert(a[0] == 0 && b[0] == 0);
}
END_TEST

START_TEST(clips_the_global_norm)
{
    float    g[5] = { 3, 0, 0, 4, 0 };
    bb_param p[2] = { { NULL, g, 2, 1, 0 }, { NULL, g + 2, 3, 1, 0 } };
    ck_assert_double_eq_tol(bb_grads_norm(p, 2), 5, 1e-12);
    ck_assert_double_eq_tol(bb_grads_clip(p, 2, 10), 5, 1e-12);
    ck_assert(g[3] == 4.0f);
    ck_assert_double_eq_tol(bb_grads_clip(p, 2, 1), 5, 1e-12);
    ck_assert_double_eq_tol((double)g[0], 0.6, 1e-6);
    ck_assert_double_eq_tol((double)g[3], 0.8, 1e-6);
    g[1] = (float)INFINITY;
    ck_assert(!isfinite(bb_grads_clip(p, 2, 1)));
    ck_assert_double_eq_tol((double)g[0], 0.6, 1e-6);
    bb_grads_zero(p, 2);
    ck_assert_double_eq(bb_grads_norm(p, 2), 0);
}
END_TEST

START_TEST(schedules)
{
    bb_schedule cosine = { BB_SCHEDULE_COSINE, 101, 0, 0, 1.0, 0.1 };
    ck_assert_double_eq_tol(bb_schedule_rate(&cosine, 0), 1, 1e-12);
    ck_assert_double_eq_tol(bb_schedule_rate(&cosine, 50), 0.55, 1e-12);
    ck_assert_double_eq_tol(bb_schedule_rate(&cosine, 100), 0.1, 1e-12);
    ck_assert_double_eq_tol(bb_schedule_rate(&cosine, 1000), 0.1, 1e-12);
    cosine.n_warmup = 10;
    ck_assert_double_eq_tol(bb_schedule_rate(&cosine, 0), 0.1, 1e-12);
    ck_assert_double_eq_tol(bb_schedule_rate(&cosine, 10), 1, 1e-12);
    bb_schedule wsd = { BB_SCHEDULE_WSD, 101, 10, 40, 1.0, 0.0 };
    ck_assert_double_eq_tol(bb_schedule_rate(&wsd, 4), 0.5, 1e-12);
    ck_assert_double_eq_tol(bb_schedule_rate(&wsd, 60), 1, 1e-12);
    ck_assert_double_eq_tol(bb_schedule_rate(&wsd, 80), 0.5, 1e-12);
    ck_assert_double_eq_tol(bb_schedule_rate(&wsd, 100), 0, 1e-12);
    wsd.n_decay = 1000; /* longer than all: it falls from the warm-up on */
    ck_assert_double_eq_tol(bb_schedule_rate(&wsd, 55), 0.5, 1e-12);
    bb_schedule constant = { BB_SCHEDULE_CONSTANT, 5, 0, 0, 0.3, 0 };
    ck_assert_double_eq(bb_schedule_rate(&constant, 4), 0.3);
    bb_schedule one = { BB_SCHEDULE_COSINE, 1, 0, 0, 0.3, 0 };
    ck_assert_double_eq(bb_schedule_rate(&one, 0), 0); /* documented: the last step has the last rate */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tune_adamw");
    TCase *t = tcase_create("core");
    tcase_add_test(t, follows_the_formula);
    tcase_add_loop_test(t, state_and_threads_change_nothing, 0, 2);
    tcase_add_loop_test(t, goes_to_the_minimum_and_frozen_stays, 0, 2);
    tcase_add_test(t, bytes_of_moments);
    tcase_add_test(t, every_block_and_step_draws_anew);
    tcase_add_test(t, clips_the_global_norm);
    tcase_add_test(t, schedules);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
