/* SPDX-License-Identifier: GPL-3.0-or-later
 * evidence.h: what the search leaves beside its plans: certificate.csv (how near to the optimum of the proxies, proven), crossover.csv (up
 * to which size pruning pays); with a runtime profile speed.csv (predicted tokens a second of every plan). */
#ifndef BB_ENGINE_EVIDENCE_H
#define BB_ENGINE_EVIDENCE_H

#include "engine/front.h"
#include "engine/run.h"
#include "engine/speed.h"
#include "search/archive.h"
#include "search/ledger.h"

enum { BB_CERTIFIED_OPTIONS = 4096 }; /* beyond it the quadratic bound takes minutes, and is left out */

/* s: the options measured alone at full precision; the quadratic score is their KLs plus the inner products of their sketches. Budgets without a
 * plan in the archive are left out. */
bb_status bb_write_certificate(bb_run *r, const bb_sensitivity *s, const bb_archive *archive, bb_err *err);
/* Needs a ledger in which plans without pruning were searched for as well. */
bb_status bb_write_crossover(bb_run *r, bb_ledger *ledger, bb_err *err);

bb_status bb_write_speed(bb_run *r, const bb_speed *speed, const bb_front *front, bb_err *err);

#endif
