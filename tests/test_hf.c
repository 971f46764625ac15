/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_hf.c: Hugging Face folders against the GGUF files that they were made from (tests/support/hf_folder.c, which shares nothing with the reader),
 * tokenizer.json by hand, and every way in which the files can lie. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/io/gguf.h"
#include "model/io/hf.h"
#include "model/io/hf_parts.h"
#include "model/io/safetensors.h"
#include "model/io/tokenizer.h"
#include "model/model.h"
#include "tests/support/hf_folder.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

/* ---- what is read is what GGUF has ---- */

static void same_key(const bb_source *a, const bb_source *b, const char *name)
{
    const bb_key *x = bb_source_find(a, name), *y = bb_source_find(b, name);
    ck_assert_msg(x && y, "%s is missing", name);
    ck_assert_int_eq(x->kind, y->kind);
    ck_assert_uint_eq(x->count, y->count);
    ck_assert_msg(x->value_bytes == y->value_bytes && memcmp(x->value, y->value, (size_t)x->value_bytes) == 0, "%s differs", name);
}

static void same_tensors(const bb_source *a, const bb_source *b)
{
    ck_assert_uint_eq(a->n_tensors, b->n_tensors);
    for (uint64_t i = 0; i < a->n_tensors; i++) {
        const bb_tensor *x = &a->tensors[i], *y = bb_source_tensor(b, x->name);
        ck_assert_msg(y != NULL, "%s is missing", x->name);
        ck_assert_int_eq(x->type, y->type);
        for (int d = 0; d < 4; d++) ck_assert_uint_eq(x->ne[d], y->ne[d]);
        ck_assert_msg(memcmp(x->data, y->data, (size_t)x->size_bytes) == 0, "%s differs", x->name);
    }
}

static const struct {
    const char *arch;
    bb_type     type;
    unsigned    shards;
    bool        tied, bias;
} cases[] = {
    { "llama", BB_F32, 1, true, false },  { "llama", BB_F16, 3, false, true },    { "qwen2", BB_BF16, 2, true, true },
    { "qwen3", BB_F16, 1, false, false }, { "smollm3", BB_BF16, 4, true, false }, { "granite", BB_F16, 2, true, true },
};

START_TEST(tensors_and_vocabulary_are_those_of_the_gguf)
{
    tiny_spec   s = tiny_default(cases[_i].arch);
    bb_source   a, b;
    bb_model    m;
    bb_err      err = BB_ERR_INIT;
    const char *gguf = bb_test_path("m.gguf"), *dir = bb_test_path("folder");
    tiny_set_type(&s, cases[_i].type);
    s.tied = cases[_i].tied;
    s.qkv_bias = cases[_i].bias;
    s.norm_type = BB_F32;
    tiny_write(&s, gguf);
    hf_write(gguf, dir, cases[_i].shards, "");
    ck_assert_int_eq(bb_gguf_open(gguf, &a, &err), BB_OK);
    ck_assert_msg(bb_source_open(dir, &b, &err) == BB_OK, "%s", err.msg);
    ck_assert_str_eq(b.reader->name, "Hugging Face");
    same_tensors(&a, &b);
    same_key(&a, &b, "tokenizer.ggml.tokens");
    same_key(&a, &b, "tokenizer.ggml.scores");
    same_key(&a, &b, "tokenizer.ggml.token_type");
    same_key(&a, &b, "general.architecture");
    bb_source_close(&a);
    bb_source_close(&b);
    ck_assert_msg(bb_model_open(dir, &m, &err) == BB_OK, "%s", err.msg);
    bb_model_close(&m);
}
END_TEST

/* What config.json does not say is 1, as in the library: attention too, which llama.cpp would scale by 1/sqrt(D). */
START_TEST(factors_of_granite_become_keys)
{
    static const struct {
        const char *more;
        float       attention, embedding, residual, logits;
    } rows[] = {
        { "\"attention_multiplier\": 0.25, \"embedding_multiplier\": 12, \"residual_multiplier\": 0.22, \"logits_scaling\": 8.0, ", 0.25f, 12, 0.22f, 8 },
        { "", 1, 1, 1, 1 },
    };
    const tiny_spec s = tiny_default("granite");
    tiny_write(&s, bb_test_path("m.gguf"));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bb_source b;
        float     x[4];
        hf_write(bb_test_path("m.gguf"), bb_test_path("folder"), 1, rows[i].more);
        ck_assert_int_eq(bb_source_open(bb_test_path("folder"), &b, NULL), BB_OK);
        ck_assert_int_eq(bb_source_f32(&b, "granite.attention.scale", &x[0], NULL, NULL), BB_OK);
        ck_assert_int_eq(bb_source_f32(&b, "granite.embedding_scale", &x[1], NULL, NULL), BB_OK);
        ck_assert_int_eq(bb_source_f32(&b, "granite.residual_scale", &x[2], NULL, NULL), BB_OK);
        ck_assert_int_eq(bb_source_f32(&b, "granite.logit_scale", &x[3], NULL, NULL), BB_OK);
        ck_assert(x[0] == rows[i].attention && x[1] == rows[i].embedding && x[2] == rows[i].residual && x[3] == rows[i].logits);
        ck_assert_ptr_null(bb_source_find(&b, "granite.attention.key_length"));
        bb_source_close(&b);
    }
    hf_write(bb_test_path("m.gguf"), bb_test_path("folder"), 1, "\"logits_scaling\": 0, ");
    bb_source b;
    bb_err    err = BB_ERR_INIT;
    ck_assert_int_eq(bb_source_open(bb_test_path("folder"), &b, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "'logits_scaling' is 0") != NULL, "%s", err.msg);
}
END_TEST

START_TEST(vectors_of_16_bits_become_float32)
{
    tiny_spec s = tiny_default("llama");
    bb_source a, b;
    bb_err    err = BB_ERR_INIT;
    s.norm_type = _i ? BB_BF16 : BB_F16;
    tiny_write(&s, bb_test_path("m.gguf"));
    hf_write(bb_test_path("m.gguf"), bb_test_path("folder"), 1, "");
    ck_assert_int_eq(bb_gguf_open(bb_test_path("m.gguf"), &a, &err), BB_OK);
    ck_assert_msg(bb_source_open(bb_test_path("folder"), &b, &err) == BB_OK, "%s", err.msg);
    const bb_tensor *x = bb_source_tensor(&a, "output_norm.weight"), *y = bb_source_tensor(&b, "output_norm.weight");
    float           *wide = bb_alloc(x->ne[0], sizeof(float), NULL);
    bb_format_get(x->type)->decode(x->data, wide, x->ne[0]);
    ck_assert_int_eq(y->type, BB_F32);
    ck_assert_mem_eq(wide, y->data, x->ne[0] * sizeof(float));
    bb_free(wide);
    bb_source_close(&a);
    bb_source_close(&b);
}
END_TEST

/* ---- config.json ---- */

static char config[4096];

static void write_folder(void)
{
    tiny_spec s = tiny_default("llama");
    char     *text;
    size_t    n;
    tiny_write(&s, bb_test_path("m.gguf"));
    hf_write(bb_test_path("m.gguf"), bb_test_path("folder"), 1, "");
    ck_assert_int_eq(bb_file_read(bb_test_path("folder/config.json"), &text, &n, NULL), BB_OK);
    snprintf(config, sizeof config, "%s", text);
    bb_free(text);
}

/* The folder's config.json with `from` replaced by `to`. */
static void edit_config(const char *from, const char *to)
{
    char        text[8192];
    const char *at = strstr(config, from);
    ck_assert_msg(at != NULL, "%s", from);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - config), config, to, at + strlen(from));
    bb_test_write(bb_test_path("folder/config.json"), text, strlen(text));
}

static bb_status open_folder(bb_source *s, bb_err *err) { return bb_source_open(bb_test_path("folder"), s, err); }

static const struct {
    const char *from, *to, *said;
    bb_status   status;
} refused[] = {
    { "\"llama\"", "\"mamba\"",
      "model_type 'mamba' is not supported; llama, mistral, qwen2, qwen3, smollm3, granite, phi3, ministral3, olmo2, gemma3_text and gemma4_text are",
      BB_UNSUPPORTED },
    { "\"llama\"", "5", "'model_type' is 5; a text is needed", BB_BAD_FILE },
    { "\"model_type\"", "\"x\"", "'model_type' is missing", BB_BAD_FILE },
    { "{", "{\"quantization_config\": {\"quant_method\": \"gptq\"}, ", "quantized already (gptq)", BB_UNSUPPORTED },
    { "{", "{\"quantization_config\": [], ", "quantized already (unknown)", BB_UNSUPPORTED },
    { "\"silu\"", "\"gelu\"", "'hidden_act' is 'gelu'", BB_UNSUPPORTED },
    { "{", "{\"use_sliding_window\": true, ", "'use_sliding_window'", BB_UNSUPPORTED },
    { "{", "{\"layer_types\": [\"full_attention\", \"sliding_attention\"], ", "at block 1", BB_UNSUPPORTED },
    { "{", "{\"partial_rotary_factor\": 0.5, ", "'partial_rotary_factor'", BB_UNSUPPORTED },
    { "{", "{\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 4}, ", "RoPE scaling 'dynamic'", BB_UNSUPPORTED },
    { "{", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}, ", "no 'original_max_position_embeddings'", BB_UNSUPPORTED },
    { "{", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"original_max_position_embeddings\": 32}, ", "no 'factor'", BB_UNSUPPORTED },
    { "{", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": -4, \"original_max_position_embeddings\": 32}, ", "must be above 0", BB_BAD_FILE },
    { "{", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 1e30}, ", "below 2^32", BB_BAD_FILE },
    { "{", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 32, \"truncate\": false}, ", "'truncate'",
      BB_UNSUPPORTED },
    { "{", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 32, \"beta_fast\": 16}, ",
      "yarn_beta_fast' is 16", BB_UNSUPPORTED },
    { "{", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 32, \"attention_factor\": 1.0}, ",
      "yarn_attn_factor' is 1", BB_UNSUPPORTED },
    { "{", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 32, \"mscale\": 1, \"mscale_all_dim\": 0.5}, ",
      "'mscale' 1 and 'mscale_all_dim' 0.5", BB_UNSUPPORTED },
    { "\"llama\"", "\"ministral3\"", "RoPE of a ministral3 is of type 'default'; yarn is needed", BB_UNSUPPORTED },
    { "\"llama\"", "\"phi3\", \"rope_scaling\": {\"type\": \"yarn\"}", "RoPE scaling 'yarn' of a phi3", BB_UNSUPPORTED },
    { "\"llama\"", "\"phi3\", \"original_max_position_embeddings\": 32, \"rope_scaling\": {\"type\": \"su\", \"short_factor\": [1, 1, 1]}",
      "'short_factor' of the RoPE scaling is no list of 4 numbers", BB_BAD_FILE },
    { "\"llama\"", "\"phi3\", \"original_max_position_embeddings\": 32, \"rope_scaling\": {\"type\": \"su\", \"short_factor\": [1, 1, 1, 0]}",
      "number 3 in 'short_factor'", BB_BAD_FILE },
    { "\"llama\"", "\"phi3\", \"original_max_position_embeddings\": 32, \"rope_scaling\": {\"type\": \"longrope\", \"factor\": 8}", "factor 8",
      BB_UNSUPPORTED },
    { "\"llama\"", "\"phi3\", \"original_max_position_embeddings\": 32, \"rope_scaling\": {\"type\": \"longrope\", \"attention_factor\": 1}",
      "attention_factor 1;", BB_UNSUPPORTED },
    { "\"llama\"", "\"phi3\", \"partial_rotary_factor\": 0.1", "leaves 0 numbers", BB_BAD_FILE },
    { "\"llama\"", "\"olmo2\"", "'output.weight' is missing", BB_BAD_FILE },
    { "\"llama\"", "\"gemma3_text\"", "'query_pre_attn_scalar' is 256; llama.cpp computes such a model with 8", BB_UNSUPPORTED },
    { "\"llama\"", "\"gemma3_text\", \"hidden_activation\": \"relu\"", "'hidden_activation' is 'relu'", BB_UNSUPPORTED },
    { "\"llama\"", "\"gemma3_text\", \"query_pre_attn_scalar\": 8, \"use_bidirectional_attention\": true", "only causal", BB_UNSUPPORTED },
    { "\"llama\"", "\"gemma3_text\", \"query_pre_attn_scalar\": 8, \"attn_logit_softcapping\": 30.0", "'attn_logit_softcapping' is 30", BB_UNSUPPORTED },
    { "\"llama\"", "\"gemma3_text\", \"query_pre_attn_scalar\": 8, \"layer_types\": [\"full_attention\", \"chunked_attention\"]",
      "'chunked_attention' at block 1", BB_UNSUPPORTED },
    { "\"llama\"", "\"gemma3_text\", \"query_pre_attn_scalar\": 8, \"layer_types\": [\"full_attention\"]", "says nothing of block 1", BB_BAD_FILE },
    { "\"llama\"", "\"gemma3_text\", \"query_pre_attn_scalar\": 8, \"layer_types\": [\"full_attention\", \"sliding_attention\"]", "which GGUF cannot say",
      BB_UNSUPPORTED },
    { "\"llama\"", "\"gemma3_text\", \"query_pre_attn_scalar\": 8, \"rope_local_base_freq\": -1", "RoPE base of blocks with a window is -1", BB_BAD_FILE },
    { "\"llama\"", "\"gemma3_text\", \"query_pre_attn_scalar\": 8, \"rope_parameters\": {\"sliding_attention\": {\"rope_type\": \"yarn\"}}",
      "RoPE of blocks with a window is of type 'yarn'", BB_UNSUPPORTED },
    { "\"llama\"", "\"gemma3_text\", \"query_pre_attn_scalar\": 8", "'blk.0.attn_q_norm.weight' is missing", BB_BAD_FILE },
    { "\"llama\"", "\"gemma4_text\", \"enable_moe_block\": true", "only dense models", BB_UNSUPPORTED },
    { "\"llama\"", "\"gemma4_text\", \"rope_parameters\": {\"full_attention\": {\"rope_type\": \"linear\"}}", "of type 'linear'; proportional",
      BB_UNSUPPORTED },
    { "\"llama\"", "\"gemma4_text\", \"use_bidirectional_attention\": \"all\"", "only causal", BB_UNSUPPORTED },
    /* a number beyond int64 is not what is wrong with the others, nor they with it */
    { "\"silu\"", "\"gelu\", \"other\": [1000000000000000000000000]", "'hidden_act' is 'gelu'", BB_UNSUPPORTED },
    { "\"hidden_size\": 32", "\"hidden_size\": 1000000000000000000000000", "'hidden_size' is 1e24; a whole number", BB_BAD_FILE },
    { "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", "'num_hidden_layers' is 0; a whole number", BB_BAD_FILE },
    { "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "blk.2", BB_BAD_FILE },
    { "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "model.layers.1.", BB_UNSUPPORTED },
    { "\"hidden_size\": 32", "\"hidden_size\": \"x\"", "'hidden_size' is \"x\"; a whole number", BB_BAD_FILE },
    { "\"num_attention_heads\": 4", "\"num_attention_heads\": 8", "attn_q", BB_BAD_FILE },
    { "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "whole groups", BB_BAD_FILE },
    { "\"rms_norm_eps\": ", "\"rms_norm_eps\": true, \"y\": ", "'rms_norm_eps' is true; a number is needed", BB_BAD_FILE },
    { "{", "", "no JSON", BB_BAD_FILE },
    { "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "lm_head.weight", BB_BAD_FILE },
    { "\"tie_word_embeddings\": true", "\"a\": 1", "lm_head.weight", BB_BAD_FILE }, /* a llama that does not say is not tied */
    { "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": \"true\"", "'tie_word_embeddings' is \"true\"; true or false is needed", BB_BAD_FILE },
    { "{", "{\"use_sliding_window\": 1, ", "'use_sliding_window' is 1; true or false is needed", BB_BAD_FILE },
    { "{", "{\"rope_scaling\": \"linear\", ", "'rope_scaling' is no object", BB_BAD_FILE },
    { "{", "{\"rope_parameters\": [4], ", "'rope_parameters' is no object", BB_BAD_FILE },
    { "{", "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}, ", "'factor' of the RoPE scaling is 0", BB_BAD_FILE },
    { "{", "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 1e-320}, ", "'factor' of the RoPE scaling is 9.99989e-321", BB_BAD_FILE },
    { "{", "{\"rope_scaling\": {\"type\": \"linear\"}, ", "'factor' is missing", BB_BAD_FILE },
    { "{", "{\"rope_scaling\": {\"type\": \"llama3\", \"low_freq_factor\": 4}, ", "high above low", BB_BAD_FILE },
    { "{", "{\"rope_parameters\": {\"rope_type\": \"default\"}, \"partial_rotary_factor\": 0.25, ", "'partial_rotary_factor' is 0.25", BB_UNSUPPORTED },
    { "\"rope_theta\": ", "\"rope_theta\": -", "'rope_theta' is -", BB_BAD_FILE },
};

START_TEST(what_is_not_computed_is_refused)
{
    bb_model m;
    bb_err   err = BB_ERR_INIT;
    write_folder();
    edit_config(refused[_i].from, refused[_i].to);
    bb_status status = bb_model_open(bb_test_path("folder"), &m, &err);
    ck_assert_msg(status == refused[_i].status, "%d: %s", (int)status, err.msg);
    ck_assert_msg(strstr(err.msg, refused[_i].said), "%s", err.msg);
}
END_TEST

/* A folder in which the language model is one part: its names and its place in config.json, as the library (beginning 0) or older ones have them. */
static void nest_folder(const char *from, const char *to, int beginning)
{
    static const char *const begins[][2] = { { "model.language_model.", "lm_head." }, { "language_model.model.", "language_model.lm_head." } };
    char                     path[600], *text, *header;
    size_t                   n;
    uint64_t                 length;
    json_t                  *inner, *outer, *old, *renamed = json_object(), *entry;
    const char              *name;
    mkdir(to, 0777);
    snprintf(path, sizeof path, "%s/config.json", from);
    ck_assert_int_eq(bb_file_read(path, &text, &n, NULL), BB_OK);
    ck_assert_ptr_nonnull(inner = json_loadb(text, n, 0, NULL));
    bb_free(text);
    outer = json_pack("{s:s, s:o, s:{}}", "model_type", "parts", "text_config", inner, "vision_config");
    snprintf(path, sizeof path, "%s/config.json", to);
    ck_assert_int_eq(json_dump_file(outer, path, 0), 0);
    json_decref(outer);
    snprintf(path, sizeof path, "%s/model.safetensors", from);
    ck_assert_int_eq(bb_file_read(path, &text, &n, NULL), BB_OK);
    memcpy(&length, text, 8);
    ck_assert_ptr_nonnull(old = json_loadb(text + 8, (size_t)length, 0, NULL));
    json_object_foreach(old, name, entry)
    {
        char longer[256];
        if (strncmp(name, "model.", 6) == 0) snprintf(longer, sizeof longer, "%s%s", begins[beginning][0], name + 6);
        else if (strncmp(name, "lm_head.", 8) == 0) snprintf(longer, sizeof longer, "%s%s", begins[beginning][1], name + 8);
        else snprintf(longer, sizeof longer, "%s", name);
        json_object_set(renamed, longer, entry);
    }
    json_object_set_new(renamed, "vision_tower.layers.0.weight", json_pack("{s:s, s:[i], s:[i,i]}", "dtype", "F16", "shape", 2, "data_offsets", 0, 4));
    ck_assert_ptr_nonnull(header = json_dumps(renamed, 0));
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    const uint64_t now = strlen(header);
    FILE          *f = fopen(path, "wb");
    ck_assert(f && fwrite(&now, 8, 1, f) == 1 && fwrite(header, (size_t)now, 1, f) == 1 && fwrite(text + 8 + length, n - 8 - (size_t)length, 1, f) == 1);
    ck_assert_int_eq(fclose(f), 0);
    free(header);
    bb_free(text);
    json_decref(old);
    json_decref(renamed);
}

static void copy_file(const char *from, const char *folder)
{
    char   to[800], *text;
    size_t n;
    snprintf(to, sizeof to, "%s/%s", folder, strrchr(from, '/') + 1);
    ck_assert_int_eq(bb_file_read(from, &text, &n, NULL), BB_OK);
    bb_test_write(to, text, n);
    bb_free(text);
}

START_TEST(the_language_model_of_several_parts_is_read)
{
    static const char *const kinds[] = { "gemma3", "gemma4", "llama" }; /* the last has a head of its own */
    char                     from[64], config_json[96], weights[96], plain[512], nested[512];
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        bb_source a, b;
        bb_err    err = BB_ERR_INIT;
        snprintf(from, sizeof from, "tests/data/hf/%s", kinds[k]);
        snprintf(config_json, sizeof config_json, "%s/config.json", from);
        snprintf(weights, sizeof weights, "%s/model.safetensors", from);
        snprintf(plain, sizeof plain, "%s", bb_test_path("plain"));
        snprintf(nested, sizeof nested, "%s", bb_test_path("nested"));
        mkdir(plain, 0777);
        copy_file(config_json, plain);
        copy_file(weights, plain);
        nest_folder(from, nested, k % 2);
        for (int i = 0; i < 2; i++) {
            copy_file("tests/data/hf/tokenizer.json", i ? nested : plain);
            copy_file("tests/data/hf/tokenizer_config.json", i ? nested : plain);
        }
        ck_assert_msg(bb_hf_open(plain, &a, &err) == BB_OK, "%s", err.msg);
        ck_assert_msg(bb_hf_open(nested, &b, &err) == BB_OK, "%s", err.msg);
        same_tensors(&a, &b);
        ck_assert_uint_eq(a.n_kv, b.n_kv);
        for (uint64_t i = 0; i < a.n_kv; i++) {
            char name[128];
            snprintf(name, sizeof name, "%.*s", (int)a.kv[i].key.size, a.kv[i].key.data);
            if (strcmp(name, "general.name") != 0) same_key(&a, &b, name);
        }
        bb_source_close(&a);
        bb_source_close(&b);
    }
}
END_TEST

/* Llama 3.1's frequencies, from their definition in float64. */
START_TEST(llama_3_frequency_factors)
{
    bb_source s;
    bb_err    err = BB_ERR_INIT;
    uint32_t  n = 0;
    write_folder();
    edit_config("{", "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 32, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
                     "\"original_max_position_embeddings\": 64}, ");
    ck_assert_msg(open_folder(&s, &err) == BB_OK, "%s", err.msg);
    const bb_tensor *t = bb_source_tensor(&s, "rope_freqs.weight");
    ck_assert_ptr_nonnull(t);
    ck_assert_uint_eq(t->ne[0], 4); /* heads of 8 */
    for (int i = 0; i < 4; i++) {
        const double wave = 2 * acos(-1) * pow(10000, 2 * i / 8.0), smooth = (64 / wave - 1) / 3;
        const double right = wave < 16 ? 1 : wave > 64 ? 32 : 1 / ((1 - smooth) / 32 + smooth);
        ck_assert_double_eq_tol(((const float *)t->data)[i], right, 1e-5 * right);
        n += right > 1 && right < 32; /* the line between is met */
    }
    ck_assert_uint_eq(n, 1);
    bb_source_close(&s);
}
END_TEST

/* What a config.json leaves out is what transformers takes then: SmolLM3's is tied, has a base of 2 million and no RoPE in every fourth block. */
START_TEST(smollm3_without_what_it_takes_for_granted)
{
    tiny_spec spec = tiny_default("smollm3");
    bb_source s;
    bb_model  m;
    bb_err    err = BB_ERR_INIT;
    char     *text;
    size_t    n;
    float     base;
    tiny_write(&spec, bb_test_path("m.gguf"));
    hf_write(bb_test_path("m.gguf"), bb_test_path("folder"), 1, "");
    ck_assert_int_eq(bb_file_read(bb_test_path("folder/config.json"), &text, &n, NULL), BB_OK);
    snprintf(config, sizeof config, "%s", text);
    bb_free(text);
    edit_config("\"tie_word_embeddings\": true", "\"a\": 1");
    ck_assert_msg(bb_model_open(bb_test_path("folder"), &m, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(m.net.head.rows, 0);
    bb_model_close(&m);
    edit_config("\"rope_theta\"", "\"a\"");
    ck_assert_msg(open_folder(&s, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_source_f32(&s, "smollm3.rope.freq_base", &base, NULL, &err), BB_OK);
    ck_assert_double_eq((double)base, 2e6);
    bb_source_close(&s);
    edit_config("{", "{\"no_rope_layer_interval\": 3, ");
    ck_assert_int_eq(open_folder(&s, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "'no_rope_layer_interval' is 3"), "%s", err.msg);
    edit_config("{", "{\"no_rope_layer_interval\": 3, \"no_rope_layers\": [1, 1], ");
    ck_assert_msg(open_folder(&s, &err) == BB_OK, "%s", err.msg); /* the list is what counts */
    bb_source_close(&s);
    err = (bb_err)BB_ERR_INIT;
    edit_config("{", "{\"no_rope_layers\": [1, 0], ");
    ck_assert_int_eq(open_folder(&s, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "'no_rope_layers' says 0 at block 1"), "%s", err.msg);
}
END_TEST

START_TEST(rope_of_transformers_5)
{
    bb_source s;
    bb_err    err = BB_ERR_INIT;
    float     v;
    bb_bytes  type;
    write_folder();
    edit_config("{", "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 2.5, \"rope_theta\": 500000.0}, ");
    ck_assert_msg(open_folder(&s, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_source_f32(&s, "llama.rope.freq_base", &v, NULL, &err), BB_OK);
    ck_assert(v >= 500000 && v <= 500000);
    ck_assert_int_eq(bb_source_f32(&s, "llama.rope.scaling.factor", &v, NULL, &err), BB_OK);
    ck_assert(v >= 2.5f && v <= 2.5f);
    ck_assert_int_eq(bb_source_text(&s, "llama.rope.scaling.type", &type, NULL, &err), BB_OK);
    ck_assert(type.size == 6 && memcmp(type.data, "linear", 6) == 0);
    bb_source_close(&s);
}
END_TEST

/* ---- tokenizer.json ---- */

#define LLAMA3 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| " \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define QWEN2 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| " \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define SPLIT(regex) \
    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" regex \
    "\"}, \"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", \"use_regex\": false}]}"

static const struct {
    const char *pre, *model, *name; /* NULL: refused */
} pres[] = {
    { "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}", "", "gpt-2" },
    { "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, {\"type\": \"ByteLevel\"}]}", "", "smollm" },
    { SPLIT(LLAMA3), "\"ignore_merges\": true, ", "llama-bpe" },
    { SPLIT(LLAMA3), "", "smaug-bpe" },
    { SPLIT(QWEN2), "", "qwen2" },
    { SPLIT("[a-z]+"), "", NULL },
    { "{\"type\": \"Whitespace\"}", "", NULL },
    { "null", "", NULL },
};

/* A folder whose tokenizer.json is this. Its vocabulary has 320 tokens. */
static void write_json(const char *pre, const char *model, const char *merges, const char *rest)
{
    char text[8192];
    write_folder();
    unlink(bb_test_path("folder/tokenizer.model"));
    snprintf(
        text, sizeof text,
        "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 5, \"content\": \"<|end|>\", \"special\": false}, {\"id\": 6, \"content\": \"x\xE2\x96\x81y\"},"
        " {\"id\": 7, \"content\": \"<s>\", \"special\": true}],\n \"pre_tokenizer\": %s, %s\"model\": {\"type\": \"BPE\", %s\"vocab\": {\"a\": 0, \"b\": 1, "
        "\"c\": 2, \"ab\": 3, \"abc\": 4, \"<0x41>\": 8}, \"merges\": %s}}",
        pre, rest, model, merges);
    bb_test_write(bb_test_path("folder/tokenizer.json"), text, strlen(text));
    bb_test_write(bb_test_path("folder/tokenizer_config.json"),
                  "{\"bos_token\": {\"content\": \"<s>\"}, \"model_max_length\": 1000000000000000019884624838656,"
                  " \"chat_template\": \"{{ x }}\"}",
                  strlen("{\"bos_token\": {\"content\": \"<s>\"}, \"model_max_length\": 1000000000000000019884624838656, \"chat_template\": \"{{ x }}\"}"));
}

static const char *string_at(const bb_key *kv, uint64_t i)
{
    static char text[64];
    snprintf(text, sizeof text, "%.*s", (int)kv->strings[i].size, kv->strings[i].data);
    return text;
}

static int32_t type_at(const bb_key *kv, uint64_t i)
{
    int32_t v;
    memcpy(&v, kv->value + 4 * i, 4);
    return v;
}

START_TEST(pre_tokenizers_are_told_by_their_rules)
{
    bb_source s;
    bb_err    err = BB_ERR_INIT;
    bb_bytes  name;
    uint32_t  id;
    bool      add;
    write_json(
        pres[_i].pre, pres[_i].model, _i % 2 ? "[\"a b\", \"ab c\"]" : "[[\"a\", \"b\"], [\"a b\", \"c\"]]",
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}]}, ");
    bb_status status = open_folder(&s, &err);
    if (!pres[_i].name) {
        ck_assert_int_eq(status, BB_UNSUPPORTED);
        ck_assert_msg(strstr(err.msg, "tokenizer.json: its pre-tokenizer is none that is known"), "%s", err.msg);
        return;
    }
    ck_assert_msg(status == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_source_text(&s, "tokenizer.ggml.pre", &name, NULL, &err), BB_OK);
    ck_assert_msg(name.size == strlen(pres[_i].name) && memcmp(name.data, pres[_i].name, name.size) == 0, "%.*s", (int)name.size, name.data);
    const bb_key *tokens = bb_source_find(&s, "tokenizer.ggml.tokens"), *types = bb_source_find(&s, "tokenizer.ggml.token_type"),
                 *merges = bb_source_find(&s, "tokenizer.ggml.merges");
    ck_assert_uint_eq(tokens->count, 320);
    ck_assert_str_eq(string_at(tokens, 4), "abc");
    ck_assert_str_eq(string_at(tokens, 6), "x y");
    ck_assert_str_eq(string_at(tokens, 9), "[PAD9]");
    ck_assert_int_eq(type_at(types, 4), 1);
    ck_assert_int_eq(type_at(types, 5), 3); /* looks like a control token */
    ck_assert_int_eq(type_at(types, 6), 4);
    ck_assert_int_eq(type_at(types, 9), 5);
    ck_assert_str_eq(string_at(merges, 0), "a b");
    ck_assert_str_eq(string_at(merges, 1), _i % 2 ? "ab c"
                                                  : "a\xC4\xA0"
                                                    "b c");
    ck_assert_int_eq(bb_source_u32(&s, "tokenizer.ggml.bos_token_id", &id, NULL, &err), BB_OK);
    ck_assert_uint_eq(id, 7); /* by its text: config.json says 1 */
    ck_assert_int_eq(bb_source_bool(&s, "tokenizer.ggml.add_bos_token", &add, NULL, &err), BB_OK);
    ck_assert(add);
    ck_assert_int_eq(bb_source_text(&s, "tokenizer.chat_template", &name, NULL, &err), BB_OK);
    ck_assert(name.size == 7 && memcmp(name.data, "{{ x }}", 7) == 0);
    bb_source_close(&s);
    bb_test_write(bb_test_path("folder/chat_template.jinja"), "{{ y }}!", 8); /* which wins, as in transformers */
    ck_assert_msg(open_folder(&s, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_source_text(&s, "tokenizer.chat_template", &name, NULL, &err), BB_OK);
    ck_assert(name.size == 8 && memcmp(name.data, "{{ y }}!", 8) == 0);
    bb_source_close(&s);
}
END_TEST

/* An empty merge has nothing behind its first byte: what is there is not looked at (valgrind tells). */
START_TEST(merges_are_pairs)
{
    static const char *const merges[] = { "[\"\"]", "[\" \"]", "[\"a\"]", "[\"a \"]", "[[\"a\"]]", "[[\"a\", \"\"]]", "[1]" };
    bb_source                s;
    bb_err                   err = BB_ERR_INIT;
    write_json("{\"type\": \"ByteLevel\"}", "", merges[_i], "");
    ck_assert_int_eq(open_folder(&s, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "merge 0 is no pair of texts"), "%s", err.msg);
}
END_TEST

/* BPE over characters: merges in the order of their list. */
START_TEST(byte_fallback_is_sentencepiece)
{
    bb_source s;
    bb_err    err = BB_ERR_INIT;
    float     score[5];
    write_json("null", "\"byte_fallback\": true, ", "[\"a b\", \"ab c\", \"a bc\"]", "");
    ck_assert_msg(open_folder(&s, &err) == BB_OK, "%s", err.msg);
    memcpy(score, bb_source_find(&s, "tokenizer.ggml.scores")->value, sizeof score);
    ck_assert(score[3] >= -1 && score[3] <= -1);
    ck_assert(score[4] >= -2 && score[4] <= -2);
    ck_assert_int_eq(type_at(bb_source_find(&s, "tokenizer.ggml.token_type"), 8), 6);
    ck_assert_ptr_null(bb_source_find(&s, "tokenizer.ggml.merges"));
    bb_source_close(&s);
    write_json("null", "\"byte_fallback\": true, ", "[\"ab\"]", "");
    ck_assert_int_eq(open_folder(&s, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "merge 0"), "%s", err.msg);
}
END_TEST

/* ---- what a model is known by, and small print ---- */

static void hash_of_folder(char hex[65])
{
    bb_model m;
    bb_err   err = BB_ERR_INIT;
    ck_assert_msg(bb_model_open(bb_test_path("folder"), &m, &err) == BB_OK, "%s", err.msg);
    snprintf(hex, 65, "%s", bb_model_sha256(&m));
    bb_model_close(&m);
}

/* Whatever a model depends on is in its hash: each of the small files changed by a byte that JSON and SentencePiece do not mind. */
START_TEST(every_file_is_in_the_hash)
{
    static const char *const files[] = { "folder/config.json", "folder/tokenizer.model", "folder/tokenizer_config.json", "folder/chat_template.jinja" };
    char                     before[65], after[65], *data;
    size_t                   n;
    write_folder();
    bb_test_write(bb_test_path("folder/tokenizer_config.json"), "{}", 2);
    bb_test_write(bb_test_path("folder/chat_template.jinja"), "x", 1);
    hash_of_folder(before);
    ck_assert_int_eq(bb_file_read(bb_test_path(files[_i]), &data, &n, NULL), BB_OK);
    data = bb_realloc(data, n + 3, 1, NULL);
    memcpy(data + n, _i == 1 ? "\xF8\x07\x05" : "   ", 3); /* a field that nobody knows, spaces */
    bb_test_write(bb_test_path(files[_i]), data, n + 3);
    bb_free(data);
    hash_of_folder(after);
    ck_assert_str_ne(before, after);
}
END_TEST

/* Adds a message of the model's file: field 2 is the trainer (its 3: the kind of model), 3 the normalizer (its 3: a space before the text?). */
static bb_status with_field(const char *field, bb_source *s, bb_err *err)
{
    char  *data;
    size_t n;
    write_folder();
    ck_assert_int_eq(bb_file_read(bb_test_path("folder/tokenizer.model"), &data, &n, NULL), BB_OK);
    data = bb_realloc(data, n + 4, 1, NULL);
    memcpy(data + n, field, 4);
    bb_test_write(bb_test_path("folder/tokenizer.model"), data, n + 4);
    bb_free(data);
    return open_folder(s, err);
}

START_TEST(kinds_of_sentencepiece)
{
    bb_source s;
    bb_err    err = BB_ERR_INIT;
    bool      prefix = true, found;
    ck_assert_msg(with_field("\x1A\x02\x18\x00", &s, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_source_bool(&s, "tokenizer.ggml.add_space_prefix", &prefix, NULL, &err), BB_OK);
    ck_assert(!prefix);
    bb_source_close(&s);
    ck_assert_msg(with_field("\x1A\x02\x18\x01", &s, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_source_bool(&s, "tokenizer.ggml.add_space_prefix", &prefix, &found, &err), BB_OK);
    ck_assert(!found);
    bb_source_close(&s);
    ck_assert_int_eq(with_field("\x12\x02\x18\x01", &s, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "type 1; BPE (2) is supported"), "%s", err.msg);
}
END_TEST

/* Beside tokenizer.model, a token that looks special is a control token of a llama, whatever is said of it, and is not one of a phi3. */
START_TEST(added_tokens_are_what_the_converter_says)
{
    static const char added[] =
        "{\"added_tokens_decoder\": {\"300\": {\"content\": \"<|user|>\", \"special\": false}, \"301\": {\"content\": \"x\", \"special\": true}}}";
    bb_source s;
    bb_err    err = BB_ERR_INIT;
    write_folder();
    bb_test_write(bb_test_path("folder/tokenizer_config.json"), added, sizeof added - 1);
    if (_i) edit_config("\"llama\"", "\"phi3\"");
    ck_assert_msg(open_folder(&s, &err) == BB_OK, "%s", err.msg);
    const bb_key *types = bb_source_find(&s, "tokenizer.ggml.token_type");
    ck_assert_int_eq(types->value[4 * 300], _i ? BB_TOKEN_USER : BB_TOKEN_CONTROL);
    ck_assert_int_eq(types->value[4 * 301], BB_TOKEN_CONTROL);
    bb_source_close(&s);
}
END_TEST

START_TEST(the_name_is_that_of_the_folder)
{
    bb_source s;
    bb_err    err = BB_ERR_INIT;
    bb_bytes  name;
    char      path[512];
    write_folder();
    snprintf(path, sizeof path, "%s%s", bb_test_path("folder"), _i ? "//" : "");
    ck_assert_msg(bb_source_open(path, &s, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_source_text(&s, "general.name", &name, NULL, &err), BB_OK);
    ck_assert(name.size == 6 && memcmp(name.data, "folder", 6) == 0);
    bb_source_close(&s);
}
END_TEST

/* ---- files that lie ---- */

START_TEST(folders_without_something_say_what)
{
    bb_source s;
    bb_err    err = BB_ERR_INIT;
    write_folder();
    unlink(bb_test_path("folder/tokenizer.model"));
    ck_assert_int_eq(open_folder(&s, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "neither tokenizer.model nor tokenizer.json"), "%s", err.msg);
    bb_err_clear(&err);
    unlink(bb_test_path("folder/model.safetensors"));
    ck_assert_int_eq(open_folder(&s, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "has no weights; model.safetensors is needed"), "%s", err.msg);
    bb_err_clear(&err);
    bb_test_write(bb_test_path("folder/pytorch_model.bin"), "x", 1);
    ck_assert_int_eq(open_folder(&s, &err), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "pytorch_model.bin"), "%s", err.msg);
    bb_err_clear(&err);
    hf_write(bb_test_path("m.gguf"), bb_test_path("folder"), 3, "");
    unlink(bb_test_path("folder/model-00002-of-00003.safetensors"));
    ck_assert_int_eq(open_folder(&s, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "model-00002-of-00003.safetensors is missing"), "%s", err.msg);
    bb_err_clear(&err);
    static const char *const elsewhere[] = { "../x", "x/y", "/x", "", "." };
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++) {
        char index[64];
        snprintf(index, sizeof index, "{\"weight_map\": {\"a\": \"%s\"}}", elsewhere[i]);
        bb_test_write(bb_test_path("folder/model.safetensors.index.json"), index, strlen(index));
        ck_assert_int_eq(open_folder(&s, &err), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, "is no name"), "%s: %s", elsewhere[i], err.msg);
        bb_err_clear(&err);
    }
}
END_TEST

/* text with the first `from` in it as `to`, written as the index. */
static void change_index(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    char       *all;
    ck_assert_ptr_nonnull(at);
    ck_assert_ptr_nonnull(all = bb_asprintf(NULL, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)));
    bb_test_write(bb_test_path("folder/model.safetensors.index.json"), all, strlen(all));
    bb_free(all);
}

/* What the index says is held against the shards: nothing else would notice a bias that is not there, or choose between two of the same name. */
START_TEST(index_and_shards_agree)
{
    bb_source s;
    bb_err    err = BB_ERR_INIT;
    char     *index, *shard;
    size_t    n, size;
    write_folder();
    hf_write(bb_test_path("m.gguf"), bb_test_path("folder"), 3, "");
    ck_assert_int_eq(open_folder(&s, &err), BB_OK);
    bb_source_close(&s);
    ck_assert_int_eq(bb_file_read(bb_test_path("folder/model.safetensors.index.json"), &index, &n, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(bb_test_path("folder/model-00001-of-00003.safetensors"), &shard, &size, NULL), BB_OK);
    bb_test_write(bb_test_path("folder/copy.safetensors"), shard, size);
    change_index(index, "\"weight_map\": {", "\"weight_map\": {\"model.layers.0.self_attn.q_proj.bias\": \"model-00001-of-00003.safetensors\", ");
    ck_assert_int_eq(open_folder(&s, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "model-00001-of-00003.safetensors has no tensor 'model.layers.0.self_attn.q_proj.bias'"), "%s", err.msg);
    bb_err_clear(&err);
    change_index(index, "model-00001-of-00003.safetensors", "copy.safetensors");
    ck_assert_int_eq(open_folder(&s, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "which model.safetensors.index.json says is in"), "%s", err.msg);
    bb_free(index);
    bb_free(shard);
}
END_TEST

/* A file of one tensor with this entry and four bytes of data. */
static bb_status parse(const char *entry, bb_safetensors *s, bb_err *err)
{
    static unsigned char file[1024];
    char                 header[900];
    const uint64_t       n = (uint64_t)snprintf(header, sizeof header, "{%s}", entry);
    memcpy(file, &n, 8);
    memcpy(file + 8, header, n);
    memset(file + 8 + n, 1, 4);
    return bb_safetensors_parse(file, (size_t)n + 12, s, err);
}

static const struct {
    const char *entry, *said;
} lies[] = {
    { "\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 5]}", "beyond the end" },
    { "\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]}", "beyond the end" },
    { "\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [-4, 0]}", "beyond the end" },
    { "\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]}", "need 8" },
    { "\"a\": {\"dtype\": \"F16\", \"shape\": [1], \"data_offsets\": [0, 4]}", "need 2" },
    { "\"a\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}", "no whole number" },
    { "\"a\": {\"dtype\": \"F32\", \"shape\": [4503599627370496, 4503599627370496], \"data_offsets\": [0, 4]}", "overflows" },
    { "\"a\": {\"dtype\": \"F32\", \"shape\": [1, 1, 1, 1, 1], \"data_offsets\": [0, 4]}", "more than 4" },
    { "\"a\": {\"dtype\": \"F8_E4M3\", \"shape\": [4], \"data_offsets\": [0, 4]}", "of type F8_E4M3" },
    { "\"a\": {\"shape\": [1], \"data_offsets\": [0, 4]}", "lacks dtype" },
    { "\"a\": 5", "lacks dtype" },
    { "\"a\": {}, \"a\": {}", "duplicate" },
};

START_TEST(lying_entries_are_refused)
{
    bb_safetensors s;
    bb_err         err = BB_ERR_INIT;
    bb_status      status = parse(lies[_i].entry, &s, &err);
    ck_assert(status == BB_BAD_FILE || status == BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, lies[_i].said), "%s", err.msg);
}
END_TEST

START_TEST(entries_are_read)
{
    bb_safetensors s;
    bb_err         err = BB_ERR_INIT;
    ck_assert_msg(parse("\"__metadata__\": {\"x\": \"y\"}, \"a\": {\"dtype\": \"BF16\", \"shape\": [2, 1], \"data_offsets\": [0, 4]}", &s, &err) == BB_OK, "%s",
                  err.msg);
    ck_assert_uint_eq(s.n_tensors, 1);
    ck_assert_str_eq(s.tensors[0].name, "a");
    ck_assert_int_eq(s.tensors[0].type, BB_BF16);
    ck_assert_uint_eq(s.tensors[0].n_dims, 2);
    ck_assert_uint_eq(s.tensors[0].shape[0], 2);
    ck_assert_uint_eq(s.tensors[0].shape[1], 1);
    ck_assert_uint_eq(((const unsigned char *)s.tensors[0].data)[3], 1);
    bb_safetensors_close(&s);
}
END_TEST

/* Every length and every changed byte of the small files: a sentence or a model, nothing else. */
START_TEST(damaged_files_do_not_crash)
{
    static const char *const files[] = { "folder/config.json", "folder/tokenizer.model", "folder/model.safetensors", "folder/tokenizer.json" };
    char                    *data, *copy;
    size_t                   n;
    bb_source                s;
    if (_i == 3) write_json(pres[0].pre, "", "[\"a b\", \"ab c\"]", "");
    else write_folder();
    ck_assert_int_eq(bb_file_read(bb_test_path(files[_i]), &data, &n, NULL), BB_OK);
    copy = bb_alloc(n, 1, NULL);
    for (size_t i = 0; i < n && i < 6000; i += 1 + i / 40) {
        bb_err err = BB_ERR_INIT;
        bb_test_write(bb_test_path(files[_i]), data, i);
        if (open_folder(&s, &err) == BB_OK) bb_source_close(&s);
        else ck_assert(err.msg[0]);
        memcpy(copy, data, n);
        copy[i] = (char)(copy[i] ^ (i % 3 ? 0x80 : 0x11));
        bb_err_clear(&err);
        bb_test_write(bb_test_path(files[_i]), copy, n);
        if (open_folder(&s, &err) == BB_OK) bb_source_close(&s);
        else ck_assert(err.msg[0]);
    }
    bb_free(data);
    bb_free(copy);
}
END_TEST

START_TEST(memory_failures_are_clean)
{
    bb_source s;
    bb_status status = BB_NOMEM;
    if (_i) write_json(pres[0].pre, "", "[\"a b\", \"ab c\"]", "");
    else write_folder();
    const size_t before = bb_mem_live_bytes();
    for (long n = 0; status != BB_OK; n++) {
        bb_err err = BB_ERR_INIT;
        bb_mem_fail_after(n);
        status = open_folder(&s, &err);
        bb_mem_fail_after(-1);
        if (status == BB_OK) bb_source_close(&s);
        else ck_assert_msg(status == BB_NOMEM, "%d: %s", (int)status, err.msg);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hf");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, tensors_and_vocabulary_are_those_of_the_gguf, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_test(t, factors_of_granite_become_keys);
    tcase_add_loop_test(t, vectors_of_16_bits_become_float32, 0, 2);
    tcase_add_loop_test(t, what_is_not_computed_is_refused, 0, (int)(sizeof refused / sizeof *refused));
    tcase_add_test(t, the_language_model_of_several_parts_is_read);
    tcase_add_test(t, llama_3_frequency_factors);
    tcase_add_test(t, smollm3_without_what_it_takes_for_granted);
    tcase_add_test(t, rope_of_transformers_5);
    tcase_add_loop_test(t, pre_tokenizers_are_told_by_their_rules, 0, (int)(sizeof pres / sizeof *pres));
    tcase_add_loop_test(t, merges_are_pairs, 0, 7);
    tcase_add_test(t, byte_fallback_is_sentencepiece);
    tcase_add_loop_test(t, every_file_is_in_the_hash, 0, 4);
    tcase_add_test(t, kinds_of_sentencepiece);
    tcase_add_loop_test(t, added_tokens_are_what_the_converter_says, 0, 2);
    tcase_add_loop_test(t, the_name_is_that_of_the_folder, 0, 2);
    tcase_add_test(t, folders_without_something_say_what);
    tcase_add_test(t, index_and_shards_agree);
    tcase_add_loop_test(t, lying_entries_are_refused, 0, (int)(sizeof lies / sizeof *lies));
    tcase_add_test(t, entries_are_read);
    tcase_add_loop_test(t, damaged_files_do_not_crash, 0, 4);
    tcase_add_loop_test(t, memory_failures_are_clean, 0, 2);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
