/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_api.c: the library (include/bitbudget/bitbudget.h): the program's bytes, statuses and sentences, cancelling and going on, and a process
 * that is as it was; then what `make install` puts there, and a program built on that alone. Needs the built program and libraries. */
#include <bitbudget/bitbudget.h>

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <locale.h>
#include <omp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"

#define MODEL "tests/data/stories260K.gguf"

extern char **environ;

static const char *const options[][2] = {
    { "formats", "Q4_0,Q8_0" }, { "embd-formats", "Q4_0,Q8_0" }, { "calib-windows", "4" }, { "confirm-windows", "4" }, { "refine-windows", "2" },
    { "measure-windows", "1" }, { "search-tokens", "0.003" },    { "ctx", "32" },          { "sweeps", "1" },          { "prune", "width" },
    { "ffn-divisor", "86" },    { "no-finalise", "true" },
};
enum { N_OPTIONS = sizeof options / sizeof *options };
static const uint64_t budgets[] = { 260000, 320000 };

static char said[8192], line[4096];

static void hear_again(void);

#define OK(call) \
    do { \
        bitbudget_status status_ = (call); \
        if (status_ == BITBUDGET_OK) break; \
        hear_again(); \
        ck_abort_msg("%s: %d, %s", #call, (int)status_, bitbudget_message(b)); \
    } while (0)

/* A handle with the options above, which calibrates on the model itself. */
static bitbudget *handle(const char *out)
{
    bitbudget *b = NULL;
    OK(bitbudget_open(MODEL, &b));
    for (int i = 0; i < N_OPTIONS; i++) OK(bitbudget_set(b, options[i][0], options[i][1]));
    OK(bitbudget_set(b, "out", out));
    OK(bitbudget_set_sizes(b, budgets, 2));
    return b;
}

/* The same by the program; made once. */
static const char *straight_run(void)
{
    static char path[512];
    int         n;
    if (path[0]) return path;
    n = snprintf(line, sizeof line, "sweep " MODEL " --sizes 260000,320000 -q --out %s", bb_test_path("straight"));
    for (int i = 0; i < N_OPTIONS; i++) {
        const bool flag = strcmp(options[i][1], "true") == 0;
        n += snprintf(line + n, sizeof line - (size_t)n, " --%s %s", options[i][0], flag ? "" : options[i][1]);
    }
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    snprintf(path, sizeof path, "%s", bb_test_path("straight"));
    return path;
}

static void same_run(const char *dir)
{
    static const char *const files[] = { "front.csv",    "plans.csv",  "baselines.csv", "layers.csv", "options.csv",
                                         "finalise.csv", "guard.json", "plan.json",     "model.gguf" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char a[600], b[600];
        snprintf(a, sizeof a, "%s/%s", straight_run(), files[i]);
        snprintf(b, sizeof b, "%s/%s", dir, files[i]);
        bb_test_same(a, b);
    }
}

/* ---- silence, and a process as it was ---- */

static void handler(const char *reason, const char *file, int number, int error)
{
    (void)reason;
    (void)file;
    (void)number;
    (void)error;
}

static int out = -1, err = -1; /* the streams of the test while both are listened to */

static void hear_again(void)
{
    if (out < 0) return;
    fflush(NULL);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    close(out);
    close(err);
    out = err = -1;
}

typedef struct process {
    int              omp, blas;
    char            *environment;
    struct sigaction on_int, on_term;
} process;

static char *environment(void)
{
    bb_text t = { 0 };
    for (char **e = environ; *e; e++) bb_text_addf(&t, "%s\n", *e);
    ck_assert_int_eq(t.status, BB_OK);
    return t.data;
}

static void watch(process *p)
{
    fflush(NULL);
    out = dup(STDOUT_FILENO);
    err = dup(STDERR_FILENO);
    ck_assert(freopen(bb_test_path("out"), "w", stdout) && freopen(bb_test_path("err"), "w", stderr));
    gsl_set_error_handler(handler);
    openblas_set_num_threads(3);
    p->omp = omp_get_max_threads();
    p->blas = openblas_get_num_threads();
    p->environment = environment();
    sigaction(SIGINT, NULL, &p->on_int);
    sigaction(SIGTERM, NULL, &p->on_term);
}

static void is_as_it_was(process *p)
{
    uint64_t         n_out = 1, n_err = 1;
    struct sigaction on_int, on_term;
    hear_again();
    ck_assert_int_eq(bb_file_size(bb_test_path("out"), &n_out, NULL), BB_OK);
    ck_assert_int_eq(bb_file_size(bb_test_path("err"), &n_err, NULL), BB_OK);
    ck_assert_msg(n_out == 0 && n_err == 0, "%d bytes on stdout, %d on stderr", (int)n_out, (int)n_err);
    ck_assert(gsl_set_error_handler(NULL) == handler);
    ck_assert_int_eq(omp_get_max_threads(), p->omp);
    ck_assert_int_eq(openblas_get_num_threads(), p->blas);
    char *now = environment();
    ck_assert_str_eq(now, p->environment);
    sigaction(SIGINT, NULL, &on_int);
    sigaction(SIGTERM, NULL, &on_term);
    ck_assert(on_int.sa_handler == p->on_int.sa_handler && on_term.sa_handler == p->on_term.sa_handler);
    ck_assert(uselocale((locale_t)0) == LC_GLOBAL_LOCALE);
    bb_free(now);
    bb_free(p->environment);
    openblas_set_num_threads(1);
}

/* ---- what callbacks heard ---- */

typedef struct heard {
    bitbudget  *b;
    const char *stop;    /* cancels at this label */
    bool        by_call; /* by bitbudget_cancel, not by the value */
    size_t      lines, steps, stops;
    int         inside; /* what a call from inside gave */
} heard;

static void on_log(void *self, bitbudget_log_level level, const char *text)
{
    heard *h = self;
    h->lines += level >= BITBUDGET_LOG_WARNING && level <= BITBUDGET_LOG_DEBUG && *text;
}

static int on_progress(void *self, const bitbudget_progress *p)
{
    heard          *h = self;
    bitbudget_model m;
    ck_assert(*p->label && strncmp(p->text, p->label, strlen(p->label)) == 0 && p->seconds >= 0);
    h->steps++;
    h->inside = (int)bitbudget_inspect(h->b, &m);
    if (!h->stop || !strstr(p->text, h->stop)) return 0;
    h->stops++;
    if (!h->by_call) return 1;
    bitbudget_cancel(h->b);
    return 0;
}

static void listen(bitbudget *b, heard *h)
{
    h->b = b;
    OK(bitbudget_on_log(b, on_log, h));
    OK(bitbudget_on_progress(b, on_progress, h));
}

/* Stage by stage, with threads of its own: the bytes of `bitbudget sweep`, and nothing of the process is changed. */
START_TEST(stages_give_the_bytes_of_the_program)
{
    const char *dir = bb_test_path("stages"), *last = NULL;
    process     p;
    heard       h = { .stop = NULL };
    straight_run();
    watch(&p);
    bitbudget *b = handle(dir);
    listen(b, &h);
    OK(bitbudget_set(b, "threads", omp_get_max_threads() == 1 ? "2" : "1"));
    for (size_t i = 0; (last = bitbudget_stage_name(i)); i++) {
        OK(bitbudget_run_stage(b, last));
        ck_assert_str_eq(bitbudget_message(b), "");
    }
    bitbudget_close(b);
    is_as_it_was(&p);
    same_run(dir);
    ck_assert_uint_gt(h.lines, 5);
    ck_assert_uint_gt(h.steps, 5);
    ck_assert_int_eq(h.inside, BITBUDGET_BUSY);
}
END_TEST

static void cancelled_run_goes_on(const char *name, const char *stop, bool by_call)
{
    const char *dir = bb_test_path(name);
    heard       h = { .stop = stop, .by_call = by_call };
    process     p;
    straight_run();
    watch(&p);
    bitbudget *b = handle(dir);
    listen(b, &h);
    const bitbudget_status status = bitbudget_run(b);
    snprintf(said, sizeof said, "%s", bitbudget_message(b));
    bitbudget_close(b);
    b = handle(dir);
    const bitbudget_status again = bitbudget_run(b);
    bitbudget_close(b);
    is_as_it_was(&p);
    ck_assert_msg(status == BITBUDGET_INTERRUPTED && strstr(said, "interrupted") && h.stops > 0, "%d, %s", (int)status, said);
    ck_assert_int_eq(again, BITBUDGET_OK);
    same_run(dir);
}

START_TEST(a_cancelled_run_goes_on_to_the_same_bytes)
{
    cancelled_run_goes_on("at-search", "search, tokens", false);
    cancelled_run_goes_on("at-measure", "build options", true);
}
END_TEST

/* After a cancelled call, and after other options, the same handle goes on; and a front is read by a second one while the first is open. */
START_TEST(a_handle_serves_several_calls)
{
    const char           *dir = bb_test_path("handle"), *file = bb_test_path("winner.gguf");
    heard                 h = { .stop = "search, tokens" };
    bitbudget            *b = handle(dir), *other = NULL;
    const bitbudget_plan *plans;
    size_t                n, winners = 0;
    char                  path[600];
    listen(b, &h);
    ck_assert_int_eq(bitbudget_run(b), BITBUDGET_INTERRUPTED);
    OK(bitbudget_on_progress(b, NULL, NULL));
    OK(bitbudget_run(b));
    same_run(dir);
    OK(bitbudget_front(b, &plans, &n));
    snprintf(path, sizeof path, "%s/front.csv", dir);
    bb_csv t;
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    ck_assert_uint_eq(n, t.n_rows);
    for (size_t i = 0; i < n; i++) {
        double kl = -1;
        ck_assert_str_eq(plans[i].hash, bb_csv_text(&t, i, 0));
        ck_assert_int_eq(bb_csv_double(&t, i, (size_t)bb_csv_column(&t, "kl_nats"), &kl, NULL), BB_OK);
        ck_assert(plans[i].kl == kl && plans[i].perplexity > 1 && plans[i].bytes > 0 && plans[i].is_source == (i + 1 == n));
        winners += (size_t)plans[i].is_winner;
    }
    bb_csv_done(&t);
    ck_assert_uint_eq(winners, 1);
    OK(bitbudget_open_run(dir, &other));
    ck_assert_int_eq(bitbudget_front(other, &plans, &n), BITBUDGET_OK);
    ck_assert_int_ne(bitbudget_run(other), BITBUDGET_OK); /* the first one has the directory */
    ck_assert_msg(strstr(bitbudget_message(other), dir), "%s", bitbudget_message(other));
    OK(bitbudget_export(b, NULL, file));
    bitbudget_close(b);
    ck_assert_msg(bitbudget_export(other, NULL, file) == BITBUDGET_OK, "%s", bitbudget_message(other));
    ck_assert_msg(bitbudget_run(other) == BITBUDGET_OK, "%s", bitbudget_message(other));
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    bb_test_same(file, path);
    /* another budget, in the same directory */
    ck_assert_msg(bitbudget_set_budget(other, 300000) == BITBUDGET_OK && bitbudget_run(other) == BITBUDGET_OK, "%s", bitbudget_message(other));
    ck_assert_msg(bitbudget_front(other, &plans, &n) == BITBUDGET_OK && n >= 2, "%s", bitbudget_message(other));
    for (size_t i = 0; i < n; i++)
        if (plans[i].is_winner) ck_assert(plans[i].bytes <= 300000 && plans[i].bytes > 260000);
    bitbudget_close(other);
}
END_TEST

/* A sweep gets sizes beside its knee: once, however often it is searched. */
START_TEST(a_search_again_has_the_same_sizes)
{
    static const char *const others[][2] = { { "points", "6" }, { "min-bpw", "9" }, { "max-bpw", "16" }, { "search-tokens", "0.01" } };
    const char              *dir = bb_test_path("sizes");
    bitbudget               *b = handle(dir);
    char                     plans[600], first[600];
    OK(bitbudget_set_sizes(b, NULL, 0));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) OK(bitbudget_set(b, others[i][0], others[i][1]));
    OK(bitbudget_run_stage(b, "search"));
    snprintf(plans, sizeof plans, "%s/plans.csv", dir);
    snprintf(first, sizeof first, "%s/first.csv", dir);
    ck_assert_int_eq(rename(plans, first), 0);
    OK(bitbudget_run_stage(b, "search"));
    bitbudget_close(b);
    bb_test_same(plans, first);
}
END_TEST

START_TEST(a_model_is_told_of_before_it_is_run)
{
    bitbudget_model    m;
    bitbudget_forecast f;
    process            p;
    watch(&p);
    bitbudget *b = handle(bb_test_path("nothing-here"));
    OK(bitbudget_inspect(b, &m));
    OK(bitbudget_estimate(b, &f));
    bitbudget_close(b);
    is_as_it_was(&p);
    ck_assert_str_eq(m.architecture, "llama");
    ck_assert_uint_eq(m.n_weights, 292800); /* matrices and vectors */
    ck_assert_uint_eq(m.n_vocab, 512);
    ck_assert_double_eq_tol(m.bits_per_weight, 8.0 * (double)m.bytes / 292800, 1e-9);
    ck_assert(f.smallest_bytes < 260000 && f.largest_bytes > 320000 && f.n_sizes == 2);
    ck_assert(f.seconds_low < f.seconds && f.seconds < f.seconds_high && f.seconds > 0 && f.tokens > 1000 && f.disk_bytes > 0 && f.ram_bytes > 0);
    ck_assert(!bb_file_exists(bb_test_path("nothing-here")));
}
END_TEST

/* Each is refused with its status and a sentence that names what is wrong. */
START_TEST(what_is_wrong_is_told)
{
    const bitbudget_plan *plans;
    bitbudget_model       m;
    size_t                n;
    bitbudget            *b = NULL;
#define WRONG(call, status, words) \
    do { \
        ck_assert_int_eq((call), (status)); \
        ck_assert_msg(strstr(bitbudget_message(b), (words)), "%s: \"%s\" is not in \"%s\"", #call, (words), bitbudget_message(b)); \
    } while (0)
    process p;
    watch(&p);
    const bitbudget_status no_place = bitbudget_open(MODEL, NULL), no_handle = bitbudget_run(NULL);
    const bitbudget_status missing = bitbudget_open("/nonexistent/x.gguf", &b);
    const bool             has_handle = b && strstr(bitbudget_message(b), "/nonexistent/x.gguf");
    bitbudget_close(b);
    bitbudget_close(NULL);
    is_as_it_was(&p);
    ck_assert_int_eq(no_place, BITBUDGET_USAGE);
    ck_assert_int_eq(no_handle, BITBUDGET_USAGE);
    ck_assert_int_eq(missing, BITBUDGET_BAD_FILE);
    ck_assert(has_handle);
    WRONG(bitbudget_open(NULL, &b), BITBUDGET_USAGE, "no model file");
    bitbudget_close(b);
    WRONG(bitbudget_open("tests/data/README.md", &b), BITBUDGET_BAD_FILE, "README.md");
    WRONG(bitbudget_inspect(b, &m), BITBUDGET_USAGE, "no model is open");
    WRONG(bitbudget_run(b), BITBUDGET_USAGE, "no model is open");
    bitbudget_close(b);
    WRONG(bitbudget_open_run("tests/data", &b), BITBUDGET_BAD_FILE, "no run directory");
    bitbudget_close(b);

    OK(bitbudget_open(MODEL, &b));
    WRONG(bitbudget_set(b, "no-such-option", "1"), BITBUDGET_NOT_FOUND, "no-such-option");
    WRONG(bitbudget_set(b, "ctx", "many"), BITBUDGET_USAGE, "many");
    WRONG(bitbudget_set(b, "prune", "everything"), BITBUDGET_USAGE, "everything");
    WRONG(bitbudget_set(b, "model", "other.gguf"), BITBUDGET_USAGE, "command line");
    WRONG(bitbudget_set(b, "threads", "0"), BITBUDGET_USAGE, "threads");
    WRONG(bitbudget_set(b, "force", "maybe"), BITBUDGET_USAGE, "maybe");
    WRONG(bitbudget_set(b, "out", NULL), BITBUDGET_USAGE, "a value");
    WRONG(bitbudget_set_budget(b, 0), BITBUDGET_USAGE, "no size");
    WRONG(bitbudget_set_sizes(b, NULL, 3), BITBUDGET_USAGE, "3 sizes");
    WRONG(bitbudget_inspect(b, NULL), BITBUDGET_USAGE, "no place");
    WRONG(bitbudget_run_stage(b, "polish"), BITBUDGET_USAGE, "polish");
    OK(bitbudget_set_budget(b, 300000));
    WRONG(bitbudget_run(b), BITBUDGET_USAGE, "\"out\"");
    WRONG(bitbudget_front(b, &plans, &n), BITBUDGET_USAGE, "\"out\"");
    OK(bitbudget_set(b, "out", bb_test_path("never")));
    WRONG(bitbudget_front(b, &plans, &n), BITBUDGET_NOT_FOUND, "front.csv");
    OK(bitbudget_set_budget(b, 1024));
    WRONG(bitbudget_run(b), BITBUDGET_INFEASIBLE, "cannot be reached");
    OK(bitbudget_set_budget(b, 100000000));
    WRONG(bitbudget_run(b), BITBUDGET_USAGE, "not below the source");
    OK(bitbudget_set_budget(b, 300000));
    OK(bitbudget_set(b, "target-bpw", "3"));
    WRONG(bitbudget_run(b), BITBUDGET_USAGE, "target-bpw");
    OK(bitbudget_set_budget(b, 300000)); /* takes it back */
    OK(bitbudget_set(b, "calib", "/nonexistent/text"));
    WRONG(bitbudget_run(b), BITBUDGET_BAD_FILE, "/nonexistent/text");
    WRONG(bitbudget_export(b, NULL, ""), BITBUDGET_USAGE, "no file");
    ck_assert(!bb_file_exists(bb_test_path("never/run.db")));
    bitbudget_close(b);
    ck_assert_str_eq(bitbudget_status_text(BITBUDGET_INFEASIBLE), "the budget cannot be met");
    ck_assert(*bitbudget_status_text(BITBUDGET_BUSY) && *bitbudget_version());
}
END_TEST

/* ---- installed ---- */

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZE "-fsanitize=address,undefined"
#else
#define SANITIZE ""
#endif

static int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    ck_assert_int_lt(vsnprintf(line, sizeof line - 8, format, args), (int)sizeof line - 8);
    va_end(args);
    FILE *f = popen(line, "r");
    ck_assert_ptr_nonnull(f);
    size_t n = fread(said, 1, sizeof said - 1, f);
    said[n] = '\0';
    while (fgetc(f) != EOF) {}
    int state = pclose(f);
    return WIFEXITED(state) ? WEXITSTATUS(state) : -1;
}

static const char *compiler(void) { return getenv("CC") ? getenv("CC") : "cc"; }

/* Goes by the built files as they are: nothing is built while tests run. */
static void install(const char *what, const char *variables)
{
    int code = shell("env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -o all %s BUILD=%s %s 2>&1", what, bb_test_build(), variables);
    ck_assert_msg(code == 0, "make %s: %s", what, said);
}

/* In a folder of its own; made once. */
static const char *installed(void)
{
    static char prefix[512];
    if (prefix[0]) return prefix;
    char variables[1200];
    snprintf(prefix, sizeof prefix, "%s", bb_test_path("prefix"));
    snprintf(variables, sizeof variables, "PREFIX=%s LIBDIR=%s/lib/here", prefix, prefix);
    install("install", variables);
    return prefix;
}

/* The caller's locale writes 3,14: the tables still have points. */
START_TEST(the_callers_locale_does_not_matter)
{
    static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE", "fr_FR" };
    const char              *found = NULL, *dir = bb_test_path("locale");
    for (size_t i = 0; i < sizeof names / sizeof *names && !found; i++) found = setlocale(LC_ALL, names[i]);
    if (!found && shell("localedef -i de_DE -f UTF-8 %s 2>&1", bb_test_path("de_DE.UTF-8")) == 0) { /* one of our own, where its source is installed */
        char folder[512];
        snprintf(folder, sizeof folder, "%s", bb_test_path(""));
        setenv("LOCPATH", folder, 1);
        found = setlocale(LC_ALL, "de_DE.UTF-8");
        unsetenv("LOCPATH");
    }
    if (!found) BB_SKIP("there is no locale with a decimal comma");
    bitbudget *b = handle(dir);
    OK(bitbudget_set(b, "workers", "2"));
    const bitbudget_status status = bitbudget_run(b);
    bitbudget_close(b);
    ck_assert_str_eq(localeconv()->decimal_point, ",");
    setlocale(LC_ALL, "C");
    ck_assert_int_eq(status, BITBUDGET_OK);
    same_run(dir);
}
END_TEST

START_TEST(the_example_is_built_on_the_installed_library_alone)
{
    const char *prefix = installed(), *dir = bb_test_path("example"), *best = bb_test_path("best.gguf"), *program = bb_test_path("pareto");
    char        path[600], words[600] = "";
    bb_csv      ours, t;
    straight_run();
    ck_assert_msg(shell("export PKG_CONFIG_PATH=%s/lib/here/pkgconfig; %s -std=c11 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wpedantic -Werror " SANITIZE
                        " docs/examples/pareto.c -o %s $(pkg-config --cflags --libs bitbudget) 2>&1",
                        prefix, compiler(), program) == 0,
                  "%s", said);
    for (int i = 0; i < N_OPTIONS; i++) snprintf(words + strlen(words), sizeof words - strlen(words), " %s=%s", options[i][0], options[i][1]);
    int code = shell("LD_LIBRARY_PATH=%s/lib/here %s " MODEL " %s %s %s 260000 320000 2>%s.err >%s.csv", prefix, program, dir, best, words, program, program);
    ck_assert_int_eq(code, 0);
    same_run(dir);
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    bb_test_same(best, path);
    snprintf(path, sizeof path, "%s.csv", program);
    ck_assert_int_eq(bb_csv_read(path, &ours, NULL), BB_OK);
    snprintf(path, sizeof path, "%s/front.csv", dir);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    ck_assert_uint_eq(ours.n_rows, t.n_rows);
    for (size_t i = 0; i < t.n_rows; i++) {
        ck_assert_str_eq(bb_csv_text(&ours, i, 0), bb_csv_text(&t, i, (size_t)bb_csv_column(&t, "plan_hash")));
        ck_assert_str_eq(bb_csv_text(&ours, i, 1), bb_csv_text(&t, i, (size_t)bb_csv_column(&t, "size_bytes")));
        ck_assert_str_eq(bb_csv_text(&ours, i, 2), bb_csv_text(&t, i, (size_t)bb_csv_column(&t, "kl_nats")));
    }
    bb_csv_done(&ours);
    bb_csv_done(&t);
    ck_assert_int_eq(shell("LD_LIBRARY_PATH=%s/lib/here %s /nonexistent/m.gguf x y 2>&1", prefix, program), BITBUDGET_BAD_FILE);
    ck_assert_msg(strstr(said, "pareto: /nonexistent/m.gguf"), "%s", said);

    /* and on the static one */
    ck_assert_msg(shell("export PKG_CONFIG_PATH=%s/lib/here/pkgconfig; %s -std=c11 -D_POSIX_C_SOURCE=200809L " SANITIZE " docs/examples/pareto.c -o %s-static "
                        "$(pkg-config --cflags bitbudget) %s/lib/here/libbitbudget.a $(pkg-config --static --libs bitbudget | sed 's/-lbitbudget //') 2>&1",
                        prefix, compiler(), program, prefix) == 0,
                  "%s", said);
    ck_assert_int_eq(shell("%s-static /nonexistent/m.gguf x y 2>&1", program), BITBUDGET_BAD_FILE);
}
END_TEST

START_TEST(only_the_interface_is_seen_outside)
{
    for (int k = 0; k < 2; k++) {
        char   command[700];
        size_t n = 0;
        snprintf(command, sizeof command, k == 0 ? "nm -D --defined-only %s/lib/here/libbitbudget.so.0" : "nm -g --defined-only %s/lib/here/libbitbudget.a",
                 installed());
        ck_assert_int_eq(shell("%s | awk 'NF == 3 { print $3 }'", command), 0);
        for (char *save = NULL, *s = strtok_r(said, "\n", &save); s; s = strtok_r(NULL, "\n", &save), n++)
            ck_assert_msg(strncmp(s, "bitbudget_", 10) == 0, "%s", s);
        ck_assert_uint_ge(n, 18);
    }
    ck_assert_int_eq(shell("readelf -d %s/lib/here/libbitbudget.so | grep -c 'SONAME.*libbitbudget.so.0'", installed()), 0);
}
END_TEST

START_TEST(the_header_is_cpp_too)
{
    if (shell("command -v g++") != 0) BB_SKIP("there is no g++");
    const char *path = bb_test_path("use.cc");
    const char  text[] = "#include <bitbudget/bitbudget.h>\nint main() { bitbudget *b = nullptr; bitbudget_close(b); return *bitbudget_version() ? 0 : 1; }\n";
    bb_test_write(path, text, sizeof text - 1);
    ck_assert_msg(shell("g++ -x c++ -Wall -Wextra -Wpedantic -Werror " SANITIZE " -I%s/include %s -o %s.out -L%s/lib/here -lbitbudget 2>&1", installed(), path,
                        path, installed()) == 0,
                  "%s", said);
    ck_assert_int_eq(shell("LD_LIBRARY_PATH=%s/lib/here %s.out", installed(), path), 0);
}
END_TEST

/* Every file under DESTDIR; `make uninstall` takes all of them back, and no more. */
START_TEST(uninstall_takes_back_what_install_put)
{
    static const char *const files[] = { "bin/bitbudget",
                                         "include/bitbudget/bitbudget.h",
                                         "lib/libbitbudget.a",
                                         "lib/libbitbudget.so",
                                         "lib/libbitbudget.so.0",
                                         "lib/pkgconfig/bitbudget.pc",
                                         "share/bash-completion/completions/bitbudget",
                                         "share/man/man1/bitbudget.1" };
    const char              *stage = bb_test_path("stage");
    char                     variables[700], list[1024] = "";
    snprintf(variables, sizeof variables, "DESTDIR=%s PREFIX=/opt/x", stage);
    install("install", variables);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) snprintf(list + strlen(list), sizeof list - strlen(list), "%s\n", files[i]);
    ck_assert_int_eq(shell("cd %s/opt/x && find . ! -type d | sed 's|^./||' | LC_ALL=C sort", stage), 0);
    ck_assert_str_eq(said, list);
    ck_assert_int_eq(shell("grep -c '^prefix=/opt/x$' %s/opt/x/lib/pkgconfig/bitbudget.pc", stage), 0);
    ck_assert_int_eq(shell("touch %s/opt/x/bin/other", stage), 0);
    install("uninstall", variables);
    ck_assert_int_eq(shell("cd %s && find . ! -type d", stage), 0);
    ck_assert_str_eq(said, "./opt/x/bin/other\n");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("api");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 600);
    tcase_add_test(t, stages_give_the_bytes_of_the_program);
    tcase_add_test(t, a_cancelled_run_goes_on_to_the_same_bytes);
    tcase_add_test(t, a_handle_serves_several_calls);
    tcase_add_test(t, a_search_again_has_the_same_sizes);
    tcase_add_test(t, a_model_is_told_of_before_it_is_run);
    tcase_add_test(t, what_is_wrong_is_told);
    tcase_add_test(t, the_callers_locale_does_not_matter);
    tcase_add_test(t, the_example_is_built_on_the_installed_library_alone);
    tcase_add_test(t, only_the_interface_is_seen_outside);
    tcase_add_test(t, the_header_is_cpp_too);
    tcase_add_test(t, uninstall_takes_back_what_install_put);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
