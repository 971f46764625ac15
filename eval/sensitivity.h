/* SPDX-License-Identifier: GPL-3.0-or-later
 * sensitivity.h: what each option of each unit does at the end of the network, measured by true propagation.
 *
 * Half the squared length of psi around full precision is the KL to second order, free of the head, which costs as much as the blocks where the
 * vocabulary is large. Its deviation from the KL is far below what other windows would change (docs/scores.md), so only options that do much damage,
 * and those that change the head, are run through the head.
 *
 * Around an anchor plan (NULL: the full-precision model) each (unit, option) is put in alone, the network is run from the first changed
 * block to the end, and two things are kept: the KL of the final logits to full precision, and the signed sketch psi (sketch.h) of the
 * change against the anchor. From them eval/proxy.h makes scores of whole plans (design: global error propagation, level 1).
 */
#ifndef BB_EVAL_SENSITIVITY_H
#define BB_EVAL_SENSITIVITY_H

#include "base/crew.h"
#include "base/store.h"
#include "eval/evaluator.h"
#include "model/compress/database.h"

typedef struct bb_change {
    uint32_t unit, option; /* of a space of plans */
    double   kl, kl_se;    /* nats a token to full precision, of the anchor with this change */
    float   *psi;          /* [dim] owned by the sensitivity; change against the anchor */
} bb_change;

typedef struct bb_sensitivity {
    size_t     n; /* changes, in the order given */
    bb_change *changes;
    size_t     dim;         /* of psi: scored tokens x probes */
    double     anchor_kl;   /* KL of the anchor itself; 0 for full precision */
    double     n_forwarded; /* tokens spent, whenever and by whom they were: of each score from its first changed block on */
    float     *memory;      /* owned: all psi */
} bb_sensitivity;

typedef struct bb_sensitivity_options {
    uint32_t             level;  /* of the evaluator; must have a boundary cache */
    uint32_t             probes; /* k */
    uint64_t             seed;
    const bb_plan_space *space;     /* of this model: what units and options are */
    const uint16_t      *anchor;    /* a plan of it; NULL: full precision */
    bb_store            *store;     /* finished changes are read from and written to table "changes"; NULL: none */
    const char          *key;       /* identity of model, data and settings: prefix of the store keys; the anchor is added to it */
    double               by_sketch; /* around full precision: a KL that is below this by the sketch is taken from it; 0: every KL is run through the head */
    const bb_crew       *crew;      /* who measures, a change a job of kind `job`; NULL: this thread */
    uint32_t             job;
} bb_sensitivity_options;

/* Measures all changes (unit and option filled in; order is kept), last block first inside, so that prefixes are shared. Resumable through the
 * store; shows progress. */
bb_status bb_sensitivity_measure(bb_net_evaluator *e, const bb_model *model, bb_database *db, const bb_windows *windows, const bb_sensitivity_options *o,
                                 bb_change *changes, size_t n, bb_sensitivity *out, bb_err *err);
void      bb_sensitivity_done(bb_sensitivity *s);

/* What measures changes one by one: here, or in another process of the crew, which answers the jobs of bb_sensitivity_measure with it. Of o it uses level,
 * probes, seed and space; anchor and by_sketch come with each job; all is borrowed. */
typedef struct bb_sensitivity_worker bb_sensitivity_worker;
bb_status bb_sensitivity_worker_create(bb_net_evaluator *e, const bb_model *model, bb_database *db, const bb_windows *windows, const bb_sensitivity_options *o,
                                       bb_sensitivity_worker **out, bb_err *err);
void      bb_sensitivity_worker_destroy(bb_sensitivity_worker *w);
bb_status bb_sensitivity_worker_answer(bb_sensitivity_worker *w, const char *question, size_t size, bb_text *answer, bb_err *err);

/* The work of measuring an option of the unit, as progress counts it, in blocks: those of the network that run, and what the heads of the score cost
 * where every KL is run through them (by_sketch 0) or the option changes them. */
uint64_t bb_sensitivity_blocks(const bb_net *net, const bb_windows *windows, const bb_plan_unit *unit, bool by_sketch);

/* G (n, n) float32 row-major, G[i][j] = psi_i . psi_j. */
bb_status bb_sensitivity_gram(const bb_sensitivity *s, float *gram, bb_err *err);

#endif
