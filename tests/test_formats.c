/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_formats.c: the weight formats against llama.cpp's bytes (tests/data/formats/README.md). */
#include <check.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <ctype.h>

#include "kernels/format.h"

enum { ROWS = 8, COLS = 1024, N = ROWS * COLS };

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

static float decoded[N], expected[N];
static unsigned char blocks[N * 4];

START_TEST(decodes_as_llama_cpp)
{
    const bb_format *f = tested(_i);
    char name[16];
    file_name(f, name);
    size_t size = bb_format_row_bytes(f, N);
    if (f->type == BB_F32) return;
    ck_assert_uint_eq(read_into("tests/data/formats", name, ".blocks", blocks, sizeof blocks), size);
    f->decode(blocks, decoded, N);
    if (read_into("../shared/data/formats", name, ".f32", expected, sizeof expected) != sizeof expected) return;
    for (int i = 0; i < N; i++)
        ck_assert_msg(memcmp(decoded + i, expected + i, 4) == 0, "%s: weight %d: %a, not %a", f->name, i,
                      (double)decoded[i], (double)expected[i]);
}
END_TEST

START_TEST(pack_undoes_unpack)
{
    const bb_format *f = tested(_i);
    char name[16];
    file_name(f, name);
    if (!f->unpack) return;
    size_t size = bb_format_row_bytes(f, N);
    ck_assert_uint_eq(read_into("tests/data/formats", name, ".blocks", blocks, sizeof blocks), size);
    f->decode(blocks, decoded, N);
    for (size_t at = 0; at < size; at += f->block_bytes) {
        unsigned char again[BB_MAX_BLOCK * 4];
        bb_code c;
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
    char name[16];
    file_name(f, name);
    if (f->type == BB_F32) return;
    ck_assert(read_into("tests/data/formats", name, ".blocks", blocks, sizeof blocks) > 0);
    f->decode(blocks, decoded, N);
    for (size_t n = f->block; n <= COLS; n += f->block < 32 ? 37 : f->block) {
        static float x[COLS];
        double sum = 0, magnitude = 0;
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

int main(void)
{
    Suite *s = suite_create("formats");
    TCase *t = tcase_create("layout");
    tcase_add_test(t, registry_is_sound);
    tcase_add_loop_test(t, decodes_as_llama_cpp, 0, n_formats());
    tcase_add_loop_test(t, pack_undoes_unpack, 0, n_formats());
    tcase_add_loop_test(t, dot_is_the_sum_of_products, 0, n_formats());
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
