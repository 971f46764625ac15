/* SPDX-License-Identifier: GPL-3.0-or-later
 * gguf_write.c: writing GGUF v3: see gguf.h.
 *
 * Keys and tensors are gathered first; size and bytes are then made from the same list, so that the size is exact. Every
 * tensor, the last one too, is padded to the alignment, as llama.cpp's writer does. Values copied from another file stay
 * where they are (borrowed) until the list is destroyed: sizes of thousands of plans are asked without copying a vocabulary.
 */
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/table.h"
#include "model/io/gguf_internal.h"

typedef struct entry {
    bb_bytes             key; /* owned copy when owned_key */
    char                *owned_key;
    bb_kind              kind, element;
    uint64_t             count, value_bytes;
    const unsigned char *value; /* raw bytes as in bb_key */
    unsigned char       *owned_value;
} entry;

struct bb_gguf_out {
    entry     *kv;
    bb_tensor *tensors;
    size_t     n_kv, n_tensors, kv_room, tensor_room;
    bb_table   places; /* in kv, of the keys */
};

bb_status bb_gguf_out_create(bb_gguf_out **out, bb_err *err)
{
    *out = BB_NEW0(1, bb_gguf_out, err);
    return *out ? BB_OK : BB_NOMEM;
}

static void free_entry(entry *e)
{
    bb_free(e->owned_key);
    bb_free(e->owned_value);
}

void bb_gguf_out_destroy(bb_gguf_out *out)
{
    if (!out) return;
    for (size_t i = 0; i < out->n_kv; i++) free_entry(&out->kv[i]);
    bb_free(out->kv);
    bb_free(out->tensors);
    bb_table_done(&out->places);
    bb_free(out);
}

/* Doubles *items (of `size` bytes each) when n == *room. */
static bb_status make_room(void **items, size_t n, size_t *room, size_t size, bb_err *err)
{
    size_t wanted = *room ? *room * 2 : 32;
    void  *p;
    if (n < *room) return BB_OK;
    p = bb_realloc(*items, wanted, size, err);
    if (!p) return BB_NOMEM;
    *items = p;
    *room = wanted;
    return BB_OK;
}

static uint64_t hash_key(bb_bytes key) { return bb_hash64(key.data, (size_t)key.size, 0); }
static uint64_t hash_of(const void *kv, uint32_t number) { return hash_key(((const entry *)kv)[number].key); }

static bool is_key(const void *kv, uint32_t number, const void *key)
{
    const bb_bytes a = ((const entry *)kv)[number].key, *b = key;
    return a.size == b->size && memcmp(a.data, b->data, (size_t)a.size) == 0;
}

/* Takes over e's owned memory, also on failure. */
static bb_status put(bb_gguf_out *out, entry e, bb_err *err)
{
    void     *items = out->kv;
    uint32_t *slot;
    bb_status status;
    BB_TRY(bb_table_reserve(&out->places, out->n_kv + 1, out->n_kv, hash_of, out->kv, err));
    slot = bb_table_at(&out->places, hash_key(e.key), is_key, out->kv, &e.key);
    if (*slot) {
        entry *old = &out->kv[*slot - 1];
        free_entry(old);
        *old = e;
        return BB_OK;
    }
    status = make_room(&items, out->n_kv, &out->kv_room, sizeof(entry), err);
    out->kv = items;
    if (status != BB_OK) goto done;
    out->kv[out->n_kv++] = e;
    *slot = (uint32_t)out->n_kv;
done:
    if (status != BB_OK) free_entry(&e);
    return status;
}

bb_status bb_gguf_put_copy(bb_gguf_out *out, const bb_key *kv, bb_err *err)
{
    return put(
        out, (entry) { .key = kv->key, .kind = kv->kind, .element = kv->element, .count = kv->count, .value = kv->value, .value_bytes = kv->value_bytes }, err);
}

/* An entry with its own copies of key and value; value may be NULL: then owned_value is left to be filled. */
static bb_status put_own(bb_gguf_out *out, const char *key, bb_kind kind, bb_kind element, uint64_t count, const void *value, uint64_t value_bytes,
                         unsigned char **fill, bb_err *err)
{
    entry e = { .kind = kind, .element = element, .count = count, .value_bytes = value_bytes };
    BB_ASSERT(key[0] != '\0');
    e.owned_key = bb_strdup(key, err);
    e.owned_value = bb_alloc((size_t)value_bytes, 1, err);
    if (!e.owned_key || !e.owned_value) {
        free_entry(&e);
        return BB_NOMEM;
    }
    e.key = (bb_bytes) { e.owned_key, strlen(key) };
    e.value = e.owned_value;
    if (value && value_bytes) memcpy(e.owned_value, value, (size_t)value_bytes);
    if (fill) *fill = e.owned_value;
    return put(out, e, err);
}

bb_status bb_gguf_put_u32(bb_gguf_out *out, const char *key, uint32_t v, bb_err *err)
{
    return put_own(out, key, BB_KIND_U32, BB_KIND_U8, 1, &v, sizeof v, NULL, err);
}

bb_status bb_gguf_put_u64(bb_gguf_out *out, const char *key, uint64_t v, bb_err *err)
{
    return put_own(out, key, BB_KIND_U64, BB_KIND_U8, 1, &v, sizeof v, NULL, err);
}

bb_status bb_gguf_put_f32(bb_gguf_out *out, const char *key, float v, bb_err *err)
{
    return put_own(out, key, BB_KIND_F32, BB_KIND_U8, 1, &v, sizeof v, NULL, err);
}

bb_status bb_gguf_put_bool(bb_gguf_out *out, const char *key, bool v, bb_err *err)
{
    unsigned char byte = v;
    return put_own(out, key, BB_KIND_BOOL, BB_KIND_U8, 1, &byte, 1, NULL, err);
}

bb_status bb_gguf_put_text(bb_gguf_out *out, const char *key, const char *v, bb_err *err)
{
    return put_own(out, key, BB_KIND_STRING, BB_KIND_U8, 1, v, strlen(v), NULL, err);
}

static bb_status put_array(bb_gguf_out *out, const char *key, bb_kind element, const void *v, uint64_t n, bb_err *err)
{
    size_t bytes;
    if (!bb_mul_size((size_t)n, bb_kind_bytes(element), &bytes))
        return BB_FAIL(err, BB_NOMEM, "out of memory: the array '%s' of %llu entries overflows", key, (unsigned long long)n);
    return put_own(out, key, BB_KIND_ARRAY, element, n, v, bytes, NULL, err);
}

bb_status bb_gguf_put_u32_array(bb_gguf_out *out, const char *key, const uint32_t *v, uint64_t n, bb_err *err)
{
    return put_array(out, key, BB_KIND_U32, v, n, err);
}

bb_status bb_gguf_put_i32_array(bb_gguf_out *out, const char *key, const int32_t *v, uint64_t n, bb_err *err)
{
    return put_array(out, key, BB_KIND_I32, v, n, err);
}

bb_status bb_gguf_put_f32_array(bb_gguf_out *out, const char *key, const float *v, uint64_t n, bb_err *err)
{
    return put_array(out, key, BB_KIND_F32, v, n, err);
}

bb_status bb_gguf_put_text_array(bb_gguf_out *out, const char *key, const bb_bytes *v, uint64_t n, bb_err *err)
{
    uint64_t       bytes = 0;
    unsigned char *p;
    bb_status      status;
    for (uint64_t i = 0; i < n; i++) bytes += 8 + v[i].size;
    status = put_own(out, key, BB_KIND_ARRAY, BB_KIND_STRING, n, NULL, bytes, &p, err);
    for (uint64_t i = 0; status == BB_OK && i < n; i++) {
        memcpy(p, &v[i].size, 8);
        if (v[i].size) memcpy(p + 8, v[i].data, (size_t)v[i].size);
        p += 8 + v[i].size;
    }
    return status;
}

bb_status bb_gguf_put_tensor(bb_gguf_out *out, const bb_tensor *t, bb_err *err)
{
    void     *items = out->tensors;
    bb_tensor copy = *t;
    bb_status status;
    size_t    n = strnlen(t->name, sizeof t->name);
    BB_ASSERT(n > 0 && t->n_dims <= 4);
    if (n > BB_GGUF_MAX_NAME) return BB_FAIL(err, BB_UNSUPPORTED, "tensor name '%.64s' is longer than %d bytes", t->name, BB_GGUF_MAX_NAME);
    status = bb_gguf_tensor_bytes(t, &copy.size_bytes, err);
    if (status != BB_OK) return status;
    status = make_room(&items, out->n_tensors, &out->tensor_room, sizeof(bb_tensor), err);
    out->tensors = items;
    if (status == BB_OK) out->tensors[out->n_tensors++] = copy;
    return status;
}

/* ---- the list as a source ---- */

/* Where the texts of an array of texts are. */
static bb_status index_strings(const entry *e, bb_key *kv, bb_err *err)
{
    const unsigned char *p = e->value;
    if (!(kv->strings = BB_NEW((size_t)e->count, bb_bytes, err))) return BB_NOMEM;
    for (uint64_t i = 0; i < e->count; i++) {
        memcpy(&kv->strings[i].size, p, 8);
        kv->strings[i].data = (const char *)p + 8;
        p += 8 + kv->strings[i].size;
    }
    return BB_OK;
}

bb_status bb_gguf_out_source(const bb_gguf_out *out, bb_source *s, bb_err *err)
{
    bb_status status = BB_NOMEM;
    if (!(s->kv = BB_NEW0(out->n_kv, bb_key, err)) || !(s->tensors = BB_NEW(out->n_tensors, bb_tensor, err))) goto done;
    s->n_tensors = out->n_tensors;
    if (out->n_tensors) memcpy(s->tensors, out->tensors, out->n_tensors * sizeof *s->tensors);
    for (; s->n_kv < out->n_kv; s->n_kv++) {
        const entry *e = &out->kv[s->n_kv];
        bb_key      *kv = &s->kv[s->n_kv];
        *kv = (bb_key) { .key = e->key, .kind = e->kind, .element = e->element, .count = e->count, .value = e->value, .value_bytes = e->value_bytes };
        if (e->kind == BB_KIND_ARRAY && e->element == BB_KIND_STRING) BB_TRY(index_strings(e, kv, err));
    }
    BB_TRY(bb_source_index(s, err));
done:
    return status;
}

/* ---- size and bytes ---- */

bb_status bb_gguf_out_alignment(const bb_gguf_out *out, uint32_t *alignment, bb_err *err)
{
    static const char key[] = "general.alignment";
    *alignment = BB_GGUF_DEFAULT_ALIGNMENT;
    for (size_t i = 0; i < out->n_kv; i++) {
        const entry *e = &out->kv[i];
        if (e->key.size != sizeof key - 1 || memcmp(e->key.data, key, sizeof key - 1) != 0) continue;
        if (e->kind != BB_KIND_U32) return BB_FAIL(err, BB_FAILED, "general.alignment must be written as u32");
        memcpy(alignment, e->value, 4);
        if (*alignment == 0 || (*alignment & (*alignment - 1)) != 0) return BB_FAIL(err, BB_FAILED, "general.alignment is %u, not a power of two", *alignment);
    }
    return BB_OK;
}

static bool count_bytes(const bb_gguf_out *out, uint32_t alignment, bb_gguf_bytes *b)
{
    uint64_t padded;
    *b = (bb_gguf_bytes) { .n_tensors = out->n_tensors };
    for (size_t i = 0; i < out->n_kv; i++) {
        const entry *e = &out->kv[i];
        b->keys += 8 + e->key.size + 4 + e->value_bytes + (e->kind == BB_KIND_STRING ? 8 : e->kind == BB_KIND_ARRAY ? 12 : 0);
    }
    for (size_t i = 0; i < out->n_tensors; i++) {
        b->infos += 8 + strlen(out->tensors[i].name) + 4 + 8 * (uint64_t)out->tensors[i].n_dims + 4 + 8;
        if (!bb_gguf_pad(out->tensors[i].size_bytes, alignment, &padded) || __builtin_add_overflow(b->data, padded, &b->data)) return false;
    }
    return true;
}

bb_status bb_gguf_out_bytes(const bb_gguf_out *out, uint32_t alignment, bb_gguf_bytes *bytes, bb_err *err)
{
    if (!count_bytes(out, alignment, bytes)) return BB_FAIL(err, BB_FAILED, "the size of the file to be written overflows 64 bits");
    return BB_OK;
}

static bool total_bytes(const bb_gguf_out *out, uint32_t alignment, uint64_t *bytes)
{
    bb_gguf_bytes b;
    return count_bytes(out, alignment, &b) && bb_gguf_pad(BB_GGUF_START + b.keys + b.infos, alignment, bytes) && !__builtin_add_overflow(*bytes, b.data, bytes);
}

bb_status bb_gguf_out_size(const bb_gguf_out *out, uint64_t *bytes, bb_err *err)
{
    uint32_t  alignment;
    bb_status status = bb_gguf_out_alignment(out, &alignment, err);
    if (status == BB_OK && !total_bytes(out, alignment, bytes)) status = BB_FAIL(err, BB_FAILED, "the size of the file to be written overflows 64 bits");
    return status;
}

static void write_u32(FILE *f, uint32_t v) { fwrite(&v, 4, 1, f); }
static void write_u64(FILE *f, uint64_t v) { fwrite(&v, 8, 1, f); }
static void write_bytes(FILE *f, const void *p, uint64_t n)
{
    if (n) fwrite(p, 1, (size_t)n, f);
}

static void write_entry(FILE *f, const entry *e)
{
    write_u64(f, e->key.size);
    write_bytes(f, e->key.data, e->key.size);
    write_u32(f, (uint32_t)e->kind);
    if (e->kind == BB_KIND_STRING) write_u64(f, e->value_bytes);
    if (e->kind == BB_KIND_ARRAY) {
        write_u32(f, (uint32_t)e->element);
        write_u64(f, e->count);
    }
    write_bytes(f, e->value, e->value_bytes);
}

static void write_zeros(FILE *f, uint64_t n)
{
    static const unsigned char zeros[256];
    for (; n; n -= n < sizeof zeros ? n : sizeof zeros) write_bytes(f, zeros, n < sizeof zeros ? n : sizeof zeros);
}

static uint64_t padding(uint64_t at, uint32_t alignment) { return (alignment - at % alignment) % alignment; }

static void write_infos(FILE *f, const bb_gguf_out *out, uint32_t alignment)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < out->n_tensors; i++) {
        const bb_tensor *t = &out->tensors[i];
        write_u64(f, strlen(t->name));
        write_bytes(f, t->name, strlen(t->name));
        write_u32(f, t->n_dims);
        write_bytes(f, t->ne, 8 * (uint64_t)t->n_dims);
        write_u32(f, (uint32_t)t->type);
        write_u64(f, offset);
        offset += t->size_bytes + padding(t->size_bytes, alignment);
    }
}

bb_status bb_gguf_out_write(const bb_gguf_out *out, const char *path, bb_err *err)
{
    bb_writer     w = { .stream = NULL };
    uint32_t      alignment;
    bb_gguf_bytes head;
    bb_status     status;
    BB_TRY(bb_gguf_out_alignment(out, &alignment, err));
    BB_TRY(bb_gguf_out_bytes(out, alignment, &head, err));
    for (size_t i = 0; i < out->n_tensors; i++) BB_ASSERT(out->tensors[i].data || out->tensors[i].size_bytes == 0);
    BB_TRY(bb_writer_open(&w, path, err));
    fwrite("GGUF", 1, 4, w.stream);
    write_u32(w.stream, 3);
    write_u64(w.stream, out->n_tensors);
    write_u64(w.stream, out->n_kv);
    for (size_t i = 0; i < out->n_kv; i++) write_entry(w.stream, &out->kv[i]);
    write_infos(w.stream, out, alignment);
    write_zeros(w.stream, padding(BB_GGUF_START + head.keys + head.infos, alignment));
    for (size_t i = 0; i < out->n_tensors; i++) {
        write_bytes(w.stream, out->tensors[i].data, out->tensors[i].size_bytes);
        write_zeros(w.stream, padding(out->tensors[i].size_bytes, alignment));
    }
    status = bb_writer_commit(&w, err);
done:
    if (status != BB_OK) bb_writer_abort(&w);
    return status;
}
