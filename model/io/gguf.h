/* SPDX-License-Identifier: GPL-3.0-or-later
 * gguf.h: read (v2, v3; memory-mapped; every length and offset checked) and write (v3; atomic) GGUF files.
 *
 * The file is untrusted: any bad byte gives BB_BAD_FILE with one sentence, never a crash. Layout: docs/formats.md.
 */
#ifndef BB_MODEL_IO_GGUF_H
#define BB_MODEL_IO_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/file.h"
#include "base/status.h"
#include "kernels/format.h"

typedef enum bb_gguf_kind {
    BB_GGUF_U8, BB_GGUF_I8, BB_GGUF_U16, BB_GGUF_I16, BB_GGUF_U32, BB_GGUF_I32, BB_GGUF_F32, BB_GGUF_BOOL, BB_GGUF_STRING,
    BB_GGUF_ARRAY, BB_GGUF_U64, BB_GGUF_I64, BB_GGUF_F64
} bb_gguf_kind;

typedef struct bb_bytes { const char *data; uint64_t size; } bb_bytes; /* borrowed, not NUL-terminated */

typedef struct bb_gguf_kv {
    bb_bytes     key;
    bb_gguf_kind kind;       /* BB_GGUF_ARRAY: element kind and count below */
    bb_gguf_kind element;
    uint64_t     count;      /* 1 for scalars */
    const unsigned char *value; uint64_t value_bytes; /* raw bytes of the value in the file (for a string: after its length; for an array: the elements) */
    bb_bytes    *strings;    /* owned index of a string array; NULL otherwise */
} bb_gguf_kv;

typedef struct bb_tensor {
    char        name[65];
    bb_type     type;
    uint32_t    n_dims;
    uint64_t    ne[4];       /* ne[0] = row length (inputs), ne[1] = rows (outputs); unused dims are 1 */
    uint64_t    size_bytes;
    const void *data;        /* borrows from the map */
} bb_tensor;

typedef struct bb_gguf {
    bb_map      map;
    uint32_t    version, alignment;
    uint64_t    n_kv, n_tensors;
    bb_gguf_kv *kv;          /* in file order */
    bb_tensor  *tensors;     /* in file order */
    uint64_t   *kv_order, *tensor_order; /* [n_kv], [n_tensors] places by name, for look-up; NULL (a bb_gguf made by hand): all are looked through */
} bb_gguf;

bb_status bb_gguf_open(const char *path, bb_gguf *g, bb_err *err);
/* The same from bytes in memory that outlive g (for tests and fuzzing). bb_gguf_close then frees the index only. */
bb_status bb_gguf_parse(const unsigned char *data, size_t size, bb_gguf *g, bb_err *err);
void      bb_gguf_close(bb_gguf *g);

const bb_gguf_kv *bb_gguf_find(const bb_gguf *g, const char *key);       /* NULL when absent */
const bb_tensor  *bb_gguf_tensor(const bb_gguf *g, const char *name);    /* NULL when absent */
/* Typed getters: *found (may be NULL: then absence is BB_BAD_FILE). Any integer kind is accepted where it fits; a wrong kind is BB_BAD_FILE. */
bb_status bb_gguf_u32(const bb_gguf *g, const char *key, uint32_t *out, bool *found, bb_err *err);
bb_status bb_gguf_f32(const bb_gguf *g, const char *key, float *out, bool *found, bb_err *err);
bb_status bb_gguf_bool(const bb_gguf *g, const char *key, bool *out, bool *found, bb_err *err);
bb_status bb_gguf_text(const bb_gguf *g, const char *key, bb_bytes *out, bool *found, bb_err *err);
/* Scalar or array of exactly n entries into out[n] (a scalar is repeated): llama.cpp's per-layer keys. */
bb_status bb_gguf_u32_array(const bb_gguf *g, const char *key, uint32_t *out, uint64_t n, bool *found, bb_err *err);

/* ---- writing ---- */
typedef struct bb_gguf_out bb_gguf_out;
bb_status bb_gguf_out_create(bb_gguf_out **out, bb_err *err);
void      bb_gguf_out_destroy(bb_gguf_out *out);
/* Keys in call order; a key set twice keeps its place and takes the new value. put_copy borrows key and value until destroy. */
bb_status bb_gguf_put_copy(bb_gguf_out *out, const bb_gguf_kv *kv, bb_err *err);
bb_status bb_gguf_put_u32(bb_gguf_out *out, const char *key, uint32_t v, bb_err *err);
bb_status bb_gguf_put_f32(bb_gguf_out *out, const char *key, float v, bb_err *err);
bb_status bb_gguf_put_bool(bb_gguf_out *out, const char *key, bool v, bb_err *err);
bb_status bb_gguf_put_text(bb_gguf_out *out, const char *key, const char *v, bb_err *err);
bb_status bb_gguf_put_u32_array(bb_gguf_out *out, const char *key, const uint32_t *v, uint64_t n, bb_err *err);
bb_status bb_gguf_put_i32_array(bb_gguf_out *out, const char *key, const int32_t *v, uint64_t n, bb_err *err);
bb_status bb_gguf_put_f32_array(bb_gguf_out *out, const char *key, const float *v, uint64_t n, bb_err *err);
bb_status bb_gguf_put_text_array(bb_gguf_out *out, const char *key, const bb_bytes *v, uint64_t n, bb_err *err);
/* Tensors in call order; data (borrowed until write) may be NULL when only the size is wanted. */
bb_status bb_gguf_put_tensor(bb_gguf_out *out, const bb_tensor *t, bb_err *err);
bb_status bb_gguf_out_size(const bb_gguf_out *out, uint64_t *bytes, bb_err *err); /* exact size of the file that write would make */
bb_status bb_gguf_out_write(const bb_gguf_out *out, const char *path, bb_err *err); /* atomic */

#endif
