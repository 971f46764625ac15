/* SPDX-License-Identifier: GPL-3.0-or-later
 * status.h: what every fallible function returns, and the sentence that explains it.
 *
 * Library code returns a bb_status and, where the caller passed a bb_err, leaves one sentence in it that names what
 * was found, where, and what would be right. Only cli/ prints or exits. The first failure wins: a later BB_FAIL on the
 * same bb_err changes nothing. So who goes on after a failure leaves no sentence behind, or it would stand for the next one:
 * the call gets NULL, a bb_err of its own, or bb_err_clear afterwards. A function that returns BB_OK leaves err as it was.
 * Asserts are for our own mistakes, statuses for the world's.
 */
#ifndef BB_BASE_STATUS_H
#define BB_BASE_STATUS_H

#include <stddef.h>

/* Numbers are never reused. exit: the process exit code that cli/ gives for this status. */
#define BB_STATUS_LIST(X) \
    X(OK, 0, 0, "success") \
    X(FAILED, 1, 1, "the operation failed") \
    X(USAGE, 2, 2, "wrong usage") \
    X(INFEASIBLE, 3, 3, "the budget cannot be met") \
    X(GUARD, 4, 4, "a guard or a verification failed") \
    X(BAD_FILE, 5, 5, "bad input file") \
    X(NOMEM, 6, 1, "out of memory") \
    X(IO, 7, 1, "an input or output error") \
    X(NUMERIC, 8, 1, "a numerical failure (NaN, singular)") \
    X(UNSUPPORTED, 9, 5, "not supported") \
    X(NOT_FOUND, 10, 1, "not found") \
    X(INTERRUPTED, 75, 75, "interrupted with a valid checkpoint")

typedef enum bb_status {
#define X(name, number, exit, text) BB_##name = number,
    BB_STATUS_LIST(X)
#undef X
} bb_status;

typedef struct bb_err {
    bb_status   status; /* BB_OK until the first failure */
    const char *file;   /* where it was first noticed; static string */
    int         line;
    char        msg[512];
} bb_err;

#define BB_ERR_INIT \
    { \
        BB_OK, NULL, 0, "" \
    }

/* Records the failure in err (which may be NULL) and returns status. */
#define BB_FAIL(err, status, ...) bb_fail_at((err), (status), __FILE__, __LINE__, __VA_ARGS__)

/* The only control-flow macro: needs `bb_status status` and a label `done:` that also runs on success. */
#define BB_TRY(call) \
    do { \
        status = (call); \
        if (status != BB_OK) goto done; \
    } while (0)

bb_status   bb_fail_at(bb_err *err, bb_status status, const char *file, int line, const char *format, ...) __attribute__((format(printf, 5, 6)));
void        bb_err_clear(bb_err *err); /* err may be NULL */
const char *bb_status_text(bb_status status);
int         bb_status_exit_code(bb_status status);

/* BB_ASSERT: our own mistakes; active unless NDEBUG. */
#include <assert.h>
#define BB_ASSERT(x) assert(x)

#endif
