/* SPDX-License-Identifier: GPL-3.0-or-later
 * tensor_types.c: see tensor_types.h. */
#include "cli/tensor_types.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum { MAX_STARS = 6, NAME_BYTES = 64 };

/* ---- patterns ---- */

static bool found_here(const char *p, const char *text);

/* One pattern element is a character, or \ and a character. */
static bool fits(const char *p, char c) { return c != '\0' && (*p == '\\' ? p[1] == c : *p == '.' || *p == c); }

static bool star_found(const char *p, const char *rest, const char *text)
{
    do {
        if (found_here(rest, text)) return true;
    } while (fits(p, *text++));
    return false;
}

static bool found_here(const char *p, const char *text)
{
    size_t n = *p == '\\' ? 2 : 1;
    if (*p == '\0') return true;
    if (*p == '$' && p[1] == '\0') return *text == '\0';
    if (p[n] == '*') return star_found(p, p + n + 1, text);
    return fits(p, *text) && found_here(p + n, text + 1);
}

static bool is_simple(const char *p)
{
    int stars = 0;
    for (; *p; p++) {
        if (*p == '\\') {
            if (!*++p || isalnum((unsigned char)*p)) return false; /* \d and the like */
        } else if (strchr("()[]{}|+?", *p)) return false;
        else if (*p == '*' && ++stars > MAX_STARS) return false;
    }
    return true;
}

bool bb_pattern_found(const char *pattern, const char *text, bool *valid)
{
    *valid = is_simple(pattern);
    if (!*valid) return false;
    if (*pattern == '^') return found_here(pattern + 1, text);
    do {
        if (found_here(pattern, text)) return true;
    } while (*text++);
    return false;
}

/* ---- the matrices of a model ---- */

/* Calls f with each matrix and its unit name (base/plan.h); other is the matrix in the same place of another network, or NULL. */
typedef bb_status (*visit)(void *self, const char *unit, const bb_matrix *w, const bb_matrix *other, bb_err *err);

static bb_status each_matrix(const bb_net *net, const bb_net *other, visit f, void *self, bb_err *err)
{
    char      unit[NAME_BYTES];
    bb_status status;
    BB_TRY(f(self, "token_embd", &net->embd, other ? &other->embd : NULL, err));
    if (net->head.rows || (other && other->head.rows)) BB_TRY(f(self, "output", &net->head, other ? &other->head : NULL, err));
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &net->blocks[i].w[p], *o = other ? &other->blocks[i].w[p] : NULL;
            if (w->rows == 0 && (!o || o->rows == 0)) continue;
            snprintf(unit, sizeof unit, "blk.%u.%s", i, bb_part_names[p]);
            BB_TRY(f(self, unit, w, o, err));
        }
done:
    return status;
}

static bool is_table(const char *unit) { return strcmp(unit, "token_embd") == 0 || strcmp(unit, "output") == 0; }

/* ---- one format ---- */

typedef struct uniform { bb_plan *plan; const char *format, *embd_format; } uniform;

static bb_status set_uniform(void *self, const char *unit, const bb_matrix *w, const bb_matrix *other, bb_err *err)
{
    const uniform *u = self;
    const char    *format = is_table(unit) ? u->embd_format : u->format;
    (void)w;
    (void)other;
    return format && *format ? bb_plan_set(u->plan, unit, format, err) : BB_OK;
}

/* ---- as in another file ---- */

typedef struct likeness { bb_plan *plan; const char *path; } likeness;

static bb_status set_like(void *self, const char *unit, const bb_matrix *w, const bb_matrix *other, bb_err *err)
{
    const likeness  *l = self;
    const bb_format *f = bb_format_get(other->type);
    if (w->rows != other->rows || w->cols != other->cols)
        return BB_FAIL(err, BB_UNSUPPORTED, "%s: %s is %u x %u, in the model it is %u x %u: it must be a file of the same model, unpruned", l->path, unit,
                       other->rows, other->cols, w->rows, w->cols);
    if (!f) return BB_FAIL(err, BB_UNSUPPORTED, "%s: %s has type id %d, which is not one of ours", l->path, unit, (int)other->type);
    return bb_plan_set(l->plan, unit, f->name, err);
}

static bb_status add_like(const char *path, const bb_model *m, bb_plan *plan, bb_err *err)
{
    bb_model  other = { 0 };
    likeness  l = { plan, path };
    bb_status status;
    BB_TRY(bb_model_open(path, &other, err));
    BB_TRY(bb_model_same_vocabulary(m, &other, err));
    if (other.net.n_layer != m->net.n_layer)
        status = BB_FAIL(err, BB_UNSUPPORTED, "%s has %u blocks, the model has %u", path, other.net.n_layer, m->net.n_layer);
    else status = each_matrix(&m->net, &other.net, set_like, &l, err);
done:
    bb_model_close(&other);
    return status;
}

/* ---- a recipe ---- */

typedef struct rule { bb_plan *plan; const char *pattern, *type; size_t n_found; } rule;

static bb_status set_rule(void *self, const char *unit, const bb_matrix *w, const bb_matrix *other, bb_err *err)
{
    rule *r = self;
    char  name[NAME_BYTES + 8];
    bool  valid;
    (void)w;
    (void)other;
    snprintf(name, sizeof name, "%s.weight", unit);
    if (!bb_pattern_found(r->pattern, name, &valid)) return BB_OK;
    r->n_found++;
    return bb_plan_set(r->plan, unit, r->type, err);
}

static bb_status add_line(const char *path, size_t number, char *line, const bb_model *m, bb_plan *plan, bb_err *err)
{
    char     *type = strrchr(line, '=');
    bool      valid;
    rule      r = { .plan = plan, .pattern = line };
    bb_status status;
    if (!type) return BB_FAIL(err, BB_BAD_FILE, "%s, line %zu: expected PATTERN=TYPE, found \"%.60s\"", path, number, line);
    *type++ = '\0';
    r.type = type;
    bb_pattern_found(line, "", &valid);
    if (!valid) return BB_FAIL(err, BB_BAD_FILE, "%s, line %zu: the pattern \"%.60s\" has more than . * ^ $ and \\", path, number, line);
    if (!bb_format_find(type)) return BB_FAIL(err, BB_BAD_FILE, "%s, line %zu: there is no format \"%.40s\"", path, number, type);
    status = each_matrix(&m->net, NULL, set_rule, &r, err);
    if (status == BB_OK && r.n_found == 0)
        return BB_FAIL(err, BB_BAD_FILE, "%s, line %zu: no matrix of the model has a name with \"%.60s\"", path, number, line);
    return status;
}

static bb_status add_recipe(const char *path, const bb_model *m, bb_plan *plan, bb_err *err)
{
    char     *text = NULL;
    size_t    size, number = 0;
    bb_status status;
    BB_TRY(bb_file_read(path, &text, &size, err));
    if (strlen(text) != size) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: is no text file", path);
        goto done;
    }
    for (char *line = text, *next; line && *line; line = next) {
        size_t n = strcspn(line, "\n");
        next = line + n + (line[n] != '\0');
        line[n] = '\0';
        if (n > 0 && line[n - 1] == '\r') line[--n] = '\0';
        number++;
        if (n > 0 && *line != '#') BB_TRY(add_line(path, number, line, m, plan, err));
    }
done:
    bb_free(text);
    return status;
}

/* ---- all of them ---- */

static bb_status check_format(const char *option, const char *name, bb_err *err)
{
    if (!name || !*name || bb_format_find(name)) return BB_OK;
    return BB_FAIL(err, BB_USAGE, "%s: there is no format \"%.40s\"; docs/formats.md lists them", option, name);
}

bb_status bb_tensor_types_plan(const bb_tensor_types *t, const bb_model *m, bb_plan *plan, bb_err *err)
{
    uniform   u = { plan, t->format, t->embd_format };
    bb_status status;
    BB_TRY(check_format("--format", t->format, err));
    BB_TRY(check_format("--embd-format", t->embd_format, err));
    BB_TRY(each_matrix(&m->net, NULL, set_uniform, &u, err));
    if (t->like && *t->like) BB_TRY(add_like(t->like, m, plan, err));
    if (t->recipe && *t->recipe) BB_TRY(add_recipe(t->recipe, m, plan, err));
done:
    return status;
}
