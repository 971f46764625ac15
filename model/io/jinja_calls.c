/* SPDX-License-Identifier: GPL-3.0-or-later
 * jinja_calls.c: see jinja_parts.h. Functions, methods, filters and tests: a row each. */
#include <string.h>

#include "model/io/jinja_parts.h"

/* Bytes of the white space at p, as Python has it (some of it is not ASCII); 0: there is none. */
static size_t space_at(const char *p, size_t n)
{
    static const char *const others[] = {
        "\xC2\x85", "\xC2\xA0", "\xE1\x9A\x80", "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"
    };
    if (n == 0) return 0;
    if (*p == ' ' || (*p >= '\t' && *p <= '\r') || (*p >= 0x1C && *p <= 0x1F)) return 1;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (n >= strlen(others[i]) && memcmp(p, others[i], strlen(others[i])) == 0) return strlen(others[i]);
    return n >= 3 && memcmp(p, "\xE2\x80", 2) == 0 && (unsigned char)p[2] >= 0x80 && (unsigned char)p[2] <= 0x8A ? 3 : 0;
}

/* The same of the white space that ends behind n bytes. */
static size_t space_before(const char *p, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++)
        if (space_at(p + n - k, k) == k) return k;
    return 0;
}

bb_item bb_jinja_trimmed(bb_item text)
{
    for (size_t k; (k = space_at(text.at, text.n)) > 0;) text.at += k, text.n -= k;
    for (size_t k; (k = space_before(text.at, text.n)) > 0;) text.n -= k;
    return text;
}

/* An argument by its place or its name; undefined: not given. */
static bb_jval argument(const bb_jargs *a, size_t place, const char *name)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->names[i].n ? bb_item_is(a->names[i], name) : i == place) return a->values[i];
    return (bb_jval) { 0 };
}

static bool counted(bb_jinja *j, const bb_jargs *a, size_t most, const char *names, bb_item of)
{
    for (size_t i = 0; i < a->n; i++) {
        const char *rest = names;
        bool        known = a->names[i].n == 0;
        for (bb_item name; !known && bb_list_next(&rest, &name);) known = name.n == a->names[i].n && memcmp(name.at, a->names[i].at, name.n) == 0;
        if (!known) bb_jinja_fail(j, "%.*s(%.*s=)", (int)of.n, of.at, (int)a->names[i].n, a->names[i].at);
    }
    if (a->n > most) bb_jinja_fail(j, "%.*s with %zu arguments", (int)of.n, of.at, a->n);
    return j->status == BB_OK;
}

/* ---- texts ---- */

typedef enum sides { LEFT = 1, RIGHT = 2, BOTH = 3 } sides;

static bool one_of(bb_jval chars, char b) { return chars.n && memchr(chars.text, b, chars.n) != NULL; }

/* chars: a text, of which ASCII alone is taken here; otherwise white space. */
static bb_jval strip(bb_jinja *j, bb_jval v, bb_jval chars, sides s)
{
    const bool space = chars.kind != J_TEXT;
    for (size_t i = 0; i < chars.n; i++)
        if ((unsigned char)chars.text[i] > 127) return bb_jinja_fail(j, "strip() of characters that are not ASCII");
    for (size_t k; (s & LEFT) && v.n && (k = space ? space_at(v.text, v.n) : one_of(chars, *v.text)) > 0;) v.text += k, v.n -= k;
    for (size_t k; (s & RIGHT) && v.n && (k = space ? space_before(v.text, v.n) : one_of(chars, v.text[v.n - 1])) > 0;) v.n -= k;
    return v;
}

/* ASCII letters only: another letter is refused. */
static bb_jval cased(bb_jinja *j, bb_jval v, bool up, bool rest_up)
{
    char *text = bb_jinja_hold(j, v.n);
    for (size_t i = 0; text && i < v.n; i++) {
        const char b = v.text[i];
        if ((unsigned char)b > 127) return bb_jinja_fail(j, "upper and lower case of a text that is not ASCII");
        text[i] = (i ? rest_up : up) ? (b >= 'a' && b <= 'z' ? (char)(b - 32) : b) : (b >= 'A' && b <= 'Z' ? (char)(b + 32) : b);
    }
    v.text = text;
    return v;
}

static size_t found(bb_jval v, size_t from, bb_jval part)
{
    for (size_t i = from; i + part.n <= v.n; i++)
        if (memcmp(v.text + i, part.text, part.n) == 0) return i;
    return SIZE_MAX;
}

static void put(bb_jinja *j, bb_jval list, bb_jval item) { bb_jinja_push(j, list, (bb_jval) { 0 }, item); }

static bb_jval part_of(bb_jval v, size_t from, size_t to) { return (bb_jval) { .kind = J_TEXT, .text = v.text + from, .n = to - from }; }

static bb_jval split(bb_jinja *j, bb_jval v, bb_jval by, bb_jval most)
{
    bb_jval l = bb_jinja_list(j, J_LIST);
    size_t  from = 0, cuts = most.kind == J_INT && most.number >= 0 ? (size_t)most.number : SIZE_MAX;
    if (by.kind != J_TEXT) { /* at white space; no empty part */
        if (cuts != SIZE_MAX) return bb_jinja_fail(j, "split() at white space a number of times");
        for (size_t i = 0, k; i <= v.n; i += k ? k : 1) {
            k = space_at(v.text + i, v.n - i);
            if (i < v.n && k == 0) continue;
            if (i > from) put(j, l, part_of(v, from, i));
            from = i + k;
        }
        return l;
    }
    if (by.n == 0) return bb_jinja_fail(j, "split('')");
    for (size_t at; cuts-- > 0 && j->status == BB_OK && (at = found(v, from, by)) != SIZE_MAX; from = at + by.n) put(j, l, part_of(v, from, at));
    put(j, l, part_of(v, from, v.n));
    return l;
}

/* Adds up texts with another between them; as the only place where a text is put together of many, it counts first. */
static bb_jval join(bb_jinja *j, bb_jval list, bb_jval between)
{
    size_t n = 0;
    if (j->status != BB_OK) return (bb_jval) { 0 }; /* what has no items is no list */
    for (size_t i = 0; i < list.list->n; i++) {
        const bb_jval s = bb_jinja_string(j, list.list->items[i]);
        n += s.n + (i ? between.n : 0);
    }
    char *text = bb_jinja_hold(j, n), *p = text;
    if (!text || j->status != BB_OK) return (bb_jval) { 0 };
    for (size_t i = 0; i < list.list->n; i++) {
        const bb_jval s = bb_jinja_string(j, list.list->items[i]);
        if (j->status != BB_OK) return (bb_jval) { 0 };
        if (i && between.n) memcpy(p, between.text, between.n), p += between.n;
        if (s.n) memcpy(p, s.text, s.n), p += s.n;
    }
    return (bb_jval) { .kind = J_TEXT, .text = text, .n = n };
}

static bb_jval replaced(bb_jinja *j, bb_jval v, const bb_jargs *a)
{
    const bb_jval from = argument(a, 0, "old"), to = argument(a, 1, "new");
    if (a->n != 2 || from.kind != J_TEXT || to.kind != J_TEXT || from.n == 0) return bb_jinja_fail(j, "replace() with other than two texts");
    const bb_jval parts = split(j, v, from, (bb_jval) { 0 });
    return j->status == BB_OK ? join(j, parts, to) : parts;
}

/* ---- JSON, as Python's json.dumps(ensure_ascii=False) writes it ---- */

static void put_json_text(bb_text *out, bb_jval v)
{
    static const char marks[] = "\"\\\n\r\t\b\f", letters[] = "\"\\nrtbf";
    bb_text_add(out, "\"");
    for (size_t i = 0; i < v.n; i++) {
        const char  b = v.text[i];
        const char *at = b ? strchr(marks, b) : NULL;
        if (at) bb_text_addf(out, "\\%c", letters[at - marks]);
        else if ((unsigned char)b < 32) bb_text_addf(out, "\\u%04x", (unsigned)b);
        else bb_text_addn(out, &b, 1);
    }
    bb_text_add(out, "\"");
}

static void put_json(bb_jinja *j, bb_text *out, bb_jval v, unsigned depth)
{
    const bool dict = v.kind == J_DICT;
    if (depth > 32) bb_jinja_fail(j, "tojson of more than 32 lists within each other");
    bb_jinja_step(j); /* a list may be within others many times over */
    if (j->status != BB_OK) return;
    if (v.kind == J_TEXT) put_json_text(out, v);
    else if (v.kind == J_NONE) bb_text_add(out, "null");
    else if (v.kind == J_BOOL) bb_text_add(out, v.number ? "true" : "false");
    else if (v.kind == J_INT) bb_text_addf(out, "%lld", (long long)v.number);
    else if (v.kind == J_LIST || dict) {
        bb_text_add(out, dict ? "{" : "[");
        for (size_t i = 0; i < v.list->n; i++) {
            if (i) bb_text_add(out, ", ");
            if (dict && v.list->keys[i].kind != J_TEXT) bb_jinja_fail(j, "tojson of a dict with other keys than texts");
            else if (dict) put_json_text(out, v.list->keys[i]), bb_text_add(out, ": ");
            put_json(j, out, v.list->items[i], depth + 1);
        }
        bb_text_add(out, dict ? "}" : "]");
    } else bb_jinja_fail(j, "tojson of %s", bb_jinja_kind(v));
}

static bb_jval json(bb_jinja *j, bb_jval v)
{
    bb_text out = { 0 };
    put_json(j, &out, v, 0);
    if (out.status != BB_OK && j->status == BB_OK) j->status = BB_FAIL(j->err, out.status, "out of memory");
    const bb_jval text = bb_jinja_text(j, out.data, out.size);
    bb_text_done(&out);
    return text;
}

/* ---- functions ---- */

static const char *const functions[] = { "raise_exception", "strftime_now", "namespace", "dict", "range" };
static const char *const unsupported[] = { "cycler", "joiner", "lipsum" }; /* they are defined, and refused where they are called */

bool bb_jinja_is_function(bb_item name)
{
    bool is = false;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) is |= bb_item_is(name, functions[i]);
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) is |= bb_item_is(name, unsupported[i]);
    return is;
}

static bb_jval range(bb_jinja *j, const bb_jargs *a)
{
    bb_jval l = bb_jinja_list(j, J_LIST);
    for (size_t i = 0; i < a->n; i++)
        if (a->values[i].kind != J_INT || a->names[i].n) return bb_jinja_fail(j, "range() of %s", bb_jinja_kind(a->values[i]));
    if (a->n < 1 || a->n > 2) return bb_jinja_fail(j, "range() with %zu arguments", a->n);
    for (int64_t i = a->n == 2 ? a->values[0].number : 0; j->status == BB_OK && i < a->values[a->n - 1].number; i++) put(j, l, bb_jinja_int(i));
    return l;
}

bb_jval bb_jinja_call(bb_jinja *j, bb_item name, const bb_jargs *a)
{
    char said[200], format[80];
    if (bb_item_is(name, "range")) return range(j, a);
    if (bb_item_is(name, "namespace") || bb_item_is(name, "dict")) {
        bb_jval space = bb_jinja_list(j, *name.at == 'n' ? J_SPACE : J_DICT);
        for (size_t i = 0; i < a->n; i++)
            if (a->names[i].n) bb_jinja_push(j, space, bb_jinja_text(j, a->names[i].at, a->names[i].n), a->values[i]);
            else return bb_jinja_fail(j, "%.*s() of %s", (int)name.n, name.at, bb_jinja_kind(a->values[i]));
        return space;
    }
    if (a->n == 1 && a->values[0].kind == J_TEXT && bb_item_is(name, "raise_exception")) {
        const bb_jval v = a->values[0];
        return bb_jinja_fail(j, "these messages, as it says: %.*s", (int)(v.n < 160 ? v.n : 160), v.text);
    }
    if (a->n == 1 && a->values[0].kind == J_TEXT && a->values[0].n && a->values[0].n < sizeof format && bb_item_is(name, "strftime_now")) {
        struct tm local;
        memcpy(format, a->values[0].text, a->values[0].n);
        format[a->values[0].n] = '\0';
        const size_t n = localtime_r(&j->now, &local) ? strftime(said, sizeof said, format, &local) : 0;
        if (n) return bb_jinja_text(j, said, n);
    }
    return bb_jinja_fail(j, "%.*s() with these arguments", (int)name.n, name.at);
}

/* ---- methods ---- */

static bb_jval pairs(bb_jinja *j, bb_jval d)
{
    bb_jval l = bb_jinja_list(j, J_LIST);
    for (size_t i = 0; j->status == BB_OK && i < d.list->n; i++) {
        const bb_jval pair = bb_jinja_list(j, J_LIST);
        put(j, pair, d.list->keys[i]);
        put(j, pair, d.list->items[i]);
        put(j, l, pair);
    }
    return l;
}

static bool ends(bb_jval v, bb_jval part, bool front)
{
    return part.n <= v.n && (part.n == 0 || memcmp(v.text + (front ? 0 : v.n - part.n), part.text, part.n) == 0);
}

static bb_jval text_method(bb_jinja *j, bb_jval v, bb_item name, const bb_jargs *a)
{
    const bb_jval x = a->n ? a->values[0] : (bb_jval) { 0 };
    const bool    text = a->n == 1 && x.kind == J_TEXT, none = a->n == 0;
    if (none || text) {
        if (bb_item_is(name, "strip")) return strip(j, v, x, BOTH);
        if (bb_item_is(name, "lstrip")) return strip(j, v, x, LEFT);
        if (bb_item_is(name, "rstrip")) return strip(j, v, x, RIGHT);
    }
    if (text && bb_item_is(name, "startswith")) return bb_jinja_bool(ends(v, x, true));
    if (text && bb_item_is(name, "endswith")) return bb_jinja_bool(ends(v, x, false));
    if (none && bb_item_is(name, "upper")) return cased(j, v, true, true);
    if (none && bb_item_is(name, "lower")) return cased(j, v, false, false);
    if (none && bb_item_is(name, "capitalize")) return cased(j, v, true, false);
    if (bb_item_is(name, "split") && (none || x.kind == J_TEXT) && counted(j, a, 2, "sep,maxsplit", name))
        return split(j, v, argument(a, 0, "sep"), argument(a, 1, "maxsplit"));
    if (bb_item_is(name, "replace")) return replaced(j, v, a);
    if (bb_item_is(name, "join") && a->n == 1 && x.kind == J_LIST) return join(j, x, v);
    return bb_jinja_fail(j, "%.*s() of a text", (int)name.n, name.at);
}

bb_jval bb_jinja_method(bb_jinja *j, bb_jval of, bb_item name, const bb_jargs *a)
{
    bb_jval v;
    for (size_t i = 0; i < a->n; i++)
        if (a->names[i].n && !bb_item_is(name, "split")) return bb_jinja_fail(j, "%.*s(%.*s=)", (int)name.n, name.at, (int)a->names[i].n, a->names[i].at);
    if (of.kind == J_TEXT) return text_method(j, of, name, a);
    if (of.kind == J_DICT && !of.list->closed) {
        if (a->n == 0 && bb_item_is(name, "items")) return pairs(j, of);
        if (a->n == 0 && bb_item_is(name, "keys")) return bb_jinja_items(j, of);
        if ((a->n == 1 || a->n == 2) && a->values[0].kind == J_TEXT && bb_item_is(name, "get"))
            return bb_jinja_find(of, (bb_item) { a->values[0].text, a->values[0].n }, &v) ? v : a->n == 2 ? a->values[1] : (bb_jval) { .kind = J_NONE };
    }
    return bb_jinja_fail(j, "%.*s() of %s", (int)name.n, name.at, bb_jinja_kind(of));
}

/* ---- filters ---- */

static bb_jval picked(bb_jinja *j, bb_jval v, const bb_jargs *a, bool keep)
{
    const bb_jval list = bb_jinja_items(j, v);
    bb_jval       l = bb_jinja_list(j, J_LIST), item;
    const bb_item test = a->n > 1 && a->values[1].kind == J_TEXT ? (bb_item) { a->values[1].text, a->values[1].n } : (bb_item) { "", 0 };
    if (a->n < 1 || a->n > 3 || a->values[0].kind != J_TEXT || (a->n > 1) != (test.n > 0) || (a->n == 3) != bb_jinja_test_has_argument(test))
        return bb_jinja_fail(j, "selectattr with these arguments");
    for (size_t i = 0; j->status == BB_OK && i < list.list->n; i++) {
        if (list.list->items[i].kind != J_DICT) return bb_jinja_fail(j, "selectattr of %s", bb_jinja_kind(list.list->items[i]));
        if (!bb_jinja_find(list.list->items[i], (bb_item) { a->values[0].text, a->values[0].n }, &item)) item = (bb_jval) { 0 };
        if ((test.n ? bb_jinja_test(j, item, test, a->values[a->n - 1]) : bb_jinja_truth(item)) == keep) put(j, l, list.list->items[i]);
    }
    return l;
}

static bb_jval length(bb_jinja *j, bb_jval v)
{
    size_t n = 0;
    if (v.kind == J_TEXT)
        for (size_t i = 0; i < v.n; i++) n += ((unsigned char)v.text[i] & 0xC0) != 0x80;
    else if (v.kind == J_LIST || v.kind == J_DICT) n = v.list->n;
    else if (v.kind != J_UNDEFINED) return bb_jinja_fail(j, "the length of %s", bb_jinja_kind(v));
    return bb_jinja_int((int64_t)n);
}

bb_jval bb_jinja_filter(bb_jinja *j, bb_jval of, bb_item name, const bb_jargs *a)
{
    const bb_jval x = a->n ? a->values[0] : (bb_jval) { 0 };
    for (size_t i = 0; i < a->n; i++)
        if (a->names[i].n && !bb_item_is(name, "tojson") && !bb_item_is(name, "default"))
            return bb_jinja_fail(j, "the filter %.*s(%.*s=)", (int)name.n, name.at, (int)a->names[i].n, a->names[i].at);
    if (bb_item_is(name, "tojson") && counted(j, a, 1, "ensure_ascii", name) && (a->n == 0 || (a->names[0].n && x.kind == J_BOOL && !x.number)))
        return json(j, of);
    if ((bb_item_is(name, "default") || bb_item_is(name, "d")) && counted(j, a, 2, "default_value,boolean", name)) {
        const bool given = bb_jinja_truth(argument(a, 1, "boolean")) ? bb_jinja_truth(of) : of.kind != J_UNDEFINED;
        return given ? of : a->n ? argument(a, 0, "default_value") : bb_jinja_text(j, "", 0);
    }
    if (bb_item_is(name, "selectattr")) return picked(j, of, a, true);
    if (bb_item_is(name, "rejectattr")) return picked(j, of, a, false);
    if (bb_item_is(name, "join") && a->n <= 1 && (a->n == 0 || x.kind == J_TEXT)) return join(j, bb_jinja_items(j, of), x);
    if (bb_item_is(name, "replace")) return replaced(j, bb_jinja_string(j, of), a);
    if (bb_item_is(name, "trim") && (a->n == 0 || (a->n == 1 && x.kind == J_TEXT))) return strip(j, bb_jinja_string(j, of), x, BOTH);
    if (a->n) return bb_jinja_fail(j, "the filter %.*s with these arguments", (int)name.n, name.at);
    if (bb_item_is(name, "length") || bb_item_is(name, "count")) return length(j, of);
    if (bb_item_is(name, "string")) return bb_jinja_string(j, of);
    if (bb_item_is(name, "upper")) return cased(j, bb_jinja_string(j, of), true, true);
    if (bb_item_is(name, "lower")) return cased(j, bb_jinja_string(j, of), false, false);
    if (bb_item_is(name, "capitalize")) return cased(j, bb_jinja_string(j, of), true, false);
    if (bb_item_is(name, "items") && of.kind == J_DICT) return pairs(j, of);
    if (of.kind == J_LIST && (bb_item_is(name, "first") || bb_item_is(name, "last")))
        return of.list->n ? of.list->items[*name.at == 'f' ? 0 : of.list->n - 1] : (bb_jval) { 0 };
    if (bb_item_is(name, "list") && of.kind != J_TEXT) return bb_jinja_items(j, of);
    return bb_jinja_fail(j, "the filter %.*s of %s", (int)name.n, name.at, bb_jinja_kind(of));
}

/* ---- tests ---- */

enum { ALL = -1 };

static const struct {
    const char *name;
    int         kinds; /* bits of bb_jkind */
} of_kind[] = {
    { "undefined", 1 << J_UNDEFINED },
    { "defined", ALL ^ 1 << J_UNDEFINED },
    { "none", 1 << J_NONE },
    { "boolean", 1 << J_BOOL },
    { "integer", 1 << J_INT },
    { "number", 1 << J_INT | 1 << J_BOOL },
    { "string", 1 << J_TEXT },
    { "mapping", 1 << J_DICT },
    { "callable", 1 << J_FUNCTION },
    { "iterable", 1 << J_TEXT | 1 << J_LIST | 1 << J_DICT | 1 << J_UNDEFINED },
    { "sequence", 1 << J_TEXT | 1 << J_LIST | 1 << J_DICT | 1 << J_UNDEFINED },
};

bool bb_jinja_test_has_argument(bb_item name)
{
    return bb_item_is(name, "==") || bb_item_is(name, "eq") || bb_item_is(name, "equalto") || bb_item_is(name, "ne") || bb_item_is(name, "in");
}

bool bb_jinja_test(bb_jinja *j, bb_jval of, bb_item name, bb_jval arg)
{
    for (size_t i = 0; i < sizeof of_kind / sizeof *of_kind; i++)
        if (bb_item_is(name, of_kind[i].name)) return (of_kind[i].kinds >> of.kind & 1) != 0;
    if (bb_item_is(name, "true") || bb_item_is(name, "false")) return of.kind == J_BOOL && (of.number != 0) == (*name.at == 't');
    if (of.kind == J_INT && (bb_item_is(name, "odd") || bb_item_is(name, "even"))) return (of.number % 2 != 0) == (*name.at == 'o');
    if (bb_item_is(name, "in")) return bb_jinja_in(j, of, arg);
    if (bb_jinja_test_has_argument(name)) return bb_jinja_same(j, of, arg) == (*name.at != 'n');
    bb_jinja_fail(j, "the test %.*s of %s", (int)name.n, name.at, bb_jinja_kind(of));
    return false;
}
