/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_channels.c: masks over channels: matrices in two precisions (their bytes, what is read back, feedback across the parts), the hypernetwork against
 * differences, training of masks. */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/compress/two_part.h"
#include "model/tune/hyper.h"
#include "model/tune/toga.h"
#include "tests/support/ref_net.h"
#include "tests/support/support.h"

/* ---- the hypernetwork ---- */

enum { N_MASKS = 4 };
static const uint32_t lengths[N_MASKS] = { 3, 1, 5, 2 };
enum { N_LOGITS = 11 };

static double weighted_sum(bb_hyper *h, const double *c)
{
    double z[N_LOGITS], sum = 0;
    bb_hyper_forward(h, z);
    for (int i = 0; i < N_LOGITS; i++) sum += c[i] * z[i] + 0.5 * z[i] * z[i];
    return sum;
}

START_TEST(gradient_of_hypernetwork_is_that_of_differences)
{
    bb_hyper *h = NULL;
    bb_err    err = BB_ERR_INIT;
    bb_rng    r;
    double    c[N_LOGITS], z[N_LOGITS], d[N_LOGITS], largest = 0, worst = 0;
    ck_assert_int_eq(bb_hyper_create(lengths, N_MASKS, 3, &h, &err), BB_OK);
    const bb_param p = bb_hyper_param(h, 0.05);
    ck_assert_uint_eq(p.n, 2 * (3 * 64 * 32 + 3 * 64 * 64 + 2 * 3 * 64) + 2 * 128 + N_LOGITS * 128);
    bb_rng_init(&r, 1, "test");
    for (int i = 0; i < N_LOGITS; i++) c[i] = bb_rng_normal(&r);
    for (size_t i = 0; i < p.n; i++) p.w[i] += 0.05f * (float)bb_rng_normal(&r); /* gains and biases too */
    bb_hyper_forward(h, z);
    for (int i = 0; i < N_LOGITS; i++) d[i] = c[i] + z[i];
    bb_hyper_backward(h, d);
    for (size_t i = 0; i < p.n; i++) largest = fmax(largest, fabs((double)p.g[i]));
    for (size_t i = 0; i < p.n; i += i < p.n - N_LOGITS * 128 - 300 ? 7 : 1) { /* every norm weight and head weight; a seventh of the rest */
        const float kept = p.w[i], up = kept + 1e-4f, down = kept - 1e-4f;
        p.w[i] = up;
        const double above = weighted_sum(h, c);
        p.w[i] = down;
        const double slope = (above - weighted_sum(h, c)) / ((double)up - (double)down);
        p.w[i] = kept;
        worst = fmax(worst, fabs(slope - (double)p.g[i]));
    }
    ck_assert_double_lt(worst, 1e-6 * largest);
    bb_hyper_destroy(h);
}
END_TEST

START_TEST(hypernetwork_is_the_same_for_a_seed_and_any_threads)
{
    double z[2][N_LOGITS];
    float *g = NULL;
    for (int i = 0; i < 2; i++) {
        bb_hyper *h = NULL;
        omp_set_num_threads(1 + 2 * i);
        ck_assert_int_eq(bb_hyper_create(lengths, N_MASKS, 3, &h, NULL), BB_OK);
        const bb_param p = bb_hyper_param(h, 0);
        bb_hyper_forward(h, z[i]);
        bb_hyper_backward(h, z[i]);
        if (!g) g = memcpy(BB_NEW(p.n, float, NULL), p.g, p.n * sizeof *g);
        else ck_assert_mem_eq(g, p.g, p.n * sizeof *g);
        bb_hyper_destroy(h);
    }
    omp_set_num_threads(1);
    ck_assert_mem_eq(z[0], z[1], sizeof *z);
    ck_assert(z[0][0] < z[0][1] || z[0][0] > z[0][1]);
    bb_free(g);
}
END_TEST

/* ---- two parts ---- */

enum { ROWS = 40, COLS = 150 };

typedef struct scene {
    float         w[ROWS * COLS], h[COLS * COLS];
    unsigned char high[COLS];
    bb_hessian    moments;
} scene;

/* Inputs that are strongly correlated: a few causes, and noise. */
static scene *make_scene(void)
{
    scene *s = BB_NEW0(1, scene, NULL);
    float *x = BB_NEW(4 * COLS * COLS, float, NULL), cause[6];
    bb_rng r;
    bb_rng_init(&r, 9, "two parts");
    for (int t = 0; t < 4 * COLS; t++) {
        for (int k = 0; k < 6; k++) cause[k] = (float)bb_rng_normal(&r);
        for (int i = 0; i < COLS; i++) x[t * COLS + i] = cause[i % 6] + 0.3f * (float)bb_rng_normal(&r);
    }
    for (int i = 0; i < COLS; i++)
        for (int j = 0; j < COLS; j++)
            for (int t = 0; t < 4 * COLS; t++) s->h[i * COLS + j] += x[t * COLS + i] * x[t * COLS + j] / (4 * COLS);
    for (int i = 0; i < ROWS * COLS; i++) s->w[i] = (float)bb_rng_normal(&r);
    for (int i = 0; i < COLS; i++) s->high[i] = i % 5 == 2;
    s->moments = (bb_hessian) { .n_cols = COLS, .n_tokens = 4 * COLS, .h = s->h };
    bb_free(x);
    return s;
}

static const bb_quant_options options = { BB_METHOD_FEEDBACK, 0.01, 4 };

static double error_of(const scene *s, const bb_two_part *t)
{
    float *q = BB_NEW0(ROWS * COLS, float, NULL);
    double sum = 0;
    bb_two_part_decode(t, q, COLS);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < COLS; i++)
            for (int j = 0; j < COLS; j++)
                sum += (double)(q[r * COLS + i] - s->w[r * COLS + i]) * (double)s->h[i * COLS + j] * (double)(q[r * COLS + j] - s->w[r * COLS + j]);
    bb_free(q);
    return sum;
}

START_TEST(matrix_in_two_precisions_is_read_back_from_its_bytes)
{
    static const bb_type types[][2] = { { BB_Q1_0, BB_Q4_0 }, { BB_Q2_0, BB_Q8_0 }, { BB_IQ2_NL, BB_IQ4_NL }, { BB_IQ3_NL, BB_Q4_0 } };
    static const size_t  row[] = { 2 + 15 + 2 + 15, 2 * 2 + 30 + 2 + 30, 4 * 2 + 30 + 2 + 15, 4 * 2 + 45 + 2 + 15 }; /* 120 low columns, 30 high ones */
    scene               *s = make_scene();
    bb_err               err = BB_ERR_INIT;
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        bb_two_part    t, back;
        float          w[ROWS * COLS], again[ROWS * COLS];
        unsigned char *bytes;
        ck_assert_msg(bb_two_part_quantize(s->w, ROWS, COLS, s->high, &s->moments, types[k][0], types[k][1], &options, &t, &err) == BB_OK, "%s", err.msg);
        ck_assert_uint_eq(bb_two_part_bytes(&t), (COLS + 7) / 8 + ROWS * row[k]);
        bytes = BB_NEW(bb_two_part_bytes(&t), unsigned char, NULL);
        bb_two_part_write(&t, bytes);
        ck_assert_msg(bb_two_part_read(bytes, bb_two_part_bytes(&t), ROWS, COLS, true, types[k][0], types[k][1], &back, &err) == BB_OK, "%s", err.msg);
        bb_two_part_decode(&t, w, COLS);
        bb_two_part_decode(&back, again, COLS);
        ck_assert_mem_eq(w, again, sizeof w);
        bb_two_part_done(&back);
        bytes[0] ^= 1; /* another column is high: other bytes */
        ck_assert_int_eq(bb_two_part_read(bytes, bb_two_part_bytes(&t), ROWS, COLS, true, types[k][0], types[k][1], &back, &err), BB_BAD_FILE);
        bb_err_clear(&err);
        bb_free(bytes);
        bb_two_part_done(&t);
    }
    bb_free(s);
}
END_TEST

START_TEST(high_part_makes_up_for_the_low_one)
{
    scene         *s = make_scene();
    bb_two_part    together, low, alone;
    unsigned char *none = BB_NEW0(COLS, unsigned char, NULL);
    double         apart;
    bb_hessian     diagonal = { .n_cols = COLS, .n_tokens = 1, .h = BB_NEW0(COLS * COLS, float, NULL) };
    for (int i = 0; i < COLS; i++) diagonal.h[i * COLS + i] = s->h[i * COLS + i];
    ck_assert_int_eq(bb_two_part_quantize(s->w, ROWS, COLS, s->high, &s->moments, BB_Q1_0, BB_Q4_0, &options, &together, NULL), BB_OK);
    ck_assert_int_eq(bb_two_part_quantize(s->w, ROWS, COLS, s->high, &diagonal, BB_Q1_0, BB_Q4_0, &options, &alone, NULL), BB_OK);
    ck_assert_int_eq(bb_two_part_quantize(s->w, ROWS, COLS, none, &s->moments, BB_Q1_0, BB_Q4_0, &options, &low, NULL), BB_OK);
    apart = error_of(s, &alone);
    ck_assert_double_lt(error_of(s, &together), 0.2 * apart);
    ck_assert_double_lt(error_of(s, &together), error_of(s, &low));
    bb_two_part_done(&together);
    bb_two_part_done(&low);
    bb_two_part_done(&alone);
    bb_hessian_done(&diagonal);
    bb_free(none);
    bb_free(s);
}
END_TEST

/* One precision, whole blocks: the bytes and the numbers are those of the format's own rows. */
START_TEST(matrix_of_one_precision_is_that_of_the_format)
{
    scene        *s = make_scene();
    bb_two_part   t;
    unsigned char own[ROWS * 128 / 32 * 18];
    float         w[ROWS * 128], q[ROWS * 128], decoded[128];
    for (int r = 0; r < ROWS; r++) memcpy(w + r * 128, s->w + r * COLS, 128 * sizeof *w);
    ck_assert_int_eq(bb_two_part_quantize(w, ROWS, 128, NULL, NULL, BB_Q4_0, BB_Q4_0, &options, &t, NULL), BB_OK);
    ck_assert_uint_eq(bb_two_part_bytes(&t), sizeof own);
    ck_assert_int_eq(bb_quantize(w, ROWS, 128, NULL, BB_Q4_0, &options, own, NULL, NULL), BB_OK);
    ck_assert_mem_eq(own, t.packed[BB_LOW], sizeof own);
    bb_two_part_decode(&t, q, 128);
    bb_format_get(BB_Q4_0)->decode(own, decoded, 128);
    ck_assert_mem_eq(q, decoded, sizeof decoded);
    bb_two_part_done(&t);
    bb_free(s);
}
END_TEST

START_TEST(formats_with_scales_of_their_own_are_no_parts)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_part_format_check(BB_Q4_K, &err), BB_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "Q1_0"));
    ck_assert_ptr_null(strstr(err.msg, "IQ3_S"));
    bb_err_clear(&err);
    ck_assert_int_eq(bb_part_format_check(BB_F16, &err), BB_UNSUPPORTED);
    bb_err_clear(&err);
    ck_assert_uint_eq(bb_part_row_bytes(BB_Q1_0, 0), 0);
    ck_assert_uint_eq(bb_part_row_bytes(BB_Q1_0, 129), 4 + 17);
    ck_assert_uint_eq(bb_part_row_bytes(BB_Q8_0, 33), 4 + 33);
}
END_TEST

/* ---- learning ---- */

enum { T = 9, WINDOWS = 2, TEXT = 200 };
static int32_t text[TEXT];

static bb_toga_options learning(uint32_t steps)
{
    return (bb_toga_options) { .pruning = BB_PRUNE_ALL,
                               .mixed = true,
                               .low = BB_Q1_0,
                               .high = BB_Q4_0,
                               .budget = 4000,
                               .steps = steps,
                               .ctx = T,
                               .batch = WINDOWS,
                               .rate = 1e-3,
                               .decay = 0.05,
                               .lambda = 6,
                               .seed = 5,
                               .save_every = 4 };
}

static bb_toga *learner(const bb_net *net, const bb_toga_options *o)
{
    bb_toga_text t = { text, TEXT, -1 };
    bb_toga     *toga;
    bb_err       err = BB_ERR_INIT;
    uint64_t     seed = 9;
    for (size_t i = 0; i < TEXT; i++) text[i] = (int32_t)((1 + ref_noise(&seed)) / 2 * net->n_vocab);
    ck_assert_msg(bb_toga_create(&bb_backend_cpu, net, &t, o, &toga, &err) == BB_OK, "%s", err.msg);
    return toga;
}

/* Mean loss of the windows at the beginning of the text, by definition. */
static double loss_by_definition(const bb_net *net, const bb_net *full)
{
    const size_t V = net->n_vocab;
    double      *z = BB_NEW(2 * T * V, double, NULL), *whole = z + T * V, total = 0;
    for (size_t s = 0; s < WINDOWS; s++) {
        ref_run(net, text + s * T, T, z);
        if (full) ref_run(full, text + s * T, T, whole);
        for (size_t t = 0; t < T; t++)
            total += full ? ref_kl(whole + t * V, z + t * V, V) : ref_log_sum_exp(z + t * V, V) - z[t * V + (size_t)text[s * T + t + 1]];
    }
    bb_free(z);
    return total / (WINDOWS * T);
}

/* Values between zero and one: the loss is smooth in them. Which specs: plain, biases, pruned blocks, norms of outputs. */
START_TEST(gradient_of_masks_is_that_of_differences)
{
    static const size_t which[] = { 0, 1, 7, 15 };
    ref_model           m;
    bb_toga_options     o = learning(1);
    double              loss, largest = 0, worst = 0;
    o.kl = _i % 2;
    ref_model_make(&ref_specs[which[_i]], 3, &m);
    bb_toga     *t = learner(&m.net, &o);
    const size_t n = bb_toga_channels(t)->n;
    float       *value = BB_NEW(n, float, NULL);
    double      *g = BB_NEW(2 * n, double, NULL), *unused = g + n;
    uint64_t     seed = 1;
    for (size_t i = 0; i < n; i++) value[i] = 0.75f + 0.25f * (float)ref_noise(&seed);
    ck_assert_int_eq(bb_toga_gradient(t, value, text, text + 1, WINDOWS, &loss, g, NULL), BB_OK);
    ck_assert_double_eq_tol(loss, loss_by_definition(bb_toga_net(t), o.kl ? &m.net : NULL), 1e-5);
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(g[i]));
    for (size_t i = 0; i < n; i += 5) {
        const float kept = value[i], up = kept + 4e-3f, down = kept - 4e-3f;
        double      above;
        value[i] = up;
        ck_assert_int_eq(bb_toga_gradient(t, value, text, text + 1, WINDOWS, &loss, unused, NULL), BB_OK);
        above = loss_by_definition(bb_toga_net(t), o.kl ? &m.net : NULL);
        value[i] = down;
        ck_assert_int_eq(bb_toga_gradient(t, value, text, text + 1, WINDOWS, &loss, unused, NULL), BB_OK);
        above -= loss_by_definition(bb_toga_net(t), o.kl ? &m.net : NULL);
        value[i] = kept;
        worst = fmax(worst, fabs(above / ((double)up - (double)down) - g[i]));
    }
    ck_assert_double_lt(worst, 2e-4 * largest);
    bb_toga_destroy(t);
    ref_model_free(&m);
    bb_free(value);
    bb_free(g);
}
END_TEST

/* Fails at each allocation in turn: nothing leaks, and the answer is BB_NOMEM. */
START_TEST(running_out_of_memory_is_survived)
{
    ref_model       m;
    bb_toga_options o = learning(1);
    bb_toga_text    t = { text, TEXT, -1 };
    bool            done = false;
    o.kl = true;
    ref_model_make(&ref_specs[0], 3, &m);
    for (long n = 0; !done && n < 1000; n++) {
        const size_t before = bb_mem_live_bytes();
        bb_toga     *toga = NULL;
        bb_channels  c = { 0 };
        bb_mem_fail_after(n);
        bb_status status = bb_toga_create(&bb_backend_cpu, &m.net, &t, &o, &toga, NULL);
        if (status == BB_OK) status = bb_channels_create(&m.net, o.pruning, o.mixed, &c, NULL);
        if (status == BB_OK) status = bb_toga_run(toga, NULL, NULL, NULL);
        if (status == BB_OK) status = bb_toga_freeze(toga, &c, NULL);
        bb_mem_fail_after(-1);
        ck_assert_msg(status == BB_OK || status == BB_NOMEM, "allocation %ld: %d", n, (int)status);
        bb_toga_destroy(toga);
        bb_channels_done(&c);
        ck_assert_msg(bb_mem_live_bytes() == before, "allocation %ld leaks", n);
        done = status == BB_OK;
    }
    ck_assert(done);
    ref_model_free(&m);
}
END_TEST

START_TEST(bytes_and_their_gradient)
{
    ref_model       m;
    bb_toga_options o = learning(1);
    double          bytes, kept, b[2], k[2];
    ref_model_make(&ref_specs[0], 3, &m);
    bb_toga     *t = learner(&m.net, &o);
    const size_t n = bb_toga_channels(t)->n;
    float       *value = BB_NEW(n, float, NULL);
    double      *g = BB_NEW0(n, double, NULL), weights = 0;
    uint64_t     seed = 1;
    for (int p = 0; p < BB_N_PARTS; p++) weights += 2.0 * m.net.blocks[0].w[p].rows * m.net.blocks[0].w[p].cols;
    for (size_t i = 0; i < n; i++) value[i] = 1;
    bb_toga_bytes(t, value, &bytes, &kept, 0, 0, NULL);
    ck_assert_double_eq_tol(bytes, weights * 4.5 / 8, 1e-6);
    ck_assert_double_eq_tol(kept, 1, 1e-12);
    for (size_t i = 0; i < n; i++) value[i] = 0.5f + 0.5f * (float)ref_noise(&seed);
    bb_toga_bytes(t, value, &bytes, &kept, 1, 3000, g);
    for (size_t i = 0; i < n; i++) {
        const float old = value[i];
        for (int s = 0; s < 2; s++) {
            value[i] = old + (s ? -0.125f : 0.125f); /* linear in each: any step is right */
            bb_toga_bytes(t, value, &b[s], &k[s], 0, 0, NULL);
        }
        const double step = (double)(old + 0.125f) - (double)(old - 0.125f);
        value[i] = old;
        ck_assert_double_eq_tol((b[0] - b[1] + 3000 * (k[0] - k[1])) / step, g[i], 1e-7 * bytes);
    }
    bb_toga_destroy(t);
    ref_model_free(&m);
    bb_free(value);
    bb_free(g);
}
END_TEST

static void frozen(bb_toga *t, const bb_net *net, const bb_toga_options *o, bb_channels *c)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_channels_create(net, o->pruning, o->mixed, c, NULL), BB_OK);
    ck_assert_msg(bb_toga_freeze(t, c, &err) == BB_OK, "%s", err.msg);
}

static void tell(void *self, const bb_toga_step *s) { ((bb_toga_step *)self)[s->step - 1] = *s; }

START_TEST(training_comes_to_the_budget_and_freezing_keeps_it)
{
    enum { STEPS = 150 };
    static bb_toga_step steps[STEPS];
    ref_model           m;
    bb_toga_options     o = learning(STEPS);
    bb_channels         c;
    o.rate = 1e-2;
    ref_model_make(&ref_specs[0], 3, &m);
    bb_toga *t = learner(&m.net, &o);
    ck_assert_int_eq(bb_channels_create(&m.net, o.pruning, o.mixed, &c, NULL), BB_OK);
    const uint64_t all = bb_channels_bytes(&c, &m.net, o.low, o.high);
    bb_channels_done(&c);
    bb_toga_destroy(t);
    o.budget = all * 2 / 5;
    t = learner(&m.net, &o);
    ck_assert_int_eq(bb_toga_run(t, tell, steps, NULL), BB_OK);
    double bytes = 0;
    for (int i = STEPS - 20; i < STEPS; i++) bytes += steps[i].bytes / 20;
    ck_assert_double_gt(steps[0].bytes, 0.9 * (double)all * 0.9);
    ck_assert_double_eq_tol(bytes, (double)o.budget, 0.15 * (double)o.budget);
    frozen(t, &m.net, &o, &c);
    ck_assert_uint_le(bb_channels_bytes(&c, &m.net, o.low, o.high), o.budget);
    ck_assert_uint_ge(bb_channels_bytes(&c, &m.net, o.low, o.high), o.budget * 9 / 10);
    for (uint32_t l = 0; l < m.net.n_layer; l++)
        for (int k = 0; k < BB_N_PRUNING; k++) ck_assert_uint_gt(bb_channels_count(&c, l, k), 0);
    bb_channels_done(&c);
    bb_toga_destroy(t);
    o.rounded = 8;
    o.steps = 20;
    t = learner(&m.net, &o);
    ck_assert_int_eq(bb_toga_run(t, NULL, NULL, NULL), BB_OK);
    frozen(t, &m.net, &o, &c);
    ck_assert_uint_le(bb_channels_bytes(&c, &m.net, o.low, o.high), o.budget);
    for (uint32_t l = 0; l < m.net.n_layer; l++) ck_assert_uint_eq(bb_channels_count(&c, l, BB_MASK_CHANNELS) % 8, 0);
    bb_channels_done(&c);
    bb_toga_destroy(t);
    o.budget = 100;
    bb_toga_text given = { text, TEXT, -1 };
    ck_assert_int_eq(bb_toga_create(&bb_backend_cpu, &m.net, &given, &o, &t, NULL), BB_INFEASIBLE);
    ref_model_free(&m);
}
END_TEST

/* At the least that masks can have, every layer keeps `rounded` channels, and all of them where it has fewer. */
START_TEST(the_smallest_masks_keep_a_whole_number)
{
    const uint32_t     rounded[] = { 1, 8, 24, 1000 };
    ref_model          m;
    bb_toga_text       given = { text, TEXT, -1 };
    unsigned long long before = 0;
    ref_model_make(&ref_specs[0], 3, &m);
    for (size_t i = 0; i < sizeof rounded / sizeof *rounded; i++) {
        bb_toga_options    o = learning(1);
        bb_toga           *t;
        bb_channels        c;
        bb_err             err = BB_ERR_INIT;
        unsigned long long least = 0;
        o.rounded = rounded[i];
        o.budget = 1;
        ck_assert_int_eq(bb_toga_create(&bb_backend_cpu, &m.net, &given, &o, &t, &err), BB_INFEASIBLE);
        ck_assert_msg(sscanf(err.msg, "the linears have no less than %llu bytes", &least) == 1, "%s", err.msg);
        ck_assert_uint_gt(least, before);
        before = o.budget = least;
        t = learner(&m.net, &o);
        frozen(t, &m.net, &o, &c);
        ck_assert_uint_eq(bb_channels_bytes(&c, &m.net, o.low, o.high), least);
        for (uint32_t l = 0; l < m.net.n_layer; l++) {
            const uint32_t all = m.net.blocks[l].n_ff;
            ck_assert_uint_eq(bb_channels_count(&c, l, BB_MASK_CHANNELS), rounded[i] < all ? rounded[i] : all);
        }
        bb_channels_done(&c);
        bb_toga_destroy(t);
    }
    ref_model_free(&m);
}
END_TEST

/* Makes every logit of the learner that saved this state what `value` says, up to a factor: the norm gives ones to all, and a row of the last matrix is one number. */
static void set_logits(const char *path, const float *value, size_t n)
{
    enum { HEAD = 72 + sizeof(uint64_t), SUM = 64, OUT = BB_HYPER_OUT };
    char     *bytes, sum[65];
    size_t    size;
    bb_sha256 s;
    ck_assert_int_eq(bb_file_read(path, &bytes, &size, NULL), BB_OK);
    const size_t n_weights = (size - HEAD - SUM) / (3 * sizeof(float)); /* and two moments */
    float       *w = (float *)(void *)(bytes + HEAD) + n_weights - (n + 2) * OUT;
    for (int i = 0; i < OUT; i++) w[i] = 0; /* gain and bias */
    for (int i = 0; i < OUT; i++) w[OUT + i] = 1;
    for (size_t i = 0; i < n * OUT; i++) w[2 * OUT + i] = value[i / OUT];
    bb_sha256_init(&s);
    bb_sha256_update(&s, bytes, size - SUM);
    bb_sha256_hex(&s, sum);
    memcpy(bytes + size - SUM, sum, SUM);
    ck_assert_int_eq(bb_file_write(path, bytes, size, NULL), BB_OK);
    bb_free(bytes);
}

/* Where a whole number of channels is kept, none that stays has a lower logit than one that goes, also where many are equal. */
START_TEST(of_equal_channels_none_goes_before_a_lower_one)
{
    enum { ROUNDED = 7 };
    ref_model       m;
    bb_channels     c;
    bb_toga_options o = learning(1);
    char            path[600];
    ref_model_make(&ref_specs[0], 3, &m);
    snprintf(path, sizeof path, "%s", bb_test_path("ties.state"));
    o.state = path;
    o.rounded = ROUNDED;
    o.budget = 1 << 30;
    bb_toga *t = learner(&m.net, &o);
    ck_assert_int_eq(bb_toga_run(t, NULL, NULL, NULL), BB_OK);
    const bb_channels *of = bb_toga_channels(t);
    float             *value = BB_NEW(of->n, float, NULL);
    for (size_t i = 0; i < of->n; i++) value[i] = i % 3 == 2 ? 2 : 1;
    set_logits(path, value, of->n);
    bb_toga_destroy(t);
    t = learner(&m.net, &o);
    ck_assert_int_eq(bb_toga_run(t, NULL, NULL, NULL), BB_OK);
    frozen(t, &m.net, &o, &c);
    for (uint32_t l = 0; l < m.net.n_layer; l++) {
        const size_t k = (size_t)l * BB_N_CHANNEL_MASKS + BB_MASK_CHANNELS, n = c.length[k];
        ck_assert(n % ROUNDED != 0);
        ck_assert_uint_eq(bb_channels_count(&c, l, BB_MASK_CHANNELS), n / ROUNDED * ROUNDED);
        for (size_t i = c.at[k]; i < c.at[k] + n; i++) ck_assert_msg(c.on[i] || value[i] < 2, "channel %zu of block %u", i - c.at[k], l);
    }
    bb_channels_done(&c);
    bb_toga_destroy(t);
    bb_free(value);
    ref_model_free(&m);
}
END_TEST

static void interrupt(void *self, const bb_toga_step *s)
{
    if (s->step == *(uint32_t *)self) bb_interrupt_raise();
}

/* The state of a network with the same linears, and another norm, output norm or embedding, is none of this one's. */
static void check_other_network(const bb_net *net, const bb_toga_options *o, int k)
{
    const size_t C = net->n_embd, bytes = net->embd.rows * bb_format_row_bytes(bb_format_get(net->embd.type), net->embd.cols);
    bb_net       other = *net;
    bb_block    *blocks = malloc(net->n_layer * sizeof *blocks);
    float       *norm = malloc(C * sizeof *norm);
    char        *embd = malloc(bytes);
    memcpy(blocks, net->blocks, net->n_layer * sizeof *blocks);
    memcpy(norm, k == 1 ? net->out_norm : net->blocks[0].norm[0], C * sizeof *norm);
    memcpy(embd, net->embd.data, bytes);
    norm[C / 2] += 0.5F;
    embd[bytes - 1] ^= 1;
    other.blocks = blocks;
    if (k == 0) blocks[0].norm[0] = norm;
    if (k == 1) other.out_norm = norm;
    if (k == 2) other.embd.data = embd;
    bb_toga *t = learner(&other, o);
    ck_assert_int_eq(bb_toga_run(t, NULL, NULL, NULL), k == 3 ? BB_OK : BB_BAD_FILE); /* the last is as it was */
    bb_toga_destroy(t);
    free(blocks);
    free(norm);
    free(embd);
}

START_TEST(masks_are_the_same_for_any_threads_and_after_an_interruption)
{
    ref_model       m;
    bb_toga_options o = learning(11), apart = learning(11);
    bb_channels     one, two;
    uint32_t        when = 6;
    bb_err          err = BB_ERR_INIT;
    char            path[512];
    snprintf(path, sizeof path, "%s", bb_test_path("toga.state"));
    ref_model_make(&ref_specs[0], 3, &m);
    o.rate = apart.rate = 1e-2;
    apart.state = path;
    omp_set_num_threads(3);
    bb_toga *a = learner(&m.net, &o);
    ck_assert_int_eq(bb_toga_run(a, NULL, NULL, NULL), BB_OK);
    frozen(a, &m.net, &o, &one);
    omp_set_num_threads(1);
    bb_toga *b = learner(&m.net, &apart);
    ck_assert_int_eq(bb_toga_run(b, interrupt, &when, NULL), BB_INTERRUPTED);
    bb_interrupt_clear();
    bb_toga_destroy(b);
    b = learner(&m.net, &apart);
    ck_assert_int_eq(bb_toga_run(b, NULL, NULL, NULL), BB_OK);
    frozen(b, &m.net, &o, &two);
    ck_assert_mem_eq(one.on, two.on, one.n);
    bb_toga_destroy(b);
    apart.lambda = 5; /* another training's state */
    b = learner(&m.net, &apart);
    ck_assert_int_eq(bb_toga_run(b, NULL, NULL, &err), BB_BAD_FILE);
    bb_channels_done(&one);
    bb_channels_done(&two);
    bb_toga_destroy(a);
    bb_toga_destroy(b);
    apart.lambda = 6;
    for (int k = 0; k < 4; k++) check_other_network(&m.net, &apart, k);
    ref_model_free(&m);
}
END_TEST

START_TEST(what_cannot_be_learned_is_refused)
{
    ref_model    m;
    bb_toga_text t = { text, TEXT, -1 };
    bb_toga     *toga;
    bb_err       err = BB_ERR_INIT;
    ref_model_make(&ref_specs[0], 3, &m);
    bb_toga_options o = learning(3);
    o.pruning = BB_PRUNE_NOTHING;
    o.mixed = false;
    ck_assert_int_eq(bb_toga_create(&bb_backend_cpu, &m.net, &t, &o, &toga, &err), BB_USAGE);
    bb_err_clear(&err);
    o = learning(3);
    o.low = BB_Q8_0;
    ck_assert_int_eq(bb_toga_create(&bb_backend_cpu, &m.net, &t, &o, &toga, &err), BB_USAGE);
    bb_err_clear(&err);
    o = learning(3);
    o.high = BB_Q6_K;
    ck_assert_int_eq(bb_toga_create(&bb_backend_cpu, &m.net, &t, &o, &toga, &err), BB_UNSUPPORTED);
    bb_err_clear(&err);
    t.n = T;
    o = learning(3);
    ck_assert_int_eq(bb_toga_create(&bb_backend_cpu, &m.net, &t, &o, &toga, &err), BB_BAD_FILE);
    ref_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("channels");
    TCase *t = tcase_create("masks");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, gradient_of_hypernetwork_is_that_of_differences);
    tcase_add_test(t, hypernetwork_is_the_same_for_a_seed_and_any_threads);
    tcase_add_test(t, matrix_in_two_precisions_is_read_back_from_its_bytes);
    tcase_add_test(t, high_part_makes_up_for_the_low_one);
    tcase_add_test(t, matrix_of_one_precision_is_that_of_the_format);
    tcase_add_test(t, formats_with_scales_of_their_own_are_no_parts);
    tcase_add_loop_test(t, gradient_of_masks_is_that_of_differences, 0, 4);
    tcase_add_test(t, running_out_of_memory_is_survived);
    tcase_add_test(t, bytes_and_their_gradient);
    tcase_add_test(t, training_comes_to_the_budget_and_freezing_keeps_it);
    tcase_add_test(t, the_smallest_masks_keep_a_whole_number);
    tcase_add_test(t, of_equal_channels_none_goes_before_a_lower_one);
    tcase_add_test(t, masks_are_the_same_for_any_threads_and_after_an_interruption);
    tcase_add_test(t, what_cannot_be_learned_is_refused);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
