/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_finalise.c: plans that are finished at the same time: the bytes of one after the other, within --max-ram, after a kill, and one sentence where one of
 * them fails. Needs the built program. */
#include <dirent.h>
#include <gsl/gsl_errno.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/memory.h"
#include "engine/run.h"
#include "engine/stages.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"

#define MODEL "tests/data/stories260K.gguf"
#define SMALL \
    "--formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --calib-windows 4 --confirm-windows 4 --refine-windows 2 --measure-windows 1 " \
    "--search-tokens 0.003 --points 4 --min-bpw 10.5 --max-bpw 13 --ctx 32 --sweeps 1 --prune none --finalise-steps rebuild --tune-windows 0 -q"
enum { STAGES = 20 }; /* of a plan: four a block */

static char said[1 << 14], line[2048];

static const char *sweep(const char *name, int threads, const char *more)
{
    static char path[512];
    snprintf(path, sizeof path, "%s", bb_test_path(name));
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --threads %d --out %s %s", threads, path, more);
    setenv("BB_PROGRESS_S", "0", 1);
    int code = bb_test_program(line, said, sizeof said);
    unsetenv("BB_PROGRESS_S");
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    return path;
}

/* One thread, one plan after the other; made once. */
static const char *one_by_one(void)
{
    static char path[512];
    if (!path[0]) snprintf(path, sizeof path, "%s", sweep("alone", 1, ""));
    return path;
}

/* A copy of that run, to be damaged. */
static const char *copy(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s", bb_test_path(name));
    snprintf(line, sizeof line, "cp -r %s %s", one_by_one(), path);
    ck_assert_int_eq(system(line), 0);
    return path;
}

/* Calls what with the path of each file of models/; how many there are. */
static int for_models(const char *run, void (*what)(const char *path, const char *run))
{
    char           dir[600], path[1200];
    struct dirent *e;
    int            n = 0;
    snprintf(dir, sizeof dir, "%s/models", run);
    DIR *d = opendir(dir);
    while (d && (e = readdir(d)))
        if (strlen(e->d_name) == 21 && strstr(e->d_name, ".gguf")) {
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
            if (what) what(path, run);
            n++;
        }
    if (d) closedir(d);
    return n;
}

static const char *other;

static void same_there(const char *path, const char *run) { bb_test_same_in(run, other, path + strlen(run) + 1); }

static void same_files(const char *a, const char *b)
{
    other = b;
    ck_assert_int_ge(for_models(a, same_there), 4);
    ck_assert_int_eq(for_models(a, NULL), for_models(b, NULL));
    bb_test_same_in(a, b, "finalise.csv");
    bb_test_same_in(a, b, "front.csv");
    bb_test_same_in(a, b, "options.csv");
}

/* How many plans were under way at once, as the log of the run says. */
static int at_once(const char *run)
{
    char  *text, path[600], part[32];
    size_t n;
    int    most = 0;
    snprintf(path, sizeof path, "%s/log.txt", run);
    ck_assert_int_eq(bb_file_read(path, &text, &n, NULL), BB_OK);
    for (int k = 1; k <= 8; k++)
        for (int i = 0; i <= k * STAGES; i++) {
            snprintf(part, sizeof part, "rebuild: %d/%d (", i, k * STAGES);
            if (strstr(text, part)) most = k;
        }
    bb_free(text);
    return most;
}

static void take_away(const char *path, const char *run)
{
    (void)run;
    ck_assert_int_eq(unlink(path), 0);
}

START_TEST(plans_finished_together_have_the_same_bytes)
{
    const char *a = one_by_one(), *b = sweep("four", 4, "");
    char        two[512];
    ck_assert_int_eq(at_once(a), 1);
    ck_assert_int_eq(at_once(b), 4);
    same_files(a, b);
    snprintf(two, sizeof two, "%s", copy("two"));
    for_models(two, take_away);
    snprintf(line, sizeof line, "BB_PROGRESS_S=0 %s/bitbudget finalise %s -q --threads 2", bb_test_build(), two);
    ck_assert_int_eq(system(line), 0);
    ck_assert_int_eq(at_once(two), 2);
    same_files(a, two);
}
END_TEST

/* With no more memory than a run needs there is one plan at a time. */
START_TEST(memory_bounds_how_many)
{
    const char *a = one_by_one();
    char        most[64];
    uint64_t    more;
    bb_run      r = { 0 };
    bb_err      err = BB_ERR_INIT;
    ck_assert_msg(bb_run_reopen(&r, a, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(bb_memory_for_plans(&r, 1, UINT64_MAX, &more), 1);
    ck_assert_uint_eq(more, 0);
    ck_assert_uint_eq(bb_memory_for_plans(&r, 9, 0, &more), 1);
    bb_run_close(&r);
    snprintf(line, sizeof line, "estimate " MODEL " " SMALL " --threads 4 --json");
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
    const char *at = strstr(said, "\"ram_least_bytes\": ");
    ck_assert_ptr_nonnull(at);
    snprintf(most, sizeof most, "--max-ram %llu", strtoull(at + 19, NULL, 10));
    const char *b = sweep("tight", 4, most);
    ck_assert_int_eq(at_once(b), 1);
    other = b;
    ck_assert_int_ge(for_models(a, same_there), 4);
}
END_TEST

/* Starts `finalise RUN` and kills it when some plan has been under way for so many steps. */
static bool killed_in_the_middle(const char *run, int steps)
{
    char        log[600], part[64];
    struct stat s;
    snprintf(log, sizeof log, "%s/log.txt", run);
    const off_t from = stat(log, &s) == 0 ? s.st_size : 0;
    snprintf(line, sizeof line, "%s/bitbudget", bb_test_build());
    const pid_t child = fork();
    if (child == 0) {
        setenv("BB_PROGRESS_S", "0", 1);
        execl(line, line, "finalise", run, "-q", "--threads", "2", (char *)NULL);
        _exit(127);
    }
    ck_assert_int_gt(child, 0);
    snprintf(part, sizeof part, "rebuild: %d/%d (", steps, 2 * STAGES);
    bool seen = false;
    int  state;
    while (waitpid(child, &state, WNOHANG) == 0) {
        char  *text;
        size_t n;
        if (bb_file_read(log, &text, &n, NULL) == BB_OK) {
            seen = (off_t)n > from && strstr(text + from, part);
            bb_free(text);
        }
        if (seen) {
            kill(child, SIGKILL);
            waitpid(child, &state, 0);
            break;
        }
        nanosleep(&(struct timespec) { 0, 200000 }, NULL);
    }
    return seen && WIFSIGNALED(state);
}

START_TEST(a_kill_in_the_middle_changes_nothing)
{
    const char *a = one_by_one(), *b = copy("killed");
    char        run[512];
    int         kills = 0;
    snprintf(run, sizeof run, "%s", b);
    for_models(run, take_away);
    for (int i = 0; i < 4; i++) kills += killed_in_the_middle(run, 3 + 7 * i);
    ck_assert_int_gt(kills, 0);
    ck_assert_int_lt(for_models(run, NULL), for_models(a, NULL));
    snprintf(line, sizeof line, "finalise %s -q --threads 2", run);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    same_files(a, run);
}
END_TEST

/* plans.csv says another size of the third plan. The sentence comes once, names it, and with the right size all files are right afterwards. */
START_TEST(one_that_fails_is_said_once)
{
    const char *a = one_by_one();
    char        run[512], path[600], *text;
    size_t      n;
    bb_csv      t;
    snprintf(run, sizeof run, "%s", copy("failing"));
    for_models(run, take_away);
    snprintf(path, sizeof path, "%s/plans.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(path, &text, &n, NULL), BB_OK);
    snprintf(said, sizeof said, "%s,%s,", bb_csv_text(&t, 2, 0), bb_csv_text(&t, 2, 1));
    char *digit = strstr(text, said);
    ck_assert_ptr_nonnull(digit);
    digit += strlen(said) - 2;
    const char was = *digit;
    *digit = was == '1' ? '2' : '1';
    bb_test_write(path, text, n);
    snprintf(line, sizeof line, "finalise %s -q --threads 2", run);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 4);
    ck_assert_msg(strstr(said, bb_csv_text(&t, 2, 0)) && strstr(said, "the plan was counted at"), "%s", said);
    const char *first = strstr(said, "bitbudget: ");
    ck_assert_msg(first && !strstr(first + 1, "bitbudget: ") && !strstr(said, "interrupted"), "%s", said);
    *digit = was;
    bb_test_write(path, text, n);
    bb_free(text);
    bb_csv_done(&t);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    same_files(a, run);
}
END_TEST

/* A run up to its files; room: of its memory beside the evaluator, more: of that for the second of two plans, states: what full precision says takes. */
static void open_searched(const char *out, const char *max_ram, bb_run *r, uint64_t *room, uint64_t *more, uint64_t *states)
{
    static const char *const given[][2] = {
        { "formats", "Q4_0,Q8_0" }, { "embd-formats", "Q4_0,Q8_0" }, { "calib-windows", "64" }, { "confirm-windows", "4" }, { "refine-windows", "2" },
        { "measure-windows", "1" }, { "search-tokens", "0.003" },    { "target-bpw", "11" },    { "ctx", "128" },           { "sweeps", "1" },
        { "prune", "none" },        { "finalise-steps", "rebuild" }, { "output-windows", "0" }, { "finish", "all" }
    };
    bb_run_config c = { 0 };
    bb_err        err = BB_ERR_INIT;
    ck_assert_int_eq(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &c, &err), BB_OK);
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, given[i][0], given[i][1], &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "model", MODEL, &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "out", out, &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "max-ram", max_ram, &err), BB_OK);
    ck_assert_msg(bb_run_create(r, &c, false, &err) == BB_OK, "%s", err.msg);
    for (int i = 0; i < BB_STAGE_FINALISE; i++) ck_assert_msg(bb_stage_run(r, (bb_stage)i, &err) == BB_OK, "%s", err.msg);
    *room = bb_net_evaluator_unused(r->evaluator);
    ck_assert_uint_eq(bb_memory_for_plans(r, 2, *room, more), 2);
    *states = (uint64_t)r->model.net.n_layer * 2 * r->calib.n * r->calib.ctx * r->model.net.n_embd * sizeof(float);
}

/* What full precision says has room or not beside all plans that are finished: one of them does not keep it for itself where the others' memory is. */
START_TEST(what_all_share_is_kept_for_all_or_for_none)
{
    const int    threads = omp_get_max_threads();
    const size_t before = bb_mem_live_bytes();
    char         out[512], less[40];
    uint64_t     room, more, states, wanted;
    bb_run       r;
    bb_err       err = BB_ERR_INIT;
    snprintf(out, sizeof out, "%s", bb_test_path("room"));
    gsl_set_error_handler_off();
    omp_set_num_threads(2);
    open_searched(out, "2GiB", &r, &room, &more, &states);
    const uint64_t all = r.config.max_ram;
    bb_run_close(&r);
    wanted = more + states / 2; /* caches take four fifths of what is more than the least */
    snprintf(less, sizeof less, "%llu", (unsigned long long)(all - (room - wanted) / 4 * 5));
    open_searched(out, less, &r, &room, &more, &states);
    ck_assert(room > more && room - more < states && room > states);
    const size_t searched = bb_mem_live_bytes();
    ck_assert_msg(bb_stage_run(&r, BB_STAGE_FINALISE, &err) == BB_OK, "%s", err.msg);
    ck_assert_ptr_null(r.full_states.h);
    ck_assert_uint_lt(bb_mem_live_bytes(), searched + states / 2);
    bb_run_close(&r);
    omp_set_num_threads(threads);
    ck_assert_uint_eq(bb_mem_live_bytes(), before);
}
END_TEST

int main(void)
{
    bb_log_set_level(BB_LOG_QUIET);
    Suite *s = suite_create("finalise");
    TCase *t = tcase_create("plans at the same time");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, plans_finished_together_have_the_same_bytes);
    tcase_add_test(t, memory_bounds_how_many);
    tcase_add_test(t, what_all_share_is_kept_for_all_or_for_none);
    tcase_add_test(t, a_kill_in_the_middle_changes_nothing);
    tcase_add_test(t, one_that_fails_is_said_once);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
