/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_eval.c: `bitbudget eval` and `bitbudget tokenize` run inside the test, on a real small model whose numbers another program
 * computed. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"

#define MODEL "tests/data/stories260K.gguf"

static double number(const json_t *o, const char *name)
{
    ck_assert_msg(json_is_number(json_object_get(o, name)), "no number '%s'", name);
    return json_number_value(json_object_get(o, name));
}

/* The 128 ids of the probe as a .u16 file. */
static const char *probe_file(const json_t *reference)
{
    const json_t *ids = json_object_get(json_object_get(reference, "nll_probe"), "ids");
    unsigned char bytes[256];
    const char   *path = bb_test_path("probe.u16");
    for (size_t i = 0; i < 128; i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        bytes[2 * i] = (unsigned char)id;
        bytes[2 * i + 1] = (unsigned char)(id >> 8);
    }
    bb_test_write(path, bytes, sizeof bytes);
    return path;
}

START_TEST(eval_gives_the_numbers_of_numpy)
{
    json_t *reference = json_load_file("tests/data/stories260K.json", 0, NULL), *root, *top;
    json_t *want = json_object_get(json_object_get(reference, "greedy"), "last_prompt_logits_top5");
    char   *text;
    bb_err  err = BB_ERR_INIT;
    double  nll = number(json_object_get(reference, "nll_probe"), "sum_nll") / 127;
    ck_assert_msg(bb_test_command(&text, &err, "eval " MODEL " --text %s --protocol hf --ctx 128 --json --reference " MODEL, probe_file(reference)) == BB_OK,
                  "%s", err.msg);
    ck_assert_ptr_nonnull(root = json_loads(text, 0, NULL));
    ck_assert(fabs(number(root, "nll_nats") - nll) < 1e-5);
    ck_assert(fabs(number(root, "ppl") - exp(nll)) < 1e-4);
    ck_assert(number(root, "n_tokens") == 127 && number(root, "ctx") == 128 && number(root, "windows") == 1 && number(root, "data_tokens") == 128);
    ck_assert(number(root, "kl_nats") == 0 && number(root, "top1") == 1);
    ck_assert_str_eq(json_string_value(json_object_get(root, "protocol")), "hf");
    ck_assert(json_is_null(json_object_get(root, "bos")));
    json_decref(root);
    bb_free(text);

    bb_test_write(bb_test_path("x.txt"), "Once upon a time", 16); /* the prompt of last_prompt_logits_top5: five tokens with BOS */
    ck_assert_int_eq(bb_test_command(&text, &err, "eval " MODEL " --text %s --ctx 5 --json --probabilities 4", bb_test_path("x.txt")), BB_OK);
    ck_assert_ptr_nonnull(root = json_loads(text, 0, NULL));
    ck_assert_int_eq(json_integer_value(json_object_get(root, "bos")), 1);
    top = json_object_get(json_object_get(root, "probabilities"), "top");
    for (size_t i = 0; i < 5; i++) {
        json_t *pair = json_array_get(want, i), *is = json_array_get(top, i);
        double  ratio = number(is, "p") / number(json_array_get(top, 0), "p"); /* of probabilities: differences of logits */
        ck_assert(number(is, "id") == (double)json_integer_value(json_array_get(pair, 0)));
        ck_assert(fabs(log(ratio) - (json_number_value(json_array_get(pair, 1)) - json_number_value(json_array_get(json_array_get(want, 0), 1)))) < 1e-4);
    }
    json_decref(root);
    bb_free(text);
    ck_assert_int_eq(bb_test_command(&text, &err, "eval " MODEL " --text %s --ctx 5", bb_test_path("x.txt")), BB_OK);
    ck_assert_ptr_nonnull(strstr(text, "perplexity"));
    bb_free(text);
    json_decref(reference);
}
END_TEST

/* The mean of the rows is what is printed, ids are the text's own, and a file that is something else stays. */
START_TEST(scores_are_written_token_by_token)
{
    json_t *reference = json_load_file("tests/data/stories260K.json", 0, NULL), *root;
    json_t *ids = json_object_get(json_object_get(reference, "nll_probe"), "ids");
    char   *text, probe[512], out[512];
    bb_err  err = BB_ERR_INIT;
    snprintf(probe, sizeof probe, "%s", probe_file(reference));
    snprintf(out, sizeof out, "%s", bb_test_path("scores.csv"));
    ck_assert_int_eq(bb_test_command(&text, &err, "quantize " MODEL " --format BF16 --embd-format BF16 --method rtn --out %s", bb_test_path("bf16.gguf")),
                     BB_OK);
    bb_free(text);
    for (int with_reference = 0; with_reference < 2; with_reference++) {
        double sum[3] = { 0 };
        bb_csv t;
        ck_assert_msg(bb_test_command(&text, &err, "eval %s --text %s --protocol gguf --ctx 32 --json --scores %s %s", bb_test_path("bf16.gguf"), probe, out,
                                      with_reference ? "--reference " MODEL : "") == BB_OK,
                      "%s", err.msg);
        ck_assert_ptr_nonnull(root = json_loads(text, 0, NULL));
        ck_assert_int_eq(bb_csv_read(out, &t, &err), BB_OK);
        ck_assert_uint_eq(t.n_rows, 4 * 15);
        ck_assert_uint_eq(t.n_cols, with_reference ? 7 : 4);
        for (size_t i = 0; i < t.n_rows; i++) {
            int64_t at[3], same;
            double  x;
            for (size_t k = 0; k < 3; k++) ck_assert_int_eq(bb_csv_int(&t, i, k, &at[k], &err), BB_OK);
            ck_assert_int_eq(at[0], (int64_t)i / 15);
            ck_assert_int_eq(at[1], 17 + (int64_t)i % 15);
            ck_assert_int_eq(at[2], json_integer_value(json_array_get(ids, (size_t)(32 * at[0] + at[1]))));
            for (size_t k = 0; k < (with_reference ? 3 : 1); k++) {
                ck_assert_int_eq(bb_csv_double(&t, i, 3 + k, &x, &err), BB_OK);
                sum[k] += x / (double)t.n_rows;
            }
            if (with_reference) ck_assert(bb_csv_int(&t, i, 6, &same, &err) == BB_OK && (same == 0 || same == 1));
        }
        ck_assert(fabs(sum[0] - number(root, "nll_nats")) < 1e-7);
        if (with_reference) ck_assert(fabs(sum[2] - number(root, "kl_nats")) < 1e-7 && fabs(sum[0] - sum[1] - number(root, "ln_ratio")) < 1e-7 && sum[2] > 0);
        bb_csv_done(&t);
        json_decref(root);
        bb_free(text);
    }
    ck_assert_int_eq(bb_test_command(&text, &err, "eval " MODEL " --text %s --ctx 32 --scores %s", probe, probe), BB_USAGE);
    bb_free(text);
    bb_test_write(out, "a,b\n1,2\n", 8);
    ck_assert_int_eq(bb_test_command(&text, &err, "eval " MODEL " --text %s --ctx 32 --scores %s", probe, out), BB_USAGE);
    ck_assert_msg(strstr(err.msg, "was not made by bitbudget") != NULL, "%s", err.msg);
    bb_free(text);
    json_decref(reference);
}
END_TEST

/* The spans add up to the whole; the documents of a text file are those of its token file. */
START_TEST(detail_is_the_same_scores_in_parts)
{
    static const char tale[] =
        "Once upon a time there was a cat.\nIt slept.\n\nOnce upon a time there was a dog.\nIt ran all day.\n\nThe end was good, and all were glad.\n";
    char   *text, u16[512];
    double  tokens = 0, kl = 0, nll = 0;
    bb_err  err = BB_ERR_INIT;
    json_t *root, *spans, *documents;
    snprintf(u16, sizeof u16, "%s", bb_test_path("tale.u16"));
    bb_test_write(bb_test_path("tale.txt"), tale, sizeof tale - 1);
    ck_assert_int_eq(bb_test_command(&text, &err, "tokenize " MODEL " --text %s --out %s", bb_test_path("tale.txt"), u16), BB_OK);
    bb_free(text);
    ck_assert_int_eq(bb_test_command(&text, &err, "quantize " MODEL " --format BF16 --embd-format BF16 --method rtn --out %s", bb_test_path("q.gguf")), BB_OK);
    bb_free(text);
    for (int file = 0; file < 2; file++, tokens = kl = nll = 0) {
        ck_assert_msg(bb_test_command(&text, &err, "eval %s --text %s --ctx 12 --protocol hf --reference " MODEL " --detail --json", bb_test_path("q.gguf"),
                                      file ? u16 : bb_test_path("tale.txt")) == BB_OK,
                      "%s", err.msg);
        ck_assert_ptr_nonnull(root = json_loads(text, 0, NULL));
        spans = json_object_get(json_object_get(root, "detail"), "positions");
        documents = json_object_get(json_object_get(root, "detail"), "documents");
        ck_assert_uint_eq(json_array_size(spans), 8);
        for (size_t i = 0; i < 8; i++) {
            json_t *span = json_array_get(spans, i);
            tokens += number(span, "tokens");
            kl += number(span, "tokens") * number(span, "kl_nats");
            nll += number(span, "tokens") * log(number(span, "ppl"));
            ck_assert(number(span, "first") == (i ? number(json_array_get(spans, i - 1), "last") + 1 : 0));
        }
        ck_assert(tokens == number(root, "n_tokens") && number(root, "kl_nats") > 0);
        ck_assert(fabs(kl / tokens - number(root, "kl_nats")) < 1e-9 && fabs(nll / tokens - number(root, "nll_nats")) < 1e-9);
        ck_assert_str_eq(json_string_value(json_object_get(documents, "rule")), "empty lines");
        ck_assert(number(documents, "blocks") == 3 && number(documents, "kl_se") > 0);
        ck_assert(number(documents, "kl_low") < number(root, "kl_nats") && number(root, "kl_nats") < number(documents, "kl_high"));
        json_decref(root);
        bb_free(text);
    }
    ck_assert_int_eq(bb_test_command(&text, &err, "eval " MODEL " --text %s --ctx 12 --detail --document Once", bb_test_path("tale.txt")), BB_OK);
    ck_assert_ptr_nonnull(strstr(text, "documents     2, told apart by marked lines; by a bootstrap of them nll +- "));
    ck_assert(strstr(text, "\npositions ") && !strstr(text, "same top 1"));
    bb_free(text);
}
END_TEST

START_TEST(generation_is_measured)
{
    char   *text;
    json_t *root, *g, *spans;
    bb_err  err = BB_ERR_INIT;
    ck_assert_msg(bb_test_command(&text, &err,
                                  "eval " MODEL " --text tests/data/README.md --chunks 1 --reference " MODEL
                                  " --generation --prompts 3 --prompt-tokens 8 --new-tokens 20 --json") == BB_OK,
                  "%s", err.msg);
    ck_assert_ptr_nonnull(root = json_loads(text, 0, NULL));
    g = json_object_get(root, "generation");
    spans = json_object_get(g, "kl");
    ck_assert(number(g, "agree_length") == 20 && number(g, "agree_length_se") == 0 && number(g, "whole") == 3 && number(g, "prompts") == 3);
    ck_assert_uint_eq(json_array_size(spans), 2);
    ck_assert(number(json_array_get(spans, 1), "first") == 17 && number(json_array_get(spans, 1), "last") == 20);
    ck_assert(number(json_array_get(spans, 0), "kl_nats") == 0 && number(json_array_get(spans, 0), "top1") == 1);
    json_decref(root);
    bb_free(text);
    ck_assert_int_eq(
        bb_test_command(&text, &err, "eval " MODEL " --text tests/data/README.md --chunks 1 --reference " MODEL " --generation --prompts 2 --new-tokens 4"),
        BB_OK);
    ck_assert_ptr_nonnull(strstr(text, "agreement     4.00 +- 0.00 tokens"));
    bb_free(text);
}
END_TEST

START_TEST(tasks_are_measured)
{
    char   *text;
    json_t *root, *list;
    bb_err  err = BB_ERR_INIT;
    ck_assert_msg(bb_test_command(&text, &err, "eval " MODEL " --tasks tests/data/tasks --limit 2 --reference " MODEL " --json") == BB_OK, "%s", err.msg);
    ck_assert_ptr_nonnull(root = json_loads(text, 0, NULL));
    list = json_object_get(root, "tasks");
    ck_assert_uint_eq(json_array_size(list), 10); /* in order of names */
    ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 0), "task")), "choice");
    ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 9), "kind")), "schema");
    for (size_t i = 0; i < 10; i++) {
        json_t *row = json_array_get(list, i), *reference = json_object_get(row, "reference");
        ck_assert(number(row, "items") == 2 && number(row, "changed") == 0);
        ck_assert(number(row, "gold_nll") == number(reference, "gold_nll") && number(row, "acc") == number(reference, "acc"));
        ck_assert(number(json_object_get(row, "difference"), "gold_nll") == 0 && number(json_object_get(row, "difference"), "acc_se") == 0);
    }
    ck_assert_ptr_null(json_object_get(root, "ppl"));
    json_decref(root);
    bb_free(text);
    ck_assert_int_eq(bb_test_command(&text, &err, "eval " MODEL " --tasks tests/data/tasks/cloze.jsonl,tests/data/tasks/endings.txt"), BB_OK);
    ck_assert(strstr(text, "cloze                    cloze        3") && strstr(text, "endings                  choice       2"));
    bb_free(text);
}
END_TEST

/* Accuracies follow from the options' rows. */
START_TEST(options_of_tasks_are_written)
{
    char   *text, out[512];
    json_t *root, *row;
    bb_err  err = BB_ERR_INIT;
    snprintf(out, sizeof out, "%s", bb_test_path("answers.csv"));
    for (int with_reference = 0; with_reference < 2; with_reference++) {
        bb_csv t;
        double right = 0, right_norm = 0;
        ck_assert_msg(bb_test_command(&text, &err, "eval " MODEL " --tasks tests/data/tasks/choice.jsonl --json --answers %s %s", out,
                                      with_reference ? "--reference " MODEL : "") == BB_OK,
                      "%s", err.msg);
        ck_assert_ptr_nonnull(root = json_loads(text, 0, NULL));
        row = json_array_get(json_object_get(root, "tasks"), 0);
        ck_assert_int_eq(bb_csv_read(out, &t, &err), BB_OK);
        ck_assert(t.n_rows == 12 && t.n_cols == (with_reference ? 9 : 8));
        for (size_t i = 0, end; i < t.n_rows; i = end) {
            double  best = -INFINITY, best_norm = -INFINITY;
            bool    gold_best = false, gold_norm = false;
            int64_t item, at, option, gold, tokens, characters, greedy;
            ck_assert_int_eq(bb_csv_int(&t, i, 1, &item, &err), BB_OK);
            for (end = i; end < t.n_rows && bb_csv_int(&t, end, 1, &at, &err) == BB_OK && at == item; end++) {
                double p, p_ref;
                ck_assert_str_eq(bb_csv_text(&t, end, 0), "choice");
                ck_assert(bb_csv_int(&t, end, 2, &option, &err) == BB_OK && option == (int64_t)(end - i));
                ck_assert(bb_csv_int(&t, end, 3, &gold, &err) == BB_OK && bb_csv_int(&t, end, 4, &tokens, &err) == BB_OK);
                ck_assert(bb_csv_int(&t, end, 5, &characters, &err) == BB_OK && bb_csv_double(&t, end, 6, &p, &err) == BB_OK);
                ck_assert(bb_csv_int(&t, end, 7, &greedy, &err) == BB_OK && (greedy == 0 || greedy == 1) && tokens > 0);
                if (with_reference) ck_assert(bb_csv_double(&t, end, 8, &p_ref, &err) == BB_OK && p_ref == p);
                if (p > best) best = p, gold_best = option == gold;
                if (p / (double)characters > best_norm) best_norm = p / (double)characters, gold_norm = option == gold;
            }
            right += gold_best, right_norm += gold_norm;
        }
        ck_assert(fabs(right / 5 - number(row, "acc")) < 1e-12 && fabs(right_norm / 5 - number(row, "acc_norm")) < 1e-12);
        bb_csv_done(&t);
        json_decref(root);
        bb_free(text);
    }
    bb_test_write(out, "a,b\n1,2\n", 8);
    ck_assert_int_eq(bb_test_command(&text, &err, "eval " MODEL " --tasks tests/data/tasks --answers %s", out), BB_USAGE);
    ck_assert_msg(strstr(err.msg, "was not made by bitbudget") != NULL, "%s", err.msg);
    bb_free(text);
}
END_TEST

/* A closed stream's number is not given to the table: what is said would be in it. */
START_TEST(closed_streams_leave_tables_alone)
{
    char        line[600], said[4096], *before, *after;
    const char *out = bb_test_path("closed.csv");
    size_t      n[2];
    snprintf(line, sizeof line, "eval " MODEL " --tasks tests/data/tasks/choice.jsonl --answers %s", out);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
    ck_assert_int_eq(bb_file_read(out, &before, &n[0], NULL), BB_OK);
    snprintf(line, sizeof line, "eval " MODEL " --tasks tests/data/tasks/choice.jsonl --answers %s 2>&-", out);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
    ck_assert_int_eq(bb_file_read(out, &after, &n[1], NULL), BB_OK);
    ck_assert_str_eq(after, before);
    bb_free(after);
    bb_free(before);
}
END_TEST

/* What can be known of prompts and tasks is said before the text is measured. */
START_TEST(late_parts_are_looked_at_first)
{
    static const char bad_task[] = "{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 0}\n{";
    static const char words[] = "Once upon a time there was a little girl who was called Lily.";
    char              said[8192], line[2048], bad[512], text[512], good[512];
    snprintf(bad, sizeof bad, "%s", bb_test_path("bad.jsonl"));
    snprintf(good, sizeof good, "%s", bb_test_path("good.jsonl"));
    snprintf(text, sizeof text, "%s", bb_test_path("short.txt"));
    bb_test_write(bad, bad_task, sizeof bad_task - 1);
    bb_test_write(good, bad_task, strcspn(bad_task, "\n"));
    bb_test_write(text, words, sizeof words - 1);
    const struct {
        const char *options, *says;
        int         code;
    } cases[] = {
        { "--generation --prompt-tokens 2 --reference " MODEL, "at least 3 are needed", 2 },
        { "--generation --prompt-tokens 300 --reference " MODEL, "less than one prompt of 300", 5 },
        { "--tasks tests/data/tasks/choice.jsonl,BAD", "bad.jsonl line 2 is no JSON", 5 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *bad_at = strstr(cases[i].options, "BAD");
        snprintf(line, sizeof line, "eval " MODEL " --text %s --ctx 8 %.*s%s", text, bad_at ? (int)(bad_at - cases[i].options) : 200, cases[i].options,
                 bad_at ? bad : "");
        ck_assert_int_eq(bb_test_program(line, said, sizeof said), cases[i].code);
        ck_assert_msg(strstr(said, cases[i].says) && !strstr(said, "evaluating"), "%s: %s", line, said);
    }
    snprintf(line, sizeof line, "compare " MODEL " " MODEL " --tasks tests/data/tasks/choice.jsonl,%s", bad);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 5);
    ck_assert_msg(strstr(said, "bad.jsonl line 2") && !strstr(said, "acc_norm"), "%s", said);
    /* Nor are they written over, even by force. */
    snprintf(line, sizeof line, "eval " MODEL " --text %s --ctx 8 --tasks %s --force --answers %s", text, good, good);
    bb_test_says(said, sizeof said, 2, "is a task itself", "%s", line);
    bb_test_says(said, sizeof said, 2, "is the text itself", "eval " MODEL " --text %s --ctx 8 --tasks %s --force --answers %s", text, good, text);
    bb_test_says(said, sizeof said, 2, "is a task itself", "eval " MODEL " --text %s --ctx 8 --tasks %s --force --scores %s", text, good, good);
}
END_TEST

START_TEST(tokenize_writes_what_eval_reads)
{
    static const char bytes[] = { 1, 0, 0, 0, (char)0x93, 1, 0, 0, (char)0x97, 1, 0, 0, 5, 1, 0, 0, 0x7A, 1, 0, 0 }; /* 1 403 407 261 378 */
    char             *text, *written, u32[512];
    const char       *p = bb_test_path("x.txt");
    size_t            n;
    bb_err            err = BB_ERR_INIT;
    bb_test_write(p, "Once upon a time\n", 17);
    snprintf(u32, sizeof u32, "%s", bb_test_path("x.u32"));
    ck_assert_int_eq(bb_test_command(&text, &err, "tokenize " MODEL " --text %s", p), BB_OK);
    ck_assert_str_eq(text, "1\n403\n407\n261\n378\n");
    bb_free(text);
    ck_assert_int_eq(bb_test_command(&text, &err, "tokenize " MODEL " --text %s --out %s", p, u32), BB_OK);
    bb_free(text);
    ck_assert_int_eq(bb_file_read(u32, &written, &n, NULL), BB_OK);
    ck_assert_uint_eq(n, sizeof bytes);
    ck_assert_int_eq(memcmp(written, bytes, n), 0);
    bb_free(written);
    ck_assert_int_eq(bb_test_command(&text, &err, "tokenize " MODEL " --text %s", u32), BB_OK);
    ck_assert_str_eq(text, "1\n403\n407\n261\n378\n");
    bb_free(text);
    ck_assert_int_eq(bb_test_command(&text, &err, "tokenize " MODEL " --decode --text %s", u32), BB_OK);
    ck_assert_str_eq(text, "Once upon a time");
    bb_free(text);
    ck_assert_int_eq(bb_test_command(&text, &err, "tokenize " MODEL " --decode --text %s --out %s", u32, bb_test_path("back.txt")), BB_OK);
    bb_free(text);
    ck_assert_int_eq(bb_file_read(bb_test_path("back.txt"), &written, &n, NULL), BB_OK);
    ck_assert(n == 16 && memcmp(written, "Once upon a time", n) == 0);
    bb_free(written);
}
END_TEST

static const struct bad {
    const char *line;
    bb_status   status;
} bad[] = {
    { "eval", BB_USAGE },
    { "eval " MODEL, BB_USAGE },
    { "eval " MODEL " --text tests/data/README.md --protocol other", BB_USAGE },
    { "eval " MODEL " --text tests/data/README.md --probabilities 128", BB_USAGE }, /* the model's own context is 128 */
    { "eval " MODEL " --text tests/data/README.md --ctx 100000", BB_BAD_FILE },
    { "eval " MODEL " --tasks tests/data/tasks --detail", BB_USAGE },
    { "eval " MODEL " --tasks tests/data/tasks --scores x.csv", BB_USAGE },
    { "eval " MODEL " --text tests/data/README.md --answers x.csv", BB_USAGE },
    { "eval " MODEL " --text tests/data/README.md --document x", BB_USAGE },
    { "eval " MODEL " --text tests/data/README.md --reference tests/data/stories3M-p256.imatrix.gguf", BB_UNSUPPORTED },
    { "eval tests/data/README.md --text tests/data/README.md", BB_BAD_FILE },
    { "eval " MODEL " --text tests/data/absent", BB_BAD_FILE },
    { "eval " MODEL " --text tests/data/README.md --chunks 1 --generation", BB_USAGE },      /* needs a reference */
    { "eval " MODEL " --tasks tests/data/tasks --generation --reference " MODEL, BB_USAGE }, /* needs a text */
    { "eval " MODEL " --tasks tests/data/absent.jsonl", BB_BAD_FILE },
    { "eval " MODEL " --tasks tests/data/formats", BB_BAD_FILE }, /* no task in it */
    { "eval " MODEL " --tasks ,", BB_USAGE },
    { "eval " MODEL " --tasks tests/data/tasks --ctx 1", BB_USAGE },
    { "tokenize " MODEL, BB_USAGE },
    { "tokenize " MODEL " --text tests/data/README.md --out ids.txt", BB_USAGE },
    { "tokenize " MODEL " --text tests/data/README.md --decode", BB_USAGE },
    { "tokenize " MODEL " --text x.u32 --decode --parse-special", BB_USAGE },
};

START_TEST(mistakes_have_a_sentence)
{
    char  *text = NULL;
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_test_command(&text, &err, "%s", bad[_i].line) == bad[_i].status, "%s: %d %s", bad[_i].line, err.status, err.msg);
    ck_assert(err.msg[0]);
    ck_assert_str_eq(text, "");
    bb_free(text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_eval");
    TCase *t = tcase_create("core");
    bb_log_set_level(BB_LOG_QUIET);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, eval_gives_the_numbers_of_numpy);
    tcase_add_test(t, detail_is_the_same_scores_in_parts);
    tcase_add_test(t, scores_are_written_token_by_token);
    tcase_add_test(t, generation_is_measured);
    tcase_add_test(t, tasks_are_measured);
    tcase_add_test(t, options_of_tasks_are_written);
    tcase_add_test(t, closed_streams_leave_tables_alone);
    tcase_add_test(t, late_parts_are_looked_at_first);
    tcase_add_test(t, tokenize_writes_what_eval_reads);
    tcase_add_loop_test(t, mistakes_have_a_sentence, 0, (int)(sizeof bad / sizeof *bad));
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
