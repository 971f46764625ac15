/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_folder.c: `convert` and `export` to Hugging Face folders: what is carried from the folder that a model comes from, what is said to be missing,
 * and where nothing is written. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "tests/support/cli.h"
#include "tests/support/hf_folder.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

enum { SAID = 1 << 14 };
static char said[SAID], source[600], folder[600], small[600];

#define PROGRAM(...) bb_test_says(said, sizeof said, __VA_ARGS__)

/* A folder, and a Q4_0 of it. */
static void make_inputs(void)
{
    tiny_spec s = tiny_default("llama");
    tiny_set_type(&s, BB_F16);
    tiny_write(&s, bb_test_path("source.gguf"));
    snprintf(source, sizeof source, "%s", bb_test_path("source"));
    snprintf(small, sizeof small, "%s", bb_test_path("small.gguf"));
    snprintf(folder, sizeof folder, "%s", bb_test_path("out"));
    hf_write(bb_test_path("source.gguf"), source, 2, "\"an_own_key\": 7, ");
    PROGRAM(0, "", "quantize %s --format Q4_0 --embd-format F16 --method rtn --out %s", source, small);
}

static json_t *config_of(const char *dir)
{
    char path[700];
    snprintf(path, sizeof path, "%s/config.json", dir);
    json_t *config = json_load_file(path, 0, NULL);
    ck_assert_msg(config != NULL, "%s", path);
    return config;
}

START_TEST(convert_carries_what_the_folder_has)
{
    make_inputs();
    char    a[700], b[700];
    json_t *config;
    PROGRAM(0, folder, "convert %s %s --from %s", small, folder, source);
    ck_assert_ptr_nonnull(strstr(said, "14 matrices are packed in 4 bits and 0 in 8"));
    ck_assert_ptr_null(strstr(said, "missing"));
    snprintf(a, sizeof a, "%s/tokenizer.model", source);
    snprintf(b, sizeof b, "%s/tokenizer.model", folder);
    bb_test_same(a, b);
    config = config_of(folder);
    ck_assert_int_eq(json_integer_value(json_object_get(config, "an_own_key")), 7);
    ck_assert(json_is_object(json_object_get(config, "quantization_config")));
    json_decref(config);
    PROGRAM(5, "quantized already (compressed-tensors)", "inspect %s", folder); /* it is no source of this program's */
    PROGRAM(2, "is not empty", "convert %s %s", small, folder);
}
END_TEST

START_TEST(convert_says_what_is_missing_and_wrong)
{
    tiny_spec s = tiny_default("llama");
    make_inputs();
    json_t *config;
    PROGRAM(0, "copy them from the folder that the model comes from, or name it with --from", "convert %s %s", small, bb_test_path("alone"));
    config = config_of(bb_test_path("alone"));
    ck_assert_ptr_null(json_object_get(config, "an_own_key"));
    ck_assert_str_eq(json_string_value(json_object_get(config, "model_type")), "llama");
    json_decref(config);
    /* a plain copy of a folder, with its tokenizer */
    PROGRAM(0, "0 matrices are packed", "convert %s %s", source, bb_test_path("copy"));
    ck_assert(bb_folder_has(bb_test_path("copy"), "tokenizer.model"));
    PROGRAM(0, "", "inspect %s", bb_test_path("copy"));
    s.n_layer = 3;
    s.n_ff[2] = s.n_ff[0];
    s.n_head[2] = s.n_head[0];
    s.n_kv[2] = s.n_kv[0];
    tiny_write(&s, bb_test_path("three.gguf"));
    PROGRAM(5, "is of another model: this one has 3 blocks", "convert %s %s --from %s", bb_test_path("three.gguf"), bb_test_path("none"), source);
    PROGRAM(2, "--from has no effect where a GGUF file is written", "convert %s %s --from %s", small, bb_test_path("x.gguf"), source);
    PROGRAM(2, "is the model itself", "convert %s %s --force", source, source);
    PROGRAM(5, "has no config.json", "convert %s %s --from %s", small, bb_test_path("none"), bb_test_path("nowhere"));
    PROGRAM(0, "", "quantize %s --format Q4_1 --embd-format F16 --method rtn --out %s", source, bb_test_path("q41.gguf"));
    PROGRAM(5, "blk.0.attn_q.weight is Q4_1", "convert %s %s", bb_test_path("q41.gguf"), bb_test_path("none"));
    ck_assert(!bb_folder_has(bb_test_path("none"), "config.json"));
}
END_TEST

/* The winner of a run whose model was a folder. */
START_TEST(export_writes_the_folder_beside_the_file)
{
    char   dir[600], hash[32];
    bb_csv t;
    make_inputs();
    snprintf(dir, sizeof dir, "%s", bb_test_path("run"));
    PROGRAM(0, "",
            "run %s --target-bpw 10 --calib tests/data/README.md --ctx 32 --formats Q8_0,Q4_0 --embd-formats Q8_0 --prune none --sweeps 0 --no-finalise "
            "--calib-windows 4 --measure-windows 2 --refine-windows 2 --confirm-windows 4 --search-tokens 0.001 --out %s",
            source, dir);
    char path[700];
    snprintf(path, sizeof path, "%s/front.csv", dir);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    snprintf(hash, sizeof hash, "%s", bb_csv_text(&t, 0, 0));
    bb_csv_done(&t);
    PROGRAM(0, "embedding and head have no packed form", "export %s --plan %s --out %s --hf %s", dir, hash, bb_test_path("w.gguf"), bb_test_path("w"));
    ck_assert(bb_folder_has(bb_test_path("w"), "tokenizer.model") && bb_folder_has(bb_test_path("w"), "model.safetensors"));
    json_t *config = config_of(bb_test_path("w"));
    ck_assert_int_eq(json_integer_value(json_object_get(config, "an_own_key")), 7);
    json_decref(config);
    PROGRAM(2, "--hf ", "export %s --plan %s --out %s --hf %s", dir, hash, bb_test_path("w.gguf"), bb_test_path("w"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_folder");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, convert_carries_what_the_folder_has);
    tcase_add_test(t, convert_says_what_is_missing_and_wrong);
    tcase_add_test(t, export_writes_the_folder_beside_the_file);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
