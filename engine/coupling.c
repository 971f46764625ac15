/* SPDX-License-Identifier: GPL-3.0-or-later
 * coupling.c: see coupling.h. */
#include "engine/coupling.h"

#include "base/text.h"
#include "eval/output_moments.h"

static const double damping = 0.03;

uint32_t bb_coupling_windows(const bb_run *r)
{
    return r->config.no_finalise || !bb_list_has(r->config.finalise_steps, "rebuild") ? 0 : (uint32_t)r->config.output_windows;
}

bb_status bb_couple_rows(const bb_model *m, const bb_backend *backend, bb_database *db, const bb_windows *calib, uint32_t windows, uint64_t seed, bb_err *err)
{
    const bb_output_moments_options o = { .windows = calib, .n = windows, .labels = BB_OUTPUT_LABELS, .seed = seed };
    bb_output_moments               moments;
    bb_status                       status;
    if (windows == 0 || bb_database_outputs(db)) return BB_OK;
    BB_TRY(bb_output_moments_measure(m, backend, db, &o, &moments, err));
    moments.damping = damping;
    bb_database_use_outputs(db, &moments);
done:
    return status;
}
