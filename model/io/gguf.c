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

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/gguf_internal.h"

enum {
    MIN_KV_BYTES = 8 + 1 + 4 + 1,        /* key length, key, kind, value */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8 /* name length, name, dims, type, offset */
};

typedef struct cursor {
    const unsigned char *data;
    uint64_t             size, at;
} cursor;

unsigned bb_gguf_kind_bytes(bb_gguf_kind kind)
{
    static const unsigned char bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    return (unsigned)kind < sizeof bytes ? bytes[kind] : 0;
}

bool bb_gguf_block(uint32_t type, uint32_t *block, uint32_t *block_bytes)
{
    const bb_format *f = type < BB_TYPE_COUNT ? bb_format_get((bb_type)type) : NULL;
    if (!f) return false;
    *block = f->block;
    *block_bytes = f->block_bytes;
    return true;
}

const char *bb_gguf_show(bb_bytes b, char out[BB_GGUF_SHOWN])
{
    size_t n = b.size < BB_GGUF_SHOWN - 1 ? (size_t)b.size : BB_GGUF_SHOWN - 1;
    for (size_t i = 0; i < n; i++) out[i] = b.data[i] >= ' ' && b.data[i] <= '~' ? b.data[i] : '?';
    out[n] = '\0';
    return out;
}

bool bb_gguf_pad(uint64_t at, uint32_t alignment, uint64_t *padded)
{
    uint64_t mask = (uint64_t)alignment - 1;
    if (at > UINT64_MAX - mask) return false;
    *padded = (at + mask) & ~mask;
    return true;
}

bb_status bb_gguf_tensor_bytes(const bb_tensor *t, uint64_t *bytes, bb_err *err)
{
    uint32_t block, block_bytes;
    uint64_t n;
    char     shown[BB_GGUF_SHOWN];
    bb_bytes name = { t->name, strlen(t->name) };
    if (!bb_gguf_block((uint32_t)t->type, &block, &block_bytes))
        return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' has type id %u, which this program does not know", bb_gguf_show(name, shown),
                       (unsigned)t->type);
    if (t->ne[0] % block != 0)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has rows of %llu weights; its type %u needs a multiple of %u",
                       bb_gguf_show(name, shown), (unsigned long long)t->ne[0], (unsigned)t->type, block);
    n = t->ne[0] / block;
    if (__builtin_mul_overflow(n, t->ne[1], &n) || __builtin_mul_overflow(n, t->ne[2], &n) ||
        __builtin_mul_overflow(n, t->ne[3], &n) || __builtin_mul_overflow(n, block_bytes, bytes) || *bytes > INT64_MAX)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has dimensions %llu x %llu x %llu x %llu, whose product overflows",
                       bb_gguf_show(name, shown), (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
                       (unsigned long long)t->ne[2], (unsigned long long)t->ne[3]);
    return BB_OK;
}

/* ---- cursor ---- */

static uint64_t left(const cursor *c) { return c->size - c->at; }

static bb_status take(cursor *c, uint64_t n, const unsigned char **p, const char *what, bb_err *err)
{
    if (n > left(c))
        return BB_FAIL(err, BB_BAD_FILE, "the file ends inside %s: %llu bytes are needed at offset %llu and %llu are left", what,
                       (unsigned long long)n, (unsigned long long)c->at, (unsigned long long)left(c));
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

static bb_status parse_string_array(cursor *c, bb_gguf_kv *kv, bb_err *err)
{
    bb_status status = BB_OK;
    if (kv->count > left(c) / 8) {
        char shown[BB_GGUF_SHOWN];
        return BB_FAIL(err, BB_BAD_FILE, "key '%s' announces %llu strings, more than the rest of the file can hold",
                       bb_gguf_show(kv->key, shown), (unsigned long long)kv->count);
    }
    kv->strings = BB_NEW0((size_t)kv->count, bb_bytes, err);
    if (!kv->strings) return BB_NOMEM;
    for (uint64_t i = 0; i < kv->count; i++) BB_TRY(take_string(c, &kv->strings[i], "a string array", err));
done:
    return status;
}

static bb_status parse_array(cursor *c, bb_gguf_kv *kv, bb_err *err)
{
    bb_status status;
    uint32_t  element;
    unsigned  size;
    uint64_t  bytes, start;
    char      shown[BB_GGUF_SHOWN];
    BB_TRY(take_u32(c, &element, "an array", err));
    BB_TRY(take_u64(c, &kv->count, "an array", err));
    kv->element = (bb_gguf_kind)element;
    start = c->at;
    kv->value = c->data + start;
    if (element == BB_GGUF_STRING) {
        BB_TRY(parse_string_array(c, kv, err));
    } else {
        size = bb_gguf_kind_bytes(kv->element);
        if (size == 0)
            return BB_FAIL(err, BB_BAD_FILE, "key '%s' is an array of elements of kind %u, which GGUF does not allow",
                           bb_gguf_show(kv->key, shown), element);
        if (__builtin_mul_overflow(kv->count, size, &bytes)) bytes = UINT64_MAX;
        BB_TRY(take(c, bytes, &kv->value, "an array", err));
    }
    kv->value_bytes = c->at - start;
done:
    return status;
}

static bb_status parse_kv(cursor *c, bb_gguf_kv *kv, bb_err *err)
{
    bb_status status;
    uint32_t  kind;
    char      shown[BB_GGUF_SHOWN];
    BB_TRY(take_string(c, &kv->key, "a key", err));
    if (kv->key.size == 0) return BB_FAIL(err, BB_BAD_FILE, "a metadata key is empty (before offset %llu)", (unsigned long long)c->at);
    if (memchr(kv->key.data, 0, (size_t)kv->key.size))
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' contains a NUL byte", bb_gguf_show(kv->key, shown));
    BB_TRY(take_u32(c, &kind, "a metadata value", err));
    kv->kind = (bb_gguf_kind)kind;
    kv->count = 1;
    if (kind == BB_GGUF_ARRAY) {
        BB_TRY(parse_array(c, kv, err));
    } else if (kind == BB_GGUF_STRING) {
        BB_TRY(take_u64(c, &kv->value_bytes, "a metadata string", err));
        BB_TRY(take(c, kv->value_bytes, &kv->value, "a metadata string", err));
    } else {
        kv->value_bytes = bb_gguf_kind_bytes(kv->kind);
        if (kv->value_bytes == 0)
            return BB_FAIL(err, BB_BAD_FILE, "key '%s' has kind %u; the format has kinds 0 to 12", bb_gguf_show(kv->key, shown), kind);
        BB_TRY(take(c, kv->value_bytes, &kv->value, "a metadata value", err));
    }
done:
    return status;
}

typedef struct named { bb_bytes text; uint64_t place; } named; /* of a key or a tensor, and where it is in the file's list */

static int compare_bytes(bb_bytes x, bb_bytes y)
{
    size_t n = (size_t)(x.size < y.size ? x.size : y.size);
    int    order = n ? memcmp(x.data, y.data, n) : 0;
    return order ? order : (x.size > y.size) - (x.size < y.size);
}

static int compare_names(const void *a, const void *b)
{
    const named *x = a, *y = b;
    return compare_bytes(x->text, y->text);
}

/* names (n): sorted in place; one that occurs twice is reported. *order: the places by name. */
static bb_status index_names(named *names, size_t n, const char *what, uint64_t **order, bb_err *err)
{
    char shown[BB_GGUF_SHOWN];
    if (!(*order = BB_NEW(n, uint64_t, err))) return BB_NOMEM;
    qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && compare_names(&names[i - 1], &names[i]) == 0)
            return BB_FAIL(err, BB_BAD_FILE, "%s '%s' occurs twice", what, bb_gguf_show(names[i].text, shown));
        (*order)[i] = names[i].place;
    }
    return BB_OK;
}

static bb_status check_unique(bb_gguf *g, bb_err *err)
{
    size_t    n = (size_t)(g->n_kv > g->n_tensors ? g->n_kv : g->n_tensors);
    named    *names = BB_NEW(n, named, err);
    bb_status status = BB_NOMEM;
    if (!names) goto done;
    for (uint64_t i = 0; i < g->n_kv; i++) names[i] = (named){ g->kv[i].key, i };
    BB_TRY(index_names(names, (size_t)g->n_kv, "metadata key", &g->kv_order, err));
    for (uint64_t i = 0; i < g->n_tensors; i++) names[i] = (named){ { g->tensors[i].name, strlen(g->tensors[i].name) }, i };
    BB_TRY(index_names(names, (size_t)g->n_tensors, "tensor name", &g->tensor_order, err));
done:
    bb_free(names);
    return status;
}

static bb_status parse_alignment(bb_gguf *g, bb_err *err)
{
    const bb_gguf_kv *kv = bb_gguf_find(g, "general.alignment");
    g->alignment = BB_GGUF_DEFAULT_ALIGNMENT;
    if (!kv) return BB_OK;
    if (kv->kind != BB_GGUF_U32) return BB_FAIL(err, BB_BAD_FILE, "general.alignment has kind %d, not u32", (int)kv->kind);
    memcpy(&g->alignment, kv->value, 4);
    if (g->alignment == 0 || (g->alignment & (g->alignment - 1)) != 0)
        return BB_FAIL(err, BB_BAD_FILE, "general.alignment is %u, not a power of two", g->alignment);
    return BB_OK;
}

/* ---- tensors ---- */

/* *offset: where the data lies, counted from the start of the data section. */
static bb_status parse_tensor(cursor *c, bb_tensor *t, uint64_t *offset, bb_err *err)
{
    bb_status status;
    bb_bytes  name;
    uint32_t  type;
    char      shown[BB_GGUF_SHOWN];
    BB_TRY(take_string(c, &name, "a tensor name", err));
    if (name.size == 0 || name.size > BB_GGUF_MAX_NAME || memchr(name.data, 0, (size_t)name.size))
        return BB_FAIL(err, BB_BAD_FILE, "tensor name '%s' has %llu bytes; 1 to %d bytes without NUL are allowed",
                       bb_gguf_show(name, shown), (unsigned long long)name.size, BB_GGUF_MAX_NAME);
    memcpy(t->name, name.data, (size_t)name.size);
    BB_TRY(take_u32(c, &t->n_dims, "a tensor's description", err));
    if (t->n_dims > 4)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has %u dimensions; 4 is the most", bb_gguf_show(name, shown), t->n_dims);
    for (unsigned i = 0; i < 4; i++) t->ne[i] = 1;
    for (unsigned i = 0; i < t->n_dims; i++) {
        BB_TRY(take_u64(c, &t->ne[i], "a tensor's description", err));
        if (t->ne[i] > INT64_MAX)
            return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has a negative dimension", bb_gguf_show(name, shown));
    }
    BB_TRY(take_u32(c, &type, "a tensor's description", err));
    t->type = (bb_type)type;
    BB_TRY(take_u64(c, offset, "a tensor's description", err));
    BB_TRY(bb_gguf_tensor_bytes(t, &t->size_bytes, err));
done:
    return status;
}

/* offsets (n_tensors): as the file gives them; must be the running sum of padded sizes, inside the data section. */
static bb_status place_tensors(bb_gguf *g, const cursor *c, const uint64_t *offsets, bb_err *err)
{
    uint64_t start, sum = 0, room;
    char     shown[BB_GGUF_SHOWN];
    if (g->n_tensors == 0) return BB_OK;
    if (!bb_gguf_pad(c->at, g->alignment, &start) || start > c->size)
        return BB_FAIL(err, BB_BAD_FILE, "the file ends before its data section (%llu bytes, aligned to %u)", (unsigned long long)c->size,
                       g->alignment);
    room = c->size - start;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        bb_tensor *t = &g->tensors[i];
        bb_bytes   name = { t->name, strlen(t->name) };
        if (offsets[i] != sum)
            return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has offset %llu; the sizes before it add up to %llu", bb_gguf_show(name, shown),
                           (unsigned long long)offsets[i], (unsigned long long)sum);
        if (sum > room || t->size_bytes > room - sum)
            return BB_FAIL(err, BB_BAD_FILE, "the data of tensor '%s' (%llu bytes at %llu) reaches beyond the end of the file",
                           bb_gguf_show(name, shown), (unsigned long long)t->size_bytes, (unsigned long long)(start + sum));
        t->data = c->data + start + sum;
        if (!bb_gguf_pad(sum + t->size_bytes, g->alignment, &sum)) sum = UINT64_MAX;
    }
    return BB_OK;
}

static bb_status parse_header(cursor *c, bb_gguf *g, bb_err *err)
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
        status = BB_FAIL(err, BB_BAD_FILE, "the header announces %llu keys and %llu tensors, more than %llu bytes can hold",
                         (unsigned long long)g->n_kv, (unsigned long long)g->n_tensors, (unsigned long long)c->size);
        g->n_kv = g->n_tensors = 0; /* the arrays do not exist */
    }
done:
    return status;
}

bb_status bb_gguf_parse(const unsigned char *data, size_t size, bb_gguf *g, bb_err *err)
{
    cursor    c = { data, size, 0 };
    uint64_t *offsets = NULL, n_kv, n_tensors;
    bb_status status;
    memset(g, 0, sizeof *g);
    BB_TRY(parse_header(&c, g, err));
    n_kv = g->n_kv;
    n_tensors = g->n_tensors;
    g->n_kv = g->n_tensors = 0; /* grow as items are read, so that closing after a failure frees just those */
    g->kv = BB_NEW0((size_t)n_kv, bb_gguf_kv, err);
    g->tensors = BB_NEW0((size_t)n_tensors, bb_tensor, err);
    offsets = BB_NEW((size_t)n_tensors, uint64_t, err);
    status = BB_NOMEM;
    if (!g->kv || !g->tensors || !offsets) goto done;
    while (g->n_kv < n_kv) BB_TRY(parse_kv(&c, &g->kv[g->n_kv++], err));
    BB_TRY(parse_alignment(g, err));
    for (; g->n_tensors < n_tensors; g->n_tensors++) BB_TRY(parse_tensor(&c, &g->tensors[g->n_tensors], &offsets[g->n_tensors], err));
    BB_TRY(check_unique(g, err));
    BB_TRY(place_tensors(g, &c, offsets, err));
done:
    bb_free(offsets);
    if (status != BB_OK) bb_gguf_close(g);
    return status;
}

bb_status bb_gguf_open(const char *path, bb_gguf *g, bb_err *err)
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
    g->map = map;
done:
    return status;
}

void bb_gguf_close(bb_gguf *g)
{
    if (g->kv)
        for (uint64_t i = 0; i < g->n_kv; i++) bb_free(g->kv[i].strings);
    bb_free(g->kv);
    bb_free(g->tensors);
    bb_free(g->kv_order);
    bb_free(g->tensor_order);
    if (g->map.data) bb_map_close(&g->map);
    memset(g, 0, sizeof *g);
}

/* ---- look-up ---- */

static bb_bytes key_at(const bb_gguf *g, uint64_t place) { return g->kv[place].key; }
static bb_bytes tensor_at(const bb_gguf *g, uint64_t place) { return (bb_bytes){ g->tensors[place].name, strlen(g->tensors[place].name) }; }

/* The place of a text by halving order (n); n when it is absent. */
static uint64_t find_place(const bb_gguf *g, bb_bytes (*at)(const bb_gguf *, uint64_t), const uint64_t *order, uint64_t n, const char *text)
{
    bb_bytes want = { text, strlen(text) };
    uint64_t low = 0, high = n;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        int      side = compare_bytes(at(g, order[middle]), want);
        if (side == 0) return order[middle];
        if (side < 0) low = middle + 1;
        else high = middle;
    }
    return n;
}

const bb_gguf_kv *bb_gguf_find(const bb_gguf *g, const char *key)
{
    size_t n = strlen(key);
    if (g->kv_order) {
        uint64_t place = find_place(g, key_at, g->kv_order, g->n_kv, key);
        return place < g->n_kv ? &g->kv[place] : NULL;
    }
    for (uint64_t i = 0; i < g->n_kv; i++)
        if (g->kv[i].key.size == n && memcmp(g->kv[i].key.data, key, n) == 0) return &g->kv[i];
    return NULL;
}

const bb_tensor *bb_gguf_tensor(const bb_gguf *g, const char *name)
{
    if (g->tensor_order) {
        uint64_t place = find_place(g, tensor_at, g->tensor_order, g->n_tensors, name);
        return place < g->n_tensors ? &g->tensors[place] : NULL;
    }
    for (uint64_t i = 0; i < g->n_tensors; i++)
        if (strcmp(g->tensors[i].name, name) == 0) return &g->tensors[i];
    return NULL;
}

/* *kv NULL and BB_OK when the key is absent and may be. */
static bb_status look_up(const bb_gguf *g, const char *key, const bb_gguf_kv **kv, bool *found, bb_err *err)
{
    *kv = bb_gguf_find(g, key);
    if (found) *found = *kv != NULL;
    if (!*kv && !found) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is missing", key);
    return BB_OK;
}

/* One integer of the given kind as u32; false when the kind is no integer or the value does not fit. */
static bool integer_u32(bb_gguf_kind kind, const unsigned char *p, uint32_t *out)
{
    int64_t  v = 0;
    uint64_t u = 0;
    switch (kind) {
    case BB_GGUF_U8:  v = p[0]; break;
    case BB_GGUF_I8:  { int8_t x; memcpy(&x, p, 1); v = x; break; }
    case BB_GGUF_U16: { uint16_t x; memcpy(&x, p, 2); v = x; break; }
    case BB_GGUF_I16: { int16_t x; memcpy(&x, p, 2); v = x; break; }
    case BB_GGUF_U32: { uint32_t x; memcpy(&x, p, 4); v = x; break; }
    case BB_GGUF_I32: { int32_t x; memcpy(&x, p, 4); v = x; break; }
    case BB_GGUF_I64: memcpy(&v, p, 8); break;
    case BB_GGUF_U64:
        memcpy(&u, p, 8);
        if (u > UINT32_MAX) return false;
        v = (int64_t)u;
        break;
    case BB_GGUF_F32: case BB_GGUF_BOOL: case BB_GGUF_STRING: case BB_GGUF_ARRAY: case BB_GGUF_F64: default: return false;
    }
    if (v < 0 || v > UINT32_MAX) return false;
    *out = (uint32_t)v;
    return true;
}

bb_status bb_gguf_u32(const bb_gguf *g, const char *key, uint32_t *out, bool *found, bb_err *err)
{
    const bb_gguf_kv *kv;
    bb_status         status = look_up(g, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (!integer_u32(kv->kind, kv->value, out))
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is not an integer of 0 to 2^32-1 (its kind is %d)", key, (int)kv->kind);
    return BB_OK;
}

bb_status bb_gguf_f32(const bb_gguf *g, const char *key, float *out, bool *found, bb_err *err)
{
    const bb_gguf_kv *kv;
    double            wide;
    bb_status         status = look_up(g, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (kv->kind == BB_GGUF_F32) {
        memcpy(out, kv->value, 4);
    } else if (kv->kind == BB_GGUF_F64) {
        memcpy(&wide, kv->value, 8);
        *out = (float)wide;
    } else {
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' has kind %d, not a floating-point kind", key, (int)kv->kind);
    }
    if (!isfinite(*out)) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is not a finite number", key);
    return BB_OK;
}

bb_status bb_gguf_bool(const bb_gguf *g, const char *key, bool *out, bool *found, bb_err *err)
{
    const bb_gguf_kv *kv;
    bb_status         status = look_up(g, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (kv->kind != BB_GGUF_BOOL) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' has kind %d, not bool", key, (int)kv->kind);
    *out = kv->value[0] != 0;
    return BB_OK;
}

bb_status bb_gguf_text(const bb_gguf *g, const char *key, bb_bytes *out, bool *found, bb_err *err)
{
    const bb_gguf_kv *kv;
    bb_status         status = look_up(g, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (kv->kind != BB_GGUF_STRING) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' has kind %d, not string", key, (int)kv->kind);
    *out = (bb_bytes){ (const char *)kv->value, kv->value_bytes };
    return BB_OK;
}

bb_status bb_gguf_u32_array(const bb_gguf *g, const char *key, uint32_t *out, uint64_t n, bool *found, bb_err *err)
{
    const bb_gguf_kv *kv;
    uint32_t          scalar;
    bb_status         status = look_up(g, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (kv->kind != BB_GGUF_ARRAY) {
        status = bb_gguf_u32(g, key, &scalar, NULL, err);
        for (uint64_t i = 0; status == BB_OK && i < n; i++) out[i] = scalar;
        return status;
    }
    if (kv->count != n)
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' has %llu entries; %llu are needed", key, (unsigned long long)kv->count,
                       (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++)
        if (!integer_u32(kv->element, kv->value + i * bb_gguf_kind_bytes(kv->element), &out[i]))
            return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s', entry %llu, is not an integer of 0 to 2^32-1", key,
                           (unsigned long long)i);
    return BB_OK;
}
