/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_folder.c: models written as Hugging Face folders, read back with nothing of the program's but JSON: every number is that of the GGUF. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/compress/statistics.h"
#include "model/export/folder.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

/* ---- a reader of safetensors from the definition ---- */

typedef struct tensors {
    char                *bytes;
    const unsigned char *data;
    json_t              *header;
} tensors;

static tensors read_tensors(const char *dir)
{
    tensors  t;
    size_t   size;
    uint64_t n;
    char     path[700];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    ck_assert_int_eq(bb_file_read(path, &t.bytes, &size, NULL), BB_OK);
    memcpy(&n, t.bytes, 8);
    ck_assert(n % 8 == 0 && n < size);
    ck_assert_ptr_nonnull(t.header = json_loadb(t.bytes + 8, (size_t)n, JSON_REJECT_DUPLICATES, NULL));
    t.data = (const unsigned char *)t.bytes + 8 + n;
    /* the tensors fill the file, one behind the other, each at a multiple of its numbers' size */
    uint64_t    at = 0;
    const char *name;
    json_t     *entry;
    json_object_foreach(t.header, name, entry)
    {
        const json_t *offsets = json_object_get(entry, "data_offsets");
        if (strcmp(name, "__metadata__") == 0) continue;
        const char    *type = json_string_value(json_object_get(entry, "dtype"));
        const unsigned bytes = strcmp(type, "I64") == 0 ? 8 : strstr(type, "32") ? 4 : 2;
        ck_assert_uint_eq((uint64_t)json_integer_value(json_array_get(offsets, 0)), at);
        ck_assert_uint_eq(at % bytes, 0);
        at = (uint64_t)json_integer_value(json_array_get(offsets, 1));
    }
    ck_assert_uint_eq(8 + n + at, size);
    return t;
}

static void close_tensors(tensors *t)
{
    json_decref(t->header);
    bb_free(t->bytes);
}

/* The bytes of a tensor, whose type and shape are asked for; cols 0: a vector. */
static const unsigned char *bytes_of(const tensors *t, const char *name, const char *end, const char *dtype, uint64_t rows, uint64_t cols)
{
    char full[800];
    snprintf(full, sizeof full, "%s%s", name, end);
    const json_t *e = json_object_get(t->header, full), *shape = json_object_get(e, "shape");
    ck_assert_msg(e != NULL, "%s is missing", full);
    ck_assert_msg(strcmp(json_string_value(json_object_get(e, "dtype")), dtype) == 0, "%s", full);
    ck_assert_uint_eq(json_array_size(shape), cols ? 2 : 1);
    ck_assert_int_eq(json_integer_value(json_array_get(shape, 0)), (json_int_t)rows);
    if (cols) ck_assert_int_eq(json_integer_value(json_array_get(shape, 1)), (json_int_t)cols);
    return t->data + json_integer_value(json_array_get(json_object_get(e, "data_offsets"), 0));
}

/* Number (r, c) of a packed matrix: bits b c ... of the row, from the lowest bit of the first word on, less half the range, times the scale of its 32. */
static float packed_at(const unsigned char *words, const unsigned char *scales, uint32_t cols, unsigned bits, uint32_t r, uint32_t c)
{
    const uint64_t bit = (uint64_t)r * cols * bits + (uint64_t)c * bits;
    const unsigned q = (unsigned)words[bit / 8] >> bit % 8 & ((1u << bits) - 1);
    uint16_t       half;
    memcpy(&half, scales + 2 * ((size_t)r * (cols / 32) + c / 32), 2);
    return bb_half_to_float(half) * (float)((int)q - (1 << (bits - 1)));
}

/* ---- the model ---- */

static const char *const hf_names[BB_PART_TOKEN_GATE] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                                          "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj" };

/* A head's first half of rows is every second row of the file from 0, its second half from 1, where the file has pairs. */
static uint32_t gguf_row(bool pairs, uint32_t D, uint32_t r) { return pairs ? r / D * D + (r % D < D / 2 ? r % D * 2 : (r % D - D / 2) * 2 + 1) : r; }

static void check_matrix(const tensors *t, const char *name, const bb_matrix *w, bool pairs, uint32_t D)
{
    float         *dense = bb_matrix_decode(w, NULL);
    const unsigned bits = w->type == BB_Q4_0 ? 4 : 8;
    if (w->type == BB_F16) {
        const unsigned char *p = bytes_of(t, name, ".weight", "F16", w->rows, w->cols);
        for (uint32_t r = 0; r < w->rows; r++)
            ck_assert(memcmp(p + 2 * (size_t)r * w->cols, (const char *)w->data + 2 * (size_t)gguf_row(pairs, D, r) * w->cols, 2 * w->cols) == 0);
    } else {
        const unsigned char *words = bytes_of(t, name, ".weight_packed", "I32", w->rows, w->cols * bits / 32);
        const unsigned char *scales = bytes_of(t, name, ".weight_scale", "F16", w->rows, w->cols / 32);
        int64_t              shape[2];
        memcpy(shape, bytes_of(t, name, ".weight_shape", "I64", 2, 0), sizeof shape);
        ck_assert(shape[0] == w->rows && shape[1] == w->cols);
        for (uint32_t r = 0; r < w->rows; r++)
            for (uint32_t c = 0; c < w->cols; c++) {
                const float got = packed_at(words, scales, w->cols, bits, r, c), want = dense[(size_t)gguf_row(pairs, D, r) * w->cols + c];
                ck_assert_msg(got == want, "%s (%u, %u): %g, not %g", name, r, c, (double)got, (double)want); /* -0 is 0 */
            }
    }
    bb_free(dense);
}

static const struct {
    const char *arch, *model_type;
    bool        tied, bias;
    bb_type     embd;
} cases[] = { { "llama", "llama", true, false, BB_Q8_0 },       { "llama", "llama", false, false, BB_F16 },     { "qwen2", "qwen2", false, true, BB_Q8_0 },
              { "qwen3", "qwen3", true, false, BB_F16 },        { "smollm3", "smollm3", true, false, BB_Q4_0 }, { "granite", "granite", true, false, BB_Q8_0 },
              { "gemma3", "gemma3_text", true, false, BB_Q8_0 } };

START_TEST(every_number_is_that_of_the_file)
{
    tiny_spec  s = tiny_default(cases[_i].arch);
    bb_model   m;
    bb_err     err = BB_ERR_INIT;
    bb_text    notes = { 0 };
    uint64_t   bytes, size;
    char       dir[600], name[700];
    const bool gemma = strcmp(cases[_i].arch, "gemma3") == 0, pairs = strncmp(cases[_i].arch, "qwen", 4) != 0 && !gemma;
    json_t    *config;
    s.tied = cases[_i].tied;
    s.qkv_bias = cases[_i].bias;
    tiny_set_type(&s, BB_Q4_0);
    s.embd_type = s.head_type = cases[_i].embd;
    s.type[0][BB_PART_DOWN] = s.type[1][BB_PART_V] = BB_Q8_0;
    s.type[1][BB_PART_Q] = BB_F16;
    tiny_write(&s, bb_test_path("m.gguf"));
    ck_assert_msg(bb_model_open(bb_test_path("m.gguf"), &m, &err) == BB_OK, "%s", err.msg);
    snprintf(dir, sizeof dir, "%s", bb_test_path("folder"));
    ck_assert_int_eq(bb_export_folder_bytes(&m, NULL, &bytes, &err), BB_OK);
    ck_assert_msg(bb_export_folder_write(&m, NULL, dir, &notes, &err) == BB_OK, "%s", err.msg);
    snprintf(name, sizeof name, "%s/model.safetensors", dir);
    ck_assert_int_eq(bb_file_size(name, &size, NULL), BB_OK);
    ck_assert_uint_eq(size, bytes);
    ck_assert_msg(strstr(notes.data, "tokenizer") != NULL, "%s", notes.data);
    tensors        t = read_tensors(dir);
    const uint32_t D = m.net.head_dim;
    for (uint32_t b = 0; b < m.net.n_layer; b++) {
        for (int p = 0; p < BB_PART_TOKEN_GATE; p++) {
            snprintf(name, sizeof name, "model.layers.%u.%s", b, hf_names[p]);
            const bb_matrix *w = &m.net.blocks[b].w[p];
            const bool       in_pairs = pairs && p <= BB_PART_K;
            check_matrix(&t, name, w, in_pairs, D);
            if (!w->bias) continue;
            const unsigned char *bias = bytes_of(&t, name, ".bias", "F32", w->rows, 0);
            for (uint32_t r = 0; r < w->rows; r++) ck_assert(memcmp(bias + 4 * r, &w->bias[gguf_row(in_pairs, D, r)], 4) == 0);
        }
        snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm", b);
        const unsigned char *of_post = bytes_of(&t, name, ".weight", "F32", m.net.n_embd, 0);
        if (!gemma) {
            ck_assert(memcmp(of_post, m.net.blocks[b].norm[BB_NORM_FFN], 4 * m.net.n_embd) == 0);
            continue;
        }
        snprintf(name, sizeof name, "model.layers.%u.pre_feedforward_layernorm", b);
        const unsigned char *of_pre = bytes_of(&t, name, ".weight", "F32", m.net.n_embd, 0);
        for (uint32_t c = 0; c < m.net.n_embd; c++) { /* without their 1 */
            float pre, post;
            memcpy(&pre, of_pre + 4 * c, 4);
            memcpy(&post, of_post + 4 * c, 4);
            ck_assert(fabsf(pre + 1 - m.net.blocks[b].norm[BB_NORM_FFN][c]) < 1e-6f &&
                      fabsf(post + 1 - m.net.blocks[b].norm[BB_NORM_POST_ATTENTION][c]) < 1e-6f);
        }
    }
    const bool           f16 = cases[_i].embd == BB_F16;
    const unsigned char *table = bytes_of(&t, "model.embed_tokens", ".weight", f16 ? "F16" : "F32", m.net.n_vocab, m.net.n_embd);
    float               *dense = bb_matrix_decode(&m.net.embd, NULL);
    ck_assert(memcmp(table, f16 ? m.net.embd.data : dense, (f16 ? 2 : 4) * (size_t)m.net.n_vocab * m.net.n_embd) == 0);
    bb_free(dense);
    ck_assert_int_eq(json_object_get(t.header, "lm_head.weight") != NULL, !s.tied);
    close_tensors(&t);

    snprintf(name, sizeof name, "%s/config.json", dir);
    ck_assert_ptr_nonnull(config = json_load_file(name, 0, NULL));
    ck_assert_str_eq(json_string_value(json_object_get(config, "model_type")), cases[_i].model_type);
    ck_assert_int_eq(json_integer_value(json_object_get(config, "intermediate_size")), m.net.blocks[0].n_ff);
    ck_assert_int_eq(json_integer_value(json_object_get(config, "num_key_value_heads")), m.net.blocks[0].n_kv);
    ck_assert_int_eq(json_is_true(json_object_get(config, "tie_word_embeddings")), s.tied);
    const json_t *q = json_object_get(config, "quantization_config"), *groups = json_object_get(q, "config_groups"), *group;
    ck_assert_str_eq(json_string_value(json_object_get(q, "quant_method")), "compressed-tensors");
    ck_assert_str_eq(json_string_value(json_object_get(q, "format")), "pack-quantized");
    ck_assert_uint_eq(json_object_size(groups), 2);
    group = json_object_get(groups, "group_1");
    ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(group, "weights"), "num_bits")), 8);
    ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(group, "weights"), "group_size")), 32);
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(group, "targets"), 0)), "model.layers.0.mlp.down_proj");
    ck_assert_uint_eq(json_array_size(json_object_get(q, "ignore")), 2); /* the head, and what is F16 */
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(q, "ignore"), 1)), "model.layers.1.self_attn.q_proj");
    json_decref(config);
    bb_text_done(&notes);
    bb_model_close(&m);
}
END_TEST

/* The model of a file as a folder, with a tokenizer of another one, read again. */
static void write_and_read(const bb_model *m, const char *name, bb_model *back)
{
    bb_text notes = { 0 };
    bb_err  err = BB_ERR_INIT;
    char    dir[600], path[700], *text;
    size_t  n;
    snprintf(dir, sizeof dir, "%s", bb_test_path(name));
    ck_assert_msg(bb_export_folder_write(m, NULL, dir, &notes, &err) == BB_OK, "%s", err.msg);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(bb_file_read(i ? "tests/data/hf/tokenizer_config.json" : "tests/data/hf/tokenizer.json", &text, &n, NULL), BB_OK);
        snprintf(path, sizeof path, "%s/%s", dir, i ? "tokenizer_config.json" : "tokenizer.json");
        bb_test_write(path, text, n);
        bb_free(text);
    }
    ck_assert_msg(bb_model_open(dir, back, &err) == BB_OK, "%s", err.msg);
    bb_text_done(&notes);
}

/* What is written of a gemma3 is read as the same network: windows, bases, the cap, the norms with their 1. */
START_TEST(a_gemma3_comes_back)
{
    tiny_spec s = tiny_default("gemma3");
    bb_model  m, back;
    tiny_set_type(&s, BB_F16);
    s.logit_cap = 7;
    s.rope_scaling = 2;
    tiny_write(&s, bb_test_path("m.gguf"));
    ck_assert_int_eq(bb_model_open(bb_test_path("m.gguf"), &m, NULL), BB_OK);
    write_and_read(&m, "gemma3", &back);
    const bb_net *a = &m.net, *b = &back.net;
    ck_assert(a->arch == b->arch && a->head_dim == b->head_dim && a->norm_eps == b->norm_eps && a->rope_base == b->rope_base && a->logit_cap == b->logit_cap);
    ck_assert(a->rope_freq_scale == b->rope_freq_scale && a->local_rope_base == b->local_rope_base && b->query_scale == a->query_scale);
    for (uint32_t i = 0; i < a->n_layer; i++) {
        ck_assert(a->blocks[i].local == b->blocks[i].local && a->blocks[i].window == b->blocks[i].window);
        for (int p = 0; p < BB_PART_TOKEN_GATE; p++)
            ck_assert(memcmp(a->blocks[i].w[p].data, b->blocks[i].w[p].data, 2 * (size_t)a->blocks[i].w[p].rows * a->blocks[i].w[p].cols) == 0);
        for (int k = 0; k < BB_N_NORMS; k++)
            for (size_t c = 0; a->blocks[i].norm[k] && c < bb_norm_length(a, &a->blocks[i], (bb_norm)k); c++)
                ck_assert(fabsf(a->blocks[i].norm[k][c] - b->blocks[i].norm[k][c]) < 1e-6f);
    }
    bb_model_close(&m);
    bb_model_close(&back);
}
END_TEST

/* What is written of a gemma4 of either kind is read as the same network: what its kinds of blocks have, shared keys, what tokens give; and what is written
 * of that is it. Without the keys that nobody reads. */
START_TEST(a_gemma4_comes_back)
{
    tiny_spec s = tiny_default(_i ? TINY_SHARED : "gemma4");
    bb_model  m, back;
    bb_err    err = BB_ERR_INIT;
    tiny_set_type(&s, BB_F16);
    s.proj_type = BB_F16;
    s.proportional = true;
    s.unread = _i;
    if (!_i) s.n_kv[1] = s.n_kv[3] = 1; /* all that see the whole context */
    tiny_write(&s, bb_test_path("m.gguf"));
    ck_assert_msg(bb_model_open(bb_test_path("m.gguf"), &m, &err) == BB_OK, "%s", err.msg);
    write_and_read(&m, _i ? "shared" : "gemma4", &back);
    const bb_net *a = &m.net, *b = &back.net;
    ck_assert(a->arch == b->arch && a->head_dim == b->head_dim && a->local_head_dim == b->local_head_dim && a->rope_base == b->rope_base);
    ck_assert(a->local_rope_base == b->local_rope_base && a->logit_cap == b->logit_cap && a->n_carried == b->n_carried && a->token.width == b->token.width);
    ck_assert(memcmp(a->rope_factors, b->rope_factors, a->n_rot / 2 * sizeof(float)) == 0);
    ck_assert(!a->token.width || memcmp(a->token.table.data, b->token.table.data, 2 * (size_t)a->token.table.rows * a->token.width) == 0);
    ck_assert(!a->token.width || memcmp(a->token.proj.data, b->token.proj.data, 2 * (size_t)a->token.proj.rows * a->n_embd) == 0);
    ck_assert(!a->token.width || memcmp(a->token.norm, b->token.norm, a->token.width * sizeof(float)) == 0);
    for (uint32_t i = 0; i < a->n_layer; i++) {
        const bb_block *x = &a->blocks[i], *y = &b->blocks[i];
        ck_assert(x->local == y->local && x->window == y->window && x->n_kv == y->n_kv && x->n_ff == y->n_ff && x->lacks == y->lacks);
        ck_assert(x->kv_role == y->kv_role && x->kv_at == y->kv_at && x->scale == y->scale);
        for (int p = 0; p < BB_N_PARTS; p++)
            ck_assert(x->w[p].rows == y->w[p].rows && (!x->w[p].rows || memcmp(x->w[p].data, y->w[p].data, 2 * (size_t)x->w[p].rows * x->w[p].cols) == 0));
        for (int k = 0; k < BB_N_NORMS; k++)
            ck_assert(!x->norm[k] == !y->norm[k] && (!x->norm[k] || memcmp(x->norm[k], y->norm[k], 4 * bb_norm_length(a, x, (bb_norm)k)) == 0));
    }
    bb_model_close(&m);
    bb_model_close(&back);
}
END_TEST

/* One form for all: the usual word for every linear. A model in F16 is a plain folder. */
START_TEST(one_form_and_none)
{
    tiny_spec s = tiny_default("llama");
    for (int plain = 0; plain < 2; plain++) {
        bb_model m;
        bb_text  notes = { 0 };
        bb_err   err = BB_ERR_INIT;
        char     name[700];
        tiny_set_type(&s, plain ? BB_F16 : BB_Q8_0);
        tiny_write(&s, bb_test_path("m.gguf"));
        ck_assert_int_eq(bb_model_open(bb_test_path("m.gguf"), &m, NULL), BB_OK);
        ck_assert_msg(bb_export_folder_write(&m, NULL, bb_test_path("form"), &notes, &err) == BB_OK, "%s", err.msg);
        snprintf(name, sizeof name, "%s/config.json", bb_test_path("form"));
        json_t *config = json_load_file(name, 0, NULL), *q = json_object_get(config, "quantization_config");
        ck_assert_int_eq(q != NULL, !plain);
        if (q) {
            const json_t *targets = json_object_get(json_object_get(json_object_get(q, "config_groups"), "group_0"), "targets");
            ck_assert_uint_eq(json_array_size(targets), 1);
            ck_assert_str_eq(json_string_value(json_array_get(targets, 0)), "Linear");
            ck_assert_str_eq(json_string_value(json_object_get(config, "torch_dtype")), "float16");
        }
        json_decref(config);
        bb_text_done(&notes);
        bb_model_close(&m);
    }
}
END_TEST

/* A folder to take config.json from that is of another model is none, though its shape is the same. */
START_TEST(another_folder_is_refused)
{
    static const struct {
        const char *config, *said; /* what is another than the model's; null: is not said */
    } rows[] = {
        { "{}", NULL },
        { "{\"model_type\": \"mistral\"}", NULL }, /* a llama as well */
        { "{\"model_type\": \"granite\"}", "its model_type is 'granite', and this one is a llama" },
        { "{\"model_type\": null}", "its model_type is 'not said'" },
        { "{\"rms_norm_eps\": 0.25}", "its attention.layer_norm_rms_epsilon is 0.25" },
        { "{\"rope_theta\": 500000}", "its rope.freq_base is 500000, and this one's is 10000" },
        { "{\"head_dim\": 128}", "128" },
        { "{\"max_position_embeddings\": 131072}", NULL }, /* changes no number */
        { "{\"vocab_size\": 7}", NULL },                   /* the folder is told the model's */
        { "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
          "\"original_max_position_embeddings\": 32}}",
          "RoPE's frequencies are divided there, and not here" },
        { "{\"attention_bias\": true}", "its attention_bias is true, and this one has none" },
        { "{\"attention_bias\": false, \"mlp_bias\": null}", NULL },
        { "{\"mlp_bias\": true}", "its mlp_bias is true, and this one has none" },
        { "{\"hidden_act\": \"relu\"}", NULL }, /* read by others: taken at its word */
        { "{\"num_attention_heads\": \"four\"}", "config.json: 'num_attention_heads'" },
    };
    tiny_spec s = tiny_default("llama");
    bb_model  m;
    char      from[600];
    tiny_set_type(&s, BB_F16);
    tiny_write(&s, bb_test_path("m.gguf"));
    ck_assert_int_eq(bb_model_open(bb_test_path("m.gguf"), &m, NULL), BB_OK);
    snprintf(from, sizeof from, "%s", bb_test_path("from"));
    ck_assert_int_eq(mkdir(from, 0777), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const bb_net *net = &m.net;
        bb_err        err = BB_ERR_INIT;
        json_t       *change = json_loads(rows[i].config, 0, NULL),
               *config = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f}", "model_type", "llama", "num_hidden_layers", (int)net->n_layer,
                                   "hidden_size", (int)net->n_embd, "intermediate_size", (int)net->blocks[0].n_ff, "num_attention_heads",
                                   (int)net->blocks[0].n_head, "num_key_value_heads", (int)net->blocks[0].n_kv, "head_dim", (int)net->head_dim, "vocab_size",
                                   (int)net->n_vocab, "rms_norm_eps", (double)net->norm_eps, "rope_theta", (double)net->rope_base);
        json_object_update(config, change);
        char *text = json_dumps(config, 0);
        bb_test_write(bb_test_path("from/config.json"), text, strlen(text));
        const bb_status status = bb_export_folder_check(&m, from, &err);
        ck_assert_msg(status == (rows[i].said ? BB_BAD_FILE : BB_OK), "row %zu: %s", i, err.msg);
        ck_assert_msg(!rows[i].said || strstr(err.msg, rows[i].said), "row %zu: %s", i, err.msg);
        free(text);
        json_decref(config);
        json_decref(change);
    }
    bb_model_close(&m);
}
END_TEST

static void copy(const char *from, const char *to)
{
    char  *bytes;
    size_t n;
    ck_assert_int_eq(bb_file_read(from, &bytes, &n, NULL), BB_OK);
    bb_test_write(to, bytes, n);
    bb_free(bytes);
}

/* What no key of the model's file says: the factor of RoPE, in which Llama 3.1 and 3.2 differ alone, and a qwen2's head size. */
START_TEST(what_no_key_says_is_compared)
{
    static const struct {
        const char *kind, *object, *name; /* object: within config.json, or NULL */
        int         value;
        const char *said;
    } rows[] = {
        { "llama", "rope_parameters", "factor", 16, "its divisor of a RoPE frequency is 16, and this one's is 8" },
        { "qwen2", NULL, "head_dim", 16, "its head_dim is 16, and this one's is 8" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bb_model m;
        bb_err   err = BB_ERR_INIT;
        char     from[600], path[700];
        snprintf(from, sizeof from, "%s", bb_test_path(rows[i].kind));
        ck_assert_int_eq(mkdir(from, 0777), 0);
        for (int k = 0; k < 4; k++) {
            static const char *const files[] = { "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json" };
            char                     to[700];
            snprintf(path, sizeof path, "tests/data/hf/%s%s%s", k < 2 ? rows[i].kind : "", k < 2 ? "/" : "", files[k]);
            snprintf(to, sizeof to, "%s/%s", from, files[k]);
            copy(path, to);
        }
        ck_assert_int_eq(bb_model_open(from, &m, NULL), BB_OK);
        ck_assert_msg(bb_export_folder_check(&m, from, &err) == BB_OK, "%s: %s", rows[i].kind, err.msg);
        snprintf(path, sizeof path, "%s/config.json", from);
        json_t *config = json_load_file(path, 0, NULL);
        json_object_set_new(rows[i].object ? json_object_get(config, rows[i].object) : config, rows[i].name, json_integer(rows[i].value));
        char *text = json_dumps(config, 0);
        bb_test_write(path, text, strlen(text));
        ck_assert_int_eq(bb_export_folder_check(&m, from, &err), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, rows[i].said), "%s: %s", rows[i].kind, err.msg);
        free(text);
        json_decref(config);
        bb_model_close(&m);
    }
}
END_TEST

START_TEST(what_cannot_be_said_is_refused)
{
    static const struct {
        const char *arch;
        bb_type     type;
        uint32_t    n_ff; /* of block 1 */
        bool        factors;
        const char *says;
    } rows[] = {
        { "llama", BB_Q4_1, 64, false, "blk.0.attn_q.weight is Q4_1, which compressed-tensors cannot say exactly" },
        { "llama", BB_IQ4_NL, 64, false, "is IQ4_NL" },
        { "deci", BB_Q4_0, 96, false, "architecture deci cannot be written" },
        { "llama", BB_Q4_0, 64, true, "name that folder with --from" },
        { "gemma4", BB_Q4_0, 64, true, "not those of type proportional" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tiny_spec      s = tiny_default(rows[i].arch);
        bb_model       m;
        bb_err         err = BB_ERR_INIT;
        const uint64_t before = bb_mem_live_bytes();
        tiny_set_type(&s, rows[i].type);
        s.embd_type = BB_F16;
        s.n_ff[1] = rows[i].n_ff;
        s.rope_factors = rows[i].factors;
        tiny_write(&s, bb_test_path("bad.gguf"));
        ck_assert_msg(bb_model_open(bb_test_path("bad.gguf"), &m, &err) == BB_OK, "%s", err.msg);
        ck_assert_int_eq(bb_export_folder_check(&m, NULL, &err), BB_UNSUPPORTED);
        ck_assert_msg(strstr(err.msg, rows[i].says) != NULL, "row %zu: %s", i, err.msg);
        bb_model_close(&m);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("folder");
    TCase *t = tcase_create("core");
    tcase_add_loop_test(t, every_number_is_that_of_the_file, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_test(t, a_gemma3_comes_back);
    tcase_add_loop_test(t, a_gemma4_comes_back, 0, 2);
    tcase_add_test(t, one_form_and_none);
    tcase_add_test(t, another_folder_is_refused);
    tcase_add_test(t, what_no_key_says_is_compared);
    tcase_add_test(t, what_cannot_be_said_is_refused);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
