/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_kernels.c: products and factorisations against their definitions in long double loops. */
#include <check.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"

/* Uniform in [-1, 1) from a 64-bit linear congruential step: only variety is wanted. */
static double noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-52 - 1;
}

static const struct { size_t m, n, k; } shapes[] = { { 1, 1, 1 }, { 1, 5, 0 }, { 7, 3, 2 }, { 16, 16, 16 }, { 33, 65, 17 }, { 5, 130, 129 } };

/* |computed - exact| <= (k+2) u sum|a b| for any summation order, alpha and beta included. */
static void check_entry(double got, long double exact, long double magnitude, size_t k, double unit)
{
    long double bound = (long double)(k + 3) * (long double)unit * magnitude;
    ck_assert_msg(fabsl((long double)got - exact) <= bound, "got %.17g, exact %.17Lg, bound %Lg", got, exact, bound);
}

START_TEST(float_products)
{
    size_t m = shapes[_i].m, n = shapes[_i].n, k = shapes[_i].k, pad = 3;
    uint64_t seed = 42;
    for (int kind = 0; kind < 3; kind++) { /* nt, nn, tn */
        size_t a_rows = kind == 2 ? k : m, lda = (kind == 2 ? m : k) + pad, b_rows = kind == 0 ? n : k, ldb = (kind == 0 ? k : n) + pad, ldy = n + pad;
        float *a = BB_NEW0(a_rows * lda, float, NULL), *b = BB_NEW0(b_rows * ldb, float, NULL), *y = BB_NEW0(m * ldy, float, NULL),
              *y0 = BB_NEW0(m * ldy, float, NULL);
        for (size_t i = 0; i < a_rows * lda; i++) a[i] = (float)noise(&seed);
        for (size_t i = 0; i < b_rows * ldb; i++) b[i] = (float)noise(&seed);
        for (size_t i = 0; i < m * ldy; i++) y[i] = y0[i] = (float)noise(&seed);
        if (kind == 0) bb_sgemm_nt(m, n, k, 0.5f, a, lda, b, ldb, 0.25f, y, ldy);
        if (kind == 1) bb_sgemm_nn(m, n, k, 0.5f, a, lda, b, ldb, 0.25f, y, ldy);
        if (kind == 2) bb_sgemm_tn(m, n, k, 0.5f, a, lda, b, ldb, 0.25f, y, ldy);
        for (size_t i = 0; i < m; i++) {
            for (size_t j = 0; j < n; j++) {
                long double sum = 0.25L * y0[i * ldy + j], size = fabsl(sum);
                for (size_t l = 0; l < k; l++) {
                    long double p = 0.5L * a[kind == 2 ? l * lda + i : i * lda + l] * b[kind == 0 ? j * ldb + l : l * ldb + j];
                    sum += p;
                    size += fabsl(p);
                }
                check_entry((double)y[i * ldy + j], sum, size, k, FLT_EPSILON / 2);
            }
            for (size_t j = n; j < ldy; j++) ck_assert(y[i * ldy + j] == y0[i * ldy + j]);
        }
        bb_free(a); bb_free(b); bb_free(y); bb_free(y0);
    }
}
END_TEST

START_TEST(double_products)
{
    size_t m = shapes[_i].m, n = shapes[_i].n, k = shapes[_i].k;
    uint64_t seed = 43;
    double *a = BB_NEW0(m * k, double, NULL), *b = BB_NEW0(n * k, double, NULL), *y = BB_NEW0(m * n, double, NULL);
    for (size_t i = 0; i < m * k; i++) a[i] = noise(&seed);
    for (size_t i = 0; i < n * k; i++) b[i] = noise(&seed);
    for (int transposed = 0; transposed < 2; transposed++) {
        if (transposed) bb_dgemm_nt(m, n, k, 2, a, k, b, k, 0, y, n);
        else bb_dgemm_nn(m, n, k, 2, a, k, b, n, 0, y, n);
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                long double sum = 0, size = 0;
                for (size_t l = 0; l < k; l++) {
                    long double p = 2.0L * a[i * k + l] * b[transposed ? j * k + l : l * n + j];
                    sum += p;
                    size += fabsl(p);
                }
                check_entry(y[i * n + j], sum, size, k, DBL_EPSILON / 2);
            }
    }
    bb_free(a); bb_free(b); bb_free(y);
}
END_TEST

/* A = M M' / n + I has eigenvalues in [1, 1 + n]: condition <= n + 1, so n * cond * eps bounds the residuals below generously. */
START_TEST(cholesky_factor_solve_inverse)
{
    size_t n = (size_t[]){ 1, 2, 17, 96 }[_i], r = 5;
    double tolerance = 16 * (double)n * (double)(n + 1) * DBL_EPSILON;
    uint64_t seed = 44;
    double *mat = BB_NEW0(n * n, double, NULL), *a = BB_NEW0(n * n, double, NULL), *l = BB_NEW0(n * n, double, NULL), *b = BB_NEW0(n * r, double, NULL),
           *x = BB_NEW0(n * r, double, NULL);
    for (size_t i = 0; i < n * n; i++) mat[i] = noise(&seed);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = i == j;
            for (size_t k = 0; k < n; k++) sum += mat[i * n + k] * mat[j * n + k] / (double)n;
            a[i * n + j] = l[i * n + j] = sum;
        }
    for (size_t i = 0; i < n * r; i++) b[i] = x[i] = noise(&seed);
    for (size_t i = 0; i < n; i++) /* only the lower triangle may be read */
        for (size_t j = i + 1; j < n; j++) l[i * n + j] = 1e30;
    ck_assert_int_eq(bb_cholesky(l, n, NULL), BB_OK);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++) sum += l[i * n + k] * l[j * n + k];
            ck_assert(fabs(sum - a[i * n + j]) <= tolerance);
            if (j > i) ck_assert(l[i * n + j] == 0.0);
        }
    ck_assert_int_eq(bb_cholesky_solve(l, n, x, r, NULL), BB_OK);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < r; c++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++) sum += a[i * n + k] * x[k * r + c];
            ck_assert(fabs(sum - b[i * r + c]) <= tolerance);
        }
    ck_assert_int_eq(bb_cholesky_inverse(l, n, NULL), BB_OK);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++) sum += a[i * n + k] * l[k * n + j];
            ck_assert(fabs(sum - (double)(i == j)) <= tolerance);
        }
    bb_free(mat); bb_free(a); bb_free(l); bb_free(b); bb_free(x);
}
END_TEST

START_TEST(cholesky_refuses)
{
    bb_err err = BB_ERR_INIT;
    double indefinite[9] = { 1, 0, 0, 0, 1, 0, 0, 0, -1 }, nan[4] = { 1, 0, NAN, 1 }, zero_factor[4] = { 1, 0, 1, 0 }, b[2] = { 1, 1 };
    ck_assert_int_eq(bb_cholesky(indefinite, 3, &err), BB_NUMERIC);
    ck_assert_msg(strstr(err.msg, "pivot 3") != NULL, "%s", err.msg);
    ck_assert_int_eq(bb_cholesky(nan, 2, NULL), BB_NUMERIC);
    ck_assert_int_eq(bb_cholesky_solve(zero_factor, 2, b, 1, NULL), BB_NUMERIC);
    ck_assert_int_eq(bb_cholesky_inverse(zero_factor, 2, NULL), BB_NUMERIC);
}
END_TEST

/* The oldest kernels must not be chosen on a CPU that has AVX2, whatever OpenBLAS knows of its model number. */
START_TEST(blas_core_fits_the_cpu)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && !getenv("OPENBLAS_CORETYPE"))
        ck_assert_msg(strstr(bb_blas_name(), "core Prescott") == NULL, "%s", bb_blas_name());
#endif
}
END_TEST

int main(void)
{
    bb_blas_init();
    Suite *s = suite_create("kernels");
    TCase *t = tcase_create("blas");
    tcase_add_loop_test(t, float_products, 0, sizeof shapes / sizeof *shapes);
    tcase_add_loop_test(t, double_products, 0, sizeof shapes / sizeof *shapes);
    tcase_add_loop_test(t, cholesky_factor_solve_inverse, 0, 4);
    tcase_add_test(t, cholesky_refuses);
    tcase_add_test(t, blas_core_fits_the_cpu);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
