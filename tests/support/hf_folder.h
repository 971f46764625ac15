/* SPDX-License-Identifier: GPL-3.0-or-later
 * hf_folder.h: a model of ours as the Hugging Face folder that it would come from, for tests; written from the layout's definition, with none of the
 * reader's code. */
#ifndef BB_TESTS_SUPPORT_HF_FOLDER_H
#define BB_TESTS_SUPPORT_HF_FOLDER_H

#include <stddef.h>

/* Writes model.safetensors (n_shards > 1: so many files and their index), config.json and tokenizer.model of a llama, qwen2, qwen3 or smollm3 GGUF with a
 * SentencePiece vocabulary into the folder dir, which is made. more: further members of config.json ("\"a\": 1, "). Aborts on an error. */
void hf_write(const char *gguf, const char *dir, unsigned n_shards, const char *more);

#endif
