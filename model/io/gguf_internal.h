/* SPDX-License-Identifier: GPL-3.0-or-later
 * gguf_internal.h: what the reader and the writer of GGUF share: sizes of tensors and of what a list takes. */
#ifndef BB_MODEL_IO_GGUF_INTERNAL_H
#define BB_MODEL_IO_GGUF_INTERNAL_H

#include "model/io/gguf.h"

enum { BB_GGUF_MAX_NAME = 63, BB_GGUF_DEFAULT_ALIGNMENT = 32 };

/* Weights and bytes of one block; false for a type that this program does not know. */
bool bb_gguf_block(uint32_t type, uint32_t *block, uint32_t *block_bytes);

/* Bytes of a tensor's data from its type and ne: BB_BAD_FILE on overflow or a row that is not a whole number of blocks,
 * BB_UNSUPPORTED for an unknown type. */
bb_status bb_gguf_tensor_bytes(const bb_tensor *t, uint64_t *bytes, bb_err *err);

/* Is it a model, laid out as this program reads one? BB_UNSUPPORTED says what it is instead. */
bb_status bb_gguf_usable(const bb_source *s, bb_err *err);

/* What a list takes: bytes of its header before the padding, keys and tensors each, and of its tensors' data, every tensor padded to the alignment. */
typedef struct bb_gguf_bytes {
    uint64_t keys, infos, data, n_tensors;
} bb_gguf_bytes;
enum { BB_GGUF_START = 4 + 4 + 8 + 8 }; /* magic, version, number of tensors, number of keys */
bb_status bb_gguf_out_bytes(const bb_gguf_out *out, uint32_t alignment, bb_gguf_bytes *bytes, bb_err *err);
bb_status bb_gguf_out_alignment(const bb_gguf_out *out, uint32_t *alignment, bb_err *err);

/* false on overflow; alignment a power of two. Here, because the sizes of plans are counted with it. */
static inline bool bb_gguf_pad(uint64_t at, uint32_t alignment, uint64_t *padded)
{
    const uint64_t mask = (uint64_t)alignment - 1;
    if (at > UINT64_MAX - mask) return false;
    *padded = (at + mask) & ~mask;
    return true;
}

#endif
