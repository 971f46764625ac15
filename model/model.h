/* SPDX-License-Identifier: GPL-3.0-or-later
 * model.h: a model file opened: the map, the network read from it, its identity.
 *
 * The net's matrices borrow from the map; norms and biases that are not F32 in the file are decoded into memory that the model owns.
 */
#ifndef BB_MODEL_MODEL_H
#define BB_MODEL_MODEL_H

#include "model/io/source.h"
#include "model/net/net.h"

typedef struct bb_model {
    char     *path;
    bb_source source;
    bb_net    net;      /* as in the file */
    char     *identity; /* owned: what bb_model_sha256 gives; "" until it is first asked for */
    void    **owned;    /* decoded vectors, the block array */
    size_t    n_owned;
} bb_model;

/* Every tensor's shape is checked against the hyperparameters; BB_BAD_FILE / BB_UNSUPPORTED name the tensor or key. */
bb_status bb_model_open(const char *path, bb_model *m, bb_err *err);
void      bb_model_close(bb_model *m);

/* Reads every weight of the file once: a NaN or an infinity, or, with `quantizes`, a weight of a matrix beyond what F16 (and the F16 scales of a
 * block format) can hold, is BB_BAD_FILE with the tensor's name, the place and the value. to: the types that the matrices are to get, in the shapes
 * of m->net (a matrix that keeps its type is not quantized); NULL: any. For commands that quantize or evaluate, before they do. */
bb_status bb_model_check_weights(const bb_model *m, bool quantizes, const bb_net *to, bb_err *err);

/* For commands that compress a model: BB_UNSUPPORTED where it has a matrix of type LC2 (net/lattice.h). */
bb_status bb_model_refuse_lattice(const bb_model *m, bb_err *err);

/* Do the ids of both files stand for the same texts? Else BB_BAD_FILE says what differs: the number of tokens, the tokenizer, the first token. */
bb_status bb_model_same_vocabulary(const bb_model *a, const bb_model *b, bb_err *err);

/* SHA-256 of the whole file in hex (of a rotated model: its own identity); lives as long as m. Opening does not read the file for it: the first
 * call does (seconds for gigabytes). "" for a network made in memory. Thread-safe. */
const char *bb_model_sha256(const bb_model *m);

/* Does a matrix have a type other than F32, F16 and BF16? */
bool bb_model_is_quantized(const bb_model *m);
/* What tables, plots and talk call this model when it is what others are compared with: "full precision", or, where the file is quantized itself,
 * "source (Q4_1)" with the type that holds most of its weights. Returns out. */
enum { BB_MODEL_LABEL = 32 };
const char *bb_model_source_label(const bb_model *m, char out[BB_MODEL_LABEL]);

#endif
