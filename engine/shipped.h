/* SPDX-License-Identifier: GPL-3.0-or-later
 * shipped.h: the texts that are part of the program (configs/calibration, whose README says where each is from): those of `--calib mixture`, and
 * one of each domain that a run is probed on (probe.h). No text is in both.
 */
#ifndef BB_ENGINE_SHIPPED_H
#define BB_ENGINE_SHIPPED_H

#include <stddef.h>

#include "eval/evaluate.h"

typedef struct bb_shipped_text {
    const char *name; /* the domain: "prose" */
    const char *data, *end;
} bb_shipped_text;

enum { BB_N_SHIPPED_MIXTURE = 4, BB_N_SHIPPED_PROBES = 4 };
extern const bb_shipped_text bb_shipped_mixture[BB_N_SHIPPED_MIXTURE], bb_shipped_probes[BB_N_SHIPPED_PROBES];

/* The ids of a shipped text. Conversations are written in ChatML; where "<|im_start|>" is no token of the model, its marks become "User: " and
 * "Assistant: ". BB_USAGE for a model without a vocabulary. */
bb_status bb_shipped_tokens(const bb_model *m, const bb_shipped_text *t, bb_tokens *out, bb_err *err);

#endif
