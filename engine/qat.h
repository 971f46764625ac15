/* SPDX-License-Identifier: GPL-3.0-or-later
 * qat.h: low-bit training: all that a compressed network stores, trained through the whole network towards full precision's logits (model/tune/tune.h).
 * How long, how and on which texts, for the step `qat` of finalise and the command of that name. Defaults and what they were chosen by: docs/finalise.md.
 */
#ifndef BB_ENGINE_QAT_H
#define BB_ENGINE_QAT_H

#include "base/hash.h"
#include "eval/evaluate.h"
#include "model/tune/tune.h"

#define BB_QAT_LOSSES "kl|labels|mix"
#define BB_QAT_ESTIMATORS "straight|differentiable"
#define BB_QAT_SCHEDULES "cosine|wsd"

/* Defaults of the options that run and the command share, as text. */
#define BB_QAT_TOKENS "0.3"
#define BB_QAT_RATE "0"
#define BB_QAT_RATE_HELP \
    "highest rate of weights, in steps of their grid; 0: of 4 windows a step 0.03 up to 0.25 M tokens, then less with their square root (1 M: 0.015), and at " \
    "most 0.01 from 3 bits a weight on; of other numbers with the square root of the windows; a quarter of it, and again, where the first steps harm"
#define BB_QAT_SCALE_RATE "0"
#define BB_QAT_SCALE_RATE_HELP \
    "of scales and minima, in fractions of themselves; norm gains take half of it; 0: of 4 windows 0.005, from 3 bits a weight on 0.002"
#define BB_QAT_BATCH "2"

/* Share of the steps of a training of all blocks after which its rates show what they are worth (bb_tune_options.trial). */
#define BB_RATE_TRIAL 0.0625

typedef struct bb_qat {
    double      tokens; /* millions to train on */
    const char *loss, *estimator, *schedule;
    double      rate;       /* of weights, in steps of their grid; 0: the default */
    double      scale_rate; /* of scales and minima, in fractions of themselves; of norm gains half of it; 0: the default */
    int64_t     batch;      /* windows a step */
    uint64_t    seed;
} bb_qat;

/* The rate, or where it is 0 that to begin with for so many million tokens, windows a step and bits a weight: the further weights wander, the more is lost on text that is
 * not trained on; and of small errors steps that large make larger ones, which as few tokens do not take back. */
double bb_qat_rate(const bb_qat *q, double bits);
double bb_qat_scale_rate(const bb_qat *q, double bits);
/* Bits a weight of a network's matrices, embedding and head among them. */
double bb_qat_bits(const bb_net *net);

/* Says what the rates of o are, and the bits of the net that they may go by. */
void bb_qat_say_rates(const bb_tune_options *o, const bb_net *net);

/* To train net on windows of ctx tokens; label, state, other and memory are the caller's to set. */
bb_tune_options bb_qat_options(const bb_qat *q, const bb_net *net, uint32_t ctx);

/* Texts as windows of ctx tokens: those to train on, and held-out ones of the same texts. */
typedef struct bb_qat_texts {
    bb_tune_set train, held; /* point into the two below */
    bb_windows  train_windows, held_windows;
    bb_tokens   tokens; /* nothing but the hash and the number of all texts' tokens */
} bb_qat_texts;

/* Where no text is given, the calibration text is trained on, and beside it what the full model writes: without that other text is forgotten
 * (results/qat.csv). False: the calibration text has it already. */
bool bb_qat_adds_self(const char *calib);

/* list: text or token files, "self" among them: what m writes itself, at temperature 1, kept in the folder `dir`. also: windows of one text more, of which
 * none is held out; NULL: none. n_train windows are taken from all texts in equal shares (of a short text all, and more of the others), evenly spaced; fewer
 * where there are no more. n_held 0: none. */
bb_status bb_qat_texts_make(const bb_model *m, const char *list, const bb_windows *also, const char *dir, uint32_t ctx, uint32_t n_train, uint32_t n_held,
                            uint64_t seed, bool parse_special, bb_qat_texts *out, bb_err *err);
void      bb_qat_texts_done(bb_qat_texts *t);

/* bb_tune of all blocks of net, which is a copy of m's, towards full: by this process, or by all ranks of mpirun, each with a share of the windows of every batch;
 * the bytes are the same. What ends on another rank is said with its number. */
bb_status bb_qat_train(const bb_model *m, const bb_model *full, bb_tuned *net, const bb_tune_options *o, const bb_tune_set *train, const bb_tune_set *held,
                       bb_tune_report *report, bb_err *err);

/* Adds what the files of a list hold, in their order. One that cannot be read counts as empty: its reader will tell. */
void bb_qat_hash_texts(const char *list, bb_sha256 *s);

#endif
