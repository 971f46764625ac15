/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_sample.c: sampling against an independent greedy continuation of a real model; draws repeated from the logits of the plain
 * forward pass, bit by bit, on networks of every architecture; frequencies against probabilities; threads; failures. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "model/net/forward.h"
#include "model/net/sample.h"
#include "tests/support/ref_net.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

START_TEST(greedy_continuation_of_a_real_model)
{
    json_t  *all = json_load_file("tests/data/stories260K.json", 0, NULL), *greedy = json_object_get(all, "greedy");
    json_t  *prompt = json_object_get(greedy, "prompt_ids"), *rest = json_object_get(greedy, "continuation_ids");
    int32_t  start[16], ids[64];
    uint32_t n = (uint32_t)json_array_size(prompt), more = (uint32_t)json_array_size(rest);
    bb_model m;
    ck_assert_int_eq(bb_model_open("tests/data/stories260K.gguf", &m, NULL), BB_OK);
    ck_assert_uint_eq(more, 48);
    for (uint32_t i = 0; i < n; i++) start[i] = (int32_t)json_integer_value(json_array_get(prompt, i));
    bb_sampling p = { start, n, 0, 1, n + more, 0, 1, 0, false };
    ck_assert_int_eq(bb_sample_ids(&m.net, &p, NULL, ids, NULL), BB_OK);
    for (uint32_t i = 0; i < more; i++) ck_assert_int_eq(ids[n + i], json_integer_value(json_array_get(rest, i)));
    bb_model_close(&m);
    json_decref(all);
}
END_TEST

/* Logits of every position of one sequence, by the plain forward pass. */
static void plain_logits(const bb_net *net, const int32_t *ids, uint32_t n, float *z)
{
    bb_forward *f;
    float      *h = BB_NEW(n * bb_row_width(net), float, NULL), *rows = BB_NEW(n * net->n_embd, float, NULL);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, net, 1, n, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_embed(f, net, ids, 1, n, bb_on_cpu(h), NULL), BB_OK);
    for (uint32_t b = 0; b < net->n_layer; b++) ck_assert_int_eq(bb_forward_block(f, net, &net->blocks[b], 1, n, bb_on_cpu(h), NULL, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_streams(&bb_backend_cpu, net, bb_on_cpu(h), n, bb_on_cpu(rows), NULL), BB_OK);
    ck_assert_int_eq(bb_forward_logits(f, net, bb_on_cpu(rows), n, z, NULL), BB_OK);
    bb_forward_destroy(f);
    bb_free(h);
    bb_free(rows);
}

/* exp by the kernel, in float32, relative to the largest; cumulative sums in float64: what sample.h draws by. */
static int32_t draw(const float *z, size_t n, float scale, bb_rng *r)
{
    const bb_kernels *k = bb_kernels_get();
    float             e[64], top = z[k->arg_max(z, n)];
    double            sum = 0, u;
    for (size_t i = 0; i < n; i++) e[i] = (z[i] - top) * scale;
    k->exp(e, e, n);
    for (size_t i = 0; i < n; i++) sum += (double)e[i];
    u = bb_rng_uniform(r) * sum;
    for (size_t i = 0; i < n; i++)
        if ((u -= (double)e[i]) < 0) return (int32_t)i;
    return -1;
}

/* The cache gives the bits of the forward pass: every draw can be repeated from plain logits with the same stream. */
START_TEST(draws_are_those_of_the_forward_pass)
{
    enum { N = 19 /* more than one group */, LENGTH = 40 /* more than one panel */ };
    const ref_spec *spec = &ref_specs[_i];
    ref_model       m;
    int32_t        *ids = BB_NEW(N * LENGTH, int32_t, NULL), *again = BB_NEW(N * LENGTH, int32_t, NULL), prompt[3] = { 1, 0, 2 };
    int             threads = omp_get_max_threads();
    ref_model_make(spec, 4, &m);
    size_t      V = m.net.n_vocab;
    float      *z = BB_NEW(LENGTH * V, float, NULL);
    bb_sampling p = { prompt, _i % 2 ? 3 : 0, 0, N, LENGTH, 0.5, 77, 0, false };
    ck_assert_uint_le(V, 64);
    omp_set_num_threads(3);
    ck_assert_int_eq(bb_sample_ids(&m.net, &p, NULL, ids, NULL), BB_OK);
    for (uint32_t s = 0; s < N; s += 6) {
        bb_rng   r;
        char     name[32];
        uint32_t start = p.n_prompt ? p.n_prompt : 1;
        snprintf(name, sizeof name, "sample %u", s);
        bb_rng_init(&r, 77, name);
        if (p.n_prompt) ck_assert_int_eq(memcmp(ids + s * LENGTH, prompt, sizeof prompt), 0);
        else ck_assert_int_eq(ids[s * LENGTH], (int32_t)bb_rng_below(&r, V));
        plain_logits(&m.net, ids + s * LENGTH, LENGTH, z);
        for (uint32_t t = start; t < LENGTH; t++)
            ck_assert_msg(ids[s * LENGTH + t] == draw(z + (t - 1) * V, V, 2, &r), "%s: sequence %u, token %u", spec->name, s, t);
    }
    omp_set_num_threads(1);
    p.weight_bytes = 1; /* weights decoded strip by strip */
    ck_assert_int_eq(bb_sample_ids(&m.net, &p, NULL, again, NULL), BB_OK);
    ck_assert_int_eq(memcmp(ids, again, N * LENGTH * sizeof *ids), 0);
    omp_set_num_threads(threads);
    bb_free(ids);
    bb_free(again);
    bb_free(z);
    ref_model_free(&m);
}
END_TEST

/* Rough draws: any number of threads, weights held or not; of exact precision they are the exact ones. */
START_TEST(rough_draws_do_not_depend_on_the_cut)
{
    enum { N = 35, LENGTH = 40 }; /* two groups for two threads, and one that they share */
    ref_model m;
    int32_t  *ids[3], threads = omp_get_max_threads();
    ref_model_make(&ref_specs[_i], 4, &m);
    for (int fast = 0; fast < 2; fast++) {
        bb_kernels_set_precision(fast ? BB_FAST : BB_EXACT);
        for (int run = 0; run < 3; run++) {
            const bb_sampling p = { .n_sequences = N, .length = LENGTH, .temperature = 0.5, .seed = 77, .weight_bytes = run == 1, .rough = fast || run < 2 };
            omp_set_num_threads(run == 0 ? 2 : 1);
            ids[run] = BB_NEW(N * LENGTH, int32_t, NULL);
            ck_assert_int_eq(bb_sample_ids(&m.net, &p, NULL, ids[run], NULL), BB_OK);
        }
        for (int run = 1; run < 3; run++) ck_assert_int_eq(memcmp(ids[0], ids[run], N * LENGTH * sizeof *ids[0]), 0);
        for (int run = 0; run < 3; run++) bb_free(ids[run]);
    }
    bb_kernels_set_precision(BB_EXACT);
    omp_set_num_threads(threads);
    ref_model_free(&m);
}
END_TEST

/* Frequencies of the first token after a prompt, chi-square against float64 probabilities; 1: of rough draws. */
START_TEST(frequencies_follow_probabilities)
{
    enum { N = 6000 };
    ref_model m;
    int32_t   prompt[2] = { 3, 1 }, *ids = BB_NEW(N * 3, int32_t, NULL);
    double   *z, square = 0, lse;
    ref_model_make(&ref_specs[0], 4, &m);
    size_t      V = m.net.n_vocab, *count = BB_NEW0(V, size_t, NULL);
    bb_sampling p = { prompt, 2, 0, N, 3, 1, 5, 0, _i == 1 };
    z = BB_NEW(2 * V, double, NULL);
    bb_kernels_set_precision(_i ? BB_FAST : BB_EXACT);
    ck_assert_int_eq(bb_sample_ids(&m.net, &p, NULL, ids, NULL), BB_OK);
    bb_kernels_set_precision(BB_EXACT);
    for (size_t i = 0; i < N; i++) count[ids[i * 3 + 2]]++;
    ref_run(&m.net, prompt, 2, z);
    lse = ref_log_sum_exp(z + V, V);
    for (size_t v = 0; v < V; v++) {
        double want = N * exp(z[V + v] - lse);
        square += ((double)count[v] - want) * ((double)count[v] - want) / want;
    }
    ck_assert_msg(square < (double)V + 5 * sqrt(2.0 * (double)V), "chi-square %g for %zu tokens", square, V); /* 5 sigma */
    ck_assert_msg(square > (double)V - 5 * sqrt(2.0 * (double)V), "chi-square %g for %zu tokens: too even", square, V);
    bb_free(ids);
    bb_free(count);
    bb_free(z);
    ref_model_free(&m);
}
END_TEST

/* A decoder has the bits of the forward pass however the tokens are handed in, for any threads, with weights held or not; and its likeliest token is that of
 * the float64 reference. */
START_TEST(a_decoder_is_the_forward_pass)
{
    enum { LENGTH = 90 /* more rows than go at once */, FIRST = 71, GREEDY = 8 };
    const ref_spec *spec = &ref_specs[_i];
    ref_model       m;
    int32_t         ids[LENGTH];
    int             threads = omp_get_max_threads();
    float          *z, *logits;
    bb_decoder     *d;
    ref_model_make(spec, 4, &m);
    const uint32_t V = m.net.n_vocab;
    double        *ref = BB_NEW(LENGTH * V, double, NULL);
    z = BB_NEW(LENGTH * V, float, NULL);
    for (uint32_t i = 0; i < LENGTH; i++) ids[i] = (int32_t)(i * 7919 % V);
    plain_logits(&m.net, ids, LENGTH, z);
    for (unsigned way = 0; way < 4; way++) {
        omp_set_num_threads(way % 2 ? 3 : 1);
        ck_assert_int_eq(bb_decoder_create(&m.net, LENGTH, way / 2 /* 1: weights decoded strip by strip */, false, &d, NULL), BB_OK);
        omp_set_num_threads(way % 2 ? 3 : 1);
        for (uint32_t at = 0, n = FIRST; at < LENGTH; n = at % 3 + 1) {
            if (n > LENGTH - at) n = LENGTH - at;
            ck_assert_int_eq(bb_decoder_take(d, ids + at, n, &logits, NULL), BB_OK);
            at += n;
            ck_assert_uint_eq(bb_decoder_at(d), at);
            ck_assert_msg(memcmp(logits, z + (at - 1) * V, V * sizeof *logits) == 0, "%s, way %u: logits after %u tokens", spec->name, way, at);
        }
        ck_assert_int_eq(bb_decoder_take(d, ids, 1, &logits, NULL), BB_USAGE); /* full */
        bb_decoder_rewind(d);
        ck_assert_int_eq(bb_decoder_take(d, ids, 2, &logits, NULL), BB_OK);
        ck_assert_msg(memcmp(logits, z + V, V * sizeof *logits) == 0, "%s, way %u: what was taken before is seen", spec->name, way);
        bb_decoder_destroy(d);
    }
    omp_set_num_threads(threads);
    ck_assert_int_eq(bb_decoder_create(&m.net, GREEDY, 0, false, &d, NULL), BB_OK);
    ids[0] = (int32_t)V;
    ck_assert_int_eq(bb_decoder_take(d, ids, 1, &logits, NULL), BB_BAD_FILE);
    ids[0] = 1;
    for (uint32_t t = 0; t + 1 < GREEDY; t++) {
        ck_assert_int_eq(bb_decoder_take(d, ids + t, 1, &logits, NULL), BB_OK);
        ids[t + 1] = (int32_t)bb_kernels_get()->arg_max(logits, V);
        ref_run(&m.net, ids, t + 1, ref);
        for (uint32_t v = 0; v < V; v++) ck_assert_double_le(ref[t * V + v], ref[t * V + (uint32_t)ids[t + 1]] + 1e-4);
    }
    bb_decoder_destroy(d);
    bb_free(ref);
    bb_free(z);
    ref_model_free(&m);
}
END_TEST

/* With integers: near the forward pass, not equal to it, the same for any threads and however the tokens are handed in; all formats, rows that do not fill a
 * panel, a bias, a matrix in F16. */
START_TEST(integers_are_near_the_forward_pass)
{
    static const bb_type types[2][BB_N_PARTS] = { { BB_Q4_0, BB_Q2_K, BB_IQ2_XXS, BB_Q6_K, BB_IQ1_M, BB_Q3_K, BB_IQ3_S },
                                                  { BB_F16, BB_Q4_K, BB_NVFP4, BB_Q8_0, BB_TQ2_0, BB_IQ4_XS, BB_Q5_1 } };
    enum { LENGTH = 24, PROMPT = 9 };
    static const uint32_t parts[] = { PROMPT, 1, 4, 1, LENGTH - PROMPT - 6 };
    const char           *path = "build/tests/integers.gguf";
    tiny_spec             spec = tiny_default("qwen2"); /* has biases */
    bb_model              m;
    bb_decoder           *d;
    int32_t               ids[LENGTH];
    float                *logits, *z;
    int                   threads = omp_get_max_threads();
    spec.n_embd = 256;
    spec.head_dim = 40;
    spec.tied = false;
    spec.head_type = BB_Q4_K;
    for (uint32_t b = 0; b < 2; b++) {
        spec.n_ff[b] = 256;
        spec.n_head[b] = 32; /* rows of 1280 for o */
        spec.n_kv[b] = 1;    /* k and v have 40 rows: two panels and a half */
        memcpy(spec.type[b], types[b], sizeof types[b]);
    }
    tiny_write(&spec, path);
    ck_assert_int_eq(bb_model_open(path, &m, NULL), BB_OK);
    const uint32_t V = m.net.n_vocab;
    z = BB_NEW(LENGTH * V, float, NULL);
    float *first = BB_NEW(LENGTH * V, float, NULL);
    for (uint32_t i = 0; i < LENGTH; i++) ids[i] = (int32_t)(i * 7919 % V);
    plain_logits(&m.net, ids, LENGTH, z);
    for (int way = 0; way < 3; way++) { /* a token at a time; the same by three threads; prompts of several lengths and what is behind them */
        omp_set_num_threads(way ? 3 : 1);
        ck_assert_int_eq(bb_decoder_create(&m.net, LENGTH, 0, true, &d, NULL), BB_OK);
        for (uint32_t at = 0, i = 0, n; at < LENGTH; at += n) {
            n = way < 2 ? 1 : parts[i++];
            ck_assert_int_eq(bb_decoder_take(d, ids + at, n, &logits, NULL), BB_OK);
            const size_t last = (at + n - 1) * V;
            if (way > 0) {
                ck_assert_msg(memcmp(first + last, logits, V * sizeof *logits) == 0, "%s the logits after %u tokens",
                              way == 1 ? "threads change" : "their number changes", at + n);
                continue;
            }
            bool     same = true;
            bb_klsum sum = { 0 };
            for (uint32_t v = 0; v < V; v++) same &= logits[v] <= z[last + v] && logits[v] >= z[last + v];
            bb_klsum_add(bb_kernels_get(), &sum, z + last, logits, V);
            ck_assert_msg(!same && bb_klsum_value(&sum) < 2e-3, "after %u tokens: KL %g", at + n, bb_klsum_value(&sum));
            memcpy(first + last, logits, V * sizeof *logits);
        }
        bb_decoder_destroy(d);
    }
    omp_set_num_threads(threads);
    bb_free(first);
    bb_free(z);
    bb_model_close(&m);
}
END_TEST

START_TEST(a_decoder_fails_cleanly)
{
    ref_model     m;
    const int32_t prompt[4] = { 0, 1, 2, 3 };
    size_t        live;
    bb_decoder   *d;
    float        *logits;
    long          n = 0;
    ref_model_make(&ref_specs[0], 1, &m);
    live = bb_mem_live_bytes();
    for (bb_status status = BB_NOMEM; status != BB_OK; n++) {
        bb_mem_fail_after(n);
        status = bb_decoder_create(&m.net, 8, 0, n % 2, &d, NULL);
        bb_mem_fail_after(-1);
        ck_assert(status == BB_OK || (status == BB_NOMEM && !d));
        if (d) {
            bb_interrupt_raise();
            ck_assert_int_eq(bb_decoder_take(d, prompt, 4, &logits, NULL), BB_INTERRUPTED);
            bb_interrupt_clear();
        }
        bb_decoder_destroy(d);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ck_assert_int_gt(n, 10);
    ref_model_free(&m);
}
END_TEST

START_TEST(failures_say_so)
{
    ref_model   m;
    int32_t     ids[64], prompt[4] = { 0, 1, 2, 3 };
    bb_sampling p = { prompt, 4, 0, 2, 8, 1, 1, 0, false };
    long        n = 0;
    size_t      live;
    ref_model_make(&ref_specs[0], 1, &m);
    p.length = 3;
    ck_assert_int_eq(bb_sample_ids(&m.net, &p, NULL, ids, NULL), BB_USAGE);
    p.length = 8;
    p.temperature = -1;
    ck_assert_int_eq(bb_sample_ids(&m.net, &p, NULL, ids, NULL), BB_USAGE);
    p.temperature = 1;
    prompt[2] = (int32_t)m.net.n_vocab;
    ck_assert_int_eq(bb_sample_ids(&m.net, &p, NULL, ids, NULL), BB_BAD_FILE);
    prompt[2] = 2;
    bb_interrupt_raise();
    bb_err heard = BB_ERR_INIT;
    ck_assert_int_eq(bb_sample_ids(&m.net, &p, NULL, ids, &heard), BB_INTERRUPTED);
    ck_assert_msg(strstr(heard.msg, "interrupted before a sequence") != NULL, "%s", heard.msg); /* whose cache may be gigabytes of zeros */
    bb_interrupt_clear();
    live = bb_mem_live_bytes();
    for (bb_status status = BB_NOMEM; status != BB_OK; n++) {
        bb_mem_fail_after(n);
        status = bb_sample_ids(&m.net, &p, NULL, ids, NULL);
        bb_mem_fail_after(-1);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ck_assert_int_gt(n, 10);
    ref_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sample");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, greedy_continuation_of_a_real_model);
    tcase_add_loop_test(t, draws_are_those_of_the_forward_pass, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, rough_draws_do_not_depend_on_the_cut, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, frequencies_follow_probabilities, 0, 2);
    tcase_add_loop_test(t, a_decoder_is_the_forward_pass, 0, (int)ref_n_specs);
    tcase_add_test(t, integers_are_near_the_forward_pass);
    tcase_add_test(t, a_decoder_fails_cleanly);
    tcase_add_test(t, failures_say_so);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
