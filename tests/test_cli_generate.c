/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_generate.c: `bitbudget generate`: a known greedy continuation, the same text for any threads, ends, chat, two models, wrong options. */
#include <jansson.h>
#include <omp.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/io/gguf.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define MODEL "tests/data/stories260K.gguf"
static const char prompt_file[] = "prompt.txt";

static const char *write_prompt(const char *text)
{
    const char *path = bb_test_path(prompt_file);
    bb_test_write(path, text, strlen(text));
    return path;
}

/* The JSON of a command that must end well. */
static json_t *generated(const char *arguments)
{
    char     *text;
    bb_err    err;
    bb_status status = bb_test_command(&text, &err, "generate %s --json", arguments);
    ck_assert_msg(status == BB_OK, "%s", err.msg);
    json_t *root = json_loads(text, 0, NULL);
    ck_assert_msg(json_is_object(root), "%s", text);
    bb_free(text);
    return root;
}

static const char *text_of(const json_t *o, const char *name) { return json_string_value(json_object_get(o, name)); }

/* Another implementation's greedy continuation: the ids, and on stdout their text and nothing else. */
START_TEST(a_known_continuation)
{
    json_t     *all = json_load_file("tests/data/stories260K.json", 0, NULL), *want = json_object_get(json_object_get(all, "greedy"), "continuation_ids");
    const char *path = write_prompt("Once upon a time\n");
    char        arguments[1024], *text;
    snprintf(arguments, sizeof arguments, MODEL " --prompt-file %s --temperature 0 --n 48", path);
    json_t *got = generated(arguments);
    ck_assert(json_equal(json_object_get(got, "prompt_ids"), json_object_get(json_object_get(all, "greedy"), "prompt_ids")));
    ck_assert(json_equal(json_object_get(got, "ids"), want));
    ck_assert_str_eq(text_of(got, "stop"), "length");
    ck_assert_int_eq(strncmp(text_of(got, "text"), ", there was a little girl named Lily.", 37), 0);
    ck_assert_int_eq(bb_test_command(&text, NULL, "generate %s", arguments), BB_OK);
    ck_assert_uint_eq(strlen(text), strlen(text_of(got, "text")) + 1);
    ck_assert_int_eq(strncmp(text, text_of(got, "text"), strlen(text) - 1), 0);
    bb_free(text);
    json_decref(got);
    json_decref(all);
}
END_TEST

START_TEST(draws_repeat_for_any_threads)
{
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    json_t *a = generated(MODEL " --prompt Once --n 60 --seed 7 --repeat-penalty 1.1");
    omp_set_num_threads(3);
    json_t *b = generated(MODEL " --prompt Once --n 60 --seed 7 --repeat-penalty 1.1"), *c = generated(MODEL " --prompt Once --n 60 --seed 8");
    omp_set_num_threads(threads);
    ck_assert(json_equal(json_object_get(a, "ids"), json_object_get(b, "ids")));
    ck_assert_str_eq(text_of(a, "text"), text_of(b, "text"));
    ck_assert(!json_equal(json_object_get(a, "ids"), json_object_get(c, "ids")));
    json_decref(a);
    json_decref(b);
    json_decref(c);
}
END_TEST

/* A copy of the model with other or more keys; template NULL: none; end: the id of EOS, -1: as it is. */
static void write_copy(const char *path, const char *template, int32_t end)
{
    static const char key[] = "tokenizer.ggml.eos_token_id";
    bb_source         g;
    bb_gguf_out      *out;
    ck_assert_int_eq(bb_source_open(MODEL, &g, NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_out_create(&out, NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_kv; i++)
        if (end < 0 || g.kv[i].key.size != strlen(key) || memcmp(g.kv[i].key.data, key, strlen(key)) != 0)
            ck_assert_int_eq(bb_gguf_put_copy(out, &g.kv[i], NULL), BB_OK);
    if (end >= 0) ck_assert_int_eq(bb_gguf_put_u32(out, key, (uint32_t)end, NULL), BB_OK);
    if (template) ck_assert_int_eq(bb_gguf_put_text(out, "tokenizer.chat_template", template, NULL), BB_OK);
    for (uint64_t i = 0; i < g.n_tensors; i++) ck_assert_int_eq(bb_gguf_put_tensor(out, &g.tensors[i], NULL), BB_OK);
    ck_assert_int_eq(bb_gguf_out_write(out, path, NULL), BB_OK);
    bb_gguf_out_destroy(out);
    bb_source_close(&g);
}

/* The fifth token of the known continuation as EOS ends it there; --ctx and Ctrl-C end it too. */
START_TEST(what_ends_a_continuation)
{
    const char *path = bb_test_path("end.gguf");
    char        arguments[1024], *text;
    json_t     *whole, *got;
    snprintf(arguments, sizeof arguments, MODEL " --prompt-file %s --temperature 0 --ctx 9", write_prompt("Once upon a time"));
    whole = generated(arguments);
    ck_assert_str_eq(text_of(whole, "stop"), "context");
    ck_assert_uint_eq(json_array_size(json_object_get(whole, "ids")), 9 - 5);
    const int32_t end = (int32_t)json_integer_value(json_array_get(json_object_get(whole, "ids"), 3));
    write_copy(path, NULL, end);
    snprintf(arguments, sizeof arguments, "%s --prompt-file %s --temperature 0", path, bb_test_path(prompt_file));
    got = generated(arguments);
    ck_assert_str_eq(text_of(got, "stop"), "end");
    ck_assert_uint_eq(json_array_size(json_object_get(got, "ids")), 3);
    ck_assert_int_eq(strncmp(text_of(got, "text"), text_of(whole, "text"), strlen(text_of(got, "text"))), 0);
    json_decref(got);
    bb_interrupt_raise();
    ck_assert_int_eq(bb_test_command(&text, NULL, "generate " MODEL " --prompt x --json"), BB_OK);
    bb_interrupt_clear();
    got = json_loads(text, 0, NULL);
    ck_assert_str_eq(text_of(got, "stop"), "interrupted");
    bb_free(text);
    json_decref(got);
    json_decref(whole);
}
END_TEST

START_TEST(two_models_and_where_they_part)
{
    const char *path = bb_test_path("end.gguf");
    char        arguments[1024], *text;
    json_t     *whole, *got;
    snprintf(arguments, sizeof arguments, "--compare " MODEL " " MODEL " --prompt-file %s --temperature 0 --n 12", write_prompt("Once upon a time"));
    whole = generated(arguments);
    ck_assert_int_eq(json_integer_value(json_object_get(whole, "same_tokens")), 12);
    ck_assert(json_is_false(json_object_get(whole, "part")));
    const json_t *ids = json_object_get(json_array_get(json_object_get(whole, "models"), 0), "ids");
    write_copy(path, NULL, (int32_t)json_integer_value(json_array_get(ids, 3)));
    snprintf(arguments, sizeof arguments, MODEL " %s --prompt-file %s --temperature 0 --n 12", path, bb_test_path(prompt_file));
    got = generated(arguments);
    ck_assert_int_eq(json_integer_value(json_object_get(got, "same_tokens")), 3);
    ck_assert(json_is_true(json_object_get(got, "part")));
    ck_assert_int_eq(bb_test_command(&text, NULL, "generate %s", arguments), BB_OK);
    ck_assert_msg(strncmp(text, "== " MODEL " ==\n, there", 20) == 0 && strstr(text, "\nthey part at token 4: \"") && strstr(text, "the end in "), "%s", text);
    bb_free(text);
    json_decref(whole);
    json_decref(got);
}
END_TEST

/* A plain template writes the messages alone: the text is that of the prompt without one. */
START_TEST(chat_goes_through_the_template)
{
    const char *path = bb_test_path("chat.gguf");
    char        arguments[1024];
    bb_err      err;
    json_t     *plain = generated(MODEL " --prompt Once --temperature 0 --n 8"), *got;
    write_copy(path, "{% for m in messages %}{{ m['content'] }}{% endfor %}", -1);
    snprintf(arguments, sizeof arguments, "%s --chat --prompt Once --temperature 0 --n 8", path);
    got = generated(arguments);
    ck_assert(json_equal(json_object_get(got, "prompt_ids"), json_object_get(plain, "prompt_ids")));
    ck_assert(json_equal(json_object_get(got, "ids"), json_object_get(plain, "ids")));
    json_decref(got);
    snprintf(arguments, sizeof arguments, "%s --system On --prompt ce --temperature 0 --n 8", path);
    got = generated(arguments);
    ck_assert(json_equal(json_object_get(got, "prompt_ids"), json_object_get(plain, "prompt_ids")));
    json_decref(got);
    json_decref(plain);
    ck_assert_int_eq(bb_test_command(NULL, &err, "generate " MODEL " --chat --prompt x"), BB_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "no chat template") && strstr(err.msg, "--parse-special"), "%s", err.msg);
}
END_TEST

START_TEST(wrong_options_are_said_at_the_start)
{
    static const struct {
        const char *arguments, *says;
    } cases[] = {
        { "--prompt x", "needs a model" },
        { "none.gguf", "--prompt TEXT or --prompt-file FILE" },
        { "none.gguf --prompt x --prompt-file y", "one of them" },
        { "none.gguf --prompt x --compare", "two models" },
        { "none.gguf --prompt x --chat --parse-special", "--parse-special" },
        { "none.gguf --prompt x --top-p 1.5", "top-p" },
        { "none.gguf --prompt x --temperature -1", "temperature" },
        { "none.gguf --prompt x --n 0", "--n" },
        { MODEL " --prompt abcdefgh --ctx 3", "--ctx of 3" },
    };
    bb_err      err;
    tiny_spec   s = tiny_default("llama");
    const char *other = bb_test_path("other.gguf");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_eq(bb_test_command(NULL, &err, "generate %s", cases[i].arguments), BB_USAGE);
        ck_assert_msg(strstr(err.msg, cases[i].says), "%s: %s", cases[i].arguments, err.msg);
    }
    tiny_write(&s, other);
    ck_assert_int_eq(bb_test_command(NULL, &err, "generate " MODEL " %s --prompt x", other), BB_BAD_FILE); /* another vocabulary */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_generate");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_known_continuation);
    tcase_add_test(t, draws_repeat_for_any_threads);
    tcase_add_test(t, what_ends_a_continuation);
    tcase_add_test(t, two_models_and_where_they_part);
    tcase_add_test(t, chat_goes_through_the_template);
    tcase_add_test(t, wrong_options_are_said_at_the_start);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
