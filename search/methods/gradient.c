/* SPDX-License-Identifier: GPL-3.0-or-later
 * gradient.c: the methods that go by derivatives through the network, of the KL at a plan (bb_search.gradient) or of masks (bb_search.learned). All make plans for each budget within GRADIENT_SHARE of the tokens;
 * then `refine` begins with them, races them with its own by true KL and decides. All but rco, which is a rival: the whole of the tokens, and its plan is the answer.
 *
 *   newton   From the best of the plans at hand: first and second order of every option around it, a separable problem that is solved exactly under the
 *            budget with several prices on every changed unit (a trust region), the solutions scored at level 0 and the best at the confirm level; on
 *            from there while that finds a better plan.
 *   relaxed  RCO (Helcig, Alistarh, arXiv 2605.00649): a distribution over the options of each unit, given by logits. A step draws Gumbel noise, takes the plan of
 *            the highest noisy logits within the budget (the exact knapsack), and the gradient there as if the softmax of the noisy logits had been run
 *            (straight through); projects it on the tangent of the expected bytes, takes an Adam step, shifts the logits along the bytes until
 *            the expected bytes are the budget's, and projects the moments again. 200 steps of 4 samples at rate 0.1, temperature from 1 to
 *            0.05 geometrically; where the tokens buy fewer, fewer samples, then fewer steps at a rate that is higher by as much (at most 1).
 *            Differences: the logits begin 3 higher at the separable plan, and structure is searched with precision: expected bytes are
 *            bilinear in controllers and what they control.
 *   rco      The same as its authors run it, alone: each sample on another batch of the calibration text. What differs: the start and the structure, as above, and a
 *            batch, as many windows as options are measured on; the answer is the better of its last plan and of the plans that it began with.
 *   toga     TOGA (arXiv 2606.07819): masks over channels learned for the budget, each matrix's share of high precision and each FFN's channels rounded to the
 *            nearest options, the rest as in the separable plan; brought to the budget by single moves.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "search/method.h"
#include "search/pool.h"

#define GRADIENT_SHARE 0.3 /* of the tokens, for plans made by gradients; the rest is refine's */

enum { N_PRICES = 3, N_TRUSTS = 3, N_STEPS = N_PRICES * N_TRUSTS, MOST_STEPS = 12, STARTS = 3 /* plans a budget that refine begins with */ };

/* Price of a changed unit, as a share of the incumbent's KL. */
static const double change_prices[N_PRICES] = { 0.003, 0.01, 0.03 };
/* How much of the first order is believed where it differs from what it would be if the errors of the units did not interact. One change alone is
 * foreseen to a tenth; of many together, chosen because they all undo the same error, it promises several times what they give: all of it makes
 * things worse from a dozen changes on, a quarter or a half finds the best plans (measured on wiki8m at 2.2 and 4.3 MB). */
static const double trusts[N_TRUSTS] = { 0.25, 0.5, 1 };

typedef struct climb {
    bb_search *s;
    bb_pool    pool;
    bb_variant v;     /* tables to solve and top up by */
    bb_space   space; /* over v.problem */
    uint16_t  *x;     /* [STARTS or more][n_units] scratch */
    size_t     width;
    uint32_t   confirm;
    double     end;   /* spent tokens at which the budget at hand ends; 0: none */
    bool       alone; /* no refine behind it */
} climb;

static bb_status climb_init(climb *c, bb_search *s, bb_err *err)
{
    bb_status status;
    *c = (climb) { .s = s, .width = s->problem->n_units, .confirm = bb_search_top(s) < 1 ? bb_search_top(s) : 1 };
    BB_TRY(bb_pool_init(s->space, s->ledger, &c->pool, err));
    BB_TRY(bb_variant_init(s->problem, &c->v, err));
    BB_TRY(bb_space_init(&c->v.problem, &c->space, err));
    if (!(c->x = BB_NEW(c->width * (BB_N_UNIFORM + 1), uint16_t, err))) status = BB_NOMEM;
done:
    return status;
}

static void climb_done(climb *c)
{
    bb_pool_done(&c->pool);
    bb_space_done(&c->space);
    bb_variant_done(&c->v);
    bb_free(c->x);
}

static bool has_room(const climb *c, double planned) { return !(c->end > 0) || bb_search_spent(c->s) + planned <= c->end; }

/* The cheapest plan by the tables of c->v within the budget, filled up. */
static bb_status solve(climb *c, int64_t budget, uint16_t *x, bb_err *err)
{
    bb_separable *sep = NULL;
    bb_status     status;
    BB_TRY(bb_separable_create(&c->v.problem, NULL, &sep, err));
    BB_TRY(bb_separable_solve(sep, budget, x, NULL, err));
    bb_space_topup(&c->space, x, budget);
done:
    bb_separable_destroy(sep);
    return status;
}

/* Takes the best items of level 0 within the budget that lack it to the confirm level, unless a paired test speaks against them. */
static bb_status confirm_best(climb *c, int64_t budget, bb_err *err)
{
    const size_t incumbent = bb_pool_best(&c->pool, budget, c->confirm);
    size_t       best;
    double       mean = -1, se = 0;
    bb_status    status = BB_OK;
    if (c->confirm == 0 || bb_pool_ranking(&c->pool, budget, 0, c->confirm, 1, &best) == 0) return BB_OK;
    if (incumbent != SIZE_MAX) BB_TRY(bb_pool_difference(&c->pool, best, incumbent, 0, &mean, &se, err));
    if (mean <= 0.5 * se) BB_TRY(bb_pool_evaluate(&c->pool, &best, 1, c->confirm, err));
done:
    return status;
}

/* What is at hand without a search: the separable plan, given plans and uniform ones. */
static bb_status begin(climb *c, int64_t budget, bb_err *err)
{
    const bb_search *s = c->s;
    bb_status        status = BB_NOMEM;
    char             names[BB_N_UNIFORM][BB_SOURCE];
    size_t           n = 0, uniform = 0;
    size_t          *list = BB_NEW(1 + BB_N_UNIFORM + s->n_starts, size_t, err);
    if (!list) return BB_NOMEM;
    BB_TRY(bb_separable_solve(s->separable, budget, c->x, NULL, err));
    BB_TRY(bb_pool_add(&c->pool, c->x, "separable", &list[n++], NULL, err));
    if (s->uniform) BB_TRY(s->uniform(s->uniform_self, budget, BB_N_UNIFORM, c->x, names, &uniform, err));
    for (size_t i = 0; i < uniform; i++) BB_TRY(bb_pool_add(&c->pool, c->x + i * c->width, "uniform", &list[n++], NULL, err));
    for (size_t i = 0; i < s->n_starts; i++)
        if (bb_problem_size(s->problem, s->starts + i * c->width) <= budget)
            BB_TRY(bb_pool_add(&c->pool, s->starts + i * c->width, "given", &list[n++], NULL, err));
    BB_TRY(bb_pool_evaluate(&c->pool, list, n, 0, err));
    BB_TRY(confirm_best(c, budget, err));
done:
    bb_free(list);
    return status;
}

static void report(const climb *c, const char *stage, uint32_t round, size_t b)
{
    const size_t at = bb_pool_best(&c->pool, c->s->budgets[b], c->confirm);
    if (!c->s->progress || at == SIZE_MAX) return;
    const bb_pool_item  *item = &c->pool.items[at];
    const bb_search_step step = { stage, round, b, item->size_bytes, item->kl[c->confirm], c->confirm, item->source, bb_search_spent(c->s) };
    c->s->progress(c->s->progress_self, &step);
}

/* ---- newton ---- */

/* The first order of a change if errors did not interact: with e and e' a unit's errors before and after, <e, e' - e> = -|e|^2, and 1/2 |e|^2 is the second
 * order of the option that changes nothing (the source's). */
static double alone(const climb *c, const bb_local_score *g, uint32_t u, size_t row)
{
    const size_t i = row + c->s->source[u];
    return -2 * (g->linear[u][i] - g->first[u][i]);
}

/* cost := what a change costs + price, made non-negative by a constant a table: no plan's rank changes. */
static void price_changes(const climb *c, const bb_local_score *g, const uint16_t *x, double price, double trust)
{
    const bb_problem *p = c->s->problem;
    for (uint32_t u = 0; u < p->n_units; u++) {
        const size_t n = p->units[u].n_options, cells = bb_problem_rows(p, u) * n;
        double       least = HUGE_VAL;
        for (size_t i = 0; i < cells; i++) {
            const double first = g->first[u][i], rest = c->s->source ? alone(c, g, u, i / n * n) : first;
            c->v.cost[u][i] = i % n == x[u] ? 0 : g->linear[u][i] + (1 - trust) * (rest - first) + price;
            least = fmin(least, c->v.cost[u][i]);
        }
        for (size_t i = 0; i < cells; i++) c->v.cost[u][i] -= least;
    }
}

/* One step; *moved: whether the incumbent is another. */
static bb_status newton_step(climb *c, int64_t budget, bool *moved, bb_err *err)
{
    const size_t    at = bb_pool_best(&c->pool, budget, c->confirm);
    const uint16_t *x = c->pool.items[at].x;
    const double    kl = c->pool.items[at].kl[c->confirm];
    size_t          list[N_STEPS], n = 0;
    bb_local_score  g;
    bb_status       status;
    *moved = false;
    BB_TRY(c->s->gradient(c->s->gradient_self, x, true, 0, &g, err));
    c->s->other_tokens += g.tokens;
    for (size_t k = 0; k < N_STEPS; k++) {
        bool is_new;
        price_changes(c, &g, c->pool.items[at].x, change_prices[k % N_PRICES] * kl, trusts[k / N_PRICES]); /* by index: the pool grows */
        BB_TRY(solve(c, budget, c->x, err));
        BB_TRY(bb_pool_add(&c->pool, c->x, "newton", &list[n], &is_new, err));
        n += is_new;
    }
    BB_TRY(bb_pool_evaluate(&c->pool, list, n, 0, err));
    BB_TRY(confirm_best(c, budget, err));
    *moved = bb_pool_best(&c->pool, budget, c->confirm) != at;
done:
    return status;
}

static bb_status newton_budget(climb *c, size_t b, bb_err *err)
{
    const bb_evaluator *e = bb_ledger_evaluator(c->s->ledger);
    const double        planned = c->s->gradient_cost[1] + (N_STEPS * e->n_windows[0] + e->n_windows[c->confirm]) * c->s->window_tokens;
    bool                moved = true;
    bb_status           status;
    BB_TRY(begin(c, c->s->budgets[b], err));
    for (uint32_t step = 1; moved && step <= MOST_STEPS && has_room(c, planned); step++) {
        if (bb_pool_best(&c->pool, c->s->budgets[b], c->confirm) == SIZE_MAX) break;
        BB_TRY(newton_step(c, c->s->budgets[b], &moved, err));
        report(c, "newton", step, b);
    }
done:
    return status;
}

/* ---- relaxed ---- */

enum { RCO_STEPS = 200, RCO_SAMPLES = 4, KEPT = 3 };
#define RCO_RATE 0.1
#define RCO_HOT 1.0
#define RCO_COLD 0.05
#define HEAD_START 3.0

typedef struct relaxed {
    climb            *c;
    const bb_problem *p;
    const uint32_t   *offset;
    size_t            M;
    double           *alpha, *p_of, *bytes; /* [M] logits, their softmax, expected bytes of an option */
    double           *gradient, *moment, *square, *noisy, *soft, *tangent;
    double           *memory;
    bb_rng            rng;
    uint16_t         *x;    /* [n_units] of a sample */
    uint16_t         *kept; /* [KEPT][n_units] the samples of lowest KL */
    double            kept_kl[KEPT];
    size_t            n_kept;
    uint32_t          batch; /* the last one, of a method that is alone */
} relaxed;

static bb_status relaxed_init(relaxed *r, climb *c, bb_err *err)
{
    *r = (relaxed) { .c = c, .p = c->s->problem, .offset = c->s->space->offset };
    r->M = r->offset[r->p->n_units];
    double **const parts[] = { &r->alpha, &r->p_of, &r->bytes, &r->gradient, &r->moment, &r->square, &r->noisy, &r->soft, &r->tangent };
    const size_t   n = sizeof parts / sizeof *parts;
    r->memory = BB_NEW0(n * r->M, double, err);
    r->x = BB_NEW(c->width, uint16_t, err);
    r->kept = BB_NEW(KEPT * c->width, uint16_t, err);
    for (size_t i = 0; r->memory && i < n; i++) *parts[i] = r->memory + i * r->M;
    return r->memory && r->x && r->kept ? BB_OK : BB_NOMEM;
}

static void relaxed_done(relaxed *r)
{
    bb_free(r->memory);
    bb_free(r->x);
    bb_free(r->kept);
}

/* out := softmax of z / tau, unit by unit. */
static void softmax(const relaxed *r, const double *z, double tau, double *out)
{
    for (uint32_t u = 0; u < r->p->n_units; u++) {
        const uint32_t a = r->offset[u], b = r->offset[u + 1];
        double         top = -HUGE_VAL, sum = 0;
        for (uint32_t i = a; i < b; i++) top = fmax(top, z[i]);
        for (uint32_t i = a; i < b; i++) sum += out[i] = exp((z[i] - top) / tau);
        for (uint32_t i = a; i < b; i++) out[i] /= sum;
    }
}

/* A cell's bytes; one that cannot be loaded counts as the unit's largest: nothing is won by it. */
static double cell_bytes(const bb_unit *u, size_t row, uint32_t o)
{
    int64_t most = 0;
    if (!bb_is_forbidden(u->bytes[row * u->n_options + o])) return (double)u->bytes[row * u->n_options + o];
    for (uint32_t k = 0; k < u->n_options; k++)
        if (!bb_is_forbidden(u->bytes[k]) && u->bytes[k] > most) most = u->bytes[k];
    return (double)most;
}

/* r->p_of of r->alpha, r->bytes: d E[bytes] / d p of every option; returns E[bytes]. */
static double expect(relaxed *r)
{
    double total = (double)r->p->fixed_bytes;
    softmax(r, r->alpha, 1, r->p_of);
    memset(r->bytes, 0, r->M * sizeof *r->bytes);
    for (uint32_t u = 0; u < r->p->n_units; u++) {
        const bb_unit *unit = &r->p->units[u];
        const uint32_t at = r->offset[u], c = unit->controller < 0 ? 0 : r->offset[unit->controller];
        for (size_t row = 0; row < bb_problem_rows(r->p, u); row++)
            for (uint32_t o = 0; o < unit->n_options; o++) {
                const double bytes = cell_bytes(unit, row, o), share = unit->controller < 0 ? 1 : r->p_of[c + row];
                r->bytes[at + o] += share * bytes;
                if (unit->controller >= 0) r->bytes[c + row] += r->p_of[at + o] * bytes;
                total += share * r->p_of[at + o] * bytes;
            }
    }
    return total;
}

/* r->tangent := d E[bytes] / d alpha. */
static void find_tangent(relaxed *r)
{
    expect(r);
    for (uint32_t u = 0; u < r->p->n_units; u++) {
        double mean = 0;
        for (uint32_t i = r->offset[u]; i < r->offset[u + 1]; i++) mean += r->p_of[i] * r->bytes[i];
        for (uint32_t i = r->offset[u]; i < r->offset[u + 1]; i++) r->tangent[i] = r->p_of[i] * (r->bytes[i] - mean);
    }
}

static void project(const relaxed *r, double *g)
{
    double along = 0, length = 0;
    for (size_t i = 0; i < r->M; i++) {
        along += g[i] * r->tangent[i];
        length += r->tangent[i] * r->tangent[i];
    }
    for (size_t i = 0; i < r->M && length > 0; i++) g[i] -= along / length * r->tangent[i];
}

/* Shifts the logits along the bytes until the expected bytes are the budget; as near as they come where they cannot be. */
static void retract(relaxed *r, int64_t budget)
{
    enum { HALVINGS = 50 };
    double *from = r->noisy, *along = r->soft; /* free between samples */
    double  most = 0, low = -200, high = 200;
    expect(r);
    memcpy(from, r->alpha, r->M * sizeof *from);
    memcpy(along, r->bytes, r->M * sizeof *along);
    for (size_t i = 0; i < r->M; i++) most = fmax(most, along[i]);
    for (int k = 0; k < HALVINGS && most > 0; k++) {
        const double shift = 0.5 * (low + high);
        for (size_t i = 0; i < r->M; i++) r->alpha[i] = from[i] - shift * along[i] / most;
        if (expect(r) > (double)budget) low = shift;
        else high = shift;
    }
}

/* x: the plan of the highest sum of logits z within the budget. */
static bb_status highest(relaxed *r, const double *z, int64_t budget, uint16_t *x, bb_err *err)
{
    for (uint32_t u = 0; u < r->p->n_units; u++) {
        const size_t n = r->p->units[u].n_options, cells = bb_problem_rows(r->p, u) * n;
        double       top = -HUGE_VAL;
        for (size_t o = 0; o < n; o++) top = fmax(top, z[r->offset[u] + o]);
        for (size_t i = 0; i < cells; i++) r->c->v.cost[u][i] = top - z[r->offset[u] + i % n];
    }
    return solve(r->c, budget, x, err);
}

/* Keeps the samples of lowest KL, each plan once. */
static void keep_sample(relaxed *r, double kl)
{
    const size_t width = r->c->width;
    size_t       k = r->n_kept;
    for (size_t i = 0; i < r->n_kept; i++)
        if (memcmp(r->kept + i * width, r->x, width * sizeof *r->x) == 0) return;
    while (k > 0 && kl < r->kept_kl[k - 1]) k--;
    if (k == KEPT) return;
    if (r->n_kept < KEPT) r->n_kept++;
    memmove(r->kept + (k + 1) * width, r->kept + k * width, (r->n_kept - 1 - k) * width * sizeof *r->x);
    memmove(r->kept_kl + k + 1, r->kept_kl + k, (r->n_kept - 1 - k) * sizeof *r->kept_kl);
    memcpy(r->kept + k * width, r->x, width * sizeof *r->x);
    r->kept_kl[k] = kl;
}

/* One sample: adds its straight-through gradient by alpha, times `share`. */
static bb_status add_sample(relaxed *r, int64_t budget, double tau, double share, bb_err *err)
{
    bb_local_score g;
    bb_status      status;
    for (size_t i = 0; i < r->M; i++) r->noisy[i] = r->alpha[i] - log(-log(fmax(bb_rng_uniform(&r->rng), 1e-20)) + 1e-20);
    BB_TRY(highest(r, r->noisy, budget, r->x, err));
    softmax(r, r->noisy, tau, r->soft);
    if (r->c->alone) r->batch++;
    BB_TRY(r->c->s->gradient(r->c->s->gradient_self, r->x, false, r->batch, &g, err));
    r->c->s->other_tokens += g.tokens;
    if (!r->c->alone) keep_sample(r, g.kl); /* KLs of other windows say nothing of each other */
    for (uint32_t u = 0; u < r->p->n_units; u++) {
        const double  *slope = g.linear[u] + bb_problem_row(r->p, r->x, u);
        const uint32_t at = r->offset[u];
        double         mean = 0;
        for (uint32_t o = 0; o < r->p->units[u].n_options; o++) mean += r->soft[at + o] * slope[o];
        for (uint32_t o = 0; o < r->p->units[u].n_options; o++) r->gradient[at + o] += share * r->soft[at + o] * (slope[o] - mean) / tau;
    }
done:
    return status;
}

static void adam(relaxed *r, uint32_t step, double rate)
{
    const double fade = 0.9, fade2 = 0.999;
    for (size_t i = 0; i < r->M; i++) {
        r->moment[i] = fade * r->moment[i] + (1 - fade) * r->gradient[i];
        r->square[i] = fade2 * r->square[i] + (1 - fade2) * r->gradient[i] * r->gradient[i];
        r->alpha[i] -= rate * r->moment[i] / (1 - pow(fade, step)) / (sqrt(r->square[i] / (1 - pow(fade2, step))) + 1e-8);
    }
}

static bb_status relax(relaxed *r, int64_t budget, uint32_t steps, uint32_t samples, bb_err *err)
{
    const double rate = fmin(1, RCO_RATE * RCO_STEPS / steps);
    bb_status    status = BB_OK;
    retract(r, budget);
    for (uint32_t step = 0; step < steps; step++) {
        const double tau = RCO_HOT * pow(RCO_COLD / RCO_HOT, steps > 1 ? (double)step / (steps - 1) : 1);
        memset(r->gradient, 0, r->M * sizeof *r->gradient);
        for (uint32_t k = 0; k < samples; k++) BB_TRY(add_sample(r, budget, tau, 1.0 / samples, err));
        find_tangent(r);
        project(r, r->gradient);
        adam(r, step + 1, rate);
        retract(r, budget);
        find_tangent(r);
        project(r, r->moment);
    }
done:
    return status;
}

static bb_status relaxed_budget(climb *c, size_t b, bb_err *err)
{
    const int64_t       budget = c->s->budgets[b];
    const bb_evaluator *e = bb_ledger_evaluator(c->s->ledger);
    const double        after = ((KEPT + 1) * e->n_windows[0] + e->n_windows[c->confirm]) * c->s->window_tokens;
    relaxed             r;
    double              affordable;
    char                name[32];
    size_t              list[KEPT + 1], n = 0;
    bb_status           status = relaxed_init(&r, c, err);
    if (status != BB_OK) goto done;
    BB_TRY(begin(c, budget, err));
    affordable = c->end > 0 ? (c->end - bb_search_spent(c->s) - after) / (c->alone ? c->s->batch_cost : c->s->gradient_cost[0]) : RCO_STEPS * RCO_SAMPLES;
    const uint32_t n_samples = affordable > RCO_STEPS * RCO_SAMPLES ? RCO_STEPS * RCO_SAMPLES : affordable > 0 ? (uint32_t)affordable : 0;
    const uint32_t samples = n_samples > RCO_STEPS ? n_samples / RCO_STEPS : 1, steps = n_samples / samples;
    if (steps == 0) goto done;
    snprintf(name, sizeof name, "relaxed/%zu", b);
    bb_rng_init(&r.rng, c->s->seed, name);
    BB_TRY(bb_separable_solve(c->s->separable, budget, r.x, NULL, err));
    for (uint32_t u = 0; u < r.p->n_units; u++) r.alpha[r.offset[u] + r.x[u]] = HEAD_START;
    BB_TRY(relax(&r, budget, steps, samples, err));
    BB_TRY(highest(&r, r.alpha, budget, r.x, err)); /* without noise */
    BB_TRY(bb_pool_add(&c->pool, r.x, "relaxed", &list[n++], NULL, err));
    for (size_t i = 0; i < r.n_kept; i++) BB_TRY(bb_pool_add(&c->pool, r.kept + i * c->width, "relaxed sample", &list[n++], NULL, err));
    BB_TRY(bb_pool_evaluate(&c->pool, list, n, 0, err));
    if (c->alone) BB_TRY(bb_pool_evaluate(&c->pool, list, 1, c->confirm, err));
    BB_TRY(confirm_best(c, budget, err));
    report(c, "relaxed", steps, b);
done:
    relaxed_done(&r);
    return status;
}

/* ---- toga ---- */

static bb_status toga_budget(climb *c, size_t b, bb_err *err)
{
    const int64_t       budget = c->s->budgets[b];
    const bb_evaluator *e = bb_ledger_evaluator(c->s->ledger);
    const double        after = (2 * e->n_windows[0] + e->n_windows[c->confirm]) * c->s->window_tokens;
    double              left = 0, tokens = 0;
    size_t              list[2];
    bb_status           status;
    BB_TRY(begin(c, budget, err));
    if (c->end > 0 && (left = c->end - bb_search_spent(c->s) - after) <= 0) goto done;
    BB_TRY(bb_separable_solve(c->s->separable, budget, c->x, NULL, err));
    BB_TRY(c->s->learned(c->s->learned_self, budget, left, c->x, &tokens, err));
    c->s->other_tokens += tokens;
    if (!bb_space_settle(&c->space, c->x) || !bb_space_repair(&c->space, c->x, budget)) goto done;
    BB_TRY(bb_pool_add(&c->pool, c->x, "toga", &list[0], NULL, err));
    bb_space_topup(&c->space, c->x, budget); /* by a table that knows less than what was learned: so both */
    BB_TRY(bb_pool_add(&c->pool, c->x, "toga", &list[1], NULL, err));
    BB_TRY(bb_pool_evaluate(&c->pool, list, 2, 0, err));
    BB_TRY(confirm_best(c, budget, err));
    report(c, "toga", 1, b);
done:
    return status;
}

/* ---- all ---- */

/* The best of each budget, and refine on from there with what is left of the tokens. */
static bb_status hand_over(climb *c, bb_err *err)
{
    bb_search s = *c->s;
    size_t    best[STARTS];
    uint16_t *starts = BB_NEW((STARTS * s.n_budgets + s.n_starts) * c->width, uint16_t, err);
    bb_status status;
    if (!starts) return BB_NOMEM;
    size_t n = 0;
    for (size_t b = 0; b < s.n_budgets; b++) {
        const size_t m = bb_pool_ranking(&c->pool, s.budgets[b], c->confirm, UINT32_MAX, STARTS, best); /* gradients know the windows of level 0 by heart */
        for (size_t i = 0; i < m; i++) memcpy(starts + n++ * c->width, c->pool.items[best[i]].x, c->width * sizeof *starts);
    }
    if (s.n_starts) memcpy(starts + n * c->width, s.starts, s.n_starts * c->width * sizeof *starts);
    s.starts = starts;
    s.n_starts += n;
    status = bb_method_refine.run(&bb_method_refine, &s, err);
    c->s->why = s.why;
    c->s->other_tokens = s.other_tokens;
    bb_free(starts);
    return status;
}

/* The best of each budget is the answer. */
static bb_status answer(climb *c, bb_err *err)
{
    const uint32_t top = bb_search_top(c->s);
    bool           any = false;
    bb_status      status = BB_OK;
    for (size_t b = 0; b < c->s->n_budgets; b++) {
        const size_t best = bb_pool_best(&c->pool, c->s->budgets[b], c->confirm);
        if (best == SIZE_MAX) continue;
        any = true;
        BB_TRY(bb_pool_evaluate(&c->pool, &best, 1, top, err));
        BB_TRY(bb_search_keep(c->s, c->pool.items[best].x, c->pool.items[best].source, err));
    }
    c->s->why = BB_STOP_DONE;
    if (!any) status = BB_FAIL(err, BB_INFEASIBLE, "no plan was found within the budget");
done:
    return status;
}

static bb_status run(const bb_search_method *m, bb_search *s, bb_status (*make)(climb *c, size_t b, bb_err *err), bool alone, bb_err *err)
{
    climb     c = { 0 };
    bb_status status;
    if (m->needs_gradient && !s->gradient) return BB_FAIL(err, BB_UNSUPPORTED, "the method \"%s\" needs gradients, and there are none", m->name);
    if (m->needs_learned && !s->learned) return BB_FAIL(err, BB_UNSUPPORTED, "the method \"%s\" needs a network to learn on, and there is none", m->name);
    BB_TRY(climb_init(&c, s, err));
    c.alone = alone;
    for (size_t b = 0; b < s->n_budgets; b++) {
        const double left = (alone ? 1 : GRADIENT_SHARE) * s->stop.max_tokens - bb_search_spent(s);
        c.end = s->stop.max_tokens > 0 ? bb_search_spent(s) + fmax(1, left / (double)(s->n_budgets - b)) : 0;
        BB_TRY(make(&c, b, err));
    }
    BB_TRY(alone ? answer(&c, err) : hand_over(&c, err));
done:
    climb_done(&c);
    return status;
}

static bb_status newton(const bb_search_method *m, bb_search *s, bb_err *err) { return run(m, s, newton_budget, false, err); }
static bb_status toga_run(const bb_search_method *m, bb_search *s, bb_err *err) { return run(m, s, toga_budget, false, err); }
static bb_status relaxed_run(const bb_search_method *m, bb_search *s, bb_err *err) { return run(m, s, relaxed_budget, false, err); }
static bb_status rco_run(const bb_search_method *m, bb_search *s, bb_err *err) { return run(m, s, relaxed_budget, true, err); }

const bb_search_method bb_method_newton = {
    .name = "newton", .reference = "search/methods/gradient.c", .whole_front = true, .needs_gradient = true, .uses_local = true, .run = newton
};
const bb_search_method bb_method_relaxed = {
    .name = "relaxed", .reference = "RCO, arXiv 2605.00649", .whole_front = true, .needs_gradient = true, .uses_local = true, .run = relaxed_run
};
const bb_search_method bb_method_rco = { .name = "rco", .reference = "RCO, arXiv 2605.00649", .many_tokens = true, .needs_gradient = true, .run = rco_run };
const bb_search_method bb_method_toga = {
    .name = "toga", .reference = "TOGA, arXiv 2606.07819", .whole_front = true, .needs_learned = true, .uses_local = true, .run = toga_run
};
