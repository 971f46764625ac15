/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_memory.c: memory and disk: --max-ram is kept in every stage or refused at the start; --keep leaves what it says; pages of maps are given
 * back; what a finished run leaves is about what was foreseen. */
#include <dirent.h>
#include <errno.h>
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/ladder.h"
#include "engine/memory.h"
#include "engine/rivals.h"
#include "engine/scorer.h"
#include "engine/stages.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define OPTIONS \
    " --formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --calib-windows 24 --confirm-windows 24 --refine-windows 8 --measure-windows 2 --target-bpw 7 " \
    "--search-tokens 0.02 --tune-tokens 0.002 --ctx 64 --sweeps 1 --prune width --ffn-divisor 64 --threads 2 "

static char said[1 << 16], line[4096];

/* Two blocks, 256 wide: some megabytes of weights. */
static const char *model(void)
{
    static char path[512];
    tiny_spec   s = tiny_default("llama");
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s", bb_test_path("wide.gguf"));
    s.n_embd = 256;
    s.head_dim = 64;
    for (uint32_t i = 0; i < s.n_layer; i++) s.n_ff[i] = 512;
    tiny_write(&s, path);
    return path;
}

static const char *text(void)
{
    static char    path[512];
    static int32_t ids[12000];
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s", bb_test_path("ids.u32"));
    for (int i = 0; i < 12000; i++) ids[i] = 3 + i * i % 200;
    bb_test_write(path, ids, sizeof ids);
    return path;
}

static int64_t estimated_with(const char *name, const char *more)
{
    snprintf(line, sizeof line, "estimate %s --calib %s" OPTIONS "%s --json", model(), text(), more);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0 && strchr(said, '{'), "%s", said);
    json_t *root = json_loads(strchr(said, '{'), JSON_DISABLE_EOF_CHECK, NULL);
    ck_assert_ptr_nonnull(root);
    const int64_t value = json_integer_value(json_object_get(root, name));
    json_decref(root);
    return value;
}

static int64_t estimated(const char *name) { return estimated_with(name, ""); }

static int run(const char *out, const char *more)
{
    snprintf(line, sizeof line, "run %s --calib %s" OPTIONS "%s --out %s", model(), text(), more, out);
    return bb_test_program(line, said, sizeof said);
}

static int64_t bytes_in(const char *dir, const char *folder)
{
    char        path[1200];
    struct stat s;
    int64_t     sum = 0;
    snprintf(path, sizeof path, "%s/%s", dir, folder);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s/%s", dir, folder, e->d_name);
        if (stat(path, &s) == 0 && S_ISREG(s.st_mode)) sum += s.st_size;
    }
    if (d) closedir(d);
    return sum;
}

static void has_file(const char *dir, const char *name, bool right)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_msg(bb_file_exists(path) == right, "%s should %s", path, right ? "be there" : "be gone");
}

/* Local scores hold the sketches of all options twice more, beside those around full precision. */
START_TEST(sketches_around_plans_are_counted)
{
    static const char *const probes[2] = { "--measure-windows 64 --probes 128", "--measure-windows 64 --probes 256" };
    int64_t                  least[2][2];
    for (int i = 0; i < 2; i++)
        for (int local = 0; local < 2; local++) {
            char more[96];
            snprintf(more, sizeof more, "%s --sketch %s", probes[i], local ? "signed" : "none");
            least[i][local] = estimated_with("ram_least_bytes", more);
        }
    const int64_t once = least[1][0] - least[0][0], with = least[1][1] - least[0][1];
    ck_assert_int_gt(once, 1 << 20);
    ck_assert_msg(llabs(with - 3 * once) < once / 100, "%lld bytes more for twice the probes, %lld with local scores", (long long)once, (long long)with);
}
END_TEST

/* A search that begins with learned masks holds every linear three times in float32, and four numbers of each weight of its hypernetwork, whose last matrices have 128
 * numbers a channel. */
START_TEST(masks_that_are_learned_are_counted)
{
    const double  linears = 2 * (4.0 * 256 * 256 + 3.0 * 256 * 512), channels = 2 * (6 * 256 + 512 + 512);
    const int64_t least = estimated_with("ram_least_bytes", "--search toga") - estimated_with("ram_least_bytes", "--search refine");
    ck_assert_msg(least > 12 * linears + 16 * 128 * channels && least < 100 << 20, "%lld bytes more", (long long)least);
}
END_TEST

/* No stage of a run had more than so many bytes. */
static void peaks_are_below(const char *out, int64_t most)
{
    bb_csv t;
    bb_err err = BB_ERR_INIT;
    snprintf(line, sizeof line, "%s/timing.csv", out);
    ck_assert_msg(bb_csv_read(line, &t, &err) == BB_OK, "%s", err.msg);
    for (size_t i = 0; i < t.n_rows; i++) {
        int64_t peak;
        ck_assert_int_eq(bb_csv_int(&t, i, 4, &peak, &err), BB_OK);
        ck_assert_msg(peak > 1 << 20 && peak <= most, "%s: %lld bytes of %lld", bb_csv_text(&t, i, 0), (long long)peak, (long long)most);
    }
    bb_csv_done(&t);
}

/* What a run must have in memory does not grow with the windows whose states it keeps: they are on disk where they find no room, which is said and foreseen. The
 * results are the same, and nothing is left of them. */
START_TEST(hidden_states_that_find_no_room_are_on_disk)
{
    static const char *const few = "--calib-windows 24 --tune-windows 24 --confirm-windows 16";
    static const char *const many = "--calib-windows 112 --tune-windows 112 --confirm-windows 64";
    static const char *const steps = "--finalise-steps rebuild,blocks,lfq --tune-tokens 0.008 --width-order gates";
    static const char *const words = "hidden states are kept in files of ";
    static const char *const names[] = { "model.gguf", "front.csv", "plans.csv", "layers.csv", "sensitivity.csv" };
    char                     disk[512], memory[512], more[512];
    snprintf(disk, sizeof disk, "%s", bb_test_path("on-disk"));
    snprintf(memory, sizeof memory, "%s", bb_test_path("in-memory"));
    snprintf(more, sizeof more, "%s %s", few, steps);
    const int64_t least = estimated_with("ram_least_bytes", more);
    snprintf(more, sizeof more, "%s %s", many, steps);
    ck_assert_int_eq(estimated_with("ram_least_bytes", more), least);
    const int64_t unlimited = estimated_with("disk_bytes", more);
    snprintf(more, sizeof more, "%s %s --max-ram %lld", many, steps, (long long)least);
    const int64_t limited = estimated_with("disk_bytes", more), states = 2 * 112 * 64 * 256 * (int64_t)sizeof(float); /* of both networks of a rebuild */
    ck_assert_msg(limited > unlimited + states && limited < unlimited + 20 * states, "%lld, and %lld on disk", (long long)unlimited, (long long)limited);
    ck_assert_msg(run(disk, more) == 0 && strstr(said, words), "%s", said);
    peaks_are_below(disk, least);
    snprintf(more, sizeof more, "%s %s --max-ram 0", many, steps);
    ck_assert_msg(run(memory, more) == 0 && !strstr(said, words), "%s", said);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) bb_test_same_in(disk, memory, names[i]);
    DIR *d = opendir(disk);
    for (struct dirent *e; d && (e = readdir(d));) ck_assert_msg(strncmp(e->d_name, "states", 6) != 0, "%s was left behind", e->d_name);
    if (d) closedir(d);
}
END_TEST

START_TEST(memory_is_kept_in_every_stage_or_refused)
{
    const int64_t least = estimated("ram_least_bytes"), disk = estimated("disk_bytes");
    char          out[512], more[512], number[40];
    snprintf(out, sizeof out, "%s", bb_test_path("small"));
    ck_assert_int_gt(least, 20 << 20);
    snprintf(more, sizeof more, "--max-ram %lld", (long long)least / 2);
    ck_assert_int_eq(run(out, more), 3);
    snprintf(number, sizeof number, "needs %lld bytes", (long long)least);
    ck_assert_msg(strstr(said, "is not enough") && strstr(said, number), "%s", said);
    ck_assert(!bb_file_exists(out));
    snprintf(more, sizeof more, "--max-ram %lld", (long long)(1.5 * (double)least));
    ck_assert_msg(run(out, more) == 0, "%s", said);
    peaks_are_below(out, least * 3 / 2);
    snprintf(more, sizeof more, "%s", bb_test_path("unlimited"));
    ck_assert_msg(run(more, "--max-ram 0") == 0, "%s", said); /* no limit, and the same file */
    bb_test_same_in(out, more, "model.gguf");
    const int64_t has = bytes_in(out, "database");
    ck_assert_msg(has < 2 * disk && disk < 2 * has, "foreseen %lld, it has %lld", (long long)disk, (long long)has);
}
END_TEST

/* A run that is calibrated, with so many bytes of --max-ram beside what it needs with all states in memory; 0: the least. */
static void calibrated(const char *name, uint64_t more, bb_run *r)
{
    static const char *const given[][2] = { { "formats", "Q4_0" },       { "embd-formats", "Q8_0" },     { "calib-windows", "4" }, { "measure-windows", "1" },
                                            { "refine-windows", "40" },  { "confirm-windows", "44" },    { "ctx", "128" },         { "sweeps", "1" },
                                            { "prune", "none" },         { "target-bpw", "7" },          { "workers", "3" },       { "output-windows", "0" },
                                            { "search-tokens", "0.02" }, { "finalise-steps", "rebuild" } };
    bb_run_config            c = { 0 };
    bb_err                   err = BB_ERR_INIT;
    char                     number[40];
    ck_assert_int_eq(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &c, &err), BB_OK);
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, given[i][0], given[i][1], &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "model", model(), &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "calib", text(), &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, "out", bb_test_path(name), &err), BB_OK);
    ck_assert_msg(bb_run_create(r, &c, false, &err) == BB_OK, "%s", err.msg);
    snprintf(number, sizeof number, "%llu", (unsigned long long)(more ? bb_memory_without_disk(r) + more : bb_memory_least_of_all(r)));
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r->config, "max-ram", number, &err), BB_OK);
    ck_assert_msg(bb_stage_run(r, BB_STAGE_CALIBRATE, &err) == BB_OK, "%s", err.msg);
}

/* A disk that is full is one sentence; with room again the same run goes on. */
START_TEST(hidden_states_without_room_on_the_disk_are_refused)
{
    bb_err err = BB_ERR_INIT;
    bb_run r;
    calibrated("no-space", 0, &r);
    ck_assert_msg(bb_memory_spills(&r) && bb_memory_hold(&r, &err) == BB_OK && bb_spills(), "%s", err.msg);
    bb_net_evaluator_destroy(r.evaluator);
    r.evaluator = NULL;
    bb_file_fail_after(0, 1000000, ENOSPC);
    ck_assert_int_ne(bb_run_evaluator(&r, &err), BB_OK);
    bb_file_fail_after(-1, 0, 0);
    ck_assert_msg(strstr(err.msg, r.config.out) && strstr(err.msg, strerror(ENOSPC)), "%s", err.msg);
    ck_assert_uint_eq(bb_spilled_bytes(), 0);
    bb_err_clear(&err);
    ck_assert_msg(bb_run_evaluator(&r, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_gt(bb_spilled_bytes(), 1 << 20);
    bb_run_close(&r);
    ck_assert_uint_eq(bb_spilled_bytes(), 0);
    ck_assert(!bb_spills());
    bb_log_to_run(NULL, NULL);
}
END_TEST

/* What such a run holds when all workers have their caches; room: for caches. */
static size_t held_by_workers(uint64_t more, uint64_t *room)
{
    bb_run    r;
    bb_scorer s = { 0 };
    bb_err    err = BB_ERR_INIT;
    calibrated("workers", more, &r);
    ck_assert_msg(bb_scorer_init(&r, &s, &err) == BB_OK, "%s", err.msg);
    const size_t held = bb_mem_live_bytes();
    *room = bb_memory_for_caches(&r);
    bb_scorer_done(&s);
    ck_assert_uint_le(bb_run_unused_memory(&r), *room);
    bb_run_close(&r);
    return held;
}

/* The caches of all evaluators together are within what is left for caches, and use it. */
START_TEST(workers_share_the_memory_for_caches)
{
    const uint64_t window = (uint64_t)128 * 256 * sizeof(float), one = 40 * window * 7 / 2; /* refine: three boundaries, and half of the positions */
    uint64_t       none, some;
    const size_t   without = held_by_workers(1, &none), with = held_by_workers(3 * (one + 6 * window) / 4 * 5, &some);
    ck_assert_uint_gt(with, without + 2 * one);
    ck_assert_uint_le(with - without, some - none + (1 << 20));
}
END_TEST

/* End-to-end training runs while the evaluator keeps its caches: where --max-ram is just what training needs, none is left for them, and no more than
 * what it is beyond. */
START_TEST(training_all_matrices_has_what_it_counts_on)
{
    const uint64_t more[] = { 1, 1 << 20, 64 << 20 }; /* 1: of a byte that is not whole */
    bb_err         err = BB_ERR_INIT;
    bb_run         r;
    char           number[40];
    bool           coarse;
    uint64_t       need = 0;
    calibrated("trained", 1 << 30, &r);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* what training needs is counted so, whatever their number */
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "finalise-steps", "end-to-end", &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "max-ram", "0", &err), BB_OK);
    ck_assert(bb_memory_trains_all(&r, &coarse, &need) && !coarse);
    snprintf(number, sizeof number, "%llu", (unsigned long long)bb_memory_least_of_all(&r));
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "max-ram", number, &err), BB_OK);
    const uint64_t boundaries = bb_memory_for_evaluator(&r); /* which measuring cannot do without */
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        snprintf(number, sizeof number, "%llu", (unsigned long long)(need + more[i]));
        ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "max-ram", number, &err), BB_OK);
        ck_assert(!bb_memory_spills(&r));
        ck_assert_uint_le(bb_memory_for_evaluator(&r), boundaries + more[i]);
        ck_assert_uint_ge(bb_memory_for_evaluator(&r), boundaries + more[i] / 2);
        ck_assert_uint_eq(bb_memory_for_caches(&r), bb_memory_for_evaluator(&r));
    }
    omp_set_num_threads(threads);
    bb_run_close(&r);
    bb_log_to_run(NULL, NULL);
}
END_TEST

/* The files are evaluated with the memory that the evaluator of the search had; who searches again on the same handle has one again. */
START_TEST(evaluating_has_the_memory_of_the_evaluator)
{
    static const bb_stage stages[] = { BB_STAGE_SEARCH, BB_STAGE_FINALISE, BB_STAGE_EVALUATE, BB_STAGE_SEARCH, BB_STAGE_EVALUATE };
    bb_err                err = BB_ERR_INIT;
    bb_run                r;
    calibrated("evaluated", 1 << 30, &r);
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        ck_assert_msg(bb_stage_run(&r, stages[i], &err) == BB_OK, "%s", err.msg);
        ck_assert(!r.evaluator == (stages[i] == BB_STAGE_EVALUATE));
    }
    bb_run_close(&r);
    bb_log_to_run(NULL, NULL);
}
END_TEST

/* The most that `finalise --ladder` of the run holds, with so many bytes beyond what training all matrices needs; room: for caches. */
static size_t held_by_ladder(const char *run, uint64_t more, uint64_t *room)
{
    bb_err   err = BB_ERR_INIT;
    bb_run   r;
    uint64_t need;
    bool     coarse;
    char     number[40];
    ck_assert_msg(bb_run_reopen(&r, run, &err) == BB_OK, "%s", err.msg);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "tune-tokens", "0.001", &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "workers", "1", &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "finalise-steps", "rebuild,blocks,lfq,end-to-end", &err), BB_OK);
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "max-ram", "0", &err), BB_OK);
    ck_assert(bb_memory_trains_all(&r, &coarse, &need) && !coarse);
    snprintf(number, sizeof number, "%llu", (unsigned long long)((need > bb_memory_without_disk(&r) ? need : bb_memory_without_disk(&r)) + more));
    ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "max-ram", number, &err), BB_OK);
    ck_assert(!bb_memory_spills(&r));
    *room = bb_memory_for_caches(&r);
    bb_mem_peak_restart();
    ck_assert_msg(bb_run_ladder(&r, "7", text(), 0, false, &err) == BB_OK, "%s", err.msg);
    const size_t most = bb_mem_peak_bytes();
    ck_assert_uint_eq(bb_memory_for_caches(&r), *room); /* as before */
    bb_run_close(&r);
    bb_log_to_run(NULL, NULL);
    return most;
}

/* What full precision says on the texts of a ladder is within the memory for caches together with those of the evaluator. */
START_TEST(a_ladder_shares_the_memory_for_caches)
{
    bb_err   err = BB_ERR_INIT;
    bb_run   r;
    uint64_t none, some;
    char     out[512];
    calibrated("ladder", 1 << 30, &r);
    ck_assert_msg(bb_stage_run(&r, BB_STAGE_SEARCH, &err) == BB_OK, "%s", err.msg);
    snprintf(out, sizeof out, "%s", r.config.out);
    bb_run_close(&r);
    const size_t without = held_by_ladder(out, 1, &none), with = held_by_ladder(out, 52 << 20, &some);
    ck_assert_uint_gt(with, without + (some - none) / 2);
    ck_assert_msg(with - without <= some - none + (1 << 20), "%zu more bytes are held where %llu more are allowed", with - without,
                  (unsigned long long)(some - none));
}
END_TEST

/* So are the plans of rivals, after their searches. */
START_TEST(comparing_rivals_has_the_memory_of_the_evaluator)
{
    char                   methods[] = "uniform,random", sizes[] = "", path[512];
    const bb_rivals_config c = { .methods = methods, .sizes = sizes, .out = path, .tokens = 0.002, .times = 1, .offspring = 4 };
    FILE                  *table = tmpfile();
    bb_err                 err = BB_ERR_INIT;
    bb_run                 r;
    snprintf(path, sizeof path, "%s", bb_test_path("rivals.csv"));
    calibrated("rivals", 1 << 30, &r);
    ck_assert_msg(bb_rivals(&r, &c, table, &err) == BB_OK, "%s", err.msg);
    ck_assert(!r.evaluator && r.others_room == 0);
    ck_assert_msg(bb_stage_run(&r, BB_STAGE_CALIBRATE, &err) == BB_OK && r.evaluator, "%s", err.msg);
    bb_run_close(&r);
    fclose(table);
    bb_log_to_run(NULL, NULL);
}
END_TEST

static void set(bb_run *r, const char *option, const char *value)
{
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r->config, option, value, &err) == BB_OK, "%s", err.msg);
}

/* What methods beside --search hold is counted as if they were it: refused where it has no room, and what is kept leaves it. What is trained does not go by it. */
START_TEST(what_rivals_hold_is_counted)
{
    static const char *const names[] = { "toga", "quadratic" };
    char                     methods[16], sizes[] = "", number[40];
    FILE                    *table = tmpfile();
    bb_rivals_config         c = { .methods = methods, .sizes = sizes, .out = sizes, .tokens = 0.002, .times = 1, .offspring = 4 };
    bb_err                   err = BB_ERR_INIT;
    bb_run                   r;
    calibrated("counted", 0, &r);
    for (size_t i = 0; i < 2; i++) {
        bool     coarse[2];
        uint64_t training[2];
        snprintf(methods, sizeof methods, "%s", names[i]);
        set(&r, "search", "refine");
        set(&r, "max-ram", "4GiB");
        const uint64_t own = bb_memory_least_of_all(&r);
        bb_memory_trains_all(&r, &coarse[0], &training[0]);
        set(&r, "search", methods);
        const uint64_t theirs = bb_memory_least_of_all(&r), room = bb_memory_for_caches(&r);
        ck_assert_uint_ge(theirs, own + (i == 0)); /* pairs of so few options are less than building them takes */
        set(&r, "search", "refine");
        ck_assert_int_eq(bb_memory_count_method(&r, bb_method_named(methods), &err), BB_OK);
        ck_assert(bb_memory_least_of_all(&r) == theirs && bb_memory_for_caches(&r) == room && r.more_learned == (i == 0) && r.more_pairs == (i == 1));
        bb_memory_trains_all(&r, &coarse[1], &training[1]);
        ck_assert(training[1] == training[0] && coarse[1] == coarse[0]);
        r.more_pairs = r.more_learned = false;
        if (theirs == own) continue;
        snprintf(number, sizeof number, "%llu", (unsigned long long)own);
        set(&r, "max-ram", number);
        ck_assert_int_eq(bb_rivals(&r, &c, table, &err), BB_INFEASIBLE);
        snprintf(number, sizeof number, "needs %llu bytes", (unsigned long long)theirs);
        ck_assert_msg(strstr(err.msg, number) != NULL, "%s", err.msg);
        bb_err_clear(&err);
        ck_assert_uint_eq(bb_memory_least_of_all(&r), own); /* as before */
    }
    bb_run_close(&r);
    fclose(table);
    bb_log_to_run(NULL, NULL);
}
END_TEST

/* The noise floor is of a copy of the whole model: it is left out where that has no room. */
START_TEST(the_noise_floor_has_room_or_is_left_out)
{
    static const char *const words[2] = { "an F16 copy of the model is ", "not measured, for an F16 copy of the model takes " };
    bb_err                   err = BB_ERR_INIT;
    char                     log[1200], *text;
    size_t                   n;
    uint64_t                 bytes;
    bb_run                   r;
    for (int i = 0; i < 2; i++) {
        calibrated(i ? "no-floor" : "floor", 1 << 30, &r);
        ck_assert(bb_memory_copies_source(&r, &bytes) && bytes > 2 << 20 && bytes < 8 << 20);
        if (i) ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &r.config, "max-ram", "40MiB", &err), BB_OK);
        ck_assert(bb_memory_copies_source(&r, &bytes) == (i == 0));
        snprintf(log, sizeof log, "%s/log.txt", r.config.out);
        ck_assert_msg(bb_stage_run(&r, BB_STAGE_MEASURE, &err) == BB_OK, "%s", err.msg);
        bb_run_close(&r);
        bb_log_to_run(NULL, NULL);
        ck_assert_int_eq(bb_file_read(log, &text, &n, &err), BB_OK);
        ck_assert_msg(strstr(text, words[i]) && !strstr(text, words[1 - i]), "%s", text);
        bb_free(text);
    }
}
END_TEST

/* The least is enough whatever the levels are: measuring has its caches first. */
START_TEST(measuring_has_its_caches_first)
{
    char out[512], more[160];
    snprintf(out, sizeof out, "%s", bb_test_path("first"));
    snprintf(more, sizeof more, "--measure-windows 24 --refine-windows 4 --no-finalise --max-ram 1MiB");
    ck_assert_int_eq(run(out, more), 3);
    const char *at = strstr(said, "needs ");
    ck_assert_ptr_nonnull(at);
    snprintf(more, sizeof more, "--measure-windows 24 --refine-windows 4 --no-finalise --max-ram %lld", strtoll(at + 6, NULL, 10));
    ck_assert_msg(run(out, more) == 0, "%s", said);
}
END_TEST

/* The number before "bytes" in what was refused. */
static int64_t needed(void)
{
    const char *at = strstr(said, "needs ");
    ck_assert_msg(at != NULL, "%s", said);
    return strtoll(at + 6, NULL, 10);
}

/* Commands without a run: refused before anything is made under the least, which is not passed by far, and done with it. */
START_TEST(quantize_and_train_keep_to_a_limit)
{
    static const char *const commands[] = {
        "quantize %s --format Q4_0 --embd-format Q8_0 --method rtn --calib %s --out %s",
        "quantize %s --format Q4_0 --embd-format Q8_0 --method sequential --calib-windows 24 --ctx 64 --sweeps 1 --calib %s --out %s",
        "train --init %s --text %s --steps 2 --ctx 64 --batch 8 --valid-windows 4 %s",
    };
    char          out[512], more[512];
    struct rusage before, after;
    snprintf(line, sizeof line, "limited-%d.gguf", _i);
    snprintf(out, sizeof out, "%s", bb_test_path(line));
    const size_t n = (size_t)snprintf(line, sizeof line, commands[_i], model(), text(), out);
    snprintf(line + n, sizeof line - n, " --threads 2 --max-ram 8MiB");
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 3 && strstr(said, "--max-ram 8.00 MiB is not enough"), "%s", said);
    ck_assert(!bb_file_exists(out));
    const int64_t least = needed();
    ck_assert_int_gt(least, 40 << 20);
    ck_assert_int_lt(least, 800 << 20);
    snprintf(line + n, sizeof line - n, " --threads 2 --max-ram %lld", (long long)least);
    getrusage(RUSAGE_CHILDREN, &before);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    getrusage(RUSAGE_CHILDREN, &after);
    ck_assert_msg(after.ru_maxrss * 1024 <= least || after.ru_maxrss == before.ru_maxrss, "%lld KiB of %lld", (long long)after.ru_maxrss,
                  (long long)least / 1024);
    ck_assert(bb_file_exists(out));
    if (_i != 1) return;
    ck_assert_msg(strstr(said, "hidden states are kept in files of ") != NULL, "%s", said);
    snprintf(more, sizeof more, "%s", bb_test_path("unlimited.gguf"));
    snprintf(line, sizeof line, commands[_i], model(), text(), more);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0 && !strstr(said, "hidden states are kept"), "%s", said);
    bb_test_same(out, more);
}
END_TEST

START_TEST(a_run_keeps_what_is_asked)
{
    char out[512];
    snprintf(out, sizeof out, "%s", bb_test_path("kept"));
    ck_assert_msg(run(out, "--keep plans") == 0, "%s", said);
    ck_assert_ptr_nonnull(strstr(said, "--keep plans: "));
    has_file(out, "database", false);
    has_file(out, "models", true);
    has_file(out, "model.gguf", true);
    snprintf(line, sizeof line, "verify %s", out);
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    ck_assert_msg(run(out, "--keep file") == 0, "%s", said); /* the same run: what stays is in no key */
    has_file(out, "database", false);
    has_file(out, "models", false);
    has_file(out, "model.gguf", true);
    has_file(out, "report.html", true);
    ck_assert_int_eq(run(out, "--keep some"), 2);
}
END_TEST

/* Pages of a file that was read through go when they are too many, and what is read again is the same. */
START_TEST(mapped_pages_are_given_back)
{
    enum { SIZE = 96 << 20, LIMIT_OVER = 32 << 20 };
    char           path[512];
    bb_map         map;
    uint64_t       sum = 0, before = bb_memory_resident();
    unsigned char *data = bb_alloc(SIZE, 1, NULL);
    if (before == 0) BB_SKIP("this system does not say how much memory is resident");
    snprintf(path, sizeof path, "%s", bb_test_path("pages"));
    for (size_t i = 0; i < SIZE; i++) data[i] = (unsigned char)(i >> 12);
    ck_assert_int_eq(bb_file_write(path, data, SIZE, NULL), BB_OK);
    bb_free(data);
    ck_assert_int_eq(bb_map_open(path, &map, NULL), BB_OK);
    for (size_t i = 0; i < SIZE; i += 4096) sum += map.data[i];
    before = bb_memory_resident();
    bb_map_limit(before - LIMIT_OVER);
    for (int i = 0; i < 500 && bb_memory_resident() > before - LIMIT_OVER; i++) nanosleep(&(struct timespec) { 0, 10000000 }, NULL);
    ck_assert_uint_le(bb_memory_resident(), before - LIMIT_OVER);
    bb_map_limit(0);
    for (size_t i = 0; i < SIZE; i += 4096) sum -= map.data[i];
    ck_assert_uint_eq(sum, 0);
    bb_map_close(&map);
    bb_memory_peak_reset();
    ck_assert_uint_gt(bb_memory_peak(), 1 << 20);
}
END_TEST

int main(void)
{
    gsl_set_error_handler_off(); /* as main() does */
    Suite *s = suite_create("cli_memory");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, sketches_around_plans_are_counted);
    tcase_add_test(t, masks_that_are_learned_are_counted);
    tcase_add_test(t, hidden_states_that_find_no_room_are_on_disk);
    tcase_add_test(t, hidden_states_without_room_on_the_disk_are_refused);
    tcase_add_test(t, memory_is_kept_in_every_stage_or_refused);
    tcase_add_test(t, workers_share_the_memory_for_caches);
    tcase_add_test(t, training_all_matrices_has_what_it_counts_on);
    tcase_add_test(t, evaluating_has_the_memory_of_the_evaluator);
    tcase_add_test(t, a_ladder_shares_the_memory_for_caches);
    tcase_add_test(t, comparing_rivals_has_the_memory_of_the_evaluator);
    tcase_add_test(t, what_rivals_hold_is_counted);
    tcase_add_test(t, measuring_has_its_caches_first);
    tcase_add_test(t, the_noise_floor_has_room_or_is_left_out);
    tcase_add_loop_test(t, quantize_and_train_keep_to_a_limit, 0, 3);
    tcase_add_test(t, a_run_keeps_what_is_asked);
    tcase_add_test(t, mapped_pages_are_given_back);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
