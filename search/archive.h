/* SPDX-License-Identifier: GPL-3.0-or-later
 * archive.h: the set of scored plans that no other one beats in both bytes and KL.
 *
 * Entries ascend in bytes and strictly descend in KL. Insertion order does not matter: of two entries equal in both, the smaller hash stays. Means
 * decide dominance; the standard errors travel with the entries. Only scores of one fidelity level should meet in one archive.
 */
#ifndef BB_SEARCH_ARCHIVE_H
#define BB_SEARCH_ARCHIVE_H

#include "search/problem.h"

enum { BB_SOURCE = 40 }; /* bytes of the name of who found a plan: "separable", "pair", "uniform Q4_K + Q6_K" */

typedef struct bb_archive_entry {
    uint16_t *x;          /* [n_units] */
    int64_t   size_bytes; /* exact */
    bb_score  score;
    double    proxy, proxy_bound; /* separable score and a lower bound of it at these bytes; NaN when unknown */
    char      hash[17];
    char      source[BB_SOURCE];
} bb_archive_entry;

typedef struct bb_archive {
    uint32_t          n_units;
    size_t            n, capacity;
    bb_archive_entry *entries; /* owned, with their x */
} bb_archive;

void bb_archive_init(bb_archive *a, uint32_t n_units);
void bb_archive_done(bb_archive *a);
/* Copies e (with x). kept (may be NULL): whether it is now in the archive. A NaN KL is never kept. */
bb_status               bb_archive_insert(bb_archive *a, const bb_archive_entry *e, bool *kept, bb_err *err);
const bb_archive_entry *bb_archive_best(const bb_archive *a, int64_t budget_bytes); /* lowest KL within the budget; NULL when none */

#endif
