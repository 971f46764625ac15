/* SPDX-License-Identifier: GPL-3.0-or-later
 * peers.h: processes that do one computation together, each a share of every step, and talk to each other meanwhile (jobs of a crew do not: crew.h).
 *
 * All do the same calls in the same order; whoever sends waits for the other to receive. Nothing fails: a peer that dies ends the launch. So one whose own work
 * has failed goes on talking until all are asked how they are (bb_peers_worst), and then all stop at the same place.
 */
#ifndef BB_BASE_PEERS_H
#define BB_BASE_PEERS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct bb_span {
    void  *at;
    size_t size; /* bytes */
} bb_span;

typedef struct bb_peers {
    void    *self;
    uint32_t rank, n; /* which of them this is */
    /* The spans of both sides are of the same sizes. */
    void (*send)(void *self, uint32_t to, const bb_span *spans, size_t n_spans);
    void (*receive)(void *self, uint32_t from, const bb_span *spans, size_t n_spans);
} bb_peers;

/* All have what `root` has in the spans. p NULL here and below: there are no others. */
void bb_peers_share(const bb_peers *p, uint32_t root, const bb_span *spans, size_t n_spans);
/* The worst that any of them says: BB_OK if all do, else a failure, and BB_INTERRUPTED where nothing else has failed. */
bb_status bb_peers_worst(const bb_peers *p, bb_status own);

#endif
