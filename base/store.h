/* SPDX-License-Identifier: GPL-3.0-or-later
 * store.h: a crash-safe key-value store in one SQLite file (WAL), the ground of the search ledger and of resumable stages.
 *
 * Tables are named spaces of (key text -> value blob). A put is durable when it returns (synchronous=NORMAL in WAL: an
 * application crash or kill loses nothing). Iteration is in key order, so that what is read back does not depend on the
 * order of arrival. Thread-safe by one mutex.
 */
#ifndef BB_BASE_STORE_H
#define BB_BASE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct bb_store bb_store;

bb_status bb_store_open(const char *path, bb_store **store, bb_err *err); /* creates; BB_BAD_FILE if it is no such store */
void      bb_store_close(bb_store *store);
bb_status bb_store_put(bb_store *s, const char *table, const char *key, const void *value, size_t size, bb_err *err);
/* *found false and BB_OK when absent. *value is freed with bb_free. */
bb_status bb_store_get(bb_store *s, const char *table, const char *key, void **value, size_t *size, bool *found, bb_err *err);
/* A visitor may read the store but not write to it, nor start another bb_store_each. */
typedef bb_status (*bb_store_visit)(void *self, const char *key, const void *value, size_t size, bb_err *err);
bb_status bb_store_each(bb_store *s, const char *table, bb_store_visit visit, void *self, bb_err *err);
bb_status bb_store_count(bb_store *s, const char *table, uint64_t *n, bb_err *err);

#endif
