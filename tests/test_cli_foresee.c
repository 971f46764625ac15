/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_foresee.c: what is foreseen of plans, tables and products, against sums by hand; where a search foresees, and that it goes by that. Needs the built
 * program. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "engine/foresee.h"
#include "engine/front.h"
#include "model/compress/plan_units.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"

/* One block's FFN of two widths, its gate, and the embedding. */
static const bb_plan_option widths[] = { { "512", 512 }, { "256", 256 } }, formats[] = { { "Q4_0", BB_Q4_0 }, { "Q8_0", BB_Q8_0 } };
static const bb_plan_unit   names[] = { { "blk.0.ffn", BB_UNIT_FFN, 0, -1, 2, widths },
                                        { "blk.0.ffn_gate", BB_PART_GATE, 0, 0, 2, formats },
                                        { "token_embd", BB_UNIT_EMBD, 0, -1, 2, formats } };
static const int64_t        bytes[3][4] = { { 0, 0 }, { 40, 80, 20, 40 }, { 40, 80 } };
static const double         cost[3][4] = { { 0, 0.5 }, { 0.2, 0.02, 0.1, 0.01 }, { 0.4, 0.03 } };
static const double         shares[3] = { 0.65, 0.38, 0.75 };

typedef struct world {
    bb_plan_space plans;
    bb_unit       units[3];
    bb_problem    p;
    bb_foresee    f;
} world;

static void set_up(world *w)
{
    ck_assert_int_eq(bb_plan_space_init(&w->plans, names, 3, NULL), BB_OK);
    for (int u = 0; u < 3; u++) w->units[u] = (bb_unit) { 2, names[u].controller, bytes[u], cost[u] };
    w->p = (bb_problem) { .n_units = 3, .units = w->units, .plans = &w->plans };
    ck_assert_int_eq(bb_foresee_init(&w->p, &w->f, NULL), BB_OK);
}

static void tear_down(world *w)
{
    bb_foresee_done(&w->f);
    bb_foresee_done(&w->f); /* zeroed is fine */
    bb_plan_space_done(&w->plans);
}

START_TEST(plans_are_weighed_by_the_shares_of_their_units)
{
    world w;
    set_up(&w);
    for (uint16_t i = 0; i < 8; i++) {
        const uint16_t x[3] = { i & 1, i >> 1 & 1, i >> 2 };
        const double   each[3] = { cost[0][x[0]], cost[1][2 * x[0] + x[1]], cost[2][x[2]] };
        double         all = 0, left = 0;
        for (int u = 0; u < 3; u++) {
            all += each[u];
            left += shares[u] * each[u];
        }
        ck_assert(fabs(bb_foresee_weight(&w.f, x) - left / all) < 1e-14);
        ck_assert(fabs(bb_problem_cost(&w.f.v.problem, x) - left) < 1e-14);
        ck_assert(fabs(bb_problem_cost(&w.p, x) - all) < 1e-14); /* what was measured stays */
        ck_assert_int_eq(bb_problem_size(&w.f.v.problem, x), bb_problem_size(&w.p, x));
    }
    tear_down(&w);
}
END_TEST

/* What costs nothing is weighed as it is. */
START_TEST(a_plan_without_loss_has_weight_one)
{
    static const double nothing[4] = { 0 };
    const uint16_t      x[3] = { 0 };
    world               w;
    set_up(&w);
    for (int u = 0; u < 3; u++) w.units[u].cost = nothing;
    ck_assert(bb_foresee_weight(&w.f, x) == 1);
    tear_down(&w);
}
END_TEST

START_TEST(tables_and_products_shrink_by_share_and_root)
{
    double   first[2] = { 1, -2 }, second[4] = { 3, 4, -5, 6 }, third[2] = { 7, 8 }, *linear[3] = { first, second, third };
    float    gram[36];
    bb_space space;
    world    w;
    set_up(&w);
    ck_assert_int_eq(bb_space_init(&w.p, &space, NULL), BB_OK);
    for (int i = 0; i < 36; i++) gram[i] = (float)(i + 1);
    bb_foresee_scale(&w.f, &space, linear, gram);
    ck_assert(fabs(first[1] + 2 * shares[0]) < 1e-14 && fabs(second[2] + 5 * shares[1]) < 1e-14 && fabs(third[0] - 7 * shares[2]) < 1e-14);
    for (int i = 0; i < 36; i++) ck_assert(fabs((double)gram[i] - (i + 1) * sqrt(shares[i / 12] * shares[i % 6 / 2])) < 1e-5);
    bb_foresee_scale(&w.f, &space, NULL, gram);
    bb_foresee_scale(&w.f, &space, linear, NULL);
    ck_assert(fabs(third[0] - 7 * shares[2] * shares[2]) < 1e-14);
    ck_assert(fabs((double)gram[35] - 36 * shares[2] * shares[2]) < 1e-4);
    bb_space_done(&space);
    tear_down(&w);
}
END_TEST

/* The table of docs/search.md; what was not measured has a half. */
START_TEST(every_kind_has_its_share)
{
    static const struct {
        const char *name;
        uint32_t    what;
        double      share;
    } kinds[] = {
        { "token_embd", BB_UNIT_EMBD, 0.75 },
        { "output", BB_UNIT_HEAD, 0.75 },
        { "per_layer_token_embd", BB_UNIT_TABLE, 0.75 },
        { "blk.0.kv", BB_UNIT_KV, 0.65 },
        { "blk.0.ffn", BB_UNIT_FFN, 0.65 },
        { "blk.0.attn_q", BB_PART_Q, 0.55 },
        { "blk.0.attn_k", BB_PART_K, 0.55 },
        { "blk.0.attn_v", BB_PART_V, 0.12 },
        { "blk.0.attn_output", BB_PART_O, 0.45 },
        { "blk.0.ffn_gate", BB_PART_GATE, 0.38 },
        { "blk.0.ffn_up", BB_PART_UP, 0.38 },
        { "blk.0.ffn_down", BB_PART_DOWN, 0.55 },
        { "blk.0.inp_gate", BB_PART_TOKEN_GATE, 0.5 },
    };
    enum { N = sizeof kinds / sizeof *kinds };
    bb_plan_unit  described[N];
    bb_unit       units[N];
    bb_plan_space plans;
    bb_foresee    f;
    for (int u = 0; u < N; u++) {
        described[u] = (bb_plan_unit) { kinds[u].name, kinds[u].what, 0, -1, 2, formats };
        units[u] = (bb_unit) { 2, -1, bytes[2], cost[2] };
    }
    ck_assert_int_eq(bb_plan_space_init(&plans, described, N, NULL), BB_OK);
    const bb_problem p = { .n_units = N, .units = units, .plans = &plans };
    ck_assert_int_eq(bb_foresee_init(&p, &f, NULL), BB_OK);
    for (int u = 0; u < N; u++) ck_assert_msg(fabs(f.share[u] - kinds[u].share) < 1e-15, "%s: %g", kinds[u].name, f.share[u]);
    bb_foresee_done(&f);
    bb_plan_space_done(&plans);
}
END_TEST

/* By what the search chose by, not by the KL that was measured; simple plans are nothing that it found. */
START_TEST(the_best_plan_of_a_size_is_the_searched_one_of_least_foreseen_kl)
{
    bb_front_plan  plans[] = { { .size_bytes = 100, .is_searched = true, .kl = 0.5, .foreseen = 0.4 },
                               { .size_bytes = 200, .is_baseline = true, .kl = 0.1, .foreseen = 0.1 },
                               { .size_bytes = 200, .is_searched = true, .kl = 0.4, .foreseen = 0.2 },
                               { .size_bytes = 200, .is_searched = true, .kl = 0.3, .foreseen = 0.3 },
                               { .size_bytes = 300, .is_baseline = true, .is_searched = true, .kl = 0.1, .foreseen = 0.1 } };
    const bb_front f = { .n = sizeof plans / sizeof *plans, .plans = plans };
    ck_assert_ptr_null(bb_front_best(&f, 99));
    ck_assert_ptr_eq(bb_front_best(&f, 100), &plans[0]);
    ck_assert_ptr_eq(bb_front_best(&f, 200), &plans[2]);
    ck_assert_ptr_eq(bb_front_best(&f, 299), &plans[2]);
    ck_assert_ptr_eq(bb_front_best(&f, 300), &plans[4]);
}
END_TEST

START_TEST(a_run_foresees_where_it_rebuilds)
{
    char          on[] = "rebuild", off[] = "none", steps[] = "lfq,rebuild", others[] = "blocks,lfq";
    bb_run_config c = { .foresee = on, .finalise_steps = steps };
    ck_assert(bb_run_foresees(&c));
    c.foresee = off;
    ck_assert(!bb_run_foresees(&c));
    c.foresee = on;
    c.finalise_steps = others;
    ck_assert(!bb_run_foresees(&c));
    c.finalise_steps = steps;
    c.no_finalise = true;
    ck_assert(!bb_run_foresees(&c));
}
END_TEST

/* ---- a run ---- */

/* The loss of a plan as the search foresees it: *all: the measured KLs of its options (of a narrower block in proportion to its width), *left: each times the
 * share of its kind. */
static void losses_of(const char *run, const char *hash, const bb_csv *options, double *all, double *left)
{
    static const struct {
        const char *end;
        double      share;
    } kinds[] = { { "token_embd", 0.75 }, { ".output", 0.75 },      { ".ffn", 0.65 },      { ".kv", 0.65 },     { ".attn_q", 0.55 }, { ".attn_k", 0.55 },
                  { ".ffn_down", 0.55 },  { ".attn_output", 0.45 }, { ".ffn_gate", 0.38 }, { ".ffn_up", 0.38 }, { ".attn_v", 0.12 } };
    char   path[700], *text, name[100];
    size_t size;
    double width[2][64];
    *all = *left = 0;
    snprintf(path, sizeof path, "%s/plans/%s.plan", run, hash);
    ck_assert_int_eq(bb_file_read(path, &text, &size, NULL), BB_OK);
    for (int pass = 0; pass < 2; pass++) /* widths first */
        for (size_t i = 0; i < options->n_rows; i++) {
            const char *unit = bb_csv_text(options, i, 0), *option = bb_csv_text(options, i, 1);
            const int   layer = strncmp(unit, "blk.", 4) == 0 ? atoi(unit + 4) : 0;
            const bool  is_ffn = strstr(unit, ".ffn") != NULL, is_structure = strchr(option, 'F') == NULL && strchr(option, '_') == NULL;
            double      loss = fmax(0, bb_test_number(options, i, "kl_nats")), share = 0;
            snprintf(name, sizeof name, "\n%s=%s\n", unit, option);
            if (!strstr(text, name) && strncmp(text, name + 1, strlen(name) - 1) != 0) continue;
            if (is_structure) width[is_ffn][layer] = atof(option) / (is_ffn ? 172 : 4);
            if (pass == 0) continue;
            for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
                const size_t n = strlen(kinds[k].end), m = strlen(unit);
                if ((m >= n && strcmp(unit + m - n, kinds[k].end) == 0) || strcmp(unit, kinds[k].end + 1) == 0) share = kinds[k].share;
            }
            ck_assert_msg(share > 0, "%s", unit);
            if (!is_structure && strncmp(unit, "blk.", 4) == 0) loss *= width[is_ffn][layer];
            *all += loss;
            *left += share * loss;
        }
    bb_free(text);
}

/* plans.csv says what was measured and what is foreseen of it; where nothing is rebuilt, or nobody wants it, the same. */
static void check_foreseen(const char *run, bool foresees)
{
    char   path[700];
    bb_csv plans, options;
    size_t chosen = 0;
    double all, left;
    snprintf(path, sizeof path, "%s/plans.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &plans, NULL), BB_OK);
    snprintf(path, sizeof path, "%s/options.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &options, NULL), BB_OK);
    for (size_t i = 0; i < plans.n_rows; i++) {
        const double kl = bb_test_number(&plans, i, "kl_nats"), foreseen = bb_test_number(&plans, i, "foreseen_nats");
        if (!foresees) ck_assert(foreseen == kl);
        if (bb_test_number(&plans, i, "chosen") == 0) continue;
        losses_of(run, bb_csv_text(&plans, i, 0), &options, &all, &left);
        if (foresees) ck_assert(fabs(foreseen / kl - left / all) < 1e-7);
        chosen++;
    }
    ck_assert_uint_ge(chosen, 2);
    bb_csv_done(&plans);
    bb_csv_done(&options);
}

enum { MOST_CHOSEN = 16 };

/* The losses of the run's separable plans, ascending in bytes; returns their number. */
static size_t separable_losses(const char *run, double *all, double *left)
{
    char   path[700];
    bb_csv plans, options;
    size_t n = 0;
    snprintf(path, sizeof path, "%s/plans.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &plans, NULL), BB_OK);
    snprintf(path, sizeof path, "%s/options.csv", run);
    ck_assert_int_eq(bb_csv_read(path, &options, NULL), BB_OK);
    for (size_t i = 0; i < plans.n_rows; i++) {
        if (bb_test_number(&plans, i, "chosen") == 0 || !strstr(bb_csv_text(&plans, i, (size_t)bb_csv_column(&plans, "source")), "separable")) continue;
        ck_assert_uint_lt(n, MOST_CHOSEN);
        losses_of(run, bb_csv_text(&plans, i, 0), &options, &all[n], &left[n]);
        n++;
    }
    bb_csv_done(&plans);
    bb_csv_done(&options);
    return n;
}

/* Puts other options into the run's file, without a search, and asks for a plan. */
static int with_other_options(const char *run, const char *const from[2], const char *const to[2])
{
    char   path[700], line[1500], said[4096], *text, changed[8192] = "";
    size_t size, n = 0;
    bb_csv plans;
    snprintf(path, sizeof path, "%s/config.resolved.yaml", run);
    ck_assert_int_eq(bb_file_read(path, &text, &size, NULL), BB_OK);
    ck_assert(size + 64 < sizeof changed && strstr(text, from[0]) && strstr(text, from[1]));
    for (const char *p = text; *p;) {
        int k = 0;
        while (k < 2 && strncmp(p, from[k], strlen(from[k])) != 0) k++;
        if (k == 2) changed[n++] = *p++;
        else {
            memcpy(changed + n, to[k], strlen(to[k]));
            n += strlen(to[k]);
            p += strlen(from[k]);
        }
    }
    bb_test_write(path, changed, n);
    snprintf(line, sizeof line, "%s/plans.csv", run);
    ck_assert_int_eq(bb_csv_read(line, &plans, NULL), BB_OK);
    snprintf(line, sizeof line, "export %s --plan %s --out %s -q", run, bb_csv_text(&plans, 0, 0), bb_test_path("foreseen.gguf"));
    const int code = bb_test_program(line, said, sizeof said);
    if (code != 0) ck_assert_msg(strstr(said, "is of a search with other options"), "%s", said);
    bb_test_write(path, text, size);
    bb_csv_done(&plans);
    bb_free(text);
    return code;
}

/* What was measured of a plan does not depend on what is foreseen of it. */
static void check_measured_alike(const bb_csv *a, const bb_csv *b)
{
    size_t n[2] = { 0, 0 };
    for (size_t i = 0; i < a->n_rows; i++)
        for (size_t j = 0; j < b->n_rows; j++) {
            if (strcmp(bb_csv_text(a, i, 0), bb_csv_text(b, j, 0)) != 0 || bb_test_number(a, i, "windows") < bb_test_number(b, j, "windows") ||
                bb_test_number(a, i, "windows") > bb_test_number(b, j, "windows"))
                continue;
            for (size_t c = 1; c < 4; c++) ck_assert_str_eq(bb_csv_text(a, i, c), bb_csv_text(b, j, c));
            n[bb_test_number(a, i, "chosen") > 0]++;
        }
    ck_assert(n[0] > 0 && n[1] > 0);
}

/* Separable plans are the best of what is foreseen, and without foreseeing of what was measured; the simple one beside the searched one too: where pruning does not
 * pay they are one plan. In one directory, where the plans of the one search are none of the other's; where nothing is rebuilt, they are. */
START_TEST(a_search_goes_by_what_it_foresees)
{
    double      all[2][MOST_CHOSEN], left[2][MOST_CHOSEN];
    size_t      n[2], better = 0;
    char        line[1024], said[4096];
    bb_csv      plans[2];
    const char *run = bb_test_path("foreseen");
    for (int foresees = 0; foresees < 2; foresees++) {
        snprintf(line, sizeof line,
                 "run tests/data/stories260K.gguf --formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --calib-windows 4 --confirm-windows 6 --refine-windows 4 "
                 "--measure-windows 1 --search separable --target-size 420000 --ctx 32 --sweeps 1 --prune width --ffn-divisor 86 --finalise-steps rebuild "
                 "--foresee %s -q --threads 1 --out %s",
                 foresees ? "rebuild" : "none", run);
        const int code = bb_test_program(line, said, sizeof said);
        ck_assert_msg(code == 0, "exit %d: %s", code, said);
        n[foresees] = separable_losses(run, all[foresees], left[foresees]);
        check_foreseen(run, foresees);
        snprintf(line, sizeof line, "%s/plans.csv", run);
        ck_assert_int_eq(bb_csv_read(line, &plans[foresees], NULL), BB_OK);
        const char *const from[2] = { foresees ? "foresee: \"rebuild\"" : "foresee: \"none\"", "no-finalise: false" };
        ck_assert_int_eq(with_other_options(run, from, (const char *const[2]) { foresees ? "foresee: \"none\"" : "foresee: \"rebuild\"", from[1] }), 5);
        ck_assert_int_eq(with_other_options(run, from, (const char *const[2]) { "foresee: \"rebuild\"", "no-finalise: true" }), foresees ? 5 : 0);
    }
    ck_assert_uint_eq(n[0], n[1]);
    for (size_t i = 0; i < n[0]; i++) {
        ck_assert_double_le(left[1][i], left[0][i] * (1 + 1e-9));
        ck_assert_double_le(all[0][i], all[1][i] * (1 + 1e-9));
        better += left[1][i] < left[0][i] && all[0][i] < all[1][i];
    }
    ck_assert_uint_ge(better, 2);
    check_measured_alike(&plans[0], &plans[1]);
    bb_csv_done(&plans[0]);
    bb_csv_done(&plans[1]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("foresee");
    TCase *t = tcase_create("foresee");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, plans_are_weighed_by_the_shares_of_their_units);
    tcase_add_test(t, a_plan_without_loss_has_weight_one);
    tcase_add_test(t, tables_and_products_shrink_by_share_and_root);
    tcase_add_test(t, every_kind_has_its_share);
    tcase_add_test(t, the_best_plan_of_a_size_is_the_searched_one_of_least_foreseen_kl);
    tcase_add_test(t, a_run_foresees_where_it_rebuilds);
    tcase_add_test(t, a_search_goes_by_what_it_foresees);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
