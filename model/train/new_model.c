/* SPDX-License-Identifier: GPL-3.0-or-later
 * new_model.c: see new_model.h. Keys and tensor names are those that llama.cpp's loader reads for architecture llama. */
#include "model/train/new_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/gguf.h"
#include "model/net/arch.h"

/* ---- shape ---- */

static bb_status check(const bb_new_shape *s, bb_err *err)
{
    const struct {
        const char *what;
        uint32_t    value, max;
    } numbers[] = {
        { "vocabulary", s->n_vocab, INT32_MAX }, { "number of blocks", s->n_layer, 512 }, { "width", s->n_embd, 1 << 20 },
        { "number of heads", s->n_head, 4096 },  { "number of KV heads", s->n_kv, 4096 }, { "head size", s->head_dim, 4096 },
        { "FFN width", s->n_ff, 1 << 22 },       { "context", s->n_ctx, 1 << 24 },
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value < 1 || numbers[i].value > numbers[i].max)
            return BB_FAIL(err, BB_USAGE, "a %s of %u: 1 to %u is possible", numbers[i].what, numbers[i].value, numbers[i].max);
    if (s->n_head % s->n_kv) return BB_FAIL(err, BB_USAGE, "%u heads are no multiple of %u KV heads", s->n_head, s->n_kv);
    if (s->head_dim % 2) return BB_FAIL(err, BB_USAGE, "a head size of %u: RoPE needs an even one", s->head_dim);
    if (!(s->rope_base > 0) || !(s->norm_eps >= 0))
        return BB_FAIL(err, BB_USAGE, "RoPE base %g and norm epsilon %g: above 0, and not negative", (double)s->rope_base, (double)s->norm_eps);
    return BB_OK;
}

bb_status bb_new_net(const bb_new_shape *s, bb_net *net, bb_err *err)
{
    static const float placeholder[1] = { 1 };
    uint32_t           C = s->n_embd;
    bb_status          status = check(s, err);
    *net = (bb_net) { .arch = bb_arch_named("llama"),
                      .n_vocab = s->n_vocab,
                      .n_embd = C,
                      .n_layer = s->n_layer,
                      .head_dim = s->head_dim,
                      .n_rot = s->head_dim,
                      .n_ctx_train = s->n_ctx,
                      .norm_eps = s->norm_eps,
                      .rope_base = s->rope_base,
                      .rope_freq_scale = 1 };
    if (status != BB_OK) return status;
    if (!(net->blocks = BB_NEW0(s->n_layer, bb_block, err))) return BB_NOMEM;
    net->embd = (bb_matrix) { .type = BB_F32, .rows = s->n_vocab, .cols = C };
    if (!s->tied) net->head = net->embd;
    net->out_norm = placeholder;
    for (uint32_t i = 0; i < s->n_layer; i++) {
        bb_block *b = &net->blocks[i];
        *b = (bb_block) { .n_head = s->n_head, .n_kv = s->n_kv, .n_ff = s->n_ff };
        for (int k = 0; k < BB_N_NORMS; k++)
            if (bb_norms[k].place == BB_PLACE_INPUT) b->norm[k] = placeholder;
        for (int p = 0; p < BB_N_PARTS; p++)
            if (bb_block_has_part(b, (bb_part)p))
                b->w[p] = (bb_matrix) { .type = BB_F32,
                                        .rows = (uint32_t)bb_dim_of(net, b, bb_parts[p].rows),
                                        .cols = (uint32_t)bb_dim_of(net, b, bb_parts[p].cols) };
    }
    return BB_OK;
}

/* ---- types ---- */

static size_t bytes_as(const bb_matrix *m, const bb_format *f) { return m->rows ? (m->rows * bb_format_row_bytes(f, m->cols) + 63) / 64 * 64 : 0; }

/* Is y, what x became in a narrow float type, x but for rounding? Not so where x is too large, or no number. */
static bool is_near(float x, float y) { return fabsf(x - y) <= 0.01f * fabsf(x) + 1e-6f; }

/* m (F32) becomes a matrix of the type at *at, which moves behind it; false when a weight has no place there. */
static bool recode(bb_matrix *m, const bb_format *f, char **at, float *row)
{
    size_t bytes = bb_format_row_bytes(f, m->cols);
    for (uint32_t r = 0; r < m->rows; r++) {
        f->encode((const float *)m->data + (size_t)r * m->cols, NULL, *at + r * bytes, m->cols);
        f->decode(*at + r * bytes, row, m->cols);
        for (uint32_t c = 0; c < m->cols; c++)
            if (!is_near(((const float *)m->data)[(size_t)r * m->cols + c], row[c])) return false;
    }
    m->type = f->type;
    m->data = *at;
    *at += bytes_as(m, f);
    return true;
}

bb_status bb_net_as_type(const bb_net *net, bb_type type, bb_net *out, void **owned, bb_err *err)
{
    const bb_format *f = bb_format_get(type);
    size_t           total = bytes_as(&net->embd, f) + bytes_as(&net->head, f), widest = net->n_embd;
    bb_status        status = BB_NOMEM;
    bool             ok;
    *out = *net;
    *owned = NULL;
    out->blocks = BB_NEW(net->n_layer, bb_block, err);
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            total += bytes_as(&net->blocks[i].w[p], f);
            if (net->blocks[i].w[p].cols > widest) widest = net->blocks[i].w[p].cols;
        }
    float *row = BB_NEW(widest, float, err);
    char  *at = *owned = bb_alloc(total, 1, err);
    if (!out->blocks || !row || !at) goto done;
    memcpy(out->blocks, net->blocks, net->n_layer * sizeof *net->blocks);
    ok = recode(&out->embd, f, &at, row) && (!out->head.rows || recode(&out->head, f, &at, row));
    for (uint32_t i = 0; i < net->n_layer && ok; i++)
        for (int p = 0; p < BB_N_PARTS && ok; p++)
            if (out->blocks[i].w[p].rows) ok = recode(&out->blocks[i].w[p], f, &at, row);
    status = ok ? BB_OK : BB_FAIL(err, BB_NUMERIC, "a weight is no number, or too large for %s", f->name);
done:
    bb_free(row);
    if (status != BB_OK) {
        bb_free(out->blocks);
        bb_free(*owned);
        out->blocks = NULL;
        *owned = NULL;
    }
    return status;
}

/* ---- files ---- */

static bb_status copy_vocabulary(bb_gguf_out *out, const bb_source *from, bb_err *err)
{
    bb_status status = BB_OK;
    for (uint64_t i = 0; i < from->n_kv; i++)
        if (from->kv[i].key.size > 10 && memcmp(from->kv[i].key.data, "tokenizer.", 10) == 0) BB_TRY(bb_gguf_put_copy(out, &from->kv[i], err));
done:
    return status;
}

static const char *arch_key(const bb_net *net, const char *suffix, char key[96])
{
    snprintf(key, 96, "%s.%s", net->arch->name, suffix);
    return key;
}

static bb_status put_keys(bb_gguf_out *out, const bb_net *net, const char *name, bb_err *err)
{
    const bb_block *b = &net->blocks[0];
    const struct {
        const char *key;
        uint32_t    value;
    } numbers[] = {
        { "context_length", net->n_ctx_train },
        { "embedding_length", net->n_embd },
        { "block_count", net->n_layer },
        { bb_count_keys[BB_COUNT_FF], b->n_ff },
        { bb_count_keys[BB_COUNT_HEADS], b->n_head },
        { bb_count_keys[BB_COUNT_KV], b->n_kv },
        { "attention.key_length", net->head_dim },
        { "attention.value_length", net->head_dim },
        { "rope.dimension_count", net->n_rot },
        { "vocab_size", net->n_vocab },
    };
    char      key[96];
    bb_status status;
    BB_TRY(bb_gguf_put_text(out, "general.architecture", net->arch->name, err));
    BB_TRY(bb_gguf_put_text(out, "general.name", name, err));
    BB_TRY(bb_gguf_put_text(out, "bitbudget.plan", "0000000000000000", err)); /* by it a file of ours is known */
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) BB_TRY(bb_gguf_put_u32(out, arch_key(net, numbers[i].key, key), numbers[i].value, err));
    BB_TRY(bb_gguf_put_u32(out, "general.file_type", net->embd.type == BB_F16 ? 1 : net->embd.type == BB_BF16 ? 32 : 0, err));
    BB_TRY(bb_gguf_put_f32(out, arch_key(net, "rope.freq_base", key), net->rope_base, err));
    BB_TRY(bb_gguf_put_f32(out, arch_key(net, "attention.layer_norm_rms_epsilon", key), net->norm_eps, err));
done:
    return status;
}

static bb_status put_matrix(bb_gguf_out *out, const char *name, const bb_matrix *m, bb_err *err)
{
    bb_tensor t = { .type = m->type, .n_dims = 2, .ne = { m->cols, m->rows, 1, 1 }, .data = m->data };
    t.size_bytes = m->rows * bb_format_row_bytes(bb_format_get(m->type), m->cols);
    snprintf(t.name, sizeof t.name, "%s.weight", name);
    return bb_gguf_put_tensor(out, &t, err);
}

static bb_status put_vector(bb_gguf_out *out, const char *name, const float *v, uint32_t n, bb_err *err)
{
    bb_tensor t = { .type = BB_F32, .n_dims = 1, .ne = { n, 1, 1, 1 }, .size_bytes = n * sizeof *v, .data = v };
    snprintf(t.name, sizeof t.name, "%s.weight", name);
    return bb_gguf_put_tensor(out, &t, err);
}

static bb_status put_tensors(bb_gguf_out *out, const bb_net *net, bb_err *err)
{
    char      name[48];
    bb_status status;
    BB_TRY(put_matrix(out, "token_embd", &net->embd, err));
    if (net->head.rows) BB_TRY(put_matrix(out, "output", &net->head, err));
    BB_TRY(put_vector(out, "output_norm", net->out_norm, net->n_embd, err));
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const bb_block *b = &net->blocks[i];
        for (int k = 0; k < BB_N_NORMS; k++) {
            if (!b->norm[k]) continue;
            snprintf(name, sizeof name, "blk.%u.%s", i, bb_norms[k].name);
            BB_TRY(put_vector(out, name, b->norm[k], (uint32_t)bb_norm_length(net, b, (bb_norm)k), err));
        }
        for (int p = 0; p < BB_N_PARTS; p++) {
            snprintf(name, sizeof name, "blk.%u.%s", i, bb_parts[p].name);
            if (b->w[p].rows) BB_TRY(put_matrix(out, name, &b->w[p], err));
        }
    }
done:
    return status;
}

bb_status bb_new_write(const bb_source *vocabulary, const bb_net *net, const char *name, const char *path, bb_err *err)
{
    bb_gguf_out *out = NULL;
    bb_status    status;
    BB_TRY(bb_gguf_out_create(&out, err));
    BB_TRY(put_keys(out, net, name, err));
    BB_TRY(copy_vocabulary(out, vocabulary, err));
    BB_TRY(put_tensors(out, net, err));
    BB_TRY(bb_gguf_out_write(out, path, err));
done:
    bb_gguf_out_destroy(out);
    return status;
}
