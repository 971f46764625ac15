/* SPDX-License-Identifier: GPL-3.0-or-later
 * table.c: see table.h. */
#include "base/table.h"

#include "base/mem.h"

bb_status bb_table_reserve(bb_table *t, size_t n, size_t present, uint64_t (*hash_of)(const void *items, uint32_t number), const void *items, bb_err *err)
{
    size_t    n_slots = t->n_slots ? t->n_slots : 64;
    uint32_t *slot;
    if (t->n_slots && 2 * n <= t->n_slots) return BB_OK;
    if (n > UINT32_MAX / 4) return BB_FAIL(err, BB_NOMEM, "a table of %zu items is more than can be handled", n);
    while (n_slots < 2 * n) n_slots *= 2;
    if (!(slot = BB_NEW0(n_slots, uint32_t, err))) return BB_NOMEM;
    for (size_t k = 0; k < present; k++) {
        size_t i = (size_t)hash_of(items, (uint32_t)k) & (n_slots - 1);
        while (slot[i]) i = (i + 1) & (n_slots - 1);
        slot[i] = (uint32_t)k + 1;
    }
    bb_free(t->slot);
    *t = (bb_table) { slot, n_slots };
    return BB_OK;
}

void bb_table_done(bb_table *t)
{
    bb_free(t->slot);
    *t = (bb_table) { 0 };
}
