/* SPDX-License-Identifier: GPL-3.0-or-later
 * study_kinds.c: see study_kinds.h. */
#include "engine/study_kinds.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/scorer.h"
#include "engine/search_context.h"
#include "engine/stages.h"
#include "engine/trial.h"
#include "search/ledger.h"
#include "search/paired.h"

/* A plan's KL on the confirm windows, alone and rebuilt. */
typedef struct measured {
    double  kl[2];
    double *window[2]; /* [n_windows] */
} measured;

typedef struct kinds {
    bb_run                 *r;
    const bb_study_options *o;
    const bb_problem       *p;
    bb_run_search_context   context;
    bb_scorer               scorer;
    bb_ledger              *ledger;
    uint32_t                n_windows;
    uint16_t               *base, *x; /* [n_units] */
    measured                of_base, of_x;
    bb_progress             progress;
    bb_csv_writer          *csv;
} kinds;

static bb_status measure(kinds *s, const uint16_t *x, measured *m, bb_err *err)
{
    bb_score  score;
    bb_trial  trial;
    bb_status status;
    BB_TRY(bb_ledger_evaluate(s->ledger, &x, 1, BB_LEVEL_CONFIRM, &score, &m->window[0], err));
    BB_TRY(bb_trial_rebuild(s->r, x, (uint32_t)s->o->windows, BB_LEVEL_CONFIRM, &trial, m->window[1], err));
    m->kl[0] = score.kl;
    m->kl[1] = trial.kl;
    bb_progress_add(&s->progress, 1);
done:
    return status;
}

/* The next option of unit u by bytes (of a structure: by its order, the widest first), or the one that it has. */
static uint16_t next_option(const kinds *s, uint32_t u, bool larger)
{
    const bb_unit *unit = &s->p->units[u];
    const int64_t *bytes = unit->bytes + bb_problem_row(s->p, s->base, u);
    uint16_t       best = s->base[u];
    if (!bb_model_space_is_format(s->r->space, u)) {
        if (larger) return (uint16_t)(best > 0 ? best - 1 : 0);
        return (uint16_t)(best + 1u < unit->n_options ? best + 1u : best);
    }
    for (uint16_t o = 0; o < unit->n_options; o++) {
        const int64_t from = bytes[s->base[u]], now = bytes[best];
        if (bb_is_forbidden(bytes[o]) || (larger ? bytes[o] <= from : bytes[o] >= from)) continue;
        if (best == s->base[u] || (larger ? bytes[o] < now : bytes[o] > now)) best = o;
    }
    return best;
}

/* x: the base with all units of the kind of unit `of` one option larger or smaller; false: there is no such plan. */
static bool change_kind(const kinds *s, uint32_t of, bool larger)
{
    const bb_plan_unit *units = s->p->plans->units;
    bool                changed = false;
    memcpy(s->x, s->base, s->p->n_units * sizeof *s->x);
    for (uint32_t u = 0; u < s->p->n_units; u++) {
        if (units[u].what != units[of].what) continue;
        s->x[u] = next_option(s, u, larger);
        changed |= s->x[u] != s->base[u];
    }
    return changed && bb_problem_allows(s->p, s->x) && !bb_is_forbidden(bb_problem_size(s->p, s->x));
}

static bool is_first_of_kind(const kinds *s, uint32_t unit)
{
    const bb_plan_unit *units = s->p->plans->units;
    for (uint32_t u = 0; u < unit; u++)
        if (units[u].what == units[unit].what) return false;
    return true;
}

static bb_status study_kind(kinds *s, int64_t budget, uint32_t of, bb_err *err)
{
    const bb_plan_unit *unit = &s->p->plans->units[of];
    const char         *dot = strrchr(unit->name, '.');
    double              change[2], se[2];
    char                hash[17];
    bb_status           status;
    bb_plan_space_hash(s->p->plans, s->x, hash);
    BB_TRY(measure(s, s->x, &s->of_x, err));
    for (int k = 0; k < 2; k++) bb_paired_difference(s->of_x.window[k], s->of_base.window[k], s->n_windows, &change[k], &se[k]);
    BB_PUT(s->csv, budget, dot ? dot + 1 : unit->name, unit->options[s->base[of]].name, unit->options[s->x[of]].name, hash, bb_problem_size(s->p, s->x));
    const double share = fabs(change[0]) > 0 ? change[1] / change[0] : (double)NAN;
    BB_ROW(s->csv, change[0], se[0], change[1], se[1], share, s->of_base.kl[0], s->of_base.kl[1]);
done:
    return status;
}

/* "; the smallest has ...", for sentences that say that one is needed. */
static bb_status smallest_uniform(const kinds *s, char said[128], bb_err *err)
{
    int64_t   bytes;
    char      size[32];
    bb_status status = bb_run_smallest_uniform(s->r, &bytes, err);
    if (status != BB_OK) return status;
    bb_format_size((uint64_t)bytes, size);
    if (bb_is_forbidden(bytes)) snprintf(said, 128, "; there is none of these formats");
    else snprintf(said, 128, "; the smallest has %lld bytes (%s, %.4g bits per weight)", (long long)bytes, size, 8 * (double)bytes / (double)s->r->n_weights);
    return BB_OK;
}

/* *studied: a uniform plan is as small. */
static bb_status study_size(kinds *s, int64_t budget, bool *studied, bb_err *err)
{
    char      name[1][BB_SOURCE], size[32], least[128];
    uint32_t  n = 1;
    size_t    found;
    bb_status status;
    bb_format_size((uint64_t)budget, size);
    BB_TRY(s->context.search.uniform(s->context.search.uniform_self, budget, 1, s->base, name, &found, err));
    if (found == 0) {
        BB_TRY(smallest_uniform(s, least, err));
        bb_warn("no uniform plan is as small as %s: that size is left out%s", size, least);
        return BB_OK;
    }
    *studied = true;
    bb_info("%s: around %s", size, name[0]);
    for (uint32_t u = 0; u < s->p->n_units; u++)
        for (int larger = 0; larger < 2; larger++) n += is_first_of_kind(s, u) && change_kind(s, u, larger);
    bb_progress_start(&s->progress, "rebuild plans", n);
    BB_TRY(measure(s, s->base, &s->of_base, err));
    for (uint32_t u = 0; u < s->p->n_units; u++)
        for (int larger = 1; larger >= 0; larger--)
            if (is_first_of_kind(s, u) && change_kind(s, u, larger)) BB_TRY(study_kind(s, budget, u, err));
    bb_progress_end(&s->progress);
done:
    return status;
}

static bb_status new_measured(measured *m, uint32_t n, bb_err *err)
{
    m->window[0] = BB_NEW(n, double, err);
    m->window[1] = BB_NEW(n, double, err);
    return m->window[0] && m->window[1] ? BB_OK : BB_NOMEM;
}

static bb_status open_parts(kinds *s, bb_err *err)
{
    bb_status status;
    BB_TRY(bb_stage_run(s->r, BB_STAGE_MEASURE, err));
    BB_TRY(bb_run_search_context_init(s->r, s->p, NULL, &s->context, err));
    BB_TRY(bb_scorer_init(s->r, &s->scorer, err));
    BB_TRY(bb_ledger_open(s->p, &s->scorer.evaluator, s->r->store, NULL, &s->ledger, err));
    s->n_windows = s->scorer.n_windows[BB_LEVEL_CONFIRM];
    BB_TRY(new_measured(&s->of_base, s->n_windows, err));
    BB_TRY(new_measured(&s->of_x, s->n_windows, err));
    status = BB_NOMEM;
    if (!(s->base = BB_NEW(s->p->n_units, uint16_t, err)) || !(s->x = BB_NEW(s->p->n_units, uint16_t, err))) goto done;
    status = bb_run_table(
        s->r, "survival_kinds.csv",
        "budget_bytes,kind,option,changed_option,plan_hash,size_bytes,alone_nats,alone_se,rebuilt_nats,rebuilt_se,share,base_alone,base_rebuilt", &s->csv, err);
done:
    return status;
}

bb_status bb_study_kinds(bb_run *r, const bb_study_options *o, bb_err *err)
{
    kinds     s = { .r = r, .o = o, .p = bb_model_space_problem(r->space) };
    int64_t  *sizes = NULL;
    size_t    n = 0;
    bool      any = false;
    bb_status status;
    BB_TRY(bb_study_sizes(r, o, &sizes, &n, err));
    BB_TRY(open_parts(&s, err));
    for (size_t i = 0; i < n; i++) BB_TRY(study_size(&s, sizes[i], &any, err));
    if (!any) {
        char least[128];
        BB_TRY(smallest_uniform(&s, least, err));
        status = BB_FAIL(err, BB_INFEASIBLE, "no uniform plan is as small as any of these sizes: larger --sizes or --bands are wanted%s", least);
        goto done;
    }
    BB_TRY(bb_csv_close(&s.csv, err));
done:
    bb_csv_discard(s.csv);
    bb_ledger_close(s.ledger);
    bb_scorer_done(&s.scorer);
    bb_run_search_context_done(&s.context);
    for (int k = 0; k < 2; k++) {
        bb_free(s.of_base.window[k]);
        bb_free(s.of_x.window[k]);
    }
    bb_free(s.base);
    bb_free(s.x);
    bb_free(sizes);
    return status;
}
