/* SPDX-License-Identifier: GPL-3.0-or-later
 * evidence.h: what the search leaves beside its plans: certificate.csv (how near to the optimum of the proxies, proven) and crossover.csv (up
 * to which size pruning pays). */
#ifndef BB_CLI_EVIDENCE_H
#define BB_CLI_EVIDENCE_H

#include "cli/run.h"
#include "search/archive.h"
#include "search/ledger.h"
#include "search/quadratic.h"

/* q may be NULL. Budgets without a plan in the archive are left out. */
bb_status bb_write_certificate(bb_run *r, const bb_quadratic *q, const bb_archive *archive, bb_err *err);
/* Needs a ledger in which plans without pruning were searched for as well. */
bb_status bb_write_crossover(bb_run *r, bb_ledger *ledger, bb_err *err);

#endif
