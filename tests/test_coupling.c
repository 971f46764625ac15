/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_coupling.c: error feedback across rows against its definition in float64, and what may not change: rows that have nothing to do with each other are encoded as if
 * they were alone, and the bytes are the same for any number of threads. */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/blas.h"
#include "model/compress/coupling.h"
#include "model/compress/feedback.h"
#include "tests/support/support.h"

#define OK(call) \
    do { \
        bb_status status_ = (call); \
        ck_assert_msg(status_ == BB_OK, "%s", err.msg); \
    } while (0)

enum { ROWS = 90, COLS = 256 };

static const bb_quant_options options = { BB_METHOD_FEEDBACK, 0.05, 1 };
static const double           damping = 0.03;

static float         w[ROWS * COLS], v[ROWS * COLS], hm[COLS * COLS], gm[ROWS * ROWS];
static unsigned char packed[ROWS * COLS * 5], packed2[ROWS * COLS * 5];

static void moments(bb_rng *r, uint32_t n, uint32_t rank, float *out)
{
    double mix[16 * COLS];
    for (uint32_t i = 0; i < rank * n; i++) mix[i] = bb_rng_normal(r);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j <= i; j++) {
            double s = i == j ? 0.3 : 0;
            for (uint32_t k = 0; k < rank; k++) s += mix[k * n + i] * mix[k * n + j] / (1 + k);
            out[i * n + j] = out[j * n + i] = (float)s;
        }
}

static bb_hessian problem(uint64_t seed)
{
    bb_rng r;
    bb_rng_init(&r, seed, "coupling");
    for (int i = 0; i < ROWS * COLS; i++) w[i] = (float)(0.1 * bb_rng_normal(&r));
    moments(&r, COLS, 16, hm);
    moments(&r, ROWS, 12, gm);
    return (bb_hessian) { .n_cols = COLS, .n_tokens = 1000, .h = hm };
}

/* tr(G E H E') of what was written. */
static double cost(const bb_hessian *h, bb_type type, const void *bytes)
{
    static double eh[ROWS * COLS];
    double        sum = 0;
    bb_format_get(type)->decode(bytes, v, ROWS * COLS);
    for (int i = 0; i < ROWS * COLS; i++) v[i] = w[i] - v[i];
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < COLS; j++) {
            eh[r * COLS + j] = 0;
            for (int i = 0; i < COLS; i++) eh[r * COLS + j] += (double)v[r * COLS + i] * (double)h->h[i * COLS + j];
        }
    for (int r = 0; r < ROWS; r++)
        for (int s = 0; s < ROWS; s++)
            for (int j = 0; j < COLS; j++) sum += (double)gm[r * ROWS + s] * eh[r * COLS + j] * (double)v[s * COLS + j];
    return sum;
}

static void both(const bb_hessian *h, bb_type type)
{
    bb_factor f;
    bb_err    err = BB_ERR_INIT;
    OK(bb_factor_make(h, options.damping, &f, &err));
    OK(bb_quantize_prepared(w, ROWS, COLS, h, &f, type, &options, packed, NULL, &err));
    OK(bb_quantize_coupled(w, ROWS, COLS, h, &f, gm, damping, type, &options, packed2, &err));
    bb_factor_done(&f);
}

static const bb_type types[] = { BB_Q2_0, BB_IQ4_NL, BB_Q5_0, BB_IQ2_XXS, BB_Q3_K };
enum { N_TYPES = sizeof types / sizeof *types };

/* Of correlated rows the metric that counts is far lower, in every grid. */
START_TEST(rows_that_answer_for_each_other_cost_less)
{
    const bb_hessian h = problem(1);
    both(&h, types[_i]);
    const double alone = cost(&h, types[_i], packed), coupled = cost(&h, types[_i], packed2);
    ck_assert_msg(coupled < 0.6 * alone, "%s: %g alone, %g", bb_format_get(types[_i])->name, alone, coupled);
}
END_TEST

START_TEST(rows_without_common_moments_are_alone)
{
    const bb_hessian h = problem(2);
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < ROWS; k++) gm[i * ROWS + k] = i == k ? 1.0f + (float)i : 0;
    both(&h, types[_i]);
    ck_assert_mem_eq(packed, packed2, ROWS * bb_format_row_bytes(bb_format_get(types[_i]), COLS));
}
END_TEST

/* x (n) := A^-1 b, A (n, n), by elimination with pivots; both are spoilt. */
static void solve(double *a, double *b, int n)
{
    for (int i = 0; i < n; i++) {
        int p = i;
        for (int r = i + 1; r < n; r++) p = fabs(a[r * n + i]) > fabs(a[p * n + i]) ? r : p;
        for (int k = 0; k < n; k++) {
            const double t = a[i * n + k];
            a[i * n + k] = a[p * n + k];
            a[p * n + k] = t;
        }
        const double t = b[i];
        b[i] = b[p];
        b[p] = t;
        for (int r = i + 1; r < n; r++) {
            const double f = a[r * n + i] / a[i * n + i];
            for (int k = i; k < n; k++) a[r * n + k] -= f * a[i * n + k];
            b[r] -= f * b[i];
        }
    }
    for (int i = n; i-- > 0;) {
        for (int k = i + 1; k < n; k++) b[i] -= a[i * n + k] * b[k];
        b[i] /= a[i * n + i];
    }
}

/* With the errors before a tile fixed, its shift is what makes e G e' least when the tile and all rows after it are free. */
START_TEST(a_tile_is_asked_for_what_costs_least)
{
    bb_coupling  c;
    bb_err       err = BB_ERR_INIT;
    static float e[ROWS], coef[ROWS * ROWS], shift[ROWS];
    double       mean = 0, most = 0;
    bb_rng       r;
    problem(3);
    for (int i = 0; i < ROWS; i++) mean += (double)gm[i * ROWS + i] / ROWS;
    OK(bb_coupling_init(gm, ROWS, damping, &c, &err));
    bb_rng_init(&r, 4, "errors");
    for (int i = 0; i < ROWS; i++) e[i] = (float)bb_rng_normal(&r);
    for (uint32_t t = 0; t < c.n_tiles; t++) {
        const int first = (int)c.first[t], n = ROWS - first;
        double    a[ROWS * ROWS], b[ROWS];
        bb_coupling_shift(&c, t, e, 1, coef, shift);
        for (int i = 0; i < n; i++) {
            b[i] = 0;
            for (int k = 0; k < n; k++) a[i * n + k] = (double)gm[c.row[first + i] * ROWS + c.row[first + k]] + (i == k ? damping * mean : 0);
            for (int k = 0; k < first; k++) b[i] += (double)gm[c.row[first + i] * ROWS + c.row[k]] * (double)e[k];
        }
        solve(a, b, n);
        for (int i = 0; i < (int)c.first[t + 1] - first; i++) {
            ck_assert_msg(fabs(b[i] - (double)shift[i]) < 1e-3 * (1 + fabs(b[i])), "tile %u, row %d: %g, not %g", t, i, (double)shift[i], b[i]);
            most = fmax(most, fabs(b[i]));
        }
    }
    ck_assert_double_gt(most, 0.1);
    bb_coupling_done(&c);
}
END_TEST

/* The rows of the first tile know nothing, those of a later one are the rows' own encodings towards shifted weights. */
START_TEST(a_tile_is_encoded_towards_what_it_is_asked_for)
{
    const bb_hessian h = problem(5);
    const bb_type    type = types[_i];
    const bb_format *f = bb_format_get(type);
    const size_t     bytes = bb_format_row_bytes(f, COLS);
    bb_coupling      c;
    bb_factor        factor;
    bb_err           err = BB_ERR_INIT;
    static float     e[ROWS * COLS], target[ROWS * COLS], coef[ROWS * ROWS];
    both(&h, type);
    OK(bb_factor_make(&h, options.damping, &factor, &err));
    OK(bb_coupling_init(gm, ROWS, damping, &c, &err));
    for (uint32_t t = 0; t < c.n_tiles; t++) {
        const uint32_t first = c.first[t], m = c.first[t + 1] - first;
        bb_coupling_shift(&c, t, e, COLS, coef, target);
        for (uint32_t i = 0; i < m; i++)
            for (int k = 0; k < COLS; k++) target[i * COLS + (uint32_t)k] += w[c.row[first + i] * COLS + (uint32_t)k];
        OK(bb_quantize_prepared(target, m, COLS, &h, &factor, type, &options, packed, NULL, &err));
        for (uint32_t i = 0; i < m; i++) {
            ck_assert_msg(memcmp(packed + i * bytes, packed2 + c.row[first + i] * bytes, bytes) == 0, "tile %u, row %u", t, i);
            f->decode(packed + i * bytes, v, COLS);
            for (int k = 0; k < COLS; k++) e[(first + i) * COLS + (uint32_t)k] = w[c.row[first + i] * COLS + (uint32_t)k] - v[k];
        }
    }
    bb_coupling_done(&c);
    bb_factor_done(&factor);
}
END_TEST

START_TEST(every_row_has_one_place)
{
    static const uint32_t sizes[] = { 1, 7, 8, 9, 90, 192, 576, 1536 };
    static float          g[1536 * 1536];
    const uint32_t        rows = sizes[_i];
    bb_coupling           c;
    bb_err                err = BB_ERR_INIT;
    static bool           seen[1536];
    memset(seen, 0, sizeof seen);
    memset(g, 0, sizeof g);
    OK(bb_coupling_init(g, rows, damping, &c, &err));
    ck_assert_uint_eq(c.first[0], 0);
    ck_assert_uint_eq(c.first[c.n_tiles], rows);
    for (uint32_t i = 0; i < rows; i++) {
        ck_assert(!seen[c.row[i]]);
        seen[c.row[i]] = true;
    }
    for (uint32_t t = 0; t < c.n_tiles; t++) {
        ck_assert_uint_gt(c.first[t + 1], c.first[t]);
        ck_assert_uint_le(c.first[t + 1] - c.first[t], bb_coupling_tile(rows));
        for (uint32_t i = c.first[t]; i + 1 < c.first[t + 1]; i++) ck_assert_uint_eq(c.row[i + 1] - c.row[i], c.n_tiles);
    }
    bb_coupling_done(&c);
}
END_TEST

START_TEST(the_bytes_do_not_depend_on_threads)
{
    const bb_hessian h = problem(6);
    const int        before = omp_get_max_threads();
    const size_t     bytes = ROWS * bb_format_row_bytes(bb_format_get(types[_i]), COLS);
    unsigned char    one[sizeof packed2];
    omp_set_num_threads(1);
    both(&h, types[_i]);
    memcpy(one, packed2, bytes);
    omp_set_num_threads(3);
    both(&h, types[_i]);
    omp_set_num_threads(before);
    ck_assert_mem_eq(one, packed2, bytes);
}
END_TEST

START_TEST(moments_that_are_no_numbers_are_refused)
{
    const bb_hessian h = problem(7);
    bb_factor        f;
    bb_err           err = BB_ERR_INIT;
    gm[5 * ROWS + 5] = NAN;
    OK(bb_factor_make(&h, options.damping, &f, &err));
    ck_assert_int_eq(bb_quantize_coupled(w, ROWS, COLS, &h, &f, gm, damping, BB_Q2_0, &options, packed, &err), BB_NUMERIC);
    bb_factor_done(&f);
}
END_TEST

/* Weights and rows that calibration never saw do no harm. */
START_TEST(dead_columns_and_weights_that_are_no_numbers)
{
    bb_hessian h = problem(8);
    for (int i = 0; i < COLS; i++) hm[3 * COLS + i] = hm[i * COLS + 3] = 0;
    w[10 * COLS + 7] = INFINITY;
    w[11 * COLS + 3] = 1e30f;
    both(&h, BB_IQ4_NL);
    bb_format_get(BB_IQ4_NL)->decode(packed2, v, ROWS * COLS);
    for (int i = 0; i < ROWS * COLS; i++) ck_assert_msg(fabsf(v[i]) < 10, "weight %d: %g", i, (double)v[i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("coupling");
    TCase *t = tcase_create("coupling");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, rows_that_answer_for_each_other_cost_less, 0, N_TYPES);
    tcase_add_loop_test(t, rows_without_common_moments_are_alone, 0, N_TYPES);
    tcase_add_test(t, a_tile_is_asked_for_what_costs_least);
    tcase_add_loop_test(t, a_tile_is_encoded_towards_what_it_is_asked_for, 0, N_TYPES);
    tcase_add_loop_test(t, every_row_has_one_place, 0, 8);
    tcase_add_loop_test(t, the_bytes_do_not_depend_on_threads, 0, N_TYPES);
    tcase_add_test(t, moments_that_are_no_numbers_are_refused);
    tcase_add_test(t, dead_columns_and_weights_that_are_no_numbers);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
