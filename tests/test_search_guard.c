/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_search_guard.c: the paired test against numbers worked out by hand, and the guard against a search that was lied to. */
#include <check.h>
#include <gsl/gsl_errno.h>
#include <stdlib.h>
#include <string.h>

#include "search/crossover.h"
#include "search/guard.h"
#include "search/paired.h"
#include "search/space.h"
#include "tests/support/synthetic.h"

START_TEST(paired_test_agrees_with_tables)
{
    /* differences -1, -2, -3, -4: mean -2.5, sd 1.2910, se 0.6455, t -3.8730; two-sided p for 3 degrees of freedom is 0.03047. */
    const double a[4] = { 1, 1, 1, 1 }, b[4] = { 2, 3, 4, 5 };
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
    bb_ledger   *l;
    bb_archive   archive;
    uint16_t     x[SYN_MAX_UNITS];
    w->e.evaluate = lie;
    /* The separable table lies as well: cheap is dear. */
    ck_assert_int_eq(bb_variant_init(&s->p, &v, NULL), BB_OK);
    bb_variant_power(&v, 0.01);
    for (uint32_t u = 0; u < s->p.n_units; u++)
        for (size_t i = 0; i < bb_problem_rows(&s->p, u) * s->units[u].n_options; i++) v.cost[u][i] = fabs(1 - 0.9 * v.cost[u][i]);
    for (uint32_t u = 0; u < s->p.n_units; u++) x[u] = s->units[u].n_options == 10 ? 6 : 0; /* one format, nothing pruned */
    const int64_t budget = bb_problem_size(&s->p, x);
    bb_search     o = { .seed = 1, .budgets = &budget, .n_budgets = 1, .stop.max_rounds = 3 };
    ck_assert_int_eq(syn_search(&bb_method_refine, &v.problem, &w->e, NULL, NULL, &o, &archive, &l, NULL), BB_OK);
    const bb_archive_entry *found = bb_archive_best(&archive, budget);
    bb_score                true_uniform, answer;
    const uint16_t         *px = x;
    ck_assert_int_eq(syn_evaluate(w, &px, 1, 2, &true_uniform, NULL, NULL), BB_OK);
    ck_assert_double_gt(found->score.kl, true_uniform.kl); /* the lie worked, or this test shows nothing */

    const uint16_t *both[2] = { x, found->x };
    double          windows[2][SYN_WINDOWS], *into[2] = { windows[0], windows[1] };
    bb_score        scores[2];
    ck_assert_int_eq(bb_ledger_evaluate(l, both, 2, 2, scores, into, NULL), BB_OK);
    const bb_guard_row rows[2] = { { "uniform", budget, windows[0], true }, { "search", found->size_bytes, windows[1], false } };
    bb_guard_verdict   verdict;
    ck_assert_int_eq(bb_guard(rows, 2, SYN_WINDOWS, budget, 0, &verdict, NULL), BB_OK);
    ck_assert_uint_eq(verdict.winner, 0);
    ck_assert_uint_eq(verdict.searched, 1);
    px = both[verdict.winner];
    ck_assert_int_eq(syn_evaluate(w, &px, 1, 2, &answer, NULL, NULL), BB_OK);
    ck_assert(answer.kl <= true_uniform.kl);
    ck_assert_double_lt(verdict.margin, 0);
    bb_archive_done(&archive);
    bb_ledger_close(l);
    bb_variant_done(&v);
    free(w);
    syn_free(s);
}
END_TEST

/* ---- the rule on plain numbers ---- */

enum { WINDOWS = 4 };

static bb_guard_verdict judge(const bb_guard_row *rows, size_t n, int64_t budget, double alpha)
{
    bb_guard_verdict v = { .winner = 99 };
    ck_assert_int_eq(bb_guard(rows, n, WINDOWS, budget, alpha, &v, NULL), BB_OK);
    return v;
}

/* Three simple plans of KL 5, 1 and 0.9 and a searched one; what decides is the paired difference to the one of 0.9. */
static const double five[WINDOWS] = { 5, 5, 5, 5 }, one[WINDOWS] = { 1, 1, 1, 1 }, point9[WINDOWS] = { 0.9, 0.9, 0.9, 0.9 }, nan4[WINDOWS] = { 1, NAN, 1, 1 },
                    infinite[WINDOWS] = { 1, HUGE_VAL, 1, 1 };

static bb_guard_verdict beside(const double *searched, int64_t budget)
{
    const bb_guard_row rows[4] = { { "a", 100, five, true }, { "b", 200, one, true }, { "c", 200, point9, true }, { "s", 200, searched, false } };
    return judge(rows, 4, budget, 0);
}

START_TEST(the_searched_plan_is_kept_when_clearly_better)
{
    const double     better[WINDOWS] = { 0.5, 0.5, 0.5, 0.5 };
    bb_guard_verdict v = beside(better, 200);
    ck_assert_uint_eq(v.winner, 3);
    ck_assert_uint_eq(v.searched, 3);
    ck_assert_uint_eq(v.simple, 2); /* the best of the simple ones, not the first */
    ck_assert_double_eq_tol(v.margin, 0.4, 1e-12);
    ck_assert_double_eq_tol(v.se, 0, 1e-12);
    ck_assert_double_eq(v.p, 0);
}
END_TEST

START_TEST(the_simpler_plan_wins_when_the_search_is_worse)
{
    const double     worse[WINDOWS] = { 1.3, 1.4, 1.5, 1.4 };
    bb_guard_verdict v = beside(worse, 200);
    ck_assert_uint_eq(v.winner, 2);
    ck_assert_double_eq_tol(v.margin, -0.5, 1e-12);
    ck_assert_double_gt(v.p, 0.99);
}
END_TEST

/* Means are 0.1 apart; the standard error of the paired difference, over windows that differ by -1.5, -0.5, 0.5, 1.5 times `spread`, is 0.6455 times it. */
START_TEST(one_standard_error_decides)
{
    static const struct {
        double spread;
        size_t winner;
    } cases[] = { { 1, 2 }, { 0.2, 2 }, { 0.14, 2 }, { 0.125, 3 }, { 0.1, 3 }, { 0.001, 3 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double w[WINDOWS];
        for (int k = 0; k < WINDOWS; k++) w[k] = 0.8 + cases[i].spread * (k - 1.5);
        bb_guard_verdict v = beside(w, 200);
        ck_assert_double_eq_tol(v.margin, 0.1, 1e-12);
        ck_assert_double_eq_tol(v.se, 0.6454972243679028 * cases[i].spread, 1e-12);
        ck_assert_msg(v.winner == cases[i].winner, "spread %g: z %g, p %g, winner %zu", cases[i].spread, v.margin / v.se, v.p, v.winner);
    }
    /* Student's t with 3 degrees of freedom: P(t > 1.1968) = 0.1587. At a spread of 0.125 z is 1.2394, p 0.1517; at 0.14 z is 1.1066, p 0.1745. */
    double w[WINDOWS];
    for (int k = 0; k < WINDOWS; k++) w[k] = 0.8 + 0.125 * (k - 1.5);
    ck_assert_double_eq_tol(beside(w, 200).p, 0.1517, 5e-4);
    const bb_guard_row rows[2] = { { "c", 200, point9, true }, { "s", 200, w, false } };
    ck_assert_uint_eq(judge(rows, 2, 200, 0.15).winner, 0); /* a stricter level */
    ck_assert_uint_eq(judge(rows, 2, 200, 0.153).winner, 1);
}
END_TEST

/* Noise that both plans share is no noise: the windows differ by 100 nats, the plans by 0.1 in each. */
START_TEST(what_windows_share_cancels)
{
    const double       u[WINDOWS] = { 1, 101, 1, 101 }, s[WINDOWS] = { 0.9, 100.9, 0.9, 100.9 };
    const bb_guard_row rows[2] = { { "u", 10, u, true }, { "s", 10, s, false } };
    bb_guard_verdict   v = judge(rows, 2, 10, 0);
    ck_assert_uint_eq(v.winner, 1);
    ck_assert_double_lt(v.se, 1e-12);
}
END_TEST

START_TEST(ties_sizes_and_broken_scores)
{
    const double     better[WINDOWS] = { 0.5, 0.5, 0.5, 0.5 };
    bb_guard_verdict v = beside(point9, 200);
    ck_assert_uint_eq(v.winner, 2); /* the same scores: the simpler one */
    ck_assert_double_eq(v.p, 0.5);
    v = beside(better, 150); /* only the plan of KL 5 fits */
    ck_assert_uint_eq(v.winner, 0);
    ck_assert_uint_eq(v.searched, BB_GUARD_NONE);
    ck_assert(isnan(v.margin) && isnan(v.p));
    ck_assert_uint_eq(beside(nan4, 200).winner, 2); /* NaN never wins, infinity neither */
    ck_assert_uint_eq(beside(infinite, 200).winner, 2);
    const bb_guard_row alone[3] = { { "n", 100, nan4, true }, { "s", 100, one, false }, { "t", 100, one, false } };
    ck_assert_uint_eq(judge(alone, 3, 100, 0).winner, 1); /* no simple plan with a score; of equals the earlier row */
    const bb_guard_row worse[2] = { { "s", 100, one, false }, { "t", 100, point9, true } };
    ck_assert_uint_eq(judge(worse, 2, 100, 1).winner, 1); /* whatever the test asks for, who is behind does not win */
    ck_assert_int_eq(bb_guard(alone, 1, WINDOWS, 100, 0, &v, NULL), BB_GUARD);
    ck_assert_int_eq(bb_guard(alone, 3, WINDOWS, 99, 0, &v, NULL), BB_GUARD);
    ck_assert_int_eq(bb_guard(NULL, 0, WINDOWS, 99, 0, &v, NULL), BB_GUARD);
}
END_TEST

/* The guard may prefer a simple plan that is larger and no better than what it chose at a smaller size: such a row is on no front. */
START_TEST(the_front_has_no_dominated_row)
{
    const double kl[6] = { 5, 3, 3.1, 2, 2, 1 };
    const size_t winners[6] = { 0, 1, 2, 3, 4, 1 };
    bool         on[6];
    bb_guard_front(kl, 6, winners, 6, on);
    ck_assert(on[0] && on[1] && !on[2] && on[3] && !on[4] && !on[5]);
    bb_guard_front(kl, 6, winners + 2, 1, on); /* what did not win makes nothing needless */
    ck_assert(!on[0] && !on[1] && on[2] && !on[3]);
}
END_TEST

/* Four sizes of each kind with KLs set by hand: pruning wins up to 301 bytes and loses at 401. */
static bb_status crossing_evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    static const double kl[2][4] = { { 5, 4, 3.01, 1 }, { 3, 2, 3.0, 2 } }; /* [pruned][size] */
    (void)self, (void)level, (void)err;
    for (size_t i = 0; i < n; i++) {
        out[i] = (bb_score) { .kl = kl[x[i][0]][x[i][1]], .tokens = 1 };
        for (int k = 0; window_kl && k < 4; k++) window_kl[i][k] = out[i].kl + (x[i][0] ? 0.1 * (k - 1.5) : 0);
    }
    return BB_OK;
}

START_TEST(crossover_of_pruning_and_quantization)
{
    static const uint32_t n_windows[1] = { 4 };
    const bb_evaluator    e = { .n_levels = 1, .n_windows = n_windows, .evaluate = crossing_evaluate, .key = "" };
    syn_problem          *s = syn_new();
    const uint32_t        c = syn_add(s, 2, -1), u = syn_add(s, 4, (int32_t)c);
    for (int64_t k = 0; k < 4; k++) {
        s->bytes[u][k] = 100 * (k + 1) + 1;
        s->bytes[u][4 + k] = 100 * (k + 1); /* narrower */
    }
    bb_ledger      *l;
    bb_score        score[8];
    uint16_t        v[8][2];
    const uint16_t *x[8];
    for (uint16_t i = 0; i < 8; i++) {
        v[i][0] = i / 4;
        v[i][1] = i % 4;
        x[i] = v[i];
    }
    ck_assert_int_eq(bb_ledger_open(&s->p, &e, NULL, NULL, &l, NULL), BB_OK);
    ck_assert_int_eq(bb_ledger_evaluate(l, x, 8, 0, score, NULL, NULL), BB_OK);
    bb_crossover_row rows[5] = { { .budget_bytes = 100 }, { .budget_bytes = 101 }, { .budget_bytes = 201 }, { .budget_bytes = 301 }, { .budget_bytes = 401 } };
    bb_crossover     found;
    ck_assert_int_eq(bb_crossover_find(&s->p, l, 1, rows, 5, &found, NULL), BB_OK);
    ck_assert(isnan(rows[0].kl_plain) && rows[0].kl_pruned == 3);
    ck_assert_double_eq_tol(rows[1].difference, -2, 1e-12);
    ck_assert_double_eq_tol(rows[3].difference, 2 - 3.01, 1e-12); /* the smaller pruned plan serves the larger budget */
    ck_assert_double_eq_tol(rows[4].difference, 1, 1e-12);
    ck_assert_int_eq(found.bytes, 301);
    ck_assert_int_eq(found.low, 301);
    ck_assert_int_eq(found.high, 401);
    /* 20 standard errors are 1.29 nats: what is smaller is no difference */
    ck_assert_int_eq(bb_crossover_find(&s->p, l, 20, rows, 5, &found, NULL), BB_OK);
    ck_assert_double_eq_tol(rows[3].se, 0.1 * sqrt(5.0 / 3) / 2, 1e-9);
    ck_assert_int_eq(found.bytes, 301);
    ck_assert_int_eq(found.low, 201);
    ck_assert_int_eq(found.high, -1);
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
    tcase_add_test(t, the_searched_plan_is_kept_when_clearly_better);
    tcase_add_test(t, the_simpler_plan_wins_when_the_search_is_worse);
    tcase_add_test(t, one_standard_error_decides);
    tcase_add_test(t, what_windows_share_cancels);
    tcase_add_test(t, ties_sizes_and_broken_scores);
    tcase_add_test(t, the_front_has_no_dominated_row);
    tcase_add_test(t, crossover_of_pruning_and_quantization);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
