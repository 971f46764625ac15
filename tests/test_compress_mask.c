/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_compress_mask.c: group OBS against brute force: at every step each remaining group is removed on trial, the survivors are solved
 * for by Gaussian elimination, and the cheapest trial must be the one chosen. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"
#include "model/compress/compress.h"

enum { ROWS = 5, COLS = 12, TOKENS = 40 };

static uint64_t seed = 7;
static double   uniform(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 11) * 0x1p-53 - 0.5;
}

static float w[ROWS * COLS], hm[COLS * COLS];

/* Correlated inputs; column `dead` (if any) is never excited. */
static bb_hessian problem(int dead)
{
    double x[TOKENS][COLS], mix[COLS][COLS];
    for (int i = 0; i < COLS; i++)
        for (int j = 0; j < COLS; j++) mix[i][j] = uniform();
    for (int i = 0; i < ROWS * COLS; i++) w[i] = (float)uniform();
    for (int t = 0; t < TOKENS; t++) {
        double z[COLS];
        for (int i = 0; i < COLS; i++) z[i] = uniform();
        for (int i = 0; i < COLS; i++) {
            x[t][i] = 0;
            for (int j = 0; j < COLS; j++) x[t][i] += mix[i][j] * z[j] + (i == j ? z[j] : 0);
            if (i == dead) x[t][i] = 0;
        }
    }
    for (int i = 0; i < COLS; i++)
        for (int j = 0; j < COLS; j++) {
            double s = 0;
            for (int t = 0; t < TOKENS; t++) s += x[t][i] * x[t][j];
            hm[i * COLS + j] = (float)(s / TOKENS);
        }
    return (bb_hessian) { .n_cols = COLS, .n_tokens = TOKENS, .h = hm };
}

/* Solves A x = b by elimination with pivoting. */
static void solve(int n, double a[COLS][COLS], double b[COLS])
{
    for (int i = 0; i < n; i++) {
        int p = i;
        for (int k = i + 1; k < n; k++)
            if (fabs(a[k][i]) > fabs(a[p][i])) p = k;
        for (int j = 0; j < n; j++) {
            double t = a[i][j];
            a[i][j] = a[p][j];
            a[p][j] = t;
        }
        double t = b[i];
        b[i] = b[p];
        b[p] = t;
        for (int k = i + 1; k < n; k++) {
            double f = a[k][i] / a[i][i];
            for (int j = i; j < n; j++) a[k][j] -= f * a[i][j];
            b[k] -= f * b[i];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int j = i + 1; j < n; j++) b[i] -= a[i][j] * b[j];
        b[i] /= a[i][i];
    }
}

/* Damped Hessian of the module: H + 1e-3 mean(diag). */
static double damped(int i, int j)
{
    double mean = 0;
    for (int k = 0; k < COLS; k++) mean += (double)hm[k * COLS + k];
    return (double)hm[i * COLS + j] + (i == j ? 1e-3 * mean / COLS : 0);
}

/* Least squares on the kept columns; returns the relative error, weights in v (ROWS x n_kept) when v is not NULL. */
static double brute(const bool *kept, float *v)
{
    int    n = 0, index[COLS];
    double error = 0, total = 0;
    for (int j = 0; j < COLS; j++)
        if (kept[j]) index[n++] = j;
    for (int o = 0; o < ROWS; o++) {
        double a[COLS][COLS], b[COLS], d[COLS];
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < n; j++) a[i][j] = damped(index[i], index[j]);
            b[i] = 0;
            for (int j = 0; j < COLS; j++) b[i] += damped(index[i], j) * (double)w[o * COLS + j];
        }
        solve(n, a, b);
        for (int j = 0; j < COLS; j++) d[j] = (double)w[o * COLS + j];
        for (int i = 0; i < n; i++) {
            d[index[i]] -= b[i];
            if (v) v[o * n + i] = (float)b[i];
        }
        for (int i = 0; i < COLS; i++)
            for (int j = 0; j < COLS; j++) {
                error += d[i] * damped(i, j) * d[j];
                total += (double)w[o * COLS + i] * damped(i, j) * (double)w[o * COLS + j];
            }
    }
    return error / total;
}

static void check_order(uint32_t group, int dead)
{
    bb_hessian h = problem(dead);
    uint32_t   order[COLS], n = COLS / group;
    double     error[COLS];
    bool       kept[COLS];
    bb_err     err = BB_ERR_INIT;
    memset(kept, 1, sizeof kept);
    ck_assert_int_eq(bb_mask_order(w, ROWS, COLS, group, 1, &h, order, error, &err), BB_OK);
    for (uint32_t left = n; left-- > 0;) {
        uint32_t best = 0;
        double   least = HUGE_VAL;
        ck_assert_double_eq_tol(error[left], brute(kept, NULL), 1e-9);
        for (uint32_t g = 0; g < n; g++) {
            if (!kept[g * group]) continue;
            bool trial[COLS];
            memcpy(trial, kept, sizeof kept);
            for (uint32_t j = 0; j < group; j++) trial[g * group + j] = false;
            double e = brute(trial, NULL);
            if (e < least) {
                least = e;
                best = g;
            }
        }
        ck_assert_uint_eq(order[left], best);
        for (uint32_t j = 0; j < group; j++) kept[best * group + j] = false;
    }
}

START_TEST(order_is_greedy_by_brute_force)
{
    for (int k = 0; k < 5; k++) check_order(1, -1);
    for (int k = 0; k < 5; k++) check_order(3, -1);
    for (int k = 0; k < 5; k++) check_order(4, -1);
}
END_TEST

START_TEST(a_dead_column_leaves_first)
{
    bb_hessian h = problem(5);
    uint32_t   order[COLS];
    double     error[COLS];
    ck_assert_int_eq(bb_mask_order(w, ROWS, COLS, 1, 1, &h, order, error, NULL), BB_OK);
    ck_assert_uint_eq(order[COLS - 1], 5);
    ck_assert_double_lt(error[COLS - 2], 1e-3);
    check_order(1, 5);
}
END_TEST

START_TEST(rounds_of_several_groups_keep_exact_errors)
{
    bb_hessian h = problem(-1);
    for (uint32_t step = 2; step <= 20; step += 3) {
        uint32_t order[COLS];
        double   error[COLS];
        bool     seen[COLS] = { false };
        ck_assert_int_eq(bb_mask_order(w, ROWS, COLS, 1, step, &h, order, error, NULL), BB_OK);
        for (uint32_t i = 0; i < COLS; i++) {
            ck_assert(order[i] < COLS && !seen[order[i]]);
            seen[order[i]] = true;
            ck_assert_double_eq_tol(error[i], brute(seen, NULL), 1e-9); /* seen == the mask of width i+1: nested by construction */
            if (i) ck_assert(error[i] <= error[i - 1] + 1e-12);
        }
    }
}
END_TEST

/* More columns than wait for an update of the inverse: what is left at any width costs what least squares by Cholesky says, whatever the step. */
START_TEST(long_eliminations_keep_exact_errors)
{
    enum { N = 600, M = 3 };
    static float    x[N][N], big[N * N], wide[M * N];
    static uint32_t order[N];
    static double   error[N], a[N * N], b[N * M];
    const uint32_t  widths[] = { 500, 321, 90, 17 };
    double          mean = 0, total = 0;
    bb_hessian      h = { .n_cols = N, .n_tokens = N, .h = big };
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) x[i][j] = (float)(uniform() + (j ? 0.7 * (double)x[i][j - 1] : 0));
    for (int i = 0; i < M * N; i++) wide[i] = (float)uniform();
    bb_sgemm_tn(N, N, N, 1.0f / N, x[0], N, x[0], N, 0, big, N);
    for (int i = 0; i < N; i++) mean += (double)big[i * N + i] / N;
    for (int o = 0; o < M; o++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) total += (double)wide[o * N + i] * ((double)big[i * N + j] + (i == j ? 1e-3 * mean : 0)) * (double)wide[o * N + j];
    for (int k = 0; k < 8; k++) { /* the removed columns P alone: the error is w_P (schur complement of A_KK) w_P' = w_P ((A^-1)_PP)^-1 w_P' */
        const uint32_t width = widths[k % 4], n = N - width;
        double         cost = 0;
        if (k % 4 == 0) ck_assert_int_eq(bb_mask_order(wide, M, N, 1, k == 0 ? 1 : 32, &h, order, error, NULL), BB_OK);
        for (int i = 0; i < N * N; i++) a[i] = (double)big[i] + (i / N == i % N ? 1e-3 * mean : 0);
        ck_assert_int_eq(bb_cholesky(a, N, NULL), BB_OK);
        ck_assert_int_eq(bb_cholesky_inverse(a, N, NULL), BB_OK);
        static double pp[N * N];
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t j = 0; j < n; j++) pp[i * n + j] = a[order[width + i] * N + order[width + j]];
            for (int o = 0; o < M; o++) b[i * M + (uint32_t)o] = (double)wide[(uint32_t)o * N + order[width + i]];
        }
        ck_assert_int_eq(bb_cholesky(pp, n, NULL), BB_OK);
        ck_assert_int_eq(bb_cholesky_solve(pp, n, b, M, NULL), BB_OK);
        for (uint32_t i = 0; i < n; i++)
            for (int o = 0; o < M; o++) cost += b[i * M + (uint32_t)o] * (double)wide[(uint32_t)o * N + order[width + i]];
        ck_assert_double_eq_tol(error[width - 1], cost / total, 1e-9);
    }
}
END_TEST

START_TEST(compensation_is_least_squares)
{
    bb_hessian h = problem(-1);
    uint32_t   kept[] = { 0, 2, 3, 7, 8, 11 };
    bool       mask[COLS] = { false };
    float      got[ROWS * 6], want[ROWS * 6];
    for (int i = 0; i < 6; i++) mask[kept[i]] = true;
    brute(mask, want);
    ck_assert_int_eq(bb_mask_compensate(w, ROWS, COLS, &h, kept, 6, got, NULL), BB_OK);
    for (int i = 0; i < ROWS * 6; i++) ck_assert_double_eq_tol((double)got[i], (double)want[i], 1e-5);
}
END_TEST

START_TEST(nothing_breaks_on_singular_moments)
{
    bb_hessian h = problem(-1);
    uint32_t   order[COLS], kept[] = { 1, 2 };
    double     error[COLS];
    float      out[ROWS * 2];
    memset(hm, 0, sizeof hm); /* no excitation at all */
    ck_assert_int_eq(bb_mask_order(w, ROWS, COLS, 2, 2, &h, order, error, NULL), BB_OK);
    for (int i = 0; i < COLS * COLS; i++) hm[i] = 1; /* rank one */
    ck_assert_int_eq(bb_mask_order(w, ROWS, COLS, 2, 1, &h, order, error, NULL), BB_OK);
    ck_assert_int_eq(bb_mask_compensate(w, ROWS, COLS, &h, kept, 2, out, NULL), BB_OK);
    for (int i = 0; i < ROWS * 2; i++) ck_assert(isfinite(out[i]));
    hm[0] = NAN;
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_mask_order(w, ROWS, COLS, 2, 1, &h, order, error, &err), BB_NUMERIC);
}
END_TEST

START_TEST(memory_failures_are_clean)
{
    bb_hessian h = problem(-1);
    uint32_t   order[COLS];
    double     error[COLS];
    size_t     live = bb_mem_live_bytes();
    for (long n = 0; n < 1000; n++) {
        bb_mem_fail_after(n);
        bb_status s = bb_mask_order(w, ROWS, COLS, 2, 2, &h, order, error, NULL);
        bb_mem_fail_after(-1);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
        if (s == BB_OK) {
            ck_assert_int_gt(n, 5);
            return;
        }
        ck_assert_int_eq(s, BB_NOMEM);
    }
    ck_abort_msg("never succeeded");
}
END_TEST

START_TEST(subset_picks_rows_and_columns)
{
    bb_hessian h = problem(-1), s;
    uint32_t   kept[] = { 1, 4, 9 };
    ck_assert_int_eq(bb_hessian_subset(&h, kept, 3, &s, NULL), BB_OK);
    ck_assert_uint_eq(s.n_cols, 3);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) ck_assert(s.h[i * 3 + j] == hm[kept[i] * COLS + kept[j]]);
    bb_hessian_done(&s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("compress_mask");
    TCase *t = tcase_create("core");
    bb_blas_init();
    tcase_add_test(t, order_is_greedy_by_brute_force);
    tcase_add_test(t, a_dead_column_leaves_first);
    tcase_add_test(t, rounds_of_several_groups_keep_exact_errors);
    tcase_add_test(t, long_eliminations_keep_exact_errors);
    tcase_add_test(t, compensation_is_least_squares);
    tcase_add_test(t, nothing_breaks_on_singular_moments);
    tcase_add_test(t, memory_failures_are_clean);
    tcase_add_test(t, subset_picks_rows_and_columns);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
