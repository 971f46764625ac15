/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_backward.c: gradients of blocks, head and embedding against central differences of the float64 oracle (support/ref_net.h), on
 * random tiny networks of all architectures; threads and the cut into calls change no bit; and a descent that must descend.
 */
#include <check.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/net/backward.h"
#include "model/net/forward.h"
#include "tests/support/guarded.h"
#include "tests/support/ref_net.h"

enum { S = 2, T = 37 /* a full attention tile and a part */ };

/* Step of the differences and what may remain: the third derivative times DELTA^2 (of order 1e-6 here) and the float32 rounding of a
 * gradient of about 100 fma, relative to the largest gradient of the array. Measured: at most 1e-6 of it. */
#define DELTA 1e-3
#define ALLOWED 1e-5

/* L = sum c . h_out of all windows, h in float64. */
static double block_loss(const ref_model *m, const bb_block *block, const double *h, const float *c, uint32_t n_tokens)
{
    size_t  n = (size_t)n_tokens * bb_row_width(&m->net);
    double *x = BB_NEW(n, double, NULL), total = 0;
    for (size_t s = 0; s < S; s++) {
        memcpy(x, h + s * n, n * sizeof *x);
        ref_block(&m->net, block, n_tokens, x);
        for (size_t i = 0; i < n; i++) total += (double)c[s * n + i] * x[i];
    }
    bb_free(x);
    return total;
}

static double largest_of(const float *x, size_t n)
{
    double m = 0;
    for (size_t i = 0; i < n; i++) m = fmax(m, fabs((double)x[i]));
    return m;
}

/* One block with everything around it. */
typedef struct scene {
    const ref_spec *spec;
    ref_model       m;
    bb_block       *block;
    float          *h, *c, *dh;
    double         *h64;
    bb_block_grad   grad;
    float          *table; /* gradient of bb_token_inputs.table */
    bb_backward    *b;
} scene;

static bb_status add_token_rows(void *self, const int32_t *ids, const float *d, size_t n, bb_err *err)
{
    scene       *s = self;
    const size_t P = s->m.net.token.width;
    (void)err;
    for (size_t i = 0; i < n * P; i++) s->table[(size_t)ids[i / P] * P + i % P] += d[i];
    return BB_OK;
}

static float *zeros(scene *s, size_t n)
{
    uint64_t unused = 1;
    return ref_random(&s->m, n, 0, 0, &unused);
}

static void set_scene(scene *s, int which, uint32_t block)
{
    uint64_t seed = 5;
    *s = (scene) { .spec = &ref_specs[which] };
    ref_model_make(s->spec, 11, &s->m);
    s->block = &s->m.net.blocks[block];
    const bb_net *net = &s->m.net;
    size_t        n = (size_t)S * T * bb_row_width(net);
    s->h = ref_states(&s->m, (size_t)S * T, &seed);
    s->c = ref_random(&s->m, n, 0, 1, &seed);
    s->dh = zeros(s, n);
    memcpy(s->dh, s->c, n * sizeof *s->dh);
    s->h64 = BB_NEW(n, double, NULL);
    for (size_t i = 0; i < n; i++) s->h64[i] = (double)s->h[i];
    for (int p = 0; p < BB_N_PARTS; p++) {
        s->grad.w[p] = zeros(s, (size_t)s->block->w[p].rows * s->block->w[p].cols);
        if (s->block->w[p].bias) s->grad.bias[p] = zeros(s, s->block->w[p].rows);
    }
    for (int k = 0; k < BB_N_NORMS; k++)
        if (s->block->norm[k]) s->grad.norm[k] = zeros(s, bb_norm_length(&s->m.net, s->block, (bb_norm)k));
    if (s->block->n_token) {
        s->table = zeros(s, (size_t)net->token.table.rows * net->token.width);
        s->grad.embd = zeros(s, (size_t)net->n_vocab * net->n_embd);
        s->grad.token_proj = zeros(s, (size_t)net->token.proj.rows * net->n_embd);
        s->grad.token_norm = zeros(s, net->token.width);
        s->grad.token_hook = add_token_rows;
        s->grad.token_self = s;
    }
    s->grad.head_mask = zeros(s, s->block->n_head);
    s->grad.ff_mask = zeros(s, s->block->n_ff);
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_backward_create(&bb_backend_cpu, &s->m.net, S, T, &s->b, &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_backward_block(s->b, &s->m.net, s->block, S, T, bb_on_cpu(s->h), bb_on_cpu(s->dh), &s->grad, &err) == BB_OK, "%s", err.msg);
}

static void end_scene(scene *s)
{
    bb_backward_destroy(s->b);
    bb_free(s->h64);
    ref_model_free(&s->m);
}

/* The slope along entry i of the parameters at x by central differences; floats move to their neighbours at about +-delta. */
static double slope_at(const scene *s, float *x, size_t i, double delta)
{
    float  at = x[i];
    double plus, minus, span;
    x[i] = at + (float)delta;
    span = (double)x[i];
    plus = block_loss(&s->m, s->block, s->h64, s->c, T);
    x[i] = at - (float)delta;
    span -= (double)x[i];
    minus = block_loss(&s->m, s->block, s->h64, s->c, T);
    x[i] = at;
    return (plus - minus) / span;
}

/* Where the third derivative shows, a second step takes it away. */
static void check_entry(const scene *s, const char *what, float *x, size_t i, const float *g, double largest)
{
    double slope = slope_at(s, x, i, DELTA);
    if (fabs((double)g[i] - slope) > ALLOWED * largest) slope = (4 * slope_at(s, x, i, DELTA / 2) - slope) / 3;
    ck_assert_msg(fabs((double)g[i] - slope) <= ALLOWED * largest, "%s, %s[%zu]: %.7g, by differences %.7g (largest %.3g)", s->spec->name, what, i,
                  (double)g[i], slope, largest);
}

/* A sample of at most `most` entries, spread over the array. */
static void check_array(const scene *s, const char *what, const float *x, size_t n, const float *g, size_t most)
{
    if (!x || !g) return;
    double largest = largest_of(g, n);
    ck_assert(largest > 0);
    for (size_t j = 0; j < most && j < n; j++) check_entry(s, what, (float *)(uintptr_t)x, n <= most ? j : (j * n + n / 2) / most, g, largest);
}

static void check_inputs(scene *s)
{
    const size_t W = bb_row_width(&s->m.net), n = (size_t)S * T * W;
    double       largest = largest_of(s->dh, n);
    for (size_t i = 3; i < n; i += n / (W > s->m.net.n_embd ? 97 : 20)) {
        if (s->m.net.token.width && i % W == s->m.net.n_embd) continue; /* the token's id */
        double at = s->h64[i], slope;
        s->h64[i] = at + DELTA;
        slope = block_loss(&s->m, s->block, s->h64, s->c, T);
        s->h64[i] = at - DELTA;
        slope = (slope - block_loss(&s->m, s->block, s->h64, s->c, T)) / (2 * DELTA);
        s->h64[i] = at;
        ck_assert_msg(fabs((double)s->dh[i] - slope) <= ALLOWED * largest, "%s, dh[%zu]: %.7g, by differences %.7g", s->spec->name, i, (double)s->dh[i], slope);
    }
}

/* dL/dm of a mask on columns first .. first + width - 1 of w's input is the sum over them of w dL/dw, as m scales those columns. */
static void check_mask(const scene *s, bb_part part, size_t width, const float *mask)
{
    const bb_matrix *w = &s->block->w[part];
    const bb_format *f = bb_format_get(w->type);
    float           *row = BB_NEW(w->cols, float, NULL);
    double          *sums = BB_NEW0(w->cols, double, NULL);
    for (size_t r = 0; r < w->rows; r++) {
        f->decode((const char *)w->data + r * bb_format_row_bytes(f, w->cols), row, w->cols);
        for (size_t c = 0; c < w->cols; c++) sums[c / width] += (double)row[c] * (double)s->grad.w[part][r * w->cols + c];
    }
    for (size_t i = 0; i < w->cols / width; i++)
        ck_assert_msg(fabs(sums[i] - (double)mask[i]) <= ALLOWED * largest_of(mask, w->cols / width),
                      "%s, %s, mask %zu: %.9g, by the weights %.9g (largest %.3g)", s->spec->name, bb_parts[part].name, i, (double)mask[i], sums[i],
                      largest_of(mask, w->cols / width));
    bb_free(row);
    bb_free(sums);
}

START_TEST(block_gradients_agree_with_differences)
{
    for (uint32_t block = 0; block < ref_specs[_i].n_layer; block++) {
        scene s;
        set_scene(&s, _i, block);
        check_inputs(&s);
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &s.block->w[p];
            if (w->rows == 0) continue;
            if (w->type == BB_F32) check_array(&s, bb_parts[p].name, w->data, (size_t)w->rows * w->cols, s.grad.w[p], 6);
            check_array(&s, "bias", w->bias, w->rows, s.grad.bias[p], 4);
        }
        for (int k = 0; k < BB_N_NORMS; k++)
            check_array(&s, bb_norms[k].name, s.block->norm[k], bb_norm_length(&s.m.net, s.block, (bb_norm)k), s.grad.norm[k], 6);
        if (s.block->n_token) {
            const bb_token_inputs *t = &s.m.net.token;
            check_array(&s, "embd by tokens", s.m.net.embd.data, (size_t)s.m.net.n_vocab * s.m.net.n_embd, s.grad.embd, 9);
            check_array(&s, "table", t->table.data, (size_t)t->table.rows * t->width, s.table, 99);
            check_array(&s, "projection", t->proj.data, (size_t)t->proj.rows * s.m.net.n_embd, s.grad.token_proj, 40);
            check_array(&s, "norm of the projection", t->norm, t->width, s.grad.token_norm, 6);
        }
        if (s.block->n_head) check_mask(&s, BB_PART_O, bb_head_dim(&s.m.net, s.block), s.grad.head_mask);
        if (s.block->n_ff) check_mask(&s, BB_PART_DOWN, 1, s.grad.ff_mask);
        end_scene(&s);
    }
}
END_TEST

/* A copy of the block with its matrices in F32, owned by m. */
static bb_block decoded(ref_model *m, const bb_block *block)
{
    bb_block copy = *block;
    uint64_t unused = 1;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bb_matrix *w = &block->w[p];
        const bb_format *f = bb_format_get(w->type);
        float           *x = ref_random(m, (size_t)w->rows * w->cols, 0, 0, &unused);
        for (size_t r = 0; r < w->rows; r++) f->decode((const char *)w->data + r * bb_format_row_bytes(f, w->cols), x + r * w->cols, w->cols);
        copy.w[p].type = BB_F32;
        copy.w[p].data = x;
    }
    return copy;
}

/* Gradients to the weights that F16 and Q8_0 matrices decode to: those of the decoded matrices, which differences have checked, bit by bit. */
START_TEST(gradients_are_to_decoded_weights)
{
    static const int which[] = { 2, 8 };
    scene            s;
    uint64_t         seed = 1;
    set_scene(&s, which[_i], 0);
    bb_block      plain = decoded(&s.m, s.block);
    bb_block_grad grad = { 0 };
    size_t        n = (size_t)S * T * s.m.net.n_embd;
    float        *dh = ref_random(&s.m, n, 0, 0, &seed);
    ck_assert(s.block->w[0].type != BB_F32);
    memcpy(dh, s.c, n * sizeof *dh);
    for (int p = 0; p < BB_N_PARTS; p++) grad.w[p] = zeros(&s, (size_t)plain.w[p].rows * plain.w[p].cols);
    grad.head_mask = zeros(&s, plain.n_head);
    ck_assert_int_eq(bb_backward_block(s.b, &s.m.net, &plain, S, T, bb_on_cpu(s.h), bb_on_cpu(dh), &grad, NULL), BB_OK);
    ck_assert_int_eq(memcmp(dh, s.dh, n * sizeof *dh), 0);
    ck_assert_int_eq(memcmp(grad.head_mask, s.grad.head_mask, plain.n_head * sizeof(float)), 0);
    for (int p = 0; p < BB_N_PARTS; p++) {
        if (!plain.w[p].rows) continue;
        ck_assert(largest_of(grad.w[p], (size_t)plain.w[p].rows * plain.w[p].cols) > 0);
        ck_assert_int_eq(memcmp(grad.w[p], s.grad.w[p], (size_t)plain.w[p].rows * plain.w[p].cols * sizeof(float)), 0);
    }
    const bb_block *was = s.block;
    s.block = &plain; /* and those by differences */
    for (int p = 0; p < BB_N_PARTS && plain.w[p].rows; p++)
        check_array(&s, bb_parts[p].name, plain.w[p].data, (size_t)plain.w[p].rows * plain.w[p].cols, grad.w[p], 6);
    s.block = (bb_block *)(uintptr_t)was;
    end_scene(&s);
}
END_TEST

/* The gradients of a scene again, by rough products and this many threads. */
static void rough_scene(scene *s, int threads)
{
    const int before = omp_get_max_threads();
    memcpy(s->dh, s->c, (size_t)S * T * bb_row_width(&s->m.net) * sizeof *s->dh);
    for (int p = 0; p < BB_N_PARTS; p++) {
        memset(s->grad.w[p], 0, (size_t)s->block->w[p].rows * s->block->w[p].cols * sizeof(float));
        if (s->block->w[p].bias) memset(s->grad.bias[p], 0, s->block->w[p].rows * sizeof(float));
    }
    for (int k = 0; k < BB_N_NORMS; k++)
        if (s->grad.norm[k]) memset(s->grad.norm[k], 0, bb_norm_length(&s->m.net, s->block, (bb_norm)k) * sizeof(float));
    omp_set_num_threads(threads);
    bb_backward_rough(s->b, true);
    ck_assert_int_eq(bb_backward_block(s->b, &s->m.net, s->block, S, T, bb_on_cpu(s->h), bb_on_cpu(s->dh), &s->grad, NULL), BB_OK);
    omp_set_num_threads(before);
}

/* Fast products are another rounding of the same gradients, rough ones (_i from ref_n_specs on) a coarser one; and they are not the exact ones, where there
 * are such things. */
START_TEST(fast_gradients_are_close_to_exact)
{
    const int  which = _i % (int)ref_n_specs;
    const bool rough = (size_t)_i >= ref_n_specs;
    scene      s[2];
    bool       differs = false;
    for (int p = 0; p < 2; p++) {
        bb_kernels_set_precision(p ? BB_FAST : BB_EXACT);
        set_scene(&s[p], which, 0);
    }
    if (rough) {
        const size_t n = (size_t)S * T * bb_row_width(&s[1].m.net);
        float       *alone = zeros(&s[1], n);
        rough_scene(&s[1], 1);
        memcpy(alone, s[1].dh, n * sizeof *alone);
        rough_scene(&s[1], 3);
        ck_assert_int_eq(memcmp(alone, s[1].dh, n * sizeof *alone), 0);
    }
    bb_kernels_set_precision(BB_EXACT);
    const bb_block *b = s[0].block;
    struct {
        const float *x, *y;
        size_t       n;
    } arrays[2 * BB_N_PARTS + BB_N_NORMS + 1] = { { s[0].dh, s[1].dh, (size_t)S * T * bb_row_width(&s[0].m.net) } };
    size_t n = 1;
    for (int p = 0; p < BB_N_PARTS; p++) {
        arrays[n].x = s[0].grad.w[p], arrays[n].y = s[1].grad.w[p], arrays[n++].n = (size_t)b->w[p].rows * b->w[p].cols;
        if (b->w[p].bias) arrays[n].x = s[0].grad.bias[p], arrays[n].y = s[1].grad.bias[p], arrays[n++].n = b->w[p].rows;
    }
    for (int k = 0; k < BB_N_NORMS; k++)
        if (s[0].grad.norm[k]) arrays[n].x = s[0].grad.norm[k], arrays[n].y = s[1].grad.norm[k], arrays[n++].n = bb_norm_length(&s[0].m.net, b, (bb_norm)k);
    for (size_t a = 0; a < n; a++) {
        const double largest = largest_of(arrays[a].x, arrays[a].n);
        for (size_t i = 0; i < arrays[a].n; i++) {
            ck_assert_msg(fabs((double)arrays[a].x[i] - (double)arrays[a].y[i]) <= (rough ? 0x1p-5 : 0x1p-12) * largest,
                          "%s, array %zu [%zu]: %g, fast %g (largest %g)", s[0].spec->name, a, i, (double)arrays[a].x[i], (double)arrays[a].y[i], largest);
            differs |= arrays[a].x[i] != arrays[a].y[i];
        }
    }
    ck_assert_int_eq(differs, rough ? bb_kernels_can_be_fast_rough() : bb_kernels_can_be_fast());
    end_scene(&s[0]);
    end_scene(&s[1]);
}
END_TEST

/* ---- head ---- */

typedef enum head_kind { SOFT, HARD, SQUARED, MIXED } head_kind;
#define HARD_SHARE 0.3

static double half_square(const double *z_ref, const double *z, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += 0.5 * (z[i] - z_ref[i]) * (z[i] - z_ref[i]);
    return sum;
}

static double head_loss(const ref_model *m, const ref_model *ref, const double *h, const float *h_ref, const int32_t *targets, const float *weight, size_t n,
                        head_kind kind)
{
    size_t  C = m->net.n_embd, V = m->net.n_vocab;
    double *z = BB_NEW(2 * V, double, NULL), *row = BB_NEW(C, double, NULL), total = 0;
    for (size_t i = 0; i < n; i++) {
        ref_logits(&m->net, h + i * C, z);
        for (size_t c = 0; c < C; c++) row[c] = (double)h_ref[i * C + c];
        ref_logits(&ref->net, row, z + V);
        const double hard = targets ? ref_log_sum_exp(z, V) - z[targets[i]] : 0, soft = kind == SQUARED ? half_square(z + V, z, V) : ref_kl(z + V, z, V);
        const double share = kind == HARD ? 1 : kind == MIXED ? HARD_SHARE : 0;
        total += (double)weight[i] * (share * hard + (1 - share) * soft);
    }
    bb_free(z);
    bb_free(row);
    return total;
}

static void check_head(const ref_spec *spec, head_kind kind)
{
    const bool hard = kind == HARD || kind == MIXED;
    enum { N = 5 };
    ref_model m, ref;
    uint64_t  seed = 6;
    ref_model_make(spec, 1, &m);
    ref_model_make(spec, 2, &ref);
    ref.net.logit_cap *= 0.75f; /* one of its own, where there is one */
    size_t       C = m.net.n_embd, V = m.net.n_vocab;
    float       *h = ref_random(&m, N * C, 0, 1, &seed), *h_ref = ref_random(&m, N * C, 0, 1, &seed), *weight = ref_random(&m, N, 1, 0.4, &seed);
    float       *dh = ref_random(&m, N * C, 0, 0, &seed), *d_head = ref_random(&m, V * C, 0, 0, &seed), *d_norm = ref_random(&m, C, 0, 0, &seed);
    double      *h64 = BB_NEW(N * C, double, NULL), loss[N], total = 0;
    int32_t      targets[N];
    bb_head_loss of = { hard ? targets : NULL, &ref.net, bb_on_cpu(h_ref), weight, kind == SQUARED, kind == MIXED ? (float)HARD_SHARE : 0 };
    bb_head_grad grad = { .head = d_head, .out_norm = d_norm };
    bb_backward *b;
    for (size_t i = 0; i < N; i++) targets[i] = (int32_t)((ref_noise(&seed) + 1) / 2 * (double)V);
    for (size_t i = 0; i < N * C; i++) h64[i] = (double)h[i];
    ck_assert_int_eq(bb_backward_create(&bb_backend_cpu, &m.net, 1, 2, &b, NULL), BB_OK); /* slabs of 2 rows */
    ck_assert_int_eq(bb_backward_head(b, &m.net, bb_on_cpu(h), N, &of, loss, bb_on_cpu(dh), &grad, NULL), BB_OK);
    for (size_t i = 0; i < N; i++) total += (double)weight[i] * loss[i];
#define LOSS() head_loss(&m, &ref, h64, h_ref, hard ? targets : NULL, weight, N, kind)
    ck_assert(fabs(total - LOSS()) <= 1e-5 * fabs(total));
    for (size_t i = 0; i < N * C; i += 7) {
        double at = h64[i], slope;
        h64[i] = at + DELTA;
        slope = LOSS();
        h64[i] = at - DELTA;
        slope = (slope - LOSS()) / (2 * DELTA);
        h64[i] = at;
        ck_assert_msg(fabs((double)dh[i] - slope) <= ALLOWED * largest_of(dh, N * C), "%s: head dh[%zu] %g, by differences %g", spec->name, i, (double)dh[i],
                      slope);
    }
    const struct {
        const float *x, *g;
        size_t       n;
    } arrays[] = { { m.net.out_norm, d_norm, C }, { bb_net_head(&m.net)->type == BB_F32 ? bb_net_head(&m.net)->data : NULL, d_head, V * C } };
    for (size_t a = 0; a < 2; a++)
        for (size_t i = 0; arrays[a].x && i < arrays[a].n; i += arrays[a].n / 12) {
            float *x = (float *)(uintptr_t)arrays[a].x, at = x[i];
            double slope, span;
            x[i] = at + (float)DELTA, slope = LOSS(), span = (double)x[i];
            x[i] = at - (float)DELTA, slope -= LOSS(), span -= (double)x[i];
            x[i] = at;
            ck_assert(fabs((double)arrays[a].g[i] - slope / span) <= ALLOWED * largest_of(arrays[a].g, arrays[a].n));
        }
#undef LOSS
    bb_backward_destroy(b);
    bb_free(h64);
    ref_model_free(&m);
    ref_model_free(&ref);
}

START_TEST(head_gradients_agree_with_differences)
{
    check_head(&ref_specs[_i], HARD);
    check_head(&ref_specs[_i], SOFT);
    check_head(&ref_specs[_i], SQUARED);
    check_head(&ref_specs[_i], MIXED);
}
END_TEST

/* Vocabulary in several pieces (64 MiB of logits are not enough for n rows of it): against the same rows one at a time, in one piece, the others of which
 * weigh nothing. With labels from everywhere in it. */
START_TEST(large_vocabulary_comes_in_pieces)
{
    enum { N = 600, V = 30011, C = 8, EACH = 101 };
    static const ref_shape none[] = { { 0, 0, 0 } };
    ref_spec               spec = { "large", "llama", V, C, 1, 4, 4, false, false, 0, false, true, 1, BB_F32, none };
    ref_model              m;
    uint64_t               seed = 1;
    bb_backward           *b;
    ref_model_make(&spec, 1, &m);
    float       *h = ref_random(&m, N * C, 0, 1, &seed), *h_ref = ref_random(&m, N * C, 0, 1, &seed), *all = ref_random(&m, N * C, 0, 0, &seed), one[C];
    float       *d_head = ref_random(&m, (size_t)V * C, 0, 0, &seed), *d_one = ref_random(&m, (size_t)V * C, 0, 0, &seed), weight[N] = { 0 };
    double      *loss = BB_NEW(N, double, NULL), loss1;
    int32_t      targets[N];
    bb_head_loss of = { NULL, &m.net, bb_on_cpu(h_ref), weight, false, _i == 0 ? 0 : 0.5f };
    bb_head_grad grad = { .head = d_head };
    m.net.logit_cap = _i == 2 ? 2 : 0;
    for (size_t i = 0; i < N; i++) targets[i] = i / EACH % 2 ? V - 1 - (int32_t)i : (int32_t)i; /* the second piece begins at 27936 */
    if (_i > 0) of.targets = targets;
    for (size_t i = 0; i < N; i += EACH) weight[i] = 1;
    ck_assert_int_eq(bb_backward_create(&bb_backend_cpu, &m.net, 1, N, &b, NULL), BB_OK);
    ck_assert_int_eq(bb_backward_head(b, &m.net, bb_on_cpu(h), N, &of, loss, bb_on_cpu(all), &grad, NULL), BB_OK);
    grad.head = d_one;
    for (size_t i = 0; i < N; i += EACH) {
        of.h_ref = bb_on_cpu(h_ref + i * C);
        if (_i > 0) of.targets = targets + i;
        ck_assert_int_eq(bb_backward_head(b, &m.net, bb_on_cpu(h + i * C), 1, &of, &loss1, bb_on_cpu(one), &grad, NULL), BB_OK);
        ck_assert(fabs(loss1 - loss[i]) <= 1e-6 * loss1);
        for (size_t c = 0; c < C; c++) ck_assert(fabs((double)one[c] - (double)all[i * C + c]) <= 1e-5 * largest_of(one, C));
    }
    for (size_t i = 0; i < (size_t)V * C; i++) ck_assert(fabs((double)d_head[i] - (double)d_one[i]) <= 1e-5 * largest_of(d_one + i / C * C, C));
    bb_backward_destroy(b);
    bb_free(loss);
    ref_model_free(&m);
}
END_TEST

/* A matrix of more numbers than are packed at once, with a bias: products by it and by its transpose, some of their numbers. */
START_TEST(large_matrix_comes_in_pieces)
{
    enum { ROWS = 4200, COLS = 4096, EACH = 997 };
    const bb_operations *o = bb_backend_cpu.ops;
    const bb_format     *f = bb_format_get(BB_F16);
    ref_model            m = { .n_owned = 0 };
    uint64_t             seed = 3;
    void                *self;
    float               *row = ref_random(&m, COLS, 0, 1, &seed), *x = ref_random(&m, COLS, 0, 1, &seed), *dy = ref_random(&m, ROWS, 0, 1, &seed);
    float               *bias = ref_random(&m, ROWS, 0, 1, &seed), *y = ref_random(&m, ROWS, 0, 1, &seed), *dx = ref_random(&m, COLS, 0, 1, &seed);
    double               sums[COLS] = { 0 };
    char                *data = bb_alloc(ROWS, bb_format_row_bytes(f, COLS), NULL);
    const bb_matrix      w = { .type = BB_F16, .rows = ROWS, .cols = COLS, .data = data, .bias = bias };
    ck_assert_int_eq(o->open(NULL, &self, NULL), BB_OK);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t c = 0; c < COLS; c++) row[c] = (float)((r * 31 + c * 17) % 64) / 64 - 0.5f; /* which F16 has */
        f->encode(row, NULL, data + r * bb_format_row_bytes(f, COLS), COLS);
        for (size_t c = 0; c < COLS; c += EACH) sums[c] += (double)dy[r] * (double)row[c];
    }
    ck_assert_int_eq(o->matmul(self, 1, bb_on_cpu(x), &w, false, bb_on_cpu(y), NULL), BB_OK);
    ck_assert_int_eq(o->back_matmul(self, 1, bb_on_cpu(dy), &w, false, bb_on_cpu(dx), NULL), BB_OK);
    for (size_t c = 0; c < COLS; c += EACH) ck_assert_double_eq_tol((double)dx[c], sums[c], 1e-3);
    for (size_t r = 2; r < ROWS; r += EACH) {
        double sum = (double)bias[r];
        f->decode(data + r * bb_format_row_bytes(f, COLS), row, COLS);
        for (size_t c = 0; c < COLS; c++) sum += (double)x[c] * (double)row[c];
        ck_assert_double_eq_tol((double)y[r], sum, 1e-3);
    }
    ck_assert_double_eq_tol((double)y[ROWS - 1] - (double)bias[ROWS - 1], (double)y[ROWS - 65] - (double)bias[ROWS - 65], 1e-3); /* rows repeat by 64 */
    o->close(self);
    bb_free(data);
    ref_model_free(&m);
}
END_TEST

/* The packed inputs of back_weights are those of the numbers as they are: other ones are gathered into their place, and where there was no memory for
 * others in between they are packed again. */
START_TEST(packed_inputs_are_not_stale)
{
    enum { ROWS = 3, COLS = 5, N = 7, MORE = 64 };
    const bb_operations *o = bb_backend_cpu.ops;
    ref_model            m = { .n_owned = 0 };
    uint64_t             seed = 4;
    void                *self;
    float *dy = ref_random(&m, MORE * ROWS, 0, 1, &seed), *x = ref_random(&m, MORE * COLS, 0, 1, &seed), *other = ref_random(&m, MORE * COLS, 0, 1, &seed);
    float *table = ref_random(&m, N * COLS, 0, 1, &seed);
    const bb_matrix rows = { .type = BB_F32, .rows = N, .cols = COLS, .data = table };
    const int32_t   ids[N] = { 6, 5, 4, 3, 2, 1, 0 };
    for (int gathers = 0; gathers < 2; gathers++) {
        float dw[ROWS * COLS] = { 0 }, unused[ROWS * COLS] = { 0 };
        ck_assert_int_eq(o->open(NULL, &self, NULL), BB_OK);
        ck_assert_int_eq(o->back_weights(self, N, ROWS, COLS, bb_on_cpu(dy), bb_on_cpu(x), unused, NULL), BB_OK);
        if (gathers) ck_assert_int_eq(o->gather(self, &rows, ids, N, bb_on_cpu(x), NULL), BB_OK);
        for (long n = 0; !gathers && n < 2; n++) {
            bb_mem_fail_after(n);
            ck_assert_int_eq(o->back_weights(self, MORE, ROWS, COLS, bb_on_cpu(dy), bb_on_cpu(other), unused, NULL), BB_NOMEM);
            bb_mem_fail_after(-1);
        }
        ck_assert_int_eq(o->back_weights(self, N, ROWS, COLS, bb_on_cpu(dy), bb_on_cpu(x), dw, NULL), BB_OK);
        for (size_t i = 0; i < ROWS * COLS; i++) {
            double sum = 0;
            for (size_t t = 0; t < N; t++) sum += (double)dy[t * ROWS + i / COLS] * (double)x[t * COLS + i % COLS];
            ck_assert_double_eq_tol((double)dw[i], sum, 1e-5);
        }
        o->close(self);
    }
    ref_model_free(&m);
}
END_TEST

START_TEST(embedding_gradient_adds_rows)
{
    bb_net net = { .n_vocab = 3, .n_embd = 2 };
    float  dh[6] = { 1, 2, 3, 4, 5, 6 }, d[6] = { 0, 0, 0, 0, 0, 10 }, expected[6] = { 0, 0, 6, 8, 3, 14 };
    ck_assert_int_eq(bb_backward_embed(&bb_backend_cpu, &net, (int32_t[]) { 1, 2, 1 }, 3, bb_on_cpu(dh), d, NULL), BB_OK);
    for (int i = 0; i < 6; i++) ck_assert(d[i] == expected[i]);
    ck_assert_int_eq(bb_backward_embed(&bb_backend_cpu, &net, (int32_t[]) { 3 }, 1, bb_on_cpu(dh), d, NULL), BB_BAD_FILE);
}
END_TEST

/* ---- properties ---- */

/* Gradients of one block over several long windows (enough work for threads): dh, all weights and the first norm, one after the other. */
static float *long_gradients(const ref_model *m, const float *h, const float *c, bool window_by_window, size_t *n_floats)
{
    enum { WINDOWS = 4, LENGTH = 200 };
    size_t          n = (size_t)LENGTH * bb_row_width(&m->net), total = WINDOWS * n + m->net.n_embd;
    const bb_block *block = &m->net.blocks[0];
    bb_block_grad   grad = { 0 };
    bb_backward    *b;
    for (int p = 0; p < BB_N_PARTS; p++) total += (size_t)block->w[p].rows * block->w[p].cols;
    float *out = BB_NEW0(total, float, NULL), *at = out + WINDOWS * n;
    memcpy(out, c, WINDOWS * n * sizeof *out);
    for (int p = 0; p < BB_N_PARTS; at += (size_t)block->w[p].rows * block->w[p].cols, p++) grad.w[p] = at;
    grad.norm[BB_NORM_ATTENTION] = at;
    ck_assert_int_eq(bb_backward_create(&bb_backend_cpu, &m->net, WINDOWS, LENGTH, &b, NULL), BB_OK);
    for (uint32_t s = 0, step = window_by_window ? 1 : WINDOWS; s < WINDOWS; s += step)
        ck_assert_int_eq(bb_backward_block(b, &m->net, block, step, LENGTH, bb_on_cpu(h + s * n), bb_on_cpu(out + s * n), &grad, NULL), BB_OK);
    bb_backward_destroy(b);
    *n_floats = total;
    return out;
}

START_TEST(threads_and_calls_change_nothing)
{
    ref_model m;
    uint64_t  seed = 8;
    size_t    n;
    int       threads = omp_get_max_threads();
    ref_model_make(&ref_specs[_i], 3, &m);
    float *h = ref_states(&m, 800, &seed), *c = ref_states(&m, 800, &seed);
    omp_set_num_threads(3);
    float *a = long_gradients(&m, h, c, false, &n);
    omp_set_num_threads(1);
    float *b = long_gradients(&m, h, c, true, &n);
    ck_assert_msg(memcmp(a, b, n * sizeof *a) == 0, "%s", ref_specs[_i].name);
    omp_set_num_threads(threads);
    bb_free(a);
    bb_free(b);
    ref_model_free(&m);
}
END_TEST

/* Windows longer than what their queries see by whole tiles: the keys between are left out. dL along one direction, against differences. */
START_TEST(keys_outside_a_window_are_left_out)
{
    enum { LENGTH = 100 };
    ref_model    m;
    uint64_t     seed = 5;
    bb_backward *b;
    size_t       spec = 0, n;
    double       along = 0, slope;
    while (strcmp(ref_specs[spec].name, "gemma3") != 0) spec++;
    ref_model_make(&ref_specs[spec], 3, &m);
    n = (size_t)S * LENGTH * m.net.n_embd;
    float *h = ref_random(&m, n, 0, 1, &seed), *c = ref_random(&m, n, 0, 1, &seed), *way = ref_random(&m, n, 0, 1, &seed), *dh = ref_random(&m, n, 0, 1, &seed);
    double *moved = BB_NEW(n, double, NULL);
    ck_assert(m.net.blocks[0].window == 3);
    memcpy(dh, c, n * sizeof *c);
    ck_assert_int_eq(bb_backward_create(&bb_backend_cpu, &m.net, S, LENGTH, &b, NULL), BB_OK);
    ck_assert_int_eq(bb_backward_block(b, &m.net, &m.net.blocks[0], S, LENGTH, bb_on_cpu(h), bb_on_cpu(dh), NULL, NULL), BB_OK);
    for (size_t i = 0; i < n; i++) along += (double)dh[i] * (double)way[i];
    for (size_t i = 0; i < n; i++) moved[i] = (double)h[i] + 1e-5 * (double)way[i];
    slope = block_loss(&m, &m.net.blocks[0], moved, c, LENGTH);
    for (size_t i = 0; i < n; i++) moved[i] = (double)h[i] - 1e-5 * (double)way[i];
    slope = (slope - block_loss(&m, &m.net.blocks[0], moved, c, LENGTH)) / 2e-5;
    ck_assert_msg(fabs(along - slope) <= 1e-5 * sqrt((double)n) * largest_of(dh, n), "%.9g, by differences %.9g", along, slope);
    bb_backward_destroy(b);
    bb_free(moved);
    ref_model_free(&m);
}
END_TEST

/* What a hook saw: sums over x and dy of each part, in order. */
typedef struct heard {
    double          x[BB_N_PARTS], dy[BB_N_PARTS];
    const bb_block *block;
} heard;

static bb_status add_up(void *self, bb_part part, const float *x, const float *dy, size_t n, bb_err *err)
{
    heard           *s = self;
    const bb_matrix *w = &s->block->w[part];
    (void)err;
    for (size_t i = 0; i < n * w->cols; i++) s->x[part] += (double)x[i];
    for (size_t i = 0; i < n * w->rows; i++) s->dy[part] += (double)dy[i];
    return BB_OK;
}

/* All that a backward pass makes, on one backend. */
typedef struct made {
    float  *dh, *head_dh, *weights, *head, *embd, *small; /* small: norms, biases, masks, one after the other */
    size_t  n_weights, n_small;
    double *loss;
    heard   heard;
} made;

enum { FAR_S = 4, FAR_T = 200 /* several slabs */, FAR_ROWS = FAR_S * FAR_T };

static float *next_of(float *at, size_t *used, size_t n)
{
    *used += n;
    return at + *used - n;
}

static void make_all(const bb_backend *k, const ref_model *m, const ref_model *ref, const bb_block *block, const float *h, const float *c,
                     const int32_t *tokens, int kind, made *out)
{
    const bb_operations *o = k->ops;
    const size_t         C = m->net.n_embd, V = m->net.n_vocab, n = FAR_ROWS * bb_row_width(&m->net), rows = FAR_ROWS * C;
    bb_block_grad        grad = { .hook = add_up, .hook_self = &out->heard };
    bb_backward         *b;
    bb_buffer            states, dh;
    *out = (made) { .heard = { .block = block } };
    for (int p = 0; p < BB_N_PARTS; p++) out->n_weights += (size_t)block->w[p].rows * block->w[p].cols;
    out->dh = BB_NEW(n, float, NULL), out->head_dh = BB_NEW(rows, float, NULL), out->loss = BB_NEW(FAR_ROWS, double, NULL);
    out->weights = BB_NEW0(out->n_weights, float, NULL), out->head = BB_NEW0(V * C, float, NULL), out->embd = BB_NEW0(V * C, float, NULL);
    out->small = BB_NEW0(4096, float, NULL);
    for (size_t p = 0, used = 0; p < BB_N_PARTS; p++) {
        grad.w[p] = next_of(out->weights, &used, (size_t)block->w[p].rows * block->w[p].cols);
        if (block->w[p].bias) grad.bias[p] = next_of(out->small, &out->n_small, block->w[p].rows);
    }
    for (int i = 0; i < BB_N_NORMS; i++)
        if (block->norm[i]) grad.norm[i] = next_of(out->small, &out->n_small, bb_norm_length(&m->net, block, (bb_norm)i));
    grad.head_mask = next_of(out->small, &out->n_small, block->n_head);
    grad.ff_mask = next_of(out->small, &out->n_small, block->n_ff);
    if (block->n_token) {
        grad.embd = out->embd;
        grad.token_norm = next_of(out->small, &out->n_small, block->n_token);
    }
    bb_head_grad head = { .head = out->head, .out_norm = next_of(out->small, &out->n_small, C) };
    ck_assert_uint_le(out->n_small, 4096);
    ck_assert_int_eq(o->alloc(k->context, n, &states, NULL) | o->alloc(k->context, n, &dh, NULL), BB_OK);
    ck_assert_int_eq(o->write(k->context, states, h, n, NULL) | o->write(k->context, dh, c, n, NULL), BB_OK);
    ck_assert_int_eq(bb_backward_create(k, &m->net, FAR_S, FAR_T, &b, NULL), BB_OK);
    ck_assert_int_eq(bb_backward_block(b, &m->net, block, FAR_S, FAR_T, states, dh, &grad, NULL), BB_OK);
    ck_assert_int_eq(bb_backward_embed(k, &m->net, tokens, FAR_ROWS, dh, out->embd, NULL), BB_OK);
    ck_assert_int_eq(o->read(k->context, dh, out->dh, n, NULL), BB_OK);
    bb_head_loss of = { .targets = kind == 0 ? tokens : NULL, .ref_net = &ref->net, .h_ref = states, .squared = kind == 2 };
    ck_assert_int_eq(bb_backward_head(b, &m->net, states, FAR_ROWS, &of, out->loss, dh, &head, NULL), BB_OK);
    ck_assert_int_eq(o->read(k->context, dh, out->head_dh, rows, NULL), BB_OK);
    bb_backward_destroy(b);
    o->release(k->context, states), o->release(k->context, dh);
}

/* Every gradient on a backend whose memory the host cannot reach, bit by bit that of the CPU. */
START_TEST(another_backend_has_the_same_bits)
{
    ref_model m, ref;
    uint64_t  seed = 14;
    guarded   g;
    made      a, b;
    ref_model_make(&ref_specs[_i], 3, &m);
    ref_model_make(&ref_specs[_i], 4, &ref);
    const size_t C = m.net.n_embd, V = m.net.n_vocab, n = FAR_ROWS * bb_row_width(&m.net), rows = FAR_ROWS * C;
    float       *h = ref_states(&m, FAR_ROWS, &seed), *c = ref_states(&m, FAR_ROWS, &seed);
    int32_t      tokens[FAR_ROWS];
    for (int i = 0; i < FAR_ROWS; i++) tokens[i] = (int32_t)((ref_noise(&seed) + 1) / 2 * (double)V);
    for (uint32_t i = 0; i < m.net.n_layer; i++) {
        guarded_make(&g);
        make_all(&bb_backend_cpu, &m, &ref, &m.net.blocks[i], h, c, tokens, (int)i % 3, &a);
        make_all(&g.backend, &m, &ref, &m.net.blocks[i], h, c, tokens, (int)i % 3, &b);
        guarded_done(&g);
        ck_assert_msg(memcmp(a.dh, b.dh, n * sizeof *h) == 0 && memcmp(a.head_dh, b.head_dh, rows * sizeof *h) == 0, "%s: states", ref_specs[_i].name);
        ck_assert_msg(memcmp(a.weights, b.weights, a.n_weights * sizeof *h) == 0, "%s: weights", ref_specs[_i].name);
        ck_assert(memcmp(a.small, b.small, a.n_small * sizeof *h) == 0 && memcmp(a.loss, b.loss, FAR_ROWS * sizeof *a.loss) == 0);
        ck_assert(memcmp(a.head, b.head, V * C * sizeof *h) == 0 && memcmp(a.embd, b.embd, V * C * sizeof *h) == 0);
        ck_assert(memcmp(&a.heard, &b.heard, sizeof a.heard) == 0 && largest_of(a.head, V * C) > 0 && largest_of(a.embd, V * C) > 0);
        made *both[2] = { &a, &b };
        for (int k = 0; k < 2; k++) {
            float *all[] = { both[k]->dh, both[k]->head_dh, both[k]->weights, both[k]->head, both[k]->embd, both[k]->small };
            for (size_t j = 0; j < sizeof all / sizeof *all; j++) bb_free(all[j]);
            bb_free(both[k]->loss);
        }
    }
    ref_model_free(&m);
    ref_model_free(&ref);
}
END_TEST

/* Gradient descent on all weights of a two-block network, one window, next-token cross-entropy: the loss must fall far below ln V. */
START_TEST(training_descends)
{
    enum { LENGTH = 24, STEPS = 60 };
    ref_model    m;
    uint64_t     seed = 3;
    bb_forward  *f;
    bb_backward *b;
    ref_model_make(&ref_specs[3], 4, &m);
    size_t  C = m.net.n_embd, V = m.net.n_vocab, n = LENGTH * C;
    float  *h = ref_random(&m, 3 * n, 0, 0, &seed), *dh = ref_random(&m, n, 0, 0, &seed), *g_embd = ref_random(&m, V * C, 0, 0, &seed), weight[LENGTH];
    int32_t tokens[LENGTH + 1];
    double  loss[LENGTH], first = 0, last = 0;
    for (int i = 0; i <= LENGTH; i++) tokens[i] = (int32_t)((ref_noise(&seed) + 1) / 2 * (double)V);
    for (int i = 0; i < LENGTH; i++) weight[i] = 1.0f / LENGTH;
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 1, LENGTH, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_backward_create(&bb_backend_cpu, &m.net, 1, LENGTH, &b, NULL), BB_OK);
    for (int step = 0; step <= STEPS; step++) {
        bb_head_loss of = { .targets = tokens + 1, .weight = weight };
        bb_head_grad head = { .head = g_embd };
        memset(g_embd, 0, V * C * sizeof *g_embd);
        ck_assert_int_eq(bb_forward_embed(f, &m.net, tokens, 1, LENGTH, bb_on_cpu(h), NULL), BB_OK);
        for (uint32_t i = 0; i < 2; i++) {
            memcpy(h + (i + 1) * n, h + i * n, n * sizeof *h);
            ck_assert_int_eq(bb_forward_block(f, &m.net, &m.net.blocks[i], 1, LENGTH, bb_on_cpu(h + (i + 1) * n), NULL, NULL, NULL), BB_OK);
        }
        ck_assert_int_eq(bb_backward_head(b, &m.net, bb_on_cpu(h + 2 * n), LENGTH, &of, loss, bb_on_cpu(dh), &head, NULL), BB_OK);
        last = 0;
        for (int i = 0; i < LENGTH; i++) last += loss[i] / LENGTH;
        if (step == 0) first = last;
        for (uint32_t i = 2; i-- > 0;) {
            bb_block_grad grad = { 0 };
            for (int p = 0; p < BB_N_PARTS; p++) grad.w[p] = BB_NEW0((size_t)m.net.blocks[i].w[p].rows * m.net.blocks[i].w[p].cols, float, NULL);
            ck_assert_int_eq(bb_backward_block(b, &m.net, &m.net.blocks[i], 1, LENGTH, bb_on_cpu(h + i * n), bb_on_cpu(dh), &grad, NULL), BB_OK);
            for (int p = 0; p < BB_N_PARTS; p++) {
                float *w = (float *)(uintptr_t)m.net.blocks[i].w[p].data;
                for (size_t j = 0; j < (size_t)m.net.blocks[i].w[p].rows * m.net.blocks[i].w[p].cols; j++) w[j] -= 0.2f * grad.w[p][j];
                bb_free(grad.w[p]);
            }
        }
        ck_assert_int_eq(bb_backward_embed(&bb_backend_cpu, &m.net, tokens, LENGTH, bb_on_cpu(dh), g_embd, NULL), BB_OK);
        for (size_t j = 0; j < V * C; j++) ((float *)(uintptr_t)m.net.embd.data)[j] -= 0.2f * g_embd[j];
    }
    ck_assert_msg(first > 3 && last < 0.3, "loss %g at the start, %g after %d steps", first, last, STEPS);
    bb_forward_destroy(f);
    bb_backward_destroy(b);
    ref_model_free(&m);
}
END_TEST

static bb_status sum_hook(void *self, bb_part part, const float *x, const float *dy, size_t n, bb_err *err)
{
    scene *s = self;
    (void)err;
    const bb_matrix *w = &s->block->w[part];
    double           sum = 0, largest = largest_of(s->grad.w[part], (size_t)w->rows * w->cols);
    for (size_t t = 0; t < n; t++) sum += (double)dy[t * w->rows] * (double)x[t * w->cols + 1]; /* entry (0, 1) of dy' x */
    ck_assert(fabs(sum - (double)s->grad.w[part][1]) <= ALLOWED * largest);
    s->c[0] += 1;
    return part == BB_PART_Q ? BB_INTERRUPTED : BB_OK;
}

START_TEST(hook_sees_inputs_and_gradients)
{
    scene s;
    set_scene(&s, 0, 0);
    bb_block_grad grad = { .hook = sum_hook, .hook_self = &s };
    memcpy(s.dh, s.c, (size_t)S * T * s.m.net.n_embd * sizeof *s.dh);
    s.c[0] = 0;
    ck_assert_int_eq(bb_backward_block(s.b, &s.m.net, s.block, S, T, bb_on_cpu(s.h), bb_on_cpu(s.dh), &grad, NULL), BB_INTERRUPTED);
    ck_assert(s.c[0] == 7.0f);
    end_scene(&s);
}
END_TEST

START_TEST(wider_blocks_are_refused)
{
    ref_model    m;
    bb_backward *b;
    float        h[2 * 24] = { 0 }, dh[2 * 24] = { 0 };
    ref_model_make(&ref_specs[1], 5, &m);
    ck_assert_int_eq(bb_backward_create(&bb_backend_cpu, &m.net, 1, 2, &b, NULL), BB_OK);
    for (int what = 0; what < REF_N_WIDER; what++) {
        const bb_block k = ref_wider(&m.net.blocks[0], what);
        ck_assert_int_eq(bb_backward_block(b, &m.net, &k, 1, 2, bb_on_cpu(h), bb_on_cpu(dh), NULL, NULL), BB_FAILED);
    }
    bb_backward_destroy(b);
    ref_model_free(&m);
}
END_TEST

START_TEST(running_out_of_memory_is_survived)
{
    ref_model m;
    uint64_t  seed = 1;
    bool      done = false;
    ref_model_make(&ref_specs[8], 5, &m);
    float        *h = ref_random(&m, 2 * 64, 0, 1, &seed), *dh = ref_random(&m, 2 * 64, 0, 1, &seed), *dw = ref_random(&m, 96 * 64, 0, 0, &seed);
    double        loss[2];
    size_t        before = bb_mem_live_bytes();
    bb_block_grad grad = { .w = { [BB_PART_GATE] = dw } };
    bb_head_loss  of = { .ref_net = &m.net, .h_ref = bb_on_cpu(h) };
    for (long n = 0; !done && n < 200; n++) {
        bb_backward *b = NULL;
        bb_mem_fail_after(n);
        bb_status status = bb_backward_create(&bb_backend_cpu, &m.net, 1, 2, &b, NULL);
        if (status == BB_OK) status = bb_backward_block(b, &m.net, &m.net.blocks[0], 1, 2, bb_on_cpu(h), bb_on_cpu(dh), &grad, NULL);
        if (status == BB_OK) status = bb_backward_head(b, &m.net, bb_on_cpu(h), 2, &of, loss, bb_on_cpu(dh), NULL, NULL);
        bb_mem_fail_after(-1);
        bb_backward_destroy(b);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
        done = status == BB_OK;
    }
    ck_assert(done);
    ref_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("backward");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, block_gradients_agree_with_differences, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, fast_gradients_are_close_to_exact, 0, 2 * (int)ref_n_specs);
    tcase_add_loop_test(t, gradients_are_to_decoded_weights, 0, 2);
    tcase_add_loop_test(t, head_gradients_agree_with_differences, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, large_vocabulary_comes_in_pieces, 0, 3);
    tcase_add_test(t, large_matrix_comes_in_pieces);
    tcase_add_test(t, wider_blocks_are_refused);
    tcase_add_test(t, packed_inputs_are_not_stale);
    tcase_add_test(t, embedding_gradient_adds_rows);
    tcase_add_test(t, keys_outside_a_window_are_left_out);
    tcase_add_loop_test(t, threads_and_calls_change_nothing, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, another_backend_has_the_same_bits, 0, (int)ref_n_specs);
    tcase_add_test(t, training_descends);
    tcase_add_test(t, hook_sees_inputs_and_gradients);
    tcase_add_test(t, running_out_of_memory_is_survived);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
