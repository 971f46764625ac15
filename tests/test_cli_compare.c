/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_compare.c: `bitbudget compare`: texts against `bitbudget eval --text`, greedy decoding against `bitbudget generate --compare`, tasks against `bitbudget eval --tasks`, several files, both
 * forms of output, what is refused at the start. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define MODEL "tests/data/stories260K.gguf"

/* The model in BF16, under a name that CSV quotes. */
static const char *rounded(void)
{
    bb_err      err;
    const char *path = bb_test_path("small,er.gguf");
    if (bb_file_exists(path)) return path;
    ck_assert_msg(bb_test_command(NULL, &err, "quantize " MODEL " --format BF16 --embd-format BF16 --method rtn --out %s", path) == BB_OK, "%s", err.msg);
    return path;
}

static json_t *answer(const char *command)
{
    char     *text;
    bb_err    err;
    bb_status status = bb_test_command(&text, &err, "%s", command);
    ck_assert_msg(status == BB_OK, "%s: %s", command, err.msg);
    json_t *root = json_loads(text, JSON_DISABLE_EOF_CHECK, NULL); /* the first row */
    ck_assert_msg(json_is_object(root), "%s", text);
    bb_free(text);
    return root;
}

static double number(const json_t *o, const char *name)
{
    ck_assert_msg(json_is_number(json_object_get(o, name)), "no number '%s'", name);
    return json_number_value(json_object_get(o, name));
}

/* The table that a command prints. */
static void table(const char *command, bb_csv *t)
{
    char       *text;
    bb_err      err;
    bb_status   status = bb_test_command(&text, &err, "%s", command);
    const char *path = bb_test_path("table.csv");
    ck_assert_msg(status == BB_OK, "%s: %s", command, err.msg);
    bb_test_write(path, text, strlen(text));
    ck_assert_msg(bb_csv_read(path, t, &err) == BB_OK, "%s", err.msg);
    bb_free(text);
}

/* KL of each window, by the scores that eval writes. */
static size_t window_kls(const char *file, const char *options, double *kl, size_t room)
{
    bb_csv      t;
    bb_err      err;
    const char *path = bb_test_path("scores.csv");
    size_t      n = 0, in_window = 0;
    ck_assert_msg(bb_test_command(NULL, &err, "eval %s --reference " MODEL " %s --scores %s", file, options, path) == BB_OK, "%s", err.msg);
    ck_assert_msg(bb_csv_read(path, &t, &err) == BB_OK, "%s", err.msg);
    for (size_t row = 0; row < t.n_rows; row++) {
        const size_t window = (size_t)bb_test_number(&t, row, "window");
        if (window == n) {
            ck_assert(n < room);
            kl[n++] = 0, in_window = 0;
        }
        in_window++;
        kl[window] += (bb_test_number(&t, row, "kl") - kl[window]) / (double)in_window;
    }
    bb_csv_done(&t);
    return n;
}

/* Two texts, three files: the figures of eval, and differences from the first file by its scores. */
START_TEST(texts_are_those_of_eval)
{
    static const char *const texts[] = { "tests/data/README.md", "README.md" };
    static const char *const options[] = { "--ctx 64 --chunks 6 --spread", "--ctx 48 --chunks 4 --protocol hf", "--ctx 32 --chunks 1" };
    static const char *const names[][2] = { { "tokens", "n_tokens" }, { "ppl", "ppl" },   { "ppl_se", "ppl_se" },     { "kl_nats", "kl_nats" },
                                            { "kl_se", "kl_se" },     { "top1", "top1" }, { "ln_ratio", "ln_ratio" }, { "ln_ratio_se", "ln_ratio_se" },
                                            { "windows", "windows" }, { "ctx", "ctx" } };
    static const char *const quantiles[][2] = { { "kl_p90", "0.90" }, { "kl_p99", "0.99" }, { "kl_p999", "0.999" } };
    char                     command[1024], with_text[256];
    double                   kl[2][8];
    for (size_t k = 0; k < 3; k++) {
        bb_csv t;
        snprintf(command, sizeof command, "compare " MODEL " %s " MODEL " %s --text %s,%s %s", rounded(), rounded(), texts[0], texts[1], options[k]);
        table(command, &t);
        ck_assert_uint_eq(t.n_rows, 6); /* text by text */
        for (size_t row = 0; row < 6; row++) {
            const char *file = bb_csv_text(&t, row, (size_t)bb_csv_column(&t, "file"));
            ck_assert_str_eq(file, row % 3 == 1 ? MODEL : rounded());
            ck_assert_str_eq(bb_csv_text(&t, row, (size_t)bb_csv_column(&t, "text")), texts[row / 3]);
            snprintf(with_text, sizeof with_text, "--text %s %s", texts[row / 3], options[k]);
            snprintf(command, sizeof command, "eval %s --reference " MODEL " --json %s", file, with_text);
            json_t *want = answer(command);
            for (size_t i = 0; i < sizeof names / sizeof *names; i++)
                ck_assert_msg(fabs(bb_test_number(&t, row, names[i][0]) - number(want, names[i][1])) <= 1e-5 * fabs(number(want, names[i][1])), "%s, %s: %g",
                              with_text, names[i][0], bb_test_number(&t, row, names[i][0]));
            for (size_t i = 0; i < 3; i++) {
                const double q = number(json_object_get(want, "kl_quantiles"), quantiles[i][1]);
                ck_assert(fabs(bb_test_number(&t, row, quantiles[i][0]) - q) <= 1e-5 * q);
            }
            ck_assert(fabs(bb_test_number(&t, row, "ppl_full") - bb_test_number(&t, row % 3 == 1 ? row : row / 3 * 3 + 1, "ppl")) <=
                      1e-5 * bb_test_number(&t, row, "ppl"));
            json_decref(want);
        }
        for (size_t text = 0; text < 2; text++) {
            double mean = 0, squares = 0;
            snprintf(with_text, sizeof with_text, "--text %s %s", texts[text], options[k]);
            const size_t n = window_kls(rounded(), with_text, kl[0], 8);
            ck_assert_uint_eq(window_kls(MODEL, with_text, kl[1], 8), n);
            for (size_t i = 0; i < n; i++) mean += (kl[1][i] - kl[0][i]) / (double)n;
            for (size_t i = 0; i < n; i++) squares += pow(kl[1][i] - kl[0][i] - mean, 2);
            ck_assert(isnan(bb_test_number(&t, 3 * text, "kl_difference")) && isnan(bb_test_number(&t, 3 * text, "kl_difference_se")));
            ck_assert(mean < 0 && fabs(bb_test_number(&t, 3 * text + 1, "kl_difference") - mean) < 1e-4 * fabs(mean));
            if (n == 1) ck_assert(isnan(bb_test_number(&t, 3 * text + 1, "kl_difference_se")));
            else ck_assert(fabs(bb_test_number(&t, 3 * text + 1, "kl_difference_se") - sqrt(squares / (double)n / (double)(n - 1))) < 1e-3 * fabs(mean));
            ck_assert(bb_test_number(&t, 3 * text + 2, "kl_difference") == 0);
        }
        bb_csv_done(&t);
    }
}
END_TEST

/* A text that is one prompt: compare says where generate parts. */
START_TEST(greedy_parts_where_generate_does)
{
    static const char *const prompts[] = {
        "Once upon a time",         "Lily and Ben were playing in the", "The big dog", "One day, a little boy named Tim went to the park",
        "She was very sad because", "\"Can you help me?\" asked the"
    };
    enum { N = sizeof prompts / sizeof *prompts, NEW = 96 };
    unsigned parted = 0;
    for (size_t i = 0; i < N; i++) {
        char        command[1024];
        const char *path = bb_test_path("prompt.txt");
        bb_test_write(path, prompts[i], strlen(prompts[i]));
        snprintf(command, sizeof command, "generate --compare " MODEL " %s --prompt-file %s --temperature 0 --precision exact --n %d --json", rounded(), path,
                 NEW);
        json_t        *both = answer(command);
        const json_t  *first = json_array_get(json_object_get(both, "models"), 0);
        const size_t   n = json_array_size(json_object_get(first, "prompt_ids"));
        const unsigned same = (unsigned)number(both, "same_tokens");
        const bool     parts = json_is_true(json_object_get(both, "part"));
        ck_assert_str_eq(json_string_value(json_object_get(first, "stop")), "length"); /* a token that ends a text would be one like others */
        snprintf(command, sizeof command, "compare " MODEL " %s --greedy %s --prompts 1 --prompt-tokens %zu --new-tokens %d --json", rounded(), path, n, NEW);
        json_t *got = answer(command);
        ck_assert(number(got, "prompts") == 1 && number(got, "prompt_tokens") == (double)n && number(got, "new_tokens") == NEW);
        ck_assert_msg(number(got, "same_tokens") == same && number(got, "different") == parts, "%s: %u", prompts[i], same);
        if (parts) ck_assert(number(got, "first_difference") == same + 1);
        else ck_assert(json_is_null(json_object_get(got, "first_difference")));
        ck_assert(json_is_null(json_object_get(got, "same_tokens_se"))); /* of one prompt */
        parted += parts;
        json_decref(both);
        json_decref(got);
    }
    ck_assert_msg(parted > 0 && parted < N, "%u of %d part", parted, N); /* else the test says little */
}
END_TEST

/* Token ids as well; a short text has fewer prompts. */
START_TEST(several_files_and_prompts)
{
    char   command[1024];
    bb_csv t;
    snprintf(command, sizeof command, "compare " MODEL " %s " MODEL " --greedy tests/data/README.md --prompts 40 --prompt-tokens 8 --new-tokens 60", rounded());
    table(command, &t);
    ck_assert_uint_eq(t.n_rows, 2);
    ck_assert_str_eq(bb_csv_text(&t, 0, (size_t)bb_csv_column(&t, "file")), rounded());
    ck_assert(bb_test_number(&t, 0, "prompts") == 40 && bb_test_number(&t, 0, "different") > 0 && bb_test_number(&t, 0, "different") < 1);
    const double share = bb_test_number(&t, 0, "different"), place = bb_test_number(&t, 0, "first_difference");
    ck_assert(fabs(bb_test_number(&t, 0, "different_se") - sqrt(share * (1 - share) / 39)) < 1e-6);
    ck_assert(fabs(bb_test_number(&t, 0, "same_tokens") - (share * (place - 1) + (1 - share) * 60)) < 1e-3);
    ck_assert(bb_test_number(&t, 1, "different") == 0 && isnan(bb_test_number(&t, 1, "first_difference")) && bb_test_number(&t, 1, "same_tokens") == 60);
    bb_csv_done(&t);
    bb_test_write(bb_test_path("x.txt"), "Once upon a time there was a dog. It was big.", 45);
    snprintf(command, sizeof command, "compare " MODEL " " MODEL " --greedy %s --prompt-tokens 5 --new-tokens 4", bb_test_path("x.txt"));
    table(command, &t);
    ck_assert(bb_test_number(&t, 0, "prompts") >= 2 && bb_test_number(&t, 0, "prompts") < 8);
    bb_csv_done(&t);
}
END_TEST

START_TEST(tasks_are_those_of_eval)
{
    static const char *const names[][2] = { { "items", "items" },       { "acc", "acc" },      { "acc_se", "acc_se" },
                                            { "acc_norm", "acc_norm" }, { "nll", "gold_nll" }, { "nll_se", "gold_nll_se" },
                                            { "changed", "changed" } };
    static const char *const of_full[][2] = { { "acc_full", "acc" }, { "acc_norm_full", "acc_norm" }, { "nll_full", "gold_nll" } };
    static const char *const between[][2] = {
        { "acc_difference", "acc" }, { "acc_difference_se", "acc_se" }, { "nll_difference", "gold_nll" }, { "nll_difference_se", "gold_nll_se" }
    };
    char   command[1024];
    bb_csv t;
    snprintf(command, sizeof command, "compare " MODEL " " MODEL " %s --tasks tests/data/tasks/choice.jsonl,tests/data/tasks/cloze.jsonl --limit 4", rounded());
    table(command, &t);
    ck_assert_uint_eq(t.n_rows, 4); /* task by task */
    for (size_t row = 0; row < 4; row++) {
        const char *file = bb_csv_text(&t, row, (size_t)bb_csv_column(&t, "file")), *task = bb_csv_text(&t, row, (size_t)bb_csv_column(&t, "task"));
        ck_assert_str_eq(file, row % 2 ? rounded() : MODEL);
        ck_assert_str_eq(task, row < 2 ? "choice" : "cloze");
        snprintf(command, sizeof command, "eval %s --tasks tests/data/tasks/%s.jsonl --limit 4 --reference " MODEL " --json", file, task);
        json_t       *root = answer(command);
        const json_t *want = json_array_get(json_object_get(root, "tasks"), 0), *full = json_object_get(want, "reference"),
                     *difference = json_object_get(want, "difference");
        for (size_t i = 0; i < 7 + 3 + 4; i++) {
            const char *const *pair = i < 7 ? names[i] : i < 10 ? of_full[i - 7] : between[i - 10];
            const json_t      *x = json_object_get(i < 7 ? want : i < 10 ? full : difference, pair[1]);
            const double       got = bb_test_number(&t, row, pair[0]);
            if (json_is_null(x)) ck_assert_msg(isnan(got), "%s", pair[0]);
            else ck_assert_msg(fabs(got - json_number_value(x)) <= 1e-5 * fabs(got), "%s: %g", pair[0], got);
        }
        json_decref(root);
    }
    ck_assert(bb_test_number(&t, 1, "nll_difference") != 0); /* else the test says little */
    bb_csv_done(&t);
}
END_TEST

START_TEST(wrong_questions_are_refused_at_the_start)
{
    static const struct {
        const char *arguments;
        bb_status   status;
        const char *says;
    } cases[] = {
        { MODEL " --greedy tests/data/README.md", BB_USAGE, "then at least one file" },
        { MODEL " " MODEL, BB_USAGE, "--text FILES, --tasks FILES or --greedy TEXT" },
        { MODEL " " MODEL " --text README.md --greedy README.md", BB_USAGE, "one at a time" },
        { MODEL " " MODEL " --text README.md --limit 3", BB_USAGE, "--limit has no effect without --tasks" },
        { MODEL " " MODEL " --tasks tests/data/tasks --chunks 3", BB_USAGE, "--chunks has no effect without --text" },
        { MODEL " " MODEL " --text README.md --spread", BB_USAGE, "--spread has no effect without --chunks" },
        { MODEL " " MODEL " --text README.md,,README.md", BB_USAGE, "an empty name" },
        { MODEL " " MODEL " --text README.md,none.txt", BB_BAD_FILE, "none.txt" },
        { MODEL " " MODEL " --tasks tests/data/tasks --greedy tests/data/README.md", BB_USAGE, "one at a time" },
        { MODEL " " MODEL " --tasks tests/data/tasks --prompts 3", BB_USAGE, "--prompts has no effect without --greedy" },
        { MODEL " " MODEL " --greedy tests/data/README.md --limit 3", BB_USAGE, "--limit has no effect without --tasks" },
        { MODEL " " MODEL " --greedy tests/data/README.md --prompt-tokens 2", BB_USAGE, "--prompt-tokens" },
        { MODEL " " MODEL " --tasks none.jsonl", BB_BAD_FILE, "none.jsonl" },
        { MODEL " " MODEL " --greedy none.txt", BB_BAD_FILE, "none.txt" },
        { MODEL " none.gguf --greedy tests/data/README.md", BB_BAD_FILE, "none.gguf" },
        { MODEL " " MODEL " --greedy tests/data/README.md --prompt-tokens 100000", BB_BAD_FILE, "README.md" },
    };
    char        command[1024];
    bb_err      err;
    tiny_spec   s = tiny_default("llama");
    const char *other = bb_test_path("other.gguf");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(command, sizeof command, "compare %s", cases[i].arguments);
        const bb_status status = bb_test_command(NULL, &err, "%s", command);
        ck_assert_msg(status == cases[i].status && strstr(err.msg, cases[i].says), "%s: %d, %s", command, (int)status, err.msg);
    }
    tiny_write(&s, other);
    ck_assert_int_eq(bb_test_command(NULL, &err, "compare " MODEL " %s --greedy tests/data/README.md", other), BB_BAD_FILE); /* another vocabulary */
    ck_assert_int_eq(bb_test_command(NULL, &err, "compare " MODEL " %s --text tests/data/README.md", other), BB_BAD_FILE);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_compare");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, texts_are_those_of_eval);
    tcase_add_test(t, greedy_parts_where_generate_does);
    tcase_add_test(t, several_files_and_prompts);
    tcase_add_test(t, tasks_are_those_of_eval);
    tcase_add_test(t, wrong_questions_are_refused_at_the_start);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
