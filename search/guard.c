/* SPDX-License-Identifier: GPL-3.0-or-later
 * guard.c: one batch at the top level, paired differences, one decision. */
#include "search/guard.h"

#include <math.h>

#include "base/mem.h"
#include "search/paired.h"

static void describe(const bb_problem *p, const bb_guard_plan *plan, int64_t budget, bb_guard_row *row)
{
    const bool loadable = bb_problem_bound(p, plan->x) != BB_FORBIDDEN;
    *row = (bb_guard_row){.name = plan->name, .size_bytes = loadable ? bb_problem_size(p, plan->x) : BB_FORBIDDEN};
    row->fits = loadable && row->size_bytes <= budget;
    row->score = (bb_score){.kl = (double)NAN, .kl_se = (double)NAN, .ppl = (double)NAN, .ppl_se = (double)NAN, .top1 = (double)NAN};
    row->margin = row->se = (double)NAN;
    row->p = 1;
}

/* Scores the rows that fit; windows: [n][n_windows]. */
static bb_status score_rows(bb_ledger *ledger, const bb_guard_input *in, bb_guard_row *rows, double *windows, bb_err *err)
{
    bb_status        status = BB_NOMEM;
    const size_t     n = in->n_simple + 1;
    const uint32_t   level = bb_ledger_evaluator(ledger)->n_levels - 1, width = bb_ledger_evaluator(ledger)->n_windows[level];
    const uint16_t **x = BB_NEW(n, const uint16_t *, err);
    bb_score        *scores = BB_NEW(n, bb_score, err);
    double         **out = BB_NEW(n, double *, err);
    size_t           m = 0;
    if (!x || !scores || !out) goto done;
    for (size_t i = 0; i < n; i++) {
        if (!rows[i].fits) continue;
        x[m] = i < in->n_simple ? in->simple[i].x : in->winner.x;
        out[m++] = windows + i * width;
    }
    BB_TRY(bb_ledger_evaluate(ledger, x, m, level, scores, out, err));
    m = 0;
    for (size_t i = 0; i < n; i++) {
        if (!rows[i].fits) continue;
        rows[i].score = scores[m++];
        bb_paired_difference(windows + i * width, windows + in->n_simple * width, width, &rows[i].margin, &rows[i].se);
        rows[i].p = bb_paired_p_better(-rows[i].margin, rows[i].se, width);
    }
done:
    bb_free(x);
    bb_free(scores);
    bb_free(out);
    return status;
}

bb_status bb_guard(const bb_problem *p, bb_ledger *ledger, const bb_guard_input *in, bb_guard_row *rows, size_t *chosen, bb_err *err)
{
    bb_status    status = BB_OK;
    const size_t ours = in->n_simple;
    const double alpha = in->alpha > 0 ? in->alpha : BB_GUARD_ALPHA;
    double      *windows = NULL;
    for (size_t i = 0; i <= ours; i++) describe(p, i < ours ? &in->simple[i] : &in->winner, in->budget_bytes, &rows[i]);
    if (!rows[ours].fits)
        return BB_FAIL(err, BB_USAGE, "the plan to guard has %lld bytes, more than its budget of %lld", (long long)rows[ours].size_bytes,
                       (long long)in->budget_bytes);
    const bb_evaluator *e = bb_ledger_evaluator(ledger);
    windows = BB_NEW0((ours + 1) * e->n_windows[e->n_levels - 1], double, err);
    if (!windows) return BB_NOMEM;
    BB_TRY(score_rows(ledger, in, rows, windows, err));

    size_t best = SIZE_MAX;
    for (size_t i = 0; i < ours; i++) {
        if (!rows[i].fits || !isfinite(rows[i].score.kl)) continue;
        if (best == SIZE_MAX || rows[i].score.kl < rows[best].score.kl) best = i;
    }
    const bool finite = isfinite(rows[ours].score.kl);
    if (best == SIZE_MAX && !finite) {
        status = BB_FAIL(err, BB_GUARD, "neither the plan of the search nor any simpler plan has a finite score");
        goto done;
    }
    *chosen = best == SIZE_MAX || (finite && rows[ours].score.kl < rows[best].score.kl && rows[best].p <= alpha) ? ours : best;
done:
    bb_free(windows);
    return status;
}
