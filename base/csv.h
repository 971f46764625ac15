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

#include <stdint.h>

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
long        bb_csv_column(const bb_csv *t, const char *name);            /* -1 when absent */
const char *bb_csv_text(const bb_csv *t, size_t row, size_t col);        /* borrows */
bb_status   bb_csv_double(const bb_csv *t, size_t row, size_t col, double *out, bb_err *err); /* full-consumption strtod; an empty cell is NaN */
bb_status   bb_csv_int(const bb_csv *t, size_t row, size_t col, int64_t *out, bb_err *err);

typedef struct bb_csv_writer bb_csv_writer;
bb_status bb_csv_create(const char *path, const char *header /* "a,b,c" */, bb_csv_writer **w, bb_err *err);
/* Cells of one row, in header order; a mismatch with the header at row end is a BB_ASSERT. */
void      bb_csv_put_text(bb_csv_writer *w, const char *text);
void      bb_csv_put_int(bb_csv_writer *w, int64_t value);
void      bb_csv_put_double(bb_csv_writer *w, double value); /* %.9g; NaN is an empty cell */
void      bb_csv_end_row(bb_csv_writer *w);
bb_status bb_csv_close(bb_csv_writer **w, bb_err *err);      /* commits and frees; *w is NULL afterwards, and may be before */
void      bb_csv_discard(bb_csv_writer *w);                  /* aborts and frees; w may be NULL */

#endif
