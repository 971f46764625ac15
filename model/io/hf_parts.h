/* SPDX-License-Identifier: GPL-3.0-or-later
 * hf_parts.h: what the files of the Hugging Face reader share: hf.c (tensors, the source), hf_config.c (config.json), hf_tokenizer.c (vocabulary),
 * hf_spm.c (SentencePiece models).
 */
#ifndef BB_MODEL_IO_HF_PARTS_H
#define BB_MODEL_IO_HF_PARTS_H

#include <jansson.h>

#include "model/io/gguf.h"

/* A kind of model that config.json may name; a row each (hf_config.c). */
typedef struct bb_hf_arch {
    const char *model_type;    /* of config.json */
    const char *arch;          /* general.architecture */
    bool        pairs;         /* GGUF has the rows of q and k of a head in RoPE's pairs (2i, 2i+1); the folder always has halves (i, i + D/2) */
    bool        factors;       /* those of Granite */
    bool        two_factors;   /* RoPE of type longrope, with factors for short and for long contexts; the keys that Phi-3 has, and no others */
    bool        own_yarn;      /* RoPE of type yarn, always, with keys of its own (Ministral 3) */
    bool        as_said;       /* beside tokenizer.model: added tokens are control tokens where they are called special, whatever they look like */
    bool        post_norms;    /* post_attention_layernorm is of what attention gives; else of what the FFN reads */
    bool        norms_less_1;  /* norms are kept without the 1 that is added to them */
    bool        own_kinds;     /* blocks without a window have another size of heads and number of KV heads; attention is not scaled; tokens merge as
                                  characters (Gemma 4) */
    bool        windows;       /* some blocks have a window and RoPE by another base; GELU; a scale of attention that must be the usual one (Gemma 3) */
    uint32_t    no_rope_every; /* 4: the fourth block, the eighth, ... has no RoPE, which is all that GGUF can say; 0: every block has */
    bool        tied;          /* what config.json means where it does not say: 'tie_word_embeddings', */
    double      rope_theta;    /* and this, */
    uint32_t    n_head, n_kv, head_dim, n_vocab, context; /* and these; 0: config.json must say it, or it follows from others */
} bb_hf_arch;

const bb_hf_arch *bb_hf_arch_at(size_t i); /* all of them; NULL behind the last */

/* What the tensors need to know of config.json. */
typedef struct bb_hf_config {
    const bb_hf_arch *arch;
    uint32_t          n_layer, n_embd, n_ff, n_head, n_kv, head_dim, head_dim_full, n_rot, n_vocab,
        context; /* head_dim_full: of blocks without a window, where they have their own */
    bool   tied;
    bool   nested;       /* the text model is a part of the folder's: config.json has it in text_config, and its tensors have longer names */
    float *rope_factors; /* [n_rot / 2] frequency divisors of Llama 3, or of short contexts, or NULL; owned */
    float *rope_long;    /* [n_rot / 2] those of long contexts, or NULL; owned */
} bb_hf_config;

/* Reads FOLDER/NAME as a JSON object; json_decref it. BB_NOT_FOUND without a sentence: there is no such file. */
bb_status bb_hf_json(const char *folder, const char *name, json_t **out, bb_err *err);

/* root: config.json. Puts the keys of the architecture into out. */
bb_status bb_hf_config_read(const json_t *root, bb_hf_config *c, bb_gguf_out *out, bb_err *err);
/* That of the language model: config.json itself, or its text_config. */
const json_t *bb_hf_text_config(const json_t *root);

/* Puts the keys of the tokenizer into out. root: config.json. */
bb_status bb_hf_tokenizer_read(const char *folder, const json_t *root, const bb_hf_config *c, bb_gguf_out *out, bb_err *err);

/* token_type of GGUF */
typedef enum bb_token_type { BB_TOKEN_NORMAL = 1, BB_TOKEN_UNKNOWN, BB_TOKEN_CONTROL, BB_TOKEN_USER, BB_TOKEN_UNUSED, BB_TOKEN_BYTE } bb_token_type;

/* A vocabulary being put together: texts are owned copies. */
typedef struct bb_hf_vocab {
    uint32_t n;
    char   **text; /* [n]; NULL: no token has this number yet */
    float   *score;
    int32_t *type;
    bool     as_said; /* see bb_hf_arch */
} bb_hf_vocab;

bb_status bb_hf_vocab_create(bb_hf_vocab *v, uint32_t n, bb_err *err);
void      bb_hf_vocab_done(bb_hf_vocab *v);
bb_status bb_hf_vocab_put(bb_hf_vocab *v, uint64_t id, const char *text, size_t size, float score, bb_token_type type, bb_err *err);

/* A SentencePiece model (tokenizer.model): its pieces into v. Ids beyond v->n are BB_BAD_FILE. *prefix: is a space put before the text? */
bb_status bb_hf_spm_read(const unsigned char *data, size_t size, bb_hf_vocab *v, bool *prefix, bb_err *err);

#endif
