/* SPDX-License-Identifier: GPL-3.0-or-later
 * tensor_types.c: see tensor_types.h. */
#include "engine/tensor_types.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "model/net/arch.h"

enum { NAME_BYTES = 64, MATCH_LIMIT = 100000 };

/* ---- names of formats ---- */

/* What llama-quantize calls a mixture of types by, and the type that most of it has. */
static const struct {
    const char *name, *type;
} mixtures[] = {
    { "Q2_K_S", "Q2_K" }, { "Q3_K_S", "Q3_K" }, { "Q3_K_M", "Q3_K" }, { "Q3_K_L", "Q3_K" },  { "Q4_K_S", "Q4_K" }, { "Q4_K_M", "Q4_K" },
    { "Q5_K_S", "Q5_K" }, { "Q5_K_M", "Q5_K" }, { "IQ2_M", "IQ2_S" }, { "IQ3_XS", "IQ3_S" }, { "IQ3_M", "IQ3_S" }, { "MXFP4_MOE", "MXFP4" },
};

/* "Q1_0, IQ1_S, ...": the formats whose block divides rows of cols weights. */
static void list_formats(size_t cols, bb_text *t)
{
    const bb_format *f;
    bool             first = true;
    for (size_t i = 0; (f = bb_format_at(i)); i++) {
        if (cols % f->block != 0 || f->experimental) continue;
        bb_text_addf(t, "%s%s", first ? "" : ", ", f->name);
        first = false;
    }
}

bb_status bb_format_named(const char *option, const char *name, bool experimental, const bb_format **f, bb_err *err)
{
    bb_text   t = { 0 };
    bb_status status;
    if ((*f = bb_format_find(name)) && (experimental || !(*f)->experimental)) return BB_OK;
    if (*f)
        return BB_FAIL(err, BB_USAGE,
                       "%s: stock llama.cpp does not read %s, which is under review there (pull request 27325): --experimental-formats allows it", option,
                       (*f)->name);
    for (size_t i = 0; i < sizeof mixtures / sizeof *mixtures; i++)
        if (strcasecmp(mixtures[i].name, name) == 0)
            return BB_FAIL(err, BB_USAGE, "%s: %s is a mixture that llama-quantize makes, not one type: take %s, or quantize --like a file made with it",
                           option, mixtures[i].name, mixtures[i].type);
    if (strcasecmp(name, "LC2") == 0)
        return BB_FAIL(err, BB_USAGE,
                       "%s: LC2 is a type of bitbudget alone and of all linears of a model: bitbudget quantize --format LC2 --experimental-formats", option);
    list_formats(0, &t);
    status = t.status == BB_OK ? BB_FAIL(err, BB_USAGE, "%s: there is no format \"%.40s\"; there are %s", option, name, t.data) : BB_NOMEM;
    bb_text_done(&t);
    return status;
}

/* f, or what is taken in its place for rows of cols weights (bb_format_for_row); BB_USAGE names the formats that fit. */
static bb_status fit_row(const char *unit, const bb_format *f, size_t cols, const bb_format **out, bb_err *err)
{
    bb_text   t = { 0 };
    bb_status status;
    if ((*out = bb_format_for_row(f, cols))) return BB_OK;
    list_formats(cols, &t);
    status = t.status == BB_OK
                 ? BB_FAIL(err, BB_USAGE,
                           "%s: rows of %zu weights are no multiple of %u, the block of %s, and llama.cpp has nothing in its place; these fit: %s", unit, cols,
                           f->block, f->name, t.data)
                 : BB_NOMEM;
    bb_text_done(&t);
    return status;
}

/* How many matrices were to have a format, and how many got which instead. */
typedef struct tally {
    uint32_t wanted[BB_TYPE_COUNT], instead[BB_TYPE_COUNT][BB_TYPE_COUNT];
} tally;

static void say_tally(const tally *n)
{
    for (int a = 0; a < BB_TYPE_COUNT; a++) {
        bb_text t = { 0 };
        for (int b = 0; b < BB_TYPE_COUNT; b++)
            if (n->instead[a][b]) bb_text_addf(&t, "%s%u get %s", t.size ? ", " : "", n->instead[a][b], bb_format_get((bb_type)b)->name);
        if (t.data && t.status == BB_OK)
            bb_info("%s has blocks of %u weights, which do not divide all rows: of %u matrices %s", bb_format_get((bb_type)a)->name,
                    bb_format_get((bb_type)a)->block, n->wanted[a], t.data);
        bb_text_done(&t);
    }
}

static bb_status set_fitting(bb_plan *plan, tally *n, const char *unit, const bb_format *f, const bb_matrix *w, bb_err *err)
{
    const bb_format *taken;
    bb_status        status = fit_row(unit, f, w->cols, &taken, err);
    if (status != BB_OK) return status;
    n->wanted[f->type]++;
    if (taken != f) n->instead[f->type][taken->type]++;
    return bb_plan_set(plan, unit, taken->name, err);
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
    if (net->token.width || (other && other->token.width))
        BB_TRY(f(self, bb_token_names[BB_TOKEN_TABLE], &net->token.table, other ? &other->token.table : NULL, err));
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &net->blocks[i].w[p], *o = other ? &other->blocks[i].w[p] : NULL;
            if (w->rows == 0 && (!o || o->rows == 0)) continue;
            snprintf(unit, sizeof unit, "blk.%u.%s", i, bb_parts[p].name);
            BB_TRY(f(self, unit, w, o, err));
        }
done:
    return status;
}

static bool is_table(const char *unit)
{
    return strcmp(unit, "token_embd") == 0 || strcmp(unit, "output") == 0 || strcmp(unit, bb_token_names[BB_TOKEN_TABLE]) == 0;
}

/* ---- one format ---- */

typedef struct uniform {
    bb_plan         *plan;
    tally           *n;
    const bb_format *format, *embd_format;
} uniform;

static bb_status set_uniform(void *self, const char *unit, const bb_matrix *w, const bb_matrix *other, bb_err *err)
{
    const uniform   *u = self;
    const bb_format *f = is_table(unit) ? u->embd_format : u->format;
    (void)other;
    return f ? set_fitting(u->plan, u->n, unit, f, w, err) : BB_OK;
}

/* ---- as in another file ---- */

typedef struct likeness {
    bb_plan    *plan;
    const char *path;
} likeness;

static bb_status set_like(void *self, const char *unit, const bb_matrix *w, const bb_matrix *other, bb_err *err)
{
    const likeness  *l = self;
    const bb_format *f = bb_format_get(other->type);
    if (w->rows != other->rows || w->cols != other->cols)
        return BB_FAIL(err, BB_UNSUPPORTED, "%s: %s is %u x %u, in the model it is %u x %u: it must be a file of the same model, unpruned", l->path, unit,
                       other->rows, other->cols, w->rows, w->cols);
    if (other->lattice) return BB_FAIL(err, BB_UNSUPPORTED, "%s: %s has type LC2, of bitbudget alone: --format LC2 makes such a file", l->path, unit);
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

/* PATTERN=TYPE. A pattern is an ECMAScript regular expression that is searched in names, as std::regex_search does for llama-quantize, whatever the case
 * of its letters: PCRE2 with the options that make it mean the same. */
typedef struct rule {
    pcre2_code      *pattern;
    const bb_format *format;
    const char      *text;
    size_t           line, n_found;
} rule;
typedef struct matcher {
    pcre2_match_data    *data;
    pcre2_match_context *limits;
} matcher;
typedef struct recipe {
    bb_plan       *plan;
    tally         *n;
    const bb_arch *arch;
    const char    *path;
    bool           experimental;
    rule          *rules;
    size_t         n_rules;
    matcher        match;
} recipe;

static bb_status compile_pattern(const char *pattern, pcre2_code **out, bb_err *err)
{
    const uint32_t options = PCRE2_CASELESS | PCRE2_DOLLAR_ENDONLY | PCRE2_ALLOW_EMPTY_CLASS | PCRE2_MATCH_UNSET_BACKREF | PCRE2_NEVER_UTF;
    PCRE2_UCHAR    message[128] = { 0 };
    PCRE2_SIZE     at = 0;
    int            error = 0;
    if ((*out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &at, NULL))) return BB_OK;
    pcre2_get_error_message(error, message, sizeof message);
    return BB_FAIL(err, BB_BAD_FILE, "the pattern \"%.60s\" is no regular expression: %s at character %zu", pattern, (const char *)message, (size_t)at + 1);
}

static bb_status matcher_init(matcher *m, bb_err *err)
{
    *m = (matcher) { pcre2_match_data_create(1, NULL), pcre2_match_context_create(NULL) };
    if (!m->data || !m->limits) return BB_FAIL(err, BB_NOMEM, "no memory for regular expressions");
    pcre2_set_match_limit(m->limits, MATCH_LIMIT);
    return BB_OK;
}

static void matcher_done(matcher *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->limits);
}

static bb_status search(const matcher *m, const pcre2_code *code, const char *pattern, const char *name, bool *found, bb_err *err)
{
    const int rc = pcre2_match(code, (PCRE2_SPTR)name, strlen(name), 0, 0, m->data, m->limits);
    *found = rc >= 0;
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH) return BB_OK;
    return BB_FAIL(err, BB_BAD_FILE, "the pattern \"%.60s\" takes too long to match", pattern);
}

bb_status bb_pattern_found(const char *pattern, const char *text, bool *found, bb_err *err)
{
    pcre2_code *code = NULL;
    matcher     m = { NULL, NULL };
    bb_status   status;
    *found = false;
    BB_TRY(compile_pattern(pattern, &code, err));
    BB_TRY(matcher_init(&m, err));
    BB_TRY(search(&m, code, pattern, text, found, err));
done:
    matcher_done(&m);
    pcre2_code_free(code);
    return status;
}

/* What a matrix is called in the file: the tensor that it lies in with others, or its own. */
static void tensor_name(const bb_arch *arch, const char *unit, char name[NAME_BYTES + 8])
{
    const char *rest = strrchr(unit, '.');
    for (int p = 0; rest && p < BB_N_PARTS; p++)
        if (strcmp(rest + 1, bb_parts[p].name) == 0 && arch->fused[bb_parts[p].feed]) {
            snprintf(name, NAME_BYTES + 8, "%.*s.%s.weight", (int)(rest - unit), unit, arch->fused[bb_parts[p].feed]);
            return;
        }
    snprintf(name, NAME_BYTES + 8, "%s.weight", unit);
}

/* The first rule that is found in the name decides. */
static bb_status set_rule(void *self, const char *unit, const bb_matrix *w, const bb_matrix *other, bb_err *err)
{
    recipe *r = self;
    rule   *first = NULL;
    char    name[NAME_BYTES + 8];
    bb_err  why = BB_ERR_INIT;
    (void)other;
    tensor_name(r->arch, unit, name);
    for (size_t i = 0; i < r->n_rules; i++) {
        bool found;
        if (search(&r->match, r->rules[i].pattern, r->rules[i].text, name, &found, &why) != BB_OK)
            return BB_FAIL(err, BB_BAD_FILE, "%s, line %zu: %s", r->path, r->rules[i].line, why.msg);
        if (!found) continue;
        r->rules[i].n_found++;
        if (!first) first = &r->rules[i];
    }
    return first ? set_fitting(r->plan, r->n, unit, first->format, w, err) : BB_OK;
}

static bb_status add_rule(recipe *r, size_t line, char *item, bb_err *err)
{
    char  *type = strrchr(item, '=');
    bb_err why = BB_ERR_INIT;
    rule  *grown, one = { .text = item, .line = line };
    if (!type) return BB_FAIL(err, BB_BAD_FILE, "%s, line %zu: expected PATTERN=TYPE, found \"%.60s\"", r->path, line, item);
    *type++ = '\0';
    if (bb_format_named("its type", type, r->experimental, &one.format, &why) != BB_OK || compile_pattern(item, &one.pattern, &why) != BB_OK)
        return BB_FAIL(err, BB_BAD_FILE, "%s, line %zu: %s", r->path, line, why.msg);
    if (!(grown = bb_realloc(r->rules, r->n_rules + 1, sizeof *grown, err))) {
        pcre2_code_free(one.pattern);
        return BB_NOMEM;
    }
    r->rules = grown;
    r->rules[r->n_rules++] = one;
    return BB_OK;
}

/* Items are separated by white space; a line that begins with # is passed over. */
static bb_status parse_recipe(recipe *r, char *text, bb_err *err)
{
    size_t    number = 0;
    bb_status status = BB_OK;
    for (char *line = text, *next; *line; line = next) {
        const size_t n = strcspn(line, "\n");
        char        *rest = NULL;
        next = line + n + (line[n] != '\0');
        line[n] = '\0';
        number++;
        if (*line == '#') continue;
        for (char *item = strtok_r(line, " \t\r", &rest); item; item = strtok_r(NULL, " \t\r", &rest)) BB_TRY(add_rule(r, number, item, err));
    }
done:
    return status;
}

static bb_status add_recipe(const char *path, bool experimental, const bb_model *m, bb_plan *plan, tally *n, bb_err *err)
{
    recipe    r = { .plan = plan, .n = n, .arch = m->net.arch, .path = path, .experimental = experimental };
    char     *text = NULL;
    size_t    size;
    bb_status status;
    BB_TRY(bb_file_read(path, &text, &size, err));
    if (strlen(text) != size) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: is no text file", path);
        goto done;
    }
    BB_TRY(matcher_init(&r.match, err));
    BB_TRY(parse_recipe(&r, text, err));
    if (r.n_rules == 0) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s: there is no rule in it: expected lines of the form PATTERN=TYPE", path);
        goto done;
    }
    BB_TRY(each_matrix(&m->net, NULL, set_rule, &r, err));
    for (size_t i = 0; i < r.n_rules && status == BB_OK; i++)
        if (r.rules[i].n_found == 0)
            status = BB_FAIL(err, BB_BAD_FILE, "%s, line %zu: no matrix of the model has a name with \"%.60s\"", path, r.rules[i].line, r.rules[i].text);
done:
    for (size_t i = 0; i < r.n_rules; i++) pcre2_code_free(r.rules[i].pattern);
    bb_free(r.rules);
    matcher_done(&r.match);
    bb_free(text);
    return status;
}

/* ---- all of them ---- */

bb_status bb_tensor_types_plan(const bb_tensor_types *t, const bb_model *m, bb_plan *plan, bb_err *err)
{
    tally     n = { { 0 }, { { 0 } } };
    uniform   u = { plan, &n, NULL, NULL };
    bb_status status = BB_OK;
    if (t->format && *t->format) BB_TRY(bb_format_named("--format", t->format, t->experimental, &u.format, err));
    if (t->embd_format && *t->embd_format) BB_TRY(bb_format_named("--embd-format", t->embd_format, t->experimental, &u.embd_format, err));
    BB_TRY(each_matrix(&m->net, NULL, set_uniform, &u, err));
    if (t->like && *t->like) BB_TRY(add_like(t->like, m, plan, err));
    if (t->recipe && *t->recipe) BB_TRY(add_recipe(t->recipe, t->experimental, m, plan, &n, err));
    say_tally(&n);
done:
    return status;
}
