/* SPDX-License-Identifier: GPL-3.0-or-later
 * ladder.h: the steps that finalise a chosen plan, each kept only when it lowers the KL on the confirm windows:
 *
 *   database     the option database's matrices as they are
 *   rebuild      each linear quantized again on what the compressed prefix produces (model/compress/rebuild.h)
 *   blocks       each block tuned towards the full-precision block's output          (model/tune/tune.h, as all below)
 *   lfq          the last block alone, towards full precision's logits
 *   end-to-end   all blocks, embedding and norms together, towards full precision's logits
 *   qat          the same for longer, on any texts, with a second domain that may not lose (engine/qat.h)
 *
 * Training text: the calibration text's windows that are never scored. Which steps are run, and how long: configuration. Why these: docs/finalise.md.
 */
#ifndef BB_ENGINE_LADDER_H
#define BB_ENGINE_LADDER_H

#include "engine/run.h"
#include "model/tune/tune.h"

typedef enum bb_rung { BB_RUNG_DATABASE, BB_RUNG_REBUILD, BB_RUNG_BLOCKS, BB_RUNG_LFQ, BB_RUNG_END_TO_END, BB_RUNG_QAT, BB_N_RUNGS } bb_rung;
extern const char *const bb_rung_names[BB_N_RUNGS]; /* "database", ... as in --finalise-steps */

enum { BB_LADDER_BATCH = 4 }; /* windows a step of blocks, lfq and end-to-end */

/* What a plan went through; plain data, stored as it is. */
typedef struct bb_ladder_record {
    double  kl[BB_N_RUNGS]; /* on the confirm windows, of the step's own result (before any roll-back); NaN: not run */
    double  seconds[BB_N_RUNGS];
    double  kl_final;
    uint8_t kept[BB_N_RUNGS];
    uint8_t padding[2];
} bb_ladder_record;

/* Called behind each step that was run with the best network so far. */
typedef bb_status (*bb_ladder_hook)(void *self, bb_rung rung, bb_tuned *net, bb_err *err);

/* tune false: the database's network alone. out owns the best network: bb_tuned_done. */
bb_status bb_ladder_run(bb_run *r, const bb_plan *plan, bool tune, bb_ladder_hook hook, void *hook_self, bb_tuned *out, bb_ladder_record *record, bb_err *err);
/* BB_USAGE when --finalise-steps names something else. */
bb_status bb_ladder_check(const bb_run_config *c, bb_err *err);
/* From now on the run's steps have this one too, at the end, for later commands as well (config.resolved.yaml). BB_USAGE with --no-finalise. */
bb_status bb_ladder_add(bb_run *r, bb_rung rung, bb_err *err);
/* Everything in the configuration that changes a finalised file, as text; bb_free. */
char *bb_ladder_settings(const bb_run_config *c, bb_err *err);

/* The reference table: for each size the plan nearest to it (in bits of the file per weight of the source) is finalised step by step, and
 * each step's network evaluated on each text (.jsonl: its "text" fields), on `windows` windows (0: all) and as many continuations (0: the
 * default of eval/generation.h); all steps, whichever of them the run finalises with. Writes OUT/ladder.csv and OUT/generation.csv; with
 * `ablate` also OUT/lfq.csv, variants of LFQ from the same
 * start (no continuations). */
bb_status bb_run_ladder(bb_run *r, const char *sizes, const char *texts, int64_t windows, bool ablate, bb_err *err);

#endif
