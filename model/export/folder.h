/* SPDX-License-Identifier: GPL-3.0-or-later
 * folder.h: a model as a Hugging Face folder, quantized matrices in the layout of compressed-tensors ("pack-quantized"), which vLLM and transformers load.
 *
 * The numbers are those of the model: integers as they are, scales as F16, nothing is rounded again. What that layout does not have is refused: it has
 * integers of 4 and 8 bits with a scale for 32 of them (Q4_0, Q8_0), and matrices in F16, BF16 and F32. Embedding and head have no packed form: F16
 * where it holds all their numbers exactly, else F32. Layout: docs/formats.md.
 */
#ifndef BB_MODEL_EXPORT_FOLDER_H
#define BB_MODEL_EXPORT_FOLDER_H

#include "base/text.h"
#include "model/model.h"

/* Whether it can be written: BB_UNSUPPORTED names what cannot. from: as below. */
bb_status bb_export_folder_check(const bb_model *m, const char *from, bb_err *err);
/* Bytes of model.safetensors, of a model that can be written. */
bb_status bb_export_folder_bytes(const bb_model *m, const char *from, uint64_t *bytes, bb_err *err);
/* Writes model.safetensors and config.json (last) into dir, which is made. from: the folder that the model comes from, whose config.json is taken over
 * and whose tokenizer files are copied; NULL: config.json is made from the model's keys. notes: sentences for the user, one a line. */
bb_status bb_export_folder_write(const bb_model *m, const char *from, const char *dir, bb_text *notes, bb_err *err);

#endif
