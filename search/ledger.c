/* SPDX-License-Identifier: GPL-3.0-or-later
 * ledger.c: a table over (candidate, level) in front of base/store. */
#include "search/ledger.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/table.h"

#define SCORE_MAGIC 0x31534242u /* "BBS1" */
#define SCORE_DOUBLES 6

typedef struct record {
    uint16_t *x;
    double   *windows;
    bb_score  score;
    uint32_t  level;
    bool      known, asked;
    char      hash[17];
} record;

struct bb_ledger {
    const bb_problem   *problem;
    const bb_evaluator *evaluator;
    bb_store           *store;
    bb_ledger_options   o;
    char                scope[17];
    bool               *is_controller; /* [n_units] */
    record             *records;       /* in order of first appearance */
    size_t              n, capacity;
    bb_table            table; /* of records, by candidate and level */
    double              tokens, tokens_new;
    uint64_t            n_asked;
};

bb_status bb_ledger_open(const bb_problem *p, const bb_evaluator *e, bb_store *store, const bb_ledger_options *options, bb_ledger **out, bb_err *err)
{
    *out = NULL;
    bb_ledger *l = BB_NEW0(1, bb_ledger, err);
    if (!l) return BB_NOMEM;
    *l = (bb_ledger) { .problem = p, .evaluator = e, .store = store };
    if (options) l->o = *options;
    if (l->o.chunk == 0) l->o.chunk = 32;
    char      hex[65];
    bb_sha256 sha;
    bb_sha256_init(&sha);
    bb_sha256_text(&sha, e->key ? e->key : "");
    bb_sha256_hex(&sha, hex);
    memcpy(l->scope, hex, 16);
    l->is_controller = BB_NEW0(p->n_units, bool, err);
    if (!l->is_controller || bb_table_reserve(&l->table, 512, 0, NULL, NULL, err) != BB_OK) {
        bb_ledger_close(l);
        return BB_NOMEM;
    }
    for (uint32_t u = 0; u < p->n_units; u++)
        if (p->units[u].controller >= 0) l->is_controller[p->units[u].controller] = true;
    *out = l;
    return BB_OK;
}

void bb_ledger_close(bb_ledger *l)
{
    if (!l) return;
    for (size_t i = 0; i < l->n; i++) {
        bb_free(l->records[i].x);
        bb_free(l->records[i].windows);
    }
    bb_free(l->records);
    bb_table_done(&l->table);
    bb_free(l->is_controller);
    bb_free(l);
}

/* ---- table in memory --------------------------------------------------------------------------------------------------------- */

typedef struct candidate {
    const uint16_t *x;
    uint32_t        level;
} candidate;

static uint64_t hash_candidate(const bb_ledger *l, const uint16_t *x, uint32_t level) { return bb_hash64(x, l->problem->n_units * sizeof *x, level); }

static uint64_t hash_of(const void *ledger, uint32_t number)
{
    const bb_ledger *l = ledger;
    return hash_candidate(l, l->records[number].x, l->records[number].level);
}

static bool is_candidate(const void *ledger, uint32_t number, const void *key)
{
    const bb_ledger *l = ledger;
    const record    *r = &l->records[number];
    const candidate *c = key;
    return r->level == c->level && memcmp(r->x, c->x, l->problem->n_units * sizeof *c->x) == 0;
}

static uint32_t *slot_of(const bb_ledger *l, const uint16_t *x, uint32_t level)
{
    return bb_table_at(&l->table, hash_candidate(l, x, level), is_candidate, l, &(candidate) { x, level });
}

static bb_status grow(bb_ledger *l, bb_err *err)
{
    if (l->n == l->capacity) {
        const size_t capacity = l->capacity ? 2 * l->capacity : 256;
        record      *grown = bb_realloc(l->records, capacity, sizeof *grown, err);
        if (!grown) return BB_NOMEM;
        l->records = grown;
        l->capacity = capacity;
    }
    return bb_table_reserve(&l->table, l->n + 1, l->n, hash_of, l, err);
}

/* The record of (x, level), made when absent, with the index in *at. */
static bb_status intern(bb_ledger *l, const uint16_t *x, uint32_t level, size_t *at, bb_err *err)
{
    bb_status    status = BB_OK;
    uint16_t    *copy = NULL;
    double      *windows = NULL;
    const size_t found = *slot_of(l, x, level);
    if (found) {
        *at = found - 1;
        return BB_OK;
    }
    BB_TRY(grow(l, err));
    record r = { .level = level };
    bb_plan_space_hash(l->problem->plans, x, r.hash);
    copy = BB_NEW(l->problem->n_units, uint16_t, err);
    windows = BB_NEW0(l->evaluator->n_windows[level], double, err);
    if (!copy || !windows) {
        status = BB_NOMEM;
        goto done;
    }
    memcpy(copy, x, l->problem->n_units * sizeof *x);
    r.x = copy;
    r.windows = windows;
    *slot_of(l, x, level) = (uint32_t)l->n + 1;
    *at = l->n;
    l->records[l->n++] = r;
    copy = NULL;
    windows = NULL;
done:
    bb_free(copy);
    bb_free(windows);
    return status;
}

/* ---- store --------------------------------------------------------------------------------------------------------------------- */

static size_t blob_size(uint32_t n_windows) { return 8 + sizeof(double) * (SCORE_DOUBLES + (size_t)n_windows); }

static void pack(const record *r, uint32_t n_windows, unsigned char *blob)
{
    const uint32_t head[2] = { SCORE_MAGIC, n_windows };
    const double   s[SCORE_DOUBLES] = { r->score.kl, r->score.kl_se, r->score.ppl, r->score.ppl_se, r->score.top1, r->score.tokens };
    memcpy(blob, head, 8);
    memcpy(blob + 8, s, sizeof s);
    memcpy(blob + 8 + sizeof s, r->windows, n_windows * sizeof(double));
}

static bb_status unpack(record *r, uint32_t n_windows, const unsigned char *blob, size_t size, const char *key, bb_err *err)
{
    uint32_t head[2] = { 0, 0 };
    double   s[SCORE_DOUBLES];
    if (size >= 8) memcpy(head, blob, 8);
    if (head[0] != SCORE_MAGIC || head[1] != n_windows || size != blob_size(n_windows))
        return BB_FAIL(err, BB_BAD_FILE, "the ledger entry %s has %zu bytes and %u windows, expected %zu and %u", key, size, head[1], blob_size(n_windows),
                       n_windows);
    memcpy(s, blob + 8, sizeof s);
    memcpy(r->windows, blob + 8 + sizeof s, n_windows * sizeof(double));
    r->score = (bb_score) { .kl = s[0], .kl_se = s[1], .ppl = s[2], .ppl_se = s[3], .top1 = s[4], .tokens = s[5] };
    r->known = true;
    return BB_OK;
}

/* From what the evaluator said to what is minimised. */
static void weigh(const bb_ledger *l, record *r)
{
    r->score.plain = r->score.kl;
    r->score.plain_se = r->score.kl_se;
    if (!l->o.weight) return;
    const double weight = l->o.weight(l->o.weight_self, r->x);
    r->score.kl *= weight;
    r->score.kl_se *= weight;
    for (uint32_t i = 0; i < l->evaluator->n_windows[r->level]; i++) r->windows[i] *= weight;
}

static void make_key(const bb_ledger *l, const record *r, char key[64]) { snprintf(key, 64, "%s/%s/%u", l->scope, r->hash, r->level); }

static bb_status recall(bb_ledger *l, record *r, bb_err *err)
{
    bb_status status = BB_OK;
    void     *value = NULL;
    size_t    size = 0;
    bool      found = false;
    char      key[64];
    if (r->known || !l->store) return BB_OK;
    make_key(l, r, key);
    BB_TRY(bb_store_get(l->store, "scores", key, &value, &size, &found, err));
    if (!found) goto done;
    BB_TRY(unpack(r, l->evaluator->n_windows[r->level], value, size, key, err));
    weigh(l, r);
done:
    bb_free(value);
    return status;
}

static bb_status remember(bb_ledger *l, const record *r, bb_err *err)
{
    bb_status status = BB_OK;
    char     *text = NULL, key[64];
    if (!l->store) return BB_OK;
    const uint32_t n_windows = l->evaluator->n_windows[r->level];
    unsigned char *blob = BB_NEW(blob_size(n_windows), unsigned char, err);
    if (!blob) return BB_NOMEM;
    pack(r, n_windows, blob);
    make_key(l, r, key);
    /* The plan first: a score whose plan is unknown could not be listed. */
    BB_TRY(bb_plan_space_print(l->problem->plans, r->x, &text, err));
    BB_TRY(bb_store_put(l->store, "plans", r->hash, text, strlen(text), err));
    BB_TRY(bb_store_put(l->store, "scores", key, blob, blob_size(n_windows), err));
done:
    bb_free(text);
    bb_free(blob);
    return status;
}

/* ---- evaluation ---------------------------------------------------------------------------------------------------------------- */

/* Evaluators that keep the hidden states of the plan scored last gain when neighbours share a prefix of the network: plans are ordered by the
 * units that stand alone (embedding and head touch everything), then by the others in their order, which is the network's. */
typedef struct prefix_key {
    const bb_ledger *l;
    size_t           at;
} prefix_key;

static bool stands_alone(const bb_ledger *l, uint32_t u) { return l->problem->units[u].controller < 0 && !l->is_controller[u]; }

static int by_prefix(const void *pa, const void *pb)
{
    const prefix_key *a = pa, *b = pb;
    const uint16_t   *x = a->l->records[a->at].x, *y = b->l->records[b->at].x;
    for (int alone = 1; alone >= 0; alone--)
        for (uint32_t u = 0; u < a->l->problem->n_units; u++)
            if (x[u] != y[u] && stands_alone(a->l, u) == alone) return x[u] < y[u] ? -1 : 1;
    return 0; /* only for one and the same record */
}

static bb_status sort_by_prefix(const bb_ledger *l, size_t *at, size_t n, bb_err *err)
{
    prefix_key *order = BB_NEW(n, prefix_key, err);
    if (!order) return BB_NOMEM;
    for (size_t i = 0; i < n; i++) order[i] = (prefix_key) { l, at[i] };
    qsort(order, n, sizeof *order, by_prefix);
    for (size_t i = 0; i < n; i++) at[i] = order[i].at;
    bb_free(order);
    return BB_OK;
}

/* Evaluates the records at[0..n-1] in one call and stores them. */
static bb_status evaluate_chunk(bb_ledger *l, const size_t *at, size_t n, uint32_t level, bb_err *err)
{
    bb_status        status = BB_NOMEM;
    const uint16_t **x = BB_NEW(n, const uint16_t *, err);
    double         **windows = BB_NEW(n, double *, err);
    bb_score        *scores = BB_NEW0(n, bb_score, err);
    if (!x || !windows || !scores) goto done;
    for (size_t i = 0; i < n; i++) {
        x[i] = l->records[at[i]].x;
        windows[i] = l->records[at[i]].windows;
    }
    BB_TRY(l->evaluator->evaluate(l->evaluator->self, x, n, level, scores, windows, err));
    for (size_t i = 0; i < n; i++) {
        record *r = &l->records[at[i]];
        r->score = scores[i];
        r->known = true;
        l->tokens_new += scores[i].tokens;
        BB_TRY(remember(l, r, err));
        weigh(l, r);
    }
done:
    bb_free(x);
    bb_free(windows);
    bb_free(scores);
    return status;
}

static bb_status evaluate_missing(bb_ledger *l, size_t *at, size_t n, uint32_t level, bb_err *err)
{
    bb_status status = BB_OK;
    if (n > 0 && l->o.only)
        return BB_FAIL(err, BB_NOT_FOUND, "the ledger has no score of plan %s at level %u (%zu missing in this batch), and evaluating is off",
                       l->records[at[0]].hash, level, n);
    BB_TRY(sort_by_prefix(l, at, n, err));
    for (size_t i = 0; i < n; i += l->o.chunk) {
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted; what was evaluated is in the ledger");
        const size_t m = n - i < l->o.chunk ? n - i : l->o.chunk;
        BB_TRY(evaluate_chunk(l, at + i, m, level, err));
    }
done:
    return status;
}

static void count_asked(bb_ledger *l, record *r)
{
    if (r->asked) return;
    r->asked = true;
    l->tokens += r->score.tokens;
    l->n_asked++;
}

bb_status bb_ledger_evaluate(bb_ledger *l, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    bb_status status = BB_NOMEM;
    size_t   *at = BB_NEW(n, size_t, err), *missing = BB_NEW(n, size_t, err), n_missing = 0;
    if (!at || !missing) goto done;
    BB_ASSERT(level < l->evaluator->n_levels);
    if (bb_interrupted() && !bb_interrupt_late()) { /* --time counts what is new; who asks for an end wants it although all is known */
        status = BB_FAIL(err, BB_INTERRUPTED, "interrupted; what was evaluated is in the ledger");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        BB_TRY(intern(l, x[i], level, &at[i], err));
        record *r = &l->records[at[i]];
        BB_TRY(recall(l, r, err));
        bool pending = !r->known;
        for (size_t k = 0; pending && k < n_missing; k++) pending = missing[k] != at[i];
        if (pending) missing[n_missing++] = at[i];
    }
    BB_TRY(evaluate_missing(l, missing, n_missing, level, err));
    for (size_t i = 0; i < n; i++) {
        record *r = &l->records[at[i]];
        count_asked(l, r);
        out[i] = r->score;
        if (window_kl && window_kl[i]) memcpy(window_kl[i], r->windows, l->evaluator->n_windows[level] * sizeof(double));
    }
    status = BB_OK;
done:
    bb_free(at);
    bb_free(missing);
    return status;
}

static bb_ledger_entry entry_of(const bb_ledger *l, const record *r)
{
    bb_ledger_entry e = {
        .x = r->x, .level = r->level, .score = r->score, .window_kl = r->windows, .n_windows = l->evaluator->n_windows[r->level], .asked = r->asked
    };
    memcpy(e.hash, r->hash, sizeof e.hash);
    return e;
}

bb_status bb_ledger_find(bb_ledger *l, const uint16_t *x, uint32_t level, bb_ledger_entry *e, bool *found, bb_err *err)
{
    bb_status status = BB_OK;
    size_t    at = 0;
    *found = false;
    BB_TRY(intern(l, x, level, &at, err));
    BB_TRY(recall(l, &l->records[at], err));
    *found = l->records[at].known;
    if (*found) *e = entry_of(l, &l->records[at]);
done:
    return status;
}

/* ---- iteration ----------------------------------------------------------------------------------------------------------------- */

typedef struct loader {
    bb_ledger *l;
    uint16_t  *x;
} loader;

/* Plans of another problem in the same store are not ours to list; they are skipped. */
static bb_status load_plan(const loader *o, const void *value, size_t size, bb_err *err)
{
    bb_status status = BB_OK;
    bb_plan   plan = { 0 };
    BB_TRY(bb_plan_parse(value, size, &plan, err));
    if (bb_plan_space_indices(o->l->problem->plans, &plan, o->x, NULL) != BB_OK) goto done;
    for (uint32_t level = 0; level < o->l->evaluator->n_levels; level++) {
        bb_ledger_entry ignored;
        bool            found;
        BB_TRY(bb_ledger_find(o->l, o->x, level, &ignored, &found, err));
    }
done:
    bb_plan_done(&plan);
    return status;
}

static int by_hash(const void *pa, const void *pb)
{
    const record *a = *(const record *const *)pa, *b = *(const record *const *)pb;
    const int     c = strcmp(a->hash, b->hash);
    return c ? c : (a->level > b->level) - (a->level < b->level);
}

typedef struct plan_texts {
    void  **values;
    size_t *sizes;
    size_t  n, capacity;
} plan_texts;

/* The store must not be asked again from inside its own iteration, so plans are copied first. */
static bb_status copy_plan(void *self, const char *key, const void *value, size_t size, bb_err *err)
{
    plan_texts *t = self;
    if (t->n == t->capacity) {
        const size_t capacity = t->capacity ? 2 * t->capacity : 256;
        void       **values = bb_realloc(t->values, capacity, sizeof *values, err);
        if (values) t->values = values;
        size_t *sizes = values ? bb_realloc(t->sizes, capacity, sizeof *sizes, err) : NULL;
        if (!sizes) return BB_NOMEM;
        t->sizes = sizes;
        t->capacity = capacity;
    }
    (void)key;
    void *copy = bb_alloc(size, 1, err);
    if (!copy) return BB_NOMEM;
    memcpy(copy, value, size);
    t->values[t->n] = copy;
    t->sizes[t->n++] = size;
    return BB_OK;
}

static bb_status load_all(bb_ledger *l, bb_err *err)
{
    bb_status  status = BB_OK;
    plan_texts t = { 0 };
    loader     o = { l, NULL };
    if (!l->store) return BB_OK;
    o.x = BB_NEW(l->problem->n_units, uint16_t, err);
    if (!o.x) return BB_NOMEM;
    BB_TRY(bb_store_each(l->store, "plans", copy_plan, &t, err));
    for (size_t i = 0; i < t.n; i++) BB_TRY(load_plan(&o, t.values[i], t.sizes[i], err));
done:
    for (size_t i = 0; i < t.n; i++) bb_free(t.values[i]);
    bb_free(t.values);
    bb_free(t.sizes);
    bb_free(o.x);
    return status;
}

bb_status bb_ledger_each(bb_ledger *l, bb_ledger_visit visit, void *self, bb_err *err)
{
    bb_status      status = BB_OK;
    const record **sorted = NULL;
    size_t         n = 0;
    BB_TRY(load_all(l, err));
    sorted = BB_NEW(l->n, const record *, err);
    if (!sorted) {
        status = BB_NOMEM;
        goto done;
    }
    for (size_t i = 0; i < l->n; i++)
        if (l->records[i].known) sorted[n++] = &l->records[i];
    qsort(sorted, n, sizeof(const record *), by_hash);
    for (size_t i = 0; i < n; i++) {
        const bb_ledger_entry e = entry_of(l, sorted[i]);
        BB_TRY(visit(self, &e, err));
    }
done:
    bb_free(sorted);
    return status;
}

double              bb_ledger_tokens(const bb_ledger *l) { return l->tokens; }
double              bb_ledger_tokens_new(const bb_ledger *l) { return l->tokens_new; }
uint64_t            bb_ledger_asked(const bb_ledger *l) { return l->n_asked; }
const bb_evaluator *bb_ledger_evaluator(const bb_ledger *l) { return l->evaluator; }
