/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_tasks.c: tasks on a real small model against log-likelihoods in float64 by definition, one sequence at a time; windows that are too
 * short; files that are wrong. */
#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "eval/tasks.h"
#include "model/io/tokenizer.h"
#include "tests/support/guarded.h"
#include "tests/support/ref_net.h"
#include "tests/support/support.h"

enum { LONGEST = 128 };

static bb_model      model;
static bb_tokenizer *tokenizer;

static void setup(void)
{
    ck_assert_int_eq(bb_model_open("tests/data/stories260K.gguf", &model, NULL), BB_OK);
    ck_assert_int_eq(bb_tokenizer_create(&model.source, &tokenizer, NULL), BB_OK);
}

static void teardown(void)
{
    bb_tokenizer_destroy(tokenizer);
    bb_model_close(&model);
}

/* ---- the oracle: items as they should be read, written out by hand ---- */

typedef struct expected {
    const char *context[4], *continuation[4];
    unsigned    n, gold;
} expected;

static const expected choices[] = {
    { { "Once upon a time, there was a little" }, { "girl named Lily.", "of the and is." }, 2, 0 },
    { { "Question: What did the dog say?\nAnswer:" },
      { "\"Woof!\"", "\"Meow!\"", "nothing at all, for it was fast asleep under the big old tree" }, 3, 0 },
    { { "Tom fell down and started to cry. His mom came and" }, { "gave him a hug.", "ate the moon.", "flew." }, 3, 0 },
    { { "Passage: Ben has a red ball. He likes it.\nQuestion: Is the ball blue?\nAnswer:" }, { "no", "yes" }, 2, 0 },
    { { "They were happy and they" }, { "played together all day.", "zzz qqq xxx" }, 2, 1 },
}, schemas[] = {
    { { "The cat saw the mouse, so the cat", "The cat saw the mouse, so the mouse" }, { "ran away to hide." }, 2, 1 },
    { { "Lily gave Ben a toy because Lily", "Lily gave Ben a toy because Ben" }, { "was sad." }, 2, 1 },
    { { "Once upon a time, there was a big", "xylophone zebra quartz" }, { "tree in the park." }, 2, 0 },
}, clozes[] = {
    { { "Once upon a" }, { "time" }, 1, 0 },
    { { "Lily wanted to play with her toys. She asked her mom if she could" }, { "play" }, 1, 0 },
    { { "The boy put on his" }, { "spectacles" }, 1, 0 },
}, endings[] = {
    { { "A girl is in the park with her mom. she" }, { "wants to play on the swings.", "of to and the but.", "engine torque vector.", "q z x w v." }, 4, 0 },
    { { "The sun was hot. the dog" }, { "is a very big number.", "sold the stock market.", "drank some water.", "was not a a a a." }, 4, 2 },
};

static const struct {
    const char     *path;
    bb_task_kind    kind;
    const expected *items;
    size_t          n;
} files[] = {
    { "tests/data/tasks/choice.jsonl", BB_TASK_CHOICE, choices, 5 },
    { "tests/data/tasks/schema.jsonl", BB_TASK_SCHEMA, schemas, 3 },
    { "tests/data/tasks/cloze.jsonl", BB_TASK_CLOZE, clozes, 3 },
    { "tests/data/tasks/endings.txt", BB_TASK_CHOICE, endings, 2 },
};

/* ln p of the continuation behind a space; *greedy: is it what greedy decoding gives? The window drops tokens behind BOS. */
static double log_p(const char *context, const char *continuation, size_t window, bool *greedy)
{
    char     text[512];
    int32_t *a, *b, ids[LONGEST];
    size_t   n_a, n_b, V = model.net.n_vocab, drop;
    double  *z = BB_NEW(LONGEST * V, double, NULL), sum = 0;
    snprintf(text, sizeof text, "%s %s", context, continuation);
    ck_assert_int_eq(bb_tokenize(tokenizer, context, strlen(context), true, false, &a, &n_a, NULL), BB_OK);
    ck_assert_int_eq(bb_tokenize(tokenizer, text, strlen(text), true, false, &b, &n_b, NULL), BB_OK);
    ck_assert(n_b <= LONGEST && b[0] == 1);
    ck_assert_int_eq(memcmp(a, b, n_a * sizeof *a), 0); /* SentencePiece does not merge over a space */
    drop = n_b > window ? n_b - window : 0;
    memcpy(ids, b + drop, (n_b - drop) * sizeof *ids);
    ids[0] = 1;
    ref_run(&model.net, ids, (uint32_t)(n_b - drop), z);
    *greedy = true;
    for (size_t t = n_a - drop; t < n_b - drop; t++) {
        const double *row = z + (t - 1) * V;
        sum += row[ids[t]] - ref_log_sum_exp(row, V);
        for (size_t v = 0; v < V; v++) *greedy &= row[v] <= row[ids[t]];
    }
    bb_free(a);
    bb_free(b);
    bb_free(z);
    return sum;
}

typedef struct outcome {
    double   right, right_norm, nll;
    uint32_t answer;
} outcome;

static outcome expect(bb_task_kind kind, const expected *e, size_t window)
{
    outcome  o = { 0, 0, 0, 0 };
    double   p[4], total = 0;
    bool     greedy = false;
    unsigned norm = 0;
    for (unsigned i = 0; i < e->n; i++) {
        const char *c = e->continuation[kind == BB_TASK_SCHEMA ? 0 : i];
        p[i] = log_p(e->context[kind == BB_TASK_SCHEMA ? i : 0], c, window, &greedy);
        total += exp(p[i]);
        if (p[i] > p[o.answer]) o.answer = i;
        if (p[i] / (double)strlen(c) > p[norm] / (double)strlen(e->continuation[kind == BB_TASK_SCHEMA ? 0 : norm])) norm = i;
    }
    o.right = o.answer == e->gold;
    o.right_norm = norm == e->gold;
    o.nll = log(total) - p[e->gold];
    if (kind == BB_TASK_CLOZE) o = (outcome) { greedy, 0, -p[0], greedy };
    return o;
}

static void mean_error(const double *x, size_t n, double *mean, double *error)
{
    double square = 0;
    *mean = 0;
    for (size_t i = 0; i < n; i++) *mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++) square += pow(x[i] - *mean, 2);
    *error = n > 1 ? sqrt(square / (double)(n - 1) / (double)n) : 0;
}

/* The scores of an item's options. */
static void expect_scores(bb_task_kind kind, const expected *e, const bb_task_score *s)
{
    for (unsigned i = 0; i < e->n; i++) {
        const char *c = e->continuation[kind == BB_TASK_SCHEMA ? 0 : i], *context = e->context[kind == BB_TASK_SCHEMA ? i : 0];
        bool        greedy;
        ck_assert_double_eq_tol(s[i].log_p, log_p(context, c, LONGEST, &greedy), 1e-4);
        ck_assert(s[i].greedy == greedy && s[i].n_characters == strlen(c) && s[i].n_tokens > 0 && s[i].n_tokens <= strlen(c) + 1);
    }
}

START_TEST(tasks_by_definition)
{
    size_t         n = files[_i].n, right = 0;
    bb_task        t;
    bb_task_result r;
    bb_task_answer answers[8];
    bb_task_score  scores[32];
    double         acc[8], norm[8], nll[8], mean, error;
    bb_err         err = BB_ERR_INIT;
    ck_assert_msg(bb_task_load(files[_i].path, 0, &t, &err) == BB_OK, "%s", err.msg);
    ck_assert(t.kind == files[_i].kind && t.n_items == n && strlen(t.sha256) == 64);
    ck_assert_msg(bb_task_run(&bb_backend_cpu, &model, &model.net, &t, LONGEST, NULL, &r, answers, scores, &err) == BB_OK, "%s", err.msg);
    ck_assert(t.n_options <= sizeof scores / sizeof *scores);
    ck_assert(r.n == n && r.n_skipped == 0 && r.n_cut == 0);
    for (size_t i = 0; i < n; i++) {
        outcome o = expect(t.kind, &files[_i].items[i], LONGEST);
        ck_assert_uint_eq(answers[i].option, o.answer);
        ck_assert(answers[i].right == (o.right > 0) && (t.kind != BB_TASK_CHOICE || answers[i].right_norm == (o.right_norm > 0)));
        ck_assert_double_eq_tol(answers[i].gold_nll, o.nll, 1e-4);
        acc[i] = o.right, norm[i] = o.right_norm, nll[i] = o.nll;
        expect_scores(t.kind, &files[_i].items[i], scores + t.items[i].first);
        right += o.right > 0;
    }
    mean_error(acc, n, &mean, &error);
    ck_assert_double_eq_tol(r.acc, mean, 1e-12);
    ck_assert_double_eq_tol(r.acc_se, error, 1e-12);
    mean_error(nll, n, &mean, &error);
    ck_assert_double_eq_tol(r.gold_nll, mean, 1e-4);
    ck_assert_double_eq_tol(r.gold_nll_se, error, 1e-4);
    mean_error(norm, n, &mean, &error);
    if (t.kind == BB_TASK_CHOICE) {
        ck_assert_double_eq_tol(r.acc_norm, mean, 1e-12);
        ck_assert_double_eq_tol(r.acc_norm_se, error, 1e-12);
    } else ck_assert(isnan(r.acc_norm) && isnan(r.acc_norm_se));
    if (_i < 3) ck_assert(right > 0 && right < n); /* else the items say nothing */
    bb_task_done(&t);
}
END_TEST

/* acc_norm counts characters: not bytes, and not the space before the continuation. Pairs of endings on which these disagree are looked for. */
START_TEST(normalised_by_characters)
{
    static const char *const endings_tried[] = {
        "a",         "dog",    "girl",         "girl named Lily.",        "boy who had a", "q", "Zq", "~", "#~", "{}", "@~@~", "\u00e9", "\u00e9\u00e9",
        "caf\u00e9", "\u4e2d", "\u4e2d\u6587", "\u00fc\u00f6\u00e4\u00fc"
    };
    enum { N = sizeof endings_tried / sizeof *endings_tried };
    static const char context[] = "Once upon a time, there was a little";
    double            p[N], characters[N];
    int               by_bytes = 0, by_space = 0;
    for (int i = 0; i < N; i++) {
        bool greedy;
        p[i] = log_p(context, endings_tried[i], LONGEST, &greedy);
        characters[i] = 0;
        for (const char *c = endings_tried[i]; *c; c++) characters[i] += (*c & 0xC0) != 0x80;
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            const double   bytes[2] = { (double)strlen(endings_tried[i]), (double)strlen(endings_tried[j]) };
            const bool     first = p[i] / characters[i] > p[j] / characters[j] + 1e-3, second = p[i] / characters[i] < p[j] / characters[j] - 1e-3;
            const bool     bytes_differ = first ? p[i] / bytes[0] < p[j] / bytes[1] : second && p[i] / bytes[0] > p[j] / bytes[1];
            const bool     space_differs = first ? p[i] / (characters[i] + 1) < p[j] / (characters[j] + 1)
                                                 : second && p[i] / (characters[i] + 1) > p[j] / (characters[j] + 1);
            char           row[512];
            bb_task        t;
            bb_task_result r;
            bb_task_answer answer;
            if ((!bytes_differ || by_bytes >= 3) && (!space_differs || by_space >= 3)) continue;
            snprintf(row, sizeof row, "{\"query\": \"%s\", \"choices\": [\"%s\", \"%s\"], \"gold\": 0}\n", context, endings_tried[i], endings_tried[j]);
            ck_assert_int_eq(bb_task_parse("x.jsonl", row, strlen(row), 0, &t, NULL), BB_OK);
            ck_assert_int_eq(bb_task_run(&bb_backend_cpu, &model, &model.net, &t, LONGEST, NULL, &r, &answer, NULL, NULL), BB_OK);
            ck_assert_msg(r.acc_norm == first, "%s | %s", endings_tried[i], endings_tried[j]);
            bb_task_done(&t);
            by_bytes += bytes_differ;
            by_space += space_differs;
        }
    ck_assert_msg(by_bytes > 0 && by_space > 0, "%d pairs for bytes, %d for the space", by_bytes, by_space);
}
END_TEST

/* What stands between context and continuation is the item's own, and no character of the option: by the text that was made and the score of its tokens. */
START_TEST(delimiters)
{
    static const struct {
        const char *row, *whole;
        size_t      n_context;
    } items[] = {
        { "{\"query\": \"Once upon a\", \"choices\": [\" time \", \"day\"], \"gold\": 0, \"delimiter\": \"  \"}\n", "Once upon a  time", 11 },
        { "{\"delimiter\": \"\", \"query\": \"Question: Once upon a t\", \"choices\": [\"ime\", \"day\"], \"gold\": 0}\n",
          "Question: Once upon a t\nAnswer:ime", 31 },
        { "{\"context\": \"Once upon a\", \"continuation\": \"time\", \"delimiter\": \"\\n\"}\n", "Once upon a\ntime", 11 },
        { "{\"context_options\": [\"Once upon a\", \"One\"], \"continuation\": \"time\", \"gold\": 0, \"delimiter\": \" - \"}\n", "Once upon a - time", 11 },
    };
    for (size_t k = 0; k < sizeof items / sizeof *items; k++) {
        const char    *text = items[k].whole;
        bb_task        t;
        bb_task_result r;
        bb_task_score  scores[2];
        int32_t       *ids, *context;
        size_t         n, n_context, V = model.net.n_vocab;
        double        *z = BB_NEW(LONGEST * V, double, NULL), sum = 0;
        ck_assert_int_eq(bb_task_parse("x.jsonl", items[k].row, strlen(items[k].row), 0, &t, NULL), BB_OK);
        ck_assert(t.options[0].n_context == items[k].n_context && t.options[0].n_context + t.options[0].n_continuation == strlen(text));
        ck_assert_int_eq(memcmp(t.text.data + t.options[0].context, text, strlen(text)), 0);
        ck_assert_int_eq(bb_task_run(&bb_backend_cpu, &model, &model.net, &t, LONGEST, NULL, &r, NULL, scores, NULL), BB_OK);
        ck_assert_uint_eq(scores[0].n_characters, k == 1 ? 3 : 4);
        ck_assert_int_eq(bb_tokenize(tokenizer, text, strlen(text), true, false, &ids, &n, NULL), BB_OK);
        ck_assert_int_eq(bb_tokenize(tokenizer, text, items[k].n_context, true, false, &context, &n_context, NULL), BB_OK);
        ck_assert_int_eq(memcmp(context, ids, n_context * sizeof *ids), 0);
        ref_run(&model.net, ids, (uint32_t)n, z);
        for (size_t i = n_context; i < n; i++) sum += z[(i - 1) * V + (size_t)ids[i]] - ref_log_sum_exp(z + (i - 1) * V, V);
        ck_assert_double_eq_tol(scores[0].log_p, sum, 1e-4);
        ck_assert_uint_eq(scores[0].n_tokens, n - n_context);
        bb_free(ids);
        bb_free(context);
        bb_free(z);
        bb_task_done(&t);
    }
}
END_TEST

START_TEST(of_equal_options_the_first)
{
    static const char row[] = "{\"query\": \"Once upon a\", \"choices\": [\"time\", \"time\", \"time\"], \"gold\": 1}\n";
    bb_task           t;
    bb_task_result    r;
    bb_task_answer    answer;
    ck_assert_int_eq(bb_task_parse("x.jsonl", row, sizeof row - 1, 0, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_task_run(&bb_backend_cpu, &model, &model.net, &t, LONGEST, NULL, &r, &answer, NULL, NULL), BB_OK);
    ck_assert(answer.option == 0 && !answer.right);
    ck_assert(r.acc == 0 && r.acc_norm == 0);
    bb_task_done(&t);
}
END_TEST

/* Of six items one was left out by the first and one by the second; by hand. */
START_TEST(two_networks_are_compared_item_by_item)
{
    const bb_task_answer a[6] = { { 0, true, true, 1 }, { 1, false, true, 2 }, { 2, true, false, 3 }, { UINT32_MAX, false, false, 0 },
                                  { 0, true, true, 9 }, { 3, false, false, 1 } };
    const bb_task_answer b[6] = { { 0, true, false, 2 },           { 0, true, true, 4 },  { 1, false, false, 3 }, { 0, true, true, 9 },
                                  { UINT32_MAX, false, false, 0 }, { 2, false, false, 2 } };
    bb_task_difference   d = bb_task_compare(BB_TASK_CHOICE, a, b, 6);
    const double         acc[4] = { 0, -1, 1, 0 }, norm[4] = { 1, 0, 0, 0 }, nll[4] = { -1, -2, 0, -1 };
    double               mean, error;
    ck_assert_double_eq_tol(d.changed, 0.75, 1e-15);
    mean_error(acc, 4, &mean, &error);
    ck_assert_double_eq_tol(d.acc, mean, 1e-15);
    ck_assert_double_eq_tol(d.acc_se, error, 1e-15);
    mean_error(norm, 4, &mean, &error);
    ck_assert_double_eq_tol(d.acc_norm, mean, 1e-15);
    ck_assert_double_eq_tol(d.acc_norm_se, error, 1e-15);
    mean_error(nll, 4, &mean, &error);
    ck_assert_double_eq_tol(d.gold_nll, mean, 1e-15);
    ck_assert_double_eq_tol(d.gold_nll_se, error, 1e-15);
    d = bb_task_compare(BB_TASK_SCHEMA, a, b, 6);
    ck_assert(isnan(d.acc_norm) && isnan(d.acc_norm_se) && d.changed == 0.75);
    d = bb_task_compare(BB_TASK_CHOICE, a + 3, b + 3, 1);
    ck_assert(d.changed == 0 && d.acc == 0 && d.gold_nll_se == 0);
}
END_TEST

START_TEST(names_and_limits)
{
    bb_task t;
    ck_assert_int_eq(bb_task_load("tests/data/tasks/choice.jsonl", 2, &t, NULL), BB_OK);
    ck_assert_str_eq(t.name, "choice");
    ck_assert(t.n_items == 2 && t.n_options == 5);
    bb_task_done(&t);
    ck_assert_int_eq(bb_task_load("tests/data/tasks/endings.txt", 1, &t, NULL), BB_OK);
    ck_assert(t.n_items == 1 && t.n_options == 4);
    bb_task_done(&t);
}
END_TEST

/* A window of 24 cuts contexts from the left and leaves no room for the longest answer; one of 3 leaves room for nothing. */
START_TEST(windows_cut_contexts)
{
    enum { WINDOW = 24 };
    bb_task        t;
    bb_task_result r;
    bb_task_answer answers[5];
    bb_task_score  scores[16];
    double         sum = 0;
    ck_assert_int_eq(bb_task_load(files[0].path, 0, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_task_run(&bb_backend_cpu, &model, &model.net, &t, WINDOW, NULL, &r, answers, scores, NULL), BB_OK);
    ck_assert(r.n == 4 && r.n_skipped == 1 && answers[1].option == UINT32_MAX && r.n_cut > 0 && r.n_cut <= 4);
    for (size_t k = 0; k < t.n_options; k++) {
        const bool skipped = k >= t.items[1].first && k < t.items[2].first;
        ck_assert(isnan(scores[k].log_p) == skipped && (scores[k].n_tokens == 0) == skipped);
    }
    for (size_t i = 0; i < 5; i++) {
        if (i == 1) continue;
        outcome o = expect(t.kind, &choices[i], WINDOW);
        ck_assert_uint_eq(answers[i].option, o.answer);
        sum += o.nll / 4;
    }
    ck_assert_double_eq_tol(r.gold_nll, sum, 1e-4);
    ck_assert_int_eq(bb_task_run(&bb_backend_cpu, &model, &model.net, &t, 2, NULL, &r, NULL, NULL, NULL), BB_BAD_FILE);
    bb_task_done(&t);
}
END_TEST

START_TEST(the_same_bits_for_any_number_of_threads)
{
    bb_task        t;
    bb_task_result r[2];
    int            threads = omp_get_max_threads();
    ck_assert_int_eq(bb_task_load(files[0].path, 0, &t, NULL), BB_OK);
    for (int i = 0; i < 2; i++) {
        omp_set_num_threads(1 + 2 * i);
        ck_assert_int_eq(bb_task_run(&bb_backend_cpu, &model, &model.net, &t, LONGEST, NULL, &r[i], NULL, NULL, NULL), BB_OK);
    }
    omp_set_num_threads(threads);
    ck_assert(r[0].gold_nll == r[1].gold_nll && r[0].gold_nll_se == r[1].gold_nll_se);
    bb_interrupt_raise();
    ck_assert_int_eq(bb_task_run(&bb_backend_cpu, &model, &model.net, &t, LONGEST, NULL, &r[0], NULL, NULL, NULL), BB_INTERRUPTED);
    bb_interrupt_clear();
    bb_task_done(&t);
}
END_TEST

START_TEST(memory_failures)
{
    bb_task        t;
    bb_task_result r;
    bb_status      status = BB_NOMEM;
    size_t         live = bb_mem_live_bytes();
    long           n = 0;
    for (; status != BB_OK; n++) {
        bb_mem_fail_after(n);
        status = bb_task_load(files[1].path, 1, &t, NULL);
        if (status == BB_OK) {
            status = bb_task_run(&bb_backend_cpu, &model, &model.net, &t, LONGEST, NULL, &r, NULL, NULL, NULL);
            bb_task_done(&t);
        }
        bb_mem_fail_after(-1);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ck_assert_int_gt(n, 20);
}
END_TEST

static const struct {
    const char *path, *text, *says;
} wrong[] = {
    { "a.jsonl", "", "no items" },
    { "a.jsonl", "\n \n", "no items" },
    { "a.jsonl", "{\"query\": \"a\"", "line 1 is no JSON" },
    { "a.jsonl", "[1]", "line 1: an item should have" },
    { "a.jsonl", "{}", "line 1: an item should have" },
    { "a.jsonl", "{\"query\": \"a\", \"choices\": [\"b\"], \"gold\": 0}", "list of 2 to 64" },
    { "a.jsonl", "{\"query\": \"a\", \"choices\": \"bc\", \"gold\": 0}", "list of 2 to 64" },
    { "a.jsonl", "{\"query\": \"a\", \"choices\": [\"b\", 1], \"gold\": 0}", "list of texts" },
    { "a.jsonl", "{\"query\": 5, \"choices\": [\"b\", \"c\"], \"gold\": 0}", "\"query\" should be a text" },
    { "a.jsonl", "{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 2}", "index from 0 to 1" },
    { "a.jsonl", "{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": -1}", "index from 0 to 1" },
    { "a.jsonl", "{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 0.5}", "index from 0 to 1" },
    { "a.jsonl", "{\"query\": \"a\", \"choices\": [\"b\", \"c\"]}", "index from 0 to 1" },
    { "a.jsonl", "{\"query\": \" \", \"choices\": [\"b\", \"c\"], \"gold\": 0}", "empty context" },
    { "a.jsonl", "{\"query\": \"a\", \"choices\": [\"b\", \" \\n\"], \"gold\": 0}", "empty continuation" },
    { "a.jsonl", "{\"context\": \"a\", \"continuation\": \"b\"}\n{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 0}", "line 2: a choice item" },
    { "a.jsonl", "{\"context\": null, \"continuation\": \"b\"}", "should be texts" },
    { "a.jsonl", "{\"context\": \"a\", \"continuation\": \"b\", \"delimiter\": 1}", "\"delimiter\" should be a text" },
    { "a.jsonl", "{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 0, \"delimiter\": null}", "\"delimiter\" should be a text" },
    { "a.jsonl", "BZh91AY", "bunzip2" },
    { "a.txt", "a\n0\nb\nc\nd\n", "5 lines" },
    { "a.txt", "a\n4\nb\nc\nd\ne\n", "line 2: the gold index" },
    { "a.txt", "a\n\nb\nc\nd\ne\n", "line 2: the gold index" },
    { "a.txt", "a\n0\nb\n\nd\ne\n", "empty continuation" },
    { "a.txt", "", "no items" },
};

START_TEST(wrong_files)
{
    bb_task t;
    bb_err  err = BB_ERR_INIT;
    size_t  live = bb_mem_live_bytes();
    ck_assert_int_eq(bb_task_parse(wrong[_i].path, wrong[_i].text, strlen(wrong[_i].text), 0, &t, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, wrong[_i].says) != NULL, "'%s' does not say '%s'", err.msg, wrong[_i].says);
    ck_assert_uint_eq(bb_mem_live_bytes(), live);
}
END_TEST

/* No truncation or single changed byte of a good file does harm. */
START_TEST(damaged_files)
{
    static const char good[] =
        "{\"query\": \"a b\", \"choices\": [\"c\", \"d\\u00e9\"], \"gold\": 1}\n{\"query\": \"Question: q\", \"choices\": [\"c\", \"d\"], \"gold\": 0}\n";
    char   bytes[sizeof good];
    size_t n = sizeof good - 1, bad = 0;
    for (size_t i = 0; i < n * 9; i++) {
        bb_task   t;
        size_t    size = i < n ? i : n;
        bb_status status;
        memcpy(bytes, good, sizeof good);
        if (i >= n) bytes[i % n] = (char)(bytes[i % n] ^ (1 << (i / n - 1)));
        status = bb_task_parse("x.jsonl", bytes, size, 0, &t, NULL);
        ck_assert(status == BB_OK || status == BB_BAD_FILE);
        bad += status != BB_OK;
        if (status == BB_OK) bb_task_done(&t);
    }
    ck_assert(bad > n);
}
END_TEST

/* Rows with the fields, in the order, that published conversions of these sets have: lists first or last, categories, few or many choices. */
START_TEST(rows_of_published_sets)
{
    static const struct {
        const char  *path;
        bb_task_kind kind;
        size_t       n, gold;
    } sets[] = {
        { "arc", BB_TASK_CHOICE, 3, 2 },    { "boolq", BB_TASK_CHOICE, 2, 1 }, { "copa", BB_TASK_CHOICE, 2, 1 },
        { "lambada", BB_TASK_CLOZE, 2, 0 }, { "piqa", BB_TASK_CHOICE, 2, 1 },  { "winogrande", BB_TASK_SCHEMA, 2, 1 },
    };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        char    path[512];
        bb_task t;
        bb_err  err = BB_ERR_INIT;
        snprintf(path, sizeof path, "tests/data/tasks/like-%s.jsonl", sets[i].path);
        ck_assert_msg(bb_task_load(path, 0, &t, &err) == BB_OK, "%s", err.msg);
        ck_assert_int_eq(t.kind, sets[i].kind);
        ck_assert_uint_eq(t.n_items, sets[i].n);
        ck_assert_uint_eq(t.items[0].gold, sets[i].gold);
        bb_task_done(&t);
    }
}
END_TEST

START_TEST(another_backend_gives_the_same)
{
    guarded        g;
    bb_task        t;
    bb_task_result r[2];
    guarded_make(&g);
    ck_assert_int_eq(bb_task_load(files[0].path, 0, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_task_run(&bb_backend_cpu, &model, &model.net, &t, LONGEST, NULL, &r[0], NULL, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_task_run(&g.backend, &model, &model.net, &t, LONGEST, NULL, &r[1], NULL, NULL, NULL), BB_OK);
    ck_assert(r[0].gold_nll == r[1].gold_nll && r[0].acc == r[1].acc && r[0].acc_norm == r[1].acc_norm);
    ck_assert_uint_gt(g.n_weights, 0);
    bb_task_done(&t);
    guarded_done(&g);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tasks");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_unchecked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, tasks_by_definition, 0, 4);
    tcase_add_test(t, normalised_by_characters);
    tcase_add_test(t, delimiters);
    tcase_add_test(t, of_equal_options_the_first);
    tcase_add_test(t, two_networks_are_compared_item_by_item);
    tcase_add_test(t, names_and_limits);
    tcase_add_test(t, windows_cut_contexts);
    tcase_add_test(t, the_same_bits_for_any_number_of_threads);
    tcase_add_test(t, another_backend_gives_the_same);
    tcase_add_test(t, memory_failures);
    tcase_add_loop_test(t, wrong_files, 0, (int)(sizeof wrong / sizeof *wrong));
    tcase_add_test(t, damaged_files);
    tcase_add_test(t, rows_of_published_sets);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
