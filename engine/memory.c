/* SPDX-License-Identifier: GPL-3.0-or-later
 * memory.c: see memory.h. Each sum follows the allocations of the stage's own file; timing.csv has what was reached. */
#include "engine/memory.h"
#include "engine/coupling.h"
#include "engine/evidence.h"
#include "engine/gates.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/log.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "eval/gradient.h"
#include "model/compress/database.h"
#include "model/compress/feedback.h"
#include "model/net/backend.h"
#include "model/net/net.h"
#include "model/tune/hyper.h"
#include "model/tune/latent.h"
#include "model/tune/moments.h"

/* What the program has before it does anything, with libraries and tables; of each thread the buffers of OpenBLAS, its stack, scratch; what the
 * heap keeps. */
static const double program_bytes = 48e6, thread_bytes = 20e6, heap_share = 1.1;

/* Of the files that they stand for: model/net/forward.c, model/net/backend_cpu.c, model/compress/rebuild.c, model/tune/trainer.c. */
enum { SLAB_TOKENS = 2048, HELD_BYTES = 256 << 20, KEPT_BYTES = 256 << 20, BATCH = 16, TUNE_BATCH = 8 };

typedef struct shapes {
    double block, cols, rows, matrix; /* weights of the largest block; of any matrix the most columns, rows, weights */
    double moments, tables;           /* squared inputs of the largest block; weights of embedding and head */
    double outputs, coupled;          /* squared outputs of the largest block, and of a matrix, as far as they have moments */
    double width;                     /* of what a token has inside the widest block */
} shapes;

static shapes shapes_of(const bb_net *net)
{
    shapes s = { .tables = (double)net->embd.rows * net->embd.cols + (double)net->head.rows * net->head.cols };
    for (uint32_t b = 0; b < net->n_layer; b++) {
        const bb_block *block = &net->blocks[b];
        double          weights = 0, moments = 0, outputs = 0;
        for (int p = 0; p < BB_N_PARTS; p++) {
            const double rows = block->w[p].rows, cols = block->w[p].cols;
            weights += rows * cols;
            s.rows = fmax(s.rows, rows);
            s.cols = fmax(s.cols, cols);
            s.matrix = fmax(s.matrix, rows * cols);
            if (!bb_output_moments_has(net, b, (bb_part)p)) continue;
            outputs += rows * rows;
            s.coupled = fmax(s.coupled, rows * rows);
        }
        for (int k = 0; k < BB_N_FEEDS; k++)
            if (k < BB_FEED_TOKEN || block->n_token) moments += pow((double)bb_dim_of(net, block, bb_feeds[k].width), 2);
        s.block = fmax(s.block, weights);
        s.moments = fmax(s.moments, moments);
        s.outputs = fmax(s.outputs, outputs);
        s.width = fmax(s.width, (net->n_carried ? 4.0 : 2.0) * net->n_embd + 3.0 * block->n_token + (double)bb_dim_of(net, block, BB_DIM_HD) +
                                    2.0 * (double)bb_dim_of(net, block, BB_DIM_GD) + 2.0 * block->n_ff);
    }
    return s;
}

typedef struct sums {
    const bb_run *r;
    shapes        s;
    double        token;         /* bytes of its hidden state */
    double        window;        /* of a window's */
    double        states;        /* of a window whose state is kept: the same, or 0, for it is on disk */
    double        network, base; /* a network that runs; the program, its threads and one */
} sums;

static double levels(const bb_run_config *c) { return (double)(2 * c->measure_windows + c->refine_windows + c->confirm_windows); }

/* Scored states of every level, and what a batch needs. */
static double evaluator(const sums *m) { return levels(&m->r->config) * m->states + 3 * BATCH * m->window; }

/* States at every boundary of the windows on which options are measured, which measuring cannot do without: those of `measure` come first. */
static double boundaries(const sums *m)
{
    const bb_run_config *c = &m->r->config;
    return 2 * (double)c->measure_windows * m->states * (m->r->model.net.n_layer + 2.0);
}

static double options(const sums *m)
{
    const bb_problem *p = bb_model_space_problem(m->r->space);
    double            n = 0;
    for (uint32_t u = 0; u < p->n_units; u++) n += p->units[u].n_options;
    return n;
}

/* Sketches of all options. */
static double psi(const sums *m)
{
    return options(m) * (double)m->r->config.measure_windows * (double)m->r->config.ctx * (double)m->r->config.probes * sizeof(float);
}

static double largest_file(const bb_run *r)
{
    double most = 0;
    for (size_t i = 0; i < r->n_budgets; i++) most = fmax(most, (double)r->budgets[i]);
    return most;
}

/* The moments of a block are added up in float64, then are float32 in the same memory, of which half is given back; what orders columns comes behind (mask.c). */
static double calibrate(const sums *m)
{
    enum { WAITING = 512 + 2 * 64 + 256 }; /* rows of mask.c that wait, twice, and those of a round; columns that cholesky.c copies */
    const double order = 8 * m->s.cols * m->s.cols + 12 * m->s.matrix + 8 * WAITING * (m->s.cols + m->s.rows);
    return (double)m->r->config.calib_windows * m->states + BATCH * m->window + fmax(8 * m->s.moments, 4 * m->s.moments + order);
}

/* Learning gates: states at every boundary, a window at a time in both directions, the gradients and moments of a block. */
static double gates(const sums *m)
{
    const bb_run_config *c = &m->r->config;
    const double         n = bb_gate_windows(&m->r->model.net, (uint32_t)c->calib_windows, (uint32_t)c->ctx), n2 = m->s.cols * m->s.cols;
    return n * m->states * (m->r->model.net.n_layer + 4.0) + 3 * BATCH * m->window + sizeof(float) * m->s.block + 3 * 8 * n2 + 12 * m->s.matrix +
           8 * m->s.moments;
}

/* The same for the moments of gradients at outputs; none at windows 0. */
static double output_moments(const sums *m, uint32_t windows)
{
    const bb_run_config *c = &m->r->config;
    const double         n = bb_gradient_count(&m->r->model.net, (uint32_t)c->calib_windows, (uint32_t)c->ctx, windows);
    return windows ? n * m->states * (m->r->model.net.n_layer + 4.0) + 3 * BATCH * m->window + 12 * m->s.outputs + 12 * m->s.matrix : 0;
}

/* The matrices of one input, those of a block or the tables: what is encoded is decoded a piece at a time, but for what is pruned. Weights are made up for what is
 * pruned first; then come the moments of what is left, and their factor. */
static double group(const sums *m)
{
    const double C = m->r->model.net.n_embd, n2 = m->s.cols * m->s.cols, packed = 4 * m->s.matrix;
    const double pruned = 8 * m->s.matrix + fmax(8 * n2 + 8 * m->s.matrix, 16 * m->s.matrix), factored = 4 * m->s.matrix + packed + 12 * n2;
    return fmax(fmax(pruned, factored), (4 * 2 + 2 * 8) * C * C + sizeof(float) * fmin(BB_QUANTIZE_FLOATS, m->s.tables) + 2 * m->s.tables);
}

static double build(const sums *m) { return evaluator(m) + boundaries(m) + fmin(BB_DATABASE_CACHE_BYTES, 6 * 8 * m->s.cols * m->s.cols) + group(m); }

/* The inputs of o or down that a rebuild keeps. */
static double kept_inputs(const sums *m, const bb_block *block, bb_feed feed)
{
    const double n = (double)m->r->config.calib_windows * (double)m->r->config.ctx * (double)bb_dim_of(&m->r->model.net, block, bb_feeds[feed].width);
    return bb_feeds[feed].width != BB_DIM_C && n * sizeof(float) <= KEPT_BYTES && m->states > 0 ? n * sizeof(float) : 0;
}

/* One stage of a rebuild: its inputs are measured, then come the targets of its matrices, the factor, and what encodes one. */
static double rebuild_stage(const sums *m, const bb_block *block, bb_feed feed)
{
    const bb_net        *net = &m->r->model.net;
    const bb_run_config *c = &m->r->config;
    const double         n = (double)bb_dim_of(net, block, bb_feeds[feed].width), n2 = n * n;
    const bool           output = bb_feeds[feed].width != BB_DIM_C;
    const double         cross = 8 * n * (output ? net->n_embd : n), kept = kept_inputs(m, block, feed);
    double               matrix = 0, all = 0, coupled = 0;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const double rows = block->w[p].rows, size = rows * block->w[p].cols;
        if (bb_parts[p].feed != feed) continue;
        matrix = fmax(matrix, size);
        all += size;
        if (c->output_windows && rows <= BB_OUTPUT_ROWS) coupled = fmax(coupled, 20 * rows * rows);
    }
    const double measure = 8 * n2 + cross + 2 * TUNE_BATCH * (double)c->ctx * n * sizeof(float) + 4 * matrix;
    const double product = 8 * n2 + 8 * matrix, turned = 16 * matrix, target = output ? fmax(product, turned) : cross + 8 * n2 + fmax(product, turned);
    const double encode = 8 * n2 + 8 * matrix + coupled;
    const double pages = 2 * matrix; /* of the source, which the target is decoded from */
    return kept + fmax(measure, 4 * n2 + 4 * all + pages + fmax(target, fmax(8 * n2, encode - 4 * n2)));
}

static double rebuild(const sums *m)
{
    const bb_net *net = &m->r->model.net;
    double        most = 0;
    for (uint32_t b = 0; b < net->n_layer; b++)
        for (int k = 0; k < BB_N_FEEDS; k++)
            if (k < BB_FEED_TOKEN || net->blocks[b].n_token) most = fmax(most, rebuild_stage(m, &net->blocks[b], (bb_feed)k));
    return 2 * (double)m->r->config.calib_windows * m->states + 2 * TUNE_BATCH * m->window + most;
}

/* States of both networks on the windows that are drawn and held out, and what a batch needs. */
static double tune_states(const sums *m)
{
    const bb_run_config *c = &m->r->config;
    const double         drawn = fmin((double)c->tune_windows, fmax(1, c->tune_tokens * 1e6 / (double)c->ctx)) + (double)c->refine_windows;
    return 2 * drawn * m->states + 4 * TUNE_BATCH * (double)c->ctx * m->s.width * sizeof(float);
}

/* Steps on one block at a time; all together are left out where they do not fit (ladder.c). */
static double tune(const sums *m) { return tune_states(m) + 6 * sizeof(float) * m->s.block; }

/* A plan that is finished. Its matrices lie in the database, and what is rebuilt in files of the run; what is trained is a copy beside the best so far, which may be one
 * itself. The exporter has rows in another order, or fused. */
static double plan(const sums *m)
{
    static const char *const trained[] = { "blocks", "lfq", "end-to-end", "qat" };
    const bb_run_config     *c = &m->r->config;
    const double             file = largest_file(m->r);
    double                   most = 0;
    int                      n_trained = 0;
    for (size_t i = 0; i < sizeof trained / sizeof *trained; i++) n_trained += !c->no_finalise && bb_list_has(c->finalise_steps, trained[i]);
    if (!c->no_finalise && bb_list_has(c->finalise_steps, "rebuild")) most = rebuild(m);
    if (!c->no_finalise && c->tune_windows > 0 && (bb_list_has(c->finalise_steps, "blocks") || bb_list_has(c->finalise_steps, "lfq")))
        most = fmax(most, (n_trained > 1 ? 2 : 1) * file + tune(m));
    return fmax(most, (n_trained > 0 ? 2 : 1) * file);
}

static double finalise(const sums *m) { return evaluator(m) + boundaries(m) + plan(m); }

static sums sums_of(const bb_run *r, int threads, bool on_disk)
{
    const bb_net *net = &r->model.net;
    const double  slab = fmax((double)r->config.ctx, SLAB_TOKENS);
    sums          m = { .r = r, .s = shapes_of(net), .token = (double)bb_row_width(net) * (double)sizeof(float) };
    m.window = m.token * (double)r->config.ctx;
    m.states = on_disk ? 0 : m.window;
    m.network = slab * m.s.width * sizeof(float) + fmin(HELD_BYTES, 4 * m.s.block);
    m.base = program_bytes + thread_bytes * threads + m.network;
    return m;
}

/* What goes beside the sketches around full precision: those around a plan, before and after they are spread over all options. */
static double local_scores(const sums *m) { return strcmp(m->r->config.sketch, "none") == 0 ? 0 : 2 * psi(m); }

/* Inner products of all pairs of options: of the method, of a local score, of the certificate, and two matrices of doubles of its bound (quadratic_bound.c). */
static double pairs(const sums *m)
{
    const bb_run_config    *c = &m->r->config;
    const bb_search_method *method = bb_method_named(c->search);
    const double            n = options(m), one = sizeof(float), two = 2 * sizeof(double);
    double                  bytes = n <= BB_CERTIFIED_OPTIONS ? one + two : 0;
    if (m->r->more_pairs || (method && method->needs_quadratic)) bytes += one;
    if (strcmp(c->sketch, "none") != 0) bytes += one;
    return n * n * bytes;
}

/* Masks learned over channels before a search (toga.h): of every weight of a linear what it is at low precision, what the high one adds and what it is with masks; the
 * gradients of a block and a matrix as it is decoded; the weights of the hypernetwork, their gradients and moments; another network that runs, both ways. */
static double learned(const sums *m)
{
    enum { WEIGHT = 3 * sizeof(float), HYPER = 4 * BB_HYPER_OUT * sizeof(float), MASK = 8 * sizeof(double) };
    const bb_net           *net = &m->r->model.net;
    const bb_search_method *method = bb_method_named(m->r->config.search);
    double                  weights = 0, masks = 0;
    if (!m->r->more_learned && (!method || !method->needs_learned)) return 0;
    for (uint32_t b = 0; b < net->n_layer; b++) {
        for (int p = 0; p < BB_N_PARTS; p++) {
            weights += (double)net->blocks[b].w[p].rows * net->blocks[b].w[p].cols;
            masks += net->blocks[b].w[p].cols;
        }
        masks += net->blocks[b].n_ff;
    }
    return WEIGHT * weights + sizeof(float) * (m->s.block + m->s.matrix) + (HYPER + MASK) * masks + 2 * m->network + (net->n_layer + 3.0) * m->window;
}

/* Of each stage. */
static void least_with(const bb_run *r, int threads, bool on_disk, uint64_t bytes[BB_N_STAGES])
{
    const sums m = sums_of(r, threads, on_disk);
    double     need[BB_N_STAGES];
    need[BB_STAGE_CALIBRATE] = fmax(fmax(calibrate(&m), bb_width_order_gates(r->config.width_order) ? gates(&m) : 0), evaluator(&m) + boundaries(&m));
    need[BB_STAGE_CALIBRATE] = fmax(need[BB_STAGE_CALIBRATE], output_moments(&m, bb_coupling_windows(r)));
    need[BB_STAGE_BUILD] = build(&m);
    need[BB_STAGE_MEASURE] = evaluator(&m) + boundaries(&m) + psi(&m) + 2 * (double)r->config.measure_windows * m.window;
    need[BB_STAGE_SEARCH] = (double)r->config.workers * (evaluator(&m) + m.base) - m.base + boundaries(&m) + psi(&m) + local_scores(&m) +
                            fmax(build(&m) - evaluator(&m) - boundaries(&m), pairs(&m) + learned(&m));
    need[BB_STAGE_FINALISE] = finalise(&m);
    need[BB_STAGE_EVALUATE] = evaluator(&m) + boundaries(&m) + 4 * BATCH * m.window;
    for (int i = 0; i < BB_N_STAGES; i++) bytes[i] = (uint64_t)(heap_share * (m.base + need[i]));
}

static uint64_t most_with(const bb_run *r, int threads, bool on_disk)
{
    uint64_t each[BB_N_STAGES], most = 0;
    least_with(r, threads, on_disk, each);
    for (int i = 0; i < BB_N_STAGES; i++)
        if (each[i] > most) most = each[i];
    return most;
}

uint64_t bb_memory_least_of_all(const bb_run *r) { return most_with(r, omp_get_max_threads(), true); }
uint64_t bb_memory_without_disk(const bb_run *r) { return most_with(r, omp_get_max_threads(), false); }

/* Bytes that an optimizer keeps of a weight (model/tune/adamw.h), and a trainer: it, its gradient and what its code decodes to besides. */
static double moment_bytes(bool coarse) { return coarse ? 2 + 8.0 / BB_MOMENTS_BLOCK : 2 * sizeof(float); }
static double trained_bytes(bool coarse) { return 3 * sizeof(float) + moment_bytes(coarse); }
/* The same of any type that a plan may have. */
static double most_trained_bytes(bool coarse) { return trained_bytes(coarse) + BB_LATENT_CODE_BYTES; }

/* Of every matrix of a network, embedding and head among them. */
static double sum_of(const bb_net *net, double (*of)(const bb_matrix *))
{
    double n = of(&net->embd) + of(&net->head);
    for (uint32_t b = 0; b < net->n_layer; b++)
        for (int p = 0; p < BB_N_PARTS; p++) n += of(&net->blocks[b].w[p]);
    return n;
}

static double weights_of_matrix(const bb_matrix *m) { return (double)m->rows * m->cols; }
static double weights_of(const bb_net *net) { return sum_of(net, weights_of_matrix); }

static uint64_t allowed(const bb_run *r) { return r->config.max_ram ? r->config.max_ram : UINT64_MAX; }

/* What a run that trains all matrices must have beside what training them takes; whoever else searches there, the same ones are trained. */
static double beside_training(const bb_run *r, int threads, bool on_disk)
{
    bb_run       own = *r;
    const sums   m = sums_of(r, threads, on_disk);
    const double step = heap_share * (m.base + evaluator(&m) + boundaries(&m) + 2 * largest_file(r) + tune_states(&m));
    own.more_pairs = own.more_learned = false;
    return fmax((double)most_with(&own, threads, on_disk), step);
}

static bool trains_all(const bb_run *r, bool on_disk, bool *coarse, uint64_t *need)
{
    const double least = beside_training(r, 1, on_disk), n = weights_of(&r->model.net);
    *coarse = least + most_trained_bytes(false) * n > (double)allowed(r);
    *need = (uint64_t)(least + most_trained_bytes(*coarse) * n);
    return *need <= allowed(r);
}

bool bb_memory_trains_all(const bb_run *r, bool *coarse, uint64_t *need) { return trains_all(r, false, coarse, need) || trains_all(r, true, coarse, need); }

static bool asks_to_train_all(const bb_run_config *c)
{
    return !c->no_finalise && (bb_list_has(c->finalise_steps, "end-to-end") || bb_list_has(c->finalise_steps, "qat"));
}

void bb_memory_warn_of_training(bb_run *r)
{
    const bool end_to_end = bb_list_has(r->config.finalise_steps, "end-to-end"), qat = bb_list_has(r->config.finalise_steps, "qat");
    uint64_t   need;
    bool       coarse;
    char       bytes[32];
    if (r->untrained_said || !asks_to_train_all(&r->config) || bb_memory_trains_all(r, &coarse, &need)) return;
    r->untrained_said = true;
    bb_format_size(need, bytes);
    bb_warn("%s: training all blocks of this model needs --max-ram %llu (%s): the step is left out",
            end_to_end && qat ? "end-to-end and qat"
            : end_to_end      ? "end-to-end"
                              : "qat",
            (unsigned long long)need, bytes);
}

/* Bytes that training all matrices takes of a run that asks for it; 0 where they do not fit, or it does not. */
static double training(const bb_run *r)
{
    uint64_t need;
    bool     coarse;
    return asks_to_train_all(&r->config) && bb_memory_trains_all(r, &coarse, &need) ? most_trained_bytes(coarse) * weights_of(&r->model.net) : 0;
}

bool bb_memory_spills(const bb_run *r)
{
    bool     coarse;
    uint64_t need;
    if (bb_spills() || allowed(r) < bb_memory_without_disk(r)) return true; /* who has fewer threads for a while goes on as it was begun */
    return asks_to_train_all(&r->config) && !trains_all(r, false, &coarse, &need) && trains_all(r, true, &coarse, &need);
}

bb_status bb_memory_hold(bb_run *r, bb_err *err)
{
    r->holds_memory = true;
    bb_map_limit(r->config.max_ram);
    return bb_spill_to(bb_memory_spills(r) ? r->config.out : NULL, err);
}

void bb_memory_let_go(bb_run *r)
{
    if (!r->holds_memory) return;
    bb_map_limit(0);
    bb_spill_to(NULL, NULL);
    r->holds_memory = false;
}

/* As the run at hand has it. */
static sums sums_now(const bb_run *r, int threads) { return sums_of(r, threads, bb_memory_spills(r)); }

/* Of n pieces, each of which takes so many bytes. */
static uint32_t at_once(size_t n, uint64_t room, double each)
{
    const size_t threads = (size_t)omp_get_max_threads(), most = n < threads ? n : threads;
    const double fit = 1 + floor((double)room / (heap_share * each));
    return most < 2 ? 1 : fit < (double)most ? (uint32_t)fit : (uint32_t)most;
}

uint32_t bb_memory_for_plans(const bb_run *r, size_t plans, uint64_t room, uint64_t *more)
{
    const sums     m = sums_now(r, 1);
    const double   each = plan(&m) + 2 * m.network + 3 * BATCH * m.window + training(r); /* what is rebuilt or tuned runs, and so does what scores it */
    const uint32_t n = at_once(plans, room, each);
    *more = (uint64_t)(heap_share * each * (n - 1));
    return n;
}

uint32_t bb_memory_for_networks(const bb_run *r, size_t networks, uint64_t room)
{
    const sums m = sums_now(r, 1);
    return at_once(networks, room, m.network + 4 * BATCH * m.window);
}

uint32_t bb_memory_for_options(const bb_run *r, size_t groups, uint64_t room)
{
    const sums m = sums_now(r, 1);
    return at_once(groups, room, group(&m));
}

/* For caches that may be or not; the rest is for pages of what is mapped. */
static uint64_t spare(const bb_run *r)
{
    const int      threads = omp_get_max_threads();
    const bool     spills = bb_memory_spills(r);
    const double   trained = training(r); /* while the evaluator has its caches */
    const double   least = fmax(trained > 0 ? beside_training(r, threads, spills) + trained : 0, (double)most_with(r, threads, spills));
    const uint64_t all = (double)allowed(r) > least ? (uint64_t)((double)allowed(r) - least) / 5 * 4 : 0;
    return all > r->kept_room ? all - r->kept_room : 0;
}

static uint64_t all_boundaries(const bb_run *r)
{
    const sums m = sums_of(r, 1, false);
    return (uint64_t)boundaries(&m);
}

uint64_t bb_memory_for_caches(const bb_run *r) { return spare(r) + (bb_memory_spills(r) ? 0 : all_boundaries(r)); }
uint64_t bb_memory_for_evaluator(const bb_run *r) { return spare(r) + all_boundaries(r); }

uint64_t bb_memory_keep_half(bb_run *r)
{
    bb_full_states_done(&r->full_states);
    bb_net_evaluator_destroy(r->evaluator);
    r->evaluator = NULL;
    r->kept_room = 0;
    return r->kept_room = spare(r) / 2;
}

uint64_t bb_memory_spilled(const bb_run *r)
{
    const int  threads = omp_get_max_threads();
    const sums in = sums_of(r, threads, false), out = sums_of(r, threads, true);
    double     calibration = calibrate(&in) - calibrate(&out), inputs = 0, finished = 0;
    if (!bb_memory_spills(r)) return 0;
    if (bb_width_order_gates(r->config.width_order)) calibration = fmax(calibration, gates(&in) - gates(&out));
    calibration = fmax(calibration, output_moments(&in, bb_coupling_windows(r)) - output_moments(&out, bb_coupling_windows(r)));
    for (uint32_t b = 0; b < r->model.net.n_layer; b++)
        for (int k = 0; k < BB_N_FEEDS; k++)
            if (k < BB_FEED_TOKEN || r->model.net.blocks[b].n_token) inputs = fmax(inputs, kept_inputs(&in, &r->model.net.blocks[b], (bb_feed)k));
    if (!r->config.no_finalise) finished = fmax(2 * (double)r->config.calib_windows * in.window + inputs, tune_states(&in) - tune_states(&out));
    const double scored = evaluator(&in) - evaluator(&out);
    return (uint64_t)fmax(calibration, (double)r->config.workers * scored + (double)bb_memory_for_evaluator(r) + threads * finished);
}

/* Of one matrix at a time also what it is decoded to. */
static double f16_copy(const bb_net *net)
{
    const bb_matrix *tables[] = { &net->embd, &net->head };
    double           bytes = 0, most = 0;
    for (uint32_t b = 0; b < net->n_layer + 1; b++)
        for (int p = 0; p < (b < net->n_layer ? BB_N_PARTS : 2); p++) {
            const bb_matrix *w = b < net->n_layer ? &net->blocks[b].w[p] : tables[p];
            const double     n = w->rows && w->type != BB_F16 ? (double)w->rows * w->cols : 0;
            bytes += 2 * n;
            most = fmax(most, n);
        }
    return bytes + sizeof(float) * most;
}

bool bb_memory_copies_source(const bb_run *r, uint64_t *bytes)
{
    const sums   m = sums_now(r, omp_get_max_threads());
    const double copy = f16_copy(&r->model.net), caches = (double)bb_memory_for_caches(r) - (double)bb_run_unused_memory(r);
    *bytes = (uint64_t)copy;
    return !(copy > 0) || heap_share * (m.base + evaluator(&m) + copy) + fmax(caches, heap_share * boundaries(&m)) <= (double)allowed(r);
}

uint64_t bb_memory_for_worker(const bb_run *r) { return r->config.workers > 1 ? spare(r) / (uint64_t)r->config.workers : 0; }

/* ---- without a run directory ---- */

uint64_t bb_memory_to_quantize(const bb_net *net, uint32_t windows, uint32_t ctx, bool rebuilds, bool by_gates, uint32_t output_windows, bool rotated,
                               uint64_t file_bytes, bool on_disk)
{
    const bb_run r = { .model.net = *net, .config = { .calib_windows = windows, .ctx = ctx, .output_windows = output_windows } };
    const sums   m = sums_of(&r, omp_get_max_threads(), on_disk);
    double       need = 12 * fmax(m.s.matrix, m.s.tables) + 3 * BATCH * m.window; /* one matrix as it is encoded; windows that are evaluated */
    if (windows) need = fmax(need, fmax(calibrate(&m), build(&m)));
    if (windows && rebuilds) need = fmax(need, fmax(rebuild(&m), output_moments(&m, output_windows)));
    if (windows && by_gates) need = fmax(need, gates(&m));
    return (uint64_t)(heap_share * (m.base + need + 2 * (double)file_bytes + (rotated ? sizeof(float) * weights_of(net) : 0)));
}

uint64_t bb_memory_to_train(const bb_net *net, uint32_t ctx, uint32_t batch, uint64_t text_bytes)
{
    enum {
        GROUP_TOKENS = 4096,
        SLAB = 512,
        FLOATS = 6
    }; /* model/train/train.c; of a weight: itself, gradient, two means, and both once more where a state is saved */
    const bb_run r = { .model.net = *net, .config = { .ctx = ctx } };
    const sums   m = sums_of(&r, omp_get_max_threads(), false);
    const double group = fmin((double)batch * ctx, fmax(GROUP_TOKENS, ctx)), slab = fmin(group, fmax(SLAB, ctx));
    const double packed = fmin(HELD_BYTES, sizeof(float) * weights_of(net)), logits = 2.0 * fmin(BB_LOSS_FLOATS, slab * net->n_vocab) * sizeof(float);
    return (uint64_t)(heap_share * (m.base + FLOATS * sizeof(float) * weights_of(net) + packed + logits + (net->n_layer + 4.0) * group * m.token +
                                    2 * slab * m.s.width * sizeof(float) + 3 * BATCH * m.window + 2 * (double)text_bytes));
}

bb_status bb_memory_allows(uint64_t given, uint64_t need, const char *what, const char *less, bb_err *err)
{
    char text[32], limit[32];
    if (!given || need <= given) return BB_OK;
    bb_format_size(need, text);
    bb_format_size(given, limit);
    return BB_FAIL(err, BB_INFEASIBLE, "--max-ram %s is not enough: %s needs %llu bytes (%s); %s need less", limit, what, (unsigned long long)need, text, less);
}

bb_status bb_memory_check(const bb_run *r, bb_err *err)
{
    const uint64_t least = bb_memory_least_of_all(r);
    char           need[32], given[32];
    if (allowed(r) >= least) return BB_OK;
    bb_format_size(least, need);
    bb_format_size(r->config.max_ram, given);
    return BB_FAIL(err, BB_INFEASIBLE,
                   "--max-ram %s is not enough: this run needs %llu bytes (%s), with hidden states on disk; fewer --measure-windows, a smaller --ctx, fewer "
                   "--formats or fewer --threads need less",
                   given, (unsigned long long)least, need);
}

bb_status bb_memory_count_method(bb_run *r, const bb_search_method *m, bb_err *err)
{
    const bb_search_method *own = bb_method_named(r->config.search);
    const bool              pairs = m->needs_quadratic && !own->needs_quadratic, learned = m->needs_learned && !own->needs_learned;
    bb_status               status = BB_OK;
    if (!pairs && !learned) return BB_OK;
    r->more_pairs |= pairs;
    r->more_learned |= learned;
    BB_TRY(bb_memory_check(r, err));
    BB_TRY(bb_memory_hold(r, err));
done:
    return status;
}

/* ---- low-bit training by itself ---- */

/* Of lattices, whose float64 scratch and whose floats of the file and of the trained network come to four floats a weight. */
static double lattice_bytes(const bb_matrix *m) { return m->lattice ? 4 * sizeof(float) * weights_of_matrix(m) : 0; }
static double code_bytes(const bb_matrix *m) { return m->lattice ? 0 : bb_latent_code_bytes(bb_format_get(m->type)) * weights_of_matrix(m); }

static double widest(const bb_net *net)
{
    double most = 0;
    for (uint32_t b = 0; b < net->n_layer; b++) {
        const bb_block *k = &net->blocks[b];
        most = fmax(most, (net->n_carried ? 8.0 : 4.0) * net->n_embd + 5.0 * k->n_token + 4.0 * (double)bb_dim_of(net, k, BB_DIM_HD) +
                              5.0 * (double)bb_dim_of(net, k, BB_DIM_GD) + 4.0 * k->n_ff);
    }
    return most;
}

uint64_t bb_qat_memory(const bb_net *full, const bb_net *student, const bb_tune_options *o, uint32_t ctx, uint32_t n_held)
{
    enum { PROGRAM = 100 << 20, PACKED = 768 << 20, LOOK_WINDOWS = 8, SLAB = 512 };
    const double once = fmax(o->at_once && o->at_once < o->batch ? o->at_once : o->batch, LOOK_WINDOWS), row = (double)bb_row_width(full) * sizeof(float);
    const double rows = once * ctx, slab = fmax(SLAB, ctx), logits = 2.0 * fmin(BB_LOSS_FLOATS, slab * full->n_vocab) * sizeof(float);
    const double packed = fmin(PACKED, 3.0 * sizeof(float) * weights_of(student));
    return (uint64_t)(PROGRAM + sum_of(student, lattice_bytes) + sum_of(student, code_bytes) + trained_bytes(o->coarse_moments) * 1.05 * weights_of(student) +
                      packed + logits + (student->n_layer + 5.0) * rows * row + slab * widest(full) * sizeof(float) + 2.0 * n_held * ctx * row);
}

uint64_t bb_qat_state_bytes(const bb_net *student, bool coarse)
{
    return (uint64_t)((sizeof(float) + moment_bytes(coarse)) * 1.05 * weights_of(student)) + (64 << 10);
}
