/* SPDX-License-Identifier: GPL-3.0-or-later
 * safetensors.c: see safetensors.h. Eight bytes with the length of a JSON object, the object (name: dtype, shape, data_offsets), then the data. */
#include "model/io/safetensors.h"

#include <jansson.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/source.h"

enum { MAX_HEADER = 100 << 20, MAX_DIMS = 4 };

static const struct {
    const char *dtype;
    bb_type     type;
    unsigned    bytes;
} types[] = { { "F32", BB_F32, 4 }, { "F16", BB_F16, 2 }, { "BF16", BB_BF16, 2 } };

static bb_status bad(const char *name, const char *what, bb_err *err)
{
    char shown[BB_SHOWN];
    return BB_FAIL(err, BB_BAD_FILE, "tensor '%s': %s", bb_show((bb_bytes) { name, strlen(name) }, shown), what);
}

/* A whole number of 0 to 2^53: JSON has no larger ones that all readers agree on. */
static bool number_of(const json_t *value, uint64_t *out)
{
    const json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    *out = (uint64_t)n;
    return n >= 0 && n <= (json_int_t)1 << 53;
}

static bb_status read_tensor(const char *name, const json_t *entry, const unsigned char *data, uint64_t room, bb_safetensor *t, bb_err *err)
{
    const json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    uint64_t      begin, end, bytes;
    size_t        k = 0;
    char          shown[BB_SHOWN], type[BB_SHOWN];
    if (!json_is_string(dtype) || !json_is_array(shape) || !json_is_array(offsets) || json_array_size(offsets) != 2)
        return bad(name, "its entry lacks dtype, shape or data_offsets", err);
    while (k < sizeof types / sizeof *types && strcmp(json_string_value(dtype), types[k].dtype) != 0) k++;
    if (k == sizeof types / sizeof *types)
        return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' is of type %s; F32, F16 and BF16 are read", bb_show((bb_bytes) { name, strlen(name) }, shown),
                       bb_show((bb_bytes) { json_string_value(dtype), json_string_length(dtype) }, type));
    if (json_array_size(shape) > MAX_DIMS) return bad(name, "it has more than 4 dimensions", err);
    t->type = types[k].type;
    t->n_dims = (uint32_t)json_array_size(shape);
    bytes = types[k].bytes;
    for (uint32_t i = 0; i < MAX_DIMS; i++) {
        t->shape[i] = 1;
        if (i < t->n_dims && !number_of(json_array_get(shape, i), &t->shape[i])) return bad(name, "a dimension is no whole number of 0 to 2^53", err);
        if (__builtin_mul_overflow(bytes, t->shape[i], &bytes)) return bad(name, "the product of its dimensions overflows", err);
    }
    if (!number_of(json_array_get(offsets, 0), &begin) || !number_of(json_array_get(offsets, 1), &end) || begin > end || end > room)
        return bad(name, "its data_offsets reach beyond the end of the file", err);
    if (end - begin != bytes)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has %llu bytes of data; its shape and type need %llu", bb_show((bb_bytes) { name, strlen(name) }, shown),
                       (unsigned long long)(end - begin), (unsigned long long)bytes);
    t->size_bytes = bytes;
    t->data = data + begin;
    t->name = bb_strdup(name, err);
    return t->name ? BB_OK : BB_NOMEM;
}

bb_status bb_safetensors_parse(const unsigned char *data, size_t size, bb_safetensors *s, bb_err *err)
{
    uint64_t     length = 0;
    json_t      *header = NULL, *entry;
    json_error_t where;
    const char  *name;
    char         shown[BB_SHOWN];
    bb_status    status = BB_OK;
    memset(s, 0, sizeof *s);
    if (size >= 8) memcpy(&length, data, 8);
    if (size < 8) return BB_FAIL(err, BB_BAD_FILE, "this is no safetensors file: it has %zu bytes, and the length of its header alone takes 8", size);
    if (length > size - 8 || length > MAX_HEADER)
        return BB_FAIL(err, BB_BAD_FILE, "this is no safetensors file: its header would have %llu bytes, and the file has %zu", (unsigned long long)length,
                       size);
    header = json_loadb((const char *)data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(header)) {
        status = BB_FAIL(err, BB_BAD_FILE, "the header is no JSON object: %s",
                         header ? "another value" : bb_show((bb_bytes) { where.text, strlen(where.text) }, shown));
        goto done;
    }
    if (!(s->tensors = BB_NEW0(json_object_size(header), bb_safetensor, err))) {
        status = BB_NOMEM;
        goto done;
    }
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        BB_TRY(read_tensor(name, entry, data + 8 + length, size - 8 - length, &s->tensors[s->n_tensors], err));
        s->n_tensors++;
    }
done:
    json_decref(header);
    if (status != BB_OK) bb_safetensors_close(s);
    return status;
}

bb_status bb_safetensors_open(const char *path, bb_safetensors *s, bb_err *err)
{
    bb_map    map = { NULL, 0 };
    bb_err    inner = BB_ERR_INIT;
    bb_status status;
    memset(s, 0, sizeof *s);
    BB_TRY(bb_map_open(path, &map, err));
    status = bb_safetensors_parse(map.data, map.size, s, &inner);
    if (status != BB_OK) {
        BB_FAIL(err, status, "%s: %s", path, inner.msg);
        bb_map_close(&map);
        goto done;
    }
    s->map = map;
done:
    return status;
}

void bb_safetensors_close(bb_safetensors *s)
{
    for (size_t i = 0; i < s->n_tensors; i++) bb_free(s->tensors[i].name);
    bb_free(s->tensors);
    if (s->map.data) bb_map_close(&s->map);
    memset(s, 0, sizeof *s);
}
