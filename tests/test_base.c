/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_base.c: hash, rng, text, file, plan, log. Oracles: FIPS 180-4 and NIST example vectors; the outputs of xoshiro256**
 * for the state 1 2 3 4, published with its reference implementation's ports; definitions; system calls. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/plan_space.h"
#include "base/rng.h"
#include "base/text.h"
#include "tests/support/support.h"

/* ---- hash ---- */

static void digest(const char *data, size_t size, size_t piece, char hex[65])
{
    bb_sha256 s;
    bb_sha256_init(&s);
    for (size_t at = 0; at < size; at += piece) bb_sha256_update(&s, data + at, size - at < piece ? size - at : piece);
    bb_sha256_hex(&s, hex);
}

START_TEST(sha256_gives_the_nist_examples)
{
    static const struct {
        const char *text, *hex;
    } cases[] = {
        { "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
        { "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
        { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
        { "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
          "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1" },
    };
    char hex[65];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t piece = 1; piece < 120; piece++) {
            digest(cases[i].text, strlen(cases[i].text), piece, hex);
            ck_assert_str_eq(hex, cases[i].hex);
        }
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    digest(million, 1000000, 4099, hex);
    ck_assert_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    const char *path = bb_test_path("million");
    bb_test_write(path, million, 1000000);
    free(million);
    ck_assert_int_eq(bb_sha256_file(path, hex, NULL), BB_OK);
    ck_assert_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    ck_assert_int_eq(bb_sha256_file(bb_test_path("absent"), hex, NULL), BB_BAD_FILE);
}
END_TEST

START_TEST(fields_of_a_hash_cannot_run_together)
{
    bb_sha256 a, b;
    char      x[65], y[65];
    bb_sha256_init(&a);
    bb_sha256_text(&a, "ab");
    bb_sha256_text(&a, "c");
    bb_sha256_hex(&a, x);
    bb_sha256_init(&b);
    bb_sha256_text(&b, "a");
    bb_sha256_text(&b, "bc");
    bb_sha256_hex(&b, y);
    ck_assert_str_ne(x, y);
}
END_TEST

START_TEST(hash64_changes_half_of_the_bits_and_knows_lengths)
{
    unsigned char data[16] = { 0 };
    double        flips = 0;
    ck_assert_uint_ne(bb_hash64(data, 7, 0), bb_hash64(data, 8, 0));
    ck_assert_uint_ne(bb_hash64(data, 0, 0), bb_hash64(data, 0, 1));
    for (int bit = 0; bit < 128; bit++) {
        uint64_t before = bb_hash64(data, 16, 5);
        data[bit / 8] ^= (unsigned char)(1 << bit % 8);
        flips += __builtin_popcountll(before ^ bb_hash64(data, 16, 5));
    }
    flips /= 128;
    ck_assert(flips > 30 && flips < 34); /* binomial: 32 +- 4/sqrt(128) */
}
END_TEST

/* ---- rng ---- */

START_TEST(xoshiro_gives_the_published_stream)
{
    static const uint64_t expected[] = { 11520u,
                                         0u,
                                         1509978240u,
                                         1215971899390074240u,
                                         1216172134540287360u,
                                         607988272756665600u,
                                         16172922978634559625u,
                                         8476171486693032832u,
                                         10595114339597558777u,
                                         2904607092377533576u };
    bb_rng                r = { { 1, 2, 3, 4 } };
    for (size_t i = 0; i < 10; i++) ck_assert_uint_eq(bb_rng_u64(&r), expected[i]);
}
END_TEST

START_TEST(streams_differ_and_repeat)
{
    bb_rng a, b, c, d;
    bb_rng_init(&a, 1, "x");
    bb_rng_init(&b, 1, "x");
    bb_rng_init(&c, 1, "y");
    bb_rng_init(&d, 2, "x");
    uint64_t first = bb_rng_u64(&a);
    ck_assert_uint_eq(first, bb_rng_u64(&b));
    ck_assert_uint_ne(first, bb_rng_u64(&c));
    ck_assert_uint_ne(first, bb_rng_u64(&d));
}
END_TEST

START_TEST(moments_and_ranges_are_right)
{
    enum { N = 200000 };
    bb_rng   r;
    double   sum = 0, squares = 0, fourth = 0, uniform = 0, first_third = 0;
    unsigned seen[7] = { 0 };
    bb_rng_init(&r, 7, "moments");
    for (int i = 0; i < N; i++) {
        double x = bb_rng_normal(&r), u = bb_rng_uniform(&r);
        ck_assert(u >= 0 && u < 1);
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
        uniform += u;
        seen[bb_rng_below(&r, 7)]++;
    }
    /* Five standard errors each. */
    ck_assert(fabs(sum / N) < 5 / sqrt(N));
    ck_assert(fabs(squares / N - 1) < 5 * sqrt(2.0 / N));
    ck_assert(fabs(fourth / N - 3) < 5 * sqrt(96.0 / N));
    ck_assert(fabs(uniform / N - 0.5) < 5 * sqrt(1.0 / 12 / N));
    for (int i = 0; i < 7; i++) ck_assert(fabs(seen[i] - N / 7.0) < 5 * sqrt(N * 6.0 / 49));
    for (int i = 0; i < 100; i++) ck_assert_uint_eq(bb_rng_below(&r, 1), 0);
    /* Of 3 * 2^62 values, the first third would come twice as often if nothing were refused. */
    for (int i = 0; i < N; i++) {
        const uint64_t x = bb_rng_below(&r, 3ull << 62);
        ck_assert_uint_lt(x, 3ull << 62);
        first_third += x < 1ull << 62;
    }
    ck_assert(fabs(first_third - N / 3.0) < 5 * sqrt(N * 2.0 / 9));
}
END_TEST

/* ---- text ---- */

START_TEST(sizes_are_parsed)
{
    static const struct {
        const char *text;
        uint64_t    bytes;
    } good[] = {
        { "3596960", 3596960 },
        { "3.2MiB", 3355443 },
        { "2.6GB", 2600000000 },
        { "4100k", 4100 * 1024 },
        { "1.5g", 3ull << 29 },
        { "0", 0 },
        { "1 KiB", 1024 },
        { "1kB", 1000 },
        { "0.3GB", 300000000 },
        { "18446744073709551615", UINT64_MAX },
        { "12B", 12 },
        { "2t", 2ull << 40 },
        { ".5M", 512 * 1024 },
        { "0.9TiB", 989560464998 },
        { "3TB", 3000000000000 },
        { "7mb", 7000000 },
        { "4.3TiB", 4727899999436 },
        { "1.99999999999999KiB", 2047 },
        { "0.700000000000000000000KB", 700 },
    };
    static const char *const bad[] = { "", "x", "-1", "1.2.3", "1e3", "5 parsecs", "0x10", "18446744073709551616", "99999999999TiB", ".", "k", "nan" };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint64_t bytes = 1;
        ck_assert_int_eq(bb_parse_size(good[i].text, &bytes, NULL), BB_OK);
        ck_assert_uint_eq(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t bytes = 1;
        ck_assert_msg(bb_parse_size(bad[i], &bytes, NULL) == BB_USAGE, "'%s' passed", bad[i]);
    }
}
END_TEST

START_TEST(times_are_parsed)
{
    static const struct {
        const char *text;
        double      seconds;
    } good[] = { { "0", 0 }, { "90s", 90 }, { "30m", 1800 }, { "1h30m", 5400 }, { "1.5h", 5400 }, { "2d", 172800 }, { "1D2H3M4S", 93784 }, { "0.25s", 0.25 } };
    static const char *const bad[] = { "",    "5",   "1h2h",   "1m1h", "1e3s", "0x10s", "h",   "-1s", "+1s",
                                       "nan", "inf", "1.2.3s", "1 h",  " 1h",  "1h ",   "1h5", "1w",  "37038d" };
    double                   seconds;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        ck_assert_int_eq(bb_parse_time(good[i].text, &seconds, NULL), BB_OK);
        ck_assert_double_eq(seconds, good[i].seconds);
    }
    ck_assert_int_eq(bb_parse_time("37037d", &seconds, NULL), BB_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) ck_assert_msg(bb_parse_time(bad[i], &seconds, NULL) == BB_USAGE, "'%s' passed", bad[i]);
}
END_TEST

START_TEST(numbers_are_parsed_whole)
{
    double  v;
    int64_t i;
    ck_assert_int_eq(bb_parse_double("-1.5e3", &v, NULL), BB_OK);
    ck_assert_double_eq(v, -1500);
    ck_assert_int_eq(bb_parse_int("-9223372036854775808", &i, NULL), BB_OK);
    ck_assert_int_eq(i, INT64_MIN);
    static const char *const bad[] = { "", " 1", "1 ", "1x", "inf", "nan", "1e999" };
    for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) ck_assert_int_eq(bb_parse_double(bad[k], &v, NULL), BB_USAGE);
    static const char *const worse[] = { "", " 1", "1.0", "9223372036854775808", "0x1" };
    for (size_t k = 0; k < sizeof worse / sizeof worse[0]; k++) ck_assert_int_eq(bb_parse_int(worse[k], &i, NULL), BB_USAGE);
}
END_TEST

START_TEST(sizes_and_times_are_printed)
{
    static const struct {
        uint64_t    bytes;
        const char *text;
    } sizes[] = { { 0, "0 B" }, { 1023, "1023 B" }, { 1024, "1.00 KiB" }, { 3355443, "3.20 MiB" }, { 1048575, "1.00 MiB" }, { UINT64_MAX, "16.00 EiB" } };
    static const struct {
        double      s;
        const char *text;
    } times[] = { { 0.44, "0.4s" }, { 9.97, "10s" }, { 59.6, "1m 00s" }, { 125, "2m 05s" }, { 3661, "1h 01m" }, { 90000, "1d 01h" }, { -1, "?" } };
    char out[32];
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        bb_format_size(sizes[i].bytes, out);
        ck_assert_str_eq(out, sizes[i].text);
    }
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        bb_format_time(times[i].s, out);
        ck_assert_str_eq(out, times[i].text);
    }
    ck_assert(*bb_plural(0) == 's' && !*bb_plural(1) && *bb_plural(2) == 's');
    bb_format_time((double)NAN, out);
    ck_assert_str_eq(out, "?");
}
END_TEST

START_TEST(comma_lists)
{
    static const struct {
        const char *list, *joined;
        size_t      n;
    } cases[] = {
        { "", "", 0 }, { "a", "<a>", 1 }, { "a,b,cc", "<a><b><cc>", 3 }, { "a,", "<a>", 1 }, { ",", "<>", 1 }, { "a,,b", "<a><><b>", 3 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bb_text     t = { 0 };
        const char *rest = cases[i].list;
        for (bb_item item; bb_list_next(&rest, &item);) {
            char *copy = bb_item_text(item, NULL);
            ck_assert(bb_item_is(item, copy));
            bb_text_addf(&t, "<%s>", copy);
            bb_free(copy);
        }
        ck_assert_str_eq(t.data ? t.data : "", cases[i].joined);
        ck_assert_uint_eq(bb_list_length(cases[i].list), cases[i].n);
        bb_text_done(&t);
    }
    ck_assert(bb_list_has("kv,ffn,ffn_down", "ffn"));
    ck_assert(bb_list_has("kv,ffn", "kv"));
    ck_assert(!bb_list_has("kv,ffn_down", "ffn"));
    ck_assert(!bb_list_has("kv,ff", "ffn"));
    ck_assert(!bb_list_has("", "ffn"));

    int64_t *sizes;
    double  *numbers;
    size_t   n;
    bb_err   err = BB_ERR_INIT;
    ck_assert_int_eq(bb_list_sizes("2k,17,1.5MB", &sizes, &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 3);
    ck_assert(sizes[0] == 2048 && sizes[1] == 17 && sizes[2] == 1500000);
    bb_free(sizes);
    ck_assert_int_eq(bb_list_sizes("1KiB,17,1k,17", &sizes, &n, NULL), BB_OK); /* a size is asked for once */
    ck_assert_uint_eq(n, 2);
    ck_assert(sizes[0] == 1024 && sizes[1] == 17);
    bb_free(sizes);
    ck_assert_int_eq(bb_list_doubles("1.5,-2", &numbers, &n, NULL), BB_OK);
    ck_assert(n == 2 && numbers[0] == 1.5 && numbers[1] == -2);
    bb_free(numbers);
    ck_assert_int_eq(bb_list_doubles("", &numbers, &n, NULL), BB_OK);
    ck_assert_uint_eq(n, 0);
    bb_free(numbers);
    ck_assert_int_eq(bb_list_sizes("2k,x3", &sizes, &n, &err), BB_USAGE);
    ck_assert_msg(sizes == NULL && n == 0 && strstr(err.msg, "'x3'"), "%s", err.msg);
    ck_assert_int_eq(bb_list_sizes("18446744073709551615", &sizes, &n, NULL), BB_USAGE); /* no int64_t */
    ck_assert_int_eq(bb_list_doubles("1,,2", &numbers, &n, NULL), BB_USAGE);
    for (long k = 0; k < 4; k++) { /* the array and a copy of each element */
        bb_mem_fail_after(k);
        ck_assert_int_eq(bb_list_doubles("1,2,3", &numbers, &n, NULL), BB_NOMEM);
        bb_mem_fail_after(-1);
        ck_assert_ptr_null(numbers);
    }
}
END_TEST

/* Whole characters go through, what is none becomes U+FFFD, and the beginning of one waits for its rest. */
START_TEST(bytes_become_utf8)
{
#define WRONG "\xEF\xBF\xBD"
    static const struct {
        const char *in, *now, *all;
        size_t      used;
    } cases[] = {
        { "abc", "abc", "abc", 3 },
        { "a\xC3\xA9", "a\xC3\xA9", "a\xC3\xA9", 3 },
        { "a\xC3", "a", "a" WRONG, 1 },
        { "\xE2\x82", "", WRONG WRONG, 0 },
        { "\xF0\x9F\x98\x80!", "\xF0\x9F\x98\x80!", "\xF0\x9F\x98\x80!", 5 },
        { "\xF0\x9F\x98", "", WRONG WRONG WRONG, 0 },
        { "\xC3(", WRONG "(", WRONG "(", 2 },
        { "\x80z", WRONG "z", WRONG "z", 2 },
        { "\xC0\xAF", WRONG WRONG, WRONG WRONG, 2 },                 /* too long a form */
        { "\xED\xA0\x80", WRONG WRONG WRONG, WRONG WRONG WRONG, 3 }, /* a surrogate */
        { "\xED\xA0", WRONG WRONG, WRONG WRONG, 2 },                 /* no rest can make it one */
        { "\xF4\x90\x80\x80", WRONG WRONG WRONG WRONG, WRONG WRONG WRONG WRONG, 4 },
        { "\xFF", WRONG, WRONG, 1 },
        { "\xC1\xBF", WRONG WRONG, WRONG WRONG, 2 }, /* the last too long forms, and the first that are not */
        { "\xE0\x9F\xBF", WRONG WRONG WRONG, WRONG WRONG WRONG, 3 },
        { "\xF0\x8F\xBF\xBF", WRONG WRONG WRONG WRONG, WRONG WRONG WRONG WRONG, 4 },
        { "\xC2\x80\xE0\xA0\x80\xF0\x90\x80\x80", "\xC2\x80\xE0\xA0\x80\xF0\x90\x80\x80", "\xC2\x80\xE0\xA0\x80\xF0\x90\x80\x80", 9 },
        { "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF", "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF", "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF", 10 },
        { "\xE2\x28\xA1", WRONG "(" WRONG, WRONG "(" WRONG, 3 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bb_text now = { 0 }, all = { 0 };
        bb_text_add(&now, "");
        ck_assert_uint_eq(bb_text_add_utf8(&now, cases[i].in, strlen(cases[i].in), false), cases[i].used);
        ck_assert_uint_eq(bb_text_add_utf8(&all, cases[i].in, strlen(cases[i].in), true), strlen(cases[i].in));
        ck_assert_str_eq(now.data, cases[i].now);
        ck_assert_str_eq(all.data, cases[i].all);
        bb_text_done(&now);
        bb_text_done(&all);
    }
#undef WRONG
}
END_TEST

START_TEST(text_grows_and_fails_cleanly)
{
    bb_text t = { 0 };
    char    expected[4000] = "";
    for (int i = 0; i < 300; i++) {
        bb_text_addf(&t, "%d,", i);
        snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%d,", i);
    }
    ck_assert_int_eq(t.status, BB_OK);
    ck_assert_str_eq(t.data, expected);
    ck_assert_uint_eq(t.size, strlen(expected));
    bb_text_done(&t);
    bb_mem_fail_after(0);
    bb_text_add(&t, "x");
    bb_mem_fail_after(-1);
    bb_text_add(&t, "y");
    ck_assert_int_eq(t.status, BB_NOMEM);
    bb_text_done(&t);
    ck_assert_uint_eq(bb_edit_distance("kitten", "sitting"), 3);
    ck_assert_uint_eq(bb_edit_distance("", "abc"), 3);
    ck_assert_uint_eq(bb_edit_distance("abcd", "ad"), 2);
    ck_assert_uint_eq(bb_edit_distance("abc", ""), 3);
    ck_assert_uint_eq(bb_edit_distance("abc", "xabcx"), 2);
    ck_assert_uint_eq(bb_edit_distance("same", "same"), 0);
}
END_TEST

/* ---- file ---- */

static size_t entries(const char *path)
{
    size_t n = 0;
    DIR   *d = opendir(path);
    while (readdir(d)) n++;
    closedir(d);
    return n - 2;
}

START_TEST(files_are_replaced_whole_or_not_at_all)
{
    const char *dir = bb_test_path("a/b//c"), *path = bb_test_path("a/b/c/file");
    char       *data;
    size_t      size;
    bb_writer   w;
    ck_assert_int_eq(bb_make_dirs(dir, NULL), BB_OK);
    ck_assert_int_eq(bb_make_dirs(dir, NULL), BB_OK);
    ck_assert_int_eq(bb_file_write(path, "first", 5, NULL), BB_OK);
    ck_assert_int_eq(bb_writer_open(&w, path, NULL), BB_OK);
    fputs("half", w.stream);
    bb_writer_abort(&w);
    ck_assert_int_eq(bb_file_read(path, &data, &size, NULL), BB_OK);
    ck_assert_str_eq(data, "first");
    ck_assert_uint_eq(size, 5);
    bb_free(data);
    ck_assert_uint_eq(entries(dir), 1);
    ck_assert_int_eq(bb_file_write(path, "second", 6, NULL), BB_OK);
    uint64_t bytes;
    ck_assert_int_eq(bb_file_size(path, &bytes, NULL), BB_OK);
    ck_assert_uint_eq(bytes, 6);
    ck_assert_uint_eq(entries(dir), 1);
    ck_assert_int_eq(bb_make_dirs(path, NULL), BB_IO);
}
END_TEST

START_TEST(a_full_disk_keeps_the_old_file)
{
    const char *path = bb_test_path("kept");
    bb_err      err = BB_ERR_INIT;
    char       *data;
    size_t      size;
    ck_assert_int_eq(bb_file_write(path, "old", 3, NULL), BB_OK);
    bb_file_fail_after(1, 1000, ENOSPC); /* the temporary is opened, nothing can be written */
    ck_assert_int_eq(bb_file_write(path, "new", 3, &err), BB_IO);
    bb_file_fail_after(-1, 0, 0);
    ck_assert_ptr_nonnull(strstr(err.msg, path));
    ck_assert_ptr_nonnull(strstr(err.msg, "No space left"));
    ck_assert_int_eq(bb_file_read(path, &data, &size, NULL), BB_OK);
    ck_assert_str_eq(data, "old");
    bb_free(data);
}
END_TEST

START_TEST(odd_files_are_refused_with_a_reason)
{
    bb_map      map;
    char       *data;
    size_t      size;
    bb_err      err = BB_ERR_INIT;
    const char *empty = bb_test_path("empty");
    ck_assert_int_eq(bb_map_open(bb_test_path("none"), &map, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "No such file"));
    ck_assert_int_eq(bb_map_open(bb_test_path(""), &map, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_file_read("/dev/null", &data, &size, NULL), BB_BAD_FILE);
    bb_test_write(empty, "", 0);
    ck_assert_int_eq(bb_map_open(empty, &map, NULL), BB_OK);
    ck_assert_ptr_null(map.data);
    ck_assert_uint_eq(map.size, 0);
    bb_map_close(&map);
    ck_assert_int_eq(bb_file_read(empty, &data, &size, NULL), BB_OK);
    ck_assert_uint_eq(size, 0);
    ck_assert_str_eq(data, "");
    bb_free(data);
    ck_assert_int_eq(bb_file_write("/dev/null", "x", 1, NULL), BB_IO);
    ck_assert_int_eq(bb_file_write(bb_test_path("no/such/folder"), "x", 1, NULL), BB_IO);
    ck_assert(bb_file_exists(empty) && !bb_file_exists(bb_test_path("none")));
}
END_TEST

/* What was given back is read again with the same bytes. */
START_TEST(a_released_map_is_read_again)
{
    enum { PAGES = 8 };
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = PAGES * page;
    char        *bytes = malloc(size);
    const char  *path = bb_test_path("pages");
    bb_map       map;
    for (size_t i = 0; i < size; i++) bytes[i] = (char)(i * 31 + i / page);
    bb_test_write(path, bytes, size);
    ck_assert_int_eq(bb_map_open(path, &map, NULL), BB_OK);
    for (int i = 0; i < 2; i++) {
        ck_assert(memcmp(map.data, bytes, size) == 0);
        bb_map_release(&map);
    }
    ck_assert(memcmp(map.data, bytes, size) == 0);
    bb_map_close(&map);
    bb_map_release(&map);
    free(bytes);
}
END_TEST

/* ---- plan ---- */

static const char plan_text[] = "blk.0.attn_q=Q4_K\nblk.0.ffn=192\nblk.10.kv=0\nblk.2.kv=2\noutput=Q6_K\ntoken_embd=Q4_K\n";

/* What stays is where and as it was, the rest is given back and no longer counted. */
START_TEST(memory_shrinks_in_place)
{
    enum { WAS = 64 << 20, IS = 3 << 20 };
    const size_t   before = bb_mem_live_bytes();
    unsigned char *p = bb_alloc(WAS, 1, NULL);
    ck_assert_ptr_nonnull(p);
    for (size_t i = 0; i < WAS; i++) p[i] = (unsigned char)(i * 7 >> 3);
    const uint64_t resident = bb_memory_resident();
    bb_shrink(p, IS, 1);
    ck_assert_uint_eq(bb_mem_live_bytes(), before + IS);
    if (resident) ck_assert_uint_le(bb_memory_resident(), resident - (WAS - IS) / 2);
    for (size_t i = 0; i < IS; i++) ck_assert_uint_eq(p[i], (unsigned char)(i * 7 >> 3));
    bb_shrink(p, 5, 1); /* less than a page is left */
    for (size_t i = 0; i < 5; i++) ck_assert_uint_eq(p[i], (unsigned char)(i * 7 >> 3));
    bb_free(p);
    ck_assert_uint_eq(bb_mem_live_bytes(), before);
}
END_TEST

START_TEST(plans_print_and_parse_to_the_same)
{
    static const char *const genes[][2] = { { "token_embd", "F16" },    { "blk.2.kv", "2" },  { "blk.0.ffn", "192" },  { "blk.10.kv", "0" },
                                            { "blk.0.attn_q", "Q4_K" }, { "output", "Q6_K" }, { "token_embd", "Q4_K" } };
    bb_plan                  p = { 0, NULL }, q = { 0, NULL };
    char                    *text, hash[17], again[17], full[65];
    for (size_t i = 0; i < 7; i++) ck_assert_int_eq(bb_plan_set(&p, genes[i][0], genes[i][1], NULL), BB_OK);
    ck_assert_uint_eq(p.n, 6);
    ck_assert_int_eq(bb_plan_print(&p, &text, NULL), BB_OK);
    ck_assert_str_eq(text, plan_text);
    bb_free(text);
    ck_assert_str_eq(bb_plan_get(&p, "blk.2.kv"), "2");
    ck_assert_ptr_null(bb_plan_get(&p, "blk.1.kv"));
    /* Lines in any order, without the last newline. */
    static const char shuffled[] = "token_embd=Q4_K\nblk.2.kv=2\nblk.10.kv=0\nblk.0.ffn=192\noutput=Q6_K\nblk.0.attn_q=Q4_K";
    ck_assert_int_eq(bb_plan_parse(shuffled, strlen(shuffled), &q, NULL), BB_OK);
    bb_plan_hash(&p, hash);
    bb_plan_hash(&q, again);
    ck_assert_str_eq(hash, again);
    digest(plan_text, strlen(plan_text), 1000, full);
    full[16] = '\0';
    ck_assert_str_eq(hash, full);
    ck_assert_int_eq(bb_plan_set(&p, "zzz", "1", NULL), BB_OK);
    ck_assert_int_eq(bb_plan_set(&p, "a", "1", NULL), BB_OK);
    ck_assert_uint_eq(p.n, 8);
    bb_plan_done(&p);
    bb_plan_done(&q);
    ck_assert_int_eq(bb_plan_parse("", 0, &q, NULL), BB_OK);
    ck_assert_int_eq(bb_plan_print(&q, &text, NULL), BB_OK);
    ck_assert_str_eq(text, "");
    bb_free(text);
    bb_plan_done(&q);
}
END_TEST

/* A plan by indices has the text and the hash of the plan by names. */
START_TEST(plans_by_indices_are_the_plans_by_name)
{
    static const bb_plan_option formats[] = { { "F16", 1 }, { "Q4_K", 12 }, { "IQ2_XXS", 16 } }, counts[] = { { "10", 10 }, { "9", 9 }, { "0", 0 } };
    bb_plan_unit units[] = { { "blk.10.kv", 7, 10, -1, 3, counts },  { "blk.9.attn_q", 0, 9, 2, 3, formats },   { "blk.9.kv", 7, 9, -1, 3, counts },
                             { "token_embd", 9, 0, -1, 2, formats }, { "blk.10.attn_q", 0, 10, 0, 3, formats }, { "output", 10, 0, -1, 1, formats } };
    enum { N = sizeof units / sizeof *units };
    bb_plan_space s;
    bb_err        err = BB_ERR_INIT;
    ck_assert_msg(bb_plan_space_init(&s, units, N, &err) == BB_OK, "%s", err.msg);
    for (uint32_t k = 0; k < 3 * 3 * 3 * 2 * 3; k++) {
        uint16_t x[N], back[N];
        char    *text, *named, hash[17], wanted[17];
        bb_plan  p = { 0, NULL }, q = { 0, NULL };
        for (uint32_t u = 0, rest = k; u < N; rest /= units[u++].n_options) x[u] = (uint16_t)(rest % units[u].n_options);
        for (uint32_t u = 0; u < N; u++) ck_assert_int_eq(bb_plan_set(&p, units[u].name, units[u].options[x[u]].name, NULL), BB_OK);
        ck_assert_int_eq(bb_plan_print(&p, &named, NULL), BB_OK);
        ck_assert_int_eq(bb_plan_space_print(&s, x, &text, NULL), BB_OK);
        ck_assert_str_eq(text, named);
        bb_plan_hash(&p, wanted);
        bb_plan_space_hash(&s, x, hash);
        ck_assert_str_eq(hash, wanted);
        ck_assert_int_eq(bb_plan_space_plan(&s, x, &q, NULL), BB_OK);
        ck_assert_int_eq(bb_plan_space_indices(&s, &q, back, NULL), BB_OK);
        ck_assert_mem_eq(x, back, sizeof x);
        bb_free(text);
        bb_free(named);
        bb_plan_done(&p);
        bb_plan_done(&q);
    }
    bb_plan_space_done(&s);
}
END_TEST

START_TEST(broken_plan_spaces_are_refused)
{
    static const bb_plan_option good[] = { { "a", 0 }, { "b", 1 } }, spaced[] = { { "a", 0 }, { "b c", 1 } };
    const bb_plan_unit          whole[] = { { "kv", 0, 0, -1, 2, good }, { "q", 0, 0, 0, 2, good }, { "k", 0, 0, 0, 2, good } };
    static const char *const    said[] = { "two units are called kv", "no name",       "names are printable",
                                           "should be 1 to",          "as controller", "has a controller itself",
                                           "option 1 has no name" };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        bb_plan_unit  units[3];
        bb_plan_space s;
        bb_err        err = BB_ERR_INIT;
        memcpy(units, whole, sizeof units);
        if (i == 0) units[2].name = "kv";
        if (i == 1) units[1].name = NULL;
        if (i == 2) units[1].name = "a=b";
        if (i == 3) units[1].n_options = 0;
        if (i == 4) units[1].controller = 3;
        if (i == 5) units[1].controller = 2;
        if (i == 6) units[2].options = spaced;
        ck_assert_int_eq(bb_plan_space_init(&s, units, 3, &err), BB_USAGE);
        ck_assert_msg(strstr(err.msg, said[i]), "%s", err.msg);
        ck_assert_ptr_null(s.order);
    }
}
END_TEST

START_TEST(broken_plans_are_refused)
{
    static const char *const bad[] = { "x", "=a\n", "a=\n", "a=b=c\n", "\n", "a=1\na=2\n", "a =1\n", "a=1\r\n", "\xc3\xa4=1\n", "a=1\n\nb=2\n" };
    bb_plan                  p = { 0, NULL };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        bb_err err = BB_ERR_INIT;
        ck_assert_msg(bb_plan_parse(bad[i], strlen(bad[i]), &p, &err) == BB_BAD_FILE, "'%s' passed", bad[i]);
        ck_assert(err.msg[0]);
    }
    ck_assert_int_eq(bb_plan_parse("a=\0b\n", 5, &p, NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_plan_parse("a=1\0b\n", 6, &p, NULL), BB_BAD_FILE);
    char *line = malloc(10000);
    memset(line, 'a', 10000);
    ck_assert_int_eq(bb_plan_parse(line, 10000, &p, NULL), BB_BAD_FILE);
    line[1] = '='; /* nothing is wrong with it but its length */
    ck_assert_int_eq(bb_plan_parse(line, 10000, &p, NULL), BB_BAD_FILE);
    free(line);
    ck_assert_int_eq(bb_plan_set(&p, "a b", "c", NULL), BB_BAD_FILE);
    ck_assert_int_eq(bb_plan_set(&p, "a", "", NULL), BB_BAD_FILE);
    ck_assert_uint_eq(p.n, 0);
}
END_TEST

START_TEST(plans_survive_every_failed_allocation)
{
    size_t    before = bb_mem_live_bytes();
    bb_status status = BB_NOMEM;
    for (long n = 0; status != BB_OK; n++) {
        bb_plan p = { 0, NULL };
        ck_assert_int_lt(n, 200);
        bb_mem_fail_after(n);
        status = bb_plan_parse(plan_text, strlen(plan_text), &p, NULL);
        if (status == BB_OK) status = bb_plan_set(&p, "middle", "1", NULL);
        if (status == BB_OK) status = bb_plan_set(&p, "middle", "2", NULL);
        bb_mem_fail_after(-1);
        bb_plan_done(&p);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
}
END_TEST

/* ---- log ---- */

START_TEST(the_log_file_hears_what_the_terminal_does_not)
{
    const char *path = bb_test_path("log.txt");
    char       *data;
    size_t      size;
    bb_progress p;
    bb_log_set_level(BB_LOG_QUIET);
    ck_assert_int_eq(bb_log_to_file(path, NULL), BB_OK);
    bb_info("one %d", 1);
    bb_warn("two");
    bb_debug("never");
    bb_progress_start(&p, "work", 10000);
#pragma omp parallel for
    for (int i = 0; i < 10000; i++) bb_progress_add(&p, 1);
    ck_assert_uint_eq(p.done, 10000);
    bb_progress_end(&p);
    ck_assert_int_eq(bb_log_to_file(NULL, NULL), BB_OK);
    bb_log_set_level(BB_LOG_INFO);
    ck_assert_int_eq(bb_file_read(path, &data, &size, NULL), BB_OK);
    ck_assert_ptr_nonnull(strstr(data, "Z one 1\n"));
    ck_assert_ptr_nonnull(strstr(data, "Z warning: two\n"));
    ck_assert_ptr_nonnull(strstr(data, "work: 10000/10000"));
    ck_assert_ptr_null(strstr(data, "never"));
    bb_free(data);
    ck_assert_int_eq(bb_log_to_file(bb_test_path("no/such/log"), NULL), BB_IO);
}
END_TEST

static char *log_of(const char *path)
{
    char  *data;
    size_t size;
    ck_assert_int_eq(bb_file_read(path, &data, &size, NULL), BB_OK);
    return data;
}

/* Times become 0.0s: this machine may be busy. */
static void forget_times(char *text)
{
    for (size_t i = 3, n = strlen(text); i < n; i++)
        if (text[i] == 's' && text[i - 1] >= '0' && text[i - 1] <= '9' && text[i - 2] == '.' && text[i - 3] >= '0' && text[i - 3] <= '9')
            text[i - 1] = text[i - 3] = '0';
}

/* Both log files hear the same; what stands inside something is shown behind it, and found things do not count for the speed. */
START_TEST(progress_is_in_both_logs)
{
    char        path[2][256], *a, *b;
    bb_progress outer, inner;
    snprintf(path[0], sizeof path[0], "%s", bb_test_path("mine.txt"));
    snprintf(path[1], sizeof path[1], "%s", bb_test_path("runs.txt"));
    bb_log_set_level(BB_LOG_QUIET);
    ck_assert_int_eq(setenv("BB_PROGRESS_S", "0", 1), 0);
    ck_assert_int_eq(bb_log_to_file(path[0], NULL), BB_OK);
    ck_assert_int_eq(bb_log_to_run(path[1], NULL), BB_OK);
    bb_progress_start(&outer, "files", 3);
    bb_progress_add(&outer, 1);
    bb_progress_start(&inner, "rows", 400);
    bb_progress_skip(&inner, 300); /* nothing is known about the speed */
    bb_progress_add(&inner, 50);
    bb_progress_end(&outer); /* also ends what an error left open */
    bb_progress_start(&inner, "odds", 0);
    bb_progress_add(&inner, 7);
    bb_progress_end(&inner);
    ck_assert_int_eq(bb_log_to_run(NULL, NULL), BB_OK);
    bb_info("alone");
    ck_assert_int_eq(bb_log_to_file(NULL, NULL), BB_OK);
    bb_log_set_level(BB_LOG_INFO);
    unsetenv("BB_PROGRESS_S");
    a = log_of(path[0]);
    b = log_of(path[1]);
    forget_times(a);
    forget_times(b);
    ck_assert_ptr_nonnull(strstr(a, "files: 1/3 (33%) 0.0s, left 0.0s\n"));
    ck_assert_ptr_nonnull(strstr(a, "left 0.0s; rows: 300/400 (75%) 0.0s\n"));
    ck_assert_ptr_nonnull(strstr(a, "left 0.0s; rows: 350/400 (87%) 0.0s, left 0.0s\n"));
    ck_assert_ptr_nonnull(strstr(a, "Z odds: 0.0s\n"));
    char *last = strstr(a, "alone");
    ck_assert_ptr_nonnull(last);
    ck_assert_ptr_null(strstr(b, "alone"));
    ck_assert_uint_gt(strlen(b), 100);
    ck_assert_int_eq(strncmp(a, b, strlen(b)), 0);
    bb_free(a);
    bb_free(b);
}
END_TEST

/* What is over sooner than a plain line is due has no line of its own inside something longer: a batch has such a stage each. */
START_TEST(a_short_stage_inside_another_ends_without_a_line)
{
    const char *path = bb_test_path("nested.txt");
    bb_progress outer, inner;
    char       *text;
    bb_log_set_level(BB_LOG_QUIET);
    ck_assert_int_eq(setenv("BB_PROGRESS_S", "3600", 1), 0);
    ck_assert_int_eq(bb_log_to_file(path, NULL), BB_OK);
    bb_progress_start(&outer, "samples", 3);
    for (int i = 0; i < 3; i++) {
        bb_progress_start(&inner, "windows", 1);
        bb_progress_add(&inner, 1);
        if (i == 2) ck_assert_int_eq(setenv("BB_PROGRESS_S", "0", 1), 0); /* the last one took as long as that */
        bb_progress_end(&inner);
        ck_assert_int_eq(setenv("BB_PROGRESS_S", "3600", 1), 0);
        bb_progress_add(&outer, 1);
    }
    bb_progress_end(&outer);
    ck_assert_int_eq(bb_log_to_file(NULL, NULL), BB_OK);
    bb_log_set_level(BB_LOG_INFO);
    unsetenv("BB_PROGRESS_S");
    text = log_of(path);
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, "Z windows: 1/1 in ")); at++) n++;
    ck_assert_msg(n == 1 && strstr(text, "Z samples: 3/3 in "), "%s", text);
    bb_free(text);
}
END_TEST

/* A step that takes long is not silent: the line comes without one. */
START_TEST(a_long_step_is_not_silent)
{
    const char *path = bb_test_path("slow.txt");
    bb_progress p;
    char       *text;
    bb_log_set_level(BB_LOG_QUIET);
    ck_assert_int_eq(setenv("BB_PROGRESS_S", "0.2", 1), 0);
    ck_assert_int_eq(bb_log_to_file(path, NULL), BB_OK);
    bb_progress_start(&p, "one long step", 2);
    for (double until = bb_now_s() + 10; bb_now_s() < until;) {
        nanosleep(&(struct timespec) { 0, 100000000 }, NULL);
        text = log_of(path);
        const bool said = strstr(text, "one long step: 0/2 (0%)") != NULL;
        bb_free(text);
        if (said) break;
    }
    text = log_of(path);
    ck_assert_msg(strstr(text, "one long step: 0/2 (0%)") != NULL, "ten seconds without a line");
    bb_free(text);
    bb_progress_end(&p);
    ck_assert_int_eq(bb_log_to_file(NULL, NULL), BB_OK);
    bb_log_set_level(BB_LOG_INFO);
    unsetenv("BB_PROGRESS_S");
}
END_TEST

START_TEST(signals_raise_the_flag)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGUSR1 };
    bb_interrupt_install();
    for (int i = 0; i < 3; i++) {
        bb_interrupt_clear();
        ck_assert(!bb_interrupted());
        raise(signals[i]);
        ck_assert(bb_interrupted());
    }
    bb_interrupt_clear();
    bb_interrupt_raise();
    ck_assert(bb_interrupted());
    bb_interrupt_clear();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base");
    TCase *t = tcase_create("core");
    tcase_add_test(t, sha256_gives_the_nist_examples);
    tcase_add_test(t, fields_of_a_hash_cannot_run_together);
    tcase_add_test(t, hash64_changes_half_of_the_bits_and_knows_lengths);
    tcase_add_test(t, xoshiro_gives_the_published_stream);
    tcase_add_test(t, streams_differ_and_repeat);
    tcase_add_test(t, moments_and_ranges_are_right);
    tcase_add_test(t, sizes_are_parsed);
    tcase_add_test(t, times_are_parsed);
    tcase_add_test(t, numbers_are_parsed_whole);
    tcase_add_test(t, sizes_and_times_are_printed);
    tcase_add_test(t, comma_lists);
    tcase_add_test(t, bytes_become_utf8);
    tcase_add_test(t, text_grows_and_fails_cleanly);
    tcase_add_test(t, files_are_replaced_whole_or_not_at_all);
    tcase_add_test(t, a_full_disk_keeps_the_old_file);
    tcase_add_test(t, odd_files_are_refused_with_a_reason);
    tcase_add_test(t, a_released_map_is_read_again);
    tcase_add_test(t, memory_shrinks_in_place);
    tcase_add_test(t, plans_print_and_parse_to_the_same);
    tcase_add_test(t, plans_by_indices_are_the_plans_by_name);
    tcase_add_test(t, broken_plan_spaces_are_refused);
    tcase_add_test(t, broken_plans_are_refused);
    tcase_add_test(t, plans_survive_every_failed_allocation);
    tcase_add_test(t, the_log_file_hears_what_the_terminal_does_not);
    tcase_add_test(t, progress_is_in_both_logs);
    tcase_add_test(t, a_short_stage_inside_another_ends_without_a_line);
    tcase_add_test(t, a_long_step_is_not_silent);
    tcase_add_test(t, signals_raise_the_flag);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
