/* SPDX-License-Identifier: GPL-3.0-or-later
 * gguf.h: read (v2, v3; memory-mapped; every length and offset checked) and write (v3; atomic) GGUF files.
 *
 * The file is untrusted: any bad byte gives BB_BAD_FILE with one sentence, never a crash. Layout: docs/formats.md.
 */
#ifndef BB_MODEL_IO_GGUF_H
#define BB_MODEL_IO_GGUF_H

#include "base/file.h"
#include "base/status.h"
#include "model/io/source.h"

/* Fills s in; the fields of s->reader and s->version say "GGUF" and which. */
bb_status bb_gguf_open(const char *path, bb_source *s, bb_err *err);
/* The same from bytes in memory that outlive s (for tests and fuzzing). bb_source_close then frees the index only. */
bb_status bb_gguf_parse(const unsigned char *data, size_t size, bb_source *s, bb_err *err);
/* s: as bb_gguf_open has filled it in from path. When it is a part of a split model, s becomes the whole: all parts are found by their names. A part that is
 * missing, that says it is another, or that repeats a tensor is BB_BAD_FILE. s is closed on failure. */
bb_status bb_gguf_gather(const char *path, bb_source *s, bb_err *err);
/* STEM-00002-of-00003.gguf: *stem bytes, *part 2 (from 1), *of 3; false for other names. */
bool bb_gguf_part_name(const char *path, size_t *stem, uint32_t *part, uint32_t *of);
/* Of a source that one file or piece of memory has filled in: the map of its file (empty for bytes in memory), the alignment of its tensors' data. */
const bb_map *bb_gguf_map(const bb_source *s);
uint32_t      bb_gguf_alignment(const bb_source *s);

/* ---- writing ---- */
typedef struct bb_gguf_out bb_gguf_out;
bb_status                  bb_gguf_out_create(bb_gguf_out **out, bb_err *err);
void                       bb_gguf_out_destroy(bb_gguf_out *out);
/* Keys in call order; a key set twice keeps its place and takes the new value. put_copy borrows key and value until destroy. */
bb_status bb_gguf_put_copy(bb_gguf_out *out, const bb_key *kv, bb_err *err);
bb_status bb_gguf_put_u32(bb_gguf_out *out, const char *key, uint32_t v, bb_err *err);
bb_status bb_gguf_put_u64(bb_gguf_out *out, const char *key, uint64_t v, bb_err *err);
bb_status bb_gguf_put_f32(bb_gguf_out *out, const char *key, float v, bb_err *err);
bb_status bb_gguf_put_bool(bb_gguf_out *out, const char *key, bool v, bb_err *err);
bb_status bb_gguf_put_text(bb_gguf_out *out, const char *key, const char *v, bb_err *err);
bb_status bb_gguf_put_u32_array(bb_gguf_out *out, const char *key, const uint32_t *v, uint64_t n, bb_err *err);
bb_status bb_gguf_put_i32_array(bb_gguf_out *out, const char *key, const int32_t *v, uint64_t n, bb_err *err);
bb_status bb_gguf_put_f32_array(bb_gguf_out *out, const char *key, const float *v, uint64_t n, bb_err *err);
bb_status bb_gguf_put_text_array(bb_gguf_out *out, const char *key, const bb_bytes *v, uint64_t n, bb_err *err);
/* Tensors in call order; data (borrowed until write) may be NULL when only the size is wanted. */
bb_status bb_gguf_put_tensor(bb_gguf_out *out, const bb_tensor *t, bb_err *err);
bb_status bb_gguf_out_size(const bb_gguf_out *out, uint64_t *bytes, bb_err *err);   /* exact size of the file that write would make */
bb_status bb_gguf_out_write(const bb_gguf_out *out, const char *path, bb_err *err); /* atomic */
/* For readers of other formats: fills kv, tensors and their order in *s, whose reader and self stay. What they point at is the list's: it must outlive s. */
bb_status bb_gguf_out_source(const bb_gguf_out *out, bb_source *s, bb_err *err);

#endif
