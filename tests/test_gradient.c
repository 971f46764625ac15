/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_gradient.c: derivatives of the KL by matrices, biases and tables of every architecture against differences of the float64 oracle; the curvature where it is
 * exact; what options, counts and dropped sublayers of a plan do, against differences along the line to them; what must change no bit. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "eval/gradient.h"
#include "eval/slopes.h"
#include "model/compress/statistics.h"
#include "tests/support/guarded.h"
#include "tests/support/ref_net.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

/* ---- the KL by the oracle ---- */

/* Mean KL of net to ref over the scored positions. */
static double oracle_kl(const bb_net *ref, const bb_net *net, const bb_windows *w)
{
    const size_t V = net->n_vocab;
    double      *a = BB_NEW(w->ctx * V, double, NULL), *b = BB_NEW(w->ctx * V, double, NULL), sum = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        ref_run(ref, w->tokens + (size_t)i * w->ctx, w->ctx, a);
        ref_run(net, w->tokens + (size_t)i * w->ctx, w->ctx, b);
        for (uint32_t t = w->first; t < w->first + w->n_scored; t++) sum += ref_kl(a + t * V, b + t * V, V);
    }
    bb_free(a);
    bb_free(b);
    return sum / ((double)w->n * w->n_scored);
}

static void make_windows(uint32_t n_vocab, uint32_t ctx, uint32_t n, bool same, bb_windows *w)
{
    bb_rng   rng;
    int32_t *ids = BB_NEW((size_t)n * ctx, int32_t, NULL);
    bb_rng_init(&rng, 3, "tokens");
    for (size_t i = 0; i < (size_t)n * ctx; i++) ids[i] = same ? 5 : (int32_t)bb_rng_below(&rng, n_vocab);
    const bb_tokens t = { ids, (size_t)n * ctx, "", NULL };
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_GGUF, ctx, -1, n, false, w, NULL), BB_OK);
    bb_free(ids);
}

/* Every matrix as float32 that may be written. */
static void as_floats(ref_model *m, bb_matrix *w)
{
    if (w->rows == 0) return;
    uint64_t unused = 1;
    float   *copy = ref_random(m, (size_t)w->rows * w->cols, 0, 0, &unused), *decoded = bb_matrix_decode(w, NULL);
    memcpy(copy, decoded, (size_t)w->rows * w->cols * sizeof *copy);
    bb_free(decoded);
    w->type = BB_F32;
    w->data = copy;
}

static void all_as_floats(ref_model *m)
{
    as_floats(m, &m->net.embd);
    as_floats(m, &m->net.head);
    for (uint32_t i = 0; i < m->net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) as_floats(m, &m->net.blocks[i].w[p]);
}

/* ---- first order ---- */

typedef struct scene {
    ref_model         ref, m;
    bb_model          model; /* around ref's net */
    bb_windows        w;
    bb_net_evaluator *e;
    uint32_t          seen;
    double            worst;
    uint64_t          seed;
} scene;

static void open_scene(scene *s, const ref_spec *spec, uint32_t ctx, uint32_t n, bool same, uint64_t seed)
{
    *s = (scene) { .seed = 9 };
    ref_model_make(spec, 3, &s->ref);
    ref_model_make(spec, seed, &s->m);
    all_as_floats(&s->m);
    s->m.net.rope_factors = s->ref.net.rope_factors; /* the same architecture */
    s->m.net.rope_long = s->ref.net.rope_long;
    s->model = (bb_model) { .net = s->ref.net };
    make_windows(spec->n_vocab, ctx, n, same, &s->w);
    ck_assert_int_eq(bb_net_evaluator_create(&bb_backend_cpu, &s->model, &s->w, 1, 64u << 20, &s->e, NULL), BB_OK);
}

static void close_scene(scene *s)
{
    bb_net_evaluator_destroy(s->e);
    bb_windows_done(&s->w);
    ref_model_free(&s->ref);
    ref_model_free(&s->m);
}

/* dL along a random direction at x (n numbers, gradient g) by central differences, relative to the length of the gradient's part that a random
 * direction sees. */
static void check_direction(scene *s, const char *what, const float *at, size_t n, const float *g)
{
    const double STEP = 1e-4, ALLOWED = 2e-4;
    float       *x = (float *)(uintptr_t)at, *was = BB_NEW(n, float, NULL);
    double       predicted = 0, length = 0, plus, minus;
    float       *step = BB_NEW(n, float, NULL);
    memcpy(was, x, n * sizeof *x);
    for (size_t i = 0; i < n; i++) step[i] = (float)(STEP * ref_noise(&s->seed));
    for (size_t i = 0; i < n; i++) x[i] = was[i] + step[i];
    plus = oracle_kl(&s->ref.net, &s->m.net, &s->w);
    for (size_t i = 0; i < n; i++) {
        const double span = (double)x[i];
        x[i] = was[i] - step[i];
        predicted += (double)g[i] * (span - (double)x[i]);
        length += pow((double)g[i] * (span - (double)x[i]), 2);
    }
    minus = oracle_kl(&s->ref.net, &s->m.net, &s->w);
    memcpy(x, was, n * sizeof *x);
    ck_assert_msg(length > 0, "%s", what);
    s->worst = fmax(s->worst, fabs(plus - minus - predicted) / sqrt(length));
    ck_assert_msg(fabs(plus - minus - predicted) <= ALLOWED * sqrt(length), "%s: %.8g, by differences %.8g (length %.3g)", what, predicted, plus - minus,
                  sqrt(length));
    s->seen++;
    bb_free(was);
    bb_free(step);
}

static bb_status check_block(void *self, uint32_t layer, const bb_block *block, const bb_matrix_gradient *part, bb_err *err)
{
    scene *s = self;
    (void)err;
    ck_assert(bb_block_same(block, &s->m.net.blocks[layer]));
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bb_matrix *w = &block->w[p];
        ck_assert_uint_eq(part[p].rows, w->rows);
        if (w->rows == 0) continue;
        ck_assert(!part[p].in && !part[p].out);
        check_direction(s, bb_parts[p].name, w->data, (size_t)w->rows * w->cols, part[p].dw);
        /* A key's bias moves every score of a query by the same: without RoPE that is nothing. */
        if (w->bias && (bb_part)p != BB_PART_K) check_direction(s, "bias", w->bias, w->rows, part[p].db);
    }
    return BB_OK;
}

/* The table of what tokens give to blocks: those rows that this block reads. */
static bb_status check_token(void *self, uint32_t layer, const bb_token_gradient *t, bb_err *err)
{
    scene           *s = self;
    const bb_matrix *w = &s->m.net.token.table;
    float           *dw = BB_NEW0((size_t)w->rows * w->cols, float, err);
    ck_assert(t->cols == w->cols && t->n == (size_t)s->w.n * s->w.ctx && !t->out);
    for (size_t i = 0; i < t->n * t->cols; i++) {
        ck_assert_uint_eq((uint32_t)t->ids[i / t->cols] % s->m.net.n_layer, layer);
        dw[(size_t)t->ids[i / t->cols] * t->cols + i % t->cols] += t->d[i];
    }
    for (uint32_t row = layer; row < w->rows; row += s->m.net.n_layer) { /* alone: other blocks have theirs */
        const float *x = (const float *)w->data + (size_t)row * w->cols, *g = dw + (size_t)row * w->cols;
        bool         any = false;
        for (size_t i = 0; i < w->cols; i++) any |= g[i] != 0;
        if (any) check_direction(s, "table", x, w->cols, g);
        s->seen -= any;
    }
    s->seen++;
    bb_free(dw);
    return BB_OK;
}

static bb_status check_table(void *self, bool head, const bb_table_gradient *t, bb_err *err)
{
    scene           *s = self;
    const bb_matrix *w = head ? &s->m.net.head : &s->m.net.embd;
    (void)err;
    check_direction(s, head ? "head" : "embedding", w->data, (size_t)w->rows * w->cols, t->dw);
    return BB_OK;
}

START_TEST(gradients_of_the_kl_agree_with_differences)
{
    scene               s;
    bb_evaluation       v;
    bb_err              err = BB_ERR_INIT;
    bb_gradient_visitor visitor = { .self = &s, .block = check_block, .table = check_table, .token = check_token };
    uint32_t            wanted = 0;
    open_scene(&s, &ref_specs[_i], 9, 2, false, 4);
    const bb_gradient_options o = { .windows = &s.w, .widest = &s.m.net, .seed = 1 };
    ck_assert_msg(bb_gradient_run(s.e, &s.m.net, &o, &visitor, &v, &err) == BB_OK, "%s", err.msg);
    const double kl = oracle_kl(&s.ref.net, &s.m.net, &s.w);
    ck_assert_msg(fabs(v.kl - kl) < 1e-5 * kl, "%s", ref_specs[_i].name);
    ck_assert(v.n_forwarded == 3.0 * 2 * 9);
    for (uint32_t i = 0; i < s.m.net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) wanted += s.m.net.blocks[i].w[p].rows > 0;
    ck_assert_uint_ge(s.seen, wanted + 1);
    close_scene(&s);
}
END_TEST

/* ---- curvature ---- */

/* At the reference itself KL's second derivative is the Gauss-Newton term, and with one token everywhere and no attention inputs, gradients and
 * positions are independent: the factors are exact but for the drawing of labels. */
static const ref_shape one_ffn[] = { { 0, 0, 24 }, { 0, 0, 16 } };
static const ref_spec  ffn_spec = { "ffn", "deci", 12, 16, 2, 8, 8, false, true, false, false, true, 1, BB_F32, one_ffn };

/* 1/2 d2L along a change, from both sides; L is 0 in the middle. */
static double half_curvature(scene *s, const float *at, size_t n, const float *d, const float *bias, size_t n_bias, const float *b)
{
    const double STEP = 1e-2;
    float       *x = (float *)(uintptr_t)at, *y = (float *)(uintptr_t)bias;
    double       sum = 0;
    for (int side = -1; side <= 1; side += 2) {
        for (size_t i = 0; i < n; i++) x[i] += (float)(side * STEP) * d[i];
        for (size_t i = 0; b && i < n_bias; i++) y[i] += (float)(side * STEP) * b[i];
        const bb_windows one = { s->w.ctx, 1, s->w.first, s->w.n_scored, s->w.tokens, s->w.targets };
        sum += oracle_kl(&s->ref.net, &s->m.net, &one);
        for (size_t i = 0; i < n; i++) x[i] -= (float)(side * STEP) * d[i];
        for (size_t i = 0; b && i < n_bias; i++) y[i] -= (float)(side * STEP) * b[i];
    }
    return sum / 2 / (STEP * STEP);
}

static void check_curvature(scene *s, const char *what, double is, double wanted)
{
    s->seen++;
    ck_assert_msg(wanted > 0 && fabs(is / wanted - 1) < 0.08, "%s: %g, by differences %g (%.3f)", what, is, wanted, is / wanted);
}

static bb_status check_block_curvature(void *self, uint32_t layer, const bb_block *block, const bb_matrix_gradient *part, bb_err *err)
{
    scene *s = self;
    (void)layer;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bb_matrix *w = &block->w[p];
        const size_t     n = (size_t)w->rows * w->cols;
        double           is;
        if (w->rows == 0) continue;
        float *d = BB_NEW(n, float, NULL), *b = BB_NEW(w->rows, float, NULL);
        for (size_t i = 0; i < n; i++) d[i] = (float)ref_noise(&s->seed);
        for (size_t i = 0; i < w->rows; i++) b[i] = (float)ref_noise(&s->seed);
        for (int with = 0; with < 2; with++) {
            ck_assert_int_eq(bb_gradient_second(&part[p], d, with ? b : NULL, &is, err), BB_OK);
            check_curvature(s, bb_parts[p].name, is, half_curvature(s, w->data, n, d, w->bias, w->rows, with ? b : NULL));
        }
        ck_assert(fabs(bb_gradient_first(&part[p], d, b)) < 1e-3 * is); /* the KL is at its least */
        bb_free(d);
        bb_free(b);
    }
    return BB_OK;
}

/* One row alone: the entries of the vocabulary beside it have no part in the diagonal. */
static bb_status check_table_curvature(void *self, bool head, const bb_table_gradient *t, bb_err *err)
{
    scene           *s = self;
    const bb_matrix *w = head ? &s->m.net.head : &s->m.net.embd;
    double           first = 0, second = 0;
    float           *d = BB_NEW0((size_t)w->rows * w->cols, float, NULL), *row = d + (size_t)5 * w->cols;
    for (uint32_t c = 0; c < w->cols; c++) row[c] = (float)ref_noise(&s->seed);
    ck_assert_int_eq(bb_gradient_table(t, w->cols, 5, 1, row, &first, &second, err), BB_OK);
    check_curvature(s, head ? "head" : "embedding", second, half_curvature(s, w->data, (size_t)w->rows * w->cols, d, NULL, 0, NULL));
    bb_free(d);
    return BB_OK;
}

START_TEST(curvature_is_that_of_the_kl)
{
    scene               s;
    bb_evaluation       v;
    bb_err              err = BB_ERR_INIT;
    bb_gradient_visitor visitor = { .self = &s, .block = check_block_curvature, .table = check_table_curvature };
    open_scene(&s, &ffn_spec, 8, 128, true, 3);
    const bb_gradient_options o = { .windows = &s.w, .widest = &s.m.net, .labels = 16, .seed = 1 };
    ck_assert_msg(bb_gradient_run(s.e, &s.m.net, &o, &visitor, &v, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(s.seen, 2 * 3 * 2 + 2);
    ck_assert(v.n_forwarded == 35.0 * 128 * 8);
    close_scene(&s);
}
END_TEST

/* ---- options of a plan ---- */

enum { CTX = 12, N_CALIB = 12, N_WINDOWS = 2, LAYERS = 2 };

static const bb_plan_option formats[] = { { "F32", BB_F32 }, { "Q4_0", BB_Q4_0 }, { "Q5_0", BB_Q5_0 }, { "Q8_0", BB_Q8_0 } };
enum { N_LINEARS = BB_PART_TOKEN_GATE /* of a block of deci */ };
static const bb_plan_option widths[] = { { "64", 64 }, { "32", 32 }, { "0", 0 } };
static const bb_plan_option groups[] = { { "2", 2 }, { "1", 1 }, { "0", 0 } };

static struct world {
    bb_model          model;
    bb_tokens         tokens;
    bb_windows        calib, score;
    bb_database      *db;
    bb_net_evaluator *evaluator;
    bb_plan_unit      units[LAYERS * (N_LINEARS + 2) + 1];
    char              names[LAYERS * (N_LINEARS + 2)][32];
    bb_plan_space     space;
} w;

static void add_units(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < LAYERS; i++) {
        const int32_t kv = (int32_t)n, ffn = (int32_t)n + 1;
        for (uint32_t what = 0; what < N_LINEARS + 2; what++, n++) {
            const uint32_t of = what < 2 ? BB_UNIT_KV + what : what - 2;
            snprintf(w.names[n], sizeof w.names[n], "blk.%u.%s", i, what < 2 ? bb_sublayers[what].unit : bb_parts[of].name);
            w.units[n] = (bb_plan_unit) { w.names[n],
                                          of,
                                          i,
                                          what < 2 ? -1 : bb_parts[of].sublayer == BB_FFN ? ffn : kv,
                                          what < 2 ? 3 : 4,
                                          what == 0 ? groups : what == 1 ? widths : formats };
        }
    }
    w.units[n++] = (bb_plan_unit) { "token_embd", BB_UNIT_EMBD, 0, -1, 4, formats };
    ck_assert_int_eq(bb_plan_space_init(&w.space, w.units, n, NULL), BB_OK);
}

static void open_world(void)
{
    tiny_spec   spec = tiny_default("deci");
    int32_t     ids[CTX * (N_CALIB + N_WINDOWS)];
    bb_rng      rng;
    const char *path = bb_test_path("tiny.gguf");
    bb_err      err = BB_ERR_INIT;
    spec.qkv_bias = spec.o_bias = true;
    spec.head_dim = 16;
    tiny_write(&spec, path);
    ck_assert_msg(bb_model_open(path, &w.model, &err) == BB_OK, "%s", err.msg);
    bb_rng_init(&rng, 3, "tokens");
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) ids[i] = (int32_t)bb_rng_below(&rng, w.model.net.n_vocab);
    ck_assert_int_eq(bb_tokens_from_ids(ids, sizeof ids / sizeof *ids, &w.tokens, NULL), BB_OK);
    ck_assert_int_eq(bb_windows_make(&w.tokens, BB_PROTOCOL_GGUF, CTX, 1, 0, false, &w.calib, NULL), BB_OK);
    ck_assert_int_eq(bb_windows_make(&w.tokens, BB_PROTOCOL_GGUF, CTX, 1, N_WINDOWS, true, &w.score, NULL), BB_OK);
    bb_database_config c = { .dir = bb_test_path("db"),
                             .backend = &bb_backend_cpu,
                             .model = &w.model,
                             .tokens = w.calib.tokens,
                             .n_windows = w.calib.n,
                             .ctx = CTX,
                             .quant = { BB_METHOD_WEIGHTED, 0.01, 0 },
                             .ffn_step = 8 };
    add_units();
    ck_assert_msg(bb_database_open(&c, &w.db, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_net_evaluator_create(&bb_backend_cpu, &w.model, &w.score, 1, 64u << 20, &w.evaluator, NULL), BB_OK);
}

static void close_world(void)
{
    bb_net_evaluator_destroy(w.evaluator);
    bb_plan_space_done(&w.space);
    bb_database_close(w.db);
    bb_windows_done(&w.calib);
    bb_windows_done(&w.score);
    bb_tokens_done(&w.tokens);
    bb_model_close(&w.model);
}

static uint32_t unit_named(const char *name)
{
    uint32_t u = 0;
    while (strcmp(w.units[u].name, name) != 0) u++;
    return u;
}

static size_t slope_at(uint32_t unit, uint32_t option)
{
    size_t at = option;
    for (uint32_t u = 0; u < unit; u++) at += w.units[u].n_options;
    return at;
}

static size_t measure(bb_net_evaluator *e, const uint16_t *x, uint32_t labels, bb_slope *out, bb_evaluation *v)
{
    const bb_slopes_options o = { 0, &w.score, labels, 5, &w.space, x };
    bb_err                  err = BB_ERR_INIT;
    ck_assert_msg(bb_slopes_measure(e, &w.model, w.db, &o, out, v, &err) == BB_OK, "%s", err.msg);
    return slope_at(w.space.n_units, 0);
}

enum { ALL = 2 * LAYERS * 3 + LAYERS * N_LINEARS * 4 + 4 };

/* A network whose matrix `at` may be written: float32, from `data`. */
static double kl_with(bb_net *net, bb_matrix *at, const float *data)
{
    const bb_matrix was = *at;
    at->type = BB_F32;
    at->data = data;
    const double kl = oracle_kl(&w.model.net, net, &w.score);
    *at = was;
    return kl;
}

/* The slope of the KL of net along W + t D of its matrix `at`, at t = 0, by differences of fourth order: small steps would drown in the rounding of W. */
static double slope_along(bb_net *net, bb_matrix *at, const float *own, const float *d)
{
    const double STEP = 4e-3;
    const size_t n = (size_t)at->rows * at->cols;
    float       *x = BB_NEW(n, float, NULL);
    double       kl[5] = { 0 };
    for (int k = -2; k <= 2; k++) {
        if (k == 0) continue;
        for (size_t i = 0; i < n; i++) x[i] = (float)((double)own[i] + k * STEP * (double)d[i]);
        kl[k + 2] = kl_with(net, at, x);
    }
    bb_free(x);
    return (8 * (kl[3] - kl[1]) - (kl[4] - kl[0])) / (12 * STEP);
}

/* A millionth of a nat: what the difference of two float32 probabilities leaves of a sum over logits. */
static void check_slope(const char *what, double is, double wanted)
{
    ck_assert_msg(fabs(is - wanted) < 2e-3 * fabs(wanted) + 1e-6, "%s: %.7g, by differences %.7g", what, is, wanted);
}

/* Some of every block's formats, nothing pruned: the line goes to the database's own entry. */
static void quantized(uint16_t *x)
{
    for (uint32_t u = 0; u < w.space.n_units; u++) x[u] = bb_unit_is_format(w.units[u].what) ? (uint16_t)(u % 3) : 0;
}

START_TEST(shares_of_formats_agree_with_differences)
{
    uint16_t      x[sizeof w.units / sizeof *w.units];
    bb_slope      s[ALL];
    bb_evaluation v;
    bb_net        net;
    bb_block      blocks[LAYERS];
    quantized(x);
    ck_assert_uint_eq(measure(w.evaluator, x, 1, s, &v), ALL);
    ck_assert(v.n_forwarded == 5.0 * N_WINDOWS * CTX && v.n_forwarded == bb_slopes_tokens(&w.score, 1));
    ck_assert_int_eq(bb_database_apply_at(w.db, &w.space, x, BB_NO_UNIT, 0, &net, blocks, NULL), BB_OK);
    ck_assert(fabs(oracle_kl(&w.model.net, &net, &w.score) - v.kl) < 1e-5 * v.kl);
    for (uint32_t u = 0; u < w.space.n_units; u++) {
        if (!bb_unit_is_format(w.units[u].what)) continue;
        const bool is_table = w.units[u].what == BB_UNIT_EMBD;
        bb_matrix *at = is_table ? &net.embd : &blocks[w.units[u].layer].w[w.units[u].what], other;
        float     *own = bb_matrix_decode(at, NULL);
        double     along_own = slope_along(&net, at, own, own), error;
        for (uint32_t k = 0; k < w.units[u].n_options; k++) {
            const bb_slope *is = &s[slope_at(u, k)];
            if (k == x[u]) {
                ck_assert(is->first == 0 && is->second == 0);
                check_slope(w.units[u].name, is->share, along_own);
                continue;
            }
            ck_assert_int_eq(bb_database_option(w.db, &w.units[u], k, &other, &error, NULL), BB_OK);
            float *d = bb_matrix_decode(&other, NULL);
            if (k == (x[u] + 1) % 4u) check_slope(w.units[u].name, is->share, slope_along(&net, at, own, d)); /* dL/dp_o itself */
            for (size_t i = 0; i < (size_t)at->rows * at->cols; i++) d[i] -= own[i];
            if (k == (x[u] + 1) % 4u) check_slope(w.units[u].name, is->first, slope_along(&net, at, own, d));
            ck_assert(is->second > 0);
            bb_free(d);
        }
        bb_free(own);
    }
}
END_TEST

/* The network of plan x with block `layer` at its full width: zeros where the writers keep nothing. own[BB_N_SUBLAYERS]: the writers, the caller's. */
static void full_width(const uint16_t *x, uint32_t layer, bb_net *net, bb_block *blocks, float **own)
{
    const bb_block *source = &w.model.net.blocks[layer];
    ck_assert_int_eq(bb_database_apply_at(w.db, &w.space, x, BB_NO_UNIT, 0, net, blocks, NULL), BB_OK);
    const bb_block cut = blocks[layer];
    blocks[layer] = *source;
    for (uint32_t p = 0; p < N_LINEARS; p++) {
        const uint32_t  u = layer * (N_LINEARS + 2) + 2 + p, sub = bb_parts[p].sublayer, count = bb_block_kept(&cut, (bb_sublayer)sub);
        const uint32_t *channels = NULL;
        bb_matrix      *m = &blocks[layer].w[p];
        if ((bb_part)p != bb_sublayers[sub].writer) {
            ck_assert_int_eq(
                bb_database_matrix(w.db, layer, (bb_part)p, bb_block_kept(source, (bb_sublayer)sub), (bb_type)w.units[u].options[x[u]].value, m, NULL, NULL),
                BB_OK);
            continue;
        }
        own[sub] = BB_NEW0((size_t)m->rows * m->cols, float, NULL);
        const uint32_t group = m->cols / bb_block_kept(source, (bb_sublayer)sub);
        float         *less = count ? bb_matrix_decode(&cut.w[p], NULL) : NULL;
        if (count) ck_assert_int_eq(bb_database_mask(w.db, layer, sub == BB_FFN, count, &channels, NULL), BB_OK);
        for (uint32_t r = 0; r < m->rows; r++)
            for (uint32_t c = 0; c < count * group; c++)
                own[sub][(size_t)r * m->cols + channels[c / group] * group + c % group] = less[(size_t)r * count * group + c];
        bb_free(less);
        *m = (bb_matrix) { BB_F32, m->rows, m->cols, own[sub], count ? source->w[p].bias : NULL, NULL };
    }
}

/* A writer with `count` kept, at full width, unquantized. The caller's. */
static float *writer_keeping(uint32_t layer, bb_sublayer sub, uint32_t count)
{
    const bb_matrix *full = &w.model.net.blocks[layer].w[bb_sublayers[sub].writer];
    const uint32_t  *channels, all = bb_block_kept(&w.model.net.blocks[layer], sub), group = full->cols / all;
    float           *out = BB_NEW0((size_t)full->rows * full->cols, float, NULL), *less;
    bb_matrix        m;
    if (count == 0) return out;
    ck_assert_int_eq(bb_database_matrix(w.db, layer, bb_sublayers[sub].writer, count, full->type, &m, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_database_mask(w.db, layer, sub == BB_FFN, count, &channels, NULL), BB_OK);
    less = bb_matrix_decode(&m, NULL);
    for (uint32_t r = 0; r < full->rows; r++)
        for (uint32_t c = 0; c < count * group; c++) out[(size_t)r * full->cols + channels[c / group] * group + c % group] = less[(size_t)r * m.cols + c];
    bb_free(less);
    return out;
}

/* The change of keeping `then` instead of `now` columns of the writer, from its definition. */
static float *count_change(uint32_t layer, bb_sublayer sub, uint32_t now, uint32_t then, bb_type type, const float *own)
{
    const bb_matrix *full = &w.model.net.blocks[layer].w[bb_sublayers[sub].writer];
    float           *a = writer_keeping(layer, sub, now), *b = writer_keeping(layer, sub, then);
    bb_matrix        m;
    ck_assert_int_eq(bb_database_matrix(w.db, layer, bb_sublayers[sub].writer, bb_block_kept(&w.model.net.blocks[layer], sub), type, &m, NULL, NULL), BB_OK);
    float *coarse = bb_matrix_decode(&m, NULL), *fine = bb_matrix_decode(full, NULL);
    for (size_t i = 0; i < (size_t)full->rows * full->cols; i++) {
        const bool is = a[i] != 0, stays = b[i] != 0; /* random weights: a zero is a column that is not kept */
        b[i] = stays ? is ? b[i] - a[i] : b[i] + coarse[i] - fine[i] : -own[i];
    }
    bb_free(a);
    bb_free(coarse);
    bb_free(fine);
    return b;
}

/* Keeping more, fewer, none or again some KV groups and FFN channels, around plans that have pruned other numbers. */
START_TEST(gates_agree_with_differences)
{
    uint16_t      x[sizeof w.units / sizeof *w.units];
    bb_slope      s[ALL];
    bb_evaluation v;
    bb_net        net, plain;
    bb_block      blocks[LAYERS], cut[LAYERS];
    quantized(x);
    x[unit_named("blk.0.kv")] = (uint16_t)_i;
    x[unit_named("blk.0.ffn")] = (uint16_t)(2 - _i);
    x[unit_named("blk.1.ffn")] = (uint16_t)_i;
    measure(w.evaluator, x, 1, s, &v);
    ck_assert_int_eq(bb_database_apply_at(w.db, &w.space, x, BB_NO_UNIT, 0, &plain, cut, NULL), BB_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        float *own[BB_N_SUBLAYERS];
        full_width(x, layer, &net, blocks, own);
        ck_assert(fabs(oracle_kl(&w.model.net, &net, &w.score) - v.kl) < 1e-5 * v.kl); /* the same network */
        for (uint32_t sub = 0; sub < BB_TOKEN; sub++) {
            const uint32_t u = layer * (N_LINEARS + 2) + sub, writer = bb_sublayers[sub].writer, of = layer * (N_LINEARS + 2) + 2 + writer;
            bb_matrix     *at = &blocks[layer].w[writer];
            const float   *bias = w.model.net.blocks[layer].w[writer].bias;
            for (uint32_t k = 0; k < 3; k++) {
                const uint32_t now = w.units[u].options[x[u]].value, then = w.units[u].options[k].value;
                if (k == x[u]) {
                    ck_assert(s[slope_at(u, k)].first == 0 && s[slope_at(u, k)].second == 0);
                    continue;
                }
                float *d = count_change(layer, (bb_sublayer)sub, now, then, (bb_type)w.units[of].options[x[of]].value, own[sub]);
                double wanted = slope_along(&net, at, own[sub], d);
                if (bias && (now == 0) != (then == 0)) { /* the bias goes or comes with the sublayer */
                    const double STEP = 1e-3;
                    float        moved[128];
                    double       kl[2];
                    ck_assert_uint_le(at->rows, 128);
                    for (int side = 0; side < 2; side++) {
                        for (uint32_t r = 0; r < at->rows; r++)
                            moved[r] = (float)((now ? (double)bias[r] : 0) + (side ? STEP : -STEP) * (now ? -1 : 1) * (double)bias[r]);
                        const float *was = at->bias;
                        at->bias = moved;
                        kl[side] = oracle_kl(&w.model.net, &net, &w.score);
                        at->bias = was;
                    }
                    wanted += (kl[1] - kl[0]) / (2 * STEP);
                }
                check_slope(w.units[u].name, s[slope_at(u, k)].first, wanted);
                ck_assert(s[slope_at(u, k)].second > 0);
                bb_free(d);
            }
        }
        for (int sub = 0; sub < BB_TOKEN; sub++) bb_free(own[sub]);
    }
}
END_TEST

START_TEST(threads_and_backends_change_no_bit)
{
    uint16_t          x[sizeof w.units / sizeof *w.units];
    bb_slope          a[ALL], b[ALL];
    bb_evaluation     v;
    guarded           g;
    bb_net_evaluator *e;
    const int         before = omp_get_max_threads();
    quantized(x);
    x[1] = 1;
    omp_set_num_threads(1);
    measure(w.evaluator, x, 2, a, &v);
    omp_set_num_threads(3);
    measure(w.evaluator, x, 2, b, &v);
    omp_set_num_threads(before);
    ck_assert_int_eq(memcmp(a, b, sizeof a), 0);
    guarded_make(&g);
    ck_assert_int_eq(bb_net_evaluator_create(&g.backend, &w.model, &w.score, 1, 64u << 20, &e, NULL), BB_OK);
    measure(e, x, 2, b, &v);
    ck_assert_int_eq(memcmp(a, b, sizeof a), 0);
    bb_net_evaluator_destroy(e);
    guarded_done(&g);
}
END_TEST

/* Near the plan, where the expansion holds, it says what the evaluator measures: 8 bits against nothing lost at all. */
START_TEST(the_expansion_predicts_small_changes)
{
    uint16_t      x[sizeof w.units / sizeof *w.units];
    bb_slope      s[ALL];
    bb_evaluation v, moved;
    bb_net        net;
    bb_block      blocks[LAYERS];
    double        off = 0, all = 0;
    quantized(x);
    measure(w.evaluator, x, 8, s, &v);
    for (uint32_t u = 0; u < w.space.n_units; u++) {
        if (!bb_unit_is_format(w.units[u].what) || x[u] != 0) continue;
        ck_assert_int_eq(bb_database_apply_at(w.db, &w.space, x, u, 3, &net, blocks, NULL), BB_OK);
        ck_assert_int_eq(bb_net_evaluator_score(w.evaluator, &net, 0, &moved, NULL, NULL), BB_OK);
        const bb_slope *is = &s[slope_at(u, 3)];
        off += pow(moved.kl - v.kl - is->first - is->second, 2);
        all += pow(moved.kl - v.kl, 2);
    }
    ck_assert_msg(all > 0 && off < 0.02 * all, "%g of the change is not foreseen", sqrt(off / all));
}
END_TEST

START_TEST(what_it_needs_is_said)
{
    uint16_t                x[sizeof w.units / sizeof *w.units] = { 0 };
    bb_slope                s[ALL];
    bb_evaluation           v;
    bb_net_evaluator       *e;
    bb_err                  err = BB_ERR_INIT;
    const bb_slopes_options o = { 0, &w.score, 1, 5, &w.space, x };
    ck_assert_int_eq(bb_net_evaluator_create(&bb_backend_cpu, &w.model, &w.score, 1, 0, &e, NULL), BB_OK);
    ck_assert_int_eq(bb_slopes_measure(e, &w.model, w.db, &o, s, &v, &err), BB_NOMEM);
    ck_assert_ptr_nonnull(strstr(err.msg, "--max-ram"));
    bb_net_evaluator_destroy(e);
    quantized(x);
    measure(w.evaluator, x, 1, s, &v); /* what the database makes at first use is there */
    bool done = false;
    for (long n = 0; !done && n < 4000; n += n < 40 ? 1 : 37) {
        const size_t before = bb_mem_live_bytes();
        bb_err_clear(&err);
        bb_mem_fail_after(n);
        const bb_status status = bb_slopes_measure(w.evaluator, &w.model, w.db, &o, s, &v, &err);
        bb_mem_fail_after(-1);
        ck_assert_msg(status == BB_OK || status == BB_NOMEM, "%s", err.msg);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
        done = status == BB_OK;
    }
    ck_assert(done);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("gradient");
    TCase *t = tcase_create("networks"), *o = tcase_create("options");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, gradients_of_the_kl_agree_with_differences, 0, (int)ref_n_specs);
    tcase_add_test(t, curvature_is_that_of_the_kl);
    suite_add_tcase(s, t);
    tcase_set_timeout(o, 60);
    tcase_add_unchecked_fixture(o, open_world, close_world);
    tcase_add_test(o, shares_of_formats_agree_with_differences);
    tcase_add_loop_test(o, gates_agree_with_differences, 0, 3);
    tcase_add_test(o, threads_and_backends_change_no_bit);
    tcase_add_test(o, the_expansion_predicts_small_changes);
    tcase_add_test(o, what_it_needs_is_said);
    suite_add_tcase(s, o);
    return bb_test_run(s);
}
