/* SPDX-License-Identifier: GPL-3.0-or-later
 * hf_folder.c: see hf_folder.h. */
#include "tests/support/hf_folder.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "model/io/gguf.h"

static const struct {
    const char *ours, *theirs;
} names[] = {
    { "attn_norm", "input_layernorm" },    { "attn_q", "self_attn.q_proj" },
    { "attn_k", "self_attn.k_proj" },      { "attn_v", "self_attn.v_proj" },
    { "attn_output", "self_attn.o_proj" }, { "attn_q_norm", "self_attn.q_norm" },
    { "attn_k_norm", "self_attn.k_norm" }, { "ffn_norm", "post_attention_layernorm" },
    { "ffn_gate", "mlp.gate_proj" },       { "ffn_up", "mlp.up_proj" },
    { "ffn_down", "mlp.down_proj" },
};

static void *need(void *p)
{
    if (!p) abort();
    return p;
}

static FILE *create(const char *dir, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return need(fopen(path, "wb"));
}

/* "blk.3.attn_q.weight" as "model.layers.3.self_attn.q_proj.weight"; NULL: no tensor of the folder. */
static const char *theirs(const char *ours, char out[128])
{
    unsigned b;
    int      n = 0;
    if (strcmp(ours, "token_embd.weight") == 0) return "model.embed_tokens.weight";
    if (strcmp(ours, "output_norm.weight") == 0) return "model.norm.weight";
    if (strcmp(ours, "output.weight") == 0) return "lm_head.weight";
    if (sscanf(ours, "blk.%u.%n", &b, &n) != 1 || n == 0) return NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const size_t k = strlen(names[i].ours);
        if (strncmp(ours + n, names[i].ours, k) != 0 || ours[(size_t)n + k] != '.') continue;
        snprintf(out, 128, "model.layers.%u.%s%s", b, names[i].theirs, ours + (size_t)n + k);
        return out;
    }
    abort();
}

/* The row of GGUF that is row r of the folder, when GGUF has pairs: r counts the first halves of a head's pairs, then the second. */
static size_t row_of(size_t r, size_t D)
{
    const size_t head = r / D, i = r % D;
    return head * D + (i < D / 2 ? 2 * i : 2 * (i - D / 2) + 1);
}

static const char *dtype(bb_type t) { return t == BB_F32 ? "F32" : t == BB_F16 ? "F16" : t == BB_BF16 ? "BF16" : need(NULL); }

/* Tensors whose number leaves rest `part` when divided by n_parts. */
static void write_shard(const bb_source *g, const char *dir, const char *file, unsigned part, unsigned n_parts, size_t D, bool pairs, FILE *index)
{
    bb_text header = { .data = NULL };
    char    name[128];
    size_t  at = 0;
    FILE   *f = create(dir, file);
    bb_text_add(&header, "{\"__metadata__\": {\"format\": \"pt\"}");
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t i = part; i < g->n_tensors; i += n_parts) {
            const bb_tensor *t = &g->tensors[i];
            const char      *to = theirs(t->name, name);
            const size_t     rows = t->n_dims == 2 ? (size_t)t->ne[1] : (size_t)t->ne[0], row = (size_t)t->size_bytes / rows;
            if (!to) continue;
            if (pass == 0) {
                char shape[64];
                if (t->n_dims == 2) snprintf(shape, sizeof shape, "%zu, %zu", (size_t)t->ne[1], (size_t)t->ne[0]);
                else snprintf(shape, sizeof shape, "%zu", (size_t)t->ne[0]);
                bb_text_addf(&header, ", \"%s\": {\"dtype\": \"%s\", \"shape\": [%s], \"data_offsets\": [%zu, %zu]}", to, dtype(t->type), shape, at,
                             at + (size_t)t->size_bytes);
                at += (size_t)t->size_bytes;
                if (index) fprintf(index, "%s\"%s\": \"%s\"", i == 0 ? "" : ", ", to, file);
            } else {
                const bool turn = pairs && (strstr(t->name, ".attn_q.") || strstr(t->name, ".attn_k."));
                for (size_t r = 0; r < rows; r++) fwrite((const char *)t->data + row * (turn ? row_of(r, D) : r), 1, row, f);
            }
        }
        if (pass == 0) {
            const uint64_t length = header.size + 1;
            fwrite(&length, 8, 1, f);
            fprintf(f, "%s}", header.data);
        }
    }
    bb_text_done(&header);
    fclose(f);
}

static void varint(FILE *f, size_t v)
{
    for (; v > 127; v >>= 7) fputc((int)(v & 127) | 128, f);
    fputc((int)v, f);
}

/* A SentencePiece model: pieces {text, score, type}, trainer {model_type BPE}, a field that nobody knows. */
static void write_spm(const bb_source *g, const char *dir)
{
    const bb_key *tokens = need((void *)(size_t)bb_source_find(g, "tokenizer.ggml.tokens")), *scores = bb_source_find(g, "tokenizer.ggml.scores"),
                 *types = bb_source_find(g, "tokenizer.ggml.token_type");
    FILE *f = create(dir, "tokenizer.model");
    for (uint64_t i = 0; i < tokens->count; i++) {
        const size_t n = (size_t)tokens->strings[i].size;
        fputc(1 << 3 | 2, f);
        varint(f, 1 + (n > 127 ? 2U : 1U) + n + 5 + 2);
        fputc(1 << 3 | 2, f);
        varint(f, n);
        fwrite(tokens->strings[i].data, 1, n, f);
        fputc(2 << 3 | 5, f);
        fwrite(scores->value + 4 * i, 4, 1, f);
        fputc(3 << 3, f);
        fputc(types->value[4 * i], f);
    }
    fwrite("\x12\x02\x18\x02", 1, 4, f);
    fwrite("\xF8\x07\x05", 1, 3, f);
    fclose(f);
}

/* Removes what an earlier call left. */
static void make_empty(const char *dir)
{
    struct dirent *e;
    DIR           *d;
    char           path[512];
    mkdir(dir, 0777);
    d = need(opendir(dir));
    while ((e = readdir(d)))
        if (e->d_name[0] != '.' && snprintf(path, sizeof path, "%s/%s", dir, e->d_name) < (int)sizeof path) unlink(path);
    closedir(d);
}

void hf_write(const char *gguf, const char *dir, unsigned n_shards, const char *more)
{
    bb_source                g;
    bb_err                   err = BB_ERR_INIT;
    bb_bytes                 arch;
    char                     key[96], name[64];
    uint32_t                 v[8], D;
    float                    eps, base;
    bool                     found;
    FILE                    *f, *index = NULL;
    static const char *const keys[] = { "block_count",          "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
                                        "attention.key_length", "context_length" };
    if (bb_gguf_open(gguf, &g, &err) != BB_OK || bb_source_text(&g, "general.architecture", &arch, NULL, &err) != BB_OK) abort();
    for (int i = 0; i < 7; i++) {
        snprintf(key, sizeof key, "%.*s.%s", (int)arch.size, arch.data, keys[i]);
        if (bb_source_u32(&g, key, &v[i], &found, &err) != BB_OK) abort();
        if (!found) v[i] = i == 5 ? v[1] / v[3] : v[3];
    }
    D = v[5];
    snprintf(key, sizeof key, "%.*s.attention.layer_norm_rms_epsilon", (int)arch.size, arch.data);
    if (bb_source_f32(&g, key, &eps, NULL, &err) != BB_OK) abort();
    snprintf(key, sizeof key, "%.*s.rope.freq_base", (int)arch.size, arch.data);
    if (bb_source_f32(&g, key, &base, &found, &err) != BB_OK) abort();
    if (!found) base = 10000;
    make_empty(dir);
    f = create(dir, "config.json");
    fprintf(
        f,
        "{%s\"model_type\": \"%.*s\", \"num_hidden_layers\": %u, \"hidden_size\": %u, \"intermediate_size\": %u, \"num_attention_heads\": %u,\n"
        " \"num_key_value_heads\": %u, \"head_dim\": %u, \"max_position_embeddings\": %u, \"vocab_size\": %u, \"rms_norm_eps\": %.9g, \"rope_theta\": %.9g,\n"
        " \"hidden_act\": \"silu\", \"tie_word_embeddings\": %s, \"bos_token_id\": 1, \"eos_token_id\": 2}\n",
        more, (int)arch.size, arch.data, v[0], v[1], v[2], v[3], v[4], D, v[6], (unsigned)bb_source_tensor(&g, "token_embd.weight")->ne[1], (double)eps,
        (double)base, bb_source_tensor(&g, "output.weight") ? "false" : "true");
    fclose(f);
    if (n_shards > 1) {
        index = create(dir, "model.safetensors.index.json");
        fprintf(index, "{\"metadata\": {}, \"weight_map\": {");
    }
    for (unsigned s = 0; s < n_shards; s++) {
        if (n_shards > 1) snprintf(name, sizeof name, "model-%05u-of-%05u.safetensors", s + 1, n_shards);
        else snprintf(name, sizeof name, "model.safetensors");
        write_shard(&g, dir, name, s, n_shards, D, arch.data[0] != 'q', index);
    }
    if (index) {
        fprintf(index, "}}\n");
        fclose(index);
    }
    write_spm(&g, dir);
    bb_source_close(&g);
}
