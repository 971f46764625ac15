/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_search_certificate.c: bounds against brute force over every candidate, and what the summary counts. */
#include <check.h>
#include <gsl/gsl_errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "search/certificate.h"
#include "tests/support/synthetic.h"

static bool next_candidate(const bb_problem *p, uint16_t *x)
{
    for (uint32_t u = 0; u < p->n_units; u++) {
        if (++x[u] < p->units[u].n_options) return true;
        x[u] = 0;
    }
    return false;
}

/* Least separable and quadratic score within the bytes. */
static void brute(const bb_problem *p, const bb_quadratic *q, int64_t bytes, double *separable, double *quadratic)
{
    uint16_t x[SYN_MAX_UNITS] = { 0 };
    *separable = *quadratic = HUGE_VAL;
    do {
        const int64_t b = bb_problem_bound(p, x);
        if (b == BB_FORBIDDEN || b > bytes) continue;
        *separable = fmin(*separable, bb_problem_cost(p, x));
        *quadratic = fmin(*quadratic, bb_quadratic_score(q, x));
    } while (next_candidate(p, x));
}

/* G = B B' with random B (M, 6). */
static float *random_gram(size_t M, uint64_t seed)
{
    float  *G = calloc(M * M, sizeof *G);
    double *B = calloc(M * 6, sizeof *B);
    bb_rng  r;
    bb_rng_init(&r, seed, "gram");
    for (size_t i = 0; i < 6 * M; i++) B[i] = bb_rng_normal(&r);
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < M; j++) {
            double sum = 0;
            for (int k = 0; k < 6; k++) sum += B[6 * i + (size_t)k] * B[6 * j + (size_t)k];
            G[i * M + j] = (float)sum;
        }
    free(B);
    return G;
}

START_TEST(bounds_hold_and_optima_are_proven)
{
    for (uint64_t seed = 0; seed < 12; seed++) {
        syn_problem    *s = syn_random(7000 + seed, 3, 1, 5);
        bb_space        space;
        bb_rng          r;
        uint16_t        x[6][SYN_MAX_UNITS];
        const uint16_t *px[6];
        bb_certificate  rows[6];
        ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
        const size_t       M = space.offset[s->p.n_units];
        float             *G = random_gram(M, seed);
        const bb_quadratic q = { &space, G, 0, NULL };
        bb_rng_init(&r, seed, "plans");
        for (int i = 0; i < 6; i++) {
            ck_assert(bb_space_random(&space, &r, x[i]));
            px[i] = x[i];
            /* every other budget is a little below what the tables count, as exact sizes are */
            rows[i].budget_bytes = bb_problem_bound(&s->p, x[i]) + (i % 2 ? -13 : 77);
        }
        ck_assert_int_eq(bb_certify(&s->p, &q, px, 6, rows, NULL), BB_OK);
        for (int i = 0; i < 6; i++) {
            const bb_certificate *c = &rows[i];
            const int64_t         counted = bb_problem_bound(&s->p, x[i]);
            double                separable, quadratic;
            brute(&s->p, &q, counted > c->budget_bytes ? counted : c->budget_bytes, &separable, &quadratic);
            ck_assert_double_eq_tol(c->separable_best, separable, 1e-12);
            ck_assert_double_le(c->separable_bound, separable + 1e-12);
            ck_assert(c->proven); /* small enough to be solved exactly */
            ck_assert_double_eq(c->separable, bb_problem_cost(&s->p, x[i]));
            ck_assert_double_le(c->quadratic_bound, quadratic + 1e-6);
            ck_assert_double_ge(c->quadratic_best, quadratic - 1e-6);
            ck_assert_double_le(c->quadratic_best, c->quadratic);
        }
        free(G);
        bb_space_done(&space);
        syn_free(s);
    }
}
END_TEST

/* Subset sums: a budget between them leaves an LP gap that only enumeration closes, so `proven` is more than the LP. */
START_TEST(the_gap_of_the_relaxation_is_closed)
{
    syn_problem *s = syn_new();
    for (int k = 0; k < 8; k++) {
        const uint32_t u = syn_add(s, 2, -1);
        s->bytes[u][0] = 0;
        s->cost[u][0] = 1;
        s->bytes[u][1] = 100;
        s->cost[u][1] = 0.5;
    }
    uint16_t        x[SYN_MAX_UNITS] = { 0 };
    const uint16_t *px = x;
    bb_certificate  row = { .budget_bytes = 350 };
    bb_separable   *sep;
    x[0] = x[1] = x[2] = 1;
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    ck_assert_double_lt(bb_separable_bound(sep, 350), 6.5 - 0.2); /* the LP alone is 6.25 */
    ck_assert_int_eq(bb_certify(&s->p, NULL, &px, 1, &row, NULL), BB_OK);
    ck_assert(row.proven && isnan(row.quadratic_gap));
    ck_assert_double_eq_tol(row.separable_best, 6.5, 1e-12);
    bb_separable_destroy(sep);
    syn_free(s);
}
END_TEST

/* One group with more points than the solver keeps: what it then enumerates is no proof, and neither `proven` nor the bound may say so. */
START_TEST(what_is_not_proven_is_not_called_proven)
{
    enum { N = 15, SUBSETS = 1 << N };
    syn_problem    *s = syn_new();
    int64_t         weight[N], power = 1, budget = 0;
    double          gain[N], best = 0, all = 0;
    uint16_t        x[SYN_MAX_UNITS] = { 0 };
    const uint16_t *px = x;
    bb_certificate  row;
    const uint32_t  controller = syn_add(s, 1, -1);
    s->bytes[controller][0] = 0;
    s->cost[controller][0] = 0;
    for (int k = 0; k < N; k++, power *= 3) { /* every subset is on the front: bytes and gains have one order */
        const uint32_t u = syn_add(s, 2, (int32_t)controller);
        weight[k] = power;
        gain[k] = (double)power * (k % 2 ? 1.3 : 1.0) / 1e7;
        s->bytes[u][0] = 0;
        s->bytes[u][1] = weight[k];
        s->cost[u][0] = gain[k];
        s->cost[u][1] = 0;
        all += gain[k];
    }
    for (int k = 0; k < N; k += 3) budget += weight[k];
    for (budget += 5; budget < 7000000; budget += 377777) {
        for (uint32_t m = 0; m < SUBSETS; m++) {
            int64_t bytes = 0;
            double  saved = 0;
            for (int k = 0; k < N; k++)
                if (m >> k & 1) {
                    bytes += weight[k];
                    saved += gain[k];
                }
            if (bytes <= budget) best = fmax(best, saved);
        }
        row = (bb_certificate) { .budget_bytes = budget };
        ck_assert_int_eq(bb_certify(&s->p, NULL, &px, 1, &row, NULL), BB_OK);
        ck_assert_double_le(row.separable_bound, all - best + 1e-9);
        ck_assert_double_ge(row.separable_best, all - best - 1e-9);
        ck_assert(row.separable_gap > BB_CERTIFICATE_ZERO && !row.proven);
    }
    syn_free(s);
}
END_TEST

START_TEST(summary_counts)
{
    const bb_certificate rows[4] = { { .proven = true, .separable_gap = 0, .quadratic_gap = (double)NAN },
                                     { .proven = false, .separable_gap = 0.02, .quadratic_gap = 0.5 },
                                     { .proven = true, .separable_gap = 0, .quadratic_gap = 0.25 },
                                     { .proven = true, .separable_gap = 0, .quadratic_gap = (double)NAN } };
    double               proven, separable, quadratic;
    bb_certificate_summary(rows, 4, &proven, &separable, &quadratic);
    ck_assert_double_eq_tol(proven, 0.75, 1e-15);
    ck_assert_double_eq_tol(separable, 0.02, 1e-15);
    ck_assert_double_eq_tol(quadratic, 0.5, 1e-15);
    bb_certificate_summary(rows, 0, &proven, &separable, &quadratic);
    ck_assert(proven == 1 && separable == 0 && isnan(quadratic));
}
END_TEST

START_TEST(plans_that_cannot_be_loaded_are_refused)
{
    syn_problem    *s = syn_new();
    const uint32_t  u = syn_add(s, 2, -1);
    uint16_t        x[1] = { 1 };
    const uint16_t *px = x;
    bb_certificate  row = { .budget_bytes = 100 };
    bb_err          err = BB_ERR_INIT;
    s->bytes[u][1] = BB_FORBIDDEN;
    ck_assert_int_eq(bb_certify(&s->p, NULL, &px, 1, &row, &err), BB_USAGE);
    syn_free(s);
}
END_TEST

int main(void)
{
    bb_log_set_level(BB_LOG_QUIET);
    gsl_set_error_handler_off();
    Suite *s = suite_create("search_certificate");
    TCase *t = tcase_create("core");
    tcase_add_test(t, bounds_hold_and_optima_are_proven);
    tcase_add_test(t, the_gap_of_the_relaxation_is_closed);
    tcase_add_test(t, what_is_not_proven_is_not_called_proven);
    tcase_add_test(t, summary_counts);
    tcase_add_test(t, plans_that_cannot_be_loaded_are_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
