/* SPDX-License-Identifier: GPL-3.0-or-later
 * table.h: finds the number of an item by its key: open addressing, linear probing, at most half full. Items and keys are the caller's: an array,
 * numbered from 0, whose items never leave. The functions over it are inlined, so is_key costs no call.
 *
 *   bb_table_reserve(&t, n + 1, n, hash_of, items, err);   before an item is added
 *   slot = bb_table_at(&t, hash, is_key, items, key);      *slot is 0, or the number of the item + 1
 *   if (!*slot) *slot = n + 1, items[n++] = ...            adds it; the slot is good until the next bb_table_reserve
 */
#ifndef BB_BASE_TABLE_H
#define BB_BASE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct bb_table {
    uint32_t *slot;    /* number + 1; 0: free */
    size_t    n_slots; /* a power of two, or 0 */
} bb_table;            /* zero-initialise */

/* Room for n items in all, of which the first `present` are there: they are put in again when the table grows, by the low bits of their hashes. After a
 * failure the table is as it was. */
bb_status bb_table_reserve(bb_table *t, size_t n, size_t present, uint64_t (*hash_of)(const void *items, uint32_t number), const void *items, bb_err *err);
void      bb_table_done(bb_table *t);

/* The slot of the item that has this key and hash, or the free one where it would go; NULL from a table without room for any. */
static inline uint32_t *bb_table_at(const bb_table *t, uint64_t hash, bool (*is_key)(const void *items, uint32_t number, const void *key), const void *items,
                                    const void *key)
{
    size_t i = (size_t)hash & (t->n_slots - 1);
    if (t->n_slots == 0) return NULL;
    while (t->slot[i] && !is_key(items, t->slot[i] - 1, key)) i = (i + 1) & (t->n_slots - 1);
    return &t->slot[i];
}

#endif
