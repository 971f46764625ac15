/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_evaluate.c: windows by hand; token files; scores against the float64 oracle of support/ref_net.h and against numbers that another
 * program computed for a real model; what must change no bit; failures. */
#include <check.h>
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "eval/evaluate.h"
#include "tests/support/guarded.h"
#include "tests/support/ref_net.h"
#include "tests/support/support.h"

/* ---- windows ---- */

START_TEST(windows_by_hand)
{
    int32_t    ids[13];
    bb_tokens  t = { ids, 13, "", NULL };
    bb_windows w;
    for (int i = 0; i < 13; i++) ids[i] = 10 + i;
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_GGUF, 4, 1, 0, false, &w, NULL), BB_OK);
    ck_assert_uint_eq(w.n, 3); /* the tail of one token is dropped */
    ck_assert_uint_eq(w.first, 2);
    ck_assert_uint_eq(w.n_scored, 1); /* ctx - 1 - ctx / 2 */
    ck_assert_int_eq(memcmp(w.tokens, (int32_t[]) { 1, 11, 12, 13, 1, 15, 16, 17, 1, 19, 20, 21 }, 48), 0);
    ck_assert_int_eq(memcmp(w.targets, (int32_t[]) { 11, 12, 13, -1, 15, 16, 17, -1, 19, 20, 21, -1 }, 48), 0);
    bb_windows_done(&w);
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_HF, 4, 1, 2, false, &w, NULL), BB_OK);
    ck_assert_uint_eq(w.n, 2);
    ck_assert_uint_eq(w.first, 0);
    ck_assert_uint_eq(w.n_scored, 3);
    ck_assert_int_eq(memcmp(w.tokens, (int32_t[]) { 10, 11, 12, 13, 14, 15, 16, 17 }, 32), 0);
    bb_windows_done(&w);
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_GGUF, 3, -1, 2, true, &w, NULL), BB_OK); /* 2 of 4, spread: the first and the third */
    ck_assert_uint_eq(w.n, 2);
    ck_assert_uint_eq(w.n_scored, 1);
    ck_assert_int_eq(memcmp(w.tokens, (int32_t[]) { 10, 11, 12, 16, 17, 18 }, 24), 0);
    bb_windows_done(&w);
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_GGUF, 14, 1, 0, false, &w, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_GGUF, 2, 1, 0, false, &w, NULL), BB_USAGE);
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_HF, 1, 1, 0, false, &w, NULL), BB_USAGE);
}
END_TEST

/* ---- token files ---- */

static bb_model stories; /* opened by main */

static void npy(const char *path, const char *header, int version, const void *data, size_t size)
{
    unsigned char file[512] = "\x93NUMPY";
    size_t        n = strlen(header), prefix = version == 1 ? 10 : 12;
    file[6] = (unsigned char)version;
    file[8] = (unsigned char)n;
    memcpy(file + prefix, header, n);
    memcpy(file + prefix + n, data, size);
    bb_test_write(path, file, prefix + n + size);
}

static void check_ids(const char *path, bb_status want)
{
    bb_tokens t;
    bb_err    err = BB_ERR_INIT;
    char      hex[65];
    bb_sha256 h;
    ck_assert_msg(bb_tokens_load(&stories, path, false, &t, &err) == want, "%s: %s", path, err.msg);
    if (want != BB_OK) {
        ck_assert_ptr_null(t.ids);
        ck_assert(err.msg[0]);
        return;
    }
    ck_assert_uint_eq(t.n, 3);
    ck_assert_int_eq(memcmp(t.ids, (int32_t[]) { 1, 2, 511 }, 12), 0);
    bb_sha256_init(&h);
    bb_sha256_update(&h, (unsigned char[]) { 1, 0, 0, 0, 2, 0, 0, 0, 0xFF, 1, 0, 0 }, 12);
    bb_sha256_hex(&h, hex);
    ck_assert_str_eq(hex, t.sha256);
    bb_tokens_done(&t);
}

START_TEST(token_files)
{
    static const uint16_t u16[8] = { 1, 2, 511, 512 };
    static const uint32_t u32[] = { 1, 2, 511 };
    static const int64_t  i64[] = { 1, 2, 511, -1, 1 << 20 };
    const char           *p = bb_test_path("x.npy"), *raw16 = bb_test_path("x.u16"), *raw32 = bb_test_path("x.u32");
    npy(p, "{'descr': '<u2', 'fortran_order': False, 'shape': (3,), }\n", 1, u16, 6);
    check_ids(p, BB_OK);
    npy(p, "{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }\n", 2, i64, 24);
    check_ids(p, BB_OK);
    npy(p, "{'shape': (3,), 'fortran_order': False, 'descr': '<i4'}\n", 1, u32, 12);
    check_ids(p, BB_OK);
    bb_test_write(raw16, u16, 6);
    check_ids(raw16, BB_OK);
    bb_test_write(raw32, u32, 12);
    check_ids(raw32, BB_OK);

    static const struct {
        const char *header;
        size_t      size;
    } bad[] = {
        { "{'descr': '<f4', 'shape': (3,), }", 12 },
        { "{'descr': '>u2', 'shape': (3,), }", 6 },
        { "{'descr': '<u2', 'shape': (3,1), }", 6 },
        { "{'descr': '<u2', 'shape': (), }", 6 },
        { "{'descr': '<u2', 'shape': (4,), }", 6 },
        { "{'descr': '<u2', 'shape': (3,), }", 7 },
        { "{'shape': (3,), }", 6 },
        { "{'descr': '<u2'}", 6 },
        { "{'descr': '<u2', 'shape': (-3,), }", 6 },
        { "{'descr': '<u2', 'shape': (99999999999999999999,), }", 6 },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        npy(p, bad[i].header, 1, u16, bad[i].size);
        check_ids(p, BB_BAD_FILE);
    }
    npy(p, "{'descr': '<u2', 'shape': (4,), }", 1, u16, 8); /* 512 is outside the vocabulary */
    check_ids(p, BB_BAD_FILE);
    npy(p, "{'descr': '<i8', 'shape': (4,), }", 1, i64, 32); /* -1 */
    check_ids(p, BB_BAD_FILE);
    /* Of two bytes too, where the vocabulary has a token of the same bits. */
    static const int16_t i16[] = { 1, 2, -1 };
    bb_model             large = stories;
    bb_tokens            t;
    bb_err               err = BB_ERR_INIT;
    large.net.n_vocab = 1 << 17;
    npy(p, "{'descr': '<i2', 'shape': (3,), }", 1, i16, 6);
    ck_assert_int_eq(bb_tokens_load(&large, p, false, &t, &err), BB_BAD_FILE);
    ck_assert_msg(strstr(err.msg, "id -1 at place 2") != NULL, "%s", err.msg);
    npy(p, "{'descr': '<u2', 'shape': (0,), }", 1, u16, 0);
    check_ids(p, BB_BAD_FILE);
    bb_test_write(raw32, u32, 0);
    check_ids(raw32, BB_BAD_FILE);
    bb_test_write(p, "\x93NUMPY\x01\x00\xFF\xFF{", 11); /* a header that ends behind the file */
    check_ids(p, BB_BAD_FILE);
    bb_test_write(p, "x", 1);
    check_ids(p, BB_BAD_FILE);
    bb_test_write(raw32, u32, 11);
    check_ids(raw32, BB_BAD_FILE);
    check_ids("tests/data/absent.u32", BB_BAD_FILE);
}
END_TEST

START_TEST(text_is_tokenized_with_bos_and_without_the_last_newline)
{
    bb_tokens   t, u;
    const char *p = bb_test_path("x.txt");
    int32_t     bos;
    bb_test_write(p, "Once upon a time\n", 17);
    ck_assert_int_eq(bb_tokens_load(&stories, p, false, &t, NULL), BB_OK);
    bb_test_write(p, "Once upon a time", 16);
    ck_assert_int_eq(bb_tokens_load(&stories, p, false, &u, NULL), BB_OK);
    ck_assert_int_eq(memcmp(t.ids, (int32_t[]) { 1, 403, 407, 261, 378 }, 20), 0); /* the prompt of stories260K.json */
    ck_assert_uint_eq(t.n, 5);
    ck_assert_str_eq(t.sha256, u.sha256);
    ck_assert_int_eq(bb_tokens_bos(&stories, &bos, NULL), BB_OK);
    ck_assert_int_eq(bos, 1);
    bb_tokens_done(&t);
    bb_tokens_done(&u);
}
END_TEST

/* The status of a text, and what is said about it on the way. */
static bb_status load_bytes(const void *bytes, size_t n, bool parse_special, bb_tokens *t, bb_err *err, char *warned, size_t size)
{
    const char *p = bb_test_path("bytes.txt"), *log = bb_test_path("log.txt");
    char       *text;
    size_t      got;
    bb_test_write(p, bytes, n);
    bb_test_write(log, "", 0);
    ck_assert_int_eq(bb_log_to_file(log, NULL), BB_OK);
    bb_status status = bb_tokens_load(&stories, p, parse_special, t, err);
    bb_log_to_file(NULL, NULL);
    ck_assert_int_eq(bb_file_read(log, &text, &got, NULL), BB_OK);
    snprintf(warned, size, "%s", text);
    bb_free(text);
    return status;
}

START_TEST(what_is_no_text_is_refused)
{
    static const struct {
        const char *bytes;
        size_t      n;
        const char *says;
    } rows[] = {
        { "GGUF\3\0\0\0", 8, "a GGUF model" },
        { "PK\3\4 zip", 8, "a zip archive" },
        { "\x1F\x8B\x08 gzip", 8, "gzip" },
        { "BZh91AY", 7, "bzip2" },
        { "%PDF-1.7", 8, "a PDF" },
        { "\xFF\xFEh\0i\0", 6, "UTF-16" },
        { "\xFE\xFF\0h\0i", 6, "UTF-16" },
        { "h\0i\0 \0t\0h\0e\0r\0e\0", 16, "8 are NUL" },
        { "\xC1\xC2\xE7\xF1\xD3", 5, "5 are no UTF-8" },
        { "", 0, "is empty" },
        { "\n", 1, "is empty" },
    };
    char warned[512];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bb_err    err = BB_ERR_INIT;
        bb_tokens t;
        ck_assert_msg(load_bytes(rows[i].bytes, rows[i].n, false, &t, &err, warned, sizeof warned) == BB_BAD_FILE, "row %zu", i);
        ck_assert_msg(strstr(err.msg, rows[i].says) && strstr(err.msg, "bytes.txt"), "row %zu: %s", i, err.msg);
        ck_assert_ptr_null(t.ids);
    }
}
END_TEST

/* A little of it is tokenized as the tokenizer does, and counted; valid UTF-8 of every length is no reason to talk. */
START_TEST(a_few_bytes_that_are_no_text_are_counted)
{
    static const char *const valid[] = { "plain",
                                         "caf\xC3\xA9",
                                         "\xE2\x82\xAC 5",
                                         "\xF0\x9F\x98\x80!",
                                         "\xEF\xBB\xBF"
                                         "mark first",
                                         "\xED\x9F\xBF\xEE\x80\x80" };
    static const struct {
        const char *bytes;
        size_t      count, first;
    } invalid[] = {
        { "\xFF", 1, 0 },         { "\xC0\xAF", 2, 0 }, { "\xED\xA0\x80", 3, 0 }, { "\xF4\x90\x80\x80", 4, 0 },
        { "\xE0\x80\x80", 3, 0 }, { "a\x80", 1, 1 },    { "\xE2\x82", 2, 0 },
    };
    char      warned[1024], text[200], want[64];
    bb_tokens t;
    for (size_t i = 0; i < sizeof valid / sizeof *valid; i++) {
        ck_assert_int_eq(load_bytes(valid[i], strlen(valid[i]), false, &t, NULL, warned, sizeof warned), BB_OK);
        ck_assert_str_eq(warned, "");
        bb_tokens_done(&t);
    }
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++) {
        memset(text, 'a', sizeof text);
        memcpy(text + 100, invalid[i].bytes, strlen(invalid[i].bytes));
        ck_assert_int_eq(load_bytes(text, sizeof text, false, &t, NULL, warned, sizeof warned), BB_OK);
        snprintf(want, sizeof want, "%zu of 200 bytes are no valid UTF-8, the first at offset %zu", invalid[i].count, 100 + invalid[i].first);
        ck_assert_msg(strstr(warned, want) != NULL, "row %zu: %s", i, warned);
        bb_tokens_done(&t);
    }
    text[100] = '\0';
    memset(text + 101, 'a', 99);
    ck_assert_int_eq(load_bytes(text, sizeof text, false, &t, NULL, warned, sizeof warned), BB_OK);
    ck_assert_msg(strstr(warned, "1 of 200 bytes are NUL") != NULL, "%s", warned);
    bb_tokens_done(&t);
}
END_TEST

START_TEST(special_tokens_are_parsed_when_asked_and_keyed)
{
    char      warned[512];
    bb_tokens plain, parsed;
    ck_assert_int_eq(load_bytes("Once</s>upon", 12, false, &plain, NULL, warned, sizeof warned), BB_OK);
    ck_assert_int_eq(load_bytes("Once</s>upon", 12, true, &parsed, NULL, warned, sizeof warned), BB_OK);
    ck_assert_int_eq(parsed.ids[2], 2);
    for (size_t i = 0; i < plain.n; i++) ck_assert_int_ne(plain.ids[i], 2);
    ck_assert_str_ne(plain.sha256, parsed.sha256);
    bb_tokens_done(&plain);
    bb_tokens_done(&parsed);
}
END_TEST

START_TEST(fewer_windows_than_asked_are_said)
{
    const char *log = bb_test_path("windows.txt");
    int32_t     ids[25] = { 0 };
    bb_windows  w;
    bb_tokens   t;
    char       *text;
    size_t      size;
    ck_assert_int_eq(bb_tokens_from_ids(ids, 25, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_log_to_file(log, NULL), BB_OK);
    for (uint32_t asked = 0; asked <= 4; asked++) { /* 3 windows of 8 are there */
        ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_HF, 8, -1, asked, asked % 2, &w, NULL), BB_OK);
        ck_assert_uint_eq(w.n, asked == 0 || asked > 3 ? 3 : asked);
        bb_windows_done(&w);
        ck_assert_int_eq(bb_file_read(log, &text, &size, NULL), BB_OK);
        ck_assert_msg((size > 0) == (asked == 4), "%s", text);
        if (asked == 4) ck_assert_ptr_nonnull(strstr(text, "its 25 tokens are 3 windows of 8; 4 were asked for, 3 are used"));
        bb_free(text);
    }
    bb_log_to_file(NULL, NULL);
    bb_tokens_done(&t);
}
END_TEST

/* ---- a real model ---- */

static size_t int_array(const json_t *a, int32_t *out)
{
    for (size_t i = 0; i < json_array_size(a); i++) out[i] = (int32_t)json_integer_value(json_array_get(a, i));
    return json_array_size(a);
}

START_TEST(a_real_model_scores_as_in_numpy)
{
    json_t    *all = json_load_file("tests/data/stories260K.json", 0, NULL), *probe = json_object_get(all, "nll_probe");
    int32_t    ids[256];
    bb_tokens  t = { ids, int_array(json_object_get(probe, "ids"), ids), "", NULL };
    bb_windows w;
    bb_result  r;
    double     mean;
    ck_assert_uint_eq(t.n, 128);
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_HF, 128, 1, 0, false, &w, NULL), BB_OK);
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &stories.net, NULL, &w, NULL, &r, NULL, &mean, NULL), BB_OK);
    ck_assert_uint_eq(r.n_tokens, 127);
    ck_assert(fabs(r.nll * 127 - json_real_value(json_object_get(probe, "sum_nll"))) < 1e-3);
    ck_assert(fabs(r.ppl - exp(json_real_value(json_object_get(probe, "sum_nll")) / 127)) < 1e-4);
    ck_assert(fabs(mean - r.nll) < 1e-15);
    ck_assert(isnan(r.kl) && isnan(r.top1) && isnan(r.ln_ratio) && isnan(r.kl_quantile[2]));
    for (size_t i = 0; i < 8; i++) { /* token by token: a context of i + 2 scores one more than one of i + 1 */
        bb_result  shorter = { .nll = 0 };
        bb_windows v;
        double     want = json_real_value(json_array_get(json_object_get(probe, "first8"), i));
        ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_HF, (uint32_t)i + 2, 1, 1, false, &v, NULL), BB_OK);
        ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &stories.net, NULL, &v, NULL, &r, NULL, NULL, NULL), BB_OK);
        bb_windows_done(&v);
        if (i) {
            ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_HF, (uint32_t)i + 1, 1, 1, false, &v, NULL), BB_OK);
            ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &stories.net, NULL, &v, NULL, &shorter, NULL, NULL, NULL), BB_OK);
            bb_windows_done(&v);
        }
        ck_assert(fabs(r.nll * (double)(i + 1) - shorter.nll * (double)i - want) < 1e-4);
    }
    bb_windows_done(&w);
    json_decref(all);
}
END_TEST

START_TEST(a_real_model_has_the_logits_of_numpy)
{
    json_t       *all = json_load_file("tests/data/stories260K.json", 0, NULL), *greedy = json_object_get(all, "greedy");
    json_t       *top = json_object_get(greedy, "last_prompt_logits_top5");
    const bb_net *net = &stories.net;
    int32_t       ids[16];
    uint32_t      n = (uint32_t)int_array(json_object_get(greedy, "prompt_ids"), ids);
    bb_forward   *f;
    float        *h = BB_NEW(n * net->n_embd, float, NULL), *z = BB_NEW(net->n_vocab, float, NULL);
    ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, net, 1, n, &f, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_embed(f, net, ids, 1, n, bb_on_cpu(h), NULL), BB_OK);
    for (uint32_t b = 0; b < net->n_layer; b++) ck_assert_int_eq(bb_forward_block(f, net, &net->blocks[b], 1, n, bb_on_cpu(h), NULL, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_logits(f, net, bb_on_cpu(h + (n - 1) * net->n_embd), 1, z, NULL), BB_OK);
    for (size_t i = 0; i < 5; i++) {
        size_t id = (size_t)json_integer_value(json_array_get(json_array_get(top, i), 0)), larger = 0;
        double want = json_number_value(json_array_get(json_array_get(top, i), 1));
        ck_assert(fabs((double)z[id] - want) < 1e-4);
        for (size_t v = 0; v < net->n_vocab; v++) larger += z[v] > z[id];
        ck_assert_uint_eq(larger, i);
    }
    bb_forward_destroy(f);
    bb_free(h);
    bb_free(z);
    json_decref(all);
}
END_TEST

/* ---- the oracle ---- */

enum { CTX = 20, WINDOWS = 7 };

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void random_windows(const bb_net *net, bb_protocol protocol, bb_windows *w)
{
    int32_t   ids[CTX * WINDOWS];
    uint64_t  seed = 5;
    bb_tokens t = { ids, CTX * WINDOWS, "", NULL };
    for (size_t i = 0; i < t.n; i++) ids[i] = (int32_t)((ref_noise(&seed) + 1) / 2 * net->n_vocab);
    ck_assert_int_eq(bb_windows_make(&t, protocol, CTX, 3, 0, false, w, NULL), BB_OK);
}

static void close_to(double is, double want, double allowed) { ck_assert_msg(fabs(is - want) <= allowed, "%.9g, wanted %.9g", is, want); }

static void moments(const double *x, size_t n, double *mean, double *se) /* as llama-perplexity writes them */
{
    double s = 0, q = 0;
    for (size_t i = 0; i < n; i++) {
        s += x[i];
        q += x[i] * x[i];
    }
    *mean = s / (double)n;
    *se = sqrt((q / (double)n - *mean * *mean) / (double)(n - 1));
}

START_TEST(agrees_with_the_oracle)
{
    static const double q[BB_KL_QUANTILES] = { 0.01, 0.10, 0.50, 0.90, 0.99, 0.999, 1.00 };
    const ref_spec     *spec = &ref_specs[_i / 2];
    ref_model           a, b;
    bb_windows          w;
    bb_result           r;
    double              nll[CTX * WINDOWS], kl[CTX * WINDOWS], ratio[CTX * WINDOWS], window_kl[WINDOWS], window_nll[WINDOWS], mean, se, sum = 0, sum_nll = 0;
    size_t              n = 0, same = 0;
    ref_model_make(spec, 1, &a);
    ref_model_make(spec, 2, &b);
    size_t  V = a.net.n_vocab;
    double *z = BB_NEW(2 * CTX * V, double, NULL), *y = z + CTX * V;
    random_windows(&a.net, _i % 2 ? BB_PROTOCOL_GGUF : BB_PROTOCOL_HF, &w);
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &b.net, &a.net, &w, NULL, &r, window_kl, window_nll, NULL), BB_OK);
    for (size_t s = 0; s < WINDOWS; s++) {
        ref_run(&b.net, w.tokens + s * CTX, CTX, z);
        ref_run(&a.net, w.tokens + s * CTX, CTX, y);
        for (size_t p = _i % 2 ? CTX / 2 : 0; p + 1 < CTX; p++, n++) {
            const double *row = z + p * V, *ref = y + p * V;
            size_t        target = (size_t)w.targets[s * CTX + p], best = 0, best_ref = 0;
            nll[n] = ref_log_sum_exp(row, V) - row[target];
            ratio[n] = nll[n] - (ref_log_sum_exp(ref, V) - ref[target]);
            kl[n] = ref_kl(ref, row, V);
            for (size_t v = 1; v < V; v++) {
                if (row[v] > row[best]) best = v;
                if (ref[v] > ref[best_ref]) best_ref = v;
            }
            same += best == best_ref;
        }
    }
    double allowed = 2e-5; /* float32 against float64 on logits of order 1; measured: below 3e-6 */
    ck_assert_uint_eq(r.n_tokens, n);
    moments(nll, n, &mean, &se);
    close_to(r.nll, mean, allowed);
    close_to(r.nll_se, se, allowed);
    close_to(r.ppl / exp(mean), 1, allowed);
    close_to(r.ppl_se / (exp(mean) * se), 1, 10 * allowed);
    moments(kl, n, &mean, &se);
    close_to(r.kl, mean, allowed);
    close_to(r.kl_se, se, allowed);
    moments(ratio, n, &mean, &se);
    close_to(r.ln_ratio, mean, allowed);
    close_to(r.ln_ratio_se, se, allowed);
    close_to(r.top1, (double)same / (double)n, 0);
    for (size_t s = 0; s < WINDOWS; s++) {
        double m = 0, k = 0;
        for (size_t i = 0; i < n / WINDOWS; i++) {
            m += nll[s * (n / WINDOWS) + i];
            k += kl[s * (n / WINDOWS) + i];
        }
        close_to(window_nll[s], m / (double)(n / WINDOWS), allowed);
        close_to(window_kl[s], k / (double)(n / WINDOWS), allowed);
        sum += window_kl[s];
        sum_nll += window_nll[s];
    }
    close_to(sum / WINDOWS, r.kl, 1e-12);
    close_to(sum_nll / WINDOWS, r.nll, 1e-12);
    qsort(kl, n, sizeof *kl, ascending);
    for (int i = 0; i < BB_KL_QUANTILES; i++) {
        double at = q[i] * (double)(n - 1), low = kl[(size_t)floor(at)], high = kl[(size_t)ceil(at)];
        close_to(r.kl_quantile[i], low + (at - floor(at)) * (high - low), allowed);
    }
    bb_windows_done(&w);
    ref_model_free(&a);
    ref_model_free(&b);
    bb_free(z);
}
END_TEST

/* ---- what changes no bit ---- */

static void same_result(const bb_result *a, const bb_result *b) { ck_assert_int_eq(memcmp(a, b, sizeof *a), 0); }

/* However much of the reference is kept, whatever the batches that hidden states come in, and whatever the threads. */
START_TEST(batches_and_caches_change_nothing)
{
    enum { MANY = 360, SHORT = 12 }; /* more than one batch of bb_batch_windows */
    ref_model     a, b;
    bb_tokens     t = { BB_NEW(MANY * SHORT, int32_t, NULL), MANY * SHORT, "", NULL };
    bb_windows    w;
    bb_result     want, is;
    bb_reference *r;
    bb_scores     scores;
    bb_forward   *f;
    uint64_t      seed = 6, each;
    double        kl[MANY], kl2[MANY], nll[MANY], nll2[MANY];
    int           threads = omp_get_max_threads();
    ref_model_make(&ref_specs[0], 1, &a);
    ref_model_make(&ref_specs[0], 2, &b);
    uint32_t C = a.net.n_embd;
    for (size_t i = 0; i < t.n; i++) t.ids[i] = (int32_t)((ref_noise(&seed) + 1) / 2 * a.net.n_vocab);
    ck_assert_int_eq(bb_windows_make(&t, BB_PROTOCOL_GGUF, SHORT, 1, 0, false, &w, NULL), BB_OK);
    ck_assert_uint_gt(MANY, bb_batch_windows(SHORT));
    omp_set_num_threads(1);
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &b.net, &a.net, &w, NULL, &want, kl, nll, NULL), BB_OK);
    omp_set_num_threads(3);
    each = w.n_scored * (C * sizeof(float) + sizeof(double));
    for (uint32_t kept = 0; kept <= MANY; kept += 180) {
        ck_assert_int_eq(bb_reference_create(&bb_backend_cpu, &a.net, &w, kept * each + each / 2, NULL, &r, NULL), BB_OK);
        ck_assert_uint_eq(bb_reference_kept(r), kept);
        ck_assert_int_eq(bb_evaluate_against(&b.net, r, 0, NULL, &is, kl2, nll2, NULL), BB_OK);
        same_result(&is, &want);
        ck_assert_int_eq(memcmp(kl, kl2, sizeof kl) || memcmp(nll, nll2, sizeof nll), 0);
        /* from states that the caller computed, in batches of another size, last batch first */
        ck_assert_int_eq(bb_scores_create(MANY, w.n_scored, true, &scores, NULL), BB_OK);
        ck_assert_int_eq(bb_forward_create(&bb_backend_cpu, &b.net, 300, SHORT, &f, NULL), BB_OK);
        float *h = BB_NEW(300 * SHORT * C, float, NULL);
        for (uint32_t first = 300; first != UINT32_MAX; first = first ? 0 : UINT32_MAX) {
            uint32_t S = first ? MANY - 300 : 300;
            ck_assert_int_eq(bb_forward_embed(f, &b.net, w.tokens + first * SHORT, S, SHORT, bb_on_cpu(h), NULL), BB_OK);
            for (uint32_t k = 0; k < b.net.n_layer; k++)
                ck_assert_int_eq(bb_forward_block(f, &b.net, &b.net.blocks[k], S, SHORT, bb_on_cpu(h), NULL, NULL, NULL), BB_OK);
            ck_assert_int_eq(bb_scores_add(&scores, f, &b.net, r, &w, first, S, bb_on_cpu(h), NULL), BB_OK);
        }
        ck_assert_int_eq(bb_scores_result(&scores, &is, NULL, NULL, NULL), BB_OK);
        same_result(&is, &want);
        bb_scores_done(&scores);
        bb_forward_destroy(f);
        bb_reference_destroy(r);
        bb_free(h);
    }
    ck_assert_int_eq(bb_reference_create(&bb_backend_cpu, &a.net, &w, 0, NULL, &r, NULL), BB_OK); /* the first few windows are the first few windows */
    ck_assert_int_eq(bb_evaluate_against(&b.net, r, 10, NULL, &is, kl2, nll2, NULL), BB_OK);
    ck_assert_int_eq(memcmp(kl, kl2, 10 * sizeof *kl), 0);
    ck_assert_uint_eq(is.n_tokens, 10 * w.n_scored);
    bb_reference_destroy(r);
    omp_set_num_threads(threads);
    bb_windows_done(&w);
    bb_tokens_done(&t);
    ref_model_free(&a);
    ref_model_free(&b);
}
END_TEST

/* On a backend whose memory the host cannot reach: whole evaluations, against a reference that keeps some windows, and from the caller's states. */
START_TEST(another_backend_has_the_same_scores)
{
    ref_model     a, b;
    bb_windows    w;
    bb_result     want, is;
    bb_reference *r;
    bb_scores     scores;
    bb_forward   *f;
    bb_buffer     h;
    guarded       g;
    ref_model_make(&ref_specs[_i], 1, &a);
    ref_model_make(&ref_specs[_i], 2, &b);
    random_windows(&a.net, BB_PROTOCOL_GGUF, &w);
    guarded_make(&g);
    const size_t C = b.net.n_embd;
    double      *kl = BB_NEW(2 * w.n, double, NULL), *nll = BB_NEW(2 * w.n, double, NULL);
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &b.net, &a.net, &w, NULL, &want, kl, nll, NULL), BB_OK);
    ck_assert_int_eq(bb_evaluate(&g.backend, &b.net, &a.net, &w, NULL, &is, kl + w.n, nll + w.n, NULL), BB_OK);
    same_result(&is, &want);
    ck_assert(memcmp(kl, kl + w.n, w.n * sizeof *kl) == 0 && memcmp(nll, nll + w.n, w.n * sizeof *nll) == 0);
    ck_assert_int_eq(bb_reference_create(&g.backend, &a.net, &w, w.n_scored * (C * sizeof(float) + sizeof(double)), NULL, &r, NULL), BB_OK);
    ck_assert_uint_eq(bb_reference_kept(r), 1);
    ck_assert_ptr_eq(bb_reference_backend(r), &g.backend);
    ck_assert_int_eq(bb_evaluate_against(&b.net, r, 0, NULL, &is, NULL, NULL, NULL), BB_OK);
    same_result(&is, &want);
    ck_assert_int_eq(bb_scores_create(w.n, w.n_scored, true, &scores, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_create(&g.backend, &b.net, w.n, w.ctx, &f, NULL), BB_OK);
    ck_assert_int_eq(g.backend.ops->alloc(g.backend.context, w.n * w.ctx * bb_row_width(&b.net), &h, NULL), BB_OK);
    ck_assert_int_eq(bb_forward_embed(f, &b.net, w.tokens, w.n, w.ctx, h, NULL), BB_OK);
    for (uint32_t k = 0; k < b.net.n_layer; k++) ck_assert_int_eq(bb_forward_block(f, &b.net, &b.net.blocks[k], w.n, w.ctx, h, NULL, NULL, NULL), BB_OK);
    ck_assert_int_eq(bb_scores_add(&scores, f, &b.net, r, &w, 0, w.n, h, NULL), BB_OK);
    ck_assert_int_eq(bb_scores_result(&scores, &is, NULL, NULL, NULL), BB_OK);
    same_result(&is, &want);
    g.backend.ops->release(g.backend.context, h);
    bb_scores_done(&scores);
    bb_forward_destroy(f);
    bb_reference_destroy(r);
    guarded_done(&g);
    bb_windows_done(&w);
    ref_model_free(&a);
    ref_model_free(&b);
    bb_free(kl);
    bb_free(nll);
}
END_TEST

START_TEST(a_network_has_no_distance_to_itself)
{
    ref_model  a;
    bb_windows w;
    bb_result  r;
    ref_model_make(&ref_specs[0], 1, &a);
    random_windows(&a.net, BB_PROTOCOL_GGUF, &w);
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &a.net, &a.net, &w, NULL, &r, NULL, NULL, NULL), BB_OK);
    ck_assert(r.kl == 0 && r.kl_se == 0 && r.top1 == 1 && r.ln_ratio == 0 && r.ln_ratio_se == 0 && r.kl_quantile[BB_KL_QUANTILES - 1] == 0);
    bb_windows_done(&w);
    ref_model_free(&a);
}
END_TEST

/* ---- failures ---- */

START_TEST(failures_say_so)
{
    ref_model  a, b;
    bb_windows w;
    bb_result  r;
    bb_err     err = BB_ERR_INIT;
    ref_spec   wider = ref_specs[0];
    float     *norm;
    wider.n_vocab += 8;
    ref_model_make(&ref_specs[0], 1, &a);
    ref_model_make(&wider, 1, &b);
    random_windows(&a.net, BB_PROTOCOL_HF, &w);
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &b.net, &a.net, &w, NULL, &r, NULL, NULL, &err), BB_UNSUPPORTED);
    bb_interrupt_raise();
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &a.net, NULL, &w, NULL, &r, NULL, NULL, NULL), BB_INTERRUPTED);
    bb_interrupt_clear();
    norm = BB_NEW(a.net.n_embd, float, NULL);
    for (uint32_t i = 0; i < a.net.n_embd; i++) norm[i] = i ? 1 : (float)NAN;
    a.net.out_norm = norm;
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &a.net, NULL, &w, NULL, &r, NULL, NULL, NULL), BB_NUMERIC);
    w.tokens[3] = (int32_t)a.net.n_vocab;
    ck_assert_int_eq(bb_evaluate(&bb_backend_cpu, &a.net, NULL, &w, NULL, &r, NULL, NULL, NULL), BB_BAD_FILE);
    bb_free(norm);
    bb_windows_done(&w);
    ref_model_free(&a);
    ref_model_free(&b);
}
END_TEST

START_TEST(running_out_of_memory_leaves_nothing)
{
    ref_model  a, b;
    bb_windows w;
    long       n = 0;
    size_t     live;
    ref_model_make(&ref_specs[0], 1, &a);
    ref_model_make(&ref_specs[0], 2, &b);
    random_windows(&a.net, BB_PROTOCOL_GGUF, &w);
    live = bb_mem_live_bytes();
    for (bb_status status = BB_NOMEM; status != BB_OK; n++) {
        bb_result     r;
        bb_tokens     t = { 0 };
        bb_windows    v = { 0 };
        bb_reference *reference = NULL;
        bb_mem_fail_after(n);
        status = bb_evaluate(&bb_backend_cpu, &b.net, &a.net, &w, NULL, &r, NULL, NULL, NULL);
        if (status == BB_OK) status = bb_tokens_from_ids((int32_t[]) { 1, 2, 3, 4 }, 4, &t, NULL);
        if (status == BB_OK) status = bb_windows_make(&t, BB_PROTOCOL_HF, 4, -1, 0, false, &v, NULL);
        if (status == BB_OK) status = bb_reference_create(&bb_backend_cpu, &a.net, &v, 1 << 20, NULL, &reference, NULL);
        bb_mem_fail_after(-1);
        bb_tokens_done(&t);
        bb_windows_done(&v);
        bb_reference_destroy(reference);
        ck_assert_msg(status == BB_OK || status == BB_NOMEM, "%ld: %d", n, status);
        ck_assert_uint_eq(bb_mem_live_bytes(), live);
    }
    ck_assert_int_gt(n, 20);
    bb_windows_done(&w);
    ref_model_free(&a);
    ref_model_free(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("evaluate");
    TCase *t = tcase_create("core");
    bb_err err = BB_ERR_INIT;
    int    rc;
    if (bb_model_open("tests/data/stories260K.gguf", &stories, &err) != BB_OK) return EXIT_FAILURE;
    tcase_set_timeout(t, 60);
    tcase_add_test(t, windows_by_hand);
    tcase_add_test(t, token_files);
    tcase_add_test(t, text_is_tokenized_with_bos_and_without_the_last_newline);
    tcase_add_test(t, what_is_no_text_is_refused);
    tcase_add_test(t, a_few_bytes_that_are_no_text_are_counted);
    tcase_add_test(t, special_tokens_are_parsed_when_asked_and_keyed);
    tcase_add_test(t, fewer_windows_than_asked_are_said);
    tcase_add_test(t, a_real_model_scores_as_in_numpy);
    tcase_add_test(t, a_real_model_has_the_logits_of_numpy);
    tcase_add_loop_test(t, agrees_with_the_oracle, 0, 2 * (int)ref_n_specs);
    tcase_add_test(t, batches_and_caches_change_nothing);
    tcase_add_loop_test(t, another_backend_has_the_same_scores, 0, (int)ref_n_specs);
    tcase_add_test(t, a_network_has_no_distance_to_itself);
    tcase_add_test(t, failures_say_so);
    tcase_add_test(t, running_out_of_memory_leaves_nothing);
    suite_add_tcase(s, t);
    rc = bb_test_run(s);
    bb_model_close(&stories);
    return rc;
}
