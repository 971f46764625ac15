/* SPDX-License-Identifier: GPL-3.0-or-later
 * turn.h: the fixed orthogonal matrix that spreads n = m 2^k numbers over each other, m odd: a Hadamard matrix H_(2^k) inside each of the m runs of
 * 2^k neighbours, times the m-point cosine transform across them (m > 1). With random signs in front it makes weights incoherent. float64.
 *
 * With p = 2^k the functions below leave the factor 1/sqrt(p) to the caller, who has signs or scales to multiply by anyway. */
#ifndef BB_MODEL_NET_TURN_H
#define BB_MODEL_NET_TURN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct bb_turn {
    uint32_t n, m, p;
    double  *cosine; /* (m, m) orthogonal; NULL: m is 1 */
} bb_turn;

/* BB_UNSUPPORTED: n is 0 or has an odd factor above 255. */
bb_status bb_turn_init(bb_turn *t, uint32_t n, bb_err *err);
void      bb_turn_done(bb_turn *t);
bool      bb_turn_can(uint32_t n);

/* `inner` vectors side by side, entry i of vector c is x[i * step + c]: each becomes sqrt(p) x T, or with `back` sqrt(p) x T'. */
void bb_turn_apply(const bb_turn *t, double *x, size_t step, size_t inner, bool back);
/* The same of d (rows, cols): of all rows (n = cols), and of all columns (n = rows), in parallel; the same bits for any number of threads. */
void bb_turn_rows(const bb_turn *t, double *d, size_t rows, bool back);
void bb_turn_columns(const bb_turn *t, double *d, size_t cols, bool back);

#endif
