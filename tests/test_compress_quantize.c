/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_compress_quantize.c: error feedback against its promises: never worse than the weighted encoding under H, exact on cases small
 * enough to enumerate, sound on zero, constant, outlier, dead and rank-deficient inputs, the same bytes for any number of threads. */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "model/compress/factor.h"
#include "model/compress/feedback.h"
#include "tests/support/error.h"

enum { COLS = 512, ROWS = 40 };

static const bb_quant_options feedback = { BB_METHOD_FEEDBACK, 0.01, 2 }, weighted = { BB_METHOD_WEIGHTED, 0.01, 0 }, rtn = { BB_METHOD_RTN, 0.01, 0 };

static float         w[ROWS * COLS], v[ROWS * COLS], hm[COLS * COLS];
static unsigned char packed[ROWS * COLS * 5], packed2[ROWS * COLS * 5];

static const char *const names[] = { "Q1_0",   "IQ1_S", "TQ1_0", "IQ1_M",  "TQ2_0", "IQ2_XXS", "Q2_0", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K",
                                     "IQ4_XS", "MXFP4", "Q4_0",  "IQ4_NL", "Q4_K",  "NVFP4",   "Q4_1", "Q5_0",   "Q5_1",  "Q5_K", "Q6_K",    "Q8_0" };
enum { N_NAMES = sizeof names / sizeof *names };

/* Correlated inputs of low rank plus noise, and weights with heavy tails. rank 0: no noise, rank 8. */
static bb_hessian problem(uint64_t seed, int rank, double noise)
{
    bb_rng  r;
    double *mix = malloc((size_t)rank * COLS * sizeof *mix);
    bb_rng_init(&r, seed, "test");
    for (int i = 0; i < ROWS * COLS; i++) {
        double x = bb_rng_normal(&r);
        w[i] = (float)(0.1 * x * (bb_rng_uniform(&r) < 0.01 ? 6 : 1));
    }
    for (int i = 0; i < rank * COLS; i++) mix[i] = bb_rng_normal(&r);
    for (int i = 0; i < COLS; i++)
        for (int j = 0; j <= i; j++) {
            double s = i == j ? noise * (0.2 + (i * 37 % 100) / 50.0) : 0;
            for (int k = 0; k < rank; k++) s += mix[k * COLS + i] * mix[k * COLS + j] / (1 + k);
            hm[i * COLS + j] = hm[j * COLS + i] = (float)s;
        }
    free(mix);
    return (bb_hessian) { .n_cols = COLS, .n_tokens = 1000, .h = hm };
}

static double error_of(const bb_hessian *h, bb_type type, const void *bytes, uint32_t rows)
{
    const bb_format *f = bb_format_get(type);
    double           e = 0;
    f->decode(bytes, v, (size_t)rows * COLS);
    for (uint32_t r = 0; r < rows; r++)
        for (int i = 0; i < COLS; i++) {
            double s = 0, wi = (double)w[r * COLS + (uint32_t)i], vi = (double)v[r * COLS + (uint32_t)i];
            ck_assert(isfinite(vi));
            if (!isfinite(wi)) wi = 0;
            for (int j = 0; j < COLS; j++) {
                double wj = (double)w[r * COLS + (uint32_t)j];
                s += (double)h->h[i * COLS + j] * ((isfinite(wj) ? wj : 0) - (double)v[r * COLS + (uint32_t)j]);
            }
            e += s * (wi - vi);
        }
    return e;
}

/* Errors of the two methods; feedback must not be worse. Returns their ratio. */
static double compare(const bb_hessian *h, const bb_format *f, uint32_t rows)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_quantize(w, rows, COLS, h, f->type, &weighted, packed, NULL, &err) == BB_OK, "%s: %s", f->name, err.msg);
    double before = error_of(h, f->type, packed, rows);
    ck_assert_msg(bb_quantize(w, rows, COLS, h, f->type, &feedback, packed, NULL, &err) == BB_OK, "%s: %s", f->name, err.msg);
    double after = error_of(h, f->type, packed, rows);
    ck_assert_msg(after <= before * (1 + 1e-5) + 1e-12, "%s: feedback %g, weighted %g", f->name, after, before);
    return before > 0 ? after / before : 1;
}

static const bb_format *ready(int i)
{
    const bb_format *f = bb_format_find(names[i]);
    ck_assert_ptr_nonnull(f);
    return f->encode && f->fit && (f->vec == 1 || f->nearest) ? f : NULL;
}

START_TEST(feedback_beats_the_weighted_encoding)
{
    const bb_format *f = ready(_i);
    if (!f) return;
    bb_hessian h = problem(1, 24, 0.3);
    double     ratio = compare(&h, f, 4);
    ck_assert_msg(ratio < 0.9, "%s: ratio %g on strongly correlated inputs", f->name, ratio);
}
END_TEST

/* The definition, column by column (factor.h): without sweeps each value is the level nearest to its weight plus what the errors of ALL columns
 * before it ask for, under the scales that were stored. */
START_TEST(each_column_takes_the_errors_before_it)
{
    static const bb_quant_options one_pass = { BB_METHOD_FEEDBACK, 0.01, 0 };
    const bb_format              *f = ready(_i);
    bb_factor                     factor;
    bb_err                        local = BB_ERR_INIT;
    double                        moved = 0;
    if (f->vec > 1) return; /* codebooks: the next test */
    bb_hessian h = problem(7, 24, 0.3);
    ck_assert_msg(bb_factor_make(&h, 0.01, &factor, &local) == BB_OK, "%s", local.msg);
    ck_assert_int_eq(bb_quantize(w, 2, COLS, &h, f->type, &one_pass, packed, NULL, NULL), BB_OK);
    f->decode(packed, v, 2 * COLS);
    for (uint32_t r = 0; r < 2; r++)
        for (uint32_t j = 0; j < COLS; j++) {
            const float *row = w + r * COLS, *value = v + r * COLS;
            float        a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
            double       target = (double)row[j], least = HUGE_VAL;
            bb_code      c;
            for (uint32_t i = 0; i < j; i++) target += (double)factor.u[i * COLS + j] * ((double)row[i] - (double)value[i]);
            memset(&c, 0, sizeof c);
            f->unpack(packed + r * bb_format_row_bytes(f, COLS) + (size_t)(j / f->block) * f->block_bytes, &c);
            f->scales(&c, a, b);
            for (int k = 0; k < f->n_levels; k++)
                least = fmin(least, fabs(target - (double)(a[j % f->block / f->group] * f->levels[k] + b[j % f->block / f->group])));
            ck_assert_msg(fabs(target - (double)value[j]) <= least + 2e-5, "%s: row %u column %u: target %g, value %g, nearest level %g away", f->name, r, j,
                          target, (double)value[j], least);
            moved = fmax(moved, fabs(target - (double)row[j]));
        }
    ck_assert_msg(moved > 2e-3, "%s: %g", f->name, moved); /* so the errors do matter here */
    bb_factor_done(&factor);
}
END_TEST

/* (t - v)' M (t - v) of the vector at j of row r, M its piece of the block LDL, t its weights plus what the errors of the columns before `known` ask for. */
static double vector_cost(const bb_factor *f, uint32_t r, uint32_t j, unsigned vec, uint32_t known)
{
    const float *row = w + r * COLS, *value = v + r * COLS, *u = f->u;
    double       s[8], cost = 0;
    for (unsigned i = 0; i < vec; i++) {
        s[i] = 0;
        for (uint32_t k = 0; k < known; k++) s[i] += (double)u[k * COLS + j + i] * ((double)row[k] - (double)value[k]);
        for (unsigned k = 0; k < i; k++) s[i] -= s[k] * (double)u[(j + k) * COLS + j + i];
    }
    for (unsigned k = 0; k < vec; k++) { /* M = U D U' */
        double sum = 0;
        for (unsigned i = 0; i <= k; i++) sum += (i == k ? 1 : (double)u[(j + i) * COLS + j + k]) * ((double)row[j + i] + s[i] - (double)value[j + i]);
        cost += (double)f->d[j + k] * sum * sum;
    }
    return cost;
}

/* Codebooks: the vectors that were chosen are nearer to the targets that know all errors before them than to targets that do not know the last ones. */
START_TEST(each_vector_takes_the_errors_before_it)
{
    static const bb_quant_options one_pass = { BB_METHOD_FEEDBACK, 0.01, 0 };
    const bb_format              *f = ready(_i);
    bb_factor                     factor;
    double                        all = 0, without_chunk = 0, without_last = 0;
    if (f->vec <= 1) return; /* scalar grids: the test before */
    bb_hessian h = problem(7, 24, 0.3);
    ck_assert_int_eq(bb_factor_make(&h, 0.01, &factor, NULL), BB_OK);
    ck_assert_int_eq(bb_quantize(w, 2, COLS, &h, f->type, &one_pass, packed, NULL, NULL), BB_OK);
    f->decode(packed, v, 2 * COLS);
    for (uint32_t r = 0; r < 2; r++)
        for (uint32_t j = 0; j < COLS; j += f->vec) {
            all += vector_cost(&factor, r, j, f->vec, j);
            without_chunk += vector_cost(&factor, r, j, f->vec, j / 32 * 32);
            without_last += vector_cost(&factor, r, j, f->vec, j >= f->vec ? j - f->vec : 0);
        }
    ck_assert_msg(all < 0.9 * without_chunk && all < without_last, "%s: %g, without the errors of the last 32 columns %g, of the last vector %g", f->name, all,
                  without_chunk, without_last);
    bb_factor_done(&factor);
}
END_TEST

START_TEST(odd_inputs_are_sound)
{
    const bb_format *f = ready(_i);
    if (!f) return;
    bb_hessian h = problem(2, 8, 0); /* rank 8 */
    compare(&h, f, 1);
    h = problem(3, 24, 0.3);
    for (int j = 0; j < COLS; j++) {
        w[j] = 0;                                 /* row 0: zero */
        w[COLS + j] = 0.25f;                      /* row 1: constant */
        w[2 * COLS + j] = j == 77 ? 50.f : 1e-3f; /* row 2: one outlier */
        if (j % 9 == 0) w[3 * COLS + j] = j % 2 ? NAN : INFINITY;
    }
    for (int j = 0; j < COLS; j += 3) /* every third column is dead */
        for (int i = 0; i < COLS; i++) hm[j * COLS + i] = hm[i * COLS + j] = 0;
    compare(&h, f, 4);
    memset(hm, 0, sizeof hm);
    compare(&h, f, 4);
}
END_TEST

START_TEST(threads_do_not_change_a_byte)
{
    const bb_format *f = ready(_i);
    if (!f) return;
    bb_hessian     h = problem(4, 24, 0.3);
    size_t         bytes = ROWS * bb_format_row_bytes(f, COLS);
    int            threads = omp_get_max_threads();
    bb_quant_stats s1, s2;
    omp_set_num_threads(1);
    ck_assert_int_eq(bb_quantize(w, ROWS, COLS, &h, f->type, &feedback, packed, &s1, NULL), BB_OK);
    omp_set_num_threads(2);
    ck_assert_int_eq(bb_quantize(w, ROWS, COLS, &h, f->type, &feedback, packed2, &s2, NULL), BB_OK);
    omp_set_num_threads(threads);
    ck_assert_mem_eq(packed, packed2, bytes);
    ck_assert(s1.error == s2.error);
    ck_assert_double_eq_tol(s1.error, relative_error_of(w, (f->decode(packed, v, (size_t)ROWS * COLS), v), ROWS, COLS, &h), 1e-4 * s1.error);
}
END_TEST

/* Only three columns matter, so the codes can be enumerated. Error feedback and descent are not exact, but: no single code may be left
 * whose change would help, and the best of all codes (given the fields) is found nearly always. */
START_TEST(codes_are_good_where_they_can_be_enumerated)
{
    static const char *const small[] = { "Q2_0", "Q4_0", "IQ4_NL", "Q1_0", "TQ2_0" };
    const uint32_t           at[3] = { 5, 17, 30 };
    int                      n_cases = 0, n_best = 0;
    for (int k = 0; k < 5; k++) {
        const bb_format *f = bb_format_find(small[k]);
        for (uint64_t seed = 10; seed < 18; seed++) {
            bb_hessian h = problem(seed, 4, 0.3);
            bb_code    c;
            double     best = HUGE_VAL, best_single = HUGE_VAL, mine;
            float      a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
            for (uint32_t i = 0; i < COLS; i++)
                for (uint32_t j = 0; j < COLS; j++) {
                    bool live = (i == at[0] || i == at[1] || i == at[2]) && (j == at[0] || j == at[1] || j == at[2]);
                    if (!live) hm[i * COLS + j] = 0;
                }
            ck_assert_int_eq(bb_quantize(w, 1, COLS, &h, f->type, &(bb_quant_options) { BB_METHOD_FEEDBACK, 1e-6, 4 }, packed, NULL, NULL), BB_OK);
            mine = error_of(&h, f->type, packed, 1);
            f->unpack(packed, &c);
            f->scales(&c, a, b);
            for (uint32_t q = 0; q < (uint32_t)f->n_levels * f->n_levels * f->n_levels; q++) {
                const uint32_t code[3] = { q % f->n_levels, q / f->n_levels % f->n_levels, q / f->n_levels / f->n_levels };
                double         d[3], e = 0;
                int            changed = 0;
                for (int i = 0; i < 3; i++) {
                    const uint32_t g = at[i] / f->group;
                    d[i] = (double)w[at[i]] - (double)(a[g] * f->levels[code[i]] + b[g]);
                    changed += code[i] != c.q[at[i]];
                }
                for (int i = 0; i < 3; i++)
                    for (int j = 0; j < 3; j++) e += d[i] * (double)hm[at[i] * COLS + at[j]] * d[j];
                if (e < best) best = e;
                if (changed == 1 && e < best_single) best_single = e;
            }
            ck_assert_msg(mine <= best_single * 1.001 + 1e-12, "%s seed %d: %g, one change gives %g", f->name, (int)seed, mine, best_single);
            n_cases++;
            n_best += mine <= best * 1.001 + 1e-12;
        }
    }
    ck_assert_msg(n_best * 10 >= n_cases * 8, "%d of %d best", n_best, n_cases);
}
END_TEST

START_TEST(factors_multiply_to_the_damped_hessian)
{
    bb_hessian h = problem(5, 24, 0.3);
    bb_factor  f;
    bb_local   l;
    ck_assert_int_eq(bb_factor_make(&h, 0.01, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_local_make(&f, 16, &l, NULL), BB_OK);
    for (int i = 0; i < COLS; i += 7)
        for (int j = i; j < COLS; j += 13) {
            double s = 0, want = (double)hm[i * COLS + j] + (i == j ? (double)f.damp[i] : 0);
            for (int k = j; k < COLS; k++) s += (k == i ? 1 : (double)f.u[i * COLS + k]) * (double)f.d[k] * (k == j ? 1 : (double)f.u[j * COLS + k]);
            ck_assert_double_eq_tol(s, want, 1e-4);
        }
    for (int g = 0; g < COLS / 16; g += 5) /* inverse times the piece is the identity */
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 16; j++) {
                double s = 0;
                for (int k = 0; k < 16; k++) {
                    int at = (g * 16 + k) * COLS + g * 16 + j;
                    s += (double)l.inverse[g * 256 + i * 16 + k] * ((double)hm[at] + (k == j ? (double)f.damp[0] : 0));
                }
                ck_assert_double_eq_tol(s, i == j ? 1 : 0, 1e-4);
            }
    bb_local_done(&l);
    bb_factor_done(&f);
}
END_TEST

START_TEST(damping_rises_until_the_matrix_factors)
{
    bb_hessian h = problem(6, 8, 0);
    bb_factor  f;
    bb_err     err = BB_ERR_INIT;
    for (int j = 0; j < COLS; j++) hm[j * COLS + j] -= 1e-3f; /* rank 8 and a little negative, as rounding can make it */
    ck_assert_int_eq(bb_factor_make(&h, 1e-6, &f, NULL), BB_OK);
    ck_assert_double_gt(f.damping, 1e-6);
    bb_factor_done(&f);
    hm[0] = -1e9f;
    ck_assert_int_eq(bb_factor_make(&h, 1e-6, &f, &err), BB_NUMERIC);
    /* and the quantizer falls back to the weighted encoding */
    ck_assert_int_eq(bb_quantize(w, 2, COLS, &h, BB_Q4_0, &feedback, packed, NULL, NULL), BB_OK);
    hm[0] = NAN;
    ck_assert_int_eq(bb_quantize(w, 2, COLS, &h, BB_Q4_0, &feedback, packed, NULL, NULL), BB_OK);
}
END_TEST

START_TEST(wrong_requests_are_refused)
{
    bb_hessian h = problem(7, 8, 0.1);
    bb_err     err = BB_ERR_INIT;
    h.n_cols = 96;
    ck_assert_int_eq(bb_quantize(w, 1, 96, &h, BB_Q2_K, &feedback, packed, NULL, &err), BB_UNSUPPORTED);
    err = (bb_err)BB_ERR_INIT;
    h.n_cols = COLS;
    ck_assert_int_eq(bb_quantize(w, 1, COLS, &h, (bb_type)4, &feedback, packed, NULL, &err), BB_UNSUPPORTED);
    for (int i = 0; i < COLS; i++) w[i] = NAN;
    err = (bb_err)BB_ERR_INIT;
    ck_assert_int_eq(bb_quantize(w, 1, COLS, &h, BB_Q4_0, &feedback, packed, NULL, &err), BB_NUMERIC);
}
END_TEST

START_TEST(plain_types_and_no_hessian)
{
    problem(8, 8, 0.1);
    bb_quant_stats s;
    ck_assert_int_eq(bb_quantize(w, 3, COLS, NULL, BB_F16, &feedback, packed, &s, NULL), BB_OK);
    ck_assert_double_lt(s.error, 1e-6);
    ck_assert_int_eq(bb_quantize(w, 3, COLS, NULL, BB_Q8_0, &rtn, packed, &s, NULL), BB_OK);
    ck_assert_double_lt(s.error, 1e-3);
    bb_format_get(BB_Q8_0)->decode(packed, v, 3 * COLS);
    ck_assert_double_eq_tol(relative_error_of(w, v, 3, COLS, NULL), s.error, 1e-6 * s.error);
}
END_TEST

/* More weights than are floats at a time: the bytes and the error of the matrix in one piece, whatever rows a piece ends with; and one without a finite weight. */
START_TEST(a_matrix_in_pieces_is_the_same_matrix)
{
    enum { N = 32, MANY = BB_QUANTIZE_FLOATS / N + 300 };
    static const bb_quant_options methods[] = { { BB_METHOD_RTN, 0, 0 }, { BB_METHOD_FEEDBACK, 0.01, 0 } };
    const size_t                  row = bb_format_row_bytes(bb_format_get(BB_Q4_0), N);
    float                        *x = malloc((size_t)MANY * N * sizeof *x), moments[N * N] = { 0 };
    unsigned char                *one = malloc(MANY * row), *pieces = malloc(MANY * row);
    const bb_matrix               m = { .type = BB_F32, .rows = MANY, .cols = N, .data = x };
    bb_hessian                    h = { .h = moments, .n_cols = N, .n_tokens = 100 };
    bb_factor                     factor;
    bb_rng                        r;
    bb_rng_init(&r, 5, "weights");
    for (size_t i = 0; i < (size_t)MANY * N; i++) x[i] = (float)(bb_rng_uniform(&r) - 0.5);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++) moments[i * N + j] = i == j ? 1.0F + (float)i / N : 0.3F;
    ck_assert_int_eq(bb_factor_make(&h, 0.01, &factor, NULL), BB_OK);
    for (size_t i = 0; i < 2; i++) {
        const bb_hessian *of = i ? &h : NULL;
        const bb_factor  *f = i ? &factor : NULL;
        bb_quant_stats    a, b;
        ck_assert_int_eq(bb_quantize_prepared(x, MANY, N, of, f, BB_Q4_0, &methods[i], one, &a, NULL), BB_OK);
        ck_assert_int_eq(bb_quantize_matrix(&m, of, f, BB_Q4_0, &methods[i], pieces, &b, NULL), BB_OK);
        ck_assert(memcmp(one, pieces, MANY * row) == 0 && a.error == b.error && a.error > 0);
    }
    for (size_t i = 0; i < (size_t)MANY * N; i++) x[i] = NAN;
    ck_assert_int_eq(bb_quantize_matrix(&m, NULL, NULL, BB_Q4_0, &methods[0], pieces, NULL, NULL), BB_NUMERIC);
    x[(size_t)MANY * N - 1] = 1; /* in the last piece */
    ck_assert_int_eq(bb_quantize_matrix(&m, NULL, NULL, BB_Q4_0, &methods[0], pieces, NULL, NULL), BB_OK);
    bb_factor_done(&factor);
    free(x);
    free(one);
    free(pieces);
}
END_TEST

START_TEST(memory_failures_are_clean)
{
    bb_hessian h = problem(9, 8, 0.1);
    size_t     live = bb_mem_live_bytes();
    for (long n = 0; n < 2000; n++) {
        bb_err err = BB_ERR_INIT;
        bb_mem_fail_after(n);
        bb_status s = bb_quantize(w, 2, COLS, &h, BB_Q4_0, &feedback, packed, NULL, &err);
        bb_mem_fail_after(-1);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
        if (s == BB_OK) {
            ck_assert_int_gt(n, 10);
            return;
        }
        ck_assert_int_eq(s, BB_NOMEM);
    }
    ck_abort_msg("never succeeded");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("compress_quantize");
    TCase *t = tcase_create("core");
    bb_blas_init();
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, feedback_beats_the_weighted_encoding, 0, N_NAMES);
    tcase_add_loop_test(t, each_column_takes_the_errors_before_it, 0, N_NAMES);
    tcase_add_loop_test(t, each_vector_takes_the_errors_before_it, 0, N_NAMES);
    tcase_add_loop_test(t, odd_inputs_are_sound, 0, N_NAMES);
    tcase_add_loop_test(t, threads_do_not_change_a_byte, 0, N_NAMES);
    tcase_add_test(t, codes_are_good_where_they_can_be_enumerated);
    tcase_add_test(t, factors_multiply_to_the_damped_hessian);
    tcase_add_test(t, damping_rises_until_the_matrix_factors);
    tcase_add_test(t, wrong_requests_are_refused);
    tcase_add_test(t, plain_types_and_no_hessian);
    tcase_add_test(t, a_matrix_in_pieces_is_the_same_matrix);
    tcase_add_test(t, memory_failures_are_clean);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
