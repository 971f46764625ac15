/* SPDX-License-Identifier: GPL-3.0-or-later
 * status.c: see status.h. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

bb_status bb_fail_at(bb_err *err, bb_status status, const char *file, int line, const char *format, ...)
{
    if (err && err->status == BB_OK) {
        va_list args;
        err->status = status;
        err->file = file;
        err->line = line;
        va_start(args, format);
        vsnprintf(err->msg, sizeof err->msg, format, args);
        va_end(args);
        /* Sentences quote what files hold, and end on terminals: no control byte gets through. */
        for (char *p = err->msg; *p; p++)
            if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    }
    return status;
}

void bb_err_clear(bb_err *err)
{
    if (err) *err = (bb_err)BB_ERR_INIT;
}

const char *bb_status_text(bb_status status)
{
    switch (status) {
#define X(name, number, exit, text) \
    case BB_##name: return text;
        BB_STATUS_LIST(X)
#undef X
    }
    return "unknown status";
}

int bb_status_exit_code(bb_status status)
{
    switch (status) {
#define X(name, number, exit, text) \
    case BB_##name: return exit;
        BB_STATUS_LIST(X)
#undef X
    }
    return 1;
}
