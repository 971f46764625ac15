/* SPDX-License-Identifier: GPL-3.0-or-later
 * version.h: what this program calls itself, in --version, env.json and the files it writes. */
#ifndef BB_ENGINE_VERSION_H
#define BB_ENGINE_VERSION_H

#define BB_VERSION "0.1.0"

const char *bb_version_commit(void);   /* git describe at build time, "-dirty" when sources differed; "unknown" without git */
const char *bb_version_program(void);  /* version and commit, as the files it writes have it */
const char *bb_version_compiler(void); /* compiler and its version */

#endif
