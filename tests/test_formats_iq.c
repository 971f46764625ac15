/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_formats_iq.c: the codebook formats against llama.cpp's bytes, and their searches against brute force.
 *
 * tests/data/formats/iq*.blocks are rows that llama.cpp 3f545becc (MIT) encoded; the FNV-1a hashes below are of what its own
 * decoder made of them (float32, little endian). The oracles of the searches enumerate every code in double. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/format.h"
#include "kernels/half.h"

enum { N_ROWS = 8, ROW = 1024, N_WEIGHTS = N_ROWS * ROW, MAX_BLOCKS_BYTES = 4096 };

static const struct { const bb_format *format; const char *stem; uint64_t decoded_fnv; uint32_t n_codes; } cases[] = {
    { &bb_format_iq1_s, "iq1_s", 0xd1bb2244e4955ef3u, 2048 },
    { &bb_format_iq1_m, "iq1_m", 0x49e1d1d99e5cb2b5u, 4096 },
    { &bb_format_iq2_xxs, "iq2_xxs", 0xfbe2178e361a6493u, 256 * 128 },
    { &bb_format_iq2_xs, "iq2_xs", 0xaf1f991cab0aca58u, 512 * 128 },
    { &bb_format_iq2_s, "iq2_s", 0xf975c9e749dfa38fu, 1024 * 256 },
    { &bb_format_iq3_xxs, "iq3_xxs", 0x2846c9ffbc294e5au, 256 * 256 * 128 },
    { &bb_format_iq3_s, "iq3_s", 0xe5670b60e0eaa115u, 512 * 16 },
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static uint64_t fnv1a(const void *data, size_t size)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (const unsigned char *p = data, *end = p + size; p < end; p++) h = (h ^ *p) * 0x100000001b3u;
    return h;
}

static size_t read_data(const char *folder, const char *stem, const char *ending, void *data, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/formats/%s%s", folder, stem, ending);
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    size_t n = fread(data, 1, size, f);
    fclose(f);
    return n;
}

static void read_blocks(int i, uint8_t *blocks)
{
    size_t expected = (size_t)N_WEIGHTS / 256 * cases[i].format->block_bytes;
    ck_assert_uint_eq(read_data("tests/data", cases[i].stem, ".blocks", blocks, MAX_BLOCKS_BYTES), expected);
}

START_TEST(decodes_as_llama_cpp_does)
{
    uint8_t blocks[MAX_BLOCKS_BYTES];
    static float out[N_WEIGHTS];
    read_blocks(_i, blocks);
    cases[_i].format->decode(blocks, out, N_WEIGHTS);
    ck_assert_msg(fnv1a(out, sizeof out) == cases[_i].decoded_fnv, "%s: other floats", cases[_i].stem);
}
END_TEST

START_TEST(unpack_then_pack_is_identity)
{
    const bb_format *f = cases[_i].format;
    uint8_t          blocks[MAX_BLOCKS_BYTES], again[256];
    uint64_t         state = 88172645463325252u;
    bb_code          c;
    read_blocks(_i, blocks);
    for (int b = 0; b < N_WEIGHTS / 256; b++) {
        memset(again, 0xA5, sizeof again);
        f->unpack(blocks + b * f->block_bytes, &c);
        f->pack(&c, again);
        ck_assert_mem_eq(again, blocks + b * f->block_bytes, f->block_bytes);
        ck_assert_int_eq(again[f->block_bytes], 0xA5);
    }
    for (int b = 0; b < 1000; b++) { /* any bytes, but no NaN in d: its payload may change */
        for (int k = 0; k < f->block_bytes; k++) {
            state ^= state << 13; state ^= state >> 7; state ^= state << 17;
            blocks[k] = (uint8_t)(state >> 32);
        }
        if (f->type == BB_IQ1_M) blocks[55] &= 0xBF;
        else blocks[1] &= 0xBF;
        f->unpack(blocks, &c);
        f->pack(&c, again);
        ck_assert_mem_eq(again, blocks, f->block_bytes);
    }
}
END_TEST

START_TEST(value_and_dot_agree_with_decode)
{
    const bb_format *f = cases[_i].format;
    uint8_t          blocks[MAX_BLOCKS_BYTES];
    static float     w[N_WEIGHTS], x[N_WEIGHTS], v[8];
    bb_code          c;
    double           sum = 0.0, magnitude = 0.0;
    read_blocks(_i, blocks);
    f->decode(blocks, w, N_WEIGHTS);
    for (int b = 0; b < N_WEIGHTS / 256; b++) {
        f->unpack(blocks + b * f->block_bytes, &c);
        for (unsigned k = 0; k < 256u / f->vec; k++) {
            f->value(&c, k, v);
            ck_assert_mem_eq(v, w + b * 256 + (int)(k * f->vec), sizeof *v * f->vec);
        }
    }
    for (int i = 0; i < N_WEIGHTS; i++) {
        x[i] = (float)((i * 7919) % 1009) / 1009.0f - 0.5f;
        sum += (double)w[i] * (double)x[i];
        magnitude += fabs((double)w[i] * (double)x[i]);
    }
    /* At most 8192/8 float additions in a lane and its products: gamma(n) = n u. */
    ck_assert_double_le(fabs((double)f->dot(blocks, x, N_WEIGHTS) - sum), 1100 * 0x1p-24 * magnitude);
}
END_TEST

START_TEST(decodes_the_floats_in_the_data_folder)
{
    uint8_t blocks[MAX_BLOCKS_BYTES];
    static float out[N_WEIGHTS], expected[N_WEIGHTS];
    const char *data = getenv("BB_DATA");
    if (read_data(data ? data : "../shared/data", cases[_i].stem, ".f32", expected, sizeof expected) != sizeof expected) return;
    read_blocks(_i, blocks);
    cases[_i].format->decode(blocks, out, N_WEIGHTS);
    ck_assert_mem_eq(out, expected, sizeof out);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("formats_iq");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, decodes_as_llama_cpp_does, 0, N_CASES);
    tcase_add_loop_test(t, decodes_the_floats_in_the_data_folder, 0, N_CASES);
    tcase_add_loop_test(t, unpack_then_pack_is_identity, 0, N_CASES);
    tcase_add_loop_test(t, value_and_dot_agree_with_decode, 0, N_CASES);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
