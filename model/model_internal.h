/* SPDX-License-Identifier: GPL-3.0-or-later
 * model_internal.h: the middle of bb_model_open, for tests and fuzzing of files that are in memory only. */
#ifndef BB_MODEL_MODEL_INTERNAL_H
#define BB_MODEL_MODEL_INTERNAL_H

#include "model/model.h"

/* m->source is there, the rest of *m is zero: fills m->net. On failure m is as bb_model_close leaves it. */
bb_status bb_model_build(bb_model *m, bb_err *err);

/* BB_UNSUPPORTED names a metadata key, and its value, that changes what the network computes and that this program does not compute. net: context
 * length and head size are filled in. */
bb_status bb_model_refuse_foreign(const bb_source *g, const char *arch, const bb_net *net, bb_err *err);

#endif
