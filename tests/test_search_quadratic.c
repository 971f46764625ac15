/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_search_quadratic.c: the quadratic search and its bound against every plan of small problems; speed on a large one. */
#include <check.h>
#include <gsl/gsl_errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "search/quadratic.h"
#include "search/separable.h"
#include "tests/support/synthetic.h"

typedef struct fixture {
    syn_problem *s;
    bb_space     space;
    float       *gram;
    double      *linear[SYN_MAX_UNITS];
    bb_quadratic q;
} fixture;

enum { MAX_K = 512 };

/* psi(u, o) = sqrt(2 cost) along a direction of u plus an own part; a quarter of the linear tables have entries of either sign. */
static fixture make_wide(syn_problem *s, uint64_t seed, double common, bool with_linear, size_t K)
{
    fixture f = { .s = s };
    bb_rng  r;
    bb_rng_init(&r, seed, "gram");
    ck_assert_int_eq(bb_space_init(&s->p, &f.space, NULL), BB_OK);
    const size_t M = f.space.offset[s->p.n_units];
    double      *psi = calloc(M * K, sizeof *psi);
    f.gram = calloc(M * M, sizeof *f.gram);
    for (uint32_t u = 0; u < s->p.n_units; u++) {
        double d[MAX_K];
        for (size_t k = 0; k < K; k++) d[k] = bb_rng_normal(&r) + (k == 0 ? common : 0);
        for (uint32_t o = 0; o < s->units[u].n_options; o++)
            for (size_t k = 0; k < K; k++) psi[(f.space.offset[u] + o) * K + k] = sqrt(2 * s->cost[u][o] / (double)K) * (d[k] + 0.7 * bb_rng_normal(&r));
        const size_t cells = bb_problem_rows(&s->p, u) * s->units[u].n_options;
        f.linear[u] = with_linear && bb_rng_below(&r, 4) ? calloc(cells, sizeof(double)) : NULL;
        for (size_t i = 0; f.linear[u] && i < cells; i++) f.linear[u][i] = 0.1 * bb_rng_normal(&r) * s->cost[u][i];
    }
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < M; j++) {
            double sum = 0;
            for (size_t k = 0; k < K; k++) sum += psi[i * K + k] * psi[j * K + k];
            f.gram[i * M + j] = (float)sum;
        }
    free(psi);
    return f;
}

static fixture make(syn_problem *s, uint64_t seed, double common, bool with_linear) { return make_wide(s, seed, common, with_linear, 24); }

static void aim(fixture *f, bool with_linear) /* after the fixture has its final place */
{
    f->q = (bb_quadratic) { &f->space, f->gram, 0, with_linear ? (const double *const *)f->linear : NULL };
}

static void drop(fixture *f)
{
    for (uint32_t u = 0; u < f->s->p.n_units; u++) free(f->linear[u]);
    free(f->gram);
    bb_space_done(&f->space);
    syn_free(f->s);
}

/* 1/2 sum_ij G_ij x_i x_j + l over the full indicator vector, as the formula says. */
static double by_definition(const fixture *f, const uint16_t *x)
{
    const size_t M = f->space.offset[f->s->p.n_units];
    double       total = 0;
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < M; j++) {
            uint32_t u = 0, v = 0;
            while (f->space.offset[u + 1] <= i) u++;
            while (f->space.offset[v + 1] <= j) v++;
            if (x[u] == i - f->space.offset[u] && x[v] == j - f->space.offset[v]) total += 0.5 * (double)f->gram[i * M + j];
        }
    for (uint32_t u = 0; f->q.linear && u < f->s->p.n_units; u++) {
        const int32_t c = f->s->units[u].controller;
        if (f->linear[u]) total += f->linear[u][(c < 0 ? 0 : x[c]) * f->s->units[u].n_options + x[u]];
    }
    return total;
}

START_TEST(incremental_changes_agree_with_the_definition)
{
    fixture            f = make(syn_random(300, 4, 2, 5), 1, 1, true);
    bb_rng             r;
    uint16_t           x[SYN_MAX_UNITS];
    bb_quadratic_state st;
    aim(&f, true);
    bb_rng_init(&r, 2, "walk");
    ck_assert(bb_space_random(&f.space, &r, x));
    ck_assert_double_eq_tol(bb_quadratic_score(&f.q, x), by_definition(&f, x), 1e-9);
    ck_assert_int_eq(bb_quadratic_init(&f.q, x, &st, NULL), BB_OK);
    for (int k = 0; k < 300; k++) {
        const uint32_t u = (uint32_t)bb_rng_below(&r, f.s->p.n_units), o = (uint32_t)bb_rng_below(&r, f.s->units[u].n_options);
        if (bb_space_delta_bytes(&f.space, st.x, u, o) == BB_FORBIDDEN) continue;
        const double before = st.score, delta = bb_quadratic_delta(&st, u, o);
        bb_quadratic_move(&st, u, o);
        ck_assert_double_eq_tol(st.score, before + delta, 1e-12);
        ck_assert_double_eq_tol(st.score, by_definition(&f, st.x), 1e-6);
        ck_assert_int_eq(st.bytes, bb_problem_bound(&f.s->p, st.x));
    }
    bb_quadratic_done(&st);
    drop(&f);
}
END_TEST

static bool next_candidate(const bb_problem *p, uint16_t *x)
{
    for (uint32_t u = 0; u < p->n_units; u++) {
        if (++x[u] < p->units[u].n_options) return true;
        x[u] = 0;
    }
    return false;
}

START_TEST(small_problems_are_solved_and_bounded)
{
    int solved = 0, total = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        syn_problem *s = syn_random(500 + seed + 10 * (uint64_t)_i, 3, 1, 5);
        fixture      f = make(s, seed, _i % 3, _i % 2);
        aim(&f, _i % 2);
        int64_t  least = INT64_MAX;
        uint16_t x[SYN_MAX_UNITS] = { 0 };
        do {
            const int64_t b = bb_problem_bound(&s->p, x);
            if (b != BB_FORBIDDEN && b < least) least = b;
        } while (next_candidate(&s->p, x));
        for (int64_t budget = least; least != INT64_MAX && budget < least + 3000; budget += 500) {
            double best = HUGE_VAL, lower, shift;
            memset(x, 0, sizeof x);
            do {
                const int64_t b = bb_problem_bound(&s->p, x);
                if (b != BB_FORBIDDEN && b <= budget) best = fmin(best, bb_quadratic_score(&f.q, x));
            } while (next_candidate(&s->p, x));
            bb_quadratic_result r;
            ck_assert_int_eq(bb_quadratic_solve(&f.q, budget, NULL, x, &r, NULL), BB_OK);
            ck_assert_int_le(bb_problem_bound(&s->p, x), budget);
            ck_assert_double_eq_tol(r.score, bb_quadratic_score(&f.q, x), 1e-9);
            ck_assert(r.score >= best - 1e-9);
            ck_assert_int_eq(bb_quadratic_bound(&f.q, &budget, 1, 0, &lower, &shift, NULL), BB_OK);
            ck_assert_msg(lower <= best + 1e-6 * fabs(best) + 1e-9, "bound %g above the optimum %g (shift %g)", lower, best, shift);
            solved += r.score <= best + 1e-9;
            total++;
        }
        const int64_t impossible = least - 1;
        double        lower;
        if (least != INT64_MAX) {
            ck_assert_int_eq(bb_quadratic_solve(&f.q, impossible, NULL, x, NULL, NULL), BB_INFEASIBLE);
            ck_assert_int_eq(bb_quadratic_bound(&f.q, &impossible, 1, 0, &lower, NULL, NULL), BB_OK);
            ck_assert(isinf(lower));
        }
        drop(&f);
    }
    ck_assert_int_gt(total, 0);
    ck_assert_int_eq(solved, total);
}
END_TEST

/* A few bytes beside the bound, either way; with forbids, some plans cannot be loaded. */
typedef struct uneven {
    const bb_problem *p; /* as the tables have it */
    uint64_t          seed;
    bool              forbids;
} uneven;

static int64_t uneven_size(void *self, const uint16_t *x)
{
    const uneven *u = self;
    const int64_t bound = bb_problem_bound(u->p, x);
    uint64_t      h = u->seed;
    for (uint32_t i = 0; i < u->p->n_units; i++) {
        h = (h ^ (x[i] + 1U)) * 1099511628211U;
        h ^= h >> 29;
    }
    if (bb_is_forbidden(bound) || (u->forbids && h % 3 == 0)) return BB_FORBIDDEN;
    return u->forbids ? bound : bound + (int64_t)(h % 31) - 15;
}

/* By exact sizes, too, where tables count a file short or know nothing of what cannot be loaded. */
START_TEST(what_is_found_fits)
{
    int solved = 0;
    for (uint64_t seed = 0; seed < 30; seed++) {
        syn_problem     *s = syn_random(900 + seed, 4, 3, 5);
        const bb_problem plain = s->p;
        uneven           size = { &plain, 7919 * seed + 1, _i };
        bb_separable    *sep = NULL;
        int64_t          low, high;
        uint16_t         x[SYN_MAX_UNITS];
        s->p.size = uneven_size;
        s->p.size_self = &size;
        fixture f = make(s, seed, 0, false);
        aim(&f, false);
        if (bb_separable_create(&s->p, NULL, &sep, NULL) == BB_OK) {
            bb_separable_reach(sep, &low, &high);
            for (int64_t budget = low + 20; low < BB_FORBIDDEN && budget < high; budget += (high - low) / 7 + 1) {
                bb_quadratic_result r;
                if (bb_quadratic_solve(&f.q, budget, NULL, x, &r, NULL) != BB_OK) continue;
                ck_assert_int_le(bb_problem_size(&s->p, x), budget);
                ck_assert_double_eq_tol(r.score, bb_quadratic_score(&f.q, x), 1e-9);
                solved++;
            }
        }
        bb_separable_destroy(sep);
        drop(&f);
    }
    ck_assert_int_gt(solved, 50);
}
END_TEST

/* Without interactions the answer is the separable optimum, and the whole of the blocks can move: the bound closes. */
START_TEST(without_interactions_it_is_the_separable_problem)
{
    syn_problem *s = syn_transformer(8, 3, 8, 1);
    fixture      f = make(s, 1, 0, false);
    const size_t M = f.space.offset[s->p.n_units];
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < M; j++) f.gram[i * M + j] = 0;
    for (uint32_t u = 0; u < s->p.n_units; u++)
        for (uint32_t o = 0; o < s->units[u].n_options; o++) f.gram[(f.space.offset[u] + o) * (M + 1)] = (float)(2 * s->cost[u][o]);
    aim(&f, false);
    bb_separable *sep;
    int64_t       lo, hi;
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    bb_separable_reach(sep, &lo, &hi);
    for (int i = 1; i < 5; i++) {
        const int64_t       budget = lo + (hi - lo) * i / 6;
        uint16_t            x[SYN_MAX_UNITS];
        bb_quadratic_result r;
        bb_separable_result want;
        double              lower, shift;
        ck_assert_int_eq(bb_quadratic_solve(&f.q, budget, NULL, x, &r, NULL), BB_OK);
        ck_assert_int_eq(bb_separable_solve(sep, budget, x, &want, NULL), BB_OK);
        ck_assert_double_le(r.score, want.cost * 1.0002);
        ck_assert_int_eq(bb_quadratic_bound(&f.q, &budget, 1, 0, &lower, &shift, NULL), BB_OK);
        ck_assert_double_eq(shift, 1);
        ck_assert_double_le(lower, r.score * 1.000001);
        ck_assert_double_ge(lower, 0.999 * bb_separable_bound(sep, budget)); /* the LP relaxation of the separable problem */
    }
    bb_separable_destroy(sep);
    drop(&f);
}
END_TEST

/* Each move alone makes it worse, both together better: one step finds that only with their interaction. */
START_TEST(a_pair_is_scored_with_its_interaction)
{
    syn_problem *s = syn_new();
    for (int k = 0; k < 2; k++) {
        const uint32_t u = syn_add(s, 2, -1);
        s->bytes[u][0] = s->bytes[u][1] = 10;
    }
    fixture                    f = make(s, 1, 0, false);
    static const float         G[16] = { 1, 0, 0, 0, /**/ 0, 3, 0, -3, /**/ 0, 0, 1, 0, /**/ 0, -3, 0, 3 }; /* rows: unit 0 option 0, 1, unit 1 option 0, 1 */
    const uint16_t             start[2] = { 0, 0 };
    uint16_t                   x[SYN_MAX_UNITS];
    bb_quadratic_result        r;
    const bb_quadratic_options o = { .seed = 1, .start = start, .iterations = 1, .starts = 1 };
    memcpy(f.gram, G, sizeof G);
    aim(&f, false);
    ck_assert_int_eq(bb_quadratic_solve(&f.q, 100, &o, x, &r, NULL), BB_OK);
    ck_assert(x[0] == 1 && x[1] == 1);
    ck_assert_double_eq_tol(r.score, 0, 1e-12);
    drop(&f);
}
END_TEST

START_TEST(large_problems_are_fast)
{
    syn_problem *s = syn_transformer(11, 6, 9, 4); /* 55 units, 436 options */
    fixture      f = make_wide(s, 3, 4, false, MAX_K);
    aim(&f, false);
    bb_separable *sep;
    int64_t       lo, hi, budgets[4];
    double        lower[4], shift;
    uint16_t      x[SYN_MAX_UNITS];
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    bb_separable_reach(sep, &lo, &hi);
    for (int i = 0; i < 4; i++) budgets[i] = lo + (hi - lo) * (i + 1) / 8;
    double start = bb_now_s();
    ck_assert_int_eq(bb_quadratic_bound(&f.q, budgets, 4, 0, lower, &shift, NULL), BB_OK);
    if (getenv("BB_VERBOSE")) printf("bounds: %.2f s, shift %.2f\n", bb_now_s() - start, shift);
    for (int i = 0; i < 4; i++) {
        bb_quadratic_result r;
        ck_assert_int_eq(bb_separable_solve(sep, budgets[i], x, NULL, NULL), BB_OK);
        const double separable = bb_quadratic_score(&f.q, x);
        start = bb_now_s();
        ck_assert_int_eq(bb_quadratic_solve(&f.q, budgets[i], NULL, x, &r, NULL), BB_OK);
        const double seconds = bb_now_s() - start;
        ck_assert_double_lt(r.score, separable);
        ck_assert_double_le(lower[i], r.score);
        ck_assert_int_le(bb_problem_size(&s->p, x), budgets[i]);
        if (getenv("BB_VERBOSE"))
            printf("separable plan %.5f, tabu %.5f, bound %.5f (gap %.1f %%), %.2f s, %.3g plan scores/s\n", separable, r.score, lower[i],
                   100 * (r.score - lower[i]) / r.score, seconds, (double)r.n_scored / seconds);
    }
    bb_separable_destroy(sep);
    drop(&f);
}
END_TEST

START_TEST(survives_every_allocation_failure)
{
    fixture f = make(syn_transformer(1, 1, 3, 2), 3, 1, false);
    aim(&f, false);
    const size_t               before = bb_mem_live_bytes();
    uint16_t                   x[SYN_MAX_UNITS];
    int64_t                    budget = 200000;
    double                     lower;
    const bb_quadratic_options o = { .iterations = 3 };
    for (long n = 0;; n++) {
        bb_mem_fail_after(n);
        bb_status st = bb_quadratic_solve(&f.q, budget, &o, x, NULL, NULL);
        if (st == BB_OK) st = bb_quadratic_bound(&f.q, &budget, 1, 3, &lower, NULL, NULL);
        bb_mem_fail_after(-1);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
        if (st == BB_OK) break;
        ck_assert_int_eq(st, BB_NOMEM);
    }
    drop(&f);
}
END_TEST

int main(void)
{
    bb_log_set_level(BB_LOG_QUIET);
    gsl_set_error_handler_off();
    Suite *s = suite_create("search_quadratic");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, incremental_changes_agree_with_the_definition);
    tcase_add_loop_test(t, small_problems_are_solved_and_bounded, 0, 6);
    tcase_add_loop_test(t, what_is_found_fits, 0, 2);
    tcase_add_test(t, without_interactions_it_is_the_separable_problem);
    tcase_add_test(t, a_pair_is_scored_with_its_interaction);
    tcase_add_test(t, large_problems_are_fast);
    tcase_add_test(t, survives_every_allocation_failure);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
