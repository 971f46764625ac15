/* SPDX-License-Identifier: GPL-3.0-or-later
 * certificate.c: see certificate.h. */
#include "search/certificate.h"

#include <math.h>

#include "base/log.h"
#include "base/mem.h"

enum { MAX_STATES = 1u << 16, MAX_POINTS = 1u << 14 };

static double gap(double best, double bound) { return best > 0 || best < 0 ? fmax(0, (best - bound) / fabs(best)) : bound < 0 ? HUGE_VAL : 0; }

static bb_status certify_separable(const bb_problem *p, const bb_separable *s, int64_t bytes, const uint16_t *x, uint16_t *work, bb_certificate *row,
                                   bb_err *err)
{
    bb_separable_result result;
    bb_status           status;
    BB_TRY(bb_separable_solve(s, bytes, work, &result, err));
    row->separable = bb_problem_cost(p, x);
    row->separable_bound = result.lower_bound;
    row->separable_best = fmin(result.cost, row->separable);
    row->separable_gap = gap(row->separable_best, row->separable_bound);
    row->proven = row->separable_gap <= BB_CERTIFICATE_ZERO;
done:
    return status;
}

static bb_status certify_quadratic(const bb_quadratic *q, const int64_t *bytes, const uint16_t *const *x, size_t n, uint16_t *work, double *lower,
                                   bb_progress *progress, bb_certificate *rows, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_quadratic_bound(q, bytes, n, 0, lower, NULL, err));
    for (size_t i = 0; i < n; i++) {
        bb_quadratic_result  result;
        bb_quadratic_options o = { .seed = 1, .start = x[i] };
        BB_TRY(bb_quadratic_solve(q, bytes[i], &o, work, &result, err));
        rows[i].quadratic = bb_quadratic_score(q, x[i]);
        rows[i].quadratic_bound = lower[i];
        rows[i].quadratic_best = fmin(result.score, rows[i].quadratic);
        rows[i].quadratic_gap = gap(rows[i].quadratic_best, lower[i]);
        bb_progress_add(progress, 1);
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while the plans were certified");
    }
done:
    return status;
}

bb_status bb_certify(const bb_problem *p, const bb_quadratic *q, const uint16_t *const *x, size_t n, bb_certificate *rows, bb_err *err)
{
    const bb_separable_options exact = { 0, MAX_STATES, MAX_POINTS };
    bb_separable              *s = NULL;
    bb_status                  status = BB_NOMEM;
    uint16_t                  *work = BB_NEW(p->n_units, uint16_t, err);
    int64_t                   *bytes = BB_NEW(n, int64_t, err);
    double                    *lower = BB_NEW(n, double, err);
    bb_progress                progress;
    if (!work || !bytes || !lower) goto done;
    bb_progress_start(&progress, "certificate", q ? 2 * n : n);
    BB_TRY(bb_separable_create(p, &exact, &s, err));
    for (size_t i = 0; i < n; i++) {
        const int64_t counted = bb_problem_bound(p, x[i]);
        if (bb_is_forbidden(counted)) {
            status = BB_FAIL(err, BB_USAGE, "plan %zu of %zu cannot be loaded: there is nothing to certify", i + 1, n);
            goto done;
        }
        bytes[i] = counted > rows[i].budget_bytes ? counted : rows[i].budget_bytes;
        rows[i].quadratic = rows[i].quadratic_best = rows[i].quadratic_bound = rows[i].quadratic_gap = (double)NAN;
        BB_TRY(certify_separable(p, s, bytes[i], x[i], work, &rows[i], err));
        bb_progress_add(&progress, 1);
    }
    if (q && n > 0) BB_TRY(certify_quadratic(q, bytes, x, n, work, lower, &progress, rows, err));
    bb_progress_end(&progress);
done:
    bb_separable_destroy(s);
    bb_free(work);
    bb_free(bytes);
    bb_free(lower);
    return status;
}

void bb_certificate_summary(const bb_certificate *rows, size_t n, double *proven, double *separable_gap, double *quadratic_gap)
{
    *proven = n ? 0 : 1;
    *separable_gap = 0;
    *quadratic_gap = (double)NAN;
    for (size_t i = 0; i < n; i++) {
        *proven += (rows[i].proven ? 1.0 : 0.0) / (double)n;
        *separable_gap = fmax(*separable_gap, rows[i].separable_gap);
        *quadratic_gap = fmax(*quadratic_gap, rows[i].quadratic_gap); /* fmax passes over NaN */
    }
}
