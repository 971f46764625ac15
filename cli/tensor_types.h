/* SPDX-License-Identifier: GPL-3.0-or-later
 * tensor_types.h: the type of every matrix of a model, from one format, from another file, or from a recipe, as a plan. */
#ifndef BB_CLI_TENSOR_TYPES_H
#define BB_CLI_TENSOR_TYPES_H

#include "base/plan.h"
#include "model/model.h"

/* Later ones win: format and embd_format (empty or NULL: none); like, a GGUF file of the same shapes; recipe, a file of lines PATTERN=TYPE as
 * llama-quantize takes with --tensor-type-file (and `bitbudget export --recipe` writes): a pattern is searched in tensor names
 * ("blk.0.attn_q.weight"), the last one that fits wins. Matrices that none of them names stay as they are. */
typedef struct bb_tensor_types { const char *format, *embd_format, *like, *recipe; } bb_tensor_types;

bb_status bb_tensor_types_plan(const bb_tensor_types *t, const bb_model *m, bb_plan *plan, bb_err *err);

/* Is pattern found in text? Literal characters, . * ^ $ and \ before any of them, as in regular expressions; *valid false (and no match) for
 * anything that would mean more than that there: ( ) [ ] { } | + ?. */
bool bb_pattern_found(const char *pattern, const char *text, bool *valid);

#endif
