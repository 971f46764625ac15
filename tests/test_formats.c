/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_formats.c: the weight formats. Oracles: llama.cpp's bytes and errors (tests/data/formats/README.md), every stored
 * scale tried in turn (one-scale grids), and sums in double written from the definition. */
#include <check.h>
#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/hash.h"
#include "base/rng.h"
#include "kernels/format.h"
#include "kernels/half.h"
#include "kernels/integer.h"
#include "kernels/kernels.h"
#include "tests/support/support.h"

enum { ROWS = 8, COLS = 1024, N = ROWS * COLS };

static float         weights[N], importance[COLS], decoded[N];
static unsigned char blocks[N * 4];

/* Names of the vector files: lower case, the K of K-quants in upper case. */
static void file_name(const bb_format *f, char name[16])
{
    size_t n = strlen(f->name);
    for (size_t i = 0; i <= n; i++) name[i] = (char)tolower((unsigned char)f->name[i]);
    if (n > 2 && strcmp(name + n - 2, "_k") == 0) name[n - 1] = 'K';
}

static size_t read_into(const char *folder, const char *name, const char *suffix, void *out, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix);
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    size_t n = fread(out, 1, size, file);
    fclose(file);
    return n;
}

static const bb_format *tested(int i) { return bb_format_at((size_t)i); }
/* The list's scalar grids are those with levels; codebooks have their own suite. */
static bool is_grid(const bb_format *f) { return f->vec == 1; }

static int n_formats(void)
{
    int n = 0;
    while (bb_format_at((size_t)n)) n++;
    return n;
}

START_TEST(registry_is_sound)
{
    double last = 0;
    for (int i = 0; i < n_formats(); i++) {
        const bb_format *f = tested(i);
        ck_assert_ptr_eq(bb_format_get(f->type), f);
        ck_assert_ptr_eq(bb_format_find(f->name), f);
        ck_assert(bb_format_bpw(f) >= last);
        last = bb_format_bpw(f);
        ck_assert_uint_eq(bb_format_row_bytes(f, 1024), (size_t)1024 / f->block * f->block_bytes);
        for (int k = 1; k < f->n_levels; k++) ck_assert(f->levels[k] > f->levels[k - 1]);
    }
    ck_assert_ptr_eq(bb_format_find("q4_k"), bb_format_get(BB_Q4_K));
    ck_assert_ptr_null(bb_format_find("Q9"));
    ck_assert_ptr_null(bb_format_find(NULL));
    ck_assert_ptr_null(bb_format_get((bb_type)4));
    ck_assert_ptr_null(bb_format_at((size_t)n_formats()));
}
END_TEST

static void load_blocks(const bb_format *f)
{
    char name[16];
    file_name(f, name);
    ck_assert_uint_eq(read_into("tests/data/formats", name, ".blocks", blocks, sizeof blocks), bb_format_row_bytes(f, N));
}

START_TEST(decodes_as_llama_cpp)
{
    const bb_format *f = tested(_i);
    char             name[16], hex[65];
    bb_csv           t;
    bb_sha256        hash;
    if (f->type == BB_F32) return;
    file_name(f, name);
    load_blocks(f);
    f->decode(blocks, decoded, N);
    bb_sha256_init(&hash);
    bb_sha256_update(&hash, decoded, sizeof decoded);
    bb_sha256_hex(&hash, hex);
    ck_assert_int_eq(bb_csv_read("tests/data/formats/decoded.csv", &t, NULL), BB_OK);
    size_t found = 0;
    for (size_t r = 0; r < t.n_rows; r++)
        if (strcmp(bb_csv_text(&t, r, 0), name) == 0) {
            ck_assert_str_eq(hex, bb_csv_text(&t, r, 1));
            found++;
        }
    bb_csv_done(&t);
    ck_assert_uint_eq(found, 1);
}
END_TEST

START_TEST(every_half_is_decoded)
{
    static uint16_t halves[1 << 16];
    static float    out[1 << 16];
    for (unsigned i = 0; i < 1u << 16; i++) halves[i] = (uint16_t)i;
    bb_format_f16.decode(halves, out, 1 << 16);
    for (unsigned i = 0; i < 1u << 16; i++) ck_assert_uint_eq(bb_float_bits(out[i]), bb_float_bits(bb_half_to_float((uint16_t)i)));
}
END_TEST

/* Untrusted blocks: nothing crashes or reads out of bounds (sanitizers watch), whatever the values are. */
START_TEST(any_bytes_are_a_block)
{
    const bb_format *f = tested(_i);
    bb_rng           r;
    bb_rng_init(&r, 8, f->name);
    for (int t = 0; t < 200; t++) {
        unsigned char bytes[1024];
        float         y[256], w[256], a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
        bb_code       c;
        for (size_t i = 0; i < f->block_bytes; i++) bytes[i] = (unsigned char)(t < 2 ? 255 * t : (int)bb_rng_below(&r, 256));
        for (int i = 0; i < 256; i++) w[i] = (float)bb_rng_normal(&r);
        f->decode(bytes, y, f->block);
        f->dot(bytes, w, f->block);
        if (!is_grid(f)) continue;
        f->unpack(bytes, &c);
        f->scales(&c, a, b);
        f->refit(w, NULL, &c);
        f->pack(&c, bytes);
    }
}
END_TEST

/* Any bytes at all mean the same to the decoder and to products of integers, which are asked for one weight after the other. */
START_TEST(integers_of_any_bytes_are_the_weights)
{
    enum { COLUMNS = 256 };
    const bb_format *f = tested(_i);
    static int8_t    q[COLUMNS * COLUMNS];
    static int32_t   sum[COLUMNS * COLUMNS / BB_INTEGER_HALF];
    static float     scale[COLUMNS * COLUMNS / BB_INTEGER_GROUP];
    unsigned char    bytes[COLUMNS * 4];
    float            want[COLUMNS], got[COLUMNS];
    bb_integers      w;
    bb_rng           r;
    if (!bb_integers_shape(&w, f, 1, COLUMNS)) return;
    bb_rng_init(&r, 23, f->name);
    for (size_t c = 0; c < COLUMNS; c++) q[c * COLUMNS + c] = 1, sum[(c * COLUMNS + c) / BB_INTEGER_HALF] = 1;
    for (size_t i = 0; i < sizeof scale / sizeof *scale; i++) scale[i] = 1;
    w.panels = aligned_alloc(64, bb_integers_bytes(&w));
    for (int t = 0; t < 50; t++) {
        float largest = 0;
        for (size_t i = 0; i < bb_format_row_bytes(f, COLUMNS); i++) bytes[i] = (unsigned char)bb_rng_below(&r, 256);
        f->decode(bytes, want, COLUMNS);
        for (int i = 0; i < COLUMNS; i++) largest = isfinite(want[i]) ? fmaxf(largest, fabsf(want[i])) : INFINITY;
        if (!isfinite(largest)) continue;
        bb_integers_pack(&w, bytes, 0);
        bb_kernels_at(0)->integer_product(&w, 0, 1, COLUMNS, q, scale, sum, NULL, false, got);
        for (int i = 0; i < COLUMNS; i++)
            ck_assert_msg(fabsf(got[i] - want[i]) <= 0x1p-9f * largest, "%s: weight %d is %g, not %g", f->name, i, (double)got[i], (double)want[i]);
    }
    free(w.panels);
}
END_TEST

START_TEST(pack_undoes_unpack)
{
    const bb_format *f = tested(_i);
    if (!f->unpack) return;
    size_t size = bb_format_row_bytes(f, N);
    load_blocks(f);
    f->decode(blocks, decoded, N);
    for (size_t at = 0; at < size; at += f->block_bytes) {
        unsigned char again[BB_MAX_BLOCK * 4];
        bb_code       c;
        f->unpack(blocks + at, &c);
        f->pack(&c, again);
        if (f->type == BB_MXFP4 || f->type == BB_NVFP4) { /* nibble 8, a second zero, is not ours to write */
            float one[64], two[64];
            f->decode(blocks + at, one, f->block);
            f->decode(again, two, f->block);
            for (int i = 0; i < f->block; i++) ck_assert(one[i] == two[i]);
        } else {
            ck_assert_msg(memcmp(again, blocks + at, f->block_bytes) == 0, "%s: block at byte %zu", f->name, at);
        }
    }
}
END_TEST

START_TEST(dot_is_the_sum_of_products)
{
    const bb_format *f = tested(_i);
    if (f->type == BB_F32) return;
    load_blocks(f);
    f->decode(blocks, decoded, N);
    for (size_t n = f->block; n <= COLS; n += f->block < 32 ? 37 : f->block) {
        static float x[COLS];
        double       sum = 0, magnitude = 0;
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)((int)(i * 7919 % 1009) - 504) / 504.0f;
            sum += (double)decoded[i] * (double)x[i];
            magnitude += (double)decoded[i] * (double)decoded[i];
        }
        float got = f->dot(blocks, x, n);
        /* Rounding: n products and sums of relative size 2^-24, Cauchy-Schwarz with |x| <= 1. */
        double bound = 0x1p-23 * (double)n * (magnitude + (double)n);
        ck_assert_msg(sum - (double)got <= bound && (double)got - sum <= bound, "%s n=%zu: %g, not %g", f->name, n, (double)got, sum);
    }
}
END_TEST

/* ---- encoders ---- */

/* sum h (w - y)^2 over rows r0..r1-1 of COLS weights; h NULL: ones. */
static double weighted_error(const float *w, const float *y, const float *h, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double r = (double)w[i] - (double)y[i];
        sum += (h ? (double)h[i % COLS] : 1.0) * r * r;
    }
    return sum;
}

static double vector_error(const char *name)
{
    bb_csv t;
    double error = -1;
    ck_assert_int_eq(bb_csv_read("tests/data/formats/vectors.csv", &t, NULL), BB_OK);
    for (size_t r = 0; r < t.n_rows; r++)
        if (strcmp(bb_csv_text(&t, r, 0), name) == 0)
            ck_assert_int_eq(bb_csv_double(&t, r, (size_t)bb_csv_column(&t, "weighted_relative_error"), &error, NULL), BB_OK);
    bb_csv_done(&t);
    ck_assert(error >= 0);
    return error;
}

START_TEST(beats_llama_cpp_at_equal_bytes)
{
    const bb_format *f = tested(_i);
    static float     zeros[N];
    char             name[16];
    if (f->type == BB_F32 || f->vec > 1) return;
    file_name(f, name);
    for (size_t r = 0; r < ROWS; r++) f->encode(weights + r * COLS, importance, blocks + r * bb_format_row_bytes(f, COLS), COLS);
    f->decode(blocks, decoded, N);
    double error = weighted_error(weights, decoded, importance, 6 * COLS) / weighted_error(weights, zeros, importance, 6 * COLS);
    /* The table has six decimals; where llama.cpp never chose a scale by error, an optimal one must be far below it. */
    double stock = vector_error(name), limit = stock + 0.5e-6;
    if (f->type == BB_TQ1_0 || f->type == BB_TQ2_0) limit = 0.25 * stock;
    if (f->type == BB_Q2_0) limit = 0.20 * stock;
    if (f->type == BB_NVFP4) limit = 0.70 * stock;
    if (is_grid(f) && f->type >= BB_Q2_K && f->type <= BB_Q6_K) limit = 0.90 * stock;
    ck_assert_msg(error <= limit, "%s: %.6f, not at most %.6f", f->name, error, limit);
}
END_TEST

/* Blocks that hurt: one of each kind, then random ones with heavy tails and uneven importance. */
enum { KINDS = 16 };
static void make_block(bb_rng *r, int kind, float *w, float *h)
{
    for (int i = 0; i < 256; i++) {
        double tail = bb_rng_uniform(r) < 0.02 ? 8 : 1;
        w[i] = (float)(0.05 * tail * bb_rng_normal(r));
        h[i] = (float)exp(bb_rng_normal(r));
    }
    for (int i = 0; i < 256; i++) switch (kind) {
        case 0: w[i] = 0; break;
        case 1: w[i] = 0.37f; break;
        case 2: w[i] = -1.9f; break;
        case 3:
            if (i == 77) w[i] = 1e4f;
            break;
        case 4: w[i] *= 1e-40f; break;
        case 5: w[i] *= 1e38f; break;
        case 6: h[i] = 0; break;
        case 7:
            if (i % 3) h[i] = 0;
            break;
        case 8:
            if (i / 32 % 2) h[i] = 0;
            if (i / 32 % 2) w[i] *= 1000;
            break;
        case 9: w[i] = i % 2 ? 1.0f : -1.0f; break;
        case 10:
            if (i / 16 % 3) w[i] = 0;
            break;
        case 11: w[i] = fabsf(w[i]) + 1; break;
        case 12: w[i] *= 1e-6f; break;
        case 13: h[i] *= i % 7 ? 1e-20f : 1e20f; break;
        default: break;
        }
}

/* Error of decoded blocks against w, non-finite w as 0, in units of h. */
static double block_error(const bb_format *f, const float *w, const float *h, const void *bytes)
{
    float  y[256];
    double sum = 0;
    f->decode(bytes, y, f->block);
    for (int i = 0; i < f->block; i++) {
        double r = (isfinite(w[i]) ? (double)w[i] : 0) - (double)y[i];
        ck_assert_msg(isfinite(y[i]), "%s: weight %d is not finite", f->name, i);
        sum += (h ? (double)h[i] : 1.0) * r * r;
    }
    return sum;
}

START_TEST(never_worse_than_round_to_nearest)
{
    const bb_format *f = tested(_i);
    bb_rng           r;
    if (f->vec > 1) return;
    bb_rng_init(&r, 1, "rtn");
    for (int t = 0; t < 8 * KINDS; t++) {
        float         w[256], h[256];
        unsigned char ours[1024], rtn[1024];
        make_block(&r, t % KINDS, w, h);
        const float *weight = t / KINDS % 4 == 3 ? NULL : h;
        f->encode(w, weight, ours, f->block);
        f->encode_rtn(w, rtn, f->block);
        double a = block_error(f, w, weight, ours), b = block_error(f, w, weight, rtn);
        ck_assert_msg(a <= b * (1 + 1e-9), "%s kind %d: %g, round to nearest %g", f->name, t % KINDS, a, b);
    }
}
END_TEST

START_TEST(blocks_and_codes_agree)
{
    const bb_format *f = tested(_i);
    bb_rng           r;
    if (!is_grid(f)) return;
    bb_rng_init(&r, 2, "codes");
    for (int t = 0; t < 3 * KINDS; t++) {
        float         w[256], h[256], y[256], a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
        unsigned char bytes[1024], again[1024];
        bb_code       c, back;
        make_block(&r, t % KINDS, w, h);
        f->fit(w, h, &c);
        f->pack(&c, bytes);
        f->encode(w, h, again, f->block);
        ck_assert_mem_eq(bytes, again, f->block_bytes);
        f->unpack(bytes, &back);
        f->pack(&back, again);
        ck_assert_mem_eq(bytes, again, f->block_bytes);
        ck_assert_mem_eq(c.q, back.q, f->block * sizeof *c.q);
        f->decode(bytes, y, f->block);
        f->scales(&c, a, b);
        for (int i = 0; i < f->block; i++) {
            ck_assert_uint_lt(c.q[i], f->n_levels);
            ck_assert(y[i] == a[i / f->group] * f->levels[c.q[i]] + b[i / f->group]);
        }
    }
}
END_TEST

START_TEST(special_weights)
{
    const bb_format *f = tested(_i);
    float            w[256], clean[256], y[256];
    unsigned char    one[1024], two[1024];
    bb_rng           r;
    if (f->vec > 1) return;
    bb_rng_init(&r, 3, "special");
    memset(w, 0, sizeof w);
    f->encode(w, NULL, one, f->block);
    f->decode(one, y, f->block);
    for (int i = 0; i < f->block; i++) ck_assert(fabsf(y[i]) <= (f->type == BB_Q1_0 ? FLT_MIN : 0.0f));
    for (int i = 0; i < 256; i++) w[i] = clean[i] = (float)bb_rng_normal(&r);
    w[0] = NAN;
    if (f->block > 2) w[f->block / 2] = INFINITY, w[f->block - 1] = -INFINITY;
    clean[0] = clean[f->block / 2] = clean[f->block - 1] = 0;
    f->encode(w, NULL, one, f->block);
    f->encode(clean, NULL, two, f->block);
    ck_assert_mem_eq(one, two, f->block_bytes);
    f->encode_rtn(w, one, f->block);
    f->encode_rtn(clean, two, f->block);
    ck_assert_mem_eq(one, two, f->block_bytes);
}
END_TEST

/* A constant block is exact up to the rounding of its scale wherever the grid can tell it from 0. */
START_TEST(constant_blocks)
{
    const bb_format *f = tested(_i);
    if (f->vec > 1) return;
    for (int t = 0; t < 8; t++) {
        float         w[256], y[256], x = (t % 2 ? -1.0f : 1.0f) * (0.01f + 0.3f * (float)t);
        unsigned char bytes[1024];
        for (int i = 0; i < 256; i++) w[i] = x;
        f->encode(w, NULL, bytes, f->block);
        f->decode(bytes, y, f->block);
        /* f16 scale: 2^-11; E4M3: 1/17 at most; E8M0 times 1 2 3 4 6 8 12: 1/5. */
        float bound = f->type == BB_MXFP4 ? 0.2f : f->type == BB_NVFP4 ? 1 / 17.0f : 0x1p-8f;
        for (int i = 0; i < f->block; i++) ck_assert_msg(fabsf(y[i] - x) <= bound * fabsf(x), "%s: %g, not %g", f->name, (double)y[i], (double)x);
    }
}
END_TEST

START_TEST(powers_of_two_commute)
{
    const bb_format *f = tested(_i);
    bb_rng           r;
    if (f->vec > 1 || f->type == BB_NVFP4) return; /* NVFP4: its bytes have few normal exponents */
    bb_rng_init(&r, 4, "scale");
    for (int t = 0; t < 12; t++) {
        float         w[256], h[256], h2[256], v[256], y[256], z[256];
        unsigned char one[1024], two[1024];
        make_block(&r, KINDS - 1, w, h);
        for (int i = 0; i < 256; i++) v[i] = w[i] * 16, h2[i] = h[i] * 0x1p-30f, w[i] *= 4;
        f->encode(w, h, one, f->block);
        f->encode(v, h2, two, f->block);
        f->decode(one, y, f->block);
        f->decode(two, z, f->block);
        for (int i = 0; i < f->block; i++) ck_assert(4 * y[i] == z[i]);
    }
}
END_TEST

/* What an encoder wrote, decoded, is its own best code; a second generation may lose little next to the first. */
START_TEST(decoded_blocks_encode_again)
{
    const bb_format *f = tested(_i);
    bb_rng           r;
    if (f->vec > 1) return;
    bb_rng_init(&r, 5, "again");
    for (int t = 0; t < 20; t++) {
        float         w[256], h[256], y[256];
        unsigned char bytes[1024];
        double        energy = 0, first;
        make_block(&r, KINDS - 1, w, h);
        f->encode(w, h, bytes, f->block);
        first = block_error(f, w, NULL, bytes);
        f->decode(bytes, y, f->block);
        for (int i = 0; i < f->block; i++) energy += (double)y[i] * (double)y[i];
        f->encode(y, h, bytes, f->block);
        double e = block_error(f, y, NULL, bytes);
        ck_assert_msg(e <= 1e-6 * energy + 0.1 * first, "%s: %g of %g (first error %g)", f->name, e, energy, first);
    }
}
END_TEST

/* ---- one scale a block: all 2^16 half-precision scales are few enough to try ---- */

static double error_at(const bb_format *f, const float *w, const float *h, float d)
{
    double sum = 0;
    for (int i = 0; i < f->block; i++) {
        double least = HUGE_VAL;
        for (int k = 0; k < f->n_levels; k++) {
            double r = (double)w[i] - (double)(d * f->levels[k]);
            if (r * r < least) least = r * r;
        }
        sum += (double)h[i] * least;
    }
    return sum;
}

static double least_error(const bb_format *f, const float *w, const float *h)
{
    /* Only scales that matter: within a factor 64 below the one of the extremes. */
    float  max = 0;
    double least = HUGE_VAL;
    for (int i = 0; i < f->block; i++) max = fmaxf(max, fabsf(w[i]));
    float top = 2 * max / fminf(-f->levels[0], f->levels[f->n_levels - 1]);
    for (unsigned u = 1; u < 0x7C00u; u++)
        for (int sign = 0; sign < 2; sign++) {
            float d = bb_half_to_float((uint16_t)(u | (unsigned)sign << 15));
            if (fabsf(d) > top || fabsf(d) < top / 64) continue;
            double e = error_at(f, w, h, d);
            if (e < least) least = e;
        }
    return least;
}

START_TEST(one_scale_is_the_best_of_all)
{
    static const bb_type types[] = { BB_Q1_0, BB_Q2_0, BB_TQ2_0, BB_Q4_0, BB_IQ4_NL };
    const bb_format     *f = bb_format_get(types[_i]);
    bb_rng               r;
    double               ours = 0, best = 0;
    bb_rng_init(&r, 6, f->name);
    for (int t = 0; t < 24; t++) {
        float         w[256], h[256];
        unsigned char bytes[1024];
        make_block(&r, KINDS - 1 - t % 2, w, h);
        f->encode(w, h, bytes, f->block);
        double a = block_error(f, w, h, bytes), b = least_error(f, w, h);
        ck_assert_msg(a <= 1.01 * b, "%s: error %g, the best is %g", f->name, a, b);
        ours += a;
        best += b;
    }
    ck_assert_msg(ours <= (1 + 1e-6) * best, "%s: error %g, the best is %g", f->name, ours, best);
}
END_TEST

/* The same for scales of one byte: MXFP4 (powers of two) and each group of NVFP4. */
START_TEST(byte_scales_are_the_best_of_all)
{
    bb_rng r;
    bb_rng_init(&r, 10, "byte scales");
    for (int t = 0; t < 40; t++) {
        float         w[256], h[256], a[4], b[4];
        unsigned char mx[17], nv[36];
        double        best_mx = HUGE_VAL, best_nv = 0;
        make_block(&r, t % 2 ? KINDS - 1 : 12 + t / 2 % 4, w, h);
        bb_format_mxfp4.encode(w, h, mx, 32);
        bb_format_nvfp4.encode(w, h, nv, 64);
        for (int e = -40; e <= 40; e++) best_mx = fmin(best_mx, error_at(&bb_format_mxfp4, w, h, ldexpf(1, e)));
        for (int g = 0; g < 4; g++) {
            double  least = HUGE_VAL;
            bb_code c = { .d = 0.5f };
            for (int byte = 0; byte < 127; byte++) {
                double sum = 0;
                c.sc[g] = (int16_t)byte;
                bb_format_nvfp4.scales(&c, a, b);
                for (int i = 16 * g; i < 16 * g + 16; i++) {
                    double near = HUGE_VAL;
                    for (int k = 0; k < 15; k++) near = fmin(near, fabs((double)w[i] - (double)(a[g] * bb_format_nvfp4.levels[k])));
                    sum += (double)h[i] * near * near;
                }
                least = fmin(least, sum);
            }
            best_nv += least;
        }
        ck_assert(block_error(&bb_format_mxfp4, w, h, mx) <= best_mx * (1 + 1e-5));
        ck_assert(block_error(&bb_format_nvfp4, w, h, nv) <= best_nv * (1 + 1e-5));
    }
}
END_TEST

/* ---- a super scale and an integer a group: for a given super scale each group's best integer is found by trying all ---- */

static double group_error(const bb_format *f, const float *w, const float *h, float a)
{
    const float *l = f->levels;
    double       sum = 0;
    for (int i = 0, k; i < f->group; i++) {
        const float x = a < 0 || a > 0 ? w[i] / a : 0;
        for (k = 0; k + 1 < f->n_levels && x > (l[k] + l[k + 1]) / 2; k++) {}
        const double r = (double)w[i] - (double)(a * l[k]);
        sum += (double)h[i] * r * r;
    }
    return sum;
}

/* Over every 8th half-precision super scale: less than 0.8 % apart. */
static double least_of_super_scales(const bb_format *f, const float *w, const float *h, int lo, int hi)
{
    const int n_groups = f->block / f->group;
    float     max = 0;
    double    least = HUGE_VAL;
    for (int i = 0; i < f->block; i++) max = fmaxf(max, fabsf(w[i]));
    const float top = 2.5f * max / (fmaxf(-f->levels[0], f->levels[f->n_levels - 1]) * (float)-lo);
    for (unsigned u = 1; u < 0x7C00u; u += 8) {
        bb_code c = { .d = bb_half_to_float((uint16_t)u) };
        double  sum = 0;
        if (c.d > top || c.d < top / 8) continue;
        for (int g = 0; g < n_groups && sum < least; g++) {
            double of_group = HUGE_VAL;
            for (int s = lo; s <= hi; s++) {
                float a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
                c.sc[g] = (int16_t)s;
                f->scales(&c, a, b);
                of_group = fmin(of_group, group_error(f, w + g * f->group, h + g * f->group, a[g]));
            }
            sum += of_group;
        }
        least = fmin(least, sum);
    }
    return least;
}

START_TEST(super_scales_are_nearly_the_best_of_all)
{
    static const struct {
        bb_type type;
        int     lo, hi;
        double  mean;
    } of[] = { { BB_Q3_K, -32, 31, 1.0065 }, { BB_IQ4_XS, -32, 31, 1.003 }, { BB_Q6_K, -128, 127, 1.013 } };
    enum { BLOCKS = 8 };
    const bb_format *f = bb_format_get(of[_i].type);
    bb_rng           r;
    double           mean = 0;
    bb_rng_init(&r, 11, f->name);
    for (int t = 0; t < BLOCKS; t++) {
        float         w[256], h[256];
        unsigned char bytes[1024];
        make_block(&r, t % 4 ? KINDS - 1 : 10 + t / 4, w, h);
        f->encode(w, h, bytes, f->block);
        const double a = block_error(f, w, h, bytes), b = least_of_super_scales(f, w, h, of[_i].lo, of[_i].hi);
        ck_assert_msg(a <= 1.05 * b, "%s: error %g, the best is %g", f->name, a, b);
        mean += a / b / BLOCKS;
    }
    ck_assert_msg(mean <= of[_i].mean, "%s: %g of the best of all", f->name, mean);
}
END_TEST

/* ---- refit ---- */

START_TEST(refit_never_harms_and_finds_back)
{
    const bb_format *f = tested(_i);
    bb_rng           r;
    if (!is_grid(f)) return;
    bb_rng_init(&r, 7, "refit");
    for (int t = 0; t < 4 * KINDS; t++) {
        float         w[256], h[256];
        unsigned char before[1024], after[1024];
        bb_code       c;
        make_block(&r, t % KINDS, w, h);
        f->fit(w, h, &c);
        f->pack(&c, before);
        double fitted = block_error(f, w, h, before);
        /* Fields spoiled, codes kept: nearly all of a small damage must be undone; more damage never added. */
        const bool small = t % 2;
        if (f->type != BB_NVFP4) c.d = f->type == BB_MXFP4 ? c.d : bb_half_to_float(bb_float_to_half(c.d * (small ? 0.97f : 0.8f)));
        for (int g = 0; g < BB_MAX_GROUPS && !small; g++) c.sc[g] = (int16_t)(c.sc[g] > 1 ? c.sc[g] - 1 : c.sc[g]);
        f->pack(&c, before);
        double spoiled = block_error(f, w, h, before);
        f->refit(w, h, &c);
        f->pack(&c, after);
        double got = block_error(f, w, h, after);
        ck_assert_msg(got <= spoiled * (1 + 1e-9), "%s kind %d: %g from %g", f->name, t % KINDS, got, spoiled);
        if (small && t % KINDS == 15) ck_assert_msg(got <= 1.02 * fitted, "%s: %g, fitted %g", f->name, got, fitted);
    }
}
END_TEST

/* From fields that are all a little wrong it comes back to what the thorough fit has: exactly where there is one field, or the codes say all; else on the
 * average over blocks, no worse than what alternation over integers and super scales is known to reach. */
START_TEST(refit_comes_back_to_the_fit)
{
    static const struct {
        bb_type type;
        int     lo, hi;
        bool    mins;
        double  mean;
    } of[] = {
        { BB_Q2_K, 0, 15, true, 1.04 },       { BB_Q4_K, 0, 63, true, 1.025 },     { BB_Q5_K, 0, 63, true, 1.09 }, { BB_Q3_K, -32, 31, false, 1.005 },
        { BB_Q6_K, -128, 127, false, 1.035 }, { BB_IQ4_XS, -32, 31, false, 1.02 }, { BB_NVFP4, 0, 126, false, 0 },
    };
    enum { BLOCKS = 40 };
    const bb_format *f = tested(_i);
    double           mean = 0;
    size_t           which = 0;
    bb_rng           r;
    if (!is_grid(f)) return;
    while (which < sizeof of / sizeof *of && of[which].type != f->type) which++;
    const bool has_fields = which < sizeof of / sizeof *of, exact = !has_fields || !(of[which].mean > 0);
    bb_rng_init(&r, 31, f->name);
    for (int t = 0; t < BLOCKS; t++) {
        float         w[256], h[256];
        unsigned char bytes[1024];
        bb_code       c;
        for (int i = 0; i < 256; i++) {
            w[i] = (float)(0.05 * bb_rng_normal(&r) + (t % 2 ? 0.03 : 0));
            h[i] = (float)exp(bb_rng_normal(&r));
        }
        f->fit(w, h, &c);
        f->pack(&c, bytes);
        const double fitted = block_error(f, w, h, bytes);
        if (f->type == BB_MXFP4) c.d *= t % 4 < 2 ? 0.5f : 2;
        else if (f->type != BB_NVFP4) c.d = bb_half_to_float(bb_float_to_half(c.d * (t % 4 < 2 ? 0.9f : 1.1f)));
        for (int g = 0; has_fields && g < f->block / f->group; g++) {
            const int sc = c.sc[g] + (int)bb_rng_below(&r, 5) - 2, mn = c.mn[g] + (int)bb_rng_below(&r, 5) - 2;
            c.sc[g] = (int16_t)(sc < of[which].lo ? of[which].lo : sc > of[which].hi ? of[which].hi : sc);
            if (of[which].mins) c.mn[g] = (int16_t)(mn < 0 ? 0 : mn > of[which].hi ? of[which].hi : mn);
        }
        f->refit(w, h, &c);
        f->pack(&c, bytes);
        const double got = block_error(f, w, h, bytes);
        if (exact) ck_assert_msg(got <= (1 + 1e-6) * fitted, "%s: %g, fitted %g", f->name, got, fitted);
        mean += got / fitted / BLOCKS;
    }
    if (!exact) ck_assert_msg(mean <= of[which].mean, "%s: %g of what was fitted", f->name, mean);
}
END_TEST

/* The baseline of two levels stands at the mean magnitude: its extremes would say nothing. */
START_TEST(round_to_nearest_of_two_levels)
{
    const bb_format *f = bb_format_get(BB_Q1_0);
    float            w[128], y[128], mean = 0;
    unsigned char    bytes[64];
    bb_rng           r;
    bb_rng_init(&r, 5, "two levels");
    for (int i = 0; i < 128; i++) mean += fabsf(w[i] = (float)bb_rng_normal(&r)) / 128;
    f->encode_rtn(w, bytes, 128);
    f->decode(bytes, y, 128);
    for (int i = 0; i < 128; i++) ck_assert(fabsf(y[i] - copysignf(mean, w[i])) <= 0x1p-10f * mean);
}
END_TEST

/* ---- many rows at once ---- */

enum { TILE = BB_FORMAT_ROWS };

/* Error of row r of t under the fields of c with the nearest codes, which c gets; weights that are not finite count as 0. */
static double error_of_fields(const bb_format *f, const float *t, const float *h, int r, bb_code *c)
{
    float  a[BB_MAX_GROUPS], b[BB_MAX_GROUPS];
    double sum = 0;
    f->scales(c, a, b);
    for (int i = 0; i < f->block; i++) {
        const float x = t[i * TILE + r], w = isfinite(x) ? x : 0;
        double      least = INFINITY;
        for (unsigned q = 0; q < f->n_levels; q++) {
            const double miss = (double)w - (double)(a[i / f->group] * f->levels[q] + b[i / f->group]);
            if (miss * miss >= least) continue;
            least = miss * miss;
            c->q[i] = q;
        }
        sum += (double)h[i] * least;
    }
    return sum;
}

/* The fields are those that the bytes hold. */
static void check_fields(const bb_format *f, const bb_code *c)
{
    unsigned char bytes[1024];
    bb_code       back;
    memset(&back, 0, sizeof back);
    f->pack(c, bytes);
    f->unpack(bytes, &back);
    ck_assert_msg(isfinite(c->d) && isfinite(c->dmin), "%s: d %g, dmin %g", f->name, (double)c->d, (double)c->dmin);
    ck_assert_msg(back.d == c->d && back.dmin == c->dmin, "%s: d %g, dmin %g become %g, %g", f->name, (double)c->d, (double)c->dmin, (double)back.d,
                  (double)back.dmin);
    ck_assert_mem_eq(back.sc, c->sc, sizeof c->sc);
    ck_assert_mem_eq(back.mn, c->mn, sizeof c->mn);
}

/* The fields that fit_rows chooses are nearly as good as those of the thorough fit, whatever the size of the weights. */
START_TEST(fit_of_rows_is_nearly_as_good_as_fit)
{
    const bb_format *f = bb_format_at((size_t)_i);
    static float     t[BB_MAX_BLOCK * TILE], h[BB_MAX_BLOCK], w[BB_MAX_BLOCK];
    static bb_code   fields[TILE], small[TILE];
    double           ours = 0, thorough = 0;
    bb_rng           r;
    if (f->vec != 1 || !f->fit_rows) return;
    bb_rng_init(&r, 17, f->name);
    for (int i = 0; i < f->block; i++) h[i] = (float)exp(bb_rng_normal(&r));
    for (int i = 0; i < f->block * TILE; i++)
        t[i] = (float)((bb_rng_normal(&r) + (i % TILE % 2 ? 0.7 : 0)) * 2 * (1 + i / TILE / 32 % 4)); /* groups of several sizes, some rows off centre */
    f->fit_rows(t, h, fields);
    for (int row = 0; row < TILE; row += 3) {
        bb_code c = fields[row], best;
        for (int i = 0; i < f->block; i++) w[i] = t[i * TILE + row];
        f->fit(w, h, &best);
        check_fields(f, &c);
        const double e = error_of_fields(f, t, h, row, &c), least = error_of_fields(f, t, h, row, &best);
        ck_assert_msg(e < 1.25 * least, "%s, row %d: error %g, thorough %g", f->name, row, e, least);
        ours += e;
        thorough += least;
    }
    ck_assert_msg(ours > 0.99 * thorough && ours < 1.05 * thorough, "%s: error %g, thorough %g", f->name, ours, thorough);
    for (int i = 0; i < f->block * TILE; i++) t[i] = ldexpf(t[i], i % TILE % 9 - 4);
    for (int i = 0; i < f->block; i++) h[i] = ldexpf(h[i], 70);
    f->fit_rows(t, h, small);
    for (int row = 0; row < TILE; row++) {
        ck_assert_mem_eq(small[row].sc, fields[row].sc, sizeof fields->sc);
        ck_assert_mem_eq(small[row].mn, fields[row].mn, sizeof fields->mn);
        ck_assert(small[row].d == ldexpf(fields[row].d, row % 9 - 4));
    }
}
END_TEST

START_TEST(fit_of_rows_of_special_weights)
{
    static const float special[] = { 0, 1, -1, 1e-30f, 1e-42f, 3e38f, -3e38f, NAN, INFINITY, -INFINITY, 65504, 1e5f };
    const bb_format   *f = bb_format_at((size_t)_i);
    const int          n = sizeof special / sizeof *special;
    static float       t[BB_MAX_BLOCK * TILE], h[BB_MAX_BLOCK], none[BB_MAX_BLOCK];
    static bb_code     fields[TILE];
    if (f->vec != 1 || !f->fit_rows) return;
    for (int i = 0; i < f->block; i++) h[i] = i < f->block / 2 ? 0 : i % 5 ? 1e-20f : NAN;
    for (int i = 0; i < f->block * TILE; i++) {
        const int row = i % TILE;
        t[i] = row < n ? special[row] : row < 2 * n ? special[(i / TILE) % 2 ? row - n : 1] : special[(i / TILE * 7 + row) % n];
    }
    f->fit_rows(t, h, fields);
    for (int row = 0; row < TILE; row++) check_fields(f, &fields[row]);
    for (int i = 0; i < f->block; i++) h[i] = 1;
    bb_code c = fields[1]; /* ones: half of the block counts, the other does not */
    for (int i = 0; i < f->block / 2; i++) h[i] = 0;
    ck_assert_double_lt(error_of_fields(f, t, h, 1, &c), 1e-4 * f->block);
    f->fit_rows(t, none, fields); /* no importance at all: as if all were equal */
    for (int row = 0; row < TILE; row++) check_fields(f, &fields[row]);
}
END_TEST

static bool same_fields(const bb_code *a, const bb_code *b)
{
    return !(a->d < b->d) && !(a->d > b->d) && !(a->dmin < b->dmin) && !(a->dmin > b->dmin) && memcmp(a->sc, b->sc, sizeof a->sc) == 0 &&
           memcmp(a->mn, b->mn, sizeof a->mn) == 0;
}

/* Of codebooks too: importance counts in proportion, as small or large as a float can be, and as 0 where it is no number above 0. */
START_TEST(importance_of_rows_is_relative)
{
    static const int shifts[] = { -149, -130, -126, -100, 100, 119, 125 };
    const bb_format *f = bb_format_at((size_t)_i);
    static float     t[BB_MAX_BLOCK * TILE], h[BB_MAX_BLOCK], other[BB_MAX_BLOCK];
    static bb_code   fields[TILE], again[TILE];
    bb_rng           r;
    if (!f->fit_rows) return;
    bb_rng_init(&r, 19, f->name);
    for (int i = 0; i < f->block * TILE; i++) t[i] = (float)bb_rng_normal(&r);
    for (int i = 0; i < f->block; i++) h[i] = i % 9 ? (float)(1u << bb_rng_below(&r, 3)) : 0;
    f->fit_rows(t, h, fields);
    for (size_t s = 0; s < sizeof shifts / sizeof *shifts; s++) {
        for (int i = 0; i < f->block; i++) other[i] = ldexpf(h[i], shifts[s]);
        f->fit_rows(t, other, again);
        for (int row = 0; row < TILE; row++) ck_assert_msg(same_fields(&fields[row], &again[row]), "%s, row %d, times 2^%d", f->name, row, shifts[s]);
    }
    for (int i = 0; i < f->block; i++) other[i] = i % 9 ? h[i] : i % 4 == 0 ? NAN : i % 4 == 1 ? INFINITY : -3;
    f->fit_rows(t, other, again);
    for (int row = 0; row < TILE; row++) ck_assert_msg(same_fields(&fields[row], &again[row]), "%s, row %d: what is no importance counts", f->name, row);
}
END_TEST

/* What llama-quantize takes where a block does not divide the rows. */
START_TEST(rows_that_a_block_does_not_divide)
{
    static const struct {
        const char *format;
        size_t      cols;
        const char *other;
    } of[] = {
        { "IQ2_XXS", 512, "IQ2_XXS" }, { "IQ2_XXS", 576, "IQ4_NL" }, { "IQ1_M", 576, "IQ4_NL" }, { "IQ4_XS", 576, "IQ4_NL" }, { "Q2_K", 576, "Q4_0" },
        { "Q3_K", 576, "Q4_0" },       { "TQ2_0", 576, "Q4_0" },     { "Q2_0", 576, "Q2_0" },    { "Q2_0", 96, "Q4_0" },      { "Q4_K", 576, "Q5_0" },
        { "Q5_K", 576, "Q5_1" },       { "Q6_K", 576, "Q8_0" },      { "Q6_K", 100, "F16" },     { "Q2_K", 100, "F16" },      { "Q1_0", 576, NULL },
        { "Q8_0", 100, NULL },         { "F32", 7, "F32" },
    };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const bb_format *f = bb_format_for_row(bb_format_find(of[i].format), of[i].cols);
        ck_assert_msg(f == bb_format_find(of[i].other), "%s, rows of %zu", of[i].format, of[i].cols);
    }
}
END_TEST

int main(void)
{
    if (read_into("tests/data/formats", "weights", ".f32", weights, sizeof weights) != sizeof weights ||
        read_into("tests/data/formats", "importance", ".f32", importance, sizeof importance) != sizeof importance)
        return EXIT_FAILURE;
    Suite    *s = suite_create("formats");
    TCase    *layout = tcase_create("layout"), *fit = tcase_create("fit");
    const int n = n_formats();
    tcase_add_test(layout, registry_is_sound);
    tcase_add_test(layout, rows_that_a_block_does_not_divide);
    tcase_add_loop_test(layout, decodes_as_llama_cpp, 0, n);
    tcase_add_test(layout, every_half_is_decoded);
    tcase_add_loop_test(layout, any_bytes_are_a_block, 0, n);
    tcase_add_loop_test(layout, integers_of_any_bytes_are_the_weights, 0, n);
    tcase_add_loop_test(layout, pack_undoes_unpack, 0, n);
    tcase_add_loop_test(layout, dot_is_the_sum_of_products, 0, n);
    tcase_add_loop_test(fit, beats_llama_cpp_at_equal_bytes, 0, n);
    tcase_add_loop_test(fit, never_worse_than_round_to_nearest, 0, n);
    tcase_add_loop_test(fit, blocks_and_codes_agree, 0, n);
    tcase_add_loop_test(fit, special_weights, 0, n);
    tcase_add_loop_test(fit, constant_blocks, 0, n);
    tcase_add_loop_test(fit, powers_of_two_commute, 0, n);
    tcase_add_loop_test(fit, decoded_blocks_encode_again, 0, n);
    tcase_add_loop_test(fit, one_scale_is_the_best_of_all, 0, 5);
    tcase_add_test(fit, byte_scales_are_the_best_of_all);
    tcase_add_loop_test(fit, super_scales_are_nearly_the_best_of_all, 0, 3);
    tcase_add_loop_test(fit, refit_never_harms_and_finds_back, 0, n);
    tcase_add_loop_test(fit, refit_comes_back_to_the_fit, 0, n);
    tcase_add_test(fit, round_to_nearest_of_two_levels);
    tcase_add_loop_test(fit, importance_of_rows_is_relative, 0, n);
    tcase_add_loop_test(fit, fit_of_rows_is_nearly_as_good_as_fit, 0, n);
    tcase_add_loop_test(fit, fit_of_rows_of_special_weights, 0, n);
    tcase_set_timeout(fit, 60);
    suite_add_tcase(s, layout);
    suite_add_tcase(s, fit);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int ran = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return ran > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
