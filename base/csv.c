/* SPDX-License-Identifier: GPL-3.0-or-later
 * csv.c: see csv.h. */
#include "base/csv.h"

#include <csv.h>
#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"

/* ---- reading ---- */

typedef struct reader {
    bb_csv   *t;
    bb_err   *err;
    bb_text   bytes; /* the cells, each NUL-terminated */
    size_t   *start; /* [n_cells] offsets into bytes */
    size_t    n_cells, capacity;
    size_t    row, in_row; /* rows ended so far; cells in the present row */
    bb_status status;
} reader;

static void on_cell(void *cell, size_t size, void *self)
{
    reader *r = self;
    if (r->status != BB_OK) return;
    if (memchr(cell ? cell : "", '\0', size)) {
        r->status = BB_FAIL(r->err, BB_BAD_FILE, "%s row %zu: a cell holds a NUL byte", r->t->path, r->row + 1);
        return;
    }
    if (r->n_cells == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : 64, *p = bb_realloc(r->start, capacity, sizeof *p, r->err);
        if (!p) {
            r->status = BB_NOMEM;
            return;
        }
        r->start = p;
        r->capacity = capacity;
    }
    r->start[r->n_cells++] = r->bytes.size;
    bb_text_addn(&r->bytes, size > 0 ? cell : "", size);
    bb_text_addn(&r->bytes, "", 1);
    if (r->bytes.status != BB_OK) r->status = BB_FAIL(r->err, BB_NOMEM, "out of memory while %s was read", r->t->path);
    r->in_row++;
}

static void on_row(int end, void *self)
{
    reader *r = self;
    (void)end;
    if (r->status != BB_OK) return;
    if (r->row == 0) r->t->n_cols = r->in_row;
    else if (r->in_row != r->t->n_cols)
        r->status = BB_FAIL(r->err, BB_BAD_FILE, "%s row %zu: %zu cells, expected %zu as in the header", r->t->path, r->row + 1, r->in_row, r->t->n_cols);
    r->row++;
    r->in_row = 0;
}

static int no_space(unsigned char c)
{
    (void)c; /* RFC 4180: spaces are part of a field; libcsv would strip them */
    return 0;
}

static void *grow(void *p, size_t size) { return bb_realloc(p, size, 1, NULL); }

static bb_status parse(reader *r, const bb_map *map)
{
    static const char bom[] = "\xef\xbb\xbf";
    struct csv_parser p;
    size_t            skip = map->size >= 3 && memcmp(map->data, bom, 3) == 0 ? 3 : 0;
    if (csv_init(&p, CSV_STRICT | CSV_STRICT_FINI) != 0) return BB_FAIL(r->err, BB_FAILED, "libcsv could not be initialised");
    csv_set_space_func(&p, no_space);
    csv_set_realloc_func(&p, grow);
    csv_set_free_func(&p, bb_free);
    csv_set_blk_size(&p, 4096);
    size_t size = map->size - skip;
    bool   good = (size == 0 || csv_parse(&p, map->data + skip, size, on_cell, on_row, r) == size) && csv_fini(&p, on_cell, on_row, r) == 0;
    int    code = csv_error(&p);
    csv_free(&p);
    if (r->status != BB_OK || good) return r->status;
    if (code == CSV_ENOMEM) return BB_FAIL(r->err, BB_NOMEM, "out of memory while %s was read", r->t->path);
    return BB_FAIL(r->err, BB_BAD_FILE, "%s row %zu: a quote is misplaced or not closed (RFC 4180)", r->t->path, r->row + 1);
}

/* Turns offsets into the pointers of the table; takes the bytes. */
static bb_status finish(reader *r)
{
    bb_csv *t = r->t;
    if (r->row == 0) return BB_FAIL(r->err, BB_BAD_FILE, "%s: is empty, expected a header row", t->path);
    t->header = BB_NEW(t->n_cols, char *, r->err);
    t->cells = BB_NEW(r->n_cells - t->n_cols, char *, r->err);
    if (!t->header || !t->cells) return BB_NOMEM;
    t->bytes = r->bytes.data;
    memset(&r->bytes, 0, sizeof r->bytes);
    t->n_rows = r->row - 1;
    for (size_t i = 0; i < r->n_cells; i++) {
        if (i < t->n_cols) t->header[i] = t->bytes + r->start[i];
        else t->cells[i - t->n_cols] = t->bytes + r->start[i];
    }
    return BB_OK;
}

bb_status bb_csv_read(const char *path, bb_csv *t, bb_err *err)
{
    bb_status status;
    bb_map    map = { 0 };
    reader    r = { .t = t, .err = err };
    memset(t, 0, sizeof *t);
    if (!(t->path = bb_strdup(path, err))) return BB_NOMEM;
    BB_TRY(bb_map_open(path, &map, err));
    BB_TRY(parse(&r, &map));
    BB_TRY(finish(&r));
done:
    bb_map_close(&map);
    bb_text_done(&r.bytes);
    bb_free(r.start);
    if (status != BB_OK) bb_csv_done(t);
    return status;
}

void bb_csv_done(bb_csv *t)
{
    bb_free(t->header);
    bb_free(t->cells);
    bb_free(t->bytes);
    bb_free(t->path);
    memset(t, 0, sizeof *t);
}

long bb_csv_column(const bb_csv *t, const char *name)
{
    for (size_t i = 0; i < t->n_cols; i++)
        if (strcmp(t->header[i], name) == 0) return (long)i;
    return -1;
}

const char *bb_csv_text(const bb_csv *t, size_t row, size_t col)
{
    BB_ASSERT(row < t->n_rows && col < t->n_cols);
    return t->cells[row * t->n_cols + col];
}

bb_status bb_csv_double(const bb_csv *t, size_t row, size_t col, double *out, bb_err *err)
{
    const char *s = bb_csv_text(t, row, col);
    char       *end;
    double      v = *s ? strtod(s, &end) : (double)NAN;
    if (*s && (end == s || *end || isspace((unsigned char)*s)))
        return BB_FAIL(err, BB_BAD_FILE, "%s row %zu column %s: '%s' is not a number", t->path, row + 2, t->header[col], s);
    *out = v;
    return BB_OK;
}

bb_status bb_csv_int(const bb_csv *t, size_t row, size_t col, int64_t *out, bb_err *err)
{
    const char *s = bb_csv_text(t, row, col);
    if (bb_parse_int(s, out, NULL) == BB_OK) return BB_OK;
    return BB_FAIL(err, BB_BAD_FILE, "%s row %zu column %s: '%s' is not a whole number", t->path, row + 2, t->header[col], s);
}

/* ---- writing ---- */

struct bb_csv_writer {
    bb_writer file;
    size_t    n_cols, in_row;
};

void bb_csv_write_cell(FILE *f, const char *text, bool lone)
{
    const bool quote = strpbrk(text, ",\"\r\n") || (lone && !*text);
    if (!quote) {
        fputs(text, f);
        return;
    }
    fputc('"', f);
    for (; *text; text++) {
        if (*text == '"') fputc('"', f);
        fputc(*text, f);
    }
    fputc('"', f);
}

static void put(bb_csv_writer *w, const char *text)
{
    if (w->in_row++ > 0) fputc(',', w->file.stream);
    bb_csv_write_cell(w->file.stream, text, w->n_cols == 1);
}

bb_status bb_csv_create(const char *path, const char *header, bb_csv_writer **out, bb_err *err)
{
    *out = NULL;
    bb_csv_writer *w = BB_NEW0(1, bb_csv_writer, err);
    if (!w) return BB_NOMEM;
    bb_status status = bb_writer_open(&w->file, path, err);
    if (status != BB_OK) {
        bb_free(w);
        return status;
    }
    w->n_cols = 1;
    for (const char *p = header; *p; p++) w->n_cols += *p == ',';
    fputs(header, w->file.stream);
    fputs("\r\n", w->file.stream);
    *out = w;
    return BB_OK;
}

void bb_csv_put_text(bb_csv_writer *w, const char *text) { put(w, text); }

void bb_csv_put_int(bb_csv_writer *w, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    put(w, text);
}

void bb_csv_put_double(bb_csv_writer *w, double value)
{
    char text[32] = "";
    if (!isnan(value)) snprintf(text, sizeof text, "%.9g", value);
    put(w, text);
}

void bb_csv_put(bb_csv_writer *w, const bb_cell *cells, size_t n)
{
    for (size_t i = 0; i < n; i++) switch (cells[i].kind) {
        case BB_CELL_TEXT: bb_csv_put_text(w, cells[i].text); break;
        case BB_CELL_INT: bb_csv_put_int(w, cells[i].whole); break;
        case BB_CELL_DOUBLE: bb_csv_put_double(w, cells[i].real); break;
        }
}

void bb_csv_end_row(bb_csv_writer *w)
{
    BB_ASSERT(w->in_row == w->n_cols);
    fputs("\r\n", w->file.stream);
    w->in_row = 0;
}

bb_status bb_csv_close(bb_csv_writer **w, bb_err *err)
{
    bb_csv_writer *closing = *w;
    *w = NULL;
    if (!closing) return BB_OK;
    BB_ASSERT(closing->in_row == 0);
    bb_status status = bb_writer_commit(&closing->file, err);
    bb_free(closing);
    return status;
}

void bb_csv_discard(bb_csv_writer *w)
{
    if (!w) return;
    bb_writer_abort(&w->file);
    bb_free(w);
}
