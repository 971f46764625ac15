/* SPDX-License-Identifier: GPL-3.0-or-later
 * support.c: see support.h. */
#define _XOPEN_SOURCE 700 /* nftw */
#include "tests/support/support.h"

#include <check.h>
#include <dirent.h>
#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/blas.h"

static char folder[256];

/* As main() of the program does, before anything reaches BLAS. */
__attribute__((constructor)) static void init(void) { bb_blas_init(); }

static int drop(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st;
    (void)kind;
    (void)where;
    return remove(path);
}

static void clean(void) { nftw(folder, drop, 16, FTW_DEPTH | FTW_PHYS); }

const char *bb_test_path(const char *name)
{
    static char paths[16][512];
    static int  at;
    if (!folder[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%.200s/bb-test-XXXXXX", base && *base ? base : "/tmp");
        if (!mkdtemp(folder)) abort();
        atexit(clean);
    }
    char *p = paths[at++ % 16];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

void bb_test_write(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0) abort();
}

void bb_test_write_ids(const char *path, uint64_t seed, uint32_t kinds, size_t n)
{
    uint32_t *ids = BB_NEW(n, uint32_t, NULL);
    bb_rng    r;
    bb_rng_init(&r, seed, "ids");
    for (size_t i = 0; i < n; i++) ids[i] = (uint32_t)(3 + bb_rng_below(&r, kinds));
    bb_test_write(path, ids, n * sizeof *ids);
    bb_free(ids);
}

bool bb_test_are_same(const char *a, const char *b)
{
    char  *x, *y;
    size_t n, m;
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_file_read(a, &x, &n, &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_file_read(b, &y, &m, &err) == BB_OK, "%s", err.msg);
    const bool same = n == m && memcmp(x, y, n) == 0;
    bb_free(x);
    bb_free(y);
    return same;
}

void bb_test_same(const char *a, const char *b) { ck_assert_msg(bb_test_are_same(a, b), "%s and %s differ", a, b); }

void bb_test_same_in(const char *a_dir, const char *b_dir, const char *name)
{
    char a[1024], b[1024];
    ck_assert_int_lt(snprintf(a, sizeof a, "%s/%s", a_dir, name), (int)sizeof a);
    ck_assert_int_lt(snprintf(b, sizeof b, "%s/%s", b_dir, name), (int)sizeof b);
    bb_test_same(a, b);
}

static struct {
    char       dir[512], prefix[32];
    atomic_int ends;
    size_t     n;
    pthread_t  thread;
} remover;

static void *remove_once(void *unused)
{
    enum { MOST = 512 };
    char(*seen)[128] = calloc(MOST, sizeof *seen);
    (void)unused;
    while (!atomic_load(&remover.ends)) {
        DIR *d = opendir(remover.dir);
        for (struct dirent *e; d && (e = readdir(d));) {
            const size_t length = strlen(e->d_name);
            bool         known = remover.n == MOST || length >= sizeof *seen || length < 5 || strcmp(e->d_name + length - 4, ".bin") != 0 ||
                         strncmp(e->d_name, remover.prefix, strlen(remover.prefix)) != 0;
            for (size_t i = 0; i < remover.n && !known; i++) known = strcmp(seen[i], e->d_name) == 0;
            if (!known && unlinkat(dirfd(d), e->d_name, 0) == 0) memcpy(seen[remover.n++], e->d_name, length + 1);
        }
        if (d) closedir(d);
    }
    free(seen);
    return NULL;
}

void bb_test_remove_once(const char *dir, const char *prefix)
{
    snprintf(remover.dir, sizeof remover.dir, "%s", dir);
    snprintf(remover.prefix, sizeof remover.prefix, "%s", prefix);
    atomic_store(&remover.ends, 0);
    remover.n = 0;
    ck_assert_int_eq(pthread_create(&remover.thread, NULL, remove_once, NULL), 0);
}

size_t bb_test_removed(void)
{
    atomic_store(&remover.ends, 1);
    ck_assert_int_eq(pthread_join(remover.thread, NULL), 0);
    return remover.n;
}

int bb_test_run(Suite *s)
{
    bb_log_set_level(BB_LOG_QUIET); /* one line a program; tests of messages set what they need */
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
