/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_bench.c: `bitbudget bench`: its rows and columns, in all three forms the same; operations by count; what is refused. */
#include <jansson.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { LAYERS = 2, C = 64, HEADS = 4, KV = 2, HEAD = 16, FF = 128, CTX = 20 };
#define SHORT "--ctx 20 --windows 2 --seconds 0.01"

static char path[512], said[1 << 15];

static const char *const names[] = { "peak_float32", "peak_copy", "prompt", "prompts", "decode", "score", "peak_int8", "peak_bfloat16" };

static size_t n_rows(void) { return sizeof names / sizeof *names - !bb_kernels_can_be_fast(); }

static void setup(void)
{
    tiny_spec s = tiny_default("llama");
    snprintf(path, sizeof path, "%s", bb_test_path("bench.gguf"));
    s.n_layer = LAYERS;
    s.n_embd = C;
    s.head_dim = HEAD;
    for (uint32_t i = 0; i < LAYERS; i++) {
        s.n_head[i] = HEADS;
        s.n_kv[i] = KV;
        s.n_ff[i] = FF;
    }
    tiny_write(&s, path);
    omp_set_num_threads(1); /* of the commands inside the test */
}

/* Multiplications and additions of a token: 2 a weight of the blocks, 4 a channel of every key that a query meets. */
static double operations(double keys)
{
    const double weights = C * HEADS * HEAD * 2.0 + 2.0 * C * KV * HEAD + 3.0 * C * FF;
    return LAYERS * (2 * weights + 4.0 * HEADS * HEAD * keys);
}

static double cell(const bb_csv *t, size_t row, size_t column)
{
    double value;
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_csv_double(t, row, column, &value, &err) == BB_OK, "%s", err.msg);
    return value;
}

/* Peaks have rates and no tokens, the others tokens and a share of the peak, which nothing passes by far. */
START_TEST(a_table_has_every_row)
{
    enum { ROW, TYPE, PRECISION, THREADS, T, TOKENS, GFLOPS, GBYTES, SHARE, FLOPS_A_TOKEN, N_COLUMNS };
    bb_err err = BB_ERR_INIT;
    bb_csv t;
    char  *text = NULL, file[512];
    ck_assert_msg(bb_test_command(&text, &err, "bench %s " SHORT " --csv", path) == BB_OK, "%s", err.msg);
    snprintf(file, sizeof file, "%s", bb_test_path("bench.csv"));
    bb_test_write(file, text, strlen(text));
    ck_assert_msg(bb_csv_read(file, &t, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(t.n_cols, N_COLUMNS);
    ck_assert_uint_eq(t.n_rows, n_rows());
    for (size_t i = 0; i < t.n_rows; i++) {
        const bool peak = strncmp(names[i], "peak_", 5) == 0;
        ck_assert_str_eq(bb_csv_text(&t, i, ROW), names[i]);
        ck_assert_str_eq(bb_csv_text(&t, i, TYPE), "F32");
        ck_assert_str_eq(bb_csv_text(&t, i, PRECISION), "exact");
        ck_assert(cell(&t, i, THREADS) == 1 && cell(&t, i, T) == CTX);
        ck_assert_msg(peak == !(cell(&t, i, TOKENS) > 0), "%s: %g tokens a second", names[i], cell(&t, i, TOKENS));
        ck_assert_msg(cell(&t, i, GFLOPS) > 0 || cell(&t, i, GBYTES) > 0, "%s has no rate", names[i]);
        ck_assert_msg(peak || (cell(&t, i, SHARE) > 0 && cell(&t, i, SHARE) < 1.5), "%s: %g of the peak", names[i], cell(&t, i, SHARE));
    }
    ck_assert_double_eq(cell(&t, 0, SHARE), 1);
    ck_assert_double_eq_tol(cell(&t, 3, FLOPS_A_TOKEN), operations((CTX + 1) / 2.0), 1); /* many prompts: blocks alone */
    ck_assert_double_eq_tol(cell(&t, 3, GFLOPS), cell(&t, 3, TOKENS) * cell(&t, 3, FLOPS_A_TOKEN) * 1e-9, 0.01);
    bb_csv_done(&t);
    bb_free(text);
}
END_TEST

START_TEST(json_has_the_same_rows)
{
    bb_err err = BB_ERR_INIT;
    char  *text = NULL;
    ck_assert_msg(bb_test_command(&text, &err, "bench %s " SHORT " --json --cpu-time", path) == BB_OK, "%s", err.msg);
    json_t *root = json_loads(text, 0, NULL);
    ck_assert_msg(root != NULL, "%s", text);
    ck_assert_str_eq(json_string_value(json_object_get(root, "type")), "F32");
    ck_assert_str_eq(json_string_value(json_object_get(root, "precision")), "exact");
    ck_assert_str_eq(json_string_value(json_object_get(root, "bits")), bb_kernels_bits());
    ck_assert_int_eq(json_integer_value(json_object_get(root, "threads")), 1);
    ck_assert_int_eq(json_integer_value(json_object_get(root, "ctx")), CTX);
    for (size_t i = 0; i < n_rows(); i++) {
        const json_t *row = json_object_get(root, names[i]);
        ck_assert_msg(row != NULL, "%s is missing: %s", names[i], text);
        ck_assert_msg(json_number_value(json_object_get(row, "seconds")) > 0, "%s", names[i]);
        ck_assert((strncmp(names[i], "peak_", 5) == 0) == !json_object_get(row, "peak_share"));
    }
    json_decref(root);
    bb_free(text);
}
END_TEST

START_TEST(the_table_names_file_and_machine)
{
    bb_err err = BB_ERR_INIT;
    char  *text = NULL;
    ck_assert_msg(bb_test_command(&text, &err, "bench %s " SHORT, path) == BB_OK, "%s", err.msg);
    const char *const words[] = {
        path, "F32, 1 threads, level ", "exact products", "tokens/s", "of peak", "prefill, many prompts", "decode, one token at a time",
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) ck_assert_msg(strstr(text, words[i]) != NULL, "\"%s\" is not in: %s", words[i], text);
    bb_free(text);
}
END_TEST

/* Split products where the CPU has tiles; of a prompt and of decoding integers wherever the file is quantized, which the shares are of. */
START_TEST(fast_products_are_named)
{
    static const char *const wanted[] = { "prompt,Q8_0,fast,", "prompts,Q8_0,exact,", "decode,Q8_0,fast," };
    tiny_spec                s = tiny_default("llama");
    char                     file[512], *text = NULL;
    const bool               fast = bb_kernels_can_be_fast();
    bb_err                   err = BB_ERR_INIT;
    bb_test_says(said, sizeof said, 0, fast ? "fast products\n" : "exact products\n", "bench %s " SHORT " --precision fast", path);
    snprintf(file, sizeof file, "%s", bb_test_path("bench-q8.gguf"));
    for (uint32_t i = 0; i < s.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) s.type[i][p] = BB_Q8_0;
    tiny_write(&s, file);
    bb_test_says(said, sizeof said, 0, "products, of one prompt and of decoding 8-bit integers", "bench %s " SHORT " --precision fast", file);
    ck_assert_msg(bb_test_command(&text, &err, "bench %s " SHORT " --csv --precision fast", file) == BB_OK, "%s", err.msg);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        ck_assert_msg((fast && i == 1) || strstr(text, wanted[i]) != NULL, "%s is not in %s", wanted[i], text);
    bb_free(text);
}
END_TEST

START_TEST(what_is_wrong_is_said)
{
    static const struct {
        int         code;
        const char *arguments, *words; /* FILE: the model, TEXT: a file that is none */
    } cases[] = {
        { 2, "bench", "bench needs a model file" },
        { 2, "bench FILE FILE", "" },
        { 2, "bench FILE --json --csv", "one form can be printed" },
        { 2, "bench FILE --cpu-time --threads 2", "needs --threads 1" },
        { 2, "bench FILE --windows 0", "--windows" },
        { 2, "bench FILE --seconds 0", "--seconds" },
        { 2, "bench FILE --ctx 1e9", "--ctx" },
        { 2, "bench FILE --precision quick", "--precision" },
        { 0, "bench FILE --ctx 129 --windows 1 --seconds 0.01 --threads 1", "longer than the 128 that" }, /* as eval: said, and done */
        { 5, "bench TEXT", "not a GGUF file" },
        { 5, "bench none.gguf", "cannot be opened" },
    };
    char line[1024] = "", text[512];
    snprintf(text, sizeof text, "%s", bb_test_path("text.txt"));
    bb_test_write(text, "no model\n", 9);
    for (const char *at = cases[_i].arguments; *at;) {
        const bool   is_file = strncmp(at, "FILE", 4) == 0, is_text = strncmp(at, "TEXT", 4) == 0;
        const size_t n = strlen(line);
        snprintf(line + n, sizeof line - n, is_file ? "%s" : is_text ? "%s" : "%.1s", is_file ? path : is_text ? text : at);
        at += is_file || is_text ? 4 : 1;
    }
    bb_test_says(said, sizeof said, cases[_i].code, cases[_i].words, "%s", line);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_bench");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, a_table_has_every_row);
    tcase_add_test(t, json_has_the_same_rows);
    tcase_add_test(t, the_table_names_file_and_machine);
    tcase_add_test(t, fast_products_are_named);
    tcase_add_loop_test(t, what_is_wrong_is_said, 0, 11);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
