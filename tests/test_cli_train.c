/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_train.c: `bitbudget train` from a text to a GGUF: the loss falls far below its start, an interrupted run ends with the same
 * bytes as a straight one, a written model is trained on. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/text.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"

#define VOCABULARY "tests/data/stories260K.gguf"
#define SMALL \
    " --tokenizer " VOCABULARY " --layers 2 --width 32 --heads 4 --kv-heads 2 --ffn 64 --ctx 32 --batch 8 --rate 0.01 --valid-every 20 --valid-windows 8"

/* Sentences of a small grammar. */
static void write_text(const char *path, uint64_t seed, size_t n_sentences)
{
    static const char *const who[] = { "Tom", "Lily", "The dog", "A big bear", "Mom" }, *const did[] = { "saw", "liked", "found", "ate" },
                             *const what[] = { "the red ball", "a small cat", "an apple", "the old tree" },
                             *const end[] = { ".", " and was happy.", " in the park." };
    bb_text                         t = { NULL, 0, 0, BB_OK };
    bb_rng                          r;
    bb_rng_init(&r, seed, "text");
    for (size_t i = 0; i < n_sentences; i++)
        bb_text_addf(&t, "%s %s %s%s\n", who[bb_rng_below(&r, 5)], did[bb_rng_below(&r, 4)], what[bb_rng_below(&r, 4)], end[bb_rng_below(&r, 3)]);
    bb_test_write(path, t.data, t.size);
    bb_text_done(&t);
}

static char text[512], valid[512], a[512], b[512], c[512];

static void setup(void)
{
    const struct {
        char       *at;
        const char *name;
    } names[] = { { text, "train.txt" }, { valid, "valid.txt" }, { a, "a.gguf" }, { b, "b.gguf" }, { c, "c.gguf" } };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) snprintf(names[i].at, 512, "%s", bb_test_path(names[i].name));
    write_text(text, 1, 1500);
    write_text(valid, 2, 100);
}

/* Column `column` (from 0) of the last row. */
static double last_number(const char *csv, int column)
{
    const char *row = csv, *next;
    while ((next = strchr(row, '\n')) && next[1]) row = next + 1;
    for (int i = 0; i < column; i++) {
        row = strchr(row, ',');
        ck_assert_ptr_nonnull(row++);
    }
    return strtod(row, NULL);
}

START_TEST(from_a_text_to_a_model)
{
    char    *csv, *json, state[600];
    bb_model m;
    bb_err   err = BB_ERR_INIT;
    double   start = log(512), end, again;
    ck_assert_msg(bb_test_command(&csv, &err, "train %s --text %s --valid %s --steps 120" SMALL, a, text, valid) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(strncmp(csv, "step,tokens,rate,loss,grad_norm,valid_nll,valid_se,tokens_per_s\n20,5120,", 71), 0);
    ck_assert(last_number(csv, 0) == 120 && last_number(csv, 1) == 120 * 8 * 32 && last_number(csv, 2) == 0);
    end = last_number(csv, 5);
    ck_assert_msg(end < start - 4, "validation loss %g after training, %g of a uniform guess", end, start);
    bb_free(csv);
    snprintf(state, sizeof state, "%s.state", a);
    ck_assert(!bb_file_exists(state));
    ck_assert_int_eq(bb_model_open(a, &m, NULL), BB_OK);
    ck_assert(m.net.n_layer == 2 && m.net.n_embd == 32 && m.net.blocks[1].n_kv == 2 && m.net.embd.type == BB_F16 && m.net.n_ctx_train == 32);
    bb_model_close(&m);
    ck_assert_msg(bb_test_command(&json, &err, "eval %s --text %s --ctx 32 --json", a, valid) == BB_OK, "%s", err.msg); /* its vocabulary works */
    bb_free(json);
    /* Further training at a small rate: it starts where the other ended. */
    ck_assert_msg(bb_test_command(&csv, &err, "train %s --init %s --text %s --valid %s --ctx 32 --steps 5 --rate 1e-4 --batch 8 --valid-windows 8", c, a, text,
                                  valid) == BB_OK,
                  "%s", err.msg);
    again = last_number(csv, 5);
    ck_assert_msg(fabs(again - end) < 0.1, "%g, then %g", end, again);
    bb_free(csv);
    ck_assert(bb_file_exists(c) && !bb_test_are_same(a, c));
}
END_TEST

START_TEST(an_interrupted_run_ends_alike)
{
    bb_err err = BB_ERR_INIT;
    char   state[600];
    snprintf(state, sizeof state, "%s.state", b);
    ck_assert_msg(bb_test_command(NULL, &err, "train %s --text %s --steps 6" SMALL, a, text) == BB_OK, "%s", err.msg);
    bb_interrupt_raise();
    ck_assert_int_eq(bb_test_command(NULL, &err, "train %s --text %s --steps 6" SMALL, b, text), BB_INTERRUPTED);
    bb_interrupt_clear();
    ck_assert_msg(strstr(err.msg, "step 1 of 6") != NULL, "%s", err.msg);
    ck_assert(bb_file_exists(state) && !bb_file_exists(b));
    err = (bb_err)BB_ERR_INIT;
    ck_assert_msg(bb_test_command(NULL, &err, "train %s --text %s --steps 6 --seed 2" SMALL, b, text) == BB_BAD_FILE, "%s", err.msg); /* another run's state */
    if (strcmp(bb_kernels_get()->level, "ref") != 0) { /* nor that of another kind of processor */
        char arguments[1500], said[1000];
        ck_assert_int_eq(setenv("BB_CPU", "ref", 1), 0);
        snprintf(arguments, sizeof arguments, "train %s --text %s --steps 6" SMALL, b, text);
        ck_assert_int_eq(bb_test_program(arguments, said, sizeof said), 5);
        ck_assert_msg(strstr(said, "on another CPU level or BLAS core (here: ref, ") != NULL, "%s", said);
        unsetenv("BB_CPU");
    }
    err = (bb_err)BB_ERR_INIT;
    ck_assert_msg(bb_test_command(NULL, &err, "train %s --text %s --steps 6" SMALL, b, text) == BB_OK, "%s", err.msg);
    ck_assert(bb_test_are_same(a, b) && !bb_file_exists(state));
}
END_TEST

/* The stable phase, kept, then continued by its decay: the same as both in one. */
START_TEST(a_stable_phase_is_continued)
{
    bb_err err = BB_ERR_INIT;
    char   state[600];
    snprintf(state, sizeof state, "%s", bb_test_path("stable.state"));
    ck_assert_msg(bb_test_command(NULL, &err, "train %s --text %s --steps 4 --warmup 2 --schedule constant --checkpoint %s" SMALL, b, text, state) == BB_OK,
                  "%s", err.msg);
    ck_assert(bb_file_exists(state));
    ck_assert_msg(bb_test_command(NULL, &err, "train %s --text %s --steps 8 --warmup 2 --decay-steps 3 --checkpoint %s" SMALL, b, text, state) == BB_OK, "%s",
                  err.msg);
    ck_assert_msg(bb_test_command(NULL, &err, "train %s --text %s --steps 8 --warmup 2 --decay-steps 3" SMALL, a, text) == BB_OK, "%s", err.msg);
    ck_assert(bb_test_are_same(a, b));
}
END_TEST

static const struct {
    const char *options;
    bb_status   status;
} wrong[] = {
    { "", BB_USAGE },
    { "--text tests/data/README.md", BB_USAGE },
    { "--text tests/data/README.md --init " VOCABULARY " --tokenizer " VOCABULARY, BB_USAGE },
    { "--text tests/data/README.md --tokenizer " VOCABULARY " --width 30 --heads 4", BB_USAGE },
    { "--text tests/data/README.md --tokenizer " VOCABULARY " --kv-heads 3", BB_USAGE },
    { "--text tests/data/README.md --tokenizer tests/data/README.md", BB_BAD_FILE },
    { "--text tests/data/absent --tokenizer " VOCABULARY, BB_BAD_FILE },
    { "--text tests/data/README.md --tokenizer " VOCABULARY " --ctx 100000", BB_BAD_FILE },
    { "--text tests/data/README.md --init tests/data/stories3M-p256.imatrix.gguf", BB_UNSUPPORTED },
};

START_TEST(mistakes_have_a_sentence)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_test_command(NULL, &err, "train %s %s", bb_test_path("no.gguf"), wrong[_i].options) == wrong[_i].status, "%s: %d %s", wrong[_i].options,
                  err.status, err.msg);
    ck_assert(err.msg[0] && !bb_file_exists(bb_test_path("no.gguf")));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli_train");
    TCase *t = tcase_create("core");
    bb_log_set_level(BB_LOG_QUIET);
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, from_a_text_to_a_model);
    tcase_add_test(t, an_interrupted_run_ends_alike);
    tcase_add_test(t, a_stable_phase_is_continued);
    tcase_add_loop_test(t, mistakes_have_a_sentence, 0, (int)(sizeof wrong / sizeof *wrong));
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
