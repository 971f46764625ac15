/* SPDX-License-Identifier: GPL-3.0-or-later
 * tune.h: a compressed network made better by gradient descent on what its bytes decode to; shapes and formats stay.
 *
 *   bb_tuned_copy (own, writable bytes of a network)
 *     -> bb_tune_blocks  each block in turn towards the full-precision block's output, on the inputs that the tuned prefix produces
 *     -> bb_tune         any run of blocks, any loss: LFQ is the last block alone with BB_TUNE_KL, end-to-end is all blocks with BB_TUNE_KL
 *
 * What is trained and how it stays exact: latent.h. Every call compares states by their loss on held-out windows, the start among
 * them, and leaves the best one in the bytes: never worse there than it was given. Deterministic: the same bytes for any number of threads.
 * Rates that are too high for a model are found out by a trial: where a share of the steps has not lowered the held-out loss (the mean share of both, where there is
 * another text), it begins again from the start with a quarter of all rates and the steps that are left, which are tried as well, at most thrice. A look before that which would end
 * the training (lost, or without patience) ends the trial.
 * Methods and measurements: docs/finalise.md.
 * [1] Wang et al. LC-QAT. ICML 2026. arXiv 2606.10531 (its differentiable gradient estimator).
 */
#ifndef BB_MODEL_TUNE_TUNE_H
#define BB_MODEL_TUNE_TUNE_H

#include <stdbool.h>

#include "base/file.h"
#include "base/status.h"
#include "model/net/backend.h"
#include "model/net/net.h"

enum { BB_TUNE_MAX_BATCH = 256 };

/* A network that owns what may be trained; the rest (biases, rotary factors) is borrowed from the network it was copied from. */
typedef struct bb_tuned_block {
    unsigned char         *w[BB_N_PARTS];       /* NULL: absent, or a lattice */
    struct bb_lattice_box *lattice[BB_N_PARTS]; /* NULL: it is none */
    float                 *norm[BB_N_NORMS];
} bb_tuned_block;
typedef struct bb_tuned {
    bb_net          net; /* its blocks, matrices and norms point into the memory below */
    bb_block       *blocks;
    bb_tuned_block *bytes;       /* [n_layer] the same memory, writable; NULL where absent */
    unsigned char  *embd, *head; /* head NULL: tied */
    float          *out_norm;
    bb_map         *maps; /* [n_maps] of a view: open, the files that some of its matrices lie in; owned */
    size_t          n_maps;
} bb_tuned;

bb_status bb_tuned_copy(const bb_net *from, bb_tuned *out, bb_err *err);
/* No copy, and nothing that can be trained: every matrix is where it is in `from`, and must stay there. */
bb_status bb_tuned_view(const bb_net *from, bb_tuned *out, bb_err *err);
void      bb_tuned_done(bb_tuned *t);

/* Windows of text, borrowed. Losses at the head count positions first .. first + n_scored - 1 of each window. */
typedef struct bb_tune_set {
    const int32_t *tokens;  /* [n * ctx] */
    const int32_t *targets; /* [n * ctx] the next tokens, for BB_TUNE_LABELS; NULL allowed otherwise */
    uint32_t       n, ctx, first, n_scored;
} bb_tune_set;

typedef enum bb_tune_loss {
    BB_TUNE_OUTPUT, /* squared error of the hidden state behind the last trained block */
    BB_TUNE_LOGITS, /* squared error of the logits */
    BB_TUNE_KL,     /* KL(full precision || tuned): cross-entropy with soft labels, up to a constant */
    BB_TUNE_LABELS  /* cross-entropy with the text's next tokens: hard labels */
} bb_tune_loss;

/* How gradients come through the rounding to a code, of scalar grids (codebooks: always straight). r: where a weight stands between two levels, 0 .. 1. */
typedef enum bb_tune_estimator {
    BB_TUNE_STRAIGHT,      /* as they are */
    BB_TUNE_DIFFERENTIABLE /* times |2r - 1|^(1/5 - 1) / 5, at most 3 [1]: a fifth at a level, more towards the threshold between two */
} bb_tune_estimator;

typedef enum bb_tune_schedule { BB_TUNE_COSINE, BB_TUNE_WSD /* warm-up, stable, decay */ } bb_tune_schedule;

/* One look at the held-out texts. */
typedef struct bb_tune_look {
    uint32_t step; /* 0: the start */
    uint64_t tokens;
    double   loss, other; /* other 0: there is no such text */
    bool     better;
} bb_tune_look;

typedef struct bb_tune_options {
    bb_tune_loss       loss;
    uint32_t           first, last;  /* blocks trained (bb_tune_blocks: all of these, one after the other) */
    bool               embedding;    /* also embedding, head and output norm (losses at the head) */
    uint32_t           steps, batch; /* batch: windows a step */
    uint32_t           at_once;      /* windows that run at the same time, the gradients of a batch being added; 0: all. Changes memory, and last bits */
    uint32_t           checks;       /* held-out looks, evenly spaced; at least 1 */
    double             weights, fields, norms; /* peak rates: steps of the grid; fractions of scales; fractions of norm gains. 0: frozen */
    double             clip;                   /* limit of the gradient's norm as a multiple of its running mean; 0: none */
    double             label_share;            /* of KL: this share of the loss is the cross-entropy with hard labels instead; 0 .. 1 */
    bb_tune_estimator  estimator;
    bb_tune_schedule   schedule;
    double             warmup, decay;  /* shares of the steps: of warm-up (0: a twentieth), of decay at the end (of BB_TUNE_WSD) */
    double             trial;          /* share of the steps in which rates show what they are worth; 0: none */
    uint32_t           patience;       /* looks in a row, each behind the one before and none better than all, after which it ends; 0: never */
    bool               coarse_moments; /* the optimizer's in 8 bits (adamw.h) */
    uint64_t           keep_bytes;     /* full-precision states of training windows that are kept; the rest is computed again. 0: all are kept */
    const bb_tune_set *other; /* held-out text of another domain, of the same length of windows: no state is better whose loss rises on either; NULL: none */
    const char        *state; /* file: the state is saved here and taken up again; NULL: nowhere. Removed when the training has ended */
    double             save_every_s;  /* seconds from one saved state to the next; changes no result */
    bool               stale_is_fine; /* a state of something else is passed over with a warning, not refused */
    uint64_t           seed;
    const char        *label;                             /* of the progress line; NULL: silent, */
    void (*looked)(void *self, const bb_tune_look *look); /* called at each; NULL: not */
    void                  *looked_self;
    const struct bb_peers *peers; /* who share every step, all with the same arguments but state, label and hooks; NULL: nobody. Only where bb_tune_is_shared */
    struct bb_progress    *progress; /* or the steps are counted in this one; NULL: nowhere */
} bb_tune_options;

typedef struct bb_tune_report {
    double   start, best;             /* held-out loss before and after: mean KL for losses at the head, mean squared error for OUTPUT */
    double   other_start, other_best; /* the same on the other text */
    uint32_t best_step, steps;        /* best_step 0: rolled back */
    uint64_t tokens;                  /* trained on */
    double   seconds;
} bb_tune_report;

/* full: the full-precision network. A failure (also BB_INTERRUPTED) leaves the best state so far; what follows it with the same arguments and file
 * of state ends with the bytes of a training that was never interrupted. */
bb_status bb_tune(const bb_backend *backend, const bb_net *full, bb_tuned *t, const bb_tune_options *o, const bb_tune_set *train, const bb_tune_set *held,
                  bb_tune_report *report, bb_err *err);
/* Whether peers may share it: losses at the head with all blocks and the embedding trained, in a network whose blocks do not read the tokens' embeddings again:
 * their gradients go round in one order, which would make them wait for each other. Then each adds the gradients of its windows of a batch (as many as there
 * are have any) to those of the windows before, in the order of one process: the bytes are the same for any number of peers. */
bool bb_tune_is_shared(const bb_net *net, const bb_tune_options *o);
/* reports: [last - first + 1] or NULL. */
bb_status bb_tune_blocks(const bb_backend *backend, const bb_net *full, bb_tuned *t, const bb_tune_options *o, const bb_tune_set *train,
                         const bb_tune_set *held, bb_tune_report *reports, bb_err *err);

#endif
