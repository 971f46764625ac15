/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_cli_calib.c: what --calib names, the shares of several texts, the texts that ship with the program, and the probe of domains. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "engine/calibration.h"
#include "engine/probe.h"
#include "tests/support/cli.h"
#include "tests/support/support.h"

#define MODEL "tests/data/stories260K.gguf"
enum { CTX = 16 };

static bb_model open_model(const char *path)
{
    bb_model m;
    bb_err   err = BB_ERR_INIT;
    ck_assert_msg(bb_model_open(path, &m, &err) == BB_OK, "%s", err.msg);
    return m;
}

/* A token file of n windows in which every id is `id`. */
static const char *windows_of(const char *name, int32_t id, uint32_t n)
{
    const char *path = bb_test_path(name);
    int32_t     ids[64 * CTX];
    ck_assert_uint_le(n, 64);
    for (uint32_t i = 0; i < n * CTX; i++) ids[i] = id;
    bb_test_write(path, ids, n * CTX * sizeof *ids);
    return path;
}

static bb_tokens tokens_of(const bb_model *m, const char *calib, uint32_t n_windows, uint64_t seed)
{
    bb_tokens t;
    bb_err    err = BB_ERR_INIT;
    ck_assert_msg(bb_calibration_tokens(m, calib, bb_test_path("."), n_windows, CTX, seed, false, &t, &err) == BB_OK, "%s: %s", calib, err.msg);
    return t;
}

START_TEST(test_sources)
{
    bb_calibration_source *s;
    size_t                 n;
    bb_err                 err = BB_ERR_INIT;
    ck_assert_int_eq(bb_calibration_sources("a.txt,self,mixture,b,c.txt", &s, &n, &err), BB_OK);
    ck_assert_uint_eq(n, 4 + BB_N_SHIPPED_MIXTURE);
    ck_assert_str_eq(s[0].path, "a.txt");
    ck_assert(!s[1].path && !s[1].shipped);
    ck_assert_ptr_eq(s[2].shipped, &bb_shipped_mixture[0]);
    ck_assert_str_eq(s[n - 1].path, "c.txt");
    bb_calibration_sources_done(s, n);
    ck_assert_int_eq(bb_calibration_sources("a.txt,,b.txt", &s, &n, &err), BB_USAGE);
    ck_assert_msg(strstr(err.msg, "a name is empty") != NULL, "%s", err.msg);
    const char *comma = windows_of("one,two.u32", 7, 1); /* a file whose name holds a comma is one file */
    ck_assert_int_eq(bb_calibration_sources(comma, &s, &n, &err), BB_OK);
    ck_assert_uint_eq(n, 1);
    ck_assert_str_eq(s[0].path, comma);
    bb_calibration_sources_done(s, n);
    ck_assert(bb_calibration_samples("self") && bb_calibration_samples("x.txt,self") && !bb_calibration_samples("mixture") &&
              !bb_calibration_samples("myself.txt"));
}
END_TEST

/* Windows of `id` among the windows from..to-1. */
static uint32_t count(const bb_tokens *t, int32_t id, size_t from, size_t to)
{
    uint32_t n = 0;
    for (size_t i = from; i < to; i++) n += t->ids[i * CTX] == id && t->ids[i * CTX + CTX - 1] == id;
    return n;
}

START_TEST(test_shares)
{
    bb_model m = open_model(MODEL);
    char     calib[2048];
    snprintf(calib, sizeof calib, "%s,%s,%s", windows_of("a.u32", 11, 60), windows_of("b.u32", 12, 40), windows_of("c.u32", 13, 2));
    bb_tokens      t = tokens_of(&m, calib, 20, 1), again = tokens_of(&m, calib, 20, 1), other = tokens_of(&m, calib, 20, 2);
    const size_t   n = t.n / CTX;
    const uint32_t a = count(&t, 11, 0, n), b = count(&t, 12, 0, n), c = count(&t, 13, 0, n);
    ck_assert_uint_eq(t.n % CTX, 0);
    ck_assert_uint_eq(a + b + c, n); /* no window is of two texts */
    ck_assert_uint_eq(c, 2);         /* all that it has */
    ck_assert_uint_eq(a, b);
    ck_assert_uint_eq(a, 40);                 /* 9 each were wanted; more, as long as the shares stay equal */
    for (size_t part = 0; part < 4; part++) { /* in every part of the mixture both are there about equally often */
        const uint32_t x = count(&t, 11, part * n / 4, (part + 1) * n / 4), y = count(&t, 12, part * n / 4, (part + 1) * n / 4);
        ck_assert_msg(x + 4 >= y && y + 4 >= x, "part %zu: %u and %u", part, x, y);
    }
    ck_assert_str_eq(t.sha256, again.sha256);
    ck_assert_str_ne(t.sha256, other.sha256);
    bb_tokens_done(&t);
    bb_tokens_done(&again);
    bb_tokens_done(&other);
    bb_model_close(&m);
}
END_TEST

/* The model with a tokenizer that the program does not know. */
static const char *strange_model(void)
{
    static const char key[] = "tokenizer.ggml.model";
    const char       *path = bb_test_path("strange.gguf");
    char             *data;
    size_t            n, at = 0;
    bb_err            err = BB_ERR_INIT;
    ck_assert_int_eq(bb_file_read(MODEL, &data, &n, &err), BB_OK);
    while (at + sizeof key < n && memcmp(data + at, key, sizeof key - 1) != 0) at++;
    data[at + sizeof key - 1 + 4 + 8] = '?'; /* behind the key a type and a length */
    bb_test_write(path, data, n);
    bb_free(data);
    return path;
}

/* Without a word said, the shipped texts and the model's own; self alone where a text cannot be read. What was said stays. */
START_TEST(test_default)
{
    const struct {
        const char *path, *given, *wanted;
    } cases[] = { { MODEL, "", "mixture,self" }, { MODEL, "self", "self" }, { strange_model(), "", "self" }, { NULL, "", "self" } };
    bb_err err = BB_ERR_INIT;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *calib = bb_strdup(cases[i].given, &err);
        if (cases[i].path) {
            bb_model m = open_model(cases[i].path);
            ck_assert_int_eq(bb_calibration_choose(&m, &calib, &err), BB_OK);
            bb_model_close(&m);
        } else {
            bb_model bare = { .path = NULL };
            ck_assert_int_eq(bb_calibration_choose(&bare, &calib, &err), BB_OK);
        }
        ck_assert_str_eq(calib, cases[i].wanted);
        bb_free(calib);
    }
}
END_TEST

/* What the others have too little of, the model writes. */
START_TEST(test_self_fills)
{
    bb_model m = open_model(MODEL);
    char     calib[1024];
    snprintf(calib, sizeof calib, "%s,self,%s", windows_of("e.u32", 11, 3), windows_of("f.u32", 12, 64));
    bb_tokens    t = tokens_of(&m, calib, 21, 1);
    const size_t n = t.n / CTX;
    ck_assert_uint_eq(n, 21);
    ck_assert_uint_eq(count(&t, 11, 0, n), 3);
    ck_assert_uint_eq(count(&t, 12, 0, n), 9);
    bb_tokens_done(&t);
    bb_model_close(&m);
}
END_TEST

/* In a list the model writes its share only. */
START_TEST(test_self_in_a_list)
{
    bb_model m = open_model(MODEL);
    char     calib[1024];
    snprintf(calib, sizeof calib, "%s,self", windows_of("d.u32", 11, 64));
    bb_tokens    t = tokens_of(&m, calib, 8, 1);
    const size_t n = t.n / CTX;
    ck_assert_uint_eq(n, 8);
    ck_assert_uint_eq(count(&t, 11, 0, n), 4);
    bb_tokens_done(&t);
    bb_model_close(&m);
}
END_TEST

/* Every text can be read by a model that knows no chat, and what the marks of ChatML stand for is said in words. */
START_TEST(test_shipped)
{
    bb_model m = open_model(MODEL);
    bb_err   err = BB_ERR_INIT;
    for (int set = 0; set < 2; set++)
        for (int i = 0; i < 4; i++) {
            const bb_shipped_text *s = set ? &bb_shipped_probes[i] : &bb_shipped_mixture[i];
            bb_tokenizer          *tokenizer;
            bb_tokens              t;
            char                  *text;
            size_t                 size;
            ck_assert_msg(bb_shipped_tokens(&m, s, &t, &err) == BB_OK, "%s: %s", s->name, err.msg);
            ck_assert_uint_ge(t.n, 1024); /* four windows of 256 */
            ck_assert_int_eq(bb_tokenizer_create(&m.source, &tokenizer, &err), BB_OK);
            ck_assert_int_eq(bb_detokenize(tokenizer, t.ids, t.n, &text, &size, &err), BB_OK);
            ck_assert(strstr(text, "<|im_") == NULL);
            ck_assert_msg((strstr(text, "User: ") != NULL) == (strcmp(s->name, "dialogue") == 0), "%s", s->name);
            bb_free(text);
            bb_tokenizer_destroy(tokenizer);
            bb_tokens_done(&t);
        }
    bb_tokens t = tokens_of(&m, "mixture", 16, 1);
    ck_assert_uint_ge(t.n, 16 * CTX);
    bb_tokens_done(&t);
    bb_model_close(&m);
}
END_TEST

START_TEST(test_far)
{
    ck_assert_uint_eq(bb_probe_far((const double[]) { 0.99, 1.00, 3.99, 0.8 }, 4), 4);
    ck_assert_uint_eq(bb_probe_far((const double[]) { 1, 1, 1.9, 1 }, 4), 0);
    ck_assert_uint_eq(bb_probe_far((const double[]) { 1e-4, 1e-4, 9e-3, 1e-4 }, 4), 0); /* too small to matter */
    ck_assert_uint_eq(bb_probe_far((const double[]) { 1 }, 1), 0);
    ck_assert_uint_eq(bb_probe_far(NULL, 0), 0);
}
END_TEST

/* A run on the mixture ends with the table of domains: the winner's row of each, of_mean 1 on average. */
START_TEST(test_run)
{
    char   said[4096], path[600], line[1024];
    bb_csv t;
    bb_err err = BB_ERR_INIT;
    double sum = 0;
    snprintf(line, sizeof line,
             "run " MODEL
             " --target-size 450000 --calib mixture,self --formats Q4_0,Q8_0 --embd-formats Q4_0,Q8_0 --calib-windows 8 --confirm-windows 4 --refine-windows 2 "
             "--measure-windows 1 --search-tokens 0.001 --ctx 32 --sweeps 0 --prune none --no-finalise -q --out %s",
             bb_test_path("run"));
    ck_assert_msg(bb_test_program(line, said, sizeof said) == 0, "%s", said);
    snprintf(path, sizeof path, "%s/domains.csv", bb_test_path("run"));
    ck_assert_msg(bb_csv_read(path, &t, &err) == BB_OK, "%s", err.msg);
    ck_assert_uint_eq(t.n_rows, BB_N_SHIPPED_PROBES);
    for (size_t i = 0; i < t.n_rows; i++) {
        ck_assert_str_eq(bb_csv_text(&t, i, (size_t)bb_csv_column(&t, "domain")), bb_shipped_probes[i].name);
        const double kl = atof(bb_csv_text(&t, i, (size_t)bb_csv_column(&t, "kl_nats")));
        ck_assert_msg(kl > 0 && kl < 5, "%g", kl);
        sum += atof(bb_csv_text(&t, i, (size_t)bb_csv_column(&t, "of_mean")));
    }
    ck_assert_msg(sum > 3.999 && sum < 4.001, "%g", sum);
    bb_csv_done(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cli calib");
    TCase *t = tcase_create("calib");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, test_sources);
    tcase_add_test(t, test_shares);
    tcase_add_test(t, test_default);
    tcase_add_test(t, test_self_in_a_list);
    tcase_add_test(t, test_self_fills);
    tcase_add_test(t, test_shipped);
    tcase_add_test(t, test_far);
    tcase_add_test(t, test_run);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
