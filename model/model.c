/* SPDX-License-Identifier: GPL-3.0-or-later
 * model.c: see model.h. Reads hyperparameters with the keys and the defaults of llama.cpp, then every tensor.
 *
 * What an architecture has is in its row (net/arch.h): shapes in arrays, sublayers that may be absent, norms, parts that are views of one
 * fused matrix. A tensor that no part of the network asks for is refused, as llama.cpp does: computing without it would be wrong.
 */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/model_internal.h"
#include "model/net/arch.h"
#include "model/net/lattice.h"

enum { MAX_HEAD_DIM = 4096, MAX_WIDTH = 1 << 24, KEY_BYTES = 128 };

/* What one call of bb_model_build knows. */
typedef struct builder {
    bb_model      *m;
    bool           longrope; /* what RoPE scaling is called */
    const bb_arch *arch;
    bool          *used; /* [n_tensors] */
    size_t         room; /* of m->owned */
} builder;

/* ---- memory that the model owns ---- */

static void *own(builder *b, size_t n, size_t size, bb_err *err)
{
    bb_model *m = b->m;
    void     *p;
    if (m->n_owned == b->room) {
        size_t room = b->room ? 2 * b->room : 16;
        void  *bigger = bb_realloc(m->owned, room, sizeof *m->owned, err);
        if (!bigger) return NULL;
        m->owned = bigger;
        b->room = room;
    }
    p = bb_calloc(n, size, err);
    if (p) m->owned[m->n_owned++] = p;
    return p;
}

/* ---- hyperparameters ---- */

static const char *key_of(const builder *b, const char *suffix, char key[KEY_BYTES])
{
    snprintf(key, KEY_BYTES, "%s.%s", b->arch->name, suffix);
    return key;
}

/* A u32 of 1..max; absent: fallback, or an error when that is 0. */
static bb_status read_u32(const builder *b, const char *suffix, uint32_t max, uint32_t fallback, uint32_t *out, bb_err *err)
{
    char      key[KEY_BYTES];
    bool      found = true;
    bb_status status = bb_source_u32(&b->m->source, key_of(b, suffix, key), out, fallback ? &found : NULL, err);
    if (status != BB_OK) return status;
    if (!found) *out = fallback;
    if (*out < 1 || *out > max) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %u; 1 to %u is possible", key, *out, max);
    return BB_OK;
}

static bb_status read_f32(const builder *b, const char *suffix, float fallback, float *out, bb_err *err)
{
    char      key[KEY_BYTES];
    bool      found;
    bb_status status = bb_source_f32(&b->m->source, key_of(b, suffix, key), out, &found, err);
    if (status == BB_OK && !found) *out = fallback;
    return status;
}

static bb_status find_arch(builder *b, bb_err *err)
{
    bb_bytes  text;
    char      shown[BB_SHOWN], known[256] = "";
    bb_status status = bb_source_text(&b->m->source, "general.architecture", &text, NULL, err);
    if (status != BB_OK) return status;
    if ((b->arch = bb_arch_find(text.data, (size_t)text.size)) != NULL) {
        b->m->net.arch = b->arch;
        b->m->net.rope_neox = b->arch->neox;
        b->m->net.gate = b->arch->gate;
        b->m->net.whole_norms = b->arch->whole_norms;
        b->m->net.unit_scores = b->arch->unit_scores;
        return BB_OK;
    }
    for (size_t i = 0, n = 0; i < bb_n_archs && n < sizeof known; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i == 0 ? "" : i + 1 < bb_n_archs ? ", " : " and ", bb_archs[i].name);
    return BB_FAIL(err, BB_UNSUPPORTED, "architecture '%s' is not supported; %s are", bb_show(text, shown), known);
}

static bool text_is(bb_bytes text, const char *s) { return text.size == strlen(s) && memcmp(text.data, s, (size_t)text.size) == 0; }

/* A number that must not be negative; absent: fallback. */
static bb_status read_positive(const builder *b, const char *suffix, float fallback, float *out, bb_err *err)
{
    char            key[KEY_BYTES];
    const bb_status status = read_f32(b, suffix, fallback, out, err);
    if (status != BB_OK || *out >= 0) return status;
    return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %g; it must not be negative", key_of(b, suffix, key), (double)*out);
}

/* The pair whose wave turns this often in the context before it was extended. */
static double yarn_pair(const bb_net *net, double turns)
{
    return net->n_rot * log(net->rope_context / (turns * 2 * 3.14159265358979323846)) / (2 * log((double)net->rope_base));
}

/* YaRN by a factor: pairs that turn often in the old context keep their frequency, those that turn less than once are scaled, and what is turned grows
 * with the logarithm of the factor. An architecture without keys of its own takes the numbers of the paper. */
static bb_status read_yarn(const builder *b, float factor, bb_err *err)
{
    bb_net   *net = &b->m->net;
    float     fast = 32, slow = 1, multiplier = 0;
    bb_status status = BB_OK;
    if (b->arch->own_yarn) {
        BB_TRY(read_positive(b, "rope.scaling.yarn_beta_fast", fast, &fast, err));
        BB_TRY(read_positive(b, "rope.scaling.yarn_beta_slow", slow, &slow, err));
        BB_TRY(read_positive(b, "rope.scaling.yarn_log_multiplier", 0, &multiplier, err));
    }
    if (!(fast > 0 && slow > 0) || !(net->rope_base > 1))
        return BB_FAIL(err, BB_BAD_FILE, "YaRN with beta fast %g, slow %g and RoPE base %g: above 0, and the base above 1, is needed", (double)fast,
                       (double)slow, (double)net->rope_base);
    net->yarn = true;
    net->yarn_low = (float)fmax(0, floor(yarn_pair(net, (double)fast)));
    net->yarn_high = (float)fmin(net->n_rot - 1, ceil(yarn_pair(net, (double)slow)));
    if (factor > 1) {
        const double grown = 0.1 * log((double)factor);
        net->rope_magnitude *= (float)((1 + grown) / (1 + (double)multiplier * grown));
    }
done:
    return status;
}

/* llama.cpp: an absent type means linear, an absent or zero factor means 1, type none ignores the factor. */
static bb_status read_rope(builder *b, bb_err *err)
{
    bb_net   *net = &b->m->net;
    char      key[KEY_BYTES], shown[BB_SHOWN];
    bb_bytes  type = { "linear", 6 };
    bool      found;
    float     factor = 0;
    bb_status status;
    BB_TRY(read_f32(b, "rope.freq_base", 10000.0f, &net->rope_base, err));
    if (!(net->rope_base > 0)) return BB_FAIL(err, BB_BAD_FILE, "the RoPE base is %g; it must be above 0", (double)net->rope_base);
    BB_TRY(bb_source_text(&b->m->source, key_of(b, "rope.scaling.type", key), &type, &found, err));
    BB_TRY(read_f32(b, "rope.scale_linear", 0.0f, &factor, err));
    BB_TRY(read_f32(b, "rope.scaling.factor", factor, &factor, err));
    BB_TRY(read_u32(b, "rope.scaling.original_context_length", UINT32_MAX, net->n_ctx_train, &net->rope_context, err));
    BB_TRY(read_f32(b, "rope.scaling.attn_factor", 1, &net->rope_magnitude, err));
    if (!(net->rope_magnitude > 0)) return BB_FAIL(err, BB_BAD_FILE, "the factor of what RoPE turns is %g; it must be above 0", (double)net->rope_magnitude);
    if (b->arch->own_yarn) BB_TRY(read_positive(b, "attention.temperature_scale", 0, &net->heat, err));
    b->longrope = text_is(type, "longrope");
    if (!text_is(type, "linear") && !text_is(type, "none") && !text_is(type, "yarn") && !(b->longrope && (b->arch->rope_factors || b->arch->two_factors)))
        return BB_FAIL(err, BB_UNSUPPORTED, "RoPE scaling '%s' of architecture %s is not supported; none, linear, yarn%s are", bb_show(type, shown),
                       b->arch->name,
                       b->arch->rope_factors  ? ", longrope and the frequency factors of Llama 3"
                       : b->arch->two_factors ? " and longrope"
                                              : "");
    if (factor < 0) return BB_FAIL(err, BB_BAD_FILE, "the RoPE scaling factor is %g; it must be above 0", (double)factor);
    net->rope_freq_scale = factor > 0 && !text_is(type, "none") ? 1.0f / factor : 1.0f;
    if (text_is(type, "yarn") && factor > 0 && !(factor >= 1 && factor <= 1)) BB_TRY(read_yarn(b, factor, err)); /* by 1 it changes nothing */
done:
    return status;
}

/* Said in other words than those of other foreign keys: it is the one that people meet. */
static bb_status refuse_experts(const builder *b, bb_err *err)
{
    char      key[KEY_BYTES];
    uint32_t  n = 0;
    bool      found;
    bb_status status = bb_source_u32(&b->m->source, key_of(b, "expert_count", key), &n, &found, err);
    if (status != BB_OK || n == 0) return status;
    return BB_FAIL(err, BB_UNSUPPORTED, "the model has %u experts (key '%s'); only dense models are supported", n, key);
}

static bb_status read_head_dim(const builder *b, bb_err *err)
{
    bb_net   *net = &b->m->net;
    uint32_t  first = net->blocks[0].n_head, fallback = first ? net->n_embd / first : 0, value;
    char      key[KEY_BYTES];
    bb_status status;
    BB_TRY(read_u32(b, "attention.key_length", MAX_HEAD_DIM, fallback, &net->head_dim, err));
    BB_TRY(read_u32(b, "attention.value_length", MAX_HEAD_DIM, fallback, &value, err));
    if (value != net->head_dim)
        return BB_FAIL(err, BB_UNSUPPORTED, "keys have %u and values %u numbers a head; only equal lengths are supported", net->head_dim, value);
    BB_TRY(read_u32(b, "rope.dimension_count", MAX_HEAD_DIM, net->head_dim, &net->n_rot, err));
    if (net->n_rot % 2 != 0 || net->n_rot > net->head_dim)
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %u; an even number up to the head size %u is possible", key_of(b, "rope.dimension_count", key),
                       net->n_rot, net->head_dim);
    if (b->arch->whole_heads && net->n_rot != net->head_dim)
        return BB_FAIL(err, BB_UNSUPPORTED, "metadata key '%s' is %u and a head has %u numbers; architecture %s needs them equal",
                       key_of(b, "rope.dimension_count", key), net->n_rot, net->head_dim, b->arch->name);
done:
    return status;
}

/* One factor of the network; absent or 0: 1, but an error where llama.cpp needs the key. */
static bb_status read_factor(const builder *b, const char *suffix, bool needed, float *out, bb_err *err)
{
    char      key[KEY_BYTES];
    bool      found;
    bb_status status;
    BB_TRY(bb_source_f32(&b->m->source, key_of(b, suffix, key), out, needed ? NULL : &found, err));
    if (!needed && (!found || (*out >= 0 && *out <= 0))) *out = 1;
    if (!(*out > 0) || !isfinite(*out)) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %g; it must be above 0", key, (double)*out);
done:
    return status;
}

/* The residual stream is divided by the factor of what joins it: x / r has the norms of x when their epsilon is divided by r * r. */
static bb_status read_factors(const builder *b, bb_err *err)
{
    bb_net   *net = &b->m->net;
    float     embd, residual, logits, attention = 0;
    char      key[KEY_BYTES];
    bool      found;
    bb_status status = BB_OK;
    if (!b->arch->factors) goto done;
    BB_TRY(read_factor(b, "embedding_scale", false, &embd, err));
    BB_TRY(read_factor(b, "residual_scale", false, &residual, err));
    BB_TRY(read_factor(b, "logit_scale", true, &logits, err));
    BB_TRY(bb_source_f32(&b->m->source, key_of(b, "attention.scale", key), &attention, &found, err));
    if (!(attention >= 0) || !isfinite(attention)) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %g; it must not be negative", key, (double)attention);
    net->residual_scale = residual;
    net->embd_scale = (float)((double)embd / (double)residual);
    net->norm_eps = (float)((double)net->norm_eps / ((double)residual * (double)residual));
    net->out_scale = (float)(1 / (double)logits);
    if (found && attention > 0) net->query_scale = (float)((double)attention * sqrt(net->head_dim));
    if (!isfinite(net->embd_scale) || !isfinite(net->norm_eps) || !isfinite(net->out_scale) || !isfinite(net->query_scale))
        return BB_FAIL(err, BB_BAD_FILE, "the factors of embeddings (%g), residual stream (%g), logits (%g) and attention (%g) are out of range", (double)embd,
                       (double)residual, (double)logits, (double)attention);
done:
    return status;
}

static void read_root(const builder *b)
{
    bb_net *net = &b->m->net;
    if (b->arch->embd_root) net->embd_scale = sqrtf((float)net->n_embd);
    if (b->arch->wide_scale_at) net->query_scale = bb_arch_query_scale(b->arch, net->n_layer, net->n_embd, net->blocks[0].n_head, net->head_dim);
}

/* Which blocks have a window: an entry a block, or the length of the period whose last block has none. A loader that takes a period passes over a list. */
static bb_status read_pattern(const builder *b, bool has[BB_MAX_LAYERS], bb_err *err)
{
    const bb_net *net = &b->m->net;
    char          key[KEY_BYTES];
    const bb_key *kv = bb_source_find(&b->m->source, key_of(b, "attention.sliding_window_pattern", key));
    uint32_t      period = b->arch->window_every;
    bool          found;
    bb_status     status;
    if ((!kv || kv->kind != BB_KIND_ARRAY) && b->arch->own_kinds)
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is no list; architecture %s needs one", key, b->arch->name);
    if (!kv || kv->kind != BB_KIND_ARRAY) {
        BB_TRY(bb_source_u32(&b->m->source, key, &period, &found, err));
        for (uint32_t i = 0; i < net->n_layer; i++) has[i] = period == 0 || i % period < period - 1;
        return BB_OK;
    }
    if (kv->count != net->n_layer || !(bb_kind_bytes(kv->element) > 0))
        return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' has %llu entries; %u numbers are needed, one a block", key, (unsigned long long)kv->count,
                       net->n_layer);
    for (uint32_t i = 0; i < net->n_layer; i++) {
        const double x = bb_kind_number(kv->element, kv->value + i * bb_kind_bytes(kv->element));
        has[i] = x < 0 || x > 0;
    }
    if (!b->arch->own_kinds && bb_window_period(has, net->n_layer, period) != period)
        return BB_FAIL(err, BB_UNSUPPORTED, "metadata key '%s' is a list by which not just each %uth block has no window: llama.cpp passes over it", key,
                       period);
    status = BB_OK;
done:
    return status;
}

static bb_status read_windows(const builder *b, bb_err *err)
{
    bb_net   *net = &b->m->net;
    uint32_t  window = 0;
    bool      found, has[BB_MAX_LAYERS];
    float     base;
    char      key[KEY_BYTES];
    bb_status status = BB_OK;
    if (!b->arch->window_every) goto done;
    BB_TRY(bb_source_u32(&b->m->source, key_of(b, "attention.sliding_window", key), &window, &found, err));
    if (!window && b->arch->own_kinds) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is missing or 0; architecture %s needs it", key, b->arch->name);
    if (!window) goto done;
    if (net->yarn || bb_scales(net->rope_magnitude))
        return BB_FAIL(err, BB_UNSUPPORTED,
                       "RoPE by YaRN, or with a factor of what it turns, in a model whose blocks have windows: only linear scaling is supported");
    BB_TRY(read_f32(b, "rope.freq_base_swa", 10000.0f, &base, err));
    if (!(base > 0)) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %g; it must be above 0", key_of(b, "rope.freq_base_swa", key), (double)base);
    BB_TRY(read_pattern(b, has, err));
    net->local_rope_base = base;
    for (uint32_t i = 0; i < net->n_layer; i++) {
        net->blocks[i].local = has[i];
        net->blocks[i].window = has[i] ? window : 0;
    }
done:
    return status;
}

/* What blocks with a window have otherwise than the others, the values' norm, the cap. */
static bb_status read_kinds(builder *b, bb_err *err)
{
    bb_net   *net = &b->m->net;
    uint32_t  value, widest = net->head_dim;
    float    *ones;
    char      key[KEY_BYTES];
    bb_status status = BB_OK;
    if (b->arch->capped) BB_TRY(read_positive(b, "final_logit_softcapping", 0, &net->logit_cap, err));
    if (!isfinite(net->logit_cap)) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is no number", key_of(b, "final_logit_softcapping", key));
    if (b->arch->own_kinds) {
        BB_TRY(read_u32(b, "attention.key_length_swa", MAX_HEAD_DIM, 0, &net->local_head_dim, err));
        BB_TRY(read_u32(b, "attention.value_length_swa", MAX_HEAD_DIM, net->local_head_dim, &value, err));
        if (value != net->local_head_dim)
            return BB_FAIL(err, BB_UNSUPPORTED, "keys have %u and values %u numbers a head in blocks with a window; only equal lengths are supported",
                           net->local_head_dim, value);
        BB_TRY(read_u32(b, "rope.dimension_count_swa", MAX_HEAD_DIM, net->n_rot, &net->local_n_rot, err));
        if (net->local_n_rot % 2 || net->local_n_rot > net->local_head_dim)
            return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %u; an even number up to the head size %u is possible",
                           key_of(b, "rope.dimension_count_swa", key), net->local_n_rot, net->local_head_dim);
        if (net->local_head_dim > widest) widest = net->local_head_dim;
    }
    if (!b->arch->value_norms) goto done;
    if (!(ones = own(b, widest, sizeof *ones, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < widest; i++) ones[i] = 1;
    net->value_norm = ones;
done:
    return status;
}

/* Which blocks attend to keys and values of an earlier one: the last ones, to those of the last of their kind before them. */
static bb_status read_shared(const builder *b, bb_err *err)
{
    bb_net   *net = &b->m->net;
    uint32_t  shared = 0, at[2] = { UINT32_MAX, UINT32_MAX };
    bool      found;
    char      key[KEY_BYTES];
    bb_status status = BB_OK;
    if (!b->arch->shared_keys) goto done;
    BB_TRY(bb_source_u32(&b->m->source, key_of(b, "attention.shared_kv_layers", key), &shared, &found, err));
    if (shared >= net->n_layer) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %u; the model has %u blocks", key, shared, net->n_layer);
    for (uint32_t i = net->n_layer - shared; i < net->n_layer; i++) {
        bb_block *k = &net->blocks[i], *from = NULL;
        uint32_t  before = 1;
        while (before <= net->n_layer - shared && net->blocks[net->n_layer - shared - before].local != k->local) before++;
        if (before <= net->n_layer - shared) from = &net->blocks[net->n_layer - shared - before];
        if (!from || before != (k->local ? 2u : 1u)) /* so its loader has it, whatever the kinds of the blocks */
            return BB_FAIL(
                err, BB_UNSUPPORTED,
                "block %u takes its keys and values from the block that is %u before the first that shares, where architecture %s has one of the other "
                "kind",
                i, k->local ? 2 : 1, b->arch->name);
        if (k->n_kv != from->n_kv)
            return BB_FAIL(err, BB_BAD_FILE, "block %u has %u KV heads, and the one whose keys and values it takes has %u", i, k->n_kv, from->n_kv);
        if (at[k->local] == UINT32_MAX) {
            at[k->local] = net->n_carried;
            from->kv_role = BB_KV_GIVES;
            from->kv_at = at[k->local];
            net->n_carried += 2 * (uint32_t)bb_dim_of(net, from, BB_DIM_GD);
        }
        k->kv_role = BB_KV_TAKES;
        k->kv_at = at[k->local];
        k->lacks = BB_SET(BB_PART_K) | BB_SET(BB_PART_V);
    }
done:
    return status;
}

/* Per-layer embeddings. */
static bb_status read_token(const builder *b, bb_err *err)
{
    bb_net   *net = &b->m->net;
    bool      found;
    char      key[KEY_BYTES];
    bb_status status = BB_OK;
    if (!b->arch->token_inputs) goto done;
    BB_TRY(bb_source_u32(&b->m->source, key_of(b, "embedding_length_per_layer_input", key), &net->token.width, &found, err));
    if (net->token.width > MAX_WIDTH) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %u; up to %u is possible", key, net->token.width, MAX_WIDTH);
    if (net->token.width) net->n_carried = 1; /* the token's id */
    for (uint32_t i = 0; i < net->n_layer; i++) net->blocks[i].n_token = net->token.width;
done:
    return status;
}

static uint32_t *count_of(bb_block *k, bb_count c) { return c == BB_COUNT_HEADS ? &k->n_head : c == BB_COUNT_KV ? &k->n_kv : &k->n_ff; }

/* One block's heads and widths, already filled in, against each other and against the first block's. */
static bb_status check_block_shape(const builder *b, uint32_t i, bb_err *err)
{
    bb_block *k = &b->m->net.blocks[i];
    for (int c = 0; c < BB_N_COUNTS; c++)
        if (!(b->arch->arrays & BB_SET(c)) && *count_of(k, (bb_count)c) != *count_of(&b->m->net.blocks[0], (bb_count)c))
            return BB_FAIL(err, BB_UNSUPPORTED, "block %u has another shape than block 0; architecture %s has one shape for all blocks", i, b->arch->name);
    if (k->n_head > MAX_WIDTH || k->n_ff > MAX_WIDTH || k->n_kv > k->n_head)
        return BB_FAIL(err, BB_BAD_FILE, "block %u has %u heads, %u KV heads and FFN width %u", i, k->n_head, k->n_kv, k->n_ff);
    if (k->n_head > 0 && k->n_kv == 0)
        return BB_FAIL(err, BB_UNSUPPORTED, "block %u has %u heads and no KV head (a linear map instead of attention)", i, k->n_head);
    if (k->n_head > 0 && k->n_head % k->n_kv != 0)
        return BB_FAIL(err, BB_BAD_FILE, "block %u has %u heads, not a multiple of its %u KV heads", i, k->n_head, k->n_kv);
    for (int s = 0; s < BB_TOKEN; s++)
        if (!(b->arch->optional & BB_SET(s)) && !bb_block_has(k, (bb_sublayer)s))
            return BB_FAIL(err, BB_BAD_FILE, "block %u has no %s; architecture %s needs it in every block", i, bb_sublayers[s].name, b->arch->name);
    return BB_OK;
}

static bb_status read_block_shapes(const builder *b, bb_err *err)
{
    bb_net   *net = &b->m->net;
    uint32_t  v[BB_MAX_LAYERS];
    char      key[KEY_BYTES];
    bool      found;
    bb_status status;
    for (int c = 0; c < BB_N_COUNTS; c++) {
        BB_TRY(bb_source_u32_array(&b->m->source, key_of(b, bb_count_keys[c], key), v, net->n_layer, c == BB_COUNT_KV ? &found : NULL, err));
        if (c == BB_COUNT_KV && !found) continue; /* as many as there are heads */
        for (uint32_t i = 0; i < net->n_layer; i++) {
            bb_block *k = &net->blocks[i];
            *count_of(k, (bb_count)c) = c == BB_COUNT_KV && !k->n_head ? 0 : v[i];
            if (c == BB_COUNT_HEADS) k->n_kv = v[i];
        }
    }
    for (uint32_t i = 0; i < net->n_layer; i++) {
        net->blocks[i].no_rope = bb_arch_no_rope(b->arch, i);
        net->blocks[i].number = i;
        BB_TRY(check_block_shape(b, i, err));
    }
done:
    return status;
}

static bb_status read_hyperparameters(builder *b, bb_err *err)
{
    bb_net   *net = &b->m->net;
    char      key[KEY_BYTES];
    bb_status status;
    BB_TRY(bb_source_whole(&b->m->source, err));
    BB_TRY(find_arch(b, err));
    BB_TRY(refuse_experts(b, err));
    BB_TRY(read_u32(b, "context_length", UINT32_MAX, 0, &net->n_ctx_train, err));
    BB_TRY(read_u32(b, "embedding_length", MAX_WIDTH, 0, &net->n_embd, err));
    BB_TRY(read_u32(b, "block_count", BB_MAX_LAYERS, 0, &net->n_layer, err));
    BB_TRY(bb_source_f32(&b->m->source, key_of(b, "attention.layer_norm_rms_epsilon", key), &net->norm_eps, NULL, err));
    if (!(net->norm_eps >= 0)) return BB_FAIL(err, BB_BAD_FILE, "metadata key '%s' is %g; a number of 0 or more is needed", key, (double)net->norm_eps);
    net->blocks = own(b, net->n_layer, sizeof *net->blocks, err);
    if (!net->blocks) return BB_NOMEM;
    BB_TRY(read_block_shapes(b, err));
    BB_TRY(read_head_dim(b, err));
    BB_TRY(read_factors(b, err));
    read_root(b);
    BB_TRY(read_rope(b, err));
    BB_TRY(read_windows(b, err));
    BB_TRY(read_kinds(b, err));
    BB_TRY(read_token(b, err));
    BB_TRY(read_shared(b, err));
    BB_TRY(bb_model_refuse_foreign(&b->m->source, b->arch->name, net, err));
done:
    return status;
}

/* ---- tensors ---- */

static const bb_tensor *use_tensor(builder *b, const char *name)
{
    const bb_tensor *t = bb_source_tensor(&b->m->source, name);
    if (t) b->used[t - b->m->source.tensors] = true;
    return t;
}

static bb_status missing(const char *name, bb_err *err) { return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' is missing", name); }

static bb_status check_shape(const bb_tensor *t, const char *name, uint32_t rows, uint32_t cols, bb_err *err)
{
    if (t->ne[0] != cols || t->ne[1] != rows || t->ne[2] != 1 || t->ne[3] != 1)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' is %llu x %llu x %llu x %llu; the metadata ask for %u x %u", name, (unsigned long long)t->ne[0],
                       (unsigned long long)t->ne[1], (unsigned long long)t->ne[2], (unsigned long long)t->ne[3], cols, rows);
    return BB_OK;
}

static bb_status find_matrix(builder *b, const char *name, uint32_t rows, uint32_t cols, bb_matrix *out, bb_err *err)
{
    const bb_tensor *t = use_tensor(b, name);
    bb_status        status;
    if (!t) return missing(name, err);
    BB_TRY(check_shape(t, name, rows, cols, err));
    if (t->type == BB_LC2)
        return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' has type LC2; a matrix of a block with a tensor of its own can have it, and no other", name);
    *out = (bb_matrix) { .type = t->type, .rows = rows, .cols = cols, .data = t->data };
done:
    return status;
}

/* A matrix of LC2, codes and side, decoded. base: the name without ".weight". */
static bb_status find_lattice(builder *b, const char *base, const bb_tensor *codes, uint32_t rows, uint32_t cols, bb_matrix *out, bb_err *err)
{
    const size_t     n = bb_lattice_side_numbers(rows, cols);
    char             name[KEY_BYTES];
    const bb_tensor *side;
    bb_lattice      *l;
    float           *w;
    bb_err           inner = BB_ERR_INIT;
    bb_status        status;
    BB_TRY(check_shape(codes, codes->name, rows, cols, err));
    snprintf(name, sizeof name, "%s.lattice", base);
    if (!(side = use_tensor(b, name))) return missing(name, err);
    if (side->type != BB_F16 || side->ne[0] != n || side->ne[1] != 1 || side->ne[2] != 1 || side->ne[3] != 1)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' is %llu x %llu x %llu x %llu of type %d; %zu numbers of F16 belong to a lattice of %u x %u", name,
                       (unsigned long long)side->ne[0], (unsigned long long)side->ne[1], (unsigned long long)side->ne[2], (unsigned long long)side->ne[3],
                       (int)side->type, n, cols, rows);
    if (!(l = own(b, 1, sizeof *l, err)) || !(w = own(b, (size_t)rows * cols, sizeof *w, err))) return BB_NOMEM;
    *l = (bb_lattice) { codes->data, side->data };
    status = bb_lattice_decode(l, rows, cols, w, &inner);
    if (status != BB_OK) return BB_FAIL(err, status, "tensor '%s': %s", name, inner.msg);
    *out = (bb_matrix) { .type = BB_F32, .rows = rows, .cols = cols, .data = w, .lattice = l };
done:
    return status;
}

/* A float vector: borrowed where the file has F32, decoded otherwise. *out NULL when it is absent and may be. */
static bb_status find_vector(builder *b, const char *name, uint32_t n, bool required, const float **out, bb_err *err)
{
    const bb_tensor *t = use_tensor(b, name);
    float           *copy;
    *out = NULL;
    if (!t) return required ? missing(name, err) : BB_OK;
    if (t->ne[0] != n || t->ne[1] != 1 || t->ne[2] != 1 || t->ne[3] != 1)
        return BB_FAIL(err, BB_BAD_FILE, "tensor '%s' is %llu x %llu x %llu x %llu; a vector of %u is needed", name, (unsigned long long)t->ne[0],
                       (unsigned long long)t->ne[1], (unsigned long long)t->ne[2], (unsigned long long)t->ne[3], n);
    if (t->type == BB_F32 && (uintptr_t)t->data % sizeof(float) == 0) {
        *out = t->data;
        return BB_OK;
    }
    if (t->type != BB_F32 && t->type != BB_F16 && t->type != BB_BF16)
        return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' is a vector of type %d; F32, F16 and BF16 are supported", name, (int)t->type);
    copy = own(b, n, sizeof *copy, err);
    if (!copy) return BB_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        const unsigned char *p = (const unsigned char *)t->data + (size_t)i * (t->type == BB_F32 ? 4 : 2);
        copy[i] = t->type == BB_F32 ? bb_bits_float(bb_load_u32(p)) : t->type == BB_F16 ? bb_half_to_float(bb_load_u16(p)) : bb_bf16_to_float(bb_load_u16(p));
    }
    *out = copy;
    return BB_OK;
}

static bb_status find_part(builder *b, uint32_t layer, bb_part part, bb_err *err)
{
    bb_net    *net = &b->m->net;
    bb_block  *k = &net->blocks[layer];
    bb_matrix *w = &k->w[part];
    uint32_t   rows = (uint32_t)bb_dim_of(net, k, bb_parts[part].rows), cols = (uint32_t)bb_dim_of(net, k, bb_parts[part].cols);
    char       name[KEY_BYTES], base[KEY_BYTES / 2];
    bb_status  status;
    snprintf(base, sizeof base, "blk.%u.%s", layer, bb_parts[part].name);
    snprintf(name, sizeof name, "%s.weight", base);
    const bb_tensor *t = bb_source_tensor(&b->m->source, name);
    if (t && t->type == BB_LC2) BB_TRY(find_lattice(b, base, use_tensor(b, name), rows, cols, w, err));
    else BB_TRY(find_matrix(b, name, rows, cols, w, err));
    snprintf(name, sizeof name, "blk.%u.%s.bias", layer, bb_parts[part].name);
    BB_TRY(find_vector(b, name, rows, false, &w->bias, err));
done:
    return status;
}

/* The parts with one feed as views of the rows of one matrix. */
static bb_status find_fused(builder *b, uint32_t layer, bb_feed feed, bb_err *err)
{
    bb_net     *net = &b->m->net;
    bb_block   *k = &net->blocks[layer];
    bb_matrix   all;
    char        name[KEY_BYTES];
    const char *at;
    size_t      row_bytes;
    uint32_t    rows = 0;
    bb_status   status;
    for (int p = 0; p < BB_N_PARTS; p++)
        if (bb_parts[p].feed == feed) rows += (uint32_t)bb_dim_of(net, k, bb_parts[p].rows);
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, b->arch->fused[feed]);
    BB_TRY(find_matrix(b, name, rows, (uint32_t)bb_dim_of(net, k, bb_feeds[feed].width), &all, err));
    row_bytes = (size_t)(bb_source_tensor(&b->m->source, name)->size_bytes / all.rows);
    at = all.data;
    for (int p = 0; p < BB_N_PARTS; p++) {
        if (bb_parts[p].feed != feed) continue;
        k->w[p] = all;
        k->w[p].rows = (uint32_t)bb_dim_of(net, k, bb_parts[p].rows);
        k->w[p].data = at;
        at += k->w[p].rows * row_bytes;
    }
done:
    return status;
}

static bb_status find_norm(builder *b, uint32_t layer, bb_norm norm, bb_err *err)
{
    bb_net   *net = &b->m->net;
    bb_block *k = &net->blocks[layer];
    char      name[KEY_BYTES];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, bb_norms[norm].name);
    return find_vector(b, name, (uint32_t)bb_norm_length(net, k, (bb_norm)norm), true, &k->norm[norm], err);
}

/* Values without a projection of their own. What is there for a block that takes keys and values is for no one: files have it, for the folders of the models
 * have it, and no graph reads it. */
static void find_lacks(builder *b, uint32_t layer)
{
    static const char *const unread[] = { "attn_k", "attn_v", "attn_k_norm" };
    char                     name[KEY_BYTES];
    for (size_t i = 0; b->m->net.blocks[layer].kv_role == BB_KV_TAKES && i < sizeof unread / sizeof *unread; i++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, unread[i]);
        (void)use_tensor(b, name);
    }
    if (b->m->net.blocks[layer].kv_role == BB_KV_TAKES) return;
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, bb_parts[BB_PART_V].name);
    if (b->arch->values_of_keys && !bb_source_tensor(&b->m->source, name)) b->m->net.blocks[layer].lacks = BB_SET(BB_PART_V);
}

static bb_status find_scale(builder *b, uint32_t layer, bb_err *err)
{
    const float *scale;
    char         name[KEY_BYTES];
    bb_status    status = BB_OK;
    if (!b->arch->block_scales) goto done;
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, bb_block_scale_name);
    BB_TRY(find_vector(b, name, 1, false, &scale, err));
    if (scale && (!(*scale > 0) || !isfinite(*scale))) return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' is %g; it must be above 0", name, (double)*scale);
    if (scale) b->m->net.blocks[layer].scale = *scale;
done:
    return status;
}

static bb_status find_sublayer(builder *b, uint32_t layer, bb_sublayer s, bb_err *err)
{
    bb_net         *net = &b->m->net;
    const bb_block *k = &net->blocks[layer];
    bb_status       status = BB_OK;
    if (bb_dim_of(net, k, BB_DIM_HD) > INT32_MAX / 4)
        return BB_FAIL(err, BB_BAD_FILE, "block %u has %u heads of %u numbers", layer, k->n_head, bb_head_dim(net, k));
    for (int place = 0; place < 2; place++) { /* the input's norm, the parts, the other norms: the order of files, for the first that is missing is named */
        for (int n = 0; n < BB_N_NORMS; n++)
            if (bb_norms[n].sublayer == s && (b->arch->norms & BB_SET(n)) && bb_block_has_norm(k, (bb_norm)n) &&
                (bb_norms[n].place == BB_PLACE_INPUT) == (place == 0))
                BB_TRY(find_norm(b, layer, (bb_norm)n, err));
        for (int p = 0; p < BB_N_PARTS && place == 0; p++) {
            if (bb_parts[p].sublayer != s || !bb_block_has_part(k, (bb_part)p)) continue;
            if (!b->arch->fused[bb_parts[p].feed]) BB_TRY(find_part(b, layer, (bb_part)p, err));
            else if (k->w[p].rows == 0) BB_TRY(find_fused(b, layer, bb_parts[p].feed, err));
        }
    }
done:
    return status;
}

/* Per-layer embeddings: in the file a row of the table has what a token gives to all blocks. */
static bb_status find_token(builder *b, bb_err *err)
{
    bb_net          *net = &b->m->net;
    bb_token_inputs *t = &net->token;
    const uint64_t   rows = (uint64_t)net->n_vocab * net->n_layer, width = (uint64_t)net->n_layer * t->width;
    const bb_format *f;
    char             name[KEY_BYTES];
    bb_status        status = BB_OK;
    if (!t->width) goto done;
    snprintf(name, sizeof name, "%s.weight", bb_token_names[BB_TOKEN_TABLE]);
    if (rows > INT32_MAX || width > INT32_MAX || net->n_vocab > 1u << 24)
        return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' has %u tokens of %u blocks of %u numbers: that is more than can be numbered", name, net->n_vocab,
                       net->n_layer, t->width);
    BB_TRY(find_matrix(b, name, net->n_vocab, (uint32_t)width, &t->table, err));
    f = bb_format_get(t->table.type);
    if (t->width % f->block)
        return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' is in %s, whose blocks of %u weights do not divide the %u of one block of the network", name, f->name,
                       f->block, t->width);
    t->table.rows = (uint32_t)rows;
    t->table.cols = t->width;
    snprintf(name, sizeof name, "%s.weight", bb_token_names[BB_TOKEN_PROJ]);
    BB_TRY(find_matrix(b, name, (uint32_t)width, net->n_embd, &t->proj, err));
    snprintf(name, sizeof name, "%s.weight", bb_token_names[BB_TOKEN_NORM]);
    BB_TRY(find_vector(b, name, t->width, true, &t->norm, err));
done:
    return status;
}

/* The vocabulary has as many tokens as token_embd has rows. */
static bb_status find_vocabulary(builder *b, bb_err *err)
{
    bb_net          *net = &b->m->net;
    const bb_tensor *t = bb_source_tensor(&b->m->source, "token_embd.weight");
    const bb_key    *tokens = bb_source_find(&b->m->source, "tokenizer.ggml.tokens");
    bb_status        status;
    if (!t) return missing("token_embd.weight", err);
    if (t->ne[1] < 1 || t->ne[1] > INT32_MAX) return BB_FAIL(err, BB_BAD_FILE, "tensor 'token_embd.weight' has %llu rows", (unsigned long long)t->ne[1]);
    net->n_vocab = (uint32_t)t->ne[1];
    if (tokens && (tokens->kind != BB_KIND_ARRAY || tokens->count != net->n_vocab))
        return BB_FAIL(err, BB_BAD_FILE, "the tokenizer has %llu tokens and 'token_embd.weight' has %u rows; they must be equal",
                       (unsigned long long)tokens->count, net->n_vocab);
    BB_TRY(find_matrix(b, "token_embd.weight", net->n_vocab, net->n_embd, &net->embd, err));
    if (b->arch->separate_head && bb_source_tensor(&b->m->source, "output.weight"))
        BB_TRY(find_matrix(b, "output.weight", net->n_vocab, net->n_embd, &net->head, err));
    if (b->arch->needs_head && !net->head.rows) return missing("output.weight", err);
    BB_TRY(find_vector(b, "output_norm.weight", net->n_embd, true, &net->out_norm, err));
    if (b->arch->two_factors || (b->arch->rope_factors && b->longrope)) {
        BB_TRY(find_vector(b, "rope_factors_short.weight", net->n_rot / 2, false, &net->rope_factors, err));
        BB_TRY(find_vector(b, "rope_factors_long.weight", net->n_rot / 2, net->rope_factors != NULL, &net->rope_long, err));
        if (net->rope_long && !net->rope_factors) return missing("rope_factors_short.weight", err);
    } else if (b->arch->rope_factors) BB_TRY(find_vector(b, "rope_freqs.weight", net->n_rot / 2, false, &net->rope_factors, err));
done:
    return status;
}

static bb_status find_tensors(builder *b, bb_err *err)
{
    bb_net    *net = &b->m->net;
    bb_source *g = &b->m->source;
    char       shown[BB_SHOWN];
    bb_status  status;
    BB_TRY(find_vocabulary(b, err));
    BB_TRY(find_token(b, err));
    for (uint32_t i = 0; i < net->n_layer; i++) {
        find_lacks(b, i);
        for (int s = 0; s < BB_N_SUBLAYERS; s++)
            if (bb_block_has(&net->blocks[i], (bb_sublayer)s)) BB_TRY(find_sublayer(b, i, (bb_sublayer)s, err));
        BB_TRY(find_scale(b, i, err));
    }
    for (uint64_t i = 0; i < g->n_tensors; i++)
        if (!b->used[i])
            return BB_FAIL(err, BB_UNSUPPORTED, "tensor '%s' has no place in a network of architecture %s as this program knows it",
                           bb_show((bb_bytes) { g->tensors[i].name, strlen(g->tensors[i].name) }, shown), b->arch->name);
done:
    return status;
}

/* ---- the whole ---- */

bb_status bb_model_build(bb_model *m, bb_err *err)
{
    builder   b = { .m = m };
    bb_status status = BB_NOMEM;
    b.used = BB_NEW0((size_t)m->source.n_tensors, bool, err);
    m->identity = BB_NEW0(65, char, err);
    if (!b.used || !m->identity) goto done;
    BB_TRY(read_hyperparameters(&b, err));
    BB_TRY(find_tensors(&b, err));
done:
    bb_free(b.used);
    if (status != BB_OK) bb_model_close(m);
    return status;
}

bb_status bb_model_open(const char *path, bb_model *m, bb_err *err)
{
    bb_err      inner = BB_ERR_INIT;
    const char *hint;
    bb_status   status;
    memset(m, 0, sizeof *m);
    BB_TRY(bb_source_open(path, &m->source, err));
    hint = bb_source_hint(path, &m->source);
    status = bb_model_build(m, &inner);
    if (status != BB_OK) return BB_FAIL(err, status, "%s: %s%s", path, inner.msg, status != BB_NOMEM ? hint : "");
    m->path = bb_strdup(path, err);
    if (!m->path) {
        bb_model_close(m);
        return BB_NOMEM;
    }
done:
    return status;
}

const char *bb_model_sha256(const bb_model *m)
{
    if (!m->identity) return "";
#pragma omp critical(bb_model_sha256)
    if (!*m->identity) {
        bb_sha256 hash;
        bb_sha256_init(&hash);
        bb_source_hash(&m->source, &hash);
        bb_sha256_hex(&hash, m->identity);
    }
    return m->identity;
}

static bool is_float(bb_type type) { return type == BB_F32 || type == BB_F16 || type == BB_BF16; }

bool bb_model_is_quantized(const bb_model *m)
{
    for (uint64_t i = 0; i < m->source.n_tensors; i++)
        if (!is_float(m->source.tensors[i].type)) return true;
    return false;
}

const char *bb_model_source_label(const bb_model *m, char out[BB_MODEL_LABEL])
{
    uint64_t weights[BB_TYPE_COUNT] = { 0 };
    int      most = -1;
    for (uint64_t i = 0; i < m->source.n_tensors; i++) {
        const bb_tensor *t = &m->source.tensors[i];
        if (!is_float(t->type)) weights[t->type] += t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    }
    for (int t = 0; t < BB_TYPE_COUNT; t++)
        if (weights[t] && (most < 0 || weights[t] > weights[most])) most = t;
    if (most < 0) snprintf(out, BB_MODEL_LABEL, "full precision");
    else snprintf(out, BB_MODEL_LABEL, "source (%s)", bb_format_get((bb_type)most)->name);
    return out;
}

void bb_model_close(bb_model *m)
{
    for (size_t i = 0; i < m->n_owned; i++) bb_free(m->owned[i]);
    bb_free(m->owned);
    bb_free(m->path);
    bb_free(m->identity);
    bb_source_close(&m->source);
    memset(m, 0, sizeof *m);
}
