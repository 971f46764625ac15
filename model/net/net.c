/* SPDX-License-Identifier: GPL-3.0-or-later
 * net.c: see net.h. */
#include "model/net/net.h"

#include <math.h>

#include "base/status.h"

const bb_sublayer_info bb_sublayers[BB_N_SUBLAYERS] = {
    [BB_ATTENTION] = { "kv", "attention", BB_PART_O, BB_NORM_ATTENTION, BB_NORM_POST_ATTENTION },
    [BB_FFN] = { "ffn", "FFN", BB_PART_DOWN, BB_NORM_FFN, BB_NORM_POST_FFN },
    [BB_TOKEN] = { NULL, "per-layer embedding", BB_PART_TOKEN_OUT, BB_N_NORMS, BB_NORM_POST_TOKEN },
};

const bb_feed_info bb_feeds[BB_N_FEEDS] = {
    [BB_FEED_ATTENTION] = { BB_ATTENTION, BB_DIM_C }, [BB_FEED_HEADS] = { BB_ATTENTION, BB_DIM_HD }, [BB_FEED_FFN] = { BB_FFN, BB_DIM_C },
    [BB_FEED_CHANNELS] = { BB_FFN, BB_DIM_F },        [BB_FEED_TOKEN] = { BB_TOKEN, BB_DIM_C },      [BB_FEED_TOKEN_CHANNELS] = { BB_TOKEN, BB_DIM_P },
};

const bb_part_info bb_parts[BB_N_PARTS] = {
    [BB_PART_Q] = { "attn_q", BB_ATTENTION, BB_FEED_ATTENTION, BB_DIM_HD, BB_DIM_C, true },
    [BB_PART_K] = { "attn_k", BB_ATTENTION, BB_FEED_ATTENTION, BB_DIM_GD, BB_DIM_C, true },
    [BB_PART_V] = { "attn_v", BB_ATTENTION, BB_FEED_ATTENTION, BB_DIM_GD, BB_DIM_C, false },
    [BB_PART_O] = { "attn_output", BB_ATTENTION, BB_FEED_HEADS, BB_DIM_C, BB_DIM_HD, false },
    [BB_PART_GATE] = { "ffn_gate", BB_FFN, BB_FEED_FFN, BB_DIM_F, BB_DIM_C, false },
    [BB_PART_UP] = { "ffn_up", BB_FFN, BB_FEED_FFN, BB_DIM_F, BB_DIM_C, false },
    [BB_PART_DOWN] = { "ffn_down", BB_FFN, BB_FEED_CHANNELS, BB_DIM_C, BB_DIM_F, false },
    [BB_PART_TOKEN_GATE] = { "inp_gate", BB_TOKEN, BB_FEED_TOKEN, BB_DIM_P, BB_DIM_C, false },
    [BB_PART_TOKEN_OUT] = { "proj", BB_TOKEN, BB_FEED_TOKEN_CHANNELS, BB_DIM_C, BB_DIM_P, false },
};

const bb_norm_info bb_norms[BB_N_NORMS] = {
    [BB_NORM_ATTENTION] = { "attn_norm", BB_ATTENTION, BB_PLACE_INPUT, BB_DIM_C },
    [BB_NORM_FFN] = { "ffn_norm", BB_FFN, BB_PLACE_INPUT, BB_DIM_C },
    [BB_NORM_Q] = { "attn_q_norm", BB_ATTENTION, BB_PLACE_Q, BB_DIM_D },
    [BB_NORM_K] = { "attn_k_norm", BB_ATTENTION, BB_PLACE_K, BB_DIM_D },
    [BB_NORM_POST_ATTENTION] = { "post_attention_norm", BB_ATTENTION, BB_PLACE_OUTPUT, BB_DIM_C },
    [BB_NORM_POST_FFN] = { "post_ffw_norm", BB_FFN, BB_PLACE_OUTPUT, BB_DIM_C },
    [BB_NORM_POST_TOKEN] = { "post_norm", BB_TOKEN, BB_PLACE_OUTPUT, BB_DIM_C },
};

const char bb_block_scale_name[] = "layer_output_scale";

const char *const bb_token_names[BB_N_TOKEN_TENSORS] = {
    [BB_TOKEN_TABLE] = "per_layer_token_embd",
    [BB_TOKEN_PROJ] = "per_layer_model_proj",
    [BB_TOKEN_NORM] = "per_layer_proj_norm",
};

float bb_token_proj_scale(const bb_net *n) { return 1 / sqrtf((float)n->n_embd); }

bb_matrix bb_token_proj(const bb_net *n, uint32_t block)
{
    bb_matrix w = n->token.proj;
    w.rows = n->token.width;
    w.data = (const char *)w.data + (size_t)block * w.rows * bb_format_row_bytes(bb_format_get(w.type), w.cols);
    return w;
}

size_t bb_dim_of(const bb_net *net, const bb_block *block, bb_dim dim)
{
    switch (dim) {
    case BB_DIM_C: return net->n_embd;
    case BB_DIM_HD: return (size_t)block->n_head * bb_head_dim(net, block);
    case BB_DIM_GD: return (size_t)block->n_kv * bb_head_dim(net, block);
    case BB_DIM_F: return block->n_ff;
    case BB_DIM_D: return bb_head_dim(net, block);
    case BB_DIM_P: return block->n_token;
    }
    return 0;
}

size_t bb_norm_length(const bb_net *net, const bb_block *block, bb_norm norm)
{
    const bb_norm_place place = bb_norms[norm].place;
    if (net->whole_norms && place == BB_PLACE_Q) return bb_dim_of(net, block, BB_DIM_HD);
    if (net->whole_norms && place == BB_PLACE_K) return bb_dim_of(net, block, BB_DIM_GD);
    return bb_dim_of(net, block, bb_norms[norm].over);
}

void bb_block_keep(const bb_net *net, bb_block *block, bb_sublayer s, uint32_t kept)
{
    BB_ASSERT(kept == 0 || kept == bb_block_kept(block, s) || bb_block_cuttable(block, s));
    if (s == BB_ATTENTION) {
        block->n_head = block->n_kv ? block->n_head / block->n_kv * kept : 0;
        block->n_kv = kept;
    } else if (s == BB_FFN) {
        block->n_ff = kept;
    } else {
        block->n_token = kept;
    }
    block->by_gates[s] = false;
    for (int p = 0; p < BB_N_PARTS; p++) {
        if (bb_parts[p].sublayer != s || (block->lacks >> p & 1)) continue;
        if (kept == 0) block->w[p] = (bb_matrix) { .rows = 0 };
        else if (bb_part_cut_by_rows((bb_part)p)) block->w[p].rows = (uint32_t)bb_dim_of(net, block, bb_parts[p].rows);
        else block->w[p].cols = (uint32_t)bb_dim_of(net, block, bb_parts[p].cols);
    }
    for (int n = 0; n < BB_N_NORMS && kept == 0; n++)
        if (bb_norms[n].sublayer == s) block->norm[n] = NULL;
}

uint32_t bb_part_widest(const bb_net *net, const bb_block *block, bb_part p, uint32_t weights)
{
    if (bb_part_cut_by_rows(p)) return block->w[p].cols % weights == 0 ? bb_part_kept(block, p) : 0;
    if (!bb_block_cuttable(block, bb_parts[p].sublayer)) return block->w[p].cols % weights == 0 ? bb_part_kept(block, p) : 0;
    for (uint32_t kept = bb_part_kept(block, p); kept > 0; kept--) {
        bb_block b = *block;
        bb_block_keep(net, &b, bb_parts[p].sublayer, kept);
        if (b.w[p].cols % weights == 0) return kept;
    }
    return 0;
}
