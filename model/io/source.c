/* SPDX-License-Identifier: GPL-3.0-or-later
 * source.c: see source.h. What is the same whatever the reader: the index of names, look-up, typed values. */
#include "model/io/source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

unsigned bb_kind_bytes(bb_kind kind)
{
    static const unsigned char bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    return (unsigned)kind < sizeof bytes ? bytes[kind] : 0;
}

const char *bb_show(bb_bytes b, char out[BB_SHOWN])
{
    size_t n = b.size < BB_SHOWN - 1 ? (size_t)b.size : BB_SHOWN - 1;
    for (size_t i = 0; i < n; i++) out[i] = b.data[i] >= ' ' && b.data[i] <= '~' ? b.data[i] : '?';
    out[n] = '\0';
    return out;
}

void bb_source_close(bb_source *s)
{
    if (s->kv)
        for (uint64_t i = 0; i < s->n_kv; i++) bb_free(s->kv[i].strings);
    bb_free(s->kv);
    bb_free(s->tensors);
    bb_free(s->kv_order);
    bb_free(s->tensor_order);
    if (s->reader) s->reader->close(s);
    memset(s, 0, sizeof *s);
}

/* A source made by hand has no reader: nothing to refuse, to release or to hash. */
bb_status bb_source_whole(const bb_source *s, bb_err *err) { return s->reader ? s->reader->whole(s, err) : BB_OK; }

void bb_source_release(const bb_source *s, uint32_t layer)
{
    if (s->reader) s->reader->release(s, layer);
}

void bb_source_hash(const bb_source *s, bb_sha256 *h)
{
    if (s->reader) s->reader->hash(s, h);
}

/* ---- index ---- */

typedef struct named {
    bb_bytes text;
    uint64_t place;
} named; /* of a key or a tensor, and where it is in the file's list */

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
    char shown[BB_SHOWN];
    if (!(*order = BB_NEW(n, uint64_t, err))) return BB_NOMEM;
    qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && compare_names(&names[i - 1], &names[i]) == 0)
            return BB_FAIL(err, BB_BAD_FILE, "%s '%s' occurs twice", what, bb_show(names[i].text, shown));
        (*order)[i] = names[i].place;
    }
    return BB_OK;
}

bb_status bb_source_index(bb_source *s, bb_err *err)
{
    size_t    n = (size_t)(s->n_kv > s->n_tensors ? s->n_kv : s->n_tensors);
    named    *names = BB_NEW(n, named, err);
    bb_status status = BB_NOMEM;
    if (!names) goto done;
    for (uint64_t i = 0; i < s->n_kv; i++) names[i] = (named) { s->kv[i].key, i };
    BB_TRY(index_names(names, (size_t)s->n_kv, "metadata key", &s->kv_order, err));
    for (uint64_t i = 0; i < s->n_tensors; i++) names[i] = (named) { { s->tensors[i].name, strlen(s->tensors[i].name) }, i };
    BB_TRY(index_names(names, (size_t)s->n_tensors, "tensor name", &s->tensor_order, err));
done:
    bb_free(names);
    return status;
}

/* ---- look-up ---- */

static bb_bytes key_at(const bb_source *s, uint64_t place) { return s->kv[place].key; }
static bb_bytes tensor_at(const bb_source *s, uint64_t place) { return (bb_bytes) { s->tensors[place].name, strlen(s->tensors[place].name) }; }

/* The place of a text by halving order (n); n when it is absent. */
static uint64_t find_place(const bb_source *s, bb_bytes (*at)(const bb_source *, uint64_t), const uint64_t *order, uint64_t n, const char *text)
{
    bb_bytes want = { text, strlen(text) };
    uint64_t low = 0, high = n;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        int      side = compare_bytes(at(s, order[middle]), want);
        if (side == 0) return order[middle];
        if (side < 0) low = middle + 1;
        else high = middle;
    }
    return n;
}

const bb_key *bb_source_find(const bb_source *s, const char *key)
{
    size_t n = strlen(key);
    if (s->kv_order) {
        uint64_t place = find_place(s, key_at, s->kv_order, s->n_kv, key);
        return place < s->n_kv ? &s->kv[place] : NULL;
    }
    for (uint64_t i = 0; i < s->n_kv; i++)
        if (s->kv[i].key.size == n && memcmp(s->kv[i].key.data, key, n) == 0) return &s->kv[i];
    return NULL;
}

const bb_tensor *bb_source_tensor(const bb_source *s, const char *name)
{
    if (s->tensor_order) {
        uint64_t place = find_place(s, tensor_at, s->tensor_order, s->n_tensors, name);
        return place < s->n_tensors ? &s->tensors[place] : NULL;
    }
    for (uint64_t i = 0; i < s->n_tensors; i++)
        if (strcmp(s->tensors[i].name, name) == 0) return &s->tensors[i];
    return NULL;
}

/* *kv NULL and BB_OK when the key is absent and may be. */
static bb_status look_up(const bb_source *s, const char *key, const bb_key **kv, bool *found, bb_err *err)
{
    *kv = bb_source_find(s, key);
    if (found) *found = *kv != NULL;
    if (!*kv && !found) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is missing", key);
    return BB_OK;
}

double bb_kind_number(bb_kind kind, const unsigned char *p)
{
    switch (kind) {
    case BB_KIND_U8: return p[0];
    case BB_KIND_BOOL: return p[0] != 0;
    case BB_KIND_I8: {
        int8_t x;
        memcpy(&x, p, sizeof x);
        return x;
    }
    case BB_KIND_U16: {
        uint16_t x;
        memcpy(&x, p, sizeof x);
        return x;
    }
    case BB_KIND_I16: {
        int16_t x;
        memcpy(&x, p, sizeof x);
        return x;
    }
    case BB_KIND_U32: {
        uint32_t x;
        memcpy(&x, p, sizeof x);
        return x;
    }
    case BB_KIND_I32: {
        int32_t x;
        memcpy(&x, p, sizeof x);
        return x;
    }
    case BB_KIND_U64: {
        uint64_t x;
        memcpy(&x, p, sizeof x);
        return (double)x;
    }
    case BB_KIND_I64: {
        int64_t x;
        memcpy(&x, p, sizeof x);
        return (double)x;
    }
    case BB_KIND_F32: {
        float x;
        memcpy(&x, p, sizeof x);
        return (double)x;
    }
    case BB_KIND_F64: {
        double x;
        memcpy(&x, p, sizeof x);
        return x;
    }
    case BB_KIND_STRING:
    case BB_KIND_ARRAY:
    default: return (double)NAN;
    }
}

/* One integer of the given kind as u32; false when the kind is no integer or the value does not fit. (The rounding of 64 bits keeps what is too large too
 * large.) */
static bool integer_u32(bb_kind kind, const unsigned char *p, uint32_t *out)
{
    if (kind == BB_KIND_BOOL || kind == BB_KIND_F32 || kind == BB_KIND_F64) return false;
    const double x = bb_kind_number(kind, p);
    if (!(x >= 0 && x <= UINT32_MAX)) return false;
    *out = (uint32_t)x;
    return true;
}

bb_status bb_source_u32(const bb_source *s, const char *key, uint32_t *out, bool *found, bb_err *err)
{
    const bb_key *kv;
    bb_status     status = look_up(s, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (!integer_u32(kv->kind, kv->value, out))
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is not an integer of 0 to 2^32-1 (its kind is %d)", key, (int)kv->kind);
    return BB_OK;
}

bb_status bb_source_f32(const bb_source *s, const char *key, float *out, bool *found, bb_err *err)
{
    const bb_key *kv;
    double        wide;
    bb_status     status = look_up(s, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (kv->kind == BB_KIND_F32) {
        memcpy(out, kv->value, 4);
    } else if (kv->kind == BB_KIND_F64) {
        memcpy(&wide, kv->value, 8);
        *out = (float)wide;
    } else {
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' has kind %d, not a floating-point kind", key, (int)kv->kind);
    }
    if (!isfinite(*out)) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is not a finite number", key);
    return BB_OK;
}

bb_status bb_source_bool(const bb_source *s, const char *key, bool *out, bool *found, bb_err *err)
{
    const bb_key *kv;
    bb_status     status = look_up(s, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (kv->kind != BB_KIND_BOOL) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' has kind %d, not bool", key, (int)kv->kind);
    *out = kv->value[0] != 0;
    return BB_OK;
}

bb_status bb_source_text(const bb_source *s, const char *key, bb_bytes *out, bool *found, bb_err *err)
{
    const bb_key *kv;
    bb_status     status = look_up(s, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (kv->kind != BB_KIND_STRING) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' has kind %d, not string", key, (int)kv->kind);
    *out = (bb_bytes) { (const char *)kv->value, kv->value_bytes };
    return BB_OK;
}

bb_status bb_source_u32_array(const bb_source *s, const char *key, uint32_t *out, uint64_t n, bool *found, bb_err *err)
{
    const bb_key *kv;
    uint32_t      scalar;
    bb_status     status = look_up(s, key, &kv, found, err);
    if (status != BB_OK || !kv) return status;
    if (kv->kind != BB_KIND_ARRAY) {
        status = bb_source_u32(s, key, &scalar, NULL, err);
        for (uint64_t i = 0; status == BB_OK && i < n; i++) out[i] = scalar;
        return status;
    }
    if (kv->count != n)
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' has %llu entries; %llu are needed", key, (unsigned long long)kv->count, (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++)
        if (!integer_u32(kv->element, kv->value + i * bb_kind_bytes(kv->element), &out[i]))
            return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s', entry %llu, is not an integer of 0 to 2^32-1", key, (unsigned long long)i);
    return BB_OK;
}

static bool is_period(const bool *has, uint32_t n_layer, uint32_t period)
{
    for (uint32_t i = 0; i < n_layer; i++)
        if (has[i] != (i % period < period - 1)) return false;
    return true;
}

uint32_t bb_window_period(const bool *has, uint32_t n_layer, uint32_t usual)
{
    if (is_period(has, n_layer, usual)) return usual;
    for (uint32_t p = 1; p <= n_layer + 1; p++)
        if (is_period(has, n_layer, p)) return p;
    return 0;
}
