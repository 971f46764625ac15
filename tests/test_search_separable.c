/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_search_separable.c: problem, space, archive and the separable solver against brute force over every candidate. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "search/archive.h"
#include "search/separable.h"
#include "search/space.h"
#include "tests/support/synthetic.h"

/* Next candidate in odometer order; false after the last. */
static bool next_candidate(const bb_problem *p, uint16_t *x)
{
    for (uint32_t u = 0; u < p->n_units; u++) {
        if (++x[u] < p->units[u].n_options) return true;
        x[u] = 0;
    }
    return false;
}

static int64_t odd_size(void *self, const uint16_t *x)
{
    const bb_problem *p = self;
    const int64_t     bound = bb_problem_bound(p, x);
    return bound - (bound / 32 % 5) * 7; /* a few bytes of padding less, depending on the candidate */
}

/* Least cost within the budget by definition; HUGE_VAL when there is none. */
static double brute(const bb_problem *p, int64_t budget, int64_t *least_bytes)
{
    uint16_t x[SYN_MAX_UNITS] = { 0 };
    double   best = HUGE_VAL;
    *least_bytes = INT64_MAX;
    do {
        const int64_t b = bb_problem_bound(p, x);
        if (b == BB_FORBIDDEN) continue;
        if (b < *least_bytes) *least_bytes = b;
        if (b <= budget) best = fmin(best, bb_problem_cost(p, x));
    } while (next_candidate(p, x));
    return best;
}

/* Bytes of the size of a real model's, which a solver may count in steps. */
static void scale_bytes(syn_problem *s, int64_t by)
{
    s->p.fixed_bytes *= by;
    for (uint32_t u = 0; u < s->p.n_units; u++) {
        const int32_t c = s->units[u].controller;
        const size_t  cells = s->units[u].n_options * (size_t)(c < 0 ? 1 : s->units[c].n_options);
        for (size_t i = 0; i < cells; i++)
            if (!bb_is_forbidden(s->bytes[u][i])) s->bytes[u][i] = by * s->bytes[u][i] + (int64_t)i;
    }
}

START_TEST(exact_solution_equals_brute_force)
{
    const bb_separable_options exact = { .tolerance = 0 };
    for (int k = 0; k < 25; k++) {
        syn_problem  *s = syn_random(1000 + (uint64_t)(100 * _i + k), 1 + (uint32_t)_i % 4, 2, 4);
        bb_separable *sep = NULL;
        bb_err        err = BB_ERR_INIT;
        uint16_t      x[SYN_MAX_UNITS];
        const int64_t scale = k % 2 ? 10007 : 1;
        scale_bytes(s, scale);
        const bb_status created = bb_separable_create(&s->p, &exact, &sep, &err);
        int64_t         least, ignored, lo, hi;
        brute(&s->p, INT64_MAX, &least);
        if (least == INT64_MAX) {
            ck_assert_int_eq(created, BB_INFEASIBLE);
            syn_free(s);
            continue;
        }
        ck_assert_msg(created == BB_OK, "%s", err.msg);
        bb_separable_reach(sep, &lo, &hi);
        ck_assert_int_eq(lo, least);
        for (int64_t budget = least - 40 * scale; budget < least + 2000 * scale; budget += 171 * scale) {
            const double        want = brute(&s->p, budget, &ignored);
            bb_separable_result r;
            const bb_status     st = bb_separable_solve(sep, budget, x, &r, NULL);
            if (isinf(want)) {
                ck_assert_int_eq(st, BB_INFEASIBLE);
                ck_assert(isinf(bb_separable_bound(sep, budget)));
                continue;
            }
            ck_assert_int_eq(st, BB_OK);
            ck_assert_double_eq_tol(r.cost, want, 1e-12);
            ck_assert_double_eq_tol(r.lower_bound, want, 1e-12);
            ck_assert(bb_separable_bound(sep, budget) <= want + 1e-12);
            ck_assert_int_le(bb_problem_bound(&s->p, x), budget);
            ck_assert_double_eq_tol(bb_problem_cost(&s->p, x), r.cost, 1e-12);
        }
        bb_separable_destroy(sep);
        syn_free(s);
    }
}
END_TEST

/* With room for a few states only the optimum may be missed, but the bound stays a bound, and it is below the optimum where states were dropped. */
START_TEST(few_states_lower_the_bound)
{
    int missed = 0;
    for (uint64_t k = 0; k < 40; k++) {
        const bb_separable_options few = { .tolerance = 0, .max_states = 1 + (uint32_t)k % 3 };
        syn_problem               *s = syn_new();
        bb_separable              *sep;
        bb_rng                     r;
        uint16_t                   x[SYN_MAX_UNITS];
        bb_rng_init(&r, k, "states");
        for (int u = 0; u < 8; u++) {
            const uint32_t at = syn_add(s, 3, -1);
            for (int o = 0; o < 3; o++) {
                s->bytes[at][o] = 100 * o + (int64_t)bb_rng_below(&r, 60);
                s->cost[at][o] = 3 - o + bb_rng_uniform(&r);
            }
        }
        ck_assert_int_eq(bb_separable_create(&s->p, &few, &sep, NULL), BB_OK);
        for (int64_t budget = 500; budget < 1400; budget += 97) {
            bb_separable_result result;
            int64_t             least;
            const double        want = brute(&s->p, budget, &least);
            if (isinf(want)) continue;
            ck_assert_int_eq(bb_separable_solve(sep, budget, x, &result, NULL), BB_OK);
            ck_assert_double_le(result.lower_bound, want + 1e-12);
            ck_assert_double_ge(result.cost, want - 1e-12);
            missed += result.cost > want + 1e-12;
        }
        bb_separable_destroy(sep);
        syn_free(s);
    }
    ck_assert_int_gt(missed, 10); /* so that there was something to be wrong about */
}
END_TEST

static int64_t smaller_size(void *self, const uint16_t *x) { return bb_problem_bound(self, x) - 450; }

/* Where every file is smaller than its bound, the optimum is that of exact sizes. */
START_TEST(bytes_that_the_bound_wastes_are_spent)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        const bb_separable_options exact = { .tolerance = 0 };
        syn_problem               *s = syn_random(900 + seed, 3, 2, 4);
        bb_problem                 plain = s->p;
        int64_t                    least;
        uint16_t                   x[SYN_MAX_UNITS];
        bb_separable              *sep = NULL;
        s->p.size = smaller_size;
        s->p.size_self = &plain;
        if (bb_separable_create(&s->p, &exact, &sep, NULL) == BB_OK) {
            brute(&plain, INT64_MAX, &least);
            for (int64_t budget = least; budget < least + 1500; budget += 111) {
                bb_separable_result r;
                ck_assert_int_eq(bb_separable_solve(sep, budget, x, &r, NULL), BB_OK);
                ck_assert_int_le(bb_problem_size(&s->p, x), budget);
                const double want = brute(&plain, budget + 450, &least);
                ck_assert_double_eq_tol(r.cost, want, 1e-12);
                ck_assert_double_le(r.lower_bound, want + 1e-12);
            }
        }
        bb_separable_destroy(sep);
        syn_free(s);
    }
}
END_TEST

static int64_t uneven_size(void *self, const uint16_t *x)
{
    const int64_t bound = bb_problem_bound(self, x);
    if (x[0] == 2) return bound + 100; /* counted short: too large for the budget that it is the optimum of, */
    if (x[0] == 1 && x[1]) return bound + 20;
    return x[0] == 0 && x[1] ? bound - 80 : bound; /* counted long: room is left */
}

/* What is found in the room that an optimum leaves is held against that optimum, not against the one before it, which did not fit. */
START_TEST(room_is_spent_after_a_plan_that_was_too_large)
{
    static const int64_t       bytes[2][3] = { { 50, 140, 200 }, { 0, 50 } };
    static const double        cost[2][3] = { { 5, 1, 0 }, { 5.5, 5 } };
    const bb_separable_options exact = { .tolerance = 0 };
    syn_problem               *s = syn_new();
    bb_problem                 plain;
    bb_separable              *sep;
    bb_separable_result        r;
    uint16_t                   x[2];
    for (uint32_t u = 0; u < 2; u++) {
        const uint32_t n = u ? 2 : 3, at = syn_add(s, n, -1);
        memcpy(s->bytes[at], bytes[u], n * sizeof **bytes);
        memcpy(s->cost[at], cost[u], n * sizeof **cost);
    }
    plain = s->p;
    s->p.size = uneven_size;
    s->p.size_self = &plain;
    ck_assert_int_eq(bb_separable_create(&s->p, &exact, &sep, NULL), BB_OK);
    ck_assert_int_eq(bb_separable_solve(sep, 200, x, &r, NULL), BB_OK);
    ck_assert_uint_eq(x[0], 1);
    ck_assert_uint_eq(x[1], 0);
    ck_assert_int_eq(r.size_bytes, 140);
    ck_assert_double_eq_tol(r.cost, 6.5, 1e-12);
    ck_assert_double_eq_tol(r.lower_bound, 5.5, 1e-12); /* of the tables at the whole budget */
    bb_separable_destroy(sep);
    syn_free(s);
}
END_TEST

/* Exact sizes below the bound: never over budget, and no single upgrade fits the slack. */
START_TEST(topup_leaves_less_than_the_cheapest_upgrade)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        syn_problem *s = syn_transformer(seed, 3, 9, 4);
        bb_problem   plain = s->p;
        s->p.size = odd_size;
        s->p.size_self = &plain;
        bb_separable *sep = NULL;
        bb_space      space;
        uint16_t      x[SYN_MAX_UNITS];
        ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
        ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
        int64_t lo, hi;
        bb_separable_reach(sep, &lo, &hi);
        for (int i = 0; i <= 20; i++) {
            const int64_t       budget = lo + (hi - lo) * i / 20 + i;
            bb_separable_result r;
            ck_assert_int_eq(bb_separable_solve(sep, budget, x, &r, NULL), BB_OK);
            ck_assert_int_le(bb_problem_size(&s->p, x), budget);
            ck_assert_double_le(r.gap, 0.01);
            for (uint32_t u = 0; u < s->p.n_units; u++)
                for (uint16_t o = 0; o < s->units[u].n_options; o++) {
                    uint16_t y[SYN_MAX_UNITS];
                    memcpy(y, x, sizeof x);
                    y[u] = o;
                    if (bb_problem_bound(&s->p, y) == BB_FORBIDDEN || bb_problem_cost(&s->p, y) >= r.cost) continue;
                    ck_assert_int_gt(bb_problem_size(&s->p, y), budget);
                }
        }
        bb_space_done(&space);
        bb_separable_destroy(sep);
        syn_free(s);
    }
}
END_TEST

START_TEST(deltas_agree_with_totals)
{
    syn_problem *s = syn_random(77, 4, 3, 5);
    bb_space     space;
    bb_rng       r;
    uint16_t     x[SYN_MAX_UNITS], y[SYN_MAX_UNITS];
    bb_rng_init(&r, 5, "deltas");
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    for (int k = 0; k < 500; k++) {
        ck_assert(bb_space_random(&space, &r, x));
        ck_assert_int_ne(bb_problem_bound(&s->p, x), BB_FORBIDDEN);
        const uint32_t u = (uint32_t)bb_rng_below(&r, s->p.n_units);
        memcpy(y, x, sizeof x);
        y[u] = (uint16_t)bb_rng_below(&r, s->units[u].n_options);
        const int64_t total = bb_problem_bound(&s->p, y), delta = bb_space_delta_bytes(&space, x, u, y[u]);
        if (total == BB_FORBIDDEN) {
            ck_assert_int_eq(delta, BB_FORBIDDEN);
            continue;
        }
        ck_assert_int_eq(delta, total - bb_problem_bound(&s->p, x));
        ck_assert_double_eq_tol(bb_space_delta_cost(&space, x, u, y[u]), bb_problem_cost(&s->p, y) - bb_problem_cost(&s->p, x), 1e-12);
    }
    bb_space_done(&space);
    syn_free(s);
}
END_TEST

START_TEST(plans_and_candidates_convert_both_ways)
{
    syn_problem *s = syn_transformer(3, 2, 6, 3);
    bb_rng       r;
    bb_space     space;
    uint16_t     x[SYN_MAX_UNITS], y[SYN_MAX_UNITS];
    bb_plan      plan = { 0 };
    bb_err       err = BB_ERR_INIT;
    bb_rng_init(&r, 9, "plans");
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    ck_assert(bb_space_random(&space, &r, x));
    ck_assert_int_eq(bb_plan_space_plan(s->p.plans, x, &plan, NULL), BB_OK);
    ck_assert_uint_eq(plan.n, s->p.n_units);
    ck_assert_int_eq(bb_plan_space_indices(s->p.plans, &plan, y, NULL), BB_OK);
    ck_assert_mem_eq(x, y, s->p.n_units * sizeof *x);
    ck_assert_int_eq(bb_plan_set(&plan, "u000", "nonsense", NULL), BB_OK);
    ck_assert_int_eq(bb_plan_space_indices(s->p.plans, &plan, y, &err), BB_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, "nonsense"));
    ck_assert_int_eq(bb_plan_set(&plan, "u000", "o00", NULL), BB_OK);
    ck_assert_int_eq(bb_plan_set(&plan, "stranger", "o00", NULL), BB_OK);
    err = (bb_err)BB_ERR_INIT;
    ck_assert_int_eq(bb_plan_space_indices(s->p.plans, &plan, y, &err), BB_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, "stranger"));
    bb_plan_done(&plan);
    bb_space_done(&space);
    syn_free(s);
}
END_TEST

START_TEST(invalid_problems_are_refused)
{
    syn_problem *s = syn_transformer(3, 1, 4, 3);
    ck_assert(bb_problem_check(&s->p, NULL) == BB_OK);
    s->cost[1][0] = (double)NAN;
    ck_assert(bb_problem_check(&s->p, NULL) == BB_USAGE);
    s->cost[1][0] = 0;
    s->bytes[1][2] = -1;
    ck_assert(bb_problem_check(&s->p, NULL) == BB_USAGE);
    s->bytes[1][2] = 32;
    s->units[0].controller = 1; /* a controller with a controller */
    ck_assert(bb_problem_check(&s->p, NULL) == BB_USAGE);
    s->units[0].controller = -1;
    ck_assert(bb_problem_check(&s->p, NULL) == BB_OK);
    s->units[2].n_options--; /* not what its space of plans has */
    bb_err        err = BB_ERR_INIT;
    bb_separable *sep = NULL;
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, &err), BB_USAGE);
    ck_assert_ptr_null(sep);
    syn_free(s);
}
END_TEST

/* Plain definition of the non-dominated set, and area by a fine sweep over bytes. */
START_TEST(archive_is_the_nondominated_set_in_any_order)
{
    enum { N = 200 };
    bb_rng           r;
    bb_archive_entry e[N] = { 0 };
    uint16_t         x[N];
    bb_rng_init(&r, (uint64_t)_i, "archive");
    for (uint16_t i = 0; i < N; i++) {
        x[i] = i;
        e[i].x = &x[i];
        e[i].size_bytes = (int64_t)bb_rng_below(&r, 100);
        e[i].score.kl = (double)bb_rng_below(&r, 100) / 10;
        snprintf(e[i].hash, sizeof e[i].hash, "%016x", (unsigned)bb_rng_below(&r, 1u << 30));
    }
    bb_archive a, b;
    bb_archive_init(&a, 1);
    bb_archive_init(&b, 1);
    double volume = 0;
    for (int i = 0; i < N; i++) {
        bool kept;
        ck_assert_int_eq(bb_archive_insert(&a, &e[i], &kept, NULL), BB_OK);
        ck_assert(syn_is_front(&a));
        ck_assert_int_eq(bb_archive_insert(&b, &e[N - 1 - i], NULL, NULL), BB_OK);
        const double now = syn_hypervolume(&a, 90, 8);
        ck_assert_double_ge(now, volume);
        volume = now;
    }
    ck_assert_uint_eq(a.n, b.n);
    for (size_t i = 0; i < a.n; i++) ck_assert_uint_eq(a.entries[i].x[0], b.entries[i].x[0]);
    for (size_t i = 0; i < a.n; i++)
        for (int k = 0; k < N; k++) { /* of equals in both, the smaller hash */
            const bool same = e[k].size_bytes == a.entries[i].size_bytes && e[k].score.kl == a.entries[i].score.kl;
            if (same) ck_assert_int_ge(strcmp(e[k].hash, a.entries[i].hash), 0);
        }
    double area = 0;
    for (int64_t bytes = 0; bytes < 90; bytes++) {
        double best = HUGE_VAL;
        for (int i = 0; i < N; i++)
            if (e[i].size_bytes <= bytes) best = fmin(best, e[i].score.kl);
        const bb_archive_entry *found = bb_archive_best(&a, bytes);
        if (isinf(best)) ck_assert_ptr_null(found);
        else ck_assert_double_eq(found->score.kl, best);
        if (best < 8) area += 8 - best;
    }
    ck_assert_double_eq_tol(area, volume, 1e-9);
    bb_archive_done(&a);
    bb_archive_done(&b);
}
END_TEST

/* Every allocation may fail: the answer is BB_NOMEM and nothing is left behind. */
START_TEST(survives_every_allocation_failure)
{
    syn_problem *s = syn_transformer(1, 1, 5, 3);
    const size_t before = bb_mem_live_bytes();
    uint16_t     x[SYN_MAX_UNITS];
    for (long n = 0;; n++) {
        bb_separable *sep = NULL;
        bb_mem_fail_after(n);
        bb_status st = bb_separable_create(&s->p, NULL, &sep, NULL);
        int64_t   lo, hi;
        if (st == BB_OK) {
            bb_separable_reach(sep, &lo, &hi);
            st = bb_separable_solve(sep, (lo + hi) / 2, x, NULL, NULL);
        }
        bb_mem_fail_after(-1);
        bb_separable_destroy(sep);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
        if (st == BB_OK) break;
        ck_assert_int_eq(st, BB_NOMEM);
    }
    syn_free(s);
}
END_TEST

START_TEST(large_problems_are_fast_and_nearly_closed)
{
    syn_problem  *s = syn_transformer(11, 13, 18, 5); /* 118 units */
    bb_separable *sep = NULL;
    uint16_t      x[SYN_MAX_UNITS];
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    int64_t lo, hi;
    bb_separable_reach(sep, &lo, &hi);
    for (int i = 0; i < 20; i++) {
        bb_separable_result r;
        const int64_t       budget = lo + (hi - lo) * (i + 1) / 21;
        ck_assert_int_eq(bb_separable_solve(sep, budget, x, &r, NULL), BB_OK);
        ck_assert_int_le(r.size_bytes, budget);
        ck_assert_double_le(r.gap, 0.01);
        if (getenv("BB_VERBOSE")) printf("budget %lld cost %.6g gap %.2e slack %lld\n", (long long)budget, r.cost, r.gap, (long long)(budget - r.size_bytes));
    }
    bb_separable_destroy(sep);
    syn_free(s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("search_separable");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, exact_solution_equals_brute_force, 0, 8);
    tcase_add_test(t, few_states_lower_the_bound);
    tcase_add_test(t, bytes_that_the_bound_wastes_are_spent);
    tcase_add_test(t, room_is_spent_after_a_plan_that_was_too_large);
    tcase_add_test(t, topup_leaves_less_than_the_cheapest_upgrade);
    tcase_add_test(t, deltas_agree_with_totals);
    tcase_add_test(t, plans_and_candidates_convert_both_ways);
    tcase_add_test(t, invalid_problems_are_refused);
    tcase_add_loop_test(t, archive_is_the_nondominated_set_in_any_order, 0, 10);
    tcase_add_test(t, survives_every_allocation_failure);
    tcase_add_test(t, large_problems_are_fast_and_nearly_closed);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
