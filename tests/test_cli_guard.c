/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_guard.c: the guard end to end, on runs of a tiny model: what is finalised and compared at each size, a search whose plan must be kept,
 * one whose plan must be refused, and files too damaged to use. Runs the program. */
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/run.h"
#include "engine/stages.h"
#include "engine/verdict.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

/* 64 wide, so that every linear has formats; at 5.7 and 7 bits a weight there are uniform plans that fit, with twice the KL of searched ones. */
#define SETTINGS \
    "--formats Q4_0,Q5_0,Q8_0 --embd-formats Q4_0,Q5_0,Q8_0 --prune none --calib-windows 8 --confirm-windows 40 --refine-windows 10 --measure-windows 4 " \
    "--search-tokens 0.05 --tune-tokens 0.001 --ctx 32 --sweeps 1"

static char said[16384], line[2048], model[512];

static void make_model(void)
{
    if (model[0]) return;
    tiny_spec s = tiny_default("llama");
    s.n_embd = 64;
    s.head_dim = 16;
    s.n_layer = 3;
    for (int i = 0; i < TINY_MAX_LAYERS; i++) s.n_ff[i] = 128;
    snprintf(model, sizeof model, "%s", bb_test_path("tiny.gguf"));
    tiny_write(&s, model);
}

static const char *make_run(const char *command, const char *options, const char *name)
{
    static char path[512];
    make_model();
    snprintf(path, sizeof path, "%s", bb_test_path(name));
    snprintf(line, sizeof line, "%s %s " SETTINGS " %s --out %s", command, model, options, path);
    int code = bb_test_program(line, said, sizeof said);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    return path;
}

static bb_csv table(const char *dir, const char *name)
{
    bb_csv t;
    bb_err err = BB_ERR_INIT;
    char   path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_msg(bb_csv_read(path, &t, &err) == BB_OK, "%s", err.msg);
    return t;
}

static const char *text(const bb_csv *t, size_t row, const char *column)
{
    ck_assert_msg(bb_csv_column(t, column) >= 0, "no column %s", column);
    return bb_csv_text(t, row, (size_t)bb_csv_column(t, column));
}

/* Rows of the chosen plans alone. */
static bool is(const bb_csv *plans, size_t row, const char *flag) { return text(plans, row, flag)[0] == '1'; }

static json_t *verdict(const char *dir)
{
    char path[600];
    snprintf(path, sizeof path, "%s/guard.json", dir);
    json_t *root = json_load_file(path, 0, NULL);
    ck_assert_ptr_nonnull(root);
    return root;
}

static const char *word(const json_t *o, const char *key)
{
    const char *v = json_string_value(json_object_get(o, key));
    ck_assert_msg(v != NULL, "no %s", key);
    return v;
}

static double real(const json_t *o, const char *key)
{
    ck_assert_msg(json_is_number(json_object_get(o, key)), "no %s", key);
    return json_number_value(json_object_get(o, key));
}

static bool won(const json_t *o) { return json_is_true(json_object_get(o, "searched_plan_won")); }

/* Exchanges the roles of the searched and the simple plans of at most `bytes`, as if the search had found the bad ones. */
static void exchange_roles(const char *dir, double bytes)
{
    bb_csv         t = table(dir, "plans.csv");
    bb_csv_writer *w;
    bb_text        header = { 0 };
    char           path[600];
    for (size_t c = 0; c < t.n_cols; c++) bb_text_addf(&header, "%s%s", c ? "," : "", t.header[c]);
    ck_assert_int_eq(header.status, BB_OK);
    snprintf(path, sizeof path, "%s/plans.csv", dir);
    ck_assert_int_eq(bb_csv_create(path, header.data, &w, NULL), BB_OK);
    bb_text_done(&header);
    for (size_t r = 0; r < t.n_rows; r++) {
        for (size_t c = 0; c < t.n_cols; c++) {
            const char *cell = bb_csv_text(&t, r, c);
            bool        flag = strcmp(t.header[c], "baseline") == 0 || strcmp(t.header[c], "searched") == 0 || strcmp(t.header[c], "ruled_out") == 0;
            if (flag && is(&t, r, "chosen") && bb_test_number(&t, r, "size_bytes") <= bytes) cell = cell[0] == '1' ? "0" : "1";
            bb_csv_put_text(w, cell);
        }
        bb_csv_end_row(w);
    }
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
    bb_csv_done(&t);
}

static void evaluate_again(const char *dir)
{
    snprintf(line, sizeof line, "evaluate %s", dir);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
}

/* `run`: the plans of the target alone are finalised, simple ones through the same steps; the guard compares what the tables say. */
START_TEST(one_target_finalises_its_own_plans)
{
    const char *dir = make_run("run", "--target-bpw 5.7", "one");
    size_t      n_asked = 0, n_beside = 0, n_simple = 0;
    char        path[600];
    ck_assert_ptr_nonnull(strstr(said, "guard: at 93708 bytes"));
    bb_csv plans = table(dir, "plans.csv"), front = table(dir, "front.csv"), steps = table(dir, "finalise.csv"), simple = table(dir, "baselines.csv");
    for (size_t i = 0; i < plans.n_rows; i++) {
        const char *hash = text(&plans, i, "plan_hash");
        size_t      n_steps = 0;
        if (!is(&plans, i, "chosen")) continue;
        snprintf(path, sizeof path, "%s/models/%s.gguf", dir, hash);
        ck_assert_msg(bb_file_exists(path) == is(&plans, i, "asked"), "%s of %s bytes", hash, text(&plans, i, "size_bytes"));
        for (size_t k = 0; k < steps.n_rows; k++) n_steps += strcmp(text(&steps, k, "plan_hash"), hash) == 0;
        ck_assert_uint_eq(n_steps, is(&plans, i, "asked") ? 4 : 0);
        n_asked += is(&plans, i, "asked");
        n_simple += is(&plans, i, "asked") && is(&plans, i, "baseline");
        n_beside += !is(&plans, i, "asked");
    }
    ck_assert_uint_ge(n_simple, 2); /* uniform, quantization only */
    ck_assert_uint_le(n_asked, 4);
    ck_assert_uint_ge(n_beside, 2);         /* sizes beside the target were searched, and left as they are */
    ck_assert_uint_eq(front.n_rows, 1 + 1); /* and the original */
    ck_assert_uint_eq(simple.n_rows, n_simple);
    double best = HUGE_VAL;
    for (size_t i = 0; i < simple.n_rows; i++) { /* without --eval the evaluation windows are those that finalise decides on: nothing gets worse */
        ck_assert_double_lt(bb_test_number(&simple, i, "kl_nats"), bb_test_number(&simple, i, "kl_before_finalise"));
        best = fmin(best, bb_test_number(&simple, i, "kl_nats"));
    }
    ck_assert_double_lt(bb_test_number(&front, 0, "kl_nats"), bb_test_number(&front, 0, "kl_before_finalise"));

    json_t *g = verdict(dir);
    ck_assert_str_eq(word(g, "winner"), text(&front, 0, "plan_hash"));
    ck_assert_str_eq(word(g, "finishing"), "rebuild,lfq,end-to-end");
    ck_assert_uint_eq(json_array_size(json_object_get(g, "sizes")), 1);
    ck_assert_uint_eq(json_array_size(json_object_get(g, "plans")), n_asked);
    const double margin = real(g, "margin_nats"), p = real(g, "p");
    ck_assert(won(g) == (margin > 0 && p <= 0.1587));
    ck_assert_double_eq_tol(margin, won(g) ? best - bb_test_number(&front, 0, "kl_nats") : margin, 1e-6);
    ck_assert(won(g) || fabs(bb_test_number(&front, 0, "kl_nats") - best) < 1e-6);
    ck_assert(json_is_false(json_object_get(g, "badly_damaged")));
    json_decref(g);
    bb_csv_done(&plans);
    bb_csv_done(&front);
    bb_csv_done(&steps);
    bb_csv_done(&simple);
    snprintf(line, sizeof line, "verify %s -q", dir);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
}
END_TEST

/* The default, --finish contenders: a simple plan far behind is neither finished nor among the finished scores, and both plans are compared before finishing; one that
 * evaluation then sees win is finished after all, and the tables stand up to verify both times. */
START_TEST(what_cannot_win_is_not_finished)
{
    const char *dir = make_run("sweep", "--points 2 --min-bpw 5.8 --max-bpw 7", "contenders");
    size_t      n_spared = 0, n_empty = 0;
    char        path[600];
    ck_assert_ptr_nonnull(strstr(said, "compared before finishing"));
    json_t *g = verdict(dir), *sizes = json_object_get(g, "sizes");
    bb_csv  plans = table(dir, "plans.csv"), simple = table(dir, "baselines.csv");
    for (size_t i = 0; i < plans.n_rows; i++) {
        const bool spared = is(&plans, i, "chosen") && is(&plans, i, "ruled_out");
        if (!is(&plans, i, "chosen")) continue;
        snprintf(path, sizeof path, "%s/models/%s.gguf", dir, text(&plans, i, "plan_hash"));
        ck_assert(bb_file_exists(path) == !spared);
        ck_assert(!spared || (is(&plans, i, "baseline") && !is(&plans, i, "searched")));
        n_spared += spared;
    }
    for (size_t i = 0; i < simple.n_rows; i++) {
        n_empty += !*text(&simple, i, "kl_nats");
        ck_assert_double_gt(bb_test_number(&simple, i, "kl_before_finalise"), 0);
    }
    ck_assert_uint_ge(n_spared, 1);
    ck_assert_uint_eq(n_empty, n_spared);
    const double smaller = real(json_array_get(sizes, 0), "target_bytes");
    for (size_t i = 0; i < 2; i++) {
        ck_assert(won(json_array_get(sizes, i)));
        ck_assert_double_gt(real(json_array_get(sizes, i), "margin_nats"), 3 * real(json_array_get(sizes, i), "margin_se"));
    }
    ck_assert(json_is_true(json_object_get(json_array_get(sizes, 0), "compared_before_finishing")));
    for (size_t i = 0; i < json_array_size(json_object_get(g, "plans")); i++) { /* a score and its error, or neither */
        const json_t *p = json_array_get(json_object_get(g, "plans"), i);
        ck_assert(json_is_number(json_object_get(p, "kl_nats")) == json_is_number(json_object_get(p, "kl_se")));
        ck_assert(json_is_number(json_object_get(p, "kl_nats")) != json_is_false(json_object_get(p, "finished")));
    }
    json_decref(g);
    bb_csv_done(&plans);
    bb_csv_done(&simple);
    snprintf(line, sizeof line, "verify %s -q", dir);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);

    exchange_roles(dir, smaller); /* the good plan of the smaller size is now simple and said to be far behind, the uniform one the searched */
    snprintf(line, sizeof line, "finalise %s -q", dir);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    evaluate_again(dir);
    ck_assert_ptr_nonnull(strstr(said, "it is finalised too"));
    plans = table(dir, "plans.csv");
    bb_csv steps = table(dir, "finalise.csv");
    size_t n_files = 0, n_rows = 0;
    for (size_t i = 0; i < plans.n_rows; i++) {
        snprintf(path, sizeof path, "%s/models/%s.gguf", dir, text(&plans, i, "plan_hash"));
        if (!is(&plans, i, "chosen") || !bb_file_exists(path)) continue;
        size_t n = 0;
        for (size_t k = 0; k < steps.n_rows; k++) n += strcmp(text(&steps, k, "plan_hash"), text(&plans, i, "plan_hash")) == 0;
        ck_assert_msg(n == 4, "%zu steps of %s", n, text(&plans, i, "plan_hash"));
        n_files++;
        n_rows += n;
    }
    ck_assert(n_files > 0 && n_rows == steps.n_rows);
    bb_csv_done(&plans);
    bb_csv_done(&steps);
    g = verdict(dir);
    ck_assert(!won(json_array_get(json_object_get(g, "sizes"), 0)));
    ck_assert_ptr_null(json_object_get(json_array_get(json_object_get(g, "sizes"), 0), "compared_before_finishing"));
    json_decref(g);
    snprintf(line, sizeof line, "verify %s -q", dir);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
}
END_TEST

/* A sweep of two sizes with --time, searched. */
static void searched_in_time(const char *name, bb_run *r, char out[512])
{
    static const char *const given[][2] = {
        { "formats", "Q4_0,Q5_0,Q8_0" },
        { "embd-formats", "Q4_0,Q5_0,Q8_0" },
        { "prune", "none" },
        { "calib-windows", "8" },
        { "confirm-windows", "40" },
        { "refine-windows", "10" },
        { "measure-windows", "4" },
        { "search-tokens", "0.05" },
        { "ctx", "32" },
        { "sweeps", "1" },
        { "points", "2" },
        { "min-bpw", "5.8" },
        { "max-bpw", "7" },
        { "time", "1h" },
        { "finalise-steps", "rebuild" },
    };
    bb_run_config c = { 0 };
    bb_err        err = BB_ERR_INIT;
    make_model();
    snprintf(out, 512, "%s", bb_test_path(name));
    gsl_set_error_handler_off();
    bb_log_set_level(BB_LOG_QUIET);
    ck_assert_int_eq(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &c, &err), BB_OK);
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, given[i][0], given[i][1], &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "model", model, &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "out", out, &err), BB_OK);
    ck_assert_msg(bb_run_create(r, &c, true, &err) == BB_OK, "%s", err.msg);
    for (int i = 0; i < BB_STAGE_FINALISE; i++) ck_assert_msg(bb_stage_run(r, (bb_stage)i, &err) == BB_OK, "%s", err.msg);
}

/* What every such test ends with; takes g, its verdict. */
static void in_time_done(bb_run *r, const char *out, bb_csv *plans, json_t *g)
{
    ck_assert_str_eq(word(g, "left_out"), r->config.leave_out);
    json_decref(g);
    bb_csv_done(plans);
    bb_run_close(r);
    bb_log_set_level(BB_LOG_INFO);
    snprintf(line, sizeof line, "verify %s -q", out);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
}

/* A time that is over behind the first plan leaves out what was to be finalised, not the plans that never were: the searched plan is guarded by these, as they are. */
START_TEST(time_leaves_out_no_spared_plan)
{
    bb_run r;
    bb_err err = BB_ERR_INIT;
    char   out[512];
    searched_in_time("short", &r, out);
    bb_csv plans = table(out, "plans.csv");
    size_t n_spared = 0, smallest = 0;
    char   hash[17], *path;
    while (!is(&plans, smallest, "searched") || is(&plans, smallest, "baseline")) smallest++;
    ck_assert_msg(bb_run_finalise_one(&r, text(&plans, smallest, "plan_hash"), hash, &path, &err) == BB_OK, "%s", err.msg); /* the one that there is time for */
    bb_free(path);
    r.time.on = true;
    r.time.started_s = bb_now_s() - 7200;
    for (int i = BB_STAGE_FINALISE; i <= BB_STAGE_EVALUATE; i++) ck_assert_msg(bb_stage_run(&r, (bb_stage)i, &err) == BB_OK, "%s", err.msg);
    ck_assert(!r.config.no_finalise && *r.config.leave_out);
    json_t *g = verdict(out), *first = json_array_get(json_object_get(g, "sizes"), 0);
    for (size_t i = 0; i < plans.n_rows; i++) { /* of the smaller size: of the larger one there is no searched plan, and no time for what would win there */
        if (!is(&plans, i, "chosen") || !is(&plans, i, "ruled_out") || bb_test_number(&plans, i, "size_bytes") > real(first, "target_bytes")) continue;
        n_spared++;
        ck_assert(!bb_list_has(r.config.leave_out, text(&plans, i, "plan_hash")));
    }
    ck_assert_uint_ge(n_spared, 1);
    ck_assert(won(first) && json_is_true(json_object_get(first, "compared_before_finishing")));
    ck_assert_double_gt(real(first, "margin_nats"), 0);
    in_time_done(&r, out, &plans, g);
}
END_TEST

/* A plan that evaluation alone sees win is finalised within --time, or left out as others are. */
START_TEST(time_bounds_what_is_readmitted)
{
    bb_run r;
    bb_err err = BB_ERR_INIT;
    char   out[512], path[600];
    size_t good = 0;
    searched_in_time("readmitted", &r, out);
    bb_csv plans = table(out, "plans.csv");
    while (!is(&plans, good, "searched") || is(&plans, good, "baseline")) good++; /* of the smaller size */
    exchange_roles(out, bb_test_number(&plans, good, "size_bytes"));
    ck_assert_msg(bb_stage_run(&r, BB_STAGE_FINALISE, &err) == BB_OK, "%s", err.msg);
    snprintf(path, sizeof path, "%s/models/%s.gguf", out, text(&plans, good, "plan_hash"));
    ck_assert(!bb_file_exists(path) && !*r.config.leave_out);
    r.time.on = true;
    r.time.started_s = bb_now_s() - 7200;
    ck_assert_msg(bb_stage_run(&r, BB_STAGE_EVALUATE, &err) == BB_OK, "%s", err.msg);
    ck_assert(!bb_file_exists(path));
    ck_assert_str_eq(r.config.leave_out, text(&plans, good, "plan_hash"));
    in_time_done(&r, out, &plans, verdict(out));
}
END_TEST

/* Of two searched plans the one that is better when it is finished is the worse one before: it is the one that a spared simple plan is held against. */
START_TEST(one_searched_plan_is_guarded_before_and_after)
{
    static const double finished[] = { 0.12, 0.10, 0 }, before[] = { 0.3, 0.5, 0.6 }, noise[] = { -0.01, 0.01, 0, 0.02 };
    enum { N = 4 };
    const char   *dir = make_run("run", "--target-bpw 5.7 --no-finalise", "two-searched");
    double        kl[3][N], kl_before[3][N];
    bb_front_plan plans[3] = { { .hash = "a", .is_searched = true }, { .hash = "b", .is_searched = true }, { .hash = "c", .is_baseline = true } };
    bb_front      front = { 3, plans };
    bb_evaluated  e[3];
    bb_run        r;
    bb_err        err = BB_ERR_INIT;
    bb_verdict   *v;
    size_t        n;
    ck_assert_msg(bb_run_reopen(&r, dir, &err) == BB_OK, "%s", err.msg);
    for (int i = 0; i < 3; i++) {
        plans[i].size_bytes = 1000 + i;
        for (int k = 0; k < N; k++) {
            kl[i][k] = (i == 2 ? before[i] : finished[i]) + (i + 1) * noise[k];
            kl_before[i][k] = before[i] + (i + 1) * noise[k];
        }
        e[i] = (bb_evaluated) { .window_kl = kl[i], .window_before = i == 2 ? NULL : kl_before[i], .is_spared = i == 2, .kl_compared = before[i] };
        e[i].result.kl = i == 2 ? before[i] : finished[i];
    }
    ck_assert_msg(bb_verdicts(&r, &front, e, N, N, &v, &n, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(n, 1);
    ck_assert(v->before && v->readmit == BB_GUARD_NONE && v->guard.searched == 1 && v->guard.simple == 2);
    ck_assert_double_eq_tol(v->guard.margin, before[2] - before[1] + (noise[0] + noise[1] + noise[2] + noise[3]) / N, 1e-12);
    bb_free(v);
    for (int k = 0; k < N; k++) kl[2][k] -= 0.15; /* between the two: before the one that would stand */
    ck_assert_msg(bb_verdicts(&r, &front, e, N, N, &v, &n, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(v->readmit, 2);
    bb_free(v);
    bb_run_close(&r);
}
END_TEST

/* With --finish contenders plans are run before finishing on 16 of the 40 windows: front.csv has what these say of all. */
START_TEST(a_part_of_the_windows_stands_for_all)
{
    bb_csv front[2];
    bool   differs = false;
    for (int k = 0; k < 2; k++)
        front[k] = table(make_run("sweep", k ? "--points 2 --min-bpw 5.8 --max-bpw 7 --finish contenders" : "--points 2 --min-bpw 5.8 --max-bpw 7 --finish all",
                                  k ? "part" : "whole"),
                         "front.csv");
    ck_assert_uint_eq(front[0].n_rows, front[1].n_rows);
    for (size_t i = 0; i + 1 < front[0].n_rows; i++) {
        const double whole = bb_test_number(&front[0], i, "kl_before_finalise"), part = bb_test_number(&front[1], i, "kl_before_finalise");
        ck_assert_str_eq(text(&front[0], i, "plan_hash"), text(&front[1], i, "plan_hash"));
        ck_assert_str_eq(text(&front[0], i, "kl_nats"), text(&front[1], i, "kl_nats"));
        ck_assert_msg(fabs(part / whole - 1) < 0.1, "%g of all windows, %g by a part", whole, part);
        differs |= part != whole;
    }
    ck_assert(differs);
    bb_csv_done(&front[0]);
    bb_csv_done(&front[1]);
}
END_TEST

/* A sweep is guarded at every size: roles exchanged at the smaller size alone, the search is refused there and kept at the larger one. */
START_TEST(every_size_of_a_sweep_is_guarded)
{
    const char *dir = make_run("sweep", "--points 2 --min-bpw 5.7 --max-bpw 7 --finish all", "two");
    ck_assert_ptr_nonnull(strstr(said, "kept at 2 of 2 sizes"));
    ck_assert_ptr_nonnull(strstr(said, "after the same finishing: rebuild,lfq,end-to-end"));
    json_t *g = verdict(dir), *sizes = json_object_get(g, "sizes");
    bb_csv  front = table(dir, "front.csv");
    ck_assert_uint_eq(json_array_size(sizes), 2);
    ck_assert_uint_eq(front.n_rows, 2 + 1); /* and the original */
    const double smaller = real(json_array_get(sizes, 0), "target_bytes");
    for (size_t i = 0; i < 2; i++) {
        ck_assert(won(json_array_get(sizes, i)));
        ck_assert_double_gt(real(json_array_get(sizes, i), "margin_nats"), 3 * real(json_array_get(sizes, i), "margin_se"));
        ck_assert_double_lt(real(json_array_get(sizes, i), "p"), 0.01);
        ck_assert_str_eq(word(json_array_get(sizes, i), "winner"), text(&front, i, "plan_hash"));
        ck_assert_double_le(bb_test_number(&front, i, "size_bytes"), real(json_array_get(sizes, i), "target_bytes"));
    }
    ck_assert_str_eq(word(g, "winner"), text(&front, 1, "plan_hash"));
    json_decref(g);
    bb_csv_done(&front);

    exchange_roles(dir, smaller);
    evaluate_again(dir);
    ck_assert_ptr_nonnull(strstr(said, "kept at 1 of 2 sizes"));
    g = verdict(dir);
    sizes = json_object_get(g, "sizes");
    front = table(dir, "front.csv");
    ck_assert(!won(json_array_get(sizes, 0)));
    ck_assert_double_lt(real(json_array_get(sizes, 0), "margin_nats"), 0);
    ck_assert_double_gt(real(json_array_get(sizes, 0), "p"), 0.99);
    ck_assert(won(json_array_get(sizes, 1)));
    ck_assert_uint_eq(front.n_rows, 2 + 1);
    ck_assert_str_eq(word(json_array_get(sizes, 0), "winner"), text(&front, 0, "plan_hash"));
    json_decref(g);
    bb_csv_done(&front);
}
END_TEST

/* The sentence and guard.json name the steps that were run, not those that were asked for; one that needs too much memory is left out for all plans. */
START_TEST(the_finishing_is_what_was_run)
{
    static const char options[] = "--points 1 --min-bpw 5.7 --max-bpw 5.7 --finalise-steps rebuild,lfq,end-to-end --threads 1";
    char              limited[256];
    long long         least;
    make_model();
    snprintf(line, sizeof line, "estimate %s " SETTINGS " %s --json", model, options);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0 && strstr(said, "\"ram_least_bytes\": "), "%s", said);
    least = atoll(strstr(said, "\"ram_least_bytes\": ") + strlen("\"ram_least_bytes\": "));
    snprintf(limited, sizeof limited, "%s --max-ram %lld", options, least);
    const char *dir = make_run("sweep", limited, "left-out");
    ck_assert_msg(strstr(said, "needs --max-ram") != NULL && strstr(said, "the step is left out") != NULL, "%s", said);
    const char *early = strstr(said, "end-to-end: training all blocks");
    ck_assert_msg(early && early < strstr(said, "calibration: "), "%s", said);        /* known at the start */
    ck_assert_msg(!strstr(early + 1, "end-to-end: training all blocks"), "%s", said); /* and said once */
    const long long needed = atoll(strstr(said, "needs --max-ram") + strlen("needs --max-ram"));
    ck_assert_msg(strstr(said, "after the same finishing: rebuild,lfq\n") != NULL, "%s", said);
    bb_csv  steps = table(dir, "finalise.csv");
    json_t *g = verdict(dir);
    ck_assert_str_eq(word(g, "finishing"), "rebuild,lfq");
    for (size_t i = 0; i < steps.n_rows; i++) ck_assert_str_ne(text(&steps, i, "step"), "end-to-end");
    json_decref(g);
    bb_csv_done(&steps);
    snprintf(limited, sizeof limited, "%s --max-ram %lld", options, needed); /* exactly enough, with an optimizer's state of 8 bits */
    dir = make_run("sweep", limited, "coarse");
    ck_assert_msg(strstr(said, "end-to-end: the optimizer's state is of 8 bits") != NULL, "%s", said);
    g = verdict(dir);
    ck_assert_str_eq(word(g, "finishing"), "rebuild,lfq,end-to-end");
    json_decref(g);
}
END_TEST

/* At the smallest size that pruning can reach nothing of a random model is left, and the user is told. */
START_TEST(a_damaged_file_is_called_so)
{
    const char *dir = make_run("run", "--target-bpw 3.4 --prune all --no-finalise", "damaged");
    ck_assert_msg(strstr(said, "this file is badly damaged") && strstr(said, "ask for a larger size"), "%s", said);
    json_t *g = verdict(dir);
    ck_assert(json_is_true(json_object_get(g, "badly_damaged")));
    ck_assert(real(g, "kl_nats") > 1 || real(g, "top1") < 0.5);
    json_decref(g);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("guard");
    TCase *t = tcase_create("end to end");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, one_target_finalises_its_own_plans);
    tcase_add_test(t, what_cannot_win_is_not_finished);
    tcase_add_test(t, time_leaves_out_no_spared_plan);
    tcase_add_test(t, time_bounds_what_is_readmitted);
    tcase_add_test(t, one_searched_plan_is_guarded_before_and_after);
    tcase_add_test(t, a_part_of_the_windows_stands_for_all);
    tcase_add_test(t, every_size_of_a_sweep_is_guarded);
    tcase_add_test(t, the_finishing_is_what_was_run);
    tcase_add_test(t, a_damaged_file_is_called_so);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
