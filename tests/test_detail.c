/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_detail.c: scores by place and by document: spans against sums by hand, documents against prefixes of the text, the bootstrap against what is known of its distribution.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "eval/detail.h"
#include "tests/support/support.h"

static bb_model stories; /* opened by main */

static void close_to(double is, double want, double allowed) { ck_assert_msg(fabs(is - want) <= allowed, "%.9g, wanted %.9g", is, want); }

static bb_scores random_scores(uint32_t windows, uint32_t scored, bool with_reference)
{
    bb_scores s;
    bb_rng    r;
    bb_rng_init(&r, 3, "test");
    ck_assert_int_eq(bb_scores_create(windows, scored, with_reference, &s, NULL), BB_OK);
    for (size_t i = 0; i < (size_t)windows * scored; i++) {
        s.nll[i] = 1 + bb_rng_uniform(&r);
        if (!with_reference) continue;
        s.nll_ref[i] = 1 + bb_rng_uniform(&r);
        s.kl[i] = bb_rng_uniform(&r);
        s.same[i] = bb_rng_below(&r, 2) == 1;
    }
    return s;
}

/* ---- by place ---- */

START_TEST(spans_are_sums_of_their_positions)
{
    static const uint32_t edges[][9] = { { 0, 1, 2, 3, 5, 6, 7, 8, 10 }, { 0, 1, 2, 3 }, { 0, 8, 16, 24, 32, 40, 48, 56, 64 } }; /* floor(i * scored / spans) */
    static const uint32_t scored[] = { 10, 3, 64 };
    bb_scores             s = random_scores(5, scored[_i], true);
    bb_windows            w = { .n = 5, .first = 7, .n_scored = scored[_i], .ctx = scored[_i] + 8 };
    bb_place_span         span[BB_PLACE_SPANS];
    uint32_t              n = bb_scores_by_place(&s, &w, span);
    ck_assert_uint_eq(n, scored[_i] < 8 ? scored[_i] : 8);
    for (uint32_t i = 0; i < n; i++) {
        double nll = 0, ref = 0, kl = 0, squares = 0, same = 0, count = 0;
        ck_assert_uint_eq(span[i].first, 7 + edges[_i][i]);
        ck_assert_uint_eq(span[i].last, 6 + edges[_i][i + 1]);
        for (uint32_t p = edges[_i][i]; p < edges[_i][i + 1]; p++) /* position by position */
            for (uint32_t k = 0; k < 5; k++, count++) {
                size_t at = (size_t)k * scored[_i] + p;
                nll += s.nll[at];
                ref += s.nll_ref[at];
                kl += s.kl[at];
                squares += s.kl[at] * s.kl[at];
                same += s.same[at];
            }
        ck_assert_uint_eq(span[i].n_tokens, (uint64_t)count);
        close_to(span[i].ppl, exp(nll / count), 1e-12);
        close_to(span[i].ppl_ref, exp(ref / count), 1e-12);
        close_to(span[i].kl, kl / count, 1e-14);
        close_to(span[i].kl_se, sqrt((squares / count - kl / count * kl / count) / (count - 1)), 1e-12);
        close_to(span[i].top1, same / count, 1e-14);
    }
    bb_scores_done(&s);
    s = random_scores(5, scored[_i], false);
    ck_assert_uint_eq(bb_scores_by_place(&s, &w, span), n);
    ck_assert(isnan(span[0].kl) && isnan(span[0].ppl_ref) && isnan(span[0].top1) && span[0].ppl > 1);
    bb_scores_done(&s);
}
END_TEST

/* ---- documents ---- */

static bb_tokens tokens_of(const char *text)
{
    bb_tokens t;
    bb_err    err = BB_ERR_INIT;
    ck_assert_msg(bb_tokens_from_text(&stories, "text", false, text, strlen(text), &t, &err) == BB_OK, "%s", err.msg);
    return t;
}

/* Bytes at which documents begin, by hand, and what says so. */
static const struct {
    const char *text, *mark, *rule;
    uint32_t    count;
    const char *begin[4]; /* the beginning of each document but the first */
} texts[] = {
    { " = One = \n \n a b c \n = = Part = = \n d \n = Two = \n e \n", NULL, "title lines", 2, { " = Two" } },
    { "\n = One = \nx\n= Two =\ny\n= Three =\nz", NULL, "title lines", 3, { "= Two", "= Three" } },
    { "x = 1\ny == 2\n=\n= =\n", NULL, "none", 1, { NULL } },
    { "a\n\nb\n<|endoftext|>c\n\nd", NULL, "separators", 2, { "<|endoftext|>c" } },
    { "<|im_start|>system\nq\n<|im_start|>user\nr\n<|im_start|>system\ns\n", NULL, "separators", 2, { "<|im_start|>system\ns" } },
    { "one day\nthey went\n\n\nhome and\n \t\nslept.\n\n", NULL, "empty lines", 3, { "home", "slept" } },
    { "one\ntwo\nthree", NULL, "none", 1, { NULL } },
    { "one\n\n# two\n\nx # three\n# four", "# ", "marked lines", 3, { "# two", "# four" } },
    { "one\n\ntwo", "# ", "none", 1, { NULL } },
};

START_TEST(documents_begin_where_the_text_says)
{
    bb_tokenizer *k;
    bb_tokens     t = tokens_of(texts[_i].text);
    bb_documents  d;
    bb_err        err = BB_ERR_INIT;
    size_t        begin[4], size = 0;
    char         *whole, *part;
    ck_assert_int_eq(bb_tokenizer_create(&stories.source, &k, NULL), BB_OK);
    ck_assert_msg(bb_documents_find(&stories, &t, t.n, texts[_i].mark, &d, &err) == BB_OK, "%s", err.msg);
    ck_assert_str_eq(d.rule, texts[_i].rule);
    ck_assert_uint_eq(d.count, texts[_i].count);
    ck_assert_int_eq(bb_detokenize(k, t.ids, t.n, &whole, &size, NULL), BB_OK);
    for (uint32_t i = 0; i + 1 < d.count; i++) begin[i] = (size_t)(strstr(whole, texts[_i].begin[i]) - whole);
    for (size_t i = 0; i < t.n; i++) { /* a token's document: how many begin in or before the text of all tokens before it, or with it */
        uint32_t want = 0;
        ck_assert_int_eq(bb_detokenize(k, t.ids, i, &part, &size, NULL), BB_OK);
        for (uint32_t j = 0; j + 1 < d.count; j++) want += begin[j] <= size;
        ck_assert_msg(d.of[i] == want, "token %zu behind '%s': %u, wanted %u", i, part, d.of[i], want);
        bb_free(part);
    }
    bb_free(whole);
    bb_documents_done(&d);
    bb_tokens_done(&t);
    bb_tokenizer_destroy(k);
}
END_TEST

START_TEST(blocks_are_documents_of_the_predicted_tokens)
{
    int32_t      ids[40] = { 0 };
    uint32_t     of[40], blocks[40];
    bb_tokens    t = { .ids = ids, .n = 40 };
    bb_documents d = { .of = of, .n = 40, .count = 4 };
    bb_windows   w;
    for (uint32_t i = 0; i < 40; i++) of[i] = i / 11;
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_GGUF, 8, -1, 2, true, &w, NULL),
                     BB_OK); /* windows 0 and 2 of 5: tokens 0 and 16 on, 5 to 7 of each predicted */
    ck_assert(bb_documents_blocks(&d, &t, &w, true, blocks));
    ck_assert_int_eq(memcmp(blocks, (uint32_t[]) { 0, 0, 0, 1, 2, 2 }, 24), 0);
    bb_windows_done(&w);
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_HF, 5, -1, 2, false, &w, NULL), BB_OK); /* all in document 0: windows instead */
    ck_assert(!bb_documents_blocks(&d, &t, &w, false, blocks));
    ck_assert_int_eq(memcmp(blocks, (uint32_t[]) { 0, 0, 0, 0, 1, 1, 1, 1 }, 32), 0);
    bb_windows_done(&w);
}
END_TEST

/* ---- bootstrap ---- */

/* Two blocks of equal sizes: the mean of a sample is that of one, of the other, or of both, with chances 1/4, 1/4, 1/2. */
START_TEST(two_blocks_have_three_outcomes)
{
    double       nll[6] = { 1, 1, 1, 3, 3, 3 }, kl[6] = { 0.2, 0.2, 0.2, 0.6, 0.6, 0.6 }, ref[6] = { 1, 1, 1, 2, 2, 2 };
    uint32_t     blocks[6] = { 4, 4, 4, 9, 9, 9 };
    bb_scores    s = { .n_windows = 2, .n_scored = 3, .nll = nll, .kl = kl, .nll_ref = ref, .same = (unsigned char[6]) { 0 } };
    bb_bootstrap e, again;
    ck_assert_int_eq(bb_scores_bootstrap(&s, blocks, 1, &e, NULL), BB_OK);
    ck_assert_uint_eq(e.n_blocks, 2);
    close_to(e.kl_se / (0.4 / sqrt(8)), 1, 0.05); /* a thousand samples: the deviation is known to 2 % */
    close_to(e.nll_se / (2 / sqrt(8)), 1, 0.05);
    close_to(e.ln_ratio_se / (1 / sqrt(8)), 1, 0.05);
    close_to(e.kl_low, 0.2, 1e-12);
    close_to(e.kl_high, 0.6, 1e-12);
    ck_assert_int_eq(bb_scores_bootstrap(&s, blocks, 1, &again, NULL), BB_OK);
    ck_assert_int_eq(memcmp(&e, &again, sizeof e), 0);
    for (int i = 0; i < 6; i++) blocks[i] = 0;
    ck_assert_int_eq(bb_scores_bootstrap(&s, blocks, 1, &e, NULL), BB_OK);
    ck_assert(e.n_blocks == 1 && isnan(e.kl_se) && isnan(e.nll_se) && isnan(e.kl_low));
}
END_TEST

/* Many blocks of unequal sizes whose tokens go together: the error of a ratio of sums to first order (Cochran, Sampling Techniques, 6.3), which is far above that of independent tokens. */
START_TEST(many_blocks_have_the_error_of_a_ratio)
{
    enum { BLOCKS = 200, MOST = 30 };
    double       sum[BLOCKS] = { 0 }, size[BLOCKS], mean = 0, tokens = 0, squares = 0;
    uint32_t     n = 0;
    bb_scores    s = random_scores(BLOCKS, MOST, true); /* more room than is used */
    uint32_t    *blocks = BB_NEW(BLOCKS * MOST, uint32_t, NULL);
    bb_bootstrap e;
    bb_rng       r;
    bb_rng_init(&r, 8, "sizes");
    for (uint32_t b = 0; b < BLOCKS; b++) {
        double level = bb_rng_uniform(&r);
        size[b] = (double)(1 + bb_rng_below(&r, MOST));
        for (uint32_t i = 0; i < size[b]; i++, n++) {
            blocks[n] = b;
            s.kl[n] = level;
            sum[b] += level;
        }
        mean += sum[b];
        tokens += size[b];
    }
    s.n_windows = n;
    s.n_scored = 1;
    mean /= tokens;
    for (uint32_t b = 0; b < BLOCKS; b++) squares += (sum[b] - mean * size[b]) * (sum[b] - mean * size[b]);
    ck_assert_int_eq(bb_scores_bootstrap(&s, blocks, 1, &e, NULL), BB_OK);
    ck_assert_uint_eq(e.n_blocks, BLOCKS);
    close_to(e.kl_se / (sqrt(squares) / tokens), 1, 0.08);
    close_to((e.kl_high - e.kl_low) / (2 * 1.96 * e.kl_se), 1, 0.08);
    close_to((e.kl_high + e.kl_low) / 2, mean, 0.2 * e.kl_se);
    bb_scores_done(&s);
    s = random_scores(BLOCKS, MOST, false);
    s.n_windows = n;
    s.n_scored = 1;
    ck_assert_int_eq(bb_scores_bootstrap(&s, blocks, 1, &e, NULL), BB_OK);
    ck_assert(isnan(e.kl_se) && isnan(e.ln_ratio_se) && e.nll_se > 0);
    bb_scores_done(&s);
    bb_free(blocks);
}
END_TEST

START_TEST(running_out_of_memory_leaves_nothing)
{
    bb_tokens t = tokens_of(texts[5].text);
    bb_scores s = random_scores(4, 3, true);
    uint32_t  blocks[12] = { 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2 };
    size_t    live = bb_mem_live_bytes();
    long      n = 0;
    for (bb_status status = BB_NOMEM; status != BB_OK; n++) {
        bb_documents d;
        bb_bootstrap e;
        bb_mem_fail_after(n);
        status = bb_documents_find(&stories, &t, t.n, NULL, &d, NULL);
        if (status == BB_OK) status = bb_scores_bootstrap(&s, blocks, 1, &e, NULL);
        bb_mem_fail_after(-1);
        bb_documents_done(&d);
        ck_assert_msg(status == BB_OK || status == BB_NOMEM, "%ld: %d", n, status);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ck_assert_int_gt(n, 10);
    bb_scores_done(&s);
    bb_tokens_done(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("detail");
    TCase *t = tcase_create("core");
    bb_err err = BB_ERR_INIT;
    int    rc;
    if (bb_model_open("tests/data/stories260K.gguf", &stories, &err) != BB_OK) return EXIT_FAILURE;
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, spans_are_sums_of_their_positions, 0, 3);
    tcase_add_loop_test(t, documents_begin_where_the_text_says, 0, (int)(sizeof texts / sizeof *texts));
    tcase_add_test(t, blocks_are_documents_of_the_predicted_tokens);
    tcase_add_test(t, two_blocks_have_three_outcomes);
    tcase_add_test(t, many_blocks_have_the_error_of_a_ratio);
    tcase_add_test(t, running_out_of_memory_leaves_nothing);
    suite_add_tcase(s, t);
    rc = bb_test_run(s);
    bb_model_close(&stories);
    return rc;
}
