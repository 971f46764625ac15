/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_lattice.c: LC2 (model/net/lattice.h) against its definition in float64: decoding, encoding, gradients by differences; and levels of a lattice without a
 * rotation in Q2_K.
 */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/half.h"
#include "model/compress/lattice_fit.h"
#include "model/tune/lattice_latent.h"
#include "tests/support/support.h"

/* ---- the definition ---- */

/* T (n,n): signs of a Hadamard matrix inside the runs of p, the cosine transform across the m runs. */
static double *orthogonal(unsigned n)
{
    unsigned m = n, p = 1;
    while (m % 2 == 0) {
        m /= 2;
        p *= 2;
    }
    double *t = BB_NEW((size_t)n * n, double, NULL);
    for (unsigned i = 0; i < n; i++)
        for (unsigned j = 0; j < n; j++) {
            const unsigned q = i / p, r = j / p, k = i % p, l = j % p;
            const double   c = m == 1 ? 1 : sqrt((r ? 2.0 : 1.0) / m) * cos(acos(-1.0) * (2 * q + 1) * r / (2.0 * m));
            t[i * n + j] = c * (__builtin_popcount(k & l) % 2 ? -1 : 1) / sqrt((double)p);
        }
    return t;
}

/* W = diag(s_out) T_rows y T_cols' diag(s_in), y of real z; side: A, b, s_in, s_out. */
static double *by_definition(unsigned rows, unsigned cols, const double *z, const double *side)
{
    double *tr = orthogonal(rows), *tc = orthogonal(cols), *y = BB_NEW((size_t)rows * cols, double, NULL), *half = BB_NEW((size_t)rows * cols, double, NULL);
    const double *b = side + 16, *s_in = side + 20, *s_out = s_in + cols;
    for (unsigned r = 0; r < rows; r++)
        for (unsigned c = 0; c < cols; c++) {
            y[r * cols + c] = b[c % 4];
            for (unsigned j = 0; j < 4; j++) y[r * cols + c] += side[4 * (c % 4) + j] * z[r * cols + c / 4 * 4 + j];
        }
    for (unsigned r = 0; r < rows; r++)
        for (unsigned c = 0; c < cols; c++) {
            double sum = 0;
            for (unsigned k = 0; k < cols; k++) sum += y[r * cols + k] * tc[c * cols + k];
            half[r * cols + c] = sum;
        }
    for (unsigned r = 0; r < rows; r++)
        for (unsigned c = 0; c < cols; c++) {
            double sum = 0;
            for (unsigned k = 0; k < rows; k++) sum += tr[r * rows + k] * half[k * cols + c];
            y[r * cols + c] = s_out[r] * sum * s_in[c];
        }
    bb_free(tr);
    bb_free(tc);
    bb_free(half);
    return y;
}

/* The numbers that stored bytes say. */
static void numbers_of(const unsigned char *bytes, unsigned rows, unsigned cols, double *z, double *side)
{
    const size_t n_codes = bb_lattice_code_bytes(rows, cols);
    for (size_t i = 0; i < (size_t)rows * cols; i++) z[i] = bytes[i / 4] >> 2 * (i % 4) & 3;
    for (size_t i = 0; i < bb_lattice_side_numbers(rows, cols); i++) side[i] = (double)bb_half_to_float(bb_load_u16(bytes + n_codes + 2 * i));
}

static double difference(const float *w, const double *v, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)w[i] - v[i]));
    return worst;
}

/* ---- scenes ---- */

static const struct {
    unsigned rows, cols;
} shapes[] = { { 8, 16 }, { 12, 36 }, { 1, 4 }, { 20, 64 }, { 36, 24 } };
enum { N_SHAPES = sizeof shapes / sizeof *shapes, MOST = 64 * 64 };

static bb_rng rng;
static double z[MOST], side[256];

static void random_bytes(unsigned char *bytes, unsigned rows, unsigned cols)
{
    const size_t n_codes = bb_lattice_code_bytes(rows, cols), n = bb_lattice_side_numbers(rows, cols);
    for (size_t i = 0; i < n_codes; i++) bytes[i] = (unsigned char)bb_rng_below(&rng, 256);
    for (size_t i = 0; i < n; i++)
        bb_store_u16(bytes + n_codes + 2 * i, bb_float_to_half((float)(i < 20 ? 0.1 * bb_rng_normal(&rng) : 1 + 0.3 * bb_rng_normal(&rng))));
}

static float *random_weights(size_t n)
{
    float *w = BB_NEW(n, float, NULL);
    for (size_t i = 0; i < n; i++) w[i] = (float)(0.05 * bb_rng_normal(&rng));
    return w;
}

/* Second moments of inputs with a common part and channels of different sizes. */
static bb_hessian random_moments(unsigned n)
{
    bb_hessian h = { .n_cols = n, .n_tokens = 1, .h = BB_NEW0((size_t)n * n, float, NULL) };
    for (unsigned t = 0; t < 3 * n; t++) {
        double x[256], common = bb_rng_normal(&rng);
        for (unsigned i = 0; i < n; i++) x[i] = (bb_rng_normal(&rng) + common) * (1 + i % 5);
        for (unsigned i = 0; i < n * n; i++) h.h[i] += (float)(x[i / n] * x[i % n] / (3 * n));
    }
    return h;
}

static double error_under(const float *w, const double *v, unsigned rows, unsigned cols, const bb_hessian *h)
{
    double error = 0, energy = 0;
    for (unsigned r = 0; r < rows; r++)
        for (unsigned i = 0; i < cols; i++)
            for (unsigned j = 0; j < cols; j++) {
                const double m = h ? (double)h->h[i * cols + j] : i == j;
                const size_t a = (size_t)r * cols + i, b = (size_t)r * cols + j;
                error += m * ((double)w[a] - v[a]) * ((double)w[b] - v[b]);
                energy += m * (double)w[a] * (double)w[b];
            }
    return error / energy;
}

static double fit(const float *w, unsigned rows, unsigned cols, const bb_hessian *h, unsigned passes, unsigned char *bytes)
{
    const bb_lattice_options o = { 7, 0.01, passes };
    bb_quant_stats           stats;
    bb_err                   err = BB_ERR_INIT;
    ck_assert_msg(bb_lattice_fit(w, rows, cols, h, &o, "test", bytes, &stats, &err) == BB_OK, "%s", err.msg);
    return stats.error;
}

/* ---- tests ---- */

START_TEST(decodes_by_definition)
{
    const unsigned  rows = shapes[_i].rows, cols = shapes[_i].cols;
    bb_lattice_box *box = bb_lattice_box_new(rows, cols, NULL);
    bb_rng_init(&rng, 1, "lattice");
    random_bytes(box->bytes, rows, cols);
    ck_assert_int_eq(bb_lattice_decode(&box->view, rows, cols, box->w, NULL), BB_OK);
    numbers_of(box->bytes, rows, cols, z, side);
    double *v = by_definition(rows, cols, z, side);
    ck_assert_msg(difference(box->w, v, (size_t)rows * cols) < 1e-6, "%g", difference(box->w, v, (size_t)rows * cols));
    bb_free(v);
    bb_free(box);
}
END_TEST

/* Without second moments every group has, in the turned basis, the nearest of the 256 points; what the encoder says of its error is so. */
START_TEST(rounds_to_the_nearest)
{
    const unsigned rows = shapes[_i].rows, cols = shapes[_i].cols;
    unsigned char *bytes = bb_alloc(bb_lattice_bytes(rows, cols), 1, NULL);
    bb_rng_init(&rng, 2, "lattice");
    float       *w = random_weights((size_t)rows * cols);
    const double said = fit(w, rows, cols, NULL, 0, bytes);
    numbers_of(bytes, rows, cols, z, side);
    double *v = by_definition(rows, cols, z, side);
    ck_assert_double_eq_tol(said, error_under(w, v, rows, cols, NULL), 1e-5);
    ck_assert_msg(said < 0.3, "%g", said); /* 0.12 of large normal matrices */
    /* The signs alone turn the weights: of s_out the size is least squares'. */
    double *tr = orthogonal(rows), *tc = orthogonal(cols);
    for (unsigned r = 0; r < rows; r++)
        for (unsigned g = 0; g < cols / 4; g++) {
            double y[4], least = 1e9, mine = 0;
            for (unsigned i = 0; i < 4; i++) {
                y[i] = 0;
                for (unsigned a = 0; a < rows; a++)
                    for (unsigned b = 0; b < cols; b++)
                        y[i] += tr[a * rows + r] * copysign(1, side[20 + cols + a]) * (double)w[a * cols + b] * side[20 + b] * tc[b * cols + 4 * g + i];
            }
            for (unsigned code = 0; code < 256; code++) {
                double d = 0;
                for (unsigned i = 0; i < 4; i++) {
                    double x = side[16 + i];
                    for (unsigned j = 0; j < 4; j++) x += side[4 * i + j] * (code >> 2 * j & 3);
                    d += (y[i] - x) * (y[i] - x);
                }
                least = fmin(least, d);
                if (code == bytes[r * (cols / 4) + g]) mine = d;
            }
            ck_assert_msg(mine <= least + 1e-7, "row %u, group %u: %g, %g", r, g, mine, least);
        }
    bb_free(tr);
    bb_free(tc);
    bb_free(v);
    bb_free(w);
    bb_free(bytes);
}
END_TEST

/* Error feedback beats rounding under the moments that it is given, passes improve it, and the error that is said is that of the bytes. */
START_TEST(feedback_and_passes_help)
{
    const unsigned rows = shapes[_i].rows, cols = shapes[_i].cols;
    unsigned char *bytes = bb_alloc(bb_lattice_bytes(rows, cols), 1, NULL), *again = bb_alloc(bb_lattice_bytes(rows, cols), 1, NULL);
    double         error[3];
    bb_rng_init(&rng, 3, "lattice");
    float     *w = random_weights((size_t)rows * cols);
    bb_hessian h = random_moments(cols);
    for (int k = 0; k < 3; k++) {
        const double said = fit(w, rows, cols, k ? &h : NULL, k == 2 ? 10 : 0, bytes);
        numbers_of(bytes, rows, cols, z, side);
        double *v = by_definition(rows, cols, z, side);
        error[k] = error_under(w, v, rows, cols, &h);
        if (k) ck_assert_double_eq_tol(said, error[k], 1e-4 * (1 + error[k]));
        bb_free(v);
    }
    if (rows * cols > 64) ck_assert_msg(error[1] < 0.9 * error[0] && error[2] < error[1], "%g %g %g", error[0], error[1], error[2]);
    omp_set_num_threads(1);
    fit(w, rows, cols, &h, 10, again);
    omp_set_num_threads(2);
    ck_assert(memcmp(bytes, again, bb_lattice_bytes(rows, cols)) == 0);
    bb_hessian_done(&h);
    bb_free(w);
    bb_free(bytes);
    bb_free(again);
}
END_TEST

/* What is a lattice already, its points about as frequent as those of normal weights, is found again. */
START_TEST(finds_a_lattice)
{
    enum { ROWS = 32, COLS = 64 };
    unsigned char *bytes = bb_alloc(bb_lattice_bytes(ROWS, COLS), 1, NULL);
    bb_rng_init(&rng, 4, "lattice");
    float *w = random_weights(ROWS * COLS);
    fit(w, ROWS, COLS, NULL, 0, bytes); /* for its signs */
    numbers_of(bytes, ROWS, COLS, z, side);
    for (int i = 0; i < ROWS * COLS; i++) z[i] = (double)(bb_rng_below(&rng, 10) < 7 ? 1 + bb_rng_below(&rng, 2) : 3 * bb_rng_below(&rng, 2));
    for (int i = 0; i < 16; i++) side[i] = i % 5 ? 0 : 0.0625;
    for (int i = 16; i < 20; i++) side[i] = -1.5 * 0.0625;
    for (int i = 0; i < ROWS; i++) side[20 + COLS + i] = copysign(1, side[20 + COLS + i]);
    double *v = by_definition(ROWS, COLS, z, side);
    for (int i = 0; i < ROWS * COLS; i++) w[i] = (float)v[i];
    bb_hessian h = random_moments(COLS);
    ck_assert_msg(fit(w, ROWS, COLS, &h, 10, bytes) < 1e-5, "%g", fit(w, ROWS, COLS, &h, 10, bytes));
    for (int i = 0; i < ROWS * COLS; i++) ck_assert_uint_eq(bytes[i / 4] >> 2 * (i % 4) & 3, (unsigned)z[i]);
    bb_hessian_done(&h);
    bb_free(v);
    bb_free(w);
    bb_free(bytes);
}
END_TEST

START_TEST(odd_inputs)
{
    enum { ROWS = 8, COLS = 16 };
    unsigned char            bytes[512];
    float                    w[ROWS * COLS] = { 0 }, v[ROWS * COLS];
    const bb_lattice_options o = { 1, 0.01, 2 };
    bb_err                   err = BB_ERR_INIT;
    bb_lattice               l = { bytes, bytes + bb_lattice_code_bytes(ROWS, COLS) };
    ck_assert(!bb_lattice_can(8, 18) && !bb_lattice_can(257, 16) && !bb_lattice_can(8, 4 * 257) && !bb_lattice_can(0, 16) && bb_lattice_can(576, 1536));
    ck_assert_int_eq(bb_lattice_fit(w, 8, 18, NULL, &o, "test", bytes, NULL, &err), BB_UNSUPPORTED);
    bb_err_clear(&err);
    ck_assert_int_eq(bb_lattice_fit(w, ROWS, COLS, NULL, &o, "test", bytes, NULL, &err), BB_OK); /* zeros stay zeros */
    ck_assert_int_eq(bb_lattice_decode(&l, ROWS, COLS, v, &err), BB_OK);
    for (int i = 0; i < ROWS * COLS; i++) ck_assert(fabsf(v[i]) < 1e-30f);
    for (int i = 0; i < ROWS * COLS; i++) w[i] = NAN;
    ck_assert_int_eq(bb_lattice_fit(w, ROWS, COLS, NULL, &o, "test", bytes, NULL, &err), BB_NUMERIC);
    bb_err_clear(&err);
    w[3] = 1;
    ck_assert_int_eq(bb_lattice_fit(w, ROWS, COLS, NULL, &o, "test", bytes, NULL, &err), BB_OK);
    for (unsigned i = 0; i < 2 * bb_lattice_side_numbers(ROWS, COLS); i++) bytes[bb_lattice_code_bytes(ROWS, COLS) + i] = i % 2 ? 0x7B : 0xFF; /* 65504 all */
    ck_assert_int_eq(bb_lattice_decode(&l, ROWS, COLS, v, &err), BB_OK);
    for (int i = 0; i < ROWS * COLS; i++) ck_assert(isfinite(v[i]));
    bb_store_u16(bytes + bb_lattice_code_bytes(ROWS, COLS) + 2 * 22, 0x7C00);
    ck_assert_int_eq(bb_lattice_decode(&l, ROWS, COLS, v, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "number 22"));
    bb_err_clear(&err);
}
END_TEST

/* ---- training ---- */

typedef struct scene {
    unsigned        rows, cols, n, n_side;
    bb_lattice_box *box;
    bb_matrix       m;
    bb_latent       l;
} scene;

static scene scene_of(int i)
{
    scene  s = { .rows = shapes[i].rows, .cols = shapes[i].cols };
    bb_err err = BB_ERR_INIT;
    s.n = s.rows * s.cols;
    s.n_side = (unsigned)bb_lattice_side_numbers(s.rows, s.cols);
    s.box = bb_lattice_box_new(s.rows, s.cols, NULL);
    s.m = (bb_matrix) { .rows = s.rows, .cols = s.cols };
    bb_rng_init(&rng, 5, "lattice");
    random_bytes(s.box->bytes, s.rows, s.cols);
    ck_assert_int_eq(bb_lattice_decode(&s.box->view, s.rows, s.cols, s.box->w, NULL), BB_OK);
    bb_lattice_view(s.box, &s.m);
    ck_assert_msg(bb_latent_create(&s.m, s.box->bytes, &s.l, &err) == BB_OK, "%s", err.msg);
    return s;
}

static void scene_done(scene *s)
{
    bb_latent_done(&s->l);
    bb_free(s->box);
}

/* sum G W of the definition. */
static double loss_of(const scene *s, const float *g)
{
    double *v = by_definition(s->rows, s->cols, z, side), sum = 0;
    for (unsigned i = 0; i < s->n; i++) sum += (double)g[i] * v[i];
    bb_free(v);
    return sum;
}

/* The loss is linear in every single number, so central differences are exact. */
static double slope_of(const scene *s, const float *g, double *x)
{
    const double was = *x;
    *x = was + 0.5;
    const double up = loss_of(s, g);
    *x = was - 0.5;
    const double down = loss_of(s, g);
    *x = was;
    return up - down;
}

START_TEST(gradients_are_differences)
{
    scene  s = scene_of(_i);
    float *g = random_weights(s.n), *straight = BB_NEW(s.n, float, NULL);
    memcpy(s.l.g_w, g, s.n * sizeof *g);
    for (unsigned i = 0; i < s.n; i++) s.l.w[i] += (float)(0.4 * (bb_rng_uniform(&rng) * 2 - 1)); /* codes stay */
    numbers_of(s.box->bytes, s.rows, s.cols, z, side);
    bb_latent_gradients(&s.l, false);
    for (unsigned i = 0; i < s.n_side; i++) {
        const double expected = slope_of(&s, g, &side[i]);
        ck_assert_msg(fabs((double)s.l.lattice->g_side[i] - expected) < 1e-5 * (1 + fabs(expected)), "side %u: %g, %g", i, (double)s.l.lattice->g_side[i],
                      expected);
    }
    for (unsigned i = 0; i < s.n; i += 1 + s.n / 64) {
        const double expected = slope_of(&s, g, &z[i]);
        ck_assert_msg(fabs((double)s.l.g_w[i] - expected) < 1e-6 * (1 + fabs(expected)), "weight %u: %g, %g", i, (double)s.l.g_w[i], expected);
    }
    memcpy(straight, s.l.g_w, s.n * sizeof *straight);
    memcpy(s.l.g_w, g, s.n * sizeof *g);
    bb_latent_gradients(&s.l, true);
    for (unsigned i = 0; i < s.n; i++) {
        const double v = (double)s.l.w[i], r = v - floor(v), slope = v <= 0 || v >= 3 ? 0.2 : fmin(3, pow(fabs(2 * r - 1), 0.2 - 1) / 5);
        ck_assert_double_eq_tol((double)s.l.g_w[i], (double)straight[i] * slope, 1e-5 * fabs((double)straight[i]));
    }
    bb_free(g);
    bb_free(straight);
    scene_done(&s);
}
END_TEST

/* Encoding what was decoded changes no byte; after moves q, and the network's floats, are what the bytes say; a saved state comes back. */
START_TEST(bytes_and_numbers_agree)
{
    scene          s = scene_of(_i);
    const size_t   n = bb_lattice_bytes(s.rows, s.cols);
    unsigned char *before = bb_alloc(n, 1, NULL);
    float         *shown = BB_NEW(s.n, float, NULL), *v = BB_NEW(s.n, float, NULL);
    bb_param       params[BB_LATENT_PARAMS];
    memcpy(before, s.box->bytes, n);
    s.l.lattice->shown = shown;
    bb_latent_encode(&s.l);
    ck_assert(memcmp(before, s.box->bytes, n) == 0);
    ck_assert(memcmp(s.l.q, s.box->w, s.n * sizeof *v) == 0);
    bb_latent_params(&s.l, 0.1, 0.01, params);
    for (int k = 0; k < BB_LATENT_PARAMS; k++) {
        ck_assert(params[k].n > 0 && params[k].rate_factor > 0);
        for (size_t i = 0; i < params[k].n; i++) params[k].w[i] += (float)(0.5 * bb_rng_normal(&rng));
    }
    bb_latent_encode(&s.l);
    ck_assert(memcmp(before, s.box->bytes, n) != 0);
    ck_assert_int_eq(bb_lattice_decode(&s.box->view, s.rows, s.cols, v, NULL), BB_OK);
    ck_assert(memcmp(s.l.q, v, s.n * sizeof *v) == 0 && memcmp(shown, v, s.n * sizeof *v) == 0);
    for (unsigned i = 0; i < s.n; i++) ck_assert_uint_eq(s.box->bytes[i / 4] >> 2 * (i % 4) & 3, (unsigned)fmin(fmax(floor((double)s.l.w[i] + 0.5), 0), 3));
    memcpy(s.box->bytes, before, n);
    bb_latent_decode(&s.l);
    ck_assert(memcmp(s.l.q, s.box->w, s.n * sizeof *v) == 0 && memcmp(shown, s.box->w, s.n * sizeof *v) == 0);
    for (unsigned i = 0; i < s.n; i++) ck_assert(s.l.w[i] == (float)(before[i / 4] >> 2 * (i % 4) & 3));
    bb_free(before);
    bb_free(shown);
    bb_free(v);
    scene_done(&s);
}
END_TEST

/* ---- the carrier ---- */

/* Levels d sc (q - 1.5) are Q2_K's with mn = sc and dmin = 1.5 d, d with a mantissa bit to spare. Its encoder comes close to them by itself, to less than a
 * hundredth of what rounding to 2 bits costs. */
START_TEST(q2_k_holds_levels_between)
{
    enum { N = 4 * 256 };
    const bb_format *f = bb_format_get(BB_Q2_K);
    float            w[N], importance[N], v[N];
    unsigned char    bytes[4 * 84];
    double           error = 0, energy = 0;
    bb_rng_init(&rng, 6 + (uint64_t)_i, "lattice");
    for (int g = 0; g < N / 16; g++) {
        const int sc = _i % 2 ? 8 : 1 + (int)bb_rng_below(&rng, 15);
        for (int i = 0; i < 16; i++) w[16 * g + i] = 0x1.8cp-7f * (float)sc * ((float)bb_rng_below(&rng, 4) - 1.5f);
    }
    for (int i = 0; i < N; i++) importance[i] = (float)exp(bb_rng_normal(&rng));
    f->encode(w, _i / 2 ? importance : NULL, bytes, N);
    f->decode(bytes, v, N);
    for (int i = 0; i < N; i++) {
        error += ((double)w[i] - (double)v[i]) * ((double)w[i] - (double)v[i]);
        energy += (double)w[i] * (double)w[i];
    }
    ck_assert_msg(error < 1e-3 * energy, "%g", error / energy);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("lattice");
    TCase *t = tcase_create("lattice");
    tcase_add_loop_test(t, decodes_by_definition, 0, N_SHAPES);
    tcase_add_loop_test(t, rounds_to_the_nearest, 0, N_SHAPES);
    tcase_add_loop_test(t, feedback_and_passes_help, 0, N_SHAPES);
    tcase_add_test(t, finds_a_lattice);
    tcase_add_test(t, odd_inputs);
    tcase_add_loop_test(t, gradients_are_differences, 0, N_SHAPES);
    tcase_add_loop_test(t, bytes_and_numbers_agree, 0, N_SHAPES);
    tcase_add_loop_test(t, q2_k_holds_levels_between, 0, 4);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
