/* SPDX-License-Identifier: GPL-3.0-or-later
 * peers.c: see peers.h. */
#include "base/peers.h"

void bb_peers_share(const bb_peers *p, uint32_t root, const bb_span *spans, size_t n_spans)
{
    if (!p || p->n < 2) return;
    const uint32_t own = (p->rank + p->n - root) % p->n; /* as if root were the first: in each round those who have it send it on */
    for (uint32_t have = 1; have < p->n; have *= 2) {
        if (own < have && own + have < p->n) p->send(p->self, (p->rank + have) % p->n, spans, n_spans);
        else if (own >= have && own < 2 * have) p->receive(p->self, (p->rank + p->n - have) % p->n, spans, n_spans);
    }
}

static bb_status worse(bb_status a, bb_status b) { return a == BB_OK || (a == BB_INTERRUPTED && b != BB_OK) ? b : a; }

bb_status bb_peers_worst(const bb_peers *p, bb_status own)
{
    bb_status     worst = own, its;
    const bb_span here = { &worst, sizeof worst }, there = { &its, sizeof its };
    if (!p || p->n < 2) return own;
    if (p->rank > 0) p->send(p->self, 0, &here, 1);
    for (uint32_t i = 1; p->rank == 0 && i < p->n; i++) {
        p->receive(p->self, i, &there, 1);
        worst = worse(worst, its);
    }
    bb_peers_share(p, 0, &here, 1);
    return worst;
}
