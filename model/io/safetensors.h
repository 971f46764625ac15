/* SPDX-License-Identifier: GPL-3.0-or-later
 * safetensors.h: reads one safetensors file (memory-mapped; every length and offset checked). Layout: docs/formats.md.
 *
 * The file is untrusted: any bad byte gives BB_BAD_FILE with one sentence, never a crash.
 */
#ifndef BB_MODEL_IO_SAFETENSORS_H
#define BB_MODEL_IO_SAFETENSORS_H

#include "base/file.h"
#include "kernels/format.h"

typedef struct bb_safetensor {
    char       *name; /* owned by the file */
    bb_type     type; /* BB_F32, BB_F16 or BB_BF16 */
    uint32_t    n_dims;
    uint64_t    shape[4]; /* as the file has it: rows first; unused are 1 */
    uint64_t    size_bytes;
    const void *data; /* borrowed until close; aligned to what the file says, which may be nothing */
} bb_safetensor;

typedef struct bb_safetensors {
    bb_map         map;
    bb_safetensor *tensors;
    size_t         n_tensors;
} bb_safetensors;

/* BB_UNSUPPORTED: a tensor of another type than F32, F16 and BF16, by name. */
bb_status bb_safetensors_open(const char *path, bb_safetensors *s, bb_err *err);
/* The same from bytes in memory that outlive s. */
bb_status bb_safetensors_parse(const unsigned char *data, size_t size, bb_safetensors *s, bb_err *err);
void      bb_safetensors_close(bb_safetensors *s);

#endif
