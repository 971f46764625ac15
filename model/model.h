/* SPDX-License-Identifier: GPL-3.0-or-later
 * model.h: a model file opened: the map, the network read from it, its identity.
 *
 * The net's matrices borrow from the map; norms and biases that are not F32 in the file are decoded into memory that the model owns.
 */
#ifndef BB_MODEL_MODEL_H
#define BB_MODEL_MODEL_H

#include "model/io/gguf.h"
#include "model/net/net.h"

typedef struct bb_model {
    char    *path;
    bb_gguf  gguf;
    bb_net   net;        /* as in the file */
    char     sha256[65]; /* of the whole file */
    void   **owned;      /* decoded vectors, the block array */
    size_t   n_owned;
} bb_model;

/* Every tensor's shape is checked against the hyperparameters; BB_BAD_FILE / BB_UNSUPPORTED name the tensor or key. */
bb_status bb_model_open(const char *path, bb_model *m, bb_err *err);
void      bb_model_close(bb_model *m);

#endif
