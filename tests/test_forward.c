/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_forward.c: the float32 forward pass against the float64 oracle of support/ref_net.h on random tiny networks of all
 * architectures; and its properties: batch and thread count change no bit, uniform logits give perplexity V, KL(p||p) = 0.
 */
#include <check.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/net/forward.h"
#include "model/net/host.h"
#include "model/net/shared.h"
#include "tests/support/guarded.h"
#include "tests/support/ref_net.h"

enum { S = 3, T = 70 /* more than one attention tile */ };

/* Float32 sums of K terms err by about u sqrt(K) of their size; a block chains about six of them and a softmax. Errors are
 * measured against the largest entry of the window. Measured on these networks: at most 0.3 u sqrt(K) a block; allowed: 2. */
static double tolerance(const bb_net *net, double largest) { return (double)FLT_EPSILON * sqrt(96) * (net->n_layer + 1) * largest; }

static void random_tokens(int32_t *tokens, size_t n, uint32_t n_vocab, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++) tokens[i] = (int32_t)((ref_noise(seed) + 1) / 2 * n_vocab);
}

static double largest_of(const double *x, size_t n)
{
    double m = 0;
    for (size_t i = 0; i < n; i++) m = fmax(m, fabs(x[i]));
    return m;
}

static void run_blocks(bb_forward *f, const bb_net *net, uint32_t n_windows, uint32_t n_tokens, float *h)
{
    bb_err err = BB_ERR_INIT;
    for (uint32_t b = 0; b < net->n_layer; b++)
        ck_assert_msg(bb_forward_block(f, net, &net->blocks[b], n_windows, n_tokens, bb_on_cpu(h), NULL, NULL, &err) == BB_OK, "%s", err.msg);
}

/* Loops over the specs at both precisions: the second half is fast (where this CPU is: else exact once more). */
static const ref_spec *spec_at_precision(int i)
{
    bb_kernels_set_precision((size_t)i < ref_n_specs ? BB_EXACT : BB_FAST);
    return &ref_specs[(size_t)i % ref_n_specs];
}
static void exact_again(void) { bb_kernels_set_precision(BB_EXACT); }

START_TEST(agrees_with_the_oracle)
{
    const ref_spec *spec = &ref_specs[_i];
    ref_model       m;
    uint64_t        seed = 7;
    bb_forward     *f;
    bb_err          err = BB_ERR_INIT;
    ref_model_make(spec, 1, &m);
    size_t  W = bb_row_width(&m.net), V = m.net.n_vocab;
    int32_t tokens[S * T], targets[S * T];
    float  *h = BB_NEW(S * T * W, float, NULL), *z = BB_NEW(T * V, float, NULL);
    double *h_ref = BB_NEW(T * W, double, NULL), *z_ref = BB_NEW(V, double, NULL), nll[S * T], largest_z = 0, worst_h = 0, worst_z = 0, worst_nll = 0;
    random_tokens(tokens, S * T, m.net.n_vocab, &seed);
    random_tokens(targets, S * T, m.net.n_vocab, &seed);
    ck_assert_msg(bb_forward_create(&bb_backend_cpu, &m.net, S, T, &f, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_forward_embed(f, &m.net, tokens, S, T, bb_on_cpu(h), &err), BB_OK);
    run_blocks(f, &m.net, S, T, h);
    ck_assert_int_eq(bb_forward_nll(f, &m.net, bb_on_cpu(ref_streams(&m, h, S * T)), targets, S * T, nll, &err), BB_OK);
    for (size_t s = 0; s < S; s++) {
        ref_embed(&m.net, tokens + s * T, T, h_ref);
        for (uint32_t b = 0; b < m.net.n_layer; b++) ref_block(&m.net, &m.net.blocks[b], T, h_ref);
        for (size_t i = 0; i < T * W; i++) worst_h = fmax(worst_h, fabs((double)h[s * T * W + i] - h_ref[i]));
        ck_assert_msg(worst_h <= tolerance(&m.net, largest_of(h_ref, T * W)), "%s: hidden state off by %g of %g", spec->name, worst_h,
                      largest_of(h_ref, T * W));
        ck_assert_int_eq(bb_forward_logits(f, &m.net, bb_on_cpu(ref_streams(&m, h + s * T * W, T)), T, z, &err), BB_OK);
        for (size_t t = 0; t < T; t++) {
            ref_logits(&m.net, h_ref + t * W, z_ref);
            largest_z = fmax(largest_z, largest_of(z_ref, V));
            for (size_t v = 0; v < V; v++) worst_z = fmax(worst_z, fabs((double)z[t * V + v] - z_ref[v]));
            worst_nll = fmax(worst_nll, fabs(nll[s * T + t] - (ref_log_sum_exp(z_ref, V) - z_ref[targets[s * T + t]])));
        }
    }
    ck_assert_msg(worst_z <= tolerance(&m.net, largest_z) && worst_nll <= 2 * tolerance(&m.net, largest_z), "%s: logits off by %g, nll by %g of %g", spec->name,
                  worst_z, worst_nll, largest_z);
    if (getenv("BB_TEST_VERBOSE")) printf("%s: h %g z %g nll %g, allowed %g\n", spec->name, worst_h, worst_z, worst_nll, tolerance(&m.net, largest_z));
    bb_forward_destroy(f);
    ref_model_free(&m);
    bb_free(h);
    bb_free(z);
    bb_free(h_ref);
    bb_free(z_ref);
}
END_TEST

/* Two networks: KL, nll and arg max of each row against the oracle, from the same float32 hidden states. */
START_TEST(kl_agrees_with_the_oracle)
{
    const ref_spec *spec = &ref_specs[_i];
    ref_model       a, b;
    uint64_t        seed = 8;
    bb_forward     *f;
    enum { N = 100 };
    ref_model_make(spec, 1, &a);
    ref_model_make(spec, 2, &b);
    size_t        C = a.net.n_embd, V = a.net.n_vocab;
    float        *h = ref_random(&a, 2 * N * C, 0, 1, &seed);
    int32_t       targets[N];
    double        kl[N], nll[N], *z = BB_NEW(2 * V, double, NULL), *row = BB_NEW(C, double, NULL);
    unsigned char same[N];
    random_tokens(targets, N, a.net.n_vocab, &seed);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &a.net, 1, 64, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_kl(f, &a.net, bb_on_cpu(h), &b.net, bb_on_cpu(h + N * C), targets, N, kl, nll, same, NULL), BB_OK);
    for (size_t i = 0; i < N; i++) {
        size_t best[2] = { 0, 0 };
        for (size_t which = 0; which < 2; which++) {
            for (size_t c = 0; c < C; c++) row[c] = (double)h[(which * N + i) * C + c];
            ref_logits(which ? &b.net : &a.net, row, z + which * V);
            for (size_t v = 1; v < V; v++)
                if (z[which * V + v] > z[which * V + best[which]]) best[which] = v;
        }
        double allowed = 2 * tolerance(&a.net, largest_of(z, 2 * V)) + (double)FLT_EPSILON;
        ck_assert(fabs(kl[i] - ref_kl(z, z + V, V)) <= allowed);
        ck_assert(fabs(nll[i] - (ref_log_sum_exp(z + V, V) - z[V + (size_t)targets[i]])) <= allowed);
        ck_assert_int_eq(same[i], best[0] == best[1]);
    }
    ck_assert_int_eq(bb_forward_kl(f, &a.net, bb_on_cpu(h), &a.net, bb_on_cpu(h), NULL, N, kl, NULL, same, NULL), BB_OK);
    for (size_t i = 0; i < N; i++) ck_assert(kl[i] == 0.0 && same[i] == 1);
    bb_forward_destroy(f);
    ref_model_free(&a);
    ref_model_free(&b);
    bb_free(z);
    bb_free(row);
}
END_TEST

static bb_status no_look(void *self, bb_feed feed, const float *x, size_t n, uint32_t cols, bb_err *err)
{
    (void)self;
    (void)feed;
    (void)x;
    (void)n;
    (void)cols;
    (void)err;
    return BB_OK;
}

/* With a hook the block runs operation by operation, without it fused: the same bits. T is more than one chunk of rows. */
START_TEST(fused_and_single_operations_agree)
{
    enum { LONG = 300 };
    ref_model   m;
    uint64_t    seed = 9;
    bb_forward *f;

    const ref_spec *spec = spec_at_precision(_i);
    ref_model_make(spec, 3, &m);
    size_t n = 2 * LONG * bb_row_width(&m.net);
    float *a = ref_states(&m, 2 * LONG, &seed), *b = BB_NEW(n, float, NULL);
    memcpy(b, a, n * sizeof *a);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 2, LONG, &f, NULL), BB_OK);
    for (uint32_t i = 0; i < m.net.n_layer; i++) {
        ck_assert_int_eq(bb_forward_block(f, &m.net, &m.net.blocks[i], 2, LONG, bb_on_cpu(a), NULL, NULL, NULL), BB_OK);
        ck_assert_int_eq(bb_forward_block(f, &m.net, &m.net.blocks[i], 2, LONG, bb_on_cpu(b), no_look, NULL, NULL), BB_OK);
        ck_assert_msg(memcmp(a, b, n * sizeof *a) == 0, "%s: block %u", spec->name, i);
    }
    bb_forward_destroy(f);
    ref_model_free(&m);
    bb_free(b);
}
END_TEST

/* Window s of a batch of S equals the same window alone, bit by bit, with 1 and with 3 threads; also nll and kl of any range of rows. */
START_TEST(batch_and_threads_change_nothing)
{
    ref_model   m;
    uint64_t    seed = 9;
    bb_forward *f;
    int         threads = omp_get_max_threads();
    enum { MANY = 40 }; /* more tokens than one slab */

    const ref_spec *spec = spec_at_precision(_i);
    ref_model_make(spec, 3, &m);
    size_t   C = m.net.n_embd, W = bb_row_width(&m.net), all = (size_t)MANY * T;
    int32_t *tokens = BB_NEW(all, int32_t, NULL);
    float   *h = BB_NEW(all * W, float, NULL), *one = BB_NEW(T * W, float, NULL);
    double  *nll = BB_NEW(all, double, NULL), *kl = BB_NEW(all, double, NULL), nll1[T], kl1[T];
    random_tokens(tokens, all, m.net.n_vocab, &seed);
    omp_set_num_threads(3);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, MANY, T, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_embed(f, &m.net, tokens, MANY, T, bb_on_cpu(h), NULL), BB_OK);
    run_blocks(f, &m.net, MANY, T, h);
    const bb_buffer rows = bb_on_cpu(ref_streams(&m, h, all));
    ck_assert_int_eq(bb_forward_nll(f, &m.net, rows, tokens, all, nll, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_kl(f, &m.net, rows, &m.net, rows, NULL, all, kl, NULL, NULL, NULL), BB_OK);
    omp_set_num_threads(1);
    for (size_t s = 0; s < MANY; s += s < 35 ? 7 : 1) {
        ck_assert_int_eq(bb_forward_embed(f, &m.net, tokens + s * T, 1, T, bb_on_cpu(one), NULL), BB_OK);
        run_blocks(f, &m.net, 1, T, one);
        ck_assert_msg(memcmp(one, h + s * T * W, T * W * sizeof *h) == 0, "%s: window %zu depends on its batch", spec->name, s);
        const float *own = ref_streams(&m, one, T);
        size_t       first = s % 5, n = T - first - s % 3;
        ck_assert_int_eq(bb_forward_nll(f, &m.net, bb_on_cpu(own + first * C), tokens + s * T + first, n, nll1, NULL), BB_OK);
        ck_assert_int_eq(bb_forward_kl(f, &m.net, bb_on_cpu(own + first * C), &m.net, bb_on_cpu(own + first * C), NULL, n, kl1, NULL, NULL, NULL), BB_OK);
        ck_assert_msg(memcmp(nll1, nll + s * T + first, n * sizeof *nll) == 0, "%s: nll depends on the rows beside it", spec->name);
        ck_assert(memcmp(kl1, kl + s * T + first, n * sizeof *kl) == 0);
    }
    omp_set_num_threads(threads);
    bb_forward_destroy(f);
    ref_model_free(&m);
    bb_free(tokens);
    bb_free(h);
    bb_free(one);
    bb_free(nll);
    bb_free(kl);
}
END_TEST

/* The states of rough products, with this many threads; bb_free. */
static float *rough_states(bb_forward *f, const bb_net *net, uint32_t windows, const int32_t *tokens, int threads)
{
    const int before = omp_get_max_threads();
    float    *h = BB_NEW((size_t)windows * T * bb_row_width(net), float, NULL);
    omp_set_num_threads(threads);
    bb_forward_rough(f, true);
    ck_assert_int_eq(bb_forward_embed(f, net, tokens, windows, T, bb_on_cpu(h), NULL), BB_OK);
    run_blocks(f, net, windows, T, h);
    bb_forward_rough(f, false);
    omp_set_num_threads(before);
    return h;
}

/* Rough products are coarser than fast ones, where there are such things; they are those of a workspace until it is told otherwise. */
static void rough_is_between(bb_forward *f, const bb_net *net, uint32_t windows, const int32_t *tokens, const float *fast)
{
    const size_t n = (size_t)windows * T * bb_row_width(net);
    float       *h[2] = { rough_states(f, net, windows, tokens, 1), rough_states(f, net, windows, tokens, 3) }, *again = BB_NEW(n, float, NULL);
    double       largest = 0;
    ck_assert_int_eq(memcmp(h[0], h[1], n * sizeof *again), 0);
    ck_assert_int_eq(memcmp(h[0], fast, n * sizeof *again) != 0, bb_kernels_fast_rough());
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)fast[i]));
    for (size_t i = 0; i < n; i++) ck_assert(fabs((double)h[0][i] - (double)fast[i]) <= 0x1p-5 * largest);
    ck_assert_int_eq(bb_forward_embed(f, net, tokens, windows, T, bb_on_cpu(again), NULL), BB_OK);
    run_blocks(f, net, windows, T, again);
    ck_assert_int_eq(memcmp(again, fast, n * sizeof *again), 0);
    bb_free(h[0]);
    bb_free(h[1]);
    bb_free(again);
}

/* Fast is another rounding of the same numbers: states, inputs of a hook, scores; and it is not exact, where there is such a thing. */
START_TEST(fast_is_close_to_exact)
{
    enum { WINDOWS = 2, N = WINDOWS * T };
    ref_model m;
    uint64_t  seed = 11;
    int32_t   tokens[N];
    float    *h[2];
    double    nll[2][N], kl[N], largest = 0;
    bool      differs = false;
    ref_model_make(&ref_specs[_i], 3, &m);
    const size_t n = N * bb_row_width(&m.net);
    random_tokens(tokens, N, m.net.n_vocab, &seed);
    for (int p = 0; p < 2; p++) {
        bb_forward *f;
        bb_kernels_set_precision(p ? BB_FAST : BB_EXACT);
        ck_assert_int_eq(bb_kernels_fast(), p && bb_kernels_can_be_fast());
        ck_assert_int_eq(bb_kernels_fast_rough(), p && bb_kernels_can_be_fast_rough());
        ck_assert_int_eq(strstr(bb_kernels_bits(), "split") != NULL, bb_kernels_fast());
        ck_assert_int_eq(strstr(bb_kernels_bits(), "split") || strstr(bb_kernels_bits(), "rough"), bb_kernels_fast_rough());
        h[p] = BB_NEW(n, float, NULL);
        ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, WINDOWS, T, &f, NULL), BB_OK);
        ck_assert_int_eq(bb_forward_embed(f, &m.net, tokens, WINDOWS, T, bb_on_cpu(h[p]), NULL), BB_OK);
        run_blocks(f, &m.net, WINDOWS, T, h[p]);
        ck_assert_int_eq(bb_forward_nll(f, &m.net, bb_on_cpu(ref_streams(&m, h[p], N)), tokens, N, nll[p], NULL), BB_OK);
        if (p)
            ck_assert_int_eq(
                bb_forward_kl(f, &m.net, bb_on_cpu(ref_streams(&m, h[0], N)), &m.net, bb_on_cpu(ref_streams(&m, h[1], N)), NULL, N, kl, NULL, NULL, NULL),
                BB_OK);
        rough_is_between(f, &m.net, WINDOWS, tokens, h[p]);
        bb_forward_destroy(f);
    }
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)h[0][i]));
    for (size_t i = 0; i < n; i++) {
        ck_assert(fabs((double)h[0][i] - (double)h[1][i]) <= 0x1p-13 * largest);
        differs |= h[0][i] != h[1][i];
    }
    for (size_t i = 0; i < N; i++) ck_assert(fabs(nll[0][i] - nll[1][i]) < 1e-3 && kl[i] < 1e-6);
    ck_assert_int_eq(differs, bb_kernels_can_be_fast());
    ref_model_free(&m);
    bb_free(h[0]);
    bb_free(h[1]);
}
END_TEST

/* The inputs that a hook sees, when the block stops at one of them; several slabs. */
typedef struct gathered {
    float *x[BB_N_FEEDS];
    size_t n[BB_N_FEEDS];
} gathered;

static bb_status gather_inputs(void *self, bb_feed feed, const float *x, size_t n, uint32_t cols, bb_err *err)
{
    gathered *g = self;
    (void)err;
    memcpy(g->x[feed] + g->n[feed], x, n * cols * sizeof *x);
    g->n[feed] += n * cols;
    return BB_OK;
}

START_TEST(block_stops_at_an_input)
{
    enum { WINDOWS = 32, LENGTH = T, MOST = 128 /* numbers of an input */ };
    ref_model   m;
    uint64_t    seed = 10;
    bb_forward *f;
    gathered    g = { 0 };
    ref_model_make(&ref_specs[_i], 3, &m);
    const size_t n = (size_t)WINDOWS * LENGTH * bb_row_width(&m.net), most = (size_t)WINDOWS * LENGTH * MOST;
    float       *start = ref_states(&m, (size_t)WINDOWS * LENGTH, &seed), *h = BB_NEW(n, float, NULL), *x = BB_NEW(most, float, NULL);
    for (int k = 0; k < BB_N_FEEDS; k++) g.x[k] = BB_NEW(most, float, NULL);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, WINDOWS, LENGTH, &f, NULL), BB_OK);
    for (uint32_t i = 0; i < m.net.n_layer; i++) {
        const bb_block *b = &m.net.blocks[i];
        for (int k = 0; k < BB_N_FEEDS; k++) ck_assert_uint_le(bb_dim_of(&m.net, b, bb_feeds[k].width), MOST);
        memset(g.n, 0, sizeof g.n);
        memcpy(h, start, n * sizeof *h);
        ck_assert_int_eq(bb_forward_block(f, &m.net, b, WINDOWS, LENGTH, bb_on_cpu(h), gather_inputs, &g, NULL), BB_OK);
        for (int k = 0; k < BB_N_FEEDS; k++) {
            const size_t width = bb_dim_of(&m.net, b, bb_feeds[k].width);
            memcpy(h, start, n * sizeof *h);
            const bb_status status = bb_forward_input(f, &m.net, b, WINDOWS, LENGTH, bb_on_cpu(h), (bb_feed)k, bb_on_cpu(x), NULL);
            ck_assert_int_eq(status, bb_block_has(b, bb_feeds[k].sublayer) ? BB_OK : BB_FAILED);
            if (status != BB_OK) continue;
            ck_assert_uint_eq(g.n[k], (size_t)WINDOWS * LENGTH * width);
            ck_assert_msg(memcmp(x, g.x[k], g.n[k] * sizeof *x) == 0, "%s: block %u, input %d", ref_specs[_i].name, i, k);
            if (k == BB_FEED_ATTENTION) ck_assert_msg(memcmp(h, start, n * sizeof *h) == 0, "it went on");
        }
    }
    bb_forward_destroy(f);
    for (int k = 0; k < BB_N_FEEDS; k++) bb_free(g.x[k]);
    ref_model_free(&m);
    bb_free(h);
    bb_free(x);
}
END_TEST

/* Windows that begin alike, at several depths, and one that ends early, computed once where they are alike: the bits of the windows one by one, on both
 * backends. */
START_TEST(shared_rows_have_the_same_bits)
{
    enum { WINDOWS = 5, LENGTH = 40, ALL = WINDOWS * LENGTH };
    static const uint32_t alike[WINDOWS] = { 0, 33, 1, 40, 17 }; /* tokens in common with the window before; the fourth is the third */
    const ref_spec       *spec = spec_at_precision(_i);
    ref_model             m;
    uint64_t              seed = 21;
    guarded               g;
    int32_t               tokens[ALL], ids[ALL];
    uint32_t              of[ALL], place[ALL], n = 0;
    ref_model_make(spec, 3, &m);
    guarded_make(&g);
    const size_t C = bb_row_width(&m.net);
    float       *h = BB_NEW(ALL * C, float, NULL), *alone = BB_NEW(ALL * C, float, NULL);
    random_tokens(tokens, ALL, m.net.n_vocab, &seed);
    for (uint32_t i = 0; i < ALL; i++) {
        const bool again = i % LENGTH < alike[i / LENGTH];
        if (again) tokens[i] = tokens[i - LENGTH];
        of[i] = again ? of[i - LENGTH] : n;
        if (!again) ids[n] = tokens[i], place[n++] = i;
    }
    for (uint32_t i = ALL - 9; i < ALL; i++) of[i] = 0; /* read no further */
    const bb_shared_rows rows = { n, of, place };
    for (int k = 0; k < 2; k++) {
        const bb_backend *backend = k ? &g.backend : &bb_backend_cpu;
        bb_forward       *f;
        bb_buffer         states;
        ck_assert_int_eq(bb_forward_create(backend, &m.net, WINDOWS, LENGTH, &f, NULL), BB_OK);
        for (uint32_t s = 0; s < WINDOWS && k == 0; s++) {
            ck_assert_int_eq(bb_forward_embed(f, &m.net, tokens + s * LENGTH, 1, LENGTH, bb_on_cpu(alone + s * LENGTH * C), NULL), BB_OK);
            run_blocks(f, &m.net, 1, LENGTH, alone + s * LENGTH * C);
        }
        ck_assert_int_eq(backend->ops->alloc(backend->context, n * C, &states, NULL), BB_OK);
        ck_assert_int_eq(bb_forward_embed(f, &m.net, ids, n, 1, states, NULL), BB_OK);
        for (uint32_t b = 0; b < m.net.n_layer; b++)
            ck_assert_int_eq(bb_forward_shared(f, &m.net, &m.net.blocks[b], WINDOWS, LENGTH, &rows, states, NULL), BB_OK);
        ck_assert_int_eq(backend->ops->read(backend->context, states, h, n * C, NULL), BB_OK);
        for (uint32_t i = 0; i < ALL - 9; i++)
            ck_assert_msg(memcmp(h + of[i] * C, alone + i * C, C * sizeof *h) == 0, "%s: window %u, token %u", spec->name, i / LENGTH, i % LENGTH);
        backend->ops->release(backend->context, states);
        bb_forward_destroy(f);
    }
    guarded_done(&g);
    bb_free(h);
    bb_free(alone);
    ref_model_free(&m);
}
END_TEST

/* One token in `windows` windows of `length`, all of them one row. */
static bb_status share_one_row(bb_forward *f, const bb_net *net, uint32_t windows, uint32_t length, float *h)
{
    static const uint32_t of[64] = { 0 }, place[1] = { 0 };
    const bb_shared_rows  rows = { 1, of, place };
    const int32_t         id = 3;
    bb_status             status = bb_forward_embed(f, net, &id, 1, 1, bb_on_cpu(h), NULL);
    ck_assert_uint_le(windows * length, sizeof of / sizeof *of);
    for (uint32_t b = 0; b < net->n_layer && status == BB_OK; b++)
        status = bb_forward_shared(f, net, &net->blocks[b], windows, length, &rows, bb_on_cpu(h), NULL);
    return status;
}

/* More rows than before need more room; where memory is short for it, fewer still have theirs. */
START_TEST(room_for_shared_rows_grows_or_is_made_again)
{
    ref_model   m;
    float       few[32], h[32];
    bool        done = false;
    bb_forward *f;
    ref_model_make(&ref_specs[0], 5, &m);
    ck_assert_uint_le(bb_row_width(&m.net), 32);
    const size_t before = bb_mem_live_bytes(), bytes = bb_row_width(&m.net) * sizeof *h;
    for (long n = 0; !done && n < 100; n++) {
        ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 8, 8, &f, NULL), BB_OK);
        ck_assert_int_eq(share_one_row(f, &m.net, 2, 4, few), BB_OK);
        bb_mem_fail_after(n);
        const bb_status status = share_one_row(f, &m.net, 8, 8, h);
        bb_mem_fail_after(-1);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        ck_assert_int_eq(share_one_row(f, &m.net, 2, 4, h), BB_OK);
        ck_assert_mem_eq(h, few, bytes);
        ck_assert_int_eq(share_one_row(f, &m.net, 8, 8, h), BB_OK);
        bb_forward_destroy(f);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
        done = status == BB_OK;
        ck_assert(!done || n > 0); /* it did need room */
    }
    ck_assert(done);
    ref_model_free(&m);
}
END_TEST

/* The same on a backend whose memory the host cannot reach, bit by bit: states, inputs, logits, scores. */
START_TEST(another_backend_has_the_same_bits)
{
    enum { WINDOWS = 32 /* more tokens than one slab */, ALL = WINDOWS * T, SOME = 7 };
    ref_model m, other;
    uint64_t  seed = 12;
    guarded   g;
    gathered  seen[2] = { { { NULL }, { 0 } }, { { NULL }, { 0 } } };
    ref_model_make(&ref_specs[_i], 3, &m);
    ref_model_make(&ref_specs[_i], 4, &other);
    guarded_make(&g);
    const bb_backend *const backends[2] = { &bb_backend_cpu, &g.backend };
    const size_t            C = m.net.n_embd, W = bb_row_width(&m.net), V = m.net.n_vocab, most = (size_t)ALL * 128;
    int32_t                *tokens = BB_NEW(ALL, int32_t, NULL);
    float                  *h[2], *x[2], *z[2];
    double                 *kl[2], *nll[2], *alone[2];
    unsigned char          *same[2];
    random_tokens(tokens, ALL, m.net.n_vocab, &seed);
    for (int k = 0; k < 2; k++) {
        const bb_operations *o = backends[k]->ops;
        void                *context = backends[k]->context;
        bb_forward          *f;
        bb_buffer            states, input, before, rows;
        h[k] = BB_NEW0(ALL * W, float, NULL), x[k] = BB_NEW0(most, float, NULL), z[k] = BB_NEW(SOME * V, float, NULL);
        kl[k] = BB_NEW(ALL, double, NULL), nll[k] = BB_NEW(ALL, double, NULL), alone[k] = BB_NEW(ALL, double, NULL);
        same[k] = BB_NEW(ALL, unsigned char, NULL);
        for (int i = 0; i < BB_N_FEEDS; i++) seen[k].x[i] = BB_NEW0(most, float, NULL);
        ck_assert_int_eq(bb_forward_create(backends[k], &m.net, WINDOWS, T, &f, NULL), BB_OK);
        ck_assert_ptr_eq(bb_forward_backend(f), backends[k]);
        ck_assert_int_eq(o->alloc(context, ALL * W, &states, NULL) | o->alloc(context, ALL * W, &before, NULL) | o->alloc(context, ALL * C, &rows, NULL) |
                             o->alloc(context, most, &input, NULL),
                         BB_OK);
        ck_assert_int_eq(o->write(context, input, x[k], most, NULL), BB_OK);
        ck_assert_int_eq(bb_forward_embed(f, &m.net, tokens, WINDOWS, T, states, NULL), BB_OK);
        for (uint32_t b = 0; b < m.net.n_layer; b++) {
            const bool hook = b == 0;
            ck_assert_int_eq(o->copy(context, states, before, ALL * W, NULL), BB_OK);
            if (b == m.net.n_layer - 1 && bb_block_has(&m.net.blocks[b], BB_FFN))
                ck_assert_int_eq(bb_forward_input(f, &m.net, &m.net.blocks[b], WINDOWS, T, before, BB_FEED_FFN, input, NULL), BB_OK);
            ck_assert_int_eq(bb_forward_block(f, &m.net, &m.net.blocks[b], WINDOWS, T, states, hook ? gather_inputs : NULL, &seen[k], NULL), BB_OK);
        }
        ck_assert_int_eq(bb_forward_streams(backends[k], &m.net, states, ALL, rows, NULL), BB_OK);
        ck_assert_int_eq(bb_forward_logits(f, &m.net, bb_buffer_at(rows, 2 * C), SOME, z[k], NULL), BB_OK);
        ck_assert_int_eq(bb_forward_nll(f, &m.net, rows, tokens, ALL, alone[k], NULL), BB_OK);
        ck_assert_int_eq(bb_forward_kl(f, &other.net, rows, &m.net, rows, tokens, ALL, kl[k], nll[k], same[k], NULL), BB_OK);
        ck_assert_int_eq(o->read(context, states, h[k], ALL * W, NULL) | o->read(context, input, x[k], most, NULL), BB_OK);
        o->release(context, states), o->release(context, before), o->release(context, rows), o->release(context, input);
        bb_forward_destroy(f);
    }
    ck_assert_msg(memcmp(h[0], h[1], ALL * W * sizeof *h[0]) == 0, "%s: states", ref_specs[_i].name);
    ck_assert_msg(memcmp(x[0], x[1], most * sizeof *x[0]) == 0, "%s: inputs", ref_specs[_i].name);
    ck_assert(memcmp(z[0], z[1], SOME * V * sizeof *z[0]) == 0);
    ck_assert(memcmp(kl[0], kl[1], ALL * sizeof *kl[0]) == 0 && memcmp(nll[0], nll[1], ALL * sizeof *nll[0]) == 0);
    ck_assert(memcmp(alone[0], alone[1], ALL * sizeof *alone[0]) == 0 && memcmp(same[0], same[1], ALL) == 0);
    for (int i = 0; i < BB_N_FEEDS; i++) ck_assert(memcmp(seen[0].x[i], seen[1].x[i], most * sizeof *x[0]) == 0);
    guarded_done(&g);
    for (int k = 0; k < 2; k++) {
        bb_free(h[k]), bb_free(x[k]), bb_free(z[k]), bb_free(kl[k]), bb_free(nll[k]), bb_free(alone[k]), bb_free(same[k]);
        for (int i = 0; i < BB_N_FEEDS; i++) bb_free(seen[k].x[i]);
    }
    bb_free(tokens);
    ref_model_free(&m);
    ref_model_free(&other);
}
END_TEST

/* A backend may keep weights as they were at their first use, until it is told to forget. */
START_TEST(weights_are_those_of_the_first_use_until_forget)
{
    ref_model   m;
    uint64_t    seed = 13;
    guarded     g;
    bb_forward *f;
    int32_t     target = 1;
    double      first, kept, fresh;
    ref_model_make(&ref_specs[0], 3, &m);
    guarded_make(&g);
    float    *state = ref_random(&m, m.net.n_embd, 0, 1, &seed);
    bb_buffer h = guarded_put(&g, state, m.net.n_embd);
    float    *head = (float *)(uintptr_t)bb_net_head(&m.net)->data;
    ck_assert_int_eq(bb_net_head(&m.net)->type, BB_F32);
    ck_assert_int_eq(bb_forward_create(&g.backend, &m.net, 1, 1, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_nll(f, &m.net, h, &target, 1, &first, NULL), BB_OK);
    for (size_t i = 0; i < m.net.n_embd; i++) head[m.net.n_embd + i] += 0.5f * state[i];
    ck_assert_int_eq(bb_forward_nll(f, &m.net, h, &target, 1, &kept, NULL), BB_OK);
    g.backend.ops->forget(g.backend.context);
    ck_assert_int_eq(bb_forward_nll(f, &m.net, h, &target, 1, &fresh, NULL), BB_OK);
    ck_assert(kept == first && fresh < first);
    guarded_take(&g, h, state, m.net.n_embd);
    bb_forward_destroy(f);
    guarded_done(&g);
    ref_model_free(&m);
}
END_TEST

/* A head of zeros: all logits 0, so nll = ln V exactly up to the float64 logarithm. V crosses the pieces of the vocabulary. */
START_TEST(uniform_logits_give_perplexity_V)
{
    static const ref_shape none[] = { { 0, 0, 0 } };
    ref_spec               spec = { "uniform", "llama", (uint32_t[]) { 2, 4096, 5003 }[_i], 8, 1, 4, 4, false, false, 0, false, true, 1, BB_F32, none };
    ref_model              m;
    uint64_t               seed = 1;
    bb_forward            *f;
    int32_t                targets[3] = { 0, 1, (int32_t)spec.n_vocab - 1 };
    double                 nll[3];
    ref_model_make(&spec, 1, &m);
    m.net.head.data = ref_random(&m, (size_t)spec.n_vocab * 8, 0, 0, &seed);
    const float *h = ref_random(&m, 3 * 8, 0, 1, &seed);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 1, 4, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_nll(f, &m.net, bb_on_cpu(h), targets, 3, nll, NULL), BB_OK);
    for (int i = 0; i < 3; i++) ck_assert(fabs(exp(nll[i]) / spec.n_vocab - 1) < 1e-14);
    bb_forward_destroy(f);
    ref_model_free(&m);
}
END_TEST

/* A vocabulary so large that its packed float32 form comes in two pieces. */
START_TEST(large_vocabulary_comes_in_pieces)
{
    enum { C = 4096, V = 2100 };
    static const ref_shape none[] = { { 0, 0, 0 } };
    ref_spec               spec = { "large", "llama", V, C, 1, 4, 4, false, false, 0, false, false, 1, BB_F32, none };
    ref_model              m;
    uint64_t               seed = 1;
    bb_forward            *f;
    int32_t                target = V - 1;
    double                 nll, kl, *z = BB_NEW(2 * V, double, NULL), *row = BB_NEW(C, double, NULL), allowed;
    ref_model_make(&spec, 1, &m);
    const float *h = ref_random(&m, 2 * C, 0, 1, &seed);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 1, 4, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_kl(f, &m.net, bb_on_cpu(h), &m.net, bb_on_cpu(h + C), &target, 1, &kl, &nll, NULL, NULL), BB_OK);
    for (size_t i = 0; i < 2; i++) {
        for (size_t c = 0; c < C; c++) row[c] = (double)h[i * C + c];
        ref_logits(&m.net, row, z + i * V);
    }
    allowed = (double)FLT_EPSILON * sqrt(C) * largest_of(z, 2 * V);
    ck_assert(fabs(nll - (ref_log_sum_exp(z + V, V) - z[V + target])) <= allowed);
    ck_assert(fabs(kl - ref_kl(z, z + V, V)) <= allowed);
    bb_forward_destroy(f);
    ref_model_free(&m);
    bb_free(z);
    bb_free(row);
}
END_TEST

/* What a hook saw: the inputs of all linears, in order. */
typedef struct seen {
    size_t        calls, tokens[BB_N_FEEDS];
    const bb_net *net;
    double        sum_square_q;
} seen;

static bb_status look(void *self, bb_feed feed, const float *x, size_t n, uint32_t cols, bb_err *err)
{
    seen *s = self;
    (void)err;
    s->calls++;
    s->tokens[feed] += n;
    if (feed == BB_FEED_ATTENTION)
        for (size_t i = 0; i < n * cols; i++) s->sum_square_q += (double)x[i] * (double)x[i];
    return feed == BB_FEED_CHANNELS && s->tokens[feed] > 3 * T ? BB_INTERRUPTED : BB_OK;
}

START_TEST(hook_sees_every_input)
{
    ref_model   m;
    uint64_t    seed = 4;
    bb_forward *f;
    int32_t     tokens[S * T];
    seen        s = { 0 };
    ref_model_make(&ref_specs[0], 5, &m);
    size_t C = m.net.n_embd;
    float *h = BB_NEW(S * T * C, float, NULL);
    random_tokens(tokens, S * T, m.net.n_vocab, &seed);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, S, T, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_embed(f, &m.net, tokens, S, T, bb_on_cpu(h), NULL), BB_OK);
    double expected = 0; /* of the normed embeddings */
    for (size_t t = 0; t < S * T; t++) {
        double square = 0;
        for (size_t c = 0; c < C; c++) square += (double)h[t * C + c] * (double)h[t * C + c];
        for (size_t c = 0; c < C; c++)
            expected += pow((double)h[t * C + c] * (double)m.net.blocks[0].norm[BB_NORM_ATTENTION][c], 2) / (square / (double)C + (double)m.net.norm_eps);
    }
    ck_assert_int_eq(bb_forward_block(f, &m.net, &m.net.blocks[0], S, T, bb_on_cpu(h), look, &s, NULL), BB_OK);
    ck_assert(fabs(s.sum_square_q / expected - 1) < 1e-5);
    for (int k = 0; k < BB_N_FEEDS; k++) ck_assert_uint_eq(s.tokens[k], k < BB_FEED_TOKEN ? S * T : 0);
    ck_assert_int_eq(bb_forward_block(f, &m.net, &m.net.blocks[0], S, T, bb_on_cpu(h), look, &s, NULL), BB_INTERRUPTED);
    bb_forward_destroy(f);
    ref_model_free(&m);
    bb_free(h);
}
END_TEST

START_TEST(wrong_shapes_and_ids_are_refused)
{
    ref_model   m, w;
    bb_forward *f;
    bb_block    b;
    float       h[2 * 40] = { 0 };
    double      nll[2];
    ref_model_make(&ref_specs[0], 5, &m);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 1, 2, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_embed(f, &m.net, (int32_t[]) { 0, 40 }, 1, 2, bb_on_cpu(h), NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_forward_embed(f, &m.net, (int32_t[]) { -1, 0 }, 1, 2, bb_on_cpu(h), NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_forward_nll(f, &m.net, bb_on_cpu(h), (int32_t[]) { 0, 40 }, 2, nll, NULL), BB_BAD_FILE);
    for (int change = 0; change < 6; change++) {
        b = m.net.blocks[0];
        if (change == 0) b.w[BB_PART_Q].rows--;
        if (change == 1) b.w[BB_PART_DOWN].cols++;
        if (change == 2) b.norm[BB_NORM_ATTENTION] = NULL;
        if (change == 3) b.n_kv = 3;
        if (change == 4) b.w[BB_PART_UP].data = NULL;
        if (change == 5) b.w[BB_PART_GATE].type = (bb_type)4;
        bb_err err = BB_ERR_INIT;
        ck_assert_int_ne(bb_forward_block(f, &m.net, &b, 1, 2, bb_on_cpu(h), NULL, NULL, &err), BB_OK);
        ck_assert(err.msg[0]);
    }
    bb_err   err = BB_ERR_INIT;
    ref_spec wider = ref_specs[0];
    wider.n_embd = 40;
    ref_model_make(&wider, 5, &w);
    ck_assert_int_eq(bb_forward_kl(f, &w.net, bb_on_cpu(h), &m.net, bb_on_cpu(h), NULL, 1, nll, NULL, NULL, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "width 40") != NULL, "%s", err.msg);
    bb_err_clear(&err);
    ck_assert_int_eq(bb_forward_kl(f, &m.net, bb_on_cpu(h), &w.net, bb_on_cpu(h), NULL, 1, nll, NULL, NULL, &err), BB_BAD_FILE);
    bb_forward_destroy(f);
    ref_model_free(&w);
    m.net.n_rot = 7;
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 1, 2, &f, NULL), BB_BAD_FILE);
    ck_assert_ptr_null(f);
    ref_model_free(&m);
}
END_TEST

/* The host's output norm is what the head reads: logits by it are those of the pass. */
START_TEST(the_hosts_output_norm_is_that_of_the_pass)
{
    ref_model   m;
    uint64_t    seed = 12;
    bb_forward *f;
    ref_model_make(&ref_specs[_i], 5, &m);
    const size_t     C = m.net.n_embd, V = m.net.n_vocab;
    const bb_matrix *head = bb_net_head(&m.net);
    const bb_format *format = bb_format_get(head->type);
    float *h = ref_random(&m, C, 0, 1, &seed), *x = ref_random(&m, C, 0, 1, &seed), *z = ref_random(&m, V, 0, 0, &seed), *row = ref_random(&m, C, 0, 0, &seed);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 1, 1, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_logits(f, &m.net, bb_on_cpu(h), 1, z, NULL), BB_OK);
    bb_host_output_norm(&m.net, h, x);
    for (size_t v = 0; v < V; v++) {
        double sum = 0;
        format->decode((const char *)head->data + v * bb_format_row_bytes(format, C), row, C);
        for (size_t c = 0; c < C; c++) sum += (double)x[c] * (double)row[c];
        if (m.net.logit_cap > 0) sum = (double)m.net.logit_cap * tanh(sum / (double)m.net.logit_cap);
        ck_assert_double_eq_tol((double)z[v], sum, 1e-5 * (1 + fabs(sum)));
    }
    bb_forward_destroy(f);
    ref_model_free(&m);
}
END_TEST

/* Keys and values that are shared lie within what a row carries, those of the last block that gives some up to its end. */
START_TEST(shared_keys_stay_within_the_row)
{
    ref_model m;
    uint32_t  n_last = 0;
    size_t    spec = 0;
    while (strcmp(ref_specs[spec].name, "gemma4 shared keys, per-layer embeddings") != 0) spec++;
    ref_model_make(&ref_specs[spec], 5, &m);
    for (uint32_t i = 0; i < m.net.n_layer; i++) {
        bb_block       b = m.net.blocks[i];
        const uint32_t end = b.kv_at + 2 * (uint32_t)bb_dim_of(&m.net, &b, BB_DIM_GD);
        bb_err         err = BB_ERR_INIT;
        if (b.kv_role == BB_KV_OWN || !b.n_head) continue;
        ck_assert_uint_le(end, m.net.n_carried);
        n_last += end == m.net.n_carried;
        ck_assert_int_eq(bb_check_block(&m.net, &b, &err), BB_OK);
        b.kv_at += m.net.n_carried - end; /* as far as it may be */
        ck_assert_int_eq(bb_check_block(&m.net, &b, &err), BB_OK);
        b.kv_at++;
        ck_assert_int_eq(bb_check_block(&m.net, &b, &err), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, "do not fit where the blocks share") != NULL, "%s", err.msg);
    }
    ck_assert_uint_gt(n_last, 0);
    ref_model_free(&m);
}
END_TEST

/* A block with more heads, more KV heads or more channels than any at creation has no room. */
START_TEST(wider_blocks_are_refused)
{
    ref_model   m;
    bb_forward *f;
    float       h[2 * 24] = { 0 };
    ref_model_make(&ref_specs[1], 5, &m);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &m.net, 1, 2, &f, NULL), BB_OK);
    for (int what = 0; what < REF_N_WIDER; what++) {
        const bb_block b = ref_wider(&m.net.blocks[0], what);
        bb_err         err = BB_ERR_INIT;
        ck_assert_int_eq(bb_forward_block(f, &m.net, &b, 1, 2, bb_on_cpu(h), NULL, NULL, &err), BB_FAILED);
        ck_assert_msg(strstr(err.msg, "the workspace was made for 4/2 and 64") != NULL, "%s", err.msg);
    }
    bb_forward_destroy(f);
    ref_model_free(&m);
}
END_TEST

/* The second set of RoPE's factors is for contexts that are longer than the first one's. */
START_TEST(long_factors_begin_behind_the_context)
{
    ref_model m;
    size_t    spec = 0;
    while (strcmp(ref_specs[spec].name, "phi3 short, tied") != 0) spec++;
    ref_model_make(&ref_specs[spec], 5, &m);
    const size_t n = (size_t)m.net.rope_context * m.net.n_rot;
    bb_net       one = m.net;
    one.rope_long = NULL;
    float *alone = bb_rope_table(&one, m.net.rope_context, NULL), *at = bb_rope_table(&m.net, m.net.rope_context, NULL);
    float *behind = bb_rope_table(&m.net, m.net.rope_context + 1, NULL);
    ck_assert_mem_eq(at, alone, n * sizeof *at);
    ck_assert(memcmp(behind, alone, n * sizeof *at) != 0);
    bb_free(alone);
    bb_free(at);
    bb_free(behind);
    ref_model_free(&m);
}
END_TEST

/* Fails at each allocation in turn; nothing leaks, the answer is BB_NOMEM. */
START_TEST(running_out_of_memory_is_survived)
{
    ref_model m;
    float     h[2 * 64] = { 0 };
    double    nll[2];
    bool      done = false;
    bb_kernels_set_precision(_i ? BB_FAST : BB_EXACT);
    ref_model_make(&ref_specs[8], 5, &m); /* quantized: decode buffers as well */
    size_t before = bb_mem_live_bytes();
    for (long n = 0; !done && n < 100; n++) {
        bb_forward *f = NULL;
        bb_mem_fail_after(n);
        bb_status status = bb_forward_create(&bb_backend_cpu, &m.net, 1, 2, &f, NULL);
        if (status == BB_OK) status = bb_forward_block(f, &m.net, &m.net.blocks[0], 1, 2, bb_on_cpu(h), NULL, NULL, NULL);
        if (status == BB_OK) status = bb_forward_nll(f, &m.net, bb_on_cpu(h), (int32_t[]) { 0, 1 }, 2, nll, NULL);
        bb_mem_fail_after(-1);
        bb_forward_destroy(f);
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
    Suite *s = suite_create("forward");
    TCase *t = tcase_create("core");
    tcase_add_loop_test(t, agrees_with_the_oracle, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, kl_agrees_with_the_oracle, 0, (int)ref_n_specs);
    tcase_add_checked_fixture(t, exact_again, exact_again);
    tcase_add_loop_test(t, fast_is_close_to_exact, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, fused_and_single_operations_agree, 0, 2 * (int)ref_n_specs);
    tcase_add_loop_test(t, block_stops_at_an_input, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, another_backend_has_the_same_bits, 0, (int)ref_n_specs);
    tcase_add_loop_test(t, shared_rows_have_the_same_bits, 0, 2 * (int)ref_n_specs);
    tcase_add_test(t, room_for_shared_rows_grows_or_is_made_again);
    tcase_add_test(t, shared_keys_stay_within_the_row);
    tcase_add_test(t, weights_are_those_of_the_first_use_until_forget);
    tcase_add_loop_test(t, batch_and_threads_change_nothing, 0, 2 * (int)ref_n_specs);
    tcase_add_loop_test(t, uniform_logits_give_perplexity_V, 0, 3);
    tcase_add_test(t, large_vocabulary_comes_in_pieces);
    tcase_add_test(t, hook_sees_every_input);
    tcase_add_test(t, wrong_shapes_and_ids_are_refused);
    tcase_add_test(t, wider_blocks_are_refused);
    tcase_add_loop_test(t, the_hosts_output_norm_is_that_of_the_pass, 0, (int)ref_n_specs);
    tcase_add_test(t, long_factors_begin_behind_the_context);
    tcase_add_loop_test(t, running_out_of_memory_is_survived, 0, 2);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
