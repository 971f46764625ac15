/* SPDX-License-Identifier: GPL-3.0-or-later
 * probe.h: what a result does to domains that its texts may not have had: a few windows each of prose, code, conversation and another language that
 * ship with the program (shipped.h). */
#ifndef BB_ENGINE_PROBE_H
#define BB_ENGINE_PROBE_H

#include "engine/front.h"

enum { BB_PROBE_WINDOWS = 4, BB_PROBE_CTX = 256 }; /* of a domain, at most */

/* Which of the n domains stand out, as a bit mask: a KL above twice the mean of all, and above a hundredth of a nat. */
unsigned bb_probe_far(const double *kl, int n);

/* domains.csv: the KL of each of the n plans (their files in models/) in each domain, and by how much that is above the mean of the domains; warns, a plan a line,
 * of domains above twice the mean. Scores are kept in the store. A model without a vocabulary, which no text can be given, has no probe and no table. */
bb_status bb_probe_domains(bb_run *r, const bb_front_plan *const *plans, size_t n, bb_err *err);

#endif
