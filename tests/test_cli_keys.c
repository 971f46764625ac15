/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_keys.c: what a run directory keeps is of the content that it was computed from. Options come and go in one directory, files are cut and
 * exchanged, texts, models and processors change: the files and numbers are those of a directory that knew nothing else, or one sentence says what
 * is wrong. And every number that verify claims to check is checked. Needs the built program. */
#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/store.h"
#include "engine/ladder.h"
#include "eval/evaluate.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

/* At 5.7 and 7 bits a weight there are uniform plans of this model. */
#define QUICK \
    "--formats Q4_0,Q5_0,Q8_0 --embd-formats Q4_0,Q5_0,Q8_0 --calib-windows 4 --confirm-windows 4 --refine-windows 2 --measure-windows 1 " \
    "--search-tokens 0.003 --ctx 32 --sweeps 1 --prune none -q "
#define TWO "--points 2 --min-bpw 5.7 --max-bpw 7 "
#define TUNED "--tune-tokens 0.0005 --tune-windows 8 "

static char said[16384], line[4096];
static char model[600];

/* ---- runs ---- */

/* bitbudget with these arguments must end with this code; what it says is in `said`. */
static void program(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void program(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    int found = bb_test_program(line, said, sizeof said);
    ck_assert_msg(found == code, "bitbudget %s: exit %d, not %d: %s", line, found, code, said);
}

static void says(const char *part) { ck_assert_msg(strstr(said, part) != NULL, "\"%s\" is not in: %s", part, said); }

static void write_model(const char *path, bb_type type)
{
    tiny_spec s = tiny_default("llama");
    s.n_embd = 64;
    s.head_dim = 16;
    for (int i = 0; i < TINY_MAX_LAYERS; i++) s.n_ff[i] = 128;
    tiny_set_type(&s, type);
    tiny_write(&s, path);
}

/* A folder that lasts as long as the test program, by name. */
static const char *folder(const char *name)
{
    static char kept[64][512];
    static int  n;
    for (int i = 0; i < n; i++)
        if (strcmp(strrchr(kept[i], '/') + 1, name) == 0) return kept[i];
    ck_assert_int_lt(n, 64);
    snprintf(kept[n], sizeof kept[n], "%s", bb_test_path(name));
    return kept[n++];
}

static const char *in(const char *dir, const char *name)
{
    static char path[8][700];
    static int  at;
    char       *p = path[at++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static bb_csv table(const char *dir, const char *name)
{
    bb_csv t;
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_csv_read(in(dir, name), &t, &err) == BB_OK, "%s", err.msg);
    return t;
}

static const char *cell(const bb_csv *t, size_t row, const char *column)
{
    long c = bb_csv_column(t, column);
    ck_assert_msg(c >= 0, "%s has no column %s", t->path, column);
    return bb_csv_text(t, row, (size_t)c);
}

static size_t count(const char *dir, const char *sub)
{
    DIR           *d = opendir(in(dir, sub));
    struct dirent *e;
    size_t         n = 0;
    while (d && (e = readdir(d))) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

/* Everything that the present options make is in `dir` as in `fresh`, and nothing else of its kind. */
static void as_fresh(const char *dir, const char *fresh)
{
    static const char *const files[] = { "front.csv",       "baselines.csv", "layers.csv", "plans.csv", "finalise.csv",
                                         "sensitivity.csv", "guard.json",    "plan.json",  "model.gguf" };
    bb_csv                   t = table(fresh, "plans.csv");
    char                     name[64];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) bb_test_same(in(dir, files[i]), in(fresh, files[i]));
    for (size_t i = 0; i < t.n_rows; i++) {
        snprintf(name, sizeof name, "models/%s.gguf", cell(&t, i, "plan_hash"));
        if (cell(&t, i, "asked")[0] == '1' && bb_file_exists(in(fresh, name))) bb_test_same(in(dir, name), in(fresh, name));
    }
    ck_assert_uint_eq(count(dir, "models"), count(fresh, "models"));
    ck_assert_uint_eq(count(dir, "plans"), count(fresh, "plans"));
    ck_assert_int_eq(bb_file_exists(in(dir, "crossover.csv")), bb_file_exists(in(fresh, "crossover.csv")));
    ck_assert_int_eq(bb_file_exists(in(dir, "speed.csv")), bb_file_exists(in(fresh, "speed.csv")));
    bb_csv_done(&t);
    program(0, "verify -q %s", dir);
}

/* Two sizes, not finalised: the fresh directory that most tests begin with. */
static const char *plain(void)
{
    const char *dir = folder("plain");
    if (!bb_file_exists(in(dir, "front.csv"))) program(0, "sweep %s " QUICK TWO "--no-finalise --out %s", model, dir);
    return dir;
}

static void copy_run(const char *from, const char *to)
{
    snprintf(line, sizeof line, "rm -rf %s && cp -r %s %s", to, from, to);
    ck_assert_int_eq(system(line), 0);
}

static const char *write_text(const char *name, int seed)
{
    static const char *const words[] = { "the ", "dog ",   "was ", "big ", "and ", "a ",     "girl ", "had ",
                                         "red ", "ball. ", "She ", "ran ", "to ",  "play. ", "One ",  "day " };
    char                     text[6000];
    const char              *path = folder(name);
    size_t                   n = 0;
    unsigned                 x = (unsigned)seed;
    while (n < 5900) n += (size_t)snprintf(text + n, sizeof text - n, "%s", words[(x = x * 1664525u + 1013904223u) >> 28]);
    bb_test_write(path, text, n);
    return path;
}

/* ---- options ---- */

/* Finalise on and off, other sizes, other formats, pruning off and on, another method: each time the directory is that of a fresh run. */
START_TEST(options_come_and_go)
{
    static const char *const options[] = {
        TWO "--no-finalise",
        TWO TUNED,
        TWO TUNED "--finalise-steps rebuild",
        "--points 2 --min-bpw 6.5 --max-bpw 8 --no-finalise",
        TWO "--no-finalise --prune width --ffn-divisor 32",
        TWO "--no-finalise --prune width --ffn-divisor 32 --width-order both",
        TWO "--no-finalise --embd-formats Q8_0,Q4_0",
        TWO "--no-finalise --search quadratic",
    };
    enum { N = sizeof options / sizeof *options };
    static const int order[] = { 0, 1, 0, 2, 1, 3, 4, 5, 7, 4, 6, 0 };
    const char      *dir = folder("changing");
    char             name[32];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, i == 0 ? "plain" : "fresh-%d", i);
        if (i > 0) program(0, "sweep %s " QUICK "%s --out %s", model, options[i], folder(name));
    }
    plain();
    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        snprintf(name, sizeof name, order[k] == 0 ? "plain" : "fresh-%d", order[k]);
        program(0, "sweep %s " QUICK "%s --out %s", model, options[order[k]], dir);
        as_fresh(dir, folder(name));
    }
    bb_csv a = table(folder("plain"), "front.csv"), b = table(folder("fresh-1"), "front.csv");
    bool   differs = false; /* or nothing was tested */
    for (size_t i = 0; i < a.n_rows && i < b.n_rows; i++) differs |= strcmp(cell(&a, i, "kl_nats"), cell(&b, i, "kl_nats")) != 0;
    ck_assert(differs);
    bb_csv_done(&a);
    bb_csv_done(&b);
}
END_TEST

/* What options do alone decides what a rival finds: another share of it by the sketch is another rival. */
START_TEST(rivals_go_by_the_costs_of_the_run)
{
    static const char *const from[2] = { "1", "0" };
    const char              *dirs[3] = { folder("coarse"), folder("exact"), folder("coarse-then-exact") };
    bb_csv                   t[3];
    bool                     differs = false;
    for (int i = 0; i < 4; i++) {
        const char *dir = dirs[i < 2 ? i : 2];
        program(0, "sweep %s " QUICK TWO "--no-finalise --exact-from %s --out %s", model, from[i % 2], dir);
        program(0, "rivals -q %s --methods refine,newton --tokens 0.002", dir);
    }
    for (int i = 0; i < 3; i++) t[i] = table(dirs[i], "search.csv");
    for (size_t i = 0; i < t[1].n_rows; i++) {
        ck_assert_str_eq(cell(&t[2], i, "plan_hash"), cell(&t[1], i, "plan_hash"));
        differs |= i < t[0].n_rows && strcmp(cell(&t[0], i, "plan_hash"), cell(&t[1], i, "plan_hash")) != 0;
    }
    ck_assert(differs); /* or nothing was tested */
    for (int i = 0; i < 3; i++) bb_csv_done(&t[i]);
}
END_TEST

/* Other sizes leave no table of an optional command behind; `sweep` after `run` is a sweep for the stages too. */
START_TEST(what_other_options_made_is_removed)
{
    const char *dir = folder("leftovers");
    program(0, "run %s " QUICK "--target-bpw 9 --no-finalise --out %s", model, dir);
    program(0, "rivals -q %s --methods ours,random --tokens 0.0005", dir);
    ck_assert(bb_file_exists(in(dir, "search.csv")));
    bb_test_write(in(dir, "notes.txt"), "mine", 4);
    bb_test_write(in(dir, "models/mine.gguf"), "mine", 4);
    program(0, "run %s " QUICK "--target-bpw 9 --no-finalise --out %s", model, dir); /* nothing changed */
    ck_assert(bb_file_exists(in(dir, "search.csv")));
    program(0, "sweep %s " QUICK TWO "--no-finalise --out %s", model, dir);
    ck_assert(!bb_file_exists(in(dir, "search.csv")));
    ck_assert(bb_file_exists(in(dir, "notes.txt")) && bb_file_exists(in(dir, "models/mine.gguf")));
    unlink(in(dir, "models/mine.gguf"));
    as_fresh(dir, plain());
    program(0, "evaluate -q %s", dir);
    as_fresh(dir, plain());
}
END_TEST

/* A stage alone, with options that another search was made with. */
START_TEST(a_stage_does_not_take_another_search_for_its_own)
{
    const char *dir = folder("edited");
    char       *yaml, *at;
    size_t      n;
    copy_run(plain(), dir);
    ck_assert_int_eq(bb_file_read(in(dir, "config.resolved.yaml"), &yaml, &n, NULL), BB_OK);
    ck_assert_ptr_nonnull(at = strstr(yaml, "points: 2"));
    at[8] = '3';
    bb_test_write(in(dir, "config.resolved.yaml"), yaml, n);
    bb_free(yaml);
    program(5, "evaluate -q %s", dir);
    says("is of a search with other options");
    program(0, "search -q %s", dir);
    program(0, "finalise -q %s", dir);
    program(0, "evaluate -q %s", dir);
    bb_csv t = table(dir, "front.csv");
    ck_assert_uint_eq(t.n_rows, 3 + 1);
    bb_csv_done(&t);
    program(0, "verify -q %s", dir);
}
END_TEST

/* ---- data ---- */

/* Another evaluation text, or other windows of it, in the same directory. */
START_TEST(scores_are_of_the_text_that_was_asked_for)
{
    const char *dir = folder("texts"), *one = write_text("one.txt", 1), *two = write_text("two.txt", 2);
    const char *fresh_one = folder("text-one"), *fresh_two = folder("text-two"), *fewer = folder("text-fewer");
    program(0, "sweep %s " QUICK TWO "--no-finalise --eval %s --out %s", model, one, fresh_one);
    program(0, "sweep %s " QUICK TWO "--no-finalise --eval %s --out %s", model, two, fresh_two);
    program(0, "sweep %s " QUICK TWO "--no-finalise --eval %s --eval-windows 7 --out %s", model, two, fewer);
    program(0, "sweep %s " QUICK TWO "--no-finalise --eval %s --out %s", model, one, dir);
    as_fresh(dir, fresh_one);
    program(0, "sweep %s " QUICK TWO "--no-finalise --eval %s --out %s", model, two, dir);
    as_fresh(dir, fresh_two);
    program(0, "sweep %s " QUICK TWO "--no-finalise --eval %s --eval-windows 7 --out %s", model, two, dir);
    as_fresh(dir, fewer);
    write_text("two.txt", 3); /* the same name, another text */
    program(4, "verify -q %s", dir);
    says("front.csv is of another evaluation text");
    program(0, "sweep %s " QUICK TWO "--no-finalise --eval %s --eval-windows 7 --out %s", model, two, dir);
    program(0, "verify -q %s", dir);
    bb_csv a = table(fewer, "front.csv"), b = table(dir, "front.csv");
    ck_assert_str_ne(cell(&a, 0, "data_sha256"), cell(&b, 0, "data_sha256"));
    ck_assert_str_ne(cell(&a, 0, "kl_nats"), cell(&b, 0, "kl_nats"));
    bb_csv_done(&a);
    bb_csv_done(&b);
}
END_TEST

/* The stage alone: the report that is there does not keep the numbers of the text before. */
START_TEST(a_report_follows_the_tables)
{
    const char *dir = folder("text-report"), *text = write_text("report.txt", 1);
    char       *before, *after, *asked;
    size_t      n[3];
    program(0, "sweep %s " QUICK TWO "--no-finalise --eval %s --out %s", model, text, dir);
    ck_assert_int_eq(bb_file_read(in(dir, "report.html"), &before, &n[0], NULL), BB_OK);
    write_text("report.txt", 2);
    program(0, "evaluate -q %s", dir);
    ck_assert_int_eq(bb_file_read(in(dir, "report.html"), &after, &n[1], NULL), BB_OK);
    program(0, "report -q %s", dir);
    ck_assert_int_eq(bb_file_read(in(dir, "report.html"), &asked, &n[2], NULL), BB_OK);
    ck_assert_str_eq(after, asked);
    ck_assert_str_ne(after, before);
    bb_free(before);
    bb_free(after);
    bb_free(asked);
    unlink(in(dir, "report.html")); /* where there is none, none is made */
    program(0, "evaluate -q %s", dir);
    ck_assert(!bb_file_exists(in(dir, "report.html")));
}
END_TEST

/* One option database for runs on two texts and with other windows of one text: each run has the files of a database of its own. */
START_TEST(a_shared_database_mixes_nothing)
{
    const char *db = folder("database"), *one = write_text("calib-one.txt", 11), *two = write_text("calib-two.txt", 12);
    const struct {
        const char *calib, *more;
    } runs[] = { { one, "" }, { two, "" }, { one, "--confirm-windows 6" } };
    char name[32];
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "shared-%zu", i);
        program(0, "sweep %s " QUICK TWO "--no-finalise --calib %s %s --database %s --out %s", model, runs[i].calib, runs[i].more, db, folder(name));
        snprintf(name, sizeof name, "own-%zu", i);
        program(0, "sweep %s " QUICK TWO "--no-finalise --calib %s %s --out %s", model, runs[i].calib, runs[i].more, folder(name));
        char shared[32];
        snprintf(shared, sizeof shared, "shared-%zu", i);
        as_fresh(folder(shared), folder(name));
    }
    program(2, "sweep %s " QUICK TWO "--no-finalise --calib %s --out %s", model, two, folder("own-0"));
    says("another model, data or settings (calibration text was ");
    program(2, "sweep %s " QUICK TWO "--no-finalise --calib %s --damping 0.2 --out %s", model, one, folder("own-0"));
    says("(damping was 0.1");
}
END_TEST

/* A sampled calibration text that was cut is sampled again; another seed is another text. */
START_TEST(samples_are_those_that_were_asked_for)
{
    const char    *dir = folder("samples"), *other = folder("samples-2");
    DIR           *d;
    struct dirent *e;
    ck_assert_int_eq(mkdir(dir, 0777), 0);
    ck_assert_int_eq(mkdir(other, 0777), 0);
    bb_test_write(in(dir, "run.lock"), "", 0); /* left by a run that was killed while it sampled */
    bb_test_write(in(other, "run.lock"), "", 0);
    ck_assert_ptr_nonnull(d = opendir(plain()));
    while ((e = readdir(d))) {
        if (strncmp(e->d_name, "calib-self-", 11) != 0) continue;
        char  *data;
        size_t n;
        ck_assert_int_eq(bb_file_read(in(plain(), e->d_name), &data, &n, NULL), BB_OK);
        bb_test_write(in(dir, e->d_name), data, n / 2);
        bb_test_write(in(other, e->d_name), data, n);
        bb_test_write(in(other, "calib-self.u32"), data, n); /* a name of earlier versions */
        bb_free(data);
    }
    closedir(d);
    program(0, "sweep %s " QUICK TWO "--no-finalise --out %s", model, dir);
    as_fresh(dir, plain());
    program(0, "sweep %s " QUICK TWO "--no-finalise --seed 2 --out %s", model, other);
    program(0, "sweep %s " QUICK TWO "--no-finalise --seed 2 --out %s", model, folder("samples-3"));
    as_fresh(other, folder("samples-3"));
}
END_TEST

/* ---- what decides the bits ---- */

static void set_or_unset(const char *name, const char *value)
{
    if (value) ck_assert_int_eq(setenv(name, value, 1), 0);
    else unsetenv(name);
}

/* Another BLAS core: refused in the same directory; beside it, in the same option database, it makes what it makes alone. */
START_TEST(another_blas_core_is_not_mixed_in)
{
    const char *other = strstr(bb_blas_core(), "Haswell") ? "Nehalem" : "Haswell", *db = folder("cores"), *given = getenv("OPENBLAS_CORETYPE");
    char       *env, *own = given ? bb_strdup(given, NULL) : NULL; /* of whoever runs the tests */
    size_t      n;
    program(0, "sweep %s " QUICK TWO "--no-finalise --database %s --out %s", model, db, folder("core-a"));
    ck_assert_int_eq(setenv("OPENBLAS_CORETYPE", other, 1), 0);
    program(0, "sweep %s " QUICK TWO "--no-finalise --database %s --out %s", model, db, folder("core-b"));
    ck_assert_int_eq(bb_file_read(in(folder("core-b"), "env.json"), &env, &n, NULL), BB_OK);
    const bool changed = strstr(env, other) != NULL;
    bb_free(env);
    if (!changed) {
        set_or_unset("OPENBLAS_CORETYPE", own);
        bb_free(own);
        BB_SKIP("this OpenBLAS has one core");
    }
    program(0, "sweep %s " QUICK TWO "--no-finalise --out %s", model, folder("core-c"));
    as_fresh(folder("core-b"), folder("core-c"));
    program(2, "sweep %s " QUICK TWO "--no-finalise --out %s", model, folder("core-a"));
    says("CPU level and BLAS core was ");
    says(other);
    program(2, "verify %s", folder("core-a"));
    says(other);
    set_or_unset("OPENBLAS_CORETYPE", own);
    bb_free(own);
    program(0, "verify -q %s", folder("core-a"));
}
END_TEST

/* --precision fast: one directory is of one precision, a database may serve both; where the CPU has nothing faster, fast is exact and the directory goes
 * on. Threads change nothing. */
START_TEST(precisions_are_not_mixed)
{
    const char *db = folder("precisions");
    const bool  can = bb_kernels_can_be_fast_rough();
    program(0, "sweep %s " QUICK TWO "--no-finalise --database %s --out %s", model, db, folder("exact"));
    program(0, "sweep %s " QUICK TWO "--no-finalise --precision fast --threads 1 --database %s --out %s", model, db, folder("fast-a"));
    program(0, "sweep %s " QUICK TWO "--no-finalise --precision fast --threads 2 --out %s", model, folder("fast-b"));
    as_fresh(folder("fast-a"), folder("fast-b")); /* verify reads the precision from the directory */
    program(can ? 2 : 0, "sweep %s " QUICK TWO "--no-finalise --precision fast --out %s", model, folder("exact"));
    if (can) says("CPU level and BLAS core was "), says(bb_kernels_can_be_fast() ? "split products" : "rough products");
    ck_assert_int_eq(setenv("BB_CPU", "avx2", 1), 0); /* has nothing faster: another level too, but the bits have the same name as its exact ones */
    program(0, "sweep %s " QUICK TWO "--no-finalise --precision exact --database %s --out %s", model, db, folder("slow-a"));
    program(0, "sweep %s " QUICK TWO "--no-finalise --precision fast --database %s --out %s", model, db, folder("slow-a"));
    unsetenv("BB_CPU");
    program(2, "sweep %s --precision quick --out %s", model, folder("slow-b"));
    says("exact");
}
END_TEST

/* ---- files ---- */

static void model_of(const char *dir, size_t row, char path[700])
{
    bb_csv t = table(dir, "front.csv");
    snprintf(path, 700, "%s/models/%s.gguf", dir, cell(&t, row, "plan_hash"));
    bb_csv_done(&t);
}

/* Cut, exchanged, replaced by text: the next call writes it again; a stage alone says so. */
START_TEST(files_are_those_of_the_record)
{
    const char *dir = folder("damaged");
    char        small[700], large[700], *data;
    size_t      n;
    copy_run(plain(), dir);
    model_of(dir, 0, small);
    model_of(dir, 1, large);
    for (int kind = 0; kind < 3; kind++) {
        ck_assert_int_eq(bb_file_read(kind == 1 ? small : large, &data, &n, NULL), BB_OK);
        if (kind == 0) bb_test_write(large, data, 3000);
        if (kind == 1) bb_test_write(large, data, n);
        if (kind == 2) {
            data[n - 100] ^= 1;
            bb_test_write(large, data, n);
        }
        bb_free(data);
        program(4, "verify -q %s", dir);
        says(strrchr(large, '/') + 1);
        program(4, "evaluate -q %s", dir);
        says("is not the file that finalise wrote");
        if (kind == 1) {
            program(0, "export -q %s --plan %.16s --out %s", dir, strrchr(large, '/') + 1, folder("exported.gguf"));
            char good[64];
            snprintf(good, sizeof good, "models/%.21s", strrchr(large, '/') + 1);
            bb_test_same(folder("exported.gguf"), in(plain(), good));
        }
        program(0, "sweep %s " QUICK TWO "--no-finalise --out %s", model, dir);
        as_fresh(dir, plain());
    }
    unlink(large);
    program(4, "verify -q %s", dir);
    says("is missing");
    program(0, "sweep %s " QUICK TWO "--no-finalise --out %s", model, dir);
    as_fresh(dir, plain());
    bb_test_write(in(dir, "model.gguf"), "no model", 8);
    program(4, "verify -q %s", dir);
    says("model.gguf is not the file of the plan that won");
}
END_TEST

/* A plan that was counted at other bytes than its file has is refused. */
START_TEST(a_file_of_other_bytes_than_counted_is_refused)
{
    const char *dir = folder("counted");
    char        path[700], *text, *at, *end, size[32];
    size_t      n;
    copy_run(plain(), dir);
    model_of(dir, 1, path);
    unlink(path);
    ck_assert_int_eq(bb_file_read(in(dir, "plans.csv"), &text, &n, NULL), BB_OK);
    snprintf(path + strlen(path) - 5, 2, ",");
    ck_assert_ptr_nonnull(at = strstr(text, strrchr(path, '/') + 1));
    at += 17;
    const long bytes = strtol(at, &end, 10) + 1;
    snprintf(size, sizeof size, "%ld", bytes);
    ck_assert_uint_eq(strlen(size), (size_t)(end - at));
    memcpy(at, size, strlen(size));
    bb_test_write(in(dir, "plans.csv"), text, n);
    bb_free(text);
    program(4, "finalise -q %s", dir);
    says("the size model and the exporter disagree");
}
END_TEST

/* ---- tables ---- */

/* A number of each column, changed in its last digit, is found, with the names of file and column; so are missing rows, files, other words. */
START_TEST(verify_checks_every_number)
{
    static const char *const names[] = { "front.csv", "baselines.csv", "layers.csv" };
    const char              *dir = folder("checked");
    copy_run(plain(), dir);
    program(0, "verify %s", dir);
    says("cells of front.csv, baselines.csv and layers.csv");
    for (size_t f = 0; f < 3; f++) {
        char  *text, *changed;
        size_t n, n_rows = 0, row = 0, column = 0;
        bb_csv t = table(dir, names[f]);
        ck_assert_uint_ge(t.n_rows, 1);
        ck_assert_int_eq(bb_file_read(in(dir, names[f]), &text, &n, NULL), BB_OK);
        n_rows = t.n_rows;
        changed = malloc(n + 1);
        for (size_t i = (size_t)(strchr(text, '\n') - text) + 1; i < n; i++) {
            bool ends = text[i] == ',' || text[i] == '\r';
            /* the last character of a cell of each column, in one row and another */
            if (ends && row == column % n_rows && text[i - 1] != ',' && text[i - 1] != '\n') {
                memcpy(changed, text, n);
                changed[i - 1] = text[i - 1] == '1' ? '2' : '1';
                bb_test_write(in(dir, names[f]), changed, n);
                program(4, "verify -q %s", dir);
                says(names[f]);
                says(t.header[column]);
            }
            if (ends) column++;
            if (text[i] == '\n') {
                row++;
                column = 0;
            }
        }
        ck_assert_uint_eq(row, n_rows);
        char *last = strrchr(text, '\n');
        *last = '\0';
        bb_test_write(in(dir, names[f]), text, (size_t)(strrchr(text, '\n') - text) + 1); /* without its last row */
        program(4, "verify -q %s", dir);
        says("rows, the files give");
        unlink(in(dir, names[f]));
        program(4, "verify -q %s", dir);
        says("is missing: run `bitbudget evaluate");
        *last = '\n';
        bb_test_write(in(dir, names[f]), text, n);
        bb_free(text);
        free(changed);
        bb_csv_done(&t);
    }
    for (int k = 0; k < 2; k++) {
        const char *name = k ? "plan.json" : "guard.json";
        char       *text, *at;
        size_t      n;
        ck_assert_int_eq(bb_file_read(in(dir, name), &text, &n, NULL), BB_OK);
        ck_assert_ptr_nonnull(at = strstr(text, "\"kl_nats\": "));
        at[13] ^= 1;
        bb_test_write(in(dir, name), text, n);
        program(4, "verify -q %s", dir);
        says(name);
        at[13] ^= 1;
        bb_test_write(in(dir, name), text, n);
        bb_free(text);
    }
    program(0, "verify -q %s", dir);
    DIR           *d = opendir(dir);
    struct dirent *e;
    while ((e = readdir(d))) ck_assert_msg(strncmp(e->d_name, "verify", 6) != 0, "%s was left behind", e->d_name);
    closedir(d);
}
END_TEST

/* The last row of front.csv is the model itself, as `eval` sees it; of a quantized model it does not claim full precision. */
START_TEST(the_original_has_a_row)
{
    const char *text = write_text("eval-full.txt", 21), *dir = folder("original"), *quantized = folder("q4.gguf");
    double      ppl, se, value;
    program(0, "sweep %s " QUICK TWO "--no-finalise --eval %s --out %s", model, text, dir);
    bb_csv   t = table(dir, "front.csv");
    uint64_t bytes;
    size_t   last = t.n_rows - 1;
    ck_assert_str_eq(cell(&t, last, "plan_hash"), "-");
    ck_assert_str_eq(cell(&t, last, "source"), "full precision");
    ck_assert_str_eq(cell(&t, last, "kl_nats"), "0");
    ck_assert_str_eq(cell(&t, last, "top1"), "1");
    ck_assert_int_eq(bb_file_size(model, &bytes, NULL), BB_OK);
    ck_assert_int_eq(strtoll(cell(&t, last, "size_bytes"), NULL, 10), (long long)bytes);
    ck_assert_int_eq(bb_csv_double(&t, last, (size_t)bb_csv_column(&t, "ppl"), &ppl, NULL), BB_OK);
    ck_assert_int_eq(bb_csv_double(&t, last, (size_t)bb_csv_column(&t, "ppl_se"), &se, NULL), BB_OK);
    program(0, "eval %s --text %s --ctx 32 --json", model, text);
    char *at = strstr(said, "\"ppl\": ");
    ck_assert_ptr_nonnull(at);
    value = strtod(at + 7, NULL);
    ck_assert_double_eq_tol(ppl, value, 1e-6 * value);
    ck_assert_ptr_nonnull(at = strstr(said, "\"ppl_se\": "));
    ck_assert_double_eq_tol(se, strtod(at + 10, NULL), 1e-6 * value);
    bb_csv_done(&t);
    write_model(quantized, BB_Q8_0);
    program(0, "sweep %s " QUICK TWO "--no-finalise --out %s", quantized, folder("from-q8"));
    says("source (Q8_0)"); /* the table on stdout */
    t = table(folder("from-q8"), "front.csv");
    ck_assert_str_eq(cell(&t, t.n_rows - 1, "source"), "source (Q8_0)");
    bb_csv_done(&t);
}
END_TEST

/* ---- the front ---- */

typedef struct search_key {
    char prefix[80], key[512];
} search_key;

static bb_status find_key(void *self, const char *key, const void *value, size_t size, bb_err *err)
{
    search_key *k = self;
    (void)value, (void)size, (void)err;
    if (strncmp(key, k->prefix, strlen(k->prefix)) == 0) snprintf(k->key, sizeof k->key, "%s", key);
    return BB_OK;
}

/* Replaces the stored scores of one plan's file: the windows get these KLs. */
static void forge(const char *dir, const char *plan, const double kl[4])
{
    search_key k = { "", "" };
    char       hash[65], name[64];
    bb_store  *s;
    void      *value;
    size_t     size;
    bool       found;
    bb_result  r;
    snprintf(name, sizeof name, "models/%s.gguf", plan);
    ck_assert_int_eq(bb_sha256_file(in(dir, name), hash, NULL), BB_OK);
    snprintf(k.prefix, sizeof k.prefix, "file|%s|", hash);
    ck_assert_int_eq(bb_store_open(in(dir, "run.db"), &s, NULL), BB_OK);
    ck_assert_int_eq(bb_store_each(s, "evaluate", find_key, &k, NULL), BB_OK);
    ck_assert_msg(*k.key, "no score of %s is stored under the hash of its file", name);
    ck_assert_int_eq(bb_store_get(s, "evaluate", k.key, &value, &size, &found, NULL), BB_OK);
    ck_assert_uint_eq(size, sizeof r + 4 * sizeof *kl);
    memcpy(&r, value, sizeof r);
    r.kl = (kl[0] + kl[1] + kl[2] + kl[3]) / 4;
    memcpy(value, &r, sizeof r);
    memcpy((char *)value + sizeof r, kl, 4 * sizeof *kl);
    ck_assert_int_eq(bb_store_put(s, "evaluate", k.key, value, size, NULL), BB_OK);
    bb_free(value);
    bb_store_close(s);
}

/* At the larger size the guard must take a simple plan that is worse than the smaller size's plan: the larger file then has no place in front.csv.
 * And what evaluate takes from the store is what is stored under the hash of the file. */
START_TEST(dominated_plans_are_not_on_the_front)
{
    static const double best[4] = { 1, 1, 1, 1 }, uncertain[4] = { 0.2, 1.9, 0.3, 1.8 }, bad[4] = { 3, 3, 3, 3 };
    const char         *dir = folder("dominated");
    char                small[17] = "", simple[17] = "";
    int64_t             least = INT64_MAX, bytes, before = 0;
    double              kl, above = HUGE_VAL;
    program(0, "sweep %s " QUICK TWO "--no-finalise --out %s", model, dir);
    bb_csv plans = table(dir, "plans.csv");
    for (size_t i = 0; i < plans.n_rows; i++) {
        if (cell(&plans, i, "asked")[0] != '1') continue;
        ck_assert_int_eq(bb_csv_int(&plans, i, 1, &bytes, NULL), BB_OK);
        forge(dir, cell(&plans, i, "plan_hash"), bad);
        if (cell(&plans, i, "baseline")[0] == '1') snprintf(simple, sizeof simple, "%s", cell(&plans, i, "plan_hash"));
        else if (bytes < least) {
            least = bytes;
            snprintf(small, sizeof small, "%s", cell(&plans, i, "plan_hash"));
        }
    }
    bb_csv_done(&plans);
    ck_assert_msg(*small && *simple, "the sizes of this test have no simple plan");
    forge(dir, small, best);
    forge(dir, simple, uncertain);
    program(0, "evaluate %s", dir);
    says("a simpler plan wins at"); /* or nothing is dominated */
    bb_csv t = table(dir, "front.csv");
    ck_assert_uint_eq(t.n_rows, 1 + 1);
    ck_assert_str_eq(cell(&t, 0, "plan_hash"), small);
    ck_assert_str_eq(cell(&t, 0, "kl_nats"), "1");
    for (size_t i = 0; i < t.n_rows; i++) {
        ck_assert_int_eq(bb_csv_int(&t, i, 1, &bytes, NULL), BB_OK);
        ck_assert_int_eq(bb_csv_double(&t, i, 3, &kl, NULL), BB_OK);
        ck_assert(bytes > before && kl < above);
        before = bytes;
        above = kl;
    }
    bb_csv_done(&t);
    program(4, "verify -q %s", dir); /* recomputes, and so is not deceived by the store */
    says("front.csv");
}
END_TEST

/* Every option that decides the bytes of a trained file is in the name of its record. */
START_TEST(a_record_knows_what_decided_its_file)
{
    static const char *const base[][2] = { { "finalise-steps", "rebuild,qat" }, { "qat-text", "README.md,self" } };
    static const char *const other[][2] = {
        { "finalise-steps", "qat" },
        { "tune-windows", "7" },
        { "tune-tokens", "0.3" },
        { "seed", "2" },
        { "output-windows", "3" },
        { "max-ram", "3GiB" },
        { "qat-tokens", "0.4" },
        { "qat-text", "Makefile,self" },
        { "qat-text", "" },
        { "qat-loss", "labels" },
        { "qat-estimator", "differentiable" },
        { "qat-schedule", "wsd" },
        { "qat-rate", "0.1" },
        { "qat-scale-rate", "0.1" },
        { "qat-batch", "3" },
        { "parse-special", "true" },
    };
    enum { N = sizeof other / sizeof *other };
    char *keys[N + 1];
    for (int i = 0; i <= N; i++) {
        bb_run_config c = { 0 };
        ck_assert_int_eq(bb_options_defaults(bb_run_options, BB_RUN_N_OPTIONS, &c, NULL), BB_OK);
        for (size_t k = 0; k < sizeof base / sizeof *base; k++)
            ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, base[k][0], base[k][1], NULL), BB_OK);
        if (i < N) ck_assert_int_eq(bb_options_set(bb_run_options, BB_RUN_N_OPTIONS, &c, other[i][0], other[i][1], NULL), BB_OK);
        ck_assert_ptr_nonnull(keys[i] = bb_ladder_settings(&c, NULL));
        bb_options_done(bb_run_options, BB_RUN_N_OPTIONS, &c);
    }
    for (int i = 0; i < N; i++) ck_assert_msg(strcmp(keys[i], keys[N]) != 0, "--%s %s: the same record", other[i][0], other[i][1]);
    for (int i = 0; i <= N; i++) bb_free(keys[i]);
}
END_TEST

/* A case each, so that CK_RUN_CASE=name runs one. */
static void add(Suite *s, const char *name, const TTest *test)
{
    TCase *t = tcase_create(name);
    tcase_set_timeout(t, 600);
    tcase_add_test(t, test);
    suite_add_tcase(s, t);
}

int main(void)
{
    Suite *s = suite_create("keys");
    snprintf(model, sizeof model, "%s", bb_test_path("tiny.gguf"));
    write_model(model, BB_F32);
    add(s, "options", options_come_and_go);
    add(s, "rivals", rivals_go_by_the_costs_of_the_run);
    add(s, "leftovers", what_other_options_made_is_removed);
    add(s, "stages", a_stage_does_not_take_another_search_for_its_own);
    add(s, "texts", scores_are_of_the_text_that_was_asked_for);
    add(s, "report", a_report_follows_the_tables);
    add(s, "databases", a_shared_database_mixes_nothing);
    add(s, "samples", samples_are_those_that_were_asked_for);
    add(s, "cores", another_blas_core_is_not_mixed_in);
    add(s, "precisions", precisions_are_not_mixed);
    add(s, "files", files_are_those_of_the_record);
    add(s, "bytes", a_file_of_other_bytes_than_counted_is_refused);
    add(s, "verify", verify_checks_every_number);
    add(s, "original", the_original_has_a_row);
    add(s, "records", a_record_knows_what_decided_its_file);
    add(s, "dominated", dominated_plans_are_not_on_the_front);
    return bb_test_run(s);
}
