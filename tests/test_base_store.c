/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_base_store.c: what was put is got, in key order, after a reopen and after a second process's kill. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/store.h"
#include "base/text.h"
#include "tests/support/support.h"

static bb_store *open_store(const char *path)
{
    bb_store *s;
    bb_err    err = BB_ERR_INIT;
    ck_assert_msg(bb_store_open(path, &s, &err) == BB_OK, "%s", err.msg);
    return s;
}

static void expect(bb_store *s, const char *table, const char *key, const char *value)
{
    void  *data;
    size_t size;
    bool   found;
    ck_assert_int_eq(bb_store_get(s, table, key, &data, &size, &found, NULL), BB_OK);
    ck_assert_int_eq(found, value != NULL);
    if (!value) return;
    ck_assert_uint_eq(size, strlen(value));
    ck_assert_int_eq(memcmp(data, value, size), 0);
    bb_free(data);
}

static bb_status gather(void *self, const char *key, const void *value, size_t size, bb_err *err)
{
    (void)err;
    bb_text_addf(self, "%s:", key);
    bb_text_addn(self, value, size);
    bb_text_add(self, ";");
    return BB_OK;
}

static bb_status refuse(void *self, const char *key, const void *value, size_t size, bb_err *err)
{
    (void)value;
    (void)size;
    ++*(int *)self;
    return BB_FAIL(err, BB_NUMERIC, "stop at %s", key);
}

START_TEST(what_is_put_is_got_in_key_order)
{
    const char *path = bb_test_path("a.db");
    bb_text     text = { 0 };
    uint64_t    n;
    int         visits = 0;
    bb_store   *s = open_store(path);
    ck_assert_int_eq(bb_store_put(s, "t", "b", "2", 1, NULL), BB_OK);
    ck_assert_int_eq(bb_store_put(s, "t", "a", "1", 1, NULL), BB_OK);
    ck_assert_int_eq(bb_store_put(s, "t", "B", "", 0, NULL), BB_OK);
    ck_assert_int_eq(bb_store_put(s, "u", "a", "other", 5, NULL), BB_OK);
    ck_assert_int_eq(bb_store_put(s, "t", "b", "\0x", 2, NULL), BB_OK);
    ck_assert_int_eq(bb_store_put(s, "t", "b", "two", 3, NULL), BB_OK);
    bb_store_close(s);
    s = open_store(path);
    expect(s, "t", "a", "1");
    expect(s, "t", "b", "two");
    expect(s, "t", "B", "");
    expect(s, "u", "a", "other");
    expect(s, "u", "b", NULL);
    ck_assert_int_eq(bb_store_each(s, "t", gather, &text, NULL), BB_OK);
    ck_assert_str_eq(text.data, "B:;a:1;b:two;");
    bb_text_done(&text);
    ck_assert_int_eq(bb_store_count(s, "t", &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 3);
    ck_assert_int_eq(bb_store_count(s, "none", &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 0);
    ck_assert_int_eq(bb_store_each(s, "t", refuse, &visits, NULL), BB_NUMERIC);
    ck_assert_int_eq(visits, 1);
    bb_store_close(s);
    bb_store_close(NULL);
}
END_TEST

START_TEST(threads_may_share_a_store)
{
    bb_store *s = open_store(bb_test_path("threads.db"));
    int       failures = 0;
    uint64_t  n;
#pragma omp parallel for reduction(+ : failures)
    for (int i = 0; i < 400; i++) {
        char   key[16];
        void  *data;
        size_t size;
        bool   found;
        snprintf(key, sizeof key, "%04d", i);
        failures += bb_store_put(s, "t", key, key, 4, NULL) != BB_OK;
        failures += bb_store_get(s, "t", key, &data, &size, &found, NULL) != BB_OK || !found || memcmp(data, key, 4) != 0;
        bb_free(data);
    }
    ck_assert_int_eq(failures, 0);
    ck_assert_int_eq(bb_store_count(s, "t", &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 400);
    bb_store_close(s);
}
END_TEST

START_TEST(a_killed_writer_loses_nothing)
{
    const char *path = bb_test_path("killed.db");
    int         ready[2];
    char        byte;
    ck_assert_int_eq(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        bb_store *mine;
        int       good = bb_store_open(path, &mine, NULL) == BB_OK;
        for (int i = 0; i < 50 && good; i++) {
            char key[16];
            snprintf(key, sizeof key, "%03d", i);
            good = bb_store_put(mine, "t", key, "v", 1, NULL) == BB_OK;
        }
        if (write(ready[1], good ? "y" : "n", 1) == 1)
            for (;;) pause();
        _exit(1);
    }
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    ck_assert_int_eq(byte, 'y');
    bb_store *s = open_store(path);
    uint64_t  n;
    ck_assert_int_eq(bb_store_count(s, "t", &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 50);
    bb_store_close(s);
}
END_TEST

START_TEST(other_files_are_refused_and_untouched)
{
    const char *text = bb_test_path("text.db");
    bb_err      err = BB_ERR_INIT;
    bb_store   *s;
    char       *data;
    size_t      size;
    char        words[8192];
    memset(words, 'w', sizeof words);
    bb_test_write(text, words, sizeof words);
    ck_assert_int_eq(bb_store_open(text, &s, &err), BB_BAD_FILE);
    ck_assert_ptr_null(s);
    ck_assert_ptr_nonnull(strstr(err.msg, "not a store"));
    ck_assert_int_eq(bb_file_read(text, &data, &size, NULL), BB_OK);
    ck_assert_uint_eq(size, sizeof words);
    ck_assert_int_eq(memcmp(data, words, size), 0);
    bb_free(data);
    ck_assert_int_eq(bb_store_open(bb_test_path("no/such/folder.db"), &s, NULL), BB_IO);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store");
    TCase *t = tcase_create("core");
    /* The fork comes first: before OpenMP has threads. */
    tcase_add_test(t, a_killed_writer_loses_nothing);
    tcase_add_test(t, what_is_put_is_got_in_key_order);
    tcase_add_test(t, threads_may_share_a_store);
    tcase_add_test(t, other_files_are_refused_and_untouched);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
