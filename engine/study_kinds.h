/* SPDX-License-Identifier: GPL-3.0-or-later
 * study_kinds.h: what a rebuild leaves of the loss of each kind of unit: of attn_v, of ffn_down, of the embedding, of widths.
 *
 * At each size around the best uniform plan: all units of one kind get the next larger, then the next smaller of their options, and the change of the KL is
 * measured twice, with matrices that stand alone and in rebuilt networks, on the same confirm windows: the share of the first that is left in the second.
 * Writes RUN/survival_kinds.csv. */
#ifndef BB_ENGINE_STUDY_KINDS_H
#define BB_ENGINE_STUDY_KINDS_H

#include "engine/study.h"

/* o: sizes or bands, windows. The run has a database and measured options. */
bb_status bb_study_kinds(bb_run *r, const bb_study_options *o, bb_err *err);

#endif
