/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_lattice.c: files of type LC2 from the command line: written, read back, trained, whatever the threads and after an interruption; refused where llama.cpp
 * is to read them; damaged ones. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/model.h"
#include "model/net/lattice.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define TRAIN " --tokens 0.006 --ctx 32 --batch 4 --held-windows 6 --rate 0.01 --estimator differentiable"
#define ENCODE "quantize %s --format LC2 --embd-format Q4_0 --calib %s --calib-windows 8 --ctx 32 --sweeps 2 --out %s"
#define OURS " --experimental-formats"

static char full[512], small[512], one[512], two[512], ids[512], other[512], said[16384];

static void setup(void)
{
    const struct {
        char       *at;
        const char *name;
    } names[] = { { full, "full.gguf" }, { small, "small.gguf" }, { one, "one.gguf" }, { two, "two.gguf" }, { ids, "text.u32" }, { other, "other.u32" } };
    tiny_spec s = tiny_default("llama");
    bb_err    err = BB_ERR_INIT;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) snprintf(names[i].at, 512, "%s", bb_test_path(names[i].name));
    s.n_embd = 64;
    s.head_dim = 16;
    for (int i = 0; i < TINY_MAX_LAYERS; i++) s.n_ff[i] = 96; /* 3 times 32 */
    tiny_write(&s, full);
    bb_test_write_ids(ids, 1, 16, 6000);
    bb_test_write_ids(other, 0, 40, 3000);
    ck_assert_msg(bb_test_command(NULL, &err, ENCODE OURS, full, ids, small) == BB_OK, "%s", err.msg);
}

static double kl_of(const char *path)
{
    bb_err err = BB_ERR_INIT;
    char  *json = NULL;
    ck_assert_msg(bb_test_command(&json, &err, "eval %s --reference %s --text %s --ctx 32 --json", path, full, ids) == BB_OK, "%s", err.msg);
    const char *at = strstr(json, "\"kl_nats\":");
    ck_assert_ptr_nonnull(at);
    const double kl = strtod(at + 10, NULL);
    bb_free(json);
    return kl;
}

START_TEST(written_and_read)
{
    char  *text = NULL;
    bb_err err = BB_ERR_INIT;
    /* The same bytes by one thread. */
    bb_test_says(said, sizeof said, 0, "", ENCODE OURS " --threads 1", full, ids, one);
    bb_test_same(small, one);
    ck_assert_int_eq(bb_test_command(&text, &err, "inspect %s", small), BB_OK);
    ck_assert_ptr_nonnull(strstr(text, "LC2"));
    bb_free(text);
    bb_test_says(said, sizeof said, 0, "LC2 is a type of bitbudget alone", "inspect %s --audit", small);
    bb_test_says(said, sizeof said, 0, "", "generate %s --prompt a --n 4", small);
    /* Better than the same bits in llama.cpp's grid by rounding, and of the size that it should have: 2 bits, and 20 + cols + rows numbers a matrix. */
    ck_assert_int_eq(bb_test_command(NULL, &err, "quantize %s --format Q2_0 --embd-format Q4_0 --method rtn --out %s", full, two), BB_OK);
    ck_assert_msg(kl_of(small) < kl_of(two), "%g, %g", kl_of(small), kl_of(two));
    snprintf(two, sizeof two, "%s", bb_test_path("three.gguf")); /* a copy by convert is the same model */
    ck_assert_msg(bb_test_command(NULL, &err, "convert %s %s", small, two) == BB_OK, "%s", err.msg);
    ck_assert(kl_of(two) <= kl_of(small) && kl_of(two) >= kl_of(small));
}
END_TEST

START_TEST(trained)
{
    const char format[] = "qat %s --reference %s --text %s --other %s --out %s" TRAIN;
    char       state[600];
    uint64_t   before, after;
    bb_err     err = BB_ERR_INIT;
    ck_assert_msg(bb_test_command(NULL, &err, format, small, full, ids, other, one) == BB_OK, "%s", err.msg);
    ck_assert_msg(kl_of(one) < 0.97 * kl_of(small), "%g -> %g", kl_of(small), kl_of(one));
    ck_assert_int_eq(bb_file_size(small, &before, NULL), BB_OK);
    ck_assert_int_eq(bb_file_size(one, &after, NULL), BB_OK);
    ck_assert_uint_eq(before, after);
    snprintf(state, sizeof state, "%s.state", two);
    bb_interrupt_at(bb_now_s() + 0.1);
    const bb_status status = bb_test_command(NULL, &err, format, small, full, ids, other, two);
    bb_interrupt_at(0);
    bb_interrupt_clear();
    ck_assert(status == BB_INTERRUPTED || status == BB_OK);
    ck_assert_msg(bb_test_command(NULL, &err, format, small, full, ids, other, two) == BB_OK, "%s", err.msg);
    bb_test_same(one, two);
    ck_assert(!bb_file_exists(state));
    bb_test_says(said, sizeof said, 0, "", "qat %s --reference %s --text %s --other %s --out %s" TRAIN " --threads 1 --force", small, full, ids, other, two);
    bb_test_same(one, two);
}
END_TEST

START_TEST(refused)
{
    bb_test_says(said, sizeof said, 2, "LC2 is a type of bitbudget alone, which llama.cpp does not read", ENCODE, full, ids, one);
    bb_test_says(said, sizeof said, 2, "--method sequential", ENCODE OURS " --method feedback", full, ids, one);
    bb_test_says(said, sizeof said, 2, "pruning", ENCODE OURS " --prune-ffn 0.5", full, ids, one);
    bb_test_says(said, sizeof said, 5, "LC2", "convert %s %s", small, bb_test_path("folder"));
    bb_test_says(said, sizeof said, 5, "LC2", "quantize %s --format Q4_0 --method rtn --out %s", small, one);
    bb_test_says(said, sizeof said, 5, "LC2", "quantize %s --like %s --method rtn --out %s", full, small, one);
    bb_test_says(said, sizeof said, 5, "LC2", "estimate %s --target-bpw 5", small);
    bb_test_says(said, sizeof said, 5, "LC2", "run %s --target-bpw 5 --calib %s --eval %s --out %s", small, ids, other, bb_test_path("run"));
}
END_TEST

/* Where bytes stand in a file; -1: nowhere. */
static long place_of(const unsigned char *data, size_t n, const void *what, size_t size)
{
    for (size_t i = 0; i + size <= n; i++)
        if (memcmp(data + i, what, size) == 0) return (long)i;
    return -1;
}

/* `one` becomes `small` with n other bytes behind the first place of `what`. */
static void damage_bytes(const void *what, size_t size, size_t behind, const void *bytes, size_t n)
{
    bb_map map;
    ck_assert_int_eq(bb_map_open(small, &map, NULL), BB_OK);
    unsigned char *copy = bb_alloc(map.size, 1, NULL);
    memcpy(copy, map.data, map.size);
    const long at = place_of(copy, map.size, what, size);
    ck_assert_int_ge(at, 0);
    memcpy(copy + (size_t)at + behind, bytes, n);
    bb_test_write(one, copy, map.size);
    bb_free(copy);
    bb_map_close(&map);
}

static void damage(const char *text, size_t behind, const void *bytes, size_t n) { damage_bytes(text, strlen(text), behind, bytes, n); }

START_TEST(damaged)
{
    static const unsigned char nan_half[] = { 0, 0x7E };
    static const char          name[] = "blk.0.attn_q.lattice";
    static const uint64_t      fewer = 147, more = 149;
    static const uint32_t      bf16 = BB_BF16;
    const size_t               dims = sizeof name - 1 + 4; /* behind the name and the number of dimensions */
    bb_err                     err = BB_ERR_INIT;
    damage(name, 19, "x", 1);
    ck_assert_int_eq(bb_test_command(NULL, &err, "eval %s --text %s --ctx 32", one, ids), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "tensor 'blk.0.attn_q.lattice' is missing"));
    for (int k = 0; k < 2; k++) {
        damage(name, dims, k ? &more : &fewer, 8);
        ck_assert_int_eq(bb_test_command(NULL, &err, "eval %s --text %s --ctx 32", one, ids), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, "blk.0.attn_q.lattice") && strstr(err.msg, "148"), "%s", err.msg);
    }
    damage(name, dims + 8, &bf16, 4);
    ck_assert_int_eq(bb_test_command(NULL, &err, "eval %s --text %s --ctx 32", one, ids), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "148 numbers of F16"));
    /* A number that is none. */
    bb_model m = { 0 };
    ck_assert_int_eq(bb_model_open(small, &m, NULL), BB_OK);
    char side[32];
    memcpy(side, m.net.blocks[0].w[BB_PART_Q].lattice->side + 80, sizeof side - 1);
    side[sizeof side - 1] = 0;
    bb_model_close(&m);
    damage_bytes((unsigned char *)side, sizeof side - 1, 2, nan_half, sizeof nan_half);
    ck_assert_int_eq(bb_test_command(NULL, &err, "eval %s --text %s --ctx 32", one, ids), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "tensor 'blk.0.attn_q.lattice': its number 41"), "%s", err.msg);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_lattice");
    TCase *t = tcase_create("cli_lattice");
    tcase_add_unchecked_fixture(t, setup, NULL);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, written_and_read);
    tcase_add_test(t, trained);
    tcase_add_test(t, refused);
    tcase_add_test(t, damaged);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
