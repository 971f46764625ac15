/* SPDX-License-Identifier: GPL-3.0-or-later
 * source.h: where a model comes from, as everything behind the reader sees it: metadata keys, tensors, and a few things that only the reader can do
 * (release pages, say what the whole is known by). A reader fills it in (gguf.h is one); loader, checks, statistics, exporter know this struct alone.
 *
 * Keys and tensors have the names, the value kinds and the layouts (rows, order of rotated heads, types) of GGUF, whatever the files are: a reader of
 * another format translates. All of it is checked by the reader against the bytes that are there: lengths, unique names, whole blocks.
 */
#ifndef BB_MODEL_IO_SOURCE_H
#define BB_MODEL_IO_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "kernels/format.h"

typedef enum bb_kind {
    BB_KIND_U8,
    BB_KIND_I8,
    BB_KIND_U16,
    BB_KIND_I16,
    BB_KIND_U32,
    BB_KIND_I32,
    BB_KIND_F32,
    BB_KIND_BOOL,
    BB_KIND_STRING,
    BB_KIND_ARRAY,
    BB_KIND_U64,
    BB_KIND_I64,
    BB_KIND_F64
} bb_kind;

typedef struct bb_bytes {
    const char *data;
    uint64_t    size;
} bb_bytes; /* borrowed, not NUL-terminated */

typedef struct bb_key {
    bb_bytes             key;
    bb_kind              kind; /* BB_KIND_ARRAY: element kind and count below */
    bb_kind              element;
    uint64_t             count; /* 1 for scalars */
    const unsigned char *value;
    uint64_t             value_bytes; /* raw little-endian bytes (of a string: its text; of an array: the elements, strings with their length) */
    bb_bytes            *strings;     /* owned index of a string array; NULL otherwise */
} bb_key;

typedef struct bb_tensor {
    char        name[65];
    bb_type     type;
    uint32_t    n_dims;
    uint64_t    ne[4]; /* ne[0] = row length (inputs), ne[1] = rows (outputs); unused dims are 1 */
    uint64_t    size_bytes;
    const void *data; /* borrowed until bb_source_close */
} bb_tensor;

typedef struct bb_source bb_source;

/* What a reader can do with what it has filled in; a row each. */
typedef struct bb_reader {
    const char *name; /* of the format, as people call it */
    /* Is it one whole model, that can be read as this program reads? BB_UNSUPPORTED says what it is instead. */
    bb_status (*whole)(const bb_source *s, bb_err *err);
    /* The pages of block `layer` will not be read soon (n_layer: of what is outside of blocks): they may go, and come back when they are touched. A
     * reader whose blocks lie in one map may give all of it back. */
    void (*release)(const bb_source *s, uint32_t layer);
    void (*hash)(const bb_source *s, bb_sha256 *h); /* adds all bytes that the model depends on */
    void (*close)(bb_source *s);                    /* `self`; the arrays are freed by bb_source_close */
} bb_reader;

struct bb_source {
    const bb_reader *reader;
    void            *self;       /* the reader's own */
    uint32_t         version;    /* of the format */
    uint32_t         n_files;    /* that hold tensors */
    uint64_t         size_bytes; /* of all files together */
    uint64_t         n_kv, n_tensors;
    bb_key          *kv;                      /* in file order */
    bb_tensor       *tensors;                 /* in file order */
    uint64_t        *kv_order, *tensor_order; /* [n_kv], [n_tensors] places by name, for look-up; NULL (a source made by hand): all are looked through */
};

/* Opens whatever the path names; a file or folder that is no model is BB_BAD_FILE with what it is instead. */
bb_status bb_source_open(const char *path, bb_source *s, bb_err *err);
void      bb_source_close(bb_source *s);
/* What a path may say about a model that could not be loaded, to be put behind the sentence; "" when nothing. */
const char *bb_source_hint(const char *path, const bb_source *s);
/* Is the file one of those that the model named by path is read from, or would be? So nothing is written over it. */
bool bb_source_has_file(const char *path, const char *file);

bb_status bb_source_whole(const bb_source *s, bb_err *err);
void      bb_source_release(const bb_source *s, uint32_t layer);
void      bb_source_hash(const bb_source *s, bb_sha256 *h);

const bb_key    *bb_source_find(const bb_source *s, const char *key);    /* NULL when absent */
const bb_tensor *bb_source_tensor(const bb_source *s, const char *name); /* NULL when absent */
/* Typed getters: *found (may be NULL: then absence is BB_BAD_FILE). Any integer kind is accepted where it fits; a wrong kind is BB_BAD_FILE. */
bb_status bb_source_u32(const bb_source *s, const char *key, uint32_t *out, bool *found, bb_err *err);
bb_status bb_source_f32(const bb_source *s, const char *key, float *out, bool *found, bb_err *err);
bb_status bb_source_bool(const bb_source *s, const char *key, bool *out, bool *found, bb_err *err);
bb_status bb_source_text(const bb_source *s, const char *key, bb_bytes *out, bool *found, bb_err *err);
/* Scalar or array of exactly n entries into out[n] (a scalar is repeated): llama.cpp's per-layer keys. */
bb_status bb_source_u32_array(const bb_source *s, const char *key, uint32_t *out, uint64_t n, bool *found, bb_err *err);

/* attention.sliding_window_pattern as one number: the period p by which block i has a window if i % p < p - 1; `usual` where that is right, else the
 * least; 0: there is none. */
uint32_t bb_window_period(const bool *has, uint32_t n_layer, uint32_t usual);

/* ---- for readers ---- */

/* The look-up order of keys and tensors; one that occurs twice is BB_BAD_FILE. */
bb_status bb_source_index(bb_source *s, bb_err *err);
unsigned  bb_kind_bytes(bb_kind kind);                          /* of one scalar; 0 for strings, arrays and unknown kinds */
double    bb_kind_number(bb_kind kind, const unsigned char *p); /* the scalar at p, rounded to float64; NaN for strings, arrays and unknown kinds */
/* Untrusted bytes made fit for a terminal: cut to fit, everything but printable ASCII replaced by '?'. Returns out. */
enum { BB_SHOWN = 80 };
const char *bb_show(bb_bytes b, char out[BB_SHOWN]);

#endif
