/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_hessian.c: second and cross moments (model/compress/compress.h, factor.h) against sums in float64, however they are cut.
 */
#include <check.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"
#include "model/compress/factor.h"
#include "tests/support/support.h"

/* Columns of both sides (16 divides none, and the first are more than a tile), tokens a window, windows, tokens of the last one. */
static const struct {
    uint32_t na, nb, chunk, windows, last;
} shapes[] = { { 150, 70, 100, 12, 61 }, { 300, 10, 32, 40, 32 }, { 9, 261, 1100, 2, 3 } };
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static float *noise(size_t n, uint64_t seed)
{
    float *x = BB_NEW(n, float, NULL);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((double)(seed >> 33) / 4294967296.0 - 0.25) * (i % 11 == 0 ? 40 : 1);
    }
    return x;
}

/* The largest difference from sum (na, nb) that the products of a and b have, over the largest sum of their absolute values. */
static double error_of(const double *sum, const float *a, size_t na, const float *b, size_t nb, size_t n, bool upper)
{
    double worst = 0;
    for (size_t i = 0; i < na; i++)
        for (size_t j = upper ? i : 0; j < nb; j++) {
            double wanted = 0, size = 0;
            for (size_t t = 0; t < n; t++) {
                const double product = (double)a[t * na + i] * (double)b[t * nb + j];
                wanted += product;
                size += fabs(product);
            }
            worst = fmax(worst, fabs(sum[i * nb + j] - wanted) / size);
        }
    return worst;
}

/* Moments of a with itself and with b, by so many threads, so many windows a call. */
static void add(int shape, const float *a, const float *b, int threads, uint32_t at_once, bb_hessian *h, double *cross)
{
    const uint32_t na = shapes[shape].na, nb = shapes[shape].nb, chunk = shapes[shape].chunk;
    const int      before = omp_get_max_threads();
    omp_set_num_threads(threads);
    *h = (bb_hessian) { 0 };
    memset(cross, 0, (size_t)na * nb * sizeof *cross);
    for (uint32_t w = 0; w < shapes[shape].windows; w += at_once) {
        const uint32_t end = w + at_once < shapes[shape].windows ? w + at_once : shapes[shape].windows;
        const size_t   first = (size_t)w * chunk, n = (size_t)(end - w) * chunk - (end == shapes[shape].windows ? chunk - shapes[shape].last : 0);
        ck_assert_int_eq(bb_hessian_add(h, a + first * na, n, na, chunk, NULL), BB_OK);
        ck_assert_int_eq(bb_cross_add(cross, a + first * na, na, b + first * nb, nb, n, chunk, NULL), BB_OK);
    }
    omp_set_num_threads(before);
}

START_TEST(moments_are_sums_of_products)
{
    const int    shape = _i;
    const size_t na = shapes[shape].na, nb = shapes[shape].nb, n = (size_t)(shapes[shape].windows - 1) * shapes[shape].chunk + shapes[shape].last;
    float       *a = noise(n * na, 1), *b = noise(n * nb, 2);
    double      *cross[2] = { BB_NEW(na * nb, double, NULL), BB_NEW(na * nb, double, NULL) };
    bb_hessian   h[2];
    const double tolerance = (double)FLT_EPSILON * sqrt(shapes[shape].chunk); /* sums of a chunk are of float32 */
    add(shape, a, b, 1, shapes[shape].windows, &h[0], cross[0]);
    add(shape, a, b, 3, 5, &h[1], cross[1]);
    ck_assert_uint_eq(h[0].n_tokens, n);
    ck_assert(error_of(h[0].sum, a, na, a, na, n, true) < tolerance);
    ck_assert(error_of(cross[0], a, na, b, nb, n, false) < tolerance);
    ck_assert_int_eq(memcmp(h[0].sum, h[1].sum, na * na * sizeof *h[0].sum), 0);
    ck_assert_int_eq(memcmp(cross[0], cross[1], na * nb * sizeof *cross[0]), 0);
    for (int i = 0; i < 2; i++) {
        bb_hessian_done(&h[i]);
        bb_free(cross[i]);
    }
    bb_free(a);
    bb_free(b);
}
END_TEST

/* Every allocation that may fail does so once, and nothing is left behind. */
START_TEST(without_memory)
{
    float         *a = noise(200 * 40, 1);
    bb_status      status = BB_NOMEM;
    bb_hessian     h;
    const uint64_t live = bb_mem_live_bytes();
    for (int n = 0; status != BB_OK; n++) {
        bb_err err = BB_ERR_INIT;
        h = (bb_hessian) { 0 };
        ck_assert_int_lt(n, 20);
        bb_mem_fail_after(n);
        status = bb_hessian_add(&h, a, 200, 40, 100, &err);
        bb_mem_fail_after(-1);
        ck_assert_msg(status == BB_OK || (status == BB_NOMEM && err.status == BB_NOMEM), "%s", err.msg);
        bb_hessian_done(&h);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    bb_free(a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hessian");
    TCase *t = tcase_create("hessian");
    bb_blas_init();
    tcase_add_loop_test(t, moments_are_sums_of_products, 0, N_SHAPES);
    tcase_add_test(t, without_memory);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
