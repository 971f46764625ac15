/* SPDX-License-Identifier: GPL-3.0-or-later
 * rivals.c: see rivals.h.
 *
 * Methods that start from a plan are given the uniform ones of their size. "ours" is the best plan of plans.csv within the size by the search's own confirm level. Rivals choose by the same confirm level. Tokens of
 * ours are those of the search and of measuring the options, shared evenly by the sizes; random and annealing get as many a size, NSGA-II and
 * AMQ, which serve all sizes in one run, as many in all, EvoPress `times` as many a size. */
#include "engine/rivals.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/finalised.h"
#include "engine/front.h"
#include "engine/keys.h"
#include "engine/memory.h"
#include "engine/run_parts.h"
#include "engine/scorer.h"
#include "engine/search_context.h"
#include "engine/stages.h"
#include "search/paired.h"

enum { MAX_METHODS = 32 };

typedef struct method {
    char                    name[24];
    const bb_search_method *row;
} method; /* row NULL: "ours", what the run's own search has found */

/* What a method found for one size, and what that took. */
typedef struct answer {
    uint16_t *x; /* [n_units] owned; NULL: nothing within the size */
    double    tokens, seconds;
    bb_result result, finished;
    double   *window_kl; /* [windows] owned; of the finished file where there is one */
    char      hash[17];
    int64_t   size_bytes;
} answer;

typedef struct rivals {
    bb_run                 *run;
    const bb_rivals_config *config;
    const bb_problem       *p;
    bb_scorer               scorer;
    bb_ledger              *ledger; /* of the simple plans */
    bb_run_search_context   context;
    bb_front                front;
    int64_t                *sizes; /* [n] */
    size_t                  n, n_methods;
    method                  methods[MAX_METHODS];
    double                  tokens;  /* of ours, a size */
    double                  seconds; /* of ours, a size */
    bb_front                found;   /* all answers' plans */
    answer                 *answers; /* [n_methods][n] */
} rivals;

/* ---- what is compared ---- */

static bb_status refuse_method(const char *name, bb_err *err)
{
    bb_text   known = { 0 };
    bb_status status = BB_NOMEM;
    for (size_t i = 0; bb_method_at(i); i++) bb_text_addf(&known, ", %s", bb_method_at(i)->name);
    if (known.status == BB_OK) status = BB_FAIL(err, BB_USAGE, "--methods: \"%s\" is unknown; known are ours%s", name, known.data);
    bb_text_done(&known);
    return status;
}

static bb_status parse_methods(rivals *v, bb_err *err)
{
    const char *rest = v->config->methods;
    bb_err      why = BB_ERR_INIT;
    for (bb_item item; bb_list_next(&rest, &item);) {
        method *m = &v->methods[v->n_methods];
        if (v->n_methods == MAX_METHODS) return BB_FAIL(err, BB_USAGE, "--methods: more than %d", MAX_METHODS);
        snprintf(m->name, sizeof m->name, "%.*s", (int)item.n, item.at);
        m->row = bb_method_named(m->name);
        if (!m->row && strcmp(m->name, "ours") != 0) return refuse_method(m->name, err);
        if (bb_run_search_check(v->run, m->row, &why) != BB_OK) return BB_FAIL(err, why.status, "--methods %s: %s", m->name, why.msg);
        v->n_methods++;
    }
    return v->n_methods ? BB_OK : BB_FAIL(err, BB_USAGE, "--methods names none");
}

static bb_status parse_sizes(rivals *v, bb_err *err)
{
    if (*v->config->sizes) return bb_run_sizes(v->run, v->config->sizes, &v->sizes, &v->n, err);
    if (!(v->sizes = BB_NEW(v->run->n_budgets, int64_t, err))) return BB_NOMEM;
    memcpy(v->sizes, v->run->budgets, v->run->n_budgets * sizeof *v->sizes);
    v->n = v->run->n_budgets;
    return BB_OK;
}

/* ---- the methods ---- */

static bb_status our_cost(rivals *v, bb_err *err)
{
    bb_search_cost cost;
    void          *value = NULL;
    size_t         size;
    bool           found;
    char           key[80];
    bb_status      status;
    snprintf(key, sizeof key, "cost|%s", v->run->search_key);
    BB_TRY(bb_store_get(v->run->store, "search", key, &value, &size, &found, err));
    if (!found || size != sizeof cost) {
        if (v->config->tokens > 0) goto done;
        status = BB_FAIL(err, BB_USAGE, "%s: the search has not recorded its cost: run `bitbudget search` first, or give --tokens", v->run->config.out);
        goto done;
    }
    memcpy(&cost, value, sizeof cost);
    v->tokens = (cost.tokens + cost.measure_tokens) / cost.n_sizes;
    v->seconds = cost.seconds / cost.n_sizes;
done:
    if (v->config->tokens > 0) v->tokens = v->config->tokens * 1e6;
    bb_free(value);
    return status;
}

static bb_status find_ours(rivals *v, int64_t size, uint16_t *x, bool *found, bb_err *err)
{
    bb_status status = BB_OK;
    if (v->front.n == 0) BB_TRY(bb_front_load(v->run, &v->front, err));
    const bb_front_plan *best = bb_front_best(&v->front, size);
    *found = best != NULL;
    if (best) BB_TRY(bb_plan_space_indices(v->p->plans, &best->plan, x, err));
done:
    return status;
}

/* One run of a method for budgets[n]; answers of these budgets are filled. What finding the plans to start from took counts for no method: their ledger is
 * another. */
static bb_status drive(rivals *v, const bb_search_method *m, const int64_t *budgets, size_t n, double tokens, answer *answers, bb_err *err)
{
    bb_archive        archive = { 0 };
    bb_ledger_options lo = { .only = v->config->only };
    bb_progress       progress;
    bb_search         s = v->context.search;
    char              label[64];
    bb_status         status;
    bb_archive_init(&archive, v->p->n_units);
    BB_TRY(bb_ledger_open(v->p, &v->scorer.evaluator, v->run->store, &lo, &s.ledger, err));
    s.archive = &archive;
    s.budgets = budgets;
    s.n_budgets = n;
    s.stop.max_tokens = tokens;
    if (m->has_offspring) s.candidates = (uint32_t)v->config->offspring;
    snprintf(label, sizeof label, "%s, %lld bytes, tokens", m->name, (long long)budgets[n - 1]);
    bb_progress_start(&progress, label, (uint64_t)fmin(0x1p62, tokens)); /* --tokens and --times may come to more than the type holds */
    v->scorer.progress = v->context.gradient.progress = &progress;
    status = m->run(m, &s, err);
    v->scorer.progress = v->context.gradient.progress = NULL;
    bb_progress_end(&progress);
    BB_TRY(status);
    for (size_t i = 0; i < n; i++) {
        const bb_archive_entry *best = bb_archive_best(&archive, budgets[i]);
        if (!best) continue;
        if (!(answers[i].x = BB_NEW(v->p->n_units, uint16_t, err))) {
            status = BB_NOMEM;
            goto done;
        }
        memcpy(answers[i].x, best->x, v->p->n_units * sizeof *best->x);
        answers[i].tokens = bb_search_spent(&s) / (double)n;
    }
done:
    bb_archive_done(&archive);
    bb_ledger_close(s.ledger);
    return status;
}

/* ---- records: what a finished piece found ("uniform": and what it started from) ---- */

typedef struct record {
    double   tokens, seconds;
    uint64_t has_plan;
} record; /* followed by the candidate */

/* A whole-front algorithm's answer for one size depends on all sizes. The space: stored candidates are indices into it. Methods go by the options' costs, of which
 * --exact-from decides some. "funnel": EvoPress kept an eighth in its second selection, and at most 1024 offspring, when keys had no such word. */
static char *record_key(const rivals *v, const method *m, int64_t size, double tokens, bb_err *err)
{
    char      space[65], sizes[65] = "";
    bb_sha256 s;
    bb_key_space(v->run, space);
    if (m->row->whole_front) {
        bb_sha256_init(&s);
        bb_sha256_update(&s, v->sizes, v->n * sizeof *v->sizes);
        bb_sha256_hex(&s, sizes);
    }
    return bb_asprintf(err, "%s|%s|%lld|%.0f|%s|%s|%d|uniform|%.17g%s", v->run->key, m->name, (long long)size, tokens, space, sizes,
                       m->row->has_offspring ? (int)v->config->offspring : 0, v->run->config.exact_from, m->row->has_offspring ? "|funnel" : "");
}

static bb_status recall(rivals *v, const char *key, answer *a, bool *found, bb_err *err)
{
    void     *value = NULL;
    size_t    size, row = v->p->n_units * sizeof(uint16_t);
    record    r;
    bb_status status;
    BB_TRY(bb_store_get(v->run->store, "rivals", key, &value, &size, found, err));
    *found = *found && size == sizeof r + row;
    if (!*found) goto done;
    memcpy(&r, value, sizeof r);
    a->tokens = r.tokens;
    a->seconds = r.seconds;
    if (!r.has_plan) goto done;
    status = BB_NOMEM;
    if (!(a->x = BB_NEW(v->p->n_units, uint16_t, err))) goto done;
    memcpy(a->x, (char *)value + sizeof r, row);
    for (uint32_t u = 0; u < v->p->n_units; u++)
        if (a->x[u] >= v->p->units[u].n_options) {
            status = BB_FAIL(err, BB_BAD_FILE, "%s: the record %s belongs to another search space", v->run->config.out, key);
            goto done;
        }
    status = BB_OK;
done:
    bb_free(value);
    return status;
}

static bb_status remember(rivals *v, const char *key, const answer *a, bb_err *err)
{
    size_t    row = v->p->n_units * sizeof(uint16_t);
    record    r = { a->tokens, a->seconds, a->x != NULL };
    char     *value = bb_calloc(sizeof r + row, 1, err);
    bb_status status;
    if (!value) return BB_NOMEM;
    memcpy(value, &r, sizeof r);
    if (a->x) memcpy(value + sizeof r, a->x, row);
    status = bb_store_put(v->run->store, "rivals", key, value, sizeof r + row, err);
    bb_free(value);
    return status;
}

/* Seconds of earlier, interrupted sessions of the same piece, and this one's added to them. */
static bb_status spend(rivals *v, const char *key, double seconds, double *total, bb_err *err)
{
    char     *name = bb_asprintf(err, "%s|spent", key);
    void     *value = NULL;
    size_t    size;
    bool      found;
    bb_status status = BB_NOMEM;
    *total = seconds;
    if (!name) return BB_NOMEM;
    BB_TRY(bb_store_get(v->run->store, "rivals", name, &value, &size, &found, err));
    if (found && size == sizeof *total) *total += *(double *)value;
    BB_TRY(bb_store_put(v->run->store, "rivals", name, total, sizeof *total, err));
done:
    bb_free(value);
    bb_free(name);
    return status;
}

/* The sizes first .. first+n-1 by one run of the method, unless all of them are on record. answers[n]. */
static bb_status run_method(rivals *v, const method *m, size_t first, size_t n, answer *answers, bb_err *err)
{
    double    tokens = v->tokens * (m->row->whole_front ? (double)n : m->row->many_tokens ? v->config->times : 1), started = bb_now_s(), seconds;
    char     *key = NULL;
    bool      found = true;
    bb_err    failure = BB_ERR_INIT;
    bb_status status = BB_OK, driven;
    for (size_t i = first; found && i < first + n; i++) {
        bb_free(key);
        if (!(key = record_key(v, m, v->sizes[i], tokens, err))) return BB_NOMEM;
        BB_TRY(recall(v, key, &answers[i - first], &found, err));
    }
    if (found) goto done;
    for (size_t i = 0; i < n; i++) {
        bb_free(answers[i].x);
        answers[i].x = NULL;
    }
    driven = drive(v, m->row, v->sizes + first, n, tokens, answers, &failure);
    BB_TRY(spend(v, key, bb_now_s() - started, &seconds, err));
    if (driven != BB_OK && driven != BB_INFEASIBLE) status = BB_FAIL(err, driven, "%s", failure.msg);
    BB_TRY(status);
    for (size_t i = first; i < first + n; i++) {
        bb_free(key);
        if (!(key = record_key(v, m, v->sizes[i], tokens, err))) return BB_NOMEM;
        answers[i - first].seconds = seconds / (double)n;
        BB_TRY(remember(v, key, &answers[i - first], err));
    }
done:
    bb_free(key);
    return status;
}

/* What needs no search: ours, which has been, and simple plans. */
static bb_status find_simple(rivals *v, const method *m, size_t i, answer *a, bb_err *err)
{
    double         started = bb_now_s();
    bb_simple_plan plan = { .x = BB_NEW(v->p->n_units, uint16_t, err) };
    bb_status      status;
    if (!(a->x = plan.x)) return BB_NOMEM;
    if (m->row) {
        BB_TRY(m->row->plan(m->row, &v->context.search, v->sizes[i], &plan, err));
        a->tokens = plan.tokens;
    } else {
        BB_TRY(find_ours(v, v->sizes[i], a->x, &plan.found, err));
        a->tokens = v->tokens;
    }
    a->seconds = m->row ? bb_now_s() - started : v->seconds;
    if (!plan.found) {
        bb_free(a->x);
        a->x = NULL;
    }
done:
    return status;
}

static bb_status find_all(rivals *v, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t m = 0; m < v->n_methods; m++) {
        const method *a = &v->methods[m];
        answer       *answers = v->answers + m * v->n;
        if (a->row) BB_TRY(bb_run_search_context_need(v->run, a->row, &v->context, err));
        if (a->row && a->row->whole_front) {
            BB_TRY(run_method(v, a, 0, v->n, answers, err));
            continue;
        }
        for (size_t i = 0; i < v->n; i++) {
            if (a->row && !a->row->plan) BB_TRY(run_method(v, a, i, 1, &answers[i], err));
            else BB_TRY(find_simple(v, a, i, &answers[i], err));
        }
    }
done:
    return status;
}

/* ---- scores ---- */

/* The plans of all answers as a front of their own, and their files where these are asked for. */
static bb_status finish_all(rivals *v, bb_err *err)
{
    bb_status status = BB_OK;
    for (size_t i = 0; i < v->n_methods * v->n; i++) {
        answer *a = &v->answers[i];
        if (!a->x) continue;
        bb_plan_space_hash(v->p->plans, a->x, a->hash);
        a->size_bytes = bb_problem_size(v->p, a->x);
        BB_TRY(bb_front_add(v->run, &v->found, a->x, v->methods[i / v->n].name, false, true, NULL, err));
    }
    if (v->config->finish) BB_TRY(bb_finalise_front(v->run, &v->found, v->config->only, err));
done:
    return status;
}

static bb_status score_answer(rivals *v, answer *a, bb_reference *reference, const bb_windows *w, bb_err *err)
{
    bb_plan   plan = { 0, NULL };
    bb_status status;
    BB_TRY(bb_plan_space_plan(v->p->plans, a->x, &plan, err));
    status = BB_NOMEM;
    if (!(a->window_kl = BB_NEW(w->n, double, err))) goto done;
    BB_TRY(bb_run_eval_database(v->run, &plan, reference, w, v->config->only, &a->result, a->window_kl, err));
    if (v->config->finish) BB_TRY(bb_run_eval_file(v->run, a->hash, reference, w, v->config->only, &a->finished, a->window_kl, err));
done:
    bb_plan_done(&plan);
    return status;
}

/* What searching held: the reference has its memory now, as in evaluate.c. */
static void let_go_of_search(rivals *v)
{
    bb_ledger_close(v->ledger);
    v->ledger = NULL;
    bb_scorer_done(&v->scorer);
    bb_full_states_done(&v->run->full_states);
    bb_net_evaluator_destroy(v->run->evaluator);
    v->run->evaluator = NULL;
}

static bb_status score_all(rivals *v, uint32_t *n_windows, bb_err *err)
{
    bb_run       *r = v->run;
    bb_windows    w = { 0 };
    bb_reference *reference = NULL;
    char          data_hash[65];
    bb_status     status;
    let_go_of_search(v);
    BB_TRY(bb_run_eval_windows(r, &w, data_hash, err));
    BB_TRY(bb_reference_create(r->backend, &r->model.net, &w, bb_memory_for_caches(r) / 2, "reference", &reference, err));
    *n_windows = w.n;
    for (size_t i = 0; i < v->n_methods * v->n; i++)
        if (v->answers[i].x) BB_TRY(score_answer(v, &v->answers[i], reference, &w, err));
done:
    bb_reference_destroy(reference);
    if (*r->config.eval) bb_windows_done(&w);
    return status;
}

/* ---- the table ---- */

static bb_status write_table(const rivals *v, bb_err *err)
{
    static const char header[] = "budget_bytes,method,kl_nats,kl_se,ppl,tokens,seconds,plan_hash,size_bytes,finished_kl_nats,finished_kl_se,finished_ppl";
    bb_csv_writer    *w = NULL;
    bb_status         status;
    BB_TRY(bb_run_table_at(v->run, v->config->out, "search.csv", header, &w, err));
    for (size_t i = 0; i < v->n; i++)
        for (size_t m = 0; m < v->n_methods; m++) {
            const answer *a = &v->answers[m * v->n + i];
            if (!a->x) continue;
            const bb_result none = { .kl = NAN, .kl_se = NAN, .ppl = NAN }, *f = v->config->finish ? &a->finished : &none;
            BB_ROW(w, v->sizes[i], v->methods[m].name, a->result.kl, a->result.kl_se, a->result.ppl, llround(a->tokens), round(a->seconds * 100) / 100, a->hash,
                   a->size_bytes, f->kl, f->kl_se, f->ppl);
        }
    status = bb_csv_close(&w, err);
done:
    bb_csv_discard(w);
    return status;
}

/* A dash where there is none: plans alike have no difference, a KL of 0 no ratio. */
static void put_number(FILE *out, int width, int decimals, double x)
{
    if (isfinite(x)) fprintf(out, " %*.*f", width, decimals, x);
    else fprintf(out, " %*s", width, "-");
}

/* For each rival: at how many sizes the first method has the lower KL, the worst difference in standard errors of the paired test, and the geometric mean of
 * the ratios of KL, at the sizes where both have some. */
static void print_summary(const rivals *v, uint32_t n_windows, FILE *out)
{
    fprintf(out, "%-14s %6s %6s %12s %12s %10s\n", "rival", "sizes", "wins", "worst z", "KL ratio", "tokens x");
    for (size_t m = 1; m < v->n_methods; m++) {
        size_t n = 0, wins = 0, n_ratio = 0;
        double worst = HUGE_VAL, ratio = 0, tokens = 0, mean, se;
        for (size_t i = 0; i < v->n; i++) {
            const answer *ours = &v->answers[i], *a = &v->answers[m * v->n + i];
            if (!ours->x || !a->x) continue;
            bb_paired_difference(a->window_kl, ours->window_kl, n_windows, &mean, &se);
            n++;
            wins += mean > 0;
            if (se > 0) worst = fmin(worst, mean / se);
            const double kl = v->config->finish ? ours->finished.kl : ours->result.kl, other = v->config->finish ? a->finished.kl : a->result.kl;
            if (kl > 0 && other > 0) {
                ratio += log(kl / other);
                n_ratio++;
            }
            tokens += a->tokens / ours->tokens;
        }
        if (!n) continue;
        fprintf(out, "%-14s %6zu %6zu", v->methods[m].name, n, wins);
        put_number(out, 12, 2, worst);
        put_number(out, 12, 3, exp(ratio / (double)n_ratio));
        put_number(out, 10, 2, tokens / (double)n);
        fprintf(out, "\n");
    }
}

static void rivals_done(rivals *v)
{
    for (size_t i = 0; v->answers && i < v->n_methods * v->n; i++) {
        bb_free(v->answers[i].x);
        bb_free(v->answers[i].window_kl);
    }
    bb_free(v->answers);
    bb_ledger_close(v->ledger);
    bb_run_search_context_done(&v->context);
    bb_front_done(&v->front);
    bb_front_done(&v->found);
    bb_scorer_done(&v->scorer);
    bb_free(v->sizes);
}

bb_status bb_rivals(bb_run *r, const bb_rivals_config *c, FILE *out, bb_err *err)
{
    rivals            v = { .run = r, .config = c };
    bb_ledger_options lo = { .only = c->only };
    uint32_t          n_windows = 0;
    char             *path = *c->out ? bb_strdup(c->out, err) : bb_run_path(r, err, "search.csv");
    bb_status         status = BB_NOMEM;
    v.p = bb_model_space_problem(r->space);
    if (!path) return BB_NOMEM;
    BB_TRY(parse_methods(&v, err));
    BB_TRY(parse_sizes(&v, err));
    BB_TRY(our_cost(&v, err));
    for (size_t i = 0; i < v.n_methods; i++)
        if (v.methods[i].row) BB_TRY(bb_memory_count_method(r, v.methods[i].row, err));
    BB_TRY(bb_stage_run(r, BB_STAGE_MEASURE, err));
    BB_TRY(bb_scorer_init(r, &v.scorer, err));
    BB_TRY(bb_ledger_open(v.p, &v.scorer.evaluator, r->store, &lo, &v.ledger, err));
    BB_TRY(bb_run_search_context_init(r, v.p, NULL, &v.context, err));
    v.context.search.ledger = v.context.search.uniform_ledger = v.ledger;
    v.context.search.uniform_level = BB_LEVEL_CONFIRM;
    status = BB_NOMEM;
    if (!(v.answers = BB_NEW0(v.n_methods * v.n, answer, err))) goto done;
    BB_TRY(find_all(&v, err));
    BB_TRY(finish_all(&v, err));
    BB_TRY(score_all(&v, &n_windows, err));
    BB_TRY(write_table(&v, err));
    print_summary(&v, n_windows, out);
    bb_info("wrote %s", path);
done:
    rivals_done(&v);
    r->more_pairs = r->more_learned = false;
    bb_free(path);
    return status;
}
