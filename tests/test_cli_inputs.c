/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_inputs.c: nothing is done less than asked in silence: damaged weights, quantized sources, binary texts, other vocabularies, wrong kinds
 * of files, sizes that are already reached, fewer windows than asked. Each has its sentence and its exit code. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/io/gguf.h"
#include "model/model.h"
#include "tests/support/cli.h"
#include "tests/support/hf_folder.h"
#include "tests/support/split.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define QUICK " --calib-windows 4 --measure-windows 2 --refine-windows 2 --confirm-windows 4 --search-tokens 0.01"
#define FEW " --formats Q8_0,Q4_0 --embd-formats Q8_0,Q4_0 --sweeps 0 --no-finalise"
#define TEXT "tests/data/README.md"
enum { SAID = 1 << 16 };

static char said[SAID];

/* A model of one block, with rows of one super-block. */
static const char *make_model(const char *name, bb_type type)
{
    tiny_spec   s = tiny_default("llama");
    const char *path = bb_test_path(name);
    s.n_layer = 1;
    s.n_embd = 256;
    s.head_dim = 64;
    s.n_ff[0] = 256;
    tiny_set_type(&s, type);
    tiny_write(&s, path);
    return path;
}

/* Writes a number over weight i of a tensor of F16. */
static void damage(const char *path, const char *tensor, size_t i, uint16_t raw)
{
    bb_source g;
    FILE     *f = fopen(path, "r+b");
    ck_assert_int_eq(bb_gguf_open(path, &g, NULL), BB_OK);
    const bb_tensor *t = bb_source_tensor(&g, tensor);
    ck_assert(f && t && t->type == BB_F16);
    ck_assert_int_eq(fseek(f, (long)((const unsigned char *)t->data - bb_gguf_map(&g)->data) + 2 * (long)i, SEEK_SET), 0);
    ck_assert_uint_eq(fwrite(&raw, 2, 1, f), 1);
    ck_assert_int_eq(fclose(f), 0);
    bb_source_close(&g);
}

#define CHECK_PROGRAM(...) bb_test_says(said, sizeof said, __VA_ARGS__)

START_TEST(damaged_weights_are_refused_by_every_command)
{
    static const char *const methods[] = { "rtn", "weighted", "feedback", "sequential" };
    const char              *good = make_model("good.gguf", BB_F16), *bad = make_model("bad.gguf", BB_F16), *out = bb_test_path("out.gguf");
    damage(bad, "blk.0.ffn_down.weight", 777, 0x7E00);
    for (size_t i = 0; i < 4; i++)
        CHECK_PROGRAM(5, "'blk.0.ffn_down.weight' has the weight NaN (row 3, column 9)", "quantize %s --format Q8_0 --method %s --calib " TEXT " --out %s", bad,
                      methods[i], out);
    ck_assert(!bb_file_exists(out));
    CHECK_PROGRAM(5, "blk.0.ffn_down.weight", "eval %s --text " TEXT " --ctx 32 --chunks 2", bad);
    CHECK_PROGRAM(5, "blk.0.ffn_down.weight", "eval %s --text " TEXT " --ctx 32 --chunks 2 --reference %s", good, bad);
    CHECK_PROGRAM(5, "blk.0.ffn_down.weight", "run %s --target-bpw 6 --calib " TEXT " --ctx 32" QUICK " --out %s", bad, bb_test_path("run"));
    CHECK_PROGRAM(5, "blk.0.ffn_down.weight", "sweep %s --points 2 --calib " TEXT " --ctx 32" QUICK " --out %s", bad, bb_test_path("run"));
    CHECK_PROGRAM(5, "blk.0.ffn_down.weight", "train %s --init %s --text " TEXT " --ctx 32 --steps 1", out, bad);
    ck_assert(!bb_file_exists(out));
}
END_TEST

START_TEST(a_size_above_the_source_is_refused_at_once)
{
    const char *model = make_model("small.gguf", BB_F16);
    uint64_t    bytes;
    ck_assert_int_eq(bb_file_size(model, &bytes, NULL), BB_OK);
    CHECK_PROGRAM(2, "it already fits", "run %s --target-size 99GB --out %s", model, bb_test_path("above"));
    CHECK_PROGRAM(2, "it already fits", "estimate %s --target-size 99GB", model);
    CHECK_PROGRAM(2, "it already fits", "estimate %s --target-size %llu", model, (unsigned long long)bytes);
    CHECK_PROGRAM(2, "it already fits", "sweep %s --sizes 300000,99GB --out %s", model, bb_test_path("above"));
    CHECK_PROGRAM(0, "budget", "estimate %s --target-size %llu", model, (unsigned long long)bytes - 1);
    ck_assert(!bb_file_exists(bb_test_path("above")));
}
END_TEST

START_TEST(fewer_windows_than_asked_are_counted)
{
    const char *model = make_model("windows.gguf", BB_F16), *text = bb_test_path("short.txt");
    char        letters[400];
    memset(letters, 'x', sizeof letters);
    for (size_t i = 0; i < sizeof letters; i += 7) letters[i] = ' ';
    bb_test_write(text, letters, sizeof letters);
    CHECK_PROGRAM(0, "short.txt: its ", "quantize %s --format Q8_0 --embd-format Q8_0 --calib %s --ctx 32 --calib-windows 64 --out %s", model, text,
                  bb_test_path("w.gguf"));
    ck_assert_msg(strstr(said, "64 were asked for") != NULL, "%s", said);
    CHECK_PROGRAM(0, "100 were asked for", "eval %s --text %s --ctx 32 --chunks 100", model, text);
    CHECK_PROGRAM(0, "instead of 64 are used for second moments",
                  "run %s --target-bpw 9 --calib %s --ctx 32 --calib-windows 64 --measure-windows 2 --refine-windows 200 "
                  "--confirm-windows 300 --search-tokens 0.001 --no-finalise --formats Q8_0,Q4_0 --embd-formats Q8_0,Q4_0 --out %s",
                  model, text, bb_test_path("few"));
    ck_assert_msg(strstr(said, "instead of 200 are used for ranking") && strstr(said, "instead of 300 are used for confirming"), "%s", said);
    ck_assert_msg(!strstr(said, "are used for measuring"), "%s", said);
    /* Sampled text is as long as it must be. */
    CHECK_PROGRAM(0, "scoring: 2 / 2 / 9 windows",
                  "run %s --target-bpw 9 --calib self --ctx 32 --calib-windows 3 --measure-windows 2 --refine-windows 2 "
                  "--confirm-windows 9 --search-tokens 0.001 --no-finalise --formats Q8_0,Q4_0 --embd-formats Q8_0,Q4_0 --out %s",
                  model, bb_test_path("self"));
    ck_assert_msg(!strstr(said, "instead of"), "%s", said);
    CHECK_PROGRAM(0, "is longer than the model was trained for", "quantize %s --format Q8_0 --embd-format Q8_0 --calib %s --ctx 200 --calib-windows 1 --out %s",
                  model, text, bb_test_path("w2.gguf"));
    CHECK_PROGRAM(0, "", "quantize %s --format Q8_0 --embd-format Q8_0 --method rtn --out %s", model, bb_test_path("w3.gguf")); /* no text is read */
    ck_assert_msg(!strstr(said, "--ctx"), "%s", said);
    CHECK_PROGRAM(0, "warning: --ctx has no effect", "quantize %s --format Q8_0 --embd-format Q8_0 --method rtn --ctx 32 --out %s", model,
                  bb_test_path("w4.gguf"));
}
END_TEST

START_TEST(a_quantized_source_is_never_full_precision)
{
    const char *exact = make_model("exact.gguf", BB_F16), *quantized = make_model("quantized.gguf", BB_Q8_0);
    char       *text;
    json_t     *root;
    CHECK_PROGRAM(0, "distances are from source (Q8_0), not from full precision", "eval %s --text " TEXT " --ctx 32 --chunks 2 --reference %s", exact,
                  quantized);
    ck_assert_int_eq(bb_test_command(&text, NULL, "eval %s --text " TEXT " --ctx 32 --chunks 2 --reference %s --json", quantized, exact), BB_OK);
    ck_assert_ptr_nonnull(root = json_loads(text, 0, NULL));
    ck_assert_str_eq(json_string_value(json_object_get(root, "reference_label")), "full precision");
    json_decref(root);
    bb_free(text);
    CHECK_PROGRAM(0, "source (Q8_0)", "inspect %s", quantized);
    CHECK_PROGRAM(0, "(source (Q8_0) ", "quantize %s --format Q4_0 --embd-format Q4_0 --method rtn --eval " TEXT " --ctx 32 --eval-windows 2 --out %s",
                  quantized, bb_test_path("q4.gguf"));
    CHECK_PROGRAM(0, "(full precision ", "quantize %s --format Q4_0 --embd-format Q4_0 --method rtn --eval " TEXT " --ctx 32 --eval-windows 2 --out %s", exact,
                  bb_test_path("q4e.gguf"));
    CHECK_PROGRAM(0, "every KL is measured from this source (Q8_0)", "estimate %s --target-bpw 5", quantized);
}
END_TEST

START_TEST(what_is_no_text_is_refused)
{
    const char *model = make_model("text.gguf", BB_F16), *binary = bb_test_path("x.txt"), *empty = bb_test_path("empty.txt");
    bb_test_write(empty, "", 0);
    bb_test_write(binary, "PK\3\4 and more of it", 20);
    CHECK_PROGRAM(5, "is a GGUF model, and plain UTF-8 text is needed", "eval %s --text %s", model, model);
    CHECK_PROGRAM(5, "is a zip archive", "quantize %s --format Q8_0 --calib %s --out %s", model, binary, bb_test_path("o.gguf"));
    CHECK_PROGRAM(5, "is a zip archive", "run %s --target-bpw 9 --calib %s --out %s", model, binary, bb_test_path("o"));
    CHECK_PROGRAM(5, "empty.txt is empty", "eval %s --text %s", model, empty);
    CHECK_PROGRAM(5, "empty.txt is empty", "tokenize %s --text %s", model, empty);
}
END_TEST

START_TEST(other_vocabularies_and_shapes_are_refused)
{
    const char *model = make_model("a.gguf", BB_F16), *more = bb_test_path("more.gguf"), *wide = bb_test_path("wide.gguf"), *deep = bb_test_path("deep.gguf");
    tiny_spec   s = tiny_default("llama");
    s.n_embd = 256;
    s.head_dim = 64;
    s.n_ff[0] = s.n_ff[1] = 256;
    tiny_write(&s, deep);
    s.n_layer = 1;
    s.n_vocab = 321;
    tiny_write(&s, more);
    s.n_vocab = 320;
    s.n_embd = 512;
    tiny_write(&s, wide);
    CHECK_PROGRAM(5, "320 and 321 tokens", "eval %s --text " TEXT " --ctx 32 --chunks 2 --reference %s", model, more);
    CHECK_PROGRAM(5, "320 and 321 tokens", "quantize %s --like %s --method rtn --out %s", model, more, bb_test_path("l.gguf"));
    CHECK_PROGRAM(5, "is 256 wide and", "eval %s --text " TEXT " --ctx 32 --chunks 2 --reference %s", model, wide);
    CHECK_PROGRAM(5, "is 256 wide and", "compare %s %s --text " TEXT " --ctx 32 --chunks 2", wide, model);
    CHECK_PROGRAM(5, "token_embd is 320 x 512, in the model it is 320 x 256", "quantize %s --like %s --method rtn --out %s", model, wide,
                  bb_test_path("l.gguf"));
    CHECK_PROGRAM(5, "has 2 blocks, the model has 1", "quantize %s --like %s --method rtn --out %s", model, deep, bb_test_path("l.gguf"));
}
END_TEST

START_TEST(wrong_kinds_of_files_are_explained)
{
    const char *model = make_model("kind.gguf", BB_F16), *folder = bb_test_path("hf");
    ck_assert_int_eq(bb_make_dirs(folder, NULL), BB_OK);
    bb_test_write(bb_test_path("hf/config.json"), "{}", 2);
    CHECK_PROGRAM(5, "'model_type' is missing", "inspect %s", folder);
    CHECK_PROGRAM(5, "'model_type' is missing", "run %s --target-size 1MB --out %s", folder, bb_test_path("o"));
    CHECK_PROGRAM(5, "it is a model file", "search %s", model);
}
END_TEST

START_TEST(special_tokens_of_a_text_are_parsed_when_asked)
{
    const char *model = make_model("special.gguf", BB_F16), *text = bb_test_path("special.txt");
    char       *plain, *parsed;
    bb_test_write(text, "a</s>b", 6);
    ck_assert_int_eq(bb_test_command(&plain, NULL, "tokenize %s --text %s", model, text), BB_OK);
    ck_assert_int_eq(bb_test_command(&parsed, NULL, "tokenize %s --text %s --parse-special", model, text), BB_OK);
    ck_assert_ptr_null(strstr(plain, "\n2\n"));
    ck_assert_ptr_nonnull(strstr(parsed, "\n2\n")); /* </s> */
    bb_free(plain);
    bb_free(parsed);
}
END_TEST

START_TEST(a_folder_becomes_a_file)
{
    const char *model = make_model("folder.gguf", BB_F16), *folder = bb_test_path("as_folder"), *out = bb_test_path("converted.gguf");
    bb_source   a, b;
    bb_err      err = BB_ERR_INIT;
    hf_write(model, folder, 2, "");
    CHECK_PROGRAM(0, out, "convert %s %s", folder, out);
    ck_assert_int_eq(bb_gguf_open(model, &a, &err), BB_OK);
    ck_assert_msg(bb_gguf_open(out, &b, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(a.n_tensors, b.n_tensors);
    for (uint64_t i = 0; i < a.n_tensors; i++) {
        const bb_tensor *t = bb_source_tensor(&b, a.tensors[i].name);
        ck_assert(t && t->size_bytes == a.tensors[i].size_bytes && memcmp(t->data, a.tensors[i].data, (size_t)t->size_bytes) == 0);
    }
    bb_source_close(&a);
    bb_source_close(&b);
    CHECK_PROGRAM(0, out, "convert %s %s", folder, out); /* its own file may be made again */
    CHECK_PROGRAM(2, "was not made by bitbudget", "convert %s %s", folder, model);
    CHECK_PROGRAM(2, "convert needs", "convert %s", folder);
}
END_TEST

/* What a command says of the whole model it says of the parts, by whichever of them the model is named. */
START_TEST(every_command_takes_a_split_model)
{
    static const struct {
        const char *words, *same_from; /* NULL: names and hashes of files are all over it */
    } commands[] = {
        { "eval %s --text " TEXT " --ctx 32 --chunks 2", "\nperplexity" },
        { "tokenize %s --text " TEXT, "" },
        { "generate %s --prompt a --n 4 --temperature 0", "" },
        { "estimate %s --target-bpw 9 --calib " TEXT " --ctx 32", NULL },
        { "inspect %s --tensors", "\ntensor" },
    };
    char model[300], stem[300], *whole, *parts;
    snprintf(model, sizeof model, "%s", make_model("one.gguf", BB_F16)); /* bb_test_path's buffers rotate */
    snprintf(stem, sizeof stem, "%s", bb_test_path("parts"));
    split_write(model, stem, 3, NULL);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        bb_err err = BB_ERR_INIT;
        char   line[1000];
        snprintf(line, sizeof line, commands[i].words, model);
        ck_assert_msg(bb_test_command(&whole, &err, "%s", line) == BB_OK, "%s: %s", line, err.msg);
        snprintf(line, sizeof line, commands[i].words, split_path(stem, (uint32_t)i % 3 + 1, 3));
        ck_assert_msg(bb_test_command(&parts, &err, "%s", line) == BB_OK, "%s: %s", line, err.msg);
        if (commands[i].same_from) {
            const char *a = strstr(whole, commands[i].same_from), *b = strstr(parts, commands[i].same_from);
            ck_assert_msg(a && b && strcmp(a, b) == 0, "%s: %s, not %s", line, parts, whole);
        }
        bb_free(whole);
        bb_free(parts);
    }
    CHECK_PROGRAM(0, "GGUF v3 in 3 files", "inspect %s", split_path(stem, 3, 3));
    CHECK_PROGRAM(0, "", "quantize %s --format Q8_0 --method rtn --out %s", model, bb_test_path("split_a.gguf"));
    CHECK_PROGRAM(0, "", "quantize %s --like %s --method rtn --out %s", split_path(stem, 1, 3), bb_test_path("split_a.gguf"), bb_test_path("split_b.gguf"));
    bb_test_same(bb_test_path("split_a.gguf"), bb_test_path("split_b.gguf"));
    CHECK_PROGRAM(0, "", "eval %s --text " TEXT " --ctx 32 --chunks 2 --reference %s", bb_test_path("split_a.gguf"), split_path(stem, 2, 3));
    CHECK_PROGRAM(0, "", "run %s --target-bpw 8 --calib " TEXT " --ctx 32" QUICK FEW " --out %s", split_path(stem, 2, 3), bb_test_path("split_run"));
    CHECK_PROGRAM(0, "", "run %s --target-bpw 8 --calib " TEXT " --ctx 32" QUICK FEW " --out %s", model, bb_test_path("whole_run"));
    bb_test_same(bb_test_path("split_run/model.gguf"), bb_test_path("whole_run/model.gguf"));
    CHECK_PROGRAM(0, "", "convert %s %s", model, bb_test_path("split_c.gguf"));
    CHECK_PROGRAM(0, "", "convert %s %s", split_path(stem, 1, 3), bb_test_path("split_d.gguf"));
    bb_test_same(bb_test_path("split_c.gguf"), bb_test_path("split_d.gguf"));
    char links[300]; /* a cache keeps files under their hashes and links under their names */
    snprintf(links, sizeof links, "%s", bb_test_path("links"));
    for (uint32_t i = 1; i <= 3; i++) ck_assert_int_eq(symlink(split_path(stem, i, 3), split_path(links, i, 3)), 0);
    CHECK_PROGRAM(0, "", "run %s --target-bpw 8 --calib " TEXT " --ctx 32" QUICK FEW " --out %s", split_path(links, 2, 3), bb_test_path("link_run"));
    bb_test_same(bb_test_path("link_run/model.gguf"), bb_test_path("whole_run/model.gguf"));
    CHECK_PROGRAM(2, "is one of the files of ", "quantize %s --format Q8_0 --method rtn --force --out %s", split_path(stem, 1, 3), split_path(stem, 3, 3));
    CHECK_PROGRAM(5, "parts-00004-of-00004.gguf is missing", "convert %s %s",
                  (split_write(model, stem, 4, &(split_lie) { .part = 4, .missing = true }), split_path(stem, 1, 4)), bb_test_path("split_e.gguf"));
}
END_TEST

/* Nothing is written over a file that the model of a folder is read from, not even when told to. */
START_TEST(files_of_a_folder_are_inputs)
{
    const char *model = make_model("in_folder.gguf", BB_F16), *folder = bb_test_path("inputs_folder");
    char        name[600];
    hf_write(model, folder, 2, "");
    static const char *const names[] = { "config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "model.safetensors.index.json" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(name, sizeof name, "%s/%s", folder, names[i]);
        ck_assert_msg(bb_file_exists(name), "%s", name);
        CHECK_PROGRAM(2, "is one of the files of ", "quantize %s --format Q8_0 --method rtn --force --out %s", folder, name);
    }
    snprintf(name, sizeof name, "%s/new.gguf", folder);
    CHECK_PROGRAM(0, name, "convert %s %s", folder, name);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_inputs");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, damaged_weights_are_refused_by_every_command);
    tcase_add_test(t, a_size_above_the_source_is_refused_at_once);
    tcase_add_test(t, fewer_windows_than_asked_are_counted);
    tcase_add_test(t, a_quantized_source_is_never_full_precision);
    tcase_add_test(t, what_is_no_text_is_refused);
    tcase_add_test(t, other_vocabularies_and_shapes_are_refused);
    tcase_add_test(t, wrong_kinds_of_files_are_explained);
    tcase_add_test(t, a_folder_becomes_a_file);
    tcase_add_test(t, every_command_takes_a_split_model);
    tcase_add_test(t, files_of_a_folder_are_inputs);
    tcase_add_test(t, special_tokens_of_a_text_are_parsed_when_asked);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
