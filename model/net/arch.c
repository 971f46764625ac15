/* SPDX-License-Identifier: GPL-3.0-or-later
 * arch.c: see arch.h. Facts of llama.cpp's loaders and graphs: docs/formats.md. */
#include "model/net/arch.h"

#include <math.h>
#include <string.h>

#include "base/status.h"

#define PRE_NORMS (BB_SET(BB_NORM_ATTENTION) | BB_SET(BB_NORM_FFN))
#define POST_NORMS (BB_SET(BB_NORM_POST_ATTENTION) | BB_SET(BB_NORM_POST_FFN))
#define HEAD_NORMS (BB_SET(BB_NORM_Q) | BB_SET(BB_NORM_K))
#define ALL_COUNTS (BB_SET(BB_COUNT_HEADS) | BB_SET(BB_COUNT_KV) | BB_SET(BB_COUNT_FF))
#define BOTH (BB_SET(BB_ATTENTION) | BB_SET(BB_FFN))

const bb_arch bb_archs[] = {
    { .name = "llama", .whole_heads = true, .norms = PRE_NORMS, .rope_factors = true, .separate_head = true, .attention_biases = true, .pruned = "deci" },
    { .name = "qwen2", .neox = true, .norms = PRE_NORMS, .separate_head = true, .attention_biases = true, .square_attention = true, .pruned = "deci" },
    { .name = "qwen3", .neox = true, .norms = PRE_NORMS | HEAD_NORMS, .separate_head = true, .attention_biases = true, .pruned = "openelm" },
    { .name = "deci",
      .whole_heads = true,
      .norms = PRE_NORMS,
      .arrays = ALL_COUNTS,
      .optional = BOTH,
      .rope_factors = true,
      .separate_head = true,
      .attention_biases = true,
      .first = BB_SET(BB_ATTENTION),
      .pruned = "deci" },
    { .name = "openelm",
      .neox = true,
      .norms = PRE_NORMS | HEAD_NORMS,
      .arrays = ALL_COUNTS,
      .fused = { [BB_FEED_ATTENTION] = "attn_qkv" },
      .always = BB_SET(BB_ATTENTION),
      .pruned = "openelm" },
    { .name = "smollm3", .no_rope_every = 4, .norms = PRE_NORMS, .separate_head = true, .attention_biases = true, .alone = "blocks without RoPE" },
    { .name = "granite",
      .whole_heads = true,
      .factors = true,
      .norms = PRE_NORMS,
      .rope_switch = true,
      .rope_factors = true,
      .separate_head = true,
      .attention_biases = true,
      .alone = "the factors of its embeddings, attention, residual stream and logits" },
    { .name = "phi3",
      .neox = true,
      .norms = PRE_NORMS,
      .two_factors = true,
      .no_window = true,
      .separate_head = true,
      .square_attention = true,
      .fused = { [BB_FEED_ATTENTION] = "attn_qkv", [BB_FEED_FFN] = "ffn_up" },
      .pruned = "deci" },
    { .name = "mistral3",
      .whole_heads = true,
      .norms = PRE_NORMS,
      .rope_factors = true,
      .own_yarn = true,
      .separate_head = true,
      .attention_biases = true,
      .alone = "the temperature of its attention" },
    { .name = "gemma3",
      .neox = true,
      .embd_root = true,
      .gate = BB_GATE_GELU,
      .window_every = 6,
      .capped = true,
      .wide_scale_at = 62, /* the 27B: its loader tells it by the number of blocks */
      .norms = PRE_NORMS | HEAD_NORMS | POST_NORMS,
      .separate_head = true,
      .attention_biases = true,
      .alone = "norms of what its sublayers give and windows in some of its blocks" },
    { .name = "olmo2",
      .neox = true,
      .whole_heads = true,
      .norms = HEAD_NORMS | POST_NORMS,
      .whole_norms = true,
      .separate_head = true,
      .needs_head = true,
      .attention_biases = true,
      .square_attention = true,
      .alone = "norms of what its sublayers give" },
    { .name = "gemma4",
      .neox = true,
      .embd_root = true,
      .gate = BB_GATE_GELU,
      .window_every = 6,
      .own_kinds = true,
      .unit_scores = true,
      .value_norms = true,
      .capped = true,
      .norms = PRE_NORMS | HEAD_NORMS | POST_NORMS | BB_SET(BB_NORM_POST_TOKEN),
      .arrays = ALL_COUNTS,
      .rope_factors = true,
      .separate_head = true,
      .values_of_keys = true,
      .shared_keys = true,
      .token_inputs = true,
      .block_scales = true,
      .always = BB_SET(BB_ATTENTION),
      .pruned = "gemma4" },
};
const size_t bb_n_archs = sizeof bb_archs / sizeof *bb_archs;

const char *const bb_count_keys[BB_N_COUNTS] = {
    [BB_COUNT_HEADS] = "attention.head_count",
    [BB_COUNT_KV] = "attention.head_count_kv",
    [BB_COUNT_FF] = "feed_forward_length",
};

float bb_arch_query_scale(const bb_arch *arch, uint32_t n_layer, uint32_t n_embd, uint32_t n_head, uint32_t head_dim)
{
    const uint32_t width = n_head ? n_embd / n_head : 0; /* whole, as the loader has it */
    return arch->wide_scale_at && n_layer == arch->wide_scale_at && width ? (float)sqrt((double)head_dim / (double)width) : 0;
}

const bb_arch *bb_arch_find(const char *name, size_t length)
{
    for (size_t i = 0; i < bb_n_archs; i++)
        if (strlen(bb_archs[i].name) == length && memcmp(bb_archs[i].name, name, length) == 0) return &bb_archs[i];
    return NULL;
}

const bb_arch *bb_arch_named(const char *name)
{
    const bb_arch *arch = bb_arch_find(name, strlen(name));
    BB_ASSERT(arch);
    return arch;
}

const bb_arch *bb_arch_for_pruned(const bb_arch *arch) { return arch->pruned ? bb_arch_named(arch->pruned) : NULL; }

bool bb_arch_takes_outside(const bb_arch *arch, const bb_net *net)
{
    return (arch->separate_head || !net->head.rows) && (!arch->whole_heads || net->n_rot == net->head_dim);
}

bool bb_arch_takes_mixed(const bb_net *net)
{
    const bb_arch *to = bb_arch_for_pruned(net->arch);
    bool           fused = false;
    if (!to || to == net->arch || !bb_arch_takes_outside(to, net)) return false;
    for (int f = 0; f < BB_N_FEEDS; f++) {
        if (to->fused[f]) return false;
        fused |= net->arch->fused[f] != NULL;
    }
    return fused;
}
