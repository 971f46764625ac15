/* SPDX-License-Identifier: GPL-3.0-or-later
 * csv.h: RFC 4180 tables through libcsv (the only user of it).
 *
 * Reading: the whole table is held as strings; the first row is the header. Every row must have as many cells as the
 * header (BB_BAD_FILE names file, row and counts otherwise). Writing: CRLF line ends, cells quoted only when they need it
 * (libcsv's own writer quotes every cell, which makes numbers into text for plotting programs), numbers unquoted, file
 * replaced atomically at close.
 */
#ifndef BB_BASE_CSV_H
#define BB_BASE_CSV_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

typedef struct bb_csv {
    size_t n_rows, n_cols; /* n_rows counts data rows, without the header */
    char **header;         /* [n_cols] */
    char **cells;          /* [n_rows * n_cols] row-major, never NULL */
    char  *path;           /* for messages */
    char  *bytes;          /* what header and cells point into */
} bb_csv;

bb_status   bb_csv_read(const char *path, bb_csv *t, bb_err *err);
void        bb_csv_done(bb_csv *t);
long        bb_csv_column(const bb_csv *t, const char *name);                                 /* -1 when absent */
const char *bb_csv_text(const bb_csv *t, size_t row, size_t col);                             /* borrows */
bb_status   bb_csv_double(const bb_csv *t, size_t row, size_t col, double *out, bb_err *err); /* full-consumption strtod; an empty cell is NaN */
bb_status   bb_csv_int(const bb_csv *t, size_t row, size_t col, int64_t *out, bb_err *err);

/* One cell, for a stream that is no file of a writer's. lone: it is all of its row, which would be an empty line, and be skipped, if it were empty. */
void bb_csv_write_cell(FILE *f, const char *text, bool lone);

typedef struct bb_csv_writer bb_csv_writer;
bb_status                    bb_csv_create(const char *path, const char *header /* "a,b,c" */, bb_csv_writer **w, bb_err *err);
/* Cells of one row, in header order; a mismatch with the header at row end is a BB_ASSERT. */
void bb_csv_put_text(bb_csv_writer *w, const char *text);
void bb_csv_put_int(bb_csv_writer *w, int64_t value);
void bb_csv_put_double(bb_csv_writer *w, double value); /* %.9g; NaN is an empty cell */
void bb_csv_end_row(bb_csv_writer *w);

/* Several cells at once, each by its type: texts, doubles, and all else as an int64_t. BB_ROW(w, name, bytes, kl) is a whole row; after BB_PUT the row
 * goes on. At most 12 cells. */
typedef struct bb_cell {
    enum { BB_CELL_TEXT, BB_CELL_INT, BB_CELL_DOUBLE } kind;
    const char *text;
    int64_t     whole;
    double      real;
} bb_cell;
static inline bb_cell bb_cell_text(const char *text) { return (bb_cell) { BB_CELL_TEXT, text, 0, 0 }; }
static inline bb_cell bb_cell_int(int64_t whole) { return (bb_cell) { BB_CELL_INT, NULL, whole, 0 }; }
static inline bb_cell bb_cell_double(double real) { return (bb_cell) { BB_CELL_DOUBLE, NULL, 0, real }; }
void                  bb_csv_put(bb_csv_writer *w, const bb_cell *cells, size_t n);

#define BB_CELL(x) _Generic((x), char * : bb_cell_text, const char * : bb_cell_text, double : bb_cell_double, default : bb_cell_int)(x)
#define BB_CELLS_1(a) BB_CELL(a)
#define BB_CELLS_2(a, ...) BB_CELL(a), BB_CELLS_1(__VA_ARGS__)
#define BB_CELLS_3(a, ...) BB_CELL(a), BB_CELLS_2(__VA_ARGS__)
#define BB_CELLS_4(a, ...) BB_CELL(a), BB_CELLS_3(__VA_ARGS__)
#define BB_CELLS_5(a, ...) BB_CELL(a), BB_CELLS_4(__VA_ARGS__)
#define BB_CELLS_6(a, ...) BB_CELL(a), BB_CELLS_5(__VA_ARGS__)
#define BB_CELLS_7(a, ...) BB_CELL(a), BB_CELLS_6(__VA_ARGS__)
#define BB_CELLS_8(a, ...) BB_CELL(a), BB_CELLS_7(__VA_ARGS__)
#define BB_CELLS_9(a, ...) BB_CELL(a), BB_CELLS_8(__VA_ARGS__)
#define BB_CELLS_10(a, ...) BB_CELL(a), BB_CELLS_9(__VA_ARGS__)
#define BB_CELLS_11(a, ...) BB_CELL(a), BB_CELLS_10(__VA_ARGS__)
#define BB_CELLS_12(a, ...) BB_CELL(a), BB_CELLS_11(__VA_ARGS__)
#define BB_CELLS_OF(a, b, c, d, e, f, g, h, i, j, k, l, name, ...) name
#define BB_CELLS(...) \
    BB_CELLS_OF(__VA_ARGS__, BB_CELLS_12, BB_CELLS_11, BB_CELLS_10, BB_CELLS_9, BB_CELLS_8, BB_CELLS_7, BB_CELLS_6, BB_CELLS_5, BB_CELLS_4, BB_CELLS_3, \
                BB_CELLS_2, BB_CELLS_1, 0) \
    (__VA_ARGS__)
#define BB_PUT(w, ...) bb_csv_put((w), (const bb_cell[]) { BB_CELLS(__VA_ARGS__) }, sizeof(const bb_cell[]) { BB_CELLS(__VA_ARGS__) } / sizeof(bb_cell))
#define BB_ROW(w, ...) \
    do { \
        BB_PUT(w, __VA_ARGS__); \
        bb_csv_end_row(w); \
    } while (0)

bb_status bb_csv_close(bb_csv_writer **w, bb_err *err); /* commits and frees; *w is NULL afterwards, and may be before */
void      bb_csv_discard(bb_csv_writer *w);             /* aborts and frees; w may be NULL */

#endif
