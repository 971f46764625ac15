/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_qat.c: low-bit training from the command line: a file comes nearer to its model at the same bytes, whatever the threads and after an interruption;
 * the step of finalise; what is refused. */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/ladder.h"
#include "engine/qat.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define TRAIN " --tokens 0.012 --ctx 32 --batch 4 --held-windows 6 --rate 0.04"

static char full[512], small[512], one[512], two[512], ids[512], other[512], said[16384];

static void setup(void)
{
    const struct {
        char       *at;
        const char *name;
    } names[] = { { full, "full.gguf" }, { small, "small.gguf" }, { one, "one.gguf" }, { two, "two.gguf" }, { ids, "text.u32" }, { other, "other.u32" } };
    tiny_spec s = tiny_default("llama");
    bb_err    err = BB_ERR_INIT;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) snprintf(names[i].at, 512, "%s", bb_test_path(names[i].name));
    s.n_embd = 64;
    s.head_dim = 16;
    for (int i = 0; i < TINY_MAX_LAYERS; i++) s.n_ff[i] = 128;
    tiny_write(&s, full);
    bb_test_write_ids(ids, 1, 16, 6000);
    bb_test_write_ids(other, 0, 40, 3000);
    ck_assert_msg(bb_test_command(NULL, &err, "quantize %s --format Q2_0 --embd-format Q4_0 --method rtn --out %s", full, small) == BB_OK, "%s", err.msg);
}

static char *train(bb_status expected, const char *options, const char *out)
{
    bb_err err = BB_ERR_INIT;
    char  *csv = NULL;
    ck_assert_msg(bb_test_command(&csv, &err, "qat %s --reference %s --text %s --other %s --out %s" TRAIN "%s", small, full, ids, other, out, options) ==
                      expected,
                  "%s", err.msg);
    snprintf(said, sizeof said, "%s", err.msg);
    return csv;
}

static double kl_of(const char *path, const char *text)
{
    bb_err err = BB_ERR_INIT;
    char  *json = NULL;
    ck_assert_msg(bb_test_command(&json, &err, "eval %s --reference %s --text %s --ctx 32 --json", path, full, text) == BB_OK, "%s", err.msg);
    const char *at = strstr(json, "\"kl_nats\":");
    ck_assert_msg(at != NULL, "%s", json);
    const double kl = strtod(at + 10, NULL);
    bb_free(json);
    return kl;
}

/* Nearer on both texts, at the size of the file that went in; rows of numbers say how it went. */
START_TEST(a_file_comes_nearer)
{
    static const struct {
        const char *options;
        double      share; /* of the KL that may remain: half of a mixed loss is not what is measured */
    } ways[] = { { "", 0.9 }, { " --loss mix --estimator differentiable --schedule wsd", 0.97 } };
    char    *csv = train(BB_OK, ways[_i].options, one);
    uint64_t before, after;
    ck_assert_int_eq(strncmp(csv, "step,tokens,kl_nats,kl_other_nats,better,seconds\n0,0,", 52), 0);
    ck_assert_int_eq(bb_file_size(small, &before, NULL), BB_OK);
    ck_assert_int_eq(bb_file_size(one, &after, NULL), BB_OK);
    ck_assert_uint_eq(before, after);
    const double was = kl_of(small, ids), is = kl_of(one, ids), other_was = kl_of(small, other), other_is = kl_of(one, other);
    ck_assert_msg(is < ways[_i].share * was && other_is < other_was, "%g -> %g, other text %g -> %g", was, is, other_was, other_is);
    bb_free(csv);
}
END_TEST

START_TEST(threads_and_interruptions_change_nothing)
{
    char state[600];
    snprintf(state, sizeof state, "%s.state", two);
    bb_free(train(BB_OK, "", one));
    bb_interrupt_at(bb_now_s() + 0.15); /* somewhere in the middle, or before anything */
    bb_err    err = BB_ERR_INIT;
    bb_status status = bb_test_command(NULL, &err, "qat %s --reference %s --text %s --other %s --out %s" TRAIN, small, full, ids, other, two);
    bb_interrupt_at(0);
    bb_interrupt_clear();
    ck_assert(status == BB_INTERRUPTED || status == BB_OK);
    if (status == BB_INTERRUPTED) ck_assert(!bb_file_exists(two));
    if (bb_file_exists(state)) { /* of other options: refused, and still there */
        bb_free(train(BB_BAD_FILE, " --seed 2", two));
        ck_assert(bb_file_exists(state));
    }
    bb_free(train(BB_OK, "", two));
    ck_assert(bb_test_are_same(one, two) && !bb_file_exists(state));
    char line[8192];
    snprintf(line, sizeof line, "qat %s --reference %s --text %s --other %s --out %s" TRAIN " --threads 1 --force", small, full, ids, other, two);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
    ck_assert(bb_test_are_same(one, two));
}
END_TEST

/* Where floats do not fit, the optimizer's state is of 8 bits: other bytes, which threads do not change, and nearer to the model too. Less is refused. */
START_TEST(little_memory_has_a_coarse_state)
{
    char   line[8192], command[6000];
    bb_csv t;
    double best = 1e9, start = 0;
    snprintf(command, sizeof command, "qat %s --reference %s --text %s --other %s" TRAIN, small, full, ids, other);
    snprintf(line, sizeof line, "%s --out %s --max-ram 1MiB", command, two);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 3);
    ck_assert_ptr_nonnull(strstr(said, "training needs "));
    const long long least = atoll(strstr(said, "training needs ") + strlen("training needs "));
    snprintf(line, sizeof line, "%s --out %s --max-ram %lld", command, two, least - 1);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 3);
    bb_free(train(BB_OK, "", one));
    snprintf(line, sizeof line, "%s --out %s --max-ram %lld --threads 1 --force", command, two, least);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
    ck_assert_msg(strstr(said, "the optimizer's state is of 8 bits") != NULL, "%s", said);
    ck_assert(!bb_test_are_same(one, two));
    snprintf(line, sizeof line, " --max-ram %lld", least);
    char *csv = train(BB_OK, line, one);
    ck_assert(bb_test_are_same(one, two));
    bb_test_write(two, csv, strlen(csv));
    ck_assert_int_eq(bb_csv_read(two, &t, NULL), BB_OK);
    for (size_t i = 0; i < t.n_rows; i++) {
        double kl;
        ck_assert_int_eq(bb_csv_double(&t, i, 2, &kl, NULL), BB_OK);
        if (i == 0) start = kl;
        if (kl < best) best = kl;
    }
    ck_assert_msg(best < 0.9 * start, "%g -> %g", start, best);
    bb_csv_done(&t);
    bb_free(csv);
}
END_TEST

/* As of the other commands, 0 is no limit: nothing is coarse for it. */
START_TEST(no_limit_is_not_the_least)
{
    bb_free(train(BB_OK, "", one));
    remove(two);
    bb_free(train(BB_OK, " --max-ram 0", two));
    ck_assert(bb_test_are_same(one, two));
}
END_TEST

/* Files of a run that hold what the model wrote. */
static int texts_of_self(const char *dir)
{
    glob_t g = { 0 };
    char   pattern[600];
    snprintf(pattern, sizeof pattern, "%s/calib-self-*", dir);
    const int n = glob(pattern, 0, NULL, &g) == 0 ? (int)g.gl_pathc : 0;
    globfree(&g);
    return n;
}

/* The step keeps what helps: its row in finalise.csv is below that of the step before it; verify finds the record; a plan of the run is trained by the command. */
START_TEST(a_run_has_the_step)
{
    char   line[8192], dir[512], path[700];
    bb_csv t;
    double before, after;
    snprintf(dir, sizeof dir, "%s", bb_test_path(_i ? "run-text" : "run"));
    snprintf(
        line, sizeof line,
        "run %s --target-bpw 5 --calib %s --eval %s --formats Q2_0,Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --prune none --calib-windows 16 --confirm-windows 20 "
        "--refine-windows 10 --measure-windows 4 --search uniform --finalise-steps rebuild%s --qat-tokens 0.006 --qat-batch 4 %s%s --ctx 32 --sweeps 1 "
        "--out %s -q",
        full, ids, other, _i ? "" : ",qat", _i ? "--qat-text " : "", _i ? other : "", dir);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    if (_i) { /* added afterwards */
        snprintf(line, sizeof line, "finalise %s --qat -q", dir);
        ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
        snprintf(line, sizeof line, "evaluate %s -q", dir);
        ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    }
    snprintf(path, sizeof path, "%s/finalise.csv", dir);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    ck_assert_str_eq(bb_csv_text(&t, 1, 2), "rebuild");
    ck_assert_str_eq(bb_csv_text(&t, 2, 2), "qat");
    ck_assert_int_eq(bb_csv_double(&t, 1, 3, &before, NULL), BB_OK);
    ck_assert_int_eq(bb_csv_double(&t, 2, 3, &after, NULL), BB_OK);
    ck_assert_msg(_i ? after <= before : after < before, "%g -> %g", before, after); /* trained on another text, it may come to nothing */
    ck_assert_int_eq(texts_of_self(dir), _i ? 0 : 2);                                /* by default one to train on, and another that decides */
    snprintf(line, sizeof line, "verify %s -q", dir);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    snprintf(line, sizeof line, "qat %s --plan %s --tokens 0.004 --batch 4 --held-windows 4 -q", dir, bb_csv_text(&t, 1, 0));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    snprintf(path, sizeof path, "%s/models/%s-qat.gguf", dir, bb_csv_text(&t, 1, 0));
    ck_assert(bb_file_exists(path));
    if (!_i) { /* on the calibration text and what the model writes, at the rates of few tokens and 5 bits */
        snprintf(line, sizeof line, "qat %s --plan %s --tokens 0.004 --batch 4 --held-windows 4 --text %s,self --rate 0.01 --scale-rate 0.002 --out %s -q", dir,
                 bb_csv_text(&t, 1, 0), ids, bb_test_path("said.gguf"));
        ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
        bb_test_same(path, bb_test_path("said.gguf"));
    }
    bb_csv_done(&t);
}
END_TEST

/* The rates of a run's step are those of the plan's bits, not of its source's. */
START_TEST(a_run_trains_at_the_rates_of_its_plan)
{
    char line[2048];
    snprintf(line, sizeof line,
             "run %s --target-size 43000 --calib %s --formats Q2_0 --embd-formats Q4_0 --prune none --calib-windows 8 --confirm-windows 8 --refine-windows 4 "
             "--measure-windows 2 --search separable --finalise-steps qat --qat-text %s --qat-tokens 0.001 --qat-batch 4 --ctx 32 --sweeps 1 --out %s",
             full, ids, other, bb_test_path("run-low"));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_msg(strstr(said, "rates of training: 0.03 of weights, 0.005 of scales; 2."), "%s", said);
}
END_TEST

/* What is trained on by default is part of the key: neither the calibration text alone, as it was once, nor what the model writes alone. */
START_TEST(the_key_says_what_is_trained_on)
{
    char          qat[] = "qat", calib[] = "calib.txt", self[] = "self", none[] = "", kl[] = "kl", straight[] = "straight", cosine[] = "cosine";
    bb_run_config c = { .finalise_steps = qat, .calib = calib, .qat_text = none, .qat_loss = kl, .qat_estimator = straight, .qat_schedule = cosine };
    char         *both = bb_ladder_settings(&c, NULL), *again = bb_ladder_settings(&c, NULL);
    c.qat_text = self;
    char *alone = bb_ladder_settings(&c, NULL);
    c.qat_text = none;
    c.calib = self; /* has it already */
    char *calibration = bb_ladder_settings(&c, NULL);
    ck_assert_str_eq(both, again);
    ck_assert(strcmp(both, alone) != 0 && strcmp(both, calibration) != 0 && strcmp(alone, calibration) != 0);
    ck_assert(bb_qat_adds_self("calib.txt") && bb_qat_adds_self("mixture") && !bb_qat_adds_self("calib.txt,self") && !bb_qat_adds_self("self"));
    char *const all[] = { both, again, alone, calibration };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bb_free(all[i]);
}
END_TEST

static double rate_of(double rate, double tokens, int64_t batch, double bits)
{
    return bb_qat_rate(&(bb_qat) { .rate = rate, .tokens = tokens, .batch = batch }, bits);
}
static double scale_rate_of(double rate, int64_t batch, double bits) { return bb_qat_scale_rate(&(bb_qat) { .scale_rate = rate, .batch = batch }, bits); }

/* Of many tokens the square root: what wanders further forgets more. */
START_TEST(the_rate_falls_with_the_tokens)
{
    static const double low = 2.99, fine = 3;
    ck_assert_double_eq_tol(rate_of(0, 0.01, 4, low), 0.03, 1e-12);
    ck_assert_double_eq_tol(rate_of(0, 0.25, 4, low), 0.03, 1e-12);
    ck_assert_double_eq_tol(rate_of(0, 1, 4, low), 0.015, 1e-12);
    ck_assert_double_eq_tol(rate_of(0, 4, 4, low), 0.0075, 1e-12);
    ck_assert_double_eq_tol(rate_of(0.02, 4, 1, low), 0.02, 1e-12);
    ck_assert_double_eq_tol(rate_of(0, 0.01, 4, fine), 0.01, 1e-12);
    ck_assert_double_eq_tol(rate_of(0, 1, 4, fine), 0.01, 1e-12);
    ck_assert_double_eq_tol(rate_of(0, 4, 4, fine), 0.0075, 1e-12);
    ck_assert_double_eq_tol(rate_of(0.02, 4, 1, fine), 0.02, 1e-12);
    ck_assert_double_eq_tol(scale_rate_of(0, 4, low), 0.005, 1e-12);
    ck_assert_double_eq_tol(scale_rate_of(0, 4, fine), 0.002, 1e-12);
    ck_assert_double_eq_tol(scale_rate_of(0.004, 1, fine), 0.004, 1e-12);
}
END_TEST

/* And of the windows of a step: n noisy steps go as far as the square root of n. */
START_TEST(the_rate_rises_with_the_batch)
{
    static const double low = 2, fine = 4;
    ck_assert_double_eq_tol(rate_of(0, 0.1, 1, low), 0.015, 1e-12);
    ck_assert_double_eq_tol(rate_of(0, 0.1, 16, low), 0.06, 1e-12);
    ck_assert_double_eq_tol(rate_of(0, 4, 16, low), 0.015, 1e-12);
    ck_assert_double_eq_tol(rate_of(0, 0.1, 1, fine), 0.005, 1e-12);
    ck_assert_double_eq_tol(scale_rate_of(0, 16, low), 0.01, 1e-12);
    ck_assert_double_eq_tol(scale_rate_of(0, 1, fine), 0.001, 1e-12);
}
END_TEST

/* Four rows of 32 in Q4_0 (4.5 bits) and an embedding as large in F16, of a block and a head that are not there nothing; the options take the rates of that.
 * A block and a head more count too. */
START_TEST(the_rates_are_those_of_the_bits)
{
    bb_block blocks[2] = { { .n_ff = 4 } }, *block = &blocks[0];
    bb_net   net = { .n_layer = 1, .blocks = blocks };
    block->w[BB_PART_UP] = (bb_matrix) { .rows = 4, .cols = 32, .type = BB_Q4_0 };
    ck_assert_double_eq_tol(bb_qat_bits(&net), 4.5, 1e-12);
    net.embd = (bb_matrix) { .rows = 4, .cols = 32, .type = BB_F16 };
    ck_assert_double_eq_tol(bb_qat_bits(&net), (4.5 + 16) / 2, 1e-12);
    const bb_qat    q = { .tokens = 0.1, .loss = "kl", .estimator = "straight", .schedule = "cosine", .batch = 4 };
    bb_tune_options o = bb_qat_options(&q, &net, 32);
    ck_assert(fabs((double)o.weights - 0.01) < 1e-9 && fabs((double)o.fields - 0.002) < 1e-9 && fabs((double)o.norms - 0.001) < 1e-9);
    net.embd.type = block->w[BB_PART_UP].type = BB_Q2_0;
    o = bb_qat_options(&q, &net, 32);
    ck_assert(fabs((double)o.weights - 0.03) < 1e-9 && fabs((double)o.fields - 0.005) < 1e-9 && fabs((double)o.norms - 0.0025) < 1e-9);
    /* The chosen rates are tried first, given ones are used. */
    bb_qat given = q;
    ck_assert(o.trial > 0 && o.trial < 0.1);
    given.rate = 0.01;
    ck_assert(bb_qat_options(&given, &net, 32).trial == 0);
    given.rate = 0, given.scale_rate = 0.001;
    ck_assert(bb_qat_options(&given, &net, 32).trial == 0);
    const double low = bb_qat_bits(&net);
    net.n_layer = 2;
    blocks[1].w[BB_PART_TOKEN_OUT] = (bb_matrix) { .rows = 8, .cols = 32, .type = BB_F16 };
    ck_assert_double_eq_tol(bb_qat_bits(&net), (low + 16) / 2, 1e-12);
    net.head = (bb_matrix) { .rows = 16, .cols = 32, .type = BB_F32 };
    ck_assert_double_eq_tol(bb_qat_bits(&net), (low + 16 + 2 * 32) / 4, 1e-12);
}
END_TEST

static const struct {
    const char *arguments;
    int         code;
    const char *sentence;
} wrong[] = {
    { "qat", 2, "qat needs a compressed file" },
    { "qat SMALL --out ONE", 2, "--reference FULL.gguf" },
    { "qat SMALL --reference FULL", 2, "--out FILE" },
    { "qat SMALL --reference FULL --out ONE --plan 12", 2, "or a run directory with --plan HASH" },
    { "qat SMALL --reference FULL --out SMALL", 2, "the model" },
    { "qat SMALL --reference FULL --out IDS --text IDS --force", 2, "is a text of --text itself" },
    { "qat SMALL --reference FULL --out IDS --other IDS --force", 2, "is a text of --other itself" },
    { "qat SMALL --reference FULL --out ONE --max-ram 1MiB --text IDS --other IDS", 3, "--max-ram 1.00 MiB is not enough: training needs" },
    { "qat SMALL --reference FULL --out ONE --text absent.txt --other IDS", 5, "absent.txt" },
    { "qat SMALL --reference FULL --out ONE --text IDS --other IDS --ctx 2048", 5, "at least 4 are needed" },
    { "qat SMALL --reference FULL --out ONE --loss mse", 2, "kl" },
    { "qat SMALL --reference FULL --out ONE --tokens 0", 2, "--tokens: '0'" },
    { "run FULL --target-size 9KiB --finalise-steps qat --qat-tokens 0", 2, "--qat-tokens: '0'" },
};

START_TEST(mistakes_have_a_sentence)
{
    char        line[8192] = "";
    const char *at = wrong[_i].arguments;
    while (*at) {
        const struct {
            const char *word, *path;
        } words[] = { { "SMALL", small }, { "FULL", full }, { "ONE", one }, { "IDS", ids } };
        size_t n = strlen(line), k = 0;
        while (k < 4 && strncmp(at, words[k].word, strlen(words[k].word)) != 0) k++;
        const bool is_file = strncmp(at, "FULL.", 5) != 0 && k < 4;
        snprintf(line + n, sizeof line - n, "%.*s", is_file ? 512 : 1, is_file ? words[k].path : at);
        at += is_file ? strlen(words[k].word) : 1;
    }
    ck_assert_msg(bb_test_program(line, said, sizeof said) == wrong[_i].code && strstr(said, wrong[_i].sentence), "%s: %s", wrong[_i].arguments, said);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_qat");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_loop_test(t, a_file_comes_nearer, 0, 2);
    tcase_add_test(t, threads_and_interruptions_change_nothing);
    tcase_add_test(t, little_memory_has_a_coarse_state);
    tcase_add_test(t, no_limit_is_not_the_least);
    tcase_add_loop_test(t, a_run_has_the_step, 0, 2);
    tcase_add_test(t, a_run_trains_at_the_rates_of_its_plan);
    tcase_add_test(t, the_key_says_what_is_trained_on);
    tcase_add_test(t, the_rate_falls_with_the_tokens);
    tcase_add_test(t, the_rate_rises_with_the_batch);
    tcase_add_test(t, the_rates_are_those_of_the_bits);
    tcase_add_loop_test(t, mistakes_have_a_sentence, 0, (int)(sizeof wrong / sizeof *wrong));
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
