/* SPDX-License-Identifier: GPL-3.0-or-later
 * gguf_split.c: a model whose GGUF is split over files NAME-00001-of-00003.gguf, ...: see gguf.h.
 *
 * The first part has all keys; every part has its tensors, split.no (from 0), split.count and split.tensors.count. The source is a view of the parts,
 * in their order and without the keys of the split: what stands behind it sees what it would see of the merged file.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/gguf_internal.h"

enum { MAX_PARTS = 65535, ENDING = 20 }; /* split.count is an u16; the bytes of -00001-of-00003.gguf */

typedef struct split {
    bb_source *parts;
    char     **paths;
    uint32_t   n;
} split;

bool bb_gguf_part_name(const char *path, size_t *stem, uint32_t *part, uint32_t *of)
{
    const size_t n = strlen(path);
    char         again[ENDING + 1];
    if (n <= ENDING || sscanf(path + n - ENDING, "-%5u-of-%5u.gguf", part, of) != 2) return false;
    snprintf(again, sizeof again, "-%05u-of-%05u.gguf", *part % 100000, *of % 100000);
    *stem = n - ENDING;
    return *of > 1 && strcmp(again, path + n - ENDING) == 0;
}

static char *part_path(const char *path, size_t stem, uint32_t part, uint32_t of, bb_err *err)
{
    return bb_asprintf(err, "%.*s-%05u-of-%05u.gguf", (int)stem, path, part, of);
}

/* ---- the source ---- */

static bb_status whole(const bb_source *s, bb_err *err)
{
    const split *p = s->self;
    bb_status    status = BB_OK;
    for (uint32_t i = 0; i < p->n && status == BB_OK; i++) status = bb_gguf_usable(&p->parts[i], err);
    return status;
}

static void release(const bb_source *s, uint32_t layer)
{
    const split *p = s->self;
    for (uint32_t i = 0; i < p->n; i++) bb_source_release(&p->parts[i], layer);
}

static void hash(const bb_source *s, bb_sha256 *h)
{
    const split *p = s->self;
    for (uint32_t i = 0; i < p->n; i++) bb_source_hash(&p->parts[i], h);
}

static void close_parts(bb_source *s)
{
    split *p = s->self;
    if (!p) return;
    for (uint32_t i = 0; i < p->n; i++) {
        bb_source_close(&p->parts[i]);
        bb_free(p->paths[i]);
    }
    bb_free(p->parts);
    bb_free(p->paths);
    bb_free(p);
}

static const bb_reader reader = { "GGUF", whole, release, hash, close_parts };

/* ---- gathering ---- */

/* split.no and split.count of a file; count 0: it has none. */
static bb_status place_of(const bb_source *s, uint32_t *number, uint32_t *count, bb_err *err)
{
    bool      has_number, has_count;
    bb_status status;
    *number = *count = 0;
    BB_TRY(bb_source_u32(s, "split.no", number, &has_number, err));
    BB_TRY(bb_source_u32(s, "split.count", count, &has_count, err));
    if (*count > 1 && *count <= MAX_PARTS && !has_number) return BB_FAIL(err, BB_BAD_FILE, "it is one of %u parts of a model, and split.no is missing", *count);
done:
    return status;
}

static uint32_t parts_there(const split *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n; i++) n += bb_file_exists(p->paths[i]);
    return n;
}

static bb_status open_part(split *p, uint32_t i, bb_err *err)
{
    bb_err    why = BB_ERR_INIT;
    uint32_t  number, count;
    bb_status status;
    if (!bb_file_exists(p->paths[i]))
        return BB_FAIL(err, BB_BAD_FILE, "%s is missing: the model is split over %u files, and %u of them are there", p->paths[i], p->n, parts_there(p));
    BB_TRY(bb_gguf_open(p->paths[i], &p->parts[i], err));
    if (place_of(&p->parts[i], &number, &count, &why) != BB_OK) return BB_FAIL(err, BB_BAD_FILE, "%s: %s", p->paths[i], why.msg);
    if (count != p->n || number != i)
        return BB_FAIL(err, BB_BAD_FILE, "%s says that it is part %u of %u; part %u of %u is needed there", p->paths[i], number + 1, count, i + 1, p->n);
done:
    return status;
}

/* A tensor that two parts have; then the number of all. */
static bb_status check_tensors(const split *p, uint64_t n_tensors, bb_err *err)
{
    uint32_t  said = 0;
    bool      found;
    bb_err    why = BB_ERR_INIT;
    bb_status status;
    for (uint32_t i = 1; i < p->n; i++)
        for (uint64_t t = 0; t < p->parts[i].n_tensors; t++)
            for (uint32_t k = 0; k < i; k++)
                if (bb_source_tensor(&p->parts[k], p->parts[i].tensors[t].name))
                    return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' is in %s and in %s", p->parts[i].tensors[t].name, p->paths[k], p->paths[i]);
    status = bb_source_u32(&p->parts[0], "split.tensors.count", &said, &found, &why);
    if (status != BB_OK) return BB_FAIL(err, status, "%s: %s", p->paths[0], why.msg);
    if (found && said != n_tensors)
        return BB_FAIL(err, BB_BAD_FILE, "%s says that its model has %u tensors (split.tensors.count); its %u parts have %llu together", p->paths[0], said,
                       p->n, (unsigned long long)n_tensors);
    return BB_OK;
}

/* Keys of the first part but those of the split, tensors of all. Takes over the lists of texts. */
static bb_status join(bb_source *s, bb_err *err)
{
    split     *p = s->self;
    bb_source *first = &p->parts[0];
    uint64_t   n = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        n += p->parts[i].n_tensors;
        s->size_bytes += p->parts[i].size_bytes;
    }
    bb_status status;
    BB_TRY(check_tensors(p, n, err));
    status = BB_NOMEM;
    if (!(s->kv = BB_NEW0((size_t)first->n_kv, bb_key, err)) || !(s->tensors = BB_NEW0((size_t)n, bb_tensor, err))) goto done;
    for (uint64_t i = 0; i < first->n_kv; i++) {
        if (first->kv[i].key.size > 6 && memcmp(first->kv[i].key.data, "split.", 6) == 0) continue;
        s->kv[s->n_kv++] = first->kv[i];
        first->kv[i].strings = NULL;
    }
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->parts[i].n_tensors) memcpy(s->tensors + s->n_tensors, p->parts[i].tensors, (size_t)p->parts[i].n_tensors * sizeof *s->tensors);
        s->n_tensors += p->parts[i].n_tensors;
    }
    BB_TRY(bb_source_index(s, err));
done:
    return status;
}

bb_status bb_gguf_gather(const char *path, bb_source *s, bb_err *err)
{
    bb_source one = *s;
    split    *p = NULL;
    uint32_t  number, count, part = 0, of = 0;
    size_t    stem = 0;
    bb_err    why = BB_ERR_INIT;
    bb_status status = place_of(&one, &number, &count, &why);
    if (status == BB_OK && count < 2) return BB_OK; /* a whole model */
    memset(s, 0, sizeof *s);
    if (status != BB_OK) {
        BB_FAIL(err, status, "%s: %s", path, why.msg);
        goto done;
    }
    if (count > MAX_PARTS || number >= count || !bb_gguf_part_name(path, &stem, &part, &of) || part != number + 1 || of != count) {
        status = BB_FAIL(err, BB_BAD_FILE,
                         "%s says that it is part %llu of a model that is split over %u files; they are found by their names, which end in %s", path,
                         (unsigned long long)number + 1, count, "-00001-of-00002.gguf and the like");
        goto done;
    }
    *s = (bb_source) { .reader = &reader, .version = one.version, .n_files = count };
    status = BB_NOMEM;
    if (!(s->self = p = BB_NEW0(1, split, err)) || !(p->parts = BB_NEW0(count, bb_source, err)) || !(p->paths = BB_NEW0(count, char *, err))) goto done;
    for (p->n = 0; p->n < count; p->n++)
        if (!(p->paths[p->n] = part_path(path, stem, p->n + 1, count, err))) goto done;
    for (uint32_t i = 0; i < count; i++) BB_TRY(open_part(p, i, err));
    BB_TRY(join(s, err));
done:
    bb_source_close(&one);
    if (status != BB_OK) bb_source_close(s);
    return status;
}
