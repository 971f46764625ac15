/* SPDX-License-Identifier: GPL-3.0-or-later
 * toga.h: a network made with masks over its channels (model/tune/toga.h), as TOGA makes it and as what it is compared with does: masks learned or chosen,
 * frozen, and then every linear quantized with error feedback, block by block on the inputs that the blocks before it give (model/compress/two_part.h).
 */
#ifndef BB_ENGINE_TOGA_H
#define BB_ENGINE_TOGA_H

#include "eval/evaluate.h"
#include "model/compress/two_part.h"
#include "model/tune/toga.h"

/* Which columns are of high precision. */
typedef enum bb_toga_precision {
    BB_TOGA_LEARNED,     /* by the hypernetwork */
    BB_TOGA_ACTIVATIONS, /* a share of each matrix: those whose inputs are largest, by root mean square (PTQ1.61 goes by their maximum) */
    BB_TOGA_HESSIAN,     /* a share: those that cost most to do without, by sum of w^2 / (H^-1)_ii (BiLLM) */
    BB_TOGA_LOW          /* none: there is one precision */
} bb_toga_precision;
#define BB_TOGA_PRECISIONS "learned|activations|hessian|none" /* in the enum's order */
#define BB_TOGA_PRUNINGS "nothing|channels|all"               /* bb_pruning */
bb_toga_precision bb_toga_precision_named(const char *name);
bb_pruning        bb_toga_pruning_named(const char *name);

typedef struct bb_toga_job {
    const bb_model   *model; /* borrowed, as all here */
    bb_type           low, high, embd;
    bb_toga_precision precision;
    double            salient; /* share of the columns of each matrix; learned: share of all weights, if there is no target */
    uint64_t          target;  /* bytes of all as a file; 0: none */
    bb_quant_options  quant;
    bb_toga_options   learning; /* pruning, whole, kept and what training needs; the rest is set here */
    bb_toga_text      text;
    bb_windows        calibration;
} bb_toga_job;

typedef struct bb_toga_made {
    bb_net       net; /* to be run: dense float32 matrices */
    bb_channels  c;
    bb_two_part *part;   /* [n_layer * BB_N_PARTS] as stored; rows 0 or cols 0: nothing */
    uint64_t     bytes;  /* what a file of it would have: the source's keys, vectors and tables, and the linears as channels.h counts them */
    double       kept;   /* share of the linears' weights */
    double       tokens; /* forwarded to learn and to calibrate; a backward pass counts two */
    void        *table;  /* embedding and head, packed */
    float       *dense;
} bb_toga_made;

/* What is wrong with the options, before any work. */
bb_status bb_toga_check(const bb_toga_job *j, bb_err *err);
/* Can a file of it be loaded by a runtime? Else BB_UNSUPPORTED says what is in the way. */
bb_status bb_toga_check_export(const bb_toga_job *j, bb_err *err);

/* did, self: as bb_toga_run. made: zero-initialised or not; bb_toga_made_done when it was BB_OK. */
bb_status bb_toga_make(const bb_toga_job *j, void (*did)(void *self, const bb_toga_step *step), void *self, bb_toga_made *made, bb_err *err);
void      bb_toga_made_done(bb_toga_made *made);

/* As a file, where bb_toga_check_export allows it: the parts' own bytes. */
bb_status bb_toga_export(const bb_toga_job *j, const bb_toga_made *made, const char *calib_sha256, uint64_t calib_tokens, const char *path, bb_err *err);

#endif
