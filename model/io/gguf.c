/* SPDX-License-Identifier: GPL-3.0-or-later
 * gguf.c: reading GGUF v2 and v3: see gguf.h.
 *
 * One cursor walks the bytes once; every read asks the cursor whether that many bytes are left, and every count is
 * compared with the bytes left (at the least size of one item) before memory is taken, so the index is never larger
 * than a small multiple of the file. Rules of the format that llama.cpp enforces are enforced here too: unique keys and
 * names, names of at most 63 bytes, no nested arrays, a power-of-two alignment, and data offsets that are exactly the
 * running sum of padded sizes in listing order.
 */
#include "model/io/gguf.h"

#include <string.h>

#include "base/mem.h"
#include "model/io/gguf_internal.h"

enum {
    MIN_KV_BYTES = 8 + 1 + 4 + 1,        /* key length, key, kind, value */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8 /* name length, name, dims, type, offset */
};

/* What only this reader knows of a source. */
typedef struct gguf_file {
    bb_map   map; /* empty when the bytes are the caller's */
    uint32_t alignment;
} gguf_file;

typedef struct cursor {
    const unsigned char *data;
    uint64_t             size, at;
} cursor;

bool bb_gguf_block(uint32_t type, uint32_t *block, uint32_t *block_bytes)
{
    const bb_format *f = type < BB_TYPE_COUNT ? bb_format_get((bb_type)type) : NULL;
    if (!f) return false;
    *block = f->block;
    *block_bytes = f->block_bytes;
    return true;
}

bb_status bb_gguf_tensor_bytes(const bb_tensor *t, uint64_t *bytes, bb_err *err)
{
    uint32_t block, block_bytes;
    uint64_t n;
    char     shown[BB_SHOWN];
    bb_bytes name = { t->name, strlen(t->name) };
    if (!bb_gguf_block((uint32_t)t->type, &block, &block_bytes))
        return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' has type id %u, which this program does not know", bb_show(name, shown), (unsigned)t->type);
    if (t->ne[0] % block != 0)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has rows of %llu weights; its type %u needs a multiple of %u", bb_show(name, shown),
                       (unsigned long long)t->ne[0], (unsigned)t->type, block);
    n = t->ne[0] / block;
    if (__builtin_mul_overflow(n, t->ne[1], &n) || __builtin_mul_overflow(n, t->ne[2], &n) || __builtin_mul_overflow(n, t->ne[3], &n) ||
        __builtin_mul_overflow(n, block_bytes, bytes) || *bytes > INT64_MAX)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has dimensions %llu x %llu x %llu x %llu, whose product overflows", bb_show(name, shown),
                       (unsigned long long)t->ne[0], (unsigned long long)t->ne[1], (unsigned long long)t->ne[2], (unsigned long long)t->ne[3]);
    return BB_OK;
}

/* ---- cursor ---- */

static uint64_t left(const cursor *c) { return c->size - c->at; }

static bb_status take(cursor *c, uint64_t n, const unsigned char **p, const char *what, bb_err *err)
{
    if (n > left(c))
        return BB_FAIL(err, BB_BAD_FILE, "the file ends inside %s: %llu bytes are needed at offset %llu and %llu are left", what, (unsigned long long)n,
                       (unsigned long long)c->at, (unsigned long long)left(c));
    *p = c->data + c->at;
    c->at += n;
    return BB_OK;
}

static bb_status take_u32(cursor *c, uint32_t *v, const char *what, bb_err *err)
{
    const unsigned char *p = NULL;
    bb_status            status = take(c, 4, &p, what, err);
    if (status == BB_OK) memcpy(v, p, 4);
    return status;
}

static bb_status take_u64(cursor *c, uint64_t *v, const char *what, bb_err *err)
{
    const unsigned char *p = NULL;
    bb_status            status = take(c, 8, &p, what, err);
    if (status == BB_OK) memcpy(v, p, 8);
    return status;
}

static bb_status take_string(cursor *c, bb_bytes *s, const char *what, bb_err *err)
{
    const unsigned char *p = NULL;
    bb_status            status;
    BB_TRY(take_u64(c, &s->size, what, err));
    BB_TRY(take(c, s->size, &p, what, err));
    s->data = (const char *)p;
done:
    return status;
}

/* ---- metadata ---- */

static bb_status parse_string_array(cursor *c, bb_key *kv, bb_err *err)
{
    bb_status status = BB_OK;
    if (kv->count > left(c) / 8) {
        char shown[BB_SHOWN];
        return BB_FAIL(err, BB_BAD_FILE, "key '%s' announces %llu strings, more than the rest of the file can hold", bb_show(kv->key, shown),
                       (unsigned long long)kv->count);
    }
    kv->strings = BB_NEW0((size_t)kv->count, bb_bytes, err);
    if (!kv->strings) return BB_NOMEM;
    for (uint64_t i = 0; i < kv->count; i++) BB_TRY(take_string(c, &kv->strings[i], "a string array", err));
done:
    return status;
}

static bb_status parse_array(cursor *c, bb_key *kv, bb_err *err)
{
    bb_status status;
    uint32_t  element;
    unsigned  size;
    uint64_t  bytes, start;
    char      shown[BB_SHOWN];
    BB_TRY(take_u32(c, &element, "an array", err));
    BB_TRY(take_u64(c, &kv->count, "an array", err));
    kv->element = (bb_kind)element;
    start = c->at;
    kv->value = c->data + start;
    if (element == BB_KIND_STRING) {
        BB_TRY(parse_string_array(c, kv, err));
    } else {
        size = bb_kind_bytes(kv->element);
        if (size == 0)
            return BB_FAIL(err, BB_BAD_FILE, "key '%s' is an array of elements of kind %u, which GGUF does not allow", bb_show(kv->key, shown), element);
        if (__builtin_mul_overflow(kv->count, size, &bytes)) bytes = UINT64_MAX;
        BB_TRY(take(c, bytes, &kv->value, "an array", err));
    }
    kv->value_bytes = c->at - start;
done:
    return status;
}

static bb_status parse_kv(cursor *c, bb_key *kv, bb_err *err)
{
    bb_status status;
    uint32_t  kind;
    char      shown[BB_SHOWN];
    BB_TRY(take_string(c, &kv->key, "a key", err));
    if (kv->key.size == 0) return BB_FAIL(err, BB_BAD_FILE, "a metadata key is empty (before offset %llu)", (unsigned long long)c->at);
    if (memchr(kv->key.data, 0, (size_t)kv->key.size)) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' contains a NUL byte", bb_show(kv->key, shown));
    BB_TRY(take_u32(c, &kind, "a metadata value", err));
    kv->kind = (bb_kind)kind;
    kv->count = 1;
    if (kind == BB_KIND_ARRAY) {
        BB_TRY(parse_array(c, kv, err));
    } else if (kind == BB_KIND_STRING) {
        BB_TRY(take_u64(c, &kv->value_bytes, "a metadata string", err));
        BB_TRY(take(c, kv->value_bytes, &kv->value, "a metadata string", err));
    } else {
        kv->value_bytes = bb_kind_bytes(kv->kind);
        if (kv->value_bytes == 0) return BB_FAIL(err, BB_BAD_FILE, "key '%s' has kind %u; the format has kinds 0 to 12", bb_show(kv->key, shown), kind);
        BB_TRY(take(c, kv->value_bytes, &kv->value, "a metadata value", err));
    }
done:
    return status;
}

static bb_status parse_alignment(bb_source *g, bb_err *err)
{
    const bb_key *kv = bb_source_find(g, "general.alignment");
    gguf_file    *file = g->self;
    file->alignment = BB_GGUF_DEFAULT_ALIGNMENT;
    if (!kv) return BB_OK;
    if (kv->kind != BB_KIND_U32) return BB_FAIL(err, BB_BAD_FILE, "general.alignment has kind %d, not u32", (int)kv->kind);
    memcpy(&file->alignment, kv->value, 4);
    if (file->alignment == 0 || (file->alignment & (file->alignment - 1)) != 0)
        return BB_FAIL(err, BB_BAD_FILE, "general.alignment is %u, not a power of two", file->alignment);
    return BB_OK;
}

/* ---- tensors ---- */

/* *offset: where the data lies, counted from the start of the data section. */
static bb_status parse_tensor(cursor *c, bb_tensor *t, uint64_t *offset, bb_err *err)
{
    bb_status status;
    bb_bytes  name;
    uint32_t  type;
    char      shown[BB_SHOWN];
    BB_TRY(take_string(c, &name, "a tensor name", err));
    if (name.size == 0 || name.size > BB_GGUF_MAX_NAME || memchr(name.data, 0, (size_t)name.size))
        return BB_FAIL(err, BB_BAD_FILE, "tensor name '%s' has %llu bytes; 1 to %d bytes without NUL are allowed", bb_show(name, shown),
                       (unsigned long long)name.size, BB_GGUF_MAX_NAME);
    memcpy(t->name, name.data, (size_t)name.size);
    BB_TRY(take_u32(c, &t->n_dims, "a tensor's description", err));
    if (t->n_dims > 4) return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has %u dimensions; 4 is the most", bb_show(name, shown), t->n_dims);
    for (unsigned i = 0; i < 4; i++) t->ne[i] = 1;
    for (unsigned i = 0; i < t->n_dims; i++) {
        BB_TRY(take_u64(c, &t->ne[i], "a tensor's description", err));
        if (t->ne[i] > INT64_MAX) return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has a negative dimension", bb_show(name, shown));
    }
    BB_TRY(take_u32(c, &type, "a tensor's description", err));
    t->type = (bb_type)type;
    BB_TRY(take_u64(c, offset, "a tensor's description", err));
    BB_TRY(bb_gguf_tensor_bytes(t, &t->size_bytes, err));
done:
    return status;
}

/* offsets (n_tensors): as the file gives them; must be the running sum of padded sizes, inside the data section. */
static bb_status place_tensors(bb_source *g, const cursor *c, const uint64_t *offsets, bb_err *err)
{
    const uint32_t alignment = bb_gguf_alignment(g);
    uint64_t       start, sum = 0, room;
    char           shown[BB_SHOWN];
    if (g->n_tensors == 0) return BB_OK;
    if (!bb_gguf_pad(c->at, alignment, &start) || start > c->size)
        return BB_FAIL(err, BB_BAD_FILE, "the file ends before its data section (%llu bytes, aligned to %u)", (unsigned long long)c->size, alignment);
    room = c->size - start;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        bb_tensor *t = &g->tensors[i];
        bb_bytes   name = { t->name, strlen(t->name) };
        if (offsets[i] != sum)
            return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has offset %llu; the sizes before it add up to %llu", bb_show(name, shown),
                           (unsigned long long)offsets[i], (unsigned long long)sum);
        if (sum > room || t->size_bytes > room - sum)
            return BB_FAIL(err, BB_BAD_FILE, "the data of tensor '%s' (%llu bytes at %llu) reaches beyond the end of the file", bb_show(name, shown),
                           (unsigned long long)t->size_bytes, (unsigned long long)(start + sum));
        t->data = c->data + start + sum;
        if (!bb_gguf_pad(sum + t->size_bytes, alignment, &sum)) sum = UINT64_MAX;
    }
    return BB_OK;
}

static bb_status parse_header(cursor *c, bb_source *g, bb_err *err)
{
    bb_status            status;
    const unsigned char *magic = NULL;
    BB_TRY(take(c, 4, &magic, "the magic", err));
    if (memcmp(magic, "GGUF", 4) != 0) return BB_FAIL(err, BB_BAD_FILE, "this is not a GGUF file: it does not begin with \"GGUF\"");
    BB_TRY(take_u32(c, &g->version, "the header", err));
    if (g->version != 2 && g->version != 3)
        return BB_FAIL(err, g->version == 0 || g->version > 0xFFFF ? BB_BAD_FILE : BB_UNSUPPORTED,
                       "GGUF version %u%s; versions 2 and 3 (little-endian) are read", g->version,
                       g->version > 0 && (g->version & 0xFFFF) == 0 ? " (a big-endian file?)" : "");
    BB_TRY(take_u64(c, &g->n_tensors, "the header", err));
    BB_TRY(take_u64(c, &g->n_kv, "the header", err));
    if (g->n_kv > left(c) / MIN_KV_BYTES || g->n_tensors > left(c) / MIN_TENSOR_BYTES) {
        status = BB_FAIL(err, BB_BAD_FILE, "the header announces %llu keys and %llu tensors, more than %llu bytes can hold", (unsigned long long)g->n_kv,
                         (unsigned long long)g->n_tensors, (unsigned long long)c->size);
        g->n_kv = g->n_tensors = 0; /* the arrays do not exist */
    }
done:
    return status;
}

/* ---- the reader ---- */

/* Files that are no language model, or not as this program reads one, whatever their architecture. A second part has no keys but those of the split. */
bb_status bb_gguf_usable(const bb_source *g, bb_err *err)
{
    bb_bytes  type = { "model", 5 };
    char      shown[BB_SHOWN];
    uint32_t  alignment = bb_gguf_alignment(g);
    bool      found;
    bb_status status;
    BB_TRY(bb_source_text(g, "general.type", &type, &found, err));
    if (type.size != 5 || memcmp(type.data, "model", 5) != 0)
        return BB_FAIL(err, BB_UNSUPPORTED, "general.type is '%s'; only whole models ('model') are supported", bb_show(type, shown));
    if (alignment < 4) return BB_FAIL(err, BB_UNSUPPORTED, "general.alignment is %u; 4 or more is supported", alignment);
done:
    return status;
}

/* bb_source_open has gathered the parts of a split model; bytes in memory have none beside them. */
static bb_status whole(const bb_source *g, bb_err *err)
{
    uint32_t  n = 0;
    bool      found;
    bb_status status;
    BB_TRY(bb_source_u32(g, "split.count", &n, &found, err));
    if (n > 1) return BB_FAIL(err, BB_UNSUPPORTED, "this is one part of a model that is split over %u files", n);
    BB_TRY(bb_gguf_usable(g, err));
done:
    return status;
}

static void release(const bb_source *g, uint32_t layer)
{
    (void)layer; /* one map holds all blocks */
    bb_map_release(bb_gguf_map(g));
}

static void hash(const bb_source *g, bb_sha256 *h) { bb_sha256_update(h, bb_gguf_map(g)->data, bb_gguf_map(g)->size); }

static void close_file(bb_source *g)
{
    gguf_file *file = g->self;
    if (file && file->map.data) bb_map_close(&file->map);
    bb_free(file);
}

static const bb_reader reader = { "GGUF", whole, release, hash, close_file };

const bb_map *bb_gguf_map(const bb_source *g) { return &((const gguf_file *)g->self)->map; }
uint32_t      bb_gguf_alignment(const bb_source *g) { return ((const gguf_file *)g->self)->alignment; }

bb_status bb_gguf_parse(const unsigned char *data, size_t size, bb_source *g, bb_err *err)
{
    cursor    c = { data, size, 0 };
    uint64_t *offsets = NULL, n_kv, n_tensors;
    bb_status status = BB_NOMEM;
    *g = (bb_source) { .reader = &reader, .size_bytes = size, .n_files = 1 };
    if (!(g->self = BB_NEW0(1, gguf_file, err))) goto done;
    BB_TRY(parse_header(&c, g, err));
    n_kv = g->n_kv;
    n_tensors = g->n_tensors;
    g->n_kv = g->n_tensors = 0; /* grow as items are read, so that closing after a failure frees just those */
    g->kv = BB_NEW0((size_t)n_kv, bb_key, err);
    g->tensors = BB_NEW0((size_t)n_tensors, bb_tensor, err);
    offsets = BB_NEW((size_t)n_tensors, uint64_t, err);
    status = BB_NOMEM;
    if (!g->kv || !g->tensors || !offsets) goto done;
    while (g->n_kv < n_kv) BB_TRY(parse_kv(&c, &g->kv[g->n_kv++], err));
    BB_TRY(parse_alignment(g, err));
    for (; g->n_tensors < n_tensors; g->n_tensors++) BB_TRY(parse_tensor(&c, &g->tensors[g->n_tensors], &offsets[g->n_tensors], err));
    BB_TRY(bb_source_index(g, err));
    BB_TRY(place_tensors(g, &c, offsets, err));
done:
    bb_free(offsets);
    if (status != BB_OK) bb_source_close(g);
    return status;
}

bb_status bb_gguf_open(const char *path, bb_source *g, bb_err *err)
{
    bb_map    map = { NULL, 0 };
    bb_err    inner = BB_ERR_INIT;
    bb_status status;
    memset(g, 0, sizeof *g);
    BB_TRY(bb_map_open(path, &map, err));
    status = bb_gguf_parse(map.data, map.size, g, &inner);
    if (status != BB_OK) {
        BB_FAIL(err, status, "%s: %s", path, inner.msg);
        bb_map_close(&map);
        goto done;
    }
    ((gguf_file *)g->self)->map = map;
done:
    return status;
}
