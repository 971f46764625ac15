/* SPDX-License-Identifier: GPL-3.0-or-later
 * tiny_model.c: see tiny_model.h. */
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "model/io/gguf.h"
#include "model/io/gguf_internal.h"
#include "model/net/arch.h"

/* Used outside of Check as well (fuzzing), hence no ck_assert. */
static void must_at(bool ok, int line)
{
    if (ok) return;
    fprintf(stderr, "tiny_model.c:%d: the model cannot be made\n", line);
    abort();
}
#define must(x) must_at((x), __LINE__)

typedef struct maker {
    const tiny_spec *spec;
    bb_gguf_out     *out;
    void            *owned[20 + TINY_MAX_LAYERS * 20];
    size_t           n_owned;
} maker;

tiny_spec tiny_default(const char *name)
{
    const bool  shared = strcmp(name, TINY_SHARED) == 0;
    const char *arch = shared ? "gemma4" : name;
    tiny_spec   s = { .arch = arch,
                      .n_layer = 2,
                      .n_embd = 32,
                      .head_dim = 8,
                      .n_vocab = 320,
                      .n_ctx = 128,
                      .embd_type = BB_F32,
                      .head_type = BB_F32,
                      .norm_type = BB_F32,
                      .table_type = BB_F32,
                      .proj_type = BB_F32,
                      .tied = true,
                      .rope_base = 10000.0f,
                      .norm_eps = 1e-5f,
                      .factors = { 1.5f, 0.2f, 0.4f, 1.6f },
                      .seed = 1 };
    for (int i = 0; i < TINY_MAX_LAYERS; i++) {
        s.n_head[i] = 4;
        s.n_kv[i] = 2;
        s.n_ff[i] = 64;
    }
    s.qkv_bias = strcmp(arch, "qwen2") == 0;
    if (strcmp(arch, "smollm3") == 0) s.n_layer = 5; /* the fourth is the one without RoPE */
    if (bb_arch_named(arch)->needs_head) s.tied = false;
    if (strcmp(arch, "phi3") == 0) {
        s.rope_factors = true;
        s.rope_context = 64;
        s.magnitude = 1.2f;
    }
    if (strcmp(arch, "mistral3") == 0) {
        s.rope_type = "yarn";
        s.rope_scaling = 4;
        s.rope_context = 32;
        s.temperature = 0.1f;
    }
    if (strcmp(arch, "gemma3") == 0) { /* the second and the fourth see all */
        s.n_layer = 4;
        s.window = 12;
        s.window_every = 2;
        s.local_base = 500;
    }
    if (strcmp(arch, "gemma4") == 0) { /* so do these, with heads twice as large, and one KV head for all in the fourth */
        s.n_layer = 4;
        s.window = 12;
        s.window_every = 2;
        s.local_base = 500;
        s.head_dim = 16;
        s.local_head_dim = 8;
        s.n_kv[3] = 1;
        s.rope_factors = s.values_of_keys = s.block_scales = true;
        s.logit_cap = 5;
    }
    if (shared) {
        s.n_layer = 6;
        s.n_kv[3] = 2;
        s.shared = 2;
        s.token_width = 32;
        s.values_of_keys = false;
        s.n_ff[4] = s.n_ff[5] = 128;
    }
    tiny_set_type(&s, BB_F32);
    return s;
}

void tiny_set_type(tiny_spec *s, bb_type type)
{
    for (int i = 0; i < TINY_MAX_LAYERS; i++)
        for (int p = 0; p < BB_N_PARTS; p++) s->type[i][p] = type;
    s->embd_type = s->head_type = s->table_type = type;
}

/* ---- tensors ---- */

void tiny_random_bytes(void *bytes, size_t n, const char *stream)
{
    unsigned char *p = bytes;
    bb_rng         rng;
    bb_rng_init(&rng, 7, stream);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = bb_rng_u64(&rng) & UINT64_C(0x3737373737373737);
        memcpy(p + i, &word, n - i < 8 ? n - i : 8);
    }
}

/* Formats without an encoder (yet) get random bytes. */
static void encode_row(bb_type type, const float *w, void *row, size_t n, size_t row_bytes, const char *name)
{
    const bb_format *f = bb_format_get(type);
    if (f && f->encode) f->encode(w, NULL, row, n);
    else tiny_random_bytes(row, row_bytes, name);
}

/* mean + deviation * normal; columns = ne0, rows = ne1 (0: a vector). One random stream a tensor name. */
static void put_tensor(maker *m, const char *name, bb_type type, uint32_t columns, uint32_t rows, double mean, double deviation)
{
    bb_tensor t = { .type = type, .n_dims = rows ? 2 : 1, .ne = { columns, rows ? rows : 1, 1, 1 } };
    uint64_t  bytes, row_bytes;
    float    *w = BB_NEW(columns, float, NULL);
    char     *data;
    bb_rng    rng;
    snprintf(t.name, sizeof t.name, "%s", name);
    must(bb_gguf_tensor_bytes(&t, &bytes, NULL) == BB_OK);
    row_bytes = bytes / t.ne[1];
    data = bb_alloc((size_t)bytes, 1, NULL);
    must(w && data && m->n_owned < sizeof m->owned / sizeof *m->owned);
    bb_rng_init(&rng, m->spec->seed, name);
    for (uint64_t r = 0; r < t.ne[1]; r++) {
        for (uint32_t i = 0; i < columns; i++) w[i] = (float)(mean + deviation * bb_rng_normal(&rng));
        encode_row(type, w, data + r * row_bytes, columns, (size_t)row_bytes, name);
    }
    bb_free(w);
    t.data = m->owned[m->n_owned++] = data;
    must(bb_gguf_put_tensor(m->out, &t, NULL) == BB_OK);
}

static void put_proportional(maker *m)
{
    const uint32_t n = m->spec->head_dim / 2;
    bb_tensor      t = { .name = "rope_freqs.weight", .type = BB_F32, .n_dims = 1, .ne = { n, 1, 1, 1 } };
    float         *w = BB_NEW(n, float, NULL);
    must(w && m->n_owned < sizeof m->owned / sizeof *m->owned);
    for (uint32_t i = 0; i < n; i++) w[i] = i < n / 2 ? 1 : 1e30f;
    t.data = m->owned[m->n_owned++] = w;
    must(bb_gguf_put_tensor(m->out, &t, NULL) == BB_OK);
}

static void put_matrix(maker *m, uint32_t layer, bb_part part, uint32_t rows, uint32_t columns, bool bias)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, bb_parts[part].name);
    put_tensor(m, name, m->spec->type[layer][part], columns, rows, 0.0, 1.0 / sqrt(columns));
    if (!bias) return;
    snprintf(name, sizeof name, "blk.%u.%s.bias", layer, bb_parts[part].name);
    put_tensor(m, name, m->spec->norm_type, rows, 0, 0.0, 0.1);
}

/* The one tensor of all parts with a feed, of the type of the first. */
static void put_fused(maker *m, uint32_t layer, bb_feed feed, uint32_t rows, uint32_t columns)
{
    char name[64];
    int  part = 0;
    while (bb_parts[part].feed != feed) part++;
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, bb_arch_named(m->spec->arch)->fused[feed]);
    put_tensor(m, name, m->spec->type[layer][part], columns, rows, 0.0, 1.0 / sqrt(columns));
}

static void put_norm(maker *m, uint32_t layer, const char *what, uint32_t n)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, what);
    put_tensor(m, name, m->spec->norm_type, n, 0, 1.0, 0.1);
}

/* Is it one of the other kind? */
static bool has_window(const tiny_spec *s, uint32_t i) { return s->window && s->window_every && (i + 1) % s->window_every != 0; }

static void put_block(maker *m, uint32_t i)
{
    const tiny_spec *s = m->spec;
    const bb_arch   *arch = bb_arch_named(s->arch);
    const unsigned   norms = arch->norms;
    const bool       local = has_window(s, i), keys = i < s->n_layer - s->shared || s->unread;
    const uint32_t   d = local && s->local_head_dim ? s->local_head_dim : s->head_dim;
    uint32_t         c = s->n_embd, q = s->n_head[i] * d, kv = s->n_kv[i] * d, f = s->n_ff[i];
    if (q) {
        if (norms & BB_SET(BB_NORM_ATTENTION)) put_norm(m, i, "attn_norm", c);
        if (bb_arch_named(s->arch)->fused[BB_FEED_ATTENTION]) put_fused(m, i, BB_FEED_ATTENTION, q + 2 * kv, c);
        else {
            put_matrix(m, i, BB_PART_Q, q, c, s->qkv_bias);
            if (keys) put_matrix(m, i, BB_PART_K, kv, c, s->qkv_bias);
            if (keys && (!s->values_of_keys || local)) put_matrix(m, i, BB_PART_V, kv, c, s->qkv_bias);
        }
        put_matrix(m, i, BB_PART_O, c, q, s->o_bias);
        if (norms & BB_SET(BB_NORM_Q)) {
            put_norm(m, i, "attn_q_norm", arch->whole_norms ? q : d);
            if (keys) put_norm(m, i, "attn_k_norm", arch->whole_norms ? kv : d);
        }
        if (norms & BB_SET(BB_NORM_POST_ATTENTION)) put_norm(m, i, "post_attention_norm", c);
    }
    if (f) {
        if (norms & BB_SET(BB_NORM_FFN)) put_norm(m, i, "ffn_norm", c);
        if (bb_arch_named(s->arch)->fused[BB_FEED_FFN]) put_fused(m, i, BB_FEED_FFN, 2 * f, c);
        else {
            put_matrix(m, i, BB_PART_GATE, f, c, s->ffn_bias);
            put_matrix(m, i, BB_PART_UP, f, c, s->ffn_bias);
        }
        put_matrix(m, i, BB_PART_DOWN, c, f, s->ffn_bias);
        if (norms & BB_SET(BB_NORM_POST_FFN)) put_norm(m, i, "post_ffw_norm", c);
    }
    if (s->token_width) {
        put_matrix(m, i, BB_PART_TOKEN_GATE, s->token_width, c, false);
        put_matrix(m, i, BB_PART_TOKEN_OUT, c, s->token_width, false);
        put_norm(m, i, "post_norm", c);
    }
    if (s->block_scales) put_norm(m, i, bb_block_scale_name, 1);
}

/* ---- metadata ---- */

static void key_u32(maker *m, const char *suffix, uint32_t v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", m->spec->arch, suffix);
    must(bb_gguf_put_u32(m->out, key, v, NULL) == BB_OK);
}

static void key_f32(maker *m, const char *suffix, float v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", m->spec->arch, suffix);
    must(bb_gguf_put_f32(m->out, key, v, NULL) == BB_OK);
}

static void key_layers(maker *m, const char *suffix, const uint32_t *v)
{
    bool equal = !m->spec->arrays;
    char key[96];
    for (uint32_t i = 1; i < m->spec->n_layer; i++) equal &= v[i] == v[0];
    snprintf(key, sizeof key, "%s.%s", m->spec->arch, suffix);
    if (equal) must(bb_gguf_put_u32(m->out, key, v[0], NULL) == BB_OK);
    else must(bb_gguf_put_u32_array(m->out, key, v, m->spec->n_layer, NULL) == BB_OK);
}

static void put_hyperparameters(maker *m)
{
    const tiny_spec *s = m->spec;
    char             key[96];
    must(bb_gguf_put_text(m->out, "general.architecture", s->arch, NULL) == BB_OK);
    must(bb_gguf_put_text(m->out, "general.name", "tiny", NULL) == BB_OK);
    if (s->alignment) must(bb_gguf_put_u32(m->out, "general.alignment", s->alignment, NULL) == BB_OK);
    key_u32(m, "context_length", s->n_ctx);
    key_u32(m, "embedding_length", s->n_embd);
    key_u32(m, "block_count", s->n_layer);
    key_layers(m, "feed_forward_length", s->n_ff);
    key_layers(m, "attention.head_count", s->n_head);
    key_f32(m, "attention.layer_norm_rms_epsilon", s->norm_eps);
    if (!s->minimal_keys || memcmp(s->n_kv, s->n_head, s->n_layer * sizeof *s->n_kv) != 0) key_layers(m, "attention.head_count_kv", s->n_kv);
    if (!s->minimal_keys || s->head_dim * s->n_head[0] != s->n_embd || s->n_rot) {
        key_u32(m, "attention.key_length", s->head_dim);
        key_u32(m, "attention.value_length", s->head_dim);
        key_u32(m, "rope.dimension_count", s->n_rot ? s->n_rot : s->head_dim);
    }
    if (!s->minimal_keys || s->rope_base < 10000.0f || s->rope_base > 10000.0f) key_f32(m, "rope.freq_base", s->rope_base);
    if (bb_arch_named(s->arch)->factors) {
        key_f32(m, "logit_scale", s->factors[3]);
        if (s->factors[0] > 0) key_f32(m, "embedding_scale", s->factors[0]);
        if (s->factors[1] > 0) key_f32(m, "attention.scale", s->factors[1]);
        if (s->factors[2] > 0) key_f32(m, "residual_scale", s->factors[2]);
    }
    if (s->window) key_u32(m, "attention.sliding_window", s->window);
    if (s->window_every && !bb_arch_named(s->arch)->own_kinds) key_u32(m, "attention.sliding_window_pattern", s->window_every);
    if (s->window_every && bb_arch_named(s->arch)->own_kinds) {
        uint32_t has[TINY_MAX_LAYERS];
        for (uint32_t i = 0; i < s->n_layer; i++) has[i] = has_window(s, i);
        snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", s->arch);
        must(bb_gguf_put_u32_array(m->out, key, has, s->n_layer, NULL) == BB_OK);
    }
    if (s->local_head_dim) {
        key_u32(m, "attention.key_length_swa", s->local_head_dim);
        key_u32(m, "attention.value_length_swa", s->local_head_dim);
        key_u32(m, "rope.dimension_count_swa", s->local_head_dim);
    }
    if (s->shared) key_u32(m, "attention.shared_kv_layers", s->shared);
    if (bb_arch_named(s->arch)->token_inputs) key_u32(m, "embedding_length_per_layer_input", s->token_width); /* llama.cpp wants it, 0 too */
    if (s->logit_cap > 0) key_f32(m, "final_logit_softcapping", s->logit_cap);
    if (s->local_base > 0) key_f32(m, "rope.freq_base_swa", s->local_base);
    if (s->rope_scaling > 0) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", s->arch);
        must(bb_gguf_put_text(m->out, key, s->rope_type ? s->rope_type : "linear", NULL) == BB_OK);
        key_f32(m, "rope.scaling.factor", s->rope_scaling);
    }
    if (s->rope_context) key_u32(m, "rope.scaling.original_context_length", s->rope_context);
    if (s->magnitude > 0) key_f32(m, "rope.scaling.attn_factor", s->magnitude);
    if (s->temperature > 0) key_f32(m, "attention.temperature_scale", s->temperature);
}

/* Ids: 0 <unk>, 1 <s>, 2 </s>, 3..258 bytes, 259 the space mark, 260..285 a..z, then mark+letter and letter pairs by falling score; behind them, of large vocabularies, unused ones. */
static void token_text(uint32_t id, char out[16])
{
    static const char *const special[] = { "<unk>", "<s>", "</s>" };
    uint32_t                 pair = id - 286;
    if (id < 3) snprintf(out, 16, "%s", special[id]);
    else if (id < 259) snprintf(out, 16, "<0x%02X>", id - 3);
    else if (id == 259) snprintf(out, 16, "\xE2\x96\x81");
    else if (id < 286) snprintf(out, 16, "%c", 'a' + (int)(id - 260));
    else if (pair < 26) snprintf(out, 16, "\xE2\x96\x81%c", 'a' + (int)pair);
    else if (pair >= 26 + 676 * 9) snprintf(out, 16, "<%u>", id);
    else snprintf(out, 16, "%c%c%.*s", 'a' + (int)((pair - 26) % 26), 'a' + (int)((pair - 26) / 26 % 26), (int)((pair - 26) / 676), "aaaaaaaa");
}

static void put_vocabulary(maker *m)
{
    uint32_t n = m->spec->n_vocab;
    char(*text)[16] = bb_alloc(n, sizeof *text, NULL);
    bb_bytes *tokens = BB_NEW(n, bb_bytes, NULL);
    float    *scores = BB_NEW(n, float, NULL);
    int32_t  *types = BB_NEW(n, int32_t, NULL);
    must(text && tokens && scores && types && n >= TINY_MIN_VOCAB);
    for (uint32_t i = 0; i < n; i++) {
        token_text(i, text[i]);
        tokens[i] = (bb_bytes) { text[i], strlen(text[i]) };
        scores[i] = i < 286 ? 0.0f : -(float)(i - 285);
        types[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : text[i][0] == '<' ? 5 : 1;
    }
    must(bb_gguf_put_text(m->out, "tokenizer.ggml.model", "llama", NULL) == BB_OK);
    must(bb_gguf_put_text_array(m->out, "tokenizer.ggml.tokens", tokens, n, NULL) == BB_OK);
    must(bb_gguf_put_f32_array(m->out, "tokenizer.ggml.scores", scores, n, NULL) == BB_OK);
    must(bb_gguf_put_i32_array(m->out, "tokenizer.ggml.token_type", types, n, NULL) == BB_OK);
    must(bb_gguf_put_u32(m->out, "tokenizer.ggml.bos_token_id", 1, NULL) == BB_OK);
    must(bb_gguf_put_u32(m->out, "tokenizer.ggml.eos_token_id", 2, NULL) == BB_OK);
    must(bb_gguf_put_u32(m->out, "tokenizer.ggml.unknown_token_id", 0, NULL) == BB_OK);
    bb_free(types);
    bb_free(scores);
    bb_free(tokens);
    bb_free(text);
}

void tiny_write(const tiny_spec *s, const char *path)
{
    maker  m = { .spec = s };
    bb_err err = BB_ERR_INIT;
    must(s->n_layer <= TINY_MAX_LAYERS);
    must(bb_gguf_out_create(&m.out, NULL) == BB_OK);
    put_hyperparameters(&m);
    put_vocabulary(&m);
    put_tensor(&m, "token_embd.weight", s->embd_type, s->n_embd, s->n_vocab, 0.0, s->tied ? 0.2 : 1.0);
    if (s->token_width) {
        put_tensor(&m, "per_layer_token_embd.weight", s->table_type, s->n_layer * s->token_width, s->n_vocab, 0.0, 0.2);
        put_tensor(&m, "per_layer_model_proj.weight", s->proj_type, s->n_embd, s->n_layer * s->token_width, 0.0, 1.0 / sqrt(s->n_embd));
        put_tensor(&m, "per_layer_proj_norm.weight", s->norm_type, s->token_width, 0, 1.0, 0.1);
    }
    for (uint32_t i = 0; i < s->n_layer; i++) put_block(&m, i);
    put_tensor(&m, "output_norm.weight", s->norm_type, s->n_embd, 0, 1.0, 0.1);
    if (!s->tied) put_tensor(&m, "output.weight", s->head_type, s->n_embd, s->n_vocab, 0.0, 1.0 / sqrt(s->n_embd));
    if (s->rope_factors && bb_arch_named(s->arch)->two_factors) {
        put_tensor(&m, "rope_factors_short.weight", s->norm_type, (s->n_rot ? s->n_rot : s->head_dim) / 2, 0, 1.5, 0.2);
        put_tensor(&m, "rope_factors_long.weight", s->norm_type, (s->n_rot ? s->n_rot : s->head_dim) / 2, 0, 4.0, 0.5);
    } else if (s->proportional) put_proportional(&m);
    else if (s->rope_factors) put_tensor(&m, "rope_freqs.weight", s->norm_type, s->head_dim / 2, 0, 4.0, 0.5);
    if (bb_gguf_out_write(m.out, path, &err) != BB_OK) fprintf(stderr, "%s\n", err.msg);
    must(err.status == BB_OK);
    bb_gguf_out_destroy(m.out);
    for (size_t i = 0; i < m.n_owned; i++) bb_free(m.owned[i]);
}
