/* SPDX-License-Identifier: GPL-3.0-or-later
 * tokenizer_merge.c: see tokenizer_parts.h. */
#include <string.h>

#include "base/mem.h"
#include "model/io/tokenizer_parts.h"

/* ---- strings ---- */

static uint64_t mix(uint64_t a)
{
    a ^= a >> 32;
    a *= 0x9E3779B97F4A7C15u;
    return a ^ a >> 29;
}

static uint64_t hash(const char *text, size_t size)
{
    uint64_t h = size * 0xD6E8FEB86659FD93u, word;
    for (; size >= 8; text += 8, size -= 8) {
        memcpy(&word, text, 8);
        h = mix(h ^ word);
    }
    word = 0;
    for (size_t i = 0; i < size; i++) word |= (uint64_t)(unsigned char)text[i] << 8 * i;
    return mix(mix(h ^ word) + 1);
}

static uint64_t hash_of(const void *strings, uint32_t number)
{
    const bb_bytes *b = &((const bb_strings *)strings)->text[number];
    return hash(b->data, (size_t)b->size);
}

static bool is_text(const void *strings, uint32_t number, const void *key)
{
    const bb_bytes *a = &((const bb_strings *)strings)->text[number], *b = key;
    return a->size == b->size && memcmp(a->data, b->data, (size_t)b->size) == 0;
}

bb_status bb_strings_reserve(bb_strings *s, uint32_t n, bb_err *err)
{
    bb_status status = BB_OK;
    bb_bytes *text;
    if (n <= s->capacity) return BB_OK;
    if (n > UINT32_MAX / 8) return BB_FAIL(err, BB_BAD_FILE, "the vocabulary has %u texts, more than can be handled", n);
    BB_TRY(bb_table_reserve(&s->numbers, n, s->n, hash_of, s, err));
    if (!(text = bb_realloc(s->text, n, sizeof *text, err))) return BB_NOMEM;
    s->text = text;
    s->capacity = n;
done:
    return status;
}

uint32_t bb_strings_find(const bb_strings *s, const char *text, size_t size)
{
    const bb_bytes  key = { text, size };
    const uint32_t *slot = bb_table_at(&s->numbers, hash(text, size), is_text, s, &key);
    return slot ? *slot - 1 : BB_NONE; /* a free slot: 0 - 1 == BB_NONE */
}

uint32_t bb_strings_add(bb_strings *s, bb_bytes text)
{
    BB_ASSERT(s->n < s->capacity);
    uint32_t *slot = bb_table_at(&s->numbers, hash(text.data, (size_t)text.size), is_text, s, &text);
    s->text[s->n++] = text;
    if (!*slot) *slot = s->n;
    return s->n - 1;
}

void bb_strings_done(bb_strings *s)
{
    bb_free(s->text);
    bb_table_done(&s->numbers);
    *s = (bb_strings) { 0 };
}

bb_status bb_ids_add(bb_ids *ids, int32_t id, bb_err *err)
{
    if (ids->n == ids->capacity) {
        size_t   capacity = ids->capacity ? 2 * ids->capacity : 256;
        int32_t *data = bb_realloc(ids->data, capacity, sizeof *data, err);
        if (!data) return BB_NOMEM;
        ids->data = data;
        ids->capacity = capacity;
    }
    ids->data[ids->n++] = id;
    return BB_OK;
}

const char *bb_printable(bb_bytes text, char out[41])
{
    size_t n = text.size < 40 ? (size_t)text.size : 40;
    for (size_t i = 0; i < n; i++) out[i] = (char)(text.data[i] >= ' ' && text.data[i] <= '~' ? text.data[i] : '?');
    out[n] = '\0';
    return out;
}

/* ---- merging ---- */

void bb_merger_clear(bb_merger *m) { m->n = m->n_heap = 0; }

bb_status bb_merger_add(bb_merger *m, size_t at, uint32_t size, uint32_t id, bb_err *err)
{
    if (m->n == m->capacity) {
        size_t     capacity = m->capacity ? 2 * m->capacity : 256;
        bb_symbol *symbol = bb_realloc(m->symbol, capacity, sizeof *symbol, err);
        if (!symbol) return BB_NOMEM;
        m->symbol = symbol;
        m->capacity = capacity;
    }
    m->symbol[m->n] = (bb_symbol) { at, size, id, m->n ? (uint32_t)m->n - 1 : BB_NONE, BB_NONE };
    if (m->n) m->symbol[m->n - 1].next = (uint32_t)m->n;
    m->n++;
    return BB_OK;
}

static bb_status push(bb_merger *m, bb_candidate c, bb_err *err)
{
    size_t i;
    if (m->n_heap == m->heap_capacity) {
        size_t        capacity = m->heap_capacity ? 2 * m->heap_capacity : 256;
        bb_candidate *heap = bb_realloc(m->heap, capacity, sizeof *heap, err);
        if (!heap) return BB_NOMEM;
        m->heap = heap;
        m->heap_capacity = capacity;
    }
    for (i = m->n_heap++; i > 0 && m->heap[(i - 1) / 2].key > c.key; i = (i - 1) / 2) m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = c;
    return BB_OK;
}

static bb_candidate pop(bb_merger *m)
{
    bb_candidate top = m->heap[0], last = m->heap[--m->n_heap];
    size_t       i = 0, child;
    while ((child = 2 * i + 1) < m->n_heap) {
        if (child + 1 < m->n_heap && m->heap[child + 1].key < m->heap[child].key) child++;
        if (m->heap[child].key >= last.key) break;
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = last;
    return top;
}

static bb_status consider(bb_merger *m, uint32_t left, const bb_tokenizer *t, const char *text, bb_pair pair, bb_err *err)
{
    const bb_symbol *l, *r;
    uint32_t         priority, id;
    if (left == BB_NONE || m->symbol[left].next == BB_NONE) return BB_OK;
    l = &m->symbol[left];
    r = &m->symbol[l->next];
    if (!pair(t, text, l, r, &priority, &id)) return BB_OK;
    return push(m, (bb_candidate) { (uint64_t)priority << 32 | left, l->next, l->size + r->size, id }, err);
}

bb_status bb_merger_run(bb_merger *m, const bb_tokenizer *t, const char *text, bb_pair pair, bb_err *err)
{
    bb_status status = BB_OK;
    m->n_heap = 0;
    for (size_t i = 0; i + 1 < m->n; i++) BB_TRY(consider(m, (uint32_t)i, t, text, pair, err));
    while (m->n_heap) {
        bb_candidate c = pop(m);
        uint32_t     left = (uint32_t)c.key;
        bb_symbol   *l = &m->symbol[left], *r = &m->symbol[c.right];
        if (!l->size || !r->size || l->size + r->size != c.size) continue; /* one of the two has merged since */
        l->size = c.size;
        l->id = c.id;
        r->size = 0;
        l->next = r->next;
        if (r->next != BB_NONE) m->symbol[r->next].prev = left;
        BB_TRY(consider(m, l->prev, t, text, pair, err));
        BB_TRY(consider(m, left, t, text, pair, err));
    }
done:
    return status;
}

void bb_merger_done(bb_merger *m)
{
    bb_free(m->symbol);
    bb_free(m->heap);
    *m = (bb_merger) { 0 };
}
