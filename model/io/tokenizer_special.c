/* SPDX-License-Identifier: GPL-3.0-or-later
 * tokenizer_special.c: special tokens found in text in time and memory that grow with text and vocabulary, however the tokens nest.
 *
 * By definition the longest token (of equal ones the first id) takes its leftmost places, then the next one in what is left, and so on. Here one
 * pass from the end of the text to its beginning through an automaton over the reversed tokens (Aho and Corasick, CACM 18, 1975) knows at each
 * byte the longest token that begins there; a heap hands these out in the order above; one that meets bytes already taken falls back to the
 * longest that still fits before them. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/io/tokenizer_parts.h"

/* Node 0 is the root. Nodes in order of creation: a parent comes before its children. */
struct bb_special_set {
    uint32_t       n_nodes;
    uint32_t      *fail;       /* the longest proper suffix that is a node */
    uint32_t      *token;      /* whose text ends here; BB_NONE: none */
    uint32_t      *link[2];    /* the nearest node along fail, itself included, where a token ends; 0: none. [0]: user-defined tokens only, [1]: any */
    uint32_t      *from;       /* its parent */
    unsigned char *byte;       /* by which it follows its parent */
    bb_table       children;   /* nodes by parent and byte, but those of the root */
    uint32_t       start[256]; /* these */
};

/* ---- the automaton ---- */

typedef struct edge {
    uint32_t      from;
    unsigned char byte;
} edge;

static bool is_child(const void *set, uint32_t node, const void *key)
{
    const bb_special_set *s = set;
    const edge           *e = key;
    return s->from[node] == e->from && s->byte[node] == e->byte;
}

static uint32_t *slot_of(const bb_special_set *s, uint32_t from, unsigned char byte)
{
    const uint64_t key = ((uint64_t)from << 8 | byte) * UINT64_C(0x9E3779B97F4A7C15);
    return bb_table_at(&s->children, key ^ key >> 29, is_child, s, &(edge) { from, byte });
}

/* 0: none. */
static uint32_t child(const bb_special_set *s, uint32_t from, unsigned char byte)
{
    if (!from) return s->start[byte];
    const uint32_t slot = *slot_of(s, from, byte);
    return slot ? slot - 1 : 0;
}

static uint32_t step(const bb_special_set *s, uint32_t state, unsigned char byte)
{
    uint32_t next;
    while (!(next = child(s, state, byte)) && state) state = s->fail[state];
    return next;
}

static bool is_user(const bb_tokenizer *t, uint32_t id) { return !(t->attr[id] & (BB_ATTR_CONTROL | BB_ATTR_UNKNOWN)); }

/* depth: of each node, scratch. */
static void add_text(bb_special_set *s, bb_bytes text, uint32_t id, uint32_t *depth)
{
    uint32_t node = 0;
    for (uint64_t i = text.size; i-- > 0;) {
        unsigned char byte = (unsigned char)text.data[i];
        uint32_t      next = child(s, node, byte);
        if (!next) {
            next = s->n_nodes++;
            s->from[next] = node;
            s->byte[next] = byte;
            if (node) *slot_of(s, node, byte) = next + 1;
            else s->start[byte] = next;
            s->token[next] = BB_NONE;
            depth[next] = depth[node] + 1;
        }
        node = next;
    }
    s->token[node] = id;
}

/* fail and link of all nodes, shallow ones first. order: [n_nodes] scratch, count: [deepest + 2] zeros. */
static void connect(bb_special_set *s, const bb_tokenizer *t, const uint32_t *depth, uint32_t *order, uint32_t *count)
{
    uint32_t deepest = 0;
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        count[depth[i] + 1]++;
        if (depth[i] > deepest) deepest = depth[i];
    }
    for (uint32_t d = 0; d <= deepest; d++) count[d + 1] += count[d];
    for (uint32_t i = 0; i < s->n_nodes; i++) order[count[depth[i]]++] = i;
    for (uint32_t k = 1; k < s->n_nodes; k++) {
        uint32_t i = order[k];
        s->fail[i] = s->from[i] ? step(s, s->fail[s->from[i]], s->byte[i]) : 0;
        for (int mode = 0; mode < 2; mode++) s->link[mode][i] = s->token[i] != BB_NONE && (mode || is_user(t, s->token[i])) ? i : s->link[mode][s->fail[i]];
    }
}

static bb_status allocate(bb_special_set *s, uint32_t n, bb_err *err)
{
    bb_status status = BB_OK;
    s->fail = BB_NEW0(n, uint32_t, err);
    s->token = BB_NEW(n, uint32_t, err);
    s->link[0] = BB_NEW0(n, uint32_t, err);
    s->link[1] = BB_NEW0(n, uint32_t, err);
    s->from = BB_NEW0(n, uint32_t, err);
    s->byte = BB_NEW0(n, unsigned char, err);
    if (!s->fail || !s->token || !s->link[0] || !s->link[1] || !s->from || !s->byte) return BB_NOMEM;
    BB_TRY(bb_table_reserve(&s->children, n, 0, NULL, NULL, err));
done:
    return status;
}

bb_status bb_special_set_create(const bb_tokenizer *t, bb_special_set **out, bb_err *err)
{
    uint64_t        bytes = 1, longest = 0;
    uint32_t       *depth = NULL, *order = NULL, *count = NULL;
    bb_special_set *s;
    bb_status       status = BB_NOMEM;
    *out = NULL;
    if (!t->n_special) return BB_OK;
    for (uint32_t i = 0; i < t->n_special; i++) {
        uint64_t size = t->strings.text[t->special[i]].size;
        if (size > BB_LONGEST_TEXT) continue; /* can be in no text */
        bytes += size;
        longest = size > longest ? size : longest;
    }
    if (bytes > INT32_MAX) return BB_FAIL(err, BB_BAD_FILE, "the special tokens have %llu bytes", (unsigned long long)bytes);
    if (!(s = *out = BB_NEW0(1, bb_special_set, err))) return BB_NOMEM;
    BB_TRY(allocate(s, (uint32_t)bytes, err));
    status = BB_NOMEM;
    depth = BB_NEW0((size_t)bytes, uint32_t, err);
    order = BB_NEW((size_t)bytes, uint32_t, err);
    count = BB_NEW0((size_t)longest + 2, uint32_t, err);
    if (!depth || !order || !count) goto done;
    s->n_nodes = 1;
    s->token[0] = BB_NONE;
    for (uint32_t i = 0; i < t->n_special; i++) {
        bb_bytes text = t->strings.text[t->special[i]];
        if (text.size <= BB_LONGEST_TEXT) add_text(s, text, t->special[i], depth);
    }
    connect(s, t, depth, order, count);
    status = BB_OK;
done:
    bb_free(depth);
    bb_free(order);
    bb_free(count);
    return status;
}

void bb_special_set_destroy(bb_special_set *s)
{
    if (!s) return;
    bb_free(s->fail);
    bb_free(s->token);
    bb_free(s->link[0]);
    bb_free(s->link[1]);
    bb_free(s->from);
    bb_free(s->byte);
    bb_table_done(&s->children);
    bb_free(s);
}

/* ---- places in a text ---- */

typedef struct candidate {
    uint64_t at;
    uint32_t node, size, id;
} candidate; /* the token of a node at a byte of the text */
typedef struct candidates {
    candidate *item;
    size_t     n, capacity;
} candidates; /* a heap, the next to be placed first */

static bool comes_before(const candidate *a, const candidate *b)
{
    if (a->size != b->size) return a->size > b->size;
    return a->id != b->id ? a->id < b->id : a->at < b->at;
}

static bb_status push(candidates *h, candidate c, bb_err *err)
{
    size_t i;
    if (h->n == h->capacity) {
        size_t     capacity = h->capacity ? 2 * h->capacity : 64;
        candidate *bigger = bb_realloc(h->item, capacity, sizeof *bigger, err);
        if (!bigger) return BB_NOMEM;
        h->item = bigger;
        h->capacity = capacity;
    }
    for (i = h->n++; i > 0 && comes_before(&c, &h->item[(i - 1) / 2]); i = (i - 1) / 2) h->item[i] = h->item[(i - 1) / 2];
    h->item[i] = c;
    return BB_OK;
}

static candidate pop(candidates *h)
{
    candidate top = h->item[0], last = h->item[--h->n];
    size_t    i = 0, next;
    while ((next = 2 * i + 1) < h->n) {
        if (next + 1 < h->n && comes_before(&h->item[next + 1], &h->item[next])) next++;
        if (comes_before(&last, &h->item[next])) break;
        h->item[i] = h->item[next];
        i = next;
    }
    h->item[i] = last;
    return top;
}

/* The candidate of the nearest token from node on that has at most room bytes. */
static bb_status offer(const bb_tokenizer *t, const uint32_t *link, uint32_t node, uint64_t at, uint64_t room, candidates *h, bb_err *err)
{
    const bb_special_set *s = t->specials;
    for (node = link[node]; node; node = link[s->fail[node]]) {
        uint32_t id = s->token[node];
        uint64_t size = t->strings.text[id].size;
        if (size <= room) return push(h, (candidate) { at, node, (uint32_t)size, id }, err);
    }
    return BB_OK;
}

static bool is_c_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bb_status place_all(const bb_tokenizer *t, const uint32_t *link, const char *text, size_t size, candidates *h, unsigned char *taken, bb_places *p,
                           bb_err *err)
{
    bb_status status = BB_OK;
    while (h->n) {
        candidate            c = pop(h);
        const unsigned char *met = memchr(taken + c.at, 1, c.size);
        uint64_t             end = c.at + c.size;
        if (met) {
            BB_TRY(offer(t, link, c.node, c.at, (uint64_t)(met - (taken + c.at)), h, err));
            continue;
        }
        if (t->attr[c.id] & BB_ATTR_STRIP_RIGHT)
            while (end < size && !taken[end] && is_c_space(text[end])) end++;
        memset(taken + c.at, 1, end - c.at);
        if (p->n == p->capacity) {
            size_t    capacity = p->capacity ? 2 * p->capacity : 64;
            bb_place *bigger = bb_realloc(p->item, capacity, sizeof *bigger, err);
            if (!bigger) return BB_NOMEM;
            p->item = bigger;
            p->capacity = capacity;
        }
        p->item[p->n++] = (bb_place) { c.at, end, c.id };
    }
done:
    return status;
}

static int in_order_of_text(const void *a, const void *b)
{
    const bb_place *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

bb_status bb_special_places(const bb_tokenizer *t, const char *text, size_t size, bool parse_special, bb_places *p, bb_err *err)
{
    const bb_special_set *s = t->specials;
    const uint32_t       *link = s ? s->link[parse_special] : NULL;
    candidates            heap = { NULL, 0, 0 };
    unsigned char        *taken = NULL;
    uint32_t              state = 0;
    bb_status             status = BB_OK;
    for (size_t at = size; s && at-- > 0;) {
        state = step(s, state, (unsigned char)text[at]);
        if (state && link[state]) BB_TRY(offer(t, link, state, at, size - at, &heap, err));
    }
    if (!heap.n) goto done;
    if (!(taken = bb_calloc(size, 1, err))) {
        status = BB_NOMEM;
        goto done;
    }
    BB_TRY(place_all(t, link, text, size, &heap, taken, p, err));
    qsort(p->item, p->n, sizeof *p->item, in_order_of_text);
done:
    bb_free(heap.item);
    bb_free(taken);
    return status;
}
