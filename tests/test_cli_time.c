/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_time.c: what a user learns about time: a progress line of every stage where stderr is no terminal, on a terminal one line that is
 * redrawn, the same in both log files. */
#define _XOPEN_SOURCE 700 /* posix_openpt */
#include <dirent.h>
#include <fcntl.h>
#include <gsl/gsl_errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/effort.h"
#include "engine/estimate.h"
#include "engine/pace.h"
#include "engine/run.h"
#include "engine/time_budget.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define MODEL "tests/data/stories260K.gguf"
#define SMALL \
    "--formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --calib-windows 4 --confirm-windows 4 --refine-windows 2 --measure-windows 1 " \
    "--search-tokens 0.006 --tune-tokens 0.001 --points 1 --min-bpw 7 --max-bpw 7 --ctx 32 --sweeps 1 --prune width --ffn-divisor 86"

static char said[1 << 18], line[2048];

__attribute__((noinline)) static char *file_text(const char *dir, const char *name)
{
    char  *text = NULL, *path = bb_asprintf(NULL, *name ? "%s/%s" : "%s%s", dir, name);
    size_t n;
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_file_read(path, &text, &n, &err) == BB_OK, "%s", err.msg);
    bb_free(path);
    return text;
}

/* Whether a line of the text has progress of the stage in it; with eta, one that says how long is left. */
static bool has_progress(const char *text, const char *stage, bool eta)
{
    const size_t n = strlen(stage);
    for (const char *at = strstr(text, stage); at; at = strstr(at + 1, stage)) {
        const char *slash = at + n + 2 + strspn(at + n + 2, "0123456789"), *end = at + strcspn(at, ";\n");
        if (at[n] != ':' || *slash != '/') continue;
        const char *left = strstr(at, ", left ");
        if (!eta || (left && left < end)) return true;
    }
    return false;
}

/* Every stage was foreseen and timed. The sum, of a job of this size mostly made of what is not foreseen (files, small loops), is right within a
 * factor of ten of what the processors did; larger jobs are in results/effort.csv. */
static void check_timing(const char *out)
{
    static const char *const stages[] = { "calibrate", "build options", "measure", "search", "finalise", "evaluate" };
    char                    *path = bb_asprintf(NULL, "%s/timing.csv", out);
    bb_csv                   t;
    bb_err                   err = BB_ERR_INIT;
    double                   foreseen = 0, took = 0;
    ck_assert_msg(bb_csv_read(path, &t, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(t.n_rows, 6);
    for (size_t i = 0; i < t.n_rows; i++) {
        double predicted, seconds, cpu;
        ck_assert_str_eq(bb_csv_text(&t, i, 0), stages[i]);
        ck_assert_int_eq(bb_csv_double(&t, i, 1, &predicted, &err), BB_OK);
        ck_assert_int_eq(bb_csv_double(&t, i, 2, &seconds, &err), BB_OK);
        ck_assert_int_eq(bb_csv_double(&t, i, 3, &cpu, &err), BB_OK);
        ck_assert(predicted > 0 && seconds > 0 && cpu > 0 && cpu <= seconds * 64);
        foreseen += predicted;
        took += cpu;
    }
    ck_assert_double_lt(foreseen, 10 * took);
    ck_assert_double_lt(took, 10 * foreseen);
    bb_csv_done(&t);
    bb_free(path);
}

/* The command that config.resolved.yaml names repeats the run, to the byte. */
static void repeat(const char *out)
{
    char       *config = file_text(out, "config.resolved.yaml"), again[600], *first, *second;
    const char *command = strstr(config, "#   bitbudget ");
    ck_assert_ptr_nonnull(command);
    snprintf(line, sizeof line, "%.*s -q", (int)strcspn(command + 14, "\n"), command + 14);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s: %s", line, said);
    snprintf(again, sizeof again, "%s-again", out);
    first = file_text(out, "plan.json");
    second = file_text(again, "plan.json");
    ck_assert_str_eq(first, second);
    bb_free(first);
    bb_free(second);
    bb_free(config);
}

START_TEST(every_stage_says_how_far_it_is)
{
    static const char *const stages[] = { "sample calibration text",
                                          "inputs of the linears",
                                          "full-precision states, windows",
                                          "build options",
                                          "measure options, blocks",
                                          "search, tokens",
                                          "search quantization alone, tokens",
                                          "quadratic bound",
                                          "certificate",
                                          "finalise",
                                          "rebuild",
                                          "blocks, steps",
                                          "lfq",
                                          "end-to-end",
                                          "reference",
                                          "evaluate files" };
    char                    *mine, *log, out[512];
    snprintf(out, sizeof out, "%s", bb_test_path("said"));
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --finalise-steps rebuild,blocks,lfq,end-to-end --log-file %s.txt --out %s", out, out);
    ck_assert_int_eq(setenv("BB_PROGRESS_S", "0", 1), 0);
    int code = bb_test_program(line, said, sizeof said);
    unsetenv("BB_PROGRESS_S");
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    mine = file_text(out, "../said.txt");
    log = file_text(out, "log.txt");
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        /* With one size and one block at a time some stages have a single step, whose end is all that can be said. */
        const bool eta = i <= 5 || strcmp(stages[i], "rebuild") == 0 || strcmp(stages[i], "blocks, steps") == 0 || strcmp(stages[i], "end-to-end") == 0;
        ck_assert_msg(has_progress(said, stages[i], eta), "stderr has no progress of \"%s\"",
                      stages[i]); /* a message with all that was said is too long for Check */
        ck_assert_msg(has_progress(mine, stages[i], eta), "--log-file has no progress of \"%s\"", stages[i]);
        ck_assert_msg(has_progress(log, stages[i], eta), "log.txt has no progress of \"%s\"", stages[i]);
    }
    ck_assert_ptr_nonnull(strstr(said, ", job left ")); /* of all that remains, whatever the stage */
    ck_assert_ptr_nonnull(strstr(log, ", job left "));
    ck_assert_ptr_nonnull(strstr(said, "report: "));
    ck_assert_ptr_nonnull(strstr(log, "time: build options "));
    check_timing(out);
    ck_assert_ptr_null(strchr(said, '\r'));
    repeat(out);
    bb_free(mine);
    bb_free(log);
}
END_TEST

/* A terminal for stderr; what is written to it goes to a buffer. */
typedef struct terminal {
    int    fd;
    char   text[1 << 18];
    size_t n;
} terminal;

static void *listen_to(void *self)
{
    terminal *t = self;
    ssize_t   n;
    while (t->n + 1 < sizeof t->text && (n = read(t->fd, t->text + t->n, sizeof t->text - 1 - t->n)) > 0) t->n += (size_t)n;
    t->text[t->n] = '\0';
    return NULL;
}

START_TEST(a_terminal_has_one_line_that_is_redrawn)
{
    static terminal t;
    pthread_t       thread;
    char            out[512];
    snprintf(out, sizeof out, "%s", bb_test_path("drawn"));
    if ((t.fd = posix_openpt(O_RDWR | O_NOCTTY)) < 0) BB_SKIP("this system gives no pseudo-terminals (is /dev/pts mounted?)");
    ck_assert(grantpt(t.fd) == 0 && unlockpt(t.fd) == 0);
    const int keep = open(ptsname(t.fd), O_RDWR | O_NOCTTY); /* or the reader ends before the program begins */
    ck_assert_int_eq(pthread_create(&thread, NULL, listen_to, &t), 0);
    setenv("TERM", "xterm", 1);
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --out %s 2>%s", out, ptsname(t.fd));
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
    close(keep);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    close(t.fd);
    const char *redrawn = strstr(t.text, "\r\033[K");
    ck_assert_ptr_nonnull(redrawn);
    ck_assert(has_progress(t.text, "build options", true));
    ck_assert_ptr_nonnull(strstr(t.text, ", job left "));
    char *log = file_text(out, "log.txt");
    ck_assert_ptr_null(strchr(log, '\r'));
    bb_free(log);
}
END_TEST

/* Threads that wait sleep, unless the user has said otherwise: what the OpenMP runtime itself says. */
START_TEST(waiting_threads_sleep_by_default)
{
    const char *policy = getenv("OMP_WAIT_POLICY");
    char       *before = policy ? bb_strdup(policy, NULL) : NULL;
    setenv("OMP_DISPLAY_ENV", "verbose", 1);
    unsetenv("OMP_WAIT_POLICY");
    ck_assert_int_eq(bb_test_program("--version", said, sizeof said), 0);
    /* It is loaded twice; what counts is the second time. */
    const char *last = strstr(said, "GOMP_SPINCOUNT");
    ck_assert_msg(last && (last = strstr(last + 1, "GOMP_SPINCOUNT")) != NULL, "%s", said);
    ck_assert_msg(strncmp(last, "GOMP_SPINCOUNT = '0'", 20) == 0, "%s", last);
    setenv("GOMP_SPINCOUNT", "5", 1);
    ck_assert_int_eq(bb_test_program("--version", said, sizeof said), 0);
    ck_assert_ptr_nonnull(strstr(said, "GOMP_SPINCOUNT = '5'"));
    unsetenv("GOMP_SPINCOUNT");
    setenv("OMP_WAIT_POLICY", "active", 1);
    ck_assert_int_eq(bb_test_program("--version", said, sizeof said), 0);
    ck_assert_ptr_nonnull(strstr(said, "OMP_WAIT_POLICY = 'ACTIVE'"));
    unsetenv("OMP_DISPLAY_ENV");
    if (before) setenv("OMP_WAIT_POLICY", before, 1);
    else unsetenv("OMP_WAIT_POLICY");
    bb_free(before);
}
END_TEST

/* The threads that `estimate` counts with. */
static int threads_of(const char *prefix)
{
    const char *at;
    int         n = 0;
    snprintf(line, sizeof line, "%s %s/bitbudget estimate " MODEL " " SMALL " >%s 2>&1", prefix, bb_test_build(), bb_test_path("threads.txt"));
    ck_assert_int_eq(system(line), 0);
    char *text = file_text(bb_test_path("threads.txt"), "");
    ck_assert_msg((at = strstr(text, " threads of a quiet machine")) != NULL, "%s", text);
    while (at > text && strchr("0123456789", at[-1])) at--;
    ck_assert_int_eq(sscanf(at, "%d", &n), 1);
    bb_free(text);
    return n;
}

/* No more threads than may run at once, by affinity and by the quota of the control group, unless the user says otherwise. */
START_TEST(threads_are_as_many_as_may_run)
{
    static const char groups[] = "0::/job\n", quota[] = "150000 100000\n", less[] = "40000 100000\n";
    char              root[512], group[600], prefix[1200];
    const char       *given = getenv("OMP_NUM_THREADS");
    char             *before = given ? bb_strdup(given, NULL) : NULL;
    unsetenv("OMP_NUM_THREADS");
    const int all = threads_of("");
    ck_assert_int_ge(all, 1);
    if (system("taskset -p $$ >/dev/null 2>&1") == 0) ck_assert_int_eq(threads_of("taskset -c $(taskset -cp $$ | sed 's/.*: *//; s/[-,].*//')"), 1);
    snprintf(root, sizeof root, "%s", bb_test_path("groups"));
    snprintf(group, sizeof group, "%s/sys/fs/cgroup/job", root);
    ck_assert_int_eq(bb_make_dirs(group, NULL), BB_OK);
    snprintf(group, sizeof group, "%s/proc/self", root);
    ck_assert_int_eq(bb_make_dirs(group, NULL), BB_OK);
    snprintf(group, sizeof group, "%s/proc/self/cgroup", root);
    bb_test_write(group, groups, sizeof groups - 1);
    snprintf(group, sizeof group, "%s/sys/fs/cgroup/job/cpu.max", root);
    bb_test_write(group, less, sizeof less - 1);
    snprintf(prefix, sizeof prefix, "BB_CGROUP_ROOT=%s", root);
    ck_assert_int_eq(threads_of(prefix), 1);
    bb_test_write(group, quota, sizeof quota - 1);
    ck_assert_int_eq(threads_of(prefix), all < 2 ? all : 2); /* rounded up */
    snprintf(prefix, sizeof prefix, "OMP_NUM_THREADS=3 BB_CGROUP_ROOT=%s", root);
    ck_assert_int_eq(threads_of(prefix), 3);
    if (before) setenv("OMP_NUM_THREADS", before, 1);
    bb_free(before);
}
END_TEST

/* ---- --time ---- */

#define TIMED "run " MODEL " --formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --ctx 32 --target-bpw 7 --prune width --ffn-divisor 86 --search-tokens 0.006 "

static char *setting_of(const char *dir, const char *name)
{
    char *config = file_text(dir, "config.resolved.yaml"), wanted[64], *value;
    snprintf(wanted, sizeof wanted, "\n%s: ", name);
    char *at = strstr(config, wanted);
    ck_assert_msg(at != NULL, "no %s in %s", name, config);
    at += strlen(wanted);
    value = bb_asprintf(NULL, "%.*s", (int)strcspn(at, "\n"), at);
    bb_free(config);
    return value;
}

static void has_setting(const char *dir, const char *name, const char *right)
{
    char *value = setting_of(dir, name);
    ck_assert_msg(strcmp(value, right) == 0, "%s is %s, should be %s", name, value, right);
    bb_free(value);
}

static void same_model(const char *a, const char *b)
{
    char   one[600], two[600], *x, *y;
    size_t n, m;
    snprintf(one, sizeof one, "%s/model.gguf", a);
    snprintf(two, sizeof two, "%s/model.gguf", b);
    ck_assert_int_eq(bb_file_read(one, &x, &n, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(two, &y, &m, NULL), BB_OK);
    ck_assert(n == m && memcmp(x, y, n) == 0);
    bb_free(x);
    bb_free(y);
}

/* What was given wins, the rest is chosen and said, once; the same command goes on with it, and the resolved options repeat it without a clock. */
START_TEST(a_time_chooses_what_is_not_given)
{
    char out[512], again[600], *windows, *late;
    snprintf(out, sizeof out, "%s", bb_test_path("timed"));
    snprintf(again, sizeof again, "%s-again", out);
    snprintf(line, sizeof line, TIMED "--time 10m --calib-windows 6 --measure-windows 1 --confirm-windows 5 --sweeps 2 --tune-tokens 0.002 --out %s", out);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_msg(strstr(said, "time: 10m 00s; what fits is the most (") != NULL, "%s", said); /* of so small a model */
    ck_assert_ptr_nonnull(strstr(said, "refine-windows=64 eval-windows=0"));
    ck_assert_ptr_null(strstr(said, "calib-windows="));
    has_setting(out, "calib-windows", "6");
    has_setting(out, "sweeps", "2");
    has_setting(out, "tune-tokens", "0.002");
    has_setting(out, "tune-windows", "8192");
    has_setting(out, "time", "0");
    late = bb_strdup(strstr(said, "what fits is"), NULL);
    windows = strstr(late, "refine-windows=");
    *strchr(windows, '\n') = '\0';
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
    ck_assert_ptr_nonnull(strstr(said, "planned when the run began: "));
    ck_assert_msg(strstr(said, windows) != NULL, "%s: %s", windows, said);
    snprintf(line, sizeof line, "run --config %s/config.resolved.yaml --out %s -q", out, again);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    same_model(out, again);
    bb_free(late);
}
END_TEST

static const struct wrong {
    const char *options;
    int         code;
    const char *sentence;
} wrongs[] = {
    { "--time 0.01s", 3, "--time 0.0s is not enough: the least that this run can do is foreseen to take " },
    { "--time 10", 2, "'10' is no length of time: write 90s, 30m, 2h or 1h30m" },
    { "--time 5m2h", 2, "is no length of time" },
    { "--time 1h --effort quick", 2, "--effort has no effect with --time" },
};

START_TEST(a_time_that_cannot_be_kept_is_refused)
{
    char out[512];
    snprintf(out, sizeof out, "%s", bb_test_path("refused"));
    snprintf(line, sizeof line, TIMED "%s --out %s", wrongs[_i].options, out);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), wrongs[_i].code);
    ck_assert_msg(strstr(said, wrongs[_i].sentence) != NULL, "%s", said);
    ck_assert(!bb_file_exists(out));
}
END_TEST

static size_t rows_of(const char *dir, const char *name)
{
    char   path[600];
    bb_csv t;
    bb_err err = BB_ERR_INIT;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_msg(bb_csv_read(path, &t, &err) == BB_OK, "%s", err.msg);
    const size_t n = t.n_rows;
    bb_csv_done(&t);
    return n;
}

/* A search and a plan that take longer than there is time for are stopped, and there is a file, with a guard that says what was left out. The
 * run's clock is moved: the time is over when the search begins. */
START_TEST(what_takes_too_long_is_stopped)
{
    static const char *const given[][2] = { { "model", MODEL },
                                            { "formats", "Q4_0,Q5_0,Q8_0" },
                                            { "embd-formats", "Q4_0,Q8_0" },
                                            { "ctx", "32" },
                                            { "target-bpw", "7" },
                                            { "calib-windows", "6" },
                                            { "confirm-windows", "512" },
                                            { "measure-windows", "128" },
                                            { "refine-windows", "256" },
                                            { "search-tokens", "40" },
                                            { "tune-tokens", "4" },
                                            { "finalise-steps", "end-to-end" },
                                            { "time", "20h" } };
    /* Windows: so many that the search has not found all that it can find by the time it is stopped. */
    char          out[512], again[600], *guard;
    bb_run_config c = { 0 };
    bb_run        r;
    bb_err        err = BB_ERR_INIT;
    snprintf(out, sizeof out, "%s", bb_test_path("late"));
    snprintf(again, sizeof again, "%s-again", out);
    ck_assert_int_eq(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &c, &err), BB_OK);
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, given[i][0], given[i][1], &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "out", out, &err), BB_OK);
    bb_log_set_level(BB_LOG_QUIET);
    gsl_set_error_handler_off();
    ck_assert_msg(bb_run_create(&r, &c, false, &err) == BB_OK, "%s", err.msg);
    bb_time_start(&r, 0);
    for (int i = 0; i < BB_STAGE_SEARCH; i++) ck_assert_msg(bb_time_run(&r, (bb_stage)i, &err) == BB_OK, "%s", err.msg);
    r.time.started_s -= 80000;
    ck_assert_msg(bb_time_run(&r, BB_STAGE_SEARCH, &err) == BB_OK, "%s", err.msg);
    ck_assert_double_lt(r.config.search_tokens, 40);
    ck_assert_msg(bb_time_run(&r, BB_STAGE_FINALISE, &err) == BB_OK, "%s", err.msg);
    ck_assert(r.config.no_finalise && *r.config.leave_out);
    ck_assert_msg(bb_time_run(&r, BB_STAGE_EVALUATE, &err) == BB_OK, "%s", err.msg);
    bb_run_close(&r);
    bb_log_set_level(BB_LOG_INFO);
    ck_assert_uint_eq(rows_of(out, "domains.csv"), 0); /* its winner was not probed: the time was over */
    snprintf(line, sizeof line, "evaluate %s", out);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_uint_gt(rows_of(out, "domains.csv"), 0);
    guard = file_text(out, "guard.json");
    ck_assert_msg(strstr(guard, "\"left_out\": \"") && strstr(guard, "\"finishing\": \"none\""), "%s", guard);
    bb_free(guard);
    snprintf(line, sizeof line, "run --config %s/config.resolved.yaml --out %s", out, again);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_ptr_nonnull(strstr(said, "left out for want of time"));
    same_model(out, again);
}
END_TEST

/* What a sweep of many sizes leaves out for want of time is a long list. */
static void sleep_once(void *self, const bb_progress *outer, const char *what)
{
    const struct timespec t = { 2, 500000000 };
    bool                 *slept = self;
    (void)outer, (void)what;
    if (!*slept) nanosleep(&t, NULL);
    *slept = true;
}

/* Without a score there is no plan: a search whose time is over before its first one goes on, and nobody is told of an interruption. */
START_TEST(a_search_without_a_score_goes_on)
{
    static const char *const given[][2] = { { "model", MODEL },        { "formats", "Q4_0,Q8_0" },   { "embd-formats", "Q8_0" }, { "ctx", "32" },
                                            { "target-bpw", "7" },     { "calib-windows", "4" },     { "confirm-windows", "4" }, { "measure-windows", "1" },
                                            { "refine-windows", "2" }, { "search-tokens", "0.001" }, { "search", "evopress" },   { "time", "20h" } };
    char                     out[512];
    bool                     slept = false;
    const bb_log_hooks       hooks = { NULL, sleep_once, &slept };
    bb_run_config            c = { 0 };
    bb_run                   r;
    bb_err                   err = BB_ERR_INIT;
    snprintf(out, sizeof out, "%s", bb_test_path("scoreless"));
    ck_assert_int_eq(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &c, &err), BB_OK);
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, given[i][0], given[i][1], &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "out", out, &err), BB_OK);
    gsl_set_error_handler_off();
    ck_assert_msg(bb_run_create(&r, &c, false, &err) == BB_OK, "%s", err.msg);
    bb_time_start(&r, 0);
    for (int i = 0; i < BB_STAGE_SEARCH; i++) ck_assert_msg(bb_time_run(&r, (bb_stage)i, &err) == BB_OK, "%s", err.msg);
    r.time.started_s -= 80000;
    bb_log_set_hooks(&hooks);
    const bb_status status = bb_time_run(&r, BB_STAGE_SEARCH, &err);
    bb_log_set_hooks(NULL);
    ck_assert_msg(slept && status == BB_OK, "%d: %s", slept, err.msg);
    bb_run_close(&r);
}
END_TEST

START_TEST(as_many_plans_are_left_out_as_there_are)
{
    bb_run_config c = { 0 };
    bb_text       t = { 0 };
    bb_err        err = BB_ERR_INIT;
    bb_text_add(&t, "search-tokens=0.5\nleave-out=");
    for (int i = 0; i < 200; i++) bb_text_addf(&t, "%s%016x", i ? "," : "", i);
    bb_text_add(&t, "\n");
    ck_assert_int_eq(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &c, &err), BB_OK);
    ck_assert_msg(bb_effort_read(bb_run_options, BB_RUN_N_OPTIONS, &c, t.data, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(bb_list_length(c.leave_out), 200);
    ck_assert(bb_list_has(c.leave_out, "00000000000000c7") && c.search_tokens == 0.5);
    ck_assert_int_eq(bb_effort_read(bb_run_options, BB_RUN_N_OPTIONS, &c, "leave-out\nsearch-tokens=1\n", &err), BB_BAD_FILE);
    bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &c);
    bb_text_done(&t);
}
END_TEST

/* How a command ended is in the logs too. */
START_TEST(a_failure_is_in_the_logs)
{
    char out[512];
    snprintf(out, sizeof out, "%s", bb_test_path("failed"));
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --ledger-only -q --log-file %s.txt --out %s", out, out);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 1);
    ck_assert_ptr_nonnull(strstr(said, "the ledger has no score"));
    for (int i = 0; i < 2; i++) {
        char *log = file_text(out, i ? "log.txt" : "../failed.txt");
        ck_assert_ptr_nonnull(strstr(log, "failed: the ledger has no score"));
        bb_free(log);
    }
}
END_TEST

/* The value of a setting in the resolved configuration of a run directory. */
static const char *setting(const char *dir, const char *name)
{
    static char value[256];
    char       *config = file_text(dir, "config.resolved.yaml"), wanted[64];
    snprintf(wanted, sizeof wanted, "\n%s: ", name);
    char *at = strstr(config, wanted);
    ck_assert_msg(at != NULL, "no %s in %s", name, config);
    at += strlen(wanted);
    snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\n"), at);
    bb_free(config);
    return value;
}

/* Two blocks whose rows every format divides. */
static const char *wide_model(void)
{
    static char path[512];
    tiny_spec   s = tiny_default("llama");
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s", bb_test_path("wide.gguf"));
    s.n_embd = 256;
    s.head_dim = 64;
    for (uint32_t i = 0; i < s.n_layer; i++) s.n_ff[i] = 256;
    tiny_write(&s, path);
    return path;
}

/* The effort sets what is not given; what is given wins, wherever it stands. */
START_TEST(efforts_are_defaults_and_no_more)
{
    char out[512], yaml[512], model[512];
    snprintf(model, sizeof model, "%s", wide_model());
    snprintf(out, sizeof out, "%s", bb_test_path("effort"));
    snprintf(yaml, sizeof yaml, "%s", bb_test_path("effort.yaml"));
    bb_test_write(yaml, "effort: quick\nsweeps: 3\nctx: 32\n", strlen("effort: quick\nsweeps: 3\nctx: 32\n"));
    setenv("BB_REFINE_WINDOWS", "2", 1);
    snprintf(line, sizeof line,
             "run %s --config %s --calib-windows 4 --confirm-windows 4 --measure-windows 1 --search-tokens 0.001 --no-finalise "
             "--target-bpw 4 --out %s -q",
             model, yaml, out);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    unsetenv("BB_REFINE_WINDOWS");
    ck_assert_str_eq(setting(out, "effort"), "\"quick\"");
    ck_assert_str_eq(setting(out, "sweeps"), "3");         /* file */
    ck_assert_str_eq(setting(out, "refine-windows"), "2"); /* environment */
    ck_assert_str_eq(setting(out, "calib-windows"), "4");  /* command line */
    ck_assert_str_eq(setting(out, "screen"), "6");         /* the effort */
    ck_assert_str_eq(setting(out, "prune"), "\"width\"");
    ck_assert_str_eq(setting(out, "finalise-steps"), "\"rebuild\"");
    /* At most six formats and the source type for any matrix. */
    char *table = file_text(out, "sensitivity.csv");
    int   n = 0;
    for (const char *at = table; (at = strstr(at, "blk.0.attn_q,")); at++) n++;
    ck_assert_int_eq(n, 7);
    bb_free(table);
    ck_assert_int_eq(bb_test_program("run " MODEL " --effort some --target-size 320KiB", said, sizeof said), 2);
    ck_assert_ptr_nonnull(strstr(said, "quick|normal|thorough"));
    ck_assert_int_eq(bb_test_program("help run", said, sizeof said), 0);
    ck_assert_ptr_nonnull(strstr(said, "What --effort sets"));
    ck_assert_ptr_null(strstr(said, "(default )"));
}
END_TEST

/* The stage's time as estimate says it, in seconds. */
static double estimated(const char *options, const char *stage)
{
    double number = 0, sum = 0;
    char   unit;
    int    n;
    snprintf(line, sizeof line, "estimate %s --target-bpw 4 --calib %s %s", wide_model(), bb_test_path("ids.u32"), options);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_msg(strstr(said, " to ") && strstr(said, "of a quiet machine"), "%s", said);
    const char *at = strstr(strstr(said, "quiet machine"), stage);
    ck_assert_msg(at != NULL, "%s", said);
    at += strlen(stage);
    while (sscanf(at, " %lf%c%n", &number, &unit, &n) == 2 && strchr("dhms", unit)) {
        sum += number * (unit == 'd' ? 86400 : unit == 'h' ? 3600 : unit == 'm' ? 60 : 1);
        at += n;
    }
    return sum;
}

/* Twenty times the work is foreseen to take about twenty times as long; more effort more. */
START_TEST(an_estimate_counts_what_is_done)
{
    static int32_t ids[4096];
    for (int i = 0; i < 4096; i++) ids[i] = 3 + i * 7 % 200;
    bb_test_write(bb_test_path("ids.u32"), ids, sizeof ids);
    const double once = estimated("--search-tokens 1", "search"), often = estimated("--search-tokens 20", "search");
    ck_assert_double_gt(often, 5 * once);
    ck_assert_double_lt(often, 60 * once);
    const double all = estimated("", "finalise"), none = estimated("--no-finalise", "finalise");
    ck_assert_double_gt(all, none);
    const double quick = estimated("--effort quick", "search"), normal = estimated("", "search"), thorough = estimated("--effort thorough", "search");
    ck_assert(quick < normal && normal < thorough);
    ck_assert_double_lt(estimated("--search separable", "search"), normal); /* a plan a size */
}
END_TEST

static int files_of(const char *dir, const char *prefix)
{
    DIR *d = opendir(dir);
    int  n = 0;
    for (struct dirent *e; d && (e = readdir(d));) n += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
    if (d) closedir(d);
    return n;
}

static void same_bytes(const char *a, const char *b)
{
    char  *one, *two;
    size_t n_one, n_two;
    ck_assert_int_eq(bb_file_read(a, &one, &n_one, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(b, &two, &n_two, NULL), BB_OK);
    ck_assert(n_one == n_two && memcmp(one, two, n_one) == 0);
    bb_free(one);
    bb_free(two);
}

static const struct kill {
    const char *method, *signal, *prefix;
} kills[] = {
    { "sequential", "INT", "rebuilt-" },
    { "sequential", "KILL", "rebuilt-" },
    { "feedback", "TERM", "entry-" },
    { "rtn", "INT", "rebuilt-" },
};

/* Stopped again and again, quantize goes on where it was and writes the bytes of a call that nothing stopped; then nothing is left. */
START_TEST(quantize_goes_on)
{
    static const char  types[] = "attn=Q4_0\nffn_gate=Q5_0\nffn_up=Q5_0\nffn_down=F16\ntoken_embd=Q8_0\n";
    const struct kill *k = &kills[_i];
    char               straight[512], stopped[512], work[600], log[600];
    int                stops = 0, kept = 0, code = -1;
    snprintf(straight, sizeof straight, "%s", bb_test_path("straight.gguf"));
    snprintf(stopped, sizeof stopped, "%s-%d.gguf", bb_test_path("stopped"), _i);
    snprintf(work, sizeof work, "%s.work", stopped);
    snprintf(log, sizeof log, "%s.log", stopped);
    snprintf(line, sizeof line, "quantize " MODEL " --recipe %s --method %s --ctx 32 --calib-windows 16 --threads 1 --force --out %s",
             bb_test_path("types.txt"), k->method, straight);
    bb_test_write(bb_test_path("types.txt"), types, sizeof types - 1);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_ptr_nonnull(strstr(said, "what is finished is kept in"));
    for (int tries = 1; tries < 400; tries++) { /* longer and longer, so that it ends on a slow machine too */
        snprintf(line, sizeof line,
                 "timeout --foreground --preserve-status -s %s %.3f %s/bitbudget quantize " MODEL " --recipe %s --method %s --ctx 32 --calib-windows 16 "
                 "--threads 1 --out %s >%s 2>&1",
                 k->signal, 0.02 * tries, bb_test_build(), bb_test_path("types.txt"), k->method, stopped, log);
        int state = system(line);
        ck_assert(WIFEXITED(state));
        code = WEXITSTATUS(state);
        if (code == 0) break;
        if (code != 75 && code != 128 + 9 && code != 128 + 2 && code != 128 + 15)
            ck_abort_msg("exit %d: %s", code, file_text(log, "")); /* the last two: before main */
        stops++;
        const int n = files_of(work, k->prefix);
        if (n > kept) kept = n;
    }
    ck_assert_int_eq(code, 0);
    ck_assert_int_gt(stops, 0);
    ck_assert_msg(kept > 0 || strcmp(k->method, "rtn") == 0, "%d stops and nothing kept", stops); /* rounding is over too soon to be met */
    same_bytes(straight, stopped);
    ck_assert(!bb_file_exists(work));
}
END_TEST

/* Seconds of the stages at a pace of one nanosecond for everything: what is counted, whatever the machine. */
static void count_stages(bool is_sweep, const char *const (*options)[2], double seconds[BB_N_STAGES])
{
    bb_run_config c;
    bb_run        r = { 0 };
    bb_pace       pace = { 1e-9, 1e-9, 1e-9, 1e-9, { 0 }, 1e-9, 1e-9, 1, 1e-9, 1e-7 };
    bb_err        err = BB_ERR_INIT;
    for (int t = 0; t < BB_TYPE_COUNT; t++) pace.encode[t] = 1e-9;
    ck_assert_msg(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &c, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "model", MODEL, &err), BB_OK);
    for (; *(*options)[0]; options++)
        ck_assert_msg(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, (*options)[0], (*options)[1], &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_run_preview(&r, &c, is_sweep, &err) == BB_OK, "%s", err.msg);
    bb_estimate_with(&r, &pace, seconds);
    bb_run_close(&r);
}

/* What is done less often is foreseen so: full precision of plans that are rebuilt runs once where its states have room, plans far behind are not finalised and are
 * evaluated on a quarter of the windows, and six sizes and more get two beside the knee. */
START_TEST(the_estimate_counts_what_is_done)
{
#define COMMON \
    { "prune", "none" }, { "eval-windows", "64" }, { "eval", MODEL }, { "finalise-steps", "rebuild" }
    static const char *const five[][2] = { COMMON, { "sizes", "400KiB,450KiB,500KiB,550KiB,600KiB" }, { "finish", "all" }, { "", "" } };
    static const char *const spared[][2] = { COMMON, { "sizes", "400KiB,450KiB,500KiB,550KiB,600KiB" }, { "finish", "contenders" }, { "", "" } };
    static const char *const tight[][2] = { COMMON, { "sizes", "400KiB,450KiB,500KiB,550KiB,600KiB" }, { "finish", "all" }, { "max-ram", "1MiB" }, { "", "" } };
    static const char *const plain[][2] = { COMMON, { "sizes", "400KiB,450KiB,500KiB,550KiB,600KiB" }, { "no-finalise", "true" }, { "", "" } };
    static const char *const points5[][2] = { COMMON, { "points", "5" }, { "min-bpw", "14" }, { "max-bpw", "20" }, { "finish", "contenders" }, { "", "" } };
    static const char *const points6[][2] = { COMMON, { "points", "6" }, { "min-bpw", "14" }, { "max-bpw", "20" }, { "finish", "contenders" }, { "", "" } };
    static const char *const trained[][2] = { COMMON, { "target-bpw", "14" }, { "finalise-steps", "end-to-end" }, { "", "" } };
    static const char *const untrained[][2] = { COMMON, { "target-bpw", "14" }, { "finalise-steps", "end-to-end" }, { "max-ram", "1MiB" }, { "", "" } };
    static const char *const one_all[][2] = { COMMON, { "target-bpw", "14" }, { "finish", "all" }, { "", "" } };
    static const char *const one[][2] = { COMMON, { "target-bpw", "14" }, { "", "" } };
#undef COMMON
    double a[BB_N_STAGES], b[BB_N_STAGES];
    count_stages(true, five, a);
    for (int i = 0; i < BB_N_STAGES; i++) ck_assert_msg(a[i] > 0, "stage %d", i);
    count_stages(true, spared, b);
    ck_assert_double_eq_tol(b[BB_STAGE_FINALISE] / a[BB_STAGE_FINALISE], 5 / 8.0, 0.05); /* three of eight are uniform plans */
    ck_assert_double_lt(b[BB_STAGE_EVALUATE], 0.6 * a[BB_STAGE_EVALUATE]);
    ck_assert_double_eq(b[BB_STAGE_BUILD], a[BB_STAGE_BUILD]);
    count_stages(true, tight, b);
    ck_assert_double_gt(b[BB_STAGE_FINALISE], 1.05 * a[BB_STAGE_FINALISE]);
    count_stages(true, plain, b);
    ck_assert(b[BB_STAGE_FINALISE] > 0 && b[BB_STAGE_FINALISE] < 0.1 * a[BB_STAGE_FINALISE]);
    ck_assert_double_lt(b[BB_STAGE_EVALUATE], 0.7 * a[BB_STAGE_EVALUATE]);
    count_stages(false, one_all, a);
    count_stages(false, one, b);
    ck_assert_double_ge(b[BB_STAGE_FINALISE] / a[BB_STAGE_FINALISE],
                        2 / 3.0); /* of two simple plans the best one, and full precision once for both or all three */
    ck_assert_double_lt(b[BB_STAGE_FINALISE] / a[BB_STAGE_FINALISE], 0.75);
    ck_assert_double_lt(b[BB_STAGE_EVALUATE], a[BB_STAGE_EVALUATE]);
    count_stages(false, trained, a);
    count_stages(false, untrained, b); /* the step is left out for want of memory */
    ck_assert_double_lt(b[BB_STAGE_FINALISE], 0.1 * a[BB_STAGE_FINALISE]);
    count_stages(true, points5, a);
    count_stages(true, points6, b);
    ck_assert_double_eq_tol(b[BB_STAGE_FINALISE] / a[BB_STAGE_FINALISE], 8 / 5.0, 0.1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_time");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, every_stage_says_how_far_it_is);
    tcase_add_test(t, a_terminal_has_one_line_that_is_redrawn);
    tcase_add_test(t, waiting_threads_sleep_by_default);
    tcase_add_test(t, a_time_chooses_what_is_not_given);
    tcase_add_loop_test(t, a_time_that_cannot_be_kept_is_refused, 0, (int)(sizeof wrongs / sizeof *wrongs));
    tcase_add_test(t, what_takes_too_long_is_stopped);
    tcase_add_test(t, a_search_without_a_score_goes_on);
    tcase_add_test(t, as_many_plans_are_left_out_as_there_are);
    tcase_add_test(t, threads_are_as_many_as_may_run);
    tcase_add_test(t, efforts_are_defaults_and_no_more);
    tcase_add_test(t, an_estimate_counts_what_is_done);
    tcase_add_test(t, a_failure_is_in_the_logs);
    tcase_add_loop_test(t, quantize_goes_on, 0, (int)(sizeof kills / sizeof *kills));
    suite_add_tcase(s, t);
    t = tcase_create("estimate");
    tcase_add_test(t, the_estimate_counts_what_is_done);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
