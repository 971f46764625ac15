/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_inspect.c: `bitbudget inspect` run inside the test, its output read back: every byte of the file is in one part, weights
 * are counted from the shapes that the model was made with. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

/* Runs the command with stdout in a file; *text is freed by the caller. */
static bb_status inspect(int argc, char **argv, char **text, bb_err *err)
{
    const char *path = bb_test_path("stdout");
    size_t      n;
    fflush(stdout);
    int keep = dup(STDOUT_FILENO);
    ck_assert(keep >= 0 && freopen(path, "w", stdout));
    bb_status status = bb_command_find("inspect")->run(argc, argv, err);
    fflush(stdout);
    ck_assert(dup2(keep, STDOUT_FILENO) >= 0);
    close(keep);
    ck_assert_int_eq(bb_file_read(path, text, &n, NULL), BB_OK);
    return status;
}

static json_int_t number(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    ck_assert_msg(json_is_integer(v), "no integer '%s'", name);
    return json_integer_value(v);
}

START_TEST(json_adds_up)
{
    tiny_spec   s = tiny_default("deci");
    const char *path = bb_test_path("inspect.gguf");
    char        command[] = "inspect", flag[] = "--json", file[512], *argv[] = { command, flag, file, NULL }, *text;
    bb_err      err = BB_ERR_INIT;
    uint64_t    size;
    s.tied = false;
    s.n_head[1] = s.n_kv[1] = 0;
    s.n_ff[1] = 32;
    tiny_set_type(&s, BB_F16);
    tiny_write(&s, path);
    snprintf(file, sizeof file, "%s", path);
    ck_assert_msg(inspect(3, argv, &text, &err) == BB_OK, "%s", err.msg);
    json_t *root = json_loads(text, 0, NULL);
    ck_assert(json_is_object(root));
    ck_assert_int_eq(bb_file_size(path, &size, NULL), BB_OK);
    json_int_t  bytes = 0, weights = 0, listed = 0;
    const char *name;
    json_t     *part, *parts = json_object_get(root, "parts"), *tensor;
    size_t      i;
    json_object_foreach(parts, name, part)
    {
        bytes += number(part, "bytes");
        weights += number(part, "weights");
    }
    json_array_foreach(json_object_get(root, "tensors"), i, tensor) listed += number(tensor, "bytes");
    /* C = 32: q 32x32, k and v 16x32, o 32x32; three FFN matrices of 64 and 32; both embeddings 320x32; 2 + 1 + 1 norms */
    json_int_t attention = 32 * 32 * 2 + 2 * 16 * 32, ffn = 3 * 32 * (64 + 32), tables = 320 * 32, norms = 4 * 32;
    ck_assert_int_eq(bytes, (json_int_t)size);
    ck_assert_int_eq(weights, attention + ffn + 2 * tables + norms);
    ck_assert_int_eq(number(root, "weights"), weights);
    ck_assert_int_eq(number(json_object_get(parts, "attention"), "bytes"), 2 * attention);
    ck_assert_int_eq(number(json_object_get(parts, "ffn"), "bytes"), 2 * ffn);
    ck_assert_int_eq(number(json_object_get(parts, "output"), "bytes"), 2 * tables);
    ck_assert_int_eq(number(json_object_get(parts, "norms"), "bytes"), 4 * norms);
    ck_assert_int_eq(number(json_object_get(parts, "metadata"), "bytes"), (json_int_t)size - listed);
    ck_assert_uint_eq(json_array_size(json_object_get(root, "tensors")), 9 + 4 + 3);
    ck_assert_int_eq(number(json_array_get(json_object_get(root, "blocks"), 1), "n_ff"), 32);
    json_decref(root);
    bb_free(text);
}
END_TEST

START_TEST(text_names_the_shape)
{
    tiny_spec                s = tiny_default("llama");
    const char              *path = bb_test_path("inspect.gguf");
    char                     command[] = "inspect", flag[] = "--tensors", file[512], *argv[] = { command, file, flag, NULL }, *text;
    static const char *const wanted[] = { "architecture  llama, tiny\n",
                                          "2 blocks, width 32, 4 heads on 2 KV heads of 8, FFN 64\n",
                                          "320 tokens (llama), output tied",
                                          "blk.1.ffn_down.weight",
                                          "total ",
                                          "\n1          4    2     64  F32" };
    tiny_write(&s, path);
    snprintf(file, sizeof file, "%s", path);
    ck_assert_int_eq(inspect(3, argv, &text, NULL), BB_OK);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) ck_assert_msg(strstr(text, wanted[i]) != NULL, "'%s' not in:\n%s", wanted[i], text);
    bb_free(text);
}
END_TEST

START_TEST(wrong_use_is_named)
{
    char   command[] = "inspect", file[] = "no/such.gguf", *argv[] = { command, file, NULL }, *text;
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(inspect(1, argv, &text, NULL), BB_USAGE);
    bb_free(text);
    ck_assert_int_eq(inspect(2, argv, &text, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "no/such.gguf"));
    bb_free(text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_inspect");
    TCase *t = tcase_create("core");
    tcase_add_test(t, json_adds_up);
    tcase_add_test(t, text_names_the_shape);
    tcase_add_test(t, wrong_use_is_named);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
