/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_search_guard.c: the paired test against numbers worked out by hand, and the guard against a search that was lied to. */
#include <check.h>
#include <gsl/gsl_errno.h>
#include <stdlib.h>
#include <string.h>

#include "search/crossover.h"
#include "search/guard.h"
#include "search/paired.h"
#include "search/refine.h"
#include "search/space.h"
#include "tests/support/synthetic.h"

START_TEST(paired_test_agrees_with_tables)
{
    /* differences -1, -2, -3, -4: mean -2.5, sd 1.2910, se 0.6455, t -3.8730; two-sided p for 3 degrees of freedom is 0.03047. */
    const double a[4] = {1, 1, 1, 1}, b[4] = {2, 3, 4, 5};
    double       mean, se;
    bb_paired_difference(a, b, 4, &mean, &se);
    ck_assert_double_eq_tol(mean, -2.5, 1e-15);
    ck_assert_double_eq_tol(se, 0.6454972243679028, 1e-15);
    ck_assert_double_eq_tol(bb_paired_p_better(mean, se, 4), 0.03047 / 2, 1e-5);
    ck_assert_double_eq_tol(bb_paired_p_better(-mean, se, 4), 1 - 0.03047 / 2, 1e-5);
    ck_assert_double_eq(bb_paired_p_better(0, 0, 4), 0.5);
    ck_assert_double_eq(bb_paired_p_better(-1, 0, 1), 0);
    ck_assert_double_eq(bb_paired_p_better((double)NAN, 0, 4), 1);
}
END_TEST

/* Honest at the top level; below it the sign of every preference is turned round. */
static bb_status lie(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    const syn_world *w = self;
    const bb_status  status = syn_evaluate(self, x, n, level, out, window_kl, err);
    for (size_t i = 0; i < n && level < 2; i++) {
        out[i].kl = 1 / (1e-6 + out[i].kl);
        for (uint32_t k = 0; window_kl && window_kl[i] && k < w->n_windows[level]; k++) window_kl[i][k] = 1 / (1e-6 + window_kl[i][k]);
    }
    return status;
}

START_TEST(a_lying_proxy_cannot_make_the_answer_worse_than_uniform)
{
    syn_problem *s = syn_transformer(50, 3, 10, 4);
    syn_world   *w = syn_world_new(&s->p, 9, 1.5, 0.5);
    bb_variant   v;
    bb_separable *sep;
    bb_ledger    *l;
    bb_archive    archive;
    uint16_t      x[SYN_MAX_UNITS];
    w->e.evaluate = lie;
    /* The separable table lies as well: cheap is dear. */
    ck_assert_int_eq(bb_variant_init(&s->p, &v, NULL), BB_OK);
    bb_variant_power(&v, 0.01);
    for (uint32_t u = 0; u < s->p.n_units; u++)
        for (size_t i = 0; i < bb_problem_rows(&s->p, u) * s->units[u].n_options; i++) v.cost[u][i] = fabs(1 - 0.9 * v.cost[u][i]);
    ck_assert_int_eq(bb_separable_create(&v.problem, NULL, &sep, NULL), BB_OK);
    for (uint32_t u = 0; u < s->p.n_units; u++) x[u] = s->units[u].n_options == 10 ? 6 : 0; /* one format, nothing pruned */
    const int64_t budget = bb_problem_size(&s->p, x);
    ck_assert_int_eq(bb_ledger_open(&v.problem, &w->e, NULL, NULL, &l, NULL), BB_OK);
    bb_archive_init(&archive, s->p.n_units);
    const bb_refine_options o = {.seed = 1, .budgets = &budget, .n_budgets = 1, .max_rounds = 3};
    ck_assert_int_eq(bb_refine(&v.problem, sep, l, &o, &archive, NULL, NULL), BB_OK);
    const bb_archive_entry *found = bb_archive_best(&archive, budget);
    bb_score                true_uniform, answer;
    const uint16_t         *px = x;
    ck_assert_int_eq(syn_evaluate(w, &px, 1, 2, &true_uniform, NULL, NULL), BB_OK);
    ck_assert_double_gt(found->score.kl, true_uniform.kl); /* the lie worked, or this test shows nothing */

    const bb_guard_plan  simple[1] = {{"uniform", x}};
    const bb_guard_input in = {.budget_bytes = budget, .winner = {"search", found->x}, .simple = simple, .n_simple = 1};
    bb_guard_row rows[2];
    size_t       chosen = 99;
    ck_assert_int_eq(bb_guard(&s->p, l, &in, rows, &chosen, NULL), BB_OK);
    ck_assert_uint_eq(chosen, 0);
    px = chosen ? found->x : x;
    ck_assert_int_eq(syn_evaluate(w, &px, 1, 2, &answer, NULL, NULL), BB_OK);
    ck_assert(answer.kl <= true_uniform.kl);
    ck_assert_double_lt(rows[0].margin, 0);
    bb_archive_done(&archive);
    bb_ledger_close(l);
    bb_separable_destroy(sep);
    bb_variant_done(&v);
    free(w);
    syn_free(s);
}
END_TEST

/* Scores straight from the candidate: option o of the only unit has KL level[o], with window noise that pairs away for equal noise. */
static double plain_kl[6];

static bb_status plain_evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl,
                                bb_err *err)
{
    (void)self, (void)level, (void)err;
    for (size_t i = 0; i < n; i++) {
        out[i] = (bb_score){.kl = plain_kl[x[i][0]], .tokens = 1};
        for (int k = 0; window_kl && k < 4; k++) window_kl[i][k] = plain_kl[x[i][0]] + (x[i][0] == 2 ? (k - 1.5) : 0);
    }
    return BB_OK;
}

static size_t judge(const syn_problem *s, uint16_t winner, uint16_t a, uint16_t b, bb_status want, bb_guard_row rows[3])
{
    static const uint32_t n_windows[1] = {4};
    bb_evaluator e = {.n_levels = 1, .n_windows = n_windows, .evaluate = plain_evaluate, .key = ""};
    bb_ledger   *l;
    size_t       chosen = 99;
    const bb_guard_plan  simple[2] = {{"a", &a}, {"b", &b}};
    const bb_guard_input in = {.budget_bytes = 400, .winner = {"w", &winner}, .simple = simple, .n_simple = 2};
    ck_assert_int_eq(bb_ledger_open(&s->p, &e, NULL, NULL, &l, NULL), BB_OK);
    ck_assert_int_eq(bb_guard(&s->p, l, &in, rows, &chosen, NULL), want);
    bb_ledger_close(l);
    return chosen;
}

START_TEST(the_rule_case_by_case)
{
    syn_problem *s = syn_new();
    const uint32_t u = syn_add(s, 6, -1);
    for (int64_t k = 0; k < 6; k++) s->bytes[u][k] = 100 * k;
    const double kl[6] = {5, 1, 0.9, 0.5, (double)NAN, 0.1};
    memcpy(plain_kl, kl, sizeof kl);
    bb_guard_row r[3];
    ck_assert_uint_eq(judge(s, 3, 0, 1, BB_OK, r), 2);      /* clearly better */
    ck_assert_double_eq_tol(r[1].margin, 0.5, 1e-12);
    ck_assert_uint_eq(judge(s, 2, 0, 1, BB_OK, r), 1);      /* better by 0.1 with a standard error of 0.65: the simpler plan */
    ck_assert_double_eq_tol(r[1].se, 0.6454972243679028, 1e-12);
    ck_assert_uint_eq(judge(s, 3, 3, 0, BB_OK, r), 0);      /* the same plan: the simpler name */
    ck_assert_uint_eq(judge(s, 1, 5, 0, BB_OK, r), 2);      /* what exceeds the budget does not count */
    ck_assert(!r[0].fits && isnan(r[0].margin));
    ck_assert_uint_eq(judge(s, 4, 0, 1, BB_OK, r), 1);      /* NaN never wins */
    ck_assert_uint_eq(judge(s, 1, 4, 4, BB_OK, r), 2);
    judge(s, 4, 4, 4, BB_GUARD, r);
    judge(s, 5, 0, 1, BB_USAGE, r);
    syn_free(s);
}
END_TEST

/* Four sizes of each kind with KLs set by hand: pruning wins up to 301 bytes and loses at 401. */
static bb_status crossing_evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl,
                                   bb_err *err)
{
    static const double kl[2][4] = {{5, 4, 3.01, 1}, {3, 2, 3.0, 2}}; /* [pruned][size] */
    (void)self, (void)level, (void)err;
    for (size_t i = 0; i < n; i++) {
        out[i] = (bb_score){.kl = kl[x[i][0]][x[i][1]], .tokens = 1};
        for (int k = 0; window_kl && k < 4; k++) window_kl[i][k] = out[i].kl + (x[i][0] ? 0.1 * (k - 1.5) : 0);
    }
    return BB_OK;
}

START_TEST(crossover_of_pruning_and_quantization)
{
    static const uint32_t n_windows[1] = {4};
    const bb_evaluator e = {.n_levels = 1, .n_windows = n_windows, .evaluate = crossing_evaluate, .key = ""};
    syn_problem   *s = syn_new();
    const uint32_t c = syn_add(s, 2, -1), u = syn_add(s, 4, (int32_t)c);
    for (int64_t k = 0; k < 4; k++) {
        s->bytes[u][k] = 100 * (k + 1) + 1;
        s->bytes[u][4 + k] = 100 * (k + 1); /* narrower */
    }
    bb_ledger *l;
    bb_score   score[8];
    uint16_t   v[8][2];
    const uint16_t *x[8];
    for (uint16_t i = 0; i < 8; i++) {
        v[i][0] = i / 4;
        v[i][1] = i % 4;
        x[i] = v[i];
    }
    ck_assert_int_eq(bb_ledger_open(&s->p, &e, NULL, NULL, &l, NULL), BB_OK);
    ck_assert_int_eq(bb_ledger_evaluate(l, x, 8, 0, score, NULL, NULL), BB_OK);
    bb_crossover_row rows[5] = {{.budget_bytes = 100}, {.budget_bytes = 101}, {.budget_bytes = 201}, {.budget_bytes = 301}, {.budget_bytes = 401}};
    bb_crossover     found;
    ck_assert_int_eq(bb_crossover_find(&s->p, l, 1, rows, 5, &found, NULL), BB_OK);
    ck_assert(isnan(rows[0].kl_plain) && rows[0].kl_pruned == 3);
    ck_assert_double_eq_tol(rows[1].difference, -2, 1e-12);
    ck_assert_double_eq_tol(rows[3].difference, 2 - 3.01, 1e-12); /* the smaller pruned plan serves the larger budget */
    ck_assert_double_eq_tol(rows[4].difference, 1, 1e-12);
    ck_assert_int_eq(found.bytes, 301);
    ck_assert_int_eq(found.low, 301);
    ck_assert_int_eq(found.high, 401);
    bb_ledger_close(l);
    syn_free(s);
}
END_TEST

int main(void)
{
    gsl_set_error_handler_off();
    Suite *s = suite_create("search_guard");
    TCase *t = tcase_create("core");
    tcase_add_test(t, paired_test_agrees_with_tables);
    tcase_add_test(t, a_lying_proxy_cannot_make_the_answer_worse_than_uniform);
    tcase_add_test(t, the_rule_case_by_case);
    tcase_add_test(t, crossover_of_pruning_and_quantization);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
