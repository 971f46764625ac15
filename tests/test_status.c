/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_status.c: the first failure wins; every status has a sentence and an exit code. */
#include <check.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/status.h"

START_TEST(first_failure_wins)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(BB_FAIL(&err, BB_BAD_FILE, "row %d", 3), BB_BAD_FILE);
    BB_FAIL(&err, BB_IO, "later");
    ck_assert_int_eq(err.status, BB_BAD_FILE);
    ck_assert_str_eq(err.msg, "row 3");
    ck_assert_int_eq(bb_status_exit_code(BB_BAD_FILE), 5);
    ck_assert_int_eq(bb_status_exit_code(BB_INFEASIBLE), 3);
}
END_TEST

START_TEST(sentences_hold_no_control_bytes)
{
    bb_err err = BB_ERR_INIT;
    BB_FAIL(&err, BB_FAILED, "a%sb", "\033[2J\n\x7f\xc3\xa4");
    ck_assert_str_eq(err.msg, "a?[2J??\xc3\xa4"
                              "b");
}
END_TEST

START_TEST(allocation_is_aligned_counted_and_can_fail)
{
    size_t before = bb_mem_live_bytes();
    bb_err err = BB_ERR_INIT;
    char  *p = bb_alloc(100, 1, NULL);
    ck_assert_uint_eq((size_t)p % 64, 0);
    ck_assert_uint_eq(bb_mem_live_bytes(), before + 100);
    p = bb_realloc(p, 1000, 1, NULL);
    bb_free(p);
    ck_assert_uint_eq(bb_mem_live_bytes(), before);
    ck_assert_ptr_null(bb_alloc(SIZE_MAX, 2, &err));
    ck_assert_int_eq(err.status, BB_NOMEM);
    bb_mem_fail_after(1);
    p = bb_alloc(1, 1, NULL);
    ck_assert_ptr_nonnull(p);
    ck_assert_ptr_null(bb_alloc(1, 1, NULL));
    bb_mem_fail_after(-1);
    bb_free(p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status");
    TCase *t = tcase_create("core");
    tcase_add_test(t, first_failure_wins);
    tcase_add_test(t, sentences_hold_no_control_bytes);
    tcase_add_test(t, allocation_is_aligned_counted_and_can_fail);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
