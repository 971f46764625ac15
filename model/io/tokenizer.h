/* SPDX-License-Identifier: GPL-3.0-or-later
 * tokenizer.h: text to token ids and back, from GGUF metadata: SentencePiece-BPE with byte fallback ("llama"), byte-level BPE
 * ("gpt2" with the pre-tokenizers of Llama 3, Qwen 2, GPT-2 and those that llama.cpp treats the same).
 * Reproduces llama.cpp's ids. Thread-safe after creation.
 */
#ifndef BB_MODEL_IO_TOKENIZER_H
#define BB_MODEL_IO_TOKENIZER_H

#include "model/io/source.h"

typedef struct bb_tokenizer bb_tokenizer;

bb_status bb_tokenizer_create(const bb_source *g, bb_tokenizer **out, bb_err *err); /* borrows g; BB_UNSUPPORTED names the model or pre-tokenizer */
void      bb_tokenizer_destroy(bb_tokenizer *t);
uint32_t  bb_tokenizer_n_vocab(const bb_tokenizer *t);
int32_t   bb_tokenizer_bos(const bb_tokenizer *t);      /* -1 when none */
bool      bb_tokenizer_adds_bos(const bb_tokenizer *t); /* does llama.cpp put BOS first for this vocabulary? */
/* Does this token end what a model writes? EOS, end of turn and message as the metadata and llama.cpp's list of texts say. */
bool bb_tokenizer_ends(const bb_tokenizer *t, int32_t id);
/* ids is freed with bb_free. add_special: BOS (and EOS where the vocabulary says so) as the metadata asks.
 * parse_special: text of control and user-defined tokens ("<s>", "<|eot|>") becomes that token. */
bb_status bb_tokenize(const bb_tokenizer *t, const char *text, size_t size, bool add_special, bool parse_special, int32_t **ids, size_t *n_ids, bb_err *err);
bb_status bb_detokenize(const bb_tokenizer *t, const int32_t *ids, size_t n_ids, char **text, size_t *size, bb_err *err);

#endif
