/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_score.c: plan scores a second of the quadratic score with all pairwise interactions, on a problem of 60 units of 14 options.
 *
 * Prints CSV: way,threads,scores_per_second: the best of SAMPLES. A score is the score and the bytes of one plan. ways: definition, every pair summed
 * (what a plan from nowhere costs); neighbour, a plan one change away from a plan whose field is kept; walk, a random neighbour each, one in 16 of
 * which becomes the plan (whose field is then updated), as annealing or tabu search do. Every thread has a plan of its own.
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "search/quadratic.h"

enum { UNITS = 60, OPTIONS = 14, M = UNITS * OPTIONS, RANK = 32, SAMPLES = 5, MAX_THREADS = 2 };

typedef struct world {
    bb_unit       units[UNITS];
    bb_plan_unit  described[UNITS];
    bb_plan_space plans;
    int64_t       bytes[UNITS][OPTIONS];
    double        linear[UNITS][OPTIONS];
    const double *rows[UNITS];
    char          names[UNITS][16];
    float        *gram;
    bb_problem    problem;
    bb_space      space;
    bb_quadratic  q;
} world;

/* The Gram matrix of random vectors that shrink as bytes grow. */
static void make_world(world *w)
{
    static const bb_plan_option names[OPTIONS] = { { "a", 0 }, { "b", 1 }, { "c", 2 }, { "d", 3 },  { "e", 4 },  { "f", 5 },  { "g", 6 },
                                                   { "h", 7 }, { "i", 8 }, { "j", 9 }, { "k", 10 }, { "l", 11 }, { "m", 12 }, { "n", 13 } };
    float                      *psi = BB_NEW((size_t)M * RANK, float, NULL);
    bb_rng                      rng;
    w->gram = BB_NEW((size_t)M * M, float, NULL);
    if (!psi || !w->gram) abort();
    bb_rng_init(&rng, 1, "bench score");
    for (int u = 0; u < UNITS; u++) {
        snprintf(w->names[u], sizeof w->names[u], "u%d", u);
        for (int o = 0; o < OPTIONS; o++) {
            w->bytes[u][o] = 1000 * (o + 1);
            w->linear[u][o] = bb_rng_uniform(&rng) / (o + 1);
            for (int k = 0; k < RANK; k++) psi[(u * OPTIONS + o) * RANK + k] = (float)(bb_rng_normal(&rng) * exp2(-o));
        }
        w->rows[u] = w->linear[u];
        w->units[u] = (bb_unit) { OPTIONS, -1, w->bytes[u], w->linear[u] };
        w->described[u] = (bb_plan_unit) { w->names[u], 0, 0, -1, OPTIONS, names };
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < M; j++) {
            float sum = 0;
            for (int k = 0; k < RANK; k++) sum += psi[i * RANK + k] * psi[j * RANK + k];
            w->gram[i * M + j] = sum;
        }
    if (bb_plan_space_init(&w->plans, w->described, UNITS, NULL) != BB_OK) abort();
    w->problem = (bb_problem) { .n_units = UNITS, .units = w->units, .plans = &w->plans, .fixed_bytes = 100 };
    if (bb_space_init(&w->problem, &w->space, NULL) != BB_OK) abort();
    w->q = (bb_quadratic) { .space = &w->space, .gram = w->gram, .linear = w->rows };
    bb_free(psi);
}

typedef enum way { DEFINITION, NEIGHBOUR, WALK } way;
static volatile double sink[MAX_THREADS]; /* results are used */

static void work(const world *w, way how, int thread, size_t n)
{
    bb_quadratic_state s;
    uint16_t           x[UNITS];
    char               name[32];
    bb_rng             rng;
    double             sum = 0;
    snprintf(name, sizeof name, "walk %d", thread);
    bb_rng_init(&rng, 2, name);
    for (int u = 0; u < UNITS; u++) x[u] = (uint16_t)bb_rng_below(&rng, OPTIONS);
    if (bb_quadratic_init(&w->q, x, &s, NULL) != BB_OK) abort();
    for (size_t i = 0; i < n; i++) {
        const uint64_t at = how == WALK ? bb_rng_u64(&rng) : i;
        const uint32_t u = (uint32_t)(at / OPTIONS % UNITS), o = (uint32_t)(at % OPTIONS);
        if (how == DEFINITION) {
            x[u] = (uint16_t)o;
            sum += bb_quadratic_score(&w->q, x) + (double)bb_problem_bound(&w->problem, x);
            continue;
        }
        sum += s.score + bb_quadratic_delta(&s, u, o) + (double)(s.bytes + bb_space_delta_bytes(&w->space, s.x, u, o));
        if (how == WALK && i % 16 == 0) bb_quadratic_move(&s, u, o);
    }
    sink[thread] = sum;
    bb_quadratic_done(&s);
}

static double rate(const world *w, way how, int threads, size_t n)
{
    double best = 0;
    for (int k = 0; k < SAMPLES; k++) {
        const double t0 = bb_now_s();
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int t = 0; t < threads; t++) work(w, how, t, n);
        best = fmax(best, (double)threads * (double)n / (bb_now_s() - t0));
    }
    return best;
}

int main(void)
{
    static const char *const names[] = { "definition", "neighbour", "walk" };
    static const size_t      counts[] = { 20000, 2000000, 1000000 };
    world                   *w = BB_NEW0(1, world, NULL);
    if (!w) return EXIT_FAILURE;
    make_world(w);
    printf("way,threads,scores_per_second\n");
    for (int how = DEFINITION; how <= WALK; how++)
        for (int threads = 1; threads <= MAX_THREADS; threads++) printf("%s,%d,%.4g\n", names[how], threads, rate(w, (way)how, threads, counts[how]));
    bb_space_done(&w->space);
    bb_free(w->gram);
    bb_free(w);
    return EXIT_SUCCESS;
}
