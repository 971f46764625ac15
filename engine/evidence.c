/* SPDX-License-Identifier: GPL-3.0-or-later
 * evidence.c: see evidence.h. */
#include "engine/evidence.h"

#include <math.h>

#include "base/csv.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/search_context.h"
#include "search/certificate.h"
#include "search/crossover.h"
#include "search/quadratic.h"

static void put_row(bb_csv_writer *w, const bb_archive_entry *e, const bb_certificate *c)
{
    BB_PUT(w, c->budget_bytes, e->hash, e->size_bytes, e->score.plain, c->separable, c->separable_best, c->separable_bound, c->separable_gap);
    BB_ROW(w, c->proven, c->quadratic, c->quadratic_best, c->quadratic_bound, c->quadratic_gap);
}

bb_status bb_write_certificate(bb_run *r, const bb_sensitivity *s, const bb_archive *archive, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    bb_csv_writer    *w = NULL;
    bb_certificate   *rows = BB_NEW0(r->n_budgets, bb_certificate, err);
    const uint16_t  **x = BB_NEW(r->n_budgets, const uint16_t *, err);
    bb_run_quadratic  v = { 0 };
    double            proven, separable, worst;
    size_t            n = 0;
    bb_status         status = BB_NOMEM;
    if (!rows || !x) goto done;
    if (s->n <= BB_CERTIFIED_OPTIONS) BB_TRY(bb_run_quadratic_init(p, NULL, s, &v, err));
    for (size_t i = 0; i < r->n_budgets; i++) {
        const bb_archive_entry *best = bb_archive_best(archive, r->budgets[i]);
        if (!best) continue;
        rows[n].budget_bytes = r->budgets[i];
        x[n++] = best->x;
    }
    BB_TRY(bb_certify(p, s->n <= BB_CERTIFIED_OPTIONS ? &v.q : NULL, x, n, rows, err));
    BB_TRY(bb_run_table(r, "certificate.csv",
                        "budget_bytes,plan_hash,size_bytes,kl_nats,separable_nats,separable_best,separable_bound,separable_gap,proven,"
                        "quadratic_nats,quadratic_best,quadratic_bound,quadratic_gap",
                        &w, err));
    for (size_t i = 0; i < n; i++) put_row(w, bb_archive_best(archive, rows[i].budget_bytes), &rows[i]);
    BB_TRY(bb_csv_close(&w, err));
    bb_certificate_summary(rows, n, &proven, &separable, &worst);
    bb_info("certificate: the separable optimum is proven at %.0f%% of the sizes, largest gap %.2g%%", 100 * proven, 100 * separable);
    if (isfinite(worst)) bb_info("certificate: largest gap of the quadratic score %.2g%%", 100 * worst);
done:
    bb_run_quadratic_done(&v);
    bb_csv_discard(w);
    bb_free(rows);
    bb_free(x);
    return status;
}

static void say_crossover(const bb_run *r, const bb_crossover *c)
{
    const double bits = 8 / (double)r->n_weights;
    if (c->bytes < 0) bb_info("crossover: pruning beats quantization alone at no size");
    else if (c->high < 0)
        bb_info("crossover: pruning has the lower KL up to %lld bytes (%.2f bpw), clearly so up to %.2f bpw; it is clearly worse nowhere", (long long)c->bytes,
                bits * (double)c->bytes, bits * (double)(c->low > 0 ? c->low : 0));
    else
        bb_info("crossover: pruning has the lower KL up to %lld bytes (%.2f bpw); clearly better up to %.2f, clearly worse from %.2f bpw on",
                (long long)c->bytes, bits * (double)c->bytes, bits * (double)(c->low > 0 ? c->low : 0), bits * (double)c->high);
}

bb_status bb_write_crossover(bb_run *r, bb_ledger *ledger, bb_err *err)
{
    bb_csv_writer    *w = NULL;
    bb_crossover_row *rows = BB_NEW0(r->n_budgets, bb_crossover_row, err);
    bb_crossover      found;
    bb_status         status = BB_NOMEM;
    if (!rows) goto done;
    for (size_t i = 0; i < r->n_budgets; i++) rows[i].budget_bytes = r->budgets[i];
    BB_TRY(bb_crossover_find(bb_model_space_problem(r->space), ledger, 1, rows, r->n_budgets, &found, err));
    BB_TRY(bb_run_table(r, "crossover.csv", "budget_bytes,kl_pruned,kl_plain,difference,se,plan_pruned,plan_plain", &w, err));
    for (size_t i = 0; i < r->n_budgets; i++) {
        BB_ROW(w, rows[i].budget_bytes, rows[i].kl_pruned, rows[i].kl_plain, rows[i].difference, rows[i].se, rows[i].hash_pruned, rows[i].hash_plain);
    }
    BB_TRY(bb_csv_close(&w, err));
    say_crossover(r, &found);
done:
    bb_csv_discard(w);
    bb_free(rows);
    return status;
}

bb_status bb_write_speed(bb_run *r, const bb_speed *speed, const bb_front *front, bb_err *err)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    uint16_t         *x = BB_NEW(p->n_units, uint16_t, err);
    bb_csv_writer    *w = NULL;
    bb_status         status = BB_NOMEM;
    if (!x) goto done;
    BB_TRY(bb_run_table(r, "speed.csv", "plan_hash,size_bytes,decode_tps,prefill_tps", &w, err));
    for (size_t i = 0; i < front->n; i++) {
        BB_TRY(bb_plan_space_indices(p->plans, &front->plans[i].plan, x, err));
        BB_ROW(w, front->plans[i].hash, front->plans[i].size_bytes, bb_speed_decode(speed, x), bb_speed_prefill(speed, x));
    }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    bb_free(x);
    return status;
}
