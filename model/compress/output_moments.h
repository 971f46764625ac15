/* SPDX-License-Identifier: GPL-3.0-or-later
 * output_moments.h: the second moments G of the gradients at the outputs of every linear, as a file that is mapped: what the end of the network feels of errors of its rows, and
 * of two rows together (eval/output_moments.h measures them).
 *
 * File, little endian: 8 bytes magic; for every block, the last one first, and part a triangle G[i][i..rows-1], i = 0 .. rows-1, of floats, one after the other. */
#ifndef BB_MODEL_COMPRESS_OUTPUT_MOMENTS_H
#define BB_MODEL_COMPRESS_OUTPUT_MOMENTS_H

#include <stdio.h>

#include "base/file.h"
#include "model/net/net.h"

/* A part with more rows has none: rows of the largest models are alone. */
enum { BB_OUTPUT_ROWS = 4096 };

typedef struct bb_output_moments {
    char    name[65]; /* of all that they depend on */
    double  damping;  /* with which they are to be used, times the mean of the diagonal */
    bb_map  map;
    size_t *at; /* [n_layer * BB_N_PARTS] bytes from the file's beginning; owned */
} bb_output_moments;

/* BB_BAD_FILE when there is no such file, or it is of another network. */
bb_status bb_output_moments_open(const char *path, const char *name, const bb_net *net, bb_output_moments *out, bb_err *err);
void      bb_output_moments_done(bb_output_moments *m);

bool bb_output_moments_has(const bb_net *net, uint32_t layer, bb_part part);
/* g (n, n) := G of a part's rows row[0 .. n-1]; NULL: all. */
void bb_output_moments_read(const bb_output_moments *m, uint32_t layer, bb_part part, uint32_t rows, const uint32_t *row, uint32_t n, float *g);

/* Writing: begins a file; adds the next part that has them, g (rows, rows). before: what n - 1 measurements gave on the average, g being the n-th: the mean of all is
 * added (NULL: g). */
bb_status bb_output_moments_begin(FILE *f, bb_err *err);
bb_status bb_output_moments_add(FILE *f, const bb_output_moments *before, uint32_t n, uint32_t layer, bb_part part, const float *g, uint32_t rows, bb_err *err);

#endif
