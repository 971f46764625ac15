/* SPDX-License-Identifier: GPL-3.0-or-later
 * tensor_types.h: the type of every matrix of a model, from one format, from another file, or from a recipe, as a plan. */
#ifndef BB_ENGINE_TENSOR_TYPES_H
#define BB_ENGINE_TENSOR_TYPES_H

#include "base/plan.h"
#include "model/model.h"

/* Later ones win: format and embd_format (empty or NULL: none); like, a GGUF file of the same shapes; recipe, a file of items PATTERN=TYPE as
 * llama-quantize takes with --tensor-type-file (and `bitbudget export --recipe` writes): a pattern is a regular expression searched in tensor names
 * ("blk.0.attn_q.weight"), the first one that fits wins. Matrices that none of them names stay as they are. Where a format's block does not divide
 * the rows, bb_format_for_row says what is taken instead, and one line in the log says of how many matrices. */
typedef struct bb_tensor_types {
    const char *format, *embd_format, *like, *recipe;
    bool        experimental; /* formats that stock llama.cpp does not read may be named */
} bb_tensor_types;

bb_status bb_tensor_types_plan(const bb_tensor_types *t, const bb_model *m, bb_plan *plan, bb_err *err);

/* The format of that name; one that stock llama.cpp does not read where it is allowed. BB_USAGE, naming the option: what to use instead of one of llama-quantize's mixtures (Q4_K_M), or all names that there are. */
bb_status bb_format_named(const char *option, const char *name, bool experimental, const bb_format **f, bb_err *err);

#define BB_EXPERIMENTAL_HELP \
    "allow IQ2_NL and IQ3_NL (2.5 and 3.5 bits, blocks of 32), which a branch of llama.cpp reads and stock llama.cpp does not; in the default lists where " \
    "256 " \
    "does not divide the rows"

/* Is a recipe's pattern found in text? BB_BAD_FILE: it is no regular expression, or takes too long. */
bb_status bb_pattern_found(const char *pattern, const char *text, bool *found, bb_err *err);

#endif
