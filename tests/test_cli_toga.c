/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_toga.c: masks over channels from the command line: rows of numbers that are the same again, networks that a runtime can load as files, sentences for
 * those that it cannot. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/store.h"
#include "base/text.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define TEXT " --text %s --ctx 32 --calib-windows 8"
#define LEARN " --steps 30 --train-ctx 16 --rate 1e-2"

static char full[512], out[512], ids[512], state[512], policy[512], said[16384];

static tiny_spec spec(void)
{
    tiny_spec s = tiny_default("llama");
    s.n_embd = 64;
    s.head_dim = 16;
    for (int i = 0; i < TINY_MAX_LAYERS; i++) s.n_ff[i] = 128;
    return s;
}

static void setup(void)
{
    uint32_t  x[3000];
    bb_rng    r;
    tiny_spec s = spec();
    bb_rng_init(&r, 1, "ids");
    for (size_t i = 0; i < 3000; i++) x[i] = (uint32_t)(3 + bb_rng_below(&r, 20));
    snprintf(full, sizeof full, "%s", bb_test_path("full.gguf"));
    snprintf(out, sizeof out, "%s", bb_test_path("out.gguf"));
    snprintf(ids, sizeof ids, "%s", bb_test_path("text.u32"));
    snprintf(state, sizeof state, "%s", bb_test_path("toga.state"));
    snprintf(policy, sizeof policy, "%s", bb_test_path("policy.csv"));
    tiny_write(&s, full);
    bb_test_write(ids, x, sizeof x);
}

/* The first row of stdout without its last cell, the seconds. */
static char *row_of(const char *options)
{
    bb_err err = BB_ERR_INIT;
    char  *csv = NULL;
    ck_assert_msg(bb_test_command(&csv, &err, "toga %s" TEXT " --eval %s --eval-windows 6%s", full, ids, ids, options) == BB_OK, "%s", err.msg);
    static const char header[] = "model,method,size_bytes,bpw,pruned_fraction,text,ppl,ppl_se,kl_nats,kl_se,tokens,seconds\n";
    ck_assert_int_eq(strncmp(csv, header, sizeof header - 1), 0);
    char *row = bb_strdup(csv + sizeof header - 1, NULL), *last = strrchr(row, ',');
    ck_assert_ptr_nonnull(last);
    *last = '\0';
    bb_free(csv);
    return row;
}

static double cell(const char *row, int k)
{
    for (; k > 0; k--) row = strchr(row, ',') + 1;
    return strtod(row, NULL);
}

static double json_of(const char *path, const char *name)
{
    bb_err err = BB_ERR_INIT;
    char  *json = NULL, key[64];
    snprintf(key, sizeof key, "\"%s\":", name);
    ck_assert_msg(bb_test_command(&json, &err, "eval %s --reference %s --text %s --ctx 32 --chunks 6 --spread --json", path, full, ids) == BB_OK, "%s",
                  err.msg);
    const char *at = strstr(json, key);
    ck_assert_msg(at != NULL, "%s", json);
    const double x = strtod(at + strlen(key), NULL);
    bb_free(json);
    return x;
}

/* What is written is what was judged, in as many bytes. */
START_TEST(what_a_runtime_can_load_is_written)
{
    static const char *const ways[] = { " --salience none --low Q4_0 --embedding Q8_0",
                                        " --salience none --low Q8_0 --prune channels --target-size 80000" LEARN };
    char                     options[1024];
    uint64_t                 bytes;
    snprintf(options, sizeof options, "%s --out %s", ways[_i], out);
    char *row = row_of(options);
    ck_assert_int_eq(bb_file_size(out, &bytes, NULL), BB_OK);
    if (_i == 0) ck_assert_double_eq_tol(cell(row, 2), (double)bytes, 0.5);
    else ck_assert_double_eq_tol(cell(row, 2), (double)bytes, 2048); /* another architecture, which has more keys */
    if (_i == 1) {
        ck_assert_double_le(cell(row, 2), 80000);
        ck_assert_double_gt(cell(row, 4), 0.05);
    }
    ck_assert_double_eq_tol(cell(row, 6), json_of(out, "ppl"), 1e-4 * cell(row, 6));
    ck_assert_double_eq_tol(cell(row, 8), json_of(out, "kl_nats"), 1e-4 * cell(row, 8) + 1e-6);
    bb_free(row);
}
END_TEST

/* The biases of the channels that are left go with them. */
START_TEST(biases_follow_their_channels)
{
    tiny_spec s = spec();
    char      options[1024];
    s.ffn_bias = true;
    tiny_write(&s, full);
    snprintf(options, sizeof options, " --salience none --low Q8_0 --prune channels --target-size 82000" LEARN " --out %s", out);
    char *row = row_of(options);
    ck_assert_double_gt(cell(row, 4), 0.05);
    ck_assert_double_eq_tol(cell(row, 8), json_of(out, "kl_nats"), 1e-4 * cell(row, 8) + 1e-6);
    bb_free(row);
}
END_TEST

/* What has a comma is quoted: a row has its twelve cells. */
START_TEST(names_may_have_commas)
{
    char *row = row_of(" --salience none --low Q4_0 --embedding Q8_0 --name n,m");
    ck_assert_msg(strncmp(row, "full,\"n,m\",", 11) == 0, "%s", row);
    bb_free(row);
}
END_TEST

START_TEST(rows_are_the_same_again)
{
    char      options[1200];
    const int threads = omp_get_max_threads();
    omp_set_num_threads(3);
    char *first = row_of("" LEARN), *again;
    snprintf(options, sizeof options, LEARN " --state %s --policy %s --save-every 7", state, policy);
    omp_set_num_threads(1);
    again = row_of(options);
    ck_assert_str_eq(first, again);
    bb_free(again);
    omp_set_num_threads(threads);
    again = row_of(options); /* from the finished state: nothing is learned again */
    ck_assert_str_eq(first, again);
    bb_csv t;
    ck_assert_int_eq(bb_csv_read(policy, &t, NULL), BB_OK);
    ck_assert_uint_eq(t.n_rows, 2 * 7);
    ck_assert_str_eq(bb_csv_text(&t, 0, 1), "attn_q precision");
    bb_csv_done(&t);
    bb_free(first);
    bb_free(again);
}
END_TEST

/* More bits, less KL; and 20 % of columns at 4 bits cost what they should. */
START_TEST(precisions_are_what_they_are_called)
{
    static const char *const ways[] = { " --salience none --low Q1_0", " --salience activations", " --salience hessian", " --salience none --low Q4_0" };
    double                   kl[4], bytes[4];
    for (int i = 0; i < 4; i++) {
        char *row = row_of(ways[i]);
        kl[i] = cell(row, 8);
        bytes[i] = cell(row, 2);
        bb_free(row);
    }
    ck_assert_double_eq_tol(bytes[1], bytes[2], 0.5);
    ck_assert(bytes[0] < bytes[1] && bytes[1] < bytes[3]);
    ck_assert_msg(kl[0] > kl[1] && kl[0] > kl[2] && kl[1] > 2 * kl[3] && kl[2] > 2 * kl[3], "%g %g %g %g", kl[0], kl[1], kl[2], kl[3]);
}
END_TEST

START_TEST(all_five_masks_prune)
{
    char *row = row_of(" --prune all --low Q4_0 --high Q8_0 --target-size 40000" LEARN);
    ck_assert_double_le(cell(row, 2), 40000);
    ck_assert_double_gt(cell(row, 4), 0.2);
    bb_free(row);
    row = row_of(" --prune all --salience none --low Q4_0 --prune-on whole --target-size 40000 --kept 0.5" LEARN);
    ck_assert_double_le(cell(row, 2), 40000);
    bb_free(row);
}
END_TEST

#define RUN_AT(size) \
    "sweep %s --calib %s --ctx 32 --calib-windows 8 --measure-windows 2 --refine-windows 2 --confirm-windows 4 --search-tokens 0.1 --sweeps 0 --no-finalise " \
    "--formats Q8_0,Q4_0 --embd-formats Q8_0,Q4_0 --prune width --sizes " size " --search toga --out %s -q"
#define RUN RUN_AT("56000")

/* A plan as it is kept: of each block the attention, first of its nine units, is whole (the first option), for masks say nothing of heads. */
static bb_status look_at_plan(void *self, const char *key, const void *value, size_t size, bb_err *err)
{
    const uint16_t *x = value;
    (void)key, (void)err;
    ck_assert_uint_eq(size, (2 * 9 + 1) * sizeof *x);
    ck_assert(x[0] == 0 && x[9] == 0);
    ++*(uint64_t *)self;
    return BB_OK;
}

typedef struct kept_key {
    char text[512];
} kept_key;

static bb_status take_key(void *self, const char *key, const void *value, size_t size, bb_err *err)
{
    (void)value, (void)size, (void)err;
    snprintf(((kept_key *)self)->text, sizeof((kept_key *)self)->text, "%s", key);
    return BB_OK;
}

/* A search that begins with learned masks: they are kept, another number of threads chooses the same plans, and a replay finds all of it. */
START_TEST(a_search_begins_with_masks)
{
    char      line[2048], path[2][600];
    bb_store *store = NULL;
    uint64_t  n = 0;
    for (int i = 0; i < 2; i++) {
        snprintf(line, sizeof line, RUN " --threads %d", full, ids, bb_test_path(i ? "two" : "one"), 1 + 2 * i);
        ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
        snprintf(path[i], sizeof *path, "%s/plans.csv", bb_test_path(i ? "two" : "one"));
    }
    bb_test_same(path[0], path[1]);
    snprintf(line, sizeof line, "%s/run.db", bb_test_path("one"));
    ck_assert_int_eq(bb_store_open(line, &store, NULL), BB_OK);
    ck_assert_int_eq(bb_store_each(store, "toga", look_at_plan, &n, NULL), BB_OK);
    bb_store_close(store);
    ck_assert_uint_ge(n, 1);
    snprintf(line, sizeof line, RUN " --ledger-only", full, ids, bb_test_path("one"));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    bb_test_same(path[0], path[1]);
    kept_key       key = { "" };
    const uint16_t none[2 * 9 + 1] = { [3] = UINT16_MAX };
    snprintf(line, sizeof line, "%s/run.db", bb_test_path("one"));
    ck_assert_int_eq(bb_store_open(line, &store, NULL), BB_OK);
    ck_assert_int_eq(bb_store_each(store, "toga", take_key, &key, NULL), BB_OK);
    ck_assert_int_eq(bb_store_put(store, "toga", key.text, none, sizeof none, NULL), BB_OK);
    bb_store_close(store);
    snprintf(line, sizeof line, RUN, full, ids, bb_test_path("one"));
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 5);
    ck_assert_msg(strstr(said, "run.db is damaged: learned masks became option 65535 of ") != NULL, "%s", said);
}
END_TEST

/* Masks are not learned where rows carry more than the residual stream: said before anything is made, by the search as by the command. */
START_TEST(a_network_that_carries_more_is_refused)
{
    static const char *const commands[] = { RUN_AT("400000"), "toga %s --text %s --eval %s --steps 1" };
    tiny_spec                s = tiny_default(TINY_SHARED);
    char                     line[2048], model[600], run[600];
    snprintf(model, sizeof model, "%s", bb_test_path("shared.gguf"));
    snprintf(run, sizeof run, "%s", bb_test_path("refused"));
    tiny_write(&s, model);
    for (size_t i = 0; i < 2; i++) {
        snprintf(line, sizeof line, commands[i], model, ids, i ? ids : run);
        ck_assert_int_ne(bb_test_program(line, said, sizeof said), 0);
        ck_assert_msg(strstr(said, "masks are not learned for a network whose blocks share keys and values") != NULL, "%s", said);
    }
    ck_assert(!bb_file_exists(run));
}
END_TEST

START_TEST(what_cannot_be_is_said)
{
    static const struct {
        const char *options, *words;
        bb_status   status;
    } cases[] = {
        { " --out x.gguf", "some columns in Q1_0 and the others in Q4_0, and a tensor has one type", BB_UNSUPPORTED },
        { " --salience none --low Q4_0 --prune all --target-size 60000 --out x.gguf", "no file has a place for such masks", BB_UNSUPPORTED },
        { " --salience none --low Q1_0 --out x.gguf", "Q1_0 has blocks of 128 weights, and the rows of blk.0.attn_q have 64", BB_UNSUPPORTED },
        { " --prune all", "--target-size says which", BB_USAGE },
        { " --prune all --target-size 1000", "all but the linears takes", BB_INFEASIBLE },
        { " --salience none --target-size 60000", "there are none", BB_USAGE },
        { " --salience hessian --prune all --target-size 60000", "with --prune it is learned or none", BB_USAGE },
        { " --high Q4_K", "Q4_K cannot be a part of a matrix", BB_UNSUPPORTED },
        { " --salience none --salient 0.3", "--salient", BB_USAGE },
        { " --salience activations --lambda 3", "no masks are learned", BB_USAGE },
        { " --kept 0.5", "--kept is of what is pruned", BB_USAGE },
        { " --low Q8_0 --high Q4_0", "no more bits", BB_USAGE },
        { " --low Q4_0 --high IQ4_NL", "no more bits", BB_USAGE }, /* the same */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bb_err    err = BB_ERR_INIT;
        bb_status status = bb_test_command(NULL, &err, "toga %s" TEXT "%s", full, ids, cases[i].options);
        ck_assert_msg(status == cases[i].status && strstr(err.msg, cases[i].words), "%s: %d, %s", cases[i].options, status, err.msg);
    }
    bb_test_says(said, sizeof said, 2, "toga needs a model and --text FILE", "toga %s", full);
    /* What is judged on is read before anything is learned, and not written over. */
    bb_test_says(said, sizeof said, 5, "absent.txt", "toga %s" TEXT " --eval %s,absent.txt", full, ids, ids);
    ck_assert_msg(!strstr(said, "linears"), "%s", said);
    char judged[512];
    snprintf(judged, sizeof judged, "%s", bb_test_path("judged.u16"));
    bb_test_write(judged, "\1\0\2\0\3\0", 6);
    bb_test_says(said, sizeof said, 2, "is a text of --eval itself", "toga %s" TEXT " --eval %s --policy %s --force", full, ids, judged, judged);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli toga");
    TCase *t = tcase_create("toga");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_loop_test(t, what_a_runtime_can_load_is_written, 0, 2);
    tcase_add_test(t, biases_follow_their_channels);
    tcase_add_test(t, names_may_have_commas);
    tcase_add_test(t, rows_are_the_same_again);
    tcase_add_test(t, precisions_are_what_they_are_called);
    tcase_add_test(t, all_five_masks_prune);
    tcase_add_test(t, a_search_begins_with_masks);
    tcase_add_test(t, a_network_that_carries_more_is_refused);
    tcase_add_test(t, what_cannot_be_is_said);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
