/* SPDX-License-Identifier: GPL-3.0-or-later
 * text.c: see text.h. */
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

static bb_status unit_of(const char *text, uint64_t *unit)
{
    static const struct {
        const char *name;
        uint64_t    bytes;
    } units[] = {
        { "", 1 },
        { "b", 1 },
        { "k", 1ull << 10 },
        { "kib", 1ull << 10 },
        { "kb", 1000 },
        { "m", 1ull << 20 },
        { "mib", 1ull << 20 },
        { "mb", 1000000 },
        { "g", 1ull << 30 },
        { "gib", 1ull << 30 },
        { "gb", 1000000000 },
        { "t", 1ull << 40 },
        { "tib", 1ull << 40 },
        { "tb", 1000000000000 },
    };
    while (*text == ' ') text++;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcasecmp(text, units[i].name) != 0) continue;
        *unit = units[i].bytes;
        return BB_OK;
    }
    return BB_USAGE;
}

bb_status bb_parse_size(const char *text, uint64_t *bytes, bb_err *err)
{
    const char *at = text, *point;
    uint64_t    whole = 0, rest = 0, unit, out;
    bool        digits = false, fits = true;
    for (; isdigit((unsigned char)*at); at++, digits = true)
        fits = fits && !__builtin_mul_overflow(whole, 10u, &whole) && !__builtin_add_overflow(whole, (uint64_t)(*at - '0'), &whole);
    point = at;
    if (*at == '.')
        for (at++; isdigit((unsigned char)*at); at++) digits = true;
    if (!digits || unit_of(at, &unit) != BB_OK)
        return BB_FAIL(err, BB_USAGE, "'%s' is not a size: write bytes (3596960) or a number with KiB, MiB, GiB, kB, MB or GB", text);
    /* Rounded down: a size is a budget. From the last decimal on, so that it is exact: rounding down in between changes nothing. */
    while (!isdigit((unsigned char)*at) && at > point) at--;
    for (; at > point; at--) rest = ((uint64_t)(*at - '0') * unit + rest) / 10;
    if (!fits || __builtin_mul_overflow(whole, unit, &out) || __builtin_add_overflow(out, rest, &out))
        return BB_FAIL(err, BB_USAGE, "'%s' is too large for a size", text);
    *bytes = out;
    return BB_OK;
}

/* Numbers with units that become smaller; a bare 0 is none. */
bb_status bb_parse_time(const char *text, double *seconds, bb_err *err)
{
    static const struct {
        char   name;
        double seconds;
    } units[] = { { 'd', 86400 }, { 'h', 3600 }, { 'm', 60 }, { 's', 1 } };
    enum { N_UNITS = sizeof units / sizeof *units };
    const char *at = text;
    double      sum = 0;
    size_t      next = 0;
    if (strcmp(text, "0") == 0) {
        *seconds = 0;
        return BB_OK;
    }
    do {
        char  *end = NULL;
        double v = isdigit((unsigned char)*at) ? strtod(at, &end) : -1;
        size_t k = next;
        if (end && strspn(at, "0123456789.") != (size_t)(end - at)) end = NULL; /* 1e3, 0x10 */
        while (end && k < N_UNITS && tolower((unsigned char)*end) != units[k].name) k++;
        if (!end || k == N_UNITS) return BB_FAIL(err, BB_USAGE, "'%.60s' is no length of time: write 90s, 30m, 2h or 1h30m", text);
        sum += v * units[k].seconds;
        next = k + 1;
        at = end + 1;
    } while (*at);
    if (sum > 3.2e9) return BB_FAIL(err, BB_USAGE, "'%.60s' is too long a time", text);
    *seconds = sum;
    return BB_OK;
}

bb_status bb_parse_double(const char *text, double *value, bb_err *err)
{
    char  *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || isspace((unsigned char)*text)) return BB_FAIL(err, BB_USAGE, "'%s' is not a finite number", text);
    *value = v;
    return BB_OK;
}

bb_status bb_parse_int(const char *text, int64_t *value, bb_err *err)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || isspace((unsigned char)*text)) return BB_FAIL(err, BB_USAGE, "'%s' is not a whole number", text);
    if (errno == ERANGE) return BB_FAIL(err, BB_USAGE, "'%s' does not fit in 64 bits", text);
    *value = v;
    return BB_OK;
}

void bb_format_size(uint64_t bytes, char out[32])
{
    static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double                   v = (double)bytes / 1024;
    size_t                   i = 0;
    if (bytes < 1024) {
        snprintf(out, 32, "%u B", (unsigned)bytes);
        return;
    }
    for (; v >= 1023.995 && i + 1 < sizeof units / sizeof units[0]; i++) v /= 1024;
    snprintf(out, 32, "%.2f %s", v, units[i]);
}

void bb_format_time(double seconds, char out[32])
{
    if (!(seconds >= 0 && seconds < 3.2e9)) {
        snprintf(out, 32, "?");
        return;
    }
    if (seconds < 9.95) {
        snprintf(out, 32, "%.1fs", seconds);
        return;
    }
    unsigned long s = (unsigned long)(seconds + 0.5);
    if (s < 60) snprintf(out, 32, "%lus", s);
    else if (s < 3600) snprintf(out, 32, "%lum %02lus", s / 60, s % 60);
    else if (s < 86400) snprintf(out, 32, "%luh %02lum", s / 3600, s / 60 % 60);
    else snprintf(out, 32, "%lud %02luh", s / 86400, s / 3600 % 24);
}

/* ---- comma lists ---- */

bool bb_list_next(const char **rest, bb_item *item)
{
    if (!**rest) return false;
    *item = (bb_item) { *rest, strcspn(*rest, ",") };
    *rest += item->n + (item->at[item->n] == ',');
    return true;
}

bool bb_item_is(bb_item item, const char *text) { return strlen(text) == item.n && memcmp(item.at, text, item.n) == 0; }

bool bb_list_has(const char *list, const char *text)
{
    for (bb_item item; bb_list_next(&list, &item);)
        if (bb_item_is(item, text)) return true;
    return false;
}

size_t bb_list_length(const char *list)
{
    size_t n = 0;
    for (bb_item item; bb_list_next(&list, &item);) n++;
    return n;
}

char *bb_item_text(bb_item item, bb_err *err)
{
    char *text = bb_alloc(item.n + 1, 1, err);
    if (!text) return NULL;
    memcpy(text, item.at, item.n);
    text[item.n] = '\0';
    return text;
}

typedef bb_status (*parser)(const char *text, void *value, bb_err *err);

static bb_status parse_list(const char *list, parser parse, size_t size, void **out, size_t *n, bb_err *err)
{
    char *values = bb_calloc(bb_list_length(list), size, err);
    *out = NULL;
    *n = 0;
    if (!values) return BB_NOMEM;
    for (bb_item item; bb_list_next(&list, &item); ++*n) {
        char     *text = bb_item_text(item, err);
        bb_status status = text ? parse(text, values + *n * size, err) : BB_NOMEM;
        bb_free(text);
        if (status == BB_OK) continue;
        bb_free(values);
        *n = 0;
        return status;
    }
    *out = values;
    return BB_OK;
}

static bb_status parse_bytes(const char *text, void *value, bb_err *err)
{
    uint64_t        bytes;
    const bb_status status = bb_parse_size(text, &bytes, err);
    if (status != BB_OK) return status;
    if (bytes > INT64_MAX) return BB_FAIL(err, BB_USAGE, "'%s' is too large for a size", text);
    *(int64_t *)value = (int64_t)bytes;
    return BB_OK;
}

static bb_status parse_number(const char *text, void *value, bb_err *err) { return bb_parse_double(text, value, err); }

bb_status bb_list_sizes(const char *list, int64_t **out, size_t *n, bb_err *err)
{
    void           *values;
    size_t          all, kept = 0;
    const bb_status status = parse_list(list, parse_bytes, sizeof **out, &values, &all, err);
    int64_t        *sizes = values;
    for (size_t i = 0; i < all; i++) {
        size_t k = 0;
        while (k < kept && sizes[k] != sizes[i]) k++;
        if (k == kept) sizes[kept++] = sizes[i];
    }
    *out = sizes;
    *n = kept;
    return status;
}

bb_status bb_list_doubles(const char *list, double **out, size_t *n, bb_err *err)
{
    void           *values;
    const bb_status status = parse_list(list, parse_number, sizeof **out, &values, n, err);
    *out = values;
    return status;
}

static bool reserve(bb_text *t, size_t more)
{
    size_t need, capacity = t->capacity ? t->capacity : 64;
    if (t->status != BB_OK) return false;
    if (__builtin_add_overflow(t->size, more, &need) || need > SIZE_MAX / 4) {
        t->status = BB_NOMEM;
        return false;
    }
    if (t->data && need < t->capacity) return true;
    while (capacity <= need) capacity *= 2;
    char *p = bb_realloc(t->data, capacity, 1, NULL);
    if (!p) {
        t->status = BB_NOMEM;
        return false;
    }
    t->data = p;
    t->capacity = capacity;
    return true;
}

void bb_text_addn(bb_text *t, const char *s, size_t n)
{
    if (!reserve(t, n)) return;
    if (n > 0) memcpy(t->data + t->size, s, n);
    t->size += n;
    t->data[t->size] = '\0';
}

void bb_text_add(bb_text *t, const char *s) { bb_text_addn(t, s, strlen(s)); }

void bb_text_addf(bb_text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) t->status = t->status == BB_OK ? BB_FAILED : t->status;
    if (n < 0 || !reserve(t, (size_t)n)) return;
    va_start(args, format);
    vsnprintf(t->data + t->size, (size_t)n + 1, format, args);
    va_end(args);
    t->size += (size_t)n;
}

/* Bytes of the UTF-8 character at s, of n >= 1 bytes: 0: none begins here (too long a form, a surrogate, beyond U+10FFFF too); n + 1: it is not whole. */
static size_t utf8_size(const unsigned char *s, size_t n)
{
    const size_t  size = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    unsigned char low = 0x80, high = 0xBF; /* of the second byte */
    if (s[0] == 0xE0) low = 0xA0;
    if (s[0] == 0xED) high = 0x9F;
    if (s[0] == 0xF0) low = 0x90;
    if (s[0] == 0xF4) high = 0x8F;
    for (size_t i = 1; i < size && i < n; i++, low = 0x80, high = 0xBF)
        if (s[i] < low || s[i] > high) return 0;
    return size > n ? n + 1 : size;
}

size_t bb_text_add_utf8(bb_text *t, const char *s, size_t n, bool all)
{
    size_t at = 0;
    while (at < n) {
        size_t size = utf8_size((const unsigned char *)s + at, n - at);
        if (size > n - at && !all) break;
        if (size == 0 || size > n - at) {
            bb_text_add(t, "\xEF\xBF\xBD");
            at++;
            continue;
        }
        bb_text_addn(t, s + at, size);
        at += size;
    }
    return at;
}

void bb_text_done(bb_text *t)
{
    bb_free(t->data);
    memset(t, 0, sizeof *t);
}

size_t bb_edit_distance(const char *a, const char *b)
{
    enum { LONGEST = 63 };
    size_t row[LONGEST + 1], n = strlen(a), m = strlen(b);
    if (n > LONGEST || m > LONGEST) return SIZE_MAX;
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t above = row[j], replace = diagonal + (a[i - 1] != b[j - 1]);
            size_t insert = row[j - 1] + 1, delete = above + 1;
            row[j] = replace < insert ? replace : insert;
            if (delete < row[j]) row[j] = delete;
            diagonal = above;
        }
    }
    return row[m];
}
