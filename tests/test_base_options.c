/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_base_options.c: one table, four sources, and a message for every mistake. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/options.h"
#include "tests/support/support.h"

typedef struct sample {
    bool     verify;
    int64_t  seed;
    double   damping;
    uint64_t target;
    char    *out, *formats;
} sample;

static const bb_option_row rows[] = {
    { "verify", BB_OPT_FLAG, offsetof(sample, verify), "true", 1, 0, NULL, "read the file back", NULL },
    { "seed", BB_OPT_INT, offsetof(sample, seed), "1", 0, 1e9, "N", "seed of all random streams", NULL },
    { "damping", BB_OPT_DOUBLE, offsetof(sample, damping), "0.01", 0, 1, "X", "added to the diagonal", NULL },
    { "target-size", BB_OPT_SIZE, offsetof(sample, target), NULL, 1, (double)INFINITY, "SIZE", "bytes of the file", NULL },
    { "out", BB_OPT_TEXT, offsetof(sample, out), NULL, 1, 0, "DIR", "run directory", NULL },
    { "formats", BB_OPT_LIST, offsetof(sample, formats), "a,b", 1, 0, "LIST", "formats to choose from", "a|b|cc" },
};
enum { N = sizeof rows / sizeof rows[0] };

static sample defaults(void)
{
    sample v;
    ck_assert_int_eq(bb_options_defaults(rows, N, &v, NULL), BB_OK);
    return v;
}

static bb_status parse(sample *v, const char **pos, size_t *n_pos, bb_err *err, int argc, const char *const *args)
{
    char *argv[16];
    for (int i = 0; i < argc; i++) argv[i] = strdup(args[i]);
    bb_status status = bb_options_parse(rows, N, v, argc, argv, pos, 2, n_pos, err);
    for (size_t i = 0; status == BB_OK && i < *n_pos; i++) /* keep what pos borrows alive through its source */
        for (int k = 0; k < argc; k++)
            if (pos[i] == argv[k]) pos[i] = args[k];
    for (int i = 0; i < argc; i++) free(argv[i]);
    return status;
}
#define PARSE(v, pos, n, err, ...) parse(v, pos, n, err, (int)(sizeof(const char *[]) { __VA_ARGS__ } / sizeof(char *)), (const char *const[]) { __VA_ARGS__ })

/* Both bounds belong to the range. */
START_TEST(bounds_are_allowed)
{
    static const char *const good[][2] = {
        { "--seed", "0" }, { "--seed", "1000000000" }, { "--damping", "0" }, { "--damping", "1" }, { "--target-size", "1" }
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        sample      v = defaults();
        const char *pos[2];
        size_t      n;
        bb_err      err = BB_ERR_INIT;
        ck_assert_msg(PARSE(&v, pos, &n, &err, "x", good[i][0], good[i][1]) == BB_OK, "%s", err.msg);
        bb_options_done(rows, N, &v);
    }
}
END_TEST

START_TEST(defaults_come_from_the_table)
{
    sample v = defaults();
    ck_assert(v.verify && v.seed == 1 && v.target == 0);
    ck_assert_double_eq(v.damping, 0.01);
    ck_assert_ptr_null(v.out);
    ck_assert_str_eq(v.formats, "a,b");
    bb_options_done(rows, N, &v);
}
END_TEST

START_TEST(the_command_line_is_parsed)
{
    sample      v = defaults();
    const char *pos[2];
    size_t      n;
    ck_assert_int_eq(
        PARSE(&v, pos, &n, NULL, "run", "m.gguf", "--no-verify", "--seed", "7", "--target-size=3.2MiB", "--out", "-x", "--formats", "cc,a", "--", "--seed"),
        BB_OK);
    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(pos[0], "m.gguf");
    ck_assert_str_eq(pos[1], "--seed");
    ck_assert(!v.verify && v.seed == 7 && v.target == 3355443);
    ck_assert_str_eq(v.out, "-x");
    ck_assert_str_eq(v.formats, "cc,a");
    ck_assert_int_eq(PARSE(&v, pos, &n, NULL, "run", "--verify=yes", "--out=--seed"), BB_OK);
    ck_assert_str_eq(v.out, "--seed");
    ck_assert(v.verify);
    bb_options_done(rows, N, &v);
}
END_TEST

START_TEST(mistakes_on_the_command_line_are_named)
{
    static const struct {
        const char *a, *b, *says;
    } bad[] = {
        { "--target-sze", "3", "did you mean --target-size?" },
        { "--zzzzzzzzz", "3", "there is no option --zzzzzzzzz" },
        { "--seed", NULL, "--seed needs a value (N)" },
        { "--out", "--seed", "--out needs a value (DIR), and '--seed' looks like an option: a value like this is written --out=VALUE" },
        { "--out", "--", "--out needs a value" },
        { "--seed", "1.5", "--seed: '1.5' is not a whole number" },
        { "--seed", "-1", "from 0 to 1e+09" },
        { "--damping", "nan", "not a finite number" },
        { "--target-size", "0", "at least 1" },
        { "--formats", "a,dd", "'dd' should be one of a|b|cc" },
        { "--verify=maybe", NULL, "true or false" },
        { "--out=", NULL, "--out: the value is empty; expected DIR" },
        { "--formats", "", "--formats: the value is empty; expected LIST" },
        { "-v", NULL, "options are written --name" },
        { "--no-seed", NULL, "there is no option --no-seed" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sample      v = defaults();
        const char *pos[2];
        size_t      n;
        bb_err      err = BB_ERR_INIT;
        bb_status   status = bad[i].b ? PARSE(&v, pos, &n, &err, "x", bad[i].a, bad[i].b) : PARSE(&v, pos, &n, &err, "x", bad[i].a);
        ck_assert_int_eq(status, BB_USAGE);
        ck_assert_msg(strstr(err.msg, bad[i].says) != NULL, "'%s' lacks '%s'", err.msg, bad[i].says);
        bb_options_done(rows, N, &v);
    }
    sample      v = defaults();
    const char *pos[2];
    size_t      n;
    ck_assert_int_eq(PARSE(&v, pos, &n, NULL, "x", "1", "2", "3"), BB_USAGE);
    bb_options_done(rows, N, &v);
}
END_TEST

START_TEST(file_then_environment_then_command_line)
{
    static const char yaml[] = "# a comment\nseed: 5\ntarget-size: 2 MiB\nverify: off\nformats: [b, cc]\nout: \"a: b\"\n";
    const char       *path = bb_test_path("c.yaml"), *pos[2];
    size_t            n;
    sample            v = defaults();
    bb_test_write(path, yaml, strlen(yaml));
    ck_assert_int_eq(bb_options_yaml(rows, N, &v, path, NULL), BB_OK);
    ck_assert(!v.verify && v.seed == 5 && v.target == 2097152);
    ck_assert_str_eq(v.formats, "b,cc");
    ck_assert_str_eq(v.out, "a: b");
    setenv("BB_SEED", "6", 1);
    setenv("BB_TARGET_SIZE", "9", 1);
    ck_assert_int_eq(bb_options_environment(rows, N, &v, NULL), BB_OK);
    setenv("BB_SEED", "x", 1);
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_options_environment(rows, N, &v, &err), BB_USAGE);
    ck_assert_ptr_nonnull(strstr(err.msg, "BB_SEED"));
    unsetenv("BB_SEED");
    unsetenv("BB_TARGET_SIZE");
    ck_assert_int_eq(PARSE(&v, pos, &n, NULL, "x", "--seed=7"), BB_OK);
    ck_assert(v.seed == 7 && v.target == 9);
    bb_options_done(rows, N, &v);
}
END_TEST

START_TEST(the_resolved_file_reads_back_to_the_same)
{
    sample      v = defaults(), w = defaults();
    const char *path = bb_test_path("r.yaml"), *pos[2];
    bb_text     a = { 0 }, b = { 0 };
    size_t      n;
    ck_assert_int_eq(PARSE(&v, pos, &n, NULL, "x", "--damping=0.30000000000000004", "--out",
                           "a\\\"\n\x01 \xc3\xa4 \xc2\x80 \xc2\x85 \xc2\x9f \xc2\xa0 \xe2\x80\xa8x \xe2\x80\xa9 \xef\xbb\xbf \xef\xbf\xbe \xef\xbf\xbd ~",
                           "--target-size=1g", "--no-verify"),
                     BB_OK);
    bb_options_print_yaml(rows, N, &v, &a);
    bb_test_write(path, a.data, a.size);
    bb_err err = BB_ERR_INIT;
    ck_assert_msg(bb_options_yaml(rows, N, &w, path, &err) == BB_OK, "%s", err.msg);
    ck_assert_str_eq(v.out, w.out);
    ck_assert_double_eq(w.damping, 0.30000000000000004);
    bb_options_print_yaml(rows, N, &w, &b);
    ck_assert_str_eq(a.data, b.data);
    bb_text_done(&a);
    bb_text_done(&b);
    bb_options_done(rows, N, &v);
    v = defaults(); /* NULL text is printed as null and stays NULL */
    bb_options_print_yaml(rows, N, &v, &a);
    bb_test_write(path, a.data, a.size);
    ck_assert_int_eq(bb_options_yaml(rows, N, &w, path, NULL), BB_OK);
    ck_assert_ptr_null(w.out);
    bb_text_done(&a);
    bb_options_done(rows, N, &v);
    bb_options_done(rows, N, &w);
}
END_TEST

/* A time is written in full: a short one would be none when it is read. */
START_TEST(times_read_back_to_the_same)
{
    static const bb_option_row row[] = { { "time", BB_OPT_TIME, 0, "0", 0, 1e9, "TIME", "how long it may take", NULL } };
    static const struct {
        double      seconds;
        const char *text;
    } cases[] = { { 0, "time: 0\n" }, { 5400, "time: 5400.000s\n" }, { 0.0004, "time: 0.0004s\n" }, { 1e-7, "time: 0.0000001s\n" }, { 1.0 / 3, NULL },
                  { 5e-324, NULL } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bb_text a = { 0 };
        double  back = -1;
        bb_options_print_yaml(row, 1, &cases[i].seconds, &a);
        if (cases[i].text) ck_assert_str_eq(a.data, cases[i].text);
        bb_test_write(bb_test_path("time.yaml"), a.data, a.size);
        ck_assert_int_eq(bb_options_yaml(row, 1, &back, bb_test_path("time.yaml"), NULL), BB_OK);
        ck_assert_double_eq(back, cases[i].seconds);
        bb_text_done(&a);
    }
}
END_TEST

START_TEST(broken_files_are_refused_with_their_line)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        { "seed: 1\nsede: 2\n", "line 2: there is no setting 'sede'; did you mean seed?" },
        { "seed: 1\nseed: 2\n", "line 2: 'seed' is set twice" },
        { "\nseed: many\n", "line 2: seed: 'many' is not a whole number" },
        { "seed: 99999999999\n", "from 0 to 1e+09" },
        { "seed: [1]\n", "expected a single value" },
        { "formats: [[a]]\n", "plain values" },
        { "formats: {a: b}\n", "or a list" },
        { "- a\n", "name: value" },
        { "just text\n", "name: value" },
        { "seed: 1\n---\nseed: 2\n", "one document only" },
        { "[a]: 1\n", "expected 'name: value'" },
        { "seed: \"1\n", "not valid YAML" },
        { "seed: *x\n", "line 1: seed: anchors, aliases and tags" },
        { "seed: &x 1\n", "line 1: seed: anchors, aliases and tags" },
        { "seed: !!int 1\n", "line 1: seed: anchors, aliases and tags" },
        { "&x seed: 1\n", "expected 'name: value'" },
        { "formats: &x [a]\n", "line 1: formats: anchors, aliases and tags" },
        { "formats: [&x a]\n", "plain values" },
        { "formats: [a, ~]\n", "plain values" },
        { "formats: [a, '']\n", "plain values" },
        { "formats: [a, \"b\\0c\"]\n", "plain values" },
        { "formats: [a, , b]\n", "not valid YAML" },
        { "formats: []\n", "line 1: formats: the list is empty" },
        { "formats:\nseed: 1\n", "line 1: formats: there is no value: give one, or remove the line, and it is a,b" },
        { "formats: ''\n", "line 1: formats: the value is empty; expected LIST" },
        { "seed:\n", "line 1: seed: there is no value" },
        { "# first\nseed: ~\n", "line 2: seed: there is no value" },
        { "seed: Null\n", "line 1: seed: there is no value" },
        { "seed: \"\"\n", "line 1: seed: '' is not a whole number" },
        { "verify: ~\n", "line 1: verify: there is no value" },
        { "out:\n", "line 1: out: there is no value" },
        { "out: \"\"\n", "line 1: out: the value is empty; expected DIR" },
        { "target-size:\n", "line 1: target-size: there is no value" },
        { "damping: .nan\n", "'.nan' is not a finite number" },
        { "damping: nan\n", "'nan' is not a finite number" },
        { "damping: -.inf\n", "'-.inf' is not a finite number" },
        { "damping: 1e999\n", "is not a finite number" },
        { "? seed\n", "line 1: seed: there is no value" },
        { "out: \"a\\0b\"\n", "expected a single value" },
        { "verify: 2\n", "true or false" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *path = bb_test_path("bad.yaml");
        bb_err      err = BB_ERR_INIT;
        sample      v = defaults();
        bb_test_write(path, bad[i].text, strlen(bad[i].text));
        ck_assert_int_eq(bb_options_yaml(rows, N, &v, path, &err), BB_BAD_FILE);
        ck_assert_int_eq(err.status, BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, bad[i].says) != NULL, "'%s' lacks '%s'", err.msg, bad[i].says);
        bb_options_done(rows, N, &v);
    }
    sample      v = defaults();
    const char *path = bb_test_path("deep.yaml");
    char        deep[3000]; /* nesting must neither recurse nor be accepted */
    memset(deep, '[', sizeof deep);
    bb_test_write(path, deep, sizeof deep);
    ck_assert_int_eq(bb_options_yaml(rows, N, &v, path, NULL), BB_BAD_FILE);
    bb_test_write(path, "", 0);
    ck_assert_int_eq(bb_options_yaml(rows, N, &v, path, NULL), BB_OK);
    ck_assert_int_eq(bb_options_yaml(rows, N, &v, bb_test_path("absent"), NULL), BB_BAD_FILE);
    bb_options_done(rows, N, &v);
}
END_TEST

START_TEST(help_shows_every_option_with_its_default)
{
    bb_text t = { 0 };
    bb_options_print_help(rows, N, &t);
    for (size_t i = 0; i < N; i++) ck_assert_ptr_nonnull(strstr(t.data, rows[i].name));
    ck_assert_ptr_nonnull(strstr(t.data, "--seed N"));
    ck_assert_ptr_nonnull(strstr(t.data, "(default 0.01)"));
    ck_assert_ptr_nonnull(strstr(t.data, "[a|b|cc]"));
    ck_assert_ptr_nonnull(strstr(t.data, "--no-verify"));
    bb_text_done(&t);
}
END_TEST

START_TEST(options_survive_every_failed_allocation)
{
    static const char yaml[] = "formats: [b, cc]\nout: x\n";
    const char       *path = bb_test_path("t.yaml");
    size_t            before = bb_mem_live_bytes();
    bb_status         status = BB_NOMEM;
    bb_test_write(path, yaml, strlen(yaml));
    for (long n = 0; status != BB_OK; n++) {
        sample v;
        ck_assert_int_lt(n, 100);
        bb_mem_fail_after(n);
        status = bb_options_defaults(rows, N, &v, NULL);
        if (status == BB_OK) status = bb_options_yaml(rows, N, &v, path, NULL);
        bb_mem_fail_after(-1);
        bb_options_done(rows, N, &v);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("options");
    TCase *t = tcase_create("core");
    tcase_add_test(t, bounds_are_allowed);
    tcase_add_test(t, defaults_come_from_the_table);
    tcase_add_test(t, the_command_line_is_parsed);
    tcase_add_test(t, mistakes_on_the_command_line_are_named);
    tcase_add_test(t, file_then_environment_then_command_line);
    tcase_add_test(t, times_read_back_to_the_same);
    tcase_add_test(t, the_resolved_file_reads_back_to_the_same);
    tcase_add_test(t, broken_files_are_refused_with_their_line);
    tcase_add_test(t, help_shows_every_option_with_its_default);
    tcase_add_test(t, options_survive_every_failed_allocation);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
