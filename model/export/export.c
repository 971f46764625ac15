/* SPDX-License-Identifier: GPL-3.0-or-later
 * export.c: see export.h.
 *
 * One list of keys and tensors (bb_gguf_out) is made for sizes and for writing, so that the size is exact.
 *
 * 1. Blocks without attention and without FFN do nothing, unless they scale the stream, and are left out; the others are renumbered.
 * 2. The architecture is chosen: the source's when its loader takes the shapes of the blocks; else the one that its row names for pruned
 *    networks (net/arch.h): deci for llama and qwen2, openelm for a qwen3 with tied embeddings. deci and openelm stay what they are.
 * 3. What the loader or the graph of that architecture cannot do without is replaced by parts that compute zero: a removed FFN
 *    beside attention becomes one of width 1; removed attention in deci's block 0 and in any block of openelm becomes one head
 *    with a zero output. (deci: an FFN-free block silently loses its attention, an FFN-free last block aborts, an attention-free
 *    block 0 does not load.)
 * 4. qwen2 rotates the pairs (i, i + D/2), deci (2i, 2i + 1): the rows of q and k, and their biases, are put in deci's order.
 *    openelm has q, k and v in one matrix, row blocks one after the other, hence of one type; phi3 those and gate and up as well: where their types
 *    differ, the file is of the architecture for pruned networks, which has a tensor for each, if that one takes the model.
 */
#include "model/export/export.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/export/export_internal.h"
#include "model/io/file_type.h"
#include "model/io/gguf_internal.h"
#include "model/net/lattice.h"

typedef bb_exporter exporter;

enum { PROGRAM_BYTES = 40 };
static const char experimental_key[] = "bitbudget.experimental", experimental_text[] = "types of llama.cpp's pull request 27325";
static const char lattice_key[] = "bitbudget.lattice", lattice_text[] = "type LC2 of bitbudget alone: llama.cpp does not read this file";

static void *own(exporter *e, size_t bytes, bb_err *err)
{
    void *p;
    if (e->n_owned == e->room) {
        size_t room = e->room ? 2 * e->room : 64;
        void **bigger = bb_realloc(e->owned, room, sizeof *bigger, err);
        if (!bigger) return NULL;
        e->owned = bigger;
        e->room = room;
    }
    p = bb_calloc(bytes, 1, err);
    if (p) e->owned[e->n_owned++] = p;
    return p;
}

/* ---- what the file will be ---- */

static const bb_block *block_at(const exporter *e, uint32_t i) { return &e->net->blocks[e->from[i]]; }

static uint32_t count_of(const bb_block *k, bb_count c) { return c == BB_COUNT_HEADS ? k->n_head : c == BB_COUNT_KV ? k->n_kv : k->n_ff; }

bool bb_exporter_needs_block(const bb_block *k) { return k->n_head > 0 || k->n_ff > 0 || k->n_token > 0 || bb_scales(k->scale); }

static bb_status keep_blocks(exporter *e, bb_err *err)
{
    e->from = BB_NEW(e->net->n_layer, uint32_t, err);
    if (!e->from) return BB_NOMEM;
    for (int k = 0; k < BB_N_COUNTS; k++)
        if (!(e->given[k] = BB_NEW(e->net->n_layer, uint32_t, err)) || !(e->shape[k] = BB_NEW(e->net->n_layer, uint32_t, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < e->net->n_layer; i++) {
        const bb_block *k = &e->net->blocks[i];
        if (!bb_exporter_needs_block(k)) continue;
        for (int c = 0; c < BB_N_COUNTS; c++) e->given[c][e->n_layer] = count_of(k, (bb_count)c);
        e->from[e->n_layer++] = i;
    }
    if (e->n_layer == 0) return BB_FAIL(err, BB_UNSUPPORTED, "no block is left: llama.cpp needs one at least");
    return BB_OK;
}

/* Parts that lie in one tensor of the source's architecture, with different types in some block. */
static bool is_mixed(const exporter *e)
{
    for (uint32_t i = 0; i < e->n_layer; i++) {
        const bb_block  *k = block_at(e, i);
        const bb_matrix *first[BB_N_FEEDS] = { NULL };
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_feed feed = bb_parts[p].feed;
            if (!e->source->net.arch->fused[feed] || !bb_block_has_part(k, (bb_part)p)) continue;
            if (first[feed] && first[feed]->type != k->w[p].type) return true;
            first[feed] = &k->w[p];
        }
    }
    return false;
}

/* Do its files say which blocks have a window by a period? */
static bool has_period(const exporter *e)
{
    const bb_arch *arch = e->source->net.arch;
    return e->net->local_rope_base > 0 && arch->window_every && !arch->own_kinds;
}

static uint32_t period_of(const exporter *e)
{
    bool has[BB_MAX_LAYERS];
    for (uint32_t i = 0; i < e->n_layer; i++) has[i] = block_at(e, i)->local;
    return bb_window_period(has, e->n_layer, e->source->net.arch->window_every);
}

bool bb_exporter_keeps_arch(const exporter *e)
{
    const bb_arch *arch = e->source->net.arch;
    if (e->mixed && bb_arch_takes_mixed(&e->source->net)) return false;
    if (arch->square_attention && (uint64_t)e->given[BB_COUNT_HEADS][0] * e->net->head_dim != e->net->n_embd) return false;
    for (int c = 0; c < BB_N_COUNTS; c++)
        for (uint32_t i = 0; i < e->n_layer && !(arch->arrays & BB_SET(c)); i++)
            if (e->given[c][i] == 0 || e->given[c][i] != e->given[c][0]) return false;
    for (uint32_t i = 0; i < e->n_layer; i++) /* which blocks have RoPE, the runtime sees from their numbers */
        if (e->net->blocks[e->from[i]].no_rope != bb_arch_no_rope(arch, i)) return false;
    if (has_period(e) && !period_of(e)) return false;
    if (arch->wide_scale_at) { /* the loader makes it from the number of blocks and heads */
        const float scale = bb_arch_query_scale(arch, e->n_layer, e->net->n_embd, e->given[BB_COUNT_HEADS][0], e->net->head_dim);
        if (scale < e->net->query_scale || scale > e->net->query_scale) return false;
    }
    return true;
}

bb_status bb_exporter_choose_arch(exporter *e, bool keeps, bb_err *err)
{
    const bb_net  *net = e->net;
    const bb_arch *from = e->source->net.arch;
    e->arch = keeps ? from : bb_arch_for_pruned(from);
    if (!e->arch)
        return BB_FAIL(err, BB_UNSUPPORTED,
                       "a %s with blocks of different shapes%s: no architecture of llama.cpp that takes them has %s; prune all blocks alike", from->name,
                       bb_arch_counts_blocks(from) ? ", or blocks in other places" : "", from->alone);
    if (net->head.rows && !e->arch->separate_head)
        return BB_FAIL(err, BB_UNSUPPORTED,
                       "a %s with blocks of different shapes and a separate output matrix: llama.cpp has no architecture for it; prune all "
                       "blocks alike",
                       from->name);
    e->permuted = e->arch->neox != from->neox;
    if (e->arch->whole_heads && net->n_rot != net->head_dim)
        return BB_FAIL(err, BB_UNSUPPORTED, "architecture %s rotates whole heads (%u numbers); this model rotates %u", e->arch->name, net->head_dim,
                       net->n_rot);
    return BB_OK;
}

/* Heads, KV heads and widths as the file will say them: with the stand-ins for what the graph needs. */
void bb_exporter_choose_shapes(exporter *e)
{
    for (uint32_t i = 0; i < e->n_layer; i++) {
        const uint32_t n_head = e->given[BB_COUNT_HEADS][i], n_ff = e->given[BB_COUNT_FF][i];
        const unsigned needed = e->arch->always | (i == 0 ? e->arch->first : 0);
        const uint32_t stand_in = (needed & BB_SET(BB_ATTENTION)) != 0;
        e->shape[BB_COUNT_HEADS][i] = n_head ? n_head : stand_in;
        e->shape[BB_COUNT_KV][i] = n_head ? e->given[BB_COUNT_KV][i] : stand_in;
        e->shape[BB_COUNT_FF][i] = n_ff ? n_ff : e->shape[BB_COUNT_HEADS][i] > 0;
    }
}

/* Counts of block i as written, for bb_dim_of. */
static bb_block written(const exporter *e, uint32_t i)
{
    const bb_block *k = block_at(e, i);
    return (bb_block) { .n_head = e->shape[BB_COUNT_HEADS][i],
                        .n_kv = e->shape[BB_COUNT_KV][i],
                        .n_ff = e->shape[BB_COUNT_FF][i],
                        .n_token = k->n_token,
                        .local = k->local,
                        .kv_role = k->kv_role,
                        .lacks = k->lacks };
}

/* ---- checks ---- */

static bb_status check_matrix(const bb_matrix *w, const char *name, bb_err *err)
{
    uint32_t block, bytes;
    if (w->lattice && !bb_lattice_can(w->rows, w->cols))
        return BB_FAIL(err, BB_UNSUPPORTED, "%s: %u x %u weights cannot be of type LC2: rows of a multiple of 4 and no odd factor above 255 on either side can",
                       name, w->cols, w->rows);
    if (!bb_gguf_block((uint32_t)w->type, &block, &bytes)) return BB_FAIL(err, BB_UNSUPPORTED, "%s: type id %d is no type of the runtime", name, (int)w->type);
    if (w->cols % block != 0)
        return BB_FAIL(err, BB_UNSUPPORTED, "%s: rows of %u weights are no multiple of %u, the block of %s", name, w->cols, block,
                       bb_format_get(w->type) ? bb_format_get(w->type)->name : "its type");
    return BB_OK;
}

/* Parts that will lie in one matrix. */
static bb_status check_fused(const exporter *e, uint32_t i, bb_feed feed, bb_err *err)
{
    const bb_block *k = block_at(e, i);
    const bb_type  *type = NULL;
    for (int p = 0; p < BB_N_PARTS; p++) {
        if (bb_parts[p].feed != feed) continue;
        if (k->w[p].lattice)
            return BB_FAIL(err, BB_UNSUPPORTED, "block %u: architecture %s stores %s in one matrix, which cannot be of type LC2", e->from[i], e->arch->name,
                           feed == BB_FEED_ATTENTION ? "q, k and v" : "gate and up");
        if (type && k->w[p].type != *type)
            return BB_FAIL(err, BB_UNSUPPORTED, "block %u: architecture %s stores %s in one matrix; give them one type", e->from[i], e->arch->name,
                           feed == BB_FEED_ATTENTION ? "q, k and v" : "gate and up");
        type = &k->w[p].type;
    }
    return BB_OK;
}

bb_status bb_exporter_check_attention(const exporter *e, uint32_t i, bb_err *err)
{
    const bb_block *k = block_at(e, i);
    bb_status       status = BB_OK;
    if (k->n_kv == 0 || k->n_head % k->n_kv != 0)
        return BB_FAIL(err, BB_UNSUPPORTED, "block %u: %u heads are no multiple of %u KV heads", e->from[i], k->n_head, k->n_kv);
    for (int p = 0; p < BB_N_PARTS; p++) {
        if (bb_parts[p].sublayer != BB_ATTENTION || !bb_block_has_part(k, (bb_part)p)) continue;
        BB_ASSERT(k->w[p].rows == bb_dim_of(e->net, k, bb_parts[p].rows) && k->w[p].cols == bb_dim_of(e->net, k, bb_parts[p].cols));
    }
    if (e->arch->fused[BB_FEED_ATTENTION]) BB_TRY(check_fused(e, i, BB_FEED_ATTENTION, err));
    for (int p = 0; p < BB_N_PARTS && !e->arch->attention_biases; p++)
        if (bb_parts[p].sublayer == BB_ATTENTION && k->w[p].bias)
            return BB_FAIL(err, BB_UNSUPPORTED, "block %u: architecture %s has no biases", e->from[i], e->arch->name);
done:
    return status;
}

static bb_status check(const exporter *e, bb_err *err)
{
    char      name[64];
    bb_status status;
    BB_TRY(check_matrix(&e->net->embd, "token_embd", err));
    if (e->net->head.rows) BB_TRY(check_matrix(&e->net->head, "output", err));
    if (e->net->token.width) BB_TRY(check_matrix(&e->net->token.table, bb_token_names[BB_TOKEN_TABLE], err));
    for (uint32_t i = 0; i < e->n_layer; i++) {
        const bb_block *k = block_at(e, i);
        if (k->n_head) BB_TRY(bb_exporter_check_attention(e, i, err));
        if (k->n_ff && e->arch->fused[BB_FEED_FFN]) BB_TRY(check_fused(e, i, BB_FEED_FFN, err));
        for (unsigned p = 0; p < BB_N_PARTS; p++) {
            if (!bb_block_has_part(k, (bb_part)p)) continue;
            snprintf(name, sizeof name, "blk.%u.%s", e->from[i], bb_parts[p].name);
            BB_TRY(check_matrix(&k->w[p], name, err));
        }
    }
done:
    return status;
}

/* ---- keys ---- */

static bool ends(bb_bytes key, const char *end) { return key.size >= strlen(end) && memcmp(key.data + key.size - strlen(end), end, strlen(end)) == 0; }
static bool begins(bb_bytes key, const char *prefix) { return key.size >= strlen(prefix) && memcmp(key.data, prefix, strlen(prefix)) == 0; }

/* All keys of the source; "llama.x" becomes "deci.x" when the architecture changes. */
static bb_status copy_keys(exporter *e, bb_err *err)
{
    const bb_source *g = &e->source->source;
    const char      *to = e->arch->name;
    char             prefix[32];
    const size_t     cut = strlen(e->source->net.arch->name);
    bb_status        status = BB_OK;
    snprintf(prefix, sizeof prefix, "%s.", e->source->net.arch->name);
    for (uint64_t i = 0; i < g->n_kv; i++) {
        bb_key kv = g->kv[i];
        if (begins(kv.key, "split.") || begins(kv.key, experimental_key) || begins(kv.key, lattice_key)) continue;
        if (e->arch != e->source->net.arch && begins(kv.key, prefix)) {
            if (e->source->net.arch->no_window && ends(kv.key, ".sliding_window")) continue; /* it said nothing, and would */
            uint64_t size = strlen(to) + kv.key.size - cut;
            char    *key = own(e, (size_t)size, err);
            if (!key) return BB_NOMEM;
            memcpy(key, to, strlen(to));
            memcpy(key + strlen(to), kv.key.data + cut, (size_t)kv.key.size - cut);
            kv.key = (bb_bytes) { key, size };
        }
        BB_TRY(bb_gguf_put_copy(e->out, &kv, err));
    }
done:
    return status;
}

static bb_status put_arch_u32(exporter *e, const char *suffix, uint32_t v, bb_err *err)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", e->arch->name, suffix);
    return bb_gguf_put_u32(e->out, key, v, err);
}

/* The type that most block weights have; the lowest id wins a tie. */
static bb_type commonest_type(const exporter *e)
{
    uint64_t weights[BB_TYPE_COUNT] = { 0 };
    unsigned best = 0;
    for (uint32_t i = 0; i < e->n_layer; i++)
        for (unsigned p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &block_at(e, i)->w[p];
            weights[bb_matrix_stored(w)] += (uint64_t)w->rows * w->cols;
        }
    for (unsigned t = 1; t < BB_TYPE_COUNT; t++)
        if (weights[t] > weights[best]) best = t;
    return (bb_type)best;
}

bool bb_exporter_differs(const exporter *e)
{
    if (e->arch != e->source->net.arch || e->n_layer != e->source->net.n_layer) return true;
    for (uint32_t i = 0; i < e->n_layer; i++) {
        for (int c = 0; c < BB_N_COUNTS; c++)
            if (e->shape[c][i] != count_of(&e->source->net.blocks[i], (bb_count)c)) return true;
    }
    return false;
}

/* Which blocks have a window: their numbers no longer say it. */
static bb_status put_pattern(exporter *e, bb_err *err)
{
    uint32_t has[BB_MAX_LAYERS];
    char     key[96];
    if (has_period(e)) return put_arch_u32(e, "attention.sliding_window_pattern", period_of(e), err);
    snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", e->arch->name);
    for (uint32_t i = 0; i < e->n_layer; i++) has[i] = block_at(e, i)->local;
    return bb_gguf_put_u32_array(e->out, key, has, e->n_layer, err);
}

static bb_status put_shapes(exporter *e, bb_err *err)
{
    char      key[96];
    bb_status status = BB_OK;
    if (e->net->rope_long && !e->arch->two_factors) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", e->arch->name);
        BB_TRY(bb_gguf_put_text(e->out, key, "longrope", err));
    }
    BB_TRY(put_arch_u32(e, "block_count", e->n_layer, err));
    for (int i = 0; i < BB_N_COUNTS; i++) {
        snprintf(key, sizeof key, "%s.%s", e->arch->name, bb_count_keys[i]);
        if (e->arch->arrays & BB_SET(i)) BB_TRY(bb_gguf_put_u32_array(e->out, key, e->shape[i], e->n_layer, err));
        else BB_TRY(bb_gguf_put_u32(e->out, key, e->shape[i][0], err));
    }
    if (e->net->local_rope_base > 0) BB_TRY(put_pattern(e, err));
    BB_TRY(put_arch_u32(e, "attention.key_length", e->net->head_dim, err));
    BB_TRY(put_arch_u32(e, "attention.value_length", e->net->head_dim, err));
    BB_TRY(put_arch_u32(e, "rope.dimension_count", e->net->n_rot, err));
done:
    return status;
}

/* Every text has its one length, whatever it says: see bb_provenance. */
static bb_status put_provenance(exporter *e, const bb_provenance *from, bb_err *err)
{
    static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
    const char       *hash = from->calib_sha256 && *from->calib_sha256 ? from->calib_sha256 : zeros;
    char              program[PROGRAM_BYTES + 1], kl[] = "not measured";
    bb_status         status;
    BB_ASSERT((!from->plan || strlen(from->plan) == 16) && strlen(hash) == 64);
    snprintf(program, sizeof program, "%-*s", PROGRAM_BYTES, from->program ? from->program : "unknown");
    if (from->has_kl && from->kl < 1e99) snprintf(kl, sizeof kl, "%.6e", from->kl > 1e-99 ? from->kl : 0.0);
    BB_TRY(bb_gguf_put_text(e->out, "bitbudget.plan", from->plan ? from->plan : zeros + 48, err));
    BB_TRY(bb_gguf_put_text(e->out, "bitbudget.program", program, err));
    BB_TRY(bb_gguf_put_text(e->out, "bitbudget.calibration.sha256", hash, err));
    BB_TRY(bb_gguf_put_u64(e->out, "bitbudget.calibration.tokens", from->calib_tokens, err));
    BB_TRY(bb_gguf_put_text(e->out, "bitbudget.kl", kl, err));
done:
    return status;
}

uint64_t bb_exporter_experimental_bytes(void) { return 8 + sizeof experimental_key - 1 + 4 + 8 + sizeof experimental_text - 1; }

static bool is_experimental(const bb_matrix *w)
{
    const bb_format *f = w->rows ? bb_format_get(w->type) : NULL;
    return f && f->experimental;
}

static bool has_experimental(const exporter *e)
{
    bool found = is_experimental(&e->net->embd) || is_experimental(&e->net->head) || is_experimental(&e->net->token.table);
    for (uint32_t i = 0; i < e->n_layer; i++)
        for (unsigned p = 0; p < BB_N_PARTS; p++) found |= bb_block_has_part(block_at(e, i), (bb_part)p) && is_experimental(&block_at(e, i)->w[p]);
    return found;
}

static bool has_lattice(const exporter *e)
{
    bool found = false;
    for (uint32_t i = 0; i < e->n_layer; i++)
        for (unsigned p = 0; p < BB_N_PARTS; p++) found |= block_at(e, i)->w[p].lattice != NULL;
    return found;
}

bb_status bb_exporter_put_keys(exporter *e, const bb_provenance *from, bool differs, bb_err *err)
{
    static const bb_provenance unknown = { .plan = NULL };
    bb_status                  status;
    BB_TRY(copy_keys(e, err));
    BB_TRY(bb_gguf_put_text(e->out, "general.architecture", e->arch->name, err));
    BB_TRY(bb_gguf_put_u32(e->out, "general.file_type", bb_file_type_of(commonest_type(e)), err));
    BB_TRY(bb_gguf_put_u32(e->out, "general.quantization_version", 2, err));
    if (differs) BB_TRY(put_shapes(e, err));
    BB_TRY(put_provenance(e, from ? from : &unknown, err));
    if (e->experimental) BB_TRY(bb_gguf_put_text(e->out, experimental_key, experimental_text, err));
    if (e->lattice) BB_TRY(bb_gguf_put_text(e->out, lattice_key, lattice_text, err));
done:
    return status;
}

/* ---- tensors ---- */

static bb_status put_vector(exporter *e, const char *name, const float *v, uint32_t n, bb_err *err)
{
    bb_tensor t = { .type = BB_F32, .n_dims = 1, .ne = { n, 1, 1, 1 }, .data = v };
    snprintf(t.name, sizeof t.name, "%s", name);
    return bb_gguf_put_tensor(e->out, &t, err);
}

static bb_status put_matrix(exporter *e, const char *name, bb_type type, uint32_t rows, uint32_t cols, const void *data, bb_err *err)
{
    bb_tensor t = { .type = type, .n_dims = 2, .ne = { cols, rows, 1, 1 }, .data = data };
    snprintf(t.name, sizeof t.name, "%s", name);
    return bb_gguf_put_tensor(e->out, &t, err);
}

static const char *block_name(uint32_t i, const char *part, const char *end, char name[64])
{
    snprintf(name, 64, "blk.%u.%s.%s", i, part, end);
    return name;
}

static size_t row_bytes(const bb_matrix *w)
{
    uint32_t block = 1, bytes = 0;
    bb_gguf_block((uint32_t)w->type, &block, &bytes);
    return (size_t)(w->cols / block) * bytes;
}

/* Rows of `size` bytes, heads of head_dim rows: row i and row i + D/2 of a head become rows 2i and 2i + 1. */
static void interleave_heads(const char *from, char *to, uint32_t rows, uint32_t head_dim, size_t size)
{
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t head = r / head_dim, i = r % head_dim, half = head_dim / 2;
        uint32_t place = i < half ? 2 * i : 2 * (i - half) + 1;
        memcpy(to + (size_t)(head * head_dim + place) * size, from + (size_t)r * size, size);
    }
}

static bb_status permute(exporter *e, bb_matrix *w, bb_err *err)
{
    size_t size = row_bytes(w);
    char  *rows = own(e, w->rows * size, err), *bias = w->bias ? own(e, w->rows * sizeof(float), err) : NULL;
    if (!rows || (w->bias && !bias)) return BB_NOMEM;
    interleave_heads(w->data, rows, w->rows, e->net->head_dim, size);
    w->data = rows;
    if (bias) {
        interleave_heads((const char *)w->bias, bias, w->rows, e->net->head_dim, sizeof(float));
        w->bias = (const float *)(const void *)bias;
    }
    return BB_OK;
}

/* Part p of block i; w is what is written (already in the target's order). */
static bb_status put_part(exporter *e, uint32_t i, bb_part p, const bb_matrix *w, bb_err *err)
{
    char              name[64];
    bb_status         status;
    const bb_lattice *l = w->lattice;
    BB_TRY(put_matrix(e, block_name(i, bb_parts[p].name, "weight", name), bb_matrix_stored(w), w->rows, w->cols, l ? l->codes : w->data, err));
    if (l) {
        bb_tensor t = { .type = BB_F16, .n_dims = 1, .ne = { bb_lattice_side_numbers(w->rows, w->cols), 1, 1, 1 }, .data = l->side };
        block_name(i, bb_parts[p].name, "lattice", t.name);
        BB_TRY(bb_gguf_put_tensor(e->out, &t, err));
    }
    if (w->bias) BB_TRY(put_vector(e, block_name(i, bb_parts[p].name, "bias", name), w->bias, w->rows, err));
done:
    return status;
}

static bb_status put_fused(exporter *e, uint32_t i, bb_feed feed, const bb_matrix *w, bb_err *err)
{
    uint32_t rows = 0, cols = 0;
    bb_type  type = BB_F32;
    size_t   size = 0;
    char     name[64], *data = NULL, *at;
    for (int p = 0; p < BB_N_PARTS; p++) {
        if (bb_parts[p].feed != feed) continue;
        rows += w[p].rows;
        cols = w[p].cols;
        type = w[p].type;
        size = row_bytes(&w[p]);
    }
    if (e->with_data) {
        at = data = own(e, rows * size, err);
        if (!data) return BB_NOMEM;
        for (int p = 0; p < BB_N_PARTS; p++) {
            if (bb_parts[p].feed != feed) continue;
            memcpy(at, w[p].data, w[p].rows * size);
            at += w[p].rows * size;
        }
    }
    return put_matrix(e, block_name(i, e->arch->fused[feed], "weight", name), type, rows, cols, data, err);
}

/* A matrix whose bytes are zero and whose weights are therefore zero. */
static bb_status zero_matrix(exporter *e, uint32_t rows, uint32_t cols, bb_matrix *w, bb_err *err)
{
    /* llama.cpp's repacked product of Q4_0 reads memory that nobody wrote when a row is one block; IQ4_NL has as many bytes. */
    *w = (bb_matrix) { .type = cols % 64 == 0 ? BB_Q4_0 : cols % 32 == 0 ? BB_IQ4_NL : BB_F16, .rows = rows, .cols = cols };
    if (e->with_data) w->data = own(e, rows * row_bytes(w), err);
    return e->with_data && !w->data ? BB_NOMEM : BB_OK;
}

/* *v: given, or ones when it is NULL and data are wanted. */
static bb_status norm_or_ones(exporter *e, const float *given, uint32_t n, const float **v, bb_err *err)
{
    float *ones = NULL;
    *v = given;
    if (given || !e->with_data) return BB_OK;
    ones = own(e, n * sizeof *ones, err);
    if (!ones) return BB_NOMEM;
    for (uint32_t i = 0; i < n; i++) ones[i] = 1.0f;
    *v = ones;
    return BB_OK;
}

/* The matrices of block i as they are written: stand-ins for what the graph needs, permuted rows. */
static bb_status make_parts(exporter *e, uint32_t i, bb_matrix w[BB_N_PARTS], bb_err *err)
{
    const bb_block *k = block_at(e, i), shape = written(e, i);
    bb_status       status = BB_OK;
    memcpy(w, k->w, sizeof k->w);
    for (int p = 0; p < BB_N_PARTS; p++) {
        if (!bb_block_has_part(&shape, (bb_part)p)) continue;
        if (!bb_block_has_part(k, (bb_part)p))
            BB_TRY(zero_matrix(e, (uint32_t)bb_dim_of(e->net, &shape, bb_parts[p].rows), (uint32_t)bb_dim_of(e->net, &shape, bb_parts[p].cols), &w[p], err));
        else if (e->permuted && bb_parts[p].rotated && w[p].lattice)
            return BB_FAIL(err, BB_UNSUPPORTED, "block %u: architecture %s has q and k in another order, in which they cannot be of type LC2", e->from[i],
                           e->arch->name);
        else if (e->permuted && bb_parts[p].rotated && e->with_data) BB_TRY(permute(e, &w[p], err));
    }
done:
    return status;
}

/* The norms of a sublayer of block i: that of its input, or the others. */
static bb_status put_norms(exporter *e, uint32_t i, bb_sublayer s, bool of_input, bb_err *err)
{
    const bb_block *k = block_at(e, i);
    char            name[64];
    bb_status       status = BB_OK;
    for (int n = 0; n < BB_N_NORMS; n++) {
        const uint32_t length = (uint32_t)bb_norm_length(e->net, k, (bb_norm)n);
        const float   *v;
        if (bb_norms[n].sublayer != s || (bb_norms[n].place == BB_PLACE_INPUT) != of_input) continue;
        if (!k->norm[n] && (!(e->arch->norms & BB_SET(n)) || (bb_norms[n].place == BB_PLACE_K && k->kv_role == BB_KV_TAKES))) continue;
        BB_TRY(norm_or_ones(e, k->norm[n], length, &v, err));
        BB_TRY(put_vector(e, block_name(i, bb_norms[n].name, "weight", name), v, length, err));
    }
done:
    return status;
}

static bb_status put_sublayer(exporter *e, uint32_t i, bb_sublayer s, const bb_matrix *w, bb_err *err)
{
    unsigned  fused = 0; /* set of the feeds whose parts are written */
    bb_status status;
    BB_TRY(put_norms(e, i, s, true, err));
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bb_feed feed = bb_parts[p].feed;
        if (bb_parts[p].sublayer != s || (fused & BB_SET(feed)) || (block_at(e, i)->lacks & BB_SET(p))) continue;
        if (e->arch->fused[feed]) {
            BB_TRY(put_fused(e, i, feed, w, err));
            fused |= BB_SET(feed);
        } else BB_TRY(put_part(e, i, (bb_part)p, &w[p], err));
    }
    BB_TRY(put_norms(e, i, s, false, err));
done:
    return status;
}

bb_status bb_exporter_put_block(exporter *e, uint32_t i, bb_err *err)
{
    const bb_block shape = written(e, i);
    bb_matrix      w[BB_N_PARTS];
    char           name[64];
    bb_status      status;
    BB_TRY(make_parts(e, i, w, err));
    for (int s = 0; s < BB_N_SUBLAYERS; s++)
        if (bb_block_has(&shape, (bb_sublayer)s)) BB_TRY(put_sublayer(e, i, (bb_sublayer)s, w, err));
    if (block_at(e, i)->scale > 0) BB_TRY(put_vector(e, block_name(i, bb_block_scale_name, "weight", name), &block_at(e, i)->scale, 1, err));
done:
    return status;
}

static bb_status put_token(exporter *e, bb_err *err)
{
    const bb_net          *net = e->net;
    const bb_token_inputs *t = &net->token;
    const uint32_t         width = net->n_layer * t->width;
    char                   name[64];
    bb_status              status = BB_OK;
    if (!t->width) goto done;
    snprintf(name, sizeof name, "%s.weight", bb_token_names[BB_TOKEN_TABLE]);
    BB_TRY(put_matrix(e, name, t->table.type, net->n_vocab, width, t->table.data, err));
    snprintf(name, sizeof name, "%s.weight", bb_token_names[BB_TOKEN_PROJ]);
    BB_TRY(put_matrix(e, name, t->proj.type, width, net->n_embd, t->proj.data, err));
    snprintf(name, sizeof name, "%s.weight", bb_token_names[BB_TOKEN_NORM]);
    BB_TRY(put_vector(e, name, t->norm, t->width, err));
done:
    return status;
}

bb_status bb_exporter_put_outer(exporter *e, bb_err *err)
{
    const bb_net *net = e->net;
    bb_status     status;
    BB_TRY(put_matrix(e, "token_embd.weight", net->embd.type, net->embd.rows, net->embd.cols, net->embd.data, err));
    BB_TRY(put_vector(e, "output_norm.weight", net->out_norm, net->n_embd, err));
    if (net->head.rows) BB_TRY(put_matrix(e, "output.weight", net->head.type, net->head.rows, net->head.cols, net->head.data, err));
    if (net->rope_factors) BB_TRY(put_vector(e, net->rope_long ? "rope_factors_short.weight" : "rope_freqs.weight", net->rope_factors, net->n_rot / 2, err));
    if (net->rope_long) BB_TRY(put_vector(e, "rope_factors_long.weight", net->rope_long, net->n_rot / 2, err));
    BB_TRY(put_token(e, err));
done:
    return status;
}

static bb_status put_tensors(exporter *e, bb_err *err)
{
    bb_status status;
    BB_ASSERT(!e->net->token.width || e->n_layer == e->net->n_layer); /* a block that takes what tokens give is never left out */
    BB_TRY(bb_exporter_put_outer(e, err));
    for (uint32_t i = 0; i < e->n_layer; i++) BB_TRY(bb_exporter_put_block(e, i, err));
done:
    return status;
}

/* ---- the three functions ---- */

void bb_exporter_done(exporter *e)
{
    bb_gguf_out_destroy(e->out);
    for (size_t i = 0; i < e->n_owned; i++) bb_free(e->owned[i]);
    bb_free(e->owned);
    for (int k = 0; k < BB_N_COUNTS; k++) {
        bb_free(e->given[k]);
        bb_free(e->shape[k]);
    }
    bb_free(e->from);
}

static bb_status plan_file(exporter *e, bb_err *err)
{
    bb_status status;
    BB_ASSERT(e->net->n_layer == e->source->net.n_layer && e->net->n_embd == e->source->net.n_embd);
    BB_TRY(keep_blocks(e, err));
    e->mixed = is_mixed(e);
    BB_TRY(bb_exporter_choose_arch(e, bb_exporter_keeps_arch(e), err));
    bb_exporter_choose_shapes(e);
    BB_TRY(check(e, err));
    e->experimental = has_experimental(e);
    e->lattice = has_lattice(e);
done:
    return status;
}

static bb_status gather(exporter *e, const bb_provenance *from, bb_err *err)
{
    bb_status status;
    BB_TRY(plan_file(e, err));
    BB_TRY(bb_gguf_out_create(&e->out, err));
    BB_TRY(bb_exporter_put_keys(e, from, bb_exporter_differs(e), err));
    BB_TRY(put_tensors(e, err));
done:
    return status;
}

bb_status bb_export_size(const bb_model *source, const bb_net *net, uint64_t *bytes, bb_err *err)
{
    exporter  e = { .source = source, .net = net };
    bb_status status;
    BB_TRY(gather(&e, NULL, err));
    BB_TRY(bb_gguf_out_size(e.out, bytes, err));
done:
    bb_exporter_done(&e);
    return status;
}

bb_status bb_export_write(const bb_model *source, const bb_net *net, const bb_provenance *from, const char *path, bb_err *err)
{
    exporter  e = { .source = source, .net = net, .with_data = true };
    bb_status status;
    BB_TRY(gather(&e, from, err));
    BB_TRY(bb_gguf_out_write(e.out, path, err));
done:
    bb_exporter_done(&e);
    return status;
}

bb_status bb_export_check(const bb_model *source, const bb_net *net, bb_err *err)
{
    exporter  e = { .source = source, .net = net };
    bb_status status = plan_file(&e, err);
    bb_exporter_done(&e);
    return status;
}
