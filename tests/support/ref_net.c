/* SPDX-License-Identifier: GPL-3.0-or-later
 * ref_net.c: see ref_net.h. Written for obviousness: no blocking, no tables, RoPE in polar form. */
#include "tests/support/ref_net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "model/net/arch.h"

static void *must(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    if (!p) abort();
    return p;
}

static double *weights(const bb_matrix *w)
{
    const bb_format *f = bb_format_get(w->type);
    size_t           n = (size_t)w->rows * w->cols;
    float           *x = must(n, sizeof *x);
    double          *d = must(n, sizeof *d);
    for (size_t r = 0; r < w->rows; r++) f->decode((const char *)w->data + r * bb_format_row_bytes(f, w->cols), x + r * w->cols, w->cols);
    for (size_t i = 0; i < n; i++) d[i] = (double)x[i];
    free(x);
    return d;
}

/* y (n, rows) = x (n, cols) W' + bias, fresh memory. */
static double *linear(const bb_matrix *m, const double *x, size_t n)
{
    double *w = weights(m), *y = must(n * m->rows, sizeof *y);
    for (size_t t = 0; t < n; t++)
        for (size_t r = 0; r < m->rows; r++) {
            double s = m->bias ? (double)m->bias[r] : 0;
            for (size_t c = 0; c < m->cols; c++) s += w[r * m->cols + c] * x[t * m->cols + c];
            y[t * m->rows + r] = s;
        }
    free(w);
    return y;
}

/* What a file of Granite says, by the definition: the residual stream in these functions is the real one, h of net.h times residual_scale. */
static double residual_of(const bb_net *net) { return net->residual_scale > 0 ? (double)net->residual_scale : 1; }
static double eps_of(const bb_net *net) { return (double)net->norm_eps * residual_of(net) * residual_of(net); }

static void norm(const double *x, const float *g, double eps, size_t n, double *y)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += x[i] * x[i];
    s = sqrt(s / (double)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = x[i] / s * (double)g[i];
}

static double *norm_rows(const double *h, const float *g, const bb_net *net, size_t n)
{
    const size_t C = net->n_embd, W = C + net->n_carried;
    double      *x = must(n * C, sizeof *x);
    for (size_t t = 0; t < n; t++)
        if (g) norm(h + t * W, g, eps_of(net), C, x + t * C);
        else memcpy(x + t * C, h + t * W, C * sizeof *x);
    return x;
}

/* What a sublayer gives joins the residual stream, normed if g. */
static void join(const bb_net *net, const float *g, size_t n, double *y, double *h)
{
    for (size_t t = 0; g && t < n; t++) norm(y + t * net->n_embd, g, (double)net->norm_eps, net->n_embd, y + t * net->n_embd);
    for (size_t t = 0; t < n; t++)
        for (size_t c = 0; c < net->n_embd; c++) h[t * (net->n_embd + net->n_carried) + c] += residual_of(net) * y[t * net->n_embd + c];
}

/* Share of a pair's frequency that is scaled: all of it, or what YaRN's line says. */
static double scaled_share(const bb_net *net, uint32_t i)
{
    if (!net->yarn) return 1;
    if (i <= (double)net->yarn_low) return 0;
    return i >= (double)net->yarn_high ? 1 : (i - (double)net->yarn_low) / ((double)net->yarn_high - (double)net->yarn_low);
}

static void turn(const bb_net *net, bool local, double *head, double position, uint32_t context)
{
    const float   *factors = net->rope_long && context > net->rope_context ? net->rope_long : net->rope_factors;
    const uint32_t n_rot = local && net->local_n_rot ? net->local_n_rot : net->n_rot;
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        double   share = scaled_share(net, i), angle = position / pow((double)net->rope_base, 2.0 * i / n_rot), length;
        uint32_t a = net->rope_neox ? i : 2 * i, b = net->rope_neox ? i + n_rot / 2 : 2 * i + 1;
        angle = share * angle * (double)net->rope_freq_scale + (1 - share) * angle;
        if (factors && !local) angle /= (double)factors[i];
        length = hypot(head[a], head[b]) * (net->rope_magnitude > 0 ? (double)net->rope_magnitude : 1);
        if (local) {
            angle = position / pow((double)net->local_rope_base, 2.0 * i / n_rot);
            length = hypot(head[a], head[b]);
        }
        angle += atan2(head[b], head[a]);
        head[a] = length * cos(angle);
        head[b] = length * sin(angle);
    }
}

static size_t head_size(const bb_net *net, const bb_block *b) { return b->local && net->local_head_dim ? net->local_head_dim : net->head_dim; }

static void heads(const bb_net *net, const bb_block *b, const float *g, uint32_t n, uint32_t T, double *x)
{
    const size_t D = head_size(net, b);
    for (uint32_t t = 0; t < T && g && net->whole_norms; t++) {
        double *row = x + (size_t)t * n * D;
        norm(row, g, (double)net->norm_eps, (size_t)n * D, row);
    }
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t j = 0; j < n; j++) {
            double *head = x + ((size_t)t * n + j) * D;
            if (g && !net->whole_norms) norm(head, g, (double)net->norm_eps, D, head);
            if (!b->no_rope) turn(net, b->local, head, t, T);
        }
}

static void attention(const bb_net *net, const bb_block *b, uint32_t T, double *h)
{
    size_t  D = head_size(net, b), H = b->n_head, G = b->n_kv;
    double *x = norm_rows(h, b->norm[BB_NORM_ATTENTION], net, T), *q = linear(&b->w[BB_PART_Q], x, T), *k = NULL, *v = NULL, *o = must(T * H * D, sizeof *o),
           *p = must(T, sizeof *p);
    heads(net, b, b->norm[BB_NORM_Q], b->n_head, T, q);
    if (b->kv_role == BB_KV_TAKES) {
        k = must(T * G * D, sizeof *k);
        v = must(T * G * D, sizeof *v);
    } else {
        k = linear(&b->w[BB_PART_K], x, T);
        v = linear(&b->w[b->lacks ? BB_PART_K : BB_PART_V], x, T);
        heads(net, b, b->norm[BB_NORM_K], b->n_kv, T, k);
        for (size_t i = 0; net->value_norm && i < T * G; i++) norm(v + i * D, net->value_norm, (double)net->norm_eps, D, v + i * D);
    }
    for (size_t t = 0; t < T && b->kv_role != BB_KV_OWN; t++)
        for (size_t i = 0; i < G * D; i++) {
            double *at = h + t * (net->n_embd + net->n_carried) + net->n_embd + b->kv_at + i;
            if (b->kv_role == BB_KV_TAKES) k[t * G * D + i] = at[0], v[t * G * D + i] = at[G * D];
            else at[0] = k[t * G * D + i], at[G * D] = v[t * G * D + i];
        }
    for (size_t t = 0; t < T; t++)
        for (size_t j = 0; j < H; j++) {
            size_t g = j / (H / G);
            double total = 0, heat = net->heat > 0 ? 1 + (double)net->heat * log(1 + floor((double)t / net->rope_context)) : 1;
            for (size_t s = 0; s <= t; s++) {
                p[s] = 0;
                if (b->window && t - s >= b->window) continue;
                double dot = 0;
                for (size_t d = 0; d < D; d++) dot += q[(t * H + j) * D + d] * k[(s * G + g) * D + d];
                p[s] = exp(dot / (net->unit_scores ? 1 : sqrt((double)D)) * heat * (net->query_scale > 0 ? (double)net->query_scale : 1));
                total += p[s];
            }
            for (size_t s = 0; s <= t; s++)
                for (size_t d = 0; d < D; d++) o[(t * H + j) * D + d] += p[s] / total * v[(s * G + g) * D + d];
        }
    double *y = linear(&b->w[BB_PART_O], o, T);
    join(net, b->norm[BB_NORM_POST_ATTENTION], T, y, h);
    free(x);
    free(q);
    free(k);
    free(v);
    free(o);
    free(p);
    free(y);
}

static double act(const bb_net *net, double a)
{
    return net->gate == BB_GATE_GELU ? a / 2 * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (a + 0.044715 * a * a * a))) : a / (1 + exp(-a));
}

/* What the token gives to the block, P numbers. */
static void token_gives(const bb_net *net, const bb_block *b, size_t id, double *out)
{
    const size_t P = net->token.width, C = net->n_embd;
    double      *e = weights(&net->embd), *proj = weights(&net->token.proj), *table = weights(&net->token.table);
    for (size_t i = 0; i < P; i++) {
        out[i] = 0;
        for (size_t c = 0; c < C; c++) out[i] += proj[(b->number * P + i) * C + c] * e[id * C + c] * (net->embd_scale > 0 ? (double)net->embd_scale : 1);
        out[i] /= sqrt((double)C);
    }
    norm(out, net->token.norm, (double)net->norm_eps, P, out);
    for (size_t i = 0; i < P; i++) out[i] = (out[i] + sqrt((double)P) * table[(id * net->n_layer + b->number) * P + i]) / sqrt(2);
    free(e);
    free(proj);
    free(table);
}

static void token(const bb_net *net, const bb_block *b, uint32_t T, double *h)
{
    const size_t P = net->token.width;
    double      *x = norm_rows(h, NULL, net, T), *g = linear(&b->w[BB_PART_TOKEN_GATE], x, T), *given = must(P, sizeof *given);
    for (size_t t = 0; t < T; t++) {
        token_gives(net, b, (size_t)h[t * (net->n_embd + net->n_carried) + net->n_embd], given);
        for (size_t i = 0; i < P; i++) g[t * P + i] = act(net, g[t * P + i]) * given[i];
    }
    double *y = linear(&b->w[BB_PART_TOKEN_OUT], g, T);
    join(net, b->norm[BB_NORM_POST_TOKEN], T, y, h);
    free(x);
    free(g);
    free(given);
    free(y);
}

static void ffn(const bb_net *net, const bb_block *b, uint32_t T, double *h)
{
    double *x = norm_rows(h, b->norm[BB_NORM_FFN], net, T), *g = linear(&b->w[BB_PART_GATE], x, T), *u = linear(&b->w[BB_PART_UP], x, T);
    for (size_t i = 0; i < (size_t)T * b->n_ff; i++) g[i] = u[i] * act(net, g[i]);
    double *y = linear(&b->w[BB_PART_DOWN], g, T);
    join(net, b->norm[BB_NORM_POST_FFN], T, y, h);
    free(x);
    free(g);
    free(u);
    free(y);
}

void ref_embed(const bb_net *net, const int32_t *tokens, uint32_t T, double *h)
{
    const size_t C = net->n_embd, W = C + net->n_carried;
    double      *w = weights(&net->embd);
    memset(h, 0, T * W * sizeof *h);
    for (uint32_t t = 0; t < T; t++) {
        for (size_t c = 0; c < C; c++) h[t * W + c] = w[(size_t)tokens[t] * C + c] * (net->embd_scale > 0 ? (double)net->embd_scale : 1);
        if (net->token.width) h[t * W + C] = tokens[t];
    }
    free(w);
}

void ref_block(const bb_net *net, const bb_block *block, uint32_t T, double *h)
{
    const size_t C = net->n_embd, W = C + net->n_carried;
    for (size_t i = 0; i < T * C; i++) h[i / C * W + i % C] *= residual_of(net);
    if (block->n_head) attention(net, block, T, h);
    if (block->n_ff) ffn(net, block, T, h);
    if (block->n_token) token(net, block, T, h);
    for (size_t i = 0; i < T * C; i++) h[i / C * W + i % C] *= (block->scale > 0 ? (double)block->scale : 1) / residual_of(net);
}

void ref_logits(const bb_net *net, const double *h, double *z)
{
    double *real = must(net->n_embd + net->n_carried, sizeof *real), *x, *y;
    for (size_t i = 0; i < net->n_embd; i++) real[i] = h[i] * residual_of(net);
    x = norm_rows(real, net->out_norm, net, 1);
    y = linear(bb_net_head(net), x, 1);
    for (size_t i = 0; i < net->n_vocab; i++) z[i] = y[i] * (net->out_scale > 0 ? (double)net->out_scale : 1);
    for (size_t i = 0; net->logit_cap > 0 && i < net->n_vocab; i++) z[i] = (double)net->logit_cap * tanh(z[i] / (double)net->logit_cap);
    free(real);
    free(x);
    free(y);
}

void ref_run(const bb_net *net, const int32_t *tokens, uint32_t T, double *z)
{
    const size_t W = net->n_embd + net->n_carried;
    double      *h = must((size_t)T * W, sizeof *h);
    ref_embed(net, tokens, T, h);
    for (uint32_t b = 0; b < net->n_layer; b++) ref_block(net, &net->blocks[b], T, h);
    for (uint32_t t = 0; t < T; t++) ref_logits(net, h + (size_t)t * W, z + (size_t)t * net->n_vocab);
    free(h);
}

double ref_log_sum_exp(const double *z, size_t n)
{
    double m = z[0], s = 0;
    for (size_t i = 1; i < n; i++) m = fmax(m, z[i]);
    for (size_t i = 0; i < n; i++) s += exp(z[i] - m);
    return m + log(s);
}

double ref_kl(const double *z_ref, const double *z, size_t n)
{
    double a = ref_log_sum_exp(z_ref, n), b = ref_log_sum_exp(z, n), s = 0;
    for (size_t i = 0; i < n; i++) s += exp(z_ref[i] - a) * ((z_ref[i] - a) - (z[i] - b));
    return s;
}

/* ---- random tiny networks ---- */

double ref_noise(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(*seed >> 11) * 0x1p-52 - 1;
}

static void *keep(ref_model *m, void *p)
{
    if (m->n_owned == sizeof m->owned / sizeof *m->owned) abort();
    return m->owned[m->n_owned++] = p;
}

float *ref_random(ref_model *m, size_t n, double mean, double deviation, uint64_t *seed)
{
    float *x = keep(m, must(n, sizeof *x));
    for (size_t i = 0; i < n; i++) x[i] = (float)(mean + deviation * sqrt(3.0) * ref_noise(seed));
    return x;
}

float *ref_states(ref_model *m, size_t n, uint64_t *seed)
{
    const bb_net *net = &m->net;
    const size_t  W = net->n_embd + net->n_carried;
    float        *h = ref_random(m, n * W, 0, 1, seed);
    for (size_t i = 0; i < n && net->token.width; i++) h[i * W + net->n_embd] = (float)(i * 7 % net->n_vocab);
    return h;
}

float *ref_streams(ref_model *m, const float *h, size_t n)
{
    const size_t C = m->net.n_embd, W = C + m->net.n_carried;
    float       *rows = keep(m, must(n * C, sizeof *rows));
    for (size_t i = 0; i < n; i++) memcpy(rows + i * C, h + i * W, C * sizeof *rows);
    return rows;
}

/* F16 by rounding; Q8_0 with one scale for all blocks: valid bytes are wanted, not a good quantizer. */
static void pack_row(bb_type type, const float *x, uint32_t n, char *out)
{
    for (uint32_t i = 0; i < n && type == BB_F16; i++) bb_store_u16(out + 2 * i, bb_float_to_half(x[i]));
    for (uint32_t i = 0; i < n && type == BB_Q8_0; i++) {
        char *block = out + i / 32 * 34;
        if (i % 32 == 0) bb_store_u16(block, bb_float_to_half(0x1p-8f));
        block[2 + i % 32] = (char)(int)fmax(-127, fmin(127, rint((double)x[i] * 256)));
    }
}

static bb_matrix matrix(ref_model *m, bb_type type, uint32_t rows, uint32_t cols, bool bias, uint64_t *seed)
{
    float    *x = ref_random(m, (size_t)rows * cols, 0, 1 / sqrt((double)cols), seed);
    bb_matrix w = { type, rows, cols, x, NULL, NULL };
    if (type != BB_F32) {
        size_t bytes = bb_format_row_bytes(bb_format_get(type), cols);
        char  *data = keep(m, must(rows, bytes));
        for (uint32_t r = 0; r < rows; r++) pack_row(type, x + (size_t)r * cols, cols, data + r * bytes);
        w.data = data;
    }
    if (bias) w.bias = ref_random(m, rows, 0, 0.3, seed);
    return w;
}

static bool is(const ref_spec *s, const char *arch) { return strcmp(s->arch, arch) == 0; }
static bool is_gemma(const ref_spec *s) { return is(s, "gemma3") || is(s, "gemma4"); }

/* E2B and E4B: the last three blocks attend to the keys and values of the last ones of their kinds before them (1 and 3), and each token gives 14 numbers to
 * each block. */
static void share(const ref_spec *s, ref_model *m, uint64_t *seed)
{
    enum { P = 14, SHARED = 3 };
    bb_net *n = &m->net;
    n->token.width = P;
    n->token.table = matrix(m, BB_F32, s->n_vocab * s->n_layer, P, false, seed);
    n->token.proj = matrix(m, BB_F32, s->n_layer * P, s->n_embd, false, seed);
    n->token.norm = ref_random(m, P, 1, 0.3, seed);
    n->n_carried = 1;
    for (uint32_t i = 0; i < s->n_layer; i++) {
        bb_block *b = &n->blocks[i];
        b->number = i;
        b->n_token = P;
        b->w[BB_PART_TOKEN_GATE] = matrix(m, s->type, P, s->n_embd, false, seed);
        b->w[BB_PART_TOKEN_OUT] = matrix(m, s->type, s->n_embd, P, false, seed);
        b->norm[BB_NORM_POST_TOKEN] = ref_random(m, s->n_embd, 1, 0.3, seed);
    }
    for (int local = 0; local < 2; local++) {
        bb_block *from = &n->blocks[s->n_layer - SHARED - 1];
        while (from->local != local) from--;
        from->kv_role = BB_KV_GIVES;
        from->kv_at = n->n_carried;
        n->n_carried += 2 * from->n_kv * (uint32_t)head_size(n, from);
        for (uint32_t i = s->n_layer - SHARED; i < s->n_layer; i++) {
            bb_block *b = &n->blocks[i];
            if (b->local != local) continue;
            b->kv_role = BB_KV_TAKES;
            b->kv_at = from->kv_at;
            b->lacks = 1u << BB_PART_K | 1u << BB_PART_V;
            b->w[BB_PART_K] = b->w[BB_PART_V] = (bb_matrix) { .rows = 0 };
            b->norm[BB_NORM_K] = NULL;
        }
    }
}

void ref_model_make(const ref_spec *s, uint64_t seed, ref_model *m)
{
    uint32_t C = s->n_embd, D = s->head_dim;
    bb_net  *n = &m->net;
    m->n_owned = 0;
    *n = (bb_net) { .arch = bb_arch_named(s->arch),
                    .n_vocab = s->n_vocab,
                    .n_embd = C,
                    .n_layer = s->n_layer,
                    .head_dim = D,
                    .n_rot = s->n_rot,
                    .n_ctx_train = 128,
                    .norm_eps = 1e-5f,
                    .rope_base = 10000,
                    .rope_freq_scale = s->freq_scale,
                    .rope_neox = s->neox };
    if (is(s, "granite")) { /* embeddings times 1.5, residual times 0.4, attention 0.2, logits by 1.6 */
        n->residual_scale = 0.4f;
        n->embd_scale = 1.5f / 0.4f;
        n->norm_eps = 1e-5f / 0.16f;
        n->query_scale = 0.2f * sqrtf((float)D);
        n->out_scale = 1 / 1.6f;
    }
    if (is(s, "phi3")) { /* whose windows are longer than the first context, but for "short" */
        n->rope_context = strstr(s->name, "short") ? 1000 : 8;
        n->rope_magnitude = 1.2f;
        n->rope_long = ref_random(m, s->n_rot / 2, 4, 1, &seed);
    }
    if (strstr(s->name, "yarn")) {
        n->rope_context = 8;
        n->rope_magnitude = 1.1f;
        n->yarn = true;
        n->yarn_low = 1;
        n->yarn_high = 3;
    }
    if (is(s, "mistral3")) n->heat = 0.3f;
    if (is(s, "gemma4")) { /* heads of 8 numbers, 6 of them turned, in blocks with a window */
        n->local_head_dim = 8;
        n->local_n_rot = 6;
        n->unit_scores = true;
        n->logit_cap = 2;
        n->value_norm = ref_random(m, D > 8 ? D : 8, 1, 0, &seed);
    }
    if (strstr(s->name, "capped")) n->logit_cap = 1.5f;
    if (is_gemma(s)) { /* blocks see three keys and turn by another base, but the sixth */
        n->embd_scale = sqrtf((float)C);
        n->local_rope_base = 300;
        n->gate = BB_GATE_GELU;
    }
    n->whole_norms = s->norms & REF_WHOLE_NORMS;
    n->embd = matrix(m, BB_F32, s->n_vocab, C, false, &seed);
    if (s->untied) n->head = matrix(m, s->type, s->n_vocab, C, false, &seed);
    n->out_norm = ref_random(m, C, 1, 0.3, &seed);
    if (s->factors) n->rope_factors = ref_random(m, s->n_rot / 2, 4, 1, &seed);
    n->blocks = keep(m, must(s->n_layer, sizeof *n->blocks));
    for (uint32_t i = 0; i < s->n_layer; i++) {
        bb_block *b = &n->blocks[i];
        uint32_t  H = s->shapes[i].n_head, G = s->shapes[i].n_kv, F = s->shapes[i].n_ff;
        *b = (bb_block) { .n_head = H, .n_kv = G, .n_ff = F, .no_rope = is(s, "smollm3") && i % 4 == 3 };
        b->local = is_gemma(s) && i % 6 != 5 && !(is(s, "gemma4") && i % 3 == 1);
        if (is(s, "gemma4") && !b->local) b->lacks = 1u << BB_PART_V;
        if (is(s, "gemma4") && i != 2) b->scale = 0.5f + 0.3f * (float)(i % 4);
        if (b->local && n->local_head_dim) D = n->local_head_dim;
        else D = s->head_dim;
        b->window = b->local ? 3 : 0;
        if (H) {
            if (!n->whole_norms) b->norm[BB_NORM_ATTENTION] = ref_random(m, C, 1, 0.3, &seed);
            else b->norm[BB_NORM_Q] = ref_random(m, H * D, 1, 0.3, &seed), b->norm[BB_NORM_K] = ref_random(m, G * D, 1, 0.3, &seed);
            b->w[BB_PART_Q] = matrix(m, s->type, H * D, C, s->bias, &seed);
            b->w[BB_PART_K] = matrix(m, s->type, G * D, C, s->bias, &seed);
            if (!b->lacks) b->w[BB_PART_V] = matrix(m, s->type, G * D, C, s->bias, &seed);
            b->w[BB_PART_O] = matrix(m, s->type, C, H * D, s->bias && !is(s, "qwen2"), &seed);
            if (s->norms & REF_POST_NORMS) b->norm[BB_NORM_POST_ATTENTION] = ref_random(m, C, 1, 0.3, &seed);
            const double gain = n->unit_scores ? 0.3 : 1; /* so that scores are no larger than those of the others */
            if (s->norms & REF_HEAD_NORMS)
                b->norm[BB_NORM_Q] = ref_random(m, D, gain, 0.3 * gain, &seed), b->norm[BB_NORM_K] = ref_random(m, D, gain, 0.3 * gain, &seed);
        }
        if (F) {
            if (!n->whole_norms) b->norm[BB_NORM_FFN] = ref_random(m, C, 1, 0.3, &seed);
            b->w[BB_PART_GATE] = matrix(m, s->type, F, C, s->bias && is(s, "deci"), &seed);
            b->w[BB_PART_UP] = matrix(m, s->type, F, C, s->bias && is(s, "deci"), &seed);
            b->w[BB_PART_DOWN] = matrix(m, s->type, C, F, s->bias && is(s, "deci"), &seed);
            if (s->norms & REF_POST_NORMS) b->norm[BB_NORM_POST_FFN] = ref_random(m, C, 1, 0.3, &seed);
        }
    }
    if (strstr(s->name, "shared")) share(s, m, &seed);
}

void ref_model_free(ref_model *m)
{
    for (size_t i = 0; i < m->n_owned; i++) free(m->owned[i]);
    m->n_owned = 0;
}

bb_block ref_wider(const bb_block *block, int what)
{
    bb_block b = *block;
    if (what == 0) b.n_kv = b.n_head, b.w[BB_PART_K] = b.w[BB_PART_V] = b.w[BB_PART_Q];
    if (what == 1) b.n_head *= 2, b.w[BB_PART_Q].rows *= 2, b.w[BB_PART_O].cols *= 2;
    if (what == 2) b.n_ff *= 2, b.w[BB_PART_GATE].rows *= 2, b.w[BB_PART_UP].rows *= 2, b.w[BB_PART_DOWN].cols *= 2;
    return b;
}

static const ref_shape five[] = { { 4, 2, 40 }, { 4, 2, 40 }, { 4, 2, 40 }, { 4, 2, 40 }, { 4, 2, 40 } };
static const ref_shape plain[] = { { 4, 4, 96 }, { 4, 4, 96 } }, grouped[] = { { 4, 2, 64 }, { 4, 2, 64 } }, one_kv[] = { { 6, 1, 50 } },
                       two_heads[] = { { 2, 1, 50 } }, pruned[] = { { 4, 2, 96 }, { 0, 0, 33 }, { 2, 1, 0 }, { 0, 0, 0 }, { 6, 3, 7 }, { 2, 1, 1 } },
                       seven[] = { { 4, 2, 40 }, { 4, 2, 40 }, { 4, 2, 40 }, { 4, 2, 40 }, { 4, 2, 40 }, { 4, 2, 40 }, { 4, 2, 40 } },
                       kinds[] = { { 4, 2, 56 }, { 4, 1, 56 }, { 4, 2, 56 }, { 4, 2, 56 }, { 4, 1, 56 }, { 2, 1, 36 }, { 4, 4, 46 } },
                       shared_kinds[] = { { 4, 2, 56 }, { 4, 1, 56 }, { 4, 2, 56 }, { 4, 2, 56 }, { 4, 1, 56 }, { 2, 1, 36 }, { 6, 2, 46 } },
                       pruned_kinds[] = { { 4, 2, 112 }, { 0, 0, 49 }, { 4, 2, 56 }, { 0, 0, 0 }, { 6, 3, 36 }, { 4, 2, 0 } },
                       pruned_less[] = {
                           { 4, 2, 96 }, { 0, 0, 33 }, { 2, 1, 0 }, { 0, 0, 0 }, { 6, 3, 20 }, { 2, 1, 24 }
                       }; /* a norm of few channels amplifies rounding */

const ref_spec ref_specs[] = {
    { "llama", "llama", 40, 32, 2, 8, 8, false, false, 0, false, false, 1, BB_F32, plain },
    { "llama GQA, biases, factors", "llama", 33, 24, 2, 12, 12, false, true, 0, true, true, 1, BB_F32, grouped },
    { "llama F16, partial and scaled rope", "llama", 40, 64, 2, 16, 8, false, false, 0, false, true, 0.25f, BB_F16, plain },
    { "qwen2", "qwen2", 40, 32, 2, 8, 8, true, true, 0, false, false, 1, BB_F32, grouped },
    { "qwen3", "qwen3", 50, 40, 2, 16, 16, true, false, REF_HEAD_NORMS, false, true, 1, BB_F32, grouped },
    { "qwen3 one KV head, partial rope", "qwen3", 17, 30, 1, 10, 6, true, false, REF_HEAD_NORMS, false, false, 1, BB_F32, one_kv },
    { "deci pruned", "deci", 40, 32, 6, 8, 8, false, false, 0, false, false, 1, BB_F32, pruned },
    { "deci pruned, biases, factors", "deci", 40, 32, 6, 8, 8, false, true, 0, true, true, 1, BB_F32, pruned },
    { "llama Q8_0", "llama", 64, 64, 2, 16, 16, false, false, 0, false, true, 1, BB_Q8_0, plain },
    { "smollm3", "smollm3", 40, 32, 5, 8, 8, false, false, 0, false, true, 1, BB_F32, five },
    { "smollm3 tied", "smollm3", 33, 24, 4, 6, 6, false, false, 0, false, false, 0.5f, BB_F32, five },
    { "granite", "granite", 40, 32, 2, 8, 8, false, false, 0, false, true, 1, BB_F32, grouped },
    { "granite tied, biases, factors", "granite", 33, 24, 2, 12, 12, false, true, 0, true, false, 1, BB_F32, grouped },
    { "gemma3", "gemma3", 33, 24, 7, 12, 12, true, false, REF_HEAD_NORMS | REF_POST_NORMS, false, false, 0.5f, BB_F32, seven },
    { "gemma3 pruned, not tied", "gemma3", 40, 32, 6, 8, 8, true, false, REF_HEAD_NORMS | REF_POST_NORMS, false, true, 1, BB_F32, pruned_less },
    { "gemma3 capped", "gemma3", 33, 24, 2, 12, 12, true, false, REF_HEAD_NORMS | REF_POST_NORMS, false, false, 1, BB_F32, grouped },
    { "gemma4", "gemma4", 33, 24, 7, 12, 12, true, false, REF_HEAD_NORMS | REF_POST_NORMS, true, false, 1, BB_F32, kinds },
    { "gemma4 pruned, not tied", "gemma4", 40, 32, 6, 16, 16, true, false, REF_HEAD_NORMS | REF_POST_NORMS, true, true, 1, BB_F32, pruned_kinds },
    { "gemma4 shared keys, per-layer embeddings", "gemma4", 33, 24, 7, 12, 12, true, false, REF_HEAD_NORMS | REF_POST_NORMS, true, false, 1, BB_F32,
      shared_kinds },
    { "deci pruned, norms of outputs", "deci", 40, 32, 6, 8, 8, false, true, REF_POST_NORMS, false, true, 1, BB_F32, pruned_less },
    { "phi3 long, partial rope", "phi3", 40, 48, 2, 12, 8, true, false, 0, true, true, 1, BB_F32, grouped },
    { "phi3 short, tied", "phi3", 33, 32, 2, 8, 8, true, false, 0, true, false, 1, BB_F32, grouped },
    { "mistral3 yarn", "mistral3", 40, 40, 2, 10, 10, false, true, 0, false, true, 0.25f, BB_F32, grouped },
    { "olmo2", "olmo2", 40, 32, 2, 8, 8, true, false, REF_WHOLE_NORMS | REF_POST_NORMS, false, true, 1, BB_F32, grouped },
    { "qwen2 yarn", "qwen2", 33, 32, 2, 8, 8, true, true, 0, false, false, 0.125f, BB_F32, grouped },
    { "llama wide heads", "llama", 40, 24, 1, 40, 40, false, false, 0, false, false, 1, BB_F32, two_heads }, /* more than a panel of any CPU level */
};
const size_t ref_n_specs = sizeof ref_specs / sizeof *ref_specs;
