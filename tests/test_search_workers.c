/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_search_workers.c: several evaluators behind one: the same answers for any number of workers, any order of arrival and any transport. */
#include <check.h>
#include <gsl/gsl_errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "search/workers.h"
#include "tests/support/synthetic.h"

/* A worker of its own over a shared world: slower now and then, so that answers arrive out of order; fails on request. */
typedef struct worker {
    const syn_world *w;
    int              n_jobs;
    bool             fails;
} worker;

static bb_status work(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    worker               *v = self;
    syn_world             own = *v->w; /* counters of its own */
    const struct timespec nap = { 0, (v->n_jobs * 7919 + x[0][0] * 31) % 3 * 200000 };
    v->n_jobs++;
    nanosleep(&nap, NULL);
    if (v->fails && x[0][1] == 2) return BB_FAIL(err, BB_NUMERIC, "plan %u cannot be scored", x[0][0]);
    return syn_evaluate(&own, x, n, level, out, window_kl, err);
}

static void make_workers(const syn_world *w, worker *v, bb_evaluator *e, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        v[i] = (worker) { w, 0, false };
        e[i] = w->e;
        e[i].self = &v[i];
        e[i].evaluate = work;
    }
}

enum { MOST = 4, N = 37 };

START_TEST(answers_go_where_they_belong)
{
    syn_problem    *s = syn_transformer(3, 2, 6, 3);
    syn_world      *w = syn_world_new(&s->p, 1, 1, 0.3);
    uint16_t        x[N][SYN_MAX_UNITS] = { { 0 } };
    const uint16_t *px[N];
    bb_score        want[N], got[N];
    double          windows[2][N][128], *pw[2][N];
    for (uint16_t i = 0; i < N; i++) {
        x[i][0] = i % 3;
        x[i][1] = i % 6;
        x[i][2] = i / 6 % 6;
        px[i] = x[i];
        pw[0][i] = windows[0][i];
        pw[1][i] = i % 5 ? windows[1][i] : NULL;
    }
    ck_assert_int_eq(syn_evaluate(w, px, N, 2, want, pw[0], NULL), BB_OK);
    for (uint32_t n = 1; n <= MOST; n++) {
        worker       v[MOST];
        bb_evaluator e[MOST];
        bb_workers   all;
        make_workers(w, v, e, n);
        const bb_crew threads = bb_crew_threads(n);
        bb_workers_init(&all, &threads, 0, e, s->p.n_units);
        for (size_t batch = 1; batch <= N; batch += 12) {
            memset(got, 0, sizeof got);
            memset(windows[1], 0, sizeof windows[1]);
            ck_assert_int_eq(all.evaluator.evaluate(all.evaluator.self, px, batch, 2, got, pw[1], NULL), BB_OK);
            for (size_t i = 0; i < batch; i++) {
                ck_assert_mem_eq(&got[i].kl, &want[i].kl, sizeof(double));
                if (pw[1][i]) ck_assert_mem_eq(windows[1][i], windows[0][i], sizeof windows[0][i]);
            }
        }
        ck_assert_int_eq(all.evaluator.evaluate(all.evaluator.self, px, N, 0, got, NULL, NULL), BB_OK);
    }
    free(w);
    syn_free(s);
}
END_TEST

START_TEST(the_first_failure_in_order_is_reported)
{
    syn_problem    *s = syn_transformer(3, 2, 6, 3);
    syn_world      *w = syn_world_new(&s->p, 1, 1, 0.3);
    uint16_t        x[6][SYN_MAX_UNITS] = { { 0, 0 }, { 1, 1 }, { 2, 2 }, { 0, 3 }, { 1, 2 }, { 2, 0 } };
    const uint16_t *px[6] = { x[0], x[1], x[2], x[3], x[4], x[5] };
    bb_score        got[6];
    worker          v[3];
    bb_evaluator    e[3];
    bb_workers      all;
    bb_err          err = BB_ERR_INIT;
    make_workers(w, v, e, 3);
    for (int i = 0; i < 3; i++) v[i].fails = true;
    const bb_crew threads = bb_crew_threads(3);
    bb_workers_init(&all, &threads, 0, e, s->p.n_units);
    for (int tries = 0; tries < 5; tries++) {
        ck_assert_int_eq(all.evaluator.evaluate(all.evaluator.self, px, 6, 0, got, NULL, &err), BB_NUMERIC);
        ck_assert_str_eq(err.msg, "plan 2 cannot be scored");
        err = (bb_err)BB_ERR_INIT;
    }
    free(w);
    syn_free(s);
}
END_TEST

/* Jobs from last to first, each by the worker that is farthest away, as bytes of which only copies are left: what a queue on other machines might do. */
static bb_status run_backwards(void *self, const bb_jobs *jobs, bb_err *err)
{
    const bb_crew *threads = self;
    for (size_t i = jobs->n; i-- > 0;) {
        bb_text   question = { 0 }, answer = { 0 };
        bb_status status = jobs->ask(jobs->self, i, &question, err);
        ck_assert_int_eq(status, BB_OK);
        char *copy = malloc(question.size);
        memcpy(copy, question.data, question.size);
        const size_t size = question.size;
        bb_text_done(&question);
        status = jobs->work(jobs->self, threads->n_workers - 1 - (uint32_t)(i % threads->n_workers), copy, size, &answer, err);
        free(copy);
        if (status == BB_OK) status = jobs->take(jobs->self, i, answer.data, answer.size, err);
        bb_text_done(&answer);
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

static void refine_with(const syn_problem *s, const bb_evaluator *e, bb_archive *archive)
{
    const int64_t budgets[2] = { 250000, 500000 };
    bb_search     o = { .seed = 5, .budgets = budgets, .n_budgets = 2, .stop.max_tokens = 4e5 };
    bb_err        err = BB_ERR_INIT;
    ck_assert_msg(syn_search(&bb_method_refine, &s->p, e, NULL, NULL, &o, archive, NULL, &err) == BB_OK, "%s", err.msg);
}

START_TEST(a_search_is_the_same_with_any_workers)
{
    syn_problem *s = syn_transformer(31, 1, 8, 4);
    syn_world   *w = syn_world_new(&s->p, 3, 1.5, 0.5);
    bb_archive   alone, other;
    refine_with(s, &w->e, &alone);
    ck_assert_uint_gt(alone.n, 0);
    for (int k = 0; k < 4; k++) {
        const uint32_t n = k == 0 ? 1 : k == 1 ? 2 : 4;
        worker         v[MOST];
        bb_evaluator   e[MOST];
        bb_workers     all;
        make_workers(w, v, e, n);
        bb_crew threads = bb_crew_threads(n);
        bb_crew crew = threads;
        if (k == 3) {
            crew.self = &threads;
            crew.run = run_backwards;
        }
        bb_workers_init(&all, &crew, 0, e, s->p.n_units);
        refine_with(s, &all.evaluator, &other);
        ck_assert_uint_eq(alone.n, other.n);
        for (size_t i = 0; i < alone.n; i++) {
            ck_assert_str_eq(alone.entries[i].hash, other.entries[i].hash);
            ck_assert_mem_eq(&alone.entries[i].score.kl, &other.entries[i].score.kl, sizeof(double));
        }
        bb_archive_done(&other);
    }
    bb_archive_done(&alone);
    free(w);
    syn_free(s);
}
END_TEST

int main(void)
{
    gsl_set_error_handler_off();
    Suite *s = suite_create("search_workers");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, answers_go_where_they_belong);
    tcase_add_test(t, the_first_failure_in_order_is_reported);
    tcase_add_test(t, a_search_is_the_same_with_any_workers);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
