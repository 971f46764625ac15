/* SPDX-License-Identifier: GPL-3.0-or-later
 * fuzz_base.c: any bytes may be given to the parsers of plans, tables and settings. The first byte chooses the parser.
 *
 * Properties: no memory error, no leak; a failure is BB_BAD_FILE with a sentence without control bytes; what parses, printed and parsed again,
 * is the same: plan text, the cells of a table, the resolved settings.
 */
#include <ctype.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/plan.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/support.h"

static void require(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "fuzz_base: %s\n", what);
    abort();
}

static void check_failure(bb_status status, const bb_err *err)
{
    require(status == BB_BAD_FILE && err->status == BB_BAD_FILE, "a failure with another status");
    require(err->msg[0] != '\0', "a failure without a sentence");
    for (const char *p = err->msg; *p; p++) require(!iscntrl((unsigned char)*p), "a sentence with a control byte");
}

static void try_plan(const char *data, size_t size)
{
    bb_plan   p = { 0, NULL }, q = { 0, NULL };
    bb_err    err = BB_ERR_INIT;
    bb_status status = bb_plan_parse(data, size, &p, &err);
    if (status != BB_OK) {
        check_failure(status, &err);
        return;
    }
    char *text, *again;
    require(bb_plan_print(&p, &text, NULL) == BB_OK, "a plan that parses cannot be printed");
    require(bb_plan_parse(text, strlen(text), &q, NULL) == BB_OK, "a printed plan does not parse");
    require(bb_plan_print(&q, &again, NULL) == BB_OK && strcmp(text, again) == 0, "a plan changes when printed and parsed");
    bb_free(text);
    bb_free(again);
    bb_plan_done(&p);
    bb_plan_done(&q);
}

static void try_csv(const char *data, size_t size)
{
    const char    *path = bb_test_path("in.csv"), *copy = bb_test_path("copy.csv");
    bb_csv         t, u;
    bb_err         err = BB_ERR_INIT;
    bb_csv_writer *w;
    bb_text        header = { 0 };
    bb_test_write(path, data, size);
    bb_status status = bb_csv_read(path, &t, &err);
    if (status != BB_OK) {
        check_failure(status, &err);
        return;
    }
    /* The writer takes a header without quoting: numbered columns, then the old header as the first row. */
    for (size_t c = 0; c < t.n_cols; c++) bb_text_addf(&header, "%s%zu", c ? "," : "", c);
    require(bb_csv_create(copy, header.data, &w, NULL) == BB_OK, "a table cannot be written");
    for (size_t r = 0; r <= t.n_rows; r++) {
        for (size_t c = 0; c < t.n_cols; c++) bb_csv_put_text(w, r == 0 ? t.header[c] : bb_csv_text(&t, r - 1, c));
        bb_csv_end_row(w);
    }
    require(bb_csv_close(&w, NULL) == BB_OK && bb_csv_read(copy, &u, NULL) == BB_OK, "a written table cannot be read");
    require(u.n_cols == t.n_cols && u.n_rows == t.n_rows + 1, "a table changes its shape");
    for (size_t r = 0; r <= t.n_rows; r++)
        for (size_t c = 0; c < t.n_cols; c++) require(strcmp(bb_csv_text(&u, r, c), r == 0 ? t.header[c] : bb_csv_text(&t, r - 1, c)) == 0, "a cell changes");
    bb_text_done(&header);
    bb_csv_done(&t);
    bb_csv_done(&u);
}

typedef struct settings {
    bool     flag;
    int64_t  whole;
    double   real;
    uint64_t size;
    char    *text, *list;
} settings;

static const bb_option_row rows[] = {
    { "flag", BB_OPT_FLAG, offsetof(settings, flag), "true", 1, 0, NULL, "", NULL },
    { "whole", BB_OPT_INT, offsetof(settings, whole), "1", -5, 1e6, "N", "", NULL },
    { "real", BB_OPT_DOUBLE, offsetof(settings, real), "0.5", 1, 0, "X", "", NULL },
    { "size", BB_OPT_SIZE, offsetof(settings, size), NULL, 1, 0, "SIZE", "", NULL },
    { "text", BB_OPT_TEXT, offsetof(settings, text), NULL, 1, 0, "TEXT", "", NULL },
    { "list", BB_OPT_LIST, offsetof(settings, list), NULL, 1, 0, "LIST", "", "a|b|c" },
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static void try_yaml(const char *data, size_t size)
{
    const char *path = bb_test_path("in.yaml");
    settings    v, w;
    bb_text     first = { 0 }, second = { 0 };
    bb_err      err = BB_ERR_INIT;
    bb_test_write(path, data, size);
    require(bb_options_defaults(rows, N_ROWS, &v, NULL) == BB_OK && bb_options_defaults(rows, N_ROWS, &w, NULL) == BB_OK, "the defaults fail");
    bb_status status = bb_options_yaml(rows, N_ROWS, &v, path, &err);
    if (status != BB_OK) {
        check_failure(status, &err);
    } else {
        bb_options_print_yaml(rows, N_ROWS, &v, &first);
        bb_test_write(path, first.data, first.size);
        require(bb_options_yaml(rows, N_ROWS, &w, path, NULL) == BB_OK, "resolved settings cannot be read");
        bb_options_print_yaml(rows, N_ROWS, &w, &second);
        require(strcmp(first.data, second.data) == 0, "settings change when printed and read");
    }
    bb_text_done(&first);
    bb_text_done(&second);
    bb_options_done(rows, N_ROWS, &v);
    bb_options_done(rows, N_ROWS, &w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t      before = bb_mem_live_bytes();
    const char *rest = (const char *)data + 1;
    if (size == 0) return 0;
    if (data[0] % 3 == 0) try_plan(rest, size - 1);
    else if (data[0] % 3 == 1) try_csv(rest, size - 1);
    else try_yaml(rest, size - 1);
    require(bb_mem_live_bytes() == before, "memory was not freed");
    return 0;
}

bool fuzz_seed(unsigned i, unsigned char **data, size_t *size)
{
    static const char *const seeds[] = {
        "0blk.0.attn_q=Q4_K\nblk.0.ffn=192\nblk.0.kv=2\noutput=Q6_K\ntoken_embd=Q4_K\n",
        "1a,b\r\n1,2.5\r\n\"x \"\"y\"\"\",\"1,\n2\"\r\n",
        "1x\n\"\"\n\n1\n",
        "2# settings\nflag: off\nwhole: 7\nreal: -1.5e-3\nsize: 3.2MiB\ntext: \"a\\tb\"\nlist: [a, b]\n",
        "2{text: ~, list: \"a,b\", whole: 3}\n",
        "2text: |\n  two\n  lines\n",
    };
    if (i >= sizeof seeds / sizeof *seeds) return false;
    *size = strlen(seeds[i]);
    *data = (unsigned char *)bb_strdup(seeds[i], NULL);
    return *data != NULL;
}
