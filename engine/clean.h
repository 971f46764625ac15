/* SPDX-License-Identifier: GPL-3.0-or-later
 * clean.h: what a run directory holds that the program can make again, removed: for `clean`, and for --keep at the end of a run. Only files of names
 * that this program gives are touched, and nothing of a --database elsewhere.
 */
#ifndef BB_ENGINE_CLEAN_H
#define BB_ENGINE_CLEAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* One kind of thing that was removed, or would be. */
typedef struct bb_cleaned {
    const char *what;
    uint64_t    files, bytes;
} bb_cleaned;
enum { BB_N_CLEANED = 5 };

/* models: also the files of models/; model.gguf stays. dry_run: nothing is removed. The caller holds the directory's lock. */
bb_status bb_clean(const char *run, bool models, bool dry_run, bb_cleaned out[BB_N_CLEANED], bb_err *err);

#endif
