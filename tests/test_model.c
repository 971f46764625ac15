/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_model.c: models opened: hyperparameters with llama.cpp's defaults, every shape, and refusal of what does not fit. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/io/gguf.h"
#include "model/model.h"
#include "model/net/arch.h"
#include "model/net/backend.h"
#include "model/model_internal.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

static void open_spec(const tiny_spec *s, bb_model *m)
{
    const char *path = bb_test_path("model.gguf");
    bb_err      err = BB_ERR_INIT;
    tiny_write(s, path);
    ck_assert_msg(bb_model_open(path, m, &err) == BB_OK, "%s", err.msg);
}

static void check_matrix(const bb_matrix *w, bb_type type, uint32_t rows, uint32_t cols, bool bias)
{
    ck_assert(w->type == type && w->rows == rows && w->cols == cols && w->data != NULL && (w->bias != NULL) == bias);
}

static void check_against_spec(const bb_model *m, const tiny_spec *s)
{
    const bb_net *n = &m->net;
    ck_assert(n->n_vocab == s->n_vocab && n->n_embd == s->n_embd && n->n_layer == s->n_layer && n->n_ctx_train == s->n_ctx);
    ck_assert(n->head_dim == s->head_dim && n->n_rot == s->head_dim && (n->arch->factors || n->norm_eps == s->norm_eps) && n->rope_base == s->rope_base);
    check_matrix(&n->embd, s->embd_type, s->n_vocab, s->n_embd, false);
    if (s->tied) ck_assert_ptr_eq(bb_net_head(n), &n->embd);
    else check_matrix(&n->head, s->head_type, s->n_vocab, s->n_embd, false);
    for (uint32_t i = 0; i < s->n_layer; i++) {
        const bb_block *k = &n->blocks[i];
        const bool      gemma4 = strcmp(s->arch, "gemma4") == 0, gemma = gemma4 || strcmp(s->arch, "gemma3") == 0, olmo2 = strcmp(s->arch, "olmo2") == 0;
        const bool      post = gemma || olmo2, local = gemma && i % 2 == 0;
        const uint32_t  d = gemma4 && local ? s->local_head_dim : s->head_dim;
        uint32_t        q = s->n_head[i] * d, kv = s->n_kv[i] * d, c = s->n_embd, f = s->n_ff[i];
        ck_assert(k->local == local && bb_head_dim(n, k) == d && (k->scale > 0) == gemma4);
        const bool norms = post || strcmp(s->arch, "qwen3") == 0;
        ck_assert(k->n_head == s->n_head[i] && k->n_kv == s->n_kv[i] && k->n_ff == f);
        ck_assert((k->norm[BB_NORM_ATTENTION] != NULL) == (q && !olmo2) && (k->norm[BB_NORM_FFN] != NULL) == (f && !olmo2));
        ck_assert((k->norm[BB_NORM_POST_ATTENTION] != NULL) == (q && post) && (k->norm[BB_NORM_POST_FFN] != NULL) == (f && post));
        ck_assert((k->norm[BB_NORM_Q] != NULL) == (norms && q) && (k->norm[BB_NORM_K] != NULL) == (norms && q));
        if (q) {
            check_matrix(&k->w[BB_PART_Q], s->type[i][BB_PART_Q], q, c, s->qkv_bias);
            check_matrix(&k->w[BB_PART_K], s->type[i][BB_PART_K], kv, c, s->qkv_bias);
            ck_assert(bb_block_has_part(k, BB_PART_V) == !(gemma4 && !local));
            if (bb_block_has_part(k, BB_PART_V)) check_matrix(&k->w[BB_PART_V], s->type[i][BB_PART_V], kv, c, s->qkv_bias);
            check_matrix(&k->w[BB_PART_O], s->type[i][BB_PART_O], c, q, s->o_bias);
        } else {
            ck_assert(k->w[BB_PART_Q].rows == 0 && k->w[BB_PART_O].rows == 0);
        }
        if (f) {
            check_matrix(&k->w[BB_PART_GATE], s->type[i][BB_PART_GATE], f, c, false);
            check_matrix(&k->w[BB_PART_UP], s->type[i][BB_PART_UP], f, c, false);
            check_matrix(&k->w[BB_PART_DOWN], s->type[i][BB_PART_DOWN], c, f, false);
        } else {
            ck_assert(k->w[BB_PART_GATE].rows == 0 && k->w[BB_PART_DOWN].rows == 0);
        }
    }
}

START_TEST(opens_every_architecture)
{
    static const struct {
        const char *name;
        bool        neox;
    } rows[] = { { "llama", false }, { "qwen2", true },     { "qwen3", true },  { "deci", false }, { "smollm3", false }, { "granite", false },
                 { "phi3", true },   { "mistral3", false }, { "gemma3", true }, { "olmo2", true }, { "gemma4", true } };
    for (int variant = 0; variant < 8; variant++) {
        tiny_spec s = tiny_default(rows[_i].name);
        bb_model  m;
        s.tied = (variant & 1) && !bb_arch_named(s.arch)->needs_head;
        s.arrays = variant & 2;
        s.minimal_keys = variant & 4;
        s.o_bias = variant == 3;
        if (variant == 5) memcpy(s.n_kv, s.n_head, sizeof s.n_kv); /* head_count_kv absent */
        if (!bb_arch_named(s.arch)->fused[BB_FEED_FFN]) s.type[1][BB_PART_UP] = BB_F16;
        s.embd_type = BB_BF16;
        open_spec(&s, &m);
        check_against_spec(&m, &s);
        ck_assert(strcmp(m.net.arch->name, rows[_i].name) == 0 && m.net.rope_neox == rows[_i].neox);
        for (uint32_t i = 0; i < m.net.n_layer; i++) ck_assert(m.net.blocks[i].no_rope == (_i == 4 && i == 3));
        const bool yarn = strcmp(rows[_i].name, "mistral3") == 0, two = strcmp(rows[_i].name, "phi3") == 0;
        ck_assert(m.net.rope_freq_scale == (yarn ? 0.25f : 1.0f) && !m.net.rope_factors == !(two || strcmp(rows[_i].name, "gemma4") == 0) &&
                  !m.net.rope_long == !two && m.net.yarn == yarn);
        ck_assert(m.net.heat == (yarn ? 0.1f : 0) && m.net.rope_context == (yarn ? 32 : two ? 64 : s.n_ctx));
        bb_model_close(&m);
    }
}
END_TEST

/* The last two of six blocks take keys and values of the last of their kinds before them, whether or not the file has more for them; of every token each
 * block has its row of the table. */
START_TEST(shared_keys_and_token_inputs_are_read)
{
    tiny_spec s = tiny_default(TINY_SHARED);
    bb_model  m;
    bb_err    err = BB_ERR_INIT;
    s.unread = _i == 1;
    s.table_type = BB_Q8_0;
    open_spec(&s, &m);
    const bb_net *n = &m.net;
    ck_assert(n->token.width == 32 && n->token.table.rows == 6 * s.n_vocab && n->token.table.cols == 32 && n->token.table.type == BB_Q8_0);
    ck_assert(n->token.proj.rows == 6 * 32 && n->token.proj.cols == s.n_embd && n->token.norm);
    ck_assert_uint_eq(n->n_carried, 1 + 2 * 2 * 8 + 2 * 2 * 16);
    for (uint32_t i = 0; i < 6; i++) {
        const bb_block *k = &n->blocks[i];
        ck_assert(k->number == i && k->n_token == 32 && k->local == (i % 2 == 0) && k->n_ff == (i < 4 ? 64 : 128));
        ck_assert_int_eq(k->kv_role, i < 2 ? BB_KV_OWN : i < 4 ? BB_KV_GIVES : BB_KV_TAKES);
        ck_assert(i < 2 || k->kv_at == (k->local ? 1 : 33));
        ck_assert(bb_block_has_part(k, BB_PART_K) == (i < 4) && bb_block_has_part(k, BB_PART_V) == (i < 4) && (k->norm[BB_NORM_K] != NULL) == (i < 4));
        ck_assert(k->w[BB_PART_K].rows == (i < 4 ? 2 * bb_head_dim(n, k) : 0) && k->norm[BB_NORM_POST_TOKEN]);
        check_matrix(&k->w[BB_PART_TOKEN_GATE], BB_F32, 32, s.n_embd, false);
        check_matrix(&k->w[BB_PART_TOKEN_OUT], BB_F32, s.n_embd, 32, false);
    }
    bb_model_close(&m);
    s.table_type = BB_F32;
    s.token_width = 24; /* which blocks of 32 do not divide, though they divide a row of all six */
    s.n_layer = 8;
    s.table_type = BB_Q8_0;
    tiny_write(&s, bb_test_path("odd.gguf"));
    ck_assert_int_eq(bb_model_open(bb_test_path("odd.gguf"), &m, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "blocks of 32 weights do not divide the 24"), "%s", err.msg);
}
END_TEST

/* 511 blocks of 8405025 numbers are 479 numbers more than 32 bits can say: a table of 479 columns is not theirs. */
START_TEST(a_table_too_wide_for_its_count_is_refused)
{
    static const float zeros[479];
    static const struct {
        const char *name;
        uint64_t    ne[2];
    } tensors[] = { { "token_embd.weight", { 8, 1 } }, { "output_norm.weight", { 8, 1 } }, { "per_layer_token_embd.weight", { 479, 1 } } };
    static const struct {
        const char *key;
        uint32_t    value;
    } numbers[] = { { "context_length", 16 },          { "embedding_length", 8 },         { "block_count", 511 },
                    { "attention.head_count", 1 },     { "attention.head_count_kv", 1 },  { "feed_forward_length", 8 },
                    { "attention.key_length_swa", 8 }, { "attention.sliding_window", 4 }, { "embedding_length_per_layer_input", 8405025 } };
    const char  *path = bb_test_path("wide.gguf");
    uint32_t     pattern[511] = { 0 };
    char         key[96];
    bb_gguf_out *out;
    bb_model     m;
    bb_err       err = BB_ERR_INIT;
    ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_text(out, "general.architecture", "gemma4", NULL), BB_OK);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(key, sizeof key, "gemma4.%s", numbers[i].key);
        ck_assert_int_eq(bb_gguf_put_u32(out, key, numbers[i].value, NULL), BB_OK);
    }
    ck_assert_int_eq(bb_gguf_put_f32(out, "gemma4.attention.layer_norm_rms_epsilon", 1e-6f, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_put_u32_array(out, "gemma4.attention.sliding_window_pattern", pattern, 511, NULL), BB_OK);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        bb_tensor t = { .type = BB_F32, .n_dims = i == 1 ? 1 : 2, .ne = { tensors[i].ne[0], tensors[i].ne[1], 1, 1 }, .data = zeros };
        t.size_bytes = tensors[i].ne[0] * sizeof *zeros;
        snprintf(t.name, sizeof t.name, "%s", tensors[i].name);
        ck_assert_int_eq(bb_gguf_put_tensor(out, &t, NULL), BB_OK);
    }
    ck_assert_int_eq(bb_gguf_out_write(out, path, NULL), BB_OK);
    bb_gguf_out_destroy(out);
    ck_assert_int_eq(bb_model_open(path, &m, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "'per_layer_token_embd.weight' has 1 tokens of 511 blocks of 8405025 numbers") != NULL, "%s", err.msg);
}
END_TEST

/* The residual stream is kept divided by its factor; a factor of 1 or none leaves the network as that of a llama. */
START_TEST(factors_of_granite_are_read)
{
    tiny_spec s = tiny_default("granite");
    bb_model  m;
    open_spec(&s, &m); /* 1.5, 0.2, 0.4, 1.6 */
    ck_assert_double_eq_tol((double)m.net.embd_scale, 1.5 / 0.4, 1e-6);
    ck_assert_double_eq_tol((double)m.net.norm_eps, 1e-5 / 0.16, 1e-10);
    ck_assert_double_eq_tol((double)m.net.query_scale, 0.2 * sqrt(8), 1e-6);
    ck_assert_double_eq_tol((double)m.net.out_scale, 1 / 1.6, 1e-6);
    ck_assert(m.net.residual_scale == 0.4f);
    bb_model_close(&m);
    memset(s.factors, 0, sizeof s.factors);
    s.factors[3] = 1;
    open_spec(&s, &m);
    ck_assert(!bb_scales(m.net.embd_scale) && !bb_scales(m.net.query_scale) && !bb_scales(m.net.out_scale) && !bb_scales(m.net.residual_scale));
    ck_assert(m.net.norm_eps == 1e-5f);
    bb_model_close(&m);
}
END_TEST

/* The blocks of m that have a window, as digits. */
static void windows_are(const bb_model *m, const char *digits, uint32_t window, float base)
{
    ck_assert_uint_eq(m->net.n_layer, strlen(digits));
    for (uint32_t i = 0; i < m->net.n_layer; i++)
        ck_assert(m->net.blocks[i].local == (digits[i] == '1') && m->net.blocks[i].window == (digits[i] == '1' ? window : 0) && !m->net.blocks[i].no_rope);
    ck_assert(m->net.local_rope_base == base && m->net.gate == BB_GATE_GELU);
    ck_assert_double_eq_tol((double)m->net.embd_scale, sqrt(32), 1e-6);
}

/* Which blocks have a window, and by which period; the usual one first. */
START_TEST(windows_by_a_period)
{
    static const struct {
        const char *digits;
        uint32_t    usual, period;
    } rows[] = {
        { "1111101", 6, 6 }, { "11111", 6, 6 }, { "1010", 6, 2 }, { "1011", 6, 0 }, { "1101", 6, 3 }, { "0000", 6, 1 }, { "1111", 3, 5 },   { "1", 6, 6 },
        { "1", 1, 2 },       { "0", 6, 1 },     { "0", 1, 1 },    { "1110", 6, 4 }, { "1110", 2, 4 }, { "0111", 6, 0 }, { "101010", 2, 2 }, { "10100", 2, 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool           has[8];
        const uint32_t n = (uint32_t)strlen(rows[i].digits);
        for (uint32_t k = 0; k < n; k++) has[k] = rows[i].digits[k] == '1';
        ck_assert_msg(bb_window_period(has, n, rows[i].usual) == rows[i].period, "%s: %u", rows[i].digits, bb_window_period(has, n, rows[i].usual));
    }
}
END_TEST

START_TEST(windows_of_gemma3_are_read)
{
    tiny_spec s = tiny_default("gemma3");
    bb_model  m;
    open_spec(&s, &m);
    windows_are(&m, "1010", 12, 500);
    ck_assert(!bb_scales(m.net.query_scale));
    bb_model_close(&m);
    s.n_layer = 7;
    s.window_every = 0;
    s.local_base = 0;
    open_spec(&s, &m); /* what no key says */
    windows_are(&m, "1111101", 12, 10000);
    bb_model_close(&m);
    s.window = 0;
    open_spec(&s, &m);
    windows_are(&m, "0000000", 0, 0);
    bb_model_close(&m);
    s.n_layer = 3;
    s.window = 9;
    for (int kind = 0; kind < 3; kind++) { /* a list, of numbers or of truths; the last is none by which each sixth has none */
        static const uint32_t      numbers[][3] = { { 1, 1, 1 }, { 0 }, { 0, 1, 1 } };
        static const unsigned char truths[] = { 1, 1, 1 };
        bb_err                     err = BB_ERR_INIT;
        bb_source                  from;
        bb_gguf_out               *out;
        bb_key                     key = { .key = { "gemma3.attention.sliding_window_pattern", 39 },
                                           .kind = BB_KIND_ARRAY,
                                           .element = kind == 1 ? BB_KIND_BOOL : BB_KIND_U32,
                                           .count = 3,
                                           .value = kind == 1 ? truths : (const unsigned char *)numbers[kind],
                                           .value_bytes = kind == 1 ? 3 : 12 };
        tiny_write(&s, bb_test_path("a.gguf"));
        ck_assert_int_eq(bb_source_open(bb_test_path("a.gguf"), &from, NULL), BB_OK);
        ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
        for (uint64_t i = 0; i < from.n_kv; i++) ck_assert_int_eq(bb_gguf_put_copy(out, &from.kv[i], NULL), BB_OK);
        ck_assert_int_eq(bb_gguf_put_copy(out, &key, NULL), BB_OK);
        for (uint64_t i = 0; i < from.n_tensors; i++) ck_assert_int_eq(bb_gguf_put_tensor(out, &from.tensors[i], NULL), BB_OK);
        ck_assert_int_eq(bb_gguf_out_write(out, bb_test_path("b.gguf"), NULL), BB_OK);
        bb_gguf_out_destroy(out);
        bb_source_close(&from);
        ck_assert_int_eq(bb_model_open(bb_test_path("b.gguf"), &m, &err), kind == 2 ? BB_UNSUPPORTED : BB_OK);
        if (kind == 2) ck_assert_msg(strstr(err.msg, "llama.cpp passes over it") != NULL, "%s", err.msg);
        else windows_are(&m, "111", 9, 10000);
        bb_model_close(&m);
    }
}
END_TEST

/* llama.cpp tells the 27B by its 62 blocks: 5376 wide, 32 heads of 128, scale 1/sqrt(168). */
START_TEST(the_largest_gemma3_has_its_own_scale)
{
    const bb_arch *gemma3 = bb_arch_named("gemma3");
    ck_assert_double_eq_tol((double)bb_arch_query_scale(gemma3, 62, 5376, 32, 128), sqrt(128.0 / 168.0), 1e-6);
    ck_assert(!bb_scales(bb_arch_query_scale(gemma3, 61, 5376, 32, 128)) && !bb_scales(bb_arch_query_scale(bb_arch_named("llama"), 62, 5376, 32, 128)));
}
END_TEST

START_TEST(head_size_need_not_divide_the_width)
{
    tiny_spec s = tiny_default("qwen3");
    bb_model  m;
    s.head_dim = 12;
    open_spec(&s, &m);
    check_against_spec(&m, &s);
    bb_model_close(&m);
}
END_TEST

START_TEST(deci_blocks_differ_and_lack_parts)
{
    static const uint32_t heads[] = { 4, 0, 2, 6 }, kv[] = { 2, 0, 2, 1 }, ff[] = { 64, 32, 0, 7 };
    tiny_spec             s = tiny_default("deci");
    bb_model              m;
    s.n_layer = 4;
    memcpy(s.n_head, heads, sizeof heads);
    memcpy(s.n_kv, kv, sizeof kv);
    memcpy(s.n_ff, ff, sizeof ff);
    open_spec(&s, &m);
    check_against_spec(&m, &s);
    bb_model_close(&m);
}
END_TEST

START_TEST(vectors_of_other_types_are_decoded)
{
    tiny_spec a = tiny_default("qwen2"), b = a;
    bb_model  exact, rounded;
    a.o_bias = b.o_bias = true;
    b.norm_type = _i == 0 ? BB_F16 : BB_BF16;
    open_spec(&a, &exact);
    open_spec(&b, &rounded);
    for (uint32_t i = 0; i < a.n_embd; i++) {
        float x[3] = { exact.net.out_norm[i], exact.net.blocks[1].norm[BB_NORM_FFN][i], exact.net.blocks[0].w[BB_PART_Q].bias[i] };
        float y[3] = { rounded.net.out_norm[i], rounded.net.blocks[1].norm[BB_NORM_FFN][i], rounded.net.blocks[0].w[BB_PART_Q].bias[i] };
        for (int j = 0; j < 3; j++) { /* half a step of the smaller type */
            float bound = (x[j] < 0 ? -x[j] : x[j]) * (_i == 0 ? 0x1p-11f : 0x1p-8f), d = x[j] - y[j];
            if (_i == 0 && bound < 0x1p-25f) bound = 0x1p-25f; /* subnormal half */
            ck_assert((d < 0 ? -d : d) <= bound);
        }
    }
    bb_model_close(&exact);
    bb_model_close(&rounded);
}
END_TEST

START_TEST(rope_keys)
{
    tiny_spec s = tiny_default("llama");
    bb_model  m;
    s.rope_base = 500000.0f;
    s.rope_scaling = 4.0f;
    s.rope_factors = true;
    open_spec(&s, &m);
    check_against_spec(&m, &s);
    ck_assert(m.net.rope_freq_scale == 0.25f);
    ck_assert(m.net.rope_factors && m.net.rope_factors[0] > 1.0f && m.net.rope_factors[3] < 8.0f);
    bb_model_close(&m);
}
END_TEST

START_TEST(the_hash_is_of_the_file)
{
    tiny_spec s = tiny_default("llama");
    bb_model  m;
    char      hex[65];
    open_spec(&s, &m);
    ck_assert_str_eq(m.identity, ""); /* opening has not read all of the file */
    ck_assert_int_eq(bb_sha256_file(m.path, hex, NULL), BB_OK);
    ck_assert_str_eq(bb_model_sha256(&m), hex);
    ck_assert_ptr_eq(bb_model_sha256(&m), m.identity);
    bb_model_close(&m);
}
END_TEST

/* Most weights decide, and a matrix with 4 bits is not full precision. */
START_TEST(a_quantized_source_is_labelled_so)
{
    tiny_spec s = tiny_default("llama");
    char      label[BB_MODEL_LABEL];
    bb_model  m;
    tiny_set_type(&s, BB_F16);
    open_spec(&s, &m);
    ck_assert(!bb_model_is_quantized(&m));
    ck_assert_str_eq(bb_model_source_label(&m, label), "full precision");
    bb_model_close(&m);
    s.type[1][BB_PART_Q] = BB_Q4_1;
    open_spec(&s, &m);
    ck_assert(bb_model_is_quantized(&m));
    ck_assert_str_eq(bb_model_source_label(&m, label), "source (Q4_1)");
    bb_model_close(&m);
    s.type[0][BB_PART_UP] = BB_Q8_0;
    open_spec(&s, &m);
    ck_assert_str_eq(bb_model_source_label(&m, label), "source (Q8_0)");
    bb_model_close(&m);
}
END_TEST

/* ---- refusals ---- */

typedef struct change {
    const char *arch, *says;
    bb_status   status;
    const char *key; /* this key gets u32 `value`, or `text`, or `real`; or is left out */
    uint32_t    value;
    const char *text;
    bool        is_real;
    float       real;
    bool        leave_out;
    const char *tensor; /* this tensor is left out, or renamed to `text` */
} change;

/* Writes path again with the change. */
static void rewrite(const char *path, const char *to, const change *c)
{
    bb_source    g;
    bb_gguf_out *out;
    bool         named = false;
    ck_assert_int_eq(bb_gguf_open(path, &g, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_kv; i++) {
        bool hit = c->key && strlen(c->key) == g.kv[i].key.size && memcmp(c->key, g.kv[i].key.data, strlen(c->key)) == 0;
        named |= hit;
        if (!hit || !c->leave_out) ck_assert_int_eq(bb_gguf_put_copy(out, &g.kv[i], NULL), BB_OK);
    }
    ck_assert(named || !c->leave_out);
    if (c->key && c->is_real) ck_assert_int_eq(bb_gguf_put_f32(out, c->key, c->real, NULL), BB_OK);
    else if (c->key && !c->leave_out)
        ck_assert_int_eq(c->text ? bb_gguf_put_text(out, c->key, c->text, NULL) : bb_gguf_put_u32(out, c->key, c->value, NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_tensors; i++) {
        bb_tensor t = g.tensors[i];
        if (c->tensor && strcmp(c->tensor, t.name) == 0) {
            named = true;
            if (!c->text) continue;
            snprintf(t.name, sizeof t.name, "%s", c->text);
        }
        ck_assert_int_eq(bb_gguf_put_tensor(out, &t, NULL), BB_OK);
    }
    ck_assert(named || !c->tensor);
    ck_assert_int_eq(bb_gguf_out_write(out, to, NULL), BB_OK);
    bb_gguf_out_destroy(out);
    bb_source_close(&g);
}

#define REAL(x) .is_real = true, .real = (x)

/* The line of YaRN and its magnitude from the paper: pair i turns L / wave of it times in the old context L; 16 times in it or more, it stays
 * (beta fast), less than twice it is scaled (beta slow); pairs are rounded outward. */
START_TEST(yarn_of_ministral)
{
    static const struct {
        float  multiplier;
        double magnitude;
    } rows[] = { { 0, 1.1386294361 }, { 1, 1 }, { 0.5f, 1.1386294361 / 1.0693147181 } };
    tiny_spec s = tiny_default("mistral3");
    s.head_dim = 64;
    s.rope_context = 512;
    s.rope_base = 1e6f;
    s.rope_scaling = 4;
    tiny_write(&s, bb_test_path("plain.gguf"));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const change multiplier = { .key = "mistral3.rope.scaling.yarn_log_multiplier", REAL(rows[i].multiplier) };
        const change fast = { .key = "mistral3.rope.scaling.yarn_beta_fast", REAL(16) }, slow = { .key = "mistral3.rope.scaling.yarn_beta_slow", REAL(2) };
        bb_model     m;
        bb_err       err = BB_ERR_INIT;
        int          last_whole = -1, first_scaled = -1;
        rewrite(bb_test_path("plain.gguf"), bb_test_path("a.gguf"), &multiplier);
        rewrite(bb_test_path("a.gguf"), bb_test_path("b.gguf"), &fast);
        rewrite(bb_test_path("b.gguf"), bb_test_path("m.gguf"), &slow);
        ck_assert_msg(bb_model_open(bb_test_path("m.gguf"), &m, &err) == BB_OK, "%s", err.msg);
        ck_assert_double_eq_tol((double)m.net.rope_magnitude, rows[i].magnitude, 1e-6);
        for (int k = 0; k < 32; k++) {
            const double turns = 512 / (2 * acos(-1) * pow(1e6, 2 * k / 64.0));
            if (turns >= 16) last_whole = k;
            if (turns < 2 && first_scaled < 0) first_scaled = k;
        }
        ck_assert(m.net.yarn_low == (float)last_whole && m.net.yarn_high == (float)first_scaled && first_scaled > last_whole + 1);
        float *table = bb_rope_table(&m.net, 40, &err);
        for (int k = 0; k < 32; k++) {
            const double share = fmin(1, fmax(0, (k - last_whole) / (double)(first_scaled - last_whole)));
            const double angle = 39 * pow(1e6, -2 * k / 64.0) * (share / 4 + 1 - share);
            ck_assert_double_eq_tol((double)table[(39 * 32 + k) * 2], rows[i].magnitude * cos(angle), 1e-5);
            ck_assert_double_eq_tol((double)table[(39 * 32 + k) * 2 + 1], rows[i].magnitude * sin(angle), 1e-5);
        }
        bb_free(table);
        bb_model_close(&m);
    }
}
END_TEST

START_TEST(what_does_not_fit_is_named)
{
    static const change rows[] = {
        { .arch = "llama", .key = "general.architecture", .text = "mamba", .status = BB_UNSUPPORTED, .says = "'mamba'" },
        { .arch = "llama", .key = "general.architecture", .leave_out = true, .status = BB_BAD_FILE, .says = "general.architecture" },
        { .arch = "llama", .key = "llama.embedding_length", .leave_out = true, .status = BB_BAD_FILE, .says = "llama.embedding_length" },
        { .arch = "llama", .key = "llama.embedding_length", .value = 48, .status = BB_BAD_FILE, .says = "token_embd.weight" },
        { .arch = "llama", .key = "llama.embedding_length", .value = 0, .status = BB_BAD_FILE, .says = "llama.embedding_length" },
        { .arch = "llama", .key = "llama.block_count", .value = 3, .status = BB_BAD_FILE, .says = "blk.2.attn_norm.weight" },
        { .arch = "llama", .key = "llama.block_count", .value = 1, .status = BB_UNSUPPORTED, .says = "blk.1." },
        { .arch = "llama", .key = "llama.block_count", .value = 513, .status = BB_BAD_FILE, .says = "llama.block_count" },
        { .arch = "llama", .key = "llama.block_count", .text = "two", .status = BB_BAD_FILE, .says = "llama.block_count" },
        { .arch = "llama", .key = "llama.feed_forward_length", .value = 65, .status = BB_BAD_FILE, .says = "ffn_gate" },
        { .arch = "llama", .key = "llama.feed_forward_length", .value = 0, .status = BB_BAD_FILE, .says = "no FFN" },
        { .arch = "llama", .key = "llama.attention.head_count", .value = 8, .status = BB_BAD_FILE, .says = "attn_q" },
        { .arch = "llama", .key = "llama.attention.head_count", .value = 0, .status = BB_BAD_FILE, .says = "no attention" },
        { .arch = "llama", .key = "llama.attention.head_count_kv", .value = 3, .status = BB_BAD_FILE, .says = "multiple" },
        { .arch = "llama", .key = "llama.attention.head_count_kv", .value = 8, .status = BB_BAD_FILE, .says = "8 KV heads" },
        { .arch = "deci", .key = "deci.attention.head_count_kv", .value = 0, .status = BB_UNSUPPORTED, .says = "no KV head" },
        { .arch = "llama", .key = "llama.attention.value_length", .value = 4, .status = BB_UNSUPPORTED, .says = "equal" },
        { .arch = "llama", .key = "llama.rope.dimension_count", .value = 4, .status = BB_UNSUPPORTED, .says = "rope.dimension_count" },
        { .arch = "qwen2", .key = "qwen2.rope.dimension_count", .value = 10, .status = BB_BAD_FILE, .says = "rope.dimension_count" },
        { .arch = "qwen2", .key = "qwen2.rope.dimension_count", .value = 3, .status = BB_BAD_FILE, .says = "even" },
        { .arch = "scaled", .key = "llama.rope.scaling.type", .text = "yarn", .status = BB_OK },
        { .arch = "scaled", .key = "llama.rope.scaling.type", .text = "dynamic", .status = BB_UNSUPPORTED, .says = "'dynamic' of architecture llama" },
        { .arch = "llama", .key = "llama.rope.scaling.type", .text = "yarn", .status = BB_OK }, /* without a factor, or with 1 */
        { .arch = "scaled", .key = "llama.rope.scaling.factor", REAL(-2.0f), .status = BB_BAD_FILE, .says = "factor is -2" },
        { .arch = "llama", .key = "llama.attention.layer_norm_rms_epsilon", .leave_out = true, .status = BB_BAD_FILE, .says = "epsilon" },
        { .arch = "llama", .key = "llama.expert_count", .value = 8, .status = BB_UNSUPPORTED, .says = "8 experts" },
        { .arch = "llama", .key = "split.count", .value = 2, .status = BB_BAD_FILE, .says = "2 parts of a model, and split.no is missing" },
        { .arch = "llama", .key = "split.no", .value = 1, .status = BB_OK },
        { .arch = "llama", .key = "general.type", .text = "adapter", .status = BB_UNSUPPORTED, .says = "'adapter'" },
        { .arch = "llama", .key = "general.type", .text = "model", .status = BB_OK },
        { .arch = "llama", .key = "llama.rope.scaling.attn_factor", REAL(1.5f), .status = BB_OK },
        { .arch = "llama", .key = "llama.rope.scaling.attn_factor", REAL(0.0f), .status = BB_BAD_FILE, .says = "turns is 0" },
        { .arch = "qwen2", .key = "qwen2.rope.scaling.type", .text = "longrope", .status = BB_UNSUPPORTED, .says = "none, linear, yarn are" },
        { .arch = "mistral3", .key = "mistral3.rope.scaling.yarn_attn_factor", REAL(1.1386294f), .status = BB_OK }, /* 0.1 ln 4 + 1 */
        { .arch = "mistral3", .key = "mistral3.rope.scaling.yarn_attn_factor", REAL(1.0f), .status = BB_UNSUPPORTED, .says = "1.13863 is" },
        { .arch = "mistral3", .key = "mistral3.rope.scaling.yarn_ext_factor", REAL(1.0f), .status = BB_OK },
        { .arch = "mistral3", .key = "mistral3.rope.scaling.yarn_ext_factor", REAL(0.5f), .status = BB_UNSUPPORTED, .says = "yarn_ext_factor' is 0.5" },
        { .arch = "mistral3", .key = "mistral3.rope.scaling.yarn_beta_fast", REAL(16.0f), .status = BB_OK },
        { .arch = "mistral3", .key = "mistral3.rope.scaling.yarn_beta_slow", REAL(0.0f), .status = BB_BAD_FILE, .says = "slow 0" },
        { .arch = "mistral3", .key = "mistral3.attention.temperature_scale", REAL(-0.1f), .status = BB_BAD_FILE, .says = "temperature_scale' is -0.1" },
        { .arch = "llama", .key = "llama.rope.scaling.yarn_beta_fast", REAL(16.0f), .status = BB_UNSUPPORTED, .says = "yarn_beta_fast' is 16" },
        { .arch = "llama", .key = "llama.rope.scaling.yarn_beta_fast", REAL(32.0f), .status = BB_OK },
        { .arch = "llama", .key = "llama.attention.temperature_scale", REAL(0.1f), .status = BB_UNSUPPORTED, .says = "temperature_scale' is 0.1" },
        { .arch = "phi3", .key = "phi3.attention.sliding_window", .value = 64, .status = BB_OK }, /* llama.cpp's graph has none */
        { .arch = "phi3", .tensor = "rope_factors_long.weight", .status = BB_BAD_FILE, .says = "'rope_factors_long.weight' is missing" },
        { .arch = "phi3", .tensor = "rope_factors_short.weight", .status = BB_BAD_FILE, .says = "'rope_factors_short.weight' is missing" },
        { .arch = "olmo2", .tensor = "output.weight", .status = BB_BAD_FILE, .says = "'output.weight' is missing" },
        { .arch = "olmo2", .tensor = "blk.1.post_ffw_norm.weight", .status = BB_BAD_FILE, .says = "'blk.1.post_ffw_norm.weight' is missing" },
        { .arch = "olmo2", .key = "olmo2.attention.sliding_window", .value = 64, .status = BB_UNSUPPORTED, .says = "sliding_window' is 64" },
        { .arch = "phi3", .tensor = "blk.1.ffn_up.weight", .status = BB_BAD_FILE, .says = "'blk.1.ffn_up.weight' is missing" },
        { .arch = "phi3", .tensor = "blk.0.attn_qkv.weight", .text = "blk.0.attn_q.weight", .status = BB_BAD_FILE, .says = "'blk.0.attn_qkv.weight'" },
        { .arch = "llama", .key = "llama.rope.scaling.attn_factor", REAL(1.0f), .status = BB_OK },
        { .arch = "qwen2", .key = "qwen2.rope.scaling.attn_factor", REAL(-0.5f), .status = BB_BAD_FILE, .says = "turns is -0.5" },
        { .arch = "qwen3", .key = "qwen3.rope.scaling.yarn_ext_factor", REAL(1.0f), .status = BB_UNSUPPORTED, .says = "yarn_ext_factor" },
        { .arch = "deci", .key = "deci.rope.scaling.attn_factor", REAL(2.0f), .status = BB_OK },
        { .arch = "llama", .key = "llama.rope.scaling.type", .text = "none", .status = BB_OK },
        { .arch = "llama", .key = "llama.rope.scaling.type", .text = "longrope", .status = BB_OK },
        { .arch = "llama", .key = "llama.rope.scaling.original_context_length", .value = 64, .status = BB_OK },
        { .arch = "llama", .key = "llama.attention.scale", REAL(0.25f), .status = BB_UNSUPPORTED, .says = "attention.scale' is 0.25" },
        { .arch = "llama", .key = "llama.attention.scale", REAL(0.353553391f), .status = BB_OK }, /* 1 / sqrt(8) */
        { .arch = "llama", .key = "llama.attention.causal", .value = 0, .status = BB_UNSUPPORTED, .says = "attention.causal" },
        { .arch = "llama", .key = "llama.attention.sliding_window", .value = 64, .status = BB_UNSUPPORTED, .says = "sliding_window' is 64" },
        { .arch = "llama", .key = "llama.attention.sliding_window", .value = 128, .status = BB_OK }, /* the whole context */
        { .arch = "qwen2", .key = "qwen2.attn_logit_softcapping", REAL(30.0f), .status = BB_UNSUPPORTED, .says = "attn_logit_softcapping" },
        { .arch = "qwen2", .key = "qwen2.final_logit_softcapping", REAL(30.0f), .status = BB_UNSUPPORTED, .says = "final_logit_softcapping" },
        { .arch = "llama", .key = "llama.logit_scale", REAL(8.0f), .status = BB_UNSUPPORTED, .says = "logit_scale" },
        { .arch = "llama", .key = "llama.residual_scale", REAL(0.22f), .status = BB_UNSUPPORTED, .says = "residual_scale" },
        { .arch = "llama", .key = "llama.embedding_scale", REAL(12.0f), .status = BB_UNSUPPORTED, .says = "embedding_scale' is 12" },
        { .arch = "llama", .key = "llama.embedding_scale", REAL(1.0f), .status = BB_OK },
        { .arch = "llama", .key = "llama.hidden_activation", .text = "gelu", .status = BB_UNSUPPORTED, .says = "'gelu'" },
        { .arch = "llama", .key = "llama.hidden_activation", .text = "silu", .status = BB_OK },
        { .arch = "llama", .key = "llama.nextn_predict_layers", .value = 1, .status = BB_UNSUPPORTED, .says = "nextn_predict_layers" },
        { .arch = "llama", .key = "llama.expert_count", .value = 0, .status = BB_OK },
        { .arch = "llama", .key = "llama.of_another_program", .value = 7, .status = BB_OK },
        { .arch = "granite", .key = "granite.logit_scale", REAL(0.0f), .status = BB_BAD_FILE, .says = "logit_scale' is 0; it must be above 0" },
        { .arch = "granite", .key = "granite.logit_scale", REAL(-2.0f), .status = BB_BAD_FILE, .says = "logit_scale" },
        { .arch = "granite", .key = "granite.logit_scale", REAL(INFINITY), .status = BB_BAD_FILE, .says = "logit_scale" },
        { .arch = "granite", .key = "granite.residual_scale", REAL(NAN), .status = BB_BAD_FILE, .says = "residual_scale" },
        { .arch = "granite", .key = "granite.residual_scale", REAL(1e-30f), .status = BB_BAD_FILE, .says = "out of range" },
        { .arch = "granite", .key = "granite.embedding_scale", REAL(-1.0f), .status = BB_BAD_FILE, .says = "embedding_scale" },
        { .arch = "granite", .key = "granite.attention.scale", REAL(-1.0f), .status = BB_BAD_FILE, .says = "attention.scale" },
        { .arch = "granite", .key = "granite.attention.scale", REAL(0.0f), .status = BB_OK },
        { .arch = "granite", .key = "granite.rope.scaling.finetuned", .value = 0, .status = BB_UNSUPPORTED, .says = "rope.scaling.finetuned" },
        { .arch = "granite", .key = "granite.rope.scaling.finetuned", .value = 1, .status = BB_OK },
        { .arch = "llama", .key = "llama.rope.scaling.finetuned", .value = 0, .status = BB_OK },
        { .arch = "gemma3", .key = "gemma3.rope.freq_base_swa", REAL(0.0f), .status = BB_BAD_FILE, .says = "rope.freq_base_swa' is 0" },
        { .arch = "gemma3", .key = "gemma3.attention.sliding_window_pattern", .value = 1, .status = BB_OK },
        { .arch = "gemma3", .key = "gemma3.attention.sliding_window", .value = 3, .status = BB_OK },
        { .arch = "gemma3", .key = "gemma3.final_logit_softcapping", REAL(30.0f), .status = BB_OK },
        { .arch = "gemma3", .key = "gemma3.final_logit_softcapping", REAL(-1.0f), .status = BB_BAD_FILE, .says = "final_logit_softcapping' is -1" },
        { .arch = "gemma3", .key = "gemma3.attn_logit_softcapping", REAL(50.0f), .status = BB_UNSUPPORTED, .says = "attn_logit_softcapping' is 50" },
        { .arch = "llama", .key = "llama.final_logit_softcapping", REAL(30.0f), .status = BB_UNSUPPORTED, .says = "final_logit_softcapping' is 30" },
        { .arch = "gemma4", .key = "gemma4.attention.sliding_window", .value = 0, .status = BB_BAD_FILE, .says = "sliding_window' is missing or 0" },
        { .arch = "gemma4", .key = "gemma4.attention.sliding_window_pattern", .value = 2, .status = BB_BAD_FILE, .says = "is no list" },
        { .arch = "gemma4", .key = "gemma4.attention.value_length_swa", .value = 4, .status = BB_UNSUPPORTED, .says = "keys have 8 and values 4" },
        { .arch = "gemma4", .key = "gemma4.rope.dimension_count_swa", .value = 7, .status = BB_BAD_FILE, .says = "dimension_count_swa' is 7" },
        { .arch = "gemma4", .key = "gemma4.attention.shared_kv_layers", .value = 2, .status = BB_BAD_FILE, .says = "has 1 KV heads" },
        { .arch = "gemma4", .key = "gemma4.attention.shared_kv_layers", .value = 4, .status = BB_BAD_FILE, .says = "shared_kv_layers' is 4" },
        { .arch = "gemma4", .key = "gemma4.attention.shared_kv_layers", .value = 3, .status = BB_UNSUPPORTED, .says = "block 1 takes its keys and values" },
        { .arch = "gemma4", .key = "gemma4.embedding_length_per_layer_input", .value = 8, .status = BB_BAD_FILE, .says = "per_layer_token_embd.weight" },
        { .arch = TINY_SHARED, .key = "gemma4.embedding_length_per_layer_input", .value = 8, .status = BB_BAD_FILE, .says = "per_layer_token_embd.weight" },
        { .arch = TINY_SHARED, .key = "gemma4.embedding_length_per_layer_input", .value = 0, .status = BB_UNSUPPORTED, .says = "per_layer_token_embd.weight" },
        { .arch = TINY_SHARED, .key = "gemma4.attention.shared_kv_layers", .value = 0, .status = BB_BAD_FILE, .says = "blk.4.attn_k.weight" },
        { .arch = TINY_SHARED, .tensor = "blk.5.proj.weight", .status = BB_BAD_FILE, .says = "blk.5.proj.weight" },
        { .arch = TINY_SHARED, .tensor = "per_layer_proj_norm.weight", .status = BB_BAD_FILE, .says = "per_layer_proj_norm.weight" },
        { .arch = "llama", .key = "llama.attention.shared_kv_layers", .value = 2, .status = BB_UNSUPPORTED, .says = "shared_kv_layers' is 2" },
        { .arch = "llama", .key = "llama.embedding_length_per_layer_input", .value = 8, .status = BB_UNSUPPORTED, .says = "per_layer_input' is 8" },
        { .arch = "gemma4", .tensor = "blk.0.attn_k.weight", .status = BB_BAD_FILE, .says = "blk.0.attn_k.weight" },
        { .arch = "gemma4", .tensor = "blk.1.layer_output_scale.weight", .status = BB_OK },
        { .arch = "gemma3", .key = "gemma3.rope.scaling.attn_factor", REAL(1.5f), .status = BB_UNSUPPORTED, .says = "only linear scaling" },
        { .arch = "gemma3", .key = "gemma3.expert_count", .value = 4, .status = BB_UNSUPPORTED, .says = "4 experts" },
        { .arch = "llama", .key = "llama.attention.sliding_window", .value = 12, .status = BB_UNSUPPORTED, .says = "sliding_window" },
        { .arch = "llama", .key = "other.logit_scale", REAL(8.0f), .status = BB_OK }, /* another architecture's */
        { .arch = "llama", .key = "general.alignment", .value = 2, .status = BB_UNSUPPORTED, .says = "alignment" },
        { .arch = "llama", .tensor = "token_embd.weight", .status = BB_BAD_FILE, .says = "token_embd.weight" },
        { .arch = "llama", .tensor = "output_norm.weight", .status = BB_BAD_FILE, .says = "output_norm.weight" },
        { .arch = "llama", .tensor = "blk.1.ffn_down.weight", .status = BB_BAD_FILE, .says = "blk.1.ffn_down.weight" },
        { .arch = "llama", .tensor = "blk.1.attn_norm.weight", .status = BB_BAD_FILE, .says = "blk.1.attn_norm.weight" },
        { .arch = "qwen3", .tensor = "blk.0.attn_q_norm.weight", .status = BB_BAD_FILE, .says = "blk.0.attn_q_norm.weight" },
        { .arch = "llama", .tensor = "blk.0.ffn_up.weight", .text = "blk.0.ffn_up.scale", .status = BB_BAD_FILE, .says = "blk.0.ffn_up.weight" },
        { .arch = "qwen2", .tensor = "blk.0.attn_q.bias", .text = "blk.0.attn_q.scale", .status = BB_UNSUPPORTED, .says = "attn_q.scale" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool        scaled = strcmp(rows[i].arch, "scaled") == 0;
        tiny_spec   s = tiny_default(scaled ? "llama" : rows[i].arch);
        const char *good = bb_test_path("good.gguf"), *bad = bb_test_path("bad.gguf");
        size_t      before = bb_mem_live_bytes();
        bb_err      err = BB_ERR_INIT;
        bb_model    m;
        if (scaled) s.rope_scaling = 4;
        tiny_write(&s, good);
        rewrite(good, bad, &rows[i]);
        bb_status status = bb_model_open(bad, &m, &err);
        ck_assert_msg(status == rows[i].status, "row %zu: status %d: %s", i, (int)status, err.msg);
        if (status == BB_OK) {
            bb_model_close(&m);
            continue;
        }
        ck_assert_msg(strstr(err.msg, rows[i].says) && strstr(err.msg, bad), "row %zu: '%s'", i, err.msg);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
}
END_TEST

/* Without the keys of a split, the name alone says that more was meant to be there; a whole model may have any name. */
START_TEST(a_part_without_its_keys_is_told_by_its_name)
{
    const char *path = bb_test_path("m-00002-of-00003.gguf");
    tiny_spec   s = tiny_default("llama");
    bb_err      err = BB_ERR_INIT;
    bb_model    m;
    tiny_write(&s, path);
    ck_assert_int_eq(bb_model_open(path, &m, NULL), BB_OK);
    bb_model_close(&m);
    const change c = { .tensor = "blk.1.ffn_down.weight" };
    rewrite(path, bb_test_path("n-00001-of-00002.gguf"), &c);
    ck_assert_int_eq(bb_model_open(bb_test_path("n-00001-of-00002.gguf"), &m, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "one part of a split model, and the file has no key split.count") != NULL, "%s", err.msg);
}
END_TEST

START_TEST(other_kinds_of_files_and_folders_are_named)
{
    static const struct {
        const char *name, *bytes;
        size_t      n;
        const char *says;
    } rows[] = {
        { "a.safetensors", "\x10\0\0\0\0\0\0\0{\"a\":{}}      ", 22, "safetensors" },
        { "b.bin", "PK\3\4\24\0\0\0\0\0\0\0", 12, "zip archive" },
        { "c.gguf", "not a model at all", 18, "does not begin with" },
    };
    bb_model m;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bb_err err = BB_ERR_INIT;
        ck_assert_int_eq(bb_file_write(bb_test_path(rows[i].name), rows[i].bytes, rows[i].n, NULL), BB_OK);
        ck_assert_int_eq(bb_model_open(bb_test_path(rows[i].name), &m, &err), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, rows[i].says) && strstr(err.msg, rows[i].name), "%s", err.msg);
    }
    static const struct {
        const char *folder, *inside, *says;
    } folders[] = {
        { "hf", "hf/config.json", "'model_type' is missing" },
        { "run", "run/run.db", "run/model.gguf" },
        { "plain", "plain/x", "is a folder" },
    };
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        bb_err err = BB_ERR_INIT;
        ck_assert_int_eq(bb_make_dirs(bb_test_path(folders[i].folder), NULL), BB_OK);
        ck_assert_int_eq(bb_file_write(bb_test_path(folders[i].inside), "{}", 2, NULL), BB_OK);
        ck_assert_int_eq(bb_model_open(bb_test_path(folders[i].folder), &m, &err), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, folders[i].says) != NULL, "%s", err.msg);
    }
}
END_TEST

/* The same shape with another token, tokenizer, or number of tokens. */
START_TEST(vocabularies_are_compared)
{
    static const struct {
        change      c;
        const char *says;
    } rows[] = {
        { { .key = "tokenizer.ggml.model", .text = "gpt2" }, "tokenizer.ggml.model is 'llama' in the first and 'gpt2' in the second" },
        { { .key = "general.name", .text = "another" }, NULL },
        { { .key = "tokenizer.ggml.pre", .text = "default" }, NULL }, /* the other file names none */
    };
    const char *good = bb_test_path("vocabulary.gguf"), *other = bb_test_path("other.gguf");
    tiny_spec   s = tiny_default("llama");
    bb_err      number = BB_ERR_INIT, token = BB_ERR_INIT;
    bb_model    m, o;
    tiny_write(&s, good);
    ck_assert_int_eq(bb_model_open(good, &m, NULL), BB_OK);
    ck_assert_int_eq(bb_model_same_vocabulary(&m, &m, NULL), BB_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bb_err err = BB_ERR_INIT;
        rewrite(good, other, &rows[i].c);
        ck_assert_int_eq(bb_model_open(other, &o, NULL), BB_OK);
        ck_assert_int_eq(bb_model_same_vocabulary(&m, &o, &err), rows[i].says ? BB_BAD_FILE : BB_OK);
        if (rows[i].says) ck_assert_msg(strstr(err.msg, rows[i].says) && strstr(err.msg, "other.gguf"), "%s", err.msg);
        bb_model_close(&o);
    }
    s.n_vocab++;
    tiny_write(&s, other);
    ck_assert_int_eq(bb_model_open(other, &o, NULL), BB_OK);
    ck_assert_int_eq(bb_model_same_vocabulary(&m, &o, &number), BB_BAD_FILE);
    ck_assert_msg(strstr(number.msg, "320 and 321 tokens") != NULL, "%s", number.msg);
    bb_model_close(&o);
    /* One letter of token 262, "c", in place: the texts of an array lie one after the other behind their lengths. */
    char  *bytes;
    size_t size, at = 0;
    ck_assert_int_eq(bb_file_read(good, &bytes, &size, NULL), BB_OK);
    while (memcmp(bytes + at, "\1\0\0\0\0\0\0\0c\1\0\0\0\0\0\0\0d", 18) != 0) ck_assert_uint_lt(at++, size - 18);
    bytes[at + 8] = 'C';
    ck_assert_int_eq(bb_file_write(other, bytes, size, NULL), BB_OK);
    bb_free(bytes);
    ck_assert_int_eq(bb_model_open(other, &o, NULL), BB_OK);
    ck_assert_int_eq(bb_model_same_vocabulary(&m, &o, &token), BB_BAD_FILE);
    ck_assert_msg(strstr(token.msg, "token 262 is 'c' in the first and 'C' in the second") != NULL, "%s", token.msg);
    bb_model_close(&o);
    bb_model_close(&m);
}
END_TEST

/* ---- weights ---- */

/* Writes over weight i of a tensor of the open file path, then opens it. */
static void damage(const char *path, const char *tensor, uint64_t i, const void *raw, size_t n, bb_model *m)
{
    bb_source g;
    FILE     *f = fopen(path, "r+b");
    ck_assert_int_eq(bb_gguf_open(path, &g, NULL), BB_OK);
    const bb_tensor *t = bb_source_tensor(&g, tensor);
    ck_assert(f && t);
    ck_assert_int_eq(fseek(f, (long)((const unsigned char *)t->data - bb_gguf_map(&g)->data) + (long)(i * n), SEEK_SET), 0);
    ck_assert_uint_eq(fwrite(raw, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
    bb_source_close(&g);
    ck_assert_int_eq(bb_model_open(path, m, NULL), BB_OK);
}

START_TEST(a_weight_that_is_no_number_is_named)
{
    static const struct {
        bb_type     type;
        const char *tensor;
        uint64_t    i;
        uint32_t    raw;
        bool        finite;
        const char *says;
    } rows[] = {
        { BB_F32, "blk.1.ffn_down.weight", 64 * 3 + 5, 0x7FC00000, false, "row 3, column 5" },
        { BB_F32, "blk.0.attn_norm.weight", 7, 0xFF800000, false, "-Inf (place 7)" },
        { BB_F16, "blk.1.attn_q.weight", 33, 0x7C00, false, "Inf (row 1, column 1)" },
        { BB_F16, "token_embd.weight", 32 * 319, 0xFE00, false, "NaN (row 319, column 0)" },
        { BB_BF16, "blk.0.ffn_down.weight", 2, 0x7F80, false, "Inf" },
        { BB_BF16, "blk.0.ffn_down.weight", 2, 0x7F61, true, "2.99" },
        { BB_F32, "blk.0.ffn_up.weight", 1, 0xC77FE100, true, "-65505 (row 0, column 1)" },
        { BB_F32, "blk.0.ffn_up.weight", 1, 0xC77FE000, true, NULL },   /* -65504 is the last that fits */
        { BB_F32, "blk.0.ffn_norm.weight", 1, 0x7F000000, true, NULL }, /* vectors are not quantized */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tiny_spec   s = tiny_default("llama");
        const char *path = bb_test_path("weights.gguf");
        bb_err      finite = BB_ERR_INIT, range = BB_ERR_INIT;
        bb_model    m;
        tiny_set_type(&s, rows[i].type);
        tiny_write(&s, path);
        damage(path, rows[i].tensor, rows[i].i, &rows[i].raw, rows[i].type == BB_F32 ? 4 : 2, &m);
        ck_assert_msg(bb_model_check_weights(&m, false, NULL, &finite) == (rows[i].finite ? BB_OK : BB_BAD_FILE), "row %zu: %s", i, finite.msg);
        ck_assert_msg(bb_model_check_weights(&m, true, NULL, &range) == (rows[i].says ? BB_BAD_FILE : BB_OK), "row %zu: %s", i, range.msg);
        if (rows[i].says) ck_assert_msg(strstr(range.msg, rows[i].tensor) && strstr(range.msg, rows[i].says), "row %zu: %s", i, range.msg);
        /* A matrix that keeps its type holds what it held; one that becomes F16 does not. */
        ck_assert_int_eq(bb_model_check_weights(&m, true, &m.net, NULL), rows[i].finite ? BB_OK : BB_BAD_FILE);
        bb_model_close(&m);
    }
}
END_TEST

/* Only matrices whose type changes to one with F16's range: the others may hold more. */
START_TEST(the_range_is_that_of_the_type_to_come)
{
    static const uint16_t huge = 0x7F61; /* 2.99e38 as BF16 */
    tiny_spec             s = tiny_default("llama");
    const char           *path = bb_test_path("range.gguf");
    bb_err                err = BB_ERR_INIT;
    bb_block              blocks[2];
    bb_model              m;
    tiny_set_type(&s, BB_BF16);
    tiny_write(&s, path);
    damage(path, "blk.1.ffn_up.weight", 9, &huge, 2, &m);
    bb_net to = m.net;
    memcpy(blocks, m.net.blocks, sizeof blocks);
    to.blocks = blocks;
    blocks[0].w[BB_PART_UP].type = BB_Q8_0;
    ck_assert_int_eq(bb_model_check_weights(&m, true, &to, NULL), BB_OK);
    blocks[1].w[BB_PART_UP].type = BB_F32;
    ck_assert_int_eq(bb_model_check_weights(&m, true, &to, NULL), BB_OK);
    blocks[1].w[BB_PART_UP].type = BB_Q4_0;
    ck_assert_int_eq(bb_model_check_weights(&m, true, &to, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "blk.1.ffn_up.weight") && strstr(err.msg, "Q4_0"), "%s", err.msg);
    bb_model_close(&m);
}
END_TEST

/* The scale of a block is a weight's way to be no number in a quantized file. */
START_TEST(scales_of_a_quantized_file_are_read)
{
    static const uint16_t inf = 0x7C00;
    tiny_spec             s = tiny_default("llama");
    const char           *path = bb_test_path("scales.gguf");
    bb_err                err = BB_ERR_INIT;
    bb_model              m;
    tiny_set_type(&s, BB_Q8_0);
    tiny_write(&s, path);
    damage(path, "blk.0.ffn_gate.weight", 17, &inf, 2, &m); /* a row is one block of 34 bytes */
    ck_assert_int_eq(bb_model_check_weights(&m, false, NULL, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "blk.0.ffn_gate.weight") && strstr(err.msg, "row 1,"), "%s", err.msg);
    bb_model_close(&m);
}
END_TEST

START_TEST(blocks_of_llama_must_be_alike)
{
    tiny_spec s = tiny_default("llama");
    bb_err    err = BB_ERR_INIT;
    bb_model  m;
    s.n_ff[1] = 32;
    tiny_write(&s, bb_test_path("uneven.gguf"));
    ck_assert_int_eq(bb_model_open(bb_test_path("uneven.gguf"), &m, &err), BB_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "block 1"));
}
END_TEST

START_TEST(memory_failures_are_clean)
{
    tiny_spec   s = tiny_default("qwen2");
    const char *path = bb_test_path("memory.gguf");
    size_t      before;
    bb_model    m;
    long        n = 0;
    s.norm_type = BB_F16;
    tiny_write(&s, path);
    before = bb_mem_live_bytes();
    for (;; n++) {
        bb_mem_fail_after(n);
        bb_status status = bb_model_open(path, &m, NULL);
        bb_mem_fail_after(-1);
        if (status == BB_OK) break;
        ck_assert_int_eq(status, BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
    bb_model_close(&m);
    ck_assert_int_ge(n, 10);
    ck_assert_uint_eq(bb_mem_live_bytes(), before);
}
END_TEST

/* Models that other programs wrote. */
START_TEST(opens_real_models)
{
    static const struct {
        const char *name;
        uint32_t    c, l, h, kv, f, d;
        bool        tied;
    } rows[] = {
        { "configs/demo/wiki8m-f16.gguf", 256, 8, 8, 4, 768, 32, true },
        { "tests/data/stories260K.gguf", 64, 5, 8, 4, 172, 8, false },
    };
    bb_model m;
    bb_err   err = BB_ERR_INIT;
    ck_assert_msg(bb_model_open(rows[_i].name, &m, &err) == BB_OK, "%s", err.msg);
    ck_assert(m.net.n_embd == rows[_i].c && m.net.n_layer == rows[_i].l && m.net.head_dim == rows[_i].d);
    ck_assert(m.net.blocks[1].n_head == rows[_i].h && m.net.blocks[1].n_kv == rows[_i].kv && m.net.blocks[1].n_ff == rows[_i].f);
    ck_assert((m.net.head.rows == 0) == rows[_i].tied);
    bb_model_close(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("model");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, shared_keys_and_token_inputs_are_read, 0, 2);
    tcase_add_test(t, a_table_too_wide_for_its_count_is_refused);
    tcase_add_test(t, factors_of_granite_are_read);
    tcase_add_test(t, windows_by_a_period);
    tcase_add_test(t, windows_of_gemma3_are_read);
    tcase_add_test(t, the_largest_gemma3_has_its_own_scale);
    tcase_add_loop_test(t, opens_every_architecture, 0, 11);
    tcase_add_test(t, head_size_need_not_divide_the_width);
    tcase_add_test(t, deci_blocks_differ_and_lack_parts);
    tcase_add_loop_test(t, vectors_of_other_types_are_decoded, 0, 2);
    tcase_add_test(t, rope_keys);
    tcase_add_test(t, the_hash_is_of_the_file);
    tcase_add_test(t, a_quantized_source_is_labelled_so);
    tcase_add_test(t, yarn_of_ministral);
    tcase_add_test(t, what_does_not_fit_is_named);
    tcase_add_test(t, a_part_without_its_keys_is_told_by_its_name);
    tcase_add_test(t, other_kinds_of_files_and_folders_are_named);
    tcase_add_test(t, vocabularies_are_compared);
    tcase_add_test(t, a_weight_that_is_no_number_is_named);
    tcase_add_test(t, the_range_is_that_of_the_type_to_come);
    tcase_add_test(t, scales_of_a_quantized_file_are_read);
    tcase_add_test(t, blocks_of_llama_must_be_alike);
    tcase_add_test(t, memory_failures_are_clean);
    tcase_add_loop_test(t, opens_real_models, 0, 2);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
