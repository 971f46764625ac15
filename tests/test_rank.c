/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_rank.c: rank correlations by hand, by other formulas, and under changes that must not matter. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "base/rng.h"
#include "eval/rank.h"
#include "tests/support/support.h"

static void close_to(double is, double want) { ck_assert_msg(fabs(is - want) < 1e-12, "%.15g, wanted %.15g", is, want); }

START_TEST(by_hand)
{
    static const double a[] = { 1, 2, 3, 4 }, b[] = { 1, 3, 2, 4 }, down[] = { 9, 7, 5, 1 }, tied[] = { 1, 1, 2, 2 }, flat[] = { 3, 3, 3, 3 };
    double              rho;
    close_to(bb_kendall(a, a, 4), 1);
    close_to(bb_kendall(a, down, 4), -1);
    close_to(bb_kendall(a, b, 4), 4.0 / 6);              /* five pairs agree, one does not */
    close_to(bb_kendall(a, tied, 4), 4 / sqrt(6.0 * 4)); /* four untied pairs, all agree */
    ck_assert(isnan(bb_kendall(a, flat, 4)));
    ck_assert_int_eq(bb_spearman(a, b, 4, &rho, NULL), BB_OK);
    close_to(rho, 0.8); /* 1 - 6 * 2 / (4 * 15) */
    ck_assert_int_eq(bb_spearman(a, tied, 4, &rho, NULL), BB_OK);
    close_to(rho, 2 / sqrt(5)); /* ranks 0.5 0.5 2.5 2.5: covariance 4, squares 5 and 4 */
    ck_assert_int_eq(bb_spearman(flat, a, 4, &rho, NULL), BB_OK);
    ck_assert(isnan(rho));
    close_to(bb_regret(down, a, 4), 3); /* the least of down is the last, whose a is 4 */
    close_to(bb_regret(a, down, 4), 8);
    close_to(bb_regret(flat, a, 4), 0);
}
END_TEST

enum { N = 200 };

static void random_pairs(double *a, double *b)
{
    bb_rng rng;
    bb_rng_init(&rng, 5, "pairs");
    for (int i = 0; i < N; i++) {
        a[i] = bb_rng_normal(&rng);
        b[i] = a[i] + 0.7 * bb_rng_normal(&rng);
    }
}

/* Without ties: tau = 1 - 4 I / (n (n - 1)) with I the inversions of b in the order of a; rho = 1 - 6 sum d^2 / (n (n^2 - 1)). */
START_TEST(by_inversions_and_rank_differences)
{
    double a[N], b[N], rho, d2 = 0;
    int    order[N], inversions = 0;
    random_pairs(a, b);
    for (int i = 0; i < N; i++) {
        int k = i;
        for (; k > 0 && a[order[k - 1]] > a[i]; k--) order[k] = order[k - 1];
        order[k] = i;
    }
    for (int i = 0; i < N; i++)
        for (int j = i + 1; j < N; j++) inversions += b[order[i]] > b[order[j]];
    for (int i = 0; i < N; i++) {
        double below = 0;
        for (int j = 0; j < N; j++) below += b[j] < b[order[i]];
        d2 += (below - i) * (below - i);
    }
    close_to(bb_kendall(a, b, N), 1 - 4.0 * inversions / (N * (N - 1.0)));
    ck_assert_int_eq(bb_spearman(a, b, N, &rho, NULL), BB_OK);
    close_to(rho, 1 - 6 * d2 / (N * (N * (double)N - 1)));
    for (int i = 0; i < N; i++) a[i] = exp(a[i]); /* order is all that counts */
    close_to(bb_kendall(a, b, N), 1 - 4.0 * inversions / (N * (N - 1.0)));
}
END_TEST

/* For a normal pair with correlation r, tau = 2/pi asin r; the interval covers it, has about the width of theory, and is the same again. */
START_TEST(intervals_cover)
{
    double a[N], b[N], lo, hi, lo2, hi2, tau = 2 / 3.14159265358979 * asin(1 / sqrt(1 + 0.7 * 0.7));
    int    before = omp_get_max_threads();
    random_pairs(a, b);
    ck_assert_int_eq(bb_kendall_interval(a, b, N, 400, 1, &lo, &hi, NULL), BB_OK);
    ck_assert(lo < tau && tau < hi);
    ck_assert(hi - lo > 0.06 && hi - lo < 0.2); /* standard error about 0.03 */
    omp_set_num_threads(2);
    ck_assert_int_eq(bb_kendall_interval(a, b, N, 400, 1, &lo2, &hi2, NULL), BB_OK);
    omp_set_num_threads(before);
    close_to(lo2, lo);
    close_to(hi2, hi);
    ck_assert_int_eq(bb_kendall_interval(a, a, N, 50, 1, &lo, &hi, NULL), BB_OK);
    close_to(lo, 1);
    close_to(hi, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rank");
    TCase *t = tcase_create("rank");
    tcase_add_test(t, by_hand);
    tcase_add_test(t, by_inversions_and_rank_differences);
    tcase_add_test(t, intervals_cover);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
