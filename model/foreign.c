/* SPDX-License-Identifier: GPL-3.0-or-later
 * foreign.c: metadata keys that change what a network computes and that this program does not compute. See model_internal.h.
 *
 * The list is that of llama.cpp's architecture keys. One that the network computes is read in model.c and not here; one that changes no logit of
 * the architectures read (context of origin, names, pooling, counts of things whose tensors are refused by name) is in neither place. Each row
 * has the values that do nothing. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model_internal.h"
#include "model/net/arch.h"

typedef enum rule {
    ONLY,      /* one of two numbers */
    WINDOW,    /* none, or as long as the context; read by the loader of an architecture that has windows */
    FACTOR,    /* the same; read by the loader of an architecture that has factors */
    ATT_SCALE, /* none, or 1 / sqrt(head size); so is this one */
    YARN,      /* the number that llama.cpp takes where it does not read the key; read by the loader of an architecture that has its own */
    YARN_EXT,  /* what the type says */
    YARN_ATT,  /* what follows from the factor */
    SWITCH,    /* one of two numbers, where RoPE has a switch */
    CAP,       /* none; read by the loader of an architecture that has one */
    SHARED,    /* the same, of blocks that share keys and values */
    TOKEN,     /* and of per-layer embeddings */
    ACTIVATION /* the one that is computed */
} rule;

typedef struct foreign {
    const char *suffix;
    rule        rule;
    double      neutral[2];
} foreign;

static const foreign rows[] = {
    { "rope.scaling.alpha", ONLY, { 0, 1 } },
    { "rope.scaling.yarn_ext_factor", YARN_EXT, { 0, -1 } }, /* -1: what the type says */
    { "rope.scaling.yarn_attn_factor", YARN_ATT, { 1, -1 } },
    { "rope.scaling.yarn_log_multiplier", YARN, { 0, 0 } },
    { "rope.scaling.yarn_beta_fast", YARN, { 32, 32 } },
    { "rope.scaling.yarn_beta_slow", YARN, { 1, 1 } },
    { "rope.scaling.finetuned", SWITCH, { 1, 1 } },
    { "rope.dimension_sections", ONLY, { 0, 0 } },
    { "attention.scale", ATT_SCALE, { 0, 0 } },
    { "attention.output_scale", ONLY, { 0, 1 } },
    { "attention.value_scale", ONLY, { 0, 1 } },
    { "attention.temperature_length", ONLY, { 0, 0 } },
    { "attention.temperature_scale", YARN, { 0, 0 } },
    { "attention.sliding_window", WINDOW, { 0, 0 } },
    { "attention.max_alibi_bias", ONLY, { 0, 0 } },
    { "attention.clamp_kqv", ONLY, { 0, 0 } },
    { "attention.causal", ONLY, { 1, 1 } },
    { "attention.q_lora_rank", ONLY, { 0, 0 } },
    { "attention.kv_lora_rank", ONLY, { 0, 0 } },
    { "attention.key_length_mla", ONLY, { 0, 0 } },
    { "attention.value_length_mla", ONLY, { 0, 0 } },
    { "attention.relative_buckets_count", ONLY, { 0, 0 } },
    { "attention.indexer.top_k", ONLY, { 0, 0 } },
    { "attention.shared_kv_layers", SHARED, { 0, 0 } },
    { "attention.recurrent_layers", ONLY, { 0, 0 } },
    { "attention.compress_ratios", ONLY, { 0, 1 } },
    { "attn_logit_softcapping", ONLY, { 0, 0 } },
    { "final_logit_softcapping", CAP, { 0, 0 } },
    { "router_logit_softcapping", ONLY, { 0, 0 } },
    { "logit_scale", FACTOR, { 0, 1 } },
    { "residual_scale", FACTOR, { 0, 1 } },
    { "embedding_scale", FACTOR, { 0, 1 } },
    { "embedding_length_per_layer_input", TOKEN, { 0, 0 } },
    { "use_parallel_residual", ONLY, { 0, 0 } },
    { "hidden_activation", ACTIVATION, { 0, 0 } },
    { "swiglu_clamp_exp", ONLY, { 0, 0 } },
    { "swiglu_clamp_shexp", ONLY, { 0, 0 } },
    { "swin_norm", ONLY, { 0, 0 } },
    { "rescale_every_n_layers", ONLY, { 0, 0 } },
    { "nextn_predict_layers", ONLY, { 0, 0 } },
    { "n_deepstack_layers", ONLY, { 0, 0 } },
    { "deepstack_mapping", ONLY, { -1, -1 } },
    { "token_shift_count", ONLY, { 0, 0 } },
    { "full_attention_interval", ONLY, { 0, 1 } },
    { "decoder_block_count", ONLY, { 0, 0 } },
    { "hyper_connection.count", ONLY, { 0, 1 } },
    { "hash_layer_count", ONLY, { 0, 0 } },
    { "expert_count", ONLY, { 0, 0 } },
    { "expert_shared_count", ONLY, { 0, 0 } },
    { "ssm.state_size", ONLY, { 0, 0 } },
};

static bool is(double x, double neutral) { return fabs(x - neutral) <= 1e-6 * fmax(1, fabs(neutral)); } /* false for NaN */

static double yarn_attention(const bb_net *net) { return net->yarn ? 1 - 0.1 * log((double)net->rope_freq_scale) : 1; }

static bool does_nothing(const foreign *f, const bb_net *net, double x)
{
    if (f->rule == WINDOW) return x <= 0 || x >= net->n_ctx_train;
    if (f->rule == ATT_SCALE) return is(x, 0) || fabs(x * sqrt(net->head_dim) - 1) <= 1e-5;
    if (f->rule == YARN_EXT) return is(x, net->yarn) || is(x, -1);
    if (f->rule == YARN_ATT) return is(x, -1) || fabs(x - yarn_attention(net)) <= 1e-4;
    return is(x, f->neutral[0]) || is(x, f->neutral[1]);
}

/* Read by the loader of the architecture, or of no meaning to it. */
static bool is_read(const foreign *f, const bb_arch *arch)
{
    if (f->rule == SWITCH) return !arch->rope_switch;
    if (f->rule == WINDOW) return arch->no_window || arch->window_every;
    if (f->rule == YARN) return arch->own_yarn;
    if (f->rule == CAP) return arch->capped;
    if (f->rule == SHARED) return arch->shared_keys;
    if (f->rule == TOKEN) return arch->token_inputs;
    return arch->factors && (f->rule == FACTOR || f->rule == ATT_SCALE);
}

static bool names_gate(const bb_key *kv, bb_gate gate)
{
    static const struct {
        const char *name;
        bb_gate     gate;
    } names[] = {
        { "silu", BB_GATE_SILU }, { "swish", BB_GATE_SILU }, { "swiglu", BB_GATE_SILU }, { "gelu_pytorch_tanh", BB_GATE_GELU }, { "gelu", BB_GATE_GELU }
    };
    for (size_t i = 0; kv->kind == BB_KIND_STRING && i < sizeof names / sizeof *names; i++)
        if (names[i].gate == gate && kv->value_bytes == strlen(names[i].name) && memcmp(kv->value, names[i].name, strlen(names[i].name)) == 0) return true;
    return false;
}

static bb_status refuse(const foreign *f, const bb_net *net, const char *key, const char *value, bb_err *err)
{
    char right[64];
    if (f->rule == WINDOW) snprintf(right, sizeof right, "0 or at least the context of %u", net->n_ctx_train);
    else if (f->rule == ATT_SCALE) snprintf(right, sizeof right, "%.6g for this head size", 1 / sqrt(net->head_dim));
    else if (f->rule == ACTIVATION) snprintf(right, sizeof right, "%s", net->gate == BB_GATE_GELU ? "gelu_pytorch_tanh" : "silu");
    else if (f->rule == YARN_EXT) snprintf(right, sizeof right, "%d", net->yarn);
    else if (f->rule == YARN_ATT) snprintf(right, sizeof right, "%.6g", yarn_attention(net));
    else if (is(f->neutral[0], f->neutral[1])) snprintf(right, sizeof right, "%g", f->neutral[0]);
    else snprintf(right, sizeof right, "%g or %g", f->neutral[0], f->neutral[1]);
    return BB_FAIL(err, BB_UNSUPPORTED, "metadata key '%s' is %s, which changes what the model computes and is not supported; %s is", key, value, right);
}

bb_status bb_model_refuse_foreign(const bb_source *g, const char *arch, const bb_net *net, bb_err *err)
{
    char key[128], value[BB_SHOWN + 2], shown[BB_SHOWN];
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        const bb_key *kv;
        snprintf(key, sizeof key, "%s.%s", arch, rows[r].suffix);
        if (!(kv = bb_source_find(g, key)) || is_read(&rows[r], net->arch)) continue;
        if (rows[r].rule == ACTIVATION && names_gate(kv, net->gate)) continue;
        if (kv->kind == BB_KIND_STRING) {
            snprintf(value, sizeof value, "'%s'", bb_show((bb_bytes) { (const char *)kv->value, kv->value_bytes }, shown));
            return refuse(&rows[r], net, key, value, err);
        }
        for (uint64_t i = 0; i < kv->count; i++) {
            const bb_kind kind = kv->kind == BB_KIND_ARRAY ? kv->element : kv->kind;
            const double  x = bb_kind_number(kind, kv->value + i * bb_kind_bytes(kind)); /* NaN for a text, which no rule for numbers allows */
            if (rows[r].rule != ACTIVATION && does_nothing(&rows[r], net, x)) continue;
            snprintf(value, sizeof value, "%.9g", x);
            return refuse(&rows[r], net, key, value, err);
        }
    }
    return BB_OK;
}
