/* SPDX-License-Identifier: GPL-3.0-or-later
 * options.c: see options.h.
 *
 * The YAML file is a flat mapping "name: value", read event by event through libyaml, so that every message has a line number; a
 * list may be a sequence of scalars. Anything deeper, anchors, tags, a second document and names without a value are refused. */
#include "base/options.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "base/file.h"
#include "base/mem.h"

static void       *field(const bb_option_row *row, void *values) { return (char *)values + row->offset; }
static const void *const_field(const bb_option_row *row, const void *values) { return (const char *)values + row->offset; }

/* ---- one value ---- */

static bb_status parse_flag(const char *text, bool *out)
{
    static const char *const yes[] = { "true", "yes", "on", "1" }, *const no[] = { "false", "no", "off", "0" };
    for (size_t i = 0; i < 4; i++) {
        if (strcasecmp(text, yes[i]) == 0) *out = true;
        else if (strcasecmp(text, no[i]) == 0) *out = false;
        else continue;
        return BB_OK;
    }
    return BB_USAGE;
}

static bool in_choices(const char *choices, const char *word, size_t n)
{
    for (const char *at = choices;; at++) {
        size_t length = strcspn(at, "|");
        if (length == n && memcmp(at, word, n) == 0) return true;
        at += length;
        if (!*at) return false;
    }
}

/* Checks text, or each element of a comma list, against "a|b|c". */
static bb_status check_choices(const bb_option_row *row, const char *text, const char *where, bb_err *err)
{
    if (!row->choices) return BB_OK;
    bb_item item = { text, strlen(text) };
    while (row->type != BB_OPT_LIST || bb_list_next(&text, &item)) {
        if (!in_choices(row->choices, item.at, item.n))
            return BB_FAIL(err, BB_USAGE, "%s: '%.*s' should be one of %s", where, item.n < 60 ? (int)item.n : 60, item.at, row->choices);
        if (row->type != BB_OPT_LIST) break;
    }
    return BB_OK;
}

static bb_status check_bounds(const bb_option_row *row, double value, const char *text, const char *where, bb_err *err)
{
    if (row->min > row->max || (value >= row->min && value <= row->max)) return BB_OK;
    if (isinf(row->max)) return BB_FAIL(err, BB_USAGE, "%s: '%.60s' should be at least %.9g", where, text, row->min);
    return BB_FAIL(err, BB_USAGE, "%s: '%.60s' should be from %.9g to %.9g", where, text, row->min, row->max);
}

/* text NULL: the type's zero. where: what the message begins with, such as "--bits". */
static bb_status set_value(const bb_option_row *row, void *values, const char *text, const char *where, bb_err *err)
{
    void     *p = field(row, values);
    bb_status status = BB_OK;
    double    number = 0;
    int64_t   whole = 0;
    uint64_t  size = 0;
    bool      flag = false;
    char     *copy = NULL;
    if (row->type == BB_OPT_TEXT || row->type == BB_OPT_LIST) {
        /* Where the default is not the empty text, the empty text means nothing. */
        if (text && !*text && !(row->default_text && !*row->default_text))
            return BB_FAIL(err, BB_USAGE, "%s: the value is empty; expected %s", where, row->metavar ? row->metavar : "VALUE");
        if (text && (status = check_choices(row, text, where, err)) != BB_OK) return status;
        if (text && !(copy = bb_strdup(text, err))) return BB_NOMEM;
        bb_free(*(char **)p);
        *(char **)p = copy;
        return BB_OK;
    }
    if (text) {
        bb_err reason = BB_ERR_INIT;
        switch (row->type) {
        case BB_OPT_FLAG: status = parse_flag(text, &flag); break;
        case BB_OPT_INT:
            status = bb_parse_int(text, &whole, &reason);
            number = (double)whole;
            break;
        case BB_OPT_DOUBLE: status = bb_parse_double(text, &number, &reason); break;
        case BB_OPT_SIZE:
            status = bb_parse_size(text, &size, &reason);
            number = (double)size;
            break;
        case BB_OPT_TIME: status = bb_parse_time(text, &number, &reason); break;
        default: break;
        }
        if (status != BB_OK && row->type == BB_OPT_FLAG) return BB_FAIL(err, BB_USAGE, "%s: '%.60s' should be true or false", where, text);
        if (status != BB_OK) return BB_FAIL(err, status, "%s: %.300s", where, reason.msg);
        if (row->type != BB_OPT_FLAG && (status = check_bounds(row, number, text, where, err)) != BB_OK) return status;
    }
    switch (row->type) {
    case BB_OPT_FLAG: *(bool *)p = flag; break;
    case BB_OPT_INT: *(int64_t *)p = whole; break;
    case BB_OPT_DOUBLE:
    case BB_OPT_TIME: *(double *)p = number; break;
    case BB_OPT_SIZE: *(uint64_t *)p = size; break;
    default: break;
    }
    return BB_OK;
}

bb_status bb_options_defaults(const bb_option_row *rows, size_t n, void *values, bb_err *err)
{
    /* The struct may hold anything before this call, so owned fields are cleared, not freed. */
    for (size_t i = 0; i < n; i++)
        if (rows[i].type == BB_OPT_TEXT || rows[i].type == BB_OPT_LIST) *(char **)field(&rows[i], values) = NULL;
    for (size_t i = 0; i < n; i++) {
        bb_status status = set_value(&rows[i], values, rows[i].default_text, rows[i].name, err);
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

/* ---- names ---- */

static const bb_option_row *find(const bb_option_row *rows, size_t n, const char *name, size_t length)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(rows[i].name) == length && memcmp(rows[i].name, name, length) == 0) return &rows[i];
    return NULL;
}

/* "" or "; did you mean PREFIXname?" */
static void suggest(const bb_option_row *rows, size_t n, const char *name, const char *prefix, char out[128])
{
    size_t best = strlen(name) / 2 + 1;
    out[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        size_t distance = bb_edit_distance(name, rows[i].name);
        if (distance >= best) continue;
        best = distance;
        snprintf(out, 128, "; did you mean %s%s?", prefix, rows[i].name);
    }
}

static bb_status unknown(const bb_option_row *rows, size_t n, const char *name, size_t length, bb_err *err)
{
    char word[64], hint[128];
    snprintf(word, sizeof word, "%.*s", length < 60 ? (int)length : 60, name);
    suggest(rows, n, word, "--", hint);
    return BB_FAIL(err, BB_USAGE, "there is no option --%s%s", word, hint);
}

bb_status bb_options_set(const bb_option_row *rows, size_t n, void *values, const char *name, const char *text, bb_err *err)
{
    const bb_option_row *row = find(rows, n, name, strlen(name));
    return row ? set_value(row, values, text, name, err) : BB_FAIL(err, BB_NOT_FOUND, "there is no option '%.60s'", name);
}

/* ---- command line ---- */

/* argv[*i] is "--something"; moves *i when the value is the next argument. */
static bb_status parse_option(const bb_option_row *rows, size_t n, void *values, int argc, char **argv, int *i, bb_err *err)
{
    const char          *name = argv[*i] + 2, *value = strchr(name, '=');
    size_t               length = value ? (size_t)(value - name) : strlen(name);
    char                 where[80];
    const bb_option_row *row = find(rows, n, name, length);
    if (!row && !value && strncmp(name, "no-", 3) == 0) {
        row = find(rows, n, name + 3, length - 3);
        if (row && row->type == BB_OPT_FLAG) return set_value(row, values, "false", name, err);
        row = NULL;
    }
    if (!row) return unknown(rows, n, name, length, err);
    snprintf(where, sizeof where, "--%s", row->name);
    if (value) return set_value(row, values, value + 1, where, err);
    if (row->type == BB_OPT_FLAG) return set_value(row, values, "true", where, err);
    if (*i + 1 >= argc) return BB_FAIL(err, BB_USAGE, "%s needs a value (%s)", where, row->metavar ? row->metavar : "VALUE");
    if (strncmp(argv[*i + 1], "--", 2) == 0)
        return BB_FAIL(err, BB_USAGE, "%s needs a value (%s), and '%.60s' looks like an option: a value like this is written %s=VALUE", where,
                       row->metavar ? row->metavar : "VALUE", argv[*i + 1], where);
    return set_value(row, values, argv[++*i], where, err);
}

bb_status bb_options_parse(const bb_option_row *rows, size_t n, void *values, int argc, char **argv, const char **positional, size_t max_positional,
                           size_t *n_positional, bb_err *err)
{
    bool options = true;
    *n_positional = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (options && strcmp(a, "--") == 0) {
            options = false;
        } else if (options && a[0] == '-' && a[1] == '-') {
            bb_status status = parse_option(rows, n, values, argc, argv, &i, err);
            if (status != BB_OK) return status;
        } else if (options && a[0] == '-' && a[1] != '\0') {
            return BB_FAIL(err, BB_USAGE, "there is no option '%.60s'; options are written --name", a);
        } else if (*n_positional == max_positional) {
            return BB_FAIL(err, BB_USAGE, "unexpected argument '%.100s' (%zu expected)", a, max_positional);
        } else {
            positional[(*n_positional)++] = a;
        }
    }
    return BB_OK;
}

bb_status bb_options_environment(const bb_option_row *rows, size_t n, void *values, bb_err *err)
{
    for (size_t i = 0; i < n; i++) {
        char name[80];
        int  length = snprintf(name, sizeof name, "BB_%s", rows[i].name);
        BB_ASSERT(length > 0 && (size_t)length < sizeof name);
        for (char *p = name; *p; p++) *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
        const char *value = getenv(name);
        bb_status   status = value && *value ? set_value(&rows[i], values, value, name, err) : BB_OK;
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

/* ---- YAML ---- */

typedef struct yaml_reader {
    yaml_parser_t        parser;
    const char          *path;
    const bb_option_row *rows;
    size_t               n;
    void                *values;
    bool                *seen; /* [n] */
    bb_err              *err;
} yaml_reader;

static unsigned line_of(const yaml_event_t *e) { return (unsigned)e->start_mark.line + 1; }

static bb_status next(yaml_reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event)) return BB_OK;
    memset(event, 0, sizeof *event);
    if (r->parser.error == YAML_MEMORY_ERROR) return BB_FAIL(r->err, BB_NOMEM, "out of memory while %s was read", r->path);
    return BB_FAIL(r->err, BB_BAD_FILE, "%s line %u: not valid YAML: %.200s", r->path, (unsigned)r->parser.problem_mark.line + 1,
                   r->parser.problem ? r->parser.problem : "unknown error");
}

static bb_status expect(yaml_reader *r, yaml_event_type_t type, const char *what)
{
    yaml_event_t event;
    bb_status    status = next(r, &event);
    if (status == BB_OK && event.type != type) status = BB_FAIL(r->err, BB_BAD_FILE, "%s line %u: expected %s", r->path, line_of(&event), what);
    yaml_event_delete(&event);
    return status;
}

static const char *scalar(const yaml_event_t *e) { return (const char *)e->data.scalar.value; }

/* Written as nothing, ~ or null, without quotes. */
static bool is_null(const yaml_event_t *e)
{
    const char *s = scalar(e);
    return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*s || strcmp(s, "~") == 0 || strcmp(s, "null") == 0 || strcmp(s, "Null") == 0 || strcmp(s, "NULL") == 0);
}

static bool is_decorated(const yaml_event_t *e)
{
    if (e->type == YAML_ALIAS_EVENT) return true;
    if (e->type == YAML_SCALAR_EVENT) return e->data.scalar.anchor || e->data.scalar.tag;
    return e->type == YAML_SEQUENCE_START_EVENT && (e->data.sequence_start.anchor || e->data.sequence_start.tag);
}

/* Joins a sequence of scalars with commas; its start event is already read. */
static bb_status read_sequence(yaml_reader *r, const char *where, bb_text *out)
{
    for (bool first = true;; first = false) {
        yaml_event_t event;
        bb_status    status = next(r, &event);
        bool         end = status == BB_OK && event.type == YAML_SEQUENCE_END_EVENT;
        if (end && first) status = BB_FAIL(r->err, BB_BAD_FILE, "%s: the list is empty", where);
        if (status == BB_OK && !end) {
            if (event.type == YAML_SCALAR_EVENT && !is_decorated(&event) && !is_null(&event) && *scalar(&event) &&
                strlen(scalar(&event)) == event.data.scalar.length && !strchr(scalar(&event), ',')) {
                if (!first) bb_text_add(out, ",");
                bb_text_add(out, scalar(&event));
            } else {
                status = BB_FAIL(r->err, BB_BAD_FILE, "%s: a list holds plain values without commas only", where);
            }
        }
        yaml_event_delete(&event);
        if (status != BB_OK || end) return status != BB_OK ? status : out->status;
    }
}

/* An option without a default is printed as ~ when it is not set (bb_options_print_yaml), and only there ~ says something: not set. */
static bb_status read_null(yaml_reader *r, const bb_option_row *row, const yaml_event_t *e, const char *where)
{
    if (!row->default_text && row->type != BB_OPT_FLAG && *scalar(e)) return set_value(row, r->values, NULL, where, r->err);
    if (row->default_text && *row->default_text)
        return BB_FAIL(r->err, BB_BAD_FILE, "%s: there is no value: give one, or remove the line, and it is %.100s", where, row->default_text);
    return BB_FAIL(r->err, BB_BAD_FILE, "%s: there is no value: give one, or remove the line", where);
}

static bb_status read_value(yaml_reader *r, const bb_option_row *row, unsigned line)
{
    yaml_event_t event;
    bb_text      text = { 0 };
    char         where[512];
    bb_status    status = next(r, &event);
    if (status != BB_OK) return status;
    snprintf(where, sizeof where, "%.300s line %u: %s", r->path, line, row->name);
    if (is_decorated(&event)) {
        status = BB_FAIL(r->err, BB_BAD_FILE, "%s: anchors, aliases and tags (&, *, !) are not read: expected a single value", where);
    } else if (event.type == YAML_SCALAR_EVENT && is_null(&event)) {
        status = read_null(r, row, &event, where);
    } else if (event.type == YAML_SCALAR_EVENT && strlen(scalar(&event)) == event.data.scalar.length) {
        status = set_value(row, r->values, scalar(&event), where, r->err);
    } else if (event.type == YAML_SEQUENCE_START_EVENT && row->type == BB_OPT_LIST) {
        bb_text_add(&text, "");
        status = read_sequence(r, where, &text);
        if (status == BB_OK) status = set_value(row, r->values, text.data, where, r->err);
        else if (status == BB_NOMEM) BB_FAIL(r->err, BB_NOMEM, "out of memory while %s was read", r->path);
    } else {
        status = BB_FAIL(r->err, BB_BAD_FILE, "%s: expected a single value%s", where, row->type == BB_OPT_LIST ? " or a list" : "");
    }
    bb_text_done(&text);
    yaml_event_delete(&event);
    return status;
}

static bb_status read_key(yaml_reader *r, const yaml_event_t *key)
{
    char hint[128];
    if (key->type != YAML_SCALAR_EVENT || is_decorated(key)) return BB_FAIL(r->err, BB_BAD_FILE, "%s line %u: expected 'name: value'", r->path, line_of(key));
    const bb_option_row *row = find(r->rows, r->n, scalar(key), key->data.scalar.length);
    if (!row) {
        suggest(r->rows, r->n, scalar(key), "", hint);
        return BB_FAIL(r->err, BB_BAD_FILE, "%s line %u: there is no setting '%.60s'%s", r->path, line_of(key), scalar(key), hint);
    }
    bool *seen = &r->seen[row - r->rows];
    if (*seen) return BB_FAIL(r->err, BB_BAD_FILE, "%s line %u: '%s' is set twice", r->path, line_of(key), row->name);
    *seen = true;
    return read_value(r, row, line_of(key));
}

static bb_status read_document(yaml_reader *r)
{
    bb_status    status;
    yaml_event_t event;
    BB_TRY(expect(r, YAML_STREAM_START_EVENT, "a YAML stream"));
    BB_TRY(next(r, &event));
    yaml_event_type_t type = event.type;
    yaml_event_delete(&event);
    if (type == YAML_STREAM_END_EVENT) goto done; /* an empty file sets nothing */
    BB_TRY(expect(r, YAML_MAPPING_START_EVENT, "lines of the form 'name: value'"));
    for (bool end = false; !end;) {
        BB_TRY(next(r, &event));
        end = event.type == YAML_MAPPING_END_EVENT;
        if (!end) status = read_key(r, &event);
        yaml_event_delete(&event);
        if (status != BB_OK) goto done;
    }
    BB_TRY(expect(r, YAML_DOCUMENT_END_EVENT, "the end of the document"));
    BB_TRY(expect(r, YAML_STREAM_END_EVENT, "one document only"));
done:
    return status;
}

bb_status bb_options_yaml(const bb_option_row *rows, size_t n, void *values, const char *path, bb_err *err)
{
    yaml_reader r = { .path = path, .rows = rows, .n = n, .values = values, .err = err };
    bb_map      map = { 0 };
    bb_status   status = bb_map_open(path, &map, err);
    if (status != BB_OK) return status;
    r.seen = BB_NEW0(n, bool, err);
    if (!r.seen || !yaml_parser_initialize(&r.parser)) {
        bb_free(r.seen);
        bb_map_close(&map);
        return BB_FAIL(err, BB_NOMEM, "out of memory while %s was read", path);
    }
    yaml_parser_set_input_string(&r.parser, map.size > 0 ? map.data : (const unsigned char *)"", map.size);
    status = read_document(&r);
    yaml_parser_delete(&r.parser);
    bb_free(r.seen);
    bb_map_close(&map);
    /* A value of the wrong kind in a file is a bad file, not a wrong command line. */
    if (status == BB_USAGE) {
        status = BB_BAD_FILE;
        if (err && err->status == BB_USAGE) err->status = BB_BAD_FILE;
    }
    return status;
}

/* ---- printing ---- */

/* The fewest decimals, three at least, that read back to the same time, which is written without an exponent: a short one must not become none. */
static void print_time(bb_text *out, double seconds)
{
    enum { MOST = 1074 }; /* decimals of the smallest double */
    char text[MOST + 16];
    int  decimals = 3;
    if (!(seconds > 0)) {
        bb_text_add(out, "0");
        return;
    }
    do snprintf(text, sizeof text, "%.*f", decimals, seconds);
    while (strtod(text, NULL) < seconds || strtod(text, NULL) > seconds ? decimals++ < MOST : false);
    bb_text_addf(out, "%ss", text);
}

/* The shortest of 15 to 17 digits that reads back to the same double. */
static void print_double(bb_text *out, double v)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    bb_text_add(out, text);
}

/* The character of UTF-8 at s, as long as it is below 65536, and how many bytes it has; the first byte where it is none or above. */
static size_t character(const char *s, unsigned *code)
{
    const unsigned char *c = (const unsigned char *)s;
    if (c[0] >> 5 == 6 && c[1]) return *code = (c[0] & 31u) << 6 | (c[1] & 63u), 2;
    if (c[0] >> 4 == 14 && c[1] && c[2]) return *code = (c[0] & 15u) << 12 | (c[1] & 63u) << 6 | (c[2] & 63u), 3;
    return *code = c[0], 1;
}

/* A YAML double-quoted scalar, in UTF-8. Escaped is what YAML takes for the end of a line or has no place for: controls, 2028, 2029, FEFF, FFFE, FFFF. */
static void print_quoted(bb_text *out, const char *s)
{
    bb_text_add(out, "\"");
    for (size_t n; *s; s += n) {
        unsigned c;
        n = character(s, &c);
        if (c == '"' || c == '\\') bb_text_addf(out, "\\%c", (int)c);
        else if (c < 32 || c == 127 || (n == 2 && c < 0xA0)) bb_text_addf(out, "\\x%02X", c);
        else if (n == 3 && (c == 0x2028 || c == 0x2029 || c == 0xFEFF || c > 0xFFFD)) bb_text_addf(out, "\\u%04X", c);
        else bb_text_addn(out, s, n);
    }
    bb_text_add(out, "\"");
}

/* Zero may lie outside the bounds of a row without a default, so it is printed as null, which reads back as zero. */
static bool is_unset(const bb_option_row *row, const void *p)
{
    switch (row->type) {
    case BB_OPT_TEXT:
    case BB_OPT_LIST: return !*(char *const *)p;
    case BB_OPT_INT: return !row->default_text && *(const int64_t *)p == 0;
    case BB_OPT_SIZE: return !row->default_text && *(const uint64_t *)p == 0;
    case BB_OPT_TIME:
    case BB_OPT_DOUBLE: return !row->default_text && !(fabs(*(const double *)p) > 0);
    case BB_OPT_FLAG: break;
    }
    return false;
}

void bb_options_print_yaml(const bb_option_row *rows, size_t n, const void *values, bb_text *out)
{
    for (size_t i = 0; i < n; i++) {
        const void *p = const_field(&rows[i], values);
        bb_text_addf(out, "%s: ", rows[i].name);
        if (is_unset(&rows[i], p)) {
            bb_text_add(out, "~\n");
            continue;
        }
        switch (rows[i].type) {
        case BB_OPT_FLAG: bb_text_add(out, *(const bool *)p ? "true" : "false"); break;
        case BB_OPT_INT: bb_text_addf(out, "%lld", (long long)*(const int64_t *)p); break;
        case BB_OPT_DOUBLE: print_double(out, *(const double *)p); break;
        case BB_OPT_SIZE: bb_text_addf(out, "%llu", (unsigned long long)*(const uint64_t *)p); break;
        case BB_OPT_TIME: print_time(out, *(const double *)p); break;
        case BB_OPT_TEXT:
        case BB_OPT_LIST: print_quoted(out, *(char *const *)p); break;
        }
        bb_text_add(out, "\n");
    }
}

/* Adds words, breaking lines at WIDTH; column is where the text stands now, indent where continued lines start. */
static void wrap(bb_text *out, const char *text, size_t column, size_t indent)
{
    enum { WIDTH = 88 };
    for (bool first = true; *text; first = false) {
        size_t n = strcspn(text, " ");
        if (!first && column + 1 + n > WIDTH) {
            bb_text_addf(out, "\n%*s", (int)indent, "");
            column = indent;
        } else if (!first) {
            bb_text_add(out, " ");
            column++;
        }
        bb_text_addn(out, text, n);
        column += n;
        text += n;
        while (*text == ' ') text++;
    }
    bb_text_add(out, "\n");
}

void bb_options_print_help(const bb_option_row *rows, size_t n, bb_text *out)
{
    enum { COLUMN = 28 };
    for (size_t i = 0; i < n; i++) {
        const bb_option_row *row = &rows[i];
        bb_text              help = { 0 };
        size_t               from = out->size;
        bb_text_addf(out, "  --%s", row->name);
        if (row->type != BB_OPT_FLAG) bb_text_addf(out, " %s", row->metavar ? row->metavar : "VALUE");
        size_t column = out->size - from;
        if (column + 2 > COLUMN) bb_text_addf(out, "\n%*s", COLUMN, "");
        else bb_text_addf(out, "%*s", (int)(COLUMN - column), "");
        bb_text_add(&help, row->help ? row->help : "");
        if (row->choices) bb_text_addf(&help, " [%s]", row->choices);
        if (row->default_text && *row->default_text && row->type != BB_OPT_FLAG) bb_text_addf(&help, " (default %s)", row->default_text);
        if (row->default_text && row->type == BB_OPT_FLAG && strcmp(row->default_text, "true") == 0)
            bb_text_addf(&help, " (default on; --no-%s turns it off)", row->name);
        if (help.status == BB_OK) wrap(out, help.data, COLUMN, COLUMN);
        else if (out->status == BB_OK) out->status = help.status;
        bb_text_done(&help);
    }
}

void bb_options_done(const bb_option_row *rows, size_t n, void *values)
{
    for (size_t i = 0; i < n; i++) {
        if (rows[i].type != BB_OPT_TEXT && rows[i].type != BB_OPT_LIST) continue;
        char **p = field(&rows[i], values);
        bb_free(*p);
        *p = NULL;
    }
}
