/* SPDX-License-Identifier: GPL-3.0-or-later
 * jinja_expr.c: see jinja_parts.h. Expressions are computed as they are read; what is not computed (the other arm of an "if", what stands behind a true
 * "or") is read with `dead`, where nothing fails but what cannot be read. */
#include <stdio.h>
#include <string.h>

#include "model/io/jinja_parts.h"

enum { MAX_DEPTH = 64, MAX_STEPS = 1 << 22 };

/* ---- tokens ---- */

static bool is_space(char b) { return b == ' ' || (b >= '\t' && b <= '\r'); }
static bool is_digit(char b) { return b >= '0' && b <= '9'; }
static bool is_letter(char b) { return (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || b == '_'; }

static void read_text(bb_jinja *j, const char *p)
{
    const char quote = *p++, *from = p;
    while (p < j->end && *p != quote) {
        if (*p == '\\') j->t.escapes = true, p++;
        p++;
    }
    if (p >= j->end) {
        bb_jinja_fail(j, "a text without its end");
        p = j->end - 1;
    }
    j->t = (bb_jtoken) { T_TEXT, { from, p > from ? (size_t)(p - from) : 0 }, j->t.escapes, p + 1 };
}

void bb_jinja_step(bb_jinja *j)
{
    if (++j->steps > MAX_STEPS) bb_jinja_fail(j, "more steps than a template needs");
}

void bb_jinja_next(bb_jinja *j)
{
    static const char *const pairs[] = { "==", "!=", "<=", ">=", "//", "**" };
    const char              *p = j->t.behind;
    bb_jinja_step(j);
    while (p < j->end && is_space(*p)) p++;
    j->t = (bb_jtoken) { T_END, { p, 0 }, false, p };
    if (p >= j->end || j->status != BB_OK) return;
    if (*p == '\'' || *p == '"') {
        read_text(j, p);
        return;
    }
    const char *q = p + 1;
    j->t.type = is_letter(*p) ? T_NAME : is_digit(*p) ? T_INT : T_SIGN;
    if (j->t.type == T_NAME)
        while (q < j->end && (is_letter(*q) || is_digit(*q))) q++;
    if (j->t.type == T_INT)
        while (q < j->end && is_digit(*q)) q++;
    for (size_t i = 0; j->t.type == T_SIGN && i < sizeof pairs / sizeof *pairs; i++)
        if (q < j->end && pairs[i][0] == p[0] && pairs[i][1] == p[1]) q = p + 2;
    j->t.what = (bb_item) { p, (size_t)(q - p) };
    j->t.behind = q;
}

void bb_jinja_begin(bb_jinja *j, bb_item expression)
{
    j->t = (bb_jtoken) { T_END, expression, false, expression.at };
    j->end = expression.at + expression.n;
    bb_jinja_next(j);
}

static void go_back(bb_jinja *j, bb_jtoken to) { j->t = to; }

bool bb_jinja_is(const bb_jinja *j, const char *word) { return (j->t.type == T_NAME || j->t.type == T_SIGN) && bb_item_is(j->t.what, word); }

bool bb_jinja_take(bb_jinja *j, const char *word)
{
    const bool is = bb_jinja_is(j, word);
    if (is) bb_jinja_next(j);
    return is;
}

static void expect(bb_jinja *j, const char *sign)
{
    if (!bb_jinja_take(j, sign)) bb_jinja_fail(j, "no '%s' before '%.*s'", sign, (int)(j->end - j->t.what.at < 24 ? j->end - j->t.what.at : 24), j->t.what.at);
}

bb_item bb_jinja_take_name(bb_jinja *j)
{
    const bb_item name = j->t.what;
    if (j->t.type != T_NAME) bb_jinja_fail(j, "no name at '%.*s'", (int)(j->end - name.at < 24 ? j->end - name.at : 24), name.at);
    else bb_jinja_next(j);
    return name;
}

bool bb_jinja_closed(bb_jinja *j)
{
    if (j->t.type != T_END) bb_jinja_fail(j, "'%.*s'", (int)(j->end - j->t.what.at < 40 ? j->end - j->t.what.at : 40), j->t.what.at);
    return j->status == BB_OK;
}

/* ---- values ---- */

bb_jval bb_jinja_int(int64_t number) { return (bb_jval) { .kind = J_INT, .number = number }; }
bb_jval bb_jinja_bool(bool yes) { return (bb_jval) { .kind = J_BOOL, .number = yes }; }

bb_jval bb_jinja_text(bb_jinja *j, const char *text, size_t n)
{
    char *copy = bb_jinja_hold(j, n);
    if (!copy) return (bb_jval) { 0 };
    if (n) memcpy(copy, text, n);
    return (bb_jval) { .kind = J_TEXT, .text = copy, .n = n };
}

bb_jval bb_jinja_list(bb_jinja *j, bb_jkind kind)
{
    bb_jlist *l = bb_jinja_hold(j, sizeof *l);
    if (!l) return (bb_jval) { 0 };
    *l = (bb_jlist) { 0 };
    return (bb_jval) { .kind = kind, .list = l };
}

static bool keyed(bb_jval v) { return v.kind == J_DICT || v.kind == J_SPACE; }

void bb_jinja_push(bb_jinja *j, bb_jval list, bb_jval key, bb_jval item)
{
    bb_jlist *l = list.list;
    if (j->status != BB_OK || !l) return;
    for (size_t i = 0; keyed(list) && i < l->n; i++)
        if (bb_jinja_same(j, l->keys[i], key)) {
            l->items[i] = item;
            return;
        }
    if (l->n == l->capacity) {
        const size_t capacity = l->capacity ? 2 * l->capacity : 8;
        bb_jval     *items = bb_jinja_hold(j, 2 * capacity * sizeof *items);
        if (!items) return;
        if (l->n) {
            memcpy(items, l->items, l->n * sizeof *items);
            memcpy(items + capacity, l->keys, l->n * sizeof *items);
        }
        l->items = items, l->keys = items + capacity, l->capacity = capacity;
    }
    l->items[l->n] = item;
    l->keys[l->n++] = key;
}

bool bb_jinja_find(bb_jval dict, bb_item key, bb_jval *value)
{
    for (size_t i = 0; keyed(dict) && i < dict.list->n; i++) {
        const bb_jval k = dict.list->keys[i];
        if (k.kind == J_TEXT && k.n == key.n && memcmp(k.text, key.at, key.n) == 0) {
            *value = dict.list->items[i];
            return true;
        }
    }
    return false;
}

const char *bb_jinja_kind(bb_jval v)
{
    static const char *const names[] = { "an undefined value", "none", "a truth value", "a number", "a text", "a list", "a dict", "a namespace", "a function" };
    return names[v.kind];
}

bool bb_jinja_truth(bb_jval v)
{
    switch (v.kind) {
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL:
    case J_INT: return v.number != 0;
    case J_TEXT: return v.n > 0;
    case J_LIST:
    case J_DICT: return v.list->n > 0;
    case J_SPACE:
    case J_FUNCTION: break;
    }
    return true;
}

static bool numeric(bb_jval v) { return v.kind == J_BOOL || v.kind == J_INT; }

bool bb_jinja_same(bb_jinja *j, bb_jval a, bb_jval b)
{
    if (numeric(a) && numeric(b)) return a.number == b.number;
    if (a.kind != b.kind) return false;
    if (a.kind == J_TEXT) return a.n == b.n && memcmp(a.text, b.text, a.n) == 0;
    if (a.kind <= J_NONE) return true;
    if (a.kind != J_LIST || j->depth >= MAX_DEPTH) {
        bb_jinja_fail(j, "a comparison of %s with another", bb_jinja_kind(a));
        return false;
    }
    bool same = a.list->n == b.list->n;
    j->depth++;
    bb_jinja_step(j); /* lists may be within others many times over */
    for (size_t i = 0; same && j->status == BB_OK && i < a.list->n; i++) same = bb_jinja_same(j, a.list->items[i], b.list->items[i]);
    j->depth--;
    return same;
}

static bool within(bb_jval part, bb_jval whole)
{
    for (size_t i = 0; i + part.n <= whole.n; i++)
        if (memcmp(whole.text + i, part.text, part.n) == 0) return true;
    return false;
}

bool bb_jinja_in(bb_jinja *j, bb_jval a, bb_jval b)
{
    if (b.kind == J_TEXT && a.kind == J_TEXT) return within(a, b);
    if (b.kind == J_LIST || b.kind == J_DICT)
        for (size_t i = 0; i < b.list->n; i++)
            if (bb_jinja_same(j, a, b.kind == J_DICT ? b.list->keys[i] : b.list->items[i])) return true;
    if (b.kind != J_LIST && b.kind != J_DICT && b.kind != J_UNDEFINED) bb_jinja_fail(j, "%s in %s", bb_jinja_kind(a), bb_jinja_kind(b));
    return false;
}

bb_jval bb_jinja_string(bb_jinja *j, bb_jval v)
{
    char number[24];
    switch (v.kind) {
    case J_TEXT: return v;
    case J_UNDEFINED: return bb_jinja_text(j, "", 0);
    case J_NONE: return bb_jinja_text(j, "None", 4);
    case J_BOOL: return bb_jinja_text(j, v.number ? "True" : "False", v.number ? 4 : 5);
    case J_INT: snprintf(number, sizeof number, "%lld", (long long)v.number); return bb_jinja_text(j, number, strlen(number));
    case J_LIST:
    case J_DICT:
    case J_SPACE:
    case J_FUNCTION: break;
    }
    return bb_jinja_fail(j, "%s written as a text", bb_jinja_kind(v));
}

bb_jval bb_jinja_items(bb_jinja *j, bb_jval v)
{
    if (v.kind == J_LIST) return v;
    bb_jval l = bb_jinja_list(j, J_LIST);
    if (v.kind == J_DICT)
        for (size_t i = 0; i < v.list->n; i++) bb_jinja_push(j, l, (bb_jval) { 0 }, v.list->keys[i]);
    else if (v.kind != J_UNDEFINED) return bb_jinja_fail(j, "a loop over %s", bb_jinja_kind(v));
    return l;
}

/* ---- operators ---- */

static int order(bb_jinja *j, bb_jval a, bb_jval b)
{
    if (numeric(a) && numeric(b)) return (a.number > b.number) - (a.number < b.number);
    if (a.kind == J_TEXT && b.kind == J_TEXT) {
        const size_t n = a.n < b.n ? a.n : b.n;
        const int    c = n ? memcmp(a.text, b.text, n) : 0;
        return c ? c : (a.n > b.n) - (a.n < b.n);
    }
    bb_jinja_fail(j, "a comparison of %s and %s", bb_jinja_kind(a), bb_jinja_kind(b));
    return 0;
}

static bb_jval joined(bb_jinja *j, bb_jval a, bb_jval b)
{
    char *text = bb_jinja_hold(j, a.n + b.n);
    if (!text) return (bb_jval) { 0 };
    if (a.n) memcpy(text, a.text, a.n);
    if (b.n) memcpy(text + a.n, b.text, b.n);
    return (bb_jval) { .kind = J_TEXT, .text = text, .n = a.n + b.n };
}

static bb_jval computed(bb_jinja *j, char sign, bb_jval a, bb_jval b)
{
    int64_t x = 0;
    bool    over = false;
    if (sign == '+' && a.kind == J_TEXT && b.kind == J_TEXT) return joined(j, a, b);
    if (sign == '+' && a.kind == J_LIST && b.kind == J_LIST) {
        bb_jval l = bb_jinja_list(j, J_LIST);
        for (size_t i = 0; l.list && i < a.list->n; i++) bb_jinja_push(j, l, (bb_jval) { 0 }, a.list->items[i]);
        for (size_t i = 0; l.list && i < b.list->n; i++) bb_jinja_push(j, l, (bb_jval) { 0 }, b.list->items[i]);
        return l;
    }
    if (!numeric(a) || !numeric(b)) return bb_jinja_fail(j, "'%c' of %s and %s", sign, bb_jinja_kind(a), bb_jinja_kind(b));
    if (sign == '+') over = __builtin_add_overflow(a.number, b.number, &x);
    if (sign == '-') over = __builtin_sub_overflow(a.number, b.number, &x);
    if (sign == '*') over = __builtin_mul_overflow(a.number, b.number, &x);
    if (sign == '%' || sign == '/') {
        over = b.number == 0 || (b.number == -1 && sign == '/' && a.number == INT64_MIN);
        if (!over && b.number == -1) x = sign == '/' ? -a.number : 0;
        else if (!over) {
            const int64_t rest = a.number % b.number, down = rest != 0 && (rest < 0) != (b.number < 0);
            x = sign == '/' ? a.number / b.number - down : rest + down * b.number;
        }
    }
    return over ? bb_jinja_fail(j, "a number that is too large, or a division by 0") : bb_jinja_int(x);
}

/* ---- what is read ---- */

static bb_jval unary(bb_jinja *j, bool filters);

static bb_jval product(bb_jinja *j)
{
    bb_jval v = unary(j, true);
    while (bb_jinja_is(j, "*") || bb_jinja_is(j, "//") || bb_jinja_is(j, "%")) {
        const char sign = *j->t.what.at;
        bb_jinja_next(j);
        const bb_jval b = unary(j, true);
        v = j->dead ? v : computed(j, sign, v, b);
    }
    return v;
}

static bb_jval concatenation(bb_jinja *j)
{
    bb_jval v = product(j);
    while (bb_jinja_take(j, "~")) {
        const bb_jval b = product(j);
        if (!j->dead) v = joined(j, bb_jinja_string(j, v), bb_jinja_string(j, b));
    }
    return v;
}

static bb_jval sum(bb_jinja *j)
{
    bb_jval v = concatenation(j);
    while (bb_jinja_is(j, "+") || bb_jinja_is(j, "-")) {
        const char sign = *j->t.what.at;
        bb_jinja_next(j);
        const bb_jval b = concatenation(j);
        v = j->dead ? v : computed(j, sign, v, b);
    }
    return v;
}

static bool compared(bb_jinja *j, bb_item sign, bb_jval a, bb_jval b)
{
    if (bb_item_is(sign, "==") || bb_item_is(sign, "!=")) return bb_jinja_same(j, a, b) == (*sign.at == '=');
    if (bb_item_is(sign, "in") || bb_item_is(sign, "not")) return bb_jinja_in(j, a, b) == (*sign.at == 'i');
    const int c = order(j, a, b);
    return (c == 0 && sign.n == 2) || (c != 0 && (c < 0) == (*sign.at == '<'));
}

static bb_jval comparison(bb_jinja *j)
{
    bb_jval v = sum(j), left = v;
    for (bool holds = true;;) {
        const bb_jtoken sign = j->t;
        if (bb_jinja_take(j, "not")) {
            if (!bb_jinja_take(j, "in")) {
                go_back(j, sign);
                return v;
            }
        } else if (!(bb_jinja_take(j, "==") || bb_jinja_take(j, "!=") || bb_jinja_take(j, "<") || bb_jinja_take(j, ">") || bb_jinja_take(j, "<=") ||
                     bb_jinja_take(j, ">=") || bb_jinja_take(j, "in")))
            return v;
        const bb_jval right = sum(j);
        if (!j->dead && holds) holds = compared(j, sign.what, left, right);
        v = bb_jinja_bool(holds);
        left = right;
    }
}

static bb_jval negation(bb_jinja *j)
{
    bool any = false, odd = false;
    for (; bb_jinja_take(j, "not"); any = true) odd = !odd;
    const bb_jval v = comparison(j);
    return any ? bb_jinja_bool(bb_jinja_truth(v) != odd) : v;
}

static bb_jval conjunction(bb_jinja *j)
{
    bb_jval v = negation(j);
    while (bb_jinja_take(j, "and")) {
        const bool ends = j->dead || !bb_jinja_truth(v);
        j->dead += ends;
        const bb_jval b = negation(j);
        j->dead -= ends;
        if (!ends) v = b;
    }
    return v;
}

bb_jval bb_jinja_or(bb_jinja *j)
{
    bb_jval v = conjunction(j);
    while (bb_jinja_take(j, "or")) {
        const bool ends = j->dead || bb_jinja_truth(v);
        j->dead += ends;
        const bb_jval b = conjunction(j);
        j->dead -= ends;
        if (!ends) v = b;
    }
    return v;
}

/* "A if C else B": A stands before what decides on it, so it is passed over first. */
static bb_jval conditional(bb_jinja *j)
{
    const bb_jtoken start = j->t;
    bb_jval         v = { 0 };
    j->dead++;
    bb_jinja_or(j);
    j->dead--;
    if (!bb_jinja_take(j, "if")) {
        if (j->dead) return v;
        go_back(j, start);
        return bb_jinja_or(j);
    }
    const bool holds = bb_jinja_truth(bb_jinja_or(j)), skip = holds || j->dead;
    if (bb_jinja_take(j, "else")) {
        j->dead += skip;
        v = bb_jinja_expression(j);
        j->dead -= skip;
    }
    if (!holds || j->dead) return v;
    const bb_jtoken behind = j->t;
    go_back(j, start);
    v = bb_jinja_or(j);
    go_back(j, behind);
    return v;
}

bb_jval bb_jinja_expression(bb_jinja *j)
{
    if (j->status != BB_OK || j->depth >= MAX_DEPTH) return bb_jinja_fail(j, "more parentheses within each other than %d", MAX_DEPTH);
    j->depth++;
    const bb_jval v = conditional(j);
    j->depth--;
    return v;
}

/* A text of the template, as Python reads it. */
static bb_jval literal(bb_jinja *j)
{
    static const char from[] = "ntr\\'\"\n", to[] = "\n\t\r\\'\"";
    const bb_item     what = j->t.what;
    char             *text = bb_jinja_hold(j, what.n);
    size_t            n = 0;
    for (size_t i = 0; text && i < what.n; i++) {
        if (what.at[i] != '\\') {
            text[n++] = what.at[i];
            continue;
        }
        const char *at = ++i < what.n && what.at[i] ? strchr(from, what.at[i]) : NULL;
        if (!at) return bb_jinja_fail(j, "the escape \\%c in a text", i < what.n ? what.at[i] : ' ');
        if (at - from < (ptrdiff_t)(sizeof to - 1)) text[n++] = to[at - from]; /* a line end behind \ is nothing */
    }
    bb_jinja_next(j);
    return (bb_jval) { .kind = J_TEXT, .text = text, .n = n };
}

static bb_jval text_literal(bb_jinja *j)
{
    bb_jval v = literal(j);
    while (j->t.type == T_TEXT && j->status == BB_OK) v = joined(j, v, literal(j));
    return v;
}

static bb_jval list_literal(bb_jinja *j)
{
    bb_jval l = bb_jinja_list(j, J_LIST);
    while (j->status == BB_OK && !bb_jinja_is(j, "]")) {
        bb_jinja_push(j, l, (bb_jval) { 0 }, bb_jinja_expression(j));
        if (!bb_jinja_take(j, ",")) break;
    }
    expect(j, "]");
    return l;
}

static bb_jval dict_literal(bb_jinja *j)
{
    bb_jval d = bb_jinja_list(j, J_DICT);
    while (j->status == BB_OK && !bb_jinja_is(j, "}")) {
        const bb_jval key = bb_jinja_expression(j);
        expect(j, ":");
        const bb_jval item = bb_jinja_expression(j);
        if (!j->dead) bb_jinja_push(j, d, key, item);
        if (!bb_jinja_take(j, ",")) break;
    }
    expect(j, "}");
    return d;
}

static bb_jval named(bb_jinja *j)
{
    static const struct {
        const char *name;
        bb_jval     value;
    } words[] = { { "true", { .kind = J_BOOL, .number = 1 } },
                  { "True", { .kind = J_BOOL, .number = 1 } },
                  { "false", { .kind = J_BOOL } },
                  { "False", { .kind = J_BOOL } },
                  { "none", { .kind = J_NONE } },
                  { "None", { .kind = J_NONE } } };
    const bb_item name = bb_jinja_take_name(j);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (bb_item_is(name, words[i].name)) return words[i].value;
    for (size_t i = j->n_vars; i-- > 0;)
        if (j->vars[i].name.n == name.n && memcmp(j->vars[i].name.at, name.at, name.n) == 0) return j->vars[i].value;
    if (bb_jinja_is_function(name)) return (bb_jval) { .kind = J_FUNCTION, .text = name.at, .n = name.n };
    return !j->dead && bb_jinja_is(j, "(") ? bb_jinja_fail(j, "%.*s()", (int)name.n, name.at) : (bb_jval) { 0 };
}

static bb_jval primary(bb_jinja *j)
{
    bb_jval v = { 0 };
    if (j->t.type == T_NAME) return named(j);
    if (j->t.type == T_TEXT) return text_literal(j);
    if (j->t.type == T_INT) {
        for (size_t i = 0; i < j->t.what.n && i < 18; i++) v.number = 10 * v.number + (j->t.what.at[i] - '0');
        v.kind = J_INT;
        if (j->t.what.n > 18) bb_jinja_fail(j, "the number %.*s", 20, j->t.what.at);
        bb_jinja_next(j);
        if (bb_jinja_is(j, ".") && is_digit(*j->t.behind)) bb_jinja_fail(j, "a number with a fraction");
        return v;
    }
    if (bb_jinja_take(j, "(")) {
        v = bb_jinja_expression(j);
        expect(j, ")");
        return v;
    }
    if (bb_jinja_take(j, "[")) return list_literal(j);
    if (bb_jinja_take(j, "{")) return dict_literal(j);
    return bb_jinja_fail(j, "no value at '%.*s'", (int)(j->end - j->t.what.at < 24 ? j->end - j->t.what.at : 24), j->t.what.at);
}

/* Behind "(". */
static bb_jargs arguments(bb_jinja *j)
{
    bb_jargs a = { .n = 0 };
    while (j->status == BB_OK && !bb_jinja_is(j, ")")) {
        const bb_jtoken start = j->t;
        bb_item         name = { NULL, 0 };
        if (j->t.type == T_NAME) {
            name = bb_jinja_take_name(j);
            if (!bb_jinja_take(j, "=")) {
                name.n = 0;
                go_back(j, start);
            }
        }
        if (a.n == J_ARGS) {
            bb_jinja_fail(j, "more than %d arguments", J_ARGS);
            break;
        }
        a.names[a.n] = name;
        a.values[a.n++] = bb_jinja_expression(j);
        if (!bb_jinja_take(j, ",")) break;
    }
    expect(j, ")");
    return a;
}

static bool ascii(bb_jval v)
{
    for (size_t i = 0; i < v.n; i++)
        if ((unsigned char)v.text[i] > 127) return false;
    return true;
}

/* v[a:b:step], as Python has it: what is left out is NULL. */
static bb_jval slice(bb_jinja *j, bb_jval v, bb_jval from, bb_jval to, bb_jval step)
{
    const bool text = v.kind == J_TEXT;
    if (j->dead) return v;
    if ((!text && v.kind != J_LIST) || (text && !ascii(v))) return bb_jinja_fail(j, "a slice of %s%s", bb_jinja_kind(v), text ? " that is not ASCII" : "");
    const int64_t n = (int64_t)(text ? v.n : v.list->n), by = numeric(step) ? step.number : 1, low = by < 0 ? -1 : 0, high = by < 0 ? n - 1 : n;
    int64_t       a = numeric(from) ? from.number : by < 0 ? high : low, b = numeric(to) ? to.number : 0;
    if (by == 0 || by < -n - 1 || by > n + 1) return bb_jinja_fail(j, "a slice by steps of %lld", (long long)by);
    if (numeric(from) && a < 0) a += n;
    if (numeric(to) && b < 0) b += n;
    a = a < low ? low : a > high ? high : a;
    b = !numeric(to) ? (by < 0 ? low : high) : b < low ? low : b > high ? high : b;
    bb_jval l = bb_jinja_list(j, J_LIST);
    char   *bytes = bb_jinja_hold(j, text ? v.n : 0);
    size_t  kept = 0;
    for (int64_t i = a; j->status == BB_OK && (by < 0 ? i > b : i < b); i += by)
        if (text) bytes[kept++] = v.text[i];
        else bb_jinja_push(j, l, (bb_jval) { 0 }, v.list->items[i]);
    return text ? (bb_jval) { .kind = J_TEXT, .text = bytes, .n = kept } : l;
}

static bb_jval element(bb_jinja *j, bb_jval v, bb_jval key)
{
    bb_jval item = { 0 };
    if (j->dead || v.kind == J_NONE) return item;
    if (v.kind == J_DICT && key.kind == J_TEXT) {
        if (!bb_jinja_find(v, (bb_item) { key.text, key.n }, &item) && v.list->closed) bb_jinja_fail(j, "loop['%.*s']", (int)key.n, key.text);
        return item;
    }
    if (numeric(key) && (v.kind == J_LIST || (v.kind == J_TEXT && ascii(v)))) {
        const int64_t n = (int64_t)(v.kind == J_LIST ? v.list->n : v.n), i = key.number < 0 ? key.number + n : key.number;
        if (i < 0 || i >= n) return item;
        return v.kind == J_LIST ? v.list->items[i] : bb_jinja_text(j, v.text + i, 1);
    }
    return bb_jinja_fail(j, "[%s] of %s", bb_jinja_kind(key), bb_jinja_kind(v));
}

/* Behind "[". */
static bb_jval subscript(bb_jinja *j, bb_jval v)
{
    bb_jval part[3] = { 0 };
    size_t  n = 0;
    for (;; n++) {
        if (!bb_jinja_is(j, ":") && !bb_jinja_is(j, "]")) part[n] = bb_jinja_expression(j);
        if (n == 2 || !bb_jinja_take(j, ":")) break;
    }
    if (n == 0 && j->t.what.at[-1] == '[') bb_jinja_fail(j, "nothing in []");
    expect(j, "]");
    for (size_t i = 0; n && !j->dead && i <= n; i++)
        if (!numeric(part[i]) && part[i].kind != J_NONE && part[i].kind != J_UNDEFINED) bb_jinja_fail(j, "a slice with %s", bb_jinja_kind(part[i]));
    return n ? slice(j, v, part[0], part[1], part[2]) : element(j, v, part[0]);
}

static bb_jval attribute(bb_jinja *j, bb_jval v, bb_item name)
{
    static const char methods[] = "keys,values,items,get,copy,pop,popitem,update,clear,setdefault,fromkeys";
    const char       *rest = methods;
    bb_jval           item = { 0 };
    if (j->dead || v.kind == J_NONE) return item;
    for (bb_item m; v.kind == J_DICT && bb_list_next(&rest, &m);)
        if (m.n == name.n && memcmp(m.at, name.at, m.n) == 0) return bb_jinja_fail(j, "the method %.*s that is not called", (int)m.n, m.at);
    if (v.kind != J_DICT && v.kind != J_SPACE) return bb_jinja_fail(j, ".%.*s of %s", (int)name.n, name.at, bb_jinja_kind(v));
    if (!bb_jinja_find(v, name, &item) && v.list->closed) bb_jinja_fail(j, "loop.%.*s", (int)name.n, name.at);
    return item;
}

static bb_jval call(bb_jinja *j, bb_jval v)
{
    const bb_jargs a = arguments(j);
    if (j->dead || j->status != BB_OK) return (bb_jval) { 0 };
    return v.kind == J_FUNCTION ? bb_jinja_call(j, (bb_item) { v.text, v.n }, &a) : bb_jinja_fail(j, "a call of %s", bb_jinja_kind(v));
}

static bb_jval postfix(bb_jinja *j, bb_jval v)
{
    while (j->status == BB_OK) {
        if (bb_jinja_take(j, "[")) v = subscript(j, v);
        else if (bb_jinja_take(j, "(")) v = call(j, v);
        else if (bb_jinja_take(j, ".")) {
            const bb_item name = bb_jinja_take_name(j);
            if (!bb_jinja_take(j, "(")) {
                v = attribute(j, v, name);
                continue;
            }
            const bb_jargs a = arguments(j);
            v = j->dead || j->status != BB_OK ? (bb_jval) { 0 } : bb_jinja_method(j, v, name, &a);
        } else break;
    }
    return v;
}

/* Filters and tests. */
static bb_jval passed(bb_jinja *j, bb_jval v)
{
    while (j->status == BB_OK) {
        if (bb_jinja_take(j, "|")) {
            const bb_item name = bb_jinja_take_name(j);
            bb_jargs      a = { .n = 0 };
            if (bb_jinja_take(j, "(")) a = arguments(j);
            v = j->dead || j->status != BB_OK ? (bb_jval) { 0 } : bb_jinja_filter(j, v, name, &a);
        } else if (bb_jinja_take(j, "is")) {
            const bool    not_ = bb_jinja_take(j, "not");
            const bb_item name = j->t.what;
            bb_jval       argument = { 0 };
            if (bb_jinja_is(j, "==")) bb_jinja_next(j);
            else bb_jinja_take_name(j);
            if (j->status == BB_OK && bb_jinja_test_has_argument(name)) argument = postfix(j, primary(j));
            v = j->dead || j->status != BB_OK ? (bb_jval) { 0 } : bb_jinja_bool(bb_jinja_test(j, v, name, argument) != not_);
        } else if (bb_jinja_take(j, "(")) v = call(j, v);
        else break;
    }
    return v;
}

static bb_jval unary(bb_jinja *j, bool filters)
{
    bb_jval v;
    if (j->status != BB_OK || j->depth >= MAX_DEPTH) return bb_jinja_fail(j, "more signs within each other than %d", MAX_DEPTH);
    if (bb_jinja_is(j, "-") || bb_jinja_is(j, "+")) {
        const bool minus = bb_jinja_is(j, "-");
        bb_jinja_next(j);
        j->depth++;
        v = unary(j, false);
        j->depth--;
        if (!j->dead) v = computed(j, minus ? '-' : '+', bb_jinja_int(0), v);
    } else v = primary(j);
    v = postfix(j, v);
    return filters ? passed(j, v) : v;
}
