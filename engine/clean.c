/* SPDX-License-Identifier: GPL-3.0-or-later
 * clean.c: see clean.h. */
#include "engine/clean.h"

#include <dirent.h>
#include <errno.h>
#include <regex.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

/* What the program can make again, by folder of the run. */
typedef struct rule {
    const char *folder, *name, *what;
    bool        with_models;
} rule;
static const rule rules[] = {
    { "database", "^(entry|moments|gates|outputs)-[0-9a-f]{32}\\.bin$", "quantized matrices and what was measured for them", false },
    { "models", "^[0-9a-f]{16}\\.gguf$", "files of the front", true },
    { "", "\\.(bb)?tmp-[0-9]+-[0-9]+$", "temporary files of a killed run", false },
    { "database", "\\.(bb)?tmp-[0-9]+-[0-9]+$", "temporary files of a killed run", false },
    { "models", "\\.(bb)?tmp-[0-9]+-[0-9]+$", "temporary files of a killed run", false },
};
_Static_assert(sizeof rules / sizeof *rules == BB_N_CLEANED, "as many kinds as clean.h says");

static bb_status remove_one(const char *path, bool dry_run, bb_cleaned *t, bb_err *err)
{
    struct stat s;
    if (lstat(path, &s) != 0 || !S_ISREG(s.st_mode)) return BB_OK;
    if (!dry_run && unlink(path) != 0) return BB_FAIL(err, BB_IO, "%s could not be removed: %s", path, strerror(errno));
    t->files++;
    t->bytes += (uint64_t)s.st_size;
    return BB_OK;
}

static bb_status apply(const rule *r, const char *run, bool dry_run, bb_cleaned *t, bb_err *err)
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

bb_status bb_clean(const char *run, bool models, bool dry_run, bb_cleaned out[BB_N_CLEANED], bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t i = 0; i < BB_N_CLEANED; i++) {
        out[i] = (bb_cleaned) { .what = rules[i].what };
        if (rules[i].with_models && !models) continue;
        BB_TRY(apply(&rules[i], run, dry_run, &out[i], err));
    }
done:
    return status;
}
