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

/* NAME-00002-of-00003.gguf */
static bool is_part_name(const char *path)
{
    size_t      n = strlen(path);
    unsigned    part, of;
    int         used = 0;
    const char *at = n > 20 ? path + n - 20 : "";
    return sscanf(at, "-%5u-of-%5u.gguf%n", &part, &of, &used) == 2 && used == 20 && of > 1;
}

const char *bb_source_hint(const char *path)
{
    return is_part_name(path) ? " (the name is that of one part of a split model: merge the parts first with llama-gguf-split --merge)" : "";
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
    if (status == BB_OK) return BB_OK;
    kind = kind_of_other(path);
    return kind ? BB_FAIL(err, status, "%s is %s", path, kind) : BB_FAIL(err, status, "%s", inner.msg);
done:
    return status;
}
