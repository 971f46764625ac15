/* SPDX-License-Identifier: GPL-3.0-or-later
 * feedback.h: error feedback inside a format's own grid, for bands of rows; what BB_METHOD_FEEDBACK is made of. Internal to compress/. */
#ifndef BB_MODEL_COMPRESS_FEEDBACK_H
#define BB_MODEL_COMPRESS_FEEDBACK_H

#include "kernels/columns.h"
#include "kernels/kernels.h"
#include "model/compress/factor.h"

enum { BB_BAND = 4 * BB_FORMAT_ROWS, BB_MAX_LEVELS = 256 }; /* most rows worked on together; they are the parallel pieces */

/* Everything about (format, Hessian) that the rows share; read-only while rows are worked on. */
typedef struct bb_feedback {
    const bb_format  *format;
    const bb_factor  *factor;
    bb_local          local;      /* per group of the format */
    const float      *importance; /* [n] diagonal of H, for fits */
    const bb_kernels *kernels;
    bb_levels         levels;              /* of a scalar grid; borrows mid, step */
    float             mid[BB_MAX_LEVELS];  /* [n_levels-1] thresholds between levels */
    float             step[BB_MAX_LEVELS]; /* [n_levels-1] level[i+1] - level[i] */
    int               sc_min, sc_max;      /* range of the sc field; equal: the format has none */
    int               mn_min, mn_max;
    bool              refits;         /* a block's second fit is for given codes */
    unsigned          n_fits, sweeps; /* fits a block in the first pass (at least 1); passes after it */
} bb_feedback;

bb_status bb_feedback_init(bb_feedback *p, const bb_format *format, const bb_factor *factor, const float *importance, unsigned sweeps, bb_err *err);
void      bb_feedback_done(bb_feedback *p);

/* Scratch of one thread for up to n_rows <= BB_BAND rows of matrices with p's columns. */
typedef struct bb_band bb_band;
bb_band               *bb_band_create(const bb_feedback *p, uint32_t n_rows);
void                   bb_band_destroy(bb_band *b);

/* Quantizes as many rows of w (row-major, finite) as the band was made for, or fewer, into packed. */
void bb_feedback_rows(const bb_feedback *p, bb_band *b, const float *w, uint32_t n_rows, unsigned char *packed);

/* bb_quantize with the factor of h at hand (NULL: without feedback), so that matrices on one input share it. */
bb_status bb_quantize_prepared(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const bb_factor *factor, bb_type type,
                               const bb_quant_options *o, void *packed, bb_quant_stats *stats, bb_err *err);

enum { BB_QUANTIZE_FLOATS = 16 << 20 };
/* The same, to the same bytes, of a matrix as it lies in a file, so many of its weights at a time: it is never in memory as floats. */
bb_status bb_quantize_matrix(const bb_matrix *from, const bb_hessian *h, const bb_factor *factor, bb_type type, const bb_quant_options *o, void *packed,
                             bb_quant_stats *stats, bb_err *err);

/* The same with rows that answer for each other (coupling.h): g (rows, rows) is the metric of their errors, damped by g_damping times the mean of its diagonal; BB_NUMERIC where it has no factor. The same bytes for any number of threads. */
bb_status bb_quantize_coupled(const float *w, uint32_t rows, uint32_t cols, const bb_hessian *h, const bb_factor *factor, const float *g, double g_damping,
                              bb_type type, const bb_quant_options *o, void *packed, bb_err *err);

#endif
