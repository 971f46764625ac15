/* SPDX-License-Identifier: GPL-3.0-or-later
 * text.h: parsing and printing of the small things people type: sizes, numbers, lists; and a growing string. */
#ifndef BB_BASE_TEXT_H
#define BB_BASE_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* "3596960", "3.2MiB", "2.6GB", "4100k", "1.5g": KiB/MiB/GiB (and k, m, g alone) are powers of 1024, kB/MB/GB of 1000. */
bb_status bb_parse_size(const char *text, uint64_t *bytes, bb_err *err);
bb_status bb_parse_time(const char *text, double *seconds, bb_err *err); /* "90s", "30m", "1h30m", "1.5h", "2d"; 0 */
bb_status bb_parse_double(const char *text, double *value, bb_err *err); /* full consumption, finite */
bb_status bb_parse_int(const char *text, int64_t *value, bb_err *err);   /* full consumption, decimal */
void      bb_format_size(uint64_t bytes, char out[32]);                  /* "3.20 MiB" */
void      bb_format_time(double seconds, char out[32]);                  /* "2m 05s" */

/* Comma lists, "a,b,c". An element is [at, at + n), borrowed; it may be empty ("a,,b"), but a comma at the end begins none. */
typedef struct bb_item {
    const char *at;
    size_t      n;
} bb_item;
bool   bb_list_next(const char **rest, bb_item *item); /* the next element of *rest, which moves behind it; false: there is none */
bool   bb_item_is(bb_item item, const char *text);
bool   bb_list_has(const char *list, const char *text);
size_t bb_list_length(const char *list);
char  *bb_item_text(bb_item item, bb_err *err); /* a copy; bb_free */
/* Every element as bb_parse_size, bb_parse_double read it, of sizes each once; *out: bb_free. An empty list gives none. */
bb_status bb_list_sizes(const char *list, int64_t **out, size_t *n, bb_err *err);
bb_status bb_list_doubles(const char *list, double **out, size_t *n, bb_err *err);

/* "%zu plan%s": the ending of a word that is counted. */
static inline const char *bb_plural(uint64_t n) { return n == 1 ? "" : "s"; }

typedef struct bb_text {
    char     *data;
    size_t    size, capacity;
    bb_status status;
} bb_text; /* zero-initialise; data is NUL-terminated */
void bb_text_add(bb_text *t, const char *s);
void bb_text_addn(bb_text *t, const char *s, size_t n);
void bb_text_addf(bb_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void bb_text_done(bb_text *t); /* frees */
/* Appends n bytes as valid UTF-8: what is none becomes U+FFFD, a byte at a time. A character that only begins at the end is left for later unless `all`;
 * returns the bytes that were used up. */
size_t bb_text_add_utf8(bb_text *t, const char *s, size_t n, bool all);

/* Levenshtein distance, for "did you mean"; SIZE_MAX when a name is longer than 63 bytes. */
size_t bb_edit_distance(const char *a, const char *b);

#endif
