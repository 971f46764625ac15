/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_mpi.c: one run on several ranks, as a user starts it: the same bytes for 1, 2 and 4; what is wrong on a rank is said once, with its exit code; a
 * rank that is killed, an interruption, and what is found again afterwards. Needs mpirun and a program that was built with MPI. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define MODEL "tests/data/stories260K.gguf"
#define SMALL \
    "--formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --calib-windows 4 --confirm-windows 4 --refine-windows 2 --measure-windows 1 " \
    "--search-tokens 0.003 --tune-tokens 0.002 --points 2 --min-bpw 6 --max-bpw 9 --ctx 32 --sweeps 1 --prune width --ffn-divisor 86 -q --threads 1"

static char said[8192];

/* The exit code of a line of the shell in which $B is the program and $R begins a line of mpirun. */
static int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *format, ...)
{
    char    line[4096];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ck_assert(n > 0 && (size_t)n < sizeof line);
    FILE *p = popen(line, "r");
    ck_assert_ptr_nonnull(p);
    size_t got = fread(said, 1, sizeof said - 1, p);
    said[got] = '\0';
    while (fgetc(p) != EOF) {}
    int state = pclose(p);
    return WIFEXITED(state) ? WEXITSTATUS(state) : -1;
}

/* NULL: several ranks can be started here. */
static const char *missing(void)
{
    static const char *why = "?";
    if (!why || *why != '?') return why;
    char path[4096];
    ck_assert_ptr_nonnull(realpath(bb_test_build(), path));
    strncat(path, "/bitbudget", sizeof path - strlen(path) - 1);
    setenv("B", path, 1);
    setenv("M", "mpirun --oversubscribe --mca btl_vader_single_copy_mechanism none", 1); /* ranks in namespaces cannot read each other's memory */
    setenv("R", "timeout 120 mpirun --oversubscribe --mca btl_vader_single_copy_mechanism none", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1); /* for containers, where one is root */
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    why = NULL;
    if (shell("command -v mpirun") != 0) why = "there is no mpirun (Debian: openmpi-bin)";
    else if (shell("$B --version -v | grep -q '^MPI: none'") == 0) why = "the program was built without MPI (Debian: libopenmpi-dev)";
    else if (shell("$R -n 2 true 2>&1") != 0) why = "mpirun starts nothing here";
    return why;
}

#define NEEDS_RANKS() \
    do { \
        if (missing()) BB_SKIP(missing()); \
    } while (0)

/* How often a part stands in what was said. */
static int times(const char *part)
{
    int n = 0;
    for (const char *p = said; (p = strstr(p, part)); p += strlen(part)) n++;
    return n;
}

/* Everything that a run makes but its books: times, the environment, the log. */
static void same_run(const char *a, const char *b)
{
    static const char *const names[] = { "front.csv",  "plans.csv", "baselines.csv", "layers.csv",   "sensitivity.csv", "options.csv",
                                         "guard.json", "plan.json", "model.gguf",    "finalise.csv", "convergence.csv", "certificate.csv" };
    char                     path[600];
    bb_csv                   plans;
    size_t                   n = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) bb_test_same_in(a, b, names[i]);
    snprintf(path, sizeof path, "%s/plans.csv", a);
    ck_assert_int_eq(bb_csv_read(path, &plans, NULL), BB_OK);
    for (size_t i = 0; i < plans.n_rows; i++) {
        snprintf(path, sizeof path, "models/%s.gguf", bb_csv_text(&plans, i, 0));
        char there[1200];
        snprintf(there, sizeof there, "%s/%s", a, path);
        if (!bb_file_exists(there)) continue;
        bb_test_same_in(a, b, path);
        n++;
    }
    ck_assert_uint_gt(n, 1);
    bb_csv_done(&plans);
}

/* The run of one process that the tests compare with; made once. */
static const char *alone(void)
{
    static char path[512];
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s", bb_test_path("alone"));
    ck_assert_msg(shell("$B sweep " MODEL " " SMALL " --out %s 2>&1", path) == 0, "%s", said);
    return path;
}

START_TEST(any_number_of_ranks_gives_the_same_bytes)
{
    NEEDS_RANKS();
    const int n = _i ? 4 : 2;
    char      out[512];
    snprintf(out, sizeof out, "%s", bb_test_path(n == 2 ? "two" : "four"));
    int code = shell("$R -n %d $B sweep " MODEL " " SMALL " --out %s 2>&1", n, out);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    ck_assert_int_eq(times("is model.gguf"), 1); /* one rank talks */
    same_run(alone(), out);
    if (n == 4) return;
    code = shell("$R -n 2 $B verify %s 2>&1", out);
    ck_assert_msg(code == 0 && times("verified:") == 1, "exit %d: %s", code, said);
    /* Workers in each rank, and a search that measures around its plans. */
    code = shell("$B sweep " MODEL " " SMALL " --sketch signed --no-finalise --out %s 2>&1", bb_test_path("signed-1"));
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    code = shell("$R -n 2 $B sweep " MODEL " " SMALL " --sketch signed --no-finalise --workers 2 --out %s 2>&1", bb_test_path("signed-2"));
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    bb_test_same_in(bb_test_path("signed-1"), bb_test_path("signed-2"), "plans.csv");
    bb_test_same_in(bb_test_path("signed-1"), bb_test_path("signed-2"), "model.gguf");
}
END_TEST

START_TEST(what_is_wrong_is_said_once)
{
    NEEDS_RANKS();
    ck_assert_int_eq(shell("$R -n 2 $B run " MODEL " --target-size 1KiB --out %s 2>&1", bb_test_path("small")), 3);
    ck_assert_int_eq(times("cannot be reached"), 1);
    ck_assert_int_eq(shell("$R -n 3 $B sweeep " MODEL " 2>&1"), 2);
    ck_assert_int_eq(times("did you mean 'sweep'"), 1);
    ck_assert_int_eq(shell("$R -n 1 $B inspect " MODEL " : -n 1 $B inspect tests/data/absent.gguf 2>&1"), 2);
    ck_assert_int_eq(times("rank 1 was started with other arguments"), 1);
    ck_assert_int_eq(shell("$R -n 2 $B inspect " MODEL " 2>&1"), 0); /* a command that has no jobs is done by one */
    ck_assert_int_eq(times("architecture"), 1);
    ck_assert_int_ne(shell("$R -n 1 $B sweep " MODEL " " SMALL " --out %s : -n 1 sh -c 'exit 9' 2>&1", bb_test_path("leaves")), 0);
}
END_TEST

#define OTHERWISE "$R -n 1 $B sweep %s " SMALL " --out %s : -n 1 %s sh -c 'mount --bind %s %s && exec \"$B\" sweep %s " SMALL " --out %s' 2>&1"

/* As on another machine, where another file lies under the same name: a mount that rank 1 alone sees. */
START_TEST(a_rank_must_have_the_same_model)
{
    NEEDS_RANKS();
    const char *unshare = getuid() == 0 ? "unshare -m" : "unshare -rm";
    char        m[512], other[512], out[512];
    snprintf(m, sizeof m, "%s", bb_test_path("m.gguf"));
    snprintf(other, sizeof other, "%s", bb_test_path("other.gguf"));
    snprintf(out, sizeof out, "%s", bb_test_path("other"));
    ck_assert_int_eq(shell("cp " MODEL " %s && cp " MODEL " %s && printf x >> %s", m, other, other), 0);
    if (shell("%s sh -c 'mount --bind %s %s' 2>&1", unshare, other, m) != 0) BB_SKIP("a process cannot have mounts of its own here (unshare)");
    int code = shell(OTHERWISE, m, out, unshare, other, m, m, out);
    ck_assert_msg(code == 2 && times("rank 1 (") == 1 && times("has something else than rank 0 (model there is") == 1, "exit %d: %s", code, said);
    code = shell(OTHERWISE, m, out, unshare, "/dev/null", m, m, out);
    ck_assert_msg(code == 5 && times("rank 1: ") == 1 && times("m.gguf") >= 1, "exit %d: %s", code, said);
}
END_TEST

static int entries(const char *out)
{
    ck_assert_int_eq(shell("ls %s/database 2>/dev/null | grep -c '^entry-.*bin$'; true", out), 0);
    return atoi(said);
}

static void nap(void)
{
    const struct timespec t = { 0, 10000000 };
    nanosleep(&t, NULL);
}

/* Starts a command on two ranks; its shell's process. pid: the file with rank 1's. */
static pid_t start_command(const char *command, const char *stdout_path, const char *pid)
{
    char line[8192];
    int  n = snprintf(line, sizeof line, "exec $M -n 1 $B %s : -n 1 sh -c 'echo $$ > %s; exec \"$B\" %s' >%s 2>/dev/null", command, pid, command, stdout_path);
    ck_assert(n > 0 && (size_t)n < sizeof line);
    fflush(stdout);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    return child;
}

/* A sweep, until some options are built. */
static pid_t start(const char *out, const char *pid)
{
    char command[2048];
    snprintf(command, sizeof command, "sweep " MODEL " " SMALL " --out %s", out);
    pid_t child = start_command(command, "/dev/null", pid);
    for (int i = 0; i < 3000 && entries(out) < 12; i++) nap();
    return child;
}

static int end_of(pid_t child)
{
    int state;
    ck_assert_int_eq(waitpid(child, &state, 0), child);
    return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

START_TEST(a_killed_rank_costs_its_jobs)
{
    NEEDS_RANKS();
    char   out[512], pid[512], *text;
    size_t n;
    snprintf(out, sizeof out, "%s", bb_test_path("killed"));
    snprintf(pid, sizeof pid, "%s", bb_test_path("killed.pid"));
    pid_t child = start(out, pid);
    ck_assert_int_eq(bb_file_read(pid, &text, &n, NULL), BB_OK);
    ck_assert_int_eq(kill((pid_t)atoi(text), SIGKILL), 0);
    bb_free(text);
    ck_assert_int_ne(end_of(child), 0); /* Open MPI ends the whole job */
    const int before = entries(out);
    ck_assert_int_gt(before, 0);
    ck_assert_int_eq(shell("ls -i %s/database | grep 'entry-.*bin$' | sort > %s.before", out, out), 0);
    int code = shell("$R -n 2 $B sweep " MODEL " " SMALL " --out %s 2>&1", out);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    ck_assert_int_eq(shell("ls -i %s/database | grep 'entry-.*bin$' | sort > %s.after; comm -12 %s.before %s.after | wc -l", out, out, out, out), 0);
    ck_assert_int_eq(atoi(said), before); /* the same files: nothing that was finished is made again */
    same_run(alone(), out);
}
END_TEST

START_TEST(an_interruption_leaves_a_checkpoint)
{
    NEEDS_RANKS();
    char out[512], pid[512];
    snprintf(out, sizeof out, "%s", bb_test_path("interrupted"));
    snprintf(pid, sizeof pid, "%s", bb_test_path("interrupted.pid"));
    pid_t child = start(out, pid);
    ck_assert_int_eq(kill(child, SIGUSR1), 0); /* mpirun hands it on to all ranks */
    ck_assert_int_eq(end_of(child), 75);
    ck_assert_int_eq(shell("$B sweep " MODEL " " SMALL " --out %s 2>&1", out), 0); /* whoever goes on */
    same_run(alone(), out);
}
END_TEST

/* ---- low-bit training: one file that all ranks train together ---- */

static char full[512], student[512], command[3000];

/* The command but for --out. */
static void prepare_training(void)
{
    static char ids[512], other[512];
    tiny_spec   spec = tiny_default("llama");
    if (command[0]) return;
    snprintf(full, sizeof full, "%s", bb_test_path("full.gguf"));
    snprintf(student, sizeof student, "%s", bb_test_path("student.gguf"));
    snprintf(ids, sizeof ids, "%s", bb_test_path("text.u32"));
    snprintf(other, sizeof other, "%s", bb_test_path("other.u32"));
    spec.n_embd = 64;
    spec.head_dim = 16;
    for (int i = 0; i < TINY_MAX_LAYERS; i++) spec.n_ff[i] = 128;
    tiny_write(&spec, full);
    bb_test_write_ids(ids, 1, 16, 6000);
    bb_test_write_ids(other, 0, 40, 3000);
    ck_assert_msg(shell("$B quantize %s --format Q2_0 --embd-format Q4_0 --method rtn --out %s 2>&1", full, student) == 0, "%s", said);
    snprintf(command, sizeof command,
             "qat %s --reference %s --text %s --other %s --ctx 32 --batch 3 --held-windows 4 --tokens 0.004 --rate 0.04 --threads 1 --force -q", student, full,
             ids, other);
}

static int looks_in(const char *path)
{
    ck_assert_int_eq(shell("grep -c '^[0-9]' %s 2>/dev/null; true", path), 0);
    return atoi(said);
}

START_TEST(ranks_train_as_one)
{
    NEEDS_RANKS();
    char alone_path[512], path[512];
    prepare_training();
    snprintf(alone_path, sizeof alone_path, "%s", bb_test_path("qat-1.gguf"));
    snprintf(path, sizeof path, "%s", bb_test_path("qat-n.gguf"));
    int code = shell("$B %s --out %s 2>&1", command, alone_path);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    char *alone_said = bb_strdup(said, NULL);
    for (int n = 2; n <= 4; n *= 2) { /* 4: more than there are windows in a batch */
        code = shell("$R -n %d $B %s --out %s 2>&1", n, command, path);
        ck_assert_msg(code == 0 && times("step,tokens") == 1, "exit %d: %s", code, said);
        bb_test_same(alone_path, path);
    }
    ck_assert_int_eq(strncmp(alone_said, said, 60), 0);
    bb_free(alone_said);
}
END_TEST

/* Two ranks are interrupted; two go on, of which one is killed; four end it from the state of the first, with the bytes of one that was never stopped. */
START_TEST(a_training_goes_on_with_other_ranks)
{
    NEEDS_RANKS();
    char   alone_path[512], path[512], state[600], pid[512], looks[512], line[4000], *text;
    size_t n;
    prepare_training();
    snprintf(alone_path, sizeof alone_path, "%s", bb_test_path("whole.gguf"));
    snprintf(path, sizeof path, "%s", bb_test_path("stopped.gguf"));
    snprintf(state, sizeof state, "%s.state", path);
    snprintf(pid, sizeof pid, "%s", bb_test_path("qat.pid"));
    snprintf(looks, sizeof looks, "%s", bb_test_path("looks.csv"));
    ck_assert_msg(shell("$B %s --out %s 2>&1", command, alone_path) == 0, "%s", said);
    snprintf(line, sizeof line, "%s --out %s", command, path);
    for (int k = 0; k < 2; k++) {
        unlink(looks);
        pid_t child = start_command(line, looks, pid);
        for (int i = 0; i < 3000 && looks_in(looks) < 3 - k; i++) nap(); /* of the second: the start, and one */
        if (k == 0) ck_assert_int_eq(kill(child, SIGUSR1), 0);
        else {
            ck_assert_int_eq(bb_file_read(pid, &text, &n, NULL), BB_OK);
            ck_assert_int_eq(kill((pid_t)atoi(text), SIGKILL), 0);
            bb_free(text);
        }
        const int code = end_of(child);
        ck_assert_msg(k == 0 ? code == 75 : code != 0, "exit %d", code);
        ck_assert(bb_file_exists(state) && !bb_file_exists(path));
    }
    int code = shell("$R -n 4 $B %s 2>&1", line);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    ck_assert_int_lt(times("\n"), 9); /* it went on: one look at the start, and those that were left */
    bb_test_same(alone_path, path);
    ck_assert(!bb_file_exists(state));
}
END_TEST

/* What is wrong is said once, with its exit code. */
START_TEST(mistakes_of_a_training_are_said_once)
{
    NEEDS_RANKS();
    prepare_training();
    ck_assert_int_eq(shell("$R -n 2 $B %s --out %s --max-ram 1MiB 2>&1", command, bb_test_path("no.gguf")), 3);
    ck_assert_int_eq(times("training needs"), 1);
    const char *unshare = getuid() == 0 ? "unshare -m" : "unshare -rm";
    char        other[512];
    snprintf(other, sizeof other, "%s", bb_test_path("other-student.gguf"));
    ck_assert_msg(shell("$B quantize %s --format Q5_0 --embd-format Q4_0 --method rtn --out %s 2>&1", full, other) == 0, "%s", said);
    if (shell("%s sh -c 'mount --bind %s %s' 2>&1", unshare, other, student) != 0) BB_SKIP("a process cannot have mounts of its own here (unshare)");
    int code = shell("$R -n 1 $B %s --out %s : -n 1 %s sh -c 'mount --bind %s %s && exec \"$B\" %s --out %s' 2>&1", command, bb_test_path("no.gguf"), unshare,
                     other, student, command, bb_test_path("no.gguf"));
    ck_assert_msg(code == 2 && times("rank 1 (") == 1 && times("has something else than rank 0 (model there is") == 1, "exit %d: %s", code, said);
}
END_TEST

/* Started by mpirun, a program without MPI would be so many runs in one folder. */
START_TEST(a_build_without_mpi_says_so)
{
    ck_assert_int_eq(shell("%s/bitbudget --version -v | grep '^MPI: '", bb_test_build()), 0);
    if (!strstr(said, "none")) BB_SKIP("the program was built with MPI");
    ck_assert_int_eq(shell("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 %s/bitbudget inspect " MODEL " 2>&1", bb_test_build()), 2);
    ck_assert_int_eq(times("it was built without MPI"), 1);
    ck_assert_int_eq(shell("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 %s/bitbudget inspect " MODEL " 2>&1", bb_test_build()), 0);
    ck_assert_str_eq(said, "");
    ck_assert_int_eq(shell("OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0 %s/bitbudget inspect " MODEL " 2>&1", bb_test_build()), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_mpi");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, any_number_of_ranks_gives_the_same_bytes, 0, 2);
    tcase_add_test(t, what_is_wrong_is_said_once);
    tcase_add_test(t, a_rank_must_have_the_same_model);
    tcase_add_test(t, a_killed_rank_costs_its_jobs);
    tcase_add_test(t, an_interruption_leaves_a_checkpoint);
    tcase_add_test(t, ranks_train_as_one);
    tcase_add_test(t, a_training_goes_on_with_other_ranks);
    tcase_add_test(t, mistakes_of_a_training_are_said_once);
    tcase_add_test(t, a_build_without_mpi_says_so);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
