/* SPDX-License-Identifier: GPL-3.0-or-later
 * archive.c: a sorted array; fronts have tens to a few thousand entries, so insertion by memmove is the simple and fast way. */
#include "search/archive.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

void bb_archive_init(bb_archive *a, uint32_t n_units) { *a = (bb_archive) { .n_units = n_units }; }

void bb_archive_done(bb_archive *a)
{
    for (size_t i = 0; i < a->n; i++) bb_free(a->entries[i].x);
    bb_free(a->entries);
    *a = (bb_archive) { .n_units = a->n_units };
}

/* Number of entries with at most this many bytes. */
static size_t upper(const bb_archive *a, int64_t bytes)
{
    size_t lo = 0, hi = a->n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (a->entries[mid].size_bytes <= bytes) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* Dominated, or equal in both and not the smaller hash. The best KL within e's bytes is the last entry of that prefix. */
static bool is_beaten(const bb_archive *a, const bb_archive_entry *e)
{
    const size_t n = upper(a, e->size_bytes);
    if (n == 0) return false;
    const bb_archive_entry *p = &a->entries[n - 1];
    if (p->score.kl != e->score.kl) return p->score.kl < e->score.kl;
    return p->size_bytes < e->size_bytes || strcmp(p->hash, e->hash) <= 0;
}

bb_status bb_archive_insert(bb_archive *a, const bb_archive_entry *e, bool *kept, bb_err *err)
{
    if (kept) *kept = false;
    if (isnan(e->score.kl) || is_beaten(a, e)) return BB_OK;
    if (a->n == a->capacity) {
        const size_t      capacity = a->capacity ? 2 * a->capacity : 32;
        bb_archive_entry *grown = bb_realloc(a->entries, capacity, sizeof *grown, err);
        if (!grown) return BB_NOMEM;
        a->entries = grown;
        a->capacity = capacity;
    }
    uint16_t *x = BB_NEW(a->n_units, uint16_t, err);
    if (!x) return BB_NOMEM;
    memcpy(x, e->x, a->n_units * sizeof *x);

    /* What e beats lies from the first entry with at least its bytes, as long as KL is not lower. */
    size_t first = upper(a, e->size_bytes - 1), last = first;
    while (last < a->n && a->entries[last].score.kl >= e->score.kl) bb_free(a->entries[last++].x);
    memmove(a->entries + first + 1, a->entries + last, (a->n - last) * sizeof *a->entries);
    a->n = a->n - (last - first) + 1;
    a->entries[first] = *e;
    a->entries[first].x = x;
    if (kept) *kept = true;
    return BB_OK;
}

const bb_archive_entry *bb_archive_best(const bb_archive *a, int64_t budget_bytes)
{
    const size_t n = upper(a, budget_bytes);
    return n ? &a->entries[n - 1] : NULL;
}
