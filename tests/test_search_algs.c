/* SPDX-License-Identifier: GPL-3.0-or-later
 * test_search_algs.c: every registered algorithm on problems whose answers are known, against random at equal evaluations. */
#include <check.h>
#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "search/algs/algorithm.h"
#include "search/algs/rbf.h"
#include "search/moves.h"
#include "search/separable.h"
#include "search/space.h"
#include "tests/support/synthetic.h"

/* ---- evaluators without noise, one window ---- */

typedef struct plain {
    const bb_problem *p;
    double (*kl)(const bb_problem *p, const uint16_t *x);
    bb_evaluator e;
    uint64_t     n;
} plain;

static bb_status plain_evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    plain *w = self;
    (void)level, (void)err;
    for (size_t i = 0; i < n; i++) {
        out[i] = (bb_score) { .kl = w->kl(w->p, x[i]), .tokens = 1 };
        if (window_kl && window_kl[i]) window_kl[i][0] = out[i].kl;
        w->n++;
    }
    return BB_OK;
}

static plain *plain_new(const bb_problem *p, double (*kl)(const bb_problem *, const uint16_t *))
{
    static const uint32_t n_windows[1] = { 1 };
    plain                *w = calloc(1, sizeof *w);
    *w = (plain) { .p = p, .kl = kl };
    w->e = (bb_evaluator) { .self = w, .n_levels = 1, .n_windows = n_windows, .evaluate = plain_evaluate, .key = "plain" };
    return w;
}

typedef struct run {
    bb_archive     archive;
    bb_stop_reason why;
    uint64_t       asked;
    double         tokens;
    bb_status      status;
} run;

/* The methods that ask and tell. NULL past the end. */
static const bb_search_method *asker(size_t i)
{
    for (size_t k = 0; bb_method_at(k); k++)
        if (bb_method_at(k)->algorithm && i-- == 0) return bb_method_at(k);
    return NULL;
}

static run go(const bb_search_method *a, const bb_problem *p, const bb_evaluator *e, const int64_t *budgets, size_t n_budgets, uint64_t evaluations,
              uint64_t seed)
{
    run        r = { 0 };
    bb_ledger *l;
    bb_search  s = { .budgets = budgets, .n_budgets = n_budgets, .seed = seed, .stop.max_evaluations = evaluations, .one_level = e->n_levels > 1 ? 2 : 1 };
    r.status = syn_search(a, p, e, NULL, NULL, &s, &r.archive, &l, NULL);
    r.why = s.why;
    r.asked = bb_ledger_asked(l);
    r.tokens = bb_ledger_tokens(l);
    ck_assert(syn_is_front(&r.archive));
    for (size_t i = 0; i < r.archive.n; i++) ck_assert_int_le(bb_problem_size(p, r.archive.entries[i].x), budgets[n_budgets - 1]);
    bb_ledger_close(l);
    return r;
}

static double best_of(const bb_search_method *a, const bb_problem *p, const bb_evaluator *e, int64_t budget, uint64_t evaluations, uint64_t seed)
{
    run                     r = go(a, p, e, &budget, 1, evaluations, seed);
    const bb_archive_entry *best = bb_archive_best(&r.archive, budget);
    const double            kl = best ? best->score.kl : HUGE_VAL;
    ck_assert_int_eq(r.status, BB_OK);
    bb_archive_done(&r.archive);
    return kl;
}

/* ---- knapsacks ---- */

static bool next_candidate(const bb_problem *p, uint16_t *x)
{
    for (uint32_t u = 0; u < p->n_units; u++) {
        if (++x[u] < p->units[u].n_options) return true;
        x[u] = 0;
    }
    return false;
}

START_TEST(small_knapsacks_are_nearly_solved)
{
    for (size_t i = 0; asker(i); i++) {
        const bb_search_method *a = asker(i);
        if (a == &bb_method_random) continue;
        int solved = 0, total = 0;
        for (uint64_t seed = 0; seed < 6; seed++) {
            syn_problem  *s = syn_transformer(seed, 1, 4, 2); /* 2^2 4^8 plans */
            uint16_t      x[SYN_MAX_UNITS] = { 0 };
            double        best = HUGE_VAL;
            const int64_t budget = 150000 + 50000 * (int64_t)seed;
            do {
                if (bb_problem_bound(&s->p, x) <= budget) best = fmin(best, bb_problem_cost(&s->p, x));
            } while (next_candidate(&s->p, x));
            plain *w = plain_new(&s->p, bb_problem_cost);
            if (!isinf(best)) {
                const double ratio = best_of(a, &s->p, &w->e, budget, a == &bb_method_amq ? 200 : 1000, seed) / best;
                if (getenv("BB_VERBOSE")) printf("%s %.3f\n", a->name, ratio);
                solved += ratio <= 1.15; /* level switches have local optima */
                total++;
            }
            free(w);
            syn_free(s);
        }
        if (getenv("BB_VERBOSE")) printf("knapsack %s: %d of %d\n", a->name, solved, total);
        ck_assert_msg(total >= 4 && solved >= total - 1, "%s solved %d of %d", a->name, solved, total);
    }
}
END_TEST

/* ---- against random ---- */

/* Deceptive: every block of three units prefers all zero, step by step, but the best is all ones. */
static double trap(const bb_problem *p, const uint16_t *x)
{
    double total = 0.01;
    for (uint32_t b = 0; b + 3 <= p->n_units; b += 3) {
        const int ones = (x[b] == 3) + (x[b + 1] == 3) + (x[b + 2] == 3);
        total += ones == 3 ? 0 : 1 + ones;
    }
    return total;
}

static syn_problem *flat(uint32_t n_units, uint32_t n_options)
{
    syn_problem *s = syn_new();
    for (uint32_t i = 0; i < n_units; i++) {
        const uint32_t u = syn_add(s, n_options, -1);
        for (uint32_t o = 0; o < n_options; o++) s->bytes[u][o] = 32 * (int64_t)o;
    }
    return s;
}

/* Geometric mean of the KL at five budgets from n evaluations a budget: a run each, or one run for all. */
static double front_of(const bb_search_method *a, const bb_problem *p, const bb_evaluator *e, uint64_t n, uint64_t seed)
{
    const int64_t budgets[5] = { 300000, 400000, 500000, 650000, 800000 };
    double        sum = 0;
    if (!a->whole_front || a == &bb_method_random) {
        for (int b = 0; b < 5; b++) sum += log(best_of(a, p, e, budgets[b], n, seed)) / 5;
        return exp(sum);
    }
    run r = go(a, p, e, budgets, 5, 5 * n, seed);
    for (int b = 0; b < 5; b++) {
        const bb_archive_entry *best = bb_archive_best(&r.archive, budgets[b]);
        sum += log(best ? best->score.kl : 1e9) / 5;
    }
    bb_archive_done(&r.archive);
    return exp(sum);
}

START_TEST(random_is_beaten_on_every_space)
{
    for (size_t i = 0; asker(i); i++) {
        const bb_search_method *a = asker(i);
        if (a == &bb_method_random) continue;
        const uint64_t n = a == &bb_method_amq ? 40 : 400; /* the surrogate needs few, and its own time grows with their cube */
        const uint64_t m = a == &bb_method_amq ? 150 : 500;
        double         ratio[3] = { 0, 0, 0 };
        for (uint64_t seed = 0; seed < 2; seed++) {
            syn_problem *s = syn_transformer(40 + seed, 3, 8, 4);
            syn_world   *w = syn_world_new(&s->p, seed, 1.5, 0.5);
            plain       *k = plain_new(&s->p, bb_problem_cost);
            ratio[0] += log(front_of(a, &s->p, &w->e, n, seed) / front_of(&bb_method_random, &s->p, &w->e, n, seed)) / 2;
            ratio[1] += log(front_of(a, &s->p, &k->e, n, seed) / front_of(&bb_method_random, &s->p, &k->e, n, seed)) / 2;
            free(w);
            free(k);
            syn_free(s);
            syn_problem *t = flat(12, 4);
            plain       *d = plain_new(&t->p, trap);
            ratio[2] += log(best_of(a, &t->p, &d->e, 32 * 3 * 9, m, seed) / best_of(&bb_method_random, &t->p, &d->e, 32 * 3 * 9, m, seed)) / 2;
            free(d);
            syn_free(t);
        }
        if (getenv("BB_VERBOSE"))
            printf("%s: KL relative to random's: world %.3f, knapsack %.3f, trap %.3f\n", a->name, exp(ratio[0]), exp(ratio[1]), exp(ratio[2]));
        for (int k = 0; k < 3; k++) ck_assert_msg(ratio[k] < 0, "%s does not beat random on space %d: %g", a->name, k, exp(ratio[k]));
    }
}
END_TEST

/* ---- fronts: ZDT1-3 and DTLZ2 with bytes as the first objective, in steps of 1/1000 ---- */

enum { ZDT_UNITS = 8, ZDT_OPTIONS = 20 };

static double value_of(const uint16_t *x, uint32_t u) { return (double)x[u] / (ZDT_OPTIONS - 1); }

static double zdt_g(const uint16_t *x)
{
    double sum = 0;
    for (uint32_t u = 1; u < ZDT_UNITS; u++) sum += value_of(x, u);
    return 1 + 9 * sum / (ZDT_UNITS - 1);
}

static double zdt1(const bb_problem *p, const uint16_t *x)
{
    (void)p;
    const double g = zdt_g(x);
    return g * (1 - sqrt(value_of(x, 0) / g));
}

static double zdt2(const bb_problem *p, const uint16_t *x)
{
    (void)p;
    const double g = zdt_g(x), f = value_of(x, 0) / g;
    return g * (1 - f * f);
}

static double zdt3(const bb_problem *p, const uint16_t *x)
{
    (void)p;
    const double g = zdt_g(x), f = value_of(x, 0);
    return 1 + g * (1 - sqrt(f / g) - f / g * sin(31.41592653589793 * f)); /* + 1: never negative here */
}

static double dtlz2_g(const uint16_t *x)
{
    double sum = 0;
    for (uint32_t u = 1; u < ZDT_UNITS; u++) sum += (value_of(x, u) - 0.5) * (value_of(x, u) - 0.5);
    return 1 + sum;
}

static double dtlz2(const bb_problem *p, const uint16_t *x)
{
    (void)p;
    return dtlz2_g(x) * cos(1.5707963267948966 * value_of(x, 0)); /* f1 (the bytes) takes the sine */
}

static int64_t zdt_size(void *self, const uint16_t *x)
{
    (void)self;
    return (int64_t)(1000 * value_of(x, 0));
}

static int64_t dtlz2_size(void *self, const uint16_t *x)
{
    (void)self;
    return (int64_t)(1000 * dtlz2_g(x) * sin(1.5707963267948966 * value_of(x, 0)));
}

START_TEST(fronts_of_known_shape)
{
    static double (*const kl[4])(const bb_problem *, const uint16_t *) = { zdt1, zdt2, zdt3, dtlz2 };
    static const char *const names[4] = { "ZDT1", "ZDT2", "ZDT3", "DTLZ2" };
    syn_problem             *s = flat(ZDT_UNITS, ZDT_OPTIONS);
    for (uint32_t u = 0; u < ZDT_UNITS; u++)
        for (uint32_t o = 0; o < ZDT_OPTIONS; o++) s->bytes[u][o] = u == 0 ? 60 * o + 1500 : 20 * o; /* an upper bound of every size */
    s->p.size = _i == 3 ? dtlz2_size : zdt_size;
    plain  *w = plain_new(&s->p, kl[_i]);
    int64_t budgets[8];
    for (int b = 0; b < 8; b++) budgets[b] = 1000 * (b + 1) / 8;
    double     exact = 0; /* the best possible: g at its minimum */
    uint16_t   x[ZDT_UNITS] = { 0 };
    bb_archive ideal;
    bb_archive_init(&ideal, ZDT_UNITS);
    for (uint32_t u = 1; u < ZDT_UNITS; u++) x[u] = _i == 3 ? ZDT_OPTIONS / 2 : 0;
    for (x[0] = 0; x[0] < ZDT_OPTIONS; x[0]++) {
        bb_archive_entry e = { .x = x, .size_bytes = bb_problem_size(&s->p, x), .score.kl = kl[_i](&s->p, x) };
        ck_assert_int_eq(bb_archive_insert(&ideal, &e, NULL, NULL), BB_OK);
    }
    exact = syn_hypervolume(&ideal, 1100, 3);
    bb_archive_done(&ideal);
    for (size_t i = 0; asker(i); i++) {
        const bb_search_method *a = asker(i), *pair[2] = { a, &bb_method_random };
        if (!a->whole_front || a == &bb_method_random) continue;
        double volume[2] = { 0, 0 };
        for (uint64_t k = 0; k < 4; k++) { /* two seeds each */
            run r = go(pair[k % 2], &s->p, &w->e, budgets, 8, a == &bb_method_amq ? 150 : 400, k / 2);
            ck_assert_int_eq(r.status, BB_OK);
            volume[k % 2] += syn_hypervolume(&r.archive, 1100, 3) / 2;
            bb_archive_done(&r.archive);
        }
        if (getenv("BB_VERBOSE"))
            printf("%s %s: hypervolume %.1f %% of the exact front, random %.1f %%\n", names[_i], a->name, 100 * volume[0] / exact, 100 * volume[1] / exact);
        ck_assert_double_le(volume[0], exact * 1.0000001);
        ck_assert_double_gt(volume[0], volume[1]);
    }
    free(w);
    syn_free(s);
}
END_TEST

/* ---- edges ---- */

static double all_equal(const bb_problem *p, const uint16_t *x)
{
    (void)p, (void)x;
    return 0.5;
}

START_TEST(edges_end_by_themselves)
{
    for (size_t i = 0; asker(i); i++) {
        const bb_search_method *a = asker(i);
        int64_t                 budget = 64;
        /* one unit of three options: everything is soon known, and the run stalls or ends */
        syn_problem *s = flat(1, 4);
        plain       *w = plain_new(&s->p, all_equal);
        run          r = go(a, &s->p, &w->e, &budget, 1, 0, 1);
        ck_assert_int_eq(r.status, BB_OK);
        ck_assert_uint_le(r.asked, 3);
        ck_assert(r.why == BB_STOP_STALL || r.why == BB_STOP_DONE);
        ck_assert_uint_eq(r.archive.n, 1);
        bb_archive_done(&r.archive);
        /* nothing fits */
        budget = -1;
        r = go(a, &s->p, &w->e, &budget, 1, 0, 1);
        ck_assert(r.status == BB_INFEASIBLE || (r.status == BB_OK && r.archive.n == 0));
        bb_archive_done(&r.archive);
        free(w);
        syn_free(s);
        /* all scores equal */
        s = flat(10, 4);
        w = plain_new(&s->p, all_equal);
        budget = 500;
        r = go(a, &s->p, &w->e, &budget, 1, 200, 1);
        ck_assert_int_eq(r.status, BB_OK);
        ck_assert_double_eq(r.archive.entries[0].score.kl, 0.5);
        bb_archive_done(&r.archive);
        free(w);
        syn_free(s);
    }
}
END_TEST

/* ---- evopress by hand: elitism, and the plans that it is given ---- */

static uint32_t units_apart(const uint16_t *a, const uint16_t *b, uint32_t n)
{
    uint32_t apart = 0;
    for (uint32_t u = 0; u < n; u++) apart += a[u] != b[u];
    return apart;
}

/* Nothing beats the plan it was given, by any level: it must stay the parent, stand in every last level, and all offspring be a few switches away. */
START_TEST(evopress_keeps_the_best_parent)
{
    enum { N = 24, GENERATIONS = 12, MAX = 128 };
    syn_problem  *s = flat(N, 4);
    bb_space      space;
    uint16_t      best[N], x[MAX * N];
    bb_score      scores[MAX] = { { 0 } };
    void         *state;
    const int64_t budget = 32 * 2 * N;
    int           generations = 0;
    for (uint32_t u = 0; u < N; u++) best[u] = u % 2 ? 3 : 1;
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    const bb_algorithm_config c = {
        .space = &space, .budgets = &budget, .n_budgets = 1, .seed = 3, .n_levels = 3, .population = 16, .starts = best, .n_starts = 1
    };
    ck_assert_int_eq(bb_method_evopress.algorithm->create(&c, &state, NULL), BB_OK);
    while (generations < GENERATIONS) {
        uint32_t     level, least = N, most = 0;
        const size_t n = bb_method_evopress.algorithm->ask(state, x, MAX, &level);
        ck_assert_uint_gt(n, 0);
        for (size_t i = 0; i < n; i++) {
            const uint32_t apart = units_apart(x + i * N, best, N);
            least = apart < least ? apart : least;
            most = apart > most ? apart : most;
            scores[i].kl = 1 + apart;
        }
        if (generations > 0) ck_assert_uint_le(most, 6); /* three switches of two units each */
        if (level == 2) {
            ck_assert_uint_eq(least, 0);
            generations++;
        } else if (generations > 0) ck_assert_uint_eq(n, level == 0 ? 16 : 2);
        ck_assert_int_eq(bb_method_evopress.algorithm->tell(state, scores, n, NULL), BB_OK);
    }
    bb_method_evopress.algorithm->destroy(state);
    bb_space_done(&space);
    syn_free(s);
}
END_TEST

/* lambda offspring at level 0, lambda / 8 at level 1, lambda / 32 and the parent at level 2. */
START_TEST(evopress_has_its_funnel)
{
    enum { N = 24, LAMBDA = 64, MAX = 128 };
    syn_problem  *s = flat(N, 4);
    bb_space      space;
    uint16_t      x[MAX * N];
    bb_score      scores[MAX] = { { 0 } };
    void         *state;
    const int64_t budget = 32 * 2 * N;
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    const bb_algorithm_config c = { .space = &space, .budgets = &budget, .n_budgets = 1, .seed = 3, .n_levels = 3, .population = LAMBDA };
    ck_assert_int_eq(bb_method_evopress.algorithm->create(&c, &state, NULL), BB_OK);
    for (int stage = 0; stage < 9; stage++) {
        uint32_t     level;
        const size_t n = bb_method_evopress.algorithm->ask(state, x, MAX, &level), wanted[3] = { LAMBDA, LAMBDA / 8, LAMBDA / 32 + (stage > 2) };
        ck_assert_uint_eq(level, (uint32_t)stage % 3);
        ck_assert_uint_eq(n, wanted[level]);
        for (size_t i = 0; i < n; i++) scores[i].kl = (double)i;
        ck_assert_int_eq(bb_method_evopress.algorithm->tell(state, scores, n, NULL), BB_OK);
    }
    bb_method_evopress.algorithm->destroy(state);
    bb_space_done(&space);
    syn_free(s);
}
END_TEST

/* Levels below the last prefer what is bad: the plan that was given must come out no worse all the same. */
static bb_status lying_evaluate(void *self, const uint16_t *const *x, size_t n, uint32_t level, bb_score *out, double *const *window_kl, bb_err *err)
{
    const bb_status status = plain_evaluate(self, x, n, level, out, window_kl, err);
    for (size_t i = 0; level < 2 && i < n; i++) {
        out[i].kl = 1 / (1e-6 + out[i].kl);
        if (window_kl && window_kl[i]) window_kl[i][0] = out[i].kl;
    }
    return status;
}

START_TEST(no_start_is_lost)
{
    static const uint32_t n_windows[3] = { 1, 1, 1 };
    for (uint64_t seed = 0; seed < 4; seed++) {
        syn_problem   *s = syn_transformer(80 + seed, 3, 8, 4);
        plain         *w = plain_new(&s->p, bb_problem_cost);
        uint16_t       start[2 * SYN_MAX_UNITS];
        bb_archive     archive;
        const uint32_t n = s->p.n_units;
        for (uint32_t u = 0; u < n; u++) {
            start[u] = s->units[u].n_options == 8 ? 3 : 0; /* one format, nothing pruned; a better one, as second */
            start[n + u] = s->units[u].n_options == 8 ? 4 : 0;
        }
        const int64_t budget = bb_problem_size(&s->p, start + n);
        ck_assert_double_lt(bb_problem_cost(&s->p, start + n), bb_problem_cost(&s->p, start));
        w->e.n_levels = 3;
        w->e.n_windows = n_windows;
        w->e.evaluate = lying_evaluate;
        bb_search o = { .budgets = &budget, .n_budgets = 1, .seed = seed, .candidates = 16, .starts = start, .n_starts = 2, .stop.max_evaluations = 300 };
        ck_assert_int_eq(syn_search(&bb_method_evopress, &s->p, &w->e, NULL, NULL, &o, &archive, NULL, NULL), BB_OK);
        ck_assert_double_le(bb_archive_best(&archive, budget)->score.kl, bb_problem_cost(&s->p, start + n));
        bb_archive_done(&archive);
        free(w);
        syn_free(s);
    }
}
END_TEST

/* A narrower sublayer is smaller, but its rows take no format as small as a wide one's: single steps down end in either, and whole plans hardly ever in all
 * narrow ones. Drawing again comes to an end all the same. */
START_TEST(draws_near_the_smallest_size_end)
{
    enum { BLOCKS = 32 };
    syn_problem  *s = syn_new();
    bb_space      space;
    bb_separable *sep;
    bb_rng        rng;
    uint16_t      x[2 * BLOCKS];
    int64_t       least, most;
    for (int l = 0; l < BLOCKS; l++) {
        const uint32_t c = syn_add(s, 2, -1), w = syn_add(s, 2, (int32_t)c);
        s->bytes[w][0] = 2600;
        s->bytes[w][1] = 4500;
        s->bytes[w][2] = BB_FORBIDDEN;
        s->bytes[w][3] = 2250;
    }
    bb_rng_init(&rng, 1, "draws");
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    bb_separable_reach(sep, &least, &most);
    ck_assert_int_eq(least, 2250 * BLOCKS);
    ck_assert(!bb_moves_random_fit_in(&space, &rng, least, 500, x));
    ck_assert(bb_moves_random_fit_in(&space, &rng, 2600 * BLOCKS, 500, x));
    ck_assert_int_le(bb_problem_size(&s->p, x), 2600 * BLOCKS);
    bb_separable_destroy(sep);
    bb_space_done(&space);
    syn_free(s);
}
END_TEST

/* All plans of a generation are scored, however many. */
START_TEST(generations_may_be_large)
{
    static const uint32_t n_windows[3] = { 1, 1, 1 };
    syn_problem          *s = flat(40, 4);
    plain                *w = plain_new(&s->p, bb_problem_cost);
    const int64_t         budget = 32 * 2 * 40;
    bb_archive            archive;
    bb_ledger            *l;
    w->e.n_levels = 3;
    w->e.n_windows = n_windows;
    bb_search o = { .budgets = &budget, .n_budgets = 1, .seed = 1, .candidates = 2000, .stop.max_evaluations = 1 };
    ck_assert_int_eq(syn_search(&bb_method_evopress, &s->p, &w->e, NULL, NULL, &o, &archive, &l, NULL), BB_OK);
    ck_assert_uint_ge(bb_ledger_asked(l), 2000);
    bb_ledger_close(l);
    bb_archive_done(&archive);
    free(w);
    syn_free(s);
}
END_TEST

/* Given the optimum, every algorithm that takes a start has it in the end; of itself none finds it in as few evaluations. */
START_TEST(what_is_given_is_used)
{
    static const bb_search_method *const algorithms[] = { &bb_method_evopress, &bb_method_annealing, &bb_method_nsga2, &bb_method_amq };
    for (size_t i = 0; i < 4; i++)
        for (size_t given = 0; given < 2; given++) {
            syn_problem  *s = syn_transformer(90, 3, 8, 4);
            plain        *w = plain_new(&s->p, bb_problem_cost);
            const int64_t budget = 500000;
            uint16_t      best[SYN_MAX_UNITS];
            bb_separable *sep;
            bb_archive    archive;
            ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
            ck_assert_int_eq(bb_separable_solve(sep, budget, best, NULL, NULL), BB_OK);
            bb_search o = { .budgets = &budget, .n_budgets = 1, .seed = 1, .starts = best, .n_starts = given, .stop.max_evaluations = 60 };
            ck_assert_int_eq(syn_search(algorithms[i], &s->p, &w->e, NULL, NULL, &o, &archive, NULL, NULL), BB_OK);
            const double ratio = bb_archive_best(&archive, budget)->score.kl / bb_problem_cost(&s->p, best);
            ck_assert_msg(given ? ratio <= 1 : ratio > 1.05, "%s: %g", algorithms[i]->name, ratio);
            bb_archive_done(&archive);
            bb_separable_destroy(sep);
            free(w);
            syn_free(s);
        }
}
END_TEST

/* In one dimension the interpolation is the natural cubic spline; in any, it gives linear functions back. */
START_TEST(amq_interpolates)
{
    const double z[3] = { 0, 10, 20 };
    double       w[5] = { 0, 1, 0 };
    ck_assert_int_eq(bb_rbf_fit(z, 3, 1, w, NULL), BB_OK);
    for (int i = 0; i <= 20; i++) {
        const double at = i, t = i <= 10 ? i / 10.0 : 2 - i / 10.0;
        ck_assert_double_eq_tol(bb_rbf_at(z, 3, 1, w, &at), 1.5 * t - 0.5 * t * t * t, 1e-3); /* regularised */
    }
    enum { N = 20, D = 4 };
    static const double slope[D] = { 1, -2, 0.5, 3 };
    double              points[N * D], weights[N + D + 1];
    bb_rng              r;
    bb_rng_init(&r, 1, "points");
    for (int i = 0; i < N; i++) {
        weights[i] = 7;
        for (int k = 0; k < D; k++) weights[i] += slope[k] * (points[i * D + k] = bb_rng_uniform(&r));
    }
    ck_assert_int_eq(bb_rbf_fit(points, N, D, weights, NULL), BB_OK);
    for (int i = 0; i < 50; i++) {
        double at[D], want = 7;
        for (int k = 0; k < D; k++) want += slope[k] * (at[k] = bb_rng_uniform(&r));
        ck_assert_double_eq_tol(bb_rbf_at(points, N, D, weights, at), want, 1e-4);
    }
}
END_TEST

/* It models log KL: squared scores are twice the logarithms, a linear change, so that the same plans are proposed. */
START_TEST(amq_works_on_logarithms)
{
    syn_problem *s = syn_transformer(60, 2, 6, 3);
    bb_space     space;
    int64_t      budget = 400000;
    void        *state[2];
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    const bb_algorithm_config c = { .space = &space, .budgets = &budget, .n_budgets = 1, .seed = 3, .n_levels = 1, .horizon = 100 };
    for (int k = 0; k < 2; k++) ck_assert_int_eq(bb_method_amq.algorithm->create(&c, &state[k], NULL), BB_OK);
    for (int round = 0; round < 3; round++) {
        static uint16_t x[2][200 * SYN_MAX_UNITS];
        static bb_score score[2][200];
        uint32_t        level;
        const size_t    n = bb_method_amq.algorithm->ask(state[0], x[0], 200, &level), m = bb_method_amq.algorithm->ask(state[1], x[1], 200, &level);
        ck_assert_uint_eq(n, m);
        ck_assert_uint_gt(n, 0);
        ck_assert_mem_eq(x[0], x[1], n * s->p.n_units * sizeof **x);
        for (size_t i = 0; i < n; i++) {
            const double cost = bb_problem_cost(&s->p, x[0] + i * s->p.n_units);
            score[0][i] = (bb_score) { .kl = cost };
            score[1][i] = (bb_score) { .kl = cost * cost };
        }
        for (int k = 0; k < 2; k++) ck_assert_int_eq(bb_method_amq.algorithm->tell(state[k], score[k], n, NULL), BB_OK);
    }
    for (int k = 0; k < 2; k++) bb_method_amq.algorithm->destroy(state[k]);
    bb_space_done(&space);
    syn_free(s);
}
END_TEST

START_TEST(same_seed_same_answer)
{
    syn_problem *s = syn_transformer(60, 2, 6, 3);
    syn_world   *w = syn_world_new(&s->p, 1, 1, 0.5);
    for (size_t i = 0; asker(i); i++) {
        const int64_t budget = 400000;
        run           a = go(asker(i), &s->p, &w->e, &budget, 1, 150, 9), b = go(asker(i), &s->p, &w->e, &budget, 1, 150, 9);
        ck_assert_uint_eq(a.archive.n, b.archive.n);
        for (size_t k = 0; k < a.archive.n; k++) ck_assert_str_eq(a.archive.entries[k].hash, b.archive.entries[k].hash);
        ck_assert_double_eq(a.tokens, b.tokens);
        bb_archive_done(&a.archive);
        bb_archive_done(&b.archive);
        ck_assert_ptr_eq(bb_method_named(asker(i)->name), asker(i));
    }
    ck_assert_ptr_null(bb_method_named("nonsense"));
    free(w);
    syn_free(s);
}
END_TEST

/* ---- the table of methods ---- */

/* Two "formats" for all, as the engine would name them: the dearer one first, so that scores have to tell. */
static bb_status two_uniform_plans(void *self, int64_t budget, size_t max, uint16_t *x, char (*names)[BB_SOURCE], size_t *n, bb_err *err)
{
    const bb_problem *p = self;
    (void)err;
    *n = 0;
    for (uint16_t o = 2; o < 4 && *n < max; o++) {
        uint16_t *y = x + *n * p->n_units;
        for (uint32_t u = 0; u < p->n_units; u++) y[u] = p->units[u].n_options > 4 ? o : 0;
        if (bb_problem_size(p, y) <= budget) snprintf(names[(*n)++], BB_SOURCE, "uniform o%02u", o);
    }
    return BB_OK;
}

/* Memory that is short is no size at which there are none: a search without them would be another one. */
static bb_status no_memory_for_plans(void *self, int64_t budget, size_t max, uint16_t *x, char (*names)[BB_SOURCE], size_t *n, bb_err *err)
{
    (void)self, (void)budget, (void)max, (void)x, (void)names;
    *n = 0;
    return BB_FAIL(err, BB_NOMEM, "no memory for uniform plans");
}

/* bb_search.learned: a given plan, at a given price; NULL: the dearest option of every unit, which no budget allows. */
typedef struct learned_plan {
    const bb_problem *p;
    const uint16_t   *x;
    double            tokens; /* of all calls */
} learned_plan;

static bb_status learn_plan(void *self, int64_t budget, double max_tokens, uint16_t *x, double *tokens, bb_err *err)
{
    learned_plan *l = self;
    (void)budget, (void)err;
    ck_assert_double_ge(max_tokens, 0);
    for (uint32_t u = 0; u < l->p->n_units; u++) x[u] = l->x ? l->x[u] : (uint16_t)(l->p->units[u].n_options - 1);
    *tokens = 5000;
    l->tokens += *tokens;
    return BB_OK;
}

/* Every row, given all that a context can hold, answers for every budget that it can meet, with its name or a uniform plan's, as bytes and ledger say. */
START_TEST(every_method_answers_every_budget)
{
    enum { B = 3 };
    int64_t       budgets[B], least, most;
    syn_problem  *s = syn_transformer(71, 2, 6, 3);
    syn_world    *w = syn_world_new(&s->p, 4, 1, 0.4);
    bb_space      space;
    bb_separable *sep;
    uint16_t      source[SYN_MAX_UNITS], x[SYN_MAX_UNITS];
    double        separable[B];
    ck_assert_int_eq(bb_space_init(&s->p, &space, NULL), BB_OK);
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    bb_separable_reach(sep, &least, &most);
    for (int b = 0; b < B; b++) budgets[b] = least + (most - least) * (b == 0 ? 3 : b == 1 ? 8 : 6) / 10;
    const size_t  M = space.offset[s->p.n_units];
    float        *gram = calloc(M * M, sizeof *gram);
    const double *linear[SYN_MAX_UNITS];
    for (uint32_t u = 0; u < s->p.n_units; u++) {
        source[u] = (uint16_t)(bb_space_is_controller(&space, u) ? bb_space_widest(&space, u) : s->units[u].n_options - 1);
        linear[u] = s->units[u].cost;
    }
    const bb_quadratic quadratic = { .space = &space, .gram = gram, .linear = linear }; /* without interactions: the separable score */
    for (int b = 0; b < B; b++) {
        ck_assert_int_eq(bb_separable_solve(sep, budgets[b], x, NULL, NULL), BB_OK);
        separable[b] = bb_problem_cost(&s->p, x);
    }
    syn_gradient slopes = { .w = w };
    learned_plan learned = { .p = &s->p };
    for (size_t i = 0; bb_method_at(i); i++) {
        const bb_search_method *m = bb_method_at(i);
        bb_search               o = { .budgets = budgets,
                                      .n_budgets = B,
                                      .seed = 3,
                                      .stop.max_tokens = 1e6,
                                      .window_tokens = 256,
                                      .source = source,
                                      .uniform = two_uniform_plans,
                                      .uniform_self = &s->p,
                                      .uniform_level = 1,
                                      .quadratic = m->needs_quadratic ? &quadratic : NULL,
                                      .gradient = m->needs_gradient ? syn_gradient_at : NULL,
                                      .gradient_self = &slopes,
                                      .gradient_cost = { 768 * 8, 1280 * 8 },
                                      .batch_cost = 1024 * 8,
                                      .learned = m->needs_learned ? learn_plan : NULL,
                                      .learned_self = &learned };
        bb_archive              archive;
        bb_ledger              *l;
        bb_err                  err = BB_ERR_INIT;
        ck_assert_ptr_eq(bb_method_named(m->name), m);
        ck_assert(m->run && *m->reference && (m->plan || !m->simple) && (!m->algorithm || m->run == bb_method_drive));
        ck_assert_msg(syn_search(m, &s->p, &w->e, NULL, NULL, &o, &archive, &l, &err) == BB_OK, "%s: %s", m->name, err.msg);
        ck_assert(syn_is_front(&archive));
        if (m->needs_gradient) {
            ck_assert(slopes.n_calls >= B && o.other_tokens == slopes.tokens && slopes.tokens > 0);
            slopes.tokens = 0;
            slopes.n_calls = 0;
        }
        if (m->needs_learned) ck_assert(learned.tokens >= B * 5000 && o.other_tokens == learned.tokens);
        const double spent = bb_ledger_tokens(l) + o.other_tokens;
        if (!m->plan) ck_assert_msg(spent >= (m->algorithm ? 0.9e6 : 0.3e6) && spent <= 1.5e6, "%s: %g tokens", m->name, spent);
        for (int b = 0; b < B; b++) {
            const bb_archive_entry *best = bb_archive_best(&archive, budgets[b]);
            if (m == &bb_method_pruning) continue; /* may be out of reach */
            if (m == &bb_method_uniform) {
                uint16_t        two[BB_N_UNIFORM * SYN_MAX_UNITS];
                char            names[BB_N_UNIFORM][BB_SOURCE];
                size_t          n;
                const uint16_t *px[2] = { two, two + s->p.n_units };
                bb_score        score[2] = { { .kl = HUGE_VAL }, { .kl = HUGE_VAL } };
                ck_assert_int_eq(two_uniform_plans(&s->p, budgets[b], 2, two, names, &n, NULL), BB_OK);
                ck_assert(n > 0 || b == 0);
                ck_assert_int_eq(syn_evaluate(w, px, n, 1, score, NULL, NULL), BB_OK);
                if (n == 0) continue;
                ck_assert_ptr_nonnull(best);
                ck_assert_str_eq(best->source, names[score[1].kl < score[0].kl]);
            }
            ck_assert_msg(best != NULL, "%s: nothing for %lld bytes", m->name, (long long)budgets[b]);
            ck_assert_int_le(bb_problem_size(&s->p, best->x), budgets[b]);
            if (m == &bb_method_quantization) ck_assert_str_eq(best->source, "quantization only, separable");
            else if (m != &bb_method_uniform && (m->plan || m->algorithm)) ck_assert_str_eq(best->source, m->name);
        }
        uint32_t moved[2] = { 0, 0 }; /* controllers, and what they control, that are not as in the source */
        for (size_t k = 0; k < archive.n; k++)
            for (uint32_t u = 0; u < s->p.n_units; u++) {
                moved[s->units[u].controller >= 0] += archive.entries[k].x[u] != source[u] &&
                                                      (s->units[u].controller >= 0 || bb_space_is_controller(&space, u));
                if (m == &bb_method_quantization && bb_space_is_controller(&space, u)) ck_assert_uint_eq(archive.entries[k].x[u], source[u]);
                if (m == &bb_method_pruning && s->units[u].controller >= 0) ck_assert_uint_eq(archive.entries[k].x[u], source[u]);
            }
        if (m == &bb_method_quantization) ck_assert_uint_gt(moved[1], 0);
        if (m == &bb_method_pruning && archive.n) ck_assert_uint_gt(moved[0], 0);
        for (int b = 0; b < B && m->plan; b++) { /* the plan at once is the plan of the run */
            bb_simple_plan plan = { .x = x };
            o.problem = &s->p;
            o.space = &space;
            o.separable = sep;
            o.ledger = o.uniform_ledger = l;
            ck_assert_int_eq(m->plan(m, &o, budgets[b], &plan, NULL), BB_OK);
            if (m == &bb_method_separable || m == &bb_method_quadratic) ck_assert_double_eq_tol(bb_problem_cost(&s->p, x), separable[b], 1e-3 * separable[b]);
            if (plan.found) ck_assert_int_le(bb_problem_size(&s->p, x), budgets[b]);
        }
        bb_archive_done(&archive);
        bb_ledger_close(l);
    }
    bb_search  bare = { .budgets = budgets, .n_budgets = B };
    bb_archive archive;
    ck_assert_int_eq(syn_search(&bb_method_quadratic, &s->p, &w->e, NULL, NULL, &bare, &archive, NULL, NULL), BB_UNSUPPORTED);
    bb_archive_done(&archive);
    ck_assert_int_eq(syn_search(&bb_method_uniform, &s->p, &w->e, NULL, NULL, &bare, &archive, NULL, NULL), BB_INFEASIBLE);
    bb_archive_done(&archive);
    ck_assert_int_eq(syn_search(&bb_method_newton, &s->p, &w->e, NULL, NULL, &bare, &archive, NULL, NULL), BB_UNSUPPORTED);
    bb_archive_done(&archive);
    ck_assert_int_eq(syn_search(&bb_method_toga, &s->p, &w->e, NULL, NULL, &bare, &archive, NULL, NULL), BB_UNSUPPORTED);
    bb_archive_done(&archive);
    syn_gradient_done(&slopes);
    free(gram);
    bb_separable_destroy(sep);
    bb_space_done(&space);
    free(w);
    syn_free(s);
}
END_TEST

/* A search of one size with gradients and hardly a round of refine behind them. */
static bb_search by_gradients(const int64_t *budget, const uint16_t *source, syn_gradient *slopes)
{
    return (bb_search) { .budgets = budget,
                         .n_budgets = 1,
                         .seed = 3,
                         .stop.max_tokens = 4.5e5,
                         .stop.max_rounds = 1,
                         .window_tokens = 256,
                         .source = source,
                         .candidates = 1,
                         .gradient = syn_gradient_at,
                         .gradient_self = slopes,
                         .gradient_cost = { 768 * 8, 1280 * 8 },
                         .batch_cost = 1024 * 8 };
}

START_TEST(plans_that_memory_is_short_for_end_a_search)
{
    const bb_search_method *const begin_with_them[] = { &bb_method_uniform, &bb_method_evopress, &bb_method_newton };
    syn_problem                  *s = syn_transformer(71, 2, 6, 3);
    syn_world                    *w = syn_world_new(&s->p, 4, 1, 0.4);
    const int64_t                 budget = 400000;
    syn_gradient                  slopes = { .w = w };
    uint16_t                      source[SYN_MAX_UNITS] = { 0 };
    for (size_t i = 0; i < sizeof begin_with_them / sizeof *begin_with_them; i++) {
        bb_search  o = by_gradients(&budget, source, &slopes);
        bb_archive archive;
        bb_err     err = BB_ERR_INIT;
        o.uniform = no_memory_for_plans;
        ck_assert_msg(syn_search(begin_with_them[i], &s->p, &w->e, NULL, NULL, &o, &archive, NULL, &err) == BB_NOMEM, "%s", begin_with_them[i]->name);
        ck_assert_str_eq(err.msg, "no memory for uniform plans");
        bb_archive_done(&archive);
    }
    syn_gradient_done(&slopes);
    free(w);
    syn_free(s);
}
END_TEST

/* A good plan that was learned is taken; one that is of no use does no harm: in both cases true scores decide. */
START_TEST(what_was_learned_is_proposed_and_does_not_decide)
{
    syn_problem                  *s = syn_transformer(72, 3, 6, 3);
    syn_world                    *w = syn_world_new(&s->p, 5, 0, 1.2);
    bb_separable                 *sep;
    int64_t                       budget, least, most;
    uint16_t                      x[SYN_MAX_UNITS], good[SYN_MAX_UNITS], source[SYN_MAX_UNITS] = { 0 };
    const uint16_t               *px = x;
    bb_score                      table = { 0 };
    double                        kl[3] = { 0 };
    syn_gradient                  slopes = { .w = w };
    learned_plan                  learned[] = { { .p = &s->p, .x = good }, { .p = &s->p } };
    const bb_search_method *const methods[] = { &bb_method_newton, &bb_method_toga, &bb_method_toga };
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    bb_separable_reach(sep, &least, &most);
    budget = least + (most - least) / 2;
    ck_assert_int_eq(bb_separable_solve(sep, budget, x, NULL, NULL), BB_OK);
    ck_assert_int_eq(syn_evaluate(w, &px, 1, 2, &table, NULL, NULL), BB_OK);
    for (uint32_t u = 0; u < s->p.n_units; u++)
        if (s->units[u].controller >= 0) source[u] = (uint16_t)(s->units[u].n_options - 1);
    for (int i = 0; i < 3; i++) {
        bb_search o = by_gradients(&budget, source, &slopes);
        o.learned = i ? learn_plan : NULL;
        o.learned_self = i ? &learned[i - 1] : NULL;
        bb_archive archive;
        ck_assert_int_eq(syn_search(methods[i], &s->p, &w->e, NULL, NULL, &o, &archive, NULL, NULL), BB_OK);
        const bb_archive_entry *best = bb_archive_best(&archive, budget);
        ck_assert_ptr_nonnull(best);
        ck_assert_int_le(best->size_bytes, budget);
        kl[i] = best->score.kl;
        if (i == 0) memcpy(good, best->x, s->p.n_units * sizeof *good);
        bb_archive_done(&archive);
    }
    ck_assert_msg(kl[0] < 0.9 * table.kl && kl[1] <= kl[0] && kl[2] > kl[0] && kl[2] <= table.kl, "%g, learned %g, not learned %g, the table's optimum %g",
                  kl[0], kl[1], kl[2], table.kl);
    ck_assert(learned[0].tokens > 0 && learned[1].tokens > 0);
    syn_gradient_done(&slopes);
    bb_separable_destroy(sep);
    free(w);
    syn_free(s);
}
END_TEST

/* All methods by gradients, on a world whose table is wrong by large factors that a gradient sees, and with hardly a round of refine behind them, or none: better
 * than the optimum of the table, and than refine without them; each gradient of the method that is alone is of the next batch; the same again with the same seed; memory that runs out is survived. */
START_TEST(gradients_find_what_the_table_does_not_know)
{
    const bb_search_method *const ms[] = { &bb_method_newton, &bb_method_relaxed, &bb_method_rco }, *const m = ms[_i];
    syn_problem    *s = syn_transformer(72, 3, 6, 3);
    syn_world      *w = syn_world_new(&s->p, 5, 0, 1.2);
    bb_separable   *sep;
    int64_t         budget, least, most;
    uint16_t        x[SYN_MAX_UNITS], source[SYN_MAX_UNITS] = { 0 };
    const uint16_t *px = x;
    bb_score        table, found[3];
    ck_assert_int_eq(bb_separable_create(&s->p, NULL, &sep, NULL), BB_OK);
    bb_separable_reach(sep, &least, &most);
    budget = least + (most - least) / 2;
    ck_assert_int_eq(bb_separable_solve(sep, budget, x, NULL, NULL), BB_OK);
    ck_assert_int_eq(syn_evaluate(w, &px, 1, 2, &table, NULL, NULL), BB_OK);
    for (uint32_t u = 0; u < s->p.n_units; u++)
        if (s->units[u].controller >= 0) source[u] = (uint16_t)(s->units[u].n_options - 1);
    for (int again = 0; again < 3; again++) {
        syn_gradient slopes = { .w = w };
        bb_search    o = by_gradients(&budget, source, &slopes);
        bb_archive   archive;
        ck_assert_int_eq(syn_search(again < 2 ? m : &bb_method_refine, &s->p, &w->e, NULL, NULL, &o, &archive, NULL, NULL), BB_OK);
        const bb_archive_entry *best = bb_archive_best(&archive, budget);
        ck_assert_ptr_nonnull(best);
        if (again < 2) ck_assert(slopes.n_calls > 1 && slopes.last_batch == (m == &bb_method_rco ? slopes.n_calls : 0));
        if (again < 2) ck_assert_double_le(slopes.tokens, o.stop.max_tokens);
        found[again] = best->score;
        ck_assert_int_le(best->size_bytes, budget);
        bb_archive_done(&archive);
        syn_gradient_done(&slopes);
    }
    ck_assert(found[0].kl == found[1].kl);
    ck_assert_msg(found[0].kl < 0.9 * table.kl && found[0].kl < found[2].kl, "%s: %g, refine %g, the table's optimum %g", m->name, found[0].kl, found[2].kl,
                  table.kl);
    bb_separable_destroy(sep);
    sep = NULL;
    const size_t before = bb_mem_live_bytes();
    bool         done = false;
    for (long n = 0; !done; n += 1 + n / 5) {
        syn_gradient slopes = { .w = w };
        bb_search    o = { .budgets = &budget,
                           .n_budgets = 1,
                           .seed = 3,
                           .stop.max_tokens = 1e5,
                           .stop.max_rounds = 1,
                           .window_tokens = 256,
                           .source = source,
                           .candidates = 1,
                           .gradient = syn_gradient_at,
                           .gradient_self = &slopes,
                           .gradient_cost = { 768 * 8, 1280 * 8 },
                           .batch_cost = 1024 * 8 };
        bb_archive   archive;
        bb_mem_fail_after(n);
        const bb_status status = syn_search(m, &s->p, &w->e, NULL, NULL, &o, &archive, NULL, NULL);
        bb_mem_fail_after(-1);
        bb_archive_done(&archive);
        syn_gradient_done(&slopes);
        ck_assert_uint_eq(bb_mem_live_bytes(), before);
        ck_assert(status == BB_OK || status == BB_NOMEM);
        done = status == BB_OK;
    }
    free(w);
    syn_free(s);
}
END_TEST

START_TEST(survives_allocation_failures)
{
    syn_problem  *s = flat(6, 3);
    plain        *w = plain_new(&s->p, trap);
    const int64_t budget = 300;
    const size_t  before = bb_mem_live_bytes();
    for (size_t i = 0; asker(i); i++)
        for (long n = 0;; n += 1 + n / 12) {
            bb_search  o = { .budgets = &budget, .n_budgets = 1, .seed = 1, .candidates = 4, .stop = { .max_evaluations = 40, .patience = 100 } };
            bb_archive archive;
            bb_mem_fail_after(n);
            const bb_status st = syn_search(asker(i), &s->p, &w->e, NULL, NULL, &o, &archive, NULL, NULL);
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

/* ---- combinations that cannot be loaded ---- */

/* A transformer with forbidden cells, in which a plan with any narrow controller needs one option for the first two units of each group: a
 * condition between units and over the whole plan that no table can say. */
typedef struct coupled {
    syn_problem *s;
    bb_space     space;
} coupled;

static bool is_coupled_wrong(const bb_problem *p, const uint16_t *x, uint32_t *unit)
{
    bool narrow = false;
    for (uint32_t u = 0; u < p->n_units; u++) narrow |= u + 1 < p->n_units && p->units[u + 1].controller == (int32_t)u && x[u] > 0;
    for (uint32_t u = 0; narrow && u + 2 < p->n_units; u++) {
        *unit = u + 1;
        if (p->units[u + 1].controller == (int32_t)u && x[u + 1] != x[u + 2]) return true;
    }
    return false;
}

static int64_t coupled_size(void *self, const uint16_t *x)
{
    const coupled *c = self;
    uint32_t       unit;
    bb_problem     p = c->s->p;
    p.size = NULL;
    return is_coupled_wrong(&p, x, &unit) ? BB_FORBIDDEN : bb_problem_bound(&p, x) - 7;
}

static bool coupled_settle(void *self, const bb_problem *p, uint16_t *x)
{
    uint32_t u;
    (void)self;
    while (is_coupled_wrong(p, x, &u)) {
        const size_t   i = bb_problem_row(p, x, u), k = bb_problem_row(p, x, u + 1);
        const int64_t *a = p->units[u].bytes + i, *b = p->units[u + 1].bytes + k, now = bb_bytes_add(a[x[u]], b[x[u + 1]]);
        double         best = HUGE_VAL;
        uint16_t       option = 0;
        for (uint16_t o = 0; o < 6; o++) {
            const double cost = p->units[u].cost[i + o] + p->units[u + 1].cost[k + o];
            if (bb_bytes_add(a[o], b[o]) > now || cost >= best) continue;
            best = cost;
            option = o;
        }
        if (isinf(best)) return false;
        x[u] = x[u + 1] = option;
    }
    return true;
}

static void coupled_init(coupled *c, bool settles)
{
    c->s = syn_transformer(61, 2, 6, 3);
    for (uint32_t u = 0; u < c->s->p.n_units; u++)
        if (c->s->units[u].controller >= 0)
            for (uint32_t row = 1; row < 3; row++) c->s->bytes[u][row * 6 + (u + row) % 5] = BB_FORBIDDEN;
    c->s->p.size = coupled_size;
    c->s->p.size_self = c;
    c->s->p.settle = settles ? coupled_settle : NULL;
    c->s->p.settle_self = c;
    ck_assert_int_eq(bb_space_init(&c->s->p, &c->space, NULL), BB_OK);
}

/* Whatever searches, what it gives can be loaded, and no sum of bytes wraps round to something that fits. */
START_TEST(only_loadable_plans)
{
    const int64_t budgets[3] = { 250000, 320000, 420000 };
    coupled       c;
    int64_t       size = 0;
    size_t        n = 0;
    coupled_init(&c, _i % 2);
    syn_world *w = syn_world_new(&c.s->p, 3, 1, 0.3);
    for (size_t i = 0; asker(i); i++) {
        run r = go(asker(i), &c.s->p, &w->e, budgets, asker(i)->whole_front ? 3 : 1, 120, 5);
        ck_assert_msg(r.status == BB_OK || (_i == 0 && r.status == BB_INFEASIBLE), "%s", asker(i)->name); /* hard to find without settling */
        ck_assert_msg(r.archive.n > 0 || _i == 0, "%s found nothing", asker(i)->name);
        n += r.archive.n;
        for (size_t k = 0; k < r.archive.n; k++) {
            size = bb_problem_size(&c.s->p, r.archive.entries[k].x);
            ck_assert_msg(size > 0 && size <= budgets[2], "%s: %lld bytes", asker(i)->name, (long long)size);
            ck_assert(bb_space_settle(&c.space, r.archive.entries[k].x));
        }
        bb_archive_done(&r.archive);
    }
    ck_assert_uint_gt(n, 0);
    free(w);
    bb_space_done(&c.space);
    syn_free(c.s);
}
END_TEST

/* The exact solver: loadable, within the budget, narrow where that pays, not worse than what settling random plans finds; its bound holds. */
START_TEST(separable_solutions_are_loadable)
{
    coupled             c;
    bb_separable       *sep;
    bb_separable_result res;
    uint16_t            x[SYN_MAX_UNITS], y[SYN_MAX_UNITS];
    bb_rng              rng;
    int                 narrow = 0;
    coupled_init(&c, true);
    const bb_problem *p = &c.s->p;
    bb_rng_init(&rng, 9, "coupled");
    ck_assert_int_eq(bb_separable_create(p, NULL, &sep, NULL), BB_OK);
    for (int64_t budget = 120000; budget <= 900000; budget += 60000) {
        if (bb_separable_solve(sep, budget, x, &res, NULL) != BB_OK) continue;
        ck_assert_int_le(bb_problem_size(p, x), budget);
        ck_assert_int_eq(res.size_bytes, bb_problem_size(p, x));
        ck_assert(res.lower_bound <= res.cost);
        for (uint32_t u = 0; u < p->n_units; u++) narrow += bb_space_is_controller(&c.space, u) && x[u] > 0;
        for (int k = 0; k < 300; k++)
            if (bb_moves_random_fit(&c.space, &rng, budget, y)) {
                ck_assert_int_le(bb_problem_size(p, y), budget);
                ck_assert(bb_problem_cost(p, y) >= res.cost);
            }
    }
    ck_assert_int_gt(narrow, 0);
    bb_separable_destroy(sep);
    bb_space_done(&c.space);
    syn_free(c.s);
}
END_TEST

START_TEST(forbidden_is_above_every_budget)
{
    coupled  c;
    uint16_t x[SYN_MAX_UNITS] = { 0 };
    coupled_init(&c, true);
    const bb_problem *p = &c.s->p;
    ck_assert(bb_is_forbidden(bb_bytes_add(BB_FORBIDDEN, BB_FORBIDDEN)) && bb_is_forbidden(bb_bytes_add(1, BB_FORBIDDEN)));
    for (uint32_t u = 0; u < p->n_units; u++)
        if (bb_space_is_controller(&c.space, u)) x[u] = 1;
    for (uint32_t u = 0; u < p->n_units; u++)
        for (uint16_t o = 0; p->units[u].controller >= 0 && o < 6; o++)
            if (bb_is_forbidden(p->units[u].bytes[6 + o])) x[u] = o; /* every linear at a forbidden cell */
    ck_assert_int_eq(bb_problem_bound(p, x), BB_FORBIDDEN);
    ck_assert_int_eq(bb_problem_size(p, x), BB_FORBIDDEN);
    ck_assert(!bb_space_settle(&c.space, x));
    ck_assert_int_eq(bb_space_topup(&c.space, x, 1000000), BB_FORBIDDEN); /* it stays, and nothing aborts */
    ck_assert_int_lt(bb_space_delta_bytes(&c.space, x, 0, 0), 0);         /* out of it is down */
    bb_space_done(&c.space);
    syn_free(c.s);
}
END_TEST

int main(void)
{
    gsl_set_error_handler_off();
    Suite *s = suite_create("search_algs");
    TCase *t = tcase_create("core");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, small_knapsacks_are_nearly_solved);
    tcase_add_test(t, random_is_beaten_on_every_space);
    tcase_add_loop_test(t, fronts_of_known_shape, 0, 4);
    tcase_add_test(t, edges_end_by_themselves);
    tcase_add_test(t, evopress_keeps_the_best_parent);
    tcase_add_test(t, evopress_has_its_funnel);
    tcase_add_test(t, generations_may_be_large);
    tcase_add_test(t, draws_near_the_smallest_size_end);
    tcase_add_test(t, no_start_is_lost);
    tcase_add_test(t, what_is_given_is_used);
    tcase_add_test(t, amq_interpolates);
    tcase_add_test(t, amq_works_on_logarithms);
    tcase_add_test(t, same_seed_same_answer);
    tcase_add_loop_test(t, only_loadable_plans, 0, 2);
    tcase_add_test(t, separable_solutions_are_loadable);
    tcase_add_test(t, forbidden_is_above_every_budget);
    tcase_add_test(t, every_method_answers_every_budget);
    tcase_add_test(t, plans_that_memory_is_short_for_end_a_search);
    tcase_add_loop_test(t, gradients_find_what_the_table_does_not_know, 0, 3);
    tcase_add_test(t, what_was_learned_is_proposed_and_does_not_decide);
    tcase_add_test(t, survives_allocation_failures);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int n = srunner_ntests_run(r), failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
