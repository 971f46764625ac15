/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_faults.c: a whole run in which the k-th operation on a file, or on the run's SQLite store, fails. It ends with a failure whose sentence
 * names the path and the system's reason, or the operation could be done without; the same command then ends with the right bytes. */
#include <errno.h>
#include <gsl/gsl_errno.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

/* ---- the run ---- */

static char model[600], text[600];
static bool spilled; /* as where --max-ram has no room for hidden states */

static void make_inputs(void)
{
    tiny_spec s = tiny_default("llama");
    char      words[6000];
    size_t    n = 0;
    if (*model) return;
    snprintf(model, sizeof model, "%s", bb_test_path("m.gguf"));
    snprintf(text, sizeof text, "%s", bb_test_path("calib.txt"));
    tiny_write(&s, model);
    for (unsigned i = 0; n + 8 < sizeof words; i++) n += (size_t)snprintf(words + n, sizeof words - n, "%x ", i * 2654435761u % 4093u);
    bb_test_write(text, words, n);
}

static bb_status run(const char *out, bb_err *err)
{
    make_inputs();
    if (spilled) ck_assert_int_eq(bb_spill_to(bb_test_path(""), NULL), BB_OK);
    return bb_test_command(NULL, err,
                           "sweep %s --calib %s --eval %s --out %s --formats Q8_0,Q4_0 --embd-formats Q8_0,Q4_0 --points 2 --min-bpw 7 --max-bpw 11 "
                           "--ctx 16 --calib-windows 4 --measure-windows 1 --refine-windows 2 --confirm-windows 4 --search-tokens 0.001 --sweeps 0 "
                           "--finalise-steps rebuild --eval-windows 4",
                           model, text, text, out);
}

static const char *fresh(const char *name)
{
    char command[700];
    snprintf(command, sizeof command, "rm -rf '%s'", bb_test_path(name));
    ck_assert_int_eq(system(command), 0);
    return bb_test_path(name);
}

static void same_results(const char *a, const char *b)
{
    static const char *const names[] = { "model.gguf", "front.csv", "baselines.csv", "layers.csv", "plans.csv", "guard.json", "plan.json", "certificate.csv" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) bb_test_same_in(a, b, names[i]);
}

static const char *straight(long *operations)
{
    static char out[600];
    static long n;
    if (!*out) {
        bb_err err = BB_ERR_INIT;
        snprintf(out, sizeof out, "%s", bb_test_path("straight"));
        make_inputs();
        long before = bb_file_operations();
        ck_assert_msg(run(out, &err) == BB_OK, "%s", err.msg);
        n = bb_file_operations() - before;
    }
    *operations = n;
    return out;
}

/* The failed run, whose sentence is to name a path of ours and one of the reasons, is run again, and ends as if nothing had been. */
static void check_failure(const char *what, long k, const char *out, bb_status status, const bb_err *err, const char *reason)
{
    bb_err again = BB_ERR_INIT;
    long   n;
    if (status != BB_OK) {
        ck_assert_msg(strstr(err->msg, reason) != NULL, "%s %ld fails with '%s', which should say: %s", what, k, err->msg, reason);
        ck_assert_msg(strstr(err->msg, bb_test_path("")) != NULL, "%s %ld fails with '%s', which should name the path", what, k, err->msg);
    }
    ck_assert_msg(run(out, &again) == BB_OK, "%s %ld: the run cannot go on: %s", what, k, again.msg);
    same_results(straight(&n), out);
}

/* ---- files ---- */

START_TEST(any_operation_on_a_file_may_fail)
{
    static const int reasons[] = { ENOSPC, EIO, EACCES };
    const char      *all = getenv("BB_TEST_ALL_FAULTS"); /* every operation, not some of each stage: minutes */
    long             n, n_failed = 0, n_samples = 12;
    straight(&n);
    if (_i) { /* with files as memory: the results are the same, which is compared behind each failure */
        bb_err err = BB_ERR_INIT;
        spilled = true;
        n = bb_file_operations();
        ck_assert_msg(run(fresh("spilled"), &err) == BB_OK, "%s", err.msg);
        n = bb_file_operations() - n;
    }
    ck_assert_int_gt(n, 100);
    if (all) n_samples = n;
    for (long i = 0; i < n_samples; i++) {
        const long  k = i * (n - 1) / (n_samples - 1);
        const int   reason = reasons[i % 3];
        const char *out = fresh("faulty");
        bb_err      err = BB_ERR_INIT;
        bb_file_fail_after(k, i % 2 ? 1 : 1000000, reason); /* for a moment, or for good, as on a full disk */
        bb_status status = run(out, &err);
        bb_file_fail_after(-1, 0, 0);
        n_failed += status != BB_OK;
        if (i % 2 == 0) ck_assert_msg(status != BB_OK, "operation %ld and all after it fail, and the run says that all is well", k);
        check_failure("operation", k, out, status, &err, strerror(reason));
    }
    ck_assert_int_gt(n_failed, n_samples * 3 / 4);
}
END_TEST

/* ---- the store ---- */

static atomic_long n_calls, failing = -1;
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);

static ssize_t failing_pwrite(int fd, const void *data, size_t size, off_t at)
{
    long call = atomic_fetch_add(&n_calls, 1), from = atomic_load(&failing);
    if (from < 0 || call < from) return real_pwrite(fd, data, size, at);
    errno = EIO;
    return -1;
}

START_TEST(the_store_may_fail_at_any_write)
{
    union {
        sqlite3_syscall_ptr f;
        ssize_t (*pwrite)(int, const void *, size_t, off_t);
    } real, ours = { .pwrite = failing_pwrite };
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    enum { SAMPLES = 4 };
    long        n;
    const char *name = "pwrite64";
    ck_assert(vfs && vfs->iVersion >= 3);
    if (!(real.f = vfs->xGetSystemCall(vfs, name))) real.f = vfs->xGetSystemCall(vfs, name = "pwrite");
    ck_assert(real.f != NULL);
    real_pwrite = real.pwrite;
    ck_assert_int_eq(vfs->xSetSystemCall(vfs, name, ours.f), SQLITE_OK);
    straight(&n);
    bb_err err = BB_ERR_INIT;
    atomic_store(&n_calls, 0);
    ck_assert_msg(run(fresh("counted"), &err) == BB_OK, "%s", err.msg);
    n = atomic_load(&n_calls);
    ck_assert_int_gt(n, SAMPLES);
    for (long i = 0; i < SAMPLES; i++) {
        const char *out = fresh("faulty");
        bb_err      why = BB_ERR_INIT;
        atomic_store(&n_calls, 0);
        atomic_store(&failing, i * (n * 9 / 10) / SAMPLES);
        bb_status status = run(out, &why);
        atomic_store(&failing, -1);
        ck_assert_msg(status != BB_OK, "write %ld of the store and all after it fail, and the run says that all is well", i);
        check_failure("store write", i, out, status, &why, strerror(EIO));
    }
    ck_assert_int_eq(vfs->xSetSystemCall(vfs, name, NULL), SQLITE_OK);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("faults");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 300);
    bb_log_set_level(BB_LOG_QUIET);
    gsl_set_error_handler_off();
    tcase_add_loop_test(t, any_operation_on_a_file_may_fail, 0, 2);
    tcase_add_test(t, the_store_may_fail_at_any_write);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
