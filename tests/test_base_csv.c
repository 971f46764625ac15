/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_base_csv.c: tables read and written as RFC 4180 says; oracle: the bytes, written out by hand. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/mem.h"
#include "tests/support/support.h"

static bb_status read_text(const char *text, bb_csv *t, bb_err *err)
{
    const char *path = bb_test_path("in.csv");
    bb_test_write(path, text, strlen(text));
    return bb_csv_read(path, t, err);
}

static void write_sample(const char *path)
{
    bb_csv_writer *w;
    ck_assert_int_eq(bb_csv_create(path, "name,n,x", &w, NULL), BB_OK);
    bb_csv_put_text(w, "plain");
    bb_csv_put_int(w, INT64_MIN);
    bb_csv_put_double(w, 0.1);
    bb_csv_end_row(w);
    bb_csv_put_text(w, "a \"b\", c\nd");
    bb_csv_put_int(w, 0);
    bb_csv_put_double(w, (double)NAN);
    bb_csv_end_row(w);
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
}

/* Cells by their types: the same bytes as one by one; a row may go on. */
START_TEST(rows_are_put_by_type)
{
    const char    *path = bb_test_path("row.csv");
    char          *data, name[] = "a \"b\", c\nd";
    size_t         size;
    uint16_t       zero = 0;
    bb_csv_writer *w;
    ck_assert_int_eq(bb_csv_create(path, "name,n,x", &w, NULL), BB_OK);
    BB_ROW(w, "plain", INT64_MIN, 0.1);
    BB_PUT(w, name, zero);
    BB_ROW(w, (double)NAN);
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(path, &data, &size, NULL), BB_OK);
    ck_assert_str_eq(data, "name,n,x\r\nplain,-9223372036854775808,0.1\r\n\"a \"\"b\"\", c\nd\",0,\r\n");
    bb_free(data);
    ck_assert_int_eq(bb_csv_create(path, "a,b,c,d,e,f,g,h,i,j,k,l", &w, NULL), BB_OK);
    BB_ROW(w, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, "12");
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
    ck_assert_int_eq(bb_file_read(path, &data, &size, NULL), BB_OK);
    ck_assert_str_eq(data, "a,b,c,d,e,f,g,h,i,j,k,l\r\n1,2,3,4,5,6,7,8,9,10,11,12\r\n");
    bb_free(data);
}
END_TEST

START_TEST(only_cells_that_need_it_are_quoted)
{
    const char *path = bb_test_path("out.csv");
    char       *data;
    size_t      size;
    write_sample(path);
    ck_assert_int_eq(bb_file_read(path, &data, &size, NULL), BB_OK);
    ck_assert_str_eq(data, "name,n,x\r\nplain,-9223372036854775808,0.1\r\n\"a \"\"b\"\", c\nd\",0,\r\n");
    bb_free(data);
}
END_TEST

/* Each of the characters that need quotes, alone in its cell. */
START_TEST(every_reason_to_quote)
{
    static const char *const cells[] = { "a,b", "a\"b", "a\nb", "a\rb", "", " a " };
    const char              *path = bb_test_path("quotes.csv");
    bb_csv_writer           *w = NULL;
    bb_csv                   t;
    ck_assert_int_eq(bb_csv_create(path, "x,y", &w, NULL), BB_OK);
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        bb_csv_put_text(w, cells[i]);
        bb_csv_put_text(w, "end");
        bb_csv_end_row(w);
    }
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    ck_assert_uint_eq(t.n_rows, sizeof cells / sizeof *cells);
    for (size_t i = 0; i < t.n_rows; i++) {
        ck_assert_str_eq(bb_csv_text(&t, i, 0), cells[i]);
        ck_assert_str_eq(bb_csv_text(&t, i, 1), "end");
    }
    bb_csv_done(&t);
}
END_TEST

START_TEST(what_is_written_is_read)
{
    const char *path = bb_test_path("out.csv");
    bb_csv      t;
    int64_t     n;
    double      x;
    write_sample(path);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    ck_assert_uint_eq(t.n_rows, 2);
    ck_assert_uint_eq(t.n_cols, 3);
    ck_assert_int_eq(bb_csv_column(&t, "x"), 2);
    ck_assert_int_eq(bb_csv_column(&t, "y"), -1);
    ck_assert_str_eq(bb_csv_text(&t, 1, 0), "a \"b\", c\nd");
    ck_assert_int_eq(bb_csv_int(&t, 0, 1, &n, NULL), BB_OK);
    ck_assert_int_eq(n, INT64_MIN);
    ck_assert_int_eq(bb_csv_double(&t, 0, 2, &x, NULL), BB_OK);
    ck_assert_double_eq(x, 0.1);
    ck_assert_int_eq(bb_csv_double(&t, 1, 2, &x, NULL), BB_OK);
    ck_assert(isnan(x));
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_csv_double(&t, 1, 0, &x, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "row 3 column name"));
    ck_assert_int_eq(bb_csv_int(&t, 0, 2, &n, NULL), BB_BAD_FILE);
    bb_csv_done(&t);
}
END_TEST

/* Spaces are part of a cell (RFC 4180), so a number with one is none; and numbers keep nine digits. */
START_TEST(numbers_are_read_whole)
{
    static const char *const bad[] = { " 1", "1 ", "\t1", "\v1", "1x", "x", "+", "\"\n1\"", "\" \"" };
    const char              *path = bb_test_path("numbers.csv");
    bb_csv_writer           *w;
    bb_csv                   t;
    double                   x;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[32];
        snprintf(text, sizeof text, "a,b\r\n%s,1\r\n", bad[i]);
        ck_assert_int_eq(read_text(text, &t, NULL), BB_OK);
        ck_assert_msg(bb_csv_double(&t, 0, 0, &x, NULL) == BB_BAD_FILE, "'%s' passed", bad[i]);
        bb_csv_done(&t);
    }
    ck_assert_int_eq(bb_csv_create(path, "x,y", &w, NULL), BB_OK);
    BB_ROW(w, 1234567.75, -(double)INFINITY);
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    ck_assert_int_eq(bb_csv_double(&t, 0, 0, &x, NULL), BB_OK);
    ck_assert_double_eq(x, 1234567.75);
    ck_assert_int_eq(bb_csv_double(&t, 0, 1, &x, NULL), BB_OK);
    ck_assert(isinf(x) && x < 0);
    bb_csv_done(&t);
}
END_TEST

START_TEST(a_lone_empty_cell_survives)
{
    const char    *path = bb_test_path("one.csv");
    bb_csv_writer *w;
    bb_csv         t;
    ck_assert_int_eq(bb_csv_create(path, "x", &w, NULL), BB_OK);
    bb_csv_put_double(w, (double)NAN);
    bb_csv_end_row(w);
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
    ck_assert_int_eq(bb_csv_read(path, &t, NULL), BB_OK);
    ck_assert_uint_eq(t.n_rows, 1);
    bb_csv_done(&t);
}
END_TEST

START_TEST(an_interrupted_table_leaves_nothing)
{
    const char    *path = bb_test_path("dropped.csv");
    bb_csv_writer *w;
    ck_assert_int_eq(bb_csv_create(path, "x", &w, NULL), BB_OK);
    bb_csv_put_int(w, 1);
    bb_csv_discard(w);
    ck_assert(!bb_file_exists(path));
    w = NULL;
    ck_assert_int_eq(bb_csv_close(&w, NULL), BB_OK);
    bb_csv_discard(NULL);
}
END_TEST

START_TEST(spaces_marks_and_line_ends_are_kept_or_skipped)
{
    bb_csv t;
    ck_assert_int_eq(read_text("\xef\xbb\xbf"
                               "a,b\n x , y\n\n\"\",\" q \"",
                               &t, NULL),
                     BB_OK);
    ck_assert_str_eq(t.header[0], "a");
    ck_assert_uint_eq(t.n_rows, 2);
    ck_assert_str_eq(bb_csv_text(&t, 0, 0), " x ");
    ck_assert_str_eq(bb_csv_text(&t, 1, 0), "");
    ck_assert_str_eq(bb_csv_text(&t, 1, 1), " q ");
    bb_csv_done(&t);
}
END_TEST

START_TEST(broken_tables_are_refused_with_their_row)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        { "", "is empty" },
        { "a,b\r\n1\r\n", "row 2: 1 cells, expected 2" },
        { "a,b\r\n1,2\r\n1,2,3\r\n", "row 3: 3 cells, expected 2" },
        { "a,b\r\n1,\"2\r\n", "quote" },
        { "a,b\r\n1,x\"y\"\r\n", "quote" },
    };
    bb_csv t;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        bb_err err = BB_ERR_INIT;
        ck_assert_int_eq(read_text(bad[i].text, &t, &err), BB_BAD_FILE);
        ck_assert_msg(strstr(err.msg, bad[i].says) != NULL, "'%s' lacks '%s'", err.msg, bad[i].says);
    }
    const char *path = bb_test_path("nul.csv");
    bb_test_write(path, "a,b\n1,\0\n", 8);
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_csv_read(path, &t, &err), BB_BAD_FILE);
    ck_assert_ptr_nonnull(strstr(err.msg, "NUL"));
    ck_assert_int_eq(bb_csv_read(bb_test_path("absent.csv"), &t, NULL), BB_BAD_FILE);
}
END_TEST

START_TEST(reading_survives_every_failed_allocation)
{
    const char *path = bb_test_path("out.csv");
    bb_status   status = BB_NOMEM;
    write_sample(path);
    size_t before = bb_mem_live_bytes();
    for (long n = 0; status != BB_OK; n++) {
        bb_csv t;
        ck_assert_int_lt(n, 100);
        bb_mem_fail_after(n);
        status = bb_csv_read(path, &t, NULL);
        bb_mem_fail_after(-1);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        if (status == BB_OK) bb_csv_done(&t);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("csv");
    TCase *t = tcase_create("core");
    tcase_add_test(t, only_cells_that_need_it_are_quoted);
    tcase_add_test(t, rows_are_put_by_type);
    tcase_add_test(t, every_reason_to_quote);
    tcase_add_test(t, what_is_written_is_read);
    tcase_add_test(t, numbers_are_read_whole);
    tcase_add_test(t, a_lone_empty_cell_survives);
    tcase_add_test(t, an_interrupted_table_leaves_nothing);
    tcase_add_test(t, spaces_marks_and_line_ends_are_kept_or_skipped);
    tcase_add_test(t, broken_tables_are_refused_with_their_row);
    tcase_add_test(t, reading_survives_every_failed_allocation);
    suite_add_tcase(s, t);
    return bb_test_run(s);
}
