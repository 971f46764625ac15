/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_run.c: the main job end to end on a tiny real model, as a user runs it: refused budgets, the files of a run, the same bytes for
 * any number of threads and after interruptions, verification of good and damaged files. Needs the built program. */
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/run.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define MODEL "tests/data/stories260K.gguf"
#define SMALL \
    "--formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --calib-windows 4 --confirm-windows 4 --refine-windows 2 --measure-windows 1 " \
    "--search-tokens 0.003 --tune-tokens 0.002 --points 2 --min-bpw 6 --max-bpw 9 --ctx 32 --sweeps 1 --prune width --ffn-divisor 86 -q"

static char said[8192], line[2048];

static int sweep(const char *out, int threads)
{
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --threads %d --out %s", threads, out);
    return bb_test_program(line, said, sizeof said);
}

/* The straight run that the tests compare with; made once, with one thread. */
static const char *straight_run(void)
{
    static char path[512];
    if (path[0]) return path;
    int code = sweep(bb_test_path("straight"), 1);
    ck_assert_msg(code == 0, "exit %d: %s", code, said);
    snprintf(path, sizeof path, "%s", bb_test_path("straight"));
    return path;
}

/* Chosen plans come first in plans.csv. */
static bool is_chosen(const bb_csv *plans, size_t row) { return strcmp(bb_csv_text(plans, row, (size_t)bb_csv_column(plans, "chosen")), "1") == 0; }

static void same_run(const char *a, const char *b)
{
    static const char *const files[] = { "front.csv",    "baselines.csv",   "plans.csv",     "layers.csv", "sensitivity.csv", "options.csv",
                                         "finalise.csv", "certificate.csv", "crossover.csv", "plan.json",  "model.gguf" };
    char                     path[600], name[64];
    bb_csv                   t;
    bb_err                   err = BB_ERR_INIT;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) bb_test_same_in(a, b, files[i]);
    snprintf(path, sizeof path, "%s/plans.csv", a);
    ck_assert_int_eq(bb_csv_read(path, &t, &err), BB_OK);
    ck_assert_uint_ge(t.n_rows, 2);
    for (size_t i = 0; i < t.n_rows && is_chosen(&t, i); i++) {
        snprintf(name, sizeof name, "models/%s.gguf", bb_csv_text(&t, i, 0));
        bb_test_same_in(a, b, name);
    }
    bb_csv_done(&t);
}

START_TEST(an_impossible_budget_is_refused_at_once)
{
    double started = bb_now_s();
    int    code = bb_test_program("run " MODEL " --target-size 1KiB --out /nonexistent/x", said, sizeof said);
    ck_assert_int_eq(code, 3);
    ck_assert_ptr_nonnull(strstr(said, "cannot be reached"));
    ck_assert_double_lt(bb_now_s() - started, 5.0); /* well under a second when the machine is quiet */
    ck_assert_int_eq(bb_test_program("run " MODEL " --out /nonexistent/x", said, sizeof said), 2);
    ck_assert_int_eq(bb_test_program("run tests/data/README.md --target-size 1MiB --out /nonexistent/x", said, sizeof said), 5);
    ck_assert_int_eq(bb_test_program("estimate " MODEL " --target-size 700KiB --formats Q4_0,Q8_0 --embd-formats Q8_0", said, sizeof said), 0);
    ck_assert_ptr_nonnull(strstr(said, "reachable"));
}
END_TEST

START_TEST(an_estimate_is_told_as_json)
{
    static char out[16384];
    json_t     *root, *value;
    const char *name;
    double      sum = 0;
    ck_assert_int_eq(bb_test_program("estimate " MODEL " --target-size 700KiB --formats Q4_0,Q8_0 --embd-formats Q8_0 --json 2>/dev/null", out, sizeof out), 0);
    ck_assert_ptr_nonnull(root = json_loads(out, 0, NULL)); /* stdout is one JSON object and nothing else */
    json_object_foreach(json_object_get(root, "stages_seconds"), name, value) sum += json_real_value(value);
    const double seconds = json_real_value(json_object_get(root, "seconds"));
    ck_assert_double_gt(seconds, 0);
    ck_assert_double_eq_tol(seconds, sum, 1e-6 * sum);
    ck_assert_double_lt(json_real_value(json_object_get(root, "seconds_low")), seconds);
    ck_assert_double_gt(json_real_value(json_object_get(root, "seconds_high")), seconds);
    const json_int_t smallest = json_integer_value(json_object_get(root, "smallest_bytes")),
                     largest = json_integer_value(json_object_get(root, "largest_bytes"));
    const json_t *sizes = json_object_get(root, "sizes_bytes");
    bool          target = false;
    ck_assert_uint_ge(json_array_size(sizes), 1);
    for (size_t i = 0; i < json_array_size(sizes); i++) {
        const json_int_t bytes = json_integer_value(json_array_get(sizes, i));
        target |= bytes == 700 * 1024;
        ck_assert(bytes >= smallest && bytes <= largest);
    }
    ck_assert(target);
    json_decref(root);
}
END_TEST

START_TEST(budgets_hold_and_threads_do_not_matter)
{
    const char *a = straight_run(), *b = bb_test_path("two");
    char        path[600];
    bb_csv      t;
    bb_err      err = BB_ERR_INIT;
    ck_assert_int_eq(sweep(b, 2), 0);
    same_run(a, b);
    snprintf(path, sizeof path, "%s/plans.csv", a);
    ck_assert_int_eq(bb_csv_read(path, &t, &err), BB_OK);
    for (size_t i = 0; i < t.n_rows && is_chosen(&t, i); i++) {
        int64_t  counted;
        uint64_t written;
        ck_assert_int_eq(bb_csv_int(&t, i, 1, &counted, &err), BB_OK);
        snprintf(path, sizeof path, "%s/models/%s.gguf", a, bb_csv_text(&t, i, 0));
        ck_assert_int_eq(bb_file_size(path, &written, &err), BB_OK);
        ck_assert_uint_eq(written, (uint64_t)counted);
        ck_assert_int_le(counted, 329265); /* 9 bits for each of its 292680 weights */
    }
    bb_csv_done(&t);
    snprintf(path, sizeof path, "verify %s -q", a);
    ck_assert_int_eq(bb_test_program(path, said, sizeof said), 0);
}
END_TEST

/* A finished search is replayed from its ledger alone, to the same bytes; a search without one cannot be. */
/* plans.csv holds the whole cloud: any plan that was scored can be exported by its hash, with the bytes that its row says. */
START_TEST(every_scored_plan_is_listed_and_can_be_exported)
{
    const char *a = straight_run(), *file = bb_test_path("cloud.gguf");
    char        path[800];
    bb_csv      t;
    int64_t     bytes, windows;
    uint64_t    written;
    size_t      n_chosen = 0;
    bb_err      err = BB_ERR_INIT;
    if (!a) return;
    snprintf(path, sizeof path, "%s/plans.csv", a);
    ck_assert_int_eq(bb_csv_read(path, &t, &err), BB_OK);
    while (n_chosen < t.n_rows && is_chosen(&t, n_chosen)) n_chosen++;
    ck_assert_uint_gt(t.n_rows, 2 * n_chosen); /* far more plans are scored than chosen */
    for (size_t i = n_chosen; i < t.n_rows; i++) {
        ck_assert(!is_chosen(&t, i));
        ck_assert_int_eq(bb_csv_int(&t, i, (size_t)bb_csv_column(&t, "windows"), &windows, &err), BB_OK);
        ck_assert_int_gt(windows, 0);
        for (size_t j = 0; j < n_chosen; j++) ck_assert_str_ne(bb_csv_text(&t, i, 0), bb_csv_text(&t, j, 0));
        if (i > n_chosen) ck_assert_int_lt(strcmp(bb_csv_text(&t, i - 1, 0), bb_csv_text(&t, i, 0)), 0);
    }
    ck_assert_int_eq(bb_csv_int(&t, n_chosen, 1, &bytes, &err), BB_OK);
    snprintf(path, sizeof path, "export %s --plan %s --out %s -q", a, bb_csv_text(&t, n_chosen, 0), file);
    ck_assert_int_eq(bb_test_program(path, said, sizeof said), 0);
    ck_assert_int_eq(bb_file_size(file, &written, &err), BB_OK);
    ck_assert_int_eq(bytes, (int64_t)written);
    snprintf(path, sizeof path, "export %s --plan \"\" --out %s -q", a, file);
    ck_assert_int_eq(bb_test_program(path, said, sizeof said), 2);
    bb_csv_done(&t);
}
END_TEST

/* The first plan of a run that is (or is not) pruned; false: it has none. */
static bool find_pruned(const char *dir, bool wanted, char hash[17], int64_t *bytes)
{
    char   path[800];
    bb_csv t;
    bool   found = false;
    snprintf(path, sizeof path, "%s/plans.csv", dir);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    for (size_t i = 0; i < t.n_rows && !found; i++) {
        double pruned;
        ck_assert_int_eq(bb_csv_double(&t, i, (size_t)bb_csv_column(&t, "pruned_fraction"), &pruned, NULL), BB_OK);
        ck_assert_int_eq(bb_csv_int(&t, i, 1, bytes, NULL), BB_OK);
        snprintf(hash, 17, "%s", bb_csv_text(&t, i, 0));
        found = (pruned > 0) == wanted;
    }
    bb_csv_done(&t);
    return found;
}

/* A recipe makes a file of the plan's bytes, or is refused: it cannot say what is pruned. */
START_TEST(recipes_keep_their_promise)
{
    const char *a = straight_run(), *whole = bb_test_path("whole"), *file = bb_test_path("recipe.gguf"), *types = bb_test_path("types.txt");
    char        command[2400], hash[17];
    int64_t     bytes;
    uint64_t    written;
    if (!a) return;
    ck_assert(find_pruned(a, true, hash, &bytes));
    snprintf(command, sizeof command, "export %s --plan %s --out %s --recipe %s -q", a, hash, file, types);
    ck_assert_int_eq(bb_test_program(command, said, sizeof said), 2);
    ck_assert_msg(strstr(said, "cannot say") && strstr(said, "bytes"), "%s", said);
    ck_assert(!bb_file_exists(file) && !bb_file_exists(types));

    snprintf(command, sizeof command,
             "run " MODEL " --target-size 400000 --formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --calib-windows 4 --confirm-windows 4 --refine-windows 2 "
             "--measure-windows 1 --search-tokens 0.001 --ctx 32 --method rtn --no-finalise --prune none -q --out %s 2>&1",
             whole);
    ck_assert_msg(bb_test_program(command, said, sizeof said) == 0, "%s", said);
    ck_assert(find_pruned(whole, false, hash, &bytes));
    snprintf(command, sizeof command, "export %s --plan %s --out %s --recipe %s -q", whole, hash, file, types);
    ck_assert_msg(bb_test_program(command, said, sizeof said) == 0, "%s", said);
    remove(file);
    snprintf(command, sizeof command, "quantize " MODEL " --recipe %s --method rtn --out %s -q", types, file);
    ck_assert_msg(bb_test_program(command, said, sizeof said) == 0, "%s", said);
    ck_assert_int_eq(bb_file_size(file, &written, NULL), BB_OK);
    ck_assert_int_eq(bytes, (int64_t)written);
}
END_TEST

/* stdout says the same as the files: one marked row in the table, every row of front.csv in the JSON object. */
START_TEST(the_result_is_told_as_a_table_and_as_json)
{
    static char out[65536];
    const char *a = straight_run();
    char        path[600], command[2400];
    bb_csv      t;
    json_t     *root, *plan;
    if (!a) return;
    snprintf(command, sizeof command, "sweep " MODEL " " SMALL " -q --out %s 2>/dev/null", a);
    ck_assert_int_eq(bb_test_program(command, out, sizeof out), 0);
    snprintf(path, sizeof path, "%s/plan.json", a);
    ck_assert_ptr_nonnull(plan = json_load_file(path, 0, NULL));
    const char *winner = json_string_value(json_object_get(plan, "plan_hash"));
    const char *star = strstr(out, "\n* ");
    ck_assert_ptr_nonnull(star);
    ck_assert_int_eq(strncmp(star + 3, winner, 16), 0);
    ck_assert_ptr_nonnull(strstr(star, "\n* is model.gguf\n"));

    snprintf(command, sizeof command, "sweep " MODEL " " SMALL " -q --json --out %s 2>/dev/null", a);
    ck_assert_int_eq(bb_test_program(command, out, sizeof out), 0);
    ck_assert_ptr_nonnull(root = json_loads(out, 0, NULL)); /* stdout is one JSON object and nothing else */
    ck_assert_str_eq(json_string_value(json_object_get(json_object_get(root, "winner"), "plan_hash")), winner);
    snprintf(path, sizeof path, "%s/front.csv", a);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    const json_t *front = json_object_get(root, "front");
    ck_assert_uint_eq(json_array_size(front), t.n_rows);
    for (size_t i = 0; i < t.n_rows; i++) {
        int64_t       bytes;
        double        kl;
        const json_t *row = json_array_get(front, i);
        ck_assert_str_eq(json_string_value(json_object_get(row, "plan_hash")), bb_csv_text(&t, i, 0));
        ck_assert_int_eq(bb_csv_int(&t, i, (size_t)bb_csv_column(&t, "size_bytes"), &bytes, NULL), BB_OK);
        ck_assert_int_eq(json_integer_value(json_object_get(row, "size_bytes")), bytes);
        ck_assert_int_eq(bb_csv_double(&t, i, (size_t)bb_csv_column(&t, "kl_nats"), &kl, NULL), BB_OK);
        ck_assert_double_le(fabs(json_number_value(json_object_get(row, "kl_nats")) - kl), 1e-9 * fabs(kl)); /* that of the original is 0 */
    }
    bb_csv_done(&t);
    json_decref(root);
    json_decref(plan);
}
END_TEST

/* docs/tables.md names every column of every table of a run, in the section of that table. */
START_TEST(every_column_is_in_the_dictionary)
{
    const char    *a = straight_run();
    char          *text, path[800], heading[300];
    size_t         size, n_tables = 0;
    struct dirent *e;
    if (!a) return;
    ck_assert_int_eq(bb_file_read("docs/tables.md", &text, &size, NULL), BB_OK);
    DIR *d = opendir(a);
    ck_assert_ptr_nonnull(d);
    while ((e = readdir(d))) {
        const char *dot = strrchr(e->d_name, '.');
        bb_csv      t;
        if (!dot || strcmp(dot, ".csv") != 0) continue;
        n_tables++;
        snprintf(heading, sizeof heading, "\n## %s\n", e->d_name);
        const char *begin = strstr(text, heading);
        ck_assert_msg(begin != NULL, "docs/tables.md has no section for %s", e->d_name);
        const char *end = strstr(begin + 4, "\n## ");
        snprintf(path, sizeof path, "%s/%s", a, e->d_name);
        ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
        for (size_t c = 0; c < t.n_cols; c++) {
            bool found = false; /* in the first cell of a row, whole, alone or in a list */
            for (const char *row = strstr(begin, "\n| "); row && (!end || row < end) && !found; row = strstr(row + 1, "\n| ")) {
                const size_t n = strcspn(row + 3, "|");
                for (const char *p = row + 3; p < row + 3 + n && !found; p += strcspn(p, " ,|"), p += strspn(p, " ,"))
                    found = strcspn(p, " ,|") == strlen(t.header[c]) && strncmp(p, t.header[c], strlen(t.header[c])) == 0;
            }
            ck_assert_msg(found, "docs/tables.md, %s: the column %s is not explained", e->d_name, t.header[c]);
        }
        bb_csv_done(&t);
    }
    closedir(d);
    bb_free(text);
    ck_assert_uint_ge(n_tables, 8);
}
END_TEST

/* options.csv: the rows of sensitivity.csv, with bits a weight and the error of each matrix. */
START_TEST(options_have_their_errors)
{
    const char *a = straight_run();
    char        path[600];
    bb_csv      t, s;
    size_t      n_formats = 0, n_part = 0, n_whole = 0;
    snprintf(path, sizeof path, "%s/options.csv", a);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    snprintf(path, sizeof path, "%s/sensitivity.csv", a);
    ck_assert_int_eq(bb_csv_read(path, &s, NULL), BB_OK);
    ck_assert_uint_eq(t.n_rows, s.n_rows);
    for (size_t i = 0; i < t.n_rows; i++) {
        const char  *unit = bb_csv_text(&t, i, 0), *option = bb_csv_text(&t, i, 1);
        const double bpw = bb_test_number(&t, i, "bits_per_weight"), error = bb_test_number(&t, i, "error");
        ck_assert_str_eq(unit, bb_csv_text(&s, i, 0));
        ck_assert_str_eq(option, bb_csv_text(&s, i, 1));
        ck_assert(bb_test_number(&t, i, "bytes") == bb_test_number(&s, i, "bytes") && bb_test_number(&t, i, "kl_nats") == bb_test_number(&s, i, "kl_nats"));
        ck_assert(error >= 0 && error <= 1);
        if (strcmp(option, "Q4_0") == 0 || strcmp(option, "Q8_0") == 0) {
            n_formats++;
            ck_assert_double_eq(bpw, option[1] == '4' ? 4.5 : 8.5);
            ck_assert_double_gt(error, option[1] == '4' ? 1e-4 : 1e-7);
            ck_assert_double_lt(error, option[1] == '4' ? 0.05 : 1e-3);
        } else if (strchr(unit, '.') && (strcmp(strrchr(unit, '.'), ".kv") == 0 || strcmp(strrchr(unit, '.'), ".ffn") == 0)) {
            ck_assert(isnan(bpw));
            n_part += error > 0 && error < 1;
            n_whole += error == 0;
            if (error == 0) ck_assert(bb_test_number(&t, i, "kl_nats") == 0);
        }
    }
    ck_assert_uint_gt(n_formats, 40);
    ck_assert_uint_eq(n_whole, 2 * 5); /* of 5 blocks; the others have lost something */
    ck_assert_uint_ge(n_part, n_whole);
    bb_csv_done(&t);
    bb_csv_done(&s);
}
END_TEST

/* qwen3 with a head of its own cannot be pruned: structure has no bytes, in neither table, and never those of BB_FORBIDDEN. */
START_TEST(options_that_cannot_be_loaded_have_no_bytes)
{
    char      out[512], path[600];
    bb_csv    t, s;
    size_t    n_empty = 0;
    tiny_spec spec = tiny_default("qwen3");
    spec.n_embd = 64;
    spec.head_dim = 16;
    spec.tied = false;
    tiny_write(&spec, bb_test_path("untied.gguf"));
    snprintf(out, sizeof out, "%s", bb_test_path("untied"));
    snprintf(line, sizeof line,
             "run %s --formats Q4_0,Q8_0 --embd-formats Q8_0 --target-bpw 16 --ctx 32 --calib-windows 4 --measure-windows 1 --refine-windows 2 "
             "--confirm-windows 4 --search-tokens 0.001 --no-finalise --prune all --out %s -q",
             bb_test_path("untied.gguf"), out);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    snprintf(path, sizeof path, "%s/options.csv", out);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    snprintf(path, sizeof path, "%s/sensitivity.csv", out);
    ck_assert_int_eq(bb_csv_read(path, &s, NULL), BB_OK);
    ck_assert_uint_eq(t.n_rows, s.n_rows);
    for (size_t i = 0; i < t.n_rows; i++) {
        ck_assert_str_eq(bb_csv_text(&t, i, 2), bb_csv_text(&s, i, 2));
        ck_assert_uint_lt(strlen(bb_csv_text(&t, i, 2)), 10);
        n_empty += !*bb_csv_text(&t, i, 2);
    }
    ck_assert_uint_gt(n_empty, 0);
    bb_csv_done(&t);
    bb_csv_done(&s);
}
END_TEST

/* No window that a plan is scored on may be seen by calibration or tuning; every window of the text here has tokens of its own. */
/* Both orders of widths as options: measured, chosen among, written and verified; the same bytes from two threads and after a kill. */
START_TEST(widths_by_gates_are_options)
{
    const char *const out[] = { bb_test_path("gates-1"), bb_test_path("gates-2") };
    char              path[600], stopped[2400], *text;
    size_t            size;
    for (int k = 0; k < 2; k++) {
        snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --width-order both --no-finalise --min-bpw 4 --threads %d --out %s", k + 1, out[k]);
        snprintf(stopped, sizeof stopped, "timeout -s INT 0.3 %s/bitbudget %s >/dev/null 2>&1", bb_test_build(), line);
        if (k == 1) ck_assert(WIFEXITED(system(stopped)));
        ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    }
    same_run(out[0], out[1]);
    snprintf(path, sizeof path, "%s/sensitivity.csv", out[0]);
    ck_assert_int_eq(bb_file_read(path, &text, &size, NULL), BB_OK);
    ck_assert_ptr_nonnull(strstr(text, "blk.0.ffn,86,"));
    ck_assert_ptr_nonnull(strstr(text, "blk.0.ffn,86g,"));
    ck_assert_ptr_nonnull(strstr(text, "blk.4.kv,1g,"));
    bb_free(text);
    snprintf(line, sizeof line, "verify %s -q", out[0]);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
}
END_TEST

START_TEST(scoring_windows_are_never_trained_on)
{
    enum { CTX = 16, WINDOWS = 30, BOS = 1 };
    bb_run_config config = { 0 };
    bb_run        run;
    bb_err        err = BB_ERR_INIT;
    uint16_t      ids[CTX * WINDOWS];
    unsigned      used[WINDOWS] = { 0 };
    for (int i = 0; i < CTX * WINDOWS; i++) ids[i] = (uint16_t)(10 + i);
    bb_test_write(bb_test_path("windows.u16"), ids, sizeof ids);
    ck_assert_int_eq(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &config, &err), BB_OK);
    config.target_size = 400000;
    config.ctx = CTX;
    config.calib_windows = 9;
    config.tune_windows = 12;
    config.measure_windows = 3;
    config.refine_windows = 5;
    config.confirm_windows = 11;
    bb_free(config.model);
    bb_free(config.calib);
    bb_free(config.out);
    config.model = bb_strdup(MODEL, NULL);
    config.calib = bb_strdup(bb_test_path("windows.u16"), NULL);
    config.out = bb_strdup(bb_test_path("split"), NULL);
    ck_assert_msg(bb_run_create(&run, &config, false, &err) == BB_OK, "%s", err.msg);
    const bb_windows *const sets[] = { &run.calib, &run.tune, &run.levels[BB_LEVEL_CONFIRM], &run.levels[BB_LEVEL_REFINE], &run.levels[BB_LEVEL_MEASURE] };
    static const uint32_t   n[] = { 9, 12, 11, 5, 3 };
    for (unsigned k = 0; k < 5; k++) {
        ck_assert_uint_eq(sets[k]->n, n[k]);
        for (uint32_t i = 0; i < sets[k]->n; i++) used[(sets[k]->tokens[i * CTX + CTX - 1] - 10) / CTX] |= 1u << k;
    }
    for (int i = 0; i < WINDOWS; i++) {
        ck_assert(!(used[i] & 3 && used[i] & 28)); /* trained on or scored on, never both */
        ck_assert(!(used[i] & 8) || used[i] & 4);  /* the levels are nested */
        ck_assert(!(used[i] & 16) || used[i] & 8);
    }
    bb_run_close(&run);
}
END_TEST

START_TEST(replay_evaluates_nothing)
{
    const char *a = straight_run(), *b = bb_test_path("replayed");
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --threads 4 --workers 3 --out %s", b);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --ledger-only --out %s", b);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    same_run(a, b);
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --ledger-only --out %s", bb_test_path("empty"));
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 1);
    ck_assert_ptr_nonnull(strstr(said, "the ledger has no score"));
}
END_TEST

/* Another method of searching is chosen by name; the plans that guard it stay the same, and so do the rest of the stages. */
START_TEST(another_method_can_be_asked_for)
{
    static const struct {
        const char *name, *source;
    } methods[] = { { "uniform", "uniform Q" }, { "quantization", "quantization only" }, { "quadratic", "quadratic" }, { "evopress", "evopress" } };
    const char *name = methods[_i].name;
    char        path[600];
    bb_csv      t;
    bb_err      err = BB_ERR_INIT;
    size_t      searched = 0, guards = 0;
    snprintf(path, sizeof path, "%s/plans.csv", bb_test_path(name));
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --points 1 --min-bpw 11 --max-bpw 11 --no-finalise --search %s --database %s --out %s", name,
             bb_test_path("methods-database"), bb_test_path(name));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_int_eq(bb_csv_read(path, &t, &err), BB_OK);
    for (size_t i = 0; i < t.n_rows && is_chosen(&t, i); i++) {
        const bool is_searched = strcmp(bb_csv_text(&t, i, (size_t)bb_csv_column(&t, "searched")), "1") == 0;
        searched += is_searched;
        guards += strcmp(bb_csv_text(&t, i, (size_t)bb_csv_column(&t, "baseline")), "1") == 0;
        const char *source = bb_csv_text(&t, i, (size_t)bb_csv_column(&t, "source"));
        if (is_searched) ck_assert_msg(strncmp(source, methods[_i].source, strlen(methods[_i].source)) == 0, "%s", source);
    }
    ck_assert_uint_eq(searched, 1);
    ck_assert_uint_eq(guards, 1); /* of a sweep the uniform plan alone */
    bb_csv_done(&t);
    ck_assert_int_eq(bb_test_program("sweep " MODEL " --search guessing --out /nonexistent/x", said, sizeof said), 2);
    ck_assert_ptr_nonnull(strstr(said, "refine|uniform"));
}
END_TEST

static bb_status count_records(void *self, const char *key, const void *value, size_t size, bb_err *err)
{
    size_t *n = self;
    (void)value, (void)size, (void)err;
    n[0]++;
    n[1] += strstr(key, "|evopress|") && !strstr(key, "|spent");
    return BB_OK;
}

/* Records of what rivals found: all, with the times that they took; those of EvoPress. */
static void rival_records(const char *run, size_t n[2])
{
    char      path[512];
    bb_store *store = NULL;
    n[0] = n[1] = 0;
    snprintf(path, sizeof path, "%s/run.db", run);
    ck_assert_int_eq(bb_store_open(path, &store, NULL), BB_OK);
    ck_assert_int_eq(bb_store_each(store, "rivals", count_records, n, NULL), BB_OK);
    bb_store_close(store);
}

/* Each method keeps the bytes, and the table can be made again without evaluating. */
START_TEST(rivals_are_compared_at_equal_bytes)
{
    const char              *a = straight_run();
    char                     again[512];
    bb_csv                   t;
    bb_err                   err = BB_ERR_INIT;
    static const char *const methods[] = { "ours", "uniform", "separable", "random", "annealing", "evopress", "nsga2", "rco" };
    enum { N = sizeof methods / sizeof *methods };
    size_t n[N] = { 0 };
    snprintf(again, sizeof again, "%s", bb_test_path("again.csv"));
    snprintf(line, sizeof line, "rivals %s --methods ours,uniform,separable,random,annealing,evopress,nsga2,rco --times 4 --tokens 0.0005 -q --out %s", a,
             bb_test_path("rivals.csv"));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_ptr_nonnull(strstr(said, "rival"));
    ck_assert_int_eq(bb_csv_read(bb_test_path("rivals.csv"), &t, &err), BB_OK);
    for (size_t i = 0; i < t.n_rows; i++) {
        double kl;
        for (size_t m = 0; m < N; m++) n[m] += strcmp(bb_csv_text(&t, i, 1), methods[m]) == 0;
        ck_assert_int_eq(bb_csv_double(&t, i, 2, &kl, &err), BB_OK);
        ck_assert_double_gt(kl, 0);
    }
    for (size_t m = 0; m < N; m++) ck_assert_msg(n[m] == 2 || m == 1, "%s: %zu sizes", methods[m], n[m]); /* no uniform plan is as small */
    bb_csv_done(&t);
    snprintf(line, sizeof line, "rivals %s --methods ours,random,evopress,rco --times 4 --tokens 0.0005 --ledger-only -q --out %s", a, again);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    /* Another number of offspring is another search for EvoPress alone: of each size a plan, and a time. */
    size_t before[2], after[2];
    rival_records(a, before);
    snprintf(line, sizeof line, "rivals %s --methods ours,random,annealing,evopress,nsga2,rco --times 4 --offspring 16 --tokens 0.0005 -q --out %s", a, again);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    rival_records(a, after);
    ck_assert(before[1] == 2 && after[1] == 4 && after[0] == before[0] + 4);
    /* Beside itself a method has no difference to be sure of, and one KL. */
    snprintf(line, sizeof line, "rivals %s --methods ours,ours --tokens 0.0005 --ledger-only -q --out %s", a, again);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_msg(strstr(said, "            -        1.000 ") && !strstr(said, "inf") && !strstr(said, "nan"), "%s", said);
    snprintf(line, sizeof line, "rivals %s --methods ours,random,evopress --times 2 --tokens 0.0005 --ledger-only -q --out %s", a, again);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_int_eq(bb_test_program("rivals --methods guessing x", said, sizeof said), 5);
    snprintf(line, sizeof line, "rivals %s --methods guessing", a);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 2);
    ck_assert_ptr_nonnull(strstr(said, "is unknown"));
    /* A size that no plan has leaves the table that is there. */
    char  *was, *is;
    size_t bytes[2];
    ck_assert_int_eq(bb_file_read(again, &was, &bytes[0], NULL), BB_OK);
    snprintf(line, sizeof line, "rivals %s --methods ours,separable --sizes 100 -q --out %s", a, again);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 3, "%s", said);
    ck_assert_msg(strstr(said, "no plan has 100 bytes: the smallest has") != NULL, "%s", said);
    ck_assert_int_eq(bb_file_read(again, &is, &bytes[1], NULL), BB_OK);
    ck_assert_str_eq(is, was);
    bb_free(was);
    bb_free(is);
}
END_TEST

/* Finished alike: what is said of our plan is what front.csv says of its file; the files are there, replay needs them, and without --finish nothing is said. */
START_TEST(rivals_are_finished_alike)
{
    const char *a = straight_run();
    char        file[600];
    bb_csv      t, front;
    bb_err      err = BB_ERR_INIT;
    size_t      n_ours = 0;
    snprintf(line, sizeof line, "rivals %s --methods ours,random --tokens 0.0005 --finish -q --out %s", a, bb_test_path("finished.csv"));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_int_eq(bb_csv_read(bb_test_path("finished.csv"), &t, &err), BB_OK);
    snprintf(file, sizeof file, "%s/front.csv", a);
    ck_assert_int_eq(bb_csv_read(file, &front, &err), BB_OK);
    const size_t hash = (size_t)bb_csv_column(&t, "plan_hash"), kl = (size_t)bb_csv_column(&t, "finished_kl_nats"),
                 bytes = (size_t)bb_csv_column(&t, "size_bytes");
    for (size_t i = 0; i < t.n_rows; i++) {
        uint64_t size;
        double   budget, counted, nats;
        snprintf(file, sizeof file, "%s/models/%s.gguf", a, bb_csv_text(&t, i, hash));
        ck_assert_int_eq(bb_file_size(file, &size, &err), BB_OK);
        ck_assert(bb_csv_double(&t, i, 0, &budget, &err) == BB_OK && bb_csv_double(&t, i, bytes, &counted, &err) == BB_OK);
        ck_assert_double_eq((double)size, counted);
        ck_assert_double_le(counted, budget);
        ck_assert_int_eq(bb_csv_double(&t, i, kl, &nats, &err), BB_OK);
        ck_assert_double_gt(nats, 0);
        for (size_t k = 0; k < front.n_rows && strcmp(bb_csv_text(&t, i, 1), "ours") == 0; k++) {
            if (strcmp(bb_csv_text(&front, k, (size_t)bb_csv_column(&front, "plan_hash")), bb_csv_text(&t, i, hash)) != 0) continue;
            ck_assert_str_eq(bb_csv_text(&front, k, (size_t)bb_csv_column(&front, "kl_nats")), bb_csv_text(&t, i, kl));
            n_ours++;
        }
    }
    ck_assert_uint_gt(n_ours, 0);
    snprintf(line, sizeof line, "rivals %s --methods ours,random --tokens 0.0005 --finish --ledger-only -q --out %s", a, bb_test_path("finished.csv"));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_int_eq(unlink(file), 0);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 4);
    ck_assert_ptr_nonnull(strstr(said, "is missing"));
    bb_csv_done(&t);
    bb_csv_done(&front);
    snprintf(line, sizeof line, "rivals %s --methods ours,random --tokens 0.0005 -q --out %s", a, bb_test_path("finished.csv"));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_int_eq(bb_csv_read(bb_test_path("finished.csv"), &t, &err), BB_OK);
    for (size_t i = 0; i < t.n_rows; i++) ck_assert_str_eq(bb_csv_text(&t, i, kl), "");
    bb_csv_done(&t);
}
END_TEST

/* Who gets how many tokens: the rivals of one size as many as ours, those of all sizes as many in all, EvoPress and RCO `times` as many; what the last step
 * overshoots and the final scores (three plans on four windows) come on top, for RCO within. RCO's line of progress counts its gradients. */
START_TEST(rivals_get_the_tokens_that_are_said)
{
    static const struct {
        const char *name;
        double      least, most;
    } methods[] = {
        { "ours", 2000, 2000 },  { "random", 2000, 3200 },     { "annealing", 2000, 2500 },
        { "nsga2", 2000, 3200 }, { "evopress", 10000, 11600 }, { "rco", 8000, 10000 },
    };
    enum { N = sizeof methods / sizeof *methods };
    bb_csv t;
    bb_err err = BB_ERR_INIT;
    snprintf(line, sizeof line, "rivals %s --methods ours,random,annealing,nsga2,evopress,rco --times 5 --tokens 0.002 --out %s", straight_run(),
             bb_test_path("tokens.csv"));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_int_eq(bb_csv_read(bb_test_path("tokens.csv"), &t, &err), BB_OK);
    ck_assert_uint_eq(t.n_rows, 2 * N);
    const char *counted = strstr(said, "\nrco, ");
    ck_assert_msg(counted && strstr(counted, "tokens: ") && atol(strstr(counted, "tokens: ") + 8) >= 8000, "%s", said);
    for (size_t i = 0; i < t.n_rows; i++) {
        double tokens;
        ck_assert_int_eq(bb_csv_double(&t, i, (size_t)bb_csv_column(&t, "tokens"), &tokens, &err), BB_OK);
        ck_assert_str_eq(bb_csv_text(&t, i, 1), methods[i % N].name);
        ck_assert_msg(tokens >= methods[i % N].least && tokens <= methods[i % N].most, "%s: %g tokens", methods[i % N].name, tokens);
    }
    bb_csv_done(&t);
}
END_TEST

/* Every plan is as fast as asked, by a profile in which more bits are slower; the prediction is the sum over matrices of weights times picoseconds,
 * recomputed here from the bytes of each. */
START_TEST(speed_is_predicted_and_bounded)
{
    static const char profile[] = "format,decode_ps,prefill_ps\nQ4_0,10,5\nQ8_0,40,20\nF32,80,80\n";
    const char       *out = bb_test_path("fast");
    const double      least = 2e5;
    char              path[600];
    bb_csv            plans, layers;
    bb_err            err = BB_ERR_INIT;
    straight_run();
    bb_test_write(bb_test_path("profile.csv"), profile, sizeof profile - 1);
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --no-finalise --search-tokens 0.1 --sketch signed --profile %s --min-speed %.0f --out %s",
             bb_test_path("profile.csv"), least, out);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    snprintf(path, sizeof path, "%s/speed.csv", out);
    ck_assert_msg(bb_csv_read(path, &plans, &err) == BB_OK, "%s", err.msg);
    snprintf(path, sizeof path, "%s/layers.csv", out);
    ck_assert_int_eq(bb_csv_read(path, &layers, &err), BB_OK);
    ck_assert_uint_ge(plans.n_rows, 1);
    for (size_t i = 0; i < plans.n_rows; i++) {
        double tps, seconds = 0;
        bool   on_front = false;
        ck_assert_int_eq(bb_csv_double(&plans, i, 2, &tps, &err), BB_OK);
        ck_assert_double_ge(tps, least);
        for (size_t k = 0; k < layers.n_rows; k++) {
            double      bytes;
            const char *option = bb_csv_text(&layers, k, 2);
            if (strcmp(bb_csv_text(&layers, k, 0), bb_csv_text(&plans, i, 0)) != 0) continue;
            if (strcmp(bb_csv_text(&layers, k, 1), "token_embd") == 0) continue; /* this model has a head of its own: rows are only looked up */
            ck_assert_int_eq(bb_csv_double(&layers, k, 3, &bytes, &err), BB_OK);
            on_front = true;
            if (strcmp(option, "Q4_0") == 0) seconds += bytes * 32 / 18 * 10e-12;
            if (strcmp(option, "Q8_0") == 0) seconds += bytes * 32 / 34 * 40e-12;
            if (strcmp(option, "F32") == 0) seconds += bytes / 4 * 80e-12;
        }
        if (on_front) ck_assert_double_eq_tol(tps * seconds, 1, 0.02); /* bytes are padded */
    }
    bb_csv_done(&plans);
    bb_csv_done(&layers);
    snprintf(line, sizeof line, "sweep " MODEL " " SMALL " --profile %s --min-speed 1e9 --out %s", bb_test_path("profile.csv"), bb_test_path("faster"));
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 3);
    ck_assert_ptr_nonnull(strstr(said, "cannot be reached"));
    ck_assert_int_eq(bb_test_program("sweep " MODEL " --min-speed 5 --out /nonexistent/x", said, sizeof said), 2);
}
END_TEST

/* The step table: every step a row per text; the confirm-window KL of what is kept never rises in finalise.csv. */
START_TEST(finalise_climbs_a_ladder)
{
    const char *a = straight_run();
    char        path[600], text[600];
    bb_csv      t, generation;
    bb_err      err = BB_ERR_INIT;
    double      kl, best = 0, agree, again;
    snprintf(text, sizeof text, "%s", bb_test_path("story.jsonl"));
    char *story = bb_asprintf(NULL, "{\"text\": \"%s\"}\n{\"text\": \"%s\"}\n",
                              "Once upon a time there was a little girl who had a red ball. She liked to play with it in the park all day long. One day the "
                              "ball rolled into the pond and she was very sad.",
                              "A big brown dog saw it and jumped into the water. He gave the ball back to her.");
    bb_test_write(text, story, strlen(story));
    bb_free(story);
    snprintf(line, sizeof line, "finalise %s --ladder 7,8 --texts %s --ablate -q", a, text);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    snprintf(path, sizeof path, "%s/ladder.csv", a);
    ck_assert_msg(bb_csv_read(path, &t, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(t.n_rows, 10);
    ck_assert_str_eq(bb_csv_text(&t, 0, 1), "database");
    ck_assert_str_eq(bb_csv_text(&t, 4, 1), "end-to-end");
    ck_assert_str_eq(bb_csv_text(&t, 0, 2), "story.jsonl");
    snprintf(path, sizeof path, "%s/generation.csv", a);
    ck_assert_msg(bb_csv_read(path, &generation, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(generation.n_rows, t.n_rows);
    for (size_t i = 0; i < t.n_rows; i++) {
        ck_assert_int_eq(bb_csv_double(&t, i, (size_t)bb_csv_column(&t, "agree_length"), &agree, &err), BB_OK);
        ck_assert_int_eq(bb_csv_double(&generation, i, (size_t)bb_csv_column(&generation, "agree_length"), &again, &err), BB_OK);
        ck_assert(agree == again && agree >= 0);
        ck_assert_int_eq(bb_csv_double(&generation, i, (size_t)bb_csv_column(&generation, "kl_1_16"), &kl, &err), BB_OK);
        ck_assert(kl > 0);
    }
    bb_csv_done(&generation);
    bb_csv_done(&t);
    snprintf(path, sizeof path, "%s/lfq.csv", a);
    ck_assert_msg(bb_csv_read(path, &t, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(t.n_rows, 16);
    bb_csv_done(&t);
    snprintf(path, sizeof path, "%s/finalise.csv", a);
    ck_assert_msg(bb_csv_read(path, &t, &err) == BB_OK, "%s", err.msg);
    for (size_t i = 0; i < t.n_rows; i++) {
        ck_assert_int_eq(bb_csv_double(&t, i, 3, &kl, &err), BB_OK);
        if (strcmp(bb_csv_text(&t, i, 2), "database") == 0) best = kl;
        else if (strcmp(bb_csv_text(&t, i, 4), "1") == 0) {
            ck_assert_double_lt(kl, best);
            best = kl;
        } else ck_assert_double_ge(kl, best);
    }
    bb_csv_done(&t);
    snprintf(path, sizeof path, "%s", bb_test_path("short.txt"));
    bb_test_write(path, "a b", 3);
    const char *const bad[] = { "/nonexistent.txt", path, a }; /* the last text of the list is looked at before the first one is worked on */
    for (int i = 0; i < 3; i++) {
        snprintf(line, sizeof line, "finalise %s --ladder 8 --texts %s,%s", a, text, bad[i]);
        ck_assert_int_eq(bb_test_program(line, said, sizeof said), 5);
        ck_assert_msg(strstr(said, "--texts: ") && strstr(said, bad[i]) && !strstr(said, "full-precision states"), "%s", said);
    }
    snprintf(line, sizeof line, "finalise %s --ladder eight --texts %s -q", a, text);
    ck_assert_int_eq(bb_test_program(line, said, sizeof said), 2);
    ck_assert_int_eq(bb_test_program("sweep " MODEL " " SMALL " --finalise-steps lfq,magic --out /nonexistent/x", said, sizeof said), 2);
    ck_assert_ptr_nonnull(strstr(said, "magic"));
}
END_TEST

/* Stopped again and again at arbitrary moments, the job ends with the bytes of a straight run. */
START_TEST(interruption_changes_nothing)
{
    const char *build = bb_test_build(), *a = straight_run(), *b = bb_test_path("stopped");
    int         stops = 0, code = 0;
    for (int tries = 1; tries < 200; tries++) { /* longer and longer, so that it ends on a slow machine too */
        snprintf(line, sizeof line, "timeout -s INT %.2f %s/bitbudget sweep " MODEL " " SMALL " --threads 2 --out %s >/dev/null 2>&1", 0.1 * tries, build, b);
        int state = system(line);
        ck_assert(WIFEXITED(state));
        code = WEXITSTATUS(state); /* timeout gives 124 when it sent the signal, whatever the program then answered */
        ck_assert_msg(code == 0 || code == 124 || code == 75, "exit %d", code);
        if (code == 0) break;
        stops++;
    }
    ck_assert_int_gt(stops, 0);
    ck_assert_int_eq(sweep(b, 2), 0);
    same_run(a, b);
}
END_TEST

START_TEST(damage_is_found)
{
    const char *a = straight_run();
    char        path[600], *data;
    size_t      n;
    bb_csv      t;
    bb_err      err = BB_ERR_INIT;
    snprintf(path, sizeof path, "%s/plans.csv", a);
    ck_assert_int_eq(bb_csv_read(path, &t, &err), BB_OK);
    snprintf(path, sizeof path, "%s/models/%s.gguf", a, bb_csv_text(&t, 0, 0));
    bb_csv_done(&t);
    ck_assert_int_eq(bb_file_read(path, &data, &n, &err), BB_OK);
    for (size_t i = n - 4096; i < n; i += 64) data[i] ^= 0x11; /* weights of the last tensor */
    bb_test_write(path, data, n);
    bb_free(data);
    snprintf(path, sizeof path, "verify %s -q", a);
    ck_assert_int_eq(bb_test_program(path, said, sizeof said), 4);
    snprintf(path, sizeof path, "sweep " MODEL " --ctx 64 -q --out %s", a); /* other settings in the same directory */
    ck_assert_int_eq(bb_test_program(path, said, sizeof said), 2);
    ck_assert_ptr_nonnull(strstr(said, "another model, data or settings"));
}
END_TEST

int main(void)
{
    bb_log_set_level(BB_LOG_QUIET);
    Suite *s = suite_create("run");
    TCase *t = tcase_create("main job");
    tcase_set_timeout(t, 600);
    tcase_add_test(t, an_impossible_budget_is_refused_at_once);
    tcase_add_test(t, an_estimate_is_told_as_json);
    tcase_add_test(t, budgets_hold_and_threads_do_not_matter);
    tcase_add_test(t, every_scored_plan_is_listed_and_can_be_exported);
    tcase_add_test(t, recipes_keep_their_promise);
    tcase_add_test(t, the_result_is_told_as_a_table_and_as_json);
    tcase_add_test(t, every_column_is_in_the_dictionary);
    tcase_add_test(t, options_have_their_errors);
    tcase_add_test(t, options_that_cannot_be_loaded_have_no_bytes);
    tcase_add_test(t, widths_by_gates_are_options);
    tcase_add_test(t, scoring_windows_are_never_trained_on);
    tcase_add_test(t, replay_evaluates_nothing);
    tcase_add_test(t, finalise_climbs_a_ladder);
    tcase_add_loop_test(t, another_method_can_be_asked_for, 0, 4);
    tcase_add_test(t, rivals_are_compared_at_equal_bytes);
    tcase_add_test(t, rivals_are_finished_alike);
    tcase_add_test(t, rivals_get_the_tokens_that_are_said);
    tcase_add_test(t, speed_is_predicted_and_bounded);
    tcase_add_test(t, interruption_changes_nothing);
    tcase_add_test(t, damage_is_found);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
