/* SPDX-License-Identifier: GPL-3.0-or-later
 * hf.c: see hf.h. Keys and tensors are gathered in a list such as the writer of GGUF has, and the source is a view of that list: so what is read from
 * a folder is what would be written from it. */
#include "model/io/hf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/io/hf_parts.h"
#include "model/io/safetensors.h"

typedef struct shard {
    char          *name;
    bb_safetensors tensors;
} shard;

typedef struct hf_folder {
    bb_gguf_out *out;
    bb_hf_config config;
    shard       *shards;
    size_t       n_shards;
    void       **owned; /* data of tensors that are not as the files have them */
    size_t       n_owned, room;
    bb_map       hashed[6]; /* the small files that the source depends on */
} hf_folder;

static const char *const hashed_names[] = { "config.json",           "tokenizer.json",      "tokenizer.model",
                                            "tokenizer_config.json", "chat_template.jinja", "added_tokens.json" };
enum { N_HASHED = sizeof hashed_names / sizeof *hashed_names };

static char *path_in(const char *folder, const char *name, bb_err *err) { return bb_asprintf(err, "%s/%s", folder, name); }

/* Takes v; real numbers of it that are whole, and exact, become integers. */
static json_t *whole_again(json_t *v)
{
    const double x = json_real_value(v);
    const char  *key;
    json_t      *inner;
    size_t       i;
    void        *next;
    if (json_is_real(v) && x > -0x1p53 && x < 0x1p53 && floor(x) >= x) {
        json_decref(v);
        return json_integer((json_int_t)x);
    }
    json_object_foreach_safe(v, next, key, inner) json_object_set_new_nocheck(v, key, whole_again(json_incref(inner)));
    json_array_foreach(v, i, inner) json_array_set_new(v, i, whole_again(json_incref(inner)));
    return v;
}

bb_status bb_hf_json(const char *folder, const char *name, json_t **out, bb_err *err)
{
    char        *path = path_in(folder, name, err), *text = NULL;
    size_t       size;
    json_error_t where;
    char         shown[BB_SHOWN];
    bb_status    status = path ? BB_OK : BB_NOMEM;
    *out = NULL;
    if (status != BB_OK) goto done;
    if (!bb_file_exists(path)) {
        status = BB_NOT_FOUND;
        goto done;
    }
    BB_TRY(bb_file_read(path, &text, &size, err));
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
    /* a number that is no int64, such as the 10^30 of a tokenizer without a longest text: all numbers are read as real ones then */
    if (!*out && json_error_code(&where) == json_error_numeric_overflow)
        *out = whole_again(json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &where));
    if (*out && json_is_object(*out)) goto done;
    status = *out ? BB_FAIL(err, BB_BAD_FILE, "%s: this is JSON, but no object", path)
                  : BB_FAIL(err, BB_BAD_FILE, "%s, line %d: this is no JSON: %s", path, where.line,
                            bb_show((bb_bytes) { where.text, strlen(where.text) }, shown));
    json_decref(*out);
    *out = NULL;
done:
    bb_free(text);
    bb_free(path);
    return status;
}

bool bb_hf_is_folder(const char *path) { return bb_folder_has(path, "config.json"); }

/* ---- shards ---- */

static bb_status open_shard(hf_folder *f, const char *dir, const char *name, bb_err *err)
{
    shard    *s = &f->shards[f->n_shards];
    char     *path = path_in(dir, name, err);
    bb_status status = BB_NOMEM;
    if (!path || !(s->name = bb_strdup(name, err))) goto done;
    f->n_shards++;
    status = bb_file_exists(path) ? bb_safetensors_open(path, &s->tensors, err)
                                  : BB_FAIL(err, BB_BAD_FILE, "%s is missing: %s/model.safetensors.index.json names it", path, dir);
done:
    bb_free(path);
    return status;
}

/* A file of the folder itself: nothing that leads elsewhere. */
static bool is_plain_name(const char *name) { return name && *name && *name != '.' && !strchr(name, '/'); }

static bool holds(const shard *s, const char *tensor)
{
    for (size_t i = 0; i < s->tensors.n_tensors; i++)
        if (strcmp(s->tensors.tensors[i].name, tensor) == 0) return true;
    return false;
}

/* A shard that is not the index's, of another download for instance, could lack a bias without anybody noticing, or have a tensor twice. */
static bb_status check_index(const hf_folder *f, const char *dir, json_t *map, bb_err *err)
{
    const char *tensor;
    json_t     *v;
    size_t      n = 0;
    char        shown[BB_SHOWN];
    for (size_t k = 0; k < f->n_shards; k++)
        for (size_t i = 0; i < f->shards[k].tensors.n_tensors; i++) {
            tensor = f->shards[k].tensors.tensors[i].name;
            const char *name = json_string_value(json_object_get(map, tensor));
            if (name && strcmp(name, f->shards[k].name) != 0)
                return BB_FAIL(err, BB_BAD_FILE, "%s/%s has a tensor '%s', which model.safetensors.index.json says is in %s", dir, f->shards[k].name,
                               bb_show((bb_bytes) { tensor, strlen(tensor) }, shown), name);
            n += name != NULL;
        }
    if (n == json_object_size(map)) return BB_OK;
    json_object_foreach(map, tensor, v)
    {
        size_t k = 0;
        while (k < f->n_shards && !holds(&f->shards[k], tensor)) k++;
        if (k == f->n_shards)
            return BB_FAIL(err, BB_BAD_FILE, "%s/%s has no tensor '%s', which model.safetensors.index.json says is in it", dir, json_string_value(v),
                           bb_show((bb_bytes) { tensor, strlen(tensor) }, shown));
    }
    return BB_OK;
}

static bb_status open_indexed(hf_folder *f, const char *dir, const json_t *index, bb_err *err)
{
    json_t     *map = json_object_get(index, "weight_map"), *v;
    const char *tensor;
    char        shown[BB_SHOWN];
    bb_status   status = BB_OK;
    if (!json_is_object(map) || json_object_size(map) == 0) return BB_FAIL(err, BB_BAD_FILE, "%s/model.safetensors.index.json has no weight_map", dir);
    if (!(f->shards = BB_NEW0(json_object_size(map), shard, err))) return BB_NOMEM;
    json_object_foreach(map, tensor, v)
    {
        const char *name = json_string_value(v);
        size_t      i = 0;
        if (!is_plain_name(name))
            return BB_FAIL(err, BB_BAD_FILE, "%s/model.safetensors.index.json: the file of '%s' is no name", dir,
                           bb_show((bb_bytes) { tensor, strlen(tensor) }, shown));
        while (i < f->n_shards && strcmp(f->shards[i].name, name) != 0) i++;
        if (i == f->n_shards) BB_TRY(open_shard(f, dir, name, err));
    }
    status = check_index(f, dir, map, err);
done:
    return status;
}

static bb_status open_shards(hf_folder *f, const char *dir, bb_err *err)
{
    json_t   *index = NULL;
    bb_status status = bb_hf_json(dir, "model.safetensors.index.json", &index, err);
    if (status == BB_OK) {
        status = open_indexed(f, dir, index, err);
    } else if (status == BB_NOT_FOUND) {
        if (!bb_folder_has(dir, "model.safetensors")) {
            const bool torch = bb_folder_has(dir, "pytorch_model.bin") || bb_folder_has(dir, "pytorch_model.bin.index.json");
            return BB_FAIL(err, torch ? BB_UNSUPPORTED : BB_BAD_FILE, "%s has %s; model.safetensors is needed, or its shards and model.safetensors.index.json",
                           dir, torch ? "its weights as pytorch_model.bin" : "no weights");
        }
        if (!(f->shards = BB_NEW0(1, shard, err))) return BB_NOMEM;
        status = open_shard(f, dir, "model.safetensors", err);
    }
    json_decref(index);
    return status;
}

/* Of a folder whose language model is a part of it: what the tensors of that begin with, and what they begin with in a folder of its own. */
static const struct {
    const char *nested, *plain;
} beginnings[] = {
    { "model.language_model.", "model." }, { "language_model.model.", "model." }, { "language_model.lm_head.", "lm_head." }, { "lm_head.", "lm_head." }
};

/* The name of a tensor as a folder of the language model alone has it, in room; NULL: it belongs to another part. */
static const char *plain_name(const hf_folder *f, const char *name, char room[160])
{
    if (!f->config.nested) return name;
    for (size_t i = 0; i < sizeof beginnings / sizeof *beginnings; i++) {
        const size_t n = strlen(beginnings[i].nested);
        if (strncmp(name, beginnings[i].nested, n) != 0) continue;
        snprintf(room, 160, "%s%s", beginnings[i].plain, name + n);
        return room;
    }
    return NULL;
}

static const bb_safetensor *find(const hf_folder *f, const char *name)
{
    char        room[160];
    const char *plain;
    for (size_t k = 0; k < f->n_shards; k++)
        for (size_t i = 0; i < f->shards[k].tensors.n_tensors; i++)
            if ((plain = plain_name(f, f->shards[k].tensors.tensors[i].name, room)) && strcmp(plain, name) == 0) return &f->shards[k].tensors.tensors[i];
    return NULL;
}

/* Says what of a folder is not read. */
static void tell_left_out(const hf_folder *f, const char *dir)
{
    size_t   left = 0;
    uint64_t bytes = 0;
    char     room[160];
    for (size_t k = 0; k < f->n_shards; k++)
        for (size_t i = 0; i < f->shards[k].tensors.n_tensors; i++)
            if (!plain_name(f, f->shards[k].tensors.tensors[i].name, room)) {
                left++;
                bytes += f->shards[k].tensors.tensors[i].size_bytes;
            }
    if (left)
        bb_warn("%s: its language model is read; %zu tensors of its other parts (pictures, sound), %.1f MB, are left out", dir, left, (double)bytes / 1e6);
}

/* ---- tensors ---- */

typedef enum row_order {
    AS_IT_IS,
    Q_ROWS,
    K_ROWS, /* heads whose rows GGUF may have in pairs */
    BARE    /* as it is; a vector whose name has no ending */
} row_order;

typedef enum whose {
    OF_ALL,
    OF_POST,
    OF_PRE,  /* of kinds of models with, or without, norms of what sublayers give */
    OF_TOKEN /* of those whose tokens may give something to each block */
} whose;

static const struct {
    const char *from, *to;
    row_order   order;
    whose       whose;
} in_block[] = {
    { "input_layernorm", "attn_norm", AS_IT_IS, OF_ALL },
    { "self_attn.q_proj", "attn_q", Q_ROWS, OF_ALL },
    { "self_attn.k_proj", "attn_k", K_ROWS, OF_ALL },
    { "self_attn.v_proj", "attn_v", AS_IT_IS, OF_ALL },
    { "self_attn.qkv_proj", "attn_qkv", AS_IT_IS, OF_ALL },
    { "self_attn.o_proj", "attn_output", AS_IT_IS, OF_ALL },
    { "self_attn.q_norm", "attn_q_norm", AS_IT_IS, OF_ALL },
    { "self_attn.k_norm", "attn_k_norm", AS_IT_IS, OF_ALL },
    { "post_attention_layernorm", "ffn_norm", AS_IT_IS, OF_PRE },
    { "post_attention_layernorm", "post_attention_norm", AS_IT_IS, OF_POST },
    { "pre_feedforward_layernorm", "ffn_norm", AS_IT_IS, OF_POST },
    { "post_feedforward_layernorm", "post_ffw_norm", AS_IT_IS, OF_POST },
    { "mlp.gate_proj", "ffn_gate", AS_IT_IS, OF_ALL },
    { "mlp.up_proj", "ffn_up", AS_IT_IS, OF_ALL },
    { "mlp.gate_up_proj", "ffn_up", AS_IT_IS, OF_ALL },
    { "mlp.down_proj", "ffn_down", AS_IT_IS, OF_ALL },
    { "layer_scalar", "layer_output_scale", BARE, OF_POST },
    { "per_layer_input_gate", "inp_gate", AS_IT_IS, OF_TOKEN },
    { "per_layer_projection", "proj", AS_IT_IS, OF_TOKEN },
    { "post_per_layer_input_norm", "post_norm", AS_IT_IS, OF_TOKEN },
};

/* Around the blocks, of kinds of models whose tokens may give something to each of them. */
static const char *const of_token[][2] = {
    { "model.embed_tokens_per_layer", "per_layer_token_embd" },
    { "model.per_layer_model_projection", "per_layer_model_proj" },
    { "model.per_layer_projection_norm", "per_layer_proj_norm" },
};
enum { N_OF_TOKEN = sizeof of_token / sizeof *of_token };

static bool is_of(whose w, const bb_hf_arch *arch) { return w == OF_ALL || (w == OF_TOKEN ? arch->own_kinds : (w == OF_POST) == arch->post_norms); }

static bool is_of_token(const hf_folder *f, const char *name)
{
    for (size_t i = 0; f->config.arch->own_kinds && i < N_OF_TOKEN; i++) {
        const size_t n = strlen(of_token[i][0]);
        if (strncmp(name, of_token[i][0], n) == 0 && strcmp(name + n, ".weight") == 0) return true;
    }
    return false;
}

static void *own(hf_folder *f, size_t n, size_t size, bb_err *err)
{
    void *p;
    if (f->n_owned == f->room) {
        size_t room = f->room ? 2 * f->room : 64;
        void **bigger = bb_realloc(f->owned, room, sizeof *bigger, err);
        if (!bigger) return NULL;
        f->owned = bigger;
        f->room = room;
    }
    if ((p = bb_alloc(n, size, err))) f->owned[f->n_owned++] = p;
    return p;
}

static bool ends(const char *name, const char *end)
{
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

/* Vectors are float32 in GGUF, norms with their 1. */
static bb_status widen(hf_folder *f, const bb_safetensor *from, bool less_1, bb_tensor *t, bb_err *err)
{
    const unsigned char *p = from->data;
    float               *w = own(f, (size_t)from->shape[0], sizeof *w, err);
    if (!w) return BB_NOMEM;
    for (size_t i = 0; i < from->shape[0]; i++)
        w[i] = from->type == BB_F32   ? bb_bits_float(bb_load_u32(p + 4 * i))
               : from->type == BB_F16 ? bb_half_to_float(bb_load_u16(p + 2 * i))
                                      : bb_bf16_to_float(bb_load_u16(p + 2 * i));
    for (size_t i = 0; less_1 && i < from->shape[0]; i++) w[i] += 1;
    t->type = BB_F32;
    t->data = w;
    return BB_OK;
}

/* Row i of the first half of a head to row 2 i, row i of the second to 2 i + 1. rows of row_bytes. */
static bb_status to_pairs(hf_folder *f, bb_tensor *t, uint64_t rows, size_t row_bytes, uint32_t n_head, bb_err *err)
{
    const uint32_t       D = f->config.head_dim;
    const unsigned char *from = t->data;
    unsigned char       *to;
    if (rows != (uint64_t)n_head * D)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' has %llu rows; %u heads of %u are needed", t->name, (unsigned long long)rows, n_head, D);
    if (!(to = own(f, (size_t)rows, row_bytes, err))) return BB_NOMEM;
    for (uint64_t r = 0; r < rows; r++) {
        const uint64_t head = r / D, i = r % D;
        memcpy(to + (head * D + (i < D / 2 ? 2 * i : 2 * (i - D / 2) + 1)) * row_bytes, from + r * row_bytes, row_bytes);
    }
    t->data = to;
    return BB_OK;
}

static bb_status put_tensor(hf_folder *f, const bb_safetensor *from, const char *name, row_order order, bb_err *err)
{
    bb_tensor t = { .type = from->type, .n_dims = from->n_dims, .data = from->data, .ne = { 1, 1, 1, 1 } };
    size_t    row_bytes;
    bb_status status = BB_OK;
    snprintf(t.name, sizeof t.name, "%s", name);
    for (uint32_t i = 0; i < from->n_dims; i++) t.ne[from->n_dims - 1 - i] = from->shape[i];
    if (from->n_dims != 1 && from->n_dims != 2)
        return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' has %u dimensions; matrices and vectors are read", t.name, from->n_dims);
    if (from->size_bytes == 0) return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' is empty", t.name);
    if (from->n_dims == 1) BB_TRY(widen(f, from, f->config.arch->norms_less_1 && ends(from->name, "norm.weight"), &t, err));
    row_bytes = from->n_dims == 1 ? sizeof(float) : (size_t)(from->size_bytes / from->shape[0]);
    if ((order == Q_ROWS || order == K_ROWS) && f->config.arch->pairs)
        BB_TRY(to_pairs(f, &t, from->shape[0], row_bytes, order == Q_ROWS ? f->config.n_head : f->config.n_kv, err));
    BB_TRY(bb_gguf_put_tensor(f->out, &t, err));
done:
    return status;
}

/* FROM and its ".weight" or ".bias", where the folder has it. */
static bb_status put_named(hf_folder *f, const char *from, const char *to, const char *ending, row_order order, bb_err *err)
{
    char                 old[160], name[64];
    const bb_safetensor *t;
    if (order == BARE && strcmp(ending, "weight") == 0) snprintf(old, sizeof old, "%s", from);
    else snprintf(old, sizeof old, "%s.%s", from, ending);
    snprintf(name, sizeof name, "%s.%s", to, ending);
    if (!(t = find(f, old))) return BB_OK;
    return put_tensor(f, t, name, order, err);
}

/* Computed from config.json. */
static bool is_ignored(const char *name) { return ends(name, ".rotary_emb.inv_freq"); }

/* A tensor that is nothing of the architecture: computing without it would be wrong. */
static bb_status refuse_unknown(const hf_folder *f, bb_err *err)
{
    for (size_t k = 0; k < f->n_shards; k++)
        for (size_t i = 0; i < f->shards[k].tensors.n_tensors; i++) {
            char        shown[BB_SHOWN], room[160];
            const char *name = plain_name(f, f->shards[k].tensors.tensors[i].name, room), *part = name, *end;
            unsigned    block = 0;
            int         n = 0;
            if (!name) continue;
            bool known = is_ignored(name) || strcmp(name, "model.embed_tokens.weight") == 0 || strcmp(name, "model.norm.weight") == 0 ||
                         strcmp(name, "lm_head.weight") == 0 || is_of_token(f, name);
            if (sscanf(name, "model.layers.%u.%n", &block, &n) == 1 && n > 0 && block < f->config.n_layer) {
                part = name + n;
                end = strrchr(part, '.');
                for (size_t p = 0; p < sizeof in_block / sizeof *in_block; p++)
                    known |= is_of(in_block[p].whose, f->config.arch) && in_block[p].order == BARE && strcmp(part, in_block[p].from) == 0;
                for (size_t p = 0; end && p < sizeof in_block / sizeof *in_block; p++)
                    known |= is_of(in_block[p].whose, f->config.arch) && in_block[p].order != BARE && strlen(in_block[p].from) == (size_t)(end - part) &&
                             strncmp(part, in_block[p].from, (size_t)(end - part)) == 0 && (strcmp(end, ".weight") == 0 || strcmp(end, ".bias") == 0);
            }
            if (!known)
                return BB_FAIL(err, BB_UNSUPPORTED, "%s has a tensor '%s', which a %s of %u blocks does not have", f->shards[k].name,
                               bb_show((bb_bytes) { name, strlen(name) }, shown), f->config.arch->model_type, f->config.n_layer);
        }
    return BB_OK;
}

/* general.file_type of llama.cpp by the type that the embedding has. */
static uint32_t file_type(bb_type type) { return type == BB_F32 ? 0 : type == BB_F16 ? 1 : 32; }

/* "135M": the weights of all tensors, in two digits or more. */
static bb_status put_size_label(hf_folder *f, bb_err *err)
{
    static const char units[] = "KMBT";
    double            n = 0;
    char              label[32], room[160];
    int               unit = 0;
    for (size_t k = 0; k < f->n_shards; k++)
        for (size_t i = 0; i < f->shards[k].tensors.n_tensors; i++) {
            const bb_safetensor *t = &f->shards[k].tensors.tensors[i];
            const char          *name = plain_name(f, t->name, room);
            if (!name || (f->config.tied && strcmp(name, "lm_head.weight") == 0 && find(f, "model.embed_tokens.weight"))) continue;
            n += (double)t->size_bytes / bb_format_get(t->type)->block_bytes;
        }
    for (n /= 1e3; n > 1e3 && units[unit + 1]; n /= 1e3) unit++;
    snprintf(label, sizeof label, "%.*f%c", n < 9.5 ? 1 : 0, n, units[unit]);
    return bb_gguf_put_text(f->out, "general.size_label", label, err);
}

static bb_status put_factors(hf_folder *f, const char *name, const float *factors, bb_err *err)
{
    bb_tensor t = { .type = BB_F32, .n_dims = 1, .ne = { f->config.n_rot / 2, 1, 1, 1 }, .data = factors };
    if (!factors) return BB_OK;
    snprintf(t.name, sizeof t.name, "%s", name);
    return bb_gguf_put_tensor(f->out, &t, err);
}

static bb_status put_tensors(hf_folder *f, bb_err *err)
{
    const bb_safetensor *embd = find(f, "model.embed_tokens.weight"), *head = find(f, "lm_head.weight");
    bb_status            status;
    BB_TRY(refuse_unknown(f, err));
    if (!embd && f->config.tied) embd = head;
    if (!embd) return BB_FAIL(err, BB_BAD_FILE, "tensor 'model.embed_tokens.weight' is missing");
    if (!head && !f->config.tied) return BB_FAIL(err, BB_BAD_FILE, "tensor 'lm_head.weight' is missing, and config.json does not say 'tie_word_embeddings'");
    BB_TRY(bb_gguf_put_u32(f->out, "general.file_type", file_type(embd->type), err));
    BB_TRY(bb_gguf_put_u32(f->out, "general.quantization_version", 2, err));
    BB_TRY(put_size_label(f, err));
    BB_TRY(put_tensor(f, embd, "token_embd.weight", AS_IT_IS, err));
    BB_TRY(put_factors(f, f->config.rope_long ? "rope_factors_short.weight" : "rope_freqs.weight", f->config.rope_factors, err));
    BB_TRY(put_factors(f, "rope_factors_long.weight", f->config.rope_long, err));
    for (size_t i = 0; f->config.arch->own_kinds && i < N_OF_TOKEN; i++) BB_TRY(put_named(f, of_token[i][0], of_token[i][1], "weight", AS_IT_IS, err));
    for (uint32_t b = 0; b < f->config.n_layer; b++)
        for (size_t p = 0; p < sizeof in_block / sizeof *in_block; p++) {
            char from[128], to[48];
            if (!is_of(in_block[p].whose, f->config.arch)) continue;
            snprintf(from, sizeof from, "model.layers.%u.%s", b, in_block[p].from);
            snprintf(to, sizeof to, "blk.%u.%s", b, in_block[p].to);
            BB_TRY(put_named(f, from, to, "weight", in_block[p].order, err));
            BB_TRY(put_named(f, from, to, "bias", in_block[p].order, err));
        }
    BB_TRY(put_named(f, "model.norm", "output_norm", "weight", AS_IT_IS, err));
    if (!f->config.tied) BB_TRY(put_tensor(f, head, "output.weight", AS_IT_IS, err));
done:
    return status;
}

/* "model" of "some/where/model/" */
static bb_status put_name(hf_folder *f, const char *dir, bb_err *err)
{
    size_t    n = strlen(dir), start;
    char     *name;
    bb_status status;
    while (n > 1 && dir[n - 1] == '/') n--;
    for (start = n; start > 0 && dir[start - 1] != '/'; start--) {}
    if (n - start == 0 || (n - start == 1 && dir[start] == '.')) return BB_OK; /* "." says nothing */
    if (!(name = bb_asprintf(err, "%.*s", (int)(n - start), dir + start))) return BB_NOMEM;
    status = bb_gguf_put_text(f->out, "general.name", name, err);
    bb_free(name);
    return status;
}

/* ---- the source ---- */

static bb_status whole(const bb_source *s, bb_err *err)
{
    (void)s;
    (void)err;
    return BB_OK; /* opening looked for every shard */
}

static void release(const bb_source *s, uint32_t layer)
{
    const hf_folder *f = s->self;
    (void)layer; /* a shard holds many blocks */
    for (size_t i = 0; i < f->n_shards; i++) bb_map_release(&f->shards[i].tensors.map);
}

static void hash(const bb_source *s, bb_sha256 *h)
{
    const hf_folder *f = s->self;
    for (int i = 0; i < N_HASHED; i++) bb_sha256_update(h, f->hashed[i].data, f->hashed[i].size);
    for (size_t i = 0; i < f->n_shards; i++) bb_sha256_update(h, f->shards[i].tensors.map.data, f->shards[i].tensors.map.size);
}

static void close_folder(bb_source *s)
{
    hf_folder *f = s->self;
    if (!f) return;
    for (size_t i = 0; i < f->n_shards; i++) {
        bb_safetensors_close(&f->shards[i].tensors);
        bb_free(f->shards[i].name);
    }
    for (size_t i = 0; i < f->n_owned; i++) bb_free(f->owned[i]);
    for (int i = 0; i < N_HASHED; i++)
        if (f->hashed[i].data) bb_map_close(&f->hashed[i]);
    bb_gguf_out_destroy(f->out);
    bb_free(f->config.rope_factors);
    bb_free(f->config.rope_long);
    bb_free(f->shards);
    bb_free(f->owned);
    bb_free(f);
}

static const bb_reader reader = { "Hugging Face", whole, release, hash, close_folder };

static bb_status map_hashed(hf_folder *f, const char *dir, bb_err *err)
{
    bb_status status = BB_OK;
    for (int i = 0; i < N_HASHED && status == BB_OK; i++) {
        char *path = path_in(dir, hashed_names[i], err);
        if (!path) return BB_NOMEM;
        if (bb_file_exists(path)) status = bb_map_open(path, &f->hashed[i], err);
        bb_free(path);
    }
    return status;
}

bb_status bb_hf_open(const char *dir, bb_source *s, bb_err *err)
{
    hf_folder *f = BB_NEW0(1, hf_folder, err);
    json_t    *config = NULL;
    bb_err     inner = BB_ERR_INIT;
    bb_status  status = BB_NOMEM;
    *s = (bb_source) { .reader = &reader, .self = f };
    if (!f) goto done;
    BB_TRY(bb_gguf_out_create(&f->out, err));
    BB_TRY(bb_hf_json(dir, "config.json", &config, err));
    status = bb_hf_config_read(config, &f->config, f->out, &inner);
    if (status != BB_OK) {
        BB_FAIL(err, status, "%s/config.json: %s", dir, inner.msg);
        goto done;
    }
    BB_TRY(put_name(f, dir, err));
    BB_TRY(open_shards(f, dir, err));
    if (f->config.nested) tell_left_out(f, dir);
    status = put_tensors(f, &inner);
    if (status != BB_OK) {
        BB_FAIL(err, status, "%s: %s", dir, inner.msg);
        goto done;
    }
    BB_TRY(bb_hf_tokenizer_read(dir, bb_hf_text_config(config), &f->config, f->out, err));
    BB_TRY(map_hashed(f, dir, err));
    BB_TRY(bb_gguf_out_source(f->out, s, err));
    s->n_files = (uint32_t)f->n_shards;
    for (size_t i = 0; i < f->n_shards; i++) s->size_bytes += f->shards[i].tensors.map.size;
done:
    json_decref(config);
    if (status != BB_OK) bb_source_close(s);
    return status;
}
