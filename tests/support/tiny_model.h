/* SPDX-License-Identifier: GPL-3.0-or-later
 * tiny_model.h: random small models as GGUF files, for tests: any shape that bb_net can say, a small valid SentencePiece vocabulary.
 *
 *   tiny_spec s = tiny_default("llama");     two layers, 32 wide, 4 heads on 2 KV heads, FFN 64, F32, tied
 *   s.n_ff[1] = 96; s.arch = "deci";         change what the test is about
 *   tiny_write(&s, path);                    writes the file, aborts on an error
 *
 * The same spec gives the same bytes. Weights are normal with deviation 1/sqrt(columns) (embeddings 1, or 0.2 when tied), norms near 1, biases small.
 */
#ifndef BB_TESTS_SUPPORT_TINY_MODEL_H
#define BB_TESTS_SUPPORT_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/format.h"
#include "model/net/net.h"

enum { TINY_MAX_LAYERS = 16, TINY_MIN_VOCAB = 288 };
#define TINY_SHARED "gemma4 shared" /* for tiny_default: a gemma4 like E2B, six blocks of which two take keys and values */

typedef struct tiny_spec {
    const char *arch; /* a name in bb_archs; smollm3 has five layers then, gemma3 and gemma4 four, and an olmo2 is not tied */
    uint32_t    n_layer, n_embd, head_dim, n_vocab, n_ctx;
    uint32_t    n_head[TINY_MAX_LAYERS], n_kv[TINY_MAX_LAYERS], n_ff[TINY_MAX_LAYERS]; /* 0 heads or 0 width: sublayer absent (deci) */
    bb_type     type[TINY_MAX_LAYERS][BB_N_PARTS];
    bb_type     embd_type, head_type, norm_type; /* norm_type: also of biases and rope factors */
    bool        tied, qkv_bias, o_bias, ffn_bias;
    bool        rope_factors; /* rope_freqs.weight; of phi3 rope_factors_short.weight and rope_factors_long.weight */
    bool        proportional; /* its factors are 1 for half of the pairs and 1e30 for the others */
    float       rope_scaling; /* factor; 0: no key */
    const char *rope_type;    /* of the scaling; NULL: linear where there is a factor */
    uint32_t    rope_context; /* the context before it was extended; 0: no key */
    float       magnitude;    /* rope.scaling.attn_factor; 0: no key */
    uint32_t    n_rot;        /* 0: head_dim */
    float       temperature;  /* of mistral3; 0: no key */
    float       rope_base, norm_eps;
    float       factors[4];           /* granite: of embeddings, attention, residual stream, logits (a divisor); 0: no key */
    uint32_t    window, window_every; /* gemma3: keys that blocks see, but each so-manieth; 0: no key */
    float       local_base;           /* of RoPE in blocks with a window; 0: no key */
    uint32_t    local_head_dim;       /* gemma4: of blocks with a window */
    float       logit_cap;            /* gemma3, gemma4; 0: no key */
    bool        values_of_keys;       /* gemma4: blocks without a window have no attn_v */
    bool        block_scales;         /* gemma4: layer_output_scale in each block */
    uint32_t    shared;               /* gemma4: last blocks that take keys and values of earlier ones; 0: no key */
    bool        unread;               /* and that have attn_k, attn_v and attn_k_norm all the same */
    uint32_t    token_width;          /* gemma4: per-layer embeddings, their numbers a block; 0: no key */
    bb_type     table_type, proj_type;
    bool        arrays;       /* per-layer keys as arrays even where all layers are equal */
    bool        minimal_keys; /* leaves out every key that has a default */
    uint32_t    alignment;    /* general.alignment; 0: no key */
    uint64_t    seed;
} tiny_spec;

tiny_spec tiny_default(const char *arch);            /* or TINY_SHARED */
void      tiny_set_type(tiny_spec *s, bb_type type); /* every block matrix, embedding and head */
void      tiny_write(const tiny_spec *s, const char *path);

/* Bytes that decode to finite weights in every format: no half among them is Inf or NaN. */
void tiny_random_bytes(void *bytes, size_t n, const char *stream);

#endif
