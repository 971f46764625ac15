/* SPDX-License-Identifier: GPL-3.0-or-later
 * rebuild.c: see rebuild.h.
 *
 * Two streams of hidden states run through the network side by side, full precision (x, residual r) and the plan as rebuilt
 * so far (x^, r^), half a block at a time: attention, FFN. Each half has two stages, q k v | o and gate up | down; before
 * each, the moments of its inputs are measured on the half as it then stands. The weights that a stage should have are the
 * least-squares ones
 *     V = W0 + [ a (E[y x^'] - W0 E[x^ x^']) + b E[(r - r^) x^'] ] (E[x^ x^'] + damping)^-1,
 * y = W x full precision's outputs, W0 the weights of the plan's shape: the first term corrects for the inputs being others than the
 * weights were trained on (as in GPTAQ [1] and QEP [2]); the second, for o and down only, lets them take back what the residual
 * stream has lost so far. V is then quantized under E[x^ x^'] with error feedback. Shares a, b: docs/quantization.md.
 * Where the moments of the gradients at the outputs are known, rows answer for each other as well (coupling.h).
 * E[y x^'] of q, k, v, gate and up is W E[x x^']. Of o and down, whose inputs are wider than their outputs, y is what the half adds
 * to the residual, so that a y + b (r - r^) has one moment with x^, and full precision is at the end of the half when it is measured.
 * Where a norm stands behind o and down, y is what it gets, and b is 0: nothing that is added before it comes out of it as it was.
 * [1] Li et al. GPTAQ. arXiv 2504.02692.  [2] Arai, Ichikawa. Quantization error propagation. arXiv 2504.09629.
 */
#include "model/compress/rebuild.h"

#include <stdio.h>
#include <string.h>

#include "base/crew.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/blas.h"
#include "model/compress/feedback.h"
#include "model/compress/statistics.h"
#include "model/net/host.h"

enum { BATCH = 8, KEPT_BYTES = 256 << 20 };

static const double input_share = 1.0, residual_share = 0.75, solve_damping = 0.2;

/* One stream: a network, its hidden states, and the inputs that one stage has in a batch. */
typedef struct stream {
    const bb_net *net;
    bb_block      half;    /* the current block with its other half absent */
    float        *h;       /* [n_windows * ctx][C] at the half's input: the residual that its output is added to */
    float        *scratch; /* [BATCH * ctx][C] runs through the half */
    float        *x;       /* [BATCH * ctx][cols] inputs of the stage; NULL unless windows run up to one */
    bb_feed       stage;
    uint32_t      cols;     /* of x */
    bool          advanced; /* h is at the half's output */
    float        *all_x;    /* [n_windows * ctx][cols] inputs of o or down of all windows, when they fit into KEPT_BYTES; owned, or NULL */
} stream;

typedef struct rebuild {
    bb_database              *db;
    const bb_model           *model;
    const bb_quant_options   *options;
    const bb_lattice_options *lattice; /* every linear becomes LC2, whatever the plan's type is; NULL: no */
    bb_forward               *forward;
    uint32_t                  n_windows, ctx, layer;
    stream                    full, small; /* full precision and compressed */
    bb_rebuilt               *out;
    bb_block                 *wanted; /* [n_layer] the plan's shapes and types */
    bool                     *todo;   /* [n_layer][BB_N_PARTS] will be quantized; until then *out has it in its source type */
    /* moments of a stage */
    bb_hessian                h;       /* E[x^ x^'] */
    double                   *cross;   /* q k v, gate up: (n, n^) sum of x x^'; o, down: (C, n^) sum of (a y + b (r - r^)) x^' */
    size_t                    n_cross; /* rows of it */
    double                   *solver;  /* NULL: not yet made */
    bb_progress               progress;
    const bb_rebuild_watcher *watch;  /* NULL: nobody */
    bb_rebuilt_width         *widths; /* [n_widths] others of the sublayer at hand */
    uint32_t                  n_widths;
    float                    *wanted_outputs; /* [n_windows * ctx][C] what its writer should give, where there are such */
    bb_full_states           *kept;           /* NULL: nothing is kept */
    uint32_t                  half;           /* of all halves: where `full` stands */
} rebuild;

void bb_rebuilt_done(bb_rebuilt *r)
{
    for (size_t i = 0; r->maps && i < r->n_maps; i++) bb_map_close(&r->maps[i]);
    bb_free(r->maps);
    for (size_t i = 0; r->packed && i < r->n_packed; i++) bb_free(r->packed[i]);
    bb_free(r->packed);
    bb_free(r->blocks);
    bb_checkpoint_close(&r->checkpoint);
    memset(r, 0, sizeof *r);
}

/* ---- full precision, once for all plans ---- */

void bb_full_states_done(bb_full_states *s)
{
    bb_free(s->h);
    *s = (bb_full_states) { .most = s->most };
}

/* Floats of one half. */
static size_t half_size(const rebuild *b) { return (size_t)b->n_windows * b->ctx * bb_row_width(&b->model->net); }

/* What was kept of other windows goes. Without room, or memory, full precision runs again. */
static void open_states(rebuild *b, const int32_t *tokens)
{
    const size_t n = half_size(b) * b->model->net.n_layer * (size_t)bb_net_sublayers(&b->model->net);
    char         text[160], hex[65];
    bb_sha256    s;
    if (!b->kept) return;
    bb_database_key(b->db, hex);
    bb_sha256_init(&s);
    snprintf(text, sizeof text, "states of %s, %u windows of %u", hex, b->n_windows, b->ctx);
    bb_sha256_text(&s, text);
    bb_sha256_update(&s, tokens, (size_t)b->n_windows * b->ctx * sizeof *tokens);
    bb_sha256_hex(&s, hex);
    if (strcmp(hex, b->kept->key) != 0) bb_full_states_done(b->kept);
    memcpy(b->kept->key, hex, sizeof hex);
    if (!b->kept->h && n * sizeof(float) <= b->kept->most) b->kept->h = BB_NEW(n, float, NULL);
    if (!b->kept->h) b->kept = NULL;
}

/* The output of the half for S windows from `first`; NULL: it is not known. */
static const float *known_outputs(const rebuild *b, uint32_t first)
{
    if (!b->kept || b->half >= b->kept->n) return NULL;
    return b->kept->h + b->half * half_size(b) + (size_t)first * b->ctx * bb_row_width(&b->model->net);
}

static void keep_outputs(rebuild *b)
{
    if (b->kept && b->half == b->kept->n) memcpy(b->kept->h + b->kept->n++ * half_size(b), b->full.h, half_size(b) * sizeof(float));
}

/* Full precision's S windows from `first` through the half. */
static bb_status run_full(rebuild *b, uint32_t first, uint32_t S, bb_err *err)
{
    const size_t row = (size_t)b->ctx * bb_row_width(&b->model->net);
    const float *known = known_outputs(b, first);
    float       *h = b->full.h + first * row;
    if (!known) return bb_host_block(b->forward, b->full.net, &b->full.half, S, b->ctx, h, NULL, NULL, err);
    memcpy(h, known, S * row * sizeof *h);
    return BB_OK;
}

/* ---- moments ---- */

/* Runs S windows from `first` up to the stage. */
static bb_status run_stage(rebuild *b, stream *s, uint32_t first, uint32_t S, bb_err *err)
{
    const size_t row = (size_t)b->ctx * bb_row_width(s->net);
    memcpy(s->scratch, s->h + first * row, S * row * sizeof *s->h);
    s->cols = (uint32_t)bb_dim_of(s->net, &s->half, bb_feeds[s->stage].width);
    if (!s->x && !(s->x = BB_NEW((size_t)BATCH * b->ctx * s->cols, float, err))) return BB_NOMEM;
    return bb_host_input(b->forward, s->net, &s->half, S, b->ctx, s->scratch, s->stage, s->x, err);
}

static void forget_inputs(stream *s)
{
    bb_free(s->x);
    s->x = NULL;
}

/* Does it feed what writes to the residual stream: o, down? */
static bool    is_output(bb_feed stage) { return bb_feeds[stage].width != BB_DIM_C; }
static bb_part writer_of(bb_feed stage) { return bb_sublayers[bb_feeds[stage].sublayer].writer; }

/* y (S * ctx, C) := a W x, without bias, of the writer's inputs x in full.x. */
static bb_status bare_outputs(const rebuild *b, uint32_t S, float *y, bb_err *err)
{
    const bb_matrix *last = &b->full.half.w[writer_of(b->full.stage)];
    const size_t     C = last->rows, cols = last->cols;
    float           *w = bb_matrix_decode(last, err);
    if (!w) return BB_NOMEM;
#pragma omp parallel for schedule(dynamic)
    for (uint32_t i = 0; i < S; i++)
        bb_sgemm_nt(b->ctx, C, cols, (float)input_share, b->full.x + (size_t)i * b->ctx * cols, cols, w, cols, 0, y + (size_t)i * b->ctx * C, C);
    bb_free(w);
    return BB_OK;
}

/* Full precision's S windows go through their half; scratch becomes a y + b (r - r^). */
static bb_status wanted_outputs(rebuild *b, uint32_t first, uint32_t S, bb_err *err)
{
    const uint32_t C = b->model->net.n_embd;
    const size_t   W = bb_row_width(&b->model->net), rows = (size_t)S * b->ctx, n = rows * C, at = (size_t)first * b->ctx * W;
    const float   *bias = b->full.half.w[writer_of(b->full.stage)].bias;
    const bool     normed = bb_norm_weight(&b->full.half, bb_sublayers[bb_feeds[b->full.stage].sublayer].post) != NULL;
    float         *wanted = b->full.scratch, *h = b->full.h + at;
    const float   *h_small = b->small.h + at;
    bb_status      status = BB_OK;
    if (normed) {
        BB_TRY(run_stage(b, &b->full, first, S, err));
        BB_TRY(bare_outputs(b, S, wanted, err));
    } else {
        bb_host_streams(&b->model->net, h, rows, wanted);
    }
    BB_TRY(run_full(b, first, S, err));
    for (size_t i = 0; i < n && !normed; i++) {
        const size_t from = i / C * W + i % C;
        const float  r = wanted[i], y = h[from] - r - (bias ? bias[i % C] : 0);
        wanted[i] = (float)input_share * y + (float)residual_share * (r - h_small[from]);
    }
done:
    return status;
}

/* Room for the inputs of o or down of all windows: with them the compressed half need not run again to its end, but for a norm there, or for keys and values
 * that it gives to later blocks. */
static bb_status keep_inputs(rebuild *b, bb_err *err)
{
    const size_t n = (size_t)b->n_windows * b->ctx * b->small.cols;
    const bool   gives = bb_block_has(&b->small.half, BB_ATTENTION) && b->small.half.kv_role == BB_KV_GIVES;
    const bool   bare = !gives && !bb_norm_weight(&b->small.half, bb_sublayers[bb_feeds[b->small.stage].sublayer].post);
    bb_free(b->small.all_x);
    b->small.all_x = NULL;
    if (!bare || n * sizeof(float) > KEPT_BYTES) return BB_OK;
    return (b->small.all_x = BB_SPILL(n, float, err)) ? BB_OK : BB_NOMEM; /* the other way has other bits: no way out */
}

static bb_status add_batch(rebuild *b, uint32_t first, uint32_t S, bb_err *err)
{
    const size_t n = (size_t)S * b->ctx;
    const bool   output = is_output(b->small.stage);
    bb_status    status;
    BB_TRY(run_stage(b, &b->small, first, S, err));
    BB_TRY(output ? wanted_outputs(b, first, S, err) : run_stage(b, &b->full, first, S, err));
    b->n_cross = output ? b->model->net.n_embd : b->full.cols;
    if (!b->cross && !(b->cross = BB_NEW0(b->n_cross * b->small.cols, double, err))) {
        status = BB_NOMEM;
        goto done;
    }
    if (output && first == 0) BB_TRY(keep_inputs(b, err));
    if (b->small.all_x) memcpy(b->small.all_x + (size_t)first * b->ctx * b->small.cols, b->small.x, n * b->small.cols * sizeof(float));
    if (output && b->n_widths) {
        const size_t row = (size_t)b->ctx * b->n_cross;
        if (!b->wanted_outputs && !(b->wanted_outputs = BB_SPILL(b->n_windows * row, float, err))) status = BB_NOMEM;
        BB_TRY(status);
        memcpy(b->wanted_outputs + first * row, b->full.scratch, S * row * sizeof *b->wanted_outputs);
    }
    BB_TRY(bb_hessian_add(&b->h, b->small.x, n, b->small.cols, b->ctx, err));
    BB_TRY(bb_cross_add(b->cross, output ? b->full.scratch : b->full.x, (uint32_t)b->n_cross, b->small.x, b->small.cols, n, b->ctx, err));
done:
    return status;
}

static void forget_solver(rebuild *b)
{
    bb_free(b->solver);
    b->solver = NULL;
}

static void forget_moments(rebuild *b)
{
    bb_hessian_done(&b->h);
    bb_free(b->cross);
    b->cross = NULL;
    forget_solver(b);
}

static bb_status measure_stage(rebuild *b, bb_feed stage, bb_err *err)
{
    bb_status status = BB_OK;
    forget_moments(b);
    b->full.stage = b->small.stage = stage;
    for (uint32_t first = 0; first < b->n_windows; first += BATCH) {
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while a plan was rebuilt; the same command goes on");
        BB_TRY(add_batch(b, first, b->n_windows - first < BATCH ? b->n_windows - first : BATCH, err));
    }
    b->full.advanced = is_output(stage);
    BB_TRY(bb_hessian_finish(&b->h, err));
    const double scale = 1.0 / (double)b->h.n_tokens;
    for (size_t i = 0; i < b->n_cross * b->small.cols; i++) b->cross[i] *= scale;
done:
    forget_inputs(&b->full);
    forget_inputs(&b->small);
    return status;
}

/* ---- targets ---- */

/* out (rows, m) += alpha x (rows, n) y (n, m), x of float32: a piece of its rows at a time. */
static bb_status add_product(const float *x, uint32_t rows, size_t n, double alpha, const double *y, size_t m, double *out, bb_err *err)
{
    enum { PIECE = 64 };
    bool no_memory = false;
#pragma omp parallel
    {
        double *wide = BB_NEW(PIECE * n, double, NULL);
#pragma omp for schedule(dynamic)
        for (size_t r = 0; r < rows; r += PIECE) {
            const size_t k = rows - r < PIECE ? rows - r : PIECE;
            if (!wide) {
#pragma omp atomic write
                no_memory = true;
                continue;
            }
            for (size_t i = 0; i < k * n; i++) wide[i] = (double)x[r * n + i];
            bb_dgemm_nn(k, m, n, alpha, wide, n, y, m, 1, out + r * m, m);
        }
        bb_free(wide);
    }
    return no_memory ? BB_FAIL(err, BB_NOMEM, "out of memory in the product of weights and moments") : BB_OK;
}

/* What of the stage's moments is no part of -a W0 H, (rows, m): of o and down cross as it is, which nobody needs any more; else a W X, where W is W0:
 * only the inputs of o and down can be fewer in the plan. */
static bb_status start_change(rebuild *b, const float *w0, uint32_t rows, double **change, bb_err *err)
{
    const size_t n = b->n_cross, m = b->h.n_cols;
    if (is_output(b->small.stage)) {
        BB_ASSERT(n == rows && b->cross);
        *change = b->cross;
        b->cross = NULL;
        return BB_OK;
    }
    if (!(*change = BB_NEW0(rows * m, double, err))) return BB_NOMEM;
    return add_product(w0, rows, n, input_share, b->cross, m, *change, err);
}

/* E[x^ x^'] in float64. */
static double *wide_moments(const rebuild *b, bb_err *err)
{
    const size_t n = (size_t)b->h.n_cols * b->h.n_cols;
    double      *h = BB_NEW(n, double, err);
    for (size_t i = 0; h && i < n; i++) h[i] = (double)b->h.h[i];
    return h;
}

/* change (rows, m) += -a W0 E[x^ x^']. */
static bb_status take_from_change(const rebuild *b, const float *w0, uint32_t rows, double *change, bb_err *err)
{
    const size_t m = b->h.n_cols;
    double      *h = wide_moments(b, err);
    bb_status    status = h ? add_product(w0, rows, m, -input_share, h, m, change, err) : BB_NOMEM;
    bb_free(h);
    return status;
}

/* change (rows, m), which is given back -> *t, (m, rows). */
static bb_status turn(double **change, size_t rows, size_t m, double **t, bb_err *err)
{
    if (!(*t = BB_NEW(m * rows, double, err))) return BB_NOMEM;
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < m; j++) (*t)[j * rows + r] = (*change)[r * m + j];
    bb_free(*change);
    *change = NULL;
    return BB_OK;
}

/* The Cholesky factor of E[x^ x^'] + damping, once for all matrices of a stage. */
static bb_status make_solver(rebuild *b, bb_err *err)
{
    const size_t m = b->h.n_cols;
    double       mean = 0;
    if (b->solver) return BB_OK;
    if (!(b->solver = wide_moments(b, err))) return BB_NOMEM;
    for (size_t j = 0; j < m; j++) mean += (double)b->h.h[j * m + j] / (double)m;
    for (size_t j = 0; j < m; j++) b->solver[j * m + j] += mean > 0 ? solve_damping * mean : 1;
    return bb_cholesky(b->solver, m, err);
}

/* The weights the matrix should have, (rows, cols) of the plan's shape. Of o and down once: it uses cross up. In float64 there are at most the moments and one matrix
 * of the target's shape at a time, or two such matrices. */
static bb_status target_of(rebuild *b, bb_part part, bb_width width, const bb_matrix *w, float **target, bb_err *err)
{
    const bb_matrix *source = &b->model->net.blocks[b->layer].w[part];
    const size_t     m = b->h.n_cols, rows = w->rows;
    float           *w0 = NULL;
    double          *change = NULL, *t = NULL;
    bb_matrix        start;
    bb_status        status;
    BB_TRY(bb_database_matrix(b->db, b->layer, part, width, source->type, &start, NULL, err));
    status = BB_NOMEM;
    if (!(w0 = bb_matrix_decode(&start, err))) goto done;
    BB_TRY(start_change(b, w0, w->rows, &change, err));
    BB_TRY(take_from_change(b, w0, w->rows, change, err));
    BB_TRY(turn(&change, rows, m, &t, err));
    BB_TRY(make_solver(b, err));
    BB_TRY(bb_cholesky_solve(b->solver, m, t, rows, err));
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < m; j++) w0[r * m + j] += (float)t[j * rows + r];
    *target = w0;
    w0 = NULL;
done:
    bb_free(w0);
    bb_free(change);
    bb_free(t);
    return status;
}

static bool is_plain(bb_type type) { return bb_format_get(type)->vec == 0; }

static uint32_t index_of(const rebuild *b, bb_part part) { return b->layer * BB_N_PARTS + part; }
static bool    *todo_of(const rebuild *b, bb_part part) { return &b->todo[index_of(b, part)]; }

/* The bytes of a new matrix. */
static size_t packed_bytes(const rebuild *b, bb_part part, const bb_matrix *w)
{
    return b->lattice ? bb_lattice_bytes(w->rows, w->cols) : w->rows * bb_format_row_bytes(bb_format_get(b->wanted[b->layer].w[part].type), w->cols);
}

/* Room for them: of a lattice a box. bytes: where they are. */
static void *packed_room(const rebuild *b, bb_part part, const bb_matrix *w, unsigned char **bytes, bb_err *err)
{
    bb_lattice_box *box = b->lattice ? bb_lattice_box_new(w->rows, w->cols, err) : NULL;
    void           *packed = b->lattice ? box : bb_alloc(packed_bytes(b, part, w), 1, err);
    *bytes = box ? box->bytes : packed;
    return packed;
}

/* w becomes a view of a lattice, or of a file of the checkpoint, which the result then owns. */
static void take_box(rebuild *b, bb_part part, bb_matrix *w, void *box)
{
    w->type = b->wanted[b->layer].w[part].type;
    bb_lattice_view(box, w);
    b->out->packed[b->out->n_packed++] = box;
}

static void take_map(rebuild *b, bb_part part, bb_matrix *w, bb_map map)
{
    w->type = b->wanted[b->layer].w[part].type;
    w->data = map.data;
    w->lattice = NULL;
    b->out->maps[b->out->n_maps++] = map;
}

static bb_status fit_lattice(const rebuild *b, bb_part part, const bb_matrix *w, const float *dense, bb_lattice_box *box, bb_err *err)
{
    char      name[64];
    bb_status status;
    snprintf(name, sizeof name, "lattice blk.%u.%s", b->layer, bb_parts[part].name);
    BB_TRY(bb_lattice_fit(dense, w->rows, w->cols, &b->h, b->lattice, name, box->bytes, NULL, err));
    BB_TRY(bb_lattice_decode(&box->view, w->rows, w->cols, box->w, err));
done:
    return status;
}

/* NULL: rows are alone. */
static const bb_output_moments *moments_of(const rebuild *b) { return b->watch ? NULL : bb_database_outputs(b->db); }

/* The outputs of the source that the part has at this width, ascending; *row NULL: all. */
static bb_status rows_of(const rebuild *b, bb_part part, bb_width width, const bb_matrix *w, uint32_t **row, bb_err *err)
{
    const bb_block *source = &b->model->net.blocks[b->layer];
    const uint32_t  group = source->w[part].rows / bb_part_kept(source, part), *kept;
    bb_status       status;
    *row = NULL;
    if (w->rows == source->w[part].rows) return BB_OK;
    BB_TRY(bb_database_mask(b->db, b->layer, bb_parts[part].sublayer == BB_FFN, width, &kept, err));
    if (!(*row = BB_NEW(w->rows, uint32_t, err))) return BB_NOMEM;
    for (uint32_t i = 0; i < w->rows; i++) (*row)[i] = kept[i / group] * group + i % group;
done:
    return status;
}

/* Encodes a matrix towards dense; its rows answer for each other where that is asked for, and can be. */
static bb_status encode(const rebuild *b, bb_part part, bb_width width, const bb_matrix *w, const float *dense, const bb_factor *factor, bb_type type,
                        void *packed, bb_err *err)
{
    const bb_output_moments *m = factor && !is_plain(type) ? moments_of(b) : NULL;
    uint32_t                *row = NULL;
    float                   *g = NULL;
    bb_err                   why = BB_ERR_INIT;
    bb_status                status;
    if (!m || !bb_output_moments_has(&b->model->net, b->layer, part))
        return bb_quantize_prepared(dense, w->rows, w->cols, &b->h, factor, type, b->options, packed, NULL, err);
    BB_TRY(rows_of(b, part, width, w, &row, err));
    status = BB_NOMEM;
    if (!(g = BB_NEW((size_t)w->rows * w->rows, float, err))) goto done;
    bb_output_moments_read(m, b->layer, part, b->model->net.blocks[b->layer].w[part].rows, row, w->rows, g);
    status = bb_quantize_coupled(dense, w->rows, w->cols, &b->h, factor, g, m->damping, type, b->options, packed, &why);
    if (status == BB_NUMERIC) status = bb_quantize_prepared(dense, w->rows, w->cols, &b->h, factor, type, b->options, packed, NULL, err);
    else if (status != BB_OK) BB_FAIL(err, status, "%s", why.msg);
done:
    bb_free(row);
    bb_free(g);
    return status;
}

/* Has it a target: to be quantized to, or to be shown? */
static bool has_target(const rebuild *b, bb_part part, const bb_matrix *w) { return w->rows && (*todo_of(b, part) || b->watch); }

/* Quantizes one matrix of the block towards dense, unless it stays; w becomes a view of the new bytes. */
static bb_status rebuild_matrix(rebuild *b, bb_part part, bb_width width, bb_matrix *w, const float *dense, const bb_factor *factor, bb_err *err)
{
    const bb_type  type = b->wanted[b->layer].w[part].type;
    void          *packed = NULL;
    unsigned char *bytes;
    bb_map         map;
    bb_status      status = BB_OK;
    if (b->watch) {
        const bb_rebuild_view v = { b->layer, w->rows, w->cols, part, dense, &b->h, factor };
        BB_TRY(b->watch->matrix(b->watch->self, &v, err));
    }
    if (!*todo_of(b, part)) goto done;
    packed = packed_room(b, part, w, &bytes, err);
    if (!packed) {
        status = BB_NOMEM;
        goto done;
    }
    if (b->lattice) BB_TRY(fit_lattice(b, part, w, dense, packed, err));
    else BB_TRY(encode(b, part, width, w, dense, factor, type, packed, err));
    if (b->lattice) {
        BB_TRY(bb_checkpoint_save(&b->out->checkpoint, index_of(b, part), bytes, packed_bytes(b, part, w), err));
        take_box(b, part, w, packed);
        packed = NULL;
        goto done;
    }
    BB_TRY(bb_checkpoint_keep(&b->out->checkpoint, index_of(b, part), bytes, packed_bytes(b, part, w), &map, err));
    take_map(b, part, w, map);
done:
    bb_free(packed);
    return status;
}

/* ---- other widths of a sublayer ---- */

/* One sublayer of a block as a block of its own. */
static bb_block half_of(const bb_net *net, const bb_block *block, bb_sublayer half)
{
    bb_block k = *block;
    k.scale = 0; /* it is the whole block that scales the stream */
    for (int s = 0; s < BB_N_SUBLAYERS; s++)
        if ((bb_sublayer)s != half) bb_block_keep(net, &k, (bb_sublayer)s, 0);
    return k;
}

static void forget_widths(rebuild *b)
{
    for (uint32_t k = 0; k < b->n_widths; k++)
        for (int p = 0; p < BB_N_PARTS; p++) bb_free(b->widths[k].packed[p]);
    b->n_widths = 0;
    bb_free(b->wanted_outputs);
    b->wanted_outputs = NULL;
}

/* The widths of the half that are wanted, in shapes and types. */
static bb_status ask_widths(rebuild *b, bb_sublayer half, bb_err *err)
{
    const bb_net   *net = &b->model->net;
    const bb_block *source = &net->blocks[b->layer];
    bb_width        width[BB_REBUILD_MOST_WIDTHS];
    uint32_t        n = 0;
    forget_widths(b);
    if (!b->watch || !b->watch->wanted || !bb_block_has(&b->wanted[b->layer], half) || !bb_block_cuttable(source, half)) return BB_OK;
    b->watch->wanted(b->watch->self, b->layer, half, width, &n);
    if (n && !b->widths && !(b->widths = BB_NEW0(BB_REBUILD_MOST_WIDTHS, bb_rebuilt_width, err))) return BB_NOMEM;
    for (uint32_t k = 0; k < n; k++) {
        bb_rebuilt_width w = { .width = width[k], .block = half_of(net, source, half) };
        bool             fits = true;
        bb_block_keep(net, &w.block, half, bb_width_count(width[k]));
        w.block.by_gates[half] = width[k] & BB_BY_GATES;
        for (int p = 0; p < BB_N_PARTS; p++) {
            if (!w.block.w[p].rows) continue;
            w.block.w[p].type = b->wanted[b->layer].w[p].type;
            fits &= w.block.w[p].cols % bb_format_get(w.block.w[p].type)->block == 0;
        }
        if (fits) b->widths[b->n_widths++] = w;
    }
    return BB_OK;
}

/* Does a rebuild of the plan at this width quantize the part? It then has pruned something: choose_matrices. */
static bool quantizes(const rebuild *b, const bb_matrix *w, bb_part part)
{
    return is_plain(w->type) || w->type != b->model->net.blocks[b->layer].w[part].type;
}

/* The matrix of a width as the database has it: that of a part that stays as it is, and the bias of one that does not. */
static bb_status from_database(const rebuild *b, bb_rebuilt_width *w, bb_part part, bb_matrix *out, bb_err *err)
{
    const bb_type type = quantizes(b, &w->block.w[part], part) ? b->model->net.blocks[b->layer].w[part].type : w->block.w[part].type;
    return bb_database_matrix(b->db, b->layer, part, w->width, type, out, NULL, err);
}

static void take_width(bb_rebuilt_width *w, bb_part part, void *packed, const float *bias)
{
    w->packed[part] = packed;
    w->block.w[part].data = packed;
    w->block.w[part].bias = bias;
}

/* One part that reads the stage's inputs, at every width: rows do not depend on each other, so it is encoded once, whole, and each width has some of them. */
static bb_status widen_reader(rebuild *b, bb_part part, const bb_factor *factor, bb_err *err)
{
    const bb_block *source = &b->model->net.blocks[b->layer];
    const bb_type   type = b->wanted[b->layer].w[part].type;
    const bb_matrix whole = { .type = type, .rows = source->w[part].rows, .cols = source->w[part].cols };
    const uint32_t  full = bb_part_kept(source, part), group = whole.rows / full;
    const size_t    bytes = bb_format_row_bytes(bb_format_get(type), whole.cols);
    const bool      quantized = quantizes(b, &whole, part);
    float          *dense = NULL;
    char           *packed = NULL;
    bb_status       status = BB_OK;
    if (quantized) {
        BB_TRY(target_of(b, part, full, &whole, &dense, err));
        status = BB_NOMEM;
        if (!(packed = bb_alloc(whole.rows, bytes, err))) goto done;
        BB_TRY(bb_quantize_prepared(dense, whole.rows, whole.cols, &b->h, factor, type, b->options, packed, NULL, err));
    }
    for (uint32_t k = 0; k < b->n_widths; k++) {
        bb_rebuilt_width *w = &b->widths[k];
        const uint32_t   *kept;
        bb_matrix         made;
        BB_TRY(from_database(b, w, part, &made, err));
        if (!quantized) {
            w->block.w[part] = made;
            continue;
        }
        BB_TRY(bb_database_mask(b->db, b->layer, bb_parts[part].sublayer == BB_FFN, w->width, &kept, err));
        char *rows = bb_alloc(w->block.w[part].rows, bytes, err);
        if (!rows) {
            status = BB_NOMEM;
            goto done;
        }
        for (uint32_t i = 0; i < bb_width_count(w->width); i++) memcpy(rows + i * group * bytes, packed + (size_t)kept[i] * group * bytes, group * bytes);
        take_width(w, part, rows, made.bias);
    }
done:
    bb_free(dense);
    bb_free(packed);
    return status;
}

/* The moments of the writer's inputs at a width, in b->h and b->cross: of the rebuilt network in front, and this sublayer's readers at the width. */
static bb_status measure_width(rebuild *b, const bb_rebuilt_width *w, bb_err *err)
{
    const size_t row = (size_t)b->ctx * b->n_cross;
    bb_status    status = BB_OK;
    b->small.half = w->block;
    for (uint32_t first = 0; first < b->n_windows; first += BATCH) {
        const uint32_t S = b->n_windows - first < BATCH ? b->n_windows - first : BATCH;
        const size_t   n = (size_t)S * b->ctx;
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while other widths were rebuilt; the same command goes on");
        BB_TRY(run_stage(b, &b->small, first, S, err));
        if (!b->cross && !(b->cross = BB_NEW0(b->n_cross * b->small.cols, double, err))) status = BB_NOMEM;
        BB_TRY(status);
        BB_TRY(bb_hessian_add(&b->h, b->small.x, n, b->small.cols, b->ctx, err));
        BB_TRY(bb_cross_add(b->cross, b->wanted_outputs + first * row, (uint32_t)b->n_cross, b->small.x, b->small.cols, n, b->ctx, err));
    }
    BB_TRY(bb_hessian_finish(&b->h, err));
    const double scale = 1.0 / (double)b->h.n_tokens;
    for (size_t i = 0; i < b->n_cross * b->small.cols; i++) b->cross[i] *= scale;
done:
    forget_inputs(&b->small);
    return status;
}

static bb_status widen_writer(rebuild *b, bb_part part, bb_rebuilt_width *w, bb_err *err)
{
    bb_matrix *m = &w->block.w[part], made;
    bb_factor  factor = { 0 };
    float     *dense = NULL;
    void      *packed = NULL;
    bb_status  status;
    BB_TRY(from_database(b, w, part, &made, err));
    if (!quantizes(b, m, part)) {
        *m = made;
        goto done;
    }
    forget_moments(b);
    BB_TRY(measure_width(b, w, err));
    bool factored = false;
    if (b->options->method == BB_METHOD_FEEDBACK) {
        status = bb_factor_make(&b->h, b->options->damping, &factor, NULL);
        if (status == BB_NOMEM) BB_FAIL(err, BB_NOMEM, "out of memory for the factors of block %u", b->layer);
        if (status == BB_NOMEM) goto done;
        factored = status == BB_OK;
    }
    BB_TRY(target_of(b, part, w->width, m, &dense, err));
    status = BB_NOMEM;
    if (!(packed = bb_alloc(m->rows, bb_format_row_bytes(bb_format_get(m->type), m->cols), err))) goto done;
    BB_TRY(bb_quantize_prepared(dense, m->rows, m->cols, &b->h, factored ? &factor : NULL, m->type, b->options, packed, NULL, err));
    take_width(w, part, packed, made.bias);
    packed = NULL;
done:
    bb_factor_done(&factor);
    bb_free(dense);
    bb_free(packed);
    return status;
}

/* Behind the plan's own writer, whose moments are no longer needed. */
static bb_status widen_half(rebuild *b, bb_sublayer half, bb_err *err)
{
    const bb_block own = b->small.half;
    const uint32_t cols = b->small.cols;
    bb_status      status = BB_OK;
    for (uint32_t k = 0; k < b->n_widths; k++) {
        BB_TRY(widen_writer(b, bb_sublayers[half].writer, &b->widths[k], err));
        bb_rebuilt_width w = b->widths[k];
        memset(b->widths[k].packed, 0, sizeof w.packed);
        BB_TRY(b->watch->width(b->watch->self, b->layer, half, &w, err));
    }
    b->small.half = own;
    b->small.cols = cols;
done:
    forget_widths(b);
    return status;
}

/* ---- blocks ---- */

/* What the stage's matrices should be. The moments that only this needs are given back, unless other widths are still to come. */
static bb_status find_targets(rebuild *b, bb_feed stage, const bb_block *block, float *target[BB_N_PARTS], bb_err *err)
{
    bb_status status = BB_OK;
    for (int p = 0; p < BB_N_PARTS; p++) {
        const bb_part part = (bb_part)p;
        if (bb_parts[p].feed == stage && has_target(b, part, &block->w[p]))
            BB_TRY(target_of(b, part, bb_part_width(block, part), &block->w[p], &target[p], err));
    }
    forget_solver(b);
    if (!b->n_widths) {
        bb_free(b->cross);
        b->cross = NULL;
    }
done:
    return status;
}

/* Targets come before the factor: what they need is then gone. */
static bb_status rebuild_stage(rebuild *b, bb_feed stage, bb_block *block, bb_err *err)
{
    float    *target[BB_N_PARTS] = { NULL };
    bb_factor factor = { 0 };
    bool      factored = false;
    bb_status status;
    BB_TRY(measure_stage(b, stage, err));
    BB_TRY(find_targets(b, stage, block, target, err));
    if (b->options->method == BB_METHOD_FEEDBACK && !b->lattice) { /* which factors in another basis */
        status = bb_factor_make(&b->h, b->options->damping, &factor, NULL);
        if (status == BB_NOMEM) {
            BB_FAIL(err, BB_NOMEM, "out of memory for the factors of block %u", b->layer);
            goto done;
        }
        factored = status == BB_OK;
    }
    for (int p = 0; p < BB_N_PARTS; p++) {
        if (!target[p]) continue;
        BB_TRY(rebuild_matrix(b, (bb_part)p, bb_part_width(block, (bb_part)p), &block->w[p], target[p], factored ? &factor : NULL, err));
        bb_free(target[p]);
        target[p] = NULL;
    }
    for (int p = 0; p < BB_N_PARTS && b->n_widths && !is_output(stage); p++)
        if (bb_parts[p].feed == stage && block->w[p].rows) BB_TRY(widen_reader(b, (bb_part)p, factored ? &factor : NULL, err));
    if (b->n_widths && is_output(stage)) BB_TRY(widen_half(b, bb_feeds[stage].sublayer, err));
    status = BB_OK;
done:
    for (int p = 0; p < BB_N_PARTS; p++) bb_free(target[p]);
    bb_factor_done(&factor);
    return status;
}

/* One matrix of the checkpoint: a lattice as a box, anything else as a map. */
static bb_status recall_matrix(const rebuild *b, bb_part part, const bb_matrix *w, void **box, bb_map *map, bool *found, bb_err *err)
{
    const size_t    size = packed_bytes(b, part, w);
    bb_lattice_box *l;
    bb_status       status;
    if (!b->lattice) return bb_checkpoint_map(&b->out->checkpoint, index_of(b, part), size, map, found, err);
    if (!(*box = l = bb_lattice_box_new(w->rows, w->cols, err))) return BB_NOMEM;
    BB_TRY(bb_checkpoint_load(&b->out->checkpoint, index_of(b, part), l->bytes, size, found, err));
    if (*found) status = bb_lattice_decode(&l->view, w->rows, w->cols, l->w, err);
done:
    return status;
}

/* Takes the stage's matrices from the checkpoint; *found false, and nothing taken, when one is missing. */
static bb_status recall_stage(rebuild *b, bb_feed stage, bb_block *block, bool *found, bb_err *err)
{
    void     *box[BB_N_PARTS] = { NULL };
    bb_map    map[BB_N_PARTS] = { { NULL, 0 } };
    bb_status status = BB_OK;
    *found = true;
    for (int p = 0; p < BB_N_PARTS && *found; p++)
        if (bb_parts[p].feed == stage && *todo_of(b, (bb_part)p)) BB_TRY(recall_matrix(b, (bb_part)p, &block->w[p], &box[p], &map[p], found, err));
    for (int p = 0; p < BB_N_PARTS && *found; p++) {
        if (box[p]) take_box(b, (bb_part)p, &block->w[p], box[p]);
        if (map[p].data) take_map(b, (bb_part)p, &block->w[p], map[p]);
        box[p] = NULL;
        map[p] = (bb_map) { 0 };
    }
done:
    for (int p = 0; p < BB_N_PARTS; p++) {
        bb_free(box[p]);
        bb_map_close(&map[p]);
    }
    return status;
}

/* What measuring o or down leaves besides moments, by the same steps, so that what follows has the same bits: the inputs of all windows. */
static bb_status collect_inputs(rebuild *b, bb_feed stage, bb_err *err)
{
    bb_status status = BB_OK;
    b->small.stage = stage;
    for (uint32_t first = 0; first < b->n_windows; first += BATCH) {
        const uint32_t S = b->n_windows - first < BATCH ? b->n_windows - first : BATCH;
        if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted while a plan was rebuilt; the same command goes on");
        BB_TRY(run_stage(b, &b->small, first, S, err));
        if (first == 0) BB_TRY(keep_inputs(b, err));
        if (!b->small.all_x) break; /* the half will run again as a whole */
        memcpy(b->small.all_x + (size_t)first * b->ctx * b->small.cols, b->small.x, (size_t)S * b->ctx * b->small.cols * sizeof(float));
    }
done:
    forget_inputs(&b->small);
    return status;
}

static bool has_stage(const rebuild *b, bb_feed stage)
{
    for (int p = 0; p < BB_N_PARTS; p++)
        if (bb_parts[p].feed == stage && (b->watch ? b->out->blocks[b->layer].w[p].rows > 0 : *todo_of(b, (bb_part)p))) return true;
    return false;
}

static bb_status advance(rebuild *b, stream *s, bb_err *err)
{
    const size_t row = (size_t)b->ctx * bb_row_width(s->net);
    for (uint32_t first = 0; first < b->n_windows; first += BATCH) {
        uint32_t  S = b->n_windows - first < BATCH ? b->n_windows - first : BATCH;
        bb_status status = s == &b->full ? run_full(b, first, S, err)
                                         : bb_host_block(b->forward, s->net, &s->half, S, b->ctx, s->h + first * row, NULL, NULL, err);
        if (status != BB_OK) return status;
    }
    return BB_OK;
}

/* The compressed stream to the end of its half, from the kept inputs of the matrix that ends it. */
static bb_status finish_half(rebuild *b, const bb_matrix *last, bb_err *err)
{
    const size_t C = last->rows, cols = last->cols, W = bb_row_width(b->small.net);
    float       *w = bb_matrix_decode(last, err);
    if (!w) return BB_NOMEM;
#pragma omp parallel for schedule(dynamic)
    for (uint32_t i = 0; i < b->n_windows; i++) {
        float *h = b->small.h + (size_t)i * b->ctx * W;
        for (size_t k = 0; last->bias && k < b->ctx * C; k++) h[k / C * W + k % C] += last->bias[k % C];
        bb_sgemm_nt(b->ctx, C, cols, 1, b->small.all_x + (size_t)i * b->ctx * cols, cols, w, cols, 1, h, W);
    }
    bb_free(w);
    return BB_OK;
}

/* A stream to what the block leaves of it. */
static void scale_stream(const rebuild *b, stream *s)
{
    const float  scale = b->model->net.blocks[b->layer].scale;
    const size_t C = b->model->net.n_embd, W = bb_row_width(&b->model->net), n = (size_t)b->n_windows * b->ctx * C;
    for (size_t i = 0; bb_scales(scale) && i < n; i++) s->h[i / C * W + i % C] *= scale;
}

static bb_status rebuild_half(rebuild *b, bb_sublayer half, bb_err *err)
{
    bb_block       *block = &b->out->blocks[b->layer];
    const bb_block *source = &b->model->net.blocks[b->layer];
    bb_status       status = BB_OK;
    b->full.half = half_of(b->full.net, source, half);
    BB_TRY(ask_widths(b, half, err));
    for (int i = 0; i < BB_N_FEEDS; i++) {
        const bb_feed stage = (bb_feed)i;
        if (bb_feeds[stage].sublayer != half) continue;
        bb_crew_share();
        b->small.half = half_of(b->small.net, block, half);
        bool found = false;
        if (has_stage(b, stage) && !b->watch) BB_TRY(recall_stage(b, stage, block, &found, err));
        if (found && is_output(stage)) BB_TRY(collect_inputs(b, stage, err));
        if (has_stage(b, stage) && !found) BB_TRY(rebuild_stage(b, stage, block, err));
        (found ? bb_progress_skip : bb_progress_add)(&b->progress, 1);
    }
    b->small.half = half_of(b->small.net, block, half);
    if (!b->full.advanced) BB_TRY(advance(b, &b->full, err));
    b->full.advanced = false;
    keep_outputs(b);
    b->half++;
    if (b->small.all_x) BB_TRY(finish_half(b, &block->w[bb_sublayers[half].writer], err));
    else BB_TRY(advance(b, &b->small, err));
    bb_free(b->small.all_x);
    b->small.all_x = NULL;
done:
    return status;
}

static bb_status stream_init(const rebuild *b, stream *s, const bb_net *net, const int32_t *tokens, bb_err *err)
{
    const size_t row = (size_t)b->ctx * bb_row_width(net);
    bb_status    status = BB_OK;
    s->net = net;
    s->h = BB_SPILL(b->n_windows * row, float, err);
    s->scratch = BB_NEW(BATCH * row, float, err);
    if (!s->h || !s->scratch) return BB_NOMEM;
    for (uint32_t first = 0; first < b->n_windows && status == BB_OK; first += BATCH) {
        uint32_t S = b->n_windows - first < BATCH ? b->n_windows - first : BATCH;
        status = bb_host_embed(b->forward, net, tokens + (size_t)first * b->ctx, S, b->ctx, s->h + first * row, err);
    }
    return status;
}

static void stream_done(stream *s)
{
    bb_free(s->h);
    bb_free(s->scratch);
    bb_free(s->x);
    bb_free(s->all_x);
}

static bool is_pruned(const rebuild *b)
{
    for (uint32_t i = 0; i < b->model->net.n_layer; i++)
        if (b->wanted[i].n_kv != b->model->net.blocks[i].n_kv || b->wanted[i].n_ff != b->model->net.blocks[i].n_ff) return true;
    return false;
}

/* Which matrices will be rebuilt: those of block formats that the source does not have them in; in a pruned network also the unquantized ones,
 * which can take back some of what pruning lost. */
static void choose_matrices(rebuild *b)
{
    const bool pruned = is_pruned(b);
    for (b->layer = 0; b->layer < b->model->net.n_layer; b->layer++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_matrix *w = &b->wanted[b->layer].w[p];
            const bool       plain = is_plain(w->type);
            *todo_of(b, (bb_part)p) = w->rows && (b->lattice ? true : plain ? pruned : w->type != b->model->net.blocks[b->layer].w[p].type);
        }
}

/* The network before anything is rebuilt: tables as the plan says; matrices that will be rebuilt in their source type, in the plan's shape,
 * the others as the plan says. */
static bb_status start_net(rebuild *b, const bb_plan *plan, bb_err *err)
{
    bb_net   *net = &b->out->net;
    bb_status status;
    BB_TRY(bb_plan_shape(b->model, plan, net, b->wanted, err));
    memcpy(b->out->blocks, b->wanted, net->n_layer * sizeof *b->wanted);
    net->blocks = b->out->blocks;
    BB_TRY(bb_database_tables(b->db, net, err));
    choose_matrices(b);
    for (b->layer = 0; b->layer < net->n_layer; b->layer++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            bb_block  *block = &b->out->blocks[b->layer];
            bb_matrix *w = &block->w[p];
            if (!w->rows) continue;
            BB_TRY(bb_database_matrix(b->db, b->layer, (bb_part)p, bb_part_width(block, (bb_part)p),
                                      *todo_of(b, (bb_part)p) ? b->model->net.blocks[b->layer].w[p].type : w->type, w, NULL, err));
        }
done:
    return status;
}

/* Everything that decides the matrices, but for their layer and part. */
static bb_status open_checkpoint(rebuild *b, const bb_plan *plan, const int32_t *tokens, bb_err *err)
{
    char      text[256], hex[65], hash[17];
    bb_sha256 s;
    bb_status status;
    bb_plan_hash(plan, hash);
    bb_database_key(b->db, hex);
    bb_sha256_init(&s);
    bb_sha256_text(&s, hex);
    bb_sha256_text(&s, hash);
    snprintf(text, sizeof text, "rebuilt 2: %u windows of %u, method %d, damping %.17g, sweeps %u, shares %.17g %.17g, damping %.17g", b->n_windows, b->ctx,
             (int)b->options->method, b->options->damping, b->options->sweeps, input_share, residual_share, solve_damping);
    bb_sha256_text(&s, text);
    const bb_output_moments *outputs = moments_of(b);
    if (outputs) {
        snprintf(text, sizeof text, "outputs %.17g %s", outputs->damping, outputs->name);
        bb_sha256_text(&s, text);
    }
    if (b->lattice) {
        snprintf(text, sizeof text, "lattice 1, seed %llu", (unsigned long long)b->lattice->seed);
        bb_sha256_text(&s, text);
    }
    bb_sha256_update(&s, tokens, (size_t)b->n_windows * b->ctx * sizeof *tokens);
    bb_sha256_hex(&s, hex);
    BB_TRY(bb_checkpoint_open(bb_database_dir(b->db), hex, b->model->net.n_layer * BB_N_PARTS, &b->out->checkpoint, err));
done:
    return status;
}

/* b: what the caller gives. */
static bb_status run_rebuild(rebuild b, const bb_plan *plan, const int32_t *tokens, bb_err *err)
{
    const bb_net *net = &b.model->net;
    bb_rebuilt   *out = b.out;
    bb_status     status = BB_NOMEM;
    memset(out, 0, sizeof *out);
    out->blocks = BB_NEW0(net->n_layer, bb_block, err);
    out->maps = BB_NEW0((size_t)net->n_layer * BB_N_PARTS, bb_map, err);
    out->packed = BB_NEW0((size_t)net->n_layer * BB_N_PARTS, void *, err);
    b.wanted = BB_NEW(net->n_layer, bb_block, err);
    b.todo = BB_NEW0((size_t)net->n_layer * BB_N_PARTS, bool, err);
    if (!out->blocks || !out->maps || !out->packed || !b.wanted || !b.todo) goto done;
    BB_TRY(bb_forward_create(bb_database_backend(b.db), net, BATCH, b.ctx, &b.forward, err));
    BB_TRY(open_checkpoint(&b, plan, tokens, err));
    open_states(&b, tokens);
    BB_TRY(start_net(&b, plan, err));
    bb_database_forget_factors(b.db);
    BB_TRY(stream_init(&b, &b.full, net, tokens, err));
    BB_TRY(stream_init(&b, &b.small, &out->net, tokens, err));
    bb_progress_start(&b.progress, "rebuild", (uint64_t)net->n_layer * (net->token.width ? BB_N_FEEDS : BB_FEED_TOKEN));
    for (b.layer = 0; b.layer < net->n_layer; b.layer++) {
        for (int half = 0; half < bb_net_sublayers(net); half++) BB_TRY(rebuild_half(&b, (bb_sublayer)half, err));
        scale_stream(&b, &b.full);
        scale_stream(&b, &b.small);
    }
    bb_progress_end(&b.progress);
done:
    forget_moments(&b);
    forget_widths(&b);
    bb_free(b.widths);
    stream_done(&b.full);
    stream_done(&b.small);
    bb_forward_destroy(b.forward);
    bb_free(b.wanted);
    bb_free(b.todo);
    bb_database_backend(b.db)->ops->forget(bb_database_backend(b.db)->context); /* matrices are told apart by address, and these may be freed or tuned */
    if (status != BB_OK) bb_rebuilt_done(out);
    return status;
}

bb_status bb_full_states_make(bb_database *db, const bb_model *m, const int32_t *tokens, uint32_t n_windows, uint32_t ctx, bb_full_states *kept, bb_err *err)
{
    const bb_net *net = &m->net;
    const int     halves = bb_net_sublayers(net);
    rebuild       b = { .db = db, .model = m, .n_windows = n_windows, .ctx = ctx, .kept = kept };
    bb_status     status = BB_OK;
    open_states(&b, tokens);
    if (!b.kept || kept->n == net->n_layer * (uint32_t)halves) return BB_OK;
    BB_TRY(bb_forward_create(bb_database_backend(db), net, BATCH, ctx, &b.forward, err));
    BB_TRY(stream_init(&b, &b.full, net, tokens, err));
    bb_progress_start(&b.progress, "full-precision states", (uint64_t)net->n_layer * (uint64_t)halves);
    for (b.layer = 0; b.layer < net->n_layer; b.layer++)
        for (int half = 0; half < halves; half++, b.half++) {
            if (bb_interrupted()) status = BB_FAIL(err, BB_INTERRUPTED, "interrupted before a plan was rebuilt; the same command goes on");
            if (status != BB_OK) goto done;
            b.full.half = half_of(net, &net->blocks[b.layer], (bb_sublayer)half);
            BB_TRY(advance(&b, &b.full, err));
            keep_outputs(&b);
            if (half + 1 == halves) scale_stream(&b, &b.full);
            bb_progress_add(&b.progress, 1);
        }
    bb_progress_end(&b.progress);
done:
    stream_done(&b.full);
    bb_forward_destroy(b.forward);
    return status;
}

bb_status bb_rebuild_watched(bb_database *db, const bb_model *m, const bb_plan *plan, const int32_t *tokens, uint32_t n_windows, uint32_t ctx,
                             const bb_quant_options *o, const bb_rebuild_watcher *watcher, bb_rebuilt *out, bb_err *err)
{
    const rebuild b = { .db = db, .model = m, .options = o, .n_windows = n_windows, .ctx = ctx, .out = out, .watch = watcher };
    return run_rebuild(b, plan, tokens, err);
}

bb_status bb_rebuild_lattice(bb_database *db, const bb_model *m, const bb_plan *plan, const int32_t *tokens, uint32_t n_windows, uint32_t ctx,
                             const bb_lattice_options *o, bb_rebuilt *out, bb_err *err)
{
    const bb_quant_options quant = { BB_METHOD_FEEDBACK, o->damping, o->passes };
    const rebuild          b = { .db = db, .model = m, .options = &quant, .lattice = o, .n_windows = n_windows, .ctx = ctx, .out = out };
    return run_rebuild(b, plan, tokens, err);
}

bb_status bb_rebuild(bb_database *db, const bb_model *m, const bb_plan *plan, const int32_t *tokens, uint32_t n_windows, uint32_t ctx,
                     const bb_quant_options *o, bb_full_states *kept, bb_rebuilt *out, bb_err *err)
{
    const rebuild b = { .db = db, .model = m, .options = o, .n_windows = n_windows, .ctx = ctx, .out = out, .kept = kept };
    return run_rebuild(b, plan, tokens, err);
}
