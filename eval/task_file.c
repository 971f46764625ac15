/* SPDX-License-Identifier: GPL-3.0-or-later
 * task_file.c: reading tasks: JSON lines and HellaSwag text. See tasks.h. */
#include <jansson.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "eval/tasks.h"

enum { MAX_OPTIONS = 64, HELLASWAG_LINES = 6 };

const char *const bb_task_kind_names[3] = { "choice", "schema", "cloze" };

/* What is being read. */
typedef struct reader {
    const char *path;
    bb_task    *t;
    size_t      line; /* from 1 */
    size_t      room_options, room_items;
} reader;

/* ---- building ---- */

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }

static bb_bytes stripped(bb_bytes s)
{
    while (s.size && is_space(s.data[s.size - 1])) s.size--;
    while (s.size && is_space(*s.data)) s.data++, s.size--;
    return s;
}

static bool contains(bb_bytes s, const char *what)
{
    size_t n = strlen(what);
    for (size_t i = 0; i + n <= s.size; i++)
        if (memcmp(s.data + i, what, n) == 0) return true;
    return false;
}

static bool asks(bb_bytes query) { return (query.size >= 9 && memcmp(query.data, "Question:", 9) == 0) || contains(query, "\nQuestion:"); }

static bb_status grow(void **array, size_t *room, size_t n, size_t size, bb_err *err)
{
    void *more;
    if (n < *room) return BB_OK;
    *room = *room ? *room * 2 : 256;
    if (!(more = bb_realloc(*array, *room, size, err))) return BB_NOMEM;
    *array = more;
    return BB_OK;
}

static bb_status start_item(reader *r, uint32_t gold, bb_err *err)
{
    bb_task  *t = r->t;
    void     *items = t->items;
    bb_status status = grow(&items, &r->room_items, t->n_items, sizeof *t->items, err);
    t->items = items;
    if (status == BB_OK) t->items[t->n_items++] = (bb_task_item) { .first = t->n_options, .gold = gold };
    return status;
}

static const bb_bytes one_space = { " ", 1 };

/* Adds an option to the last item. */
static bb_status add_option(reader *r, bb_bytes context, bb_bytes delimiter, bb_bytes continuation, bb_err *err)
{
    bb_task       *t = r->t;
    void          *options = t->options;
    bb_task_option o = { .context = t->text.size, .n_delimiter = (size_t)delimiter.size };
    bb_status      status = grow(&options, &r->room_options, t->n_options, sizeof *t->options, err);
    t->options = options;
    if (status != BB_OK) return status;
    context = stripped(context);
    continuation = stripped(continuation);
    if (!context.size || !continuation.size)
        return BB_FAIL(err, BB_BAD_FILE, "%s line %zu: an empty %s", r->path, r->line, context.size ? "continuation" : "context");
    bb_text_addn(&t->text, context.data, (size_t)context.size);
    if (t->kind == BB_TASK_CHOICE && asks(context)) bb_text_add(&t->text, "\nAnswer:");
    o.n_context = t->text.size - o.context;
    o.continuation = t->text.size;
    bb_text_addn(&t->text, delimiter.data, (size_t)delimiter.size);
    bb_text_addn(&t->text, continuation.data, (size_t)continuation.size);
    o.n_continuation = t->text.size - o.continuation;
    if (t->text.status != BB_OK) return BB_FAIL(err, t->text.status, "out of memory");
    t->options[t->n_options++] = o;
    t->items[t->n_items - 1].n++;
    return BB_OK;
}

/* ---- JSON lines ---- */

static bool text_of(const json_t *s, bb_bytes *out)
{
    if (!json_is_string(s)) return false;
    *out = (bb_bytes) { json_string_value(s), json_string_length(s) };
    return true;
}

static bb_status delimiter_of(const reader *r, const json_t *o, bb_bytes *out, bb_err *err)
{
    const json_t *s = json_object_get(o, "delimiter");
    *out = one_space;
    return !s || text_of(s, out) ? BB_OK : BB_FAIL(err, BB_BAD_FILE, "%s line %zu: \"delimiter\" should be a text", r->path, r->line);
}

static bool kind_of(const json_t *o, bb_task_kind *kind)
{
    if (json_object_get(o, "choices")) *kind = BB_TASK_CHOICE;
    else if (json_object_get(o, "context_options")) *kind = BB_TASK_SCHEMA;
    else if (json_object_get(o, "continuation")) *kind = BB_TASK_CLOZE;
    else return false;
    return true;
}

static bb_status read_cloze(reader *r, const json_t *o, bb_err *err)
{
    bb_bytes  context, delimiter, continuation;
    bb_status status;
    if (!text_of(json_object_get(o, "context"), &context) || !text_of(json_object_get(o, "continuation"), &continuation))
        return BB_FAIL(err, BB_BAD_FILE, "%s line %zu: \"context\" and \"continuation\" should be texts", r->path, r->line);
    BB_TRY(delimiter_of(r, o, &delimiter, err));
    BB_TRY(start_item(r, 0, err));
    BB_TRY(add_option(r, context, delimiter, continuation, err));
done:
    return status;
}

/* choice: one query, many choices; schema: many contexts, one continuation. */
static bb_status read_options(reader *r, const json_t *o, bb_err *err)
{
    bool          schema = r->t->kind == BB_TASK_SCHEMA;
    const char   *one_name = schema ? "continuation" : "query", *many_name = schema ? "context_options" : "choices";
    const json_t *many = json_object_get(o, many_name), *gold = json_object_get(o, "gold");
    size_t        n = json_array_size(many); /* 0 when it is no array */
    bb_bytes      one, other, delimiter;
    bb_status     status = BB_OK;
    if (!text_of(json_object_get(o, one_name), &one)) return BB_FAIL(err, BB_BAD_FILE, "%s line %zu: \"%s\" should be a text", r->path, r->line, one_name);
    if (n < 2 || n > MAX_OPTIONS)
        return BB_FAIL(err, BB_BAD_FILE, "%s line %zu: \"%s\" should be a list of 2 to %d texts", r->path, r->line, many_name, MAX_OPTIONS);
    if (!json_is_integer(gold) || json_integer_value(gold) < 0 || (size_t)json_integer_value(gold) >= n)
        return BB_FAIL(err, BB_BAD_FILE, "%s line %zu: \"gold\" should be an index from 0 to %zu", r->path, r->line, n - 1);
    BB_TRY(delimiter_of(r, o, &delimiter, err));
    BB_TRY(start_item(r, (uint32_t)json_integer_value(gold), err));
    for (size_t i = 0; i < n; i++) {
        if (!text_of(json_array_get(many, i), &other))
            return BB_FAIL(err, BB_BAD_FILE, "%s line %zu: \"%s\" should be a list of texts", r->path, r->line, many_name);
        BB_TRY(schema ? add_option(r, other, delimiter, one, err) : add_option(r, one, delimiter, other, err));
    }
done:
    return status;
}

static bb_status read_json(reader *r, const char *line, size_t size, bb_err *err)
{
    json_error_t what;
    json_t      *o = json_loadb(line, size, JSON_ALLOW_NUL, &what);
    bb_task_kind kind;
    bb_status    status;
    if (!o) return BB_FAIL(err, BB_BAD_FILE, "%s line %zu is no JSON: %s", r->path, r->line, what.text);
    if (!json_is_object(o) || !kind_of(o, &kind))
        status = BB_FAIL(err, BB_BAD_FILE, "%s line %zu: an item should have \"choices\", \"context_options\" or \"continuation\"", r->path, r->line);
    else if (r->t->n_items && kind != r->t->kind)
        status = BB_FAIL(err, BB_BAD_FILE, "%s line %zu: a %s item in a %s task", r->path, r->line, bb_task_kind_names[kind], bb_task_kind_names[r->t->kind]);
    else {
        r->t->kind = kind;
        status = kind == BB_TASK_CLOZE ? read_cloze(r, o, err) : read_options(r, o, err);
    }
    json_decref(o);
    return status;
}

/* ---- lines ---- */

static bool next_line(const char *data, size_t size, size_t *at, bb_bytes *line)
{
    const char *end;
    if (*at >= size) return false;
    end = memchr(data + *at, '\n', size - *at);
    *line = (bb_bytes) { data + *at, end ? (uint64_t)(end - (data + *at)) : size - *at };
    *at += (size_t)line->size + 1;
    return true;
}

static bb_status read_json_lines(reader *r, const char *data, size_t size, size_t limit, bb_err *err)
{
    bb_status status = BB_OK;
    bb_bytes  line;
    for (size_t at = 0; (!limit || r->t->n_items < limit) && next_line(data, size, &at, &line);) {
        r->line++;
        if (stripped(line).size) BB_TRY(read_json(r, line.data, (size_t)line.size, err));
    }
done:
    return status;
}

static bb_status read_hellaswag(reader *r, const char *data, size_t size, size_t limit, bb_err *err)
{
    bb_status status = BB_OK;
    bb_bytes  lines[HELLASWAG_LINES];
    size_t    at = 0;
    while (!limit || r->t->n_items < limit) {
        size_t n = 0;
        while (n < HELLASWAG_LINES && next_line(data, size, &at, &lines[n])) n++, r->line++;
        if (n == 0 || (n == 1 && !stripped(lines[0]).size)) break;
        if (n < HELLASWAG_LINES)
            return BB_FAIL(err, BB_BAD_FILE, "%s ends with %zu lines of an item; context, gold index and four endings are six", r->path, n);
        bb_bytes gold = stripped(lines[1]);
        if (gold.size != 1 || *gold.data < '0' || *gold.data > '3')
            return BB_FAIL(err, BB_BAD_FILE, "%s line %zu: the gold index should be 0 to 3", r->path, r->line - 4);
        BB_TRY(start_item(r, (uint32_t)(*gold.data - '0'), err));
        for (size_t i = 0; i < 4; i++) BB_TRY(add_option(r, lines[0], one_space, lines[2 + i], err));
    }
done:
    return status;
}

/* ---- files ---- */

static void set_name(bb_task *t, const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');
    size_t      n = dot && dot > base ? (size_t)(dot - base) : strlen(base);
    if (n >= sizeof t->name) n = sizeof t->name - 1;
    memcpy(t->name, base, n);
    t->name[n] = '\0';
}

bb_status bb_task_parse(const char *path, const char *data, size_t size, size_t limit, bb_task *t, bb_err *err)
{
    size_t    n = strlen(path);
    reader    r = { .path = path, .t = t };
    bb_sha256 sum;
    bb_status status;
    *t = (bb_task) { .kind = BB_TASK_CHOICE };
    set_name(t, path);
    bb_sha256_init(&sum);
    bb_sha256_update(&sum, data, size);
    bb_sha256_hex(&sum, t->sha256);
    if (size >= 3 && memcmp(data, "BZh", 3) == 0) return BB_FAIL(err, BB_BAD_FILE, "%s is compressed: run bunzip2 on a copy of it first", path);
    status = n >= 4 && strcmp(path + n - 4, ".txt") == 0 ? read_hellaswag(&r, data, size, limit, err) : read_json_lines(&r, data, size, limit, err);
    if (status == BB_OK && t->n_items == 0) status = BB_FAIL(err, BB_BAD_FILE, "%s has no items", path);
    if (status != BB_OK) bb_task_done(t);
    return status;
}

bb_status bb_task_load(const char *path, size_t limit, bb_task *t, bb_err *err)
{
    char     *data;
    size_t    size;
    bb_status status = bb_file_read(path, &data, &size, err);
    *t = (bb_task) { .kind = BB_TASK_CHOICE };
    if (status != BB_OK) return status;
    status = bb_task_parse(path, data, size, limit, t, err);
    bb_free(data);
    return status;
}

void bb_task_done(bb_task *t)
{
    bb_text_done(&t->text);
    bb_free(t->options);
    bb_free(t->items);
    *t = (bb_task) { .kind = BB_TASK_CHOICE };
}
