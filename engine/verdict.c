/* SPDX-License-Identifier: GPL-3.0-or-later
 * verdict.c: see verdict.h. */
#include "engine/verdict.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"

#define DAMAGED_KL 1.0   /* nats a token: */
#define DAMAGED_TOP1 0.5 /* beyond either a file is of little use as a language model */

/* What all plans of the front that have scores went through, as the run recorded it; BB_GUARD when two of them differ: their KLs would say what a step does, not
 * which plan is better. */
static bb_status finishing(const bb_run *r, const bb_front *f, const bb_evaluated *e, char steps[BB_FINALISED_STEPS], bb_err *err)
{
    const bb_front_plan *first = NULL;
    char                 other[BB_FINALISED_STEPS];
    bb_status            status = BB_OK;
    *steps = '\0';
    for (size_t i = 0; i < f->n; i++) {
        if (!isfinite(e[i].result.kl) || e[i].is_spared) continue;
        BB_TRY(bb_finalised_steps(r, &f->plans[i], first ? other : steps, err));
        if (first && strcmp(other, steps) != 0)
            return BB_FAIL(err, BB_GUARD, "plan %s (%s) was finalised by %s, plan %s (%s) by %s: such files are not compared; run `bitbudget finalise %s`",
                           first->hash, first->source, *steps ? steps : "nothing", f->plans[i].hash, f->plans[i].source, *other ? other : "nothing",
                           r->config.out);
        if (!first) first = &f->plans[i];
    }
done:
    return status;
}

/* The same as the end of a sentence. */
static void say_finishing(const char *steps, bb_text *t)
{
    if (!*steps) bb_text_add(t, "neither is finalised");
    else bb_text_addf(t, "after the same finishing: %s", steps);
}

/* ---- decide ---- */

/* A plan that the search found and that is a simple one as well has two rows, one of each kind. */
typedef struct rows {
    bb_guard_row *rows;
    size_t       *plan, n;
} rows; /* plan[n]: index into the front */

static void rows_done(rows *t)
{
    bb_free(t->rows);
    bb_free(t->plan);
}

static void add_row(const bb_front *f, const bb_evaluated *e, size_t i, bool simple, bool before, rows *t)
{
    const bb_front_plan *p = &f->plans[i];
    t->plan[t->n] = i;
    t->rows[t->n++] = (bb_guard_row) { p->source, p->size_bytes, before && e[i].window_before ? e[i].window_before : e[i].window_kl, simple };
}

/* before: the simple plans that were spared, as they are before finalise, and room for one more; else what was finalised. */
static bb_status rows_init(const bb_front *f, const bb_evaluated *e, bool before, rows *t, bb_err *err)
{
    *t = (rows) { BB_NEW(2 * f->n + 1, bb_guard_row, err), BB_NEW(2 * f->n + 1, size_t, err), 0 };
    if (!t->rows || !t->plan) return BB_NOMEM;
    for (size_t i = 0; i < f->n; i++)
        for (int simple = 0; simple < 2; simple++) {
            const bb_front_plan *p = &f->plans[i];
            if (simple ? p->is_baseline && e[i].is_spared == before : p->is_searched && !before) add_row(f, e, i, simple, before, t);
        }
    return BB_OK;
}

static size_t to_plan(const rows *t, size_t row) { return row == BB_GUARD_NONE ? row : t->plan[row]; }

static bool spares(const rows *t, int64_t budget)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->rows[i].is_simple && t->rows[i].size_bytes <= budget) return true;
    return false;
}

/* The searched plan that is the best when it is finished beside the spared simple ones, both before finalise: another one may be the best of the searched ones
 * there, and it is not that one which would stand. */
static bb_status guard_before(const bb_front *f, const bb_evaluated *e, size_t searched, const rows *spared, uint32_t n_before, int64_t budget,
                              bb_guard_verdict *out, bb_err *err)
{
    rows s = *spared; /* borrows, with the room for this row */
    if (searched != BB_GUARD_NONE) add_row(f, e, searched, false, true, &s);
    return bb_guard(s.rows, s.n, n_before, budget, 0, out, err);
}

/* t: what was finalised; s: the simple plans that were spared. */
static bb_status decide(const bb_front *f, const rows *t, const rows *s, const bb_evaluated *e, uint32_t n_windows, uint32_t n_before, int64_t budget,
                        bb_verdict *v, bb_err *err)
{
    bb_guard_verdict *g = &v->guard, spared;
    bb_status         status = bb_guard(t->rows, t->n, n_windows, budget, 0, g, err);
    if (status != BB_OK) return status;
    v->budget_bytes = budget;
    v->readmit = BB_GUARD_NONE;
    v->searched_won = g->winner == g->searched;
    g->winner = to_plan(t, g->winner);
    g->searched = to_plan(t, g->searched);
    g->simple = to_plan(t, g->simple);
    if (spares(s, budget)) {
        if ((status = guard_before(f, e, g->searched, s, n_before, budget, &spared, err)) != BB_OK) return status;
        if (spared.winner == spared.simple) v->readmit = to_plan(s, spared.simple);
        if (g->simple == BB_GUARD_NONE) {
            v->before = true;
            g->simple = to_plan(s, spared.simple);
            g->margin = spared.margin;
            g->se = spared.se;
            g->p = spared.p;
        }
    }
    const bb_result *won = &e[v->guard.winner].result;
    v->damaged = won->kl > DAMAGED_KL || won->top1 < DAMAGED_TOP1;
    return BB_OK;
}

static void say_left_out(const bb_run *r, bb_text *t)
{
    const size_t n = bb_list_length(r->config.leave_out);
    if (n) bb_text_addf(t, "; %zu plan%s left out for want of time", n, n == 1 ? " was" : "s were");
}

static void say_one(const bb_run *r, const char *steps, const bb_front *f, const bb_evaluated *e, const bb_verdict *v)
{
    const bb_guard_verdict *g = &v->guard;
    bb_text                 t = { 0 };
    if (g->searched == BB_GUARD_NONE || g->simple == BB_GUARD_NONE) {
        bb_text_addf(&t, "guard: at %lld bytes there is %s", (long long)v->budget_bytes,
                     g->simple != BB_GUARD_NONE ? "no searched plan with a score"
                     : *r->config.leave_out     ? "no simpler plan to compare with, for want of time: the searched plan stands unguarded"
                                                : "no simpler plan to compare with: the searched plan stands");
    } else if (g->searched == g->simple) {
        bb_text_addf(&t, "guard: at %lld bytes the search found nothing better than a simple plan (%s), KL %.5f", (long long)v->budget_bytes,
                     f->plans[g->simple].source, e[g->simple].result.kl);
    } else {
        const double searched = v->before ? e[g->searched].kl_compared : e[g->searched].result.kl;
        bb_text_addf(&t, "guard: at %lld bytes the %s: KL %.5f of the searched plan, %.5f of the best simpler one (%s); difference %.5f +- %.5f, p %.2g; ",
                     (long long)v->budget_bytes, v->searched_won ? "searched plan is kept" : "simpler plan wins, the search is not clearly better", searched,
                     e[g->simple].result.kl, f->plans[g->simple].source, g->margin, g->se, g->p);
        if (v->before) bb_text_add(&t, "both before finishing, which the simpler one was too far behind for (--finish contenders)");
        else say_finishing(steps, &t);
    }
    say_left_out(r, &t);
    if (t.status == BB_OK) bb_info("%s", t.data);
    bb_text_done(&t);
}

static void say_all(const bb_run *r, const char *steps, const bb_front *f, const bb_verdict *v, size_t n)
{
    size_t  kept = 0, lost = 0, alone = 0, before = 0;
    bb_text t = { 0 }, sizes = { 0 };
    for (size_t i = 0; i < n; i++) {
        const bb_guard_verdict *g = &v[i].guard;
        kept += v[i].searched_won;
        alone += g->simple == BB_GUARD_NONE;
        before += v[i].before;
        if (v[i].searched_won) continue;
        bb_text_addf(&sizes, "%s%lld (%s)", lost++ ? ", " : "", (long long)v[i].budget_bytes, f->plans[g->winner].source);
    }
    bb_text_addf(&t, "guard: the searched plan is kept at %zu of %zu sizes", kept, n);
    if (alone) bb_text_addf(&t, " (at %zu of them no simpler plan is as small)", alone);
    if (lost && sizes.status == BB_OK) bb_text_addf(&t, "; a simpler plan wins at %s bytes", sizes.data);
    if (alone + before < n) {
        bb_text_add(&t, "; ");
        say_finishing(steps, &t);
    }
    if (before)
        bb_text_addf(&t, "; at %zu of them both plans are compared before finishing, which the simpler one was too far behind for (--finish contenders)",
                     before);
    say_left_out(r, &t);
    if (t.status == BB_OK) bb_info("%s", t.data);
    bb_text_done(&t);
    bb_text_done(&sizes);
}

/* The file that the user will take is named; of the other sizes of a sweep their number is. */
static void warn_of_damage(const bb_evaluated *e, const bb_verdict *v, size_t n)
{
    const bb_verdict *last = &v[n - 1];
    const bb_result  *won = &e[last->guard.winner].result;
    size_t            smaller = 0, largest = 0;
    for (size_t i = 0; i + 1 < n; i++)
        if (v[i].damaged) {
            smaller++;
            largest = i;
        }
    if (smaller)
        bb_warn("%zu of the %zu sizes, up to %lld bytes, give badly damaged files (KL above %g nat, or the same top token at less than half of the "
                "positions): ask for larger sizes",
                smaller, n, (long long)v[largest].budget_bytes, DAMAGED_KL);
    if (last->damaged)
        bb_warn("this file is badly damaged: KL %.2f nats to the source, the same top token at %.0f %% of the positions; ask for a larger size", won->kl,
                100 * won->top1);
}

bb_status bb_verdicts(const bb_run *r, const bb_front *f, const bb_evaluated *e, uint32_t n_windows, uint32_t n_before, bb_verdict **out, size_t *n,
                      bb_err *err)
{
    rows      t = { 0 }, s = { 0 };
    int64_t  *sizes = NULL;
    bool      open = false;
    size_t    n_sizes = 0;
    char      steps[BB_FINALISED_STEPS];
    bb_status status;
    *out = NULL;
    *n = 0;
    BB_TRY(finishing(r, f, e, steps, err));
    BB_TRY(rows_init(f, e, false, &t, err));
    BB_TRY(rows_init(f, e, true, &s, err));
    BB_TRY(bb_front_sizes(r, &sizes, &n_sizes, err));
    if (!(*out = BB_NEW0(n_sizes, bb_verdict, err))) {
        status = BB_NOMEM;
        goto done;
    }
    for (size_t i = 0; i < n_sizes; i++) {
        if (sizes[i] < f->plans[0].size_bytes && i + 1 < n_sizes) continue; /* plans ascend in bytes: none is as small */
        BB_TRY(decide(f, &t, &s, e, n_windows, n_before, sizes[i], &(*out)[*n], err));
        memcpy((*out)[*n].finishing, steps, sizeof steps);
        open |= (*out)[*n].readmit != BB_GUARD_NONE;
        ++*n;
    }
    if (open) goto done; /* nothing is decided yet */
    if (r->is_sweep) say_all(r, steps, f, *out, *n);
    else say_one(r, steps, f, e, &(*out)[*n - 1]);
    warn_of_damage(e, *out, *n);
done:
    if (status != BB_OK) {
        bb_free(*out);
        *out = NULL;
    }
    rows_done(&t);
    rows_done(&s);
    bb_free(sizes);
    return status;
}

/* ---- guard.json ---- */

static bool put_verdict(json_t *root, const bb_front *f, const bb_evaluated *e, const bb_verdict *v)
{
    const bb_guard_verdict *g = &v->guard;
    const bb_front_plan    *w = &f->plans[g->winner];
    const bb_result        *won = &e[g->winner].result;
    bool                    ok = json_object_set_new(root, "target_bytes", json_integer((json_int_t)v->budget_bytes)) == 0;
    ok &= json_object_set_new(root, "winner", json_string(w->hash)) == 0;
    ok &= json_object_set_new(root, "source", json_string(w->source)) == 0;
    ok &= json_object_set_new(root, "searched_plan_won", json_boolean(v->searched_won)) == 0;
    ok &= json_object_set_new(root, "size_bytes", json_integer((json_int_t)w->size_bytes)) == 0;
    ok &= json_object_set_new(root, "kl_nats", json_real(won->kl)) == 0;
    if (isfinite(won->top1)) ok &= json_object_set_new(root, "top1", json_real(won->top1)) == 0;
    ok &= json_object_set_new(root, "badly_damaged", json_boolean(v->damaged)) == 0;
    if (g->searched != BB_GUARD_NONE) ok &= json_object_set_new(root, "searched_plan", json_string(f->plans[g->searched].hash)) == 0;
    if (g->simple != BB_GUARD_NONE) ok &= json_object_set_new(root, "best_simple_plan", json_string(f->plans[g->simple].source)) == 0;
    if (v->before) ok &= json_object_set_new(root, "compared_before_finishing", json_true()) == 0;
    if (isfinite(g->margin)) ok &= json_object_set_new(root, "margin_nats", json_real(g->margin)) == 0;
    if (isfinite(g->se)) ok &= json_object_set_new(root, "margin_se", json_real(g->se)) == 0;
    if (isfinite(g->p)) ok &= json_object_set_new(root, "p", json_real(g->p)) == 0;
    return ok;
}

/* Every plan that the guard of the largest size looked at. */
static bool put_plans(json_t *root, const bb_front *f, const bb_evaluated *e, int64_t budget)
{
    json_t *plans = json_array();
    bool    ok = plans != NULL;
    for (size_t i = 0; ok && i < f->n; i++) {
        const bb_front_plan *p = &f->plans[i];
        if (p->size_bytes > budget || !isfinite(e[i].result.kl) || !isfinite(e[i].kl_before)) continue;
        json_t *row = json_pack("{s:s, s:b, s:I, s:f, s:f}", "name", p->is_baseline ? p->source : p->hash, "simple", p->is_baseline, "size_bytes",
                                (json_int_t)p->size_bytes, "kl_nats", e[i].result.kl, "kl_before_finalise", e[i].kl_before);
        if (row && e[i].is_spared) ok = json_object_set_new(row, "finished", json_false()) == 0 && json_object_set_new(row, "kl_nats", json_null()) == 0;
        const bool has_se = !e[i].is_spared && isfinite(e[i].result.kl_se);
        ok = ok && row && (!has_se || json_object_set_new(row, "kl_se", json_real(e[i].result.kl_se)) == 0);
        ok = json_array_append_new(plans, row) == 0 && ok;
    }
    return json_object_set_new(root, "plans", plans) == 0 && ok;
}

bb_status bb_verdicts_write(const bb_run *r, const bb_front *f, const bb_evaluated *e, const bb_verdict *v, size_t n, bb_err *err)
{
    char     *path = bb_run_path(r, err, "guard.json"), *text = NULL;
    json_t   *root = json_object(), *sizes = json_array();
    bool      ok = root && sizes && put_verdict(root, f, e, &v[n - 1]) && put_plans(root, f, e, v[n - 1].budget_bytes);
    bb_status status = BB_NOMEM;
    ok = ok && json_object_set_new(root, "finishing", json_string(*v->finishing ? v->finishing : "none")) == 0 &&
         json_object_set_new(root, "alpha", json_real(BB_GUARD_ALPHA)) == 0;
    if (*r->config.leave_out) ok = ok && json_object_set_new(root, "left_out", json_string(r->config.leave_out)) == 0; /* by --time */
    for (size_t i = 0; ok && i < n; i++) {
        json_t *row = json_object();
        ok = row && put_verdict(row, f, e, &v[i]);
        ok = json_array_append_new(sizes, row) == 0 && ok;
    }
    ok = ok && json_object_set(root, "sizes", sizes) == 0;
    if (!path || !ok || !(text = json_dumps(root, JSON_INDENT(2)))) goto done;
    status = bb_file_write(path, text, strlen(text), err);
done:
    free(text);
    json_decref(sizes);
    json_decref(root);
    bb_free(path);
    return status;
}
