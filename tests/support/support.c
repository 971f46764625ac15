/* SPDX-License-Identifier: GPL-3.0-or-later
 * support.c: see support.h. */
#define _XOPEN_SOURCE 700 /* nftw */
#include "tests/support/support.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
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

int bb_test_run(Suite *s)
{
    bb_log_set_level(BB_LOG_QUIET); /* one line a program; tests of messages set what they need */
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
