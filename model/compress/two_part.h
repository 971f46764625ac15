/* SPDX-License-Identifier: GPL-3.0-or-later
 * two_part.h: a matrix in two precisions: some of its columns in a low one, the others in a high one, each part packed for itself.
 *
 * Quantized with error feedback, low columns first: what the high ones can make up of the low ones' errors they do. With H the second moments of the input,
 * parted into columns l and h, the best change of W_h for an error D of W_l is -D H_lh H_hh^-1, and the loss that is left is of D alone, under the Schur
 * complement H_ll - H_lh H_hh^-1 H_hl. So the low part is quantized by bb_quantize under that, the high part then under H_hh towards W_h - D H_lh H_hh^-1:
 * the order of GPTQ with its columns sorted, in two calls. Bytes and layout: channels.h.
 */
#ifndef BB_MODEL_COMPRESS_TWO_PART_H
#define BB_MODEL_COMPRESS_TWO_PART_H

#include "model/compress/channels.h"
#include "model/compress/compress.h"

enum { BB_LOW, BB_HIGH, BB_TWO };

typedef struct bb_two_part {
    uint32_t       rows, cols;
    bool           mixed;     /* a bit a column is stored, also where all are in one part */
    uint32_t       n[BB_TWO]; /* columns of each part */
    bb_type        type[BB_TWO];
    uint32_t      *column;         /* [cols] where in the row: those of the low part ascending, then those of the high part */
    unsigned char *packed[BB_TWO]; /* rows of whole blocks, filled up with columns that are not there; NULL: none */
} bb_two_part;

/* w (rows, cols); high [cols]: which columns are of high precision, NULL: there is one precision, the low one. h may be NULL: no feedback. Zero columns are a
 * matrix of no bytes but its bits. */
bb_status bb_two_part_quantize(const float *w, uint32_t rows, uint32_t cols, const unsigned char *high, const bb_hessian *h, bb_type low_type,
                               bb_type high_type, const bb_quant_options *o, bb_two_part *out, bb_err *err);
void      bb_two_part_done(bb_two_part *t);

/* w (rows, cols), with a stride of ld. */
void bb_two_part_decode(const bb_two_part *t, float *w, size_t ld);

/* Its bytes, as channels.h counts them; and from them, for the same shape and types. BB_BAD_FILE: they are not as many. */
size_t    bb_two_part_bytes(const bb_two_part *t);
void      bb_two_part_write(const bb_two_part *t, unsigned char *bytes);
bb_status bb_two_part_read(const unsigned char *bytes, size_t n_bytes, uint32_t rows, uint32_t cols, bool mixed, bb_type low_type, bb_type high_type,
                           bb_two_part *out, bb_err *err);

#endif
