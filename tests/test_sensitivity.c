/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_sensitivity.c: sketches against logits that a float64 network gives, covariances by definition; scores of plans against sums by
 * definition; anchors; what must change no bit; what a store keeps. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "eval/floor.h"
#include "eval/layerwise.h"
#include "eval/proxy.h"
#include "eval/sensitivity.h"
#include "eval/sketch.h"
#include "tests/support/ref_net.h"
#include "tests/support/guarded.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { CTX = 24, N_WINDOWS = 4, N_CALIB = 8, PROBES = 2048, N_CHANGES = 6 };

/* A tied model of two blocks; the last change alters the head as well as the input. */
static const char *const change_names[N_CHANGES][2] = {
    { "blk.0.attn_v", "Q4_0" },   { "blk.0.ffn_up", "Q4_0" }, { "blk.1.ffn_down", "Q4_0" },
    { "blk.1.ffn_down", "Q8_0" }, { "blk.1.attn_q", "Q4_0" }, { "token_embd", "Q4_0" },
};

/* The same by indices: units, and for each change its unit and option; option 0 is the source's type. */
enum { N_UNITS = 5 };
static const bb_plan_option options[] = { { "F32", BB_F32 }, { "Q4_0", BB_Q4_0 }, { "Q8_0", BB_Q8_0 } };
static const bb_plan_unit   plan_units[N_UNITS] = { { "blk.0.attn_v", BB_PART_V, 0, -1, 2, options },
                                                    { "blk.0.ffn_up", BB_PART_UP, 0, -1, 2, options },
                                                    { "blk.1.ffn_down", BB_PART_DOWN, 1, -1, 3, options },
                                                    { "blk.1.attn_q", BB_PART_Q, 1, -1, 2, options },
                                                    { "token_embd", BB_UNIT_EMBD, 0, -1, 2, options } };
static const uint32_t       change_at[N_CHANGES][2] = { { 0, 1 }, { 1, 1 }, { 2, 1 }, { 2, 2 }, { 3, 1 }, { 4, 1 } };

static struct world {
    bb_model          model;
    bb_tokens         tokens;
    bb_windows        calib, score;
    bb_database      *db;
    bb_net_evaluator *evaluator;
    bb_plan_space     space;
} w;

static void open_world(void)
{
    tiny_spec   spec = tiny_default("llama");
    int32_t     ids[CTX * (N_CALIB + N_WINDOWS)];
    bb_rng      rng;
    const char *path = bb_test_path("tiny.gguf");
    tiny_write(&spec, path);
    ck_assert_int_eq(bb_model_open(path, &w.model, NULL), BB_OK);
    bb_rng_init(&rng, 3, "tokens");
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) ids[i] = (int32_t)bb_rng_below(&rng, w.model.net.n_vocab);
    ck_assert_int_eq(bb_tokens_from_ids(ids, sizeof ids / sizeof *ids, &w.tokens, NULL), BB_OK);
    ck_assert_int_eq(bb_windows_make(&w.tokens, BB_PROTOCOL_GGUF, CTX, 1, 0, false, &w.calib, NULL), BB_OK);
    ck_assert_int_eq(bb_windows_make(&w.tokens, BB_PROTOCOL_GGUF, CTX, 1, N_WINDOWS, true, &w.score, NULL), BB_OK);
    bb_database_config c = { .dir = bb_test_path("db"),
                             .model = &w.model,
                             .backend = &bb_backend_cpu,
                             .tokens = w.calib.tokens,
                             .n_windows = w.calib.n,
                             .ctx = CTX,
                             .quant = { BB_METHOD_WEIGHTED, 0.01, 0 },
                             .ffn_step = 8 };
    bb_err             err = BB_ERR_INIT;
    ck_assert_msg(bb_plan_space_init(&w.space, plan_units, N_UNITS, &err) == BB_OK, "%s", err.msg);
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

static void fill(bb_change *c)
{
    for (size_t i = 0; i < N_CHANGES; i++) c[i] = (bb_change) { change_at[i][0], change_at[i][1], 0, 0, NULL };
}

static double by_sketch; /* of the measurements that follow; 0 where a test does not set it */

static void measure(const uint16_t *anchor, uint32_t probes, bb_store *store, bb_change *c, bb_sensitivity *s)
{
    bb_err                 err = BB_ERR_INIT;
    bb_sensitivity_options o = { .probes = probes, .seed = 7, .space = &w.space, .anchor = anchor, .store = store, .key = "test", .by_sketch = by_sketch };
    fill(c);
    ck_assert_msg(bb_sensitivity_measure(w.evaluator, &w.model, w.db, &w.score, &o, c, N_CHANGES, s, &err) == BB_OK, "%s", err.msg);
}

/* Logits (rows, V) of the scored positions by the float64 oracle. Freed by the caller. */
static double *oracle_logits(const bb_plan *plan, size_t *n_rows)
{
    bb_net   net;
    bb_block blocks[TINY_MAX_LAYERS];
    size_t   V = w.model.net.n_vocab, at = 0;
    double  *all = BB_NEW((size_t)CTX * V, double, NULL), *out;
    *n_rows = (size_t)w.score.n * w.score.n_scored;
    out = BB_NEW(*n_rows * V, double, NULL);
    ck_assert_int_eq(bb_database_apply(w.db, plan, &net, blocks, NULL), BB_OK);
    for (uint32_t i = 0; i < w.score.n; i++) {
        ref_run(&net, w.score.tokens + (size_t)i * CTX, CTX, all);
        memcpy(out + at * V, all + w.score.first * V, w.score.n_scored * V * sizeof *out);
        at += w.score.n_scored;
    }
    bb_free(all);
    return out;
}

static void plan_of(size_t i, bb_plan *plan) { ck_assert_int_eq(bb_plan_set(plan, change_names[i][0], change_names[i][1], NULL), BB_OK); }

/* mean_t Cov_{p_t}(a_t, b_t), p = softmax(z), by definition. */
static double covariance(const double *z, const double *a, const double *b, size_t n_rows, size_t V)
{
    double sum = 0;
    for (size_t t = 0; t < n_rows; t++) {
        double lse = ref_log_sum_exp(z + t * V, V), ea = 0, eb = 0, eab = 0;
        for (size_t v = 0; v < V; v++) {
            double p = exp(z[t * V + v] - lse), da = a[t * V + v] - z[t * V + v], db = b[t * V + v] - z[t * V + v];
            ea += p * da;
            eb += p * db;
            eab += p * da * db;
        }
        sum += eab - ea * eb;
    }
    return sum / (double)n_rows;
}

START_TEST(inner_products_are_covariances_of_logit_changes)
{
    bb_change      c[N_CHANGES];
    bb_sensitivity s;
    size_t         n_rows, V = w.model.net.n_vocab;
    float          gram[N_CHANGES * N_CHANGES];
    double        *z[N_CHANGES], *base, var[N_CHANGES];
    bb_plan        none = { 0, NULL };
    measure(NULL, PROBES, NULL, c, &s);
    ck_assert_int_eq(bb_sensitivity_gram(&s, gram, NULL), BB_OK);
    base = oracle_logits(&none, &n_rows);
    ck_assert_uint_eq(s.dim, n_rows * PROBES);
    for (size_t i = 0; i < N_CHANGES; i++) {
        bb_plan plan = { 0, NULL };
        plan_of(i, &plan);
        z[i] = oracle_logits(&plan, &n_rows);
        bb_plan_done(&plan);
        var[i] = covariance(base, z[i], z[i], n_rows, V);
        ck_assert(var[i] > 0);
    }
    for (size_t i = 0; i < N_CHANGES; i++) {
        double kl = 0;
        for (size_t t = 0; t < n_rows; t++) kl += ref_kl(base + t * V, z[i] + t * V, V) / (double)n_rows;
        ck_assert_msg(fabs(c[i].kl - kl) < 1e-3 * kl + 1e-7, "change %zu: KL %g, wanted %g", i, c[i].kl, kl);
        /* 90 000 draws: three standard deviations of the estimate are about 2 % of the lengths. */
        for (size_t j = 0; j < N_CHANGES; j++) {
            double want = covariance(base, z[i], z[j], n_rows, V), is = (double)gram[i * N_CHANGES + j];
            ck_assert_msg(fabs(is - want) < 0.03 * sqrt(var[i] * var[j]), "changes %zu and %zu: %g, wanted %g", i, j, is, want);
        }
    }
    for (size_t i = 0; i < N_CHANGES; i++) bb_free(z[i]);
    bb_free(base);
    bb_sensitivity_done(&s);
}
END_TEST

START_TEST(an_entry_is_one_label_s_logit_change)
{
    bb_change      c[N_CHANGES];
    bb_sensitivity s;
    size_t         n_rows, V = w.model.net.n_vocab;
    bb_plan        none = { 0, NULL }, plan = { 0, NULL };
    double        *base = oracle_logits(&none, &n_rows), *z;
    plan_of((size_t)_i, &plan);
    z = oracle_logits(&plan, &n_rows);
    measure(NULL, 2, NULL, c, &s);
    for (size_t e = 0; e < s.dim; e++) {
        const double *b = base + e / 2 * V, *y = z + e / 2 * V;
        double        lse = ref_log_sum_exp(b, V), mean = 0, nearest = HUGE_VAL, is = (double)c[_i].psi[e] * sqrt(2.0 * (double)n_rows);
        for (size_t v = 0; v < V; v++) mean += exp(b[v] - lse) * (y[v] - b[v]);
        for (size_t v = 0; v < V; v++) nearest = fmin(nearest, fabs(y[v] - b[v] - mean - is));
        ck_assert_msg(nearest < 2e-4, "entry %zu: %g is %g off any label", e, is, nearest);
    }
    bb_free(base);
    bb_free(z);
    bb_plan_done(&plan);
    bb_sensitivity_done(&s);
}
END_TEST

/* The standard error over windows from its definition (n - 1), and the price: blocks from the first one that changed. */
START_TEST(scores_have_their_error_and_price)
{
    bb_plan       plan = { 0, NULL };
    bb_net        net;
    bb_block      blocks[TINY_MAX_LAYERS];
    bb_evaluation v;
    double        kl[N_WINDOWS], mean = 0, squares = 0;
    plan_of(2, &plan); /* blk.1.ffn_down */
    ck_assert_int_eq(bb_database_apply(w.db, &plan, &net, blocks, NULL), BB_OK);
    ck_assert_int_eq(bb_net_evaluator_score(w.evaluator, &w.model.net, 0, &v, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_net_evaluator_score(w.evaluator, &net, 0, &v, kl, NULL), BB_OK);
    for (int i = 0; i < N_WINDOWS; i++) mean += kl[i] / N_WINDOWS;
    for (int i = 0; i < N_WINDOWS; i++) squares += pow(kl[i] - mean, 2);
    ck_assert_double_eq_tol(v.kl, mean, 1e-12);
    ck_assert_double_eq_tol(v.kl_se, sqrt(squares / (N_WINDOWS - 1) / N_WINDOWS), 1e-9 * v.kl_se);
    ck_assert_double_eq(v.n_forwarded, 0.5 * N_WINDOWS * CTX); /* one block of two */
    bb_plan_done(&plan);
}
END_TEST

/* On a backend whose memory the host cannot reach: the evaluator with and without room for its prefix cache, along plans that share prefixes. */
START_TEST(another_backend_has_the_same_scores)
{
    bb_net            net;
    bb_block          blocks[TINY_MAX_LAYERS];
    bb_plan           plan = { 0, NULL };
    guarded           g;
    bb_net_evaluator *e;
    const size_t      n = (size_t)w.score.n * w.score.n_scored * w.model.net.n_embd;
    guarded_make(&g);
    ck_assert_int_eq(bb_net_evaluator_create(&g.backend, &w.model, &w.score, 1, _i ? 64u << 20 : 0, &e, NULL), BB_OK);
    for (size_t change = 0; change < N_CHANGES; change++) {
        bb_evaluation want, is;
        double        kl[2][N_WINDOWS];
        const float  *ours, *theirs;
        plan_of(change, &plan);
        ck_assert_int_eq(bb_database_apply(w.db, &plan, &net, blocks, NULL), BB_OK);
        ck_assert_int_eq(bb_net_evaluator_score(w.evaluator, &net, 0, &want, kl[0], NULL), BB_OK);
        ck_assert_int_eq(bb_net_evaluator_score(e, &net, 0, &is, kl[1], NULL), BB_OK);
        ck_assert(is.kl == want.kl && is.kl_se == want.kl_se && is.nll == want.nll && is.top1 == want.top1 && memcmp(kl[0], kl[1], sizeof kl[0]) == 0);
        ck_assert_int_eq(bb_net_evaluator_last(w.evaluator, 0, &ours, NULL) | bb_net_evaluator_last(e, 0, &theirs, NULL), BB_OK);
        ck_assert_int_eq(theirs != NULL, _i);
        if (theirs) ck_assert(is.n_forwarded == want.n_forwarded && memcmp(ours, theirs, n * sizeof *ours) == 0);
        bb_plan_done(&plan);
    }
    ck_assert_uint_gt(g.n_weights, 0);
    bb_net_evaluator_forget(e); /* weights may go: nothing of them stays */
    ck_assert_uint_eq(g.n_weights, 0);
    bb_net_evaluator_destroy(e);
    guarded_done(&g);
}
END_TEST

/* psi of a plan against full precision, by the sketch alone. */
static void psi_of(const bb_sketch *sketch, const bb_plan *plan, float *psi)
{
    bb_net        net;
    bb_block      blocks[TINY_MAX_LAYERS];
    bb_evaluation v;
    const float  *last;
    ck_assert_int_eq(bb_database_apply(w.db, plan, &net, blocks, NULL), BB_OK);
    ck_assert_int_eq(bb_net_evaluator_score(w.evaluator, &net, 0, &v, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_net_evaluator_last(w.evaluator, 0, &last, NULL), BB_OK);
    ck_assert_int_eq(bb_sketch_project(sketch, &net, last, psi, NULL), BB_OK);
}

START_TEST(small_changes_add_up)
{
    size_t        n_rows = (size_t)w.score.n * w.score.n_scored;
    bb_sketch    *sketch;
    bb_plan       a = { 0, NULL }, b = { 0, NULL }, both = { 0, NULL }, none = { 0, NULL };
    double        length = 0, off = 0;
    const float  *last;
    float        *reference = BB_NEW(n_rows * w.model.net.n_embd, float, NULL);
    bb_evaluation v;
    ck_assert_int_eq(bb_net_evaluator_score(w.evaluator, &w.model.net, 0, &v, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_net_evaluator_last(w.evaluator, 0, &last, NULL), BB_OK);
    memcpy(reference, last, n_rows * w.model.net.n_embd * sizeof *last);
    ck_assert_int_eq(bb_sketch_create(&bb_backend_cpu, &w.model.net, reference, n_rows, 4, 1, &sketch, NULL), BB_OK);
    size_t dim = n_rows * 4;
    float *psi = BB_NEW(4 * dim, float, NULL);
    bb_plan_set(&a, "blk.0.attn_output", "Q8_0", NULL);
    bb_plan_set(&b, "blk.1.ffn_down", "Q8_0", NULL);
    bb_plan_set(&both, "blk.0.attn_output", "Q8_0", NULL);
    bb_plan_set(&both, "blk.1.ffn_down", "Q8_0", NULL);
    psi_of(sketch, &a, psi);
    psi_of(sketch, &b, psi + dim);
    psi_of(sketch, &both, psi + 2 * dim);
    psi_of(sketch, &none, psi + 3 * dim);
    for (size_t i = 0; i < dim; i++) {
        length += (double)psi[2 * dim + i] * (double)psi[2 * dim + i];
        off += pow((double)psi[2 * dim + i] - (double)psi[i] - (double)psi[dim + i], 2);
        ck_assert(fabsf(psi[3 * dim + i]) < 1e-6f);
    }
    ck_assert(length > 0);
    ck_assert_msg(sqrt(off / length) < 0.1, "%g of the length is missing", sqrt(off / length));
    bb_plan_done(&a);
    bb_plan_done(&b);
    bb_plan_done(&both);
    bb_sketch_destroy(sketch);
    bb_free(reference);
    bb_free(psi);
}
END_TEST

START_TEST(threads_change_no_bit)
{
    bb_change      c[N_CHANGES], d[N_CHANGES];
    bb_sensitivity s, t;
    float          a[N_CHANGES * N_CHANGES], b[N_CHANGES * N_CHANGES];
    int            before = omp_get_max_threads();
    omp_set_num_threads(1);
    measure(NULL, 8, NULL, c, &s);
    ck_assert_int_eq(bb_sensitivity_gram(&s, a, NULL), BB_OK);
    omp_set_num_threads(2);
    bb_net_evaluator_forget(w.evaluator);
    measure(NULL, 8, NULL, d, &t);
    ck_assert_int_eq(bb_sensitivity_gram(&t, b, NULL), BB_OK);
    omp_set_num_threads(before);
    ck_assert_int_eq(memcmp(s.memory, t.memory, s.n * s.dim * sizeof(float)), 0);
    ck_assert_int_eq(memcmp(a, b, sizeof a), 0);
    for (size_t i = 0; i < N_CHANGES; i++) ck_assert_int_eq(memcmp(&c[i].kl, &d[i].kl, sizeof c[i].kl), 0);
    bb_sensitivity_done(&s);
    bb_sensitivity_done(&t);
}
END_TEST

/* A crew of which another process does every second job, from the last to the first. */
typedef struct elsewhere {
    bb_sensitivity_worker *worker;
    int                    n_done;
} elsewhere;

static bb_status run_elsewhere(void *self, const bb_jobs *jobs, bb_err *err)
{
    elsewhere *other = self;
    ck_assert_uint_eq(jobs->kind, 3);
    for (size_t i = jobs->n; i-- > 0;) {
        bb_text   question = { 0 }, answer = { 0 };
        bb_status status = jobs->ask(jobs->self, i, &question, err);
        other->n_done += i % 2 == 1;
        if (status == BB_OK && i % 2) status = bb_sensitivity_worker_answer(other->worker, question.data, question.size, &answer, err);
        else if (status == BB_OK) status = jobs->work(jobs->self, 0, question.data, question.size, &answer, err);
        if (status == BB_OK) status = jobs->take(jobs->self, i, answer.data, answer.size, err);
        bb_text_done(&question);
        bb_text_done(&answer);
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

START_TEST(other_processes_change_no_bit)
{
    const uint16_t         anchor[N_UNITS] = { 1, 0, 0, 0, 0 };
    bb_net_evaluator      *e;
    elsewhere              other = { NULL, 0 };
    const bb_crew          crew = { &other, 1, 2, 1, run_elsewhere, NULL, NULL };
    bb_sensitivity_options o = { .probes = 8, .seed = 7, .space = &w.space, .key = "test", .crew = &crew, .job = 3 };
    bb_text                answer = { 0 };
    bb_err                 err = BB_ERR_INIT;
    ck_assert_int_eq(bb_net_evaluator_create(&bb_backend_cpu, &w.model, &w.score, 1, (uint64_t)1 << 30, &e, NULL), BB_OK);
    ck_assert_int_eq(bb_sensitivity_worker_create(e, &w.model, w.db, &w.score, &o, &other.worker, NULL), BB_OK);
    for (int k = 0; k < 3; k++) { /* around full precision, around a plan, and back: the other's anchor follows */
        bb_change      c[N_CHANGES], d[N_CHANGES];
        bb_sensitivity s, t;
        o.anchor = k == 1 ? anchor : NULL;
        measure(o.anchor, 8, NULL, c, &s);
        fill(d);
        ck_assert_msg(bb_sensitivity_measure(w.evaluator, &w.model, w.db, &w.score, &o, d, N_CHANGES, &t, &err) == BB_OK, "%s", err.msg);
        ck_assert_int_eq(memcmp(s.memory, t.memory, s.n * s.dim * sizeof(float)), 0);
        for (size_t i = 0; i < N_CHANGES; i++) ck_assert(c[i].kl == d[i].kl && c[i].kl_se == d[i].kl_se);
        bb_sensitivity_done(&s);
        bb_sensitivity_done(&t);
    }
    ck_assert_int_gt(other.n_done, 0);
    ck_assert_int_eq(bb_sensitivity_worker_answer(other.worker, "?", 1, &answer, &err), BB_FAILED); /* not what a rank of this build sends */
    bb_sensitivity_worker_destroy(other.worker);
    bb_net_evaluator_destroy(e);
    bb_text_done(&answer);
}
END_TEST

START_TEST(a_store_answers_the_second_time)
{
    bb_change      c[N_CHANGES], d[N_CHANGES];
    bb_sensitivity s, t;
    bb_store      *store;
    const uint16_t anchor[N_UNITS] = { 1, 0, 0, 0, 0 };
    uint64_t       n;
    ck_assert_int_eq(bb_store_open(bb_test_path("store.db"), &store, NULL), BB_OK);
    measure(NULL, 3, store, c, &s);
    measure(NULL, 3, store, d, &t);
    ck_assert_int_eq(bb_store_count(store, "changes", &n, NULL), BB_OK);
    ck_assert_uint_eq(n, N_CHANGES);
    ck_assert_int_eq(memcmp(s.memory, t.memory, s.n * s.dim * sizeof(float)), 0);
    ck_assert(!(t.n_forwarded < s.n_forwarded) && !(t.n_forwarded > s.n_forwarded)); /* tokens count whenever they were spent */
    bb_sensitivity_done(&s);
    bb_sensitivity_done(&t);
    measure(anchor, 3, store, c, &s);
    measure(NULL, 4, store, d, &t); /* another anchor, another sketch: entries of their own */
    ck_assert_int_eq(bb_store_count(store, "changes", &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 3 * N_CHANGES);
    bb_sensitivity_done(&s);
    bb_sensitivity_done(&t);
    bb_store_close(store);
}
END_TEST

/* The same weights by another road: a plan of the database with F16 everywhere. */
START_TEST(the_floor_is_that_of_an_f16_copy)
{
    bb_plan       plan = { 0, NULL };
    bb_net        net;
    bb_block      blocks[TINY_MAX_LAYERS];
    bb_evaluation floor, want;
    char          unit[32];
    bb_plan_set(&plan, "token_embd", "F16", NULL);
    for (uint32_t l = 0; l < w.model.net.n_layer; l++)
        for (int p = 0; p < BB_PART_TOKEN_GATE; p++) {
            snprintf(unit, sizeof unit, "blk.%u.%s", l, bb_parts[p].name);
            bb_plan_set(&plan, unit, "F16", NULL);
        }
    ck_assert_int_eq(bb_database_apply(w.db, &plan, &net, blocks, NULL), BB_OK);
    ck_assert_int_eq(bb_net_evaluator_score(w.evaluator, &net, 0, &want, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_noise_floor(&w.model, w.evaluator, 0, &floor, NULL), BB_OK);
    ck_assert(floor.kl > 0 && floor.kl < 1e-5);
    ck_assert_msg(fabs(floor.kl / want.kl - 1) < 1e-6, "%g, wanted %g", floor.kl, want.kl);
    bb_plan_done(&plan);
}
END_TEST

/* ---- scores of single layers ---- */

/* Mean NLL of the scored tokens with W + step (V - W) in one matrix, W full precision, V the option. */
static double nll_towards(size_t change, double step)
{
    bb_plan   plan = { 0, NULL };
    bb_net    net, full = w.model.net;
    bb_block  blocks[TINY_MAX_LAYERS], mixed[TINY_MAX_LAYERS];
    bb_result r;
    plan_of(change, &plan);
    ck_assert_int_eq(bb_database_apply(w.db, &plan, &net, blocks, NULL), BB_OK);
    memcpy(mixed, full.blocks, full.n_layer * sizeof *mixed);
    const bb_matrix *a = &full.blocks[1].w[BB_PART_DOWN], *b = &blocks[1].w[BB_PART_DOWN];
    const bb_format *f = bb_format_get(b->type);
    size_t           n = (size_t)a->rows * a->cols;
    float           *v = BB_NEW(n, float, NULL);
    for (uint32_t i = 0; i < a->rows; i++) f->decode((const char *)b->data + i * bb_format_row_bytes(f, b->cols), v + (size_t)i * b->cols, b->cols);
    for (size_t i = 0; i < n; i++) v[i] = (float)((double)((const float *)a->data)[i] * (1 - step) + step * (double)v[i]);
    mixed[1].w[BB_PART_DOWN].type = BB_F32;
    mixed[1].w[BB_PART_DOWN].data = v;
    full.blocks = mixed;
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &full, NULL, &w.score, NULL, &r, NULL, NULL, NULL), BB_OK);
    bb_plan_done(&plan);
    bb_free(v);
    return r.nll;
}

/* Changes 2 and 3 are two formats of one matrix, and one factor scales all costs: their ratio has to be that of the definition. */
START_TEST(layerwise_costs_are_what_they_say)
{
    bb_change      c[N_CHANGES];
    bb_sensitivity s;
    double         cost[N_CHANGES], tokens, slope[2];
    bb_err         err = BB_ERR_INIT;
    measure(NULL, 1, NULL, c, &s);
    bb_layerwise_input in = { &w.model, w.db, w.evaluator, 0, &w.score, 3, &w.space, c, N_CHANGES };
    for (bb_layerwise k = 0; k < BB_LAYERWISE_COUNT; k++) {
        double ratio = 0;
        for (size_t i = 0; i < N_CHANGES; i++) cost[i] = 1234;
        ck_assert_msg(bb_layerwise_costs(&in, k, cost, &tokens, &err) == BB_OK, "%s", err.msg);
        for (size_t i = 0; i < 5; i++) {
            ck_assert(isfinite(cost[i]) && cost[i] > 0);
            ratio += log(cost[i] / c[i].kl) / 5;
        }
        ck_assert(fabs(ratio) < 1e-9);                   /* on the scale of the KLs */
        ck_assert(cost[5] > 1233.9 && cost[5] < 1234.1); /* the embedding is left alone */
        if (k == BB_LAYERWISE_GRADIENT) {
            for (size_t i = 0; i < 2; i++) slope[i] = (nll_towards(2 + i, 0.05) - nll_towards(2 + i, -0.05)) / 0.1;
            ck_assert_msg(fabs(cost[2] / cost[3] / fabs(slope[0] / slope[1]) - 1) < 0.05, "%g, wanted %g", cost[2] / cost[3], slope[0] / slope[1]);
        } else {
            ck_assert(cost[2] > 20 * cost[3]); /* four bits fewer: about 256 times the squared error */
        }
    }
    bb_sensitivity_done(&s);
}
END_TEST

/* ---- proxies ---- */

/* Unit 0 controls 1 and 2 (widths 1, 1/2, 0); unit 3 is free. */
enum { M = 3 + 2 + 3 + 2 };
static const uint32_t offset[] = { 0, 3, 5, 8, 10 };
static const int32_t  controller[] = { -1, 0, 0, -1 };
static const double   width[M] = { 1, 0.5, 0, 1, 1, 1, 1, 1, 1, 1 };
static const bb_units units = { 4, offset, controller, width };

/* Changes whose sketches are random; KLs made up. */
static void made_up(bb_change *c, float *psi, size_t dim, bb_sensitivity *s)
{
    bb_rng rng;
    bb_rng_init(&rng, 1, "made up");
    for (size_t i = 0; i < M; i++) {
        for (size_t k = 0; k < dim; k++) psi[i * dim + k] = (float)bb_rng_normal(&rng);
        c[i] = (bb_change) { 0, 0, bb_rng_uniform(&rng) + 0.2, 0, psi + i * dim };
    }
    *s = (bb_sensitivity) { M, c, dim, 0.1, 42, psi };
}

START_TEST(scores_are_sums_by_definition)
{
    static const uint16_t anchors[][4] = { { 0, 0, 0, 0 }, { 1, 1, 2, 0 }, { 2, 0, 1, 1 } };
    enum { DIM = 5 };
    float                       psi[M * DIM];
    bb_change                   c[M];
    bb_sensitivity              s;
    bb_proxy                    p;
    double                      fallback[M];
    static const bb_proxy_shape shapes[] = { { 1, 0.7 }, { 1, 1 }, { 0.5, 0.25 } };
    const uint16_t             *a = anchors[_i];
    made_up(c, psi, DIM, &s);
    for (size_t i = 0; i < M; i++) fallback[i] = 0.01 * (double)(i + 1);
    ck_assert_int_eq(bb_proxy_from_sensitivity(&units, "x", &s, a, fallback, &shapes[_i], &p, NULL), BB_OK);
    for (uint16_t x0 = 0; x0 < 3; x0++)
        for (uint16_t x1 = 0; x1 < 2; x1++)
            for (uint16_t x2 = 0; x2 < 3; x2++)
                for (uint16_t x3 = 0; x3 < 2; x3++) {
                    const uint16_t x[] = { x0, x1, x2, x3 };
                    double         want = s.anchor_kl, rel = a[0] == 2 ? width[x0] : width[x0] / width[a[0]]; /* width against the anchor's */
                    double         amplitude[] = { 1, sqrt(rel), sqrt(rel), 1 }, square = 0;
                    for (int u = 0; u < 4; u++) {
                        size_t i = offset[u] + x[u];
                        double single = _i < 2 ? c[i].kl - 0.1 : 2 * (sqrt(0.1 * c[i].kl) - 0.1);
                        if (controller[u] < 0) want += single;
                        else if (a[0] == 2) want += fallback[i] * width[x0]; /* the anchor dropped it: full precision's word */
                        else want += single * rel;
                    }
                    /* pairs: 1/2 |sum a psi|^2 less its own squares */
                    for (int k = 0; k < DIM; k++) {
                        double sum = 0;
                        for (int u = 0; u < 4; u++) {
                            double v = amplitude[u] * (double)psi[(offset[u] + x[u]) * DIM + (size_t)k];
                            sum += v;
                            square -= v * v / 2;
                        }
                        square += sum * sum / 2;
                    }
                    want += shapes[_i].pairs * square;
                    ck_assert_msg(fabs(bb_proxy_score(&p, x) - want) < 1e-5, "%g, wanted %g", bb_proxy_score(&p, x), want);
                }
    bb_proxy_done(&p);
}
END_TEST

START_TEST(missing_changes_fall_back)
{
    float          psi[M] = { 0 };
    bb_change      c[M];
    bb_sensitivity s;
    bb_proxy       p, q;
    double         fallback[M] = { 0 };
    const uint16_t anchor[] = { 0, 0, 0, 0 }, x[] = { 0, 1, 0, 0 };
    made_up(c, psi, 1, &s);
    c[offset[1] + 1].kl = (double)NAN;
    fallback[offset[1]] = 0.25;
    fallback[offset[1] + 1] = 0.75;
    ck_assert_int_eq(bb_proxy_from_sensitivity(&units, "x", &s, anchor, fallback, &(bb_proxy_shape) { 1, 0 }, &p, NULL), BB_OK);
    ck_assert_int_eq(bb_proxy_from_costs(&units, "y", fallback, &q, NULL), BB_OK);
    ck_assert(fabs(bb_proxy_score(&p, x) - bb_proxy_score(&p, anchor) - (0.5 - (c[offset[1]].kl - 0.1))) < 1e-12);
    ck_assert(fabs(bb_proxy_score(&q, x) - 0.75) < 1e-12);
    ck_assert(fabs(bb_proxy_score(&q, (const uint16_t[]) { 1, 1, 0, 0 }) - 0.375) < 1e-12); /* half the width, half the cost */
    ck_assert(fabs(bb_proxy_score(&q, (const uint16_t[]) { 2, 1, 0, 0 })) < 1e-12);
    double a = bb_proxy_score(&p, x), b = bb_proxy_score(&q, x);
    ck_assert_int_eq(bb_proxy_mix(&p, &q, 0.25, NULL), BB_OK);
    ck_assert(fabs(bb_proxy_score(&p, x) - (0.75 * a + 0.25 * b)) < 1e-12);
    bb_proxy_done(&p);
    bb_proxy_done(&q);
}
END_TEST

/* Progress counts what an option costs: the blocks behind it, and the heads, of which the wide one of a small model is worth many blocks. */
START_TEST(the_head_counts_as_its_blocks)
{
    bb_block   blocks[3] = { 0 };
    bb_net     net = { .n_layer = 3, .blocks = blocks, .embd = { .rows = 4000, .cols = 100 } };
    bb_windows windows = { .n = 7, .ctx = 16, .n_scored = 8 };
    for (int i = 0; i < 3; i++) blocks[i].w[BB_PART_UP] = (bb_matrix) { .rows = 500, .cols = 100 };
    /* two heads of 8 blocks each, on half of the positions */
    ck_assert_uint_eq(bb_sensitivity_blocks(&net, &windows, &(bb_plan_unit) { .what = BB_PART_UP, .layer = 2 }, false), 1 + 8);
    ck_assert_uint_eq(bb_sensitivity_blocks(&net, &windows, &(bb_plan_unit) { .what = BB_PART_UP, .layer = 0 }, false), 3 + 8);
    ck_assert_uint_eq(bb_sensitivity_blocks(&net, &windows, &(bb_plan_unit) { .what = BB_UNIT_EMBD, .layer = 0 }, false), 3 + 8);
    net.head = (bb_matrix) { .rows = 4000, .cols = 300 };
    ck_assert_uint_eq(bb_sensitivity_blocks(&net, &windows, &(bb_plan_unit) { .what = BB_UNIT_HEAD, .layer = 0 }, false), 3 + 24);
    /* By the sketch only what changes a head runs through it. */
    ck_assert_uint_eq(bb_sensitivity_blocks(&net, &windows, &(bb_plan_unit) { .what = BB_PART_UP, .layer = 2 }, true), 1);
    ck_assert_uint_eq(bb_sensitivity_blocks(&net, &windows, &(bb_plan_unit) { .what = BB_UNIT_HEAD, .layer = 0 }, true), 3 + 24);
    net.head.rows = 1; /* never nothing */
    ck_assert_uint_eq(bb_sensitivity_blocks(&net, &windows, &(bb_plan_unit) { .what = BB_PART_UP, .layer = 1 }, false), 2 + 1);
}
END_TEST

/* What is small by its sketch has half the sketch's squared length as its KL, near the true one; what is large, and what changes the head, is
 * measured as ever; the sketches, the tokens and what a store keeps under its own key are the same. */
START_TEST(small_losses_need_no_head)
{
    bb_change      c[N_CHANGES], d[N_CHANGES];
    bb_sensitivity s, t;
    bb_store      *store;
    uint64_t       n;
    double         half = 0, sorted[2] = { HUGE_VAL, 0 };
    ck_assert_int_eq(bb_store_open(bb_test_path("sketched.db"), &store, NULL), BB_OK);
    measure(NULL, PROBES, store, c, &s);
    for (size_t i = 0; i + 1 < N_CHANGES; i++) {
        sorted[0] = fmin(sorted[0], c[i].kl);
        sorted[1] = fmax(sorted[1], c[i].kl);
    }
    by_sketch = half = sqrt(sorted[0] * sorted[1]);
    bb_net_evaluator_forget(w.evaluator);
    measure(NULL, PROBES, store, d, &t);
    by_sketch = 0;
    ck_assert_int_eq(bb_store_count(store, "changes", &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 2 * N_CHANGES);
    ck_assert_int_eq(memcmp(s.memory, t.memory, s.n * s.dim * sizeof(float)), 0);
    ck_assert(!(t.n_forwarded < s.n_forwarded) && !(t.n_forwarded > s.n_forwarded));
    size_t small = 0;
    for (size_t i = 0; i < N_CHANGES; i++) {
        double length = 0;
        for (size_t k = 0; k < s.dim; k++) length += (double)d[i].psi[k] * (double)d[i].psi[k];
        const bool sketched = i + 1 < N_CHANGES && length / 2 < half;
        small += sketched;
        if (sketched) ck_assert_msg(fabs(d[i].kl - length / 2) < 1e-9 * length && fabs(d[i].kl - c[i].kl) < 0.1 * c[i].kl, "%g, %g", d[i].kl, c[i].kl);
        else ck_assert(memcmp(&d[i].kl, &c[i].kl, sizeof c[i].kl) == 0 && memcmp(&d[i].kl_se, &c[i].kl_se, sizeof c[i].kl) == 0);
        ck_assert_msg(d[i].kl_se > 0.5 * c[i].kl_se && d[i].kl_se < 2 * c[i].kl_se, "%g, %g", d[i].kl_se, c[i].kl_se);
    }
    ck_assert(small > 0 && small + 1 < N_CHANGES);
    bb_sensitivity_done(&s);
    bb_sensitivity_done(&t);
    bb_store_close(store);
}
END_TEST

START_TEST(memory_may_run_out)
{
    for (long n = 0; n < 40; n++) {
        bb_change              c[N_CHANGES];
        bb_sensitivity         s;
        bb_err                 err = BB_ERR_INIT;
        bb_sensitivity_options o = { .probes = 2, .seed = 7, .space = &w.space, .key = "test" };
        size_t                 before = bb_mem_live_bytes();
        fill(c);
        bb_mem_fail_after(n);
        bb_status status = bb_sensitivity_measure(w.evaluator, &w.model, w.db, &w.score, &o, c, N_CHANGES, &s, &err);
        bb_mem_fail_after(-1);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        if (status == BB_OK) bb_sensitivity_done(&s);
        else bb_net_evaluator_forget(w.evaluator);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
}
END_TEST

/* Sketches, and what is computed from one layer alone. */
START_TEST(another_backend_measures_the_same)
{
    guarded                g;
    bb_net_evaluator      *e;
    bb_change              c[2][N_CHANGES];
    bb_sensitivity         s[2];
    double                 cost[2][N_CHANGES], tokens[2];
    bb_sensitivity_options o = { .probes = 3, .seed = 7, .space = &w.space, .key = "test" };
    guarded_make(&g);
    ck_assert_int_eq(bb_net_evaluator_create(&g.backend, &w.model, &w.score, 1, 64u << 20, &e, NULL), BB_OK);
    for (int i = 0; i < 2; i++) {
        fill(c[i]);
        ck_assert_int_eq(bb_sensitivity_measure(i ? e : w.evaluator, &w.model, w.db, &w.score, &o, c[i], N_CHANGES, &s[i], NULL), BB_OK);
    }
    ck_assert(s[0].n * s[0].dim == s[1].n * s[1].dim && memcmp(s[0].memory, s[1].memory, s[0].n * s[0].dim * sizeof(float)) == 0);
    for (bb_layerwise k = 0; k < BB_LAYERWISE_COUNT; k++) {
        for (int i = 0; i < 2; i++) {
            bb_layerwise_input in = { &w.model, w.db, i ? e : w.evaluator, 0, &w.score, 3, &w.space, c[i], N_CHANGES };
            for (size_t n = 0; n < N_CHANGES; n++) cost[i][n] = 1;
            ck_assert_int_eq(bb_layerwise_costs(&in, k, cost[i], &tokens[i], NULL), BB_OK);
        }
        ck_assert_int_eq(memcmp(cost[0], cost[1], sizeof cost[0]), 0);
    }
    for (int i = 0; i < 2; i++) bb_sensitivity_done(&s[i]);
    bb_net_evaluator_destroy(e);
    guarded_done(&g);
}
END_TEST

int main(void)
{
    bb_log_set_level(BB_LOG_QUIET);
    Suite *s = suite_create("sensitivity");
    TCase *t = tcase_create("sketch"), *p = tcase_create("proxy");
    tcase_set_timeout(t, 60);
    tcase_add_unchecked_fixture(t, open_world, close_world);
    tcase_add_test(t, inner_products_are_covariances_of_logit_changes);
    tcase_add_loop_test(t, an_entry_is_one_label_s_logit_change, 0, N_CHANGES);
    tcase_add_test(t, scores_have_their_error_and_price);
    tcase_add_loop_test(t, another_backend_has_the_same_scores, 0, 2);
    tcase_add_test(t, another_backend_measures_the_same);
    tcase_add_test(t, small_changes_add_up);
    tcase_add_test(t, threads_change_no_bit);
    tcase_add_test(t, other_processes_change_no_bit);
    tcase_add_test(t, a_store_answers_the_second_time);
    tcase_add_test(t, the_floor_is_that_of_an_f16_copy);
    tcase_add_test(t, layerwise_costs_are_what_they_say);
    tcase_add_test(t, the_head_counts_as_its_blocks);
    tcase_add_test(t, small_losses_need_no_head);
    tcase_add_test(t, memory_may_run_out);
    tcase_add_loop_test(p, scores_are_sums_by_definition, 0, 3);
    tcase_add_test(p, missing_changes_fall_back);
    suite_add_tcase(s, t);
    suite_add_tcase(s, p);
    return bb_test_run(s);
}
