/* SPDX-License-Identifier: GPL-3.0-or-later
 * kcheck.c: every row of kernels/table.inc at every level that this CPU has, against the reference level, bit by bit (a NaN equals a NaN), and its
 * times.
 *
 * kcheck                    the test: all shapes and contents of each row
 * kcheck times [KERNEL...]  CSV kernel,work,LEVEL_ns...: nanoseconds a call at the row's first shape, the best of about 50 ms
 *
 * A row needs one function here, run_NAME: it makes inputs for j->shape and j->fill, calls the kernel of j->k, and gives its outputs. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "kernels/blas.h"
#include "kernels/columns.h"
#include "kernels/formats/codebook_rows.h"
#include "kernels/formats/fit.h"
#include "kernels/half.h"
#include "kernels/integer.h"
#include "kernels/kernels.h"
#include "tests/support/support.h"

enum { ROOM = 1 << 21 /* floats a job may use, and bytes / 4 that it may give */, N_FILLS = 7, N_SKEWS = 3, GUARD = 12345, R = BB_FORMAT_ROWS };

typedef struct job {
    const bb_kernels *k;
    unsigned          shape; /* 0: the large one, which is timed */
    int               fill;  /* contents, 0 .. N_FILLS-1; 0: noise */
    unsigned          skew;  /* arrays begin so many floats past a 64-byte boundary */
    bool              timed;
    char              work[64]; /* what the shape is, for people */
    bb_rng            r;
    size_t            used;    /* of memory */
    size_t            n_given; /* bytes */
    unsigned char    *given;
    double            ns, from, until;
} job;

static _Alignas(64) float memory[ROOM];
static unsigned char given[2][4 * ROOM];

static float noise(job *j) { return (float)(2 * bb_rng_uniform(&j->r) - 1); }

/* n floats with a guard on either side. */
static float *room(job *j, size_t n)
{
    float *x = memory + (j->used + 31) / 16 * 16 + j->skew;
    j->used = (size_t)(x - memory) + n + 1;
    if (j->used >= ROOM) ck_abort_msg("ROOM is too small");
    x[-1] = x[n] = GUARD;
    return x;
}

/* Awkward contents: noise, zeros, alternating extremes, one outlier, tiny, subnormal, with NaN and infinities. */
static float *input(job *j, size_t n)
{
    float *x = room(j, n);
    for (size_t i = 0; i < n; i++) {
        const float r = noise(j);
        switch (j->fill) {
        case 0: x[i] = 8 * r; break;
        case 1: x[i] = 0; break;
        case 2: x[i] = i % 2 ? 80 : -80; break;
        case 3: x[i] = i == n / 2 ? 3e4f : r; break;
        case 4: x[i] = r * 1e-30f; break;
        case 5: x[i] = r * 1e-41f; break;
        default: x[i] = i % 11 == 3 ? NAN : i % 7 == 2 ? INFINITY : i % 5 == 4 ? -INFINITY : 200 * r;
        }
    }
    return x;
}

static float *normal(job *j, size_t n, float size)
{
    float *x = room(j, n);
    for (size_t i = 0; i < n; i++) x[i] = size * (float)bb_rng_normal(&j->r);
    return x;
}

/* ck_abort_msg and not ck_assert where a program comes by thousands of times: that one notes each time in a file that it was there. */
static void give(job *j, const void *data, size_t size)
{
    if (j->n_given + size > sizeof given[0]) ck_abort_msg("ROOM is too small");
    memcpy(j->given + j->n_given, data, size);
    j->n_given += size;
}

/* The n floats of a room and its guards. */
static void give_floats(job *j, const float *x, size_t n)
{
    for (const float *p = x - 1; p <= x + n; p++) give(j, *p != *p ? &(float) { NAN } : p, sizeof *p);
}

static void give_double(job *j, double x) { give(j, x != x ? &(double) { (double)NAN } : &x, sizeof x); }

/* Once, or when timed for a while. */
static bool again(job *j)
{
    if (j->until > 0) return bb_now_s() < j->until;
    j->until = j->timed ? bb_now_s() + 0.05 : 1e-9;
    j->ns = INFINITY;
    return true;
}

/* The calls that are timed, `times` in a row: short ones in the hundreds, those that work in place once after again(). */
#define CALL(times, call) \
    do { \
        const unsigned n_ = j->timed ? (times) : 1; \
        j->from = bb_now_s(); \
        for (unsigned i_ = 0; i_ < n_; i_++) call; \
        j->ns = fmin(j->ns, (bb_now_s() - j->from) * 1e9 / n_); \
    } while (0)

/* ---- float32 loops of the network ---- */

static const size_t lengths[] = { 4096, 0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 127, 129, 255, 256, 1023 };

static bool has_length(job *j, size_t *n)
{
    if (j->shape >= sizeof lengths / sizeof *lengths) return false;
    *n = lengths[j->shape];
    snprintf(j->work, sizeof j->work, "n %zu", *n);
    return true;
}

static bool run_exp(job *j)
{
    size_t n;
    if (!has_length(j, &n)) return false;
    float *x = input(j, n), *y = j->skew == 1 ? x : room(j, n);
    while (again(j)) CALL(16, j->k->exp(x, y, n));
    give_floats(j, y, n);
    return true;
}

static bool run_rms_norm(job *j)
{
    size_t n;
    if (!has_length(j, &n)) return false;
    float *x = input(j, n), *weight = input(j, n), *y = j->skew == 1 ? x : room(j, n);
    while (again(j)) CALL(16, j->k->rms_norm(x, weight, 1e-5f, y, n));
    give_floats(j, y, n);
    return true;
}

static bool run_swiglu(job *j)
{
    size_t n;
    if (!has_length(j, &n)) return false;
    float *gate = input(j, n), *up = input(j, n), *y = room(j, n);
    while (again(j)) {
        memcpy(y, gate, n * sizeof *y);
        CALL(1, j->k->swiglu(y, up, n));
    }
    give_floats(j, y, n);
    return true;
}

static bool run_softmax(job *j)
{
    size_t n;
    if (!has_length(j, &n)) return false;
    float *x = input(j, n), *y = room(j, n);
    while (again(j)) {
        memcpy(y, x, n * sizeof *y);
        CALL(1, j->k->softmax(y, 0.35f, n));
    }
    give_floats(j, y, n);
    return true;
}

static bool run_arg_max(job *j)
{
    size_t n, at = 0;
    if (!has_length(j, &n)) return false;
    const float *x = input(j, n);
    while (again(j) && n) CALL(16, at = j->k->arg_max(x, n));
    give(j, &at, sizeof at);
    return true;
}

static bool run_sum_exp(job *j)
{
    size_t n;
    double sum = 0;
    if (!has_length(j, &n)) return false;
    const float *x = input(j, n);
    while (again(j)) CALL(16, sum = j->k->sum_exp(x, 1.5f, n));
    give_double(j, sum);
    return true;
}

static bool run_sum_exp_cross(job *j)
{
    size_t n;
    double sum = 0, cross = 0;
    if (!has_length(j, &n)) return false;
    const float *x = input(j, n), *z = input(j, n);
    while (again(j)) CALL(16, sum = j->k->sum_exp_cross(x, 1.5f, z, n, &cross));
    give_double(j, sum);
    give_double(j, cross);
    return true;
}

static bool run_half_to_float(job *j)
{
    static uint16_t h[65536 + 1];
    size_t          n;
    if (!has_length(j, &n)) return false;
    if (j->shape == 0 && j->fill == 1) n = 65536; /* all there are */
    for (size_t i = 0; i < n; i++) h[i + j->skew % 2] = n == 65536 ? (uint16_t)i : (uint16_t)bb_rng_u64(&j->r);
    float *y = room(j, n);
    while (again(j)) CALL(16, j->k->half_to_float(h + j->skew % 2, y, n));
    give_floats(j, y, n);
    return true;
}

/* What was packed, by row and column, and that the rest is zeros: the panels differ in width from level to level. */
static bool run_pack(job *j)
{
    static const struct {
        size_t n, k;
    } shapes[] = { { 256, 512 }, { 1, 1 }, { 5, 0 }, { 16, 16 }, { 33, 17 }, { 31, 257 }, { 32, 7 }, { 100, 9 }, { 40, 8 } };
    if (j->shape >= sizeof shapes / sizeof *shapes) return false;
    const size_t n = shapes[j->shape].n, k = shapes[j->shape].k, ldw = k + j->skew, panel = j->k->panel, size = bb_packed_floats(n, k, panel);
    snprintf(j->work, sizeof j->work, "%zu x %zu", n, k);
    const float *w = input(j, n * ldw);
    float       *y = room(j, size), *by_row = room(j, n * k), outside = 0;
    while (again(j)) CALL(1, j->k->pack(w, ldw, n, k, y));
    if (!j->timed) { /* the plain ways to the same */
        float *plain = room(j, size), *wt = room(j, k * n);
        for (size_t i = 0; i < n * k; i++) wt[i % k * n + i / k] = w[i / k * ldw + i % k];
        bb_pack_panels(w, ldw, n, k, panel, plain);
        if (memcmp(plain, y, size * sizeof *y) != 0) ck_abort_msg("pack: not as bb_pack_panels");
        bb_pack_panels_transposed(wt, n, n, k, panel, plain);
        if (memcmp(plain, y, size * sizeof *y) != 0) ck_abort_msg("pack: not as bb_pack_panels_transposed");
    }
    for (size_t i = 0; i < size; i++) {
        const size_t row = i / (panel * k) * panel + i % panel, column = i / panel % k;
        if (row < n) by_row[row * k + column] = y[i];
        else outside = y[i] != 0 ? NAN : outside;
    }
    give_floats(j, by_row, n * k);
    give(j, &outside, sizeof outside);
    give(j, y - 1, sizeof *y);
    give(j, y + size, sizeof *y);
    return true;
}

static bool run_product(job *j)
{
    static const struct {
        size_t m, n, k;
    } shapes[] = { { 64, 256, 512 }, { 1, 1, 1 },     { 1, 40, 3 },    { 3, 16, 0 },   { 5, 33, 17 },    { 14, 32, 255 },
                   { 15, 64, 256 },  { 29, 31, 257 }, { 6, 100, 511 }, { 13, 7, 600 }, { 28, 96, 1030 }, { 0, 4, 4 } };
    if (j->shape >= sizeof shapes / sizeof *shapes) return false;
    const size_t m = shapes[j->shape].m, n = shapes[j->shape].n, k = shapes[j->shape].k, ldx = k + 3 * j->skew, ldy = n + 2 * j->skew;
    const bool   add = j->fill & 1, biased = j->fill & 2;
    snprintf(j->work, sizeof j->work, "%zu x %zu x %zu", m, n, k);
    const float *x = input(j, m * ldx), *w = input(j, n * k), *bias = input(j, n), *start = input(j, m * ldy);
    float       *y = room(j, m * ldy), *panels = room(j, bb_packed_floats(n, k, j->k->panel));
    bb_pack_panels(w, k, n, k, j->k->panel, panels);
    while (again(j)) {
        memcpy(y, start, m * ldy * sizeof *y);
        CALL(1, j->k->product(m, n, k, x, ldx, panels, biased ? bias : NULL, add, y, ldy));
    }
    give_floats(j, y, m * ldy);
    return true;
}

/* ---- products of split numbers ---- */

static const struct {
    size_t m, n, k;
} split_shapes[] = { { 32, 64, 256 }, { 1, 1, 1 },     { 1, 40, 3 },    { 3, 16, 0 },   { 5, 33, 17 },   { 16, 32, 224 },
                     { 17, 64, 256 }, { 29, 31, 257 }, { 6, 100, 511 }, { 48, 32, 64 }, { 33, 96, 450 }, { 0, 4, 4 } };

/* Every shape with two parts, then every second one with one. */
static bool has_split_shape(job *j, unsigned *parts, size_t *m, size_t *n, size_t *k)
{
    enum { SHAPES = sizeof split_shapes / sizeof *split_shapes };
    const size_t at = j->shape < SHAPES ? j->shape : 2 * (j->shape - SHAPES) + 1;
    if (at >= SHAPES) return false;
    *parts = j->shape < SHAPES ? 2 : 1;
    *m = split_shapes[at].m;
    *n = split_shapes[at].n;
    *k = split_shapes[at].k;
    snprintf(j->work, sizeof j->work, "%zu x %zu x %zu", *m, *n, *k);
    return true;
}

/* Room for a split matrix and a guard on either side; a NaN is written as one. */
static uint16_t *split_room(job *j, size_t numbers) { return (uint16_t *)(void *)room(j, numbers / 2); } /* numbers are whole tiles */
static void      give_split(job *j, uint16_t *x, size_t numbers)
{
    for (size_t i = 0; i < numbers; i++)
        if ((x[i] & 0x7FFF) > 0x7F80) x[i] = 0x7FC0;
    give(j, (float *)(void *)x - 1, (numbers / 2 + 2) * sizeof(float));
}

static bool run_split_rows(job *j)
{
    unsigned parts;
    size_t   m, n, k;
    if (!has_split_shape(j, &parts, &m, &n, &k)) return false;
    const size_t size = bb_split_numbers(parts, m, k, BB_SPLIT_ROWS), ldx = k + j->skew;
    const float *x = input(j, m * ldx);
    uint16_t    *y = split_room(j, size);
    while (again(j)) CALL(1, j->k->split_rows(parts, x, ldx, m, k, y));
    give_split(j, y, size);
    return true;
}

static bool run_split_panels(job *j)
{
    unsigned parts;
    size_t   m, n, k;
    if (!has_split_shape(j, &parts, &m, &n, &k)) return false;
    const size_t size = bb_split_numbers(parts, n, k, BB_SPLIT_PANEL), ldw = k + j->skew;
    const float *w = input(j, n * ldw);
    uint16_t    *y = split_room(j, size);
    while (again(j)) CALL(1, j->k->split_panels(parts, w, ldw, n, k, y));
    give_split(j, y, size);
    return true;
}

static bool run_split_panels_turned(job *j)
{
    unsigned parts;
    size_t   m, n, k;
    if (!has_split_shape(j, &parts, &m, &n, &k)) return false;
    const size_t size = bb_split_numbers(parts, n, k, BB_SPLIT_PANEL), ldw = n + j->skew;
    const float *w = input(j, k * ldw);
    uint16_t    *y = split_room(j, size);
    while (again(j)) CALL(1, j->k->split_panels_turned(parts, w, ldw, n, k, y));
    if (!j->timed) { /* the other way to the same */
        uint16_t *same = split_room(j, size);
        float    *turned = room(j, n * k);
        for (size_t i = 0; i < n * k; i++) turned[i] = w[i % k * ldw + i / k];
        j->k->split_panels(parts, turned, k, n, k, same);
        if (memcmp(same, y, size * sizeof *y) != 0) ck_abort_msg("split_panels_turned: not as split_panels");
    }
    give_split(j, y, size);
    return true;
}

/* parts 0: pair_product, at the shapes of one part. */
static bool run_product_of_parts(job *j, unsigned parts, size_t m, size_t n, size_t k)
{
    const unsigned made = parts ? parts : 1;
    const size_t   ldy = n + 2 * j->skew;
    const bool     add = j->fill & 1, biased = j->fill & 2;
    const float   *x = input(j, m * k), *w = input(j, n * k), *bias = input(j, n), *start = input(j, m * ldy);
    float         *y = room(j, m * ldy);
    uint16_t      *rows = split_room(j, bb_split_numbers(made, m, k, BB_SPLIT_ROWS)), *panels = split_room(j, bb_split_numbers(made, n, k, BB_SPLIT_PANEL));
    bb_kernels_at(0)->split_rows(made, x, k, m, k, rows);
    bb_kernels_at(0)->split_panels(made, w, k, n, k, panels);
    while (again(j)) {
        memcpy(y, start, m * ldy * sizeof *y);
        if (parts) CALL(1, j->k->split_product(parts, m, n, k, rows, panels, biased ? bias : NULL, add, y, ldy));
        else CALL(1, j->k->pair_product(m, n, k, rows, panels, biased ? bias : NULL, add, y, ldy));
    }
    for (size_t i = 0; i < m * n && j->fill == 0 && !j->timed; i++) { /* the product of the numbers themselves */
        double want = 0, size = 0;
        for (size_t c = 0; c < k; c++) {
            const double term = (double)x[i / n * k + c] * (double)w[i % n * k + c];
            want += term;
            size += fabs(term);
        }
        if (!(fabs((double)y[i / n * ldy + i % n] - want) <= size * (made > 1 ? 0x1p-15 : 0x1p-7))) ck_abort_msg("parts %u: not the product", parts);
    }
    give_floats(j, y, m * ldy);
    return true;
}

static bool run_split_product(job *j)
{
    unsigned parts;
    size_t   m, n, k;
    return has_split_shape(j, &parts, &m, &n, &k) && run_product_of_parts(j, parts, m, n, k);
}

static bool run_pair_product(job *j)
{
    unsigned parts;
    size_t   m, n, k;
    return has_split_shape(j, &parts, &m, &n, &k) && run_product_of_parts(j, 0, m, n, k);
}

/* ---- products of integers ---- */

static unsigned char *bytes_room(job *j, size_t n)
{
    const unsigned skew = j->skew;
    j->skew = 0; /* panels begin on a cache line */
    unsigned char *x = (unsigned char *)room(j, n / 4 + 1);
    j->skew = skew;
    return x;
}

static bool run_integer_vector(job *j)
{
    size_t n = j->shape == 0 ? 4096 : 32 * (j->shape - 1);
    if (j->shape > 6) return false;
    snprintf(j->work, sizeof j->work, "n %zu", n);
    const float *x = input(j, n);
    float       *scale = room(j, n / 32);
    int8_t      *q = (int8_t *)bytes_room(j, n);
    int32_t     *sum = (int32_t *)bytes_room(j, n / 4);
    while (again(j)) CALL(16, j->k->integer_vector(x, n, q, scale, sum));
    for (size_t i = 0; i < n && j->fill == 0 && !j->timed; i++)
        if (!(fabsf(x[i] - (float)q[i] * scale[i / 32]) <= 0.501f * scale[i / 32]))
            ck_abort_msg("integer_vector: %g as %d times %g", (double)x[i], q[i], (double)scale[i / 32]);
    give(j, q, n);
    give(j, sum, n / 16 * sizeof *sum);
    give_floats(j, scale, n / 32);
    return true;
}

/* A matrix of the shape / 4 th format that has integers, of 4 numbers of vectors, rows and columns. */
static bool run_integer_product(job *j)
{
    static const struct {
        size_t m, rows, cols;
    } sizes[5] = { { 16, 32, 256 }, { 1, 1, 256 }, { 13, 19, 512 }, { 9, 40, 256 }, { 64, 256, 768 } };
    const bb_format *f = NULL;
    bb_integers      w;
    const size_t     which_size = j->timed ? 4 : j->shape % 4, m = sizes[which_size].m, n = sizes[which_size].rows, k = sizes[which_size].cols;
    unsigned         which = j->shape / 4;
    for (size_t i = 0; (f = bb_format_at(i)); i++)
        if (bb_integers_shape(&w, f, n, k) && which-- == 0) break;
    if (!f) return false;
    snprintf(j->work, sizeof j->work, "%s, %zu x %zu x %zu", f->name, m, n, k);
    const bool     add = j->fill & 1, biased = j->fill & 2;
    const size_t   row_bytes = bb_format_row_bytes(f, k), panels = bb_integers_panels(&w);
    const float   *x = input(j, m * k), *dense = normal(j, n * k, 0.1f), *bias = input(j, n), *start = input(j, m * n);
    float         *y = room(j, m * n), *one = room(j, n), *scale = room(j, m * k / 32), *plain = room(j, k);
    int8_t        *q = (int8_t *)bytes_room(j, m * k);
    int32_t       *sum = (int32_t *)bytes_room(j, m * k / 4);
    unsigned char *data = bytes_room(j, n * row_bytes);
    w.panels = bytes_room(j, bb_integers_bytes(&w) + 64);
    w.panels += (64 - (uintptr_t)w.panels % 64) % 64;
    for (size_t r = 0; r < n; r++) f->encode_rtn(dense + r * k, data + r * row_bytes, k);
    for (size_t i = 0; i < panels; i++) bb_integers_pack(&w, data, i);
    bb_kernels_at(0)->integer_vector(x, m * k, q, scale, sum);
    while (again(j)) {
        memcpy(y, start, m * n * sizeof *y);
        CALL(1, j->k->integer_product(&w, 0, panels, m, q, scale, sum, biased ? bias : NULL, add, y));
    }
    for (size_t i = 0; i < m && !j->timed; i++) { /* each vector alone, by parts of the panels */
        memcpy(one, start + i * n, n * sizeof *one);
        for (size_t part = 0; part < 2; part++)
            j->k->integer_product(&w, panels * part / 2, panels * (part + 1) / 2, 1, q + i * k, scale + i * k / 32, sum + i * k / 16, biased ? bias : NULL, add,
                                  one);
        for (size_t r = 0; r < n; r++)
            if (memcmp(one + r, y + i * n + r, sizeof *one) != 0 && !(one[r] != one[r] && y[i * n + r] != y[i * n + r]))
                ck_abort_msg("integer_product: %s: vector %zu of %zu has other bits alone", f->name, i, m);
    }
    for (size_t i = 0; i < m * n && j->fill == 0 && !j->timed; i++) { /* the product of the rounded vector with what the format's own decoder gives */
        const size_t v = i % m, r = i / m;
        double       want = 0, size = 0;
        if (v == 0) f->decode(data + r * row_bytes, plain, k);
        for (size_t c = 0; c < k; c++) {
            const double term = (double)plain[c] * q[v * k + c] * (double)scale[(v * k + c) / 32];
            want += term;
            size += fabs(term);
        }
        if (!(fabs((double)y[v * n + r] - want) <= size * 0x1p-10)) ck_abort_msg("integer_product: %s: %g and not %g", f->name, (double)y[v * n + r], want);
    }
    give_floats(j, y, m * n);
    return true;
}

/* ---- what the CPU can do at most ---- */

static bool run_peak_fma(job *j)
{
    static const size_t shapes[] = { 1000, 0, 1, 7 };
    if (j->shape >= sizeof shapes / sizeof *shapes) return false;
    const size_t n = shapes[j->shape];
    float       *x = input(j, BB_PEAK_CHAINS);
    snprintf(j->work, sizeof j->work, "%zu x %d", n, BB_PEAK_CHAINS);
    while (again(j)) CALL(1, j->k->peak_fma(x, 0.75f, 1.5f, n));
    give_floats(j, x, BB_PEAK_CHAINS);
    return true;
}

static bool run_peak_integer(job *j)
{
    static const size_t shapes[] = { 1000, 0, 1, 7 };
    if (j->shape >= sizeof shapes / sizeof *shapes) return false;
    const size_t n = shapes[j->shape];
    uint8_t     *z = bytes_room(j, 64);
    int8_t      *q = (int8_t *)bytes_room(j, 64);
    uint32_t    *sum = (uint32_t *)(void *)room(j, BB_PEAK_CHAINS);
    for (int i = 0; i < 64; i++) {
        z[i] = j->fill == 1 ? 127 : (uint8_t)bb_rng_below(&j->r, 128);
        q[i] = j->fill == 1 ? -128 : (int8_t)((int)bb_rng_below(&j->r, 256) - 128);
    }
    for (int i = 0; i < BB_PEAK_CHAINS; i++) sum[i] = (uint32_t)bb_rng_u64(&j->r);
    snprintf(j->work, sizeof j->work, "%zu x %d x 4", n, BB_PEAK_CHAINS);
    while (again(j)) CALL(1, j->k->peak_integer(z, q, sum, n));
    give(j, (float *)(void *)sum - 1, (BB_PEAK_CHAINS + 2) * sizeof *sum);
    return true;
}

static bool run_peak_split(job *j)
{
    static const size_t shapes[] = { 10, 0, 1, 3 };
    if (j->shape >= sizeof shapes / sizeof *shapes) return false;
    const size_t n = shapes[j->shape], tile = BB_SPLIT_ROWS * BB_SPLIT_DEPTH;
    const float *from = input(j, 32 * 32), *to = input(j, 32 * 32);
    float       *y = input(j, 32 * 32);
    uint16_t    *x = split_room(j, 4 * tile), *w = split_room(j, 4 * tile);
    bb_kernels_at(0)->split_rows(2, from, 32, 32, 32, x);
    bb_kernels_at(0)->split_panels(2, to, 32, 32, 32, w);
    snprintf(j->work, sizeof j->work, "%zu x 32 x 32 x 32", n);
    while (again(j)) CALL(1, j->k->peak_split(x, w, y, n));
    give_floats(j, y, 32 * 32);
    return true;
}

/* ---- fits of scalar grids ---- */

/* A block of a grid, a group of it and eight lines. Groups of a block are shapes. */
static bool has_block(job *j, bb_work *k, int *group, bb_tries *t)
{
    static const bb_grid grids[] = { { .format = &bb_format_q4_k, .kind = BB_GRID_SCALES_MINS, .sc_hi = 63 },
                                     { .format = &bb_format_q6_k, .kind = BB_GRID_SCALES, .sc_lo = -128, .sc_hi = 127 },
                                     { .format = &bb_format_iq4_xs, .kind = BB_GRID_SCALES, .sc_lo = -32, .sc_hi = 31, .bin = 8 },
                                     { .format = &bb_format_q8_0, .kind = BB_GRID_SCALE },
                                     { .format = &bb_format_q1_0, .kind = BB_GRID_SCALE, .bin = 2 },
                                     { .format = &bb_format_tq2_0, .kind = BB_GRID_SCALE } };
    const unsigned       n = sizeof grids / sizeof *grids;
    if (j->shape >= 4 * n) return false;
    const bb_grid *grid = &grids[j->shape % n];
    const float   *w = input(j, BB_MAX_BLOCK);
    float         *h = normal(j, BB_MAX_BLOCK, 1);
    for (int i = 0; i < BB_MAX_BLOCK; i++) h[i] = i % 32 == 8 ? 0 : h[i] * h[i];
    memset(k, 0, sizeof *k);
    bb_work_init(k, grid, w, h);
    *group = (int)bb_rng_below(&j->r, (uint64_t)k->n_groups);
    memset(t, 0, sizeof *t);
    for (int i = 0; i < 8; i++) {
        t->a[i] = 0.2f * (float)bb_rng_normal(&j->r);
        t->b[i] = grid->kind == BB_GRID_SCALES_MINS ? (float)bb_rng_normal(&j->r) : 0;
    }
    if (j->shape >= n) t->a[j->shape % 8] = 0;
    snprintf(j->work, sizeof j->work, "%d weights of %s", k->m, grid->format->name);
    return true;
}

static bool run_fit_sums(job *j)
{
    bb_work  k;
    bb_tries t;
    bb_sums  s = { 0 };
    int      group;
    if (!has_block(j, &k, &group, &t)) return false;
    for (int i = 0; again(j) || (!j->timed && i < 8); i++) {
        CALL(256, s = j->k->fit_sums(&k, group, t.a[i % 8], t.b[i % 8]));
        if (!j->timed) give(j, &s, sizeof s);
    }
    return true;
}

static bool run_fit_error(job *j)
{
    bb_work  k;
    bb_tries t;
    float    e = 0;
    int      group;
    if (!has_block(j, &k, &group, &t)) return false;
    for (int i = 0; again(j) || (!j->timed && i < 8); i++) {
        CALL(256, e = j->k->fit_error(&k, group, t.a[i % 8], t.b[i % 8]));
        if (j->timed) continue;
        give(j, &e, sizeof e);
        if (e != j->k->fit_sums(&k, group, t.a[i % 8], t.b[i % 8]).error) ck_abort_msg("fit_error is not the error of fit_sums");
    }
    return true;
}

static bool run_fit_tries(job *j)
{
    bb_work  k;
    bb_tries t;
    int      group;
    if (!has_block(j, &k, &group, &t)) return false;
    while (again(j)) CALL(64, j->k->fit_tries(&k, group, &t));
    give(j, &t, sizeof t);
    return true;
}

static bool run_fit_scan(job *j)
{
    static const struct {
        int steps, lines;
    } shapes[] = { { 32, 8 }, { 8, 1 }, { 16, 0 }, { 24, 5 }, { 0, 3 }, { 64, 16 } };
    _Alignas(32) float step[64], least[64] = { 0 };
    bb_parabola        lines[16];
    if (j->shape >= sizeof shapes / sizeof *shapes) return false;
    const int n = shapes[j->shape].steps, n_lines = shapes[j->shape].lines;
    for (int i = 0; i < 64; i++) step[i] = 0.001f + (float)bb_rng_uniform(&j->r);
    for (int i = 0; i < 16; i++) lines[i] = (bb_parabola) { (float)bb_rng_uniform(&j->r), 1 + noise(j), 20 * (float)bb_rng_normal(&j->r) };
    snprintf(j->work, sizeof j->work, "%d steps of %d lines", n, n_lines);
    while (again(j)) CALL(64, j->k->fit_scan(step, n, lines, n_lines, 63, least));
    give(j, least, sizeof least);
    return true;
}

static bool run_field_rows(job *j)
{
    static const bb_grid grids[] = { { .format = &bb_format_q2_k, .kind = BB_GRID_SCALES_MINS, .sc_hi = 15 },
                                     { .format = &bb_format_q3_k, .kind = BB_GRID_SCALES, .sc_lo = -32, .sc_hi = 31 },
                                     { .format = &bb_format_q5_k, .kind = BB_GRID_SCALES_MINS, .sc_hi = 63 },
                                     { .format = &bb_format_iq4_xs, .kind = BB_GRID_SCALES, .sc_lo = -32, .sc_hi = 31, .bin = 8 } };
    static bb_code       c[R];
    if (j->shape >= sizeof grids / sizeof *grids) return false;
    const bb_grid *grid = &grids[j->shape];
    const size_t   n = grid->format->block;
    float         *t = normal(j, n * R, 1), *h = normal(j, n, 1), unit[R];
    for (size_t i = 0; i < n; i++) h[i] = j->fill && i % 32 >= 8 ? 0x1p-40f : expf(h[i]);
    for (int r = 0; r < R; r++) unit[r] = ldexpf(1, r % 5 - 2);
    for (size_t i = 5; j->fill && i < n * R; i += R) t[i] = 0;      /* a row of zeros */
    for (size_t i = 6; j->fill && i < n * R; i += R) t[i] = 1;      /* of one number */
    for (size_t i = 7; j->fill && i < n * R; i += R) t[i] *= 1e-9f; /* of scales below what is stored */
    snprintf(j->work, sizeof j->work, "%d rows of %s", R, grid->format->name);
    while (again(j)) CALL(1, j->k->field_rows(grid, t, unit, h, c));
    give(j, c, sizeof c);
    return true;
}

/* ---- codebooks ---- */

static const bb_cb_spec *has_book(job *j)
{
    static const struct {
        const char *name;
        bb_cb_spec  spec;
    } books[] = {
        { "IQ2_XS", { .book = BB_BOOK_IQ2_XS, .vec = 8, .n_words = 1, .has_signs = true, .even = true, .group = 16, .n_scales = 16, .unit = 0.125f } },
        { "IQ1_M", { .book = BB_BOOK_IQ1, .vec = 8, .n_words = 1, .shift = BB_SHIFT_CODE, .group = 16, .n_scales = 8, .unit = 1 } },
        { "IQ1_S", { .book = BB_BOOK_IQ1, .vec = 8, .n_words = 1, .shift = BB_SHIFT_GROUP, .group = 32, .n_scales = 8, .unit = 1 } },
        { "IQ2_S", { .book = BB_BOOK_IQ2_S, .vec = 8, .n_words = 1, .has_signs = true, .group = 16, .n_scales = 16, .unit = 0.125f } },
        { "IQ3_XXS", { .book = BB_BOOK_IQ3_XXS, .vec = 8, .n_words = 2, .has_signs = true, .even = true, .group = 32, .n_scales = 16, .unit = 0.25f } },
        { "IQ3_S", { .book = BB_BOOK_IQ3_S, .vec = 4, .n_words = 1, .has_signs = true, .group = 32, .n_scales = 16, .unit = 1 } },
    };
    if (j->shape >= sizeof books / sizeof *books) return NULL;
    snprintf(j->work, sizeof j->work, "%d rows of %s", R, books[j->shape].name);
    return &books[j->shape].spec;
}

/* n x n, of full rank or less, as second moments are. */
static float *metric_of(job *j, unsigned n)
{
    const int rank = (const int[]) { 64, 9, 5, 1 }[j->fill % 4];
    float    *m = room(j, n * n), x[8];
    memset(m, 0, n * n * sizeof *m);
    for (int k = 0; k < rank; k++) {
        const float common = (float)bb_rng_normal(&j->r);
        for (unsigned i = 0; i < n; i++) x[i] = (float)bb_rng_normal(&j->r) + common;
        for (unsigned i = 0; i < n * n; i++) m[i] += x[i / n] * x[i % n] / (float)rank;
    }
    return m;
}

static bool run_code_rows(job *j)
{
    const bb_cb_spec *s = has_book(j);
    bb_cb_metric      m;
    uint32_t          q[R];
    if (!s) return false;
    bb_cb_metric_init(&m, s->vec, metric_of(j, s->vec));
    float *a = normal(j, R, 1), *shift = room(j, R), *t = normal(j, (size_t)s->vec * R, 30), *value = room(j, (size_t)s->vec * R);
    for (int i = 0; i < R; i++) shift[i] = bb_rng_uniform(&j->r) < 0.5 ? 0.125f : -0.125f;
    if (j->fill) a[3] = 0;
    for (unsigned i = 96; j->fill && i < s->vec * R; i += 97) t[i] = NAN;
    while (again(j)) CALL(1, j->k->code_rows(s, &m, a, shift, t, q, value));
    give(j, q, sizeof q);
    give_floats(j, value, (size_t)s->vec * R);
    return true;
}

static bool run_scale_rows(job *j)
{
    const bb_cb_spec *s = has_book(j);
    static bb_code    c[R];
    if (!s) return false;
    float *t = normal(j, (size_t)BB_CB_SUPER * R, 1), *h = normal(j, BB_CB_SUPER, 1);
    for (int i = 0; i < BB_CB_SUPER; i++) h[i] = j->fill && i < 8 ? 0 : expf(h[i]);
    for (int i = 5; j->fill && i < BB_CB_SUPER * R; i += R) t[i] = 0; /* a row of zeros */
    while (again(j)) CALL(1, j->k->scale_rows(s, t, h, c));
    give(j, c, sizeof c);
    return true;
}

/* ---- error feedback ---- */

static bool run_round_column(job *j)
{
    static const struct {
        unsigned n;
        bool     uniform;
    } shapes[] = { { 16, true }, { 16, false }, { 2, true }, { 2, false }, { 3, true }, { 256, true }, { 4, false } };
    float    level[256], mid[256], step[256];
    uint32_t q[R] = { 0 };
    if (j->shape >= sizeof shapes / sizeof *shapes) return false;
    const bool     uniform = shapes[j->shape].uniform;
    const unsigned n = shapes[j->shape].n;
    for (unsigned i = 0; i < n; i++) level[i] = uniform ? (float)i - (float)(n / 2) : i ? level[i - 1] + 0.5f + (float)bb_rng_below(&j->r, 8) : -12;
    for (unsigned i = 0; i + 1 < n; i++) {
        step[i] = level[i + 1] - level[i];
        mid[i] = 0.5f * (level[i + 1] + level[i]);
    }
    const bb_levels l = { level[0], n, uniform, mid, step };
    float          *a = normal(j, R, 1), *b = normal(j, R, 1), *target = j->fill < 2 ? normal(j, R, 8) : input(j, R), *ref = normal(j, R, 1);
    float          *v = room(j, R), *e = room(j, R), *cost = normal(j, R, 1);
    if (j->fill) a[3] = 0, target[9] = NAN;
    snprintf(j->work, sizeof j->work, "%d rows to %u %s levels", R, n, uniform ? "even" : "uneven");
    while (again(j)) CALL(256, j->k->round_column(&l, 1.5f, a, b, target, ref, v, e, q, cost));
    give(j, q, sizeof q);
    give_floats(j, v, R);
    give_floats(j, e, R);
    give_floats(j, cost, R);
    for (int i = 0; i < R && !j->timed; i++) /* the nearest, by trying all */
        for (unsigned k = 0; k < n && a[i] != 0 && fabsf(target[i]) < 1e3f; k++)
            if (!(fabsf(target[i] - v[i]) <= fabsf(target[i] - (a[i] * level[k] + b[i])) + 1e-4f)) ck_abort_msg("round_column: not the nearest level");
    return true;
}

static bool run_spread_error(job *j)
{
    static const size_t shapes[] = { 32, 0, 1, 2, 7, 31, 255 };
    if (j->shape >= sizeof shapes / sizeof *shapes) return false;
    const size_t n = shapes[j->shape];
    const float *u = input(j, n), *e = normal(j, R, 1);
    float       *target = normal(j, n * R, 1);
    snprintf(j->work, sizeof j->work, "%d rows to %zu columns", R, n);
    while (again(j)) CALL(64, j->k->spread_error(u, n, e, target));
    give_floats(j, target, n * R);
    return true;
}

static bool run_vector_cost(job *j)
{
    static const unsigned shapes[] = { 8, 4, 1, 0, 7 };
    if (j->shape >= sizeof shapes / sizeof *shapes) return false;
    const unsigned vec = shapes[j->shape];
    const float   *metric = metric_of(j, vec), *target = input(j, (size_t)vec * R), *v = normal(j, (size_t)vec * R, 1);
    float         *cost = normal(j, R, 1);
    snprintf(j->work, sizeof j->work, "%d rows of %u", R, vec);
    while (again(j)) CALL(256, j->k->vector_cost(vec, metric, target, v, cost));
    give_floats(j, cost, R);
    return true;
}

/* ---- all rows ---- */

static const struct {
    const char *name;
    bool (*run)(job *j);
} rows[] = {
#define BB_KERNEL(result, name, ...) { #name, run_##name },
#include "kernels/table.inc"
};
enum { N_ROWS = sizeof rows / sizeof *rows, MOST_LEVELS = 4 };

static bool run(job *j, unsigned row, unsigned char *to)
{
    bb_rng_init(&j->r, j->shape * 1000u + (unsigned)j->fill * 10u + j->skew, rows[row].name);
    j->used = j->n_given = 0;
    j->until = 0;
    j->given = to;
    return rows[row].run(j);
}

START_TEST(every_level_gives_the_bits_of_the_reference)
{
    unsigned n = 0;
    for (int c = 0; c < N_FILLS * N_SKEWS; c++) {
        if (c >= N_FILLS && c % N_FILLS % 3 != 0) continue; /* three kinds of contents off alignment */
        job ref = { .k = bb_kernels_at(0), .fill = c % N_FILLS, .skew = (unsigned)(c / N_FILLS) };
        for (; run(&ref, (unsigned)_i, given[0]); ref.shape++)
            for (size_t level = 1; bb_kernels_at(level); level++) {
                job    j = { .k = bb_kernels_at(level), .shape = ref.shape, .fill = ref.fill, .skew = ref.skew };
                size_t at = 0;
                ck_assert(run(&j, (unsigned)_i, given[1]) && j.n_given == ref.n_given && j.n_given > 0);
                while (at < j.n_given && given[0][at] == given[1][at]) at++;
                ck_assert_msg(at == j.n_given, "%s at level %s: %s, contents %d, %u floats past alignment: byte %zu of %zu is not the reference's",
                              rows[_i].name, j.k->level, j.work, j.fill, j.skew, at, j.n_given);
                n++;
            }
    }
    ck_assert(n > 0 || !bb_kernels_at(1));
}
END_TEST

static int times(int n_names, char **names)
{
    size_t n_levels = 0;
    printf("kernel,work");
    for (; bb_kernels_at(n_levels); n_levels++) printf(",%s_ns", bb_kernels_at(n_levels)->level);
    printf("\n");
    for (unsigned i = 0; i < N_ROWS; i++) {
        bool wanted = n_names == 0;
        for (int a = 0; a < n_names; a++) wanted |= strcmp(names[a], rows[i].name) == 0;
        if (!wanted) continue;
        for (size_t level = 0; level < n_levels; level++) {
            job j = { .k = bb_kernels_at(level), .timed = true };
            run(&j, i, given[0]);
            if (level == 0) printf("%s,%s", rows[i].name, j.work);
            printf(",%.1f", j.ns);
        }
        printf("\n");
        fflush(stdout);
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    bb_blas_init();
    if (argc > 1 && strcmp(argv[1], "times") == 0) return times(argc - 2, argv + 2);
    Suite *s = suite_create("kcheck");
    TCase *t = tcase_create("rows");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, every_level_gives_the_bits_of_the_reference, 0, N_ROWS);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
