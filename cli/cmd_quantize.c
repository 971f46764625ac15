/* SPDX-License-Identifier: GPL-3.0-or-later
 * cmd_quantize.c: bitbudget quantize MODEL.gguf: the types are given, the codes are as good as we can make them. No search.
 *
 * rotation -> types (engine/tensor_types.h) -> size and runtime checked -> calibration windows -> matrices by one of four methods -> file beside the wanted
 * one, read back and compared, renamed -> optionally its KL and perplexity. Second moments and encoded matrices stay in a folder until the
 * file is written, so that the same command goes on after an interruption.
 */
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/calibration.h"
#include "engine/coupling.h"
#include "engine/effort.h"
#include "engine/environment.h"
#include "engine/gates.h"
#include "engine/memory.h"
#include "cli/cmd.h"
#include "cli/json.h"
#include "engine/outputs.h"
#include "engine/model_space.h"
#include "engine/speed.h"
#include "engine/tensor_types.h"
#include "engine/version.h"
#include "kernels/kernels.h"
#include "model/compress/feedback.h"
#include "model/compress/rebuild.h"
#include "model/compress/rotate.h"
#include "model/compress/statistics.h"
#include "model/export/export.h"
#include "model/io/imatrix.h"
#include "model/net/arch.h"
#include "model/net/lattice.h"

typedef struct quantize_options {
    char *effort, *out, *format, *embd_format, *like, *recipe, *rotate, *method, *calib, *database, *eval, *protocol, *precision, *imatrix, *width_order,
        *ffn_widths;
    int64_t  ctx, calib_windows, output_windows, eval_windows, sweeps, seed;
    double   damping, prune_ffn, prune_kv;
    uint64_t max_ram;
    bool     no_compensation, parse_special, json, csv, experimental;
} quantize_options;

#define FIELD(name) offsetof(quantize_options, name)
static const bb_option_row rows[] = {
    { "out", BB_OPT_TEXT, FIELD(out), "", 1, 0, "FILE", "file to write", NULL },
    { "effort", BB_OPT_TEXT, FIELD(effort), "normal", 1, 0, "NAME", "how much time the defaults of the options below take", BB_EFFORTS },
    { "format", BB_OPT_TEXT, FIELD(format), "", 1, 0, "TYPE",
      "type of all linears: Q4_K, IQ2_XS, ...; where its block does not divide the rows, what llama-quantize takes instead; LC2: our own lattice, "
      "docs/formats.md",
      NULL },
    { "embd-format", BB_OPT_TEXT, FIELD(embd_format), "", 1, 0, "TYPE",
      "type of embedding and head; empty: Q6_K with --format (Q8_0 where rows are no multiple of 256), else unchanged", NULL },
    { "like", BB_OPT_TEXT, FIELD(like), "", 1, 0, "OTHER.gguf", "take the type of every matrix from this file of the same model", NULL },
    { "recipe", BB_OPT_TEXT, FIELD(recipe), "", 1, 0, "FILE", "lines PATTERN=TYPE, as for llama-quantize --tensor-type-file; the first that fits a name wins",
      NULL },
    { "experimental-formats", BB_OPT_FLAG, FIELD(experimental), NULL, 1, 0, NULL, BB_EXPERIMENTAL_HELP, NULL },
    { "rotate", BB_OPT_TEXT, FIELD(rotate), "none", 1, 0, "WHICH",
      "before, turn the residual stream (r1; unties the head), the values of each head (r2), or both: the model computes the same", "none|r1|r2|r12" },
    { "prune-ffn", BB_OPT_DOUBLE, FIELD(prune_ffn), "0", 0, 0.99, "SHARE", "remove this share of the FFN channels", NULL },
    { "ffn-widths", BB_OPT_TEXT, FIELD(ffn_widths), "even", 1, 0, "WHERE",
      "every block loses the same share; or the share is taken from all together, by the relative error of each block; or by what gates foresee",
      "even|own|gates" },
    { "width-order", BB_OPT_TEXT, FIELD(width_order), "obs", 1, 0, "NAME",
      "which of a block go: those of least error of the block itself, or those whose loss the end of the network feels least (gates)", "obs|gates" },
    { "prune-kv", BB_OPT_DOUBLE, FIELD(prune_kv), "0", 0, 0.99, "SHARE", "remove this share of all KV groups, those that cost their block least", NULL },
    { "no-compensation", BB_OPT_FLAG, FIELD(no_compensation), NULL, 1, 0, NULL, "pruned columns are cut and nothing makes up for them: for comparison", NULL },
    { "method", BB_OPT_TEXT, FIELD(method), "sequential", 1, 0, "NAME",
      "rtn: round to nearest; weighted: importance-weighted; feedback: error feedback; sequential: error feedback on the compressed prefix's inputs",
      "rtn|weighted|feedback|sequential" },
    { "calib", BB_OPT_TEXT, FIELD(calib), "", 1, 0, "FILES",
      "calibration text or token file, or a list of them with equal shares; \"self\": text that the model writes; \"mixture\": texts that ship with the "
      "program; empty: both of these, or self alone for a model without a vocabulary",
      NULL },
    { "imatrix", BB_OPT_TEXT, FIELD(imatrix), "", 1, 0, "FILE",
      "importance from a file of llama-imatrix (GGUF or .dat) or of `calibrate --imatrix`; no text is read, and the method is weighted", NULL },
    { "parse-special", BB_OPT_FLAG, FIELD(parse_special), NULL, 1, 0, NULL, "text of special tokens (\"<|im_end|>\") in the texts becomes these tokens", NULL },
    { "ctx", BB_OPT_INT, FIELD(ctx), "256", 16, 131072, "N", "tokens of a window", NULL },
    { "calib-windows", BB_OPT_INT, FIELD(calib_windows), "256", 1, 1e6, "N", "calibration windows, evenly spaced over the text", NULL },
    { "damping", BB_OPT_DOUBLE, FIELD(damping), "0.1", 0, 10, "X", "Hessian damping, times the mean of its diagonal", NULL },
    { "sweeps", BB_OPT_INT, FIELD(sweeps), "4", 0, 100, "N", "coordinate-descent sweeps after error feedback", NULL },
    { "output-windows", BB_OPT_INT, FIELD(output_windows), BB_OUTPUT_WINDOWS, 0, 1e6, "N", "--method sequential: " BB_OUTPUT_WINDOWS_HELP, NULL },
    { "seed", BB_OPT_INT, FIELD(seed), "1", 0, 9e15, "N", "seed of everything random", NULL },
    { "database", BB_OPT_TEXT, FIELD(database), "", 1, 0, "DIR",
      "keep second moments and encoded matrices here, for other calls and runs; empty: OUT.work, "
      "removed at the end",
      NULL },
    { "eval", BB_OPT_TEXT, FIELD(eval), "", 1, 0, "FILE", "then measure KL and perplexity on this text", NULL },
    { "eval-windows", BB_OPT_INT, FIELD(eval_windows), "0", 0, 1e9, "N", "evaluation windows, evenly spaced; 0: all", NULL },
    { "protocol", BB_OPT_TEXT, FIELD(protocol), "gguf", 1, 0, "NAME", "protocol of the windows", BB_PROTOCOLS },
    { "max-ram", BB_OPT_SIZE, FIELD(max_ram), "0", 1, 0, "SIZE", BB_MAX_RAM_HELP, NULL },
    { "precision", BB_OPT_TEXT, FIELD(precision), "exact", 1, 0, "NAME", BB_PRECISION_HELP, BB_PRECISIONS },
    { "json", BB_OPT_FLAG, FIELD(json), NULL, 1, 0, NULL, "print JSON", NULL },
    { "csv", BB_OPT_FLAG, FIELD(csv), NULL, 1, 0, NULL, "print a header and a row: model,format,method,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se", NULL },
};
#undef FIELD
enum { N_ROWS = sizeof rows / sizeof *rows };

/* All that a call of the command has open. */
typedef struct job {
    quantize_options o;
    const char      *path;
    bb_model         m;
    bb_rotated       rotated;
    const bb_model  *base; /* what is quantized: m or rotated.model */
    bb_plan          plan;
    char             hash[17];
    uint32_t         ctx;
    char            *work;   /* folder of second moments and matrices; NULL: none is needed */
    bb_lock          lock;   /* of work, without --database */
    bool             spills; /* hidden states go to files of work: --max-ram has no room for them */
    bb_tokens        tokens, eval_tokens;
    bb_windows       calib, eval;
    bb_database     *database;
    bb_gates         gates; /* where they are asked for */
    bb_rebuilt       rebuilt;
    bb_checkpoint    rounded; /* of round to nearest, or by --imatrix */
    bb_imatrix       imatrix; /* with --imatrix */
    bb_net           net;     /* what is written */
    bb_block        *blocks;  /* net.blocks, unless rebuilt */
    void           **packed;  /* [n_packed] matrices of round to nearest */
    size_t           n_packed;
    uint64_t         bytes;
    bb_result        result; /* with --eval */
} job;

static bool has(const char *text) { return text && *text; }
/* Each matrix alone, without calibration. */
static bool rounds(const quantize_options *o) { return has(o->imatrix) || strcmp(o->method, "rtn") == 0; }
static bool is_lattice(const quantize_options *o) { return has(o->format) && strcasecmp(o->format, "LC2") == 0; }
static bool prunes(const quantize_options *o) { return o->prune_ffn > 0 || o->prune_kv > 0; }

/* ---- what is asked for ---- */

static bb_status check_options(const job *j, size_t n_positional, bb_err *err)
{
    const quantize_options *o = &j->o;
    if (n_positional == 0 || !has(o->out)) return BB_FAIL(err, BB_USAGE, "quantize needs a model file and --out FILE");
    if (!has(o->format) && !has(o->like) && !has(o->recipe) && !prunes(o))
        return BB_FAIL(err, BB_USAGE, "no types were given: --format IQ2_XS, --like OTHER.gguf or --recipe FILE");
    if (prunes(o) && strcmp(o->method, "rtn") == 0)
        return BB_FAIL(err, BB_USAGE, "--method rtn has no calibration, which says what to prune; --method weighted does with the least");
    if (o->no_compensation && strcmp(o->method, "sequential") == 0)
        return BB_FAIL(err, BB_USAGE, "--method sequential compensates by itself: --no-compensation goes with weighted or feedback");
    if (has(o->imatrix) && prunes(o))
        return BB_FAIL(err, BB_USAGE, "--imatrix has the diagonal of the second moments only, and pruning needs all of them: give --calib instead");
    if (has(o->imatrix) && strcmp(o->rotate, "none") != 0)
        return BB_FAIL(err, BB_USAGE, "--imatrix is of the inputs before a rotation: --rotate goes with --calib");
    if (is_lattice(o)) {
        if (!o->experimental)
            return BB_FAIL(err, BB_USAGE, "--format: LC2 is a type of bitbudget alone, which llama.cpp does not read: --experimental-formats allows it");
        if (strcmp(o->method, "sequential") != 0 || has(o->like) || has(o->recipe) || has(o->imatrix) || prunes(o))
            return BB_FAIL(err, BB_USAGE, "--format LC2 is for all linears and --method sequential: it goes with no --like, --recipe, --imatrix or pruning");
    }
    if (has(o->format) && has(o->like)) return BB_FAIL(err, BB_USAGE, "--format and --like both give a type to every matrix: choose one");
    return BB_OK;
}

static bb_status refuse_idle(const job *j, int argc, char **argv, bb_err *err)
{
    static const char       no_calibration[] = "with --method rtn, which has no calibration";
    const quantize_options *o = &j->o;
    static const char       diagonal[] = "with --imatrix, which has the diagonal of the second moments only: error feedback needs all of them (--calib)";
    const char             *method = has(o->imatrix) ? "weighted" : o->method;
    const bool              rtn = strcmp(method, "rtn") == 0, sequential = strcmp(method, "sequential") == 0;
    const bool              feedback = sequential || strcmp(method, "feedback") == 0;
    const char             *no_text = rtn ? "with --method rtn and without --eval: no text is read" : "with --imatrix and without --eval: no text is read";
    const bb_idle_option    unused[] = {
           { "--calib", no_calibration, rtn },
           { "--calib-windows", no_calibration, rtn },
           { "--database", no_calibration, rtn },
           { "--damping", no_calibration, rtn },
           { "--sweeps", no_calibration, rtn },
           { "--seed", "with --method rtn and without --rotate: nothing is random", rtn && strcmp(o->rotate, "none") == 0 },
           { "--seed", "with --imatrix: nothing is random", has(o->imatrix) },
           { "--output-windows", "with a --method that rebuilds nothing", !sequential || is_lattice(o) },
           { "--damping", "with --method weighted, which has no Hessian", !rtn && !feedback && !prunes(o) },
           { "--sweeps", "with --method weighted, which has no error feedback", !rtn && !feedback },
           { "--parse-special", no_text, rounds(o) && !has(o->eval) },
           { "--ctx", no_text, rounds(o) && !has(o->eval) },
           { "--protocol", no_text, rounds(o) && !has(o->eval) },
           { "--effort", no_text, rounds(o) && !has(o->eval) },
           { "--precision", no_text, rounds(o) && !has(o->eval) },
    };
    const bb_idle_option idle[] = {
        { "--method", diagonal, has(o->imatrix) && strcmp(o->method, "weighted") != 0 },
        { "--calib", "with --imatrix, which stands in its place", has(o->imatrix) },
        { "--calib-windows", "with --imatrix, which stands in its place", has(o->imatrix) },
        { "--database", "with --imatrix, which needs no second moments", has(o->imatrix) },
        { "--embd-format", "with --like, which has a type for every matrix", has(o->like) },
        { "--eval-windows", "without --eval", !has(o->eval) },
        { "--no-compensation", "without --prune-ffn or --prune-kv", !prunes(o) },
        { "--width-order", "without --prune-ffn or --prune-kv", !prunes(o) },
        { "--ffn-widths", "without --prune-ffn", !(o->prune_ffn > 0) },
        { "--csv", "with --json", o->json },
    };
    bb_command_warn_idle(argc, argv, unused, sizeof unused / sizeof *unused);
    return bb_command_refuse_idle(argc, argv, idle, sizeof idle / sizeof *idle, err);
}

static bb_status rotate(job *j, bb_err *err)
{
    const char *which = j->o.rotate;
    unsigned    flags = strcmp(which, "r1") == 0 ? BB_ROTATE_STREAM : strcmp(which, "r2") == 0 ? BB_ROTATE_VALUES : BB_ROTATE_STREAM | BB_ROTATE_VALUES;
    bb_status   status;
    j->base = &j->m;
    if (strcmp(which, "none") == 0) return BB_OK;
    BB_TRY(bb_rotate(&j->m, flags, (uint64_t)j->o.seed, &j->rotated, err));
    j->base = &j->rotated.model;
done:
    return status;
}

static bb_status shape_of_plan(job *j, bb_err *err)
{
    static const bb_lattice no_lattice = { NULL, NULL }; /* for sizes alone */
    bb_status               status;
    bb_plan_hash(&j->plan, j->hash);
    BB_TRY(bb_plan_shape(j->base, &j->plan, &j->net, j->blocks, err));
    for (uint32_t i = 0; is_lattice(&j->o) && i < j->net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            j->blocks[i].w[p].type = BB_F32;
            j->blocks[i].w[p].lattice = &no_lattice;
        }
    BB_TRY(bb_export_check(j->base, &j->net, err));
    BB_TRY(bb_export_size(j->base, &j->net, &j->bytes, err));
done:
    return status;
}

static bool by_gates(const job *j) { return strcmp(j->o.width_order, "gates") == 0; }
static bool widths_by_gates(const job *j) { return j->o.prune_ffn > 0 && strcmp(j->o.ffn_widths, "gates") == 0; }
static bool widths_differ(const job *j) { return j->o.prune_ffn > 0 && strcmp(j->o.ffn_widths, "even") != 0; }

static bb_status set_kept(job *j, uint32_t layer, bb_sublayer s, uint32_t kept, bb_err *err)
{
    const bool gated = by_gates(j) && kept > 0 && kept < bb_block_kept(&j->base->net.blocks[layer], s);
    char       unit[64], option[16];
    snprintf(unit, sizeof unit, "blk.%u.%s", layer, bb_sublayers[s].unit);
    snprintf(option, sizeof option, "%u%s", kept, gated ? "g" : "");
    return bb_plan_set(&j->plan, unit, option, err);
}

/* The same share of channels in every block with an FFN; one at least stays. */
static bb_status prune_ffn(job *j, bb_err *err)
{
    bb_status status = BB_OK;
    for (uint32_t i = 0; i < j->base->net.n_layer && j->o.prune_ffn > 0 && !widths_differ(j); i++) {
        uint32_t n = j->base->net.blocks[i].n_ff, gone = (uint32_t)(j->o.prune_ffn * n + 0.5);
        if (n) BB_TRY(set_kept(j, i, BB_FFN, n - gone ? n - gone : 1, err));
    }
done:
    return status;
}

/* Types, size and whether the runtime can load them: everything that can be refused at once. */
static bb_status plan_file(job *j, bb_err *err)
{
    const quantize_options *o = &j->o;
    bb_tensor_types         t = { is_lattice(o) ? NULL : o->format,
                          has(o->embd_format) ? o->embd_format
                                  : has(o->format)    ? "Q6_K"
                                                      : NULL,
                          o->like, o->recipe, o->experimental };
    bb_status status;
    BB_TRY(bb_model_open(j->path, &j->m, err));
    BB_TRY(bb_model_refuse_lattice(&j->m, err));
    if (!rounds(o)) BB_TRY(bb_calibration_choose(&j->m, &j->o.calib, err));
    BB_TRY(rotate(j, err));
    if (j->base != &j->m) BB_TRY(bb_tensor_types_plan(&(bb_tensor_types) { .like = j->path }, &j->m, &j->plan, err)); /* float32 only inside */
    if (j->base->net.head.rows && !j->m.net.head.rows) BB_TRY(bb_plan_set(&j->plan, "output", bb_format_get(j->m.net.embd.type)->name, err));
    BB_TRY(bb_tensor_types_plan(&t, j->base, &j->plan, err));
    BB_TRY(prune_ffn(j, err));
    status = BB_NOMEM;
    if (!(j->blocks = BB_NEW(j->base->net.n_layer, bb_block, err))) goto done;
    BB_TRY(shape_of_plan(j, err));
    BB_TRY(bb_model_check_weights(&j->m, true, &j->net, err));
    j->ctx = (uint32_t)o->ctx;
    if (j->ctx > j->m.net.n_ctx_train) {
        if (!rounds(o) || has(o->eval)) bb_warn("--ctx %u is longer than the model was trained for: %u is used", j->ctx, j->m.net.n_ctx_train);
        j->ctx = j->m.net.n_ctx_train;
    }
done:
    return status;
}

/* ---- the work folder ---- */

/* Bytes that second moments and matrices will take there, at most. */
static uint64_t work_bytes(const job *j)
{
    const bb_net *net = &j->base->net;
    const bool    calibrated = !rounds(&j->o);
    uint64_t      sum = j->bytes + (calibrated ? (uint64_t)net->n_embd * net->n_embd * sizeof(float) : 0);
    for (uint32_t i = 0; i < net->n_layer && calibrated; i++) {
        for (int k = 0; k < BB_N_FEEDS; k++) {
            const uint64_t cols = k < BB_FEED_TOKEN || net->blocks[i].n_token ? bb_dim_of(net, &net->blocks[i], bb_feeds[k].width) : 0;
            sum += cols * cols * sizeof(float);
        }
    }
    return sum;
}

static bb_status open_work(job *j, bb_err *err)
{
    const quantize_options *o = &j->o;
    char                   *lock = NULL, size[32];
    bb_status               status = BB_NOMEM;
    if (!(j->work = has(o->database) ? bb_strdup(o->database, err) : bb_asprintf(err, "%s.work", o->out))) goto done;
    BB_TRY(bb_make_dirs(j->work, err));
    if (!has(o->database)) { /* a shared one may be used by many: its files are whole or not there */
        status = BB_NOMEM;
        if (!(lock = bb_asprintf(err, "%s/work.lock", j->work))) goto done;
        BB_TRY(bb_lock_take(&j->lock, lock, err));
    }
    if (j->spills) {
        BB_TRY(bb_spill_to(j->work, err));
        bb_info("hidden states are kept in files of %s: --max-ram has no room for them", j->work);
    }
    bb_format_size(work_bytes(j), size);
    bb_info("what is finished is kept in %s (up to %s%s): after an interruption the same command goes on", j->work, size,
            has(o->database) ? "" : ", removed at the end");
done:
    bb_free(lock);
    return status;
}

/* ---- round to nearest, or by the importance of a file ---- */

/* What a matrix is called in an importance matrix; NULL: its name is not in the file. */
static const bb_importance *importance_of(const job *j, uint32_t layer, int part)
{
    const char *fused = j->base->net.arch->fused[bb_parts[part].feed];
    char        name[64];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, fused ? fused : bb_parts[part].name);
    return bb_imatrix_find(&j->imatrix, name);
}

/* Of the head; a tied embedding is the head as well. */
static const bb_importance *importance_outside(const job *j, bool head)
{
    const bb_importance *e = bb_imatrix_find(&j->imatrix, head ? "output.weight" : "token_embd.weight");
    return e || head || j->base->net.head.rows ? e : bb_imatrix_find(&j->imatrix, "output.weight");
}

static bb_status check_length(const job *j, const bb_importance *e, const bb_matrix *w, bb_err *err)
{
    if (!e || e->n == w->cols) return BB_OK;
    return BB_FAIL(err, BB_BAD_FILE, "%s: '%s' has %llu values and rows of the matrix have %u weights: it is of another model", j->o.imatrix, e->name,
                   (unsigned long long)e->n, w->cols);
}

/* Reads the file, refuses that of another model, tells of holes. */
static bb_status load_imatrix(job *j, bb_err *err)
{
    const bb_net *net = &j->base->net;
    uint32_t      n = 0, missing = 0, empty = 0;
    char          first[64] = "";
    bb_status     status;
    BB_TRY(bb_imatrix_load(j->o.imatrix, &j->imatrix, err));
    for (size_t i = 0; i < j->imatrix.n; i++) {
        unsigned block;
        if (sscanf(j->imatrix.entries[i].name, "blk.%u.", &block) == 1 && block >= net->n_layer) {
            status = BB_FAIL(err, BB_BAD_FILE, "%s has an entry '%s' and the model has %u blocks: it is of another model", j->o.imatrix,
                             j->imatrix.entries[i].name, net->n_layer);
            goto done;
        }
    }
    BB_TRY(check_length(j, importance_outside(j, false), &net->embd, err));
    if (net->head.rows) BB_TRY(check_length(j, importance_outside(j, true), &net->head, err));
    for (uint32_t i = 0; i < net->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            const bb_importance *e = importance_of(j, i, p);
            if (!net->blocks[i].w[p].rows) continue;
            BB_TRY(check_length(j, e, &net->blocks[i].w[p], err));
            n++;
            missing += !e;
            empty += e && !e->mean;
            if ((!e || !e->mean) && !*first) snprintf(first, sizeof first, "blk.%u.%s", i, bb_parts[p].name);
        }
    if (missing == n) {
        status = BB_FAIL(err, BB_BAD_FILE, "%s has no entry for any matrix of the model's blocks ('%s' is one that it has)", j->o.imatrix,
                         j->imatrix.entries[0].name);
        goto done;
    }
    if (missing || empty)
        bb_warn("%s: of %u matrices %u have no entry and %u one that says nothing (a count of zero, or zeros only), %s is the first: their weights count alike",
                j->o.imatrix, n, missing, empty, first);
done:
    return status;
}

/* packed := w (rows, cols), each column counting by its importance. */
static void encode_by(const bb_importance *e, const float *dense, const bb_matrix *w, unsigned char *packed)
{
    const bb_format *f = bb_format_get(w->type);
    const size_t     bytes = bb_format_row_bytes(f, w->cols);
#pragma omp parallel for schedule(dynamic)
    for (uint32_t r = 0; r < w->rows; r++) f->encode(dense + (size_t)r * w->cols, e ? e->mean : NULL, packed + r * bytes, w->cols);
}

static bb_status round_matrix(job *j, const bb_importance *e, const bb_matrix *source, bb_matrix *w, bb_err *err)
{
    const bb_quant_options o = { .method = BB_METHOD_RTN };
    const uint32_t         index = (uint32_t)j->n_packed;
    float                 *dense = NULL;
    bool                   found;
    bb_status              status = BB_NOMEM;
    w->data = source->data;
    if (w->rows == 0 || w->type == source->type) return BB_OK;
    if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted; the same command goes on");
    const size_t bytes = w->rows * bb_format_row_bytes(bb_format_get(w->type), w->cols);
    void        *packed = bb_alloc(bytes, 1, err);
    if (!packed) return BB_NOMEM;
    w->data = j->packed[j->n_packed++] = packed;
    BB_TRY(bb_checkpoint_load(&j->rounded, index, packed, bytes, &found, err));
    if (found) goto done;
    if (!j->imatrix.n || source == &j->base->net.token.table) BB_TRY(bb_quantize_matrix(source, NULL, NULL, w->type, &o, packed, NULL, err));
    else {
        status = BB_NOMEM;
        if (!(dense = bb_matrix_decode(source, err))) goto done;
        status = BB_OK;
        encode_by(e, dense, w, packed);
    }
    BB_TRY(bb_checkpoint_save(&j->rounded, index, packed, bytes, err));
done:
    bb_free(dense);
    return status;
}

static bb_status round_all(job *j, bb_err *err)
{
    const bb_net  *from = &j->base->net;
    const uint32_t n = from->n_layer * BB_N_PARTS + 3;
    bb_progress    progress;
    bb_sha256      s;
    char           hex[65];
    bb_status      status = BB_NOMEM;
    bb_sha256_init(&s);
    bb_sha256_text(&s, j->imatrix.n ? "by importance 1" : "round to nearest 1");
    bb_sha256_text(&s, j->imatrix.sha256);
    bb_sha256_text(&s, bb_model_sha256(j->base));
    bb_sha256_text(&s, j->hash);
    bb_sha256_text(&s, bb_kernels_bits());
    bb_sha256_hex(&s, hex);
    if (!(j->packed = BB_NEW0(n, void *, err))) goto done;
    BB_TRY(open_work(j, err));
    BB_TRY(bb_checkpoint_open(j->work, hex, n, &j->rounded, err));
    bb_progress_start(&progress, "round matrices", n);
    BB_TRY(round_matrix(j, importance_outside(j, false), &from->embd, &j->net.embd, err));
    BB_TRY(round_matrix(j, importance_outside(j, true), &from->head, &j->net.head, err));
    BB_TRY(round_matrix(j, NULL, &from->token.table, &j->net.token.table, err));
    bb_progress_add(&progress, 3);
    for (uint32_t i = 0; i < from->n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++, bb_progress_add(&progress, 1))
            BB_TRY(round_matrix(j, importance_of(j, i, p), &from->blocks[i].w[p], &j->blocks[i].w[p], err));
    bb_progress_end(&progress);
done:
    return status;
}

/* ---- with calibration ---- */

static bb_status load_windows(job *j, bb_err *err)
{
    const quantize_options *o = &j->o;
    int32_t                 bos;
    bb_status               status;
    BB_TRY(open_work(j, err));
    BB_TRY(bb_calibration_tokens(&j->m, o->calib, j->work, (uint32_t)o->calib_windows, j->ctx, (uint64_t)o->seed, o->parse_special, &j->tokens, err));
    BB_TRY(bb_tokens_bos(&j->m, &bos, err));
    BB_TRY(bb_windows_make(&j->tokens, bb_protocol_named(j->o.protocol), j->ctx, bos, (uint32_t)o->calib_windows, true, &j->calib, err));
done:
    return status;
}

/* What the attention output of a block loses when only kept groups are left, relatively or, by gates, as the end of the network feels it. */
static bb_status kv_loss(job *j, uint32_t layer, uint32_t kept, double *loss, bb_err *err)
{
    bb_matrix       w;
    bb_quant_stats  stats;
    const bb_block *b = &j->base->net.blocks[layer];
    bb_status       status = BB_OK;
    if (by_gates(j)) { /* in nats: what the end of the network is foreseen to lose */
        *loss = j->gates.nats[layer][BB_ATTENTION][kept - 1];
        return BB_OK;
    }
    BB_TRY(bb_database_matrix(j->database, layer, BB_PART_O, kept, BB_F16, &w, &stats, err));
    *loss = kept == b->n_kv ? 0 : stats.error; /* F16's own rounding is nothing beside it */
done:
    return status;
}

/* The share of all KV groups, one after the other where the next one adds least to the loss of its block; each block keeps one. */
static bb_status prune_kv(job *j, bb_err *err)
{
    const bb_net *net = &j->base->net;
    uint32_t     *kept = BB_NEW(net->n_layer, uint32_t, err), total = 0;
    bb_status     status = BB_NOMEM;
    if (!kept) goto done;
    for (uint32_t i = 0; i < net->n_layer; i++) total += kept[i] = net->blocks[i].n_kv;
    for (uint32_t gone = (uint32_t)(j->o.prune_kv * total + 0.5); gone > 0; gone--) {
        uint32_t best = UINT32_MAX;
        double   least = (double)INFINITY;
        if (bb_interrupted()) {
            status = BB_FAIL(err, BB_INTERRUPTED, "interrupted; the same command goes on");
            goto done;
        }
        for (uint32_t i = 0; i < net->n_layer; i++) {
            double now, then;
            if (kept[i] < 2) continue;
            BB_TRY(kv_loss(j, i, kept[i], &now, err));
            BB_TRY(kv_loss(j, i, kept[i] - 1, &then, err));
            if (then - now < least) {
                least = then - now;
                best = i;
            }
        }
        if (best == UINT32_MAX) {
            bb_warn("--prune-kv %g would remove %u more KV groups; one is left in every block, and stays", j->o.prune_kv, gone);
            break;
        }
        BB_TRY(set_kept(j, best, BB_ATTENTION, --kept[best], err));
    }
    BB_TRY(shape_of_plan(j, err));
done:
    bb_free(kept);
    return status;
}

/* The share of all channels, one grain after the other where it costs least: nats that the gates foresee, or relative error of the block; each block keeps one. */
static bb_status prune_ffn_together(job *j, bb_err *err)
{
    const bb_net *net = &j->base->net;
    uint32_t     *kept = BB_NEW(net->n_layer, uint32_t, err);
    double        total = 0;
    bb_status     status = BB_NOMEM;
    if (!kept) goto done;
    for (uint32_t i = 0; i < net->n_layer; i++) total += kept[i] = net->blocks[i].n_ff;
    for (double gone = j->o.prune_ffn * total; gone > 0;) {
        uint32_t best = UINT32_MAX, grain = 0;
        double   least = (double)INFINITY;
        for (uint32_t i = 0; i < net->n_layer; i++) {
            const uint32_t n = bb_format_get(j->net.blocks[i].w[BB_PART_DOWN].type)->block;
            if (kept[i] <= n) continue;
            const double *cost = widths_by_gates(j) ? j->gates.nats[i][BB_FFN] : bb_database_order_error(j->database, i, BB_FFN);
            const double  loss = (cost[kept[i] - n - 1] - cost[kept[i] - 1]) / n;
            if (!(loss < least)) continue;
            least = loss;
            best = i;
            grain = n;
        }
        if (best == UINT32_MAX && gone >= 0.5)
            bb_warn("--prune-ffn %g would remove %.0f more FFN channels; what one block of the type holds is left in each FFN, and stays", j->o.prune_ffn,
                    gone);
        if (best == UINT32_MAX || grain > gone + 0.5) break;
        kept[best] -= grain;
        gone -= grain;
    }
    for (uint32_t i = 0; i < net->n_layer; i++)
        if (kept[i]) BB_TRY(set_kept(j, i, BB_FFN, kept[i], err));
    BB_TRY(shape_of_plan(j, err));
done:
    bb_free(kept);
    return status;
}

/* Every matrix of the plan into the database, which then only maps them. */
static bb_status encode_matrices(job *j, bb_err *err)
{
    bb_progress progress;
    bb_matrix   made;
    bb_status   status = BB_OK;
    bb_progress_start(&progress, "encode matrices", (uint64_t)j->net.n_layer * BB_N_PARTS);
    for (uint32_t i = 0; i < j->net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++, bb_progress_add(&progress, 1)) {
            const bb_block *b = &j->blocks[i];
            if (bb_interrupted()) return BB_FAIL(err, BB_INTERRUPTED, "interrupted; the same command goes on");
            if (b->w[p].rows) BB_TRY(bb_database_matrix(j->database, i, (bb_part)p, bb_part_width(b, (bb_part)p), b->w[p].type, &made, NULL, err));
        }
    bb_progress_end(&progress);
    BB_TRY(bb_database_apply(j->database, &j->plan, &j->net, j->blocks, err));
done:
    return status;
}

static bb_status encode_all(job *j, bb_err *err)
{
    const quantize_options  *o = &j->o;
    const bb_quant_options   quant = { bb_calibration_method(o->method), o->damping, (unsigned)o->sweeps };
    const bb_lattice_options lattice = { (uint64_t)o->seed, o->damping, (unsigned)o->sweeps };
    bb_status                status;
    BB_TRY(load_windows(j, err));
    const bb_database_config config = { .dir = j->work,
                                        .model = j->base,
                                        .backend = bb_engine_backend(),
                                        .tokens = j->calib.tokens,
                                        .n_windows = j->calib.n,
                                        .ctx = j->ctx,
                                        .quant = quant,
                                        .ffn_step = bb_calibration_ffn_step(&j->base->net),
                                        .whole = !prunes(o),
                                        .cut = o->no_compensation };
    BB_TRY(bb_database_open(&config, &j->database, err));
    if (prunes(o) && (by_gates(j) || widths_by_gates(j)))
        BB_TRY(bb_learn_gates(j->base, bb_engine_backend(), j->database, &j->calib, (uint64_t)o->seed, &j->gates, err));
    if (widths_differ(j)) BB_TRY(prune_ffn_together(j, err));
    if (o->prune_kv > 0) BB_TRY(prune_kv(j, err));
    if (is_lattice(o)) {
        BB_TRY(bb_rebuild_lattice(j->database, j->base, &j->plan, j->calib.tokens, j->calib.n, j->ctx, &lattice, &j->rebuilt, err));
        j->net = j->rebuilt.net;
    } else if (strcmp(o->method, "sequential") == 0) {
        BB_TRY(bb_couple_rows(j->base, bb_engine_backend(), j->database, &j->calib, (uint32_t)o->output_windows, (uint64_t)o->seed, err));
        BB_TRY(bb_rebuild(j->database, j->base, &j->plan, j->calib.tokens, j->calib.n, j->ctx, &quant, NULL, &j->rebuilt, err));
        j->net = j->rebuilt.net;
    } else BB_TRY(encode_matrices(j, err));
done:
    return status;
}

/* ---- the file ---- */

static bb_status same_matrix(const bb_matrix *a, const bb_matrix *b, bool permuted, const char *path, const char *name, bb_err *err)
{
    if (a->rows == b->rows && (a->rows == 0 || (a->cols == b->cols && a->type == b->type &&
                                                (permuted || memcmp(a->data, b->data, a->rows * bb_format_row_bytes(bb_format_get(a->type), a->cols)) == 0))))
        return BB_OK;
    return BB_FAIL(err, BB_GUARD, "%s: %s is not what was written: the disk or the memory is faulty", path, name);
}

/* The file read back has the promised size and, byte for byte, the matrices of j->net. */
static bb_status check_file(const job *j, const char *path, bb_err *err)
{
    bb_model  back = { 0 };
    bb_err    inner = BB_ERR_INIT;
    uint64_t  bytes;
    char      name[64];
    bb_status status;
    BB_TRY(bb_file_size(path, &bytes, err));
    if (bytes != j->bytes) {
        status = BB_FAIL(err, BB_GUARD, "%s: %llu bytes were written, %llu were counted", path, (unsigned long long)bytes, (unsigned long long)j->bytes);
        goto done;
    }
    BB_TRY(bb_model_open(path, &back, err));
    if ((status = bb_model_check_weights(&back, false, NULL, &inner)) != BB_OK) {
        if (status != BB_INTERRUPTED && status != BB_NOMEM) status = BB_FAIL(err, BB_GUARD, "%s (after quantizing: no weight of the source is so)", inner.msg);
        else BB_FAIL(err, status, "%s", inner.msg);
        goto done;
    }
    BB_TRY(same_matrix(&j->net.embd, &back.net.embd, false, path, "token_embd", err));
    BB_TRY(same_matrix(&j->net.head, &back.net.head, false, path, "output", err));
    BB_TRY(same_matrix(&j->net.token.table, &back.net.token.table, false, path, bb_token_names[BB_TOKEN_TABLE], err));
    for (uint32_t i = 0; i < j->net.n_layer; i++)
        for (int p = 0; p < BB_N_PARTS; p++) {
            snprintf(name, sizeof name, "blk.%u.%s", i, bb_parts[p].name);
            /* A pruned qwen2 is written with the rows of q and k in another rotary order. */
            BB_TRY(
                same_matrix(&j->net.blocks[i].w[p], &back.net.blocks[i].w[p], bb_parts[p].rotated && j->net.rope_neox != back.net.rope_neox, path, name, err));
        }
done:
    bb_model_close(&back);
    return status;
}

static bb_status write_file(const job *j, bb_err *err)
{
    char     *part = bb_temporary_name(j->o.out, err);
    bb_lock   held = { .held = false };
    bb_status status = BB_NOMEM;
    if (!part) return BB_NOMEM;
    const bb_provenance from = {
        .plan = j->hash, .program = bb_version_program(), .calib_sha256 = j->imatrix.n ? j->imatrix.sha256 : j->tokens.sha256, .calib_tokens = j->tokens.n
    };
    BB_TRY(bb_export_write(j->base, &j->net, &from, part, err));
    bb_temporary_hold(&held, part);
    BB_TRY(check_file(j, part, err));
    BB_TRY(bb_file_rename(part, j->o.out, err));
done:
    if (status != BB_OK) unlink(part);
    bb_lock_release(&held);
    bb_free(part);
    return status;
}

/* Files of the option database and calibration samples, by the names they are given. */
static bool is_ours(const char *name)
{
    static const char *const prefixes[] = { "entry-", "moments-", "gates-", "outputs-", "calib-self-", "work.lock", BB_CHECKPOINT_PREFIX };
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return false;
}

/* Of a call without --database; the folder stays when something else is in it. */
static void remove_work(const char *dir)
{
    DIR           *d = opendir(dir);
    struct dirent *e;
    if (!d) return;
    while ((e = readdir(d)))
        if (is_ours(e->d_name)) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    rmdir(dir);
}

/* After a failure what was measured and encoded stays, for the same command to go on; rounding is not worth a folder, nor is nothing at all. */
static void leave_work(const job *j, bb_status status)
{
    DIR *d = opendir(j->work);
    bool any = false;
    for (struct dirent *e; d && (e = readdir(d));) any |= is_ours(e->d_name) && strcmp(e->d_name, "work.lock") != 0;
    if (d) closedir(d);
    if (!any || (status != BB_INTERRUPTED && rounds(&j->o))) remove_work(j->work);
}

/* ---- evaluation ---- */

static bb_status load_eval(job *j, bb_err *err)
{
    bb_err    why = BB_ERR_INIT;
    int32_t   bos;
    bb_status status;
    BB_TRY(bb_tokens_load(&j->m, j->o.eval, j->o.parse_special, &j->eval_tokens, err));
    BB_TRY(bb_tokens_bos(&j->m, &bos, err));
    status = bb_windows_make(&j->eval_tokens, bb_protocol_named(j->o.protocol), j->ctx, bos, (uint32_t)j->o.eval_windows, true, &j->eval, &why);
    if (status != BB_OK) BB_FAIL(err, status, "%s: %s", j->o.eval, why.msg);
done:
    return status;
}

static bb_status evaluate(job *j, bb_err *err)
{
    bb_model  small = { 0 };
    bb_status status;
    BB_TRY(bb_model_open(j->o.out, &small, err));
    if (strcmp(j->eval_tokens.sha256, j->tokens.sha256) == 0) bb_warn("evaluation and calibration text are the same: the numbers flatter the file");
    BB_TRY(bb_evaluate(bb_engine_backend(), &small.net, &j->m.net, &j->eval, "evaluate", &j->result, NULL, NULL, err));
done:
    bb_model_close(&small);
    return status;
}

/* What would fail only when the work is done: the place of the file, its size, the evaluation text. */
static bb_status check_ends(job *j, bb_err *err)
{
    const quantize_options *o = &j->o;
    bb_calibration_source  *calib = NULL;
    bb_input               *inputs = NULL;
    size_t                  n = 0, n_inputs = 0;
    bb_status               status = BB_OK;
    if (!rounds(o)) BB_TRY(bb_calibration_sources(o->calib, &calib, &n, err));
    status = BB_NOMEM;
    if (!(inputs = BB_NEW(n + 5, bb_input, err))) goto done;
    inputs[n_inputs++] = (bb_input) { "the source model", j->path };
    for (size_t i = 0; i < n; i++) inputs[n_inputs++] = (bb_input) { "the calibration text", calib[i].path };
    inputs[n_inputs++] = (bb_input) { "the evaluation text", o->eval };
    inputs[n_inputs++] = (bb_input) { "the file of --like", o->like };
    inputs[n_inputs++] = (bb_input) { "the recipe", o->recipe };
    inputs[n_inputs++] = (bb_input) { "the importance matrix", o->imatrix };
    BB_TRY(bb_output_check("--out", o->out, BB_OUTPUT_MODEL, NULL, inputs, n_inputs, err));
    BB_TRY(bb_output_fits(o->out, j->bytes, err));
    if (has(o->database)) BB_TRY(bb_folder_check_output(o->database, err));
    if (has(o->eval)) BB_TRY(load_eval(j, err));
done:
    bb_calibration_sources_done(calib, n);
    bb_free(inputs);
    return status;
}

/* ---- what is said ---- */

/* The file's name without folder and ending, fit for a CSV cell. */
static char *stem_of(const char *path, bb_err *err)
{
    const char *name = strrchr(path, '/'), *dot;
    char       *stem;
    name = name ? name + 1 : path;
    dot = strrchr(name, '.');
    stem = bb_asprintf(err, "%.*s", (int)(dot && dot > name ? (size_t)(dot - name) : strlen(name)), name);
    for (char *c = stem; c && *c; c++)
        if (strchr(",\"\r\n", *c)) *c = '_';
    return stem;
}

/* "IQ2_XS", "like:OTHER", "recipe:FILE", or "IQ2_XS+recipe:FILE"; "+r1" behind it when rotated. */
static char *label_of(const job *j, bb_err *err)
{
    const quantize_options *o = &j->o;
    const char             *base = is_lattice(o) ? "LC2" : has(o->format) ? bb_format_find(o->format)->name : NULL;
    char                   *like = has(o->like) ? stem_of(o->like, err) : NULL, *recipe = has(o->recipe) ? stem_of(o->recipe, err) : NULL, *label = NULL;
    if ((like || !has(o->like)) && (recipe || !has(o->recipe)))
        label = bb_asprintf(err, "%s%s%s%s%s%s%s", base ? base : "", like ? "like:" : "", like ? like : "",
                            recipe ? (base || like ? "+recipe:" : "recipe:") : "",
                            recipe                        ? recipe
                            : prunes(o) && !base && !like ? "source"
                                                          : "",
                            j->base == &j->m ? "" : "+", j->base == &j->m ? "" : o->rotate);
    bb_free(like);
    bb_free(recipe);
    return label;
}

static const char *method_of(const job *j) { return has(j->o.imatrix) ? "imatrix" : j->o.method; }

static void print_csv(const job *j, const char *model, const char *label, double bpw)
{
    const double v[4] = { j->result.kl, j->result.kl_se, j->result.ppl, j->result.ppl_se };
    printf("model,format,method,size_bytes,bpw,kl_nats,kl_se,ppl,ppl_se\n%s,%s,%s,%llu,%.4f", model, label, method_of(j), (unsigned long long)j->bytes, bpw);
    for (int i = 0; i < 4; i++) {
        if (has(j->o.eval)) printf(",%.9g", v[i]);
        else printf(",");
    }
    printf("\n");
}

static bb_status print_json(const job *j, const char *model, const char *label, double bpw, bb_err *err)
{
    const bb_result *r = &j->result;
    json_t *root = json_pack("{s:o, s:o, s:s, s:o, s:I, s:f}", "model", bb_json_text(model), "format", bb_json_text(label), "method", method_of(j), "file",
                             bb_json_text(j->o.out), "size_bytes", (json_int_t)j->bytes, "bpw", bpw);
    if (root && has(j->o.eval)) {
        json_object_set_new(root, "n_tokens", json_integer((json_int_t)r->n_tokens));
        json_object_set_new(root, "kl_nats", json_real(r->kl));
        json_object_set_new(root, "kl_se", json_real(r->kl_se));
        json_object_set_new(root, "ppl", json_real(r->ppl));
        json_object_set_new(root, "ppl_se", json_real(r->ppl_se));
        json_object_set_new(root, "ppl_full", json_real(exp(r->nll - r->ln_ratio)));
        json_object_set_new(root, "top1", json_real(r->top1));
    }
    int failed = !root || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) || putchar('\n') == EOF;
    json_decref(root);
    return failed ? BB_FAIL(err, BB_IO, "standard output could not be written") : BB_OK;
}

static bb_status print_result(const job *j, bb_err *err)
{
    char     *model = stem_of(j->path, err), *label = label_of(j, err), source[BB_MODEL_LABEL];
    double    bpw = 8 * (double)j->bytes / (double)bb_model_n_weights(&j->m);
    bb_status status = model && label ? BB_OK : BB_NOMEM;
    if (status != BB_OK) goto done;
    if (j->o.json) status = print_json(j, model, label, bpw, err);
    else if (j->o.csv) print_csv(j, model, label, bpw);
    else {
        printf("%s: %llu bytes, %.3f bits a weight (%s, %s)\n", j->o.out, (unsigned long long)j->bytes, bpw, label, method_of(j));
        if (has(j->o.eval))
            printf("KL %.5f +- %.5f nats a token, perplexity %.3f +- %.3f (%s %.3f), same top token %.1f %%\n", j->result.kl, j->result.kl_se, j->result.ppl,
                   j->result.ppl_se, bb_model_source_label(&j->m, source), exp(j->result.nll - j->result.ln_ratio), 100 * j->result.top1);
    }
done:
    bb_free(model);
    bb_free(label);
    return status;
}

/* ---- the command ---- */

static void job_done(job *j)
{
    for (size_t i = 0; i < j->n_packed; i++) bb_free(j->packed[i]);
    bb_free(j->packed);
    bb_free(j->blocks);
    bb_rebuilt_done(&j->rebuilt);
    bb_checkpoint_close(&j->rounded);
    bb_imatrix_done(&j->imatrix);
    bb_database_close(j->database);
    bb_gates_done(&j->gates);
    bb_windows_done(&j->calib);
    bb_windows_done(&j->eval);
    bb_tokens_done(&j->tokens);
    bb_tokens_done(&j->eval_tokens);
    bb_lock_release(&j->lock);
    bb_plan_done(&j->plan);
    bb_rotated_done(&j->rotated);
    bb_model_close(&j->m);
    bb_free(j->work);
    bb_options_done(rows, N_ROWS, &j->o);
}

static uint64_t memory_of(const job *j, bool on_disk)
{
    const quantize_options *o = &j->o;
    return bb_memory_to_quantize(&j->base->net, rounds(o) ? 0 : (uint32_t)o->calib_windows, j->ctx, strcmp(o->method, "sequential") == 0,
                                 prunes(o) && (by_gates(j) || widths_by_gates(j)), is_lattice(o) ? 0 : (uint32_t)o->output_windows, j->base != &j->m, j->bytes,
                                 on_disk);
}

static bb_status check_memory(job *j, bb_err *err)
{
    const quantize_options *o = &j->o;
    j->spills = o->max_ram && o->max_ram < memory_of(j, false);
    bb_map_limit(o->max_ram);
    return bb_memory_allows(o->max_ram, memory_of(j, true), "quantizing", "a smaller --ctx, another --method or fewer --threads", err);
}

static bb_status run(int argc, char **argv, bb_err *err)
{
    job       j = { .path = NULL };
    size_t    n = 0;
    char     *note = NULL;
    bb_status status;
    BB_TRY(bb_command_options(&bb_command_quantize, &j.o, argc, argv, &j.path, 1, &n, err));
    BB_TRY(check_options(&j, n, err));
    BB_TRY(refuse_idle(&j, argc, argv, err));
    bb_precision_use(j.o.precision, true);
    BB_TRY(plan_file(&j, err));
    BB_TRY(check_memory(&j, err));
    if (has(j.o.imatrix)) BB_TRY(load_imatrix(&j, err));
    BB_TRY(check_ends(&j, err));
    BB_TRY(rounds(&j.o) ? round_all(&j, err) : encode_all(&j, err));
    BB_TRY(write_file(&j, err));
    bb_spill_to(NULL, NULL);                      /* its folder goes soon */
    if (has(j.o.eval)) BB_TRY(evaluate(&j, err)); /* an interrupted one begins with what is finished */
    bb_checkpoint_remove(&j.rebuilt.checkpoint);
    bb_checkpoint_remove(&j.rounded);
    if (j.work && !has(j.o.database)) remove_work(j.work);
    BB_TRY(print_result(&j, err));
    if (bb_speed_note(&j.net, &note, NULL) == BB_OK && note) bb_info("note: %s", note);
done:
    bb_map_limit(0);
    bb_spill_to(NULL, NULL);
    if (status != BB_OK && j.lock.held) leave_work(&j, status);
    bb_free(note);
    job_done(&j);
    return status;
}

const bb_command bb_command_quantize = {
    .name = "quantize",
    .summary = "write a model in given types, with the best codes we can find; no search",
    .usage = "MODEL.gguf --out FILE.gguf (--format TYPE | --like OTHER.gguf | --recipe FILE | --prune-ffn SHARE | --prune-kv SHARE)",
    .example = "bitbudget quantize model-f16.gguf --format IQ2_XS --calib calib.txt --out small.gguf --eval eval.txt\n"
               "bitbudget quantize model-f16.gguf --like theirs-Q2_K.gguf --calib calib.txt --out better.gguf\n"
               "bitbudget quantize model-f16.gguf --recipe types.txt --method rtn --out rounded.gguf",
    .options = rows,
    .n_options = N_ROWS,
    .run = run,
};
