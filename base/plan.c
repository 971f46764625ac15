/* SPDX-License-Identifier: GPL-3.0-or-later
 * plan.c: see plan.h. */
#include "base/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"

/* Index of the first gene whose unit is not before `unit`. */
static size_t position(const bb_plan *p, const char *unit)
{
    size_t low = 0, high = p->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(p->genes[middle].unit, unit) < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

bool bb_plan_is_name(const char *s)
{
    if (!*s) return false;
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || *s == '=' || (unsigned char)*s >= 127) return false;
    return true;
}

static bb_status insert(bb_plan *p, size_t at, const char *unit, const char *option, bb_err *err)
{
    char    *u = bb_strdup(unit, err), *o = u ? bb_strdup(option, err) : NULL;
    bb_gene *genes = o ? bb_realloc(p->genes, p->n + 1, sizeof *genes, err) : NULL;
    if (!genes) {
        bb_free(u);
        bb_free(o);
        return BB_NOMEM;
    }
    memmove(genes + at + 1, genes + at, (p->n - at) * sizeof *genes);
    genes[at] = (bb_gene) { u, o };
    p->genes = genes;
    p->n++;
    return BB_OK;
}

bb_status bb_plan_set(bb_plan *p, const char *unit, const char *option, bb_err *err)
{
    if (!bb_plan_is_name(unit) || !bb_plan_is_name(option))
        return BB_FAIL(err, BB_BAD_FILE, "a plan cannot hold '%.60s=%.60s': names are printable ASCII without spaces and '='", unit, option);
    size_t at = position(p, unit);
    if (at == p->n || strcmp(p->genes[at].unit, unit) != 0) return insert(p, at, unit, option, err);
    char *o = bb_strdup(option, err);
    if (!o) return BB_NOMEM;
    bb_free(p->genes[at].option);
    p->genes[at].option = o;
    return BB_OK;
}

const char *bb_plan_get(const bb_plan *p, const char *unit)
{
    size_t at = position(p, unit);
    return at < p->n && strcmp(p->genes[at].unit, unit) == 0 ? p->genes[at].option : NULL;
}

void bb_plan_done(bb_plan *p)
{
    for (size_t i = 0; i < p->n; i++) {
        bb_free(p->genes[i].unit);
        bb_free(p->genes[i].option);
    }
    bb_free(p->genes);
    p->genes = NULL;
    p->n = 0;
}

bb_status bb_plan_print(const bb_plan *p, char **text, bb_err *err)
{
    bb_text t = { 0 };
    bb_text_add(&t, "");
    for (size_t i = 0; i < p->n; i++) bb_text_addf(&t, "%s=%s\n", p->genes[i].unit, p->genes[i].option);
    *text = NULL;
    if (t.status != BB_OK) {
        bb_text_done(&t);
        return BB_FAIL(err, BB_NOMEM, "out of memory while a plan was printed");
    }
    *text = t.data;
    return BB_OK;
}

/* One line without its newline; the names are checked, order and uniqueness are not. */
static bb_status parse_line(const char *line, size_t size, size_t number, bb_gene *g, bb_err *err)
{
    const char *equal = memchr(line, '=', size);
    size_t      n_unit = equal ? (size_t)(equal - line) : 0;
    if (!equal || memchr(line, '\0', size))
        return BB_FAIL(err, BB_BAD_FILE, "plan line %zu: expected unit=option, found '%.*s'", number, size < 60 ? (int)size : 60, line);
    g->unit = bb_asprintf(err, "%.*s", (int)n_unit, line);
    g->option = g->unit ? bb_asprintf(err, "%.*s", (int)(size - n_unit - 1), equal + 1) : NULL;
    bb_status status = BB_OK;
    if (!g->option) status = BB_NOMEM;
    else if (!bb_plan_is_name(g->unit) || !bb_plan_is_name(g->option))
        status = BB_FAIL(err, BB_BAD_FILE, "plan line %zu: '%.60s=%.60s' is not unit=option in printable ASCII without spaces", number, g->unit, g->option);
    if (status != BB_OK) {
        bb_free(g->unit);
        bb_free(g->option);
    }
    return status;
}

static int by_unit(const void *a, const void *b)
{
    const bb_gene *x = a, *y = b;
    return strcmp(x->unit, y->unit);
}

bb_status bb_plan_parse(const char *text, size_t size, bb_plan *out, bb_err *err)
{
    enum { LONGEST_LINE = 4096 };
    bb_status status = BB_OK;
    bb_plan   p = { 0, NULL };
    size_t    n_lines = 0, number = 1;
    for (size_t i = 0; i < size; i++) n_lines += text[i] == '\n';
    if (!(p.genes = BB_NEW(n_lines + 1, bb_gene, err))) return BB_NOMEM;
    for (size_t at = 0; at < size; number++) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t      length = end ? (size_t)(end - text) - at : size - at;
        if (length > LONGEST_LINE) {
            status = BB_FAIL(err, BB_BAD_FILE, "plan line %zu: %zu bytes long, expected at most %d", number, length, LONGEST_LINE);
            goto done;
        }
        BB_TRY(parse_line(text + at, length, number, &p.genes[p.n], err));
        p.n++;
        at += length + 1;
    }
    qsort(p.genes, p.n, sizeof *p.genes, by_unit);
    for (size_t i = 1; i < p.n; i++) {
        if (strcmp(p.genes[i - 1].unit, p.genes[i].unit) != 0) continue;
        status = BB_FAIL(err, BB_BAD_FILE, "plan: unit '%.60s' is set twice", p.genes[i].unit);
        goto done;
    }
done:
    if (status == BB_OK) *out = p;
    else bb_plan_done(&p);
    return status;
}

void bb_plan_hash_gene(bb_sha256 *s, const char *unit, const char *option)
{
    bb_sha256_update(s, unit, strlen(unit));
    bb_sha256_update(s, "=", 1);
    bb_sha256_update(s, option, strlen(option));
    bb_sha256_update(s, "\n", 1);
}

void bb_plan_hash_end(bb_sha256 *s, char hash[17])
{
    char hex[65];
    bb_sha256_hex(s, hex);
    memcpy(hash, hex, 16);
    hash[16] = '\0';
}

void bb_plan_hash(const bb_plan *p, char hash[17])
{
    bb_sha256 s;
    bb_sha256_init(&s);
    for (size_t i = 0; i < p->n; i++) bb_plan_hash_gene(&s, p->genes[i].unit, p->genes[i].option);
    bb_plan_hash_end(&s, hash);
}
