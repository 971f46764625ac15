/* SPDX-License-Identifier: GPL-3.0-or-later
 * source_open.c: which reader a path is for, and what is said where it is for none (source.h). */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/io/gguf.h"
#include "model/io/hf.h"

static bb_status refuse_folder(const char *path, bb_err *err)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) return BB_OK;
    if (bb_folder_has(path, "run.db"))
        return BB_FAIL(err, BB_BAD_FILE, "%s is a run directory, and a model file is needed: its result is %s/model.gguf", path, path);
    return BB_FAIL(err, BB_BAD_FILE, "%s is a folder without config.json; a GGUF file or a Hugging Face folder is needed", path);
}

/* What a file that is no GGUF is instead, where its first bytes say it; NULL: unknown. */
static const char *kind_of_other(const char *path)
{
#define CONVERT ", and a GGUF file is needed: convert the model's folder with llama.cpp (convert_hf_to_gguf.py)"
    char        head[10] = { 0 };
    struct stat st;
    FILE       *f = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? fopen(path, "rb") : NULL;
    size_t      n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f) fclose(f);
    if (n < sizeof head) return NULL;
    if (head[8] == '{' && (head[9] == '"' || head[9] == '}')) return "a safetensors file, without the files beside it: name its folder";
    if (memcmp(head, "PK\3\4", 4) == 0) return "a zip archive (PyTorch's format?)" CONVERT;
    if (memcmp(head, "tjgg", 4) == 0 || memcmp(head, "lmgg", 4) == 0 || memcmp(head, "fmgg", 4) == 0) return "a GGML file of before August 2023" CONVERT;
    return NULL;
#undef CONVERT
}

const char *bb_source_hint(const char *path, const bb_source *s)
{
    size_t   stem;
    uint32_t part, of;
    return s->n_files == 1 && bb_gguf_part_name(path, &stem, &part, &of)
               ? " (the name is that of one part of a split model, and the file has no key split.count)"
               : "";
}

/* The folder of a path: its first *n bytes; "." for none. */
static const char *folder_of(const char *path, size_t *n)
{
    const char *slash = strrchr(path, '/');
    *n = slash ? (size_t)(slash - path) + 1 : 1;
    return slash ? path : ".";
}

static bool same_folder(const char *folder, const char *file)
{
    char        name[4096];
    size_t      n;
    const char *of = folder_of(file, &n);
    snprintf(name, sizeof name, "%.*s", (int)n, of);
    return bb_file_same(folder, name);
}

static bool ends_in(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

bool bb_source_has_file(const char *path, const char *file)
{
    static const char *const endings[] = { ".safetensors", ".json", ".model", ".jinja" };
    size_t                   stem, its_stem;
    uint32_t                 part, of, its_part, its_of;
    if (bb_file_same(path, file)) return true;
    if (!bb_file_exists(file)) return false;
    if (bb_hf_is_folder(path) && same_folder(path, file))
        for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
            if (ends_in(file, endings[i])) return true;
    if (!bb_gguf_part_name(path, &stem, &part, &of) || !bb_gguf_part_name(file, &its_stem, &its_part, &its_of) || of != its_of) return false;
    char other[4096]; /* the part of this path that the file would be */
    if (snprintf(other, sizeof other, "%.*s-%05u-of-%05u.gguf", (int)stem, path, its_part, of) >= (int)sizeof other) return false;
    return bb_file_same(other, file);
}

bb_status bb_source_open(const char *path, bb_source *s, bb_err *err)
{
    bb_err      inner = BB_ERR_INIT;
    bb_status   status;
    const char *kind;
    memset(s, 0, sizeof *s);
    if (bb_hf_is_folder(path)) return bb_hf_open(path, s, err);
    BB_TRY(refuse_folder(path, err));
    status = bb_gguf_open(path, s, &inner);
    if (status == BB_OK) return bb_gguf_gather(path, s, err);
    kind = kind_of_other(path);
    return kind ? BB_FAIL(err, status, "%s is %s", path, kind) : BB_FAIL(err, status, "%s", inner.msg);
done:
    return status;
}
