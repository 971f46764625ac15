/* SPDX-License-Identifier: GPL-3.0-or-later
 * calibration.h: what every command that calibrates agrees on, so that databases can be shared: token ids, quantizer names, mask rounds. */
#ifndef BB_ENGINE_CALIBRATION_H
#define BB_ENGINE_CALIBRATION_H

#include "eval/evaluate.h"
#include "model/compress/compress.h"

/* The ids of the text (special tokens in it parsed or not) or token file `calib`; or, calib being "self", n_windows * ctx ids drawn from the model's
 * own distribution (each window begins with BOS), which are kept in the folder `dir` in a file named by all that they depend on,
 * calib-self-HASH.u32, and taken from there the next time. */
bb_status bb_calibration_tokens(const bb_model *m, const char *calib, const char *dir, uint32_t n_windows, uint32_t ctx, uint64_t seed, bool parse_special,
                                bb_tokens *out, bb_err *err);

/* "rtn", "weighted"; anything else is error feedback. */
bb_method bb_calibration_method(const char *name);

/* FFN channels that the pruning order removes at once: about a hundred rounds whatever the width. */
uint32_t bb_calibration_ffn_step(const bb_net *net);

#endif
