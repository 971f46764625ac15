/* SPDX-License-Identifier: GPL-3.0-or-later
 * statistics.h: second moments and mask orders of every block and of the head, on disk, one file a block. Internal to compress/.
 *
 * bb_statistics_open computes what is missing (block by block on the full-precision network, resumable at any kill) and
 * maps the files; their matrices stay on disk until they are touched.
 */
#ifndef BB_MODEL_COMPRESS_STATISTICS_H
#define BB_MODEL_COMPRESS_STATISTICS_H

#include "base/file.h"
#include "model/compress/compress.h"
#include "model/model.h"

typedef struct bb_block_statistics {
    bb_map          map;
    bb_hessian      in[BB_N_FEEDS];      /* h borrows from the map. The head has in[0] only */
    uint32_t        n_ff, n_kv;          /* lengths of the orders; 0: none */
    const uint32_t *ff_order, *kv_order; /* kept longest first */
    const double   *ff_error, *kv_error; /* as bb_mask_order gives them */
} bb_block_statistics;

typedef struct bb_statistics {
    uint32_t             n_layer;
    char                 tokens_hash[65]; /* of the windows themselves: which of a text are taken is the caller's choice */
    bb_block_statistics *blocks;          /* [n_layer + 1]: the last is the input of the head, after the output norm */
} bb_statistics;

typedef struct bb_statistics_config {
    const char       *dir;
    const bb_model   *model;
    const bb_backend *backend;
    const int32_t    *tokens; /* [n_windows * ctx] */
    uint32_t          n_windows, ctx, ffn_step;
    bool              unordered; /* no orders of KV groups and FFN channels: n_ff and n_kv are 0 */
} bb_statistics_config;

bb_status bb_statistics_open(const bb_statistics_config *config, bb_statistics *s, bb_err *err);
void      bb_statistics_close(bb_statistics *s);

/* w (rows, cols) := the weights of m as float32; BB_NOMEM. Freed with bb_free. */
float *bb_matrix_decode(const bb_matrix *m, bb_err *err);

#endif
