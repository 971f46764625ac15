/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_clean.c: bitbudget clean RUN: gives back the disk that a finished run holds. Only files of names that this program gives are touched. */
#include <dirent.h>
#include <errno.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cmd.h"

typedef struct clean_config {
    bool models, dry_run;
} clean_config;

#define FIELD(name) offsetof(clean_config, name)
static const bb_option_row options[] = {
    { "models", BB_OPT_FLAG, FIELD(models), NULL, 1, 0, NULL, "also the files of models/; model.gguf stays", NULL },
    { "dry-run", BB_OPT_FLAG, FIELD(dry_run), NULL, 1, 0, NULL, "only say what would be removed", NULL },
};
#undef FIELD

/* What the program can make again, by folder of the run. */
typedef struct rule {
    const char *folder, *name, *what;
    bool        with_models;
} rule;
static const rule rules[] = {
    { "database", "^(entry|moments)-[0-9a-f]{32}\\.bin$", "quantized matrices and second moments", false },
    { "models", "^[0-9a-f]{16}\\.gguf$", "files of the front", true },
    { "", "\\.(bb)?tmp-[0-9]+-[0-9]+$", "temporary files of a killed run", false },
    { "database", "\\.(bb)?tmp-[0-9]+-[0-9]+$", "temporary files of a killed run", false },
    { "models", "\\.(bb)?tmp-[0-9]+-[0-9]+$", "temporary files of a killed run", false },
};
enum { N_RULES = sizeof rules / sizeof *rules };

typedef struct total {
    uint64_t files, bytes;
} total;

static bb_status remove_one(const char *path, bool dry_run, total *t, bb_err *err)
{
    struct stat s;
    if (lstat(path, &s) != 0 || !S_ISREG(s.st_mode)) return BB_OK;
    if (!dry_run && unlink(path) != 0) return BB_FAIL(err, BB_IO, "%s could not be removed: %s", path, strerror(errno));
    t->files++;
    t->bytes += (uint64_t)s.st_size;
    return BB_OK;
}

static bb_status apply(const rule *r, const char *run, bool dry_run, total *t, bb_err *err)
{
    char          *folder = bb_asprintf(err, "%s/%s", run, r->folder), *path = NULL;
    DIR           *d = folder ? opendir(folder) : NULL;
    struct dirent *e;
    regex_t        pattern;
    bb_status      status = folder ? BB_OK : BB_NOMEM;
    if (!d) goto done; /* no such folder: nothing of it to remove */
    if (regcomp(&pattern, r->name, REG_EXTENDED | REG_NOSUB) != 0) {
        status = BB_NOMEM;
        goto done;
    }
    while (status == BB_OK && (e = readdir(d))) {
        if (regexec(&pattern, e->d_name, 0, NULL, 0) != 0) continue;
        bb_free(path);
        path = bb_asprintf(err, "%s/%s", folder, e->d_name);
        status = path ? remove_one(path, dry_run, t, err) : BB_NOMEM;
    }
    regfree(&pattern);
    if (status == BB_OK && !dry_run && *r->folder) rmdir(folder); /* when that left it empty */
done:
    if (d) closedir(d);
    bb_free(path);
    bb_free(folder);
    return status;
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    clean_config c = { 0 };
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
    for (size_t i = 0; i < N_RULES; i++) {
        total t = { 0, 0 };
        if (rules[i].with_models && !c.models) continue;
        BB_TRY(apply(&rules[i], dir, c.dry_run, &t, err));
        freed += t.bytes;
        bb_format_size(t.bytes, size);
        if (t.files)
            printf("%s %llu file%s, %s: %s\n", c.dry_run ? "would remove" : "removed", (unsigned long long)t.files, bb_plural(t.files), size, rules[i].what);
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
