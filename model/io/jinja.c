/* SPDX-License-Identifier: GPL-3.0-or-later
 * jinja.c: see jinja.h. The template is cut into blocks (texts, values, statements) with the white space around them taken off; statements find their
 * next clause and their end; then blocks are run one after another. */
#include "model/io/jinja.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/jinja_parts.h"

enum { MAX_HELD = 1 << 26, MAX_NESTING = 64, NOWHERE = -1 };

typedef enum block_kind { B_TEXT, B_VALUE, B_STATEMENT } block_kind;
typedef struct block {
    block_kind kind;
    bb_item    what, word; /* word: of a statement; what: all of it */
    int32_t    next, end;  /* its next clause (or end), its end */
} block;

typedef struct template
{
    bb_jinja j;
    block   *blocks;
    size_t   n, capacity;
    bb_text *out;
    unsigned nesting;
    enum { GO_ON, BREAK, CONTINUE } leave;
}
template;

/* ---- what the machine holds ---- */

struct bb_jheld {
    bb_jheld *next;
};

void *bb_jinja_hold(bb_jinja *j, size_t bytes)
{
    bb_jheld *h = NULL;
    if (j->status != BB_OK) return NULL;
    if (bytes > MAX_HELD || (j->held_bytes += bytes + sizeof *h) > MAX_HELD) {
        bb_jinja_fail(j, "more than %d MiB", MAX_HELD >> 20);
        return NULL;
    }
    if (!(h = bb_alloc(1, sizeof *h + bytes, j->err))) {
        j->status = BB_NOMEM;
        return NULL;
    }
    h->next = j->held;
    j->held = h;
    return h + 1;
}

/* The expression ends where it is, so that whoever reads on finds nothing more. */
bb_jval bb_jinja_fail(bb_jinja *j, const char *format, ...)
{
    char    what[256], shown[BB_SHOWN];
    va_list args;
    if (j->status != BB_OK) return (bb_jval) { 0 };
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    j->status = BB_FAIL(j->err, BB_UNSUPPORTED,
                        "the chat template cannot be run here with %s: give --prompt with the special tokens in it, and --parse-special",
                        bb_show((bb_bytes) { what, strlen(what) }, shown));
    j->t = (bb_jtoken) { T_END, { j->end, 0 }, false, j->end };
    return (bb_jval) { 0 };
}

void bb_jinja_set(bb_jinja *j, bb_item name, bb_jval value)
{
    if (j->status != BB_OK) return;
    for (size_t i = j->scope; i < j->n_vars; i++)
        if (j->vars[i].name.n == name.n && memcmp(j->vars[i].name.at, name.at, name.n) == 0) {
            j->vars[i].value = value;
            return;
        }
    if (j->n_vars == j->capacity) {
        bb_jvar *more = bb_realloc(j->vars, 2 * j->capacity + 16, sizeof *more, j->err);
        if (!more) {
            j->status = BB_NOMEM;
            return;
        }
        j->vars = more, j->capacity = 2 * j->capacity + 16;
    }
    j->vars[j->n_vars++] = (bb_jvar) { name, value };
}

/* ---- cutting ---- */

static bool is_space(char b) { return b == ' ' || (b >= '\t' && b <= '\r'); }

static void add_block(template *t, block_kind kind, const char *from, const char *to)
{
    if (t->j.status != BB_OK) return;
    if (t->n == t->capacity) {
        block *more = bb_realloc(t->blocks, 2 * t->capacity + 64, sizeof *more, t->j.err);
        if (!more) {
            t->j.status = BB_NOMEM;
            return;
        }
        t->blocks = more, t->capacity = 2 * t->capacity + 64;
    }
    t->blocks[t->n++] = (block) { kind, { from, (size_t)(to - from) }, { NULL, 0 }, NOWHERE, NOWHERE };
}

/* Where the value or statement that begins at p ends ("}}", "%}"): not within a text, nor within its own braces. */
static const char *closing(const char *p, const char *end, char first)
{
    size_t open = 0;
    for (; p + 1 < end; p++) {
        if (*p == '\'' || *p == '"') {
            const char quote = *p++;
            while (p < end && *p != quote) p += 1 + (*p == '\\');
            if (p >= end) break;
        } else if (open == 0 && p[0] == first && p[1] == '}') return p;
        else if (*p == '{') open++;
        else if (*p == '}' && open) open--;
    }
    return NULL;
}

/* The text before a mark: "-" takes off all white space at its end; a statement or comment alone on its line the spaces before it (lstrip_blocks). */
static const char *text_end(const char *from, const char *mark, bool at_line, char kind, char sign)
{
    const char *p = mark, *line = mark;
    if (sign == '-') {
        while (p > from && is_space(p[-1])) p--;
        return p;
    }
    if (kind == '{' || sign == '+') return mark;
    while (line > from && line[-1] != '\n') line--;
    if (line == from && !at_line) return mark;
    for (p = line; p < mark && is_space(*p);) p++;
    return p == mark ? line : mark;
}

static void cut(template *t, const char *p, const char *end)
{
    bool at_line = true;
    while (p < end && t->j.status == BB_OK) {
        const char *mark = p;
        while (mark + 1 < end && !(mark[0] == '{' && (mark[1] == '{' || mark[1] == '%' || mark[1] == '#'))) mark++;
        if (mark + 1 >= end) {
            add_block(t, B_TEXT, p, end);
            return;
        }
        const char  kind = mark[1], sign = mark + 2 < end && (mark[2] == '-' || mark[2] == '+') ? mark[2] : ' ';
        const char *inner = mark + 2 + (sign == '-' || (sign == '+' && kind != '{')), *close = inner;
        if (kind == '#')
            while (close + 1 < end && !(close[0] == '#' && close[1] == '}')) close++;
        else close = closing(inner, end, kind == '{' ? '}' : '%');
        if (!close || close + 1 >= end) {
            bb_jinja_fail(&t->j, "'{%c' without its end", kind);
            return;
        }
        const char *cut_at = text_end(p, mark, at_line, kind, sign),
                   strip = close > inner && (close[-1] == '-' || (close[-1] == '+' && kind != '{')) ? close[-1] : ' ';
        if (cut_at > p) add_block(t, B_TEXT, p, cut_at);
        if (kind != '#') add_block(t, kind == '{' ? B_VALUE : B_STATEMENT, inner, close - (strip != ' '));
        p = close + 2;
        if (strip == '-')
            while (p < end && is_space(*p)) p++;
        else if (strip == ' ' && kind != '{' && p < end && *p == '\n') p++;
        at_line = p > close + 2 && p[-1] == '\n';
    }
}

/* ---- statements and their ends ---- */

static bool word_is(const block *b, const char *word) { return b->kind == B_STATEMENT && bb_item_is(b->word, word); }

/* {% set name %} without "=": its value is what stands up to endset. */
static bool opens(const block *b)
{
    return word_is(b, "if") || word_is(b, "for") || word_is(b, "macro") || (word_is(b, "set") && !memchr(b->what.at, '=', b->what.n));
}

static void match(template *t)
{
    static const char *const known[] = { "if",     "elif",  "else",     "endif", "for",      "endfor",     "set",
                                         "endset", "macro", "endmacro", "break", "continue", "generation", "endgeneration" };
    int32_t                  stack[MAX_NESTING], last[MAX_NESTING];
    size_t                   n = 0;
    for (size_t i = 0; i < t->n && t->j.status == BB_OK; i++) {
        block *b = &t->blocks[i];
        bool   is = b->kind != B_STATEMENT;
        if (is) continue;
        bb_jinja_begin(&t->j, b->what);
        b->word = bb_jinja_take_name(&t->j);
        for (size_t k = 0; k < sizeof known / sizeof *known; k++) is |= word_is(b, known[k]);
        if (t->j.status == BB_OK && !is) bb_jinja_fail(&t->j, "{%% %.*s %%}", (int)b->word.n, b->word.at);
        if (t->j.status != BB_OK) return;
        if (opens(b)) {
            if (n == MAX_NESTING) {
                bb_jinja_fail(&t->j, "more than %d statements within each other", MAX_NESTING);
                return;
            }
            stack[n] = last[n] = (int32_t)i, n++;
        } else if (word_is(b, "elif") || word_is(b, "else") || (b->word.n > 3 && memcmp(b->word.at, "end", 3) == 0 && !word_is(b, "endgeneration"))) {
            const block *of = n ? &t->blocks[stack[n - 1]] : NULL;
            const bool   end = b->word.at[1] == 'n', after_else = n && word_is(&t->blocks[last[n - 1]], "else");
            const bool   fits = !of          ? false
                                : end        ? of->word.n == b->word.n - 3 && memcmp(of->word.at, b->word.at + 3, of->word.n) == 0
                                : after_else ? false
                                             : word_is(of, "if") || (word_is(of, "for") && word_is(b, "else"));
            if (!fits) {
                bb_jinja_fail(&t->j, "{%% %.*s %%} where none belongs", (int)b->word.n, b->word.at);
                return;
            }
            t->blocks[last[n - 1]].next = (int32_t)i;
            last[n - 1] = (int32_t)i;
            if (end) t->blocks[stack[--n]].end = (int32_t)i;
        }
    }
    if (n && t->j.status == BB_OK) bb_jinja_fail(&t->j, "{%% %.*s %%} without its end", (int)t->blocks[stack[n - 1]].word.n, t->blocks[stack[n - 1]].word.at);
}

/* ---- running ---- */

static void run(template *t, int32_t i, int32_t to);

/* The expression of a statement, behind its word. */
static void enter(template *t, const block *b)
{
    bb_jinja_begin(&t->j, b->what);
    if (b->kind == B_STATEMENT) bb_jinja_next(&t->j);
}

static void run_if(template *t, int32_t at)
{
    const block *b = t->blocks;
    for (const int32_t end = b[at].end; at < end && t->j.status == BB_OK; at = b[at].next) {
        enter(t, &b[at]);
        const bool holds = word_is(&b[at], "else") || bb_jinja_truth(bb_jinja_expression(&t->j));
        if (!bb_jinja_closed(&t->j)) return;
        if (holds) {
            run(t, at + 1, b[at].next);
            return;
        }
    }
}

static bb_jval key_of(bb_jinja *j, const char *name) { return bb_jinja_text(j, name, strlen(name)); }

static bb_jval loop_values(bb_jinja *j, bb_jval list, size_t i)
{
    bb_jval       d = bb_jinja_list(j, J_DICT);
    const int64_t at = (int64_t)i, n = (int64_t)list.list->n;
    const struct {
        const char *name;
        bb_jval     value;
    } values[] = {
        { "index", bb_jinja_int(at + 1) },
        { "index0", bb_jinja_int(at) },
        { "revindex", bb_jinja_int(n - at) },
        { "revindex0", bb_jinja_int(n - at - 1) },
        { "first", bb_jinja_bool(at == 0) },
        { "last", bb_jinja_bool(at == n - 1) },
        { "length", bb_jinja_int(n) },
        { "previtem", i ? list.list->items[i - 1] : (bb_jval) { 0 } },
        { "nextitem", at < n - 1 ? list.list->items[i + 1] : (bb_jval) { 0 } },
    };
    for (size_t k = 0; k < sizeof values / sizeof *values; k++) bb_jinja_push(j, d, key_of(j, values[k].name), values[k].value);
    if (d.list) d.list->closed = true;
    return d;
}

static void bind(bb_jinja *j, const bb_item *names, size_t n, bb_jval item)
{
    if (n == 1) bb_jinja_set(j, names[0], item);
    else if (item.kind != J_LIST || item.list->n != n) bb_jinja_fail(j, "a loop with %zu names over %s", n, bb_jinja_kind(item));
    else
        for (size_t i = 0; i < n; i++) bb_jinja_set(j, names[i], item.list->items[i]);
}

static size_t open_scope(bb_jinja *j)
{
    const size_t outer = j->scope;
    j->scope = j->n_vars;
    return outer;
}

static void close_scope(bb_jinja *j, size_t outer)
{
    j->n_vars = j->scope;
    j->scope = outer;
}

/* Those of the items for which the loop's "if" holds. */
static bb_jval chosen(bb_jinja *j, const bb_item *names, size_t n, bb_jval list)
{
    const bb_jtoken start = j->t;
    bb_jval         l = bb_jinja_list(j, J_LIST);
    for (size_t i = 0; j->status == BB_OK && i < list.list->n; i++) {
        const size_t outer = open_scope(j);
        bind(j, names, n, list.list->items[i]);
        j->t = start;
        if (bb_jinja_truth(bb_jinja_expression(j))) bb_jinja_push(j, l, (bb_jval) { 0 }, list.list->items[i]);
        bb_jinja_closed(j);
        close_scope(j, outer);
    }
    return l;
}

static void run_for(template *t, int32_t at)
{
    bb_jinja    *j = &t->j;
    const block *b = &t->blocks[at];
    bb_item      names[4];
    size_t       n = 0;
    enter(t, b);
    do names[n++] = bb_jinja_take_name(j);
    while (n < 4 && bb_jinja_take(j, ","));
    if (!bb_jinja_take(j, "in")) bb_jinja_fail(j, "a loop without 'in'");
    bb_jval list = bb_jinja_or(j);
    if (j->status == BB_OK) list = bb_jinja_items(j, list);
    if (j->status == BB_OK && bb_jinja_take(j, "if")) list = chosen(j, names, n, list);
    else bb_jinja_closed(j);
    const size_t count = j->status == BB_OK ? list.list->n : 0;
    for (size_t i = 0; i < count && j->status == BB_OK && t->leave != BREAK; i++) {
        const size_t outer = open_scope(j);
        bind(j, names, n, list.list->items[i]);
        bb_jinja_set(j, (bb_item) { "loop", 4 }, loop_values(j, list, i));
        t->leave = GO_ON;
        run(t, at + 1, b->next);
        close_scope(j, outer);
        j->steps++;
    }
    t->leave = GO_ON;
    if (count == 0 && b->next != b->end) run(t, b->next + 1, b->end);
}

static void run_set(template *t, int32_t at)
{
    bb_jinja    *j = &t->j;
    const block *b = &t->blocks[at];
    bb_text      text = { 0 }, *out = t->out;
    enter(t, b);
    const bb_item name = bb_jinja_take_name(j);
    bb_item       part = { NULL, 0 };
    bb_jval       value = { 0 }, space;
    if (bb_jinja_take(j, ".")) part = bb_jinja_take_name(j);
    if (b->end == NOWHERE) {
        if (!bb_jinja_take(j, "=")) bb_jinja_fail(j, "set without one name and '='");
        value = bb_jinja_expression(j);
        bb_jinja_closed(j);
    } else if (bb_jinja_closed(j)) {
        const size_t outer = open_scope(j);
        t->out = &text;
        run(t, at + 1, b->end);
        t->out = out;
        close_scope(j, outer);
        if (text.status != BB_OK && j->status == BB_OK) j->status = BB_FAIL(j->err, text.status, "out of memory");
        value = bb_jinja_text(j, text.data, text.size);
    }
    bb_text_done(&text);
    if (part.n == 0) {
        bb_jinja_set(j, name, value);
        return;
    }
    bb_jinja_begin(j, name);
    space = bb_jinja_expression(j);
    if (space.kind != J_SPACE) bb_jinja_fail(j, "set %.*s.%.*s of %s", (int)name.n, name.at, (int)part.n, part.at, bb_jinja_kind(space));
    else bb_jinja_push(j, space, bb_jinja_text(j, part.at, part.n), value);
}

static void run_value(template *t, const block *b)
{
    enter(t, b);
    const bb_jval v = bb_jinja_expression(&t->j);
    if (!bb_jinja_closed(&t->j)) return;
    const bb_jval text = bb_jinja_string(&t->j, v);
    if (t->j.status == BB_OK && (t->j.held_bytes += text.n) > MAX_HELD) bb_jinja_fail(&t->j, "more than %d MiB", MAX_HELD >> 20);
    if (t->j.status == BB_OK) bb_text_addn(t->out, text.n ? text.text : "", text.n);
}

static void run(template *t, int32_t i, int32_t to)
{
    if (++t->nesting > MAX_NESTING) bb_jinja_fail(&t->j, "more than %d statements within each other", MAX_NESTING);
    while (i < to && t->j.status == BB_OK && t->leave == GO_ON) {
        const block *b = &t->blocks[i];
        if (b->kind == B_TEXT) bb_text_addn(t->out, b->what.at, b->what.n);
        else if (b->kind == B_VALUE) run_value(t, b);
        else if (word_is(b, "if")) run_if(t, i);
        else if (word_is(b, "for")) run_for(t, i);
        else if (word_is(b, "set")) run_set(t, i);
        else if (word_is(b, "break")) t->leave = BREAK;
        else if (word_is(b, "continue")) t->leave = CONTINUE;
        i = b->end == NOWHERE ? i + 1 : b->end + 1; /* a macro is passed over: its name stays unknown, and a call of it is refused */
    }
    t->nesting--;
}

static void set_text(bb_jinja *j, const char *name, const char *text, size_t n)
{
    bb_jinja_set(j, (bb_item) { name, strlen(name) }, bb_jinja_text(j, text, n));
}

static void set_names(bb_jinja *j, const bb_jinja_message *m, size_t n, const bb_jinja_name *names, size_t n_names)
{
    bb_jval list = bb_jinja_list(j, J_LIST);
    for (size_t i = 0; i < n && j->status == BB_OK; i++) {
        bb_jval d = bb_jinja_list(j, J_DICT);
        bb_jinja_push(j, d, key_of(j, "role"), key_of(j, m[i].role));
        bb_jinja_push(j, d, key_of(j, "content"), key_of(j, m[i].text));
        bb_jinja_push(j, list, (bb_jval) { 0 }, d);
    }
    for (size_t i = 0; i < n_names; i++)
        if (names[i].text.data) set_text(j, names[i].name, names[i].text.data, (size_t)names[i].text.size);
    bb_jinja_set(j, (bb_item) { "messages", 8 }, list);
    bb_jinja_set(j, (bb_item) { "tools", 5 }, (bb_jval) { .kind = J_NONE });
    bb_jinja_set(j, (bb_item) { "documents", 9 }, (bb_jval) { .kind = J_NONE });
    bb_jinja_set(j, (bb_item) { "add_generation_prompt", 21 }, bb_jinja_bool(true));
}

/* Line ends as Jinja has them: \n alone, and none at the end of the template. */
static bb_item lines(bb_jinja *j, bb_bytes from)
{
    const size_t size = (size_t)from.size;
    char        *text = bb_jinja_hold(j, size);
    size_t       n = 0;
    for (size_t i = 0; text && i < size; i++) {
        text[n++] = from.data[i] == '\r' ? '\n' : from.data[i];
        i += from.data[i] == '\r' && i + 1 < size && from.data[i + 1] == '\n';
    }
    if (n && text[n - 1] == '\n') n--;
    return (bb_item) { text, n };
}

bb_status bb_jinja_render(bb_bytes from, const bb_jinja_message *m, size_t n, const bb_jinja_name *names, size_t n_names, time_t now, bb_text *out, bb_err *err)
{
    template t = { .j = { .now = now, .err = err }, .out = out };
    bb_jinja     *j = &t.j;
    const bb_item text = lines(j, from);
    if (j->status == BB_OK) {
        j->end = text.at + text.n;
        cut(&t, text.at, text.at + text.n);
        match(&t);
    }
    set_names(j, m, n, names, n_names);
    run(&t, 0, (int32_t)t.n);
    if (t.leave != GO_ON) bb_jinja_fail(j, "break or continue outside of a loop");
    if (j->status == BB_OK && out->status != BB_OK) j->status = BB_FAIL(err, out->status, "out of memory");
    for (bb_jheld *h = j->held, *next; h; h = next) {
        next = h->next;
        bb_free(h);
    }
    bb_free(j->vars);
    bb_free(t.blocks);
    return j->status;
}
