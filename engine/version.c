/* SPDX-License-Identifier: GPL-3.0-or-later
 * version.c: see version.h. The build writes version_commit.h when the commit changes, and not otherwise. */
#include "engine/version.h"

#include "version_commit.h"

const char *bb_version_commit(void) { return BB_COMMIT; }

const char *bb_version_program(void) { return BB_VERSION " " BB_COMMIT; }

const char *bb_version_compiler(void)
{
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}
