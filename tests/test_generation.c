/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_generation.c: agreement lengths against greedy decoding by definition (every token from a fresh float64 pass over all before it),
 * KL along draws against float64 distributions, standard errors, censoring, failures. */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "eval/generation.h"
#include "tests/support/guarded.h"
#include "tests/support/pair.h"
#include "tests/support/support.h"

enum { PROMPT = 4, NEW = 70 /* reaches the third span */, ASKED = 9 };

static const bb_generation_spec spec = { .n_prompts = ASKED, .n_prompt = PROMPT, .n_new = NEW, .seed = 3 };

static int32_t next_greedy(const bb_net *net, const int32_t *ids, uint32_t n)
{
    double  *z = BB_NEW((size_t)n * net->n_vocab, double, NULL), *last = z + (size_t)(n - 1) * net->n_vocab;
    uint32_t best = 0;
    ref_run(net, ids, n, z);
    for (uint32_t v = 1; v < net->n_vocab; v++) best = last[v] > last[best] ? v : best;
    bb_free(z);
    return (int32_t)best;
}

static void decode(const bb_net *net, int32_t *ids)
{
    for (uint32_t t = PROMPT; t < PROMPT + NEW; t++) ids[t] = next_greedy(net, ids, t);
}

START_TEST(agreement_is_that_of_decoding_with_both)
{
    pair                 p;
    bb_generation       *g;
    bb_generation_result r;
    uint32_t             agreement[ASKED], whole = 0;
    double               lengths[ASKED], mean, error;
    static const size_t  which[] = { 0, 4, 5 };
    pair_make(&p, which[_i], 0.2);
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, 2, &spec, 1 << 20, NULL, &g, NULL), BB_OK);
    ck_assert_int_eq(bb_generation_measure(&p.small.net, g, &r, agreement, NULL), BB_OK);
    for (size_t i = 0; i < ASKED; i++) {
        int32_t  a[PROMPT + NEW], b[PROMPT + NEW];
        uint32_t n = 0;
        memcpy(a, p.text.ids + i * 10 / ASKED * PROMPT, PROMPT * sizeof *a); /* ten windows fit; nine are spread over them */
        a[0] = 2;
        memcpy(b, a, PROMPT * sizeof *a);
        decode(&p.full.net, a);
        decode(&p.small.net, b);
        ck_assert_int_eq(memcmp(a, bb_generation_ids(g, true) + i * (PROMPT + NEW), sizeof a), 0);
        while (n < NEW && a[PROMPT + n] == b[PROMPT + n]) n++;
        ck_assert_uint_eq(agreement[i], n);
        lengths[i] = n;
        whole += n == NEW;
    }
    pair_mean(lengths, ASKED, &mean, &error);
    ck_assert_double_eq_tol(r.agree_length, mean, 1e-9);
    ck_assert_double_eq_tol(r.agree_length_se, error, 1e-9);
    ck_assert(mean > 0 && mean < NEW && error > 0); /* else the test says nothing */
    ck_assert_uint_eq(r.n_whole, whole);
    ck_assert(r.n_prompts == ASKED && r.n_prompt == PROMPT && r.n_new == NEW);
    bb_generation_destroy(g);
    pair_done(&p);
}
END_TEST

START_TEST(kl_along_the_draws)
{
    static const uint32_t ends[4] = { 0, 16, 64, NEW };
    pair                  p;
    bb_generation        *g;
    bb_generation_result  r;
    double                kl[3][ASKED] = { { 0 } };
    pair_make(&p, 4, 0.2);
    size_t  V = p.full.net.n_vocab, T = PROMPT + NEW;
    double *a = BB_NEW(T * V, double, NULL), *b = BB_NEW(T * V, double, NULL);
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, -1, &spec, 1 << 20, NULL, &g, NULL), BB_OK);
    ck_assert_int_eq(bb_generation_measure(&p.small.net, g, &r, NULL, NULL), BB_OK);
    for (size_t i = 0; i < ASKED; i++) {
        const int32_t *ids = bb_generation_ids(g, false) + i * T;
        ck_assert_int_eq(memcmp(ids, p.text.ids + i * 10 / ASKED * PROMPT, PROMPT * sizeof *ids), 0);
        ref_run(&p.full.net, ids, (uint32_t)T, a);
        ref_run(&p.small.net, ids, (uint32_t)T, b);
        for (size_t s = 0; s < 3; s++)
            for (size_t t = ends[s]; t < ends[s + 1]; t++) /* new token t (from 0) is predicted at position PROMPT + t - 1 */
                kl[s][i] += ref_kl(a + (PROMPT + t - 1) * V, b + (PROMPT + t - 1) * V, V) / (ends[s + 1] - ends[s]);
    }
    for (size_t s = 0; s < 3; s++) {
        double mean, error;
        pair_mean(kl[s], ASKED, &mean, &error);
        ck_assert_uint_eq(r.span[s].first, ends[s] + 1);
        ck_assert_uint_eq(r.span[s].last, ends[s + 1]);
        ck_assert_double_eq_tol(r.span[s].kl, mean, 1e-4 * mean);
        ck_assert_double_eq_tol(r.span[s].kl_se, error, 1e-3 * error);
        ck_assert(mean > 1e-4 && r.span[s].top1 > 0 && r.span[s].top1 < 1);
    }
    bb_generation_destroy(g);
    bb_free(a);
    bb_free(b);
    pair_done(&p);
}
END_TEST

START_TEST(draws_depend_on_the_seed_and_nothing_else)
{
    pair                 p;
    bb_generation       *g[3];
    bb_generation_result r[2];
    bb_generation_spec   other = spec;
    int                  threads = omp_get_max_threads();
    size_t               bytes = ASKED * (PROMPT + NEW) * sizeof(int32_t);
    other.seed = 4;
    pair_make(&p, 0, 0.2);
    omp_set_num_threads(3);
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, 1, &spec, 1 << 20, NULL, &g[0], NULL), BB_OK);
    ck_assert_int_eq(bb_generation_measure(&p.small.net, g[0], &r[0], NULL, NULL), BB_OK);
    omp_set_num_threads(1);
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, 1, &spec, 0 /* states computed again */, NULL, &g[1], NULL), BB_OK);
    ck_assert_int_eq(bb_generation_measure(&p.small.net, g[1], &r[1], NULL, NULL), BB_OK);
    omp_set_num_threads(threads);
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, 1, &other, 0, NULL, &g[2], NULL), BB_OK);
    ck_assert_int_eq(memcmp(bb_generation_ids(g[0], false), bb_generation_ids(g[1], false), bytes), 0);
    ck_assert_int_ne(memcmp(bb_generation_ids(g[0], false), bb_generation_ids(g[2], false), bytes), 0);
    ck_assert_int_eq(memcmp(bb_generation_ids(g[0], true), bb_generation_ids(g[2], true), bytes), 0);
    ck_assert(r[0].agree_length == r[1].agree_length && r[0].span[1].kl == r[1].span[1].kl && r[0].span[2].kl_se == r[1].span[2].kl_se);
    for (int i = 0; i < 3; i++) bb_generation_destroy(g[i]);
    pair_done(&p);
}
END_TEST

START_TEST(the_same_network_never_differs)
{
    pair                 p;
    bb_generation       *g;
    bb_generation_result r;
    bb_generation_spec   s = spec;
    s.n_new = 20; /* no third span, a short second one */
    pair_make(&p, 0, 0);
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, -1, &s, 1 << 20, NULL, &g, NULL), BB_OK);
    ck_assert_int_eq(bb_generation_measure(&p.small.net, g, &r, NULL, NULL), BB_OK);
    ck_assert(r.agree_length == 20 && r.agree_length_se == 0 && r.n_whole == ASKED);
    ck_assert(r.span[0].kl == 0 && r.span[1].kl == 0 && r.span[0].top1 == 1);
    ck_assert(r.span[1].first == 17 && r.span[1].last == 20 && r.span[2].last < r.span[2].first && isnan(r.span[2].kl));
    bb_generation_destroy(g);
    pair_done(&p);
}
END_TEST

START_TEST(defaults_stay_within_the_trained_context)
{
    bb_net n = { .n_ctx_train = 0 };
    ck_assert(bb_generation_default(&n).n_prompt == 32 && bb_generation_default(&n).n_new == 256);
    n.n_ctx_train = 4096;
    ck_assert(bb_generation_default(&n).n_prompt == 32 && bb_generation_default(&n).n_new == 256);
    n.n_ctx_train = 256;
    ck_assert(bb_generation_default(&n).n_prompt == 32 && bb_generation_default(&n).n_new == 224);
    n.n_ctx_train = 8;
    ck_assert(bb_generation_default(&n).n_prompt == 3 && bb_generation_default(&n).n_new == 5);
}
END_TEST

START_TEST(failures_say_so)
{
    pair                 p;
    bb_generation       *g;
    bb_generation_result r;
    bb_generation_spec   s = spec;
    bb_status            status = BB_NOMEM;
    size_t               live;
    pair_make(&p, 0, 0.1);
    live = bb_mem_live_bytes();
    s.n_prompts = 0;
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, -1, &s, 0, NULL, &g, NULL), BB_USAGE);
    s = spec, s.n_new = 0;
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, -1, &s, 0, NULL, &g, NULL), BB_USAGE);
    s = spec, s.n_prompt = 2;
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, -1, &s, 0, NULL, &g, NULL), BB_USAGE);
    s.n_prompt = PAIR_TEXT + 1;
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, -1, &s, 0, NULL, &g, NULL), BB_BAD_FILE);
    s = spec, s.n_new = 5;
    for (long n = 0; status != BB_OK; n++) {
        bb_mem_fail_after(n);
        status = bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, -1, &s, 1 << 20, NULL, &g, NULL);
        if (status == BB_OK) {
            status = bb_generation_measure(&p.small.net, g, &r, NULL, NULL);
            bb_generation_destroy(g);
        }
        bb_mem_fail_after(-1);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ck_assert_int_eq(bb_generation_create(&bb_backend_cpu, &p.full.net, &p.text, -1, &s, 1 << 20, NULL, &g, NULL), BB_OK);
    bb_interrupt_raise();
    ck_assert_int_eq(bb_generation_measure(&p.small.net, g, &r, NULL, NULL), BB_INTERRUPTED);
    bb_interrupt_clear();
    bb_generation_destroy(g);
    pair_done(&p);
}
END_TEST

START_TEST(another_backend_gives_the_same)
{
    pair                 p;
    guarded              g;
    bb_generation       *on[2];
    bb_generation_result r[2];
    pair_make(&p, 0, 0.2);
    guarded_make(&g);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(bb_generation_create(i ? &g.backend : &bb_backend_cpu, &p.full.net, &p.text, 1, &spec, 1 << 20, NULL, &on[i], NULL), BB_OK);
        ck_assert_int_eq(bb_generation_measure(&p.small.net, on[i], &r[i], NULL, NULL), BB_OK);
    }
    ck_assert(r[0].agree_length == r[1].agree_length && r[0].span[1].kl == r[1].span[1].kl && r[0].span[2].kl_se == r[1].span[2].kl_se);
    for (int i = 0; i < 2; i++) bb_generation_destroy(on[i]);
    ck_assert_uint_gt(g.n_weights, 0);
    guarded_done(&g);
    pair_done(&p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("generation");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, agreement_is_that_of_decoding_with_both, 0, 3);
    tcase_add_test(t, kl_along_the_draws);
    tcase_add_test(t, draws_depend_on_the_seed_and_nothing_else);
    tcase_add_test(t, another_backend_gives_the_same);
    tcase_add_test(t, the_same_network_never_differs);
    tcase_add_test(t, defaults_stay_within_the_trained_context);
    tcase_add_test(t, failures_say_so);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
