/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_inspect.c: `bitbudget inspect` run inside the test, its output read back: every byte of the file is in one part, weights
 * are counted from the shapes that the model was made with. */
#define _GNU_SOURCE /* memmem */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cmd.h"
#include "model/io/file_type.h"
#include "model/io/gguf.h"
#include "tests/support/split.h"
#include "tests/support/cli.h"
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

/* ---- --audit ---- */

/* What is wrong with a copy of a model: keys and tensors that are left out, a label. */
typedef struct wrong {
    const char *no_key, *no_tensor, *name;
    int         file_type; /* -1: none */
    bool template;
} wrong;

static void write_wrong(const char *from, const char *to, const wrong *w)
{
    bb_source    g;
    bb_gguf_out *out;
    bb_err       err = BB_ERR_INIT;
    ck_assert_int_eq(bb_source_open(from, &g, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_kv; i++)
        if (!w->no_key || g.kv[i].key.size != strlen(w->no_key) || memcmp(g.kv[i].key.data, w->no_key, strlen(w->no_key)) != 0)
            ck_assert_int_eq(bb_gguf_put_copy(out, &g.kv[i], NULL), BB_OK);
    if (w->file_type >= 0) ck_assert_int_eq(bb_gguf_put_u32(out, "general.file_type", (uint32_t)w->file_type, NULL), BB_OK);
    if (w->name) ck_assert_int_eq(bb_gguf_put_text(out, "general.name", w->name, NULL), BB_OK);
    if (w->template) ck_assert_int_eq(bb_gguf_put_text(out, "tokenizer.chat_template", "{{ messages }}", NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_tensors; i++)
        if (!w->no_tensor || strcmp(g.tensors[i].name, w->no_tensor) != 0) ck_assert_int_eq(bb_gguf_put_tensor(out, &g.tensors[i], NULL), BB_OK);
    ck_assert_msg(bb_gguf_out_write(out, to, &err) == BB_OK, "%s", err.msg);
    bb_gguf_out_destroy(out);
    bb_source_close(&g);
}

static bb_status audit(const char *path, json_t **root, bb_err *err)
{
    char      command[] = "inspect", flag[] = "--audit", json[] = "--json", file[512], *argv[] = { command, flag, json, file, NULL }, *text;
    bb_status status;
    snprintf(file, sizeof file, "%s", path);
    bb_err_clear(err);
    status = inspect(4, argv, &text, err);
    *root = json_loads(text, 0, NULL);
    bb_free(text);
    return status;
}

static bool lists(const json_t *list, const char *what)
{
    size_t  i;
    json_t *text;
    json_array_foreach(list, i, text) if (strstr(json_string_value(text), what)) return true;
    return false;
}

START_TEST(audit_finds_what_is_wrong)
{
    static const struct {
        wrong       w;
        bb_status   status;
        const char *list, *says;
    } rows[] = {
        { { .file_type = 2, .template = true }, BB_OK, NULL, NULL },
        { { .file_type = 2 }, BB_OK, "notes", "no chat template" },
        { { .file_type = -1 }, BB_OK, "notes", "no general.file_type" },
        { { .file_type = 10 }, BB_GUARD, "faults", "general.file_type says Q2_K, but 100.0 % of the weights of the blocks are Q4_0 and 0.0 % Q2_K" },
        { { .file_type = 777 }, BB_GUARD, "faults", "general.file_type is 777" },
        { { .file_type = 2, .name = "Tiny Q4_0" }, BB_OK, NULL, NULL },
        { { .file_type = 2, .name = "Tiny-iq2_xs" }, BB_GUARD, "faults", "general.name says IQ2_XS" },
        { { .file_type = 2, .no_tensor = "blk.1.attn_k.weight" }, BB_GUARD, "missing", "blk.1.attn_k.weight" },
        { { .file_type = 2, .no_tensor = "output_norm.weight" }, BB_GUARD, "missing", "output_norm.weight" },
        { { .file_type = 2, .no_tensor = "token_embd.weight" }, BB_GUARD, "missing", "token_embd.weight" },
        { { .file_type = 2, .no_key = "tokenizer.ggml.tokens" }, BB_GUARD, "faults", "no tokenizer" },
        { { .file_type = 2, .no_key = "llama.block_count" }, BB_GUARD, "faults", "llama.block_count is missing" },
        { { .file_type = 2, .no_key = "llama.embedding_length" }, BB_GUARD, "faults", "llama.embedding_length" },
    };
    tiny_spec s = tiny_default("llama");
    s.n_layer = 3;
    tiny_set_type(&s, BB_Q4_0);
    tiny_write(&s, bb_test_path("right.gguf"));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bb_err  err = BB_ERR_INIT;
        json_t *root;
        write_wrong(bb_test_path("right.gguf"), bb_test_path("wrong.gguf"), &rows[i].w);
        ck_assert_msg(audit(bb_test_path("wrong.gguf"), &root, &err) == rows[i].status, "row %zu: %s", i, err.msg);
        ck_assert(json_is_object(root));
        ck_assert_int_eq(json_is_true(json_object_get(root, "ok")), rows[i].status == BB_OK);
        if (rows[i].list) ck_assert_msg(lists(json_object_get(root, rows[i].list), rows[i].says), "row %zu: '%s' not in %s", i, rows[i].says, rows[i].list);
        if (rows[i].status != BB_OK) ck_assert_int_gt((int)json_array_size(json_object_get(root, "faults")), 0);
        ck_assert_msg(!lists(json_object_get(root, "faults"), "wrong.gguf: ") && !lists(json_object_get(root, "notes"), "wrong.gguf: "),
                      "row %zu: the path again", i);
        json_decref(root);
    }
}
END_TEST

/* Rows of 64 get a K type's fallback, rows of 256 the type; bits, shares and exit codes by hand. */
START_TEST(audit_counts_fallbacks)
{
    tiny_spec s = tiny_default("llama");
    bb_err    err = BB_ERR_INIT;
    json_t   *root, *part;
    wrong     w = { .file_type = 10 };
    s.n_embd = 64;
    s.head_dim = 16;
    tiny_set_type(&s, BB_Q4_0);
    s.embd_type = BB_Q8_0;
    for (int i = 0; i < 2; i++) {
        s.n_ff[i] = 256;
        s.type[i][BB_PART_DOWN] = BB_Q2_K;
    }
    tiny_write(&s, bb_test_path("right.gguf"));
    write_wrong(bb_test_path("right.gguf"), bb_test_path("mixed-Q2_K.gguf"), &w);
    ck_assert_int_eq(audit(bb_test_path("mixed-Q2_K.gguf"), &root, &err), BB_GUARD);
    const double down = 256 * 64, others = 2 * 64 * 64 + 2 * 32 * 64 + 2 * 256 * 64, table = 320 * 64;
    ck_assert_double_eq_tol(json_real_value(json_object_get(root, "fallback_share")), (2 * others + table) / (2 * (others + down) + table), 1e-8);
    ck_assert_str_eq(json_string_value(json_object_get(root, "mostly")), "Q4_0");
    ck_assert_str_eq(json_string_value(json_object_get(root, "label")), "Q2_K");
    ck_assert_str_eq(json_string_value(json_object_get(root, "name_label")), "Q2_K");
    ck_assert_uint_eq(json_array_size(json_object_get(root, "faults")), 2); /* the key and the name of the file */
    part = json_object_get(json_object_get(root, "parts"), "ffn");
    ck_assert_double_eq_tol(json_real_value(json_object_get(part, "bpw")), (2 * 4.5 + 2.625) / 3, 1e-8);
    ck_assert_int_eq(number(json_object_get(part, "types"), "Q2_K"), (json_int_t)(2 * down));
    json_decref(root);
    s.n_ff[0] = s.n_ff[1] = 1024; /* FFN by three types: Q2_K has most, the label is right, and the fallbacks are said all the same */
    s.type[0][BB_PART_UP] = BB_Q5_0;
    s.type[1][BB_PART_GATE] = BB_IQ4_NL;
    s.type[0][BB_PART_GATE] = s.type[1][BB_PART_Q] = s.type[1][BB_PART_O] = BB_Q5_1;
    tiny_write(&s, bb_test_path("right.gguf"));
    write_wrong(bb_test_path("right.gguf"), bb_test_path("mixed-Q2_K.gguf"), &w);
    ck_assert_msg(audit(bb_test_path("mixed-Q2_K.gguf"), &root, &err) == BB_OK, "%s", err.msg);
    ck_assert_double_gt(json_real_value(json_object_get(root, "fallback_share")), 0.6);
    json_decref(root);
}
END_TEST

/* A tensor twice is no GGUF at all; an architecture that nobody here knows is audited by what all files have; a head that repeats the embedding is told. */
START_TEST(audit_of_odd_files)
{
    tiny_spec s = tiny_default("llama");
    wrong     w = { .file_type = 0 };
    bb_err    err = BB_ERR_INIT;
    json_t   *root;
    char     *bytes, *k;
    size_t    n;
    s.n_layer = 3;
    tiny_write(&s, bb_test_path("right.gguf"));
    write_wrong(bb_test_path("right.gguf"), bb_test_path("wrong.gguf"), &w);
    ck_assert_int_eq(bb_file_read(bb_test_path("wrong.gguf"), &bytes, &n, NULL), BB_OK);
    ck_assert_ptr_nonnull(k = memmem(bytes, n, "blk.0.attn_k.w", 14));
    memcpy(k, "blk.0.attn_v.w", 14);
    ck_assert_int_eq(bb_file_write(bb_test_path("twice.gguf"), bytes, n, NULL), BB_OK);
    ck_assert_int_eq(audit(bb_test_path("twice.gguf"), &root, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "'blk.0.attn_v.weight' occurs twice") != NULL, "%s", err.msg);
    ck_assert(json_is_false(json_object_get(root, "ok")) && lists(json_object_get(root, "faults"), "tensor name 'blk.0.attn_v.weight' occurs twice"));
    json_decref(root);
    memcpy(k, "blk.7.attn_k.w", 14); /* of a block that is not there: it does not stand for the one that is missing */
    ck_assert_int_eq(bb_file_write(bb_test_path("seven.gguf"), bytes, n, NULL), BB_OK);
    bb_err_clear(&err);
    ck_assert_int_eq(audit(bb_test_path("seven.gguf"), &root, &err), BB_GUARD);
    ck_assert(lists(json_object_get(root, "missing"), "blk.0.attn_k.weight"));
    json_decref(root);
    memcpy(k, "blk.0.attn_k.w", 14);
    for (char *at = bytes; (at = memmem(at, n - (size_t)(at - bytes), "llama", 5)); at++)
        if (at[5] == '.' || at == (char *)memmem(bytes, n, "llama", 5)) memcpy(at, "panda", 5);
    ck_assert_int_eq(bb_file_write(bb_test_path("panda.gguf"), bytes, n, NULL), BB_OK);
    ck_assert_msg(audit(bb_test_path("panda.gguf"), &root, &err) == BB_OK, "%s", err.msg);
    ck_assert(lists(json_object_get(root, "notes"), "architecture panda is not one"));
    json_decref(root);
    bb_free(bytes);
}
END_TEST

/* JSON has no place for a path that is no UTF-8: null stands there, nothing is lost beside it, and no other reason is told. */
START_TEST(a_path_may_be_no_utf8)
{
    static const char *const words[] = { "inspect --json", "inspect --json --audit", "generate --json --n 1 --prompt a",
                                         "quantize --json --format Q8_0 --method rtn" };
    char                     path[512], out[512];
    tiny_spec                s = tiny_default("llama");
    bb_err                   err = BB_ERR_INIT;
    json_t                  *root;
    char                    *text;
    snprintf(path, sizeof path, "%s", bb_test_path("m\xff.gguf"));
    snprintf(out, sizeof out, "%s", bb_test_path("q\xff.gguf"));
    tiny_write(&s, path);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const bool writes = i == 3;
        ck_assert_msg(bb_test_command(&text, &err, "%s %s%s%s", words[i], path, writes ? " --out " : "", writes ? out : "") == BB_OK, "%s: %s", words[i],
                      err.msg);
        ck_assert_msg((root = json_loads(text, 0, NULL)) != NULL, "%s: %s", words[i], text);
        ck_assert_msg(json_is_null(json_object_get(root, writes ? "file" : i == 2 ? "model" : "path")), "%s: %s", words[i], text);
        json_decref(root);
        bb_free(text);
    }
    bb_test_write(path, "GGUF", 4);
    ck_assert_int_eq(audit(path, &root, &err), BB_BAD_FILE);
    ck_assert(json_is_null(json_object_get(root, "path")) && lists(json_object_get(root, "faults"), "the file ends inside"));
    json_decref(root);
}
END_TEST

/* The audit of a split model is that of the whole one, but for its name, its files and its bytes; parts that do not belong together are no model. */
START_TEST(audit_of_a_split_model)
{
    static const char *const same[] = { "ok", "weights", "bpw_tensors", "file_type", "label", "mostly", "fallback_share", "tokenizer", "missing", "notes" };
    const split_lie          lies[] = { { .part = 2, .missing = true }, { .part = 3, .twice = true } };
    static const char *const says[] = { "audit-00002-of-00003.gguf is missing", "tensor 'token_embd.weight' is in " };
    tiny_spec                s = tiny_default("llama");
    wrong                    w = { .file_type = 2 };
    bb_err                   err = BB_ERR_INIT;
    json_t                  *whole, *parts;
    char                     stem[300];
    s.n_layer = 3;
    tiny_set_type(&s, BB_Q4_0);
    tiny_write(&s, bb_test_path("right.gguf"));
    snprintf(stem, sizeof stem, "%s", bb_test_path("audit"));
    for (int missing = 0; missing < 2; missing++) {
        w.no_tensor = missing ? "blk.1.attn_k.weight" : NULL;
        write_wrong(bb_test_path("right.gguf"), bb_test_path("one.gguf"), &w);
        split_write(bb_test_path("one.gguf"), stem, 3, NULL);
        const bb_status expected = missing ? BB_GUARD : BB_OK;
        ck_assert_int_eq(audit(bb_test_path("one.gguf"), &whole, &err), expected);
        ck_assert_msg(audit(split_path(stem, 2, 3), &parts, &err) == expected, "%s", err.msg);
        ck_assert_int_eq(number(whole, "files"), 1);
        ck_assert_int_eq(number(parts, "files"), 3);
        for (size_t i = 0; i < sizeof same / sizeof *same; i++)
            ck_assert_msg(json_equal(json_object_get(whole, same[i]), json_object_get(parts, same[i])), "%s", same[i]);
        ck_assert_uint_eq(json_array_size(json_object_get(whole, "faults")), json_array_size(json_object_get(parts, "faults"))); /* which name the file */
        if (missing) ck_assert(lists(json_object_get(parts, "missing"), "blk.1.attn_k.weight"));
        json_decref(whole);
        json_decref(parts);
    }
    for (size_t i = 0; i < 2; i++) {
        split_write(bb_test_path("right.gguf"), stem, 3, &lies[i]);
        ck_assert_int_eq(audit(split_path(stem, 1, 3), &parts, &err), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, says[i]) != NULL, "%s", err.msg);
        ck_assert(lists(json_object_get(parts, "faults"), says[i]));
        json_decref(parts);
    }
}
END_TEST

START_TEST(labels_in_names)
{
    static const struct {
        const char *text, *label;
    } rows[] = { { "SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1" },
                 { "model_q4_k_m.gguf", "Q4_K_M" },
                 { "UD-Q4_K_XL", "Q4_K_S" },
                 { "wiki8m-f16", "F16" },
                 { "f16-to-IQ4_NL", "IQ4_NL" },
                 { "Q8_0_L", "Q8_0" },
                 { "bf16", "BF16" },
                 { "IQ2_M.gguf", "IQ2_M" },
                 { "xQ4_0", NULL },
                 { "Llama-3.2-1B", NULL },
                 { "Q4_01", NULL },
                 { "", NULL } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const bb_file_type *f = bb_file_type_in(rows[i].text, strlen(rows[i].text));
        ck_assert_msg((f == NULL) == (rows[i].label == NULL) && (!f || strcmp(f->name, rows[i].label) == 0), "%s: %s", rows[i].text, f ? f->name : "none");
    }
    for (size_t i = 0; bb_file_type_at(i); i++) { /* what is written for a type is a label that promises it */
        const bb_file_type *f = bb_file_type_at(i);
        ck_assert(bb_file_type_promises(bb_file_type_numbered(bb_file_type_of(f->type)), f->type));
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_inspect");
    TCase *t = tcase_create("core");
    tcase_add_test(t, json_adds_up);
    tcase_add_test(t, text_names_the_shape);
    tcase_add_test(t, wrong_use_is_named);
    tcase_add_test(t, audit_finds_what_is_wrong);
    tcase_add_test(t, audit_counts_fallbacks);
    tcase_add_test(t, audit_of_odd_files);
    tcase_add_test(t, a_path_may_be_no_utf8);
    tcase_add_test(t, audit_of_a_split_model);
    tcase_add_test(t, labels_in_names);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
