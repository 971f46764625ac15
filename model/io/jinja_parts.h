/* SPDX-License-Identifier: GPL-3.0-or-later
 * jinja_parts.h: what the files of jinja.h share: values, the machine, and the calls between blocks (jinja.c), expressions (jinja_expr.c) and filters, tests,
 * functions and methods (jinja_calls.c).
 *
 * Values live until the machine is closed. After a failure (status) everything goes on with undefined values and returns soon: callers look at the end.
 */
#ifndef BB_MODEL_IO_JINJA_PARTS_H
#define BB_MODEL_IO_JINJA_PARTS_H

#include <time.h>

#include "base/text.h"

typedef enum bb_jkind { J_UNDEFINED, J_NONE, J_BOOL, J_INT, J_TEXT, J_LIST, J_DICT, J_SPACE, J_FUNCTION } bb_jkind;

typedef struct bb_jval bb_jval;
typedef struct bb_jlist {
    bb_jval *keys, *items; /* keys: of a dict and of a namespace */
    size_t   n, capacity;
    bool     closed; /* a name that is not in it is refused, as the real object may have it */
} bb_jlist;

struct bb_jval {
    bb_jkind    kind;
    int64_t     number; /* of J_BOOL and J_INT */
    const char *text;   /* of J_TEXT and J_FUNCTION (its name); not NUL-terminated */
    size_t      n;
    bb_jlist   *list;
};

enum { J_ARGS = 8 };
typedef struct bb_jargs {
    bb_item names[J_ARGS]; /* n 0: given by place */
    bb_jval values[J_ARGS];
    size_t  n;
} bb_jargs;

typedef enum bb_jtype { T_END, T_NAME, T_INT, T_TEXT, T_SIGN } bb_jtype;
typedef struct bb_jtoken {
    bb_jtype    type;
    bb_item     what;
    bool        escapes; /* of a text */
    const char *behind;
} bb_jtoken;

typedef struct bb_jvar {
    bb_item name;
    bb_jval value;
} bb_jvar;

typedef struct bb_jheld bb_jheld;
typedef struct bb_jinja {
    bb_jtoken   t; /* the expression's next token */
    const char *end;
    bb_jvar    *vars;
    size_t      n_vars, capacity, scope; /* scope: the first variable of the innermost one */
    bb_jheld   *held;
    size_t      held_bytes, steps;
    unsigned    dead, depth; /* dead: what is read is not computed */
    time_t      now;
    bb_status   status;
    bb_err     *err;
} bb_jinja;

/* ---- jinja.c ---- */

void   *bb_jinja_hold(bb_jinja *j, size_t bytes);                                                  /* NULL: failed */
bb_jval bb_jinja_fail(bb_jinja *j, const char *format, ...) __attribute__((format(printf, 2, 3))); /* the first failure stays */
void    bb_jinja_set(bb_jinja *j, bb_item name, bb_jval value);                                    /* in the innermost scope */

/* ---- jinja_expr.c ---- */

void    bb_jinja_begin(bb_jinja *j, bb_item expression);
void    bb_jinja_next(bb_jinja *j);
void    bb_jinja_step(bb_jinja *j);                       /* counts one; fails beyond what a template needs */
bool    bb_jinja_is(const bb_jinja *j, const char *word); /* is the next token this name or sign? */
bool    bb_jinja_take(bb_jinja *j, const char *word);     /* goes behind it if so */
bb_item bb_jinja_take_name(bb_jinja *j);                  /* takes a name, or fails */
bb_jval bb_jinja_expression(bb_jinja *j);
bb_jval bb_jinja_or(bb_jinja *j);     /* an expression without "if" */
bool    bb_jinja_closed(bb_jinja *j); /* the expression ends here; fails if not */

bb_jval     bb_jinja_text(bb_jinja *j, const char *text, size_t n); /* a copy */
bb_jval     bb_jinja_int(int64_t number);
bb_jval     bb_jinja_bool(bool yes);
bb_jval     bb_jinja_list(bb_jinja *j, bb_jkind kind);
void        bb_jinja_push(bb_jinja *j, bb_jval list, bb_jval key, bb_jval item);
bool        bb_jinja_find(bb_jval dict, bb_item key, bb_jval *value);
bool        bb_jinja_truth(bb_jval v);
bool        bb_jinja_same(bb_jinja *j, bb_jval a, bb_jval b);
bool        bb_jinja_in(bb_jinja *j, bb_jval a, bb_jval b);
bb_jval     bb_jinja_string(bb_jinja *j, bb_jval v); /* as {{ }} writes it */
bb_jval     bb_jinja_items(bb_jinja *j, bb_jval v);  /* what a loop over it goes through, a list */
const char *bb_jinja_kind(bb_jval v);

/* ---- jinja_calls.c ---- */

bb_item bb_jinja_trimmed(bb_item text); /* without the white space around it */
bool    bb_jinja_is_function(bb_item name);
bb_jval bb_jinja_call(bb_jinja *j, bb_item name, const bb_jargs *a);
bb_jval bb_jinja_method(bb_jinja *j, bb_jval of, bb_item name, const bb_jargs *a);
bb_jval bb_jinja_filter(bb_jinja *j, bb_jval of, bb_item name, const bb_jargs *a);
bool    bb_jinja_test_has_argument(bb_item name);
bool    bb_jinja_test(bb_jinja *j, bb_jval of, bb_item name, bb_jval argument);

#endif
