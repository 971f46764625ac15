/* SPDX-License-Identifier: GPL-3.0-or-later
 * hf.h: reads a Hugging Face folder (config.json, *.safetensors, tokenizer files) as a source with GGUF's names, kinds and layouts, as llama.cpp's
 * converter would write them (docs/formats.md says where we do otherwise). To add an architecture: a row of `archs` in hf_config.c.
 */
#ifndef BB_MODEL_IO_HF_H
#define BB_MODEL_IO_HF_H

#include "model/io/source.h"

/* BB_BAD_FILE, BB_UNSUPPORTED: the sentence names the file and what was found in it. Rows of q and k that GGUF has in another order, and vectors, are
 * copies in memory; all other tensors are in the mapped files. */
bb_status bb_hf_open(const char *folder, bb_source *s, bb_err *err);
bool      bb_hf_is_folder(const char *path); /* is there a config.json in it? */

#endif
