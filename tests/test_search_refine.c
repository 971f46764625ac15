/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_search_refine.c: ledger, surrogate, pair moves and refinement on worlds whose true score is known. */
#include <check.h>
#include <gsl/gsl_errno.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "search/moves.h"
#include "search/pool.h"
#include "search/refine/parts.h"
#include "search/surrogate.h"
#include "tests/support/synthetic.h"

static void temporary(char path[64], const char *what)
{
    snprintf(path, 64, "/tmp/bb_test_%s_%d.db", what, (int)getpid());
    remove(path);
}

static void remove_store(const char *path)
{
    char other[80];
    remove(path);
    snprintf(other, sizeof other, "%s-wal", path);
    remove(other);
    snprintf(other, sizeof other, "%s-shm", path);
    remove(other);
}

/* ---- ledger ---- */

/* First 16 hex digits of the SHA-256 of "synthetic world\0" (sha256sum). */
static const char *const scope_of_synthetic_world = "a9d9bd2ed06d3583";

START_TEST(ledger_evaluates_nothing_twice_and_survives_reopening)
{
    syn_problem    *s = syn_transformer(1, 1, 4, 3);
    syn_world      *w = syn_world_new(&s->p, 1, 1, 0.3);
    bb_store       *store;
    bb_ledger      *l;
    char            path[64];
    uint16_t        a[SYN_MAX_UNITS] = { 0 }, b[SYN_MAX_UNITS] = { 1, 1 };
    const uint16_t *x[4] = { a, b, a, b };
    bb_score        first[4], again[4];
    double          windows[8], stored[8], *want[4] = { windows, NULL, NULL, NULL }, *got[4] = { stored, NULL, NULL, NULL };
    temporary(path, "ledger");
    ck_assert_int_eq(bb_store_open(path, &store, NULL), BB_OK);
    ck_assert_int_eq(bb_ledger_open(&s->p, &w->e, store, NULL, &l, NULL), BB_OK);
    ck_assert_int_eq(bb_ledger_evaluate(l, x, 4, 0, first, want, NULL), BB_OK);
    ck_assert_uint_eq(w->n_evaluations, 2);
    ck_assert_double_eq(bb_ledger_tokens(l), 2 * 8 * 256.0);
    ck_assert_int_eq(bb_ledger_evaluate(l, x, 4, 0, again, NULL, NULL), BB_OK);
    ck_assert_uint_eq(w->n_evaluations, 2);
    ck_assert_double_eq(bb_ledger_tokens(l), 2 * 8 * 256.0);
    bb_ledger_close(l);
    bb_store_close(store);

    ck_assert_int_eq(bb_store_open(path, &store, NULL), BB_OK);
    const bb_ledger_options only = { .only = true };
    bb_err                  err = BB_ERR_INIT;
    ck_assert_int_eq(bb_ledger_open(&s->p, &w->e, store, &only, &l, NULL), BB_OK);
    ck_assert_int_eq(bb_ledger_evaluate(l, x, 4, 0, again, got, NULL), BB_OK);
    ck_assert_uint_eq(w->n_evaluations, 2);
    ck_assert_mem_eq(&first[1].kl, &again[1].kl, sizeof(double));
    ck_assert_mem_eq(windows, stored, sizeof windows);
    ck_assert_double_eq(bb_ledger_tokens(l), 2 * 8 * 256.0);
    ck_assert_double_eq(bb_ledger_tokens_new(l), 0);
    ck_assert_int_eq(bb_ledger_evaluate(l, x, 1, 1, again, NULL, &err), BB_NOT_FOUND);
    bb_ledger_close(l);

    /* Another model or other settings: nothing of this is known. */
    w->e.key = "another world";
    bb_ledger_entry e;
    bool            found = true;
    ck_assert_int_eq(bb_ledger_open(&s->p, &w->e, store, &only, &l, NULL), BB_OK);
    ck_assert_int_eq(bb_ledger_find(l, a, 0, &e, &found, NULL), BB_OK);
    ck_assert(!found);
    bb_ledger_close(l);
    bb_store_close(store);
    remove_store(path);
    free(w);
    syn_free(s);
}
END_TEST

typedef struct listing {
    size_t   n;
    char     last[17];
    uint32_t level;
    double   sum;
} listing;

static bb_status list_entry(void *self, const bb_ledger_entry *e, bb_err *err)
{
    listing *l = self;
    (void)err;
    const int order = strcmp(l->last, e->hash);
    ck_assert(order < 0 || (order == 0 && l->level < e->level));
    memcpy(l->last, e->hash, sizeof l->last);
    l->level = e->level;
    l->sum += e->score.kl;
    l->n++;
    return BB_OK;
}

START_TEST(ledger_lists_everything_in_hash_order)
{
    syn_problem    *s = syn_transformer(1, 1, 4, 3);
    syn_world      *w = syn_world_new(&s->p, 1, 1, 0.3);
    bb_store       *store;
    bb_ledger      *l;
    char            path[64];
    uint16_t        v[50][SYN_MAX_UNITS] = { { 0 } };
    const uint16_t *x[50];
    bb_score        score[50];
    double          total = 0;
    for (uint16_t i = 0; i < 50; i++) {
        v[i][1] = i % 4;
        v[i][2] = i / 4 % 4;
        v[i][3] = i / 16;
        x[i] = v[i];
    }
    temporary(path, "list");
    ck_assert_int_eq(bb_store_open(path, &store, NULL), BB_OK);
    ck_assert_int_eq(bb_ledger_open(&s->p, &w->e, store, NULL, &l, NULL), BB_OK);
    for (uint32_t level = 0; level < 2; level++) {
        ck_assert_int_eq(bb_ledger_evaluate(l, x, 50, level, score, NULL, NULL), BB_OK);
        for (int i = 0; i < 50; i++) total += score[i].kl;
    }
    bb_ledger_close(l);
    ck_assert_int_eq(bb_ledger_open(&s->p, &w->e, store, NULL, &l, NULL), BB_OK); /* nothing in memory: all from the store */
    listing all = { 0 };
    ck_assert_int_eq(bb_ledger_each(l, list_entry, &all, NULL), BB_OK);
    ck_assert_uint_eq(all.n, 100);
    ck_assert_double_eq_tol(all.sum, total, 1e-9);
    bb_ledger_close(l);
    bb_store_close(store);
    remove_store(path);
    free(w);
    syn_free(s);
}
END_TEST

START_TEST(a_damaged_entry_is_refused)
{
    syn_problem    *s = syn_transformer(1, 1, 4, 3);
    syn_world      *w = syn_world_new(&s->p, 1, 1, 0.3);
    bb_store       *store;
    bb_ledger      *l;
    char            path[64], key[64];
    uint16_t        a[SYN_MAX_UNITS] = { 0 };
    const uint16_t *x[1] = { a };
    bb_score        score;
    temporary(path, "bad");
    ck_assert_int_eq(bb_store_open(path, &store, NULL), BB_OK);
    ck_assert_int_eq(bb_ledger_open(&s->p, &w->e, store, NULL, &l, NULL), BB_OK);
    ck_assert_int_eq(bb_ledger_evaluate(l, x, 1, 0, &score, NULL, NULL), BB_OK);
    bb_ledger_entry e;
    bool            found;
    ck_assert_int_eq(bb_ledger_find(l, a, 0, &e, &found, NULL), BB_OK);
    snprintf(key, sizeof key, "%s/%s/0", scope_of_synthetic_world, e.hash);
    ck_assert_int_eq(bb_store_put(store, "scores", key, "rubbish", 7, NULL), BB_OK);
    bb_ledger_close(l);
    ck_assert_int_eq(bb_ledger_open(&s->p, &w->e, store, NULL, &l, NULL), BB_OK);
    bb_err err = BB_ERR_INIT;
    ck_assert_int_eq(bb_ledger_evaluate(l, x, 1, 0, &score, NULL, &err), BB_BAD_FILE);
    bb_ledger_close(l);
    bb_store_close(store);
    remove_store(path);
    free(w);
    syn_free(s);
}
END_TEST

/* ---- surrogate ---- */

/* The best of a pool within a size: never a larger one, ties to fewer bytes, then to the earlier. */
START_TEST(the_best_of_a_pool_fits)
{
    syn_problem        *s = syn_new();
    const uint32_t      u = syn_add(s, 4, -1);
    bb_space            space;
    bb_pool             pool;
    static const double kl[4] = { 5, 3, 3, 1 };
    for (int o = 0; o < 4; o++) s->bytes[u][o] = 100 * (o + 1);
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    syn_world *w = syn_world_new(&s->p, 1, 1, 0);
    bb_ledger *l;
    ck_assert_int_eq(bb_ledger_open(&s->p, &w->e, NULL, NULL, &l, NULL), BB_OK);
    ck_assert_int_eq(bb_pool_init(&space, l, &pool, NULL), BB_OK);
    for (uint16_t o = 4; o-- > 0;) {
        size_t at;
        ck_assert_int_eq(bb_pool_add(&pool, &o, "test", &at, NULL, NULL), BB_OK);
        pool.items[at].kl[0] = kl[o];
    }
    static const int64_t  budget[] = { 99, 100, 199, 200, 300, 399, 400 };
    static const uint16_t want[] = { 9, 0, 0, 1, 1, 1, 3 };
    for (size_t i = 0; i < sizeof budget / sizeof *budget; i++) {
        const size_t best = bb_pool_best(&pool, budget[i], 0);
        if (want[i] == 9) ck_assert_uint_eq(best, SIZE_MAX);
        else ck_assert_uint_eq(pool.items[best].x[0], want[i]);
    }
    bb_pool_done(&pool);
    bb_ledger_close(l);
    bb_space_done(&space);
    free(w);
    syn_free(s);
}
END_TEST

/* The KL that theta (NULL: the posterior mean) predicts for x, by the tables that it makes of v. */
static double predict(const bb_surrogate *m, const double *theta, bb_variant *v, const uint16_t *x)
{
    bb_surrogate_tables(m, theta, v);
    return bb_problem_cost(&v->problem, x);
}

START_TEST(surrogate_learns_hidden_factors)
{
    syn_problem *s = syn_transformer(5, 3, 8, 4);
    bb_space     space;
    bb_surrogate m;
    bb_variant   v;
    bb_rng       r;
    enum { N = 300, TEST = 100 };
    static uint16_t x[N + TEST][SYN_MAX_UNITS];
    const uint16_t *px[N];
    double          kl[N + TEST], weight[N], factor[SYN_MAX_UNITS];
    ck_assert_int_eq(bb_variant_init(&s->p, &v, NULL), BB_OK);
    bb_rng_init(&r, 1, "surrogate");
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    for (uint32_t u = 0; u < s->p.n_units; u++) factor[u] = exp(0.5 * bb_rng_normal(&r));
    for (int i = 0; i < N + TEST; i++) {
        ck_assert(bb_space_random(&space, &r, x[i]));
        kl[i] = 0;
        for (uint32_t u = 0; u < s->p.n_units; u++) kl[i] += factor[u] * pow(syn_unit_cost(&s->p, x[i], u), 0.8);
        if (i < N) {
            px[i] = x[i];
            weight[i] = 1;
        }
    }
    ck_assert_int_eq(bb_surrogate_init(&space, &m, NULL), BB_OK);
    ck_assert_int_eq(bb_surrogate_fit(&m, px, kl, weight, N, NULL), BB_OK);
    double error = 0, plain = 0, mean = 0;
    for (int i = N; i < N + TEST; i++) mean += log(kl[i] / bb_problem_cost(&s->p, x[i])) / TEST;
    for (int i = N; i < N + TEST; i++) {
        error += fabs(log(predict(&m, NULL, &v, x[i]) / kl[i])) / TEST;
        plain += fabs(log(bb_problem_cost(&s->p, x[i]) / kl[i]) + mean) / TEST;
    }
    ck_assert_double_lt(error, 0.1 * plain);
    ck_assert_double_lt(error, 0.02);

    /* Samples scatter around the mean. */
    double *theta = calloc(m.n_params, sizeof *theta), sum = 0;
    for (int k = 0; k < 200; k++) {
        bb_surrogate_sample(&m, &r, theta);
        sum += log(predict(&m, theta, &v, x[N])) / 200;
    }
    ck_assert_double_eq_tol(sum, log(predict(&m, NULL, &v, x[N])), 0.05);
    free(theta);
    bb_variant_done(&v);
    bb_surrogate_done(&m);
    bb_space_done(&space);
    syn_free(s);
}
END_TEST

/* ---- pair moves ---- */

START_TEST(pair_moves_equal_a_full_double_loop)
{
    syn_problem *s = syn_random(90 + (uint64_t)_i, 5, 2, 5);
    bb_space     space;
    bb_rng       r;
    uint16_t     x[SYN_MAX_UNITS];
    bb_move     *moves = calloc(SYN_MAX_UNITS * SYN_MAX_OPTIONS, sizeof *moves);
    bb_pair      pairs[7];
    bb_rng_init(&r, (uint64_t)_i, "pairs");
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    for (int k = 0; k < 20 && bb_space_random(&space, &r, x); k++) {
        const int64_t slack = (int64_t)bb_rng_below(&r, 600) - 300;
        double        best = HUGE_VAL;
        for (uint32_t u = 0; u < s->p.n_units; u++)
            for (uint32_t o = 0; o < s->units[u].n_options; o++) {
                const int64_t bu = bb_space_delta_bytes(&space, x, u, o);
                if (o == x[u] || bu == BB_FORBIDDEN) continue;
                if (bu <= slack) best = fmin(best, bb_space_delta_cost(&space, x, u, o));
                for (uint32_t v = 0; v < s->p.n_units; v++)
                    for (uint32_t q = 0; q < s->units[v].n_options; q++) {
                        const int64_t bv = bb_space_delta_bytes(&space, x, v, q);
                        if (v == u || q == x[v] || bv == BB_FORBIDDEN || bu + bv > slack) continue;
                        best = fmin(best, bb_space_delta_cost(&space, x, u, o) + bb_space_delta_cost(&space, x, v, q));
                    }
            }
        const size_t n = bb_moves_pairs(&space, x, slack, true, moves, pairs, 7);
        ck_assert_int_eq(n > 0, !isinf(best));
        if (n > 0) ck_assert_double_eq_tol(pairs[0].cost, best, 1e-12);
        for (size_t i = 1; i < n; i++) ck_assert(pairs[i - 1].cost <= pairs[i].cost);
    }
    free(moves);
    bb_space_done(&space);
    syn_free(s);
}
END_TEST

/* ---- refinement ---- */

typedef struct outcome {
    bb_archive     archive;
    double         tokens, volume;
    uint64_t       evaluations;
    bb_stop_reason why;
} outcome;

static char refusal[sizeof((bb_err *)0)->msg]; /* what the last run_refine said when it failed */

static bb_status run_refine(const syn_problem *s, syn_world *w, bb_store *store, const bb_search *how, const bb_ledger_options *lo, outcome *out)
{
    bb_search  o = *how;
    bb_ledger *l;
    bb_err     err = BB_ERR_INIT;
    *out = (outcome) { 0 };
    const bb_status status = syn_search(&bb_method_refine, &s->p, &w->e, store, lo, &o, &out->archive, &l, &err);
    snprintf(refusal, sizeof refusal, "%s", status != BB_OK ? err.msg : "");
    out->why = o.why;
    out->tokens = bb_ledger_tokens(l);
    out->evaluations = w->n_evaluations;
    bb_ledger_close(l);
    return status;
}

static void budgets_of(const syn_problem *s, int64_t *budgets, size_t n)
{
    bb_separable *sep;
    int64_t       lo, hi;
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    bb_separable_reach(sep, &lo, &hi);
    for (size_t i = 0; i < n; i++) budgets[i] = lo + (hi - lo) * (int64_t)(i + 1) / (int64_t)(2 * n);
    bb_separable_destroy(sep);
}

static void show(void *self, const bb_search_step *t)
{
    (void)self;
    if (getenv("BB_VERBOSE"))
        printf("%s %u budget %zu: %lld bytes, kl %.5f at level %u, %s, %.0f tokens\n", t->stage, t->round, t->budget_index, (long long)t->size_bytes, t->kl,
               t->level, t->source, t->tokens);
}

START_TEST(refinement_beats_the_separable_plan_and_keeps_every_promise)
{
    enum { B = 6 };
    syn_problem  *s = syn_transformer(20 + (uint64_t)_i, 4, 10, 4);
    syn_world    *w = syn_world_new(&s->p, 7 + (uint64_t)_i, 1.5, 0.5);
    bb_separable *sep;
    int64_t       budgets[B];
    uint16_t      x[SYN_MAX_UNITS];
    outcome       out;
    double        log_ratio = 0;
    budgets_of(s, budgets, B);
    const int64_t swap = budgets[0]; /* any order of budgets */
    budgets[0] = budgets[3];
    budgets[3] = swap;
    const bb_search o = { .seed = 1, .budgets = budgets, .n_budgets = B, .stop.max_tokens = 1.5e6, .progress = show };
    ck_assert_int_eq(run_refine(s, w, NULL, &o, NULL, &out), BB_OK);
    ck_assert(syn_is_front(&out.archive));
    ck_assert_double_le(out.tokens, 1.5e6);
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    for (int b = 0; b < B; b++) {
        const bb_archive_entry *e = bb_archive_best(&out.archive, budgets[b]);
        bb_score                separable;
        const uint16_t         *px = x;
        ck_assert_ptr_nonnull(e);
        ck_assert_int_le(bb_problem_size(&s->p, e->x), budgets[b]);
        ck_assert_int_eq(bb_problem_size(&s->p, e->x), e->size_bytes);
        ck_assert(e->proxy_bound <= e->proxy * (1 + 1e-12));
        ck_assert_int_eq(bb_separable_solve(sep, budgets[b], x, NULL, NULL), BB_OK);
        ck_assert_int_eq(syn_evaluate(w, &px, 1, 2, &separable, NULL, NULL), BB_OK);
        ck_assert_double_le(e->score.kl, separable.kl);
        log_ratio += log(e->score.kl / separable.kl) / B;
        if (getenv("BB_VERBOSE")) printf("budget %lld: %.5f, separable %.5f, from %s\n", (long long)budgets[b], e->score.kl, separable.kl, e->source);
    }
    ck_assert_double_lt(exp(log_ratio), 0.85);
    bb_separable_destroy(sep);
    bb_archive_done(&out.archive);
    free(w);
    syn_free(s);
}
END_TEST

/* Measures every single change around a plan on level 0 of the world, and the inner products of the changes along its directions. */
typedef struct surveyor {
    syn_world *w;
    bb_space   space;
    bb_variant tables;
    float     *gram;
    int        n_calls;
} surveyor;

static bb_status survey(void *self, const uint16_t *x, bb_local_score *out, bb_err *err)
{
    surveyor         *v = self;
    const bb_problem *p = v->w->p;
    const size_t      M = v->space.offset[p->n_units];
    double           *step = calloc(M, sizeof *step);
    uint16_t          y[SYN_MAX_UNITS];
    const uint16_t   *px = x, *py = y;
    bb_score          here = { .kl = 0 }, there = { .kl = 0 };
    (void)err;
    v->n_calls++;
    ck_assert_int_eq(syn_evaluate(v->w, &px, 1, 0, &here, NULL, NULL), BB_OK);
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bb_unit *unit = &p->units[u];
        memcpy(y, x, p->n_units * sizeof *y);
        for (uint16_t o = 0; o < unit->n_options; o++) {
            y[u] = o;
            if (bb_problem_bound(p, y) == BB_FORBIDDEN) continue;
            ck_assert_int_eq(syn_evaluate(v->w, &py, 1, 0, &there, NULL, NULL), BB_OK);
            for (size_t row = 0; row < bb_problem_rows(p, u); row++) v->tables.cost[u][row * unit->n_options + o] = there.kl - here.kl;
            step[v->space.offset[u] + o] = sqrt(2 * v->w->m[u]) * (sqrt(syn_unit_cost(p, y, u)) - sqrt(syn_unit_cost(p, x, u)));
        }
    }
    for (uint32_t a = 0; a < p->n_units; a++)
        for (uint32_t b = 0; b < p->n_units; b++) {
            double dot = 0;
            for (int k = 0; k < SYN_DIM; k++) dot += v->w->d[a][k] * v->w->d[b][k];
            for (size_t i = v->space.offset[a]; i < v->space.offset[a + 1]; i++)
                for (size_t j = v->space.offset[b]; j < v->space.offset[b + 1]; j++) v->gram[i * M + j] = a == b ? 0 : (float)(dot * step[i] * step[j]);
        }
    *out = (bb_local_score) { .linear = (const double *const *)v->tables.cost, .gram = v->gram, .tokens = 1e5 };
    free(step);
    return BB_OK;
}

/* At equal tokens, what the local scores cost included, plans are better with them. */
START_TEST(local_scores_pay_for_themselves)
{
    enum { B = 6 };
    double with = 0, without = 0;
    for (uint64_t seed = 0; seed < 3; seed++) {
        syn_problem *s = syn_transformer(40 + seed, 3, 10, 4);
        syn_world   *w = syn_world_new(&s->p, seed, 1.5, 0.5);
        surveyor     v = { .w = w };
        int64_t      budgets[B];
        outcome      out;
        budgets_of(s, budgets, B);
        ck_assert_int_eq(bb_space_init(&s->p, &v.space, NULL), BB_OK);
        ck_assert_int_eq(bb_variant_init(&s->p, &v.tables, NULL), BB_OK);
        v.gram = calloc((size_t)v.space.offset[s->p.n_units] * v.space.offset[s->p.n_units], sizeof *v.gram);
        bb_search o = { .seed = 2, .budgets = budgets, .n_budgets = B, .stop.max_tokens = 1.5e6 };
        ck_assert_int_eq(run_refine(s, w, NULL, &o, NULL, &out), BB_OK);
        for (size_t b = 0; b < B; b++) without += log(bb_archive_best(&out.archive, budgets[b])->score.kl) / B / 3;
        bb_archive_done(&out.archive);
        o.local = survey;
        o.local_self = &v;
        o.local_cost = 1e5;
        ck_assert_int_eq(run_refine(s, w, NULL, &o, NULL, &out), BB_OK);
        ck_assert_double_le(out.tokens + 1e5 * v.n_calls, 1.5e6);
        ck_assert_int_ge(v.n_calls, 2);
        for (size_t b = 0; b < B; b++) with += log(bb_archive_best(&out.archive, budgets[b])->score.kl) / B / 3;
        bb_archive_done(&out.archive);
        free(v.gram);
        v.gram = NULL;
        bb_space_done(&v.space);
        bb_variant_done(&v.tables);
        free(w);
        syn_free(s);
    }
    if (getenv("BB_VERBOSE")) printf("geometric mean of KL: %.5f with local scores, %.5f without\n", exp(with), exp(without));
    ck_assert_double_lt(with, without);
}
END_TEST

static void assert_same(const bb_archive *a, const bb_archive *b, uint32_t n_units)
{
    ck_assert_uint_eq(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        ck_assert_mem_eq(a->entries[i].x, b->entries[i].x, n_units * sizeof(uint16_t));
        ck_assert_str_eq(a->entries[i].hash, b->entries[i].hash);
        ck_assert_str_eq(a->entries[i].source, b->entries[i].source);
        ck_assert_mem_eq(&a->entries[i].score.kl, &b->entries[i].score.kl, sizeof(double));
    }
}

/* One, two and four threads; killed after every few evaluator calls and started again; replayed from the ledger alone. */
START_TEST(same_archive_for_any_threads_and_any_kill_point)
{
    enum { B = 4 };
    syn_problem *s = syn_transformer(31, 3, 8, 4);
    int64_t      budgets[B];
    outcome      whole, other;
    budgets_of(s, budgets, B);
    const bb_search o = { .seed = 5, .budgets = budgets, .n_budgets = B, .stop.max_tokens = 6e5 };
    omp_set_num_threads(1);
    syn_world *w = syn_world_new(&s->p, 3, 1.5, 0.5);
    ck_assert_int_eq(run_refine(s, w, NULL, &o, NULL, &whole), BB_OK);
    omp_set_num_threads(4);
    ck_assert_int_eq(run_refine(s, w, NULL, &o, NULL, &other), BB_OK);
    omp_set_num_threads(2);
    assert_same(&whole.archive, &other.archive, s->p.n_units);
    bb_archive_done(&other.archive);
    free(w);

    char      path[64];
    bb_store *store;
    temporary(path, "resume");
    w = syn_world_new(&s->p, 3, 1.5, 0.5);
    int kills = 0;
    for (bb_status st = BB_INTERRUPTED; st != BB_OK;) {
        ck_assert_int_eq(bb_store_open(path, &store, NULL), BB_OK);
        w->stop_after = w->n_calls + 3;
        const bb_ledger_options small = { .chunk = 7 };
        st = run_refine(s, w, store, &o, &small, &other);
        bb_store_close(store);
        if (st == BB_OK) break;
        ck_assert_int_eq(st, BB_INTERRUPTED);
        bb_archive_done(&other.archive);
        ck_assert_int_lt(++kills, 200);
    }
    ck_assert_int_gt(kills, 2);
    assert_same(&whole.archive, &other.archive, s->p.n_units);
    ck_assert_double_eq(whole.tokens, other.tokens);
    ck_assert_double_eq(w->tokens, other.tokens); /* nothing was evaluated twice */
    bb_archive_done(&other.archive);

    const bb_ledger_options only = { .only = true };
    ck_assert_int_eq(bb_store_open(path, &store, NULL), BB_OK);
    bb_interrupt_at(bb_now_s()); /* a time that is over does not end what needs no evaluation, a signal does */
    ck_assert_int_eq(run_refine(s, w, store, &o, &only, &other), BB_OK);
    assert_same(&whole.archive, &other.archive, s->p.n_units);
    bb_archive_done(&other.archive);
    bb_interrupt_raise();
    ck_assert_int_eq(run_refine(s, w, store, &o, &only, &other), BB_INTERRUPTED);
    bb_archive_done(&other.archive);
    bb_interrupt_clear();
    bb_store_close(store);
    remove_store(path);
    bb_archive_done(&whole.archive);
    free(w);
    syn_free(s);
}
END_TEST

static double weight_of(void *self, const uint16_t *x)
{
    (void)self;
    return x[0] == 0 ? 0.5 : 1.25;
}

/* A weight is in every answer, new or recalled; what was said stays beside it and in the store. */
START_TEST(a_ledger_weighs_what_it_answers)
{
    const bb_ledger_options by_weight = { .weight = weight_of };
    syn_problem            *s = syn_random(6, 4, 2, 3);
    syn_world              *w = syn_world_new(&s->p, 3, 1.5, 0.5);
    const bb_evaluator      e = w->e;
    char                    path[64];
    bb_store               *store;
    temporary(path, "weighed");
    ck_assert_int_eq(bb_store_open(path, &store, NULL), BB_OK);
    for (int again = 0; again < 3; again++) { /* weighed, recalled, and then as it was said */
        bb_ledger *l;
        ck_assert_int_eq(bb_ledger_open(&s->p, &e, store, again < 2 ? &by_weight : NULL, &l, NULL), BB_OK);
        for (uint16_t o = 0; o < 2; o++) {
            uint16_t       *x = BB_NEW0(s->p.n_units, uint16_t, NULL);
            const uint16_t *px = x;
            double          window[512], said[512];
            double         *pw = window, *ps = said;
            bb_score        score, plain;
            bb_ledger_entry entry;
            bool            found;
            x[0] = o;
            const double weight = again < 2 ? weight_of(NULL, x) : 1;
            ck_assert_int_eq(e.evaluate(e.self, &px, 1, 1, &plain, &ps, NULL), BB_OK);
            ck_assert_int_eq(bb_ledger_evaluate(l, &px, 1, 1, &score, &pw, NULL), BB_OK);
            ck_assert_int_eq(bb_ledger_find(l, x, 1, &entry, &found, NULL), BB_OK);
            ck_assert(found && entry.score.kl == score.kl && entry.score.plain == score.plain);
            ck_assert(score.kl == weight * plain.kl && score.kl_se == weight * plain.kl_se);
            ck_assert(score.plain == plain.kl && score.plain_se == plain.kl_se);
            for (uint32_t i = 0; i < e.n_windows[1]; i++) ck_assert(window[i] == weight * said[i] && entry.window_kl[i] == window[i]);
            bb_free(x);
        }
        bb_ledger_close(l);
    }
    bb_store_close(store);
    remove_store(path);
    free(w);
    syn_free(s);
}
END_TEST

/* What a tilt takes back of the shares, before its power; of a search without shares nothing. */
START_TEST(a_tilt_takes_shares_back)
{
    const bb_tilt t = { .power = 0.5, .controllers = 1, .measured = 0.75 };
    syn_problem  *s = syn_random(6, 4, 2, 3);
    bb_space      space;
    double        share[SYN_MAX_UNITS];
    bb_search     o = { .problem = &s->p, .space = &space, .seed = 1 };
    bb_refine     r = { .s = &o };
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    for (uint32_t u = 0; u < s->p.n_units; u++) share[u] = 0.3 + 0.5 * u / s->p.n_units;
    for (int shared = 0; shared < 2; shared++) {
        bb_variant v;
        o.share = shared ? share : NULL;
        ck_assert_int_eq(bb_tilt_tables(&r, &t, &v, NULL), BB_OK);
        for (uint32_t u = 0; u < s->p.n_units; u++)
            for (size_t i = 0; i < bb_problem_rows(&s->p, u) * s->p.units[u].n_options; i++) {
                const double measured = s->cost[u][i] / (shared ? pow(share[u], 0.75) : 1);
                ck_assert(fabs(v.problem.units[u].cost[i] - sqrt(measured)) < 1e-12);
            }
        bb_variant_done(&v);
    }
    bb_space_done(&space);
    syn_free(s);
}
END_TEST

/* A mutation moves what is taken back where there are shares; without them it draws what it drew before there were any, and its noise from the same streams:
 * those behind the fifteen tilts of then. */
START_TEST(only_where_there_are_shares_are_they_mutated)
{
    static const double share[1] = { 0.5 };
    int64_t             budgets[1] = { 1000 };
    size_t              base[1] = { 0 };
    bb_pool_item        item = { .kl = { 0.1 } };
    bb_tilted           elite = { .t = { .power = 1, .controllers = 1 } };
    bb_search           o = { .share = NULL };
    const bb_refine     r = { .s = &o, .pool = { .n = 1, .items = &item }, .budgets = budgets, .base = base, .n = 1, .tilted = &elite, .n_tilted = 1 };
    bb_rng              rng, drawn;
    for (int shared = 0; shared < 2; shared++) {
        double normal[5];
        o.share = shared ? share : NULL;
        bb_rng_init(&rng, 5, "mutate");
        bb_rng_init(&drawn, 5, "mutate");
        const bb_tilt t = bb_tilt_mutate(&r, 0, &rng);
        (void)bb_rng_below(&drawn, 1);
        for (int i = 0; i < 4 + shared; i++) normal[i] = bb_rng_normal(&drawn);
        ck_assert(fabs(t.power - exp(0.15 * normal[0])) < 1e-12 && fabs(t.controllers - exp(0.3 * normal[1])) < 1e-12);
        ck_assert(fabs(t.slope - 0.3 * normal[2]) < 1e-12 && fabs(t.bend - 0.3 * normal[3]) < 1e-12);
        ck_assert(fabs(t.measured - (shared ? 0.3 * normal[4] : 0)) < 1e-12);
        ck_assert(fabs(t.noise - 0.2) < 1e-12);
        ck_assert_uint_eq(t.stream, 15 + (size_t)bb_rng_below(&drawn, 1u << 30));
    }
}
END_TEST

/* Every plan but the separable one is 0.01 nats better, by windows that differ from it by 0.01 +- spread: at a spread of 0.3 that is a third of a standard
 * error at the top level, at 0.02 it is six. */
typedef struct level_world {
    const uint16_t *base;
    uint32_t        n_units;
    double          spread;
} level_world;

static bb_status level_evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    static const uint32_t windows[3] = { 8, 32, 128 };
    const level_world    *w = self;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        const bool is_base = memcmp(x[i], w->base, w->n_units * sizeof **x) == 0;
        out[i] = (bb_score) { .kl = is_base ? 1 : 0.99, .kl_se = 0.01, .tokens = windows[level] };
        for (uint32_t k = 0; window_kl && window_kl[i] && k < windows[level]; k++) window_kl[i][k] = out[i].kl + (is_base ? 0 : k % 2 ? w->spread : -w->spread);
    }
    return BB_OK;
}

START_TEST(what_is_not_clearly_better_gives_way_to_the_separable_plan)
{
    static const uint32_t n_windows[3] = { 8, 32, 128 };
    const double          spread[2] = { 0.3, 0.02 };
    for (int k = 0; k < 2; k++) {
        syn_problem    *s = syn_transformer(7, 2, 6, 3);
        const int64_t   budget = 300000;
        uint16_t        base[SYN_MAX_UNITS];
        level_world     w = { base, s->p.n_units, spread[k] };
        bb_evaluator    e = { .self = &w, .n_levels = 3, .n_windows = n_windows, .evaluate = level_evaluate, .key = "levels" };
        bb_separable   *sep;
        bb_ledger      *l;
        bb_archive      archive;
        bb_ledger_entry at_top;
        bool            found;
        ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
        ck_assert_int_eq(bb_separable_solve(sep, budget, base, NULL, NULL), BB_OK);
        bb_search o = { .seed = 1, .budgets = &budget, .n_budgets = 1, .stop.max_rounds = 4 };
        ck_assert_int_eq(syn_search(&bb_method_refine, &s->p, &e, NULL, NULL, &o, &archive, &l, NULL), BB_OK);
        ck_assert_int_eq(bb_ledger_find(l, base, 2, &at_top, &found, NULL), BB_OK);
        ck_assert(found); /* the separable plan was scored at the top level, although all others are better below */
        const bool stands = memcmp(bb_archive_best(&archive, budget)->x, base, s->p.n_units * sizeof *base) == 0;
        ck_assert_msg(stands == (k == 0), "spread %g: the separable plan %s", spread[k], stands ? "stands" : "does not stand");
        bb_archive_done(&archive);
        bb_ledger_close(l);
        bb_separable_destroy(sep);
        syn_free(s);
    }
}
END_TEST

/* Up to `middle` bytes a world of hidden factors and correlated errors, above it one in which the table is the truth. */
typedef struct half_known {
    syn_world *hidden;
    int64_t    middle;
    size_t     large[64]; /* plans above the middle that were asked for below the top level, by round */
    uint32_t   round, last;
    double     kl[64]; /* of the smaller budget behind each round */
    bool       flat;   /* below the middle all KLs are within a thousandth */
} half_known;

static bb_status half_evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    half_known *w = self;
    for (size_t i = 0; i < n; i++) {
        double *windows = window_kl ? window_kl[i] : NULL;
        if (syn_evaluate(w->hidden, x + i, 1, level, out + i, &windows, err) != BB_OK) return BB_FAILED;
        const int64_t bytes = bb_problem_size(w->hidden->p, x[i]);
        const bool    large = bytes > w->middle;
        w->large[w->round] += large && level < 2;
        if (large) out[i].kl = bb_problem_cost(w->hidden->p, x[i]);
        else if (w->flat) out[i].kl = 1 + 0.0001 * out[i].kl;
        /* Large plans are as noisy as any: a worse one may be within the errors of the best. */
        for (uint32_t k = 0; windows && k < w->hidden->n_windows[level]; k++) {
            if (large) windows[k] = out[i].kl * (1 + 0.5 * sin((double)(bytes % 1000) * (k + 1)));
            else if (w->flat) windows[k] = 1 + 0.0001 * windows[k];
        }
    }
    return BB_OK;
}

static void half_round(void *self, const bb_search_step *t)
{
    half_known *w = self;
    const bool  in_round = strcmp(t->stage, "round") == 0;
    w->round = in_round ? t->round + 1 : 1; /* of what is asked from now on */
    if (in_round) w->last = t->round;
    if (in_round && t->budget_index == 0) w->kl[t->round] = t->kl;
}

/* A budget whose plan gains nothing in three rounds is given no more proposals; one that goes on gaining has them, and the search ends when none does. */
START_TEST(a_budget_that_gains_nothing_is_settled)
{
    uint32_t longest = 0;
    for (uint64_t run = 0; run < 12; run++) {
        const uint64_t seed = 1 + run / 2;
        const bool     flat = run % 2;
        syn_problem   *s = syn_transformer(seed, 4, 6, 3);
        int64_t        budgets[6], two[2];
        budgets_of(s, budgets, 6);
        two[0] = budgets[1], two[1] = budgets[5];
        half_known   w = { .hidden = syn_world_new(&s->p, seed, 1, 0.6), .middle = (two[0] + two[1]) / 2, .flat = flat };
        bb_evaluator e = { .self = &w, .n_levels = 3, .n_windows = w.hidden->n_windows, .evaluate = half_evaluate, .key = "half" };
        bb_search    o = { .seed = seed, .budgets = two, .n_budgets = 2, .progress = half_round, .progress_self = &w };
        bb_archive   archive;
        size_t       after = 0;
        ck_assert_int_eq(syn_search(&bb_method_refine, &s->p, &e, NULL, NULL, &o, &archive, NULL, NULL), BB_OK);
        for (uint32_t r = 1; r <= 3; r++) ck_assert_msg(w.large[r] > 0, "seed %d: round %u", (int)seed, r);
        for (uint32_t r = 4; r <= w.last; r++) after += w.large[r];
        ck_assert_msg(after == 0, "seed %d: %zu plans for a settled budget in %u rounds", (int)seed, after, w.last);
        /* The last gain of half a per cent, counted from the one before, was three rounds before the end, unless the rounds were used up. */
        uint32_t still = 0;
        double   mark = w.kl[1];
        for (uint32_t r = 2; r <= w.last; r++) {
            ck_assert_msg(still < 3, "seed %d goes on at round %u", (int)seed, r);
            still = w.kl[r] < 0.995 * mark ? 0 : still + 1;
            if (still == 0) mark = w.kl[r];
        }
        ck_assert_int_eq(o.why, w.last == 24 ? BB_STOP_ROUNDS : BB_STOP_STALL);
        if (o.why == BB_STOP_STALL) ck_assert_msg(still >= 2, "seed %d ends at round %u", (int)seed, w.last); /* 3, if the first round gained nothing either */
        if (flat) ck_assert_msg(w.last == 3, "seed %d: %u rounds for gains of next to nothing", (int)seed, w.last);
        longest = w.last > longest ? w.last : longest;
        bb_archive_done(&archive);
        free(w.hidden);
        syn_free(s);
    }
    ck_assert_msg(longest > 6, "the longest search had %u rounds", longest); /* else the test says little */
}
END_TEST

/* With many budgets a round has few plans for each: 24 of them must have been in vain, five rounds of five where there are nine. */
START_TEST(many_budgets_are_settled_later)
{
    syn_problem *s = syn_transformer(1, 4, 6, 3);
    int64_t      budgets[9];
    budgets_of(s, budgets, 9);
    half_known   w = { .hidden = syn_world_new(&s->p, 1, 1, 0.6), .middle = INT64_MAX, .flat = true };
    bb_evaluator e = { .self = &w, .n_levels = 3, .n_windows = w.hidden->n_windows, .evaluate = half_evaluate, .key = "half" };
    bb_search    o = { .seed = 1, .budgets = budgets, .n_budgets = 9, .progress = half_round, .progress_self = &w };
    bb_archive   archive;
    ck_assert_int_eq(syn_search(&bb_method_refine, &s->p, &e, NULL, NULL, &o, &archive, NULL, NULL), BB_OK);
    ck_assert_uint_eq(w.last, 5);
    ck_assert_int_eq(o.why, BB_STOP_STALL);
    bb_archive_done(&archive);
    free(w.hidden);
    syn_free(s);
}
END_TEST

START_TEST(one_unit_one_level_and_impossible_budgets)
{
    syn_problem   *s = syn_new();
    const uint32_t u = syn_add(s, 3, -1);
    for (int64_t k = 0; k < 3; k++) {
        s->bytes[u][k] = 100 * (k + 1);
        s->cost[u][k] = 0.3 / (double)(k + 1);
    }
    syn_world *w = syn_world_new(&s->p, 1, 0, 0);
    w->e.n_levels = 1;
    outcome   out;
    int64_t   budgets[2] = { 250, 1000 };
    bb_search o = { .seed = 1, .budgets = budgets, .n_budgets = 2 };
    ck_assert_int_eq(run_refine(s, w, NULL, &o, NULL, &out), BB_OK);
    ck_assert_int_eq(out.why, BB_STOP_STALL);
    ck_assert_uint_eq(bb_archive_best(&out.archive, 250)->x[0], 1);
    ck_assert_uint_eq(bb_archive_best(&out.archive, 1000)->x[0], 2);
    bb_archive_done(&out.archive);
    budgets[0] = 99;
    ck_assert_int_eq(run_refine(s, w, NULL, &o, NULL, &out), BB_INFEASIBLE);
    ck_assert_ptr_nonnull(strstr(refusal, "99 bytes"));
    bb_archive_done(&out.archive);
    free(w);
    syn_free(s);
}
END_TEST

/* Allocation failures anywhere: BB_NOMEM, nothing left behind; the count grows geometrically because a run makes thousands. */
START_TEST(survives_allocation_failures)
{
    syn_problem *s = syn_transformer(1, 1, 4, 2);
    syn_world   *w = syn_world_new(&s->p, 1, 1, 0.3);
    const size_t before = bb_mem_live_bytes();
    int64_t      budget = 300000;
    for (long n = 0;; n += 1 + n / 12) {
        bb_search  o = { .seed = 1, .budgets = &budget, .n_budgets = 1, .stop.max_rounds = 1, .candidates = 3 };
        bb_archive archive;
        bb_mem_fail_after(n);
        const bb_status st = syn_search(&bb_method_refine, &s->p, &w->e, NULL, NULL, &o, &archive, NULL, NULL);
        bb_mem_fail_after(-1);
        bb_archive_done(&archive);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
        if (st == BB_OK) break;
        ck_assert_int_eq(st, BB_NOMEM);
    }
    free(w);
    syn_free(s);
}
END_TEST

int main(void)
{
    gsl_set_error_handler_off();
    Suite *s = suite_create("search_refine");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, ledger_evaluates_nothing_twice_and_survives_reopening);
    tcase_add_test(t, ledger_lists_everything_in_hash_order);
    tcase_add_test(t, a_damaged_entry_is_refused);
    tcase_add_test(t, a_ledger_weighs_what_it_answers);
    tcase_add_test(t, a_tilt_takes_shares_back);
    tcase_add_test(t, only_where_there_are_shares_are_they_mutated);
    tcase_add_test(t, the_best_of_a_pool_fits);
    tcase_add_test(t, surrogate_learns_hidden_factors);
    tcase_add_loop_test(t, pair_moves_equal_a_full_double_loop, 0, 6);
    tcase_add_loop_test(t, refinement_beats_the_separable_plan_and_keeps_every_promise, 0, 2);
    tcase_add_test(t, local_scores_pay_for_themselves);
    tcase_add_test(t, same_archive_for_any_threads_and_any_kill_point);
    tcase_add_test(t, what_is_not_clearly_better_gives_way_to_the_separable_plan);
    tcase_add_test(t, a_budget_that_gains_nothing_is_settled);
    tcase_add_test(t, many_budgets_are_settled_later);
    tcase_add_test(t, one_unit_one_level_and_impossible_budgets);
    tcase_add_test(t, survives_allocation_failures);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
