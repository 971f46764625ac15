/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_study.c: the study of a tiny run: its table against one made again from study.csv by definition, the same numbers when it is run again
 * with other threads, and what it refuses. Needs the built program. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"

#define SWEEP \
    "sweep tests/data/stories260K.gguf --formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --calib-windows 4 --confirm-windows 6 " \
    "--refine-windows 4 --measure-windows 1 --search-tokens 0.003 --points 2 --min-bpw 6 --max-bpw 9 --ctx 32 --sweeps 1 --prune width " \
    "--ffn-divisor 86 --no-finalise -q --threads 1"

static char said[8192];

static char dir[512]; /* the searched run */

static void make_run(void)
{
    char arguments[1024];
    snprintf(dir, sizeof dir, "%s", bb_test_path("run"));
    snprintf(arguments, sizeof arguments, SWEEP " --out %s", dir);
    int code = bb_test_program(arguments, said, sizeof said);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
}

static int study(const char *options)
{
    char arguments[1024];
    snprintf(arguments, sizeof arguments, "study %s%s --bands 6.5,8 --bootstrap 50 -q %s", dir, strstr(options, "--gradient") ? "" : " --plans 7", options);
    return bb_test_program(arguments, said, sizeof said);
}

static void read_table(const char *name, bb_csv *t)
{
    char   path[600];
    bb_err err = BB_ERR_INIT;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_msg(bb_csv_read(path, t, &err) == BB_OK, "%s", err.msg);
}

static bool same_group(const bb_csv *a, size_t i, const bb_csv *b, size_t j)
{
    static const char *const by[] = { "set", "band_bpw", "proxy" };
    for (int k = 0; k < 3; k++)
        if (strcmp(bb_csv_text(a, i, (size_t)bb_csv_column(a, by[k])), bb_csv_text(b, j, (size_t)bb_csv_column(b, by[k]))) != 0) return false;
    return true;
}

START_TEST(its_table_follows_from_its_plans)
{
    bb_csv rows, plans;
    int    code = study("--threads 1");
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    read_table("proxy.csv", &rows);
    read_table("study.csv", &plans);
    ck_assert_uint_eq(rows.n_cols, 11);
    ck_assert_uint_gt(rows.n_rows, 2 * 2 * 10); /* sets x bands x at least ten proxies */
    for (size_t i = 0; i < rows.n_rows; i++) {
        double score[16], kl[16], least = HUGE_VAL, chosen = 0, lowest = HUGE_VAL;
        size_t n = 0;
        long   sum = 0, na = 0, nb = 0;
        for (size_t j = 0; j < plans.n_rows; j++) {
            if (!same_group(&rows, i, &plans, j)) continue;
            ck_assert_uint_lt(n, 16);
            score[n] = bb_test_number(&plans, j, "score");
            kl[n++] = bb_test_number(&plans, j, "kl_nats");
        }
        ck_assert_uint_eq(n, (size_t)bb_test_number(&rows, i, "n_plans"));
        for (size_t a = 0; a < n; a++) {
            if (score[a] < lowest) {
                lowest = score[a];
                chosen = kl[a];
            }
            least = fmin(least, kl[a]);
            for (size_t b = 0; b < a; b++) {
                int s = score[a] > score[b] ? 1 : score[a] < score[b] ? -1 : 0, t = kl[a] > kl[b] ? 1 : kl[a] < kl[b] ? -1 : 0;
                sum += s * t;
                na += s != 0;
                nb += t != 0;
            }
        }
        ck_assert(fabs(bb_test_number(&rows, i, "tau") - (double)sum / sqrt((double)na * (double)nb)) < 1e-6);
        ck_assert(fabs(bb_test_number(&rows, i, "regret_nats") - (chosen - least)) < 1e-6);
        ck_assert(bb_test_number(&rows, i, "tau_lo") <= bb_test_number(&rows, i, "tau_hi"));
    }
    bb_csv_done(&rows);
    bb_csv_done(&plans);
}
END_TEST

START_TEST(again_it_says_the_same)
{
    char  *a, *b, path[600];
    size_t n, m;
    snprintf(path, sizeof path, "%s/study.csv", dir);
    ck_assert_int_eq(study("--threads 1"), 0);
    ck_assert_int_eq(bb_file_read(path, &a, &n, NULL), BB_OK);
    ck_assert_int_eq(study("--threads 2"), 0);
    ck_assert_int_eq(bb_file_read(path, &b, &m, NULL), BB_OK);
    ck_assert(n == m && memcmp(a, b, n) == 0);
    bb_free(a);
    bb_free(b);
    snprintf(path, sizeof path, "%s/plots/proxy.svg", dir);
    ck_assert(bb_file_exists(path));
}
END_TEST

/* A band that no plan reaches is skipped aloud; the others are studied. */
START_TEST(a_band_below_the_smallest_plan_is_skipped)
{
    char   arguments[1024];
    bb_csv rows;
    snprintf(arguments, sizeof arguments, "study %s --plans 7 --bands 0.5,8 --bootstrap 50 --threads 1 --no-anchors", dir);
    int code = bb_test_program(arguments, said, sizeof said);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    ck_assert_msg(strstr(said, "0.5 bits per weight") && strstr(said, "are skipped: the smallest plan has"), "%s", said);
    read_table("proxy.csv", &rows);
    ck_assert_uint_gt(rows.n_rows, 10);
    for (size_t i = 0; i < rows.n_rows; i++) ck_assert(fabs(bb_test_number(&rows, i, "band_bpw") - 8) < 1e-9);
    bb_csv_done(&rows);
}
END_TEST

/* ---- --gradient ---- */

/* Kendall's tau-b of two columns, by definition. */
static double tau_of(const double *a, const double *b, size_t n)
{
    long sum = 0, na = 0, nb = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++) {
            const int x = a[i] > a[k] ? 1 : a[i] < a[k] ? -1 : 0, y = b[i] > b[k] ? 1 : b[i] < b[k] ? -1 : 0;
            sum += x * y;
            na += x != 0;
            nb += y != 0;
        }
    return (double)sum / sqrt((double)na * (double)nb);
}

/* Every option has its orders, a drawn number of them the measured KL; the ranks follow from the table, and the expansion ranks well. */
START_TEST(what_a_gradient_says_of_every_option)
{
    enum { MEASURED = 30 };
    char   path[600], *a, *b, options[200];
    size_t n, m, measured = 0, chosen = 0;
    bb_csv rows, rank;
    double first[MEASURED], both[MEASURED], truth[MEASURED], kl;
    for (int threads = 1; threads <= 2; threads++) {
        snprintf(options, sizeof options, "--gradient --changes %d --labels 2 --threads %d", MEASURED, threads);
        const int code = study(options);
        ck_assert_msg(code == 0, "exit %d: %s", code, said);
        snprintf(path, sizeof path, "%s/gradient.csv", dir);
        ck_assert_int_eq(bb_file_read(path, threads == 1 ? &a : &b, threads == 1 ? &n : &m, NULL), BB_OK);
    }
    ck_assert(n == m && memcmp(a, b, n) == 0);
    bb_free(a);
    bb_free(b);
    read_table("gradient.csv", &rows);
    read_table("gradient_rank.csv", &rank);
    const char *size = bb_csv_text(&rank, 0, 0);
    kl = bb_test_number(&rank, 0, "kl_nats");
    for (size_t i = 0; i < rows.n_rows; i++) {
        if (strcmp(bb_csv_text(&rows, i, 0), size) != 0) continue;
        const double one = bb_test_number(&rows, i, "first_order"), two = bb_test_number(&rows, i, "second_order");
        ck_assert(fabs(bb_test_number(&rows, i, "predicted_kl") - (kl + one + two)) < 1e-7 && two >= 0);
        if (strcmp(bb_csv_text(&rows, i, (size_t)bb_csv_column(&rows, "chosen")), "yes") == 0) {
            chosen++;
            ck_assert(one == 0 && two == 0);
        }
        if (!*bb_csv_text(&rows, i, (size_t)bb_csv_column(&rows, "kl_nats"))) continue;
        ck_assert_uint_lt(measured, MEASURED);
        first[measured] = one;
        both[measured] = one + two;
        truth[measured++] = bb_test_number(&rows, i, "kl_nats") - kl;
    }
    ck_assert_uint_eq(measured, MEASURED);
    ck_assert_uint_gt(chosen, 5 * 9);
    for (size_t i = 0; i < 4; i++) {
        const char *score = bb_csv_text(&rank, i, (size_t)bb_csv_column(&rank, "score"));
        ck_assert_str_eq(bb_csv_text(&rank, i, (size_t)bb_csv_column(&rank, "set")), "all");
        ck_assert(bb_test_number(&rank, i, "n") == MEASURED);
        if (strcmp(score, "first order") == 0) ck_assert(fabs(bb_test_number(&rank, i, "tau") - tau_of(first, truth, MEASURED)) < 1e-6);
        if (strcmp(score, "first and second") != 0) continue;
        ck_assert(fabs(bb_test_number(&rank, i, "tau") - tau_of(both, truth, MEASURED)) < 1e-6);
        ck_assert(bb_test_number(&rank, i, "tokens") == 1 * 32 * 7);
    }
    bb_csv_done(&rows);
    bb_csv_done(&rank);
    ck_assert_int_eq(study("--changes 3"), 2);
    ck_assert_ptr_nonnull(strstr(said, "--gradient"));
    snprintf(path, sizeof path, "study %s --gradient --changes 3 --bands 0.5,8", dir);
    const int code = bb_test_program(path, said, sizeof said);
    ck_assert_msg(code == 0 && strstr(said, "0.5 bits per weight") && strstr(said, "are skipped"), "exit %d: %s", code, said);
    snprintf(path, sizeof path, "study %s --gradient --sizes 100", dir);
    ck_assert_int_eq(bb_test_program(path, said, sizeof said), 3);
    ck_assert_msg(strstr(said, "--sizes: no plan has 100 bytes"), "%s", said);
}
END_TEST

/* ---- --through rebuild, ladder ---- */

static int survival(const char *run, const char *options)
{
    char arguments[1024];
    snprintf(arguments, sizeof arguments, "study %s --plans 9%s --bootstrap 50 --few 2 -q %s", run, strstr(options, "--sizes") ? "" : " --bands 6.5,8",
             options);
    return bb_test_program(arguments, said, sizeof said);
}

static double score_of(const bb_csv *plans, size_t row)
{
    const char *cell = bb_csv_text(plans, row, (size_t)bb_csv_column(plans, "kl_nats"));
    return *cell && strcmp(cell, "nan") != 0 ? bb_test_number(plans, row, "kl_nats") : (double)NAN;
}

/* Kendall's tau-b and the regret of a score, from the table of plans. */
static void rank_of(const bb_csv *plans, const char *budget, const char *score, const char *truth, double *tau, double *regret, size_t *n)
{
    double a[16], b[16], least = HUGE_VAL, lowest = HUGE_VAL, chosen = 0;
    long   sum = 0, na = 0, nb = 0;
    size_t n_a = 0, n_b = 0;
    for (size_t j = 0; j < plans->n_rows; j++) {
        const char *name = bb_csv_text(plans, j, (size_t)bb_csv_column(plans, "score"));
        if (strcmp(bb_csv_text(plans, j, 0), budget) != 0) continue;
        if (strcmp(name, score) == 0) a[n_a++] = score_of(plans, j);
        if (strcmp(name, truth) == 0) b[n_b++] = score_of(plans, j);
        ck_assert(n_a < 16 && n_b < 16);
    }
    ck_assert_uint_eq(n_a, n_b);
    for (size_t i = n_b = 0; i < n_a; i++) /* a score may not know every plan */
        if (isfinite(a[i])) {
            a[n_b] = a[i];
            b[n_b++] = b[i];
        }
    n_a = n_b;
    for (size_t i = 0; i < n_a; i++) {
        if (a[i] < lowest) {
            lowest = a[i];
            chosen = b[i];
        }
        least = fmin(least, b[i]);
        for (size_t k = 0; k < i; k++) {
            const int x = a[i] > a[k] ? 1 : a[i] < a[k] ? -1 : 0, y = b[i] > b[k] ? 1 : b[i] < b[k] ? -1 : 0;
            sum += x * y;
            na += x != 0;
            nb += y != 0;
        }
    }
    *tau = (double)sum / sqrt((double)na * (double)nb);
    *regret = chosen - least;
    *n = n_a;
}

/* Of the first plan of the first size whose source begins with `source`. */
static double score_of_plan(const bb_csv *plans, const char *score, const char *source)
{
    for (size_t i = 0; i < plans->n_rows; i++)
        if (strcmp(bb_csv_text(plans, i, 0), bb_csv_text(plans, 0, 0)) == 0 &&
            strcmp(bb_csv_text(plans, i, (size_t)bb_csv_column(plans, "score")), score) == 0 && strncmp(bb_csv_text(plans, i, 2), source, strlen(source)) == 0)
            return score_of(plans, i);
    return (double)NAN;
}

/* Bytes of this option of all units of a kind. */
static double bytes_of_kind(const bb_csv *options, const char *kind, const char *option)
{
    double sum = 0;
    for (size_t i = 0; i < options->n_rows; i++) {
        const char *unit = bb_csv_text(options, i, 0), *dot = strrchr(unit, '.');
        if (strcmp(dot ? dot + 1 : unit, kind) == 0 && strcmp(bb_csv_text(options, i, 1), option) == 0) sum += bb_test_number(options, i, "bytes");
    }
    return sum;
}

/* Around the uniform plans of three formats: a row for each next option and no other, of all units of the kind; pruning costs much. */
static void check_next_options(const char *run)
{
    static const char *const formats[] = { "Q4_0", "Q8_0", "F32" }, *const sizes[] = { "430000", "700000", "10485760" };
    char   line[700], path[700];
    bb_csv t, options;
    snprintf(line, sizeof line, "study %s --kinds --sizes 430000,700000,10485760 -q --threads 1", run);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
    snprintf(path, sizeof path, "%s/survival_kinds.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    snprintf(path, sizeof path, "%s/options.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &options, NULL), BB_OK);
    size_t row = 0;
    for (int base = 0; base < 3; base++) {
        static const char *const kinds[] = { "ffn", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up" };
        double                   plain = 0;
        for (size_t k = 0; k < t.n_rows; k++) { /* the uniform plan's bytes, from the first row of attn_q */
            if (strcmp(bb_csv_text(&t, k, 0), sizes[base]) != 0 || strcmp(bb_csv_text(&t, k, 1), "attn_q") != 0) continue;
            plain = bb_test_number(&t, k, "size_bytes") + bytes_of_kind(&options, "attn_q", formats[base]) -
                    bytes_of_kind(&options, "attn_q", bb_csv_text(&t, k, 3));
            break;
        }
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
            size_t n = 0;
            for (size_t k = 0; k < t.n_rows; k++) {
                if (strcmp(bb_csv_text(&t, k, 0), sizes[base]) != 0 || strcmp(bb_csv_text(&t, k, 1), kinds[kind]) != 0) continue;
                const char *changed = bb_csv_text(&t, k, 3);
                const int   to = base == 0 ? 1 : base == 2 ? 1 : n == 0 ? 2 : 0; /* the larger first */
                n++;
                if (kind == 0) {
                    ck_assert_str_eq(changed, "86");
                    ck_assert(bb_test_number(&t, k, "alone_nats") > 0.5 && bb_test_number(&t, k, "rebuilt_nats") > 0.5);
                    continue;
                }
                ck_assert_str_eq(bb_csv_text(&t, k, 2), formats[base]);
                ck_assert_str_eq(changed, formats[to]);
                const double more = bytes_of_kind(&options, kinds[kind], changed) - bytes_of_kind(&options, kinds[kind], formats[base]);
                ck_assert(fabs(bb_test_number(&t, k, "size_bytes") - plain - more) < 0.5);
            }
            ck_assert_uint_eq(n, kind > 0 && base == 1 ? 2 : 1);
            row += n;
        }
    }
    ck_assert_uint_ge(t.n_rows, row);
    bb_csv_done(&t);
    bb_csv_done(&options);
}

/* Fewer calibration windows give other rebuilds, and the same of what stands alone. */
static void check_windows_of_kinds(const char *run)
{
    char   line[700], path[700];
    bb_csv t[2];
    size_t differ = 0;
    snprintf(path, sizeof path, "%s/survival_kinds.csv", run);
    for (int few = 0; few < 2; few++) {
        snprintf(line, sizeof line, "study %s --kinds --sizes 700000 -q --threads 1%s", run, few ? " --windows 1" : "");
        ck_assert_int_eq(bb_test_program(line, said, sizeof said), 0);
        ck_assert_int_eq(bb_csv_read(path, &t[few], NULL), BB_OK);
    }
    ck_assert_uint_eq(t[0].n_rows, t[1].n_rows);
    for (size_t i = 0; i < t[0].n_rows; i++) {
        ck_assert_str_eq(bb_csv_text(&t[0], i, 6), bb_csv_text(&t[1], i, 6));
        differ += strcmp(bb_csv_text(&t[0], i, 8), bb_csv_text(&t[1], i, 8)) != 0;
    }
    ck_assert_uint_gt(differ, t[0].n_rows / 2);
    bb_csv_done(&t[0]);
    bb_csv_done(&t[1]);
}

/* What a kind of study does not read is refused, not left aside. */
static void check_idle_options(const char *run)
{
    static const char *const idle[] = { "--kinds --gradient",
                                        "--kinds --plans 5",
                                        "--kinds --level refine",
                                        "--kinds --seed 2",
                                        "--kinds --bootstrap 50",
                                        "--kinds --no-anchors",
                                        "--kinds --few 2",
                                        "--kinds --through rebuild",
                                        "--gradient --through rebuild",
                                        "--kinds --sizes 700000 --bands 8",
                                        "--sizes 700000",
                                        "--windows 1" };
    char                     line[700];
    for (size_t i = 0; i < sizeof idle / sizeof *idle; i++) {
        snprintf(line, sizeof line, "study %s %s -q", run, idle[i]);
        ck_assert_int_eq(bb_test_program(line, said, sizeof said), 2);
        ck_assert_msg(strstr(said, "has no effect"), "%s: %s", idle[i], said);
    }
}

/* --kinds around the best uniform plan of a size, whose KLs a study of plans has; larger options first, the same bytes for any number of threads. */
static void check_kinds(const char *run)
{
    char        options[700], path[700], *a, *b;
    const char *before = "";
    bb_csv      t, plans;
    size_t      n, m, both = 0;
    ck_assert_int_eq(survival(run, "--through rebuild --sizes 700000"), 0);
    snprintf(path, sizeof path, "%s/survival.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &plans, NULL), BB_OK);
    snprintf(options, sizeof options, "study %s --kinds --sizes 700000 -q --threads 2", run);
    int code = bb_test_program(options, said, sizeof said);
    ck_assert_msg(code == 0 && strstr(said, "token_embd"), "exit %d: %s", code, said);
    snprintf(path, sizeof path, "%s/survival_kinds.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    ck_assert_uint_ge(t.n_rows, 10);
    for (size_t i = 0; i < t.n_rows; i++) {
        const char  *kind = bb_csv_text(&t, i, 1);
        const double size = bb_test_number(&t, i, "size_bytes"), alone = bb_test_number(&t, i, "alone_nats"), rebuilt = bb_test_number(&t, i, "rebuilt_nats");
        ck_assert(fabs(bb_test_number(&t, i, "base_alone") - score_of_plan(&plans, "database", "uniform")) < 1e-8);
        ck_assert(fabs(bb_test_number(&t, i, "base_rebuilt") - score_of_plan(&plans, "rebuild", "uniform")) < 1e-8);
        ck_assert(fabs(bb_test_number(&t, i, "share") * alone - rebuilt) < 1e-6 * fabs(alone) + 1e-9);
        ck_assert_str_ne(bb_csv_text(&t, i, 2), bb_csv_text(&t, i, 3));
        if (strcmp(kind, before) == 0) { /* the larger options come first */
            ck_assert(bb_test_number(&t, i - 1, "size_bytes") > size);
            both++;
        }
        before = kind;
    }
    ck_assert_uint_ge(both, 3);
    bb_csv_done(&t);
    bb_csv_done(&plans);
    ck_assert_int_eq(bb_file_read(path, &a, &n, NULL), BB_OK);
    snprintf(options, sizeof options, "study %s --kinds --sizes 700000 -q --threads 1", run);
    ck_assert_int_eq(bb_test_program(options, said, sizeof said), 0);
    ck_assert_int_eq(bb_file_read(path, &b, &m, NULL), BB_OK);
    ck_assert(n == m && memcmp(a, b, n) == 0);
    bb_free(a);
    bb_free(b);
    check_next_options(run);
    check_windows_of_kinds(run);
    check_idle_options(run);
    snprintf(options, sizeof options, "study %s --kinds --sizes 220000 -q", run);
    ck_assert_int_eq(bb_test_program(options, said, sizeof said), 3);
    ck_assert_msg(strstr(said, "no uniform plan is as small"), "%s", said);
    const char *smallest = strstr(said, "; the smallest has "); /* and that is true to the byte */
    ck_assert_msg(smallest, "%s", said);
    const long long least = atoll(smallest + strlen("; the smallest has "));
    for (int fits = 0; fits < 2; fits++) {
        snprintf(options, sizeof options, "study %s --kinds --sizes %lld -q --threads 1", run, least - 1 + fits);
        ck_assert_msg(bb_test_program(options, said, sizeof said) == (fits ? 0 : 3), "%lld: %s", least, said);
    }
}

START_TEST(how_plans_survive_a_rebuild)
{
    char   arguments[1024], run[600], path[700], *a, *b;
    bb_csv plans, rank, steps;
    size_t n, m, compared = 0;
    snprintf(run, sizeof run, "%s", bb_test_path("rebuilt"));
    snprintf(arguments, sizeof arguments, SWEEP " --out %s", run);
    *strstr(arguments, "--no-finalise") = '\0';
    snprintf(arguments + strlen(arguments), sizeof arguments - strlen(arguments), "--finalise-steps rebuild -q --threads 1 --out %s", run);
    int code = bb_test_program(arguments, said, sizeof said);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    code = survival(run, "--through ladder --threads 1");
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    snprintf(path, sizeof path, "%s/survival.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &plans, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(path, &a, &n, NULL), BB_OK);
    ck_assert_int_eq(survival(run, "--through ladder --threads 2"), 0);
    ck_assert_int_eq(bb_file_read(path, &b, &m, NULL), BB_OK);
    ck_assert(n == m && memcmp(a, b, n) == 0);
    bb_free(a);
    bb_free(b);

    /* What the study says of a plan that was finalised is what finalise said of it. */
    snprintf(path, sizeof path, "%s/finalise.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &steps, NULL), BB_OK);
    for (size_t i = 0; i < plans.n_rows; i++)
        for (size_t j = 0; j < steps.n_rows; j++) {
            const char *score = bb_csv_text(&plans, i, (size_t)bb_csv_column(&plans, "score")), *step = bb_csv_text(&steps, j, 2);
            if (strcmp(bb_csv_text(&plans, i, 1), bb_csv_text(&steps, j, 0)) != 0 || strcmp(score, step) != 0) continue;
            ck_assert_str_eq(bb_csv_text(&plans, i, (size_t)bb_csv_column(&plans, "kl_nats")), bb_csv_text(&steps, j, 3));
            compared++;
        }
    ck_assert_uint_ge(compared, 2);

    snprintf(path, sizeof path, "%s/survival_rank.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &rank, NULL), BB_OK);
    ck_assert_uint_eq(rank.n_rows, 2 * (5 + 6)); /* five scores of a rebuild; these and the rebuild of the ladder; two sizes */
    for (size_t i = 0; i < rank.n_rows; i++) {
        double tau, regret;
        rank_of(&plans, bb_csv_text(&rank, i, 0), bb_csv_text(&rank, i, 1), bb_csv_text(&rank, i, 2), &tau, &regret, &n);
        ck_assert_uint_eq(n, (size_t)bb_test_number(&rank, i, "n_plans"));
        ck_assert(fabs(bb_test_number(&rank, i, "tau") - tau) < 1e-6);
        ck_assert(fabs(bb_test_number(&rank, i, "regret_nats") - regret) < 1e-6);
    }
    bb_csv_done(&plans);
    bb_csv_done(&rank);
    bb_csv_done(&steps);
    ck_assert_int_eq(survival(run, "--through rebuild --few x"), 2);
    ck_assert_int_eq(survival(run, "--through rebuild --few 4,04"), 2);
    ck_assert_int_eq(survival(run, "--through rebuild --sizes 100"), 3);
    ck_assert_msg(strstr(said, "--sizes: no plan has 100 bytes"), "%s", said);
    ck_assert_int_eq(survival(run, "--through thick"), 2);
    check_kinds(run);
}
END_TEST

START_TEST(it_refuses)
{
    ck_assert_int_eq(bb_test_program("study", said, sizeof said), 2);
    ck_assert_int_eq(bb_test_program("study /nowhere", said, sizeof said), 5);
    ck_assert_int_eq(study("--threads 1 --bands x"), 2);
    ck_assert_int_eq(study("--threads 1 --bands 0.01"), 3); /* smaller than any file */
    ck_assert_int_eq(study("--threads 1 --level top"), 2);
    static const char *const idle[] = { "--few 4", "--gradient --no-anchors", "--gradient --plans 5", "--gradient --windows 3",
                                        "--through rebuild --level confirm" };
    for (size_t i = 0; i < sizeof idle / sizeof *idle; i++) {
        char arguments[512];
        snprintf(arguments, sizeof arguments, "study /nowhere %s", idle[i]);
        ck_assert_msg(bb_test_program(arguments, said, sizeof said) == 2 && strstr(said, "has no effect"), "%s: %s", idle[i], said);
    }
    ck_assert_int_eq(bb_test_program("study --help", said, sizeof said), 0);
    ck_assert_ptr_nonnull(strstr(said, "--bands"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli study");
    TCase *t = tcase_create("study");
    tcase_set_timeout(t, 120);
    tcase_add_unchecked_fixture(t, make_run, NULL);
    tcase_add_test(t, its_table_follows_from_its_plans);
    tcase_add_test(t, again_it_says_the_same);
    tcase_add_test(t, a_band_below_the_smallest_plan_is_skipped);
    tcase_add_test(t, what_a_gradient_says_of_every_option);
    tcase_add_test(t, how_plans_survive_a_rebuild);
    tcase_add_test(t, it_refuses);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
