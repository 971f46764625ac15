/* SPDX-License-Identifier: GPL-3.0-or-later
 * imatrix.h: importance matrices as llama.cpp's llama-imatrix writes them: for each matrix the mean square of every input, the diagonal of its second
 * moments. Both layouts are read (GGUF with general.type "imatrix", and the older .dat); GGUF is written. */
#ifndef BB_MODEL_IO_IMATRIX_H
#define BB_MODEL_IO_IMATRIX_H

#include "model/io/gguf.h"

typedef struct bb_importance {
    char     name[65]; /* of the tensor, "blk.0.attn_q.weight" */
    uint64_t n;        /* values: the columns of the matrix */
    float   *mean;     /* [n] owned; NULL: nothing was counted, or all is zero: it says nothing */
} bb_importance;

typedef struct bb_imatrix {
    bb_importance *entries;
    size_t         n;
    char           sha256[65]; /* of the file */
} bb_imatrix;

/* The file is untrusted: BB_BAD_FILE names what is wrong (a length, a value that is negative or no number, a name twice, sums without counts). Entries of
 * several experts are BB_UNSUPPORTED. */
bb_status bb_imatrix_load(const char *path, bb_imatrix *out, bb_err *err);
void      bb_imatrix_done(bb_imatrix *m);
/* NULL: there is none of that name. */
const bb_importance *bb_imatrix_find(const bb_imatrix *m, const char *name);

/* ---- writing ---- */

/* mean (n) times `count` tokens, as the tensors NAME.in_sum2 and NAME.counts, into a list that has the keys of bb_imatrix_keys. What the tensors point
 * at is `sums` (n) and `counts` (1), of the caller, until the list is written. */
bb_status bb_imatrix_keys(bb_gguf_out *out, const char *dataset, uint32_t chunks, uint32_t chunk_size, bb_err *err);
bb_status bb_imatrix_put(bb_gguf_out *out, const char *name, const float *sums, const float *counts, uint64_t n, bb_err *err);

#endif
