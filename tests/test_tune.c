/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_tune.c: matrices behind stored bytes (gradients of fields against decoded differences, nearest codes against all codes, exact
 * bytes), and the optimisation of tiny networks: it helps, it is taken back when it does not, threads change nothing.
 */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/peers.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "model/tune/latent.h"
#include "model/tune/tune.h"
#include "tests/support/guarded.h"
#include "tests/support/ref_net.h"
#include "tests/support/support.h"

/* ---- one matrix ---- */

enum { ROWS = 3, COLS = 512, N = ROWS * COLS };

typedef struct scene {
    const bb_format *f;
    unsigned char   *packed;
    bb_matrix        m;
    bb_latent        l;
    bb_rng           rng;
} scene;

static scene scene_of(const bb_format *f)
{
    scene  s = { .f = f };
    bb_err err = BB_ERR_INIT;
    float *w = BB_NEW(N, float, NULL);
    bb_rng_init(&s.rng, 3, f->name);
    for (int i = 0; i < N; i++) w[i] = (float)(0.02 * bb_rng_normal(&s.rng) + (i / 64 % 2 ? 0.01 : 0));
    s.packed = bb_alloc(ROWS, bb_format_row_bytes(f, COLS), NULL);
    for (size_t r = 0; r < ROWS; r++) f->encode(w + r * COLS, NULL, s.packed + r * bb_format_row_bytes(f, COLS), COLS);
    s.m = (bb_matrix) { f->type, ROWS, COLS, s.packed, NULL, NULL };
    ck_assert_msg(bb_latent_create(&s.m, s.packed, &s.l, &err) == BB_OK, "%s", err.msg);
    bb_free(w);
    return s;
}

static void scene_done(scene *s)
{
    bb_latent_done(&s->l);
    bb_free(s->packed);
}

static void decode_all(const scene *s, float *out)
{
    const size_t bytes = bb_format_row_bytes(s->f, COLS);
    for (size_t r = 0; r < ROWS; r++) s->f->decode(s->packed + r * bytes, out + r * COLS, COLS);
}

/* Encoding what was decoded changes no weight; after moves, q is what the bytes say. */
START_TEST(bytes_and_numbers_agree)
{
    scene  s = scene_of(bb_format_at((size_t)_i));
    float *q = BB_NEW(N, float, NULL);
    memcpy(q, s.l.q, N * sizeof *q);
    bb_latent_encode(&s.l);
    ck_assert_msg(memcmp(q, s.l.q, N * sizeof *q) == 0, "%s", s.f->name);
    for (int i = 0; i < N; i++) s.l.w[i] += (float)(0.01 * bb_rng_normal(&s.rng));
    for (size_t i = 0; i < (2 + 2 * s.l.n_groups) * s.l.n_blocks; i++) s.l.fields[i] *= (float)(1 + 0.1 * bb_rng_normal(&s.rng));
    bb_latent_encode(&s.l);
    ck_assert_msg(memcmp(q, s.l.q, N * sizeof *q) != 0, "%s", s.f->name);
    decode_all(&s, q);
    ck_assert_msg(memcmp(q, s.l.q, N * sizeof *q) == 0, "%s", s.f->name);
    for (int i = 0; i < N; i++) ck_assert(isfinite(q[i]));
    bb_latent_decode(&s.l);
    ck_assert(memcmp(s.l.w, q, N * sizeof *q) == 0);
    bb_free(q);
    scene_done(&s);
}
END_TEST

/* Codes that are not searched for again, since their weights have hardly moved, are those that a search finds; and most are not. Scales walk too. */
START_TEST(what_hardly_moves_is_not_searched_again)
{
    scene          s = scene_of(bb_format_at((size_t)_i));
    const size_t   size = ROWS * bb_format_row_bytes(s.f, COLS);
    unsigned char *stepped = bb_alloc(size, 1, NULL);
    size_t         n_known = 0, n_codes = 0;
    for (int step = 0; step < 40; step++) {
        const double by = step % 20 == 19 ? 0.3 : 0.01;
        for (int i = 0; i < N; i++) s.l.w[i] += (float)(by * s.l.unit * bb_rng_normal(&s.rng));
        for (size_t i = 0; i < (2 + 2 * s.l.n_groups) * s.l.n_blocks; i++) s.l.fields[i] *= (float)(1 + 0.1 * by * bb_rng_normal(&s.rng));
        float *before = s.l.slack ? bb_alloc(N / s.f->vec, sizeof *before, NULL) : NULL;
        if (before) memcpy(before, s.l.slack, N / s.f->vec * sizeof *before);
        bb_latent_encode(&s.l);
        for (size_t v = 0; before && step > 0 && v < N / s.f->vec; v++) {
            n_known += before[v] > 0 && s.l.slack[v] == before[v];
            n_codes++;
        }
        bb_free(before);
        memcpy(stepped, s.packed, size);
        if (step % 4 == 0) {
            bb_latent l = s.l;
            if (l.slack) { /* one that knows nothing */
                l.slack = bb_calloc(N / s.f->vec, sizeof *l.slack, NULL);
                l.center = bb_alloc(N, sizeof *l.center, NULL);
            }
            bb_latent_encode(&l);
            if (l.slack) {
                bb_free(l.slack);
                bb_free(l.center);
            }
            ck_assert_msg(memcmp(stepped, s.packed, size) == 0, "%s, step %d", s.f->name, step);
        }
    }
    ck_assert_msg(2 * n_known >= n_codes, "%s: %zu of %zu", s.f->name, n_known, n_codes);
    for (size_t v = 0; s.l.slack && v < N / s.f->vec; v++) s.l.slack[v] = 1e6f;
    bb_latent_decode(&s.l); /* other codes: nothing is known of them */
    for (size_t v = 0; s.l.slack && v < N / s.f->vec; v++) ck_assert(s.l.slack[v] == 0);
    for (size_t v = 0; s.l.slack && v < N / s.f->vec; v++) s.l.slack[v] = 1e6f;
    bb_latent_refresh(&s.l);
    for (size_t v = 0; s.l.slack && v < N / s.f->vec; v++) ck_assert(s.l.slack[v] == 0);
    bb_free(stepped);
    scene_done(&s);
}
END_TEST

/* Half-way between two levels the lower one is taken, of a uniform grid the upper; what is no number is at an end. */
START_TEST(ties_between_levels)
{
    const bb_type types[] = { BB_IQ4_NL, BB_MXFP4, BB_Q4_0 };
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        const bool uniform = types[k] == BB_Q4_0;
        scene      s = scene_of(bb_format_get(types[k]));
        bb_code    c = { 0 };
        float      a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
        s.f->unpack(s.packed, &c);
        s.f->scales(&c, a, b);
        for (unsigned i = 0; i + 1 < s.f->n_levels; i++) s.l.w[i] = a[0] * (0.5f * (s.f->levels[i] + s.f->levels[i + 1]));
        s.l.w[s.f->n_levels - 1] = NAN;
        bb_latent_encode(&s.l);
        s.f->unpack(s.packed, &c);
        for (unsigned i = 0; i + 1 < s.f->n_levels; i++) ck_assert_msg(c.q[i] == i + uniform, "%s: %u below level %u", s.f->name, c.q[i], i + 1);
        ck_assert_uint_eq(c.q[s.f->n_levels - 1], uniform ? 0 : s.f->n_levels - 1u);
        scene_done(&s);
    }
}
END_TEST

/* A field that ran past its end is at its end once it is stored, so that the next step back is seen. */
START_TEST(fields_stay_in_their_range)
{
    scene        s = scene_of(bb_format_get(BB_Q4_K));
    const size_t n = s.l.n_groups * s.l.n_blocks;
    float *const sc = s.l.fields + 2 * s.l.n_blocks, *const mn = sc + n;
    ck_assert(s.l.sc_most == 63 && s.l.sc_least == 0 && s.l.mn_most == 63 && s.l.mn_least == 0);
    for (size_t i = 0; i < n; i++) {
        sc[i] = i % 2 ? 1e6f : -5;
        mn[i] = i % 2 ? -0.75f : 64.25f;
    }
    bb_latent_encode(&s.l);
    for (size_t b = 0; b < s.l.n_blocks; b++) {
        bb_code c = { 0 };
        s.f->unpack(s.packed + b * s.f->block_bytes, &c);
        for (size_t g = 0; g < s.l.n_groups; g++) {
            const size_t i = b * s.l.n_groups + g;
            ck_assert(sc[i] == (i % 2 ? 63.0f : 0.0f) && mn[i] == (i % 2 ? 0.0f : 63.0f));
            ck_assert(c.sc[g] == (int)sc[i] && c.mn[g] == (int)mn[i]);
        }
    }
    scene_done(&s);
}
END_TEST

/* Error of code vector v of a block whose code is replaced by `code`; by decoding the packed block. */
static double error_with(const bb_format *f, const bb_code *c, unsigned v, uint32_t code, const float *w)
{
    unsigned char bytes[1024];
    float         q[BB_MAX_BLOCK];
    bb_code       other = *c;
    double        sum = 0;
    other.q[v] = code;
    f->pack(&other, bytes);
    f->decode(bytes, q, f->block);
    for (unsigned i = v * f->vec; i < (v + 1) * f->vec; i++) sum += ((double)w[i] - (double)q[i]) * ((double)w[i] - (double)q[i]);
    return sum;
}

/* No other level is nearer (scalar grids: all of them; codebooks: random ones). */
START_TEST(codes_are_nearest)
{
    scene s = scene_of(bb_format_at((size_t)_i));
    for (int i = 0; i < N; i++) s.l.w[i] += (float)(0.01 * bb_rng_normal(&s.rng));
    bb_latent_encode(&s.l);
    for (size_t b = 0; s.l.n_groups && b < s.l.n_blocks; b += s.l.n_blocks / 3) {
        bb_code      c = { 0 };
        const float *w = s.l.w + b * s.f->block;
        s.f->unpack(s.packed + b * s.f->block_bytes, &c);
        for (unsigned v = 0; v < (unsigned)s.f->block / s.f->vec; v += 3) {
            const double chosen = error_with(s.f, &c, v, c.q[v], w);
            const bool   scalar = s.f->vec == 1;
            for (unsigned k = 0; k < (scalar ? s.f->n_levels : 40u); k++) {
                uint32_t other = k;
                if (!scalar) { /* a code that some vector of the block has */
                    other = c.q[bb_rng_below(&s.rng, (uint64_t)(s.f->block / s.f->vec))];
                }
                const double e = error_with(s.f, &c, v, other, w);
                ck_assert_msg(chosen <= e * (1 + 1e-5) + 1e-14, "%s: code %u of vector %u, error %g; %u has %g", s.f->name, c.q[v], v, chosen, other, e);
            }
        }
    }
    scene_done(&s);
}
END_TEST

/* dL/dfield of L = sum g_i q_i against packed blocks with that field changed: decoders are linear in it, so the difference is exact. */
static double loss_with(const bb_format *f, const bb_code *c, const float *g)
{
    unsigned char bytes[1024];
    float         q[BB_MAX_BLOCK];
    double        sum = 0;
    f->pack(c, bytes);
    f->decode(bytes, q, f->block);
    for (unsigned i = 0; i < f->block; i++) sum += (double)g[i] * (double)q[i];
    return sum;
}

START_TEST(field_gradients_are_differences)
{
    scene        s = scene_of(bb_format_at((size_t)_i));
    bb_latent   *l = &s.l;
    bb_code      c = { 0 }, other;
    const size_t B = l->n_blocks, G = l->n_groups;
    for (int i = 0; i < N; i++) l->g_w[i] = (float)bb_rng_normal(&s.rng);
    bb_latent_gradients(l, false);
    for (size_t b = 0; b < B && G; b += B / 3) {
        const float *g = l->g_w + b * s.f->block;
        s.f->unpack(s.packed + b * s.f->block_bytes, &c);
        const double base = loss_with(s.f, &c, g);
        if (l->has_d) {
            other = c, other.d *= 2;
            ck_assert_double_eq_tol((double)l->g_fields[b], loss_with(s.f, &other, g) - base, 1e-5);
        }
        if (l->has_dmin) {
            other = c, other.dmin *= 2;
            ck_assert_double_eq_tol((double)l->g_fields[B + b], loss_with(s.f, &other, g) - base, 1e-5);
        }
        for (size_t k = 0; k < G; k++) {
            const int up = c.sc[k] < l->sc_most ? 1 : -1, min_up = c.mn[k] < l->mn_most ? 1 : -1;
            if (l->sc_most > l->sc_least) {
                other = c, other.sc[k] = (int16_t)(c.sc[k] + up);
                ck_assert_double_eq_tol((double)l->g_fields[2 * B + b * G + k], up * (loss_with(s.f, &other, g) - base), 1e-5);
            }
            if (l->mn_most > l->mn_least) {
                other = c, other.mn[k] = (int16_t)(c.mn[k] + min_up);
                ck_assert_double_eq_tol((double)l->g_fields[(2 + G) * B + b * G + k], min_up * (loss_with(s.f, &other, g) - base), 1e-5);
            }
        }
    }
    scene_done(&s);
}
END_TEST

/* The grids that store their scale as F16 are the ones that are trained. */
START_TEST(knows_the_fields)
{
    const struct {
        const char *name;
        bool        d, dmin;
        int         sc, mn;
    } expected[] = {
        { "Q4_0", true, false, 0, 0 },   { "Q4_1", true, true, 0, 0 },      { "Q4_K", true, true, 63, 63 }, { "Q2_K", true, true, 15, 15 },
        { "Q6_K", true, false, 127, 0 }, { "IQ2_XXS", true, false, 15, 0 }, { "IQ1_S", true, false, 7, 0 }, { "MXFP4", false, false, 0, 0 },
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        scene s = scene_of(bb_format_find(expected[i].name));
        ck_assert_msg(s.l.has_d == expected[i].d && s.l.has_dmin == expected[i].dmin && s.l.sc_most == expected[i].sc && s.l.mn_most == expected[i].mn,
                      "%s: d %d, dmin %d, sc %d .. %d, mn %d .. %d", expected[i].name, s.l.has_d, s.l.has_dmin, s.l.sc_least, s.l.sc_most, s.l.mn_least,
                      s.l.mn_most);
        scene_done(&s);
    }
}
END_TEST

/* ---- tiny networks ---- */

enum { LAYERS = 3, WINDOWS = 6, HELD = 3, T = 16 };

typedef struct world {
    ref_model   full;
    bb_net      small; /* full, rounded to few bits */
    bb_block    blocks[LAYERS];
    void       *owned[64];
    size_t      n_owned;
    int32_t     tokens[WINDOWS * T], targets[WINDOWS * T];
    bb_tune_set train, held;
} world;

static void round_matrix(world *w, bb_matrix *m, bb_type type)
{
    const bb_format *f = bb_format_get(type);
    if (m->rows == 0) return;
    unsigned char *bytes = bb_alloc(m->rows, bb_format_row_bytes(f, m->cols), NULL);
    for (size_t r = 0; r < m->rows; r++) f->encode_rtn((const float *)m->data + r * m->cols, bytes + r * bb_format_row_bytes(f, m->cols), m->cols);
    m->type = type;
    m->data = bytes;
    w->owned[w->n_owned++] = bytes;
}

static const ref_shape world_shapes[LAYERS] = { { 4, 2, 64 }, { 0, 0, 96 }, { 2, 1, 64 } };
static const ref_spec  worlds[] = {
     { "tune", "deci", 48, 64, LAYERS, 16, 16, false, false, 0, false, false, 1, BB_F32, world_shapes },
     { "tune untied", "deci", 48, 64, LAYERS, 16, 16, false, false, 0, false, true, 1, BB_F32, world_shapes },
     { "tune", "qwen3", 48, 64, LAYERS, 16, 16, true, false, REF_HEAD_NORMS, false, false, 1, BB_F32, world_shapes },
     { "tune", "granite", 48, 64, LAYERS, 16, 16, false, false, 0, false, false, 1, BB_F32, world_shapes },
     { "tune long", "phi3", 48, 64, LAYERS, 16, 12, true, false, 0, true, false, 1, BB_F32, world_shapes },
     { "tune yarn", "mistral3", 48, 64, LAYERS, 16, 16, false, true, 0, false, true, 0.25f, BB_F32, world_shapes },
     { "tune", "olmo2", 48, 64, LAYERS, 16, 16, true, false, REF_WHOLE_NORMS | REF_POST_NORMS, false, true, 1, BB_F32, world_shapes },
};
enum { TIED, UNTIED, N_WORLDS = sizeof worlds / sizeof *worlds };

static world *world_of(int which)
{
    static const bb_type types[BB_N_PARTS] = { BB_Q2_0, BB_Q4_0, BB_IQ4_NL, BB_Q4_1, BB_Q2_0, BB_TQ2_0, BB_Q4_0 };
    world               *w = calloc(1, sizeof *w);
    bb_rng               rng;
    ref_model_make(&worlds[which], 4, &w->full);
    w->full.net.blocks[2].no_rope = which == UNTIED; /* as some of smollm3's */
    bb_rng_init(&rng, 2, "tokens");
    for (int i = 0; i < WINDOWS * T; i++) w->tokens[i] = (int32_t)bb_rng_below(&rng, 48);
    for (int i = 0; i < WINDOWS * T; i++) w->targets[i] = i % T == T - 1 ? 0 : w->tokens[i + 1];
    w->train = (bb_tune_set) { w->tokens, w->targets, WINDOWS, T, 0, T };
    /* The last of the same windows: random text has nothing to generalise to; not the first, so that a window's index in one set is another's in the other. */
    w->held = (bb_tune_set) { w->tokens + (WINDOWS - HELD) * T, w->targets + (WINDOWS - HELD) * T, HELD, T, 2, T - 3 };
    w->small = w->full.net;
    memcpy(w->blocks, w->full.net.blocks, sizeof w->blocks);
    w->small.blocks = w->blocks;
    for (int b = 0; b < LAYERS; b++)
        for (int p = 0; p < BB_N_PARTS; p++) round_matrix(w, &w->blocks[b].w[p], types[p] == BB_TQ2_0 ? BB_Q5_0 : types[p]);
    round_matrix(w, &w->small.embd, BB_Q4_0);
    if (worlds[which].untied) round_matrix(w, &w->small.head, BB_Q4_1);
    return w;
}

static void world_done(world *w)
{
    for (size_t i = 0; i < w->n_owned; i++) bb_free(w->owned[i]);
    ref_model_free(&w->full);
    free(w);
}

/* Mean KL on the held-out windows in float64 by the oracle. */
static double oracle_kl(const world *w, const bb_net *net)
{
    enum { V = 48 };
    static double z[T * V], z_ref[T * V];
    double        sum = 0;
    for (uint32_t i = 0; i < HELD; i++) {
        ref_run(&w->full.net, w->held.tokens + i * T, T, z_ref);
        ref_run(net, w->held.tokens + i * T, T, z);
        for (uint32_t t = w->held.first; t < w->held.first + w->held.n_scored; t++) sum += ref_kl(z_ref + t * V, z + t * V, V);
    }
    return sum / (HELD * w->held.n_scored);
}

static bb_tune_options options_of(bb_tune_loss loss, uint32_t first, uint32_t last)
{
    return (bb_tune_options) {
        .loss = loss, .first = first, .last = last, .steps = 40, .batch = 2, .checks = 8, .weights = 0.05, .fields = 0.003, .norms = 0.003, .clip = 3, .seed = 1
    };
}

static void tune(const world *w, bb_tuned *t, const bb_tune_options *o, bb_tune_report *report)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_tuned_copy(&w->small, t, &err) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_tune(&bb_backend_cpu, &w->full.net, t, o, &w->train, &w->held, report, &err) == BB_OK, "%s", err.msg);
}

/* The reported numbers are the oracle's, and the loss falls. */
START_TEST(end_to_end_lowers_the_divergence)
{
    world          *w = world_of(_i);
    bb_tuned        t;
    bb_tune_report  report;
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    o.embedding = true;
    tune(w, &t, &o, &report);
    ck_assert_msg(report.best < 0.7 * report.start, "%g -> %g", report.start, report.best);
    ck_assert_double_eq_tol(report.start, oracle_kl(w, &w->small), 1e-4 * report.start);
    ck_assert_double_eq_tol(report.best, oracle_kl(w, &t.net), 1e-4 * report.start);
    ck_assert(report.best_step > 0 && report.tokens == 40u * 2 * T);
    ck_assert(memcmp(t.out_norm, w->small.out_norm, 64 * sizeof(float)) != 0);
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

/* Only the last block moves; everything before it and the head stay as they are. */
/* Fails at each allocation in turn: nothing leaks, and the bytes are those that were given, for no state was found better. */
START_TEST(running_out_of_memory_is_survived)
{
    const bool      in_turn = _i == 1;
    world          *w = world_of(UNTIED);
    bb_tune_options o = options_of(in_turn ? BB_TUNE_OUTPUT : BB_TUNE_KL, 0, LAYERS - 1);
    bb_tune_set     other = w->train, few = w->train, seen = w->held;
    bool            done = false;
    o.embedding = !in_turn;
    o.steps = o.checks = 1;
    o.weights = o.fields = o.norms = 1e3; /* nothing is better after such a step */
    o.batch = few.n = other.n = seen.n = 1;
    o.other = in_turn ? NULL : &other;
    for (long n = 0; !done && n < 4000; n++) {
        const size_t   before = bb_mem_live_bytes();
        bb_tuned       t = { 0 };
        bb_tune_report reports[LAYERS];
        bb_mem_fail_after(n);
        bb_status status = bb_tuned_copy(&w->small, &t, NULL);
        if (status == BB_OK) status = (in_turn ? bb_tune_blocks : bb_tune)(&bb_backend_cpu, &w->full.net, &t, &o, &few, &seen, reports, NULL);
        bb_mem_fail_after(-1);
        ck_assert_msg(status == BB_OK || status == BB_NOMEM, "allocation %ld: %d", n, (int)status);
        done = status == BB_OK;
        for (uint32_t b = 0; t.bytes && b < LAYERS; b++)
            for (int p = 0; p < BB_N_PARTS; p++) {
                const bb_matrix *m = &w->blocks[b].w[p];
                if (!t.bytes[b].w[p]) continue;
                ck_assert_msg(memcmp(t.bytes[b].w[p], m->data, m->rows * bb_format_row_bytes(bb_format_get(m->type), m->cols)) == 0, "allocation %ld", n);
            }
        bb_tuned_done(&t);
        ck_assert_msg(bb_mem_live_bytes() == before, "allocation %ld leaks", n);
    }
    ck_assert(done);
    world_done(w);
}
END_TEST

START_TEST(last_block_alone)
{
    static const bb_tune_loss losses[] = { BB_TUNE_KL, BB_TUNE_OUTPUT, BB_TUNE_LOGITS };
    world                    *w = world_of(TIED);
    bb_tuned                  t;
    bb_tune_report            report;
    bb_tune_options           o = options_of(losses[_i], LAYERS - 1, LAYERS - 1);
    tune(w, &t, &o, &report);
    ck_assert_msg(report.best < report.start, "%d: %g -> %g", _i, report.start, report.best);
    const bb_matrix *down = &w->blocks[0].w[BB_PART_DOWN], *last = &w->blocks[LAYERS - 1].w[BB_PART_DOWN];
    const size_t     bytes = down->rows * bb_format_row_bytes(bb_format_get(down->type), down->cols);
    ck_assert(memcmp(down->data, t.bytes[0].w[BB_PART_DOWN], bytes) == 0);
    ck_assert(memcmp(last->data, t.bytes[LAYERS - 1].w[BB_PART_DOWN], bytes) != 0);
    ck_assert(memcmp(w->small.embd.data, t.embd, 48 * bb_format_row_bytes(bb_format_get(BB_Q4_0), 64)) == 0);
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

START_TEST(blocks_in_turn)
{
    world          *w = world_of(TIED);
    bb_tuned        t;
    bb_tune_report  reports[LAYERS];
    bb_tune_options o = options_of(BB_TUNE_OUTPUT, 0, LAYERS - 1);
    bb_err          err = BB_ERR_INIT;
    ck_assert_int_eq(bb_tuned_copy(&w->small, &t, &err), BB_OK);
    ck_assert_msg(bb_tune_blocks(&bb_backend_cpu, &w->full.net, &t, &o, &w->train, &w->held, reports, &err) == BB_OK, "%s", err.msg);
    for (int b = 0; b < LAYERS; b++) ck_assert_msg(reports[b].best < reports[b].start, "block %d: %g -> %g", b, reports[b].start, reports[b].best);
    ck_assert(oracle_kl(w, &t.net) < oracle_kl(w, &w->small));
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

/* Steps far too long: everything is as it was, to the bit. */
START_TEST(rolled_back_when_it_does_not_help)
{
    world          *w = world_of(TIED);
    bb_tuned        t, start;
    bb_tune_report  report;
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    o.weights = 50;
    o.norms = 5;
    ck_assert_int_eq(bb_tuned_copy(&w->small, &start, NULL), BB_OK);
    tune(w, &t, &o, &report);
    ck_assert_uint_eq(report.best_step, 0);
    ck_assert(report.best == report.start);
    for (int b = 0; b < LAYERS; b++) {
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *m = &w->blocks[b].w[p];
            if (m->rows) ck_assert(memcmp(start.bytes[b].w[p], t.bytes[b].w[p], m->rows * bb_format_row_bytes(bb_format_get(m->type), m->cols)) == 0);
        }
        if (start.bytes[b].norm[0]) ck_assert(memcmp(start.bytes[b].norm[0], t.bytes[b].norm[0], 64 * sizeof(float)) == 0);
    }
    bb_tuned_done(&t);
    bb_tuned_done(&start);
    world_done(w);
}
END_TEST

START_TEST(threads_change_nothing)
{
    world          *w = world_of(TIED);
    bb_tuned        t[2];
    bb_tune_report  report[2];
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    const int       threads = omp_get_max_threads();
    o.steps = 8;
    o.embedding = true;
    for (int k = 0; k < 2; k++) {
        omp_set_num_threads(k + 1);
        tune(w, &t[k], &o, &report[k]);
    }
    omp_set_num_threads(threads);
    ck_assert(report[0].best == report[1].best);
    for (int b = 0; b < LAYERS; b++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *m = &w->blocks[b].w[p];
            if (m->rows) ck_assert(memcmp(t[0].bytes[b].w[p], t[1].bytes[b].w[p], m->rows * bb_format_row_bytes(bb_format_get(m->type), m->cols)) == 0);
        }
    bb_tuned_done(&t[0]);
    bb_tuned_done(&t[1]);
    world_done(w);
}
END_TEST

/* All bytes and norms of a tuned network are those of another. */
static void same_network(const world *w, const bb_tuned *a, const bb_tuned *b)
{
    for (int k = 0; k < LAYERS; k++) {
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *m = &w->blocks[k].w[p];
            if (m->rows) ck_assert(memcmp(a->bytes[k].w[p], b->bytes[k].w[p], m->rows * bb_format_row_bytes(bb_format_get(m->type), m->cols)) == 0);
        }
        for (int n = 0; n < BB_N_NORMS; n++)
            if (a->bytes[k].norm[n]) ck_assert(memcmp(a->bytes[k].norm[n], b->bytes[k].norm[n], bb_norm_length(&a->net, &w->blocks[k], (bb_norm)n) * 4) == 0);
    }
    ck_assert(memcmp(a->embd, b->embd, 48 * bb_format_row_bytes(bb_format_get(BB_Q4_0), 64)) == 0);
    ck_assert(memcmp(a->out_norm, b->out_norm, 64 * sizeof(float)) == 0);
}

/* Windows one after the other, with some states of full precision or none kept: the same bytes as all at once. */
START_TEST(gradients_are_accumulated)
{
    world          *w = world_of(_i % 2 == 1);
    bb_tuned        t[3];
    bb_tune_report  report[3];
    bb_tune_options o = options_of(_i < 2 ? BB_TUNE_KL : BB_TUNE_LOGITS, 0, LAYERS - 1);
    o.steps = 6, o.batch = 5, o.embedding = true;
    for (int k = 0; k < 3; k++) {
        o.at_once = k ? (uint32_t)k : 0;
        o.keep_bytes = k == 1 ? 1 : k == 2 ? 3 * T * 64 * sizeof(float) : 0;
        tune(w, &t[k], &o, &report[k]);
        ck_assert(report[k].best == report[0].best);
        same_network(w, &t[0], &t[k]);
    }
    for (int k = 0; k < 3; k++) bb_tuned_done(&t[k]);
    world_done(w);
}
END_TEST

static void raise_at_third(void *self, const bb_tune_look *l)
{
    if (l->step >= *(const uint32_t *)self) bb_interrupt_raise();
}

typedef struct norms {
    const char *path;
    double      mean[64]; /* of the gradient, as the state has it before each look */
    int         n;
} norms;

/* The state begins with magic, identity, steps and two counts. */
static void note_norm(void *self, const bb_tune_look *l)
{
    norms *s = self;
    char  *bytes;
    size_t size;
    if (l->step < 2) return; /* before the first step, and before there is a state */
    ck_assert_int_eq(bb_file_read(s->path, &bytes, &size, NULL), BB_OK);
    memcpy(&s->mean[s->n++], bytes + 72 + 16, sizeof(double));
    bb_free(bytes);
}

/* The running mean norm that gradients are cut by takes no more than twice itself of one step: a step that is far off cannot make way for the next ones. */
START_TEST(one_step_does_not_raise_the_limit_of_gradients)
{
    world          *w = world_of(TIED);
    norms           s = { .path = bb_test_path("norms.state") };
    bb_tuned        t;
    bb_tune_report  report;
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    int             raised = 0;
    o.steps = o.checks = 30, o.embedding = true, o.fields = o.norms = 1, o.clip = 1000;
    o.state = s.path, o.save_every_s = 1e-9, o.looked = note_norm, o.looked_self = &s;
    tune(w, &t, &o, &report);
    ck_assert_int_gt(s.n, 3);
    for (int i = 1; i < s.n; i++) {
        ck_assert_double_le(s.mean[i], 1.1 * s.mean[i - 1] * (1 + 1e-12));
        raised += s.mean[i] > 1.0999 * s.mean[i - 1];
    }
    ck_assert_int_gt(raised, 0);
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

/* Interrupted, in a new trainer taken up again, twice: the bytes and the report of a training that was not interrupted; the file is gone then. A state of
 * other options is refused, or passed over. */
START_TEST(goes_on_after_an_interruption)
{
    world          *w = world_of(_i == 1);
    bb_tuned        t[2];
    bb_tune_report  report[2];
    bb_tune_set     other = w->held;
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    bb_err          err = BB_ERR_INIT;
    uint32_t        stop = 3;
    const char     *path = bb_test_path("tune.state");
    other.tokens = w->tokens;
    o.steps = 16, o.checks = 8, o.embedding = true, o.other = &other;
    o.schedule = _i ? BB_TUNE_WSD : BB_TUNE_COSINE, o.decay = 0.4;
    o.estimator = _i ? BB_TUNE_DIFFERENTIABLE : BB_TUNE_STRAIGHT;
    o.label_share = _i == 1 ? 0.25 : 0;
    o.coarse_moments = _i == 2;
    tune(w, &t[0], &o, &report[0]);
    o.state = path;
    o.looked = raise_at_third;
    o.looked_self = &stop;
    for (int k = 0; k < 3; k++, stop = k == 1 ? 9 : 1000) {
        ck_assert_int_eq(bb_tuned_copy(&w->small, &t[1], &err), BB_OK);
        ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t[1], &o, &w->train, &w->held, &report[1], &err), k < 2 ? BB_INTERRUPTED : BB_OK);
        ck_assert_int_eq(bb_file_exists(path), k < 2);
        bb_interrupt_clear();
        if (k == 1) {
            bb_tuned copy;
            ck_assert_int_eq(bb_tuned_copy(&w->small, &copy, &err), BB_OK);
            o.weights *= 2;
            ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &copy, &o, &w->train, &w->held, &report[1], NULL), BB_BAD_FILE);
            o.weights /= 2;
            bb_tuned_done(&copy);
        }
        if (k < 2) bb_tuned_done(&t[1]);
    }
    ck_assert(report[0].best == report[1].best && report[0].other_best == report[1].other_best && report[0].best_step == report[1].best_step);
    same_network(w, &t[0], &t[1]);
    bb_tuned_done(&t[0]);
    bb_tuned_done(&t[1]);
    world_done(w);
}
END_TEST

/* ---- peers: threads here, processes in the program (tests/test_cli_mpi.c) ---- */

enum { MOST_PEERS = 4 };

/* Where what goes from one peer to another is put: the spans of who waits for it. */
typedef struct hall {
    pthread_mutex_t mutex;
    pthread_cond_t  changed;
    const bb_span  *wanted[MOST_PEERS][MOST_PEERS]; /* [from][to] */
    size_t          n_wanted[MOST_PEERS][MOST_PEERS];
} hall;

typedef struct peer {
    hall             *in;
    bb_peers          peers;
    const world      *w;
    const bb_backend *backend;
    bb_tune_options   o;
    bb_tuned          t;
    bb_tune_report    report;
    bb_status         status;
    pthread_t         thread;
} peer;

static void give(void *self, uint32_t to, const bb_span *spans, size_t n)
{
    const peer *p = self;
    hall       *h = p->in;
    pthread_mutex_lock(&h->mutex);
    const bb_span **wanted = &h->wanted[p->peers.rank][to];
    while (!*wanted) pthread_cond_wait(&h->changed, &h->mutex);
    ck_assert_uint_eq(n, h->n_wanted[p->peers.rank][to]);
    for (size_t i = 0; i < n; i++) {
        ck_assert_uint_eq(spans[i].size, (*wanted)[i].size);
        if (spans[i].size) memcpy((*wanted)[i].at, spans[i].at, spans[i].size);
    }
    *wanted = NULL;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mutex);
}

static void take(void *self, uint32_t from, const bb_span *spans, size_t n)
{
    const peer *p = self;
    hall       *h = p->in;
    pthread_mutex_lock(&h->mutex);
    const bb_span **wanted = &h->wanted[from][p->peers.rank];
    *wanted = spans;
    h->n_wanted[from][p->peers.rank] = n;
    pthread_cond_broadcast(&h->changed);
    while (*wanted) pthread_cond_wait(&h->changed, &h->mutex);
    pthread_mutex_unlock(&h->mutex);
}

static void *be_peer(void *self)
{
    peer  *p = self;
    bb_err err = BB_ERR_INIT;
    omp_set_num_threads(1);
    p->status = bb_tune(p->backend, &p->w->full.net, &p->t, &p->o, &p->w->train, &p->w->held, &p->report, &err);
    return NULL;
}

/* A backend that has no memory for the losses of held-out windows, once it has made so many of them. */
static uint32_t scores_left;

static bb_status score_a_few(void *self, size_t n, const bb_head_rows *of, double *kl, double *nll, unsigned char *same, bb_err *err)
{
    if (scores_left == 0) return BB_FAIL(err, BB_NOMEM, "no memory for a look");
    scores_left--;
    return bb_backend_cpu.ops->score(self, n, of, kl, nll, same, err);
}

/* n peers tune copies of the world's network; the first one has the state and the hook of o. They all end alike, but for the last one's fault. */
static bb_status tune_together_on(const bb_backend *last, const world *w, uint32_t n, const bb_tune_options *o, bb_tuned *t, bb_tune_report *report)
{
    static peer p[MOST_PEERS];
    hall        h = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    for (uint32_t i = 0; i < n; i++) {
        p[i] = (peer) { .in = &h, .peers = { &p[i], i, n, give, take }, .w = w, .backend = i + 1 < n ? &bb_backend_cpu : last, .o = *o };
        p[i].o.peers = n > 1 ? &p[i].peers : NULL;
        if (i > 0) p[i].o.state = NULL, p[i].o.looked = NULL;
        ck_assert_int_eq(bb_tuned_copy(&w->small, &p[i].t, NULL), BB_OK);
        ck_assert_int_eq(pthread_create(&p[i].thread, NULL, be_peer, &p[i]), 0);
    }
    for (uint32_t i = 0; i < n; i++) pthread_join(p[i].thread, NULL);
    for (uint32_t i = 1; i < n; i++) {
        ck_assert_int_eq(p[i].status, last != &bb_backend_cpu && i + 1 == n ? BB_NOMEM : p[0].status);
        ck_assert(p[i].report.best == p[0].report.best && p[i].report.best_step == p[0].report.best_step);
        same_network(w, &p[0].t, &p[i].t);
        bb_tuned_done(&p[i].t);
    }
    *t = p[0].t;
    *report = p[0].report;
    return p[0].status;
}

static bb_status tune_together(const world *w, uint32_t n, const bb_tune_options *o, bb_tuned *t, bb_tune_report *report)
{
    return tune_together_on(&bb_backend_cpu, w, n, o, t, report);
}

/* What n peers are stopped with in the middle: every weight and moment, to the last bit. */
static void state_of(const world *w, uint32_t n, bb_tune_options o, const char *path)
{
    uint32_t       stop = 1;
    bb_tuned       t;
    bb_tune_report report;
    o.state = path;
    o.looked = raise_at_third;
    o.looked_self = &stop;
    ck_assert_int_eq(tune_together(w, n, &o, &t, &report), BB_INTERRUPTED);
    bb_interrupt_clear();
    bb_tuned_done(&t);
}

/* Batches of one window, of fewer than there are peers, of several pieces at the head and of several groups; both precisions. */
START_TEST(peers_change_nothing)
{
    static const struct {
        uint32_t     world, batch, at_once, steps;
        bb_tune_loss loss;
    } ways[] = { { TIED, 1, 0, 4, BB_TUNE_KL },   { UNTIED, 3, 0, 4, BB_TUNE_KL },    { TIED, 7, 3, 3, BB_TUNE_LOGITS },
                 { TIED, 100, 0, 2, BB_TUNE_KL }, { UNTIED, 100, 40, 2, BB_TUNE_KL }, { TIED, 5, 0, 4, BB_TUNE_LABELS },
                 { 2, 66, 0, 2, BB_TUNE_KL },     { 4, 9, 0, 3, BB_TUNE_KL },         { 6, 9, 0, 3, BB_TUNE_KL } };
    world          *w = world_of((int)ways[_i / 2].world);
    bb_tuned        alone, t;
    bb_tune_report  report[2];
    bb_tune_options o = options_of(ways[_i / 2].loss, 0, LAYERS - 1);
    bb_tune_set     other = w->held;
    char            path[512], path_alone[512];
    snprintf(path, sizeof path, "%s", bb_test_path("peers.state"));
    snprintf(path_alone, sizeof path_alone, "%s", bb_test_path("alone.state"));
    bb_kernels_set_precision(_i % 2 ? BB_FAST : BB_EXACT);
    other.tokens = w->tokens;
    o.batch = ways[_i / 2].batch, o.at_once = ways[_i / 2].at_once, o.steps = ways[_i / 2].steps, o.checks = 2, o.embedding = true, o.other = &other;
    o.label_share = ways[_i / 2].batch == 3 ? 0.25 : 0;
    tune(w, &alone, &o, &report[0]);
    state_of(w, 1, o, path_alone);
    for (uint32_t n = 2; n <= MOST_PEERS; n++) {
        ck_assert_int_eq(tune_together(w, n, &o, &t, &report[1]), BB_OK);
        ck_assert(report[0].best == report[1].best && report[0].other_best == report[1].other_best && report[0].best_step == report[1].best_step);
        same_network(w, &alone, &t);
        bb_tuned_done(&t);
        state_of(w, n, o, path);
        bb_test_same(path_alone, path);
        unlink(path);
    }
    unlink(path_alone);
    bb_kernels_set_precision(BB_EXACT);
    bb_tuned_done(&alone);
    world_done(w);
}
END_TEST

/* Three that are interrupted, two, one: the bytes of a training that was not. The second one has begun again when it is stopped. */
START_TEST(other_peers_go_on)
{
    world          *w = world_of(TIED);
    bb_tuned        alone, t;
    bb_tune_report  report[2];
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    uint32_t        stop = 3;
    o.steps = 16, o.checks = 8, o.batch = 5, o.embedding = true;
    if (_i) o.weights = 0.4, o.trial = 0.15;
    tune(w, &alone, &o, &report[0]);
    ck_assert_uint_gt(report[0].best_step, _i ? 3 : 0);
    o.state = bb_test_path("peers.state");
    o.looked = raise_at_third;
    o.looked_self = &stop;
    for (uint32_t n = 3; n > 0; n--, stop = n == 2 ? 9 : 1000) {
        ck_assert_int_eq(tune_together(w, n, &o, &t, &report[1]), n > 1 ? BB_INTERRUPTED : BB_OK);
        ck_assert_int_eq(bb_file_exists(o.state), n > 1);
        bb_interrupt_clear();
        if (n > 1) bb_tuned_done(&t);
    }
    ck_assert(report[0].best == report[1].best && report[0].best_step == report[1].best_step);
    same_network(w, &alone, &t);
    bb_tuned_done(&t);
    bb_tuned_done(&alone);
    world_done(w);
}
END_TEST

/* A peer that fails in a look, at a trial's end or later, stops the others before it is over: who goes on does not do without it. */
START_TEST(a_look_that_failed_is_not_left_out)
{
    bb_operations   ops = *bb_backend_cpu.ops;
    bb_backend      forgetful = { &ops, bb_backend_cpu.context };
    world          *w = world_of(TIED);
    bb_tuned        alone, t;
    bb_tune_report  report[2];
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    ops.score = score_a_few;
    o.steps = 16, o.checks = 8, o.batch = 5, o.embedding = true, o.weights = 0.4, o.trial = 0.15;
    tune(w, &alone, &o, &report[0]);
    o.state = bb_test_path("look.state");
    o.save_every_s = _i ? 1e-9 : 0;
    scores_left = 1 + (uint32_t)_i; /* the start, _i looks */
    ck_assert_int_eq(tune_together_on(&forgetful, w, 3, &o, &t, &report[1]), BB_INTERRUPTED);
    ck_assert_uint_eq(scores_left, 0);
    ck_assert_uint_gt(report[1].steps, 0);
    bb_tuned_done(&t);
    ck_assert_int_eq(tune_together(w, 2, &o, &t, &report[1]), BB_OK);
    ck_assert(report[0].best == report[1].best && report[0].best_step == report[1].best_step);
    same_network(w, &alone, &t);
    bb_tuned_done(&t);
    bb_tuned_done(&alone);
    world_done(w);
}
END_TEST

typedef struct looks {
    uint32_t n;
    double   score[64], other[64];
    bool     better[64];
    uint32_t step[64];
} looks;

static void note_look(void *self, const bb_tune_look *look)
{
    looks *l = self;
    ck_assert_uint_lt(l->n, 64);
    l->score[l->n] = look->loss;
    l->other[l->n] = look->other;
    l->better[l->n] = look->better;
    l->step[l->n++] = look->step;
}

/* What rates that are given up leave is what a training of the remaining steps at the lower rates makes of the start: there is but one window to draw. Rates from fair to hopeless:
 * all numbers of trials are met. */
START_TEST(rates_too_high_are_given_up)
{
    static const double rates[] = { 0.05, 0.12, 0.2, 0.4, 1.5, 40, 1e4 };
    bool                met[4] = { false };
    world              *w = world_of(TIED);
    bb_tune_set         one = w->train, other = w->train;
    one.n = 1;
    other.n = 2;
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        bb_tuned        t[2];
        bb_tune_report  report[2];
        bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
        looks           l = { 0 };
        uint32_t        began = 0, given_up = 0, trial = 5; /* an eighth of 40 */
        o.weights = rates[i], o.batch = 1, o.clip = 1, o.embedding = true, o.trial = 0.125, o.looked = note_look, o.looked_self = &l,
        o.other = i % 2 ? &other : NULL;
        ck_assert_int_eq(bb_tuned_copy(&w->small, &t[0], NULL), BB_OK);
        ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t[0], &o, &one, &w->held, &report[0], NULL), BB_OK);
        for (uint32_t k = 1; k < l.n && given_up < 3; k++) {
            const double fallen = o.other ? 0.5 * (l.score[k] / l.score[0] + l.other[k] / l.other[0]) : l.score[k] / l.score[0];
            if (l.step[k] != began + trial) continue;
            if (fallen < 1) break;
            given_up++;
            began = l.step[k];
            trial = (40 - began + 7) / 8;
        }
        met[given_up] = true;
        o.weights *= pow(0.25, given_up), o.fields *= pow(0.25, given_up), o.norms *= pow(0.25, given_up);
        o.steps = 40 - began, o.trial = 0;
        o.checks = o.steps; /* every look of the other one is among these */
        ck_assert_int_eq(bb_tuned_copy(&w->small, &t[1], NULL), BB_OK);
        looks all = { 0 };
        o.looked = note_look, o.looked_self = &all;
        ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t[1], &o, &one, &w->held, &report[1], NULL), BB_OK);
        for (uint32_t k = 0; k < l.n; k++) {
            if (l.step[k] <= began) continue;
            const uint32_t same = l.step[k] - began;
            ck_assert_uint_lt(same, all.n);
            ck_assert_msg(l.score[k] == all.score[same] && l.other[k] == all.other[same], "rate %g, step %u: %g, alone %g", rates[i], l.step[k], l.score[k],
                          all.score[same]);
        }
        ck_assert(report[0].best <= report[0].start && report[0].tokens <= 40u * T);
        for (int k = 0; k < 2; k++) bb_tuned_done(&t[k]);
    }
    ck_assert(met[0] && met[1] + met[2] && met[3]);
    world_done(w);
}
END_TEST

/* A look inside a trial at which the training is lost, or patience is at its end, is the end of the rates and not of the training: of 40 steps the second trial has 4 to 6, and 5 is
 * looked at. */
START_TEST(a_trial_that_is_lost_early_is_given_up)
{
    world          *w = world_of(TIED);
    bb_tuned        t;
    bb_tune_report  report;
    bb_tune_options o = options_of(_i ? BB_TUNE_KL : BB_TUNE_LABELS, 0, LAYERS - 1);
    int32_t         constant[WINDOWS * T];
    bb_tune_set     train = w->train;
    looks           l = { 0 };
    for (int i = 0; i < WINDOWS * T; i++) constant[i] = 7;
    o.weights = 1.6, o.fields = o.norms = 0.2, o.embedding = true, o.trial = 0.0625, o.looked = note_look, o.looked_self = &l;
    if (_i) o.checks = 40, o.patience = 2;
    else train.tokens = train.targets = constant, o.weights = 2.4, o.norms = 0.4;
    ck_assert_int_eq(bb_tuned_copy(&w->small, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &train, &w->held, &report, NULL), BB_OK);
    ck_assert_uint_eq(l.step[_i ? 5 : 2], 5);
    ck_assert(l.score[_i ? 5 : 2] > (_i ? l.score[4] : 4 * l.score[0]));
    ck_assert_uint_gt(report.steps, 8);
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

/* Rates at which the second step has no gradient any more are given up like others, and the step counts: its windows are drawn. Where no share of them does, the training fails. */
START_TEST(a_trial_without_a_gradient_is_given_up)
{
    world          *w = world_of(TIED);
    bb_tuned        t;
    bb_tune_report  report;
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    bb_err          err = BB_ERR_INIT;
    looks           l = { 0 };
    o.norms = _i ? 1e38 : 1e19, o.embedding = true, o.trial = 0.125, o.looked = note_look, o.looked_self = &l;
    ck_assert_int_eq(bb_tuned_copy(&w->small, &t, NULL), BB_OK);
    const bb_status status = bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &w->train, &w->held, &report, &err);
    ck_assert_int_eq(status, _i ? BB_NUMERIC : BB_OK);
    ck_assert_uint_eq(report.steps,
                      _i ? 6
                         : 40); /* two beginnings of a step and one without a gradient; one that the look at 5 ends; a step of the last, which is no trial */
    ck_assert_uint_gt(l.n, _i ? 0 : 5);
    for (uint32_t i = 0; !_i && i < l.n; i++) ck_assert(isfinite(l.score[i]));
    if (!_i) ck_assert_str_eq(err.msg, "");
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

/* Stopped after any step, of a first, a second and a last trial, before and behind what ends them: the bytes of a training that was not stopped. */
START_TEST(goes_on_in_any_trial)
{
    enum { STEPS = 12 };
    world          *w = world_of(TIED);
    bb_tuned        t[2];
    bb_tune_report  report[2];
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    bb_tune_set     other = w->held;
    bb_err          err = BB_ERR_INIT;
    looks           l = { 0 };
    other.tokens = w->tokens;
    o.steps = o.checks = STEPS, o.embedding = true, o.weights = 1.6, o.fields = o.norms = 0.2, o.trial = 0.15, o.patience = 3;
    o.coarse_moments = _i % 2, o.other = _i / 2 ? &other : NULL;
    o.looked = note_look, o.looked_self = &l;
    tune(w, &t[0], &o, &report[0]);
    o.state = bb_test_path("any.state");
    o.looked = raise_at_third;
    for (uint32_t stop = 1; stop < report[0].steps; stop++) {
        uint32_t at = stop;
        o.looked_self = &at;
        for (int k = 0; k < 2; k++, at = 1000) {
            ck_assert_int_eq(bb_tuned_copy(&w->small, &t[1], NULL), BB_OK);
            const bb_status status = bb_tune(&bb_backend_cpu, &w->full.net, &t[1], &o, &w->train, &w->held, &report[1], k ? &err : NULL);
            ck_assert_msg(status == (k ? BB_OK : BB_INTERRUPTED), "%s", err.msg);
            bb_interrupt_clear();
            if (!k) bb_tuned_done(&t[1]);
        }
        ck_assert_msg(report[0].best == report[1].best && report[0].best_step == report[1].best_step && report[0].steps == report[1].steps, "stopped after %u",
                      stop);
        same_network(w, &t[0], &t[1]);
        bb_tuned_done(&t[1]);
    }
    ck_assert(l.score[2] > l.score[0] && l.score[4] > l.score[0] && report[0].best_step > 4); /* trials end at 2 and 4 */
    bb_tuned_done(&t[0]);
    world_done(w);
}
END_TEST

/* A text that the training harms: nothing is kept, though the other one gains. Patience ends it early. */
START_TEST(no_text_may_lose)
{
    world          *w = world_of(false);
    bb_tuned        t;
    bb_tune_report  report;
    bb_tune_options o = options_of(BB_TUNE_LABELS, 0, LAYERS - 1);
    int32_t         constant[WINDOWS * T];
    bb_tune_set     train = w->train, other = w->held;
    bb_err          err = BB_ERR_INIT;
    for (int i = 0; i < WINDOWS * T; i++) constant[i] = 7; /* what labels like these teach is of no use elsewhere */
    train.tokens = train.targets = constant;
    o.embedding = true, o.other = &other, o.patience = 2, o.weights = 0.1, o.norms = 0.001;
    ck_assert_int_eq(bb_tuned_copy(&w->small, &t, &err), BB_OK);
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &train, &w->held, &report, &err), BB_OK);
    ck_assert_uint_eq(report.best_step, 0);
    ck_assert_uint_eq(report.steps, 10);
    ck_assert(report.other_best == report.other_start && report.best == report.start);
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

/* The same beside another text that gains much: the mean of both falls, and the text that is asked for still may not lose. */
START_TEST(a_gain_on_the_other_text_pays_for_no_loss)
{
    world          *w = world_of(false);
    bb_tuned        t;
    bb_tune_report  report;
    bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
    int32_t         constant[WINDOWS * T];
    bb_tune_set     train = w->train, other;
    looks           l = { 0 };
    bool            tempted = false;
    for (int i = 0; i < WINDOWS * T; i++) constant[i] = 7;
    train.tokens = constant;
    other = (bb_tune_set) { constant, constant, 1, T, 2, T - 3 };
    o.embedding = true, o.other = &other, o.weights = 0.01, o.looked = note_look, o.looked_self = &l;
    ck_assert_int_eq(bb_tuned_copy(&w->small, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &train, &w->held, &report, NULL), BB_OK);
    for (uint32_t i = 1; i < l.n; i++) {
        const double mean = 0.5 * (l.score[i] / report.start + l.other[i] / report.other_start);
        if (l.score[i] > report.start) ck_assert(!l.better[i]);
        tempted |= l.score[i] > report.start && mean < 1;
    }
    ck_assert(tempted); /* else this says nothing */
    ck_assert(report.best <= report.start && report.other_best <= report.other_start);
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

/* A training whose loss has come to four times that of the start does not go on, however patient. */
START_TEST(a_lost_training_ends)
{
    world          *w = world_of(false);
    bb_tuned        t;
    bb_tune_report  report;
    bb_tune_options o = options_of(BB_TUNE_LABELS, 0, LAYERS - 1);
    int32_t         constant[WINDOWS * T];
    bb_tune_set     train = w->train;
    looks           l = { 0 };
    for (int i = 0; i < WINDOWS * T; i++) constant[i] = 7;
    train.tokens = train.targets = constant;
    o.embedding = true, o.weights = 0.1, o.norms = 0.001, o.looked = note_look, o.looked_self = &l;
    ck_assert_int_eq(bb_tuned_copy(&w->small, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &train, &w->held, &report, NULL), BB_OK);
    ck_assert_uint_gt(l.n, 1);
    ck_assert(l.score[l.n - 1] >= 4 * l.score[0] && l.step[l.n - 1] < o.steps);
    for (uint32_t i = 0; i + 1 < l.n; i++) ck_assert(l.score[i] < 4 * l.score[0]);
    ck_assert_uint_eq(report.steps, l.step[l.n - 1]);
    ck_assert(report.best <= report.start);
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

/* Patience counts looks that fall behind the one before: what rises while the rate is high and comes back as it falls goes on. At these rates some end early and some do not. */
START_TEST(patience_ends_what_keeps_rising)
{
    static const float rates[] = { 0.002F, 0.05F, 0.2F, 0.5F, 1 };
    bool               early = false, turned = false;
    world             *w = world_of(false);
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        bb_tuned        t;
        bb_tune_report  report;
        bb_tune_options o = options_of(BB_TUNE_KL, 0, LAYERS - 1);
        looks           l = { 0 };
        bb_err          err = BB_ERR_INIT;
        uint32_t        behind = 0, end = o.steps, since = 0;
        o.patience = 2, o.weights = rates[i], o.looked = note_look, o.looked_self = &l;
        ck_assert_int_eq(bb_tuned_copy(&w->small, &t, &err), BB_OK);
        ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &w->train, &w->held, &report, &err), BB_OK);
        for (uint32_t k = 1; k < l.n; k++) {
            behind = l.better[k] || l.score[k] < l.score[k - 1] ? 0 : behind + 1;
            since = l.better[k] ? 0 : since + 1;
            turned |= since >= 2 && behind < 2;
            early |= behind == 2 && l.step[k] < o.steps;
            if (behind < 2 && l.score[k] < 4 * l.score[0]) continue; /* four times the loss is the end in any case */
            end = l.step[k];
            break;
        }
        ck_assert_uint_eq(report.steps, end);
        bb_tuned_done(&t);
    }
    ck_assert(early && turned);
    world_done(w);
}
END_TEST

/* The slope of the smooth rounding of a grid: a fifth at its levels and past its ends, 3 half-way, by its formula between; codebooks have none. */
START_TEST(smooth_rounding_has_its_slope)
{
    static const char *const names[] = { "Q2_0", "Q4_K", "IQ4_NL", "IQ2_XXS" };
    scene                    s = scene_of(bb_format_find(names[_i]));
    const size_t             n = s.f->block;
    bb_code                  c = { 0 };
    float                    a[BB_MAX_GROUPS], b[BB_MAX_GROUPS], expected[BB_MAX_BLOCK];
    s.f->unpack(s.packed, &c);
    if (s.f->vec == 1) s.f->scales(&c, a, b);
    for (size_t i = 0; i < n; i++) {
        s.l.g_w[i] = 2;
        expected[i] = 2;
        if (s.f->vec > 1) continue;
        const size_t g = i / s.f->group, k = i % s.f->n_levels;
        const double low = (double)s.f->levels[k], high = k + 1 < s.f->n_levels ? (double)s.f->levels[k + 1] : low + 5, r = (double)(i % 10) / 10;
        s.l.w[i] = (float)((low + r * (high - low)) * (double)a[g] + (double)b[g]);
        expected[i] = (float)(k + 1 == s.f->n_levels ? 0.4 : fmin(6, 0.4 * pow(fabs(2 * r - 1), -0.8)));
    }
    bb_latent_gradients(&s.l, true);
    for (size_t i = 0; i < n; i++)
        if (s.f->vec > 1 || fabsf(a[i / s.f->group]) > 1e-20f)
            ck_assert_msg(fabs((double)s.l.g_w[i] - (double)expected[i]) < (i % 10 == 5 ? 1e-6 : 2e-3), "%s[%zu]: %g, by the formula %g", s.f->name, i,
                          (double)s.l.g_w[i], (double)expected[i]);
    scene_done(&s);
}
END_TEST

START_TEST(world_is_checked)
{
    world          *w = world_of(TIED);
    bb_tuned        t;
    bb_tune_report  report;
    bb_tune_options o = options_of(BB_TUNE_LABELS, 0, LAYERS - 1);
    bb_tune_set     none = w->train, unlabelled = w->train;
    bb_err          err = BB_ERR_INIT;
    none.n = 0;
    unlabelled.targets = NULL;
    ck_assert_int_eq(bb_tuned_copy(&w->small, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &none, &w->held, &report, &err), BB_FAILED);
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &unlabelled, &w->held, &report, NULL), BB_FAILED);
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &w->train, &w->held, &report, NULL), BB_OK);
    /* Windows of another length are refused before anything is run on them, a held-out text's as well. */
    bb_tune_set     longer = { w->tokens, w->targets, 1, 2 * T, 2, 2 * T - 3 };
    bb_tune_options blocks = options_of(BB_TUNE_OUTPUT, 0, LAYERS - 1), beside = o;
    beside.other = &longer;
    err = (bb_err)BB_ERR_INIT;
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &w->train, &longer, &report, &err), BB_FAILED);
    ck_assert_msg(strstr(err.msg, "of one length") != NULL, "%s", err.msg);
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &beside, &w->train, &w->held, &report, NULL), BB_FAILED);
    ck_assert_int_eq(bb_tune_blocks(&bb_backend_cpu, &w->full.net, &t, &blocks, &w->train, &longer, NULL, NULL), BB_FAILED);
    bb_interrupt_raise();
    ck_assert_int_eq(bb_tune(&bb_backend_cpu, &w->full.net, &t, &o, &w->train, &w->held, &report, NULL), BB_INTERRUPTED);
    bb_interrupt_clear();
    bb_tuned_done(&t);
    world_done(w);
}
END_TEST

START_TEST(another_backend_tunes_the_same)
{
    static const bb_tune_loss losses[] = { BB_TUNE_KL, BB_TUNE_LOGITS, BB_TUNE_LABELS, BB_TUNE_OUTPUT };
    world                    *w = world_of(_i % 2 ? UNTIED : TIED);
    guarded                   g;
    bb_tuned                  t[2];
    bb_tune_report            report[2][LAYERS] = { 0 };
    bb_tune_options           o = options_of(losses[_i], 0, LAYERS - 1);
    o.steps = 6;
    o.checks = 3;
    o.embedding = losses[_i] != BB_TUNE_OUTPUT;
    guarded_make(&g);
    for (int i = 0; i < 2; i++) {
        const bb_backend *k = i ? &g.backend : &bb_backend_cpu;
        ck_assert_int_eq(bb_tuned_copy(&w->small, &t[i], NULL), BB_OK);
        if (losses[_i] == BB_TUNE_OUTPUT) ck_assert_int_eq(bb_tune_blocks(k, &w->full.net, &t[i], &o, &w->train, &w->held, report[i], NULL), BB_OK);
        else ck_assert_int_eq(bb_tune(k, &w->full.net, &t[i], &o, &w->train, &w->held, report[i], NULL), BB_OK);
    }
    for (int b = 0; b < LAYERS; b++) ck_assert(report[0][b].start == report[1][b].start && report[0][b].best == report[1][b].best);
    for (int b = 0; b < LAYERS; b++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *m = &t[0].net.blocks[b].w[p];
            const size_t     n = m->rows * bb_format_row_bytes(bb_format_get(m->type), m->cols); /* 0: a part that the block lacks */
            ck_assert(n == 0 || memcmp(t[0].bytes[b].w[p], t[1].bytes[b].w[p], n) == 0);
        }
    ck_assert_int_eq(memcmp(t[0].embd, t[1].embd, 48 * bb_format_row_bytes(bb_format_get(BB_Q4_0), 64)), 0);
    for (int i = 0; i < 2; i++) bb_tuned_done(&t[i]);
    guarded_done(&g);
    world_done(w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tune");
    TCase *t = tcase_create("latent"), *n = tcase_create("networks");
    int    formats = 0;
    while (bb_format_at((size_t)formats)) formats++;
    tcase_add_loop_test(t, bytes_and_numbers_agree, 0, formats);
    tcase_add_loop_test(t, what_hardly_moves_is_not_searched_again, 0, formats);
    tcase_add_loop_test(t, codes_are_nearest, 0, formats);
    tcase_add_test(t, ties_between_levels);
    tcase_add_test(t, fields_stay_in_their_range);
    tcase_add_loop_test(t, field_gradients_are_differences, 0, formats);
    tcase_add_test(t, knows_the_fields);
    tcase_add_loop_test(n, end_to_end_lowers_the_divergence, 0, N_WORLDS);
    tcase_add_loop_test(n, last_block_alone, 0, 3);
    tcase_add_loop_test(n, running_out_of_memory_is_survived, 0, 2);
    tcase_add_test(n, blocks_in_turn);
    tcase_add_loop_test(n, another_backend_tunes_the_same, 0, 4);
    tcase_add_test(n, rolled_back_when_it_does_not_help);
    tcase_add_test(n, threads_change_nothing);
    tcase_add_test(n, world_is_checked);
    tcase_add_loop_test(n, gradients_are_accumulated, 0, 3);
    tcase_add_test(n, one_step_does_not_raise_the_limit_of_gradients);
    tcase_add_loop_test(n, goes_on_after_an_interruption, 0, 3);
    tcase_add_loop_test(n, peers_change_nothing, 0, 18);
    tcase_add_loop_test(n, other_peers_go_on, 0, 2);
    tcase_add_loop_test(n, a_look_that_failed_is_not_left_out, 0, 4);
    tcase_add_test(n, rates_too_high_are_given_up);
    tcase_add_loop_test(n, a_trial_without_a_gradient_is_given_up, 0, 2);
    tcase_add_loop_test(n, goes_on_in_any_trial, 0, 4);
    tcase_add_loop_test(n, a_trial_that_is_lost_early_is_given_up, 0, 2);
    tcase_add_test(n, no_text_may_lose);
    tcase_add_test(n, a_gain_on_the_other_text_pays_for_no_loss);
    tcase_add_test(n, a_lost_training_ends);
    tcase_add_test(n, patience_ends_what_keeps_rising);
    tcase_add_loop_test(t, smooth_rounding_has_its_slope, 0, 4);
    suite_add_tcase(s, t);
    suite_add_tcase(s, n);
    return bb_test_run(s);
}
