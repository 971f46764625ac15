/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_base_file.c: every operation on files can fail, says which file and why, and leaves nothing behind; what killed processes leave is found;
 * outputs are checked before any work; one process at a time holds a lock. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/store.h"
#include "tests/support/support.h"

static size_t entries(const char *path)
{
    size_t n = 0;
    DIR   *d = opendir(path);
    ck_assert_ptr_nonnull(d);
    while (readdir(d)) n++;
    closedir(d);
    return n - 2;
}

static void contains(const bb_err *err, const char *a, const char *b)
{
    ck_assert_msg(strstr(err->msg, a) && strstr(err->msg, b), "'%s' should hold '%s' and '%s'", err->msg, a, b);
}

/* ---- failures ---- */

START_TEST(every_failing_operation_is_reported_with_path_and_reason)
{
    static const int reasons[] = { ENOSPC, EIO, EDQUOT, EFBIG, EACCES };
    const char      *dir = bb_test_path("ops"), *path = bb_test_path("ops/file");
    char            *data, big[200000];
    size_t           size;
    long             n;
    memset(big, 'x', sizeof big);
    ck_assert_int_eq(bb_make_dirs(dir, NULL), BB_OK);
    n = bb_file_operations();
    ck_assert_int_eq(bb_file_write(path, big, sizeof big, NULL), BB_OK);
    n = bb_file_operations() - n;
    ck_assert_int_ge(n, 5); /* open, write, sync, close, rename */
    for (long k = 0; k <= n; k++)
        for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
            bb_err err = BB_ERR_INIT;
            bb_file_fail_after(k, 1, reasons[i]);
            bb_status status = bb_file_write(path, k % 2 ? "new" : "nex", 3, &err);
            bb_file_fail_after(-1, 0, 0);
            if (k < 5) {
                ck_assert_int_eq(status, BB_IO);
                contains(&err, path, strerror(reasons[i]));
            }
            ck_assert_uint_eq(entries(dir), 1);
        }
    for (int k = 0; k < 2; k++) {
        bb_err err = BB_ERR_INIT;
        bb_map map;
        bb_file_fail_after(k, 1, EIO);
        ck_assert_int_ne(bb_file_read(path, &data, &size, &err), BB_OK);
        contains(&err, path, strerror(EIO));
        bb_err_clear(&err);
        bb_file_fail_after(k, 1, ENOMEM);
        ck_assert_int_ne(bb_map_open(path, &map, &err), BB_OK);
        contains(&err, path, strerror(ENOMEM));
        bb_file_fail_after(-1, 0, 0);
    }
    bb_err err = BB_ERR_INIT;
    bb_file_fail_after(0, 1, EROFS);
    ck_assert_int_eq(bb_make_dirs(bb_test_path("ops2"), &err), BB_IO);
    contains(&err, "ops2", strerror(EROFS));
    bb_file_fail_after(-1, 0, 0);
}
END_TEST

/* The system itself refuses, in the middle of a large file. */
START_TEST(a_limit_on_the_size_of_files_is_a_failure_with_a_reason)
{
    const char   *path = bb_test_path("limited");
    struct rlimit old, low;
    bb_err        err = BB_ERR_INIT;
    char         *big = calloc(1 << 20, 1);
    bb_interrupt_install();
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 100000;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &low), 0);
    bb_status status = bb_file_write(path, big, 1 << 20, &err);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    ck_assert_int_eq(status, BB_IO);
    contains(&err, path, strerror(EFBIG));
    ck_assert(!bb_file_exists(path));
    free(big);
}
END_TEST

START_TEST(a_pipe_is_refused_at_once)
{
    const char *path = bb_test_path("pipe");
    bb_map      map;
    bb_err      err = BB_ERR_INIT;
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_assert_int_eq(bb_map_open(path, &map, &err), BB_BAD_FILE);
    contains(&err, path, "not a regular file");
    ck_assert_int_eq(bb_log_to_file(path, NULL), BB_IO);
    ck_assert_int_eq(bb_file_check_output(path, NULL), BB_IO);
}
END_TEST

START_TEST(the_store_keeps_the_reason)
{
    bb_store     *store;
    bb_err        err = BB_ERR_INIT;
    struct rlimit old, low;
    char         *big = calloc(1 << 20, 1);
    const char   *path = bb_test_path("full.db");
    ck_assert_int_eq(bb_store_open(bb_test_path("no/such.db"), &store, &err), BB_IO);
    contains(&err, "no/such.db", strerror(ENOENT));
    bb_err_clear(&err);
    bb_interrupt_install();
    ck_assert_int_eq(bb_store_open(path, &store, NULL), BB_OK);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 100000;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &low), 0);
    bb_status status = bb_store_put(store, "t", "k", big, 1 << 20, &err);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    ck_assert_int_eq(status, BB_IO);
    contains(&err, path, strerror(EFBIG));
    bb_store_close(store);
    free(big);
}
END_TEST

/* ---- temporaries ---- */

START_TEST(what_a_killed_process_left_is_removed_and_nothing_else)
{
    const char *dir = bb_test_path("stale");
    ck_assert_int_eq(bb_make_dirs(dir, NULL), BB_OK);
    pid_t child = fork();
    if (child == 0) { /* dies while it writes */
        bb_writer w;
        if (bb_writer_open(&w, bb_test_path("stale/model.gguf"), NULL) != BB_OK) _exit(1);
        fputs("half", w.stream);
        fflush(w.stream);
        raise(SIGKILL);
    }
    int state;
    waitpid(child, &state, 0);
    ck_assert(WIFSIGNALED(state));
    ck_assert_uint_eq(entries(dir), 1);
    /* Neighbours whose names only look alike, and one that lives. */
    static const char *const foreign[] = { "stale/a.tmp-1-2", "stale/.bbtmp-1-2", "stale/b.bbtmp-x-2", "stale/b.bbtmp-1-2x", "stale/b.bbtmp-1" };
    for (size_t i = 0; i < 5; i++) bb_test_write(bb_test_path(foreign[i]), "x", 1);
    const char *living = bb_test_path("stale/c.bbtmp-1-2");
    bb_test_write(living, "x", 1);
    int fd = open(living, O_RDWR);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    ck_assert_int_eq(bb_file_write(bb_test_path("stale/other"), "x", 1, NULL), BB_OK);
    for (size_t i = 0; i < 5; i++) ck_assert(bb_file_exists(bb_test_path(foreign[i])));
    ck_assert(bb_file_exists(living));
    ck_assert_uint_eq(entries(dir), 7);
    close(fd);
    bb_folder_clean(dir);
    ck_assert(!bb_file_exists(living));
    bb_writer w; /* our own is held, too */
    ck_assert_int_eq(bb_writer_open(&w, bb_test_path("stale/mine"), NULL), BB_OK);
    bb_folder_clean(dir);
    fputs("mine", w.stream);
    ck_assert_int_eq(bb_writer_commit(&w, NULL), BB_OK);
    ck_assert(bb_file_exists(bb_test_path("stale/mine")));
    bb_folder_clean(bb_test_path("no-such-folder"));
}
END_TEST

START_TEST(what_a_link_points_to_is_written)
{
    const char *link = bb_test_path("link"), *target = bb_test_path("target");
    struct stat st;
    char       *data;
    size_t      size;
    bb_test_write(target, "old", 3);
    ck_assert_int_eq(symlink(target, link), 0);
    ck_assert_int_eq(bb_file_write(link, "newer", 5, NULL), BB_OK);
    ck_assert(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    ck_assert_int_eq(bb_file_read(target, &data, &size, NULL), BB_OK);
    ck_assert_str_eq(data, "newer");
    bb_free(data);
}
END_TEST

/* Also where there is nothing yet: a file that is meant for another disk is not written in the link's place. */
START_TEST(what_a_link_will_point_to_is_written)
{
    const char *first = bb_test_path("first"), *second = bb_test_path("second"), *target = bb_test_path("elsewhere/file");
    struct stat st;
    bb_err      err = BB_ERR_INIT;
    ck_assert_int_eq(symlink("second", first), 0);
    ck_assert_int_eq(symlink("elsewhere/file", second), 0);
    ck_assert_int_eq(bb_file_check_output(first, &err), BB_IO);
    ck_assert_msg(strstr(err.msg, "elsewhere") != NULL, "%s", err.msg);
    ck_assert_int_eq(bb_file_write(first, "x", 1, NULL), BB_IO);
    ck_assert_int_eq(bb_make_dirs(bb_test_path("elsewhere"), NULL), BB_OK);
    ck_assert_int_eq(bb_file_check_output(first, NULL), BB_OK);
    ck_assert_int_eq(bb_file_write(first, "x", 1, NULL), BB_OK);
    ck_assert(lstat(first, &st) == 0 && S_ISLNK(st.st_mode));
    ck_assert(lstat(second, &st) == 0 && S_ISLNK(st.st_mode));
    ck_assert(lstat(target, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 1);
    ck_assert_int_eq(symlink("ring", bb_test_path("ring")), 0);
    ck_assert_int_eq(bb_file_write(bb_test_path("ring"), "x", 1, NULL), BB_OK); /* leads nowhere: replaced */
}
END_TEST

/* ---- outputs ---- */

START_TEST(outputs_are_checked_before_any_work)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_make_dirs(bb_test_path("out"), NULL), BB_OK);
    bb_test_write(bb_test_path("out/file"), "x", 1);
    ck_assert_int_eq(bb_file_check_output(bb_test_path("out/new"), NULL), BB_OK);
    ck_assert_int_eq(bb_file_check_output(bb_test_path("out/file"), NULL), BB_OK);
    ck_assert_int_eq(bb_file_check_output("unqualified", NULL), BB_OK);
    ck_assert_int_eq(bb_file_check_output("", NULL), BB_USAGE);
    ck_assert_int_eq(bb_file_check_output(bb_test_path("out"), &err), BB_IO);
    contains(&err, "out", "is a folder");
    bb_err_clear(&err);
    ck_assert_int_eq(bb_file_check_output(bb_test_path("out/new/"), NULL), BB_IO);
    ck_assert_int_eq(bb_file_check_output(bb_test_path("none/new"), &err), BB_IO);
    contains(&err, "none/new", strerror(ENOENT));
    bb_err_clear(&err);
    ck_assert_int_eq(bb_file_check_output(bb_test_path("out/file/new"), &err), BB_IO);
    contains(&err, "out/file/new", "no folder");
    ck_assert_int_eq(bb_file_check_output("/dev/full", NULL), BB_IO);
    ck_assert(!bb_file_exists(bb_test_path("out/new")));
    ck_assert_int_eq(bb_folder_check_output(bb_test_path("out"), NULL), BB_OK);
    ck_assert_int_eq(bb_folder_check_output(bb_test_path("out/deep/er"), NULL), BB_OK);
    ck_assert_int_eq(bb_folder_check_output("relative/deep/", NULL), BB_OK);
    ck_assert_int_eq(bb_folder_check_output(bb_test_path("out/file"), NULL), BB_IO);
    ck_assert_int_eq(bb_folder_check_output(bb_test_path("out/file/deep"), NULL), BB_IO);
    if (geteuid() != 0) { /* root may write anywhere */
        ck_assert_int_eq(chmod(bb_test_path("out"), 0555), 0);
        ck_assert_int_eq(bb_file_check_output(bb_test_path("out/new"), &err), BB_IO);
        ck_assert_int_eq(bb_folder_check_output(bb_test_path("out/new"), &err), BB_IO);
        ck_assert_int_eq(chmod(bb_test_path("out"), 0755), 0);
    }
    uint64_t bytes = 0;
    ck_assert_int_eq(bb_free_space(bb_test_path("out/deep/er"), &bytes, NULL), BB_OK);
    ck_assert_uint_gt(bytes, 0);
    ck_assert(bb_file_same(bb_test_path("out/file"), bb_test_path("out/../out/file")));
    ck_assert_int_eq(link(bb_test_path("out/file"), bb_test_path("out/hard")), 0);
    ck_assert(bb_file_same(bb_test_path("out/file"), bb_test_path("out/hard")));
    ck_assert(!bb_file_same(bb_test_path("out/file"), bb_test_path("out")));
    ck_assert(!bb_file_same(bb_test_path("none"), bb_test_path("none")));
}
END_TEST

/* ---- locks ---- */

START_TEST(a_lock_has_one_holder_and_names_it)
{
    const char *path = bb_test_path("lock");
    int         ready[2], done[2], state;
    char        c, pid[32];
    bb_lock     lock = { 0 };
    bb_err      err = BB_ERR_INIT;
    ck_assert(pipe(ready) == 0 && pipe(done) == 0);
    pid_t child = fork();
    if (child == 0) {
        bb_lock theirs = { 0 };
        c = bb_lock_take(&theirs, path, NULL) == BB_OK ? 'y' : 'n';
        if (write(ready[1], &c, 1) != 1 || read(done[0], &c, 1) != 1) _exit(1);
        raise(SIGKILL); /* the system takes the lock back */
    }
    ck_assert(read(ready[0], &c, 1) == 1 && c == 'y');
    ck_assert_int_eq(bb_lock_take(&lock, path, &err), BB_FAILED);
    snprintf(pid, sizeof pid, "PID %ld", (long)child);
    contains(&err, path, pid);
    ck_assert_int_eq(write(done[1], "x", 1), 1);
    waitpid(child, &state, 0);
    ck_assert_int_eq(bb_lock_take(&lock, path, NULL), BB_OK);
    bb_lock_release(&lock);
    bb_lock_release(&lock);
    ck_assert_int_eq(bb_lock_take(&lock, path, NULL), BB_OK);
    bb_lock_release(&lock);
    if ((child = fork()) == 0) { /* one that is just ending is waited for */
        bb_lock theirs = { 0 };
        c = bb_lock_take(&theirs, path, NULL) == BB_OK ? 'y' : 'n';
        if (write(ready[1], &c, 1) != 1) _exit(1);
        nanosleep(&(struct timespec) { .tv_nsec = 200000000 }, NULL);
        raise(SIGKILL);
    }
    ck_assert(read(ready[0], &c, 1) == 1 && c == 'y');
    ck_assert_int_eq(bb_lock_take(&lock, path, NULL), BB_OK);
    bb_lock_release(&lock);
    waitpid(child, &state, 0);
    bb_err_clear(&err);
    ck_assert_int_eq(bb_lock_take(&lock, bb_test_path("none/lock"), &err), BB_IO);
    contains(&err, "none/lock", strerror(ENOENT));
}
END_TEST

/* ---- files as memory ---- */

/* What is written to them stays when its pages are given back; they have no name, are apart from one another, and go with bb_free. */
START_TEST(memory_may_be_a_file_without_a_name)
{
    enum { N = 3000000 };
    const char  *dir = bb_test_path("spilled");
    const size_t live = bb_mem_live_bytes();
    float       *x[3];
    bb_err       err = BB_ERR_INIT;
    ck_assert_int_eq(bb_make_dirs(dir, NULL), BB_OK);
    ck_assert(!bb_spills());
    x[0] = BB_SPILL(N, float, &err); /* on the heap */
    ck_assert_uint_eq(bb_mem_live_bytes(), live + N * sizeof(float));
    ck_assert_int_eq(bb_spill_to(dir, &err), BB_OK);
    ck_assert(bb_spills());
    const size_t before = bb_mem_live_bytes();
    x[1] = BB_SPILL(N, float, &err);
    x[2] = BB_SPILL(0, float, &err);
    ck_assert(x[0] && x[1] && x[2]);
    ck_assert_uint_eq((uintptr_t)x[1] % 64, 0);
    ck_assert_uint_eq(bb_mem_live_bytes(), before);
    ck_assert_uint_ge(bb_spilled_bytes(), N * sizeof(float));
    ck_assert_uint_lt(bb_spilled_bytes(), N * sizeof(float) + 1000);
    ck_assert_uint_eq(entries(dir), 0); /* nothing is left where the process is killed now */
    ck_assert_int_eq(bb_spill_to(NULL, NULL), BB_OK);
    ck_assert(!bb_spills());
    for (size_t i = 0; i < N; i++) {
        ck_assert(x[1][i] == 0);
        x[0][i] = -(float)i;
        x[1][i] = (float)i;
    }
    const uint64_t resident = bb_memory_resident();
    if (resident > N * sizeof(float)) {
        bb_map_limit(1);
        for (int i = 0; i < 500 && bb_memory_resident() + 8000000 > resident; i++) nanosleep(&(struct timespec) { 0, 10000000 }, NULL);
        ck_assert_uint_lt(bb_memory_resident() + 8000000, resident);
        bb_map_limit(0);
    }
    for (size_t i = 0; i < N; i++) ck_assert(x[0][i] == -(float)i && x[1][i] == (float)i);
    for (int i = 0; i < 3; i++) bb_free(x[i]);
    ck_assert_uint_eq(bb_spilled_bytes(), 0);
    ck_assert_uint_eq(bb_mem_live_bytes(), live);
}
END_TEST

/* No room is a sentence before anything is written, and so is whatever else fails; nothing is left of it. */
START_TEST(memory_that_finds_no_room_is_refused)
{
    static const int reasons[] = { ENOSPC, EDQUOT, EIO };
    const char      *dir = bb_test_path("full");
    bb_err           err = BB_ERR_INIT;
    ck_assert_int_eq(bb_make_dirs(dir, NULL), BB_OK);
    ck_assert_int_eq(bb_spill_to(dir, NULL), BB_OK);
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
            bb_err_clear(&err);
            bb_file_fail_after(k, 1, reasons[i]);
            ck_assert_ptr_null(BB_SPILL(100000, float, &err));
            bb_file_fail_after(-1, 0, 0);
            ck_assert_int_eq(err.status, BB_IO);
            contains(&err, dir, strerror(reasons[i]));
            if (k == 1) contains(&err, "there is no room for 400064 bytes of hidden states", "--max-ram");
            ck_assert_uint_eq(entries(dir), 0);
            ck_assert_uint_eq(bb_spilled_bytes(), 0);
        }
    bb_err_clear(&err); /* more than any disk has: the system's own word */
    ck_assert_ptr_null(BB_SPILL((size_t)1 << 60, float, &err));
    ck_assert_int_eq(err.status, BB_IO);
    contains(&err, dir, "there is no room for");
    bb_err_clear(&err);
    ck_assert_ptr_null(BB_SPILL(SIZE_MAX / 2, float, &err));
    ck_assert_int_eq(err.status, BB_NOMEM);
    bb_err_clear(&err);
    ck_assert_int_eq(bb_spill_to(bb_test_path("absent"), NULL), BB_OK);
    ck_assert_ptr_null(BB_SPILL(10, float, &err));
    contains(&err, bb_test_path("absent"), strerror(ENOENT));
    ck_assert_int_eq(bb_spill_to(NULL, NULL), BB_OK);
}
END_TEST

/* A mapped file that is cut: one sentence that names it, and the exit code of a bad file. */
START_TEST(a_map_whose_file_shrinks_ends_with_a_sentence)
{
    const char *path = bb_test_path("shrinks");
    char        said[1000];
    int         out[2], state;
    static char data[3 * 65536];
    memset(data, 'x', sizeof data);
    bb_test_write(path, data, sizeof data);
    ck_assert_int_eq(pipe(out), 0);
    pid_t child = fork();
    if (child == 0) {
        bb_map other, map;
        ck_assert_int_ge(dup2(out[1], STDERR_FILENO), 0);
        bb_map_watch();
        if (bb_map_open("tests/data/README.md", &other, NULL) != BB_OK || bb_map_open(path, &map, NULL) != BB_OK || truncate(path, 100) != 0) _exit(1);
        volatile unsigned char last = map.data[map.size - 1];
        _exit(last ? 2 : 3);
    }
    close(out[1]);
    size_t n = 0;
    for (ssize_t got; n + 1 < sizeof said && (got = read(out[0], said + n, sizeof said - 1 - n)) > 0;) n += (size_t)got;
    said[n] = '\0';
    waitpid(child, &state, 0);
    ck_assert_msg(WIFEXITED(state) && WEXITSTATUS(state) == 5, "state %d: %s", state, said);
    ck_assert_msg(strstr(said, path) && strstr(said, "became shorter") && strchr(said, '\n') == said + strlen(said) - 1, "%s", said);
    close(out[0]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base file");
    TCase *t = tcase_create("core");
    tcase_add_test(t, every_failing_operation_is_reported_with_path_and_reason);
    tcase_add_test(t, a_limit_on_the_size_of_files_is_a_failure_with_a_reason);
    tcase_add_test(t, a_pipe_is_refused_at_once);
    tcase_add_test(t, the_store_keeps_the_reason);
    tcase_add_test(t, what_a_killed_process_left_is_removed_and_nothing_else);
    tcase_add_test(t, what_a_link_points_to_is_written);
    tcase_add_test(t, what_a_link_will_point_to_is_written);
    tcase_add_test(t, outputs_are_checked_before_any_work);
    tcase_add_test(t, a_lock_has_one_holder_and_names_it);
    tcase_add_test(t, memory_may_be_a_file_without_a_name);
    tcase_add_test(t, memory_that_finds_no_room_is_refused);
    tcase_add_test(t, a_map_whose_file_shrinks_ends_with_a_sentence);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
