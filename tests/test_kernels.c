/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_kernels.c: products and factorisations against their definitions in long double loops; the reference level of
 * kernels.h against float64 mathematics. The other levels: kcheck.c. */
#include <check.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blas.h"
#include "kernels/exp.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "tests/support/support.h"

/* Uniform in [-1, 1) from a 64-bit linear congruential step: only variety is wanted. */
static double noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-52 - 1;
}

static const struct {
    size_t m, n, k;
} shapes[] = { { 1, 1, 1 }, { 1, 5, 0 }, { 7, 3, 2 }, { 16, 16, 16 }, { 33, 65, 17 }, { 5, 130, 129 } };

/* |computed - exact| <= (k+2) u sum|a b| for any summation order, alpha and beta included. */
static void check_entry(double got, long double exact, long double magnitude, size_t k, double unit)
{
    long double bound = (long double)(k + 3) * (long double)unit * magnitude;
    ck_assert_msg(fabsl((long double)got - exact) <= bound, "got %.17g, exact %.17Lg, bound %Lg", got, exact, bound);
}

START_TEST(float_products)
{
    size_t   m = shapes[_i].m, n = shapes[_i].n, k = shapes[_i].k, pad = 3;
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
                long double sum = 0.25L * (long double)y0[i * ldy + j], size = fabsl(sum);
                for (size_t l = 0; l < k; l++) {
                    long double p = 0.5L * (long double)a[kind == 2 ? l * lda + i : i * lda + l] * (long double)b[kind == 0 ? j * ldb + l : l * ldb + j];
                    sum += p;
                    size += fabsl(p);
                }
                check_entry((double)y[i * ldy + j], sum, size, k, (double)FLT_EPSILON / 2);
            }
            for (size_t j = n; j < ldy; j++) ck_assert(y[i * ldy + j] == y0[i * ldy + j]);
        }
        bb_free(a);
        bb_free(b);
        bb_free(y);
        bb_free(y0);
    }
}
END_TEST

START_TEST(double_products)
{
    size_t   m = shapes[_i].m, n = shapes[_i].n, k = shapes[_i].k;
    uint64_t seed = 43;
    double  *a = BB_NEW0(m * k, double, NULL), *b = BB_NEW0(n * k, double, NULL), *y = BB_NEW0(m * n, double, NULL);
    for (size_t i = 0; i < m * k; i++) a[i] = noise(&seed);
    for (size_t i = 0; i < n * k; i++) b[i] = noise(&seed);
    bb_dgemm_nn(m, n, k, 2, a, k, b, n, 0, y, n);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            long double sum = 0, size = 0;
            for (size_t l = 0; l < k; l++) {
                long double p = 2.0L * (long double)a[i * k + l] * (long double)b[l * n + j];
                sum += p;
                size += fabsl(p);
            }
            check_entry(y[i * n + j], sum, size, k, DBL_EPSILON / 2);
        }
    bb_free(a);
    bb_free(b);
    bb_free(y);
}
END_TEST

/* A = M M' / n + I has eigenvalues in [1, 1 + n]: condition <= n + 1, so n * cond * eps bounds the residuals below generously. */
START_TEST(cholesky_factor_solve_inverse)
{
    size_t   n = (size_t[]) { 1, 2, 17, 96 }[_i], r = 5;
    double   tolerance = 16 * (double)n * (double)(n + 1) * DBL_EPSILON;
    uint64_t seed = 44;
    double  *mat = BB_NEW0(n * n, double, NULL), *a = BB_NEW0(n * n, double, NULL), *l = BB_NEW0(n * n, double, NULL), *b = BB_NEW0(n * r, double, NULL),
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
    bb_free(mat);
    bb_free(a);
    bb_free(l);
    bb_free(b);
    bb_free(x);
}
END_TEST

/* y := A x */
static void times(const double *a, size_t n, const double *x, double *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = 0;
        for (size_t k = 0; k < n; k++) y[i] += a[i * n + k] * x[k];
    }
}

static double largest_difference(const double *a, const double *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(a[i] - b[i]));
    return most;
}

/* Large ones, in tiles: factor, solution and inverse against the matrix by what they make of a vector; the same bits for any number of threads. */
START_TEST(cholesky_in_tiles)
{
    enum { RANK = 9, RHS = 300 };
    const size_t n = BB_CHOLESKY_WHOLE + (_i ? 1 : 256 + 43);
    const int    threads = omp_get_max_threads();
    const double tolerance = 1e-10;
    size_t       wrong = 0;
    uint64_t     seed = 45;
    double      *mat = BB_NEW(n * RANK, double, NULL), *a = BB_NEW(n * n, double, NULL), *l = BB_NEW(n * n, double, NULL), *again = BB_NEW(n * n, double, NULL);
    double      *b = BB_NEW(n * RHS, double, NULL), *x = BB_NEW(n * RHS, double, NULL), *v = BB_NEW(4 * n, double, NULL), *y = v + n, *z = y + n, *t = z + n;
    for (size_t i = 0; i < n * RANK; i++) mat[i] = noise(&seed);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = i == j ? 1 + (double)(i % 7) : 0;
            for (size_t k = 0; k < RANK; k++) sum += mat[i * RANK + k] * mat[j * RANK + k];
            a[i * n + j] = sum;
            l[i * n + j] = again[i * n + j] = j > i ? 1e30 : sum;
        }
    for (size_t i = 0; i < n * RHS; i++) b[i] = x[i] = noise(&seed);
    for (size_t i = 0; i < n; i++) v[i] = noise(&seed);
    omp_set_num_threads(1);
    ck_assert_int_eq(bb_cholesky(again, n, NULL), BB_OK);
    omp_set_num_threads(3);
    ck_assert_int_eq(bb_cholesky(l, n, NULL), BB_OK);
    ck_assert_int_eq(memcmp(l, again, n * n * sizeof *l), 0);
    for (size_t i = 0; i < n; i++) { /* y = L' v */
        y[i] = 0;
        for (size_t k = 0; k < n; k++) y[i] += l[k * n + i] * v[k];
    }
    times(l, n, y, z);
    times(a, n, v, t);
    ck_assert(largest_difference(z, t, n) <= tolerance * (double)n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++) wrong += l[i * n + j] != 0.0;
    ck_assert_uint_eq(wrong, 0);
    ck_assert_int_eq(bb_cholesky_solve(l, n, x, RHS, NULL), BB_OK);
    for (size_t c = 0; c < RHS; c += 23) {
        for (size_t i = 0; i < n; i++) {
            y[i] = x[i * RHS + c];
            t[i] = b[i * RHS + c];
        }
        times(a, n, y, z);
        ck_assert(largest_difference(z, t, n) <= tolerance);
    }
    ck_assert_int_eq(bb_cholesky_inverse(l, n, NULL), BB_OK);
    omp_set_num_threads(1);
    ck_assert_int_eq(bb_cholesky_inverse(again, n, NULL), BB_OK);
    omp_set_num_threads(threads);
    ck_assert_int_eq(memcmp(l, again, n * n * sizeof *l), 0);
    times(l, n, v, y);
    times(a, n, y, z);
    ck_assert(largest_difference(z, v, n) <= tolerance);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) wrong += l[i * n + j] != l[j * n + i];
    ck_assert_uint_eq(wrong, 0);
    void *const owned[] = { mat, a, l, again, b, x, v };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) bb_free(owned[i]);
}
END_TEST

START_TEST(cholesky_in_tiles_refuses)
{
    const size_t n = BB_CHOLESKY_WHOLE + 300, at = BB_CHOLESKY_WHOLE + 200;
    bb_err       err = BB_ERR_INIT;
    double      *a = BB_NEW0(n * n, double, NULL);
    for (size_t i = 0; i < n; i++) a[i * n + i] = i == at ? -1 : 1;
    ck_assert_int_eq(bb_cholesky(a, n, &err), BB_NUMERIC);
    ck_assert_msg(strstr(err.msg, "pivot 2249") != NULL, "%s", err.msg);
    for (size_t i = 0; i < n; i++) a[i * n + i] = 1;
    a[at * n + 3] = (double)NAN;
    ck_assert_int_eq(bb_cholesky(a, n, NULL), BB_NUMERIC);
    memset(a, 0, n * n * sizeof *a);
    for (size_t i = 0; i < n; i++) a[i * n + i] = i == at ? 0 : 1;
    ck_assert_int_eq(bb_cholesky_inverse(a, n, NULL), BB_NUMERIC);
    bb_free(a);
}
END_TEST

START_TEST(cholesky_refuses)
{
    bb_err err = BB_ERR_INIT;
    double indefinite[9] = { 1, 0, 0, 0, 1, 0, 0, 0, -1 }, nan[4] = { 1, 0, (double)NAN, 1 }, zero_factor[4] = { 1, 0, 1, 0 }, b[2] = { 1, 1 };
    ck_assert_int_eq(bb_cholesky(indefinite, 3, &err), BB_NUMERIC);
    ck_assert_msg(strstr(err.msg, "pivot 3") != NULL, "%s", err.msg);
    ck_assert_int_eq(bb_cholesky(nan, 2, NULL), BB_NUMERIC);
    ck_assert_int_eq(bb_cholesky_solve(zero_factor, 2, b, 1, NULL), BB_NUMERIC);
    ck_assert_int_eq(bb_cholesky_inverse(zero_factor, 2, NULL), BB_NUMERIC);
    ck_assert_int_eq(bb_cholesky_solve(zero_factor, 2, b, 0, NULL), BB_OK); /* nothing to solve */
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

/* ---- the reference level (the others give its bits: kcheck.c) ---- */

static void fill(float *x, size_t n, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++) x[i] = 8 * (float)noise(seed);
}

START_TEST(half_is_exact_for_all_values)
{
    static uint16_t h[65536];
    static float    x[65536];
    for (size_t i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    bb_kernels_at(0)->half_to_float(h, x, 65536);
    for (size_t i = 0; i < 65536; i++) {
        uint32_t e = i >> 10 & 31, m = i & 1023;
        double   exact = (i & 0x8000 ? -1 : 1) * (e ? ldexp(1024 + m, (int)e - 25) : ldexp(m, -24));
        if (e == 31) ck_assert(m ? isnan(x[i]) : isinf(x[i]) && (x[i] < 0) == (i >= 0x8000));
        else ck_assert((double)x[i] == exact);
    }
}
END_TEST

/* The definition of IEEE rounding, on the numbers where it decides: halves, the middles between neighbours, and one float beside these. */
START_TEST(floats_round_to_the_nearest_half)
{
    for (unsigned i = 0; i < 0x7C00; i++) {
        const float    x = bb_half_to_float((uint16_t)i), y = i == 0x7BFF ? 65536.0f : bb_half_to_float((uint16_t)(i + 1)); /* as if there were one more */
        const float    middle = 0.5f * (x + y);
        const unsigned even = i % 2 ? i + 1 : i;
        ck_assert_uint_eq(bb_float_to_half(x), i);
        ck_assert_uint_eq(bb_float_to_half(-x), i | 0x8000);
        ck_assert_uint_eq(bb_float_to_half(middle), even);
        ck_assert_uint_eq(bb_float_to_half(-middle), even | 0x8000);
        ck_assert_uint_eq(bb_float_to_half(nextafterf(middle, 0)), i);
        ck_assert_uint_eq(bb_float_to_half(nextafterf(middle, INFINITY)), i + 1);
    }
    ck_assert_uint_eq(bb_float_to_half(INFINITY), 0x7C00);
    ck_assert_uint_eq(bb_float_to_half(-1e30f), 0xFC00);
    ck_assert_uint_gt(bb_float_to_half(NAN) & 0x7FFF, 0x7C00);
    for (uint32_t i = 0; i < 0x7F80; i++) { /* bfloat16: the upper half of a float */
        const uint32_t even = i + i % 2;
        ck_assert_uint_eq(bb_float_to_bf16(bb_bits_float(i << 16)), i);
        ck_assert_uint_eq(bb_float_to_bf16(bb_bits_float(i << 16 | 0x8000)), even);
        ck_assert_uint_eq(bb_float_to_bf16(bb_bits_float(i << 16 | 0x7FFF)), i);
        ck_assert_uint_eq(bb_float_to_bf16(bb_bits_float(i << 16 | 0x8001)), i + 1);
    }
    ck_assert_uint_gt(bb_float_to_bf16(NAN) & 0x7FFF, 0x7F80);
}
END_TEST

/* Against float64 exp, over floats of the whole range, a stride of 10007 apart. */
START_TEST(exp_is_accurate)
{
    const bb_kernels *k = bb_kernels_at(1) ? bb_kernels_at(1) : bb_kernels_at(0); /* the same bits, sooner */
    double            worst = 0;
    for (int sign = 0; sign < 2; sign++)
        for (uint32_t u = 0; u < 0x42B0C0A5u; u += 10007) { /* up to 88.376 */
            float x = bb_bits_float(u | (uint32_t)sign << 31), y;
            if (x < BB_EXP_LOW) break;
            k->exp(&x, &y, 1);
            worst = fmax(worst, fabs((double)y / exp((double)x) - 1));
        }
    ck_assert_msg(worst <= BB_EXP_MAX_REL, "relative error %g", worst);
    float edge[6] = { -87.4f, -1e30f, -INFINITY, 100, INFINITY, NAN }, y[6];
    k->exp(edge, y, 6);
    ck_assert(y[0] == 0.0f && y[1] == 0.0f && y[2] == 0.0f && y[3] > 2.3e38f && y[4] == y[3] && isnan(y[5]));
}
END_TEST

/* The reference against the formulas in float64: each float32 step adds at most FLT_EPSILON / 2 or BB_EXP_MAX_REL, relative. */
START_TEST(reference_is_right)
{
    enum { N = 301 };
    const bb_kernels *k = bb_kernels_at(0);
    uint64_t          seed = 46;
    float             x[N], w[N], y[N];
    double            u = (double)FLT_EPSILON / 2, square = 0, sum = 0, lse, cross = 0, max = (double)-INFINITY, got;
    fill(x, N, &seed);
    fill(w, N, &seed);
    for (int i = 0; i < N; i++) square += (double)x[i] * (double)x[i], max = fmax(max, (double)x[i]);
    k->rms_norm(x, w, 1e-5f, y, N);
    for (int i = 0; i < N; i++) {
        double exact = (double)x[i] / sqrt(square / N + 1e-5) * (double)w[i];
        ck_assert(fabs((double)y[i] - exact) <= 6 * u * fabs(exact));
    }
    memcpy(y, x, sizeof y);
    k->swiglu(y, w, N);
    for (int i = 0; i < N; i++) {
        double exact = (double)x[i] / (1 + exp(-(double)x[i])) * (double)w[i];
        ck_assert(fabs((double)y[i] - exact) <= (4 * u + BB_EXP_MAX_REL) * fabs(exact));
    }
    for (int i = 0; i < N; i++) sum += exp(((double)x[i] - max) * 0.25);
    memcpy(y, x, sizeof y);
    k->softmax(y, 0.25f, N);
    for (int i = 0; i < N; i++) { /* the argument's rounding, 2 u |a|, adds to the relative error */
        double a = ((double)x[i] - max) * 0.25, exact = exp(a) / sum;
        ck_assert(fabs((double)y[i] - exact) <= (4 * u + 2 * BB_EXP_MAX_REL + 4 * u * fabs(a)) * exact);
    }
    bb_logsum s = { 0 };
    bb_klsum  kl = { 0 };
    for (size_t at = 0; at < N; at += 100) { /* in pieces whose maxima rise and fall */
        bb_logsum_add(k, &s, x + at, N - at < 100 ? N - at : 100);
        bb_klsum_add(k, &kl, x + at, w + at, N - at < 100 ? N - at : 100);
    }
    lse = sum = 0;
    for (int i = 0; i < N; i++) lse += exp((double)x[i] - max), sum += exp((double)w[i]);
    for (int i = 0; i < N; i++) cross += exp((double)x[i] - max) / lse * ((double)x[i] - (double)w[i]);
    got = bb_logsum_value(&s);
    lse = max + log(lse);
    ck_assert(fabs(got - lse) <= BB_EXP_MAX_REL + 16 * u);
    ck_assert((double)x[s.arg_max] == max && s.n == N);
    ck_assert(fabs(bb_klsum_value(&kl) - (cross - lse + log(sum))) <= 2 * BB_EXP_MAX_REL + 64 * u);
}
END_TEST

static const struct {
    size_t m, n, k;
} products[] = { { 1, 1, 1 },     { 1, 40, 3 },    { 3, 16, 0 },   { 5, 33, 17 },    { 14, 32, 255 }, { 15, 64, 256 },
                 { 29, 31, 257 }, { 6, 100, 511 }, { 13, 7, 600 }, { 28, 96, 1030 }, { 0, 4, 4 } };

/* W is packed by rows or from its transpose; the result is compared with the chain of fma in plain loops. */
START_TEST(product_is_a_chain_of_fma)
{
    const bb_kernels *kernels = bb_kernels_at(0);
    size_t            m = products[_i].m, n = products[_i].n, k = products[_i].k, ldx = k + 3, ldy = n + 2;
    uint64_t          seed = 47;
    float *x = BB_NEW0(m * ldx, float, NULL), *w = BB_NEW0(n * (k + 1), float, NULL), *wt = BB_NEW0(k * (n + 1), float, NULL), *bias = BB_NEW0(n, float, NULL),
          *y = BB_NEW0(m * ldy, float, NULL), *y0 = BB_NEW0(m * ldy, float, NULL), *panels = BB_NEW0(bb_packed_floats(n, k, kernels->panel), float, NULL);
    fill(x, m * ldx, &seed);
    fill(w, n * (k + 1), &seed);
    fill(bias, n, &seed);
    fill(y0, m * ldy, &seed);
    for (size_t j = 0; j < n; j++)
        for (size_t c = 0; c < k; c++) wt[c * (n + 1) + j] = w[j * (k + 1) + c];
    for (int how = 0; how < 8; how++) {
        bool add = how & 1, biased = how & 2;
        memcpy(y, y0, m * ldy * sizeof *y);
        if (how & 4) bb_pack_panels_transposed(wt, n + 1, n, k, kernels->panel, panels);
        else if (how & 2) bb_pack_panels(w, k + 1, n, k, kernels->panel, panels);
        else kernels->pack(w, k + 1, n, k, panels);
        kernels->product(m, n, k, x, ldx, panels, biased ? bias : NULL, add, y, ldy);
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < ldy; j++) {
                float s = add || j >= n ? y0[i * ldy + j] : 0;
                if (j < n && biased) s += bias[j];
                for (size_t c = 0; j < n && c < k; c++) s = fmaf(x[i * ldx + c], w[j * (k + 1) + c], s);
                ck_assert_msg(bb_float_bits(s) == bb_float_bits(y[i * ldy + j]), "%zu x %zu x %zu, variant %d: entry %zu, %zu", m, n, k, how, i, j);
            }
    }
    bb_free(x);
    bb_free(w);
    bb_free(wt);
    bb_free(bias);
    bb_free(y);
    bb_free(y0);
    bb_free(panels);
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
    tcase_add_loop_test(t, cholesky_in_tiles, 0, 2);
    tcase_add_test(t, cholesky_in_tiles_refuses);
    tcase_add_test(t, cholesky_refuses);
    tcase_add_test(t, blas_core_fits_the_cpu);
    suite_add_tcase(s, t);
    t = tcase_create("reference");
    tcase_add_test(t, half_is_exact_for_all_values);
    tcase_add_test(t, floats_round_to_the_nearest_half);
    tcase_add_test(t, exp_is_accurate);
    tcase_add_test(t, reference_is_right);
    tcase_add_loop_test(t, product_is_a_chain_of_fma, 0, sizeof products / sizeof *products);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
