/* SPDX-License-Identifier: GPL-3.0-or-later
 * rivals.h: other search methods beside ours at the same bytes, with the same option database and the same evaluation windows.
 *
 * Every method hands back one plan a size; it is scored with the database's weights on the windows of --eval, and once more after the same finishing
 * where that is asked for.
 * Each finished piece is in run.db: a run that was stopped goes on, and a finished one is replayed without evaluating. */
#ifndef BB_ENGINE_RIVALS_H
#define BB_ENGINE_RIVALS_H

#include <stdio.h>

#include "engine/run.h"

typedef struct bb_rivals_config {
    char   *methods, *sizes, *out;
    double  times;     /* tokens of EvoPress, times ours */
    int64_t offspring; /* of a generation of EvoPress */
    double  tokens;    /* millions a size that count as ours; 0: what the run's search and measuring took */
    bool    only;      /* --ledger-only */
    bool    finish;    /* every plan goes through the run's finalise steps as well; its file is models/HASH.gguf of the run */
} bb_rivals_config;

/* Runs the methods, writes the table (budget_bytes,method,kl_nats,kl_se,ppl,tokens,seconds,plan_hash,size_bytes,finished_kl_nats,finished_kl_se,finished_ppl)
 * and prints a summary to out. */
bb_status bb_rivals(bb_run *r, const bb_rivals_config *c, FILE *out, bb_err *err);

#endif
