/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_base_crew.c: threads that do jobs: they share the threads of parallel loops, stop when a job fails, and their progress is one line. */
#include <locale.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/crew.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/support/support.h"

enum { MOST = 8 };

typedef struct task {
    pthread_barrier_t together;
    atomic_int        n_done;
    int               n, first[MOST], last[MOST]; /* threads of each job's loops: at its start, and when it is the last one */
    int               fails;                      /* this job; -1: none */
    atomic_int        n_stopped, n_elsewhere;     /* stopped; in another locale than who started them */
    locale_t          locale;
} task;

static bb_status ask(void *self, size_t i, bb_text *question, bb_err *err)
{
    (void)self, (void)err;
    bb_text_addn(question, (const char *)&i, sizeof i);
    return BB_OK;
}

static void nap(void) { nanosleep(&(struct timespec) { 0, 2000000 }, NULL); }

static int threads_of_a_loop(void)
{
    int n = 0;
#pragma omp parallel
#pragma omp single
    n = omp_get_num_threads();
    return n;
}

static bb_status work(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    task     *t = self;
    size_t    i;
    bb_parcel p = { question, size };
    ck_assert_int_eq(bb_parcel_take(&p, &i, sizeof i, err), BB_OK);
    ck_assert_uint_lt(worker, MOST);
    pthread_barrier_wait(&t->together);
    t->n_elsewhere += uselocale((locale_t)0) != t->locale;
    t->first[i] = threads_of_a_loop();
    pthread_barrier_wait(&t->together);
    if (t->fails == (int)i) return BB_FAIL(err, BB_NUMERIC, "job %zu is no good", i);
    for (int k = 0; t->fails >= 0 && k < 5000; k++, nap())
        if (bb_interrupted()) {
            t->n_stopped++;
            return BB_FAIL(err, BB_INTERRUPTED, "job %zu was stopped", i);
        }
    if (i == 0) { /* the last to end */
        for (int k = 0; k < 5000 && (t->n_done < t->n - 1 || t->last[0] < 4); k++, nap()) {
            bb_crew_share();
            t->last[0] = threads_of_a_loop();
        }
    }
    t->n_done++;
    bb_text_addn(answer, (const char *)&i, sizeof i);
    return BB_OK;
}

static bb_status take(void *self, size_t i, const char *answer, size_t size, bb_err *err)
{
    size_t its;
    (void)self, (void)err;
    ck_assert_uint_eq(size, sizeof its);
    memcpy(&its, answer, sizeof its);
    ck_assert_uint_eq(its, i);
    return BB_OK;
}

/* Three at four threads: two and one and one; who is left in the end has all. Afterwards the caller has what it had. */
START_TEST(parallel_loops_share_the_threads)
{
    task           t = { .n = 3, .fails = -1, .locale = newlocale(LC_ALL_MASK, "C", (locale_t)0) };
    const bb_jobs  jobs = { 0, 3, &t, ask, work, take };
    const bb_crew  crew = bb_crew_threads(MOST);
    const locale_t before = uselocale(t.locale);
    int            most = 0, sum = 0;
    omp_set_num_threads(4);
    pthread_barrier_init(&t.together, NULL, 3);
    ck_assert_int_eq(bb_crew_run(&crew, &jobs, NULL), BB_OK);
    ck_assert_int_eq(t.n_elsewhere, 0);
    uselocale(before);
    freelocale(t.locale);
    for (int i = 0; i < t.n; i++) {
        sum += t.first[i];
        most = t.first[i] > most ? t.first[i] : most;
        ck_assert_int_ge(t.first[i], 1);
    }
    ck_assert_int_eq(sum, 4);
    ck_assert_int_eq(most, 2);
    ck_assert_int_eq(t.last[0], 4);
    ck_assert_int_eq(omp_get_max_threads(), 4);
    bb_crew_share(); /* of no crew */
    ck_assert_int_eq(omp_get_max_threads(), 4);
    pthread_barrier_destroy(&t.together);
}
END_TEST

START_TEST(a_failure_stops_the_others)
{
    task          t = { .n = 3, .fails = 1 };
    const bb_jobs jobs = { 0, 3, &t, ask, work, take };
    const bb_crew crew = bb_crew_threads(3);
    bb_err        err = BB_ERR_INIT;
    pthread_barrier_init(&t.together, NULL, 3);
    ck_assert_int_eq(bb_crew_run(&crew, &jobs, &err), BB_NUMERIC);
    ck_assert_str_eq(err.msg, "job 1 is no good");
    ck_assert_int_eq(t.n_stopped, 2);
    ck_assert(!bb_interrupted());
    pthread_barrier_destroy(&t.together);
}
END_TEST

/* Two jobs that end at the same moment: the first was interrupted, the second failed. */
static bb_status end_together(void *self, uint32_t worker, const char *question, size_t size, bb_text *answer, bb_err *err)
{
    atomic_int *n_here = self;
    size_t      i;
    bb_parcel   p = { question, size };
    (void)worker, (void)answer;
    ck_assert_int_eq(bb_parcel_take(&p, &i, sizeof i, err), BB_OK);
    atomic_fetch_add(n_here, 1);
    for (int k = 0; atomic_load(n_here) < 2; k++)
        if (k > 10000) sched_yield();
    return i ? BB_FAIL(err, BB_NUMERIC, "job %zu is no good", i) : BB_FAIL(err, BB_INTERRUPTED, "job %zu was stopped", i);
}

START_TEST(a_failure_is_not_lost_beside_an_interruption)
{
    const bb_crew crew = bb_crew_threads(2);
    for (int round = 0; round < 1500; round++) {
        atomic_int    n_here = 0;
        const bb_jobs jobs = { 0, 2, &n_here, ask, end_together, take };
        bb_err        err = BB_ERR_INIT;
        ck_assert_int_eq(bb_crew_run(&crew, &jobs, &err), BB_NUMERIC);
        ck_assert_str_eq(err.msg, "job 1 is no good");
    }
}
END_TEST

/* ---- progress ---- */

static pthread_barrier_t together;

static void *rows(void *self)
{
    bb_progress mine;
    bb_progress_start(&mine, "rows", 20);
    pthread_barrier_wait(&together);
    bb_progress_add(&mine, *(const uint64_t *)self);
    pthread_barrier_wait(&together);
    if (*(const uint64_t *)self == 7) bb_progress_leave(); /* as a job that failed */
    else bb_progress_end(&mine);
    return NULL;
}

START_TEST(progress_of_one_kind_is_one_line)
{
    const char *path = bb_test_path("log.txt");
    uint64_t    steps[2] = { 5, 7 };
    pthread_t   threads[2];
    bb_progress all;
    char       *said;
    size_t      n;
    bb_log_set_level(BB_LOG_QUIET);
    ck_assert_int_eq(setenv("BB_PROGRESS_S", "0", 1), 0);
    ck_assert_int_eq(bb_log_to_file(path, NULL), BB_OK);
    pthread_barrier_init(&together, NULL, 2);
    bb_progress_start(&all, "files", 4);
    bb_progress_skip(&all, 1);
    for (int i = 0; i < 2; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, rows, &steps[i]), 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    bb_progress_add(&all, 2);
    bb_progress_end(&all);
    ck_assert_int_eq(bb_log_to_file(NULL, NULL), BB_OK);
    bb_log_set_level(BB_LOG_INFO);
    unsetenv("BB_PROGRESS_S");
    ck_assert_int_eq(bb_file_read(path, &said, &n, NULL), BB_OK);
    ck_assert_msg(strstr(said, "files: 1/4 (25%)") && strstr(said, "; rows: 12/40 (30%)"), "%s", said);
    const char *two = strstr(said, "; rows: 12/40 (30%)"); /* 0.6 of two files: it is known how long the others take */
    while (two > said && two[-1] != '\n') two--;
    ck_assert_msg(strstr(two, "files: 1/4 (25%)") && strstr(two, ", left ") && strstr(two, ", left ") < strstr(two, "; rows"), "%s", said);
    ck_assert_msg(strstr(said, "files: 3/4 (75%)") && !strstr(strstr(said, "files: 3/4 (75%)"), "rows"), "%s", said);
    for (char *at = said; (at = strstr(at, "rows: ")); at++) ck_assert_msg(!strstr(at, "; rows: ") || strchr(at, '\n') < strstr(at, "; rows: "), "%s", said);
    bb_free(said);
    pthread_barrier_destroy(&together);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base_crew");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, parallel_loops_share_the_threads);
    tcase_add_test(t, a_failure_stops_the_others);
    tcase_add_test(t, a_failure_is_not_lost_beside_an_interruption);
    tcase_add_test(t, progress_of_one_kind_is_one_line);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
