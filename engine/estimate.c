/* SPDX-License-Identifier: GPL-3.0-or-later
 * estimate.c: see estimate.h. What each stage does is counted from shapes and options, what a piece takes is measured (pace.h). Shares that only a run
 * itself can know are constants here, with where they come from; timing.csv of every run says how well they held. */
#include "engine/estimate.h"

#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpus.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "engine/calibration.h"
#include "engine/coupling.h"
#include "engine/gates.h"
#include "engine/ladder.h"
#include "engine/memory.h"
#include "engine/pace.h"
#include "engine/probe.h"
#include "engine/qat.h"
#include "engine/shipped.h"
#include "engine/stages.h"
#include "kernels/blas.h"
#include "model/compress/coupling.h"
#include "model/compress/plan_units.h"
#include "search/method.h"

/* Measured on wiki8m and stories260K: */
static const double search_share = 1.0;      /* of a network that a plan of the search runs: some is found in the cache of the plan before it, some tokens
                                             are spent beyond the budget by what is under way */
static const double coarse_share = 0.1;      /* of all options that do more damage than --exact-from */
static const double pruned_share = 0.35;     /* of all pruned o and down in all formats that the search meets, and has encoded */
static const double uniform_share = 0.6;     /* of the sizes of a sweep that have a uniform plan of their own */
static const double step_s = 2.5e-8;         /* seconds a trained weight and step, one thread: gradients of the fields, AdamW, new codes */
static const double file_s = 1e-8;           /* seconds a byte of a file: gathered, written, read back and hashed */
static const double low = 0.75, high = 1.35; /* the interval that is said */

typedef struct counts {
    double   block_weights;           /* of all blocks */
    uint64_t option_bytes, n_options; /* bytes: of all that the database will hold but second moments */
    uint64_t hessian_bytes;
} counts;

/* Of BB_TOKEN most networks have none. */
static bool has_feed(const bb_block *b, int feed) { return feed < BB_FEED_TOKEN || b->n_token; }

static counts count(const bb_run *r)
{
    const bb_net     *net = &r->model.net;
    const bb_problem *p = bb_model_space_problem(r->space);
    counts            c = { 0 };
    for (uint32_t b = 0; b < net->n_layer; b++) {
        const bb_block *block = &net->blocks[b];
        uint64_t        sum = 0;
        for (int k = 0; k < BB_N_PARTS; k++) c.block_weights += (double)block->w[k].rows * block->w[k].cols;
        for (int k = 0; k < BB_N_FEEDS; k++)
            sum += !has_feed(block, k) ? 0 : (uint64_t)bb_dim_of(net, block, bb_feeds[k].width) * bb_dim_of(net, block, bb_feeds[k].width) * sizeof(float);
        c.hessian_bytes += sum;
    }
    for (uint32_t u = 0; u < p->n_units; u++)
        for (uint32_t o = 0; o < p->units[u].n_options; o++) {
            c.n_options++;
            int64_t          bytes = p->units[u].bytes[o];
            const bb_format *f = bb_model_space_format(r->space, u, o);
            if (bytes <= 0 || bb_is_forbidden(bytes) || !f || o + 1 == p->units[u].n_options) continue;
            c.option_bytes += (uint64_t)bytes;
        }
    for (uint32_t u = 0; u < p->n_units; u++) { /* what structure options make of the matrices behind them: in the source's type when options are built */
        const bb_unit *unit = &p->units[u];
        const uint32_t n = unit->n_options;
        for (uint32_t o = 1; unit->controller >= 0 && o < p->units[unit->controller].n_options; o++)
            for (uint32_t k = 0; k < n; k++) {
                const int64_t bytes = unit->bytes[(size_t)o * n + k];
                if (bytes > 0 && !bb_is_forbidden(bytes))
                    c.option_bytes += (uint64_t)((k + 1 == n ? 1 : pruned_share) * (double)bytes); /* else as the search meets it */
            }
    }
    return c;
}

uint64_t bb_estimate_disk(const bb_run *r)
{
    const counts n = count(r);
    return n.option_bytes + n.hessian_bytes;
}

/* ---- time ---- */

typedef struct model {
    const bb_run  *r;
    const bb_pace *p;
    const bb_net  *net;
    counts         n;
    double         ctx, threads, scored;
} model;

static double cube(double n) { return n * n * n; }

/* Seconds of a token through the whole network, and of its share in the head's KL. */
static double token(const model *m) { return m->n.block_weights * m->p->block; }
static double scored_token(const model *m) { return token(m) + m->scored * m->p->head; }

/* Moments of gradients at outputs: a forward pass; for every label one back, with what it needs of a forward pass again, through the head too, and products of outputs. */
static double couple_s(const model *m)
{
    const bb_run_config *c = &m->r->config;
    const double         tokens = fmin(bb_coupling_windows(m->r), (double)c->calib_windows) * m->ctx;
    double               outputs = 0, inputs = 0;
    for (uint32_t b = 0; b < m->net->n_layer; b++) {
        for (int p = 0; p < BB_N_PARTS; p++)
            if (bb_output_moments_has(m->net, b, (bb_part)p)) outputs += pow(m->net->blocks[b].w[p].rows, 2);
        for (int k = 0; k < BB_N_FEEDS; k++) inputs += pow((double)bb_dim_of(m->net, &m->net->blocks[b], bb_feeds[k].width), 2);
    }
    return tokens * (token(m) + BB_OUTPUT_LABELS * (2 * token(m) + 2 * m->p->head + m->net->n_layer * m->p->moments * outputs / fmax(inputs, 1)));
}

static double calibrate_s(const model *m)
{
    const bb_run_config *c = &m->r->config;
    double               tokens = (double)c->calib_windows * m->ctx, s = tokens * (token(m) + m->net->n_layer * m->p->moments);
    const uint32_t       n_ordered = strcmp(c->prune, "none") == 0 ? 0 : m->net->n_layer;
    for (uint32_t b = 0; b < n_ordered; b++) { /* the order in which columns go: one elimination */
        for (int k = 0; k < BB_TOKEN; k++) {
            const bb_matrix *w = &m->net->blocks[b].w[bb_sublayers[k].writer];
            s += (cube(w->cols) + (double)w->cols * w->cols * w->rows / 2) * m->p->product;
        }
    }
    if (n_ordered && bb_width_order_gates(c->width_order)) { /* and the same once more, by gates: a score, and two backward passes */
        s += bb_gate_windows(m->net, (uint32_t)c->calib_windows, (uint32_t)m->ctx) * m->ctx * 5 * token(m);
        for (uint32_t b = 0; b < n_ordered; b++)
            for (int k = 0; k < BB_TOKEN; k++) s += cube(m->net->blocks[b].w[bb_sublayers[k].writer].cols) * m->p->product;
    }
    s += (double)(2 * c->measure_windows + c->refine_windows + c->confirm_windows) * m->ctx * token(m) + couple_s(m);
    if (bb_calibration_samples(c->calib)) s += (double)(c->calib_windows + c->confirm_windows) * m->ctx * m->n.block_weights * m->p->generate;
    return s;
}

static double factors_s(const model *m, const bb_block *b)
{
    double sum = 0;
    for (int k = 0; k < BB_N_FEEDS; k++) sum += has_feed(b, k) ? cube((double)bb_dim_of(m->net, b, bb_feeds[k].width)) : 0;
    return m->p->factor * sum;
}

static bool is_source(const bb_unit *u, uint32_t o) { return o + 1 == u->n_options; }

/* Weights of a format unit: bytes of any option tell. */
static double unit_weights(const model *m, uint32_t unit)
{
    const bb_unit *u = &bb_model_space_problem(m->r->space)->units[unit];
    for (uint32_t o = 0; o < u->n_options; o++) {
        const bb_format *f = bb_model_space_format(m->r->space, unit, o);
        if (f && !bb_is_forbidden(u->bytes[o]) && u->bytes[o] > 0) return (double)u->bytes[o] * 8 / bb_format_bpw(f);
    }
    return 0;
}

/* Mean seconds a weight over the formats of a unit. */
static double encode_mean(const model *m, uint32_t unit)
{
    const bb_unit *u = &bb_model_space_problem(m->r->space)->units[unit];
    double         sum = 0;
    uint32_t       n = 0;
    for (uint32_t o = 0; o < u->n_options; o++) {
        const bb_format *f = bb_model_space_format(m->r->space, unit, o);
        if (!f || is_source(u, o) || bb_is_forbidden(u->bytes[o])) continue;
        sum += m->p->encode[f->type];
        n++;
    }
    return n ? sum / n : 0;
}

/* Least squares for the columns that stay, of every width of o and down. */
static double compensate_s(const model *m, const bb_plan_unit *u, const bb_block *b)
{
    const double n = b->w[bb_sublayers[bb_unit_sublayer(u->what)].writer].cols, rows = m->net->n_embd;
    double       s = 0;
    for (uint32_t o = 1; o < u->n_options; o++) {
        const double kept = n * bb_width_count(u->options[o].value) / fmax(1, u->options[0].value);
        s += (cube(kept) / 3 + 2 * rows * kept * n) * m->p->product;
    }
    return s;
}

static double build_s(const model *m)
{
    const bb_problem *p = bb_model_space_problem(m->r->space);
    double            s = 0;
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bb_unit *unit = &p->units[u];
        if (!bb_model_space_is_format(m->r->space, u)) {
            s += compensate_s(m, &p->plans->units[u], &m->net->blocks[p->plans->units[u].layer]);
            continue;
        }
        for (uint32_t o = 0; o < unit->n_options; o++) {
            const bb_format *f = bb_model_space_format(m->r->space, u, o);
            if (f && !is_source(unit, o) && !bb_is_forbidden(unit->bytes[o])) s += unit_weights(m, u) * m->p->encode[f->type];
        }
    }
    for (uint32_t b = 0; b < m->net->n_layer; b++) s += factors_s(m, &m->net->blocks[b]);
    return s + m->p->factor * cube(m->net->n_embd);
}

/* Blocks run over all options, in networks. */
static double measured_networks(const bb_run *r)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    const double      n_layer = r->model.net.n_layer;
    double            sum = 0;
    for (uint32_t u = 0; u < p->n_units; u++) sum += p->units[u].n_options * (n_layer - p->plans->units[u].layer) / n_layer;
    return sum;
}

static double measure_s(const model *m)
{
    const double tokens = (double)m->r->config.measure_windows * m->ctx;
    const double heads = m->r->config.exact_from > 0 ? coarse_share : 1; /* run through the head; of what changes it there is little */
    return measured_networks(m->r) * m->n.block_weights * m->p->few + tokens * (double)m->n.n_options * 7 / 8 * heads * m->p->head;
}

/* The smallest file whose matrices are all in the source's types: whether pruning alone reaches a size. */
static double least_pruned(const bb_run *r)
{
    const bb_problem *p = bb_model_space_problem(r->space);
    double            sum = (double)p->fixed_bytes;
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bb_unit *unit = &p->units[u];
        double         least = HUGE_VAL;
        if (unit->controller >= 0) continue;
        if (bb_model_space_is_format(r->space, u)) {
            sum += (double)unit->bytes[unit->n_options - 1];
            continue;
        }
        for (uint32_t o = 0; o < unit->n_options; o++) {
            double bytes = bb_is_forbidden(unit->bytes[o]) ? HUGE_VAL : (double)unit->bytes[o];
            for (uint32_t i = 0; i < p->n_units; i++) {
                const bb_unit *of = &p->units[i];
                if (of->controller != (int32_t)u) continue;
                const int64_t b = of->bytes[(size_t)o * of->n_options + of->n_options - 1];
                bytes += bb_is_forbidden(b) ? HUGE_VAL : (double)b;
            }
            least = fmin(least, bytes);
        }
        sum += least;
    }
    return sum;
}

/* Sizes that have a result: a sweep of six and more gets two beside the knee of its front (run_search.c). */
static double final_sizes(const bb_run *r)
{
    enum { FEWEST = 6 };
    return r->is_sweep ? (double)r->n_budgets + (r->n_budgets >= FEWEST && !*r->config.sizes ? 2 : 0) : 1;
}

static bool spares(const bb_run *r) { return strcmp(r->config.finish, "contenders") == 0 && !r->config.no_finalise; }

/* Simple plans beside the searched ones: uniform, of `run` quantization alone, and where it gets there pruning alone. */
static double simple_plans(const bb_run *r)
{
    double target = r->config.target_size ? (double)r->config.target_size : r->config.target_bpw * (double)r->n_weights / 8;
    return r->is_sweep ? uniform_share * final_sizes(r) : least_pruned(r) <= target ? 3 : 2;
}

/* Plans that are finalised and evaluated, at every size that is asked for; where those far behind are spared, of `run` the best of the simple ones is none. */
static double final_plans(const bb_run *r) { return final_sizes(r) + (!spares(r) ? simple_plans(r) : r->is_sweep ? 0 : 1); }

static bool is_writer(uint32_t what)
{
    for (int s = 0; s < BB_N_SUBLAYERS; s++)
        if (what == (uint32_t)bb_sublayers[s].writer) return true;
    return false;
}

/* Tokens that the search scores: as many as it may, or one plan a size where there is nothing to search for. */
static double search_tokens(const bb_run *r)
{
    const bb_run_config *c = &r->config;
    return bb_method_named(c->search)->plan ? (double)r->n_budgets * (double)c->confirm_windows * (double)c->ctx : c->search_tokens * 1e6;
}

static double search_s(const model *m)
{
    const bb_run_config *c = &m->r->config;
    const bb_problem    *p = bb_model_space_problem(m->r->space);
    double               s = search_tokens(m->r) * (search_share * token(m) + m->scored * m->p->head);
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bb_unit *unit = &p->units[u], *control = unit->controller >= 0 ? &p->units[unit->controller] : NULL;
        if (!control || !is_writer(p->plans->units[u].what)) continue;
        s += pruned_share * (control->n_options - 1) * (unit->n_options - 1) / 2 * unit_weights(m, u) * encode_mean(m, u);
    }
    s += (final_sizes(m->r) + simple_plans(m->r)) * (double)c->confirm_windows * m->ctx * scored_token(m);
    return s + final_sizes(m->r) * uniform_share * BB_N_UNIFORM * (double)c->refine_windows * m->ctx * scored_token(m); /* of which the best is taken */
}

/* ---- finalise ---- */

/* What is kept of full precision between rebuilds on so many windows. */
static double states_bytes(const bb_run *r, double windows)
{
    const bb_net *net = &r->model.net;
    return windows * (double)r->config.ctx * (double)bb_row_width(net) * sizeof(float) * net->n_layer * bb_net_sublayers(net);
}

/* How much longer encoding takes where rows answer for each other: tiles of few rows do not fill the vectors. */
static double in_tiles(const model *m, uint32_t rows)
{
    const uint32_t tile = bb_coupling_tile(rows), lanes = (tile + BB_FORMAT_ROWS - 1) / BB_FORMAT_ROWS * BB_FORMAT_ROWS;
    return bb_coupling_windows(m->r) && rows <= BB_OUTPUT_ROWS ? (double)lanes / tile : 1;
}

/* Of one of so many plans, which share what full precision says where there is room for it (rebuild.h). */
static double rebuild_s(const model *m, double windows, double plans)
{
    const bb_problem *p = bb_model_space_problem(m->r->space);
    const double      full = states_bytes(m->r, windows) <= (double)bb_memory_for_caches(m->r) ? 1 / plans : 1;
    double            s = windows * m->ctx * ((1 + full) * token(m) + 2 * m->net->n_layer * m->p->moments);
    for (uint32_t b = 0; b < m->net->n_layer; b++) {
        s += factors_s(m, &m->net->blocks[b]);
        for (int k = 0; k < BB_N_PARTS; k++) { /* what a matrix should be: products with its inputs' moments, a solution */
            const bb_matrix *w = &m->net->blocks[b].w[k];
            const double     solve = w->cols > BB_CHOLESKY_WHOLE ? m->p->product : m->p->serial;
            s += (double)w->rows * w->cols * w->cols * m->p->product + (cube(w->cols) / 3 + (double)w->rows * w->cols * w->cols) * solve;
        }
    }
    for (uint32_t u = 0; u < p->n_units; u++) {
        const bb_plan_unit *of = &p->plans->units[u];
        if (of->what < BB_N_PARTS) s += unit_weights(m, u) * encode_mean(m, u) * in_tiles(m, m->net->blocks[of->layer].w[of->what].rows);
    }
    return s;
}

/* Plans rebuilt on half of the windows, and a point for about three of them: some four more formats of every matrix, each run from its block on. */
static double settle_s(const model *m)
{
    const bb_run_config *c = &m->r->config;
    const double         sizes = m->r->is_sweep ? (double)m->r->n_budgets : 1, one = rebuild_s(m, fmax(4, (double)c->calib_windows / 2), 1);
    const double         units = bb_model_space_problem(m->r->space)->n_units;
    const double         plan = one + (double)c->confirm_windows * m->ctx * scored_token(m);
    const double         point = 4 * one + 4 * units * (m->n.block_weights * m->p->few / 2 + (double)c->measure_windows * m->ctx * m->p->head);
    return c->settle ? sizes * ((double)c->settle * plan + fmin(4, (double)c->settle / 4) * point) : 0;
}

/* Steps on `tokens`, `batch` windows each: `states` networks to start from, `blocks` networks trained, with or without the head and all weights. */
static double tune_s(const model *m, double tokens, double batch, double states, double blocks, bool head, double weights)
{
    const bb_run_config *c = &m->r->config;
    const double         steps = fmax(1, floor(tokens / (batch * m->ctx))), used = steps * batch * m->ctx, held = (double)c->refine_windows * m->ctx;
    const double         windows = fmin(used, (double)c->tune_windows * m->ctx);
    return (windows + held) * states * token(m) + used * (3 * blocks * token(m) + (head ? 2 * m->p->head : 0)) +
           5 * held * (blocks * token(m) + (head ? m->scored * m->p->head : 0)) + steps * weights * step_s / m->threads;
}

/* What the source writes for the step qat, once for all plans. */
static double qat_self_s(const model *m)
{
    const bb_run_config *c = &m->r->config;
    const bool           samples = *c->qat_text ? bb_list_has(c->qat_text, "self") : bb_qat_adds_self(c->calib);
    if (!samples || c->tune_windows == 0 || !bb_list_has(c->finalise_steps, "qat")) return 0;
    return c->qat_tokens * 1e6 * m->n.block_weights * m->p->generate;
}

static double finalise_s(const model *m)
{
    const bb_run_config *c = &m->r->config;
    const double         n_layer = m->net->n_layer, score = (double)c->confirm_windows * m->ctx * scored_token(m), tokens = c->tune_tokens * 1e6;
    const double         table = (double)m->net->embd.rows * m->net->embd.cols + (double)m->net->head.rows * m->net->head.cols;
    double               s = 0; /* what the plan's matrices do as they are the search has measured */
    uint64_t             need;
    bool                 coarse;
    const bool           trains = bb_memory_trains_all(m->r, &coarse, &need); /* else these steps are left out */
    if (c->no_finalise) return final_plans(m->r) * (double)m->r->budgets[m->r->n_budgets - 1] * file_s;
    if (bb_list_has(c->finalise_steps, "rebuild")) s += rebuild_s(m, (double)c->calib_windows, final_plans(m->r)) + score;
    if (c->tune_windows > 0) {
        if (bb_list_has(c->finalise_steps, "blocks")) s += tune_s(m, tokens / 4, BB_LADDER_BATCH, 4, 1, false, m->n.block_weights) + score;
        if (bb_list_has(c->finalise_steps, "lfq")) s += tune_s(m, tokens / 4, BB_LADDER_BATCH, 2, 1 / n_layer, true, m->n.block_weights / n_layer) + score;
        if (trains && bb_list_has(c->finalise_steps, "end-to-end")) s += tune_s(m, tokens, BB_LADDER_BATCH, 1, 1, true, m->n.block_weights + table) + score;
        if (trains && bb_list_has(c->finalise_steps, "qat"))
            s += tune_s(m, c->qat_tokens * 1e6, (double)c->qat_batch, 1, 1, true, m->n.block_weights + table) + score;
    }
    return final_plans(m->r) * s + (trains ? qat_self_s(m) : 0);
}

/* Windows of the evaluation text: counted where they are known, else by the file's bytes and a guess of bytes a token. */
static double evaluation_windows(const model *m)
{
    const bb_run_config *c = &m->r->config;
    uint64_t             bytes;
    if (!*c->eval) return (double)c->confirm_windows;
    if (c->eval_windows > 0) return (double)c->eval_windows;
    if (bb_file_size(c->eval, &bytes, NULL) != BB_OK) return 0;
    return (double)bytes / (3 + 0.4 * log2(m->net->n_vocab / 4096.0 + 1)) / m->ctx;
}

/* The files and the source; what they were before finalise, of plans far behind nothing else (evaluate.c: on a quarter of the windows then); the domains of
 * every result. */
static double evaluate_s(const model *m)
{
    const double windows = evaluation_windows(m), part = spares(m->r) ? fmin(windows, fmax(16, windows / 4)) : windows;
    const double before = m->r->config.no_finalise ? 0 : final_sizes(m->r) + simple_plans(m->r);
    const double domains = BB_N_SHIPPED_PROBES * BB_PROBE_WINDOWS * fmin(BB_PROBE_CTX, m->ctx) * (final_sizes(m->r) + 1);
    return windows * m->ctx * (token(m) + (final_plans(m->r) + 1) * scored_token(m)) + part * m->ctx * before * scored_token(m) + domains * scored_token(m);
}

void bb_estimate_with(const bb_run *r, const bb_pace *pace, double seconds[BB_N_STAGES])
{
    const bool  gguf = bb_protocol_named(r->config.protocol) == BB_PROTOCOL_GGUF;
    const model m = { r, pace, &r->model.net, count(r), (double)r->config.ctx, fmin(omp_get_max_threads(), bb_cpus_usable()), gguf ? 0.5 : 1 };
    seconds[BB_STAGE_CALIBRATE] = calibrate_s(&m);
    seconds[BB_STAGE_BUILD] = build_s(&m);
    seconds[BB_STAGE_MEASURE] = measure_s(&m);
    seconds[BB_STAGE_SEARCH] = search_s(&m) + settle_s(&m);
    seconds[BB_STAGE_FINALISE] = finalise_s(&m);
    seconds[BB_STAGE_EVALUATE] = evaluate_s(&m);
}

bb_status bb_estimate_time(const bb_run *r, double seconds[BB_N_STAGES], bb_err *err)
{
    bb_pace         pace;
    const bb_status status = bb_pace_measure(r, NULL, &pace, err);
    if (status == BB_OK) bb_estimate_with(r, &pace, seconds);
    return status;
}

/* "25m 10s to 45m 20s"; in whole minutes above ten. */
void bb_estimate_interval(double seconds, char out[80])
{
    char         a[32], b[32];
    const double unit = seconds * low < 60 ? 1 : seconds * low < 600 ? 10 : 60;
    bb_format_time(floor(seconds * low / unit) * unit, a);
    bb_format_time(ceil(seconds * high / unit) * unit, b);
    snprintf(out, 80, "%s to %s", a, b);
}

/* ---- what is said ---- */

bb_status bb_estimate(const bb_run *r, bb_forecast *f, bb_err *err)
{
    const bb_run_config *c = &r->config;
    const counts         n = count(r);
    const double         ctx = (double)c->ctx;
    const uint64_t       hidden = (uint64_t)((double)(c->confirm_windows + c->refine_windows) * ctx) * bb_row_width(&r->model.net) * sizeof(float);
    const bool           rebuilds = !c->no_finalise && bb_list_has(c->finalise_steps, "rebuild");
    uint64_t             cache = hidden * (r->model.net.n_layer + 1), room = bb_memory_for_caches(r);
    bb_status            status;
    BB_TRY(bb_model_space_reach(r->space, &f->smallest, &f->largest, err));
    BB_TRY(bb_estimate_time(r, f->seconds, err));
    if (rebuilds && cache + (uint64_t)states_bytes(r, (double)c->calib_windows) <= room) cache += (uint64_t)states_bytes(r, (double)c->calib_windows);
    if (cache > room) cache = room;
    f->n_options = n.n_options;
    f->ram_least = bb_memory_least_of_all(r);
    f->states = bb_memory_spilled(r);
    f->ram = (f->states ? f->ram_least : bb_memory_without_disk(r)) + cache;
    f->disk = n.option_bytes + n.hessian_bytes + f->states;
    f->calibrate = (double)c->calib_windows * ctx;
    f->measure = measured_networks(r) * (double)c->measure_windows * ctx;
    f->search = search_tokens(r);
    f->finalise = c->no_finalise ? 0 : (final_plans(r) + 1) * f->calibrate;
    f->sum = 0;
    for (int i = 0; i < BB_N_STAGES; i++) f->sum += f->seconds[i];
    f->sum_low = low * f->sum;
    f->sum_high = high * f->sum;
done:
    return status;
}

bb_status bb_estimate_print(const bb_run *r, FILE *out, bb_err *err)
{
    bb_forecast f;
    double      load;
    char        text[80], more[32];
    bb_status   status;
    BB_TRY(bb_estimate(r, &f, err));
    bb_format_size(f.smallest, text);
    bb_format_size(f.largest, more);
    fprintf(out, "reachable       %llu bytes (%s) .. %llu bytes (%s)\n", (unsigned long long)f.smallest, text, (unsigned long long)f.largest, more);
    for (size_t i = 0; i < r->n_budgets; i++)
        fprintf(out, "budget          %lld bytes, %.3f bits per weight\n", (long long)r->budgets[i], 8.0 * (double)r->budgets[i] / (double)r->n_weights);
    fprintf(out, "options         %llu over %u units\n", (unsigned long long)f.n_options, bb_model_space_problem(r->space)->n_units);
    bb_format_size(f.ram, text);
    bb_format_size(f.ram_least, more);
    fprintf(out, "memory          %s beside the mapped model and options; at least %s (--max-ram)", text, more);
    bb_format_size(bb_memory_without_disk(r), text);
    fprintf(out, ", and %s with all hidden states in memory\n", text);
    bb_format_size(f.disk - f.states, text);
    fprintf(out, "disk            %s option database and second moments", text);
    bb_format_size(f.states, text);
    if (f.states) fprintf(out, ", and up to %s of hidden states while it works, in files of the run directory: --max-ram has no room for them", text);
    fprintf(out, "\n");
    fprintf(out, "tokens          %.2f M forwarded: calibrate %.2f, measure %.2f, search %.2f, finalise %.2f and tuning; evaluation on top\n",
            (f.calibrate + f.measure + f.search + f.finalise) / 1e6, f.calibrate / 1e6, f.measure / 1e6, f.search / 1e6, f.finalise / 1e6);
    bb_estimate_interval(f.sum, text);
    fprintf(out, "time            %s on %d threads of a quiet machine:", text, omp_get_max_threads());
    for (int i = 0; i < BB_N_STAGES; i++) {
        bb_format_time(f.seconds[i], more);
        fprintf(out, "%s %s %s", i ? "," : "", bb_stages[i].name, more);
    }
    fprintf(out, "\n");
    if (getloadavg(&load, 1) == 1 && load > 0.5 * bb_cpus_usable())
        fprintf(out, "                other work shares this one now (load %.1f, %g processors): it will take longer\n", load, bb_cpus_usable());
done:
    return status;
}

bb_status bb_estimate_print_json(const bb_run *r, FILE *out, bb_err *err)
{
    bb_forecast f;
    json_t     *root = NULL, *sizes = json_array(), *stages = json_object();
    char       *text = NULL;
    bb_status   status;
    BB_TRY(bb_estimate(r, &f, err));
    for (size_t i = 0; i < r->n_budgets; i++) json_array_append_new(sizes, json_integer((json_int_t)r->budgets[i]));
    for (int i = 0; i < BB_N_STAGES; i++) json_object_set_new(stages, bb_stages[i].name, json_real(f.seconds[i]));
    root = json_pack("{s:I, s:I, s:O, s:I, s:I, s:I, s:I, s:I, s:{s:f, s:f, s:f, s:f}, s:i, s:f, s:f, s:f, s:O}", "smallest_bytes", (json_int_t)f.smallest,
                     "largest_bytes", (json_int_t)f.largest, "sizes_bytes", sizes, "options", (json_int_t)f.n_options, "units",
                     (json_int_t)bb_model_space_problem(r->space)->n_units, "ram_bytes", (json_int_t)f.ram, "ram_least_bytes", (json_int_t)f.ram_least,
                     "disk_bytes", (json_int_t)f.disk, "tokens", "calibrate", f.calibrate, "measure", f.measure, "search", f.search, "finalise", f.finalise,
                     "threads", omp_get_max_threads(), "seconds", f.sum, "seconds_low", f.sum_low, "seconds_high", f.sum_high, "stages_seconds", stages);
    if (!root || !(text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9)))) status = BB_FAIL(err, BB_NOMEM, "out of memory for the estimate");
    else fprintf(out, "%s\n", text);
done:
    free(text);
    json_decref(root);
    json_decref(sizes);
    json_decref(stages);
    return status;
}
