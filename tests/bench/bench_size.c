/* SPDX-License-Identifier: GPL-3.0-or-later
 * bench_size.c: exact sizes, hashes, shapes and proposals of a model's space of plans, at 1 and 2 threads.
 *
 * usage: bench_size MODEL.gguf
 * Prints CSV: what,way,units,threads,per_second,us,cpu_us: the best of SAMPLES short ones, so that other work on the machine counts little; us: of one on
 * its thread; cpu_us: processor time of one, over all threads. ways: names, the plan by name, parsed back and asked of
 * the exporter, one at a time (as it was until f2b1c16, the reference); indices, what the program does. A proposal is a random plan brought to a budget and
 * topped up by exact sizes. Every thread has plans of its own.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/model_space.h"
#include "model/compress/plan_units.h"
#include "model/export/export.h"
#include "search/moves.h"

enum { SAMPLES = 200, MAX_THREADS = 2, N_PLANS = 64 };

typedef struct world {
    bb_model          model;
    bb_model_space   *space;
    const bb_problem *p;     /* sizes by table */
    bb_problem        named; /* the same problem with sizes by name */
    bb_space          moves, named_moves;
    uint16_t         *x; /* [N_PLANS][n_units] random plans that can be loaded */
    bb_block         *blocks[MAX_THREADS], *scratch;
    int64_t           budget;
} world;

static void need(bb_status status, const bb_err *err)
{
    if (status == BB_OK) return;
    fprintf(stderr, "bench_size: %s\n", err->msg);
    exit(EXIT_FAILURE);
}

static int64_t named_size(world *w, const uint16_t *x, bb_block *blocks)
{
    bb_plan  plan = { 0, NULL };
    bb_net   net;
    uint64_t bytes = 0;
    bool     ok = bb_plan_space_plan(w->p->plans, x, &plan, NULL) == BB_OK && bb_plan_shape(&w->model, &plan, &net, blocks, NULL) == BB_OK &&
              bb_export_size(&w->model, &net, &bytes, NULL) == BB_OK;
    bb_plan_done(&plan);
    return ok ? (int64_t)bytes : BB_FORBIDDEN;
}

static int64_t named_size_alone(void *self, const uint16_t *x)
{
    world  *w = self;
    int64_t size;
#pragma omp critical(bench_size)
    size = named_size(w, x, w->scratch);
    return size;
}

/* Costs that fall with bytes, other for every unit. */
static void set_costs(const world *w)
{
    double **cost = BB_NEW0(w->p->n_units, double *, NULL);
    for (uint32_t u = 0; u < w->p->n_units; u++) {
        const bb_unit *unit = &w->p->units[u];
        cost[u] = BB_NEW0(unit->n_options, double, NULL);
        for (uint32_t k = 0; k < unit->n_options; k++)
            cost[u][k] = bb_model_space_is_format(w->space, u) ? (1 + u % 7) * 1e3 / (double)unit->bytes[k] : 0.3 * (1 - bb_model_space_width(w->space, u, k));
    }
    bb_model_space_set_costs(w->space, (const double *const *)cost);
    for (uint32_t u = 0; u < w->p->n_units; u++) bb_free(cost[u]);
    bb_free(cost);
}

static void open_world(world *w, const char *path)
{
    const bb_model_space_options options = { .prune_kv = true, .prune_ffn = true, .prune_sublayers = true };
    bb_err                       err = BB_ERR_INIT;
    uint64_t                     smallest, largest;
    bb_rng                       rng;
    need(bb_model_open(path, &w->model, &err), &err);
    need(bb_model_space_create(&w->model, &options, &w->space, &err), &err);
    w->p = bb_model_space_problem(w->space);
    set_costs(w);
    need(bb_model_space_reach(w->space, &smallest, &largest, &err), &err);
    w->budget = (int64_t)sqrt((double)smallest * (double)largest);
    w->named = *w->p;
    w->named.size = named_size_alone;
    w->named.size_self = w;
    need(bb_space_init(w->p, &w->moves, &err), &err);
    need(bb_space_init(&w->named, &w->named_moves, &err), &err);
    w->x = BB_NEW((size_t)N_PLANS * w->p->n_units, uint16_t, &err);
    w->scratch = BB_NEW(w->model.net.n_layer, bb_block, &err);
    for (int t = 0; t < MAX_THREADS; t++) w->blocks[t] = BB_NEW(w->model.net.n_layer, bb_block, &err);
    if (!w->x || !w->scratch || !w->blocks[0] || !w->blocks[MAX_THREADS - 1]) need(BB_NOMEM, &err);
    bb_rng_init(&rng, 1, "bench size");
    for (int k = 0; k < N_PLANS; k++)
        if (!bb_space_random(&w->moves, &rng, w->x + (size_t)k * w->p->n_units)) abort();
}

typedef int64_t (*work)(world *w, int thread, size_t n); /* gives a sum, so that results are used */

static const uint16_t *plan_at(const world *w, size_t i) { return w->x + i % N_PLANS * w->p->n_units; }

static int64_t size_named(world *w, int thread, size_t n)
{
    int64_t sum = 0;
    (void)thread;
    for (size_t i = 0; i < n; i++) sum += named_size_alone(w, plan_at(w, i));
    return sum;
}

static int64_t size_at(world *w, int thread, size_t n)
{
    int64_t sum = 0;
    (void)thread;
    for (size_t i = 0; i < n; i++) sum += bb_problem_size(w->p, plan_at(w, i));
    return sum;
}

static int64_t hash_named(world *w, int thread, size_t n)
{
    int64_t sum = 0;
    (void)thread;
    for (size_t i = 0; i < n; i++) {
        bb_plan plan = { 0, NULL };
        char    hash[17], *text;
        if (bb_plan_space_plan(w->p->plans, plan_at(w, i), &plan, NULL) != BB_OK || bb_plan_print(&plan, &text, NULL) != BB_OK) abort();
        bb_plan_hash(&plan, hash);
        sum += hash[0];
        bb_free(text);
        bb_plan_done(&plan);
    }
    return sum;
}

static int64_t hash_at(world *w, int thread, size_t n)
{
    int64_t sum = 0;
    (void)thread;
    for (size_t i = 0; i < n; i++) {
        char hash[17];
        bb_plan_space_hash(w->p->plans, plan_at(w, i), hash);
        sum += hash[0];
    }
    return sum;
}

static int64_t shape_named(world *w, int thread, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        bb_plan plan = { 0, NULL };
        bb_net  net;
        if (bb_plan_space_plan(w->p->plans, plan_at(w, i), &plan, NULL) != BB_OK || bb_plan_shape(&w->model, &plan, &net, w->blocks[thread], NULL) != BB_OK)
            abort();
        sum += net.blocks[0].n_ff;
        bb_plan_done(&plan);
    }
    return sum;
}

static int64_t shape_at(world *w, int thread, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        bb_net net;
        bb_plan_space_shape(&w->model, w->p->plans, plan_at(w, i), BB_NO_UNIT, 0, &net, w->blocks[thread]);
        sum += net.blocks[0].n_ff;
    }
    return sum;
}

/* Stream of plans: the same for one way as for the other. */
static int64_t propose(world *w, const bb_space *s, int thread, size_t n)
{
    uint16_t *x = BB_NEW(w->p->n_units, uint16_t, NULL);
    char      name[32];
    bb_rng    rng;
    int64_t   sum = 0;
    if (!x) abort();
    snprintf(name, sizeof name, "proposals %d", thread);
    bb_rng_init(&rng, 2, name);
    for (size_t i = 0; i < n; i++)
        if (bb_moves_random_fit(s, &rng, w->budget, x)) sum += bb_space_topup(s, x, w->budget);
    bb_free(x);
    return sum;
}

static int64_t propose_named(world *w, int thread, size_t n) { return propose(w, &w->named_moves, thread, n); }
static int64_t propose_at(world *w, int thread, size_t n) { return propose(w, &w->moves, thread, n); }

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of wall and of processors for one. */
typedef struct cost {
    double wall, cpu;
} cost;

static cost best_of(world *w, work f, int threads, size_t n)
{
    static volatile int64_t sink;
    cost                    best = { HUGE_VAL, HUGE_VAL };
    for (int k = 0; k < SAMPLES; k++) {
        const double t0 = bb_now_s(), c0 = cpu_s();
        int64_t      sum = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : sum)
        for (int t = 0; t < threads; t++) sum += f(w, t, n);
        sink += sum;
        best.wall = fmin(best.wall, (bb_now_s() - t0) / (double)n);
        best.cpu = fmin(best.cpu, (cpu_s() - c0) / ((double)n * threads));
    }
    return best;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *what, *way;
        work        f;
        size_t      n;
    } rows[] = {
        { "size", "names", size_named, 20 },       { "size", "indices", size_at, 3000 },     { "hash", "names", hash_named, 20 },
        { "hash", "indices", hash_at, 150 },       { "shape", "names", shape_named, 20 },    { "shape", "indices", shape_at, 1500 },
        { "proposal", "names", propose_named, 1 }, { "proposal", "indices", propose_at, 4 },
    };
    world *w = BB_NEW0(1, world, NULL);
    if (!w || argc != 2) {
        fprintf(stderr, "usage: bench_size MODEL.gguf\n");
        return EXIT_FAILURE;
    }
    open_world(w, argv[1]);
    for (int k = 0; k < N_PLANS; k++)
        if (bb_problem_size(w->p, plan_at(w, (size_t)k)) != named_size_alone(w, plan_at(w, (size_t)k))) abort();
    printf("what,way,units,threads,per_second,us,cpu_us\n");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int threads = 1; threads <= MAX_THREADS; threads++) {
            const cost c = best_of(w, rows[i].f, threads, rows[i].n);
            printf("%s,%s,%u,%d,%.4g,%.4g,%.4g\n", rows[i].what, rows[i].way, w->p->n_units, threads, threads / c.wall, 1e6 * c.wall, 1e6 * c.cpu);
        }
    bb_space_done(&w->moves);
    bb_space_done(&w->named_moves);
    bb_model_space_destroy(w->space);
    bb_model_close(&w->model);
    bb_free(w->x);
    bb_free(w->scratch);
    for (int t = 0; t < MAX_THREADS; t++) bb_free(w->blocks[t]);
    bb_free(w);
    return EXIT_SUCCESS;
}
