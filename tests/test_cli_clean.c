/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_clean.c: `clean` removes what a run can make again and nothing else. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"

#define HEX16 "0123456789abcdef"
static const char *const databases[] = { "database/entry-" HEX16 HEX16 ".bin", "database/moments-" HEX16 HEX16 ".bin", "database/entry-a.bin.bbtmp-12-3",
                                         "front.csv.tmp-4711-0", "models/" HEX16 ".gguf.bbtmp-4711-1" };
static const char *const models[] = { "models/" HEX16 ".gguf" };
/* The run's own results, and files that are somebody else's. */
static const char *const kept[] = {
    "run.db", "front.csv", "model.gguf", "plans/" HEX16 ".plan", "database/notes.txt", "models/my-own.gguf", "models/" HEX16 ".gguf.old", "tmp-1-2.txt"
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static char run[512];

static const char *at(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", run, name);
    return path;
}

static void make_run(const char *name)
{
    static const char *const folders[] = { "", "database", "models", "plans" };
    snprintf(run, sizeof run, "%s", bb_test_path(name));
    for (size_t i = 0; i < COUNT(folders); i++) ck_assert_int_eq(mkdir(at(folders[i]), 0777), 0);
    for (size_t i = 0; i < COUNT(databases); i++) bb_test_write(at(databases[i]), "12345", 5);
    for (size_t i = 0; i < COUNT(models); i++) bb_test_write(at(models[i]), "12345", 5);
    for (size_t i = 0; i < COUNT(kept); i++) bb_test_write(at(kept[i]), "12345", 5);
}

static void are_there(const char *const *names, size_t n, bool there)
{
    for (size_t i = 0; i < n; i++) ck_assert_msg(bb_file_exists(at(names[i])) == there, "%s %s", names[i], there ? "is gone" : "is still there");
}

START_TEST(a_dry_run_removes_nothing)
{
    char *said;
    make_run("dry");
    ck_assert_int_eq(bb_test_command(&said, NULL, "clean %s --models --dry-run", run), BB_OK);
    ck_assert_ptr_nonnull(strstr(said, "would free 30 B"));
    ck_assert(strstr(said, " files, ") && !strstr(said, " 1 files"));
    bb_free(said);
    are_there(databases, COUNT(databases), true);
    are_there(models, COUNT(models), true);
}
END_TEST

START_TEST(only_what_can_be_made_again_goes)
{
    make_run("clean");
    ck_assert_int_eq(bb_test_command(NULL, NULL, "clean %s", run), BB_OK);
    are_there(databases, COUNT(databases), false);
    are_there(models, COUNT(models), true);
    are_there(kept, COUNT(kept), true);
    ck_assert_int_eq(bb_test_command(NULL, NULL, "clean %s --models", run), BB_OK);
    are_there(models, COUNT(models), false);
    are_there(kept, COUNT(kept), true);
}
END_TEST

START_TEST(what_is_no_run_is_left_alone)
{
    bb_err err = BB_ERR_INIT;
    make_run("other");
    ck_assert_int_eq(remove(at("run.db")), 0);
    ck_assert_int_eq(bb_test_command(NULL, &err, "clean %s --models", run), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "no run directory"));
    are_there(databases, COUNT(databases), true);
    ck_assert_int_eq(bb_test_command(NULL, &err, "clean"), BB_USAGE);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("clean");
    TCase *t = tcase_create("clean");
    tcase_add_test(t, a_dry_run_removes_nothing);
    tcase_add_test(t, only_what_can_be_made_again_goes);
    tcase_add_test(t, what_is_no_run_is_left_alone);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
