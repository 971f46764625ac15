/* SPDX-License-Identifier: GPL-3.0-or-later
 * folder.c: see folder.h.
 *
 * A list of what model.safetensors will hold is made from the model's tensors, in the order of the sizes of their numbers (readers want them aligned);
 * header, size and bytes come from that list.
 */
#include "model/export/folder.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/io/hf_parts.h"
#include "model/net/arch.h"

enum { GROUP = 32, MAX_NAME = 160 };

/* Architectures of GGUF whose tensors are one to one those of a class of transformers. */
static const struct {
    const char *arch, *model_type, *class;
    bool        pairs;  /* GGUF has the rows of q and k of a head in RoPE's pairs; the folder has halves */
    bool        gemma;  /* there are norms of what sublayers give */
    bool        less_1; /* the folder's norms lack the 1 that is added to them */
    bool        gemma4; /* two kinds of blocks, and what only Gemma 4 has */
} kinds[] = {
    { .arch = "llama", .model_type = "llama", .class = "LlamaForCausalLM", .pairs = true },
    { .arch = "qwen2", .model_type = "qwen2", .class = "Qwen2ForCausalLM" },
    { .arch = "qwen3", .model_type = "qwen3", .class = "Qwen3ForCausalLM" },
    { .arch = "smollm3", .model_type = "smollm3", .class = "SmolLM3ForCausalLM", .pairs = true },
    { .arch = "granite", .model_type = "granite", .class = "GraniteForCausalLM", .pairs = true },
    { .arch = "gemma3", .model_type = "gemma3_text", .class = "Gemma3ForCausalLM", .gemma = true, .less_1 = true },
    { .arch = "gemma4", .model_type = "gemma4_text", .class = "Gemma4ForCausalLM", .gemma = true, .gemma4 = true },
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static const struct {
    const char *from, *to;
    bool        in_heads; /* rows are in RoPE's pairs where the architecture has them so */
} in_block[] = {
    { "attn_norm", "input_layernorm", false },
    { "attn_q", "self_attn.q_proj", true },
    { "attn_k", "self_attn.k_proj", true },
    { "attn_v", "self_attn.v_proj", false },
    { "attn_output", "self_attn.o_proj", false },
    { "attn_q_norm", "self_attn.q_norm", false },
    { "attn_k_norm", "self_attn.k_norm", false },
    { "ffn_norm", "post_attention_layernorm", false },
    { "ffn_gate", "mlp.gate_proj", false },
    { "ffn_up", "mlp.up_proj", false },
    { "ffn_down", "mlp.down_proj", false },
    /* of Gemma, whose ffn_norm is another one */
    { "ffn_norm", "pre_feedforward_layernorm", false },
    { "post_attention_norm", "post_attention_layernorm", false },
    { "post_ffw_norm", "post_feedforward_layernorm", false },
    /* of Gemma 4 */
    { "layer_output_scale", "layer_scalar", false }, /* alone without an ending in the folder */
    { "inp_gate", "per_layer_input_gate", false },
    { "proj", "per_layer_projection", false },
    { "post_norm", "post_per_layer_input_norm", false },
};
enum { FFN_NORM = 7, GEMMA = 11, GEMMA4 = 14 }; /* rows of it */

/* What becomes of a tensor. */
typedef enum form { AS_IT_IS, DECODED_F16, DECODED_F32, PACKED } form;

typedef struct source_tensor {
    const bb_tensor *t;
    char             name[MAX_NAME]; /* without ".weight" when it is packed */
    form             as;
    unsigned         bits;     /* of PACKED */
    bool             in_pairs; /* rows go from pairs to halves */
    bool             less_1;   /* a norm without its 1 */
} source_tensor;

/* One tensor of the file: of source[from], which of its pieces. */
typedef enum piece { WHOLE, INTEGERS, SCALES, SHAPE } piece;
typedef struct written {
    size_t   from;
    piece    which;
    unsigned size;     /* of a number */
    uint64_t shape[2]; /* [1] 0: a vector */
} written;

typedef struct folder {
    const bb_model *m;
    int             kind; /* row of kinds */
    const char     *from;
    json_t         *config; /* what config.json says besides the quantization */
    source_tensor  *tensors;
    size_t          n;
    written        *list;
    size_t          n_list;
    char           *header; /* with its padding */
    uint64_t        header_bytes, data_bytes;
} folder;

static void done(folder *f)
{
    json_decref(f->config);
    bb_free(f->tensors);
    bb_free(f->list);
    bb_free(f->header);
}

/* ---- what can be written ---- */

static const char *type_name(bb_type type) { return bb_format_get(type)->name; }
static bool        is_float(bb_type type) { return type == BB_F32 || type == BB_F16 || type == BB_BF16; }

static bb_status find_kind(folder *f, bb_err *err)
{
    const char *arch = f->m->net.arch->name;
    char        known[128] = "";
    for (size_t i = 0, n = 0; i < N_KINDS; i++) {
        if (strcmp(kinds[i].arch, arch) == 0) {
            f->kind = (int)i;
            return BB_OK;
        }
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i == 0 ? "" : i + 1 < N_KINDS ? ", " : " and ", kinds[i].arch);
    }
    return BB_FAIL(
        err, BB_UNSUPPORTED, "a model of architecture %s cannot be written as a Hugging Face folder; %s can%s", arch, known,
        strcmp(arch, "deci") == 0 || strcmp(arch, "openelm") == 0 ? " (blocks of different shapes, as pruning makes them, have no place in config.json)" : "");
}

/* Gemma 4: config.json has one number for each kind of blocks, and twice the width for those that take keys. */
static bb_status check_kinds(const folder *f, bb_err *err)
{
    const bb_net   *net = &f->m->net;
    const bb_block *a = &net->blocks[0], *full = NULL, *local = NULL;
    bool            own = false, lacks = false;
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *b = &net->blocks[i], **first = b->local ? &local : &full;
        if (!*first) *first = b;
        if (b->n_head != a->n_head || b->n_kv != (*first)->n_kv || (b->n_ff != a->n_ff && !(b->kv_role == BB_KV_TAKES && b->n_ff == 2 * a->n_ff)) ||
            (b->kv_role == BB_KV_TAKES && b->n_ff != net->blocks[net->n_layer - 1].n_ff))
            return BB_FAIL(err, BB_UNSUPPORTED, "block %u has %u heads, %u KV heads and FFN %u: config.json of a %s says one number for all blocks of a kind",
                           i, b->n_head, b->n_kv, b->n_ff, kinds[f->kind].model_type);
        if (!b->local && b->kv_role != BB_KV_TAKES) *(b->lacks ? &lacks : &own) = true;
        if (b->local && b->lacks && b->kv_role != BB_KV_TAKES)
            return BB_FAIL(err, BB_UNSUPPORTED, "block %u has a window and takes its values from its keys, which no config.json of a %s says", i,
                           kinds[f->kind].model_type);
    }
    if (own && lacks)
        return BB_FAIL(err, BB_UNSUPPORTED, "some blocks without a window take values from keys and some do not: config.json of a %s says one for all",
                       kinds[f->kind].model_type);
    if (full && local && full->n_kv != local->n_kv && !lacks && !f->from)
        return BB_FAIL(err, BB_UNSUPPORTED,
                       "blocks have %u KV heads, with a window %u, and values of their own, which only the config.json of the folder that the model comes from "
                       "says: name it with --from",
                       full->n_kv, local->n_kv);
    return BB_OK;
}

/* The share of the pairs that turn, where the factors of the others are so large that they do not: RoPE of type proportional. */
static bool proportional(const bb_net *net, double *share)
{
    const uint32_t n = net->n_rot / 2;
    uint32_t       turned = 0;
    if (!net->rope_factors || net->rope_long || net->n_rot != net->head_dim) return false;
    while (turned < n && net->rope_factors[turned] >= 1 && net->rope_factors[turned] <= 1) turned++;
    for (uint32_t i = turned; i < n; i++)
        if (net->rope_factors[i] < 1e29f) return false;
    *share = (double)turned / n;
    return true;
}

static bb_status check_shapes(const folder *f, bb_err *err)
{
    double          share;
    const bb_net   *net = &f->m->net;
    const bb_block *a = &net->blocks[0];
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++)
            if (net->blocks[i].w[p].lattice)
                return BB_FAIL(err, BB_UNSUPPORTED, "blk.%u.%s has type LC2, of bitbudget alone, which no Hugging Face folder can hold", i, bb_parts[p].name);
    if (kinds[f->kind].gemma4) {
        if (!proportional(net, &share))
            return BB_FAIL(err, BB_UNSUPPORTED, "the frequency factors of RoPE are not those of type proportional, the one that a %s of transformers has",
                           kinds[f->kind].model_type);
        return check_kinds(f, err);
    }
    for (uint32_t i = 1; i < net->n_layer; i++) {
        const bb_block *b = &net->blocks[i];
        if (a->n_head != b->n_head || a->n_kv != b->n_kv || a->n_ff != b->n_ff)
            return BB_FAIL(
                err, BB_UNSUPPORTED,
                "blocks 0 and %u have different shapes (%u and %u heads, %u and %u KV heads, FFN %u and %u), and config.json of a %s says one for all", i,
                a->n_head, b->n_head, a->n_kv, b->n_kv, a->n_ff, b->n_ff, kinds[f->kind].model_type);
    }
    if (strncmp(kinds[f->kind].arch, "qwen2", 5) != 0 && !a->w[BB_PART_Q].bias != !a->w[BB_PART_O].bias)
        return BB_FAIL(err, BB_UNSUPPORTED, "q has %s bias and the output of attention %s; a %s of transformers has all of them or none",
                       a->w[BB_PART_Q].bias ? "a" : "no", a->w[BB_PART_O].bias ? "has one" : "none", kinds[f->kind].model_type);
    if ((net->rope_factors || net->rope_long || net->yarn || bb_scales(net->rope_magnitude)) && !f->from)
        return BB_FAIL(err, BB_UNSUPPORTED,
                       "the model has frequency factors of RoPE, and the numbers that they were made from are in the config.json of the folder "
                       "that it comes from alone: name that folder with --from");
    return BB_OK;
}

/* What follows a tensor's block in its name, NULL: it is of none. */
static const char *within_block(const char *name, unsigned *block)
{
    int n = 0;
    return sscanf(name, "blk.%u.%n", block, &n) == 1 && n > 0 ? name + n : NULL;
}

/* BB_NOT_FOUND: no tensor of the folder. *in_heads: q or k. *is_linear: a matrix of a block. */
static bb_status name_of(const bb_tensor *t, int kind, char name[MAX_NAME], bool *in_heads, bool *is_linear)
{
    unsigned    block = 0;
    const char *part = within_block(t->name, &block);
    *in_heads = *is_linear = false;
    if (part) {
        const char *dot = strrchr(part, '.');
        for (size_t i = 0; dot && i < sizeof in_block / sizeof *in_block; i++) {
            if (kinds[kind].gemma ? i == FFN_NORM : i >= GEMMA) continue;
            if (i >= GEMMA4 && !kinds[kind].gemma4) continue;
            if (strlen(in_block[i].from) != (size_t)(dot - part) || strncmp(part, in_block[i].from, (size_t)(dot - part)) != 0) continue;
            if (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0) break;
            snprintf(name, MAX_NAME, "model.layers.%u.%s%s", block, in_block[i].to, i == GEMMA4 ? "" : dot);
            *in_heads = in_block[i].in_heads;
            *is_linear = t->n_dims > 1;
            return BB_OK;
        }
        return BB_NOT_FOUND;
    }
    static const char *const outer[][2] = { { "token_embd.weight", "model.embed_tokens.weight" },
                                            { "output_norm.weight", "model.norm.weight" },
                                            { "output.weight", "lm_head.weight" },
                                            { "per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight" },
                                            { "per_layer_model_proj.weight", "model.per_layer_model_projection.weight" },
                                            { "per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight" } };
    for (size_t i = 0; i < sizeof outer / sizeof *outer; i++)
        if (strcmp(t->name, outer[i][0]) == 0) {
            snprintf(name, MAX_NAME, "%s", outer[i][1]);
            return BB_OK;
        }
    return BB_NOT_FOUND;
}

/* Does F16 hold every number of the matrix? */
static bb_status fits_f16(const bb_tensor *t, bool *fits, bb_err *err)
{
    const bb_format *f = bb_format_get(t->type);
    const size_t     cols = (size_t)t->ne[0], bytes = bb_format_row_bytes(f, cols);
    float           *row = BB_NEW(cols, float, err);
    if (!row) return BB_NOMEM;
    *fits = true;
    for (uint64_t r = 0; r < t->ne[1] && *fits; r++) {
        f->decode((const char *)t->data + r * bytes, row, cols);
        for (size_t c = 0; c < cols && *fits; c++) *fits = bb_float_bits(bb_half_to_float(bb_float_to_half(row[c]))) == bb_float_bits(row[c]);
    }
    bb_free(row);
    return BB_OK;
}

static bb_status choose_form(source_tensor *s, bool is_linear, bb_err *err)
{
    bool fits = false;
    s->as = AS_IT_IS;
    if (is_float(s->t->type)) return BB_OK;
    if (is_linear) {
        s->as = PACKED;
        s->bits = s->t->type == BB_Q4_0 ? 4 : s->t->type == BB_Q8_0 ? 8 : 0;
        if (!s->bits)
            return BB_FAIL(
                err, BB_UNSUPPORTED,
                "%s is %s, which compressed-tensors cannot say exactly: it has integers of one width with a scale for each group, so Q4_0, Q8_0, F16, BF16 "
                "and F32 can be written",
                s->t->name, type_name(s->t->type));
        s->name[strlen(s->name) - strlen(".weight")] = '\0';
        return BB_OK;
    }
    const bb_status status = fits_f16(s->t, &fits, err);
    s->as = fits ? DECODED_F16 : DECODED_F32;
    return status;
}

/* Keys and values that files have for blocks which take those of others: the library has no place for them. */
static bool is_unread(const folder *f, const char *name)
{
    unsigned    block = 0;
    const char *part = within_block(name, &block);
    return part && block < f->m->net.n_layer && f->m->net.blocks[block].kv_role == BB_KV_TAKES &&
           (strncmp(part, "attn_k", 6) == 0 || strncmp(part, "attn_v", 6) == 0);
}

static bb_status list_tensors(folder *f, bb_err *err)
{
    const bb_source *g = &f->m->source;
    bb_status        status = BB_OK;
    if (!(f->tensors = BB_NEW0((size_t)g->n_tensors, source_tensor, err))) return BB_NOMEM;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        source_tensor *s = &f->tensors[f->n];
        bool           in_heads, is_linear;
        if (strcmp(g->tensors[i].name, "rope_freqs.weight") == 0) continue; /* made from config.json */
        s->t = &g->tensors[i];
        if (is_unread(f, s->t->name)) continue;
        if (name_of(s->t, f->kind, s->name, &in_heads, &is_linear) != BB_OK || (s->t->n_dims != 1 && s->t->n_dims != 2) ||
            (s->t->n_dims == 1 && !is_float(s->t->type)))
            return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' has no place in a Hugging Face folder as this program writes one", s->t->name);
        s->in_pairs = in_heads && kinds[f->kind].pairs;
        BB_TRY(choose_form(s, is_linear, err));
        s->less_1 = kinds[f->kind].less_1 && strstr(s->t->name, "norm.weight");
        if (s->less_1) s->as = DECODED_F32;
        f->n++;
    }
done:
    return status;
}

/* ---- the file's list ---- */

static unsigned number_bytes(const source_tensor *s) { return s->as == DECODED_F32 ? 4 : s->as == DECODED_F16 ? 2 : s->t->type == BB_F32 ? 4 : 2; }

static uint64_t bytes_of(const written *w) { return w->size * w->shape[0] * (w->shape[1] ? w->shape[1] : 1); }

static void add(folder *f, size_t from, piece which, unsigned size, uint64_t rows, uint64_t cols)
{
    f->list[f->n_list++] = (written) { from, which, size, { rows, cols } };
}

static int larger_first(const void *a, const void *b)
{
    const written *x = a, *y = b;
    if (x->size != y->size) return x->size > y->size ? -1 : 1;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return (int)x->which - (int)y->which;
}

static bb_status make_list(folder *f, bb_err *err)
{
    if (!(f->list = BB_NEW0(3 * f->n + 1, written, err))) return BB_NOMEM;
    for (size_t i = 0; i < f->n; i++) {
        const source_tensor *s = &f->tensors[i];
        const uint64_t       cols = s->t->ne[0], rows = s->t->ne[1];
        if (s->as != PACKED) {
            if (s->t->n_dims == 1) add(f, i, WHOLE, number_bytes(s), cols, 0);
            else add(f, i, WHOLE, number_bytes(s), rows, cols);
            continue;
        }
        add(f, i, SHAPE, 8, 2, 0);
        add(f, i, INTEGERS, 4, rows, cols * s->bits / 32);
        add(f, i, SCALES, 2, rows, cols / GROUP);
    }
    qsort(f->list, f->n_list, sizeof *f->list, larger_first);
    return BB_OK;
}

static const char *dtype_of(const folder *f, const written *w)
{
    const source_tensor *s = &f->tensors[w->from];
    switch (w->which) {
    case SHAPE: return "I64";
    case INTEGERS: return "I32";
    case SCALES: return "F16";
    case WHOLE: break;
    }
    return s->as == DECODED_F32 ? "F32" : s->as == DECODED_F16 ? "F16" : s->t->type == BB_F32 ? "F32" : s->t->type == BB_F16 ? "F16" : "BF16";
}

static bb_status make_header(folder *f, bb_err *err)
{
    static const char *const ends[] = { [WHOLE] = "", [INTEGERS] = ".weight_packed", [SCALES] = ".weight_scale", [SHAPE] = ".weight_shape" };
    json_t                  *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    bool                     ok = root != NULL;
    char                    *text = NULL;
    for (size_t i = 0; i < f->n_list && ok; i++) {
        const written *w = &f->list[i];
        const uint64_t bytes = bytes_of(w);
        json_t        *shape = json_array(), *entry;
        char           name[MAX_NAME + 16];
        snprintf(name, sizeof name, "%s%s", f->tensors[w->from].name, ends[w->which]);
        for (int d = 0; d < 2; d++)
            if (w->shape[d]) json_array_append_new(shape, json_integer((json_int_t)w->shape[d]));
        entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_of(f, w), "shape", shape, "data_offsets", (json_int_t)f->data_bytes,
                          (json_int_t)(f->data_bytes + bytes));
        ok = entry && json_object_set_new(root, name, entry) == 0;
        f->data_bytes += bytes;
    }
    if (ok) ok = (text = json_dumps(root, JSON_COMPACT)) != NULL;
    json_decref(root);
    if (ok) {
        const size_t n = strlen(text), padded = (n + 7) / 8 * 8;
        if ((f->header = bb_alloc(padded, 1, err))) {
            memcpy(f->header, text, n);
            memset(f->header + n, ' ', padded - n);
            f->header_bytes = padded;
        }
        free(text);
    }
    return f->header ? BB_OK : BB_FAIL(err, BB_NOMEM, "out of memory");
}

/* ---- config.json ---- */

static bool says_u32(const json_t *config, const char *name, uint32_t value)
{
    const json_t *v = json_object_get(config, name);
    return json_is_integer(v) && json_integer_value(v) == (json_int_t)value;
}

/* Is it of the architecture that the model has? A part of another folder may leave it unsaid. */
static bb_status check_type(const folder *f, const json_t *config, bool is_part, bb_err *err)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));
    char        shown[BB_SHOWN];
    bool        same = !type && is_part;
    for (size_t i = 0; type && bb_hf_arch_at(i); i++)
        same |= strcmp(bb_hf_arch_at(i)->model_type, type) == 0 && strcmp(bb_hf_arch_at(i)->arch, kinds[f->kind].arch) == 0;
    if (!same)
        return BB_FAIL(err, BB_BAD_FILE, "%s/config.json is of another model: its model_type is '%s', and this one is a %s", f->from,
                       type ? bb_show((bb_bytes) { type, strlen(type) }, shown) : "not said", kinds[f->kind].arch);
    return BB_OK;
}

/* Keys of the architecture that say nothing of the numbers computed, or that the folder is told anew (make_config). */
static bool may_differ(const char *key)
{
    static const char *const keys[] = { "context_length", "vocab_size", "feed_forward_length", "attention.head_count", "attention.head_count_kv" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(key, keys[i]) == 0) return true;
    return false;
}

static bool number_of(const bb_source *s, const char *key, double *x)
{
    float    real;
    uint32_t whole;
    bool     found;
    if (bb_source_f32(s, key, &real, &found, NULL) == BB_OK && found) *x = (double)real;
    else if (bb_source_u32(s, key, &whole, &found, NULL) == BB_OK && found) *x = whole;
    else return false;
    return true;
}

static bb_status is_other(const folder *f, const char *what, double said, double here, bb_err *err)
{
    return BB_FAIL(err, BB_BAD_FILE, "%s/config.json is of another model: its %s is %.9g, and this one's is %.9g", f->from, what, said, here);
}

/* said: the keys that config.json stands for. One that the model's file lacks is what such files mean without it. */
static bb_status check_key(const folder *f, const bb_source *said, const bb_key *k, bb_err *err)
{
    const size_t  prefix = strlen(kinds[f->kind].arch) + 1;
    const bb_key *here;
    char          key[MAX_NAME];
    double        x, y;
    if (k->key.size >= sizeof key || k->key.size <= prefix || strncmp(k->key.data, "general.", 8) == 0) return BB_OK;
    snprintf(key, sizeof key, "%.*s", (int)k->key.size, k->key.data);
    if (may_differ(key + prefix)) return BB_OK;
    here = bb_source_find(&f->m->source, key);
    if (number_of(said, key, &x)) {
        if (here ? number_of(&f->m->source, key, &y) : strcmp(key + prefix, "rope.freq_base") == 0) {
            if (!here) y = (double)f->m->net.rope_base;
            if (fabs(x - y) > 1e-6 * fabs(x)) return is_other(f, key + prefix, x, y, err);
        }
    } else if (here && here->kind == k->kind && (here->value_bytes != k->value_bytes || memcmp(here->value, k->value, k->value_bytes) != 0)) {
        return BB_FAIL(err, BB_BAD_FILE, "%s/config.json is of another model: its %s is not this one's", f->from, key + prefix);
    }
    return BB_OK;
}

/* The divisors of RoPE's frequencies that config.json stands for beside those that the model has. */
static bb_status check_factors(const folder *f, const bb_hf_config *c, bb_err *err)
{
    const bb_tensor *here = bb_source_tensor(&f->m->source, "rope_freqs.weight");
    if (!c->rope_factors != !here)
        return BB_FAIL(err, BB_BAD_FILE, "%s/config.json is of another model: RoPE's frequencies are divided %s", f->from,
                       here ? "here, and not there" : "there, and not here");
    if (here && (here->type != BB_F32 || here->ne[0] != c->n_rot / 2)) return is_other(f, "number of rotated numbers", c->n_rot, 2 * (double)here->ne[0], err);
    for (uint32_t i = 0; here && i < c->n_rot / 2; i++) {
        const float x = ((const float *)here->data)[i], said = c->rope_factors[i];
        if (fabsf(x - said) > 1e-5F * fabsf(said)) return is_other(f, "divisor of a RoPE frequency", (double)said, (double)x, err);
    }
    return BB_OK;
}

/* Vectors that a runtime would make up where config.json says that they are there; a qwen2 has its own and does not say. */
static bb_status check_bias(const folder *f, const json_t *config, bb_err *err)
{
    static const struct {
        const char *name;
        bb_part     part;
    } flags[] = { { "attention_bias", BB_PART_Q }, { "mlp_bias", BB_PART_GATE } };
    for (size_t i = 0; i < sizeof flags / sizeof *flags && strncmp(kinds[f->kind].arch, "qwen2", 5) != 0; i++) {
        const bool said = json_is_true(json_object_get(config, flags[i].name)), here = f->m->net.blocks[0].w[flags[i].part].bias != NULL;
        if (said != here)
            return BB_FAIL(err, BB_BAD_FILE, "%s/config.json is of another model: its %s is %s, and this one has %s", f->from, flags[i].name,
                           said ? "true" : "not true", here ? "biases" : "none");
    }
    return BB_OK;
}

/* Does config.json say what the model's own keys say? What this program does not read (BB_UNSUPPORTED) is taken at its word. */
static bb_status check_keys(const folder *f, const json_t *config, bb_err *err)
{
    const bb_net *net = &f->m->net;
    bb_gguf_out  *out = NULL;
    bb_hf_config  c = { .arch = NULL };
    bb_source     said = { .version = 0 };
    bb_err        why = BB_ERR_INIT;
    bb_status     status;
    BB_TRY(bb_gguf_out_create(&out, err));
    if ((status = bb_hf_config_read(config, &c, out, &why)) != BB_OK) {
        if (status == BB_UNSUPPORTED) status = BB_OK;
        else BB_FAIL(err, status, "%s/config.json: %s", f->from, why.msg);
        goto done;
    }
    BB_TRY(bb_gguf_out_source(out, &said, err));
    for (uint64_t i = 0; i < said.n_kv; i++) BB_TRY(check_key(f, &said, &said.kv[i], err));
    const uint32_t head_dim = net->local_head_dim ? net->local_head_dim : net->head_dim;
    if (c.head_dim != head_dim) BB_TRY(is_other(f, "head_dim", c.head_dim, head_dim, err));
    BB_TRY(check_factors(f, &c, err));
    BB_TRY(check_bias(f, config, err));
done:
    bb_source_close(&said);
    bb_gguf_out_destroy(out);
    bb_free(c.rope_factors);
    bb_free(c.rope_long);
    return status;
}

static bb_status taken_over(const folder *f, json_t **config, bb_err *err)
{
    const bb_net *net = &f->m->net;
    bb_status     status = bb_hf_json(f->from, "config.json", config, err);
    if (status == BB_NOT_FOUND) return BB_FAIL(err, BB_BAD_FILE, "%s has no config.json: it is no Hugging Face folder", f->from);
    if (status != BB_OK) return status;
    const json_t *text = bb_hf_text_config(*config);
    status = check_type(f, text, text != *config, err);
    if (status != BB_OK) return status;
    if (text != *config) { /* its language model becomes a folder of its own */
        json_t *whole = *config;
        *config = json_incref(json_object_get(whole, "text_config"));
        json_decref(whole);
        json_object_set_new(*config, "architectures", json_pack("[s]", kinds[f->kind].class));
        json_object_set_new(*config, "model_type", json_string(kinds[f->kind].model_type));
    }
    if (!says_u32(*config, "num_hidden_layers", net->n_layer) || !says_u32(*config, "hidden_size", net->n_embd))
        return BB_FAIL(err, BB_BAD_FILE, "%s/config.json is of another model: this one has %u blocks of width %u", f->from, net->n_layer, net->n_embd);
    status = check_keys(f, *config, err);
    if (status != BB_OK) return status;
    json_object_del(*config, "quantization_config");
    return BB_OK;
}

static void set_u32(json_t *config, const char *name, uint32_t value) { json_object_set_new(config, name, json_integer((json_int_t)value)); }

/* The shortest text that float32 reads back as x, so that 1e-05 is not 9.99999975e-06. */
static void set_f32(json_t *config, const char *name, float x)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (bb_float_bits(strtof(text, NULL)) == bb_float_bits(x)) break;
    }
    json_object_set_new(config, name, json_real(strtod(text, NULL)));
}

static void set_token(const folder *f, json_t *config, const char *name, const char *key)
{
    uint32_t id;
    bool     found;
    if (bb_source_u32(&f->m->source, key, &id, &found, NULL) == BB_OK && found) set_u32(config, name, id);
}

/* What Gemma has besides. */
static void set_gemma(json_t *config, const bb_net *net)
{
    json_t *types = json_array(), *local = json_pack("{s:s}", "rope_type", "default"), *full = json_pack("{s:s}", "rope_type", "default");
    for (uint32_t i = 0; i < net->n_layer; i++) json_array_append_new(types, json_string(net->blocks[i].local ? "sliding_attention" : "full_attention"));
    json_object_set_new(config, "layer_types", types);
    for (uint32_t i = 0; i < net->n_layer; i++)
        if (net->blocks[i].window) set_u32(config, "sliding_window", net->blocks[i].window);
    set_f32(full, "rope_theta", net->rope_base);
    if (net->rope_freq_scale < 1) {
        json_object_set_new(full, "rope_type", json_string("linear"));
        set_f32(full, "factor", 1 / net->rope_freq_scale);
    }
    set_f32(local, "rope_theta", net->local_rope_base > 0 ? net->local_rope_base : 10000);
    json_object_set_new(config, "rope_parameters", json_pack("{s:o, s:o}", "full_attention", full, "sliding_attention", local));
    json_object_del(config, "rope_theta");
    json_object_del(config, "rope_scaling");
    json_object_del(config, "hidden_act");
    json_object_set_new(config, "hidden_activation", json_string("gelu_pytorch_tanh"));
    set_u32(config, "query_pre_attn_scalar", bb_scales(net->query_scale) ? net->n_embd / net->blocks[0].n_head : net->head_dim);
    if (net->logit_cap > 0) set_f32(config, "final_logit_softcapping", net->logit_cap);
}

/* And Gemma 4. */
static void set_gemma4(json_t *config, const bb_net *net)
{
    json_t  *full = json_object_get(json_object_get(config, "rope_parameters"), "full_attention");
    uint32_t shared = 0, full_kv = 0;
    bool     same = false, wide = false;
    double   share = 1;
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *b = &net->blocks[i];
        shared += b->kv_role == BB_KV_TAKES;
        if (b->kv_role == BB_KV_TAKES) wide |= b->n_ff != net->blocks[0].n_ff;
        else if (!b->local) same |= b->lacks != 0;
        if (!b->local) full_kv = b->n_kv;
        else set_u32(config, "num_key_value_heads", b->n_kv);
    }
    (void)proportional(net, &share);
    json_object_set_new(full, "rope_type", json_string("proportional"));
    json_object_set_new(full, "partial_rotary_factor", json_real(share));
    json_object_del(config, "query_pre_attn_scalar");
    set_u32(config, "head_dim", net->local_head_dim);
    set_u32(config, "global_head_dim", net->head_dim);
    if (same) set_u32(config, "num_global_key_value_heads", full_kv);
    json_object_set_new(config, "attention_k_eq_v", json_boolean(same));
    json_object_set_new(config, "use_double_wide_mlp", json_boolean(wide));
    json_object_set_new(config, "enable_moe_block", json_false());
    set_u32(config, "num_kv_shared_layers", shared);
    set_u32(config, "hidden_size_per_layer_input", net->token.width);
    set_u32(config, "vocab_size_per_layer_input", net->n_vocab);
}

/* What is said where there is no folder to take it from. */
static void set_kind(const folder *f, json_t *config)
{
    const bb_net *net = &f->m->net;
    static const struct {
        const char *name, *key;
    } factors[] = { { "attention_multiplier", "attention.scale" },
                    { "embedding_multiplier", "embedding_scale" },
                    { "residual_multiplier", "residual_scale" },
                    { "logits_scaling", "logit_scale" } };
    json_object_set_new(config, "architectures", json_pack("[s]", kinds[f->kind].class));
    json_object_set_new(config, "model_type", json_string(kinds[f->kind].model_type));
    json_object_set_new(config, "hidden_act", json_string("silu"));
    set_u32(config, "hidden_size", net->n_embd);
    set_u32(config, "num_hidden_layers", net->n_layer);
    set_u32(config, "head_dim", net->head_dim);
    set_u32(config, "max_position_embeddings", net->n_ctx_train);
    set_f32(config, "rms_norm_eps", net->norm_eps);
    set_f32(config, "rope_theta", net->rope_base);
    if (net->rope_freq_scale < 1) {
        json_t *scaling = json_pack("{s:s, s:s}", "type", "linear", "rope_type", "linear");
        set_f32(scaling, "factor", 1 / net->rope_freq_scale);
        json_object_set_new(config, "rope_scaling", scaling);
    }
    json_object_set_new(config, "attention_bias", json_boolean(net->blocks[0].w[BB_PART_Q].bias != NULL));
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        char  key[64];
        float x;
        bool  found;
        snprintf(key, sizeof key, "%s.%s", net->arch->name, factors[i].key);
        if (bb_source_f32(&f->m->source, key, &x, &found, NULL) == BB_OK && found) set_f32(config, factors[i].name, x);
    }
    set_token(f, config, "bos_token_id", "tokenizer.ggml.bos_token_id");
    set_token(f, config, "eos_token_id", "tokenizer.ggml.eos_token_id");
    set_token(f, config, "pad_token_id", "tokenizer.ggml.padding_token_id");
    if (kinds[f->kind].gemma) set_gemma(config, net);
    if (kinds[f->kind].gemma4) set_gemma4(config, net);
}

static bb_status make_config(folder *f, bb_err *err)
{
    const bb_net *net = &f->m->net;
    bb_status     status = BB_OK;
    if (f->from) BB_TRY(taken_over(f, &f->config, err));
    else set_kind(f, f->config = json_object());
    set_u32(f->config, "vocab_size", net->n_vocab);
    set_u32(f->config, "intermediate_size", net->blocks[0].n_ff);
    set_u32(f->config, "num_attention_heads", net->blocks[0].n_head);
    for (uint32_t i = net->n_layer; i-- > 0;) /* of a gemma4 that of blocks with a window, the first of which counts */
        if (!kinds[f->kind].gemma4 || net->blocks[i].local) set_u32(f->config, "num_key_value_heads", net->blocks[i].n_kv);
    json_object_set_new(f->config, "tie_word_embeddings", json_boolean(net->head.rows == 0));
done:
    return status;
}

static bb_status plan(folder *f, bb_err *err)
{
    bb_status status;
    BB_TRY(find_kind(f, err));
    BB_TRY(check_shapes(f, err));
    BB_TRY(make_config(f, err));
    BB_TRY(list_tensors(f, err));
    BB_TRY(make_list(f, err));
    BB_TRY(make_header(f, err));
done:
    return status;
}

bb_status bb_export_folder_check(const bb_model *m, const char *from, bb_err *err)
{
    folder          f = { .m = m, .from = from };
    const bb_status status = plan(&f, err);
    done(&f);
    return status;
}

bb_status bb_export_folder_bytes(const bb_model *m, const char *from, uint64_t *bytes, bb_err *err)
{
    folder          f = { .m = m, .from = from };
    const bb_status status = plan(&f, err);
    *bytes = 8 + f.header_bytes + f.data_bytes;
    done(&f);
    return status;
}

/* ---- bytes ---- */

/* The source's row that is row r of the folder's matrix. */
static uint64_t row_at(const folder *f, const source_tensor *s, uint64_t r)
{
    const uint64_t D = f->m->net.head_dim, head = r / D, i = r % D;
    return !s->in_pairs ? r : head * D + (i < D / 2 ? 2 * i : 2 * (i - D / 2) + 1);
}

/* Weights of one row as integers, 32 / bits in a word from its lowest bits on, each moved up by half its range; and the scales. */
static void pack_row(const source_tensor *s, const unsigned char *row, uint32_t *words, uint16_t *scales)
{
    const bb_format *f = bb_format_get(s->t->type);
    const unsigned   in_word = 32 / s->bits;
    bb_code          c;
    for (uint64_t b = 0; b < s->t->ne[0] / GROUP; b++, row += f->block_bytes) {
        f->unpack(row, &c);
        scales[b] = bb_float_to_half(c.d);
        for (unsigned i = 0; i < GROUP; i++) {
            uint32_t      *word = &words[(b * GROUP + i) / in_word];
            const uint32_t q = (uint32_t)((int)f->levels[c.q[i]] + (1 << (s->bits - 1)));
            if (i % in_word == 0) *word = 0;
            *word |= q << s->bits * (i % in_word);
        }
    }
}

static void put(FILE *out, const void *p, size_t n) { fwrite(p, 1, n, out); /* errors are found at commit */ }

static bb_status write_rows(const folder *f, const written *w, FILE *out, bb_err *err)
{
    const source_tensor *s = &f->tensors[w->from];
    const bb_format     *format = bb_format_get(s->t->type);
    const size_t         cols = (size_t)s->t->ne[0], row_bytes = bb_format_row_bytes(format, cols);
    float               *dense = BB_NEW(cols, float, err);
    uint16_t            *halves = BB_NEW(cols, uint16_t, err);
    uint32_t            *words = BB_NEW(cols, uint32_t, err);
    bb_status            status = dense && halves && words ? BB_OK : BB_NOMEM;
    for (uint64_t r = 0; r < s->t->ne[1] && status == BB_OK; r++) {
        const unsigned char *row = (const unsigned char *)s->t->data + row_at(f, s, r) * row_bytes;
        if (s->as == PACKED) {
            pack_row(s, row, words, halves);
            if (w->which == INTEGERS) put(out, words, cols * s->bits / 8);
            else put(out, halves, cols / GROUP * 2);
        } else if (s->as == AS_IT_IS) {
            put(out, row, row_bytes);
        } else {
            format->decode(row, dense, cols);
            for (size_t c = 0; c < cols && s->as == DECODED_F16; c++) halves[c] = bb_float_to_half(dense[c]);
            if (s->as == DECODED_F16) put(out, halves, 2 * cols);
            else put(out, dense, 4 * cols);
        }
    }
    bb_free(dense);
    bb_free(halves);
    bb_free(words);
    return status;
}

/* A bias of q or k lies in one row whose numbers are in pairs. */
static void write_vector(const folder *f, const source_tensor *s, FILE *out)
{
    const size_t size = number_bytes(s);
    const float  one = 1;
    float        x;
    for (uint64_t i = 0; i < s->t->ne[0] && s->less_1; i++) {
        const unsigned char *p = (const unsigned char *)s->t->data + i * (s->t->type == BB_F32 ? 4 : 2);
        bb_format_get(s->t->type)->decode(p, &x, 1);
        x -= one;
        put(out, &x, sizeof x);
    }
    for (uint64_t i = 0; i < s->t->ne[0] && !s->less_1; i++) put(out, (const char *)s->t->data + row_at(f, s, i) * size, size);
}

static bb_status write_tensors(const folder *f, const char *dir, bb_err *err)
{
    char     *path = bb_asprintf(err, "%s/model.safetensors", dir);
    bb_writer w = { NULL, NULL, NULL, NULL };
    bb_status status = BB_NOMEM;
    if (!path) goto done;
    BB_TRY(bb_writer_open(&w, path, err));
    put(w.stream, &f->header_bytes, 8);
    put(w.stream, f->header, (size_t)f->header_bytes);
    for (size_t i = 0; i < f->n_list; i++) {
        const source_tensor *s = &f->tensors[f->list[i].from];
        const int64_t        shape[2] = { (int64_t)s->t->ne[1], (int64_t)s->t->ne[0] };
        if (f->list[i].which == SHAPE) put(w.stream, shape, sizeof shape);
        else if (s->t->n_dims == 1) write_vector(f, s, w.stream);
        else BB_TRY(write_rows(f, &f->list[i], w.stream, err));
    }
    BB_TRY(bb_writer_commit(&w, err));
done:
    if (w.state) bb_writer_abort(&w);
    bb_free(path);
    return status;
}

/* ---- the quantization ---- */

static json_t *group_of(const folder *f, unsigned bits, bool alone)
{
    json_t *targets = json_array();
    if (alone) json_array_append_new(targets, json_string("Linear"));
    for (size_t i = 0; i < f->n && !alone; i++)
        if (f->tensors[i].as == PACKED && f->tensors[i].bits == bits) json_array_append_new(targets, json_string(f->tensors[i].name));
    return json_pack("{s:o, s:{s:i, s:s, s:b, s:s, s:i, s:b}, s:n, s:n}", "targets", targets, "weights", "num_bits", (int)bits, "type", "int", "symmetric", 1,
                     "strategy", "group", "group_size", (int)GROUP, "dynamic", 0, "input_activations", "output_activations");
}

/* NULL: nothing is packed. */
static json_t *quantization_of(const folder *f)
{
    json_t  *ignore = json_array(), *groups = json_object();
    unsigned n[9] = { 0 }, kinds_packed = 0;
    json_array_append_new(ignore, json_string("lm_head"));
    for (size_t i = 0; i < f->n; i++) {
        const source_tensor *s = &f->tensors[i];
        if (s->as == PACKED) n[s->bits]++;
        else if ((strncmp(s->t->name, "blk.", 4) == 0 || strcmp(s->t->name, "per_layer_model_proj.weight") == 0) && s->t->n_dims == 2)
            json_array_append_new(ignore, json_stringn(s->name, strlen(s->name) - strlen(".weight")));
    }
    for (unsigned b = 1; b <= 8; b++) kinds_packed += n[b] > 0;
    for (unsigned b = 1, k = 0; b <= 8; b++) {
        char name[16];
        if (!n[b]) continue;
        snprintf(name, sizeof name, "group_%u", k++);
        json_object_set_new(groups, name, group_of(f, b, kinds_packed == 1));
    }
    if (!kinds_packed) {
        json_decref(ignore);
        json_decref(groups);
        return NULL;
    }
    return json_pack("{s:s, s:s, s:s, s:o, s:o}", "quant_method", "compressed-tensors", "format", "pack-quantized", "quantization_status", "compressed",
                     "ignore", ignore, "config_groups", groups);
}

static bb_status write_config(const folder *f, const char *dir, bb_err *err)
{
    json_t   *quantization = quantization_of(f);
    char     *path = bb_asprintf(err, "%s/config.json", dir), *text = NULL;
    bb_status status = path ? BB_OK : BB_NOMEM;
    if (quantization) { /* the scales are of that type; another would round them */
        json_object_del(f->config, "dtype");
        json_object_set_new(f->config, "torch_dtype", json_string("float16"));
        json_object_set_new(f->config, "quantization_config", quantization);
    }
    if (path && !(text = json_dumps(f->config, JSON_INDENT(2)))) status = BB_FAIL(err, BB_NOMEM, "out of memory");
    if (status == BB_OK) status = bb_file_write(path, text, strlen(text), err);
    free(text);
    bb_free(path);
    return status;
}

/* ---- the other files ---- */

static const char *const carried[] = { "tokenizer.json",
                                       "tokenizer.model",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "chat_template.jinja",
                                       "merges.txt",
                                       "chat_template.json",
                                       "generation_config.json",
                                       "LICENSE" };

static bb_status carry(const folder *f, const char *dir, bb_text *notes, bb_err *err)
{
    bool      any = false;
    bb_status status = BB_OK;
    for (size_t i = 0; f->from && i < sizeof carried / sizeof *carried && status == BB_OK; i++) {
        char  *from, *to, *data = NULL;
        size_t n;
        if (!bb_folder_has(f->from, carried[i])) continue;
        any |= i < 2;
        from = bb_asprintf(err, "%s/%s", f->from, carried[i]);
        to = bb_asprintf(err, "%s/%s", dir, carried[i]);
        status = from && to ? bb_file_read(from, &data, &n, err) : BB_NOMEM;
        if (status == BB_OK) status = bb_file_write(to, data, n, err);
        bb_free(data);
        bb_free(from);
        bb_free(to);
    }
    if (status == BB_OK && !any)
        bb_text_addf(notes, "the tokenizer's files (tokenizer.json or tokenizer.model, tokenizer_config.json) are missing in %s: %s\n", dir,
                     f->from ? "the folder that the rest was taken from has none"
                             : "copy them from the folder that the model comes from, or name it with --from");
    return status;
}

static void note_tensors(const folder *f, bb_text *notes)
{
    unsigned packed[9] = { 0 };
    for (size_t i = 0; i < f->n; i++) {
        const source_tensor *s = &f->tensors[i];
        if (s->as == PACKED) packed[s->bits]++;
        else if (s->as != AS_IT_IS && !s->less_1)
            bb_text_addf(notes, "%s (%s) is written as %s: embedding and head have no packed form\n", s->t->name, type_name(s->t->type),
                         s->as == DECODED_F16 ? "F16, which holds it exactly" : "F32, for F16 would round it");
    }
    bb_text_addf(notes, "%u matrices are packed in 4 bits and %u in 8; the others are as they were\n", packed[4], packed[8]);
}

bb_status bb_export_folder_write(const bb_model *m, const char *from, const char *dir, bb_text *notes, bb_err *err)
{
    folder    f = { .m = m, .from = from };
    bb_status status;
    BB_TRY(plan(&f, err));
    BB_TRY(bb_make_dirs(dir, err));
    BB_TRY(write_tensors(&f, dir, err));
    BB_TRY(carry(&f, dir, notes, err));
    BB_TRY(write_config(&f, dir, err));
    note_tensors(&f, notes);
done:
    done(&f);
    return status;
}
