/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_clean.c: bitbudget clean RUN: gives back the disk that a finished run holds. Only files of names that this program gives are touched. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "engine/clean.h"

typedef struct clean_config {
    bool models, dry_run;
} clean_config;

#define FIELD(name) offsetof(clean_config, name)
static const bb_option_row options[] = {
    { "models", BB_OPT_FLAG, FIELD(models), NULL, 1, 0, NULL, "also the files of models/; model.gguf stays", NULL },
    { "dry-run", BB_OPT_FLAG, FIELD(dry_run), NULL, 1, 0, NULL, "only say what would be removed", NULL },
};
#undef FIELD

static bb_status run(int argc, char **argv, bb_err *err)
{
    clean_config c = { 0 };
    bb_cleaned   cleaned[BB_N_CLEANED];
    const char  *dir = NULL;
    char        *store = NULL, *lock_path = NULL, size[32];
    bb_lock      lock = { .held = false };
    size_t       n = 0;
    uint64_t     freed = 0;
    bb_status    status;
    BB_TRY(bb_command_options(&bb_command_clean, &c, argc, argv, &dir, 1, &n, err));
    if (n != 1) {
        status = BB_FAIL(err, BB_USAGE, "clean takes one run directory, as made by `bitbudget run` or `bitbudget sweep`");
        goto done;
    }
    if (!(store = bb_asprintf(err, "%s/run.db", dir))) {
        status = BB_NOMEM;
        goto done;
    }
    if (!bb_file_exists(store)) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s is no run directory (it has no run.db): nothing was removed", dir);
        goto done;
    }
    if (!(lock_path = bb_asprintf(err, "%s/run.lock", dir))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(bb_lock_take(&lock, lock_path, err)); /* what a run at work needs is not taken from under it */
    BB_TRY(bb_clean(dir, c.models, c.dry_run, cleaned, err));
    for (size_t i = 0; i < BB_N_CLEANED; i++) {
        const bb_cleaned *t = &cleaned[i];
        freed += t->bytes;
        bb_format_size(t->bytes, size);
        if (t->files)
            printf("%s %llu file%s, %s: %s\n", c.dry_run ? "would remove" : "removed", (unsigned long long)t->files, bb_plural(t->files), size, t->what);
    }
    bb_format_size(freed, size);
    printf("%s %s; the tables, the plans, run.db and model.gguf stay, and what was removed is made again when a command needs it\n",
           c.dry_run ? "would free" : "freed", size);
done:
    bb_lock_release(&lock);
    bb_free(lock_path);
    bb_free(store);
    return status;
}

const bb_command bb_command_clean = {
    .name = "clean",
    .summary = "remove what a run can make again: its option database, temporary files",
    .usage = "RUN [--models]",
    .example = "bitbudget clean results/runs/first\n"
               "bitbudget clean results/runs/front --models",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
