/* SPDX-License-Identifier: GPL-3.0-or-later
 * guarded.h: a backend as far from the host as a test can make it: buffers are numbers that nobody can read through, new memory is full of NaN
 * and has guards around it, every access is checked against its bounds, what is peeked at is a copy, and weights are copies made at their first
 * use. Its arithmetic is the CPU backend's, so whatever runs on both must give the same bits. A wrong use ends the program.
 */
#ifndef BB_TESTS_GUARDED_H
#define BB_TESTS_GUARDED_H

#include "model/net/backend.h"

typedef struct guarded_array {
    float *memory;
    size_t n;
} guarded_array; /* memory NULL: released */
typedef struct guarded_weights {
    const void *data;
    bb_matrix   copy;
} guarded_weights; /* data: where the host has them */

typedef struct guarded {
    bb_backend        backend;
    guarded_array    *arrays; /* number k of a buffer is arrays[k - 1]; never given twice */
    size_t            n_arrays;
    guarded_weights **weights;
    size_t            n_weights, n_peeked;
} guarded;

void guarded_make(guarded *g);
void guarded_done(guarded *g); /* nothing may be left in it */

/* A new buffer with the numbers of a host array, and the numbers of a buffer into one, which releases it. */
bb_buffer guarded_put(guarded *g, const float *host, size_t n);
void      guarded_take(guarded *g, bb_buffer buffer, float *host, size_t n);

#endif
