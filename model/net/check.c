/* SPDX-License-Identifier: GPL-3.0-or-later
 * check.c: what forward and backward ask of a network before they touch it (backend.h), and its RoPE table. */
#include <math.h>

#include "base/mem.h"
#include "model/net/arch.h"
#include "model/net/backend.h"

/* What scales the frequency of pair i: YaRN leaves the fast ones as they are. */
static double pair_scale(const bb_net *net, size_t i)
{
    if (!net->yarn) return (double)net->rope_freq_scale;
    const double along = ((double)i - (double)net->yarn_low) / fmax(0.001, (double)net->yarn_high - (double)net->yarn_low);
    const double scaled = fmin(1, fmax(0, along));
    return scaled * (double)net->rope_freq_scale + (1 - scaled);
}

/* Pair i at all positions. */
static void fill_pair(float *table, size_t i, size_t half, size_t n_positions, double frequency, double magnitude)
{
    for (size_t p = 0; p < n_positions; p++) {
        table[(p * half + i) * 2] = (float)(magnitude * cos((double)p * frequency));
        table[(p * half + i) * 2 + 1] = (float)(magnitude * sin((double)p * frequency));
    }
}

float *bb_rope_table(const bb_net *net, uint32_t n_positions, bb_err *err)
{
    const float *factors = net->rope_long && n_positions > net->rope_context ? net->rope_long : net->rope_factors;
    const double magnitude = (double)bb_scale_of(net->rope_magnitude);
    const size_t half = net->n_rot / 2, local = net->local_rope_base > 0 ? bb_n_rot(net, &(bb_block) { .local = true }) / 2 : 0;
    const size_t size = (size_t)n_positions * half * 2;
    float       *table = BB_NEW(size + (size_t)n_positions * local * 2, float, err);
    for (size_t i = 0; table && i < half; i++) {
        double frequency = pow((double)net->rope_base, -2.0 * (double)i / (double)net->n_rot) * pair_scale(net, i);
        if (factors) frequency /= (double)factors[i];
        fill_pair(table, i, half, n_positions, frequency, magnitude);
    }
    for (size_t i = 0; table && i < local; i++)
        fill_pair(table + size, i, local, n_positions, pow((double)net->local_rope_base, -(double)i / (double)local), 1);
    return table;
}

float bb_heads_factor(const bb_heads *heads, size_t position)
{
    const float scale = bb_scale_of(heads->scale);
    return heads->heat > 0 ? (float)((double)scale * (1 + (double)heads->heat * log(1 + (double)(position / heads->heat_every)))) : scale;
}

bb_heads bb_heads_of(const bb_net *net, const bb_block *block, bb_part part, const float *cos_sin, uint32_t n_positions)
{
    const bool     queries = part == BB_PART_Q, values = part == BB_PART_V;
    const size_t   at = block->local ? (size_t)n_positions * net->n_rot : 0;
    const uint32_t D = bb_head_dim(net, block);
    return (bb_heads) { .n = queries ? block->n_head : block->n_kv,
                        .dim = D,
                        .n_rot = block->no_rope || values ? 0 : bb_n_rot(net, block),
                        .neox = net->rope_neox,
                        .norm = values ? net->value_norm : block->norm[queries ? BB_NORM_Q : BB_NORM_K],
                        .whole = net->whole_norms && !values,
                        .norm_eps = net->norm_eps,
                        .scale = !queries           ? 0
                                 : net->unit_scores ? bb_scale_of(net->query_scale) * sqrtf((float)D)
                                                    : net->query_scale,
                        .heat = queries ? net->heat : 0,
                        .heat_every = net->rope_context,
                        .cos_sin = cos_sin + at };
}

static bb_status check_matrix(const bb_matrix *w, size_t rows, size_t cols, const char *what, bb_err *err)
{
    const bb_format *f = bb_format_get(w->type);
    if (w->rows != rows || w->cols != cols) return BB_FAIL(err, BB_BAD_FILE, "%s: %u x %u weights, expected %zu x %zu", what, w->rows, w->cols, rows, cols);
    if (!f) return BB_FAIL(err, BB_UNSUPPORTED, "%s: type %d is not known", what, (int)w->type);
    if (cols % f->block) return BB_FAIL(err, BB_BAD_FILE, "%s: rows of %zu weights are not whole blocks of %u (%s)", what, cols, f->block, f->name);
    if (!w->data) return BB_FAIL(err, BB_FAILED, "%s: no weights are loaded", what);
    return BB_OK;
}

/* A network that no file says the architecture of is a llama. */
static unsigned needed_norms(const bb_net *net) { return net->arch ? net->arch->norms : BB_SET(BB_NORM_ATTENTION) | BB_SET(BB_NORM_FFN); }

/* The parts and norms of one sublayer that is there. */
static bb_status check_sublayer(const bb_net *net, const bb_block *b, bb_sublayer s, bb_err *err)
{
    bb_status status = BB_OK;
    for (int n = 0; n < BB_N_NORMS; n++)
        if (bb_norms[n].sublayer == s && bb_block_has_norm(b, (bb_norm)n) && (needed_norms(net) & BB_SET(n)) && !b->norm[n])
            return BB_FAIL(err, BB_BAD_FILE, "the block has the sublayer '%s' but no %s", bb_sublayers[s].name, bb_norms[n].name);
    for (int p = 0; p < BB_N_PARTS; p++)
        if (bb_parts[p].sublayer == s && bb_block_has_part(b, (bb_part)p))
            BB_TRY(check_matrix(&b->w[p], bb_dim_of(net, b, bb_parts[p].rows), bb_dim_of(net, b, bb_parts[p].cols), bb_parts[p].name, err));
done:
    return status;
}

bb_status bb_check_block(const bb_net *net, const bb_block *block, bb_err *err)
{
    bb_status status = BB_OK;
    if (block->n_head && (block->n_kv == 0 || block->n_head % block->n_kv))
        return BB_FAIL(err, BB_BAD_FILE, "attention: %u query heads are not a multiple of %u KV heads", block->n_head, block->n_kv);
    BB_ASSERT(!block->local || net->local_rope_base > 0);
    BB_ASSERT(!(block->lacks & ~(block->kv_role == BB_KV_TAKES ? BB_SET(BB_PART_K) | BB_SET(BB_PART_V) : BB_SET(BB_PART_V))));
    if (block->kv_role != BB_KV_OWN && block->n_head && block->kv_at + 2 * bb_dim_of(net, block, BB_DIM_GD) > net->n_carried)
        return BB_FAIL(err, BB_BAD_FILE, "attention: %u KV heads do not fit where the blocks share their keys and values", block->n_kv);
    if (block->n_token && (block->n_token != net->token.width || block->number >= net->n_layer))
        return BB_FAIL(err, BB_BAD_FILE, "the block takes %u numbers of a token, which has %u for each of %u blocks", block->n_token, net->token.width,
                       net->n_layer);
    for (int s = 0; s < BB_N_SUBLAYERS; s++)
        if (bb_block_has(block, (bb_sublayer)s)) BB_TRY(check_sublayer(net, block, (bb_sublayer)s, err));
done:
    return status;
}

bb_status bb_check_embd(const bb_net *net, bb_err *err)
{
    const bb_token_inputs *t = &net->token;
    bb_status              status;
    BB_TRY(check_matrix(&net->embd, net->n_vocab, net->n_embd, "token_embd", err));
    if (!t->width) goto done;
    BB_ASSERT((uint64_t)net->n_vocab * net->n_layer <= INT32_MAX && net->n_vocab <= 1u << 24);
    BB_TRY(check_matrix(&t->table, (size_t)net->n_vocab * net->n_layer, t->width, bb_token_names[BB_TOKEN_TABLE], err));
    BB_TRY(check_matrix(&t->proj, (size_t)net->n_layer * t->width, net->n_embd, bb_token_names[BB_TOKEN_PROJ], err));
    if (!t->norm) return BB_FAIL(err, BB_BAD_FILE, "network: no %s", bb_token_names[BB_TOKEN_NORM]);
done:
    return status;
}

bb_status bb_check_head(const bb_net *net, bb_err *err)
{
    if (!net->out_norm) return BB_FAIL(err, BB_BAD_FILE, "network: no output_norm");
    return check_matrix(bb_net_head(net), net->n_vocab, net->n_embd, net->head.rows ? "output" : "token_embd", err);
}

bb_status bb_check_shape(const bb_net *net, bb_err *err)
{
    if (net->n_embd == 0 || net->head_dim == 0 || net->n_vocab == 0)
        return BB_FAIL(err, BB_BAD_FILE, "network: width %u, head size %u and vocabulary %u must be positive", net->n_embd, net->head_dim, net->n_vocab);
    if (net->n_rot % 2 || net->n_rot > net->head_dim)
        return BB_FAIL(err, BB_BAD_FILE, "network: rope dimension count %u should be even and at most the head size %u", net->n_rot, net->head_dim);
    const bb_block local = { .local = true };
    if (bb_n_rot(net, &local) % 2 || (net->local_rope_base > 0 && bb_n_rot(net, &local) > bb_head_dim(net, &local)))
        return BB_FAIL(err, BB_BAD_FILE, "network: rope dimension count %u of local blocks should be even and at most their head size %u",
                       bb_n_rot(net, &local), bb_head_dim(net, &local));
    return BB_OK;
}

bb_status bb_check_ids(const int32_t *ids, size_t n, uint32_t n_vocab, bb_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= n_vocab)
            return BB_FAIL(err, BB_BAD_FILE, "token %zu has id %d, but the vocabulary has %u entries", i, (int)ids[i], n_vocab);
    return BB_OK;
}
