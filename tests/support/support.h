/* SPDX-License-Identifier: GPL-3.0-or-later
 * support.h: what every test program needs: a folder of its own, and a main() that fails when no test ran. */
#ifndef BB_TESTS_SUPPORT_SUPPORT_H
#define BB_TESTS_SUPPORT_SUPPORT_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A path in this process's own temporary folder, which is removed at exit. One of 16 rotating static buffers. */
const char *bb_test_path(const char *name);
void        bb_test_write(const char *path, const void *data, size_t size); /* plain stdio, for inputs */
/* A token file: n ids drawn from 3 to 2 + `kinds`. */
void bb_test_write_ids(const char *path, uint64_t seed, uint32_t kinds, size_t n);
/* Have both files the same bytes? Fails the test where one cannot be read. */
bool bb_test_are_same(const char *a, const char *b);
/* Fails the test unless they have; the second: NAME in both folders. */
void bb_test_same(const char *a, const char *b);
void bb_test_same_in(const char *a_dir, const char *b_dir, const char *name);
/* From here on a thread removes every file of dir with this beginning and the ending ".bin" once, as soon as it is there; until bb_test_removed, which says how
 * many it were. */
void   bb_test_remove_once(const char *dir, const char *prefix);
size_t bb_test_removed(void);
int    bb_test_run(Suite *s); /* runs and frees; the value for main() to return */

/* Leaves a test that cannot run here, aloud: tests/run.sh counts it as skipped and names the reason. */
#define BB_SKIP(reason) \
    do { \
        printf("SKIP %s: %s\n", __func__, reason); \
        return; \
    } while (0)

#endif
