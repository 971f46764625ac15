/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_divergence.c: where greedy decoding leaves that of full precision, against decoding with both networks token by token (as `bitbudget generate`
 * does) and from the definition in float64; standard errors; the same network; another backend; failures. */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "eval/divergence.h"
#include "model/net/sample.h"
#include "tests/support/guarded.h"
#include "tests/support/pair.h"
#include "tests/support/support.h"

enum { PROMPT = 4, NEW = 24, LENGTH = PROMPT + NEW, ASKED = 9 };

static const bb_greedy_spec spec = { ASKED, PROMPT, NEW };

static int32_t likeliest(const double *z, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t v = 1; v < n; v++) best = z[v] > z[best] ? v : best;
    return (int32_t)best;
}

/* ids: the prompt, then what one token after the other gives. */
static void decode(const bb_net *net, int32_t *ids)
{
    bb_decoder *d;
    float      *z;
    double     *row = BB_NEW(net->n_vocab, double, NULL), *all = BB_NEW((size_t)LENGTH * net->n_vocab, double, NULL);
    ck_assert_int_eq(bb_decoder_create(net, LENGTH, 0, false, &d, NULL), BB_OK);
    ck_assert_int_eq(bb_decoder_take(d, ids, PROMPT, &z, NULL), BB_OK);
    for (uint32_t t = PROMPT; t < LENGTH; t++) {
        for (uint32_t v = 0; v < net->n_vocab; v++) row[v] = (double)z[v];
        ids[t] = likeliest(row, net->n_vocab);
        ref_run(net, ids, t, all); /* the definition */
        ck_assert_int_eq(ids[t], likeliest(all + (size_t)(t - 1) * net->n_vocab, net->n_vocab));
        ck_assert_int_eq(bb_decoder_take(d, ids + t, 1, &z, NULL), BB_OK);
    }
    bb_decoder_destroy(d);
    bb_free(row);
    bb_free(all);
}

START_TEST(it_is_where_decoding_with_both_parts)
{
    static const size_t which[] = { 0, 4, 5 };
    pair                p;
    bb_greedy          *g;
    bb_divergence       d;
    uint32_t            same[ASKED], n_places = 0;
    double              share[ASKED], places[ASKED], agree[ASKED], mean, error;
    pair_make(&p, which[_i], 0.1);
    ck_assert_int_eq(bb_greedy_create(&p.full.net, &p.text, 2, &spec, NULL, &g, NULL), BB_OK);
    ck_assert_int_eq(bb_greedy_measure(&bb_backend_cpu, &p.small.net, g, NULL, same, &d, NULL), BB_OK);
    ck_assert(bb_greedy_prompts(g) == ASKED && d.n_prompts == ASKED && d.n_prompt == PROMPT && d.n_new == NEW);
    for (size_t i = 0; i < ASKED; i++) {
        int32_t  a[LENGTH], b[LENGTH];
        uint32_t n = 0;
        memcpy(a, p.text.ids + i * 10 / ASKED * PROMPT, PROMPT * sizeof *a); /* ten windows fit; nine are spread over them */
        a[0] = 2;
        memcpy(b, a, PROMPT * sizeof *a);
        decode(&p.full.net, a);
        decode(&p.small.net, b);
        ck_assert_int_eq(memcmp(a, bb_greedy_ids(g) + i * LENGTH, sizeof a), 0);
        while (n < NEW && a[PROMPT + n] == b[PROMPT + n]) n++;
        ck_assert_uint_eq(same[i], n);
        share[i] = n < NEW, agree[i] = n;
        if (n < NEW) places[n_places++] = n + 1;
    }
    ck_assert(n_places > 1 && n_places < ASKED); /* else the test says nothing */
    pair_mean(share, ASKED, &mean, &error);
    ck_assert(fabs(d.share - mean) < 1e-12 && fabs(d.share_se - error) < 1e-12);
    pair_mean(places, n_places, &mean, &error);
    ck_assert(fabs(d.place - mean) < 1e-9 && fabs(d.place_se - error) < 1e-9);
    pair_mean(agree, ASKED, &mean, &error);
    ck_assert(fabs(d.agree - mean) < 1e-9 && fabs(d.agree_se - error) < 1e-9);
    bb_greedy_destroy(g);
    pair_done(&p);
}
END_TEST

START_TEST(a_network_never_leaves_itself)
{
    pair          p;
    bb_greedy    *g;
    bb_divergence d;
    uint32_t      same[ASKED];
    pair_make(&p, 4, 0);
    ck_assert_int_eq(bb_greedy_create(&p.full.net, &p.text, -1, &spec, NULL, &g, NULL), BB_OK);
    ck_assert_int_eq(memcmp(bb_greedy_ids(g), p.text.ids, PROMPT * sizeof(int32_t)), 0); /* no BOS */
    ck_assert_int_eq(bb_greedy_measure(&bb_backend_cpu, &p.small.net, g, NULL, same, &d, NULL), BB_OK);
    ck_assert(d.share == 0 && d.share_se == 0 && isnan(d.place) && isnan(d.place_se) && d.agree == NEW && d.agree_se == 0);
    for (size_t i = 0; i < ASKED; i++) ck_assert_uint_eq(same[i], NEW);
    bb_greedy_destroy(g);
    pair_done(&p);
}
END_TEST

START_TEST(the_same_for_any_threads_and_on_another_backend)
{
    pair          p;
    bb_greedy    *g[2];
    bb_divergence d[3];
    uint32_t      same[3][ASKED];
    guarded       far;
    const int     threads = omp_get_max_threads();
    pair_make(&p, 5, 0.1);
    guarded_make(&far);
    for (int i = 0; i < 2; i++) {
        omp_set_num_threads(1 + 2 * i);
        ck_assert_int_eq(bb_greedy_create(&p.full.net, &p.text, 1, &spec, NULL, &g[i], NULL), BB_OK);
        ck_assert_int_eq(bb_greedy_measure(&bb_backend_cpu, &p.small.net, g[i], NULL, same[i], &d[i], NULL), BB_OK);
    }
    omp_set_num_threads(threads);
    ck_assert_int_eq(bb_greedy_measure(&far.backend, &p.small.net, g[0], NULL, same[2], &d[2], NULL), BB_OK);
    ck_assert_int_eq(memcmp(bb_greedy_ids(g[0]), bb_greedy_ids(g[1]), ASKED * LENGTH * sizeof(int32_t)), 0);
    for (int i = 1; i < 3; i++) {
        ck_assert_int_eq(memcmp(same[0], same[i], sizeof same[0]), 0);
        ck_assert(d[0].share == d[i].share && d[0].place == d[i].place && d[0].place_se == d[i].place_se && d[0].agree_se == d[i].agree_se);
    }
    for (int i = 0; i < 2; i++) bb_greedy_destroy(g[i]);
    guarded_done(&far);
    pair_done(&p);
}
END_TEST

START_TEST(what_cannot_be_compared)
{
    static const struct {
        bb_greedy_spec spec;
        bb_status      status;
    } wrong[] = { { { 0, PROMPT, NEW }, BB_USAGE }, { { 1, 2, NEW }, BB_USAGE }, { { 1, PROMPT, 0 }, BB_USAGE }, { { 1, PAIR_TEXT + 1, NEW }, BB_BAD_FILE } };
    pair          p;
    bb_greedy    *g;
    bb_divergence d;
    bb_err        err = BB_ERR_INIT;
    pair_make(&p, 0, 0.1);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ck_assert_int_eq(bb_greedy_create(&p.full.net, &p.text, 1, &wrong[i].spec, NULL, &g, &err), wrong[i].status);
        ck_assert(!g && err.msg[0]);
    }
    ck_assert_int_eq(bb_greedy_create(&p.full.net, &p.text, 1, &spec, NULL, &g, NULL), BB_OK);
    float *w = (float *)(uintptr_t)p.small.net.out_norm;
    w[0] = (float)NAN;
    ck_assert_int_eq(bb_greedy_measure(&bb_backend_cpu, &p.small.net, g, NULL, NULL, &d, NULL), BB_NUMERIC);
    bb_interrupt_raise();
    ck_assert_int_eq(bb_greedy_measure(&bb_backend_cpu, &p.full.net, g, NULL, NULL, &d, NULL), BB_INTERRUPTED);
    bb_interrupt_clear();
    bb_greedy_destroy(g);
    pair_done(&p);
}
END_TEST

/* A long continuation is one batch, and an interruption is heard before that is done. */
START_TEST(an_interruption_is_heard_within_a_batch)
{
    static const bb_greedy_spec long_one = { 1, PROMPT, 4000 };
    pair                        p;
    bb_greedy                  *g;
    bb_divergence               d;
    pair_make(&p, 0, 0.1);
    ck_assert_int_eq(bb_greedy_create(&p.full.net, &p.text, 2, &long_one, NULL, &g, NULL), BB_OK);
    bb_interrupt_at(bb_now_s() + 0.01);
    ck_assert_int_eq(bb_greedy_measure(&bb_backend_cpu, &p.small.net, g, NULL, NULL, &d, NULL), BB_INTERRUPTED);
    bb_interrupt_clear();
    bb_greedy_destroy(g);
    pair_done(&p);
}
END_TEST

START_TEST(memory_failures)
{
    pair          p;
    bb_divergence d;
    bb_status     status = BB_NOMEM;
    long          n = 0;
    pair_make(&p, 8, 0.1);
    const size_t live = bb_mem_live_bytes();
    for (; status != BB_OK; n++) {
        bb_greedy *g = NULL;
        bb_mem_fail_after(n);
        status = bb_greedy_create(&p.full.net, &p.text, 1, &spec, NULL, &g, NULL);
        if (status == BB_OK) status = bb_greedy_measure(&bb_backend_cpu, &p.small.net, g, NULL, NULL, &d, NULL);
        bb_mem_fail_after(-1);
        bb_greedy_destroy(g);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ck_assert_int_gt(n, 10);
    pair_done(&p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("divergence");
    TCase *t = tcase_create("divergence");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, it_is_where_decoding_with_both_parts, 0, 3);
    tcase_add_test(t, a_network_never_leaves_itself);
    tcase_add_test(t, the_same_for_any_threads_and_on_another_backend);
    tcase_add_test(t, what_cannot_be_compared);
    tcase_add_test(t, an_interruption_is_heard_within_a_batch);
    tcase_add_test(t, memory_failures);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
