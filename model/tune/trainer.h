/* SPDX-License-Identifier: GPL-3.0-or-later
 * trainer.h: one optimisation of a run of blocks of a tuned network. Internal to tune/.
 *
 * Use: bb_trainer_create, bb_trainer_run, bb_trainer_destroy. The network that runs forward and backward is a view of the tuned one in
 * which every trained matrix is the float32 array that its bytes decode to. */
#ifndef BB_MODEL_TUNE_TRAINER_H
#define BB_MODEL_TUNE_TRAINER_H

#include "model/tune/tune.h"

/* Hidden states of a set, borrowed: at the input of the first trained block (NULL when that is block 0: then they are the embedding's
 * rows), and of the full-precision network behind block `last` (loss OUTPUT) or behind its last block. [n * ctx][W] each (bb_row_width). target NULL (training windows,
 * losses at the head): the trainer computes them when it needs them. */
typedef struct bb_tune_states {
    const bb_tune_set *set;
    const float       *in, *target;
} bb_tune_states;

typedef struct bb_trainer bb_trainer;

/* Whether these windows can be trained on and looked at: the states of all of them are computed at the length of the first. other NULL: none. */
bb_status bb_trainer_check_sets(const bb_tune_set *train, const bb_tune_set *held, const bb_tune_set *other, bb_err *err);

/* other: held-out text of another domain; NULL: none. Sets as bb_trainer_check_sets wants them. */
bb_status bb_trainer_create(const bb_backend *backend, const bb_net *full, bb_tuned *t, const bb_tune_options *o, const bb_tune_states *train,
                            const bb_tune_states *held, const bb_tune_states *other, bb_trainer **out, bb_err *err);
void      bb_trainer_destroy(bb_trainer *r);
/* Leaves the best state so far in t's bytes, also on failure. */
bb_status bb_trainer_run(bb_trainer *r, bb_tune_report *report, bb_err *err);

#endif
