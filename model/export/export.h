/* SPDX-License-Identifier: GPL-3.0-or-later
 * export.h: a network to a GGUF file that llama.cpp loads, and the exact size of that file without writing it.
 *
 * Uniform shapes keep the source architecture; pruned shapes become arch `deci` (a tied qwen3: `openelm`) with the traps avoided:
 * key_length, value_length and rope.dimension_count always written; a removed FFN on a block that keeps attention is a 1-wide zero
 * FFN; removed attention in block 0 is one zero head; qwen2's rope order is permuted; a block without both sublayers is left out, so
 * the file's block numbers may be smaller than the plan's. The metadata of the source (tokenizer and the rest) is carried over.
 */
#ifndef BB_MODEL_EXPORT_EXPORT_H
#define BB_MODEL_EXPORT_EXPORT_H

#include "model/model.h"

bb_status bb_export_size(const bb_model *source, const bb_net *net, uint64_t *bytes, bb_err *err); /* net's data may be NULL */
/* plan_hash (NULL: 16 zeros) is stored as the key bitbudget.plan; it always has 16 digits, so the size above is exact. */
bb_status bb_export_write(const bb_model *source, const bb_net *net, const char *plan_hash, const char *path, bb_err *err);
/* BB_OK when the runtime can load this shape and these types; BB_UNSUPPORTED with the reason otherwise. */
bb_status bb_export_check(const bb_model *source, const bb_net *net, bb_err *err);

#endif
