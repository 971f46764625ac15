/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_model.c: models opened: hyperparameters with llama.cpp's defaults, every shape, and refusal of what does not fit. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/model.h"
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
    ck_assert(n->head_dim == s->head_dim && n->n_rot == s->head_dim && n->norm_eps == s->norm_eps && n->rope_base == s->rope_base);
    check_matrix(&n->embd, s->embd_type, s->n_vocab, s->n_embd, false);
    if (s->tied) ck_assert_ptr_eq(bb_net_head(n), &n->embd);
    else check_matrix(&n->head, s->head_type, s->n_vocab, s->n_embd, false);
    for (uint32_t i = 0; i < s->n_layer; i++) {
        const bb_block *k = &n->blocks[i];
        uint32_t        q = s->n_head[i] * s->head_dim, kv = s->n_kv[i] * s->head_dim, c = s->n_embd, f = s->n_ff[i];
        bool            qwen3 = strcmp(s->arch, "qwen3") == 0;
        ck_assert(k->n_head == s->n_head[i] && k->n_kv == s->n_kv[i] && k->n_ff == f);
        ck_assert((k->attn_norm != NULL) == (q > 0) && (k->ffn_norm != NULL) == (f > 0));
        ck_assert((k->q_norm != NULL) == (qwen3 && q) && (k->k_norm != NULL) == (qwen3 && q));
        if (q) {
            check_matrix(&k->w[BB_PART_Q], s->type[i][BB_PART_Q], q, c, s->qkv_bias);
            check_matrix(&k->w[BB_PART_K], s->type[i][BB_PART_K], kv, c, s->qkv_bias);
            check_matrix(&k->w[BB_PART_V], s->type[i][BB_PART_V], kv, c, s->qkv_bias);
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
    static const struct { const char *name; bb_arch arch; bool neox; } rows[] = {
        { "llama", BB_ARCH_LLAMA, false }, { "qwen2", BB_ARCH_QWEN2, true }, { "qwen3", BB_ARCH_QWEN3, true }, { "deci", BB_ARCH_DECI, false },
    };
    for (int variant = 0; variant < 8; variant++) {
        tiny_spec s = tiny_default(rows[_i].name);
        bb_model  m;
        s.tied = variant & 1;
        s.arrays = variant & 2;
        s.minimal_keys = variant & 4;
        s.o_bias = variant == 3;
        if (variant == 5) memcpy(s.n_kv, s.n_head, sizeof s.n_kv); /* head_count_kv absent */
        s.type[1][BB_PART_UP] = BB_F16;
        s.embd_type = BB_BF16;
        open_spec(&s, &m);
        check_against_spec(&m, &s);
        ck_assert(m.net.arch == rows[_i].arch && m.net.rope_neox == rows[_i].neox);
        ck_assert(m.net.rope_freq_scale == 1.0f && m.net.rope_factors == NULL);
        bb_model_close(&m);
    }
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
    tiny_spec s = tiny_default("deci");
    bb_model  m;
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
        float x[3] = { exact.net.out_norm[i], exact.net.blocks[1].ffn_norm[i], exact.net.blocks[0].w[BB_PART_Q].bias[i] };
        float y[3] = { rounded.net.out_norm[i], rounded.net.blocks[1].ffn_norm[i], rounded.net.blocks[0].w[BB_PART_Q].bias[i] };
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
    const char *key;            /* this key gets u32 `value`, or `text`; or is left out */
    uint32_t    value;
    const char *text;
    bool        leave_out;
    const char *tensor;         /* this tensor is left out, or renamed to `text` */
} change;

/* Writes path again with the change. */
static void rewrite(const char *path, const char *to, const change *c)
{
    bb_gguf      g;
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
    if (c->key && !c->leave_out)
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
    bb_gguf_close(&g);
}

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
        { .arch = "llama", .key = "llama.rope.scaling.type", .text = "yarn", .status = BB_UNSUPPORTED, .says = "'yarn'" },
        { .arch = "llama", .key = "llama.attention.layer_norm_rms_epsilon", .leave_out = true, .status = BB_BAD_FILE, .says = "epsilon" },
        { .arch = "llama", .key = "llama.expert_count", .value = 8, .status = BB_UNSUPPORTED, .says = "8 experts" },
        { .arch = "llama", .key = "split.count", .value = 2, .status = BB_UNSUPPORTED, .says = "2 files" },
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
        tiny_spec   s = tiny_default(rows[i].arch);
        const char *good = bb_test_path("good.gguf"), *bad = bb_test_path("bad.gguf");
        size_t      before = bb_mem_live_bytes();
        bb_err      err = BB_ERR_INIT;
        bb_model    m;
        tiny_write(&s, good);
        rewrite(good, bad, &rows[i]);
        bb_status status = bb_model_open(bad, &m, &err);
        ck_assert_msg(status == rows[i].status, "row %zu: status %d: %s", i, (int)status, err.msg);
        ck_assert_msg(strstr(err.msg, rows[i].says) && strstr(err.msg, bad), "row %zu: '%s'", i, err.msg);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
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
    static const struct { const char *name; uint32_t c, l, h, kv, f, d; bool tied; } rows[] = {
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
    tcase_add_loop_test(t, opens_every_architecture, 0, 4);
    tcase_add_test(t, head_size_need_not_divide_the_width);
    tcase_add_test(t, deci_blocks_differ_and_lack_parts);
    tcase_add_loop_test(t, vectors_of_other_types_are_decoded, 0, 2);
    tcase_add_test(t, rope_keys);
    tcase_add_test(t, the_hash_is_of_the_file);
    tcase_add_test(t, a_quantized_source_is_labelled_so);
    tcase_add_test(t, what_does_not_fit_is_named);
    tcase_add_test(t, blocks_of_llama_must_be_alike);
    tcase_add_test(t, memory_failures_are_clean);
    tcase_add_loop_test(t, opens_real_models, 0, 2);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
