/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_settle.c: the end of a search on rebuilt networks, on runs of a tiny model: what is raced and kept, that the plans it began with are finalised
 * all the same, the same bytes from other threads and after an interruption, and a replay that measures nothing. Runs the program. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

/* The search is one that leaves something to be found: the best uniform plan. */
#define SETTINGS \
    "--formats Q2_0,Q4_0,Q5_0,Q8_0 --embd-formats Q4_0,Q8_0 --prune none --calib-windows 16 --confirm-windows 20 --refine-windows 10 --measure-windows 4 " \
    "--search uniform --finalise-steps rebuild --ctx 32 --sweeps 1 --points 2 --min-bpw 4.5 --max-bpw 6"

static char said[16384], line[2048], model[512];

static int run(const char *options, const char *name, char *path, size_t size)
{
    if (!model[0]) {
        tiny_spec s = tiny_default("llama");
        s.n_embd = 64;
        s.head_dim = 16;
        s.n_layer = 3;
        for (int i = 0; i < TINY_MAX_LAYERS; i++) s.n_ff[i] = 128;
        snprintf(model, sizeof model, "%s", bb_test_path("tiny.gguf"));
        tiny_write(&s, model);
    }
    snprintf(path, size, "%s", bb_test_path(name));
    snprintf(line, sizeof line, "sweep %s " SETTINGS " %s --out %s -q", model, options, path);
    return bb_test_program(line, said, sizeof said);
}

static void run_well(const char *options, const char *name, char *path, size_t size)
{
    const int code = run(options, name, path, size);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
}

static bb_csv table(const char *dir, const char *name)
{
    bb_csv t;
    bb_err err = BB_ERR_INIT;
    char   path[700];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_msg(bb_csv_read(path, &t, &err) == BB_OK, "%s", err.msg);
    return t;
}

static const char *text(const bb_csv *t, size_t row, const char *column) { return bb_csv_text(t, row, (size_t)bb_csv_column(t, column)); }

static bool has_plan(const bb_csv *t, const char *hash)
{
    for (size_t i = 0; i < t->n_rows; i++)
        if (strcmp(text(t, i, "plan_hash"), hash) == 0) return true;
    return false;
}

START_TEST(the_race_is_fair_and_within_its_plans)
{
    char without[600], with[600];
    run_well("--threads 1", "without", without, sizeof without);
    run_well("--settle 12 --threads 1", "with", with, sizeof with);
    bb_csv race = table(with, "settle.csv"), before = table(without, "plans.csv"), after = table(with, "plans.csv"), steps = table(with, "finalise.csv");
    double kl = HUGE_VAL;
    size_t n_kept = 0, n_points = 0, n_settled = 0;
    ck_assert_uint_ge(race.n_rows, 2);
    ck_assert_uint_le(race.n_rows, 2 * 12);
    for (size_t i = 0; i < race.n_rows; i++) {
        const bool first = bb_test_number(&race, i, "step") < 1.5, kept = text(&race, i, "kept")[0] == '1';
        if (first) kl = HUGE_VAL;
        for (size_t k = i;
             k-- > 0 && fabs(bb_test_number(&race, k, "budget_bytes") - bb_test_number(&race, i, "budget_bytes")) < 0.5;) /* no plan of a size twice */
            ck_assert_str_ne(text(&race, k, "plan_hash"), text(&race, i, "plan_hash"));
        ck_assert_double_le(bb_test_number(&race, i, "size_bytes"), bb_test_number(&race, i, "budget_bytes"));
        ck_assert(kept == (first || bb_test_number(&race, i, "difference") < 0));
        if (!first)
            ck_assert(fabs(bb_test_number(&race, i, "kl_nats") - kl - bb_test_number(&race, i, "difference")) <
                      1e-6); /* on the same windows, all scored alike */
        if (kept) kl = bb_test_number(&race, i, "kl_nats");
        n_kept += kept && !first;
        n_points += strncmp(text(&race, i, "source"), "point", 5) == 0;
    }
    ck_assert_uint_ge(n_points, 1);
    ck_assert_uint_ge(n_kept, 1);
    /* What was chosen without is finalised with it as well; what it adds is a searched plan. */
    for (size_t i = 0; i < before.n_rows; i++)
        if (text(&before, i, "chosen")[0] == '1') ck_assert_msg(has_plan(&steps, text(&before, i, "plan_hash")), "%s", text(&before, i, "source"));
    for (size_t i = 0; i < after.n_rows; i++) {
        if (strncmp(text(&after, i, "source"), "settled", 7) != 0) continue;
        ck_assert(text(&after, i, "searched")[0] == '1' && text(&after, i, "asked")[0] == '1' && text(&after, i, "baseline")[0] == '0');
        ck_assert(has_plan(&steps, text(&after, i, "plan_hash")) && has_plan(&race, text(&after, i, "plan_hash")));
        n_settled++;
    }
    ck_assert_uint_ge(n_settled, 1);
    bb_csv_done(&race);
    bb_csv_done(&before);
    bb_csv_done(&after);
    bb_csv_done(&steps);
}
END_TEST

START_TEST(the_same_bytes_again)
{
    char with[600], other[600];
    snprintf(with, sizeof with, "%s", bb_test_path("with"));
    run_well("--settle 12 --threads 2", "other", other, sizeof other);
    bb_test_same_in(with, other, "settle.csv");
    bb_test_same_in(with, other, "plans.csv");
    bb_test_same_in(with, other, "model.gguf");
    run_well("--settle 12 --threads 1 --ledger-only", "other", other, sizeof other); /* everything is known */
    bb_test_same_in(with, other, "settle.csv");
    ck_assert_int_ne(run("--settle 11 --ledger-only", "without", other, sizeof other), 0); /* nothing of it is */
    ck_assert_msg(strstr(said, "--ledger-only") != NULL, "%s", said);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli settle");
    TCase *t = tcase_create("settle");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, the_race_is_fair_and_within_its_plans);
    tcase_add_test(t, the_same_bytes_again);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
