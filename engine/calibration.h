/* SPDX-License-Identifier: GPL-3.0-or-later
 * calibration.h: what every command that calibrates agrees on, so that databases can be shared: token ids, quantizer names, mask rounds. */
#ifndef BB_ENGINE_CALIBRATION_H
#define BB_ENGINE_CALIBRATION_H

#include "engine/shipped.h"
#include "eval/evaluate.h"
#include "model/compress/compress.h"

/* One text of --calib. */
typedef struct bb_calibration_source {
    char                  *path;    /* a text or token file; NULL: none */
    const bb_shipped_text *shipped; /* a text of the program; NULL: none. Neither: text that the model writes */
} bb_calibration_source;

/* What --calib names: the path of a file (which may hold a comma), or a comma list of such paths, "self" (sampled from the model) and "mixture" (the
 * texts that ship with the program: four sources). *out: bb_calibration_sources_done. BB_USAGE: an empty name. */
bb_status bb_calibration_sources(const char *calib, bb_calibration_source **out, size_t *n, bb_err *err);
void      bb_calibration_sources_done(bb_calibration_source *s, size_t n);
bool      bb_calibration_samples(const char *calib); /* is "self" among them? */
/* What an empty *calib means for the model: "mixture,self"; "self" where the shipped texts cannot be read, for want of a vocabulary or of a rule for it. */
bb_status bb_calibration_choose(const bb_model *m, char **calib, bb_err *err);

/* The ids of --calib. A single file: all of them (special tokens in a text parsed or not). "self" alone: n_windows * ctx ids drawn from the model's own
 * distribution (each window begins with BOS), which are kept in the folder `dir` in a file named by all that they depend on,
 * calib-self-HASH.u32, and taken from there the next time. Several sources: n_windows windows of ctx ids or up to eight times as many, the same number of each as far as it has them
 * (the model writes as many as the others lack), evenly spaced over each, and mixed by `seed` so that any evenly spaced choice of them has about the same shares. */
bb_status bb_calibration_tokens(const bb_model *m, const char *calib, const char *dir, uint32_t n_windows, uint32_t ctx, uint64_t seed, bool parse_special,
                                bb_tokens *out, bb_err *err);

/* "rtn", "weighted"; anything else is error feedback. */
bb_method bb_calibration_method(const char *name);

/* FFN channels that the pruning order removes at once: about a hundred rounds whatever the width. */
uint32_t bb_calibration_ffn_step(const bb_net *net);

#endif
